"""A terminal of a chosen width, as somebody sits before it."""

import os
import pty
import subprocess
import sys
from pathlib import Path


def on_a_terminal(width: int, *arguments: str) -> str:
    """What `sluice` prints on a terminal of so many columns, in the current directory."""
    ours, theirs = pty.openpty()
    environ = {**os.environ, "COLUMNS": str(width), "TERM": "xterm", "PYTHONPATH": str(Path(__file__).parents[2])}
    environ.pop("NO_COLOR", None)
    child = subprocess.Popen([sys.executable, "-m", "extproc.cli", *arguments], stdout=theirs, env=environ)
    os.close(theirs)
    printed = b""
    try:
        while chunk := os.read(ours, 4096):
            printed += chunk
    except OSError:
        pass  # the terminal of a process that has ended
    finally:
        os.close(ours)
    assert child.wait() == 0
    return printed.decode()
