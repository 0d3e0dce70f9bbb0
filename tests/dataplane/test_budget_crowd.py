"""Crowds that spend one budget at once, over several workers and gateways: nobody overspends it, nobody is refused
in vain, and in the end the counters say what the provider counted.

`SLUICE_CROWD_ROUNDS` says how often each crowd comes (1); `make deep-budget` lets 102 come at each site, 34 by each
measure of a budget.
"""

import asyncio
import os
import re
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

import pytest

from loadtest.budgets import (
    AMOUNTS,
    LEASED,
    SLICE,
    UNRULY,
    Verdict,
    crowd_of,
    judge,
    leased_crowd,
    model_of,
    settings,
    unruly_crowd,
)
from loadtest.spenders import Ask, Crowd, Spent, Told, keeps_its_word, outcomes, spent_at
from tests.support.fake import FakeProvider
from tests.support.gateway import RunningGateway, until
from tests.support.limits import Client
from tests.support.redis_server import RedisServer, redis_server

Json = dict[str, Any]

ROUNDS = int(os.environ.get("SLUICE_CROWD_ROUNDS", "1"))
CALLERS = 200
AT_ONCE = 60  # of the unruly, who come one after the other
SETUPS = {
    # workers of each gateway, gateways
    "memory": (1, 1),
    "1 worker": (1, 1),
    "2 workers": (2, 1),
    "4 workers": (4, 1),
    "2 gateways": (2, 2),
}
DAILY = ("memory", "2 workers", "2 gateways")
"""The others come with `make deep-budget` alone."""
_USED = re.compile(r"Used ([0-9]+(?:\.[0-9]+)?)")


@dataclass(frozen=True, slots=True)
class Site:
    """Gateways on one store, and their provider."""

    gateways: Sequence[RunningGateway]
    provider: FakeProvider

    @property
    def urls(self) -> list[str]:
        return [gateway.url for gateway in self.gateways]

    def records(self, told: Sequence[Told]) -> dict[str, Json]:
        """The records of these calls, waited for; which of the calls have none is told where they do not come."""
        wanted = {one.request_id: one for one in told}
        found: dict[str, Json] = {}

        def complete() -> bool:
            records = (record for gateway in self.gateways for record in gateway.records())
            found.update({record["request_id"]: record for record in records if record["request_id"] in wanted})
            return len(found) == len(wanted)

        try:
            until(complete, 60, "the records")
        except AssertionError as in_vain:
            in_vain.add_note(f"without one: {[one for name, one in wanted.items() if name not in found]}")
            raise
        return found

    def spent(self, *models: str) -> list[Spent]:
        counted = spent_at(self.provider.totals())
        return [counted[model] for model in models if model in counted]

    def used(self, model: str, kind: str, amount: int, of: Sequence[str] = ("input", "output")) -> int | None:
        """What the counter of a limit says, while nobody calls: by what is left, or by the refusal of a probe."""
        client = Client(self.gateways[0])
        answer = client.probe(model)
        if answer.status_code == 500:
            return None if (left := client.left(model, kind, of=of)) is None else amount - left
        told = _USED.search(answer.json()["error"]["message"])
        assert told is not None
        return int(Decimal(told[1]) * (10**9 if kind == "budget" else 1))

    def settled_leases(self, number: int, told: Sequence[Told]) -> int:
        """The tokens that leased streams have used, when all of them are settled."""
        total: int = sum(record["usage"]["output"] for record in self.records(told).values() if "usage" in record)
        until(lambda: self.used(f"leased-{number}", "tokens", LEASED, of=["output"]) == total, what="it to be settled")
        return total


@pytest.fixture(scope="module")
def redis() -> Iterator[RedisServer]:
    with redis_server() as server:
        yield server


@pytest.fixture(scope="module", params=SETUPS if ROUNDS > 1 else DAILY)
def site(request: pytest.FixtureRequest, redis: RedisServer) -> Iterator[Site]:
    workers, gateways = SETUPS[request.param]
    redis.flush()
    counters = "memory://" if request.param == "memory" else redis.url
    with ExitStack() as stack:
        provider = stack.enter_context(FakeProvider())
        given = settings(provider.url(), counters, workers, ROUNDS)
        running = [stack.enter_context(RunningGateway(given)) for _ in range(gateways)]
        yield Site(running, provider)


