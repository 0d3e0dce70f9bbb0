"""A policy that contradicts itself cannot be made, and shows no key."""

import pytest

from extproc.redaction.policy import Action, RedactionPolicy


def test_a_placeholder_in_an_answer_is_refused() -> None:
    with pytest.raises(ValueError, match="taken back"):
        RedactionPolicy(output={"EMAIL_ADDRESS": Action.PLACEHOLDER})


@pytest.mark.parametrize("side", ["input", "output"])
def test_hashes_need_a_key(side: str) -> None:
    actions = {"EMAIL_ADDRESS": Action.HASH}
    with pytest.raises(ValueError, match="key"):
        RedactionPolicy(**{side: actions})  # type: ignore[arg-type]
    assert RedactionPolicy(input=actions, hash_key=b"k").input == actions


def test_the_key_is_not_shown() -> None:
    assert "tenant-key" not in repr(RedactionPolicy(hash_key=b"tenant-key"))


def test_only_entities_that_get_placeholders_have_look_alikes() -> None:
    policy = RedactionPolicy(input={"EMAIL_ADDRESS": Action.PLACEHOLDER, "US_SSN": Action.BLOCK})
    assert policy.grammar.names == {"EMAIL_ADDRESS", "LITERAL"}
