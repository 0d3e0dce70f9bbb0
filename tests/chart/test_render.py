"""Every example of every chart renders, as it is checked in; what makes no sense is refused with words that help."""

import subprocess
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from extproc.config.loader import load
from extproc.config.teams import TeamFile
from tests.chart import golden
from tests.support.helm import ChartError, documents, helm, lint, only, rendered, template

EXAMPLES = [pytest.param(example, id=golden.name(example)) for example in golden.EXAMPLES]
OF_SLUICE = [pytest.param(path, id=path.stem) for path in golden.EXAMPLES if golden.chart(path).name == "sluice"]
MINIMAL = "charts/sluice/examples/minimal.yaml"
HA = "charts/sluice/examples/ha.yaml"
AKS = "charts/sluice/examples/aks.yaml"
CENTRAL = "charts/sluice/examples/sidecar-central.yaml"


@pytest.mark.parametrize("example", EXAMPLES)
def test_an_example_passes_the_linter(example: Path) -> None:
    assert "0 chart(s) failed" in lint(golden.chart(example), example)


@pytest.mark.parametrize("example", EXAMPLES)
def test_an_example_renders_what_is_checked_in(example: Path) -> None:
    checked_in = golden.FOLDER / f"{golden.name(example)}.yaml"
    assert golden.shown(example) == checked_in.read_text(), f"{checked_in.name} is stale: make charts"


def test_no_golden_render_is_left_of_an_example_that_went() -> None:
    assert {path.stem for path in golden.FOLDER.glob("*.yaml")} == {golden.name(path) for path in golden.EXAMPLES}


@pytest.mark.parametrize("example", EXAMPLES)
def test_rendering_twice_gives_the_same(example: Path) -> None:
    words = [str(helm()), "template", "sluice", str(golden.chart(example)), "--namespace=ai", "--kube-version=1.33.0"]
    again = subprocess.run([*words, f"--values={example}"], capture_output=True, text=True, check=True)
    assert again.stdout == golden.render(example)


@pytest.mark.parametrize("example", OF_SLUICE)
def test_the_rendered_configuration_is_one_that_the_gateway_takes(example: Path, tmp_path: Path) -> None:
    """With the variables that the pod has, by the gateway's own loader."""
    manifests = rendered("charts/sluice", example)
    pod = only(manifests, "Deployment", "sluice")["spec"]["template"]["spec"]
    environ = {one["name"]: one.get("value", "s3cret") for one in pod["initContainers"][0]["env"]}
    file = tmp_path / "gateway.yaml"
    file.write_text(only(manifests, "ConfigMap", "sluice-config")["data"]["gateway.yaml"])
    gateway = load(file, environ)
    assert str(gateway.state_dir) == "/run/sluice"
    assert gateway.listener.port == 8080
    assert gateway.metrics.address == "0.0.0.0"
    assert pod["terminationGracePeriodSeconds"] > gateway.timeouts.drain.total_seconds()


TEAM = {"area": "retail", "owner": "anna@example.com", "models": [{"name": "gpt-4o-mini"}]}


def test_team_files_come_to_the_folder_that_the_gateway_reads() -> None:
    manifests = rendered("charts/sluice", MINIMAL, set={"teams.checkout": TEAM})
    data = only(manifests, "ConfigMap", "sluice-teams")["data"]
    assert TeamFile.model_validate(documents(data["checkout.yaml"])[0]).area == "retail"
    pod = only(manifests, "Deployment")["spec"]["template"]["spec"]
    (volume,) = (one for one in pod["volumes"] if one.get("configMap", {}).get("name") == "sluice-teams")
    sluice = pod["initContainers"][0]
    (place,) = (one["mountPath"] for one in sluice["volumeMounts"] if one["name"] == volume["name"])
    assert {"name": "SLUICE__TEAMS", "value": place} in sluice["env"]


def test_a_team_that_comes_or_goes_changes_no_pod() -> None:
    """Nor may a pod from before name a key of the ConfigMap, which may go."""
    assert only(rendered("charts/sluice", MINIMAL), "ConfigMap", "sluice-teams")["data"] == {}
    assert _pods({"teams.checkout": TEAM}) == _pods({})
    assert not [one for one in _pods({})["spec"]["volumes"] if one.get("configMap", {}).get("items")]


