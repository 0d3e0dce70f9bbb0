"""Everybody who may call, in memory: how it follows the database, and what a dead database changes."""

import asyncio
import copy
import logging
import os
import threading
from collections.abc import Callable, Generator, Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from extproc import roster as roster_module
from extproc.identity import keys
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
    """Unix time that stands until it is moved."""

    def __init__(self) -> None:
        self.time = START

    def __call__(self) -> float:
        return self.time

    def advance(self, seconds: float) -> None:
        self.time += seconds


class FlakyDirectory(MemoryDirectory):
    """A directory in memory that raises `trouble` while it is set, and notes what it is asked."""

    def __init__(self) -> None:
        super().__init__()
        self.trouble: Exception | None = None
        self.breaks_in_the_middle = False
        self.deaf = False  # answers, but takes no writes
        self.asked: list[int] = []  # since which revision
        self.told: list[dict[str, datetime]] = []

    def _fail(self) -> None:
        if self.trouble is not None:
            raise type(self.trouble)(*self.trouble.args)

    def revision(self) -> int:
        self._fail()
        return super().revision()

    def changes(self, since: int) -> Generator[DirectoryChange]:
        self.asked.append(since)
        for number, change in enumerate(super().changes(since)):
            if self.breaks_in_the_middle and number == 1:
                raise StoreUnavailable("gone in the middle")
            yield change

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

    def test_a_change_that_comes_while_it_reads_is_not_missed(self, store: FlakyDirectory) -> None:
        create(store, "app", KEY)
        roster = _fresh(Roster(store))
        revision = store.revision
        late = iter([lambda: store.revoke("app")])

        def asked() -> int:
            answer = revision()
            next(late, lambda: None)()  # between the question and the read
            return answer

        store.revision = asked  # type: ignore[method-assign]
        create(store, "other", OTHER)
        roster.refresh()
        roster.refresh()
        assert (_knows(roster, KEY), _knows(roster, OTHER)) == (False, True)

    def test_taking_many_changes_lets_the_event_loop_breathe(
        self, store: FlakyDirectory, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        pauses: list[float] = []
        monkeypatch.setattr("extproc.roster.time.sleep", pauses.append)
        apply(store, keys_minted=tuple(minted(f"app-{number}") for number in range(1000)))
        roster = _fresh(Roster(store))
        assert len(roster.current().keys) == 1000
        assert len(pauses) >= 1000 // 64
        assert all(0 < pause < 0.005 for pause in pauses)


class TestOutage:
    def test_the_last_known_directory_serves_for_a_while(self, store: FlakyDirectory, clock: Clock) -> None:
        create(store, "app", KEY)
        roster = _fresh(Roster(store, serve_for=60, clock=clock))
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
        roster = _fresh(Roster(store, serve_for=60, clock=clock))
        clock.advance(50)
        roster.refresh()  # nothing has changed, which is an answer too
        clock.advance(50)
        assert roster.loaded

    def test_it_serves_for_ever_where_that_is_wanted(self, store: FlakyDirectory, clock: Clock) -> None:
        create(store, "app", KEY)
        roster = _fresh(Roster(store, serve_for=None, clock=clock))
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
        roster = _fresh(Roster(store, serve_for=60, clock=clock))
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
        roster = _fresh(Roster(lost, clock=clock))
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
        roster = _fresh(Roster(store, clock=clock))
        told = len(store.told)
        for _ in range(1000):
            roster.used(app.id, clock() + 1)
            roster.used(other.id, clock() + 2)
        clock.advance(29)
        roster.refresh()
        assert len(store.told) == told
        clock.advance(2)
        roster.refresh()
        assert len(store.told) == told + 1
        first = datetime.fromtimestamp(START, UTC)
        assert self._used_by(store) == {"app": first + timedelta(seconds=1), "other": first + timedelta(seconds=2)}
        clock.advance(31)
        roster.refresh()
        assert store.told[-1] == {}, "what was told is not told again"

    def test_it_is_no_change_that_would_be_read_back(self, store: FlakyDirectory, clock: Clock) -> None:
        app = create(store, "app")
        roster = _fresh(Roster(store, clock=clock))
        roster.used(app.id, clock())
        roster.write_used()
        roster.refresh()
        assert store.asked == [0]

    def test_what_could_not_be_told_is_told_later_with_what_came_since(
        self, store: FlakyDirectory, clock: Clock
    ) -> None:
        app, other = create(store, "app"), create(store, "other")
        roster = _fresh(Roster(store, clock=clock))
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

    def test_it_does_not_wait_for_the_thread_that_tells(self, store: FlakyDirectory, clock: Clock) -> None:
        """Calls note uses while the database is being told of others: none is lost."""
        app, other = create(store, "app"), create(store, "other")
        roster = _fresh(Roster(store, clock=clock))
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
        roster = _fresh(Roster(store, saved=path, clock=clock))
        assert self._loaded(path) == {"app"}
        create(store, "other")
        clock.advance(29)
        roster.refresh()
        assert self._loaded(path) == {"app"}
        clock.advance(2)
        roster.refresh()
        assert self._loaded(path) == {"app", "other"}

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
        roster = _fresh(Roster(store, saved=path, clock=clock))
        inode, asked = path.stat().st_ino, len(store.asked)
        os.utime(path, (0, 0))
        clock.advance(31)
        roster.refresh()
        assert path.stat().st_mtime > 0
        assert (path.stat().st_ino, len(store.asked)) == (inode, asked)

    def test_one_that_was_deleted_is_written_again(self, store: FlakyDirectory, clock: Clock, path: Path) -> None:
        roster = _fresh(Roster(store, saved=path, clock=clock))
        path.unlink()
        clock.advance(31)
        roster.refresh()
        assert path.exists()

    def test_while_the_database_is_down_it_is_not_confirmed(
        self, store: FlakyDirectory, clock: Clock, path: Path
    ) -> None:
        roster = _fresh(Roster(store, saved=path, clock=clock))
        os.utime(path, (1000, 1000))
        store.trouble = DOWN
        clock.advance(31)
        _fails(roster)
        assert path.stat().st_mtime == 1000

    def test_a_database_that_only_reads_is_enough_for_it(self, store: FlakyDirectory, clock: Clock, path: Path) -> None:
        store.deaf = True
        roster = Roster(store, saved=path, clock=clock)
        _fails(roster, "read only")
        assert roster.loaded
        assert path.exists()

    def test_a_disk_that_is_full_costs_the_snapshot_alone(
        self, store: FlakyDirectory, clock: Clock, path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        create(store, "app", KEY)
        roster = _fresh(Roster(store, saved=path.parent / "nowhere" / "directory.jsonl", clock=clock))
        assert "the snapshot of the directory could not be written: No such file or directory" in caplog.text
        assert _knows(roster, KEY)

    def test_a_worker_starts_from_it_while_the_database_is_down(
        self, store: FlakyDirectory, clock: Clock, path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        create(store, "app", KEY)
        apply(store, teams=(team("red"),))
        before = _fresh(Roster(store, saved=path, clock=clock)).current()
        os.utime(path, (START - 100, START - 100))
        store.trouble = DOWN
        roster = Roster(store, serve_for=600, start_from=path, clock=clock)
        _fails(roster)
        assert roster.loaded
        assert roster.current() == before
        assert "the database is down: serving from the snapshot of 2027-01-15 07:58 UTC" in caplog.text

    def test_its_age_counts(self, store: FlakyDirectory, clock: Clock, path: Path) -> None:
        _fresh(Roster(store, saved=path, clock=clock))
        store.trouble = DOWN
        os.utime(path, (START - 100, START - 100))
        roster = Roster(store, serve_for=120, start_from=path, clock=clock)
        _fails(roster)
        assert roster.loaded
        clock.advance(21)
        assert not roster.loaded
        late = Roster(store, serve_for=120, start_from=path, clock=clock)
        _fails(late)
        with pytest.raises(StoreUnavailable, match="for too long"):
            late.current()
        lenient = Roster(store, serve_for=None, start_from=path, clock=clock)
        _fails(lenient)
        assert lenient.loaded

    def test_it_is_read_once_and_not_after_the_database_was_heard(
        self, store: FlakyDirectory, clock: Clock, path: Path
    ) -> None:
        create(store, "app", KEY)
        _fresh(Roster(store, saved=path, clock=clock))
        store.revoke("app")
        roster = _fresh(Roster(store, start_from=path, clock=clock))
        store.trouble = DOWN
        _fails(roster)
        assert not _knows(roster, KEY), "what the database has said since is not taken back"

    def test_what_was_revoked_since_is_gone_once_the_database_is_back(
        self, store: FlakyDirectory, clock: Clock, path: Path
    ) -> None:
        create(store, "app", KEY)
        apply(store, teams=(team("red"),))
        store.stop(StopScope.TEAM, "red", "")
        _fresh(Roster(store, saved=path, clock=clock))
        store.trouble = DOWN
        roster = Roster(store, quickstart=True, start_from=path, clock=clock)
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
            (b'{"format":"sluice directory","version":1}\n', "cut off"),
            (b'{"format":"sluice directory","version":1}\nrubbish\n', "damaged"),
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
        roster = Roster(store, serve_for=60, clock=clock)
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
