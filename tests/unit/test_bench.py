"""The bench: that its parts measure what they say, and that a run of it ends as it should."""

import json
import math
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from itertools import islice, pairwise
from pathlib import Path
from typing import Any

import psutil
import pytest
from hypothesis import given
from hypothesis import strategies as st

from extproc import dataplane
from loadtest import figures, load, null_extproc, setups
from loadtest.bench import governed
from protos.ext_proc_pb2 import HttpBody, HttpHeaders, ProcessingRequest, ProcessingResponse

ROOT = Path(__file__).resolve().parents[2]

# ---- the load generator ----

HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ntransfer-encoding: chunked\r\n"
ANSWER = HEAD + b'\r\n5\r\n{"a":\r\n2\r\n0}\r\n0\r\n\r\n'


def test_an_answer_is_complete_at_its_last_chunk() -> None:
    assert load.Answer().feed(ANSWER)


def test_an_answer_byte_by_byte_is_complete_with_its_last_byte_only() -> None:
    answer = load.Answer()
    complete = [answer.feed(ANSWER[at : at + 1]) for at in range(len(ANSWER))]
    assert complete == [False] * (len(ANSWER) - 1) + [True]


@given(st.lists(st.integers(0, len(ANSWER)), max_size=4))
def test_an_answer_in_any_pieces_is_complete_at_its_end(cuts: list[int]) -> None:
    answer = load.Answer()
    edges = [0, *sorted(cuts), len(ANSWER)]
    complete = [answer.feed(ANSWER[start:end]) for start, end in pairwise(edges)]
    assert any(complete)
    assert not any(complete[: edges.index(len(ANSWER)) - 1])


COUNTED = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 8\r\nage: 0\r\n\r\n" + b'{"a":10}'


@given(st.lists(st.integers(0, len(COUNTED)), max_size=4))
def test_an_answer_whose_length_is_told_is_complete_at_its_end(cuts: list[int]) -> None:
    answer = load.Answer()
    edges = [0, *sorted(cuts), len(COUNTED)]
    pieces = [COUNTED[start:end] for start, end in pairwise(edges) if start < end]
    assert [answer.feed(piece) for piece in pieces] == [False] * (len(pieces) - 1) + [True]


def test_bytes_after_an_answer_whose_length_is_told_are_an_error() -> None:
    with pytest.raises(load.LoadError, match="after the end"):
        load.Answer().feed(COUNTED + b"H")


def test_distinct_calls_are_as_long_as_the_first_and_never_the_same() -> None:
    call = load.request(False)
    assert list(islice(load.calls(call, False), 2)) == [call, call]
    made = list(islice(load.calls(call, True), 1000))
    assert len(set(made)) == 1000
    assert {len(one) for one in made} == {len(call)}
    bodies = [json.loads(one.partition(b"\r\n\r\n")[2]) for one in made[:2]]
    assert bodies[0].keys() == json.loads(call.partition(b"\r\n\r\n")[2]).keys()
    assert bodies[0]["messages"] != bodies[1]["messages"]


def test_an_uncut_answer_ends_before_its_cap() -> None:
    body = json.loads(load.request(True, uncut=True).partition(b"\r\n\r\n")[2])
    assert body["max_tokens"] > load.EVENTS_WITH_TEXT
    assert body["x_fake"] == {"length": load.EVENTS_WITH_TEXT}


@pytest.mark.parametrize("status", [b"503 Service Unavailable", b"2000 OK", b"100 Continue"])
def test_any_other_status_is_an_error(status: bytes) -> None:
    with pytest.raises(load.LoadError, match="not a 200"):
        load.Answer().feed(ANSWER.replace(b"200 OK", status))


def test_another_status_is_an_error_before_it_is_complete() -> None:
    answer = load.Answer()
    for piece in (b"H", b"TTP/1.", b"1 "):
        assert not answer.feed(piece)
    with pytest.raises(load.LoadError, match="not a 200"):
        answer.feed(b"4")


def test_bytes_after_the_end_are_an_error() -> None:
    with pytest.raises(load.LoadError, match="after the end"):
        load.Answer().feed(ANSWER + b"H")


@pytest.mark.parametrize("stream", [False, True])
def test_the_request_is_about_a_kilobyte_and_says_its_length(stream: bool) -> None:
    head, _, body = load.request(stream).partition(b"\r\n\r\n")
    assert 1000 <= len(body) <= 1400
    assert b"content-length: %d\r\n" % len(body) in head + b"\r\n"
    assert json.loads(body)["stream"] is stream


@given(st.lists(st.floats(0, 10), min_size=1), st.integers(1, 100))
def test_a_percentile_is_the_smallest_value_that_enough_do_not_exceed(values: list[float], percent: int) -> None:
    found = load.percentile(sorted(values), percent)
    needed = math.ceil(len(values) * percent / 100)
    assert sum(value <= found for value in values) >= needed
    assert sum(value < found for value in values) < needed


