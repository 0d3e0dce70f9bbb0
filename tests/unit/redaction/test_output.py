"""An answer that streams is redacted the same however it is cut, and little of it is held back."""

import json
import re
from collections.abc import Callable, Sequence
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from extproc.redaction import output
from extproc.redaction.changes import apply
from extproc.redaction.output import OutputGuard
from extproc.redaction.policy import Action, Mode, RedactionPolicy
from extproc.redaction.redactor import Redactor
from tests.unit.redaction.finding import Finding, findings

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


@pytest.mark.parametrize("letters", ["\u00e9\n\\", "\\", "\U0001d7d2"])
def test_a_bound_falls_into_no_escape(letters: str) -> None:
    for shift in range(12):
        said = {"text": "x" * shift + letters * 2000}
        guard = _guard()
        pieces = [guard.feed(0, json.dumps(said), json=True), guard.finish(0, json=True)]
        assert json.loads("".join(pieces)) == said
        assert all(re.search(r"\\(u(?!d8)[0-9a-f]{0,3})?\Z", piece.replace("\\\\", "")) is None for piece in pieces)


def test_many_backslashes_are_looked_at_once() -> None:
    seen = 0

    def find(text: str) -> list[Finding]:
        nonlocal seen
        seen += len(text)
        return []

    guard = OutputGuard(find, Redactor(RedactionPolicy(), {}))
    guard.feed(0, "\\" * 100_000, json=True)
    assert seen < 100_000


def test_a_character_in_two_escapes_is_one() -> None:
    text = json.dumps({"to": "\U0001d51e@example.com"})
    assert "\\ud835\\udd1e@" in text
    assert json.loads(_streamed([text], json_text=True)) == {"to": "[EMAIL_ADDRESS]"}


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


# ---- literals of JSON ------------------------------------------------------------------------------------

N = "4111111111111111"
NUMBERS = [
    (f'{{"x":{N}}}', '{"x":"…"}'),
    (f'{{"x":{N}.0, "y": true}}', '{"x":"…", "y": true}'),
    (f"[-{N},{N}e+2,-{N}.25E-3\t]", '["…","…","…"\t]'),
    (f'[ {N} , "{N}"]', '[ "…" , "…"]'),
    (f'["a: [{N}, 1]", "\\"", {N}, "\\\\", {N}]', '["a: […, 1]", "\\"", "…", "\\\\", "…"]'),
    (f'{{"a\\": [": {N}}}', '{"a\\": [": "…"}'),
    (f'{{"{N}":{N}}}', '{"…":"…"}'),
    (f'{{"x":1{N},"y":12.5}}', f'{{"x":1{N},"y":12.5}}'),
    (N, '"…"'),
    (f'{{"a":{N}}}\n{{"a":{N}}}\n', '{"a":"…"}\n{"a":"…"}\n'),
    (f'{{"a":{N}.{N},"b":""}}', '{"a":"…","b":""}'),
    (f"[Music] my card: {CARD}.", "[Music] my card: …."),
    (f'5" and ["{N}", {N}]', '5" and ["…", …]'),
]


@pytest.mark.parametrize(("text", "expected"), NUMBERS)
def test_a_number_is_replaced_whole_by_a_string(text: str, expected: str) -> None:
    assert apply(text, _guard().changes(text, json=True)) == expected
    assert _streamed(list(text), json_text=True) == expected
    for at in range(len(text)):
        assert _streamed([text[:at], text[at:]], json_text=True) == expected


def test_what_is_only_flagged_stays_a_number() -> None:
    guard = _guard(CREDIT_CARD=Action.FLAG)
    assert guard.changes(f"[{N}.0]", json=True) == []
    assert guard.feed(0, f"[{N}.0]", json=True) + guard.finish(0, json=True) == f"[{N}.0]"
    assert guard.redactor.counts == {"CREDIT_CARD": 2}


@pytest.mark.parametrize("length", [3_900, *range(4_006, 4_030, 2), 4_096, 9_000])
def test_no_window_makes_two_of_a_number(length: int) -> None:
    for text, expected in (
        (f'{{"a":"{"9" * length}","b":-{N}.5}}', f'{{"a":"{"9" * length}","b":"…"}}'),
        (f'["{"9" * length}",-1{N}.5e-{N}]', f'["{"9" * length}","…"]'),
        (f'["{"9" * length}",-1{N}.5]', f'["{"9" * length}",-1{N}.5]'),
        (f"[0.{'3' * length},{N}]", f'[0.{"3" * length},"…"]'),
    ):
        behind = f'\n["{"9" * 100}"]'
        for pieces in ([text + behind], _in_sevens(text + behind)):
            assert _streamed(pieces, json_text=True) == expected + behind


