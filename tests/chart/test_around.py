"""What is around the gateway in charts/sluice: scaling, network, watching, secrets of others, stores to try out."""

import json
import re
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from tests.support.gateway import ROOT
from tests.support.helm import ChartError, Manifest, only, rendered, template
from tests.support.network_policy import Host, Peer, Pod, passes
from tests.support.prometheus import require
from tests.support.redis_server import redis_server

CHART = "charts/sluice"
MOST = 1 << 20
"""Bytes of a ConfigMap that Kubernetes takes."""

BASE: dict[str, Any] = {
    "image.repository": "registry.example/sluice",
    "config": {
        "stores": {
            "database": "postgresql+psycopg://sluice@db.postgres.database.azure.com/sluice",
            "counters": "rediss://cache.swedencentral.redis.azure.net:10000",
        },
        "backends": {
            "swe": {"dialect": "azure-openai", "url": "https://swe.openai.azure.com"},
            "cluster": {"dialect": "openai", "url": "http://vllm.models.svc.cluster.local:8000/v1"},
            "neighbour": {"dialect": "openai", "url": "http://vllm:8001/v1"},
            "address": {"dialect": "openai", "url": "http://10.9.8.7:8002/v1"},
        },
        "models": {"m": {"targets": [[{"backend": "swe"}]]}},
    },
}
GIVEN = {"job", "instance", "namespace", "pod", "container", "endpoint"}
"""Labels that a monitor of the Prometheus operator gives what it scrapes."""
OPENAI = Host("20.50.60.70")
DNS = Pod("kube-system", {"k8s-app": "kube-dns"})


def _with(**values: Any) -> list[Manifest]:
    """The chart with the values of BASE and these; a name's `__` stands for a dot."""
    return rendered(CHART, set=BASE | {name.replace("__", "."): value for name, value in values.items()})


def _alone(credential: Any = None, more: Any = None, **values: Any) -> list[Manifest]:
    """One pod with one backend, which is in the cluster, and `more` of the configuration."""
    one = {"dialect": "azure-openai", "url": "http://vllm.models.svc:8000"} | (
        {"credential": credential} if credential else {}
    )
    config = {"backends": {"one": one}, "models": {"m": {"targets": [[{"backend": "one"}]]}}, **(more or {})}
    return _with(replicas=1, config=config, **values)


def _ours(manifests: list[Manifest]) -> Pod:
    return Pod("ai", only(manifests, "Deployment", "sluice")["spec"]["template"]["metadata"]["labels"])


def _selected(service: Manifest, pod: Pod) -> bool:
    return set(service["spec"]["selector"].items()) <= set(pod.labels.items())


def _ports(manifests: list[Manifest]) -> dict[str, int]:
    pod = only(manifests, "Deployment", "sluice")["spec"]["template"]["spec"]
    containers = [*pod["containers"], *pod["initContainers"]]
    return {port["name"]: port["containerPort"] for one in containers for port in one.get("ports", ())}


# ---- scaling -------------------------------------------------------------------------------------------------------


def test_pods_come_by_cpu_memory_streams_and_tokens() -> None:
    manifests = _with(autoscaling__enabled=True, autoscaling__streams=150, autoscaling__tokensPerSecond=4000)
    scaler = only(manifests, "HorizontalPodAutoscaler")["spec"]
    assert "replicas" not in only(manifests, "Deployment")["spec"], "two would set it"
    assert scaler["scaleTargetRef"]["name"] == only(manifests, "Deployment")["metadata"]["name"]
    asked = {one.get("resource", one.get("pods", {}).get("metric"))["name"]: one["type"] for one in scaler["metrics"]}
    assert asked == {
        "cpu": "Resource",
        "memory": "Resource",
        "sluice_calls_in_flight": "Pods",
        "sluice_tokens_per_second": "Pods",
    }


