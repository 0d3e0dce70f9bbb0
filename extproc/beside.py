"""Work that would hold up the event loop, and everybody who waits for it, done beside it."""

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import ParamSpec, TypeVar

INLINE = 32 * 1024
"""Bytes of a body that are worked through on the loop: some milliseconds where they are all structure."""
_THREADS = ThreadPoolExecutor(2, "beside")

P = ParamSpec("P")
T = TypeVar("T")


async def loop(size: int, work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """Do work on so many bytes, on the loop where they are few. Raises what the work raises."""
    if size <= INLINE:
        return work(*args, **kwargs)
    return await asyncio.get_running_loop().run_in_executor(_THREADS, lambda: work(*args, **kwargs))
