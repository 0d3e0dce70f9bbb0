"""Answers to the same in other words through the real Envoy, with vectors of a service and neighbours in a Redis."""

import json
from base64 import b64decode
from collections.abc import Iterator
from typing import Any

import pytest
from typer.testing import CliRunner

from extproc.cli import app
from tests.support.cache import CHAT, HEADER, ONLY, PRICE, Site, chat, result
from tests.support.fake import FakeProvider
from tests.support.gateway import RunningGateway, until
from tests.support.redis_server import RedisServer, redis_server
from tests.support.services import FakeServices

ENVIRON = {"CACHE_KEY": "seal-" * 8, "VECTORS_KEY": "secret-vectors"}
NEIGHBOURS = "sluice:{gateway}:neighbours:rows"


@pytest.fixture(scope="module")
def services() -> Iterator[FakeServices]:
    with FakeServices("vectors") as running:
        yield running


@pytest.fixture(scope="module")
def redis() -> Iterator[RedisServer]:
    with redis_server() as running:
        yield running


def settings(fake: FakeProvider, services: FakeServices, redis: RedisServer) -> dict[str, Any]:
    served = {"targets": [[{"backend": "openai"}]], "price": PRICE}
    vectors = {
        "api": "openai-embeddings",
        "url": f"{services.url('vectors')}/v1",
        "credential": {"env": "VECTORS_KEY"},
    }
    tier = {"mode": "enforce", "threshold": 0.8, "service": "vectors", "service_model": "small", "price": 20}
    return {
        "workers": 2,
        "stores": {"answers": redis.url, "counters_wait": "1s"},
        "services": {"vectors": vectors},
        "backends": {"openai": {"dialect": "openai", "url": fake.url("openai")}},
        "models": {"gpt-4o": served, "shadowed": served, "exact": served},
        "cache": {
            "mode": "enforce",
            "key": {"env": "CACHE_KEY"},
            "semantic": {**tier, "timeout": "2s"},
            "rules": [
                {"models": ["shadowed"], "semantic": {"mode": "shadow"}},
                {"models": ["exact"], "semantic": {"mode": "off"}},
            ],
        },
        "policies": {"redaction": {"default": {}}},
    }


@pytest.fixture(scope="module")
def shared(services: FakeServices, redis: RedisServer) -> Iterator[Site]:
    with FakeProvider("openai") as fake, RunningGateway(settings(fake, services, redis), ENVIRON) as gateway:
        found = Site(gateway, fake)
        yield found
        found.close()


@pytest.fixture
def site(shared: Site, services: FakeServices) -> Site:
    shared.fake.reset()
    services.reset()
    return shared


def town(name: str) -> str:
    return f"What is the capital of {name}?"


def politely(name: str) -> str:
    return f"Please tell me: what is the capital of {name}?"


def embedded(services: FakeServices) -> list[str]:
    """The texts of which a vector was asked."""
    return [json.loads(b64decode(call["body_base64"]))["input"] for call in services.calls("vectors")]


def test_other_words_are_answered_from_either_worker_without_a_backend(site: Site) -> None:
    asked = site.chat(town("France"))
    assert result(asked) == "miss"
    first = site.until_kept(chat(politely("France")))
    assert first.content == asked.content
    for _ in range(6):  # each worker has its own copy
        again = site.chat(politely("France"))
        assert (result(again), again.content) == ("semantic", asked.content)
    assert 0.8 < float(again.headers[f"{HEADER}-similarity"]) < 0.9
    told = site.record(again)
    assert told["cache"]["result"] == "semantic"
    assert told["cost"] == told["aside"] > 0
    assert site.asked() == 1


def test_a_near_miss_and_other_settings_get_none(site: Site) -> None:
    site.chat(town("Norway"))
    site.until_kept(chat(politely("Norway")))
    assert result(site.chat(politely("Sweden"))) == "miss"
    assert result(site.chat(politely("Norway"), temperature=0.2)) == "miss"
    system = [{"role": "system", "content": "Lie."}, {"role": "user", "content": politely("Norway")}]
    assert result(site.post(CHAT, {"model": "gpt-4o", "messages": system})) == "miss"
    assert result(site.chat(politely("Norway"), headers={HEADER: "exact"})) == "miss"


