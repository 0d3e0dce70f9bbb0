"""Reading chat completions and completions: what is counted, what is asked of the provider, what is refused."""

import json
from collections.abc import Callable
from typing import Any
from unittest import mock

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from extproc.dialects import json_spans, openai_chat
from extproc.dialects.openai_chat import read_chat, read_completion
from extproc.edits import Span
from extproc.model import Prompt
from extproc.refusals import DUPLICATE_FIELD, INVALID_VALUE, Refused

MESSAGES = [{"role": "user", "content": "Hello"}]
Reader = Callable[[bytes], Prompt]


def body(**fields: Any) -> bytes:
    return json.dumps({"model": "gpt-4o", "messages": MESSAGES, **fields}).encode()


def refusal(read: Reader, raw: bytes) -> tuple[object, str | None]:
    with pytest.raises(Refused) as caught:
        read(raw)
    return caught.value.refusal.kind, caught.value.refusal.param


def test_a_request_is_read_with_the_place_of_its_model() -> None:
    raw = b' {"messages":[{"role":"user","content":"Hello"}], "model" : "gpt-4o","x":[1]}'
    at = raw.index(b'"gpt-4o"')
    prompt = read_chat(raw)
    assert (prompt.body, prompt.model, prompt.stream) == (raw, "gpt-4o", False)
    assert prompt.model_span == Span(at, at + 8)


@pytest.mark.parametrize(("given", "model"), [({"model": None}, None), ({"model": ""}, "")])
def test_a_model_may_be_null_or_empty_here(given: dict[str, Any], model: str | None) -> None:
    prompt = read_chat(body(**given))
    assert prompt.model == model
    assert prompt.model_span is not None


def test_a_model_may_be_absent() -> None:
    prompt = read_chat(b'{"messages":[{"role":"user","content":"Hello"}]}')
    assert (prompt.model, prompt.model_span) == (None, None)


@pytest.mark.parametrize(
    ("messages", "tokens"),
    [
        ([{"role": "user", "content": "four"}], 7),
        ([{"role": "user", "content": None}], 5),
        ([{"role": "user"}], 5),
        ([{"role": "user", "content": []}], 5),
        ([{"role": "user", "content": [{"type": "text", "text": "four"}, {"type": "text", "text": "four"}]}], 10),
        ([{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "data:"}}]}], 6),
        ([{"role": "system", "content": "four"}, {"role": "user", "content": "fourfour"}], 15),
        ([{"role": "user", "content": "你好世界"}], 9),
        ([{"role": "user", "content": "مرحبا"}], 9),
    ],
)
def test_the_input_is_estimated_from_its_texts(messages: object, tokens: int) -> None:
    assert read_chat(body(messages=messages)).estimated_input == tokens


WRONG: list[tuple[dict[str, Any], str]] = [
    ({"messages": {}}, "messages"),
    ({"messages": "Hello"}, "messages"),
    ({"messages": []}, "messages"),
    ({"messages": None}, "messages"),
    ({"messages": ["Hello"]}, "messages"),
    ({"messages": [{"role": "user", "content": 5}]}, "content"),
    ({"messages": [{"role": "user", "content": {"text": "x"}}]}, "content"),
    ({"messages": [{"role": "user", "content": ["x"]}]}, "content"),
    ({"messages": [{"role": "user", "content": [{"type": "text", "text": 5}]}]}, "text"),
    ({"model": 4}, "model"),
    ({"model": ["gpt-4o"]}, "model"),
    ({"stream": "true"}, "stream"),
    ({"stream": 1}, "stream"),
    ({"n": 0}, "n"),
    ({"n": 129}, "n"),
    ({"n": 1000}, "n"),
    ({"n": "2"}, "n"),
    ({"n": True}, "n"),
    ({"max_tokens": "100"}, "max_tokens"),
    ({"max_tokens": -1}, "max_tokens"),
    ({"max_tokens": 0}, "max_tokens"),
    ({"max_tokens": 1e12}, "max_tokens"),
    ({"max_tokens": 10**12}, "max_tokens"),
    ({"max_completion_tokens": -5}, "max_completion_tokens"),
    ({"max_completion_tokens": [1]}, "max_completion_tokens"),
    ({"stream": True, "stream_options": "x"}, "stream_options"),
    ({"stream": True, "stream_options": [True]}, "stream_options"),
    ({"stream": True, "stream_options": {"include_usage": "yes"}}, "include_usage"),
]


