"""Every client surface on every dialect that can carry it, with the official SDKs through the real Envoy.

The oracle is the fake provider, which counts and records what reached it as that provider would.
"""

import itertools
import json
from base64 import b64decode
from collections.abc import Iterator, Mapping
from typing import Any

import anthropic
import httpx2
import openai
import pytest

from tests.support.fake import FakeProvider
from tests.support.gateway import RunningGateway

Json = dict[str, Any]
SAY: Any = [{"role": "user", "content": "hi"}]
BACKENDS = ("openai", "legacy", "azure", "claude", "gemini", "plain", "foundry")
CHATTING = BACKENDS[:5]
CHAIN = ("openai", "claude", "gemini", "azure")
OTHERS = {"chat": ["claude", "gemini"], "messages": ["openai", "legacy", "azure"], "responses": ["plain", "foundry"]}
PAIRS = [(surface, backend) for surface, backends in OTHERS.items() for backend in backends]
TOOL = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
STRICT: Json = {
    "type": "function",
    "function": {"name": "weather", "strict": True, "parameters": {**TOOL, "additionalProperties": False}},
}
WEATHER = {"name": "weather", "arguments": {"city": "Paris \u2600"}}


@pytest.fixture(scope="module")
def fake() -> Iterator[FakeProvider]:
    with FakeProvider(*BACKENDS, options=["--keep-bodies"]) as running:
        yield running


@pytest.fixture(scope="module")
def gateway(fake: FakeProvider) -> Iterator[RunningGateway]:
    """A model for each backend, for each pair of those that chat, and one that falls back through all dialects."""
    dialects: dict[str, Json] = {
        "openai": {"dialect": "openai"},
        "legacy": {"dialect": "azure-openai", "api_version": "2024-10-21"},
        "azure": {"dialect": "azure-openai"},
        "claude": {"dialect": "anthropic"},
        "gemini": {"dialect": "gemini"},
        "plain": {"dialect": "openai", "surfaces": ["chat"]},
        "foundry": {"dialect": "azure-openai", "api_version": "2024-10-21", "surfaces": ["chat"]},
    }
    models: Json = {name: {"targets": [[{"backend": name, "model": f"{name}-model"}]]} for name in BACKENDS}
    models["chain"] = {"targets": [[{"backend": name, "model": f"{name}-model"}] for name in CHAIN]}
    models["older"] = {"targets": [[{"backend": "gemini", "model": "gemini-2.5-flash"}]]}
    for pair in itertools.permutations(CHATTING, 2):
        models["-".join(pair)] = {"targets": [[{"backend": name, "model": f"{name}-model"}] for name in pair]}
    settings = {
        "backends": {
            name: {"url": fake.url(name), "credential": {"env": f"KEY_{name}"}, **given}
            for name, given in dialects.items()
        },
        "models": models,
        "policies": {"redaction": {"default": {}}},
    }
    with RunningGateway(settings, {f"KEY_{name}": f"secret-of-{name}" for name in BACKENDS}) as running:
        yield running


@pytest.fixture(autouse=True)
def _fresh(fake: FakeProvider) -> None:
    fake.reset()


def _openai(gateway: RunningGateway) -> Any:
    return openai.OpenAI(base_url=f"{gateway.url}/v1", api_key=gateway.key, max_retries=0)


def _anthropic(gateway: RunningGateway) -> Any:
    return anthropic.Anthropic(base_url=gateway.url, api_key=gateway.key, max_retries=0)