# ---- the null policy ----

ATTRIBUTED = ProcessingRequest()
ATTRIBUTED.attributes["envoy.filters.http.ext_proc"].update({"xds.cluster_name": "backend_bench"})


@pytest.mark.parametrize(
    ("message", "kind"),
    [
        (ProcessingRequest(request_headers=HttpHeaders(end_of_stream=True)), "request_headers"),
        (ProcessingRequest(response_headers=HttpHeaders()), "response_headers"),
        (ProcessingRequest(request_body=HttpBody(body=b"{}", end_of_stream=True)), "request_body"),
        (ProcessingRequest(response_body=HttpBody()), "response_body"),
    ],
)
def test_null_answers_each_kind_of_message_with_its_kind(message: ProcessingRequest, kind: str) -> None:
    message.MergeFrom(ATTRIBUTED)
    reply = null_extproc.replies("bench")[message.WhichOneof("request") or ""]
    assert ProcessingResponse.FromString(reply).WhichOneof("response") == kind


# ---- Envoy alone ----


def test_envoy_alone_asks_and_tells_no_worker() -> None:
    gateway = setups.settings(1, 2, Path("state"))
    files = dataplane.render(gateway, dataplane.Layout("config", "secrets", ("worker.sock",), "admin.sock"))
    alone = setups.without_policy(files)
    assert alone.keys() == files.keys()
    assert "cluster: backend_bench" in alone["routes.yaml"]
    text = "".join(alone.values())
    for word in ("sluice.policy", "ExternalProcessor", "http_grpc", "worker.sock", "priority_group", "sluice.rewrite"):
        assert word in "".join(files.values())
        assert word not in text


# ---- the figures ----

SAMPLE = figures.Sample(
    calls=100,
    calls_per_second=1000,
    p50_ms=1,
    p99_ms=2,
    policy_us=100,
    envoy_us=50,
    messages=4,
    generator_cores=0.1,
    provider_cores=0.2,
)


def one_round(drift: float, governed: float, cpu: float) -> dict[str, figures.Sample]:
    """A machine that is `drift` times as fast, on which the gateway reaches `governed` of null's rate."""
    null = replace(SAMPLE, calls_per_second=1000 * drift)
    return {
        "A": replace(SAMPLE, calls_per_second=2000 * drift, policy_us=0),
        "B": null,
        "C0": null,
        "C": replace(null, calls_per_second=1000 * drift * governed, policy_us=100 * cpu),
        **{way: replace(null, policy_us=100 * cpu * more) for more, way in enumerate(figures.WAYS, 1)},
    }


def test_ratios_are_taken_round_by_round_so_that_drift_cancels() -> None:
    found = figures.report({"json": [one_round(drift, 0.8, 1.5) for drift in (1, 9, 0.1)]})["json"]
    rate = found["setups"]["C"]["calls_per_second"]
    assert [rate[name] for name in ("median", "min", "max")] == pytest.approx([800, 80, 7200])
    ratio = found["ratios"]["C / B, calls/s"]
    assert [ratio[name] for name in ("median", "min", "max")] == pytest.approx([0.8, 0.8, 0.8])


def test_other_ways_are_beside_the_null_policy_and_the_gateways_own() -> None:
    found = figures.report({"json": [one_round(drift, 0.8, 1.5) for drift in (1, 9, 0.1)]})
    for more, way in enumerate(figures.WAYS, 1):
        told = found["json"]["ways"][way]
        assert told["ext_proc CPU / B"]["median"] == pytest.approx(1.5 * more)
        assert told["ext_proc CPU / C"]["median"] == pytest.approx(more)
        assert told["calls/s / C"]["median"] == pytest.approx(1 / 0.8)
        assert f"{figures.WAYS[way]}  " in figures.table(found)


@pytest.mark.parametrize(
    ("reached", "cpu", "verdicts"),
    [(0.5, 2.0, [True, True]), (0.49, 2.0, [False, True]), (0.5, 2.01, [True, False])],
)
def test_targets_are_met_or_missed(reached: float, cpu: float, verdicts: list[bool]) -> None:
    found = figures.report({"sse": [one_round(1, reached, cpu)]})
    assert [ratio["met"] for ratio in found["sse"]["ratios"].values() if ratio["target"] is not None] == verdicts
    assert figures.table(found).count("MISSED") == verdicts.count(False)
    assert figures.verdict(found) == ("met" if all(verdicts) else "missed")


def test_nothing_is_concluded_where_the_rounds_differ_more_than_the_target_is_away() -> None:
    found = figures.report({"sse": [one_round(1, 0.8, cpu) for cpu in (1.5, 1.6, 1.7, 1.8, 1.9, 2.1)]})
    assert found["sse"]["ratios"]["C / B, ext_proc CPU per call"]["met"]
    assert figures.verdict(found) == "noise"
    assert "NOT TOLD" in figures.table(found)


