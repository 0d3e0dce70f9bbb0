"""What the stage of redaction makes of what was found."""

from extproc.redaction.overlaps import Finding
from extproc.redaction.policy import Action, RedactionPolicy
from extproc.redaction.positions import Kind, Position
from extproc.redaction.profile import Profile
from extproc.stages import guard


def test_a_name_is_lost_to_no_value_that_the_policy_is_less_strict_about() -> None:
    text = "ann@example.com"
    mail, name = Finding(0, 15, "EMAIL_ADDRESS", 1.0), Finding(0, 3, "PERSON", 0.85)
    for strict, weak in ((Action.BLOCK, Action.MASK), (Action.MASK, Action.FLAG)):
        for person, address, first in ((strict, weak, "PERSON"), (weak, strict, "EMAIL_ADDRESS")):
            policy = RedactionPolicy(input={"PERSON": person, "EMAIL_ADDRESS": address})
            position = Position(Kind.VALUE, 0, len(text), text)
            (found,) = guard.with_names([position], [[mail]], [[name]], Profile(policy, None, None))
            assert found[0].entity == first
            assert sum(one.end - one.start for one in found) in (15, 14)  # what parts the two may go
