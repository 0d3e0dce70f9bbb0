"""What is wrong with a file or a variable, and where: every problem has its place and its field."""

import difflib
from collections.abc import Iterable
from dataclasses import dataclass

Steps = tuple[str | int, ...]
"""The way from the root of a tree to a value: keys and positions in lists."""


@dataclass(frozen=True, slots=True)
class Place:
    """Where something was written: a file with a line (from 1; 0 where none is known), or a variable."""

    source: str
    line: int = 0

    def __str__(self) -> str:
        return f"{self.source}:{self.line}" if self.line else self.source


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing that is wrong. `field` is the dotted path, empty where the whole source is meant."""

    place: Place
    field: str
    message: str

    def __str__(self) -> str:
        return ": ".join(part for part in (str(self.place), self.field, self.message) if part)


class ConfigError(Exception):
    """The configuration cannot be used; the text has one problem a line."""

    def __init__(self, problems: Iterable[Problem]) -> None:
        self.problems = list(problems)
        super().__init__("\n".join(map(str, self.problems)))


def dotted(steps: Steps) -> str:
    """`models.gpt-4o.targets[0]`"""
    text = ""
    for step in steps:
        text += f"[{step}]" if isinstance(step, int) else f".{step}" if text else str(step)
    return text


def did_you_mean(written: str, known: Iterable[str]) -> str:
    """` (did you mean …?)`, or nothing where no known name is near."""
    near = difflib.get_close_matches(written, list(known), 1)
    return f" (did you mean {near[0]}?)" if near else ""
