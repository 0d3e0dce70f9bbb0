"""`sluice serve`: the policy workers alone, for where Envoy runs in a container of its own."""

import asyncio
import logging
import os
from contextlib import AsyncExitStack
from typing import Annotated

import typer

from extproc.cli import envoy_files, ledger, running
from extproc.cli.console import Console
from extproc.cli.drain import drained, kept, times_of
from extproc.cli.exposition import Exposition
from extproc.cli.handover import Handover
from extproc.cli.health import Health
from extproc.cli.processes import state_of, workers
from extproc.cli.reload import Files, reloading
from extproc.cli.settings import ConfigOption, config_path, fail, safe_configuration
from extproc.config.revision import Revision
from extproc.config.schema import Gateway
from extproc.exports import tell_log
from extproc.gitops.team_backends import brought_to
from extproc.stores.ports import StoreUnavailable

log = logging.getLogger(__name__)


def serve(
    config: ConfigOption = None,
    as_json: Annotated[bool, typer.Option("--json/--text", help="Access records as JSON lines, or readable.")] = True,
) -> None:
    """Start the policy workers (ext_proc) and the metrics endpoint, without Envoy, whose files are written for it.

    [bold]Examples[/bold]

      sluice serve --config gateway.yaml

      sluice serve -c gateway.yaml --text
    """
    files = Files(config_path(config))
    gateway = safe_configuration(config)
    if running.taken(gateway.metrics.address, gateway.metrics.port):
        fail(f"Port {gateway.metrics.port} of metrics is taken. Choose another: metrics.port, or stop what uses it.")
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(message)s")
    try:
        asyncio.run(_serve(gateway, files, as_json))
    except (StoreUnavailable, running.StartError) as error:
        fail(str(error))
    except running.LeftBehind as left:
        fail(str(left), running.LEFT_BEHIND)


async def _serve(gateway: Gateway, files: Files, as_json: bool) -> None:
    state = state_of(gateway)
    running.prepare(gateway, state, starts_envoy=False)
    brought = brought_to(gateway, os.environ)
    gateway = await asyncio.to_thread(brought.merged, gateway)
    await envoy_files.write_all(gateway, state)
    revision = Revision.of(gateway)
    stopping = running.stop_event()
    async with AsyncExitStack() as started:  # what is started last is stopped first
        started.push_async_callback(asyncio.to_thread, tell_log(gateway))
        exposition = Exposition(state.metrics, gateway)
        health = Health()
        started.callback(running.serve_metrics(gateway, exposition, health))
        books = ledger.Books(gateway)
        started.push_async_callback(asyncio.to_thread, books.close)
        keeper = await running.keep_secrets(gateway, state)
        started.callback(keeper.stop)
        children = running.start_workers(revision, state, Console(as_json).line, as_json)
        started.push_async_callback(running.stop_workers, gateway, children)
        await running.all_answer(children, state, health)
        handover = Handover(revision, state, children, lambda newer: workers(newer, state, as_json), keeper.configure)
        await started.enter_async_context(reloading(files, brought, handover, exposition.configured))
        started.push_async_callback(_ended, asyncio.ensure_future(kept(state, times_of(gateway), log.warning)))
        await stopping.wait()
        await drained(state, times_of(gateway), log.warning)
    running.check_closed(books)


async def _ended(background: asyncio.Future[None]) -> None:
    background.cancel()
    await asyncio.gather(background, return_exceptions=True)
