"""A smallest value that satisfies a JSON schema of the kind that structured outputs allow."""

from collections.abc import Mapping
from typing import Any

_DEPTH = 32  # a schema whose required fields refer to themselves has no finite value


def fill(schema: Mapping[str, Any]) -> Any:
    """A value for a schema: required properties only, the first of an enum, the shortest list and text."""
    return _fill(schema, schema, _DEPTH)


def _fill(schema: Mapping[str, Any], root: Mapping[str, Any], depth: int) -> Any:
    if depth == 0:
        return None
    if "$ref" in schema:
        return _fill(_resolve(schema["$ref"], root), root, depth - 1)
    if "const" in schema:
        return schema["const"]
    if "enum" in schema:
        return schema["enum"][0]
    for choice in ("anyOf", "oneOf", "allOf"):
        if schema.get(choice):
            return _fill(schema[choice][0], root, depth - 1)
    return _of_type(schema, root, depth)


def _of_type(schema: Mapping[str, Any], root: Mapping[str, Any], depth: int) -> Any:
    match _type_name(schema):
        case "object":
            properties = schema.get("properties", {})
            return {name: _fill(properties.get(name, {}), root, depth - 1) for name in schema.get("required", ())}
        case "array":
            return [_fill(schema.get("items", {}), root, depth - 1)] * max(1, schema.get("minItems", 1))
        case "integer" | "number":
            return schema.get("minimum", 1)
        case "boolean":
            return True
        case "null":
            return None
        case _:
            return "text".ljust(schema.get("minLength", 0), "t")[: schema.get("maxLength")]


def _type_name(schema: Mapping[str, Any]) -> str:
    named = schema.get("type", "object" if "properties" in schema else "string")
    return str(named[0] if isinstance(named, list) else named)


def _resolve(reference: str, root: Mapping[str, Any]) -> Mapping[str, Any]:
    found: Any = root
    for step in reference.removeprefix("#").strip("/").split("/"):
        found = found[step] if step else found
    return found if isinstance(found, dict) else {}
