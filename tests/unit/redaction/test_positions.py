"""Every text is found, on every surface; a change touches its own bytes and no other."""

import base64
import json
import random
from collections.abc import Iterator
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from extproc.dialects.json_spans import splice
from extproc.redaction import positions
from extproc.redaction.changes import Change
from extproc.redaction.positions import Kind, Position, TooMany, place
from tests.unit.dialects.test_json_spans import render

MEDIA = base64.b64encode(bytes(range(256)) * 13).decode()
CANARY = "canary@example.com"
BOB = "bob@example.com"


def _texts(body: object) -> list[str]:
    return [position.text[position.lead :] for position in positions.read(orjson.dumps(body))]


# ---- the surfaces: a canary wherever a value or a key can stand ------------------------------------------

_CALL = {
    "id": "call_abc123DEF",
    "type": "function",
    "function": {"name": "send", "arguments": '{"to": ["x", {"y": "z"}], "n": 1}'},
}
_TOOL = {
    "type": "function",
    "function": {
        "name": "send",
        "description": "Sends",
        "parameters": {"type": "object", "properties": {"to": {"type": "string", "enum": ["a"]}}, "required": ["to"]},
    },
}
SURFACES: dict[str, dict[str, Any]] = {
    "chat": {
        "model": "gpt-4o",
        "messages": [
            {"role": "system", "content": "Be kind"},
            {"role": "user", "name": "ann", "content": [{"type": "text", "text": "Hello"}]},
            {"role": "user", "content": [{"type": "image_url", "image_url": {"url": "https://x.io/a.png"}}]},
            {"role": "assistant", "content": None, "tool_calls": [_CALL], "reasoning_content": "hm"},
            {"role": "tool", "tool_call_id": "call_abc123DEF", "content": '{"found": "yes"}'},
            {"role": "assistant", "function_call": {"name": "f", "arguments": "{}"}, "refusal": "no"},
        ],
        "tools": [_TOOL],
        "functions": [{"name": "f", "description": "d"}],
        "tool_choice": {"type": "function", "function": {"name": "send"}},
        "response_format": {"type": "json_schema", "json_schema": {"name": "s", "schema": {"type": "object"}}},
        "prediction": {"type": "content", "content": "p"},
        "stop": ["end"],
        "user": "u",
        "metadata": {"ticket": "t"},
        "new_field_of_tomorrow": {"deep": [["x"]]},
    },
    "completions": {"model": "m", "prompt": ["one", "two"], "suffix": "s", "stop": "x", "user": "u"},
    "responses": {
        "model": "m",
        "instructions": "Be kind",
        "input": [
            {"role": "user", "content": [{"type": "input_text", "text": "Hello"}]},
            {"type": "function_call", "call_id": "call_a1b2c3d4", "name": "f", "arguments": '{"a": "b"}'},
            {"type": "function_call_output", "call_id": "call_a1b2c3d4", "output": "done"},
            {"type": "reasoning", "id": "rs_abcdef", "summary": [{"type": "summary_text", "text": "hm"}]},
        ],
        "tools": [{"type": "mcp", "server_label": "l", "server_url": "https://x.io", "headers": {"k": "v"}}],
        "prompt": {"id": "pmpt_abcdef", "variables": {"city": "Rome"}},
        "text": {"format": {"type": "text"}},
        "metadata": {"a": "b"},
        "safety_identifier": "s",
        "prompt_cache_key": "k",
    },
    "embeddings": {"model": "m", "input": ["one", "two"], "user": "u"},
    "rerank": {"model": "m", "query": "q", "documents": ["d", {"text": "t", "title": "x"}]},
    "moderations": {"model": "m", "input": [{"type": "text", "text": "t"}]},
    "speech": {"model": "m", "input": "Hello", "voice": "alloy", "instructions": "slowly"},
    "images": {"model": "m", "prompt": "A cat", "user": "u"},
    "anthropic": {
        "model": "m",
        "system": [{"type": "text", "text": "Be kind", "cache_control": {"type": "ephemeral"}}],
        "messages": [
            {"role": "user", "content": "Hello"},
            {"role": "assistant", "content": [{"type": "thinking", "thinking": "hm", "signature": MEDIA}]},
            {
                "role": "assistant",
                "content": [{"type": "tool_use", "id": "toolu_abcdef", "name": "f", "input": {"a": "b"}}],
            },
            {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "toolu_abcdef", "content": "r"}]},
            {
                "role": "user",
                "content": [
                    {"type": "document", "title": "t", "context": "c", "source": {"type": "text", "data": "plain"}},
                    {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": MEDIA}},
                ],
            },
        ],
        "tools": [{"name": "f", "description": "d", "input_schema": {"type": "object"}}],
        "metadata": {"user_id": "u"},
        "stop_sequences": ["x"],
    },
}


