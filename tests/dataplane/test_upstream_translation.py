"""Requests that are translated on their way to one backend, in the real Envoy: each attempt gets its own, whole.

The directions here are made up: what they write is longer or shorter than what they read, or they fail.
"""

import asyncio
import itertools
import json
import logging
from collections.abc import AsyncIterator, Iterator, Mapping
from pathlib import Path
from typing import Any

import httpx
import pytest
import pytest_asyncio
from envoy_data_plane.envoy.extensions.filters.http.ext_proc.v3 import ProcessingModeBodySendMode as BodyMode

from extproc import contract
from extproc.adapter import server, translator
from extproc.dataplane import upstream
from extproc.dialects.translate.direction import Direction
from extproc.model import Dialect
from extproc.surfaces import Surface
from tests.support.scripted import PATIENCE, RESET, A, B, Plan, Received, Running, running_gateway

pytestmark = pytest.mark.asyncio(loop_scope="module")

CHAT, MESSAGES = "/v1/chat/completions", "/v1/messages"
CAP = 8 * 2**20
FAULTS = (429, 503, RESET)
CANARY = "canary: text of a call"
DEPLOYED = {A: "claude-there", B: "gpt-there"}


def request(body: Mapping[str, object], model: str) -> dict[str, object]:
    if body.get("fault") == "raise":
        raise ValueError(CANARY)
    if body.get("shrink"):
        return {"to": model}
    if body.get("fault") == "outgrow":
        return {"to": model, "around": "x" * (CAP + 4 * 2**20)}
    return {"to": model, "around": "x" * 300, "body": dict(body)}


def unused(*_: object) -> Any:
    raise AssertionError("an attempt only translates its request")


MADE_UP = Direction(refused=unused, request=request, path=unused, answer=unused)
DIRECTIONS = {(Surface.CHAT, Dialect.ANTHROPIC): MADE_UP, (Surface.MESSAGES, Dialect.AZURE): MADE_UP}


class Hops:
    """The streams on which attempts were translated; can be told to keep the next one waiting."""

    def __init__(self) -> None:
        self.count = 0
        self.hang = False

    async def translate(self, requests: object, stream: Any) -> None:
        self.count += 1
        if self.hang:
            await asyncio.Event().wait()
        await translator.translate(requests, stream)


HOPS = Hops()


@pytest.fixture(scope="module")
def made_up() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(upstream, "DIRECTIONS", DIRECTIONS)
        patch.setattr(translator, "DIRECTIONS", DIRECTIONS)
        patch.setattr(server, "translate", HOPS.translate)
        yield


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def running(made_up: None, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Running]:
    """`a` speaks Anthropic's dialect, `b` Azure's; two workers."""
    limits = {"json_request": CAP, "json_answer": CAP}
    anthropic = {"dialect": "anthropic", "credential": {"env": "KEY_A"}}
    folder: Path = tmp_path_factory.mktemp("translation")
    async with running_gateway(folder, backend_a=anthropic, more={"limits": limits}, workers=2) as gateway:
        yield gateway


@pytest.fixture
def gateway(running: Running) -> Running:
    for provider in (running.a, running.b):
        provider.script, provider.received, provider.padding = [], [], 0
    running.policy.plan, running.policy.seen = Plan(), []
    HOPS.count, HOPS.hang = 0, False
    return running


def chat(*order: str, **more: Any) -> Plan:
    """The order of a chat: `b` speaks it, for `a` it is translated."""
    return Plan(order=order, deployed=DEPLOYED, translate={A: "chat"}, **more)


def messages(*order: str, **more: Any) -> Plan:
    """The order of a call of Anthropic's API: `a` speaks it, for `b` it is translated."""
    return Plan(order=order, deployed=DEPLOYED, translate={B: "messages"}, **more)


def body_of(**fields: Any) -> bytes:
    return json.dumps({"model": "m", **fields}).encode()


def translated(body: bytes, cluster: str) -> object:
    return request(json.loads(body), DEPLOYED[cluster])


