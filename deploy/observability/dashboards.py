"""Writes the dashboards as Grafana's JSON, from the panels in grafana/source: `python dashboards.py FOLDER`."""

import json
import re
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

Json = dict[str, Any]

SOURCE = Path(__file__).parent / "grafana/source"
SCHEMA = 39  # of Grafana 10.4; later ones bring it up to theirs when they open it
COLUMNS = 24
SIZES = {"stat": (4, 4)}
SIZE = (8, 8)
SOURCES = {"prometheus": "prometheus", "postgresql": "grafana-postgresql-datasource"}
_JOBS = "label_values(sluice_calls_in_flight, job)"
_SERIES = re.compile(r"\b(?:by|on) \([^)]*\)|\b((?:sluice|gen_ai)_\w+)(\{)?")


def written(folder: Path) -> None:
    """Write one file for each source."""
    folder.mkdir(parents=True, exist_ok=True)
    for path in sorted(SOURCE.glob("*.yaml")):
        made = dashboard(YAML(typ="safe").load(path))
        (folder / f"{path.stem}.json").write_text(json.dumps(made, indent=1, ensure_ascii=False) + "\n")


def dashboard(source: Mapping[str, Any]) -> Json:
    """A dashboard whose panels ask the data source that is chosen on top."""
    kind = source["source"]
    return {
        "uid": source["uid"],
        "title": source["title"],
        "description": source["description"],
        "tags": ["sluice"],
        "schemaVersion": SCHEMA,
        "editable": True,
        "graphTooltip": 1,
        "refresh": "1m" if kind == "prometheus" else "",
        "timezone": "browser",
        "time": {"from": source["range"] if "/" in source["range"] else f"now-{source['range']}", "to": "now"},
        "templating": {"list": list(_variables(kind))},
        "links": [{"type": "dashboards", "tags": ["sluice"], "title": "Sluice", "asDropdown": False, "keepTime": True}],
        "panels": list(_panels(source["rows"], kind)),
    }


def _variables(kind: str) -> Iterator[Json]:
    yield {"name": "datasource", "label": "Data source", "type": "datasource", "query": SOURCES[kind], "current": {}}
    if kind == "prometheus":
        yield {
            "name": "job",
            "label": "Job",
            "type": "query",
            "datasource": {"type": "prometheus", "uid": "${datasource}"},
            "query": _JOBS,
            "definition": _JOBS,
            "refresh": 2,
            "multi": True,
            "includeAll": True,
            "allValue": ".*",
            "current": {"text": "All", "value": "$__all"},
        }


def _panels(rows: list[Json], kind: str) -> Iterator[Json]:
    """Each row below the one before, its panels from left to right."""
    number, top = 0, 0
    for row in rows:
        number += 1
        head = {"id": number, "type": "row", "title": row["row"], "collapsed": False, "panels": []}
        yield head | {"gridPos": _place(0, top, COLUMNS, 1)}
        left, top = 0, top + 1
        height = 0
        for source in row["panels"]:
            width, height = SIZES.get(source.get("kind", ""), SIZE)
            if left + width > COLUMNS:
                left, top = 0, top + height
            number += 1
            yield _panel(source, kind) | {"id": number, "gridPos": _place(left, top, width, height)}
            left += width
        top += height


def _place(left: int, top: int, width: int, height: int) -> Json:
    return {"x": left, "y": top, "w": width, "h": height}


def _panel(source: Json, kind: str) -> Json:
    """One panel; a time series where it does not say otherwise."""
    look = source.get("kind", "timeseries")
    series = enumerate(source["series"].items())
    custom: Json = {}
    if look == "timeseries":
        custom = {"lineWidth": 1, "fillOpacity": 20 if source.get("stacked") else 0, "showPoints": "never"}
        custom["stacking"] = {"mode": "normal" if source.get("stacked") else "none", "group": "A"}
    return {
        "type": look,
        "title": source["title"],
        "description": source["note"],
        "datasource": {"type": SOURCES[kind], "uid": "${datasource}"},
        "targets": [_target(number, legend, asked, kind, look) for number, (legend, asked) in series],
        "fieldConfig": {"defaults": {"unit": source.get("unit", "short"), "min": 0, "custom": custom}, "overrides": []},
        "options": _options(look),
        "transformations": _shape(look) if kind == "prometheus" else [],
    }


def _options(look: str) -> Json:
    if look == "timeseries":
        return {"legend": {"displayMode": "list", "placement": "bottom"}, "tooltip": {"mode": "multi", "sort": "desc"}}
    if look == "table":
        return {"showHeader": True, "cellHeight": "sm"}
    last = {"calcs": ["lastNotNull"], "fields": "", "values": False}
    return {"reduceOptions": last, "orientation": "horizontal" if look == "bargauge" else "auto"}


def _shape(look: str) -> list[Json]:
    """A table has a column for each label, and no time."""
    if look != "table":
        return []
    return [{"id": "organize", "options": {"excludeByName": {"Time": True}, "renameByName": {"Value": "value"}}}]


def _target(number: int, legend: str, asked: str, kind: str, look: str) -> Json:
    base: Json = {"refId": chr(ord("A") + number), "datasource": {"type": SOURCES[kind], "uid": "${datasource}"}}
    if kind == "postgresql":
        return base | {
            "rawSql": asked,
            "format": "time_series" if look == "timeseries" else "table",
            "rawQuery": True,
            "editorMode": "code",
        }
    instant = look != "timeseries"
    shape = {"format": "table"} if look == "table" else {}
    query = {"expr": of_jobs(asked), "legendFormat": legend, "instant": instant, "range": not instant}
    return base | query | shape


def of_jobs(expression: str) -> str:
    """The same of the chosen jobs alone."""
    return _SERIES.sub(_narrowed, expression)


def _narrowed(found: re.Match[str]) -> str:
    """Names of labels stay as they are."""
    name, braces = found.groups()
    return f'{name}{{job=~"$job"{", " if braces else "}"}' if name else found[0]


if __name__ == "__main__":
    written(Path(sys.argv[1]))
