"""What was replaced comes back, for every split and in every spelling, and nothing else does."""

import json
from collections.abc import Sequence
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from extproc.dialects.json_spans import splice
from extproc.redaction import positions
from extproc.redaction.changes import apply
from extproc.redaction.placeholders import LONGEST, Placeholders
from extproc.redaction.policy import Action, RedactionPolicy
from extproc.redaction.redactor import Redactor
from extproc.redaction.restore import Restorer
from tests.unit.redaction.finding import findings

BOB = "bob@example.com"
KEY = 'a"b\\c\nd'
POLICY = RedactionPolicy(
    input=dict.fromkeys(("EMAIL_ADDRESS", "ADDRESS", "CREDIT_CARD", "US_SSN", "API_KEY"), Action.PLACEHOLDER)
)


def _placeholders() -> Placeholders:
    placeholders = Placeholders(POLICY.grammar)
    for number in range(12):
        placeholders.of("EMAIL_ADDRESS", f"user{number}@example.com")
    placeholders.of("ADDRESS", "1 High Street")
    placeholders.of("CREDIT_CARD", "4111 1111 1111 1111")
    placeholders.of("CREDIT_CARD", "4111111111111111")
    placeholders.of("API_KEY", KEY)
    placeholders.literal("<EMAIL_ADDRESS_1>")
    return placeholders


def _streamed(pieces: Sequence[str], json_text: bool = False) -> tuple[str, int, int]:
    restorer = Restorer(_placeholders())
    parts = []
    for piece in pieces:
        parts.append(restorer.feed("a", piece, json_text))
        before, held = restorer._channels["a"]
        assert len(held) <= LONGEST
        assert len(before) <= 2
    parts.append(restorer.finish("a", json_text))
    assert restorer.open_channels() == []
    return "".join(parts), restorer.restored, restorer.unrestored


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("<EMAIL_ADDRESS_1>", "user0@example.com"),
        ("<EMAIL_ADDRESS_10> and <EMAIL_ADDRESS_1>", "user9@example.com and user0@example.com"),
        ("**<EMAIL_ADDRESS_2>**", "**user1@example.com**"),
        ("EMAIL_ADDRESS_2, EMAIL_ADDRESS_12.", "user1@example.com, user11@example.com."),
        ("&lt;EMAIL_ADDRESS_2&gt;", "user1@example.com"),
        ("\\u003cEMAIL_ADDRESS_2\\u003e", "user1@example.com"),
        ("<Email Address 2>", "user1@example.com"),
        ("EMAIL\\_ADDRESS\\_2", "user1@example.com"),
        ("<CREDIT_CARD_1a>", "4111111111111111"),
        ("联系EMAIL_ADDRESS_2吗", "联系user1@example.com吗"),
        ("<LITERAL_1>", "<EMAIL_ADDRESS_1>"),
        ("<EMAIL_ADDRESS_2", "<user1@example.com"),
        ("\\nEMAIL_ADDRESS_2", "\\nuser1@example.com"),
        ("<EMAIL_ADDRESS_99>", "<EMAIL_ADDRESS_99>"),
        ("MY_EMAIL_ADDRESS_2", "MY_EMAIL_ADDRESS_2"),
        ("Email Address 2", "Email Address 2"),
        ("<US_SSN_1>", "<US_SSN_1>"),
        ("<US_SSN_1 <ADDRESS_1>", "<US_SSN_1 1 High Street"),
    ],
)
def test_mentions(text: str, expected: str) -> None:
    assert Restorer(_placeholders()).text(text) == expected
    for at in range(len(text) + 1):
        assert _streamed([text[:at], text[at:]])[0] == expected
    assert _streamed(list(text))[0] == expected


def test_what_is_put_back_is_not_looked_at_again() -> None:
    placeholders = Placeholders(POLICY.grammar)
    placeholders.of("EMAIL_ADDRESS", "<ADDRESS_1>")
    placeholders.of("ADDRESS", "home")
    assert Restorer(placeholders).text("<EMAIL_ADDRESS_1><ADDRESS_1>") == "<ADDRESS_1>home"


