"""The databases on any history: the same answers as the specification, and no change that a reader misses."""

import copy
import os
import shutil
import tempfile
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from datetime import timedelta
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from hypothesis import Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from extproc.enrolment import Enrolment
from extproc.identity.directory import Directory
from extproc.limits.limit import Limit, Measure, Period, Priority, Scope
from extproc.stores import sql
from extproc.stores.memory import MemoryDirectory
from extproc.stores.ports import (
    AreaRecord,
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
    StopScope,
    TeamRecord,
    UnknownKey,
    UnknownTeam,
)
from extproc.stores.sql.directory import SqlDirectory
from extproc.stores.sql.engine import connect
from tests.support.limit_values import several
from tests.support.stores import Clock, Ground, apply, create, ground_on, minted, team

NAMES = st.sampled_from(["app", "ci", "bot"])
TEAMS = st.sampled_from(["red", "blue"])
AREAS = st.sampled_from(["ops", "lab"])
LIVES = st.sampled_from([None, timedelta(seconds=90), timedelta(hours=2)])
MODELS = st.sampled_from([None, (), ("gpt-4o",), ("claude", "gpt-4o")])
MINUTE = Limit("minute", Measure.TOKENS, 1000, scope=(Scope.KEY,), sliding=60_000)
BUDGET = Limit("budget", Measure.MONEY, 10**9, period=Period.MONTH, zone="Europe/Zurich", warn_at=(50, 80, 100))
RANGES = st.sampled_from([(), ("10.0.0.0/8",), ("192.0.2.7/32", "2001:db8::/32")])
SPECS = st.builds(
    KeySpec,
    name=NAMES,
    team=st.sampled_from(["", "red", "blue"]),
    user=st.sampled_from([None, "ann@example.com"]),
    service_account=st.sampled_from([None, "ci"]),
    environment=st.sampled_from([None, "test"]),
    lifetime=LIVES,
    models=MODELS,
    surfaces=st.sampled_from([None, (), ("chat",)]),
    ip_ranges=RANGES,
    declared=st.booleans(),
    limits=st.sampled_from([(), (MINUTE,), (MINUTE, BUDGET), (replace(MINUTE, amount=7),)]),
    priority=st.sampled_from(Priority),
)
MEMBERS = st.lists(
    st.builds(
        Member,
        kind=st.sampled_from(MemberKind),
        name=st.sampled_from(["ann@example.com", "bob@example.com", "ci"]),
        role=st.sampled_from(["viewer", "developer", "team_admin"]),
        client_id=st.sampled_from([None, "id-1", "id-2"]),
    ),
    max_size=4,
    unique_by=lambda member: (member.kind, member.name),
).map(tuple)
TEAM_RECORDS = st.builds(
    TeamRecord,
    name=TEAMS,
    area=AREAS,
    owner=st.just("o@example.com"),
    tier=st.sampled_from(["gold", "silver"]),
    models=MODELS,
    ip_ranges=RANGES,
    tags=st.sampled_from([(), (("cost", "1"),)]),
    members=MEMBERS,
    limits=several("team/any", most=2),
    redaction=st.sampled_from(["default", "strict"]),
    guardrails=st.sampled_from(["default", "open"]),
    providers=st.sampled_from([None, ("azure",), ("azure", "openai")]),
    regions=st.sampled_from([None, ("eu",)]),
    brought=st.sampled_from(["", '{"backends": {}}']),
)
AREA_RECORDS = st.builds(AreaRecord, name=AREAS, owners=st.sampled_from([(), ("ann@example.com",), ("b", "a")]))
# Which of the keys there are is meant by a number; the kind says by what they are called.
WHICH = st.tuples(st.sampled_from(["id", "name", "full name", "hint"]), st.integers(0, 20))
_REFUSALS = (NameTaken, UnknownTeam, UnknownKey, Conflict)


@cache
def _empty_database() -> Path:
    """A database at the newest schema, to copy: a migration for each history would take most of the time."""
    path = Path(tempfile.mkdtemp()) / "sluice.db"
    sql.upgrade(f"sqlite:///{path}")
    return path


