"""What calls cost by prices that change with time, with the service tier and with the length of the input."""

import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx
import pytest

from tests.support.fake import FakeProvider
from tests.support.gateway import RunningGateway, until
from tests.support.sdk import DOORS, Answer, ask, client_at

Json = dict[str, Any]

SAY = [{"role": "user", "content": "Hello!"}]
LONG = [{"role": "user", "content": "word " * 200}]
FLOOR = 100  # tokens of input above which a call is long

USUAL = {"input": 2, "output": 8}  # 2,000 and 8,000 nano-units a token
LISTED = {
    **USUAL,
    "version": "2026-11",
    "long_context": [{"above": FLOOR, "input": 4, "output": 12}],
    "service_tiers": {
        "priority": {"input": 5, "output": 20, "long_context": [{"above": FLOOR, "input": 10, "output": 30}]},
        "flex": {"input": 1, "output": 4},
    },
}
CACHED = {"input": 3, "output": 15, "cached_input": 0.3, "cache_write": 3.75, "cache_write_1h": 6}
LIFE = {"max_output": 50, "min_output": 10}
SWITCH = timedelta(seconds=10)  # from the configuration to the new price, so that a slow start still sees the old one


def _versions(moment: datetime) -> list[Json]:
    later = {"input": 20, "output": 80, "from": moment.isoformat(), "version": "new"}
    return [{**USUAL, "version": "old"}, later]


@dataclass(frozen=True)
class Ground:
    gateway: RunningGateway
    fake: FakeProvider
    switch: float  # when the price of `changing` is another, in Unix time


@pytest.fixture(scope="module")
def ground() -> Iterator[Ground]:
    now = datetime.now(UTC)
    switch = now + SWITCH
    with FakeProvider("openai", "anthropic") as fake:
        prices: Json = {
            "listed": LISTED,
            "changing": _versions(switch),
            "changed": _versions(now - timedelta(days=1)),
            "planned": _versions(now + timedelta(days=300)),
            "unnamed": USUAL,
        }
        models: Json = {
            name: {"targets": [[{"backend": "openai"}]], "price": price, **LIFE} for name, price in prices.items()
        }
        models["cached"] = {"targets": [[{"backend": "anthropic"}]], "price": CACHED, **LIFE}
        models["free"] = {"targets": [[{"backend": "openai"}]]}
        models["half"] = {"targets": [[{"backend": "openai"}, {"backend": "anthropic", "price": USUAL}]]}
        settings = {
            "backends": {
                "openai": {"dialect": "openai", "url": fake.url("openai")},
                "anthropic": {"dialect": "anthropic", "url": fake.url("anthropic")},
            },
            "models": models,
            "policies": {"unpriced": "refuse", "limits": {"budget": {"money": 100, "per": "month"}}},
        }
        with RunningGateway(settings) as gateway:
            yield Ground(gateway, fake, switch.timestamp())


async def say(ground: Ground, model: str, door: str = "openai", fault: Json | None = None, **fields: Any) -> Answer:
    backend = "anthropic" if model == "cached" else "openai"
    if fault is not None:
        ground.fake.script(backend, [fault])
    operation = "messages.create" if door == "anthropic" else "chat.completions.create"
    asked = {"model": model, "messages": SAY, "max_tokens": 50, **fields}
    async with client_at(DOORS[door], ground.gateway.url, ground.gateway.key) as sdk:
        return await ask(sdk, operation, **asked)


def facts(ground: Ground, answer: Answer) -> tuple[Json, int, int]:
    """The record of a call, and its tokens of input and output."""
    record = ground.gateway.record(answer.request_id)
    return record, record["usage"]["input"], record["usage"]["output"]


class TestServiceTiers:
    @pytest.mark.parametrize("stream", [False, True])
    @pytest.mark.parametrize(
        ("asked", "served", "rates", "held"),
        [
            (None, None, (2_000, 8_000), (5_000, 20_000)),
            ("default", None, (2_000, 8_000), (2_000, 8_000)),
            ("priority", "priority", (5_000, 20_000), (5_000, 20_000)),
            ("priority", "default", (2_000, 8_000), (5_000, 20_000)),
            ("auto", "priority", (5_000, 20_000), (5_000, 20_000)),
            ("flex", "flex", (1_000, 4_000), (2_000, 8_000)),
        ],
    )
    async def test_the_tier_that_the_answer_names_is_paid(
        self,
        asked: str | None,
        served: str | None,
        rates: tuple[int, int],
        held: tuple[int, int],
        stream: bool,
        ground: Ground,
    ) -> None:
        fields: Json = {} if asked is None else {"service_tier": asked}
        if stream:
            fields["stream"] = True
        answer = await say(ground, "listed", fault={"served_tier": served}, **fields)
        record, read, written = facts(ground, answer)
        assert record["cost"] == rates[0] * read + rates[1] * written
        assert record["held"]["money"] == held[0] * record["held"]["input"] + held[1] * 50
        assert record["price"] == "2026-11"
        assert record.get("service_tier", "default") == (served or "default")

    async def test_of_a_response_the_end_tells_it(self, ground: Ground) -> None:
        async with client_at(DOORS["openai"], ground.gateway.url, ground.gateway.key) as sdk:
            fields: Json = {"model": "listed", "input": "Hello!", "max_output_tokens": 50, "stream": True}
            ground.fake.script("openai", [{"served_tier": "priority"}])
            answer = await ask(sdk, "responses.create", **fields)
        record, read, written = facts(ground, answer)
        assert record["cost"] == 5_000 * read + 20_000 * written