@pytest.mark.parametrize("amount", ["0.000001", "0.00015", "2.5", "1234567.25", "9000000"])
def test_an_amount_of_money_passes_through_helm_to_the_last_digit(amount: str, tmp_path: Path) -> None:
    """Which writes small and large ones with an exponent."""
    values = tmp_path / "values.yaml"
    values.write_text(f"config: {{policies: {{limits: {{month: {{money: {amount}, per: month}}}}}}}}")
    config = only(rendered("charts/sluice", MINIMAL, values), "ConfigMap", "sluice-config")
    file = tmp_path / "gateway.yaml"
    file.write_text(config["data"]["gateway.yaml"])
    assert load(file, {}).policies.limits["month"].money == Decimal(amount)


def test_only_a_change_that_needs_a_restart_makes_new_pods() -> None:
    before = _pods({})
    assert _pods({"config.models.gpt-4o-mini.enabled": False}) == before
    assert _pods({"config.timeouts.connect": "3s", "config.policies.currency": "CHF"}) == before
    assert _pods({"config.routing.attempts": 3, "config.identity.accept": {"chat": "key"}}) == before
    assert _pods({"config.workers": 2}) != before
    assert _pods({"config.timeouts.idle": "1m"}) != before
    assert _pods({"config.cache.size": "8MiB"}) != before


def _pods(changed: dict[str, Any]) -> Any:
    return only(rendered("charts/sluice", MINIMAL, set=changed), "Deployment")["spec"]["template"]


def test_the_schema_of_the_database_is_brought_up_to_date_before_the_pods_come() -> None:
    manifests = rendered("charts/sluice", AKS)
    job = only(manifests, "Job")
    assert job["metadata"]["annotations"]["helm.sh/hook"] == "pre-install,pre-upgrade"
    pod = job["spec"]["template"]["spec"]
    assert pod["containers"][0]["args"][:2] == ["db", "upgrade"]
    weights = [(one["metadata"].get("annotations", {}).get("helm.sh/hook-weight"), one) for one in manifests]
    brought = [one for weight, one in weights if weight == "-10"]
    assert {one["kind"] for one in brought} == {"ConfigMap", "ServiceAccount"}
    assert pod["serviceAccountName"] in {one["metadata"]["name"] for one in brought}
    assert pod["volumes"][0]["configMap"]["name"] in {one["metadata"]["name"] for one in brought}


@pytest.mark.parametrize(
    ("by", "jobs", "migrate"), [("job", 1, "false"), ("pods", 0, "true"), ("external", 0, "false")]
)
def test_who_migrates_can_be_chosen(by: str, jobs: int, migrate: str) -> None:
    manifests = rendered("charts/sluice", HA, set={"migrations.by": by})
    assert len([one for one in manifests if one["kind"] == "Job"]) == jobs
    env = only(manifests, "Deployment")["spec"]["template"]["spec"]["initContainers"][0]["env"]
    assert {"name": "SLUICE__STORES__MIGRATE", "value": migrate} in env


def test_the_job_may_have_a_password_of_its_own() -> None:
    own = {"name": "DATABASE_PASSWORD", "existingSecret": "owner", "key": "password"}
    job = only(rendered("charts/sluice", HA, set={"migrations.env": [own]}), "Job")
    env = job["spec"]["template"]["spec"]["containers"][0]["env"]
    (password,) = (one for one in env if one["name"] == "DATABASE_PASSWORD")
    assert password["valueFrom"]["secretKeyRef"]["name"] == "owner"
    assert "REDIS_PASSWORD" in {one["name"] for one in env}


def test_the_job_may_sign_in_as_the_owner_of_the_schema() -> None:
    manifests = rendered("charts/sluice", AKS)
    (told,) = (
        one["value"]
        for one in only(manifests, "Job")["spec"]["template"]["spec"]["containers"][0]["env"]
        if one["name"] == "SLUICE__STORES__DATABASE"
    )
    assert told.startswith("postgresql+psycopg://sluice-migrations@")
    pods = only(manifests, "Deployment", "sluice")["spec"]["template"]["spec"]["initContainers"][0]["env"]
    assert "SLUICE__STORES__DATABASE" not in {one["name"] for one in pods}


@pytest.mark.parametrize("timeout", [120, "120s", "2m"])
def test_the_pod_ends_as_its_drain_says(timeout: int | str) -> None:
    pod = only(rendered("charts/sluice", HA, set={"drain": {"notice": 7, "timeout": timeout}}), "Deployment")["spec"]
    pod = pod["template"]["spec"]
    assert pod["terminationGracePeriodSeconds"] == 187
    sluice, envoy = pod["initContainers"][0], pod["containers"][0]
    assert {"name": "SLUICE__TIMEOUTS__NOTICE", "value": "7s"} in sluice["env"]
    assert {"name": "SLUICE__TIMEOUTS__DRAIN", "value": "120s"} in sluice["env"]
    assert sluice["lifecycle"]["preStop"]["exec"]["command"][1] == "drain"
    assert "/run/sluice/run/drained" in envoy["lifecycle"]["preStop"]["exec"]["command"][-1]


