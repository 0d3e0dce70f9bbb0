"""The gauges of limits, and the series that are there before anything happens."""

from collections.abc import Iterator
from dataclasses import replace
from itertools import islice
from typing import Any

import pytest
from prometheus_client import REGISTRY
from prometheus_client.registry import Collector
from prometheus_client.samples import Sample

from extproc.cache.control import Control
from extproc.cache.lookup import Lookup
from extproc.cache.policy import CachePolicy, CacheRules, Selector
from extproc.call import Call, Rules
from extproc.guardrails.policy import ContentRule, Guardrails
from extproc.limits.hold import Stake
from extproc.limits.limit import Limit, Measure, Period, Scope
from extproc.model import Catalogue, Ending, Outcome, PublicModel, Target
from extproc.redaction.policy import Mode
from extproc.stores.counters import Counter, Draw, Reading
from extproc.telemetry import calls, configured, metrics
from extproc.telemetry.configured import Declared, series
from extproc.telemetry.standings import Standings
from tests.support.playbook import ONE, TWO, catalogue

HOUR = 3_600_000
POLICIES = (("limit", "p-limit"), ("guardrail", "p-guard"), ("cache", "rules.0"), ("cache", "default"))


def limit(name: str, *scope: Scope, **more: Any) -> Limit:
    more = {"measure": Measure.MONEY, "amount": 1_000, "sliding": 0, **more}
    return Limit(name, scope=scope, **more)


def monthly(name: str, *scope: Scope, **more: Any) -> Limit:
    return limit(name, *scope, period=Period.MONTH, **more)


def stake(of: Limit, *values: str, capacity: int = 1_000) -> Stake:
    return Stake(of, Draw(Counter("c", capacity), 5), values)


def samples(of: Collector) -> list[Sample]:
    return [sample for family in of.collect() for sample in family.samples]


def used(of: str, scope: str = "") -> float | None:
    return REGISTRY.get_sample_value("sluice_limit_used_ratio", {"limit": of, "scope": scope})


def left(of: str, scope: str, measure: str) -> float | None:
    return REGISTRY.get_sample_value("sluice_limit_remaining", {"limit": of, "scope": scope, "measure": measure})


@pytest.fixture(autouse=True)
def anew() -> Iterator[None]:
    yield
    metrics.publish()
    for gauge in (metrics.LIMIT_USED, metrics.LIMIT_REMAINING):
        gauge.clear()


def test_a_limit_shows_what_is_settled_of_each_of_its_sums() -> None:
    standings = Standings()
    by_team = monthly("g-team", Scope.TEAM, Scope.MODEL)
    stood = [(stake(by_team, "a", "m"), Reading(300, HOUR, held=50)), (stake(by_team, "b", "m"), Reading(10, HOUR))]
    standings.note(stood, at=0)
    assert used("g-team", "a/m") is None
    standings.show(1_000)
    assert (used("g-team", "a/m"), used("g-team", "b/m")) == (0.25, 0.01)
    assert (left("g-team", "a/m", "money"), left("g-team", "b/m", "money")) == (750, 990)


def test_the_last_call_is_what_counts_and_overspending_leaves_nothing() -> None:
    standings = Standings()
    for amount in (500, 1_500):
        standings.note([(stake(monthly("g-over")), Reading(amount, HOUR))], at=0)
    standings.show(0)
    assert (used("g-over"), left("g-over", "", "money")) == (1.5, 0)


def test_once_a_calendars_window_is_over_nothing_of_it_is_used_and_that_is_told_once() -> None:
    standings = Standings()
    standings.note([(stake(monthly("g-month")), Reading(500, HOUR))], at=0)
    standings.show(0)
    metrics.LIMIT_USED.labels("g-month", "").set(0.7)  # by another worker, which has seen a later call
    standings.show(HOUR - 1)
    assert used("g-month") == 0.7
    standings.show(HOUR)
    assert (used("g-month"), left("g-month", "", "money")) == (0, 1_000)
    metrics.LIMIT_USED.labels("g-month", "").set(0.2)
    standings.show(HOUR + 1)
    assert used("g-month") == 0.2


def test_of_what_slides_nothing_is_used_once_all_of_it_has_slid_out() -> None:
    """An alert on it would never end, where its callers left."""
    standings = Standings()
    sliding = stake(limit("g-slides", sliding=60_000))
    standings.note([(sliding, Reading(500, 30_000))], at=0, booked={"c": 5}, now=10_000)
    standings.show(10_000)
    standings.show(69_999)
    assert used("g-slides") == 0.505
    standings.show(70_000)
    assert (used("g-slides"), left("g-slides", "", "money")) == (0, 1_000)


def test_what_calls_booked_since_the_last_was_told_is_used_too() -> None:
    """Four at once that none of them was told of."""
    standings, of = Standings(), stake(monthly("g-since"))
    for number in range(4):
        reading = Reading(100 + 5 * (number + 1), HOUR, held=5 * (number + 1))
        standings.note([(of, reading)], at=number, booked={"c": 5}, now=100 + number)
    standings.show(200)
    assert used("g-since") == 0.12
    standings.note([(of, Reading(125, HOUR, held=5))], at=102)  # which was told of three of them
    standings.note([(of, Reading(110, HOUR, held=5))], at=50)  # ends late, and knows less
    standings.show(300)
    assert used("g-since") == 0.125


