"""Where a team's backend may be: hosts by name, and the addresses that a URL or a name's answer may stand for.

A gateway stands where others cannot reach: what it is told to call may be a neighbour of its own, such as the service
that gives a machine its credentials. So an address is refused unless it is known to be one of the public internet.
"""

import re
from collections.abc import Iterable
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address

Address = IPv4Address | IPv6Address

_PUBLIC_V6 = IPv6Network("2000::/3")
_NAT64 = IPv6Network("64:ff9b::/96")
_NUMBER = re.compile(r"[0-9]+|0[xX][0-9a-fA-F]*")  # as a last label it makes the whole host an IPv4 address
_NEVER: tuple[IPv4Network | IPv6Network, ...] = (
    IPv4Network("0.0.0.0/8"),  # this machine
    IPv4Network("169.254.0.0/16"),  # link-local: what clouds tell their machines, and give them credentials by
    IPv4Network("100.100.100.200/32"),  # the same at Alibaba
    IPv4Network("168.63.129.16/32"),  # the same at Azure, although a public address
    IPv4Network("192.0.0.192/32"),  # the same at Oracle
    IPv4Network("224.0.0.0/3"),  # many, reserved, broadcast
    IPv6Network("::/128"),
    IPv6Network("fe80::/10"),
    IPv6Network("fec0::/10"),
    IPv6Network("ff00::/8"),
    IPv6Network("fd00:ec2::/32"),  # what Amazon tells its machines
    IPv6Network("fd20:ce::/32"),  # the same at Google
)
_PRIVATE: tuple[IPv4Network | IPv6Network, ...] = tuple(
    IPv4Network(one)
    for one in (
        "10.0.0.0/8",
        "100.64.0.0/10",  # of carriers
        "127.0.0.0/8",
        "172.16.0.0/12",
        "192.0.0.0/24",
        "192.0.2.0/24",  # examples
        "192.31.196.0/24",
        "192.52.193.0/24",
        "192.88.99.0/24",  # relays to IPv6
        "192.168.0.0/16",
        "192.175.48.0/24",
        "198.18.0.0/15",  # benchmarks
        "198.51.100.0/24",
        "203.0.113.0/24",
    )
) + tuple(
    IPv6Network(one)
    for one in (
        "2001::/23",  # protocols, Teredo among them
        "2001:db8::/32",
        "2620:4f:8000::/48",
        "3fff::/20",
    )
)


def address(host: str) -> Address | None:
    """The address that a host is, None for a name. Raises ValueError for a spelling that programs read differently."""
    try:
        return ip_address(host)
    except ValueError:
        if _NUMBER.fullmatch(host.rstrip(".").rpartition(".")[2]):
            raise ValueError("is an address in an unusual spelling: write four decimal numbers, or a name") from None
    return None


def trouble(found: Address, allows_private: bool) -> str:
    """Why an address may not be called; empty where it may."""
    seen = _inner(found)
    if any(_within(one, network) for one in seen for network in _NEVER):
        return "is never allowed: it is of this machine, its link, the services of its cloud, or of many"
    if allows_private or not any(map(_is_private, seen)):
        return ""
    return "is a private address, and `byob.private` of the gateway is not on"


def is_listed(host: str, hosts: Iterable[str]) -> bool:
    """Whether a host is one of a list, in which `*.example.com` stands for every name under it."""
    return any(host.endswith(one[1:]) if one.startswith("*.") else host == one for one in hosts)


def _inner(found: Address) -> list[Address]:
    """The address, or those inside it that its packets end at."""
    if isinstance(found, IPv4Address):
        return [found]
    if found.ipv4_mapped is not None:
        return [found.ipv4_mapped]
    if found in _NAT64:
        return [IPv4Address(int(found) & 0xFFFF_FFFF)]
    if found.sixtofour is not None:
        return [found.sixtofour]
    if found.teredo is not None:
        return [found, *found.teredo]
    inside = IPv4Address(int(found) & 0xFFFF_FFFF)
    if int(found) >> 32 == 0 and int(found) > 1:  # compatible with IPv4, once
        return [inside]
    if (int(found) >> 32) & 0xFDFF_FFFF == 0x5EFE:  # tunnels inside a site (ISATAP)
        return [found, inside]
    return [found]


def _is_private(found: Address) -> bool:
    if isinstance(found, IPv6Address) and found not in _PUBLIC_V6:
        return True
    return any(_within(found, network) for network in _PRIVATE)


def _within(found: Address, network: IPv4Network | IPv6Network) -> bool:
    return found.version == network.version and found in network


def is_loopback(host: str) -> bool:
    """Whether what goes there stays on this machine."""
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
