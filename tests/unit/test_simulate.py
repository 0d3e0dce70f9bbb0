"""The laws of the capacity model: more of anything never needs less, twice as much needs twice as much."""

import json
import random
from dataclasses import fields, replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from loadtest import simulate
from loadtest.simulate import Costs, Demand, Layout

COSTS = Costs(2000, 60, 20, 20, 500, 25, 100, 20, 6000, 60, 60, 110, 60)
DEMAND = Demand(1000)
LAYOUT = Layout(cores=4, workers=3)


def units(costs: Costs, demand: Demand, layout: Layout = LAYOUT) -> dict[str, float]:
    return {part.name: part.units for part in simulate.plan(costs, demand, layout).parts}


@given(st.floats(0.1, 1e5))
@settings(max_examples=20)
def test_twice_the_calls_need_twice_of_everything(rate: float) -> None:
    once, twice = units(COSTS, Demand(rate)), units(COSTS, Demand(2 * rate))
    assert twice == pytest.approx({name: 2 * amount for name, amount in once.items()})


@pytest.mark.parametrize("name", [field.name for field in fields(Costs) if field.name != "ledger_rows_per_second"])
def test_what_costs_more_never_needs_less(name: str) -> None:
    dearer = replace(COSTS, **{name: 2 * getattr(COSTS, name)})
    before, after = units(COSTS, DEMAND), units(dearer, DEMAND)
    assert all(after[part] >= before[part] for part in before)
    assert after != before, "the cost is in nothing"


@pytest.mark.parametrize("name", [field.name for field in fields(Demand)])
def test_who_asks_for_more_never_needs_less(name: str) -> None:
    more = replace(DEMAND, **{name: 1.2 * getattr(DEMAND, name)})
    before, after = units(COSTS, DEMAND), units(COSTS, more)
    assert all(after[part] >= before[part] * 0.999 for part in before)
    assert after != before


def test_a_faster_ledger_needs_fewer_databases() -> None:
    faster = replace(COSTS, ledger_rows_per_second=12000)
    name = "PostgreSQL, rows of the ledger"
    assert units(faster, DEMAND)[name] == pytest.approx(units(COSTS, DEMAND)[name] / 2)


@given(st.integers(1, 1000), st.integers(1, 1000))
@settings(max_examples=30)
def test_longer_leases_never_ask_more_of_redis(one: int, other: int) -> None:
    shorter, longer = sorted((one, other))
    before = units(COSTS, DEMAND, replace(LAYOUT, lease=shorter))
    after = units(COSTS, DEMAND, replace(LAYOUT, lease=longer))
    assert all(after[name] <= before[name] for name in before)


def test_the_first_bottleneck_is_what_ends_first_and_decides() -> None:
    small = simulate.plan(COSTS, Demand(1), LAYOUT)
    assert small.holds
    lowest = min(part.ceiling for part in small.parts)
    for rate, holds in ((0.9 * lowest, True), (1.1 * lowest, False)):
        found = simulate.plan(COSTS, Demand(rate), LAYOUT)
        assert (found.first, found.holds) == (small.first, holds)
        assert min(part.ceiling for part in found.parts) == pytest.approx(lowest)


def test_to_split_the_biggest_area_moves_its_ceiling_and_no_other() -> None:
    def ceilings(layout: Layout) -> dict[str, float]:
        return {part.name: part.ceiling for part in simulate.plan(COSTS, DEMAND, layout).parts}

    before, after = ceilings(LAYOUT), ceilings(replace(LAYOUT, areas_split=4))
    moved = {name for name in before if after[name] != pytest.approx(before[name])}
    assert moved == {"Redis, the slot of the biggest area"}
    (name,) = moved
    assert after[name] == pytest.approx(4 * before[name])


@given(st.lists(st.tuples(st.floats(0, 10), st.floats(0, 10)), min_size=1, max_size=30))
def test_nobody_is_served_before_those_in_front_of_him(steps: list[tuple[float, float]]) -> None:
    moment, arrivals = 0.0, []
    for gap, _ in steps:
        moment += gap
        arrivals.append(moment)
    services = [service for _, service in steps]
    waits = simulate.waits(arrivals, services)
    assert len(waits) == len(steps)
    free = 0.0
    for arrival, service, wait in zip(arrivals, services, waits, strict=True):
        assert wait == pytest.approx(max(0.0, free - arrival), abs=1e-6)
        free = max(free, arrival) + service