def test_counts() -> None:
    restorer = Restorer(_placeholders())
    restorer.text("<EMAIL_ADDRESS_1> <EMAIL_ADDRESS_99> <CREDIT_CARD_7> <US_SSN_1>")
    assert (restorer.restored, restorer.unrestored) == (1, 2)


def test_in_json_values_are_escaped() -> None:
    text = '{"key": "<API_KEY_1>", "n": "\\u003cAPI_KEY_1\\u003e"}'
    expected = {"key": KEY, "n": KEY}
    assert json.loads(Restorer(_placeholders()).text(text, json=True)) == expected
    for at in range(len(text) + 1):
        assert json.loads(_streamed([text[:at], text[at:]], json_text=True)[0]) == expected


def test_only_what_may_become_a_placeholder_of_this_call_is_held_back() -> None:
    restorer = Restorer(_placeholders())
    assert restorer.feed(0, "It is ") == "It is "
    assert restorer.feed(0, "a < b") == "a < b"
    assert restorer.feed(0, " and <US_SSN") == " and <US_SSN"
    assert restorer.feed(0, " <EMA") == " "
    assert restorer.open_channels() == [0]
    assert restorer.feed(0, "IL_ADDRESS_1") == ""
    assert restorer.feed(0, "> or Eve") == "user0@example.com or Eve"
    assert restorer.feed(0, " <EMAIL") == " "
    assert restorer.finish(0) == "<EMAIL"
    assert restorer.finish(0) == ""


def test_without_values_nothing_is_held_back() -> None:
    restorer = Restorer(Placeholders(POLICY.grammar))
    assert restorer.feed(0, "<EMAIL_ADDRESS_1") == "<EMAIL_ADDRESS_1"
    assert restorer.finish(0) == ""
    assert restorer.document(b'{"a":"<EMAIL_ADDRESS_1>"}') == []


_PIECES = (
    "EMAIL_ADDRESS",
    "Email Address",
    "ADDRESS",
    "CREDIT_CARD",
    "API_KEY",
    "LITERAL",
    "US_SSN",
    "_1",
    "_12",
    " 1",
)
_MARKS = (
    "_",
    "-",
    "<",
    ">",
    "&lt;",
    "&gt;",
    "&",
    "\\u003c",
    "\\u003e",
    "\\",
    "\\n",
    "\\_",
    "1",
    "a",
    "b",
    " ",
    "号",
    "x",
)
_TEXTS = st.lists(
    st.sampled_from((*_PIECES, *_MARKS, "<EMAIL_ADDRESS_1>", "<CREDIT_CARD_1a>", "API_KEY_1")), max_size=14
).map("".join)


@given(_TEXTS, st.data(), st.booleans())
def test_every_split_gives_the_unsplit_result(text: str, data: st.DataObject, json_text: bool) -> None:
    marks = sorted(data.draw(st.lists(st.integers(0, len(text)), max_size=6)))
    pieces = [text[start:end] for start, end in zip([0, *marks], [*marks, len(text)], strict=True)]
    restorer = Restorer(_placeholders())
    whole = restorer.text(text, json_text)
    expected = (whole, restorer.restored, restorer.unrestored)
    assert _streamed(pieces, json_text) == expected
    assert _streamed([text], json_text) == expected
    assert _streamed(list(text), json_text) == expected


@given(st.lists(st.tuples(st.integers(0, 2), _TEXTS), max_size=8))
def test_channels_do_not_touch_each_other(events: list[tuple[int, str]]) -> None:
    restorer = Restorer(_placeholders())
    shown = ["", "", ""]
    for channel, text in events:
        shown[channel] += restorer.feed(channel, text)
    for channel in range(3):
        shown[channel] += restorer.finish(channel)
        said = "".join(text for at, text in events if at == channel)
        assert shown[channel] == Restorer(_placeholders()).text(said)


# ---- redact, then restore --------------------------------------------------------------------------------

_SAID = st.lists(
    st.sampled_from(
        (
            BOB,
            "Bob@Example.com",
            "ann@x.io",
            "4111 1111 1111 1111",
            "4111111111111111",
            "4222222222222222",
            " ",
            "\n",
            '"',
        )
    )
    | _TEXTS
    | st.text(st.characters(codec="utf-8"), max_size=5),
    max_size=8,
).map("".join)


