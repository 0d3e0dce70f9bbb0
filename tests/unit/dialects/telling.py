"""Streams of every surface that tell given texts in given pieces, and what a client makes of a stream."""

import json
from collections import defaultdict
from collections.abc import Callable, Hashable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import count
from typing import Any

import orjson

from extproc.dialects import sse
from extproc.surfaces import Surface

Json = dict[str, Any]
Told = dict[Hashable, str]
Piece = tuple[int, str]
"""The text that it continues, by its place among those of a stream, and what it says."""


def unnamed(value: Json) -> bytes:
    return b"data: " + json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode() + b"\n\n"


def named(value: Json) -> bytes:
    return f"event: {value['type']}\n".encode() + unnamed(value)


def parsed(stream: bytes) -> list[Json]:
    """The events that are JSON; a last one may be cut off."""
    reader = sse.EventReader()
    data = [sse.data(raw) for raw in reader.feed(stream)]
    events = [orjson.loads(one) for one in data if one and one != b"[DONE]"]
    with suppress(ValueError):
        events.append(orjson.loads(sse.data(reader.rest())))
    return [event for event in events if isinstance(event, dict)]


@dataclass(frozen=True)
class Telling:
    """`made` gives the events of a stream of so many texts; `told` the texts of one; `json`: which of them are JSON."""

    name: str
    surface: Surface
    made: Callable[[int, Sequence[Piece]], list[bytes]]
    told: Callable[[bytes], Told]
    json: bool = False


# ---- chat completions and completions ---------------------------------------------------------------

