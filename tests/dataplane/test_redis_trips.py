"""How often a call asks Redis, counted by Redis, with limits, redaction and the cache on: once before, once after.

Before it is sent it waits for its reservation and for a look into the answers, which leave together; what it used and
its answer are told behind its back.
"""

import contextlib
import re
import threading
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import redis

from extproc.stores.redis import answers, counters
from tests.support.cache import PRICE, Site, fresh, result
from tests.support.fake import FakeProvider
from tests.support.gateway import RunningGateway, until
from tests.support.redis_server import RedisServer, redis_server

Json = dict[str, Any]

CALLS = 8
_OF_NO_CALL = {"renew", "expire"}  # which come with time
_OF_ENVOY = ":done:attempts."  # what Envoy told of many attempts, put onto the usage bus
_STEPS = {counters._sha(script): name for name, script in counters.scripts().items()}
_STEPS |= {counters._sha(script): name for name, script in answers._scripts().items()}
_EVALSHA = re.compile(r"EVALSHA ([0-9a-f]{40}) ")


@pytest.fixture(scope="module")
def server() -> Iterator[RedisServer]:
    with redis_server() as running:
        yield running


@pytest.fixture(scope="module")
def fake() -> Iterator[FakeProvider]:
    with FakeProvider("openai") as running:
        yield running


@pytest.fixture(scope="module")
def site(server: RedisServer, fake: FakeProvider, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    with RunningGateway(_settings(server, fake, tmp_path_factory.mktemp("key") / "key")) as gateway:
        running = Site(gateway, fake)
        yield running
        running.close()


def _settings(server: RedisServer, fake: FakeProvider, key: Path) -> Json:
    key.write_text("k" * 32)
    return {
        "backends": {"openai": {"dialect": "openai", "url": fake.url("openai")}},
        "models": {"gpt-4o": {"targets": [[{"backend": "openai"}]], "price": PRICE, "max_output": 100}},
        "stores": {"counters": server.url, "answers": server.url, "counters_wait": "1s"},
        "cache": {"mode": "enforce", "key": {"file": str(key)}},
        "policies": {
            "redaction": {"default": {}},
            "limits": {
                "tokens": {"scope": ["key", "model"], "tokens": 10**9, "per": "minute"},
                "requests": {"scope": "team", "requests": 10**9, "per": "hour"},
                "open": {"concurrent": 100},
                "money": {"money": 10**6, "per": "month"},
            },
        },
    }


class Steps:
    """The steps that clients of a Redis ask for, in their order, but for those that no call asks for."""

    def __init__(self, server: RedisServer) -> None:
        self._client = redis.Redis(port=server.port)
        self.told: list[str] = []
        self.others: list[str] = []

    @contextlib.contextmanager
    def heard(self) -> Iterator["Steps"]:
        with self._client.monitor() as monitor:  # type: ignore[no-untyped-call]
            listening = threading.Thread(target=self._listen, args=(monitor,), daemon=True)
            listening.start()
            yield self
            self._client.echo("over")
            listening.join(20)
            assert not listening.is_alive()

    def _listen(self, monitor: Any) -> None:
        for command in monitor.listen():
            if command["command"] == "ECHO over":
                return
            if command["client_type"] == "lua":  # what a step does within Redis
                continue
            step = _EVALSHA.match(command["command"])
            name = _STEPS.get(step[1].encode()) if step else None
            if name is None:
                self.others.append(command["command"][:60])
            elif name not in _OF_NO_CALL and _OF_ENVOY not in command["command"]:
                self.told.append(name)

    def counted(self, calls: int) -> Counter[str]:
        """What was asked for, once as many calls are over."""
        until(lambda: self.told.count("settle") >= calls, what="the settlements")
        return Counter(self.told)


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
def test_a_call_that_a_backend_serves(server: RedisServer, site: Site, stream: bool) -> None:
    with Steps(server).heard() as steps:
        for _ in range(CALLS):
            assert result(site.chat(fresh(), stream=stream)) == "miss"
        until(lambda: steps.told.count("keep") >= CALLS, what="the answers to be kept")
        counted = steps.counted(CALLS)
    assert counted == {"look": CALLS, "reserve": CALLS, "settle": CALLS, "keep": CALLS}
    assert set(steps.told[:2]) == {"look", "reserve"}


def test_a_call_that_the_cache_serves(server: RedisServer, site: Site) -> None:
    text = fresh()
    site.chat(text)
    until(lambda: result(site.chat(text)) == "hit")
    with Steps(server).heard() as steps:
        for _ in range(CALLS):
            assert result(site.chat(text)) == "hit"
        counted = steps.counted(CALLS)
    assert counted == {"look": CALLS, "reserve": CALLS, "settle": CALLS}


def test_a_call_whose_answer_is_not_kept_gives_its_claim_back(server: RedisServer, site: Site) -> None:
    with Steps(server).heard() as steps:
        for _ in range(CALLS):
            assert result(site.chat(fresh(), max_tokens=3)) == "miss"
        until(lambda: steps.told.count("release") >= CALLS, what="the claims to end")
        counted = steps.counted(CALLS)
    assert counted == {"look": CALLS, "reserve": CALLS, "settle": CALLS, "release": CALLS}


def test_calls_at_the_same_time_ask_no_more(server: RedisServer, site: Site) -> None:
    said = [fresh() for _ in range(CALLS)]
    with Steps(server).heard() as steps:
        callers = [threading.Thread(target=site.chat, args=(text,)) for text in said]
        for caller in callers:
            caller.start()
        for caller in callers:
            caller.join()
        until(lambda: steps.told.count("keep") >= CALLS, what="the answers to be kept")
        counted = steps.counted(CALLS)
    assert counted == {"look": CALLS, "reserve": CALLS, "settle": CALLS, "keep": CALLS}
