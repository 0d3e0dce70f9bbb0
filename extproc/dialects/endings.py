"""How a stream of each surface ends before the provider ends it: as if the cap on its output had been reached, or as
if the provider's own filter had ended it.

An ending follows the events that the client has seen, and closes what they left open: choices, blocks, items. It
never raises on what a backend sent. Arguments of tool calls are cut where they are, as providers cut them.
"""

from collections.abc import Iterator, Mapping, Sequence
from enum import Enum, auto
from typing import Protocol

import orjson

from extproc.model import Usage

Object = Mapping[str, object]


class Reason(Enum):
    """Why a stream ends early."""

    LENGTH = auto()
    CONTENT = auto()  # something was said that must not be


class Ending(Protocol):
    """Follows one stream."""

    def follow(self, event: Object) -> None:
        """Take note of an event that the client sees."""

    def close(self, usage: Usage, tells_usage: bool, blocked: Object | None, reason: Reason = Reason.LENGTH) -> bytes:
        """The events that finish the answer; empty where nothing has begun. `blocked`: the first event withheld."""


def objects(value: object) -> Sequence[dict[str, object]]:
    """The objects of a list; nothing where there is none."""
    return [item for item in value if isinstance(item, dict)] if isinstance(value, list) else ()


def _named(kind: str, event: Object) -> bytes:
    return b"event: %s\ndata: %s\n\n" % (kind.encode(), orjson.dumps(event))


# ---- chat completions and completions ---------------------------------------------------------------

_KEPT = ("id", "object", "created", "model", "system_fingerprint", "service_tier")
_DONE = b"data: [DONE]\n\n"
_FINISHES = {Reason.LENGTH: "length", Reason.CONTENT: "content_filter"}


class ChatEnding:
    """A last chunk for every open choice, the usage where the client asked for it, and the mark of the end."""

    __slots__ = ("_last", "_open")

    def __init__(self) -> None:
        self._last: Object | None = None  # with choices: Azure's first chunk has none, and no id
        self._open: dict[int, bool] = {}

    def follow(self, event: Object) -> None:
        for choice in objects(event.get("choices")):
            self._last = event
            index = choice.get("index")
            if isinstance(index, int):
                self._open[index] = self._open.get(index, True) and choice.get("finish_reason") is None

    def close(self, usage: Usage, tells_usage: bool, blocked: Object | None, reason: Reason = Reason.LENGTH) -> bytes:
        like = self._last or blocked
        if like is None:
            return _DONE
        base = {name: like[name] for name in _KEPT if name in like}
        silent = {"usage": None} if tells_usage else {}
        chunks = [{**base, "choices": [choice], **silent} for choice in self._last_choices(like, _FINISHES[reason])]
        if tells_usage:
            chunks.append({**base, "choices": [], "usage": _chat_usage(usage)})
        return b"".join([b"data: %s\n\n" % orjson.dumps(chunk) for chunk in chunks]) + _DONE

    def _last_choices(self, like: Object, finish: str) -> Iterator[dict[str, object]]:
        """One chunk each: many clients look at the first choice of a chunk alone."""
        is_text = any("text" in choice for choice in objects(like.get("choices")))
        said: dict[str, object] = {"text": ""} if is_text else {"delta": {}}
        if not self._open:  # nothing has passed: the answer is empty
            self._open[0] = True
            said = said if is_text else {"delta": {"role": "assistant", "content": ""}}
        for index in sorted(index for index, is_open in self._open.items() if is_open):
            yield {"index": index, **said, "logprobs": None, "finish_reason": finish}


def _chat_usage(usage: Usage) -> dict[str, object]:
    return {
        "prompt_tokens": usage.input,
        "completion_tokens": usage.output,
        "total_tokens": usage.input + usage.output,
    }


# ---- Anthropic's messages ---------------------------------------------------------------------------


_STOPS = {Reason.LENGTH: "max_tokens", Reason.CONTENT: "refusal"}


