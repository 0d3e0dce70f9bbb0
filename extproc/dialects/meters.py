"""Counting the usage of an answer as it flows past.

A meter is told of every event of a stream, or of the whole JSON answer. It never raises on what a backend
sends: an answer that cannot be read is passed on and its usage is estimated.

Where a stream may have to end early, its meter is `bound`: then it can weigh an event before it passes, and end the
stream as the surface does when the cap on the output is reached. Other streams pay nothing for that.
"""

from collections.abc import Mapping
from dataclasses import replace
from functools import lru_cache
from typing import Protocol

import orjson

from extproc.dialects import pieces, sse, stops, tiers
from extproc.dialects import usage as reported
from extproc.dialects.endings import AnthropicEnding, ChatEnding, Ending, ResponsesEnding, objects
from extproc.dialects.pieces import Piece
from extproc.metering import bounds, estimate
from extproc.model import Usage, UsageSource


class Meter(Protocol):
    """Counts one answer."""

    @property
    def finished(self) -> bool:
        """Whether the surface's last event has passed."""

    @property
    def failed(self) -> bool:
        """Whether the provider reported an error inside the answer."""

    @property
    def spoken(self) -> bool:
        """Whether any output has come of a stream: text, reasoning, sound, or a call of a tool."""

    @property
    def stop(self) -> str | None:
        """Why the model ended the answer, one of stops.STOPS; None where nobody has said."""

    @property
    def tools(self) -> int | None:
        """Calls of tools that the client runs; None of answers that have none."""

    @property
    def piece(self) -> Piece | None:
        """What the last event was a piece of, where it said nothing else, see `pieces`."""

    def event(self, raw: bytes) -> bool:
        """Take note of one event of a stream; True if the client did not ask for it and must not see it."""

    def answer(self, parsed: Mapping[str, object]) -> None:
        """Take note of a whole JSON answer."""

    def made_ids(self) -> list[str]:
        """Ids of server-side state in the answer, each given out once."""

    def total(self, estimated_input: int) -> Usage:
        """What the answer used so far, estimated where the provider has not said."""

    def bound(self, family: str) -> None:
        """Weigh by this family of tokenizers, and be ready for an early end. Comes before the first event."""

    def weigh(self, raw: bytes) -> int:
        """The most tokens that the text of an event can be, before it is noted; 0 of one without text.

        Of a meter that is not bound always 0.
        """

    def ending(self, estimated_input: int, tells_usage: bool = False) -> bytes:
        """End the stream here: the events that finish it for a client that saw those which were noted.

        `tells_usage`: of a chat, the client itself asked for its usage. Empty where the surface has no such end.
        """


_DONE = b"[DONE]"


def _load(data: bytes) -> Mapping[str, object] | None:
    try:
        value = orjson.loads(data)
    except ValueError:
        return None
    return value if isinstance(value, dict) else None