class TestLongContext:
    @pytest.mark.parametrize(("tier", "rates"), [("default", (4_000, 12_000)), ("priority", (10_000, 30_000))])
    async def test_all_of_a_long_call_costs_more_and_that_is_held(
        self, tier: str, rates: tuple[int, int], ground: Ground
    ) -> None:
        answer = await say(ground, "listed", fault={"served_tier": tier}, messages=LONG, service_tier=tier)
        record, read, written = facts(ground, answer)
        assert read > FLOOR
        assert record["cost"] == rates[0] * read + rates[1] * written
        assert record["held"]["money"] == rates[0] * record["held"]["input"] + rates[1] * 50


class TestPromptCaches:
    @pytest.mark.parametrize("stream", [False, True])
    @pytest.mark.parametrize("door", ["anthropic", "openai"])
    async def test_what_stays_for_an_hour_costs_more(self, stream: bool, door: str, ground: Ground) -> None:
        """Also where the answer is translated into another dialect."""
        fault = {"cached_tokens": 40, "cache_write_tokens": 100, "cache_write_1h_tokens": 70}
        answer = await say(ground, "cached", door, fault=fault, messages=LONG, stream=stream)
        record, read, written = facts(ground, answer)
        usage = record["usage"]
        assert (usage["cached_input"], usage["cache_write"], usage["cache_write_1h"]) == (40, 100, 70)
        assert record["cost"] == (read - 140) * 3_000 + 40 * 300 + 30 * 3_750 + 70 * 6_000 + written * 15_000
        assert record["cost"] <= record["held"]["money"]


class TestUnpriced:
    async def test_without_a_price_nothing_is_served(self, ground: Ground) -> None:
        calls = ground.fake.totals("openai")["calls"]
        key = {"authorization": f"Bearer {ground.gateway.key}"}
        asked = {"model": "free", "messages": SAY}
        url = f"{ground.gateway.url}/v1/chat/completions"
        answer = httpx.post(url, json=asked, headers=key, trust_env=False)
        assert (answer.status_code, answer.json()["error"]["code"]) == (403, "price_unknown")
        assert ground.fake.totals("openai")["calls"] == calls

    async def test_where_one_of_two_backends_has_a_price_that_one_serves(self, ground: Ground) -> None:
        for _ in range(4):
            record, _, _ = facts(ground, await say(ground, "half"))
            assert (record["backend"], record["chain"]) == ("anthropic", ["anthropic"])

    async def test_a_tier_without_a_price_costs_the_usual_and_is_counted(self, ground: Ground) -> None:
        record, read, written = facts(ground, await say(ground, "listed", fault={"served_tier": "scale"}))
        assert record["cost"] == 2_000 * read + 8_000 * written

        def counted() -> bool:
            url = f"http://127.0.0.1:{ground.gateway.metrics_port}/metrics"
            text = httpx.get(url, trust_env=False).text
            return 'sluice_unpriced_calls_total{backend="openai",model="listed",what="scale"} 1.0' in text

        until(counted, what="the metric")


class TestVersions:
    async def test_the_version_in_force_when_a_call_began_prices_it(self, ground: Ground) -> None:
        for model, version, times in (("changed", "new", 10), ("planned", "old", 1)):
            record, read, written = facts(ground, await say(ground, model))
            assert (record["price"], record["cost"]) == (version, times * (2_000 * read + 8_000 * written))
            assert record["held"]["money"] == times * (2_000 * record["held"]["input"] + 8_000 * 50)

    async def test_a_new_one_takes_over_by_itself(self, ground: Ground) -> None:
        deadline = ground.switch + 5
        while True:
            before = time.time()
            record, read, written = facts(ground, await say(ground, "changing"))
            after = time.time()
            times = 1 if record["price"] == "old" else 10
            assert record["cost"] == times * (2_000 * read + 8_000 * written) <= record["held"]["money"]
            assert record["price"] == "old" if after < ground.switch else before < ground.switch or times == 10
            if times == 10:
                break
            assert after < deadline
            time.sleep(0.2)

    async def test_one_without_a_name_has_that_of_its_prices(self, ground: Ground) -> None:
        record, _, _ = facts(ground, await say(ground, "unnamed"))
        assert record["price"] == "auto-1503a3a0"
