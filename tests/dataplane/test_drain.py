"""The end of a pod: unready at once, what still comes is served, live calls end, and nothing of them is lost."""

import http.client
import json
import os
import signal
import sqlite3
import threading
from collections.abc import Iterator
from typing import Any, Self

import httpx
import openai
import pytest
from sqlalchemy import create_engine, text

from tests.support.fake import FakeProvider
from tests.support.gateway import until
from tests.support.postgres_server import postgres_server
from tests.support.redis_server import redis_server
from tests.support.served import ServedGateway, told

CHAT = "/v1/chat/completions"
LONG = 60  # seconds that a stream would take which no drain of a test waits for


def settings(fake: FakeProvider, **more: Any) -> dict[str, Any]:
    return {
        "backends": {"openai": {"dialect": "openai", "url": fake.url("openai")}},
        "models": {"gpt-4o": {"targets": [[{"backend": "openai"}]]}},
        "workers": 2,
        "timeouts": {"notice": 2, "drain": 30},
        **more,
    }


@pytest.fixture
def provider() -> Iterator[FakeProvider]:
    with FakeProvider("openai") as running:
        yield running


@pytest.fixture
def gateway(provider: FakeProvider) -> Iterator[ServedGateway]:
    with ServedGateway(settings(provider)) as running:
        yield running


def chat(**more: Any) -> dict[str, Any]:
    return {"model": "gpt-4o", "messages": [{"role": "user", "content": "Hello!"}], **more}


def ready(gateway: ServedGateway) -> int:
    return httpx.get(f"{gateway.url}/readyz", trust_env=False).status_code


def served(gateway: ServedGateway) -> httpx.Response:
    """A call on a connection of its own."""
    with gateway.client() as client:
        return client.post(CHAT, json=chat())


class Stream:
    """A live stream of a client, read in a thread to its end."""

    def __init__(self, gateway: ServedGateway, seconds: float) -> None:
        self.text = ""
        self.error = ""
        self._gateway = gateway
        self._body = chat(stream=True, x_fake={"events": 40, "tokens_per_second": 40 / seconds})
        self._begun = threading.Event()
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()
        assert self._begun.wait(20)

    def _read(self) -> None:
        with self._gateway.client() as client, client.stream("POST", CHAT, json=self._body) as answer:
            try:
                for piece in answer.iter_text():
                    self.text += piece
                    self._begun.set()
            except httpx.HTTPError as error:
                self.error = type(error).__name__

    def end(self) -> None:
        self._thread.join(60)
        assert not self._thread.is_alive()


class Sdk:
    """A live stream of OpenAI's client, read in a thread until that raises an error, of which the body is kept."""

    def __init__(self, gateway: ServedGateway, model: str, body: dict[str, Any]) -> None:
        self.error: object = None
        self._begun = threading.Event()
        self._thread = threading.Thread(target=self._read, args=(gateway, model, body), daemon=True)
        self._thread.start()
        assert self._begun.wait(20)

    def _read(self, gateway: ServedGateway, model: str, body: dict[str, Any]) -> None:
        said: list[openai.types.chat.ChatCompletionMessageParam] = [{"role": "user", "content": "Hello!"}]
        with openai.OpenAI(base_url=f"{gateway.url}/v1", api_key=gateway.key, max_retries=0) as client:
            try:
                for _ in client.chat.completions.create(model=model, messages=said, stream=True, extra_body=body):
                    self._begun.set()
            except openai.APIError as error:
                self.error = error.body

    def end(self) -> None:
        self._thread.join(60)
        assert not self._thread.is_alive()


class Kept(http.client.HTTPConnection):
    """A connection that a client keeps, however long nothing runs on it, and does not make anew."""

    auto_open = 0

    def __init__(self, gateway: ServedGateway) -> None:
        super().__init__("127.0.0.1", gateway.port, timeout=60)
        with gateway.client() as client:
            self._headers = {"content-type": "application/json", "authorization": client.headers["authorization"]}
        self.text = b""

    def __enter__(self) -> Self:
        self.connect()
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def post(self, body: dict[str, Any]) -> http.client.HTTPResponse:
        self.request("POST", CHAT, json.dumps(body), self._headers)
        answer = self.getresponse()
        self.text = answer.read()
        return answer


