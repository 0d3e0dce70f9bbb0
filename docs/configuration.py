"""Prints the reference of the configuration, written from its schema: `make docs` puts it into configuration.md."""

import sys
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from types import NoneType
from typing import Any, Literal, get_args, get_origin

from annotated_types import Ge, Le
from pydantic import BaseModel, ByteSize
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from extproc.config.schema import Gateway

HEAD = """\
# Configuration

<!-- Written by `make docs` from extproc/config/schema.py: change it there. -->

One YAML tree, in a file, in the environment, or in both; `sluice check --config FILE` tells every problem at once, with
file and line. An unknown field or a key that is given twice is an error.

- **Environment.** `SLUICE__A__B=value` sets `a.b`, over the file. Case, `-`, `_` and `.` in names are one:
  `SLUICE__BACKENDS__FAKE_OPENAI__URL` sets the `url` of the backend `fake-openai`; a name that is new is taken in lower
  case with `-` for `_`. The value is YAML, so that lists and mappings can be given whole. Without any file the
  environment can be the whole configuration.
- **`${NAME}`** in a text stands for an environment variable; one that is not set is an error. `$${` is a literal `${`.
- **Durations** are seconds, or text such as `500ms`, `30s`, `10m`, `1h`. **Sizes** are bytes, or text such as `8MiB`.
- **Paths** that are relative are relative to the current directory.
- **Secrets** never stand in the configuration: `credential` names a file or an environment variable.
- **Changes** take a restart, but for credential files, TLS files and keys, which are read again when they change.
"""


def page() -> str:
    """The whole page, as Markdown."""
    return "\n".join([HEAD, *_section("", Gateway)])


def _section(path: str, model: type[BaseModel]) -> Iterator[str]:
    """A model's table, then the sections of the models in it."""
    yield f"## {f'`{path}`' if path else 'The top level'}\n"
    yield f"{(model.__doc__ or '').strip()}\n"
    yield "| field | value | default | meaning |\n|---|---|---|---|"
    for name, field in model.model_fields.items():
        yield f"| `{name}` | {_kind(field.annotation, field.metadata)} | {_default(field)} | {_meaning(field)} |"
    yield ""
    for name, field in model.model_fields.items():
        inner, suffix = _inner(field.annotation)
        if inner is not None:
            yield from _section(f"{path}.{name}{suffix}".removeprefix("."), inner)


def _inner(kind: Any) -> tuple[type[BaseModel] | None, str]:
    """The model inside a field's type, and how it is reached."""
    if isinstance(kind, type) and issubclass(kind, BaseModel):
        return kind, ""
    origin = get_origin(kind)
    suffix = ".NAME" if origin is dict else "[]" if origin is tuple else ""
    for argument in get_args(kind):
        inner, further = _inner(argument)
        if inner is not None:
            return inner, suffix + further
    return None, ""


def _kind(kind: Any, metadata: list[Any]) -> str:
    """A type in words."""
    arguments = [argument for argument in get_args(kind) if argument not in (NoneType, Ellipsis)]
    origin = get_origin(kind)
    if origin is Literal:
        return ", ".join(f"`{value}`" for value in arguments)
    if origin is tuple:
        return f"list of {_kinds(arguments[0])}"
    if origin is dict:
        return "mapping by name" if _inner(kind)[0] else f"mapping of {_kinds(arguments[0])} to {_kinds(arguments[1])}"
    if arguments:  # a union with None, or Annotated
        return _kind(arguments[0], metadata)
    if _inner(kind)[0] is not None:
        return "mapping"
    words = {
        str: "text",
        bool: "`true`, `false`",
        int: "integer",
        Path: "path",
        timedelta: "duration",
        ByteSize: "size",
    }
    return words[kind] + _bounds(kind, metadata)


def _kinds(kind: Any) -> str:
    """The same, of many."""
    plurals = {"text": "texts", "mapping": "mappings"}
    one = _kind(kind, [])
    return plurals.get(one, one.replace("list of", "lists of"))


def _bounds(kind: type, metadata: list[Any]) -> str:
    least = [_value(kind(bound.ge)) for bound in metadata if isinstance(bound, Ge)]
    most = [_value(kind(bound.le)) for bound in metadata if isinstance(bound, Le)]
    return f", {least[0]} to {most[0]}" if least and most else ""


def _default(field: FieldInfo) -> str:
    if field.is_required():
        return "**required**"
    value = field.get_default(call_default_factory=True, validated_data={})
    if value is PydanticUndefined or value is None or isinstance(value, BaseModel) or value in ((), {}):
        return ""
    return f"`{_value(value)}`"


def _value(value: object) -> str:
    """As one would write it."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, ByteSize):
        return next(f"{value // size}{unit}" for unit, size in (("MiB", 2**20), ("KiB", 2**10)) if value % size == 0)
    if isinstance(value, timedelta):
        seconds = int(value.total_seconds())
        return f"{seconds // 60}m" if seconds % 60 == 0 else f"{seconds}s"
    return str(value)


def _meaning(field: FieldInfo) -> str:
    return (field.description or "").replace("|", "\\|")


if __name__ == "__main__":
    sys.stdout.write(page())
