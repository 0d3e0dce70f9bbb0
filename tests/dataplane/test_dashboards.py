"""Dashboards and alert rules beside a real gateway and a real Prometheus: no panel is empty, and sums are the ledger's.

An hour of mixed traffic in some seconds. `increase` and `rate` extrapolate, so what is compared with the ledger are
the last values of the counters, of which every panel is made. The first call of a series that begins with it is none.
"""

import json
import os
import re
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import pytest
from sqlalchemy import create_engine, text

from extproc.stores import sql
from tests.support.busy import Site, busy, busy_site
from tests.support.gateway import ROOT, until
from tests.support.ports import free_port
from tests.support.prometheus import Prometheus, prometheus
from tests.support.redis_server import redis_server
from tests.support.stores import empty_postgres

Sums = dict[tuple[str, ...], int]

ROUNDS = int(os.environ.get("SLUICE_BUSY_ROUNDS", "4"))
MANY = 20
"""So many rounds are those of `make deep-dashboards`, with a Redis and two workers."""
DASHBOARDS = ROOT / "deploy/observability/grafana"
RULES = ROOT / "deploy/observability/prometheus/rules.yaml"
PATIENCE = 60.0
PUBLISHED = 1.5
"""Seconds within which what is counted is told."""
EMPTY: Mapping[tuple[str, str], str] = {
    ("Age of configuration and secrets", "{{secret}}"): "no secret is fetched here",
}
"""Series that have nothing to show in this set-up."""
KINDS = ("input", "output", "cached_input", "cache_write", "reasoning")


@dataclass(frozen=True)
class Hour:
    """What has been, and who was asked about it."""

    site: Site
    prometheus: Prometheus
    began: float

    def told(self, expression: str, *labels: str) -> Sums:
        """An instant query by its labels, without what is 0."""
        series = self.prometheus.now(expression)
        return {tuple(found.get(label, "") for label in labels): round(value) for found, value in series if value}

    def ledger(self, asked: str) -> list[tuple[Any, ...]]:
        engine = create_engine(self.site.gateway.settings["stores"]["database"])
        try:
            with engine.connect() as connection:
                return [tuple(row) for row in connection.execute(text(asked))]
        finally:
            engine.dispose()

    def booked(self, asked: str) -> Sums:
        """Rows of the ledger whose last column is a sum, by the others, without what is 0."""
        return {tuple(str(part or "") for part in row[:-1]): int(row[-1]) for row in self.ledger(asked) if row[-1]}


@pytest.fixture(scope="module")
def hour() -> Iterator[Hour]:
    port = free_port()
    with ExitStack() as stack:
        more: dict[str, Any] = {"metrics": {"port": port}}
        if ROUNDS >= MANY:
            more |= {"workers": 2, "stores": {"counters": stack.enter_context(redis_server()).url}}
        seen = stack.enter_context(prometheus([port], rules=[RULES]))  # first: it looks for targets after some seconds
        site = stack.enter_context(busy_site(**more))
        until(lambda: seen.now("up == 1"), PATIENCE, "the first scrape")
        made = Hour(site, seen, time.time())
        for rounds in (1, ROUNDS - 1):  # what a counter begins with is no rise
            busy(site, rounds)
            await_scrape(seen)
        until(lambda: is_all_booked(made), PATIENCE, "the ledger to have all calls")
        yield made


def await_scrape(seen: Prometheus) -> None:
    """Until Prometheus has what there is now."""
    told = time.time() + PUBLISHED
    until(lambda: seen.scraped() > told, PATIENCE, "the next scrape")


def is_all_booked(hour: Hour) -> bool:
    """Calls of nobody are in no ledger."""
    counted = hour.told('sum(sluice_calls_total{status!="401", surface!="ready"})')
    return counted == hour.booked("SELECT count(*) FROM calls")


def filled(expression: str) -> str:
    """As Grafana fills in its variables, for a time that is as short as this."""
    for variable, value in {"$job": ".+", "$__rate_interval": "10s", "$__range": "30m", "[1h]": "[1m]"}.items():
        expression = expression.replace(variable, value)
    return expression


def targets(name: str) -> list[Any]:
    """What a dashboard asks, as parameters of a test."""
    panels = json.loads((DASHBOARDS / f"{name}.json").read_text())["panels"]
    return [
        pytest.param(panel["title"], target, id=f"{panel['title']} {target.get('legendFormat', target['refId'])}")
        for panel in panels
        for target in panel.get("targets", ())
    ]


@pytest.mark.parametrize(("title", "target"), [*targets("operations"), *targets("finops")])
def test_a_panel_shows_something(title: str, target: dict[str, Any], hour: Hour) -> None:
    asked = filled(target["expr"])
    assert "$" not in asked

    named = set(re.findall(r"{{(\w+)}}", target["legendFormat"]))

    def shown() -> bool:
        if target["instant"]:
            found = [(labels, [value]) for labels, value in hour.prometheus.now(asked)]
        else:
            series = hour.prometheus.over(asked, hour.began, time.time(), 1)
            found = [(labels, [value for _, value in points]) for labels, points in series]
        return any(named <= labels.keys() for labels, values in found if any(value == value for value in values))

    if (title, target["legendFormat"]) in EMPTY:
        assert not shown()
    else:
        until(shown, what=asked)


