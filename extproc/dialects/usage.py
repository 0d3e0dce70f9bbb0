"""Usage as providers report it, in their several vocabularies, brought to one `Usage`."""

import re
from collections.abc import Mapping

import orjson

from extproc.model import Usage, UsageSource

_MAX = 2**53
TAIL = 64 * 1024
"""Bytes at the end of a large answer in which its usage is looked for."""

_USAGE_KEY = re.compile(rb'"usage"\s*:\s*\{')
_OBJECT = re.compile(rb"[^{}]*+(?:\{[^{}]*+\}[^{}]*+)*+\}")  # two levels: usage and its details


def _count(source: Mapping[str, object], *names: str) -> int:
    """The first of these that is a count; a hostile or absent value is 0."""
    for name in names:
        value = source.get(name)
        if isinstance(value, int) and not isinstance(value, bool) and 0 <= value < _MAX:
            return value
    return 0


def _details(source: Mapping[str, object], *names: str) -> Mapping[str, object]:
    for name in names:
        value = source.get(name)
        if isinstance(value, dict):
            return value
    return {}


def openai(reported: Mapping[str, object]) -> Usage:
    """Usage of OpenAI's APIs: chat's `prompt_tokens` and the newer `input_tokens` family."""
    of_input = _details(reported, "prompt_tokens_details", "input_tokens_details", "input_token_details")
    of_output = _details(reported, "completion_tokens_details", "output_tokens_details")
    seconds = reported.get("seconds")
    return Usage(
        input=_count(reported, "prompt_tokens", "input_tokens"),
        output=_count(reported, "completion_tokens", "output_tokens"),
        cached_input=_count(of_input, "cached_tokens"),
        audio_input=_count(of_input, "audio_tokens"),
        audio_output=_count(of_output, "audio_tokens"),
        reasoning=_count(of_output, "reasoning_tokens"),
        seconds=float(seconds) if isinstance(seconds, int | float) and 0 <= seconds < _MAX else 0.0,
        source=UsageSource.REPORTED,
    )


def anthropic(reported: Mapping[str, object], before: Usage | None = None) -> Usage:
    """Usage of Anthropic's Messages API. Its `input_tokens` leaves cached tokens out; ours counts them in.

    On a stream the counts of `message_delta` are cumulative and may leave out what `message_start` said.
    """
    usage = before or Usage()
    if "input_tokens" in reported:
        usage.cached_input = _count(reported, "cache_read_input_tokens")
        usage.cache_write = _count(reported, "cache_creation_input_tokens")
        usage.input = _count(reported, "input_tokens") + usage.cached_input + usage.cache_write
    if "output_tokens" in reported:
        usage.output = _count(reported, "output_tokens")
    usage.source = UsageSource.REPORTED
    return usage


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