def _chat(gateway: RunningGateway, model: str, stream: bool, **fields: Any) -> Json:
    """What a chat says to the SDK: its text, the tools that it calls, why it ended, usage, model and record."""
    asked: Json = {"model": model, "messages": SAY, **fields}
    with _openai(gateway) as client:
        if not stream:
            raw = client.chat.completions.with_raw_response.create(**asked)
            whole = raw.parse()
            choice = whole.choices[0]
            tools = [(call.function.name, call.function.arguments) for call in choice.message.tool_calls or []]
            said = (choice.message.content or "", tools, choice.finish_reason)
            return _told(gateway, raw.headers, said, whole.usage, whole.model)
        asked |= {"stream": True, "stream_options": {"include_usage": True}}
        raw = client.chat.completions.with_raw_response.create(**asked)
        chunks = list(raw.parse())
    text, reason = "", None
    calls: dict[int, tuple[str, str]] = {}
    for choice in [choice for chunk in chunks for choice in chunk.choices]:
        text += choice.delta.content or ""
        for call in choice.delta.tool_calls or []:
            name, arguments = calls.get(call.index, ("", ""))
            calls[call.index] = name + (call.function.name or ""), arguments + (call.function.arguments or "")
        reason = choice.finish_reason or reason
    return _told(gateway, raw.headers, (text, list(calls.values()), reason), chunks[-1].usage, chunks[-1].model)


def _messages(gateway: RunningGateway, model: str, stream: bool, **fields: Any) -> Json:
    asked: Json = {"model": model, "messages": SAY, "max_tokens": 1000, **fields}
    with _anthropic(gateway) as client:
        if stream:
            with client.messages.stream(**asked) as events:
                message = events.get_final_message()
                headers = events.response.headers
        else:
            raw = client.messages.with_raw_response.create(**asked)
            message, headers = raw.parse(), raw.headers
    text = "".join(block.text for block in message.content if block.type == "text")
    tools = [(block.name, json.dumps(block.input)) for block in message.content if block.type == "tool_use"]
    return _told(gateway, headers, (text, tools, message.stop_reason), message.usage, message.model)


def _responses(gateway: RunningGateway, model: str, stream: bool, **fields: Any) -> Json:
    asked: Json = {"model": model, "input": "hi", "store": False, **fields}
    with _openai(gateway) as client:
        if stream:
            raw = client.responses.with_raw_response.create(stream=True, **asked)
            events = list(raw.parse())
            assert [event.sequence_number for event in events] == list(range(len(events)))
            if events[-1].type == "response.failed":
                raise openai.OpenAIError(events[-1].response.error.message)  # the SDK leaves that to its user
            response = events[-1].response
        else:
            raw = client.responses.with_raw_response.create(**asked)
            response = raw.parse()
    tools = [(item.name, item.arguments) for item in response.output if item.type == "function_call"]
    return _told(gateway, raw.headers, (response.output_text, tools, response.status), response.usage, response.model)


Said = tuple[str, list[tuple[str, str]], str | None]
"""Its text, the tools that it calls with their arguments, why it ended."""


def _told(gateway: RunningGateway, headers: Any, said: Said, usage: Any, model: str) -> Json:
    text, tools, reason = said
    counted = usage.model_dump()
    names = (("input_tokens", "prompt_tokens"), ("output_tokens", "completion_tokens"))
    sizes = [counted.get(name, counted.get(older)) for name, older in names]
    return {
        "text": text,
        "tools": [(name, json.loads(arguments)) for name, arguments in tools],
        "reason": reason,
        "usage": sizes,
        "model": model,
        "record": gateway.record(headers["x-request-id"]),
    }


ASK = {"chat": _chat, "messages": _messages, "responses": _responses}
TOOLS: Mapping[str, Json] = {
    "chat": {"tools": [{"type": "function", "function": {"name": "weather", "parameters": TOOL}}]},
    "messages": {"tools": [{"name": "weather", "input_schema": TOOL}]},
    "responses": {"tools": [{"type": "function", "name": "weather", "parameters": TOOL, "strict": False}]},
}
COMPLETE = {"chat": "stop", "messages": "end_turn", "responses": "completed"}
CALLED = {"chat": "tool_calls", "messages": "tool_use", "responses": "completed"}
CUT = {"chat": "length", "messages": "max_tokens", "responses": "incomplete"}
CAPS: Mapping[str, Json] = {
    "chat": {"max_tokens": 3},
    "messages": {"max_tokens": 3},
    "responses": {"max_output_tokens": 16},
}