@pytest.mark.parametrize(
    ("limit", "heap"), [("512Mi", 483183820), ("1Gi", 966367641), ("1.5G", 1350000000), ("200000k", 180000000)]
)
def test_envoy_sheds_calls_before_its_container_is_killed(limit: str, heap: int) -> None:
    pod = only(rendered("charts/sluice", MINIMAL, set={"envoy.resources.limits.memory": limit}), "Deployment")
    env = pod["spec"]["template"]["spec"]["initContainers"][0]["env"]
    assert {"name": "SLUICE__LIMITS__ENVOY_HEAP", "value": str(heap)} in env


@pytest.mark.parametrize(
    ("listener", "probe"),
    [
        ({}, {"path": "/readyz", "port": "http", "scheme": "HTTP"}),
        ({"tls": {}}, {"path": "/readyz", "port": "http", "scheme": "HTTPS"}),
        ({"tls": {"client_certificates": {"required": False}}}, {"path": "/readyz", "port": "http", "scheme": "HTTPS"}),
        ({"tls": {"client_certificates": {}}}, None),
    ],
    ids=["plain", "tls", "certificates-if-sent", "certificates"],
)
def test_probes_speak_what_the_listener_does(listener: dict[str, Any], probe: dict[str, str] | None) -> None:
    if "tls" in listener:
        folder = "/run/secrets/sluice/tls"
        listener["tls"] |= {"certificate": f"{folder}/tls.crt", "private_key": f"{folder}/tls.key"}
        if "client_certificates" in listener["tls"]:
            listener["tls"]["client_certificates"]["authority"] = f"{folder}/ca.crt"
    secrets = [{"name": "tls", "existingSecret": "tls"}, {"name": "openai", "existingSecret": "openai"}]
    manifests = rendered("charts/sluice", MINIMAL, set={"config.listener": listener, "secrets.files": secrets})
    readiness = only(manifests, "Deployment")["spec"]["template"]["spec"]["containers"][0]["readinessProbe"]
    assert readiness.get("httpGet") == probe
    assert ("tcpSocket" in readiness) == (probe is None)


def test_the_internal_load_balancer_is_internal_and_waits_for_models() -> None:
    service = only(rendered("charts/sluice", AKS), "Service", "sluice-internal")
    prefix = "service.beta.kubernetes.io/azure-load-balancer"
    annotations = service["metadata"]["annotations"]
    assert annotations[f"{prefix}-internal"] == "true"
    assert annotations[f"{prefix}-internal-subnet"] == "snet-gateway"
    assert annotations[f"{prefix}-tcp-idle-timeout"] == "30"
    assert annotations[f"{prefix}-disable-tcp-reset"] == "false"
    assert service["spec"]["externalTrafficPolicy"] == "Local"


def test_behind_a_load_balancer_that_asks_nodes_a_pod_stays_in_use_until_it_has_noticed() -> None:
    """Its node has no other pod to give a new connection to; with Cluster any node has."""
    readiness, notice = _in_use({})
    assert notice <= readiness["periodSeconds"] * readiness["failureThreshold"] <= notice + 2
    readiness, _ = _in_use({"internalLoadBalancer.externalTrafficPolicy": "Cluster", "drain.notice": 5})
    assert readiness["periodSeconds"] * readiness["failureThreshold"] == 4


def _in_use(changed: dict[str, Any]) -> tuple[dict[str, Any], int]:
    pod = only(rendered("charts/sluice", AKS, set=changed), "Deployment")["spec"]["template"]["spec"]
    (notice,) = (one["value"] for one in pod["initContainers"][0]["env"] if one["name"] == "SLUICE__TIMEOUTS__NOTICE")
    return pod["containers"][0]["readinessProbe"], int(notice.removesuffix("s"))


