"""`sluice check`: is this configuration right, complete and safe to serve?"""

import asyncio
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

import typer

from extproc.cli.settings import ConfigOption, fail, placed_configuration, safety_problems
from extproc.config.doubts import doubts
from extproc.config.problems import ConfigError, Steps
from extproc.config.schema import Gateway
from extproc.config.team_files import load_teams, offer
from extproc.config.teams import TeamFile
from extproc.config.traces import unread
from extproc.screening import ner
from extproc.semantic import local
from extproc.semantic.embedding import EmbeddingFailed


def check(config: ConfigOption = None) -> None:
    """Check the configuration strictly, then let Envoy validate what is rendered from it.

    Unknown fields, duplicate keys, missing secrets, and a published key on a public address are errors. What is
    likely not meant, such as a limit of money over a model that has no price, is a warning.

    [bold]Examples[/bold]

      sluice check --config gateway.yaml

      SLUICE__LISTENER__PORT=9090 sluice check -c gateway.yaml
    """
    from extproc import dataplane  # 28 MB that few verbs need

    gateway, tree = placed_configuration(config)
    problems = [*map(str, safety_problems(gateway, tree)), *dataplane.credential_problems(gateway, os.environ)]
    problems = problems or [str(tree.problem(*mistake)) for mistake in _unloadable(gateway)]
    if problems:
        fail("\n".join(problems))
    teams, brought = _teams(gateway)
    told = [str(tree.problem(*doubt)) for doubt in doubts(gateway, time.time(), teams)]
    for warning in (*told, *brought, *unread(os.environ)):
        typer.secho(f"warning: {warning}", err=True, fg=typer.colors.YELLOW)
    _validate(gateway)
    typer.echo(
        f"OK: models {len(gateway.models)}, backends {len(gateway.backends)}, "
        f"listening on {gateway.listener.address}:{gateway.listener.port}"
    )


def _validate(gateway: Gateway) -> None:
    """Have Envoy read what it would start with. The image of the policy has no Envoy: that has an image of its own."""
    from extproc import dataplane

    envoy = Path(sys.executable).with_name("envoy")
    if not envoy.exists():
        typer.secho("Envoy's own validation was left out: there is no Envoy beside this Python.", err=True)
    with tempfile.TemporaryDirectory() as folder:
        layout = dataplane.Layout(folder, f"{folder}/secrets", (f"{folder}/worker-0.sock",), f"{folder}/admin.sock")
        bootstrap = dataplane.write_for_validation(gateway, layout, Path(folder))
        if not envoy.exists():
            return
        run = subprocess.run(
            [envoy, "--mode", "validate", "-l", "error", "-c", bootstrap],
            capture_output=True,
            text=True,
            check=False,
        )
    if run.returncode != 0:
        fail(f"Envoy does not accept what this configuration renders to:\n{run.stderr.strip()}")


def _unloadable(gateway: Gateway) -> Iterator[tuple[Steps, str]]:
    """Models that are there and cannot be loaded. To know takes seconds for each."""
    vectors = gateway.cache.semantic.model
    if vectors is not None and (trouble := _no_vectors(vectors)):
        yield ("cache", "semantic", "model"), trouble
    tried: dict[str, str] = {}
    for name, given in gateway.policies.redaction.items():
        model = given.names.model if given.names and given.mode != "off" else None
        if model is None:
            continue
        if model not in tried:
            tried[model] = _trouble(model)
        if tried[model]:
            yield ("policies", "redaction", name, "names", "model"), tried[model]


def _trouble(model: str) -> str:
    """Why it cannot be loaded; empty where it can."""
    try:
        asyncio.run(ner.try_out(model))
    except ner.NamesFailed as failed:
        return str(failed)
    return ""


def _no_vectors(folder: str) -> str:
    """Why it cannot be loaded; empty where it can."""
    try:
        asyncio.run(local.try_out(folder))
    except EmbeddingFailed as failed:
        return str(failed)
    return ""


def _teams(gateway: Gateway) -> tuple[Mapping[str, TeamFile] | None, list[str]]:
    """The team files, where they are at hand, and what they bring that this gateway would leave out.

    What else is wrong with them `sluice plan` tells.
    """
    try:
        return load_teams(gateway.teams, offer(gateway)), []
    except ConfigError as error:
        brought = [problem for problem in error.problems if problem.field.startswith(("backends", "own_models"))]
        return None, [str(problem) for problem in brought]
