"""`sluice emergency`: take callers, models and backends out of service at once, whatever the files declare."""

import contextlib
import json
from typing import Annotated
from unicodedata import normalize

import typer

from extproc.cli.keys import JsonOption, check_text, directory, full_name
from extproc.cli.settings import ConfigOption, configuration, fail
from extproc.cli.tables import print_table
from extproc.config.byob import entries, own_name
from extproc.config.schema import Gateway
from extproc.identity.claims import folded
from extproc.stores.memory import one_key
from extproc.stores.ports import DirectoryState, KeyRecord, Stop, StopScope, UnknownKey

app = typer.Typer(
    help="Take callers, models or backends out of service at once, whatever the files declare, until it is lifted.",
    no_args_is_help=True,
    rich_markup_mode="rich",
)

_LONGEST_NAME = 320
_LONGEST_REASON = 500


def scope(given: str) -> StopScope:
    """The scope of this name. What is refused is not quoted: it may be a key."""
    try:
        return StopScope(given)
    except ValueError:
        raise typer.BadParameter(f"write one of {', '.join(StopScope)}") from None


ScopeArgument = Annotated[
    StopScope,
    typer.Argument(metavar="SCOPE", parser=scope, show_choices=False, help=f"One of {', '.join(StopScope)}."),
]
NameArgument = Annotated[
    str,
    typer.Argument(
        metavar="NAME",
        show_default=False,
        help="Which one; none for everything. A key by its name, hint or id, or by the key_id of a record.",
    ),
]


@app.command()
def stop(
    scope: ScopeArgument,
    name: NameArgument = "",
    config: ConfigOption = None,
    reason: Annotated[str, typer.Option(help="Why, for those who find it.")] = "",
    as_json: JsonOption = False,
) -> None:
    """Refuse every call of the scope, in every worker within five seconds. Live streams go on to their end.

    [bold]Examples[/bold]

      sluice emergency stop team payments --reason "key on a public page"

      sluice emergency stop backend swe --reason "answers of other customers"

      sluice emergency stop everything
    """
    _check_name(scope, name)
    if reason:
        check_text("--reason", reason, _LONGEST_REASON)
    gateway = configuration(config)
    with directory(gateway) as store:
        state = store.state()
        made = store.stop(scope, _to_stop(gateway, state, scope, name), reason)
    typer.echo(json.dumps(_facts(made)) if as_json else f"stopped: {_title(made.scope, made.name, state)}")


@app.command()
def lift(scope: ScopeArgument, name: NameArgument = "", config: ConfigOption = None) -> None:
    """End an emergency stop.

    [bold]Examples[/bold]

      sluice emergency lift team payments
    """
    _check_name(scope, name)
    gateway = configuration(config)
    with directory(gateway) as store:
        state = store.state()
        stopped = _stopped(state, scope, _public(gateway, scope, name))
        if not store.lift(scope, stopped):
            fail("There is no such stop. `sluice emergency list` shows them.")
    typer.echo(f"in service again: {_title(scope, stopped, state)}")


@app.command("list")
def list_stops(config: ConfigOption = None, as_json: JsonOption = False) -> None:
    """List the emergency stops in force.

    [bold]Examples[/bold]

      sluice emergency list --json
    """
    with directory(configuration(config), upgrade=False) as store:
        state = store.state()
    if as_json:
        typer.echo(json.dumps([_facts(made) for made in state.stops]))
    elif state.stops:
        rows = (
            (_title(made.scope, made.name, state), made.created_at.strftime("%Y-%m-%d %H:%M"), made.reason)
            for made in state.stops
        )
        print_table({"stopped": True, "since (UTC)": False, "reason": True}, rows)
    else:
        typer.echo("Nothing is stopped.", err=True)


def _check_name(scope: StopScope, name: str) -> None:
    if (scope is StopScope.EVERYTHING) != (name == ""):
        raise typer.BadParameter("everything takes no name, any other scope takes one", param_hint="NAME")
    if name:
        check_text("NAME", name, _LONGEST_NAME)


def _to_stop(gateway: Gateway, state: DirectoryState, scope: StopScope, name: str) -> str:
    """The name under which the scope is known. A user may be stopped before any file knows of it."""
    if scope is StopScope.USER:
        return _user(name)
    if scope is StopScope.KEY:  # a whole line of rotations; or who shows a token, by the pseudonym in the records
        return name if name.startswith("usr_") else _key(state, name).lineage
    name = _public(gateway, scope, name)
    backends, models = _brought(state)
    names = {
        StopScope.AREA: {team.area for team in state.teams},
        StopScope.TEAM: {team.name for team in state.teams},
        StopScope.MODEL: models | set(gateway.models),
        StopScope.BACKEND: backends | set(gateway.backends),
    }
    if scope in names and name not in names[scope]:
        fail(f"There is no {scope.value} {name!r}. There are: {', '.join(sorted(names[scope])) or 'none'}.")
    return name


def _brought(state: DirectoryState) -> tuple[set[str], set[str]]:
    """The names of the backends and of the models that teams bring."""
    backends: set[str] = set()
    models: set[str] = set()
    for team in state.teams:
        with contextlib.suppress(ValueError):  # what cannot be read serves nowhere
            brought = entries(team.brought)
            backends.update(own_name(team.name, name) for name in brought[0])
            models.update(brought[1])
    return backends, models


def _public(gateway: Gateway, scope: StopScope, name: str) -> str:
    """Of a model the public name, whatever it is called by."""
    return gateway.public_names().get(name, name) if scope is StopScope.MODEL else name


def _stopped(state: DirectoryState, scope: StopScope, name: str) -> str:
    """The name under which it was stopped, also of what has been removed or revoked since."""
    if scope is StopScope.USER:
        return _user(name)
    stopped = {made.name for made in state.stops if made.scope is scope}
    if scope is not StopScope.KEY or name in stopped:
        return name
    meant = {
        key.lineage
        for key in state.keys
        if key.lineage in stopped and name in (key.id, key.spec.name, full_name(key), key.hint)
    }
    return meant.pop() if len(meant) == 1 else name


def _user(name: str) -> str:
    """As tokens have it. Many keyboards make letters that are not composed, which no token may have."""
    return folded(normalize("NFC", name))


def _key(state: DirectoryState, which: str) -> KeyRecord:
    try:
        return one_key(which, state.keys)
    except UnknownKey:
        fail(f"No key, or more than one, goes by {which!r}. `sluice keys list --json` shows their ids.")


def _title(scope: StopScope, name: str, state: DirectoryState) -> str:
    """What is stopped as people know it: a key by its name and hint."""
    key = next((key for key in reversed(state.keys) if scope is StopScope.KEY and key.lineage == name), None)
    return f"{scope.value} {name if key is None else f'{full_name(key)} ({key.hint})'}".rstrip()


def _facts(made: Stop) -> dict[str, object]:
    return {
        "scope": made.scope.value,
        "name": made.name or None,
        "reason": made.reason,
        "since": made.created_at.isoformat(),
    }
