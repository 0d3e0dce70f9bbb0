"""A program beside the worker that holds a model, and answers one line of JSON to each line of JSON.

For what holds the interpreter's lock for long, or takes more memory than all else of a worker. The program says `{}`
once it is ready, and `{"error": ...}` for whatever fails. One that dies, or does not answer in time, is replaced.
"""

import asyncio
import contextlib
import logging
import math
import os
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, cast

import orjson

from extproc.interpreter import python

log = logging.getLogger(__name__)

_LOAD_S = 120.0
_GRACE_S = 2.0  # beyond its time, for the program to say itself that it was too slow, and to live on
_HEALTHY_AFTER = 5.0  # seconds it must live for its next death to count as the first
_FIRST_PAUSE = 0.1
_LONGEST_PAUSE = 60.0
_LINE_LIMIT = 1 << 26
_KEPT_VARIABLES = (
    "HOME",
    "LANG",
    "LC_ALL",
    "LD_LIBRARY_PATH",
    "PATH",
    "PYTHONPATH",
    "PYTHONSAFEPATH",
    "TMPDIR",
    "VIRTUAL_ENV",
)
_VARIABLES = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}  # there is one for each worker already


class CompanionFailed(Exception):
    """There is no answer. Its text tells nothing of what was asked."""


@dataclass(frozen=True, slots=True, eq=False)
class _Question:
    asked: dict[str, Any]
    seconds: float
    deadline: float  # on the loop's clock
    answer: asyncio.Future[dict[str, Any]]


class _Child(NamedTuple):
    process: asyncio.subprocess.Process
    questions: asyncio.StreamWriter
    answers: asyncio.StreamReader


class Companion:
    """The program starts with the first question or with `load`, and again when it died."""

    def __init__(self, words: Sequence[str], purpose: str) -> None:
        """`words`: a module and its arguments. `purpose`: what is not done while there is none, for the log."""
        self._words = words
        self._purpose = purpose
        self._keeper: asyncio.Task[None] | None = None
        self._questions: asyncio.Queue[_Question | None] = asyncio.Queue()  # for one child; None: it ended
        self._asked: _Question | None = None  # the one that it works at
        self._settled = asyncio.Event()  # the child is ready, or there is none
        self._trouble = ""  # why there is none
        self._told = ""  # of that, what the log has since a child was ready last
        self._ready_at = 0.0

    async def load(self) -> None:
        """Start it and wait until it is ready. Raises CompanionFailed, saying what to do."""
        self._start()
        await self._settled.wait()
        if self._trouble:
            raise CompanionFailed(self._trouble)

    async def ask(self, question: dict[str, Any], seconds: float) -> dict[str, Any]:
        """The answer. Raises CompanionFailed, after so many seconds at the latest.

        The program is told as well how many `seconds` are left when its turn comes.
        """
        self._start()
        if self._trouble:
            raise CompanionFailed(self._trouble)
        loop = asyncio.get_running_loop()
        asked = _Question(question, seconds, loop.time() + seconds, loop.create_future())
        self._questions.put_nowait(asked)
        try:
            async with asyncio.timeout_at(asked.deadline):
                return await asked.answer
        except TimeoutError:
            raise CompanionFailed("timeout") from None

    async def close(self) -> None:
        """End it. Questions raise CompanionFailed from now on."""
        self._give_up("closed")
        if self._keeper is not None:
            self._keeper.cancel()
            await asyncio.gather(self._keeper, return_exceptions=True)

    # ---- the child's lives ----

    def _start(self) -> None:
        if self._keeper is None and not self._trouble:
            self._keeper = asyncio.ensure_future(self._keep())

    async def _keep(self) -> None:
        pause = _FIRST_PAUSE
        while True:
            self._ready_at = math.inf
            try:
                await self._live()
            except CompanionFailed as failed:
                trouble = str(failed)
            except Exception as error:  # whatever it is: were this to end, nothing would be answered any more
                trouble = f"the model's process failed: {type(error).__name__}"
            if trouble != self._told:
                log.error("%s for now: %s", self._purpose, trouble)
                self._told = trouble
            self._give_up(trouble)
            is_healthy = time.monotonic() - self._ready_at > _HEALTHY_AFTER
            pause = _FIRST_PAUSE if is_healthy else min(pause * 2, _LONGEST_PAUSE)
            await asyncio.sleep(pause)

    def _give_up(self, trouble: str) -> None:
        self._trouble = trouble
        self._settled.set()
        _fail(self._asked, trouble)
        self._asked = None
        while not self._questions.empty():
            _fail(self._questions.get_nowait(), trouble)
        self._questions = asyncio.Queue()

    async def _live(self) -> None:
        """One child from its start to its end, which is told by an exception."""
        questions = self._questions
        self._trouble = ""
        self._settled.clear()
        child = await _spawn(self._words)
        ended = asyncio.ensure_future(child.process.wait())
        ended.add_done_callback(lambda _: questions.put_nowait(None))
        try:
            await _ready(child)
            self._told = ""
            self._ready_at = time.monotonic()
            self._settled.set()
            while (question := await questions.get()) is not None:
                await self._put(child, question)
            raise CompanionFailed("the model's process ended")
        finally:
            with contextlib.suppress(ProcessLookupError):
                child.process.kill()
            await ended

    async def _put(self, child: _Child, question: _Question) -> None:
        """Put one question to the child. Raises CompanionFailed where the child is of no more use."""
        seconds = question.deadline - asyncio.get_running_loop().time()
        if question.answer.done() or seconds <= 0:
            return
        self._asked = question
        child.questions.write(orjson.dumps(question.asked | {"seconds": seconds}) + b"\n")
        answer = await _answer(child, question.seconds + _GRACE_S)
        if "error" in answer:
            _fail(question, answer["error"])
        elif not question.answer.done():
            question.answer.set_result(answer)
        self._asked = None  # what was asked is the caller's


def _fail(question: _Question | None, trouble: str) -> None:
    if question is not None and not question.answer.done():
        question.answer.set_exception(CompanionFailed(trouble))


async def try_out(words: Sequence[str]) -> None:
    """Start a program once, and end it as soon as it is ready. Raises CompanionFailed, saying what to do."""
    child = await _spawn(words)
    try:
        await _ready(child)
    finally:
        with contextlib.suppress(ProcessLookupError):
            child.process.kill()
        await child.process.wait()


async def _ready(child: _Child) -> None:
    answer = await _answer(child, _LOAD_S)
    if "error" in answer:
        raise CompanionFailed(answer["error"])


async def _spawn(words: Sequence[str]) -> _Child:
    """A child. What libraries write to standard error may quote texts, and goes nowhere."""
    kept = {name: os.environ[name] for name in _KEPT_VARIABLES if name in os.environ}
    process = await asyncio.create_subprocess_exec(
        *python(*words),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.DEVNULL,
        env=kept | _VARIABLES,
        limit=_LINE_LIMIT,
    )
    return _Child(process, cast(asyncio.StreamWriter, process.stdin), cast(asyncio.StreamReader, process.stdout))


async def _answer(child: _Child, patience: float) -> dict[str, Any]:
    """A line of the child's. Raises CompanionFailed when none comes."""
    try:
        async with asyncio.timeout(patience):
            line = await child.answers.readline()
    except TimeoutError:
        raise CompanionFailed("the model did not answer in time") from None
    if not line:
        raise CompanionFailed("the model's process ended")
    answer: dict[str, Any] = orjson.loads(line)
    return answer
