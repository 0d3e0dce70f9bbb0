"""Reading Anthropic's messages."""

import json
from typing import Any

import pytest

from extproc.dialects.anthropic import read_messages
from extproc.edits import Span
from extproc.refusals import DUPLICATE_FIELD, INVALID_VALUE, Refused


def body(**fields: Any) -> bytes:
    return json.dumps({"model": "claude", "messages": [{"role": "user", "content": "four"}], **fields}).encode()


def test_a_request_is_read_with_the_place_of_its_model() -> None:
    raw = body(max_tokens=10, stream=True)
    at = raw.index(b'"claude"')
    prompt = read_messages(raw)
    assert (prompt.body, prompt.model, prompt.stream) == (raw, "claude", True)
    assert prompt.model_span == Span(at, at + 8)


TOOL_RESULT = {"type": "tool_result", "tool_use_id": "t", "content": [{"type": "text", "text": "four"}]}


@pytest.mark.parametrize(
    ("given", "tokens"),
    [
        ({"system": "fourfour"}, 9),
        ({"system": [{"type": "text", "text": "four"}, {"type": "text", "text": "four"}]}, 11),
        ({"system": None}, 7),
        ({"messages": [{"role": "user", "content": [{"type": "text", "text": "four"}, TOOL_RESULT]}]}, 11),
        ({"messages": [{"role": "user", "content": "four"}, {"role": "assistant", "content": "four"}]}, 14),
        ({"messages": [{"role": "user", "content": "ありがとう"}]}, 10),
        ({"messages": [{"role": "user", "content": None}]}, 5),
        ({"max_tokens": 0}, 7),
        ({"max_tokens": None}, 7),
    ],
)
def test_the_input_is_estimated_from_its_texts(given: dict[str, Any], tokens: int) -> None:
    assert read_messages(body(**given)).estimated_input == tokens


@pytest.mark.parametrize(
    ("given", "param"),
    [
        ({"messages": []}, "messages"),
        ({"messages": None}, "messages"),
        ({"messages": {}}, "messages"),
        ({"messages": ["x"]}, "messages"),
        ({"messages": [{"role": "user", "content": 5}]}, "content"),
        ({"messages": [{"role": "user", "content": ["x"]}]}, "content"),
        ({"messages": [{"role": "user", "content": [{"type": "text", "text": {}}]}]}, "text"),
        ({"system": 5}, "system"),
        ({"system": {"text": "x"}}, "system"),
        ({"system": [{"type": "text", "text": 1}]}, "text"),
        ({"max_tokens": -1}, "max_tokens"),
        ({"max_tokens": "100"}, "max_tokens"),
        ({"max_tokens": 10**12}, "max_tokens"),
        ({"stream": "true"}, "stream"),
        ({"model": ["claude"]}, "model"),
    ],
)
def test_wrong_types_are_refused_by_name(given: dict[str, Any], param: str) -> None:
    with pytest.raises(Refused) as caught:
        read_messages(body(**given))
    assert (caught.value.refusal.kind, caught.value.refusal.param) == (INVALID_VALUE, param)


@pytest.mark.parametrize("more", [b'"system":"a","system":"b"', b'"SYSTEM":"a"', b'"max_tokens":1,"max_tokens":2'])
def test_doubtful_keys_are_refused(more: bytes) -> None:
    with pytest.raises(Refused) as caught:
        read_messages(body()[:-1] + b"," + more + b"}")
    assert caught.value.refusal.kind is DUPLICATE_FIELD
