"""`sluice teams`: help with writing team files."""

import json
from pathlib import Path
from typing import Annotated

import typer

from extproc.cli.settings import fail
from extproc.config.problems import ConfigError
from extproc.config.teams import json_schema
from extproc.gitops.access_yaml import imported

app = typer.Typer(help="Write team files.", no_args_is_help=True, rich_markup_mode="rich")


@app.command()
def schema() -> None:
    """Print the JSON Schema of a team file, for editors and CI.

    [bold]Examples[/bold]

      sluice teams schema > team.schema.json
    """
    typer.echo(json.dumps(json_schema(), indent=2, ensure_ascii=False))


@app.command("import")
def import_access(
    access: Annotated[Path, typer.Argument(help="An access.yaml: `team` with name and owner, `models` by kind.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder of the team files.")] = Path("teams"),
    area: Annotated[
        str, typer.Option(help="The area of the new team, which an access.yaml does not name.")
    ] = "default",
) -> None:
    """Turn an access.yaml into a team file.

    [bold]Examples[/bold]

      sluice teams import access.yaml --out teams --area retail
    """
    try:
        made = imported(access, area)
    except ConfigError as error:
        fail(str(error))
    file = out / f"{made.team}.yaml"
    try:
        out.mkdir(parents=True, exist_ok=True)
        with file.open("x", encoding="utf-8") as new:
            new.write(made.text)
    except OSError as error:
        if file.exists():
            fail(f"{file} is there already. Move it away, or add the models to it by hand.")
        fail(f"Cannot write {file}: {error.strerror}.")
    typer.echo(str(file))
