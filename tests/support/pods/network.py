"""A bridge on this machine with private addresses: the node's network, which pods are plugged into."""

import ipaddress
import itertools
import json
import os
import re
from pathlib import Path

from tests.support.pods.commands import inside, run

_OURS = re.compile(r"sl(\d+)n\d+(?:p\d+)?")
"""Names of links: the process that made them is in them, so that the leftovers of a dead one are known."""

_networks = itertools.count()

_FIRST_SERVICE, _FIRST_POD = 2, 10  # the numbers below are the machine's own


class Network:
    """`gateway` is this machine as pods see it: what a test starts for them listens there."""

    def __init__(self) -> None:
        # By the process, so that test processes side by side have networks of their own.
        own = next(_networks) % 10
        number = (os.getpid() + own * 1_000) % (1 << 14)
        self._hosts = ipaddress.ip_network(f"10.{64 + (number >> 8)}.{number & 0xFF}.0/24")
        self._bridge = f"sl{os.getpid()}n{own}"
        self._services = iter(range(_FIRST_SERVICE, _FIRST_POD))
        self._numbers = itertools.count(_FIRST_POD)
        self.gateway = str(self._hosts[1])

    async def open(self) -> None:
        """Make the bridge. Leftovers of test processes that were killed are removed first."""
        for link in json.loads(await run("ip", "-json", "link", "show")):
            found = _OURS.fullmatch(link["ifname"])
            if found and not Path(f"/proc/{found[1]}").exists():
                await run("ip", "link", "delete", link["ifname"])
        lines = [
            f"link add {self._bridge} type bridge",
            f"address add {self.gateway}/{self._hosts.prefixlen} dev {self._bridge}",
            f"link set {self._bridge} up",
        ]
        await run("ip", "-batch", "-", stdin="\n".join(lines))

    async def close(self) -> None:
        """Remove the bridge; the links of pods went with their namespaces."""
        await run("ip", "link", "delete", self._bridge)

    async def service_address(self) -> str:
        """One more address of this machine, for a Service. There are eight."""
        address = str(self._hosts[next(self._services)])
        await run("ip", "address", "add", f"{address}/32", "dev", self._bridge)
        return address

    async def plug(self, pid: int) -> str:
        """Give the network namespace of a process a link to the bridge. Returns its address."""
        number = next(self._numbers)
        address = str(self._hosts[number])  # a test that makes more than 240 pods fails here
        link = f"{self._bridge}p{number}"
        lines = [
            f"link add {link} type veth peer name eth0 netns {pid}",
            f"link set {link} master {self._bridge} up",
        ]
        await run("ip", "-batch", "-", stdin="\n".join(lines))
        lines = [
            "link set lo up",
            f"address add {address}/{self._hosts.prefixlen} dev eth0",
            "link set eth0 up",
        ]
        await run(*inside(pid, "net"), "ip", "-batch", "-", stdin="\n".join(lines))
        return address
