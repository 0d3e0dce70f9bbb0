"""The stage of budgets: which limits hold for a call, what it reserves, and what becomes of a refused reservation."""

from dataclasses import replace
from typing import Any, ClassVar

import pytest
from hypothesis import given
from hypothesis import strategies as st

from extproc import refusals
from extproc.limits.demand import Extent
from extproc.limits.limit import Limit, Measure, Mode, Only, Period, Priority, Raise, Scope, Short
from extproc.limits.sums import Sums
from extproc.limits.thresholds import Thresholds
from extproc.model import (
    Backend,
    Bounds,
    Caller,
    Cap,
    Chain,
    Demand,
    Dialect,
    Ending,
    Outcome,
    Price,
    PublicModel,
    Target,
    Team,
    Usage,
    UsageSource,
)
from extproc.refusals import Refusal, Refused
from extproc.stages import budget, charge, shortage
from extproc.stages.budget import Ask, Terms
from extproc.stages.shortage import Instead
from extproc.stores.counters import Answer, Reading

NOW = 1_790_000_000_000
PRICE = Price(input=1_000_000_000, output=4_000_000_000)  # 1 and 4 for a million tokens
DEAR = Price(input=2_000_000_000, output=8_000_000_000)
ONE = Target(Backend("one", Dialect.OPENAI), "m", price=PRICE)
TWO = Target(Backend("two", Dialect.OPENAI), "m", price=DEAR)
TEAM = Team("checkout", "shop", "gold")
CALLER = Caller("k1", "key", user="ada", team=TEAM, environment="prod", lineage="k0")
CHAIN = Chain(PublicModel("m", ((ONE, TWO),)), (ONE, TWO))
CAP = Cap(None, (), "max_tokens")


def limit(measure: Measure = Measure.TOKENS, amount: int = 1000, **fields: Any) -> Limit:
    if measure is not Measure.CONCURRENT and not {"sliding", "period"} & fields.keys():
        fields["sliding"] = 60_000
    return Limit("l", measure, amount, **fields)


def terms(*limits: Limit, **fields: Any) -> Terms:
    extent = fields.pop("extent", Extent(input=100, estimated_input=60, cap=500))
    return Terms(
        **{
            "limits": limits,
            "caller": CALLER,
            "chain": CHAIN,
            "priority": Priority.HIGH,
            "extent": extent,
            "cap": CAP,
            "stream": False,
            **fields,
        }
    )


def refuse(of: Terms, ask: Ask, *readings: Reading) -> Ask | Instead | Refusal:
    held = budget.hold(of, "id", ask, Sums(), NOW)
    return shortage.after_refusal(of, held, Answer(False, readings), ask, NOW, "USD")


def units(of: Terms, ask: Ask | None = None) -> list[int]:
    return [draw.units for draw in budget.hold(of, "id", ask or Ask(500), Sums(), NOW).draws]


class TestPriority:
    def test_a_caller_has_what_it_may_have_at_best(self) -> None:
        assert budget.priority(None, CALLER) is Priority.HIGH
        assert budget.priority(None, replace(CALLER, priority=Priority.LOW)) is Priority.LOW

    def test_every_caller_may_step_back(self) -> None:
        assert budget.priority("low", CALLER) is Priority.LOW

    def test_a_key_of_low_priority_is_refused_high(self) -> None:
        with pytest.raises(Refused) as refused:
            budget.priority("high", replace(CALLER, priority=Priority.LOW))
        assert refused.value.refusal.kind is refusals.PERMISSION_DENIED

    @pytest.mark.parametrize("asked", ["", "HIGH", "urgent", "high, low"])
    def test_other_words_are_refused(self, asked: str) -> None:
        with pytest.raises(Refused) as refused:
            budget.priority(asked, CALLER)
        assert refused.value.refusal.kind is refusals.INVALID_VALUE


