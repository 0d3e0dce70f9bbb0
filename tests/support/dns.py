"""A name server of the test's own, on a UDP port of the loopback: names come, go and move without a restart."""

import asyncio
import ipaddress
import struct
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

_ANSWER, _NO_SUCH_NAME = 0x8180, 0x8183
_A, _IN = 1, 1
_HEADER = struct.Struct("!6H")
_RESOLVER = "type.googleapis.com/envoy.extensions.network.dns_resolver.cares.v3.CaresDnsResolverConfig"


class Names(asyncio.DatagramProtocol):
    """`addresses`: the IPv4 addresses of each name; any other name does not exist."""

    def __init__(self) -> None:
        self.addresses: dict[str, list[str]] = {}
        self.port = 0
        self._transport: asyncio.DatagramTransport | None = None

    @asynccontextmanager
    async def serving(self, address: str = "127.0.0.1", port: int = 0) -> AsyncIterator[None]:
        loop = asyncio.get_running_loop()
        transport, _ = await loop.create_datagram_endpoint(lambda: self, (address, port))
        self._transport, self.port = transport, transport.get_extra_info("sockname")[1]
        try:
            yield
        finally:
            transport.close()

    def asked_by(self, config: Path) -> None:
        """Have the Envoy whose files are in `config` ask here, and soon again; by its own it asks every 5 s."""
        server = {"socket_address": {"address": "127.0.0.1", "port_value": self.port}}
        with _changed(config / "bootstrap.yaml") as tree:
            tree["typed_dns_resolver_config"] = {
                "name": "envoy.network.dns_resolver.cares",
                "typed_config": {"@type": _RESOLVER, "resolvers": [server]},
            }
        with _changed(config / "clusters.yaml") as tree:
            for cluster in tree["resources"]:
                if cluster.get("type") == "STRICT_DNS":
                    cluster["dns_refresh_rate"] = "0.2s"

    def datagram_received(self, data: bytes, addr: tuple[str, int]) -> None:
        """One question (RFC 1035, 4.1), answered with addresses that hold for no time."""
        end = data.index(b"\0", _HEADER.size)
        name, kind = _name(data[_HEADER.size : end]), struct.unpack_from("!H", data, end + 1)[0]
        known = self.addresses.get(name)
        answers = [_address(address) for address in known or () if kind == _A]
        flags = _NO_SUCH_NAME if known is None else _ANSWER
        header = _HEADER.pack(int.from_bytes(data[:2]), flags, 1, len(answers), 0, 0)
        assert self._transport is not None
        self._transport.sendto(header + data[_HEADER.size : end + 5] + b"".join(answers), addr)


@contextmanager
def _changed(path: Path) -> Iterator[Any]:
    yaml = YAML(typ="safe")
    tree = yaml.load(path)
    yield tree
    with path.open("w") as file:
        yaml.dump(tree, file)


def _name(labels: bytes) -> str:
    parts = []
    while labels:
        length = labels[0]
        parts.append(labels[1 : length + 1].decode())
        labels = labels[length + 1 :]
    return ".".join(parts)


def _address(address: str) -> bytes:
    """A record of the name that was asked for, to which its offset points."""
    return struct.pack("!HHHIH", 0xC000 | _HEADER.size, _A, _IN, 0, 4) + ipaddress.IPv4Address(address).packed
