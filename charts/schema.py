"""Writes charts/sluice/values.schema.json: `make charts`.

The schema of the chart's own values stands in charts/schema; that of `config` and `teams` is the project's own, so that
a configuration is checked before anything is installed, by Helm and by editors.
"""

import json
import sys
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

from extproc.config import loader, teams

Schema = dict[str, Any]

FOLDER = Path(__file__).parent / "schema"
# What the chart sets itself: a value for it would be overruled, or would break a probe.
SET_BY_THE_CHART = {
    "Gateway": ("state_dir", "teams", "metrics", "fake_backend"),
    "Listener": ("address", "port"),
    "Timeouts": ("notice", "drain"),
    "Stores": ("migrate",),
}
_VARIABLE = {"pattern": r"\$\{", "type": "string"}  # a field of any type may be `${NAME}`
_FOR_READERS = ("title", "default")  # in Helm's errors and in editors these add nothing to the description


def write(file: Path) -> None:
    """The whole schema, of draft 7, which is what Helm 3 reads."""
    core = YAML(typ="safe").load(FOLDER / "core.yaml")
    around: Schema = json.loads((FOLDER / "around.json").read_text(encoding="utf-8"))
    definitions = dict(core["definitions"])
    config = _part("config", loader.json_schema(), definitions)
    for name, fields in SET_BY_THE_CHART.items():
        _take_out(config if name == "Gateway" else definitions[f"config.{name}"], fields)
    team = _part("team", teams.json_schema(), definitions)
    listed = core["properties"]["teams"]["patternProperties"]
    listed.update(dict.fromkeys(listed, team))
    schema = {
        "$schema": "http://json-schema.org/draft-07/schema#",
        "title": "Values of the chart sluice",
        "type": "object",
        "additionalProperties": False,
        "properties": {**core["properties"], "config": config, **around},
        "definitions": definitions,
    }
    file.write_text(json.dumps(schema, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def _part(name: str, schema: Schema, definitions: Schema) -> Schema:
    """A schema whose definitions are moved to those of the whole, behind its name."""
    schema = _moved(schema, name)
    for inner, definition in schema.pop("$defs", {}).items():
        definitions[f"{name}.{inner}"] = definition
    schema.pop("$schema", None)
    return schema


def _moved(schema: Any, name: str) -> Any:
    if isinstance(schema, list):
        return [_moved(item, name) for item in schema]
    if not isinstance(schema, dict):
        return schema
    if "$ref" in schema:  # draft 7 reads nothing beside a reference
        return {"$ref": schema["$ref"].replace("#/$defs/", f"#/definitions/{name}.")}
    if schema.get("anyOf", ())[1:] == [_VARIABLE]:  # of two that do not fit, Helm would tell what the second says
        schema = {key: value for key, value in schema.items() if key != "anyOf"} | {
            "if": _VARIABLE,
            "else": schema["anyOf"][0],
        }
    return {
        key: _named(value, name) if key in ("properties", "patternProperties", "$defs") else _moved(value, name)
        for key, value in schema.items()
        if key not in _FOR_READERS
    }


def _named(schemas: Schema, name: str) -> Schema:
    """Of a mapping by names, which may be called like a word of JSON Schema."""
    return {key: _moved(schema, name) for key, schema in schemas.items()}


def _take_out(schema: Schema, fields: tuple[str, ...]) -> None:
    for field in fields:
        schema["properties"].pop(field, None)
        if field in schema.get("required", []):
            schema["required"].remove(field)


if __name__ == "__main__":
    write(Path(sys.argv[1]))