def test_the_job_mounts_no_secret_of_a_provider() -> None:
    files = [{"name": "openai", "existingSecret": "openai"}, {"name": "database", "existingSecret": "database"}]
    stores = {
        "database": "postgresql+psycopg://sluice@pg.data.svc/sluice",
        "database_credential": {"file": "/run/secrets/sluice/database/password"},
        "counters": "redis://redis.data.svc",
    }
    changed = {"secrets": {"files": files, "env": []}, "config.stores": stores}
    pod = only(rendered("charts/sluice", HA, set=changed), "Job")["spec"]["template"]["spec"]
    assert [one["secret"]["secretName"] for one in pod["volumes"] if "secret" in one] == ["database"]
    mounts = {one["mountPath"] for one in pod["containers"][0]["volumeMounts"]}
    assert "/run/secrets/sluice/database" in mounts
    assert "/run/secrets/sluice/openai" not in mounts


def test_the_job_has_the_volumes_that_a_user_adds() -> None:
    """The authority of a database may be in one."""
    added: dict[str, Any] = {
        "extraVolumes": [{"name": "ca", "configMap": {"name": "company-ca"}}],
        "extraVolumeMounts": [{"name": "ca", "mountPath": "/etc/ssl/company"}],
    }
    pod = only(rendered("charts/sluice", HA, set=added), "Job")["spec"]["template"]["spec"]
    assert added["extraVolumes"][0] in pod["volumes"]
    assert added["extraVolumeMounts"][0] in pod["containers"][0]["volumeMounts"]


@pytest.mark.parametrize("example", OF_SLUICE)
def test_no_service_of_the_calls_leads_to_the_metrics(example: Path) -> None:
    for service in (one for one in rendered("charts/sluice", example) if one["kind"] == "Service"):
        of_metrics = service["metadata"]["name"].endswith("-metrics")
        assert all((port.get("targetPort") in ("metrics", 9464)) == of_metrics for port in service["spec"]["ports"])


@pytest.mark.parametrize("example", OF_SLUICE)
def test_services_find_the_pods_that_serve_and_no_others(example: Path) -> None:
    manifests = rendered("charts/sluice", example)
    serving = only(manifests, "Deployment", "sluice")["spec"]["template"]["metadata"]["labels"]
    others = [one["spec"]["template"]["metadata"]["labels"] for one in manifests if one["kind"] == "Job"]
    others += [one["metadata"]["labels"] for one in manifests if one["kind"] == "Pod"]
    for service in (one for one in manifests if one["kind"] == "Service"):
        if service["metadata"]["labels"]["app.kubernetes.io/component"] in ("redis", "postgresql"):
            continue  # of stores to try out
        selector = service["spec"]["selector"].items()
        assert selector <= serving.items()
        assert not any(selector <= labels.items() for labels in others)


def test_workload_identity_reaches_the_pods_and_the_account() -> None:
    manifests = rendered("charts/sluice", AKS)
    account = only(manifests, "ServiceAccount", "sluice")
    assert account["metadata"]["annotations"]["azure.workload.identity/client-id"].startswith("11111111")
    migrating = only(manifests, "ServiceAccount", "sluice-migrations")
    assert migrating["metadata"]["annotations"]["azure.workload.identity/client-id"].startswith("22222222")
    pod = only(manifests, "Deployment")["spec"]["template"]
    assert pod["metadata"]["labels"]["azure.workload.identity/use"] == "true"
    assert pod["metadata"]["annotations"]["azure.workload.identity/skip-containers"] == "envoy"
    assert pod["spec"]["serviceAccountName"] == "sluice"


def test_the_test_calls_the_service_with_a_key_from_a_secret() -> None:
    manifests = rendered("charts/sluice", MINIMAL, set={"smoke": {"existingSecret": "mine"}})
    pod = only(manifests, "Pod")
    assert pod["metadata"]["annotations"]["helm.sh/hook"] == "test"
    args = pod["spec"]["containers"][0]["args"]
    assert args[:3] == ["smoke", "--url", "http://sluice.ai.svc:80"]
    assert pod["spec"]["volumes"][0]["secret"]["secretName"] == "mine"
    assert not [one for one in rendered("charts/sluice", MINIMAL) if one["kind"] == "Pod"]


def test_the_test_can_be_led_elsewhere_and_trust_an_authority() -> None:
    smoke = {"existingSecret": "mine", "url": "https://ai.corp.example", "ca": {"existingSecret": "authority"}}
    pod = only(rendered("charts/sluice", MINIMAL, set={"smoke": smoke}), "Pod")["spec"]
    args = pod["containers"][0]["args"]
    assert args[args.index("--url") + 1] == "https://ai.corp.example"
    (volume,) = (one for one in pod["volumes"] if one.get("secret", {}).get("secretName") == "authority")
    (place,) = (one["mountPath"] for one in pod["containers"][0]["volumeMounts"] if one["name"] == volume["name"])
    assert args[args.index("--ca") + 1] == f"{place}/ca.crt"