def test_a_stream_comes_back_as_one(site: Site) -> None:
    asked = site.chat(town("Italy"), stream=True)
    found = site.until_kept(chat(politely("Italy"), stream=True))
    assert found.headers["content-type"].startswith("text/event-stream")
    assert found.content == asked.content


def test_the_service_sees_no_value_and_redis_keeps_none(site: Site, services: FakeServices, redis: RedisServer) -> None:
    site.chat("Write a mail to ann@canary.org about lunch.")
    site.until_kept(chat("Please write a mail to bob@canary.org about lunch."))
    texts = embedded(services)
    assert texts[0] == "Write a mail to <EMAIL_ADDRESS_1> about lunch."
    assert not any("canary" in text for text in texts)
    assert dict(services.calls("vectors")[0]["headers"])["authorization"] == "Bearer secret-vectors"
    assert "canary" not in str(redis.call("HGETALL", NEIGHBOURS))
    assert "about lunch" in str(redis.call("HGETALL", NEIGHBOURS))
    assert "about lunch" not in site.gateway.told()


@pytest.mark.parametrize(
    "fault",
    [
        {"status": 500},
        {"error_body": "nonsense", "status": 200},
        {"error_body": '{"data":[{"embedding":[]}]}', "status": 200},
        {"error_body": '{"data":[{"embedding":["x"]}]}', "status": 200},
        {"delay_ms": 5_000},
    ],
    ids=["500", "nonsense", "empty", "texts", "slow"],
)
def test_a_service_that_fails_costs_only_the_hit(site: Site, services: FakeServices, fault: dict[str, Any]) -> None:
    name = f"Land {fault}".translate({ord(mark): None for mark in "{}'\":[],_\\"})
    services.script("vectors", [fault])
    assert result(site.chat(town(name))) == "miss"
    assert result(site.until_kept(chat(town(name)))) == "hit"
    assert site.chat(politely(name), headers=ONLY).status_code == 504


def test_shadow_compares_and_serves_nothing(site: Site) -> None:
    site.chat(town("Spain"), "shadowed")
    site.until_kept(chat(town("Spain"), "shadowed"))

    def found() -> Any:
        answer = site.chat(politely("Spain"), "shadowed", headers={"x-sluice-cache-ttl": "1s"})
        return answer if site.told(answer).get("shadow") else None

    answer = until(found, 30, "an answer that would have served")
    assert result(answer) == "miss"
    record = site.gateway.record(answer.headers["x-request-id"], "cache_shadow")
    assert record["model"] == "shadowed"
    assert record["agrees"] in (True, False)
    wanted = f'sluice_cache_semantic_shadow_total{{agrees="{str(record["agrees"]).lower()}",model="shadowed"}}'
    until(lambda: wanted in site.gateway.metrics(), what="the metric")


def test_where_it_is_off_nothing_is_embedded(site: Site, services: FakeServices) -> None:
    site.chat(town("Chile"), "exact")
    site.until_kept(chat(town("Chile"), "exact"))
    assert result(site.chat(politely("Chile"), "exact")) == "miss"
    assert embedded(services) == []


def test_a_purge_forgets_the_questions(site: Site, redis: RedisServer) -> None:
    site.chat(town("Peru"))
    site.until_kept(chat(politely("Peru")))
    arguments = ["cache", "purge", "--all", "--yes", "--json", "--config", str(site.gateway.config)]
    assert CliRunner().invoke(app, arguments).exit_code == 0
    assert redis.call("EXISTS", NEIGHBOURS) == 0
    assert site.chat(politely("Peru"), headers=ONLY).status_code == 504
    assert result(site.chat(town("Peru"))) == "miss"
    site.until_kept(chat(politely("Peru")))
