"""Answers that are ended because their backend fell silent, or because the gateway's own time is over: in whose words,
at what price, and who is to blame.
"""

from dataclasses import replace
from typing import Any

import orjson
import pytest

from extproc.call import BodyMode, Call, Emit, Relay, Silence
from extproc.contract import ANSWER_MARGIN, STREAM_BUFFER
from extproc.limits.limit import Limit, Measure, Period, Short
from extproc.model import Bounds, Catalogue, Price, PublicModel, Target
from extproc.redaction.policy import Action
from extproc.redaction.profile import Profile
from extproc.routing.attempt import Attempt, Meaning
from tests.support.playbook import CLAUDE, ONE, Policy, RequestBody, ResponseBody, answer, catalogue, request
from tests.support.policies import EMAIL, redaction

PRICE = Price(input=1_000_000_000, output=4_000_000_000)
CAP = 4_096
HIDING = Bounds(max_output=1_000, floor=16, hidden_output=True)
LEASE = Limit("lease", Measure.OUTPUT_TOKENS, 500, Period.MONTH, short=Short.LEASE)
CHUNK = {"id": "c", "model": "m", "choices": [{"index": 0, "delta": {"content": "one two"}, "finish_reason": None}]}
TEXT = b"data: %b\n\n" % orjson.dumps(CHUNK)
START = {"type": "message_start", "message": {"id": "a", "model": "c", "content": [], "usage": {"input_tokens": 3}}}
PATHS: dict[str, dict[str, Any]] = {
    "/v1/chat/completions": {
        "messages": [{"role": "user", "content": "hi"}],
        "stream_options": {"include_usage": True},
    },
    "/v1/completions": {"prompt": "hi"},
    "/v1/responses": {"input": "hi"},
    "/openai/deployments/m/chat/completions": {"messages": [{"role": "user", "content": "hi"}]},
    "/v1/messages": {"messages": [{"role": "user", "content": "hi"}], "max_tokens": 9},
}


def policy(
    *limits: Limit, stall: float | None = 7.0, bounds: Bounds | None = None, profile: Profile | None = None
) -> Policy:
    """`m` is at a backend of OpenAI's dialect, `c` at one of Anthropic's."""
    own = bounds or Bounds(max_output=1_000, floor=16)
    targets = {"m": Target(ONE, "m", price=PRICE), "c": Target(CLAUDE, "c", price=PRICE)}
    models = {name: PublicModel(name, ((target,),), bounds=own, stall=stall) for name, target in targets.items()}
    changed: Catalogue = replace(catalogue(), models=models, limits=limits, answer_cap=CAP, silence=99.0)
    if profile is not None:
        changed = replace(changed, redaction={"default": profile})
    return Policy(catalogue=lambda: changed)


async def begun(
    of: Policy,
    model: str = "m",
    path: str = "/v1/chat/completions",
    protocol: str = "HTTP/1.1",
    kind: str = "text/event-stream",
    encoding: str = "identity",
) -> tuple[Call, Relay]:
    """A stream of which the head has come, and how its body shall."""
    call = of.pipeline.begin()
    await request(path).tell(of.pipeline, call)
    body = {"model": model, "stream": True, **PATHS[path]}
    await RequestBody(orjson.dumps(body)).tell(of.pipeline, call)
    head = answer("claude" if model == "c" else "one", content_type=kind, content_encoding=encoding)
    order = await replace(head, origin=replace(head.origin, protocol=protocol)).tell(of.pipeline, call)
    assert isinstance(order, Relay)
    return call, order


async def ended(of: Policy, call: Call) -> tuple[bytes, dict[str, Any]]:
    """What the answer ends in, as its backend falls silent, and the record."""
    emit = await of.pipeline.stalled(call)
    assert emit.last
    of.pipeline.end(call)
    return emit.body or b"", of.records[-1]


OF_HTTP_1 = CAP + ANSWER_MARGIN - 2**16


@pytest.mark.parametrize(
    ("protocol", "room"),
    [("HTTP/1.1", OF_HTTP_1), ("HTTP/1.0", OF_HTTP_1), ("HTTP/2", STREAM_BUFFER), ("", STREAM_BUFFER)],
)
async def test_a_watched_answer_flows_in_duplex_and_tells_what_it_may_allow_itself(protocol: str, room: int) -> None:
    _, order = await begun(policy(), protocol=protocol)
    assert (order.mode, order.resized, order.silence) == (BodyMode.DUPLEX, True, Silence(7.0, room))


async def test_other_streams_pay_nothing_for_that() -> None:
    of = policy(stall=None)
    call, order = await begun(of)
    assert (order.mode, order.resized, order.silence) == (BodyMode.STREAMED, False, None)
    await ResponseBody(TEXT).tell(of.pipeline, call)
    of.pipeline.end(call)
    assert not of.judged


