"""What every verb needs: the configuration, from a file, the environment, or both."""

import ipaddress
import os
from pathlib import Path
from typing import Annotated, NoReturn

import typer

from extproc.config.fields import Credential
from extproc.config.loader import ConfigError, load
from extproc.config.schema import Gateway

_SHORTEST_SIGNING_KEY = 32  # bytes: RFC 7518, section 3.2

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
    path = config_path(path)
    try:
        return load(path, os.environ)
    except ConfigError as error:
        fail(str(error) if path else f"{error}\nThere is no gateway.yaml here: name a file with --config.")


def config_path(path: Path | None) -> Path | None:
    """The configuration file: the one that was named, or gateway.yaml where there is one."""
    usual = Path("gateway.yaml")
    return usual if path is None and usual.exists() else path


def safety_problems(gateway: Gateway) -> list[str]:
    """What is valid but must not be served."""
    problems = []
    if gateway.keys.quickstart and not _is_loopback(gateway.listener.address):
        problems.append(
            f"keys.quickstart: the published quickstart key would be accepted on {gateway.listener.address}. "
            "Listen on 127.0.0.1, or remove `quickstart` and make keys with `sluice keys create`."
        )
    source = gateway.identity.signing_key
    if source is not None and (problem := _signing_problem(source)):
        problems.append(f"identity.signing_key: {problem}")
    return problems


def _signing_problem(source: Credential) -> str | None:
    """What is wrong with the key of the identity header, without the key."""
    try:
        value = source.file.read_bytes() if source.file is not None else os.environb.get(os.fsencode(source.env or ""))
    except OSError as error:
        return f"the file {source.file} cannot be read ({error.strerror})"
    if value is None:
        return f"the environment variable {source.env} is not set"
    if len(value.rstrip(b"\r\n")) < _SHORTEST_SIGNING_KEY:
        return f"it must have at least {_SHORTEST_SIGNING_KEY} bytes, such as `openssl rand -hex 32` makes"
    return None


def _is_loopback(address: str) -> bool:
    try:
        return ipaddress.ip_address(address).is_loopback
    except ValueError:
        return False