def test_metrics_by_which_pods_come_are_what_the_adapters_make() -> None:
    values = YAML(typ="safe").load(ROOT / "charts/sluice/values.yaml")["autoscaling"]
    rules = YAML(typ="safe").load(ROOT / "deploy/kubernetes/prometheus-adapter.yaml")["rules"]["custom"]
    assert [rule["name"]["as"] for rule in rules] == [values["streamsMetric"], values["tokensMetric"]]
    told = (ROOT / "docs/operations.md").read_text()
    for rule in rules:
        assert f"`{rule['seriesQuery'].partition('{')[0]}`" in told


def test_pods_go_one_by_one_each_after_the_last_ones_calls() -> None:
    manifests = _with(autoscaling__enabled=True, drain={"notice": 10, "timeout": 900})
    (policy,) = only(manifests, "HorizontalPodAutoscaler")["spec"]["behavior"]["scaleDown"]["policies"]
    assert policy == {"type": "Pods", "value": 1, "periodSeconds": 910}


def test_promtool_takes_the_questions_of_adapters(tmp_path: Path) -> None:
    rules = YAML(typ="safe").load(ROOT / "deploy/kubernetes/prometheus-adapter.yaml")["rules"]["custom"]
    scaled, _ = YAML(typ="safe").load_all(ROOT / "deploy/kubernetes/keda.yaml")
    asked = [one["metadata"]["query"] for one in scaled["spec"]["triggers"] if "query" in one["metadata"]]
    for rule in rules:
        filled = {"Series": rule["seriesQuery"].partition("{")[0], "LabelMatchers": 'namespace="ai"', "GroupBy": "pod"}
        query = rule["metricsQuery"]
        for name, text in filled.items():
            query = query.replace(f"<<.{name}>>", text)
        asked += [rule["seriesQuery"], query]
    path = tmp_path / "rules.yaml"
    with path.open("w") as file:
        recorded = [{"record": f"asked:{number}", "expr": query} for number, query in enumerate(asked)]
        YAML().dump({"groups": [{"name": "asked", "rules": recorded}]}, file)
    subprocess.run([require("promtool"), "check", "rules", path], check=True)


def test_what_stands_beside_the_charts_goes_by_their_names() -> None:
    manifests = _with()
    deployment = only(manifests, "Deployment", "sluice")
    drain = YAML(typ="safe").load(ROOT / "charts/sluice/values.yaml")["drain"]
    scaled, _ = YAML(typ="safe").load_all(ROOT / "deploy/kubernetes/keda.yaml")
    assert scaled["spec"]["scaleTargetRef"]["name"] == deployment["metadata"]["name"]
    assert scaled["metadata"]["namespace"] == deployment["metadata"]["namespace"]
    behavior = scaled["spec"]["advanced"]["horizontalPodAutoscalerConfig"]["behavior"]
    assert [one["periodSeconds"] for one in behavior["scaleDown"]["policies"]] == [drain["notice"] + drain["timeout"]]
    queries = [one["metadata"]["query"] for one in scaled["spec"]["triggers"] if "query" in one["metadata"]]
    told = (ROOT / "docs/operations.md").read_text()
    for name in (re.search(r"sluice_\w+", query) for query in queries):
        assert name is not None
        assert f"`{name[0]}`" in told
    cilium = YAML(typ="safe").load(ROOT / "deploy/kubernetes/cilium.yaml")
    wanted = cilium["spec"]["endpointSelector"]["matchLabels"].items()
    assert wanted <= deployment["spec"]["template"]["metadata"]["labels"].items()


def test_a_very_long_drain_keeps_within_what_kubernetes_takes() -> None:
    manifests = _with(autoscaling__enabled=True, drain={"notice": 10, "timeout": 3600})
    (policy,) = only(manifests, "HorizontalPodAutoscaler")["spec"]["behavior"]["scaleDown"]["policies"]
    assert policy["periodSeconds"] == 1800


@pytest.mark.parametrize("replicas", [1, 2, 5])
def test_a_node_can_be_drained_whatever_the_number_of_pods(replicas: int) -> None:
    config = dict(BASE["config"], stores={}) if replicas == 1 else BASE["config"]
    budget = only(_with(replicas=replicas, config=config), "PodDisruptionBudget")["spec"]
    assert budget["maxUnavailable"] == 1
    assert "minAvailable" not in budget
    assert budget["unhealthyPodEvictionPolicy"] == "AlwaysAllow"


