"""Gemini's answers as chat completions and their chunks.

No event of Gemini's stream says that it is the last one: the stream ends. A candidate is complete with its reason to
stop, which some models repeat in every event; so the chunks that say it come at the end, before the usage.
"""

from typing import Any

import orjson

from extproc.dialects import sse
from extproc.dialects.translate import gemini_errors
from extproc.dialects.translate.chat_to_gemini_candidates import Candidates, Object, Said
from extproc.dialects.translate.direction import Asked, Json

_DONE = b"data: [DONE]\n\n"


class ChatAnswer:
    """One answer."""

    __slots__ = ("_asked", "_begun", "_candidates", "_failed")

    def __init__(self, asked: Asked) -> None:
        self._asked = asked
        self._candidates = Candidates(f"{asked.model}-{asked.began}")
        self._begun: set[int] = set()  # the candidates that have said something
        self._failed = False

    def document(self, body: bytes) -> bytes:
        answer = gemini_errors.load(body)
        if answer is None:
            return orjson.dumps(gemini_errors.UNREADABLE)
        if answer.get("error"):
            return orjson.dumps(gemini_errors.openai(answer, 500))
        try:
            said = [*self._candidates.read(answer), *self._candidates.rest()]
            return orjson.dumps(self._completion(said) if self._candidates.any else gemini_errors.UNREADABLE)
        except orjson.JSONEncodeError:  # it has something nested deeper than can be written
            return orjson.dumps(gemini_errors.UNREADABLE)

    def event(self, event: bytes) -> bytes:
        answer = gemini_errors.load(sse.data(event))
        if answer is None or self._failed:
            return b""
        if answer.get("error"):
            return self._fail(gemini_errors.openai(answer, 500))
        try:
            return b"".join([_frame(self._chunk(said)) for said in self._candidates.read(answer)])
        except orjson.JSONEncodeError:
            return self._fail(gemini_errors.UNREADABLE)

    def end(self) -> bytes:
        if self._failed or not self._candidates.complete:
            return b""
        chunks = [self._chunk(said) for said in self._candidates.rest()]
        chunks += [
            self._head("chat.completion.chunk", [{"index": at, "delta": {}, "logprobs": None, **finish}])
            for at, finish in self._candidates.finishes()
        ]
        usage = self._candidates.usage()
        if usage is not None:
            chunks.append({**self._head("chat.completion.chunk", []), "usage": usage})
        return b"".join(map(_frame, chunks)) + _DONE

    def error(self, status: int, body: bytes) -> bytes:
        return orjson.dumps(gemini_errors.openai(gemini_errors.load(body), status))

    def _fail(self, error: Json) -> bytes:
        self._failed = True
        return _frame(error)

    def _chunk(self, said: Said) -> Object:
        delta = said.delta
        if said.candidate not in self._begun:
            self._begun.add(said.candidate)
            delta = {"role": "assistant", **delta}
        choice = {"index": said.candidate, "delta": delta, "logprobs": said.logprobs, "finish_reason": None}
        return self._head("chat.completion.chunk", [choice])

    def _completion(self, all_said: list[Said]) -> Object:
        choices: list[Object] = []
        for at, finish in self._candidates.finishes():
            mine = [said for said in all_said if said.candidate == at]
            choices.append({"index": at, "message": _message(mine), "logprobs": _logprobs(mine), **finish})
        usage = self._candidates.usage()
        made = self._head("chat.completion", choices)
        return made if usage is None else {**made, "usage": usage}

    def _head(self, kind: str, choices: list[Object]) -> Object:
        of = self._candidates
        model = of.model or self._asked.model
        return {"id": of.identity, "object": kind, "created": self._asked.began, "model": model, "choices": choices}


def _frame(event: Json) -> bytes:
    return b"data: " + orjson.dumps(event) + b"\n\n"


def _message(all_said: list[Said]) -> Object:
    """The deltas of a candidate as one message: texts and lists are continued."""
    message: dict[str, Any] = {"role": "assistant", "content": None, "refusal": None}
    for said in all_said:
        for name, value in said.delta.items():
            before = message.get(name)
            message[name] = before + value if isinstance(before, str | list) else value
    for item in (*message.get("tool_calls", ()), *message.get("images", ())):
        del item["index"]
    if message["content"] is None and "tool_calls" not in message:
        message["content"] = ""
    return message


def _logprobs(all_said: list[Said]) -> Object | None:
    return next((said.logprobs for said in all_said if said.logprobs), None)
