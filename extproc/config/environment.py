"""Settings in the environment: `SLUICE__A__B=value` sets `a.b`, over the file.

A segment fits an existing key whatever the case of its letters, with `_`, `-` and `.` held equal; a key that
does not exist yet is made in lower case with dashes. The value of a text field is taken as it is, any other is
YAML, so lists and mappings can be given whole; a mapping is merged into what is there.
"""

import functools
import re
from collections.abc import Mapping
from typing import Any

from extproc.config.problems import Place, Problem, Steps, dotted
from extproc.config.tree import WORDS, Tree

PREFIX = "SLUICE__"


def overlay(tree: Tree, environ: Mapping[str, str]) -> None:
    """Put what the variables set over what the tree holds; what is wrong with one joins the tree's problems."""
    for name in sorted(environ):
        if name.startswith(PREFIX):
            _set(tree, name, environ[name])


def _set(tree: Tree, name: str, text: str) -> None:
    place = Place(name)
    try:
        steps = _steps(tree, name)
        tree.places[steps] = place
        value = _value(tree, text, steps, place)
    except ValueError as error:
        tree.problems.append(Problem(place, "", str(error)))
        return
    put(tree, steps, value, place)


def put(tree: Tree, steps: tuple[str, ...], value: Any, place: Place) -> None:
    """Set the value at `steps`, which was written at `place`; a mapping is merged into what is there."""
    for end in range(1, len(steps)):
        tree.places.setdefault(steps[:end], place)
    _merge(tree.value, functools.reduce(lambda inner, key: {key: inner}, reversed(steps), value))


def _steps(tree: Tree, name: str) -> tuple[str, ...]:
    """What a variable sets. Raises ValueError where that cannot be said."""
    steps: tuple[str, ...] = ()
    inside: Any = tree.value
    for segment in name.removeprefix(PREFIX).split("__"):
        if not isinstance(inside, dict):
            raise ValueError(f"{dotted(steps)} is not a mapping: it can only be set whole")
        key = _key((*inside, *tree.shape.fields(steps)), segment)
        steps = (*steps, key)
        inside = {} if inside.get(key) is None else inside[key]
    return steps


def _value(tree: Tree, text: str, steps: Steps, place: Place) -> Any:
    if not text.strip():
        raise ValueError("is empty: give it a value, or unset it")
    if tree.shape.is_text(steps) and text not in WORDS:
        return tree.expand(text, steps, place)
    return tree.parse(text, steps, lambda _line: place)


def _key(known: tuple[str, ...], segment: str) -> str:
    """The known key that a segment spells, or a new one. Raises ValueError where several fit, or it is empty."""
    if not segment:
        raise ValueError("has an empty part")
    fitting = {key for key in known if _folded(key) == _folded(segment)}
    if len(fitting) > 1:
        raise ValueError(f"fits {' and '.join(sorted(fitting))}: set the mapping that holds them instead")
    return fitting.pop() if fitting else segment.lower().replace("_", "-")


def _folded(key: str) -> str:
    return re.sub(r"[_.]", "-", key.lower())


def _merge(into: dict[str, Any], given: Mapping[str, Any]) -> None:
    for key, value in given.items():
        if isinstance(value, dict) and isinstance(into.get(key), dict):
            _merge(into[key], value)
        else:
            into[key] = value
