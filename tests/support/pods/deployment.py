"""A Deployment's controller: as many pods as wanted, replaced a few at a time when the template changes."""

import hashlib
import itertools
import json
from collections.abc import Callable, Mapping
from typing import Any

from tests.support.pods.pod import Pod
from tests.support.pods.quantities import share_of

Json = Mapping[str, Any]

Start = Callable[[str, Json], Pod]
"""Make a pod of a name from a template, and let it live."""


class Deployment:
    """`step` is called again and again."""

    def __init__(self, manifest: Json, start: Start) -> None:
        self.name: str = manifest["metadata"]["name"]
        self.pods: list[Pod] = []
        """Those that are not gone, the ones that are ending among them."""
        self._start = start
        self._numbers = itertools.count(1)
        self._revisions: dict[str, str] = {}
        self.set(manifest)

    def set(self, manifest: Json) -> None:
        """What is wanted now."""
        spec = manifest["spec"]
        self._replicas = int(spec.get("replicas", 1))
        self._template: Json = spec["template"]
        rolling = spec.get("strategy", {}).get("rollingUpdate", {})
        self._surge = share_of(rolling.get("maxSurge", "25%"), self._replicas, up=True)
        self._unavailable = share_of(rolling.get("maxUnavailable", "25%"), self._replicas, up=False)
        if spec.get("strategy", {}).get("type") == "Recreate":
            self._surge, self._unavailable = 0, self._replicas
        text = json.dumps(self._template, sort_keys=True)
        self._revision = hashlib.sha256(text.encode()).hexdigest()[:10]

    @property
    def is_settled(self) -> bool:
        """All pods are of the newest template and ready, and no other is left."""
        newest = [pod for pod in self.pods if self._revisions[pod.name] == self._revision and not pod.is_ending]
        return len(self.pods) == len(newest) == self._replicas and all(pod.is_ready for pod in newest)

    def step(self) -> None:
        """Start and end pods, as far as is allowed now."""
        self.pods = [pod for pod in self.pods if not pod.is_gone]
        alive = [pod for pod in self.pods if not pod.is_ending]
        new = [pod for pod in alive if self._revisions[pod.name] == self._revision]
        old = [pod for pod in alive if pod not in new]
        for pod in new[self._replicas :]:
            pod.end()
        room = min(self._replicas - len(new), self._replicas + (self._surge if old else 0) - len(alive))
        for _ in range(room):
            self._add()
        spare = sum(pod.is_ready for pod in alive) - (self._replicas - self._unavailable)
        for pod in sorted(old, key=lambda pod: pod.is_ready):  # those that serve nobody first
            if not pod.is_ready:
                pod.end()
            elif spare > 0:
                spare -= 1
                pod.end()

    def _add(self) -> None:
        name = f"{self.name}-{self._revision}-{next(self._numbers)}"
        self._revisions[name] = self._revision
        self.pods.append(self._start(name, self._template))