@dataclass
class _View:
    """A store with a worker that reads its changes now and then."""

    store: DirectoryStore
    enrolment: Enrolment = field(default_factory=lambda: Enrolment(quickstart=True))
    since: int = 0
    published: list[tuple[Directory, Directory]] = field(default_factory=list)  # each with what it was at first

    def poll(self) -> Directory:
        revision = self.store.revision()
        given = self.enrolment.take(self.store.changes(self.since), _no_pause)
        self.since = revision
        self.published.append((given, copy.deepcopy(given)))
        return given

    def fresh(self) -> Directory:
        return Enrolment(quickstart=True).take(self.store.changes(0), _no_pause)

    def hints(self) -> dict[str, str]:
        """The hints of all keys, which are alike in every store, by their ids, which are not."""
        return {key.id: key.hint for key in self.store.state().keys}

    def called(self, which: tuple[str, int]) -> str:
        keys = sorted(self.store.state().keys, key=lambda key: key.hint)
        if not keys:
            return "nobody"
        key = keys[which[1] % len(keys)]
        full_name = f"{key.spec.team}/{key.spec.name}"
        return {"id": key.id, "name": key.spec.name, "full name": full_name, "hint": key.hint}[which[0]]

    def ids(self, numbers: set[int]) -> list[str]:
        keys = sorted(self.store.state().keys, key=lambda key: key.hint)
        return [key.id for number, key in enumerate(keys) if number in numbers]


def _no_pause() -> None:
    """Nobody waits."""


class Histories(RuleBasedStateMachine):
    """One history, carried out on the specification and on SQLite."""

    def __init__(self) -> None:
        super().__init__()
        self._clock = Clock()
        self._number = 0
        self._folder = tempfile.TemporaryDirectory()
        path = Path(self._folder.name) / "sluice.db"
        shutil.copy(_empty_database(), path)
        self._engine = connect(f"sqlite:///{path}")
        self._views = [_View(MemoryDirectory(self._clock)), _View(SqlDirectory(self._engine, self._clock))]

    def teardown(self) -> None:
        self._engine.dispose()
        self._folder.cleanup()

    def _both(self, act: Callable[[_View], Any]) -> None:
        """Do it to both; they answer alike, and a refusal changes nothing."""
        answers = []
        for view in self._views:
            before = view.store.revision()
            try:
                answers.append(_plain(act(view), view.hints()))
            except _REFUSALS as refusal:
                answers.append(type(refusal))
                assert view.store.revision() == before
        assert answers[0] == answers[1]

    def _minted(self, spec: KeySpec) -> MintedKey:
        self._number += 1
        return MintedKey(spec, f"{self._number:064x}", f"hint-{self._number:03}")

    @rule(step=st.sampled_from([1, 60, 3600]))
    def time_passes(self, step: int) -> None:
        self._clock.advance(timedelta(seconds=step))

    @rule(spec=SPECS)
    def create(self, spec: KeySpec) -> None:
        key = self._minted(spec)
        self._both(lambda view: view.store.create(key))

    @rule(which=WHICH, overlap=st.sampled_from([timedelta(), timedelta(minutes=1), timedelta(days=1)]))
    def rotate(self, which: tuple[str, int], overlap: timedelta) -> None:
        new = self._minted(KeySpec("unused"))
        self._both(lambda view: view.store.rotate(view.called(which), new.digest, new.hint, overlap))

    @rule(which=WHICH)
    def suspend(self, which: tuple[str, int]) -> None:
        self._both(lambda view: view.store.suspend(view.called(which)))

    @rule(which=WHICH)
    def resume(self, which: tuple[str, int]) -> None:
        self._both(lambda view: view.store.resume(view.called(which)))

    @rule(which=WHICH)
    def revoke(self, which: tuple[str, int]) -> None:
        self._both(lambda view: view.store.revoke(view.called(which)))

    @rule(scope=st.sampled_from(StopScope), name=st.sampled_from(["", "red"]), reason=st.sampled_from(["a", "b"]))
    def stop(self, scope: StopScope, name: str, reason: str) -> None:
        self._both(lambda view: view.store.stop(scope, name, reason))

    @rule(scope=st.sampled_from(StopScope), name=st.sampled_from(["", "red"]))
    def lift(self, scope: StopScope, name: str) -> None:
        self._both(lambda view: view.store.lift(scope, name))

    @rule(numbers=st.sets(st.integers(0, 5), max_size=3), ago=st.integers(0, 100))
    def used(self, numbers: set[int], ago: int) -> None:
        when = self._clock.time - timedelta(seconds=ago)
        before = [view.store.revision() for view in self._views]
        self._both(lambda view: view.store.used(dict.fromkeys(view.ids(numbers), when)))
        assert [view.store.revision() for view in self._views] == before

    @rule(
        areas=st.lists(AREA_RECORDS, max_size=2, unique_by=lambda area: area.name),
        areas_removed=st.lists(AREAS, max_size=1),
        teams=st.lists(TEAM_RECORDS, max_size=2, unique_by=lambda team: team.name),
        teams_removed=st.lists(TEAMS, max_size=1),
        specs=st.lists(SPECS, max_size=3),
        changed=st.dictionaries(st.integers(0, 8), SPECS, max_size=2),
        revoked=st.sets(st.integers(0, 8), max_size=2),
        late=st.integers(0, 9).map(lambda number: number == 0),
    )
    def apply(
        self,
        areas: list[AreaRecord],
        areas_removed: list[str],
        teams: list[TeamRecord],
        teams_removed: list[str],
        specs: list[KeySpec],
        changed: dict[int, KeySpec],
        revoked: set[int],
        late: bool,
    ) -> None:
        minted = tuple(map(self._minted, specs))

        def carry_out(view: _View) -> int:
            records = {key.id: key for key in view.store.state().keys}
            specs = {view.ids({number})[0]: spec for number, spec in changed.items() if view.ids({number})}
            wanted = ChangeSet(
                areas=tuple(areas),
                areas_removed=tuple(areas_removed),
                teams=tuple(teams),
                teams_removed=tuple(teams_removed),
                keys_minted=minted,
                # A file cannot rename a key: another name is another key.
                keys_changed=tuple((key_id, _renamed(spec, records[key_id])) for key_id, spec in specs.items()),
                keys_revoked=tuple(view.ids(revoked)),
            )
            return view.store.apply(wanted, view.store.revision() - late)

        self._both(carry_out)

    @rule()
    def poll(self) -> None:
        for view in self._views:
            assert view.poll() == view.fresh()

    @invariant()
    def the_stores_are_alike(self) -> None:
        states = [_plain(view.store.state(), view.hints()) for view in self._views]
        assert states[0] == states[1]
        directories = [_plain(view.fresh(), view.hints()) for view in self._views]
        assert directories[0] == directories[1]

    @invariant()
    def what_was_published_is_as_it_was(self) -> None:
        for view in self._views:
            assert all(given == at_first for given, at_first in view.published)


