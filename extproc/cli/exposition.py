"""What /metrics shows: the sums over all workers, those that ended too, without names that are configured no more."""

import logging
import struct
import time
from collections.abc import Callable, Collection, Iterable, Iterator
from pathlib import Path

from prometheus_client import CollectorRegistry, Metric
from prometheus_client.multiprocess import MultiProcessCollector, mark_process_dead
from prometheus_client.registry import Collector

from extproc.config.schema import Gateway

log = logging.getLogger(__name__)

KEPT_S = 600.0
"""For how long a name that is gone is shown still: what its last calls counted is fetched by then."""

_UNREADABLE = (struct.error, RuntimeError, OSError, ValueError)
_TRIES = 5
_PAUSE_S = 0.02  # in which a worker has written the head of a new file

Name = tuple[str, str]
"""A label, and a value that it has."""


def names(gateway: Gateway) -> set[Name]:
    """The names in labels that come from a configuration."""
    backends = gateway.all_backends()
    models = {*gateway.models, *(name for brought in gateway.team_backends.values() for name in brought.models)}
    policies = gateway.policies
    values: dict[str, Iterable[str]] = {
        "backend": backends,
        "sluice_backend": backends,
        "model": models,
        "gen_ai_request_model": models,
        "limit": policies.limits,
        "guardrail": policies.guardrails,
        "policy": {*policies.limits, *policies.redaction, *policies.guardrails},
        "service": gateway.services,
    }
    return {(label, value) for label, all_values in values.items() for value in all_values}


class Exposition(Collector):
    """Reads what workers share in a folder."""

    def __init__(self, folder: Path, gateway: Gateway, clock: Callable[[], float] = time.monotonic) -> None:
        self._shared = MultiProcessCollector(None, path=str(folder))
        self._clock = clock
        self._names = names(gateway)
        self._gone: dict[Name, float] = {}  # and since when
        self._own: set[str] = set()

    def configured(self, gateway: Gateway) -> None:
        """Another configuration is in force."""
        before, self._names = self._names, names(gateway)
        self._gone.update(dict.fromkeys(before - self._names, self._clock()))
        for name in self._names & self._gone.keys():
            del self._gone[name]

    def registry(self, own: Iterable[Collector]) -> CollectorRegistry:
        """With families of this process, which workers have too, and show at 0 where they have no labels."""
        registry = CollectorRegistry()
        own = [*own]
        self._own = {family.name for collector in own for family in collector.collect()}
        for collector in (self, *own):
            registry.register(collector)
        return registry

    def collect(self) -> Iterator[Metric]:
        """The families of all workers."""
        oldest = self._clock() - KEPT_S
        hidden = {name for name, since in list(self._gone.items()) if since <= oldest}
        for family in self._read():
            if family.name in self._own:
                continue
            if hidden:
                family.samples = [sample for sample in family.samples if hidden.isdisjoint(sample.labels.items())]
            yield family

    def describe(self) -> Iterable[Metric]:
        """Nothing beforehand: what there is, the files tell."""
        return ()

    def _read(self) -> Collection[Metric]:
        """Raises what makes a file unreadable: a sum without one worker would look like a counter that began anew."""
        left = _TRIES
        while True:
            left -= 1
            try:
                families: Collection[Metric] = self._shared.collect()
            except _UNREADABLE:
                if not left:
                    raise
                time.sleep(_PAUSE_S)
            else:
                return families


def forget(folder: Path, worker: int) -> None:
    """What a worker that has ended showed of the moment. What it has counted stays, and its next run goes on from it.

    But for files that were torn as it died, which would keep it from starting.
    """
    mark_process_dead(worker, str(folder))
    for file in folder.glob(f"*_{worker}.db"):
        try:
            MultiProcessCollector.merge([str(file)])
        except _UNREADABLE:
            log.error("what worker-%s had counted is lost: %s cannot be read", worker, file.name)
            file.unlink()
