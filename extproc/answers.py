"""The answers that a worker gives again: kept in a store, sealed, and asked for once where many ask the same.

Of the calls that ask the same at the same time the first of a worker looks into the store, and claims the answer there
where no other worker has. Whoever has the claim asks a backend; the others wait until the answer is there, or it is
known that it will not be: then each goes its own way.
"""

import asyncio
import itertools
import logging
import secrets
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from extproc import beside
from extproc.cache.entry import Entry, seal, unseal
from extproc.cache.lookup import Offer
from extproc.outage import Outage
from extproc.stores.answers import AnswerStore, AnswersUnavailable, Found
from extproc.telemetry import metrics

log = logging.getLogger(__name__)

CLAIM_MS = 3_000
"""How long a claim is good for that nobody renews: so long calls wait for a worker that was killed."""
_RENEW_S = CLAIM_MS / 3000
_RENEWED = 200
"""Claims that are renewed at once: one after the other they would run out where there are many."""
_LOOK_S = (0.02, 0.1)
"""Between two looks whether another worker has the answer: at first, and at most."""
_MOST_KEEPING = 64
"""Answers of a worker that are just being sealed and kept; a further one is not."""


@dataclass(eq=False, slots=True)
class _Flight:
    """Calls of this worker that ask the same, until one of them has an answer, or will have none."""

    digest: str
    claim: str
    leads: bool = False  # the claim is in force
    epoch: int | None = None  # of the look of its first call
    landed: asyncio.Future[Entry | None] = field(default_factory=lambda: asyncio.get_running_loop().create_future())


def _wall_ms() -> int:
    return time.time_ns() // 1_000_000


class Seat:
    """The place of one call. `epoch`: of a look before it was sent, without which nothing may be kept."""

    def __init__(self, answers: "Answers", digest: str, flight: _Flight | None, is_first: bool) -> None:
        self._answers = answers
        self._digest = digest
        self._flight = flight
        self._epoch: int | None = None
        self._offered = False
        self.is_first = is_first
        self.follows = False  # another worker makes the answer

    async def look(self) -> Entry | None:
        """What the store has. Where it does not answer it has nothing."""
        flight = self._flight
        found = await self._answers.found(self._digest, flight.claim if flight is not None else "")
        if found is None:
            return None
        self._epoch = found.epoch
        if flight is not None:
            flight.leads, flight.epoch, self.follows = found.leads, found.epoch, found.made_by_another
            if found.leads and flight.landed.done():  # the call has ended meanwhile
                self._answers.release(flight)
        entry = await self._answers.opened(self._digest, found)
        if entry is not None:
            self._answers.land(flight, entry)
        return entry

    async def wait(self, seconds: float) -> Entry | None:
        """The answer that another call is making; None where that comes to nothing, or takes longer."""
        flight = self._flight
        if flight is None:
            return None
        try:
            async with asyncio.timeout(seconds):
                if not self.is_first:
                    return await asyncio.shield(flight.landed)
                entry = await self._answers.made(self._digest)
        except TimeoutError:
            entry = None
        finally:
            self._epoch = flight.epoch  # whoever goes alone now may keep what it gets
        if self.is_first:
            self.follows = False
            self._answers.land(flight, entry)
        return entry

    def offer(self, offer: Offer) -> None:
        """Keep the answer, and give it to those who wait. Never blocks, never raises."""
        self._offered = True
        self._answers.keep(self._digest, self._flight if self.is_first else None, self._epoch, offer)

    def leave(self) -> None:
        """Whoever waits for the answer waits in vain, unless it has been offered."""
        if self.is_first and not self._offered:
            self._answers.land(self._flight, None)


