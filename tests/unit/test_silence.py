"""When an answer counts as stalled: only while somebody waits for the backend, and nobody else can be why."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from extproc.adapter.silence import Watch
from extproc.call import Silence
from tests.support.leaping import hold_up, leaping

SHORT_S = 0.05
LONG_S = 10.0


class Ended:
    """What is done about silence: how often it began, and, with `hangs`, that it is never done."""

    def __init__(self, hangs: bool = False, fails: bool = False) -> None:
        self._hangs, self._fails = hangs, fails
        self.times = 0
        self.began = asyncio.Event()

    async def __call__(self) -> None:
        self.times += 1
        self.began.set()
        if self._fails:
            raise ConnectionError
        if self._hangs:
            await asyncio.Event().wait()


@asynccontextmanager
async def watching(ended: Ended, room: int = 1_000, seconds: float = SHORT_S) -> AsyncIterator[Watch]:
    watch = Watch(Silence(seconds, room), ended)
    try:
        yield watch
    finally:
        await watch.close()


async def soon(value: str, seconds: float = 0.0) -> str:
    await asyncio.sleep(seconds)
    return value


@leaping
async def test_silence_ends_the_answer_once() -> None:
    ended = Ended()
    async with watching(ended) as watch:
        assert await watch.wait(soon("late", 6 * SHORT_S)) == "late"
        assert watch.is_over
        await watch.wait(soon("later", 6 * SHORT_S))
    assert ended.times == 1


@leaping
async def test_it_can_be_ended_at_once_but_not_while_something_is_done_with_what_came() -> None:
    ended = Ended()
    watch = Watch(None, ended)
    watch.end()
    assert not watch.is_over
    waiting = asyncio.ensure_future(watch.wait(ended.began.wait()))
    await asyncio.sleep(0)
    watch.end()
    watch.end()
    assert watch.is_over
    assert await waiting
    await watch.close()
    assert ended.times == 1


@leaping
async def test_each_message_begins_it_anew() -> None:
    ended = Ended()
    async with watching(ended, seconds=0.4) as watch:
        for _ in range(8):
            await watch.wait(soon("", 0.1))
        assert not watch.is_over
    assert ended.times == 0


@leaping
async def test_time_that_we_take_ourselves_is_none_of_it() -> None:
    ended = Ended()
    async with watching(ended) as watch:
        await watch.wait(soon(""))
        await asyncio.sleep(6 * SHORT_S)
        assert not watch.is_over
        await watch.wait(ended.began.wait())
    assert ended.times == 1, "it is watched again when somebody waits again"


@pytest.mark.parametrize("stopped", ["by the room", "by its end", "never begun"])
@leaping
async def test_nobody_is_blamed_where_it_cannot_be_told(stopped: str) -> None:
    ended = Ended()
    async with watching(ended, room=100) as watch:
        if stopped == "by the room":
            watch.passed(60)
            watch.passed(60)
        elif stopped == "by its end":
            watch.stop()
        else:
            watch = Watch(None, ended)
        await watch.wait(soon("", 6 * SHORT_S))
        assert not watch.is_over
        await watch.close()


@leaping
async def test_all_the_room_may_be_taken() -> None:
    ended = Ended()
    async with watching(ended, room=100) as watch:
        watch.passed(100)
        await watch.wait(ended.began.wait())


@leaping
async def test_what_came_while_the_loop_was_held_up_is_read_first() -> None:
    """As gRPC hands it over: some turns of the loop after the first in which it could."""
    ended = Ended()
    heard = asyncio.get_running_loop().create_future()

    async def pass_on() -> None:
        for _ in range(5):
            await asyncio.sleep(0)
        heard.set_result("came in time")

    async with watching(ended) as watch:
        waiting = asyncio.ensure_future(watch.wait(heard))
        await asyncio.sleep(0)
        passing = asyncio.ensure_future(pass_on())
        hold_up(4 * SHORT_S)
        assert await waiting == "came in time"
        await passing
        assert not watch.is_over
        await watch.wait(ended.began.wait())


@leaping
async def test_an_end_that_cannot_be_told_is_given_up_with_the_stream() -> None:
    ended = Ended(hangs=True)
    async with asyncio.timeout(LONG_S), watching(ended) as watch:
        await watch.wait(ended.began.wait())
        assert watch.is_over


@leaping
async def test_an_end_that_fails_leaves_the_reading_alone() -> None:
    ended = Ended(fails=True)
    async with watching(ended) as watch:
        await watch.wait(ended.began.wait())
        assert await watch.wait(soon("on")) == "on"
