"""What the benches conclude from what they saw: a target that is missed is told, and one that is met is not."""

from collections import Counter
from dataclasses import replace
from typing import Any

import pytest

from loadtest import compare, soak, stalls, streams, workers
from loadtest.compare import Figures
from loadtest.setups import StartError
from loadtest.soak import Growth, Looks
from loadtest.streams import Found, Load, Seen
from loadtest.workers import Beside, Scale


def figures(rate: float) -> Figures:
    return Figures(rate, 1.0, 2.0, 3.0)


@pytest.mark.parametrize(
    ("ours", "verdict", "status"),
    [((150, 150, 150), "met", 0), ((149, 149, 149), "missed", 1), ((140, 150, 170), "not told", 3)],
)
def test_a_peer_is_compared_round_by_round(ours: tuple[float, ...], verdict: str, status: int) -> None:
    rounds = {
        "json": [
            {"sluice": figures(one * k), "null": figures(200.0 * k), "litellm": figures(10.0 * k)}
            for one, k in zip(ours, (1, 5, 2), strict=True)
        ]
    }
    found = compare.report(rounds)
    assert found["json"]["times_as_many"]["litellm"]["median"] == ours[1] / 10
    assert found["json"]["null_times_as_many"] == {
        "litellm": {"median": 20, "min": 20, "max": 20, "low": 20, "high": 20}
    }
    assert compare.verdict(found["json"]["times_as_many"]["litellm"]) == verdict
    assert compare.status(found) == status
    assert compare.text(found).count(f": {verdict if verdict == 'met' else verdict.upper()}") == 1


def test_another_peer_has_no_target() -> None:
    found = compare.report({"json": [{"sluice": figures(1.0), "null": figures(2.0), "other": figures(10.0)}]})
    assert compare.status(found) == 0
    assert "other" in compare.text(found)


@pytest.mark.parametrize("url", ["http://127.0.0.1:4000", "mine=http://example.com:1", "mine=http://127.0.0.1"])
def test_a_peer_must_be_named_and_here(url: str) -> None:
    with pytest.raises(StartError):
        compare._known(url)


def test_what_grows_is_told_and_what_swings_is_not() -> None:
    looks = Looks()
    for number in range(40):
        looks.add({"workers' MiB": 100 + number, "Envoy's MiB": 50 + number % 5, "workers' descriptors": 30.0})
    flat = {one.name: one.flat for one in soak.growth(looks)}
    assert flat == {"workers' MiB": False, "Envoy's MiB": True, "workers' descriptors": True}


def test_a_look_that_is_missing_does_not_matter() -> None:
    assert [one.flat for one in soak.growth(Looks({"Redis' endless keys": [5.0]}))] == [True]


def test_the_table_of_a_soak_says_what_stayed_open() -> None:
    told = soak.text([Growth("x MiB", 1, 2, 3)], Counter({"200": 5}), {"sluice_holds_open": 2, "other": 0})
    lines = told.splitlines()
    assert [line.rpartition(" ")[2] for line in lines[-3:]] == ["met", "MISSED", "met"]
    assert "5 x 200" in lines[0]


GOOD = Found(Load("a", 10, 2, 5), Seen(100, 20.0, 1, 2, 3, 50, 0, 0), 1, 1, 40, 40, 0.1)


@pytest.mark.parametrize(
    ("changed", "word"),
    [
        ({"gaps": 1}, "gaps"),
        ({"failed": 1}, "failed"),
        ({"per_second": 17.0}, "events/s"),
    ],
    ids=["gap", "failure", "rate"],
)
def test_a_stream_that_is_not_as_it_should_be_is_told(changed: dict[str, Any], word: str) -> None:
    assert GOOD.missed == []
    found = replace(GOOD, seen=replace(GOOD.seen, **changed))
    assert len(found.missed) == 1
    assert word in found.missed[0]
    assert "MISSED" in streams.text([GOOD, found])


def test_memory_of_a_stream_has_a_bound_and_a_wider_one_where_readers_do_not_read() -> None:
    large = replace(GOOD, envoy_kib=300)
    assert large.missed
    assert replace(large, load=replace(large.load, unread=1024)).missed == []


def test_a_stall_is_what_a_long_prompt_adds() -> None:
    found = stalls.report({1_000: ([1, 9, 2], [5, 5, 5]), 100_000: ([10, 12, 90], [7, 7, 7]), 400_000: ([23], [8])})
    assert [one.above for one in found] == [0, 10, 21]
    told = stalls.text(found)
    assert (told.count("met"), told.count("MISSED")) == (1, 1)


def test_workers_share_nothing_where_a_call_costs_the_same() -> None:
    scales = [Scale(1, 100, 5, 1000), Scale(2, 190, 5, 1240)]
    fair = Beside(2, 10.0, 60.0, 0, 9)
    assert workers.missed(scales, fair) == []
    assert len(workers.missed([scales[0], replace(scales[1], cpu_us=1300)], fair)) == 1
    assert len(workers.missed(scales, replace(fair, beside_ms=120.0, failed=1))) == 2
    assert "1.90" in workers.text(scales, fair)
