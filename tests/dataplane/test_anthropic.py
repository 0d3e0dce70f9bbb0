"""What Anthropic's clients rely on: headers and bodies verbatim, every event of a stream, token counting."""

import json
from base64 import b64decode
from typing import Any

import anthropic
import httpx
import pytest

from tests.support.fake import FakeProvider
from tests.support.gateway import RunningGateway
from tests.support.sdk import ANTHROPIC_DOORS, DOORS, ask, client_at, settled

pytestmark = pytest.mark.filterwarnings("ignore:The model 'claude:DeprecationWarning")

Json = dict[str, Any]

MODEL = "claude-sonnet-5-5"
SAY: Json = {"model": MODEL, "max_tokens": 60, "messages": [{"role": "user", "content": "Hello!"}]}
NAMES = [door.name for door in ANTHROPIC_DOORS]
RAW_PATHS = [
    "/v1/messages",
    "/anthropic/v1/messages",
    "/v1/messages?beta=true",
    "/anthropic/v1/messages/count_tokens?beta=true",
]


def only_call(fake: FakeProvider) -> Json:
    (call,) = fake.calls("anthropic")
    found: Json = call
    return found


def header(call: Json, name: str) -> list[str]:
    return [value for given, value in call["headers"] if given == name]


@pytest.mark.parametrize("path", RAW_PATHS)
def test_version_beta_and_session_headers_pass_verbatim(path: str, gateway: RunningGateway, fake: FakeProvider) -> None:
    """They are open lists (the gateway protocol of Claude Code): nothing is allow-listed, nothing is rewritten."""
    headers = {
        "anthropic-version": "2026-10-21",
        "anthropic-beta": "context-management-2025-06-27, made-up-2031-01-01",
        "anthropic-dangerous-direct-browser-access": "true",
        "x-claude-code-session-id": "5f1c",
        "x-claude-code-agent-id": "agent-1",
        "x-stainless-lang": "js",
        "user-agent": "claude-cli/9.9 (external, cli)",
    }
    with gateway.client() as client:
        assert client.post(path, json=SAY, headers=headers).status_code == 200
    call = only_call(fake)
    assert {name: header(call, name) for name in headers} == {name: [value] for name, value in headers.items()}
    assert call["path"] + (f"?{call['query']}" if call["query"] else "") == path.removeprefix("/anthropic")


def test_a_beta_header_given_twice_stays_twice_or_joined(gateway: RunningGateway, fake: FakeProvider) -> None:
    pairs = [("anthropic-version", "2023-06-01"), ("anthropic-beta", "a-1"), ("anthropic-beta", "b-2")]
    with gateway.client() as client:
        assert client.post("/v1/messages", json=SAY, headers=pairs).status_code == 200
    assert ",".join(header(only_call(fake), "anthropic-beta")).replace(" ", "") == "a-1,b-2"


def test_the_gateway_adds_no_version_of_its_own(gateway: RunningGateway, fake: FakeProvider) -> None:
    with gateway.client() as client:
        answer = client.post("/v1/messages", json=SAY)
    assert (answer.status_code, answer.json()["error"]["message"]) == (400, "anthropic-version: header is required")
    assert header(only_call(fake), "anthropic-version") == []


@pytest.mark.parametrize("name", NAMES)
async def test_the_sdks_own_version_and_key_arrive_as_they_should(
    name: str, gateway: RunningGateway, fake: FakeProvider
) -> None:
    async with client_at(DOORS[name], gateway.url, gateway.key) as client:
        answer = await ask(client, "messages.create", **SAY)
    call = only_call(fake)
    assert header(call, "anthropic-version") != []
    assert header(call, "x-api-key") == ["secret-anthropic"]
    assert header(call, "authorization") == []
    assert answer.headers["anthropic-organization-id"] == "org_fake"
    assert answer.headers["request-id"].startswith("req_anthropic")  # the provider's, to quote to its support


@pytest.mark.parametrize("credentials", [("api_key",), ("auth_token",), ("api_key", "x-api-key")])
async def test_a_key_or_a_token_or_both_are_taken(credentials: tuple[str, ...], gateway: RunningGateway) -> None:
    """`apiKeyHelper` of Claude Code sends the same key as Bearer and as x-api-key."""
    options: Json = {credentials[0]: gateway.key, "default_headers": dict.fromkeys(credentials[1:], gateway.key)}
    with anthropic.Anthropic(base_url=gateway.url, max_retries=0, **options) as client:
        answer = await ask(client, "messages.create", **SAY)
    assert gateway.record(answer.request_id)["key"] == "quickstart"


