"""Usage in the words of the providers."""

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from extproc.dialects import usage
from extproc.model import Usage, UsageSource

REPORTED = UsageSource.REPORTED
OPENAI: dict[str, tuple[Mapping[str, object], Usage]] = {
    "chat": (
        {
            "prompt_tokens": 30,
            "completion_tokens": 20,
            "total_tokens": 50,
            "prompt_tokens_details": {"cached_tokens": 8, "audio_tokens": 3},
            "completion_tokens_details": {"reasoning_tokens": 12, "audio_tokens": 4},
        },
        Usage(30, 20, cached_input=8, audio_input=3, audio_output=4, reasoning=12),
    ),
    "responses": (
        {
            "input_tokens": 30,
            "input_tokens_details": {"cached_tokens": 8},
            "output_tokens": 20,
            "output_tokens_details": {"reasoning_tokens": 12},
            "total_tokens": 50,
        },
        Usage(30, 20, cached_input=8, reasoning=12),
    ),
    "a prompt cache that is written": (
        {"input_tokens": 30, "input_tokens_details": {"cached_tokens": 8, "cache_write_tokens": 9}},
        Usage(30, cached_input=8, cache_write=9),
    ),
    "an image model": (
        {"input_tokens": 50, "input_tokens_details": {"text_tokens": 10, "image_tokens": 40}, "output_tokens": 4160},
        Usage(50, 4160, image_input=40),
    ),
    "classes that nobody knows": (
        {
            "prompt_tokens": 30,
            "prompt_tokens_details": {"video_tokens": 8, "smell_tokens": 2, "video_seconds": 9, "odd_tokens": "x"},
            "completion_tokens": 20,
            "completion_tokens_details": {"dream_tokens": 3, "rejected_prediction_tokens": 4},
        },
        Usage(30, 20, other_input=10, other_output=3),
    ),
    "reasoning in the total alone": (
        {"prompt_tokens": 30, "completion_tokens": 20, "total_tokens": 150},
        Usage(30, 120),
    ),
    "reasoning beside the output": (
        {
            "prompt_tokens": 30,
            "completion_tokens": 20,
            "total_tokens": 150,
            "completion_tokens_details": {"reasoning_tokens": 100},
        },
        Usage(30, 120, reasoning=100),
    ),
    "more reasoning than output": (
        {"prompt_tokens": 30, "completion_tokens": 20, "completion_tokens_details": {"reasoning_tokens": 100}},
        Usage(30, 120, reasoning=100),
    ),
    "cached tokens beside the input": (
        {"prompt_tokens": 10, "completion_tokens": 1, "prompt_tokens_details": {"cached_tokens": 3000}},
        Usage(3010, 1, cached_input=3000),
    ),
    "a total that is too small": ({"prompt_tokens": 30, "completion_tokens": 20, "total_tokens": 5}, Usage(30, 20)),
    "transcription": (
        {"type": "tokens", "input_tokens": 14, "input_token_details": {"audio_tokens": 10}, "output_tokens": 2},
        Usage(14, 2, audio_input=10),
    ),
    "transcription by time": ({"type": "duration", "seconds": 9}, Usage(seconds=9.0)),
    "no time": ({"seconds": 0}, Usage()),
    "part of a second": ({"seconds": 1.5}, Usage(seconds=1.5)),
    "embedding": ({"prompt_tokens": 5, "total_tokens": 5}, Usage(5)),
    "total only": ({"total_tokens": 7}, Usage(7)),
    "total and output": ({"total_tokens": 7, "completion_tokens": 3}, Usage(4, 3)),
    "total below output": ({"total_tokens": 1, "completion_tokens": 3}, Usage(0, 3)),
    "zero": ({"prompt_tokens": 0, "completion_tokens": 0, "total_tokens": 9}, Usage()),
    "null details": ({"prompt_tokens": 1, "prompt_tokens_details": None, "completion_tokens": 2}, Usage(1, 2)),
    "hostile": (
        {
            "prompt_tokens": -1,
            "input_tokens": 4,
            "completion_tokens": True,
            "prompt_tokens_details": {"cached_tokens": "9"},
        },
        Usage(4),
    ),
    "the most": ({"prompt_tokens": 10**10 - 1, "completion_tokens": 1}, Usage(10**10 - 1, 1)),
    "beyond any count": ({"prompt_tokens": 10**10, "completion_tokens": 1, "seconds": 1e10}, Usage(0, 1)),
}


@pytest.mark.parametrize(("reported", "expected"), OPENAI.values(), ids=OPENAI)
def test_openai_usage_is_kept_by_kind(reported: Mapping[str, object], expected: Usage) -> None:
    expected.source = REPORTED
    assert usage.openai(reported) == expected


@pytest.mark.parametrize(
    "reported",
    [{}, {"prompt_tokens": None}, {"prompt_tokens": "5"}, {"total_tokens": 1.5}, {"seconds": True}, {"cost": 0.2}],
)
def test_usage_that_counts_nothing_is_none(reported: Mapping[str, object]) -> None:
    assert usage.openai(reported) is None