def test_the_budget_is_of_the_pods_that_serve() -> None:
    manifests = _with()
    budget = only(manifests, "PodDisruptionBudget")["spec"]["selector"]["matchLabels"]
    assert set(budget.items()) <= set(_ours(manifests).labels.items())
    assert budget["app.kubernetes.io/component"] == "gateway", "a Job's pods are none of it"


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"podDisruptionBudget": {"minAvailable": 2, "maxUnavailable": 0}, "replicas": 2}, "no node could ever"),
        (
            {"podDisruptionBudget": {"minAvailable": 3, "maxUnavailable": 0}, "autoscaling": {"enabled": True}},
            "no node could ever",
        ),
        ({"podDisruptionBudget": {"minAvailable": 1}}, "not both"),
        ({"podDisruptionBudget": {"maxUnavailable": 0}}, "no node could ever"),
        ({"autoscaling": {"enabled": True, "minReplicas": 13}}, "maxReplicas"),
        ({"autoscaling": {"enabled": True, "cpu": 0, "memory": 0}}, "nothing to go by"),
        ({"networkPolicy": {"ingres": {}}}, "ingres"),
        ({"networkPolicy": {"ingress": {"cidrs": ["everywhere"]}}}, "networkPolicy.ingress.cidrs.0"),
        ({"httpRoute": {"parentRefs": [{"name": "gw"}]}}, "networkPolicy.ingress"),
        ({"service": {"type": "LoadBalancer"}}, "networkPolicy.ingress"),
        ({"ingress": {"enabled": True}, "networkPolicy": {"enabled": False}}, "ingress.hosts"),
        (
            {"monitoring": {"serviceMonitor": {"enabled": True}, "podMonitor": {"enabled": True}}},
            "twice as large",
        ),
        ({"keyVault": {"enabled": True}}, "keyVault.vault"),
        ({"keyVault": {"enabled": True, "vault": "v", "tenantId": "t", "secrets": {"a": {}}}}, "clientId"),
        ({"externalSecrets": {"enabled": True, "secrets": {"a": {"data": {"k": {"key": "x"}}}}}}, "store"),
        ({"tryout": {"redis": {"enabled": True}}}, "config.stores.counters and tryout.redis"),
        ({"tryout": {"postgresql": {"enabled": True}}}, "config.stores.database and tryout.postgresql"),
    ],
    ids=lambda value: json.dumps(value)[:80] if isinstance(value, dict) else "",
)
def test_nonsense_is_refused_in_words(values: dict[str, Any], words: str, tmp_path: Path) -> None:
    path = tmp_path / "values.yaml"
    with path.open("w") as file:
        YAML().dump({"migrations": {"by": "pods"}, **values}, file)
    with pytest.raises(ChartError, match=words):
        rendered(CHART, path, set=BASE)


# ---- the network ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("target", "port", "protocol", "reached"),
    [
        (OPENAI, 443, "TCP", True),
        (OPENAI, 5432, "TCP", True),
        (OPENAI, 10000, "TCP", True),
        (OPENAI, 80, "TCP", False),
        (OPENAI, 6379, "TCP", False),
        (Host("10.1.2.3"), 443, "TCP", False),
        (Host("169.254.169.254"), 80, "TCP", False),
        (Host("10.9.8.7"), 8002, "TCP", True),
        (Host("10.9.8.7"), 443, "TCP", False),
        (Host("10.9.8.8"), 8002, "TCP", False),
        (Pod("models", {"app": "vllm"}), 8000, "TCP", True),
        (Pod("models", {"app": "vllm"}), 22, "TCP", False),
        (Pod("other", {"app": "vllm"}), 8000, "TCP", False),
        (Pod("ai", {"app": "vllm"}), 8001, "TCP", True),
        (Pod("other", {"app": "vllm"}), 8001, "TCP", False),
        (DNS, 53, "UDP", True),
        (DNS, 53, "TCP", True),
        (DNS, 443, "TCP", False),
        (Pod("kube-system", {"k8s-app": "metrics-server"}), 53, "UDP", False),
    ],
    ids=str,
)
def test_the_gateway_reaches_what_its_configuration_names(
    target: Peer, port: int, protocol: str, reached: bool
) -> None:
    manifests = _with()
    assert passes(manifests, _ours(manifests), target, port, protocol) is reached


