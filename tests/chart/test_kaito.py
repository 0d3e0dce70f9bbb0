"""charts/kaito-models: what KAITO is asked for, who may reach it, and entries that the gateway takes as they are."""

from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from extproc.config.loader import load
from extproc.config.schema import Gateway
from tests.support.gateway import ROOT
from tests.support.helm import ChartError, documents, lint, only, rendered, template
from tests.support.network_policy import Host, Pod, passes

CHART = "charts/kaito-models"
EXAMPLES = sorted(path.name for path in (ROOT / CHART / "examples").glob("*.yaml"))
FIELDS = {
    "resource": {"instanceType", "labelSelector"},
    "inference": {"preset", "config", "adapters", "template"},
    "preset": {"name", "presetOptions"},
    "presetOptions": {"modelAccessSecret", "modelWeightsPVC", "modelWeightsSubPath"},
}
"""Of kaito.sh/v1beta1, api/v1beta1/workspace_types.go of KAITO 0.12, without those that it calls deprecated."""
MODEL = {"preset": "microsoft/phi-4", "instanceType": "Standard_NC24ads_A100_v4"}
GATEWAY = Pod("ai", {"app.kubernetes.io/name": "sluice", "app.kubernetes.io/component": "gateway"})
INTERNET = Host("18.164.1.2")


def _rendered(*values: str, **models: Any) -> list[dict[str, Any]]:
    return rendered(CHART, *values, set={"models": models} if models else {}, release="kaito", namespace="models")


def _example(name: str) -> list[dict[str, Any]]:
    return _rendered(f"{CHART}/examples/{name}")


def _workspaces(manifests: list[dict[str, Any]]) -> dict[str, Any]:
    return {one["metadata"]["name"]: one for one in manifests if one["kind"] == "Workspace"}


def _values(manifests: list[dict[str, Any]]) -> Any:
    return YAML(typ="safe").load(only(manifests, "ConfigMap", "kaito-gateway-values")["data"]["values.yaml"])


def _loaded(values: Any, folder: Path) -> Gateway:
    path = folder / "gateway.yaml"
    with path.open("w") as file:
        YAML().dump(values["config"], file)
    return load(path, {})


@pytest.mark.parametrize("name", EXAMPLES)
def test_helm_finds_nothing_to_complain_of(name: str) -> None:
    lint(CHART, f"{CHART}/examples/{name}")


@pytest.mark.parametrize("name", EXAMPLES)
def test_workspaces_have_fields_that_kaito_knows_and_no_other(name: str) -> None:
    for workspace in _workspaces(_example(name)).values():
        assert workspace["apiVersion"] == "kaito.sh/v1beta1"
        assert set(workspace) == {"apiVersion", "kind", "metadata", "resource", "inference"}
        assert set(workspace["resource"]) <= FIELDS["resource"]
        assert workspace["resource"]["labelSelector"]["matchLabels"]
        assert set(workspace["inference"]) <= FIELDS["inference"]
        preset = workspace["inference"]["preset"]
        assert set(preset) <= FIELDS["preset"]
        assert set(preset.get("presetOptions", {})) <= FIELDS["presetOptions"]


def test_a_model_has_a_workspace_for_each_replica_and_no_node_is_shared() -> None:
    workspaces = _workspaces(_example("models.yaml"))
    assert set(workspaces) == {"phi-4-0", "phi-4-1", "mistral-7b-0", "llama-3-1-8b-0"}
    nodes = [tuple(one["resource"]["labelSelector"]["matchLabels"].items()) for one in workspaces.values()]
    assert len(set(nodes)) == len(nodes)
    llama = workspaces["llama-3-1-8b-0"]["inference"]
    assert llama["preset"] == {
        "name": "meta-llama/Llama-3.1-8B-Instruct",
        "presetOptions": {"modelAccessSecret": "hf-token"},
    }


