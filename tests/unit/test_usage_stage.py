"""How a call ended and what it used, from what is known at its end."""

import pytest

from extproc import refusals
from extproc.call import Call, Phase
from extproc.dialects.meters import ChatMeter
from extproc.model import Ending, Usage, UsageSource
from extproc.refusals import Refusal
from extproc.stages.usage import outcome
from tests.support.playbook import catalogue

REPORT = b'data: {"choices":[],"usage":{"prompt_tokens":3,"completion_tokens":4}}\n\n'
TEXT = b'data: {"choices":[{"delta":{"content":"some words"}}]}\n\n'
ERROR = b'data: {"error":{"message":"overloaded"}}\n\n'
DONE = b"data: [DONE]\n\n"


def _call(*events: bytes, phase: Phase = Phase.RESPONDING, metered: bool = True) -> Call:
    call = Call(started=0.0, catalogue=catalogue(), phase=phase, status=200, backend="one", estimated_input=7)
    if metered:
        call.meter = ChatMeter()
        for event in events:
            call.meter.event(event)
    return call


@pytest.mark.parametrize(
    ("events", "answer_ended", "ending", "source"),
    [
        ((TEXT, REPORT, DONE), True, Ending.COMPLETE, UsageSource.REPORTED),
        ((TEXT, REPORT, DONE), False, Ending.COMPLETE, UsageSource.REPORTED),
        ((TEXT, REPORT), True, Ending.COMPLETE, UsageSource.REPORTED),
        ((TEXT, REPORT), False, Ending.CUT, UsageSource.REPORTED),
        ((TEXT,), True, Ending.COMPLETE, UsageSource.ESTIMATED),
        ((TEXT,), False, Ending.CUT, UsageSource.ESTIMATED),
        ((TEXT, ERROR), True, Ending.FAILED, UsageSource.ESTIMATED),
        ((TEXT, ERROR), False, Ending.CUT, UsageSource.ESTIMATED),
        ((), False, Ending.CUT, UsageSource.ESTIMATED),
    ],
)
def test_the_answer_itself_tells_how_it_ended(
    events: tuple[bytes, ...], answer_ended: bool, ending: Ending, source: UsageSource
) -> None:
    call = _call(*events)
    call.answer_ended = answer_ended
    result = outcome(call, 1.0)
    assert (result.ending, result.usage.source) == (ending, source)
    assert (result.status, result.backend, result.refusal) == (200, "one", None)


def test_reported_usage_is_taken_as_reported() -> None:
    assert outcome(_call(TEXT, REPORT, DONE), 1.0).usage == Usage(3, 4, source=UsageSource.REPORTED)


def test_an_estimate_counts_the_input_and_the_text_that_passed() -> None:
    usage = outcome(_call(TEXT), 1.0).usage
    assert usage.input == 7
    assert usage.output > 0


@pytest.mark.parametrize("ending", [Ending.REFUSED, Ending.ANSWERED])
def test_what_the_gateway_answered_used_nothing(ending: Ending) -> None:
    call = _call(TEXT, REPORT)
    call.ending = ending
    assert outcome(call, 1.0).usage == Usage()


@pytest.mark.parametrize("phase", [Phase.OPENED, Phase.IDENTIFIED])
def test_a_call_that_was_never_routed_used_nothing(phase: Phase) -> None:
    result = outcome(_call(phase=phase, metered=False), 1.0)
    assert (result.ending, result.usage) == (Ending.CUT, Usage())


def test_a_client_that_left_before_the_answer_is_counted_its_input() -> None:
    result = outcome(_call(phase=Phase.ROUTED, metered=False), 1.0)
    assert (result.ending, result.usage) == (Ending.CUT, Usage(7, source=UsageSource.ESTIMATED))


def test_a_providers_error_used_nothing() -> None:
    call = _call(metered=False)
    call.ending = Ending.FAILED
    assert outcome(call, 1.0).usage == Usage()


def test_a_refusal_is_named_by_its_code() -> None:
    call = _call(metered=False)
    call.refusal, call.ending = Refusal(refusals.TOO_LARGE, "text"), Ending.REFUSED
    assert outcome(call, 1.0).refusal == "request_too_large"
