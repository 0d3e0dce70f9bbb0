"""As much of JSON Schema as our published schemas use; a word of it that is not known here is an error."""

import re
from collections.abc import Iterator
from typing import Any

_SAYS_NOTHING = {"$defs", "$schema", "default", "description", "format", "title"}
_TYPES: dict[str, Any] = {
    "array": list,
    "boolean": bool,
    "integer": int,
    "null": type(None),
    "number": (int, float),
    "object": dict,
    "string": str,
}
_BOUNDS: dict[str, Any] = {
    "enum": lambda value, known: value in known,
    "exclusiveMinimum": lambda value, least: value > least,
    "minimum": lambda value, least: value >= least,
    "maximum": lambda value, most: value <= most,
    "minLength": lambda value, least: len(value) >= least,
    "maxLength": lambda value, most: len(value) <= most,
    "minItems": lambda value, least: len(value) >= least,
    "minProperties": lambda value, least: len(value) >= least,
    "pattern": lambda value, pattern: re.search(pattern, value) is not None,
}


def mistakes(schema: dict[str, Any], value: object) -> list[str]:
    """What a validator would say of a value, one line a mistake; empty where it fits."""
    return list(_mistakes(schema, schema, value, "$"))


def _mistakes(root: dict[str, Any], schema: dict[str, Any], value: Any, at: str) -> Iterator[str]:
    if "type" in schema and not _is(schema["type"], value):
        yield f"{at}: not {schema['type']}"
        return
    for word, rule in schema.items():
        if word in _BOUNDS:
            if not _BOUNDS[word](value, rule):
                yield f"{at}: {word} {rule}"
        elif word == "$ref":
            yield from _mistakes(root, root["$defs"][rule.rsplit("/", 1)[1]], value, at)
        elif word in ("anyOf", "oneOf"):
            tried = [list(_mistakes(root, choice, value, at)) for choice in rule]
            yield from min(tried, key=len)
        elif word == "items":
            for number, item in enumerate(value):
                yield from _mistakes(root, rule, item, f"{at}[{number}]")
        elif word == "required":
            yield from (f"{at}: lacks {name}" for name in rule if name not in value)
        elif word == "propertyNames":
            for name in value:
                yield from _mistakes(root, rule, name, f"{at}.{name}")
        elif word not in {*_SAYS_NOTHING, "type", "properties", "patternProperties", "additionalProperties"}:
            raise NotImplementedError(word)
    if isinstance(value, dict):
        yield from _fields(root, schema, value, at)


def _fields(root: dict[str, Any], schema: dict[str, Any], value: dict[str, Any], at: str) -> Iterator[str]:
    for name, inner in value.items():
        fitting = [rule for pattern, rule in schema.get("patternProperties", {}).items() if re.search(pattern, name)]
        rule = schema.get("properties", {}).get(name, fitting[0] if fitting else schema.get("additionalProperties"))
        if rule is False:
            yield f"{at}: no {name}"
        elif isinstance(rule, dict):
            yield from _mistakes(root, rule, inner, f"{at}.{name}")


def _is(kind: str, value: object) -> bool:
    return isinstance(value, _TYPES[kind]) and (kind == "boolean" or not isinstance(value, bool))
