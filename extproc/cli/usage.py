"""`sluice usage`: what was used and what it cost, from the ledger."""

import csv
import json
import re
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, fields, replace
from datetime import date, datetime
from typing import Annotated
from zoneinfo import ZoneInfo

import typer

from extproc.cli.keys import check_text
from extproc.cli.settings import ConfigOption, configuration, fail
from extproc.cli.tables import print_table
from extproc.config.problems import did_you_mean
from extproc.config.schema import Gateway
from extproc.limits import standing
from extproc.stores import sql
from extproc.stores.ledger import BY, TAG, Question, Sum
from extproc.stores.ports import StoreUnavailable

_SUMMED = tuple(one.name for one in fields(Sum) if one.type is int)
_AMOUNTS = (*_SUMMED, "unpriced")
_MONEY = ("cost", "saved")
_SHOWN = {
    "calls": "calls",
    "failed": "failed",
    "estimated": "estimated",
    "unpriced": "unpriced",
    "input": "input",
    "cached_input": "cached",
    "output": "output",
    "cost": "cost",
    "saved": "saved",
}
"""The columns of the table, and their headings."""

_ALWAYS = ("calls", "input", "output", "cost")
_NOBODY = _NO_COST = "-"
_TAG = re.compile(TAG + "[a-z][a-z0-9_]{0,30}")


ByOption = Annotated[
    str,
    typer.Option(help=f"What to add up by, one or several with commas: {', '.join(BY)}, tag:NAME.", show_default=True),
]
TagOption = Annotated[
    list[str] | None, typer.Option(help="NAME=VALUE: of calls with this tag alone; may be given again.")
]


