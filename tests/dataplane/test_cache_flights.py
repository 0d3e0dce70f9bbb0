"""Many callers that ask the same at the same time, of two workers that share one Redis: one of them asks a provider."""

import asyncio
import json
import re
import signal
from collections import Counter
from collections.abc import Iterator
from typing import Any

import httpx
import openai
import pytest

from extproc.stores.ports import AreaRecord, ChangeSet
from tests.dataplane.test_directory import Desk, team
from tests.dataplane.test_reload import Reloading
from tests.support.cache import CHAT, ONLY, PRICE, Crowd, Site, chat, fresh, result
from tests.support.fake import FakeProvider
from tests.support.gateway import RunningGateway, until
from tests.support.redis_server import RedisServer, redis_server

Json = dict[str, Any]

STREAMS = pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
KEY = "k" * 32
ROOM = 100
"""Tokens of a limit that has room for one call of `exact`, and not for two."""


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
    """A call may wait far longer than Envoy waits for a decision by itself."""
    served = {"targets": [[{"backend": "openai"}]], "price": PRICE}
    settings = {
        "workers": 2,
        "stores": {"counters": redis.url, "counters_wait": "1s"},  # a busy machine must not make it a miss
        "timeouts": {"policy": "1s", "policy_longest": "60s"},
        "backends": {"openai": {"dialect": "openai", "url": provider.url("openai")}},
        "models": dict.fromkeys(("gpt-4o", "exact", "spent", "narrow"), served),
        "cache": {"mode": "enforce", "key": {"env": "CACHE_KEY"}, "wait": "40s"},
        "policies": {
            "redaction": {"private": {}},
            "limits": {
                "exact": {"tokens": ROOM, "per": "month", "scope": "key", "only": {"models": ["exact"]}},
                "spent": {"tokens": 100_000, "per": "month", "scope": "key", "only": {"models": ["spent"]}},
                "narrow": {"concurrent": 2, "only": {"models": ["narrow"]}},
            },
        },
    }
    with RunningGateway(settings, {"CACHE_KEY": KEY}) as gateway:
        desk = Desk(gateway)
        teams = (team("crowd"), team("private", redaction="private"))
        desk.apply(ChangeSet(areas=(AreaRecord("science", ()),), teams=teams))
        keys = {name: desk.minted(name, "crowd") for name in ("poor", "rich")}
        site = Site(gateway, provider, keys=keys | {"private": desk.key("private", "private")})
        yield site
        site.close()


@pytest.fixture
def site(shared: Site) -> Site:
    shared.fake.reset()
    until(lambda: shared.gateway.envoy_stat("cluster.extproc.membership_healthy") == 2, 60, "both workers")
    return shared


def streams(gateway: RunningGateway, what: str = "rq_total") -> list[int]:
    """How many calls Envoy has told each worker of, or has under way with it (`rq_active`)."""
    transport = httpx.HTTPTransport(uds=str(gateway.folder / "var/run/admin.sock"))
    with httpx.Client(transport=transport, base_url="http://admin") as admin:
        text = admin.get("/clusters").text
    found = re.findall(rf"^extproc::.*worker-(\d)\.sock::{what}::(\d+)$", text, re.MULTILINE)
    return [int(number) for _, number in sorted(found)]


def said(answer: httpx.Response) -> str:
    """The text of an answer, of a stream put together."""
    if "event-stream" not in answer.headers["content-type"]:
        return str(answer.json()["choices"][0]["message"]["content"])
    assert answer.text.endswith("data: [DONE]\n\n")
    events = [json.loads(line[6:]) for line in answer.text.split("\n\n")[:-2]]
    return "".join(choice["delta"].get("content") or "" for event in events for choice in event["choices"])


# ---- one call for all ----------------------------------------------------------------------------------


@STREAMS
async def test_a_hundred_equal_calls_are_one_at_the_provider(stream: bool, site: Site) -> None:
    body = chat(fresh(), stream=stream, x_fake={"held": 3 if stream else 0})
    before = streams(site.gateway)
    async with Crowd(site) as crowd:
        calls = crowd.ask(body, 100)
        await crowd.at_the_gateway(100)
        await crowd.at_the_provider(1)
        site.fake.release("openai")
        answers = await asyncio.gather(*calls)
    assert Counter(map(result, answers)) == {"miss": 1, "hit": 99}
    assert len({answer.content for answer in answers}) == 1
    assert site.asked() == 1
    shares = [now - then for now, then in zip(streams(site.gateway), before, strict=True)]
    assert min(shares) > 10
    paid = [record for record in map(site.record, answers) if record.get("cost")]
    assert [record["cache"]["result"] for record in paid] == ["miss"]


