"""What every store of the directory must do. The one in memory is the specification; the databases must agree.

PostgreSQL takes part when SLUICE_TEST_POSTGRES holds the URL of a database that may be emptied.
"""

import threading
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from extproc.identity import keys
from extproc.limits.limit import Limit, Measure, Mode, Only, Period, Priority, Raise, Scope, Short
from extproc.stores.ports import (
    AreaRecord,
    AreaRemoved,
    ChangeSet,
    Conflict,
    DirectoryStore,
    KeyChange,
    KeyRecord,
    KeySpec,
    Member,
    MemberKind,
    MintedKey,
    NameTaken,
    Stop,
    StopLifted,
    StopScope,
    TeamRemoved,
    UnknownKey,
    UnknownTeam,
)
from tests.support.stores import START, Clock, Ground, apply, changes, create, minted, team

HOUR = timedelta(hours=1)
MINUTE = Limit("minute", Measure.TOKENS, 1000, scope=(Scope.KEY, Scope.MODEL), sliding=60_000)
BUDGET = Limit(
    "budget",
    Measure.MONEY,
    2**53 - 1,
    period=Period.MONTH,
    zone="Europe/Zurich",
    only=Only(models=frozenset({"gpt-4o", "claude"}), priority=Priority.LOW, low_route=False),
    mode=Mode.SHADOW,
    allow_on_error=True,
    warn_at=(50, 80, 100),
    raised=Raise(2**53 - 1, 1_800_000_000_000),
    kept_for_high=20,
    short=Short.LEASE,
    slice=64,
    fallback="claude",
    status=503,
    message="Später.",
)
SPECS = {
    "nothing said": KeySpec("app"),
    "everything said": KeySpec(
        name="app",
        team="payments",
        user="ann@example.com",
        service_account="ci",
        environment="production",
        lifetime=timedelta(days=90),
        models=("gpt-4o", "claude"),
        surfaces=("chat", "embeddings"),
        ip_ranges=("10.1.0.0/16", "2001:db8::/32"),
        declared=True,
        limits=(MINUTE, BUDGET),
        priority=Priority.LOW,
    ),
    "nothing allowed": KeySpec("app", models=(), surfaces=()),
}


@pytest.fixture
def store(ground: Ground) -> DirectoryStore:
    """One view of it, with a team to make keys in."""
    apply(ground.directory, teams=(team("payments"),))
    return ground.directory


@pytest.fixture
def same(ground: Ground, store: DirectoryStore) -> DirectoryStore:
    """Another view of it."""
    return ground.same_directory


def _in_force(store: DirectoryStore) -> dict[str, KeyRecord]:
    """What workers are told of keys, by digest."""
    return {change.digest: change.record for change in changes(store) if isinstance(change, KeyChange)}


class _Unchanged:
    """What a refused write leaves behind: nothing at all."""

    def __init__(self, store: DirectoryStore) -> None:
        self._store = store

    def __enter__(self) -> None:
        self._before = (self._store.state(), changes(self._store))

    def __exit__(self, *_: object) -> None:
        assert (self._store.state(), changes(self._store)) == self._before


