"""Running a gateway's processes in order, for `up` and `serve`."""

import asyncio
import contextlib
import fcntl
import logging
import os
import signal
import socket
import threading
from collections.abc import Callable
from functools import partial

import prometheus_client

from extproc import supervisor
from extproc.cli.drain import readied, remember
from extproc.cli.envoy_admin import is_discouraging
from extproc.cli.exposition import Exposition, forget
from extproc.cli.health import Health
from extproc.cli.ledger import Books
from extproc.cli.processes import State, workers
from extproc.config.revision import Revision
from extproc.config.schema import Gateway
from extproc.secrets import SecretError
from extproc.secrets.keeper import Keeper
from extproc.stores import sql
from extproc.stores.ports import SchemaAhead, SchemaBehind, StoreUnavailable
from extproc.supervisor import Child, Line, wait_until
from extproc.telemetry import metrics

log = logging.getLogger(__name__)

_START_PATIENCE = 30.0  # seconds
_STOP_MARGIN = 40.0  # beyond the drain: for a store that is slow to take what was used, and for what is told then
_ASKED_AGAIN = 2  # times, of two seconds each
_TOLD_TWICE_S = 1.0
_VISIT_S = 1.0


def taken(address: str, port: int) -> bool:
    """Whether something listens there already."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((address, port))
        except OSError:
            return True
    return False


def _claim(state: State) -> None:
    """Hold the folder until this process ends: a second gateway would rewrite the files of the first."""
    lock = os.open(state.root / "run" / "lock", os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(lock)
        raise StartError(
            f"Another gateway uses the folder {state.root}. Stop that, or choose another folder: `state_dir` "
            "in the configuration, or SLUICE__STATE_DIR in the environment."
        ) from None


def prepare(gateway: Gateway, state: State, starts_envoy: bool = True) -> None:
    """Folders, an empty metrics folder, and the database at its newest schema. Raises StoreUnavailable, StartError.

    `starts_envoy`: no Envoy runs here yet. Else there may be one that has served the run before, and goes on.
    """
    state.make()
    _claim(state)
    sockets = (state.root / "run").glob("*.sock" if starts_envoy else "worker-*.sock")
    for stale in (*state.metrics.glob("*.db"), *sockets, *state.standings(), *state.presences()):
        stale.unlink(missing_ok=True)
    if starts_envoy or not (state.draining.exists() and _is_drained(state)):
        readied(state)
    remember(gateway, state)
    try:
        if sql.ready(gateway.stores.database, gateway.stores.migrate):
            log.warning("the database was written by a newer version of Sluice, and this one can live with its schema")
    except (SchemaBehind, SchemaAhead):  # workers would read and write it: a snapshot is for one that is away
        raise
    except StoreUnavailable as error:
        if not gateway.identity.store_outage.snapshot:
            raise
        log.warning("%s; starting from the snapshot, if there is one", error)


def _is_drained(state: State) -> bool:
    """Whether the Envoy beside us has been told to let its clients go. One that does not say has, as its marks tell."""
    said = is_discouraging(state.admin_socket)
    for _ in range(_ASKED_AGAIN):
        if said is not None:
            break
        said = is_discouraging(state.admin_socket)
    return said is not False


def serve_metrics(gateway: Gateway, exposition: Exposition, health: Health) -> Callable[[], None]:
    """Prometheus text of all workers, and of this process, on one port, with `/healthz`. Returns what ends it."""
    registry = exposition.registry(metrics.SUPERVISORS)
    prometheus_client.disable_created_metrics()  # those of workers show none
    server, thread = prometheus_client.start_http_server(gateway.metrics.port, gateway.metrics.address, registry)
    server.set_app(health.before(prometheus_client.make_wsgi_app(registry)))

    def stop() -> None:
        ending = threading.Thread(target=server.shutdown)
        ending.start()
        with contextlib.suppress(OSError):  # a visitor: else it looks only twice a second whether it shall end
            socket.create_connection((gateway.metrics.address, gateway.metrics.port), _VISIT_S).close()
        ending.join()
        server.server_close()
        thread.join()

    return stop


async def keep_secrets(gateway: Gateway, state: State) -> Keeper:
    """What fetches secrets, once each that must be fetched has been, or could not be. Raises StartError."""
    keeper = Keeper(state.secrets, os.environ)
    try:
        await asyncio.to_thread(keeper.configure, gateway)
    except SecretError as error:
        raise StartError(str(error)) from None
    return keeper


def start_workers(revision: Revision, state: State, line: Line, as_json: bool) -> list[Child]:
    """All workers, to be waited for by `all_answer` and ended by `stop_workers`."""
    return [
        Child(program, line, on_exit=partial(_forget, state, number))
        for number, program in enumerate(workers(revision, state, as_json))
    ]


def _forget(state: State, number: int, _: int) -> None:
    forget(state.metrics, number)


async def all_answer(children: list[Child], state: State, health: Health) -> None:
    """Wait until each worker answers on its socket, which then counts as healthy. Raises StartError."""
    sockets = [state.worker_socket(number) for number in range(len(children))]

    async def listening() -> bool:
        return all([await _answers(str(path)) for path in sockets])

    if not await wait_until(listening, children, _START_PATIENCE):
        raise StartError("The workers did not start; the lines above say why.")
    health.have_answered(sockets)


class StartError(Exception):
    """A process did not come up."""


LEFT_BEHIND = 3
"""The exit code of a gateway that has ended, and has not told the ledger all."""


class LeftBehind(Exception):
    """What that is, where, and what becomes of it."""


def check_closed(books: Books) -> None:
    """Raises LeftBehind where the books of a gateway that has ended lack something that is on this machine alone."""
    count, folder = books.behind
    if count != 0:
        lacking = "Some events of calls may not be" if count is None else f"{count} events of calls are not"
        raise LeftBehind(
            f"{lacking} in the ledger. They stay in {folder}, and the next start that finds that folder writes them: "
            "keep it. With a volume that ends with its pod they are lost."
        )


async def stop_workers(gateway: Gateway, children: list[Child], signum: signal.Signals = signal.SIGTERM) -> None:
    """Drain all at once: each lets its live streams end."""
    patience = gateway.timeouts.drain.total_seconds() + _STOP_MARGIN
    await asyncio.gather(*(child.stop(patience, signum) for child in children))


async def _answers(path: str) -> bool:
    try:
        _, writer = await asyncio.open_unix_connection(path)
    except OSError:
        return False
    writer.close()
    return True


def stop_event() -> asyncio.Event:
    """Set by SIGINT or SIGTERM. A second signal ends the process and its children at once, as a person expects.

    One that follows within a second is the first, told twice: make hands on to us what its group got already.
    """
    loop = asyncio.get_running_loop()
    stopping = asyncio.Event()
    since = 0.0

    def stop(signum: signal.Signals) -> None:
        nonlocal since
        if not stopping.is_set():
            since = loop.time()
            stopping.set()
        elif loop.time() - since > _TOLD_TWICE_S:
            supervisor.kill_all()
            signal.signal(signum, signal.SIG_DFL)
            os.kill(os.getpid(), signum)
            os._exit(128 + signum)  # the first process of a container, which that does not end

    for signum in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(signum, stop, signum)
    return stopping
