"""No way around the policy: whatever a worker does or suffers, Envoy serves nothing that was not decided.

The first half puts a rogue in the worker's place: some of what it does Envoy takes as permission, by the protocol,
and the tests say which; before a decision even that ends closed. The second half does to the real worker what an
operating system can do to it.
"""

import json
import os
import signal
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import psutil
import pytest

from extproc.contract import WITHOUT_NOTICE
from extproc.identity.keys import QUICKSTART_KEY
from protos.ext_proc_pb2 import (
    BodyResponse,
    HeaderValue,
    HeaderValueOption,
    ProcessingResponse,
    StreamedBodyResponse,
)
from tests.support.fake import FakeProvider
from tests.support.gateway import RunningGateway, until
from tests.support.raw_http import Answer, Connection, chunk, chunked, form, head, request
from tests.support.rogue import CleanEnd, Crash, Mischief, RogueGateway, Trap

CHAT, SPEAK, LIST = "/v1/chat/completions", "/v1/audio/transcriptions", "/v1/models"
CANARY = "canary: text of a call"
SECRET = "secret-of-the-provider"
FORM_TYPE, FORM = form({"model": "whisper-1"}, b"z" * 200_000)


def chat(**fields: Any) -> bytes:
    return json.dumps({"model": "gpt-4o", "messages": [{"role": "user", "content": "Hello!"}], **fields}).encode()


STREAMED = chat(stream=True, x_fake={"tokens_per_second": 200, "events": 8})
CALLS = {
    "json": request(CHAT, chat(), QUICKSTART_KEY),
    "sized json": request(CHAT, chat(x_fake={"content_length": True}), QUICKSTART_KEY),  # its answer is read whole
    "stream": request(CHAT, STREAMED, QUICKSTART_KEY),
    "form": request(SPEAK, FORM, QUICKSTART_KEY, FORM_TYPE),
    "list": head("GET", LIST, {}, QUICKSTART_KEY),
}


def settings(fake: FakeProvider) -> dict[str, Any]:
    return {
        "backends": {"openai": {"dialect": "openai", "url": fake.url("openai"), "credential": {"env": "SECRET"}}},
        "models": {
            "gpt-4o": {"targets": [[{"backend": "openai", "model": "gpt-4o-deployed"}]]},
            "whisper-1": {"targets": [[{"backend": "openai"}]]},
        },
        "limits": {"json_request": "1MiB", "json_answer": "1MiB"},
        "timeouts": {"policy": "1s", "idle": "3s", "drain": "20s"},
    }


def answer_to(port: int, data: bytes) -> Answer:
    with Connection(port) as connection:
        connection.try_send(data)
        return connection.answer()


def refused(answer: Answer) -> bool:
    """Whether an answer is the gateway's own 5xx (421 from the sink), whole, in a shape clients can read."""
    return answer.whole and answer.status in (421, 503, 504) and answer.json()["error"]["code"] == "gateway_error"


# ---- a rogue in the worker's place -----------------------------------------------------------------------


@pytest.fixture(scope="module")
def rogue(fake: FakeProvider) -> Iterator[RogueGateway]:
    with RogueGateway(settings(fake), {"SECRET": SECRET}) as running:
        yield running


@pytest.fixture(autouse=True)
def nothing_recorded(fake: FakeProvider) -> None:
    fake.reset()


def spring(rogue: RogueGateway, trap: Trap, call: str) -> Answer:
    rogue.trap = trap
    rogue.shown.clear()
    try:
        return answer_to(rogue.port, CALLS[call])
    finally:
        rogue.trap = None


def clean_end(_honest: bytes) -> Sequence[bytes]:
    raise CleanEnd


def crash(_honest: bytes) -> Sequence[bytes]:
    raise Crash(CANARY)


def inner_bug(_honest: bytes) -> Sequence[bytes]:
    raise RuntimeError(CANARY)  # inside the product's own net


def twice(honest: bytes) -> Sequence[bytes]:
    return [honest, honest]


def empty(_honest: bytes) -> Sequence[bytes]:
    return [b""]


def garbage(_honest: bytes) -> Sequence[bytes]:
    return [b"\xff\xff\xff\xff"]


