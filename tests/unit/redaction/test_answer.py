"""What a model says goes through the guards, then the caller's values come back; as a stream and as a whole."""

import json
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from extproc.dialects.json_spans import splice
from extproc.redaction.answer import AnswerTexts, Ear
from extproc.redaction.output import OutputGuard
from extproc.redaction.placeholders import Placeholders
from extproc.redaction.policy import Action, Mode, RedactionPolicy
from extproc.redaction.redactor import Redactor
from tests.unit.redaction.finding import Finding, findings

BOB, KEY, EVE = "bob@example.com", 'a"b\nc', "eve@example.org"
INPUT = dict.fromkeys(("EMAIL_ADDRESS", "API_KEY"), Action.PLACEHOLDER)
OUTPUT = {"EMAIL_ADDRESS": Action.MASK, "PROJECT": Action.BLOCK, "CREDIT_CARD": Action.FLAG}


def policy(mode: Mode = Mode.ENFORCE) -> RedactionPolicy:
    return RedactionPolicy(mode=mode, input=INPUT, output=OUTPUT)


def placeholders() -> Placeholders:
    made = Placeholders(policy().grammar)
    made.of("EMAIL_ADDRESS", BOB)
    made.of("API_KEY", KEY)
    return made


def guard(mode: Mode = Mode.ENFORCE) -> OutputGuard:
    return OutputGuard(findings, Redactor(policy(mode), OUTPUT))


def texts(*modes: Mode) -> AnswerTexts:
    return AnswerTexts(placeholders(), [guard(mode) for mode in modes])


SAYING: list[Callable[[AnswerTexts, str], str]] = [
    lambda answer, text: answer.text(text),
    lambda answer, text: answer.feed("a", text, False) + answer.finish("a", False),
    lambda answer, text: str(told(answer, [text])[0]),
]


def told(answer: AnswerTexts, value: Any, again: bool = False) -> Any:
    body = json.dumps(value).encode()
    edits = sorted(answer.document(body, again), key=lambda edit: edit.span.start)
    assert all(one.span.end <= other.span.start for one, other in pairwise(edits))
    return json.loads(splice(body, edits))


SAID = [
    ("to <EMAIL_ADDRESS_1>, not eve@example.org", f"to {BOB}, not [EMAIL_ADDRESS]"),
    ("bob@example.com said <EMAIL_ADDRESS_9>", "[EMAIL_ADDRESS] said <EMAIL_ADDRESS_9>"),
    ("EMAIL_ADDRESS_1@example.com", "[EMAIL_ADDRESS]"),
    ("eve@example.org<EMAIL_ADDRESS_1>", f"[EMAIL_ADDRESS]{BOB}"),
    ("4111 1111 1111 1111", "4111 1111 1111 1111"),
    ("", ""),
]


@pytest.mark.parametrize(("text", "expected"), SAID)
def test_a_text_is_the_same_whole_streamed_or_in_a_document(text: str, expected: str) -> None:
    assert texts(Mode.ENFORCE).text(text) == expected
    assert told(texts(Mode.ENFORCE), {"a": [text], text: 1}) == {"a": [expected], expected: 1}
    for pieces in ([text], list(text)):
        answer = texts(Mode.ENFORCE)
        out = "".join([answer.feed("a", piece, False) for piece in pieces]) + answer.finish("a", False)
        assert out == expected
        assert answer.open_channels() == []


def test_values_are_escaped_in_json() -> None:
    text = '{"key": "<API_KEY_1>", "to": "eve\\u0040example.org"}'
    expected = {"key": KEY, "to": "[EMAIL_ADDRESS]"}
    answer = texts(Mode.ENFORCE)
    assert json.loads(answer.feed("a", text, True) + answer.finish("a", True)) == expected
    assert json.loads(texts(Mode.ENFORCE).text(text, True)) == expected
    assert json.loads(told(texts(Mode.ENFORCE), {"arguments": text})["arguments"]) == expected


