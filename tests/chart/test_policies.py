"""What every pod that a chart renders keeps to: Pod Security "restricted" and more, and no secret in plain sight."""

import copy
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.chart import golden
from tests.support.helm import Manifest, documents, only, rendered

ALL = [pytest.param(path, id=golden.name(path)) for path in golden.EXAMPLES]
MINIMAL = Path("charts/sluice/examples/minimal.yaml")
TRYOUT = {"tryout": {"redis": {"enabled": True}, "postgresql": {"enabled": True}}, "smoke.existingSecret": "key"}

_LABELS = {
    f"app.kubernetes.io/{label}" for label in ("name", "instance", "version", "component", "part-of", "managed-by")
}
_SECRETS = re.compile(
    r"sk-[A-Za-z0-9-]{16,}|AKIA[0-9A-Z]{16}|-----BEGIN [A-Z ]*PRIVATE KEY|eyJ[A-Za-z0-9_-]{20,}\.|AccountKey="
    r"|gh[pousr]_[A-Za-z0-9]{20,}|://[^/\s:@]*:[^$\s@/][^\s@/]*@"
    r"|(?i:password|api_?key|secret)[\"']?: *[\"']?[^\s\"'$/{\[]{8,}"
)


def pods(manifests: list[Manifest]) -> Iterator[tuple[str, Any, Any]]:
    """Name, metadata and spec of every pod that comes about."""
    for manifest in manifests:
        name = f"{manifest['kind']}/{manifest['metadata']['name']}"
        if manifest["kind"] == "Pod":
            yield name, manifest["metadata"], manifest["spec"]
        elif manifest["kind"] in ("Deployment", "StatefulSet", "DaemonSet", "Job"):
            yield name, manifest["spec"]["template"]["metadata"], manifest["spec"]["template"]["spec"]


def containers(spec: Any) -> list[Any]:
    return [*spec.get("initContainers", ()), *spec["containers"]]


def restricted(spec: Any) -> Iterator[str]:
    """The words of the standard, and a root that cannot be written."""
    for field in ("hostNetwork", "hostPID", "hostIPC", "shareProcessNamespace"):
        if spec.get(field):
            yield field
    for volume in spec.get("volumes", ()):
        if not set(volume) - {"name"} <= {"configMap", "emptyDir", "ephemeral", "projected", "secret", "csi"}:
            yield f"volume {volume['name']}: {sorted(set(volume) - {'name'})}"
    for container in containers(spec):
        context = {**spec.get("securityContext", {}), **container.get("securityContext", {})}
        wanted = {
            "runAsNonRoot": True,
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "seccompProfile": {"type": "RuntimeDefault"},
            "capabilities": {"drop": ["ALL"]},
        }
        yield from (f"{container['name']}: {key}" for key, value in wanted.items() if context.get(key) != value)
        if context.get("privileged") or context.get("runAsUser") == 0:
            yield f"{container['name']}: privileged or root"
        yield from (f"{container['name']}: hostPort" for port in container.get("ports", ()) if "hostPort" in port)


def bounded(spec: Any) -> Iterator[str]:
    """CPU and memory are asked for, and memory has an end, on disks too. (A CPU limit would delay calls.)"""
    for container in containers(spec):
        resources = container.get("resources", {})
        for place in (("requests", "cpu"), ("requests", "memory"), ("limits", "memory")):
            if place[1] not in resources.get(place[0], {}):
                yield f"{container['name']}: no {' of '.join(reversed(place))}"
    for volume in spec.get("volumes", ()):
        if "emptyDir" in volume and "sizeLimit" not in (volume["emptyDir"] or {}):
            yield f"volume {volume['name']}: no sizeLimit"


def pinned(spec: Any) -> Iterator[str]:
    for container in containers(spec):
        if not re.search(r"(:[A-Za-z0-9][\w.-]*|@sha256:[0-9a-f]{64})$", container["image"]):
            yield f"{container['name']}: no tag in {container['image']}"
        if container["image"].endswith(":latest"):
            yield f"{container['name']}: latest"


def without_token(spec: Any) -> Iterator[str]:
    """Nothing of ours asks the API server."""
    if spec.get("automountServiceAccountToken") is not False:
        yield "a token of the account is mounted"