def _asked(fake: FakeProvider, backend: str) -> list[Json]:
    return [json.loads(b64decode(call["body_base64"])) for call in fake.calls(backend)]


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
@pytest.mark.parametrize(("surface", "backend"), PAIRS)
def test_a_backend_of_another_dialect_answers_as_the_surface_does(
    surface: str, backend: str, stream: bool, gateway: RunningGateway, fake: FakeProvider
) -> None:
    fake.script(backend, [{"text": "Gr\u00fc\u00dfe & \u2603", "cached_tokens": 2, "chunk_bytes": 5}])
    told = ASK[surface](gateway, backend, stream)
    assert (told["text"], told["reason"]) == ("Gr\u00fc\u00dfe & \u2603", COMPLETE[surface])
    assert told["model"] == f"{backend}-model", "the truth about what served"
    (call,) = fake.calls(backend)
    assert told["record"]["usage"]["source"] == "reported"
    used = told["record"]["usage"]
    assert [used["input"], used["output"]] == [call["input_tokens"], call["output_tokens"]]
    assert told["record"]["usage"].get("cached_input", 0) == 2
    cached = 2 if surface == "messages" else 0  # Anthropic counts what was cached apart
    assert told["usage"] == [call["input_tokens"] - cached, call["output_tokens"]]
    assert (told["record"]["ending"], told["record"]["backend"]) == ("complete", backend)


CHATS_USAGE: Json = {
    "prompt_tokens": 1000,
    "completion_tokens": 90,
    "total_tokens": 1090,
    "prompt_tokens_details": {"cached_tokens": 300, "cache_write_tokens": 200},
    "completion_tokens_details": {"reasoning_tokens": 40},
}
USAGE: Mapping[str, Json] = {
    "claude": {
        "input_tokens": 500,
        "cache_read_input_tokens": 300,
        "cache_creation_input_tokens": 200,
        "output_tokens": 90,
        "output_tokens_details": {"thinking_tokens": 40},
    },
    "gemini": {
        "promptTokenCount": 1000,
        "cachedContentTokenCount": 300,
        "candidatesTokenCount": 50,
        "thoughtsTokenCount": 40,
        "totalTokenCount": 1090,
    },
}
"""The same usage in the words of each provider; Gemini tells nothing of what it writes to a cache."""


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
@pytest.mark.parametrize(("surface", "backend"), PAIRS)
def test_what_is_counted_are_the_providers_own_numbers_in_every_class(
    surface: str, backend: str, stream: bool, gateway: RunningGateway, fake: FakeProvider
) -> None:
    fake.script(backend, [{"usage": USAGE.get(backend, CHATS_USAGE)}])
    told = ASK[surface](gateway, backend, stream)
    assert told["usage"] == [500 if surface == "messages" else 1000, 90]
    written = {} if backend == "gemini" else {"cache_write": 200}
    classes = {"input": 1000, "output": 90, "cached_input": 300, "reasoning": 40, **written}
    assert told["record"]["usage"] == {**classes, "source": "reported"}


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
@pytest.mark.parametrize(("surface", "backend"), PAIRS)
def test_tools_are_called_and_caps_end_an_answer(
    surface: str, backend: str, stream: bool, gateway: RunningGateway, fake: FakeProvider
) -> None:
    fake.script(backend, [{"tool_calls": [WEATHER, WEATHER]}, {"length": 50}])
    told = ASK[surface](gateway, backend, stream, **TOOLS[surface])
    assert told["tools"] == [("weather", WEATHER["arguments"])] * 2
    assert told["reason"] == CALLED[surface]
    assert ASK[surface](gateway, backend, stream, **CAPS[surface])["reason"] == CUT[surface]


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
@pytest.mark.parametrize(("surface", "model"), [*PAIRS, ("chat", "older")])
def test_a_conversation_goes_on_with_what_its_tools_said(
    surface: str, model: str, stream: bool, gateway: RunningGateway, fake: FakeProvider
) -> None:
    backend = "gemini" if model == "older" else model
    fake.script(backend, [{"tool_calls": [WEATHER, WEATHER]}])
    said = CONTINUED[surface](gateway, model, stream)
    told = ASK[surface](gateway, model, stream, **said, **TOOLS[surface])
    assert (told["text"][:8], told["reason"]) == ("You said", COMPLETE[surface])
    sent = json.dumps(_asked(fake, backend)[-1], ensure_ascii=False)
    assert (sent.count("sunny"), sent.count("Paris \u2600")) == (2, 2)