async def test_what_may_end_early_anyhow_is_watched_for_as_long_as_envoy_lets_it() -> None:
    blocking = redaction(output={EMAIL: Action.BLOCK})
    for of in (policy(LEASE, stall=None), policy(stall=None, profile=blocking)):
        _, order = await begun(of)
        assert (order.mode, order.silence) == (BodyMode.DUPLEX, Silence(99.0, OF_HTTP_1))


async def test_a_whole_answer_and_an_error_are_not_watched() -> None:
    for head in (answer(), answer(status=500, content_type="text/event-stream")):
        of = policy()
        call = of.pipeline.begin()
        await request().tell(of.pipeline, call)
        await RequestBody(orjson.dumps({"model": "m", "messages": [{"role": "user", "content": "hi"}]})).tell(
            of.pipeline, call
        )
        order = await head.tell(of.pipeline, call)
        assert isinstance(order, Relay)
        assert order.mode is not BodyMode.DUPLEX


WORDS: dict[str, dict[str, Any]] = {
    "/v1/chat/completions": {"code": "upstream_timeout", "type": "api_error", "param": None},
    "/v1/completions": {"code": "upstream_timeout", "type": "api_error", "param": None},
    "/v1/responses": {"code": "upstream_timeout", "type": "api_error", "param": None},
    "/openai/deployments/m/chat/completions": {"code": "upstream_timeout", "param": None, "status": 503},
    "/v1/messages": {"code": "upstream_timeout", "type": "overloaded_error"},
}


@pytest.mark.parametrize("path", PATHS)
async def test_the_error_has_the_shape_of_the_surface(path: str) -> None:
    of = policy()
    call, _ = await begun(of, path=path)
    last, record = await ended(of, call)
    name, _, data = last.partition(b"\ndata: ")
    told = orjson.loads(data)
    assert (name, told["type"], told["request_id"]) == (b"event: error", "error", "r-1")
    assert told["error"].pop("message") == "The backend fell silent in the middle of its answer."
    assert told["error"] == WORDS[path]
    assert (record["ending"], record["status"], record["backend"]) == ("stalled", 200, "one")


async def test_what_flowed_is_paid_for_and_the_backend_is_to_blame() -> None:
    of = policy()
    call, _ = await begun(of)
    emit = await ResponseBody(TEXT + TEXT[:20], end=False).tell(of.pipeline, call)
    assert isinstance(emit, Emit)
    assert emit.body == TEXT, "an event goes out whole, or an error could not follow it"
    _, record = await ended(of, call)
    usage = record["usage"]
    assert (usage["output"], usage["source"]) == (2, "estimated")
    assert record["cost"] == 1_000 * usage["input"] + 4_000 * usage["output"]
    assert of.judged == [Attempt("one", 200, call="r-1", judged=Meaning.FAILED)]


@pytest.mark.parametrize("action", [Action.BLOCK, Action.MASK])
async def test_what_was_held_back_stays_unsaid(action: Action) -> None:
    """The end of what has come may be the start of what must not be said."""
    of = policy(profile=redaction(output={EMAIL: action}))
    call, _ = await begun(of)
    chunk = orjson.dumps(CHUNK).replace(b"one two", b"Write to ann@corp-ma")
    emit = await ResponseBody(b"data: %b\n\n" % chunk, end=False).tell(of.pipeline, call)
    assert isinstance(emit, Emit)
    last, record = await ended(of, call)
    assert b"ann@" not in (emit.body or b"") + last
    assert last.startswith(b"event: error\n")
    assert record["ending"] == "stalled"


async def test_output_that_does_not_show_may_have_been_made() -> None:
    of = policy(replace(LEASE, amount=10_000), bounds=HIDING)
    call, _ = await begun(of)
    call.started -= 1.0
    await ResponseBody(TEXT, end=False).tell(of.pipeline, call)
    _, record = await ended(of, call)
    assert record["usage"]["output"] == 1_000


async def test_a_lease_pays_for_what_passed() -> None:
    of = policy(LEASE)
    call, _ = await begun(of)
    await ResponseBody(TEXT, end=False).tell(of.pipeline, call)
    last, record = await ended(of, call)
    assert b"upstream_timeout" in last
    assert (record["ending"], record["usage"]["output"]) == ("stalled", 2)
    assert [draw.units for _, draws, _ in of.holds.settled for draw in draws] == [2]


async def test_a_translated_answer_ends_in_the_callers_words() -> None:
    of = policy()
    call, _ = await begun(of, "c")
    event = b"event: message_start\ndata: %b\n\n" % orjson.dumps(START)
    await ResponseBody(event, end=False).tell(of.pipeline, call)
    last, record = await ended(of, call)
    assert orjson.loads(last.partition(b"data: ")[2])["error"]["type"] == "api_error"
    assert (record["ending"], record["backend"]) == ("stalled", "claude")


async def test_one_that_has_said_all_ends_well_and_proves_its_backend() -> None:
    of = policy()
    call, _ = await begun(of)
    await ResponseBody(TEXT + b"data: [DONE]\n\n", end=False).tell(of.pipeline, call)
    last, record = await ended(of, call)
    assert (last, record["ending"]) == (b"", "complete")
    assert of.judged == [Attempt("one", 200, judged=Meaning.ALIVE)]


