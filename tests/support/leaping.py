"""Time that passes at once while everybody waits, so that a test of moments holds on a busy machine, too."""

import asyncio
import functools
import selectors
from collections.abc import Callable, Coroutine
from typing import Any, ParamSpec

P = ParamSpec("P")


class _Leaps(selectors.DefaultSelector):
    """Does not wait for the next timer, but makes it then."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 0.0

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        if timeout is not None:
            self.now += max(timeout, 0)
            timeout = 0
        return super().select(timeout)


class _Loop(asyncio.SelectorEventLoop):
    def __init__(self) -> None:
        self.leaps = _Leaps()
        super().__init__(self.leaps)

    def time(self) -> float:
        return self.leaps.now


def hold_up(seconds: float) -> None:
    """Let so much time pass in which the loop of a leaping test does nothing."""
    loop = asyncio.get_running_loop()
    assert isinstance(loop, _Loop)
    loop.leaps.now += seconds


def leaping(test: Callable[P, Coroutine[Any, Any, None]]) -> Callable[P, None]:
    """A test by such a clock: that of its loop, which is the only one it may go by. For tests without I/O."""

    @functools.wraps(test)
    def run(*args: P.args, **kwargs: P.kwargs) -> None:
        with asyncio.Runner(loop_factory=_Loop) as runner:
            runner.run(test(*args, **kwargs))

    return run
