"""What Prometheus fetches of a gateway with two workers: by a real scrape, over real calls and killed workers."""

import subprocess
from collections.abc import Iterator
from contextlib import suppress
from functools import partial
from typing import Any

import psutil
import pytest
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.samples import Sample
from ruamel.yaml import YAML

from extproc.timing import Stage
from tests.support.fake import FakeProvider
from tests.support.gateway import RunningGateway, until
from tests.support.prometheus import require
from tests.support.redis_server import redis_server

PATIENCE = 30.0
MODEL = "gpt-4o"
OF_CALL = {
    "gen_ai_operation_name": "chat",
    "gen_ai_provider_name": "openai",
    "gen_ai_request_model": MODEL,
    "gen_ai_response_model": "gpt-4o-2024",
    "sluice_backend": "one",
}

Json = dict[str, Any]


def settings(fake: FakeProvider, redis: str) -> Json:
    return {
        "workers": 2,
        "stores": {"counters": redis},
        "backends": {name: {"dialect": "openai", "url": fake.url(name)} for name in ("one", "two")},
        "models": {
            MODEL: {
                "price": {"input": 2.5, "output": 10},
                "targets": [[{"backend": "one", "model": "gpt-4o-2024"}], [{"backend": "two"}]],
            }
        },
        "policies": {
            "limits": {
                "budget": {"money": 1000, "per": "month"},
                "never": {"requests": 9, "per": "minute", "only": {"priority": "low"}},
            },
            "redaction": {"default": {}, "unused": {}},
            "guardrails": {"default": {"structure": {"max_messages": 50}}},
        },
        "cache": {"mode": "shadow", "key": {"env": "CACHE_KEY"}},
    }


@pytest.fixture(scope="module")
def fake() -> Iterator[FakeProvider]:
    with FakeProvider("one", "two") as provider:
        yield provider


class Scraped:
    """The gateway with what /metrics says of it, and how many calls it was sent."""

    def __init__(self, gateway: RunningGateway) -> None:
        self.gateway = gateway
        self.made = 0

    def call(self, **more: Any) -> None:
        body = {"model": MODEL, "messages": [{"role": "user", "content": "Hello"}], "temperature": 0, **more}
        with self.gateway.client() as client:
            answer = client.post("/v1/chat/completions", json=body)
        assert answer.status_code == 200, self.gateway.log()
        self.made += 1

    def count(self) -> None:
        """Wait until every call has been counted, and none twice."""
        until(lambda: self.calls >= self.made, PATIENCE, f"{self.made} calls, of which {self.calls} are counted")
        assert self.calls == self.made

    @property
    def calls(self) -> float:
        return self.total("sluice_calls_total", surface="chat")

    def samples(self, name: str, **labels: str) -> list[Sample]:
        return [
            sample
            for family in text_string_to_metric_families(self.gateway.metrics())
            for sample in family.samples
            if sample.name == name and labels.items() <= sample.labels.items()
        ]

    def total(self, name: str, **labels: str) -> float:
        return sum(sample.value for sample in self.samples(name, **labels))

    def worker(self, number: str) -> psutil.Process:
        return next(each for each in self.gateway.processes("extproc.worker") if each.cmdline()[-1] == number)

    def runs_again(self, pid: int) -> bool:
        """Whether the first worker shows its gauges, and is not the process with this id."""
        with suppress(StopIteration, psutil.NoSuchProcess):
            return self.worker("0").pid != pid and "gauge_livesum_0.db" in self.files()
        return False

    def files(self) -> set[str]:
        return {file.name for file in (self.gateway.folder / "var/metrics").glob("*.db")}


@pytest.fixture(scope="module")
def scraped(fake: FakeProvider) -> Iterator[Scraped]:
    with redis_server() as redis, RunningGateway(settings(fake, redis.url), {"CACHE_KEY": "k" * 32}) as running:
        yield Scraped(running)


def test_a_stream_shows_by_the_names_of_the_conventions(scraped: Scraped) -> None:
    scraped.call(stream=True)
    scraped.count()
    for name in ("server_request_duration", "server_time_to_first_token", "server_time_per_output_token"):
        assert scraped.total(f"gen_ai_{name}_seconds_count", **OF_CALL) >= 1, name
    for kind in ("input", "output"):
        assert scraped.total("gen_ai_client_token_usage_count", gen_ai_token_type=kind, **OF_CALL) >= 1
    tokens = scraped.total("sluice_tokens_total", kind="output")
    assert scraped.total("gen_ai_client_token_usage_sum", gen_ai_token_type="output") == tokens
    assert scraped.samples("gen_ai_server_request_duration_seconds_count", error_type="")
    buckets = [sample.labels["le"] for sample in scraped.samples("gen_ai_server_request_duration_seconds_bucket")]
    assert {"0.01", "0.64", "81.92", "+Inf"} <= {*buckets}