def _renamed(spec: KeySpec, like: KeyRecord) -> KeySpec:
    return replace(spec, name=like.spec.name, team=like.spec.team)


def _plain(value: Any, hints: dict[str, str]) -> Any:
    """An answer, with hints in place of ids, and keys that were made at one moment in one order."""
    if isinstance(value, tuple) and value and isinstance(value[0], KeyRecord):
        assert [key.created_at for key in value] == sorted(key.created_at for key in value)
        return sorted((_plain(key, hints) for key in value), key=lambda key: (key["created_at"], key["hint"]))
    if isinstance(value, tuple):
        return tuple(_plain(one, hints) for one in value)
    if isinstance(value, str):
        before, _, name = value.rpartition("key/")  # the owner of a key's limit
        return before + hints.get(name, name)
    if isinstance(value, Mapping):
        return {_plain(name, hints): _plain(one, hints) for name, one in value.items()}
    if hasattr(value, "__dataclass_fields__"):
        return {name: _plain(getattr(value, name), hints) for name in value.__dataclass_fields__}
    return value


TestHistories = Histories.TestCase
# Not shrunk: that takes minutes, and thirty steps can be read.
_PHASES = (Phase.explicit, Phase.reuse, Phase.generate)
HISTORIES = int(os.environ.get("SLUICE_EXAMPLES", "12"))
TestHistories.settings = settings(max_examples=HISTORIES, stateful_step_count=30, deadline=None, phases=_PHASES)


@contextmanager
def _together(*work: Callable[[], None]) -> Iterator[None]:
    """Do it all at once, each in a thread, beside what happens here; the first failure is raised."""
    failed: list[BaseException] = []
    start = threading.Barrier(len(work) + 1)

    def run(one: Callable[[], None]) -> None:
        start.wait()
        try:
            one()
        except BaseException as error:
            failed.append(error)

    threads = [threading.Thread(target=run, args=(one,)) for one in work]
    for thread in threads:
        thread.start()
    start.wait()
    try:
        yield
    finally:
        for thread in threads:
            thread.join()
    if failed:
        raise failed[0]


@pytest.fixture(params=["sqlite", "postgresql"])
def database(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Ground]:
    with ground_on(request.param, Clock(), tmp_path) as made:
        yield made