class TestCreate:
    @pytest.mark.parametrize("spec", SPECS.values(), ids=SPECS.keys())
    def test_a_key_is_returned_as_every_worker_will_read_it(
        self, store: DirectoryStore, same: DirectoryStore, spec: KeySpec
    ) -> None:
        key = keys.mint(b"a" * 32)
        made = store.create(MintedKey(spec, keys.digest(key), keys.hint(key)))
        end = None if spec.lifetime is None else START + spec.lifetime
        assert made == KeyRecord(made.id, spec, keys.hint(key), made.id, START, end)
        assert same.state().keys == (made,)
        assert _in_force(same) == {keys.digest(key): made}

    def test_times_are_utc_whatever_the_clock_says(self, ground: Ground, clock: Clock) -> None:
        clock.time = datetime.fromisoformat("2026-02-01T03:30:00.000001+09:00")
        create(ground.directory, "app", lifetime=HOUR)
        (read,) = ground.same_directory.state().keys
        assert read.created_at == clock.time
        assert read.expires_at == clock.time + HOUR
        assert {read.created_at.tzinfo, read.expires_at.tzinfo} <= {UTC, clock.time.tzinfo}
        assert read.created_at.utcoffset() is not None

    def test_ids_tell_keys_apart(self, store: DirectoryStore) -> None:
        assert len({create(store, f"app-{number}").id for number in range(5)}) == 5

    def test_keys_are_listed_oldest_first_revoked_ones_too(self, store: DirectoryStore, clock: Clock) -> None:
        for name in ("c", "a", "b"):
            create(store, name)
            clock.advance(timedelta(seconds=1))
        store.revoke("a")
        assert [(key.spec.name, key.revoked_at) for key in store.state().keys] == [
            ("c", None),
            ("a", clock.time),
            ("b", None),
        ]

    def test_a_name_is_taken_in_its_team_until_its_key_is_revoked(
        self, store: DirectoryStore, same: DirectoryStore
    ) -> None:
        first = create(store, "app")
        with _Unchanged(store), pytest.raises(NameTaken):
            create(same, "app")
        theirs = create(same, "app", team="payments")
        store.revoke("/app")
        second = create(same, "app")
        assert {key.id for key in _in_force(store).values()} == {theirs.id, second.id}
        assert {key.id for key in store.state().keys} == {first.id, theirs.id, second.id}

    def test_an_expired_or_suspended_key_keeps_its_name(self, store: DirectoryStore, clock: Clock) -> None:
        made = create(store, "app", lifetime=HOUR)
        held = create(store, "held")
        store.suspend("held")
        clock.advance(2 * HOUR)
        assert {key.id for key in _in_force(store).values()} == {made.id, held.id}
        for name in ("app", "held"):
            with pytest.raises(NameTaken):
                create(store, name)

    def test_a_team_must_be_there(self, store: DirectoryStore) -> None:
        with _Unchanged(store), pytest.raises(UnknownTeam):
            create(store, "app", team="nobody")
        apply(store, teams_removed=("payments",))
        with _Unchanged(store), pytest.raises(UnknownTeam):
            create(store, "app", team="payments")
        apply(store, teams=(team("payments"),))
        assert create(store, "app", team="payments").spec.team == "payments"

    def test_any_text_is_a_name(self, store: DirectoryStore) -> None:
        names = ["Ünïcode \U0001f511", "'; DROP TABLE keys; --", "[bold]", "a" * 100, "%s", "\\", "a/b", ":x"]
        for name in names:
            create(store, name)
        assert {key.spec.name for key in store.state().keys} == set(names)
        assert [[key.spec.name for key in store.revoke(name)] for name in names] == [[name] for name in names]


