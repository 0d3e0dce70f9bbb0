"""From a YAML file and the environment to the configuration tree; every problem told at once, with its place.

- `${NAME}` in a text is taken from the environment; `$${` is a literal `${`.
- A variable `SLUICE__A__B=value` sets `a.b`, over the file. A segment fits an existing key whatever the case
  of its letters, with `_`, `-` and `.` held equal; a key that does not exist yet is made in lower case with
  dashes. The value of a text field is taken as it is, any other is YAML, so lists and mappings can be given
  whole; a mapping is merged into what is there.
- Relative paths are relative to the current directory.
"""

import difflib
import functools
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError
from pydantic_core import ErrorDetails
from ruamel.yaml import YAML
from ruamel.yaml.error import MarkedYAMLError
from ruamel.yaml.nodes import MappingNode, Node, ScalarNode, SequenceNode
from ruamel.yaml.reader import ReaderError

from extproc.config.schema import Gateway

PREFIX = "SLUICE__"
_REFERENCE = re.compile(r"\$\$\{|\$\{([A-Za-z_][A-Za-z0-9_]*)\}")
_INTEGER = re.compile(r"[-+]?[0-9]{1,18}")
_FLOAT = re.compile(r"[-+]?[0-9]+(\.[0-9]+)?([eE][-+]?[0-9]+)?")
_WORDS = {"": None, "~": None, "null": None, "true": True, "false": False}
_KNOWN_TAGS = {
    f"tag:yaml.org,2002:{kind}"
    for kind in ("map", "seq", "str", "int", "float", "bool", "null", "timestamp", "value", "merge")
}

Steps = tuple[str | int, ...]
"""The way from the root of the tree to a value: keys and positions in lists."""


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

    def __init__(self, problems: list[Problem]) -> None:
        super().__init__("\n".join(map(str, problems)))
        self.problems = problems


def load(path: Path | None, environ: Mapping[str, str]) -> Gateway:
    """The configuration of a file, of the environment alone (`path` None), or of both. Raises ConfigError."""
    tree = _Tree(path, environ)
    problems = list(tree.problems)
    try:
        gateway = Gateway.model_validate(tree.value)
    except ValidationError as error:
        problems += (problem for details in error.errors() for problem in tree.explain(details))
    if problems:
        raise ConfigError(sorted(problems, key=lambda problem: (problem.place.line == 0, problem.place.line)))
    return gateway


def json_schema() -> dict[str, Any]:
    """The JSON Schema of the configuration, for editors."""
    return Gateway.model_json_schema()


