"""A storm: of three backends one asks for pauses, one comes and goes, one is slow, and two hundred callers keep at it.

No caller may notice. The oracle is what the backends themselves counted, and when.
"""

import asyncio
import itertools
import json
import random
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import httpx
import pytest

from tests.support.fake import FakeProvider
from tests.support.gateway import RunningGateway, until
from tests.support.redis_server import RedisServer, redis_server

Json = dict[str, Any]

CALLERS = 200
ROUGH_S = 5.0  # the storm
MOST_S = 12.0  # with what comes after it
GUST_S = 1.0  # after which the flapping one turns
WORKERS = 2
FAILURES = 3  # that open a circuit
OPEN_S = 2
PAUSE_S = 2  # what the limited one asks for
KNOWN_S = 1.0  # within which everybody has to know of it
NAMES = ("limited", "flapping", "slow")
LIMITED: Json = {"status": 429, "retry_after": PAUSE_S}
DOWN: list[Json] = [{"status": 503}, {"reset": "before"}, {"status": 502}]
SLOW: Json = {"delay_ms": 400}
ENOUGH = 3000  # calls that one backend may get meanwhile


@dataclass(frozen=True, slots=True)
class Kind:
    """One way to call: path, body, where the answer's text is, and how a stream of it ends."""

    path: str
    body: Callable[[str], Json]
    said: Callable[[Json], str]
    last: str


def _chat(text: str) -> Json:
    return {"messages": [{"role": "user", "content": text}]}


KINDS = {
    "chat": Kind(
        "/v1/chat/completions", _chat, lambda answer: str(answer["choices"][0]["message"]["content"]), "data: [DONE]"
    ),
    "messages": Kind(
        "/v1/messages",
        lambda text: {**_chat(text), "max_tokens": 500},
        lambda answer: str(answer["content"][0]["text"]),
        'data: {"type":"message_stop"}',
    ),
    "responses": Kind(
        "/v1/responses",
        lambda text: {"input": text, "store": False},
        lambda answer: str(answer["output"][0]["content"][0]["text"]),
        "event: response.completed",
    ),
}
WAYS = list(itertools.product(KINDS.values(), (False, True)))


@dataclass(frozen=True, slots=True)
class Told:
    """What a caller was answered; `trouble` is empty where nothing was wrong with it."""

    request_id: str
    trouble: str


@pytest.fixture(scope="module")
def redis() -> Iterator[RedisServer]:
    with redis_server() as server:
        yield server


@pytest.fixture(scope="module")
def providers() -> Iterator[FakeProvider]:
    with FakeProvider(*NAMES) as running:
        yield running


@pytest.fixture(scope="module")
def gateway(providers: FakeProvider, redis: RedisServer) -> Iterator[RunningGateway]:
    """Two workers, one model; to the slow one Responses are translated, and Messages to all of them."""
    given: Json = {
        "limited": {"dialect": "openai"},
        "flapping": {"dialect": "azure-openai"},
        "slow": {"dialect": "openai", "surfaces": ["chat"]},
    }
    settings = {
        "backends": {name: {"url": providers.url(name), **more} for name, more in given.items()},
        "models": {"m": {"targets": [[{"backend": name, "model": f"{name}-model"} for name in NAMES]]}},
        "routing": {"cooling": {"failures": FAILURES, "open_for": f"{OPEN_S}s", "longest_open": f"{OPEN_S}s"}},
        "workers": WORKERS,
        "stores": {"counters": redis.url},
    }
    with RunningGateway(settings) as running:
        yield running


@asynccontextmanager
async def _client(gateway: RunningGateway) -> AsyncIterator[httpx.AsyncClient]:
    limits = httpx.Limits(max_connections=CALLERS, max_keepalive_connections=CALLERS)
    headers = {"authorization": f"Bearer {gateway.key}"}
    async with httpx.AsyncClient(
        base_url=gateway.url, headers=headers, limits=limits, timeout=30, trust_env=False
    ) as client:
        yield client


async def _ask(client: httpx.AsyncClient, kind: Kind, stream: bool, word: str) -> Told:
    body = {"model": "m", "stream": stream, **kind.body(word)}
    try:
        answer = await client.post(kind.path, json=body)
    except httpx.HTTPError as error:
        return Told("", f"{kind.path}: {error!r}")
    return Told(answer.headers.get("x-request-id", ""), _trouble(answer, kind, stream, word))


def _trouble(answer: httpx.Response, kind: Kind, stream: bool, word: str) -> str:
    where = f"{kind.path} {'stream' if stream else 'whole'}"
    if answer.status_code != 200:
        return f"{where}: {answer.status_code} {answer.text[:200]}"
    if stream:
        is_whole = kind.last in answer.text and '"error":{' not in answer.text
        return "" if is_whole and word in answer.text else f"{where}: {answer.text[-200:]}"
    return "" if word in kind.said(json.loads(answer.content)) else f"{where}: {answer.text[:200]}"


