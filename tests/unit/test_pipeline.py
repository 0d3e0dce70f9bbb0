"""The way of data as transcripts: each legal path, each refusal of a path, and every other order of messages."""

import asyncio
import json
import re
from typing import Any

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from prometheus_client import REGISTRY

from extproc import refusals
from extproc.call import (
    LEGAL,
    PROCEED,
    UNCHANGED,
    WITHHOLD,
    BodyMode,
    Emit,
    Event,
    Leg,
    Pass,
    Phase,
    Proceed,
    ProtocolViolation,
    Relay,
    Reply,
    Route,
    Withhold,
)
from extproc.surfaces import Surface
from extproc.telemetry import metrics
from tests.support.playbook import (
    KEY,
    OTHER_KEY,
    REQUEST_TRAILERS,
    RESPONSE_TRAILERS,
    UNROUTED,
    Playbook,
    Policy,
    Refusal,
    RequestBody,
    RequestHeaders,
    ResponseBody,
    ResponseHeaders,
    Told,
    answer,
    local_reply,
    request,
)

CHAT = b'{"model":"gpt-4o","messages":[{"role":"user","content":"hi"}]}'
STREAM = b'{"model":"gpt-4o-mini","stream":true,"messages":[{"role":"user","content":"hi"}]}'
USED = b'{"choices":[],"usage":{"prompt_tokens":3,"completion_tokens":4}}'
TWO_LEGS = (
    Leg("one", "/v1/chat/completions", "gpt-4o"),
    Leg("legacy", "/openai/deployments/gpt-4o-swe/chat/completions?api-version=2024-10-21", "gpt-4o-swe"),
)
FORM_TYPE = "multipart/form-data; boundary=B"
FORM_MODEL = b'--B\r\ncontent-disposition: form-data; name="model"\r\n\r\nwhisper-1\r\n--B\r\n'
FORM_FILE = b'content-disposition: form-data; name="file"; filename="a.wav"\r\n\r\nRIFF'


def form(length: str = "") -> RequestHeaders:
    return request("/v1/audio/transcriptions", content_type=FORM_TYPE, content_length=length)


def routed(book: Playbook) -> Playbook:
    """The start of a chat call, up to its routing."""
    return book >> request() << PROCEED >> RequestBody(CHAT) << Route


# ---- JSON calls -------------------------------------------------------------------------------------


async def test_a_json_call_is_routed_relayed_and_recorded() -> None:
    stripped = ("authorization",)
    record = await (
        Playbook()
        >> request()
        << PROCEED
        >> RequestBody(CHAT)
        << Route(TWO_LEGS, stripped, length=len(CHAT), at=10, to=16)
        >> answer(content_length=str(len(USED)))
        << Relay(BodyMode.BUFFERED)
        >> ResponseBody(USED)
        << UNCHANGED
    ).play()
    assert record["ending"] == "complete"
    assert record["usage"] == {"input": 3, "output": 4, "source": "reported"}
    assert (record["backend"], record["chain"], record["status"]) == ("one", ["one", "legacy"], 200)
    assert (record["key"], record["key_id"], record["model"]) == ("app", "key_1", "gpt-4o")


@pytest.mark.parametrize(
    ("head", "mode"),
    [
        (answer(content_length="4096"), BodyMode.BUFFERED),
        (answer(content_length="4097"), BodyMode.STREAMED),
        (answer(), BodyMode.STREAMED),
        (answer(content_type="audio/mpeg", content_length="9"), BodyMode.STREAMED),
        (answer(content_encoding="gzip", content_length="9"), BodyMode.STREAMED),
        (answer(content_encoding="Identity", content_length="9"), BodyMode.BUFFERED),
        (answer(content_type="Application/JSON; charset=utf-8", content_length="9"), BodyMode.BUFFERED),
    ],
)
async def test_the_answer_decides_how_its_body_is_asked_for(head: ResponseHeaders, mode: BodyMode) -> None:
    await (routed(Playbook()) >> head << Relay(mode)).play()


