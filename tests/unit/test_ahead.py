"""Work that is begun at once and awaited later: the same results, errors and ends as of a task, and no task."""

import asyncio

import pytest

from extproc.ahead import Ahead


async def asked(future: "asyncio.Future[str]", told: list[str]) -> str:
    told.append("asked")
    try:
        first = await future
        await asyncio.sleep(0)
        told.append("answered")
        return f"{first}!"
    except asyncio.CancelledError:
        told.append("cancelled")
        raise
    finally:
        told.append("ended")


def future() -> "asyncio.Future[str]":
    return asyncio.get_running_loop().create_future()


async def test_it_begins_at_once() -> None:
    told: list[str] = []
    answer = future()
    ahead = Ahead(asked(answer, told))
    assert told == ["asked"]
    answer.set_result("yes")
    assert await ahead == "yes!"
    assert told == ["asked", "answered", "ended"]


async def test_what_it_waits_for_comes_later() -> None:
    answer = future()
    ahead = Ahead(asked(answer, []))
    asyncio.get_running_loop().call_later(0.01, answer.set_result, "late")
    assert await ahead == "late!"


async def test_what_never_waits() -> None:
    async def at_once() -> int:
        return 7

    assert await Ahead(at_once()) == 7


async def test_several_wait_side_by_side_without_a_task_of_their_own() -> None:
    answers = [future() for _ in range(5)]
    before = len(asyncio.all_tasks())
    aheads = [Ahead(asked(answer, [])) for answer in answers]
    for number, answer in enumerate(reversed(answers)):
        asyncio.get_running_loop().call_later(0.002 * number, answer.set_result, str(number))
    assert [await ahead for ahead in aheads] == ["4!", "3!", "2!", "1!", "0!"]
    assert len(asyncio.all_tasks()) == before


async def test_an_error_comes_where_it_is_awaited() -> None:
    async def fails(late: bool) -> None:
        if late:
            await asyncio.sleep(0)
        raise ValueError("told")

    for late in (False, True):
        ahead = Ahead(fails(late))
        with pytest.raises(ValueError, match="told"):
            await ahead


async def test_who_is_cancelled_while_waiting_cancels_it() -> None:
    told: list[str] = []

    async def waits() -> None:
        await Ahead(asked(future(), told))

    async with asyncio.timeout(5):
        task = asyncio.ensure_future(waits())
        await asyncio.sleep(0.01)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
    assert told == ["asked", "cancelled", "ended"]


async def test_left_alone_it_goes_on() -> None:
    told: list[str] = []
    answer = future()
    ahead = Ahead(asked(answer, told))
    ahead.leave()
    answer.set_result("yes")
    async with asyncio.timeout(5):
        while told[-1] != "ended":
            await asyncio.sleep(0)
    assert told == ["asked", "answered", "ended"]
    ahead.leave()  # there is nothing left
