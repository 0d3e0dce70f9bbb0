"""Which addresses a team's backend may have, however they are spelled."""

import socket
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address

import pytest
from hypothesis import given
from hypothesis import strategies as st

from extproc.config import addresses

NEVER = [
    *map(IPv4Network, ("0.0.0.0/8", "169.254.0.0/16", "224.0.0.0/4", "240.0.0.0/4")),
    *map(IPv4Network, ("168.63.129.16/32", "100.100.100.200/32")),
]
PRIVATE = [
    *map(IPv4Network, ("10.0.0.0/8", "127.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16")),
    *map(IPv4Network, ("100.64.0.0/10", "198.18.0.0/15")),
]
PUBLIC = [*map(IPv4Network, ("1.1.1.0/24", "8.8.8.0/24", "13.107.6.0/24", "172.217.0.0/16", "100.128.0.0/16"))]


def within(networks: list[IPv4Network]) -> st.SearchStrategy[IPv4Address]:
    return st.sampled_from(networks).flatmap(lambda one: st.ip_addresses(v=4, network=one)).map(IPv4Address)


def embedded(one: IPv4Address) -> list[IPv6Address]:
    """The addresses of IPv6 whose packets end at one of IPv4."""
    number = int(one)
    return [
        IPv6Address(0xFFFF << 32 | number),  # mapped
        IPv6Address(int(IPv6Address("64:ff9b::")) | number),  # NAT64
        IPv6Address(0x2002 << 112 | number << 80 | 1),  # 6to4
    ]


def spellings(one: IPv4Address) -> list[str]:
    """As programs of many kinds take an address, besides the usual form."""
    a, b, c, d = one.packed
    number = int(one)
    return [
        str(number),
        hex(number),
        hex(number).upper().replace("X", "x"),
        oct(number).replace("0o", "0"),
        f"0{a:o}.{b}.{c}.{d}",
        f"{hex(a)}.{b}.{c}.{d}",
        f"{a}.{b}.{c}.{hex(d)}",
        f"{a}.{b << 16 | c << 8 | d}",
        f"{a}.{b}.{c << 8 | d}",
        f"{a:03}.{b:03}.{c:03}.{d:03}" if min(a, b, c, d) < 100 else f"{a}.{b}.{c}.0{d}",
        f"{one}.",
        f"{a}.{b}.{c}.{d}.0",
    ]


def verdict(host: str, private: bool) -> str:
    """What keeps a backend from such a host; empty where nothing does."""
    try:
        found = addresses.address(host)
    except ValueError as error:
        return str(error)
    return "a name" if found is None else addresses.trouble(found, private)


@given(within(PRIVATE))
def test_a_private_address_is_refused_in_every_form_unless_allowed(one: IPv4Address) -> None:
    for form in (one, *embedded(one)):
        assert "private" in verdict(str(form), private=False)
    if not any(one in network for network in NEVER):
        for form in (one, *embedded(one)):
            assert verdict(str(form), private=True) == ""


@given(within(NEVER), st.booleans())
def test_what_no_backend_has_is_refused_whatever_is_allowed(one: IPv4Address, private: bool) -> None:
    for form in (one, *embedded(one)):
        assert "never" in verdict(str(form), private)


@given(within(PUBLIC))
def test_a_public_address_is_allowed(one: IPv4Address) -> None:
    for form in (one, *embedded(one)):
        assert verdict(str(form), private=False) == ""


@given(st.one_of(within(PRIVATE), within(NEVER), within(PUBLIC)), st.booleans())
def test_an_unusual_spelling_is_refused_whatever_it_spells(one: IPv4Address, private: bool) -> None:
    for spelled in spellings(one):
        assert verdict(spelled, private) != ""
        assert verdict(spelled, private) != "a name"


@given(st.ip_addresses(v=4))
def test_no_spelling_that_this_machine_understands_passes_for_a_name(one: IPv4Address) -> None:
    """What the C library takes for an address is never taken for a name here."""
    for spelled in spellings(one):
        try:
            socket.inet_aton(spelled)
        except OSError:
            continue
        assert verdict(spelled, private=True) not in ("", "a name")


@pytest.mark.parametrize(
    "one",
    [
        "::1",
        "::127.0.0.1",
        "::ffff:10.0.0.1",
        "::ffff:0:10.0.0.1",
        "fc00::1",
        "fdff:ffff::1",
        "2001:db8::1",
        "100::1",
        "64:ff9b:1::a00:1",
        "5f00::1",
    ],
)
def test_an_address_of_ipv6_that_is_not_of_the_public_internet_is_refused(one: str) -> None:
    assert "private" in verdict(one, private=False)


@pytest.mark.parametrize("one", ["::", "fe80::1", "ff02::1", "fec0::1", "fd00:ec2::254", "::ffff:169.254.169.254"])
def test_an_address_of_ipv6_that_no_backend_has_is_refused(one: str) -> None:
    assert "never" in verdict(one, private=True)


@given(st.ip_addresses(v=6))
def test_an_address_of_ipv6_passes_only_from_the_public_range(one: IPv6Address) -> None:
    if verdict(str(one), private=False) == "":
        assert one in IPv6Network("2000::/3") or one.ipv4_mapped or one in IPv6Network("64:ff9b::/96")
    assert verdict(one.exploded, private=False) == verdict(str(one), private=False)


@given(st.ip_addresses())
def test_what_is_private_is_refused_where_private_is(one: IPv4Address | IPv6Address) -> None:
    """Python's own register of special addresses knows none that passes."""
    given = ip_address(one)
    if verdict(str(given), private=False) == "" and not addresses.trouble(given, allows_private=False):
        inner = getattr(given, "ipv4_mapped", None) or getattr(given, "sixtofour", None) or given
        assert inner.is_global
        assert not inner.is_multicast


def test_a_host_is_listed_by_its_name_or_by_what_it_stands_under() -> None:
    hosts = ("llm.example.com", "*.corp.example", "1.1.1.1")
    inside = ("llm.example.com", "a.corp.example", "a.b.corp.example", "1.1.1.1")
    outside = ("example.com", "x.llm.example.com", "corp.example", "notcorp.example", "a.corp.example.evil", "1.1.1.10")
    assert [addresses.is_listed(host, hosts) for host in (*inside, *outside)] == [True] * 4 + [False] * 6
