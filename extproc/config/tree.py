"""A YAML file as a raw tree that knows where each value was written; the rules of YAML that we take, and no others.

`${NAME}` in a text is taken from the environment; `$${` is a literal `${`. A file that takes nothing from the
environment is read with `environ` None.
"""

import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails
from ruamel.yaml import YAML
from ruamel.yaml.error import MarkedYAMLError
from ruamel.yaml.nodes import MappingNode, Node, ScalarNode, SequenceNode
from ruamel.yaml.reader import ReaderError

from extproc.config.problems import ConfigError, Place, Problem, Steps, dotted
from extproc.config.shape import Shape

_REFERENCE = re.compile(r"\$\$\{|\$\{([A-Za-z_][A-Za-z0-9_]*)\}")
_INTEGER = re.compile(r"[-+]?[0-9]{1,18}")
_FLOAT = re.compile(r"[-+]?[0-9]+(\.[0-9]+)?([eE][-+]?[0-9]+)?")
WORDS = {"": None, "~": None, "null": None, "true": True, "false": False}
_KNOWN_TAGS = {
    f"tag:yaml.org,2002:{kind}"
    for kind in ("map", "seq", "str", "int", "float", "bool", "null", "timestamp", "value", "merge")
}

Model = TypeVar("Model", bound=BaseModel)


_NO_STEPS = frozenset(("[key]", "[one]", "[list]"))  # pydantic's own, and the tags of a value that may be a list
_MOST_REPEATED = 10_000  # values that aliases may add: seven lines can stand for a million


class NotYaml(ValueError):
    """A text that is not one YAML document; `line` is 0 where none is known."""

    def __init__(self, message: str, line: int = 0) -> None:
        super().__init__(message)
        self.line = line


