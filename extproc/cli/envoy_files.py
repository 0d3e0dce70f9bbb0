"""Envoy's files of one gateway: written before it starts, and made ready for a running one.

Rendering takes 28 MB, which a process of its own has while it works.
"""

import asyncio
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from extproc.cli.processes import State
from extproc.cli.running import StartError
from extproc.config.schema import Gateway
from extproc.interpreter import python

_NEEDS_RESTART = 3  # of extproc.dataplane.__main__


class ListenerChanges(Exception):
    """What Envoy does not take while it runs would not stay the same."""


class NotRendered(Exception):
    """The files cannot be had; the text has one problem a line."""


@dataclass(frozen=True, slots=True)
class NextFiles:
    """What a running Envoy can take. `between` are the clusters for as long as calls of either configuration run."""

    between: str
    clusters: str
    routes: str


async def write_all(gateway: Gateway, state: State) -> None:
    """Everything that Envoy starts with. Raises StartError."""
    process = await asyncio.create_subprocess_exec(*_command(state), stdin=asyncio.subprocess.PIPE, env=os.environ)
    await process.communicate(_line(gateway))
    if process.returncode != 0:
        raise StartError("Envoy's files could not be written; the lines above say why.")


async def prepare(gateway: Gateway, older: Sequence[Gateway], state: State) -> NextFiles:
    """Write the secrets of a next configuration, and render the rest. Raises ListenerChanges or NotRendered.

    `older`: configurations of calls that still run. Secrets that nothing names any more stay.
    """
    folder = state.root / "run" / "next"
    process = await asyncio.create_subprocess_exec(
        *(*_command(state), str(folder)),
        stdin=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env=os.environ,
    )
    try:
        _, told = await process.communicate(b"".join(map(_line, (gateway, *older))))
    finally:
        if process.returncode is None:  # the gateway ends meanwhile
            process.kill()
    if process.returncode == _NEEDS_RESTART:
        raise ListenerChanges
    if process.returncode != 0:
        raise NotRendered(told.decode("utf-8", "replace").strip())
    return NextFiles(
        *((folder / f"{name}.yaml").read_text(encoding="utf-8") for name in ("between", "clusters", "routes"))
    )


def put(text: str, file: Path) -> None:
    """Rename it into place, as Envoy's watches want it. Raises OSError."""
    aside = file.with_name(f".{file.name}.next")
    aside.write_text(text, encoding="utf-8")
    aside.replace(file)


def _command(state: State) -> list[str]:
    folders = (state.envoy, state.secrets, state.root / "run")
    return python("extproc.dataplane", *map(str, folders))


def _line(gateway: Gateway) -> bytes:
    return gateway.model_dump_json().encode() + b"\n"