class TestWhichHold:
    @pytest.mark.parametrize(
        "only",
        [
            Only(),
            Only(models=frozenset({"m"})),
            Only(backends=frozenset({"two", "three"})),
            Only(teams=frozenset({"checkout"})),
            Only(areas=frozenset({"shop"})),
            Only(tiers=frozenset({"gold"})),
            Only(environments=frozenset({"prod"})),
            Only(priority=Priority.HIGH),
            Only(low_route=False),
        ],
    )
    def test_one_whose_conditions_are_met(self, only: Only) -> None:
        assert budget.applicable([limit(only=only)], CALLER, CHAIN, Priority.HIGH, False)

    @pytest.mark.parametrize(
        "only",
        [
            Only(models=frozenset({"n"})),
            Only(backends=frozenset({"three"})),
            Only(teams=frozenset({"ledger"})),
            Only(areas=frozenset({"bank"})),
            Only(tiers=frozenset({"standard"})),
            Only(environments=frozenset({"test"})),
            Only(priority=Priority.LOW),
            Only(low_route=True),
            Only(models=frozenset({"m"}), teams=frozenset({"ledger"})),
        ],
    )
    def test_not_one_whose_conditions_are_not(self, only: Only) -> None:
        assert not budget.applicable([limit(only=only)], CALLER, CHAIN, Priority.HIGH, False)

    @pytest.mark.parametrize("field", ["teams", "areas", "tiers"])
    def test_a_caller_of_no_team_is_in_none(self, field: str) -> None:
        only = replace(Only(), **{field: frozenset({""})})  # type: ignore[arg-type]
        alone = replace(CALLER, team=None)
        assert not budget.applicable([limit(only=only)], alone, CHAIN, Priority.HIGH, False)

    def test_a_limit_by_user_is_for_users_and_service_accounts(self) -> None:
        by_user = [limit(scope=(Scope.USER,))]
        nobody = replace(CALLER, user=None)
        assert budget.applicable(by_user, CALLER, CHAIN, Priority.HIGH, False)
        assert budget.applicable(by_user, replace(nobody, service_account="ci"), CHAIN, Priority.HIGH, False)
        assert not budget.applicable(by_user, nobody, CHAIN, Priority.HIGH, False)


class TestSums:
    """Two callers draw on the same counter exactly where the scope does not tell them apart."""

    @staticmethod
    def key(of: Limit, caller: Caller = CALLER, chain: Chain = CHAIN, priority: Priority = Priority.HIGH) -> list[str]:
        held = budget.hold(terms(of, caller=caller, chain=chain, priority=priority), "id", Ask(1), Sums(), NOW)
        return [draw.counter.key for draw in held.draws]

    OTHERS: ClassVar[dict[Scope, dict[str, Any]]] = {
        Scope.KEY: {"caller": replace(CALLER, key_id="k2", lineage="k2")},
        Scope.USER: {"caller": replace(CALLER, user="bob")},
        Scope.TEAM: {"caller": replace(CALLER, team=replace(TEAM, name="ledger"))},
        Scope.AREA: {"caller": replace(CALLER, team=replace(TEAM, area="bank"))},
        Scope.TIER: {"caller": replace(CALLER, team=replace(TEAM, tier="standard"))},
        Scope.MODEL: {"chain": Chain(PublicModel("n", ()), (ONE, TWO))},
        Scope.PRIORITY: {"priority": Priority.LOW},
    }

    @pytest.mark.parametrize("scope", OTHERS, ids=str)
    def test_another_value_of_a_scope_is_another_sum_for_that_scope_alone(self, scope: Scope) -> None:
        for of in self.OTHERS:
            same = self.key(limit(scope=(of,))) == self.key(limit(scope=(of,)), **self.OTHERS[scope])
            assert same == (of is not scope)

    def test_models_of_one_name_and_different_owners_are_different_sums(self) -> None:
        owners = ("", "checkout", "ledger")
        chains = [Chain(PublicModel("n", (), owner=owner), (ONE, TWO)) for owner in owners]
        assert len({*(self.key(limit(scope=(Scope.MODEL,)), chain=chain)[0] for chain in chains)}) == 3

    def test_a_rotated_key_keeps_its_sum(self) -> None:
        by_key = limit(scope=(Scope.KEY,))
        assert self.key(by_key) == self.key(by_key, replace(CALLER, key_id="k9"))

    def test_service_accounts_of_one_name_are_their_teams_own(self) -> None:
        by_user = limit(scope=(Scope.USER,))
        ours = replace(CALLER, user=None, service_account="ci")
        theirs = replace(ours, team=replace(TEAM, name="ledger"))
        assert len({*self.key(by_user, ours), *self.key(by_user, theirs)}) == 2

    def test_a_user_is_no_service_account(self) -> None:
        by_user = limit(scope=(Scope.USER,))
        account = replace(CALLER, user=None, service_account="ci")
        assert self.key(by_user, account) != self.key(by_user, replace(CALLER, user="account/checkout/ci"))

    def test_each_backend_of_the_chain_has_a_sum(self) -> None:
        assert len(set(self.key(limit(scope=(Scope.BACKEND,))))) == 2
        assert len(self.key(limit(scope=(Scope.BACKEND,), only=Only(backends=frozenset({"two"}))))) == 1

    def test_nothing_of_a_caller_can_be_read_in_a_key(self) -> None:
        keys = self.key(limit(scope=(Scope.USER, Scope.KEY, Scope.TEAM), owner="key/k0"))
        assert not any(word in key for key in keys for word in ("ada", "k0", "k1", "checkout"))

    def test_limits_of_one_name_and_different_owners_are_different_sums(self) -> None:
        assert self.key(limit()) != self.key(limit(owner="team/checkout"))

    def test_a_counter_is_made_once(self) -> None:
        sums, of = Sums(), limit(scope=(Scope.KEY,))
        first = budget.hold(terms(of), "a", Ask(1), sums, NOW)
        second = budget.hold(terms(of), "b", Ask(2), sums, NOW + 1)
        assert first.draws[0].counter is second.draws[0].counter

    def test_a_calendar_counter_is_made_anew_when_its_window_ends(self) -> None:
        sums, of = Sums(), limit(period=Period.MINUTE)
        first = budget.hold(terms(of), "a", Ask(1), sums, NOW).draws[0].counter
        later = budget.hold(terms(of), "b", Ask(1), sums, first.windows[0].end).draws[0].counter
        assert later.key == first.key
        assert later.windows[0] == first.windows[1]


