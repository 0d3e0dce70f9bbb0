"""A Message, whole or as a stream of its blocks, as a chat completion or its chunks.

    {id, model, content: blocks, stop_reason, stop_details?: {explanation}, usage: {input_tokens,
     cache_read_input_tokens, cache_creation_input_tokens, output_tokens, output_tokens_details: {thinking_tokens}}}

Texts of several blocks are one text, and thoughts are `reasoning_content`. Citations, signatures and what a provider's
own tools bring are not told: only a request of Anthropic's own shape asks for them.
"""

from collections.abc import Callable

import orjson

from extproc.dialects import sse, usage
from extproc.dialects.endings import objects
from extproc.dialects.translate import anthropic_errors as errors
from extproc.dialects.translate.direction import Asked, Json
from extproc.model import Usage

_DONE = b"data: [DONE]\n\n"
_MAX = 2**53
_FINISHES = {
    "max_tokens": "length",
    "model_context_window_exceeded": "length",
    "pause_turn": "length",  # there would have been more
    "tool_use": "tool_calls",
    "refusal": "content_filter",
}
"""All others say that it is complete."""
_TIERS = {"standard": "default", "priority": "priority"}


class ChatAnswer:
    """One answer."""

    __slots__ = ("_base", "_calls", "_ended", "_reasoning", "_silent", "_tells_usage", "_usage")

    def __init__(self, asked: Asked) -> None:
        chunk = "chat.completion.chunk"
        self._base: dict[str, object] = {"id": "", "object": chunk, "created": asked.began, "model": asked.model}
        self._calls: dict[int, int] = {}  # by the index of their block, the index among the calls
        self._silent: set[int] = set()  # blocks of calls of which no argument has come
        self._usage: Usage | None = None
        self._reasoning: int | None = None
        self._tells_usage = False  # the numbers of the end have come
        self._ended = False

    def document(self, body: bytes) -> bytes:
        message = errors.loaded(body)
        if message is not None and message.get("error"):
            return orjson.dumps(errors.translated(message, 500))
        if message is None or not isinstance(message.get("content"), list):
            return orjson.dumps(errors.unreadable())
        try:
            choice = _choice(message)
        except orjson.JSONEncodeError:
            return orjson.dumps(errors.unreadable())
        self._base["object"] = "chat.completion"
        self._name(message)
        self._count(message.get("usage"))
        whole = {**self._base, "choices": [choice]}
        return orjson.dumps({**whole, "usage": self._told_usage()} if self._tells_usage else whole)

    def event(self, event: bytes) -> bytes:
        said = errors.loaded(sse.data(event))
        if said is None or self._ended:
            return b""
        read = _EVENTS.get(_string(said, "type"))
        try:
            return read(self, said) if read is not None else b""
        except orjson.JSONEncodeError:  # arguments that are nested deeper than can be written
            self._ended = True
            return _frame(errors.unreadable())

    def end(self) -> bytes:
        """Of a stream that broke off behind its last numbers these are still told."""
        return b"" if self._ended else self._usage_chunk()

    def error(self, status: int, body: bytes) -> bytes:
        return orjson.dumps(errors.translated(errors.loaded(body) or {}, status))

    # -- events of a stream

    def _start(self, event: Json) -> bytes:
        message = event.get("message")
        if isinstance(message, dict):
            self._name(message)
            self._count(message.get("usage"))
            self._tells_usage = False
        return self._chunk({"role": "assistant", "content": ""})

    def _block_start(self, event: Json) -> bytes:
        block, index = event.get("content_block"), event.get("index")
        if not isinstance(block, dict) or not isinstance(index, int):
            return b""
        kind = _string(block, "type")
        if kind in _TEXTS:
            return self._text(block, _TEXTS[kind])
        if kind != "tool_use":
            return b""
        at = self._calls.setdefault(index, len(self._calls))
        arguments = _arguments(block) if block.get("input") else ""  # mostly they follow
        if not arguments:
            self._silent.add(index)
        return self._chunk({"tool_calls": [{"index": at, **_call(block, arguments)}]})

    def _block_delta(self, event: Json) -> bytes:
        delta, index = event.get("delta"), event.get("index")
        if not isinstance(delta, dict):
            return b""
        kind = _string(delta, "type")
        if kind in _DELTAS:
            return self._text(delta, _DELTAS[kind])
        said = _string(delta, "partial_json")
        if kind != "input_json_delta" or not isinstance(index, int) or index not in self._calls or not said:
            return b""
        self._silent.discard(index)
        return self._more_arguments(index, said)

    def _block_stop(self, event: Json) -> bytes:
        index = event.get("index")
        if not isinstance(index, int) or index not in self._silent:
            return b""
        self._silent.discard(index)
        return self._more_arguments(index, "{}")  # no arguments are an empty object, and not an empty text

    def _more_arguments(self, index: int, said: str) -> bytes:
        return self._chunk({"tool_calls": [{"index": self._calls[index], "function": {"arguments": said}}]})

    def _text(self, said: Json, place: tuple[str, str]) -> bytes:
        name, field = place
        text = _string(said, name)
        return self._chunk({field: text}) if text else b""

    def _message_delta(self, event: Json) -> bytes:
        self._count(event.get("usage"))
        delta = event.get("delta")
        if not isinstance(delta, dict):
            return b""
        explained = _explanation(delta)
        refused = self._chunk({"refusal": explained}) if explained else b""
        reason = _string(delta, "stop_reason")
        return refused + (self._chunk({}, _finish(reason)) if reason else b"")

    def _stop(self, event: Json) -> bytes:  # noqa: ARG002 - the shape of a reader
        last = self._usage_chunk() + _DONE
        self._ended = True
        return last

    def _error(self, event: Json) -> bytes:
        self._ended = True
        return _frame(errors.translated(event, 500))

    # -- what all parts of an answer have

    def _name(self, message: Json) -> None:
        for name in ("id", "model"):
            if value := _string(message, name):
                self._base[name] = value
        said = message.get("usage")
        tier = _string(said, "service_tier") if isinstance(said, dict) else ""
        if tier in _TIERS:
            self._base["service_tier"] = _TIERS[tier]

    def _count(self, said: object) -> None:
        """The numbers of an event add to those before, and replace them."""
        if not isinstance(said, dict):
            return
        self._usage = usage.anthropic(said, self._usage)
        if _tokens(said, "output_tokens") is not None:
            self._tells_usage = True
        details = said.get("output_tokens_details")
        thinking = _tokens(details, "thinking_tokens") if isinstance(details, dict) else None
        if thinking is not None and thinking <= self._usage.output:
            self._reasoning = thinking

    def _told_usage(self) -> dict[str, object]:
        used = self._usage or Usage()
        details = {"cached_tokens": used.cached_input, "cache_write_tokens": used.cache_write}
        if used.cache_write_1h:  # no word of OpenAI's: what it costs is told by it
            details["cache_write_1h_tokens"] = used.cache_write_1h
        told: dict[str, object] = {
            "prompt_tokens": used.input,
            "completion_tokens": used.output,
            "total_tokens": used.input + used.output,
            "prompt_tokens_details": details,
        }
        if self._reasoning is not None:
            told["completion_tokens_details"] = {"reasoning_tokens": self._reasoning}
        return told

    def _usage_chunk(self) -> bytes:
        if not self._tells_usage:
            return b""
        self._tells_usage = False
        return _frame({**self._base, "choices": [], "usage": self._told_usage()})

    def _chunk(self, delta: Json, finish: str | None = None) -> bytes:
        choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish}
        return _frame({**self._base, "choices": [choice]})