def test_settings_of_the_server_are_in_the_map_that_the_workspace_names() -> None:
    manifests = _example("models.yaml")
    named = _workspaces(manifests)["mistral-7b-0"]["inference"]["config"]
    text = only(manifests, "ConfigMap", named)["data"]["inference_config.yaml"]
    assert YAML(typ="safe").load(text) == {"max_probe_steps": 6, "vllm": {"max-model-len": 32768}}


@pytest.mark.parametrize("name", EXAMPLES)
def test_each_backend_is_a_service_of_a_workspace(name: str, tmp_path: Path) -> None:
    manifests = _example(name)
    services = {one["metadata"]["name"]: one["spec"] for one in manifests if one["kind"] == "Service"}
    assert len(services) == len(_workspaces(manifests)) == len(_values(manifests)["config"]["backends"])
    for workspace in _workspaces(manifests):
        service = services[f"{workspace}-ready"]
        assert service["selector"]["kaito.sh/workspace"] == workspace
        assert [port["targetPort"] for port in service["ports"]] == [5000]
        url = _values(manifests)["config"]["backends"][f"kaito-{workspace}"]["url"]
        port = service["ports"][0]["port"]
        if service["type"] == "ClusterIP":
            assert url == f"http://{workspace}-ready.models.svc.cluster.local:{port}"
        else:
            assert url == f"http://{workspace}.models.corp.example:{port}"


def test_the_gateway_loads_the_entries_as_they_are(tmp_path: Path) -> None:
    gateway = _loaded(_values(_example("models.yaml")), tmp_path)
    assert set(gateway.models) == {"phi-4", "mistral-7b", "llama-3.1-8b"}
    (group,) = gateway.models["phi-4"].targets
    assert [(target.backend, target.model) for target in group] == [
        ("kaito-phi-4-0", "phi-4"),
        ("kaito-phi-4-1", "phi-4"),
    ]
    assert gateway.models["llama-3.1-8b"].targets[0][0].model == "llama-3.1-8b-instruct"
    assert gateway.models["phi-4"].context == 16384


def test_a_full_queue_pauses_a_replica_for_about_a_second(tmp_path: Path) -> None:
    for backend in _loaded(_values(_example("models.yaml")), tmp_path).backends.values():
        assert backend.cooling is not None
        assert backend.cooling.default_wait == timedelta(seconds=1)
        assert backend.cooling.longest_wait == timedelta(seconds=10)
        assert backend.surfaces is not None
        assert set(backend.surfaces) == {"chat", "completions"}, "those that the queue of KAITO bounds"
        assert backend.health is not None
        assert backend.credential is None


def test_a_model_that_is_not_published_is_a_backend_alone() -> None:
    config = _values(_example("spill.yaml"))["config"]
    assert config["models"] == {}
    assert set(config["backends"]) == {"kaito-phi-4-0"}


def test_what_is_printed_is_what_the_map_holds() -> None:
    example = f"{CHART}/examples/models.yaml"
    printed = template(CHART, example, set={"gateway.printValues": True}, release="kaito", namespace="models")
    (values,) = documents(printed)
    assert values == _values(_example("models.yaml"))


def test_the_gateways_chart_takes_the_printed_values(tmp_path: Path) -> None:
    path = tmp_path / "kaito.yaml"
    with path.open("w") as file:
        YAML().dump(_values(_example("models.yaml")), file)
    own = {"image.repository": "registry.example/sluice", "replicas": 1}
    manifests = rendered("charts/sluice", path, set=own)
    text = only(manifests, "ConfigMap", "sluice-config")["data"]["gateway.yaml"]
    assert set(YAML(typ="safe").load(text)["models"]) == {"phi-4", "mistral-7b", "llama-3.1-8b"}
    both = [*manifests, *_example("models.yaml")]
    gateway = Pod("ai", only(manifests, "Deployment")["spec"]["template"]["metadata"]["labels"])
    assert passes(both, gateway, Pod("models", {"kaito.sh/workspace": "phi-4-1"}), 5000)
    assert not passes(both, gateway, Pod("models", {"kaito.sh/workspace": "phi-4-1"}), 8265)
    assert not passes(both, gateway, Pod("models", {"app": "other"}), 5000)


