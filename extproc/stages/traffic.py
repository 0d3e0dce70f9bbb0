"""What a worker's own calls tell of the targets, and the order inside a group that follows from it.

Envoy's records of attempts would tell it later, to one worker of several, and neither when a stream's first event came
nor how long an answer was. Calls reach the workers evenly, so that each comes to know the same.
"""

from extproc.call import Call
from extproc.model import Ending, Order, Outcome, Target
from extproc.routing.latency import Latency
from extproc.routing.load import Load
from extproc.stages import usage
from extproc.stages.route import Draw

EXPLORED = 0.05
"""The share of calls that go by weight whoever is fastest, so that one that has become fast is seen."""
_BROKEN = frozenset({Ending.FAILED, Ending.STALLED})
_ALIKE = 1.2  # times the shortest: within that weights decide, or all would run to one and back


class Traffic:
    """The calls that are under way, and how fast the last ones were answered. All times in seconds, monotonic."""

    def __init__(self) -> None:
        self._load = Load()
        self._latency = Latency()

    # ---- for new calls ----

    def ordered(self, order: Order, drawn: list[Target], stream: bool, draw: Draw, now: float) -> list[Target]:
        """The targets of a group as `order` wants them; `drawn`: by weight, as they are where nothing else is known."""
        if order is Order.WEIGHTS or len(drawn) < 2:
            return drawn
        if order is Order.LEAST_BUSY:
            return sorted(drawn, key=lambda target: self._load.of(_key(target)) / target.weight)
        return drawn if draw() < EXPLORED else self._fastest(drawn, stream, now)

    def _fastest(self, drawn: list[Target], stream: bool, now: float) -> list[Target]:
        """One that nobody has tried lately is tried by one call; meanwhile others go where it is known to be fast."""
        expected = [self._latency.expected(_key(target), stream, now) for target in drawn]
        near = _ALIKE * min([seconds for seconds in expected if seconds is not None], default=0.0)
        ranked = [self._rank(target, seconds, near) for target, seconds in zip(drawn, expected, strict=True)]
        return [drawn[at] for at in sorted(range(len(drawn)), key=ranked.__getitem__)]

    def _rank(self, target: Target, seconds: float | None, near: float) -> tuple[int, float]:
        if seconds is None:
            return (2 if self._load.of(_key(target)) else 0), 0.0
        return (1, 0.0) if seconds <= near else (3, seconds)

    # ---- from calls ----

    def sent(self, call: Call, now: float) -> None:
        """A call has been sent to the first target of its chain. Of models that go by weight nothing is kept."""
        if call.chain is not None and call.chain.model.order is not Order.WEIGHTS:
            call.sent_at = now
            self._move(call, call.chain.targets[0])

    def answered(self, call: Call) -> None:
        """Its answer begins, perhaps that of a later target."""
        target = None if call.at is None else usage.served(call)
        if target is not None:
            self._move(call, target)

    def ended(self, call: Call, outcome: Outcome, now: float) -> None:
        """Learn from a call, whose `outcome` it is, and let it go."""
        if call.at is None:
            return
        self._load.leave(call.at)
        call.at = None
        if call.form is None:  # how long an upload takes is the client's affair
            self._learn(call, outcome, now)

    def _move(self, call: Call, target: Target) -> None:
        if call.at is not None:
            self._load.leave(call.at)
        call.at = _key(target)
        self._load.enter(call.at)

    def _learn(self, call: Call, outcome: Outcome, now: float) -> None:
        """The whole time counts for the target that the call went to first, whoever answered it in the end."""
        if call.chain is None or call.sent_at is None or call.fallback is not None:
            return  # of a call that another model took over nobody knows how long that took
        first = _key(call.chain.targets[0])
        if _is_unanswered(call, outcome):
            self._latency.unanswered(first, call.stream, now - call.sent_at, now)
        elif outcome.status < 400 and call.heard is not None:  # a request that is wrong is refused in no time
            note = self._latency.served if call.backend == first[0] else self._latency.failed
            note(first, call.stream, call.heard - call.sent_at, outcome.usage.output, now)


def _is_unanswered(call: Call, outcome: Outcome) -> bool:
    """Whether it got no answer worth its time: all failed, it broke, or its caller or the backend left early."""
    if call.backend is None or outcome.status >= 500 or outcome.status == 429:
        return True
    broke_off = outcome.ending is Ending.CUT and (call.heard is None or not call.stream)
    return outcome.status < 400 and (outcome.ending in _BROKEN or broke_off)


def _key(target: Target) -> tuple[str, str]:
    return target.backend.name, target.model