def bare(kind: str) -> bytes:
    reply = ProcessingResponse()
    getattr(reply, kind).SetInParent()
    return reply.SerializeToString()


def another_kind(honest: bytes) -> Sequence[bytes]:
    """A reply to the headers of the other direction."""
    kind = ProcessingResponse.FromString(honest).WhichOneof("response")
    return [bare("request_headers" if kind in ("response_headers", "response_body") else "response_headers")]


def another_phase(honest: bytes) -> Sequence[bytes]:
    """A reply of the right direction, headers for body or body for headers."""
    kind = ProcessingResponse.FromString(honest).WhichOneof("response") or "request_body"
    direction, _, part = kind.partition("_")
    return [bare(f"{direction}_body" if part == "headers" else f"{direction}_headers")]


def with_header(name: str, value: bytes) -> Mischief:
    """The honest reply and one more header."""
    option = HeaderValueOption(
        header=HeaderValue(key=name, raw_value=value), append_action=HeaderValueOption.OVERWRITE_IF_EXISTS_OR_ADD
    )

    def mischief(honest: bytes) -> Sequence[bytes]:
        reply = ProcessingResponse.FromString(honest)
        kind = reply.WhichOneof("response") or "request_headers"
        if kind == "immediate_response":
            reply.immediate_response.headers.set_headers.append(option)
        else:
            getattr(reply, kind).response.header_mutation.set_headers.append(option)
        return [reply.SerializeToString()]

    return mischief


def with_body(size: int) -> Mischief:
    """The honest reply and a body larger than Envoy may hold."""

    def mischief(honest: bytes) -> Sequence[bytes]:
        reply = ProcessingResponse.FromString(honest)
        kind = reply.WhichOneof("response") or "request_body"
        getattr(reply, kind).response.body_mutation.body = b"x" * size
        return [reply.SerializeToString()]

    return mischief


NO_REPLY: dict[str, Mischief] = {
    "clean end": clean_end,
    "crash": crash,
    "inner bug": inner_bug,
    "empty": empty,
    "garbage": garbage,
}
WRONG_REPLY: dict[str, Mischief] = {
    "another kind": another_kind,
    "another phase": another_phase,
    "twice": twice,
    "bad header name": with_header("bad\nname", b"x"),
    "bad header value": with_header("x-good", b"a\r\nx-evil: 1"),
    "large header": with_header("x-large", b"x" * 300_000),
}
TRAPS = NO_REPLY | WRONG_REPLY
LARGE_BODY = with_body(20 << 20)

BEFORE_DECISION = [
    *((call, "request_headers", trap) for call in CALLS for trap in TRAPS if call != "list" and trap != "inner bug"),
    *((call, "request_body", trap) for call in ("json", "stream", "form") for trap in TRAPS if trap != "twice"),
    ("form", "request_body", "twice"),  # the first of its two replies
    *(("list", "request_headers", trap) for trap in NO_REPLY),
    ("list", "request_headers", "another kind"),
]


@pytest.mark.parametrize(("call", "at", "trap"), BEFORE_DECISION)
def test_before_a_decision_every_trap_ends_closed(
    call: str, at: str, trap: str, rogue: RogueGateway, fake: FakeProvider
) -> None:
    """By the protocol Envoy goes on after a clean end; the call then has no order and ends in the sink (421)."""
    answer = spring(rogue, Trap(at, TRAPS[trap]), call)
    assert refused(answer)
    assert answer.status == (421 if trap == "clean end" else 503)
    assert not fake.calls("openai")
    assert CANARY.encode() not in answer.body
    assert_unharmed(rogue, fake)


def assert_unharmed(rogue: RogueGateway, fake: FakeProvider) -> None:
    """Envoy lives, and the next call is served with what its decision says."""
    fake.reset()
    answer = answer_to(rogue.port, CALLS["json"])
    assert (answer.status, len(fake.calls("openai"))) == (200, 1)


def test_a_body_that_outgrows_envoys_buffer_is_not_sent(rogue: RogueGateway, fake: FakeProvider) -> None:
    assert refused(spring(rogue, Trap("request_body", LARGE_BODY), "json"))
    assert not fake.calls("openai")
    assert_unharmed(rogue, fake)


