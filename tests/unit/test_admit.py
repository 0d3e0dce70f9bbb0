"""Whether a caller may make this kind of call from this place: roles, credentials, surfaces, networks."""

from collections.abc import Mapping
from ipaddress import ip_network

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from extproc.identity import roles
from extproc.model import Address, Caller, CredentialKind, Network, Team
from extproc.refusals import IP_NOT_ALLOWED, PERMISSION_DENIED, Kind, Refused
from extproc.stages.admit import admit
from extproc.surfaces import Face, Place, Surface

DEVELOPER = frozenset({"developer"})
ALWAYS: list[Surface] = [Surface.ME, Surface.MODELS, Surface.MODEL_ITEM]
CALLS: list[Surface] = [surface for surface in Surface if surface not in ALWAYS and surface is not Surface.READY]


def _caller(
    held: frozenset[str] = DEVELOPER,
    kind: CredentialKind = CredentialKind.KEY,
    surfaces: frozenset[str] | None = None,
    own: tuple[str, ...] = (),
    teams: tuple[str, ...] | None = None,
) -> Caller:
    team = None if teams is None else Team("research", "science", "gold", networks=tuple(map(ip_network, teams)))
    networks: tuple[Network, ...] = tuple(map(ip_network, own))
    return Caller("key_1", "app", kind=kind, roles=held, surfaces=surfaces, networks=networks, team=team)


def _refused(
    caller: Caller,
    surface: Surface = Surface.CHAT,
    address: str | None = "203.0.113.7",
    accepted: Mapping[Surface, str] | None = None,
) -> Kind | None:
    """Why the call is refused, or None."""
    try:
        admit(caller, Place(surface, Face.OPENAI), address, accepted or {})
    except Refused as refused:
        return refused.refusal.kind
    return None


# ---- roles ----


@pytest.mark.parametrize("role", roles.ROLES)
@pytest.mark.parametrize("surface", CALLS)
def test_every_role_but_a_viewer_may_call(role: str, surface: Surface) -> None:
    expected = PERMISSION_DENIED if role == "viewer" else None
    assert _refused(_caller(frozenset({role})), surface) is expected


@pytest.mark.parametrize("surface", ALWAYS)
def test_whoever_is_known_may_ask_who_it_is_and_what_there_is(surface: Surface) -> None:
    for held in (frozenset({"viewer"}), frozenset[str](), frozenset({"captain"})):
        assert _refused(_caller(held), surface) is None


def test_one_role_that_may_call_is_enough() -> None:
    assert _refused(_caller(frozenset({"viewer", "developer"}))) is None
    assert _refused(_caller(frozenset())) is PERMISSION_DENIED
    assert _refused(_caller(frozenset({"captain"}))) is PERMISSION_DENIED


# ---- kinds of credential ----


@pytest.mark.parametrize("kind", CredentialKind)
@pytest.mark.parametrize("surface", [*CALLS, *ALWAYS])
def test_a_surface_takes_the_kind_of_credential_that_is_set(kind: CredentialKind, surface: Surface) -> None:
    caller = _caller(kind=kind)
    assert _refused(caller, surface) is None
    assert _refused(caller, surface, accepted={surface: kind.value}) is None
    other = next(one for one in CredentialKind if one is not kind)
    assert _refused(caller, surface, accepted={surface: other.value}) is PERMISSION_DENIED


# ---- surfaces of a key ----


@pytest.mark.parametrize("allowed", sorted({surface.key for surface in CALLS}))
def test_a_key_may_use_its_surfaces_and_what_belongs_to_them(allowed: str) -> None:
    caller = _caller(surfaces=frozenset({allowed}))
    for surface in CALLS:
        assert _refused(caller, surface) is (None if surface.key == allowed else PERMISSION_DENIED)
    for surface in ALWAYS:
        assert _refused(caller, surface) is None


def test_a_key_of_no_surface_may_still_ask_who_it_is() -> None:
    caller = _caller(surfaces=frozenset())
    assert _refused(caller) is PERMISSION_DENIED
    assert _refused(caller, Surface.ME) is None


# ---- networks ----


@pytest.mark.parametrize(
    ("own", "teams", "address", "passes"),
    [
        ((), None, None, True),
        ((), None, "not an address", True),
        ((), (), "203.0.113.7", True),
        (("203.0.113.0/24",), None, "203.0.113.7", True),
        (("203.0.113.0/24",), None, "203.0.114.7", False),
        (("10.0.0.0/8", "203.0.113.7/32"), None, "203.0.113.7", True),
        ((), ("203.0.113.0/24",), "203.0.113.7", True),
        ((), ("10.0.0.0/8",), "203.0.113.7", False),
        # The key's and the team's must both fit.
        (("203.0.113.7/32",), ("203.0.113.0/24",), "203.0.113.7", True),
        (("203.0.113.7/32",), ("10.0.0.0/8",), "203.0.113.7", False),
        (("10.0.0.0/8",), ("203.0.113.0/24",), "203.0.113.7", False),
        # IPv6, and IPv4 as a dual-stack socket tells it.
        (("2001:db8::/32",), None, "2001:db8::1", True),
        (("2001:db8::/32",), None, "2001:db9::1", False),
        (("203.0.113.0/24",), None, "::ffff:203.0.113.7", True),
        (("203.0.113.0/24",), None, "::ffff:203.0.114.7", False),
        (("203.0.113.0/24",), None, "2001:db8::1", False),
        (("::/0",), None, "203.0.113.7", False),
        (("0.0.0.0/0",), None, "2001:db8::1", False),
        # What is no address is in no network.
        (("0.0.0.0/0",), None, None, False),
        (("0.0.0.0/0",), None, "", False),
        (("0.0.0.0/0",), None, "203.0.113.7, 10.0.0.1", False),
        (("0.0.0.0/0",), None, "203.0.113.7:443", False),
        (("0.0.0.0/0",), None, "203.0.113.07", False),
        (("10.0.0.0/8",), None, "167772161", False),  # 10.0.0.1 as a number
    ],
)
def test_calls_come_from_the_networks_of_the_key_and_of_the_team(
    own: tuple[str, ...], teams: tuple[str, ...] | None, address: str | None, passes: bool
) -> None:
    expected = None if passes else IP_NOT_ALLOWED
    surfaces: tuple[Surface, ...] = (Surface.CHAT, Surface.ME)
    for surface in surfaces:
        assert _refused(_caller(own=own, teams=teams), surface, address) is expected


@given(st.ip_addresses(), st.ip_addresses(), st.integers(0, 32))
def test_a_network_holds_just_its_addresses(address: Address, of: Address, bits: int) -> None:
    assume(getattr(address, "ipv4_mapped", None) is None)
    network = ip_network(f"{of}/{bits}", strict=False)
    assert (_refused(_caller(own=(str(network),)), address=str(address)) is None) is (address in network)


@given(st.text(max_size=30))
def test_no_refusal_quotes_the_address(address: str) -> None:
    with pytest.raises(Refused) as refused:
        admit(_caller(own=("192.0.2.1/32",)), Place(Surface.CHAT, Face.OPENAI), f"canary {address}", {})
    assert "canary" not in str(refused.value.refusal)
