"""Copies of calls through the real Envoy: what the shadow gets, and that no call learns of it."""

import json
from base64 import b64decode
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from tests.support.fake import FakeProvider
from tests.support.gateway import RunningGateway, until

Json = dict[str, Any]

SERVES = ("openai", "claude-serves")
SHADOWS = ("plain", "azure", "claude", "gemini")
SECRETS = {f"{name.upper().replace('-', '_')}_KEY": f"secret-{name}" for name in (*SERVES, *SHADOWS)}
CANARY = "ada.lovelace@example.com"
SAY: Any = [{"role": "user", "content": f"write to {CANARY}"}]
MOST_AT_ONCE = 16


def backend(providers: FakeProvider, name: str, dialect: str, **more: Any) -> Json:
    key = f"{name.upper().replace('-', '_')}_KEY"
    return {"dialect": dialect, "url": providers.url(name), "credential": {"env": key}, **more}


def settings(providers: FakeProvider) -> Json:
    """A model for each shadow; whatever is asked is copied, and e-mail addresses are redacted."""
    dead = {"dialect": "openai", "url": "http://nowhere.invalid"}
    backends = {
        "openai": backend(providers, "openai", "openai"),
        "claude-serves": backend(providers, "claude-serves", "anthropic"),
        "plain": backend(providers, "plain", "openai", headers={"x-tier": "batch"}),
        "azure": backend(providers, "azure", "azure-openai", api_version="2024-10-21"),
        "claude": backend(providers, "claude", "anthropic"),
        "gemini": backend(providers, "gemini", "gemini"),
        "dead": dead,
    }
    serving: Json = {"targets": [[{"backend": "openai", "model": "served"}]]}
    models: Json = {
        f"m-{name}": {**serving, "shadow": {"backend": name, "model": "copied", "share": 1}}
        for name in (*SHADOWS, "dead")
    }
    models["some"] = {**serving, "shadow": {"backend": "azure", "share": 0.25}}
    models["claude"] = {
        "targets": [[{"backend": "claude-serves", "model": "served"}]],
        "shadow": {"backend": "plain", "model": "copied", "share": 1},
    }
    policies = {
        "redaction": {"default": {}},
        "limits": {"calls": {"requests": 1000, "per": "hour"}},
    }
    return {"backends": backends, "models": models, "policies": policies, "timeouts": {"call": "3s"}}


@pytest.fixture(scope="module")
def providers() -> Iterator[FakeProvider]:
    with FakeProvider(*SERVES, *SHADOWS) as running:
        yield running


@pytest.fixture(scope="module")
def gateway(providers: FakeProvider) -> Iterator[RunningGateway]:
    with RunningGateway(settings(providers), SECRETS) as running:
        yield running


@pytest.fixture
def client(gateway: RunningGateway, providers: FakeProvider) -> Iterator[httpx.Client]:
    providers.reset()
    with gateway.client() as client:
        yield client


def chat(client: httpx.Client, model: str, **fields: Any) -> httpx.Response:
    return client.post("/v1/chat/completions", json={"model": model, "messages": SAY, **fields})


def copies(providers: FakeProvider, name: str, number: int = 1) -> list[Json]:
    """What a shadow saw, once it has answered so many calls."""

    def answered() -> list[Json]:
        found = [call for call in providers.calls(name) if call["status"] is not None]
        return found if len(found) >= number else []

    calls: list[Json] = until(answered, what=f"the copies for {name}")
    assert len(calls) == number, "each call is copied once"
    return calls


def body(call: Json) -> Json:
    read: Json = json.loads(b64decode(call["body_base64"]))
    return read


def copied(gateway: RunningGateway, answer: httpx.Response) -> Json:
    """The record of the copy of a call."""
    return gateway.record(answer.headers["x-request-id"], "shadow")


