"""The answer of a chat completion, whole or as a stream, as a response or the events that tell of it.

A whole completion is read as a stream of one chunk, so that both come to the same response.
"""

from collections.abc import Iterator, Mapping
from itertools import chain

import orjson

from extproc.dialects import sse, usage
from extproc.dialects.endings import objects
from extproc.dialects.translate import responses_to_chat_errors as errors
from extproc.dialects.translate.direction import Asked, Json
from extproc.dialects.translate.responses_to_chat_errors import Failure
from extproc.dialects.translate.responses_to_chat_output import (
    COMPLETED,
    INCOMPLETE,
    OPEN,
    REASONING,
    REFUSAL,
    TEXT,
    Called,
    Events,
    Out,
    Said,
)
from extproc.dialects.translate.responses_to_chat_tools import namespaced

_COMMENT = b":\n\n"  # by which servers keep a connection alive
_CUT = {"length": "max_output_tokens", "content_filter": "content_filter"}
_BROKEN = frozenset({"error", "abort", "insufficient_system_resource"})  # of OpenRouter, vLLM and DeepSeek
_REPEATED: Mapping[str, object] = {
    "instructions": None,
    "max_output_tokens": None,
    "max_tool_calls": None,
    "metadata": {},
    "parallel_tool_calls": True,
    "prompt_cache_key": None,
    "reasoning": {"effort": None, "summary": None},
    "safety_identifier": None,
    "temperature": None,
    "text": {"format": {"type": "text"}},
    "tool_choice": "auto",
    "tools": [],
    "top_logprobs": 0,
    "top_p": None,
    "truncation": "disabled",
    "user": None,
}
"""What a response repeats of its request, and says where that is silent."""


class ResponsesAnswer:
    """One answer. See AnswerTranslation."""

    __slots__ = ("_reply",)

    def __init__(self, asked: Asked) -> None:
        self._reply = _Reply(asked)

    def document(self, body: bytes) -> bytes:
        return orjson.dumps(self._reply.whole(_load(body)))

    def event(self, event: bytes) -> bytes:
        data = sse.data(event)
        if not data:
            return _COMMENT if event.startswith(b":") else b""
        if data == b"[DONE]":
            return self.end()
        chunk = _load(data)
        return b"".join(self._reply.follow(chunk)) if chunk is not None else b""

    def end(self) -> bytes:
        return b"".join(self._reply.finish())

    def error(self, status: int, body: bytes) -> bytes:
        return orjson.dumps(errors.of_status(status, body))


