"""What the record of a call tells of its session, its budgets and its answer, as transcripts."""

from dataclasses import replace
from typing import Any

import orjson
import pytest

from extproc import refusals
from extproc.call import PROCEED, Emit, Relay, Route
from extproc.limits.limit import Measure, Mode, Only, Period, Scope, Short
from extproc.model import Cause
from extproc.telemetry.records import _MOST_BUDGETS
from tests.support.playbook import Playbook, Policy, Refusal, ResponseBody, answer, request
from tests.unit.test_pipeline_limits import ANSWER, _with, call, chat, limit, policy, whole

Json = dict[str, Any]


def budgets(record: Json, *names: str) -> list[tuple[Any, ...]]:
    """Some facts of each budget of a record."""
    return [tuple(one.get(name) for name in names) for one in record["budgets"]]


# ---- budgets ---------------------------------------------------------------------------------------


async def test_how_a_limit_stood_before_and_what_the_call_used() -> None:
    of = policy(limit(), limit(Measure.MONEY, 10**9, name="m", period=Period.MONTH))
    first, second = await whole(of).play(), await whole(of).play()
    facts = ("limit", "measure", "amount", "before", "used")
    assert budgets(first, *facts) == [("l", "tokens", 10_000, 0, 37), ("m", "money", 10**9, 0, first["cost"])]
    assert budgets(second, *facts) == [
        ("l", "tokens", 10_000, 37, 37),
        ("m", "money", 10**9, first["cost"], second["cost"]),
    ]
    assert second["budgets"][1]["wanted"] == second["held"]["money"]


async def test_until_when_a_window_lasts() -> None:
    record = await whole(policy(limit(), limit(Measure.CONCURRENT, 2, name="c"))).play()
    sliding, concurrent = record["budgets"]
    assert record["time"] < sliding["until"] <= record["time"] + 63
    assert concurrent == {"limit": "c", "measure": "concurrent", "amount": 2, "before": 0, "wanted": 1, "used": 0}


async def test_a_refused_call_tells_how_they_stood_and_that_it_got_nothing() -> None:
    of = policy(limit(), limit(Measure.REQUESTS, 1, name="few"))
    await whole(of).play()
    refused = await (call(of) << Refusal(refusals.RATE_LIMIT)).play()
    assert budgets(refused, "limit", "before", "wanted", "used") == [("l", 37, 1_024, None), ("few", 1, 1, None)]


async def test_a_limit_in_shadow_mode_tells_it_too() -> None:
    of = policy(limit(Measure.REQUESTS, 1, name="few", mode=Mode.SHADOW))
    await whole(of).play()
    assert budgets(await whole(of).play(), "limit", "before", "used", "amount") == [("few", 1, 1, 1)]


async def test_a_call_without_limits_has_none() -> None:
    assert "budgets" not in await whole(policy()).play()


async def test_what_counts_for_another_backend_is_not_used() -> None:
    of = policy(limit(scope=(Scope.BACKEND,)))
    record = await whole(of).play()
    assert sorted(budgets(record, "before", "used")) == [(0, 0), (0, 37)]


async def test_of_many_limits_the_tightest_are_told() -> None:
    many = [limit(Measure.REQUESTS, 100 + number, name=f"l{number:02}") for number in range(20)]
    record = await whole(policy(*many[::-1])).play()
    assert budgets(record, "limit") == [(f"l{number:02}",) for number in range(_MOST_BUDGETS)]


async def test_of_many_limits_the_one_that_refused_is_told_first() -> None:
    full = limit(Measure.REQUESTS, 10**6, name="full", mode=Mode.SHADOW)
    many = [limit(Measure.REQUESTS, 5, name=f"l{number:02}") for number in range(20)]
    refuses = limit(Measure.INPUT_TOKENS, 1, name="refuses")
    record = await (call(policy(full, *many, refuses)) << Refusal(refusals.RATE_LIMIT)).play()
    assert record["budgets"][0]["limit"] == record["limit"] == "refuses"
    assert len(record["budgets"]) == _MOST_BUDGETS


