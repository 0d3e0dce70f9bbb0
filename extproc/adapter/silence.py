"""Silence of a backend in the middle of an answer, told from that of a client that does not read, or of ourselves.

Envoy tells nothing of its clients. But it stops reading a backend only when more waits for the client than it holds:
as long as less than that has been handed back in all, silence is the backend's. Beyond that nobody can tell, and what
cannot be told is no stall.
"""

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from typing import TypeVar

from extproc.call import Silence

T = TypeVar("T")

_SECOND_LOOK_S = 0.05  # after which what has come is read, even if the loop was held up until the first


class Watch:
    """Of one answer. Calls `over` at most once, beside the reading, when its silence has lasted too long, or at `end`.

    `allowed` None: it may be silent for as long as Envoy lets it. Whoever makes one must `close` it.
    """

    __slots__ = ("_allowed", "_ending", "_over", "_passed", "_since", "_timer")

    def __init__(self, allowed: Silence | None, over: Callable[[], Coroutine[None, None, None]]) -> None:
        self._allowed = allowed
        self._over = over
        self._passed = 0
        self._since: float | None = None  # when somebody began to wait for the next message
        self._ending: asyncio.Task[None] | None = None
        self._timer = None if allowed is None else asyncio.get_running_loop().call_later(allowed.seconds, self._look)

    async def wait(self, message: Awaitable[T]) -> T:
        """Wait for the next message: that time alone counts."""
        self._since = asyncio.get_running_loop().time()
        try:
            return await message
        finally:
            self._since = None

    @property
    def is_over(self) -> bool:
        """Whether the answer has been ended: whatever still comes is too late."""
        return self._ending is not None

    def passed(self, size: int) -> None:
        """Note that so many bytes go to the client."""
        self._passed += size
        if self._allowed is not None and self._passed > self._allowed.room:
            self.stop()

    def end(self) -> None:
        """Its time is over, as soon as nothing is being done with what has come; the next piece may end it as well."""
        if self._since is not None and self._ending is None:
            self.stop()
            self._begin()

    def stop(self) -> None:
        """Watch no more."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    async def close(self) -> None:
        """The stream is over."""
        self.stop()
        if self._ending is not None:
            self._ending.cancel()
            await asyncio.wait((self._ending,))

    def _look(self, is_second: bool = False) -> None:
        if self._allowed is None:
            return
        loop = asyncio.get_running_loop()
        left = self._allowed.seconds if self._since is None else self._since + self._allowed.seconds - loop.time()
        if left > 0:
            self._timer = loop.call_later(left, self._look)
        elif not is_second:
            self._timer = loop.call_later(_SECOND_LOOK_S, self._look, True)
        else:
            self._timer = None
            self._begin()

    def _begin(self) -> None:
        self._ending = asyncio.get_running_loop().create_task(self._over())
        self._ending.add_done_callback(_noted)


def _noted(ending: asyncio.Task[None]) -> None:
    """Where it cannot be told, the stream is over anyhow, and its reader learns why."""
    if not ending.cancelled():
        ending.exception()
