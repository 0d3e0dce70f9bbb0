"""What is looked at of a plain request is what is looked at of any other."""

import json
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from extproc.call import Rules
from extproc.model import Prompt
from extproc.redaction import positions
from extproc.stages import guard

RULES = Rules(None, None, "")

texts = st.text() | st.sampled_from(['{"a": "b"}', '["x"]', " [1]", "data:image/png;base64,AAAA", "Data:x", "5", "~"])
numbers = (
    st.none()
    | st.integers(-(2**63), 2**63)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.integers(10**7, 10**10)
)
requests = st.fixed_dictionaries(
    {"model": texts},
    optional={
        "messages": st.lists(
            st.fixed_dictionaries({"role": st.sampled_from(("user", "system", "developer")), "content": texts}),
            max_size=4,
        ),
        "max_tokens": numbers,
        "temperature": numbers,
        "seed": numbers,
        "top_p": numbers,
        "n": numbers,
        "stream": st.booleans(),
        "user": texts,
        "stream_options": st.just({"include_usage": False}),
    },
)


def looked_at(body: bytes) -> list[str]:
    return sorted(position.text for position in positions.read(body))


@given(requests, st.booleans())
def test_the_texts_are_those_of_the_long_way(request: dict[str, Any], spaced: bool) -> None:
    body = json.dumps(request).encode() if spaced else orjson.dumps(request)
    found = guard.plain_texts(Prompt(body, None, None), RULES)
    assert found is None or sorted(found) == looked_at(body)


def test_the_short_way_is_taken() -> None:
    body = orjson.dumps(
        {"model": "m", "messages": [{"role": "user", "content": "Hello"}], "max_tokens": 20, "user": "u"}
    )
    assert guard.plain_texts(Prompt(body, None, None), RULES) == ["Hello", "u"]


@pytest.mark.parametrize(
    "body",
    [
        b'{"model":"m","user":"4111 1111 1111 1111","user":"u"}',
        b'{"model": "m"}',
        b'{"model":"m","seed":4111111111111111}',
        b'{"model":"m","seed":1e20}',
        b'{"model":"m","messages":[{"role":"user","content":"{\\"ssn\\": 1}"}]}',
        b'{"model":"m","messages":[{"role":"user","content":[{"type":"text","text":"a"}]}]}',
        b'{"model":"m","tools":[]}',
        b'{"model":"m","messages":[{"role":"user","content":"a","name":"b"}]}',
    ],
)
def test_anything_else_goes_the_long_way(body: bytes) -> None:
    assert guard.plain_texts(Prompt(body, None, None), RULES) is None