class TestHold:
    def test_it_takes_of_each_measure_what_the_call_can_use_at_most(self) -> None:
        limits = [limit(measure) for measure in Measure]
        assert units(terms(*limits)) == [1, 600, 100, 500, 1, 100 * 2000 + 500 * 8000]

    def test_every_choice_may_be_as_long_as_the_cap(self) -> None:
        of = terms(limit(Measure.OUTPUT_TOKENS), extent=Extent(input=1, cap=500, choices=3))
        assert units(of) == [1500]

    def test_what_stays_of_a_hold_that_nobody_settles_is_what_was_surely_used(self) -> None:
        limits = [limit(measure) for measure in Measure]
        kept = [draw.kept for draw in budget.hold(terms(*limits), "id", Ask(500), Sums(), NOW).draws]
        assert kept == [1, 60, 60, 0, 1, 60 * 1000]

    def test_low_priority_leaves_a_part_free(self) -> None:
        of = limit(amount=1000, kept_for_high=30)
        capacities = [
            budget.hold(terms(of, priority=priority), "id", Ask(1), Sums(), NOW).draws[0].counter.capacity
            for priority in (Priority.HIGH, Priority.LOW)
        ]
        assert capacities == [1000, 700]

    def test_a_raise_holds_until_it_ends(self) -> None:
        of, sums = limit(amount=1000, raised=Raise(5000, NOW)), Sums()
        capacities = [
            budget.hold(terms(of), "id", Ask(1), sums, now).draws[0].counter.capacity for now in (NOW - 1, NOW)
        ]
        assert capacities == [5000, 1000]

    def test_a_model_without_a_price_is_refused_where_money_is_limited(self) -> None:
        unpriced = Chain(CHAIN.model, (ONE, replace(TWO, price=None)))
        with pytest.raises(Refused) as refused:
            budget.check_prices(terms(limit(Measure.MONEY), chain=unpriced))
        assert refused.value.refusal.kind is refusals.UNPRICED
        budget.check_prices(terms(limit(Measure.MONEY, mode=Mode.SHADOW), chain=unpriced))
        budget.check_prices(terms(limit(), chain=unpriced))


NEVER, SOON, FAR = None, 6_200, 3_600_000


