"""One call of a worker, killed at every step: `python -m tests.support.kill_points URL FOLDER LIFE STEP`.

For each STEP-th n a process of its own makes the call and kills itself before the n-th line of what reserves and
settles, in whatever thread that is; the first that comes to its end is the last. A line that it has been at does not
count again: there would be three times as many. Marks in FOLDER/n.marks tell how far it was.
"""

import asyncio
import itertools
import os
import signal
import sys
import threading
from pathlib import Path
from types import FrameType
from typing import Any

from extproc import holds as module
from extproc.stores import spool
from extproc.stores.counters import Draw
from extproc.stores.redis import batch, counters
from extproc.stores.redis.counters import RedisCounters
from tests.support.holds import TOKENS, event, hold, idle, running, until, used

WATCHED = {str(Path(watched.__file__ or "")) for watched in (module, spool, batch, counters)}
WAIT = 5.0


class Fuse:
    """Kills the process when it has come to so many lines of what is watched."""

    def __init__(self, lines: int) -> None:
        self._lines = lines
        self._seen: set[tuple[str, int]] = set()

    def __call__(self, frame: FrameType, what: str, _: Any) -> Any:
        if frame.f_code.co_filename not in WATCHED:
            return None
        if what == "line":
            self._seen.add((frame.f_code.co_filename, frame.f_lineno))
            if len(self._seen) >= self._lines:
                os.kill(os.getpid(), signal.SIGKILL)
        return self


def mark(file: int, word: str) -> None:
    os.write(file, word.encode() + b"\n")


async def call(url: str, folder: Path, point: int, life: int) -> None:
    """A call from its reservation to its settlement, and the end of its worker."""
    file = os.open(folder / f"{point}.marks", os.O_WRONLY | os.O_CREAT, 0o600)
    store = RedisCounters(url, WAIT, f"kill{point}")
    async with running(store, folder / str(point), life=life) as holds:
        one = hold("call")
        await holds.reserve(one)
        mark(file, "granted")
        await holds.extend(one, [Draw(TOKENS, 150, kept=10)])
        mark(file, "extended")
        holds.settle(one, used(30), event("call"))
        mark(file, "told")
        await until(lambda: idle(holds))
        mark(file, "settled")


def killed(url: str, folder: Path, point: int, life: int) -> bool:
    """Whether the process for this point was killed before its end."""
    process = os.fork()
    if not process:
        fuse = Fuse(point)
        threading.settrace(fuse)
        sys.settrace(fuse)
        asyncio.run(call(url, folder, point, life))
        sys.settrace(None)
        os._exit(0)
    _, status = os.waitpid(process, 0)
    if os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL:
        return True
    if status:
        raise SystemExit(f"at point {point} the call failed")
    return False


def main() -> None:
    url, folder, life, step = sys.argv[1], Path(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4])
    for point in itertools.count(1, step):
        if not killed(url, folder, point, life):
            return


if __name__ == "__main__":
    main()
