"""From a YAML file and the environment to the configuration tree; every problem told at once, with its place.

`tree` says what is taken from the file, `switches` and `environment` what from variables. Relative paths are relative
to the current directory.
"""

import functools
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from extproc.config.environment import overlay
from extproc.config.limits import OTHER_WORDS
from extproc.config.problems import ConfigError, Place
from extproc.config.schema import Gateway
from extproc.config.shape import Shape
from extproc.config.switches import switch
from extproc.config.tree import Tree

__all__ = ["ConfigError", "json_schema", "load", "read"]

_REFERENCE = r"\$\{"
_FILLED = "is filled from the database: a team brings backends by `backends` in its own file, see `byob`"
_RULES = {"type", "minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum"}


def load(path: Path | None, environ: Mapping[str, str]) -> Gateway:
    """The configuration of a file, of the environment alone (`path` None), or of both. Raises ConfigError."""
    return read(path, environ)[0]


def read(path: Path | None, environ: Mapping[str, str]) -> tuple[Gateway, Tree]:
    """The same, with the tree that knows where each value was written."""
    tree = Tree(_shape(), Place("environment" if path is None else str(path)), environ)
    if path is not None:
        tree.read(path)
    switch(tree, environ)
    overlay(tree, environ)
    if tree.value.pop("team_backends", None) is not None:
        tree.problems.append(tree.problem(("team_backends",), _FILLED))
    return tree.validated(Gateway), tree


def json_schema() -> dict[str, Any]:
    """The JSON Schema of the configuration, for editors. A reference like `${PORT}` may stand for any value."""
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **_referable(Gateway.model_json_schema())}


def _referable(schema: Any) -> Any:
    if isinstance(schema, list):
        return [_referable(inner) for inner in schema]
    if not isinstance(schema, dict):
        return schema
    found = {name: _referable(inner) for name, inner in schema.items()}
    if isinstance(pattern := found.get("pattern"), str):
        found["pattern"] = f"{pattern}|{_REFERENCE}"
    elif found.get("type") in ("integer", "number", "boolean"):
        rules = {name: found.pop(name) for name in [*found] if name in _RULES}
        found["anyOf"] = [rules, {"type": "string", "pattern": _REFERENCE}]
    return found


@functools.cache
def _shape() -> Shape:
    return Shape(Gateway, OTHER_WORDS)
