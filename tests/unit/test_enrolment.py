"""From the store's records to the directory that calls look at."""

import copy
import hashlib
import pickle
import sys
import weakref
from collections.abc import Iterable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from ipaddress import ip_network

import pytest
from hypothesis import given
from hypothesis import strategies as st

from extproc.enrolment import Enrolment
from extproc.identity import keys
from extproc.identity.directory import PARTS, Directory, Key, KeyTable, Membership
from extproc.limits.limit import Limit, Measure, Mode, Only, Priority, Scope
from extproc.model import Team
from extproc.stores.ports import (
    AreaRecord,
    AreaRemoved,
    DirectoryChange,
    KeyChange,
    KeyRecord,
    KeySpec,
    Member,
    MemberKind,
    Stop,
    StopLifted,
    StopScope,
    TeamRecord,
    TeamRemoved,
)
from tests.support.limit_values import several

START = datetime(2026, 1, 31, tzinfo=UTC)
ANN = Member(MemberKind.USER, "ann@example.com", "team_admin")
BOT = Member(MemberKind.SERVICE_ACCOUNT, "ci", "service_account", "client-1")
TOKENLESS = Member(MemberKind.SERVICE_ACCOUNT, "cron", "service_account")
CREW = Member(MemberKind.GROUP, "group-1", "viewer")
MINUTE = Limit("minute", Measure.TOKENS, 1000, scope=(Scope.KEY,), sliding=60_000)
RED = TeamRecord("red", "ops", "o@example.com", "gold", members=(ANN, BOT, TOKENLESS, CREW))
BLUE = TeamRecord("blue", "lab", "o@example.com", "silver", models=None, members=(replace(ANN, role="viewer"),))


def _no_pause() -> None:
    """Nobody waits."""


