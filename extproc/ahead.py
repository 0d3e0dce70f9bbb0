"""Work that is begun at once and waited for later, within one task: another one would cost more than the work."""

import asyncio
from collections.abc import Coroutine, Generator
from typing import Any, Generic, TypeVar

T = TypeVar("T")

_alone: set[asyncio.Task[None]] = set()


class Ahead(Generic[T]):
    """A coroutine that has run up to where it waits. Awaiting it does the rest: once, in the task that made it.

    It may ask for no timeout of its own, which would be the task's.
    """

    __slots__ = ("_is_over", "_raised", "_result", "_waits_for", "_work")

    def __init__(self, work: Coroutine[Any, Any, T]) -> None:
        self._work = work
        self._waits_for: Any = None
        self._result: T
        self._raised: Exception | None = None
        self._is_over = False
        try:
            self._waits_for = work.send(None)
        except StopIteration as done:
            self._result, self._is_over = done.value, True
        except Exception as error:
            self._raised, self._is_over = error, True

    def __await__(self) -> Generator[Any, Any, T]:
        if not self._is_over:
            self._is_over = True
            self._result = yield from self._rest()
        if self._raised is not None:
            raise self._raised
        return self._result

    def leave(self) -> None:
        """See it to its end in a task of its own: nobody awaits it any more."""
        if not self._is_over:
            task = asyncio.ensure_future(self._alone())
            _alone.add(task)
            task.add_done_callback(_alone.discard)

    async def _alone(self) -> None:
        await self

    def _rest(self) -> Generator[Any, Any, T]:
        """The work, a future that it waits for after the other: as `yield from` does it, but from the middle."""
        work, future = self._work, self._waits_for
        try:
            while True:
                if future is None or not future.done():
                    try:
                        yield future
                    except BaseException as error:
                        future = work.throw(error)
                        continue
                future = work.send(None)
        except StopIteration as done:
            result: T = done.value
            return result
