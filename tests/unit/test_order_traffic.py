"""Orders that follow what the calls of a worker have seen: who answered soonest, and who is least busy."""

import random
from collections import Counter
from collections.abc import Callable, Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from extproc.call import Call, Phase
from extproc.dialects.multipart import FormReader
from extproc.model import (
    Backend,
    Catalogue,
    Chain,
    CleanPrompt,
    Dialect,
    Ending,
    Order,
    Outcome,
    Prompt,
    PublicModel,
    Target,
    Usage,
    UsageSource,
)
from extproc.routing.health import Health
from extproc.routing.latency import Latency
from extproc.routing.load import Load
from extproc.stages.route import Conditions, chain, shuffled
from extproc.stages.traffic import EXPLORED, Traffic
from extproc.surfaces import Face, Place, Surface

NAMES = "abcd"
A, B = ("a", "m"), ("b", "m")
CATALOGUE = Catalogue({}, {}, {}, 1)
NEVER = 1.0  # a draw that explores nothing

seconds = st.floats(0.001, 600)
weights = st.dictionaries(st.sampled_from(NAMES), st.integers(0, 9), min_size=1)
samples = st.lists(st.tuples(st.sampled_from(NAMES), st.booleans(), seconds, st.integers(0, 5000)), max_size=30)


def target(name: str, weight: int = 1) -> Target:
    return Target(Backend(name, Dialect.OPENAI), "m", weight)


def names(targets: Sequence[Target]) -> str:
    return "".join(one.backend.name for one in targets)


class Site:
    """A worker's traffic, with calls of one model that are made and ended at will."""

    def __init__(self, group: dict[str, int], order: Order) -> None:
        self.traffic, self.now = Traffic(), 0.0
        self.group = tuple([target(name, weight) for name, weight in group.items()])
        self.model = PublicModel("m", (self.group,), order=order)

    def order(self, draw: Callable[[], float] = lambda: NEVER, stream: bool = True) -> str:
        drawn = [one for one in self.group if one.weight]
        return names(self.traffic.ordered(self.model.order, drawn, stream, draw, self.now))

    def begin(self, first: str, *others: str, stream: bool = True) -> Call:
        """A call that has been sent to these, in order."""
        call = Call(0.0, CATALOGUE, phase=Phase.ROUTED, stream=stream)
        call.chain = Chain(self.model, tuple([target(name) for name in (first, *others)]))
        self.traffic.sent(call, self.now)
        return call

    def end(
        self,
        call: Call,
        by: str | None,
        took: float,
        status: int = 200,
        ending: Ending = Ending.COMPLETE,
        made: int = 80,
    ) -> None:
        """Its answer comes, or not, and it is over."""
        self.now += took
        call.status = status
        if by is not None:
            call.phase, call.backend, call.first_byte = Phase.RESPONDING, by, self.now
            self.traffic.answered(call)
            call.heard = self.now if status < 400 else None
        usage = Usage(output=made, source=UsageSource.REPORTED)
        self.traffic.ended(call, Outcome(ending, status, usage, backend=by), self.now)

    def take(self, name: str, took: float, times: int = 1, **more: bool) -> None:
        for _ in range(times):
            self.end(self.begin(name, **more), name, took)


# ---- laws -------------------------------------------------------------------------------------------


@given(weights, samples, st.sampled_from(Order), st.booleans(), st.integers())
def test_an_order_is_one_of_those_that_are_drawn_and_leaves_nobody_out(
    group: dict[str, int], seen: list[tuple[str, bool, float, int]], order: Order, stream: bool, seed: int
) -> None:
    """Law: whatever is known, each target of a weight above 0 is in the chain, once, and no other is."""
    site, draw = Site(group, order), random.Random(seed).random
    for name, is_stream, took, made in seen:
        call = site.begin(name, stream=is_stream)
        if made % 3:  # the others stay under way
            site.end(call, name if made % 2 else None, took, made=made)
    clean = CleanPrompt(Prompt(b"{}", "m", None, stream=stream))
    given = Conditions(draw, Health({}, draw), site.now, traffic=site.traffic)
    if not any(group.values()):
        return
    found = chain(site.model, Place(Surface.CHAT, Face.OPENAI), clean, given).targets
    assert sorted(names(found)) == sorted(name for name, weight in group.items() if weight)


