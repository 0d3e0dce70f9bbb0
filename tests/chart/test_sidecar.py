"""What docs/sidecar.md claims of a gateway beside an application, a test for each."""

import copy
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from extproc.config.loader import load
from tests.support.helm import ROOT, ChartError, documents, only, rendered, template
from tests.support.network_policy import Host, Pod, passes

CENTRAL = "charts/sluice/examples/sidecar-central.yaml"
OWN = "charts/sluice/examples/sidecar-own.yaml"
VARIANTS = pytest.mark.parametrize("example", [CENTRAL, OWN], ids=["central", "own"])
PAIR = ("sluice", "envoy")


def pod(example: str, **changed: Any) -> Any:
    return only(rendered("charts/sluice", example, set=changed), "Deployment")["spec"]["template"]["spec"]


def of_the_pair(spec: Any) -> list[Any]:
    return [one for one in spec["initContainers"] if one["name"] in PAIR]


def of_the_application(spec: Any) -> list[Any]:
    return [one for one in (*spec["initContainers"], *spec["containers"]) if one["name"] not in PAIR]


def application(example: str) -> Any:
    return YAML(typ="safe").load(ROOT / example)["sidecar"]["application"]


@VARIANTS
def test_the_pair_is_there_before_the_application_and_longer(example: str) -> None:
    spec = pod(example)
    assert [one["name"] for one in spec["initContainers"][:2]] == ["sluice", "envoy"]
    assert all(one["restartPolicy"] == "Always" and "startupProbe" in one for one in of_the_pair(spec))
    assert [one["name"] for one in spec["containers"]] == ["shop"]
    assert not any("preStop" in one.get("lifecycle", {}) for one in of_the_pair(spec))  # it would go before its caller


@VARIANTS
def test_the_application_mounts_nothing_of_the_gateway(example: str) -> None:
    spec = pod(example)
    ours = {mount["name"] for one in of_the_pair(spec) for mount in one["volumeMounts"]}
    assert {"sluice-run", "sluice-config", "sluice-spool"} <= ours
    for container in of_the_application(spec):
        assert not ours & {mount["name"] for mount in container.get("volumeMounts", ())}


@VARIANTS
def test_only_the_policy_container_sees_the_secrets(example: str) -> None:
    spec = pod(example)
    secret = {one["name"]: one["secret"]["secretName"] for one in spec["volumes"] if "secret" in one}
    assert secret
    for container in (*spec["initContainers"], *spec["containers"]):
        mounted = {mount["name"] for mount in container.get("volumeMounts", ())} & set(secret)
        assert mounted == (set(secret) if container["name"] == "sluice" else set())
    named = {one["valueFrom"]["secretKeyRef"]["name"] for one in spec["initContainers"][0]["env"] if "valueFrom" in one}
    for container in [*of_the_application(spec), spec["initContainers"][1]]:
        taken = {one["valueFrom"]["secretKeyRef"]["name"] for one in container.get("env", ()) if "valueFrom" in one}
        assert not taken & (named | set(secret.values()))


@VARIANTS
def test_nobody_in_the_pod_has_a_token_of_its_account(example: str) -> None:
    spec = pod(example)
    assert spec["automountServiceAccountToken"] is False
    assert not [one for one in spec["volumes"] if "serviceAccountToken" in str(one)]
    manifests = rendered("charts/sluice", example)
    template_of_pod = only(manifests, "Deployment")["spec"]["template"]
    assert "azure.workload.identity/use" not in template_of_pod["metadata"]["labels"]
    assert "azure.workload.identity" not in str(only(manifests, "ServiceAccount", "sluice")["metadata"])


@VARIANTS
def test_processes_of_the_pair_are_not_seen(example: str) -> None:
    assert pod(example)["shareProcessNamespace"] is False


