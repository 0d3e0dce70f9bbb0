"""From a YAML file and the environment to the configuration tree; every problem told at once, with its place.

`${NAME}` in a text is taken from the environment, `$${` is a literal `${`. A variable `SLUICE__A__B=value`
sets `a.b`, over the file; its value is YAML, so lists and mappings can be given whole. Relative paths are
relative to the current directory.
"""

import difflib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError
from pydantic_core import ErrorDetails
from ruamel.yaml import YAML
from ruamel.yaml.error import MarkedYAMLError
from ruamel.yaml.nodes import MappingNode, Node, ScalarNode, SequenceNode

from extproc.config.schema import Gateway

PREFIX = "SLUICE__"
_REFERENCE = re.compile(r"\$\$\{|\$\{([A-Za-z_][A-Za-z0-9_]*)\}")
Path_ = tuple[str | int, ...]


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing that is wrong. `where` is `file:line` or the name of an environment variable."""

    where: str
    field: str
    message: str

    def __str__(self) -> str:
        return ": ".join(part for part in (self.where, self.field, self.message) if part)


class ConfigError(Exception):
    """The configuration cannot be used; the text has one problem a line."""

    def __init__(self, problems: list[Problem]) -> None:
        super().__init__("\n".join(map(str, problems)))
        self.problems = problems


def load(path: Path | None, environ: Mapping[str, str]) -> Gateway:
    """The configuration of a file, of the environment alone (`path` None), or of both. Raises ConfigError."""
    tree = _Tree(path, environ)
    try:
        return Gateway.model_validate(tree.value)
    except ValidationError as error:
        raise ConfigError([tree.problem(details) for details in error.errors()]) from None


def json_schema() -> dict[str, Any]:
    """The JSON Schema of the configuration, for editors."""
    return Gateway.model_json_schema()


class _Tree:
    """The raw values, and for each path where it came from."""

    def __init__(self, path: Path | None, environ: Mapping[str, str]) -> None:
        self._file = "environment" if path is None else str(path)
        self._places: dict[Path_, str] = {}
        self._problems: list[Problem] = []
        self._environ = environ
        self.value: Any = {} if path is None else self._read(path)
        for name in sorted(environ):
            if name.startswith(PREFIX):
                self._set(name, environ[name])
        if self._problems:
            raise ConfigError(self._problems)

    # ---- the file ----

    def _read(self, path: Path) -> Any:
        try:
            node = YAML(typ="rt").compose(path.read_text(encoding="utf-8"))
        except OSError as error:
            raise ConfigError([Problem(self._file, "", f"cannot be read ({error.strerror})")]) from None
        except UnicodeDecodeError:
            raise ConfigError([Problem(self._file, "", "is not UTF-8 text")]) from None
        except MarkedYAMLError as error:
            mark = error.problem_mark or error.context_mark
            line = f":{mark.line + 1}" if mark else ""
            raise ConfigError([Problem(self._file + line, "", f"not valid YAML: {error.problem}")]) from None
        value = self._plain(node, ()) if node is not None else {}
        if not isinstance(value, dict):
            raise ConfigError([Problem(self._file, "", "must be a mapping of settings")])
        return value

    def _plain(self, node: Node, path: Path_, source: str | None = None) -> Any:
        where = source or f"{self._file}:{node.start_mark.line + 1}"
        self._places[path] = where
        if isinstance(node, MappingNode):
            return self._mapping(node, path, source)
        if isinstance(node, SequenceNode):
            return [self._plain(item, (*path, number), source) for number, item in enumerate(node.value)]
        return self._scalar(node, path, where) if isinstance(node, ScalarNode) else None

    def _mapping(self, node: MappingNode, path: Path_, source: str | None) -> dict[str, Any]:
        result: dict[str, Any] = {}
        for key, value in node.value:
            name = str(key.value)
            if name in result:
                where = source or f"{self._file}:{key.start_mark.line + 1}"
                self._problems.append(Problem(where, _dotted((*path, name)), "is given twice"))
            result[name] = self._plain(value, (*path, name), source)
        return result

    def _scalar(self, node: ScalarNode, path: Path_, where: str) -> Any:
        """YAML's core types; what looks like a date stays text."""
        text = str(node.value)
        if node.style in ("'", '"', "|", ">"):
            return self._expand(text, path, where)
        if text in ("", "~", "null"):
            return None
        if text in ("true", "false"):
            return text == "true"
        for number in (int, float):
            if re.fullmatch(r"[-+]?\d+(\.\d+)?([eE][-+]?\d+)?", text):
                try:
                    return number(text)
                except ValueError:
                    continue
        return self._expand(text, path, where)

    def _expand(self, text: str, path: Path_, where: str) -> str:
        def value(found: re.Match[str]) -> str:
            name = found[1]
            if name is None:
                return "${"
            if name not in self._environ:
                self._problems.append(Problem(where, _dotted(path), f"the environment variable {name} is not set"))
                return ""
            return self._environ[name]

        return _REFERENCE.sub(value, text)

    # ---- the environment ----

    def _set(self, name: str, text: str) -> None:
        try:
            node = YAML(typ="rt").compose(text)
        except MarkedYAMLError as error:
            self._problems.append(Problem(name, "", f"not valid YAML: {error.problem}"))
            return
        place = self.value
        path: Path_ = ()
        segments = name.removeprefix(PREFIX).split("__")
        for segment in segments[:-1]:
            key = _key(place, segment, path)
            path = (*path, key)
            self._places[path] = name
            if not isinstance(place.get(key), dict):
                place[key] = {}
            place = place[key]
        key = _key(place, segments[-1], path)
        value = None if node is None else self._plain(node, (*path, key), name)
        if isinstance(value, dict) and isinstance(place.get(key), dict):
            _merge(place[key], value)
        else:
            place[key] = value

    # ---- what is wrong ----

    def problem(self, details: ErrorDetails) -> Problem:
        """One of pydantic's errors in words for people, with the place of the nearest known path."""
        path = tuple(part for part in details["loc"] if part != "[key]")
        known = path
        while known and known not in self._places:
            known = known[:-1]
        where = self._places.get(known, self._file)
        return Problem(where, _dotted(path), _message(details, path))


