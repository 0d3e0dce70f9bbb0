"""One policy worker process: `python -m extproc.worker SOCKET NUMBER`, configurations on standard input, one a line.

Started by the supervisor, which has loaded and checked the configuration, so that all workers serve the
same one; what comes after the first takes over from it. Standard output carries access records, one JSON line each;
standard error carries the log.
"""

import asyncio
import logging
import os
import sys
import threading
from collections.abc import Iterator

import uvloop
from prometheus_client import values

from extproc.imports import uncollected

if "PROMETHEUS_MULTIPROC_DIR" in os.environ:
    # One set of files for all runs of a worker: what a killed one has counted goes on, and none leaves any behind.
    values.ValueClass = values.MultiProcessValue(lambda: sys.argv[-1])
with uncollected():
    from extproc.app import run_worker
    from extproc.config.revision import Revision

_PIECE = 1 << 16  # bytes


def lines(descriptor: int) -> Iterator[bytes]:
    """Those of a file, until it ends. Not buffered: a thread that waits there must not hold a lock at exit."""
    rest = b""
    while piece := os.read(descriptor, _PIECE):
        *whole, rest = (rest + piece).split(b"\n")
        yield from whole
    if rest:
        yield rest


async def _serve(revision: Revision, rest: Iterator[bytes]) -> None:
    later: asyncio.Queue[Revision] = asyncio.Queue()
    loop = asyncio.get_running_loop()

    def listen() -> None:
        for line in rest:
            newer = Revision.model_validate_json(line)
            loop.call_soon_threadsafe(later.put_nowait, newer)

    threading.Thread(target=listen, name="configuration", daemon=True).start()
    await run_worker(revision, sys.argv[1], sys.argv[2] == "0", later)


def main() -> None:
    logging.basicConfig(level=logging.WARNING, stream=sys.stderr, format="%(levelname)s %(name)s: %(message)s")
    handed = lines(sys.stdin.fileno())
    uvloop.run(_serve(Revision.model_validate_json(next(handed)), handed))


if __name__ == "__main__":
    main()