@given(samples)
def test_nothing_but_an_answer_makes_a_target_look_faster(seen: list[tuple[str, bool, float, int]]) -> None:
    """Law: a call that failed there, or that nobody answered, never lowers what is expected."""
    latency = Latency()
    for at, (name, stream, took, made) in enumerate(seen):
        key = (name, "m")
        before = latency.expected(key, stream, at)
        if made % 3 == 0:
            latency.served(key, stream, took, made, at)
            continue
        if made % 3 == 1:
            latency.failed(key, stream, took, made, at)
        else:
            latency.unanswered(key, stream, took, at)
        after = latency.expected(key, stream, at)
        assert after is not None
        assert before is None or after >= before * (1 - 1e-9)


@given(seconds, st.lists(st.tuples(st.booleans(), seconds), max_size=20))
def test_what_is_expected_converges_to_what_is_seen(settled: float, before: list[tuple[bool, float]]) -> None:
    """Law: fifty calls wipe out whatever was seen before, to half a percent of the difference."""
    latency = Latency()
    for is_served, took in before:
        (latency.served if is_served else latency.failed)(A, True, took, 0, 0.0)
    start = latency.expected(A, True, 0.0) or settled
    for _ in range(50):
        latency.served(A, True, settled, 0, 0.0)
    assert latency.expected(A, True, 0.0) == pytest.approx(settled, abs=0.0055 * abs(start - settled) + 1e-9)


@given(seconds, st.integers(1, 1000), st.floats(0, 30), st.floats(0, 3600))
def test_a_measurement_fades(took: float, times: int, later: float, much_later: float) -> None:
    """Law: for half a minute it is known, after five it is not, however many there were; nothing comes back."""
    latency = Latency()
    for _ in range(times):
        latency.served(A, True, took, 0, 0.0)
    assert latency.expected(A, True, later) == pytest.approx(took)
    assert latency.expected(A, True, 300.0 + much_later) is None


@given(seconds, seconds, st.floats(1, 120))
def test_the_older_it_is_the_less_a_measurement_weighs(old: float, new: float, later: float) -> None:
    latency = Latency()
    expected: list[float] = []
    for gap in (0.0, later):
        for key in ((f"{gap}", "m"),):
            for _ in range(10):
                latency.served(key, True, old, 0, 0.0)
            latency.served(key, True, new, 0, gap)
            expected.append(latency.expected(key, True, gap) or 0.0)
    assert abs(expected[1] - new) <= abs(expected[0] - new) + 1e-9


@given(st.lists(st.tuples(st.integers(0, 2), st.sampled_from(NAMES)), max_size=60))
def test_calls_that_enter_and_leave_are_all_that_is_counted(steps: list[tuple[int, str]]) -> None:
    """Law: a target has as many calls as entered and have not left, and one without is forgotten."""
    load, model = Load(), Counter[str]()
    for step, name in steps:
        if step:
            load.enter((name, "m"))
            model[name] += 1
        elif model[name]:
            load.leave((name, "m"))
            model[name] -= 1
    assert [load.of((name, "m")) for name in NAMES] == [model[name] for name in NAMES]
    assert len(load._under_way) == len(+model)


# ---- least latency ----------------------------------------------------------------------------------


def test_the_fastest_is_first_and_the_others_follow_by_how_fast_they_are() -> None:
    site = Site({"a": 9, "b": 1, "c": 5}, Order.LEAST_LATENCY)
    for name, took in (("a", 3.0), ("b", 0.5), ("c", 1.0)):
        site.take(name, took)
    assert site.order() == "bca"


def test_those_that_are_about_as_fast_share_by_weight() -> None:
    """Else all would run to one, make it slow, and run back."""
    site, draw = Site({"a": 3, "b": 1, "c": 1}, Order.LEAST_LATENCY), random.Random(7).random
    for name, took in (("a", 1.1), ("b", 1.0), ("c", 9.0)):
        site.take(name, took, 5)

    def first() -> str:
        drawn = shuffled(list(site.group), draw)
        return names(site.traffic.ordered(Order.LEAST_LATENCY, drawn, True, lambda: NEVER, site.now))[0]

    found = Counter(first() for _ in range(2000))
    assert found["c"] == 0
    assert found["a"] / 2000 == pytest.approx(0.75, abs=0.05)