class TestAfterRefusal:
    def test_a_wait_that_is_short_is_told(self) -> None:
        refusal = refuse(terms(limit()), Ask(500), Reading(900, 60_000, SOON))
        assert isinstance(refusal, Refusal)
        assert refusal.kind is refusals.RATE_LIMIT
        assert refusal.retry
        assert refusal.limit == "l"

    def test_spent_money_is_final(self) -> None:
        refusal = refuse(terms(limit(Measure.MONEY, period=Period.MONTH)), Ask(500), Reading(900, FAR, FAR))
        assert isinstance(refusal, Refusal)
        assert refusal.kind is refusals.QUOTA
        assert not refusal.retry

    def test_the_limit_that_lasts_longest_speaks(self) -> None:
        of = terms(limit(), replace(limit(Measure.MONEY, period=Period.MONTH), name="budget"))
        refusal = refuse(of, Ask(500), Reading(900, 60_000, SOON), Reading(900, FAR, FAR))
        assert isinstance(refusal, Refusal)
        assert refusal.limit == "budget"

    def test_shadow_limits_have_no_say(self) -> None:
        of = terms(limit(mode=Mode.SHADOW), replace(limit(), name="real"))
        refusal = refuse(of, Ask(500), Reading(900, 60_000, FAR), Reading(900, 60_000, SOON))
        assert isinstance(refusal, Refusal)
        assert refusal.limit == "real"

    def test_a_repeat_of_a_running_call_is_a_conflict(self) -> None:
        of = terms(limit(), once=budget.once("digest"))
        refusal = refuse(of, Ask(500), Reading(0, 0, 0), Reading(1, 0, 1))
        assert isinstance(refusal, Refusal)
        assert refusal.kind is refusals.IDEMPOTENCY_CONFLICT

    @given(used=st.integers(0, 100_000), wish=st.integers(1, 50_000), choices=st.integers(1, 4))
    def test_a_cap_that_the_client_sent_is_lowered_to_all_that_is_left(
        self, used: int, wish: int, choices: int
    ) -> None:
        model = replace(CHAIN.model, bounds=Bounds(floor=16))
        of = terms(
            limit(amount=100_000, period=Period.MONTH),
            extent=Extent(input=100, cap=wish, choices=choices),
            cap=Cap(wish, (), "max_tokens"),
            chain=replace(CHAIN, model=model),
        )
        then = refuse(of, Ask(wish), Reading(used, FAR, FAR))
        best = min(wish - 1, (100_000 - used - 100) // choices)
        if best < 16:
            assert isinstance(then, Refusal)
        else:
            assert then == Ask(best, attempt=2)

    def test_it_is_not_lowered_where_waiting_helps(self) -> None:
        of = terms(limit(amount=100_000), cap=Cap(5_000, (), "max_tokens"), extent=Extent(cap=5_000))
        assert isinstance(refuse(of, Ask(5_000), Reading(97_000, 60_000, SOON)), Refusal)
        assert refuse(of, Ask(5_000), Reading(97_000, 60_000, NEVER)) == Ask(3_000, attempt=2)

    def test_one_is_written_only_where_the_limit_says_so(self) -> None:
        extent = Extent(cap=5_000)
        for short, expected in ((Short.CAP, Ask(3_000, attempt=2)), (Short.REFUSE, None)):
            then = refuse(terms(limit(amount=10_000, short=short), extent=extent), Ask(5_000), Reading(7_000, 1, SOON))
            assert then == expected if expected else isinstance(then, Refusal)

    def test_no_cap_where_the_surface_has_none(self) -> None:
        of = terms(limit(amount=10_000, short=Short.CAP), extent=Extent(cap=5_000), cap=Cap())
        assert isinstance(refuse(of, Ask(5_000), Reading(7_000, 1, SOON)), Refusal)

    def test_no_cap_below_what_the_surface_or_the_model_takes(self) -> None:
        of = terms(limit(amount=10_000, short=Short.CAP), extent=Extent(cap=5_000), cap=Cap(None, (), "x", least=4_000))
        assert isinstance(refuse(of, Ask(5_000), Reading(7_000, 1, SOON)), Refusal)

    def test_a_limit_smaller_than_the_floor_is_not_closed_for_ever(self) -> None:
        of = terms(limit(amount=200, short=Short.CAP), extent=Extent(input=20, cap=5_000))
        assert refuse(of, Ask(5_000), Reading(0, 1, NEVER)) == Ask(180, attempt=2)
        assert refuse(of, Ask(5_000), Reading(100, 1, NEVER)) == Ask(80, attempt=2)
        assert isinstance(refuse(of, Ask(5_000), Reading(110, 1, NEVER)), Refusal)

    def test_nor_is_a_small_sum_of_money(self) -> None:
        cheap = 20 * 2_000 + 100 * 8_000  # the input and a hundred tokens
        of = terms(limit(Measure.MONEY, cheap * 2, short=Short.CAP), extent=Extent(input=20, cap=5_000))
        assert isinstance(refuse(of, Ask(5_000), Reading(0, 1, NEVER)), Ask)

    def test_a_shorter_answer_does_not_help_where_calls_are_counted(self) -> None:
        of = terms(limit(Measure.REQUESTS, short=Short.CAP), limit(amount=10, short=Short.CAP))
        assert isinstance(refuse(of, Ask(500), Reading(1000, 1, SOON), Reading(0, 1, NEVER)), Refusal)

    def test_an_answer_made_in_the_background_is_never_leased(self) -> None:
        of = terms(limit(amount=10_000, short=Short.LEASE), extent=Extent(cap=5_000), stream=True, background=True)
        assert isinstance(refuse(of, Ask(5_000), Reading(7_000, 1, SOON)), Refusal)

    def test_of_several_one_that_a_shorter_answer_would_not_help_is_named(self) -> None:
        of = terms(limit(short=Short.CAP), replace(limit(Measure.REQUESTS, period=Period.DAY), name="day"))
        refusal = refuse(of, Ask(500), Reading(1_000, 1, NEVER), Reading(1_000, 1, FAR))
        assert isinstance(refusal, Refusal)
        assert refusal.limit == "day"

    def test_a_stream_may_be_leased(self) -> None:
        of = terms(limit(amount=10_000, short=Short.LEASE, slice=64), extent=Extent(cap=5_000), stream=True)
        assert refuse(of, Ask(5_000), Reading(7_000, 1, SOON)) == Ask(64, leased=True)
        assert isinstance(refuse(of, Ask(64, leased=True), Reading(10_000, 1, SOON)), Refusal)

    def test_a_lease_is_for_streams_whose_whole_output_shows(self) -> None:
        leased = limit(amount=10_000, short=Short.LEASE)
        hidden = replace(CHAIN, model=replace(CHAIN.model, bounds=Bounds(hidden_output=True)))
        for of in (terms(leased), terms(leased, stream=True, chain=hidden)):
            assert isinstance(refuse(of, Ask(500), Reading(9_900, 1, SOON)), Refusal)

    def test_attempts_to_ask_for_less_end(self) -> None:
        of = terms(limit(amount=100_000, short=Short.CAP), extent=Extent(cap=50_000))
        ask, asked = Ask(50_000), 0
        while isinstance(then := refuse(of, ask, Reading(50_001 + 1_000 * asked, 1, SOON)), Ask):
            ask, asked = then, asked + 1
        assert 0 < asked < 10

    def test_a_spent_limit_names_the_model_to_use_instead(self) -> None:
        then = refuse(
            terms(limit(Measure.MONEY, period=Period.MONTH, fallback="small")), Ask(500), Reading(1, FAR, FAR)
        )
        assert isinstance(then, Instead)
        assert then.model == "small"
        assert then.refusal.kind is refusals.QUOTA

    def test_a_model_is_not_its_own_fallback(self) -> None:
        of = terms(limit(Measure.MONEY, period=Period.MONTH, fallback="m"))
        assert isinstance(refuse(of, Ask(500), Reading(1, FAR, FAR)), Refusal)


class TestCapToWrite:
    @pytest.mark.parametrize(
        ("said", "most", "held", "written"),
        [
            (None, None, 16_384, 16_384),  # nobody knows how long the answer can be
            (None, 4_096, 4_096, None),
            (None, 4_096, 2_000, 2_000),
            (800, 4_096, 800, None),
            (800, 4_096, 500, 500),
        ],
    )
    def test_it_is_written_where_the_answer_could_be_longer(
        self, said: int | None, most: int | None, held: int, written: int | None
    ) -> None:
        chain = replace(CHAIN, model=replace(CHAIN.model, bounds=Bounds(max_output=most)))
        of = terms(limit(), chain=chain, cap=Cap(said, (), "max_tokens"))
        assert budget.cap_to_write(of, budget.hold(of, "id", Ask(held), Sums(), NOW)) == written

    def test_none_where_no_limit_needs_it(self) -> None:
        of = terms(limit(Measure.REQUESTS))
        assert budget.cap_to_write(of, budget.hold(of, "id", Ask(5), Sums(), NOW)) is None


def outcome(status: int = 200, usage: Usage | None = None) -> Outcome:
    return Outcome(Ending.COMPLETE, status, usage or Usage(10, 20, source=UsageSource.REPORTED))


class TestUsed:
    def test_what_the_backend_reports_at_its_price(self) -> None:
        assert charge.used(outcome(), ONE) == Demand(1, 10, 20, 10 * 1000 + 20 * 4000)

    @pytest.mark.parametrize("status", [500, 503, 429])
    def test_a_call_that_failed_used_nothing(self, status: int) -> None:
        assert charge.used(outcome(status), ONE) == Demand(0, 0, 0, 0)

    def test_a_call_that_no_backend_took_used_nothing(self) -> None:
        assert charge.used(outcome(), None) == Demand(0, 0, 0, 0)

    def test_a_mistake_of_the_caller_is_a_request(self) -> None:
        assert charge.used(outcome(400, Usage()), ONE) == Demand(1, 0, 0, 0)

    def test_an_answer_made_in_the_background_counts_as_held(self) -> None:
        held = budget.hold(terms(limit()), "id", Ask(500), Sums(), NOW)
        silent = outcome(200, Usage(60, 0, source=UsageSource.ESTIMATED))
        assert charge.used(silent, ONE, held, background=True) == held.demand
        assert charge.used(outcome(400, Usage()), ONE, held, background=True) == Demand(1, 0, 0, 0)

    def test_audio_that_nobody_measured_counts_as_held(self) -> None:
        by_minute = replace(ONE, price=Price(minute=6_000_000))
        held = budget.hold(terms(limit(), extent=Extent(seconds=90.0)), "id", Ask(0), Sums(), NOW)
        assert charge.used(outcome(200, Usage(source=UsageSource.ESTIMATED)), by_minute, held).money == 9_000_000
        measured = Usage(seconds=60.0, source=UsageSource.REPORTED)
        assert charge.used(outcome(200, measured), by_minute, held).money == 6_000_000

    def test_it_is_booked_where_it_was_held_and_at_the_backend_that_served(self) -> None:
        of = terms(
            limit(), limit(Measure.REQUESTS, scope=(Scope.BACKEND,)), limit(only=Only(backends=frozenset({"one"})))
        )
        held = budget.hold(of, "id", Ask(500), Sums(), NOW)
        assert [draw.units for draw in charge.settled(held, Demand(1, 10, 20, 0), "two")] == [30, 0, 1, 0]
        assert [draw.units for draw in charge.settled(held, Demand(1, 10, 20, 0), "one")] == [30, 1, 0, 30]
        assert [draw.counter for draw in charge.settled(held, Demand(), "one")] == [draw.counter for draw in held.draws]

    def test_more_than_was_held_is_told_by_cause(self) -> None:
        held = budget.hold(terms(limit()), "id", Ask(500), Sums(), NOW)
        assert charge.overspent(held, Demand(1, 100, 500, 0)) == {}
        assert charge.overspent(held, Demand(1, 120, 530, 0)) == {"input_estimate": 20, "output_above_cap": 30}


class TestLonger:
    OF = terms(
        limit(short=Short.LEASE, slice=50),
        limit(Measure.MONEY, sliding=60_000),
        limit(Measure.REQUESTS),
        stream=True,
        extent=Extent(input=100, estimated_input=60, cap=5_000, choices=2),
    )

    @given(flowed=st.integers(101, 5_000))
    def test_a_lease_grows_by_whole_slices_and_covers_what_flowed(self, flowed: int) -> None:
        sums = Sums()
        held = budget.hold(self.OF, "id", Ask(50, leased=True), sums, NOW)
        demand, draws = budget.longer(held, CHAIN, flowed, sums, NOW)
        assert flowed <= demand.output < flowed + 100
        assert demand.output % 100 == 0
        assert [draw.units for draw in draws] == [100 + demand.output, demand.money]
        assert [draw.counter.key for draw in draws] == [draw.counter.key for draw in held.draws[:2]]
        assert demand == held.extent.at_most_output(CHAIN, demand.output)

    def test_what_has_passed_stays_if_the_worker_dies(self) -> None:
        sums = Sums()
        held = budget.hold(self.OF, "id", Ask(50, leased=True), sums, NOW)
        _, draws = budget.longer(held, CHAIN, 130, sums, NOW)
        assert draws[0].kept == 60 + 130

    def test_a_long_stream_is_paid_for_in_the_present_window(self) -> None:
        sums = Sums()
        of = terms(limit(period=Period.MINUTE, short=Short.LEASE, slice=50), stream=True)
        held = budget.hold(of, "id", Ask(50, leased=True), sums, NOW)
        later = NOW + 600_000
        counter = budget.longer(held, CHAIN, 51, sums, later)[1][0].counter
        assert counter.windows[0].start <= later < counter.windows[0].end


class TestRunningCalls:
    """Room that running calls hold comes back when they end: nobody is told that it is spent."""

    def test_a_moment_is_waited_first(self) -> None:
        of = terms(limit(Measure.MONEY, 10**7, period=Period.MONTH))
        held = Reading(10**7, FAR, FAR, held=10**7)
        then = refuse(of, Ask(500), held)
        assert then == Ask(500, patient=False)
        assert isinstance(then, Ask)
        refusal = refuse(of, then, held)
        assert isinstance(refusal, Refusal)
        assert refusal.kind is refusals.RATE_LIMIT
        assert refusal.retry
        assert dict(refusal.headers)["retry-after-ms"] == "1000"
        assert "Held" in refusal.message

    def test_no_cap_is_lowered_and_no_model_changed_for_it(self) -> None:
        sent = Cap(500, (), "max_tokens")
        of = terms(limit(Measure.MONEY, 10**7, period=Period.MONTH, fallback="small"), cap=sent)
        assert isinstance(refuse(of, Ask(500, patient=False), Reading(10**7, FAR, FAR, held=10**7)), Refusal)

    def test_where_the_limit_says_so_an_answer_is_shorter_all_the_same(self) -> None:
        of = terms(limit(amount=3_000, short=Short.CAP), extent=Extent(cap=5_000))
        assert refuse(of, Ask(2_500, patient=False), Reading(1_000, 1, SOON, held=1_000)) == Ask(
            2_000, attempt=2, patient=False
        )

    def test_what_is_spent_besides_speaks(self) -> None:
        of = terms(limit(), replace(limit(Measure.MONEY, 10**7, period=Period.MONTH), name="budget"))
        refusal = refuse(of, Ask(500), Reading(900, 60_000, SOON, held=900), Reading(10**7, FAR, FAR))
        assert isinstance(refusal, Refusal)
        assert refusal.limit == "budget"


class TestSoftLimits:
    """A limit that is not hard is held by one unit, so the call that crosses it passes."""

    OF = limit(amount=200, hard=False)

    def test_one_unit_is_held(self) -> None:
        assert units(terms(self.OF)) == [1]
        assert not terms(self.OF).bounded

    def test_what_was_used_is_booked(self) -> None:
        held = budget.hold(terms(self.OF), "id", Ask(500), Sums(), NOW)
        assert [draw.units for draw in charge.settled(held, Demand(1, 100, 500, 0), "one")] == [600]

    def test_a_spent_one_refuses_and_lowers_nothing(self) -> None:
        of = terms(replace(self.OF, short=Short.CAP), cap=Cap(400, (), "max_tokens"))
        assert isinstance(refuse(of, Ask(400), Reading(200, 60_000, SOON)), Refusal)


class TestThresholds:
    def told(self, *readings: Reading) -> list[list[tuple[str, int]]]:
        thresholds, sums = Thresholds(), Sums()
        of = terms(limit(amount=1000, warn_at=(50, 80, 100)))
        held = budget.hold(of, "id", Ask(500), sums, NOW)  # takes 600
        return [list(thresholds.crossed(held, Answer(True, (reading,)))) for reading in readings]

    def test_each_is_told_once(self) -> None:
        seen = self.told(*(Reading(used + 600, 1, 0, held=600) for used in (0, 500, 600, 850, 1_000, 1_100)))
        assert seen == [[], [("l", 50)], [], [("l", 80)], [("l", 100)], []]

    def test_what_running_calls_hold_does_not_count(self) -> None:
        assert self.told(Reading(1_000, 1, 0, held=1_000)) == [[]]

    def test_a_new_window_is_told_anew(self) -> None:
        full, empty = Reading(1_100, 1, 0, held=600), Reading(600, 1, 0, held=600)
        assert self.told(full, empty, full) == [[("l", 50)], [], [("l", 50)]]


class TestTold:
    def test_shadow_limits_are_told_apart(self) -> None:
        held = budget.hold(terms(limit(mode=Mode.SHADOW), limit()), "id", Ask(500), Sums(), NOW)
        answer = Answer(True, (Reading(2000, 1, FAR), Reading(10, 1)))
        assert budget.shadow_refusals(held, answer) == ("l",)
        assert len(budget.standings(held, answer)) == 1