async def test_who_waits_may_wait_longer_than_envoy_does_by_itself(site: Site) -> None:
    """Longer than `timeouts.policy`, which is asked to be extended."""
    body = chat(fresh(), x_fake={"delay_ms": 2500})
    async with Crowd(site) as crowd:
        answers = await asyncio.gather(*crowd.ask(body, 6))
    assert Counter(map(result, answers)) == {"miss": 1, "hit": 5}
    assert site.asked() == 1


async def test_each_of_many_waiting_callers_gets_its_own_values(site: Site) -> None:
    text = fresh()
    script = [{"held": 0}]
    site.fake.script("openai", script)
    async with Crowd(site) as crowd:
        names = [f"person{letter}@corp-mail.ch" for letter in "abcdefgh"]
        calls = [crowd.ask(chat(f"{text} {name}"), key="private")[0] for name in names]
        await crowd.at_the_gateway(len(names))
        await crowd.at_the_provider(1)
        site.fake.release("openai")
        answers = await asyncio.gather(*calls)
    assert site.asked() == 1
    for name, answer in zip(names, answers, strict=True):
        assert [other for other in names if other in answer.text] == [name]


# ---- who waits holds nothing -----------------------------------------------------------------------------


async def test_who_waits_holds_nothing_of_a_budget(site: Site) -> None:
    """There is room for the one that asks the provider and for no other; and for each of them as a request."""
    body = chat(fresh(), "exact", max_tokens=50)
    site.fake.script("openai", [{"held": 0}])
    async with Crowd(site) as crowd:
        calls = crowd.ask(body, 40, "rich")
        await crowd.at_the_gateway(40)
        await crowd.at_the_provider(1)
        site.fake.release("openai")
        answers = await asyncio.gather(*calls)
    assert Counter(map(result, answers)) == {"miss": 1, "hit": 39}
    held = site.record(next(answer for answer in answers if result(answer) == "miss"))["held"]
    assert ROOM / 2 < held["input"] + held["output"] <= ROOM
    assert site.asked() == 1


async def test_who_waited_is_served_however_few_calls_may_be_open(site: Site) -> None:
    """All of them at once, as soon as the answer is there."""
    body = chat(fresh(), "narrow")
    site.fake.script("openai", [{"held": 0}])
    async with Crowd(site) as crowd:
        calls = crowd.ask(body, 40)
        await crowd.at_the_gateway(40)
        await crowd.at_the_provider(1)
        site.fake.release("openai")
        answers = await asyncio.gather(*calls)
    assert Counter(map(result, answers)) == {"miss": 1, "hit": 39}


# ---- whoever makes the answer does not ------------------------------------------------------------------


async def begun(crowd: Crowd, body: Json, key: str = "") -> asyncio.Task[httpx.Response]:
    """A call whose answer is being made."""
    (leader,) = crowd.ask(body, key=key)
    await crowd.at_the_provider(crowd.site.asked() + 1)
    return leader


async def test_those_who_wait_go_on_when_the_first_one_leaves(site: Site) -> None:
    body = chat(fresh(), stream=True)
    site.fake.script("openai", [{"held": 3}])
    async with Crowd(site) as crowd:
        leader = await begun(crowd, body)
        calls = crowd.ask(body, 12)
        await crowd.at_the_gateway(13)
        leader.cancel()
        answers = await asyncio.gather(*calls)
    assert {said(answer) for answer in answers} == {said(answers[0])}
    assert site.fake.totals("openai")["disconnected"] == 1


async def test_those_who_wait_go_on_when_the_first_one_fails(site: Site) -> None:
    body = chat(fresh())
    site.fake.script("openai", [{"status": 500, "held": 0}])
    async with Crowd(site) as crowd:
        leader = await begun(crowd, body)
        calls = crowd.ask(body, 12)
        await crowd.at_the_gateway(13)
        assert site.asked() == 1
        site.fake.release("openai")
        assert (await leader).status_code == 500
        answers = await asyncio.gather(*calls)
    assert [answer.status_code for answer in answers] == [200] * 12
    kept = await asyncio.to_thread(site.until_kept, body)
    assert kept.content in {answer.content for answer in answers}


async def test_those_who_wait_go_on_when_the_first_one_is_cut_off(site: Site) -> None:
    body = chat(fresh(), stream=True)
    site.fake.script("openai", [{"held": 3, "error_event_after": 5}])
    async with Crowd(site) as crowd:
        leader = await begun(crowd, body)
        calls = crowd.ask(body, 12)
        await crowd.at_the_gateway(13)
        site.fake.release("openai")
        assert "server_error" in (await leader).text
        answers = await asyncio.gather(*calls)
    assert len({said(answer) for answer in answers}) == 1


