"""Two workers under load: one that dies takes only its own calls with it, one that is told to end takes none."""

import json
import re
import signal
import threading
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import httpx
import psutil
import pytest

from tests.support.fake import FakeProvider
from tests.support.gateway import RunningGateway, until
from tests.support.raw_http import form

CHAT, SPEAK = "/v1/chat/completions", "/v1/audio/transcriptions"


@pytest.fixture(scope="module")
def provider() -> Iterator[FakeProvider]:
    with FakeProvider("openai") as running:
        yield running


@pytest.fixture(scope="module")
def pair(provider: FakeProvider) -> Iterator[RunningGateway]:
    """A gateway with two workers."""
    settings = {
        "workers": 2,
        "backends": {"openai": {"dialect": "openai", "url": provider.url("openai"), "credential": {"env": "SECRET"}}},
        "models": {name: {"targets": [[{"backend": "openai"}]]} for name in ("gpt-4o", "whisper-1")},
        "timeouts": {"drain": "20s", "policy": "1s"},
    }
    with RunningGateway(settings, {"SECRET": "secret"}) as running:
        yield running


@dataclass
class Load:
    """Callers that call until told to stop, and what became of their calls.

    `failed`: calls that ended with an error of the gateway or with an answer cut short.
    """

    gateway: RunningGateway
    callers: int = 6
    served: Counter[str] = field(default_factory=Counter)
    failed: list[str] = field(default_factory=list)
    _stop: threading.Event = field(default_factory=threading.Event)
    _threads: list[threading.Thread] = field(default_factory=list)

    def __enter__(self) -> "Load":
        self._threads = [threading.Thread(target=self._call, args=(n,), daemon=True) for n in range(self.callers)]
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join(60)

    def until_served(self, count: int) -> None:
        """Wait until this many more calls were served."""
        aim = self.served.total() + count
        until(lambda: self.served.total() >= aim, 60, f"{count} calls to be served")

    def _call(self, number: int) -> None:
        kinds = ("json", "stream", "form")
        with self.gateway.client() as client:
            while not self._stop.is_set():
                kind = kinds[number % len(kinds)]
                self._once(client, kind)

    def _once(self, client: httpx.Client, kind: str) -> None:
        try:
            answer = getattr(self, f"_{kind}")(client)
        except httpx.HTTPError as error:
            self.failed.append(f"{kind}: {type(error).__name__}")
            return
        if answer is None:
            self.served[kind] += 1
        else:
            self.failed.append(f"{kind}: {answer}")

    def _json(self, client: httpx.Client) -> str | None:
        answer = client.post(CHAT, json=chat(delay_ms=30))
        whole = answer.status_code == 200 and "Hello!" in answer.json()["choices"][0]["message"]["content"]
        return None if whole else refusal(answer)

    def _stream(self, client: httpx.Client) -> str | None:
        answer = client.post(CHAT, json={**chat(events=6, tokens_per_second=60), "stream": True})
        whole = answer.status_code == 200 and answer.text.endswith("data: [DONE]\n\n")
        if whole:
            assert "total_tokens" not in answer.text  # only the gateway asked for it
        return None if whole else refusal(answer)

    def _form(self, client: httpx.Client) -> str | None:
        kind, body = form({"model": "whisper-1"}, b"a" * 100_000)
        answer = client.post(SPEAK, content=body, headers={"content-type": kind})
        whole = answer.status_code == 200 and "(100000 bytes)" in answer.json()["text"]
        return None if whole else refusal(answer)


def chat(**fault: Any) -> dict[str, Any]:
    return {"model": "gpt-4o", "messages": [{"role": "user", "content": "Hello!"}], "x_fake": fault}


def refusal(answer: httpx.Response) -> str:
    """The gateway's own error in an answer that is not what was asked for; never a piece of an unread one."""
    assert answer.status_code in (503, 504), answer.text[:200]
    return f"{answer.status_code} {json.loads(answer.content)['error']['code']}"


def two_workers(gateway: RunningGateway) -> bool:
    return gateway.envoy_stat("cluster.extproc.membership_healthy") == 2


@pytest.fixture(autouse=True)
def both_workers(pair: RunningGateway) -> None:
    until(lambda: two_workers(pair), 30, "both workers")


