"""A circuit on any history, beside a model that keeps the whole history and decides anew each time."""

from dataclasses import dataclass, field

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule, run_state_machine_as_test

from extproc.routing.circuit import Circuit, State
from extproc.routing.policy import Cooling

COOLING = Cooling(failures=3, open_for=10, longest_open=60)


def circuit(chance: float = 0.0) -> Circuit:
    return Circuit(COOLING, lambda: chance)


def opened(at: float = 0.0) -> Circuit:
    made = circuit()
    assert [made.failed(at) for _ in range(3)] == [False, False, True]
    return made


def test_it_opens_after_so_many_failures_in_a_row() -> None:
    made = circuit()
    for failed in (True, True, False, True, True):
        assert not (made.failed(0.0) if failed else made.succeeded(0.0))
    assert made.until(0.0) == 0.0
    assert made.failed(1.0)
    assert made.until(1.0) == 11.0
    assert not made.may_probe(10.9)


def test_its_state_is_what_calls_find() -> None:
    made = circuit()
    assert made.state(0.0) is State.CLOSED
    made = opened()
    assert [made.state(now) for now in (0.0, 9.9, 10.0, 99.0)] == [State.OPEN] * 2 + [State.HALF_OPEN] * 2
    made.succeeded(99.0)
    assert made.state(99.0) is State.CLOSED


def test_half_open_one_call_probes_at_a_time() -> None:
    made = opened()
    assert made.until(10.0) == 0.0
    assert made.may_probe(10.0)
    assert not made.may_probe(10.0)
    assert made.until(10.0) == 20.0


def test_a_probe_that_is_never_heard_of_is_given_up() -> None:
    made = opened()
    assert made.may_probe(10.0)
    assert not made.may_probe(19.9)
    assert made.may_probe(20.0)


def test_a_success_closes_it_and_all_is_forgotten() -> None:
    made = opened()
    assert made.may_probe(10.0)
    assert made.succeeded(11.0)
    assert [made.may_probe(11.0) for _ in range(3)] == [True, True, True]
    assert [made.failed(12.0) for _ in range(3)] == [False, False, True]
    assert made.until(12.0) == 22.0


def test_each_failed_probe_opens_it_for_twice_as_long_up_to_the_most() -> None:
    made, now, spans = opened(), 0.0, []
    for _ in range(5):
        spans.append(made.until(now) - now)
        now = made.until(now)
        assert made.failed(now)
    assert spans == [10, 20, 40, 60, 60]


def test_what_began_before_it_opened_neither_closes_nor_prolongs_it() -> None:
    made = opened()
    assert not made.succeeded(9.0)
    assert not made.failed(9.0)
    assert made.until(9.0) == 10.0


@pytest.mark.parametrize(("chance", "until"), [(0.0, 10.0), (0.5, 11.0), (0.999999, 12.0)])
def test_chance_makes_it_open_for_a_little_longer_and_never_for_less(chance: float, until: float) -> None:
    made = circuit(chance)
    for _ in range(3):
        made.failed(0.0)
    assert made.until(0.0) == pytest.approx(until, abs=1e-4)
    assert made.span == 10


def test_another_workers_opening_counts() -> None:
    made = circuit()
    made.open(10.0, 10.0)
    assert made.until(9.0) == 10.0
    assert made.may_probe(10.0)
    assert made.failed(11.0)
    assert made.until(11.0) == 31.0


def test_to_hear_again_of_the_same_opening_takes_no_probe_away() -> None:
    made = opened()
    assert made.may_probe(10.0)
    made.open(10.05, 10.0)
    assert not made.may_probe(10.1)
    made.open(31.0, 20.0)
    assert made.until(12.0) == 31.0
    assert made.may_probe(31.0)


@dataclass
class History:
    """What happened, and what follows from it."""

    now: float = 0.0
    happened: list[tuple[float, str]] = field(default_factory=list)

    def state(self) -> tuple[str, float]:
        """closed, open or half-open; and until when it is open or waits for its probe."""
        run, spans, until, probe = 0, 0, 0.0, 0.0
        for when, what in self.happened:
            if what == "failed" and not spans:
                run += 1
                if run == 3:
                    spans, until, probe = 1, when + 10, 0.0
            elif what == "failed" and when >= until:
                spans += 1
                until, probe = when + min(10 * 2 ** (spans - 1), 60), 0.0
            elif what == "succeeded":
                run = 0
                if when >= until:
                    spans, until, probe = 0, 0.0, 0.0
            elif what == "probe":
                probe = when + min(10 * 2 ** (spans - 1), 60)
        if not spans:
            return "closed", 0.0
        return ("open", until) if self.now < until else ("half-open", probe if self.now < probe else 0.0)


class CircuitMachine(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.circuit, self.history = circuit(), History()

    @rule(seconds=st.sampled_from([0.0, 0.5, 3.0, 9.5, 10.0, 25.0, 61.0]))
    def time_passes(self, seconds: float) -> None:
        self.history.now += seconds

    @rule(times=st.integers(1, 4))
    def fails(self, times: int) -> None:
        for _ in range(times):
            self.happens("failed")

    @rule()
    def succeeds(self) -> None:
        self.happens("succeeded")

    @rule()
    def a_call_comes(self) -> None:
        state, until = self.history.state()
        may = state == "closed" or (state == "half-open" and not until)
        assert self.circuit.may_probe(self.history.now) is may
        if may and state == "half-open":
            self.history.happened.append((self.history.now, "probe"))

    def happens(self, what: str) -> None:
        before = self.history.state()
        step = self.circuit.failed if what == "failed" else self.circuit.succeeded
        has_turned = step(self.history.now)
        self.history.happened.append((self.history.now, what))
        after = self.history.state()
        opens = what == "failed" and before[0] != "open" and after[0] == "open"
        closes = what == "succeeded" and before[0] == "half-open"
        assert has_turned is (opens or closes)

    @invariant()
    def says_until_when(self) -> None:
        assert self.circuit.until(self.history.now) == self.history.state()[1]
        assert (self.circuit.span == 0) is (self.history.state()[0] == "closed")


def test_any_history() -> None:
    run_state_machine_as_test(CircuitMachine, settings=settings(max_examples=150, stateful_step_count=40))