def assert_sent(cluster: str, received: Received, body: bytes, to_translate: str) -> None:
    """One whole request with this cluster's path, its credential and its length, translated if it is to be."""
    assert received.path == {A: "/a", B: "/b"}[cluster]
    if cluster == to_translate:
        assert json.loads(received.body) == translated(body, cluster)
    else:
        assert received.body == body
    assert received.headers["content-length"] == str(len(received.body))
    secrets = {name: value for name, value in received.headers.items() if "secret-" in value}
    assert secrets == {A: {"x-api-key": "secret-a"}, B: {"api-key": "secret-b"}}[cluster]
    assert not any(name.startswith("x-sluice-") for name in received.headers)


# ---- one attempt ---------------------------------------------------------------------------------------


async def test_what_a_backend_speaks_passes_it_untouched_and_asks_nobody(gateway: Running) -> None:
    gateway.policy.plan = Plan(deployed=DEPLOYED)
    body = body_of(text=CANARY)
    answer = await gateway.post(MESSAGES, body, "anthropic-version: 2024-01-01\r\nanthropic-beta: one,two\r\n")
    (received,) = gateway.a.received
    assert answer.status == 200
    assert_sent(A, received, body, to_translate=B)
    assert received.headers["anthropic-version"] == "2024-01-01"
    assert received.headers["anthropic-beta"] == "one,two"
    assert HOPS.count == 0


@pytest.mark.parametrize("chunked", [False, True])
@pytest.mark.parametrize("shrink", [False, True])
async def test_a_translated_attempt_gets_body_length_and_path_of_its_own(
    shrink: bool, chunked: bool, gateway: Running
) -> None:
    gateway.policy.plan = chat(A)
    body = body_of(shrink=shrink, text=CANARY)
    assert (await gateway.post(CHAT, body, chunked=chunked)).status == 200
    assert_sent(A, gateway.a.received[0], body, to_translate=A)
    assert gateway.policy.last("response_headers").attributes["xds.cluster_name"] == A
    assert HOPS.count == 1


async def test_a_translated_attempt_has_its_own_providers_headers_only(gateway: Running) -> None:
    theirs = "openai-beta: x\r\nanthropic-version: 1999\r\nanthropic-beta: y\r\nuser-agent: me\r\n"
    gateway.policy.plan = chat(A)
    await gateway.post(CHAT, body_of(), theirs)
    gateway.policy.plan = messages(B)
    await gateway.post(MESSAGES, body_of(), theirs)
    (at_anthropic,), (at_azure,) = gateway.a.received, gateway.b.received
    assert at_anthropic.headers["anthropic-version"] == "2023-06-01"
    assert at_anthropic.headers["user-agent"] == at_azure.headers["user-agent"] == "me"
    for received in (at_anthropic, at_azure):
        assert "openai-beta" not in received.headers
        assert "anthropic-beta" not in received.headers
    assert "anthropic-version" not in at_azure.headers


@pytest.mark.parametrize("padding", [0, CAP - 400])
async def test_the_largest_body_is_translated_behind_a_failed_attempt(padding: int, gateway: Running) -> None:
    gateway.policy.plan, gateway.b.script = chat(B, A), [503]
    body = body_of(text="y" * padding)
    assert (await gateway.post(CHAT, body)).status == 200
    assert_sent(B, gateway.b.received[0], body, to_translate=A)
    assert_sent(A, gateway.a.received[0], body, to_translate=A)


async def test_a_translation_that_outgrows_what_an_attempt_may_hold_is_too_large(gateway: Running) -> None:
    gateway.policy.plan, gateway.b.script = chat(B, A), [503]
    answer = await gateway.post(CHAT, body_of(fault="outgrow"))
    assert (answer.status, answer.error["code"]) == (413, "request_too_large")
    assert not gateway.a.received


