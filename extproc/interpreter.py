"""How our own modules are started as programs."""

import sys


def python(module: str, *arguments: str) -> list[str]:
    """The command line of one of them, with this Python: where this process reads no `.pth` files, it reads none."""
    return [sys.executable, *(("-S",) if sys.flags.no_site else ()), "-m", module, *arguments]
