"""`sluice limits`: the limits that calls fall under, and how much of each is used."""

import asyncio
import json
import secrets
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from typing import Annotated

import typer
from rich.padding import Padding
from rich.text import Text

from extproc.cli.keys import check_text, directory, refuse_secret
from extproc.cli.settings import ConfigOption, configuration, fail
from extproc.cli.tables import console, print_table
from extproc.config import compile as compiled
from extproc.config.schema import Gateway
from extproc.config.stores import MEMORY
from extproc.enrolment import Enrolment
from extproc.gitops.limit_words import limit_words, moment_words, more_words
from extproc.identity.claims import folded
from extproc.identity.directory import Directory, Key
from extproc.limits import standing
from extproc.limits.demand import Extent
from extproc.limits.limit import KEY_OWNER, Limit, Measure, Mode, Period, Priority, Scope
from extproc.limits.sums import Sums
from extproc.model import Caller, Cap, Catalogue, Chain, PublicModel, Target, Team
from extproc.stages import budget
from extproc.stores.counters import Counter, CountersUnavailable, Draw, Reading
from extproc.stores.memory import one_key
from extproc.stores.ports import DirectoryStore, UnknownKey

_PATIENCE = 2.0  # seconds that a person waits for the counters
_AT_ONCE = 100  # sums read in one step, which keeps calls waiting
_LIFE = 10_000  # milliseconds of a reading that does not come to its end
_ROOM = {"conditions": 150}  # columns of a terminal that has room for these, too
_TABLE = 120  # columns that a table needs
_LENGTHS = (
    (86_400_000, "24h", "d"),
    (3_600_000, "hour", "h"),
    (60_000, "minute", "m"),
    (1_000, "second", "s"),
    (1, "millisecond", "ms"),
)
_NAMED_BY = {Scope.KEY: "--key", Scope.USER: "--user", Scope.MODEL: "--model"}  # the others by --team


@dataclass(frozen=True, slots=True)
class Asked:
    """The calls in question. What is None may be any; a key's team and user are those of the key."""

    key: Key | None = None
    team: Team | None = None
    user: str | None = None
    model: PublicModel | None = None

    @property
    def open(self) -> frozenset[Scope]:
        """The scopes of which nothing is known, so that a limit by them has many sums."""
        unknown: set[Scope] = set()
        if self.key is None:
            unknown.add(Scope.KEY)
            if self.team is None:
                unknown |= {Scope.TEAM, Scope.AREA, Scope.TIER}
            if self.user is None:
                unknown.add(Scope.USER)
        return frozenset(unknown | ({Scope.MODEL} if self.model is None else set()))

    def may_be(self, key: Key) -> bool:
        """Whether such calls may be made with this key."""
        is_of_team = Scope.TEAM in self.open or (self.team is not None and self.team.name == key.team)
        return is_of_team and self.user in (None, key.user)

    @property
    def caller(self) -> Caller:
        key = self.key
        if key is None:
            return Caller("", "", user=self.user, team=self.team)
        return Caller(
            key_id=key.id,
            name=key.name,
            models=key.models,
            user=key.user,
            service_account=key.service_account,
            team=self.team,
            environment=key.environment,
            lineage=key.lineage,
            priority=key.priority,
        )


@dataclass(frozen=True, slots=True)
class Row:
    """One sum of a limit, or, where `open` scopes leave it open which, all of them. `part`: the one of several."""

    limit: Limit
    owner: str
    counter: Counter
    part: Mapping[Scope, str]
    open: frozenset[Scope]


