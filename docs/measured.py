"""Draws what `make bench` found: `python docs/measured.py loadtest/results/bench.json > docs/cost.svg`."""

import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import drawing
from drawing import Box, Series

Json = dict[str, Any]

WIDTH, HEIGHT = 480, 190
NAMES = {"A": "Envoy alone", "B": "null policy", "C0": "no policies", "C": "all policies"}
WORKLOADS = {"json": "JSON", "sse": "stream"}


def picture(found: Json) -> str:
    """Two rows of panels: JSON calls, and streams."""
    parts = []
    for row, (workload, name) in enumerate(WORKLOADS.items()):
        figures = found["workloads"][workload]
        panels = (
            (f"{name}: calls a second", _setups(figures, "calls_per_second", float), "reqps"),
            (f"{name}: CPU of the worker a call", _setups(figures, "policy_us", lambda us: us / 1e6), "s"),
            (f"{name}: calls a second, over those of the plain call", _ways(figures), "none"),
        )
        for column, (title, series, unit) in enumerate(panels):
            box = Box(column * WIDTH, row * HEIGHT, WIDTH, HEIGHT)
            parts.append(drawing.panel(box, title, drawing.bars(box, list(series), unit)))
    return drawing.page("What a call costs", len(panels) * WIDTH, len(WORKLOADS) * HEIGHT, parts)


def _setups(figures: Json, figure: str, shown: Callable[[float], float]) -> Iterator[Series]:
    for name, said in NAMES.items():
        value = figures["setups"][name][figure]["median"]
        if value:
            yield Series(said, [(0, shown(value))])


def _ways(figures: Json) -> Iterator[Series]:
    for way, told in figures["ways"].items():
        yield Series(way, [(0, told["calls/s / C"]["median"])])


if __name__ == "__main__":
    sys.stdout.write(picture(json.loads(Path(sys.argv[1]).read_text())))