def _chat_with_results(gateway: RunningGateway, model: str, stream: bool) -> Json:
    asked: Json = {"model": model, "messages": SAY, "tools": [STRICT]}
    with _openai(gateway) as client:
        if stream:
            with client.chat.completions.stream(**asked) as events:
                message = events.get_final_completion().choices[0].message
        else:
            message = client.chat.completions.create(**asked).choices[0].message
    results = [{"role": "tool", "tool_call_id": call.id, "content": "sunny"} for call in message.tool_calls]
    return {"messages": [*SAY, message.to_dict(), *results]}


def _messages_with_results(gateway: RunningGateway, model: str, stream: bool) -> Json:
    asked: Json = {"model": model, "messages": SAY, "max_tokens": 1000, **TOOLS["messages"]}
    with _anthropic(gateway) as client:
        if stream:
            with client.messages.stream(**asked) as events:
                message = events.get_final_message()
        else:
            message = client.messages.create(**asked)
    uses = [block.id for block in message.content if block.type == "tool_use"]
    results = [{"type": "tool_result", "tool_use_id": use, "content": "sunny"} for use in uses]
    answered = {"role": "assistant", "content": [block.to_dict() for block in message.content]}
    return {"messages": [*SAY, answered, {"role": "user", "content": results}]}


def _responses_with_results(gateway: RunningGateway, model: str, stream: bool) -> Json:
    asked: Json = {"model": model, "input": "hi", "store": False, **TOOLS["responses"]}
    with _openai(gateway) as client:
        if stream:
            with client.responses.stream(**asked) as events:
                output = events.get_final_response().output
        else:
            output = client.responses.create(**asked).output
    calls = [item.call_id for item in output if item.type == "function_call"]
    results = [{"type": "function_call_output", "call_id": call, "output": "sunny"} for call in calls]
    return {"input": [*SAY, *[item.to_dict() for item in output], *results]}


CONTINUED = {"chat": _chat_with_results, "messages": _messages_with_results, "responses": _responses_with_results}
"""The conversation behind a first answer, as the SDK's own objects have it, with the results of its tools."""


@pytest.mark.parametrize(("surface", "backend"), PAIRS)
def test_no_provider_sees_what_is_anothers_or_the_callers(
    surface: str, backend: str, gateway: RunningGateway, fake: FakeProvider
) -> None:
    ASK[surface](gateway, backend, False)
    (call,) = fake.calls(backend)
    headers = dict(call["headers"])
    bearers = {"openai": "authorization", "plain": "authorization"}
    wanted = {"claude": "x-api-key", "gemini": "x-goog-api-key", **bearers}.get(backend, "api-key")
    shown = [name for name in ("authorization", "api-key", "x-api-key", "x-goog-api-key", "cookie") if name in headers]
    assert shown == [wanted]
    assert headers[wanted].removeprefix("Bearer ") == f"secret-of-{backend}"
    assert ("anthropic-version" in headers) == (backend == "claude")
    assert not [name for name in headers if name.startswith(("x-sluice-", "x-envoy-"))]
    assert gateway.key not in json.dumps(call)
    assert int(headers["content-length"]) == call["body_bytes"]


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
@pytest.mark.parametrize(("surface", "backend"), PAIRS)
def test_what_is_redacted_comes_back_in_the_answer(
    surface: str, backend: str, stream: bool, gateway: RunningGateway, fake: FakeProvider
) -> None:
    fake.script(backend, [{"text": "I wrote to <EMAIL_ADDRESS_1>."}])
    asked: Json = {"input": "mail ann@example.com"} if surface == "responses" else {}
    content = {"messages": [{"role": "user", "content": "mail ann@example.com"}]}
    told = ASK[surface](gateway, backend, stream, **(asked or content))
    assert told["text"] == "I wrote to ann@example.com."
    assert "ann@example.com" not in json.dumps(_asked(fake, backend))
    assert "<EMAIL_ADDRESS_1>" in json.dumps(_asked(fake, backend))


