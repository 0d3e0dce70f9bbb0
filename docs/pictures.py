"""Draws the dashboards from a real Prometheus beside a real gateway: `make dashboards` puts the pictures beside this.

Each panel asks what its JSON says, with Grafana's variables filled in as for a few minutes' time, instead of hours.
"""

import json
import math
import re
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import drawing
from drawing import CELL, LINE, Box, Series

from tests.support.busy import busy, busy_site
from tests.support.gateway import until
from tests.support.ports import free_port
from tests.support.prometheus import Prometheus, prometheus

Json = dict[str, Any]

HERE = Path(__file__).resolve().parent
SOURCE = HERE.parent / "deploy/observability/grafana"
DASHBOARDS = ("operations", "finops")
SECONDS = 150.0
STEP = 3.0
VARIABLES = {"$job": ".+", "$__rate_interval": "10s", "$__range": "5m", "[1h]": "[1m]"}


def main(seconds: float) -> None:
    port = free_port()
    with prometheus([port]) as seen, busy_site(metrics={"port": port}) as site:
        until(lambda: seen.now("up == 1"), 60, "the first scrape")
        began = time.time() + SECONDS / 10  # rates of the first seconds are of little
        while (passed := time.time() - began) < seconds:
            busy(site, 1, seed=int(passed * 1000))
            time.sleep(1.2 + math.sin(passed / 9))
        time.sleep(STEP)
        for name in DASHBOARDS:
            dashboard = json.loads((SOURCE / f"{name}.json").read_text())
            (HERE / f"dashboard-{name}.svg").write_text(picture(dashboard, seen, began, time.time()))


def picture(dashboard: Json, seen: Prometheus, began: float, ended: float) -> str:
    """A whole dashboard, each panel where Grafana has it."""
    parts, height = [], 0.0
    for panel in dashboard["panels"]:
        place = panel["gridPos"]
        box = Box(place["x"] * CELL, place["y"] * LINE, place["w"] * CELL, place["h"] * LINE)
        height = max(height, box.y + box.height)
        if panel["type"] == "row":
            parts.append(drawing.heading(box, panel["title"]))
        else:
            inside = drawn(panel, box, seen, began, ended)
            parts.append(drawing.panel(box, panel["title"], inside))
    return drawing.page(dashboard["title"], 24 * CELL, height, parts)


def drawn(panel: Json, box: Box, seen: Prometheus, began: float, ended: float) -> Iterator[str]:
    unit = panel["fieldConfig"]["defaults"]["unit"]
    if panel["type"] == "table":
        return rows(panel, box, seen, unit)
    series = [one for target in panel["targets"] for one in asked(target, seen, began, ended)]
    if panel["type"] == "stat":
        return drawing.stat(box, series, unit)
    if panel["type"] == "bargauge":
        return drawing.bars(box, series, unit)
    stacked = panel["fieldConfig"]["defaults"]["custom"]["stacking"]["mode"] == "normal"
    return drawing.lines(box, series, unit, stacked, began, ended)


def asked(target: Json, seen: Prometheus, began: float, ended: float) -> Iterator[Series]:
    """What Prometheus answers, without what is no number."""
    expression, legend = filled(target["expr"]), target["legendFormat"]
    if target["instant"]:
        for labels, value in seen.now(expression):
            yield Series(named(legend, labels), [(ended, value)])
        return
    for labels, points in seen.over(expression, began, ended, STEP):
        if numbers := [point for point in points if math.isfinite(point[1])]:
            yield Series(named(legend, labels), numbers)


def rows(panel: Json, box: Box, seen: Prometheus, unit: str) -> Iterator[str]:
    found = seen.now(filled(panel["targets"][0]["expr"]))
    columns = [*sorted({label for labels, _ in found for label in labels}), "value"]
    ranked = sorted(found, key=lambda one: (-one[1], sorted(one[0].items())))
    return drawing.table(box, [{**labels, "value": drawing.told(value, unit)} for labels, value in ranked], columns)


def filled(expression: str) -> str:
    for variable, value in VARIABLES.items():
        expression = expression.replace(variable, value)
    return expression


def named(legend: str, labels: Mapping[str, str]) -> str:
    return re.sub(r"{{(\w+)}}", lambda found: labels.get(found[1], ""), legend).strip() or "none"


if __name__ == "__main__":
    main(float(sys.argv[1]) if len(sys.argv) > 1 else SECONDS)