CHUNK = {"id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 5, "model": "gpt-4o", "usage": None}


def chunk(index: int, delta: Json, finish: str | None = None) -> Json:
    return CHUNK | {"choices": [{"index": index, "delta": delta, "logprobs": None, "finish_reason": finish}]}


DONE = b"data: [DONE]\n\n"


def _chat(field: str) -> Callable[[int, Sequence[Piece]], list[bytes]]:
    def made(texts: int, pieces: Sequence[Piece]) -> list[bytes]:
        events = [chunk(at, {"role": "assistant", "content": ""}) for at in range(texts)]
        events += [chunk(at, {field: text}) for at, text in pieces]
        events += [chunk(at, {}, "stop") for at in range(texts)]
        return [*map(unnamed, events), DONE]

    return made


def _tools(texts: int, pieces: Sequence[Piece]) -> list[bytes]:
    events = [chunk(0, {"role": "assistant", "content": None})]
    for at in range(texts):
        call = {"index": at, "id": f"call_{at}", "type": "function", "function": {"name": "f", "arguments": ""}}
        events.append(chunk(0, {"tool_calls": [call]}))
    events += [chunk(0, {"tool_calls": [{"index": at, "function": {"arguments": text}}]}) for at, text in pieces]
    return [*map(unnamed, events), unnamed(chunk(0, {}, "tool_calls")), DONE]


def _completions(texts: int, pieces: Sequence[Piece]) -> list[bytes]:
    choices = [{"text": text, "index": at, "logprobs": None, "finish_reason": None} for at, text in pieces]
    choices += [{"text": "", "index": at, "logprobs": None, "finish_reason": "length"} for at in range(texts)]
    return [*[unnamed(CHUNK | {"object": "text_completion", "choices": [choice]}) for choice in choices], DONE]


def _chat_told(stream: bytes) -> Told:
    told: Told = defaultdict(str)
    over = set()
    for event in parsed(stream):
        for choice in event["choices"]:
            index, delta = choice["index"], choice.get("delta", {})
            assert index not in over, "something is told of a choice that has ended"
            for field in ("content", "reasoning_content", "refusal"):
                told[index, field] += delta.get(field) or ""
            told[index, "text"] += choice.get("text") or ""
            for call in delta.get("tool_calls", ()):
                told[index, call["index"]] += call["function"]["arguments"]
            if choice["finish_reason"] is not None:
                over.add(index)
    return {key: text for key, text in told.items() if text}


# ---- Responses --------------------------------------------------------------------------------------


def _responses(texts: int, pieces: Sequence[Piece]) -> list[bytes]:
    """Items of one part each, and all that is told of them again."""
    wholes = _joined(texts, pieces)
    items = [_message(at, whole) for at, whole in enumerate(wholes)]
    events = [_response("created", [])]
    for at in range(texts):
        events.append({"type": "response.output_item.added", "output_index": at, "item": _message(at, None)})
        part: Json = {"type": "output_text", "text": "", "annotations": [], "logprobs": []}
        events.append({"type": "response.content_part.added", **_place(at), "part": part})
    events += [
        {"type": "response.output_text.delta", **_place(at), "delta": text, "logprobs": []} for at, text in pieces
    ]
    for at, whole in enumerate(wholes):
        events.append({"type": "response.output_text.done", **_place(at), "text": whole, "logprobs": []})
        events.append({"type": "response.content_part.done", **_place(at), "part": items[at]["content"][0]})
        events.append({"type": "response.output_item.done", "output_index": at, "item": items[at]})
    return _numbered([*events, _response("completed", items)])


def _joined(texts: int, pieces: Sequence[Piece]) -> list[str]:
    return ["".join(text for place, text in pieces if place == at) for at in range(texts)]


def _place(at: int) -> Json:
    return {"item_id": f"msg_{at}", "output_index": at, "content_index": 0}


def _message(at: int, text: str | None) -> Json:
    part: Json = {"type": "output_text", "text": text, "annotations": [], "logprobs": []}
    status = "in_progress" if text is None else "completed"
    content = [] if text is None else [part]
    return {"type": "message", "id": f"msg_{at}", "role": "assistant", "status": status, "content": content}


def _response(step: str, output: list[Json]) -> Json:
    base = {"id": "resp_1", "object": "response", "created_at": 5, "model": "gpt-4o", "status": "completed"}
    rest = {"parallel_tool_calls": True, "tool_choice": "auto", "tools": []}
    return {"type": f"response.{step}", "response": base | {"output": output} | rest}


def _numbered(events: Iterable[Json]) -> list[bytes]:
    return [named(event | {"sequence_number": number}) for number, event in zip(count(), events, strict=False)]


def _responses_tools(texts: int, pieces: Sequence[Piece]) -> list[bytes]:
    items = [_function_call(at, whole, "completed") for at, whole in enumerate(_joined(texts, pieces))]
    events = [_response("created", [])]
    for at in range(texts):
        item = _function_call(at, "", "in_progress")
        events.append({"type": "response.output_item.added", "output_index": at, "item": item})
    kind = "response.function_call_arguments"
    events += [
        {"type": f"{kind}.delta", "item_id": f"fc_{at}", "output_index": at, "delta": text} for at, text in pieces
    ]
    for at, item in enumerate(items):
        whole = {"item_id": f"fc_{at}", "output_index": at, "name": "f", "arguments": item["arguments"]}
        events.append({"type": f"{kind}.done", **whole})
        events.append({"type": "response.output_item.done", "output_index": at, "item": item})
    return _numbered([*events, _response("completed", items)])


def _function_call(at: int, arguments: str, status: str) -> Json:
    call = {"type": "function_call", "id": f"fc_{at}", "call_id": f"call_{at}", "name": "f"}
    return call | {"arguments": arguments, "status": status}


def _responses_told(stream: bytes) -> Told:
    told: Told = defaultdict(str)
    last = -1
    done: dict[int, str] = {}
    for event in parsed(stream):
        assert event["sequence_number"] == last + 1, "the numbers have gaps"
        last = event["sequence_number"]
        kind = event["type"]
        if kind.endswith(".delta"):
            assert event["output_index"] not in done, "something is told of a text that has ended"
            told[event["output_index"]] += event["delta"]
        elif kind.endswith((".output_text.done", ".function_call_arguments.done")):
            done[event["output_index"]] = _said(event)
            assert told[event["output_index"]] == _said(event)
        elif kind == "response.output_item.done":
            assert told[event["output_index"]] == _said(event["item"])
        elif kind == "response.completed":
            assert [_said(item) for item in event["response"]["output"]] == list(done.values())
    return {key: text for key, text in told.items() if text}


def _said(thing: Json) -> str:
    content = thing.get("content")
    return str(content[0]["text"] if content else thing.get("arguments", thing.get("text")))


# ---- Anthropic's messages ---------------------------------------------------------------------------

MESSAGE: Json = {
    "id": "msg_1",
    "type": "message",
    "role": "assistant",
    "content": [],
    "model": "claude",
    "stop_reason": None,
}


def _blocks(block: Json, kind: str, field: str) -> Callable[[int, Sequence[Piece]], list[bytes]]:
    def made(texts: int, pieces: Sequence[Piece]) -> list[bytes]:
        usage = {"input_tokens": 3, "output_tokens": 1}
        events: list[Json] = [{"type": "message_start", "message": MESSAGE | {"usage": usage}}, {"type": "ping"}]
        events += [{"type": "content_block_start", "index": at, "content_block": block} for at in range(texts)]
        events += [
            {"type": "content_block_delta", "index": at, "delta": {"type": kind, field: text}} for at, text in pieces
        ]
        events += [{"type": "content_block_stop", "index": at} for at in range(texts)]
        delta = {"stop_reason": "end_turn", "stop_sequence": None}
        events.append({"type": "message_delta", "delta": delta, "usage": {"output_tokens": 9}})
        return [*map(named, events), named({"type": "message_stop"})]

    return made


def _messages_told(stream: bytes) -> Told:
    told: Told = defaultdict(str)
    over = set()
    for event in parsed(stream):
        if event["type"] == "content_block_delta":
            assert event["index"] not in over, "something is told of a block that has ended"
            delta = event["delta"]
            told[event["index"]] += delta.get("text", "") + delta.get("partial_json", "") + delta.get("thinking", "")
        elif event["type"] == "content_block_stop":
            over.add(event["index"])
    return {key: text for key, text in told.items() if text}


# ---- transcripts ------------------------------------------------------------------------------------


def _transcripts(texts: int, pieces: Sequence[Piece]) -> list[bytes]:
    events: list[Json] = [{"type": "transcript.text.delta", "delta": text} for at, text in pieces if not at]
    whole = _joined(texts, pieces)[0]
    return [*map(unnamed, events), unnamed({"type": "transcript.text.done", "text": whole})]


def _transcripts_told(stream: bytes) -> Told:
    *deltas, done = parsed(stream)
    text = "".join(event["delta"] for event in deltas)
    assert done["text"] == text
    return {0: text} if text else {}


_TEXT = {"type": "text", "text": ""}
_THINKING = {"type": "thinking", "thinking": "", "signature": ""}
_TOOL = {"type": "tool_use", "id": "toolu_1", "name": "f", "input": {}}
TELLINGS = [
    Telling("chat", Surface.CHAT, _chat("content"), _chat_told),
    Telling("chat, reasoning", Surface.CHAT, _chat("reasoning_content"), _chat_told),
    Telling("chat, refusal", Surface.CHAT, _chat("refusal"), _chat_told),
    Telling("chat, tools", Surface.CHAT, _tools, _chat_told, json=True),
    Telling("completions", Surface.COMPLETIONS, _completions, _chat_told),
    Telling("responses", Surface.RESPONSES, _responses, _responses_told),
    Telling("responses, tools", Surface.RESPONSES, _responses_tools, _responses_told, json=True),
    Telling("messages", Surface.MESSAGES, _blocks(_TEXT, "text_delta", "text"), _messages_told),
    Telling("messages, thinking", Surface.MESSAGES, _blocks(_THINKING, "thinking_delta", "thinking"), _messages_told),
    Telling(
        "messages, tools",
        Surface.MESSAGES,
        _blocks(_TOOL, "input_json_delta", "partial_json"),
        _messages_told,
        json=True,
    ),
    Telling("transcripts", Surface.TRANSCRIPTIONS, _transcripts, _transcripts_told),
]
