"""Puts a consumer together, as the configuration wants it."""

import itertools
import os
import secrets
import socket
from collections.abc import Callable
from functools import partial

from extproc.config.alerts import Share
from extproc.config.fields import LocalSecret
from extproc.config.schema import Gateway
from extproc.config.stores import MEMORY
from extproc.ledger.alerter import Alerter, Rules, Webhook
from extproc.ledger.bus import StreamAndSpools
from extproc.ledger.consumer import Consumer
from extproc.ledger.retention import Retention, Windows
from extproc.ledger.signs import Bound
from extproc.stages.budget import SLOT
from extproc.stores import spool
from extproc.stores.alerts import AlertStore
from extproc.stores.ledger import Bus, LedgerStore, Written
from extproc.stores.redis.bus import RedisBus
from extproc.stores.retention import Kept, RetentionStore
from extproc.stores.spool_bus import SpoolBus
from extproc.telemetry import metrics


def consumer_of(gateway: Gateway, store: LedgerStore) -> Consumer:
    bus, hooks = _bus(gateway), gateway.telemetry.alerts.webhooks
    kinds = {name: frozenset(hook.alerts) for name, hook in hooks.items()}
    consumer = Consumer(bus, store, gateway.ledger.zone, gateway.policies.currency, _teller(), kinds)
    metrics.LEDGER_LAG.labels(bus.name).set_function(consumer.lag)
    return consumer


def alerter_of(gateway: Gateway, store: AlertStore, lag: Callable[[], float]) -> Alerter | None:
    """None where nobody is to be told anything. `lag`: see Consumer.lag."""
    given = gateway.telemetry.alerts
    if not given.webhooks:
        return None
    for name, result in itertools.product(given.webhooks, ("sent", "failed", "given_up")):
        metrics.ALERTS.labels(name, result)
    rules = Rules(_bound(given.backends), _bound(given.errors), given.ledger_lag.total_seconds(), given.again)
    return Alerter(store, hooks_of(gateway), rules, lag, lambda name, result: metrics.ALERTS.labels(name, result).inc())


def hooks_of(gateway: Gateway) -> dict[str, Webhook]:
    return {
        name: Webhook(frozenset(hook.alerts), hook.format, partial(secret_of, hook.url), hook.plain_http)
        for name, hook in gateway.telemetry.alerts.webhooks.items()
    }


def _bound(given: Share) -> Bound:
    return Bound(given.share, given.least, given.within)


def secret_of(source: LocalSecret) -> str | None:
    """What is in it now; None where that cannot be read."""
    try:
        return (source.file.read_text() if source.file is not None else os.environ[source.env or ""]).strip()
    except (OSError, ValueError, KeyError):
        return None


def retention_of(gateway: Gateway, store: RetentionStore, windows: Windows) -> Retention:
    ages = {what: age for what in Kept if (age := getattr(gateway.ledger.keep, what.value)) is not None}
    for what in ages:
        metrics.LEDGER_LET_GO.labels(what.value)
    return Retention(store, windows, ages, lambda what, rows: metrics.LEDGER_LET_GO.labels(what.value).inc(rows))


def _bus(gateway: Gateway) -> Bus:
    stores = gateway.stores
    spools = SpoolBus(gateway.state_dir / spool.FOLDER)
    if stores.counters == MEMORY:
        return spools
    name = f"{socket.gethostname()}-{os.getpid()}-{secrets.token_hex(4)}"
    stream = RedisBus(stores.counters, stores.counters_prefix, SLOT, name)
    return StreamAndSpools(stream, spools, metrics.LEDGER_GAPS.inc)


def _teller() -> Callable[[Written, float], None]:
    """What shows in metrics, each at 0 from the beginning."""
    for what in Written._fields:
        metrics.LEDGER_ROWS.labels(what)

    def tell(written: Written, _lag: float) -> None:
        for what, rows in written._asdict().items():
            metrics.LEDGER_ROWS.labels(what).inc(rows)

    return tell