class _Tree:
    """The raw values, where each came from, and what was wrong on the way."""

    def __init__(self, path: Path | None, environ: Mapping[str, str]) -> None:
        self._root = Place("environment" if path is None else str(path))
        self._environ = environ
        self._places: dict[Steps, Place] = {}
        self._broken: set[Steps] = set()
        self.problems: list[Problem] = []
        self.value: dict[str, Any] = {} if path is None else self._read(path)
        for name in sorted(environ):
            if name.startswith(PREFIX):
                self._set(name, environ[name])

    # ---- the file ----

    def _read(self, path: Path) -> dict[str, Any]:
        try:
            value = self._parse(path.read_text(encoding="utf-8"), (), lambda line: Place(str(path), line))
        except OSError as error:
            raise ConfigError([Problem(self._root, "", f"cannot be read ({error.strerror})")]) from None
        except UnicodeDecodeError:
            raise ConfigError([Problem(self._root, "", "is not UTF-8 text")]) from None
        except _NotYaml as error:
            raise ConfigError([Problem(Place(str(path), error.line), "", str(error))]) from None
        if value is None:
            return {}
        if not isinstance(value, dict):
            raise ConfigError([Problem(self._root, "", "must be a mapping of settings")])
        return value

    def _parse(self, text: str, steps: Steps, at: Callable[[int], Place]) -> Any:
        """The plain value of a YAML document that stands at `steps`. Raises _NotYaml."""
        try:
            node = YAML(typ="rt").compose(text)
            return None if node is None else self._plain(node, steps, at)
        except MarkedYAMLError as error:
            mark = error.problem_mark or error.context_mark
            raise _NotYaml(f"not valid YAML: {error.problem}", mark.line + 1 if mark else 0) from None
        except ReaderError as error:
            raise _NotYaml("not valid YAML: a control character", text.count("\n", 0, error.position) + 1) from None
        except RecursionError:
            raise _NotYaml("not usable: nested too deeply, or an alias inside its own anchor") from None

    def _plain(self, node: Node, steps: Steps, at: Callable[[int], Place]) -> Any:
        place = self._places.setdefault(steps, at(node.start_mark.line + 1))
        if node.tag not in _KNOWN_TAGS:
            self._break(place, steps, f"the tag {str(node.tag).replace('tag:yaml.org,2002:', '!!')} is not understood")
            return None
        if isinstance(node, MappingNode):
            return self._mapping(node, steps, at)
        if isinstance(node, SequenceNode):
            return [self._child(item, item, (*steps, number), at) for number, item in enumerate(node.value)]
        return self._scalar(node, steps, place) if isinstance(node, ScalarNode) else None

    def _mapping(self, node: MappingNode, steps: Steps, at: Callable[[int], Place]) -> dict[str, Any]:
        result: dict[str, Any] = {}
        for key, value in node.value:
            place = at(key.start_mark.line + 1)
            if not isinstance(key, ScalarNode):
                self._break(place, steps, "a key must be text")
            elif key.value == "<<":
                self._break(place, steps, "merge keys (<<) are not understood; repeat the settings")
            elif key.value in result:
                self.problems.append(Problem(place, _dotted((*steps, key.value)), "is given twice"))
            else:
                result[key.value] = self._child(key, value, (*steps, key.value), at)
        return result

    def _child(self, marked: Node, node: Node, steps: Steps, at: Callable[[int], Place]) -> Any:
        """A value inside a mapping or list: its place is where its key, or itself, begins."""
        self._places[steps] = at(marked.start_mark.line + 1)
        return self._plain(node, steps, at)

    def _scalar(self, node: ScalarNode, steps: Steps, place: Place) -> Any:
        """A scalar as the schema wants it: in a text field 4.1, 007 and 2024-10-21 stay text.

        What is quoted is text, unless it has references: inside {} or [] these cannot do without quotes.
        """
        written = str(node.value)
        text = self._expand(written, steps, place)
        if text is None or (node.style in ("'", '"', "|", ">") and text == written):
            return text
        return _typed(text, steps)

    def _expand(self, text: str, steps: Steps, place: Place) -> str | None:
        """The text with its references filled in, or None where one cannot be."""
        for name in _REFERENCE.findall(text):
            if name and not self._environ.get(name):
                state = "empty" if name in self._environ else "not set"
                self._break(place, steps, f"the environment variable {name} is {state}")
                return None
        return _REFERENCE.sub(lambda found: self._environ[found[1]] if found[1] else "${", text)

    def _break(self, place: Place, steps: Steps, message: str) -> None:
        """Note a value that cannot be had, so that nothing else is said about it."""
        self._broken.add(steps)
        self.problems.append(Problem(place, _dotted(steps), message))

    # ---- the environment ----

    def _set(self, name: str, text: str) -> None:
        place = Place(name)
        try:
            steps = self._steps(name)
            self._places[steps] = place
            value = self._variable(text, steps, place)
        except ValueError as error:
            self.problems.append(Problem(place, "", str(error)))
            return
        for end in range(1, len(steps)):
            self._places.setdefault(steps[:end], place)
        _merge(self.value, functools.reduce(lambda inner, key: {key: inner}, reversed(steps), value))

    def _steps(self, name: str) -> tuple[str, ...]:
        """What a variable sets. Raises ValueError where that cannot be said."""
        steps: tuple[str, ...] = ()
        inside: Any = self.value
        for segment in name.removeprefix(PREFIX).split("__"):
            if not isinstance(inside, dict):
                raise ValueError(f"{_dotted(steps)} is not a mapping: it can only be set whole")
            key = _key((*inside, *_fields_at(steps)), segment)
            steps = (*steps, key)
            inside = {} if inside.get(key) is None else inside[key]
        return steps

    def _variable(self, text: str, steps: Steps, place: Place) -> Any:
        if not text.strip():
            raise ValueError("is empty: give it a value, or unset it")
        if _is_text(steps) and text not in _WORDS:
            return self._expand(text, steps, place)
        return self._parse(text, steps, lambda _line: place)

    # ---- what is wrong ----

    def explain(self, details: ErrorDetails) -> list[Problem]:
        """One of pydantic's errors in words for people, with the place of the nearest known value.

        Nothing is said of a value that is broken already, nor of one that holds it.
        """
        steps = tuple(part for part in details["loc"] if part != "[key]")
        if any(broken[: len(steps)] == steps or steps[: len(broken)] == broken for broken in self._broken):
            return []
        if details["type"] == "too_short" and details["input"]:
            return []  # pydantic does not count the entries that it refused
        if details["type"] == "value_error" and not steps:
            return [self._whole(line) for line in str(details["ctx"]["error"]).splitlines()]
        return [Problem(self._near(steps, details["type"] == "missing"), _dotted(steps), _message(details, steps))]

    def _whole(self, line: str) -> Problem:
        """A check of the whole tree names the field that it is about."""
        named = max((s for s in self._places if line.startswith(f"{_dotted(s)}: ")), key=len, default=())
        field, _, message = line.partition(": ")
        return Problem(self._near(named, False), field, message)

    def _near(self, steps: Steps, missing: bool) -> Place:
        known = steps[:-1] if missing else steps
        while known and known not in self._places:
            known = known[:-1]
        return self._places.get(known, self._root) if known else self._root


