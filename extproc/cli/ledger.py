"""`sluice ledger`: the process that writes the ledger, where the gateway does not do it itself."""

import json
import logging
import os
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from datetime import UTC, datetime
from threading import Event, Thread
from typing import Annotated, Protocol
from urllib.parse import urlsplit

import prometheus_client
import typer
from prometheus_client import CollectorRegistry

from extproc.cli.keys import JsonOption
from extproc.cli.settings import ConfigOption, configuration, fail
from extproc.config.schema import Gateway
from extproc.config.stores import Stores
from extproc.exports import tell_log
from extproc.identity.claims import folded
from extproc.ledger.compose import alerter_of, consumer_of, retention_of
from extproc.ledger.consumer import Consumer
from extproc.secrets.keeper import Keeper
from extproc.secrets.named import tokens_of
from extproc.stores import spool, sql
from extproc.stores.ports import SchemaAhead, SchemaBehind, StoreUnavailable
from extproc.stores.retention import ERASED, Erased
from extproc.telemetry import metrics

app = typer.Typer(help="Write the ledger, and mend it.", no_args_is_help=True, rich_markup_mode="rich")

_STOP_PATIENCE = 15.0  # seconds: longer than a consumer goes on by itself
_AGAIN_S = 2.0  # between two looks whether the database is there

log = logging.getLogger(__name__)


@app.command()
def run(
    config: ConfigOption = None,
    metrics_port: Annotated[
        int | None, typer.Option(help="Serve its own metrics on this port of `metrics.address`.", min=1, max=65_535)
    ] = None,
) -> None:
    """Write what calls used from the usage bus to the ledger, until SIGTERM. Any number may run.

    With a Redis it can run anywhere; without one it reads the folder `state_dir` of the gateway. Set
    `ledger.consumer: false` where the gateway shall not do the same itself. A server of a database that is away is
    waited for, at the start, too.

    [bold]Examples[/bold]

      sluice ledger run --config gateway.yaml

      sluice ledger run -c gateway.yaml --metrics-port 9465
    """
    gateway = configuration(config)
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(message)s")
    end_log = tell_log(gateway)
    stopping = Event()
    _on_signal(stopping.set)
    keeper = Keeper(gateway.state_dir, os.environ, tokens_of)
    keeper.configure(gateway)
    _wait_for(gateway.stores, stopping)
    if not stopping.is_set():
        with _database(gateway) as stores:
            consumer, *others = _parts(gateway, stores)
            _on_signal(consumer.stop)
            if stopping.is_set():
                consumer.stop()
            if metrics_port is not None:
                _serve_metrics(metrics_port, gateway.metrics.address)
            threads = _started(others)
            consumer.run()
            _end(others, threads)
    keeper.stop()
    end_log()


def _on_signal(stop: Callable[[], None]) -> None:
    for signum in (signal.SIGTERM, signal.SIGINT):
        signal.signal(signum, lambda *_: stop())


def _wait_for(stores: Stores, stopping: Event) -> None:
    """Wait until a server of a database answers, or we are told to stop. What can never work is not waited for: to
    open it tells why."""
    told = ""
    while not stopping.is_set() and (trouble := _trouble(stores)) is not None:
        if told != str(trouble):
            told = str(trouble)
            log.warning("the ledger waits: %s", told)
        stopping.wait(_AGAIN_S)


def _trouble(stores: Stores) -> StoreUnavailable | None:
    """Why a database cannot be used that may be there later; None where it can be, or never will."""
    try:
        sql.open_stores(stores.database).close()
    except StoreUnavailable:
        return None
    try:
        sql.ready(stores.database, stores.migrate)
    except (SchemaAhead, SchemaBehind):
        return None
    except StoreUnavailable as error:
        return None if urlsplit(stores.database).scheme.startswith("sqlite") else error
    return None


@app.command()
def rebuild(config: ConfigOption = None) -> None:
    """Make the sums by day again from the rows of the calls, in the time zone `ledger.zone`.

    [bold]Examples[/bold]

      sluice ledger rebuild
    """
    gateway = configuration(config)
    with _database(gateway) as stores:
        try:
            counted = stores.ledger.rebuild(gateway.ledger.zone)
        except StoreUnavailable as error:
            fail(f"{error}. Run it again: until then usage is added up from the rows, and as slow as that is.")
    typer.echo(f"The sums by day are made again: {counted:,} calls, days of {gateway.ledger.zone}.")


