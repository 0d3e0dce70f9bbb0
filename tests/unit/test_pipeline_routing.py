"""Where calls go and what comes back translated, as transcripts: probes of circuits, answers that nobody can read."""

import random
from dataclasses import replace
from typing import Any

import orjson
import pytest

from extproc import refusals
from extproc.call import Emit, Relay, Route
from extproc.limits.limit import Limit, Measure, Period
from extproc.model import Bounds, Catalogue, Price, PublicModel, Target
from extproc.routing.attempt import Attempt
from extproc.routing.health import Health
from extproc.routing.policy import Cooling, Watched
from tests.support.playbook import (
    CLAUDE,
    ONE,
    TWO,
    Playbook,
    Policy,
    Refusal,
    RequestBody,
    ResponseBody,
    answer,
    catalogue,
    request,
)

PRICE = Price(input=1_000_000_000, output=4_000_000_000)
BOUNDS = Bounds(max_output=1_000, floor=16)
CAP = 300  # bytes of an answer that is read whole


def chat(model: str = "m", **fields: object) -> RequestBody:
    return RequestBody(orjson.dumps({"model": model, "messages": [{"role": "user", "content": "hi"}], **fields}))


def policy(*limits: Limit, health: Health | None = None) -> Policy:
    """`m` is at one backend, `spare` at another, and `c` at one of another dialect."""
    targets = {"m": Target(ONE, "m", price=PRICE), "spare": Target(TWO, "s"), "c": Target(CLAUDE, "c", price=PRICE)}
    models = {name: PublicModel(name, ((target,),), bounds=BOUNDS) for name, target in targets.items()}
    models["spare"] = replace(models["spare"], first_byte=7.0)
    changed: Catalogue = replace(catalogue(), models=models, limits=limits, answer_cap=CAP)
    return Policy(catalogue=lambda: changed, health=health or Health({}, random.random))


# ---- probes -----------------------------------------------------------------------------------------


def half_open() -> Health:
    """A backend that has failed once and is to be tried by one call."""
    health = Health({"one": Watched(frozenset({"m"}), Cooling(failures=1, open_for=1_000.0))}, lambda: 0.0)
    health.note(Attempt("one", 502), -1_000_000.0, 0.0)
    return health


async def begun(of: Policy) -> Any:
    """A call of `m` that has come as far as its body, and the order for that."""
    call = of.pipeline.begin()
    await request().tell(of.pipeline, call)
    return call, await chat().tell(of.pipeline, call)


async def is_probed(of: Policy) -> bool:
    """Whether the next call is kept waiting for a probe."""
    call, order = await begun(of)
    of.pipeline.end(call)
    return not isinstance(order, Route)


async def test_a_call_that_tries_a_backend_is_the_only_one() -> None:
    of = policy(health=half_open())
    first, order = await begun(of)
    assert isinstance(order, Route)
    assert await is_probed(of)
    await answer().tell(of.pipeline, first)
    of.pipeline.end(first)
    assert await is_probed(of), "its outcome comes with the record of the attempt"


async def test_a_call_that_is_refused_leaves_the_probe_to_others() -> None:
    """Else a caller without a budget would keep a backend out of service for all, for nothing."""
    none = Limit(name="none", measure=Measure.MONEY, amount=1, period=Period.MONTH)
    of = policy(none, health=half_open())
    call, order = await begun(of)
    assert order.status == 429
    assert of.health.may_probe("one", 0.0)
    of.pipeline.end(call)


async def test_a_call_that_falls_back_to_another_model_leaves_the_probe_to_others() -> None:
    dear = Limit(name="dear", measure=Measure.OUTPUT_TOKENS, amount=1, period=Period.MONTH, fallback="spare")
    dear = replace(dear, only=replace(dear.only, models=frozenset({"m"})))
    of = policy(dear, health=half_open())
    _, order = await begun(of)
    assert isinstance(order, Route)
    assert [leg.backend for leg in order.legs] == ["two"]
    assert of.health.may_probe("one", 0.0)
    assert order.first_byte == 7.0, "the patience is that of the model that serves"


async def test_a_call_that_nobody_waits_for_leaves_the_probe_to_others() -> None:
    of = policy(health=half_open())
    call, order = await begun(of)
    assert isinstance(order, Route)
    of.pipeline.end(call)
    assert not await is_probed(of)


# ---- translated answers that nobody can read --------------------------------------------------------

START = {"type": "message_start", "message": {"id": "a", "model": "c", "usage": {"input_tokens": 3}}}


def told(*events: dict[str, Any]) -> bytes:
    return b"".join(b"event: %s\ndata: %s\n\n" % (one["type"].encode(), orjson.dumps(one)) for one in events)


@pytest.mark.parametrize("end", [True, False])
async def test_a_whole_answer_that_is_too_large_is_withdrawn_wherever_it_ends(end: bool) -> None:
    large = orjson.dumps({"type": "message", "content": [{"type": "text", "text": "y" * CAP}], "usage": {}})
    play = Playbook(policy()) >> request() >> chat("c") << Route
    play >> answer("claude") << Relay
    play >> ResponseBody(large, end=end) << Refusal(refusals.GATEWAY_ERROR)
    assert (await play.play())["ending"] == "blocked"


@pytest.mark.parametrize("end", [True, False])
async def test_a_stream_with_too_large_an_event_ends_in_an_error_wherever_it_ends(end: bool) -> None:
    of = policy()
    call = of.pipeline.begin()
    await request().tell(of.pipeline, call)
    await chat("c", stream=True).tell(of.pipeline, call)
    assert call.sent
    await answer("claude", content_type="text/event-stream").tell(of.pipeline, call)
    assert not call.sent, "it is not kept for as long as the answer takes"
    await ResponseBody(told(START), end=False).tell(of.pipeline, call)
    emit = await ResponseBody(b"data: " + b"y" * CAP, end=end).tell(of.pipeline, call)
    of.pipeline.end(call)
    assert isinstance(emit, Emit)
    assert emit.last
    assert b'"code":"gateway_error"' in (emit.body or b"")
    assert of.records[-1]["ending"] == "failed"


UNREADABLE = [{"content_length": "9999"}, {"content_encoding": "gzip"}]
TOKENS = Limit(name="l", measure=Measure.OUTPUT_TOKENS, amount=10_000, period=Period.MONTH)


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("said", UNREADABLE, ids=["large", "gzip"])
async def test_an_answer_that_cannot_be_translated_is_paid_for(said: dict[str, Any], stream: bool) -> None:
    """The provider bills it. Were it free, it would be a way to spend what no limit sees."""
    of = policy(TOKENS)
    play = Playbook(of) >> request() >> chat("c", stream=stream, max_tokens=50) << Route
    play >> answer("claude", **said) << Refusal(refusals.GATEWAY_ERROR)
    record = await play.play()
    assert (record["ending"], record["usage"]["output"]) == ("blocked", 50)


@pytest.mark.parametrize("said", UNREADABLE, ids=["large", "gzip"])
async def test_an_error_that_cannot_be_translated_costs_nothing(said: dict[str, Any]) -> None:
    of = policy(TOKENS)
    play = Playbook(of) >> request() >> chat("c", max_tokens=50) << Route
    play >> answer("claude", 400, **said) << Refusal(refusals.GATEWAY_ERROR)
    record = await play.play()
    assert record["ending"] == "refused"
    assert {draw.units for _, draws, _ in of.holds.settled for draw in draws} == {0}
