"""What a worker knows: from its own attempts, and from what others have in the store."""

import time
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from extproc.routing.attempt import Attempt, Why
from extproc.routing.circuit import State
from extproc.routing.health import Health
from extproc.routing.policy import Cooling, Watched
from extproc.stores.cooldowns import Entry

WALL = 1_795_262_400.0
COOLING = Cooling(default_wait=5, longest_wait=60, failures=2, open_for=10, longest_open=60)
BACKENDS = {
    "one": Watched(frozenset({"large", "small"}), COOLING),
    "two": Watched(frozenset({"large"}), Cooling(default_wait=2, failures=1, open_for=1)),
}
FREE = (0.0, None)


def health() -> Health:
    return Health(BACKENDS, lambda: 0.0)


def refused(backend: str = "one", model: str | None = "large", wait: str = "3") -> Attempt:
    return Attempt(backend, 429, (), {"retry-after": wait}, model)


def failed(backend: str = "one") -> Attempt:
    return Attempt(backend, 502)


def note(known: Health, attempt: Attempt, now: float = 0.0) -> list[str]:
    return known.note(attempt, now, WALL)


class TestTargets:
    def test_one_that_was_refused_is_left_alone_and_no_other(self) -> None:
        known = health()
        assert note(known, refused()) == ["one/large"]
        assert known.until("one", "large", 0.0) == (3.0, Why.RATE_LIMITED)
        assert known.until("one", "small", 0.0) == FREE
        assert known.until("two", "large", 0.0) == FREE
        assert known.until("one", "large", 3.0) == FREE

    def test_without_its_model_all_of_the_backend_are(self) -> None:
        known = health()
        assert note(known, refused(model=None)) == ["one/large", "one/small"]
        assert known.until("one", "small", 0.0) == (3.0, Why.RATE_LIMITED)
        assert known.until("two", "large", 0.0) == FREE

    def test_the_later_word_counts_where_it_asks_for_more_only(self) -> None:
        known = health()
        note(known, refused(wait="30"))
        assert note(known, refused(wait="3"), now=1.0) == []
        assert known.until("one", "large", 1.0)[0] == 30.0
        assert note(known, refused(wait="40"), now=1.0) == ["one/large"]
        assert known.until("one", "large", 1.0)[0] == 41.0

    def test_a_success_does_not_end_a_pause_that_was_asked_for(self) -> None:
        known = health()
        note(known, refused())
        assert note(known, Attempt("one", 200, (), {}, "large"), now=1.0) == []
        assert known.until("one", "large", 1.0)[0] == 3.0

    def test_what_is_used_up_cools_before_it_is_refused(self) -> None:
        known = health()
        headers = {"x-ratelimit-remaining-tokens": "0", "x-ratelimit-reset-tokens": "4s"}
        assert note(known, Attempt("one", 200, (), headers, "small")) == ["one/small"]
        assert known.until("one", "small", 0.0) == (4.0, Why.SPENT)

    def test_each_backend_goes_by_its_own_policy(self) -> None:
        known = health()
        note(known, refused("two", wait="soon"))
        assert known.until("two", "large", 0.0)[0] == 2.0

    def test_those_that_are_not_configured_are_not_remembered(self) -> None:
        known = health()
        assert note(known, refused("three")) == []
        assert note(known, refused(model="another")) == []
        assert known.until("three", "large", 0.0) == FREE
        assert known.may_probe("three", 0.0)