class AnthropicEnding:
    """A stop for every open block, the reason, and the stop of the message."""

    __slots__ = ("_begun", "_open", "_reasoned")

    def __init__(self) -> None:
        self._begun = False
        self._reasoned = False  # the provider has said why it stopped
        self._open: dict[int, None] = {}

    def follow(self, event: Object) -> None:
        kind, index = event.get("type"), event.get("index")
        if kind == "message_start":
            self._begun = True
        elif kind == "content_block_start" and isinstance(index, int):
            self._open[index] = None
        elif kind == "content_block_stop" and isinstance(index, int):
            self._open.pop(index, None)
        elif kind == "message_delta" and isinstance(delta := event.get("delta"), dict):
            self._reasoned = self._reasoned or isinstance(delta.get("stop_reason"), str)

    def close(
        self,
        usage: Usage,
        tells_usage: bool,  # noqa: ARG002 - a message always tells it
        blocked: Object | None,  # noqa: ARG002
        reason: Reason = Reason.LENGTH,
    ) -> bytes:
        if not self._begun:
            return b""
        events: list[dict[str, object]] = [{"type": "content_block_stop", "index": index} for index in self._open]
        if not self._reasoned:
            stop = {"stop_reason": _STOPS[reason], "stop_sequence": None}
            events.append({"type": "message_delta", "delta": stop, "usage": {"output_tokens": usage.output}})
        events.append({"type": "message_stop"})
        return b"".join([_named(str(event["type"]), event) for event in events])


# ---- Responses --------------------------------------------------------------------------------------

# What a delta adds to: a field of the item, or of one of its parts.
_TEXTS = {
    "response.output_text": ("text", "content"),
    "response.refusal": ("refusal", "content"),
    "response.reasoning_text": ("text", "content"),
    "response.reasoning_summary_text": ("text", "summary"),
    "response.function_call_arguments": ("arguments", ""),
    "response.mcp_call_arguments": ("arguments", ""),
    "response.custom_tool_call_input": ("input", ""),
    "response.code_interpreter_call_code": ("code", ""),
}
_PARTS = {"response.content_part": "content", "response.reasoning_summary_part": "summary"}
_PART_EVENTS = {where: name for name, where in _PARTS.items()}
_INDICES = {"content": "content_index", "summary": "summary_index"}
_INCOMPLETE = {Reason.LENGTH: "max_output_tokens", Reason.CONTENT: "content_filter"}
_NO_PART = -1
_LAST_NUMBER = 2**53  # of an event; what goes on from a greater one cannot be written, or be read by all

_Place = tuple[int, str, int]  # of a part: the item's output index, content or summary, the index there