async def test_a_lease_tells_what_it_took_at_first_and_what_it_used_in_all() -> None:
    lease = limit(Measure.OUTPUT_TOKENS, 100_000, short=Short.LEASE, slice=16)
    of = policy(lease, max_output=None)
    text = orjson.dumps({"choices": [{"index": 0, "delta": {"content": "some words " * 30}}]})
    usage = orjson.dumps({"choices": [], "usage": {"prompt_tokens": 7, "completion_tokens": 60}})
    record = await (
        call(of, chat(stream=True))
        << Route
        >> answer(content_type="text/event-stream")
        << Relay
        >> ResponseBody(b"data: " + text + b"\n\n", end=False)
        << Emit
        >> ResponseBody(b"data: " + usage + b"\n\ndata: [DONE]\n\n", end=True)
        << Emit
    ).play()
    ((before, used),) = budgets(record, "before", "used")
    assert (before, used) == (0, 60)


async def test_a_limit_of_the_model_that_serves_instead_is_told() -> None:
    dear = limit(Measure.MONEY, 1, name="dear", period=Period.MONTH, fallback="gpt-4o-mini")
    of = policy(replace(dear, only=Only(models=frozenset({"gpt-4o"}))), limit(name="all"))
    record = await (call(of) << Route >> answer("two") >> ResponseBody(ANSWER)).play()
    assert budgets(record, "limit", "used") == [("all", 37)]


@pytest.mark.parametrize("own", [True, False])
async def test_a_limit_of_a_model_that_might_take_over_is_told(own: bool) -> None:
    """Room for it is taken before the call is sent, on top of what the call holds, or by itself."""
    spare = replace(limit(name="spare"), only=Only(models=frozenset({"gpt-4o-mini"})))
    of = policy(spare, *([limit(name="all")] if own else []))
    known = of.catalogue()
    models = {**known.models, "gpt-4o": replace(known.models["gpt-4o"], fallback={Cause.CONTENT_FILTER: "gpt-4o-mini"})}
    changed = replace(known, models=models)
    record = await whole(Policy(catalogue=lambda: changed)).play()
    assert sorted(budgets(record, "limit", "before", "used")) == [("all", 0, 37)] * own + [("spare", 0, 0)]


# ---- the answer ------------------------------------------------------------------------------------


async def test_a_stream_tells_its_first_output_and_its_bytes() -> None:
    role = b'data: {"choices":[{"index":0,"delta":{"role":"assistant","content":""}}]}\n\n'
    text = b'data: {"choices":[{"index":0,"delta":{"content":"yes"},"finish_reason":"stop"}]}\n\n'
    head = (
        call(policy(), chat(stream=True))
        << Route
        >> answer(content_type="text/event-stream")
        << Relay
        >> ResponseBody(role, end=False)
    )
    silent = await head.play()
    assert "first_token_ms" not in silent
    assert (silent["answer_bytes"], silent["ending"]) == (len(role), "cut")
    assert "stop_reason" not in silent
    record = await (head >> ResponseBody(text, end=True)).play()
    assert record["first_byte_ms"] <= record["first_token_ms"] <= record["duration_ms"]
    assert record["stream_ms"] <= record["duration_ms"]
    assert (record["answer_bytes"], record["stop_reason"]) == (len(role) + len(text), "stop")


async def test_a_whole_answer_has_no_first_token() -> None:
    record = await whole(policy()).play()
    assert not {"first_token_ms", "stream_ms"} & set(record)
    assert (record["answer_bytes"], record["deployed"], record["tool_calls"]) == (len(ANSWER), "gpt-4o", 0)


# ---- the talk --------------------------------------------------------------------------------------


@pytest.mark.parametrize(("head", "named"), [({}, "auto_"), ({"x_session_id": "run-7"}, "run-7")])
async def test_a_call_tells_its_session_and_turn(head: dict[str, str], named: str) -> None:
    of = policy(sessions=("x-session-id",), tags=("repository",))
    head_of = _with(request(), **head, x_sluice_tag_repository="shop/web")
    record = await (Playbook(of) >> head_of << PROCEED >> chat() << Route >> answer() >> ResponseBody(ANSWER)).play()
    assert record["session"].startswith(named)
    assert (record["turn"], record["caller_tags"]) == (1, {"repository": "shop/web"})