def test_the_test_needs_a_way_without_a_certificate() -> None:
    folder = "/run/secrets/sluice/openai"
    tls = {
        "certificate": f"{folder}/a",
        "private_key": f"{folder}/b",
        "client_certificates": {"authority": f"{folder}/c"},
    }
    asked = {"config.listener.tls": tls, "smoke.existingSecret": "mine"}
    with pytest.raises(ChartError, match="smoke: the listener asks for certificates"):
        template("charts/sluice", MINIMAL, set=asked)
    pod = only(rendered("charts/sluice", MINIMAL, set={**asked, "smoke.url": "https://ai.corp.example"}), "Pod")
    assert pod["spec"]["containers"][0]["args"][2] == "https://ai.corp.example"


def test_extra_objects_are_templates() -> None:
    extra = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "{{ .Release.Name }}-more"}}
    manifests = rendered("charts/sluice", MINIMAL, set={"extraObjects": [extra]}, release="mine")
    assert only(manifests, "ConfigMap", "mine-more")


REFUSED: list[tuple[str, str, dict[str, Any], str]] = [
    ("an unknown value", MINIMAL, {"replica": 3}, "replica"),
    ("an unknown field of the configuration", MINIMAL, {"config.backends.openai.urll": "x"}, "urll"),
    (
        "a field of the wrong type",
        MINIMAL,
        {"config.workers": "many"},
        "config.workers: Invalid type. Expected: integer",
    ),
    ("what the chart sets itself", MINIMAL, {"config.listener.port": 8443}, "port"),
    ("an unknown field of a team", MINIMAL, {"teams.a": {"area": "x", "owner": "y", "model": []}}, "model"),
    ("an unknown mode", MINIMAL, {"mode": "daemon"}, "mode"),
    ("the tag latest", MINIMAL, {"image.tag": "latest"}, "image.tag: latest names no version"),
    ("the tag latest of Envoy", MINIMAL, {"envoy.image.tag": "latest"}, "envoy.image.tag: latest"),
    ("a drain of days", MINIMAL, {"drain.timeout": "25h"}, "drain.timeout: at most 86400 seconds"),
    ("a time of no unit that is known", MINIMAL, {"drain.timeout": "10min"}, "drain.timeout"),
    ("a time that templates take for an octal one", MINIMAL, {"drain.timeout": "08m"}, "drain.timeout"),
    ("a notice that they do", MINIMAL, {"drain.notice": "010s"}, "drain.notice"),
    ("a digest that is none", MINIMAL, {"image.digest": "sha256:1234"}, "digest"),
    ("no image", MINIMAL, {"image.repository": ""}, "image.repository: name the image"),
    ("no backends", MINIMAL, {"config.backends": None}, "backends"),
    ("pods that share no database", MINIMAL, {"replicas": 2}, "config.stores.database: several pods"),
    ("pods that count each for itself", HA, {"config.stores.counters": "memory://"}, "config.stores.counters: several"),
    ("a file of no Secret", MINIMAL, {"secrets.files": []}, "secrets.files has no openai"),
    ("a variable of no Secret", HA, {"secrets.env": []}, "names the variable"),
    (
        "a password in the configuration",
        HA,
        {"config.stores.database": "postgresql+psycopg://sluice:hunter2@db/sluice"},
        "a ConfigMap is no place",
    ),
    (
        "a password as a parameter",
        HA,
        {"config.stores.database": "postgresql+psycopg://pg/db?user=x&password=hunter2"},
        "a ConfigMap is no place",
    ),
    (
        "a parameter of a URL for the Job",
        AKS,
        {"migrations.database": "postgresql+psycopg://pg/db?sslpassword=hunter2"},
        "a ConfigMap is no place",
    ),
    (
        "a password that begins like a variable",
        HA,
        {"config.stores.counters": "redis://:$ecret@redis.data.svc"},
        "a ConfigMap is no place",
    ),
    (
        "a password that only looks like a variable",
        HA,
        {"config.stores.counters": "redis://:$@redis.data.svc"},
        "a ConfigMap is no place",
    ),
    (
        "a password of a team's backend",
        MINIMAL,
        {"teams.a": {**TEAM, "backends": {"own": {"dialect": "openai", "url": "https://bot:hunter2@own.example"}}}},
        "a ConfigMap is no place",
    ),
    (
        "a secret as a variable",
        MINIMAL,
        {"extraEnv": [{"name": "DATABASE_PASSWORD", "value": "hunter2"}]},
        "extraEnv: DATABASE_PASSWORD holds a secret",
    ),
    (
        "a URL with a password as a variable",
        MINIMAL,
        {"extraEnv": [{"name": "HTTPS_PROXY", "value": "http://me:hunter2@proxy:3128"}]},
        "extraEnv: HTTPS_PROXY holds a secret",
    ),
    (
        "a password in two places",
        HA,
        {"config.stores.counters_credential": {"file": "/run/secrets/sluice/openai/redis"}},
        "config.stores.counters: the URL has a password",
    ),
    (
        "a token that anybody may get",
        AKS,
        {"config.stores.database": "postgresql+psycopg://sluice@sluice.postgres.database.azure.com/sluice"},
        "config.stores.database: a token of Entra",
    ),
    ("too short a notice for Azure", AKS, {"drain.notice": 10}, "drain.notice: behind internalLoadBalancer"),
    ("no version of Envoy", MINIMAL, {"envoy.image.tag": ""}, "envoy.image: name a tag or a digest"),
    ("a label of the chart's own", MINIMAL, {"podLabels": {"app.kubernetes.io/name": "mine"}}, "podLabels"),
    ("an identity of nobody", AKS, {"workloadIdentity.clientId": ""}, "workloadIdentity.clientId"),
    ("an idle time that Azure refuses", AKS, {"internalLoadBalancer.idleTimeoutMinutes": 2}, "idleTimeoutMinutes"),
    ("a sidecar of nothing", MINIMAL, {"mode": "sidecar"}, "sidecar.application.containers"),
    ("a volume of no known kind", HA, {"spool.kind": "hostPath"}, "spool"),
    (
        "a Job that waits for a Secret of its own release",
        "charts/sluice/examples/external-secrets.yaml",
        {"migrations.by": "job"},
        "migrations.by: a Job before the installation",
    ),
    (
        "a Job that waits for a Secret of Key Vault's driver",
        "charts/sluice/examples/key-vault.yaml",
        {"migrations.by": "job"},
        "migrations.by: a Job before the installation",
    ),
    (
        "a Job that waits for a file of Key Vault's driver",
        "charts/sluice/examples/key-vault.yaml",
        {
            "migrations.by": "job",
            "keyVault.sync": {},
            "secrets.env": [],
            "config.stores": {
                "database": "postgresql+psycopg://sluice@postgresql.data.svc/sluice",
                "database_credential": {"file": "/run/secrets/sluice/key-vault/database"},
                "counters": "redis://redis.data.svc",
            },
        },
        "has no files of keyVault",
    ),
]


