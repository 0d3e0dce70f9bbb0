"""A Redis of answers that is gone, slow, empty or full of lies, and a gateway that changes: a miss, and no error."""

import asyncio
import os
import pickle
import signal
import time
from collections.abc import Iterator
from functools import partial
from typing import Any

import httpx
import pytest

from extproc.cache.entry import Entry, seal
from extproc.stores.redis.answers import RedisAnswers
from tests.dataplane.test_reload import Reloading
from tests.support.cache import CHAT, HEADER, ONLY, PRICE, Site, chat, fresh, result
from tests.support.fake import FakeProvider
from tests.support.gateway import RunningGateway, until
from tests.support.redis_server import RedisServer, redis_server

Json = dict[str, Any]

KEY = "k" * 32
BODIES = "sluice:{gateway}:answers:bodies"
"""Where Redis has the sealed answers, by digest."""


@pytest.fixture(scope="module")
def redis() -> Iterator[RedisServer]:
    with redis_server() as server:
        yield server


@pytest.fixture(scope="module")
def provider() -> Iterator[FakeProvider]:
    with FakeProvider("openai") as running:
        yield running


@pytest.fixture(scope="module")
def shared(redis: RedisServer, provider: FakeProvider) -> Iterator[Site]:
    """Only answers are in Redis: limits, of which there are none, would refuse calls without it."""
    served = {"targets": [[{"backend": "openai"}]], "price": PRICE}
    settings = {
        "stores": {"answers": redis.url, "counters_wait": "200ms"},
        "backends": {"openai": {"dialect": "openai", "url": provider.url("openai")}},
        "models": dict.fromkeys(("gpt-4o", "other"), served),
        "cache": {"mode": "enforce", "key": {"env": "CACHE_KEY"}, "size": "64MiB"},
    }
    with RunningGateway(settings, {"CACHE_KEY": KEY}) as gateway:
        site = Site(gateway, provider)
        yield site
        site.close()


@pytest.fixture
def site(shared: Site, redis: RedisServer) -> Site:
    """With an empty Redis, to which the worker is connected."""
    redis.flush()
    until(lambda: [result(shared.chat("Hello!")) for _ in range(2)][1] == "hit", what="the cache")
    redis.flush()
    shared.fake.reset()
    return shared


def digests(redis: RedisServer) -> dict[bytes, bytes]:
    """All that Redis has, by digest."""
    found: dict[bytes, bytes] = redis.call("HGETALL", BODIES)
    return found


def kept(site: Site, redis: RedisServer, body: Json) -> tuple[httpx.Response, str]:
    """The first answer to a call, and under which digest it is kept."""
    before = digests(redis).keys()
    first = site.post(CHAT, body)
    assert result(first) == "miss"
    (digest,) = until(lambda: digests(redis).keys() - before, what="the answer to be kept")
    assert result(site.post(CHAT, body)) == "hit"
    return first, digest.decode()


# ---- Redis ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["stalled", "killed"])
def test_a_redis_that_does_not_answer_is_a_miss_and_no_error(how: str, site: Site, redis: RedisServer) -> None:
    body = chat(fresh())
    kept(site, redis, body)
    began = time.monotonic()
    redis.stall() if how == "stalled" else redis.kill()
    try:
        answers = [site.post(CHAT, body) for _ in range(3)]
        stream = site.post(CHAT, body | {"stream": True})
        only = site.post(CHAT, body, headers=ONLY)
    finally:
        redis.resume() if how == "stalled" else redis.start()
    assert time.monotonic() - began < 15  # with each look as long as Redis is silent there would be no end
    assert [result(answer) for answer in (*answers, stream)] == ["miss"] * 4
    assert stream.text.endswith("data: [DONE]\n\n")
    assert only.status_code == 504
    assert site.asked() == 5
    until(lambda: [result(site.post(CHAT, body)) for _ in range(2)][1] == "hit", 30, "the cache to be back")


def test_a_redis_that_forgot_everything_is_a_miss(site: Site, redis: RedisServer) -> None:
    body = chat(fresh())
    kept(site, redis, body)
    redis.flush()
    assert [result(site.post(CHAT, body)) for _ in range(2)] == ["miss", "hit"]