@pytest.mark.parametrize(("given", "param"), WRONG)
def test_wrong_types_are_refused_by_name(given: dict[str, Any], param: str) -> None:
    assert refusal(read_chat, body(**given)) == (INVALID_VALUE, param)


@pytest.mark.parametrize(
    "given", [{"n": 1}, {"n": 128}, {"n": None}, {"max_tokens": None}, {"max_tokens": 1}, {"stream": None}]
)
def test_values_at_their_bounds_pass(given: dict[str, Any]) -> None:
    assert read_chat(body(**given)).model == "gpt-4o"


def test_what_policy_does_not_read_passes_whatever_it_is() -> None:
    raw = body(temperature="hot", logprobs=7, tools={"a": 1}, top_logprobs=-3, x={"model": 1})
    assert read_chat(raw).body is raw


@pytest.mark.parametrize(
    ("twice", "param"),
    [
        ('"model":"other"', "model"),
        ('"Model":"other"', "model"),
        ('"MESSAGES":[]', "messages"),
        ('"\\u006dodel":"other"', "model"),
        ('"n":1,"N":2', "n"),
        ('"tools":[],"tools":[]', "tools"),
        ('"stream_options":{"include_usage":true,"include_usage":false}', "include_usage"),
    ],
)
def test_doubtful_keys_are_refused_by_name(twice: str, param: str) -> None:
    assert refusal(read_chat, body()[:-1] + f",{twice}}}".encode()) == (DUPLICATE_FIELD, param)


# ---- asking the provider for usage ----------------------------------------------------------------------

OPTIONS = {
    "absent": "",
    "null": '"stream_options":null',
    "empty": '"stream_options":{}',
    "empty with blanks": '"stream_options" : { \n } ',
    "false": '"stream_options":{"include_usage":false}',
    "null inside": '"stream_options": {"include_usage" : null } ',
    "others only": '"stream_options":{"include_obfuscation":false,"x":{"include_usage":false}}',
    "others first": '"stream_options":{ "include_obfuscation":false, "include_usage":false}',
    "others last": '"stream_options":{"include_usage":false,"include_obfuscation":true}',
    "escaped keys": '"stream\\u005foptions":{"include\\u005fusage":false}',
}
STREAM, REST = ' "stream":true', '\n"messages":[{"role":"user","content":"{"}],"model":"m"'


@pytest.mark.parametrize("read", [read_chat, read_completion])
@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
@pytest.mark.parametrize("place", [0, 1, 2])
def test_a_stream_is_edited_to_report_usage_and_in_nothing_else(read: Reader, options: str, place: int) -> None:
    parts = [STREAM, REST]
    parts.insert(place, options)
    raw = f"\n{{{','.join(filter(None, parts))}}} ".encode()
    prompt = read(raw)
    assert prompt.usage_edit is not None
    expected = json.loads(raw)
    expected["stream_options"] = (expected.get("stream_options") or {}) | {"include_usage": True}
    assert json.loads(json_spans.splice(raw, [prompt.usage_edit])) == expected


@pytest.mark.parametrize(
    "raw",
    [
        body(stream=True, stream_options={"include_usage": True}),
        body(stream=True, stream_options={"x": 1, "include_usage": True}),
        body(stream=False),
        body(stream=False, stream_options=None),
        body(stream=None, stream_options={}),
        body(),
    ],
)
def test_no_edit_where_usage_is_asked_for_or_nothing_is_streamed(raw: bytes) -> None:
    assert read_chat(raw).usage_edit is None


_options = st.none() | st.dictionaries(
    st.sampled_from(["include_usage", "include_obfuscation", "x"]), st.none() | st.booleans(), max_size=3
)
_scalars = st.none() | st.booleans() | st.integers(-99, 99) | st.text(st.characters(codec="utf-8"), max_size=5)


@given(
    st.dictionaries(st.sampled_from(["a", "temperature", "user", "\u00e9"]), _scalars),
    st.permutations(["model", "messages", "stream", "stream_options"]),
    _options,
    st.sampled_from([None, 1, "\t"]),
    st.booleans(),
)
def test_the_edited_body_is_the_same_request_with_usage(
    others: dict[str, Any], order: list[str], options: dict[str, Any] | None, indent: int | str | None, escape: bool
) -> None:
    values = {"model": "m", "messages": MESSAGES, "stream": True, "stream_options": options}
    request = others | {name: values[name] for name in order}
    raw = json.dumps(request, indent=indent, ensure_ascii=escape).encode()
    edit = read_chat(raw).usage_edit
    asked = (options or {}).get("include_usage")
    assert (edit is None) is (asked is True)
    edited = json_spans.splice(raw, [edit] if edit else [])
    assert json.loads(edited) == request | {"stream_options": (options or {}) | {"include_usage": True}}


