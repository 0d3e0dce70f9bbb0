"""`sluice keys`: make, list, rotate, suspend and revoke keys."""

import json
import re
import secrets
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from datetime import UTC, datetime, timedelta
from ipaddress import ip_network
from typing import Annotated

import typer

from extproc.cli.key_limits import limits
from extproc.cli.settings import ConfigOption, configuration, fail
from extproc.cli.tables import console, print_table
from extproc.config.schema import Gateway
from extproc.gitops.limit_words import limit_words, short_words
from extproc.identity import keys
from extproc.identity.claims import folded
from extproc.limits.limit import Priority
from extproc.stores import sql
from extproc.stores.memory import one_key
from extproc.stores.ports import (
    DirectoryState,
    DirectoryStore,
    KeyRecord,
    KeySpec,
    MemberKind,
    MintedKey,
    NameTaken,
    StopScope,
    StoreUnavailable,
    UnknownKey,
    UnknownTeam,
)
from extproc.surfaces import ALLOWABLE

app = typer.Typer(
    help="Make, list, rotate, suspend and revoke the keys that callers use.",
    no_args_is_help=True,
    rich_markup_mode="rich",
)

JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON.")]
WhichArgument = Annotated[
    str, typer.Argument(help="Name, team/name or hint of the key, as `list` shows it, or its id.")
]
AccountOption = Annotated[str | None, typer.Option(help="The service account of the team that it stands for.")]
SurfaceOption = Annotated[
    list[str] | None, typer.Option(help="An API that it may use, such as chat; repeat it. Default: all.")
]
RangeOption = Annotated[
    list[str] | None, typer.Option(help="From where it may be used: 10.1.0.0/16; repeat it. Default: anywhere.")
]
LimitOption = Annotated[
    list[str] | None,
    typer.Option(
        "--limit", help="What it may use: tokens=100000/minute, concurrent=5, money=20/month (UTC); repeat it."
    ),
]
_LIFE = re.compile(r"([0-9]{1,5})([dh])")
_SECRET = re.compile(rf"{keys.PREFIX}[0-9A-Za-z]")  # a hint goes on with an ellipsis
_LONGEST_NAME = 100
_LONGEST_WHICH = 400  # a team and a name, as older versions allowed them
_ALL_COLUMNS = 110  # columns of a terminal that has room for every column of the table


@app.command()
def create(
    name: Annotated[str, typer.Argument(help="What the key is for; unique in its team among keys in force.")],
    config: ConfigOption = None,
    team: Annotated[str | None, typer.Option(help="The team it belongs to. Default: none.")] = None,
    user: Annotated[str | None, typer.Option(help="The member of the team that it stands for.")] = None,
    service_account: AccountOption = None,
    environment: Annotated[str | None, typer.Option(help="A label, such as production.")] = None,
    expires: Annotated[str | None, typer.Option(help="How long it is valid: 30d, 12h. Default: for ever.")] = None,
    model: Annotated[list[str] | None, typer.Option(help="A model that it may use; repeat it. Default: all.")] = None,
    surface: SurfaceOption = None,
    ip_range: RangeOption = None,
    limit: LimitOption = None,
    priority: Annotated[str, typer.Option(help="The highest class that its calls may have: high or low.")] = "high",
    as_json: JsonOption = False,
) -> None:
    """Make a key and print it once. Only its SHA-256 is stored. Every worker knows it within two seconds.

    [bold]Examples[/bold]

      sluice keys create my-app

      sluice keys create ci --team payments --service-account ci --expires 90d --model gpt-4o-mini

      sluice keys create nightly --limit tokens=100000/minute --limit concurrent=5 --priority low

      sluice keys create ci --json | jq -r .key
    """
    check_text("NAME", name, _LONGEST_NAME)
    check_text("--team", team, 63)
    check_text("--environment", environment, 63)
    _check_holder(user, service_account)
    gateway = configuration(config)
    spec = KeySpec(
        name=name,
        team=team or "",
        user=None if user is None else folded(user),
        service_account=service_account,
        environment=environment,
        lifetime=_duration(expires, "--expires"),
        models=_public_names(gateway, model) if model else None,
        surfaces=_surfaces(surface),
        ip_ranges=_ranges(ip_range or []),
        limits=limits(gateway, limit or ()),
        priority=_priority(priority),
    )
    key = keys.mint(secrets.token_bytes(32))
    with directory(gateway) as store:
        record = _store(store, MintedKey(spec, keys.digest(key), keys.hint(key)))
    _tell_secret(key, as_json, _facts(record))