def test_in_json_numbers_become_strings_and_values_come_back_into_theirs() -> None:
    text = '{"key": "a \\\\\\"<API_KEY_1>\\"", "n": [4111111111111111.0, 17], "<EMAIL_ADDRESS_1>": "\\u003cAPI_KEY_1>"}'
    expected = {"key": f'a \\"{KEY}"', "n": ["[CREDIT_CARD]", 17], BOB: KEY}

    def answer() -> AnswerTexts:
        masks = Redactor(policy(), {"CREDIT_CARD": Action.MASK})
        return AnswerTexts(placeholders(), [OutputGuard(findings, masks), guard()])

    assert json.loads(answer().text(text, True)) == expected
    for at in range(len(text)):
        streamed = answer()
        said = [streamed.feed(0, piece, True) for piece in (text[:at], text[at:])]
        assert json.loads("".join(said) + streamed.finish(0, True)) == expected
    assert told(answer(), {"arguments": text})["arguments"] == answer().text(text, True)


def test_what_is_held_back_is_told() -> None:
    answer = texts(Mode.ENFORCE)
    answer.feed("a", "one two", False)
    answer.feed("b", "", False)
    assert answer.open_channels() == ["a"]
    alone = texts()
    alone.feed("a", "<EMAIL", False)
    assert alone.open_channels() == ["a"]
    assert AnswerTexts(None).open_channels() == []


def test_the_end_of_a_guards_text_may_end_a_placeholder() -> None:
    answer = texts(Mode.ENFORCE)
    assert answer.feed("a", "x <EMAIL_", False) == ""
    assert answer.feed("a", "ADDRESS_1>", False) == ""
    assert answer.finish("a", False) == f"x {BOB}"
    assert answer.finish("a", False) == ""


def test_each_guard_has_its_own_say() -> None:
    def finds_mask(text: str) -> list[Finding]:
        at = text.find("EMAIL_ADDRESS")
        return [] if at < 0 else [Finding(at, at + 13, "MASKED")]

    second = OutputGuard(finds_mask, Redactor(policy(), {"MASKED": Action.DROP}))
    answer = AnswerTexts(placeholders(), [guard(), second])
    assert answer.text(f"to {EVE}") == "to […]"
    assert answer.feed("a", f"to {EVE}", False) + answer.finish("a", False) == "to […]"
    assert answer.counts == {"EMAIL_ADDRESS": 2, "MASKED": 2}


def test_without_guards_the_same_values_only_come_back() -> None:
    answer = texts()
    assert answer.text(f"<EMAIL_ADDRESS_1> {EVE} <EMAIL_ADDRESS_2>") == f"{BOB} {EVE} <EMAIL_ADDRESS_2>"
    assert (answer.restored, answer.unrestored, answer.counts, answer.blocked) == (1, 1, {}, False)


@pytest.mark.parametrize("nothing", [None, Placeholders(policy().grammar)])
def test_without_values_nothing_comes_back(nothing: Placeholders | None) -> None:
    answer = AnswerTexts(nothing, [guard()])
    assert answer.text(f"<EMAIL_ADDRESS_1> {EVE}") == "<EMAIL_ADDRESS_1> [EMAIL_ADDRESS]"
    assert answer.feed("a", f"<EMAIL_ADDRESS_1> {EVE}", False) + answer.finish("a", False) == (
        "<EMAIL_ADDRESS_1> [EMAIL_ADDRESS]"
    )
    assert told(answer, [f"<EMAIL_ADDRESS_1> {EVE}"]) == ["<EMAIL_ADDRESS_1> [EMAIL_ADDRESS]"]
    assert (answer.restored, answer.unrestored) == (0, 0)


@pytest.mark.parametrize("say", SAYING)
def test_what_must_not_be_said_blocks(say: Callable[[AnswerTexts, str], str]) -> None:
    answer = texts(Mode.ENFORCE)
    assert "falcon" not in say(answer, "a project falcon")
    assert answer.blocked
    assert answer.counts == {"PROJECT": 1}


@pytest.mark.parametrize("say", SAYING)
def test_a_guard_in_the_shadow_only_counts(say: Callable[[AnswerTexts, str], str]) -> None:
    answer = texts(Mode.SHADOW)
    assert say(answer, f"{EVE} project falcon <EMAIL_ADDRESS_1>") == f"{EVE} project falcon {BOB}"
    assert not answer.blocked
    assert answer.counts == {"EMAIL_ADDRESS": 1, "PROJECT": 1}