async def test_those_who_wait_go_on_when_the_first_ones_have_nothing_left_to_pay(site: Site) -> None:
    spent = {"prompt_tokens": 200_000, "completion_tokens": 1, "total_tokens": 200_001}
    site.chat(fresh(), "spent", "poor", x_fake={"usage": spent})
    until(lambda: site.chat(fresh(), "spent", "poor").status_code == 429, what="the end of the tokens")
    body = chat(fresh(), "spent", max_tokens=50)
    async with Crowd(site) as crowd:
        poor = crowd.ask(body, 10, "poor")
        rich = crowd.ask(body, 10, "rich")
        poor += crowd.ask(body, 10, "poor")
        answers = await asyncio.gather(*rich)
        refused = await asyncio.gather(*poor)
    assert [answer.status_code for answer in answers] == [200] * 10
    assert {answer.status_code for answer in refused} <= {200, 429}  # what the others paid for is given to all
    kept = await asyncio.to_thread(site.until_kept, body, key="poor")
    assert kept.content in {answer.content for answer in answers}


async def test_those_who_wait_go_on_when_the_worker_of_the_first_one_is_killed(site: Site) -> None:
    """Those of that worker call again, as SDKs do."""
    text = fresh()
    site.fake.script("openai", [{"held": 3}])
    idle = streams(site.gateway, "rq_active")
    async with Crowd(site) as crowd:
        leader = await begun(crowd, chat(text, stream=True))
        number = await asyncio.to_thread(with_one_more, site, idle)
        client = openai.AsyncOpenAI(base_url=f"{site.gateway.url}/v1", api_key=site.gateway.key, max_retries=5)
        async with client:
            calls = [asyncio.ensure_future(collected(client, text)) for _ in range(20)]
            await crowd.at_the_gateway(21)
            assert site.asked() == 1
            (victim,) = [one for one in site.gateway.processes("extproc.worker") if one.cmdline()[-1] == str(number)]
            victim.send_signal(signal.SIGKILL)
            texts = await asyncio.gather(*calls)
        with pytest.raises(httpx.HTTPError):
            await leader
    assert len(set(texts)) == 1
    assert texts[0].startswith("You said")
    site.fake.release("openai")


def with_one_more(site: Site, idle: list[int]) -> int:
    """The number of the worker that has one call more than it had."""

    def counted() -> list[int] | None:
        more = [now - then for now, then in zip(streams(site.gateway, "rq_active"), idle, strict=True)]
        return more if sorted(more) == [0, 1] else None

    found: list[int] = until(counted, what="the worker of the call")
    return found.index(1)


async def collected(client: openai.AsyncOpenAI, text: str) -> str:
    """The text of a stream, as the SDK reads it."""
    said: Any = [{"role": "user", "content": text}]
    events = await client.chat.completions.create(model="gpt-4o", messages=said, stream=True)
    return "".join([choice.delta.content or "" async for event in events for choice in event.choices])


# ---- who waits in vain ------------------------------------------------------------------------------------


async def test_who_waits_for_too_long_goes_alone(site: Site) -> None:
    """The setting is in force at once, without a restart."""
    reloading = Reloading(site.gateway, site.fake)
    settings = reloading.settings()
    await asyncio.to_thread(reloading.take, {**settings, "cache": {**settings["cache"], "wait": "0.2s"}})
    body = chat(fresh(), x_fake={"held": 0})
    async with Crowd(site) as crowd:
        calls = crowd.ask(body, 8)
        await crowd.at_the_provider(8)
        site.fake.release("openai")
        answers = await asyncio.gather(*calls)
    assert Counter(map(result, answers)) == {"miss": 8}
    assert site.asked() == 8
    until(lambda: site.post(CHAT, body, headers=ONLY).status_code == 200, what="one of them to be kept")
    await asyncio.to_thread(reloading.take, settings)


async def test_those_who_wait_for_another_worker_go_on_without_redis(site: Site, redis: RedisServer) -> None:
    """Those of the same worker still get its answer."""
    body = chat(fresh())
    site.fake.script("openai", [{"held": 0}])
    async with Crowd(site) as crowd:
        calls = crowd.ask(body, 30)
        await crowd.at_the_gateway(30)
        await crowd.at_the_provider(1)
        redis.kill()
        try:
            await crowd.at_the_provider(2)
            site.fake.release("openai")
            answers = await asyncio.gather(*calls)
        finally:
            redis.start()
    assert Counter(map(result, answers))["miss"] == site.asked() > 1
    assert Counter(map(result, answers))["hit"] > 0