@app.command()
def erase(
    user: Annotated[str, typer.Option("--user", help="The user, as `sluice usage --by user` tells it.")],
    config: ConfigOption = None,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Erase a user from the ledger: rows and sums stay, and are nobody's. Keys and team files are left as they are.

    What still waits on the usage bus is erased as it comes. Calls from now on name the user again. Exit code 1: no row
    names the user.

    [bold]Examples[/bold]

      sluice ledger erase --user ann@example.com

      sluice ledger erase --user ann@example.com --yes --json
    """
    if user in ("", ERASED):
        fail("--user: give the name of a user.")
    gateway = configuration(config)
    with _database(gateway) as stores:
        try:
            names = dict.fromkeys((user, folded(user)))  # callers' names are folded; what else told of them may not be
            found = [stores.retention.named(name) for name in names]
            if not yes:
                _ask(_together(found))
            now = datetime.now(UTC).replace(tzinfo=None)
            erased = _together([stores.retention.erase(name, now) for name in names])
        except StoreUnavailable as error:
            fail(f"{error}. What was not erased yet is when this is said again.")
    if as_json:
        typer.echo(json.dumps(erased._asdict()))
    elif any(erased):
        typer.echo(f"Erased: {_told(erased)}.")
    else:
        typer.echo("No row names this user. What still waits on the usage bus is erased as it comes.", err=True)
    if not any(erased):
        raise typer.Exit(1)


def _together(some: Sequence[Erased]) -> Erased:
    return Erased(*map(sum, zip(*some, strict=True)))


def _told(erased: Erased) -> str:
    return (
        f"the user of {erased.calls:,} rows of calls and {erased.sums:,} sums by day, "
        f"and {erased.odd:,} events that nobody could read"
    )


def _ask(named: Erased) -> None:
    if not sys.stdin.isatty():
        fail(f"This would erase {_told(named)}. Nobody is there to ask: give --yes. Nothing was changed.")
    if not typer.confirm(f"This erases {_told(named)}, for ever. Go on?", err=True):
        fail("Nothing was changed.")


@contextmanager
def _database(gateway: Gateway) -> Iterator[sql.Stores]:
    try:
        sql.ready(gateway.stores.database, gateway.stores.migrate)
        stores = sql.open_stores(gateway.stores.database)
    except StoreUnavailable as error:
        fail(f"{error}. Check stores.database.")
    with closing(stores):
        yield stores


def _serve_metrics(port: int, address: str) -> None:
    registry = CollectorRegistry()
    for own in metrics.OF_LEDGER:
        registry.register(own)
    try:
        prometheus_client.start_http_server(port, address, registry)
    except OSError as error:
        fail(f"Port {port} on {address} cannot be used: {error.strerror}.")


class Books:
    """The ledger, written in threads of this process where that is wanted."""

    def __init__(self, gateway: Gateway) -> None:
        self._consumer: Consumer | None = None
        if not gateway.ledger.consumer:
            return
        self._stores = sql.open_stores(gateway.stores.database)
        self._consumer, *others = _parts(gateway, self._stores)
        self._parts = [self._consumer, *others]
        self._threads = _started(self._parts)
        self._spools = gateway.state_dir / spool.FOLDER

    def close(self) -> None:
        """Write what waits, for a while. Blocks."""
        if self._consumer is not None:
            _end(self._parts, self._threads)
            self._stores.close()

    @property
    def behind(self) -> tuple[int | None, str]:
        """How many events the ledger lacks after `close` that are on this machine alone, and in which folder.

        None where nobody can say: the consumer hangs, or has failed, or cannot read that folder.
        """
        if self._consumer is None:
            return 0, ""
        return self._consumer.behind or (None, str(self._spools))


class _Part(Protocol):
    """`run` blocks until `stop`."""

    def run(self) -> None: ...
    def stop(self) -> None: ...


def _parts(gateway: Gateway, stores: sql.Stores) -> tuple[Consumer, *tuple[_Part, ...]]:
    """The consumer, and what goes on beside it."""
    consumer = consumer_of(gateway, stores.ledger)
    retention = retention_of(gateway, stores.retention, stores.budgets)
    alerter = alerter_of(gateway, stores.alerts, consumer.lag)
    return (consumer, retention, alerter) if alerter else (consumer, retention)


def _started(parts: Sequence[_Part]) -> list[Thread]:
    threads = [Thread(target=part.run, name="ledger", daemon=True) for part in parts]
    for thread in threads:
        thread.start()
    return threads


def _end(parts: Sequence[_Part], threads: Sequence[Thread]) -> None:
    for part in parts:
        part.stop()
    for thread in threads:
        thread.join(_STOP_PATIENCE)