@VARIANTS
def test_the_gateway_listens_on_the_loopback_of_the_pod_alone(example: str, tmp_path: Path) -> None:
    manifests = rendered("charts/sluice", example)
    sluice, envoy = of_the_pair(only(manifests, "Deployment")["spec"]["template"]["spec"])
    environ = {one["name"]: one.get("value", "secret") for one in sluice["env"]}
    file = tmp_path / "gateway.yaml"
    file.write_text(only(manifests, "ConfigMap", "sluice-config")["data"]["gateway.yaml"])
    assert load(file, environ).listener.address == "127.0.0.1"
    assert all("exec" in envoy[probe] for probe in ("startupProbe", "livenessProbe"))  # no kubelet reaches it there
    ports = {port["targetPort"] for one in manifests if one["kind"] == "Service" for port in one["spec"]["ports"]}
    assert 8080 not in ports
    application_of_it = only(manifests, "Service", "sluice")
    assert application_of_it["spec"]["ports"][0]["targetPort"] == "http"


def test_the_name_of_a_port_that_the_application_has_is_not_the_gateways() -> None:
    """Else the application's Service could lead to the gateway."""
    named = [port["name"] for one in of_the_pair(pod(CENTRAL)) for port in one.get("ports", ())]
    assert "http" not in named


def test_variant_a_holds_no_credential_of_a_provider() -> None:
    """Its one secret is a key of the central gateway, and everything goes there."""
    manifests = rendered("charts/sluice", CENTRAL)
    config = documents(only(manifests, "ConfigMap", "sluice-config")["data"]["gateway.yaml"])[0]
    assert {backend["url"] for backend in config["backends"].values()} == {"http://sluice.gateway.svc/v1"}
    assert {backend["credential"]["file"] for backend in config["backends"].values()} == {
        "/run/secrets/sluice/central/key"
    }


def test_variant_a_reaches_the_central_gateway_and_nothing_on_the_internet() -> None:
    manifests = rendered("charts/sluice", CENTRAL)
    labels = only(manifests, "Deployment")["spec"]["template"]["metadata"]["labels"]
    ours = Pod("ai", labels)
    central = Pod("gateway", {"app.kubernetes.io/name": "sluice", "app.kubernetes.io/component": "gateway"})
    assert passes(manifests, ours, central, 8080)
    assert not passes(manifests, ours, Host("20.1.2.3"), 443)
    assert not passes(manifests, ours, Host("169.254.169.254"), 80)  # the machine's own identity


def test_variant_b_reaches_its_provider_whoever_in_the_pod_calls() -> None:
    """A network policy knows pods, not containers: it is the key that the application lacks, not the way."""
    manifests = rendered("charts/sluice", OWN)
    ours = Pod("ai", only(manifests, "Deployment")["spec"]["template"]["metadata"]["labels"])
    assert passes(manifests, ours, Host("10.1.4.7"), 443)
    assert not passes(manifests, ours, Host("20.1.2.3"), 443)
    assert not passes(manifests, ours, Host("169.254.169.254"), 80)


def test_the_containers_of_the_application_are_as_they_were_given() -> None:
    assert pod(OWN)["containers"] == application(OWN)["containers"]


MOUNT = {"name": "sluice-run", "mountPath": "/x"}
STOLEN = {"name": "K", "valueFrom": {"secretKeyRef": {"name": "shop-azure-openai", "key": "key"}}}


@pytest.mark.parametrize(
    ("changed", "told"),
    [
        ({"volumeMounts": [MOUNT]}, "mounts sluice-run, which is the gateway's"),
        ({"env": [STOLEN]}, "from a Secret of the gateway"),
        ({"envFrom": [{"secretRef": {"name": "sluice-postgresql"}}]}, "from a Secret of the gateway"),
        ({"name": "envoy"}, "a container's of the gateway"),
        ({"ports": [{"containerPort": 8080}]}, "has a port of the gateway"),
        ({"ports": [{"name": "metrics", "containerPort": 9000}]}, "has a port of the gateway"),
    ],
    ids=["a-volume", "a-variable", "all-variables", "a-name", "a-port", "the-name-of-a-port"],
)
@pytest.mark.parametrize("place", ["containers", "initContainers"])
def test_an_application_that_takes_what_is_the_gateways_is_refused(
    place: str, changed: dict[str, Any], told: str
) -> None:
    container = copy.deepcopy(application(OWN)["containers"][0]) | changed
    assert told in refusal(OWN, {f"sidecar.application.{place}": [container]})