def _planted(value: Any, at_top: bool = True) -> Iterator[Any]:
    """The value once for each string and each object in it, with the canary there, or as a key there."""
    if isinstance(value, str):
        yield CANARY
    elif isinstance(value, list):
        for index, item in enumerate(value):
            for changed in _planted(item, False):
                yield [*value[:index], changed, *value[index + 1 :]]
    elif isinstance(value, dict):
        yield {**value, CANARY: 1}
        for key, item in value.items():
            if key != "model" or not at_top:
                for changed in _planted(item, False):
                    yield {**value, key: changed}


@pytest.mark.parametrize("surface", SURFACES)
def test_a_canary_is_seen_in_every_position(surface: str) -> None:
    planted = list(_planted(SURFACES[surface]))
    assert len(planted) >= 3
    for body in planted:
        assert any(CANARY in text for text in _texts(body)), body


def test_inside_arguments_too() -> None:
    for arguments in _planted({"to": ["x", {"y": "z"}]}):
        hidden = json.dumps(arguments).replace("@", "\\u0040")
        assert CANARY in _texts({"messages": [{"tool_calls": [{"function": {"arguments": hidden}}]}]})


def test_what_is_structure_is_passed_over() -> None:
    message = {"role": "user", "content": [{"type": "input_text", "text": "Hello"}], "id": "msg_0123abcdef"}
    assert _texts({"model": BOB, "input": [message], "stream": True}) == ["Hello"]