class TestCircuits:
    def test_it_holds_for_all_models_of_the_backend(self) -> None:
        known = health()
        assert note(known, failed()) == []
        assert note(known, failed()) == ["one"]
        for model in ("large", "small"):
            assert known.until("one", model, 0.0) == (10.0, Why.CIRCUIT_OPEN)
        assert not known.may_probe("one", 9.0)

    def test_one_call_probes_and_its_success_closes_it(self) -> None:
        known = health()
        note(known, failed())
        note(known, failed())
        assert known.until("one", "large", 10.0) == (0.0, Why.CIRCUIT_OPEN)
        assert known.may_probe("one", 10.0)
        assert known.until("one", "large", 10.0) == (20.0, Why.CIRCUIT_OPEN)
        assert note(known, Attempt("one", 200), now=11.0) == ["one"]
        assert known.until("one", "large", 11.0) == FREE

    def test_a_probe_that_is_refused_closes_it_and_the_target_cools(self) -> None:
        known = health()
        note(known, failed())
        note(known, failed())
        assert note(known, refused(), now=10.0) == ["one", "one/large"]
        assert known.until("one", "large", 10.0) == (13.0, Why.RATE_LIMITED)

    @pytest.mark.parametrize(("wait", "standing"), [("30", (30.0, Why.RATE_LIMITED)), ("3", (10.0, Why.CIRCUIT_OPEN))])
    def test_of_two_reasons_the_one_that_holds_longer(self, wait: str, standing: tuple[float, Why]) -> None:
        known = health()
        note(known, refused(wait=wait))
        note(known, failed())
        note(known, failed())
        assert known.until("one", "large", 0.0) == standing

    def test_a_target_that_still_cools_is_not_probed(self) -> None:
        known = health()
        note(known, refused(wait="30"))
        note(known, failed())
        note(known, failed())
        assert known.until("one", "large", 10.0) == (30.0, Why.RATE_LIMITED)
        assert known.until("one", "small", 10.0) == (0.0, Why.CIRCUIT_OPEN)

    def test_a_backend_that_answers_each_time_is_only_tried_last(self) -> None:
        """What it answers may be the fault of one caller's calls; one that is away is nobody's."""
        known, other = health(), health()
        broken = Attempt("one", 500)
        note(known, broken)
        assert note(known, broken) == ["one"]
        assert known.until("one", "large", 0.0) == (10.0, Why.FAILING)
        other.learn({"one": Entry(10_000, 10_000, "failing")}, 0.0)
        assert other.until("one", "large", 0.0) == (10.0, Why.FAILING)
        assert note(known, broken, now=1.0) == [], "as a last resort it is tried meanwhile"
        assert note(known, failed(), now=2.0) == ["one"]
        assert known.until("one", "large", 2.0) == (10.0, Why.CIRCUIT_OPEN)
        assert known.entry("one", 2.0) == Entry(8_000, 10_000, "circuit_open")
        assert known.may_probe("one", 10.0)
        note(known, Attempt("one", 200), now=10.0)
        note(known, broken, now=11.0)
        note(known, broken, now=11.0)
        assert known.until("one", "large", 11.0) == (21.0, Why.FAILING), "a success clears the past"

    @pytest.mark.parametrize("away", [Attempt("one", 502), Attempt("one", 500, ["upstream_remote_reset"])])
    def test_one_failure_without_an_answer_is_enough_to_leave_it_out(self, away: Attempt) -> None:
        known = health()
        note(known, away)
        note(known, Attempt("one", 500))
        assert known.until("one", "large", 0.0) == (10.0, Why.CIRCUIT_OPEN)

    def test_a_pause_that_was_asked_for_holds_where_errors_are_only_tried_last(self) -> None:
        known = health()
        note(known, refused(wait="3"))
        note(known, Attempt("one", 500))
        note(known, Attempt("one", 500))
        assert known.until("one", "large", 0.0) == (3.0, Why.RATE_LIMITED)
        assert known.until("one", "small", 0.0) == (10.0, Why.FAILING)

    def test_a_probe_that_was_not_made_is_another_calls(self) -> None:
        known = health()
        note(known, failed())
        note(known, failed())
        assert known.may_probe("one", 10.0)
        assert not known.may_probe("one", 10.0)
        known.unprobed("one")
        known.unprobed("nobody's")
        assert known.may_probe("one", 10.0)

    def test_errors_of_callers_and_clients_that_leave_open_nothing(self) -> None:
        known = health()
        for status in (400, 404, 0, 422) * 5:
            assert note(known, Attempt("one", status)) == []


class TestForOperators:
    def test_they_see_how_much_of_a_backend_is_spared_and_its_circuit(self) -> None:
        known = health()
        assert known.conditions(0.0) == {"one": (0, State.CLOSED), "two": (0, State.CLOSED)}
        note(known, refused(wait="3"))
        note(known, refused(model="small", wait="5"))
        note(known, failed("two"))
        assert known.conditions(0.5) == {"one": (2, State.CLOSED), "two": (0, State.OPEN)}
        assert known.conditions(4.0) == {"one": (1, State.CLOSED), "two": (0, State.HALF_OPEN)}
        note(known, Attempt("two", 200), 5.0)
        assert known.conditions(5.0) == {"one": (0, State.CLOSED), "two": (0, State.CLOSED)}

    def test_they_see_why_a_circuit_is_not_closed(self) -> None:
        known = health()
        assert known.trouble("two") is None
        note(known, Attempt("two", 500))
        assert known.trouble("two") is Why.FAILING
        note(known, failed("two"))
        assert known.trouble("two") is Why.CIRCUIT_OPEN
        note(known, Attempt("two", 200), 20.0)
        assert known.trouble("two") is None
        assert known.trouble("nobody") is None


