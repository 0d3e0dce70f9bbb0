"""The spool: what is written is read again, whoever died meanwhile, and what is old makes room."""

import errno
import fcntl
import os
import stat
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from extproc.stores import spool
from extproc.stores.counters import Counter, Draw, Window
from extproc.stores.spool import KEPT_MS, Begun, Settlement, Spool

NOW = 1_790_000_000_000
AMOUNTS = st.integers(0, 2**53 - 1)
COUNTERS = st.one_of(
    st.builds(Counter, st.text(), st.just(0)),
    st.builds(Counter, st.text(), st.just(0), sliding=st.integers(1, 2**40)),
    st.builds(Counter, st.text(), st.just(0), st.lists(st.builds(Window, AMOUNTS, AMOUNTS), max_size=2).map(tuple)),
)
SETTLEMENTS = st.builds(
    Settlement,
    st.text(),
    st.lists(st.builds(Draw, COUNTERS, AMOUNTS, st.just(0)), max_size=3).map(tuple),
    st.binary(),
    AMOUNTS,
)


def one(number: int = 0, at: int = NOW, size: int = 10) -> Settlement:
    return Settlement(f"hold {number}", (Draw(Counter("tokens", 0, sliding=1000), number),), b"e" * size, at)


def names(log: Spool, begin: int = 0, end: int | None = None) -> list[str]:
    """The holds that a stretch is about, read three at a time."""
    found, end = [], log.end if end is None else end
    while begin < end:
        some, begin = log.read(begin, end, 3)
        found += [settlement.hold for settlement in some]
    return found


def age(root: Path, ms: int) -> None:
    """Make all segments look as if they had been written so long before NOW."""
    for path in root.glob("*.jsonl"):
        os.utime(path, ns=((NOW - ms) * 1_000_000,) * 2)


def left_behind(root: Path, *settlements: Settlement, cap: int = 1 << 20) -> None:
    """A spool whose owner is gone."""
    log = spool.begin(root, cap)
    if settlements:
        log.write(settlements)
    log.close()


class TestLines:
    @settings(max_examples=200, deadline=None)
    @given(st.lists(SETTLEMENTS, min_size=1, max_size=5))
    def test_what_is_written_is_read(
        self, tmp_path_factory: pytest.TempPathFactory, settlements: list[Settlement]
    ) -> None:
        log = spool.begin(tmp_path_factory.mktemp("spool"))
        log.write(settlements)
        places = [settlement.at_byte for settlement in settlements]
        for settlement in settlements:
            settlement.at_byte = None
        some, then = log.read(0, log.end, 10)
        assert (some, then) == (settlements, log.end)
        for number, place in enumerate(places):
            assert place is not None
            assert log.read(place, log.end, 1)[0] == settlements[number : number + 1]
        log.close()

    def test_what_is_not_text_is_left_out(self, tmp_path: Path) -> None:
        log = spool.begin(tmp_path)
        odd = Settlement("\ud800", (), b"", NOW)
        log.write([one(1), odd, one(2)])
        assert odd.at_byte is None
        assert names(log) == ["hold 1", "hold 2"]
        log.close()

    def test_no_more_than_asked_for(self, tmp_path: Path) -> None:
        log = spool.begin(tmp_path)
        settlements = [one(number) for number in range(10)]
        log.write(settlements)
        some, then = log.read(0, log.end, 4)
        assert [settlement.hold for settlement in some] == [f"hold {number}" for number in range(4)]
        assert then == settlements[4].at_byte
        assert log.read(log.end, log.end, 4) == ([], log.end)
        log.close()


class TestSince:
    """Since when the store remembers: what one worker noted, the next one knows at its start."""

    def test_a_new_one_begins_with_what_the_others_know(self, tmp_path: Path) -> None:
        first = spool.begin(tmp_path)
        assert first.since == 0
        first.since = 7
        first.keep(0, NOW)
        second = spool.begin(tmp_path)  # while the first has its owner
        assert second.since == 7
        first.close()
        second.close()
        assert [spool.begin(tmp_path).since, *[log.since for log in spool.inherit(tmp_path)]] == [7, 7, 7]

    def test_what_is_damaged_knows_nothing(self, tmp_path: Path) -> None:
        (tmp_path / "1.spool").write_bytes(b"rubbish")
        (tmp_path / "2.spool").write_bytes(b"")
        log = spool.begin(tmp_path)
        assert log.since == 0
        log.close()


