"""What the calls of one worker have reserved, and how it is settled without delaying them or losing any of it.

A call waits for one step, its reservation. How it ended is noted here and goes to the store behind its back: written to
the spool first, then tried until the store has it. A settlement is known by its hold, so to say it twice does no
harm; therefore whatever is in doubt (a store that came back, a worker that died) is simply said again. So are the
holds of calls that run: the store is told in turn which they are, and given those back that it does not have.
"""

import asyncio
import contextlib
import logging
import math
import random
import time
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, replace
from itertools import chain

from extproc.ahead import Ahead
from extproc.limits.hold import Hold
from extproc.outage import Outage
from extproc.stages.budget import SLOT
from extproc.stores.counters import GRACE, Answer, Counters, CountersUnavailable, Draw, MemoryLost, Reading
from extproc.stores.disk import Disk
from extproc.stores.memory_counters import MemoryCounters
from extproc.stores.spool import Begun, Settlement, Spool
from extproc.telemetry import metrics

log = logging.getLogger(__name__)

LIFE = 60_000
"""How long, in milliseconds, a hold lives without its worker."""

_MOST_PENDING = 10_000  # settlements in memory; the others wait in the spool
_DISK_S = 0.005  # for which a settlement waits for the spool: a disk that hangs may not make limits look spent
_BEGUN_S = 0.005  # for which calls that begin wait for others, to be written together
_GATHER_S = 0.004  # between two writes: what comes meanwhile is written together, as each wakes the spool's thread
_AT_ONCE, _LEAST_AT_ONCE = 128, 16  # settlements that are under way together: fewer where the store was too slow
_PAUSE_S = (0.05, 1.0)  # before a second try, and the most before any
_AGAIN_AT_ONCE, _BREATH_S = 32, 0.01  # the same of what is said again, and a pause, for the sake of live calls
_LOOK_S = 0.25  # between two looks whether the connection is another one
_RENEW_S = 1.0  # between two renewals, each of a part of the holds, and the most until a lost memory is noticed
_KEEP_S = 1.0  # between two notes of how far the store is
_DOUBT_MS = 60_000  # what a fail-over may have lost at most
_PATIENCE_S = 2.0  # for an answer at the end, when no call waits: a store that is slow then shall have all
_NOTE_S = 1.0  # in the end, for how far the store is


def _wall_ms() -> int:
    return time.time_ns() // 1_000_000


async def _for_ever(step: Callable[[], Awaitable[float]]) -> None:
    """Take one step after the other, with a pause of as many seconds as each says."""
    while True:
        try:
            pause = await step()
        except Exception as error:  # whatever it is: were this to end, nothing would be settled any more
            log.error("holds are not looked after as they should be: %s", type(error).__name__)
            pause = _PAUSE_S[1]
        await asyncio.sleep(pause)


class _Pace:
    """How long to wait before the next try, in seconds."""

    def __init__(self) -> None:
        self._pause = _PAUSE_S[0]

    def after(self, success: bool) -> float:
        if success:
            self._pause = _PAUSE_S[0]
            return 0.0
        pause, self._pause = self._pause, min(2 * self._pause, _PAUSE_S[1])
        return pause * random.uniform(0.5, 1)  # noqa: S311 - lest all workers come back at once


@dataclass(slots=True)
class _Open:
    """A hold of a call that runs, and what it has by now: its draws in their order, then what it was extended by."""

    hold: Hold
    draws: tuple[Draw, ...]

    def extended(self, draws: Sequence[Draw]) -> None:
        more = {draw.counter.key: draw for draw in draws}
        kept = [more.pop(draw.counter.key, draw) for draw in self.draws]
        self.draws = (*kept, *more.values())