# ---- the gateway stops ---------------------------------------------------------------------------


async def fed(of: Policy, call: Call, chunk: bytes, end: bool = False) -> Emit:
    emit = await ResponseBody(chunk, end=end).tell(of.pipeline, call)
    assert isinstance(emit, Emit)
    return emit


def error_of(event: bytes) -> dict[str, Any]:
    name, _, data = event.partition(b"\ndata: ")
    told = orjson.loads(data)
    assert (name, told["type"], told["request_id"]) == (b"event: error", "error", "r-1")
    error: dict[str, Any] = told["error"]
    assert error.pop("message") == "The gateway stops, and the answer has not ended in time. Try again."
    return error


@pytest.mark.parametrize("path", PATHS)
async def test_a_stream_whose_time_is_over_ends_in_an_error_of_the_surface(path: str) -> None:
    of = policy()
    call, _ = await begun(of, path=path)
    of.pipeline.break_off(True)
    last, record = await ended(of, call)
    assert error_of(last) == {**WORDS[path], "code": "not_ready"}
    assert (record["ending"], record["status"], of.judged) == ("cut", 200, [])


async def test_one_that_cannot_be_ended_says_nothing_after_that_error() -> None:
    of = policy(stall=None)
    call, order = await begun(of)
    assert order.mode is BodyMode.STREAMED
    assert (await fed(of, call, TEXT)).body is None
    of.pipeline.break_off(True)
    emit = await fed(of, call, TEXT)
    assert (emit.body or b"").startswith(TEXT)
    assert error_of((emit.body or b"")[len(TEXT) :])["code"] == "not_ready"
    assert not emit.last
    assert [(await fed(of, call, piece, end)).body for piece, end in ((TEXT, False), (b"data: [DONE]\n\n", True))] == [
        b"",
        b"",
    ]
    of.pipeline.end(call)
    record = of.records[-1]
    assert (record["ending"], record["usage"]["output"], record["usage"]["source"]) == ("cut", 6, "estimated")


async def test_an_error_never_stands_inside_of_an_event() -> None:
    of = policy(stall=None)
    call, _ = await begun(of)
    assert (await fed(of, call, TEXT + TEXT[:20])).body is None
    of.pipeline.break_off(True)
    assert (await fed(of, call, TEXT[20:40])).body == TEXT[20:40]
    emit = await fed(of, call, TEXT[40:] + TEXT[:30])
    assert (emit.body or b"").startswith(TEXT[40:])
    assert error_of((emit.body or b"")[len(TEXT[40:]) :])["code"] == "not_ready"


@pytest.mark.parametrize(("kind", "encoding"), [("text/event-stream", "gzip"), ("application/json", "identity")])
async def test_what_is_no_stream_that_can_be_read_is_let_be(kind: str, encoding: str) -> None:
    of = policy(stall=None)
    call, _ = await begun(of, kind=kind, encoding=encoding)
    of.pipeline.break_off(True)
    assert (await fed(of, call, b"some bytes")).body in (None, b"some bytes")
    assert (await fed(of, call, b" and more", end=True)).body in (None, b" and more")
    of.pipeline.end(call)
    assert of.records[-1]["ending"] == "complete"


async def test_one_that_says_all_before_its_end_is_told_is_whole() -> None:
    of = policy(stall=None)
    call, _ = await begun(of)
    of.pipeline.break_off(True)
    rest = TEXT + b"data: [DONE]\n\n"
    assert (await fed(of, call, rest)).body == rest
    await fed(of, call, b"", end=True)
    of.pipeline.end(call)
    assert of.records[-1]["ending"] == "complete"


async def test_a_lease_whose_time_is_over_pays_for_what_passed() -> None:
    of = policy(LEASE, stall=None)
    call, _ = await begun(of)
    await fed(of, call, TEXT)
    of.pipeline.break_off(True)
    emit = await fed(of, call, TEXT)
    assert emit.last
    assert (emit.body or b"").startswith(TEXT)
    of.pipeline.end(call)
    assert (of.records[-1]["ending"], of.records[-1]["usage"]["output"]) == ("cut", 4)
    assert [draw.units for _, draws, _ in of.holds.settled for draw in draws] == [4]


async def test_streams_of_a_gateway_that_goes_on_again_are_let_be() -> None:
    of = policy(stall=None)
    call, _ = await begun(of)
    of.pipeline.break_off(True)
    of.pipeline.break_off(False)
    assert (await fed(of, call, TEXT)).body is None
    of.pipeline.end(call)


async def test_one_that_breaks_off_or_whose_client_leaves_is_judged_by_envoys_record_alone() -> None:
    of = policy()
    call, _ = await begun(of)
    await ResponseBody(TEXT, end=False).tell(of.pipeline, call)
    of.pipeline.end(call)
    assert (of.records[-1]["ending"], of.judged) == ("cut", [])
