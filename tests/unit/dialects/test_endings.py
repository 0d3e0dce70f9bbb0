"""A stream that is ended early, at every frame, as the unmodified SDKs read it."""

import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import anthropic
import httpx2
import openai
import orjson
import pytest
from anthropic.types import RawMessageStreamEvent
from hypothesis import given
from hypothesis import strategies as st
from openai.types import Completion
from openai.types.chat import ChatCompletionChunk
from openai.types.responses import ResponseStreamEvent
from pydantic import TypeAdapter

from extproc.dialects import registry, sse
from extproc.dialects.meters import AnthropicMeter, ChatMeter, Meter, PlainMeter, ResponsesMeter, UncountedMeter
from extproc.surfaces import Surface

Json = dict[str, Any]
DONE = b"data: [DONE]\n\n"


def unnamed(value: Json) -> bytes:
    return b"data: " + json.dumps(value).encode() + b"\n\n"


def named(value: Json) -> bytes:
    return f"event: {value['type']}\n".encode() + unnamed(value)


def ended(meter: Meter, events: Sequence[bytes], at: int, tells_usage: bool = False) -> tuple[bytes, list[bytes]]:
    """What a client sees whose stream is ended before the event at this place: all of it, and the ending's events."""
    meter.bound("openai")
    for raw in events[:at]:
        meter.weigh(raw)
        meter.event(raw)
    if at < len(events):
        meter.weigh(events[at])
    ending = meter.ending(7, tells_usage)
    assert meter.finished
    reader = sse.EventReader()
    added = reader.feed(ending)
    assert reader.held == 0, "it does not end with a whole event"
    return b"".join(events[:at]) + ending, added


def parsed(events: Sequence[bytes]) -> list[Json]:
    return [orjson.loads(sse.data(raw)) for raw in events if sse.data(raw) != b"[DONE]"]


@contextmanager
def openai_reading(body: bytes) -> Iterator[openai.OpenAI]:
    with httpx2.Client(transport=httpx2.MockTransport(_answer(body))) as transport:
        yield openai.OpenAI(api_key="k", base_url="http://gateway/v1", http_client=transport, max_retries=0)


@contextmanager
def anthropic_reading(body: bytes) -> Iterator[anthropic.Anthropic]:
    with httpx2.Client(transport=httpx2.MockTransport(_answer(body))) as transport:
        yield anthropic.Anthropic(api_key="k", base_url="http://gateway", http_client=transport, max_retries=0)


def _answer(body: bytes) -> Callable[[httpx2.Request], httpx2.Response]:
    return lambda _: httpx2.Response(200, headers={"content-type": "text/event-stream"}, content=body)


# ---- chat completions -------------------------------------------------------------------------------