@pytest.mark.parametrize(("title", "target"), targets("ledger"))
def test_a_panel_of_the_ledger_shows_the_same_cost(title: str, target: dict[str, Any], hour: Hour) -> None:
    rows = hour.ledger(target["rawSql"].replace("$__timeFilter(day)", "day BETWEEN '2000-01-01' AND '2100-01-01'"))
    assert rows, title
    if "AS cost" in target["rawSql"]:
        place = -2 if "currency" in target["rawSql"] else -1
        ((spent,),) = hour.ledger("SELECT sum(cost) / 1e9 FROM calls")
        assert sum(float(row[place]) for row in rows) == pytest.approx(float(spent))


@pytest.mark.parametrize(("title", "target"), targets("ledger"))
def test_a_panel_of_the_ledger_is_understood_by_postgresql(title: str, target: dict[str, Any]) -> None:
    """With times as Grafana writes them."""
    url = empty_postgres()
    sql.upgrade(url)
    between = "day BETWEEN '2026-03-01T00:00:00Z' AND '2026-03-31T12:34:56.789Z'"
    engine = create_engine(url)
    with engine.connect() as connection:
        assert list(connection.execute(text(target["rawSql"].replace("$__timeFilter(day)", between)))) == []
    engine.dispose()


EQUAL: Mapping[str, tuple[str, tuple[str, ...], str]] = {
    "calls": (
        'sum by (model, status) (sluice_calls_total{model!=""})',
        ("model", "status"),
        "SELECT model, status, count(*) FROM calls WHERE model <> '' GROUP BY model, status",
    ),
    **{
        kind: (
            f'sum by (model) (sluice_tokens_total{{kind="{kind}"}})',
            ("model",),
            f"SELECT model, sum({kind}) FROM calls GROUP BY model",
        )
        for kind in KINDS
    },
    "cost": (
        "sum by (team, model) (sluice_cost_nano_total)",
        ("team", "model"),
        "SELECT team, model, sum(cost) FROM calls GROUP BY team, model",
    ),
    "cost by day": (
        "sum by (team, model) (sluice_cost_nano_total)",
        ("team", "model"),
        "SELECT team, model, sum(cost) FROM usage_models GROUP BY team, model",
    ),
    "saved": (
        'sum by (team, model) (sluice_cache_saved_nano_total{mode="enforce"})',
        ("team", "model"),
        "SELECT team, model, sum(saved) FROM calls GROUP BY team, model",
    ),
    "refusals": (
        'sum by (code) (sluice_refusals_total{code!="invalid_api_key"})',
        ("code",),
        "SELECT refusal, count(*) FROM calls WHERE refusal IS NOT NULL GROUP BY refusal",
    ),
    "endings": (
        'sum by (ending) (sluice_calls_total{status!="401", surface!="ready"})',
        ("ending",),
        "SELECT ending, count(*) FROM calls GROUP BY ending",
    ),
    "attempts": (
        'sum by (backend, status) (sluice_attempts_total{status=~"[1-5].."})',
        ("backend", "status"),
        "SELECT backend, status, count(*) FROM attempts WHERE status > 0 GROUP BY backend, status",
    ),
    "failovers": (
        "sum by (model) (sluice_failovers_total)",
        ("model",),
        "SELECT model, count(*) FROM calls "
        "WHERE backend <> '' AND chain NOT LIKE '[\"' || backend || '\"%' GROUP BY model",
    ),
    "redacted": (
        'sum(sluice_redactions_total{direction="input", mode="enforce"})',
        (),
        "SELECT sum(redacted) FROM calls",
    ),
    "rows": ('sum(sluice_ledger_rows_total{what="calls"})', (), "SELECT count(*) FROM calls"),
    "rows of attempts": ('sum(sluice_ledger_rows_total{what="attempts"})', (), "SELECT count(*) FROM attempts"),
}


@pytest.mark.parametrize("what", EQUAL)
def test_what_prometheus_has_is_what_the_ledger_has(what: str, hour: Hour) -> None:
    expression, labels, asked = EQUAL[what]
    last: list[Sums] = []

    def agree() -> bool:
        last[:] = [hour.told(expression, *labels), hour.booked(asked)]
        return last[0] == last[1]

    try:
        until(agree, what=what)
    finally:
        assert last[0] == last[1]
    assert last[0], "nothing of it happened"


def test_the_rules_can_be_evaluated_and_what_must_alarm_does(hour: Hour) -> None:
    def evaluated() -> bool:
        rules = [rule for group in hour.prometheus.rules() for rule in group["rules"]]
        return all(rule["health"] == "ok" for rule in rules) and bool(rules)

    until(evaluated, PATIENCE, "each rule to be evaluated")
    must = {"SluiceUnpricedCalls", "SluiceBudgetSpent", "SluiceOverspent"}
    until(lambda: must <= {alert["alertname"] for alert in hour.prometheus.alerts()}, PATIENCE, f"{must}")
    never = {"SluiceDown", "SluiceLedgerOdd", "SluiceSettlementsLost", "SluiceRecordsDropped", "SluiceConfigRejected"}
    assert not never & {alert["alertname"] for alert in hour.prometheus.alerts()}
