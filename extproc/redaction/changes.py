"""Text to stand in place of other text."""

import re
from collections.abc import Collection, Iterable
from typing import NamedTuple

_NOT_IN_NAME = re.compile(r"[^A-Za-z0-9_-]")


class Change(NamedTuple):
    """`text` replaces the characters from `start` to before `end`."""

    start: int
    end: int
    text: str


def named(changes: Iterable[Change]) -> list[Change]:
    """The changes with nothing but letters, digits, `_` and `-` in them: `EMAIL_ADDRESS_1` without its brackets."""
    return [Change(start, end, _NOT_IN_NAME.sub("_", text.strip("<>[]"))) for start, end, text in changes]


def apply(text: str, changes: Collection[Change]) -> str:
    """The text with the changes made. They are in order and do not overlap."""
    if not changes:
        return text
    parts: list[str] = []
    at = 0
    for start, end, replacement in changes:
        parts += (text[at:start], replacement)
        at = end
    parts.append(text[at:])
    return "".join(parts)
