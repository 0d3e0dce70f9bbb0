"""What a request tells of the conversation that it is part of."""

from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from extproc.dialects import registry, talks
from extproc.model import Talk
from extproc.surfaces import Surface

UUID = "0198a0c2-1111-4222-8333-444455556666"
Json = dict[str, Any]


def user(content: object) -> Json:
    return {"role": "user", "content": content}


def said(content: object) -> Json:
    return {"role": "assistant", "content": content}


SYSTEM = {"role": "system", "content": "be brief"}
RESULT = user([{"type": "tool_result", "tool_use_id": "t", "content": "42"}])
TEXT = {"type": "text", "text": "and this"}


def talk(surface: Surface, **request: Any) -> Talk:
    return registry.READERS[surface](orjson.dumps({"model": "m", **request})).talk


@pytest.mark.parametrize(
    ("surface", "request_", "opening", "turn"),
    [
        (Surface.CHAT, {"messages": [user("hi")]}, "hi", 1),
        (Surface.CHAT, {"messages": [SYSTEM, user("hi"), said("yes"), user("more")]}, "hi", 2),
        (Surface.CHAT, {"messages": [user("hi"), said(None), {"role": "tool", "content": "42"}]}, "hi", 1),
        (Surface.CHAT, {"messages": [SYSTEM]}, "be brief", 0),
        (Surface.CHAT, {"messages": [user([TEXT, {"type": "image_url", "image_url": {"url": "x"}}, TEXT])]}, None, 1),
        (Surface.CHAT, {"messages": [user(None)]}, "", 1),
        (Surface.MESSAGES, {"max_tokens": 9, "messages": [user("hi"), said("yes"), user("more")]}, "hi", 2),
        (Surface.MESSAGES, {"max_tokens": 9, "messages": [user("hi"), said("use"), RESULT]}, "hi", 1),
        (Surface.MESSAGES, {"max_tokens": 9, "messages": [RESULT]}, "", 0),
        (Surface.COUNT_TOKENS, {"messages": [user("hi")]}, "hi", 1),
        (Surface.RESPONSES, {"input": "hi"}, "hi", 1),
        (Surface.RESPONSES, {"input": [user("hi"), said("yes"), user("more")]}, "hi", 2),
        (Surface.RESPONSES, {"input": [user([{"type": "input_text", "text": "hi"}])]}, "hi", 1),
        (Surface.RESPONSES, {"input": [user("hi"), {"type": "function_call_output", "output": "42"}]}, "hi", 1),
        (Surface.RESPONSES, {"input": "more", "previous_response_id": "resp_1"}, "", None),
        (Surface.RESPONSES, {"input": [user("more")], "conversation": "conv_1"}, "", None),
        (Surface.RESPONSES, {"prompt": {"id": "p"}}, "", None),
        (Surface.COMPLETIONS, {"prompt": "hi"}, "", None),
        (Surface.EMBEDDINGS, {"input": "hi"}, "", None),
    ],
)
def test_how_it_begins_and_which_turn_it_is(
    surface: Surface, request_: Json, opening: str | None, turn: int | None
) -> None:
    told = talk(surface, **request_)
    assert told.opening == ("and this\nand this" if opening is None else opening)
    assert told.turn == turn


@pytest.mark.parametrize(
    ("request_", "name"),
    [
        ({}, None),
        ({"session_id": "s-1", "user": "ann"}, "s-1"),
        ({"metadata": {"session_id": "s-2"}, "user": "ann"}, "s-2"),
        ({"metadata": {"user_id": f"user_9f_account__session_{UUID}"}}, UUID),
        ({"metadata": {"user_id": f'{{"device_id":"d","session_id":"{UUID}"}}'}}, UUID),
        ({"metadata": {"user_id": '{"device_id":"d"}'}}, None),
        ({"metadata": {"user_id": "{broken"}}, None),
        ({"metadata": {"user_id": "{[1]}"}}, None),
        ({"metadata": {"user_id": "ann"}, "user": "bob"}, None),
        ({"prompt_cache_key": UUID, "user": "ann"}, UUID),
        ({"prompt_cache_key": "our-app", "user": "ann"}, None),
        ({"session_id": 7, "metadata": "x", "user": ["ann"]}, None),
        ({"session_id": "", "user": ""}, None),
    ],
)
def test_what_the_client_calls_its_session(request_: Json, name: str | None) -> None:
    assert talks.plain(request_).name == name
    assert talk(Surface.EMBEDDINGS, input="x", **request_).name == name


@pytest.mark.parametrize(
    ("request_", "user"),
    [
        ({"metadata": {"user_id": "ann"}, "user": "bob"}, "bob"),
        ({"metadata": {"user_id": "ann"}}, "ann"),
        ({"user": "", "metadata": {"user_id": ["ann"]}}, None),
        ({}, None),
    ],
)
def test_for_whom_the_client_says_to_call(request_: Json, user: str | None) -> None:
    assert talks.plain(request_).user == user


def test_a_conversation_that_the_provider_stores_has_its_name() -> None:
    assert talk(Surface.RESPONSES, input="x", conversation="conv_1").name == "conv_1"
    assert talk(Surface.RESPONSES, input="x", conversation={"id": "conv_2"}).name == "conv_2"


_JSON: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5) | st.sampled_from(["user", UUID, "tool_result"]),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["type", "text", "role", "content", "id", "user_id", "session_id"]), inner)
    ),
    max_leaves=8,
)
_NAMES = st.sampled_from(
    ["session_id", "metadata", "conversation", "prompt_cache_key", "user", "input", "previous_response_id"]
)


@given(
    st.dictionaries(_NAMES, _JSON),
    st.lists(st.dictionaries(st.sampled_from(["role", "content", "type"]), _JSON), min_size=1, max_size=4),
)
def test_whatever_a_request_holds_nothing_is_refused_here(request_: Json, messages: list[Json]) -> None:
    for told in (
        talks.plain(request_),
        talks.chat(request_, messages),
        talks.anthropic(request_, messages),
        talks.responses(request_, messages),
    ):
        assert told.name is None or told.name
        assert told.turn is None or 0 <= told.turn <= len(messages)
        assert isinstance(told.opening, str)
