"""A program beside the worker: what it is asked and answers, and what becomes of calls when it is ill."""

import asyncio
import contextlib
import os
import signal
import sys
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import psutil
import pytest
import uvloop

from extproc import companion
from extproc.companion import Companion, CompanionFailed, try_out

ROOT = Path(__file__).resolve().parents[2]
PROGRAM = "tests.support.companion_program"
PATIENCE = 30.0
HASTY = 0.3


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.setattr(companion, "_FIRST_PAUSE", 0.01)
    monkeypatch.setattr(companion, "_GRACE_S", 0.2)


@pytest.fixture
async def program(tmp_path: Path) -> AsyncIterator[Companion]:
    made = Companion((PROGRAM, str(tmp_path)), "nothing is said")
    try:
        yield made
    finally:
        await made.close()


def children() -> list[int]:
    """The processes of programs."""
    return [child.pid for child in psutil.Process().children() if _is_program(child)]


def _is_program(child: psutil.Process) -> bool:
    with contextlib.suppress(psutil.NoSuchProcess):
        return PROGRAM in child.cmdline()
    return False


async def until(holds: Callable[[], object]) -> None:
    deadline = time.monotonic() + PATIENCE
    while not holds():
        assert time.monotonic() < deadline, "it did not come to pass"
        await asyncio.sleep(0.01)


async def said(program: Companion, text: str, seconds: float = PATIENCE) -> object:
    return (await program.ask({"text": text}, seconds))["said"]


def told(caplog: pytest.LogCaptureFixture) -> list[str]:
    """What it wrote into the log itself."""
    return [record.message for record in caplog.records if record.name == companion.log.name]


async def recovered(program: Companion) -> list[int]:
    """Once it answers again: the processes that there are."""
    deadline = time.monotonic() + PATIENCE
    while True:
        try:
            await program.load()
            assert await said(program, "it Is") == "I"
        except CompanionFailed:
            assert time.monotonic() < deadline
            await asyncio.sleep(0.01)
        else:
            return children()


async def test_each_question_gets_its_answer_from_one_process(program: Companion) -> None:
    texts = ["Ada", "Bob Clara", "nobody", "NOISE"]
    assert await asyncio.gather(*(said(program, text) for text in texts)) == ["A", "BC", "", "NOISE"]
    assert len(children()) == 1


