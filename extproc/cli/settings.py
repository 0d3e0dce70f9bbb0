"""What every verb needs: the configuration, from a file, the environment, or both."""

import ipaddress
import os
from pathlib import Path
from typing import Annotated, NoReturn

import typer

from extproc.config.loader import ConfigError, load
from extproc.config.schema import Gateway

ConfigOption = Annotated[
    Path | None,
    typer.Option(
        "--config",
        "-c",
        envvar="SLUICE_CONFIG",
        show_default=False,
        help="Configuration file; gateway.yaml, if there is one. Settings in the environment (SLUICE__...) win.",
    ),
]


def fail(message: str) -> NoReturn:
    """End with exit code 1 and a message that says what to do."""
    typer.secho(message, err=True, fg=typer.colors.RED)
    raise typer.Exit(1)


def configuration(path: Path | None) -> Gateway:
    """Load strictly; every problem is told at once."""
    if path is None and Path("gateway.yaml").exists():
        path = Path("gateway.yaml")
    try:
        return load(path, os.environ)
    except ConfigError as error:
        fail(str(error))


def safety_problems(gateway: Gateway) -> list[str]:
    """What is valid but must not be served."""
    problems = []
    if gateway.keys.quickstart and not _is_loopback(gateway.listener.address):
        problems.append(
            f"keys.quickstart: the published quickstart key would be accepted on {gateway.listener.address}. "
            "Listen on 127.0.0.1, or remove `quickstart` and make keys with `sluice keys create`."
        )
    return problems


def _is_loopback(address: str) -> bool:
    try:
        return ipaddress.ip_address(address).is_loopback
    except ValueError:
        return False