# ---- completions ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("prompt", "tokens"),
    [
        ("four", 1),
        ("", 0),
        (None, 0),
        ([], 0),
        (["four", "four"], 3),
        ([1, 2, 3], 3),
        ([[1, 2], [3, 4]], 4),
        (["four", [1]], 2),
    ],
)
def test_a_prompt_is_text_or_tokens(prompt: object, tokens: int) -> None:
    raw = json.dumps({"model": "m", "prompt": prompt}).encode()
    assert read_completion(raw).estimated_input == tokens


@pytest.mark.parametrize(
    ("given", "param"),
    [
        ({"prompt": 5}, "prompt"),
        ({"prompt": {"text": "x"}}, "prompt"),
        ({"prompt": [True]}, "prompt"),
        ({"prompt": ["x", 1]}, "prompt"),
        ({"prompt": [None]}, "prompt"),
        ({"prompt": [[["x"], {}]]}, "prompt"),
        ({"max_tokens": -1}, "max_tokens"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"max_tokens": "5"}, "max_tokens"),
        ({"best_of": 0}, "best_of"),
        ({"best_of": 129}, "best_of"),
        ({"n": 1000}, "n"),
        ({"stream": "no"}, "stream"),
        ({"model": {}}, "model"),
    ],
)
def test_wrong_types_of_a_completion_are_refused_by_name(given: dict[str, Any], param: str) -> None:
    raw = json.dumps({"model": "m", "prompt": "x", **given}).encode()
    assert refusal(read_completion, raw) == (INVALID_VALUE, param)


# ---- plain requests take a shorter way, and must come out as by the long one ----------------------------

_counts = st.none() | st.integers(-1, 10**8) | st.floats(allow_nan=False, allow_infinity=False)
_plain = st.fixed_dictionaries(
    {
        "messages": st.lists(
            st.fixed_dictionaries(
                {
                    "role": st.sampled_from(("user", "system", "developer", "assistant")),
                    "content": st.text() | st.sampled_from(('"model":"a"', '{"max_tokens":1', "\\", '\\"model')),
                }
            ),
            max_size=4,
        )
    },
    optional={
        "model": st.text() | st.sampled_from(('"model":', "gpt-4o")),
        "max_tokens": _counts,
        "max_completion_tokens": _counts,
        "temperature": _counts,
        "n": _counts,
        "stream": st.booleans() | st.none(),
        "user": st.text() | st.sampled_from(('"stream":true', "u")),
        "stream_options": st.sampled_from(({"include_usage": True}, {"include_usage": False})),
    },
)


def _outcome(raw: bytes) -> object:
    try:
        return read_chat(raw)
    except Refused as refused:
        return refused.refusal


@given(st.permutations(range(9)), _plain, st.booleans())
def test_a_plain_request_is_read_as_any_other(order: list[int], request: dict[str, Any], spaced: bool) -> None:
    names = sorted(request)
    ordered = {names[at]: request[names[at]] for at in order if at < len(names)}
    raw = json.dumps(ordered).encode() if spaced else orjson.dumps(ordered)
    found = _outcome(raw)
    with mock.patch.object(openai_chat, "is_plain", return_value=False):
        assert found == _outcome(raw)


def test_the_short_way_is_taken() -> None:
    request = {"messages": MESSAGES, "max_tokens": 5, "stream": True, "model": "gpt-4o"}
    raw = orjson.dumps(request)
    with mock.patch.object(json_spans, "spans", side_effect=AssertionError):
        prompt = read_chat(raw)
    assert prompt.plain == request
    assert read_chat(json.dumps(request).encode()).plain is None


@pytest.mark.parametrize("key", ["model", "max_tokens", "n"])
def test_a_plain_request_with_a_key_twice_is_refused(key: str) -> None:
    value = b'"a"' if key == "model" else b"1"
    field = b'"%b":%b' % (key.encode(), value)
    raw = b'{%b,"messages":[{"role":"user","content":"a"}],%b}' % (field, field)
    assert refusal(read_chat, raw) == (DUPLICATE_FIELD, key)
