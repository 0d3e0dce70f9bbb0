"""`sluice plan`: what would the team files change?"""

import json
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from extproc.cli.keys import JsonOption, directory
from extproc.cli.plan_text import print_plan, warn_of_spent
from extproc.cli.settings import ConfigOption, configuration, fail
from extproc.config.problems import ConfigError
from extproc.config.schema import Gateway
from extproc.config.team_files import load_teams, offer
from extproc.gitops.apply import Wish
from extproc.gitops.declared import declared
from extproc.gitops.plan import KeyStep, Plan, Step, make_plan

TeamsOption = Annotated[
    Path | None,
    typer.Option(
        "--teams", show_default=False, help="Folder of the team files. Default: `teams` of the configuration."
    ),
]
_SOMETHING_TO_DO = 3


def plan(
    config: ConfigOption = None,
    teams: TeamsOption = None,
    as_json: JsonOption = False,
    exit_code: Annotated[bool, typer.Option("--exit-code", help="Exit with 3 if there is something to do.")] = False,
) -> None:
    """Show what `sluice apply` would do. Nothing is changed.

    [bold]Examples[/bold]

      sluice plan

      sluice plan --config gateway.yaml --teams teams --json | jq .access
    """
    gateway = configuration(config)
    wish = wished(gateway, teams)
    with directory(gateway, upgrade=False) as store:
        made = make_plan(store.state(), wish.declared, wish.offered, datetime.now(UTC))
    if as_json:
        typer.echo(json.dumps(_facts(made)))
    else:
        print_plan(made)
        warn_of_spent(made)
    if exit_code and not made.is_empty():
        raise typer.Exit(_SOMETHING_TO_DO)


def wished(gateway: Gateway, teams: Path | None) -> Wish:
    """What the configuration and the team files declare; every problem of them is told at once."""
    offered = offer(gateway)
    try:
        with Console(stderr=True).status("reading the team files"):  # to be seen on a terminal only
            return Wish(declared(gateway, offered, load_teams(teams or gateway.teams, offered)), offered)
    except ConfigError as error:
        fail(str(error))


def _facts(made: Plan) -> dict[str, Any]:
    return {
        "revision": made.revision,
        "changes": not made.is_empty(),
        "areas": [_step_facts(step) for step in made.areas],
        "teams": [_step_facts(step) for step in made.teams],
        "keys": [_key_facts(step) for step in made.keys],
        "access": [asdict(one) for one in made.access],
        "drift": [asdict(one) for one in made.drift],
    }


def _step_facts(step: Step) -> dict[str, Any]:
    return {"action": step.action, "name": step.name, "fields": [asdict(change) for change in step.fields]}


def _key_facts(step: KeyStep) -> dict[str, Any]:
    team, name = step.name
    fields = [asdict(change) for change in step.fields]
    return {"action": step.action, "team": team, "name": name, "reason": step.reason, "fields": fields}