class ResponsesEnding:
    """The rest of every open part and item as far as it came, and the response, incomplete, with all of them."""

    __slots__ = ("_items", "_open", "_parts", "_response", "_sequence", "_texts")

    def __init__(self) -> None:
        self._response: Object | None = None
        self._sequence = -1
        self._items: dict[int, dict[str, object]] = {}
        self._open: dict[int, None] = {}  # items
        self._parts: dict[_Place, None] = {}  # open ones
        self._texts: dict[tuple[str, _Place], list[str]] = {}  # open ones, by the name of their events

    def follow(self, event: Object) -> None:
        if isinstance(number := event.get("sequence_number"), int) and 0 <= number < _LAST_NUMBER:
            self._sequence = number
        if isinstance(response := event.get("response"), dict):
            self._response = response
        kind, at = event.get("type"), event.get("output_index")
        if not isinstance(kind, str) or not isinstance(at, int):
            return
        name, _, step = kind.rpartition(".")
        if name == "response.output_item":
            self._follow_item(at, step, event.get("item"))
        elif at not in self._open:
            return
        elif name in _PARTS:
            self._follow_part((at, _PARTS[name], _index(event, _PARTS[name])), step, event.get("part"))
        elif name in _TEXTS:
            where = _TEXTS[name][1]
            self._follow_text(name, (at, where, _index(event, where)), step, event)

    def _follow_item(self, at: int, step: str, item: object) -> None:
        if not isinstance(item, dict):
            return
        self._items[at] = item
        self._forget(at)
        if step == "added":
            self._open[at] = None

    def _forget(self, at: int) -> None:
        self._open.pop(at, None)
        self._parts = {place: None for place in self._parts if place[0] != at}
        self._texts = {key: text for key, text in self._texts.items() if key[1][0] != at}

    def _follow_part(self, place: _Place, step: str, part: object) -> None:
        at, where, index = place
        parts = self._items[at].setdefault(where, [])
        if not isinstance(parts, list) or not isinstance(part, dict) or not 0 <= index <= len(parts):
            return
        parts[index : index + 1] = [part]
        if step == "added":
            self._parts[place] = None
        else:
            self._parts.pop(place, None)

    def _follow_text(self, name: str, place: _Place, step: str, event: Object) -> None:
        if step == "delta":
            if isinstance(delta := event.get("delta"), str):
                self._texts.setdefault((name, place), []).append(delta)
            return
        self._texts.pop((name, place), None)
        field = _TEXTS[name][0]
        holder = self._holder(place)
        if holder is not None and field in event:
            holder[field] = event[field]

    def _holder(self, place: _Place) -> dict[str, object] | None:
        """The item or the part that a text stands in."""
        at, where, index = place
        if not where:
            return self._items[at]
        parts = objects(self._items[at].get(where))
        return parts[index] if 0 <= index < len(parts) else None

    def close(
        self,
        usage: Usage,
        tells_usage: bool,  # noqa: ARG002 - a response always tells it
        blocked: Object | None,  # noqa: ARG002
        reason: Reason = Reason.LENGTH,
    ) -> bytes:
        if self._response is None:
            return b""
        events: list[bytes] = []
        for at in sorted(self._open):
            events += self._close_item(at)
        whole = {
            **self._response,
            "status": "incomplete",
            "incomplete_details": {"reason": _INCOMPLETE[reason]},
            "output": [self._items[at] for at in sorted(self._items)],
            "usage": _response_usage(usage),
        }
        return b"".join((*events, self._event("response.incomplete", {"response": whole})))

    def _close_item(self, at: int) -> Iterator[bytes]:
        item = self._items[at]
        for (name, place), pieces in self._texts.items():
            if place[0] == at:
                yield self._close_text(name, place, "".join(pieces))
        for place in self._parts:
            if place[0] == at:
                yield self._event(f"{_PART_EVENTS[place[1]]}.done", {**self._at(place), "part": self._holder(place)})
        if "status" in item:
            item["status"] = "incomplete"
        yield self._event("response.output_item.done", {"output_index": at, "item": item})

    def _close_text(self, name: str, place: _Place, text: str) -> bytes:
        field = _TEXTS[name][0]
        holder = self._holder(place)
        if holder is not None:
            holder[field] = text
        more: dict[str, object] = {"logprobs": []} if name == "response.output_text" else {}
        if name == "response.function_call_arguments":
            more = {"name": self._items[place[0]].get("name")}
        return self._event(f"{name}.done", {**self._at(place), field: text, **more})

    def _at(self, place: _Place) -> dict[str, object]:
        at, where, index = place
        told: dict[str, object] = {"item_id": self._items[at].get("id"), "output_index": at}
        return {**told, _INDICES[where]: index} if where else told

    def _event(self, kind: str, fields: Object) -> bytes:
        self._sequence += 1
        return _named(kind, {"type": kind, "sequence_number": self._sequence, **fields})


def _index(event: Object, where: str) -> int:
    index = event.get(_INDICES[where]) if where else None
    return index if isinstance(index, int) else _NO_PART


def _response_usage(usage: Usage) -> dict[str, object]:
    return {
        "input_tokens": usage.input,
        "input_tokens_details": {"cached_tokens": usage.cached_input, "cache_write_tokens": usage.cache_write},
        "output_tokens": usage.output,
        "output_tokens_details": {"reasoning_tokens": usage.reasoning},
        "total_tokens": usage.input + usage.output,
    }
