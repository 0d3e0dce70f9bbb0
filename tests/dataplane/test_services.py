"""Services through the real Envoy: where they are reached, what they are shown, and by whom they can be asked."""

import asyncio
import json
import stat
from base64 import b64decode
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import pytest_asyncio

from extproc.dataplane import write_for_validation
from extproc.screening.services import ServiceFailed, Services
from tests.support.ports import free_port
from tests.support.scripted import ENVOY
from tests.support.services import FakeServices
from tests.support.waiting import WaitingGateway

pytestmark = pytest.mark.asyncio(loop_scope="module")

SECRETS = {"JUDGE_KEY": "secret-judge", "AZURE_KEY": "secret-azure", "NAMES_KEY": "secret-names"}
CANARY = "canary: text of a call"
LONG = 10.0
JSON_HEADERS = {"accept", "content-length", "content-type", "host"}


@pytest.fixture(scope="module")
def fakes() -> Iterator[FakeServices]:
    with FakeServices("judge", "azure", "names", "open") as running:
        yield running


def settings(fakes: FakeServices) -> dict[str, Any]:
    dead = f"http://127.0.0.1:{free_port()}"
    return {
        "services": {
            "judge": {
                "api": "openai-moderation",
                "url": f"{fakes.url('judge')}/v1",
                "credential": {"env": "JUDGE_KEY"},
            },
            "judge-bare": {"api": "openai-moderation", "url": fakes.url("judge"), "credential": {"env": "JUDGE_KEY"}},
            "azure": {
                "api": "azure-content-safety",
                "url": f"{fakes.url('azure')}/",
                "credential": {"env": "AZURE_KEY"},
            },
            "names": {"api": "presidio", "url": f"{fakes.url('names')}", "credential": {"env": "NAMES_KEY"}},
            "open": {"api": "presidio", "url": fakes.url("open").replace("127.0.0.1", "localhost")},
            "nested": {"api": "presidio", "url": f"{fakes.url('open')}/tools/presidio/"},
            "dead": {"api": "presidio", "url": dead},
        },
        "timeouts": {"policy_longest": "3s"},
    }


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def shared(fakes: FakeServices) -> AsyncIterator[WaitingGateway]:
    running = WaitingGateway(fakes.url("judge"), settings(fakes))
    async with running.serving(SECRETS):
        yield running


@pytest.fixture
def gateway(shared: WaitingGateway, fakes: FakeServices) -> WaitingGateway:
    """The shared gateway, with nothing scripted and nothing recorded at the fakes."""
    fakes.reset()
    return shared


@pytest_asyncio.fixture(loop_scope="module")
async def services(gateway: WaitingGateway) -> AsyncIterator[Services]:
    client = Services(gateway.services_socket, lambda *_: None)
    yield client
    client.close()


async def ask(services: Services, service: str, path: str, question: object) -> Any:
    return json.loads(await services.ask(service, path, json.dumps(question).encode(), LONG))


async def failure(services: Services, service: str, path: str = "/analyze", timeout: float = LONG) -> str:
    with pytest.raises(ServiceFailed) as caught:
        await services.ask(service, path, b"{}", timeout)
    return caught.value.result


def headers(call: Any) -> dict[str, str]:
    return dict(call["headers"])


# ---- the three kinds ----------------------------------------------------------------------------------------


async def test_each_kind_is_asked_where_it_is_with_the_credential_it_wants(
    services: Services, fakes: FakeServices
) -> None:
    judged = await ask(services, "judge", "/v1/moderations", {"input": ["fine", "bad [violence 0.7]"]})
    assert [one["flagged"] for one in judged["results"]] == [False, True]
    path = "/contentsafety/text:analyze?api-version=2024-09-01"
    judged = await ask(services, "azure", path, {"text": "bad [Hate 4]"})
    assert {one["category"]: one["severity"] for one in judged["categoriesAnalysis"]} == {
        "Hate": 4, "SelfHarm": 0, "Sexual": 0, "Violence": 0,
    }  # fmt: skip
    question = {"text": "Ask Ada Lovelace.", "language": "en"}
    for service in ("names", "open"):
        (found,) = await ask(services, service, "/analyze", question)
        assert (found["entity_type"], found["start"], found["end"]) == ("PERSON", 4, 16)
    shown = {name: headers(fakes.calls(name)[0]) for name in ("judge", "azure", "names", "open")}
    assert shown["judge"].pop("authorization") == "Bearer secret-judge"
    assert shown["azure"].pop("ocp-apim-subscription-key") == "secret-azure"
    assert shown["names"].pop("authorization") == "Bearer secret-names"
    assert {name: set(told) for name, told in shown.items()} == dict.fromkeys(shown, JSON_HEADERS)
    assert shown["open"]["host"] == f"localhost:{fakes.port('open')}"


