"""`sluice explain`: one call, from the ledger: who, what, which way, what it used, what policies said, what it cost."""

import json
from collections.abc import Sequence
from contextlib import closing
from dataclasses import asdict
from datetime import datetime
from typing import Annotated

import typer
from rich.text import Text

from extproc.cli import explained
from extproc.cli.console import printable
from extproc.cli.keys import check_text
from extproc.cli.settings import ConfigOption, configuration, fail
from extproc.cli.tables import console
from extproc.limits import standing
from extproc.stores import sql
from extproc.stores.ledger import AttemptRow, CallRow, Told
from extproc.stores.ports import StoreUnavailable

_JSON = ("chain", "tags", "team_tags", "overspent", "budgets", "policies", "booked")
_MONEY = ("cost", "aside", "saved", "held_money", "overspent_money")
Call = tuple[CallRow, Sequence[AttemptRow]]


def explain(
    request_id: Annotated[str, typer.Argument(help="The `x-request-id` of its answer, or the call's own id.")],
    config: ConfigOption = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Show one call: who made it, the backends that were tried, tokens, cost, and what limits and policies said.

    [bold]Examples[/bold]

      sluice explain 4f1c2a9e-8d0b-4c5e-9a57-0f2b6c1d3e4f

      sluice explain 4f1c2a9e-8d0b-4c5e-9a57-0f2b6c1d3e4f --json
    """
    check_text("REQUEST_ID", request_id, 200)
    gateway = configuration(config)
    try:
        sql.check_current(gateway.stores.database)
        with closing(sql.open_stores(gateway.stores.database)) as stores:
            found = stores.ledger.call(request_id)
    except StoreUnavailable as error:
        fail(f"{error}. Check stores.database.")
    if not found:
        fail(f"The ledger has no call {request_id!r}. It is there some seconds after its end, if its caller was known.")
    if as_json:
        typer.echo(json.dumps([_facts(one) for one in found], ensure_ascii=False))
        return
    for number, one in enumerate(found):
        if number:
            console().print()
        _print(*one)


def _print(row: CallRow, tried: Sequence[AttemptRow]) -> None:
    out = console()
    out.print(Text(printable(f"call {row.request_id or row.id}"), style="bold"))
    for name, value in explained.lines(row, tried):
        out.print(Text(printable(f"  {name:<9} {value}")))


def _facts(call: Call) -> dict[str, object]:
    """The rows. Money as decimal text in `currency`, times in UTC."""
    row, tried = call
    facts = {name: _value(name, value) for name, value in asdict(row).items() if value is not None}
    attempts = [
        {name: _value(name, value) for name, value in asdict(one).items() if value is not None} for one in tried
    ]
    return {**facts, "told": Told(row.told).name.lower(), "attempts": attempts}


def _value(name: str, value: object) -> object:
    if isinstance(value, datetime):
        return f"{value.isoformat(timespec='milliseconds')}Z"
    if name in _MONEY and isinstance(value, int):
        return standing.amount(value)
    read = json.loads(value) if name in _JSON and isinstance(value, str) else value
    return [_budget(one) for one in read] if name == "budgets" and isinstance(read, list) else read


def _budget(told: object) -> object:
    if not isinstance(told, dict) or told.get("measure") != "money":
        return told
    amounts = ("amount", "before", "wanted", "used")
    return {**told, **{name: standing.amount(told[name]) for name in amounts if isinstance(told.get(name), int)}}
