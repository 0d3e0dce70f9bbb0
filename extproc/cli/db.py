"""`sluice db`: the schema of the database."""

import json

import typer

from extproc.cli.keys import JsonOption
from extproc.cli.settings import ConfigOption, configuration, fail
from extproc.stores import sql
from extproc.stores.ports import StoreUnavailable
from extproc.stores.sql.migrations import Schema

app = typer.Typer(
    help="Bring the schema of the database to that of this version.", no_args_is_help=True, rich_markup_mode="rich"
)


@app.command()
def upgrade(config: ConfigOption = None, as_json: JsonOption = False) -> None:
    """Run the migrations that lack, all or none of them. Where none lacks, nothing happens.

    [bold]Examples[/bold]

      sluice db upgrade

      SLUICE__STORES__DATABASE=postgresql+psycopg://owner@db/sluice sluice db upgrade
    """
    url = configuration(config).stores.database
    try:
        before = sql.schema(url)
        if not before.is_shared and before.is_known:
            typer.echo(_TAKES_AWAY, err=True)
        sql.upgrade(url)
    except StoreUnavailable as error:
        fail(f"{error}. Check stores.database.")
    if as_json:
        typer.echo(json.dumps({"from": before.found, "to": before.newest if before.is_known else before.found}))
    elif not before.is_known:
        typer.echo(f"The database is at {before.found}: {_ADVICE['newer']}")
    elif before.is_current:
        typer.echo(f"The database is at {before.newest} already, the newest.")
    else:
        typer.echo(f"The database is at {before.newest} now; it was {_named(before)}.")


@app.command()
def check(config: ConfigOption = None, as_json: JsonOption = False) -> None:
    """Say which revision the schema has, and which this version needs. Changes nothing.

    Exit code 1: this version does not start on it.

    [bold]Examples[/bold]

      sluice db check

      sluice db check --json
    """
    url = configuration(config).stores.database
    try:
        stands = sql.schema(url)
    except StoreUnavailable as error:
        fail(f"{error}. Check stores.database.")
    if as_json:
        told = {"revision": stands.found, "newest": stands.newest, "state": _state(stands), "shared": stands.is_shared}
        typer.echo(json.dumps(told))
    else:
        typer.echo(f"The database is {_named(stands)}; this version needs {stands.newest}: {_advice(stands)}")
    if _state(stands) == "behind" or not stands.is_shared:
        raise typer.Exit(1)


_ADVICE = {
    "current": "nothing to do.",
    "behind": "run `sluice db upgrade`.",
    "newer": "it was written by a newer version of Sluice, and this one can live with its schema.",
}
_TAKES_AWAY = (
    "This changes what gateways of the version before use: those that run may fail from now on, and do not start again."
)


def _advice(stands: Schema) -> str:
    if stands.is_shared:
        return _ADVICE[_state(stands)]
    if stands.is_known:
        return "end the gateways of the version before, which cannot live with it, and run `sluice db upgrade`."
    return "it was written by a newer version of Sluice. Use that."


def _state(stands: Schema) -> str:
    if stands.is_current:
        return "current"
    return "behind" if stands.is_known else "newer"


def _named(stands: Schema) -> str:
    return "empty" if stands.found is None else f"at {stands.found}"