def _digest(number: int) -> str:
    """The digest of one of many keys, spread as those of real ones are."""
    return hashlib.sha256(bytes([number % 256, number // 256])).hexdigest()


def _directory(*changes: DirectoryChange, quickstart: bool = False) -> Directory:
    return Enrolment(quickstart).take(changes, _no_pause)


def _key(number: int, **more: object) -> KeyChange:
    spec = KeySpec(f"app-{number}", **more)  # type: ignore[arg-type]
    return KeyChange(f"{number:064x}", KeyRecord(f"key_{number}", spec, "hint", f"key_{number}", START))


class TestKeys:
    def test_what_is_said_of_one_is_what_calls_go_by(self) -> None:
        spec = KeySpec(
            name="app",
            team="red",
            user="ann@example.com",
            service_account="ci",
            environment="test",
            lifetime=timedelta(hours=1),
            models=("gpt-4o", "claude"),
            surfaces=("chat",),
            ip_ranges=("10.0.0.0/8", "2001:db8::/32"),
            limits=(MINUTE, replace(MINUTE, name="idle", mode=Mode.OFF)),
            priority=Priority.LOW,
        )
        end = START + timedelta(hours=1)
        record = KeyRecord("key_2", spec, "hint", "key_1", START, end, suspended_at=START)
        assert _directory(KeyChange("ab" * 32, record)).keys == {
            b"\xab" * 32: Key(
                id="key_2",
                name="app",
                lineage="key_1",
                team="red",
                user="ann@example.com",
                service_account="ci",
                environment="test",
                expires=end.timestamp(),
                models=frozenset({"gpt-4o", "claude"}),
                surfaces=frozenset({"chat"}),
                networks=(ip_network("10.0.0.0/8"), ip_network("2001:db8::/32")),
                suspended=True,
                limits=(replace(MINUTE, owner="key/key_1"),),
                priority=Priority.LOW,
            )
        }

    def test_what_is_not_said_is_no_limit_and_nothing_allowed_is_one(self) -> None:
        assert _directory(_key(1)).keys == {bytes(31) + b"\x01": Key("key_1", "app-1", "key_1")}
        (nothing,) = _directory(_key(1, models=(), surfaces=())).keys.values()
        assert (nothing.models, nothing.surfaces) == (frozenset(), frozenset())

    def test_one_that_is_revoked_is_gone_even_if_it_never_was_there(self) -> None:
        revoked = replace(_key(1), record=replace(_key(1).record, revoked_at=START))
        assert _directory(_key(1), _key(2), revoked).keys == _directory(_key(2)).keys
        assert _directory(revoked).keys == {}

    def test_a_replaced_key_works_to_its_end(self) -> None:
        replaced = replace(_key(1), record=replace(_key(1).record, replaced_by="key_2", expires_at=START))
        (key,) = _directory(replaced).keys.values()
        assert (key.expires, key.suspended) == (START.timestamp(), False)

    @pytest.mark.parametrize("wanted", [True, False])
    def test_the_quickstart_key_is_there_where_it_is_switched_on_and_stays(self, wanted: bool) -> None:
        found = keys.fingerprint(keys.QUICKSTART_KEY)
        enrolment = Enrolment(quickstart=wanted)
        for taken in ([], [_key(1)]):
            assert (found in enrolment.take(taken, _no_pause).keys) is wanted
        again = enrolment.anew().take([], _no_pause)
        assert dict(again.keys) == ({found: Key("quickstart", "quickstart", "quickstart")} if wanted else {})

    def test_equal_values_are_kept_once(self) -> None:
        """100,000 keys have a few hundred different lists between them."""
        rights = {"models": ("a", "b"), "surfaces": ("chat",), "ip_ranges": ("10.0.0.0/8",)}
        first, second = _directory(_key(1, **rights), _key(2, **rights)).keys.values()
        assert first.models is second.models
        assert first.surfaces is second.surfaces
        assert first.networks is second.networks

    def test_values_of_keys_that_are_gone_are_not_kept_for_ever(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("extproc.enrolment._MOST_SAME", 10)
        enrolment = Enrolment(quickstart=False)
        directory = enrolment.take([_key(0, models=("old",))], _no_pause)
        kept = weakref.ref(next(iter(directory.keys.values())).models)
        gone = replace(_key(0), record=replace(_key(0).record, revoked_at=START))
        directory = enrolment.take([gone, *(_key(n, models=(f"new-{n}",)) for n in range(1, 20))], _no_pause)
        assert kept() is None
        assert directory == _directory(*(_key(n, models=(f"new-{n}",)) for n in range(1, 20)))


class TestLimitsOfKeys:
    def test_a_key_and_its_successor_draw_on_one_sum(self) -> None:
        old, new = _key(1, limits=(MINUTE,)), _key(2, limits=(MINUTE,))
        new = replace(new, record=replace(new.record, lineage="key_1"))
        first, second = _directory(old, new).keys.values()
        assert first.limits == second.limits == (replace(MINUTE, owner="key/key_1"),)

    def test_keys_without_any_share_what_they_have(self) -> None:
        assert len({id(key.limits) for key in _directory(*map(_key, range(100))).keys.values()}) == 1

    def test_what_the_limits_of_many_keys_have_in_common_is_kept_once(self) -> None:
        limit = replace(MINUTE, only=Only(models=frozenset({"gpt-4o"})), warn_at=(50, 90))
        read = [_key(number, limits=(pickle.loads(pickle.dumps(limit)),)) for number in range(50)]
        keys = _directory(*read).keys.values()
        for name in ("scope", "only", "warn_at"):
            assert len({id(getattr(key.limits[0], name)) for key in keys}) == 1

    def test_a_change_of_them_is_taken(self) -> None:
        enrolment = Enrolment(quickstart=False)
        enrolment.take([_key(1, limits=(MINUTE,), priority=Priority.LOW)], _no_pause)
        assert enrolment.take([_key(1)], _no_pause) == _directory(_key(1))
        raised = _key(1, limits=(replace(MINUTE, amount=2000),))
        assert enrolment.anew().take([raised], _no_pause) == _directory(raised)

    @given(st.lists(several(), max_size=5))
    def test_each_key_has_its_own_and_no_other(self, given_limits: list[tuple[Limit, ...]]) -> None:
        changes = [_key(number, limits=limits) for number, limits in enumerate(given_limits)]
        found = {key.id: key.limits for key in _directory(*changes).keys.values()}
        assert found == {
            f"key_{number}": tuple(
                replace(limit, owner=f"key/key_{number}") for limit in limits if limit.mode is not Mode.OFF
            )
            for number, limits in enumerate(given_limits)
        }


class TestTeams:
    def test_a_team_with_its_people(self) -> None:
        limits = (replace(MINUTE, owner="team/red"), replace(MINUTE, owner="team/red", name="idle", mode=Mode.OFF))
        record = replace(RED, models=("gpt-4o",), ip_ranges=("10.0.0.0/8",), tags=(("cost", "42"),), limits=limits)
        record = replace(record, providers=("azure", "openai"), regions=("eu",))
        directory = _directory(record)
        assert directory.teams == {
            "red": Team(
                name="red",
                area="ops",
                tier="gold",
                models=frozenset({"gpt-4o"}),
                networks=(ip_network("10.0.0.0/8"),),
                tags={"cost": "42"},
                users={"ann@example.com": "team_admin"},
                accounts=frozenset({"ci", "cron"}),
                limits=limits[:1],
                providers=frozenset({"azure", "openai"}),
                regions=frozenset({"eu"}),
            )
        }
        assert directory.users == {"ann@example.com": (Membership("red", "team_admin"),)}
        assert directory.clients == {"client-1": (Membership("red", "service_account", "ci"),)}
        assert directory.groups == {"group-1": (Membership("red", "viewer"),)}

    def test_all_models_or_none(self) -> None:
        teams = _directory(BLUE, RED).teams
        assert (teams["blue"].models, teams["red"].models) == (None, frozenset())

    @pytest.mark.parametrize("order", [(RED, BLUE), (BLUE, RED)])
    def test_in_several_teams_in_the_order_of_their_names(self, order: tuple[TeamRecord, ...]) -> None:
        assert _directory(*order).users == {
            "ann@example.com": (Membership("blue", "viewer"), Membership("red", "team_admin"))
        }

    def test_who_leaves_is_a_member_no_more(self) -> None:
        enrolment = Enrolment(quickstart=False)
        enrolment.take([RED, BLUE], _no_pause)
        directory = enrolment.take([replace(RED, members=(CREW,)), TeamRemoved("blue")], _no_pause)
        assert directory == _directory(replace(RED, members=(CREW,)))
        assert (directory.users, directory.clients) == ({}, {})

    def test_who_was_in_a_team_that_is_gone_is_a_member_no_more(self) -> None:
        enrolment = Enrolment(quickstart=False)
        enrolment.take([RED, BLUE], _no_pause)
        directory = enrolment.take([TeamRemoved("red")], _no_pause)
        assert directory == _directory(BLUE)
        assert directory.users == {"ann@example.com": (Membership("blue", "viewer"),)}

    def test_owners_of_areas(self) -> None:
        ops, lab = AreaRecord("ops", ("ann@example.com", "bob@example.com")), AreaRecord("lab", ("ann@example.com",))
        assert _directory(ops, lab).owners == {
            "ann@example.com": frozenset({"ops", "lab"}),
            "bob@example.com": frozenset({"ops"}),
        }
        assert _directory(ops, lab, AreaRemoved("ops")).owners == {"ann@example.com": frozenset({"lab"})}

    def test_stops(self) -> None:
        stop = Stop(StopScope.TEAM, "red", "leaked", START)
        assert _directory(stop, Stop(StopScope.EVERYTHING, "", "", START)).stops == {
            ("team", "red"),
            ("everything", ""),
        }
        assert _directory(stop, StopLifted(StopScope.TEAM, "red")).stops == frozenset()
        assert _directory(StopLifted(StopScope.TEAM, "red"), stop).stops == {("team", "red")}

    def test_what_was_never_there_may_be_removed(self) -> None:
        removed = (TeamRemoved("red"), AreaRemoved("ops"), StopLifted(StopScope.KEY, "key_1"))
        assert _directory(*removed) == _directory()


@given(st.dictionaries(st.binary(min_size=32, max_size=32), st.integers(0, 9), max_size=20), st.binary(min_size=32))
def test_a_table_of_keys_is_a_mapping_like_any_other(numbers: dict[bytes, int], other: bytes) -> None:
    plain = {fingerprint: Key(f"key_{number}", "app", "key_0") for fingerprint, number in numbers.items()}
    parts: list[dict[bytes, Key]] = [{} for _ in range(PARTS)]
    for fingerprint, key in plain.items():
        parts[fingerprint[0]][fingerprint] = key
    table = KeyTable(parts)
    assert table == plain
    assert plain == table
    assert len(table) == len(plain)
    assert set(table) == set(plain)
    for fingerprint in (*plain, other):
        assert table.get(fingerprint) == plain.get(fingerprint)
        assert table.get(fingerprint, "none") == plain.get(fingerprint, "none")
        assert (fingerprint in table) == (fingerprint in plain)
    with pytest.raises(KeyError):
        table[bytes(31)]


class TestPieces:
    @pytest.mark.parametrize(("many", "pauses"), [(0, 0), (15, 0), (16, 1), (10_000, 625)])
    def test_it_pauses_after_every_16_changes(self, many: int, pauses: int) -> None:
        taken: list[int] = []
        paused_after: list[int] = []

        def given() -> Iterable[KeyChange]:
            for number in range(many):
                taken.append(number)
                yield _key(number)

        directory = Enrolment(False).take(given(), lambda: paused_after.append(len(taken)))
        assert len(directory.keys) == many
        assert len(paused_after) == pauses
        stretches = [end - start for start, end in zip([0, *paused_after], [*paused_after, many], strict=True)]
        assert max(stretches) <= 16

    def test_it_pauses_with_teams_as_often_once_more_for_their_members(self) -> None:
        teams = [replace(RED, name=f"team-{number}") for number in range(1000)]
        pauses: list[None] = []
        directory = Enrolment(False).take(teams, lambda: pauses.append(None))
        assert len(directory.users["ann@example.com"]) == 1000
        assert len(pauses) == 2 * (1000 // 16)

    def test_a_change_of_a_key_leaves_everything_else_as_it_is(self) -> None:
        """Little is copied, so that no copy keeps a call waiting."""
        enrolment = Enrolment(False)
        first = enrolment.take([RED, *(KeyChange(_digest(n), _key(n).record) for n in range(5000))], _no_pause)
        changed = KeyChange(_digest(7), replace(_key(7).record, suspended_at=START))
        revoked = KeyChange(_digest(8), replace(_key(8).record, revoked_at=START))
        second = enrolment.take([changed, revoked], _no_pause)
        assert isinstance(first.keys, KeyTable)
        assert isinstance(second.keys, KeyTable)
        pairs = zip(first.keys.parts, second.keys.parts, strict=True)
        other = {number for number, (one, two) in enumerate(pairs) if one is not two}
        assert other == {bytes.fromhex(_digest(n))[0] for n in (7, 8)}
        assert second.users is first.users

    def test_many_revocations_pause_too_and_leave_no_gap(self) -> None:
        """A dict with a gap is bigger than one that never had the key, and slower to miss in."""
        enrolment = Enrolment(False)
        known = [KeyChange(_digest(n), _key(n).record) for n in range(5000)]
        enrolment.take(known, _no_pause)
        gone = [replace(one, record=replace(one.record, revoked_at=START)) for one in known[::2]]
        pauses: list[None] = []
        keys_left = enrolment.take(gone, lambda: pauses.append(None)).keys
        assert len(pauses) == len(gone) // 16 + 256 // 16
        fresh = Enrolment(False).take(known[1::2], _no_pause).keys
        assert keys_left == fresh
        assert isinstance(keys_left, KeyTable)
        assert isinstance(fresh, KeyTable)
        assert [sys.getsizeof(part) for part in keys_left.parts] == [sys.getsizeof(part) for part in fresh.parts]

    def test_what_is_read_anew_keeps_the_keys_that_are_as_they_were(self) -> None:
        enrolment = Enrolment(quickstart=True)
        first = enrolment.take([RED, *map(_key, range(4))], _no_pause)
        changed = replace(_key(1), record=replace(_key(1).record, suspended_at=START))
        second = enrolment.anew().take([_key(0), changed, _key(3), _key(9)], _no_pause)
        assert second == _directory(_key(0), changed, _key(3), _key(9), quickstart=True)
        same = [key for fingerprint, key in second.keys.items() if key is first.keys.get(fingerprint)]
        assert [key.name for key in same] == ["app-0", "app-3"]

    def test_what_was_published_never_changes(self) -> None:
        enrolment = Enrolment(quickstart=True)
        first = enrolment.take([RED, *map(_key, range(200))], _no_pause)
        at_first = copy.deepcopy(first)
        seen: list[bool] = []
        later: list[DirectoryChange] = [
            *(replace(_key(n), record=replace(_key(n).record, revoked_at=START)) for n in range(100)),
            *map(_key, range(200, 400)),
            TeamRemoved("red"),
            BLUE,
            Stop(StopScope.EVERYTHING, "", "", START),
        ]
        second = enrolment.take(later, lambda: seen.append(first == at_first))
        assert seen
        assert all(seen), "nor while changes are taken"
        assert first == at_first
        assert second == _directory(BLUE, *map(_key, range(100, 400)), later[-1], quickstart=True)

    def test_changes_that_break_off_do_not_show_and_may_be_taken_again(self) -> None:
        """The store goes away in the middle of a read: the same changes come again."""
        enrolment = Enrolment(quickstart=False)
        first = enrolment.take([RED, _key(1)], _no_pause)
        at_first = copy.deepcopy(first)
        revoked = replace(_key(1), record=replace(_key(1).record, revoked_at=START))
        later: list[DirectoryChange] = [BLUE, revoked, _key(2)]

        def broken() -> Iterable[DirectoryChange]:
            yield from later[:2]
            raise ConnectionError

        with pytest.raises(ConnectionError):
            enrolment.take(broken(), _no_pause)
        assert first == at_first
        assert enrolment.take(later, _no_pause) == _directory(RED, BLUE, _key(2))

    @given(st.permutations([RED, BLUE, AreaRecord("ops", ("a",)), AreaRecord("lab", ("a",)), _key(1), _key(2)]))
    def test_the_order_of_changes_to_different_things_does_not_matter(self, order: list[DirectoryChange]) -> None:
        assert _directory(*order) == _directory(*sorted(order, key=repr))