def test_a_pod_ends_in_order_and_loses_nothing(provider: FakeProvider) -> None:
    """As its hooks and signals come: the drain, then Envoy's end, then ours."""
    limits = {"all": {"requests": 1000, "per": "hour"}}
    with redis_server() as redis:
        stores = {"counters": redis.url}
        with ServedGateway(settings(provider, stores=stores, policies={"limits": limits})) as gateway:
            streams = [Stream(gateway, 5) for _ in range(4)]
            first = gateway.drain()
            until(gateway.state.draining.exists, what="the drain to begin")
            assert ready(gateway) == 503
            late = served(gateway)
            assert (late.status_code, late.headers["connection"]) == (200, "close")
            second = gateway.drain()
            until(lambda: not gateway.listens, what="Envoy to take no more connections")
            for stream in streams:
                stream.end()
                assert stream.text.endswith("data: [DONE]\n\n")
            assert told(first)[0] == 0
            assert gateway.state.drained.exists()
            assert told(second) == (0, "The gateway has been drained.\n")
            assert gateway.health() == (200, "ok\n")
            assert gateway.stop_envoy() == 0
            assert gateway.stop() == 0
            with sqlite3.connect(gateway.folder / "sluice.db") as ledger:
                rows = ledger.execute("SELECT surface, ending, source FROM calls").fetchall()
            assert rows == [("chat", "complete", "reported")] * 5


def test_a_pod_whose_redis_is_away_leaves_all_of_its_calls_in_the_ledger(provider: FakeProvider) -> None:
    """The spool ends with the pod, and nobody would tell of them any more."""
    with redis_server() as redis, ServedGateway(settings(provider, stores={"counters": redis.url})) as gateway:
        assert served(gateway).status_code == 200
        redis.kill()
        assert [served(gateway).status_code for _ in range(40)] == [200] * 40
        assert gateway.stop() == 0
        with sqlite3.connect(gateway.folder / "sluice.db") as ledger:
            assert ledger.execute("SELECT COUNT(*), COUNT(DISTINCT request_id) FROM calls").fetchone() == (41, 41)
        assert "settlements stay in the spool" in gateway.log()


def test_what_stays_behind_is_told_by_the_exit_code_and_written_by_the_next_start(provider: FakeProvider) -> None:
    with (
        postgres_server() as postgres,
        ServedGateway(settings(provider, workers=1, stores={"database": postgres.url})) as gateway,
    ):
        postgres.kill()
        assert [served(gateway).status_code for _ in range(3)] == [200] * 3
        assert gateway.stop() == 3
        assert f" events of calls are not in the ledger. They stay in {gateway.state.root}/spool," in gateway.log()
        postgres.start()
        gateway.serve()
        engine = create_engine(postgres.url)
        with engine.connect() as connection:
            until(lambda: connection.execute(text("SELECT COUNT(*) FROM calls")).scalar() == 3, 30, "the rows")
        engine.dispose()
        assert gateway.stop() == 0


def test_a_call_on_a_connection_that_was_idle_is_served_or_told_to_come_again_and_never_cut(
    gateway: ServedGateway,
) -> None:
    """Envoy closes no connection on which nothing runs, and a client may write to it until Envoy ends."""
    with Kept(gateway) as early, Kept(gateway) as late:
        for client in (early, late):
            assert client.post(chat()).status == 200
        stream = Stream(gateway, 8)
        run = gateway.drain()
        until(lambda: not gateway.listens, what="Envoy to take no more connections")
        served = early.post(chat())
        assert (served.status, served.getheader("connection")) == (200, "close")
        assert told(run)[0] == 0
        stream.end()
        assert stream.text.endswith("data: [DONE]\n\n")
        refused = late.post(chat(stream=True))
        error = json.loads(late.text)["error"]
    assert refused.status == 503
    assert [refused.getheader(name) for name in ("connection", "x-should-retry")] == ["close", "true"]
    assert [refused.getheader(name) for name in ("retry-after-ms", "retry-after")] == ["1", "1"]
    assert (error["code"], error["type"]) == ("not_ready", "api_error")
    assert gateway.health() == (200, "ok\n")


def test_a_worker_that_hangs_while_its_supervisor_does_not_is_told(provider: FakeProvider) -> None:
    with ServedGateway(settings(provider, workers=1)) as gateway:
        (worker,) = gateway.processes("extproc.worker")
        worker.suspend()
        until(lambda: gateway.health() == (503, "no worker answers\n"), 60, "the probe to see it")
        worker.resume()
        until(lambda: gateway.health() == (200, "ok\n"), 30, "it to be well again")


def test_a_restart_beside_a_living_envoy_goes_on_with_it(gateway: ServedGateway) -> None:
    assert served(gateway).status_code == 200
    gateway.kill_served()
    gateway.serve()
    until(lambda: ready(gateway) == 200, what="the new workers to be found")
    assert served(gateway).status_code == 200
    assert gateway.envoy is not None
    assert gateway.envoy.poll() is None
    assert gateway.envoy_stat("server.total_connections") >= 0  # its admin socket is there still
    assert gateway.envoy_stat("listener_manager.listener_modified") == 0


