"""Counting the usage of an answer as it flows past.

A meter is told of every event of a stream, or of the whole JSON answer. It never raises on what a backend
sends: an answer that cannot be read is passed on and its usage is estimated.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Protocol

import orjson

from extproc.dialects import sse
from extproc.dialects import usage as reported
from extproc.metering import estimate
from extproc.model import Usage, UsageSource


class Meter(Protocol):
    """Counts one answer."""

    @property
    def finished(self) -> bool:
        """Whether the surface's last event has passed."""

    @property
    def failed(self) -> bool:
        """Whether the provider reported an error inside the answer."""

    def event(self, raw: bytes) -> bool:
        """Take note of one event of a stream; True if the client did not ask for it and must not see it."""

    def answer(self, parsed: Mapping[str, object]) -> None:
        """Take note of a whole JSON answer."""

    def made_ids(self) -> list[str]:
        """Ids of server-side state in the answer, each given out once."""

    def total(self, estimated_input: int) -> Usage:
        """What the answer used so far, estimated where the provider has not said."""


def _load(data: bytes) -> Mapping[str, object] | None:
    try:
        value = orjson.loads(data)
    except ValueError:
        return None
    return value if isinstance(value, dict) else None


def _objects(value: object) -> Sequence[Mapping[str, object]]:
    """The objects of a list; nothing where there is none."""
    return [item for item in value if isinstance(item, dict)] if isinstance(value, list) else ()


class _Counting:
    """What all meters share: the usage reported, and the weight of the text that passed."""

    __slots__ = ("failed", "finished", "usage", "weight")

    def __init__(self) -> None:
        self.finished = False
        self.failed = False
        self.usage: Usage | None = None
        self.weight = 0.0

    def _note(self, text: object) -> None:
        if isinstance(text, str):
            self.weight += estimate.weight(text)

    def _report(self, said: object) -> None:
        """Usage in OpenAI's words; the last one wins, and one that counts nothing says nothing."""
        usage = reported.openai(said) if isinstance(said, dict) else None
        if usage is not None:
            self.usage = usage

    def answer(self, parsed: Mapping[str, object]) -> None:
        self.finished = True
        self.failed = bool(parsed.get("error"))  # some gateways answer 200 with an error inside
        self._report(parsed.get("usage"))

    def made_ids(self) -> list[str]:
        return []

    def total(self, estimated_input: int) -> Usage:
        if self.usage is not None:
            return self.usage
        return Usage(input=estimated_input, output=estimate.tokens(self.weight), source=UsageSource.ESTIMATED)


_SAID = frozenset({"content", "reasoning_content", "reasoning", "refusal"})


class ChatMeter(_Counting):
    """Chat completions and completions of OpenAI and those who speak its dialect."""

    __slots__ = ("_hide_usage",)

    def __init__(self, hide_usage: bool = False) -> None:
        super().__init__()
        self._hide_usage = hide_usage

    def event(self, raw: bytes) -> bool:
        data = sse.data(raw)
        if data == b"[DONE]":
            self.finished = True
            return False
        chunk = _load(data)
        if chunk is None:
            return False
        if chunk.get("error"):
            self.failed = True
        self._note_choices(chunk)
        usage = chunk.get("usage")
        self._report(usage)
        return self._hide_usage and isinstance(usage, dict) and chunk.get("choices") == []

    def _note_choices(self, chunk: Mapping[str, object]) -> None:
        for choice in _objects(chunk.get("choices")):
            self._note_choice(choice)

    def _note_choice(self, choice: Mapping[str, object]) -> None:
        delta = choice.get("delta") or choice.get("message")
        if not isinstance(delta, dict):
            self._note(choice.get("text"))
            return
        for name, said in delta.items():  # of a delta nearly always one
            if name in _SAID:
                self._note(said)
        for call in _objects(delta.get("tool_calls")):
            function = call.get("function")
            if isinstance(function, dict):
                self._note(function.get("name"))
                self._note(function.get("arguments"))

    def answer(self, parsed: Mapping[str, object]) -> None:
        super().answer(parsed)
        self._note_choices(parsed)


_RESPONSES_LAST = ("response.completed", "response.incomplete", "response.failed")


