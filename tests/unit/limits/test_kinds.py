"""What is looked up once for all calls of a kind is what each of them would have found."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from extproc.call import Call
from extproc.limits.demand import Extent
from extproc.limits.hold import Stake
from extproc.limits.limit import Limit, Measure, Only, Period, Priority, Raise, Scope
from extproc.limits.sums import Kind, Sums
from extproc.model import Backend, Caller, Cap, Catalogue, Chain, Dialect, PublicModel, Target, Team
from extproc.reservation import Reservations
from extproc.stages import budget
from extproc.stages.budget import Ask, Terms
from tests.support.playbook import Policy

NOW = 1_790_000_000_000
MINUTE = 60_000
TEAM = Team("checkout", "shop", "gold")
CALLER = Caller("k1", "key", user="ada", team=TEAM, lineage="k0")
ONE, TWO = (Target(Backend(name, Dialect.OPENAI), "m") for name in ("one", "two"))
MODEL = PublicModel("m", ((ONE, TWO),))
CHAIN = Chain(MODEL, (ONE, TWO))
LIMITS = (
    Limit("calendar", Measure.TOKENS, 1_000, period=Period.MINUTE, scope=(Scope.KEY,)),
    Limit("sliding", Measure.REQUESTS, 10, sliding=MINUTE, raised=Raise(20, NOW + 150_000)),
    Limit("month", Measure.MONEY, 10**9, period=Period.MONTH, scope=(Scope.TEAM, Scope.MODEL)),
    Limit("backend", Measure.REQUESTS, 10, sliding=MINUTE, scope=(Scope.BACKEND,)),
)


CATALOGUES: dict[tuple[Limit, ...], Catalogue] = {}


def stakes(kind: Kind | None, now: int, sums: Sums) -> tuple[Stake, ...]:
    terms = Terms(LIMITS, CALLER, CHAIN, Priority.HIGH, Extent(input=5), Cap(), False, kind=kind)
    return budget.hold(terms, "id", Ask(1), sums, now).stakes


@given(st.lists(st.integers(-2 * MINUTE, 5 * MINUTE), max_size=8))
def test_a_kind_counts_in_what_a_call_alone_is_counted_in(times: list[int]) -> None:
    kind = Kind(LIMITS)
    for after in times:
        assert stakes(kind, NOW + after, Sums()) == stakes(None, NOW + after, Sums())


def test_a_kind_is_looked_up_once_in_a_window() -> None:
    kind, sums = Kind(LIMITS), Sums()
    first = stakes(kind, NOW, sums)
    found = kind.sums
    end = first[0].draw.counter.windows[0].end
    assert stakes(kind, end - 1, sums) == first
    assert kind.sums is found
    stakes(kind, end, sums)
    assert kind.sums is not found


class TestOfACall:
    @pytest.fixture
    def reservations(self) -> Reservations:
        return Policy().pipeline._reservations

    def found(
        self,
        of: Reservations,
        limits: tuple[Limit, ...],
        caller: Caller = CALLER,
        chain: Chain = CHAIN,
        low: bool = False,
    ) -> tuple[Kind | None, tuple[Limit, ...]]:
        catalogue = CATALOGUES.setdefault(limits, Catalogue({}, {}, {}, 1, limits=limits))
        call = Call(0.0, catalogue, priority=Priority.LOW if low else Priority.HIGH)
        return of._limits(call, caller, chain)

    def test_callers_that_differ_in_what_counts_are_of_other_kinds(self, reservations: Reservations) -> None:
        kinds = [
            self.found(reservations, LIMITS[:3], caller, chain, low)[0]
            for caller, chain, low in (
                (CALLER, CHAIN, False),
                (replace(CALLER, lineage="k9"), CHAIN, False),
                (replace(CALLER, user="bob"), CHAIN, False),
                (replace(CALLER, user=None, service_account="ada"), CHAIN, False),
                (replace(CALLER, environment="prod"), CHAIN, False),
                (replace(CALLER, team=replace(TEAM)), CHAIN, False),
                (replace(CALLER, limits=(LIMITS[1],)), CHAIN, False),
                (CALLER, replace(CHAIN, model=replace(MODEL)), False),
                (CALLER, CHAIN, True),
            )
        ]
        assert None not in kinds
        assert len({id(kind) for kind in kinds}) == len(kinds)

    def test_calls_of_a_kind_share_it(self, reservations: Reservations) -> None:
        first, limits = self.found(reservations, LIMITS[:3])
        assert limits == LIMITS[:3]
        assert self.found(reservations, LIMITS[:3], replace(CALLER, name="renamed")) == (first, limits)
        assert self.found(reservations, LIMITS[:3], replace(CALLER))[0] is first

    def test_where_targets_have_a_say_each_call_is_looked_at(self, reservations: Reservations) -> None:
        of_one = Limit("one", Measure.REQUESTS, 1, sliding=MINUTE, only=Only(backends=frozenset({"one"})))
        assert self.found(reservations, (of_one,)) == (None, (of_one,))
        assert self.found(reservations, (of_one,), chain=Chain(MODEL, (TWO,))) == (None, ())
        assert self.found(reservations, LIMITS) == (None, LIMITS)

    def test_nothing_is_kept_of_another_configuration(self, reservations: Reservations) -> None:
        first, _ = self.found(reservations, LIMITS[:3])
        assert self.found(reservations, LIMITS[1:3])[1] == LIMITS[1:3]
        assert len(reservations._kinds) == 1
        again, limits = self.found(reservations, LIMITS[:3])
        assert limits == LIMITS[:3]
        assert again is not first

    def test_there_are_not_more_and_more(self, reservations: Reservations, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("extproc.reservation._MOST_KINDS", 3)
        for number in range(20):
            self.found(reservations, LIMITS[:3], replace(CALLER, lineage=f"k{number}"))
        assert len(reservations._kinds) <= 3