@pytest.mark.parametrize(
    "hidden",
    [
        monthly("g-hidden", Scope.USER),
        monthly("g-hidden", Scope.TEAM, Scope.KEY),
        monthly("g-hidden", owner="key/line"),
        limit("g-hidden", measure=Measure.CONCURRENT),
    ],
)
def test_sums_that_are_as_many_as_callers_are_not_shown(hidden: Limit) -> None:
    standings = Standings()
    standings.note([(stake(hidden, *("x" for _ in hidden.scope)), Reading(1, HOUR))], at=0)
    standings.show(0)
    assert not [sample for sample in samples(metrics.LIMIT_USED) if "hidden" in sample.labels["limit"]]


# ---- policies ---------------------------------------------------------------------------------------


def policies() -> Catalogue:
    target, other = Target(ONE, "m"), Target(TWO, "m")
    model = PublicModel("pm", ((target,), (other,)))
    rule = CachePolicy(mode=Mode.SHADOW)
    content = (ContentRule("p-words", words=("w",)), ContentRule("p-off", words=("w",), mode=Mode.OFF))
    return replace(
        catalogue(),
        models={"pm": model},
        limits=(monthly("p-limit", warn_at=(80,)),),
        guardrails={"p-guard": Guardrails("p-guard", content=content)},
        cache=CacheRules(rules=((Selector(models=frozenset({"pm"})), rule),)),
    )


def shown(name: str, **labels: str) -> float | None:
    return REGISTRY.get_sample_value(name, labels)


def test_what_is_configured_is_there_at_0() -> None:
    of_team = monthly("p-own", owner="team/t")
    Declared().go_on(policies(), [of_team], "first")
    applied = [("limit", "p-limit"), ("limit", "team/t/p-own"), ("guardrail", "p-guard")]
    for kind, policy in (*applied, ("cache", "rules.0")):
        assert shown("sluice_policy_calls_total", kind=kind, policy=policy) == 0
    assert (metrics.POLICY_CALLS, ("cache", "default")) not in series(policies(), [])  # which is off
    for name in ("p-limit", "team/t/p-own"):
        assert shown("sluice_limit_refusals_total", limit=name) == 0
        assert shown("sluice_limit_shadow_refusals_total", limit=name) == 0
    verdicts = [sample.labels for sample in samples(metrics.VERDICTS) if sample.labels["rule"].startswith("p-")]
    told = {"guardrail": "content", "rule": "p-words", "action": "block", "mode": "enforce"}
    assert verdicts[:1] == [told]
    assert all(one["rule"] == "p-words" for one in verdicts)
    assert shown("sluice_limit_warnings_total", limit="p-limit", threshold="80") == 0
    assert [shown("sluice_failovers_total", model="pm", backend=backend) for backend in ("one", "two")] == [0, 0]


def test_series_are_made_some_at_a_time_and_again_for_another_configuration(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(configured, "_AT_ONCE", 3)
    many = [monthly(f"many-{number}") for number in range(4)]
    declared = Declared()

    def there() -> int:
        names = {sample.labels["policy"] for sample in samples(metrics.POLICY_CALLS)}
        return sum(name.startswith("many-") for name in names)

    plain = replace(catalogue(), models={})
    seen = []
    for _ in range(2):
        declared.go_on(plain, many, "one")
        seen.append(there())
    for _ in range(4):
        declared.go_on(plain, [monthly("many-5")], "two")  # which does not begin before the first is through
        seen.append(there())
    assert seen == [1, 2, 3, 4, 5, 5]
    assert len([*islice(configured.series(plain, many), 100)]) == 3 * 4


def test_a_policy_counts_the_calls_that_it_applied_to_whatever_it_said() -> None:
    of_backends = monthly("p-limit", Scope.BACKEND)
    given = policies()
    call = Call(started=0.0, catalogue=given)
    call.stood = tuple((stake(of_backends, name), Reading(1, HOUR)) for name in ("one", "two"))
    call.rules = Rules(None, given.guardrails["p-guard"], "")
    before = {name: shown("sluice_policy_calls_total", kind=name[0], policy=name[1]) or 0.0 for name in POLICIES}
    call.lookup = Lookup(given.cache.rules[0][1], Control())
    for _ in range(2):
        calls.count_call(call, Outcome(Ending.COMPLETE, 200), 1.0)
    call.lookup = Lookup(given.cache.default, Control())
    for _ in range(2):
        calls.count_call(call, Outcome(Ending.COMPLETE, 200), 1.0)
    metrics.publish()
    for (kind, policy), value in before.items():
        grown = (shown("sluice_policy_calls_total", kind=kind, policy=policy) or 0) - value
        assert grown == (2 if kind == "cache" else 4), policy


def test_a_limit_that_counts_open_calls_from_now_on_is_no_sum_any_more() -> None:
    """By a new configuration, while what was noted of the old one has not ended."""
    standings, before = Standings(), monthly("became-concurrent")
    standings.note([(stake(before), Reading(400, HOUR))], 1_000)
    standings.show(1_001)
    metrics.publish()
    was = used("became-concurrent")
    after = limit("became-concurrent", measure=Measure.CONCURRENT)
    standings.note([(stake(after), Reading(900, HOUR))], 2_000)
    standings.show(2_001)
    metrics.publish()
    assert used("became-concurrent") == was is not None