class Tree:
    """The raw values, where each came from, and what was wrong on the way."""

    def __init__(self, shape: Shape, root: Place, environ: Mapping[str, str] | None) -> None:
        self.shape = shape
        self.places: dict[Steps, Place] = {}
        self.problems: list[Problem] = []
        self.value: dict[str, Any] = {}
        self._root = root
        self._environ = environ
        self._broken: set[Steps] = set()
        self._left = 0  # values that may still come of the text that is being parsed

    # ---- reading ----

    def read(self, path: Path) -> None:
        """Take the values of a file. Raises ConfigError where it cannot be read as one YAML mapping."""
        try:
            value = self.parse(path.read_text(encoding="utf-8"), (), lambda line: Place(str(path), line))
        except OSError as error:
            raise ConfigError([Problem(self._root, "", f"cannot be read ({error.strerror})")]) from None
        except UnicodeDecodeError:
            raise ConfigError([Problem(self._root, "", "is not UTF-8 text")]) from None
        except NotYaml as error:
            raise ConfigError([Problem(Place(str(path), error.line), "", str(error))]) from None
        if value is not None and not isinstance(value, dict):
            raise ConfigError([Problem(self._root, "", "must be a mapping of settings")])
        self.value = value or {}

    def parse(self, text: str, steps: Steps, at: Callable[[int], Place]) -> Any:
        """The plain value of a YAML document that stands at `steps`. Raises NotYaml."""
        self._left = len(text) + _MOST_REPEATED  # without aliases a value takes a character at least
        try:
            node = YAML(typ="rt").compose(text)
            return None if node is None else self._plain(node, steps, at)
        except MarkedYAMLError as error:
            mark = error.problem_mark or error.context_mark
            raise NotYaml(f"not valid YAML: {error.problem}", mark.line + 1 if mark else 0) from None
        except ReaderError as error:
            raise NotYaml("not valid YAML: a control character", text.count("\n", 0, error.position) + 1) from None
        except RecursionError:
            raise NotYaml("not usable: nested too deeply, or an alias inside its own anchor") from None

    def _plain(self, node: Node, steps: Steps, at: Callable[[int], Place]) -> Any:
        self._left -= 1
        if self._left < 0:
            raise NotYaml("not usable: its aliases (*) repeat too much")
        place = self.places.setdefault(steps, at(node.start_mark.line + 1))
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
                self.problems.append(Problem(place, dotted((*steps, key.value)), "is given twice"))
            else:
                result[key.value] = self._child(key, value, (*steps, key.value), at)
        return result

    def _child(self, marked: Node, node: Node, steps: Steps, at: Callable[[int], Place]) -> Any:
        """A value inside a mapping or list: its place is where its key, or itself, begins."""
        self.places[steps] = at(marked.start_mark.line + 1)
        return self._plain(node, steps, at)

    def _scalar(self, node: ScalarNode, steps: Steps, place: Place) -> Any:
        """A scalar as the schema wants it: in a text field 4.1, 007 and 2024-10-21 stay text.

        What is quoted is text, unless it has references: inside {} or [] these cannot do without quotes.
        """
        written = str(node.value)
        text = self.expand(written, steps, place)
        if text is None or (node.style in ("'", '"', "|", ">") and text == written):
            return text
        return self._typed(text, steps)

    def _typed(self, text: str, steps: Steps) -> str | int | float | bool | None:
        """A plain scalar by YAML's core rules; text where the field holds text."""
        if text in WORDS and (WORDS[text] is None or self.shape.kind(steps) == "boolean"):
            return WORDS[text]
        if self.shape.is_text(steps):
            return text
        if _INTEGER.fullmatch(text):
            return int(text)
        return float(text) if _FLOAT.fullmatch(text) else text

    def expand(self, text: str, steps: Steps, place: Place) -> str | None:
        """The text with its references filled in, or None where one cannot be."""
        environ = self._environ
        for name in filter(None, _REFERENCE.findall(text)):
            if environ is None:
                self._break(place, steps, f"${{{name}}} is not filled in: this file takes nothing from the environment")
                return None
            if not environ.get(name):
                state = "empty" if name in environ else "not set"
                self._break(place, steps, f"the environment variable {name} is {state}")
                return None
        return _REFERENCE.sub(lambda found: (environ or {})[found[1]] if found[1] else "${", text)

    def _break(self, place: Place, steps: Steps, message: str) -> None:
        """Note a value that cannot be had, so that nothing else is said about it."""
        self._broken.add(steps)
        self.problems.append(Problem(place, dotted(steps), message))

    # ---- what is wrong ----

    def validated(self, model: type[Model]) -> Model:
        """The tree as its schema has it. Raises ConfigError with every problem, also of the reading."""
        problems = list(self.problems)
        try:
            result = model.model_validate(self.value)
        except ValidationError as error:
            problems += (problem for details in error.errors() for problem in self._explain(details))
        if problems:
            raise ConfigError(sorted(problems, key=lambda problem: (problem.place.line == 0, problem.place.line)))
        return result

    def problem(self, steps: Steps, message: str) -> Problem:
        """What a check has found about the value at `steps`."""
        return Problem(self._near(steps), dotted(steps), message)

    def _explain(self, details: ErrorDetails) -> list[Problem]:
        """One of pydantic's errors in words for people, with the place of the nearest known value.

        Nothing is said of a value that is broken already, nor of one that holds it.
        """
        steps = tuple(part for part in details["loc"] if part not in _NO_STEPS)
        if any(broken[: len(steps)] == steps or steps[: len(broken)] == broken for broken in self._broken):
            return []
        if details["type"] == "too_short" and details["input"]:
            return []  # pydantic does not count the entries that it refused
        if details["type"] == "value_error" and not steps:
            return [self._whole(line) for line in str(details["ctx"]["error"]).splitlines()]
        near = steps[:-1] if details["type"] == "missing" else steps
        return [Problem(self._near(near), dotted(steps), self.shape.message(details, steps))]

    def _whole(self, line: str) -> Problem:
        """A check of the whole tree names the field that it is about."""
        named = max((s for s in self.places if line.startswith(f"{dotted(s)}: ")), key=len, default=())
        field, _, message = line.partition(": ")
        return Problem(self._near(named), field, message)

    def _near(self, steps: Steps) -> Place:
        while steps and steps not in self.places:
            steps = steps[:-1]
        return self.places.get(steps, self._root) if steps else self._root
