"""`sluice check`: is this configuration right, complete and safe to serve?"""

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path

import typer

from extproc.cli.settings import ConfigOption, fail, placed_configuration, safety_problems
from extproc.config.doubts import doubts
from extproc.config.problems import ConfigError
from extproc.config.schema import Gateway
from extproc.config.team_files import load_teams, offer
from extproc.config.teams import TeamFile


def check(config: ConfigOption = None) -> None:
    """Check the configuration strictly, then let Envoy validate what is rendered from it.

    Unknown fields, duplicate keys, missing secrets, and a published key on a public address are errors. What is
    likely not meant, such as a limit of money over a model that has no price, is a warning.

    [bold]Examples[/bold]

      sluice check --config gateway.yaml

      SLUICE__LISTENER__PORT=9090 sluice check -c gateway.yaml
    """
    from extproc import dataplane  # 47 MB that few verbs need

    gateway, tree = placed_configuration(config)
    problems = [*map(str, safety_problems(gateway, tree)), *dataplane.credential_problems(gateway, os.environ)]
    if problems:
        fail("\n".join(problems))
    for steps, message in doubts(gateway, time.time(), _teams(gateway)):
        typer.secho(f"warning: {tree.problem(steps, message)}", err=True, fg=typer.colors.YELLOW)
    with tempfile.TemporaryDirectory() as folder:
        layout = dataplane.Layout(folder, f"{folder}/secrets", (f"{folder}/worker-0.sock",), f"{folder}/admin.sock")
        bootstrap = dataplane.write_for_validation(gateway, layout, Path(folder))
        envoy = Path(sys.executable).with_name("envoy")
        run = subprocess.run(
            [envoy, "--mode", "validate", "-l", "error", "-c", bootstrap],
            capture_output=True,
            text=True,
            check=False,
        )
    if run.returncode != 0:
        fail(f"Envoy does not accept what this configuration renders to:\n{run.stderr.strip()}")
    typer.echo(
        f"OK: models {len(gateway.models)}, backends {len(gateway.backends)}, "
        f"listening on {gateway.listener.address}:{gateway.listener.port}"
    )


def _teams(gateway: Gateway) -> Mapping[str, TeamFile] | None:
    """The team files, where they are at hand; what is wrong with them `sluice plan` tells."""
    try:
        return load_teams(gateway.teams, offer(gateway))
    except ConfigError:
        return None