class TestRetries:
    def test_calls_that_fail_too_often_are_tried_again_no_more(self) -> None:
        known = health()
        for number in range(200):
            assert known.may_retry("", 0.2, 0.0) == (number < 125), number  # 100 and a fifth of all
            note(known, Attempt("one", 503, call=str(number)))
            note(known, Attempt("two", 200, call=str(number)))

    def test_refusals_and_unknown_models_are_asked_elsewhere_at_no_cost(self) -> None:
        known = health()
        for number in range(500):
            for attempt in (refused(), Attempt("two", 404), Attempt("one", 200)):
                note(known, replace(attempt, call=str(number)))
        assert known.may_retry("", 0.0, 0.0)

    def test_what_a_team_brings_fails_at_its_own_expense(self) -> None:
        watched = {"one": Watched(frozenset(), owner=""), "red.own": Watched(frozenset(), owner="red")}
        known = Health(watched, lambda: 0.0)
        for number in range(500):
            note(known, Attempt("red.own", 500, call=str(number)))
            note(known, Attempt("red.own", 500, call=str(number)))
        assert not known.may_retry("red", 0.2, 0.0)
        assert known.may_retry("", 0.2, 0.0)
        assert known.may_retry("blue", 0.2, 0.0)
        known.configure(dict(watched))
        assert not known.may_retry("red", 0.2, 0.0), "a configuration that takes over forgives nothing"


class TestAmongWorkers:
    """Two workers, and what the store has of one when the other looks."""

    def entries(self, known: Health, names: list[str], now: float) -> dict[str, Entry]:
        found = {name: known.entry(name, now) for name in names}
        return {name: entry for name, entry in found.items() if entry is not None}

    def test_what_one_learns_all_know(self) -> None:
        one, two = health(), health()
        names = [*note(one, refused()), *note(one, failed()), *note(one, failed())]
        two.learn(self.entries(one, names, 1.0), 101.0)  # the clocks have nothing to do with each other
        assert two.until("one", "large", 101.0) == (110.0, Why.CIRCUIT_OPEN)
        assert two.until("one", "small", 101.0) == (110.0, Why.CIRCUIT_OPEN)
        two.forget("one")
        two.learn(self.entries(one, ["one/large"], 1.0), 101.0)
        assert two.until("one", "large", 101.0) == (103.0, Why.RATE_LIMITED)

    def test_a_probe_that_fails_at_another_worker_opens_it_for_twice_as_long(self) -> None:
        one, two = health(), health()
        note(one, failed())
        two.learn(self.entries(one, note(one, failed()), 0.0), 0.0)
        assert note(two, failed(), now=10.0) == ["one"]
        assert two.entry("one", 10.0) == Entry(20_000, 20_000, "circuit_open")

    def test_what_was_half_open_when_it_was_heard_of_is_half_open(self) -> None:
        one = health()
        one.learn({"one": Entry(-500, 10_000, "circuit_open")}, 100.0)
        assert one.until("one", "large", 100.0) == (0.0, Why.CIRCUIT_OPEN)
        assert one.may_probe("one", 100.0)
        one.learn({"one": Entry(-600, 10_000, "circuit_open")}, 100.2)
        assert not one.may_probe("one", 100.2)

    def test_what_the_store_has_no_more_was_lifted_elsewhere(self) -> None:
        known = health()
        known.learn({"one": Entry(9000, 10_000, "circuit_open"), "one/large": Entry(8000, 0, "spent")}, 0.0)
        assert known.until("one", "large", 0.0) == (9.0, Why.CIRCUIT_OPEN)
        known.learn({"one/large": Entry(7000, 0, "spent")}, 1.0)
        assert known.until("one", "large", 1.0) == (8.0, Why.SPENT)
        known.learn({}, 2.0)
        assert known.until("one", "large", 2.0) == FREE

    def test_what_the_store_never_had_stays(self) -> None:
        known = health()
        note(known, refused())
        known.learn({}, 0.0)
        assert known.until("one", "large", 0.0)[0] == 3.0

    def test_foreign_names_and_reasons_do_no_harm(self) -> None:
        known = health()
        known.learn({"": Entry(1, 1, ""), "x/y": Entry(9000, 0, "spent"), "one": Entry(9000, 0, "?")}, 0.0)
        assert known.until("one", "large", 0.0) == FREE
        known.learn({"one/large": Entry(9000, 0, "of a later version")}, 0.0)
        assert known.until("one", "large", 0.0) == (9.0, Why.RATE_LIMITED)
        known.learn({"one": Entry(20_000, 20_000, "circuit_open")}, 0.0)
        known.learn({"one": Entry(90_000, 0, "?")}, 0.0)
        assert known.until("one", "large", 0.0) == (20.0, Why.CIRCUIT_OPEN)

    def test_nothing_is_told_of_what_nobody_knows(self) -> None:
        known = health()
        assert [known.entry(name, 0.0) for name in ("one", "one/large", "three", "")] == [None] * 4


