"""`sluice keys`: make, list and revoke keys."""

import json
import re
import secrets
import sys
from collections.abc import Iterator
from contextlib import closing, contextmanager
from datetime import UTC, datetime, timedelta
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from extproc import keys
from extproc.cli.settings import ConfigOption, configuration, fail
from extproc.config.schema import Gateway
from extproc.stores import sql
from extproc.stores.ports import KeyRecord, KeyStore, NameTaken, StoreUnavailable, UnknownKey

app = typer.Typer(
    help="Make, list and revoke the keys that callers use.", no_args_is_help=True, rich_markup_mode="rich"
)

JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON.")]
_LIFE = re.compile(r"([0-9]{1,5})([dh])")
_LONGEST_NAME = 100
_UNLIMITED = 10_000  # columns


@app.command()
def create(
    name: Annotated[str, typer.Argument(help="What the key is for; unique among keys in force.")],
    config: ConfigOption = None,
    expires: Annotated[str | None, typer.Option(help="How long it is valid: 30d, 12h. Default: for ever.")] = None,
    model: Annotated[list[str] | None, typer.Option(help="A model that it may use; repeat it. Default: all.")] = None,
    as_json: JsonOption = False,
) -> None:
    """Make a key and print it once. Only its SHA-256 is stored.

    [bold]Examples[/bold]

      sluice keys create my-app

      sluice keys create ci --expires 30d --model gpt-4o-mini

      sluice keys create ci --json | jq -r .key
    """
    _check_name(name)
    expires_at = _expiry(expires)
    gateway = configuration(config)
    models = _public_names(gateway, model) if model else None
    key = keys.mint(secrets.token_bytes(32))
    with _key_store(gateway) as store:
        try:
            record = store.create(name, keys.digest(key), keys.hint(key), expires_at, models)
        except NameTaken:
            fail(f"There is a key named {name!r} already. Revoke it first, or choose another name.")
    typer.echo(json.dumps({**_facts(record), "key": key}) if as_json else key)
    typer.echo("Keep it now: it is not stored and cannot be shown again.", err=True)


@app.command("list")
def list_keys(
    config: ConfigOption = None,
    everything: Annotated[bool, typer.Option("--all", help="Revoked and expired keys, too.")] = False,
    as_json: JsonOption = False,
) -> None:
    """List the keys, never a secret.

    [bold]Examples[/bold]

      sluice keys list

      sluice keys list --all --json
    """
    with _key_store(configuration(config)) as store:
        records = [record for record in store.list() if everything or _state(record) == "in force"]
    if as_json:
        typer.echo(json.dumps([_facts(record) for record in records]))
    elif records:
        # A terminal folds long names; a pipe gets one line a key.
        Console(width=None if sys.stdout.isatty() else _UNLIMITED).print(_table(records, everything))
    else:
        typer.echo("No keys. Make one: sluice keys create my-app", err=True)


@app.command()
def revoke(
    which: Annotated[str, typer.Argument(help="Name or hint of the key, as `list` shows them, or its id.")],
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """Revoke a key: it stops working in every worker within five seconds.

    [bold]Examples[/bold]

      sluice keys revoke my-app
    """
    _refuse_secret(which)
    with _key_store(configuration(config)) as store:
        try:
            record = store.revoke(which)
        except UnknownKey:
            fail(f"No key in force, or more than one, goes by {which!r}. `sluice keys list --json` shows their ids.")
    typer.echo(json.dumps(_facts(record)) if as_json else f"revoked {record.name} ({record.hint})")


@contextmanager
def _key_store(gateway: Gateway) -> Iterator[KeyStore]:
    """The keys of the configured database, brought to the newest schema first."""
    try:
        sql.upgrade(gateway.stores.database)
        with closing(sql.open_stores(gateway.stores.database)) as stores:
            yield stores.keys
    except StoreUnavailable as error:
        fail(f"{error}. Check stores.database.")


def _check_name(name: str) -> None:
    """Names stand in logs and tables, one to a line."""
    _refuse_secret(name)
    if not 0 < len(name) <= _LONGEST_NAME or not name.isprintable() or name != name.strip():
        raise typer.BadParameter(f"1 to {_LONGEST_NAME} printable characters, no space at its ends", param_hint="NAME")


def _refuse_secret(text: str) -> None:
    """A key where its name belongs would be stored and printed."""
    if text.startswith(keys.PREFIX) and text.isascii():  # a hint is not ASCII
        raise typer.BadParameter("that is a key, not the name of one. Revoke it if others can see this command line.")


def _public_names(gateway: Gateway, asked: list[str]) -> tuple[str, ...]:
    """The models by the names that keys are checked against; an alias stands for its model."""
    public = {spelled: name for name, model in gateway.models.items() for spelled in (name, *model.aliases)}
    unknown = [name for name in asked if name not in public]
    if unknown:
        fail(f"There is no model {unknown[0]!r} in the configuration. There are: {', '.join(gateway.models)}.")
    return tuple(dict.fromkeys(public[name] for name in asked))


def _expiry(expires: str | None) -> datetime | None:
    if expires is None:
        return None
    found = _LIFE.fullmatch(expires)
    if found is None or int(found[1]) == 0:
        raise typer.BadParameter("write it like 30d or 12h", param_hint="--expires")
    life = timedelta(days=int(found[1])) if found[2] == "d" else timedelta(hours=int(found[1]))
    return datetime.now(UTC) + life


def _table(records: list[KeyRecord], with_state: bool) -> Table:
    table = Table(box=None, pad_edge=False)
    table.add_column("name", overflow="fold")
    table.add_column("key", no_wrap=True)
    if with_state:
        table.add_column("state", no_wrap=True)
    table.add_column("expires (UTC)", no_wrap=True)
    table.add_column("models", overflow="fold")
    for record in records:
        models = "all" if record.models is None else ", ".join(record.models) or "none"
        state = [_state(record)] if with_state else []
        # As Text: a name may look like the table's markup.
        table.add_row(*map(Text, (record.name, record.hint, *state, _minute(record.expires_at), models)))
    return table


def _state(record: KeyRecord) -> str:
    if record.revoked_at is not None:
        return "revoked"
    if record.expires_at is not None and record.expires_at <= datetime.now(UTC):
        return "expired"
    return "in force"


def _minute(time: datetime | None) -> str:
    return "never" if time is None else time.astimezone(UTC).strftime("%Y-%m-%d %H:%M")


def _facts(record: KeyRecord) -> dict[str, object]:
    def text(time: datetime | None) -> str | None:
        return None if time is None else time.isoformat()

    return {
        "id": record.id,
        "name": record.name,
        "hint": record.hint,
        "state": _state(record),
        "created_at": text(record.created_at),
        "expires_at": text(record.expires_at),
        "revoked_at": text(record.revoked_at),
        "models": record.models,
    }