# ---- what it gets -----------------------------------------------------------------------------------


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
@pytest.mark.parametrize(
    ("name", "path", "credential"),
    [
        ("plain", "/v1/chat/completions", ("authorization", "Bearer secret-plain")),
        ("azure", "/openai/deployments/copied/chat/completions", ("api-key", "secret-azure")),
        ("claude", "/v1/messages", ("x-api-key", "secret-claude")),
        ("gemini", "/v1beta/models/copied:generateContent", ("x-goog-api-key", "secret-gemini")),
    ],
)
def test_a_shadow_gets_the_redacted_call_in_its_own_dialect_and_nothing_of_its_caller(
    name: str, path: str, credential: tuple[str, str], stream: bool, client: httpx.Client, providers: FakeProvider,
    gateway: RunningGateway,
) -> None:  # fmt: skip
    answer = chat(client, f"m-{name}", stream=stream, max_tokens=9)
    assert answer.status_code == 200
    (served,), (seen,) = providers.calls("openai"), copies(providers, name)
    assert seen["path"] == path
    text = json.dumps(body(seen))
    assert CANARY not in text
    assert "EMAIL_ADDRESS" in text
    assert "EMAIL_ADDRESS" in json.dumps(body(served))
    assert not body(seen).get("stream")
    assert name in ("azure", "gemini") or body(seen)["model"] == "copied"
    headers = dict(seen["headers"])
    assert headers.pop(credential[0]) == credential[1]
    allowed = {"host", "content-type", "content-length", "accept", "accept-encoding", "anthropic-version", "x-tier"}
    assert set(headers) <= allowed
    record = copied(gateway, answer)
    assert (record["backend"], record["deployed"], record["result"]) == (name, "copied", "200")
    assert record["usage"]["source"] == "reported"
    assert record["usage"]["output"] > 0


def test_a_call_in_anothers_dialect_is_copied_to_one_that_chats(client: httpx.Client, providers: FakeProvider) -> None:
    ask = {"model": "claude", "max_tokens": 9, "messages": SAY}
    version = {"anthropic-version": "2023-06-01"}
    assert client.post("/v1/messages", json=ask, headers=version).status_code == 200
    (seen,) = copies(providers, "plain")
    assert (seen["path"], body(seen)["model"]) == ("/v1/chat/completions", "copied")


def test_embeddings_and_responses_are_copied_and_nothing_is_stored(
    client: httpx.Client, providers: FakeProvider
) -> None:
    assert client.post("/v1/embeddings", json={"model": "m-plain", "input": "x"}).status_code == 200
    assert client.post("/v1/responses", json={"model": "m-plain", "input": "x"}).status_code == 200
    seen = copies(providers, "plain", 2)
    assert [call["path"] for call in seen] == ["/v1/embeddings", "/v1/responses"]
    assert body(seen[1])["store"] is False


def left_out(gateway: RunningGateway, why: str) -> float:
    """How many calls of the model of `plain` were not copied."""
    line = f'sluice_shadow_calls_total{{backend="plain",model="m-plain",result="{why}"}} '
    return next((float(one[len(line) :]) for one in gateway.metrics().splitlines() if one.startswith(line)), 0)


# ---- what is not copied -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("path", "ask"),
    [
        ("/v1/images/generations", {"prompt": "x"}),
        ("/v1/audio/speech", {"input": "x", "voice": "alloy"}),
        ("/v1/responses", {"input": "x", "tools": [{"type": "web_search"}]}),
        ("/v1/responses", {"input": "x", "background": True}),
        ("/v1/chat/completions", {"messages": SAY, "web_search_options": {}}),
        ("/v1/chat/completions", {"messages": [{"role": "user", "content": "x" * 2**20}]}),
    ],
    ids=["image", "speech", "hosted tool", "background", "search", "large"],
)
def test_what_does_something_twice_when_it_is_asked_twice_is_not_copied(
    path: str, ask: Json, client: httpx.Client, providers: FakeProvider, gateway: RunningGateway
) -> None:
    before = left_out(gateway, "unfit")
    assert client.post(path, json={"model": "m-plain", **ask}).status_code == 200
    until(lambda: left_out(gateway, "unfit") == before + 1, what="it to be left out")
    assert providers.calls("plain") == []


def test_state_is_asked_for_where_it_is(client: httpx.Client, providers: FakeProvider) -> None:
    first = client.post("/v1/responses", json={"model": "m-plain", "input": "x"}).json()["id"]
    copies(providers, "plain")
    ask = {"model": "m-plain", "input": "y", "previous_response_id": first}
    assert client.post("/v1/responses", json=ask).status_code == 200
    assert client.get(f"/v1/responses/{first}").status_code == 200
    chat(client, "m-plain")
    assert [call["path"] for call in copies(providers, "plain", 2)] == ["/v1/responses", "/v1/chat/completions"]


