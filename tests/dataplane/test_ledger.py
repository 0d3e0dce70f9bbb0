"""What every call used stands in the ledger, once, as the providers themselves counted it: with a Redis and without."""

import json
import os
import signal
import socket
import threading
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx
import pytest
from sqlalchemy import text
from typer.testing import CliRunner

from extproc.cli import app
from extproc.stores import sql
from extproc.stores.ledger import CallRow, Question, Sum, Told
from extproc.stores.rollups import AMOUNTS
from tests.support.fake import FakeProvider
from tests.support.gateway import RunningGateway, until
from tests.support.redis_server import redis_server

CHAT = "/v1/chat/completions"
SAY = [{"role": "user", "content": "one two three"}]
PRICE = {"input": 2.5, "cached_input": 1.25, "output": 10}
PATIENCE = 30.0

Json = dict[str, Any]


def settings(fake: FakeProvider, redis: str) -> Json:
    backends = {name: {"dialect": "openai", "url": fake.url(name)} for name in ("one", "two")}
    models = {
        "plain": {"targets": [[{"backend": "one", "model": "gpt-4o"}]], "price": PRICE},
        "limited": {"targets": [[{"backend": "one", "model": "gpt-4o"}]], "price": PRICE},
        "chain": {
            "targets": [[{"backend": "one", "model": "gpt-4o"}], [{"backend": "two", "model": "gpt-4o"}]],
            "price": PRICE,
        },
    }
    limits = {"few": {"requests": 3, "per": "day", "only": {"models": ["limited"]}}}
    return {
        "backends": backends,
        "models": models,
        "policies": {"limits": limits},
        "stores": {"counters": redis} if redis else {},
    }


@pytest.fixture(scope="module", params=["memory", "redis"])
def redis(request: pytest.FixtureRequest) -> Iterator[str]:
    with ExitStack() as stack:
        yield stack.enter_context(redis_server()).url if request.param == "redis" else ""


@pytest.fixture(scope="module")
def fake() -> Iterator[FakeProvider]:
    with FakeProvider("one", "two") as running:
        yield running


@pytest.fixture(scope="module")
def gateway(redis: str, fake: FakeProvider) -> Iterator[RunningGateway]:
    with RunningGateway(settings(fake, redis)) as running:
        yield running


def chat(gateway: RunningGateway, model: str, **more: Any) -> httpx.Response:
    with gateway.client() as client:
        return client.post(CHAT, json={"model": model, "messages": SAY, **more})


def rows(gateway: RunningGateway, request_id: str) -> list[tuple[CallRow, list[Json]]]:
    with closing(sql.open_stores(gateway.settings["stores"]["database"])) as stores:
        found = stores.ledger.call(request_id)
        return [(row, [{"backend": one.backend, "status": one.status} for one in tried]) for row, tried in found]


def row_of(gateway: RunningGateway, answer: httpx.Response, attempts: int = 1) -> tuple[CallRow, list[Json]]:
    """The one row of a call, once it and its attempts are there."""
    name = answer.headers["x-request-id"]

    def whole() -> list[tuple[CallRow, list[Json]]]:
        return [one for one in rows(gateway, name) if len(one[1]) >= attempts]

    found: list[tuple[CallRow, list[Json]]] = until(whole, PATIENCE, f"the row of a call; log:\n{gateway.log()}")
    assert len(found) == 1
    return found[0]


def sluice(gateway: RunningGateway, *words: str) -> str:
    result = CliRunner().invoke(app, [*words, "--config", str(gateway.config)])
    assert result.exit_code == 0, result.output
    return result.stdout


def test_a_call_is_a_row_with_what_the_provider_counted(gateway: RunningGateway) -> None:
    """With a limit that counts it and without, whole and as a stream."""
    asked = [(model, stream) for model in ("plain", "limited") for stream in (False, True)]
    answers = [chat(gateway, model, stream=stream) for model, stream in asked]
    for (model, stream), answer in zip(asked, answers, strict=True):
        assert answer.status_code == 200
        row, tried = row_of(gateway, answer)
        record = gateway.record(answer.headers["x-request-id"])
        assert (row.told, row.status, row.ending, row.blame) == (Told.WORKER, 200, "complete", None)
        assert (row.model, row.backend, row.key_name, row.stream) == (model, "one", "quickstart", stream)
        assert (row.input, row.output, row.source) == (record["usage"]["input"], record["usage"]["output"], "reported")
        assert row.cost == record["cost"] == row.input * 2_500 + row.output * 10_000
        assert row.currency == "USD"
        assert tried == [{"backend": "one", "status": 200}]


def test_every_attempt_of_a_call_is_told(gateway: RunningGateway, fake: FakeProvider) -> None:
    fake.script("one", [{"status": 503}])
    row, tried = row_of(gateway, chat(gateway, "chain"), attempts=2)
    assert row.backend == "two"
    assert tried == [{"backend": "one", "status": 503}, {"backend": "two", "status": 200}]


def test_a_refused_call_is_a_row_and_a_call_of_nobody_is_none(gateway: RunningGateway) -> None:
    unknown = chat(gateway, "no-such-model")
    with httpx.Client(base_url=gateway.url, trust_env=False) as client:
        of_nobody = client.post(CHAT, json={"model": "plain", "messages": SAY})
        assert of_nobody.status_code == 401
    row, _ = row_of(gateway, unknown, attempts=0)
    assert (row.status, row.refusal, row.blame, row.cost) == (404, "model_not_found", "client", 0)
    assert rows(gateway, of_nobody.headers["x-request-id"]) == []


