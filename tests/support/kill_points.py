"""Work that is killed at every step of some modules, each time in a process of its own."""

import itertools
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterable
from pathlib import Path
from types import FrameType, ModuleType
from typing import Any


class Fuse:
    """Kills the process when it has come to so many lines of the files that are watched.

    A line that it has been at does not count again: there would be three times as many.
    """

    def __init__(self, lines: int, watched: frozenset[str]) -> None:
        self._lines = lines
        self._watched = watched
        self._seen: set[tuple[str, int]] = set()

    def __call__(self, frame: FrameType, what: str, _: Any) -> Any:
        if frame.f_code.co_filename not in self._watched:
            return None
        if what == "line":
            self._seen.add((frame.f_code.co_filename, frame.f_lineno))
            if len(self._seen) >= self._lines:
                os.kill(os.getpid(), signal.SIGKILL)
        return self


def marks(folder: Path, point: int) -> Callable[[str], object]:
    """What writes words into `FOLDER/POINT.marks`, so that they are there whenever its process is killed."""
    file = os.open(folder / f"{point}.marks", os.O_WRONLY | os.O_CREAT, 0o600)
    return lambda word: os.write(file, word.encode() + b"\n")


def at_each(step: int, modules: Iterable[ModuleType], work: Callable[[int], None]) -> None:
    """For each `step`-th n do the work, told n, and kill it before the n-th line of the modules that it passes.

    The first that comes to its end is the last. Raises SystemExit where it fails.
    """
    watched = frozenset(str(Path(module.__file__ or "")) for module in modules)
    for point in itertools.count(1, step):
        if not _killed(Fuse(point, watched), point, work):
            return


def _killed(fuse: Fuse, point: int, work: Callable[[int], None]) -> bool:
    """Whether it was, before its end."""
    process = os.fork()
    if not process:
        threading.settrace(fuse)
        sys.settrace(fuse)
        work(point)
        sys.settrace(None)
        os._exit(0)
    _, status = os.waitpid(process, 0)
    if os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL:
        return True
    if status:
        raise SystemExit(f"at point {point} it failed")
    return False
