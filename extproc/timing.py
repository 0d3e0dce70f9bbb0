"""For how long each stage of one call took, for metrics, spans and Server-Timing alike.

A stage that has several pieces, such as the chunks of an answer, is told as one span, so that a long answer costs no
more to tell than a short one. Stages may overlap: a look into the cache waits beside the reservation.
"""

from collections.abc import Callable
from enum import StrEnum
from types import TracebackType
from typing import NamedTuple


class Stage(StrEnum):
    """What the gateway does for a call. The values are names in metrics, spans and headers."""

    IDENTIFY = "identify"  # the request's head: who calls, and what
    READ = "read"  # the request's body as its surface has it, and the model that it names
    SCREEN = "screen"  # redaction and guardrails
    CACHE = "cache"  # a look for an answer that is kept
    SHARE = "share"  # the wait for an answer that another call is just being given
    ROUTE = "route"  # the targets that may serve it, in order
    RESERVE = "reserve"  # room in its limits
    MODERATE = "moderate"  # the service that judges texts, before the call is sent
    FORWARD = "forward"  # the request as the targets get it
    ANSWER = "answer"  # all that is done with the head and the pieces of the answer; not the wait for them
    SETTLE = "settle"  # what is told of it when it has ended

    __hash__ = str.__hash__  # Enum's own is a function of Python, called for every look into a table


class Span(NamedTuple):
    """One stage. Seconds of the clock of the call; `spent` is less than the whole where it had several pieces."""

    began: float
    ended: float
    spent: float


def _standing() -> float:
    return 0.0


class Times:
    """The stages of one call, as they end. A stage never overlaps itself."""

    __slots__ = ("_noted", "clock")

    def __init__(self, clock: Callable[[], float] = _standing) -> None:
        """`clock`: seconds, monotonic, the same as the call's other times; without one all takes no time."""
        self.clock = clock
        self._noted: dict[str, list[float]] = {}  # began, ended, spent: changed in place, for each chunk of an answer

    def of(self, stage: Stage) -> "_Running":
        """Time what is done inside `with`, however it ends."""
        return _Running(self, stage)

    def note(self, stage: Stage, began: float) -> None:
        """A piece of a stage that began then ends now."""
        ended, noted = self.clock(), self._noted
        if stage in noted:
            pieces = noted[stage]
            pieces[1] = ended
            pieces[2] += ended - began
        else:
            noted[stage] = [began, ended, ended - began]

    def ended(self, stage: Stage) -> float | None:
        """When the last piece of a stage so far ended; None where there is none."""
        noted = self._noted.get(stage)
        return None if noted is None else noted[1]

    @property
    def spans(self) -> dict[Stage, Span]:
        """What has ended so far, in the order in which it first did."""
        return {Stage(stage): Span(*noted) for stage, noted in self._noted.items()}

    @property
    def spent(self) -> list[tuple[str, float]]:
        """Only the seconds spent, by the names of the stages: cheaper."""
        return [(stage, noted[2]) for stage, noted in self._noted.items()]


class _Running:
    """One piece of a stage, from when it is made. A class of its own: a generator would take three times as long."""

    __slots__ = ("_began", "_stage", "_times")

    def __init__(self, times: Times, stage: Stage) -> None:
        self._times = times
        self._stage = stage
        self._began = times.clock()

    def __enter__(self) -> None:
        """It runs already."""

    def __exit__(
        self, _kind: type[BaseException] | None, _error: BaseException | None, _where: TracebackType | None
    ) -> None:
        times, stage, began = self._times, self._stage, self._began
        ended, noted = times.clock(), times._noted
        if stage in noted:
            pieces = noted[stage]
            pieces[1] = ended
            pieces[2] += ended - began
        else:
            noted[stage] = [began, ended, ended - began]
