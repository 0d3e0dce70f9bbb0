"""Every object that a chart renders fits the schemas of three versions of Kubernetes; custom ones their projects'."""

import functools
import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import kubernetes_validate
import pytest

from tests.chart import golden
from tests.support.helm import Manifest, documents, only, rendered

VERSIONS = ("1.31", "1.33", "1.34")
CUSTOM = Path(__file__).parents[1] / "fixtures/crds"
# Kinds of which no schema could be had: tests/fixtures/crds/README.md.
UNVALIDATED = ("kaito.sh/v1beta1 Workspace", "secrets-store.csi.x-k8s.io/v1 SecretProviderClass")
BUILT_IN = {"", "apps", "autoscaling", "batch", "networking.k8s.io", "policy"}
# Azure Monitor's kinds are the Prometheus operator's, under another group.
SAME_AS = {"azmonitoring.coreos.com": "monitoring.coreos.com"}
EVERYTHING = {
    "monitoring.serviceMonitor.enabled": True,
    "monitoring.prometheusRule.enabled": True,
    "monitoring.dashboards.enabled": True,
    "autoscaling.enabled": True,
    "ingress": {"enabled": True, "className": "nginx", "hosts": ["ai.example.com"]},
    "spool.kind": "ephemeral",
    "smoke.existingSecret": "key",
}
MONITORED = {"monitoring.podMonitor.enabled": True, "monitoring.prometheusRule.enabled": True}

RENDERS: list[Any] = [pytest.param(path, (), id=golden.name(path)) for path in golden.EXAMPLES]
RENDERS += [
    pytest.param(Path("charts/sluice/examples/aks.yaml"), tuple(EVERYTHING.items()), id="sluice-everything"),
    pytest.param(Path("charts/sluice/examples/ha.yaml"), tuple(MONITORED.items()), id="sluice-monitored"),
]


def manifests(example: Path, changed: tuple[tuple[str, Any], ...]) -> list[Manifest]:
    if not changed:
        return documents(golden.render(example))
    return rendered(golden.chart(example), example, set=dict(changed))


def kind(manifest: Manifest) -> str:
    return f"{manifest['apiVersion']} {manifest['kind']}"


def is_custom(manifest: Manifest) -> bool:
    return manifest["apiVersion"].rpartition("/")[0] not in BUILT_IN


@functools.cache
def custom_schema(api_version: str, name: str) -> Any:
    group, _, version = api_version.rpartition("/")
    return json.loads((CUSTOM / f"{SAME_AS.get(group, group)}_{version}_{name}.json").read_text())


@pytest.fixture(autouse=True, scope="module")
def definitions_read_once() -> Iterator[None]:
    """The package reads megabytes of them for every object."""
    with pytest.MonkeyPatch.context() as patch:
        once = functools.cache(kubernetes_validate.utils.schema_contents)
        patch.setattr(kubernetes_validate.utils, "schema_contents", once)
        yield


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize(("example", "changed"), RENDERS)
def test_objects_fit_the_schemas_of_kubernetes(
    example: Path, changed: tuple[tuple[str, Any], ...], version: str
) -> None:
    checked = [one for one in manifests(example, changed) if not is_custom(one)]
    assert checked
    for manifest in checked:
        try:
            assert kubernetes_validate.validate(manifest, version, strict=True) == version
        except kubernetes_validate.ValidationError as error:
            pytest.fail(f"{kind(manifest)} {manifest['metadata']['name']}: {list(error.path)}: {error.message}")


@pytest.mark.parametrize(("example", "changed"), RENDERS)
def test_custom_objects_fit_the_schemas_of_their_projects(example: Path, changed: tuple[tuple[str, Any], ...]) -> None:
    for manifest in filter(is_custom, manifests(example, changed)):
        if kind(manifest) in UNVALIDATED:
            continue
        schema = custom_schema(manifest["apiVersion"], manifest["kind"])
        error = jsonschema.exceptions.best_match(jsonschema.Draft202012Validator(schema).iter_errors(manifest))
        assert error is None, f"{kind(manifest)} {manifest['metadata']['name']}: {error.json_path}: {error.message}"


@pytest.mark.parametrize("unvalidated", UNVALIDATED)
def test_a_kind_without_a_schema_is_told(unvalidated: str) -> None:
    """In the summary of the tests, as long as it is rendered."""
    assert unvalidated in {kind(one) for param in RENDERS for one in manifests(*param.values)}
    pytest.skip(f"unvalidated, as no schema could be had: {unvalidated}")


def test_the_schemas_of_custom_resources_are_those_that_were_taken() -> None:
    sources = json.loads((CUSTOM / "sources.json").read_text())
    files = {path.name for path in CUSTOM.glob("*_*_*.json")}
    assert files == set(sources)
    for name, source in sources.items():
        assert hashlib.sha256((CUSTOM / name).read_bytes()).hexdigest() == source["sha256"], name


def test_every_kind_that_has_a_schema_is_rendered_somewhere() -> None:
    seen = {kind(one) for param in RENDERS for one in manifests(*param.values)}
    for name in json.loads((CUSTOM / "sources.json").read_text()):
        group, version, wanted = name.removesuffix(".json").split("_")
        assert f"{group}/{version} {wanted}" in seen


@pytest.mark.parametrize("version", VERSIONS)
def test_a_wrong_field_would_be_found(version: str) -> None:
    deployment = only(documents(golden.render(golden.EXAMPLES[-1])), "Deployment", "sluice")
    deployment["spec"]["template"]["spec"]["initContainers"][0]["restartPolice"] = "Always"
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(deployment, version, strict=True)
