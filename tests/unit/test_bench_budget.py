"""The bench of the counters: that it judges its figures as it says, and that a run of it ends as it should."""

import json
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from loadtest import bench_budget
from loadtest.bench_budget import Overspend, Pairs, draws, report, spend, table
from tests.support.redis_server import RedisServer, redis_server

ROOT = Path(__file__).resolve().parents[2]
OURS = Pairs(per_second=30_000, client_us=20, redis_us=25, p50_ms=0.5, p99_ms=1.5, steps=2.0)
PLAIN = replace(OURS, per_second=10_000)
NONE_OVER = Overspend(processes=2, callers=200, repeats=3, room=400, admitted=400, refused=800, failed=0, overspent=0)


@pytest.fixture(scope="module")
def server() -> Iterator[RedisServer]:
    with redis_server() as running:
        yield running


def test_figures_are_medians_and_ratios_are_taken_within_a_round() -> None:
    rates = [(10_000, 1_000), (30_000, 10_000), (90_000, 45_000)]
    rounds = [
        {"ours": replace(OURS, per_second=ours), "plain": replace(PLAIN, per_second=plain)} for ours, plain in rates
    ]
    found = report(rounds, [NONE_OVER])
    assert found["pairs"]["ours"]["per_second"] == 30_000
    assert found["ratio"] == {"median": 3.0, "min": 2.0, "max": 10.0}
    assert found["missed"] == []


def test_the_targets_are_met_at_their_edge() -> None:
    assert report([{"ours": replace(OURS, per_second=25_000), "plain": PLAIN}], [])["missed"] == []


@pytest.mark.parametrize(
    ("ours", "over", "said"),
    [
        (replace(OURS, per_second=24_999), NONE_OVER, "times the pairs"),
        (replace(OURS, steps=2.001), NONE_OVER, "round trips"),
        (OURS, replace(NONE_OVER, overspent=1), "1 tokens over"),
        (OURS, replace(NONE_OVER, admitted=401), "401 admitted of 400"),
        (OURS, replace(NONE_OVER, admitted=399), "399 admitted of 400"),
        (OURS, replace(NONE_OVER, failed=1), "2 processes"),
    ],
)
def test_what_misses_a_target_is_said(ours: Pairs, over: Overspend, said: str) -> None:
    found = report([{"ours": ours, "plain": PLAIN}], [over])
    (missed,) = found["missed"]
    assert said in missed
    assert f"MISSED: {missed}" in table(found)


def test_the_table_has_every_store_and_every_number_of_processes() -> None:
    text = table(report([{"ours": OURS, "plain": PLAIN}], [NONE_OVER, replace(NONE_OVER, processes=4)]))
    assert "30,000" in text
    assert "10,000" in text
    assert [line.split()[0] for line in text.splitlines()[-2:]] == ["2", "4"]
    assert "MISSED" not in text


def test_a_call_draws_on_four_counters_in_the_windows_of_now() -> None:
    now = 1_795_270_987_654
    drawn = draws(now, 1, 20, 300)
    assert [draw.units for draw in drawn] == [1, 20, 20, 300]
    assert len({draw.counter.key for draw in drawn}) == 4
    for draw in drawn:
        present, following = draw.counter.windows
        assert present.start <= now < present.end == following.start


async def test_a_budget_for_so_many_admits_as_many(server: RedisServer) -> None:
    assert await spend(server.url, "exact", "p", 20, 7_000, 0) == {"admitted": 7, "refused": 13, "failed": 0}
    assert await bench_budget.spent(server.url, "exact", 7_000) == 7_000


async def test_tokens_over_the_capacity_are_seen(server: RedisServer) -> None:
    await spend(server.url, "over", "p", 9, 9_000, 0)
    assert await bench_budget.spent(server.url, "over", 7_000) == 9_000


def test_without_a_redis_server_it_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    with pytest.raises(FileNotFoundError, match="apt-get install redis-server"), bench_budget.redis_server():
        pass


def test_a_run_ends_with_a_report_and_a_status(server: RedisServer) -> None:
    options = ["--json", "--rounds", "1", "--seconds", "0.2", "--concurrency", "4", "--callers", "20", "--repeats", "1"]
    command = [sys.executable, "-m", "loadtest.bench_budget", *options]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, timeout=100)
    found = json.loads(done.stdout)
    assert done.returncode == (1 if found["missed"] else 0)
    assert found["pairs"]["ours"]["steps"] == found["pairs"]["plain"]["steps"] == 2
    assert [(row["processes"], row["admitted"], row["overspent"]) for row in found["overspend"]] == [
        (1, 7, 0),
        (2, 14, 0),
        (4, 27, 0),
    ]