async def test_a_url_of_openai_may_have_its_v1_or_not(services: Services, fakes: FakeServices) -> None:
    for service in ("judge", "judge-bare"):
        await ask(services, service, "/v1/moderations", {"input": "fine"})
    assert [call["path"] for call in fakes.calls("judge")] == ["/v1/moderations"] * 2


async def test_a_service_may_stand_below_a_path(services: Services, fakes: FakeServices) -> None:
    assert await failure(services, "nested", "/analyze?a=b") == "status_404"
    (call,) = fakes.calls("open")
    assert (call["path"], call["query"]) == ("/tools/presidio/analyze", "a=b")


async def test_a_large_question_arrives_whole(services: Services, fakes: FakeServices) -> None:
    text = "x" * (3 << 20)  # above what Envoy holds for a second try
    await ask(services, "judge", "/v1/moderations", {"input": text})
    assert fakes.calls("judge")[0]["body_bytes"] == len(json.dumps({"input": text}))


# ---- what does not leave, and who cannot ask ------------------------------------------------------------------


async def test_no_other_header_leaves(gateway: WaitingGateway, fakes: FakeServices) -> None:
    hostile = {
        "authorization": "Bearer of-the-caller",
        "ocp-apim-subscription-key": "of-the-caller",
        "cookie": "a=b",
        "user-agent": "caller/1",
        "x-request-id": "from-outside",
        "x-forwarded-for": "10.1.2.3",
        "x-envoy-retry-on": "5xx",
        "x-envoy-upstream-rq-timeout-ms": "1",
        "x-envoy-original-path": "/other",
        "accept-encoding": "gzip",
        "x-sluice-identity": "ann",
        "traceparent": "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
        "te": "trailers",
        "forwarded": "for=10.1.2.3",
    }
    async with own_client(gateway) as client:
        for service in ("judge", "open"):
            answer = await client.post(f"/{service}/analyze", json={"text": "a", "language": "en"}, headers=hostile)
            assert answer.status_code == 200
    assert headers(fakes.calls("judge")[0]).pop("authorization") == "Bearer secret-judge"
    assert set(headers(fakes.calls("judge")[0])) == JSON_HEADERS | {"authorization"}
    assert set(headers(fakes.calls("open")[0])) == JSON_HEADERS


@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("/", 404),
        ("/judge", 404),  # no path of the service's
        ("/judges/analyze", 404),
        ("/other/analyze", 404),
        ("/Judge/analyze", 404),
        ("/backend_openai/v1/chat/completions", 404),
        ("/v1/chat/completions", 404),
        ("/other/../../analyze", 404),
        ("/judge%2Fanalyze", 400),
        ("http://elsewhere/analyze", 404),
    ],
)
async def test_nothing_but_services_is_reached(
    gateway: WaitingGateway, fakes: FakeServices, path: str, status: int
) -> None:
    reader, writer = await asyncio.open_unix_connection(gateway.services_socket)
    writer.write(f"POST {path} HTTP/1.1\r\nhost: a\r\ncontent-length: 2\r\n\r\n{{}}".encode())
    first = await reader.readline()
    writer.close()
    assert first.split()[1] == str(status).encode()
    assert not [call for name in ("judge", "open") for call in fakes.calls(name)]


async def test_a_path_cannot_climb_above_its_service(gateway: WaitingGateway, fakes: FakeServices) -> None:
    reader, writer = await asyncio.open_unix_connection(gateway.services_socket)
    writer.write(b"POST /nested/../judge/v1/moderations HTTP/1.1\r\nhost: a\r\ncontent-length: 2\r\n\r\n{}")
    await reader.readline()
    writer.close()
    assert not fakes.calls("open")  # it is judge's: there is no ".." when routes are looked for
    assert [call["path"] for call in fakes.calls("judge")] == ["/v1/moderations"]


async def test_only_the_owner_can_open_the_socket_and_there_is_no_port(gateway: WaitingGateway) -> None:
    path = Path(gateway.services_socket)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    assert path.parent == gateway.state.worker_socket(0).parent
    asked = await gateway.stat("http.services.downstream_rq_total")
    async with httpx.AsyncClient(trust_env=False) as client:
        answer = await client.post(f"http://127.0.0.1:{gateway.port}/judge/v1/moderations", json={})
    assert answer.status_code != 200
    assert await gateway.stat("http.services.downstream_rq_total") == asked