class TestWhich:
    @pytest.mark.parametrize("by", [lambda key: key.id, lambda key: "app", lambda key: "/app", lambda key: key.hint])
    def test_a_key_goes_by_id_name_and_hint(self, store: DirectoryStore, by: Callable[[KeyRecord], str]) -> None:
        made, other = create(store, "app"), create(store, "other")
        assert [key.id for key in store.revoke(by(made))] == [made.id]
        assert [key.id for key in _in_force(store).values()] == [other.id]

    def test_and_by_its_team_and_name(self, store: DirectoryStore) -> None:
        create(store, "app")
        made = create(store, "app", team="payments")
        assert [key.id for key in store.suspend("payments/app")] == [made.id]

    @pytest.mark.parametrize(
        "which", ["", "nobody", "app", "%", "_ept", "payments/kept", "' OR 1=1 --", "k\u0435pt", "KEPT", "key_"]
    )
    @pytest.mark.parametrize("verb", ["revoke", "suspend", "resume", "rotate"])
    def test_what_fits_no_key_does_nothing(self, store: DirectoryStore, verb: str, which: str) -> None:
        create(store, "app")
        store.revoke("app")
        create(store, "kept")
        with _Unchanged(store), pytest.raises(UnknownKey):
            _change(store, verb, which)

    @pytest.mark.parametrize("verb", ["revoke", "suspend", "resume", "rotate"])
    def test_nor_what_fits_two(self, store: DirectoryStore, verb: str) -> None:
        create(store, "app")
        create(store, "app", team="payments")
        for name in ("one", "two"):
            store.create(MintedKey(KeySpec(name), keys.digest(name), "sk-sluice-…same"))
        for which in ("app", "sk-sluice-…same"):
            with _Unchanged(store), pytest.raises(UnknownKey):
                _change(store, verb, which)

    def test_an_id_wins_over_a_name_that_is_spelled_like_it(self, store: DirectoryStore) -> None:
        made = create(store, "app")
        create(store, made.id)
        assert [key.spec.name for key in store.revoke(made.id)] == ["app"]

    @pytest.mark.parametrize("name", ["app", "payments/app"])
    def test_a_name_means_the_older_keys_of_its_line_too(
        self, store: DirectoryStore, same: DirectoryStore, clock: Clock, name: str
    ) -> None:
        """Who revokes a leaked key by its name must not leave the one in the overlap working."""
        ids = [create(store, "app", team="payments").id]
        create(store, "other")
        for _ in range(2):
            clock.advance(timedelta(seconds=1))
            ids.append(_rotate(store, "app", 2 * HOUR)[1].id)
        suspended, resumed = store.suspend(name), same.resume(name)
        revoked = store.revoke(name)
        assert [[key.id for key in done] for done in (suspended, resumed, revoked)] == [ids] * 3
        assert [key.suspended_at for key in (*suspended, *resumed)] == [clock.time] * 3 + [None] * 3
        assert [key.revoked_at for key in revoked] == [clock.time] * 3
        assert [key.spec.name for key in _in_force(same).values()] == ["other"]

    @pytest.mark.parametrize("by", [lambda key: key.id, lambda key: key.hint])
    @pytest.mark.parametrize("which", [0, 1])
    def test_a_hint_or_an_id_means_one_of_them(
        self, store: DirectoryStore, by: Callable[[KeyRecord], str], which: int
    ) -> None:
        create(store, "app")
        both = _rotate(store, "app")
        meant, other = both[which], both[1 - which]
        for verb in (store.suspend, store.resume, store.revoke):
            assert [key.id for key in verb(by(meant))] == [meant.id]
        assert list(_in_force(store).values()) == [other]

    def test_a_name_means_what_is_left_of_them(self, store: DirectoryStore, clock: Clock) -> None:
        create(store, "app")
        old, new = _rotate(store, "app")
        store.revoke(new.id)
        clock.advance(timedelta(seconds=1))
        again = create(store, "app")
        assert [key.id for key in store.revoke("app")] == [old.id, again.id]

    def test_what_is_done_to_some_of_them_already_is_done_to_the_others(
        self, store: DirectoryStore, clock: Clock
    ) -> None:
        create(store, "app")
        clock.advance(timedelta(seconds=1))
        old, _ = _rotate(store, "app")
        first = clock.time
        store.suspend(old.id)
        clock.advance(HOUR / 2)
        assert [key.suspended_at for key in store.suspend("app")] == [first, clock.time]


def _change(store: DirectoryStore, verb: str, which: str) -> None:
    if verb == "rotate":
        _rotate(store, which)
    else:
        {"revoke": store.revoke, "suspend": store.suspend, "resume": store.resume}[verb](which)


def _rotate(store: DirectoryStore, which: str, overlap: timedelta = HOUR) -> tuple[KeyRecord, KeyRecord]:
    new = minted("unused")
    return store.rotate(which, new.digest, new.hint, overlap)


class TestSuspendAndRevoke:
    def test_a_suspended_key_is_told_with_when(self, store: DirectoryStore, same: DirectoryStore, clock: Clock) -> None:
        made = create(store, "app")
        clock.advance(HOUR)
        assert store.suspend("app") == (replace(made, suspended_at=clock.time),)
        assert list(_in_force(same).values()) == [replace(made, suspended_at=clock.time)]
        assert same.resume("app") == (made,)
        assert list(_in_force(store).values()) == [made]

    def test_a_revoked_key_is_gone_for_workers_and_kept_for_people(
        self, store: DirectoryStore, same: DirectoryStore, clock: Clock
    ) -> None:
        made = create(store, "app")
        clock.advance(HOUR)
        assert store.revoke("app") == (replace(made, revoked_at=clock.time),)
        assert same.state().keys == (replace(made, revoked_at=clock.time),)
        assert _in_force(same) == {}

    def test_doing_it_again_changes_nothing(self, store: DirectoryStore, clock: Clock) -> None:
        made = create(store, "app")
        with _Unchanged(store):
            assert store.resume("app") == (made,)
        for verb in (store.suspend, store.revoke):
            done = verb(made.id)
            clock.advance(HOUR)
            with _Unchanged(store):
                assert verb(made.id) == done

    @pytest.mark.parametrize("verb", ["suspend", "resume", "rotate"])
    def test_a_revoked_key_stays_as_it_is(self, store: DirectoryStore, verb: str) -> None:
        made = create(store, "app")
        store.revoke(made.id)
        with _Unchanged(store), pytest.raises(UnknownKey):
            _change(store, verb, made.id)

    def test_a_suspended_key_may_be_revoked(self, store: DirectoryStore, clock: Clock) -> None:
        made = create(store, "app")
        store.suspend("app")
        assert store.revoke("app") == (replace(made, suspended_at=clock.time, revoked_at=clock.time),)


