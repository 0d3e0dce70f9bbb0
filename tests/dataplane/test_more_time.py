"""Decisions that take longer than Envoy waits by itself: it is asked for more time, and gives it up to a bound."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from typing import Any

import httpx
import pytest
import pytest_asyncio

from tests.support.fake import FakeProvider
from tests.support.waiting import WaitingGateway

pytestmark = pytest.mark.asyncio(loop_scope="module")

USUAL, LONGEST = 0.8, 2.4
GIVEN = ".*override_message_timeout_received"
TIMEOUTS = "http.gateway.ext_proc.message_timeouts"


@pytest.fixture(scope="module")
def provider() -> Iterator[FakeProvider]:
    with FakeProvider() as running:
        yield running


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def gateway(provider: FakeProvider) -> AsyncIterator[WaitingGateway]:
    running = WaitingGateway(provider.url(), {"timeouts": {"policy": USUAL, "policy_longest": LONGEST}})
    async with running.serving():
        yield running


async def given(gateway: WaitingGateway, **body: Any) -> tuple[httpx.Response, int, int]:
    """The answer to a call; how often Envoy gave more time for it, and how often it gave up."""
    before = await gateway.stat(GIVEN), await gateway.stat(TIMEOUTS)
    answer = await gateway.chat(**body)
    return answer, await gateway.stat(GIVEN) - before[0], await gateway.stat(TIMEOUTS) - before[1]


async def test_a_call_without_delay_asks_for_none(gateway: WaitingGateway) -> None:
    crowd = await asyncio.gather(*(gateway.chat(x_policy={"mode": mode}) for mode in ("NONE", "BUFFERED", "STREAMED")))
    assert {answer.status_code for answer in crowd} == {200}
    assert await gateway.stat(".*override_message_timeout_.*") == 0


@pytest.mark.parametrize(
    ("message", "mode"),
    [("request_body", "NONE"), ("response_headers", "NONE"), ("response_body", "BUFFERED")],
)
async def test_a_late_decision_is_waited_for(gateway: WaitingGateway, message: str, mode: str) -> None:
    answer, more, timeouts = await given(gateway, x_policy={"wait": {message: 2 * USUAL}, "mode": mode})
    assert (answer.status_code, more, timeouts) == (200, 1, 0)
    assert answer.json()["choices"]


async def test_each_message_of_a_call_has_its_own_time(gateway: WaitingGateway) -> None:
    wait = dict.fromkeys(("request_body", "response_headers", "response_body"), 2 * USUAL)
    answer, more, timeouts = await given(gateway, x_policy={"wait": wait, "mode": "BUFFERED"})
    assert (answer.status_code, more, timeouts) == (200, 3, 0)


async def test_a_decision_that_takes_too_long_even_so_refuses_the_call(
    gateway: WaitingGateway, provider: FakeProvider
) -> None:
    provider.reset()
    wait = {"request_body": USUAL + LONGEST + 2}
    answer, more, timeouts = await given(gateway, x_policy={"wait": wait, "mode": "NONE"})
    assert (answer.status_code, more, timeouts) == (504, 1, 1)
    assert answer.json()["error"]["code"] == "gateway_error"
    assert not provider.calls()


@pytest.mark.parametrize("pace", [1000, 4, 1.5], ids=["at once", "quick", "slow"])
async def test_a_stream_goes_on_while_one_of_its_events_is_judged(gateway: WaitingGateway, pace: float) -> None:
    """Every further event makes Envoy forget how much time it gave, so it is asked again and again."""
    answer, more, timeouts = await given(
        gateway,
        stream=True,
        x_fake={"tokens_per_second": pace, "events": 4},
        x_policy={"wait": {"response_body": LONGEST}, "mode": "STREAMED"},
    )
    assert (answer.status_code, timeouts) == (200, 0)
    assert answer.content.endswith(b"data: [DONE]\n\n")
    assert more >= 1


async def test_nothing_of_a_stream_passes_that_waits_too_long(gateway: WaitingGateway) -> None:
    """Whether the head of the answer was with the client by then is a matter of luck."""
    before = await gateway.stat(TIMEOUTS)
    wait = {"response_body": USUAL + LONGEST + 2}
    try:
        answer = await gateway.chat(stream=True, x_policy={"wait": wait, "mode": "STREAMED"})
    except httpx.RemoteProtocolError:
        pass
    else:
        assert answer.status_code == 504
        assert b"data:" not in answer.content
    assert await gateway.stat(TIMEOUTS) == before + 1


async def test_a_caller_who_leaves_while_his_call_waits_harms_no_other(gateway: WaitingGateway) -> None:
    waiting = asyncio.ensure_future(gateway.chat(x_policy={"wait": {"request_body": 2 * USUAL}, "mode": "NONE"}))
    await asyncio.sleep(0.75 * USUAL)
    waiting.cancel()
    await asyncio.gather(waiting, return_exceptions=True)
    answer, _, timeouts = await given(gateway, x_policy={"wait": {"request_body": 2 * USUAL}, "mode": "NONE"})
    assert (answer.status_code, timeouts) == (200, 0)