def restarted(gateway: RunningGateway, victim: psutil.Process) -> bool:
    try:
        pids = {worker.pid for worker in gateway.processes("extproc.worker")}
    except psutil.NoSuchProcess:  # it ends while we look
        return False
    return victim.pid not in pids and len(pids) == 2 and two_workers(gateway)


def streams_by_worker(gateway: RunningGateway) -> list[int]:
    """How many streams Envoy has opened to each worker's socket."""
    transport = httpx.HTTPTransport(uds=str(gateway.folder / "var/run/admin.sock"))
    with httpx.Client(transport=transport, base_url="http://admin") as admin:
        text = admin.get("/clusters").text
    return [int(count) for count in re.findall(r"^extproc::.*worker-\d\.sock::rq_total::(\d+)$", text, re.MULTILINE)]


def test_both_workers_take_calls(pair: RunningGateway) -> None:
    before = streams_by_worker(pair)
    with Load(pair) as load:
        load.until_served(100)
    assert load.failed == []
    assert set(load.served) == {"json", "stream", "form"}
    shares = [now - then for now, then in zip(streams_by_worker(pair), before, strict=True)]
    assert len(shares) == 2
    assert min(shares) > load.served.total() / 5


def test_a_killed_worker_takes_only_the_calls_in_flight_with_it(pair: RunningGateway, provider: FakeProvider) -> None:
    """At most one call of each caller: whoever calls again is served by the other worker, with no black hole."""
    victim = pair.processes("extproc.worker")[0]
    with Load(pair) as load:
        load.until_served(30)
        victim.send_signal(signal.SIGKILL)
        load.until_served(120)
        until(lambda: restarted(pair, victim), 30, "the worker to be started again")
        load.until_served(60)
    assert len(load.failed) <= load.callers
    assert_every_call_was_decided(provider)


def test_a_worker_told_to_end_fails_no_call(pair: RunningGateway, provider: FakeProvider) -> None:
    victim = pair.processes("extproc.worker")[0]
    with Load(pair) as load:
        load.until_served(30)
        victim.send_signal(signal.SIGTERM)
        until(lambda: not victim.is_running(), 30, "the worker to end")
        load.until_served(60)
        until(lambda: restarted(pair, victim), 30, "the worker to be started again")
        load.until_served(60)
    assert load.failed == []
    assert_every_call_was_decided(provider)


def test_workers_restarted_one_after_the_other_fail_no_call(pair: RunningGateway) -> None:
    """What an upgrade does."""
    with Load(pair) as load:
        load.until_served(10)
        for victim in pair.processes("extproc.worker"):
            victim.send_signal(signal.SIGTERM)
            until(partial(restarted, pair, victim), 60, "the worker to be started again")
        load.until_served(30)
    assert load.failed == []


def test_a_hanging_worker_is_left_by_new_calls(pair: RunningGateway, provider: FakeProvider) -> None:
    victim = pair.processes("extproc.worker")[0]
    with Load(pair) as load:
        load.until_served(30)
        victim.send_signal(signal.SIGSTOP)
        try:
            until(lambda: not two_workers(pair), 10, "the worker to be seen as hanging")
            load.until_served(60)
        finally:
            victim.send_signal(signal.SIGCONT)
        until(lambda: two_workers(pair), 30, "the worker to be seen again")
        load.until_served(30)
    # It hangs for about a second until that is seen; a call meets it once, then its caller may meet it again.
    assert len(load.failed) <= 2 * load.callers
    assert_every_call_was_decided(provider)


def test_every_served_call_has_one_record(pair: RunningGateway) -> None:
    """Also through a restart: the worker that ends writes what it still holds."""
    before = len(pair.records())
    victim = pair.processes("extproc.worker")[0]
    with Load(pair) as load:
        load.until_served(30)
        victim.send_signal(signal.SIGTERM)
        until(lambda: restarted(pair, victim), 30, "the worker to be started again")
    assert load.failed == []
    until(lambda: len(pair.records()) - before >= load.served.total(), what="all records")
    records = pair.records()[before:]
    assert len({record["request_id"] for record in records}) == len(records) == load.served.total()
    assert {record["ending"] for record in records} == {"complete"}


def assert_every_call_was_decided(provider: FakeProvider) -> None:
    """Each call that a backend saw carries the credential that only a decided call is given."""
    calls = provider.calls("openai")
    assert calls
    assert all(["authorization", "Bearer secret"] in call["headers"] for call in calls)
    assert not any(call["malformed"] for call in calls)
