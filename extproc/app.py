"""Composition root of a worker: the only place that constructs stores, pipeline and server."""

import asyncio
import contextlib
import gc
import logging
import os
import random
import signal
import sys
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TypeVar

from extproc.adapter.access_log import AccessLog
from extproc.adapter.external_processor import ExternalProcessor
from extproc.adapter.patience import Patience
from extproc.adapter.server import Server
from extproc.config import routing
from extproc.config.revision import Revision
from extproc.config.schema import MEMORY, Gateway
from extproc.contract import SERVICES_SOCKET, STANDING
from extproc.cooling import Cooler
from extproc.current import Current, models_of
from extproc.holds import Holds
from extproc.pipeline import Pipeline
from extproc.roster import Roster
from extproc.routing.health import Health
from extproc.screening.detection import Detection
from extproc.screening.ner import LocalModel
from extproc.screening.screening import Screening
from extproc.screening.services import Services
from extproc.shadow import Shadows
from extproc.stores import snapshot, spool, sql
from extproc.stores.cooldowns import Cooldowns, MemoryCooldowns
from extproc.stores.counters import Counters
from extproc.stores.memory_counters import MemoryCounters
from extproc.stores.ports import Affinity, AffinityStore, DirectoryStore, StoreUnavailable
from extproc.stores.redis.cooldowns import RedisCooldowns
from extproc.stores.redis.counters import RedisCounters
from extproc.telemetry import metrics
from extproc.telemetry.records import RecordWriter

log = logging.getLogger(__name__)

_SETTLE_WAIT = 5.0  # seconds
SPOOL = "spool"  # in state_dir
_BUS = 10_000  # events that wait on the usage bus of a gateway without Redis
_DETECTION_WAIT = 5.0  # seconds for which the texts of one call may be looked through
_STORE_WAIT = 1.0  # seconds a call waits for the database before it is refused
T = TypeVar("T")


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


async def _publish(pipeline: Pipeline, holds: Holds, journal: RecordWriter, cooler: Cooler, current: Current) -> None:
    """Figures that are cheaper to tell once a second than at every change."""
    while True:
        metrics.IN_FLIGHT.set(pipeline.in_flight)
        metrics.HOLDS_OPEN.set(holds.open)
        metrics.SETTLEMENTS_PENDING.set(holds.pending)
        metrics.SETTLEMENTS_OLDEST.set(holds.oldest)
        metrics.SETTLEMENTS_UNSPOOLED.set(holds.unspooled)
        metrics.SETTLEMENTS_LOST.set(holds.lost)
        metrics.RECORDS_DROPPED.set(journal.dropped)
        metrics.show_backends(cooler.health.conditions(cooler.now()))
        metrics.RETRIES_SPENT.set(not cooler.health.may_retry("", current.catalogue.retry_share, cooler.now()))
        metrics.publish()
        await asyncio.sleep(1)


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


def _on_signal(stop: Callable[[], None]) -> None:
    loop = asyncio.get_running_loop()
    for signum in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(signum, stop)


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
    stores = gateway.stores
    if stores.counters == MEMORY:
        bus = deque[tuple[str, bytes]](maxlen=_BUS)
        return MemoryCounters(lambda: time.time_ns() // 1_000_000, lambda slot, event: bus.append((slot, event)))
    return RedisCounters(stores.counters, stores.counters_wait.total_seconds(), stores.counters_prefix)


def _cooldowns(gateway: Gateway) -> Cooldowns:
    """Those of a gateway without Redis each worker keeps for itself: it learns by a refused attempt."""
    stores = gateway.stores
    if stores.counters == MEMORY:
        return MemoryCooldowns(lambda: time.monotonic_ns() // 1_000_000)
    return RedisCooldowns(stores.counters, stores.counters_wait.total_seconds(), stores.counters_prefix)


def _holds(gateway: Gateway, warns: bool) -> Holds:
    if warns and gateway.limits_refused:
        log.warning("stores.counters: each worker counts up to its part of a limit only: %s", gateway.limits_refused)
    root = gateway.state_dir / SPOOL
    return Holds(_counters(gateway), [spool.begin(root), *spool.inherit(root)], gateway.workers)


def _signing_key(gateway: Gateway) -> bytes | None:
    """What signs the identity that self-hosted backends get. The supervisor has checked that it is there."""
    source = gateway.identity.signing_key
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


def _server(gateway: Gateway, socket: str, pipeline: Pipeline, records: AccessLog) -> Server:
    limits, times = gateway.limits, gateway.timeouts
    patience = Patience(times.policy.total_seconds(), times.policy_longest.total_seconds())
    return Server(
        socket,
        ExternalProcessor(pipeline, patience),
        records,
        largest_body=max(limits.json_request, limits.multipart_request, limits.json_answer),
    )


def _not_ready(roster: Roster, stopping: asyncio.Event) -> str | None:
    if stopping.is_set():
        return "draining"
    return None if roster.loaded else "the keys are not known"


async def _told(roster: Roster, journal: RecordWriter) -> None:
    """Write down the last of what waits to be."""
    with contextlib.suppress(StoreUnavailable):
        await asyncio.to_thread(roster.write_used)
    await asyncio.to_thread(journal.close)
    metrics.publish()


async def run_worker(revision: Revision, socket: str, first: bool, later: "asyncio.Queue[Revision]") -> None:
    """Serve on a Unix socket until SIGTERM or SIGINT; then drain as configured.

    `first`: of several workers, the one that does what only one need do. `later`: configurations that take over; what
    is set here from the first one, they have as it is.
    """
    gateway = revision.gateway
    stores = sql.open_stores(gateway.stores.database)
    roster = _roster(gateway, stores.directory, keeps_snapshot=first)
    journal = RecordWriter()
    holds = _holds(gateway, warns=first)
    stopping = asyncio.Event()
    current = Current(revision, Path(socket).with_suffix(STANDING))

    screening = _screening(models_of(current.catalogue), socket)
    cooler = Cooler(Health(routing.watched(gateway), random.random), _cooldowns(gateway))
    shadows = Shadows(_services_socket(socket), journal, gateway.timeouts.call.total_seconds())
    pipeline = Pipeline(
        catalogue=lambda: current.catalogue,
        roster=roster,
        not_ready=lambda: _not_ready(roster, stopping),
        affinity=ThreadedAffinity(stores.affinity),
        health=cooler.health,
        holds=holds,
        screening=screening,
        journal=journal,
        signing_key=_signing_key(gateway),
        judge=cooler.judge,
        shadows=shadows,
    )
    server = _server(gateway, socket, pipeline, AccessLog(journal, cooler.take))
    _on_signal(stopping.set)
    await screening.open()
    await roster.first_read()  # a worker that knows nobody yet would refuse calls that another one could serve
    background = asyncio.gather(
        *(roster.keep_fresh(), holds.run(), cooler.run(), _publish(pipeline, holds, journal, cooler, current)),
        current.follow(later, screening, lambda newer: cooler.health.configure(routing.watched(newer))),
        current.tell(lambda: pipeline.revisions, screening),
    )
    tune()
    await server.start()
    await stopping.wait()
    await server.stop(gateway.timeouts.drain.total_seconds())
    await _settled(pipeline)
    await _ended(background)
    await holds.close(_SETTLE_WAIT)
    for part in (cooler, shadows, screening):
        await part.close()
    await _told(roster, journal)
    stores.close()