@pytest.mark.parametrize("status", [400, 401, 429, 500, 529])
@pytest.mark.parametrize(("surface", "backend"), PAIRS)
def test_a_providers_error_is_one_that_the_sdk_raises(
    surface: str, backend: str, status: int, gateway: RunningGateway, fake: FakeProvider
) -> None:
    fake.script(backend, [{"status": status}])
    with pytest.raises((openai.APIStatusError, anthropic.APIStatusError)) as caught:
        ASK[surface](gateway, backend, False)
    error: Any = caught.value
    assert error.status_code == status
    assert status == 401 or f"asked to answer {status}" in str(error.body)
    body = error.response.json()
    if surface == "messages":
        assert (body["type"], "type" in body["error"]) == ("error", True)
    else:
        assert {"message", "type", "code", "param"} <= body["error"].keys()
    assert error.response.headers["content-type"] == "application/json"


@pytest.mark.parametrize(("surface", "backend"), PAIRS)
def test_an_error_inside_a_stream_is_raised_and_a_broken_one_is_not_completed(
    surface: str, backend: str, gateway: RunningGateway, fake: FakeProvider
) -> None:
    fake.script(backend, [{"error_event_after": 3, "events": 10}, {"reset": 4, "events": 10}])
    for _ in range(2):
        with pytest.raises((openai.OpenAIError, anthropic.AnthropicError, httpx2.TransportError)):
            ASK[surface](gateway, backend, True)
    ids = [dict(call["headers"])["x-request-id"] for call in fake.calls(backend)]
    assert [gateway.record(request_id)["ending"] for request_id in ids] == ["failed", "cut"]


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
@pytest.mark.parametrize("failing", [CHAIN[:1], CHAIN[:2], CHAIN[:3]], ids="+".join)
def test_a_call_falls_back_from_dialect_to_dialect(
    failing: tuple[str, ...], stream: bool, gateway: RunningGateway, fake: FakeProvider
) -> None:
    for backend in failing:
        fake.script(backend, [{"status": 503}])
    served = CHAIN[len(failing)]
    told = _chat(gateway, "chain", stream)
    assert told["model"] == f"{served}-model"
    assert told["record"]["backend"] == served
    assert [call["model"] for call in fake.calls(served)] == [f"{served}-model"]
    assert [call["malformed"] for name in BACKENDS for call in fake.calls(name)] == [False] * (len(failing) + 1)


@pytest.mark.parametrize(("first", "second"), [*itertools.permutations(CHATTING, 2)])
def test_a_second_attempt_has_nothing_of_the_first(
    first: str, second: str, gateway: RunningGateway, fake: FakeProvider
) -> None:
    fake.script(first, [{"status": 503}])
    chain = f"{first}-{second}"
    for model in (chain, second):
        _chat(gateway, model, True)
    (failed,) = fake.calls(first)
    after_another, alone = fake.calls(second)
    assert _request(after_another, chain) == _request(alone, second)
    for backend, call in ((first, failed), (second, alone)):
        assert [name for name in BACKENDS if f"secret-of-{name}" in json.dumps(call)] == [backend]
        assert not [name for name, _ in call["headers"] if name.startswith(("x-sluice-", "x-envoy-"))]


def _request(call: Json, asked: str) -> list[object]:
    """All of a request that is not new in each, and without the name that was asked for, as a legacy path keeps it."""
    varying = ("x-request-id", "traceparent", "content-length")
    headers = sorted(pair for pair in call["headers"] if pair[0] not in varying)
    assert dict(call["headers"])["content-length"] == str(call["body_bytes"])
    body = json.loads(b64decode(call["body_base64"]))
    return [
        call["method"],
        call["path"],
        call["query"],
        headers,
        body | ({"model": ""} if body.get("model") == asked else {}),
    ]


