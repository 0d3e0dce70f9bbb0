"""Stores with TLS, and with passwords that change while they are in use, as tokens of Entra do.

A real Redis whose user gets another password while commands run, and a real PostgreSQL; what they count is the oracle.
"""

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, closing
from pathlib import Path
from typing import Any

import pytest

from extproc import password_files
from extproc.stores import sql
from extproc.stores.cooldowns import CooldownsUnavailable, Entry
from extproc.stores.counters import Counter, CountersUnavailable, Draw, Window
from extproc.stores.ledger import BusUnavailable
from extproc.stores.ports import StoreUnavailable
from extproc.stores.redis import batch
from extproc.stores.redis.bus import RedisBus
from extproc.stores.redis.cooldowns import RedisCooldowns
from extproc.stores.redis.counters import RedisCounters
from extproc.stores.sql import engine
from tests.support.store_sites import (
    USER,
    Certificates,
    TlsPostgres,
    TlsRedis,
    certificates,
    opened,
    tls_postgres,
    tls_redis,
)

TOKENS = Counter("tokens", 1_000_000, (Window(0, 2**43),))
LIFE = 60_000
PATIENCE = 20.0


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    return certificates(tmp_path_factory.mktemp("certificates"))


# ---- Redis ----


@pytest.fixture(autouse=True)
def _patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """The machine of a test is busy with other things when a connection is opened."""
    monkeypatch.setattr(batch, "_CONNECT_S", PATIENCE)


@pytest.fixture
def site(made: Certificates, tmp_path: Path) -> Iterator[TlsRedis]:
    with tls_redis(made, tmp_path / "token") as running:
        yield running


@asynccontextmanager
async def counters(url: str) -> AsyncIterator[RedisCounters]:
    store = RedisCounters(url, wait=5)
    try:
        yield store
    finally:
        await store.close()


async def used(store: RedisCounters) -> int:
    return (await store.extend("slot", "nobody", [Draw(TOKENS, 0)], 1)).readings[0].used


async def comes_true(what: Any, patience: float = PATIENCE) -> None:
    async with asyncio.timeout(patience):
        while not what():
            await asyncio.sleep(0.02)


