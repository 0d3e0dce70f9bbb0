"""However many names callers make up, the number of series stays the same: 100,000 of them through the way of data."""

import random
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import orjson
from prometheus_client import REGISTRY
from prometheus_client.registry import Collector

from extproc.identity import keys
from extproc.identity.directory import Directory, Key
from extproc.limits.limit import Limit, Measure, Mode, Scope
from extproc.model import Catalogue, Price, PublicModel, Target, Team
from extproc.telemetry import calls, genai, metrics
from tests.support.playbook import (
    ONE,
    TWO,
    Enrolled,
    Policy,
    RequestBody,
    RequestHeaders,
    ResponseBody,
    Told,
    answer,
    catalogue,
    request,
)

CALLS = 14_000
NAMES = 100_000
TEAM = Team("t", "area", "standard")
KINDS = (*([0, 1, 2] * 6), 3, 4)  # of calls, see `told`
MOST = 2_000  # series, for one model at one backend; those of statuses are the most
ENDINGS = {"complete", "refused", "failed"}
BOUNDED = {*Scope} - {Scope.KEY, Scope.USER}
LIMITS = tuple(
    [
        Limit(f"by-{scope}-{mode}", Measure.REQUESTS, 10**9, scope=(scope,), sliding=60_000, mode=mode, warn_at=(1,))
        for scope in Scope
        for mode in (Mode.ENFORCE, Mode.SHADOW)
    ]
    + [Limit("tight", Measure.REQUESTS, 1, scope=(Scope.USER, Scope.MODEL), sliding=60_000)]
)


class Names:
    """Made up by callers; none comes twice."""

    def __init__(self, seed: int) -> None:
        self._random = random.Random(seed)
        self.given = 0

    def __call__(self) -> str:
        self.given += 1
        return f"made-up-{self._random.getrandbits(48):x}-{self.given}"


def served() -> Catalogue:
    target = Target(ONE, "m-at-one", price=Price(1_000, 2_000))
    models = {"m": PublicModel("m", ((target,), (Target(TWO, "m-at-two"),)))}
    return replace(catalogue(), models=models, limits=LIMITS)


def enrolled(names: Names, count: int) -> tuple[Enrolled, list[str]]:
    """Callers with a name of their own for the key, the user and the environment each."""
    minted = [keys.mint(number.to_bytes(32, "big")) for number in range(count)]
    known = {
        keys.fingerprint(key): Key(names(), names(), names(), team=TEAM.name, user=names(), environment=names())
        for key in minted
    }
    team = replace(TEAM, users=dict.fromkeys([key.user or "" for key in known.values()], "developer"))
    return Enrolled(Directory(keys=known, teams={team.name: team})), minted


def told(names: Names, key: str, kind: int) -> Iterator[Told]:
    """One of five kinds of calls: to an unknown path, model or deployment, refused in its head, and answered."""
    made_up = {"x_session_id": names(), "idempotency_key": names(), "user_agent": names(), "x_team": names()}
    head: dict[str, Any] = {"authorization": f"Bearer {key}", **made_up}
    path = [f"/v1/{names()}", "/v1/chat/completions", f"/openai/deployments/{names()}/chat/completions"][min(kind, 2)]
    yield request("/v1/chat/completions" if kind > 2 else f"{path}?{names()}={names()}", **head)
    if kind == 0:
        return
    model = "m" if kind > 2 else names()
    said = {"model": model, "user": names(), "metadata": {names(): names()}, "service_tier": names()}
    yield RequestBody(orjson.dumps({**said, "messages": [{"role": "user", "content": names()}]}))
    if kind > 2:
        status = 200 if kind == 4 else random.Random(names.given).randrange(400, 1000)
        usage = {"prompt_tokens": 3, "completion_tokens": 4}
        yield answer("one", status, x_model=names())
        yield ResponseBody(orjson.dumps({"model": names(), "choices": [{"finish_reason": names()}], "usage": usage}))


async def play(policy: Policy, events: Iterator[Told]) -> None:
    call = policy.pipeline.begin()
    try:
        for event in events:
            if isinstance(event, RequestHeaders | RequestBody) or call.chain is not None:
                await event.tell(policy.pipeline, call)
            if call.ending is not None and call.backend is None:
                break
    finally:
        policy.pipeline.end(call)
    policy.records.clear()
    policy.holds.told.clear()
    policy.holds.settled.clear()


def series() -> set[tuple[str, str]]:
    calls.STANDINGS.show(0)
    metrics.publish()
    collectors: list[Collector] = [REGISTRY, *genai.meter(genai.NEWEST).families]
    return {
        (sample.name, str(sorted(sample.labels.items())))
        for collector in collectors
        for family in collector.collect()
        for sample in family.samples
    }


async def test_names_that_callers_make_up_make_no_series() -> None:
    names = Names(8)
    roster, minted = enrolled(names, CALLS // 10)
    catalogue = served()
    policy = Policy(roster=roster, catalogue=lambda: catalogue)
    for number in range(CALLS):
        if number == 2 * len(minted):  # who calls twice meets a limit
            before = series()
        await play(policy, told(names, minted[number % len(minted)], KINDS[number % len(KINDS)]))
    after = series()
    assert names.given > NAMES
    assert not {one for one in after if "made-up" in one[1]}
    assert not {one for one in after - before if "status" not in one[1] and "error_type" not in one[1]}
    assert len(after) < MOST
    endings = {
        ending for name, labels in after for ending in ENDINGS if name == "sluice_calls_total" and ending in labels
    }
    assert endings == ENDINGS  # so that there was something to be told of each kind
    assert {labels for name, labels in after if name == "sluice_limit_refusals_total"} >= {"[('limit', 'tight')]"}
    shown = {labels for name, labels in after if name == "sluice_limit_used_ratio"}
    assert {scope for scope in Scope if any(f"'by-{scope}-enforce'" in labels for labels in shown)} == BOUNDED