async def test_a_stream_is_asked_to_report_usage_and_the_report_is_kept_from_the_client() -> None:
    event = b"data: " + USED + b"\n\n"
    done = b"data: [DONE]\n\n"
    record = await (
        Playbook()
        >> request()
        << PROCEED
        >> RequestBody(STREAM)
        << Route
        >> answer("two", content_type="text/event-stream")
        << Relay(BodyMode.STREAMED, resized=True)
        >> ResponseBody(b'data: {"choices":[{"delta":{"content":"a"}}]}\n\n', end=False)
        << UNCHANGED
        >> ResponseBody(event, end=False)
        << Emit(b"")
        >> ResponseBody(done, end=True)
        << UNCHANGED
    ).play()
    assert record["stream"] is True
    assert record["usage"] == {"input": 3, "output": 4, "source": "reported"}


async def test_an_answer_without_a_body_is_complete_at_its_head() -> None:
    record = await (routed(Playbook()) >> answer(end=True) << Relay(BodyMode.NONE)).play()
    assert record["ending"] == "complete"


@pytest.mark.parametrize("status", [400, 429, 500])
async def test_a_providers_error_passes_unread_and_uses_nothing(status: int) -> None:
    record = await (
        routed(Playbook()) >> answer(status=status) << Relay(BodyMode.NONE) >> ResponseBody(b"{}") << UNCHANGED
    ).play()
    assert (record["ending"], record["status"]) == ("failed", status)
    assert "usage" not in record


async def test_trailers_are_waved_through() -> None:
    await (
        Playbook()
        >> request()
        << PROCEED
        >> REQUEST_TRAILERS
        << PROCEED
        >> RequestBody(CHAT)
        << Route
        >> REQUEST_TRAILERS
        << PROCEED
        >> answer()
        << Relay
        >> RESPONSE_TRAILERS
        << PROCEED
    ).play()


async def test_an_answer_that_stops_early_is_estimated() -> None:
    record = await (
        routed(Playbook())
        >> answer(content_type="text/event-stream")
        >> ResponseBody(b'data: {"choices":[{"delta":{"content":"twelve letters"}}]}\n\n', end=False)
    ).play()
    assert record["ending"] == "cut"
    assert record["usage"]["source"] == "estimated"
    assert record["usage"]["input"] > 0
    assert record["usage"]["output"] > 0


# ---- repeated and early messages --------------------------------------------------------------------


async def test_a_repeated_end_of_an_answer_sends_nothing_and_counts_nothing() -> None:
    record = await (
        routed(Playbook())
        >> answer()
        >> ResponseBody(USED, end=True)
        << UNCHANGED
        >> ResponseBody(USED, end=True)
        << Emit(b"")
        >> ResponseBody(USED, end=False)
        << Emit(b"")
    ).play()
    assert record["usage"] == {"input": 3, "output": 4, "source": "reported"}


async def test_a_repeated_end_of_a_form_is_not_sent_again() -> None:
    await (
        Playbook()
        >> form()
        << WITHHOLD
        >> RequestBody(FORM_MODEL + FORM_FILE, end=False)
        << Pass
        >> RequestBody(b"RIFF\r\n--B--\r\n", end=True)
        << Pass(b"RIFF\r\n--B--\r\n", True)
        >> RequestBody(b"RIFF\r\n--B--\r\n", end=True)
        << WITHHOLD
        >> RequestBody(b"more", end=False)
        << WITHHOLD
    ).play()


async def test_a_form_flows_on_while_its_answer_has_begun() -> None:
    record = await (
        Playbook()
        >> form()
        << WITHHOLD
        >> RequestBody(FORM_MODEL + FORM_FILE, end=False)
        << Pass
        >> answer()
        << Relay
        >> RequestBody(b"more", end=True)
        << Pass(b"more", True)
        >> ResponseBody(b'{"text":"x","usage":{"type":"tokens","input_tokens":1,"output_tokens":2}}')
        << UNCHANGED
    ).play()
    assert record["usage"]["output"] == 2


@pytest.mark.parametrize("again", [RequestBody(CHAT), RequestBody(b"", end=True), RequestBody(b"x", end=False)])
async def test_a_json_body_that_comes_twice_is_a_violation(again: RequestBody) -> None:
    policy = Policy()
    with pytest.raises(ProtocolViolation):
        await (routed(Playbook(policy)) >> again).play()
    assert len(policy.records) == 1


async def test_a_json_body_in_pieces_is_a_violation() -> None:
    with pytest.raises(ProtocolViolation):
        await (Playbook() >> request() << PROCEED >> RequestBody(CHAT, end=False)).play()