def test_one_that_nobody_has_tried_lately_is_tried() -> None:
    site = Site({"a": 1, "b": 1, "c": 1}, Order.LEAST_LATENCY)
    site.take("a", 1.0)
    site.take("b", 0.1)
    assert site.order() == "cba"
    call = site.begin("c")
    assert site.order() == "bca", "by one call at a time"
    site.end(call, "c", 5.0)
    assert site.order() == "bac"
    site.now += 301
    assert site.order() == "abc", "nothing is known any more: by weight"


def test_a_small_share_goes_by_weight_so_that_one_that_recovered_is_seen() -> None:
    """Every call is one more second: what was slow for a minute is first again soon after it is fast."""
    site, draw = Site({"a": 1, "b": 1}, Order.LEAST_LATENCY), random.Random(3).random
    site.take("a", 5.0, 10)
    site.take("b", 1.0, 10)
    firsts: Counter[str] = Counter()
    for number in range(600):
        drawn = shuffled(list(site.group), draw)
        name = names(site.traffic.ordered(Order.LEAST_LATENCY, drawn, True, draw, site.now))[0]
        site.take(name, 0.2 if name == "a" else 1.0)
        firsts[name] += number >= 500
    assert firsts["a"] > 90


def test_a_share_that_is_explored_is_small() -> None:
    site, draw = Site({"a": 1, "b": 1}, Order.LEAST_LATENCY), random.Random(11).random
    site.take("a", 5.0)
    site.take("b", 1.0)
    slow = sum(
        names(site.traffic.ordered(Order.LEAST_LATENCY, shuffled(list(site.group), draw), True, draw, site.now)) == "ab"
        for _ in range(4000)
    )
    assert slow / 4000 == pytest.approx(EXPLORED / 2, abs=0.01)


def test_streams_are_compared_with_streams() -> None:
    site = Site({"a": 1, "b": 1}, Order.LEAST_LATENCY)
    for name, first, whole in (("a", 0.1, 9.0), ("b", 0.5, 3.0)):
        site.take(name, first)
        site.take(name, whole, stream=False)
    assert (site.order(stream=True), site.order(stream=False)) == ("ab", "ba")


def test_a_long_answer_does_not_make_slow_and_a_short_one_neither() -> None:
    """100 tokens a second after half of one: by the token, what is short and what is long differ by little."""
    latency = Latency()
    for output in (1, 10, 100, 1000, 4000):
        latency.served(("x", str(output)), False, 0.2 + output / 100, output, 0.0)
    found = [latency.expected(("x", str(output)), False, 0.0) for output in (1, 10, 100, 1000, 4000)]
    assert max(found, key=lambda one: one or 0) == pytest.approx(0.01, abs=0.0001)
    assert min(found, key=lambda one: one or 0) == pytest.approx(0.01, abs=0.0001)


# ---- failures ---------------------------------------------------------------------------------------


def test_one_that_fails_at_once_does_not_look_fast() -> None:
    site = Site({"a": 1, "b": 1}, Order.LEAST_LATENCY)
    site.take("b", 1.0)
    for _ in range(3):
        site.end(site.begin("a", "b"), "b", 1.01)
    assert site.order() == "ba", "what its failures cost counts twice"


@pytest.mark.parametrize(
    ("by", "status", "ending"),
    [
        (None, 503, Ending.FAILED),  # nobody there
        (None, 504, Ending.FAILED),
        (None, 0, Ending.CUT),  # the caller left first
        ("a", 500, Ending.FAILED),
        ("a", 429, Ending.FAILED),
        ("b", 529, Ending.FAILED),
        ("a", 200, Ending.FAILED),  # an error in its stream
        ("a", 200, Ending.STALLED),
    ],
)
def test_a_call_without_an_answer_makes_nobody_faster_and_may_make_slower(
    by: str | None, status: int, ending: Ending
) -> None:
    site = Site({"a": 1, "b": 1}, Order.LEAST_LATENCY)
    site.take("a", 1.0, 10)
    site.take("b", 2.0, 10)
    for _ in range(5):
        site.end(site.begin("a", "b"), by, 0.001, status, ending)
    assert site.order() == "ab"
    for _ in range(5):
        site.end(site.begin("a", "b"), by, 20.0, status, ending)
    assert site.order() == "ba"


def test_a_wrong_request_says_nothing() -> None:
    site = Site({"a": 1, "b": 1}, Order.LEAST_LATENCY)
    site.take("a", 1.0)
    site.take("b", 2.0)
    for _ in range(20):
        site.end(site.begin("b"), "b", 0.001, 400, Ending.FAILED)
    assert site.order() == "ab"


