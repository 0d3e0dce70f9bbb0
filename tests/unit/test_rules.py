"""Alert rules, dashboards and the collector's template name what there is; each alert has its page and its tests."""

import json
import re
import subprocess
from collections.abc import Iterator
from html import escape
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from tests.support.prometheus import require

ROOT = Path(__file__).resolve().parents[2]
OBSERVABILITY = ROOT / "deploy/observability"
PROMETHEUS = OBSERVABILITY / "prometheus"
RUNBOOK = (ROOT / "docs/runbook.md").read_text()
DASHBOARDS = sorted((OBSERVABILITY / "grafana").glob("*.json"))
TESTS = sorted(PROMETHEUS.glob("rules_*test.yaml"))
COLLECTOR = OBSERVABILITY / "otel-collector"

Json = dict[str, Any]


def read(path: Path) -> Any:
    return YAML(typ="safe").load(path)


def rules() -> Iterator[Json]:
    for group in read(PROMETHEUS / "rules.yaml")["groups"]:
        yield from group["rules"]


ALERTS = {rule["alert"]: rule for rule in rules() if "alert" in rule}


def series(expression: str) -> set[str]:
    """The gateway's series that an expression names."""
    plain = re.sub(r"\b(?:by|on|group_left) \([^)]*\)", "", expression)
    return set(re.findall(r"\b(?:sluice|gen_ai)_\w+", plain))


def known() -> set[str]:
    """Names of all series that the gateway tells: a page of the documentation is held to the code, and lists them."""
    named = re.findall(r"^\| `((?:sluice|gen_ai)_\w+)` \|", (ROOT / "docs/operations.md").read_text(), re.MULTILINE)
    return {name + suffix for name in named for suffix in ("", "_bucket", "_sum", "_count")}


def panels(path: Path) -> list[Json]:
    found: list[Json] = json.loads(path.read_text())["panels"]
    return found


# ---- rules --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ALERTS)
def test_an_alert_says_how_bad_it_is_and_where_to_read_on(name: str) -> None:
    rule = ALERTS[name]
    assert rule["labels"]["severity"] in {"page", "ticket"}
    assert rule["annotations"]["summary"]
    assert rule["annotations"]["runbook_url"] == f"docs/runbook.md#{name.lower()}"


def test_each_alert_has_its_place_in_the_runbook_and_nothing_else_has() -> None:
    assert sorted(re.findall(r"^### (\w+)$", RUNBOOK, re.MULTILINE)) == sorted(ALERTS)
    for part in re.split(r"^### ", RUNBOOK, flags=re.MULTILINE)[1:]:
        assert all(f"**{what}**" in part for what in ("Means.", "Look.", "Do.")), part.split("\n")[0]


def test_each_alert_is_tested() -> None:
    tested = [name for path in TESTS for name in re.findall(r'expr: ALERTS\{alertname="(\w+)"', path.read_text())]
    assert sorted(tested) == sorted(ALERTS)


def test_rules_name_series_that_there_are() -> None:
    named = set().union(*(series(rule["expr"]) for rule in rules()))
    assert named - known() == set()
    recorded = {rule["record"] for rule in rules() if "record" in rule}
    used = set().union(*(set(re.findall(r"\bsluice:[\w:]+", rule["expr"])) for rule in rules()))
    assert used == recorded


def test_promtool_accepts_rules_and_configuration() -> None:
    promtool = require("promtool")
    subprocess.run([promtool, "check", "rules", "--lint=all", "--lint-fatal", PROMETHEUS / "rules.yaml"], check=True)
    subprocess.run([promtool, "check", "config", PROMETHEUS / "prometheus.yaml"], check=True)


@pytest.mark.parametrize("path", TESTS, ids=lambda path: path.name)
def test_alerts_fire_and_stay_silent(path: Path) -> None:
    told = subprocess.run([require("promtool"), "test", "rules", path], capture_output=True, text=True)
    assert told.returncode == 0, told.stdout + told.stderr


# ---- dashboards ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", DASHBOARDS, ids=lambda path: path.stem)
def test_a_dashboard_names_series_that_there_are(path: Path) -> None:
    asked = [target["expr"] for panel in panels(path) for target in panel.get("targets", ()) if "expr" in target]
    assert set().union(*map(series, asked)) - known() == set()
    for expression in asked:  # each of the chosen jobs alone
        named = re.findall(r"\b(?:sluice|gen_ai)_\w+\{", re.sub(r"\b(?:by|on) \([^)]*\)", "", expression))
        assert expression.count('{job=~"$job"') == len(named) > 0, expression


@pytest.mark.parametrize("path", DASHBOARDS, ids=lambda path: path.stem)
def test_panels_of_a_dashboard_have_a_place_of_their_own(path: Path) -> None:
    taken: set[tuple[int, int]] = set()
    for panel in panels(path):
        place = panel["gridPos"]
        cells = {(place["x"] + across, place["y"] + down) for across in range(place["w"]) for down in range(place["h"])}
        assert not cells & taken, panel["title"]
        assert place["x"] + place["w"] <= 24
        taken |= cells
    ids = [panel["id"] for panel in panels(path)]
    assert len(ids) == len(set(ids))


@pytest.mark.parametrize("path", DASHBOARDS, ids=lambda path: path.stem)
def test_a_dashboard_asks_the_data_source_that_is_chosen(path: Path) -> None:
    dashboard = json.loads(path.read_text())
    assert dashboard["uid"] == f"sluice-{path.stem}"
    variables = {variable["name"] for variable in dashboard["templating"]["list"]}
    for panel in dashboard["panels"]:
        if panel["type"] != "row":
            assert panel["datasource"]["uid"] == "${datasource}"
            assert panel["description"]
    used = set(re.findall(r"\$\{?(\w+)", path.read_text())) - {"__rate_interval", "__range", "__timeFilter", "__all"}
    assert used <= variables


@pytest.mark.parametrize("name", ["operations", "finops"])
def test_the_picture_shows_the_panels_of_today(name: str) -> None:
    drawn = (ROOT / f"docs/dashboard-{name}.svg").read_text()
    titles = [escape(panel["title"]) for panel in panels(OBSERVABILITY / f"grafana/{name}.json")]
    assert [title for title in titles if f">{title}</text>" not in drawn] == [], "make dashboards"
    assert "no data" not in drawn


# ---- collector ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", sorted(COLLECTOR.glob("*.yaml")), ids=lambda path: path.stem)
def test_a_pipeline_of_the_collector_has_all_parts_and_guards_its_memory(path: Path) -> None:
    base, own = read(COLLECTOR / "collector.yaml"), read(path)
    for name, pipeline in {**base["service"]["pipelines"], **own["service"]["pipelines"]}.items():
        whole = {**base["service"]["pipelines"].get(name, {}), **pipeline}
        for part in ("receivers", "processors", "exporters"):
            assert set(whole[part]) <= {*base.get(part, {}), *own.get(part, {})}, name
        assert whole["processors"][0] == "memory_limiter"
        assert whole["processors"][-1] == "batch"


def test_no_secret_stands_in_the_collector_s_template() -> None:
    for path in COLLECTOR.glob("*.yaml"):
        for line in path.read_text().splitlines():
            if re.search(r"(?i)connection_string|authorization|password|key:", line.split("#")[0]):
                assert "${env:" in line, line
