"""Shares of calls through the real Envoy are those of the weights: the backends' own counts are the oracle (case 52).

`make deep-routing` makes the 10,000 calls for which ±2 % is promised; by default there are fewer, and five standard
deviations of chance are allowed.
"""

import os
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor

import orjson
import pytest

from tests.support import raw_http
from tests.support.fake import FakeProvider
from tests.support.gateway import RunningGateway

CALLS = int(os.environ.get("SLUICE_WEIGHED_CALLS", "400"))
PROMISED = 0.02
CONNECTIONS = 8
NAMES = ("a", "b", "c")
WEIGHTS: Mapping[str, Mapping[str, int]] = {
    "even": {"a": 1, "b": 1},
    "three-to-one": {"a": 3, "b": 1},
    "five-three-two": {"a": 5, "b": 3, "c": 2},
    "rare": {"a": 95, "b": 5},
    "all-or-nothing": {"a": 0, "b": 100},
}


@pytest.fixture(scope="module")
def providers() -> Iterator[FakeProvider]:
    with FakeProvider(*NAMES) as running:
        yield running


@pytest.fixture(scope="module")
def gateway(providers: FakeProvider) -> Iterator[RunningGateway]:
    """Two workers, which draw without a word to each other."""
    backends = {name: {"dialect": "openai", "url": providers.url(name)} for name in NAMES}
    models = {
        model: {"targets": [[{"backend": name, "weight": weight} for name, weight in weights.items()]]}
        for model, weights in WEIGHTS.items()
    }
    with RunningGateway({"backends": backends, "models": models, "workers": 2}) as running:
        yield running


def call_often(gateway: RunningGateway, model: str, times: int) -> set[int]:
    """The statuses of so many calls, one after the other on one connection."""
    body = orjson.dumps({"model": model, "messages": [{"role": "user", "content": "hi"}]})
    asked, statuses = raw_http.request("/v1/chat/completions", body, gateway.key), set[int]()
    with raw_http.Connection(gateway.port) as connection:
        for _ in range(times):
            connection.send(asked)
            statuses.add(connection.answer().status)
    return statuses


@pytest.mark.parametrize("model", WEIGHTS)
def test_each_backend_gets_its_share_of_the_calls(model: str, gateway: RunningGateway, providers: FakeProvider) -> None:
    each = CALLS // CONNECTIONS
    with ThreadPoolExecutor(CONNECTIONS) as pool:
        statuses = list(pool.map(lambda _: call_often(gateway, model, each), range(CONNECTIONS)))
    assert statuses == [{200}] * CONNECTIONS
    served = {name: providers.totals(name)["by_model"].get(model, {"calls": 0})["calls"] for name in NAMES}
    total, whole = CONNECTIONS * each, sum(WEIGHTS[model].values())
    assert sum(served.values()) == total, "each call is asked of one backend, once"
    for name in NAMES:
        share = WEIGHTS[model].get(name, 0) / whole
        chance = 5 * (share * (1 - share) / total) ** 0.5
        assert abs(served[name] / total - share) <= (PROMISED if total >= 10_000 else chance)
