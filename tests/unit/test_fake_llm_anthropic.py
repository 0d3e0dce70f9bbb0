"""The fake's Anthropic surface, read by the real `anthropic` SDK."""

from collections.abc import Iterator
from typing import Any

import anthropic
import httpx
import pytest
from anthropic import Anthropic, AsyncAnthropic
from anthropic.types import MessageParam, ToolParam

from loadtest.fake_llm import tokenizer
from tests.support.fake import FakeProvider

ASKED = "Is it late?"
MESSAGES: list[MessageParam] = [{"role": "user", "content": ASKED}]
TOOLS: list[ToolParam] = [
    {
        "name": "clock",
        "input_schema": {"type": "object", "properties": {"zone": {"type": "string"}}, "required": ["zone"]},
    },
    {"name": "calendar", "input_schema": {"type": "object", "properties": {}}},
]


@pytest.fixture(scope="module")
def fake() -> Iterator[FakeProvider]:
    with FakeProvider() as provider:
        yield provider


@pytest.fixture
def client(fake: FakeProvider) -> Iterator[Anthropic]:
    with Anthropic(base_url=fake.url(), api_key="k", max_retries=0) as made:
        yield made


def test_message_and_its_stream_say_the_same(client: Anthropic, fake: FakeProvider) -> None:
    whole = client.messages.create(model="claude", max_tokens=99, messages=MESSAGES, system="Be kind.")
    assert whole.content[0].type == "text"
    assert whole.content[0].text.startswith(f"You said: {ASKED}. the")
    assert whole.stop_reason == "end_turn"
    assert whole.usage.input_tokens == tokenizer.count("Be kind.") + tokenizer.count(ASKED)
    assert whole.usage.output_tokens == 16
    with client.messages.stream(model="claude", max_tokens=99, messages=MESSAGES) as stream:
        final = stream.get_final_message()
    assert final.content[0].type == "text"
    assert final.content[0].text == whole.content[0].text
    assert final.usage.output_tokens == fake.calls()[-1]["output_tokens"] == 16


def test_the_order_of_events(fake: FakeProvider) -> None:
    text = httpx.post(
        f"{fake.url()}/v1/messages?beta=true",
        json={"model": "claude", "max_tokens": 9, "messages": MESSAGES, "stream": True},
        headers={"anthropic-version": "2023-06-01"},
        trust_env=False,
    ).text
    names = [line.removeprefix("event: ") for line in text.splitlines() if line.startswith("event: ")]
    assert names == [
        "message_start",
        "content_block_start",
        "ping",
        *["content_block_delta"] * 9,
        "content_block_stop",
        "message_delta",
        "message_stop",
    ]


def test_tools_in_json_and_in_a_stream(client: Anthropic) -> None:
    whole = client.messages.create(model="claude", max_tokens=99, messages=MESSAGES, tools=TOOLS)
    uses = [(block.name, block.input) for block in whole.content if block.type == "tool_use"]
    assert uses == [("clock", {"zone": "text"}), ("calendar", {})]
    assert whole.stop_reason == "tool_use"
    with client.messages.stream(model="claude", max_tokens=99, messages=MESSAGES, tools=TOOLS) as stream:
        final = stream.get_final_message()
    assert [(block.name, block.input) for block in final.content if block.type == "tool_use"] == uses
    answered: list[MessageParam] = [
        *MESSAGES,
        {"role": "assistant", "content": whole.content},
        {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "x", "content": "noon"}]},
    ]
    after = client.messages.create(model="claude", max_tokens=99, messages=answered, tools=TOOLS)
    assert after.stop_reason == "end_turn"


def test_thinking_comes_first_and_is_signed(client: Anthropic, fake: FakeProvider) -> None:
    thinking: Any = {"type": "enabled", "budget_tokens": 1024}
    whole = client.messages.create(model="claude", max_tokens=2000, messages=MESSAGES, thinking=thinking)
    with client.messages.stream(model="claude", max_tokens=2000, messages=MESSAGES, thinking=thinking) as stream:
        final = stream.get_final_message()
    for message in (whole, final):
        first, second = message.content
        assert first.type == "thinking"
        assert first.thinking
        assert first.signature
        assert second.type == "text"
    assert final.usage.output_tokens == whole.usage.output_tokens == fake.calls()[-1]["output_tokens"] > 16