# ---- chains --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("order", [(B, A, B), (A, B, A)], ids=["native first", "translated first"])
@pytest.mark.parametrize(("plan", "path", "to_translate"), [(chat, CHAT, A), (messages, MESSAGES, B)])
async def test_every_attempt_of_a_chain_is_right_after_any_other(
    plan: Any, path: str, to_translate: str, order: tuple[str, ...], gateway: Running
) -> None:
    """On connections that are kept: what a wrong length left there would be the start of the next request."""
    providers = {A: gateway.a, B: gateway.b}
    for number, faults in enumerate(itertools.product(FAULTS, FAULTS)):
        gateway.policy.plan = plan(*order)
        gateway.a.received, gateway.b.received = [], []
        for cluster, fault in zip(order, faults, strict=False):
            providers[cluster].script.append(fault)
        body = body_of(shrink=number % 2 == 0, text="z" * (0, 200, 70_000)[number % 3])
        assert (await gateway.post(path, body, "x-api-key: mine\r\nauthorization: mine\r\n")).status == 200
        assert (len(gateway.a.received), len(gateway.b.received)) == (order.count(A), order.count(B))
        for cluster, provider in providers.items():
            for received in provider.received:
                assert_sent(cluster, received, body, to_translate)
    assert HOPS.count == 9 * order.count(to_translate)


async def test_a_native_attempt_has_the_callers_headers_whatever_came_before(gateway: Running) -> None:
    asking = {"anthropic-version": "2023-06-01", "anthropic-beta": "one,two"}
    head = "".join(f"{name}: {value}\r\n" for name, value in asking.items())
    gateway.policy.plan = messages(A, B, A, asking=asking)
    gateway.a.script, gateway.b.script = [503], [429]
    await gateway.post(MESSAGES, body_of(), head)
    for received in gateway.a.received:
        assert {name: received.headers.get(name) for name in asking} == asking
    assert len(gateway.a.received) == 2


async def test_what_a_translated_attempt_brought_is_gone_for_a_native_one(gateway: Running) -> None:
    gateway.policy.plan, gateway.a.script = chat(A, B, asking={"openai-beta": "x"}), [503]
    await gateway.post(CHAT, body_of(), "openai-beta: x\r\n")
    (translated_one,), (native_one,) = gateway.a.received, gateway.b.received
    assert "anthropic-version" in translated_one.headers
    assert "openai-beta" not in translated_one.headers
    assert "anthropic-version" not in native_one.headers
    assert native_one.headers["openai-beta"] == "x"


async def test_a_crowd_is_shared_by_the_workers_and_nobody_gets_anothers(gateway: Running) -> None:
    gateway.policy.plan = chat(B, A)
    gateway.b.script = [429] * 40
    bodies = [body_of(text=f"caller {number}", pad="p" * (number * 997)) for number in range(40)]
    answers = await asyncio.gather(*(gateway.post(CHAT, body) for body in bodies))
    assert {answer.status for answer in answers} == {200}
    sent = sorted((json.loads(received.body) for received in gateway.a.received), key=json.dumps)
    assert sent == sorted((translated(body, A) for body in bodies), key=json.dumps)
    assert all(count > 0 for count in await requests_of_workers(gateway))


async def requests_of_workers(gateway: Running) -> list[int]:
    transport = httpx.AsyncHTTPTransport(uds=gateway.layout.admin_socket)
    async with httpx.AsyncClient(transport=transport, base_url="http://admin") as client:
        clusters = (await client.get("/clusters?format=json")).json()["cluster_statuses"]
    (workers,) = [cluster for cluster in clusters if cluster["name"] == contract.EXTPROC_CLUSTER]
    stats = [{stat["name"]: stat for stat in host["stats"]} for host in workers["host_statuses"]]
    assert len(stats) == 2
    return [int(host["rq_success"].get("value", 0)) for host in stats]


# ---- failing -------------------------------------------------------------------------------------------