@pytest.mark.parametrize(
    "part",
    [
        {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{MEDIA}", "detail": "high"}},
        {"type": "input_image", "image_url": f"DATA:image/svg+xml;charset=utf-8;base64,{MEDIA}"},
        {"type": "input_audio", "input_audio": {"data": MEDIA, "format": "wav"}},
        {"type": "file", "file": {"file_data": MEDIA}},
        {"type": "reasoning", "encrypted_content": MEDIA},
        {"type": "image_generation_call", "result": MEDIA},
    ],
)
def test_media_are_passed_over(part: dict[str, Any]) -> None:
    assert _texts({"messages": [{"role": "user", "content": [part]}]}) == []
    slashes = orjson.dumps([part]).replace(b"/", b"\\/")  # as PHP writes them
    assert positions.read(slashes) == []


@pytest.mark.parametrize(
    ("value", "seen"),
    [
        ("4111111111111111", "4111111111111111"),
        (f"{MEDIA} {BOB}", f"{MEDIA} {BOB}"),
        (f"data:text/plain,{BOB}", f"data:text/plain,{BOB}"),
        (f"data:image/png;name={BOB};base64,{MEDIA}", f"data:image/png;name={BOB};base64,"),
        (f"data:image/png;base64,{BOB}", f"data:image/png;base64,{BOB}"),
    ],
)
def test_what_only_stands_where_media_do_is_looked_at(value: str, seen: str) -> None:
    assert _texts({"input_audio": {"data": value}}) == [seen]
    assert _texts({"image_url": {"url": value}}) == [seen]


@pytest.mark.parametrize("value", [BOB, "call_4111111111111111", "123-45-6789", "sk-abcdef0123456789"])
def test_what_only_stands_where_ids_do_is_looked_at(value: str) -> None:
    assert _texts({"messages": [{"role": "tool", "tool_call_id": value}]}) == [value]


def test_the_words_of_a_key_lead_its_value() -> None:
    body = {"metadata": {"socialSecurity_number": "123456789", "phones": ["4155550123"], "card": 4111111111111111}}
    seen = {position.text for position in positions.read(orjson.dumps(body)) if position.kind is not Kind.KEY}
    assert seen == {"social Security number: 123456789", "phones: 4155550123", "card: 4111111111111111"}


def test_settings_are_no_numbers_of_anybody() -> None:
    body = {
        "seed": 123456789012,
        "input": [[12345678901, 1]],
        "max_tokens": 1234567890,
        "temperature": 0.1234567890123,
    }
    assert _texts(body) == []
    assert _texts({"input": {"id": 4111111111111111}, "x": [1, -123456789012]}) == [
        "x",
        "-123456789012",
        "4111111111111111",
    ]


@pytest.mark.parametrize("written", ["4111111111111111.0", "4.111111111111111e15", "4111111111111.111E+3"])
def test_a_whole_number_is_looked_at_however_it_is_written(written: str) -> None:
    found = positions.read(b'{"metadata":{"x":%s}}' % written.encode())
    assert [one.text[one.lead :] for one in found if one.kind is positions.Kind.NUMBER] == ["4111111111111111"]


@pytest.mark.parametrize("key", ["n", "input", "index", "created", "prompt", "seed"])
def test_no_key_hides_a_number_that_is_too_long_for_it(key: str) -> None:
    found = positions.read(b'{"messages":[{"content":[{"%b":4111111111111111}]}]}' % key.encode())
    assert [position.text for position in found] == ["4111111111111111"]


@pytest.mark.parametrize("written", ["0.123456789012345", "1767225600.25", "1e99", "1.5e3", "-12345678"])
def test_other_numbers_are_not(written: str) -> None:
    assert [one for one in positions.read(b'{"x":%s}' % written.encode()) if one.kind is positions.Kind.NUMBER] == []


def test_the_conversation_comes_after_what_stands_before_it_and_before_what_no_model_reads() -> None:
    body = {"user": "u", "messages": [{"role": "user", "content": "m"}], "tools": [{"name": "t"}], "system": "s"}
    assert _texts(body) == ["t", "s", "m", "u"]


def test_only_the_words_of_an_api_are_told_of_a_path() -> None:
    body = {"messages": [{}, {"content": [{"text": "x"}], BOB: {"content": "y"}}]}
    found = [place(position.path) for position in positions.read(orjson.dumps(body))]
    assert found == ["messages[1].content[0].text", "messages[1].*", "messages[1].*.content"]
    assert BOB not in repr(positions.read(orjson.dumps(body)))


def test_indices_count_what_is_no_text_too() -> None:
    body = b'{"input":[1, 2 ,"a",null,["b"],{"text":"c"}]}'
    assert [position.path for position in positions.read(body)] == [
        ("input", 2),
        ("input", 4, 0),
        ("input", 5, "text"),
    ]


def test_a_duplicate_key_hides_nothing() -> None:
    assert [position.text for position in positions.read(b'{"content":"one","content":"two"}')] == ["one", "two"]


# ---- changes ---------------------------------------------------------------------------------------------


def _changed(body: bytes, wanted: str, replacement: str) -> bytes:
    changed = []
    for position in positions.read(body):
        found = []
        at = position.text.find(wanted, position.lead)
        while at >= 0:
            found.append(Change(at, at + len(wanted), replacement))
            at = position.text.find(wanted, at + len(wanted))
        changed.append((position, found))
    return splice(body, positions.edits(body, changed))


_any_text = st.text(st.characters(codec="utf-8"), max_size=5)
_wanted = st.sampled_from(("", "x", f'\n"{BOB}', f"{BOB}é€𝄞", f"x{BOB}{BOB}")) | _any_text
_values: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.integers(-999, 999) | _wanted,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(_wanted, inner, max_size=3),
    max_leaves=8,
)
_documents = st.dictionaries(_wanted.filter(lambda key: key != "model"), _values, max_size=3)


def _replaced(value: Any, wanted: str, replacement: str) -> Any:
    if isinstance(value, str):
        return value.replace(wanted, replacement)
    if isinstance(value, list):
        return [_replaced(item, wanted, replacement) for item in value]
    if isinstance(value, dict):
        return {key.replace(wanted, replacement): _replaced(item, wanted, replacement) for key, item in value.items()}
    return value


@given(_documents, st.randoms(use_true_random=False), st.sampled_from((BOB, f'"{BOB}', f"{BOB}é€𝄞", "\n")))
def test_to_splice_and_to_parse_is_to_replace_in_what_was_parsed(
    document: Any, rng: random.Random, wanted: str
) -> None:
    body = render(document, rng).encode()
    assert json.loads(_changed(body, wanted, '<"é>')) == _replaced(document, wanted, '<"é>')


