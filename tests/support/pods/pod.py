"""A pod: its containers in the order of their kinds, from the first to start to the last to end."""

import asyncio
import contextlib
import itertools
import os
import signal
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from tests.support.pods.cgroups import Cgroups
from tests.support.pods.container import Container, Plan
from tests.support.pods.images import Image
from tests.support.pods.network import Network
from tests.support.pods.quantities import number_of
from tests.support.pods.roots import Ground, Mount
from tests.support.pods.sandbox import Sandbox
from tests.support.pods.variables import environ, expanded
from tests.support.pods.volumes import Find, Projection, volume

Json = Mapping[str, Any]

_GRACE_S = 30
_numbers = itertools.count(1)


@dataclass(frozen=True, slots=True)
class Node:
    """The machine that pods run on. `open_files`: its limit for each process, where it is not the machine's own."""

    network: Network
    folder: Path
    image: Callable[[str], Image]
    find: Find
    back_off: float = 10.0
    open_files: int | None = None
    resolv_conf: str = ""


@dataclass(frozen=True, slots=True)
class Event:
    """`at`: seconds of the machine's clock that is never set back."""

    at: float
    container: str
    what: str


@dataclass
class Volumes:
    projections: list[Projection] = field(default_factory=list)
    folders: dict[str, Path] = field(default_factory=dict)
    mounting: list[str] = field(default_factory=list)


