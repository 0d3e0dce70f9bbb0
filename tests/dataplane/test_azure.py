"""Azure OpenAI at both ends: what its clients send to the gateway, and what the gateway sends to its backends."""

import json
from base64 import b64decode
from typing import Any
from urllib.parse import parse_qs

import openai
import pytest

from tests.dataplane.conftest import AZURE_API_VERSION, SECRETS
from tests.support.fake import FakeProvider
from tests.support.gateway import RunningGateway
from tests.support.sdk import DOORS, ask, client_at

Json = dict[str, Any]

SAY = [{"role": "user", "content": "Hello!"}]
LEGACY = "/openai/deployments/{deployment}{operation}"


def sent(fake: FakeProvider, backend: str) -> Json:
    """The one call that a backend saw, with its body parsed as `fields`."""
    (call,) = fake.calls(backend)
    return {**call, "fields": json.loads(b64decode(call["body_base64"]))}


def post(gateway: RunningGateway, path: str, body: Json) -> Any:
    with gateway.client() as client:
        answer = client.post(path, json=body)
    assert answer.status_code == 200, answer.text
    return answer


# ---- towards an Azure backend -------------------------------------------------------------------------

DIRECTIONS = [
    # backend's model, backend, path there, query there
    ("gpt-4o-azure", "azure", "/openai/deployments/gpt-4o-swe/chat/completions", {"api-version": [AZURE_API_VERSION]}),
    ("gpt-4o-azure-v1", "azure-v1", "/openai/v1/chat/completions", {}),
    ("gpt-4o", "openai", "/v1/chat/completions", {}),
]


@pytest.mark.parametrize("door", [name for name, door in DOORS.items() if door.family != "anthropic"])
@pytest.mark.parametrize(("model", "backend", "path", "query"), DIRECTIONS)
async def test_any_client_reaches_any_backend_in_the_backends_own_spelling(
    model: str, backend: str, path: str, query: Json, door: str, gateway: RunningGateway, fake: FakeProvider
) -> None:
    async with client_at(DOORS[door], gateway.url, gateway.key) as client:
        await ask(client, "chat.completions.create", model=model, messages=SAY)
    call = sent(fake, backend)
    assert (call["path"], parse_qs(call["query"])) == (path, query)
    credential = (
        ("authorization", "Bearer " + SECRETS["OPENAI_SECRET"])
        if backend == "openai"
        else ("api-key", SECRETS["AZURE_SECRET"])
    )
    given = [tuple(pair) for pair in call["headers"] if pair[0] in ("authorization", "api-key", "x-api-key")]
    assert given == [credential]


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ("", {"api-version": [AZURE_API_VERSION]}),
        ("?api-version=2099-01-01-preview", {"api-version": [AZURE_API_VERSION]}),
        ("?api-version=a&api-version=b&x=1&y=", {"api-version": [AZURE_API_VERSION], "x": ["1"], "y": [""]}),
    ],
)
def test_the_api_version_of_a_legacy_backend_is_the_configured_one(
    query: str, expected: Json, gateway: RunningGateway, fake: FakeProvider
) -> None:
    path = LEGACY.format(deployment="gpt-4o-azure", operation="/chat/completions")
    post(gateway, path + query, {"messages": SAY})
    assert parse_qs(sent(fake, "azure")["query"], keep_blank_values=True) == expected


@pytest.mark.parametrize(
    ("version", "passes"), [("v1", True), ("preview", True), ("latest", True), ("2024-10-21", False)]
)
def test_a_v1_backend_is_told_only_the_versions_that_it_knows(
    version: str, passes: bool, gateway: RunningGateway, fake: FakeProvider
) -> None:
    post(gateway, f"/openai/v1/chat/completions?api-version={version}", {"model": "gpt-4o-azure-v1", "messages": SAY})
    assert parse_qs(sent(fake, "azure-v1")["query"]) == ({"api-version": [version]} if passes else {})


@pytest.mark.parametrize("door", ["azure-legacy", "azure-v1", "openai"])
async def test_stateful_responses_have_no_deployment_in_their_path(
    door: str, gateway: RunningGateway, fake: FakeProvider
) -> None:
    async with client_at(DOORS[door], gateway.url, gateway.key) as client:
        await ask(client, "responses.create", model="gpt-4o-azure", input="hi")
    call = sent(fake, "azure")
    assert (call["path"], call["fields"]["model"]) == ("/openai/responses", "gpt-4o-swe")
    assert parse_qs(call["query"]) == {"api-version": [AZURE_API_VERSION]}


# ---- from Azure's clients -----------------------------------------------------------------------------


@pytest.mark.parametrize("body", [{"model": None}, {}], ids=["null", "absent"])
@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
@pytest.mark.parametrize(
    ("deployment", "backend", "there"),
    [
        ("gpt-4o", "openai", "gpt-4o"),
        ("gpt-4o-mini", "openai", "gpt-4o-mini-2024-07-18"),
        ("gpt-4o-azure-v1", "azure-v1", "gpt-4o-v1"),
    ],
)
def test_the_path_names_the_model_where_the_body_does_not(
    deployment: str, backend: str, there: str, stream: bool, body: Json, gateway: RunningGateway, fake: FakeProvider
) -> None:
    """LangChain's Azure class sends `"model": null`; a backend that reads the body must still be told."""
    post(
        gateway,
        LEGACY.format(deployment=deployment, operation="/chat/completions"),
        {**body, "messages": SAY, "stream": stream},
    )
    call = sent(fake, backend)
    assert call["fields"]["model"] == there
    assert call["fields"]["messages"] == SAY


