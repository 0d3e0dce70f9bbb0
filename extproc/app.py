"""Composition root of a worker: the only place that constructs stores, pipeline and server."""

import asyncio
import contextlib
import gc
import logging
import os
import random
import secrets
import signal
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, TypeVar

from extproc.adapter.access_log import AccessLog
from extproc.adapter.external_processor import ExternalProcessor
from extproc.adapter.patience import Patience
from extproc.adapter.server import NOTICE, Server
from extproc.admission import Admission
from extproc.answers import Answers
from extproc.cache.agreement import agree
from extproc.cache.policy import MOST_LARGEST, CacheRules
from extproc.config import routing
from extproc.config.fields import LocalSecret
from extproc.config.revision import Revision
from extproc.config.schema import Gateway
from extproc.config.stores import MEMORY
from extproc.contract import DRAINING, SERVICES_SOCKET, STANDING, WITHOUT_NOTICE
from extproc.cooling import Cooler
from extproc.current import Current, models_of
from extproc.exports import Exports
from extproc.holds import Holds
from extproc.neighbours import Neighbours
from extproc.pipeline import Pipeline
from extproc.ports import Journal
from extproc.presence import Presence
from extproc.roster import Roster
from extproc.routing.health import Health
from extproc.screening.detection import Detection
from extproc.screening.embedding import ServiceEmbedder
from extproc.screening.ner import LocalModel
from extproc.screening.screening import Screening
from extproc.screening.services import Services
from extproc.semantic.embedding import Embedder, EmbeddingFailed
from extproc.semantic.local import LocalEmbedder
from extproc.shadow import Shadows
from extproc.stores import snapshot, spool, sql
from extproc.stores.answers import AnswerStore
from extproc.stores.cooldowns import Cooldowns, MemoryCooldowns
from extproc.stores.counters import Counters
from extproc.stores.memory_answers import MemoryAnswers
from extproc.stores.memory_counters import MemoryCounters
from extproc.stores.memory_neighbours import MemoryNeighbours
from extproc.stores.neighbours import NeighbourStore
from extproc.stores.ports import Affinity, AffinityStore, DirectoryStore, StoreUnavailable
from extproc.telemetry import calls, metrics
from extproc.telemetry.configured import Declared

log = logging.getLogger(__name__)

_SETTLE_WAIT = 5.0  # seconds
_BOOK_WAIT = 20.0  # seconds until the store has what calls used: a pod takes with it what is in the spool alone
_NEIGHBOURS = 64 * 2**20  # bytes of questions that have been answered
_DETECTION_WAIT = 5.0  # seconds for which the texts of one call may be looked through
_NEW_SERIES = 20  # in one turn of the loop, for which calls wait
_STORE_WAIT = 1.0  # seconds a call waits for the database before it is refused
T = TypeVar("T")
Later = asyncio.Queue[Revision]
Serves = Callable[..., Server]


class ThreadedAffinity:
    """The affinity store, called in a thread and never waited for longer than a second."""

    def __init__(self, store: AffinityStore) -> None:
        self._store = store

    async def recall(self, ids: Sequence[str]) -> Mapping[str, Affinity]:
        return await _bounded(lambda: self._store.recall(ids))

    async def remember(self, ids: Sequence[str], backend: str, model: str, owner: str) -> None:
        await _bounded(lambda: self._store.remember(ids, backend, model, owner))


async def _settled(pipeline: Pipeline) -> None:
    """Wait until the last calls have told their records: the server stops a moment before they do."""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(_SETTLE_WAIT):
            while pipeline.in_flight:  # noqa: ASYNC110 - once in a worker's life
                await asyncio.sleep(0.01)


async def _ended(background: "asyncio.Future[T]") -> None:
    background.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await background


