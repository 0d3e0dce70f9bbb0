"""Programs of the machine that are run to their end."""

import asyncio
from collections.abc import Sequence


class CommandError(Exception):
    """A program failed; with what it said."""


async def run(*words: str, stdin: str | None = None) -> str:
    """What it prints. Raises CommandError where it fails."""
    process = await asyncio.create_subprocess_exec(
        *words,
        stdin=asyncio.subprocess.DEVNULL if stdin is None else asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        start_new_session=True,  # Ctrl-C at a terminal is for the tests, which then clean up
    )
    told, complained = await process.communicate(None if stdin is None else stdin.encode())
    if process.returncode:
        raise CommandError(f"{' '.join(words)}: {complained.decode(errors='replace').strip()}")
    return told.decode(errors="replace")


def inside(pid: int, *namespaces: str) -> Sequence[str]:
    """What a command line begins with that is to run in namespaces of a process: `net`, `mount`, `pid`, ..."""
    return ("nsenter", f"--target={pid}", *(f"--{name}" for name in namespaces), "--")


def alone(*words: str) -> Sequence[str]:
    """The command line for some words in a mount and a PID namespace of their own, which end with whoever starts them.

    The kernel forgets whose end a process is to share when it changes its user, as containers do. So their namespace
    is inside another one, whose first process changes nothing: with that, the kernel ends all.
    """
    bound = ("setpriv", "--pdeathsig", "KILL", "unshare", "--pid", "--fork", "--kill-child")
    held = 'unshare --mount --pid --fork "$@"; exit $?'  # a shell tells of signals that PID 1 would not die of
    return (*bound, "sh", "-c", held, "sh", *words)