def _key(place: Mapping[str, Any], segment: str, path: Path_) -> str:
    """The existing key that a segment spells, or a new one in lower case with dashes."""
    wanted = _folded(segment)
    for key in (*place, *_fields_at(path)):
        if _folded(key) == wanted:
            return str(key)
    return segment.lower().replace("_", "-")


def _folded(key: str) -> str:
    return re.sub(r"[-_.]", "-", key.lower())


def _merge(into: dict[str, Any], given: Mapping[str, Any]) -> None:
    for key, value in given.items():
        if isinstance(value, dict) and isinstance(into.get(key), dict):
            _merge(into[key], value)
        else:
            into[key] = value


def _fields_at(path: Path_) -> list[str]:
    """The names that the schema knows at a path."""
    schema = Gateway.model_json_schema()
    place: dict[str, Any] = schema
    for part in path:
        place = _inner(place, part, schema)
    return list(_resolved(place, schema).get("properties", {}))


def _inner(place: dict[str, Any], part: str | int, schema: dict[str, Any]) -> dict[str, Any]:
    """The schema of one element of a list, one field, or one entry of a free mapping."""
    place = _resolved(place, schema)
    choices = [place.get("items"), place.get("additionalProperties"), *place.get("patternProperties", {}).values()]
    if not isinstance(part, int):
        choices.insert(0, place.get("properties", {}).get(part))
    return next((choice for choice in choices if isinstance(choice, dict)), {})


def _resolved(place: dict[str, Any], schema: dict[str, Any]) -> dict[str, Any]:
    for choice in place.get("anyOf", ()):
        if choice.get("type") != "null":
            return _resolved(choice, schema)
    reference = place.get("$ref")
    if reference is None:
        return place
    definition: dict[str, Any] = schema["$defs"][reference.rsplit("/", 1)[1]]
    return definition


def _message(details: ErrorDetails, path: Path_) -> str:
    kind = details["type"]
    if kind == "extra_forbidden":
        near = difflib.get_close_matches(str(path[-1]), _fields_at(path[:-1]), 1)
        return "unknown field" + (f" (did you mean {near[0]}?)" if near else "")
    if kind == "missing":
        return "is required"
    if kind == "string_pattern_mismatch":
        return "has characters that are not allowed here"
    text = details["msg"].removeprefix("Value error, ")
    return text[:1].lower() + text[1:]


def _dotted(path: Path_) -> str:
    text = ""
    for part in path:
        text += f"[{part}]" if isinstance(part, int) else f".{part}" if text else str(part)
    return text
