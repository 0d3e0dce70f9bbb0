"""Prints the reference of the configuration, written from its schema: `make docs` puts it into configuration.md."""

import sys
from collections.abc import Iterator
from datetime import date, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin

from annotated_types import Ge, Le
from pydantic import BaseModel, ByteSize
from pydantic.fields import FieldInfo
from pydantic.json_schema import SkipJsonSchema
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
- **Durations** are seconds, or text such as `500ms`, `30s`, `10m`, `1h`, `7d`. **Sizes** are bytes, or text such as
  `8MiB`.
- **Paths** that are relative are relative to the current directory.
- **Money** is decimal to the last digit: at most 9 places, 12 in prices of a thousand tokens.
- **Secrets** never stand in the configuration: `credential` says [where one is](credentials.md), and a password in the
  URL of a store is a `${NAME}`.
- **Changes** are taken over while the gateway runs, but for those that take a restart: [reload.md](reload.md).

## The plain switches

Two limits for each key, set by environment variables alone. They stand for settings that are put over the file, and
`SLUICE__…` over them. While `ENABLE_AI_RATE_LIMIT` is not `true` the others are ignored; while it is, an
`AI_RATE_LIMIT_…` that is not among them is an error. The prefix of the low limit is `/prioritization-simple`, unless
`listener.low_priority_prefix` says another. Limits of tokens are not `hard` here: a call passes while anything is left,
and what it used is booked when it ends, so that the last call, and those under way, can overspend.

| variable | value | default | stands for |
|---|---|---|---|
| `ENABLE_AI_RATE_LIMIT` | `true`, `false` | `false` | `policies.limits` `ai-rate-limit-high` and `-low`, `scope: key` |
| `AI_RATE_LIMIT_STRATEGY` | `total_tokens`, `req` | `total_tokens` | `tokens` (with `hard: false`) or `requests` |
| `AI_RATE_LIMIT_WINDOW_SECONDS` | integer, 1 to 2678400 | `60` | `per`, sliding |
| `AI_RATE_LIMIT_HIGH_LIMIT` | integer | `200` | the amount for the paths as they are (`only: {low_route: false}`) |
| `AI_RATE_LIMIT_LOW_LIMIT` | integer | `20` | the amount behind the prefix (`only: {low_route: true}`) |
| `AI_RATE_LIMIT_REJECT_CODE` | integer, 400 to 599 | `503` | `reject.status` |
| `AI_RATE_LIMIT_REJECT_MESSAGE` | text | `rate limited` | `reject.message` |
| `GATEWAY_E2E_TEST_MODE` | `true`, `false` | `false` | `listener.tells_priority` |
"""


def page() -> str:
    """The whole page, as Markdown."""
    return "\n".join([HEAD, *_section("", Gateway)])


def _is_written(field: FieldInfo) -> bool:
    """Whether people write it, and not the gateway itself."""
    return all(type(mark) is not SkipJsonSchema for mark in field.metadata)


def _section(path: str, model: type[BaseModel]) -> Iterator[str]:
    """A model's table, then the sections of the models in it."""
    yield f"## {f'`{path}`' if path else 'The top level'}\n"
    yield f"{(model.__doc__ or '').strip()}\n"
    yield "| field | value | default | meaning |\n|---|---|---|---|"
    fields = {field.alias or name: field for name, field in model.model_fields.items() if _is_written(field)}
    for name, field in fields.items():
        yield f"| `{name}` | {_kind(field.annotation, field.metadata)} | {_default(field)} | {_meaning(field)} |"
    yield ""
    for name, field in fields.items():
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
    if origin in (Union, UnionType):  # also with None
        return " or ".join(_kind(argument, metadata) for argument in arguments)
    if arguments:  # Annotated
        return _kind(arguments[0], metadata)
    if _inner(kind)[0] is not None:
        return "mapping"
    words = {
        str: "text",
        bool: "`true`, `false`",
        int: "integer",
        float: "number",
        Path: "path",
        Decimal: "number",
        date: "date",
        datetime: "time",
        timedelta: "duration",
        ByteSize: "size",
    }
    return words[kind] + _bounds(kind, metadata)


def _kinds(kind: Any) -> str:
    """The same, of many."""
    plurals = {"text": "texts", "integer": "integers", "number": "numbers", "path": "paths", "mapping": "mappings"}
    one = _kind(kind, [])
    return plurals.get(one, one.replace("list of", "lists of"))


def _bounds(kind: Any, metadata: list[Any]) -> str:
    if kind not in (int, float, ByteSize):
        return ""
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
    if isinstance(value, tuple):
        return f"[{', '.join(map(_value, value))}]"
    if isinstance(value, dict):
        return f"{{{', '.join(f'{name}: {_value(one)}' for name, one in value.items())}}}"
    if isinstance(value, float):
        return f"{value:g}"
    if isinstance(value, ByteSize):
        return next(f"{value // size}{unit}" for unit, size in (("MiB", 2**20), ("KiB", 2**10)) if value % size == 0)
    if isinstance(value, timedelta):
        if value % timedelta(seconds=1):
            return f"{value // timedelta(milliseconds=1)}ms"
        seconds = int(value.total_seconds())
        return f"{seconds // 60}m" if seconds % 60 == 0 else f"{seconds}s"
    return str(value)


def _meaning(field: FieldInfo) -> str:
    return (field.description or "").replace("|", "\\|")


if __name__ == "__main__":
    sys.stdout.write(page())