async def test_the_process_has_no_variables_but_a_few(program: Companion, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLUICE_SECRET", "x")
    names = str(await said(program, "VARIABLES")).split()
    assert {"PATH", "OMP_NUM_THREADS"} <= {*names}
    assert "SLUICE_SECRET" not in names


async def test_a_program_that_does_not_get_ready(
    program: Companion, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "broken").write_text("there is no model")
    with pytest.raises(CompanionFailed, match=r"^there is no model$"):
        await program.load()
    with pytest.raises(CompanionFailed, match=r"^there is no model$"):
        await program.ask({"text": "Ada"}, PATIENCE)
    with pytest.raises(CompanionFailed, match=r"^there is no model$"):
        await try_out((PROGRAM, str(tmp_path)))
    await asyncio.sleep(0.1)  # it tries again and again, and says so once
    assert told(caplog) == ["nothing is said for now: there is no model"]
    (tmp_path / "broken").unlink()  # nobody need restart anything
    assert len(await recovered(program)) == 1


async def test_it_is_tried_out_and_ended(tmp_path: Path) -> None:
    await try_out((PROGRAM, str(tmp_path)))
    assert children() == []


async def test_it_cannot_be_started(program: Companion, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", "/nowhere/python")
    with pytest.raises(CompanionFailed, match=r"^the model's process failed: FileNotFoundError$"):
        await program.load()


async def test_it_never_gets_ready(program: Companion, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    os.mkfifo(tmp_path / "broken")  # to open it takes for ever
    monkeypatch.setattr(companion, "_LOAD_S", 0.5)
    with pytest.raises(CompanionFailed, match=r"^the model did not answer in time$"):
        await program.load()


async def test_what_fails_fails_its_call_alone(program: Companion, caplog: pytest.LogCaptureFixture) -> None:
    await program.load()
    before = children()
    with pytest.raises(CompanionFailed, match=r"^the model failed: ValueError$"):
        await said(program, "BAD Ada")
    assert await said(program, "Ada") == "A"
    assert children() == before
    assert told(caplog) == []


async def test_one_that_dies_fails_those_who_wait_and_is_replaced(
    program: Companion, caplog: pytest.LogCaptureFixture
) -> None:
    await program.load()
    before = children()
    slow, *others = await asyncio.gather(
        *(said(program, text) for text in ("SLOW", "DIE Ada", "waits behind")), return_exceptions=True
    )
    assert slow == "SLOW"
    assert [(type(other), str(other)) for other in others] == [(CompanionFailed, "the model's process ended")] * 2
    after = await recovered(program)
    assert len(after) == 1
    assert after != before
    assert told(caplog) == ["nothing is said for now: the model's process ended"]


async def test_one_that_is_killed_while_nobody_asks_is_replaced(program: Companion) -> None:
    await program.load()
    (before,) = children()
    os.kill(before, signal.SIGKILL)
    await until(lambda: before not in children())
    (after,) = await recovered(program)
    assert after != before


async def test_one_that_does_not_answer_is_killed_and_replaced(program: Companion) -> None:
    await program.load()
    (before,) = children()
    with pytest.raises(CompanionFailed, match=r"^timeout$"):
        await said(program, "HANG", HASTY)
    await until(lambda: before not in children())
    (after,) = await recovered(program)
    assert after != before


async def test_a_call_whose_time_is_over_when_its_turn_comes_is_not_asked(program: Companion) -> None:
    await program.load()
    before = children()
    first = asyncio.ensure_future(said(program, "SLOW"))
    await asyncio.sleep(0)
    with pytest.raises(CompanionFailed, match=r"^timeout$"):
        await said(program, "HANG", 0.1)
    assert await first == "SLOW"
    assert await said(program, "Ada") == "A"
    assert children() == before


async def test_a_program_is_told_how_long_it_has(program: Companion) -> None:
    answer = await asyncio.gather(said(program, "SLOW"), program.ask({"text": "TIME"}, PATIENCE))
    assert PATIENCE / 2 < float(str(answer[1]["said"])) <= PATIENCE - 0.3


async def test_a_call_that_is_cancelled_leaves_the_others_alone(program: Companion) -> None:
    await program.load()
    running, waiting = (asyncio.ensure_future(said(program, text)) for text in ("SLOW", "HANG"))
    await asyncio.sleep(0.05)
    running.cancel()
    waiting.cancel()
    assert await said(program, "Ada") == "A"
    assert running.cancelled()
    assert waiting.cancelled()


async def test_closing_ends_the_process_and_the_calls(program: Companion) -> None:
    await program.load()
    calls = [asyncio.ensure_future(said(program, text)) for text in ("HANG", "waits behind")]
    await asyncio.sleep(0.05)
    await program.close()
    assert children() == []
    for call in (*calls, said(program, "Ada"), program.load()):
        with pytest.raises(CompanionFailed, match=r"^closed$"):
            await call
    await program.close()


async def test_closing_what_never_began(program: Companion) -> None:
    await program.close()
    with pytest.raises(CompanionFailed, match=r"^closed$"):
        await said(program, "Ada")
    assert children() == []


def test_the_same_on_the_loop_that_workers_have(tmp_path: Path) -> None:
    async def life() -> None:
        program = Companion((PROGRAM, str(tmp_path)), "nothing is said")
        try:
            assert await said(program, "Ada") == "A"
            with pytest.raises(CompanionFailed, match="ended"):
                await said(program, "DIE")
            await recovered(program)
        finally:
            await program.close()
        assert children() == []

    uvloop.run(life())