@pytest.mark.parametrize("before", [(), (request(),)])
async def test_an_answer_of_a_backend_before_the_decision_is_a_violation(before: tuple[Told, ...]) -> None:
    book = Playbook()
    for told in before:
        book = book >> told
    with pytest.raises(ProtocolViolation):
        await (book >> answer("one")).play()


async def test_an_answer_to_a_form_that_is_still_unread_is_a_violation() -> None:
    with pytest.raises(ProtocolViolation):
        await (Playbook() >> form() >> RequestBody(b"--B\r\n", end=False) >> answer()).play()


# ---- forms ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [1, 2, 7, 64])
async def test_a_form_is_held_until_it_names_its_model_whatever_the_pieces(size: int) -> None:
    body = FORM_MODEL + FORM_FILE + b"\r\n--B--\r\n"
    policy = Policy()
    call = policy.pipeline.begin()
    await form(str(len(body))).tell(policy.pipeline, call)
    sent = b""
    routes = 0
    for at in range(0, len(body), size):
        piece = RequestBody(body[at : at + size], end=at + size >= len(body))
        order = await piece.tell(policy.pipeline, call)
        if isinstance(order, Pass):
            sent += order.body
            routes += order.route is not None
            assert order.end == piece.end
            assert order.route is None or order.route.length == len(body)
        else:
            assert order == WITHHOLD
            assert routes == 0
    policy.pipeline.end(call)
    assert (sent, routes) == (body, 1)


async def test_a_form_without_a_model_before_its_file_is_refused() -> None:
    await (
        Playbook()
        >> form()
        << WITHHOLD
        >> RequestBody(b"--B\r\n" + FORM_FILE, end=False)
        << Refusal(refusals.MISSING_MODEL)
    ).play()


async def test_a_form_whose_path_names_the_model_needs_none_of_its_own() -> None:
    path = "/openai/deployments/whisper-1/audio/transcriptions"
    body = b"--B\r\n" + FORM_FILE + b"\r\n--B--\r\n"
    record = await (Playbook() >> request(path, content_type=FORM_TYPE) << WITHHOLD >> RequestBody(body) << Pass).play()
    assert (record["model"], record["chain"]) == ("whisper-1", ["one"])


async def test_a_second_model_behind_the_file_ends_a_form_that_flows() -> None:
    late = b'\r\n--B\r\ncontent-disposition: form-data; name="model"\r\n\r\ngpt-4o\r\n--B--\r\n'
    await (
        Playbook()
        >> form()
        << WITHHOLD
        >> RequestBody(FORM_MODEL + FORM_FILE, end=False)
        << Pass
        >> RequestBody(late)
        << Refusal(refusals.DUPLICATE_FIELD)
    ).play()


# ---- what we answer by ourselves --------------------------------------------------------------------


async def test_readiness_needs_no_key_and_is_counted_but_not_recorded() -> None:
    name, labels = "sluice_calls_total", {"surface": "ready", "status": "200", "ending": "answered"}
    metrics.publish()
    policy, before = Policy(), _counted(name, **labels)
    call = policy.pipeline.begin()
    order = await request("/readyz", "GET", end=True, authorization="").tell(policy.pipeline, call)
    policy.pipeline.end(call)
    assert isinstance(order, Reply)
    assert order.status == 200
    assert policy.records == []
    metrics.publish()
    assert _counted(name, **labels) == before + 1


async def test_readiness_that_is_denied_is_recorded() -> None:
    policy = Policy(not_ready="the keys are not loaded")
    record = await (Playbook(policy) >> request("/readyz", "GET", end=True, authorization="") << Reply).play()
    assert (record["status"], record["surface"]) == (503, "ready")


def _counted(name: str, **labels: str) -> float:
    """Over whatever other labels there are."""
    samples = [sample for metric in REGISTRY.collect() for sample in metric.samples if sample.name == name]
    return sum(sample.value for sample in samples if labels.items() <= sample.labels.items())


async def test_a_gateway_that_is_not_ready_says_no_more_than_that() -> None:
    policy = Policy(not_ready="the keys are not loaded")
    order = await request("/readyz", "GET", end=True).tell(policy.pipeline, policy.pipeline.begin())
    assert isinstance(order, Reply)
    assert order.status == 503
    assert b"keys" not in order.body


