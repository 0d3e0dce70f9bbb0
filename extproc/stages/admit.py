"""Whether the caller may make this kind of call, from this place. What it may ask for comes later."""

from collections.abc import Mapping
from ipaddress import ip_address

from extproc.identity import roles
from extproc.model import Address, Caller, Network
from extproc.refusals import IP_NOT_ALLOWED, PERMISSION_DENIED, Refused
from extproc.surfaces import Place, Surface

# A key for chat alone may still ask who it is and which models there are.
_ALWAYS = frozenset({Surface.ME, Surface.MODELS, Surface.MODEL_ITEM})


def admit(caller: Caller, place: Place, address: str | None, accepted: Mapping[Surface, str]) -> None:
    """Refuse what the caller's role, credential, surfaces and networks do not allow.

    `address` is the client's as Envoy knows it; `accepted` says for a surface which kind of credential it takes.
    """
    if caller.roles.isdisjoint(roles.USERS) and place.surface not in _ALWAYS:
        raise Refused(PERMISSION_DENIED, "Your role may look, but not call models.")
    if accepted.get(place.surface, caller.kind.value) != caller.kind.value:
        raise Refused(PERMISSION_DENIED, f"This path takes a {accepted[place.surface]} only.")
    if caller.surfaces is not None and place.surface not in _ALWAYS and place.surface.key not in caller.surfaces:
        raise Refused(PERMISSION_DENIED, f"This key may not use the {place.surface.key} API.")
    if caller.networks or (caller.team is not None and caller.team.networks):
        _check_address(caller, address)


def _check_address(caller: Caller, address: str | None) -> None:
    try:
        client = ip_address(address or "")
    except ValueError:
        raise Refused(IP_NOT_ALLOWED, "The address of the client is not known.") from None
    if caller.networks and not _within(client, caller.networks):
        raise Refused(IP_NOT_ALLOWED, "This key may not be used from this address.")
    if caller.team is not None and caller.team.networks and not _within(client, caller.team.networks):
        raise Refused(IP_NOT_ALLOWED, "This team may not call from this address.")


def _within(client: Address, networks: tuple[Network, ...]) -> bool:
    mapped = getattr(client, "ipv4_mapped", None)  # an IPv4 client of a dual-stack socket
    return any((mapped or client) in network for network in networks)