@app.command("list")
def list_keys(
    config: ConfigOption = None,
    team: Annotated[str | None, typer.Option(help="Keys of this team only.")] = None,
    everything: Annotated[bool, typer.Option("--all", help="Revoked and expired keys, too.")] = False,
    as_json: JsonOption = False,
) -> None:
    """List the keys, never a secret. A narrow terminal leaves out whom a key is for and its models.

    [bold]Examples[/bold]

      sluice keys list --team payments

      sluice keys list --all --json
    """
    with directory(configuration(config), upgrade=False) as store:
        records = [
            record
            for record in store.state().keys
            if (everything or _state(record) not in ("revoked", "expired"))
            and (team is None or record.spec.team == team)
        ]
    if as_json:
        typer.echo(json.dumps([_facts(record) for record in records]))
    elif records:
        _print(records, every_column=console().width >= _ALL_COLUMNS)
    else:
        typer.echo("No keys. Make one: sluice keys create my-app", err=True)


@app.command()
def rotate(
    which: WhichArgument,
    config: ConfigOption = None,
    overlap: Annotated[str, typer.Option(help="How long the old key works besides the new one: 24h, 7d.")] = "24h",
    as_json: JsonOption = False,
) -> None:
    """Make a successor with the same rights, print it once, and let the old key end after the overlap.

    [bold]Examples[/bold]

      sluice keys rotate payments/ci --overlap 7d
    """
    check_text("WHICH", which, _LONGEST_WHICH)
    life = _duration(overlap, "--overlap") or timedelta()
    key = keys.mint(secrets.token_bytes(32))
    with directory(configuration(config)) as store:
        try:
            _refuse_stopped(store.state(), which)
            old, new = store.rotate(which, keys.digest(key), keys.hint(key), life)
        except UnknownKey:
            fail(f"No key in force, or more than one, goes by {which!r}, or it has a successor already.")
    _tell_secret(key, as_json, {**_facts(new), "replaces": _facts(old)})
    typer.echo(f"The old key {old.hint} works until {_minute(old.expires_at)} UTC.", err=True)


@app.command()
def suspend(which: WhichArgument, config: ConfigOption = None, as_json: JsonOption = False) -> None:
    """Take a key out of force until it is resumed; in every worker within five seconds.

    A name means all keys of it, those in the overlap of a rotation too; a hint or an id means that one.

    [bold]Examples[/bold]

      sluice keys suspend payments/ci
    """
    _change(which, config, as_json, "suspended", lambda store: store.suspend(which))


@app.command()
def resume(which: WhichArgument, config: ConfigOption = None, as_json: JsonOption = False) -> None:
    """Put a suspended key in force again; a name means all keys of it.

    [bold]Examples[/bold]

      sluice keys resume payments/ci
    """
    _change(which, config, as_json, "in force", lambda store: store.resume(which))


@app.command()
def revoke(which: WhichArgument, config: ConfigOption = None, as_json: JsonOption = False) -> None:
    """Revoke a key for ever: it stops working in every worker within five seconds.

    A name means all keys of it, those in the overlap of a rotation too; a hint or an id means that one.

    [bold]Examples[/bold]

      sluice keys revoke my-app
    """
    _change(which, config, as_json, "revoked", lambda store: store.revoke(which))


@contextmanager
def directory(gateway: Gateway, upgrade: bool = True) -> Iterator[DirectoryStore]:
    """The directory of the configured database, brought to the newest schema first, where that is allowed.

    Who only reads does not `upgrade` it: a gateway of an older version may be running on it.
    """
    try:
        sql.ready(gateway.stores.database, upgrade and gateway.stores.migrate)
        with closing(sql.open_stores(gateway.stores.database)) as stores:
            yield stores.directory
    except StoreUnavailable as error:
        fail(f"{error}. Check stores.database.")