@pytest.mark.parametrize(("example", "changed", "told"), [row[1:] for row in REFUSED], ids=[row[0] for row in REFUSED])
def test_nonsense_is_refused(example: str, changed: dict[str, Any], told: str) -> None:
    with pytest.raises(ChartError) as refused:
        template("charts/sluice", example, set=changed)
    assert told in str(refused.value)


@pytest.mark.parametrize(
    "changed",
    [
        {"config.stores.database": "postgresql+psycopg://pg/db?user=x&password=${DATABASE_PASSWORD}&sslmode=require"},
        {"config.stores.counters": "redis://:${REDIS_PASSWORD}@redis.data.svc"},
        {"extraEnv": [{"name": "HTTPS_PROXY", "value": "http://me:$(REDIS_PASSWORD)@proxy:3128"}]},
        {"extraEnv": [{"name": "TOKEN", "valueFrom": {"secretKeyRef": {"name": "a", "key": "b"}}}]},
    ],
    ids=["parameter", "password", "kubernetes", "reference"],
)
def test_a_password_that_is_a_variable_is_fine(changed: dict[str, Any]) -> None:
    assert rendered("charts/sluice", HA, set=changed)


def test_envoys_image_may_go_by_its_digest_alone() -> None:
    image = {"envoy.image.tag": "", "envoy.image.digest": f"sha256:{'a' * 64}"}
    assert _pods(image)["spec"]["containers"][0]["image"] == f"envoyproxy/envoy@sha256:{'a' * 64}"


def test_a_cluster_that_is_too_old_is_refused() -> None:
    words = [str(helm()), "template", "sluice", "charts/sluice", f"--values={MINIMAL}", "--kube-version=1.28.9"]
    run = subprocess.run(words, capture_output=True, text=True, cwd=golden.FOLDER.parents[2])
    assert run.returncode
    assert "kubeVersion" in run.stderr