class Answers:
    """All that is kept, as one worker sees it. Run `run` for as long as it serves."""

    def __init__(self, store: AnswerStore, key: bytes, largest: int, clock: Callable[[], int] = _wall_ms) -> None:
        """`key` seals. `largest`: bytes of an answer that may be opened. `clock` tells Unix time in milliseconds."""
        self._store = store
        self.key = key
        self._largest = largest
        self.now = clock
        self._flights: dict[str, _Flight] = {}
        self._working: set[asyncio.Task[None]] = set()
        self._outage = Outage("answers")
        self._name = secrets.token_hex(12)  # of this worker, in its claims
        self._numbers = itertools.count()

    def seat(self, digest: str, shares: bool = True) -> Seat:
        """A place for a call. `shares`: it waits for the answer to another, and others may wait for its own."""
        if not shares:
            return Seat(self, digest, None, is_first=True)
        flight = self._flights.get(digest)
        if flight is not None:
            return Seat(self, digest, flight, is_first=False)
        flight = self._flights[digest] = _Flight(digest, f"{self._name}{next(self._numbers):x}")
        return Seat(self, digest, flight, is_first=True)

    async def run(self) -> None:
        """Keep the claims of calls that are under way; for ever."""
        while True:
            await asyncio.sleep(_RENEW_S)
            leading = [flight for flight in self._flights.values() if flight.leads]
            for at in range(0, len(leading), _RENEWED):
                await asyncio.gather(*[self._renew(flight) for flight in leading[at : at + _RENEWED]])

    async def _renew(self, flight: _Flight) -> None:
        try:
            flight.leads = await self._store.renew(flight.digest, flight.claim, CLAIM_MS)
        except AnswersUnavailable:
            metrics.count(metrics.CACHE_ERRORS, "renew")

    async def close(self, within: float) -> None:
        """Keep what is just being kept, for so many seconds at most."""
        if self._working:
            await asyncio.wait(self._working, timeout=within)
        await self._store.close()

    # ---- for seats ----

    async def found(self, digest: str, claim: str) -> Found | None:
        """What the store says; None where it says nothing."""
        try:
            found = await self._store.look(digest, claim, CLAIM_MS if claim else 0)
        except AnswersUnavailable as trouble:
            metrics.count(metrics.CACHE_ERRORS, "look")
            self._outage.begin(trouble)
            return None
        self._outage.end()
        return found

    async def opened(self, digest: str, found: Found) -> Entry | None:
        """The entry that was found, if it is one."""
        sealed = found.sealed
        if sealed is None:
            return None
        entry = await beside.loop(len(sealed), unseal, sealed, digest, self.key, self._largest)
        if entry is None:
            metrics.count(metrics.CACHE_ERRORS, "unseal")
        return entry

    async def made(self, digest: str) -> Entry | None:
        """What another worker makes, as soon as it is kept; None once nobody makes it any more."""
        pause, most = _LOOK_S
        while True:
            await asyncio.sleep(pause)
            pause = min(2 * pause, most)
            found = await self.found(digest, "")
            if found is None or (found.sealed is None and not found.made_by_another):
                return None
            if found.sealed is not None:
                return await self.opened(digest, found)

    def land(self, flight: _Flight | None, entry: Entry | None) -> None:
        """Tell those who wait. Without an answer the claim ends, too."""
        if flight is None or flight.landed.done():
            return
        flight.landed.set_result(entry)
        del self._flights[flight.digest]
        if entry is None and flight.leads:
            self.release(flight)

    def release(self, flight: _Flight) -> None:
        """Let another make the answer."""
        self._store.give_back(flight.digest, flight.claim)

    def keep(self, digest: str, flight: _Flight | None, epoch: int | None, offer: Offer) -> None:
        """See Seat.offer."""
        if len(self._working) >= _MOST_KEEPING:
            metrics.count(metrics.CACHE_ERRORS, "busy")
            self.land(flight, None)
            return
        task = asyncio.ensure_future(self._kept(digest, flight, epoch, offer))
        self._working.add(task)
        task.add_done_callback(self._working.discard)

    # ---- in the background ----

    async def _kept(self, digest: str, flight: _Flight | None, epoch: int | None, offer: Offer) -> None:
        entry: Entry | None = None
        is_kept = False
        try:
            made = await beside.loop(offer.size, offer.make)
            if isinstance(made, str):
                metrics.count(metrics.CACHE_UNKEPT, offer.labels.model, made)
                return
            entry = made
            if epoch is None:
                return
            sealed = await beside.loop(offer.size, seal, entry, digest, self.key)
            claim = flight.claim if flight is not None and flight.leads else ""
            is_kept = await self._store.keep(digest, sealed, offer.labels, offer.life, epoch, claim)
        except AnswersUnavailable:
            metrics.count(metrics.CACHE_ERRORS, "keep")
        except Exception as error:  # of an answer that nobody expected: it is not kept, and the call has been served
            log.error("an answer could not be kept: %s", type(error).__name__)
        finally:
            self.land(flight, entry)
        if not is_kept or entry is None:
            return
        self.land(self._flights.get(digest), entry)  # others may be waiting for one that is slower
        if offer.then is not None:
            try:
                await offer.then(entry)
            except Exception as error:  # as above: its text may hold that of the answer
                log.error("a kept answer could not be learned from: %s", type(error).__name__)