@pytest.mark.parametrize(
    ("deployment", "backend", "there"), [("gpt-4o", "openai", "gpt-4o"), ("gpt-4o-azure-v1", "azure-v1", "gpt-4o-v1")]
)
@pytest.mark.parametrize("smuggled", ["gpt-4o-mini", "o3-pro", "gpt-4o-azure"])
def test_a_model_in_the_body_cannot_go_past_the_one_in_the_path(
    smuggled: str, deployment: str, backend: str, there: str, gateway: RunningGateway, fake: FakeProvider
) -> None:
    """The path's model was checked, so the path's model is what the backend is asked for."""
    path = LEGACY.format(deployment=deployment, operation="/chat/completions")
    answer = post(gateway, path, {"messages": SAY, "model": smuggled})
    assert sent(fake, backend)["fields"]["model"] == there
    assert gateway.record(answer.headers["x-request-id"])["model"] == deployment


def test_an_alias_may_stand_in_the_path(gateway: RunningGateway, fake: FakeProvider) -> None:
    post(gateway, LEGACY.format(deployment="azure-gpt-4o", operation="/chat/completions"), {"messages": SAY})
    assert sent(fake, "openai")["fields"]["model"] == "gpt-4o"


@pytest.mark.parametrize("kind", [openai.AzureOpenAI, openai.AsyncAzureOpenAI])
async def test_an_entra_token_is_where_some_clients_put_the_key(kind: Any, gateway: RunningGateway) -> None:
    """`azure_ad_token` makes the client send `Authorization: Bearer` instead of `api-key`."""
    client = kind(azure_endpoint=gateway.url, api_version="2024-10-21", azure_ad_token=gateway.key, max_retries=0)
    answer = await ask(client, "chat.completions.create", model="gpt-4o-azure", messages=SAY)
    assert gateway.record(answer.request_id)["key"] == "quickstart"
    closing = client.close()
    if closing is not None:
        await closing


@pytest.mark.parametrize("kind", [openai.AzureOpenAI, openai.AsyncAzureOpenAI])
async def test_a_client_with_a_fixed_deployment_works(kind: Any, gateway: RunningGateway, fake: FakeProvider) -> None:
    """`azure_deployment` puts the path into the base URL; the body's model is then any name at all."""
    client = kind(
        azure_endpoint=gateway.url,
        azure_deployment="gpt-4o-azure",
        api_version="2024-10-21",
        api_key=gateway.key,
        max_retries=0,
    )
    answer = await ask(client, "chat.completions.create", model="whatever", messages=SAY)
    assert gateway.record(answer.request_id)["model"] == "gpt-4o-azure"
    assert sent(fake, "azure")["path"] == "/openai/deployments/gpt-4o-swe/chat/completions"
    closing = client.close()
    if closing is not None:
        await closing


# ---- streams and forms --------------------------------------------------------------------------------


@pytest.mark.parametrize("model", ["gpt-4o-azure", "gpt-4o-azure-v1"])
async def test_the_first_chunk_with_no_choices_is_no_usage_and_passes(model: str, gateway: RunningGateway) -> None:
    """Azure streams begin with a chunk of filter results and no choices; only the usage at the end is hidden."""
    async with client_at(DOORS["azure-legacy"], gateway.url, gateway.key) as client:
        answer = await ask(client, "chat.completions.create", model=model, messages=SAY, stream=True)
    assert [bool(chunk.choices) for chunk in answer.value][:2] == [False, True]
    assert all(chunk.choices for chunk in answer.value[1:])
    assert all(chunk.usage is None for chunk in answer.value)
    assert gateway.record(answer.request_id)["usage"]["source"] == "reported"


FORM = {"file": ("a.wav", b"RIFF" + bytes(range(256)), "audio/wav")}


def test_a_form_to_a_legacy_path_needs_no_model(gateway: RunningGateway, fake: FakeProvider) -> None:
    """The path names it, and so it does at a legacy backend."""
    path = LEGACY.format(deployment="gpt-4o-azure", operation="/audio/transcriptions")
    with gateway.client() as client:
        answer = client.post(path, files=FORM)
    assert answer.status_code == 200, answer.text
    (call,) = fake.calls("azure")
    assert call["path"] == "/openai/deployments/gpt-4o-swe/audio/transcriptions"


@pytest.mark.parametrize("model", ["gpt-4o-azure", "gpt-4o-azure-v1", "gpt-4o"])
def test_a_models_name_in_a_form_cannot_go_past_the_one_in_the_path(
    model: str, gateway: RunningGateway, fake: FakeProvider
) -> None:
    backend, there = {
        "gpt-4o-azure": ("azure", None),
        "gpt-4o-azure-v1": ("azure-v1", "gpt-4o-v1"),
        "gpt-4o": ("openai", "gpt-4o"),
    }[model]
    path = LEGACY.format(deployment=model, operation="/audio/transcriptions")
    with gateway.client() as client:
        answer = client.post(path, data={"model": "whisper-1"}, files=FORM)
    assert answer.status_code == 200, answer.text
    (call,) = fake.calls(backend)
    form = b64decode(call["body_base64"])
    if there is not None:
        assert f'name="model"\r\n\r\n{there}\r\n'.encode() in form
        assert b"whisper-1" not in form
    assert gateway.record(answer.headers["x-request-id"])["model"] == model