class _Reply:
    """The response as it grows.

    Reasoning and messages end where something else begins. Calls stay open until the backend gives its reason to
    finish, as their pieces may come in turns; the response itself stays open for the usage, which comes after that.
    """

    __slots__ = (
        "_asked",
        "_begun",
        "_calls",
        "_events",
        "_finish",
        "_items",
        "_key",
        "_namespaced",
        "_over",
        "_said",
        "_usage",
    )

    def __init__(self, asked: Asked) -> None:
        self._asked = asked
        self._namespaced = namespaced(asked.request)
        self._events = Events()
        self._begun: Out = {}
        self._key = ""  # what tells its ids from those of all others
        self._items: list[Said | Called] = []
        self._said: Said | None = None
        self._calls: dict[int, Called] = {}
        self._finish: str | None = None
        self._usage: Out | None = None
        self._over = False

    def whole(self, completion: Json | None) -> Out:
        """The response that a whole completion comes to."""
        failure = errors.UNREADABLE if completion is None else errors.in_answer(completion)
        for _ in self.follow(completion or {}):
            pass
        if not self._begun:
            failure = failure or errors.UNREADABLE
            self._begin(completion or {})
        for _ in self._close_items():
            pass
        return self._response(failure)

    def follow(self, chunk: Json) -> Iterator[bytes]:
        """The events that tell of a chunk."""
        if self._over:
            return
        if (failure := errors.in_answer(chunk)) is not None:
            yield from self._fail(chunk, failure)
            return
        told = _usage(chunk.get("usage"))
        self._usage = told or self._usage
        choice = _first(chunk)
        if choice is not None:
            yield from self._start(chunk)
            yield from self._read(choice)
        elif told is not None:
            yield from self.finish()

    def finish(self) -> Iterator[bytes]:
        """The last event; none where the backend has not said that its answer is complete."""
        if self._over or self._finish is None:
            return
        self._over = True
        response = self._response()
        yield self._events.say(f"response.{response['status']}", {"response": response})

    def _fail(self, chunk: Json, failure: Failure) -> Iterator[bytes]:
        yield from self._start(chunk)
        self._over = True
        for item in self._items:
            item.status = INCOMPLETE if item.status == OPEN else item.status
        yield self._events.say("response.failed", {"response": self._response(failure)})

    def _start(self, chunk: Json) -> Iterator[bytes]:
        if not self._begun:
            self._begin(chunk)
            begun = {**self._begun, "status": OPEN, "output": [], "usage": None}
            for kind in ("response.created", "response.in_progress"):
                yield self._events.say(kind, {"response": begun})

    def _begin(self, chunk: Json) -> None:
        """What stays the same until the end. Ids hold the second, too: those of Ollama are one of a thousand."""
        created = chunk.get("created")
        second = created if isinstance(created, int) and created > 0 else self._asked.began
        self._key = f"{second:x}_{_text(chunk.get('id'))}"
        asked = self._asked.request
        self._begun = {
            "id": f"resp_{self._key}",
            "object": "response",
            "created_at": second,
            "model": _text(chunk.get("model")) or self._asked.model,
            "background": False,
            "error": None,
            "incomplete_details": None,
            "previous_response_id": None,
            "store": False,
            "service_tier": chunk.get("service_tier") if isinstance(chunk.get("service_tier"), str) else None,
            **{name: silent if asked.get(name) is None else asked[name] for name, silent in _REPEATED.items()},
        }

    def _response(self, failure: Failure | None = None) -> Out:
        """The response, which is over."""
        reason = _CUT.get(self._finish or "")
        failure = failure or (errors.STOPPED if self._finish in _BROKEN else None)
        status = "failed" if failure else INCOMPLETE if reason else COMPLETED
        return {
            **self._begun,
            "status": status,
            "error": {"code": failure.code, "message": failure.message} if failure else None,
            "incomplete_details": {"reason": reason} if status == INCOMPLETE else None,
            "output": [item.whole() for item in self._items],
            "usage": self._usage,
        }

    # ---- items ------------------------------------------------------------------------------------------

    def _read(self, choice: Json) -> Iterator[bytes]:
        said = choice.get("delta") or choice.get("message")
        if isinstance(said, dict):
            yield from self._read_texts(said, _logprobs(choice.get("logprobs")))
            for at, call in enumerate(objects(said.get("tool_calls"))):
                yield from self._call(at, call)
        finish = choice.get("finish_reason")
        if isinstance(finish, str) and finish:
            self._finish = finish
            yield from self._close_items()

    def _read_texts(self, said: Json, logprobs: list[Out]) -> Iterator[bytes]:
        if text := _text(said.get("reasoning_content")) or _text(said.get("reasoning")):
            yield from self._say(REASONING, text, [])
        text = _content(said.get("content"))
        if text or (logprobs and self._said is not None and not self._said.reasons):
            yield from self._say(TEXT, text, logprobs)
        for annotation in _citations(said.get("annotations")):
            if self._said is not None:
                yield from self._said.annotate(self._events, annotation)
        if text := _text(said.get("refusal")):
            yield from self._say(REFUSAL, text, [])

    def _say(self, kind: str, text: str, logprobs: list[Out]) -> Iterator[bytes]:
        reasons = kind == REASONING
        if self._said is None or self._said.reasons != reasons:
            yield from self._hush()
            at = len(self._items)
            self._said = Said(f"{'rs' if reasons else 'msg'}_{self._key}_{at}", at, reasons)
            self._items.append(self._said)
            yield self._said.open(self._events)
        yield from self._said.add(self._events, kind, text, logprobs)

    def _hush(self) -> Iterator[bytes]:
        if self._said is not None:
            yield from self._said.close(self._events, COMPLETED)
            self._said = None

    def _call(self, at: int, told: Json) -> Iterator[bytes]:
        """A piece of a call. Some servers give all of them one index: a new id begins another."""
        function = told.get("function")
        if not isinstance(function, dict):
            return
        index = told.get("index")
        index = index if isinstance(index, int) else at
        name, made = _text(function.get("name")), _text(told.get("id"))
        call = self._calls.get(index)
        if name and (call is None or (made and made != call.call_id)):
            yield from self._hush()
            at = len(self._items)
            namespace, name = self._namespaced.get(name, (None, name))
            call = Called(f"fc_{self._key}_{at}", at, made or f"call_{self._key}_{at}", name, namespace)
            self._calls[index] = call
            self._items.append(call)
            yield call.open(self._events)
        if call is not None and (arguments := _arguments(function.get("arguments"))):
            yield call.add(self._events, arguments)

    def _close_items(self) -> Iterator[bytes]:
        """Of an answer that was cut, the cut is in the last item."""
        was_cut = self._finish in _CUT
        opened = [item for item in self._items if item.status == OPEN]
        self._said = None
        self._calls.clear()
        closed = [
            item.close(self._events, INCOMPLETE if was_cut and item is self._items[-1] else COMPLETED)
            for item in opened
        ]
        return chain.from_iterable(closed)