_TEXTS = {"text": ("text", "content"), "thinking": ("thinking", "reasoning_content")}
"""By the type of a block: the field that its text stands in, and that of a message or delta of chat."""
_DELTAS = {f"{kind}_delta": place for kind, place in _TEXTS.items()}
_EVENTS: dict[str, Callable[[ChatAnswer, Json], bytes]] = {
    "message_start": ChatAnswer._start,
    "content_block_start": ChatAnswer._block_start,
    "content_block_delta": ChatAnswer._block_delta,
    "content_block_stop": ChatAnswer._block_stop,
    "message_delta": ChatAnswer._message_delta,
    "message_stop": ChatAnswer._stop,
    "error": ChatAnswer._error,
}
"""All others are not told: pings, and what is new to us."""


def _frame(event: Json) -> bytes:
    return b"data: %s\n\n" % orjson.dumps(event)


def _string(source: Json, name: str) -> str:
    value = source.get(name)
    return value if isinstance(value, str) else ""


def _tokens(source: Json, name: str) -> int | None:
    value = source.get(name)
    return value if type(value) is int and 0 <= value < _MAX else None


def _finish(reason: str) -> str:
    return _FINISHES.get(reason, "stop")


def _explanation(ending: Json) -> str:
    """Why the answer was refused."""
    details = ending.get("stop_details")
    return _string(details, "explanation") if isinstance(details, dict) else ""


def _call(block: Json, arguments: str) -> dict[str, object]:
    function = {"name": _string(block, "name"), "arguments": arguments}
    return {"id": _string(block, "id"), "type": "function", "function": function}


def _arguments(block: Json) -> str:
    """As text. Raises JSONEncodeError."""
    given = block.get("input")
    return orjson.dumps(given if isinstance(given, dict) else {}).decode()


def _choice(message: Json) -> dict[str, object]:
    """The one choice of a whole message. Raises JSONEncodeError."""
    texts: dict[str, list[str]] = {"content": [], "reasoning_content": []}
    calls = []
    for block in objects(message.get("content")):
        kind = _string(block, "type")
        if kind == "tool_use":
            calls.append(_call(block, _arguments(block)))
        elif kind in _TEXTS:
            name, field = _TEXTS[kind]
            texts[field].append(_string(block, name))
    said = "".join(texts["content"])
    made: dict[str, object] = {"role": "assistant", "content": said or (None if calls else "")}
    made["refusal"] = _explanation(message) or None
    if thoughts := "".join(texts["reasoning_content"]):
        made["reasoning_content"] = thoughts
    if calls:
        made["tool_calls"] = calls
    finish = _finish(_string(message, "stop_reason"))
    return {"index": 0, "message": made, "logprobs": None, "finish_reason": finish}
