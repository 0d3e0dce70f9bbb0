"""Everybody who may call, in memory: how it follows the database, and what a dead database changes."""

import asyncio
import copy
import gc
import logging
import threading
from collections.abc import Callable, Generator, Iterator, Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from extproc import roster as roster_module
from extproc.identity import keys
from extproc.identity.directory import PARTS, Directory, Key, KeyTable
from extproc.roster import Roster
from extproc.stores.memory import MemoryDirectory
from extproc.stores.ports import DirectoryChange, StopScope, StoreUnavailable
from tests.support.rosters import DOWN, KEY, OTHER, START, Clock, FlakyDirectory, fails, fresh, knows
from tests.support.stores import apply, create, minted, team


@pytest.fixture
def store() -> FlakyDirectory:
    return FlakyDirectory()


@pytest.fixture
def clock() -> Clock:
    return Clock()


class TestFollowing:
    def test_nobody_is_known_before_the_first_read(self, store: FlakyDirectory) -> None:
        roster = Roster(store, quickstart=True)
        assert not roster.loaded
        with pytest.raises(StoreUnavailable, match="not been read yet"):
            roster.current()
        roster.refresh()
        assert roster.loaded
        assert not knows(roster, KEY)

    @pytest.mark.parametrize("wanted", [True, False])
    def test_the_quickstart_key_is_known_where_it_is_switched_on(self, store: FlakyDirectory, wanted: bool) -> None:
        assert knows(fresh(Roster(store, quickstart=wanted)), keys.QUICKSTART_KEY) is wanted

    def test_changes_are_in_force_after_a_refresh(self, store: FlakyDirectory) -> None:
        roster = fresh(Roster(store, quickstart=True))
        create(store, "app", KEY)
        apply(store, teams=(team("red"),))
        store.stop(StopScope.TEAM, "red", "leaked")
        assert not knows(roster, KEY)
        roster.refresh()
        assert knows(roster, KEY)
        assert list(roster.current().teams) == ["red"]
        assert roster.current().stops == {("team", "red")}
        store.revoke("app")
        store.lift(StopScope.TEAM, "red")
        roster.refresh()
        assert not knows(roster, KEY)
        assert roster.current().stops == frozenset()
        assert knows(roster, keys.QUICKSTART_KEY)

    def test_only_what_has_changed_is_read_and_only_when_it_has(self, store: FlakyDirectory) -> None:
        roster = fresh(Roster(store))
        first, seen = roster.current(), store.revision()
        roster.refresh()
        assert roster.current() is first
        create(store, "app", KEY)
        roster.refresh()
        roster.refresh()
        assert store.asked == [0, seen]

    def test_the_directory_that_a_call_holds_does_not_change_under_it(self, store: FlakyDirectory) -> None:
        create(store, "app", KEY)
        apply(store, teams=(team("red"),))
        roster = fresh(Roster(store))
        held = roster.current()
        at_first = copy.deepcopy(held)
        store.revoke("app")
        apply(store, teams=(team("red", tier="silver"), team("blue")))
        roster.refresh()
        assert roster.current() != held
        assert held == at_first

    @pytest.mark.parametrize("moment", ["between the question and the read", "in the middle of the read"])
    def test_a_change_that_comes_while_it_reads_is_not_missed(self, store: FlakyDirectory, moment: str) -> None:
        create(store, "app", KEY)
        roster = fresh(Roster(store))
        create(store, "other", OTHER)
        if moment.startswith("between"):
            store.after_revision = lambda: store.revoke("app")
        else:
            store.in_changes = lambda: store.revoke("app")
        roster.refresh()
        assert store.after_revision is store.in_changes is None, "it has come"
        roster.refresh()
        assert (knows(roster, KEY), knows(roster, OTHER)) == (False, True)

    def test_taking_many_changes_lets_the_event_loop_breathe(
        self, store: FlakyDirectory, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        pauses: list[float] = []
        monkeypatch.setattr("extproc.roster.time.sleep", pauses.append)
        apply(store, keys_minted=tuple(minted(f"app-{number}") for number in range(500)))
        roster = fresh(Roster(store))
        assert pauses == [], "nobody is served yet, and is to be soon"
        apply(store, keys_minted=tuple(minted(f"new-{number}") for number in range(500)))
        roster.refresh()
        assert len(roster.current().keys) == 1000
        assert len(pauses) >= 500 // 64
        assert all(0 < pause < 0.005 for pause in pauses)

    def test_so_does_letting_go_of_the_directory_before(
        self, store: FlakyDirectory, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Calls look at the new one meanwhile. No part is left in the end, and few go between two pauses."""
        roster = fresh(Roster(store))
        left = PARTS
        gone: list[int] = []  # between two pauses

        class Part(dict[bytes, Key]):
            def __del__(self) -> None:
                nonlocal left
                left -= 1

        def pause(_seconds: float) -> None:
            gone.append(PARTS - left - sum(gone))
            assert knows(roster, KEY)

        monkeypatch.setattr(roster, "_directory", Directory(keys=KeyTable([Part() for _ in range(PARTS)])))
        monkeypatch.setattr("extproc.roster.time.sleep", pause)
        create(store, "app", KEY)
        roster.refresh()
        assert left == 0
        assert len(gone) >= 16
        assert max(gone) <= PARTS // 16


class TestOutage:
    def test_the_last_known_directory_serves_for_a_while(self, store: FlakyDirectory, clock: Clock) -> None:
        create(store, "app", KEY)
        roster = fresh(Roster(store, serve_for=60, clock=clock, elapsed=clock.elapsed))
        store.trouble = DOWN
        clock.advance(60)
        fails(roster)
        assert roster.loaded
        assert knows(roster, KEY)
        clock.advance(0.5)
        fails(roster)
        assert not roster.loaded
        with pytest.raises(StoreUnavailable, match="for too long"):
            roster.current()

    def test_the_time_runs_from_when_it_was_last_heard_of(self, store: FlakyDirectory, clock: Clock) -> None:
        roster = fresh(Roster(store, serve_for=60, clock=clock, elapsed=clock.elapsed))
        clock.advance(50)
        roster.refresh()  # nothing has changed, which is an answer too
        clock.advance(50)
        assert roster.loaded

    @pytest.mark.parametrize("step", [-3600, 3600])
    def test_a_clock_that_is_set_neither_prolongs_nor_shortens_it(
        self, store: FlakyDirectory, clock: Clock, step: float
    ) -> None:
        roster = fresh(Roster(store, serve_for=60, clock=clock, elapsed=clock.elapsed))
        clock.time += step
        clock.advance(59)
        assert roster.loaded
        clock.advance(2)
        assert not roster.loaded

    def test_it_serves_for_ever_where_that_is_wanted(self, store: FlakyDirectory, clock: Clock) -> None:
        create(store, "app", KEY)
        roster = fresh(Roster(store, serve_for=None, clock=clock, elapsed=clock.elapsed))
        store.trouble = DOWN
        clock.advance(1e9)
        fails(roster)
        assert roster.loaded
        assert knows(roster, KEY)

    def test_for_ever_does_not_mean_without_ever_having_read(self, store: FlakyDirectory) -> None:
        store.trouble = DOWN
        roster = Roster(store, quickstart=True, serve_for=None)
        fails(roster)
        assert not roster.loaded
        with pytest.raises(StoreUnavailable):
            roster.current()

    def test_once_it_is_back_all_is_as_it_says(self, store: FlakyDirectory, clock: Clock) -> None:
        create(store, "app", KEY)
        roster = fresh(Roster(store, serve_for=60, clock=clock, elapsed=clock.elapsed))
        store.trouble = DOWN
        clock.advance(1000)
        fails(roster)
        store.revoke("app")
        create(store, "other", OTHER)
        store.trouble = None
        roster.refresh()
        assert roster.loaded
        assert (knows(roster, KEY), knows(roster, OTHER)) == (False, True)

    def test_one_that_goes_away_in_the_middle_of_a_read_changes_nothing(self, store: FlakyDirectory) -> None:
        create(store, "app", KEY)
        roster = fresh(Roster(store))
        before = roster.current()
        at_first = copy.deepcopy(before)
        apply(store, teams=(team("red"),))
        store.revoke("app")
        store.breaks_in_the_middle = True
        fails(roster, "in the middle")
        assert roster.current() is before
        assert before == at_first
        store.breaks_in_the_middle = False
        roster.refresh()
        assert not knows(roster, KEY)
        assert list(roster.current().teams) == ["red"]

    def test_a_first_read_that_breaks_off_leaves_nobody_known(self, store: FlakyDirectory) -> None:
        for name in ("a", "b", "c"):
            create(store, name)
        store.breaks_in_the_middle = True
        roster = Roster(store)
        fails(roster, "in the middle")
        assert not roster.loaded

    @pytest.mark.parametrize("later_writes", [0, 1, 2, 5])
    def test_a_backup_that_was_put_back_is_read_anew(self, clock: Clock, later_writes: int) -> None:
        """With fewer, as many and more changes than the database had that it replaces."""
        lost, backup = FlakyDirectory(), FlakyDirectory()
        for database in (lost, backup):
            create(database, "kept", OTHER)
        create(lost, "app", KEY)
        lost.stop(StopScope.EVERYTHING, "", "fire")
        roster = fresh(Roster(lost, clock=clock, elapsed=clock.elapsed))
        lost.trouble = DOWN
        fails(roster)
        for number in range(later_writes):
            create(backup, f"new-{number}")
        roster._store = backup  # as the same URL leads elsewhere
        roster.refresh()
        assert not knows(roster, KEY)
        assert knows(roster, OTHER)
        assert len(roster.current().keys) == 1 + later_writes
        assert roster.current().stops == frozenset()

    def test_one_that_was_put_back_without_an_outage_is_seen_by_its_lower_revision(self) -> None:
        lost, backup = FlakyDirectory(), FlakyDirectory()
        create(lost, "app", KEY)
        roster = fresh(Roster(lost))
        roster._store = backup
        roster.refresh()
        assert not knows(roster, KEY)
        assert backup.asked == [0]


class TestUsed:
    def _used_by(self, store: MemoryDirectory) -> dict[str, datetime | None]:
        return {key.spec.name: key.last_used_at for key in store.state().keys}

    def test_the_database_is_told_twice_a_minute(self, store: FlakyDirectory, clock: Clock) -> None:
        app, other = create(store, "app"), create(store, "other")
        roster = fresh(Roster(store, clock=clock, elapsed=clock.elapsed))
        told = len(store.told)
        for _ in range(1000):
            roster.used(app.id, clock() + 1)
            roster.used(other.id, clock() + 2)
        clock.advance(29)
        roster.keep()
        assert len(store.told) == told
        clock.advance(2)
        roster.keep()
        assert len(store.told) == told + 1
        first = datetime.fromtimestamp(START, UTC)
        assert self._used_by(store) == {"app": first + timedelta(seconds=1), "other": first + timedelta(seconds=2)}
        clock.advance(31)
        roster.keep()
        assert store.told[-1] == {}, "what was told is not told again"

    def test_it_is_no_change_that_would_be_read_back(self, store: FlakyDirectory, clock: Clock) -> None:
        app = create(store, "app")
        roster = fresh(Roster(store, clock=clock, elapsed=clock.elapsed))
        roster.used(app.id, clock())
        roster.write_used()
        roster.refresh()
        assert store.asked == [0]

    def test_what_could_not_be_told_is_told_later_with_what_came_since(
        self, store: FlakyDirectory, clock: Clock
    ) -> None:
        app, other = create(store, "app"), create(store, "other")
        roster = fresh(Roster(store, clock=clock, elapsed=clock.elapsed))
        roster.used(app.id, START + 1)
        roster.used(other.id, START + 1)
        store.trouble = DOWN
        with pytest.raises(StoreUnavailable):
            roster.write_used()
        roster.used(app.id, START + 9)
        store.trouble = None
        roster.write_used()
        assert store.told[-1] == {
            app.id: datetime.fromtimestamp(START + 9, UTC),
            other.id: datetime.fromtimestamp(START + 1, UTC),
        }

    def test_a_use_that_comes_while_telling_fails_is_the_later_one(
        self, store: FlakyDirectory, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        app = create(store, "app")
        roster = fresh(Roster(store))

        def failing(_: Mapping[str, datetime]) -> None:
            roster.used(app.id, START + 9)
            raise DOWN

        roster.used(app.id, START + 1)
        with monkeypatch.context() as patched:
            patched.setattr(store, "used", failing)
            with pytest.raises(StoreUnavailable):
                roster.write_used()
        roster.write_used()
        assert store.told[-1] == {app.id: datetime.fromtimestamp(START + 9, UTC)}

    def test_it_does_not_wait_for_the_thread_that_tells(self, store: FlakyDirectory, clock: Clock) -> None:
        """Calls note uses while the database is being told of others: none is lost."""
        app, other = create(store, "app"), create(store, "other")
        roster = fresh(Roster(store, clock=clock, elapsed=clock.elapsed))
        telling, go_on = threading.Event(), threading.Event()
        used = store.used

        def slow(last: Mapping[str, datetime]) -> None:
            telling.set()
            assert go_on.wait(10)
            used(last)

        store.used = slow  # type: ignore[method-assign]
        roster.used(app.id, START)
        thread = threading.Thread(target=roster.write_used)
        thread.start()
        assert telling.wait(10)
        roster.used(other.id, START)
        go_on.set()
        thread.join()
        roster.write_used()
        assert [list(told) for told in store.told[-2:]] == [[app.id], [other.id]]


class Watched(FlakyDirectory):
    """Notes whether garbage was collected while its changes were taken."""

    collecting: bool | None = None

    def changes(self, since: int) -> Generator[DirectoryChange]:
        for change in super().changes(since):
            self.collecting = gc.isenabled()
            yield change


class TestCollections:
    @pytest.fixture(autouse=True)
    def _few(self, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
        monkeypatch.setattr(roster_module, "_MANY", 10)
        gc.unfreeze()
        yield
        gc.unfreeze()

    @pytest.mark.parametrize(("many", "spared"), [(9, False), (10, True)])
    def test_nothing_is_collected_meanwhile_and_many_are_spared_afterwards(self, many: int, spared: bool) -> None:
        store = Watched()
        apply(store, keys_minted=tuple(minted(f"app-{number}") for number in range(many)))
        Roster(store).refresh()
        assert store.collecting is False
        assert gc.isenabled()
        assert (gc.get_freeze_count() > 0) is spared

    def test_a_change_among_many_spares_nothing(self) -> None:
        store = Watched()
        apply(store, keys_minted=tuple(minted(f"app-{number}") for number in range(20)))
        roster = fresh(Roster(store))
        gc.unfreeze()
        create(store, "new")
        roster.refresh()
        assert gc.get_freeze_count() == 0

    def test_trouble_leaves_the_collector_on(self, store: FlakyDirectory, monkeypatch: pytest.MonkeyPatch) -> None:
        def broken(since: int) -> Generator[DirectoryChange]:
            raise StoreUnavailable("down")
            yield

        create(store, "app")
        monkeypatch.setattr(store, "changes", broken)
        fails(Roster(store))
        assert gc.isenabled()


async def test_the_first_read_is_over_before_calls_come_and_may_fail(store: FlakyDirectory) -> None:
    roster = Roster(store)
    store.trouble = DOWN
    await roster.first_read()
    assert not roster.loaded
    store.trouble = None
    await roster.first_read()
    assert roster.loaded


class TestKeepFresh:
    @pytest.mark.parametrize(
        "trouble", [DOWN, ValueError(f"a row that cannot be read: {KEY}"), RuntimeError(KEY), MemoryError(KEY)]
    )
    async def test_it_goes_on_after_any_trouble_and_quotes_no_key(
        self,
        store: FlakyDirectory,
        trouble: Exception,
        caplog: pytest.LogCaptureFixture,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        monkeypatch.setattr(roster_module, "_PERIOD", 0.001)
        create(store, "app", KEY)
        roster = Roster(store)
        keeping = asyncio.ensure_future(roster.keep_fresh())
        try:
            await _until(lambda: roster.loaded)
            with caplog.at_level(logging.WARNING):
                store.trouble = trouble
                await _until(lambda: "the last known stay in force" in caplog.text)
            assert KEY not in caplog.text
            store.trouble = None
            store.revoke("app")
            await _until(lambda: not knows(roster, KEY))
        finally:
            keeping.cancel()
            with pytest.raises(asyncio.CancelledError):
                await keeping

    async def test_it_says_how_things_stand(
        self, store: FlakyDirectory, clock: Clock, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(roster_module, "_PERIOD", 0.001)
        store.trouble = DOWN
        roster = Roster(store, serve_for=60, clock=clock, elapsed=clock.elapsed)
        keeping = asyncio.ensure_future(roster.keep_fresh())
        try:
            await _until(lambda: "none is known yet: the database is down" in caplog.text)
            store.trouble = None
            await _until(lambda: roster.loaded)
            store.trouble = DOWN
            await _until(lambda: "the last known stay in force: the database is down" in caplog.text)
            clock.advance(61)
            await _until(lambda: "the last known are too old to serve: the database is down" in caplog.text)
        finally:
            keeping.cancel()
            with pytest.raises(asyncio.CancelledError):
                await keeping

    async def test_the_snapshot_follows_and_a_failure_to_write_stops_neither(
        self,
        store: FlakyDirectory,
        tmp_path: Path,
        caplog: pytest.LogCaptureFixture,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        monkeypatch.setattr(roster_module, "_PERIOD", 0.001)
        path = tmp_path / "directory.jsonl"
        store.deaf = True
        roster = Roster(store, saved=path)
        keeping = asyncio.ensure_future(roster.keep_fresh())
        try:
            await _until(lambda: "last uses of keys could not be written: read only" in caplog.text)
            create(store, "app", KEY)
            await _until(lambda: knows(roster, KEY))
            await _until(lambda: KEY[-4:] in path.read_text())
        finally:
            keeping.cancel()
            with pytest.raises(asyncio.CancelledError):
                await keeping

    async def test_calls_are_answered_while_it_reads(
        self, store: FlakyDirectory, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """The read is in a thread: a database that hangs does not hold up the event loop."""
        monkeypatch.setattr(roster_module, "_PERIOD", 0.001)
        create(store, "app", KEY)
        roster = fresh(Roster(store))
        asked, answer = threading.Event(), threading.Event()

        def hanging() -> int:
            asked.set()
            assert answer.wait(10)
            return 1

        monkeypatch.setattr(store, "revision", hanging)
        keeping = asyncio.ensure_future(roster.keep_fresh())
        try:
            await _until(asked.is_set)
            assert knows(roster, KEY)
        finally:
            answer.set()
            keeping.cancel()
            with pytest.raises(asyncio.CancelledError):
                await keeping


async def _until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(10):
        while not condition():
            await asyncio.sleep(0.001)