class Holds:
    """The holds of one worker of `workers`. Run `run` for as long as it serves, `close` it at the end.

    Where each worker has a store of its own, in memory, each counts up to its part of every capacity: an equal one,
    rounded down, but never 0 of what is not 0, so that a limit below the number of workers may be passed up to that.
    `spools`: our own first, then those of workers that died. `life` in milliseconds. `clock` tells Unix time in
    milliseconds. `unspooled` counts settlements that the spool could not take, `lost` those that nobody has.
    """

    def __init__(
        self,
        counters: Counters,
        spools: Sequence[Spool],
        workers: int = 1,
        life: int = LIFE,
        clock: Callable[[], int] = _wall_ms,
    ) -> None:
        self._counters = counters
        self._spool, *self._inherited = spools
        self._workers = workers
        self._splits = workers > 1 and isinstance(counters, MemoryCounters)
        self._life = life
        self._clock = clock
        self._untold = deque(self._inherited)  # of which nobody has told yet which calls did not end
        self._alone = MemoryCounters(clock)  # while the store is down
        self._ending: set[asyncio.Task[None]] = set()  # what is settled in it
        self._open: dict[str, _Open] = {}
        self._turn: deque[str] = deque()  # of those, whose lives are to be renewed next
        self._disk = Disk("spool")  # of our own: that of the event loop may wait for a database
        self._written = self._spool.end
        self._fresh: list[Settlement] = []  # not in the spool yet
        self._begun: list[Begun] = []  # likewise
        self._pending: deque[Settlement] = deque()  # not in the store yet
        self._flying: list[Settlement] = []  # on their way there
        self._unwritten, self._wanted = asyncio.Event(), asyncio.Event()  # something is fresh, or pending
        self._noted: asyncio.Future[None] | None = None  # the disk is done with some, or takes too long
        self._to_write = self._tried = 0  # how many settlements ever were fresh, and are no longer
        self._again = {spool: (spool.taken, spool.end) for spool in self._inherited}  # what is said again of spools
        self._doubted: dict[Spool, int] = {}  # since when all of a spool is to be said again, too
        self._settling, self._repeating = _Pace(), _Pace()
        self._at_once = _AT_ONCE
        self._pause = min(_RENEW_S, life / 8000)
        self._due = 0.0  # when holds are to be renewed, by the monotonic clock
        self._connections = 0
        self._since = max(spool.since for spool in spools)  # when the store began to remember, 0 where nobody knows
        self._hurry = 0.0  # until when a store is told what it lost, and not trusted, by the monotonic clock
        self._outage = Outage("counters")
        self.unspooled = self.lost = 0

    # ---- for calls ----

    async def reserve(self, hold: Hold) -> Answer:
        """Take all draws of a hold, or none, in one step of the store.

        While the store is down: by this worker's own count, where every limit that is enforced allows it; the
        readings are then those of the stakes. Raises CountersUnavailable where one does not. Where a worker
        counts up to its part of a limit, what the others may use is told as used.
        """
        draws = hold.draws
        try:
            asked = self._asked(hold, draws)
            answer = await self._counters.reserve(SLOT, hold.id, asked, self._life, self._since, hold.note)
        except CountersUnavailable as trouble:
            answer = await self._reserve_alone(hold, draws, trouble)
        else:
            self._outage.end()
            if self._splits:
                answer = self._told(answer, draws)
        if answer.granted:
            self._open[hold.id] = _Open(hold, draws)
        return answer

    async def extend(self, hold: Hold, draws: Sequence[Draw]) -> Answer:
        """Take more for a hold: `units` are what it shall have in all. While the store is down as `reserve`."""
        if hold.local:
            answer = self._told(await self._alone.extend(SLOT, hold.id, self._shares(hold, draws), self._life), draws)
        else:
            try:
                answer = await self._extend(hold, draws)
            except CountersUnavailable as trouble:
                answer = await self._reserve_alone(hold, draws, trouble)
        if answer.granted and hold.id in self._open:
            self._open[hold.id].extended(draws)
        return answer

    def settle(self, hold: Hold, draws: Sequence[Draw], event: bytes) -> None:
        """Put what was used in place of what is held, and tell the usage bus. Never waits, never raises.

        A hold may be settled that was refused, or of which nobody knows whether it was reserved.
        """
        self._open.pop(hold.id, None)
        if hold.local:
            task = asyncio.ensure_future(self._settle_alone(hold, draws))  # it waits for nothing
            self._ending.add(task)
            task.add_done_callback(self._ending.discard)
        self._note(Settlement(hold.id, tuple(draws), event, self._clock()))

    def begun(self, name: str, note: bytes) -> None:
        """Note a call that is about to be sent: if we die before its end, who inherits the spool tells of it. Never
        waits, never raises."""
        if not self._begun:
            asyncio.get_running_loop().call_later(_BEGUN_S, self._unwritten.set)
        if len(self._begun) < _MOST_PENDING:
            self._begun.append(Begun(name, note, self._clock()))

    def tell(self, name: str, event: bytes) -> None:
        """Tell the usage bus something that no limit counts, under a name of its own. Never waits, never raises."""
        settlement = Settlement(name, (), event, self._clock())
        if isinstance(self._counters, MemoryCounters):  # which has nothing to count: the spool is the usage bus
            self._write_soon(settlement)
        else:
            self._note(settlement)

    def _note(self, settlement: Settlement) -> None:
        if len(self._pending) >= _MOST_PENDING and not self._spill():  # neither the store takes any, nor the disk
            self.lost += 1
            return
        self._pending.append(settlement)
        self._wanted.set()
        self._write_soon(settlement)

    def _write_soon(self, settlement: Settlement) -> None:
        if len(self._fresh) < _MOST_PENDING:
            self._fresh.append(settlement)
            self._to_write += 1
            self._unwritten.set()
        else:
            self.unspooled += 1

    async def _extend(self, hold: Hold, draws: Sequence[Draw]) -> Answer:
        """Where it is refused, once more after the store has what the hold had: it may have closed or forgotten it."""
        asked = self._asked(hold, draws)
        answer = await self._counters.extend(SLOT, hold.id, asked, self._life, self._since)
        if not answer.granted and hold.id in self._open:
            await self._retake(hold.id)
            answer = await self._counters.extend(SLOT, hold.id, asked, self._life, self._since)
        return self._told(answer, draws) if self._splits else answer

    async def _retake(self, name: str) -> None:
        """Let the store have again what an open hold has."""
        known = self._open.get(name)
        if known is not None:  # else its call has ended meanwhile
            draws = self._asked(known.hold, known.draws)
            await self._counters.retake(SLOT, name, draws, self._life, known.hold.note)

    async def _reserve_alone(self, hold: Hold, draws: Sequence[Draw], trouble: CountersUnavailable) -> Answer:
        """Raises the trouble where a limit does not allow to go on without the store."""
        metrics.count(metrics.COUNTERS_ERRORS)
        self._due = 0.0  # look what is the matter
        if not isinstance(trouble, MemoryLost):
            self._outage.begin(trouble)
        if not all(stake.limit.allow_on_error for stake in hold.stakes if stake.draw.counter.enforced):
            raise trouble
        hold.local = True
        answer = await self._alone.reserve(SLOT, hold.id, self._shares(hold, draws), self._life)
        metrics.count(metrics.LIMITS_LOCAL)
        return self._told(answer, draws)

    def _asked(self, hold: Hold, draws: Sequence[Draw]) -> Sequence[Draw]:
        """What the store is asked for: of one that is this worker's alone no more than its part."""
        if not self._splits:
            return draws
        return (*self._shares(hold, draws), *[draw for draw in draws if draw is hold.once])

    def _shares(self, hold: Hold, draws: Sequence[Draw]) -> tuple[Draw, ...]:
        """The draws on this worker's own part of each counter. Repeats of a call are not looked for by one alone."""
        once = hold.once.counter.key if hold.once is not None else None
        return tuple(
            draw._replace(counter=replace(draw.counter, capacity=self._share(draw.counter.capacity)))
            for draw in draws
            if draw.counter.key != once
        )

    def _share(self, capacity: int) -> int:
        return max(capacity // self._workers, min(capacity, 1))

    def _told(self, answer: Answer, draws: Sequence[Draw]) -> Answer:
        """Readings of this worker's parts, in terms of the whole. `once` stands last, if it was asked for at all."""
        readings = [_of_all(reading, draw, self._share) for reading, draw in zip(answer.readings, draws, strict=False)]
        return Answer(answer.granted, tuple(readings))

    async def _settle_alone(self, hold: Hold, draws: Sequence[Draw]) -> None:
        with contextlib.suppress(ValueError):  # which is told of when it goes to the store
            await self._alone.settle(SLOT, hold.id, self._shares(hold, draws))

    # ---- for metrics ----

    @property
    def open(self) -> int:
        """Holds of calls that have not ended."""
        return len(self._open)

    @property
    def pending(self) -> int:
        """Settlements that the store has not taken yet, as far as they are in memory."""
        return len(self._flying) + len(self._pending)

    @property
    def oldest(self) -> float:
        """For how many seconds the oldest of them has been waiting."""
        first = next(chain(self._flying, self._pending), None)
        return 0.0 if first is None else max(0, self._clock() - first.at) / 1000

    # ---- in the background ----

    async def run(self) -> None:
        """Settle, keep holds alive, and say again what may have been lost; for ever."""
        steps = (self._write_next, self._settle_next, self._tend_next, self._repeat_next, self._keep_next)
        await asyncio.gather(self._tell_of_the_dead(), *[_for_ever(step) for step in steps])

    async def close(self, within: float) -> None:
        """Settle what is pending, for so many seconds at most; what then is left stays in the spool. After `run`."""
        self._counters.be_patient(min(_PATIENCE_S, within))
        for last, patience in ((self._settle_last, within), (self._keep_spools, _NOTE_S)):
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(patience):
                    await last()
        self._tell_of_the_rest()
        self._disk.close()
        for spool in self._spools:
            spool.close()
        await self._counters.close()

    async def _tell_of_the_dead(self) -> None:
        """Tell the usage bus of the calls that ended with the workers whose spools we inherited."""
        while self._untold:
            begun, last = list[Begun](), 0
            try:
                begun, last = await self._disk.do(self._untold[0].unended)
            except OSError as error:
                log.error("calls of a worker that died cannot be read from its spool: %s", error.strerror)
            for one in begun:
                self.tell(f"lost.{one.name}", b'{"kind":"lost","ended":%d,%b' % (max(last, one.at), one.note[1:]))
            self._untold.popleft()

    async def _write_next(self) -> float:
        await self._unwritten.wait()
        await self._write()
        return _GATHER_S

    async def _write(self) -> None:
        """Put what is fresh into the spool."""
        fresh, begun = list(self._fresh), self._begun
        self._begun = []
        if fresh or begun:
            some: list[Settlement | Begun] = [*begun, *fresh]
            try:
                await self._disk.do(self._spool.write, some)
            except OSError as error:
                log.warning("settlements could not be written to the spool: %s", error.strerror)
                self.unspooled += len(fresh)
            del self._fresh[: len(fresh)]
            self._tried += len(fresh)
            self._written = self._spool.end
        if not self._fresh:
            self._unwritten.clear()
        _tell(self._noted)

    def _spill(self) -> bool:
        """Leave the oldest to the spool, as there are too many in memory; False where it is not there."""
        at_byte = self._pending[0].at_byte
        if at_byte is None:
            return False
        self._pending.popleft()
        self._say_again(self._spool, at_byte)
        return True

    async def _settle_next(self) -> float:
        await self._wanted.wait()
        return self._settling.after(await self._settle_some())

    async def _settle_last(self) -> None:
        await asyncio.gather(self._write(), self._settle_all())

    async def _settle_all(self) -> None:
        """What is pending, and what was left to our own spool as it was too much for memory."""
        while self.pending:
            if not await self._settle_some():
                await asyncio.sleep(_PAUSE_S[0])
        while self._spool in self._again:
            self._again = {self._spool: self._again[self._spool], **self._again}  # before those of others
            if not await self._repeat_some(_AT_ONCE):
                await asyncio.sleep(_PAUSE_S[0])

    def _tell_of_the_rest(self) -> None:
        """What stays behind goes with the disk that it is on, if that goes: somebody should know."""
        kept = sum(one.at_byte is not None for one in self._pending)
        more = "at least " if self._spool in self._again else ""
        if kept or more:
            told = "the store of the counters did not take all in time: %s%d settlements stay in the spool %s"
            log.error(told, more, kept, self._spool.path)
        if lost := self.pending - kept:
            self.lost += lost
            log.error("%d settlements are lost: neither the store of the counters took them, nor the spool", lost)

    async def _settle_some(self) -> bool:
        """Settle the oldest that are pending; False where the store did not take all."""
        await self._wait_for_the_disk()
        self._flying = [self._pending.popleft() for _ in range(min(self._at_once, len(self._pending)))]
        try:
            self._flying = await self._take(self._flying)
        finally:
            left, self._flying = self._flying, []
            self._pending.extendleft(reversed(left))
        if not self._pending:
            self._wanted.clear()
        self._at_once = max(_LEAST_AT_ONCE, self._at_once // 2) if left else min(2 * self._at_once, _AT_ONCE)
        return not left

    async def _wait_for_the_disk(self) -> None:
        """Until what is pending is in the spool, if that takes no longer than usual."""
        wanted, loop = self._to_write, asyncio.get_running_loop()
        until = loop.time() + _GATHER_S + _DISK_S
        while self._tried < wanted and loop.time() < until:
            self._noted = noted = loop.create_future()
            late = loop.call_at(until, _tell, noted)
            await noted
            late.cancel()

    async def _take(self, settlements: Sequence[Settlement]) -> list[Settlement]:
        """Have the store take them, all at once; those that it did not take."""
        if not settlements:
            return []
        *others, last = settlements
        asked = [Ahead(self._is_taken(settlement)) for settlement in others]
        left = [] if await self._is_taken(last) else [last]  # it leaves with the others
        return [*[settlement for settlement, taken in zip(others, asked, strict=True) if not await taken], *left]

    async def _is_taken(self, settlement: Settlement) -> bool:
        try:
            ago = max(0, self._clock() - settlement.at)
            await self._counters.settle(SLOT, settlement.hold, settlement.draws, settlement.event, ago)
        except CountersUnavailable as trouble:
            metrics.count(metrics.COUNTERS_ERRORS)
            self._outage.begin(trouble)
            return False
        except Exception as error:  # whatever it is: it may not hold up the others for ever
            log.error("a settlement cannot be booked: %s", type(error).__name__)
            self.lost += 1
        return True

    # ---- holds live on, and a store that came back is told what it lost ----

    async def _tend_next(self) -> float:
        is_new = self._counters.connections != self._connections
        now = time.monotonic()
        if is_new or now >= self._due:
            try:
                await self._tend(list(self._open) if is_new else self._next_to_renew())
            except CountersUnavailable as trouble:
                self._outage.begin(trouble)
            else:
                self._outage.end()
                self._due = now + self._pause
        return min(_LOOK_S, self._pause)

    def _next_to_renew(self) -> list[str]:
        """So many that all have their turn within a quarter of a life: few at a time disturb nobody."""
        if not self._turn:
            self._turn.extend(self._open)
        most, names = math.ceil(len(self._open) * self._pause * 4000 / self._life), list[str]()
        while self._turn and len(names) < most:
            name = self._turn.popleft()
            if name in self._open:
                names.append(name)
        return names

    async def _tend(self, names: Sequence[str]) -> None:
        """Let open holds live on, give back those that the store lacks, and look whether it is the one that it was."""
        await self._alone.renew(SLOT, names, self._life)
        told = await self._counters.renew(SLOT, names, self._life, self._since)
        if told.since != self._since:  # then it knows none of the others either
            told = await self._counters.renew(SLOT, list(self._open), self._life, told.since)
        self._doubt(told.since)
        for at in range(0, len(told.gone), _AGAIN_AT_ONCE):
            await asyncio.gather(*[self._retake(name) for name in told.gone[at : at + _AGAIN_AT_ONCE]])
        await self._counters.expire(SLOT)

    def _doubt(self, since: int) -> None:
        """Have said again what another store than before may lack: all where it lost its memory, else the last."""
        connections = self._counters.connections
        if self._since not in (0, since):
            expected = isinstance(self._counters, MemoryCounters)  # with every start
            log.log(
                logging.INFO if expected else logging.WARNING,
                "the store of the counters has lost its memory: the last hour is told to it again; "
                "for %d s `on_error` of the limits decides",
                GRACE // 1000,
            )
            self._hurry = time.monotonic() + GRACE / 1000
        is_first = not self._since and self._spool.is_empty  # it has lost none of ours: there were none
        for spool in self._inherited if is_first else self._spools:
            if spool.since != since:
                self._doubted[spool] = 0
            elif connections != self._connections:
                self._doubted.setdefault(spool, self._clock() - _DOUBT_MS)
        for spool in self._spools:
            spool.since = since
        self._since, self._connections = since, connections

    def _say_again(self, spool: Spool, begin: int) -> None:
        """Settle all that a spool has from there on once more."""
        earlier, _ = self._again.get(spool, (begin, 0))
        self._again[spool] = min(begin, earlier), spool.end

    async def _repeat_next(self) -> float:
        while self._doubted:
            spool, when = next(iter(self._doubted.items()))
            self._say_again(spool, await self._disk.do(spool.position_of, when))
            if self._doubted[spool] == when:  # not more by now
                del self._doubted[spool]
        if not self._again:
            return _LOOK_S
        is_urgent = time.monotonic() < self._hurry
        success = await self._repeat_some(_AT_ONCE if is_urgent else _AGAIN_AT_ONCE)
        return self._repeating.after(success) + (0.0 if is_urgent else _BREATH_S)

    async def _repeat_some(self, most: int) -> bool:
        """Settle the next that are to be said again; False where the store did not take all."""
        spool, (begin, end) = next(iter(self._again.items()))
        try:
            some, then = await self._disk.do(spool.read, begin, end, most)
        except OSError as error:
            log.error("settlements cannot be read from the spool: %s", error.strerror)
            some, then = [], end
        if isinstance(self._counters, MemoryCounters):
            some = [one for one in some if one.draws]  # what nothing is counted of would only be remembered
        if await self._take(some):
            return False
        since_then, end = self._again[spool]
        if since_then < begin:  # more was asked for meanwhile
            return True
        if then < end:
            self._again[spool] = then, end
        else:
            del self._again[spool]
        return True

    # ---- spools ----

    @property
    def _spools(self) -> list[Spool]:
        return [self._spool, *self._inherited]

    def _taken_up_to(self, spool: Spool) -> int:
        """Up to where the store is known to have all of a spool."""
        end = self._written if spool is self._spool else spool.end
        places = [self._again[spool][0]] if spool in self._again else []
        if spool in self._doubted:
            places.append(spool.first)
        if spool is self._spool:
            waiting = chain(self._flying, self._pending)
            places += [next((one.at_byte for one in waiting if one.at_byte is not None), end)]
        return min(places, default=end)

    async def _keep_next(self) -> float:
        await self._keep_spools()
        return _KEEP_S

    async def _keep_spools(self) -> None:
        """Note how far the store is, and let go of what is old."""
        for spool in [spool for spool in self._spools if spool not in self._untold]:
            await self._disk.do(spool.keep, self._taken_up_to(spool), self._clock())
        repeated = self._again.keys() | self._doubted.keys()
        for spool in [spool for spool in self._inherited if spool.is_empty and spool not in repeated]:
            self._inherited.remove(spool)
            await self._disk.do(spool.discard)


def _tell(waiting: asyncio.Future[None] | None) -> None:
    if waiting is not None and not waiting.done():
        waiting.set_result(None)


def _of_all(reading: Reading, draw: Draw, share: Callable[[int], int]) -> Reading:
    """A reading of a worker's part, with the parts of the others as used."""
    capacity = draw.counter.capacity
    return reading._replace(used=reading.used + capacity - share(capacity))