def test_each_stage_of_a_call_has_its_time(scraped: Scraped) -> None:
    scraped.call()
    scraped.count()
    stages = {sample.labels["stage"] for sample in scraped.samples("sluice_stage_seconds_count") if sample.value}
    assert stages == {*Stage} - {Stage.MODERATE, Stage.SHARE}
    whole = scraped.total("sluice_call_duration_seconds_sum", surface="chat")
    assert 0 < scraped.total("sluice_stage_seconds_sum", stage="forward") < whole
    until(lambda: scraped.total("sluice_attempt_seconds_count", backend="one") > 0, PATIENCE, "Envoy's record")


def test_policies_that_no_call_matched_are_told_from_those_that_one_did(scraped: Scraped) -> None:
    scraped.call()
    scraped.count()
    found = {
        (sample.labels["kind"], sample.labels["policy"]): sample.value
        for sample in scraped.samples("sluice_policy_calls_total")
    }
    used = {("limit", "budget"), ("redaction", "default"), ("guardrail", "default"), ("cache", "default")}
    assert {name for name, value in found.items() if value > 0} == used
    assert {name for name, value in found.items() if value == 0} == {("limit", "never"), ("redaction", "unused")}
    assert [sample.value for sample in scraped.samples("sluice_limit_refusals_total", limit="never")] == [0]
    assert [sample.value for sample in scraped.samples("sluice_failovers_total", backend="two")] == [0]


def test_a_budget_shows_how_much_of_it_is_used(scraped: Scraped) -> None:
    scraped.call()
    until(lambda: scraped.total("sluice_cost_nano_total") > 0, PATIENCE, "a cost")

    def is_told() -> bool:
        scraped.call()  # which is told what those before it have used
        return scraped.total("sluice_limit_used_ratio", limit="budget", scope="") > 0

    until(is_told, PATIENCE, "the used part of the budget")
    (used,) = scraped.samples("sluice_limit_used_ratio")
    (left,) = scraped.samples("sluice_limit_remaining")
    assert (left.labels["limit"], left.labels["measure"]) == ("budget", "money")
    assert 0 < used.value < 1
    assert left.value < 1000 * 10**9


def test_what_a_killed_worker_has_counted_stays_and_its_gauges_go(scraped: Scraped) -> None:
    for _ in range(8):
        scraped.call()
    scraped.count()
    for _ in range(2):
        worker = scraped.worker("0")
        worker.kill()
        until(partial(scraped.runs_again, worker.pid), PATIENCE, "the worker's next run")
    assert scraped.calls == scraped.made
    scraped.call()
    scraped.count()
    assert [sample.value for sample in scraped.samples("sluice_holds_open")] == [0]
    assert {name.rpartition("_")[2] for name in scraped.files()} == {"0.db", "1.db"}


def test_a_limit_that_is_added_is_there_at_0_before_any_call(scraped: Scraped) -> None:
    settings = scraped.gateway.settings
    limits = {**settings["policies"]["limits"], "added": {"requests": 10**6, "per": "hour"}}
    aside = scraped.gateway.folder / "next.yaml"
    with aside.open("w") as file:
        YAML().dump({**settings, "policies": {**settings["policies"], "limits": limits}}, file)
    aside.replace(scraped.gateway.config)

    def found() -> list[float]:
        return [sample.value for sample in scraped.samples("sluice_policy_calls_total", policy="added")]

    until(lambda: found() == [0], PATIENCE, "the limit")
    scraped.call()
    until(lambda: found() == [1], PATIENCE, "its first call")


def test_promtool_finds_nothing_to_complain_of(scraped: Scraped) -> None:
    scraped.call()
    checked = subprocess.run(
        [require("promtool"), "check", "metrics"],
        input=scraped.gateway.metrics(),
        capture_output=True,
        text=True,
        check=False,
    )
    assert (checked.returncode, checked.stdout, checked.stderr) == (0, "", "")
