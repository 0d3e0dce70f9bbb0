"""The scanner against the parsers that it must agree with, and against bytes that nobody should parse."""

import json
import pathlib
import random
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from extproc.dialects import json_spans
from extproc.dialects.json_spans import Malformed, RepeatedKey, Shape, TooComplex
from extproc.edits import Edit, Span

SHAPE = Shape(
    {
        "model": None,
        "stream": None,
        "task": None,  # with letters that other letters fold to
        "stream_options": Shape({"include_usage": None, "inner": Shape({"model": None})}),
        "messages": Shape(items=Shape({"role": None, "content": Shape(items=Shape({"text": None}))})),
    }
)
# The same, outside arrays, for the reading that the scanner is compared with.
WATCHED: dict[str, Any] = {
    **{key: {} for key in ("model", "stream", "task", "messages")},
    "stream_options": {"include_usage": {}, "inner": {"model": {}}},
}
KNOWN = ("model", "stream", "task", "stream_options", "include_usage", "inner", "messages", "role", "content", "text")
Path = tuple[str, ...]

_WHITE = ("", "", " ", "\n", "\t ", "\r\n  ")
_scalars = st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.floats(allow_nan=False, allow_infinity=False)
_texts = st.text(st.characters(codec="utf-8"), max_size=12)
_keys = st.sampled_from(KNOWN) | _texts.filter(lambda key: key.casefold() not in KNOWN)