async def test_models_are_listed_for_the_caller_alone() -> None:
    async def listed(key: str) -> list[str]:
        policy = Policy()
        told = request("/v1/models", "GET", end=True, authorization=f"Bearer {key}")
        order = await told.tell(policy.pipeline, policy.pipeline.begin())
        assert isinstance(order, Reply)
        return [model["id"] for model in json.loads(order.body)["data"]]

    assert await listed(KEY) == ["gpt-4o", "gpt-4o-mini", "claude-opus", "whisper-1", "moderation"]
    assert await listed(OTHER_KEY) == ["gpt-4o"]


async def test_a_model_that_the_key_may_not_use_is_told_from_none_that_does_not_exist_by_nobody() -> None:
    replies = []
    for name in ("gpt-4o-mini", "nothing"):
        policy = Policy()
        told = request(f"/v1/models/{name}", "GET", end=True, authorization=f"Bearer {OTHER_KEY}")
        replies.append(await told.tell(policy.pipeline, policy.pipeline.begin()))
    assert replies[0] == replies[1]
    assert isinstance(replies[0], Reply)
    assert replies[0].status == 404


async def test_models_have_anthropics_shape_for_its_client() -> None:
    policy = Policy()
    told = request("/v1/models", "GET", end=True, anthropic_version="2023-06-01")
    order = await told.tell(policy.pipeline, policy.pipeline.begin())
    assert isinstance(order, Reply)
    assert json.loads(order.body)["data"][0]["type"] == "model"


# ---- refusals at the head ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("head", "kind"),
    [
        (request("/v1/unknown"), refusals.UNKNOWN_URL),
        (request("/v1/chat/completions", "GET"), refusals.METHOD_NOT_ALLOWED),
        (request(authorization=""), refusals.MISSING_KEY),
        (request(authorization="Bearer sk-other"), refusals.INVALID_KEY),
        (request(api_key=OTHER_KEY), refusals.AMBIGUOUS_KEY),
        (request(content_type="text/plain"), refusals.UNSUPPORTED_MEDIA),
        (request(content_type=""), refusals.UNSUPPORTED_MEDIA),
        (request(content_type=FORM_TYPE), refusals.UNSUPPORTED_MEDIA),
        (request(content_encoding="gzip"), refusals.UNSUPPORTED_MEDIA),
        (request(content_encoding="identity, gzip"), refusals.UNSUPPORTED_MEDIA),
        (request(end=True), refusals.INVALID_JSON),
        (request("/v1/audio/transcriptions"), refusals.UNSUPPORTED_MEDIA),
        (request("/v1/audio/transcriptions", content_type="multipart/form-data"), refusals.BAD_REQUEST),
        (request("/v1/audio/transcriptions", content_type=FORM_TYPE, end=True), refusals.BAD_REQUEST),
        (request("/v1/responses/resp_unknown", "GET", end=True), refusals.STATE_NOT_FOUND),
    ],
)
async def test_what_the_head_shows_is_refused_there(head: RequestHeaders, kind: refusals.Kind) -> None:
    record = await (Playbook() >> head << Refusal(kind)).play()
    assert (record["ending"], record["refusal"], record["status"]) == ("refused", kind.code, kind.status)
    assert "usage" not in record


async def test_the_path_decides_not_the_query() -> None:
    record = await (Playbook() >> request("/v1/chat/completions?beta=true") << PROCEED).play()
    assert record["surface"] == Surface.CHAT.value


async def test_a_retry_that_the_client_counts_is_recorded_and_nonsense_is_not() -> None:
    assert (await (Playbook() >> request(x_stainless_retry_count="2")).play())["client_retry"] == "2"
    for odd in ("1000", "-1", "x", "²"):
        assert "client_retry" not in await (Playbook() >> request(x_stainless_retry_count=odd)).play()


# ---- refusals at the body ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("body", "kind"),
    [
        (b"", refusals.INVALID_JSON),
        (b"{", refusals.INVALID_JSON),
        (b'{"messages":[{"role":"user"}]}', refusals.MISSING_MODEL),
        (b'{"model":"","messages":[{"role":"user"}]}', refusals.MISSING_MODEL),
        (b'{"model":"nothing","messages":[{"role":"user"}]}', refusals.MODEL_NOT_FOUND),
        (b'{"model":"claude-opus","messages":[{"role":"user"}]}', refusals.UNSUPPORTED_BY_MODEL),
        (b'{"model":"gpt-4o","Model":"x","messages":[{"role":"user"}]}', refusals.DUPLICATE_FIELD),
        (b'{"model":"gpt-4o","messages":[]}', refusals.INVALID_VALUE),
    ],
)
async def test_what_the_body_shows_is_refused_there(body: bytes, kind: refusals.Kind) -> None:
    record = await (Playbook() >> request() << PROCEED >> RequestBody(body) << Refusal(kind)).play()
    assert (record["ending"], record["refusal"]) == ("refused", kind.code)
    assert not {"usage", "backend", "chain"} & set(record)