def test_with_private_endpoints_the_gateway_reaches_their_subnet_alone() -> None:
    manifests = _with(networkPolicy__egress__names=[{"cidr": "10.1.4.0/24"}])
    assert passes(manifests, _ours(manifests), Host("10.1.4.9"), 443)
    assert not passes(manifests, _ours(manifests), Host("10.1.5.9"), 443)
    assert not passes(manifests, _ours(manifests), OPENAI, 443)


def test_without_a_name_that_is_not_of_the_cluster_nothing_outside_is_reached() -> None:
    manifests = _alone()
    assert passes(manifests, _ours(manifests), Pod("models"), 8000)
    assert not passes(manifests, _ours(manifests), OPENAI, 443)


@pytest.mark.parametrize(
    ("credential", "machine"),
    [
        ({"entra": {}}, False),
        ({"entra": {"kind": "managed_identity"}}, True),
        ({"key_vault": {"url": "https://secrets.vault.azure.net", "secret": "a"}}, False),
    ],
    ids=["entra", "managed identity", "key vault"],
)
def test_who_signs_in_reaches_where_that_is_done(credential: dict[str, Any], machine: bool) -> None:
    manifests = _alone(credential=credential)
    assert passes(manifests, _ours(manifests), OPENAI, 443)
    assert passes(manifests, _ours(manifests), Host("169.254.169.254"), 80) is machine


def test_webhooks_of_alerts_are_reached_though_their_urls_are_secrets() -> None:
    manifests = _alone()
    assert not passes(manifests, _ours(manifests), OPENAI, 443)
    webhooks = {"finance": {"url": {"env": "WEBHOOK"}}}
    told = {"telemetry": {"alerts": {"webhooks": webhooks}}}
    variable = [{"name": "WEBHOOK", "existingSecret": "webhook", "key": "url"}]
    manifests = _alone(more=told, secrets__env=variable)
    assert passes(manifests, _ours(manifests), OPENAI, 443)


def test_a_password_or_a_variable_in_a_url_leads_nobody_astray() -> None:
    config = dict(BASE["config"])
    config["stores"] = {
        "database": "postgresql+psycopg://sluice:${PASSWORD}@10.7.7.7/sluice?host=x",
        "counters": "rediss://:${PASSWORD}@redis.data.svc:6380/0",
        "answers": "${ANSWERS}",
    }
    environ = [{"name": name, "existingSecret": "s", "key": "k"} for name in ("PASSWORD", "ANSWERS")]
    manifests = _with(config=config, secrets__env=environ)
    assert passes(manifests, _ours(manifests), Host("10.7.7.7"), 5432)
    assert passes(manifests, _ours(manifests), Pod("data"), 6380)
    assert not passes(manifests, _ours(manifests), OPENAI, 5432)


def test_by_itself_the_pods_of_its_namespace_may_call_and_no_others() -> None:
    manifests = _with()
    assert passes(manifests, Pod("ai", {"app": "shop"}), _ours(manifests), 8080)
    assert not passes(manifests, Pod("shop", {"app": "shop"}), _ours(manifests), 8080)
    assert not passes(manifests, Host("10.1.1.1"), _ours(manifests), 8080)


def test_who_is_named_may_call_and_who_watches_may_scrape() -> None:
    manifests = _with(
        networkPolicy__ingress={"namespaces": ["gateways"], "cidrs": ["10.2.0.0/16"]},
        smoke__existingSecret="smoke",
    )
    ours = _ours(manifests)
    assert passes(manifests, Pod("gateways"), ours, 8080)
    assert passes(manifests, Host("10.2.3.4"), ours, 8080)
    assert not passes(manifests, Pod("ai", {"app": "shop"}), ours, 8080)
    assert not passes(manifests, Host("10.3.0.1"), ours, 8080)
    assert passes(manifests, Pod("monitoring"), ours, 9464)
    assert not passes(manifests, Pod("gateways"), ours, 9464)
    assert not passes(manifests, Pod("monitoring"), ours, 8080)
    (test,) = (one for one in manifests if one["kind"] == "Pod")
    assert passes(manifests, Pod("ai", test["metadata"]["labels"]), ours, 8080), "helm test"