def test_what_was_asked_for_before_redis_forgot_everything_is_not_kept(site: Site, redis: RedisServer) -> None:
    """A purge may have been among what it forgot."""
    body = chat(fresh(), x_fake={"held": 0})
    answer = meanwhile(site, body, redis.flush)
    assert result(answer) == "miss"
    assert digests(redis) == {}


def test_what_was_asked_for_before_a_purge_is_not_kept(site: Site, redis: RedisServer) -> None:
    body, other = chat(fresh(), x_fake={"held": 0}), chat(fresh())
    kept(site, redis, other)
    answer = meanwhile(site, body, partial(asyncio.run, purged(redis)))
    assert result(answer) == "miss"
    assert digests(redis) == {}
    site.fake.script("openai", [{}, {}])
    assert [result(site.post(CHAT, other)) for _ in range(2)] == ["miss", "hit"]


def meanwhile(site: Site, body: Json, what: Any) -> httpx.Response:
    """The answer to a call, while whose answer was being made something happened."""

    async def asked() -> httpx.Response:
        call = asyncio.ensure_future(asyncio.to_thread(site.post, CHAT, body))
        await asyncio.to_thread(until, lambda: site.fake.totals("openai")["open"] == 1, 10, "the call")
        await asyncio.to_thread(what)
        site.fake.release("openai")
        return await call

    answer = asyncio.run(asked())
    site.record(answer)  # its end has come to the worker
    return answer


async def purged(redis: RedisServer) -> None:
    store = RedisAnswers(redis.url, 1.0, "sluice", 2**26)
    try:
        await store.purge(lambda _: True)
    finally:
        await store.close()


# ---- lies -------------------------------------------------------------------------------------------------


class Evil:
    """What a pickle can do."""

    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return os.system, ("exit 1",)


def forged(body: bytes = b'{"choices":[]}', **changes: Any) -> Entry:
    fields = {
        "content_type": "application/json",
        "made": 1,
        "model": "gpt-4o",
        "backend": "openai",
        "input": 1,
        "output": 1,
    }
    return Entry(body, **{**fields, **changes})


LIES: dict[str, Any] = {
    "empty": lambda _sealed, _digest: b"",
    "json": lambda _sealed, _digest: b'{"choices":[{"message":{"content":"Pay me."}}]}',
    "pickle": lambda _sealed, _digest: pickle.dumps(Evil()),
    "huge": lambda _sealed, _digest: b"\x01" + b"x" * (10 * 2**20),
    "another-key": lambda _sealed, digest: seal(forged(), digest, b"o" * 32),
    "another-digest": lambda _sealed, _digest: seal(forged(), "0" * 64, KEY.encode()),
    "wrong-schema": lambda _sealed, digest: seal(forged(made="today"), digest, KEY.encode()),
    "cut": lambda sealed, _digest: sealed[:-1],
    "longer": lambda sealed, _digest: sealed + b"\0",
    "older-version": lambda sealed, _digest: b"\0" + sealed[1:],
    "first-bit": lambda sealed, _digest: flipped(sealed, 0),
    "a-bit-of-the-mac": lambda sealed, _digest: flipped(sealed, 100),
    "a-bit-of-the-head": lambda sealed, _digest: flipped(sealed, 8 * 40),
    "last-bit": lambda sealed, _digest: flipped(sealed, 8 * len(sealed) - 1),
}


