"""The series of configured names, shown at 0 from when they are loaded: what never happens can only be seen so."""

from collections.abc import Iterable, Iterator
from itertools import islice

from prometheus_client import Counter

from extproc.limits.limit import Limit
from extproc.model import Catalogue
from extproc.redaction.policy import Mode
from extproc.telemetry import metrics
from extproc.telemetry.calls import rules
from extproc.telemetry.tally import Labels

_AT_ONCE = 200
"""Some milliseconds' worth: making a series takes ten times what adding to one does, and calls wait meanwhile."""

Series = tuple[Counter, Labels]


def series(catalogue: Catalogue, limits: Iterable[Limit]) -> Iterator[Series]:
    """Those of a configuration, and of the limits that teams have."""
    for limit in (*catalogue.limits, *limits):
        yield metrics.POLICY_CALLS, ("limit", limit.title)
        yield metrics.LIMIT_REFUSALS, (limit.title,)
        yield metrics.LIMIT_SHADOW_REFUSALS, (limit.title,)
        for percent in limit.warn_at:
            yield metrics.LIMIT_WARNINGS, (limit.title, str(percent))
    redaction = [name for name, profile in catalogue.redaction.items() if profile.policy.mode is not Mode.OFF]
    for kind, names in (("redaction", redaction), ("guardrail", [*catalogue.guardrails])):
        yield from ((metrics.POLICY_CALLS, (kind, name)) for name in names)
    for rule in [rule for one in catalogue.guardrails.values() for rule in one.content if rule.mode is not Mode.OFF]:
        yield metrics.VERDICTS, ("content", rule.name, rule.action, rule.mode)
    if catalogue.cache.on:
        yield from ((metrics.POLICY_CALLS, ("cache", name)) for name in rules(catalogue.cache))
    for model in catalogue.listed():
        backends = {target.backend.name for group in model.groups for target in group}
        yield from ((metrics.FAILOVERS, (model.name, backend)) for backend in sorted(backends))


class Declared:
    """Shows the series of one configuration after the other, some at a time."""

    def __init__(self) -> None:
        self._of: object = None
        self._rest: Iterator[Series] = iter(())

    def go_on(self, catalogue: Catalogue, limits: Iterable[Limit], of: object) -> None:
        """Show some more. `of`: what they come from; where it changes, it is their turn once the rest is shown."""
        some = [*islice(self._rest, _AT_ONCE)]
        if not some and of != self._of:
            self._of, self._rest = of, series(catalogue, limits)
            some = [*islice(self._rest, _AT_ONCE)]
        for counter, labels in some:
            counter.labels(*labels)