class _Counting:
    """What all meters share: the usage reported, and the weight of the text that passed."""

    __slots__ = (
        "_ending",
        "_family",
        "_weighed",
        "failed",
        "finished",
        "hosted",
        "images",
        "piece",
        "spoken",
        "stop",
        "tier",
        "tools",
        "usage",
        "weight",
    )

    def __init__(self) -> None:
        self.finished = False
        self.failed = False
        self.usage: Usage | None = None
        self.weight = 0.0
        self.images = 0
        self.hosted = 0  # calls of tools that the provider runs
        self.spoken = False
        self.piece: Piece | None = None
        self.stop: str | None = None
        self.tools: int | None = None
        self.tier = ""  # as Usage.tier
        self._family: str | None = None
        self._ending: Ending | None = None
        self._weighed: tuple[bytes, Mapping[str, object] | None] | None = None  # and not noted yet

    def bound(self, family: str) -> None:
        self._family = family
        self._ending = self._make_ending()

    def _make_ending(self) -> Ending | None:
        return None

    def weigh(self, raw: bytes) -> int:
        if self._family is None:
            return 0
        data = sse.data(raw)
        event = _load(data)
        self._weighed = raw, event
        if event is None:  # a client may make more of it than we can
            return 0 if data == _DONE else len(data)
        texts, media = self._said(event)
        return self._most(texts, self._family) + bounds.media_tokens(media)

    def ending(self, estimated_input: int, tells_usage: bool = False) -> bytes:
        if self._ending is None or self.finished:
            return b""
        self.finished = True
        blocked = self._weighed[1] if self._weighed else None
        try:
            return self._ending.close(self.total(estimated_input), tells_usage, blocked)
        except orjson.JSONEncodeError:  # the backend nested something deeper than can be written
            return b""

    def _read(self, raw: bytes) -> Mapping[str, object] | None:
        """The event as an object, its text counted; None where it is none."""
        weighed, self._weighed = self._weighed, None
        event = weighed[1] if weighed is not None and weighed[0] is raw else _load(sse.data(raw))
        if event is None:
            return None
        self._count(event)
        if self._ending is not None:
            self._ending.follow(event)
        return event

    def _count(self, event: Mapping[str, object]) -> None:
        texts, media = self._said(event)
        for text in texts:
            self.weight += estimate.weight(text)
        if media:
            self.weight += estimate.media(media)
        if not self.spoken:
            self.spoken = bool(media) or any(texts)

    def _said(self, event: Mapping[str, object]) -> tuple[list[str], int]:
        """The output in an event: its texts, and the characters of its sound and pictures in base64."""
        return [delta] if isinstance(delta := event.get("delta"), str) else [], 0

    @staticmethod
    def _most(texts: list[str], family: str) -> int:
        """Even an empty piece was a token: a part of a character."""
        return sum([max(1, bounds.text_tokens(text, family)) for text in texts])

    def _note(self, text: object) -> None:
        if isinstance(text, str):
            self.weight += estimate.weight(text)

    def _report(self, said: object) -> None:
        """Usage in OpenAI's words; the last one wins, and one that counts nothing says nothing."""
        usage = reported.openai(said) if isinstance(said, dict) else None
        if usage is not None:
            self.usage = usage

    def _note_tier(self, told: Mapping[str, object]) -> None:
        tier = tiers.answered(told)
        if tier is not None:
            self.tier = tier

    def answer(self, parsed: Mapping[str, object]) -> None:
        self.finished = True
        self._note_tier(parsed)
        self.failed = bool(parsed.get("error"))  # some gateways answer 200 with an error inside
        self._report(parsed.get("usage"))

    def made_ids(self) -> list[str]:
        return []

    def total(self, estimated_input: int) -> Usage:
        usage = self.usage
        if usage is None:
            usage = Usage(input=estimated_input, output=estimate.tokens(self.weight), source=UsageSource.ESTIMATED)
        usage.tier = self.tier or usage.tier
        if self.images or self.hosted:
            return replace(usage, images=self.images, hosted_calls=self.hosted)
        return usage


_STRUCTURE = frozenset(
    {
        *("type", "id", "role", "object", "status", "format", "finish_reason"),
        *("call_id", "item_id", "response_id", "signature", "thought_signature", "encrypted_content"),
        *("annotation", "annotations", "citations", "logprobs", "obfuscation"),
    }
)
"""Fields inside an output that are none of it. Whatever else is a string is text: a field may be new to us."""


def _strings(value: object, besides: frozenset[str] = _STRUCTURE) -> list[str]:
    """Every string in a value but those in fields of these names; by hand, as backends may nest as they like."""
    found: list[str] = []
    left = [value]
    while left:
        one = left.pop()
        if isinstance(one, str):
            found.append(one)
        elif isinstance(one, dict):
            left += [inner for name, inner in one.items() if name not in besides]
        elif isinstance(one, list):
            left += one
    return found


@lru_cache(maxsize=64)
def _tier(named: str) -> str | None:
    """As `_note_tier` has it; the same word is in nearly every event."""
    return tiers.answered({"service_tier": named})