class _NotYaml(ValueError):
    """A text that is not one YAML document; `line` is 0 where none is known."""

    def __init__(self, message: str, line: int = 0) -> None:
        super().__init__(message)
        self.line = line


def _typed(text: str, steps: Steps) -> str | int | float | bool | None:
    """A plain scalar by YAML's core rules; text where the field holds text."""
    if text in _WORDS and (_WORDS[text] is None or _kind(steps) == "boolean"):
        return _WORDS[text]
    if _is_text(steps):
        return text
    if _INTEGER.fullmatch(text):
        return int(text)
    return float(text) if _FLOAT.fullmatch(text) else text


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


# ---- what the schema says of a place in the tree ----


@functools.cache
def _schema() -> dict[str, Any]:
    return json_schema()


def _schema_at(steps: Steps) -> dict[str, Any]:
    """The schema of one value; empty where the schema knows no such place."""
    place = _schema()
    for step in steps:
        place = _resolved(_inner(place, step))
    return place


def _fields_at(steps: Steps) -> list[str]:
    """The names that may stand in a mapping; none where they are the user's choice."""
    place = _schema_at(steps)
    return [*place.get("properties", {}), *place.get("propertyNames", {}).get("enum", ())]


def _kind(steps: Steps) -> str:
    return str(_schema_at(steps).get("type", ""))


def _is_text(steps: Steps) -> bool:
    return _kind(steps) == "string"


def _inner(place: dict[str, Any], step: str | int) -> dict[str, Any]:
    """One element of a list, one field, or one entry of a free mapping."""
    choices = [place.get("items"), place.get("additionalProperties"), *place.get("patternProperties", {}).values()]
    if not isinstance(step, int):
        choices.insert(0, place.get("properties", {}).get(step))
    return next((choice for choice in choices if isinstance(choice, dict)), {})


def _resolved(place: dict[str, Any]) -> dict[str, Any]:
    """Behind references and optional values; of several types the first."""
    for choice in place.get("anyOf", ()):
        if choice.get("type") != "null":
            return _resolved(choice)
    if "$ref" not in place:
        return place
    definition: dict[str, Any] = _schema()["$defs"][place["$ref"].rsplit("/", 1)[1]]
    return definition


_MESSAGES = {
    "missing": "is required",
    "string_type": "must be text",
    "path_type": "must be a path",
    "model_type": "must be a mapping",
    "dict_type": "must be a mapping",
    "tuple_type": "must be a list",
    "int_type": "must be a whole number",
    "int_parsing": "must be a whole number",
    "int_from_float": "must be a whole number",
    "bool_type": "must be true or false",
    "bool_parsing": "must be true or false",
    "literal_error": "must be {expected}",
    "greater_than": "must be more than {gt}",
    "greater_than_equal": "must be at least {ge}",
    "less_than_equal": "must be at most {le}",
    "too_short": "must not be empty",
    "string_too_short": "must not be empty",
    "string_too_long": "must not be longer than {max_length} characters",
    "byte_size": "must be a size: a number of bytes, or like 512KiB, 8MiB",
    "byte_size_unit": "must be a size: a number of bytes, or like 512KiB, 8MiB",
    "value_error": "{error}",
}

_PATTERNS = {
    r"^[a-z0-9][a-z0-9-]{0,62}$": "must be lower-case letters, digits and dashes, at most 63, no dash first",
    r"^[A-Za-z0-9][A-Za-z0-9._:/@+-]*$": "must be letters, digits and . _ : / @ + -, beginning with a letter or digit",
    r"^(sqlite:///|postgresql\+?\w*://).+": "must be like sqlite:///var/sluice.db or postgresql://user@host/name",
}


def _message(details: ErrorDetails, steps: Steps) -> str:
    kind, context = details["type"], details.get("ctx", {})
    if kind == "extra_forbidden":
        near = difflib.get_close_matches(str(steps[-1]), _fields_at(steps[:-1]), 1)
        return "unknown field" + (f" (did you mean {near[0]}?)" if near else "")
    if kind == "string_pattern_mismatch":
        return _PATTERNS.get(context["pattern"], f"must match {context['pattern']}")
    if kind.endswith("_type") and details["input"] is None:
        return "has no value"
    return _MESSAGES.get(kind, details["msg"]).format_map(context)


def _dotted(steps: Steps) -> str:
    text = ""
    for step in steps:
        text += f"[{step}]" if isinstance(step, int) else f".{step}" if text else str(step)
    return text