# ---- state ------------------------------------------------------------------------------------------

RESPONSE = b'{"model":"gpt-4o","input":"hi","previous_response_id":"resp_1"}'


def held(owner: str = "key_1", backend: str = "legacy") -> Policy:
    policy = Policy()
    policy.affinity.store.remember(["resp_1"], backend, "gpt-4o", owner)
    return policy


async def test_a_call_that_leans_on_state_goes_where_the_state_is_and_nowhere_else() -> None:
    record = await (Playbook(held()) >> request("/v1/responses") >> RequestBody(RESPONSE) << Route).play()
    assert record["chain"] == ["legacy"]


async def test_another_callers_state_is_unknown() -> None:
    for policy in (held(owner="key_2"), Policy()):
        await (
            Playbook(policy) >> request("/v1/responses") >> RequestBody(RESPONSE) << Refusal(refusals.STATE_NOT_FOUND)
        ).play()


async def test_a_pinned_backend_that_is_gone_is_not_worth_a_retry() -> None:
    await (
        Playbook(held())
        >> request("/v1/responses")
        >> RequestBody(RESPONSE)
        << Route
        >> local_reply(503)
        << Refusal(refusals.STATEFUL_BACKEND_UNAVAILABLE)
    ).play()


@pytest.mark.parametrize(
    ("method", "action"), [("GET", ""), ("DELETE", ""), ("POST", "/cancel"), ("GET", "/input_items")]
)
async def test_a_stored_response_is_asked_for_where_it_is(method: str, action: str) -> None:
    path = f"/v1/responses/resp_1{action}"
    head = request(f"{path}?limit=2", method, end=True, content_type="", content_length="0")
    wanted = Route((Leg("one", f"{path}?limit=2", "gpt-4o"),), ("authorization",))
    record = await (
        Playbook(held(backend="one")) >> head << wanted >> answer() << Relay >> ResponseBody(USED) << UNCHANGED
    ).play()
    assert "usage" not in record, "reading again uses nothing"


async def test_one_model_is_told_to_who_may_use_it() -> None:
    policy = Policy()
    order = await request("/v1/models/gpt-4o", "GET", end=True).tell(policy.pipeline, policy.pipeline.begin())
    assert isinstance(order, Reply)
    assert json.loads(order.body)["id"] == "gpt-4o"


async def test_a_stored_response_of_a_backend_that_is_configured_no_more_is_unknown() -> None:
    book = Playbook(held(backend="gone")) >> request("/v1/responses/resp_1", "GET", end=True)
    await (book << Refusal(refusals.STATE_NOT_FOUND)).play()


async def test_encrypted_content_that_nobody_knows_pins_nothing() -> None:
    body = b'{"model":"gpt-4o","input":[{"type":"reasoning","encrypted_content":"sealed"}]}'
    record = await (Playbook() >> request("/v1/responses") >> RequestBody(body) << Route).play()
    assert record["chain"] == ["one", "legacy"]


async def test_a_stored_response_may_be_asked_for_with_a_body() -> None:
    head = request("/v1/responses/resp_1/cancel", "POST")
    await (Playbook(held(backend="one")) >> head << PROCEED >> RequestBody(b"{}") << Route).play()


async def test_what_an_answer_makes_is_remembered_before_the_client_has_it() -> None:
    policy = Policy()
    made = b'{"id":"resp_new","object":"response","output":[]}'
    await (
        Playbook(policy)
        >> request("/v1/responses")
        >> RequestBody(b'{"model":"gpt-4o","input":"hi"}')
        << Route
        >> answer("one")
        >> ResponseBody(made)
        << UNCHANGED
    ).play()
    known = policy.affinity.store.recall(["resp_new"])["resp_new"]
    assert (known.backend, known.model, known.owner) == ("one", "gpt-4o", "key_1")


