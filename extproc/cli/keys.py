"""`sluice keys`: make, list and revoke keys."""

import json
import re
import secrets
from datetime import UTC, datetime, timedelta
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from extproc import keys
from extproc.cli.settings import ConfigOption, configuration, fail
from extproc.stores import sql
from extproc.stores.ports import KeyRecord, NameTaken, StoreUnavailable, UnknownKey

app = typer.Typer(
    help="Make, list and revoke the keys that callers use.", no_args_is_help=True, rich_markup_mode="rich"
)

JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON.")]
_LIFE = re.compile(r"(\d+)([dh])")


def _stores(config: ConfigOption) -> sql.Stores:
    database = configuration(config).stores.database
    try:
        sql.upgrade(database)
        return sql.open_stores(database)
    except StoreUnavailable as error:
        fail(f"{error}. Check stores.database.")


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

      sluice keys create ci --expires 30d --model gpt-4o-mini --model text-embedding-3-small
    """
    stores = _stores(config)
    key = keys.mint(secrets.token_bytes(32))
    try:
        record = stores.keys.create(
            name, keys.digest(key), keys.hint(key), _expiry(expires), tuple(model) if model else None
        )
    except NameTaken:
        fail(f"There is a key named {name!r} already. Revoke it first, or choose another name.")
    except StoreUnavailable as error:
        fail(str(error))
    if as_json:
        typer.echo(json.dumps({**_facts(record), "key": key}))
        return
    typer.echo(key)
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
    try:
        records = [record for record in _stores(config).keys.list() if everything or _state(record) == "in force"]
    except StoreUnavailable as error:
        fail(str(error))
    if as_json:
        typer.echo(json.dumps([_facts(record) for record in records]))
        return
    if not records:
        typer.echo("No keys. Make one: sluice keys create my-app", err=True)
        return
    table = Table("name", "key", "id", "state", "expires", "models", box=None)
    for record in records:
        models = "all" if record.models is None else ", ".join(record.models)
        table.add_row(record.name, record.hint, record.id, _state(record), _day(record.expires_at), models)
    Console().print(table)


@app.command()
def revoke(
    which: Annotated[str, typer.Argument(help="Name, id or hint of the key, as `list` shows them.")],
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """Revoke a key: in force in every worker within five seconds.

    [bold]Examples[/bold]

      sluice keys revoke my-app
    """
    try:
        record = _stores(config).keys.revoke(which)
    except UnknownKey:
        fail(f"No key, or more than one, goes by {which!r}. `sluice keys list` shows them; the id is unique.")
    except StoreUnavailable as error:
        fail(str(error))
    typer.echo(json.dumps(_facts(record)) if as_json else f"revoked {record.name} ({record.hint})")


def _expiry(expires: str | None) -> datetime | None:
    if expires is None:
        return None
    found = _LIFE.fullmatch(expires)
    if found is None or int(found[1]) == 0:
        raise typer.BadParameter("write it like 30d or 12h", param_hint="--expires")
    life = timedelta(days=int(found[1])) if found[2] == "d" else timedelta(hours=int(found[1]))
    return datetime.now(UTC) + life


def _state(record: KeyRecord) -> str:
    if record.revoked_at is not None:
        return "revoked"
    if record.expires_at is not None and record.expires_at <= datetime.now(UTC):
        return "expired"
    return "in force"


def _day(time: datetime | None) -> str:
    return "never" if time is None else time.strftime("%Y-%m-%d %H:%M")


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