def test_azure_monitor_may_scrape_where_it_is_on() -> None:
    watching = Pod("kube-system", {"rsName": "ama-metrics"})
    manifests = _with(monitoring__azureMonitor__enabled=True)
    assert passes(manifests, watching, _ours(manifests), 9464)
    assert not passes(manifests, watching, _ours(manifests), 8080)
    assert not passes(_with(), watching, _ours(_with()), 9464)


def test_ports_that_the_policy_opens_are_those_of_the_containers() -> None:
    assert _ports(_with()) == {"http": 8080, "metrics": 9464}


def test_a_sidecars_pod_is_called_at_the_applications_port_alone() -> None:
    manifests = rendered(CHART, f"{CHART}/examples/sidecar-central.yaml", namespace="shop")
    name = only(manifests, "Deployment")["metadata"]["name"]
    ours = Pod("shop", only(manifests, "Deployment", name)["spec"]["template"]["metadata"]["labels"])
    assert passes(manifests, Pod("shop"), ours, 3000)
    assert not passes(manifests, Pod("shop"), ours, 8080)
    central = Pod("gateway", {"app.kubernetes.io/name": "sluice", "app.kubernetes.io/component": "gateway"})
    assert passes(manifests, ours, central, 8080)
    assert not passes(manifests, ours, OPENAI, 443)


def test_the_policy_is_the_same_each_time() -> None:
    """Go's maps have no order of their own."""
    names = [f"sluice-number-{number}" for number in range(8)]
    seen = {template(CHART, set=BASE | {"fullnameOverride": name}).replace(name, "") for name in names}
    assert len(seen) == 1


def test_a_route_leads_to_the_service_of_the_gateway_and_cuts_no_stream() -> None:
    manifests = _with(
        httpRoute__parentRefs=[{"name": "internal", "namespace": "gateways"}],
        networkPolicy__ingress__namespaces=["gateways"],
        service__port=8081,
    )
    (rule,) = only(manifests, "HTTPRoute")["spec"]["rules"]
    (target,) = rule["backendRefs"]
    service = only(manifests, "Service", target["name"])
    (port,) = service["spec"]["ports"]
    assert port["port"] == target["port"] == 8081
    assert _ports(manifests)[port["targetPort"]] == 8080
    assert _selected(service, _ours(manifests))
    assert rule["timeouts"] == {"request": "0s", "backendRequest": "0s"}


def test_a_gateway_that_knows_no_timeouts_gets_none(tmp_path: Path) -> None:
    path = tmp_path / "values.yaml"
    path.write_text("httpRoute: {parentRefs: [{name: internal}], timeouts: null}")
    manifests = rendered(CHART, path, set=BASE | {"networkPolicy.ingress.namespaces": ["gateways"]})
    (rule,) = only(manifests, "HTTPRoute")["spec"]["rules"]
    assert "timeouts" not in rule


@pytest.mark.parametrize(
    "values",
    [{"httpRoute.parentRefs": [{"name": "gw"}]}, {"ingress.enabled": True, "ingress.hosts": ["ai.example.com"]}],
    ids=["route", "ingress"],
)
def test_nothing_leads_to_a_sidecar_from_outside(values: dict[str, Any]) -> None:
    opened = values | {"networkPolicy.ingress.namespaces": ["gateways"]}
    with pytest.raises(ChartError, match="needs mode: gateway"):
        rendered(CHART, f"{CHART}/examples/sidecar-central.yaml", set=opened)


def test_without_a_gateway_to_be_routed_from_there_is_no_route() -> None:
    kinds = {one["kind"] for one in _with()}
    assert not kinds & {"HTTPRoute", "Ingress"}