class ChatMeter(_Counting):
    """Chat completions and completions of OpenAI and those who speak its dialect."""

    __slots__ = ("_called", "_hide_usage", "_refused")

    def __init__(self, hide_usage: bool = False, searches: bool = False) -> None:
        super().__init__()
        self.tools = 0
        self._called: set[object] = set()  # by their ids and their places: some servers leave out either
        self._refused = False
        self._hide_usage = hide_usage
        self.hosted = int(searches)

    def event(self, raw: bytes) -> bool:
        if self._ending is None:
            self.piece = piece = pieces.chat(raw)
            if piece is not None:
                self._note_piece(piece)
                return False
        chunk = self._read(raw)
        if chunk is None:
            self.finished = self.finished or sse.data(raw) == _DONE
            return False
        if chunk.get("error"):
            self.failed = True
        for choice in objects(chunk.get("choices")):
            self._note_choice(choice)
        if "service_tier" in chunk:
            self._note_tier(chunk)
        usage = chunk.get("usage")
        self._report(usage)
        return self._hide_usage and isinstance(usage, dict) and chunk.get("choices") == []

    def _note_piece(self, piece: Piece) -> None:
        """As of any other event, but that it has been read, and cannot tell anything else."""
        if piece.text:
            self.weight += estimate.weight(piece.text)
            self.spoken = True
        named = piece.tier
        if named is not None and (tier := _tier(named)) is not None:
            self.tier = tier

    def _make_ending(self) -> Ending:
        return ChatEnding()

    def _said(self, event: Mapping[str, object]) -> tuple[list[str], int]:
        texts: list[str] = []
        media = 0
        for choice in objects(event.get("choices")):
            delta = choice.get("delta") or choice.get("message")
            if isinstance(delta, dict):
                media += _add_delta(texts, delta)
            elif isinstance(text := choice.get("text"), str):
                texts.append(text)
        return texts, media

    def answer(self, parsed: Mapping[str, object]) -> None:
        super().answer(parsed)
        self._count(parsed)
        for choice in objects(parsed.get("choices")):
            self._note_choice(choice)

    def _note_choice(self, choice: Mapping[str, object]) -> None:
        delta = choice.get("delta") or choice.get("message")
        if isinstance(delta, dict):
            if called := delta.get("tool_calls"):
                for place, one in enumerate(objects(called)):
                    self._note_call(choice.get("index"), one, place)
            if isinstance(alone := delta.get("function_call"), dict):
                self._note_call(choice.get("index"), {"function": alone}, 0)
            self._refused = self._refused or bool(delta.get("refusal"))
        if self.stop is None and (reason := choice.get("finish_reason")):
            self.stop = stops.stop(reason)
        if self._refused and self.stop == "stop":  # OpenAI tells a refusal apart from how the answer ended
            self.stop = "refusal"

    def _note_call(self, choice: object, piece: Mapping[str, object], place: int) -> None:
        """A piece of a call of a tool: the first one at its place, or one that names a function under a new id.

        Some servers tell all calls at place 0, others make a new id for every piece.
        """
        if isinstance(told := piece.get("index"), int):
            place = told
        function, name = piece.get("function"), piece.get("id")
        at = (choice if isinstance(choice, int) else 0, place)
        known = self._called
        names = isinstance(function, dict) and bool(function.get("name"))
        if at not in known or (names and isinstance(name, str) and name not in known):
            self.tools = (self.tools or 0) + 1
        known.add(at)
        if isinstance(name, str):
            known.add(name)


def _add_delta(texts: list[str], delta: Mapping[str, object]) -> int:
    """Add the texts of a delta or message; returns the characters of its sound and pictures."""
    media = 0
    for name, said in delta.items():  # nearly always one
        if name in _STRUCTURE:
            continue
        if isinstance(said, str):
            texts.append(said)
        elif name == "audio" and isinstance(said, dict):
            media += _length(said.get("data"))
            texts += _strings(said, _SOUND)
        elif name == "images":
            media += sum(map(len, _strings(said)))
        elif name == "reasoning_details":  # OpenRouter says the same in `reasoning`
            texts += [text for text in _strings(said) if text != delta.get("reasoning")]
        elif said:
            texts += _strings(said)
    return media


