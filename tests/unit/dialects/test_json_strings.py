"""Strings of JSON are found where a parser sees them."""

import json
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from extproc.dialects import json_strings
from extproc.dialects.json_strings import Path
from extproc.edits import Span

_json: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.integers(-9, 9) | st.text(st.sampled_from('a"\\{[:,]} \n\u00e9\U0001f600'), max_size=4),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.sampled_from(["a", 'b"', "c\\", "", "0"]), inner),
    max_leaves=12,
)


def found(value: Any, path: Path = ()) -> dict[Path, str]:
    if isinstance(value, str):
        return {path: value}
    parts = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return {inner: text for step, part in parts for inner, text in found(part, (*path, step)).items()}


@given(_json, st.booleans(), st.sampled_from([None, 1]))
def test_every_string_is_found_at_its_path(value: Any, ascii_only: bool, indent: int | None) -> None:
    body = json.dumps(value, ensure_ascii=ascii_only, indent=indent).encode()
    spans = json_strings.strings(body)
    texts = {path: json_strings.decoded(body[span.start : span.end]) for path, span in spans.items()}
    assert texts == found(value)
    for path, text in texts.items():
        if path and isinstance(path[-1], str):
            assert json_strings.places(body, [(path, text)]) == [spans[path]]
    assert json_strings.places(body, list(texts.items())) == list(spans.values())


@given(st.text())
def test_a_text_is_escaped_and_decoded(text: str) -> None:
    assert json_strings.decoded(json_strings.escaped(text)) == text


@pytest.mark.parametrize(
    "body",
    [
        b'{"a":{"content":"hi"},"content":"hi"}',
        b'{"x\\"content":"hi","content":"h\\u0069"}',
        b'{"x":"\\"content\\":\\"hi\\"","content" : "hi"}',
        b'{"content":"no","content":"hi"}',
        b'{"content": "hi","x":"content"}',
    ],
)
def test_a_string_is_told_from_what_looks_like_it(body: bytes) -> None:
    (span,) = json_strings.places(body, [(("content",), "hi")])
    assert orjson.loads(body[: span.start] + b"!" + body[span.end :])["content"] == "!"
    assert span.start > 12


def test_a_top_level_string_is_found() -> None:
    assert json_strings.strings(b' "a" ') == {(): Span(2, 3)}


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        (b'{"logprobs":{"content":[{"token":"]}"}]},"x":1}', b'{"logprobs":null,"x":1}'),
        (b'{"logprobs" : [ {"a":[1]} ] }', b'{"logprobs" : [] }'),
        (b'[{"logprobs":[1]},{"logprobs":{}}]', b'[{"logprobs":[]},{"logprobs":null}]'),
    ],
)
def test_probabilities_are_taken_out(body: bytes, expected: bytes) -> None:
    assert json_strings.has_logprobs(body)
    assert json_strings.without_logprobs(body) == expected


@pytest.mark.parametrize(
    "body",
    [
        b'{"logprobs":null,"a":"logprobs"}',
        b'{"logprobs":[ ]}',
        b'{"x\\"logprobs":{}}',
        b'{"x":"\\"logprobs\\":{}"}',
        b'{"top_logprobs":[1]}',
    ],
)
def test_where_there_are_none_nothing_is_taken_out(body: bytes) -> None:
    assert not json_strings.has_logprobs(body)
    assert json_strings.without_logprobs(body) is body