def test_an_ingress_leads_to_the_same_service() -> None:
    manifests = _with(
        ingress={"enabled": True, "hosts": ["ai.example.com"], "className": "nginx"},
        networkPolicy__ingress__namespaces=["ingress-nginx"],
    )
    (rule,) = only(manifests, "Ingress")["spec"]["rules"]
    backend = rule["http"]["paths"][0]["backend"]["service"]
    (port,) = only(manifests, "Service", backend["name"])["spec"]["ports"]
    assert port["port"] == backend["port"]["number"]


# ---- watching ------------------------------------------------------------------------------------------------------


def test_a_service_monitor_finds_the_port_of_the_metrics() -> None:
    manifests = _with(monitoring__serviceMonitor__enabled=True)
    spec = only(manifests, "ServiceMonitor")["spec"]
    wanted = spec["selector"]["matchLabels"].items()
    (service,) = (one for one in manifests if one["kind"] == "Service" and wanted <= one["metadata"]["labels"].items())
    (endpoint,) = spec["endpoints"]
    (port,) = (one for one in service["spec"]["ports"] if one["name"] == endpoint["port"])
    assert port["targetPort"] == _ports(manifests)["metrics"] == 9464
    assert _selected(service, _ours(manifests))
    assert service["metadata"]["namespace"] in spec["namespaceSelector"]["matchNames"]


@pytest.mark.parametrize("example", ["aks", "ha", "sidecar-central"])
def test_services_know_ports_of_native_sidecars_by_number(example: str) -> None:
    """By name a Service finds them from Kubernetes 1.32 on, and the chart is for 1.29."""
    manifests = rendered(CHART, f"{CHART}/examples/{example}.yaml")
    pod = only(manifests, "Deployment", "sluice")["spec"]["template"]["spec"]
    names = {port["name"] for one in pod["initContainers"] for port in one.get("ports", ())}
    targets = [port["targetPort"] for one in manifests if one["kind"] == "Service" for port in one["spec"]["ports"]]
    assert 9464 in targets
    assert not names & set(targets)


def test_a_pod_monitor_finds_the_pods_and_their_port() -> None:
    manifests = _with(monitoring__podMonitor__enabled=True)
    spec = only(manifests, "PodMonitor")["spec"]
    assert set(spec["selector"]["matchLabels"].items()) <= set(_ours(manifests).labels.items())
    assert _ports(manifests)[spec["podMetricsEndpoints"][0]["port"]] == 9464


@pytest.mark.parametrize("kind", ["PodMonitor", "ServiceMonitor"])
def test_azure_monitor_has_kinds_of_its_own_group_and_its_limits(kind: str) -> None:
    manifests = _with(monitoring__azureMonitor={"enabled": True, "kind": kind})
    monitor = only(manifests, kind)
    assert monitor["apiVersion"] == "azmonitoring.coreos.com/v1"
    limits = ("labelLimit", "labelNameLengthLimit", "labelValueLengthLimit")
    assert [monitor["spec"][limit] for limit in limits] == [63, 511, 1023]


@pytest.mark.parametrize("release", ["sluice", "ai-gateway", "prod"])
def test_the_job_has_a_name_that_rules_and_dashboards_go_by(release: str) -> None:
    values = BASE | {"monitoring.podMonitor.enabled": True, "fullnameOverride": release}
    (endpoint,) = only(rendered(CHART, set=values), "PodMonitor")["spec"]["podMetricsEndpoints"]
    (relabeling,) = endpoint["relabelings"]
    assert relabeling["targetLabel"] == "job"
    assert "sluice" in relabeling["replacement"]