def _containers(inner: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return st.lists(inner, max_size=4) | st.dictionaries(_keys, inner, max_size=6)


_values = st.recursive(_scalars | _texts, _containers, max_leaves=25)
_documents = st.dictionaries(_keys, _values, max_size=8)


def render(value: object, rng: random.Random) -> str:
    """JSON in one of its many spellings: blanks anywhere, any character of a string escaped or not."""

    def blank() -> str:
        return rng.choice(_WHITE)

    if isinstance(value, str):
        return '"' + "".join(_character(character, rng) for character in value) + '"'
    if isinstance(value, list):
        items = ",".join(blank() + render(item, rng) + blank() for item in value)
        return f"[{items or blank()}]"
    if isinstance(value, dict):
        pairs = ",".join(
            blank() + render(key, rng) + blank() + ":" + blank() + render(item, rng) + blank()
            for key, item in value.items()
        )
        return "{" + (pairs or blank()) + "}"
    return json.dumps(value)


def _character(character: str, rng: random.Random) -> str:
    escaped = json.dumps(character)[1:-1]
    if len(escaped) > 1 or rng.random() > 0.2:
        return escaped if rng.random() < 0.5 or ord(character) < 32 or character in '"\\' else character
    return f"\\u{ord(character):04x}"


@st.composite
def bodies(draw: st.DrawFn) -> bytes:
    rng = draw(st.randoms(use_true_random=False))
    text = rng.choice(_WHITE) + render(draw(_documents), rng) + rng.choice(_WHITE)
    return text.encode()


def watched(value: object, keys: Mapping[str, Any] = WATCHED, path: Path = ()) -> Iterator[tuple[Path, object]]:
    """What the shape watches outside arrays, by another parser's reading."""
    for key in keys:
        if isinstance(value, dict) and key in value:
            yield (*path, key), value[key]
            yield from watched(value[key], keys[key], (*path, key))


def sliced(body: bytes, span: Span) -> bytes:
    return body[span.start : span.end]


@given(bodies())
def test_spans_are_exactly_the_values_of_the_watched_keys(body: bytes) -> None:
    spans = json_spans.spans(body, SHAPE)
    assert {path: json.loads(sliced(body, span)) for path, span in spans.items()} == dict(watched(json.loads(body)))
    for span in spans.values():
        assert sliced(body, span) == sliced(body, span).strip(b" \t\r\n")


@given(bodies(), st.data())
def test_a_splice_changes_one_value_and_no_other_byte(body: bytes, data: st.DataObject) -> None:
    spans = json_spans.spans(body, SHAPE)
    if not spans:
        return
    path = data.draw(st.sampled_from(sorted(spans)))
    edited = json_spans.splice(body, [Edit(spans[path], b'"edited"')])
    assert edited == body[: spans[path].start] + b'"edited"' + body[spans[path].end :]
    expected = json.loads(body)
    holder = expected
    for key in path[:-1]:
        holder = holder[key]
    holder[path[-1]] = "edited"
    assert json.loads(edited) == expected


@given(st.binary(max_size=60), st.data())
def test_edits_in_any_order_are_those_done_from_behind(body: bytes, data: st.DataObject) -> None:
    marks = sorted(data.draw(st.lists(st.integers(0, len(body)), max_size=8, unique=True)))
    edits = [Edit(Span(start, end), b"<>") for start, end in zip(marks[::2], marks[1::2], strict=False)]
    expected = body
    for edit in reversed(edits):
        expected = expected[: edit.span.start] + edit.text + expected[edit.span.end :]
    assert json_spans.splice(body, data.draw(st.permutations(edits))) == expected


@pytest.mark.parametrize("turned", [False, True])
def test_an_insertion_goes_before_a_replacement_at_the_same_place(turned: bool) -> None:
    edits = [Edit(Span(1, 1), b"new,"), Edit(Span(1, 4), b"two")]
    assert json_spans.splice(b"{one}", edits[::-1] if turned else edits) == b"{new,two}"


# ---- hostile bytes --------------------------------------------------------------------------------------


def outcome(body: bytes) -> dict[Path, Span] | None:
    try:
        return json_spans.spans(body, SHAPE)
    except (Malformed, TooComplex, RepeatedKey):
        return None


@given(
    st.binary(max_size=200)
    | st.lists(st.sampled_from([*list('{}[]",:\\ \n1e'), '"model"', "null"])).map(lambda parts: "".join(parts).encode())
)
def test_any_bytes_end_in_spans_or_in_one_of_the_three_refusals(body: bytes) -> None:
    outcome(body)
    outcome(b'{"messages":' + body)


@given(bodies(), st.data())
def test_what_scanner_and_parser_both_take_they_read_alike(body: bytes, data: st.DataObject) -> None:
    """A broken or doctored body may be refused by either; where neither does, both see the same values."""
    at = data.draw(st.integers(0, len(body)))
    end = data.draw(st.integers(at, min(len(body), at + 4)))
    damaged = body[:at] + data.draw(st.sampled_from((b"", b'"', b",", b"{", b"}", b"\\", b"0", b" "))) + body[end:]
    spans = outcome(damaged)
    try:
        parsed = orjson.loads(damaged)
    except ValueError:
        return
    if spans is not None:
        assert {path: orjson.loads(sliced(damaged, span)) for path, span in spans.items()} == dict(watched(parsed))


def nested(depth: int, opening: str = "[", closing: str = "]") -> bytes:
    return f'{{"x":{opening * depth}1{closing * depth}}}'.encode()


@pytest.mark.parametrize("depth", [300, 100_000, 1_000_000])
@pytest.mark.parametrize(("opening", "closing"), [("[", "]"), ('{"a":', "}"), ('[{"a":', "}]")])
def test_deep_nesting_is_refused(depth: int, opening: str, closing: str) -> None:
    with pytest.raises(TooComplex):
        json_spans.spans(nested(depth, opening, closing), SHAPE)
    with pytest.raises(TooComplex):
        json_spans.spans(nested(depth, opening, "")[:-1], SHAPE)


def test_nesting_up_to_the_cap_is_taken() -> None:
    # The innermost container is flat, and counts nothing.
    assert json_spans.spans(nested(json_spans.MAX_DEPTH + 1), SHAPE) == {}
    with pytest.raises(TooComplex):
        json_spans.spans(nested(json_spans.MAX_DEPTH + 2), SHAPE)


def test_many_keys_are_refused_where_policy_reads_them() -> None:
    pairs = ",".join(f'"k{number}":1' for number in range(json_spans.MAX_FIELDS))
    assert json_spans.spans(f"{{{pairs}}}".encode(), SHAPE) == {}
    with pytest.raises(TooComplex):
        json_spans.spans(f'{{{pairs},"one":1}}'.encode(), SHAPE)
    body = f'{{"unread":{{{pairs},"one":1}},"model":"m"}}'.encode()
    assert json_spans.spans(body, SHAPE).keys() == {("model",)}


def test_many_containers_are_refused() -> None:
    pair = "[[]],"  # one flat container, and a pair of brackets that counts two
    most = json_spans.MAX_BRACKETS // 2
    with pytest.raises(TooComplex):
        json_spans.spans(f'{{"x":[{pair * most}1]}}'.encode(), SHAPE)
    with pytest.raises(TooComplex):
        json_spans.spans(f'{{"messages":[{"{}," * json_spans.MAX_BRACKETS}{{}}]}}'.encode(), SHAPE)
    assert json_spans.spans(f'{{"x":[{"[]," * most}1]}}'.encode(), SHAPE) == {}


HEAVY = {
    "keys": b'{"z":{' + b",".join(b'"k%d" :0' % number for number in range(160_000)) + b"}}",
    "objects": b'{"z":[' + b"{}," * 110_000 + b"1]}",
    "lists": b'{"input":[' + b"[1]," * 110_000 + b"[1]]}",
    "texts": b'{"input":[' + b'"a",' * 410_000 + b'"a"]}',
}


@pytest.mark.parametrize("body", HEAVY.values(), ids=HEAVY)
def test_what_would_take_the_parser_long_is_refused_wherever_it_stands(body: bytes) -> None:
    with pytest.raises(TooComplex):
        json_spans.measure(body)


def test_a_text_may_quote_any_amount_of_json() -> None:
    quoted = orjson.dumps({"messages": [{"content": '{"a":[1,{}]},' * 200_000}]})
    json_spans.measure(quoted)
    json_spans.measure(orjson.dumps({"input": list(range(300_000))}))


def test_a_long_string_is_one_step() -> None:
    body = b'{"x":"' + b"a" * 50_000_000 + b'","model":"m"}'
    assert json_spans.spans(body, SHAPE) == {("model",): Span(len(body) - 4, len(body) - 1)}


@dataclass
class Counted:
    """A pattern that adds up the bytes that it is led over; where it does not match, all that follow."""

    pattern: re.Pattern[bytes]
    looks_ahead: bool  # or only at blanks and the byte behind them
    steps: int = 0
    covered: int = 0

    def match(self, body: bytes, at: int = 0) -> re.Match[bytes] | None:
        found = self.pattern.match(body, at)
        self.steps += 1
        self.covered += found.end() - at if found else self.looks_ahead * (len(body) - at)
        return found


def patterns() -> dict[str, Counted]:
    found = {name: value for name, value in vars(json_spans).items() if isinstance(value, re.Pattern)}
    return {name: Counted(value, not name.startswith(("_BLANK", "_NEXT"))) for name, value in found.items()}


@pytest.mark.parametrize(
    "unit",
    [b'{"a":1},', b'[[1],{"a":"b"}],', b'"a\\"]",', b'{"a":{"b":[1]}},', b'{"text":"x"},', b'{"a":"{[\\\\"},', b"1,"],
)
@pytest.mark.parametrize("start", [b'{"x":[', b'{"messages":[', b'{"messages":[{"content":['])
def test_the_work_grows_with_the_body_and_no_faster(unit: bytes, start: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    """Counted, not timed: every byte is covered a bounded number of times, whole or cut off anywhere."""
    work = []
    for repeats in (300, 3000):
        body = start + unit * repeats
        counted = patterns()
        with monkeypatch.context() as patch:
            for name, pattern in counted.items():
                patch.setattr(json_spans, name, pattern)
            outcome(body)
        assert sum(pattern.covered for pattern in counted.values()) <= 3 * len(body)
        work.append(sum(pattern.steps for pattern in counted.values()))
    assert work[1] <= 10 * work[0] + 10


# ---- keys that two parsers read in two ways --------------------------------------------------------------

REPEATED = {
    "twice": b'{"model":"a","model":"b"}',
    "twice, escaped": b'{"model":"a","mo\\u0064el":"b"}',
    "upper case": b'{"Model":"a"}',
    "all upper case": b'{"MODEL":"a","model":"b"}',
    "long s": '{"\u017ftream":true}'.encode(),
    "long s, escaped": b'{"\\u017ftream":true}',
    "kelvin sign": '{"tas\u212a":1}'.encode(),
    "inside": b'{"stream_options":{"include_usage":true,"include_usage":false}}',
    "deep inside": b'{"stream_options":{"inner":{"model":1,"MODEL":2}}}',
    "in a message": b'{"messages":[{"role":"user"},{"content":"a","content":"b"}]}',
    "in a part": b'{"messages":[{"content":[{"text":"a","Text":"b"}]}]}',
    "second array": b'{"messages":[[],{"role":1,"role":2}]}',
}


@pytest.mark.parametrize("body", REPEATED.values(), ids=REPEATED)
def test_doubtful_keys_are_refused_where_policy_reads(body: bytes) -> None:
    with pytest.raises(RepeatedKey) as caught:
        json_spans.spans(body, SHAPE)
    assert caught.value.key in KNOWN


@pytest.mark.parametrize(
    "body",
    [
        b'{"x":{"model":1,"model":2,"Model":3}}',
        b'{"x":1,"x":2,"X":3}',
        b'{"messages":[{"x":{"role":1,"role":2}}]}',
        b'{"messages":{"role":1,"role":2}}',
        b'{"stream_options":[{"include_usage":1,"include_usage":2}]}',
        b'{"models":1,"models":2}',
    ],
)
def test_anywhere_else_doubtful_keys_pass(body: bytes) -> None:
    json_spans.spans(body, SHAPE)


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b" ",
        b"[]",
        b'"model"',
        b"\xef\xbb\xbf{}",
        b"{",
        b'{"model"',
        b'{"model":',
        b'{"model":"m',
        b'{"model":"m"',
        b'{"model":"m",}',
        b'{"messages":[',
        b'{"messages":[1',
        b'{"messages":[1}',
        b'{"x":[1',
        b'{"x":{"a":"b',
        b'{"\\x":1}',
        b'{"\xff":1}',
        b'{"\\ud800":1}',
        b'{"model":}',
    ],
)
def test_what_is_cut_off_or_misspelt_is_malformed(body: bytes) -> None:
    with pytest.raises(Malformed):
        json_spans.spans(body, SHAPE)