RULES = [restricted, bounded, pinned, without_token]


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.__name__)
@pytest.mark.parametrize("example", ALL)
def test_every_pod_keeps_to(example: Path, rule: Callable[[Any], Iterator[str]]) -> None:
    for name, _, spec in pods(documents(golden.render(example))):
        assert not list(rule(spec)), name


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.__name__)
def test_the_pods_of_the_stores_for_trying_out_keep_to(rule: Callable[[Any], Iterator[str]]) -> None:
    seen = list(pods(rendered("charts/sluice", MINIMAL, set=TRYOUT)))
    assert len(seen) == 4
    for name, _, spec in seen:
        assert not list(rule(spec)), name


@pytest.mark.parametrize("example", ALL)
def test_what_serves_for_long_is_probed(example: Path) -> None:
    for manifest in documents(golden.render(example)):
        if manifest["kind"] != "Deployment":
            continue
        spec = manifest["spec"]["template"]["spec"]
        lasting = [*spec["containers"], *(one for one in spec.get("initContainers", ()) if "restartPolicy" in one)]
        for container in lasting:
            of_ours = container["name"] in ("sluice", "envoy")
            wanted = {"startupProbe", "livenessProbe"} if of_ours else {"readinessProbe"}
            assert wanted <= set(container), container["name"]
        assert any("readinessProbe" in container for container in lasting)


@pytest.mark.parametrize("example", ALL)
def test_everything_has_the_labels_that_tools_look_for(example: Path) -> None:
    for manifest in documents(golden.render(example)):
        labels = manifest["metadata"].get("labels", {})
        where = f"{manifest['kind']} {manifest['metadata']['name']}"
        assert labels.keys() >= _LABELS, where
        assert manifest["metadata"].get("namespace"), where
        assert all(re.fullmatch(r"([A-Za-z0-9]([\w.-]{0,61}[A-Za-z0-9])?)?", value) for value in labels.values()), where
    for name, metadata, _ in pods(documents(golden.render(example))):
        assert metadata["labels"].keys() >= _LABELS, name


@pytest.mark.parametrize("example", ALL)
def test_no_config_map_holds_a_secret_and_no_secret_is_rendered(example: Path) -> None:
    manifests = documents(golden.render(example))
    assert not [one for one in manifests if one["kind"] == "Secret"]
    for one in manifests:
        if one["kind"] == "ConfigMap":
            for key, text in one.get("data", {}).items():
                found = _SECRETS.search(text)
                assert found is None, f"{one['metadata']['name']} {key}: {found and found[0][:12]}"


@pytest.mark.parametrize(
    "text",
    [
        "key: sk-proj-abcdefghijklmnop1234",
        "url: postgresql://sluice:hunter2@db/sluice",
        "password: correct-horse",
        "-----BEGIN RSA PRIVATE KEY-----",
    ],
)
def test_a_secret_in_a_config_map_would_be_found(text: str) -> None:
    assert _SECRETS.search(text)


@pytest.mark.parametrize(
    "text", ["counters: rediss://u:${PASSWORD}@redis:6379", "credential: {file: /run/secrets/a/b}"]
)
def test_what_is_no_secret_is_left_alone(text: str) -> None:
    assert not _SECRETS.search(text)


def _worsened(path: list[Any], value: Any) -> Any:
    spec = copy.deepcopy(only(rendered("charts/sluice", MINIMAL), "Deployment")["spec"]["template"]["spec"])
    inner = spec
    for step in path[:-1]:
        inner = inner[step]
    inner[path[-1]] = value
    return spec


@pytest.mark.parametrize(
    ("rule", "path", "value"),
    [
        (restricted, ["hostNetwork"], True),
        (restricted, ["containers", 0, "securityContext", "readOnlyRootFilesystem"], False),
        (restricted, ["containers", 0, "securityContext", "capabilities"], {"drop": ["ALL"], "add": ["NET_ADMIN"]}),
        (restricted, ["initContainers", 0, "securityContext", "allowPrivilegeEscalation"], True),
        (restricted, ["volumes", 0], {"name": "x", "hostPath": {"path": "/"}}),
        (bounded, ["containers", 0, "resources"], {"requests": {"cpu": 1}}),
        (bounded, ["volumes", 1], {"name": "x", "emptyDir": {}}),
        (pinned, ["containers", 0, "image"], "envoyproxy/envoy"),
        (pinned, ["containers", 0, "image"], "envoyproxy/envoy:latest"),
        (without_token, ["automountServiceAccountToken"], True),
    ],
)
def test_a_pod_that_does_not_keep_to_a_rule_would_be_found(
    rule: Callable[[Any], Iterator[str]], path: list[Any], value: Any
) -> None:
    assert list(rule(_worsened(path, value)))