def test_what_is_told_again_counts_once_but_may_still_block() -> None:
    answer = texts(Mode.ENFORCE)
    said = {"text": f"<EMAIL_ADDRESS_1> <EMAIL_ADDRESS_7> {EVE}"}
    expected = {"text": f"{BOB} <EMAIL_ADDRESS_7> [EMAIL_ADDRESS]"}
    assert told(answer, said) == told(answer, said, again=True) == expected
    assert (answer.restored, answer.unrestored, answer.counts) == (1, 1, {"EMAIL_ADDRESS": 1})
    told(answer, {"text": "project falcon"}, again=True)
    assert answer.blocked
    assert answer.counts.total() == 2  # what ends an answer is told
    assert told(texts(), said, again=True) == {"text": f"{BOB} <EMAIL_ADDRESS_7> {EVE}"}


def test_what_a_tool_gave_is_new_in_an_item_whose_arguments_were_told() -> None:
    ear = Ear()
    answer = AnswerTexts(None, texts(Mode.ENFORCE)._guards, ear)
    item = {"item": {"type": "mcp_call", "arguments": f'{{"to":"{EVE}"}}', "output": f"from {EVE}"}}
    told(answer, item, again=True)
    assert answer.counts == {"EMAIL_ADDRESS": 1}
    assert ear.take() == ["from [EMAIL_ADDRESS]"]


def test_no_guard_looks_at_what_an_answer_repeats_of_its_request() -> None:
    echo = {
        "instructions": f"<EMAIL_ADDRESS_1> {EVE}",
        "tools": [{"description": EVE}],
        "text": {"format": {"name": EVE}},
        "metadata": {"a": "project falcon"},
    }
    expected = echo | {"instructions": f"{BOB} {EVE}"}
    for value, changed in ((echo, expected), ({"response": echo}, {"response": expected})):
        answer = texts(Mode.ENFORCE)
        assert told(answer, value) == changed
        assert not answer.blocked
        assert answer.counts == {}
    said = {"output": [{"instructions": EVE}], "text": EVE}
    assert told(texts(Mode.ENFORCE), said) == {
        "output": [{"instructions": "[EMAIL_ADDRESS]"}],
        "text": "[EMAIL_ADDRESS]",
    }


def test_what_only_a_provider_can_read_is_left_alone() -> None:
    sealed = {"signature": "Ab3+" * 60, "data": [{"b64_json": "eve/" * 60}], "id": "msg_abcDEF123456"}
    assert told(texts(Mode.ENFORCE), sealed) == sealed


@pytest.mark.parametrize("strict", [False, True])
def test_what_cannot_be_looked_through_is_noted_and_stays_as_it_is(strict: bool) -> None:
    events = f'event: a\r\nid: 7\r\n\r\n: a\n\ndata: {{"a": "{EVE}"}}\n\n'
    for odd in (events, f"data:[{EVE}]", f"d\0a\0t\0a {EVE}"):
        answer = texts(Mode.ENFORCE)
        answer.strict = strict
        assert answer.text(odd) == odd
        assert (answer.unread, answer.blocked) == (True, strict)
    answer = texts(Mode.ENFORCE)
    answer.strict = strict
    assert answer.document(b"[" + b'"a",' * 100_000 + b'"a"]') == []
    assert (answer.unread, answer.blocked) == (True, strict)


@pytest.mark.parametrize("text", [f"data: {EVE}", f'dear {EVE}\ndata: {{"a": 1}}', f"database: {{{EVE}}}"])
def test_what_only_reminds_of_a_stream_is_a_text(text: str) -> None:
    answer = texts(Mode.ENFORCE)
    assert answer.text(text) == text.replace(EVE, "[EMAIL_ADDRESS]")
    assert not answer.unread


_said = st.lists(st.sampled_from([text for text, _ in SAID] + ["<", "EMAIL_", " ", "é", '"', "\\"]), max_size=6)


@given(_said)
def test_edits_of_a_document_make_what_the_text_becomes(parts: list[str]) -> None:
    text = " ".join(parts)
    assert told(texts(Mode.ENFORCE), [[text]]) == [[texts(Mode.ENFORCE).text(text)]]
