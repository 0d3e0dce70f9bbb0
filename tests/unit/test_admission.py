"""Who is refused when too many come: all are late, and have been for some time; and nobody else."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from extproc.admission import FEW, GRACE, LAPSE, Admission
from extproc.model import Capacity
from extproc.refusals import NOT_READY, OVERLOADED, Refused

CAPACITY = Capacity(calls=10, wait=0.3)


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def admitted(admission: Admission, waited: float, in_flight: int = FEW + 1) -> bool:
    try:
        admission.check(in_flight, waited, CAPACITY)
    except Refused:
        return False
    return True


def test_a_call_that_is_late_by_itself_is_served() -> None:
    clock = Clock()
    admission = Admission(clock)
    for waited in (5.0, 0.0, 5.0, 0.0):
        assert admitted(admission, waited)
        clock.now += 10 * GRACE


def test_those_that_waited_while_the_worker_was_held_up_once_are_served() -> None:
    clock = Clock()
    admission = Admission(clock)
    for _ in range(50):
        clock.now += GRACE / 100
        assert admitted(admission, 2.0)


def test_where_all_are_late_for_some_time_they_are_refused_until_one_is_not() -> None:
    clock = Clock()
    admission = Admission(clock)
    assert admitted(admission, 0.4)
    clock.now += GRACE
    assert not admitted(admission, 0.4)
    assert not admitted(admission, 0.31)
    assert admitted(admission, 0.3)
    assert admitted(admission, 0.4)


def test_bodies_that_are_late_are_a_line_too_until_none_comes_any_more() -> None:
    clock = Clock()
    admission = Admission(clock)
    admission.decides(0.4, CAPACITY)
    assert admitted(admission, 0.0)
    clock.now += GRACE
    admission.decides(0.4, CAPACITY)
    assert not admitted(admission, 0.0)
    clock.now += 1.1 * GRACE
    assert admitted(admission, 0.0)
    admission.decides(0.1, CAPACITY)
    assert admitted(admission, 0.0)


def test_few_calls_are_no_line_however_late_they_are() -> None:
    clock = Clock()
    admission = Admission(clock)
    for _ in range(5):
        assert admitted(admission, 5.0, in_flight=FEW)
        clock.now += 0.9 * GRACE
    assert not admitted(admission, 5.0)


def test_late_calls_with_nobody_between_them_are_no_line() -> None:
    """At night a worker may have open streams and a slow client now and then, which is late by itself."""
    clock = Clock()
    admission = Admission(clock)
    for _ in range(5):
        assert admitted(admission, 0.4, in_flight=9)
        admission.decides(0.4, CAPACITY)
        clock.now += LAPSE + 0.01


def test_a_line_that_goes_slowly_is_one_all_the_same() -> None:
    clock = Clock()
    admission = Admission(clock)
    assert admitted(admission, 0.4)
    clock.now += LAPSE
    assert not admitted(admission, 0.4)


def test_a_gate_that_is_closed_lets_nobody_in_and_sends_them_elsewhere_at_once() -> None:
    admission = Admission(Clock())
    admission.closed = True
    with pytest.raises(Refused) as caught:
        admission.check(1, 0.0, CAPACITY)
    assert (caught.value.refusal.kind, caught.value.refusal.retry) == (NOT_READY, True)
    assert caught.value.refusal.headers == (("retry-after-ms", "1"), ("retry-after", "1"))
    admission.closed = False
    assert admitted(admission, 0.0)


def test_more_calls_than_may_be_open_are_refused_at_once() -> None:
    admission = Admission(Clock())
    assert admitted(admission, 0.0, in_flight=10)
    assert not admitted(admission, 0.0, in_flight=11)


def test_a_refusal_says_when_to_come_again_and_not_to_all_the_same() -> None:
    waits = set()
    for _ in range(50):
        with pytest.raises(Refused) as caught:
            Admission(Clock()).check(11, 0.0, CAPACITY)
        assert caught.value.refusal.kind is OVERLOADED
        headers = dict(caught.value.refusal.headers)
        assert set(headers) == {"retry-after-ms", "retry-after"}
        assert 1 <= int(headers["retry-after"]) <= 2
        waits.add(headers["retry-after-ms"])
        assert caught.value.refusal.retry
    assert len(waits) > 5


@given(st.lists(st.floats(0, 10), max_size=20))
def test_the_longest_wait_is_told_once(waits: list[float]) -> None:
    admission = Admission(Clock())
    for waited in waits:
        admitted(admission, waited)
    assert admission.longest() == max(waits, default=0.0)
    assert admission.longest() == 0.0