BLOCKS: Json = {
    "model": MODEL,
    "max_tokens": 2048,
    "system": [{"type": "text", "text": "Be brief.", "cache_control": {"type": "ephemeral"}}],
    "thinking": {"type": "enabled", "budget_tokens": 1024},
    "context_management": {"edits": [{"type": "clear_tool_uses_20250919"}]},
    "messages": [
        {"role": "user", "content": "first"},
        {
            "role": "assistant",
            "content": [
                {"type": "thinking", "thinking": "Hm.", "signature": "EqQBCkYIBBgCKkDab/+=="},
                {"type": "redacted_thinking", "data": "ZW5jcnlwdGVk"},
                {"type": "tool_use", "id": "toolu_1", "name": "read", "input": {"path": "/a", "deep": {"n": 1.0}}},
            ],
        },
        {
            "role": "user",
            "content": [
                {"type": "tool_result", "tool_use_id": "toolu_1", "content": [{"type": "text", "text": "é"}]},
                {"type": "document", "source": {"type": "base64", "media_type": "application/pdf", "data": "JVBERg=="}},
            ],
        },
    ],
    "tools": [
        {"name": "read", "input_schema": {"type": "object"}},
        {"type": "web_search_20250305", "name": "web_search"},
    ],
    "unknown_field_of_next_year": {"a": [None, True]},
}


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
def test_signed_and_unknown_parts_of_a_body_are_not_touched(
    stream: bool, gateway: RunningGateway, fake: FakeProvider
) -> None:
    body = json.dumps({**BLOCKS, "stream": stream}, indent=1, ensure_ascii=False).encode()
    headers = {"content-type": "application/json", "anthropic-version": "2023-06-01"}
    with gateway.client() as client:
        assert client.post("/v1/messages?beta=true", content=body, headers=headers).status_code == 200
    assert b64decode(only_call(fake)["body_base64"]) == body


async def test_every_event_of_a_stream_passes_pings_included(gateway: RunningGateway) -> None:
    async with (
        httpx.AsyncClient(base_url=gateway.url, trust_env=False) as client,
        client.stream(
            "POST",
            "/v1/messages",
            json={**SAY, "stream": True, "thinking": {"type": "enabled", "budget_tokens": 1024}},
            headers={"x-api-key": gateway.key, "anthropic-version": "2023-06-01"},
        ) as answer,
    ):
        text = (await answer.aread()).decode()
    names = [line.removeprefix("event: ") for line in text.split("\n") if line.startswith("event: ")]
    assert names[:3] == ["message_start", "content_block_start", "ping"]
    assert names[-2:] == ["message_delta", "message_stop"]
    assert "signature_delta" in text


@pytest.mark.parametrize("name", NAMES)
async def test_the_streaming_helper_of_the_sdk_gives_the_final_message(name: str, gateway: RunningGateway) -> None:
    async with client_at(DOORS[name], gateway.url, gateway.key) as client:
        manager = client.messages.stream(**SAY)
        if name.endswith("async"):
            async with manager as stream:
                message = await stream.get_final_message()
        else:
            with manager as stream:
                message = stream.get_final_message()
        request_id = stream.response.headers["x-request-id"]
    assert "Hello!" in message.content[0].text
    usage = gateway.record(request_id)["usage"]
    assert (usage["input"], usage["output"]) == (message.usage.input_tokens, message.usage.output_tokens)


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
async def test_cached_tokens_are_part_of_the_input_and_told_apart(stream: bool, gateway: RunningGateway) -> None:
    """Anthropic leaves cached tokens out of `input_tokens`; the record counts them in, as OpenAI does."""
    counts = {"input_tokens": 10, "cache_read_input_tokens": 300, "cache_creation_input_tokens": 40, "output_tokens": 7}
    async with client_at(DOORS["anthropic"], gateway.url, gateway.key) as client:
        answer = await ask(client, "messages.create", **SAY, stream=stream, extra_body={"x_fake": {"usage": counts}})
    assert gateway.record(answer.request_id)["usage"] == {
        "input": 350,
        "output": 7,
        "cached_input": 300,
        "cache_write": 40,
        "source": "reported",
    }


@pytest.mark.parametrize("name", NAMES)
async def test_counting_tokens_costs_none(name: str, gateway: RunningGateway, fake: FakeProvider) -> None:
    async with client_at(DOORS[name], gateway.url, gateway.key) as client:
        counting = client.messages.with_raw_response.count_tokens(model=MODEL, messages=SAY["messages"])
        raw = await settled(counting)
        counted = await settled(raw.parse())
    assert counted.input_tokens > 0
    assert only_call(fake)["path"] == "/v1/messages/count_tokens"
    record = gateway.record(raw.headers["x-request-id"])
    assert (record["surface"], record["status"], record.get("usage")) == ("count_tokens", 200, None)


def test_a_head_request_to_the_root_does_not_hurt(gateway: RunningGateway) -> None:
    """Claude Code asks `HEAD /` whether anybody is there; any answer will do, quickly."""
    answer = httpx.head(f"{gateway.url}/", trust_env=False, timeout=5)
    assert answer.status_code in (401, 404)
    assert answer.content == b""