@pytest.mark.parametrize(
    "value", [b"[]", b"[ \n]", b"{}", b"{ \t}", b"[[],{}]", b"[ {} , [ ] ]", b'""', b"-1e+9", b"null"]
)
@pytest.mark.parametrize("key", [b"messages", b"stream_options", b"model"])
@pytest.mark.parametrize("space", [b"", b" ", b"\r\n"])
def test_an_empty_or_odd_value_ends_where_it_ends(value: bytes, key: bytes, space: bytes) -> None:
    body = b'{"%b"%b:%b%b%b,"task":1%b}' % (key, space, space, value, space, space)
    spans = json_spans.spans(body, SHAPE)
    assert sliced(body, spans[(key.decode(),)]) == value
    assert sliced(body, spans[("task",)]) == b"1"


def test_keys_inside_arrays_have_no_span() -> None:
    assert json_spans.spans(b'{"messages":[{"role":"user","content":[{"text":"x"}]}]}', SHAPE).keys() == {("messages",)}


def test_no_pattern_repeats_possessively_a_group_that_can_fail_half_way() -> None:
    """Python before 3.11.5 matches it wrongly (gh-106052), and Debian 12 has 3.11.2."""
    # these fail at their first byte or not at all
    escapes = (r'(?:\\.[^"\\]*+)*+', r'(?:\\.[^"\\\x00-\x1f]*+)*+')
    for source in pathlib.Path(json_spans.__file__).parent.glob("*.py"):
        others = source.read_text()
        for escape in escapes:
            others = others.replace(escape, "")
        assert not re.search(r"\)([*+?]|\{[0-9,]+\})\+", others), source