def test_a_decision_told_twice_is_carried_out_once_at_most(rogue: RogueGateway, fake: FakeProvider) -> None:
    """The first reply allows the call, so its own body may be on its way; the second ends it for the client."""
    spurious = rogue.stat("http.gateway.ext_proc.spurious_msgs_received")
    assert refused(spring(rogue, Trap("request_body", twice), "json"))
    assert rogue.stat("http.gateway.ext_proc.spurious_msgs_received") == spurious + 1
    seen = fake.calls("openai")
    assert len(seen) <= 1
    assert all(["authorization", f"Bearer {SECRET}"] in call["headers"] for call in seen)
    assert_unharmed(rogue, fake)


@pytest.mark.parametrize("trap", ["another kind", "another phase", "empty"])
@pytest.mark.parametrize("at", ["request_headers", "request_body", "response_headers", "response_body"])
def test_a_reply_of_a_wrong_kind_raises_the_alarm(at: str, trap: str, rogue: RogueGateway) -> None:
    """Not ignored, as older Envoys did: the call fails, and the counter to alert on rises."""
    spurious = rogue.stat("http.gateway.ext_proc.spurious_msgs_received")
    assert refused(spring(rogue, Trap(at, TRAPS[trap]), "json"))
    assert rogue.stat("http.gateway.ext_proc.spurious_msgs_received") == spurious + 1


IN_ANSWER = [
    *(
        (call, at, trap)
        for call in ("json", "sized json", "form")
        for at in ("response_headers", "response_body")
        for trap in TRAPS
        if trap != "clean end" and (at, trap) != ("response_body", "twice")
    ),
    *(("stream", "response_headers", trap) for trap in TRAPS if trap not in ("clean end", "twice")),
]


@pytest.mark.parametrize(("call", "at", "trap"), IN_ANSWER)
def test_no_answer_passes_a_policy_that_fails(
    call: str, at: str, trap: str, rogue: RogueGateway, fake: FakeProvider
) -> None:
    answer = spring(rogue, Trap(at, TRAPS[trap]), call)
    assert refused(answer)
    assert b"You said" not in answer.body
    assert b"Transcript" not in answer.body
    assert CANARY.encode() not in answer.body
    assert_unharmed(rogue, fake)


def test_a_whole_answer_that_outgrows_envoys_buffer_is_not_sent(rogue: RogueGateway, fake: FakeProvider) -> None:
    assert refused(spring(rogue, Trap("response_body", LARGE_BODY), "sized json"))
    assert_unharmed(rogue, fake)


@pytest.mark.parametrize("trap", ["crash", "inner bug", "empty", "garbage", "another kind", "another phase", "twice"])
@pytest.mark.parametrize("number", [1, 4])
def test_a_stream_is_cut_where_the_policy_fails(
    number: int, trap: str, rogue: RogueGateway, fake: FakeProvider
) -> None:
    """What had been told is all that the client has, and it can see that there was more."""
    answer = spring(rogue, Trap("response_body", TRAPS[trap], number), "stream")
    told = number if trap == "twice" else number - 1
    assert (answer.status, answer.whole) == (200, False)
    assert b"".join(rogue.shown[:told]).startswith(answer.body)
    assert b"[DONE]" not in answer.body
    assert_unharmed(rogue, fake)


@pytest.mark.parametrize("call", ["json", "sized json", "form"])
def test_a_second_reply_to_the_end_of_an_answer_changes_nothing(call: str, rogue: RogueGateway) -> None:
    answer = spring(rogue, Trap("response_body", twice), call)
    assert (answer.status, answer.whole) == (200, True)
    assert answer.json()


@pytest.mark.parametrize(("at", "number"), [("response_headers", 1), ("response_body", 1), ("response_body", 4)])
def test_envoy_lets_an_answer_pass_after_a_clean_end(
    at: str, number: int, rogue: RogueGateway, fake: FakeProvider
) -> None:
    """The trap itself: no setting closes it, so the processor must never end a stream before Envoy does.

    What shows that the rest went past the policy is the usage event, which only the gateway had asked for.
    """
    answer = spring(rogue, Trap(at, clean_end, number), "stream")
    assert (answer.status, answer.whole) == (200, True)
    assert b'"total_tokens"' in answer.body
    honest = answer_to(rogue.port, CALLS["stream"])
    assert b'"total_tokens"' not in honest.body


