"""The file that keeps everybody who may call while the database is away."""

import os
from pathlib import Path

import pytest

from extproc.identity import keys
from extproc.roster import Roster
from extproc.stores import snapshot
from extproc.stores.memory import MemoryDirectory
from extproc.stores.ports import KeyChange, StopScope, StoreUnavailable
from tests.support.rosters import DOWN, KEY, OTHER, START, Clock, FlakyDirectory, fails, fresh, knows
from tests.support.stores import apply, create, team


@pytest.fixture
def store() -> FlakyDirectory:
    return FlakyDirectory()


@pytest.fixture
def clock() -> Clock:
    return Clock()


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
        roster = fresh(Roster(store, saved=path, clock=clock, elapsed=clock.elapsed))
        assert self._loaded(path) == {"app"}
        create(store, "other")
        fresh(roster)
        assert self._loaded(path) == {"app", "other"}, "at once, with no time gone by"
        store.revoke("app")
        fresh(roster)
        assert self._loaded(path) == {"other"}

    def test_what_was_revoked_or_stopped_stays_so_for_a_worker_that_is_restarted_in_an_outage(
        self, store: FlakyDirectory, clock: Clock, path: Path
    ) -> None:
        create(store, "app", KEY)
        roster = fresh(Roster(store, saved=path, clock=clock, elapsed=clock.elapsed))
        store.revoke("app")
        store.stop(StopScope.EVERYTHING, "", "fire")
        clock.advance(2)
        fresh(roster)
        store.trouble = DOWN
        restarted = Roster(store, start_from=path, clock=clock, elapsed=clock.elapsed)
        fails(restarted)
        assert not knows(restarted, KEY)
        assert restarted.current().stops == {("everything", "")}

    def test_a_database_of_the_same_number_that_was_put_back_is_saved(
        self, store: FlakyDirectory, clock: Clock, path: Path
    ) -> None:
        create(store, "app", KEY)
        roster = fresh(Roster(store, saved=path, clock=clock, elapsed=clock.elapsed))
        store.trouble = DOWN
        fails(roster)
        backup = FlakyDirectory()
        create(backup, "other")
        assert backup.revision() == MemoryDirectory.revision(store)
        roster._store = backup
        fresh(roster)
        assert self._loaded(path) == {"other"}

    def test_a_revocation_is_not_held_up_by_the_writing(self, store: FlakyDirectory, clock: Clock, path: Path) -> None:
        create(store, "app", KEY)
        roster = Roster(store, saved=path, clock=clock, elapsed=clock.elapsed)
        roster.refresh()

        def meanwhile() -> None:
            store.revoke("app")
            roster.refresh()
            assert not knows(roster, KEY)

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
        fresh(Roster(store, saved=path))
        assert list(snapshot.load(path)) == []

    def test_where_nothing_has_changed_it_is_confirmed_only(
        self, store: FlakyDirectory, clock: Clock, path: Path
    ) -> None:
        roster = fresh(Roster(store, saved=path, clock=clock, elapsed=clock.elapsed))
        inode, asked = path.stat().st_ino, len(store.asked)
        assert path.stat().st_mtime == START
        clock.advance(29)
        fresh(roster)
        assert path.stat().st_mtime == START
        clock.advance(2)
        roster.refresh()
        clock.advance(1)
        roster.keep()
        assert path.stat().st_mtime == START + 31, "when the database was heard of, not when that was written"
        assert (path.stat().st_ino, len(store.asked)) == (inode, asked)

    def test_one_that_was_deleted_is_written_again(self, store: FlakyDirectory, clock: Clock, path: Path) -> None:
        roster = fresh(Roster(store, saved=path, clock=clock, elapsed=clock.elapsed))
        path.unlink()
        clock.advance(31)
        fresh(roster)
        assert path.exists()

    def test_while_the_database_is_down_it_is_not_confirmed(
        self, store: FlakyDirectory, clock: Clock, path: Path
    ) -> None:
        roster = fresh(Roster(store, saved=path, clock=clock, elapsed=clock.elapsed))
        os.utime(path, (1000, 1000))
        store.trouble = DOWN
        clock.advance(31)
        fails(roster)
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
        roster = fresh(
            Roster(store, saved=path.parent / "nowhere" / "directory.jsonl", clock=clock, elapsed=clock.elapsed)
        )
        assert "the snapshot of the directory could not be written: No such file or directory" in caplog.text
        assert knows(roster, KEY)
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
        before = fresh(Roster(store, saved=path, clock=clock, elapsed=clock.elapsed)).current()
        os.utime(path, (START - 100, START - 100))
        store.trouble = DOWN
        roster = Roster(store, serve_for=600, start_from=path, clock=clock, elapsed=clock.elapsed)
        fails(roster)
        assert roster.loaded
        assert roster.current() == before
        assert "the database is down: serving from the snapshot of 2027-01-15 07:58 UTC" in caplog.text

    @pytest.mark.parametrize(("ahead", "usable"), [(59, True), (61, False)])
    def test_one_from_the_future_is_not_used(
        self, store: FlakyDirectory, clock: Clock, path: Path, ahead: float, usable: bool
    ) -> None:
        """It would be young for as long as it likes."""
        fresh(Roster(store, saved=path, clock=clock, elapsed=clock.elapsed))
        os.utime(path, (START + ahead, START + ahead))
        store.trouble = DOWN
        roster = Roster(store, serve_for=60, start_from=path, clock=clock, elapsed=clock.elapsed)
        fails(roster, "down$" if usable else "from the future")
        assert roster.loaded is usable
        clock.advance(61)
        assert not roster.loaded

    def test_its_age_counts(self, store: FlakyDirectory, clock: Clock, path: Path) -> None:
        fresh(Roster(store, saved=path, clock=clock, elapsed=clock.elapsed))
        store.trouble = DOWN
        os.utime(path, (START - 100, START - 100))
        roster = Roster(store, serve_for=120, start_from=path, clock=clock, elapsed=clock.elapsed)
        fails(roster)
        assert roster.loaded
        clock.advance(21)
        assert not roster.loaded
        late = Roster(store, serve_for=120, start_from=path, clock=clock, elapsed=clock.elapsed)
        fails(late)
        with pytest.raises(StoreUnavailable, match="for too long"):
            late.current()
        lenient = Roster(store, serve_for=None, start_from=path, clock=clock, elapsed=clock.elapsed)
        fails(lenient)
        assert lenient.loaded

    def test_it_is_read_once_and_not_after_the_database_was_heard(
        self, store: FlakyDirectory, clock: Clock, path: Path
    ) -> None:
        create(store, "app", KEY)
        fresh(Roster(store, saved=path, clock=clock, elapsed=clock.elapsed))
        store.revoke("app")
        roster = fresh(Roster(store, start_from=path, clock=clock, elapsed=clock.elapsed))
        store.trouble = DOWN
        fails(roster)
        assert not knows(roster, KEY), "what the database has said since is not taken back"

    def test_what_was_revoked_since_is_gone_once_the_database_is_back(
        self, store: FlakyDirectory, clock: Clock, path: Path
    ) -> None:
        create(store, "app", KEY)
        apply(store, teams=(team("red"),))
        store.stop(StopScope.TEAM, "red", "")
        fresh(Roster(store, saved=path, clock=clock, elapsed=clock.elapsed))
        store.trouble = DOWN
        roster = Roster(store, quickstart=True, start_from=path, clock=clock, elapsed=clock.elapsed)
        fails(roster)
        assert knows(roster, KEY)
        assert knows(roster, keys.QUICKSTART_KEY)
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
        fails(roster, f"^the database is down; .*{words}")
        assert not roster.loaded

    @pytest.mark.parametrize(("good", "bad"), [(b"10.0.0.0/8", b"10.0.0.1/8"), (b'"digest":"', b'"digest":"x')])
    def test_one_with_what_no_store_would_hold_is_damaged(
        self, store: FlakyDirectory, path: Path, good: bytes, bad: bytes
    ) -> None:
        create(store, "app", KEY, ip_ranges=("10.0.0.0/8",))
        create(store, "other", OTHER)
        fresh(Roster(store, saved=path))
        path.write_bytes(path.read_bytes().replace(good, bad, 1))
        store.trouble = DOWN
        roster = Roster(store, start_from=path)
        fails(roster, "damaged")
        assert not roster.loaded

    def test_nothing_of_a_spoiled_one_is_left_when_a_good_one_is_there(self, store: FlakyDirectory, path: Path) -> None:
        create(store, "app", KEY)
        create(store, "other", OTHER)
        fresh(Roster(store, saved=path))
        spoiled = path.read_bytes()[:-5]
        store.revoke("app")
        fresh(Roster(store, saved=path))
        good = path.read_bytes()
        store.trouble = DOWN
        roster = Roster(store, start_from=path)
        path.write_bytes(spoiled)
        fails(roster, "damaged")
        path.write_bytes(good)
        fails(roster)
        assert (knows(roster, KEY), knows(roster, OTHER)) == (False, True)

    def test_a_spoiled_one_does_no_harm_once_the_database_is_back(self, store: FlakyDirectory, path: Path) -> None:
        create(store, "app", KEY)
        fresh(Roster(store, saved=path))
        path.write_bytes(path.read_bytes()[:-5])
        store.trouble = DOWN
        roster = Roster(store, start_from=path)
        fails(roster)
        store.revoke("app")
        store.trouble = None
        roster.refresh()
        assert not knows(roster, KEY)
