"""What every verb needs: the configuration, from a file, the environment, or both."""

import ipaddress
import os
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, NoReturn

import typer

from extproc.config import profiles, rules
from extproc.config.alerts import Webhook
from extproc.config.fields import LocalSecret
from extproc.config.loader import ConfigError, read
from extproc.config.problems import Problem, Steps
from extproc.config.schema import Gateway
from extproc.config.telemetry import Telemetry
from extproc.config.traces import secret_problem
from extproc.config.tree import Tree
from extproc.ledger import webhooks
from extproc.ledger.compose import secret_of
from extproc.metering import tokenizer
from extproc.secrets import store_tokens

_SHORTEST_KEY = 32  # bytes, of an HMAC with SHA-256: RFC 7518, section 3.2
_FOR_VECTORS = ("numpy", "tokenizers")

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


def fail(message: str, code: int = 1) -> NoReturn:
    """End with an exit code and a message that says what to do."""
    typer.secho(message, err=True, fg=typer.colors.RED)
    raise typer.Exit(code)


def configuration(path: Path | None, opens_stores: bool = True) -> Gateway:
    """Load strictly; every problem is told at once. `opens_stores`: have the tokens at hand that this takes."""
    gateway, _ = placed_configuration(path)
    if opens_stores:
        _sign_in_to_stores(gateway)
    return gateway


def _sign_in_to_stores(gateway: Gateway) -> None:
    for problem in store_tokens.fetch(gateway, os.environ):
        typer.secho(f"warning: {problem}", err=True, fg=typer.colors.YELLOW)


def placed_configuration(path: Path | None) -> tuple[Gateway, Tree]:
    """The same, with the tree that knows where each value was written."""
    path = config_path(path)
    try:
        return read(path, os.environ)
    except ConfigError as error:
        fail(str(error) if path else f"{error}\nThere is no gateway.yaml here: name a file with --config.")


def config_path(path: Path | None) -> Path | None:
    """The configuration file: the one that was named, or gateway.yaml where there is one."""
    usual = Path("gateway.yaml")
    return usual if path is None and usual.exists() else path


def safe_configuration(path: Path | None) -> Gateway:
    """The configuration, where it may be served; what must not be ends the command."""
    gateway, tree = placed_configuration(path)
    if problems := safety_problems(gateway, tree):
        fail("\n".join(map(str, problems)))
    _sign_in_to_stores(gateway)
    return gateway


def safety_problems(gateway: Gateway, tree: Tree) -> list[Problem]:
    """What is valid but must not be served, or cannot be on this machine."""
    problems = []
    if gateway.keys.quickstart and not is_loopback(gateway.listener.address):
        message = (
            f"the published quickstart key would be accepted on {gateway.listener.address}. "
            "Listen on 127.0.0.1, or remove `quickstart` and make keys with `sluice keys create`."
        )
        problems.append(tree.problem(("keys", "quickstart"), message))
    keys = {("identity", "signing_key"): gateway.identity.signing_key, ("cache", "key"): gateway.cache.key}
    for steps, source in keys.items():
        if source is not None and (message := _key_problem(source)):
            problems.append(tree.problem(steps, message))
    problems += (tree.problem(*mistake) for mistake in _telemetry_problems(gateway.telemetry))
    for name, model in gateway.models.items():
        if model.tokenizer is not None and (message := _tokenizer_problem(model.tokenizer)):
            problems.append(tree.problem(("models", name, "tokenizer"), message))
    vectors = gateway.cache.semantic.model
    if vectors is not None and (message := _vectors_problem(vectors)):
        problems.append(tree.problem(("cache", "semantic", "model"), message))
    problems += (tree.problem(*mistake) for mistake in profiles.mistakes(gateway.policies.redaction, os.environ))
    problems += (tree.problem(*mistake) for mistake in rules.mistakes(gateway))
    return problems


def _telemetry_problems(told: Telemetry) -> Iterator[tuple[Steps, str]]:
    """What cannot be sent to where it shall go, for want of a secret."""
    for signal, to in (("traces", told.traces), ("logs", told.logs)):
        for header, source in to.headers.items() if to is not None else ():
            if message := secret_problem(source, os.environ):
                yield ("telemetry", signal, "headers", header), message
    for name, hook in told.alerts.webhooks.items():
        if message := _webhook_problem(hook):
            yield ("telemetry", "alerts", "webhooks", name, "url"), message


def _tokenizer_problem(path: Path) -> str:
    """Why the file cannot count tokens; empty where it can. A worker that found out would refuse every call."""
    if not path.is_file():
        return f"there is no file {path}"
    try:
        tokenizer.load(str(path))
    except tokenizer.TokenizerUnusable as error:
        return str(error)
    tokenizer.load.cache_clear()  # the workers have their own, and this process may live as long as they
    return ""


def _vectors_problem(folder: str) -> str:
    """Why no vectors can come of it; empty where they may. Whether it can be loaded `check` finds out."""
    if any(find_spec(package) is None for package in _FOR_VECTORS):
        return f"needs the extra `semantic` ({', '.join(_FOR_VECTORS)})"
    return "" if Path(folder).is_dir() else f"there is no folder {folder}"


def _key_problem(source: LocalSecret) -> str:
    """What is wrong with a key, without the key; empty where nothing is."""
    try:
        value = source.file.read_bytes() if source.file is not None else os.environb.get(os.fsencode(source.env or ""))
    except OSError as error:
        return f"the file {source.file} cannot be read ({error.strerror})"
    if value is None:
        return f"the environment variable {source.env} is not set"
    if len(value.rstrip(b"\r\n")) < _SHORTEST_KEY:
        return f"it must have at least {_SHORTEST_KEY} bytes, such as `openssl rand -hex 32` makes"
    return ""


def _webhook_problem(hook: Webhook) -> str:
    """Why nothing can be posted there, without the URL, which is a secret; empty where it can."""
    url = secret_of(hook.url)
    if url is None:
        return f"{hook.url.file or hook.url.env} is not there, or cannot be read"
    try:
        webhooks.check(url, hook.plain_http)
    except webhooks.WebhookUnusable as error:
        return f"what is in {hook.url.file or hook.url.env} {error}"
    return ""


def is_loopback(address: str) -> bool:
    """Whether only this machine can reach an address."""
    try:
        return ipaddress.ip_address(address).is_loopback
    except ValueError:
        return False
