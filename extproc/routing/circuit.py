"""A backend's circuit: closed, open, half-open."""

from collections.abc import Callable
from enum import IntEnum

from extproc.routing.policy import Cooling

_JITTER = 0.2  # the most by which an opening is longer than configured, so that workers do not probe as one


class State(IntEnum):
    """What calls find. The numbers are what operators see."""

    CLOSED = 0
    HALF_OPEN = 1
    OPEN = 2


class Circuit:
    """Closed until a run of failures, then open, then half-open: one probe at a time closes it, or opens it for longer.

    `chance` gives numbers in [0, 1). Times are seconds of any clock that is never set back. A probe of which nothing
    is heard, as its outcome may be told to another worker, is given up after the time for which the circuit was open.
    """

    def __init__(self, cooling: Cooling, chance: Callable[[], float]) -> None:
        self.cooling = cooling
        self._chance = chance
        self._run = 0  # failures since the last success
        self._until = 0.0  # when it is half-open
        self._probe_until = 0.0
        self.span = 0.0
        """For how long it was opened, in seconds before jitter; 0.0: it is closed."""
        self.answers = True
        """Whether each failure since the last success was an answer, see attempt.is_answered."""

    def state(self, now: float) -> State:
        if not self.span:
            return State.CLOSED
        return State.OPEN if now < self._until else State.HALF_OPEN

    # ---- for calls ----

    def until(self, now: float) -> float:
        """When a call may go there; 0.0: now. If it is half-open then, the call must be its probe."""
        if not self.span:
            return 0.0
        if now < self._until:
            return self._until
        return self._probe_until if now < self._probe_until else 0.0

    def may_probe(self, now: float) -> bool:
        """Whether a call may go there now. Of a half-open circuit, the caller has its probe from then on."""
        if self.until(now):
            return False
        if self.span:
            self._probe_until = now + self.span
        return True

    def unprobed(self) -> None:
        """Whoever had the probe does not ask the backend: the next call may."""
        self._probe_until = 0.0

    # ---- from attempts: True where it opened or closed ----

    def failed(self, now: float, answered: bool = False) -> bool:
        answers_no_more = self.answers and not answered
        self.answers = self.answers and answered
        if not self.span:
            self._run += 1
            if self._run < self.cooling.failures:
                return False
            span = self.cooling.open_for
        elif now < self._until:  # an attempt from before it opened, or a last resort
            return answers_no_more
        else:
            span = 2 * self.span
        self.span = min(span, self.cooling.longest_open)
        self._until = now + self.span * (1 + _JITTER * self._chance())
        self._probe_until = 0.0
        return True

    def succeeded(self, now: float) -> bool:
        if self.span and now < self._until:  # one from before it opened proves nothing
            self._run = 0
            return False
        was_open = self.span > 0
        self.close()
        return was_open

    # ---- from other workers ----

    def left(self, now: float) -> float:
        """Seconds until it is half-open; negative since then."""
        return self._until - now

    def open(self, until: float, span: float, answers: bool = False) -> None:
        """Another worker opened it. What is no new opening is only a repeat, which takes no probe away."""
        self.answers = answers
        if not self.span or until > self._until + span / 4:
            self._until, self._probe_until, self.span = until, 0.0, span

    def close(self) -> None:
        self._run, self.answers = 0, True
        self.span = self._until = self._probe_until = 0.0