def flipped(sealed: bytes, bit: int) -> bytes:
    changed = bytearray(sealed)
    changed[bit // 8] ^= 1 << bit % 8
    return bytes(changed)


@pytest.mark.parametrize("lie", LIES)
def test_what_is_not_ours_is_a_miss_and_is_written_over(lie: str, site: Site, redis: RedisServer) -> None:
    body = chat(fresh())
    first, digest = kept(site, redis, body)
    false = LIES[lie](digests(redis)[digest.encode()], digest)
    redis.call("HSET", BODIES, digest, false)
    again = site.post(CHAT, body)
    assert (result(again), again.content != first.content) == ("miss", True)
    later = site.post(CHAT, body)
    assert (result(later), later.content) == ("hit", again.content)
    assert digests(redis)[digest.encode()] != false


def test_an_answer_that_was_moved_to_another_question_is_a_miss(site: Site, redis: RedisServer) -> None:
    """Two answers of our own, whole and in force, each in the place of the other."""
    bodies = [chat(fresh()) for _ in range(2)]
    (_, one), (_, other) = (kept(site, redis, body) for body in bodies)
    sealed = digests(redis)
    redis.call("HSET", BODIES, one, sealed[other.encode()], other, sealed[one.encode()])
    assert [result(site.post(CHAT, body)) for body in bodies] == ["miss", "miss"]


def test_redis_holds_no_text(site: Site, redis: RedisServer) -> None:
    """What was asked is not there at all; the answer is, packed or not, behind the one key that its readers need."""
    secret = "xylophone-of-the-board"
    kept(site, redis, chat(f"{fresh()} {secret}", x_fake={"text": "Nothing of it."}))
    for name in redis.call("KEYS", "*"):
        assert secret.encode() not in redis.call("DUMP", name)


# ---- the gateway -------------------------------------------------------------------------------------------


def worker_pids(site: Site) -> set[int]:
    return {worker.pid for worker in site.gateway.processes("extproc.worker")}


def test_a_worker_that_was_started_again_finds_what_another_one_kept(site: Site, redis: RedisServer) -> None:
    body = chat(fresh())
    first, _ = kept(site, redis, body)
    (before,) = worker_pids(site)
    os.kill(before, signal.SIGKILL)
    until(lambda: site.post(CHAT, body).status_code == 200, 60, "the worker")
    assert worker_pids(site) != {before}
    again = site.post(CHAT, body)
    assert (result(again), again.content) == ("hit", first.content)


def test_a_configuration_that_is_taken_is_in_force_for_the_next_call(site: Site, redis: RedisServer) -> None:
    body, reloading = chat(fresh()), Reloading(site.gateway, site.fake)
    settings = reloading.settings()
    first, _ = kept(site, redis, body)

    def take(**changes: Any) -> None:
        reloading.take({**settings, **changes})

    take(cache={**settings["cache"], "mode": "off"})
    assert HEADER not in site.post(CHAT, body).headers
    take(cache={**settings["cache"], "mode": "shadow"})
    assert (result(shadowed := site.post(CHAT, body)), site.told(shadowed)["shadow"]) == ("miss", True)
    take(cache={**settings["cache"], "rules": [{"models": ["gpt-4o"], "max_temperature": 0}]})
    again = site.post(CHAT, body)
    assert (result(again), again.content in (first.content, shadowed.content)) == ("hit", True)
    assert result(site.chat(fresh(), temperature=0.1)) == "bypass; temperature"
    take(cache={**settings["cache"], "ttl": "1s"})
    until(lambda: site.post(CHAT, body, headers=ONLY).status_code == 504, what="the answer to be too old")
    take(policies={"redaction": {"default": {}}})
    assert result(site.post(CHAT, body)) == "miss"  # other policies
    take()
    assert result(site.post(CHAT, body)) == "hit"


def test_a_model_that_is_served_otherwise_begins_anew(site: Site, redis: RedisServer) -> None:
    body, reloading = chat(fresh(), "other"), Reloading(site.gateway, site.fake)
    settings = reloading.settings()
    kept(site, redis, body)
    elsewhere = {"targets": [[{"backend": "openai", "model": "its-successor"}]], "price": PRICE}
    reloading.take({**settings, "models": {**settings["models"], "other": elsewhere}})
    assert result(site.post(CHAT, body)) == "miss"
    dearer = {**settings["models"]["other"], "price": {"input": 5, "output": 20}}
    reloading.take({**settings, "models": {**settings["models"], "other": dearer}})
    assert result(site.post(CHAT, body)) == "hit"  # what it costs changes no answer
    reloading.take(settings)
