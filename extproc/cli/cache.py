"""`sluice cache`: what is kept of answers, and how to forget it."""

import asyncio
import json
import sys
import time
from collections.abc import AsyncIterator, Collection, Coroutine, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from operator import itemgetter
from typing import Annotated, NoReturn, TypeVar

import typer

from extproc.cli.keys import JsonOption, check_text, directory
from extproc.cli.plan_text import number
from extproc.cli.settings import ConfigOption, configuration, fail
from extproc.cli.tables import print_table
from extproc.config.fields import duration
from extproc.config.problems import did_you_mean
from extproc.config.schema import Gateway
from extproc.config.stores import MEMORY
from extproc.stores.answers import BESIDE, AnswerStore, AnswersUnavailable, Kept, Labels

app = typer.Typer(help="See what is kept of answers, and forget it.", no_args_is_help=True, rich_markup_mode="rich")

TeamOption = Annotated[str | None, typer.Option(help="Answers to this team.")]
NoTeamOption = Annotated[bool, typer.Option("--no-team", help="Answers to callers without a team.")]
ModelOption = Annotated[str | None, typer.Option(help="Answers of this model.")]
KeyOption = Annotated[
    str | None,
    typer.Option(
        help="Answers that this key asked for, and its predecessors and successors: name, team/name, hint or id."
    ),
]
AgeOption = Annotated[str | None, typer.Option("--older-than", help="Answers that were made so long ago: 12h, 7d.")]

Done = TypeVar("Done")

_PATIENCE = 2.0  # seconds that a person waits for an answer of the store
_LONGEST = 400
_CHOOSING = "--team, --no-team, --model, --key, --older-than"
_UNITS = ((2**30, "GiB"), (2**20, "MiB"), (2**10, "KiB"))


@dataclass(frozen=True, slots=True)
class Selection:
    """Of which answers there is talk; None: of any. `team` is empty for those without one. `before`: when the newest of
    them was made, in Unix time in ms.
    """

    team: str | None = None
    model: str | None = None
    keys: frozenset[str] | None = None  # by their ids
    before: int | None = None

    def holds(self, kept: Kept) -> bool:
        labels = kept.labels
        return (
            (self.team is None or labels.team == self.team)
            and (self.model is None or labels.model == self.model)
            and (self.keys is None or labels.key in self.keys)
            and (self.before is None or kept.made <= self.before)
        )


@dataclass(slots=True)
class Count:
    """How much is kept. Times are milliseconds of Unix time, bytes those that `cache.size` bounds."""

    answers: int = 0
    size: int = 0
    oldest: int = 0  # of none, nothing
    newest: int = 0

    def take(self, other: "Count") -> None:
        """Count these as well."""
        self.oldest = min(self.oldest, other.oldest) if self.answers else other.oldest
        self.newest = max(self.newest, other.newest)
        self.answers += other.answers
        self.size += other.size


Counts = Mapping[Labels, Count]


@app.command()
def stats(
    config: ConfigOption = None,
    team: TeamOption = None,
    no_team: NoTeamOption = False,
    model: ModelOption = None,
    key: KeyOption = None,
    older_than: AgeOption = None,
    as_json: JsonOption = False,
) -> None:
    """Show how many answers are kept, by team and model, with what they take of `cache.size` and their ages.

    [bold]Examples[/bold]

      sluice cache stats

      sluice cache stats --team search --older-than 12h --json
    """
    gateway = _reachable(configuration(config))
    selection = _selection(gateway, _team(team, no_team), model, key, older_than)
    counts = _found(gateway, selection)
    size = int(gateway.cache.size)
    if as_json:
        typer.echo(json.dumps(_facts(counts, size)))
    elif counts:
        _print(counts, ("cache.size", "", "", _size(size), "", ""))
    else:
        told = "Nothing is kept yet." if selection == Selection() else "No such answers are kept."
        typer.echo(told, err=True)