async def test_no_text_and_no_secret_is_in_a_log_or_a_rendered_file(
    gateway: WaitingGateway, services: Services, fakes: FakeServices
) -> None:
    await ask(services, "judge", "/v1/moderations", {"input": CANARY})
    assert CANARY in b64decode(fakes.calls("judge")[0]["body_base64"]).decode()
    fakes.script("judge", [{"status": 500}])
    assert await failure(services, "judge") == "status_500"
    assert CANARY not in gateway.log()
    rendered = "".join(file.read_text() for file in gateway.state.envoy.iterdir())
    assert not [secret for secret in (CANARY, *SECRETS.values()) if secret in rendered]


# ---- failures -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("status", [400, 401, 429, 500, 503])
async def test_a_refusal_is_told_and_not_tried_again(services: Services, fakes: FakeServices, status: int) -> None:
    fakes.script("names", [{"status": status}])
    assert await failure(services, "names") == f"status_{status}"
    assert len(fakes.calls("names")) == 1


async def test_a_service_that_is_not_there(services: Services, gateway: WaitingGateway) -> None:
    assert await failure(services, "dead") == "status_503"
    assert await gateway.stat("cluster.service_dead.upstream_rq_retry") == 1


async def test_a_service_that_leaves_under_a_question_is_not_asked_again(
    services: Services, fakes: FakeServices
) -> None:
    fakes.script("names", [{"reset": "before"}])
    assert await failure(services, "names") == "status_503"
    assert len(fakes.calls("names")) == 1


async def test_a_service_that_does_not_answer_is_left(
    services: Services, fakes: FakeServices, gateway: WaitingGateway
) -> None:
    fakes.script("names", [{"hang": True}, {"hang": True}])
    assert await failure(services, "names", timeout=0.3) == "timeout"
    assert await failure(services, "names") == "status_504"  # by Envoy, after `policy_longest`
    async with asyncio.timeout(LONG):
        while await gateway.stat("cluster.service_names.upstream_rq_active"):
            await asyncio.sleep(0.02)


async def test_an_answer_that_is_too_large(services: Services, fakes: FakeServices) -> None:
    fakes.script("names", [{"error_body": "x" * (2 << 20), "status": 200}])
    assert await failure(services, "names") == "too_large"
    assert await ask(services, "names", "/analyze", {"text": "a", "language": "en"}) == []


# ---- along with calls of clients --------------------------------------------------------------------------------


async def test_envoy_validates_what_check_gives_it(fakes: FakeServices, tmp_path: Path) -> None:
    tree = settings(fakes)
    tree["services"]["judge"]["url"] = "https://[2001:db8::1]:8443/v1"
    tree["services"]["azure"]["url"] = "https://safety.example"
    gateway = WaitingGateway(fakes.url("judge"), tree)
    path = write_for_validation(gateway.configuration, gateway.layout, tmp_path)
    process = await asyncio.create_subprocess_exec(str(ENVOY), "--mode", "validate", "-l", "error", "-c", str(path))
    assert await process.wait() == 0


async def test_a_gateway_without_services_has_no_such_socket(fakes: FakeServices) -> None:
    gateway = WaitingGateway(fakes.url("judge"), {})
    async with gateway.serving():
        assert not Path(gateway.services_socket).exists()


async def test_envoy_that_drains_still_asks_for_live_calls(fakes: FakeServices) -> None:
    question = {"text": "Ask Ada Lovelace.", "language": "en"}
    gateway = WaitingGateway(fakes.url("judge"), settings(fakes))
    async with gateway.serving(SECRETS):
        services = Services(gateway.services_socket, lambda *_: None)
        assert await ask(services, "open", "/analyze", question)
        transport = httpx.AsyncHTTPTransport(uds=str(gateway.state.admin_socket))
        async with httpx.AsyncClient(transport=transport, base_url="http://admin") as admin:
            assert (await admin.post("/drain_listeners?graceful&skip_exit")).status_code == 200
        for _ in range(20):
            assert await ask(services, "open", "/analyze", question)
            await asyncio.sleep(0.05)
        services.close()


async def test_an_envoy_that_was_killed_is_followed_by_another_on_the_same_socket(fakes: FakeServices) -> None:
    question = {"text": "Ask Ada Lovelace.", "language": "en"}
    gateway = WaitingGateway(fakes.url("judge"), settings(fakes))
    async with gateway.serving(SECRETS):
        services = Services(gateway.services_socket, lambda *_: None)
        assert await ask(services, "open", "/analyze", question)
        gateway.process.kill()
        await gateway.process.wait()
        assert await failure(services, "open") == "no_connection"
        assert Path(gateway.services_socket).exists()
        async with gateway.envoy():
            assert await ask(services, "open", "/analyze", question)
        services.close()


def own_client(gateway: WaitingGateway) -> httpx.AsyncClient:
    """Whoever can open the socket."""
    transport = httpx.AsyncHTTPTransport(uds=gateway.services_socket)
    return httpx.AsyncClient(transport=transport, base_url="http://services", timeout=LONG)
