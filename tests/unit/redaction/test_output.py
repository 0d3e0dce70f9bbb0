"""An answer that streams is redacted the same however it is cut, and little of it is held back."""

import json
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from extproc.redaction import output
from extproc.redaction.output import OutputGuard
from extproc.redaction.policy import Action, Mode, RedactionPolicy
from extproc.redaction.redactor import Redactor
from tests.unit.redaction.finding import findings

BOB = "bob@example.com"
CARD = "4111 1111 1111 1111"
KEY = "-----BEGIN PRIVATE KEY-----\n" + "MIIEvQIBADANBgkqhkiG9w0BAQEFAASC abc def\n" * 30 + "-----END PRIVATE KEY-----"
ACTIONS = {"EMAIL_ADDRESS": Action.MASK, "PROJECT": Action.MASK, "CREDIT_CARD": Action.DROP, "US_SSN": Action.FLAG}


def _guard(mode: Mode = Mode.ENFORCE, reach: int = 0, **actions: Action) -> OutputGuard:
    policy = RedactionPolicy(mode=mode, output={**ACTIONS, **actions})
    return OutputGuard(findings, Redactor(policy, policy.output), reach)


def _streamed(pieces: Sequence[str], json_text: bool = False, reach: int = 0) -> str:
    guard = _guard(reach=reach)
    shown = "".join([guard.feed("a", piece, json_text) for piece in pieces])
    shown += guard.finish("a", json_text)
    assert guard.open_channels() == []
    return shown


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (f"Write to {BOB}, or call.", "Write to [EMAIL_ADDRESS], or call."),
        (f"Cards: {CARD} and {CARD}", "Cards: … and …"),
        (f"号{CARD}请", "号…请"),
        (KEY, "[PRIVATE_KEY]"),
        (f"Take this: {KEY} and go", "Take this: [PRIVATE_KEY] and go"),
        ("ssn: 123456789", "ssn: 123456789"),
        ("x" * 5000 + f" {BOB}", "x" * 5000 + " [EMAIL_ADDRESS]"),
        ("12 " * 80 + CARD + " 34" * 80, "12 " * 80 + "…" + " 34" * 80),
        ("", ""),
    ],
)
def test_a_text_in_pieces(text: str, expected: str) -> None:
    assert _streamed([text]) == expected
    assert _streamed(list(text)) == expected
    for at in range(0, len(text), max(1, len(text) // 30)):
        assert _streamed([text[:at], text[at:]]) == expected


def test_one_word_and_the_next_are_held_back() -> None:
    guard = _guard()
    assert guard.feed(0, "I am") == ""
    assert guard.feed(0, " here ") == "I am "
    assert guard.feed(0, "at ") == "here "
    assert guard.open_channels() == [0]
    assert guard.feed(0, "41") == ""
    assert guard.finish(0) == "at 41"
    assert guard.finish(0) == ""


def test_numbers_are_held_back_no_further_than_a_run() -> None:
    guard = _guard(CREDIT_CARD=Action.FLAG)
    shown = fed = 0
    for number in range(3_000):
        piece = f"{number} "
        fed += len(piece)
        shown += len(guard.feed(0, piece))
        assert fed - shown <= output.RUN + len(piece)


def test_a_token_without_a_blank_is_held_back_no_further_than_its_bound() -> None:
    guard = _guard()
    shown = 0
    for fed in range(1, 10_000):
        shown += len(guard.feed(0, "a"))
        assert fed - shown <= output.TOKEN


def test_what_is_blocked_does_not_go_out() -> None:
    guard = _guard(EMAIL_ADDRESS=Action.BLOCK)
    assert guard.feed(0, f"Write to {BOB} now and then ") == "Write to … now and "
    assert guard.redactor.blocked == {"EMAIL_ADDRESS": 1}


def test_shadow_mode_passes_all_at_once_and_counts() -> None:
    guard = _guard(Mode.SHADOW)
    assert guard.feed(0, f"Write to {BOB}") == f"Write to {BOB}"
    assert guard.open_channels() == []
    assert guard.finish(0) == ""
    assert guard.redactor.counts == {"EMAIL_ADDRESS": 1}


def test_a_phrase_needs_reach() -> None:
    text = "all of project falcon is late by far"
    assert _streamed([text], reach=len("project falcon")) == "all of [PROJECT] is late by far"
    assert _streamed(list(text), reach=len("project falcon")) == "all of [PROJECT] is late by far"


def test_what_came_before_tells_what_a_number_is() -> None:
    guard = _guard(US_SSN=Action.MASK)
    shown = guard.feed(0, "so, ssn: ") + guard.feed(0, "123456789") + guard.finish(0)
    assert shown == "so, ssn: [US_SSN]"
    assert guard.redactor.counts == {"US_SSN": 1}


def test_escapes_of_json_are_understood_and_stay_whole() -> None:
    said = {"to": f"\n{BOB}\n", "text": f'"{CARD}"\t\u00e9 𝄞', "n": 1}
    expected = {"to": "\n[EMAIL_ADDRESS]\n", "text": '"…"\t\u00e9 𝄞', "n": 1}
    for text in (json.dumps(said), json.dumps(said, ensure_ascii=False), json.dumps(said).replace("@", "\\u0040")):
        assert json.loads(_streamed([text], json_text=True)) == expected
        for at in range(len(text)):
            assert json.loads(_streamed([text[:at], text[at:]], json_text=True)) == expected


def test_a_bound_falls_into_no_escape() -> None:
    for shift in range(8):
        said = {"text": "x" * shift + "\u00e9\n\\" * 2000}
        assert json.loads(_streamed([json.dumps(said)], json_text=True)) == said


_TEXTS = st.lists(
    st.sampled_from(
        (
            BOB,
            CARD,
            "4111",
            " 1111",
            "-1111",
            "call ",
            "ssn: ",
            "123456789",
            "project ",
            "falcon",
            "-----BEGIN",
            " PRIVATE",
        )
    )
    | st.sampled_from(
        (" KEY-----", "-----END PRIVATE KEY-----", "12 " * 70, "word", " ", "\n", ",", "号", "é", "<", '"', "\\n")
    )
    | st.sampled_from(("x" * 200, "\\u0040", "a@", "b.io ", "\\", "one two three ")),
    max_size=16,
).map("".join)


@given(_TEXTS, st.data(), st.booleans(), st.sampled_from((0, 14)))
def test_every_split_gives_the_unsplit_result(text: str, data: st.DataObject, json_text: bool, reach: int) -> None:
    marks = sorted(data.draw(st.lists(st.integers(0, len(text)), max_size=6)))
    pieces = [text[start:end] for start, end in zip([0, *marks], [*marks, len(text)], strict=True)]
    expected = _streamed([text], json_text, reach)
    assert _streamed(pieces, json_text, reach) == expected
    assert _streamed(list(text), json_text, reach) == expected
    assert BOB not in expected


@given(st.lists(st.tuples(st.integers(0, 2), _TEXTS), max_size=6))
def test_channels_do_not_touch_each_other(events: list[tuple[int, str]]) -> None:
    guard = _guard()
    shown = ["", "", ""]
    for channel, text in events:
        shown[channel] += guard.feed(channel, text)
    for channel in range(3):
        shown[channel] += guard.finish(channel)
        assert shown[channel] == _streamed(["".join(text for at, text in events if at == channel)])
