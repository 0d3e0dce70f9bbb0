"""What the model says: one deterministic turn from what it was asked, independent of the dialect."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain, cycle, islice
from math import ceil
from typing import Any

import orjson

from loadtest.fake_llm import schema, tokenizer
from loadtest.fake_llm.answer import Json
from loadtest.fake_llm.faults import Faults

_FILLER = (" the", " quick", " brown", " fox", " jumps", " over", " the", " lazy", " dog", " and", " sleeps")
_NATURAL_LENGTH = 16
"""Tokens of an answer nobody limited; a longer echo is not cut."""

IMAGE_TOKENS = 85
FILE_TOKENS = 50


@dataclass(frozen=True, slots=True)
class ToolCall:
    """A call the model makes; `arguments` is JSON text."""

    name: str
    arguments: str

    @property
    def tokens(self) -> int:
        return tokenizer.count(self.name) + tokenizer.count(self.arguments)


@dataclass(frozen=True, slots=True)
class Ask:
    """What a dialect read from a request. `limit` is the most tokens wanted, `tools` are to be called now.

    `schema` is what the text must satisfy as JSON (`{}`: any object), or None for plain text.
    """

    last_text: str
    input_tokens: int
    limit: int | None = None
    tools: tuple[ToolCall, ...] = ()
    schema: Json | None = None


@dataclass(frozen=True, slots=True)
class Turn:
    """What the model says: text as its tokens, or calls. `cut` says that the limit ended it."""

    pieces: tuple[str, ...]
    calls: tuple[ToolCall, ...] = ()
    refuses: bool = False
    cut: bool = False

    @property
    def text(self) -> str:
        return "".join(self.pieces)

    @property
    def tokens(self) -> int:
        return len(self.pieces) + sum(call.tokens for call in self.calls)


@dataclass(frozen=True, slots=True)
class Counts:
    """The true usage of a call, as the provider's tokenizer counts. `input` and `output` have all others in them."""

    input: int
    output: int
    cached: int = 0
    reasoning: int = 0
    cache_write: int = 0
    audio_input: int = 0
    audio_output: int = 0

    @property
    def classes(self) -> Mapping[str, int]:
        """The parts that have a price of their own, by their names in the bill; without those of nothing."""
        parts = {
            "cached_input": self.cached,
            "cache_write": self.cache_write,
            "audio_input": self.audio_input,
            "audio_output": self.audio_output,
            "reasoning": self.reasoning,
        }
        return {name: tokens for name, tokens in parts.items() if tokens}


def compose(ask: Ask, faults: Faults, index: int = 0) -> Turn:
    """Say what the faults demand, else call tools, else fill a schema, else echo with filler words."""
    if faults.refusal is not None:
        return Turn(tuple(tokenizer.split(faults.refusal)), refuses=True)
    if faults.tool_calls:
        return Turn((), tuple(_demanded(call) for call in faults.tool_calls))
    if faults.text is not None:
        return Turn(tuple(tokenizer.split(faults.text)))
    if faults.events is not None:
        return Turn(tuple(islice(_filler(), faults.events)))
    if ask.tools:
        return Turn((), ask.tools)
    pieces = _spoken(ask, index)
    if faults.length is not None:
        pieces = list(islice(chain(pieces, _filler()), faults.length))
    return _limited(pieces, _pieces_within(ask.limit, faults))


def count(ask: Ask, turns: Sequence[Turn], faults: Faults, thought: int = 0) -> Counts:
    """The usage of a call that thought for so many tokens before it spoke.

    The input is at least what was demanded of its parts, and sound is no more than was said.
    """
    output = sum(turn.tokens for turn in turns) + thought + faults.reasoning_tokens
    parts = faults.cached_tokens + faults.cache_write_tokens + faults.audio_input_tokens
    return Counts(
        max(scaled(ask.input_tokens, faults) + faults.template_tokens, parts),
        scaled(output, faults),
        faults.cached_tokens,
        scaled(faults.reasoning_tokens, faults),
        faults.cache_write_tokens,
        faults.audio_input_tokens,
        min(faults.audio_output_tokens, scaled(output - faults.reasoning_tokens, faults)),
    )


def scaled(tokens: int, faults: Faults) -> int:
    """Our count of tokens as the provider's own tokenizer makes it, rounded up."""
    return ceil(round(tokens * faults.tokens_percent / 100, 6))


def _pieces_within(limit: int | None, faults: Faults) -> int | None:
    """How many of our tokens a cap leaves room for, which the provider counts in its own."""
    return None if limit is None or faults.ignores_cap else int(limit * 100 / faults.tokens_percent)


def reported(usage: Json, faults: Faults) -> list[Json]:
    """The usage objects to send, in order: one, or as the `usage` fault says none, two, or a changed one.

    `decreasing` gives a second one with half of every top-level figure, `double` the same one again.
    """
    match faults.usage:
        case "none":
            return []
        case "double":
            return [usage, usage]
        case "decreasing":
            return [
                usage,
                {name: value // 2 if isinstance(value, int) else value for name, value in usage.items()},
            ]
        case Mapping() as override:
            return [usage | dict(override)]
        case _:
            return [usage]


def tool_call(name: str, parameters: Mapping[str, Any] | None) -> ToolCall:
    """A call of a tool, its arguments made up from the schema of its parameters."""
    arguments = schema.fill(parameters) if parameters else {}
    return ToolCall(name, orjson.dumps(arguments).decode())


def _demanded(call: Mapping[str, Any]) -> ToolCall:
    arguments = call.get("arguments", {})
    text = arguments if isinstance(arguments, str) else orjson.dumps(arguments).decode()
    return ToolCall(call["name"], text)


def _spoken(ask: Ask, index: int) -> list[str]:
    opening = "You said" if index == 0 else f"You said ({index + 1})"
    if ask.schema is not None:
        value = schema.fill(ask.schema) if ask.schema else {"answer": f"{opening}: {ask.last_text}"}
        return tokenizer.split(orjson.dumps(value).decode())
    pieces = tokenizer.split(f"{opening}: {ask.last_text}.")
    return pieces + list(islice(_filler(), max(0, _NATURAL_LENGTH - len(pieces))))


def _limited(pieces: list[str], limit: int | None) -> Turn:
    if limit is None or len(pieces) <= limit:
        return Turn(tuple(pieces))
    return Turn(tuple(pieces[:limit]), cut=True)


def _filler() -> Iterator[str]:
    return cycle(_FILLER)