def _change(
    which: str,
    config: ConfigOption,
    as_json: bool,
    done: str,
    change: Callable[[DirectoryStore], tuple[KeyRecord, ...]],
) -> None:
    check_text("WHICH", which, _LONGEST_WHICH)
    with directory(configuration(config)) as store:
        try:
            records = change(store)
        except UnknownKey:
            fail(f"No key in force, or more than one, goes by {which!r}. `sluice keys list --json` shows their ids.")
    if as_json:
        typer.echo(json.dumps([_facts(record) for record in records]))
    else:
        for record in records:
            typer.echo(f"{done}: {full_name(record)} ({record.hint})")


def _refuse_stopped(state: DirectoryState, which: str) -> None:
    """A successor of a stopped key would be stopped too. Raises UnknownKey."""
    lineage = one_key(which, state.keys).lineage
    if any((stop.scope, stop.name) == (StopScope.KEY, lineage) for stop in state.stops):
        fail(
            f"An emergency stop is on {which!r}, and would be on its successor. Revoke it and create another, "
            f"or lift the stop first."
        )


def _store(store: DirectoryStore, key: MintedKey) -> KeyRecord:
    name, team = key.spec.name, key.spec.team
    _check_owner(store, key.spec)
    try:
        return store.create(key)
    except NameTaken:
        where = f" in the team {team!r}" if team else ""
        fail(f"There is a key named {name!r}{where} already. Revoke it first, or choose another name.")
    except UnknownTeam:
        fail(f"There is no team {team!r}. Teams come from team files, by `sluice apply`.")


def _tell_secret(key: str, as_json: bool, facts: dict[str, object]) -> None:
    typer.echo(json.dumps({**facts, "key": key}) if as_json else key)
    typer.echo("Keep it now: it is not stored and cannot be shown again. It works within two seconds.", err=True)


def _check_owner(store: DirectoryStore, spec: KeySpec) -> None:
    """A key for somebody who is not in the team would never work."""
    if spec.user is None and spec.service_account is None:
        return
    if not spec.team:
        raise typer.BadParameter("name the team, too", param_hint="--user, --service-account")
    team = next((team for team in store.state().teams if team.name == spec.team), None)
    kind = MemberKind.USER if spec.user is not None else MemberKind.SERVICE_ACCOUNT
    known = {member.name for member in team.members if member.kind is kind} if team else set()
    if team is not None and (spec.user or spec.service_account) not in known:
        what = "user" if kind is MemberKind.USER else "service account"
        fail(f"The team {spec.team!r} has no {what} {spec.user or spec.service_account!r}. Its file says who is in it.")


def _check_holder(user: str | None, service_account: str | None) -> None:
    check_text("--user", user, 320)
    check_text("--service-account", service_account, 200)
    if user is not None and service_account is not None:
        raise typer.BadParameter("a key stands for one of them", param_hint="--user, --service-account")


def check_text(option: str, text: str | None, longest: int) -> None:
    """Names stand in logs and tables, one to a line; a key where its name belongs would be stored and printed."""
    if text is None:
        return
    refuse_secret(text)
    if not 0 < len(text) <= longest or not text.isprintable() or text != text.strip():
        raise typer.BadParameter(f"1 to {longest} printable characters, no space at its ends", param_hint=option)


def refuse_secret(text: str) -> None:
    """Refuse, without quoting it, what has a key in it."""
    if _SECRET.search(text):
        raise typer.BadParameter("there is a key in it, not the name of one. Revoke it if others can see this line.")


def _public_names(gateway: Gateway, asked: list[str]) -> tuple[str, ...]:
    """The models by the names that keys are checked against; an alias stands for its model."""
    refuse_secret(" ".join(asked))
    public = {spelled: name for name, model in gateway.models.items() for spelled in (name, *model.aliases)}
    unknown = [name for name in asked if name not in public]
    if unknown:
        fail(f"There is no model {unknown[0]!r} in the configuration. There are: {', '.join(gateway.models)}.")
    return tuple(dict.fromkeys(public[name] for name in asked))


