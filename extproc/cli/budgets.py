"""`sluice budgets`: the counters of limits, made again from the ledger."""

import asyncio
import json
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import closing
from typing import TYPE_CHECKING, Annotated

import typer

from extproc.cli.keys import JsonOption
from extproc.cli.settings import ConfigOption, configuration, fail
from extproc.cli.tables import print_table
from extproc.config.schema import Gateway
from extproc.config.stores import MEMORY
from extproc.ledger import budgets
from extproc.ledger.budgets import Gap, Stream
from extproc.limits import standing
from extproc.limits.limit import Measure
from extproc.stages.budget import SLOT
from extproc.stores import sql
from extproc.stores.counters import Counters, CountersUnavailable
from extproc.stores.ledger import BusUnavailable
from extproc.stores.ports import StoreUnavailable
from extproc.stores.sql.engine import alone

if TYPE_CHECKING:
    from extproc.stores.redis.bus import RedisBus

app = typer.Typer(
    help="Make the counters of limits again, after their Redis lost them.",
    no_args_is_help=True,
    rich_markup_mode="rich",
)

_AGAIN_MS = 60_000  # for which workers say again what a store forgot
_PATIENCE_S = 60.0  # for a ledger that lags
_WAIT_S = 5.0  # for an answer of the counters


@app.callback()
def _group() -> None:
    """A group of its own: what is said of limits is said by `sluice limits`."""


@app.command()
def rebuild(
    config: ConfigOption = None,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Add to the counters of limits what the ledger has and they lack. Nothing is ever taken from them.

    For a Redis that came back empty, or with an old copy: budgets of the hour, day or month would be given out again.
    Workers tell a new Redis by themselves what ended in the last hour: it waits for them, up to a minute. Windows under
    an hour are not made again. Without --yes it shows what lacks, and asks.

    [bold]Examples[/bold]

      sluice budgets rebuild

      sluice budgets rebuild --yes --json
    """
    gateway = configuration(config)
    if gateway.stores.counters == MEMORY:
        fail(
            "stores.counters is memory://: each worker counts by itself, and nobody else can fill its counters. "
            "Name a Redis there, and start again: then they can be made from the ledger."
        )
    try:
        sql.check_current(gateway.stores.database)
        with closing(sql.open_stores(gateway.stores.database)) as stores:
            found = asyncio.run(_filled(gateway, stores, yes, as_json))
    except StoreUnavailable as error:
        fail(f"{error}. Check stores.database.")
    except (CountersUnavailable, BusUnavailable):
        fail("The counters do not answer. Check stores.counters, and say it again: what was added stays added.")
    if as_json:
        typer.echo(json.dumps(_facts(found)))
    elif not _lacking(found):
        typer.echo(f"Nothing lacks in {len(found):,} counters.")
    else:
        typer.echo(f"Added to {len(_lacking(found)):,} of {len(found):,} counters.")


async def _filled(gateway: Gateway, stores: sql.Stores, yes: bool, as_json: bool) -> list[Gap]:
    from extproc.stores.redis.bus import RedisBus
    from extproc.stores.redis.counters import RedisCounters  # 60 ms that other verbs need not spend

    url, prefix = gateway.stores.counters, gateway.stores.counters_prefix
    counters = RedisCounters(url, wait=_WAIT_S, prefix=prefix)
    try:
        with alone(stores.engine, "budgets") as is_alone, closing(RedisBus(url, prefix, SLOT, "rebuild")) as bus:
            if not is_alone:
                fail("Somebody else does the same just now. Nothing was changed.")
            await _wait_for_workers(bus)
            found = await _found(stores, counters, bus)
            if _lacking(found) and not yes:
                _ask(found, gateway.policies.currency, as_json)
                found = await _found(stores, counters, bus)  # the question may have stood for long
            await budgets.fill(counters, SLOT, found, _now())
    finally:
        await counters.close()
    return found


async def _found(stores: sql.Stores, counters: Counters, bus: Stream) -> list[Gap]:
    has = await budgets.readings(counters, SLOT, stores.budgets.current(_now()))
    await asyncio.to_thread(_wait, bus)
    return budgets.gaps(stores.budgets.current(_now()), has)


async def _wait_for_workers(bus: "RedisBus") -> None:
    """Until they have told a Redis that came back what it forgot of the last hour."""
    left = bus.counted_since() + _AGAIN_MS - _now()
    if left > 0:
        typer.echo(f"The counters are new, and workers tell them the last hour again: {left // 1000 + 1} s.", err=True)
        await asyncio.sleep(left / 1000)


def _now() -> int:
    return time.time_ns() // 1_000_000


def _wait(bus: Stream) -> None:
    """Until the ledger has what the counters had when they were read."""
    told = False

    def waits() -> None:
        nonlocal told
        if not told:
            typer.echo("The ledger is behind; waiting for it.", err=True)
        told = True

    if not budgets.wait_for(bus, _PATIENCE_S, waits):
        fail("The ledger does not catch up: is a consumer running (`sluice ledger run`)? Nothing was changed.")


def _lacking(found: Sequence[Gap]) -> list[Gap]:
    return [gap for gap in found if gap.lacks]


def _by_limit(found: Sequence[Gap]) -> Mapping[tuple[str, str], list[Gap]]:
    """By limit and measure."""
    known: dict[tuple[str, str], list[Gap]] = {}
    for gap in sorted(found, key=lambda gap: (gap.limit, gap.measure)):
        known.setdefault((gap.limit, gap.measure), []).append(gap)
    return known


def _ask(found: Sequence[Gap], currency: str, as_json: bool) -> None:
    rows = [
        _row(limit, measure, gaps, currency) for (limit, measure), gaps in _by_limit(found).items() if _lacking(gaps)
    ]
    headings = {"limit": True, "counters": False, "have": False, "ledger": False, "lack": False}
    print_table(headings, rows, to_stderr=as_json, right={"counters", "have", "ledger", "lack"})
    if not sys.stdin.isatty():
        fail("Nobody is there to ask: give --yes to add what lacks. Nothing was changed.")
    if not typer.confirm("Add what lacks?", err=True):
        fail("Nothing was changed.")


def _row(limit: str, measure: str, gaps: Sequence[Gap], currency: str) -> tuple[str, ...]:
    sums = sum(gap.has for gap in gaps), sum(gap.ledger for gap in gaps), sum(gap.lacks for gap in gaps)
    if measure == Measure.MONEY:
        return f"{limit} ({currency})", f"{len(gaps):,}", *map(standing.amount, sums)
    return f"{limit} ({measure.replace('_', ' ')})", f"{len(gaps):,}", *(f"{units:,}" for units in sums)


def _facts(found: Sequence[Gap]) -> list[dict[str, object]]:
    return [
        {
            "limit": gap.limit,
            "measure": gap.measure,
            "counter": gap.counter.key,
            "had": gap.has,
            "ledger": gap.ledger,
            "added": gap.lacks,
        }
        for gap in found
    ]