@pytest.mark.parametrize(
    ("volume", "told"),
    [
        ({"secret": {"secretName": "shop-azure-openai"}}, "holds a Secret of the gateway"),
        ({"projected": {"sources": [{"secret": {"name": "sluice-redis"}}]}}, "holds a Secret of the gateway"),
        ({"projected": {"sources": [{"serviceAccountToken": {"path": "t"}}]}}, "a token of the pod's account"),
    ],
    ids=["secret", "projected", "token"],
)
def test_a_volume_of_the_application_with_a_secret_of_the_gateway_is_refused(volume: Any, told: str) -> None:
    assert told in refusal(OWN, {"sidecar.application.volumes": [{"name": "mine"} | volume]})


ADDED: list[dict[str, Any]] = [
    {"name": "keys", "secret": {"secretName": "added"}},
    {"name": "keys", "projected": {"sources": [{"secret": {"name": "added"}}]}},
]


@pytest.mark.parametrize("added", ADDED, ids=["secret", "projected"])
def test_a_secret_that_only_an_extra_volume_names_is_the_gateways(added: dict[str, Any]) -> None:
    mine = {"sidecar.application.volumes": [{"name": "mine", "secret": {"secretName": "added"}}]}
    assert "holds a Secret of the gateway" in refusal(OWN, {"extraVolumes": [added], **mine})


def test_an_extra_volume_is_the_gateways() -> None:
    container = application(OWN)["containers"][0] | {"volumeMounts": [{"name": "keys", "mountPath": "/x"}]}
    changed = {"extraVolumes": ADDED[:1], "sidecar.application.containers": [container]}
    assert "mounts keys, which is the gateway's" in refusal(OWN, changed)


def test_a_secret_that_only_an_extra_variable_names_is_the_gateways() -> None:
    variable = {"name": "PROXY", "valueFrom": {"secretKeyRef": {"name": "added", "key": "url"}}}
    container = application(OWN)["containers"][0] | {"envFrom": [{"secretRef": {"name": "added"}}]}
    changed = {"extraEnv": [variable], "sidecar.application.containers": [container]}
    assert "from a Secret of the gateway" in refusal(OWN, changed)


def test_a_secret_that_a_driver_brings_to_the_gateway_is_the_gateways() -> None:
    driven = {"driver": "secrets-store.csi.k8s.io", "volumeAttributes": {"secretProviderClass": "keys"}}
    changed = {
        "extraVolumes": [{"name": "keys", "csi": driven}],
        "sidecar.application.volumes": [{"name": "mine", "csi": driven}],
    }
    assert "holds secrets of the gateway" in refusal(OWN, changed)


def test_an_applications_own_volumes_and_secrets_are_its_own() -> None:
    volumes = [{"name": "mine", "secret": {"secretName": "mine"}}, {"name": "room", "emptyDir": {}}]
    assert pod(OWN, **{"sidecar.application.volumes": volumes})["volumes"][-2:] == volumes


def test_a_volume_that_is_called_like_the_gateways_is_refused() -> None:
    volume = {"name": "sluice-run", "emptyDir": {}}
    assert "a name of the gateway's" in refusal(OWN, {"sidecar.application.volumes": [volume]})


@pytest.mark.parametrize(
    "changed",
    [
        {"workloadIdentity": {"enabled": True, "clientId": "11111111-1111-1111-1111-111111111111"}},
        {"config.backends.swe.credential": {"entra": {}}},
        {"config.backends.swe.credential": {"key_vault": {"url": "https://vault-1.vault.azure.net", "secret": "s"}}},
        {"keyVault": {"enabled": True, "vault": "v", "tenantId": "t", "clientId": "c", "secrets": {"a": {}}}},
        {"podLabels": {"azure.workload.identity/use": "true"}},
        {"serviceAccount.annotations": {"azure.workload.identity/client-id": "x"}},
    ],
    ids=["the-pods", "entra", "key-vault", "driver", "label", "annotation"],
)
def test_an_identity_that_the_application_has_too_is_refused(changed: dict[str, Any]) -> None:
    assert "identity" in refusal(OWN, changed)


def refusal(example: str, changed: dict[str, Any]) -> str:
    with pytest.raises(ChartError) as refused:
        template("charts/sluice", example, set=changed)
    return str(refused.value)