def test_a_usage_that_the_caller_did_not_ask_for_is_counted_and_hidden(
    gateway: RunningGateway, fake: FakeProvider
) -> None:
    with _openai(gateway) as client:
        raw = client.chat.completions.with_raw_response.create(model="claude", messages=SAY, stream=True)
        chunks = list(raw.parse())
    assert not [chunk for chunk in chunks if not chunk.choices or chunk.usage]
    assert gateway.record(raw.headers["x-request-id"])["usage"]["source"] == "reported"


def test_a_field_that_no_backend_can_express_is_named(gateway: RunningGateway, fake: FakeProvider) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        _chat(gateway, "claude", False, seed=7)
    assert (caught.value.code, caught.value.param) == ("unsupported_by_model", "seed")
    assert fake.calls("claude") == []
    assert _chat(gateway, "chain", False, seed=7)["model"] == "openai-model"


def test_an_answer_that_is_too_large_to_translate_is_refused(gateway: RunningGateway, fake: FakeProvider) -> None:
    fake.script("claude", [{"pad_bytes": 40 * 2**20, "content_length": True}])
    with pytest.raises(openai.InternalServerError) as caught:
        _chat(gateway, "claude", False)
    assert caught.value.code == "gateway_error"
    assert _chat(gateway, "claude", False)["reason"] == "stop"


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
@pytest.mark.parametrize("model", ["gemini", "older"])
def test_geminis_thoughts_are_reasoning_and_paid_for(
    model: str, stream: bool, gateway: RunningGateway, fake: FakeProvider
) -> None:
    told = _chat(gateway, model, stream, reasoning_effort="low")
    (call,) = fake.calls("gemini")
    assert told["usage"] == [call["input_tokens"], call["output_tokens"]]
    used = told["record"]["usage"]
    assert (used["source"], used["output"]) == ("reported", call["output_tokens"])
    assert used["output"] > used["reasoning"] > 0


# ---- embeddings ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("encoding", [{}, {"encoding_format": "float"}, {"encoding_format": "base64"}], ids=str)
def test_embeddings_of_gemini_are_numbers_or_base64_as_openais(
    encoding: Json, gateway: RunningGateway, fake: FakeProvider
) -> None:
    asked: Json = {"input": ["A b", "Gr\u00fc\u00dfe"], "dimensions": 8, **encoding}
    with _openai(gateway) as client:
        raw = client.embeddings.with_raw_response.create(model="gemini", **asked)
        made = raw.parse()
        native = client.embeddings.create(model="openai", **asked)
    assert [(one.index, one.embedding) for one in made.data] == [(one.index, one.embedding) for one in native.data]
    assert made.model == "gemini-model"
    (call,) = fake.calls("gemini")
    assert [made.usage.prompt_tokens, made.usage.total_tokens] == [call["input_tokens"]] * 2
    used = gateway.record(raw.headers["x-request-id"])["usage"]
    assert (used["source"], used["input"], used["output"]) == ("reported", call["input_tokens"], 0)


def test_embeddings_that_gemini_does_not_count_are_estimated(gateway: RunningGateway, fake: FakeProvider) -> None:
    fake.script("gemini", [{"usage": "none"}])
    with _openai(gateway) as client:
        raw = client.embeddings.with_raw_response.create(model="gemini", input="mail ann@example.com")
    assert len(raw.parse().data[0].embedding) == 3072
    used = gateway.record(raw.headers["x-request-id"])["usage"]
    assert used["source"] == "estimated"
    assert used["input"] > 0
    assert "<EMAIL_ADDRESS_1>" in json.dumps(_asked(fake, "gemini"))
    assert "ann@example.com" not in json.dumps(_asked(fake, "gemini"))


def test_what_gemini_cannot_embed_or_refuses_is_an_error_of_the_sdk(
    gateway: RunningGateway, fake: FakeProvider
) -> None:
    with _openai(gateway) as client:
        with pytest.raises(openai.BadRequestError) as caught:
            client.embeddings.create(model="gemini", input=["A"] * 101)
        assert (caught.value.code, caught.value.param) == ("unsupported_by_model", "input")
        assert fake.calls("gemini") == []
        fake.script("gemini", [{"status": 429}])
        with pytest.raises(openai.RateLimitError, match="asked to answer 429"):
            client.embeddings.create(model="gemini", input="A")