@given(_documents, st.randoms(use_true_random=False))
def test_whatever_is_not_found_keeps_its_bytes(document: Any, rng: random.Random) -> None:
    marked = {"before": [document, {"deep": document}], "text": f"x\\{BOB}\u00e9", "after": document}
    body = render(marked, rng).encode()
    whole = _changed(body, "nowhere@example.com", "<>")
    assert whole == body
    position = next(found for found in positions.read(body) if found.path == ("text",) and found.kind is Kind.VALUE)
    at = position.text.index(BOB)
    edits = positions.edits(body, [(position, [Change(at, at + len(BOB), "<1>")])])
    assert len(edits) == 1
    span = edits[0].span
    assert splice(body, edits) == body[: span.start] + b"<1>" + body[span.end :]
    assert json.loads(b'"' + body[span.start : span.end] + b'"') == BOB


@given(_values, st.randoms(use_true_random=False))
def test_json_in_a_string_is_changed_inside_and_escaped_twice(inner: Any, rng: random.Random) -> None:
    inner = {"a": inner, "b": BOB}
    arguments = render(inner, rng)
    body = render({"function": {"arguments": arguments}, "more": [arguments]}, rng).encode()
    changed = json.loads(_changed(body, BOB, '<"\n>'))
    expected = _replaced(inner, BOB, '<"\n>')
    assert json.loads(changed["function"]["arguments"]) == expected
    assert json.loads(changed["more"][0]) == expected


def test_two_layers_are_opened_and_the_third_is_looked_at_as_it_is() -> None:
    one = json.dumps({"a": BOB})
    two = json.dumps({"b": one, "c": BOB})
    three = json.dumps({"d": two})
    body = orjson.dumps({"arguments": three})
    changed = json.loads(_changed(body, BOB, "<1>"))
    assert json.loads(json.loads(json.loads(changed["arguments"])["d"])["b"]) == {"a": "<1>"}


def test_a_number_becomes_a_string() -> None:
    body = b'{"input":{"card": 4111111111111111 ,"n":1}}'
    assert _changed(body, "4111111111111111", "<CREDIT_CARD_1>") == b'{"input":{"card": "<CREDIT_CARD_1>" ,"n":1}}'


@given(st.text(st.characters(codec="utf-8"), max_size=30), st.randoms(use_true_random=False), st.data())
def test_offsets_in_any_spelling(text: str, rng: random.Random, data: st.DataObject) -> None:
    raw = render(text, rng).encode()[1:-1]
    marks = sorted(data.draw(st.lists(st.integers(0, len(text)), max_size=6)))
    found = positions.byte_offsets(raw, marks)
    for mark, at in zip(marks, found, strict=True):
        assert json.loads(b'"' + raw[:at] + b'"') == text[:mark]


# ---- bounds ----------------------------------------------------------------------------------------------


def test_too_many_texts_are_refused() -> None:
    body = orjson.dumps({"input": ["x"] * positions.MAX_POSITIONS})
    assert len(positions.read(body)) == positions.MAX_POSITIONS
    with pytest.raises(TooMany):
        positions.read(orjson.dumps({"input": ["x"] * positions.MAX_POSITIONS, "user": "x"}))


def test_what_is_only_quoted_does_not_keep_a_parser_busy() -> None:
    bomb = "[" + "[]," * positions.MAX_OPENED + f'"{BOB}"]'
    assert _texts({"content": bomb}) == [bomb]
    half = "[" + "[]," * (positions.MAX_OPENED // 3) + f'"{BOB}"]'
    assert _texts({"input": [half, half]}) == [BOB, half]


def test_long_strings_are_read_as_short_ones() -> None:
    for length in (1999, 2000, 2001, 50_000):
        for filler in ("x", "é", "\\", "x\n"):
            text = filler * length + BOB
            for body in ({text: 1}, {"content": text}, [text, {"k": text}]):
                assert text in _texts(body)
    spaced = orjson.dumps({"content": "x" * 5000 + BOB}).replace(b'":"', b'" : "')
    assert _changed(spaced, BOB, "<1>") == spaced.replace(BOB.encode(), b"<1>")


def test_positions_are_not_compared_by_their_text() -> None:
    assert Position(Kind.VALUE, 0, 1, "x") != Position(Kind.VALUE, 0, 1, "x")
