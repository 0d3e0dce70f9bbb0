"""Answers in a Redis, as those who run a gateway deal with them: commands, changes while it runs, restarts."""

import json
import re
from collections.abc import Iterator, Mapping
from typing import Any

import pytest
from ruamel.yaml import YAML
from typer.testing import CliRunner

from extproc.cli import app
from tests.support.cache import PRICE, Site, chat, fresh, result
from tests.support.fake import FakeProvider
from tests.support.gateway import RunningGateway, until
from tests.support.redis_server import RedisServer, redis_server

PATIENCE = 90.0
KEY = {"CACHE_KEY": "seal-" * 8}
CACHE: Mapping[str, Any] = {"mode": "enforce", "key": {"env": "CACHE_KEY"}}

Settings = dict[str, Any]


@pytest.fixture(scope="module")
def provider() -> Iterator[FakeProvider]:
    with FakeProvider("openai", "other") as running:
        yield running


@pytest.fixture(scope="module")
def redis() -> Iterator[RedisServer]:
    with redis_server() as running:
        yield running


def settings(provider: FakeProvider, redis: RedisServer) -> Settings:
    return {
        "workers": 2,
        "stores": {"answers": redis.url},
        "cache": {**CACHE, "rules": [{"models": ["other"], "mode": "off"}]},
        "backends": {name: {"dialect": "openai", "url": provider.url(name)} for name in ("openai", "other")},
        "models": {name: {"targets": [[{"backend": "openai"}]], "price": PRICE} for name in ("gpt-4o", "other")},
    }


@pytest.fixture(scope="module")
def site(provider: FakeProvider, redis: RedisServer) -> Iterator[Site]:
    with RunningGateway(settings(provider, redis), KEY) as gateway:
        found = Site(gateway, provider, ("openai", "other"))
        yield found
        found.close()


def kept(site: Site) -> str:
    """A question whose answer is kept."""
    question = fresh()
    assert result(site.chat(question)) == "miss"
    site.until_kept(chat(question))
    return question


def sluice(site: Site, *arguments: str) -> Any:
    """What a command prints as JSON."""
    run = CliRunner().invoke(app, ["cache", *arguments, "--json", "--config", str(site.gateway.config)])
    assert run.exit_code == 0, run.output
    return json.loads(run.stdout)


def change(site: Site, **changes: Any) -> None:
    """Change the configuration, and wait until it is in force."""

    def loaded() -> list[str]:
        return re.findall(r'sluice_config_loaded_timestamp_seconds{revision="(\w+)"}', site.gateway.metrics())

    before, aside = loaded(), site.gateway.folder / "next.yaml"
    with aside.open("w") as file:
        YAML().dump({**site.gateway.settings, **changes}, file)
    aside.replace(site.gateway.config)
    until(lambda: loaded() != before, PATIENCE, f"the configuration:\n{site.gateway.log()}")


def test_what_is_kept_is_counted_and_forgotten_by_the_commands(site: Site) -> None:
    question = kept(site)
    found = sluice(site, "stats")
    assert found["answers"] >= 1
    assert [(part["team"], part["model"]) for part in found["by"]] == [(None, "gpt-4o")]
    assert sluice(site, "purge", "--model", "gpt-4o", "--key", "quickstart", "--yes") == {"forgotten": found["answers"]}
    assert sluice(site, "stats")["answers"] == 0
    assert result(site.chat(question)) == "miss"


def test_rules_are_taken_over_while_calls_run(site: Site, provider: FakeProvider, redis: RedisServer) -> None:
    question = kept(site)
    assert result(site.chat(question, "other")) == ""
    change(site, cache={**CACHE, "rules": [{"models": ["gpt-4o"], "mode": "off"}]})
    assert result(site.chat(question)) == ""
    assert result(site.chat(question, "other")) == "miss"
    change(site, cache={**CACHE, "rules": [{"models": ["gpt-4o"], "mode": "shadow"}]})
    shadow = site.chat(question)
    assert (result(shadow), site.told(shadow)["shadow"]) == ("miss", True)
    change(site)
    assert result(site.chat(question)) == "hit"


def test_what_changes_answers_begins_anew_and_what_does_not_goes_on(site: Site) -> None:
    question = kept(site)
    models = site.gateway.settings["models"]
    dearer = {"targets": [[{"backend": "openai", "weight": 7}]], "price": {"input": 9, "output": 9}}
    change(site, models={**models, "gpt-4o": dearer})
    assert result(site.chat(question)) == "hit"
    change(site, models={**models, "gpt-4o": {"targets": [[{"backend": "other"}]]}})
    assert result(site.chat(question)) == "miss"
    change(site, policies={"redaction": {"default": {"output": {"SECRET": "mask"}}}})
    assert result(site.chat(question)) == "miss"
    change(site)
    assert result(site.chat(question)) == "hit"


def test_another_gateway_with_the_same_key_gives_what_one_has_kept(
    site: Site, provider: FakeProvider, redis: RedisServer
) -> None:
    question = kept(site)
    with RunningGateway(settings(provider, redis), KEY) as second:
        other = Site(second, provider)
        try:
            assert result(other.chat(question)) == "hit"
        finally:
            other.close()
