"""From the directory and the files to the steps between them."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import timedelta

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from extproc.gitops.access import Access
from extproc.gitops.delivery import DeliveredKey
from extproc.gitops.drift import Drift, DriftKind
from extproc.gitops.plan import Action, KeyAction, Plan
from extproc.gitops.view import FieldChange
from extproc.identity import keys
from extproc.limits.limit import Limit, Measure, Mode, Only, Period, Priority, Scope
from extproc.stores.memory import MemoryDirectory
from extproc.stores.ports import KeySpec, MintedKey, StopScope
from tests.support.gitops import (
    CHECKOUT,
    LEDGER,
    Clock,
    Shelf,
    applied,
    digests,
    key_of,
    planned,
    rotate,
    wished,
)


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def store(clock: Clock) -> MemoryDirectory:
    """With the team checkout, as its file declares it."""
    made = MemoryDirectory(clock)
    applied(made, wished(checkout=CHECKOUT), clock, Shelf())
    return made


def _by_hand(store: MemoryDirectory, name: str, user: str | None = None, lifetime: timedelta | None = None) -> None:
    key = keys.mint(bytes(32))
    spec = KeySpec(name, "checkout", user=user, lifetime=lifetime)
    store.create(MintedKey(spec, keys.digest(key), keys.hint(key)))


def _actions(plan: Plan) -> list[str]:
    """All steps as lines."""
    steps = [*(("area", step) for step in plan.areas), *(("team", step) for step in plan.teams)]
    named = [f"{step.action.value} {kind} {step.name}" for kind, step in steps]
    return [*named, *(f"{step.action.value} key {'/'.join(step.name)}" for step in plan.keys)]


# ---- areas and teams ------------------------------------------------------------------------------


def test_an_empty_directory_gets_everything(clock: Clock) -> None:
    plan = planned(MemoryDirectory(clock), wished(checkout=CHECKOUT, ledger=LEDGER), clock)
    assert _actions(plan) == [
        "add area finance",
        "add area retail",
        "add team checkout",
        "add team ledger",
        "mint key checkout/ci",
        "mint key checkout/laptop",
        "mint key ledger/batch",
    ]
    assert plan.drift == ()


def test_what_is_there_already_takes_nothing(store: MemoryDirectory, clock: Clock) -> None:
    plan = planned(store, wished(checkout=CHECKOUT), clock)
    assert (plan.is_empty(), plan.access, plan.drift) == (True, (), ())


def test_another_order_and_another_case_of_letters_are_no_change(store: MemoryDirectory, clock: Clock) -> None:
    text = CHECKOUT.replace("{user: bob@example.com}, {user: eve@example.com, role: viewer}", "HERE")
    other = text.replace("HERE", "{user: EVE@example.com, role: viewer}, {user: Bob@Example.com}").replace(
        "name: gpt-4o", "name: big"
    )
    assert other != CHECKOUT
    assert planned(store, wished(checkout=other), clock).is_empty()


@pytest.mark.parametrize(
    ("before", "after", "field", "values"),
    [
        ("area: retail", "area: finance", "area", ("retail", "finance")),
        ("name: gpt-4o", "name: gpt-4o-mini", "models", (["gpt-4o"], ["gpt-4o-mini"])),
        ("area: retail", "area: retail\ntier: premium", "tier", ("standard", "premium")),
        ("area: retail", "area: retail\nip_ranges: [10.0.0.0/8]", "ip_ranges", ([], ["10.0.0.0/8"])),
        ("area: retail", "area: retail\ntags: {a: b}", "tags", ({}, {"a": "b"})),
        ("area: retail", "area: retail\ngroups: [{id: g}]", "groups", ({}, {"g": "developer"})),
        ("11-22", "33-44", "service_accounts", ({"ci": "11-22"}, {"ci": "33-44"})),
        (
            "name: gpt-4o",
            "name: big, tokensPerMinute: 5",
            "limits",
            ({}, {"gpt-4o/tokens-per-minute": "tokens 5 per minute by team, model; only models gpt-4o"}),
        ),
        (
            "area: retail",
            "area: retail\nlimits: {all: {concurrent: 5}}",
            "limits",
            ({}, {"all": "concurrent 5 by team"}),
        ),
        ("area: retail", "area: retail\nredaction: strict", "redaction", ("default", "strict")),
        ("area: retail", "area: retail\nguardrails: open", "guardrails", ("default", "open")),
        ("area: retail", "area: retail\nproviders: [openai, azure]", "providers", (["all"], ["azure", "openai"])),
        ("area: retail", "area: retail\nregions: [eu]", "regions", (["all"], ["eu"])),
    ],
)
def test_a_change_of_a_team_is_told_field_by_field(
    store: MemoryDirectory, clock: Clock, before: str, after: str, field: str, values: tuple[object, object]
) -> None:
    (step,) = planned(store, wished(checkout=CHECKOUT.replace(before, after)), clock).teams
    assert (step.action, step.name) == (Action.CHANGE, "checkout")
    assert [(change.field, change.before, change.after) for change in step.fields] == [(field, *values)]


def test_a_member_that_comes_goes_and_changes(store: MemoryDirectory, clock: Clock) -> None:
    text = CHECKOUT.replace("eve@example.com, role: viewer", "eve@example.com, role: team_admin").replace(
        "anna@", "amy@"
    )
    (step,) = planned(store, wished(checkout=text), clock).teams
    people = {"bob@example.com": "developer"}
    assert step.fields == (
        FieldChange("owner", "anna@example.com", "amy@example.com"),
        FieldChange(
            "members",
            {"anna@example.com": "team_admin", **people, "eve@example.com": "viewer"},
            {"amy@example.com": "team_admin", **people, "eve@example.com": "team_admin"},
        ),
    )


def test_a_file_that_is_gone_takes_the_team_and_all_its_keys(store: MemoryDirectory, clock: Clock) -> None:
    _by_hand(store, "by-hand")
    plan = planned(store, wished(), clock)
    assert _actions(plan) == [
        "remove team checkout",
        "revoke key checkout/by-hand",
        "revoke key checkout/ci",
        "revoke key checkout/laptop",
    ]
    assert {step.reason for step in plan.keys} == {"the team is removed"}


# ---- limits ---------------------------------------------------------------------------------------

LIMITED = """\
area: retail
owner: anna@example.com
models:
  - {name: big, tokensPerMinute: 5000, requestsPerMinute: 10}
  - {name: gpt-4o-mini}