def _surfaces(asked: list[str] | None) -> tuple[str, ...] | None:
    refuse_secret(" ".join(asked or ()))
    unknown = [name for name in asked or () if name not in ALLOWABLE]
    if unknown:
        raise typer.BadParameter(f"{unknown[0]!r} is none of {', '.join(ALLOWABLE)}", param_hint="--surface")
    return tuple(dict.fromkeys(asked)) if asked else None


def _priority(given: str) -> Priority:
    if given not in list(Priority):
        raise typer.BadParameter(f"write {' or '.join(Priority)}", param_hint="--priority")
    return Priority(given)


def _ranges(asked: list[str]) -> tuple[str, ...]:
    try:
        return tuple(dict.fromkeys(str(ip_network(given)) for given in asked))
    except ValueError:
        raise typer.BadParameter("write addresses or ranges, like 10.1.0.0/16", param_hint="--ip-range") from None


def _duration(given: str | None, option: str) -> timedelta | None:
    if given is None:
        return None
    found = _LIFE.fullmatch(given)
    if found is None or int(found[1]) == 0:
        raise typer.BadParameter("write it like 30d or 12h", param_hint=option)
    return timedelta(days=int(found[1])) if found[2] == "d" else timedelta(hours=int(found[1]))


def _print(records: list[KeyRecord], every_column: bool) -> None:
    headings = {"name": True, "key": False, "state": False, "expires (UTC)": False, "last used": False}
    if every_column:
        headings |= {"for": True, "models": True}
    if any(map(_bounds, records)):
        headings |= {"limits": True}
    rows = map(_row, records)
    print_table(headings, (tuple(row[heading] for heading in headings) for row in rows))


def _row(record: KeyRecord) -> dict[str, str]:
    """The cells by their headings."""
    spec, used = record.spec, record.last_used_at
    return {
        "name": full_name(record),
        "key": record.hint,
        "state": _state(record),
        "expires (UTC)": _minute(record.expires_at),
        "last used": "never" if used is None else used.strftime("%Y-%m-%d"),
        "for": spec.user or spec.service_account or "",
        "models": "all" if spec.models is None else ", ".join(spec.models) or "none",
        "limits": _bounds(record),
    }


def _bounds(record: KeyRecord) -> str:
    """Its limits in short, and a class that is not the usual one; all that they say is in the JSON."""
    low = ["low priority"] if record.spec.priority is Priority.LOW else []
    return ", ".join([*map(short_words, record.spec.limits), *low])


def full_name(record: KeyRecord) -> str:
    """The name with its team, which tells a key from those of other teams."""
    return f"{record.spec.team}/{record.spec.name}" if record.spec.team else record.spec.name


def _state(record: KeyRecord) -> str:
    if record.revoked_at is not None:
        return "revoked"
    if record.expires_at is not None and record.expires_at <= datetime.now(UTC):
        return "expired"
    if record.suspended_at is not None:
        return "suspended"
    return "ending" if record.replaced_by is not None else "in force"


def _minute(time: datetime | None) -> str:
    return "never" if time is None else time.astimezone(UTC).strftime("%Y-%m-%d %H:%M")


def _facts(record: KeyRecord) -> dict[str, object]:
    def text(time: datetime | None) -> str | None:
        return None if time is None else time.isoformat()

    spec = record.spec
    return {
        "id": record.id,
        "name": spec.name,
        "team": spec.team or None,
        "user": spec.user,
        "service_account": spec.service_account,
        "environment": spec.environment,
        "hint": record.hint,
        "state": _state(record),
        "created_at": text(record.created_at),
        "expires_at": text(record.expires_at),
        "suspended_at": text(record.suspended_at),
        "revoked_at": text(record.revoked_at),
        "last_used_at": text(record.last_used_at),
        "models": spec.models,
        "surfaces": spec.surfaces,
        "ip_ranges": list(spec.ip_ranges),
        "limits": {limit.name: limit_words(limit) for limit in spec.limits},
        "priority": spec.priority.value,
    }