class TestRotate:
    def test_the_successor_has_the_rights_and_a_lifetime_of_its_own(
        self, store: DirectoryStore, same: DirectoryStore, clock: Clock
    ) -> None:
        first = store.create(MintedKey(SPECS["everything said"], "00" * 32, "hint-1"))
        clock.advance(timedelta(days=30))
        old, new = store.rotate("payments/app", "11" * 32, "hint-2", HOUR)
        assert old == replace(first, replaced_by=new.id, expires_at=clock.time + HOUR)
        end = clock.time + timedelta(days=90)
        assert new == KeyRecord(new.id, first.spec, "hint-2", first.id, clock.time, end)
        assert same.state().keys == (old, new)
        assert _in_force(same) == {"00" * 32: old, "11" * 32: new}

    def test_a_lineage_goes_on_over_many_rotations(self, store: DirectoryStore, clock: Clock) -> None:
        ids = [create(store, "app").id]
        for _ in range(3):
            clock.advance(HOUR)
            ids.append(_rotate(store, "app", 10 * HOUR)[1].id)
        assert [(key.id, key.replaced_by, key.lineage) for key in store.state().keys] == [
            (ids[0], ids[1], ids[0]),
            (ids[1], ids[2], ids[0]),
            (ids[2], ids[3], ids[0]),
            (ids[3], None, ids[0]),
        ]

    @pytest.mark.parametrize(("lifetime", "end"), [(None, 3), (timedelta(hours=2), 2), (timedelta(hours=5), 3)])
    def test_the_end_of_the_old_key_is_never_put_off(
        self, store: DirectoryStore, lifetime: timedelta | None, end: int
    ) -> None:
        create(store, "app", lifetime=lifetime)
        old, new = _rotate(store, "app", 3 * HOUR)
        assert old.expires_at == START + end * HOUR
        assert new.expires_at == (None if lifetime is None else START + lifetime)

    def test_without_overlap_the_old_key_ends_at_once(self, store: DirectoryStore, clock: Clock) -> None:
        create(store, "app")
        assert _rotate(store, "app", timedelta())[0].expires_at == clock.time

    def test_only_a_key_in_force_without_a_successor_is_rotated(self, store: DirectoryStore, clock: Clock) -> None:
        held, spent, old = create(store, "held"), create(store, "spent", lifetime=HOUR), create(store, "app")
        store.suspend("held")
        _rotate(store, "app", 5 * HOUR)
        clock.advance(HOUR)
        for key in (held, spent, old):
            with _Unchanged(store), pytest.raises(UnknownKey):
                _rotate(store, key.id)

    def test_the_name_stays_taken_until_the_successor_is_revoked(self, store: DirectoryStore) -> None:
        create(store, "app")
        old, new = _rotate(store, "app")
        with pytest.raises(NameTaken):
            create(store, "app")
        store.revoke(new.id)
        again = create(store, "app")
        assert {key.id for key in _in_force(store).values()} == {old.id, again.id}


ANN = Member(MemberKind.USER, "ann@example.com", "developer")
BOT = Member(MemberKind.SERVICE_ACCOUNT, "ci", "service_account", "11111111-2222")
CREW = Member(MemberKind.GROUP, "crew", "viewer")


