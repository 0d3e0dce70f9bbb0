"""Anthropic's Messages API."""

from collections.abc import Iterator
from typing import Any

import orjson

from loadtest.fake_llm import content, tokenizer, turn
from loadtest.fake_llm.answer import EVENT_STREAM, Answer, Event, Json, event
from loadtest.fake_llm.errors import ApiError
from loadtest.fake_llm.inquiry import Inquiry
from loadtest.fake_llm.turn import Ask, Counts, ToolCall, Turn

_THOUGHT = tuple(tokenizer.split("The user said something, so I repeat it."))
_SIGNATURE = "ZmFrZSBzaWduYXR1cmU="
_OVERLOADED = event({"type": "error", "error": {"type": "overloaded_error", "message": "Overloaded"}}, named=True)


def answer(inquiry: Inquiry) -> Answer:
    """Answer a message. Raises ApiError as the provider would refuse it."""
    ask = _ask(inquiry)
    _needs(inquiry, "max_tokens")
    said = turn.compose(ask, inquiry.faults)
    thought = _THOUGHT if _thinks(inquiry.body) else ()
    counts = turn.count(ask, [said], inquiry.faults, len(thought))
    message = _Message(inquiry, inquiry.model, said, thought, counts)
    if inquiry.body.get("stream"):
        return Answer(
            content_type=EVENT_STREAM,
            events=message.events(),
            input_tokens=counts.input,
            classes=counts.classes,
            error_event=_OVERLOADED,
        )
    return Answer(
        body=orjson.dumps(message.whole()),
        input_tokens=counts.input,
        output_tokens=counts.output,
        classes=counts.classes,
    )


def count_tokens(inquiry: Inquiry) -> Answer:
    """Answer how many tokens a message would have, without generating anything."""
    return Answer(body=orjson.dumps({"input_tokens": turn.scaled(_ask(inquiry).input_tokens, inquiry.faults)}))


def _needs(inquiry: Inquiry, name: str) -> Any:
    if inquiry.body.get(name) is None:
        raise ApiError(400, f"{name}: Field required")
    return inquiry.body[name]


def _ask(inquiry: Inquiry) -> Ask:
    if "anthropic-version" not in inquiry.headers:
        raise ApiError(400, "anthropic-version: header is required")
    body = inquiry.body
    _needs(inquiry, "model")
    messages = _needs(inquiry, "messages")
    if not isinstance(messages, list) or not messages or not all(isinstance(one, dict) for one in messages):
        raise ApiError(400, "messages: at least one message is required")
    users = [one for one in messages if one.get("role") == "user"]
    read = sum(content.count(one.get("content")) for one in messages) + content.count(body.get("system"))
    return Ask(
        last_text=content.text_of(users[-1].get("content")) if users else "",
        input_tokens=read + content.count_json(body.get("tools")),
        limit=body.get("max_tokens"),
        tools=_tools_to_call(body, _has_result(messages[-1])),
    )


def _has_result(message: Json) -> bool:
    parts = message.get("content")
    return isinstance(parts, list) and any(part.get("type") == "tool_result" for part in parts)


def _tools_to_call(body: Json, answered: bool) -> tuple[ToolCall, ...]:
    choice = body.get("tool_choice") or {"type": "auto"}
    tools = [tool for tool in body.get("tools") or () if "input_schema" in tool]
    if choice["type"] == "tool":
        tools = [tool for tool in tools if tool["name"] == choice["name"]]
    if choice["type"] == "none" or (answered and choice["type"] == "auto"):
        return ()
    if choice.get("disable_parallel_tool_use"):
        tools = tools[:1]
    return tuple(turn.tool_call(tool["name"], tool["input_schema"]) for tool in tools)


def _thinks(body: Json) -> bool:
    return (body.get("thinking") or {}).get("type") in ("enabled", "adaptive")


def _stop_reason(said: Turn) -> str:
    if said.refuses:
        return "refusal"
    return "tool_use" if said.calls else "max_tokens" if said.cut else "end_turn"