def limits(
    config: ConfigOption = None,
    team: Annotated[str | None, typer.Option(help="Calls of this team.")] = None,
    user: Annotated[str | None, typer.Option(help="Calls of this user.")] = None,
    key: Annotated[str | None, typer.Option(help="Calls with this key: its name, team/name, hint or id.")] = None,
    model: Annotated[str | None, typer.Option(help="Calls of this model.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Show the limits that calls fall under, and how much of each is used now, calls that are running included.

    Without options: all limits, as declared. A limit by key, user or model has a sum for each: name one to see it.

    [bold]Examples[/bold]

      sluice limits

      sluice limits --team search --model gpt-4o

      sluice limits --key search/ci --json
    """
    for option, text in (("--team", team), ("--user", user), ("--key", key), ("--model", model)):
        check_text(option, text, 400)
    gateway = configuration(config)
    catalogue = compiled.without_policies(gateway)
    with directory(gateway, upgrade=False) as store:
        people = _people(store, gateway)
        asked = _asked(store, people, team, user, key)
    asked = replace(asked, model=_model(catalogue, asked, model))
    now = time.time_ns() // 1_000_000
    rows = list(_rows(_declared(catalogue, people, asked), catalogue, now))
    readings = _readings(gateway, [row.counter for row in rows if not row.open])
    known = [(row, None if row.open else readings.get(row.counter.key)) for row in rows]
    if as_json:
        typer.echo(json.dumps([_facts(row, reading, catalogue.currency) for row, reading in known]))
    elif rows:
        _print([_cells(row, reading, catalogue.currency, now) for row, reading in known])
        _tell(gateway, rows)
    else:
        typer.echo("No limits hold for such calls.", err=True)


# ---- who and what is asked about -----------------------------------------------------------------


def _people(store: DirectoryStore, gateway: Gateway) -> Directory:
    """As the workers know them."""
    with closing(store.changes(0)) as changes:
        return Enrolment(gateway.keys.quickstart).take(changes, lambda: None)


def _asked(store: DirectoryStore, people: Directory, team: str | None, user: str | None, key: str | None) -> Asked:
    if key is not None:
        if team is not None or user is not None:
            raise typer.BadParameter("a key has its own team and user: name the key alone", param_hint="--key")
        return _of_key(_key(store, people, key), people)
    name = folded(user) if user is not None else None
    if team is None and name is not None:
        team = _only_team(people, name)
    if team is not None and team not in people.teams:
        fail(f"There is no team {team!r}. Teams come from team files, by `sluice apply`.")
    return Asked(team=people.teams[team] if team is not None else None, user=name)


def _of_key(key: Key, people: Directory, model: PublicModel | None = None) -> Asked:
    return Asked(key, people.teams.get(key.team), key.user, model)


def _key(store: DirectoryStore, people: Directory, which: str) -> Key:
    known = {key.id: key for key in people.keys.values()}
    if which in known:
        return known[which]
    try:
        return known[one_key(which, store.state().keys).id]
    except (UnknownKey, KeyError):  # also one that is revoked
        fail(f"No key in force, or more than one, goes by {which!r}. `sluice keys list --json` shows their ids.")


def _only_team(people: Directory, user: str) -> str:
    teams = [membership.team for membership in people.users.get(user, ())]
    if len(teams) != 1:
        found = f"is in several teams ({', '.join(teams)})" if teams else "stands in no team file"
        fail(f"{user!r} {found}: name the team with --team.")
    return teams[0]


def _model(catalogue: Catalogue, asked: Asked, name: str | None) -> PublicModel | None:
    if name is None:
        return None
    refuse_secret(name)
    model = catalogue.models.get(name)
    if model is None or model not in _usable(catalogue, asked):
        fail(f"There is no model {name!r} in the configuration, or such callers may not use it.")
    return model


def _usable(catalogue: Catalogue, asked: Asked) -> list[PublicModel]:
    if asked.model is not None:
        return [asked.model]
    models = catalogue.listed()
    return models if Scope.TEAM in asked.open else [model for model in models if asked.caller.may_use(model)]


# ---- which limits hold for it --------------------------------------------------------------------


def _declared(catalogue: Catalogue, people: Directory, asked: Asked) -> Iterator[tuple[Limit, str, Asked]]:
    """Each limit that may hold, whose it is in words, and the calls in question that it is about."""
    for limit in catalogue.limits:
        yield limit, "gateway", asked
    for team in people.teams.values() if Scope.TEAM in asked.open else filter(None, [asked.team]):
        for limit in team.limits:
            yield limit, f"team {team.name}", replace(asked, team=team)
    lines = {key.lineage: key for key in people.keys.values()}  # a key and its successor have the same limits
    for key in filter(asked.may_be, lines.values()) if asked.key is None else [asked.key]:
        name = f"{key.team}/{key.name}" if key.team else key.name
        for limit in key.limits:
            yield limit, f"key {name}", _of_key(key, people, asked.model)


def _rows(declared: Iterable[tuple[Limit, str, Asked]], catalogue: Catalogue, now: int) -> Iterator[Row]:
    sums = Sums()
    for limit, owner, asked in declared:
        of = limit.only.models
        models = [model for model in _usable(catalogue, asked) if of is None or model.name in of]
        if not any(_holds(limit, asked, model) for model in models):
            continue
        if of is not None and len(models) == 1:
            asked = replace(asked, model=models[0])
        yield from _sums(limit, owner, asked, _chain(asked.model or PublicModel("", ()), models), sums, now)


def _holds(limit: Limit, asked: Asked, model: PublicModel) -> bool:
    """Whether the limit holds for some of the calls in question, where they are of this model."""
    only = limit.only
    if Scope.TEAM in asked.open:
        only = replace(only, teams=None, areas=None, tiers=None)
    if asked.key is None:
        only = replace(only, environments=None)
    loose = replace(limit, only=only, scope=tuple([scope for scope in limit.scope if scope not in asked.open]))
    chain = _chain(model, [model])
    return any(
        budget.applicable((loose,), asked.caller, chain, priority, low_route)
        for priority in _classes(asked)
        for low_route in (False, True)
    )


def _classes(asked: Asked) -> tuple[Priority, ...]:
    """The highest that such calls may have first."""
    return (Priority.LOW,) if asked.caller.priority is Priority.LOW else (Priority.HIGH, Priority.LOW)


def _chain(model: PublicModel, models: Iterable[PublicModel]) -> Chain:
    """All backends of the models, each once."""
    targets = [target for each in models for group in each.groups for target in group]
    by_backend: dict[str, Target] = {target.backend.name: target for target in targets}
    return Chain(model, tuple(by_backend.values()))


def _sums(limit: Limit, owner: str, asked: Asked, chain: Chain, sums: Sums, now: int) -> Iterator[Row]:
    """The sums of a limit: one, or one for each class and backend where it is by these."""
    classes = [priority for priority in _classes(asked) if limit.only.priority in (None, priority)]
    for priority in classes if Scope.PRIORITY in limit.scope else classes[:1]:
        terms = budget.Terms((limit,), asked.caller, chain, priority, Extent(), Cap(), stream=False)
        for stake in budget.hold(terms, "", budget.Ask(0), sums, now).stakes:
            part = {Scope.BACKEND: stake.backend or "", Scope.PRIORITY: priority.value}
            part = {scope: value for scope, value in part.items() if scope in limit.scope}
            yield Row(limit, owner, stake.draw.counter, part, asked.open.intersection(limit.scope))


# ---- how much is used ----------------------------------------------------------------------------


def _readings(gateway: Gateway, counters: Sequence[Counter]) -> dict[str, Reading]:
    """How the counters stand, by their keys; nothing where only the running worker knows."""
    if gateway.stores.counters == MEMORY or not counters:
        return {}
    try:
        return asyncio.run(_read(gateway, list({counter.key: counter for counter in counters}.values())))
    except CountersUnavailable:
        fail("The counters do not answer. Check stores.counters.")


async def _read(gateway: Gateway, counters: Sequence[Counter]) -> dict[str, Reading]:
    from extproc.stores.redis.counters import RedisCounters  # 60 ms that other verbs need not spend

    stores = gateway.stores
    store = RedisCounters(stores.counters, wait=_PATIENCE, prefix=stores.counters_prefix)
    found: dict[str, Reading] = {}
    try:
        for at in range(0, len(counters), _AT_ONCE):
            some = counters[at : at + _AT_ONCE]
            hold = f"look.{secrets.token_hex(8)}"
            answer = await store.reserve(budget.SLOT, hold, [Draw(counter, 0) for counter in some], _LIFE)
            await store.settle(budget.SLOT, hold, ())
            found |= zip([counter.key for counter in some], answer.readings, strict=True)
    finally:
        await store.close()
    return found


# ---- for people and for scripts ------------------------------------------------------------------


def _print(cells: Sequence[Mapping[str, str]]) -> None:
    """The columns that say anything, as far as there is room for them."""
    width = console().width
    if width < _TABLE:
        _print_lines(cells)
        return
    headings = {
        heading: heading in ("limit", "amount", "scope", "conditions")
        for heading in cells[0]
        if any(row[heading] for row in cells) and width >= _ROOM.get(heading, 0)
    }
    print_table(headings, (tuple(row[heading] for heading in headings) for row in cells))


def _print_lines(cells: Sequence[Mapping[str, str]]) -> None:
    """Two lines for each limit, where a table would cut names and amounts to pieces."""
    for row in cells:
        console().print(Text(f"{row['limit']}: {row['state']}" if row["state"] else row["limit"], style="bold"))
        known = {"by": row["scope"], **{name: row[name] for name in ("used", "left", "resets")}}
        facts = [row["amount"], *(f"{name} {value}" for name, value in known.items() if value)]
        console().print(Padding(Text(", ".join(facts)), (0, 0, 0, 2)))


def _cells(row: Row, reading: Reading | None, currency: str, now: int) -> dict[str, str]:
    """By their headings. Of a limit with many sums there is no reading."""
    limit, capacity = row.limit, row.counter.capacity
    return {
        "limit": _title(row),
        "amount": _bound(limit, capacity, currency, now),
        "scope": ", ".join(scope.value for scope in limit.scope),
        "used": _number(limit, reading.used) if reading else "",
        "left": _number(limit, max(0, capacity - reading.used)) if reading else "",
        "resets": _reset(row, reading) if reading else "",
        "state": _state(limit, capacity, reading),
        "conditions": more_words(limit),
    }


def _title(row: Row) -> str:
    """As the header x-sluice-limit has it, with whose it is and which sum, where that does not tell."""
    owner = [row.owner.removeprefix("key ")] if row.limit.owner.startswith(KEY_OWNER) else []
    more = ", ".join([*owner, *row.part.values()])
    return f"{row.limit.title} ({more})" if more else row.limit.title


def _bound(limit: Limit, capacity: int, currency: str, now: int) -> str:
    """What may be used; of a limit that is raised now what is declared, too."""
    raised = limit.raised
    if raised is None or raised.until <= now:
        return f"{_amount(limit, capacity, currency)} {_window(limit)}".rstrip()
    until = moment_words(raised.until, limit.zone)
    declared = f"{_amount(limit, limit.amount, currency)} {_window(limit)}".rstrip()
    return f"{declared}, raised to {_number(limit, capacity)} until {until}"


def _number(limit: Limit, units: int) -> str:
    """12,345 or 5,000.00."""
    if limit.measure is not Measure.MONEY:
        return f"{units:,}"
    whole, _, part = standing.amount(units).partition(".")
    return f"{int(whole):,}.{part}"


def _amount(limit: Limit, units: int, currency: str) -> str:
    match limit.measure:
        case Measure.MONEY:
            words = currency
        case Measure.CONCURRENT:
            words = "call at a time" if units == 1 else "calls at a time"
        case _:
            words = limit.measure.value.replace("_", " ")
            words = words.removesuffix("s") if units == 1 else words
    return f"{_number(limit, units)} {words}"


def _window(limit: Limit) -> str:
    if limit.period is not None:
        kind = "" if limit.period in (Period.DAY, Period.MONTH) else "calendar "
        return f"per {kind}{limit.period.value}"
    if not limit.sliding:
        return ""
    length, name, unit = next(known for known in _LENGTHS if limit.sliding % known[0] == 0)
    return f"per {name}" if limit.sliding == length else f"per {limit.sliding // length}{unit}"


def _reset(row: Row, reading: Reading) -> str:
    """When all of it is there again: the end of a calendar's window, in its zone, or how long a sliding one takes."""
    if row.counter.windows:
        return moment_words(row.counter.windows[0].end, row.limit.zone)
    return f"in {standing.duration(reading.reset)}" if reading.reset else ""


def _state(limit: Limit, capacity: int, reading: Reading | None) -> str:
    """Whether it refuses every call now; one that needs more than is left is refused before that."""
    is_shadow = limit.mode is Mode.SHADOW
    if reading is None:
        return "shadow" if is_shadow else ""
    if reading.used >= capacity:
        return "would refuse" if is_shadow else "refuses"
    if limit.warn_at and reading.used * 100 >= limit.warn_at[0] * capacity:
        return f"{reading.used * 100 // capacity} %"
    return "shadow" if is_shadow else "ok"


def _tell(gateway: Gateway, rows: Sequence[Row]) -> None:
    """Why there are limits of which the table does not say what is used."""
    if gateway.stores.counters == MEMORY:
        typer.echo(
            "What is used is known inside the running worker alone (stores.counters: memory://): its answers tell it "
            "in their headers. With a Redis it stands here, too. What was spent is in the ledger: `sluice usage`.",
            err=True,
        )
        return
    left_open = {scope for row in rows for scope in row.open}
    if left_open:
        options = dict.fromkeys(_NAMED_BY.get(scope, "--team") for scope in Scope if scope in left_open)
        typer.echo(f"Where nothing is said to be used, there are many sums: {', '.join(options)} names one.", err=True)


def _facts(row: Row, reading: Reading | None, currency: str) -> dict[str, object]:
    """Money as decimal text in the currency, everything else in whole units. `many`: scopes with a sum for each value,
    of which `used` and what follows from it cannot be told."""
    limit, capacity = row.limit, row.counter.capacity

    def units(amount: int) -> int | str:
        return standing.amount(amount) if limit.measure is Measure.MONEY else amount

    return {
        "limit": limit.title,
        "of": row.owner,
        "measure": limit.measure.value,
        "amount": units(capacity),
        "currency": currency if limit.measure is Measure.MONEY else None,
        "scope": [scope.value for scope in limit.scope],
        "part": {scope.value: value for scope, value in row.part.items()},
        "many": [scope.value for scope in limit.scope if scope in row.open],
        "mode": limit.mode.value,
        "used": units(reading.used) if reading else None,
        "left": units(max(0, capacity - reading.used)) if reading else None,
        "reset_ms": reading.reset if reading else None,
        "refuses": reading.used >= capacity and limit.mode is Mode.ENFORCE if reading else None,
        "words": limit_words(limit),
    }