@pytest.mark.parametrize(
    ("kind", "values", "given"),
    [
        ("ServiceMonitor", {"monitoring.serviceMonitor.enabled": True}, {*GIVEN, "service"}),
        ("PodMonitor", {"monitoring.podMonitor.enabled": True}, GIVEN),
        (
            "ServiceMonitor",
            {"monitoring.azureMonitor": {"enabled": True, "kind": "ServiceMonitor"}},
            {*GIVEN, "service"},
        ),
    ],
    ids=["service", "pod", "azure"],
)
def test_labels_of_the_target_take_no_name_of_a_metrics_label(
    kind: str, values: dict[str, Any], given: set[str]
) -> None:
    """Prometheus renames the metric's own then, and rules and panels find nothing under the name that they know."""
    rows = re.findall(
        r"^\| `(?:sluice|gen_ai)_\w+` \|([^|]*)\|", (ROOT / "docs/operations.md").read_text(), re.MULTILINE
    )
    own = {label.strip() for row in rows for label in row.split(",")}
    assert "service" in own
    (monitor,) = (one["spec"] for one in rendered(CHART, set=BASE | values) if one["kind"] == kind)
    (endpoint,) = monitor["endpoints" if kind == "ServiceMonitor" else "podMetricsEndpoints"]
    dropped = {one["regex"] for one in endpoint["relabelings"] if one.get("action") == "labeldrop"}
    assert not (given - dropped) & own


def test_promtool_takes_the_rules(tmp_path: Path) -> None:
    manifests = _with(
        monitoring__prometheusRule={"enabled": True, "runbooks": "https://git.example.com/sluice/docs/"},
    )
    spec = only(manifests, "PrometheusRule")["spec"]
    path = tmp_path / "rules.yaml"
    with path.open("w") as file:
        YAML().dump(spec, file)
    alerts = [rule for group in spec["groups"] for rule in group["rules"] if "alert" in rule]
    assert len(alerts) > 20
    for alert in alerts:
        assert alert["annotations"]["runbook_url"].startswith("https://git.example.com/sluice/docs/runbook.md#")
    subprocess.run([require("promtool"), "check", "rules", "--lint=all", "--lint-fatal", path], check=True)


def test_dashboards_are_whole_and_fit() -> None:
    manifests = _with(monitoring__dashboards__enabled=True)
    maps = [one for one in manifests if "grafana_dashboard" in one["metadata"]["labels"]]
    written = {path.name: path.read_text() for path in (ROOT / "deploy/observability/grafana").glob("*.json")}
    assert len(maps) == len(written) == 3
    for one in maps:
        assert one["metadata"]["labels"]["grafana_dashboard"] == "1"
        assert one["metadata"]["annotations"]["grafana_folder"] == "Sluice"
        ((name, text),) = one["data"].items()
        assert json.loads(text) == json.loads(written[name.removeprefix("sluice-")])
        assert len(text.encode()) < MOST / 2