def test_the_simulated_wait_is_that_of_the_formula_where_there_is_one() -> None:
    """M/D/1: with one length of service the mean wait is known (Pollaczek-Khinchine)."""
    dice, moment, arrivals, busy = random.Random(3), 0.0, [], 0.6
    for _ in range(200_000):
        moment += dice.expovariate(busy)
        arrivals.append(moment)
    waits = simulate.waits(arrivals, [1.0] * len(arrivals))
    assert sum(waits) / len(waits) == pytest.approx(busy / (2 * (1 - busy)), rel=0.05)


def test_a_busier_worker_makes_messages_wait_longer_and_stalls_allow_less() -> None:
    waits = [simulate.wait_p99(COSTS, DEMAND, busy) for busy in (0.1, 0.3, 0.5, 0.7)]
    assert waits == sorted(waits)
    assert waits[0] < waits[-1]
    stalls = replace(COSTS, worker_stall_ms=200)
    assert simulate.utilisation(stalls, DEMAND, 20) < simulate.utilisation(COSTS, DEMAND, 20)


def test_measured_costs_are_whole_and_tell_where_they_are_from() -> None:
    simulate.costs_of(simulate.COSTS)
    for cost in json.loads(simulate.COSTS.read_text()).values():
        assert set(cost) == {"value", "unit", "command", "date"}


def test_costs_that_nobody_knows_are_refused(tmp_path: Path) -> None:
    file = tmp_path / "costs.json"
    file.write_text('{"worker_call_us": {"value": 1}, "hope": {"value": 2}}')
    with pytest.raises(ValueError, match="hope"):
        simulate.costs_of(file)


def test_a_pod_without_room_is_told() -> None:
    with pytest.raises(ValueError, match="memory"):
        simulate.plan(COSTS, DEMAND, replace(LAYOUT, memory_mib=100))


@pytest.mark.parametrize("name", sorted(simulate.SCENARIOS))
def test_each_scenario_is_told(name: str) -> None:
    demand, layout = simulate.SCENARIOS[name]
    told = simulate.text(name, demand, layout, simulate.plan(COSTS, demand, layout))
    assert "first bottleneck" in told
    assert told.splitlines()[0] == name


def test_only_what_changes_is_told_of_a_plan_that_goes_on_from_another() -> None:
    before = simulate.text("one", DEMAND, LAYOUT, simulate.plan(COSTS, DEMAND, LAYOUT))
    other = replace(LAYOUT, databases=9)
    told = simulate.text("two", DEMAND, other, simulate.plan(COSTS, DEMAND, other), before)
    (changed,) = told.splitlines()[1:-1]
    assert "PostgreSQL" in changed


@pytest.mark.parametrize("cores", [2, 3, 6, 12])
@pytest.mark.parametrize("demand", [DEMAND, replace(DEMAND, streams=0.0)], ids=["streams", "calls"])
def test_cores_are_shared_out_so_that_the_fewest_pods_are_needed(cores: int, demand: Demand) -> None:
    layout = Layout(cores=cores)
    chosen = simulate.plan(COSTS, demand, layout)
    others = [simulate.plan(COSTS, demand, replace(layout, workers=workers)) for workers in range(1, cores)]
    assert chosen.pods == min(other.pods for other in others)
    assert chosen.workers + chosen.envoy_cores == cores


def test_a_dearer_envoy_gets_more_cores_and_never_fewer_pods() -> None:
    before, after = (
        simulate.plan(replace(COSTS, envoy_call_us=500 * by, envoy_event_us=25 * by), DEMAND, Layout(cores=8))
        for by in (1, 4)
    )
    assert after.envoy_cores > before.envoy_cores
    assert after.pods >= before.pods


@pytest.mark.parametrize(("cores", "workers"), [(1, None), (3, 3), (3, 0)])
def test_a_pod_without_a_core_for_each_is_told(cores: int, workers: int | None) -> None:
    with pytest.raises(ValueError, match="cores"):
        simulate.plan(COSTS, DEMAND, Layout(cores=cores, workers=workers))


@pytest.mark.parametrize(("cores", "workers"), [(3, 2), (4, 2), (6, 4), (8, 5)], ids=str)
def test_the_docs_say_how_the_measured_costs_share_out_a_pod(cores: int, workers: int) -> None:
    costs = simulate.costs_of(simulate.COSTS)
    for demand, layout in simulate.SCENARIOS.values():
        assert simulate.plan(costs, demand, replace(layout, cores=cores)).workers == workers
    capacity = (Path(__file__).resolve().parents[2] / "docs/capacity.md").read_text()
    says = f"{workers} workers and 1 of three" if cores == 3 else f"{workers} and {cores - workers} of "
    assert says in capacity, "docs/capacity.md and the sizing of docs/kubernetes.md say it otherwise"