class TestAtOnce:
    """SQLite and PostgreSQL, several processes' connections at a time."""

    def test_writers_lose_nothing_and_readers_miss_nothing(self, database: Ground) -> None:
        """Each writer's keys, stops and uses arrive, and a reader who takes increments ends with all of them."""
        views = (database.directory, database.same_directory)
        rounds = 20
        writing = threading.Event()
        writing.set()
        reader = _View(database.same_directory)
        shown: list[int] = []

        def write(number: int, view: DirectoryStore) -> None:
            for turn in range(rounds):
                made = create(view, f"app-{number}-{turn}")
                view.used({made.id: made.created_at})
                if turn % 2:
                    view.revoke(made.id)
                view.stop(StopScope.USER, f"user-{number}-{turn}", "test")

        def read() -> None:
            while writing.is_set():
                shown.append(reader.since)
                reader.poll()

        def watch() -> None:
            """Whoever sees a revision sees all that made it, and no more: each write here adds one thing."""
            while writing.is_set():
                state = database.directory.state()
                revoked = sum(key.revoked_at is not None for key in state.keys)
                assert state.revision == 1 + len(state.keys) + revoked + len(state.stops)

        with _together(read, watch):
            try:
                with _together(*(lambda n=n, view=view: write(n, view) for n, view in enumerate(views))):
                    pass
            finally:
                writing.clear()
        given = reader.poll()
        assert given == reader.fresh()
        assert {key.name for key in given.keys.values()} >= {f"app-{n}-{turn}" for n in (0, 1) for turn in (0, 2, 18)}
        assert len(given.stops) == 2 * rounds
        assert database.directory.revision() == 1 + 2 * rounds * 2 + rounds
        assert shown == sorted(shown)
        assert len(set(shown)) > 2, "the reader has read in the middle"

    def test_of_many_who_want_a_name_one_gets_it(self, database: Ground) -> None:
        made: list[str] = []
        taken: list[str] = []

        def take(view: DirectoryStore) -> None:
            for turn in range(10):
                try:
                    made.append(create(view, f"app-{turn}").spec.name)
                except NameTaken as error:
                    taken.append(str(error))

        with _together(*(lambda view=view: take(view) for view in (database.directory, database.same_directory) * 2)):
            pass
        assert sorted(made) == sorted(f"app-{turn}" for turn in range(10))
        assert sorted(taken) == sorted(made * 3)

    def test_of_many_who_apply_to_a_revision_one_does(self, database: Ground) -> None:
        revision = database.directory.revision()
        done: list[str] = []

        def carry_out(number: int, view: DirectoryStore) -> None:
            wanted = ChangeSet(teams=(team(f"team-{number}"),), keys_minted=(minted("app", team=f"team-{number}"),))
            with suppress(Conflict):
                view.apply(wanted, revision)
                done.append(f"team-{number}")

        views = enumerate((database.directory, database.same_directory) * 3)
        with _together(*(lambda n=n, view=view: carry_out(n, view) for n, view in views)):
            pass
        state = database.directory.state()
        assert [one.name for one in state.teams] == done
        assert [key.spec.team for key in state.keys] == done
        assert len(done) == 1

    def test_of_many_who_rotate_a_key_one_does(self, database: Ground) -> None:
        first = create(database.directory, "app")
        made: list[KeyRecord] = []

        def rotate(view: DirectoryStore) -> None:
            new = minted("unused")
            with suppress(UnknownKey):
                made.append(view.rotate(first.id, new.digest, new.hint, timedelta(hours=1))[1])

        with _together(*(lambda view=view: rotate(view) for view in (database.directory, database.same_directory) * 2)):
            pass
        old, new = sorted(database.directory.state().keys, key=lambda key: key.replaced_by is None)
        assert [new] == made
        assert old.replaced_by == new.id

    def test_noting_uses_and_changing_the_same_keys_do_not_block_each_other_for_ever(self, database: Ground) -> None:
        apply(database.directory, keys_minted=tuple(minted(f"app-{number:03}") for number in range(100)))
        records = sorted(database.directory.state().keys, key=lambda key: key.id, reverse=True)
        moment = records[0].created_at

        def note() -> None:
            for turn in range(10):
                when = moment + timedelta(seconds=turn)
                database.directory.used({key.id: when for key in records})

        def change() -> None:
            for turn in range(10):
                changed = ((key.id, replace(key.spec, environment=f"{turn}")) for key in records)
                apply(database.same_directory, keys_changed=tuple(changed))

        with _together(note, change):
            pass
        found = {(key.spec.environment, key.last_used_at) for key in database.directory.state().keys}
        assert found == {("9", moment + timedelta(seconds=9))}

    def test_a_long_read_and_many_writes_do_not_wait_for_each_other(self, database: Ground) -> None:
        apply(database.directory, keys_minted=tuple(minted(f"app-{number}") for number in range(600)))

        def read() -> None:
            for _ in range(5):
                read = [change for change in database.directory.changes(0) if isinstance(change, KeyChange)]
                assert len(read) >= 600

        def write() -> None:
            for turn in range(15):
                create(database.same_directory, f"new-{turn}")
                database.same_directory.used({"key_nobody": create(database.same_directory, f"2nd-{turn}").created_at})

        with _together(read, read, write):
            pass
        assert len(database.directory.state().keys) == 630
