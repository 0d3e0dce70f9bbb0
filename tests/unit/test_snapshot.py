"""The file that a gateway may start from while the database is down."""

import os
import stat
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from extproc.identity import keys
from extproc.limits.limit import Priority
from extproc.stores import snapshot
from extproc.stores.ports import (
    AreaRecord,
    DirectoryChange,
    KeyChange,
    KeyRecord,
    KeySpec,
    Member,
    MemberKind,
    Stop,
    StopScope,
    StoreUnavailable,
    TeamRecord,
)
from tests.support.limit_values import several

START = datetime(2026, 1, 31, 12, 0, 0, 123456, tzinfo=UTC)
TIMES = st.datetimes(datetime(2000, 1, 1), datetime(2100, 1, 1), timezones=st.just(UTC))
NAMES = st.text(st.characters(exclude_categories=["Cs"]), max_size=8)
LISTS = st.lists(NAMES, max_size=3).map(tuple)
SPECS = st.builds(
    KeySpec,
    name=NAMES,
    team=NAMES,
    user=st.none() | NAMES,
    service_account=st.none() | NAMES,
    environment=st.none() | NAMES,
    lifetime=st.none() | st.integers(1, 10**9).map(lambda seconds: timedelta(seconds=seconds)),
    models=st.none() | LISTS,
    surfaces=st.none() | LISTS,
    ip_ranges=LISTS,
    declared=st.booleans(),
    limits=several(),
    priority=st.sampled_from(Priority),
)
RECORDS = st.builds(
    KeyRecord,
    id=NAMES,
    spec=SPECS,
    hint=NAMES,
    lineage=NAMES,
    created_at=TIMES,
    expires_at=st.none() | TIMES,
    suspended_at=st.none() | TIMES,
    replaced_by=st.none() | NAMES,
    last_used_at=st.none() | TIMES,
)
MEMBERS = st.builds(Member, kind=st.sampled_from(MemberKind), name=NAMES, role=NAMES, client_id=st.none() | NAMES)
TEAMS = st.builds(
    TeamRecord,
    name=NAMES,
    area=NAMES,
    owner=NAMES,
    tier=NAMES,
    models=st.none() | LISTS,
    ip_ranges=LISTS,
    tags=st.lists(st.tuples(NAMES, NAMES), max_size=2).map(tuple),
    members=st.lists(MEMBERS, max_size=2).map(tuple),
    limits=several("team/red"),
    redaction=NAMES,
    guardrails=NAMES,
)
ENTRIES: st.SearchStrategy[DirectoryChange] = st.one_of(
    st.builds(KeyChange, digest=st.binary(min_size=32, max_size=32).map(bytes.hex), record=RECORDS),
    TEAMS,
    st.builds(AreaRecord, name=NAMES, owners=LISTS),
    st.builds(Stop, scope=st.sampled_from(StopScope), name=NAMES, reason=NAMES, created_at=TIMES),
)
KEY = KeyChange("ab" * 32, KeyRecord("key_1", KeySpec("app"), "hint", "key_1", START))


def _no_pause() -> None:
    """Nobody waits."""


def _saved(path: Path, *records: DirectoryChange) -> Path:
    snapshot.save(path, records, _no_pause)
    return path