class TestApply:
    def test_teams_and_areas_are_read_as_they_were_written(self, store: DirectoryStore, same: DirectoryStore) -> None:
        full = team(
            "full",
            models=("gpt-4o", "claude"),
            ip_ranges=("10.0.0.0/8",),
            tags=(("cost", "42"), ("a", "b")),
            members=(CREW, BOT, ANN),
            limits=(replace(MINUTE, owner="team/full"), replace(BUDGET, owner="team/full")),
            redaction="strict",
            guardrails="open",
            providers=("azure", "openai"),
            regions=("eu",),
            brought='{"backends": {"ours": {"url": "https://é.example"}}}',
        )
        every, none = team("every", models=None), team("none", models=())
        areas = (AreaRecord("ops", ("o@example.com", "p@example.com")), AreaRecord("lab"))
        revision = apply(store, areas=areas, teams=(full, every, none))
        state = same.state()
        ordered = replace(full, members=(CREW, BOT, ANN))
        assert state.revision == revision
        assert state.teams == (every, ordered, none, team("payments"))
        assert state.areas == (areas[1], areas[0])
        assert set(changes(same)) == {*areas, *state.teams}

    def test_what_teams_bring_is_read_apart_while_they_bring_it(
        self, store: DirectoryStore, same: DirectoryStore
    ) -> None:
        one, other = team("one", brought='{"a": 1}'), team("other", brought="no JSON")
        apply(store, teams=(one, other, team("plain")))
        assert same.brought() == {"one": '{"a": 1}', "other": "no JSON"}
        apply(store, teams=(replace(one, brought=""),), teams_removed=("other",))
        assert same.brought() == {}

    def test_members_are_read_by_kind_and_name(self, store: DirectoryStore) -> None:
        names = ["b", "Z", "a", "é", "_", "A"]
        given = [Member(kind, name, "developer") for name in names for kind in MemberKind]
        apply(store, teams=(team("full", members=tuple(given)),))
        wanted = tuple(sorted(given, key=lambda member: (member.kind.value, member.name)))
        assert store.state().teams[0].members == wanted

    def test_what_is_in_order_is_so_in_every_language(self, store: DirectoryStore) -> None:
        names = ["b", "Z", "a-a", "a", "aa", "_"]
        apply(store, areas=tuple(map(AreaRecord, names)), teams=tuple(map(team, names)))
        for name in names:
            store.stop(StopScope.USER, name, "")
        state = store.state()
        assert [area.name for area in state.areas] == sorted(names)
        assert [stop.name for stop in state.stops] == sorted(names)
        assert [one.name for one in state.teams] == sorted([*names, "payments"])

    def test_a_team_that_is_written_again_is_replaced_with_its_members(
        self, store: DirectoryStore, same: DirectoryStore
    ) -> None:
        limited = team("one", members=(ANN, BOT), limits=(replace(MINUTE, owner="team/one"),))
        apply(store, teams=(limited, team("two", members=(ANN,))))
        changed = team("one", tier="silver", members=(replace(ANN, role="team_admin"),))
        before = store.revision()
        apply(store, teams=(changed,))
        assert same.state().teams == (changed, team("payments"), team("two", members=(ANN,)))
        assert changes(same, before) == [changed]

    def test_what_is_removed_is_gone_and_told_once(self, store: DirectoryStore, same: DirectoryStore) -> None:
        apply(store, areas=(AreaRecord("lab"), AreaRecord("ops")), teams=(team("one", members=(ANN,)),))
        before = store.revision()
        apply(store, areas_removed=("lab",), teams_removed=("one",))
        assert same.state().teams == (team("payments"),)
        assert same.state().areas == (AreaRecord("ops"),)
        assert set(changes(same, before)) == {AreaRemoved("lab"), TeamRemoved("one")}
        assert set(changes(same)) == {team("payments"), AreaRecord("ops")}

    def test_what_comes_back_has_nothing_of_before(self, store: DirectoryStore) -> None:
        apply(store, areas=(AreaRecord("lab", ("o@example.com",)),), teams=(team("one", members=(ANN,)),))
        apply(store, areas_removed=("lab",), teams_removed=("one",))
        apply(store, areas=(AreaRecord("lab"),), teams=(team("one", members=(CREW,)),))
        assert set(changes(store)) == {team("payments"), AreaRecord("lab"), team("one", members=(CREW,))}

    def test_keys_are_minted_changed_and_revoked(
        self, store: DirectoryStore, same: DirectoryStore, clock: Clock
    ) -> None:
        kept, gone = create(store, "kept", team="payments"), create(store, "gone", team="payments")
        clock.advance(HOUR)
        new, wider = minted("new", team="payments", lifetime=HOUR), replace(kept.spec, models=None, declared=True)
        apply(store, keys_minted=(new,), keys_changed=((kept.id, wider),), keys_revoked=(gone.id,))
        by_name = {key.spec.name: key for key in same.state().keys}
        assert by_name["kept"] == replace(kept, spec=wider)
        assert by_name["gone"] == replace(gone, revoked_at=clock.time)
        made = by_name["new"]
        assert made == KeyRecord(made.id, new.spec, new.hint, made.id, clock.time, clock.time + HOUR)
        assert _in_force(same)[new.digest] == made

    def test_a_name_may_be_revoked_and_minted_in_one(self, store: DirectoryStore) -> None:
        old, new = create(store, "app"), minted("app")
        apply(store, keys_revoked=(old.id,), keys_minted=(new,))
        assert list(_in_force(store)) == [new.digest]

    def test_a_key_may_be_minted_in_a_team_that_comes_with_it(self, store: DirectoryStore) -> None:
        new = minted("app", team="young")
        apply(store, teams=(team("young"),), keys_minted=(new,))
        assert list(_in_force(store)) == [new.digest]

    @pytest.mark.parametrize("lifetime", [None, HOUR, timedelta(days=9)])
    def test_a_changed_key_ends_its_lifetime_after_it_was_made(
        self, store: DirectoryStore, clock: Clock, lifetime: timedelta | None
    ) -> None:
        made = create(store, "app", lifetime=timedelta(days=3))
        clock.advance(timedelta(days=1))
        apply(store, keys_changed=((made.id, replace(made.spec, lifetime=lifetime)),))
        assert store.state().keys[0].expires_at == (None if lifetime is None else START + lifetime)

    @pytest.mark.parametrize(("lifetime", "end"), [(None, 2), (HOUR, 1), (timedelta(days=9), 2)])
    def test_the_end_that_a_rotation_has_set_is_not_put_off(
        self, store: DirectoryStore, lifetime: timedelta | None, end: int
    ) -> None:
        made = create(store, "app")
        old, new = _rotate(store, "app", 2 * HOUR)
        spec = replace(made.spec, lifetime=lifetime, models=())
        apply(store, keys_changed=((old.id, spec), (new.id, spec)))
        changed_old, changed_new = sorted(store.state().keys, key=lambda key: key.replaced_by is None)
        assert (changed_old.spec, changed_old.expires_at) == (spec, START + end * HOUR)
        assert (changed_new.spec, changed_new.expires_at) == (spec, None if lifetime is None else START + lifetime)

    def test_revoking_again_keeps_the_first_time(self, store: DirectoryStore, clock: Clock) -> None:
        made = create(store, "app")
        revoked = store.revoke("app")
        clock.advance(HOUR)
        apply(store, keys_revoked=(made.id,))
        assert store.state().keys == revoked

    def test_many_at_once(self, store: DirectoryStore, same: DirectoryStore) -> None:
        new = tuple(minted(f"app-{number}", team="payments") for number in range(2500))
        apply(store, keys_minted=new)
        assert set(_in_force(same)) == {key.digest for key in new}
        ids = tuple(key.id for key in same.state().keys)
        assert len(set(ids)) == 2500
        apply(store, keys_revoked=ids)
        assert _in_force(same) == {}

    def test_an_apply_on_a_directory_that_has_changed_changes_nothing(
        self, store: DirectoryStore, same: DirectoryStore
    ) -> None:
        seen = store.revision()
        create(same, "app")
        for revision in (seen, 0, same.revision() + 1, -1):
            with _Unchanged(store), pytest.raises(Conflict):
                store.apply(ChangeSet(teams=(team("new"),)), revision)

    @pytest.mark.parametrize("trouble", ["taken", "taken twice", "unknown to change", "unknown to revoke"])
    def test_an_apply_that_fails_leaves_nothing(self, store: DirectoryStore, trouble: str) -> None:
        kept = create(store, "app", team="payments")
        wrong: dict[str, dict[str, Any]] = {
            "taken": {"keys_minted": (minted("new"), minted("app", team="payments"))},
            "taken twice": {"keys_minted": (minted("new"), minted("other"), minted("new"))},
            "unknown to change": {"keys_changed": (("key_nobody", KeySpec("new")),)},
            "unknown to revoke": {"keys_revoked": ("key_nobody",)},
        }
        good: dict[str, Any] = {
            "teams": (team("young"), team("payments", tier="silver")),
            "areas": (AreaRecord("lab"),),
            "keys_changed": ((kept.id, replace(kept.spec, models=())),),
        }
        refusal: type[Exception] = NameTaken if "taken" in trouble else UnknownKey
        with _Unchanged(store), pytest.raises(refusal) as caught:
            apply(store, **{**good, **wrong[trouble]})
        assert str(caught.value) == {"taken": "app", "taken twice": "new"}.get(trouble, "key_nobody")

    def test_an_apply_of_nothing_is_a_change(self, store: DirectoryStore) -> None:
        before = store.revision()
        assert apply(store) > before
        assert changes(store, before) == []