def test_envoy_lets_the_rest_of_a_form_pass_after_a_clean_end(rogue: RogueGateway, fake: FakeProvider) -> None:
    """As above, in the other direction: after the decision, the rest of an upload needs no worker."""
    answer = spring(rogue, Trap("request_body", clean_end, number=2), "form")
    assert answer.status == 200
    assert fake.calls("openai")[0]["complete"]


def test_what_envoy_logs_of_a_crash_is_why_the_product_catches_all(rogue: RogueGateway) -> None:
    """Envoy is told an exception's text when nothing catches it; the product's net gives a constant one."""
    spring(rogue, Trap("request_body", inner_bug), "json")
    spring(rogue, Trap("response_body", crash, number=2), "stream")
    assert CANARY not in rogue.log()


@pytest.mark.parametrize("call", CALLS)
def test_without_a_worker_nothing_passes(call: str, rogue: RogueGateway, fake: FakeProvider) -> None:
    rogue.stop_worker()
    try:
        assert refused(answer_to(rogue.port, CALLS[call]))
        assert not fake.calls("openai")
    finally:
        rogue.start_worker()
        until(lambda: answer_to(rogue.port, CALLS["json"]).status == 200, what="the worker to be seen")


def test_an_allowed_call_that_no_reply_routes_ends_in_the_sink(rogue: RogueGateway, fake: FakeProvider) -> None:
    """Allowed, but the order was lost: a bug of ours may not become a call at some default backend."""

    def unordered(honest: bytes) -> Sequence[bytes]:
        reply = ProcessingResponse.FromString(honest)
        reply.ClearField("dynamic_metadata")
        return [reply.SerializeToString()]

    answer = spring(rogue, Trap("request_body", unordered), "json")
    assert (answer.status, answer.json()["error"]["message"]) == (500, "The call was not routed.")
    assert not fake.calls("openai")


def test_an_end_of_body_that_was_not_asked_for_sends_nothing(rogue: RogueGateway, fake: FakeProvider) -> None:
    """A streamed reply belongs to forms alone; in place of a decision on JSON it is an error."""

    def streamed(_honest: bytes) -> Sequence[bytes]:
        reply = ProcessingResponse(request_body=BodyResponse())
        piece = StreamedBodyResponse(body=b"{}", end_of_stream=True)
        reply.request_body.response.body_mutation.streamed_response.CopyFrom(piece)
        return [reply.SerializeToString()]

    assert refused(spring(rogue, Trap("request_body", streamed), "json"))
    assert not fake.calls("openai")


# ---- what an operating system does to the real worker -------------------------------------------------------

SIGNALS = {"SIGTERM": signal.SIGTERM, "SIGKILL": signal.SIGKILL, "SIGSTOP": signal.SIGSTOP}


@pytest.fixture(scope="module")
def lone(fake: FakeProvider) -> Iterator[RunningGateway]:
    """A gateway with one worker: when that is gone, there is nobody to ask."""
    with RunningGateway(settings(fake), {"SECRET": SECRET}) as running:
        yield running


@pytest.fixture
def strike(lone: RunningGateway) -> Iterator[Callable[[int], None]]:
    """Sends a signal to the worker; afterwards the gateway is made whole again."""
    (worker,) = lone.processes("extproc.worker")

    def send(signum: int) -> None:
        worker.send_signal(signum)

    yield send
    if worker.is_running() and worker.status() == psutil.STATUS_STOPPED:
        os.kill(worker.pid, signal.SIGCONT)
    until(lambda: ready(lone), 60, "the gateway to recover")


def ready(gateway: RunningGateway) -> bool:
    return answer_to(gateway.port, head("GET", "/readyz", {})).status == 200


def told(gateway: RunningGateway) -> int:
    """How many replies of the worker Envoy has had."""
    return gateway.envoy_stat("http.gateway.ext_proc.stream_msgs_received")


