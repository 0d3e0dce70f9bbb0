"""What the containers of a pod share: its network, its host name and the file systems of its volumes."""

import asyncio
import shlex
from collections.abc import Sequence

import psutil

from tests.support.pods.commands import inside
from tests.support.pods.network import Network

_PAUSE_S = 0.01
_PATIENCE_S = 20.0
_NAMESPACES = ("mount", "net", "ipc", "uts", "pid")


class Sandbox:
    """Held by one process that does nothing. When it dies, so does every process of the pod: it is their PID 1.

    It is bound to the test process: should that be killed, the kernel kills it, too.
    """

    def __init__(self) -> None:
        self._process: asyncio.subprocess.Process | None = None
        self.pid = 0
        self.address = ""

    async def open(self, network: Network, name: str, mounting: Sequence[str]) -> None:
        """`mounting`: lines for `sh` that mount what the pod's containers share."""
        script = "\n".join(["set -e", f"hostname {shlex.quote(name)}", *mounting, "exec sleep infinity"])
        unshare = ["unshare", *(f"--{kind}" for kind in _NAMESPACES), "--fork", "--kill-child"]
        self._process = await asyncio.create_subprocess_exec(
            *("setpriv", "--pdeathsig", "KILL"), *unshare, "sh", "-c", script, start_new_session=True
        )
        async with asyncio.timeout(_PATIENCE_S):
            while not self._is_up():
                assert self._process.returncode is None, f"no namespaces for {name}"
                await asyncio.sleep(_PAUSE_S)
        self.address = await network.plug(self.pid)

    def _is_up(self) -> bool:
        assert self._process is not None
        try:
            for child in psutil.Process(self._process.pid).children():
                if child.name() == "sleep":
                    self.pid = child.pid
                    return True
        except psutil.NoSuchProcess:
            pass
        return False

    def entering(self) -> Sequence[str]:
        """What the command line of a container begins with."""
        return inside(self.pid, *_NAMESPACES)

    async def close(self) -> None:
        """Kill all that is left of the pod."""
        if self._process is not None:
            if self._process.returncode is None:
                self._process.kill()
            await self._process.wait()
