"""A chat's meter need not parse what is a mere piece of text: it must count as if it had."""

import json
from typing import Any
from unittest import mock

import pytest
from hypothesis import given
from hypothesis import strategies as st

from extproc.dialects import meters, pieces
from extproc.dialects.meters import ChatMeter

COMMON = {"id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 1, "model": "gpt-4o"}
STATE = ("finished", "failed", "usage", "weight", "spoken", "stop", "tools", "tier", "images")


def chunk(delta: dict[str, Any], **more: Any) -> dict[str, Any]:
    return COMMON | {"choices": [{"index": 0, "delta": delta, "finish_reason": None}]} | more


def raw(event: dict[str, Any], plain: bool = True) -> bytes:
    text = json.dumps(event, separators=(",", ":"), ensure_ascii=not plain)
    return b"data: " + text.encode(errors="replace") + b"\n\n"


def state(events: list[bytes]) -> list[Any]:
    meter = ChatMeter(hide_usage=True)
    hidden = [meter.event(event) for event in events]
    return [hidden, *[getattr(meter, name) for name in STATE]]


def read_all(events: list[bytes]) -> list[Any]:
    with mock.patch.object(pieces, "chat", return_value=None):
        return state(events)


events = st.one_of(
    st.text().map(lambda text: raw(chunk({"content": text}))),
    st.text().map(lambda text: raw(chunk({"content": text}), plain=False)),
    st.sampled_from(
        [
            raw(chunk({"role": "assistant", "content": ""})),
            raw(chunk({"content": "a"}, usage={"prompt_tokens": 3, "completion_tokens": 4})),
            raw(chunk({"content": "a"}, service_tier="flex")),
            raw(chunk({"content": "a"}, error={"message": "no"})),
            raw(chunk({"content": "a", "tool_calls": [{"index": 0, "id": "c", "function": {"name": "f"}}]})),
            raw(chunk({"content": "a", "refusal": "no"})),
            raw(COMMON | {"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]}),
            raw(COMMON | {"choices": [], "usage": {"prompt_tokens": 3, "completion_tokens": 4}}),
            raw(
                COMMON | {"choices": [{"index": 0, "delta": {"content": "a"}}, {"index": 1, "delta": {"content": "b"}}]}
            ),
            b": ping\n\n",
            b"data: [DONE]\n\n",
        ]
    ),
)


@given(st.lists(events, max_size=12))
def test_it_counts_as_if_it_read_every_event(told: list[bytes]) -> None:
    assert state(told) == read_all(told)


BEFORE, BEHIND = raw(chunk({"content": "first"})).split(b"first")


@pytest.mark.parametrize(
    "between",
    [
        b"",
        b"more",
        "größer".encode(),
        b"\xff",
        b"a\nb",
        b"a\\nb",
        b"a\\u0061",
        b'a","tool_calls":[{"index":0,"id":"c","function":{"name":"f","arguments":"',
        b'a"},"finish_reason":"stop"}],"x":"',
        b'a"}}],"usage":{"prompt_tokens":1,"completion_tokens":2},"y":[{"z":{"content":"',
        b"a\x00b",
    ],
)
def test_whatever_stands_between_the_same_bytes(between: bytes) -> None:
    told = [BEFORE + b"first" + BEHIND, BEFORE + between + BEHIND, BEFORE + b"last" + BEHIND]
    assert state(told) == read_all(told)


def test_it_parses_no_event_that_only_says_something() -> None:
    meter = ChatMeter()
    with mock.patch.object(meters, "_load", side_effect=AssertionError):
        assert not meter.event(raw(chunk({"content": "b, and more"})))