class TestStops:
    @pytest.mark.parametrize("scope", list(StopScope))
    def test_a_stop_is_told_until_it_is_lifted(
        self, store: DirectoryStore, same: DirectoryStore, clock: Clock, scope: StopScope
    ) -> None:
        before = store.revision()
        made = store.stop(scope, "it", "leaked")
        assert made == Stop(scope, "it", "leaked", clock.time)
        assert same.state().stops == (made,)
        assert changes(same, before) == [made]
        assert made in changes(same)
        before = same.revision()
        assert same.lift(scope, "it")
        assert store.state().stops == ()
        assert changes(store, before) == [StopLifted(scope, "it")]
        assert changes(store) == [team("payments")]

    def test_stopping_again_changes_the_reason_alone(self, store: DirectoryStore, clock: Clock) -> None:
        first = store.stop(StopScope.TEAM, "payments", "leaked")
        clock.advance(HOUR)
        before = store.revision()
        again = store.stop(StopScope.TEAM, "payments", "really")
        assert again == replace(first, reason="really")
        assert changes(store, before) == [again]

    def test_a_stop_after_a_lift_is_a_new_one(self, store: DirectoryStore, clock: Clock) -> None:
        store.stop(StopScope.TEAM, "payments", "leaked")
        store.lift(StopScope.TEAM, "payments")
        clock.advance(HOUR)
        assert store.stop(StopScope.TEAM, "payments", "again").created_at == clock.time
        assert len(store.state().stops) == 1

    def test_lifting_what_is_not_stopped_changes_nothing(self, store: DirectoryStore) -> None:
        store.stop(StopScope.TEAM, "payments", "")
        store.stop(StopScope.AREA, "ops", "")
        store.lift(StopScope.AREA, "ops")
        for scope, name in ((StopScope.USER, "payments"), (StopScope.TEAM, "other"), (StopScope.AREA, "ops")):
            with _Unchanged(store):
                assert not store.lift(scope, name)

    def test_it_holds_whatever_is_applied(self, store: DirectoryStore) -> None:
        made = store.stop(StopScope.TEAM, "payments", "leaked")
        apply(store, teams=(team("payments", tier="silver"),))
        apply(store, teams_removed=("payments",))
        assert store.state().stops == (made,)