async def _call_on(client: httpx.AsyncClient, number: int, over: asyncio.Event, told: list[Told]) -> None:
    """One caller: calls of every kind, one after the other, until it is over."""
    dice = random.Random(number)
    for kind, stream in itertools.islice(itertools.cycle(WAYS), number, None):
        told.append(await _ask(client, kind, stream, f"word{number}x{len(told)}"))
        if over.is_set():
            return
        await asyncio.sleep(dice.uniform(0.8, 1.6))


async def _storm(providers: FakeProvider) -> None:
    """Until the weather is fine again. All is still as it was at the end but for the slow one."""
    for name, steps in (("limited", [LIMITED]), ("slow", [SLOW])):
        await asyncio.to_thread(providers.script, name, steps * ENOUGH)
    ends = time.monotonic() + ROUGH_S
    is_down = False
    while time.monotonic() < ends:
        is_down = not is_down
        if is_down:
            await asyncio.to_thread(providers.script, "flapping", DOWN * (ENOUGH // 3))
        else:
            await asyncio.to_thread(providers.unscript, "flapping")
        await asyncio.sleep(GUST_S)
    for name in ("limited", "flapping"):
        await asyncio.to_thread(providers.unscript, name)


def _served(providers: FakeProvider, name: str, since: float) -> bool:
    return any(call["status"] == 200 and call["began"] > since for call in providers.calls(name))


async def _weather(gateway: RunningGateway, providers: FakeProvider) -> tuple[list[Told], float]:
    """Callers before, in and after a storm: what they were told, and when it was over."""
    told: list[Told] = []
    over = asyncio.Event()
    async with _client(gateway) as client, asyncio.TaskGroup() as callers:
        for number in range(CALLERS):
            callers.create_task(_call_on(client, number, over, told))
        await _storm(providers)
        calm = time.monotonic()
        while time.monotonic() < calm + MOST_S - ROUGH_S:
            await asyncio.sleep(0.5)
            seen = [await asyncio.to_thread(_served, providers, name, calm) for name in ("limited", "flapping")]
            if all(seen):
                break
        over.set()
    return told, calm


def test_nobody_notices_a_storm_and_the_backends_are_spared(gateway: RunningGateway, providers: FakeProvider) -> None:
    told, calm = asyncio.run(_weather(gateway, providers))
    assert [one.trouble for one in told if one.trouble] == []
    seen = {name: providers.calls(name) for name in NAMES}
    assert len(told) > 2 * CALLERS
    served = Counter({name: sum(call["status"] == 200 for call in calls) for name, calls in seen.items()})
    assert served.total() == len(told), "each call is answered by one backend, and by no second one"
    assert min(served.values()) > 0
    assert_spared(seen["limited"])
    for name in ("limited", "flapping"):
        assert any(call["began"] > calm for call in seen[name] if call["status"] == 200), f"{name} is back"
    assert_left_alone(seen["flapping"])
    assert_told(gateway, told, seen)


def assert_spared(calls: Sequence[Json]) -> None:
    """Once it has asked for a pause and everybody knows, it gets no call until that is over."""
    asked = [call["began"] for call in calls if call["status"] == 429]
    assert len(asked) > 1
    for call in calls:
        too_soon = [at for at in asked if at + KNOWN_S < call["began"] < at + PAUSE_S - 0.05]
        assert not too_soon, f"{call['began'] - too_soon[-1]:.2f} s after it had asked for a pause of {PAUSE_S} s"


def assert_left_alone(calls: Sequence[Json]) -> None:
    """Once each worker must have seen it fail often enough, it gets no call until it is time to try it again."""
    runs = [list(run) for failed, run in itertools.groupby(calls, lambda call: call["status"] != 200) if failed]
    long_runs = [run for run in runs if len(run) >= WORKERS * FAILURES]
    assert long_runs
    for run in long_runs:
        opened_first, opened_last = run[FAILURES - 1]["began"], run[WORKERS * FAILURES - 1]["began"]
        asked = [call["began"] for call in calls]
        assert [at for at in asked if opened_last + KNOWN_S < at < opened_first + OPEN_S] == []


def assert_told(gateway: RunningGateway, told: Sequence[Told], seen: dict[str, list[Json]]) -> None:
    """One record and one bill for each call, by the providers' own numbers; one for each attempt that failed."""
    wanted = {one.request_id for one in told}

    def records() -> list[Json] | None:
        mine = [record for record in gateway.records() if record["request_id"] in wanted]
        return mine if len(mine) >= len(wanted) else None

    calls: list[Json] = until(records, 20, "the records")
    assert len(calls) == len(wanted) == len(told)
    assert Counter(record["ending"] for record in calls) == {"complete": len(told)}
    answered = [call for each in seen.values() for call in each if call["status"] == 200]
    for kind in ("input", "output"):
        assert sum(record["usage"][kind] for record in calls) == sum(call[f"{kind}_tokens"] for call in answered)
    failed = sum(call["status"] != 200 for each in seen.values() for call in each)
    until(lambda: len(gateway.records("attempt")) == failed, 10, "the records of the attempts")