def test_none_but_the_gateway_and_its_watchers_reach_a_model() -> None:
    policies = _example("models.yaml")
    model = Pod("models", {"kaito.sh/workspace": "phi-4-0"})
    assert passes(policies, GATEWAY, model, 5000)
    assert passes(policies, Pod("monitoring"), model, 5000)
    assert passes(policies, Pod("models", {"kaito.sh/workspace": "phi-4-0"}), model, 6379), "Ray, of the same model"
    assert not passes(policies, GATEWAY, model, 8265)
    assert not passes(policies, Pod("ai", {"app": "other"}), model, 5000)
    assert not passes(policies, Pod("models", {"kaito.sh/workspace": "phi-4-1"}), model, 5000)
    assert not passes(policies, INTERNET, model, 5000)


def test_a_model_fetches_weights_and_reaches_nothing_in_the_network() -> None:
    model = Pod("models", {"kaito.sh/workspace": "phi-4-0"})
    policies = _example("models.yaml")
    assert passes(policies, model, INTERNET, 443)
    assert passes(policies, model, Pod("kube-system", {"k8s-app": "kube-dns"}), 53, "UDP")
    assert not passes(policies, model, INTERNET, 80)
    assert not passes(policies, model, Host("10.2.3.4"), 443)
    assert not passes(policies, model, Host("169.254.169.254"), 443), "where machines get their identity"
    assert not passes(policies, model, GATEWAY, 8080)


def test_with_weights_on_a_volume_a_model_reaches_names_alone() -> None:
    policies = _example("own-nodes.yaml")
    model = Pod("models", {"kaito.sh/workspace": "phi-4-0"})
    assert not passes(policies, model, INTERNET, 443)
    assert passes(policies, Host("10.20.0.7"), model, 5000)
    assert not passes(policies, Host("10.21.0.7"), model, 5000)


def test_load_balancers_are_never_of_the_internet() -> None:
    services = [one for one in _example("own-nodes.yaml") if one["kind"] == "Service"]
    assert services
    for service in services:
        assert service["spec"]["type"] == "LoadBalancer"
        notes = service["metadata"]["annotations"]
        assert notes["service.beta.kubernetes.io/azure-load-balancer-internal"] == "true"
        assert service["spec"]["loadBalancerSourceRanges"] == ["10.20.0.0/24"]


def test_behind_load_balancers_somebody_must_be_let_in() -> None:
    with pytest.raises(ChartError, match=r"networkPolicy\.from: behind load balancers"):
        rendered(CHART, f"{CHART}/examples/own-nodes.yaml", set={"networkPolicy.from": []})


def test_a_gated_model_has_its_secret_by_name_alone() -> None:
    kinds = {one["kind"] for one in _example("models.yaml")}
    assert "Secret" not in kinds


@pytest.mark.parametrize(
    ("models", "words"),
    [
        ({"phi-4": {"instanceType": "Standard_NC24ads_A100_v4"}}, "preset"),
        ({"phi-4": {"preset": "microsoft/phi-4"}}, "instanceType"),
        ({"phi-4": {**MODEL, "replica": 2}}, "replica"),
        ({"Phi 4": MODEL}, "Phi 4"),
        ({"phi-4": {**MODEL, "replicas": 0}}, "replicas"),
        ({"llama-3.1": MODEL, "llama-3-1": MODEL}, "llama-3-1-0"),
    ],
    ids=["no preset", "no nodes", "unknown field", "no name", "no replica", "one name twice"],
)
def test_nonsense_is_refused_in_words(models: dict[str, Any], words: str) -> None:
    with pytest.raises(ChartError, match=words):
        _rendered(**models)
