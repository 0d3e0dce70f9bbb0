"""Everybody who may call, in memory: how it follows the database, and what a dead database changes."""

import asyncio
import copy
import gc
import logging
import os
import threading
from collections.abc import Callable, Generator, Iterator, Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from extproc import roster as roster_module
from extproc.identity import keys
from extproc.identity.directory import PARTS, Directory, Key, KeyTable
from extproc.roster import Roster
from extproc.stores import snapshot
from extproc.stores.memory import MemoryDirectory
from extproc.stores.ports import DirectoryChange, KeyChange, StopScope, StoreUnavailable
from tests.support.stores import apply, create, minted, team

KEY = keys.mint(b"k" * 32)
OTHER = keys.mint(b"o" * 32)
START = 1_800_000_000.0  # Unix time
DOWN = StoreUnavailable("the database is down")


class Clock:
    """Unix time that stands until it is moved, and the seconds that really went by."""

    def __init__(self) -> None:
        self.time = START
        self.seconds = 5000.0

    def __call__(self) -> float:
        return self.time

    def elapsed(self) -> float:
        return self.seconds

    def advance(self, seconds: float) -> None:
        self.time += seconds
        self.seconds += seconds


class FlakyDirectory(MemoryDirectory):
    """A directory in memory that raises `trouble` while it is set, and notes what it is asked."""

    def __init__(self) -> None:
        super().__init__()
        self.trouble: Exception | None = None
        self.breaks_in_the_middle = False
        self.after_revision: Callable[[], object] | None = None  # done once, when the revision has been read
        self.in_changes: Callable[[], object] | None = None  # done once, when the first change has been read
        self.deaf = False  # answers, but takes no writes
        self.asked: list[int] = []  # since which revision
        self.told: list[dict[str, datetime]] = []

    def _fail(self) -> None:
        if self.trouble is not None:
            raise type(self.trouble)(*self.trouble.args)

    def revision(self) -> int:
        self._fail()
        answer = super().revision()
        todo, self.after_revision = self.after_revision, None
        if todo is not None:
            todo()
        return answer

    def changes(self, since: int) -> Generator[DirectoryChange]:
        self.asked.append(since)
        for number, change in enumerate(super().changes(since)):
            if self.breaks_in_the_middle and number == 1:
                raise StoreUnavailable("gone in the middle")
            yield change
            todo, self.in_changes = self.in_changes, None
            if todo is not None:
                todo()

    def used(self, last: Mapping[str, datetime]) -> None:
        self._fail()
        if self.deaf:
            raise StoreUnavailable("read only")
        self.told.append(dict(last))
        super().used(last)


@pytest.fixture
def store() -> FlakyDirectory:
    return FlakyDirectory()


@pytest.fixture
def clock() -> Clock:
    return Clock()


def _fresh(roster: Roster) -> Roster:
    roster.refresh()
    roster.keep()
    return roster


def _knows(roster: Roster, key: str) -> bool:
    return keys.fingerprint(key) in roster.current().keys


def _fails(roster: Roster, words: str = "down") -> None:
    with pytest.raises(StoreUnavailable, match=words):
        roster.refresh()


