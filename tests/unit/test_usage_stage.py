"""How a call ended and what it used, from what is known at its end."""

import pytest

from extproc import refusals
from extproc.call import Call, Phase
from extproc.dialects.answers import PARSE_WHOLE, Document
from extproc.dialects.meters import ChatMeter
from extproc.model import Ending, Usage, UsageSource
from extproc.refusals import Refusal
from extproc.stages.usage import USUAL, outcome
from tests.support.playbook import catalogue

REPORT = b'data: {"choices":[],"usage":{"prompt_tokens":3,"completion_tokens":4}}\n\n'
TEXT = b'data: {"choices":[{"delta":{"content":"some words"}}]}\n\n'
ERROR = b'data: {"error":{"message":"overloaded"}}\n\n'
DONE = b"data: [DONE]\n\n"


def _call(*events: bytes, phase: Phase = Phase.RESPONDING, metered: bool = True, stream: bool = False) -> Call:
    call = Call(started=0.0, catalogue=catalogue(), phase=phase, status=200, backend="one", estimated_input=7)
    call.stream = stream
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


# ---- broken off, or failed ---------------------------------------------------------------------------


def test_an_error_in_place_of_an_answer_used_nothing() -> None:
    call = _call(metered=False)
    call.meter, call.answer_ended = ChatMeter(), True
    call.meter.answer({"error": {"message": "overloaded"}})
    result = outcome(call, 1.0)
    assert (result.ending, result.usage) == (Ending.FAILED, Usage())


def test_an_error_after_some_words_used_them() -> None:
    call = _call(TEXT, ERROR)
    call.answer_ended = True
    assert outcome(call, 1.0).usage.source is UsageSource.ESTIMATED


@pytest.mark.parametrize(
    ("longest", "choices", "stream", "output"),
    [
        (0, 1, False, 0),  # such as of embeddings
        (10, 1, False, 10),
        (1_000_000, 1, False, USUAL),
        (1_000_000, 2, False, 2 * USUAL),
        (100, 1, True, 0),  # what a stream wrote showed
    ],
)
def test_of_a_whole_answer_that_broke_off_what_can_have_been_written_counts(
    longest: int, choices: int, stream: bool, output: int
) -> None:
    call = _call(stream=stream)
    call.longest, call.choices = longest, choices
    assert outcome(call, 1.0).usage == Usage(7, output, source=UsageSource.ESTIMATED)
    call.answer_ended = True
    assert outcome(call, 1.0).usage == Usage(7, 0, source=UsageSource.ESTIMATED)


# ---- why it ended, and what it calls -----------------------------------------------------------------


def test_the_meter_tells_why_the_answer_ended_and_which_tools_it_calls() -> None:
    call = _call(b'data: {"choices":[{"delta":{"tool_calls":[{"id":"a"}]},"finish_reason":"tool_calls"}]}\n\n')
    result = outcome(call, 1.0)
    assert (result.stop_reason, result.tool_calls) == ("tool_calls", 1)
    unread = outcome(_call(metered=False), 1.0)
    assert (unread.stop_reason, unread.tool_calls) == (None, None)


def test_of_an_answer_that_is_too_large_to_be_read_nobody_counts_tools() -> None:
    call = _call(metered=False)
    call.meter = ChatMeter()
    call.answer = Document(call.meter)
    call.answer.feed(b'{"id": "x", "pad": "' + b"x" * PARSE_WHOLE, end=False)
    call.answer.feed(b'", "usage": {"prompt_tokens": 3, "completion_tokens": 4}}', end=True)
    result = outcome(call, 1.0)
    assert (result.usage.output, result.stop_reason, result.tool_calls) == (4, None, None)
