"""Tables of plain text: a terminal folds what is too long for it, a pipe gets one line a row."""

import sys
from collections.abc import Iterable

from rich.console import Console
from rich.table import Table
from rich.text import Text

_UNLIMITED = 10_000  # columns


def console() -> Console:
    """Standard output, as wide as the terminal that it is."""
    return Console(width=None if sys.stdout.isatty() else _UNLIMITED)


def print_table(headings: dict[str, bool], rows: Iterable[tuple[str, ...]]) -> None:
    """Print rows under their headings, each with whether its column may be folded."""
    table = Table(box=None, pad_edge=False)
    for heading, folds in headings.items():
        table.add_column(heading, overflow="fold" if folds else "ellipsis", no_wrap=not folds)
    for row in rows:
        table.add_row(*map(Text, row))  # as Text: a name may look like the table's markup
    console().print(table)