BASE = {"id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 5, "model": "gpt-4o"}


def chunk(index: int, delta: Json, finish: str | None = None) -> Json:
    choice = {"index": index, "delta": delta, "logprobs": None, "finish_reason": finish}
    return BASE | {"system_fingerprint": "fp_1", "choices": [choice]}


def call(place: int, **function: str) -> Json:
    return {"tool_calls": [{"index": place, "function": function}]}


def opened(place: int, name: str) -> Json:
    function = {"name": name, "arguments": ""}
    return {"tool_calls": [{"index": place, "id": f"call_{place}", "type": "function", "function": function}]}


USAGE = BASE | {"choices": [], "usage": {"prompt_tokens": 3, "completion_tokens": 4, "total_tokens": 7}}
ROLE = {"role": "assistant", "content": ""}
CHATS: dict[str, list[Json]] = {
    "text": [chunk(0, ROLE), chunk(0, {"content": "one "}), chunk(0, {"content": "two"}), chunk(0, {}, "stop")],
    "two choices": [
        chunk(0, ROLE),
        chunk(1, ROLE),
        chunk(0, {"content": "left"}),
        chunk(1, {"content": "right"}),
        chunk(0, {}, "stop"),
        chunk(1, {"content": " more"}),
        chunk(1, {}, "stop"),
    ],
    "tools": [
        chunk(0, {"role": "assistant", "content": None}),
        chunk(0, opened(0, "weather")),
        chunk(0, call(0, arguments='{"city":')),
        chunk(0, call(0, arguments='"Bern"}')),
        chunk(0, opened(1, "time")),
        chunk(0, call(1, arguments='{"zo')),
        chunk(0, {}, "tool_calls"),
    ],
    "azure": [
        {"id": "", "object": "", "created": 0, "model": "", "choices": [], "prompt_filter_results": []},
        chunk(0, ROLE),
        chunk(0, {"content": "one"}),
        chunk(0, {}, "stop"),
    ],
}
# Azure's first chunk has no text, so it is never withheld.
EVERY_CHAT = [(name, at) for name, chunks in CHATS.items() for at in range(name == "azure", len(chunks) + 2)]


def chat_events(name: str) -> list[bytes]:
    return [*map(unnamed, CHATS[name]), unnamed(USAGE), DONE]


def text_of(chunks: Sequence[Json], index: int) -> str:
    choices = [choice for one in chunks for choice in one["choices"] if choice["index"] == index]
    return "".join(choice["delta"].get("content") or "" for choice in choices)


@pytest.mark.parametrize("tells_usage", [False, True])
@pytest.mark.parametrize(("name", "at"), EVERY_CHAT)
def test_a_chat_ends_at_every_frame_as_if_its_cap_were_reached(name: str, at: int, tells_usage: bool) -> None:
    events = chat_events(name)
    body, added = ended(ChatMeter(), events, at, tells_usage)
    assert added[-1] == DONE
    assert added.count(DONE) == 1
    for one in parsed(added):
        ChatCompletionChunk.model_validate(one)
        assert {field: one[field] for field in BASE} == BASE
    with openai_reading(body) as client:
        seen = list(client.chat.completions.create(model="m", messages=[], stream=True))
    finished = [(choice.index, choice.finish_reason) for one in seen for choice in one.choices if choice.finish_reason]
    assert len(dict(finished)) == len(finished), "a choice has finished twice"
    told = {choice["index"] for one in CHATS[name][:at] for choice in one["choices"]} or {0}
    assert set(dict(finished)) == told
    assert [one.usage is not None for one in seen].count(True) == int(tells_usage) + int(at > len(CHATS[name]))


@pytest.mark.parametrize(("name", "at"), EVERY_CHAT)
def test_the_sdk_adds_up_a_chat_that_was_ended(name: str, at: int) -> None:
    body, _ = ended(ChatMeter(), chat_events(name), at)
    with openai_reading(body) as client, client.chat.completions.stream(model="m", messages=[]) as stream:
        assert list(stream)
        final = stream.current_completion_snapshot
    for choice in final.choices:
        assert (choice.message.content or "") == text_of(CHATS[name][:at], choice.index)
        assert choice.finish_reason in ("length", "stop", "tool_calls")
    if any(choice.finish_reason == "length" for choice in final.choices):  # what a provider's own cut raises
        with pytest.raises(openai.LengthFinishReasonError):
            stream.get_final_completion()


def test_usage_that_was_asked_for_is_what_flowed_and_null_before() -> None:
    _, added = ended(ChatMeter(), chat_events("text"), 3, tells_usage=True)
    last, usage = parsed(added)
    assert last["usage"] is None
    assert usage["choices"] == []
    assert usage["usage"] == {"prompt_tokens": 7, "completion_tokens": 2, "total_tokens": 9}
    _, added = ended(ChatMeter(), chat_events("text"), 3)
    assert all("usage" not in one for one in parsed(added))


def test_an_ending_keeps_what_the_chunks_had_in_common() -> None:
    _, added = ended(ChatMeter(), chat_events("text"), 2)
    choice = {"index": 0, "delta": {}, "logprobs": None, "finish_reason": "length"}
    assert parsed(added) == [BASE | {"system_fingerprint": "fp_1", "choices": [choice]}]


def test_a_chat_of_which_nothing_may_pass_is_an_empty_answer() -> None:
    body, added = ended(ChatMeter(), chat_events("text"), 0)
    assert parsed(added)[0]["choices"][0]["delta"] == {"role": "assistant", "content": ""}
    with openai_reading(body) as client, client.chat.completions.stream(model="m", messages=[]) as stream:
        assert list(stream)
        choice = stream.current_completion_snapshot.choices[0]
    assert (choice.message.content, choice.finish_reason) == ("", "length")
    assert ended(ChatMeter(), [], 0)[0] == DONE


def test_a_completion_ends_with_text() -> None:
    base = {"id": "cmpl-1", "object": "text_completion", "created": 5, "model": "m"}
    choice = {"index": 0, "text": "one", "logprobs": None, "finish_reason": None}
    events = [unnamed(base | {"choices": [choice]}), unnamed(base | {"choices": [choice | {"index": 1}]})]
    for at in range(3):
        body, added = ended(ChatMeter(), events, at)
        for one in parsed(added):
            Completion.model_validate(one)
            assert one["choices"][0]["text"] == ""
        with openai_reading(body) as client:
            seen = list(client.completions.create(model="m", prompt="p", stream=True))
        finished = [choice.index for one in seen for choice in one.choices if choice.finish_reason == "length"]
        assert finished == list(range(max(1, at)))


# ---- responses --------------------------------------------------------------------------------------

RESPONSE: Json = {
    "id": "resp_1",
    "object": "response",
    "created_at": 5,
    "status": "in_progress",
    "error": None,
    "incomplete_details": None,
    "instructions": None,
    "metadata": {},
    "model": "gpt-5",
    "output": [],
    "parallel_tool_calls": True,
    "temperature": 1.0,
    "tool_choice": "auto",
    "tools": [],
    "top_p": 1.0,
    "usage": None,
}


def message(status: str, *parts: Json) -> Json:
    return {"id": "msg_1", "type": "message", "status": status, "role": "assistant", "content": list(parts)}


def part(text: str) -> Json:
    return {"type": "output_text", "text": text, "annotations": [], "logprobs": []}


def function(status: str, arguments: str) -> Json:
    named_ = {"id": "fc_1", "type": "function_call", "call_id": "call_1", "name": "weather"}
    return named_ | {"status": status, "arguments": arguments}


def reasoning(*texts: str) -> Json:
    return {"id": "rs_1", "type": "reasoning", "summary": [{"type": "summary_text", "text": text} for text in texts]}


def _stream(*events: Json) -> list[Json]:
    first = [("response.created", {"response": RESPONSE}), ("response.in_progress", {"response": RESPONSE})]
    whole = [{"type": kind, **rest} for kind, rest in first] + [
        {**event, "type": f"response.{event['type']}"} for event in events
    ]
    return [{**event, "sequence_number": number} for number, event in enumerate(whole)]


def at_(item: str, index: int, **more: int) -> Json:
    return {"item_id": item, "output_index": index, **more}


MESSAGE = at_("msg_1", 0, content_index=0)
SUMMARY = at_("rs_1", 0, summary_index=0)
CALL = at_("fc_1", 1)
RESPONSES: dict[str, list[Json]] = {
    "text": _stream(
        {"type": "output_item.added", "output_index": 0, "item": message("in_progress")},
        {"type": "content_part.added", **MESSAGE, "part": part("")},
        {"type": "output_text.delta", **MESSAGE, "delta": "one ", "logprobs": []},
        {"type": "output_text.delta", **MESSAGE, "delta": "two", "logprobs": []},
        {"type": "output_text.done", **MESSAGE, "text": "one two", "logprobs": []},
        {"type": "content_part.done", **MESSAGE, "part": part("one two")},
        {"type": "output_item.done", "output_index": 0, "item": message("completed", part("one two"))},
    ),
    "refusal": _stream(
        {"type": "output_item.added", "output_index": 0, "item": message("in_progress")},
        {"type": "content_part.added", **MESSAGE, "part": {"type": "refusal", "refusal": ""}},
        {"type": "refusal.delta", **MESSAGE, "delta": "I can"},
        {"type": "refusal.delta", **MESSAGE, "delta": "not"},
        {"type": "refusal.done", **MESSAGE, "refusal": "I cannot"},
    ),
    "reasoning and a call": _stream(
        {"type": "output_item.added", "output_index": 0, "item": reasoning()},
        {"type": "reasoning_summary_part.added", **SUMMARY, "part": {"type": "summary_text", "text": ""}},
        {"type": "reasoning_summary_text.delta", **SUMMARY, "delta": "think"},
        {"type": "reasoning_summary_text.done", **SUMMARY, "text": "think"},
        {"type": "reasoning_summary_part.done", **SUMMARY, "part": {"type": "summary_text", "text": "think"}},
        {"type": "output_item.done", "output_index": 0, "item": reasoning("think")},
        {"type": "output_item.added", "output_index": 1, "item": function("in_progress", "")},
        {"type": "function_call_arguments.delta", **CALL, "delta": '{"city":'},
        {"type": "function_call_arguments.delta", **CALL, "delta": '"Bern"}'},
        {"type": "function_call_arguments.done", **CALL, "name": "weather", "arguments": '{"city":"Bern"}'},
        {"type": "output_item.done", "output_index": 1, "item": function("completed", '{"city":"Bern"}')},
    ),
}
EVERY_RESPONSE = [(name, at) for name, events in RESPONSES.items() for at in range(1, len(events) + 1)]
STREAM_EVENT: TypeAdapter[Any] = TypeAdapter(ResponseStreamEvent)


@pytest.mark.parametrize(("name", "at"), EVERY_RESPONSE)
def test_a_response_ends_at_every_frame_incomplete(name: str, at: int) -> None:
    events = RESPONSES[name]
    body, added = ended(ResponsesMeter(), [named(event) for event in events], at)
    told = parsed(added)
    for raw, one in zip(added, told, strict=True):
        STREAM_EVENT.validate_python(one)
        assert raw.startswith(b"event: " + one["type"].encode() + b"\n")
    assert [one["sequence_number"] for one in told] == list(range(at, at + len(told)))
    with openai_reading(body) as client, client.responses.stream(model="m", input="i") as stream:
        seen = list(stream)
    last = seen[-1]
    assert last.type == "response.incomplete"
    assert last.response.incomplete_details
    assert (last.response.status, last.response.incomplete_details.reason) == ("incomplete", "max_output_tokens")
    kinds: list[str] = [event.type for event in seen]
    for begun in ("output_item", "content_part", "reasoning_summary_part"):
        assert kinds.count(f"response.{begun}.added") == kinds.count(f"response.{begun}.done")
    deltas = [event for event in events[:at] if event["type"] == "response.output_text.delta"]
    assert last.response.output_text == "".join(event["delta"] for event in deltas)


def response_ended(name: str, at: int) -> list[Json]:
    return parsed(ended(ResponsesMeter(), [named(event) for event in RESPONSES[name]], at)[1])


def test_an_open_text_is_closed_from_the_inside_out() -> None:
    incomplete = message("incomplete", part("one "))
    usage = {
        "input_tokens": 7,
        "input_tokens_details": {"cached_tokens": 0, "cache_write_tokens": 0},
        "output_tokens": 1,
        "output_tokens_details": {"reasoning_tokens": 0},
        "total_tokens": 8,
    }
    whole = RESPONSE | {
        "status": "incomplete",
        "incomplete_details": {"reason": "max_output_tokens"},
        "output": [incomplete],
        "usage": usage,
    }
    events = response_ended("text", 5)
    assert [event.pop("sequence_number") for event in events] == [5, 6, 7, 8]
    assert events == [
        {"type": "response.output_text.done", **MESSAGE, "text": "one ", "logprobs": []},
        {"type": "response.content_part.done", **MESSAGE, "part": part("one ")},
        {"type": "response.output_item.done", "output_index": 0, "item": incomplete},
        {"type": "response.incomplete", "response": whole},
    ]


@pytest.mark.parametrize(
    ("number", "next_"), [(2**53 - 1, 2**53), (2**53, 0), (2**63 - 1, 0), (2**64 - 1, 0), (-5, 0), (1.5, 0), (None, 0)]
)
def test_a_number_that_nobody_can_count_on_from_does_not_silence_the_ending(number: object, next_: int) -> None:
    meter = ResponsesMeter()
    meter.bound("openai")
    meter.event(unnamed({"type": "response.created", "sequence_number": number, "response": {"id": "resp_1"}}))
    (last,) = parsed(sse.EventReader().feed(meter.ending(0)))
    assert (last["type"], last["sequence_number"]) == ("response.incomplete", next_)


def test_an_open_call_keeps_the_arguments_that_came() -> None:
    done, item, last = response_ended("reasoning and a call", 10)
    assert done["type"] == "response.function_call_arguments.done"
    assert (done["name"], done["arguments"], done["item_id"]) == ("weather", '{"city":', "fc_1")
    assert item["item"] == function("incomplete", '{"city":')
    assert last["response"]["output"] == [reasoning("think"), function("incomplete", '{"city":')]


def test_a_refusal_and_a_summary_are_closed_in_their_own_words() -> None:
    assert [one["type"] for one in response_ended("refusal", 5)][:2] == [
        "response.refusal.done",
        "response.content_part.done",
    ]
    assert response_ended("refusal", 5)[1]["part"] == {"type": "refusal", "refusal": "I can"}
    summary = response_ended("reasoning and a call", 5)
    assert [one["type"] for one in summary][:3] == [
        "response.reasoning_summary_text.done",
        "response.reasoning_summary_part.done",
        "response.output_item.done",
    ]
    assert summary[2]["item"] == reasoning("think")


def test_items_that_are_open_at_once_are_closed_each_with_its_own() -> None:
    other = {**message("in_progress"), "id": "msg_2"}
    second = at_("msg_2", 1, content_index=0)
    events = _stream(
        {"type": "output_item.added", "output_index": 0, "item": message("in_progress")},
        {"type": "output_item.added", "output_index": 1, "item": other},
        {"type": "content_part.added", **MESSAGE, "part": part("")},
        {"type": "content_part.added", **second, "part": part("")},
        {"type": "output_text.delta", **second, "delta": "right", "logprobs": []},
        {"type": "output_text.delta", **MESSAGE, "delta": "left", "logprobs": []},
        {"type": "output_item.added", "output_index": 2, "item": {"id": "ws_1", "type": "web_search_call"}},
    )
    body, added = ended(ResponsesMeter(), [named(event) for event in events], len(events))
    told = parsed(added)
    assert [(one["type"].removeprefix("response."), one.get("output_index")) for one in told] == [
        *(("output_text.done", 0), ("content_part.done", 0), ("output_item.done", 0)),
        *(("output_text.done", 1), ("content_part.done", 1), ("output_item.done", 1)),
        *(("output_item.done", 2), ("incomplete", None)),
    ]
    output = told[-1]["response"]["output"]
    assert output[:2] == [message("incomplete", part("left")), {**message("incomplete", part("right")), "id": "msg_2"}]
    assert output[2] == {"id": "ws_1", "type": "web_search_call"}, "what has no status gets none"
    with openai_reading(body) as client, client.responses.stream(model="m", input="i") as stream:
        assert list(stream)[-1].type == "response.incomplete"


@pytest.mark.parametrize(
    "odd",
    [
        {"type": "output_item.added", "output_index": 1, "item": None},
        {"type": "output_item.added", "output_index": "1", "item": message("in_progress")},
        {"type": "content_part.added", **MESSAGE, "part": "text"},
        {"type": "content_part.added", **MESSAGE, "content_index": 7, "part": part("")},
        {"type": "content_part.added", **MESSAGE, "content_index": None, "part": part("")},
        {"type": "content_part.added", **MESSAGE, "output_index": 5, "part": part("")},
        {"type": "output_text.delta", **MESSAGE, "delta": None},
        {"type": "output_text.done", **MESSAGE},
        {"type": "reasoning_text.done", **MESSAGE, "content_index": 7, "text": "x"},
        {"type": "output_text.annotation.added", **MESSAGE, "annotation": {}},
        {"type": "nobody.knows"},
    ],
)
def test_an_event_that_makes_no_sense_changes_nothing(odd: Json) -> None:
    events = _stream({"type": "output_item.added", "output_index": 0, "item": message("in_progress")}, odd)
    told = parsed(ended(ResponsesMeter(), [named(event) for event in events], len(events))[1])
    assert [one["type"] for one in told] == ["response.output_item.done", "response.incomplete"]
    assert told[0]["item"] == message("incomplete")


def test_a_text_in_no_part_is_told_and_belongs_to_nothing() -> None:
    events = _stream(
        {"type": "output_item.added", "output_index": 0, "item": message("in_progress")},
        {"type": "output_text.delta", **MESSAGE, "delta": "lost", "logprobs": []},
    )
    told = parsed(ended(ResponsesMeter(), [named(event) for event in events], len(events))[1])
    assert (told[0]["type"], told[0]["text"]) == ("response.output_text.done", "lost")
    assert told[1]["item"] == message("incomplete")


def test_a_response_that_has_not_begun_has_no_ending() -> None:
    assert ended(ResponsesMeter(), [], 0)[0] == b""


# ---- messages ---------------------------------------------------------------------------------------

START: Json = {
    "id": "msg_1",
    "type": "message",
    "role": "assistant",
    "model": "claude",
    "content": [],
    "stop_reason": None,
    "stop_sequence": None,
    "usage": {"input_tokens": 9, "output_tokens": 1},
}


def block(index: int, content: Json) -> Json:
    return {"type": "content_block_start", "index": index, "content_block": content}


def delta(index: int, **more: str) -> Json:
    return {"type": "content_block_delta", "index": index, "delta": more}


def stop(index: int) -> Json:
    return {"type": "content_block_stop", "index": index}


MESSAGES: list[Json] = [
    {"type": "message_start", "message": START},
    block(0, {"type": "thinking", "thinking": "", "signature": ""}),
    delta(0, type="thinking_delta", thinking="think"),
    delta(0, type="signature_delta", signature="c2ln"),
    stop(0),
    block(1, {"type": "text", "text": ""}),
    {"type": "ping"},
    delta(1, type="text_delta", text="one "),
    delta(1, type="text_delta", text="two"),
    stop(1),
    block(2, {"type": "tool_use", "id": "toolu_1", "name": "weather", "input": {}}),
    delta(2, type="input_json_delta", partial_json='{"city": "Be'),
    delta(2, type="input_json_delta", partial_json='rn"}'),
    stop(2),
    {
        "type": "message_delta",
        "delta": {"stop_reason": "tool_use", "stop_sequence": None},
        "usage": {"output_tokens": 30},
    },
    {"type": "message_stop"},
]
MESSAGE_EVENT: TypeAdapter[Any] = TypeAdapter(RawMessageStreamEvent)


@pytest.mark.parametrize("at", range(1, len(MESSAGES)))
def test_a_message_ends_at_every_frame_at_its_cap(at: int) -> None:
    body, added = ended(AnthropicMeter(), [named(event) for event in MESSAGES], at)
    for raw, one in zip(added, parsed(added), strict=True):
        MESSAGE_EVENT.validate_python(one)
        assert raw.startswith(b"event: " + one["type"].encode() + b"\n")
    with (
        anthropic_reading(body) as client,
        client.messages.stream(model="m", max_tokens=9, messages=[{"role": "user", "content": "?"}]) as stream,
    ):
        kinds = [event.type for event in stream]
        final = stream.get_final_message()
    assert final.stop_reason == ("tool_use" if at == len(MESSAGES) - 1 else "max_tokens")
    assert kinds.count("content_block_start") == kinds.count("content_block_stop")
    assert kinds.count("message_stop") == kinds.count("message_delta") == 1
    texts = [event["delta"]["text"] for event in MESSAGES[:at] if "text" in event.get("delta", {})]
    assert "".join(one.text for one in final.content if one.type == "text") == "".join(texts)


def test_a_message_ends_with_its_block_its_reason_and_what_flowed() -> None:
    _, added = ended(AnthropicMeter(), [named(event) for event in MESSAGES], 8)
    reason = {"stop_reason": "max_tokens", "stop_sequence": None}
    assert parsed(added) == [
        stop(1),
        {"type": "message_delta", "delta": reason, "usage": {"output_tokens": 3}},
        {"type": "message_stop"},
    ]
    assert ended(AnthropicMeter(), [], 0)[0] == b""


# ---- what every ending keeps ------------------------------------------------------------------------


@pytest.mark.parametrize("make", [ChatMeter, ResponsesMeter, AnthropicMeter])
def test_a_stream_ends_once_and_not_after_its_end(make: Callable[[], Meter]) -> None:
    events = {
        ChatMeter: chat_events("text"),
        ResponsesMeter: [named(event) for event in RESPONSES["text"]],
        AnthropicMeter: [named(event) for event in MESSAGES],
    }[make]  # type: ignore[index]
    meter = make()
    meter.bound("openai")
    for raw in events[:4]:
        meter.event(raw)
    assert meter.ending(0) != b""
    assert meter.ending(0) == b""
    unbound = make()
    for raw in events[:4]:
        unbound.event(raw)
    assert (unbound.ending(0), unbound.finished) == (b"", False)


@pytest.mark.parametrize("make", [PlainMeter, UncountedMeter])
def test_what_has_no_cap_has_no_ending(make: Callable[[], Meter]) -> None:
    meter = make()
    meter.bound("openai")
    meter.event(unnamed({"delta": "x"}))
    assert meter.ending(0) == b""


def test_what_is_nested_too_deep_to_be_written_ends_in_silence() -> None:
    deep = b'{"type":"response.created","response":{"metadata":' + b"[" * 400 + b"]" * 400 + b"}}"
    meter = ResponsesMeter()
    meter.bound("openai")
    meter.event(b"data: " + deep + b"\n\n")
    assert meter.ending(0) == b""


NAMES = """
    type error choices delta index text content role tool_calls function finish_reason usage response item id status
    output_index content_index summary_index part summary sequence_number arguments name output message content_block
"""
WORDS = """
    response.created response.output_item.added response.output_item.done response.content_part.added
    response.content_part.done response.output_text.delta response.output_text.done response.refusal.delta
    response.reasoning_summary_part.added response.reasoning_summary_text.delta content_block_start message_start
    response.function_call_arguments.delta content_block_stop message_delta tool_use
"""
_json: st.SearchStrategy[Any] = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-2, 3)
    | st.floats(allow_nan=False)
    | st.sampled_from([*WORDS.split(), "", "x"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(NAMES.split()), inner, max_size=5),
    max_leaves=8,
)
_events = st.builds(
    lambda kind, at, rest: {"output_index": at, "content_index": 0, "index": at, **rest, "type": kind},
    st.sampled_from(WORDS.split()),
    st.integers(0, 1),
    st.dictionaries(st.sampled_from(NAMES.split()), _json, max_size=6),
)


@pytest.mark.parametrize("surface", [Surface.CHAT, Surface.RESPONSES, Surface.MESSAGES])
@given(st.lists(_events, max_size=8), st.booleans())
def test_an_ending_never_raises_and_is_always_whole_events(
    surface: Surface, events: list[Json], tells_usage: bool
) -> None:
    meter = registry.meter(surface, hide_usage=False)
    meter.bound("openai")
    for event in events:
        raw = unnamed(event)
        assert meter.weigh(raw) >= 0
        meter.event(raw)
    if meter.finished:
        return
    added = sse.EventReader().feed(meter.ending(7, tells_usage))
    assert all(isinstance(one, dict) for one in parsed(added))