_SOUND = _STRUCTURE | {"data"}


def _length(text: object) -> int:
    return len(text) if isinstance(text, str) else 0


_RESPONSES_LAST = ("response.completed", "response.incomplete", "response.failed")
_HOSTED = frozenset({"web_search_call", "file_search_call", "code_interpreter_call"})
_CALLS = frozenset(
    ("function_call", "custom_tool_call", "computer_call", "local_shell_call", "shell_call", "apply_patch_call")
)
"""Of tools that the client runs."""
_BROUGHT = _STRUCTURE | {"results", "outputs", "output", "result", "sources", "tools", "error"}
"""Nor does the model write what tools give back."""


class ResponsesMeter(_Counting):
    """OpenAI's Responses API: the last event carries the whole response, its usage and its ids."""

    __slots__ = ("_called", "_given", "_made", "_shown")

    def __init__(self) -> None:
        super().__init__()
        self._called: set[object] = set()  # output indices of calls of tools
        self.tools = 0
        self._made: list[str] = []
        self._given: set[str] = set()
        self._shown: set[object] = set()  # output indices of items that came in deltas, and are told again when done

    def event(self, raw: bytes) -> bool:
        event = self._read(raw)
        if event is None:
            return False
        kind = event.get("type")
        if isinstance(at := event.get("output_index"), int) and "delta" in event:
            self._shown.add(at)
        response = event.get("response")
        if isinstance(response, dict):
            self._note_response(response)
        item = event.get("item")
        if isinstance(item, dict):
            self._note_item(item)
            self._note_call(item, at)
            if kind == "response.output_item.done":
                self._count_made(item)
        if kind in _RESPONSES_LAST:
            self.finished = True
            self._note_stop(response)
        if kind in ("error", "response.failed"):
            self.failed = True
        return False

    def _make_ending(self) -> Ending:
        return ResponsesEnding()

    def _said(self, event: Mapping[str, object]) -> tuple[list[str], int]:
        kind, at = event.get("type"), event.get("output_index")
        if not isinstance(kind, str):
            return [], 0
        if kind.endswith("audio.delta"):
            return [], _length(event.get("delta"))
        if kind.endswith(".delta"):
            return _strings(event.get("delta")), 0
        shown = isinstance(at, int) and at in self._shown
        if kind.endswith(".added") or (kind.endswith(".done") and not shown):
            return _strings(event, _BROUGHT), 0
        return [], 0

    def answer(self, parsed: Mapping[str, object]) -> None:
        self.finished = True
        self.failed = bool(parsed.get("error"))
        self._note_response(parsed)
        for item in objects(parsed.get("output")):
            self._note_output(item)
            self._count_made(item)
        self._note_stop(parsed)

    def _note_call(self, item: Mapping[str, object], at: object) -> None:
        kind = item.get("type")
        if isinstance(kind, str) and kind in _CALLS and isinstance(at, int):
            self._called.add(at)
            self.tools = len(self._called)

    def _note_stop(self, response: object) -> None:
        """Of the whole response, which may have calls of which no event told."""
        if not isinstance(response, dict):
            return
        output = objects(response.get("output"))
        for at, item in enumerate(output):
            self._note_call(item, at)
        refused = any(part.get("type") == "refusal" for item in output for part in objects(item.get("content")))
        self.stop = stops.response_stop(response, len(self._called), refused)

    def _count_made(self, item: Mapping[str, object]) -> None:
        kind = item.get("type")
        self.hosted += isinstance(kind, str) and kind in _HOSTED
        self.images += kind == "image_generation_call"

    def _note_response(self, response: Mapping[str, object]) -> None:
        self._note_tier(response)
        self._report(response.get("usage"))
        if response.get("store") is not False:
            self._make(response.get("id"))
            conversation = response.get("conversation")
            if isinstance(conversation, dict):
                self._make(conversation.get("id"))
        for item in objects(response.get("output")):
            self._note_item(item)

    def _note_item(self, item: Mapping[str, object]) -> None:
        self._make(item.get("id"))
        self._make(item.get("encrypted_content"))

    def _note_output(self, item: Mapping[str, object]) -> None:
        for text in _strings(item, _BROUGHT):
            self._note(text)

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
        self.tools = 0
        self._final = False  # message_start reports the input only; the output comes with message_delta

    def event(self, raw: bytes) -> bool:
        event = self._read(raw)
        if event is None:
            return False
        kind = event.get("type")
        if kind == "message_start":
            message = event.get("message")
            if isinstance(message, dict) and isinstance(message.get("usage"), dict):
                self.usage = reported.anthropic(message["usage"], self.usage)
        elif kind == "message_delta":
            usage = event.get("usage")
            if isinstance(usage, dict):
                self.usage = reported.anthropic(usage, self.usage)
                self._final = "output_tokens" in usage
            if isinstance(delta := event.get("delta"), dict):
                self._note_stop(delta)
        elif kind == "content_block_start":
            self._note_block(event.get("content_block"))
        elif kind == "message_stop":
            self.finished = True
        elif kind == "error":
            self.failed = True
        return False

    def _make_ending(self) -> Ending:
        return AnthropicEnding()

    def _said(self, event: Mapping[str, object]) -> tuple[list[str], int]:
        kind = event.get("type")
        if kind == "content_block_delta":
            return _written(event.get("delta")), 0
        if kind == "content_block_start":
            return _written(event.get("content_block")), 0
        return [], 0

    def answer(self, parsed: Mapping[str, object]) -> None:
        self.finished = True
        self.failed = parsed.get("type") == "error"
        usage = parsed.get("usage")
        if isinstance(usage, dict):
            self.usage = reported.anthropic(usage)
            self._final = "output_tokens" in usage
        for block in objects(parsed.get("content")):
            for text in _written(block):
                self._note(text)
            self._note_block(block)
        self._note_stop(parsed)

    def _note_stop(self, told: Mapping[str, object]) -> None:
        self.stop = stops.stop(told.get("stop_reason")) or self.stop

    def _note_block(self, block: object) -> None:
        if isinstance(block, dict) and block.get("type") == "tool_use":
            self.tools = (self.tools or 0) + 1

    def total(self, estimated_input: int) -> Usage:
        """No input at all is none that was told: the API wants a number where a server that it stands for has none."""
        told = self.usage
        if told is None or (self._final and told.input):
            return super().total(estimated_input)
        is_told = self._final and told.output
        output = told.output if is_told else max(told.output, estimate.tokens(self.weight))
        return replace(told, input=told.input or estimated_input, output=output, source=UsageSource.ESTIMATED)