async def test_a_dead_store_refuses_what_needs_it_and_spares_a_paid_answer() -> None:
    policy = held()
    policy.affinity.down = True
    down = Refusal(refusals.STORE_UNAVAILABLE)
    await (Playbook(policy) >> request("/v1/responses") >> RequestBody(RESPONSE) << down).play()
    await (Playbook(policy) >> request("/v1/responses/resp_1", "GET", end=True) << down).play()
    await (
        Playbook(policy)
        >> request("/v1/responses")
        >> RequestBody(b'{"model":"gpt-4o","input":"hi"}')
        << Route
        >> answer("one")
        >> ResponseBody(b'{"id":"resp_new"}')
        << UNCHANGED
    ).play()


# ---- what Envoy answers by itself -------------------------------------------------------------------


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (400, refusals.BAD_REQUEST),
        (404, refusals.BAD_REQUEST),
        (408, refusals.REQUEST_TIMEOUT),
        (413, refusals.TOO_LARGE),
        (426, refusals.UPGRADE_REFUSED),
        (500, refusals.GATEWAY_ERROR),
        (502, refusals.UPSTREAM_UNAVAILABLE),
        (503, refusals.UPSTREAM_UNAVAILABLE),
        (504, refusals.UPSTREAM_TIMEOUT),
    ],
)
@pytest.mark.parametrize("before", [(), (request(),), (request(), RequestBody(CHAT))])
async def test_envoys_own_answers_are_said_in_our_words(
    status: int, kind: refusals.Kind, before: tuple[Told, ...]
) -> None:
    book = Playbook()
    for told in before:
        book = book >> told
    record = await (book >> local_reply(status) << Refusal(kind)).play()
    assert (record["status"], record["refusal"], record["ending"]) == (kind.status, kind.code, "refused")
    assert "usage" not in record, "nothing that Envoy says was paid for"


async def test_a_missing_credential_is_the_gateways_fault() -> None:
    refused = local_reply(502, details="failed_to_inject_credential")
    await (Playbook() >> request() >> RequestBody(CHAT) >> refused << Refusal(refusals.GATEWAY_ERROR)).play()


@pytest.mark.parametrize(
    ("path", "part"),
    [
        ("/v1/chat/completions?x=1", b'"type":"invalid_request_error","param":null'),
        ("/openai/v1/responses", b'"status":413'),
        ("/v1/messages?beta=true", b'"type":"error"'),
        ("/anthropic/nowhere", b'"type":"error"'),
    ],
)
async def test_a_call_known_only_by_its_refusal_is_answered_in_its_shape(path: str, part: bytes) -> None:
    policy = Policy()
    call = policy.pipeline.begin()
    order = await local_reply(413, path=path).tell(policy.pipeline, call)
    policy.pipeline.end(call)
    assert isinstance(order, Reply)
    assert part in order.body
    assert policy.records[0]["request_id"] == "r-1"


async def test_an_answer_of_the_sink_is_our_own_mistake() -> None:
    await (routed(Playbook()) >> UNROUTED << Refusal(refusals.GATEWAY_ERROR)).play()


# ---- any order of messages --------------------------------------------------------------------------

_EVENTS: tuple[Told, ...] = (
    request(),
    request(end=True),
    request(authorization=""),
    request("/v1/models", "GET", end=True),
    request("/readyz", "GET", end=True),
    request("/v1/responses/resp_1", "GET", end=True),
    request("/v1/responses/resp_1/cancel"),
    request("/v1/responses"),
    request("/nowhere"),
    form(),
    form("100"),
    RequestBody(CHAT),
    RequestBody(STREAM),
    RequestBody(RESPONSE),
    RequestBody(CHAT, end=False),
    RequestBody(b"\xff\x00"),
    RequestBody(b""),
    RequestBody(FORM_MODEL, end=False),
    RequestBody(FORM_MODEL + FORM_FILE, end=True),
    REQUEST_TRAILERS,
    answer(),
    answer(end=True),
    answer("legacy", content_type="text/event-stream"),
    answer(status=500),
    local_reply(413),
    local_reply(503),
    UNROUTED,
    ResponseBody(USED),
    ResponseBody(USED, end=False),
    ResponseBody(b"data: [DONE]\n\n", end=False),
    ResponseBody(b""),
    RESPONSE_TRAILERS,
)
EVENTS = st.sampled_from(_EVENTS)
_ORDERS: dict[Event, tuple[type, ...]] = {
    Event.REQUEST_HEADERS: (Proceed, Withhold, Route, Reply),
    Event.REQUEST_BODY: (Route, Reply, Pass, Withhold),
    Event.REQUEST_TRAILERS: (Proceed, Withhold),
    Event.RESPONSE_HEADERS: (Relay, Reply),
    Event.RESPONSE_BODY: (Emit, Reply, Withhold),
    Event.RESPONSE_TRAILERS: (Proceed, Withhold),
}
# A path from one event to the next that can go far, so that not every example dies at its first step.
_STARTS = st.sampled_from([[], [request()], [request(), RequestBody(CHAT)], [request(), RequestBody(STREAM), answer()]])