def test_who_leaves_in_the_middle_is_to_blame(gateway: RunningGateway, fake: FakeProvider) -> None:
    fake.script("one", [{"stall_after": 2}])
    say = {"model": "plain", "messages": SAY, "stream": True}
    with gateway.client() as client, client.stream("POST", CHAT, json=say) as answer:
        next(answer.iter_lines())
    name = answer.headers["x-request-id"]
    found = until(lambda: [row for row, _ in rows(gateway, name) if row.blame], PATIENCE, "who left")
    assert [(row.ending, row.blame) for row in found] == [("cut", "client")]


def test_people_see_it(gateway: RunningGateway) -> None:
    answer = chat(gateway, "plain")
    row, _ = row_of(gateway, answer)
    told = sluice(gateway, "explain", answer.headers["x-request-id"])
    assert f"{row.input} input, {row.output} output (reported)" in told
    assert "attempt 1 one: 200" in told
    by_model = {one["model"]: one for one in json.loads(sluice(gateway, "usage", "--by", "model", "--json"))}
    assert by_model["plain"]["calls"] >= 1
    assert by_model["plain"]["currency"] == "USD"


def worker_killed(gateway: RunningGateway) -> None:
    for process in gateway.processes("extproc.worker"):
        process.kill()


def gateway_killed(gateway: RunningGateway) -> None:
    """All of it, and a new one in its place."""
    children = gateway._tree()
    os.kill(gateway.pid, signal.SIGKILL)
    for process in children:
        process.kill()
    gateway.stop()
    gateway.__enter__()


def heard(gateway: RunningGateway) -> int:
    """How many messages Envoy has got from its worker."""
    return gateway.envoy_stat("http.gateway.ext_proc.stream_msgs_received")


@contextmanager
def under_way(gateway: RunningGateway, fake: FakeProvider) -> Iterator[None]:
    """Three calls: one waits for its backend, one is in the middle of its answer, and of one the body is to come."""
    fake.script("one", [{"held": 0}, {"held": 2}])
    first = threading.Thread(target=answered, args=(gateway,))
    first.start()
    until(lambda: fake.totals("one")["open"], PATIENCE, "the call to be at its backend")
    with ExitStack() as stack:
        client = stack.enter_context(gateway.client())
        say = {"model": "plain", "messages": SAY, "stream": True}
        lines = stack.enter_context(client.stream("POST", CHAT, json=say)).iter_lines()
        next(lines)  # who lets go of the iterator ends the call
        third = stack.enter_context(socket.create_connection(("127.0.0.1", gateway.port)))
        before = heard(gateway)
        head = f"POST {CHAT} HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {gateway.key}\r\ncontent-length: 100\r\n"
        third.sendall(head.encode() + b"content-type: application/json\r\n\r\n{")
        until(lambda: heard(gateway) > before, PATIENCE, "the caller to be known")
        yield
        fake.release("one")
        first.join(PATIENCE)


def lost(gateway: RunningGateway) -> list[tuple[object, ...]]:
    """Who told of each call that was lost, and with what."""
    told = text("SELECT told, status, model, key_id, source FROM calls WHERE ending = 'lost' ORDER BY source, status")
    with closing(sql.open_stores(gateway.settings["stores"]["database"])) as stores, stores.engine.connect() as asked:
        return [tuple(row) for row in asked.execute(told)]


def test_nothing_is_lost_and_nothing_doubled(gateway: RunningGateway, fake: FakeProvider, redis: str) -> None:
    """Where the bus is in Redis the worker dies; where it is on disk all dies, and with it whoever reads the bus.

    Of a worker that dies alone Envoy tells what it was at. Else that stands in its spool, of what had been sent.
    """
    before = calls_in_ledger(gateway)
    answers = [chat(gateway, "plain") for _ in range(10)]
    for answer in answers:  # its client has it a moment before its worker notes that it has ended
        gateway.record(answer.headers["x-request-id"])
    fake.reset()
    with under_way(gateway, fake):
        worker_killed(gateway) if redis else gateway_killed(gateway)
    told, refused, begun = (Told.ENVOY, 503, 200) if redis else (Told.SPOOL, None, None)
    wanted = [(told, one, "plain", "quickstart", "estimated") for one in sorted((begun, refused), key=str)]
    wanted += [(told, refused, "", "quickstart", "none")] if redis else []
    until(lambda: len(lost(gateway)) >= len(wanted), PATIENCE, f"the calls that were lost; log:\n{gateway.log()}")
    after = until(lambda: answered(gateway), PATIENCE, "the gateway to serve")
    row_of(gateway, after)
    for answer in answers:
        ((row, _),) = rows(gateway, answer.headers["x-request-id"])
        assert row.output == answer.json()["usage"]["completion_tokens"]
    assert lost(gateway) == wanted
    assert calls_in_ledger(gateway) >= before + len(answers) + 2
    assert sums_agree(gateway)


def answered(gateway: RunningGateway) -> httpx.Response | None:
    try:
        answer = chat(gateway, "plain")
    except httpx.HTTPError:
        return None
    return answer if answer.status_code == 200 else None


def usage(gateway: RunningGateway, *by: str, **only: str) -> list[Sum]:
    today = datetime.now(UTC).date()
    with closing(sql.open_stores(gateway.settings["stores"]["database"])) as stores:
        return list(stores.ledger.usage(Question(today - timedelta(days=1), today, "UTC", by, only)))


def calls_in_ledger(gateway: RunningGateway) -> int:
    return sum(one.calls for one in usage(gateway, model="plain"))


def sums_agree(gateway: RunningGateway) -> bool:
    """Those by day with the rows, of which those by user and model are made."""
    fast, slow = usage(gateway, "team"), usage(gateway, "user", "model")
    return all(sum(getattr(one, name) for one in fast) == sum(getattr(one, name) for one in slow) for name in AMOUNTS)
