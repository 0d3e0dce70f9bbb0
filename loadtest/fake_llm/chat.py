"""Chat completions, of OpenAI and of Azure."""

from collections.abc import Iterator, Sequence
from typing import Any

import orjson

from loadtest.fake_llm import content, tokenizer, turn
from loadtest.fake_llm.answer import CREATED, EVENT_STREAM, Answer, Event, Json
from loadtest.fake_llm.errors import ApiError, Face
from loadtest.fake_llm.inquiry import Inquiry
from loadtest.fake_llm.turn import Ask, Counts, ToolCall, Turn

DONE = Event(b"[DONE]")

_SAFE: Json = {name: {"filtered": False, "severity": "safe"} for name in ("hate", "self_harm", "sexual", "violence")}
_PROMPT_FILTER = [{"prompt_index": 0, "content_filter_results": _SAFE}]


def answer(inquiry: Inquiry) -> Answer:
    """Answer a chat completion. Raises ApiError as the provider would refuse it."""
    model, messages = inquiry.model, _messages(inquiry)
    ask = _ask(inquiry.body, messages)
    turns = [turn.compose(ask, inquiry.faults, index) for index in range(inquiry.body.get("n") or 1)]
    counts = turn.count(ask, turns, inquiry.faults)
    if inquiry.body.get("stream"):
        events = _Stream(inquiry, model, turns, counts).events()
        return Answer(content_type=EVENT_STREAM, events=events, input_tokens=counts.input, classes=counts.classes)
    whole = _envelope(inquiry, model, "chat.completion") | {
        "choices": [_choice(inquiry, said, index) for index, said in enumerate(turns)]
    }
    if inquiry.face is Face.AZURE:
        whole["prompt_filter_results"] = _PROMPT_FILTER
    for reported in turn.reported(usage(counts), inquiry.faults):
        whole["usage"] = reported
    return Answer(
        body=orjson.dumps(whole), input_tokens=counts.input, output_tokens=counts.output, classes=counts.classes
    )


def usage(counts: Counts) -> Json:
    """The usage object of chat and text completions."""
    return {
        "prompt_tokens": counts.input,
        "completion_tokens": counts.output,
        "total_tokens": counts.input + counts.output,
        "prompt_tokens_details": {
            "cached_tokens": counts.cached,
            "audio_tokens": counts.audio_input,
            **({"cache_write_tokens": counts.cache_write} if counts.cache_write else {}),
        },
        "completion_tokens_details": {
            "reasoning_tokens": counts.reasoning,
            "audio_tokens": counts.audio_output,
            "accepted_prediction_tokens": 0,
            "rejected_prediction_tokens": 0,
        },
    }


def _messages(inquiry: Inquiry) -> list[Json]:
    messages = inquiry.need("messages")
    if not isinstance(messages, list) or not all(isinstance(message, dict) for message in messages):
        raise ApiError(400, "Invalid type for 'messages'.", param="messages", code="invalid_type")
    if not messages:
        raise ApiError(400, "Invalid 'messages': empty array.", param="messages", code="empty_array")
    return messages


def _ask(body: Json, messages: list[Json]) -> Ask:
    read = sum(content.count(message.get("content")) for message in messages)
    called = sum(content.count_json(message.get("tool_calls")) for message in messages)
    users = [message for message in messages if message.get("role") == "user"]
    return Ask(
        last_text=content.text_of(users[-1].get("content")) if users else "",
        input_tokens=read + called + content.count_json(body.get("tools")),
        limit=body.get("max_completion_tokens") or body.get("max_tokens"),
        tools=_tools_to_call(body, messages[-1].get("role") == "tool"),
        schema=_schema(body.get("response_format")),
    )


def _tools_to_call(body: Json, answered: bool) -> tuple[ToolCall, ...]:
    """Every declared function once (the first alone without parallel calls), until a tool has answered."""
    choice = body.get("tool_choice")
    functions = [tool["function"] for tool in body.get("tools") or () if tool.get("type") == "function"]
    if isinstance(choice, dict) and "function" in choice:
        functions = [function for function in functions if function["name"] == choice["function"]["name"]]
    if choice == "none" or (answered and choice in (None, "auto")):
        return ()
    if body.get("parallel_tool_calls") is False:
        functions = functions[:1]
    return tuple(turn.tool_call(function["name"], function.get("parameters")) for function in functions)


def _schema(response_format: Any) -> Json | None:
    match response_format:
        case {"type": "json_schema", "json_schema": {"schema": dict(schema)}}:
            return schema
        case {"type": "json_object"}:
            return {}
        case _:
            return None


def _envelope(inquiry: Inquiry, model: str, kind: str) -> Json:
    return {
        "id": inquiry.id("chatcmpl-"),
        "object": kind,
        "created": CREATED,
        "model": model,
        "service_tier": inquiry.faults.served_tier or "default",
        "system_fingerprint": "fp_fake",
    }