def test_a_drain_outlasts_who_asked_for_it_and_ends_with_its_envoy(gateway: ServedGateway) -> None:
    """As where a container hangs, is drained, and started again alone: then its Envoy is, too, and all is well."""
    run = gateway.drain()
    until(gateway.state.draining.exists, what="the drain to begin")
    run.kill()
    told(run)
    gateway.kill_served()
    gateway.serve()
    until(gateway.state.drained.exists, what="the new run to finish it")
    assert gateway.state.draining.exists()
    assert gateway.stop_envoy() == 0
    gateway.run_envoy()
    until(lambda: gateway.listens and ready(gateway) == 200, 60, "the pod to be of use again")
    assert not gateway.state.drained.exists()
    assert served(gateway).headers.get("connection") != "close"


def test_serve_that_is_told_to_end_drains_the_envoy_beside_it_first(gateway: ServedGateway) -> None:
    stream = Stream(gateway, 5)
    assert gateway.stop() == 0
    stream.end()
    assert stream.text.endswith("data: [DONE]\n\n")
    assert gateway.state.drained.exists()


def test_what_would_not_end_is_told_and_holds_up_nobody(provider: FakeProvider) -> None:
    with ServedGateway(settings(provider, timeouts={"notice": 0, "drain": 1})) as gateway:
        stream = Stream(gateway, LONG)
        code, said = told(gateway.drain())
        assert code == 0
        assert "Live calls that did not end in time: 1." in said
        gateway.stop_envoy()
        stream.end()
        assert "[DONE]" not in stream.text
        assert stream.text.count("not_ready") == 1, "whoever reads on after that error reads nothing more"
        assert gateway.stop() == 0
        (call,) = [record for record in gateway.records() if record["surface"] == "chat"]
        assert (call["ending"], call["usage"]["source"]) == ("cut", "estimated")


def test_streams_whose_time_is_over_end_in_an_error_that_the_sdks_raise(provider: FakeProvider) -> None:
    """One that cannot be ended goes on to its client's end, one that can is ended also where its backend is silent."""
    target = {"targets": [[{"backend": "openai"}]]}
    models = {"gpt-4o": target, "ended": {**target, "stall": "100s"}}
    silent = {"x_fake": {"stall_after": 3, "events": 40}}
    with ServedGateway(settings(provider, models=models, timeouts={"notice": 0, "drain": 1})) as gateway:
        flows = Sdk(gateway, "gpt-4o", {"x_fake": {"events": 4000, "tokens_per_second": 5}})
        stops = Sdk(gateway, "ended", silent)
        code, said = told(gateway.drain())
        assert code == 0
        assert "The time of live calls is over, and 2 run." in said
        assert said.endswith("No call is left.\n"), "their clients have left"
        for stream in (flows, stops):
            stream.end()
            assert stream.error == {
                "message": "The gateway stops, and the answer has not ended in time. Try again.",
                "type": "api_error",
                "param": None,
                "code": "not_ready",
            }
        gateway.stop_envoy()
        assert gateway.stop() == 0
        calls = [record for record in gateway.records() if record["surface"] == "chat"]
        assert [(call["ending"], call["usage"]["source"]) for call in calls] == [("cut", "estimated")] * 2
        assert all(call["usage"]["output"] for call in calls)


def test_a_configuration_that_is_wrong_by_then_does_not_keep_a_pod_from_ending_in_order(gateway: ServedGateway) -> None:
    gateway.config.write_text("models: 7\n")
    stream = Stream(gateway, 4)
    code, said = told(gateway.drain())
    stream.end()
    assert (code, stream.text[-14:]) == (0, "data: [DONE]\n\n")
    assert "what comes within 2 s is served" in said


def test_without_an_envoy_there_is_nothing_to_wait_for(gateway: ServedGateway) -> None:
    gateway.stop_envoy()
    assert told(gateway.drain()) == (0, "No Envoy is there to be drained.\n")
    assert gateway.state.drained.exists()


def test_a_second_signal_ends_serve_at_once(provider: FakeProvider) -> None:
    with ServedGateway(settings(provider, timeouts={"notice": LONG, "drain": LONG})) as gateway:
        os.kill(gateway.pid, signal.SIGTERM)
        until(gateway.state.draining.exists, what="the drain to begin")
        assert ready(gateway) == 503

        def is_gone() -> bool:
            if not gateway.ended:
                os.kill(gateway.pid, signal.SIGTERM)
            return gateway.ended

        until(is_gone, what="the end")