limits:
  month: {money: 500, per: month, zone: Europe/Zurich, only: {models: [big]}, fallback: gpt-4o-mini}
  all: {concurrent: 5, scope: [model, user]}
keys:
  - {name: ci, priority: low, limits: {minute: {requests: 3, per: minute, mode: shadow}}}
"""
CALLS = Limit(
    "gpt-4o/requests-per-minute",
    Measure.REQUESTS,
    10,
    "team/checkout",
    (Scope.TEAM, Scope.MODEL),
    sliding=60_000,
    only=Only(models=frozenset({"gpt-4o"})),
)


def test_limits_as_a_file_declares_them() -> None:
    declared = wished(checkout=LIMITED).declared
    assert declared.teams["checkout"].limits == (
        Limit("all", Measure.CONCURRENT, 5, "team/checkout", (Scope.USER, Scope.MODEL)),
        CALLS,
        replace(CALLS, name="gpt-4o/tokens-per-minute", measure=Measure.TOKENS, amount=5000),
        Limit(
            "month",
            Measure.MONEY,
            500 * 10**9,
            "team/checkout",
            (Scope.TEAM,),
            period=Period.MONTH,
            zone="Europe/Zurich",
            only=Only(models=frozenset({"gpt-4o"})),
            warn_at=(50, 80, 100),
            fallback="gpt-4o-mini",
        ),
    )
    (key,) = declared.keys.values()
    minute = Limit("minute", Measure.REQUESTS, 3, scope=(Scope.KEY,), sliding=60_000, mode=Mode.SHADOW)
    assert (key.limits, key.priority) == ((minute,), Priority.LOW)


def test_per_minute_beside_every_model_is_of_each_of_them() -> None:
    text = 'area: retail\nowner: anna@example.com\nmodels: [{name: "*", requestsPerMinute: 10}]\n'
    (limit,) = wished(checkout=text).declared.teams["checkout"].limits
    assert limit == replace(CALLS, name="*/requests-per-minute", only=Only())


def test_a_limit_that_leaves_or_changes_is_told_by_its_name(clock: Clock) -> None:
    store = MemoryDirectory(clock)
    applied(store, wished(checkout=LIMITED), clock, Shelf())
    assert planned(store, wished(checkout=LIMITED), clock).is_empty()
    text = LIMITED.replace("tokensPerMinute: 5000, ", "").replace("concurrent: 5", "concurrent: 6")
    (step,) = planned(store, wished(checkout=text), clock).teams
    (change,) = step.fields
    assert isinstance(change.before, dict)
    assert isinstance(change.after, dict)
    assert change.before.keys() - change.after.keys() == {"gpt-4o/tokens-per-minute"}
    assert (change.before["all"], change.after["all"]) == (
        "concurrent 5 by user, model",
        "concurrent 6 by user, model",
    )
    applied(store, wished(checkout=text), clock, Shelf())
    assert [limit.amount for limit in store.state().teams[0].limits] == [6, 10, 500 * 10**9]


def test_limits_in_another_order_are_no_change(clock: Clock) -> None:
    store = MemoryDirectory(clock)
    applied(store, wished(checkout=LIMITED), clock, Shelf())
    month, every = LIMITED.splitlines(keepends=True)[6:8]
    other = LIMITED.replace(month + every, every.replace("[model, user]", "[user, model]") + month)
    assert other != LIMITED
    assert planned(store, wished(checkout=other), clock).is_empty()


# ---- keys -----------------------------------------------------------------------------------------


def test_a_key_that_left_the_file_is_revoked(store: MemoryDirectory, clock: Clock) -> None:
    text = CHECKOUT.replace("  - {name: laptop, user: bob@example.com}\n", "")
    plan = planned(store, wished(checkout=text), clock)
    assert _actions(plan) == ["revoke key checkout/laptop"]
    assert plan.keys[0].reason == "left the file"


@pytest.mark.parametrize(
    ("before", "after", "field"),
    [
        ("prod", "test", "environment"),
        ("90d", "91d", "lifetime"),
        (", lifetime: 90d", "", "lifetime"),
        ("service_account: ci, ", "", "service_account"),
        ("laptop, user: bob@", "laptop, user: anna@", "user"),
        ("name: laptop", "name: laptop, models: [big]", "models"),
        ("name: laptop", "name: laptop, surfaces: [chat]", "surfaces"),
        ("name: laptop", "name: laptop, ip_ranges: [10.0.0.1]", "ip_ranges"),
        ("name: laptop", "name: laptop, limits: {all: {concurrent: 5}}", "limits"),
        ("name: laptop", "name: laptop, priority: low", "priority"),
    ],
)
def test_a_change_of_a_key_is_told_and_the_key_stays(
    store: MemoryDirectory, clock: Clock, before: str, after: str, field: str
) -> None:
    (step,) = planned(store, wished(checkout=CHECKOUT.replace(before, after)), clock).keys
    assert step.action is KeyAction.CHANGE
    assert [change.field for change in step.fields] == [field]
    assert step.ids == (key_of(store, *step.name).id,)


def test_an_expired_key_is_minted_anew_and_the_old_one_revoked(store: MemoryDirectory, clock: Clock) -> None:
    old = key_of(store, "checkout", "ci")
    clock.advance(timedelta(days=90))
    shelf = Shelf()
    plan = applied(store, wished(checkout=CHECKOUT), clock, shelf)
    assert _actions(plan) == ["renew key checkout/ci"]
    assert plan.keys[0].reason == "has expired"
    new = key_of(store, "checkout", "ci")
    assert (new.expires_at, new.id == old.id) == (clock() + timedelta(days=90), False)
    assert digests(store)[new.id] == keys.digest(shelf.keys["checkout", "ci"].secret)
    assert old.id not in digests(store)
    assert shelf.keys["checkout", "ci"].expires_at == clock() + timedelta(days=90)


def test_a_key_that_is_older_than_its_new_lifetime_is_minted_anew(store: MemoryDirectory, clock: Clock) -> None:
    clock.advance(timedelta(days=40))
    (step,) = planned(store, wished(checkout=CHECKOUT.replace("90d", "30d")), clock).keys
    assert (step.action, step.reason) == (KeyAction.RENEW, "is older than its new lifetime")


def test_a_key_that_works_has_ended_by_the_time_that_another_is_delivered_over_it(
    store: MemoryDirectory, clock: Clock
) -> None:
    old = key_of(store, "checkout", "ci")
    rotate(store, "checkout/ci", timedelta(days=60))
    clock.advance(timedelta(days=40))
    ends: list[object] = []

    class Looking(Shelf):
        def deliver(self, keys: Sequence[DeliveredKey]) -> None:
            ends.extend(key.expires_at for key in store.state().keys if key.spec.name == "ci")
            super().deliver(keys)

    shelf, short = Looking(), wished(checkout=CHECKOUT.replace("90d", "30d"))
    applied(store, short, clock, shelf)
    assert ends == [old.created_at + timedelta(days=30)] * 2, "both keys of the rotation"
    assert digests(store)[key_of(store, "checkout", "ci").id] == keys.digest(shelf.keys["checkout", "ci"].secret)
    assert planned(store, short, clock).is_empty()


def test_both_keys_of_a_rotation_are_narrowed_and_the_overlap_ends_as_it_would(
    store: MemoryDirectory, clock: Clock
) -> None:
    rotate(store, "checkout/laptop", timedelta(days=7))
    clock.advance(timedelta(days=1))
    narrow = wished(checkout=CHECKOUT.replace("name: laptop", "name: laptop, surfaces: [chat]"))
    plan = applied(store, narrow, clock, None)
    assert [(step.action, len(step.ids)) for step in plan.keys] == [(KeyAction.CHANGE, 2)]
    both = [key for key in store.state().keys if key.spec.name == "laptop"]
    assert [key.spec.surfaces for key in both] == [("chat",), ("chat",)]
    assert [key.expires_at for key in both] == [clock() + timedelta(days=6), None]
    assert planned(store, narrow, clock).is_empty()


def test_both_keys_of_a_rotation_leave_with_the_file(store: MemoryDirectory, clock: Clock) -> None:
    rotate(store, "checkout/laptop", timedelta(days=7))
    text = CHECKOUT.replace("  - {name: laptop, user: bob@example.com}\n", "")
    (step,) = planned(store, wished(checkout=text), clock).keys
    assert len(step.ids) == 2


def test_what_a_rotation_left_follows_the_file_when_its_successor_is_revoked(
    store: MemoryDirectory, clock: Clock
) -> None:
    rotate(store, "checkout/laptop", timedelta(days=7))
    store.revoke(key_of(store, "checkout", "laptop").id)
    narrow = wished(checkout=CHECKOUT.replace("name: laptop", "name: laptop, surfaces: [chat]"))
    plan = applied(store, narrow, clock, None)
    assert [(step.action, len(step.ids)) for step in plan.keys] == [(KeyAction.CHANGE, 1)]
    assert [one.kind for one in plan.drift] == [DriftKind.REVOKED]
    assert planned(store, narrow, clock).is_empty()


def test_what_a_rotation_left_of_a_key_made_by_hand_is_not_the_file_s(clock: Clock) -> None:
    store = MemoryDirectory(clock)
    applied(store, wished(checkout=CHECKOUT.partition("keys:")[0]), clock, None)
    _by_hand(store, "ci")
    rotate(store, "checkout/ci", timedelta(days=7))
    store.revoke(key_of(store, "checkout", "ci").id)
    applied(store, wished(checkout=CHECKOUT), clock, Shelf())
    assert planned(store, wished(checkout=CHECKOUT), clock).is_empty()
    assert [key.spec.declared for key in store.state().keys if key.spec.name == "ci"] == [False, False, True]


# ---- drift: the database wins ---------------------------------------------------------------------


def _drift(store: MemoryDirectory, clock: Clock, text: str = CHECKOUT) -> list[Drift]:
    """The drift, where nothing else is to be done."""
    plan = planned(store, wished(checkout=text), clock)
    assert plan.is_empty()
    return list(plan.drift)


def test_a_revoked_key_is_never_minted_again_under_its_name(store: MemoryDirectory, clock: Clock) -> None:
    store.revoke("checkout/ci")
    told = "revoked 2026-01-31 12:00 UTC: its name is spent; choose another name, or take it out of the file"
    assert _drift(store, clock) == [Drift(DriftKind.REVOKED, "checkout/ci", told)]
    renamed = CHECKOUT.replace("name: ci, service_account", "name: ci-2, service_account")
    assert _actions(planned(store, wished(checkout=renamed), clock)) == ["mint key checkout/ci-2"]


def test_a_suspended_key_stays_so_even_when_it_expires(store: MemoryDirectory, clock: Clock) -> None:
    store.suspend("checkout/ci")
    clock.advance(timedelta(days=100))
    told = "suspended 2026-01-31 12:00 UTC: stays so until resumed"
    assert _drift(store, clock) == [Drift(DriftKind.SUSPENDED, "checkout/ci", told)]


def test_a_suspended_key_is_narrowed_and_counts_for_nobody(store: MemoryDirectory, clock: Clock) -> None:
    store.suspend("checkout/laptop")
    plan = planned(store, wished(checkout=CHECKOUT.replace("laptop,", "laptop, surfaces: [chat],")), clock)
    assert [step.action for step in plan.keys] == [KeyAction.CHANGE]
    assert plan.access == ()


def test_a_key_made_by_hand_is_told_and_left(store: MemoryDirectory, clock: Clock) -> None:
    _by_hand(store, "quick", user="zoe@example.com")
    told = "made by hand 2026-01-31 12:00 UTC, for zoe@example.com, who is not in the team"
    assert _drift(store, clock) == [Drift(DriftKind.HAND_MADE, "checkout/quick", told)]
    store.revoke("checkout/quick")
    assert _drift(store, clock) == []


def test_a_name_that_a_hand_made_key_has_is_not_minted(clock: Clock) -> None:
    store = MemoryDirectory(clock)
    applied(store, wished(checkout=CHECKOUT.partition("keys:")[0]), clock, None)
    _by_hand(store, "ci", lifetime=timedelta(days=1))
    clock.advance(timedelta(days=2))  # an expired key has its name still
    plan = planned(store, wished(checkout=CHECKOUT), clock)
    assert _actions(plan) == ["mint key checkout/laptop"]
    assert [(one.kind, one.subject) for one in plan.drift] == [(DriftKind.NAME_TAKEN, "checkout/ci")]
    store.revoke("checkout/ci")
    assert _actions(planned(store, wished(checkout=CHECKOUT), clock))[0] == "mint key checkout/ci"


def test_a_rotated_key_is_told_since_what_was_delivered_is_out_of_date(store: MemoryDirectory, clock: Clock) -> None:
    rotate(store, "checkout/ci", timedelta(hours=1))
    told = "rotated 2026-01-31 12:00 UTC: what was delivered is out of date"
    assert _drift(store, clock) == [Drift(DriftKind.ROTATED, "checkout/ci", told)]


def test_emergency_stops_are_told_first(store: MemoryDirectory, clock: Clock) -> None:
    store.revoke("checkout/ci")
    store.stop(StopScope.EVERYTHING, "", "")
    store.stop(StopScope.KEY, key_of(store, "checkout", "laptop").id, "found on a page")
    assert [(one.subject, one.text) for one in _drift(store, clock)] == [
        ("everything", "emergency stop since 2026-01-31 12:00 UTC"),
        ("key checkout/laptop", "emergency stop since 2026-01-31 12:00 UTC: found on a page"),
        (
            "checkout/ci",
            "revoked 2026-01-31 12:00 UTC: its name is spent; choose another name, or take it out of the file",
        ),
    ]


# ---- who gains, who loses -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("before", "after", "access"),
    [
        (
            "[{name: gpt-4o}]",
            "[{name: gpt-4o-mini}]",
            [
                Access("checkout", "gpt-4o", {}, {"users": 2, "service accounts": 1, "keys": 2}),
                Access("checkout", "gpt-4o-mini", {"users": 2, "service accounts": 1, "keys": 2}, {}),
            ],
        ),
        ("eve@example.com, role: viewer", "eve@example.com", [Access("checkout", "gpt-4o", {"users": 1}, {})]),
        (
            "{user: eve@example.com, role: viewer}",
            "{user: new@example.com}",
            [Access("checkout", "gpt-4o", {"users": 1}, {})],
        ),
        ("  - {name: laptop, user: bob@example.com}", "", [Access("checkout", "gpt-4o", {}, {"keys": 1})]),
        ("name: laptop", "name: other", [Access("checkout", "gpt-4o", {"keys": 1}, {"keys": 1})]),
        ("[{name: gpt-4o}]", "[]", [Access("checkout", "gpt-4o", {}, {"users": 2, "service accounts": 1, "keys": 2})]),
        ("area: retail", "area: finance", []),
        ("area: retail", "area: retail\ntier: premium", []),
    ],
)
def test_who_gains_and_who_loses(
    store: MemoryDirectory, clock: Clock, before: str, after: str, access: list[Access]
) -> None:
    plan = planned(store, wished(checkout=CHECKOUT.replace(before, after)), clock)
    assert not plan.is_empty()
    assert list(plan.access) == access


def test_every_model_is_those_that_are_open_to_the_tier(clock: Clock) -> None:
    store = MemoryDirectory(clock)
    applied(store, wished(ledger=LEDGER), clock, Shelf())
    plan = planned(store, wished(ledger=LEDGER.replace("models", "tier: premium\nmodels")), clock)
    assert plan.access == (Access("ledger", "claude", {"users": 1, "keys": 1}, {}),)


# ---- laws -----------------------------------------------------------------------------------------

MODELS = st.sampled_from(["[]", "[{name: gpt-4o}]", "[{name: gpt-4o}, {name: gpt-4o-mini}]", '[{name: "*"}]'])
LIVES = st.sampled_from(["", ", lifetime: 30d", ", lifetime: 90d"])
OF_TEAMS = st.sampled_from(["", "limits: {a: {requests: 5, per: day}}", "limits: {a: {concurrent: 5, scope: key}}"])
OF_KEYS = st.sampled_from(["", ", limits: {a: {tokens: 5, per: 90s}}", ", limits: {a: {money: 0.5, per: day}}"])
PRIORITIES = st.sampled_from(["", ", priority: low"])


@st.composite
def files(draw: st.DrawFn) -> dict[str, str]:
    """One folder of team files."""
    found = {}
    for team in draw(st.sets(st.sampled_from(["one", "two"]))):
        names = draw(st.sets(st.sampled_from(["a", "b", "c"])))
        listed = "".join(
            f"  - {{name: {name}{draw(LIVES)}{draw(OF_KEYS)}{draw(PRIORITIES)}}}\n" for name in sorted(names)
        )
        keys_text = f"keys:\n{listed}" if names else ""
        found[team] = f"area: retail\nowner: anna@example.com\nmodels: {draw(MODELS)}\n{draw(OF_TEAMS)}\n{keys_text}"
    return found


def _meddle(store: MemoryDirectory, clock: Clock, what: str, which: int, number: int) -> None:
    """Something that a person does in the database."""
    known = [key for key in store.state().keys if key.revoked_at is None and key.replaced_by is None]
    if what == "wait":
        clock.advance(timedelta(days=20))
    elif what == "create" and store.state().teams:
        team = store.state().teams[which % len(store.state().teams)].name
        if all((key.spec.team, key.spec.name) != (team, "a") for key in known):
            made = keys.mint(number.to_bytes(32, "big"))
            store.create(MintedKey(KeySpec("a", team), keys.digest(made), keys.hint(made)))
    elif known:
        key = known[which % len(known)]
        working = key.suspended_at is None and (key.expires_at is None or key.expires_at > clock())
        if what == "rotate" and working:
            rotate(store, key.id, timedelta(days=7), number)
        elif what == "revoke":
            store.revoke(key.id)
        elif what == "suspend":
            store.suspend(key.id)


MEDDLING = st.tuples(st.sampled_from(["wait", "create", "rotate", "revoke", "suspend"]), st.integers(0, 9))


@settings(max_examples=300, deadline=None)
@given(rounds=st.lists(st.tuples(files(), st.lists(MEDDLING, max_size=4)), min_size=1, max_size=5))
def test_laws(rounds: list[tuple[dict[str, str], list[tuple[str, int]]]]) -> None:
    clock = Clock()
    store, shelf = MemoryDirectory(clock), Shelf()
    number = 0
    for texts, meddling in rounds:
        wish = wished(**texts)
        held = {key.id for key in store.state().keys if key.revoked_at is not None or key.suspended_at is not None}
        plan = applied(store, wish, clock, shelf)
        after = store.state()
        assert planned(store, wish, clock).is_empty(), "a second run changes nothing"
        assert {team.name: team for team in after.teams} == dict(wish.declared.teams)
        still = {key.id for key in after.keys if key.revoked_at is not None or key.suspended_at is not None}
        assert held <= still, "what was held in the database stays held"
        unrevoked = digests(store)
        for spec in plan.to_mint():
            secret = shelf.keys[spec.team, spec.name].secret
            assert keys.digest(secret) in unrevoked.values(), "what was delivered is in force"
        working = [key for key in after.keys if key.revoked_at is None]
        assert {key.spec.team for key in working} <= wish.declared.teams.keys()
        for key in working:
            if key.spec.declared:
                wanted = wish.declared.keys[key.spec.team, key.spec.name]
                ended = key.expires_at is not None and key.expires_at <= clock()
                assert ended or key.spec == wanted, "what is in force is what the file says"
        for what, which in meddling:
            number += 1
            _meddle(store, clock, what, which, number)


@pytest.mark.parametrize("hold", [MemoryDirectory.revoke, MemoryDirectory.suspend])
def test_no_apply_brings_back_what_was_held(
    store: MemoryDirectory, clock: Clock, hold: Callable[[MemoryDirectory, str], object]
) -> None:
    hold(store, "checkout/ci")
    for text in (CHECKOUT, CHECKOUT.replace("90d", "10d"), CHECKOUT.partition("keys:")[0], CHECKOUT):
        applied(store, wished(checkout=text), clock, Shelf())
        clock.advance(timedelta(days=200))
        ours = [key for key in store.state().keys if key.spec.name == "ci"]
        assert all(key.revoked_at is not None or key.suspended_at is not None for key in ours)