@given(records=st.lists(ENTRIES, max_size=6))
def test_what_is_saved_is_what_is_loaded(
    records: list[DirectoryChange], tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = _saved(tmp_path_factory.mktemp("any") / "directory.jsonl", *records)
    assert list(snapshot.load(path)) == records


def test_it_is_for_its_owner_alone_and_has_no_secret(tmp_path: Path) -> None:
    key = keys.mint(b"k" * 32)
    path = tmp_path / "directory.jsonl"
    path.write_text("of before")
    path.chmod(0o644)
    _saved(path, KeyChange(keys.digest(key), KEY.record))
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert key.removeprefix(keys.PREFIX)[:8] not in path.read_text()
    assert [found.name for found in tmp_path.iterdir()] == [path.name]


@pytest.mark.parametrize("error", [StoreUnavailable("down"), KeyboardInterrupt()])
def test_one_that_breaks_off_leaves_the_one_before_and_nothing_else(tmp_path: Path, error: BaseException) -> None:
    path = _saved(tmp_path / "directory.jsonl", KEY)

    def broken() -> Iterable[DirectoryChange]:
        yield TeamRecord("red", "ops", "o", "gold")
        assert len(list(tmp_path.iterdir())) == 2, "it is written aside"
        assert list(snapshot.load(path)) == [KEY], "and the one before is whole meanwhile"
        raise error

    with pytest.raises(type(error)):
        snapshot.save(path, broken(), _no_pause)
    assert list(snapshot.load(path)) == [KEY]
    assert [found.name for found in tmp_path.iterdir()] == [path.name]


def test_a_folder_that_is_not_there_is_the_callers_to_handle(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        _saved(tmp_path / "nowhere" / "directory.jsonl", KEY)
    with pytest.raises(FileNotFoundError):
        snapshot.confirm(tmp_path / "directory.jsonl", 0)


def test_it_pauses_every_16_records(tmp_path: Path) -> None:
    pauses: list[None] = []
    snapshot.save(tmp_path / "directory.jsonl", [KEY] * 1000, lambda: pauses.append(None))
    assert len(pauses) == 1000 // 16


def test_to_confirm_it_is_to_date_it(tmp_path: Path) -> None:
    path = _saved(tmp_path / "directory.jsonl", KEY)
    snapshot.confirm(path, 1_800_000_000.5)
    assert path.stat().st_mtime == 1_800_000_000.5
    assert list(snapshot.load(path)) == [KEY]


@pytest.mark.parametrize(("mode", "usable"), [(0o600, True), (0o644, True), (0o620, False), (0o602, False)])
def test_one_that_others_may_write_is_not_believed(tmp_path: Path, mode: int, usable: bool) -> None:
    path = _saved(tmp_path / "directory.jsonl", KEY)
    path.chmod(mode)
    if usable:
        assert list(snapshot.load(path)) == [KEY]
    else:
        with pytest.raises(StoreUnavailable, match="somebody else's"):
            list(snapshot.load(path))


def test_nor_one_that_somebody_else_owns(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = _saved(tmp_path / "directory.jsonl", KEY)
    owner = path.stat().st_uid
    monkeypatch.setattr(os, "geteuid", lambda: owner + 1)
    with pytest.raises(StoreUnavailable, match="another owner"):
        list(snapshot.load(path))


FIRST = b'{"format":"sluice directory","version":2}\n'
END = b'["end",null]\n'
SPOILED = {
    "an empty file": (b"", "of another version"),
    "no JSON": (b"hello\n", "damaged"),
    "an older version, which could not hold limits": (FIRST.replace(b"2", b"1") + END, "of another version"),
    "a newer version": (FIRST.replace(b"2", b"3") + END, "of another version"),
    "somebody else's": (b'{"format":"x","version":2}\n' + END, "of another version"),
    "no record": (FIRST + b"{}\n" + END, "damaged"),
    "a number": (FIRST + b"3\n" + END, "damaged"),
    "an unknown kind": (FIRST + b'["Canary",{}]\n' + END, "damaged"),
    "a kind that is a list": (FIRST + b'[["Canary"],{}]\n' + END, "damaged"),
    "a field missing": (FIRST + b'["AreaRecord",{"owners":["canary"]}]\n' + END, "damaged"),
    "no end": (FIRST, "cut off"),
    "not UTF-8": (FIRST + b'["AreaRecord",{"name":"\xff","owners":[]}]\n' + END, "damaged"),
    "zeros": (bytes(4096), "damaged"),
}


@pytest.mark.parametrize(("content", "words"), SPOILED.values(), ids=SPOILED.keys())
def test_a_spoiled_one_is_told_in_one_line_that_quotes_nothing(tmp_path: Path, content: bytes, words: str) -> None:
    path = tmp_path / "directory.jsonl"
    path.write_bytes(content)
    with pytest.raises(StoreUnavailable, match=words) as caught:
        list(snapshot.load(path))
    assert "anary" not in str(caught.value)
    assert "\n" not in str(caught.value)


def test_wherever_it_is_cut_off_it_is_not_usable(tmp_path: Path) -> None:
    path = _saved(tmp_path / "directory.jsonl", KEY, AreaRecord("ops"))
    whole = path.read_bytes()
    for length in range(len(whole) - 1):  # only the last line's end may be missing
        path.write_bytes(whole[:length])
        with pytest.raises(StoreUnavailable):
            list(snapshot.load(path))


def test_one_that_cannot_be_read_is_told_so(tmp_path: Path) -> None:
    for path, words in ((tmp_path / "nothing", "No such file"), (tmp_path, "Is a directory")):
        with pytest.raises(StoreUnavailable, match=words):
            list(snapshot.load(path))
