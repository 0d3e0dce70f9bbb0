"""What whoever runs the gateway sees: health, draining, metrics, a second instance, Ctrl-C, and what is never told."""

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from typing import Any

import httpx
import openai
import psutil
import pytest

from tests.dataplane.conftest import SECRETS, standard_settings
from tests.support.fake import FakeProvider
from tests.support.gateway import ROOT, RunningGateway, until
from tests.support.ports import free_port

CANARY = "canary-7f3a91"


@pytest.fixture
def own(fake: FakeProvider) -> Iterator[RunningGateway]:
    """A gateway that a test may stop."""
    fake.reset()
    settings = {**standard_settings(fake), "timeouts": {"drain": 20}}
    with RunningGateway(settings, SECRETS) as running:
        yield running


def chat(gateway: RunningGateway, **more: Any) -> httpx.Response:
    body = {"model": "gpt-4o", "messages": [{"role": "user", "content": CANARY}], **more}
    with gateway.client() as client:
        return client.post("/v1/chat/completions", json=body)


def test_health_needs_no_key_and_tells_nothing_of_the_policy(gateway: RunningGateway) -> None:
    alive = httpx.get(f"{gateway.url}/healthz", trust_env=False)
    ready = httpx.get(f"{gateway.url}/readyz", trust_env=False)
    assert (alive.status_code, alive.text) == (200, "ok\n")
    assert (ready.status_code, ready.json()) == (200, {"status": "ready"})


def test_metrics_count_calls_tokens_and_attempts(gateway: RunningGateway) -> None:
    assert chat(gateway).status_code == 200
    wanted = (
        'sluice_calls_total{backend="openai",ending="complete",model="gpt-4o",status="200",surface="chat"}',
        'sluice_tokens_total{backend="openai",kind="output",model="gpt-4o",source="reported",surface="chat"}',
        'sluice_attempts_total{backend="openai",status="200"}',
        "sluice_call_duration_seconds_bucket",
        "sluice_calls_in_flight",
    )
    until(lambda: all(name in gateway.metrics() for name in wanted), what="the metrics of a call")


def test_a_live_stream_ends_whole_when_the_gateway_is_told_to_stop(own: RunningGateway, fake: FakeProvider) -> None:
    client = openai.OpenAI(base_url=f"{own.url}/v1", api_key=own.key)
    shaped = {"x_fake": {"events": 30, "tokens_per_second": 15}}  # two seconds
    stream = client.chat.completions.create(
        model="gpt-4o", messages=[{"role": "user", "content": "Hello"}], stream=True, extra_body=shaped
    )
    chunks = [next(stream)]
    stopped: list[int] = []
    stopping = threading.Thread(target=lambda: stopped.append(own.stop()))
    stopping.start()
    chunks += list(stream)
    stopping.join(60)
    assert chunks[-1].choices[0].finish_reason == "stop"
    assert stopped == [0]
    assert [call["finished"] for call in fake.calls("openai")] == [True]
    call = next(record for record in own.records() if record["surface"] == "chat")
    assert (call["ending"], call["usage"]["source"]) == ("complete", "reported")


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_everything_and_leaves_no_process_behind(own: RunningGateway, signum: int) -> None:
    assert chat(own).status_code == 200
    family = psutil.Process(own.pid).children(recursive=True)
    assert len(family) >= 2
    assert own.stop(signum) == 0
    assert [process for process in family if process.is_running()] == []


def test_a_signal_that_is_told_twice_is_one(own: RunningGateway) -> None:
    family = psutil.Process(own.pid).children(recursive=True)
    os.kill(own.pid, signal.SIGTERM)
    assert own.stop(signal.SIGTERM) == 0
    assert [process for process in family if process.is_running()] == []


def test_a_second_signal_ends_everything_at_once(own: RunningGateway) -> None:
    process = psutil.Process(own.pid)
    family = process.children(recursive=True)
    for child in family:
        child.suspend()  # none of them can end by itself

    def is_gone() -> bool:
        if process.is_running() and process.status() != psutil.STATUS_ZOMBIE:
            process.terminate()
            return False
        return True

    def none_runs() -> bool:
        return not any(child.is_running() and child.status() != psutil.STATUS_ZOMBIE for child in family)

    until(is_gone)
    until(none_runs)  # what was killed may still be in the middle of a write
    assert own.stop(signal.SIGTERM) == -signal.SIGTERM


def test_a_second_instance_on_taken_ports_says_all_of_them_at_once(own: RunningGateway) -> None:
    command = [sys.executable, "-m", "extproc.cli", "up", "--config", str(own.config)]
    second = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)
    assert second.returncode == 1
    assert second.stdout == ""
    assert f"Port {own.port} on 127.0.0.1 is taken" in second.stderr
    assert f"Port {own.metrics_port} on 127.0.0.1 is taken" in second.stderr
    assert "SLUICE__LISTENER__PORT" in second.stderr
    assert "SLUICE__METRICS__PORT" in second.stderr
    assert len(second.stderr.strip().splitlines()) == 2
    assert chat(own).status_code == 200


def test_a_second_instance_on_the_same_folder_is_refused_and_harms_nothing(own: RunningGateway) -> None:
    environ = {
        **os.environ,
        **SECRETS,
        "SLUICE__LISTENER__PORT": str(free_port()),
        "SLUICE__METRICS__PORT": str(free_port()),
    }
    command = [sys.executable, "-m", "extproc.cli", "up", "--config", str(own.config)]
    second = subprocess.run(command, cwd=ROOT, env=environ, capture_output=True, text=True, timeout=60, check=False)
    assert second.returncode == 1
    assert "Another gateway uses the folder" in second.stderr
    assert "SLUICE__STATE_DIR" in second.stderr
    assert chat(own).status_code == 200


def test_no_text_key_or_credential_is_told_anywhere(own: RunningGateway, fake: FakeProvider) -> None:
    fake.script("openai", [{"status": 500, "error_body": f"broken {CANARY}"}])
    assert chat(own, metadata={"note": CANARY}).status_code == 500
    assert CANARY in chat(own).text
    assert chat(own, messages=[{"role": CANARY, "content": 7}]).status_code == 400
    assert chat(own, model=CANARY).status_code == 404
    with own.client() as client:
        client.get(f"/v1/{CANARY}", headers={"x-note": CANARY})
    until(lambda: len([record for record in own.records() if record.get("surface") == "chat"]) >= 4, what="the records")
    told = own.metrics() + "\n".join(map(str, own.records())) + own.log()
    own.stop()
    told += own.log()
    for secret in (CANARY, own.key, own.key[10:40], *SECRETS.values()):
        assert secret not in told


def test_no_process_that_reads_calls_has_a_providers_secret(own: RunningGateway) -> None:
    children = own.processes("extproc.worker") + own.processes("bootstrap.yaml")
    assert len(children) == 2
    for child in children:
        assert not set(SECRETS) & set(child.environ())


def test_a_worker_that_dies_is_started_again_and_calls_go_on(own: RunningGateway) -> None:
    first = own.processes("extproc.worker")[0]
    first.kill()
    until(lambda: chat(own).status_code == 200, 30, "a call to pass again")
    assert own.processes("extproc.worker")[0].pid != first.pid
