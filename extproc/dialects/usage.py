"""Usage as providers report it, in their several vocabularies, brought to one `Usage`."""

import re
from collections.abc import Mapping

import orjson

from extproc.dialects import tiers
from extproc.model import Usage, UsageSource

_MAX = 10**10
"""No call uses as many tokens, or seconds: who says so is not believed, lest a few such calls fill up any sum."""

TAIL = 64 * 1024
"""Bytes at the end of a large answer in which its usage is looked for."""

_KNOWN = frozenset(
    {
        *("cached_tokens", "cache_write_tokens", "cache_write_1h_tokens"),
        *("audio_tokens", "text_tokens", "image_tokens"),
        *("reasoning_tokens", "accepted_prediction_tokens", "rejected_prediction_tokens"),
    }
)
_USAGE_KEY = re.compile(rb'"usage"\s*:\s*\{')
_OBJECT = re.compile(rb"[^{}]*+(?>(?:\{[^{}]*+\}[^{}]*+)*)\}")  # two levels: usage and its details


def _said(source: Mapping[str, object], *names: str) -> int | None:
    """The first of these that is a count; None where each is absent, null or hostile."""
    for name in names:
        value = source.get(name)
        if type(value) is int and 0 <= value < _MAX:
            return value
    return None


def _count(source: Mapping[str, object], name: str) -> int:
    value = source.get(name)
    return value if type(value) is int and 0 <= value < _MAX else 0


def _details(source: Mapping[str, object], *names: str) -> Mapping[str, object]:
    for name in names:
        value = source.get(name)
        if isinstance(value, dict):
            return value
    return {}


def openai(reported: Mapping[str, object]) -> Usage | None:
    """Usage of OpenAI's APIs: chat's `prompt_tokens` and the newer `input_tokens` family.

    Some rerank and embedding servers say only `total_tokens`. None where nothing is counted at all.
    """
    total = _said(reported, "total_tokens")
    given = _said(reported, "prompt_tokens", "input_tokens")
    made = _said(reported, "completion_tokens", "output_tokens")
    seconds = _seconds(reported)
    if total is None and given is None and made is None and seconds is None:
        return None
    of_input = _details(reported, "prompt_tokens_details", "input_tokens_details", "input_token_details")
    of_output = _details(reported, "completion_tokens_details", "output_tokens_details")
    read, other_input = _classes(of_input)
    wrote, other_output = _classes(of_output)
    cached, written = read.get("cached_tokens", 0), read.get("cache_write_tokens", 0)
    reasoning = wrote.get("reasoning_tokens", 0)
    return Usage(
        input=max(0, (total or 0) - (made or 0)) if given is None else _with_cached(given, cached + written),
        output=_with_reasoning(given, made or 0, total, reasoning),
        cached_input=cached,
        cache_write=written,
        audio_input=read.get("audio_tokens", 0),
        audio_output=wrote.get("audio_tokens", 0),
        image_input=read.get("image_tokens", 0),
        image_output=wrote.get("image_tokens", 0),
        reasoning=reasoning,
        other_input=other_input,
        other_output=other_output,
        seconds=seconds or 0.0,
        source=UsageSource.REPORTED,
        cache_write_1h=read.get("cache_write_1h_tokens", 0),
    )


def _with_cached(given: int, cached: int) -> int:
    """Servers that translate from Anthropic's API leave cached tokens out of the input."""
    return given + cached if cached > given else given


def _with_reasoning(given: int | None, made: int, total: int | None, reasoning: int) -> int:
    """Gemini and Grok leave reasoning out of the output, and count it in the total alone."""
    if made and given is not None and total is not None and total > given + made:
        return total - given
    return made + reasoning if reasoning > made else made


def _classes(details: Mapping[str, object]) -> tuple[dict[str, int], int]:
    """The classes of tokens that there are any of, and those of classes that we do not know, so that they are not taken
    for cheap ones."""
    known, others = {}, 0
    for name, value in details.items():
        if type(value) is int and 0 < value < _MAX:
            if name in _KNOWN:
                known[name] = value
            elif name.endswith("_tokens"):
                others += value
    return known, others


def _seconds(reported: Mapping[str, object]) -> float | None:
    value = reported.get("seconds")
    if isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value < _MAX:
        return float(value)
    return None


def anthropic(reported: Mapping[str, object], before: Usage | None = None) -> Usage:
    """Usage of Anthropic's Messages API. Its `input_tokens` leaves cached tokens out; ours counts them in.

    On a stream the counts of `message_delta` are cumulative; what it leaves out or null stays as `before`.
    """
    was = before or Usage()
    read = _said(reported, "cache_read_input_tokens")
    written = _said(reported, "cache_creation_input_tokens")
    plain = _said(reported, "input_tokens")
    made = _said(reported, "output_tokens")
    cached = was.cached_input if read is None else read
    cache_write = was.cache_write if written is None else written
    uncached = was.input - was.cached_input - was.cache_write if plain is None else plain
    hour = _said(_details(reported, "cache_creation"), "ephemeral_1h_input_tokens")
    tier = tiers.answered(reported)
    tools = _details(reported, "server_tool_use")
    thought = _said(_details(reported, "output_tokens_details"), "thinking_tokens")
    return Usage(
        input=uncached + cached + cache_write,
        output=was.output if made is None else made,
        cached_input=cached,
        cache_write=cache_write,
        reasoning=was.reasoning if thought is None else thought,
        hosted_calls=sum(_count(tools, name) for name in tools) if tools else was.hosted_calls,
        source=UsageSource.REPORTED,
        cache_write_1h=was.cache_write_1h if hour is None else hour,
        tier=was.tier if tier is None else tier,
    )


def in_tail(tail: bytes) -> Mapping[str, object] | None:
    """The last `usage` object in the end of an answer too large to parse whole, or None."""
    starts = [found.end() for found in _USAGE_KEY.finditer(tail)]
    if not starts:
        return None
    rest = _OBJECT.match(tail, starts[-1])
    if rest is None:
        return None
    try:
        value = orjson.loads(b"{" + rest.group())
    except ValueError:
        return None
    return value if isinstance(value, dict) else None