@app.command()
def purge(
    config: ConfigOption = None,
    team: TeamOption = None,
    no_team: NoTeamOption = False,
    model: ModelOption = None,
    key: KeyOption = None,
    older_than: AgeOption = None,
    everything: Annotated[bool, typer.Option("--all", help="Every answer.")] = False,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Forget answers at once, and those that are just being made: no worker gives one again.

    `sluice cache stats` with the same options shows which.

    [bold]Examples[/bold]

      sluice cache purge --team search

      sluice cache purge --model gpt-4o --older-than 12h --yes

      sluice cache purge --all
    """
    team = _team(team, no_team)
    _check_chosen([team, model, key, older_than], everything)
    gateway = _reachable(configuration(config))
    selection = _selection(gateway, team, model, key, older_than)
    counts = _found(gateway, selection)
    if not yes:
        _ask(counts, as_json)
    gone = _done(gateway, _purge(gateway, selection))
    typer.echo(json.dumps({"forgotten": gone}) if as_json else f"Forgotten: {number(gone, 'answer')}.")


# ---- which answers -----------------------------------------------------------------------------------


def _check_chosen(chosen: Sequence[str | None], everything: bool) -> None:
    is_some = any(one is not None for one in chosen)
    if is_some == everything:
        message = "goes with no other option" if everything else "say which answers, or --all"
        raise typer.BadParameter(message, param_hint="--all" if everything else _CHOOSING)


def _team(named: str | None, is_none: bool) -> str | None:
    """The team that was chosen: empty for none. An empty name is refused: a script's variable may not be set."""
    if named is not None and is_none:
        raise typer.BadParameter("give one of --team and --no-team, not both", param_hint="--no-team")
    check_text("--team", named, _LONGEST)
    return "" if is_none else named


def _selection(
    gateway: Gateway, team: str | None, model: str | None, key: str | None, older_than: str | None
) -> Selection:
    for option, text in (("--model", model), ("--key", key)):
        check_text(option, text, _LONGEST)
    age = _age(older_than)
    before = None if age is None else time.time_ns() // 1_000_000 - age // timedelta(milliseconds=1)
    public = gateway.public_names()
    return Selection(
        team=team,
        model=None if model is None else public.get(model, model),
        keys=None if key is None else _line(gateway, key),
        before=before,
    )


def _age(written: str | None) -> timedelta | None:
    if written is None:
        return None
    try:
        found = duration(written)
    except ValueError:
        found = None
    if not isinstance(found, timedelta):
        raise typer.BadParameter("write it like 90s, 12h or 7d", param_hint="--older-than")
    return found


def _line(gateway: Gateway, which: str) -> frozenset[str]:
    """The ids of a key with all that it took the place of, revoked ones too; of what is no key, its own."""
    with directory(gateway, upgrade=False) as store:
        known = store.state().keys
    meant = [key for key in known if which in (key.id, key.hint, key.spec.name, f"{key.spec.team}/{key.spec.name}")]
    lines = {key.lineage for key in meant}
    if len({key.spec.team for key in meant}) > 1:
        fail(f"Keys of several teams go by {which!r}. Name the team, too, as in team/name.")
    return frozenset(key.id for key in known if key.lineage in lines) or frozenset((which,))


def _found(gateway: Gateway, selection: Selection) -> Counts:
    """What is kept of them. Where that is nothing, a name that nobody has ends the command: it may be a mistake."""
    counts = _done(gateway, _counted(gateway, selection))
    if not counts and (selection.team or selection.model or selection.keys):
        _check_names(gateway, selection, _done(gateway, _counted(gateway, Selection())).keys())
    return counts


def _check_names(gateway: Gateway, selection: Selection, kept: Collection[Labels]) -> None:
    with directory(gateway, upgrade=False) as store:
        state = store.state()
    teams = {team.name for team in state.teams} | {labels.team for labels in kept}
    models = gateway.models.keys() | {labels.model for labels in kept}
    keys = {key.id for key in state.keys} | {labels.key for labels in kept}
    if selection.team and selection.team not in teams:
        fail(f"There is no team {selection.team!r}, and nothing is kept of one{did_you_mean(selection.team, teams)}.")
    if selection.model is not None and selection.model not in models:
        hint = did_you_mean(selection.model, models)
        fail(f"There is no model {selection.model!r} in the configuration, and nothing is kept of one{hint}.")
    if selection.keys is not None and keys.isdisjoint(selection.keys):
        fail("No key goes by that, and nothing is kept of one. `sluice keys list --all --json` shows their ids.")


# ---- the store ---------------------------------------------------------------------------------------


def _reachable(gateway: Gateway) -> Gateway:
    """The gateway, where its answers can be seen from outside; else the command ends."""
    if gateway.stores.answers_at == MEMORY:
        _of_workers()
    return gateway


def _of_workers() -> NoReturn:
    typer.secho(
        "Each worker keeps its answers in its own memory (stores.answers: memory://), and nobody else sees them: they "
        "end with it. Restart the gateway to forget them, or name a Redis in stores.answers.",
        err=True,
        fg=typer.colors.RED,
    )
    raise typer.Exit(2)


@asynccontextmanager
async def _open(gateway: Gateway) -> AsyncIterator[AnswerStore]:
    from extproc.stores.redis.answers import RedisAnswers  # 60 ms that other verbs need not spend

    stores = gateway.stores
    store = RedisAnswers(stores.answers_at, _PATIENCE, stores.counters_prefix, int(gateway.cache.size))
    try:
        yield store
    finally:
        await store.close()


async def _counted(gateway: Gateway, selection: Selection) -> Counts:
    counts: dict[Labels, Count] = {}
    async with _open(gateway) as store:
        async for some in store.all():
            for kept in filter(selection.holds, some):
                counts.setdefault(kept.labels, Count()).take(Count(1, kept.size + BESIDE, kept.made, kept.made))
    return counts


async def _purge(gateway: Gateway, selection: Selection) -> int:
    async with _open(gateway) as store:
        return await store.purge(selection.holds)


def _done(gateway: Gateway, work: Coroutine[None, None, Done]) -> Done:
    try:
        return asyncio.run(work)
    except AnswersUnavailable:
        trouble = "does not take the user or password" if _is_shut(gateway.stores.answers_at) else "does not answer"
        fail(f"The store of answers {trouble}. Check stores.answers, and run this again.")


def _is_shut(url: str) -> bool:
    """Whether Redis is there and lets us do nothing, which the connection that all calls share does not tell apart."""
    from redis import Redis
    from redis.exceptions import AuthenticationError, RedisError

    from extproc.stores.redis.login import login_of

    plain, login = login_of(url)
    patience = {"socket_connect_timeout": _PATIENCE, "socket_timeout": _PATIENCE}
    try:
        with Redis.from_url(plain, credential_provider=login, **patience) as client:
            client.ping()
    except AuthenticationError:
        return True
    except (OSError, RedisError):  # also where the file of the password is not there
        pass
    return False


# ---- for people and for scripts ----------------------------------------------------------------------


def _ask(counts: Counts, as_json: bool) -> None:
    """Show what would go, and let somebody say so; else the command ends."""
    if counts:
        _print(counts, to_stderr=as_json)
    told = f"{number(_total(counts.values()).answers, 'answer')} would be forgotten, and what is just being made."
    if not sys.stdin.isatty():
        fail(f"{told} Nobody is there to ask: give --yes. Nothing was changed.")
    if not typer.confirm(f"{told} Go on?", err=True):
        fail("Nothing was changed.")


def _total(counts: Iterable[Count]) -> Count:
    total = Count()
    for one in counts:
        total.take(one)
    return total


def _by_model(counts: Counts) -> list[tuple[str, str, Count]]:
    """Of all keys together, by team, which may be none, and model."""
    together: dict[tuple[str, str], Count] = {}
    for labels, count in counts.items():
        together.setdefault((labels.team, labels.model), Count()).take(count)
    return [(*named, count) for named, count in sorted(together.items(), key=itemgetter(0))]


def _print(counts: Counts, *below: tuple[str, ...], to_stderr: bool = False) -> None:
    headings = {
        "team": True,
        "model": True,
        "answers": False,
        "size": False,
        "oldest (UTC)": False,
        "newest (UTC)": False,
    }
    rows = [_row(team or "(no team)", model, count) for team, model, count in _by_model(counts)]
    print_table(headings, [*rows, _row("total", "", _total(counts.values())), *below], to_stderr)


def _row(team: str, model: str, count: Count) -> tuple[str, ...]:
    return (team, model, f"{count.answers:,}", _size(count.size), _minute(count.oldest), _minute(count.newest))


def _size(size: int) -> str:
    """12.3 MiB, or 900 B."""
    length, unit = next((one for one in _UNITS if size >= one[0]), (1, "B"))
    return f"{size / length:,.1f} {unit}" if length > 1 else f"{size} B"


def _minute(milliseconds: int) -> str:
    return _moment(milliseconds).strftime("%Y-%m-%d %H:%M")


def _moment(milliseconds: int) -> datetime:
    return datetime.fromtimestamp(milliseconds / 1000, UTC)


def _facts(counts: Counts, size: int) -> dict[str, object]:
    """`size`: bytes that all answers may take; `team` is null of callers without one."""
    parts = [{"team": team or None, "model": model, **_amounts(count)} for team, model, count in _by_model(counts)]
    return {**_amounts(_total(counts.values())), "size": size, "by": parts}


def _amounts(count: Count) -> dict[str, object]:
    def text(milliseconds: int) -> str | None:
        return _moment(milliseconds).isoformat(timespec="seconds") if count.answers else None

    return {
        "answers": count.answers,
        "bytes": count.size,
        "oldest": text(count.oldest),
        "newest": text(count.newest),
    }
