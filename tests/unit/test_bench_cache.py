"""The bench of the cache: that its figures are those that it names, and that a run of it ends as it should."""

import json
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from loadtest import bench_cache, turns
from loadtest.bench import BenchError
from loadtest.figures import Sample

ROOT = Path(__file__).resolve().parents[2]


def sample(p50_ms: float = 1, policy_us: float = 100, envoy_us: float = 100, calls: int = 1000) -> Sample:
    return Sample(calls, 1000, p50_ms, 2, policy_us, envoy_us, 4, 0.1, 0.2)


def one_round(p50: float, policy: float) -> dict[str, Sample]:
    """Hits that take so many times what a null call takes."""
    hit = sample(p50, 100 * policy)
    return {name: hit if name in ("memory", "redis") else sample() for name in bench_cache.WAYS}


def told(*rounds: dict[str, Sample]) -> dict[str, Any]:
    settings = {"rounds": len(rounds), "seconds": 1, "concurrency": 8, "cores": 2, "went": {"hit": 2, "miss": 2}}
    return {**settings, "workloads": bench_cache.TURNS.report({"json": rounds, "sse": rounds})}


@pytest.mark.parametrize(("p50", "policy", "missed"), [(1.5, 2.0, []), (1.51, 2.0, ["p50"]), (1.5, 9.0, [])])
def test_a_hit_meets_or_misses_its_targets(p50: float, policy: float, missed: list[str]) -> None:
    found = told(one_round(p50, policy), one_round(p50, policy))
    names = [f"hit in {where} / null, {figure}" for where in ("memory", "Redis") for figure in missed]
    assert turns.missed(found) == [f"{workload}: {name}" for workload in ("json", "sse") for name in names]
    assert bench_cache.text(found).count("MISSED") == 4 * len(missed)


def test_every_way_and_every_ratio_is_told() -> None:
    text = bench_cache.text(told(one_round(1, 1)))
    for name in [way.name for way in bench_cache.WAYS.values()] + [ratio.name for ratio in bench_cache.RATIOS]:
        assert text.count(name) >= 2


def test_only_calls_that_went_as_they_are_named_count() -> None:
    records = [
        {"kind": "call", "ending": "cached", "cache": {"result": "hit"}},
        {"kind": "call", "ending": "complete", "cache": {"result": "miss"}},
        {"kind": "call", "ending": "cut", "cache": {"result": "miss"}},
        {"kind": "call", "ending": "complete", "cache": {"result": "bypass"}},
        {"kind": "call", "ending": "complete"},
        {"kind": "attempt"},
    ]
    assert bench_cache.went(json.dumps(record).encode() for record in records) == {"hit": 1, "miss": 1}


@pytest.mark.parametrize(("hits", "misses"), [(0, 4000), (4000, 0), (3000, 4000)])
def test_figures_of_calls_that_went_otherwise_are_no_figures(hits: int, misses: int) -> None:
    rounds = {"json": [one_round(1, 1)], "sse": [one_round(1, 1)]}
    bench_cache._check(Counter(hit=4000, miss=4000), rounds)
    with pytest.raises(BenchError, match="would mislead"):
        bench_cache._check(Counter(hit=hits, miss=misses), rounds)


def test_a_bench_without_redis_says_what_to_install() -> None:
    command = [sys.executable, "-m", "loadtest.bench_cache", "--rounds", "1"]
    done = subprocess.run(command, cwd=ROOT, env={"PATH": ""}, capture_output=True, text=True, timeout=60)
    assert (done.returncode, "redis-server is not installed" in done.stderr) == (1, True)
