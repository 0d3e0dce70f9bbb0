"""`sluice serve`: the policy workers alone, for where Envoy runs in a container of its own."""

import asyncio
import logging
from typing import Annotated

import typer

from extproc.cli import running
from extproc.cli.console import Console
from extproc.cli.processes import state_of
from extproc.cli.settings import ConfigOption, fail, safe_configuration
from extproc.config.schema import Gateway
from extproc.stores.ports import StoreUnavailable


def serve(
    config: ConfigOption = None,
    as_json: Annotated[bool, typer.Option("--json/--text", help="Access records as JSON lines, or readable.")] = True,
) -> None:
    """Start the policy workers (ext_proc) and the metrics endpoint, without Envoy.

    [bold]Examples[/bold]

      sluice serve --config gateway.yaml

      sluice serve -c gateway.yaml --text
    """
    gateway = safe_configuration(config)
    if running.taken(gateway.metrics.address, gateway.metrics.port):
        fail(f"Port {gateway.metrics.port} of metrics is taken. Choose another: metrics.port, or stop what uses it.")
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(message)s")
    try:
        asyncio.run(_serve(gateway, as_json))
    except (StoreUnavailable, running.StartError) as error:
        fail(str(error))


async def _serve(gateway: Gateway, as_json: bool) -> None:
    state = state_of(gateway)
    running.prepare(gateway, state)
    stopping = running.stop_event()
    children = await running.start_workers(gateway, state, Console(as_json).line, as_json)
    stop_metrics = running.serve_metrics(gateway, state)
    await stopping.wait()
    await running.stop_workers(gateway, children)
    stop_metrics()
