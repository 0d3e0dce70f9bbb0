"""The answer of a chat completion, as a Message or its stream."""

from collections.abc import Iterator, Mapping

import orjson

from extproc.dialects import sse, usage
from extproc.dialects.endings import objects
from extproc.dialects.translate import messages_errors as errors
from extproc.dialects.translate.direction import Asked
from extproc.dialects.translate.messages_blocks import (
    Blocks,
    Json,
    Object,
    arguments_text,
    call_id,
    event,
    said,
    thought,
)

_STOPS = {
    "length": "max_tokens",
    "tool_calls": "tool_use",
    "function_call": "tool_use",
    "content_filter": "refusal",
}
_PING = event({"type": "ping"})


class MessagesAnswer:
    """One answer.

    A stream's last events wait for the usage, which comes after the reason to finish; without it, for the end. Where
    there is no usage, it is 0. Thinking is told only where it was asked for: many clients read the first block alone.
    """

    __slots__ = ("_blocks", "_ended", "_finish", "_model", "_stop", "_thinks", "_usage")

    def __init__(self, asked: Asked) -> None:
        self._model = asked.model
        self._thinks = _shows_thinking(asked.request)
        self._blocks: Blocks | None = None  # from the first choice on
        self._finish: str | None = None
        self._stop: str | None = None  # the text that ended it
        self._usage: Json = {}
        self._ended = False

    def document(self, body: bytes) -> bytes:
        """A whole completion."""
        try:
            parsed = orjson.loads(body)
            return orjson.dumps(self._message(parsed) if isinstance(parsed, dict) else errors.unreadable())
        except (ValueError, orjson.JSONEncodeError):  # no JSON, or arguments nested deeper than can be written
            return orjson.dumps(errors.unreadable())

    def _message(self, parsed: Json) -> Object:
        if (error := errors.of_event(parsed)) is not None:
            return error
        choice = _choice(parsed) or {}
        message = choice.get("message")
        answer = message if isinstance(message, dict) else {}
        content = [*_content(answer, _text(parsed.get("id")), self._thinks)]
        self._finish, self._stop = _text(choice.get("finish_reason")), _matched(choice)
        calls = any(block["type"] == "tool_use" for block in content)
        end = self._end(calls, bool(answer.get("refusal")))
        return {**self._envelope(parsed), "content": content, **end, "usage": _usage(parsed.get("usage"))}

    def event(self, event: bytes) -> bytes:
        """One chunk of a stream."""
        if self._ended:
            return b""
        data = sse.data(event)
        if not data:
            return _PING  # a comment, by which servers keep a connection alive
        if data == b"[DONE]":
            return self._close()
        try:
            chunk = orjson.loads(data)
        except ValueError:
            return b""
        return b"".join(self._chunk(chunk)) if isinstance(chunk, dict) else b""

    def end(self) -> bytes:
        """The last events, where the backend gave its reason to finish and then said no more."""
        return self._close() if self._finish is not None and not self._ended else b""

    def error(self, status: int, body: bytes) -> bytes:
        """An error in Anthropic's shape."""
        return orjson.dumps(errors.of_answer(status, body))

    def _chunk(self, chunk: Json) -> Iterator[bytes]:
        if (error := errors.of_event(chunk)) is not None:
            self._ended = True
            yield event(error)
            return
        told = chunk.get("usage")
        if isinstance(told, dict):
            self._usage = told
        choice = _choice(chunk)
        if choice is not None:
            yield from self._continue(chunk, choice)
        elif self._finish is not None and isinstance(told, dict):
            yield self._close()

    def _continue(self, chunk: Json, choice: Json) -> Iterator[bytes]:
        if self._blocks is None:
            self._blocks = Blocks(_text(chunk.get("id")), self._thinks)
            begun: Object = {"content": [], "stop_reason": None, "stop_sequence": None, "usage": _usage(None)}
            yield event({"type": "message_start", "message": {**self._envelope(chunk), **begun}})
        delta = choice.get("delta")
        if isinstance(delta, dict):
            yield from self._blocks.follow(delta)
        if isinstance(finish := choice.get("finish_reason"), str):
            self._finish, self._stop = finish, _matched(choice)

    def _close(self) -> bytes:
        """The end of the message, of which the backend said that it is complete."""
        self._ended = True
        if self._blocks is None:
            return b""
        end = self._end(self._blocks.called, self._blocks.refused)
        delta = event({"type": "message_delta", "delta": end, "usage": _usage(self._usage)})
        return b"".join((*self._blocks.close(), delta, event({"type": "message_stop"})))

    def _end(self, called: bool, refused: bool) -> Object:
        """Why it stopped. A forced call of a tool ends with `stop` there."""
        if refused:
            return {"stop_reason": "refusal", "stop_sequence": None}
        reason = _STOPS.get(self._finish or "", "tool_use" if called else "end_turn")
        if reason == "end_turn" and self._stop is not None:
            return {"stop_reason": "stop_sequence", "stop_sequence": self._stop}
        return {"stop_reason": reason, "stop_sequence": None}

    def _envelope(self, parsed: Json) -> Object:
        kind: Object = {"id": _text(parsed.get("id")), "type": "message", "role": "assistant"}
        return {**kind, "model": _text(parsed.get("model")) or self._model}


def _shows_thinking(request: Json) -> bool:
    asked = request.get("thinking")
    return isinstance(asked, dict) and asked.get("type") != "disabled" and asked.get("display") != "omitted"


def _text(value: object) -> str:
    return value if isinstance(value, str) else ""


def _choice(parsed: Json) -> Json | None:
    """The first choice, as no more are asked for."""
    first = (choice for choice in objects(parsed.get("choices")) if not choice.get("index"))
    return next(first, None)


def _matched(choice: Json) -> str | None:
    """The stop sequence that ended it, where the server says so, as vLLM does; its number is a token's."""
    stop = choice.get("stop_reason")
    return stop if isinstance(stop, str) else None


def _content(message: Json, of: str, thinks: bool) -> Iterator[Object]:
    thinking, signature = thought(message)
    if thinking and thinks:
        yield {"type": "thinking", "thinking": thinking, "signature": signature}
    if text := said(message):
        yield {"type": "text", "text": text}
    for at, call in enumerate(objects(message.get("tool_calls"))):
        function = call.get("function")
        if isinstance(function, dict) and isinstance(name := function.get("name"), str) and name:
            given = _arguments(arguments_text(function))
            yield {"type": "tool_use", "id": call_id(call, of, at), "name": name, "input": given}


def _arguments(text: str) -> Mapping[str, object]:
    """The arguments as an object; what is none, as Anthropic advises to wrap it."""
    try:
        given = orjson.loads(text or "{}")
    except ValueError:
        given = None
    return given if isinstance(given, dict) else {"INVALID_JSON": text}


def _usage(told: object) -> Object:
    """Anthropic's `input_tokens` leave out what came from the cache or went into it."""
    used = usage.openai(told) if isinstance(told, dict) else None
    if used is None:
        return {"input_tokens": 0, "output_tokens": 0}
    plain = used.input - used.cached_input - used.cache_write
    return {
        "input_tokens": plain,
        "cache_creation_input_tokens": used.cache_write,
        "cache_read_input_tokens": used.cached_input,
        "output_tokens": used.output,
        "output_tokens_details": {"thinking_tokens": used.reasoning},
    }
