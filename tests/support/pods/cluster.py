"""The whole of it: objects that are applied, what follows from them, and what a test may ask and do."""

import asyncio
import contextlib
import copy
import os
import shutil
import signal
import tempfile
import threading
from collections.abc import Awaitable, Callable, Mapping, Sequence
from concurrent.futures import Future
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar

import pytest

from tests.support.dns import Names
from tests.support.gateway import until
from tests.support.pods.cgroups import remove_dead_groups
from tests.support.pods.commands import CommandError
from tests.support.pods.deployment import Deployment
from tests.support.pods.forwarding import Forwarder
from tests.support.pods.images import Image
from tests.support.pods.network import Network
from tests.support.pods.pod import Node, Pod
from tests.support.pods.service import Service

Json = dict[str, Any]
T = TypeVar("T")

NAMESPACE = "ai"
_DNS_PORT = 53
_STEP_S = 0.05
_LAG_S = 0.3
_FOLDERS = "sluice-pods-"
_HOOK = "helm.sh/hook"
_FIRST_HOOKS = frozenset({"pre-install", "pre-upgrade"})
_PROGRAMS = ("ip", "unshare", "nsenter", "setpriv", "prlimit", "chroot", "mount")


class Cluster:
    """Starts on entering, ends on leaving, with all its pods; runs in a thread of its own.

    `images`: what a manifest's `image` means, by the last part of its name without tag or digest. `lag`: seconds until
    Services hear of a pod's readiness. `back_off`: seconds before a container is started a third time. `open_files`:
    the limit of each process in pods. `names`: what its name server knows beside the Services; a test may change it.
    """

    def __init__(
        self,
        images: Mapping[str, Image],
        lag: float = _LAG_S,
        back_off: float = 10.0,
        open_files: int | None = None,
    ) -> None:
        _skip_without_namespaces()
        _remove_leftovers()
        self.folder = Path(tempfile.mkdtemp(prefix=f"{_FOLDERS}{os.getpid()}-"))
        self.ignored: list[str] = []
        """What was applied and means nothing here: `Kind/name`."""
        self._images = images
        self._lag = lag
        self._network = Network()
        self._node = Node(
            self._network,
            self.folder,
            self._image,
            lambda kind, name: self._objects.get((kind, name)),
            back_off,
            open_files,
            f"nameserver {self._network.gateway}\nsearch {NAMESPACE}.svc.cluster.local\noptions ndots:5 timeout:2\n",
        )
        self._objects: dict[tuple[str, str], Json] = {}
        self._deployments: dict[str, Deployment] = {}
        self._alone: dict[str, Pod] = {}
        self._all: list[Pod] = []
        self._services: dict[str, Service] = {}
        self._doors: dict[int, Forwarder] = {}
        self._dns = Names()
        self.names = self._dns.addresses
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._run, name="cluster")
        self._up: Future[None] = Future()
        self._leaving = asyncio.Event()

    # ---- life ----

    def __enter__(self) -> Self:
        self._thread.start()
        try:
            self._up.result(30)
        except BaseException as error:
            self._thread.join()
            shutil.rmtree(self.folder, ignore_errors=True)
            if isinstance(error, CommandError):
                pytest.skip(f"no network of its own here: {error}")
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is not None:
            print(self.story())
        with contextlib.suppress(RuntimeError):  # it has failed, and ended
            self._loop.call_soon_threadsafe(self._leaving.set)
        self._thread.join()
        shutil.rmtree(self.folder, ignore_errors=True)
        if kind is None and (failure := self._failure) is not None:
            raise failure

    _failure: BaseException | None = None

    def _run(self) -> None:
        try:
            self._loop.run_until_complete(self._live())
        except BaseException as error:
            self._failure = error
            if not self._up.done():
                self._up.set_exception(error)
        finally:
            self._loop.close()

    async def _live(self) -> None:
        await self._network.open()
        try:
            async with self._dns.serving(self.gateway, _DNS_PORT), asyncio.TaskGroup() as self._tasks:
                self._up.set_result(None)
                turning = self._tasks.create_task(self._turn())
                await self._leaving.wait()
                turning.cancel()
                for pod in self.pods:
                    pod.end(grace=0)
                    pod.kill()
        finally:
            for front in self._services.values():
                await front.close()
            for door in self._doors.values():
                await door.close()
            await self._network.close()

    async def _turn(self) -> None:
        while True:
            for deployment in self._deployments.values():
                deployment.step()
            for service in self._services.values():
                service.step()
            await asyncio.sleep(_STEP_S)

    def _image(self, name: str) -> Image:
        short = name.partition("@")[0].rpartition("/")[2].partition(":")[0]
        return self._images[short]

    # ---- what it is told ----

    def install(self, manifests: Sequence[Json], patience: float = 120.0) -> None:
        """As `helm install`: hooks that come first, to their end, then all else. Tests are left for `test`."""
        first = [one for one in manifests if _hooks(one) & _FIRST_HOOKS]
        for hook in sorted(first, key=lambda one: int(_annotation(one, f"{_HOOK}-weight") or 0)):
            self.apply([hook])
            if hook["kind"] in ("Job", "Pod"):
                self.completed(hook["metadata"]["name"], patience)
        self.apply([one for one in manifests if not _hooks(one)])

    def test(self, manifests: Sequence[Json], patience: float = 60.0) -> str:
        """As `helm test`: what the test pods print. Fails where one of them fails."""
        told = []
        for one in manifests:
            if "test" in _hooks(one):
                self.apply([one])
                if one["kind"] in ("Job", "Pod"):
                    told.append(self.completed(one["metadata"]["name"], patience))
        return "\n".join(told)

    def apply(self, manifests: Sequence[Json]) -> None:
        """As `kubectl apply`: new objects, and new states of known ones."""
        self._call(self._apply(copy.deepcopy(list(manifests))))

    def change(self, kind: str, name: str, **fields: Any) -> None:
        """Apply an object with other fields at its top, such as `data`."""
        self.apply([{**self._objects[kind, name], **fields}])

    def restart(self, deployment: str) -> None:
        """As `kubectl rollout restart`."""
        manifest = copy.deepcopy(self._objects["Deployment", deployment])
        annotations = manifest["spec"]["template"]["metadata"].setdefault("annotations", {})
        annotations["restarted"] = str(int(annotations.get("restarted", "0")) + 1)
        self.apply([manifest])

    def delete(self, pod: Pod, grace: float | None = None) -> None:
        """As `kubectl delete pod`, without waiting."""
        self._loop.call_soon_threadsafe(pod.end, grace)

    def kill(self, pod: Pod) -> None:
        """SIGKILL to all of its containers."""
        self._loop.call_soon_threadsafe(pod.kill)

    def reach(self, port: int) -> int:
        """Let pods call a port of 127.0.0.1, under the same number at `gateway`."""
        if port not in self._doors:
            self._doors[port] = Forwarder(lambda: ("127.0.0.1", port))
            self._call(self._doors[port].open(self.gateway, port))
        return port

    async def _apply(self, manifests: list[Json]) -> None:
        for manifest in sorted(manifests, key=lambda one: one["kind"] not in ("ConfigMap", "Secret")):
            kind, name = manifest["kind"], manifest["metadata"]["name"]
            self._objects[kind, name] = manifest
            match kind:
                case "ConfigMap" | "Secret":
                    for pod in self.pods:
                        pod.refresh()
                case "Deployment" if name in self._deployments:
                    self._deployments[name].set(manifest)
                case "Deployment":
                    self._deployments[name] = Deployment(manifest, self._started)
                case "Service" if name not in self._services:
                    address = await self._network.service_address()
                    self._services[name] = Service(manifest, lambda: self.pods, self._lag, address)
                    await self._services[name].open()
                    for end in ("", f".{NAMESPACE}", f".{NAMESPACE}.svc", f".{NAMESPACE}.svc.cluster.local"):
                        self.names[name + end] = [address]
                case "Job":
                    self._alone[name] = self._started(name, manifest["spec"]["template"])
                case "Pod":
                    self._alone[name] = self._started(name, manifest)
                case _:
                    self.ignored.append(f"{kind}/{name}")

    def _started(self, name: str, template: Mapping[str, Any]) -> Pod:
        pod = Pod(name, {"metadata": template.get("metadata", {}), "spec": template["spec"]}, self._node, NAMESPACE)
        self._tasks.create_task(pod.live())
        self._all.append(pod)
        return pod

    # ---- what it says ----

    @property
    def gateway(self) -> str:
        """This machine's address as pods see it."""
        return self._network.gateway

    @property
    def pods(self) -> list[Pod]:
        """Those that are there, ending ones among them."""
        deployed = [pod for deployment in self._deployments.values() for pod in deployment.pods]
        return [pod for pod in (*deployed, *self._alone.values()) if not pod.is_gone]

    @property
    def all_pods(self) -> list[Pod]:
        """Those that are gone, too."""
        return list(self._all)

    def service(self, name: str) -> Service:
        return self._services[name]

    def object(self, kind: str, name: str) -> Json:
        """As it was applied last."""
        return copy.deepcopy(self._objects[kind, name])

    def deployment(self, name: str) -> Deployment:
        return self._deployments[name]

    def url(self, service: str, port: int, scheme: str = "http") -> str:
        """Where a Service can be called from this machine."""
        return f"{scheme}://{self._services[service].address}:{port}"

    def settled(self, deployment: str, patience: float = 240.0) -> list[Pod]:
        """The pods of a Deployment, once all are of its newest template and ready, and Services know."""

        self._wait(lambda: self._deployments[deployment].is_settled, patience, f"{deployment} to be ready")
        pods = list(self._deployments[deployment].pods)
        fronts = [one for one in self._services.values() if pods and one.selects(pods[0])]
        self._wait(lambda: all(set(one.endpoints) == set(pods) for one in fronts), patience, "its Services to know")
        return pods

    def completed(self, name: str, patience: float = 60.0) -> str:
        """What a Job's or a bare pod's containers printed, once it has ended. Fails where it did not end well."""
        pod = self._alone[name]
        self._wait(lambda: pod.is_gone, patience, f"{name} to end")
        told = "\n".join(pod.told(container) for container in pod.containers)
        assert pod.has_succeeded, f"{name} failed:\n{told}\n{pod.story()}"
        return told

    def execute(self, pod: Pod, container: str, *command: str) -> tuple[int, str]:
        """As `kubectl exec`."""
        return self._call(pod.containers[container].execute(command))

    def signal(self, pod: Pod, container: str, number: signal.Signals, everyone: bool = False) -> None:
        """Send a signal to a container's first process, or to all of its processes."""
        pod.containers[container].signal(number, everyone)

    def story(self) -> str:
        """What became of all pods, and the last of what they printed, for a test that fails."""
        parts = []
        for pod in self.pods:
            logs = [f"--- {name}\n{pod.told(name)[-2000:]}" for name in pod.containers]
            parts.append("\n".join([f"=== {pod.name}", pod.story(), *logs]))
        return "\n".join(parts)

    def _wait(self, condition: Callable[[], Any], patience: float, what: str) -> None:
        def met() -> Any:
            self._check()
            return condition()

        try:
            until(met, patience, what)
        except AssertionError as error:
            raise AssertionError(f"{error}\n{self.story()}") from None

    def _check(self) -> None:
        if self._failure is not None:
            raise RuntimeError("the cluster itself has failed") from self._failure

    def _call(self, work: Awaitable[T]) -> T:
        async def done() -> T:
            return await work

        self._check()
        return asyncio.run_coroutine_threadsafe(done(), self._loop).result(60)


def _hooks(manifest: Json) -> set[str]:
    return {name.strip() for name in _annotation(manifest, _HOOK).split(",") if name.strip()}


def _annotation(manifest: Json, name: str) -> str:
    return str((manifest["metadata"].get("annotations") or {}).get(name, ""))


def _remove_leftovers() -> None:
    """Of test processes that were killed: all but their links, see `Network`."""
    for folder in Path(tempfile.gettempdir()).glob(f"{_FOLDERS}*-*"):
        if not Path("/proc", folder.name.removeprefix(_FOLDERS).partition("-")[0]).exists():
            shutil.rmtree(folder, ignore_errors=True)
    remove_dead_groups()


def _skip_without_namespaces() -> None:
    missing = [name for name in _PROGRAMS if shutil.which(name) is None]
    if missing:
        pytest.skip(f"pods cannot be simulated without {', '.join(missing)}")
    if os.getuid() != 0:
        pytest.skip("pods cannot be simulated without root: namespaces and mounts")