def test_what_is_brought_along_is_what_stands_in_the_tree(tmp_path: Path) -> None:
    subprocess.run([sys.executable, ROOT / "charts/files.py", tmp_path], check=True)
    fresh = {path.relative_to(tmp_path): path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    folder = ROOT / "charts/sluice/files"
    here = {path.relative_to(ROOT): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    assert here == fresh, "stale: make charts"


# ---- secrets from elsewhere ----------------------------------------------------------------------------------------


def test_external_secrets_make_what_the_pod_mounts() -> None:
    manifests = rendered(CHART, f"{CHART}/examples/external-secrets.yaml")
    made = {
        one["spec"]["target"]["name"]: {entry["secretKey"] for entry in one["spec"]["data"]}
        for one in manifests
        if one["kind"] == "ExternalSecret"
    }
    pod = only(manifests, "Deployment")["spec"]["template"]["spec"]
    mounted = {volume["secret"]["secretName"] for volume in pod["volumes"] if "secret" in volume}
    assert mounted
    assert mounted <= set(made)
    for container in pod["initContainers"]:
        for variable in container.get("env", ()):
            if reference := variable.get("valueFrom", {}).get("secretKeyRef"):
                assert reference["key"] in made[reference["name"]]


def test_key_vault_brings_files_that_the_configuration_names() -> None:
    manifests = rendered(CHART, f"{CHART}/examples/key-vault.yaml")
    provider = only(manifests, "SecretProviderClass")
    objects = YAML(typ="safe").load(provider["spec"]["parameters"]["objects"])["array"]
    files = {one["objectAlias"]: one for one in (YAML(typ="safe").load(text) for text in objects)}
    assert files["openai"] == {"objectName": "openai-api-key", "objectType": "secret", "objectAlias": "openai"}
    pod = only(manifests, "Deployment")["spec"]["template"]["spec"]
    (volume,) = (one for one in pod["volumes"] if "csi" in one)
    assert volume["csi"]["volumeAttributes"]["secretProviderClass"] == provider["metadata"]["name"]
    mounting = {
        container["name"]: mount["mountPath"]
        for container in (*pod["initContainers"], *pod["containers"])
        for mount in container["volumeMounts"]
        if mount["name"] == volume["name"]
    }
    assert mounting == {"sluice": "/run/secrets/sluice/key-vault"}, "Envoy gets none of it"
    named = only(manifests, "ConfigMap", "sluice-config")["data"]["gateway.yaml"]
    assert "/run/secrets/sluice/key-vault/openai" in named
    for synced in provider["spec"]["secretObjects"]:
        assert {entry["objectName"] for entry in synced["data"]} <= set(files)


# ---- for trying out ------------------------------------------------------------------------------------------------

TRYOUT = {
    "image.repository": "registry.example/sluice",
    "config": {
        "backends": {"one": {"dialect": "openai", "url": "https://api.openai.com/v1"}},
        "models": {"m": {"targets": [[{"backend": "one"}]]}},
    },
    "tryout.redis.enabled": True,
    "tryout.postgresql.enabled": True,
}


@pytest.mark.parametrize(("store", "port"), [("redis", 6379), ("postgresql", 5432)], ids=["redis", "postgresql"])
def test_the_gateway_and_nobody_else_reaches_a_store_to_try_out(store: str, port: int) -> None:
    manifests = rendered(CHART, set=TRYOUT)
    there = only(manifests, "Deployment", f"sluice-{store}")["spec"]["template"]["metadata"]["labels"]
    target = Pod("ai", there)
    assert passes(manifests, _ours(manifests), target, port)
    assert not passes(manifests, Pod("ai", {"app": "shop"}), target, port)
    assert not passes(manifests, Pod("other"), target, port)
    assert not passes(manifests, target, OPENAI, 443)
    service = only(manifests, "Service", f"sluice-{store}")
    assert _selected(service, target)
    assert not _selected(only(manifests, "Service", "sluice"), target), "no call may land there"


def test_stores_to_try_out_are_what_the_gateway_is_led_to() -> None:
    manifests = rendered(CHART, set=TRYOUT)
    pod = only(manifests, "Deployment", "sluice")["spec"]["template"]["spec"]
    environ = {one["name"]: one.get("value") for one in pod["initContainers"][0]["env"]}
    assert environ["SLUICE__STORES__COUNTERS"] == "redis://sluice-redis:6379/0"
    assert environ["SLUICE__STORES__DATABASE"] == "postgresql+psycopg://sluice@sluice-postgresql:5432/sluice"
    assert [one["name"] for one in pod["initContainers"][0]["env"]].count("SLUICE__STORES__DATABASE") == 1
    jobs = [one for one in manifests if one["kind"] == "Job"]
    assert not jobs, "before an installation there is no such database"


def test_the_redis_to_try_out_serves_others_than_itself() -> None:
    """Without a password a Redis serves its own machine alone, unless told otherwise. A real one, with its options."""
    (container,) = only(rendered(CHART, set=TRYOUT), "Deployment", "sluice-redis")["spec"]["template"]["spec"][
        "containers"
    ]
    program, *words = container["args"]
    assert program == "redis-server"
    options = {
        name.removeprefix("--").replace("-", "_"): value for name, value in zip(words[::2], words[1::2], strict=True)
    }
    assert options.pop("dir") == "/data"
    with (
        redis_server(**options) as server,
        socket.create_connection(("127.0.0.1", server.port), source_address=("127.0.0.5", 0)) as other,
    ):
        other.sendall(b"CONFIG GET maxmemory-policy\r\n")
        assert b"noeviction" in other.recv(1000)


def test_nothing_in_a_release_is_a_secret_or_made_up() -> None:
    kinds = {one["kind"] for one in rendered(CHART, set=TRYOUT)}
    assert "Secret" not in kinds
