"""Backends whose names do not resolve, or none of whose addresses is well: the next one serves, and none is asked."""

from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest

from extproc import contract
from tests.support.dns import Names
from tests.support.fake import FakeProvider
from tests.support.gateway import RunningGateway, until
from tests.support.raw_http import form
from tests.support.scripted import A, B, Plan, Provider, Running, eventually, running_gateway

Json = dict[str, Any]
CHAT, MESSAGES, RESPONSES = "/v1/chat/completions", "/v1/messages", "/v1/responses"
NAME = "backend.test"
SECRETS = {"GONE_SECRET": "secret-gone", "THERE_SECRET": "secret-there"}


# ---- a whole gateway -----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def fake() -> Iterator[FakeProvider]:
    with FakeProvider("there", options=["--keep-bodies"]) as running:
        yield running


@pytest.fixture(scope="module")
def gateway(fake: FakeProvider) -> Iterator[RunningGateway]:
    gone = {"url": "https://nowhere.invalid", "credential": {"env": "GONE_SECRET"}}
    patient = {"failures": 2, "open_for": "60s", "longest_open": "60s"}
    there = [{"backend": "there", "model": "m"}]
    settings = {
        "backends": {
            "gone": {"dialect": "openai", **gone},
            "gone-claude": {"dialect": "anthropic", **gone},
            "gone-legacy": {"dialect": "azure-openai", "api_version": "2024-10-21", **gone},
            "shunned": {"dialect": "openai", **gone, "cooling": patient},
            "there": {"dialect": "openai", "url": fake.url("there"), "credential": {"env": "THERE_SECRET"}},
        },
        "models": {
            "none": {"targets": [[{"backend": "gone", "model": "m"}], [{"backend": "gone-legacy", "model": "m"}]]},
            "shunned": {"targets": [[{"backend": "shunned", "model": "m"}], there]},
            "form": {"targets": [[{"backend": "gone", "model": "m"}], there]},
            **{
                name: {"targets": [[{"backend": name, "model": "another"}], there]}
                for name in ("gone", "gone-claude", "gone-legacy")
            },
            "all": {"targets": [*([{"backend": name, "model": "x"}] for name in ("gone", "gone-claude")), there]},
        },
    }
    with RunningGateway(settings, SECRETS) as running:
        yield running


@pytest.fixture(autouse=True)
def nothing_recorded(request: pytest.FixtureRequest) -> None:
    if "fake" in request.fixturenames:
        request.getfixturevalue("fake").reset()


def attempts(gateway: RunningGateway, request_id: str, number: int) -> list[Json]:
    """So many failed attempts of a call by Envoy's records, which are waited for."""

    def told() -> list[Json] | None:
        records = [record for record in gateway.records("attempt") if record["request_id"] == request_id]
        return records if len(records) == number else None

    found: list[Json] = until(told, what="the records of the attempts")
    return found


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
@pytest.mark.parametrize("size", [10, 4 << 20], ids=["small", "large"])
@pytest.mark.parametrize(
    ("model", "without"),
    [
        ("gone", ["gone"]),
        ("gone-claude", ["gone-claude"]),
        ("gone-legacy", ["gone-legacy"]),
        ("all", ["gone", "gone-claude"]),
    ],
)
def test_the_next_backend_serves(
    model: str, without: list[str], size: int, stream: bool, gateway: RunningGateway, fake: FakeProvider
) -> None:
    """It gets one whole request with nothing of the attempts before, which are told as failed connections."""
    asked = {"model": model, "messages": [{"role": "user", "content": "x" * size}], "stream": stream}
    with gateway.client() as client:
        answer = client.post(CHAT, json=asked)
    assert answer.status_code == 200
    (call,) = fake.calls("there")
    assert (call["complete"], call["malformed"], call["path"]) == (True, False, CHAT)
    assert [pair for pair in call["headers"] if "secret-" in pair[1]] == [["authorization", "Bearer secret-there"]]
    assert not {"anthropic-version", "anthropic-beta"} & {name for name, _ in call["headers"]}
    request_id = answer.headers["x-request-id"]
    told = [(one["backend"], one["status"], one["flag"]) for one in attempts(gateway, request_id, len(without))]
    assert sorted(told) == [(name, 0, "no_healthy_upstream") for name in without]
    record = gateway.record(request_id)
    assert (record["backend"], record["status"], record["ending"]) == ("there", 200, "complete")


def test_an_upload_goes_on_whole(gateway: RunningGateway, fake: FakeProvider) -> None:
    kind, body = form({"model": "form"}, b"a" * (1 << 20))
    with gateway.client() as client:
        answer = client.post("/v1/audio/transcriptions", content=body, headers={"content-type": kind})
    assert len(attempts(gateway, answer.headers["x-request-id"], 1)) == 1
    assert answer.status_code == 200
    assert f"({1 << 20} bytes)" in answer.json()["text"]
    (call,) = fake.calls("there")
    assert call["complete"]


