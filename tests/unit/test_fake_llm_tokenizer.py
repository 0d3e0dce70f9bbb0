"""Laws of the fake's tokenizer and of its schema filler."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from loadtest.fake_llm import schema, tokenizer


@given(st.text())
def test_tokens_joined_are_the_text(text: str) -> None:
    assert "".join(tokenizer.split(text)) == text
    assert "" not in tokenizer.split(text)


@given(st.text(), st.text())
def test_tokens_of_a_text_and_of_more_text_after_a_gap_add_up(text: str, more: str) -> None:
    ended = text.rstrip() + "."
    assert tokenizer.count(ended + " " + more.strip()) in (
        tokenizer.count(ended) + tokenizer.count(more.strip()),
        tokenizer.count(ended) + 1,  # nothing but the gap follows
    )


@pytest.mark.parametrize(
    ("text", "tokens"),
    [
        ("", []),
        ("hello", ["hello"]),
        ("Hello, world!", ["Hello", ",", " world", "!"]),
        (" a\n\nb ", [" a", "\n\nb", " "]),
        ("naïve 漢字 3.5", ["naïve", " 漢字", " 3", ".", "5"]),
    ],
)
def test_what_a_token_is(text: str, tokens: list[str]) -> None:
    assert tokenizer.split(text) == tokens


@pytest.mark.parametrize(
    ("wanted", "value"),
    [
        ({"type": "string"}, "text"),
        ({"type": "string", "minLength": 6}, "texttt"),
        ({"type": "string", "maxLength": 2}, "te"),
        ({"type": ["integer", "null"]}, 1),
        ({"type": "number", "minimum": 2.5}, 2.5),
        ({"type": "boolean"}, True),
        ({"type": "null"}, None),
        ({"enum": ["red", "green"]}, "red"),
        ({"const": 7}, 7),
        ({"anyOf": [{"type": "integer"}, {"type": "string"}]}, 1),
        ({"type": "array", "items": {"type": "boolean"}, "minItems": 2}, [True, True]),
        ({"type": "object", "properties": {"a": {"type": "integer"}, "b": {}}, "required": ["a"]}, {"a": 1}),
        ({"$ref": "#/$defs/x", "$defs": {"x": {"type": "integer"}}}, 1),
    ],
)
def test_a_schema_is_filled(wanted: dict[str, Any], value: object) -> None:
    assert schema.fill(wanted) == value


def test_a_schema_without_a_finite_value_ends() -> None:
    endless = {"type": "object", "properties": {"next": {"$ref": "#"}}, "required": ["next"]}
    assert list(schema.fill(endless)) == ["next"]