@pytest.mark.parametrize("number", range(ROUNDS))
@pytest.mark.parametrize("measure", AMOUNTS)
def test_a_budget_is_shared_out_to_the_last_call_that_fits(measure: str, number: int, site: Site) -> None:
    """Streams and JSON, all at one time. Answers are shorter than their caps, so that there is room in the end."""
    site.provider.reset()
    told = asyncio.run(Crowd(site.urls).ask_at_once(crowd_of(measure, number, CALLERS), site.provider.url()))
    model = model_of(measure, number)
    verdict = judge(measure, AMOUNTS[measure], told, site.spent(model), site.records(told))
    assert_shared_out(verdict)
    assert site.provider.totals()["most_open"] == verdict.admitted
    kind = "budget" if measure == "money" else measure
    until(lambda: site.used(model, kind, AMOUNTS[measure]) == verdict.used, what="the counters to say what was used")


def assert_shared_out(verdict: Verdict) -> None:
    assert verdict.exact, verdict
    assert (verdict.admitted + verdict.refused, verdict.overspent, verdict.causes) == (CALLERS, 0, {}), verdict
    assert 20 < verdict.admitted < 150, verdict
    if verdict.measure == "requests":
        assert verdict.admitted == verdict.amount


@pytest.mark.parametrize("number", range(ROUNDS))
def test_what_a_provider_overspends_is_told_by_its_cause(number: int, site: Site) -> None:
    """Sizes, durations and surfaces mixed; another tokenizer, hidden output, caps ignored."""
    site.provider.reset()
    asks = unruly_crowd(number, CALLERS)
    told = asyncio.run(Crowd(site.urls).ask(asks, AT_ONCE))
    records = site.records(told)
    spent = site.spent(f"unruly-{number}", f"unruly-{number}-claude")
    assert sum(not keeps_its_word(ask) for ask in asks) > 10  # which of them are admitted is chance
    excess = sum(excess_of(record) for record in records.values())
    for measure, amount in UNRULY.items():
        verdict = judge(measure, amount, told, spent, records)
        assert verdict.explained, verdict
        assert verdict.causes["output_above_cap"] == excess, verdict
        assert min(verdict.admitted, verdict.refused) > 10, verdict
    for one in told:
        assert_to_blame(one.ask, records[one.request_id])
    used = sum(one.tokens for one in spent)
    until(
        lambda: sum(record_tokens(record) for record in records.values()) == used,
        1,
        "the records to say what the provider counted",
    )


@pytest.mark.parametrize("number", range(ROUNDS))
def test_leased_streams_end_where_the_budget_does(number: int, site: Site) -> None:
    """Each slice is paid for before it passes, so together they stay within it, and each ends as it should.

    How much of it a crowd uses is chance: many may be refused while others hold slices that they will not use up. What
    those give back serves later callers, down to the last slice.
    """
    site.provider.reset()
    told = asyncio.run(Crowd(site.urls).ask(leased_crowd(number, 40), 20))
    while not told[-1].refused or site.settled_leases(number, told) <= LEASED - SLICE:
        told += asyncio.run(Crowd(site.urls).ask(leased_crowd(number, 1), 1))
    records = site.records(told)
    assert outcomes(told)["failed"] == 0
    total = sum(record["usage"]["output"] for record in records.values() if "usage" in record)
    assert LEASED - SLICE < total <= LEASED
    assert not any("overspent" in record for record in records.values())
    limited = sum(record["ending"] == "limited" for record in records.values())
    assert limited > 0
    (counted,) = site.spent(f"leased-{number}")
    assert counted.output <= total + SLICE * limited  # what is on its way when a stream is cut
    until(lambda: site.used(f"leased-{number}", "tokens", LEASED, of=["output"]) == total, what="it to be settled")


def assert_to_blame(ask: Ask, record: Json) -> None:
    """Only a provider that breaks its word overspends, and what it makes in excess is told to the token."""
    above = record.get("overspent", {})
    if keeps_its_word(ask):
        assert above == {}, (ask, record)
    assert above.get("output_above_cap", 0) == excess_of(record), (ask, record)


def excess_of(record: Json) -> int:
    """Tokens that were made above what was held for the answer."""
    if "usage" not in record or "held" not in record:
        return 0
    return max(0, int(record["usage"]["output"]) - int(record["held"]["output"]))


def record_tokens(record: Json) -> int:
    usage = record.get("usage", {})
    return int(usage.get("input", 0) + usage.get("output", 0))
