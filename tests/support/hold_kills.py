"""One call of a worker, killed at every step: `python -m tests.support.hold_kills URL FOLDER LIFE STEP`.

For each STEP-th n a process of its own makes the call and kills itself before the n-th line of what reserves and
settles, in whatever thread that is; the first that comes to its end is the last. Marks in FOLDER/n.marks tell how far
it was.
"""

import asyncio
import sys
from pathlib import Path

from extproc import holds as module
from extproc.stores import spool
from extproc.stores.counters import Draw
from extproc.stores.redis import batch, counters
from extproc.stores.redis.counters import RedisCounters
from tests.support import kill_points
from tests.support.holds import TOKENS, event, hold, idle, running, until, used

_MODULES = (module, spool, batch, counters)
WAIT = 5.0


async def call(url: str, folder: Path, point: int, life: int) -> None:
    """A call from its reservation to its settlement, and the end of its worker."""
    mark = kill_points.marks(folder, point)
    store = RedisCounters(url, WAIT, f"kill{point}")
    async with running(store, folder / str(point), life=life) as holds:
        one = hold("call")
        await holds.reserve(one)
        mark("granted")
        await holds.extend(one, [Draw(TOKENS, 150, kept=10)])
        mark("extended")
        holds.settle(one, used(30), event("call"))
        mark("told")
        await until(lambda: idle(holds))
        mark("settled")


def main() -> None:
    url, folder, life, step = sys.argv[1], Path(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4])
    kill_points.at_each(step, _MODULES, lambda point: asyncio.run(call(url, folder, point, life)))


if __name__ == "__main__":
    main()