@pytest.mark.parametrize("length", [3_900, 4_030, 4_077, 4_096, 9_000])
def test_a_number_that_is_longer_than_a_window_stays_one(length: int) -> None:
    for text in (
        f"[0.{'3' * length},{N}]",
        f"[{'1' * length}.{N}]",
        f"[{'1' * length}.{N}.{N}{'0' * length}, {N}]",
        f"[{N}.{'0' * length}]",
        f"[{N}e{'0' * length}, 1]",
    ):
        said = _streamed([text], json_text=True)
        whole = json.loads(said, parse_float=str, parse_int=str)
        assert len(whole) == text.count(",") + 1
        assert not any(N in value for value in whole)
        assert _streamed(_in_sevens(text), json_text=True) == said


def _in_sevens(text: str) -> list[str]:
    return [text[at : at + 7] for at in range(0, len(text), 7)]


Found = Callable[[str], Sequence[Finding]]


def _sprawling(text: str) -> list[Finding]:
    """Values as nobody would look for them: across quotes and brackets."""
    return [Finding(*found.span(), "SPRAWL") for found in re.finditer(r"7.{0,30}?8|null|a\W*b", text, re.DOTALL)]


def _shape(text: str) -> Any:
    """What stands where; literals may have become strings."""

    def bare(value: Any) -> Any:
        if isinstance(value, tuple):
            return tuple(bare(one) for one in value)
        return [bare(one) for one in value] if isinstance(value, list) else None

    return bare(json.loads(text, object_pairs_hook=lambda pairs: tuple(value for _, value in pairs)))


@pytest.mark.parametrize("before", range(85, 100))
def test_what_reaches_over_literals_is_found_once_and_leaves_their_commas(before: int) -> None:
    text = f'[{"0," * before}17,0,"",8{",0" * 90}]'
    policy = RedactionPolicy(output={"SPRAWL": Action.MASK})
    for pieces in ([text], list(text)):
        guard = OutputGuard(_sprawling, Redactor(policy, policy.output))
        said = "".join([guard.feed(0, piece, json=True) for piece in pieces]) + guard.finish(0, json=True)
        assert said == text.replace('17,0,"",8', '"[SPRAWL]","…","","…"')
        assert guard.redactor.counts == {"SPRAWL": 1}


_LEAVES = (
    st.sampled_from((N, BOB, CARD, "7", "8", "a", "b", "x" * 70, '"', "\\", "\U0001d7d2", "ssn: 123456789"))
    | st.sampled_from((int(N), -int(N), float(N) + 0.5, 1e300, -7, 8, 0.78, None, True, False, 10**90, ""))
    | st.text(st.characters(codec="utf-8"), max_size=4)
    | st.integers()
)
_VALUES = st.recursive(
    _LEAVES,
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(st.sampled_from((N, "7", "a", "ssn: ", "word one", "n")), inner, max_size=3)
        | inner.map(json.dumps)
    ),
    max_leaves=12,
)
_OUTPUT = [action for action in Action if action is not Action.PLACEHOLDER]


@given(
    value=_VALUES,
    action=st.sampled_from(_OUTPUT),
    find=st.sampled_from((findings, _sprawling)),
    is_ascii=st.booleans(),
    indent=st.sampled_from((None, 1)),
    reach=st.sampled_from((0, 14)),
    is_small=st.booleans(),
    data=st.data(),
)
def test_json_stays_json(
    value: Any,
    action: Action,
    find: Found,
    is_ascii: bool,
    indent: int | None,
    reach: int,
    is_small: bool,
    data: st.DataObject,
) -> None:
    text = json.dumps(value, ensure_ascii=is_ascii, indent=indent)
    policy = RedactionPolicy(
        output=dict.fromkeys(("CREDIT_CARD", "EMAIL_ADDRESS", "US_SSN", "SPRAWL"), action), hash_key=b"k"
    )

    def streamed(pieces: Sequence[str]) -> str:
        guard = OutputGuard(find, Redactor(policy, policy.output), reach)
        return "".join([guard.feed(0, piece, json=True) for piece in pieces]) + guard.finish(0, json=True)

    with pytest.MonkeyPatch.context() as patch:
        if is_small:  # so that there are many
            patch.setattr(output, "TOKEN", 60)
            patch.setattr(output, "RUN", 40)
            patch.setattr(output, "_OVERLAP", 20)
        marks = sorted(data.draw(st.lists(st.integers(0, len(text)), max_size=6)))
        pieces = [text[start:end] for start, end in zip([0, *marks], [*marks, len(text)], strict=True)]
        said = streamed([text])
        assert streamed(pieces) == said
        assert streamed(list(text)) == said
    whole = apply(text, OutputGuard(find, Redactor(policy, policy.output)).changes(text, json=True))
    for result in (said, whole):
        assert _shape(result) == _shape(text)
        if action is Action.FLAG:
            assert result == text
    orjson.loads(whole)