class TestForgetting:
    def test_a_backend_is_free_again_whatever_was_known(self) -> None:
        known = health()
        note(known, refused(model=None))
        note(known, refused("two"))
        note(known, failed())
        note(known, failed())
        assert sorted(known.forget("one")) == ["one", "one/large", "one/small"]
        assert known.until("one", "large", 0.0) == FREE
        assert known.until("two", "large", 0.0) == (3.0, Why.RATE_LIMITED)

    def test_one_that_nobody_knows(self) -> None:
        assert health().forget("three") == []


class TestReload:
    def test_what_stays_stays_known_and_the_rest_is_forgotten(self) -> None:
        known = health()
        note(known, refused(model=None))
        note(known, failed())
        known.configure({"one": Watched(frozenset({"large"}), Cooling(failures=1, open_for=7))})
        assert known.until("one", "large", 0.0)[0] == 3.0
        assert note(known, failed(), now=1.0) == ["one"]
        assert known.until("one", "large", 1.0) == (8.0, Why.CIRCUIT_OPEN)
        known.configure(BACKENDS)
        assert known.until("one", "small", 1.0) == (8.0, Why.CIRCUIT_OPEN)
        known.forget("one")
        assert known.until("one", "small", 1.0) == FREE

    def test_a_target_that_goes_takes_its_pause_along(self) -> None:
        known = health()
        note(known, refused(model=None))
        known.configure({"one": Watched(frozenset({"large"}), COOLING)})
        known.configure(BACKENDS)
        assert known.until("one", "small", 0.0) == FREE
        assert known.until("one", "large", 0.0)[0] == 3.0

    def test_a_backend_that_goes_takes_its_circuit_along(self) -> None:
        known = health()
        note(known, failed())
        note(known, failed())
        known.configure({})
        assert known.until("one", "large", 0.0) == FREE
        known.configure(BACKENDS)
        assert known.until("one", "large", 0.0) == FREE


_ATTEMPTS = st.builds(
    Attempt,
    st.sampled_from(["one", "two", "three"]),
    st.integers(0, 999),
    st.lists(st.sampled_from(["upstream_remote_reset", "downstream_remote_reset", "?"])),
    st.dictionaries(st.sampled_from(["retry-after", "x-ratelimit-reset-tokens"]), st.text()),
    st.sampled_from([None, "large", "small", "another"]),
)


@given(st.lists(st.tuples(_ATTEMPTS, st.floats(0, 100)), max_size=30))
def test_no_target_is_ever_left_out_for_longer_than_configured(history: list[tuple[Attempt, float]]) -> None:
    known, now = health(), 0.0
    for attempt, pause in history:
        now += pause
        for name in note(known, attempt, now):
            entry = known.entry(name, now)
            assert entry is None or 0 < entry.wait <= 72_000  # the longest, and chance
        for backend, model in (("one", "large"), ("one", "small"), ("two", "large")):
            assert known.until(backend, model, now)[0] <= now + 72


def test_a_call_asks_in_less_than_a_microsecond_or_so() -> None:
    known, times = health(), 20_000
    note(known, refused())
    began = time.process_time()
    for _ in range(times):
        known.until("one", "large", 1.0)
    assert (time.process_time() - began) / times < 5e-6  # 0.4 µs where nobody else is busy