def test_an_upload_says_nothing() -> None:
    site = Site({"a": 1, "b": 1}, Order.LEAST_LATENCY)
    site.take("a", 1.0, stream=False)
    call = site.begin("b", stream=False)
    call.form = FormReader(b"--x", True)
    site.end(call, "b", 0.01)
    assert site.order(stream=False) == "ba", "b is still unknown, and so to be tried"
    site.take("b", 9.0, stream=False)
    assert site.order(stream=False) == "ab"


def test_a_stream_that_its_caller_left_has_told_how_fast_it_began() -> None:
    site = Site({"a": 1, "b": 1}, Order.LEAST_LATENCY)
    site.take("a", 1.0)
    site.end(site.begin("b"), "b", 0.2, ending=Ending.CUT)
    assert site.order() == "ba"


# ---- least busy -------------------------------------------------------------------------------------


def test_the_one_with_the_fewest_calls_for_its_weight_is_first() -> None:
    site = Site({"a": 1, "b": 2}, Order.LEAST_BUSY)
    assert site.order() == "ab", "as drawn"
    first = site.begin("a")
    assert site.order() == "ba"
    site.begin("b")
    assert site.order() == "ba", "one of two is less than one of one"
    site.begin("b")
    assert site.order() == "ab"
    site.end(first, "a", 1.0)
    assert site.order() == "ab"


def test_calls_fill_the_targets_by_their_weights() -> None:
    """Law: of calls that do not end, each target has its share, to one call."""
    site, draw = Site({"a": 5, "b": 3, "c": 2}, Order.LEAST_BUSY), random.Random(5).random
    found: Counter[str] = Counter()
    for _ in range(100):
        drawn = shuffled(list(site.group), draw)
        name = names(site.traffic.ordered(Order.LEAST_BUSY, drawn, True, draw, 0.0))[0]
        site.begin(name)
        found[name] += 1
    assert [abs(found[name] - due) <= 1 for name, due in (("a", 50), ("b", 30), ("c", 20))] == [True] * 3


def test_a_call_that_goes_on_to_another_target_is_counted_there() -> None:
    site = Site({"a": 1, "b": 1}, Order.LEAST_BUSY)
    call = site.begin("a", "b")
    assert site.order() == "ba"
    call.phase, call.backend, call.status = Phase.RESPONDING, "b", 200
    site.traffic.answered(call)
    assert site.order() == "ab"
    site.end(call, "b", 1.0)
    assert site.traffic._load.of(A) == site.traffic._load.of(B) == 0


def test_a_call_leaves_once_however_often_it_ends() -> None:
    site = Site({"a": 1, "b": 1}, Order.LEAST_BUSY)
    call = site.begin("a")
    site.begin("a")
    for _ in range(3):
        site.end(call, None, 1.0, 0, Ending.CUT)
    assert site.traffic._load.of(A) == 1


# ---- beside the others ------------------------------------------------------------------------------


def test_a_bound_call_goes_where_the_others_went_however_busy_that_is() -> None:
    site = Site(dict.fromkeys(NAMES, 1), Order.LEAST_BUSY)
    clean, place = CleanPrompt(Prompt(b"{}", "m", None)), Place(Surface.CHAT, Face.OPENAI)

    def first() -> str:
        given = Conditions(lambda: 0.0, Health({}, lambda: 0.0), 0.0, binding="session", traffic=site.traffic)
        return chain(site.model, place, clean, given).targets[0].backend.name

    here = first()
    for _ in range(5):
        site.begin(here)
    assert first() == here


def test_by_default_the_weights_decide() -> None:
    site = Site({"a": 1, "b": 1}, Order.WEIGHTS)
    site.take("a", 9.0)
    site.begin("a")
    assert site.order() == "ab"


def test_a_stream_that_begins_soon_and_falls_silent_is_not_fast() -> None:
    site = Site({"a": 1, "b": 1}, Order.LEAST_LATENCY)
    site.take("a", 0.1, 10)
    site.take("b", 0.5, 10)
    call = site.begin("a")
    call.phase, call.backend, call.status, call.heard = Phase.RESPONDING, "a", 200, site.now + 0.1
    site.now += 30
    site.traffic.ended(call, Outcome(Ending.STALLED, 200, backend="a"), site.now)
    assert site.order() == "ba"