def closed_or_served(answer: Answer, fake: FakeProvider) -> bool:
    """A call that a worker decided may be served; any other was not seen by the backend."""
    return answer.status == 200 or (refused(answer) and not fake.calls("openai"))


@pytest.mark.parametrize("signum", SIGNALS.values(), ids=SIGNALS)
def test_a_worker_lost_before_the_headers(
    signum: int, lone: RunningGateway, fake: FakeProvider, strike: Callable[[int], None]
) -> None:
    strike(signum)
    for data in CALLS.values():
        anonymous = data.replace(QUICKSTART_KEY.encode(), b"")
        assert answer_to(lone.port, anonymous).status in (401, 503, 504)
    assert not fake.calls("openai")
    for data in CALLS.values():
        fake.reset()
        assert closed_or_served(answer_to(lone.port, data), fake)


@pytest.mark.parametrize("signum", [signal.SIGKILL, signal.SIGSTOP], ids=["SIGKILL", "SIGSTOP"])
def test_a_worker_lost_before_the_body(
    signum: int, lone: RunningGateway, fake: FakeProvider, strike: Callable[[int], None]
) -> None:
    before = told(lone)
    opening, body = CALLS["json"].split(b"\r\n\r\n", 1)
    with Connection(lone.port) as connection:
        connection.send(opening + b"\r\n\r\n" + body[:10])
        until(lambda: told(lone) > before, what="the caller to be identified")
        strike(signum)
        connection.try_send(body[10:])
        assert refused(connection.answer())
    assert not fake.calls("openai")


@pytest.mark.parametrize("signum", [signal.SIGKILL, signal.SIGSTOP], ids=["SIGKILL", "SIGSTOP"])
def test_a_worker_lost_within_the_start_of_a_form(
    signum: int, lone: RunningGateway, fake: FakeProvider, strike: Callable[[int], None]
) -> None:
    """A form is withheld until its model is known. A worker that hangs then is ended by the idle timeout."""
    sent = lone.envoy_stat("http.gateway.ext_proc.stream_msgs_sent")
    with Connection(lone.port) as connection:
        connection.send(CALLS["form"][: -len(FORM) + 20])
        until(lambda: lone.envoy_stat("http.gateway.ext_proc.stream_msgs_sent") >= sent + 2, what="the first chunk")
        strike(signum)
        connection.try_send(FORM[20:])
        answer = connection.answer()
    assert answer.status in (408, 503, 504)
    assert not fake.calls("openai")


@pytest.mark.parametrize("signum", [signal.SIGKILL, signal.SIGSTOP], ids=["SIGKILL", "SIGSTOP"])
def test_a_worker_lost_while_an_allowed_form_flows(
    signum: int, lone: RunningGateway, fake: FakeProvider, strike: Callable[[int], None]
) -> None:
    """The backend has the start of an upload that was allowed; without a worker not one more byte follows."""
    half = len(FORM) // 2
    with Connection(lone.port) as connection:
        connection.send(CALLS["form"][: -len(FORM)] + FORM[:half])
        until(lambda: fake.totals("openai")["calls"] == 1, what="the backend to be called")
        strike(signum)
        connection.try_send(FORM[half:])
        answer = connection.answer()
    assert answer.status in (0, 408, 503, 504)
    until(lambda: fake.totals("openai")["open"] == 0, what="the backend's call to end")
    (seen,) = fake.calls("openai")
    assert not seen["complete"]
    assert seen["body_bytes"] <= half


@pytest.mark.parametrize("signum", [signal.SIGKILL, signal.SIGSTOP], ids=["SIGKILL", "SIGSTOP"])
def test_a_worker_lost_before_the_answer(
    signum: int, lone: RunningGateway, fake: FakeProvider, strike: Callable[[int], None]
) -> None:
    with Connection(lone.port) as connection:
        connection.send(request(CHAT, chat(x_fake={"delay_ms": 700}), QUICKSTART_KEY))
        until(lambda: fake.totals("openai")["calls"] == 1, what="the backend to be called")
        strike(signum)
        answer = connection.answer()
    assert refused(answer)
    assert b"You said" not in answer.body


