"""What a backend's own settings do to its attempts, in the real Envoy: headers that it always gets, health checks."""

from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest

from extproc import contract
from tests.support.scripted import A, B, Plan, Running, eventually, running_gateway

CHAT = "/v1/chat/completions"
HEADERS = {"Editor-Version": "vscode/1.99", "copilot-integration-id": '100%REQ(x-api-key)% "sure"'}


@pytest.fixture
async def gateway(tmp_path: Path) -> AsyncIterator[Running]:
    settings = {"headers": HEADERS, "health": {"path": "/well", "interval": "1s"}}
    async with running_gateway(tmp_path, backend_a=settings) as running:
        yield running


async def test_a_backend_gets_its_own_headers_and_no_other_one_does(gateway: Running) -> None:
    """They stand there as they are written, whatever the caller sent, and are not left for the next attempt."""
    gateway.policy.plan, gateway.a.script = Plan(order=(A, B)), [503]
    await gateway.post(CHAT, b"{}", "editor-version: mine\r\nx-api-key: mine\r\n")
    (at_a,) = [received for received in gateway.a.received if received.path == "/a"]
    (at_b,) = gateway.b.received
    assert at_a.headers["editor-version"] == "vscode/1.99"
    assert at_a.headers["copilot-integration-id"] == '100%REQ(x-api-key)% "sure"'
    assert not {name.lower() for name in HEADERS} & at_b.headers.keys()


async def test_a_backend_that_is_not_well_is_still_the_one_to_try(gateway: Running) -> None:
    """Envoy answers by itself where nobody is well, and tries no other backend: so it must not know better."""
    checks = [received for received in gateway.a.received if received.path == "/well"]
    assert checks[0].headers["host"] == gateway.a.url.removeprefix("http://")
    gateway.a.script = [503] * 1000
    await eventually(lambda: is_ill(gateway))
    gateway.a.script = [503] * 2
    gateway.policy.plan = Plan(order=(A, B))
    assert (await gateway.post(CHAT, b"{}")).status == 200
    gateway.a.script = []
    assert (await gateway.post(CHAT, b"{}")).status == 200
    assert [received.path for received in gateway.b.received] == ["/b"]


async def is_ill(gateway: Running) -> bool:
    transport = httpx.AsyncHTTPTransport(uds=gateway.layout.admin_socket)
    async with httpx.AsyncClient(transport=transport, base_url="http://admin") as client:
        text = (await client.get(f"/stats?filter=^cluster.{contract.cluster_of('a')}.membership_healthy$")).text
    return text.endswith(": 0\n")
