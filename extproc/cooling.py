"""What a worker knows of the backends' health, kept in step with the other workers behind the calls' back.

Attempts are told to some worker, not to the one whose call it was. So whoever learns something tells the store at
once, and everybody looks there four times a second. While the store is away each worker knows what it saw itself.
"""

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable
from dataclasses import replace

from extproc.routing.attempt import Attempt, Meaning, Why
from extproc.routing.health import Health
from extproc.stores.cooldowns import Cooldowns, CooldownsUnavailable

log = logging.getLogger(__name__)

_LOOK_S = 0.25  # between two looks at what others know
_REMEMBERED = 1_000  # attempts of which Envoy's record is awaited
_BREATH_S = 0.02  # at least, so that a storm of refusals is told in few steps


_TURNED = {
    Why.CIRCUIT_OPEN: "backend %s fails: it gets no calls until one that tries it is answered",
    Why.FAILING: "backend %s answers with errors: it is tried last until one that tries it is answered",
    None: "backend %s answers again",
}
"""What is said when a circuit opens and closes."""


class Cooler:
    """Notes attempts in `health` and shares what it learns. Run `run` for as long as the worker serves.

    Calls ask `health` with `now()`. `elapsed` gives seconds of a clock that is never set back, `clock` Unix time.
    """

    def __init__(
        self,
        health: Health,
        store: Cooldowns,
        elapsed: Callable[[], float] = time.monotonic,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.health = health
        self.now = elapsed
        self._store = store
        self._clock = clock
        self._untold: dict[str, None] = {}  # names of which others should know, oldest first
        self._wanted = asyncio.Event()
        self._is_down = False
        self._failed: dict[tuple[str, str], bool] = {}  # by call and backend, oldest first

    def take(self, attempt: Attempt) -> None:
        """Learn from an attempt, as Envoy tells it. Never waits."""
        if self._failed.pop((attempt.call, attempt.backend), False):
            attempt = replace(attempt, judged=Meaning.NOTHING)
        self._note(attempt)

    def judge(self, attempt: Attempt) -> None:
        """Learn from an attempt whose answer was watched as it flowed. Never waits.

        One that was ended there is for Envoy one of which all went well, as its record will say.
        """
        if attempt.judged is Meaning.FAILED:
            self._failed[attempt.call, attempt.backend] = True
            if len(self._failed) > _REMEMBERED:  # their records went to other workers
                del self._failed[next(iter(self._failed))]
        self._note(replace(attempt, call=""))  # it is counted once

    def _note(self, attempt: Attempt) -> None:
        before = self.health.trouble(attempt.backend)
        self._tell_of(self.health.note(attempt, self.now(), self._clock()))
        after = self.health.trouble(attempt.backend)
        if after is not before:
            log.warning(_TURNED[after], attempt.backend)

    def forget(self, backend: str) -> None:
        """Have calls go to a backend again, from all workers, whatever is known of it. Never waits."""
        self._tell_of(self.health.forget(backend))

    def _tell_of(self, names: list[str]) -> None:
        if names:
            self._untold.update(dict.fromkeys(names))
            self._wanted.set()

    # ---- in the background ----

    async def run(self) -> None:
        """Tell and listen, for ever."""
        while True:
            await self._step()
            await asyncio.sleep(_BREATH_S)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_LOOK_S - _BREATH_S):
                    await self._wanted.wait()

    async def close(self) -> None:
        """Tell what is left to tell, if that is possible at once. After `run`."""
        with contextlib.suppress(CooldownsUnavailable):
            await self._tell()
        await self._store.close()

    async def _step(self) -> None:
        try:
            await self._tell()
            await self._listen()
        except CooldownsUnavailable as trouble:
            self._wanted.clear()  # what is untold is tried again with the next look
            if not self._is_down:
                log.warning("cool-downs are not shared, as their store does not answer: %s", trouble)
            self._is_down = True
        except Exception as error:  # whatever it is: were this to end, nothing would be shared any more
            self._wanted.clear()
            log.error("cool-downs are not shared as they should be: %s", type(error).__name__)
        else:
            if self._is_down:
                log.warning("cool-downs are shared again")
            self._is_down = False

    async def _tell(self) -> None:
        self._wanted.clear()
        names, now = list(self._untold), self.now()
        entries = {name: self.health.entry(name, now) for name in names}
        self._untold.clear()
        try:
            await self._store.drop([name for name, entry in entries.items() if entry is None])
            news = {name: entry for name, entry in entries.items() if entry and entry.wait + entry.keep > 0}
            if news:
                await self._store.put(news)
        except BaseException:
            self._untold = dict.fromkeys([*names, *self._untold])
            raise

    async def _listen(self) -> None:
        entries = await self._store.all()
        if not self._untold:  # else the store's word may be older than ours: the next one counts
            self.health.learn(entries, self.now())
