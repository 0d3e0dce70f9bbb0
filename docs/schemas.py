"""Writes the JSON Schemas that editors and CI read: `make docs` puts them into docs/schemas/."""

import json
import sys
from pathlib import Path
from typing import Any

from extproc.config import loader, teams


def write(folder: Path) -> None:
    """`gateway.schema.json` for the configuration, `team.schema.json` for team files."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, schema in (("gateway", loader.json_schema()), ("team", teams.json_schema())):
        (folder / f"{name}.schema.json").write_text(_text(schema), encoding="utf-8")


def _text(schema: dict[str, Any]) -> str:
    return json.dumps(schema, indent=2, ensure_ascii=False) + "\n"


if __name__ == "__main__":
    write(Path(sys.argv[1]))
