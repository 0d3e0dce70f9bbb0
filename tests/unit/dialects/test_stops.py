"""Why an answer ended, which tools it calls and when its first output came, in every dialect, whole and in pieces."""

import json
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from extproc.dialects import registry
from extproc.dialects.answers import Document, Stream
from extproc.dialects.meters import Meter
from extproc.dialects.stops import STOPS, response_stop, stop
from extproc.surfaces import Surface

CHAT, RESPONSES, MESSAGES = Surface.CHAT, Surface.RESPONSES, Surface.MESSAGES
Json = dict[str, Any]


def read(surface: Surface, answer: bytes, size: int | None = None) -> Meter:
    """A meter that has read an answer in pieces of so many bytes: an event stream, or JSON."""
    meter = registry.meter(surface, hide_usage=False)
    reader: Stream | Document = (
        Document(meter) if answer.startswith(b"{") else Stream(meter, hides=False, cap=1_000_000)
    )
    size = size or len(answer)
    for at in range(0, len(answer), size):
        reader.feed(answer[at : at + size], end=at + size >= len(answer))
    return meter


def events(*told: Json, named: bool = False) -> bytes:
    heads = [f"event: {one['type']}\n" if named else "" for one in told]
    return "".join([f"{head}data: {json.dumps(one)}\n\n" for head, one in zip(heads, told, strict=True)]).encode()


def chunk(delta: Json, finish: object = None, index: int = 0) -> Json:
    return {"choices": [{"index": index, "delta": delta, "finish_reason": finish}]}


def call(index: object = None, id: object = None, name: object = None, arguments: str = "") -> Json:  # noqa: A002
    function = {"arguments": arguments} | ({"name": name} if name is not None else {})
    told = {"index": index, "id": id, "function": function}
    return {"tool_calls": [{key: value for key, value in told.items() if value is not None}]}


def item(at: int, kind: str, step: str = "done", **more: Any) -> Json:
    return {
        "type": f"response.output_item.{step}",
        "output_index": at,
        "item": {"id": f"i{at}", "type": kind, **more},
    }


def completed(*output: Json, status: str = "completed", **more: Any) -> Json:
    response = {"id": "r", "status": status, "output": list(output), **more}
    return {"type": f"response.{status}", "response": response}


