"""Tables of plain text: a terminal folds what is too long for it, a pipe gets one line a row."""

import sys
from collections.abc import Collection, Iterable
from typing import Literal

from rich.console import Console
from rich.table import Table
from rich.text import Text

from extproc.cli.console import printable

_UNLIMITED = 10_000  # columns


def console(to_stderr: bool = False) -> Console:
    """Standard output, or standard error, as wide as the terminal that it is."""
    stream = sys.stderr if to_stderr else sys.stdout
    return Console(width=None if stream.isatty() else _UNLIMITED, stderr=to_stderr)


def print_table(
    headings: dict[str, bool],
    rows: Iterable[tuple[str, ...]],
    to_stderr: bool = False,
    right: Collection[str] = (),
) -> None:
    """Print rows under their headings, each with whether its column may be folded. `right`: those of numbers."""
    table = Table(box=None, pad_edge=False)
    for heading, folds in headings.items():
        justify: Literal["left", "right"] = "right" if heading in right else "left"
        table.add_column(heading, justify=justify, overflow="fold" if folds else "ellipsis", no_wrap=not folds)
    for row in rows:
        table.add_row(*[Text(printable(cell)) for cell in row])  # as Text: a name may look like the table's markup
    console(to_stderr).print(table)
