"""Which stages a call has gone through, whatever became of it."""

import asyncio
from collections.abc import Sequence
from typing import Any

import pytest

from extproc.call import Call
from extproc.stores.answers import Found
from extproc.stores.memory_answers import MemoryAnswers
from extproc.timing import Stage
from tests.support.playbook import Policy, RequestBody, ResponseBody, Told, answer, request
from tests.unit.test_pipeline_cache import Gateway, whole
from tests.unit.test_pipeline_limits import chat, limit, policy

BEFORE = (Stage.IDENTIFY, Stage.READ, Stage.ROUTE, Stage.RESERVE)
WHOLE = (*BEFORE, Stage.FORWARD, Stage.ANSWER, Stage.SETTLE)
USED = ResponseBody(b'{"choices":[],"usage":{"prompt_tokens":3,"completion_tokens":4}}')


async def played(given: Policy, *events: Told) -> Call:
    call = given.pipeline.begin()
    try:
        for event in events:
            await event.tell(given.pipeline, call)
    finally:
        given.pipeline.end(call)
    return call


@pytest.mark.parametrize(
    ("events", "stages"),
    [
        ((request(), chat(), answer("one"), USED), WHOLE),
        ((request(), chat(), answer("one", 500), USED), WHOLE),
        ((request(authorization="Bearer sk-unknown"),), (Stage.IDENTIFY, Stage.SETTLE)),
        ((request(), RequestBody(b"{")), (Stage.IDENTIFY, Stage.READ, Stage.SETTLE)),
        ((request(), chat(model="unknown")), (Stage.IDENTIFY, Stage.READ, Stage.SETTLE)),
        ((request("/v1/models", "GET", end=True),), (Stage.IDENTIFY, Stage.SETTLE)),
    ],
)
async def test_a_call_has_the_stages_that_it_reached_in_their_order(
    events: Sequence[Told], stages: tuple[Stage, ...]
) -> None:
    call = await played(policy(), *events)
    assert tuple(call.times.spans) == stages
    spans = call.times.spans.values()
    assert all(call.started <= span.began <= span.ended for span in spans)
    assert all(0 <= span.spent <= span.ended - span.began + 1e-9 for span in spans)


async def test_a_call_that_a_limit_refuses_was_not_forwarded() -> None:
    call = await played(policy(limit(amount=1)), request(), chat())
    assert tuple(call.times.spans) == (*BEFORE, Stage.SETTLE)


async def test_the_pieces_of_an_answer_are_one_span() -> None:
    pieces = [ResponseBody(b" " * 10, end=False) for _ in range(20)]
    call = await played(policy(), request(), chat(), answer("one"), *pieces, USED)
    span = call.times.spans[Stage.ANSWER]
    assert span.spent < span.ended - span.began


async def test_what_is_kept_is_looked_for_beside_the_reservation_and_what_is_served_so_is_not_forwarded(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    at_once = MemoryAnswers.look

    async def later(store: MemoryAnswers, *asked: Any) -> Found:
        await asyncio.sleep(0)  # as one that is elsewhere
        return await at_once(store, *asked)

    monkeypatch.setattr(MemoryAnswers, "look", later)
    gateway = Gateway()
    first, _ = await gateway.begun()
    await gateway.answered(first, whole())
    cache, reserve = first.times.spans[Stage.CACHE], first.times.spans[Stage.RESERVE]
    assert cache.began <= reserve.began <= cache.ended
    second, _ = await gateway.begun()
    gateway.end(second)
    assert Stage.CACHE in second.times.spans
    assert Stage.FORWARD not in second.times.spans


async def test_who_waits_for_the_answer_to_another_call_shares_it() -> None:
    gateway = Gateway()
    first, _ = await gateway.begun()
    waiting = asyncio.ensure_future(gateway.begun())
    await asyncio.sleep(0)
    await gateway.answered(first, whole())
    second, _ = await waiting
    gateway.end(second)
    assert Stage.SHARE in second.times.spans
    assert Stage.SHARE not in first.times.spans
