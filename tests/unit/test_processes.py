"""How the gateway's programs are started."""

import os
import subprocess
import sys

from extproc.cli.processes import OF_GRPC

_SERVER = """
import asyncio, grpc.aio

async def serve():
    server = grpc.aio.server()
    server.add_insecure_port("127.0.0.1:0")
    await server.start()
    await server.stop(0)

asyncio.run(serve())
"""


def _said(environ: dict[str, str]) -> str:
    done = subprocess.run(
        [sys.executable, "-c", _SERVER], env={**os.environ, **environ}, capture_output=True, timeout=60
    )
    assert done.returncode == 0
    return done.stderr.decode()


def test_grpc_knows_the_switch_that_workers_are_started_with() -> None:
    assert "experiment" not in _said(dict(OF_GRPC))
    assert "Unknown experiment" in _said({"GRPC_EXPERIMENTS": "-none_of_this_name"})  # it would have complained
