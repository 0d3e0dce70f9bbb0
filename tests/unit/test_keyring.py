"""The keys in memory: what is in force, and what a dead database changes."""

import asyncio
import logging
from collections.abc import Callable
from datetime import UTC, datetime, timedelta

import pytest

from extproc import keyring, keys
from extproc.keyring import Keyring
from extproc.model import Caller
from extproc.stores.memory import MemoryKeys
from extproc.stores.ports import KeyRecord, StoreUnavailable

DIGEST = keys.digest(keys.mint(b"k" * 32))
OTHER = keys.digest(keys.mint(b"o" * 32))
QUICKSTART = keys.digest(keys.QUICKSTART_KEY)


class FlakyKeys(MemoryKeys):
    """Keys in memory that raise `trouble` while it is set, and count what they are asked."""

    def __init__(self) -> None:
        super().__init__()
        self.trouble: Exception | None = None
        self.snapshots = 0

    def revision(self) -> str:
        if self.trouble is not None:
            raise self.trouble
        return super().revision()

    def snapshot(self) -> dict[str, KeyRecord]:
        self.snapshots += 1
        return super().snapshot()


def _create(store: MemoryKeys, name: str = "app", digest: str = DIGEST, **more: object) -> KeyRecord:
    options: dict[str, object] = {"expires_at": None, "models": None, **more}
    return store.create(name, digest, "hint", options["expires_at"], options["models"])  # type: ignore[arg-type]


def _ring(store: MemoryKeys, quickstart: bool = False) -> Keyring:
    ring = Keyring(store, quickstart)
    ring.refresh()
    return ring


def test_a_key_names_its_caller() -> None:
    store = FlakyKeys()
    record = _create(store, models=("gpt-4o",))
    assert _ring(store).find(DIGEST) == Caller(record.id, "app", frozenset({"gpt-4o"}))
    assert _ring(store).find(OTHER) is None


def test_a_key_without_models_may_use_all_and_one_with_none_may_use_none() -> None:
    store = FlakyKeys()
    _create(store)
    _create(store, "none", OTHER, models=())
    ring = _ring(store)
    anyone, nobody = ring.find(DIGEST), ring.find(OTHER)
    assert anyone is not None
    assert nobody is not None
    assert (anyone.models, nobody.models) == (None, frozenset())


def test_nothing_is_unknown_before_the_keys_have_been_read() -> None:
    ring = Keyring(FlakyKeys(), quickstart=True)
    assert not ring.loaded
    with pytest.raises(StoreUnavailable):
        ring.find(DIGEST)
    assert ring.find(QUICKSTART) is not None, "the quickstart key needs no database"
    ring.refresh()
    assert ring.loaded
    assert ring.find(DIGEST) is None


def test_the_quickstart_key_is_accepted_only_where_it_is_switched_on() -> None:
    assert _ring(FlakyKeys(), quickstart=True).find(QUICKSTART) == Caller("quickstart", "quickstart")
    assert _ring(FlakyKeys(), quickstart=False).find(QUICKSTART) is None


def test_a_new_key_and_a_revocation_are_in_force_after_a_refresh() -> None:
    store = FlakyKeys()
    ring = _ring(store, quickstart=True)
    record = _create(store)
    assert ring.find(DIGEST) is None
    ring.refresh()
    assert ring.find(DIGEST) is not None
    store.revoke(record.id)
    ring.refresh()
    assert ring.find(DIGEST) is None
    assert ring.find(QUICKSTART) is not None


def test_a_key_expires_without_a_refresh(monkeypatch: pytest.MonkeyPatch) -> None:
    store = FlakyKeys()
    end = datetime(2030, 1, 1, tzinfo=UTC)
    _create(store, expires_at=end)
    ring = _ring(store)
    for seconds, valid in ((-1, True), (0, False), (1, False)):
        moment = (end + timedelta(seconds=seconds)).timestamp()
        monkeypatch.setattr("extproc.keyring.time.time", lambda moment=moment: moment)
        assert (ring.find(DIGEST) is not None) is valid


def test_what_has_not_changed_is_not_read_again() -> None:
    store = FlakyKeys()
    ring = _ring(store)
    ring.refresh()
    assert store.snapshots == 1
    _create(store)
    ring.refresh()
    ring.refresh()
    assert store.snapshots == 2


def test_a_dead_store_keeps_the_last_known_keys_in_force() -> None:
    store = FlakyKeys()
    _create(store)
    ring = _ring(store)
    store.trouble = StoreUnavailable("down")
    with pytest.raises(StoreUnavailable):
        ring.refresh()
    assert ring.loaded
    assert ring.find(DIGEST) is not None
    assert ring.find(OTHER) is None


@pytest.mark.parametrize("trouble", [StoreUnavailable("down"), ValueError("a row that cannot be read: canary")])
async def test_refreshing_goes_on_after_any_trouble(
    trouble: Exception, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(keyring, "_PERIOD", 0.001)
    store = FlakyKeys()
    record = _create(store)
    ring = Keyring(store, quickstart=False)
    keeping = asyncio.ensure_future(ring.keep_fresh())
    try:
        await _until(lambda: ring.loaded)
        with caplog.at_level(logging.WARNING):
            store.trouble = trouble
            await _until(lambda: "last known stay in force" in caplog.text)
        assert "canary" not in caplog.text
        store.trouble = None
        store.revoke(record.id)
        await _until(lambda: ring.find(DIGEST) is None)
    finally:
        keeping.cancel()
        with pytest.raises(asyncio.CancelledError):
            await keeping


async def _until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(10):
        while not condition():
            await asyncio.sleep(0.001)