class TestUsed:
    def test_the_latest_use_is_kept(self, store: DirectoryStore, same: DirectoryStore) -> None:
        ids = [create(store, name).id for name in ("one", "two", "never")]
        store.used({ids[0]: START + HOUR, ids[1]: START + 2 * HOUR, "key_nobody": START})
        same.used({ids[0]: START, ids[1]: START + 3 * HOUR})
        assert {key.spec.name: key.last_used_at for key in store.state().keys} == {
            "one": START + HOUR,
            "two": START + 3 * HOUR,
            "never": None,
        }

    def test_it_is_no_change_for_workers(self, store: DirectoryStore) -> None:
        made = create(store, "app")
        before = store.revision()
        store.used({made.id: START + HOUR})
        store.used({})
        assert store.revision() == before
        assert changes(store, before) == []

    def test_it_is_of_the_key_and_not_of_its_successor(self, store: DirectoryStore) -> None:
        made = create(store, "app")
        store.used({made.id: START})
        old, new = _rotate(store, "app")
        assert (old.last_used_at, new.last_used_at) == (START, None)


class TestChanges:
    def test_every_change_raises_the_revision(self, store: DirectoryStore, same: DirectoryStore) -> None:
        seen = [same.revision()]

        def risen() -> None:
            seen.append(same.revision())

        for step in (
            lambda: create(store, "app"),
            lambda: _rotate(store, "app"),
            lambda: store.suspend("app"),
            lambda: store.resume("app"),
            lambda: store.revoke("app"),
            lambda: store.stop(StopScope.EVERYTHING, "", "fire"),
            lambda: store.lift(StopScope.EVERYTHING, ""),
            lambda: apply(store, teams=(team("new"),)),
        ):
            step()
            risen()
        assert seen == sorted(set(seen))
        assert seen[0] > 0, "0 is for a reader that knows nothing yet"

    def test_only_what_has_changed_is_told_and_as_it_is_now(self, store: DirectoryStore, same: DirectoryStore) -> None:
        create(store, "old")
        before = store.revision()
        new = minted("new")
        store.create(new)
        apply(store, teams=(team("payments", tier="silver"),))
        (suspended,) = store.suspend("new")
        assert changes(same, before) == [team("payments", tier="silver"), KeyChange(new.digest, suspended)]
        assert changes(same, same.revision()) == []

    def test_a_revocation_is_told_to_those_who_know_the_key(self, store: DirectoryStore) -> None:
        new = minted("app")
        store.create(new)
        before = store.revision()
        (revoked,) = store.revoke("app")
        assert changes(store, before) == [KeyChange(new.digest, revoked)]
        assert changes(store) == [team("payments")]

    def test_teams_come_before_the_keys_in_them(self, store: DirectoryStore) -> None:
        apply(store, areas=(AreaRecord("ops"),), teams=(team("young"),), keys_minted=(minted("app", team="young"),))
        kinds = [type(change).__name__ for change in changes(store)]
        assert kinds == ["AreaRecord", "TeamRecord", "TeamRecord", "KeyChange"]

    def test_a_read_sees_one_moment_and_holds_nobody_up(self, store: DirectoryStore, same: DirectoryStore) -> None:
        """A writer that comes in the middle of a long read is neither seen by half nor kept waiting."""
        apply(store, keys_minted=tuple(minted(f"app-{number}") for number in range(600)))
        before = store.revision()
        reading = store.changes(0)
        assert next(reading) == team("payments")
        same.revoke("app-599")
        same.stop(StopScope.EVERYTHING, "", "fire")
        same.used({same.state().keys[0].id: START})
        rest = [change.record.revoked_at for change in reading if isinstance(change, KeyChange)]
        assert rest == [None] * 600
        assert len(changes(store, before)) == 2

    def test_a_read_may_be_left_off(self, store: DirectoryStore, same: DirectoryStore) -> None:
        apply(store, keys_minted=tuple(minted(f"app-{number}") for number in range(600)))
        for _ in range(30):  # more than there are connections
            reading = store.changes(0)
            next(reading)
            reading.close()
        assert same.revoke("app-1")[0].revoked_at is not None


