"""The table of what may happen when."""

import pytest

from extproc.call import LEGAL, Call, Event, Phase, ProtocolViolation
from tests.support.playbook import catalogue


def _call(phase: Phase) -> Call:
    return Call(started=0.0, catalogue=catalogue(), phase=phase)


def test_the_table_names_every_phase() -> None:
    assert set(LEGAL) == set(Phase)


@pytest.mark.parametrize("phase", Phase)
@pytest.mark.parametrize("event", Event)
def test_an_event_may_come_only_where_the_table_has_it(phase: Phase, event: Event) -> None:
    call = _call(phase)
    if event in LEGAL[phase]:
        call.note(event)
    else:
        with pytest.raises(ProtocolViolation, match=f"{event.name} in phase {phase.name}"):
            call.note(event)
    assert call.phase is phase, "noting an event never changes the phase"


def test_only_what_was_on_its_way_may_follow_our_own_answer() -> None:
    assert LEGAL[Phase.ANSWERED] == set(Event) - {Event.REQUEST_HEADERS, Event.RESPONSE_HEADERS}  # on their way already


def test_a_request_is_not_read_before_its_caller_is_known() -> None:
    assert Event.REQUEST_BODY not in LEGAL[Phase.OPENED]


def test_an_answer_has_one_head() -> None:
    assert Event.RESPONSE_HEADERS not in LEGAL[Phase.RESPONDING]
