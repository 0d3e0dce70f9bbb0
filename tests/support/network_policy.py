"""What NetworkPolicies let through: read as Kubernetes describes them, with numbered ports alone.

Policies add up. A side that no policy selects is open; one that is selected lets through what some rule of some policy
names. Blocks of addresses are for what is not a pod, as network engines that go by identity have it.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from ipaddress import ip_address, ip_network
from typing import Any

Manifest = Mapping[str, Any]

NAME = "kubernetes.io/metadata.name"


@dataclass(frozen=True)
class Pod:
    """Where it runs, and its labels."""

    namespace: str
    labels: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Host:
    """An address that is no pod's."""

    address: str


Peer = Pod | Host


def passes(manifests: Iterable[Manifest], source: Peer, target: Peer, port: int, protocol: str = "TCP") -> bool:
    """Whether a connection comes about: the source's side lets it out, and the target's side lets it in."""
    policies = [one for one in manifests if one["kind"] == "NetworkPolicy"]
    out = _opens(policies, source, target, port, protocol, ("Egress", "egress", "to"))
    return out and _opens(policies, target, source, port, protocol, ("Ingress", "ingress", "from"))


def _opens(
    policies: Sequence[Manifest], ours: Peer, other: Peer, port: int, protocol: str, words: tuple[str, str, str]
) -> bool:
    side, rules, peers = words
    if isinstance(ours, Host):
        return True
    here = [
        policy
        for policy in policies
        if side in policy["spec"]["policyTypes"]
        and policy["metadata"]["namespace"] == ours.namespace
        and _selects(policy["spec"]["podSelector"], ours.labels)
    ]
    if not here:
        return True
    return any(
        _on_port(rule, port, protocol)
        and (not rule.get(peers) or any(_is_peer(peer, other, ours.namespace) for peer in rule[peers]))
        for policy in here
        for rule in policy["spec"].get(rules) or ()
    )


def _on_port(rule: Manifest, port: int, protocol: str) -> bool:
    ports = rule.get("ports")
    return not ports or any(one["port"] == port and one.get("protocol", "TCP") == protocol for one in ports)


def _is_peer(peer: Manifest, other: Peer, namespace: str) -> bool:
    if "ipBlock" in peer:
        block = peer["ipBlock"]
        return (
            isinstance(other, Host)
            and _within(other, block["cidr"])
            and not any(_within(other, hole) for hole in block.get("except", ()))
        )
    if isinstance(other, Host):
        return False
    if "namespaceSelector" in peer:
        if not _selects(peer["namespaceSelector"], {NAME: other.namespace}):
            return False
    elif other.namespace != namespace:
        return False
    return _selects(peer.get("podSelector", {}), other.labels)


def _within(host: Host, block: str) -> bool:
    address, network = ip_address(host.address), ip_network(block)
    return address.version == network.version and address in network


def _selects(selector: Manifest, labels: Mapping[str, str]) -> bool:
    if any(labels.get(key) != value for key, value in selector.get("matchLabels", {}).items()):
        return False
    for one in selector.get("matchExpressions", ()):
        if one["operator"] != "In":
            raise NotImplementedError(one["operator"])
        if labels.get(one["key"]) not in one["values"]:
            return False
    return True
