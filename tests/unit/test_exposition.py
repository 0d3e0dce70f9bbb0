"""What /metrics shows of the files that workers share, whatever state they are in."""

import logging
import os
import struct
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from prometheus_client import Counter, generate_latest

from extproc.cli import exposition
from extproc.cli.exposition import KEPT_S, Exposition, forget, names
from extproc.config.schema import Gateway

# A process that counts as a worker does: PROGRAM NUMBER, then a line of Python.
COUNTS = """
import sys
from prometheus_client import values
values.ValueClass = values.MultiProcessValue(lambda: sys.argv[1])
from prometheus_client import Counter, Gauge
from extproc.telemetry.tally import LatestGauge
USED = LatestGauge("used", "h", ["limit"], multiprocess_mode="livemostrecent")
CALLS, OPEN = Counter("calls", "h", ["model"]), Gauge("open", "h", ["backend"], multiprocess_mode="livesum")
exec(sys.argv[2])
"""


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def gateway(*models: str, **more: Any) -> Gateway:
    return Gateway.model_validate(
        {
            "backends": {"a": {"dialect": "openai", "url": "http://127.0.0.1:1"}},
            "models": {model: {"targets": [[{"backend": "a"}]]} for model in models},
            **more,
        }
    )


def count(folder: Path, number: int, line: str) -> None:
    environ = {**os.environ, "PROMETHEUS_MULTIPROC_DIR": str(folder)}
    subprocess.run([sys.executable, "-c", COUNTS, str(number), line], env=environ, check=True)


def shown(shows: Exposition) -> set[str]:
    return {line for line in generate_latest(shows.registry(())).decode().splitlines() if not line.startswith("#")}


def test_runs_of_a_worker_count_on_in_one_file_and_workers_are_added_up(tmp_path: Path) -> None:
    shows = Exposition(tmp_path, gateway("m"))
    for number in (0, 1, 0):
        count(tmp_path, number, "CALLS.labels('m').inc(2); OPEN.labels('a').inc(5)")
    assert shown(shows) == {'calls_total{model="m"} 6.0', 'open{backend="a"} 15.0'}
    assert len([*tmp_path.iterdir()]) == 4


def test_of_many_workers_the_one_that_looked_last_is_believed_whenever_it_says_so(tmp_path: Path) -> None:
    """Also where what another one saw is over: calls went on elsewhere."""
    shows = Exposition(tmp_path, gateway("m"))
    for number, line, told in ((0, "0.5, 200", 0.5), (1, "0.9, 100", 0.5), (1, "0, 100", 0.5), (1, "0.7, 300", 0.7)):
        count(tmp_path, number, f"USED.labels('month').see({line})")
        assert shown(shows) == {f'used{{limit="month"}} {told}'}


def test_a_name_that_is_gone_is_shown_for_ten_minutes_more_and_again_when_it_is_back(tmp_path: Path) -> None:
    clock = Clock()
    shows = Exposition(tmp_path, gateway("m", "old"), clock)
    count(tmp_path, 0, "[CALLS.labels(name).inc() for name in ('m', 'old', 'of-a-team', '')]")
    both = {f'calls_total{{model="{name}"}} 1.0' for name in ("m", "old", "of-a-team", "")}
    shows.configured(gateway("m"))
    clock.now = KEPT_S - 1
    assert shown(shows) == both
    clock.now = KEPT_S
    assert shown(shows) == both - {'calls_total{model="old"} 1.0'}
    shows.configured(gateway("m", "old"))
    assert shown(shows) == both
    shows.configured(gateway("m"))
    clock.now += KEPT_S - 1
    shows.configured(gateway("m", "other"))
    assert shown(shows) == both


def test_a_family_of_the_supervisor_is_shown_once(tmp_path: Path) -> None:
    count(tmp_path, 0, "Counter('gaps', 'h')")
    gaps = Counter("gaps", "h", registry=None)
    gaps.inc(2)
    lines = generate_latest(Exposition(tmp_path, gateway("m")).registry([gaps])).decode().splitlines()
    assert [line for line in lines if line.startswith("gaps_total")] == ["gaps_total 2.0"]


def test_the_names_of_labels_are_those_of_the_configuration() -> None:
    policies = {"limits": {"calls": {"requests": 1, "per": "hour"}}, "redaction": {"default": {}}}
    assert names(gateway("m", policies=policies)) == {
        *(("model", "m"), ("gen_ai_request_model", "m"), ("backend", "a"), ("sluice_backend", "a")),
        *(("limit", "calls"), ("policy", "calls"), ("policy", "default")),
    }


@pytest.mark.parametrize("rubbish", [b"", b"\xff\xff\xff\x7f" + b"\xff" * 100])
def test_a_file_that_cannot_be_read_fails_the_scrape_and_goes_with_its_worker(
    tmp_path: Path, rubbish: bytes, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    shows = Exposition(tmp_path, gateway("m"))
    for number in (0, 1):
        count(tmp_path, number, "CALLS.labels('m').inc(); OPEN.labels('a').inc()")
    (tmp_path / "counter_1.db").write_bytes(rubbish)
    monkeypatch.setattr(exposition, "_PAUSE_S", 0)
    with pytest.raises((struct.error, ValueError)):  # half a sum would look like a counter that began anew
        shown(shows)
    with caplog.at_level(logging.ERROR):
        forget(tmp_path, 1)
        forget(tmp_path, 0)
    assert caplog.messages == ["what worker-1 had counted is lost: counter_1.db cannot be read"]
    assert shown(shows) == {'calls_total{model="m"} 1.0'}
    count(tmp_path, 1, "CALLS.labels('m').inc(7)")
    assert shown(shows) == {'calls_total{model="m"} 8.0'}


def test_a_file_that_a_worker_is_just_making_is_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shows = Exposition(tmp_path, gateway("m"))
    new = tmp_path / "counter_0.db"
    new.touch()
    monkeypatch.setattr(time, "sleep", lambda _: count(tmp_path, 0, "CALLS.labels('m').inc()"))
    assert shown(shows) == {'calls_total{model="m"} 1.0'}