def _redacted(body: bytes, placeholders: Placeholders) -> bytes:
    redactor = Redactor(POLICY, POLICY.input, placeholders)
    found = positions.read(body)
    changed = [(it, redactor.changes(it.text, findings(it.text), it.lead)) for it in found]
    return splice(body, positions.edits(body, changed))


def _said(body: bytes) -> list[Any]:
    return [
        (json.loads(message["content"]) if message["role"] == "tool" else message["content"])
        for message in json.loads(body)["messages"]
    ]


@given(_SAID)
def test_a_text_is_itself_again(text: str) -> None:
    placeholders = Placeholders(POLICY.grammar)
    redactor = Redactor(POLICY, POLICY.input, placeholders)
    clean = apply(text, redactor.changes(text, findings(text)))
    assert BOB not in clean
    restorer = Restorer(placeholders)
    assert restorer.text(clean) == text
    assert "".join([restorer.feed(0, piece) for piece in clean]) + restorer.finish(0) == text


@given(st.lists(st.tuples(st.booleans(), _SAID), min_size=1, max_size=5))
def test_a_conversation_is_itself_again(turns: list[tuple[bool, str]]) -> None:
    """Plain messages, and tool results that are JSON in a string."""
    messages = [
        {"role": "tool", "content": json.dumps({"said": text, text: 1})}
        if is_tool
        else {"role": "user", "content": text}
        for is_tool, text in turns
    ]
    body = orjson.dumps({"messages": messages})
    placeholders = Placeholders(POLICY.grammar)
    clean = _redacted(body, placeholders)
    assert BOB.encode() not in clean
    back = splice(clean, Restorer(placeholders).document(clean))
    # A plain text that is JSON itself comes back with its escapes as orjson writes them.
    for said, before in zip(_said(back), _said(body), strict=True):
        assert said == before or json.loads(said) == json.loads(before)


@given(st.lists(_SAID, min_size=2, max_size=6), st.booleans())
def test_a_history_is_the_same_in_every_call(texts: list[str], is_first: bool) -> None:
    """However the conversation grows, and wherever the tools stand, its beginning goes out as it did before."""

    def sent(count: int) -> list[str]:
        rest = {"tools": [{"name": f"tool of {BOB}"}], "user": "ann@x.io"}
        said = {"messages": [{"role": "user", "content": text} for text in texts[:count]]}
        body = orjson.dumps({**rest, **said} if is_first else {**said, **rest})
        clean = json.loads(_redacted(body, Placeholders(POLICY.grammar)))
        return [clean["tools"][0]["name"], *(message["content"] for message in clean["messages"])]

    assert sent(len(texts))[: len(texts)] == sent(len(texts) - 1)


# ---- whole answers ---------------------------------------------------------------------------------------


def test_a_document_is_restored_in_every_position() -> None:
    answer = {
        "id": "x_<_1",
        "choices": [{"message": {"content": 'Mail "<EMAIL_ADDRESS_1>" é\n', "<EMAIL_ADDRESS_2>": None}}],
        "tool_calls": [{"function": {"arguments": '{"key":"<API_KEY_1>"}'}}],
        "input": {"key": "<API_KEY_1>"},
    }
    body = orjson.dumps(answer).replace(b"<EMAIL_ADDRESS_1>", b"\\u003cEMAIL_ADDRESS_1\\u003e")
    restored = json.loads(splice(body, Restorer(_placeholders()).document(body)))
    assert restored["choices"][0]["message"] == {"content": 'Mail "user0@example.com" é\n', "user1@example.com": None}
    assert json.loads(restored["tool_calls"][0]["function"]["arguments"]) == {"key": KEY}
    assert restored["input"] == {"key": KEY}
    assert restored["id"] == "x_<_1"


def test_an_answer_that_is_json_stays_json() -> None:
    body = orjson.dumps({"content": '{"key": "<API_KEY_1>"}', "text": "[<API_KEY_1>]"})
    restored = json.loads(splice(body, Restorer(_placeholders()).document(body)))
    assert json.loads(restored["content"]) == {"key": KEY}
    assert restored["text"] == f"[{KEY}]"