async def _publish(
    pipeline: Pipeline,
    admission: Admission,
    holds: Holds,
    exports: Exports,
    cooler: Cooler,
    current: Current,
    roster: Roster,
) -> None:
    """Figures that are cheaper to tell once a second than at every change."""
    declared = Declared()
    while True:
        _declare(declared, current, roster)
        metrics.IN_FLIGHT.set(pipeline.in_flight)
        metrics.WAIT.set(admission.longest())
        metrics.HOLDS_OPEN.set(holds.open)
        metrics.SETTLEMENTS_PENDING.set(holds.pending)
        metrics.SETTLEMENTS_OLDEST.set(holds.oldest)
        metrics.reach(metrics.SETTLEMENTS_UNSPOOLED, holds.unspooled)
        metrics.reach(metrics.SETTLEMENTS_LOST, holds.lost)
        exports.publish()
        metrics.show_backends(cooler.health.conditions(cooler.now()))
        metrics.RETRIES_SPENT.set(not cooler.health.may_retry("", current.catalogue.retry_share, cooler.now()))
        calls.STANDINGS.show(time.time_ns() // 1_000_000)
        metrics.publish(_NEW_SERIES)
        await asyncio.sleep(1)


def _declare(declared: Declared, current: Current, roster: Roster) -> None:
    with contextlib.suppress(StoreUnavailable):
        teams = roster.current().teams
        limits = (limit for team in teams.values() for limit in team.limits)
        declared.go_on(current.catalogue, limits, (current.catalogue.revision, id(teams)))


async def _bounded(work: Callable[[], T]) -> T:
    try:
        return await asyncio.wait_for(asyncio.to_thread(work), _STORE_WAIT)
    except TimeoutError:
        raise StoreUnavailable("the database did not answer in time") from None


def tune() -> None:
    """Set the interpreter for a process in which one thread serves calls and others must not hold it up."""
    gc.collect()
    gc.freeze()  # what is loaded now stays: no collection need look at it again
    gc.set_threshold(10_000, 20, 20)  # a call makes hundreds of objects, one or two of them in cycles: look seldom
    sys.setswitchinterval(0.001)  # seconds that another thread may keep the calls waiting; Python's own is 5 ms


class _Stopping(asyncio.Event):
    """Set by a signal; `notice` is for how many seconds Envoy is told, which may have been stopped before."""

    notice = NOTICE

    def listen(self) -> None:
        loop = asyncio.get_running_loop()
        for signum in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(signum, self.set)
        loop.add_signal_handler(WITHOUT_NOTICE, self._at_once)

    def _at_once(self) -> None:
        self.notice = 0.0
        self.set()


def _roster(gateway: Gateway, store: DirectoryStore, keeps_snapshot: bool) -> Roster:
    outage = gateway.identity.store_outage
    file = gateway.state_dir / snapshot.FILE if outage.snapshot else None
    return Roster(
        store,
        quickstart=gateway.keys.quickstart,
        serve_for=outage.serve_for.total_seconds() if outage.on_error == "deny" else None,
        start_from=file,
        saved=file if keeps_snapshot else None,
    )


def _counters(gateway: Gateway) -> Counters:
    """Of a gateway without Redis the spools are the usage bus."""
    stores = gateway.stores
    if stores.counters == MEMORY:
        return MemoryCounters(lambda: time.time_ns() // 1_000_000)
    from extproc.stores.redis.counters import RedisCounters  # 60 ms of a start that others need not spend

    return RedisCounters(stores.counters, stores.counters_wait.total_seconds(), stores.counters_prefix)


def _cooldowns(gateway: Gateway) -> Cooldowns:
    """Those of a gateway without Redis each worker keeps for itself: it learns by a refused attempt."""
    stores = gateway.stores
    if stores.counters == MEMORY:
        return MemoryCooldowns(lambda: time.monotonic_ns() // 1_000_000)
    from extproc.stores.redis.cooldowns import RedisCooldowns

    return RedisCooldowns(stores.counters, stores.counters_wait.total_seconds(), stores.counters_prefix)


def _holds(gateway: Gateway, warns: bool) -> Holds:
    if warns and gateway.limits_refused:
        log.warning("stores.counters: each worker counts up to its part of a limit only: %s", gateway.limits_refused)
    root = gateway.state_dir / spool.FOLDER
    return Holds(_counters(gateway), [spool.begin(root), *spool.inherit(root)], gateway.workers)


def _answer_store(gateway: Gateway) -> AnswerStore:
    stores, size = gateway.stores, int(gateway.cache.size)
    if stores.answers_at == MEMORY:
        return MemoryAnswers(lambda: time.time_ns() // 1_000_000, size)
    from extproc.stores.redis.answers import RedisAnswers

    return RedisAnswers(stores.answers_at, stores.counters_wait.total_seconds(), stores.counters_prefix, size)


def _answers(gateway: Gateway) -> Answers | None:
    """What is kept for calls that ask the same; also where no call is looked up yet, as that may change."""
    key = _key(gateway.cache.key)
    if key is None and gateway.stores.answers_at != MEMORY:
        return None  # nobody may look there without one
    return Answers(_answer_store(gateway), key or secrets.token_bytes(32), MOST_LARGEST)


def _neighbour_store(gateway: Gateway) -> NeighbourStore:
    stores = gateway.stores
    size = min(int(gateway.cache.size), _NEIGHBOURS)
    if stores.answers_at == MEMORY:
        return MemoryNeighbours(lambda: time.time_ns() // 1_000_000, size)
    from extproc.stores.redis.neighbours import RedisNeighbours

    return RedisNeighbours(stores.answers_at, stores.counters_wait.total_seconds(), stores.counters_prefix, size)


async def _neighbours(
    gateway: Gateway, rules: CacheRules, key: bytes, socket: str, journal: Journal
) -> Neighbours | None:
    """What finds questions in other words; None where nothing makes vectors."""
    tier = gateway.cache.semantic
    embedder: Embedder
    if tier.service is not None and tier.service_model is not None:
        services = Services(_services_socket(socket), metrics.count_service)
        embedder = ServiceEmbedder(services, tier.service, tier.service_model)
    elif tier.model is not None:
        embedder = local = LocalEmbedder(tier.model)
        if rules.is_semantic:
            try:
                await local.load()  # a first call would not wait so long
            except EmbeddingFailed as failed:
                log.error("no question is found in other words: %s", failed)
    else:
        return None
    return Neighbours(_neighbour_store(gateway), embedder, agree, journal, key)


@dataclass(frozen=True, slots=True)
class _Cache:
    """What is kept for calls that ask the same, or the same in other words; None where that cannot be."""

    answers: Answers | None
    neighbours: Neighbours | None

    async def run(self) -> None:
        """What either does for as long as the worker serves."""
        await asyncio.gather(*[part.run() for part in (self.answers, self.neighbours) if part is not None])

    async def close(self) -> None:
        if self.answers is not None:
            await self.answers.close(_SETTLE_WAIT)
        if self.neighbours is not None:
            await self.neighbours.close()


async def _cache(gateway: Gateway, rules: CacheRules, socket: str, journal: Journal) -> _Cache:
    answers = _answers(gateway)
    if answers is None:
        return _Cache(None, None)
    return _Cache(answers, await _neighbours(gateway, rules, answers.key, socket, journal))


def _key(source: LocalSecret | None) -> bytes | None:
    """A key that the supervisor has checked to be there."""
    if source is None:
        return None
    if source.file is not None:
        return source.file.read_bytes().rstrip(b"\r\n")
    return os.environb[os.fsencode(source.env or "")]


def _screening(models: set[str], socket: str) -> Screening:
    services = Services(_services_socket(socket), metrics.count_service)
    return Screening(Detection(_DETECTION_WAIT, {name: LocalModel(name) for name in models}, services), services)


def _services_socket(socket: str) -> str:
    """Where a worker with this socket asks Envoy for what is outside."""
    return str(Path(socket).with_name(SERVICES_SOCKET))


def _server(
    serves: Serves,
    gateway: Gateway,
    socket: str,
    pipeline: Pipeline,
    exports: Exports,
    cooler: Cooler,
    holds: Holds,
) -> Server:
    limits, times, traces = gateway.limits, gateway.timeouts, gateway.telemetry.traces
    of_envoy = exports.traces if traces is not None and traces.envoy else None
    patience = Patience(times.policy.total_seconds(), times.policy_longest.total_seconds())
    return serves(
        socket,
        ExternalProcessor(pipeline, patience, traced=of_envoy is not None),
        AccessLog(exports.journal, cooler.take, holds.tell, exports.traces),
        largest_body=max(limits.json_request, limits.multipart_request, limits.json_answer),
        spans=None if of_envoy is None else of_envoy.forward,
    )


def _not_ready(roster: Roster, stopping: asyncio.Event, admission: Admission, draining: Path) -> str | None:
    """`draining`: is there while the gateway is drained, and this worker serves on."""
    if stopping.is_set() or draining.exists() or admission.closed:
        return "draining"
    return None if roster.loaded else "the keys are not known"


class _Part(Protocol):
    async def close(self) -> None: ...


async def _told(roster: Roster, holds: Holds, parts: Iterable[_Part]) -> None:
    """Book what calls have used, close the parts, and write down the last of what waits to be."""
    await holds.close(_BOOK_WAIT)
    for part in parts:
        await part.close()
    with contextlib.suppress(StoreUnavailable):
        await asyncio.to_thread(roster.write_used)
    metrics.publish()


async def _served(server: Server, stopping: _Stopping, drain: float, pipeline: Pipeline) -> None:
    """Serve until told to stop, and then for so many seconds at most."""
    tune()
    await server.start()
    await stopping.wait()
    await server.stop(drain, stopping.notice)
    await _settled(pipeline)


async def run_worker(revision: Revision, socket: str, first: bool, later: Later, serves: Serves = Server) -> None:
    """Serve on a Unix socket until a signal; then drain as configured.

    `first`: of several workers, the one that does what only one need do. `later`: configurations that take over; what
    is set here from the first one, they have as it is. `serves`: makes the server.
    """
    gateway = revision.gateway
    stores = sql.open_stores(gateway.stores.database)
    roster = _roster(gateway, stores.directory, keeps_snapshot=first)
    exports = Exports(gateway)
    holds = _holds(gateway, warns=first)
    stopping = _Stopping()
    current = Current(revision, Path(socket).with_suffix(STANDING))
    admission = Admission()
    screening = _screening(models_of(current.catalogue), socket)
    cooler = Cooler(Health(routing.watched(gateway), random.random), _cooldowns(gateway))
    cache = await _cache(gateway, current.catalogue.cache, socket, exports.journal)
    shadows = Shadows(_services_socket(socket), exports.journal, gateway.timeouts.call.total_seconds())
    pipeline = Pipeline(
        catalogue=lambda: current.catalogue,
        roster=roster,
        not_ready=lambda: _not_ready(roster, stopping, admission, Path(socket).with_name(DRAINING)),
        affinity=ThreadedAffinity(stores.affinity),
        health=cooler.health,
        holds=holds,
        screening=screening,
        journal=exports.journal,
        signing_key=_key(gateway.identity.signing_key),
        judge=cooler.judge,
        shadows=shadows,
        answers=cache.answers,
        neighbours=cache.neighbours,
        traces=exports.traces,
        admission=admission,
    )
    server = _server(serves, gateway, socket, pipeline, exports, cooler, holds)
    stopping.listen()
    await screening.open()
    await roster.first_read()  # a worker that knows nobody yet would refuse calls that another one could serve
    background = asyncio.gather(
        *(roster.keep_fresh(), holds.run(), cooler.run(), cache.run()),
        Presence(Path(socket), admission, pipeline.break_off).run(),
        _publish(pipeline, admission, holds, exports, cooler, current, roster),
        current.follow(later, screening, lambda newer: cooler.health.configure(routing.watched(newer))),
        current.tell(lambda: pipeline.revisions, screening),
    )
    await _served(server, stopping, gateway.timeouts.drain.total_seconds(), pipeline)
    await _ended(background)
    await _told(roster, holds, (cache, cooler, shadows, screening, exports))
    stores.close()
