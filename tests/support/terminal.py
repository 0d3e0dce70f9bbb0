"""A terminal of a chosen width, as somebody sits before it."""

import os
import pty
import subprocess
import sys
from pathlib import Path


def on_a_terminal(width: int, *arguments: str, answer: str | None = None, code: int = 0) -> str:
    """What `sluice` prints on a terminal of so many columns, in the current directory.

    With an `answer`, which is typed in, it reads from the terminal, and its messages are there, too.
    """
    ours, theirs = pty.openpty()
    environ = {**os.environ, "COLUMNS": str(width), "TERM": "xterm", "PYTHONPATH": str(Path(__file__).parents[2])}
    environ.pop("NO_COLOR", None)
    command = [sys.executable, "-m", "extproc.cli", *arguments]
    other = None if answer is None else theirs
    child = subprocess.Popen(command, stdin=other, stdout=theirs, stderr=other, env=environ)
    os.close(theirs)
    os.write(ours, (answer or "").encode())
    printed = b""
    try:
        while chunk := os.read(ours, 4096):
            printed += chunk
    except OSError:
        pass  # the terminal of a process that has ended
    finally:
        os.close(ours)
    assert child.wait() == code
    return printed.decode()