class TestOwners:
    def test_nobody_takes_what_has_an_owner(self, tmp_path: Path) -> None:
        log = spool.begin(tmp_path)
        log.write([one(1)])
        assert spool.inherit(tmp_path) == []
        assert names(log) == ["hold 1"]
        log.close()

    def test_the_next_one_takes_over_in_the_order_of_age(self, tmp_path: Path) -> None:
        left_behind(tmp_path, one(1), one(2))
        left_behind(tmp_path, one(3))
        first, second = spool.inherit(tmp_path)
        assert spool.inherit(tmp_path) == []
        assert (names(first), names(second)) == (["hold 1", "hold 2"], ["hold 3"])
        for log in (first, second):
            log.close()

    def test_a_process_that_is_killed_leaves_what_it_wrote(self, tmp_path: Path) -> None:
        program = (
            "import os, signal, sys; from pathlib import Path; from extproc.stores import spool\n"
            "from extproc.stores.spool import Settlement\n"
            "log = spool.begin(Path(sys.argv[1])); log.write([Settlement('hold', (), b'event', 1)])\n"
            "os.kill(os.getpid(), signal.SIGKILL)"
        )
        assert subprocess.run([sys.executable, "-c", program, str(tmp_path)], check=False).returncode == -9
        (log,) = spool.inherit(tmp_path)
        assert names(log) == ["hold"]
        log.close()

    def test_how_far_the_store_was_is_handed_on(self, tmp_path: Path) -> None:
        log = spool.begin(tmp_path)
        log.write([one(1), one(2)])
        (_, then) = log.read(0, log.end, 1)
        log.since = 77
        log.keep(then, NOW)
        log.close()
        (log,) = spool.inherit(tmp_path)
        assert (log.taken, log.since, log.end) == (then, 77, log.end)
        assert names(log, log.taken) == ["hold 2"]
        log.close()

    def test_one_that_died_at_once_had_nothing(self, tmp_path: Path) -> None:
        (tmp_path / "1-1-1.spool").touch()
        (log,) = spool.inherit(tmp_path)
        assert (log.is_empty, log.taken, log.end) == (True, 0, 0)
        log.discard()
        assert list(tmp_path.iterdir()) == []

    def test_one_that_its_owner_has_just_removed_is_nobodys(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """It was opened before it was removed, and locked after."""
        left_behind(tmp_path)
        lock = fcntl.flock

        def removed_first(descriptor: int, how: int) -> None:
            for path in tmp_path.glob("*.spool"):
                path.unlink()
            lock(descriptor, how)

        monkeypatch.setattr(fcntl, "flock", removed_first)
        assert spool.inherit(tmp_path) == []

    @pytest.mark.parametrize(
        "end", [b"", b"{", b'{"hold":"x"}\n', b"[1]\n", b"\xff\n", b'{"hold":"x","at":1,"draws":[[1]],"event":""}\n']
    )
    def test_a_damaged_end_is_left_out(self, tmp_path: Path, end: bytes) -> None:
        left_behind(tmp_path, one(1), one(2))
        (path,) = tmp_path.glob("*.jsonl")
        with path.open("ab") as file:
            file.write(end)
        (log,) = spool.inherit(tmp_path)
        assert names(log) == ["hold 1", "hold 2"]
        log.close()

    def test_only_its_owner_may_read_it(self, tmp_path: Path) -> None:
        left_behind(tmp_path / "spool", one(1))
        modes = {stat.S_IMODE(path.stat().st_mode) for path in (tmp_path / "spool").iterdir()}
        assert modes == {0o600}
        assert stat.S_IMODE((tmp_path / "spool").stat().st_mode) == 0o700


class TestRoom:
    def test_segments_are_one_log(self, tmp_path: Path) -> None:
        log = spool.begin(tmp_path)
        for number in range(30):
            log.write([one(number, NOW + number * 100_000, size=100_000)])
        assert len(list(tmp_path.glob("*.jsonl"))) > 3
        assert names(log) == [f"hold {number}" for number in range(30)]
        log.close()
        (log,) = spool.inherit(tmp_path)
        assert names(log) == [f"hold {number}" for number in range(30)]
        log.close()

    def test_what_was_taken_an_hour_ago_goes(self, tmp_path: Path) -> None:
        log = spool.begin(tmp_path)
        log.write([one(1, size=1 << 20)])
        log.write([one(2)])
        age(tmp_path, KEPT_MS + 1)
        log.keep(0, NOW)
        assert names(log) == ["hold 1", "hold 2"]
        (_, then) = log.read(0, log.end, 1)
        log.keep(then, NOW)
        assert (names(log), log.first) == (["hold 2"], then)
        log.keep(log.end, NOW - 2)
        assert names(log) == ["hold 2"]
        log.keep(log.end, NOW)
        assert log.is_empty
        log.write([one(3)])
        assert names(log) == ["hold 3"]
        assert names(log, 0) == ["hold 3"]
        log.close()

    def test_a_place_before_a_time(self, tmp_path: Path) -> None:
        log = spool.begin(tmp_path)
        log.write([one(1, size=1 << 20)])
        age(tmp_path, 60_000)
        (_, then) = log.read(0, log.end, 1)
        log.write([one(2)])
        assert log.position_of(NOW - 60_001) == 0
        assert log.position_of(NOW - 59_999) == then
        assert log.position_of(2 * NOW) == log.end
        log.close()

    def test_at_the_cap_what_was_taken_makes_room_and_nothing_else(self, tmp_path: Path) -> None:
        log = spool.begin(tmp_path, cap=3 << 20)
        for number in range(2):
            log.write([one(number, size=1 << 20)])
        (_, then) = log.read(0, log.end, 1)
        for _ in range(2):
            with pytest.raises(OSError, match="cap"):
                log.write([one(2, size=3 << 19), one(3, size=3 << 19)])
        log.keep(then, NOW)
        fresh = one(4, size=3 << 19)
        log.write([fresh])
        assert (names(log), fresh.at_byte) == (["hold 1", "hold 4"], fresh.at_byte)
        log.close()

    def test_what_only_the_ledger_lacks_may_take_more(self, tmp_path: Path) -> None:
        """But no more than sixteen caps: it may be away for good."""
        log = spool.begin(tmp_path, cap=2 << 20)
        note = spool.ledger_file(tmp_path, log._name)
        note.write_bytes(b"0")
        for number in range(31):
            log.write([one(number, size=1 << 20)])
            log.keep(log.end, NOW)
        assert log.first == 0
        with pytest.raises(OSError, match="cap"):
            log.write([one(16, size=1 << 20)])
        note.write_bytes(b"%d" % log.end)
        log.write([one(17, size=1 << 20)])
        assert names(log) == ["hold 17"]
        log.close()

    def test_a_full_disk(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """What was taken makes room; half a line is taken back; when there is room again it goes on."""
        log = spool.begin(tmp_path)
        log.write([one(1, size=1 << 20)])
        (_, then) = log.read(0, log.end, 1)
        log.write([one(2)])
        write, room = os.write, [0]

        def on_a_full_disk(file: int, data: bytes) -> int:
            if len(list(tmp_path.glob("*.jsonl"))) < 2 or room[0]:
                return write(file, data)
            write(file, data[:7])
            raise OSError(errno.ENOSPC, "no space")

        monkeypatch.setattr(os, "write", on_a_full_disk)
        with pytest.raises(OSError, match="no space"):
            log.write([one(3)])
        assert names(log) == ["hold 1", "hold 2"]
        log.keep(then, NOW)
        log.write([one(4)])
        assert names(log) == ["hold 2", "hold 4"]
        log.close()

    def test_a_disk_that_fails_otherwise(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        log = spool.begin(tmp_path)
        log.write([one(1)])
        log.keep(log.end, NOW)

        def broken(file: int, data: bytes) -> int:
            raise OSError(errno.EIO, "broken")

        with monkeypatch.context() as patch:
            patch.setattr(os, "write", broken)
            with pytest.raises(OSError, match="broken"):
                log.write([one(2)])
        assert names(log) == ["hold 1"]
        log.write([one(3)])
        assert names(log) == ["hold 1", "hold 3"]
        log.close()

    def test_somebody_removes_the_files(self, tmp_path: Path) -> None:
        log = spool.begin(tmp_path)
        log.write([one(1)])
        for path in tmp_path.glob("*.jsonl"):
            path.unlink()
        with pytest.raises(FileNotFoundError):
            log.read(0, log.end, 1)
        log.keep(log.end, NOW)
        log.write([one(2)])
        assert names(log) == ["hold 2"]
        log.close()


def begun(number: int, at: int = NOW) -> Begun:
    return Begun(f"hold {number}", b'{"id":"hold %d"}' % number, at)


class TestCallsThatBegan:
    def test_those_that_have_not_ended_are_told(self, tmp_path: Path) -> None:
        log = spool.begin(tmp_path)
        log.write([begun(0), begun(1), one(0), begun(2)])
        log.write([one(2), one(9)])
        age(tmp_path, 5)
        assert log.unended() == ([Begun("hold 1", b'{"id":"hold 1"}', NOW)], NOW - 5)
        log.close()

    def test_a_call_ends_with_whichever_of_its_holds_is_settled(self, tmp_path: Path) -> None:
        log = spool.begin(tmp_path)
        log.write([begun(0), begun(1), replace(one(0), hold="hold 0~2")])
        assert [call.name for call in log.unended()[0]] == ["hold 1"]
        log.close()

    def test_of_all_segments(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(spool, "_SEGMENT", 1)
        log = spool.begin(tmp_path)
        for written in (begun(0), one(0), begun(1), begun(2), one(2)):
            log.write([written])
        assert [call.name for call in log.unended()[0]] == ["hold 1"]
        log.close()

    def test_they_are_no_settlements(self, tmp_path: Path) -> None:
        log = spool.begin(tmp_path)
        log.write([begun(0), one(1), begun(2)])
        assert names(log) == ["hold 1"]
        log.close()

    @pytest.mark.parametrize("line", [b"", b"{", b'{"begun":', b'{"begun":7}', b'{"begun":"x","note"', b"\xff\n{}"])
    def test_a_damaged_line_stops_nothing(self, tmp_path: Path, line: bytes) -> None:
        log = spool.begin(tmp_path)
        log.write([begun(1)])
        (segment,) = tmp_path.glob("*.jsonl")
        segment.write_bytes(segment.read_bytes() + line + b"\n")
        assert [call.name for call in log.unended()[0]] == ["hold 1"]
        log.close()
