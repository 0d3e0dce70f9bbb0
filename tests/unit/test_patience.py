"""More time for late decisions, without an Envoy: when it is asked for, and that no two writes overlap."""

import asyncio
import gc
from typing import Any, NoReturn

import grpc
import pytest

from extproc.adapter.external_processor import ExternalProcessor
from extproc.adapter.patience import Patience, Replies
from extproc.call import Call
from extproc.pipeline import Pipeline
from protos.ext_proc_pb2 import ProcessingResponse
from tests.support.leaping import leaping
from tests.support.playbook import Aborted, FakeEnvoy, Policy, RequestBody, request

USUAL, LONGEST = 0.2, 9.5
CHAT = b'{"model":"gpt-4o","messages":[{"role":"user","content":"canary text"}]}'


class Written:
    """A stream's writing half that takes `pace` seconds for each message, and notes writes that overlap."""

    def __init__(self, pace: float = 0.0, fails: bool = False) -> None:
        self.pace = pace
        self.fails = fails
        self.messages: list[bytes] = []
        self.busy = False

    async def __call__(self, message: bytes) -> None:
        assert not self.busy, "two writes at a time"
        self.busy = True
        try:
            await asyncio.sleep(self.pace)
            if self.fails:
                raise OSError
            self.messages.append(message)
        finally:
            self.busy = False

    @property
    def asked(self) -> list[float]:
        """For how much time it was asked, in seconds."""
        replies = [ProcessingResponse.FromString(message) for message in self.messages if message != b"reply"]
        assert all(not reply.WhichOneof("response") for reply in replies)
        return [reply.override_message_timeout.ToTimedelta().total_seconds() for reply in replies]


def stream(written: Written, usual: float = USUAL, longest: float = LONGEST) -> Replies:
    return Patience(usual, longest).replies(written)


@leaping
async def test_what_is_answered_at_once_asks_for_nothing() -> None:
    written = Written()
    replies = stream(written)
    for _ in range(20):
        replies.due()
        await replies.write(b"reply")
        await asyncio.sleep(USUAL / 20)
    await asyncio.sleep(USUAL)
    assert written.messages == [b"reply"] * 20


@leaping
async def test_what_is_late_asks_before_its_time_is_over_and_is_answered_after() -> None:
    written = Written()
    replies = stream(written)
    replies.due()
    await asyncio.sleep(0.45 * USUAL)
    assert written.messages == []
    await asyncio.sleep(0.45 * USUAL)
    assert written.asked == [LONGEST]
    await replies.write(b"reply")
    assert written.messages[-1] == b"reply"


@leaping
async def test_it_goes_on_asking_while_it_waits() -> None:
    written = Written()
    replies = stream(written)
    replies.due()
    await asyncio.sleep(2.4 * USUAL)
    replies.close()
    assert len(written.asked) == 4


@leaping
async def test_a_message_that_gets_no_reply_counts_until_the_next_one() -> None:
    written = Written()
    replies = stream(written)
    for _ in range(10):
        replies.due()
        await asyncio.sleep(0.3 * USUAL)
    replies.close()
    assert written.messages == []


@leaping
async def test_only_those_that_are_late_ask() -> None:
    patience = Patience(USUAL, LONGEST)
    late, quick = Written(), Written()
    slow, fast = patience.replies(late), patience.replies(quick)
    slow.due()
    for _ in range(9):
        fast.due()
        await asyncio.sleep(USUAL / 10)
        await fast.write(b"reply")
    assert late.asked == [LONGEST]
    assert quick.asked == []
    slow.close()


@leaping
async def test_who_waits_anew_hides_none_that_waits_longer() -> None:
    patience = Patience(USUAL, LONGEST)
    again, late = Written(), Written()
    first, second = patience.replies(again), patience.replies(late)
    first.due()
    second.due()
    await asyncio.sleep(0.4 * USUAL)
    first.due()
    await asyncio.sleep(0.4 * USUAL)
    first.close()
    second.close()
    assert (again.asked, late.asked) == ([], [LONGEST])


@leaping
async def test_the_reply_waits_until_the_order_is_written() -> None:
    written = Written(pace=0.3 * USUAL)
    replies = stream(written)
    replies.due()
    while not written.busy:
        await asyncio.sleep(USUAL / 50)
    await replies.write(b"reply")
    assert len(written.asked) == 1
    assert written.messages[-1] == b"reply"