@given(start=_STARTS, rest=st.lists(EVENTS, max_size=8))
@settings(deadline=None, max_examples=300)
def test_any_order_of_messages_follows_the_table_or_is_a_violation(start: list[Told], rest: list[Told]) -> None:
    asyncio.run(_any_order([*start, *rest]))


async def _any_order(events: list[Told]) -> None:
    policy = held()
    call = policy.pipeline.begin()
    decided = False
    for told in events:
        before = call.phase
        try:
            order = await told.tell(policy.pipeline, call)
        except ProtocolViolation:
            break
        assert told.event in LEGAL[before], "what is not in the table must raise"
        assert isinstance(order, _ORDERS[told.event])
        if isinstance(order, Reply):
            assert call.phase is Phase.ANSWERED
        assert before is not Phase.ANSWERED or isinstance(order, Withhold), "after our answer there is no reply"
        decided |= isinstance(order, Route) or (isinstance(order, Pass) and order.route is not None)
        assert decided or not isinstance(order, Relay | Pass | Emit), "nothing passes before a decision"
    policy.pipeline.end(call)
    is_fine_probe = call.place is not None and call.place.surface is Surface.READY and call.status == 200
    assert len(policy.records) == (1 if events and not is_fine_probe else 0)


@given(start=_STARTS, rest=st.lists(EVENTS, max_size=6))
@settings(deadline=None)
def test_usage_is_counted_only_for_an_answer_that_a_backend_gave(start: list[Told], rest: list[Told]) -> None:
    async def play() -> list[dict[str, Any]]:
        policy = held()
        call = policy.pipeline.begin()
        for told in (*start, *rest):
            try:
                await told.tell(policy.pipeline, call)
            except ProtocolViolation:
                break
        policy.pipeline.end(call)
        return policy.records

    for record in asyncio.run(play()):
        if record["ending"] in ("refused", "answered", "failed"):
            assert "usage" not in record


async def test_calls_in_flight_return_to_nothing() -> None:
    pipeline = Policy().pipeline
    calls = [pipeline.begin() for _ in range(3)]
    assert pipeline.in_flight == 3
    for call in calls:
        pipeline.end(call)
    assert pipeline.in_flight == 0


async def test_no_refusal_and_no_record_holds_text_of_the_call_or_a_key() -> None:
    canary = "sk-sluice-" + "C" * 49
    heads = [
        request(f"/v1/{canary}", authorization=canary),
        request(authorization=f"Bearer {canary}", x_api_key=canary, content_type=canary),
        request(authorization=f"Bearer {canary}"),
        request(authorization=f"Bearer {KEY}", api_key=OTHER_KEY, cookie=canary),
    ]
    bodies = [
        f'{{"model":"{canary}","messages":[{{"content":"{canary}"}}]}}'.encode(),
        f'{{"messages":"{canary}"}}'.encode(),
        f"{canary}".encode(),
        orjson.dumps({"model": "gpt-4o", canary: 1, "messages": [{"content": 1}]}),
    ]
    policy = Policy()
    exchanges: list[list[Told]] = [[head] for head in heads]
    exchanges += [[request(), RequestBody(body)] for body in bodies]
    for events in exchanges:
        call = policy.pipeline.begin()
        for told in events:
            order = await told.tell(policy.pipeline, call)
        policy.pipeline.end(call)
        assert isinstance(order, Reply), events
        text = order.body.decode() + order.details + repr(order.headers)
        assert not re.search(f"{canary}|{KEY}|{OTHER_KEY}", text)
    assert canary not in json.dumps(policy.records)
    assert KEY not in json.dumps(policy.records)