class ResponsesMeter(_Counting):
    """OpenAI's Responses API: the last event carries the whole response, its usage and its ids."""

    __slots__ = ("_given", "_made")

    def __init__(self) -> None:
        super().__init__()
        self._made: list[str] = []
        self._given: set[str] = set()

    def event(self, raw: bytes) -> bool:
        event = _load(sse.data(raw))
        if event is None:
            return False
        kind = event.get("type")
        if isinstance(kind, str) and kind.endswith(".delta"):
            self._note(event.get("delta"))
        response = event.get("response")
        if isinstance(response, dict):
            self._note_response(response)
        item = event.get("item")
        if isinstance(item, dict):
            self._note_item(item)
        if kind in _RESPONSES_LAST:
            self.finished = True
        if kind in ("error", "response.failed"):
            self.failed = True
        return False

    def answer(self, parsed: Mapping[str, object]) -> None:
        self.finished = True
        self.failed = bool(parsed.get("error"))
        self._note_response(parsed)
        for item in _objects(parsed.get("output")):
            self._note_output(item)

    def _note_response(self, response: Mapping[str, object]) -> None:
        self._report(response.get("usage"))
        if response.get("store") is not False:
            self._make(response.get("id"))
            conversation = response.get("conversation")
            if isinstance(conversation, dict):
                self._make(conversation.get("id"))
        for item in _objects(response.get("output")):
            self._note_item(item)

    def _note_item(self, item: Mapping[str, object]) -> None:
        self._make(item.get("id"))
        self._make(item.get("encrypted_content"))

    def _note_output(self, item: Mapping[str, object]) -> None:
        self._note(item.get("name"))
        self._note(item.get("arguments"))
        for part in _objects(item.get("content")):
            self._note(part.get("text"))

    def _make(self, made: object) -> None:
        if isinstance(made, str) and made and made not in self._given:
            self._given.add(made)
            self._made.append(made)

    def made_ids(self) -> list[str]:
        made, self._made = self._made, []
        return made


class AnthropicMeter(_Counting):
    """Anthropic's Messages API."""

    __slots__ = ("_final",)

    def __init__(self) -> None:
        super().__init__()
        self._final = False  # message_start reports the input only; the output comes with message_delta

    def event(self, raw: bytes) -> bool:
        event = _load(sse.data(raw))
        if event is None:
            return False
        kind = event.get("type")
        if kind == "content_block_delta":
            self._note_delta(event.get("delta"))
        elif kind == "message_start":
            message = event.get("message")
            if isinstance(message, dict) and isinstance(message.get("usage"), dict):
                self.usage = reported.anthropic(message["usage"], self.usage)
        elif kind == "message_delta":
            usage = event.get("usage")
            if isinstance(usage, dict):
                self.usage = reported.anthropic(usage, self.usage)
                self._final = "output_tokens" in usage
        elif kind == "message_stop":
            self.finished = True
        elif kind == "error":
            self.failed = True
        return False

    def _note_delta(self, delta: object) -> None:
        if isinstance(delta, dict):
            for name in ("text", "partial_json", "thinking"):
                self._note(delta.get(name))

    def answer(self, parsed: Mapping[str, object]) -> None:
        self.finished = True
        self.failed = parsed.get("type") == "error"
        usage = parsed.get("usage")
        if isinstance(usage, dict):
            self.usage = reported.anthropic(usage)
            self._final = "output_tokens" in usage
        for block in _objects(parsed.get("content")):
            self._note_delta(block)

    def total(self, estimated_input: int) -> Usage:
        if self.usage is None or self._final:
            return super().total(estimated_input)
        output = max(self.usage.output, estimate.tokens(self.weight))
        return replace(self.usage, output=output, source=UsageSource.ESTIMATED)


class PlainMeter(_Counting):
    """Answers with at most one usage object: embeddings, images, audio, rerank, moderations."""

    __slots__ = ()

    def event(self, raw: bytes) -> bool:
        event = _load(sse.data(raw))
        if event is None:
            return False
        self._note(event.get("delta"))
        self._report(event.get("usage"))
        kind = event.get("type")
        if isinstance(kind, str) and kind.endswith((".done", ".completed")):
            self.finished = True
        return False

    def answer(self, parsed: Mapping[str, object]) -> None:
        super().answer(parsed)
        self._note(parsed.get("text"))  # of a transcription or translation


class UncountedMeter(_Counting):
    """Answers that use nothing: a token count asked for, a stored response read again."""

    __slots__ = ()

    def event(self, raw: bytes) -> bool:  # noqa: ARG002 - the shape of a meter
        return False

    def total(self, estimated_input: int) -> Usage:  # noqa: ARG002
        return Usage()