class TestFollowing:
    def test_nobody_is_known_before_the_first_read(self, store: FlakyDirectory) -> None:
        roster = Roster(store, quickstart=True)
        assert not roster.loaded
        with pytest.raises(StoreUnavailable, match="not been read yet"):
            roster.current()
        roster.refresh()
        assert roster.loaded
        assert not _knows(roster, KEY)

    @pytest.mark.parametrize("wanted", [True, False])
    def test_the_quickstart_key_is_known_where_it_is_switched_on(self, store: FlakyDirectory, wanted: bool) -> None:
        assert _knows(_fresh(Roster(store, quickstart=wanted)), keys.QUICKSTART_KEY) is wanted

    def test_changes_are_in_force_after_a_refresh(self, store: FlakyDirectory) -> None:
        roster = _fresh(Roster(store, quickstart=True))
        create(store, "app", KEY)
        apply(store, teams=(team("red"),))
        store.stop(StopScope.TEAM, "red", "leaked")
        assert not _knows(roster, KEY)
        roster.refresh()
        assert _knows(roster, KEY)
        assert list(roster.current().teams) == ["red"]
        assert roster.current().stops == {("team", "red")}
        store.revoke("app")
        store.lift(StopScope.TEAM, "red")
        roster.refresh()
        assert not _knows(roster, KEY)
        assert roster.current().stops == frozenset()
        assert _knows(roster, keys.QUICKSTART_KEY)

    def test_only_what_has_changed_is_read_and_only_when_it_has(self, store: FlakyDirectory) -> None:
        roster = _fresh(Roster(store))
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
        roster = _fresh(Roster(store))
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
        roster = _fresh(Roster(store))
        create(store, "other", OTHER)
        if moment.startswith("between"):
            store.after_revision = lambda: store.revoke("app")
        else:
            store.in_changes = lambda: store.revoke("app")
        roster.refresh()
        assert store.after_revision is store.in_changes is None, "it has come"
        roster.refresh()
        assert (_knows(roster, KEY), _knows(roster, OTHER)) == (False, True)

    def test_taking_many_changes_lets_the_event_loop_breathe(
        self, store: FlakyDirectory, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        pauses: list[float] = []
        monkeypatch.setattr("extproc.roster.time.sleep", pauses.append)
        apply(store, keys_minted=tuple(minted(f"app-{number}") for number in range(500)))
        roster = _fresh(Roster(store))
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
        roster = _fresh(Roster(store))
        left = PARTS
        gone: list[int] = []  # between two pauses

        class Part(dict[bytes, Key]):
            def __del__(self) -> None:
                nonlocal left
                left -= 1

        def pause(_seconds: float) -> None:
            gone.append(PARTS - left - sum(gone))
            assert _knows(roster, KEY)

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
        roster = _fresh(Roster(store, serve_for=60, clock=clock, elapsed=clock.elapsed))
        store.trouble = DOWN
        clock.advance(60)
        _fails(roster)
        assert roster.loaded
        assert _knows(roster, KEY)
        clock.advance(0.5)
        _fails(roster)
        assert not roster.loaded
        with pytest.raises(StoreUnavailable, match="for too long"):
            roster.current()

    def test_the_time_runs_from_when_it_was_last_heard_of(self, store: FlakyDirectory, clock: Clock) -> None:
        roster = _fresh(Roster(store, serve_for=60, clock=clock, elapsed=clock.elapsed))
        clock.advance(50)
        roster.refresh()  # nothing has changed, which is an answer too
        clock.advance(50)
        assert roster.loaded

    @pytest.mark.parametrize("step", [-3600, 3600])
    def test_a_clock_that_is_set_neither_prolongs_nor_shortens_it(
        self, store: FlakyDirectory, clock: Clock, step: float
    ) -> None:
        roster = _fresh(Roster(store, serve_for=60, clock=clock, elapsed=clock.elapsed))
        clock.time += step
        clock.advance(59)
        assert roster.loaded
        clock.advance(2)
        assert not roster.loaded

    def test_it_serves_for_ever_where_that_is_wanted(self, store: FlakyDirectory, clock: Clock) -> None:
        create(store, "app", KEY)
        roster = _fresh(Roster(store, serve_for=None, clock=clock, elapsed=clock.elapsed))
        store.trouble = DOWN
        clock.advance(1e9)
        _fails(roster)
        assert roster.loaded
        assert _knows(roster, KEY)

    def test_for_ever_does_not_mean_without_ever_having_read(self, store: FlakyDirectory) -> None:
        store.trouble = DOWN
        roster = Roster(store, quickstart=True, serve_for=None)
        _fails(roster)
        assert not roster.loaded
        with pytest.raises(StoreUnavailable):
            roster.current()

    def test_once_it_is_back_all_is_as_it_says(self, store: FlakyDirectory, clock: Clock) -> None:
        create(store, "app", KEY)
        roster = _fresh(Roster(store, serve_for=60, clock=clock, elapsed=clock.elapsed))
        store.trouble = DOWN
        clock.advance(1000)
        _fails(roster)
        store.revoke("app")
        create(store, "other", OTHER)
        store.trouble = None
        roster.refresh()
        assert roster.loaded
        assert (_knows(roster, KEY), _knows(roster, OTHER)) == (False, True)

    def test_one_that_goes_away_in_the_middle_of_a_read_changes_nothing(self, store: FlakyDirectory) -> None:
        create(store, "app", KEY)
        roster = _fresh(Roster(store))
        before = roster.current()
        at_first = copy.deepcopy(before)
        apply(store, teams=(team("red"),))
        store.revoke("app")
        store.breaks_in_the_middle = True
        _fails(roster, "in the middle")
        assert roster.current() is before
        assert before == at_first
        store.breaks_in_the_middle = False
        roster.refresh()
        assert not _knows(roster, KEY)
        assert list(roster.current().teams) == ["red"]

    def test_a_first_read_that_breaks_off_leaves_nobody_known(self, store: FlakyDirectory) -> None:
        for name in ("a", "b", "c"):
            create(store, name)
        store.breaks_in_the_middle = True
        roster = Roster(store)
        _fails(roster, "in the middle")
        assert not roster.loaded

    @pytest.mark.parametrize("later_writes", [0, 1, 2, 5])
    def test_a_backup_that_was_put_back_is_read_anew(self, clock: Clock, later_writes: int) -> None:
        """With fewer, as many and more changes than the database had that it replaces."""
        lost, backup = FlakyDirectory(), FlakyDirectory()
        for database in (lost, backup):
            create(database, "kept", OTHER)
        create(lost, "app", KEY)
        lost.stop(StopScope.EVERYTHING, "", "fire")
        roster = _fresh(Roster(lost, clock=clock, elapsed=clock.elapsed))
        lost.trouble = DOWN
        _fails(roster)
        for number in range(later_writes):
            create(backup, f"new-{number}")
        roster._store = backup  # as the same URL leads elsewhere
        roster.refresh()
        assert not _knows(roster, KEY)
        assert _knows(roster, OTHER)
        assert len(roster.current().keys) == 1 + later_writes
        assert roster.current().stops == frozenset()

    def test_one_that_was_put_back_without_an_outage_is_seen_by_its_lower_revision(self) -> None:
        lost, backup = FlakyDirectory(), FlakyDirectory()
        create(lost, "app", KEY)
        roster = _fresh(Roster(lost))
        roster._store = backup
        roster.refresh()
        assert not _knows(roster, KEY)
        assert backup.asked == [0]


class TestUsed:
    def _used_by(self, store: MemoryDirectory) -> dict[str, datetime | None]:
        return {key.spec.name: key.last_used_at for key in store.state().keys}

    def test_the_database_is_told_twice_a_minute(self, store: FlakyDirectory, clock: Clock) -> None:
        app, other = create(store, "app"), create(store, "other")
        roster = _fresh(Roster(store, clock=clock, elapsed=clock.elapsed))
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
        roster = _fresh(Roster(store, clock=clock, elapsed=clock.elapsed))
        roster.used(app.id, clock())
        roster.write_used()
        roster.refresh()
        assert store.asked == [0]

    def test_what_could_not_be_told_is_told_later_with_what_came_since(
        self, store: FlakyDirectory, clock: Clock
    ) -> None:
        app, other = create(store, "app"), create(store, "other")
        roster = _fresh(Roster(store, clock=clock, elapsed=clock.elapsed))
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
        roster = _fresh(Roster(store))

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
        roster = _fresh(Roster(store, clock=clock, elapsed=clock.elapsed))
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


class TestSnapshot:
    @pytest.fixture
    def path(self, tmp_path: Path) -> Path:
        return tmp_path / "directory.jsonl"

    def _loaded(self, path: Path) -> set[str]:
        """The names of all keys in the file."""
        return {change.record.spec.name for change in snapshot.load(path) if isinstance(change, KeyChange)}

    def test_it_is_written_with_the_first_read_and_kept_in_step(
        self, store: FlakyDirectory, clock: Clock, path: Path
    ) -> None:
        create(store, "app", KEY)
        roster = _fresh(Roster(store, saved=path, clock=clock, elapsed=clock.elapsed))
        assert self._loaded(path) == {"app"}
        create(store, "other")
        _fresh(roster)
        assert self._loaded(path) == {"app", "other"}, "at once, with no time gone by"
        store.revoke("app")
        _fresh(roster)
        assert self._loaded(path) == {"other"}

    def test_what_was_revoked_or_stopped_stays_so_for_a_worker_that_is_restarted_in_an_outage(
        self, store: FlakyDirectory, clock: Clock, path: Path
    ) -> None:
        create(store, "app", KEY)
        roster = _fresh(Roster(store, saved=path, clock=clock, elapsed=clock.elapsed))
        store.revoke("app")
        store.stop(StopScope.EVERYTHING, "", "fire")
        clock.advance(2)
        _fresh(roster)
        store.trouble = DOWN
        restarted = Roster(store, start_from=path, clock=clock, elapsed=clock.elapsed)
        _fails(restarted)
        assert not _knows(restarted, KEY)
        assert restarted.current().stops == {("everything", "")}

    def test_a_database_of_the_same_number_that_was_put_back_is_saved(
        self, store: FlakyDirectory, clock: Clock, path: Path
    ) -> None:
        create(store, "app", KEY)
        roster = _fresh(Roster(store, saved=path, clock=clock, elapsed=clock.elapsed))
        store.trouble = DOWN
        _fails(roster)
        backup = FlakyDirectory()
        create(backup, "other")
        assert backup.revision() == MemoryDirectory.revision(store)
        roster._store = backup
        _fresh(roster)
        assert self._loaded(path) == {"other"}

    def test_a_revocation_is_not_held_up_by_the_writing(self, store: FlakyDirectory, clock: Clock, path: Path) -> None:
        create(store, "app", KEY)
        roster = Roster(store, saved=path, clock=clock, elapsed=clock.elapsed)
        roster.refresh()

        def meanwhile() -> None:
            store.revoke("app")
            roster.refresh()
            assert not _knows(roster, KEY)

        store.in_changes = meanwhile
        roster.keep()
        assert store.in_changes is None, "it has come"
        assert self._loaded(path) == {"app"}
        roster.keep()
        assert self._loaded(path) == set(), "what came while it was written is written next"

    def test_it_can_be_loaded_whatever_has_been_removed(self, store: FlakyDirectory, path: Path) -> None:
        create(store, "app", KEY)
        store.revoke("app")
        apply(store, teams=(team("red"),))
        apply(store, teams_removed=("red",))
        store.stop(StopScope.TEAM, "red", "")
        store.lift(StopScope.TEAM, "red")
        _fresh(Roster(store, saved=path))
        assert list(snapshot.load(path)) == []

    def test_where_nothing_has_changed_it_is_confirmed_only(
        self, store: FlakyDirectory, clock: Clock, path: Path
    ) -> None:
        roster = _fresh(Roster(store, saved=path, clock=clock, elapsed=clock.elapsed))
        inode, asked = path.stat().st_ino, len(store.asked)
        assert path.stat().st_mtime == START
        clock.advance(29)
        _fresh(roster)
        assert path.stat().st_mtime == START
        clock.advance(2)
        roster.refresh()
        clock.advance(1)
        roster.keep()
        assert path.stat().st_mtime == START + 31, "when the database was heard of, not when that was written"
        assert (path.stat().st_ino, len(store.asked)) == (inode, asked)

    def test_one_that_was_deleted_is_written_again(self, store: FlakyDirectory, clock: Clock, path: Path) -> None:
        roster = _fresh(Roster(store, saved=path, clock=clock, elapsed=clock.elapsed))
        path.unlink()
        clock.advance(31)
        _fresh(roster)
        assert path.exists()

    def test_while_the_database_is_down_it_is_not_confirmed(
        self, store: FlakyDirectory, clock: Clock, path: Path
    ) -> None:
        roster = _fresh(Roster(store, saved=path, clock=clock, elapsed=clock.elapsed))
        os.utime(path, (1000, 1000))
        store.trouble = DOWN
        clock.advance(31)
        _fails(roster)
        roster.keep()
        assert path.stat().st_mtime == 1000

    def test_a_database_that_only_reads_is_enough_for_it(self, store: FlakyDirectory, clock: Clock, path: Path) -> None:
        store.deaf = True
        roster = Roster(store, saved=path, clock=clock, elapsed=clock.elapsed)
        roster.refresh()
        with pytest.raises(StoreUnavailable, match="read only"):
            roster.keep()
        assert roster.loaded
        assert path.exists()

    def test_a_disk_that_is_full_costs_the_snapshot_alone(
        self, store: FlakyDirectory, clock: Clock, path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        create(store, "app", KEY)
        roster = _fresh(
            Roster(store, saved=path.parent / "nowhere" / "directory.jsonl", clock=clock, elapsed=clock.elapsed)
        )
        assert "the snapshot of the directory could not be written: No such file or directory" in caplog.text
        assert _knows(roster, KEY)
        roster.keep()
        assert len(caplog.records) == 1, "it is not tried again at every refresh"
        clock.advance(31)
        roster.keep()
        assert len(caplog.records) == 2

    def test_a_worker_starts_from_it_while_the_database_is_down(
        self, store: FlakyDirectory, clock: Clock, path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        create(store, "app", KEY)
        apply(store, teams=(team("red"),))
        before = _fresh(Roster(store, saved=path, clock=clock, elapsed=clock.elapsed)).current()
        os.utime(path, (START - 100, START - 100))
        store.trouble = DOWN
        roster = Roster(store, serve_for=600, start_from=path, clock=clock, elapsed=clock.elapsed)
        _fails(roster)
        assert roster.loaded
        assert roster.current() == before
        assert "the database is down: serving from the snapshot of 2027-01-15 07:58 UTC" in caplog.text

    @pytest.mark.parametrize(("ahead", "usable"), [(59, True), (61, False)])
    def test_one_from_the_future_is_not_used(
        self, store: FlakyDirectory, clock: Clock, path: Path, ahead: float, usable: bool
    ) -> None:
        """It would be young for as long as it likes."""
        _fresh(Roster(store, saved=path, clock=clock, elapsed=clock.elapsed))
        os.utime(path, (START + ahead, START + ahead))
        store.trouble = DOWN
        roster = Roster(store, serve_for=60, start_from=path, clock=clock, elapsed=clock.elapsed)
        _fails(roster, "down$" if usable else "from the future")
        assert roster.loaded is usable
        clock.advance(61)
        assert not roster.loaded

    def test_its_age_counts(self, store: FlakyDirectory, clock: Clock, path: Path) -> None:
        _fresh(Roster(store, saved=path, clock=clock, elapsed=clock.elapsed))
        store.trouble = DOWN
        os.utime(path, (START - 100, START - 100))
        roster = Roster(store, serve_for=120, start_from=path, clock=clock, elapsed=clock.elapsed)
        _fails(roster)
        assert roster.loaded
        clock.advance(21)
        assert not roster.loaded
        late = Roster(store, serve_for=120, start_from=path, clock=clock, elapsed=clock.elapsed)
        _fails(late)
        with pytest.raises(StoreUnavailable, match="for too long"):
            late.current()
        lenient = Roster(store, serve_for=None, start_from=path, clock=clock, elapsed=clock.elapsed)
        _fails(lenient)
        assert lenient.loaded

    def test_it_is_read_once_and_not_after_the_database_was_heard(
        self, store: FlakyDirectory, clock: Clock, path: Path
    ) -> None:
        create(store, "app", KEY)
        _fresh(Roster(store, saved=path, clock=clock, elapsed=clock.elapsed))
        store.revoke("app")
        roster = _fresh(Roster(store, start_from=path, clock=clock, elapsed=clock.elapsed))
        store.trouble = DOWN
        _fails(roster)
        assert not _knows(roster, KEY), "what the database has said since is not taken back"

    def test_what_was_revoked_since_is_gone_once_the_database_is_back(
        self, store: FlakyDirectory, clock: Clock, path: Path
    ) -> None:
        create(store, "app", KEY)
        apply(store, teams=(team("red"),))
        store.stop(StopScope.TEAM, "red", "")
        _fresh(Roster(store, saved=path, clock=clock, elapsed=clock.elapsed))
        store.trouble = DOWN
        roster = Roster(store, quickstart=True, start_from=path, clock=clock, elapsed=clock.elapsed)
        _fails(roster)
        assert _knows(roster, KEY)
        assert _knows(roster, keys.QUICKSTART_KEY)
        store.trouble = None
        store.revoke("app")
        apply(store, teams_removed=("red",))
        store.lift(StopScope.TEAM, "red")
        create(store, "other", OTHER)
        roster.refresh()
        assert set(roster.current().keys) == {keys.fingerprint(OTHER), keys.fingerprint(keys.QUICKSTART_KEY)}
        assert (dict(roster.current().teams), roster.current().stops) == ({}, frozenset())

    @pytest.mark.parametrize(
        ("content", "words"),
        [
            (None, "there is no snapshot file: No such file"),
            (b"", "of another version"),
            (b'{"format":"sluice directory","version":2}\n', "cut off"),
            (b'{"format":"sluice directory","version":2}\nrubbish\n', "damaged"),
        ],
    )
    def test_one_that_cannot_be_used_is_told_beside_the_trouble(
        self, store: FlakyDirectory, path: Path, content: bytes | None, words: str
    ) -> None:
        if content is not None:
            path.write_bytes(content)
        store.trouble = DOWN
        roster = Roster(store, start_from=path)
        _fails(roster, f"^the database is down; .*{words}")
        assert not roster.loaded

    @pytest.mark.parametrize(("good", "bad"), [(b"10.0.0.0/8", b"10.0.0.1/8"), (b'"digest":"', b'"digest":"x')])
    def test_one_with_what_no_store_would_hold_is_damaged(
        self, store: FlakyDirectory, path: Path, good: bytes, bad: bytes
    ) -> None:
        create(store, "app", KEY, ip_ranges=("10.0.0.0/8",))
        create(store, "other", OTHER)
        _fresh(Roster(store, saved=path))
        path.write_bytes(path.read_bytes().replace(good, bad, 1))
        store.trouble = DOWN
        roster = Roster(store, start_from=path)
        _fails(roster, "damaged")
        assert not roster.loaded

    def test_nothing_of_a_spoiled_one_is_left_when_a_good_one_is_there(self, store: FlakyDirectory, path: Path) -> None:
        create(store, "app", KEY)
        create(store, "other", OTHER)
        _fresh(Roster(store, saved=path))
        spoiled = path.read_bytes()[:-5]
        store.revoke("app")
        _fresh(Roster(store, saved=path))
        good = path.read_bytes()
        store.trouble = DOWN
        roster = Roster(store, start_from=path)
        path.write_bytes(spoiled)
        _fails(roster, "damaged")
        path.write_bytes(good)
        _fails(roster)
        assert (_knows(roster, KEY), _knows(roster, OTHER)) == (False, True)

    def test_a_spoiled_one_does_no_harm_once_the_database_is_back(self, store: FlakyDirectory, path: Path) -> None:
        create(store, "app", KEY)
        _fresh(Roster(store, saved=path))
        path.write_bytes(path.read_bytes()[:-5])
        store.trouble = DOWN
        roster = Roster(store, start_from=path)
        _fails(roster)
        store.revoke("app")
        store.trouble = None
        roster.refresh()
        assert not _knows(roster, KEY)


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
        roster = _fresh(Roster(store))
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
        _fails(Roster(store))
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
            await _until(lambda: not _knows(roster, KEY))
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
            await _until(lambda: _knows(roster, KEY))
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
        roster = _fresh(Roster(store))
        asked, answer = threading.Event(), threading.Event()

        def hanging() -> int:
            asked.set()
            assert answer.wait(10)
            return 1

        monkeypatch.setattr(store, "revision", hanging)
        keeping = asyncio.ensure_future(roster.keep_fresh())
        try:
            await _until(asked.is_set)
            assert _knows(roster, KEY)
        finally:
            answer.set()
            keeping.cancel()
            with pytest.raises(asyncio.CancelledError):
                await keeping


async def _until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(10):
        while not condition():
            await asyncio.sleep(0.001)
