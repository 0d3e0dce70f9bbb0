"""W3C trace context, as callers write it well and badly."""

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st
from opentelemetry.sdk.trace.sampling import Decision, TraceIdRatioBased
from opentelemetry.trace import get_current_span
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from extproc import traceparent
from extproc.traceparent import Context

TRACE, SPAN = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
GOOD = f"00-{TRACE}-{SPAN}-01"
BITS = random.Random(7).getrandbits


def test_a_traceparent_tells_the_trace_the_span_and_whether_it_is_sampled() -> None:
    assert traceparent.read(GOOD) == Context(TRACE, SPAN, True)
    assert traceparent.read(GOOD[:-1] + "0") == Context(TRACE, SPAN, False)
    assert traceparent.read(GOOD[:-2] + "03") == Context(TRACE, SPAN, True)  # with a flag of a later version
    assert traceparent.read(f"cc-{TRACE}-{SPAN}-01-what-comes-later") == Context(TRACE, SPAN, True)


@pytest.mark.parametrize(
    "header",
    [
        "",
        GOOD[:-1],
        GOOD + "-more",  # not in this version
        GOOD.upper(),
        GOOD.replace("-", "_"),
        f"ff-{TRACE}-{SPAN}-01",
        f"00-{'0' * 32}-{SPAN}-01",
        f"00-{TRACE}-{'0' * 16}-01",
        f"00-{TRACE}-{SPAN}-0g",
        f"cc-{TRACE}-{SPAN}-01.what",
        f"{GOOD},{GOOD}",
        GOOD + "\n",
        "00-" + "١" * 32 + f"-{SPAN}-01",
    ],
)
def test_what_is_not_as_it_should_be_says_nothing(header: str) -> None:
    assert traceparent.read(header) is None


def hexadecimal(digits: int) -> st.SearchStrategy[str]:
    """Mostly right ones, and now and then one that is too long or has another sign in it."""
    right = st.text("0123456789abcdef", min_size=digits, max_size=digits)
    return right | right | st.just("0" * digits) | st.text("0123456789abcdefAg-", min_size=1, max_size=digits + 1)


@given(hexadecimal(32), hexadecimal(16), hexadecimal(2))
def test_what_the_sdk_reads_is_read_and_nothing_else(trace: str, span: str, flags: str) -> None:
    header = f"00-{trace}-{span}-{flags}"
    found = traceparent.read(header)
    context = get_current_span(TraceContextTextMapPropagator().extract({"traceparent": header})).get_span_context()
    told = (int(found.trace, 16), int(found.span, 16), found.sampled) if found else (0, 0, False)
    assert told == (context.trace_id, context.span_id, context.trace_flags.sampled)


@given(st.integers(1, 2**128 - 1), st.integers(1, 2**64 - 1), st.booleans())
def test_what_is_told_is_read_again(trace: int, span: int, sampled: bool) -> None:
    told = Context(f"{trace:032x}", f"{span:016x}", sampled)
    assert traceparent.read(told.header) == told


def test_a_call_is_a_part_of_its_callers_span_and_sampled_as_that() -> None:
    for sampled in (True, False):
        parent = Context(TRACE, SPAN, sampled)
        call = traceparent.child(parent, "a=b", BITS)
        assert (call.trace, call.parent, call.sampled, call.state) == (TRACE, SPAN, sampled, "a=b")
        assert call.span not in (SPAN, traceparent.child(parent, "", BITS).span)
        assert call.is_of_others


@given(st.floats(0, 1), st.randoms(use_true_random=False))
def test_a_share_is_sampled_as_the_sdk_samples(share: float, dice: random.Random) -> None:
    bound, sampler = traceparent.bound(share), TraceIdRatioBased(share)
    for _ in range(20):
        call = traceparent.root(dice.getrandbits, bound)
        decided = sampler.should_sample(None, int(call.trace, 16), "call").decision
        assert call.sampled == (decided is Decision.RECORD_AND_SAMPLE)
        assert not call.is_of_others


def test_none_and_all_are_none_and_all() -> None:
    assert not any(traceparent.root(BITS, traceparent.bound(0)).sampled for _ in range(1000))
    assert all(traceparent.root(BITS, traceparent.bound(1)).sampled for _ in range(1000))


@pytest.mark.parametrize(
    ("values", "kept"),
    [
        ([], ""),
        (["a=1,b=2"], "a=1,b=2"),
        (["a=1", "b=2"], "a=1,b=2"),
        (["a=1 ,\tb=2,,"], "a=1,b=2"),
        (["tenant@system=x y"], "tenant@system=x y"),
        (["a=1,nonsense"], ""),
        (["A=1"], ""),
        (["a=\x1b[31m"], ""),
        ([",".join(f"k{number}=1" for number in range(33))], ""),
        (["a=" + "x" * 600], ""),
    ],
)
def test_a_tracestate_is_kept_whole_or_not_at_all(values: list[str], kept: str) -> None:
    assert traceparent.state(values) == kept