UNTRANSLATABLE = {
    "fault": body_of(fault="raise", text=CANARY),
    "no JSON": CANARY.encode(),
    "no object": json.dumps([CANARY]).encode(),
    "half a character": b'{"text":"\\ud800"}',
}


@pytest.mark.parametrize("body", UNTRANSLATABLE.values(), ids=UNTRANSLATABLE)
@pytest.mark.parametrize("order", [(A,), (B, A)], ids=len)
async def test_what_cannot_be_translated_is_not_sent_on(
    order: tuple[str, ...], body: bytes, gateway: Running, caplog: pytest.LogCaptureFixture
) -> None:
    gateway.policy.plan, gateway.b.script = chat(*order), [503]
    with caplog.at_level(logging.DEBUG):
        answer = await gateway.post(CHAT, body)
    assert (answer.status, answer.error["code"]) == (503, "gateway_error")
    assert not gateway.a.received
    assert CANARY.encode() not in answer.body
    assert "translation failed" in caplog.text
    assert CANARY not in caplog.text


@pytest.mark.parametrize(
    "plan",
    [
        Plan(deployed=DEPLOYED, translate={A: "embeddings"}),
        Plan(deployed=DEPLOYED, translate={A: "no surface"}),
        Plan(deployed=DEPLOYED, translate={A: ""}),
        Plan(translate={A: "chat"}),
    ],
    ids=["no direction", "no surface", "empty", "no model"],
)
async def test_an_order_that_cannot_be_carried_out_sends_nothing(plan: Plan, gateway: Running) -> None:
    gateway.policy.plan = plan
    answer = await gateway.post(CHAT, body_of())
    assert (answer.status, answer.error["code"]) == (503, "gateway_error")
    assert not gateway.a.received


async def test_a_call_without_a_body_is_not_translated(gateway: Running) -> None:
    gateway.policy.plan = chat(A)
    assert (await gateway.get("/v1/models")).status == 503
    assert not gateway.a.received


async def test_a_worker_that_hangs_ends_the_call(gateway: Running) -> None:
    gateway.policy.plan, HOPS.hang = chat(A), True
    answer = await gateway.post(CHAT, body_of())
    assert (answer.status, answer.error["code"]) == (504, "gateway_error")
    assert not gateway.a.received


# ---- answers -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", [BodyMode.NONE, BodyMode.STREAMED, BodyMode.BUFFERED], ids=lambda mode: mode.name)
async def test_large_answers_to_slow_readers_pass(mode: BodyMode, gateway: Running) -> None:
    """Envoy crashes on such answers where a filter of a cluster sends them to a worker: so none may."""
    gateway.policy.plan = chat(B, A, answer_mode=mode)
    sizes = [2 * 2**20, 5 * 2**20, CAP - 1000]
    for size in sizes:
        gateway.a.padding = size
        gateway.b.script = [503]
        assert await read_slowly(gateway, body_of()) == size + len('{"status": 200}')
    gateway.a.padding, gateway.b.script = sizes[1], [503] * 6
    lengths = await asyncio.gather(*(read_slowly(gateway, body_of()) for _ in range(6)))
    assert set(lengths) == {sizes[1] + len('{"status": 200}')}


async def read_slowly(gateway: Running, body: bytes) -> int:
    """Bytes of the answer, to a client that first does not read at all."""
    async with asyncio.timeout(PATIENCE):
        reader, writer = await asyncio.open_connection(gateway.host, gateway.configuration.listener.port, limit=2**16)
        head = f"POST {CHAT} HTTP/1.1\r\nhost: gateway.test\r\nconnection: close\r\ncontent-length: {len(body)}\r\n\r\n"
        writer.write(head.encode() + body)
        start = await reader.readuntil(b"\r\n\r\n")
        assert start.startswith(b"HTTP/1.1 200 ")
        await asyncio.sleep(0.2)
        size = 0
        while piece := await reader.read(2**18):
            size += len(piece)
            await asyncio.sleep(0.001)
        writer.close()
        await writer.wait_closed()
        return size
