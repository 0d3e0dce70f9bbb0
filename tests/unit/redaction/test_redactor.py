"""Each action on a text, and that nothing a caller types can become another's value."""

import pytest

from extproc.redaction import redactor as module
from extproc.redaction.changes import apply
from extproc.redaction.placeholders import MARKS, Placeholders, is_marked
from extproc.redaction.policy import Action, Mode, RedactionPolicy
from extproc.redaction.redactor import Redactor
from tests.unit.redaction.finding import Finding, findings

POLICY = RedactionPolicy(
    input={"EMAIL_ADDRESS": Action.PLACEHOLDER, "CREDIT_CARD": Action.PLACEHOLDER}, hash_key=b"tenant"
)


def _with(action: Action, mode: Mode = Mode.ENFORCE, key: bytes = b"tenant") -> Redactor:
    policy = RedactionPolicy(mode=mode, input={"EMAIL_ADDRESS": action}, hash_key=key)
    return Redactor(policy, policy.input, Placeholders(policy.grammar))


def _redacted(redactor: Redactor, text: str) -> str:
    return apply(text, redactor.changes(text, findings(text)))


@pytest.mark.parametrize(
    ("action", "expected"),
    [
        (Action.PLACEHOLDER, "to <EMAIL_ADDRESS_1>!"),
        (Action.MASK, "to [EMAIL_ADDRESS]!"),
        (Action.DROP, "to …!"),
        (Action.BLOCK, "to …!"),
        (Action.FLAG, "to bob@example.com!"),
    ],
)
def test_actions(action: Action, expected: str) -> None:
    redactor = _with(action)
    assert _redacted(redactor, "to bob@example.com!") == expected
    assert redactor.counts == {"EMAIL_ADDRESS": 1}
    assert redactor.blocked == ({"EMAIL_ADDRESS": 1} if action is Action.BLOCK else {})


def test_a_hash_is_the_same_for_spellings_of_a_value_under_one_key() -> None:
    one, other = (_redacted(_with(Action.HASH), text) for text in ("bob@example.com", "Bob@Example.com"))
    assert one == other
    assert one.startswith("[EMAIL_ADDRESS#")
    assert len(one) == len("[EMAIL_ADDRESS#]") + 16
    assert _redacted(_with(Action.HASH, key=b"another"), "bob@example.com") != one


def test_an_entity_of_no_rule_is_masked() -> None:
    assert _redacted(_with(Action.PLACEHOLDER), "4111111111111111") == "[CREDIT_CARD]"


def test_without_placeholders_values_are_masked() -> None:
    assert _redacted(Redactor(POLICY, POLICY.input), "<EMAIL_ADDRESS_1> a@x.io") == "<EMAIL_ADDRESS_1> [EMAIL_ADDRESS]"


def test_shadow_mode_counts_and_changes_nothing() -> None:
    redactor = _with(Action.BLOCK, Mode.SHADOW)
    assert _redacted(redactor, "a@x.io <EMAIL_ADDRESS_1>") == "a@x.io <EMAIL_ADDRESS_1>"
    assert redactor.counts == redactor.blocked == {"EMAIL_ADDRESS": 1}


def test_what_a_caller_types_gets_a_placeholder_of_its_own() -> None:
    redactor = _with(Action.PLACEHOLDER)
    assert _redacted(redactor, "<EMAIL_ADDRESS_1> is a@x.io") == "<LITERAL_1> is <EMAIL_ADDRESS_1>"
    assert _redacted(redactor, "<LITERAL_1>, <email address 1>") == "<LITERAL_2>, <LITERAL_3>"


@pytest.mark.parametrize(
    "text", ["4111111111111111EMAIL_ADDRESS_1", "\\u003eEMAIL_ADDRESS_1", "<EMAIL_a@x.ioADDRESS_1>"]
)
def test_a_placeholder_does_not_appear_by_what_goes_away_beside_it(text: str) -> None:
    for action in (Action.PLACEHOLDER, Action.DROP):
        policy = RedactionPolicy(input={"EMAIL_ADDRESS": Action.PLACEHOLDER, "CREDIT_CARD": action})
        placeholders = Placeholders(policy.grammar)
        placeholders.of("EMAIL_ADDRESS", "secret@x.io")
        clean = _redacted(Redactor(policy, policy.input, placeholders), text)
        mentions = [found[1] or found[2] for found in policy.grammar.mention.finditer(clean)]
        assert "EMAIL_ADDRESS_1" not in mentions


def test_the_lead_is_left_alone() -> None:
    redactor = _with(Action.PLACEHOLDER)
    text = "a@x.io EMAIL_ADDRESS_1: b@x.io"
    changes = redactor.changes(text, [Finding(0, 6, "EMAIL_ADDRESS"), Finding(20, 30, "EMAIL_ADDRESS")], lead=24)
    assert apply(text, changes) == "a@x.io EMAIL_ADDRESS_1: <EMAIL_ADDRESS_1>"
    assert redactor.counts == {"EMAIL_ADDRESS": 1}


def test_a_text_is_looked_through_for_marks_once_however_much_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """For each finding anew, a prompt of 100 kB with a finding in each line would take a tenth of a second."""
    looks: list[str] = []

    def looked(text: str) -> bool:
        looks.append(text)
        return is_marked(text)

    monkeypatch.setattr(module, "is_marked", looked)
    text = "please write to ann.lee@example.com\n" * 50
    assert len(_with(Action.PLACEHOLDER).changes(text, findings(text))) == 50
    assert len(looks) == 1


@pytest.mark.parametrize("text", ["", "a", "[A]", "a b-c.d", *MARKS, *(f"x{mark}y" for mark in MARKS)])
def test_a_text_is_marked_where_it_has_a_mark(text: str) -> None:
    assert is_marked(text) is any(mark in text for mark in MARKS)