def test_max_tokens_cached_tokens_and_refusal(client: Anthropic) -> None:
    cut = client.messages.create(model="claude", max_tokens=2, messages=MESSAGES)
    assert (cut.stop_reason, cut.usage.output_tokens) == ("max_tokens", 2)
    cached = client.messages.create(
        model="claude", max_tokens=9, messages=MESSAGES, extra_body={"x_fake": {"cached_tokens": 40}}
    )
    assert (cached.usage.input_tokens, cached.usage.cache_read_input_tokens) == (0, 40)
    refused = client.messages.create(
        model="claude", max_tokens=9, messages=MESSAGES, extra_body={"x_fake": {"refusal": "No."}}
    )
    assert refused.stop_reason == "refusal"


def test_count_tokens_agrees_with_the_usage(client: Anthropic) -> None:
    image: list[MessageParam] = [
        {
            "role": "user",
            "content": [
                {"type": "text", "text": ASKED},
                {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "AAAA"}},
            ],
        }
    ]
    counted = client.messages.count_tokens(model="claude", messages=image, tools=TOOLS)
    used = client.messages.create(model="claude", max_tokens=9, messages=image, tools=TOOLS).usage
    assert counted.input_tokens == used.input_tokens > 85


async def test_the_async_client(fake: FakeProvider) -> None:
    async with AsyncAnthropic(base_url=fake.url(), api_key="k", max_retries=0) as client:
        async with client.messages.stream(model="claude", max_tokens=99, messages=MESSAGES) as stream:
            text = await stream.get_final_text()
        assert text.startswith(f"You said: {ASKED}.")


def test_models_in_anthropic_shape(client: Anthropic) -> None:
    assert "claude-sonnet-5-5" in [model.id for model in client.models.list()]


@pytest.mark.parametrize(
    ("body", "headers", "kind"),
    [
        ({"model": "c", "messages": MESSAGES}, {"anthropic-version": "1"}, "max_tokens: Field required"),
        ({"model": "c", "messages": MESSAGES, "max_tokens": 1}, {}, "anthropic-version: header is required"),
        ({"messages": MESSAGES, "max_tokens": 1}, {"anthropic-version": "1"}, "model: Field required"),
        ({"model": "c", "max_tokens": 1}, {"anthropic-version": "1"}, "messages: Field required"),
    ],
)
def test_bad_requests_in_anthropic_shape(
    fake: FakeProvider, body: dict[str, Any], headers: dict[str, str], kind: str
) -> None:
    answer = httpx.post(f"{fake.url()}/v1/messages", json=body, headers=headers, trust_env=False)
    assert answer.status_code == 400
    problem = answer.json()
    assert problem["error"] == {"type": "invalid_request_error", "message": kind}
    assert (problem["type"], problem["request_id"]) == ("error", answer.headers["request-id"])


def test_status_faults_raise_the_sdks_errors(client: Anthropic, fake: FakeProvider) -> None:
    fake.script("fake", [{"status": 529}, {"status": 429, "retry_after": 3}])
    with pytest.raises(anthropic.APIStatusError, match="overloaded_error"):
        client.messages.create(model="claude", max_tokens=9, messages=MESSAGES)
    with pytest.raises(anthropic.RateLimitError) as limited:
        client.messages.create(model="claude", max_tokens=9, messages=MESSAGES)
    assert limited.value.response.headers["retry-after"] == "3"


def test_an_error_inside_a_stream(client: Anthropic) -> None:
    fault = {"x_fake": {"error_event_after": 5}}
    with (
        pytest.raises(anthropic.APIStatusError, match="overloaded_error"),
        client.messages.create(
            model="claude", max_tokens=9, messages=MESSAGES, stream=True, extra_body=fault
        ) as stream,
    ):
        list(stream)