class TestAlone:
    def test_nobody_else_is_let_in(self, store: DirectoryStore, same: DirectoryStore) -> None:
        with store.alone():
            for other in (store, same):
                with pytest.raises(Conflict, match="another `sluice apply`"), other.alone():
                    pytest.fail("two at once")
        with same.alone():
            pass

    def test_it_ends_with_an_error_which_stays_as_it_is(self, store: DirectoryStore, same: DirectoryStore) -> None:
        for error in (PermissionError(13, "the target's"), KeyboardInterrupt(), ValueError("x")):
            with pytest.raises(type(error)) as caught, store.alone():
                raise error
            assert caught.value is error
        with same.alone():
            pass

    def test_it_holds_up_nothing_else(self, store: DirectoryStore, same: DirectoryStore) -> None:
        with store.alone():
            create(same, "app")
            same.stop(StopScope.EVERYTHING, "", "fire")
            apply(store, teams=(team("new"),))
            assert len(changes(same)) == 4

    def test_of_many_one_gets_in(self, store: DirectoryStore, same: DirectoryStore) -> None:
        start, done = threading.Barrier(6), threading.Barrier(6)
        got: list[bool] = []

        def enter(view: DirectoryStore) -> None:
            start.wait()
            try:
                with view.alone():
                    got.append(True)
                    done.wait(30)
            except Conflict:
                got.append(False)
                done.wait(30)

        threads = [threading.Thread(target=enter, args=(view,)) for view in (store, same) * 3]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert sorted(got) == [False] * 5 + [True]