# ---- reading chat -----------------------------------------------------------------------------------


def _load(data: bytes) -> Json | None:
    try:
        value = orjson.loads(data)
    except ValueError:
        return None
    return value if isinstance(value, dict) else None


def _text(value: object) -> str:
    return value if isinstance(value, str) else ""


def _first(chunk: Json) -> Json | None:
    """The first choice: no more are asked for."""
    return next((choice for choice in objects(chunk.get("choices")) if not choice.get("index")), None)


def _content(value: object) -> str:
    """A text, or what is text of a list of parts, as Mistral gives them."""
    if isinstance(value, list):
        return "".join([_text(part.get("text")) for part in objects(value)])
    return _text(value)


def _arguments(value: object) -> str:
    """The arguments of a call; some servers send them as the object itself."""
    if isinstance(value, dict):
        try:
            return orjson.dumps(value).decode()
        except orjson.JSONEncodeError:  # nested deeper than can be written
            return ""
    return _text(value)


def _citations(told: object) -> Iterator[Out]:
    """Where a text is from, of servers that search on their own."""
    for annotation in objects(told):
        cited = annotation.get("url_citation")
        if isinstance(cited, dict):
            ends = {name: at for name in ("start_index", "end_index") if isinstance(at := cited.get(name), int)}
            texts = {name: _text(cited.get(name)) for name in ("url", "title")}
            yield {"type": "url_citation", "start_index": 0, "end_index": 0, **ends, **texts}


def _logprobs(told: object) -> list[Out]:
    tokens = objects(told.get("content")) if isinstance(told, dict) else ()
    return [
        {**_logprob(token), "top_logprobs": [*map(_logprob, objects(token.get("top_logprobs")))]} for token in tokens
    ]


def _logprob(told: Mapping[str, object]) -> Out:
    number, raw = told.get("logprob"), told.get("bytes")
    return {
        "token": _text(told.get("token")),
        "bytes": [byte for byte in raw if isinstance(byte, int)] if isinstance(raw, list) else [],
        "logprob": number if isinstance(number, int | float) else 0.0,
    }


def _usage(told: object) -> Out | None:
    """Usage in the words of Responses, every class of tokens that was told among them."""
    if not isinstance(told, dict) or (used := usage.openai(told)) is None:
        return None
    of_input = {"cached_tokens": used.cached_input, "cache_write_tokens": used.cache_write}
    return {
        "input_tokens": used.input,
        "input_tokens_details": {**_classes(told.get("prompt_tokens_details")), **of_input},
        "output_tokens": used.output,
        "output_tokens_details": {
            **_classes(told.get("completion_tokens_details")),
            "reasoning_tokens": used.reasoning,
        },
        "total_tokens": used.input + used.output,
    }


def _classes(details: object) -> Out:
    if not isinstance(details, dict):
        return {}
    return {name: count for name, count in details.items() if isinstance(count, int) and name.endswith("_tokens")}