@pytest.mark.parametrize(
    ("path", "asked"),
    [
        (CHAT, {"messages": [{"role": "user", "content": "hi"}]}),
        (CHAT, {"messages": [{"role": "user", "content": "hi"}], "stream": True}),
        (MESSAGES, {"messages": [{"role": "user", "content": "hi"}], "max_tokens": 10}),
        (RESPONSES, {"input": "hi", "store": False}),
    ],
    ids=["chat", "stream", "messages", "responses"],
)
def test_where_no_name_resolves_the_gateway_says_so_in_the_shape_of_the_surface(
    path: str, asked: Json, gateway: RunningGateway
) -> None:
    with gateway.client() as client:
        answer = client.post(path, json={"model": "none", **asked})
    body = answer.json()
    assert answer.status_code == 503
    assert answer.headers["content-type"] == "application/json"
    assert answer.headers["x-should-retry"] == "true"
    assert (body["error"]["code"], body.get("type")) == (
        "upstream_unavailable",
        "error" if path == MESSAGES else None,
    )
    for word in ("invalid", "unresolved", "gone", "secret", "sink", "envoy"):
        assert word not in answer.text.lower()
    record = gateway.record(answer.headers["x-request-id"])
    assert (record["status"], record.get("backend"), record.get("usage")) == (503, None, None)


def test_it_counts_as_a_failure_of_the_backend(gateway: RunningGateway) -> None:
    """After as many as open its circuit it is not tried any more, by Envoy's own count."""
    asked = {"model": "shunned", "messages": [{"role": "user", "content": "hi"}]}

    def tried() -> int:
        return gateway.envoy_stat("cluster.unresolved_shunned.upstream_rq_total")

    def is_spared() -> bool:
        before = tried()
        assert client.post(CHAT, json=asked).status_code == 200
        return tried() == before

    with gateway.client() as client:
        assert not is_spared()
        until(is_spared, what="the circuit to open")
    assert tried() >= 2, "the failures that open it"
    counted = 'sluice_attempts_total{backend="shunned",status="%s"}'
    until(lambda: counted % "no_healthy_upstream" in gateway.metrics(), what="the attempts to be counted")
    assert counted % "503" not in gateway.metrics()


# ---- names and addresses that come and go --------------------------------------------------------------


@dataclass(frozen=True)
class Named:
    """A gateway whose `a` is asked for by name; `provider` is there, `names` says where."""

    gateway: Running
    provider: Provider
    names: Names

    async def served_by(self) -> str:
        """Who answers a call that is to go to `a` first."""
        before = len(self.gateway.b.received)
        assert (await self.gateway.post(CHAT, b"{}")).status == 200
        return "a" if len(self.gateway.b.received) == before else "b"

    async def served(self, by: str) -> None:
        async def is_served() -> bool:
            return await self.served_by() == by

        await eventually(is_served)

    async def is_spared(self) -> bool:
        """Whether a call is answered and `a` not asked, but for whether it is well."""
        before = self._asked
        return await self.served_by() == "b" and self._asked == before

    @property
    def _asked(self) -> int:
        return len([received for received in self.provider.received if received.path == "/a"])


@pytest.fixture(params=[{}], ids=[""])
async def named(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Named]:
    """The parameter: what else is set of `a`."""
    names, provider = Names(), Provider()
    async with names.serving(), provider.serving():
        url = f"http://{NAME}:{provider.port}"
        backend = {"url": url, "credential": {"env": "KEY_A"}, **request.param}
        config = tmp_path / "envoy"
        async with running_gateway(tmp_path, backend_a=backend, before_start=lambda: names.asked_by(config)) as running:
            running.policy.plan = Plan(order=(A, B))
            yield Named(running, provider, names)


async def test_a_name_that_resolves_later_serves_without_a_restart_and_one_that_goes_away_does_not(
    named: Named,
) -> None:
    assert await named.served_by() == "b"
    named.names.addresses[NAME] = ["127.0.0.1"]
    await named.served("a")
    received = named.provider.received[-1]
    assert (received.path, received.headers["host"]) == ("/a", f"{NAME}:{named.provider.port}")
    assert received.headers["authorization"] == "Bearer secret-a"
    seen = named.gateway.policy.last("response_headers")
    assert seen.attributes["xds.cluster_name"] == A
    del named.names.addresses[NAME]
    await named.served("b")


@pytest.mark.parametrize("named", [{"health": {"path": "/well", "interval": "1s"}}], ids=["watched"], indirect=True)
async def test_of_a_names_addresses_one_that_is_well_is_enough_and_where_none_is_the_next_backend_serves(
    named: Named,
) -> None:
    """Nobody listens at the second address."""
    named.names.addresses[NAME] = ["127.0.0.1", "127.0.0.2"]
    await named.served("a")
    await eventually(lambda: _members(named.gateway, "total", 2))
    await eventually(lambda: _members(named.gateway, "healthy", 1))
    assert {await named.served_by() for _ in range(20)} == {"a"}
    named.provider.script = [503] * 1000
    await eventually(lambda: _members(named.gateway, "healthy", 0))
    await eventually(named.is_spared)
    named.provider.script = []
    await named.served("a")


async def _members(gateway: Running, kind: str, number: int) -> bool:
    """Whether Envoy has so many addresses of `a`."""
    transport = httpx.AsyncHTTPTransport(uds=gateway.layout.admin_socket)
    async with httpx.AsyncClient(transport=transport, base_url="http://admin") as client:
        text = (await client.get(f"/stats?filter=^cluster.{contract.resolved_cluster_of('a')}.membership_{kind}$")).text
    return text.endswith(f": {number}\n")