def test_anthropic_input_includes_its_cached_tokens() -> None:
    reported = {
        "input_tokens": 10,
        "cache_creation_input_tokens": 200,
        "cache_read_input_tokens": 3000,
        "output_tokens": 42,
    }
    assert usage.anthropic(reported) == Usage(3210, 42, cached_input=3000, cache_write=200, source=REPORTED)


def test_anthropic_says_how_often_its_own_tools_ran() -> None:
    first = usage.anthropic({"input_tokens": 1, "server_tool_use": {"web_search_requests": 1}})
    assert first.hosted_calls == 1
    assert usage.anthropic({"output_tokens": 1}, first).hosted_calls == 1
    later = usage.anthropic({"server_tool_use": {"web_search_requests": 2, "web_fetch_requests": 3}}, first)
    assert later.hosted_calls == 5
    assert usage.anthropic({"server_tool_use": {"web_search_requests": -1, "x": "y"}}).hosted_calls == 0


@pytest.mark.parametrize(
    ("later", "expected"),
    [
        ({"output_tokens": 9}, Usage(13, 9, cached_input=2, cache_write=1)),
        ({"output_tokens": 9, "input_tokens": None}, Usage(13, 9, cached_input=2, cache_write=1)),
        ({"output_tokens": 9, "input_tokens": 20}, Usage(23, 9, cached_input=2, cache_write=1)),
        ({"output_tokens": 9, "cache_read_input_tokens": None}, Usage(13, 9, cached_input=2, cache_write=1)),
        ({"output_tokens": 9, "cache_read_input_tokens": 5}, Usage(16, 9, cached_input=5, cache_write=1)),
        ({"cache_creation_input_tokens": 4}, Usage(16, 1, cached_input=2, cache_write=4)),
        ({"output_tokens": -5}, Usage(13, 1, cached_input=2, cache_write=1)),
        ({}, Usage(13, 1, cached_input=2, cache_write=1)),
    ],
)
def test_what_a_later_anthropic_report_leaves_out_stays(later: Mapping[str, object], expected: Usage) -> None:
    before = Usage(13, 1, cached_input=2, cache_write=1, source=REPORTED)
    expected.source = REPORTED
    assert usage.anthropic(later, before) == expected
    assert before.output == 1


_names = st.sampled_from(
    (
        *("prompt_tokens", "completion_tokens", "total_tokens", "input_tokens", "output_tokens", "seconds", "x"),
        *("cache_read_input_tokens", "cache_creation_input_tokens", "cached_tokens", "prompt_tokens_details"),
    )
)
_json: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(_names, inner, max_size=6),
)
_reports = st.dictionaries(_names, _json, max_size=8)


_amounts = st.integers(0, 10**10 - 1) | st.integers(0, 100)


@given(_amounts, _amounts, st.none() | _amounts, _amounts, _amounts, _amounts)
def test_the_parts_of_a_side_are_never_more_than_the_side(
    given_: int, made: int, total: int | None, cached: int, written: int, reasoning: int
) -> None:
    counted = usage.openai(
        {
            "input_tokens": given_,
            "output_tokens": made,
            "total_tokens": total,
            "input_tokens_details": {"cached_tokens": cached, "cache_write_tokens": written},
            "output_tokens_details": {"reasoning_tokens": reasoning} if total is None else {},
        }
    )
    assert counted
    assert given_ <= counted.input
    assert made <= counted.output
    assert counted.cached_input + counted.cache_write <= counted.input
    assert counted.reasoning <= counted.output


@given(st.lists(_reports, min_size=1, max_size=4))
def test_no_report_makes_a_count_negative(reports: list[dict[str, Any]]) -> None:
    seen: Usage | None = None
    for report in reports:
        seen = usage.anthropic(report, seen)
        for counted in (seen, usage.openai(report)):
            if counted is not None:
                assert all(value >= 0 for value in asdict(counted).values() if not isinstance(value, str))


# ---- the tail of a large answer -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("tail", "expected"),
    [
        (b'..."}],"usage":{"prompt_tokens":3},"service_tier":null}', {"prompt_tokens": 3}),
        (b'"usage" : { "a": {"b": 1}, "c": 2 }\n}', {"a": {"b": 1}, "c": 2}),
        (b'"usage":{"a":1},"usage":{"a":2}}', {"a": 2}),
        (b'"text":"say \\"usage\\":{ }"', None),
        (b'"usage":{}', {}),
        (b'"usage":null', None),
        (b'"usage":{"a":1', None),
        (b'"usage":{"a":{"b":{"c":1}}}', None),
        (b'"usage":{"a" 1}', None),
        (b"", None),
    ],
)
def test_the_last_usage_of_a_tail_is_found(tail: bytes, expected: object) -> None:
    assert usage.in_tail(tail) == expected


_flat = st.dictionaries(_names, st.none() | st.integers(-(2**63), 2**63) | st.floats() | st.booleans(), max_size=8)
_two_levels = st.dictionaries(_names, st.none() | st.integers(0, 2**60) | _flat, max_size=8)


@given(_two_levels, st.binary(max_size=30))
def test_a_usage_object_at_the_end_is_read_whatever_comes_before(report: dict[str, Any], before: bytes) -> None:
    said = orjson.loads(orjson.dumps(report))
    assert usage.in_tail(before + b'"usage":' + orjson.dumps(report) + b"}") == said
