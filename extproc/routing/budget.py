"""How often failed attempts may be made good by further ones, beside all calls: what bounds a storm of repeats."""

_SPAN_S = 10
_FLOOR = 10 * _SPAN_S  # few calls are never touched, whatever becomes of them
_REMEMBERED = 10_000  # failed attempts whose next may still be told: they live as long as calls do


class RetryBudget:
    """Counts, over the last 10 seconds, calls and the attempts that followed on a failure, when these are told.

    Further attempts after a refusal do not count: what refuses cools, or costs its provider nothing. Times are
    seconds of a clock that is never set back.
    """

    def __init__(self) -> None:
        self._calls = [0] * _SPAN_S  # by second
        self._repeats = [0] * _SPAN_S
        self._second = 0  # the newest that is counted
        self._failed: dict[str, None] = {}  # calls whose last attempt did, oldest first

    def note(self, call: str, has_failed: bool, now: float) -> None:
        """One attempt of a call, by its id, has ended. What has no id is not counted."""
        if not call:
            return
        self._move_on(now)
        if call in self._failed:
            del self._failed[call]
            self._repeats[self._second % _SPAN_S] += 1
        else:
            self._calls[self._second % _SPAN_S] += 1
        if has_failed:
            self._failed[call] = None
            if len(self._failed) > _REMEMBERED:
                del self._failed[next(iter(self._failed))]

    def allows(self, share: float, now: float) -> bool:
        """Whether a call may have further attempts: as long as they are less than this share of calls. 1: always."""
        if share >= 1:
            return True
        self._move_on(now)
        return sum(self._repeats) < _FLOOR + share * sum(self._calls)

    def _move_on(self, now: float) -> None:
        """Empty the seconds that have come since the last time."""
        second = int(now)
        if second == self._second:
            return
        for newer in range(max(self._second, second - _SPAN_S) + 1, second + 1):
            self._calls[newer % _SPAN_S] = self._repeats[newer % _SPAN_S] = 0
        self._second = max(self._second, second)