@leaping
async def test_an_order_that_takes_long_is_not_followed_by_another() -> None:
    written = Written(pace=3 * USUAL)
    replies = stream(written)
    replies.due()
    await asyncio.sleep(2 * USUAL)
    await replies.write(b"reply")
    assert len(written.asked) == 1


@leaping
async def test_the_end_of_a_stream_takes_its_order_with_it(recwarn: pytest.WarningsRecorder) -> None:
    written = Written(pace=USUAL)
    replies = stream(written)
    replies.due()
    while not written.busy:
        await asyncio.sleep(USUAL / 50)
    replies.close()
    await asyncio.sleep(0)
    assert not written.busy
    await asyncio.sleep(2 * USUAL)
    assert written.messages == []


@leaping
async def test_orders_that_cannot_be_written_are_not_heard_of(caplog: pytest.LogCaptureFixture) -> None:
    written = Written(fails=True)
    replies = stream(written)
    replies.due()
    await asyncio.sleep(1.8 * USUAL)
    replies.close()
    gc.collect()
    await asyncio.sleep(0)
    assert not caplog.records


@pytest.mark.parametrize(("usual", "longest"), [(0.1, 0.1), (0.1, 0.05), (0, 0)])
@leaping
async def test_no_time_is_asked_for_where_there_is_no_more(usual: float, longest: float) -> None:
    written = Written()
    replies = stream(written, usual, longest)
    replies.due()
    await asyncio.sleep(0.15)
    await replies.write(b"reply")
    assert written.messages == [b"reply"]


@leaping
async def test_nothing_runs_while_nobody_waits() -> None:
    patience = Patience(USUAL, LONGEST)
    replies = patience.replies(Written())
    replies.due()
    await replies.write(b"reply")
    await asyncio.sleep(USUAL)
    assert patience._timer is None


# ---- in the processor ---------------------------------------------------------------------------------------


class Slow(Pipeline):
    """Takes its time over a body, or fails over it."""

    fails = False

    async def request_body(self, call: Call, body: bytes, end: bool) -> Any:
        await asyncio.sleep(0.8 * USUAL)
        if self.fails:
            raise RuntimeError
        return await super().request_body(call, body, end)


class SlowEnvoy(FakeEnvoy):
    """Takes orders for more time slowly."""

    busy = False

    async def write(self, message: bytes) -> None:
        self.busy = True
        if not ProcessingResponse.FromString(message).WhichOneof("response"):
            await asyncio.sleep(0.5 * USUAL)
        await super().write(message)
        self.busy = False

    async def abort(self, code: grpc.StatusCode, details: str) -> NoReturn:
        assert not self.busy, "ended within a write"
        await super().abort(code, details)


async def serve(envoy: FakeEnvoy, fails: bool = False) -> list[ProcessingResponse]:
    policy = Policy()
    policy.pipeline.__class__ = Slow
    assert isinstance(policy.pipeline, Slow)
    policy.pipeline.fails = fails
    try:
        await ExternalProcessor(policy.pipeline, Patience(USUAL, LONGEST)).process(None, envoy)
    except Aborted:
        assert envoy.aborted is not None
    return [ProcessingResponse.FromString(reply) for reply in envoy.replies]


@leaping
async def test_a_late_decision_is_announced_once_and_then_told() -> None:
    replies = await serve(FakeEnvoy([request().message(), RequestBody(CHAT).message()]))
    assert [reply.WhichOneof("response") for reply in replies] == ["request_headers", None, "request_body"]
    assert replies[1].HasField("override_message_timeout")


@leaping
async def test_a_decision_that_fails_late_ends_the_stream_with_an_error() -> None:
    envoy = SlowEnvoy([request().message(), RequestBody(CHAT).message()])
    replies = await serve(envoy, fails=True)
    assert [reply.WhichOneof("response") for reply in replies] == ["request_headers", None]
    assert envoy.aborted is not None
    assert envoy.aborted[0] is grpc.StatusCode.INTERNAL


@leaping
async def test_a_call_whose_client_leaves_asks_for_nothing() -> None:
    envoy = FakeEnvoy([request().message(), RequestBody(CHAT).message()])
    serving = asyncio.ensure_future(serve(envoy))
    await asyncio.sleep(0.2 * USUAL)
    serving.cancel()
    with pytest.raises(asyncio.CancelledError):
        await serving
    await asyncio.sleep(USUAL)
    assert len(envoy.replies) == 1
