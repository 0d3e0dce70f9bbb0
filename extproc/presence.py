"""What a worker and those beside it tell each other by files in the folder of its socket, several times a second.

The worker touches a file of its own: one that is old is of a worker whose loop stands still, though the kernel takes
connections for it all the same. Then it looks for the marks by which a drain ends what is let in, and at last the
streams that still run: a file that is newer than a mark is of a worker that has seen it.
"""

import asyncio
import contextlib
import time
from collections.abc import Callable, Iterable
from pathlib import Path

from extproc.admission import Admission
from extproc.contract import CLOSED, OVER, PRESENT

_LOOK_S = 0.25
_MUTE_S = 10.0  # a worker that is held up for some seconds serves again: whoever ends it ends its calls


class Presence:
    """Of the worker with this socket. `break_off` is told at each look whether the time of its streams is over."""

    def __init__(self, socket: Path, admission: Admission, break_off: Callable[[bool], None] = lambda _: None) -> None:
        self._file = socket.with_suffix(PRESENT)
        self._closed, self._over = socket.with_name(CLOSED), socket.with_name(OVER)
        self._admission = admission
        self._break_off = break_off
        self.show()

    def show(self) -> None:
        """Touched first, and nothing is let in between the two: see above."""
        self._file.touch()
        self._admission.closed = self._closed.exists()
        self._break_off(self._over.exists())

    async def run(self) -> None:
        """For ever."""
        while True:
            await asyncio.sleep(_LOOK_S)
            with contextlib.suppress(OSError):  # its file gets old, which tells; the next look may do
                self.show()


def is_present(socket: Path) -> bool:
    """Whether the loop of the worker with this socket went round within the last seconds."""
    try:
        return time.time() - socket.with_suffix(PRESENT).stat().st_mtime < _MUTE_S
    except OSError:
        return False


def have_closed(files: Iterable[Path], mark: Path) -> bool:
    """Whether the workers of these files have seen the mark, which is there."""
    closed = mark.stat().st_mtime_ns
    return all(file.stat().st_mtime_ns > closed for file in files)