def usage(
    config: ConfigOption = None,
    by: ByOption = "team",
    first: Annotated[str | None, typer.Option("--from", help="First day, YYYY-MM-DD; absent: of this month.")] = None,
    last: Annotated[str | None, typer.Option("--to", help="Last day, included; absent: today.")] = None,
    zone: Annotated[str | None, typer.Option(help="Time zone of the days; absent: `ledger.zone`.")] = None,
    area: Annotated[str | None, typer.Option(help="Of this area alone.")] = None,
    team: Annotated[str | None, typer.Option(help="Of this team alone.")] = None,
    user: Annotated[str | None, typer.Option(help="Of this user alone.")] = None,
    key: Annotated[str | None, typer.Option(help="Of the key with this id alone.")] = None,
    model: Annotated[str | None, typer.Option(help="Of this model alone.")] = None,
    backend: Annotated[str | None, typer.Option(help="Of this backend alone.")] = None,
    session: Annotated[str | None, typer.Option(help="Of this session alone.")] = None,
    tag: TagOption = None,
    as_csv: Annotated[bool, typer.Option("--csv", help="Print CSV.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Show what was used and what it cost, by team, user, key, model, day.

    Days, areas, teams, models and backends are quick together, and so are days, areas, teams, users and keys. Any other
    mixture, sessions, tags, and days of another zone than `ledger.zone`, are added up from the calls: slower, the same.

    [bold]Examples[/bold]

      sluice usage

      sluice usage --by day,model --team search --from 2026-03-01 --to 2026-03-31

      sluice usage --by user --csv > users.csv

      sluice usage --by tag:pull_request --tag repository=shop/web
    """
    if as_csv and as_json:
        raise typer.BadParameter("one of --csv and --json", param_hint="--csv")
    gateway = configuration(config)
    named = {"area": area, "team": team, "user": user, "key": key, "model": model, "backend": backend}
    only = _only({**named, "session": session}, tag or ())
    question = _question(gateway, by, first, last, zone, only)
    with _ledger(gateway) as ledger:
        found = _joined([_line(one) for one in ledger.usage(question)])
    _tell_unknown(gateway, question)
    if as_csv:
        _print_csv(question.by, found)
    elif as_json:
        typer.echo(json.dumps([_facts(question.by, one) for one in found], ensure_ascii=False))
    else:
        _print(question, found)


# ---- what is asked -------------------------------------------------------------------------------


def _question(
    gateway: Gateway, by: str, first: str | None, last: str | None, zone: str | None, only: Mapping[str, str]
) -> Question:
    names = tuple(dict.fromkeys(_by(name.strip()) for name in by.split(",")))
    for name in names:
        if name not in BY and not _TAG.fullmatch(name):
            hint = did_you_mean(name, BY)
            raise typer.BadParameter(f"{name!r} is none of {', '.join(BY)} and tag:NAME{hint}", param_hint="--by")
    zone = _zone(zone or gateway.ledger.zone)
    today = datetime.now(ZoneInfo(zone)).date()
    end = today if last is None else _day("--to", last)
    begin = end.replace(day=1) if first is None else _day("--from", first)
    if begin > end:
        raise typer.BadParameter("is after the last day", param_hint="--from")
    return Question(begin, end, zone, names, only)


def _by(name: str) -> str:
    """A tag may be spelled as its header is: `pull-request`."""
    return name.replace("-", "_") if name.startswith(TAG) else name


def _only(named: Mapping[str, str | None], tags: Sequence[str]) -> dict[str, str]:
    """What a call must be, by the names that usage knows it by."""
    only: dict[str, str] = {}
    for name, value in named.items():
        check_text(f"--{name}", value, 400)
        if value is not None:
            only[name] = value
    for one in tags:
        name, equals, value = one.partition("=")
        name = name.replace("-", "_")
        check_text("--tag", one, 400)
        if not equals or not _TAG.fullmatch(TAG + name):
            raise typer.BadParameter("write NAME=VALUE, such as repository=shop/web", param_hint="--tag")
        if TAG + name in only:
            raise typer.BadParameter(f"{name} is given twice", param_hint="--tag")
        only[TAG + name] = value
    return only


def _tell_unknown(gateway: Gateway, question: Question) -> None:
    """A tag may have been kept once: it is no mistake, but it may be one."""
    for name in dict.fromkeys((*question.by, *question.only)):
        tag = name.removeprefix(TAG)
        if name != tag and tag not in gateway.ledger.tags:
            hint = did_you_mean(tag, gateway.ledger.tags)
            typer.echo(f"The tag {tag!r} is not kept: it is none of `ledger.tags`{hint}.", err=True)


def _zone(name: str) -> str:
    try:
        ZoneInfo(name)
    except (OSError, ValueError, KeyError):
        raise typer.BadParameter("is no time zone; write one like Europe/Zurich", param_hint="--zone") from None
    return name


def _day(option: str, text: str) -> date:
    try:
        day = date.fromisoformat(text)
    except ValueError:
        raise typer.BadParameter("write a day like 2026-03-31", param_hint=option) from None
    if not 2000 <= day.year < 2100:
        raise typer.BadParameter("is no day of this century", param_hint=option)
    return day


@contextmanager
def _ledger(gateway: Gateway) -> Iterator[sql.SqlLedger]:
    """That of the configured database, which must have the newest schema."""
    try:
        sql.check_current(gateway.stores.database)
        with closing(sql.open_stores(gateway.stores.database)) as stores:
            yield stores.ledger
    except StoreUnavailable as error:
        fail(f"{error}. Check stores.database.")


# ---- what is told --------------------------------------------------------------------------------


@dataclass(slots=True)
class _Line(Sum):
    """`unpriced`: the calls of it that used what has no price. It is in no `cost`."""

    unpriced: int = 0


def _line(one: Sum) -> _Line:
    amounts = {name: getattr(one, name) for name in _SUMMED}
    return _Line(one.values, one.currency, **amounts, unpriced=0 if one.currency else one.calls)


def _joined(found: Iterable[_Line]) -> list[_Line]:
    """One for each values and currency. Calls without a price stand with the others, if those are of one currency."""
    groups: dict[tuple[str, ...], dict[str, _Line]] = {}
    for one in found:
        known = groups.setdefault(one.values, {}).setdefault(one.currency, _Line(one.values, one.currency))
        _add(known, one)
    for group in groups.values():
        if len(group) == 2 and "" in group:
            unpriced = group.pop("")
            (priced,) = group.values()
            _add(priced, unpriced)
    return [one for group in groups.values() for one in group.values()]


def _add(total: _Line, one: _Line) -> None:
    for name in _AMOUNTS:
        setattr(total, name, getattr(total, name) + getattr(one, name))


def _totals(found: Iterable[_Line]) -> list[_Line]:
    """One for each currency: money of two is never added up."""
    return _joined([replace(one, values=()) for one in found])


# ---- for people and for scripts ------------------------------------------------------------------


def _print(question: Question, found: Sequence[_Line]) -> None:
    if not found:
        typer.echo(f"No calls from {question.first} to {question.last} ({question.zone}).", err=True)
        if "key" in question.only:
            typer.echo("--key takes the id of a key: `sluice keys list --json` tells it.", err=True)
        return
    totals = _totals(found)
    shown = [name for name in _SHOWN if name in _ALWAYS or any(getattr(one, name) for one in totals)]
    headings = dict.fromkeys(question.by, True) | {_SHOWN[name]: False for name in shown}
    rows = [_cells(one, shown) for one in found]
    if len(found) > len(totals):
        rows += [_cells(one, shown, ("total", *[""] * (len(question.by) - 1))) for one in totals]
    print_table(headings, rows, right=[_SHOWN[name] for name in shown])
    typer.echo(f"{question.first} to {question.last}, days of {question.zone}", err=True)
    if any(one.unpriced for one in found):
        typer.echo("unpriced: calls that used what has no price, and are in no cost", err=True)


def _cells(one: _Line, shown: Sequence[str], values: tuple[str, ...] | None = None) -> tuple[str, ...]:
    named = [value or _NOBODY for value in one.values] if values is None else values
    return (*named, *[_cell(one, name) for name in shown])


def _cell(one: _Line, name: str) -> str:
    """12,345 or 5,000.00 CHF. Of calls that have no cost nothing that looks like one."""
    amount = getattr(one, name)
    if name not in _MONEY:
        return f"{amount:,}"
    if not one.currency:
        return _NO_COST
    whole, _, part = standing.amount(amount).partition(".")
    return f"{int(whole):,}.{part} {one.currency}".rstrip()


def _facts(by: Sequence[str], one: _Line) -> dict[str, object]:
    """Money as decimal text in `currency`, None where no call has a price."""
    amounts = {name: getattr(one, name) for name in _AMOUNTS}
    money = {name: standing.amount(amounts[name]) if one.currency else None for name in _MONEY}
    return {**dict(zip(by, one.values, strict=True)), "currency": one.currency, **amounts, **money}


def _print_csv(by: Sequence[str], found: Sequence[_Line]) -> None:
    """As Excel reads it. What a spreadsheet would take for a formula is text."""
    writer = csv.DictWriter(sys.stdout, [*by, "currency", *_AMOUNTS])
    writer.writeheader()
    for one in found:
        writer.writerow({name: _safe(value) for name, value in _facts(by, one).items()})


def _safe(value: object) -> object:
    return f"'{value}" if isinstance(value, str) and value[:1] in ("=", "+", "-", "@", "\t", "\r") else value
