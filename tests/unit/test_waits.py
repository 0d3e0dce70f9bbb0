"""How often a call asks Redis is told from what goes there and when, and one trip too many is found."""

import asyncio
from collections.abc import Sequence

import pytest

from extproc.stores.redis import answers, counters
from loadtest import waits
from loadtest.setups import StartError
from loadtest.waits import Relay, Round


def said(name: str, *words: bytes) -> bytes:
    """A command that runs a step."""
    script = {**counters.scripts(), **answers._scripts()}[name]
    return b"*4\r\n$7\r\nEVALSHA\r\n$40\r\n" + counters._sha(script) + b"\r\n" + b"\r\n".join(words)


def test_steps_of_calls_count_and_what_comes_with_time_does_not() -> None:
    assert waits.is_of_a_call(said("reserve"))
    assert waits.is_of_a_call(said("renew") + said("keep"))
    assert not waits.is_of_a_call(said("renew"))
    assert not waits.is_of_a_call(b"*1\r\n$4\r\nPING\r\n")


def test_the_records_of_envoy_are_no_step_of_a_call() -> None:
    noted = said("settle", b"x:done:attempts.1")
    assert not waits.is_of_a_call(noted)
    assert waits.is_of_a_call(noted + said("settle", b"x:done:1"))


@pytest.mark.parametrize(
    ("moments", "began"),
    [((0.0, 0.001), [0.0]), ((0.0, 0.001, 0.031), [0.0, 0.031]), ((), [])],
    ids=["together", "one after the other", "none"],
)
def test_what_goes_before_any_reply_is_one_trip(moments: Sequence[float], began: Sequence[float]) -> None:
    assert waits.trips([(moment, said("look")) for moment in moments], 0.03) == list(began)


def seen(before: int, after: int) -> Round:
    return Round({"A": 1.0, "B": 2.0, "C": 4.0}, 34.0, before, after)


@pytest.mark.parametrize(
    ("before", "after", "met"), [(1, 1, True), (2, 1, False), (1, 2, False)], ids=["none more", "before", "after"]
)
def test_one_trip_more_is_told_though_it_comes_in_one_round_alone(before: int, after: int, met: bool) -> None:
    found = waits.report([seen(1, 1), seen(1, 1), seen(before, after)])
    assert (found["waited"]["median"], found["added_ms"]["median"]) == (1.0, 3.0)
    assert waits.met(found) is met
    assert ("MISSED" in waits.text(found)) is not met


@pytest.mark.parametrize(("before", "after"), [(0, 1), (1, 0), (0, 0)], ids=["before", "after", "neither"])
def test_rounds_that_saw_nothing_are_no_measurement(before: int, after: int) -> None:
    with pytest.raises(StartError, match="nothing of them was seen"):
        waits.report([seen(before, after)] * 3)


async def test_a_relay_keeps_replies_back_and_notes_what_it_was_asked() -> None:
    async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while told := await reader.read(100):
            writer.write(told)
        writer.close()
        await writer.wait_closed()

    async with await asyncio.start_server(echo, "127.0.0.1") as redis:
        relay = Relay(f"redis://127.0.0.1:{redis.sockets[0].getsockname()[1]}/0")
        async with await relay.start() as server:
            reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname()[:2])
            took = []
            for delay in (0.0, 0.2):
                relay.delay, began = delay, asyncio.get_running_loop().time()
                writer.write(b"ask")
                assert await reader.readexactly(3) == b"ask"
                took.append(asyncio.get_running_loop().time() - began)
            writer.close()
            await writer.wait_closed()
            await relay.closed()
    assert took[1] >= 0.19
    assert [told for _, told in relay.asked] == [b"ask", b"ask"]
