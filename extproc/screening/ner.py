"""A model of names in a process of its own.

spaCy holds the interpreter's lock for as long as it works, and takes more memory than all else of a worker: so each
worker has one child that alone imports it. A child that dies, or does not answer in time, is replaced.
"""

import asyncio
import contextlib
import logging
import math
import os
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, cast

import orjson

from extproc.redaction import names
from extproc.redaction.overlaps import Finding
from extproc.redaction.policy import NameTier
from extproc.redaction.profile import DetectionFailed

log = logging.getLogger(__name__)

_LOAD_S = 120.0
_GRACE_S = 2.0  # beyond its time, for the child to say itself that it was too slow, and to live on
_HEALTHY_AFTER = 5.0  # seconds a child must live for its next death to count as the first
_FIRST_PAUSE = 0.1
_LONGEST_PAUSE = 60.0
_LINE_LIMIT = 1 << 26
_KEPT_VARIABLES = ("HOME", "LANG", "LC_ALL", "LD_LIBRARY_PATH", "PATH", "PYTHONPATH", "TMPDIR", "VIRTUAL_ENV")
_VARIABLES = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}  # there is a child for each worker already

_Spans = list[list[names.LabelledSpan]]


class NamesFailed(DetectionFailed):
    """Names could not be looked for. Its text tells nothing of the texts."""


@dataclass(frozen=True, slots=True, eq=False)
class _Question:
    texts: list[str]
    timeout: float
    deadline: float  # on the loop's clock
    answer: asyncio.Future[_Spans]


class _Child(NamedTuple):
    process: asyncio.subprocess.Process
    questions: asyncio.StreamWriter
    answers: asyncio.StreamReader


class LocalModel:
    """A spaCy model in a child process, which starts with the first call or with `load`, and again when it died."""

    def __init__(self, model: str) -> None:
        """`model` is the name of an installed package, or the folder of a model."""
        self._model = model
        self._keeper: asyncio.Task[None] | None = None
        self._questions: asyncio.Queue[_Question | None] = asyncio.Queue()  # for one child; None: it ended
        self._asked: _Question | None = None  # the one that it works at
        self._settled = asyncio.Event()  # the child is loaded, or there is none
        self._trouble = ""  # why there is none
        self._told = ""  # of that, what the log has since a child was loaded last
        self._loaded_at = 0.0

    async def load(self) -> None:
        """Start the child and wait until it has the model: some seconds. Raises NamesFailed, saying what to do."""
        self._start()
        await self._settled.wait()
        if self._trouble:
            raise NamesFailed(self._trouble)

    async def findings(self, tier: NameTier, texts: Sequence[str]) -> list[list[Finding]]:
        """The names in each of the texts. Raises NamesFailed, after `tier.timeout` at the latest."""
        if sum(map(len, texts)) > tier.max_text:
            raise NamesFailed("too long")
        self._start()
        if self._trouble:
            raise NamesFailed(self._trouble)
        loop = asyncio.get_running_loop()
        deadline = loop.time() + tier.timeout
        question = _Question([names.encodable(text) for text in texts], tier.timeout, deadline, loop.create_future())
        self._questions.put_nowait(question)
        try:
            async with asyncio.timeout_at(deadline):
                spans = await question.answer
        except TimeoutError:
            raise NamesFailed("timeout") from None
        return [names.labelled(tier, some) for some in spans]

    async def close(self) -> None:
        """End the child. Calls raise NamesFailed from now on."""
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
            self._loaded_at = math.inf
            try:
                await self._live()
            except NamesFailed as failed:
                trouble = str(failed)
            except Exception as error:  # whatever it is: were this to end, no name would be found any more
                trouble = f"the model's process failed: {type(error).__name__}"
            if trouble != self._told:
                log.error("names are not found for now: %s", trouble)
                self._told = trouble
            self._give_up(trouble)
            is_healthy = time.monotonic() - self._loaded_at > _HEALTHY_AFTER
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
        child = await _spawn(self._model)
        ended = asyncio.ensure_future(child.process.wait())
        ended.add_done_callback(lambda _: questions.put_nowait(None))
        try:
            await _loaded(child)
            self._told = ""
            self._loaded_at = time.monotonic()
            self._settled.set()
            while (question := await questions.get()) is not None:
                await self._put(child, question)
            raise NamesFailed("the model's process ended")
        finally:
            with contextlib.suppress(ProcessLookupError):
                child.process.kill()
            await ended

    async def _put(self, child: _Child, question: _Question) -> None:
        """Put one question to the child. Raises NamesFailed where the child is of no more use."""
        seconds = question.deadline - asyncio.get_running_loop().time()
        if question.answer.done() or seconds <= 0:
            return
        self._asked = question
        child.questions.write(orjson.dumps({"texts": question.texts, "seconds": seconds}) + b"\n")
        answer = await _answer(child, question.timeout + _GRACE_S)
        if "error" in answer:
            _fail(question, f"the model failed: {answer['error']}")
        elif not question.answer.done():
            question.answer.set_result(answer["spans"])
        self._asked = None  # its texts are the caller's


def _fail(question: _Question | None, trouble: str) -> None:
    if question is not None and not question.answer.done():
        question.answer.set_exception(NamesFailed(trouble))


async def try_out(model: str) -> None:
    """Load a model once, and end its process: some seconds. Raises NamesFailed, saying what to do."""
    child = await _spawn(model)
    try:
        await _loaded(child)
    finally:
        with contextlib.suppress(ProcessLookupError):
            child.process.kill()
        await child.process.wait()


async def _loaded(child: _Child) -> None:
    """Wait until it has the model. Raises NamesFailed."""
    answer = await _answer(child, _LOAD_S)
    if "error" in answer:
        raise NamesFailed(answer["error"])


async def _spawn(model: str) -> _Child:
    """A child. What libraries write to standard error may quote texts, and goes nowhere."""
    kept = {name: os.environ[name] for name in _KEPT_VARIABLES if name in os.environ}
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "extproc.screening.ner_model", model),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.DEVNULL,
        env=kept | _VARIABLES,
        limit=_LINE_LIMIT,
    )
    return _Child(process, cast(asyncio.StreamWriter, process.stdin), cast(asyncio.StreamReader, process.stdout))


async def _answer(child: _Child, patience: float) -> dict[str, Any]:
    """A line of the child's. Raises NamesFailed when none comes."""
    try:
        async with asyncio.timeout(patience):
            line = await child.answers.readline()
    except TimeoutError:
        raise NamesFailed("the model did not answer in time") from None
    if not line:
        raise NamesFailed("the model's process ended")
    answer: dict[str, Any] = orjson.loads(line)
    return answer
