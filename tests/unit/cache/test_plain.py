"""Plain requests take a shorter way through the cache's questions, and must come out as by the long one."""

import json
from typing import Any
from unittest import mock

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from extproc.cache import question
from extproc.cache.plain import is_plain
from extproc.cache.policy import CachePolicy
from extproc.surfaces import Surface

POLICY = CachePolicy()
MESSAGE = {"role": "user", "content": "Say hello."}
REQUEST: dict[str, Any] = {"model": "gpt-4o", "messages": [MESSAGE], "max_tokens": 20, "stream": False}

messages = st.lists(
    st.fixed_dictionaries({"role": st.sampled_from(("user", "system", "assistant")), "content": st.text()}), max_size=4
)
numbers = st.none() | st.integers(-(10**20), 10**20) | st.floats(allow_nan=False, allow_infinity=False)
plain = st.fixed_dictionaries(
    {"model": st.text(), "messages": messages},
    optional={
        "temperature": numbers,
        "max_tokens": numbers,
        "seed": numbers,
        "stream": st.booleans(),
        "n": st.sampled_from((None, 1, 2, 1.0)),
        "user": st.text(),
        "stream_options": st.just({"include_usage": True}),
    },
)


def asked(body: bytes) -> question.Question | str:
    try:
        return question.read(Surface.CHAT, body, POLICY)
    except question.Bypass as why:
        return str(why.args[0])


def asked_the_long_way(body: bytes) -> question.Question | str:
    with mock.patch.object(question, "is_plain", return_value=False):
        return asked(body)


def written(request: dict[str, Any], spaced: bool) -> bytes:
    text = json.dumps(request, ensure_ascii=spaced, separators=None if spaced else (",", ":"))
    return text.encode(errors="replace")


@given(plain, st.booleans())
def test_both_ways_ask_the_same(request: dict[str, Any], spaced: bool) -> None:
    body = written(request, spaced)
    assert asked(body) == asked_the_long_way(body)


@pytest.mark.parametrize(
    "body",
    [
        b'{"messages":[{"role":"user","content":"a"}],"messages":[{"role":"user","content":"b"}]}',
        b'{"messages":[{"role":"user","content":"a","content":"b"}]}',
        b'{"messages":[{"role":"user","content":"a"}],"seed":1,"seed":2}',
        b'{"messages":[{"role":"user","content":"a"}],"seed":-0}',
        b'{"messages":[{"role":"user","content":"a"}],"seed":1.0}',
        b'{"messages":[{"role":"user","content":"a"}],"seed":1e2}',
        b'{"messages":[{"role":"user","content":"a"}],"seed":0.10}',
        b'{"messages":[{"role":"user","content":"a"}],"seed":100000000000000000000}',
        b'{"messages":[{"role":"user","content":"\\u0061"}]}',
    ],
)
def test_what_can_be_read_in_two_ways_goes_the_long_way(body: bytes) -> None:
    assert asked(body) == asked_the_long_way(body)


def test_the_short_way_is_taken() -> None:
    with mock.patch.object(question, "_parse", side_effect=AssertionError):
        assert isinstance(asked(orjson.dumps(REQUEST)), question.Question)


@pytest.mark.parametrize(
    "more",
    [
        {"tools": []},
        {"store": True},
        {"Temperature": 1},
        {"temperature": "1"},
        {"temperature": True},
        {"stream_options": {"include_usage": True, "x": "https://example.com"}},
        {"stream_options": {"include_usage": "https://example.com"}},
        {"user": {"file_id": "f"}},
        {"messages": [{**MESSAGE, "audio": {"id": "a"}}]},
        {"messages": [{"role": "https://example.com/a", "content": "b"}]},
        {"messages": [{"role": "user", "content": [{"type": "text", "text": "b"}]}]},
        {"messages": {"role": "user", "content": "b"}},
        {"search": True},
    ],
    ids=str,
)
def test_what_may_hold_more_than_words_is_not_plain(more: dict[str, Any]) -> None:
    assert is_plain(Surface.CHAT, REQUEST)
    assert not is_plain(Surface.CHAT, REQUEST | more)


def test_only_chat_is_plain() -> None:
    assert not any(is_plain(surface, REQUEST) for surface in Surface if surface is not Surface.CHAT)