class Pod:
    """`live` is its whole life. What it says of itself may be read by other threads."""

    def __init__(self, name: str, template: Json, node: Node, namespace: str) -> None:
        self.name = name
        self.namespace = namespace
        self.labels: Json = template["metadata"].get("labels", {})
        self.spec: Json = template["spec"]
        self.metadata: Json = template["metadata"]
        self.containers: dict[str, Container] = {}
        self.events: list[Event] = []
        self.is_ending = False
        self.is_gone = False
        self._node = node
        self._sandbox = Sandbox()
        self._cgroups = Cgroups(f"sluice-{os.getpid()}-{next(_numbers)}")
        self._volumes = Volumes()
        self._asked_to_end = asyncio.Event()
        self._grace = float(self.spec.get("terminationGracePeriodSeconds", _GRACE_S))
        self.folder = node.folder / name

    # ---- what it is ----

    @property
    def address(self) -> str:
        return self._sandbox.address

    @property
    def is_ready(self) -> bool:
        wanted = [
            spec["name"] for spec in [*self._init, *self.spec["containers"]] if _is_sidecar(spec) or spec in self._main
        ]
        containers = [self.containers.get(name) for name in wanted]
        return all(container is not None and container.is_ready for container in containers)

    @property
    def has_succeeded(self) -> bool:
        """Of one that is to end: all its main containers ended well."""
        ended = [self.containers.get(spec["name"]) for spec in self._main]
        return all(container is not None and container.gone.is_set() and container.code == 0 for container in ended)

    def told(self, container: str) -> str:
        """What a container printed, in all its runs."""
        path = self.folder / "logs" / container
        return path.read_text(errors="replace") if path.exists() else ""

    def memory(self, container: str) -> tuple[int, int]:
        """The most that a container has used, and its limit, in bytes; 0: it has none, or this machine none for us."""
        return self._cgroups.used(container)

    def story(self) -> str:
        """What happened, line by line, for a test that fails."""
        first = self.events[0].at if self.events else 0.0
        return "\n".join(f"{event.at - first:7.2f} {event.container}: {event.what}" for event in self.events)

    def shared(self, volume_name: str) -> Path:
        """A volume's folder, as this machine sees it."""
        folder = self._volumes.folders[volume_name]
        return Path(f"/proc/{self._sandbox.pid}/root{folder}")

    @property
    def _init(self) -> list[Json]:
        return list(self.spec.get("initContainers", []))

    @property
    def _main(self) -> list[Json]:
        return list(self.spec["containers"])

    # ---- its life ----

    async def live(self) -> None:
        """From its sandbox to its removal."""
        try:
            await self._open()
            async with asyncio.TaskGroup() as tasks:
                starting = tasks.create_task(self._start(tasks))
                await self._asked_to_end.wait()
                self.is_ending = True
                starting.cancel()
                await self._end()
        finally:
            await self._sandbox.close()
            self._cgroups.remove()
            self.is_gone = True

    def end(self, grace: float | None = None) -> None:
        """As a deletion does: returns at once."""
        if grace is not None:
            self._grace = grace
        self.is_ending = True  # it is no endpoint from now on
        self._asked_to_end.set()

    def kill(self) -> None:
        """SIGKILL to all containers at once, as a machine that runs out of memory does; they are started again."""
        for container in list(self.containers.values()):
            container.signal(signal.SIGKILL)

    def refresh(self) -> None:
        """Swap in what the objects that its volumes show hold by now."""
        for projection in self._volumes.projections:
            with contextlib.suppress(FileNotFoundError):  # the pod is being removed
                projection.put(self._node.find)

    async def _open(self) -> None:
        self.folder.mkdir(parents=True)
        (self.folder / "logs").mkdir()
        group = self.spec.get("securityContext", {}).get("fsGroup")
        made = self._volumes
        for spec in self.spec.get("volumes", []):
            folder = self.folder / "volumes" / spec["name"]
            one = volume(spec, folder, group, self.value)
            made.folders[spec["name"]] = folder
            if isinstance(one, Projection):
                one.put(self._node.find)
                made.projections.append(one)
            else:
                one.make()
                made.mounting += one.mounting()
        await self._sandbox.open(self._node.network, self.name, made.mounting)

    async def _start(self, tasks: asyncio.TaskGroup) -> None:
        """Init containers one after the other, sidecars among them, then all others."""
        for spec in self._init:
            container = self._add(spec)
            container.again_after_success = _is_sidecar(spec)
            tasks.create_task(container.keep())
            await (container.started if _is_sidecar(spec) else container.gone).wait()
            if not _is_sidecar(spec) and container.code:
                self._asked_to_end.set()
                return
        policy = self.spec.get("restartPolicy", "Always")
        running = [self._add(spec) for spec in self._main]
        for container in running:
            container.again_after_failure = policy != "Never"
            container.again_after_success = policy == "Always"
            tasks.create_task(container.keep())
        for container in running:
            await container.gone.wait()
        self._asked_to_end.set()

    def _add(self, spec: Json) -> Container:
        container = Container(
            spec, self._sandbox, partial(self._plan, spec), self.folder / "logs" / spec["name"], self._note
        )
        container.back_off = self._node.back_off
        container.grace = self._grace
        self.containers[container.name] = container
        return container

    async def _end(self) -> None:
        """All hooks at once; SIGTERM to the main containers; then to the sidecars, the last that started first."""
        self._note("pod", "is to end")
        for container in self.containers.values():
            container.finish()
        async with asyncio.TaskGroup() as ends:
            for container in self.containers.values():
                if not container.gone.is_set():
                    ends.create_task(container.stop(self._grace, partial(self._turn, container)))
        self._note("pod", "has ended")

    async def _turn(self, container: Container) -> None:
        """Of a sidecar: when all that started after it are gone."""
        if not _is_sidecar(container.spec):
            return
        names = list(self.containers)
        for name in names[names.index(container.name) + 1 :]:
            await self.containers[name].gone.wait()

    def _note(self, container: str, what: str) -> None:
        self.events.append(Event(time.monotonic(), container, what))

    # ---- what containers are made of ----

    def value(self, path: str) -> str:
        """A field of the pod, as manifests name it. Raises KeyError."""
        if path.startswith(("metadata.labels[", "metadata.annotations[")):
            kind, _, key = path.partition("[")
            return str(self.metadata.get(kind.partition(".")[2], {}).get(key.strip("']\""), ""))
        known: dict[str, str] = {
            "metadata.name": self.name,
            "metadata.namespace": self.namespace,
            "metadata.uid": f"uid-of-{self.name}",
            "spec.nodeName": "this-machine",
            "spec.serviceAccountName": self.spec.get("serviceAccountName", "default"),
            "status.podIP": self.address,
            "status.hostIP": self._node.network.gateway,
        }
        return known[path]

    def _plan(self, spec: Json) -> Plan:
        image = self._node.image(spec["image"])
        of_pod = self.spec.get("securityContext", {})
        shared = {name: of_pod[name] for name in ("runAsUser", "runAsGroup", "runAsNonRoot") if name in of_pod}
        groups = [*of_pod.get("supplementalGroups", []), *([of_pod["fsGroup"]] if "fsGroup" in of_pod else [])]
        variables = environ(spec, {**image.environ, "HOSTNAME": self.name, "HOME": "/"}, self._node.find, self.value)
        limits = spec.get("resources", {}).get("limits", {})
        ground = Ground(
            image=image,
            folder=self.folder / "roots" / spec["name"],
            mounts=[self._mount(mount) for mount in sorted(spec.get("volumeMounts", []), key=_depth)],
            etc=self._etc(),
            cgroup_files=_cgroup_files(limits),
            cgroups=self._cgroups.limited(spec["name"], limits),
            security={**shared, **spec.get("securityContext", {})},
            groups=groups,
            open_files=self._node.open_files,
        )
        entrypoint, arguments = spec.get("command"), spec.get("args")
        words = [*(entrypoint or image.entrypoint), *(arguments or (() if entrypoint else image.command))]
        return Plan(ground, variables, [expanded(word, variables) for word in words])

    def _mount(self, mount: Json) -> Mount:
        source = self._volumes.folders[mount["name"]] / mount.get("subPath", "")
        spec = next(spec for spec in self.spec["volumes"] if spec["name"] == mount["name"])
        is_projection = not spec.keys() & {"emptyDir", "ephemeral"}
        return Mount(str(source), mount["mountPath"].rstrip("/"), bool(mount.get("readOnly")) or is_projection)

    def _etc(self) -> dict[str, str]:
        hosts = [("127.0.0.1", ["localhost"]), (self.address, [self.name])]
        hosts += [(alias["ip"], alias["hostnames"]) for alias in self.spec.get("hostAliases", [])]
        return {
            "hosts": "".join(f"{address}\t{' '.join(names)}\n" for address, names in hosts),
            "hostname": f"{self.name}\n",
            "resolv.conf": self._node.resolv_conf,
            "passwd": "root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/:/usr/sbin/nologin\n",
            "group": "root:x:0:\nnogroup:x:65534:\n",
            "nsswitch.conf": "passwd: files\ngroup: files\nhosts: files dns\n",
        }


def _is_sidecar(spec: Json) -> bool:
    return spec.get("restartPolicy") == "Always"


def _depth(mount: Json) -> int:
    return str(mount["mountPath"]).count("/")


def _cgroup_files(limits: Json) -> dict[str, str]:
    """What a container reads about itself where cgroups are of version 2."""
    cpu, memory = limits.get("cpu"), limits.get("memory")
    return {
        "cgroup.controllers": "cpu memory\n",
        "cpu.max": f"{int(number_of(cpu) * 100_000)} 100000\n" if cpu else "max 100000\n",
        "memory.max": f"{int(number_of(memory))}\n" if memory else "max\n",
    }
