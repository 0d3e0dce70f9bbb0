"""Entries of charts/kaito-models in a running gateway: a replica whose queue is full is passed over, and comes back."""

from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import httpx
import pytest
from ruamel.yaml import YAML

from tests.support.fake import FakeProvider
from tests.support.gateway import RunningGateway, until
from tests.support.helm import only, rendered

CHART = "charts/kaito-models"
BUSY, FREE = "kaito-phi-4-0", "kaito-phi-4-1"
SAY = [{"role": "user", "content": "hi"}]
CALLS = 24


@dataclass(frozen=True, slots=True)
class Site:
    """A gateway with the entries, and a fake in the place of each replica."""

    client: httpx.Client
    replicas: FakeProvider

    def chat(self) -> httpx.Response:
        return self.client.post("/v1/chat/completions", json={"model": "phi-4", "messages": SAY})

    def statuses(self, replica: str) -> list[int]:
        return [call["status"] for call in self.replicas.calls(replica)]


@pytest.fixture(scope="module")
def site() -> Iterator[Site]:
    manifests = rendered(CHART, f"{CHART}/examples/models.yaml", release="kaito", namespace="models")
    values = only(manifests, "ConfigMap", "kaito-gateway-values")["data"]["values.yaml"]
    config: dict[str, Any] = YAML(typ="safe").load(values)["config"]
    with ExitStack() as stack:
        replicas = stack.enter_context(FakeProvider(*config["backends"]))
        for name, backend in config["backends"].items():
            backend["url"] = replicas.url(name)
            del backend["health"]  # of vLLM, which the fake is not
        gateway = stack.enter_context(RunningGateway(config))
        yield Site(stack.enter_context(gateway.client()), replicas)


@pytest.fixture(autouse=True)
def _fresh(site: Site) -> None:
    site.replicas.reset()


def test_replicas_share_the_calls_under_the_name_that_kaito_serves(site: Site) -> None:
    assert {site.chat().status_code for _ in range(CALLS)} == {200}
    asked = [site.replicas.calls(replica) for replica in (BUSY, FREE)]
    assert all(asked), "each got some of them"
    assert {call["model"] for calls in asked for call in calls} == {"phi-4"}


def test_a_full_queue_costs_no_call_and_the_replica_is_asked_again(site: Site) -> None:
    """KAITO's refusal, which says nothing of how long."""
    site.replicas.script(BUSY, [{"status": 429}] * CALLS)
    assert {site.chat().status_code for _ in range(CALLS)} == {200}
    assert 429 in site.statuses(BUSY)
    assert site.statuses(FREE) == [200] * CALLS
    site.replicas.unscript(BUSY)
    until(lambda: site.chat().status_code == 200 and site.statuses(BUSY)[-1] == 200, what="the replica to serve again")


def test_what_the_queue_does_not_bound_reaches_it_as_chat(site: Site) -> None:
    answer = site.client.post("/v1/responses", json={"model": "phi-4", "input": "hi", "store": False})
    assert answer.status_code == 200, answer.text
    (call,) = [call for replica in (BUSY, FREE) for call in site.replicas.calls(replica)]
    assert call["path"] == "/v1/chat/completions"