async def test_a_newer_password_is_told_on_the_living_connection_and_no_command_fails(
    site: TlsRedis, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(batch, "LOOK_S", 0.05)
    async with counters(site.url) as store:
        assert await used(store) == 0
        connection, over = store._connection, asyncio.Event()

        async def calls() -> int:
            done = 0
            while not over.is_set():
                await asyncio.gather(*(used(store) for _ in range(20)))
                done += 20
            return done

        calling = asyncio.ensure_future(calls())
        for password in ("second", "third"):
            before = site.sign_ins()
            site.accept(password)  # those before are worth nothing any more
            site.hand(password)
            await comes_true(lambda before=before: site.sign_ins() > before)
        over.set()
        assert await calling > 0
        assert connection.made == 1, "another connection was opened"


async def test_a_password_that_is_not_taken_yet_costs_nothing_and_is_told_again(
    site: TlsRedis, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(batch, "LOOK_S", 0.05)
    async with counters(site.url) as store:
        await used(store)
        before = site.sign_ins()
        site.hand("early")
        await comes_true(lambda: site.sign_ins() > before + 2)
        assert await used(store) == 0
        site.accept("early")
        site.hang_up()
        await comes_true(lambda: store._connection.made == 2)
        assert await used(store) == 0


async def test_a_connection_that_is_lost_is_opened_again_with_the_newest_password(site: TlsRedis) -> None:
    async with counters(site.url) as store:
        await used(store)
        site.accept("second")
        site.hand("second")
        site.hang_up()
        await comes_true(lambda: store._connection.made == 2)
        assert await used(store) == 0


async def test_without_its_password_a_store_is_away_and_comes_back_with_it(site: TlsRedis) -> None:
    site.hand("")
    async with counters(site.url) as store:
        with pytest.raises(CountersUnavailable):
            await used(store)
        site.hand("first")
        async with asyncio.timeout(PATIENCE):
            while True:
                try:
                    assert await used(store) == 0
                    return
                except CountersUnavailable:
                    await asyncio.sleep(0.05)


@pytest.mark.parametrize("wrong", ["stranger", "nobody", "name"])
async def test_a_server_that_is_not_who_the_url_says_is_refused(site: TlsRedis, wrong: str) -> None:
    """By another authority, by the machine's own, and by a certificate of another name."""
    authority = {"stranger": f"?ssl_ca_certs={site.certificates.stranger}", "nobody": ""}
    host = "localhost" if wrong == "name" else "127.0.0.1"
    query = authority.get(wrong, f"?ssl_ca_certs={site.certificates.certificate}")
    url = password_files.named(f"rediss://{USER}@{host}:{site.tls_port}/0{query}", site.file)
    before = site.sign_ins()
    async with counters(url) as store:
        with pytest.raises(CountersUnavailable):
            await used(store)
    with closing(RedisBus(url, "sluice", "slot", "one")) as bus, pytest.raises(BusUnavailable):
        bus.take(1)
    cooldowns = RedisCooldowns(url, wait=5)
    with pytest.raises(CooldownsUnavailable):
        await cooldowns.all()
    await cooldowns.close()
    assert site.sign_ins() == before, "it was told the password"


def test_the_bus_goes_on_with_a_newer_password_on_a_new_connection(site: TlsRedis) -> None:
    with closing(RedisBus(site.url, "sluice", "slot", "one")) as bus:
        assert bus.take(1) == ()
        for password in ("second", "third"):
            site.accept(password)
            site.hand(password)
            before = site.sign_ins()
            assert bus.take(1) == ()
            assert site.sign_ins() == before + 1
            assert bus.take(1) == ()
            assert site.sign_ins() == before + 1, "a connection for each command"


async def test_cooldowns_go_on_with_a_newer_password_on_a_new_connection(site: TlsRedis) -> None:
    cooldowns = RedisCooldowns(site.url, wait=5)
    await cooldowns.put({"swe": Entry(60_000, 60_000, "429")})
    older = site.connections()
    site.accept("second")
    site.hand("second")
    assert set(await cooldowns.all()) == {"swe"}
    newer = site.connections()
    assert len(newer) == 1
    assert newer != older
    assert set(await cooldowns.all()) == {"swe"}
    assert site.connections() == newer, "a connection for each command"
    await cooldowns.close()


# ---- PostgreSQL ----


@pytest.fixture(scope="module")
def database(made: Certificates, tmp_path_factory: pytest.TempPathFactory) -> Iterator[TlsPostgres]:
    with tls_postgres(made, tmp_path_factory.mktemp("postgres") / "token") as running:
        yield running


def test_a_password_that_changes_fails_no_statement(database: TlsPostgres) -> None:
    database.accept("first")
    database.hand("first")
    database.opened()
    sql.upgrade(database.url())
    with closing(sql.open_stores(database.url())) as stores:
        assert stores.directory.brought() == {}
        for password in ("second", "third"):
            database.accept(password)
            database.hand(password)
            assert stores.directory.brought() == {}  # on the connection that there is
            stores.engine.dispose()
            assert stores.directory.brought() == {}  # on a new one
        database.hand("wrong")
        stores.engine.dispose()
        with pytest.raises(StoreUnavailable) as refused:
            stores.directory.brought()
        assert "wrong" not in str(refused.value)
        database.file.unlink()
        with pytest.raises(StoreUnavailable):
            stores.directory.brought()


def test_a_database_that_is_not_who_the_url_says_is_refused(database: TlsPostgres) -> None:
    database.accept("first")
    database.hand("first")
    database.opened()
    for url in (database.url(authority=database.certificates.stranger), database.url(host="localhost")):
        with pytest.raises(StoreUnavailable):
            opened(url)


def test_the_authorities_of_the_machine_are_those_that_it_has(
    database: TlsPostgres, made: Certificates, monkeypatch: pytest.MonkeyPatch
) -> None:
    database.accept("first")
    database.hand("first")
    url = database.url(authority=Path("system"))
    monkeypatch.delenv("SSL_CERT_FILE", raising=False)
    with pytest.raises(StoreUnavailable):
        opened(url)
    monkeypatch.setattr(engine, "_AUTHORITIES", ("/nowhere", str(made.certificate)))
    opened(url)
    with pytest.raises(StoreUnavailable):
        opened(url.replace("127.0.0.1", "localhost").replace("sslmode=verify-full&", ""))
    monkeypatch.setattr(engine, "_AUTHORITIES", (str(made.stranger),))
    with pytest.raises(StoreUnavailable):
        opened(url)
    monkeypatch.setenv("SSL_CERT_FILE", str(made.certificate))
    opened(url)
