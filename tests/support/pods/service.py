"""A Service: one address before all pods that are ready, connection by connection in turn."""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

from tests.support.pods.forwarding import Address, Forwarder
from tests.support.pods.pod import Pod

Json = Mapping[str, Any]


class Service:
    """As kube-proxy does it, it hears of pods that become ready, or are no longer, `lag` seconds later.

    While no pod is ready, those that are ending and still ready are used. A connection stays with its pod.
    """

    def __init__(self, manifest: Json, pods: Callable[[], Sequence[Pod]], lag: float, address: str) -> None:
        spec = manifest["spec"]
        self.name: str = manifest["metadata"]["name"]
        self._selector: Json = spec["selector"]
        self._ports: Sequence[Json] = spec["ports"]
        self.address = address
        self._pods = pods
        self._lag = lag
        self._known: list[Pod] = []  # as the control plane has them
        self._endpoints: list[Pod] = []  # as this machine has heard
        self._turn = 0
        self._forwarders: list[Forwarder] = []

    async def open(self) -> None:
        for port in self._ports:
            forwarder = Forwarder(partial(self._next, port.get("targetPort", port["port"])))
            await forwarder.open(self.address, port["port"])
            self._forwarders.append(forwarder)

    async def close(self) -> None:
        for forwarder in self._forwarders:
            await forwarder.close()

    def selects(self, pod: Pod) -> bool:
        return self._selector.items() <= pod.labels.items()

    def step(self) -> None:
        """Look at the pods."""
        selected = [pod for pod in self._pods() if self.selects(pod) and pod.is_ready]
        now = [pod for pod in selected if not pod.is_ending] or selected
        if now != self._known:
            self._known = now
            asyncio.get_running_loop().call_later(self._lag, self._hear, now)

    def _hear(self, endpoints: list[Pod]) -> None:
        self._endpoints = endpoints

    @property
    def endpoints(self) -> Sequence[Pod]:
        return tuple(self._endpoints)

    def _next(self, target: str | int) -> Address | None:
        endpoints = self._endpoints
        if not endpoints:
            return None
        self._turn += 1
        pod = endpoints[self._turn % len(endpoints)]
        ports = [container.port(target) for container in pod.containers.values() if _has(container.spec, target)]
        return pod.address, ports[0] if ports else int(target)


def _has(spec: Json, target: str | int) -> bool:
    return any(target in (port.get("name"), port["containerPort"]) for port in spec.get("ports", []))
