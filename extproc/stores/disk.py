"""A thread for what may hang with a disk, and for nothing else."""

import asyncio
import contextlib
import threading
from collections.abc import Callable
from queue import SimpleQueue
from typing import Any, TypeVar, TypeVarTuple

T = TypeVar("T")
Given = TypeVarTuple("Given")

_Work = tuple[asyncio.AbstractEventLoop, "asyncio.Future[Any]", Callable[..., Any], tuple[Any, ...]]


class Disk:
    """Does one thing after the other. A pool of threads would take several times as long to hand over what is little.

    It ends with the process, whether or not it hangs.
    """

    def __init__(self, name: str) -> None:
        self._waiting: SimpleQueue[_Work | None] = SimpleQueue()
        threading.Thread(target=self._run, name=name, daemon=True).start()

    async def do(self, work: Callable[[*Given], T], *given: *Given) -> T:
        """Raises what the work raises. Who gives up waiting does not end it."""
        loop = asyncio.get_running_loop()
        done: asyncio.Future[T] = loop.create_future()
        self._waiting.put((loop, done, work, given))
        return await done

    def close(self) -> None:
        """Let it end once it has done what it was given. Nobody waits for that."""
        self._waiting.put(None)

    def _run(self) -> None:
        while (next_one := self._waiting.get()) is not None:
            loop, done, work, given = next_one
            result: Any = None
            trouble: Exception | None = None
            try:
                result = work(*given)
            except Exception as error:  # whose it is to judge
                trouble = error
            with contextlib.suppress(RuntimeError):  # the loop has ended
                loop.call_soon_threadsafe(_tell, done, result, trouble)


def _tell(done: "asyncio.Future[Any]", result: object, trouble: Exception | None) -> None:
    if done.done():
        return
    if trouble is None:
        done.set_result(result)
    else:
        done.set_exception(trouble)
