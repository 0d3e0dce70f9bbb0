"""`sluice up`: the whole gateway on one machine."""

import asyncio
import logging
import os
import sys
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Annotated

import typer

from extproc.cli import envoy_files, ledger, processes, running
from extproc.cli.console import Console
from extproc.cli.drain import drained, times_of
from extproc.cli.envoy_admin import envoy_found_a_worker, envoy_is_ready, refused_by_envoy
from extproc.cli.exposition import Exposition
from extproc.cli.handover import Handover
from extproc.cli.health import Health
from extproc.cli.reload import Files, reloading
from extproc.cli.settings import ConfigOption, config_path, fail, safe_configuration
from extproc.config.revision import Revision
from extproc.config.schema import Gateway
from extproc.contract import WITHOUT_NOTICE
from extproc.exports import tell_log
from extproc.gitops.team_backends import brought_to
from extproc.identity import keys
from extproc.stores.ports import StoreUnavailable
from extproc.supervisor import Child, wait_until

_START_PATIENCE = 30.0  # seconds
_FAKE_PORT = "fake_backend.port"
_STOP_PATIENCE = 5.0


def up(
    config: ConfigOption = None,
    as_json: Annotated[bool, typer.Option("--json", help="Log lines as JSON.")] = False,
) -> None:
    """Start Envoy, the policy workers and, where configured, the fake provider. Ctrl-C stops all in order.

    [bold]Examples[/bold]

      sluice up --config examples/quickstart/gateway.yaml

      SLUICE__LISTENER__PORT=9090 sluice up -c gateway.yaml
    """
    files = Files(config_path(config))
    gateway = safe_configuration(config)
    _refuse_taken_ports(gateway)
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(message)s")
    try:
        asyncio.run(_up(gateway, files, as_json))
    except (StoreUnavailable, running.StartError) as error:
        fail(str(error))
    except running.LeftBehind as left:
        fail(str(left), running.LEFT_BEHIND)


def _refuse_taken_ports(gateway: Gateway) -> None:
    wanted = [
        ("listener.port", gateway.listener.address, gateway.listener.port),
        ("metrics.port", gateway.metrics.address, gateway.metrics.port),
    ]
    if gateway.fake_backend is not None:
        wanted.append((_FAKE_PORT, "127.0.0.1", gateway.fake_backend.port))
    taken = [
        f"Port {port} on {address} is taken, maybe by another gateway. "
        f"Stop that, or choose another port: {_at(setting)}."
        for setting, address, port in wanted
        if running.taken(address, port)
    ]
    if taken:
        fail("\n".join(taken))


def _at(setting: str) -> str:
    if setting == _FAKE_PORT:  # moved alone, the backends would still look for it where it was
        return f"`{setting}` in the configuration, with the `url` of the backends that call it"
    return f"`{setting}` in the configuration, or SLUICE__{setting.upper().replace('.', '__')} in the environment"


async def _up(gateway: Gateway, files: Files, as_json: bool) -> None:
    state = processes.state_of(gateway)
    running.prepare(gateway, state)
    brought = brought_to(gateway, os.environ)
    gateway = await asyncio.to_thread(brought.merged, gateway)
    revision = Revision.of(gateway)
    console = Console(as_json)
    stopping = running.stop_event()
    async with AsyncExitStack() as started:  # what is started last is stopped first
        started.push_async_callback(asyncio.to_thread, tell_log(gateway))
        exposition = Exposition(state.metrics, gateway)
        health = Health()
        started.callback(running.serve_metrics(gateway, exposition, health))
        books = ledger.Books(gateway)
        started.push_async_callback(asyncio.to_thread, books.close)
        workers = running.start_workers(revision, state, console.line, as_json)
        started.push_async_callback(running.stop_workers, gateway, workers, WITHOUT_NOTICE)  # Envoy is gone by then
        await envoy_files.write_all(gateway, state)  # while the workers load what they need
        keeper = await running.keep_secrets(gateway, state)
        started.callback(keeper.stop)
        others: list[Child] = []
        if gateway.fake_backend is not None:
            fake = Child(processes.fake_backend(gateway.fake_backend.port), console.line)
            started.push_async_callback(fake.stop, _STOP_PATIENCE)
            others.append(fake)
        await running.all_answer(workers, state, health)
        envoy = Child(processes.envoy(state), console.line)
        started.push_async_callback(envoy.stop, _STOP_PATIENCE)
        others.append(envoy)
        await _envoy_serves(state.admin_socket, others)
        handover = Handover(
            revision, state, workers, lambda newer: processes.workers(newer, state, as_json), keeper.configure
        )
        await started.enter_async_context(reloading(files, brought, handover, exposition.configured))
        if not as_json:
            _greet(gateway, files.config)
        await _first(stopping, others)
        if stopping.is_set() and not as_json:
            typer.echo("Stopping: live calls may end.")
        await drained(state, times_of(gateway), lambda _: None)
    if stopping.is_set() and not as_json:
        typer.echo("Sluice has stopped.")
    if not stopping.is_set():
        raise running.StartError("A process ended by itself; the lines above say why.")
    running.check_closed(books)


async def _envoy_serves(admin: Path, others: list[Child]) -> None:
    """Wait until Envoy serves all that it was given. Raises StartError."""
    refused: list[str] = []

    async def decided() -> bool:
        nonlocal refused
        # Asked first: what is refused is refused before it is ready.
        ready = await envoy_is_ready(admin) and await envoy_found_a_worker(admin)
        refused = await refused_by_envoy(admin)
        return ready or bool(refused)

    came_up = await wait_until(decided, others, _START_PATIENCE)
    if refused:
        raise running.StartError(
            f"Envoy refuses {' and '.join(refused)}: calls would not be served. Its lines above say why. Change what "
            "they name in the configuration; where it names nothing of yours, please report it with those lines."
        )
    if not came_up:
        raise running.StartError("The gateway did not come up; the lines above say why.")


async def _first(stopping: asyncio.Event, children: list[Child]) -> None:
    """Wait for a signal, or for a child that will not come back."""
    waits = [asyncio.ensure_future(event.wait()) for event in (stopping, *(child.gone for child in children))]
    _, pending = await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
    for wait in pending:
        wait.cancel()


def _greet(gateway: Gateway, config: Path | None) -> None:
    scheme = "https" if gateway.listener.tls else "http"
    base = f"{scheme}://{gateway.listener.address}:{gateway.listener.port}/v1"
    key = keys.QUICKSTART_KEY if gateway.keys.quickstart else "$SLUICE_KEY"
    model = next(iter(gateway.models))
    typer.secho("\nSluice is ready.", bold=True)
    typer.echo(f"  base URL  {base}")
    create = "make one: sluice keys create my-app" + (f" --config {config}" if config else "")
    typer.echo(f"  API key   {key if gateway.keys.quickstart else create}")
    typer.echo(f"  metrics   http://{gateway.metrics.address}:{gateway.metrics.port}/metrics\n")
    body = f'{{"model": "{model}", "messages": [{{"role": "user", "content": "Hello!"}}]}}'
    typer.echo(f'  curl {base}/chat/completions -H "Authorization: Bearer {key}" \\')
    typer.echo(f"       -H 'content-type: application/json' -d '{body}'\n")
    typer.echo("Ctrl-C stops it.\n")
    sys.stdout.flush()