def test_a_target_that_is_surely_missed_is_told_before_the_noise_of_another() -> None:
    found = figures.report({"sse": [one_round(1, 0.3, cpu) for cpu in (1.5, 1.6, 1.7, 1.8, 1.9, 2.1)]})
    assert figures.verdict(found) == "missed"


@given(st.lists(st.floats(0.1, 10), min_size=1, max_size=30))
def test_the_interval_lies_around_the_median_and_within_the_rounds(values: list[float]) -> None:
    found = figures.Spread.of(values)
    assert found.min <= found.low <= found.median <= found.high <= found.max


@pytest.mark.parametrize(("rounds", "left_out"), [(5, 0), (6, 0), (8, 0), (9, 1), (12, 2), (15, 3), (20, 5)])
def test_the_interval_is_of_95_percent(rounds: int, left_out: int) -> None:
    found = figures.Spread.of([float(value) for value in range(rounds)])
    assert (found.low, found.high) == (left_out, rounds - 1 - left_out)


def test_growth_is_told_in_calls_and_not_in_rounds() -> None:
    rounds = [one_round(1, 0.8, 1.5) for _ in range(6)]
    calls = 100 * (1 + len(figures.WAYS))
    for number, done in enumerate(rounds):
        done["C"] = replace(done["C"], memory_mib=50 + number)
    assert figures.growth(rounds) == pytest.approx(1024 / calls * 1000)
    assert figures.growth(rounds[:3]) is None


def test_all_policies_are_on_in_what_is_measured(folder: Path) -> None:
    gateway = setups.settings(1, 2, folder, setups.policies(folder, "redis://127.0.0.1:1/0"))
    assert gateway.stores.counters == gateway.stores.answers_at == "redis://127.0.0.1:1/0"
    assert gateway.cache.mode == "enforce"
    assert set(gateway.policies.limits) == {"tokens", "requests", "money"}
    assert gateway.policies.redaction["default"].mode == "enforce"


def test_only_calls_that_the_gateway_checked_and_counted_are_governed() -> None:
    good = {"kind": "call", "ending": "complete", "key": "quickstart", "usage": {"source": "reported"}}
    records: list[dict[str, Any]] = [
        good,
        {**good, "usage": {"source": "estimated"}},
        {**good, "ending": "cut"},
        {name: value for name, value in good.items() if name != "key"},
        {name: value for name, value in good.items() if name != "usage"},
        {"kind": "attempt"},
    ]
    assert governed(json.dumps(record).encode() for record in records) == 1


# ---- a run ----


@pytest.fixture
def folder() -> Iterator[Path]:
    """Where the bench makes its files: short, because Unix sockets stand in it."""
    path = Path(tempfile.mkdtemp(prefix="b-"))
    yield path
    shutil.rmtree(path, ignore_errors=True)


def bench(folder: Path, *options: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "loadtest.bench", "--concurrency", "2", *options],
        cwd=ROOT,
        env={**os.environ, "TMPDIR": str(folder)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def left_behind(folder: Path) -> list[str]:
    """Processes that were told a path in the folder, and the files in it."""
    named = [" ".join(process.info["cmdline"] or ()) for process in psutil.process_iter(["cmdline"])]
    return [line for line in named if str(folder) in line] + [path.name for path in folder.iterdir()]


def test_a_run_measures_all_setups_and_leaves_nothing_behind(folder: Path) -> None:
    with bench(folder, "--rounds", "1", "--seconds", "0.2", "--json") as running:
        out, progress = running.communicate(timeout=150)
    assert running.returncode in (0, 1, 3), progress  # how fast it is, a busy machine cannot tell
    found = json.loads(out)
    for workload in figures.WORKLOADS:
        measured = found["workloads"][workload]["setups"]
        assert all(measured[name]["calls_per_second"]["median"] > 0 for name in figures.SETUPS)
        assert [measured[name]["messages"]["median"] > 0 for name in figures.SETUPS] == [False, True, True, True]
    ways = found["workloads"]["json"]["ways"]
    messages = [ways[way]["messages"]["median"] for way in figures.WAYS]
    assert messages == pytest.approx([4, 4, 4, 6, 6], rel=0.1), "a translation takes two more, on each attempt"
    both = [found["workloads"]["json"]["setups"][name]["messages"]["median"] for name in ("B", "C")]
    assert both == pytest.approx([4, 4], rel=0.1)  # headers and body, there and back
    assert found["governed_calls"] > 0
    assert left_behind(folder) == []


def test_a_run_that_is_told_to_end_leaves_nothing_behind(folder: Path) -> None:
    with bench(folder, "--rounds", "50", "--seconds", "5") as running:
        assert running.stderr is not None
        assert running.stderr.readline().startswith("round 1 of 50")
        running.send_signal(signal.SIGTERM)
        running.communicate(timeout=60)
    assert running.returncode == 128 + signal.SIGTERM
    assert left_behind(folder) == []