def _written(part: object) -> list[str]:
    """What the model wrote of a block or a delta: not what it cites, nor what a tool gave back."""
    kind = part.get("type") if isinstance(part, dict) else None
    brought = isinstance(kind, str) and (kind == "citations_delta" or kind.endswith("_result"))
    return [] if brought else _strings(part)


class PlainMeter(_Counting):
    """Answers with at most one usage object: embeddings, images, audio, rerank, moderations."""

    __slots__ = ()

    def event(self, raw: bytes) -> bool:
        event = self._read(raw)
        if event is None:
            return False
        self._report(event.get("usage"))
        kind = event.get("type")
        if isinstance(kind, str) and kind.endswith((".done", ".completed")):
            self.finished = True
            self.images += kind.startswith("image_")
        return False

    def answer(self, parsed: Mapping[str, object]) -> None:
        super().answer(parsed)
        self._note(parsed.get("text"))  # of a transcription or translation
        self.images = sum("b64_json" in item or "url" in item for item in objects(parsed.get("data")))


class UncountedMeter(_Counting):
    """Answers that use nothing: a token count asked for, a stored response read again."""

    __slots__ = ()

    def event(self, raw: bytes) -> bool:  # noqa: ARG002 - the shape of a meter
        return False

    def weigh(self, raw: bytes) -> int:  # noqa: ARG002
        return 0

    def total(self, estimated_input: int) -> Usage:  # noqa: ARG002
        return Usage()
