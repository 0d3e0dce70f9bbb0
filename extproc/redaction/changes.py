"""Text to stand in place of other text."""

from collections.abc import Iterable
from typing import NamedTuple


class Change(NamedTuple):
    """`text` replaces the characters from `start` to before `end`."""

    start: int
    end: int
    text: str


def apply(text: str, changes: Iterable[Change]) -> str:
    """The text with the changes made. They are in order and do not overlap."""
    parts: list[str] = []
    at = 0
    for start, end, replacement in changes:
        parts += (text[at:start], replacement)
        at = end
    parts.append(text[at:])
    return "".join(parts)