class _Message:
    """One message: its content blocks, whole or as events."""

    def __init__(self, inquiry: Inquiry, model: str, said: Turn, thought: tuple[str, ...], counts: Counts) -> None:
        self._inquiry, self._model, self._said = inquiry, model, said
        self._thought, self._counts = thought, counts

    def whole(self) -> Json:
        """The message as one JSON object."""
        blocks: list[Json] = []
        if self._thought:
            blocks.append({"type": "thinking", "thinking": "".join(self._thought), "signature": _SIGNATURE})
        for place, call in enumerate(self._said.calls):
            blocks.append(self._tool_use(place, orjson.loads(call.arguments)))
        if not self._said.calls:
            blocks.append({"type": "text", "text": self._said.text})
        whole = self._envelope(blocks) | {"stop_reason": _stop_reason(self._said)}
        for reported in turn.reported(self._usage(self._counts.output), self._inquiry.faults):
            whole["usage"] = reported
        return whole

    def events(self) -> Iterator[Event]:
        """The message as the events of its stream."""
        opening = self._envelope([])
        if self._inquiry.faults.usage != "none":
            opening["usage"] = self._usage(1)
        yield event({"type": "message_start", "message": opening}, self._inquiry.faults.reasoning_tokens, named=True)
        yield from self._blocks()
        yield from self._end()
        if self._inquiry.faults.done:
            yield event({"type": "message_stop"}, named=True)

    def _envelope(self, blocks: list[Json]) -> Json:
        return {
            "id": self._inquiry.id("msg_"),
            "type": "message",
            "role": "assistant",
            "model": self._model,
            "content": blocks,
            "stop_reason": None,
            "stop_sequence": None,
        }

    def _usage(self, output: int) -> Json:
        thought = min(self._counts.reasoning, output)
        return {
            "input_tokens": self._counts.input - self._counts.cached - self._counts.cache_write,
            "cache_creation_input_tokens": self._counts.cache_write,
            "cache_read_input_tokens": self._counts.cached,
            "output_tokens": output,
            **({"output_tokens_details": {"thinking_tokens": thought}} if thought else {}),
            **self._cache_creation(),
            "service_tier": self._inquiry.faults.served_tier or "standard",
        }

    def _cache_creation(self) -> Json:
        hour = self._inquiry.faults.cache_write_1h_tokens
        if not hour:
            return {}
        rest = self._counts.cache_write - hour
        return {"cache_creation": {"ephemeral_5m_input_tokens": rest, "ephemeral_1h_input_tokens": hour}}

    def _tool_use(self, place: int, arguments: Json) -> Json:
        identity, name = self._inquiry.id("toolu_", place), self._said.calls[place].name
        return {"type": "tool_use", "id": identity, "name": name, "input": arguments}

    def _blocks(self) -> Iterator[Event]:
        index = 0
        if self._thought:
            yield from self._block(index, {"type": "thinking", "thinking": "", "signature": ""}, self._thinking())
            index += 1
        for place, call in enumerate(self._said.calls):
            yield from self._block(index + place, self._tool_use(place, {}), _arguments(call))
        if not self._said.calls:
            deltas = ({"type": "text_delta", "text": piece} for piece in self._said.pieces)
            yield from self._block(index, {"type": "text", "text": ""}, deltas)

    def _thinking(self) -> Iterator[Json]:
        for piece in self._thought:
            yield {"type": "thinking_delta", "thinking": piece}
        yield {"type": "signature_delta", "signature": _SIGNATURE}

    def _block(self, index: int, opening: Json, deltas: Iterator[Json]) -> Iterator[Event]:
        name_tokens = tokenizer.count(opening.get("name", ""))
        start = {"type": "content_block_start", "index": index, "content_block": opening}
        yield event(start, name_tokens, named=True)
        if index == 0:
            yield event({"type": "ping"}, named=True)
        for delta in deltas:
            payload = {"type": "content_block_delta", "index": index, "delta": delta}
            yield event(payload, 0 if delta["type"] == "signature_delta" else 1, named=True)
        yield event({"type": "content_block_stop", "index": index}, named=True)

    def _end(self) -> Iterator[Event]:
        end: Json = {
            "type": "message_delta",
            "delta": {"stop_reason": _stop_reason(self._said), "stop_sequence": None},
        }
        figures = turn.reported(self._usage(self._counts.output), self._inquiry.faults)
        for reported in figures:
            yield event(end | {"usage": reported}, named=True)
        if not figures:
            yield event(end, named=True)


def _arguments(call: ToolCall) -> Iterator[Json]:
    for piece in tokenizer.split(call.arguments):
        yield {"type": "input_json_delta", "partial_json": piece}
