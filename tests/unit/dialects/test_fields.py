"""Reading typed fields: what is taken, and what is refused with the name of the field."""

from collections.abc import Callable

import pytest

from extproc.dialects import fields
from extproc.dialects.json_spans import Shape
from extproc.refusals import DUPLICATE_FIELD, INVALID_JSON, INVALID_VALUE, Kind, Refused

SHAPE = Shape({"model": None, "messages": Shape(items=Shape({"content": None}))})


def refusal(read: Callable[[], object]) -> tuple[Kind, str | None]:
    with pytest.raises(Refused) as caught:
        read()
    return caught.value.refusal.kind, caught.value.refusal.param


BROKEN = {
    "empty": b"",
    "blank": b" \n",
    "no JSON": b"model=gpt-4o",
    "truncated": b'{"model":"gpt-4o"',
    "byte order mark": b'\xef\xbb\xbf{"model":"m"}',
    "trailing bytes": b'{"model":"m"} x',
    "two documents": b'{"model":"m"}{"model":"n"}',
    "an array": b'[{"model":"m"}]',
    "a string": b'"model"',
    "UTF-16": '{"model":"m"}'.encode("utf-16"),
    "NaN": b'{"temperature":NaN}',
    "Infinity": b'{"temperature":Infinity}',
    "5,000 digits": b'{"seed":' + b"1" * 5000 + b"}",
    "1e400": b'{"temperature":1e400}',
    "-1e400": b'{"temperature":-1e400}',
    "leading zero": b'{"n":01}',
    "invalid UTF-8": b'{"messages":[{"content":"\xff\xfe"}]}',
    "UTF-8 of a surrogate": b'{"x":"\xed\xa0\x80"}',
    "overlong UTF-8": b'{"x":"\xc0\xaf"}',
    "lone surrogate": b'{"x":"\\ud800"}',
    "raw NUL": b'{"x":"\x00"}',
    "single quotes": b"{'model':'m'}",
    "a comment": b'{"model":"m" /* x */}',
    "deep": b'{"x":' + b"[" * 300 + b"]" * 300 + b"}",
    "bottomless": b'{"x":' + b"[" * 1_000_000,
    "a million keys": b"{" + b",".join(b'"%d":0' % number for number in range(1_000_000)) + b"}",
}


@pytest.mark.parametrize("body", BROKEN.values(), ids=BROKEN)
def test_what_is_no_json_object_is_refused(body: bytes) -> None:
    assert refusal(lambda: fields.parse(body, SHAPE)) == (INVALID_JSON, None)


def test_a_doubtful_key_is_refused_by_its_name() -> None:
    assert refusal(lambda: fields.parse(b'{"model":"a","model":"b"}', SHAPE)) == (DUPLICATE_FIELD, "model")
    assert refusal(lambda: fields.parse(b'{"MESSAGES":[]}', SHAPE)) == (DUPLICATE_FIELD, "messages")


def test_escapes_and_large_numbers_that_json_has_are_taken() -> None:
    parsed, spans = fields.parse(
        b' {"x":"\\u0000\\ud83d\\ude00","y":123456789012345678901,"z":-0,"model":"m"}\n', SHAPE
    )
    assert parsed["x"] == "\0\U0001f600"
    assert spans.keys() == {("model",)}


Reader = Callable[[dict[str, object], str], object]
TAKEN: list[tuple[Reader, object, object]] = [
    (fields.text, None, None),
    (fields.text, "", ""),
    (fields.text, "é", "é"),
    (fields.flag, None, False),
    (fields.flag, False, False),
    (fields.flag, True, True),
    (fields.count, None, None),
    (fields.count, 1, 1),
    (fields.count, fields.MAX_TOKENS, fields.MAX_TOKENS),
    (fields.mapping, None, None),
    (fields.mapping, {}, {}),
    (fields.objects, None, []),
    (fields.objects, [], []),
    (fields.objects, [{"a": 1}], [{"a": 1}]),
    (fields.content, None, None),
    (fields.content, "text", "text"),
    (fields.content, [], []),
    (fields.content, [{"type": "text"}], [{"type": "text"}]),
    (fields.required, "x", None),
    (fields.required, 0, None),
]


@pytest.mark.parametrize(("read", "value", "expected"), TAKEN)
def test_right_types_are_taken(read: Reader, value: object, expected: object) -> None:
    assert read({"field": value}, "field") == expected


@pytest.mark.parametrize(
    ("read", "absent"),
    [
        (fields.text, None),
        (fields.flag, False),
        (fields.count, None),
        (fields.mapping, None),
        (fields.objects, []),
        (fields.content, None),
    ],
)
def test_an_absent_field_is_like_null(read: Reader, absent: object) -> None:
    assert read({}, "field") == absent


REFUSED: list[tuple[Reader, list[object]]] = [
    (fields.text, [1, True, [], {}, 1.5]),
    (fields.flag, ["true", 0, 1, [], {}]),
    (fields.count, [0, -1, "100", 1.0, 1e12, 10**12, True, False, [], fields.MAX_TOKENS + 1]),
    (fields.mapping, [[], "x", 1, False]),
    (fields.objects, [{}, "x", 1, [1], ["x"], [{}, None], [[]]]),
    (fields.content, [1, {}, True, ["x"], [{}, 1], [None]]),
    (fields.required, [None]),
]


@pytest.mark.parametrize(("read", "value"), [(read, value) for read, values in REFUSED for value in values])
def test_wrong_types_are_refused_by_the_name_of_the_field(read: Reader, value: object) -> None:
    assert refusal(lambda: read({"field": value}, "field")) == (INVALID_VALUE, "field")


def test_a_required_field_may_not_be_absent() -> None:
    assert refusal(lambda: fields.required({}, "input")) == (INVALID_VALUE, "input")


def test_a_count_has_the_bound_that_its_reader_gives() -> None:
    assert fields.count({"n": fields.MAX_CHOICES}, "n", most=fields.MAX_CHOICES) == fields.MAX_CHOICES
    assert fields.count({"n": 0}, "n", least=0) == 0
    assert refusal(lambda: fields.count({"n": -1}, "n", least=0)) == (INVALID_VALUE, "n")
    assert refusal(lambda: fields.count({"n": 1000}, "n", most=fields.MAX_CHOICES)) == (INVALID_VALUE, "n")