ROLE = chunk({"role": "assistant", "content": ""})
TEXT = {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": "yes"}}
USE = {"type": "content_block_start", "index": 1, "content_block": {"type": "tool_use", "id": "t", "name": "look"}}
HOSTED = {"type": "content_block_start", "index": 1, "content_block": {"type": "server_tool_use", "name": "web"}}
REFUSED = {"type": "message", "content": [{"type": "refusal", "refusal": "no"}]}


def ended(reason: object) -> Json:
    return {"type": "message_delta", "delta": {"stop_reason": reason}, "usage": {"output_tokens": 3}}


STREAMS: dict[str, tuple[Surface, bytes, str | None, int]] = {
    "chat": (CHAT, events(ROLE, chunk({"content": "yes"}), chunk({}, "stop")), "stop", 0),
    "chat, cut": (CHAT, events(ROLE, chunk({"content": "ye"}), chunk({}, "length")), "length", 0),
    "chat, filtered": (CHAT, events(ROLE, chunk({}, "content_filter")), "content_filter", 0),
    "chat, no word yet": (CHAT, events(ROLE, chunk({"content": "ye"})), None, 0),
    "chat, an empty word": (CHAT, events(chunk({"content": "ye"}, "")), None, 0),
    "chat, refused": (CHAT, events(ROLE, chunk({"refusal": "no"}), chunk({}, "stop")), "refusal", 0),
    "chat, a word of somebody's own": (CHAT, events(chunk({"content": "a"}, "tell the boss: 42")), "other", 0),
    "chat, two choices": (CHAT, events(chunk({}, "length"), chunk({}, "stop", 1)), "length", 0),
    "chat, two calls": (
        CHAT,
        events(
            chunk(call(0, "a", "look")),
            chunk(call(0, arguments='{"x"')),
            chunk(call(0, arguments=":1}")),
            chunk(call(1, "b", "look", "{}")),
            chunk({}, "tool_calls"),
        ),
        "tool_calls",
        2,
    ),
    "chat, calls that are all at place 0": (
        CHAT,
        events(chunk(call(0, "a", "look", "{}")), chunk(call(0, "b", "look", "{}")), chunk({}, "stop")),
        "stop",
        2,
    ),
    "chat, a new id for every piece": (
        CHAT,
        events(chunk(call(0, "a", "look")), chunk(call(0, "b", arguments="{")), chunk(call(0, "c", arguments="}"))),
        None,
        1,
    ),
    "chat, the name and the id in every piece": (
        CHAT,
        events(chunk(call(0, "a", "look", "{")), chunk(call(0, "a", "look", "}"), "tool_calls")),
        "tool_calls",
        1,
    ),
    "chat, calls of two choices": (
        CHAT,
        events(chunk(call(0, "a", "look", "{}")), chunk(call(0, "b", "look", "{}"), index=1)),
        None,
        2,
    ),
    "chat, as it once was": (
        CHAT,
        events(
            chunk({"function_call": {"name": "look", "arguments": ""}}),
            chunk({"function_call": {"arguments": "{}"}}, "function_call"),
        ),
        "tool_calls",
        1,
    ),
    "messages": (MESSAGES, events(TEXT, ended("end_turn"), named=True), "stop", 0),
    "messages, at a sequence": (MESSAGES, events(TEXT, ended("stop_sequence"), named=True), "stop", 0),
    "messages, cut": (MESSAGES, events(TEXT, ended("max_tokens"), named=True), "length", 0),
    "messages, window full": (MESSAGES, events(TEXT, ended("model_context_window_exceeded"), named=True), "length", 0),
    "messages, a call": (MESSAGES, events(TEXT, USE, ended("tool_use"), named=True), "tool_calls", 1),
    "messages, a tool of the provider": (MESSAGES, events(HOSTED, ended("pause_turn"), named=True), "pause_turn", 0),
    "messages, refused": (MESSAGES, events(TEXT, ended("refusal"), named=True), "refusal", 0),
    "messages, of next year": (MESSAGES, events(TEXT, ended("bored"), named=True), "other", 0),
    "messages, no word": (MESSAGES, events(TEXT, ended(None), named=True), None, 0),
    "responses": (RESPONSES, events(completed({"type": "message", "content": []}), named=True), "stop", 0),
    "responses, calls": (
        RESPONSES,
        events(
            item(0, "reasoning", "added"),
            item(0, "reasoning"),
            item(1, "function_call", "added", name="look"),
            item(1, "function_call", name="look"),
            item(2, "custom_tool_call", name="patch"),
            item(3, "web_search_call"),
            completed(
                *({"type": "reasoning"}, {"type": "function_call"}),
                *({"type": "custom_tool_call"}, {"type": "web_search_call"}),
            ),
            named=True,
        ),
        "tool_calls",
        2,
    ),
    "responses, a call that only the end tells": (
        RESPONSES,
        events(completed({"type": "function_call"}), named=True),
        "tool_calls",
        1,
    ),
    "responses, cut": (
        RESPONSES,
        events(completed(status="incomplete", incomplete_details={"reason": "max_output_tokens"}), named=True),
        "length",
        0,
    ),
    "responses, filtered": (
        RESPONSES,
        events(completed(status="incomplete", incomplete_details={"reason": "content_filter"}), named=True),
        "content_filter",
        0,
    ),
    "responses, failed": (RESPONSES, events(completed(status="failed"), named=True), "error", 0),
    "responses, refused": (RESPONSES, events(completed(REFUSED), named=True), "refusal", 0),
    "responses, a call broken off": (RESPONSES, events(item(0, "function_call", "added"), named=True), None, 1),
}


@pytest.mark.parametrize("size", [None, 1, 7])
@pytest.mark.parametrize("name", STREAMS)
def test_a_stream_tells_why_it_ended_and_which_tools_it_calls(name: str, size: int | None) -> None:
    surface, answer, why, tools = STREAMS[name]
    meter = read(surface, answer, size)
    assert (meter.stop, meter.tools) == (why, tools)


def chat(message: Json, finish: object, *more: Json) -> Json:
    return {"choices": [{"index": 0, "message": message, "finish_reason": finish}, *more]}


CALLED = [{"id": "a", "function": {"name": "look"}}, {"id": "b", "function": {"name": "look"}}]
WHOLE: dict[str, tuple[Surface, Json, str | None, int | None]] = {
    "chat": (CHAT, chat({"content": "yes"}, "stop"), "stop", 0),
    "chat, calls": (CHAT, chat({"tool_calls": CALLED}, "tool_calls"), "tool_calls", 2),
    "chat, calls without ids": (
        CHAT,
        chat({"tool_calls": [{"function": {"name": "look"}}, {"function": {"name": "look"}}]}, "stop"),
        "stop",
        2,
    ),
    "chat, refused": (CHAT, chat({"content": None, "refusal": "no"}, "stop"), "refusal", 0),
    "completions": (Surface.COMPLETIONS, {"choices": [{"text": "a", "finish_reason": "length"}]}, "length", 0),
    "messages": (MESSAGES, {"content": [{"type": "text", "text": "a"}], "stop_reason": "end_turn"}, "stop", 0),
    "messages, calls": (
        MESSAGES,
        {"content": [{"type": "tool_use", "name": "look"}] * 2, "stop_reason": "tool_use"},
        "tool_calls",
        2,
    ),
    "responses": (RESPONSES, completed({"type": "message"})["response"], "stop", 0),
    "responses, calls": (RESPONSES, completed({"type": "function_call"})["response"], "tool_calls", 1),
    "responses, in the background": (RESPONSES, completed(status="queued")["response"], None, 0),
    "responses, cancelled": (RESPONSES, completed(status="cancelled")["response"], "cancelled", 0),
    "responses, cut for no reason": (RESPONSES, completed(status="incomplete")["response"], "other", 0),
    "embeddings": (Surface.EMBEDDINGS, {"data": [], "usage": {"prompt_tokens": 1}}, None, None),
    "a stored response": (Surface.RESPONSE_ITEM, completed({"type": "message"})["response"], None, None),
}


@pytest.mark.parametrize("size", [None, 1, 7])
@pytest.mark.parametrize("name", WHOLE)
def test_a_whole_answer_tells_it_too(name: str, size: int | None) -> None:
    surface, answer, why, tools = WHOLE[name]
    meter = read(surface, orjson.dumps(answer), size)
    assert (meter.stop, meter.tools) == (why, tools)


FIRST: dict[str, tuple[Surface, list[Json], int]] = {
    "chat: its role is none": (CHAT, [ROLE, {"choices": []}, chunk({"content": "yes"})], 2),
    "chat: reasoning": (CHAT, [ROLE, chunk({"reasoning_content": "hm"}), chunk({"content": "yes"})], 1),
    "chat: a call": (CHAT, [ROLE, chunk(call(0, "a", "look"))], 1),
    "chat: sound": (CHAT, [ROLE, chunk({"audio": {"data": "AAAA"}})], 1),
    "messages: thinking": (
        MESSAGES,
        [
            {"type": "message_start", "message": {"usage": {"input_tokens": 3}}},
            {"type": "content_block_start", "index": 0, "content_block": {"type": "thinking", "thinking": ""}},
            {"type": "ping"},
            {"type": "content_block_delta", "index": 0, "delta": {"type": "thinking_delta", "thinking": "hm"}},
        ],
        3,
    ),
    "messages: a call": (MESSAGES, [{"type": "ping"}, USE], 1),
    "responses: text": (
        RESPONSES,
        [
            {"type": "response.created", "response": {"id": "r", "instructions": "be brief", "output": []}},
            item(0, "message", "added", content=[], status="in_progress", role="assistant"),
            {"type": "response.output_text.delta", "output_index": 0, "delta": "yes"},
        ],
        2,
    ),
    "responses: a call": (RESPONSES, [item(0, "function_call", "added", name="look")], 0),
}


@pytest.mark.parametrize("name", FIRST)
def test_the_first_output_is_text_reasoning_sound_or_a_call(name: str) -> None:
    surface, told, first = FIRST[name]
    meter = registry.meter(surface, hide_usage=False)
    spoken = []
    for one in told:
        meter.event(events(one))
        spoken.append(meter.spoken)
    assert spoken == [False] * first + [True] * (len(told) - first)


@given(st.text(max_size=20) | st.sampled_from(["stop", "safety"]) | st.none() | st.integers() | st.lists(st.text()))
def test_no_word_of_a_provider_is_passed_on(said: object) -> None:
    assert stop(said) in (*STOPS, None)
    assert response_stop({"status": said, "incomplete_details": {"reason": said}}, 1, True) in (*STOPS, None)
    assert response_stop({"status": "incomplete", "incomplete_details": said}, 0, False) in STOPS