@pytest.mark.parametrize("body", [b'{"a\\', b'{"a":"b\\', b'{"a":"b\\"', b'{"a":["\\\\", "\\'])
def test_a_body_that_ends_in_an_escape_is_malformed(body: bytes) -> None:
    with pytest.raises(json_spans.Malformed):
        json_spans.spans(body, json_spans.Shape({"a": None}))


@given(st.lists(st.sampled_from([b'"', b"\\\\", b"[", b"{", b":", b",", b"a"]), max_size=60).map(b"".join))
def test_measuring_piece_by_piece_counts_what_measuring_the_whole_counts(body: bytes) -> None:
    with pytest.MonkeyPatch.context() as patch:
        for cap in ("MAX_CONTAINERS", "MAX_PAIRS", "MAX_ITEMS"):
            patch.setattr(json_spans, cap, 3)
        patch.setattr(json_spans, "_STRINGS", re.compile(rb'(?>(?:[^"]*+"[^"\\]*(?:\\.[^"\\]*)*"){0,2})', re.DOTALL))
        bare = re.sub(rb'"[^"\\]*(?:\\.[^"\\]*)*"', b"", body, flags=re.DOTALL)
        signs = (bare.count(b"[") + bare.count(b"{"), bare.count(b":"), bare.count(b","))
        if max(signs) > 3 and len(body) > 3:
            with pytest.raises(json_spans.TooComplex):
                json_spans.measure(body)
        else:
            json_spans.measure(body)


def test_a_body_of_nothing_but_strings_is_refused() -> None:
    with pytest.raises(json_spans.TooComplex):
        json_spans.measure(b'["' + b"[" * 200_000 + b'"' + b'""' * 700_000)
