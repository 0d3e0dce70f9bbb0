"""Server-side state: whose it is, and which backend holds it."""

import pytest

from extproc.model import Caller, StateReference
from extproc.refusals import STATE_NOT_FOUND, Refused
from extproc.stages.state import ADVICE, holder
from extproc.stores.ports import Affinity

CALLER = Caller("key_1", "app")
KNOWN = {
    "resp_1": Affinity("one", "m", "key_1"),
    "resp_2": Affinity("one", "m", "key_1"),
    "resp_two": Affinity("two", "m", "key_1"),
    "resp_theirs": Affinity("one", "m", "key_2"),
    "sealed": Affinity("two", "m", "key_1"),
    "sealed_theirs": Affinity("one", "m", "key_2"),
}


@pytest.mark.parametrize(
    ("reference", "backend"),
    [
        (StateReference(), None),
        (StateReference(("resp_1",)), "one"),
        (StateReference(("resp_1", "resp_2")), "one"),
        (StateReference((), ("sealed",)), "two"),
        (StateReference((), ("unknown",)), None),
        (StateReference(("resp_1",), ("unknown",)), "one"),
        (StateReference(("resp_two",), ("sealed", "unknown")), "two"),
    ],
)
def test_a_call_goes_where_its_state_is(reference: StateReference, backend: str | None) -> None:
    assert holder(CALLER, reference, KNOWN) == backend


@pytest.mark.parametrize(
    "reference",
    [
        StateReference(("unknown",)),
        StateReference(("resp_theirs",)),
        StateReference(("resp_1", "unknown")),
        StateReference(("resp_1", "resp_two")),
        StateReference(("resp_1",), ("sealed",)),
        StateReference((), ("sealed_theirs",)),
    ],
    ids=["unknown", "theirs", "one unknown", "two backends", "sealed elsewhere", "sealed for another"],
)
def test_unknown_foreign_and_torn_state_is_refused_in_the_same_words(reference: StateReference) -> None:
    with pytest.raises(Refused) as refused:
        holder(CALLER, reference, KNOWN)
    assert (refused.value.refusal.kind, refused.value.refusal.message) == (STATE_NOT_FOUND, ADVICE)


def test_the_advice_quotes_no_id() -> None:
    assert not any(made in ADVICE for made in KNOWN)