@pytest.mark.parametrize("signum", [signal.SIGKILL, signal.SIGSTOP], ids=["SIGKILL", "SIGSTOP"])
def test_a_worker_lost_mid_stream(signum: int, lone: RunningGateway, strike: Callable[[int], None]) -> None:
    body = chat(stream=True, x_fake={"tokens_per_second": 20, "events": 40})
    with Connection(lone.port) as connection:
        connection.send(request(CHAT, body, QUICKSTART_KEY))
        pieces = connection.pieces()
        while (answer := next(pieces)).body.count(b"data:") < 4:
            pass
        strike(signum)
        answer = [answer, *pieces][-1]
    assert not answer.whole
    assert answer.body.count(b"data:") < 40
    assert b"total_tokens" not in answer.body
    assert b"[DONE]" not in answer.body


@pytest.mark.parametrize(
    ("moment", "signum"),
    [
        *((moment, signal.SIGTERM) for moment in ("before the body", "within the body", "before the answer")),
        ("mid-stream", signal.SIGTERM),
        ("mid-stream", WITHOUT_NOTICE),
    ],
)
def test_a_worker_told_to_end_ends_what_it_has_begun(
    moment: str, signum: int, lone: RunningGateway, fake: FakeProvider, strike: Callable[[int], None]
) -> None:
    body = chat(stream=True, x_fake={"delay_ms": 300, "tokens_per_second": 20, "events": 20})
    data = request(CHAT, body, QUICKSTART_KEY)
    cut = {"before the body": -len(body), "within the body": -len(body) // 2}.get(moment, len(data))
    before, served = told(lone), lone.envoy_stat("http.gateway.downstream_rq_2xx")
    with Connection(lone.port) as connection:
        connection.send(data[:cut])
        until(lambda: told(lone) > before, what="the caller to be identified")
        if moment == "before the answer":
            until(lambda: fake.totals("openai")["calls"] == 1, what="the backend to be called")
        elif moment == "mid-stream":
            until(lambda: lone.envoy_stat("http.gateway.downstream_rq_2xx") > served, what="the answer to begin")
        strike(signum)
        connection.send(data[cut:])
        answer = connection.answer()
    assert answer.whole
    assert answer.body.endswith(b"data: [DONE]\n\n")
    assert b"total_tokens" not in answer.body
    assert lone.record(answer.request_id)["usage"]["source"] == "reported"


# ---- what the product sends --------------------------------------------------------------------------------


def test_the_product_sends_envoy_nothing_spurious(lone: RunningGateway) -> None:
    """Every kind of exchange, served, refused, torn: not one reply that Envoy did not wait for."""
    answers = [answer_to(lone.port, data).status for data in CALLS.values()]
    assert answers == [200] * len(CALLS)
    for data in (
        request(CHAT, b"{", QUICKSTART_KEY),
        request(CHAT, chat(), None),
        request("/v1/nothing", chat(), QUICKSTART_KEY),
        request(CHAT, chat(pad="x" * (2 << 20)), QUICKSTART_KEY),
        chunked(CHAT, chat(), QUICKSTART_KEY, 1),
        chunked(SPEAK, FORM, QUICKSTART_KEY, 1000, FORM_TYPE),
        request(SPEAK, FORM.replace(b"whisper-1", b"nobody-99"), QUICKSTART_KEY, FORM_TYPE),
        request(CHAT, chat(x_fake={"status": 429}), QUICKSTART_KEY),
        request(CHAT, chat(x_fake={"reset": 20}), QUICKSTART_KEY),
    ):
        answer_to(lone.port, data)
    with Connection(lone.port) as leaving:
        leaving.send(CALLS["stream"])
        next(leaving.pieces())
    with Connection(lone.port) as trailing:
        opening = head("POST", CHAT, {"content-type": "application/json", "transfer-encoding": "chunked"}, lone.key)
        trailing.send(opening + chunk(chat()) + b"0\r\nx-trailer: 1\r\n\r\n")
        trailing.answer()
    assert lone.envoy_stat("http.gateway.ext_proc.spurious_msgs_received") == 0
    assert told(lone) > 0