def _choice(inquiry: Inquiry, said: Turn, index: int) -> Json:
    message: Json = {
        "role": "assistant",
        "content": None if said.calls or said.refuses else said.text,
        "refusal": said.text if said.refuses else None,
        "annotations": [],
    }
    if said.calls:
        message["tool_calls"] = [_call(inquiry, call, index, place) for place, call in enumerate(said.calls)]
    choice: Json = {
        "index": index,
        "message": message,
        "logprobs": _logprobs(inquiry.body, said.pieces, said.refuses),
        "finish_reason": _finish(said),
    }
    return choice | {"content_filter_results": _SAFE} if inquiry.face is Face.AZURE else choice


def _call(inquiry: Inquiry, call: ToolCall, index: int, place: int) -> Json:
    function = {"name": call.name, "arguments": call.arguments}
    return {"id": _call_id(inquiry, index, place), "type": "function", "function": function}


def _call_id(inquiry: Inquiry, index: int, place: int) -> str:
    return inquiry.id("call_", index * 100 + place)


def _finish(said: Turn) -> str:
    return "tool_calls" if said.calls else "length" if said.cut else "stop"


def _logprobs(body: Json, pieces: Sequence[str], refuses: bool) -> Json | None:
    if not body.get("logprobs"):
        return None
    listed = [_logprob(piece) | {"top_logprobs": [_logprob(piece)][: body.get("top_logprobs", 0)]} for piece in pieces]
    return {"content": None if refuses else listed, "refusal": listed if refuses else None}


def _logprob(piece: str) -> Json:
    return {"token": piece, "logprob": -0.25, "bytes": list(piece.encode())}


class _Stream:
    """The events of a streamed completion: roles, then the choices' tokens in turn, the ends, the usage."""

    def __init__(self, inquiry: Inquiry, model: str, turns: Sequence[Turn], counts: Counts) -> None:
        self._inquiry, self._turns, self._counts = inquiry, turns, counts
        self._wants_usage = bool((inquiry.body.get("stream_options") or {}).get("include_usage"))
        envelope = _envelope(inquiry, model, "chat.completion.chunk")
        # Only the choice differs from chunk to chunk; the rest is rendered once, for speed.
        self._before = orjson.dumps(envelope)[:-1] + b',"choices":'
        self._after = b',"usage":null}' if self._wants_usage else b"}"
        self._extra: Json = {"content_filter_results": _SAFE} if inquiry.face is Face.AZURE else {}

    def events(self) -> Iterator[Event]:
        if self._inquiry.face is Face.AZURE:
            yield Event(_AZURE_FIRST)
        reasoning = self._inquiry.faults.reasoning_tokens
        for index, said in enumerate(self._turns):
            yield self._chunk(index, {"role": "assistant", **_opening(said)}, reasoning)
            reasoning = 0
        yield from self._interleaved()
        for index, said in enumerate(self._turns):
            yield self._chunk(index, {}, finish=_finish(said))
        if self._wants_usage:
            yield from self._usage()
        if self._inquiry.faults.done:
            yield DONE

    def _interleaved(self) -> Iterator[Event]:
        running = [self._said(index, said) for index, said in enumerate(self._turns)]
        while running:
            for speaker in list(running):
                event = next(speaker, None)
                if event is None:
                    running.remove(speaker)
                else:
                    yield event

    def _said(self, index: int, said: Turn) -> Iterator[Event]:
        field = "refusal" if said.refuses else "content"
        for piece in said.pieces:
            yield self._chunk(index, {field: piece}, 1, _logprobs(self._inquiry.body, (piece,), said.refuses))
        for place, call in enumerate(said.calls):
            yield from self._called(index, place, call)

    def _called(self, index: int, place: int, call: ToolCall) -> Iterator[Event]:
        opening = _call(self._inquiry, ToolCall(call.name, ""), index, place)
        yield self._chunk(index, {"tool_calls": [{"index": place, **opening}]}, tokenizer.count(call.name))
        for piece in tokenizer.split(call.arguments):
            yield self._chunk(index, {"tool_calls": [{"index": place, "function": {"arguments": piece}}]}, 1)

    def _chunk(
        self,
        index: int,
        delta: Json,
        tokens: int = 0,
        logprobs: Json | None = None,
        finish: str | None = None,
    ) -> Event:
        choice = {
            "index": index,
            "delta": delta,
            "logprobs": logprobs,
            "finish_reason": finish,
            **self._extra,
        }
        return Event(self._before + orjson.dumps([choice]) + self._after, tokens)

    def _usage(self) -> Iterator[Event]:
        for reported in turn.reported(usage(self._counts), self._inquiry.faults):
            yield Event(self._before + b'[],"usage":' + orjson.dumps(reported) + b"}")


_AZURE_FIRST = orjson.dumps(
    {
        "choices": [],
        "created": 0,
        "id": "",
        "model": "",
        "object": "",
        "prompt_filter_results": _PROMPT_FILTER,
    }
)


def _opening(said: Turn) -> Json:
    silent = bool(said.calls) or said.refuses
    return {"content": None if silent else "", "refusal": None}