def test_what_another_dialect_cannot_say_is_not_copied(client: httpx.Client, providers: FakeProvider) -> None:
    assert chat(client, "m-claude", seed=1).status_code == 200
    assert chat(client, "m-claude").status_code == 200
    copies(providers, "claude")


def test_a_share_is_copied(client: httpx.Client, providers: FakeProvider) -> None:
    for _ in range(60):
        assert chat(client, "some").status_code == 200
    found = len(providers.calls("azure"))
    assert 2 <= found <= 32, "15 are due; 17 are five standard deviations"


# ---- what the call learns of it: nothing --------------------------------------------------------------


@pytest.mark.parametrize(
    ("fault", "result"),
    [
        ({"status": 500}, "500"),
        ({"status": 429, "retry_after": 60}, "429"),
        ({"reset": "before"}, "503"),
        ({"error_in_200": True}, "error"),
        ({"html": True, "status": 200}, "error"),
        ({"pad_bytes": 2**20 + 1}, "too_large"),
    ],
    ids=str,
)
def test_a_shadow_that_fails_is_a_record_and_no_more(
    fault: Json, result: str, client: httpx.Client, providers: FakeProvider, gateway: RunningGateway
) -> None:
    providers.script("plain", [fault])
    answer = chat(client, "m-plain")
    assert answer.status_code == 200
    assert copied(gateway, answer)["result"] == result
    record = gateway.record(answer.headers["x-request-id"])
    assert (record["backend"], record["chain"], record["ending"]) == ("openai", ["openai"], "complete")
    assert not [one for one in gateway.records("attempt") if one["request_id"] == answer.headers["x-request-id"]]
    assert 'sluice_attempts_total{backend="plain"' not in gateway.metrics()
    assert len(providers.calls("plain")) == 1, "and it is not tried again"


def test_a_shadow_that_is_nowhere_costs_a_call_nothing(client: httpx.Client, gateway: RunningGateway) -> None:
    answer = chat(client, "m-dead")
    assert answer.status_code == 200
    assert copied(gateway, answer)["result"] == "503"


def test_while_too_many_copies_are_under_way_further_ones_are_left_out(
    client: httpx.Client, providers: FakeProvider, gateway: RunningGateway
) -> None:
    """All calls are answered, while no copy is. How many find no room depends on how fast they come."""
    number = 2 * MOST_AT_ONCE
    providers.script("plain", [{"hang": True}] * number)
    first = chat(client, "m-plain")
    for _ in range(number - 1):
        assert chat(client, "m-plain").status_code == 200
    assert providers.totals("plain")["most_open"] <= MOST_AT_ONCE
    until(lambda: left_out(gateway, "busy") + providers.totals("plain")["calls"] == number, what="all to be counted")
    assert left_out(gateway, "busy") > 0
    until(lambda: not providers.totals("plain")["open"], what="the others to be given up")
    assert copied(gateway, first)["result"] == "timeout"


def test_a_copy_is_not_paid_for(client: httpx.Client, providers: FakeProvider) -> None:
    left = [int(chat(client, "m-plain").headers["x-ratelimit-remaining-requests"]) for _ in range(3)]
    assert left == [left[0], left[0] - 1, left[0] - 2]
    copies(providers, "plain", 3)


def test_the_way_to_the_shadows_leads_nowhere_else(gateway: RunningGateway, providers: FakeProvider) -> None:
    providers.reset()
    transport = httpx.HTTPTransport(uds=str(gateway.folder / "var/run/services.sock"))
    with httpx.Client(transport=transport, base_url="http://shadow") as socket:
        for cluster in ("backend_openai", "extproc", "shadow_openai", "x shadow_plain", "shadow_plain,x"):
            answer = socket.post("/v1/chat/completions", json={}, headers={"x-sluice-shadow": cluster})
            assert answer.status_code in (404, 503)
    assert providers.calls("openai") == providers.calls("plain") == []


def test_a_client_cannot_name_a_shadow(client: httpx.Client, providers: FakeProvider) -> None:
    ask = {"model": "m-claude", "messages": SAY}
    answer = client.post("/v1/chat/completions", json=ask, headers={"x-sluice-shadow": "shadow_plain"})
    assert answer.status_code == 200
    copies(providers, "claude")
    assert providers.calls("plain") == []
