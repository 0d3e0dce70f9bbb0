"""The rendered files, without an Envoy."""

import json
import re
import stat
import subprocess
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from hypothesis import given
from hypothesis import strategies as st
from ruamel.yaml import YAML

from extproc import contract
from extproc.config.backends import Backend
from extproc.config.byob import TeamBackends
from extproc.config.schema import Gateway
from extproc.dataplane import CredentialError, Layout, credential_problems, render, upstream, write, write_secrets
from extproc.dataplane.clusters import Origin
from extproc.dataplane.examples import example_files
from extproc.model import Dialect
from extproc.surfaces import Surface

ROOT = Path(__file__).parents[2]
LAYOUT = Layout("conf", "secrets", ("w0.sock", "w1.sock"), "admin.sock")
CODEC = "envoy.filters.http.upstream_codec"
REGENERATE = ".venv/bin/python -m extproc.dataplane.examples"


def _gateway(backends: dict[str, dict[str, object]], **more: object) -> Gateway:
    models = {"m": {"targets": [[{"backend": name}] for name in backends]}}
    return Gateway.model_validate({"backends": backends, "models": models} | more)


def _resources(files: dict[str, str], name: str) -> dict[str, Any]:
    """The resources of a file, by name."""
    return {resource["name"]: resource for resource in YAML(typ="safe").load(files[name])["resources"]}


def _attempt_filters(files: dict[str, str], backend: str) -> list[dict[str, Any]]:
    """The way of an attempt at a backend."""
    cluster = _resources(files, "clusters.yaml")[contract.cluster_of(backend)]
    (options,) = cluster["typed_extension_protocol_options"].values()
    filters: list[dict[str, Any]] = options["http_filters"]
    return filters


PLAIN: dict[str, dict[str, object]] = {"plain": {"dialect": "openai", "url": "http://127.0.0.1:1"}}


# --- the examples --------------------------------------------------------------------------------------


def test_the_checked_in_files_are_what_is_rendered() -> None:
    names = {path.parent.name for path in ROOT.glob("examples/*/gateway.yaml")}
    assert "quickstart" in names
    assert {path.name for path in (ROOT / "envoy").iterdir() if path.is_dir()} == names
    for name in names:
        checked_in = {path.name: path.read_text() for path in (ROOT / "envoy" / name).iterdir()}
        assert checked_in == example_files(ROOT, name), f"envoy/{name} is out of date; run: {REGENERATE}"


def test_envoy_is_no_python_package() -> None:
    assert not list((ROOT / "envoy").rglob("__init__.py"))


def test_rendering_twice_gives_the_same_bytes() -> None:
    gateway = _gateway(PLAIN)
    assert render(gateway, LAYOUT) == render(gateway.model_copy(deep=True), LAYOUT)
    assert list(render(gateway, LAYOUT)) == ["clusters.yaml", "routes.yaml", "listeners.yaml", "bootstrap.yaml"]


# --- clusters ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["a", "0", "a--b-", "x" * 63, "extproc", "sink"])
@pytest.mark.parametrize(
    ("dialect", "header", "prefix"),
    [
        ("openai", "authorization", "Bearer "),
        ("azure-openai", "api-key", None),
        ("anthropic", "x-api-key", None),
        ("gemini", "x-goog-api-key", None),
    ],
)
def test_every_backend_has_the_whole_chain(
    name: str, dialect: str, header: str, prefix: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(upstream, "DIRECTIONS", {})
    gateway = _gateway({name: {"dialect": dialect, "url": "http://h", "credential": {"env": "KEY"}}})
    clusters = _resources(render(gateway, LAYOUT), "clusters.yaml")
    of_backend = {contract.cluster_of(name), contract.resolved_cluster_of(name), contract.unresolved_cluster_of(name)}
    assert clusters.keys() == {contract.EXTPROC_CLUSTER, contract.SINK_CLUSTER, *of_backend}
    (options,) = clusters[contract.cluster_of(name)]["typed_extension_protocol_options"].values()
    filters = {entry["name"]: entry["typed_config"] for entry in options["http_filters"]}
    assert list(filters) == ["sluice.attempt_headers", "sluice.rewrite", "sluice.credential", CODEC]
    assert f'"{contract.cluster_of(name)}"' in filters["sluice.rewrite"]["default_source_code"]["inline_string"]
    generic = filters["sluice.credential"]["credential"]["typed_config"]
    assert (generic["header"], generic.get("header_value_prefix")) == (header, prefix)
    removed = [entry.get("remove") for entry in filters["sluice.attempt_headers"]["mutations"]["request_mutations"]]
    assert {*contract.CREDENTIAL_HEADERS, "content-length"} <= {*removed}
    assert "anthropic-version" not in removed


@pytest.mark.parametrize("dialect", ["openai", "azure-openai", "anthropic", "gemini"])
def test_a_dialect_with_a_direction_has_its_requests_translated_last(
    dialect: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It replaces the body, so that nothing behind it may set a length; and so only where it is ordered."""
    monkeypatch.setattr(upstream, "DIRECTIONS", {(Surface.CHAT, Dialect.ANTHROPIC): None})
    gateway = _gateway({"b": {"dialect": dialect, "url": "http://h", "credential": {"env": "KEY"}}})
    names = [entry["name"] for entry in _attempt_filters(render(gateway, LAYOUT), "b")]
    assert (names[-2] == contract.TRANSLATION_FILTER) is (dialect == "anthropic")
    assert names.count(contract.TRANSLATION_FILTER) == (dialect == "anthropic")
    assert names[-1] == CODEC


def test_no_filter_of_a_cluster_sends_answers_to_a_worker(monkeypatch: pytest.MonkeyPatch) -> None:
    """Envoy 1.40 crashes on large answers to slow readers where one does."""
    monkeypatch.setattr(upstream, "DIRECTIONS", {(Surface.CHAT, dialect): None for dialect in Dialect})
    gateway = _gateway({dialect.value: {"dialect": dialect, "url": "http://h"} for dialect in Dialect})
    files = render(gateway, LAYOUT)
    for dialect in Dialect:
        filters = _attempt_filters(files, dialect.value)
        (translation,) = [entry for entry in filters if "ext_proc" in json.dumps(entry["typed_config"])]
        assert translation["name"] == contract.TRANSLATION_FILTER != contract.POLICY_FILTER
        processor = translation["typed_config"]["extension_config"]["typed_config"]
        assert processor["processing_mode"] == {
            "request_header_mode": "SEND", "request_body_mode": "BUFFERED", "response_header_mode": "SKIP",
        }  # fmt: skip
        assert not {"allow_mode_override", "failure_mode_allow"} & processor.keys()
        told = {entry["key"]: entry["value"] for entry in processor["grpc_service"]["initial_metadata"]}
        cluster = contract.cluster_of(dialect.value)
        cap = "max_completion_tokens" if dialect is Dialect.AZURE else "max_tokens"
        assert told == {
            contract.CLUSTER_KEY: cluster, contract.DIALECT_KEY: dialect.value, contract.CAP_KEY: cap,
        }  # fmt: skip


@pytest.mark.parametrize("text", ["yes", "No", "ON", "off", "y", "n", "true", "null", "010", "1_000", "1e3"])
def test_a_text_is_a_text_for_envoy_too(text: str) -> None:
    """It reads YAML 1.1, in which more words are truths and numbers."""
    rendered = render(_gateway({"plain": {**PLAIN["plain"], "headers": {"x-own": text}}}), LAYOUT)["clusters.yaml"]
    reader = YAML(typ="safe")
    reader.version = (1, 1)
    values = re.findall(r"^ *value: (.*)$", rendered, re.MULTILINE)
    assert text in [reader.load(value) for value in values]


def test_nobody_waits_for_the_name_of_a_team() -> None:
    named = Backend.model_validate({"dialect": "openai", "url": "https://llm.example.com"})
    brought = {"finance": TeamBackends(backends={"ours": named})}
    gateway = _gateway({"plain": {**PLAIN["plain"], "url": "http://name"}}).model_copy(
        update={"team_backends": brought}
    )
    found = _resources(render(gateway, LAYOUT), "clusters.yaml")
    assert found["resolved_finance.ours"]["wait_for_warm_on_init"] is False
    assert found["resolved_plain"]["wait_for_warm_on_init"] is True


@pytest.mark.parametrize("text", ["0X1f", "-0XFF", "+0X0"])
def test_a_number_of_envoys_alone_is_quoted(text: str) -> None:
    """It takes these for numbers, and no other reader does."""
    rendered = render(_gateway({"plain": {**PLAIN["plain"], "headers": {"x-own": text}}}), LAYOUT)["clusters.yaml"]
    assert f"value: '{text}'\n" in rendered


def test_without_a_credential_none_is_injected(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(upstream, "DIRECTIONS", {})
    cluster = _resources(render(_gateway(PLAIN), LAYOUT), "clusters.yaml")["backend_plain"]
    (options,) = cluster["typed_extension_protocol_options"].values()
    assert [entry["name"] for entry in options["http_filters"]] == ["sluice.attempt_headers", "sluice.rewrite", CODEC]


def test_each_worker_is_an_endpoint() -> None:
    cluster = _resources(render(_gateway(PLAIN), LAYOUT), "clusters.yaml")[contract.EXTPROC_CLUSTER]
    (group,) = cluster["load_assignment"]["endpoints"]
    paths = [entry["endpoint"]["address"]["pipe"]["path"] for entry in group["lb_endpoints"]]
    assert paths == ["w0.sock", "w1.sock"]


@pytest.mark.parametrize(
    ("url", "tls", "host", "port", "authority"),
    [
        ("http://localhost:8090/v1", False, "localhost", 8090, "localhost:8090"),
        ("http://svc:80", False, "svc", 80, "svc"),
        ("https://API.openai.com/v1", True, "api.openai.com", 443, "api.openai.com"),
        ("https://host:80", True, "host", 80, "host:80"),
        ("https://[2001:db8::1]:9443", True, "2001:db8::1", 9443, "[2001:db8::1]:9443"),
        ("http://10.0.0.1", False, "10.0.0.1", 80, "10.0.0.1"),
    ],
)
def test_the_origin_of_a_url(url: str, tls: bool, host: str, port: int, authority: str) -> None:
    origin = Origin.of(url)
    assert origin == Origin(tls, host, port)
    assert origin.authority == authority


@given(
    tls=st.booleans(),
    host=st.from_regex(r"[a-z0-9]([a-z0-9-]{0,20}[a-z0-9])?", fullmatch=True) | st.ip_addresses().map(str),
    port=st.integers(1, 65535),
)
def test_an_authority_leads_back_to_its_origin(tls: bool, host: str, port: int) -> None:
    origin = Origin(tls, host, port)
    url = f"{'https' if tls else 'http'}://{origin.authority}"
    assert Origin.of(url) == origin
    assert urlsplit(url).port in (None, port)


@pytest.mark.parametrize(
    ("url", "kind", "sni", "names"),
    [
        ("https://api.openai.com:8443", "STRICT_DNS", "api.openai.com", []),
        ("https://10.0.0.1", None, None, [{"san_type": "IP_ADDRESS", "matcher": {"exact": "10.0.0.1"}}]),
    ],
)
def test_tls_checks_the_name_that_the_url_gives(
    url: str, kind: str | None, sni: str | None, names: list[object]
) -> None:
    cluster = _resources(render(_gateway({"b": {"dialect": "openai", "url": url}}), LAYOUT), "clusters.yaml")
    backend = cluster.get("resolved_b") or cluster["backend_b"]
    context = backend["transport_socket"]["typed_config"]
    trust = context["common_tls_context"]["validation_context"]
    assert backend.get("type", "STATIC") == (kind or "STATIC")
    assert context.get("sni") == sni
    assert context.get("auto_sni_san_validation", False) is (sni is not None)
    assert trust.get("match_typed_subject_alt_names", []) == names
    assert trust["trusted_ca"]


def test_behind_the_addresses_of_a_name_there_is_a_way_to_the_next_backend() -> None:
    """Filters are run of the cluster that is ordered, and connections made by the one that has the addresses."""
    health = {"path": "/health", "interval": "5s"}
    gateway = _gateway({"b": {"dialect": "openai", "url": "https://h.example", "health": health}})
    clusters = _resources(render(gateway, LAYOUT), "clusters.yaml")
    ordered, resolved, unresolved = (clusters[f"{kind}_b"] for kind in ("backend", "resolved", "unresolved"))
    assert ordered["cluster_type"]["typed_config"]["clusters"] == ["resolved_b", "unresolved_b"]
    assert not {"transport_socket", "health_checks", "load_assignment"} & ordered.keys()
    assert {"transport_socket", "health_checks", "upstream_connection_options"} <= resolved.keys()
    (options,) = resolved["typed_extension_protocol_options"].values()
    assert "http_filters" not in options
    assert resolved["load_assignment"]["policy"] == {"overprovisioning_factor": 100_000}
    (group,) = unresolved["load_assignment"]["endpoints"]
    address = group["lb_endpoints"][0]["endpoint"]["address"]
    assert address == {"envoy_internal_address": {"server_listener_name": contract.UNRESOLVED_LISTENER}}
    for cluster in (ordered, resolved, unresolved):
        (limits,) = cluster["circuit_breakers"]["thresholds"]
        assert min(limits[f"max_{kind}"] for kind in ("connections", "pending_requests", "requests", "retries")) > 10**5


@pytest.mark.parametrize("url", ["http://10.0.0.1", "http://[::1]:8080"])
def test_a_backend_that_is_an_address_is_one_cluster(url: str) -> None:
    clusters = _resources(render(_gateway({"b": {"dialect": "openai", "url": url}}), LAYOUT), "clusters.yaml")
    assert clusters.keys() == {contract.EXTPROC_CLUSTER, contract.SINK_CLUSTER, contract.cluster_of("b")}


@pytest.mark.parametrize("name", ["a", "x_y", "backend_", "unresolved_b", "team.ours"])
def test_every_cluster_of_a_backend_names_it(name: str) -> None:
    named = [contract.cluster_of(name), contract.resolved_cluster_of(name), contract.unresolved_cluster_of(name)]
    assert [contract.backend_of(cluster) for cluster in named] == [name] * 3
    assert [contract.is_unresolved(cluster) for cluster in named] == [False, False, True]


@pytest.mark.parametrize("cluster", ["", "sink", "extproc", "unresolved", "backend", "jwks_a", "service_a"])
def test_a_cluster_of_our_own_names_no_backend(cluster: str) -> None:
    assert contract.backend_of(cluster) is None
    assert not contract.is_unresolved(cluster)


# --- listener and routes -------------------------------------------------------------------------------


def test_no_route_to_a_cluster_goes_round_the_policy() -> None:
    """The filter is off where a route does not name it."""
    (host,) = _resources(render(_gateway(PLAIN), LAYOUT), "routes.yaml")["gateway"]["virtual_hosts"]
    calls = [route for route in host["routes"] if "route" in route]
    assert len(calls) == 2
    for route in calls:
        modes = route["typed_per_filter_config"][contract.POLICY_FILTER]["overrides"]["processing_mode"]
        assert modes["request_body_mode"] in ("BUFFERED", "FULL_DUPLEX_STREAMED")
        specifier = route["route"]["inline_cluster_specifier_plugin"]["extension"]["typed_config"]
        assert specifier["override_metadata_namespace"] == contract.ORDER
        (default,) = specifier["priority_groups"]
        assert default["clusters"] == [{"cluster_name": contract.SINK_CLUSTER, "weight": 1}]


@pytest.mark.parametrize(
    ("prefix", "matched"),
    [
        (None, ["/v1/images/edits", "/openai/deployments/d/audio/translations"]),
        ("/low.1", ["/v1/images/edits", "/low.1/v1/images/edits", "/low.1/openai/v1/audio/transcriptions"]),
    ],
)
def test_uploads_are_told_by_their_path_and_behind_the_prefix(prefix: str | None, matched: list[str]) -> None:
    files = render(_gateway(PLAIN, listener={"low_priority_prefix": prefix}), LAYOUT)
    (host,) = _resources(files, "routes.yaml")["gateway"]["virtual_hosts"]
    (regex,) = [route["match"]["safe_regex"]["regex"] for route in host["routes"] if "safe_regex" in route["match"]]
    others = ["/low.1/v1/chat/completions", "/lowX1/v1/images/edits", "/low.1/low.1/v1/images/edits", "/low.1"]
    assert [path for path in [*matched, *others] if re.fullmatch(regex, path)] == matched


def test_of_an_answer_in_duplex_little_waits_for_a_worker() -> None:
    cluster = _resources(render(_gateway(PLAIN), LAYOUT), "clusters.yaml")["extproc"]
    (options,) = cluster["typed_extension_protocol_options"].values()
    http2 = options["explicit_http_config"]["http2_protocol_options"]
    assert http2 == {"initial_stream_window_size": 2**20}


def test_no_two_filters_share_a_name() -> None:
    """Envoy applies a route's override to every filter of that name, those of the clusters too."""
    gateway = _gateway({"b": {"dialect": "openai", "url": "http://h", "credential": {"env": "KEY"}}})
    files = render(gateway, LAYOUT)
    (options,) = _resources(files, "clusters.yaml")["backend_b"]["typed_extension_protocol_options"].values()
    (network,) = _resources(files, "listeners.yaml")["gateway"]["filter_chains"][0]["filters"]
    names = [entry["name"] for entry in [*network["typed_config"]["http_filters"], *options["http_filters"]]]
    assert len(names) == len(set(names))
    assert names[3] == contract.POLICY_FILTER


def test_tls_and_proxies_reach_the_listener() -> None:
    listener = {"tls": {"certificate": "c.pem", "private_key": "k.pem"}, "trusted_proxies": 2}
    chain = _resources(render(_gateway(PLAIN, listener=listener), LAYOUT), "listeners.yaml")["gateway"][
        "filter_chains"
    ][0]
    tls = chain["transport_socket"]["typed_config"]["common_tls_context"]
    assert tls["tls_params"]["tls_minimum_protocol_version"] == "TLSv1_2"
    source = tls["tls_certificate_sds_secret_configs"][0]["sds_config"]["path_config_source"]
    assert source == {"path": "secrets/listener_tls.yaml", "watched_directory": {"path": "secrets"}}
    assert chain["filters"][0]["typed_config"]["xff_num_trusted_hops"] == 2


def test_the_admin_interface_is_a_socket_file() -> None:
    admin = YAML(typ="safe").load(render(_gateway(PLAIN), LAYOUT)["bootstrap.yaml"])["admin"]
    assert admin == {"address": {"pipe": {"path": "admin.sock", "mode": 0o600}}}


EVERY_DOOR = {
    "allowed_ips": ["10.0.0.0/8", "2001:db8::7"],
    "cors": {"origins": ["https://Chat.example.com", "https://*.example.com:8443", "*"], "max_age": "90s"},
}
ISSUERS: dict[str, dict[str, object]] = {
    "corp": {"issuer": "https://issuer.test/", "audiences": ["sluice"], "jwks_url": "https://issuer.test:8443/keys"},
    "file": {"issuer": "local", "audiences": ["a", "b"], "jwks_file": "/keys.json", "clock_skew": "100ms"},
}


def _filters(files: dict[str, str]) -> dict[str, Any]:
    """The filters of the listener by name, in order."""
    (network,) = _resources(files, "listeners.yaml")["gateway"]["filter_chains"][0]["filters"]
    return {entry["name"]: entry["typed_config"] for entry in network["typed_config"]["http_filters"]}


def test_envoy_refuses_calls_near_the_memory_that_it_may_hold() -> None:
    tree = YAML(typ="safe").load(render(_gateway(PLAIN, limits={"envoy_heap": "300MiB"}), LAYOUT)["bootstrap.yaml"])
    heap, *_ = tree["overload_manager"]["resource_monitors"]
    assert int(heap["typed_config"]["max_heap_size_bytes"]) == 300 * 2**20


def test_the_doors_stand_in_the_order_in_which_they_must_be_passed() -> None:
    files = render(_gateway(PLAIN, listener=EVERY_DOOR, identity={"issuers": ISSUERS}), LAYOUT)
    assert list(_filters(files)) == [
        "sluice.client_headers",
        "sluice.cors",
        "sluice.addresses",
        "sluice.json_size",
        "sluice.multipart_size",
        "sluice.tokens",
        contract.POLICY_FILTER,
        "envoy.filters.http.router",
    ]


def test_no_door_stands_where_none_is_asked_for() -> None:
    files = render(_gateway(PLAIN), LAYOUT)
    assert _filters(files).keys().isdisjoint({"sluice.cors", "sluice.addresses", "sluice.tokens"})
    assert "forwarding_namespaces" not in _filters(files)[contract.POLICY_FILTER]["metadata_options"]
    (host,) = _resources(files, "routes.yaml")["gateway"]["virtual_hosts"]
    assert "typed_per_filter_config" not in host


def test_each_issuer_is_a_provider_whose_tokens_need_a_header() -> None:
    files = render(_gateway(PLAIN, identity={"issuers": ISSUERS}), LAYOUT)
    filters = _filters(files)
    providers = filters["sluice.tokens"]["providers"]
    assert filters["sluice.tokens"]["rules"] == [
        {"match": {"prefix": "/"}, "requires": {"allow_missing_or_failed": {}}}
    ]
    assert providers.keys() == ISSUERS.keys()
    for name, provider in providers.items():
        assert provider["payload_in_metadata"] == name
        assert provider["header_in_metadata"] == contract.token_header_of(name)
        assert provider["failed_status_in_metadata"] == contract.token_failure_of(name)
        prefixes = [header["value_prefix"] for header in provider["from_headers"]]
        assert prefixes == ["Bearer ", "bearer "]
        assert provider["require_expiration"] is True
        assert provider["forward"] is True
    options = filters[contract.POLICY_FILTER]["metadata_options"]
    assert options["forwarding_namespaces"] == {"untyped": [contract.TOKENS]}


def test_an_issuers_keys_come_by_a_cluster_of_its_own_or_from_a_file() -> None:
    files = render(_gateway(PLAIN, identity={"issuers": ISSUERS}), LAYOUT)
    providers = _filters(files)["sluice.tokens"]["providers"]
    remote = providers["corp"]["remote_jwks"]
    assert remote["http_uri"]["cluster"] == contract.jwks_cluster_of("corp")
    assert remote["cache_duration"] == "305s"  # fetched again 5 s before
    assert providers["file"]["local_jwks"] == {"filename": f"{LAYOUT.secrets_dir}/jwks_file.json"}
    assert providers["file"]["clock_skew_seconds"] == 1  # of 0, Envoy makes its own 60
    clusters = _resources(files, "clusters.yaml")
    assert contract.jwks_cluster_of("file") not in clusters
    cluster = clusters[contract.jwks_cluster_of("corp")]
    assert cluster["circuit_breakers"] == {"thresholds": [{"max_pending_requests": 1, "max_requests": 1}]}
    assert cluster["transport_socket"]["typed_config"]["sni"] == "issuer.test"
    (options,) = cluster["typed_extension_protocol_options"].values()
    assert [entry["name"] for entry in options["http_filters"]] == ["sluice.pace", CODEC]


def test_pages_are_told_what_the_configuration_says() -> None:
    (host,) = _resources(render(_gateway(PLAIN, listener=EVERY_DOOR), LAYOUT), "routes.yaml")["gateway"][
        "virtual_hosts"
    ]
    policy = host["typed_per_filter_config"]["sluice.cors"]
    origins = r"https://chat\.example\.com|https://([a-z0-9-]+[.])+example\.com:8443|.*"
    assert policy["allow_origin_string_match"] == [{"safe_regex": {"regex": origins}}]
    assert policy["max_age"] == "90"
    assert "allow_credentials" not in policy
    preflight = host["routes"][0]
    assert preflight["route"] == {"cluster": contract.SINK_CLUSTER}
    assert "typed_per_filter_config" not in preflight  # so the policy is off


def test_addresses_are_ranges_and_probes_are_exempt() -> None:
    files = render(_gateway(PLAIN, listener=EVERY_DOOR), LAYOUT)
    policies = _filters(files)["sluice.addresses"]["rules"]["policies"]
    assert policies["clients"]["principals"] == [
        {"remote_ip": {"address_prefix": "10.0.0.0", "prefix_len": 8}},
        {"remote_ip": {"address_prefix": "2001:db8::7", "prefix_len": 128}},
    ]
    paths = [rule["url_path"]["path"]["exact"] for rule in policies["probes"]["permissions"][0]["or_rules"]["rules"]]
    assert paths == ["/healthz", "/readyz"]


@pytest.mark.parametrize("required", [True, False])
def test_clients_certificates_reach_the_listener(required: bool) -> None:
    clients = {"authority": "ca.pem", "required": required}
    tls = {"certificate": "c.pem", "private_key": "k.pem", "client_certificates": clients}
    files = render(_gateway(PLAIN, listener={"tls": tls}), LAYOUT)
    (chain,) = _resources(files, "listeners.yaml")["gateway"]["filter_chains"]
    context = chain["transport_socket"]["typed_config"]
    assert context["require_client_certificate"] is required
    source = context["common_tls_context"]["validation_context_sds_secret_config"]["sds_config"]["path_config_source"]
    assert source == {"path": "secrets/listener_clients.yaml", "watched_directory": {"path": "secrets"}}


def test_only_a_backend_that_wants_it_gets_the_identity() -> None:
    backends: dict[str, dict[str, object]] = {
        "told": {"dialect": "openai", "url": "http://h", "identity_header": True},
        **PLAIN,
    }
    gateway = _gateway(backends, identity={"signing_key": {"env": "KEY"}})
    clusters = _resources(render(gateway, LAYOUT), "clusters.yaml")
    for name, wanted in (("told", True), ("plain", False)):
        (options,) = clusters[contract.cluster_of(name)]["typed_extension_protocol_options"].values()
        mutations = options["http_filters"][0]["typed_config"]["mutations"]["request_mutations"]
        set_here = [entry["append"]["header"]["key"] for entry in mutations if "append" in entry]
        assert (contract.IDENTITY_HEADER in set_here) is wanted
        cleared = next(
            number for number, entry in enumerate(mutations) if "x-sluice-" in str(entry.get("remove_on_match"))
        )
        if wanted:
            assert cleared < next(number for number, entry in enumerate(mutations) if "identity" in str(entry))


# --- services ------------------------------------------------------------------------------------------

SERVICES: dict[str, dict[str, object]] = {
    "judge": {"api": "openai-moderation", "url": "https://api.openai.com/v1", "credential": {"env": "KEY"}},
    "azure": {"api": "azure-content-safety", "url": "https://c.example", "credential": {"env": "KEY"}},
    "names": {"api": "presidio", "url": "http://10.0.0.1:5002/deep/v1/", "credential": {"env": "KEY"}},
    "open": {"api": "presidio", "url": "http://presidio"},
    "vectors": {"api": "openai-embeddings", "url": "https://api.openai.com/v1", "credential": {"env": "KEY"}},
}


def _services_manager(files: dict[str, str]) -> dict[str, Any]:
    (network,) = _resources(files, "listeners.yaml")["services"]["filter_chains"][0]["filters"]
    manager: dict[str, Any] = network["typed_config"]
    return manager


def test_without_services_there_is_no_way_to_any() -> None:
    files = render(_gateway(PLAIN), LAYOUT)
    assert _resources(files, "listeners.yaml").keys() == {"gateway", "sink", "unresolved"}
    assert not [name for name in _resources(files, "clusters.yaml") if name.startswith("service_")]


def test_services_are_asked_over_a_socket_of_the_owner_beside_those_of_the_workers() -> None:
    layout = Layout("conf", "secrets", ("run/worker-0.sock", "run/worker-1.sock"), "admin.sock")
    listener = _resources(render(_gateway(PLAIN, services=SERVICES), layout), "listeners.yaml")["services"]
    assert listener["address"] == {"pipe": {"path": "run/services.sock", "mode": 0o600}}
    assert listener["ignore_global_conn_limit"] is True


def test_each_service_has_a_route_to_its_own_cluster_and_none_to_another() -> None:
    files = render(_gateway(PLAIN, services=SERVICES, timeouts={"policy_longest": "20s"}), LAYOUT)
    manager = _services_manager(files)
    (host,) = manager["route_config"]["virtual_hosts"]
    routes = {route["match"]["prefix"]: route["route"] for route in host["routes"]}
    assert {prefix: route["cluster"] for prefix, route in routes.items()} == {
        f"/{name}/": contract.service_cluster_of(name) for name in SERVICES
    }
    assert [route["prefix_rewrite"] for route in routes.values()] == ["/", "/", "/deep/v1/", "/", "/"]
    assert {route["timeout"] for route in routes.values()} == {"20s"}
    retries = [(route["retry_policy"]["retry_on"], route["retry_policy"]["num_retries"]) for route in routes.values()]
    assert set(retries) == {("connect-failure,reset-before-request", 1)}
    assert "access_log" not in manager


@pytest.mark.parametrize(
    ("name", "header", "prefix"),
    [
        ("judge", "authorization", "Bearer "),
        ("azure", "ocp-apim-subscription-key", None),
        ("names", "authorization", "Bearer "),
        ("open", None, None),
        ("vectors", "authorization", "Bearer "),
    ],
)
def test_a_service_is_shown_its_credential_and_what_it_needs(name: str, header: str | None, prefix: str | None) -> None:
    clusters = _resources(render(_gateway(PLAIN, services=SERVICES), LAYOUT), "clusters.yaml")
    cluster = clusters[contract.service_cluster_of(name)]
    (options,) = cluster["typed_extension_protocol_options"].values()
    filters = {entry["name"]: entry["typed_config"] for entry in options["http_filters"]}
    if header is None:
        assert list(filters) == ["sluice.allowed_headers", CODEC]
        return
    assert list(filters) == ["sluice.allowed_headers", "sluice.credential", CODEC]
    generic = filters["sluice.credential"]["credential"]["typed_config"]
    assert (generic["header"], generic.get("header_value_prefix")) == (header, prefix)
    source = generic["credential"]["sds_config"]["path_config_source"]["path"]
    assert re.fullmatch(rf"secrets/{contract.service_cluster_of(name)}-[0-9a-f]{{8}}\.yaml", source)
    assert ("transport_socket" in cluster) is (name != "names")


def test_a_decision_may_be_given_more_time() -> None:
    for times, most in (({}, "30s"), ({"policy_longest": "45s"}, "45s"), ({"policy": "50s"}, "50s")):
        processor = _filters(render(_gateway(PLAIN, timeouts=times), LAYOUT))[contract.POLICY_FILTER]
        assert processor["max_message_timeout"] == most


# --- secrets -------------------------------------------------------------------------------------------


def test_secrets_stand_in_their_own_files_only(tmp_path: Path) -> None:
    key = tmp_path / "key"
    key.write_text("from-a-file\n")
    backends: dict[str, dict[str, object]] = {
        "env": {"dialect": "openai", "url": "http://a", "credential": {"env": "KEY"}},
        "file": {"dialect": "openai", "url": "http://a", "credential": {"file": str(key)}},
    }
    gateway = _gateway(backends | PLAIN, services=SERVICES)
    directory = tmp_path / "secrets"
    directory.mkdir(mode=0o755)
    write_secrets(gateway, {"KEY": "from-the-environment"}, directory)
    assert stat.S_IMODE(directory.stat().st_mode) == 0o700
    texts = {path.stem.rpartition("-")[0]: path.read_text() for path in directory.iterdir()}
    services = {f"service_{name}" for name in ("judge", "azure", "names", "vectors")}
    assert texts.keys() == {"backend_env", "backend_file", *services}
    assert {stat.S_IMODE(path.stat().st_mode) for path in directory.iterdir()} == {0o600}
    assert "from-the-environment" in texts["backend_env"]
    assert "from-a-file" in texts["backend_file"]
    assert str(key) not in texts["backend_file"]
    everything = "".join(render(gateway, LAYOUT).values())
    assert "from-a-file" not in everything
    assert "from-the-environment" not in everything


@pytest.mark.parametrize(
    ("source", "problem"),
    [
        ({"env": "UNSET"}, "the environment variable UNSET is not set"),
        ({"env": "EMPTY"}, "the environment variable EMPTY is empty"),
        ({"env": "BROKEN"}, "the environment variable BROKEN holds a space, a line break"),
        ({"file": "/nowhere/key"}, "the file /nowhere/key cannot be read (No such file"),
        ({"file": "/"}, "the file / cannot be read"),
    ],
)
def test_a_secret_that_is_not_there_is_named(tmp_path: Path, source: dict[str, str], problem: str) -> None:
    gateway = _gateway({"swe": {"dialect": "openai", "url": "http://a", "credential": source}})
    with pytest.raises(CredentialError) as caught:
        write_secrets(gateway, {"EMPTY": "", "BROKEN": "hidden\r\nx-evil: 1"}, tmp_path / "secrets")
    assert str(caught.value).startswith(f"backends.swe.credential: {problem}")
    assert "hidden" not in str(caught.value)
    assert not (tmp_path / "secrets").exists()


def test_every_missing_secret_is_named_at_once(tmp_path: Path) -> None:
    backends: dict[str, dict[str, object]] = {
        name: {"dialect": "openai", "url": "http://a", "credential": {"env": name.upper()}} for name in ("a", "b")
    }
    clients = {"authority": "/nowhere/ca"}
    tls = {"certificate": "/nowhere/c", "private_key": "/nowhere/k", "client_certificates": clients}
    identity = {"issuers": {"corp": {"issuer": "i", "audiences": ["a"], "jwks_file": "/nowhere/keys"}}}
    gateway = _gateway(backends, listener={"tls": tls}, identity=identity, services=SERVICES)
    with pytest.raises(CredentialError) as caught:
        write_secrets(gateway, {}, tmp_path)
    places = [line.split(":")[0] for line in str(caught.value).splitlines()]
    assert places == [
        "backends.a.credential",
        "backends.b.credential",
        "services.judge.credential",
        "services.azure.credential",
        "services.names.credential",
        "services.vectors.credential",
        "listener.tls.certificate",
        "listener.tls.private_key",
        "listener.tls.client_certificates.authority",
        "identity.issuers.corp.jwks_file",
    ]


@pytest.fixture(scope="module")
def pairs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Certificates and keys: `ours` belong together; `sealed` is a key that wants a password."""
    folder = tmp_path_factory.mktemp("pairs")
    request = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-subj", "/CN=a"]
    for name, seal in (("ours", ["-nodes"]), ("theirs", ["-nodes"]), ("sealed", ["-passout", "pass:secret"])):
        words = [*request, *seal, "-out", f"{name}.crt", "-keyout", f"{name}.key"]
        subprocess.run(words, cwd=folder, check=True, capture_output=True, timeout=60)
    (folder / "torn.crt").write_text((folder / "ours.crt").read_text()[:80])
    return {file.name: str(file) for file in folder.iterdir()}


@pytest.mark.parametrize(
    ("certificate", "key", "clients", "problem"),
    [
        ("ours.crt", "ours.key", "theirs.crt", ""),
        ("ours.crt", "theirs.key", "theirs.crt", "listener.tls: "),
        ("torn.crt", "ours.key", "theirs.crt", "listener.tls: "),
        ("sealed.crt", "sealed.key", "theirs.crt", "listener.tls: "),
        ("ours.crt", "ours.key", "torn.crt", "listener.tls.client_certificates.authority: "),
        ("ours.crt", "ours.key", "ours.key", "listener.tls.client_certificates.authority: "),
    ],
)
def test_files_of_tls_that_envoy_would_refuse_in_silence_are_named(
    pairs: dict[str, str], certificate: str, key: str, clients: str, problem: str
) -> None:
    authority = {"authority": pairs[clients]}
    tls = {"certificate": pairs[certificate], "private_key": pairs[key], "client_certificates": authority}
    told = credential_problems(_gateway(PLAIN, listener={"tls": tls}), {})
    assert [line[: len(problem)] for line in told] == ([problem] if problem else [])


def test_issuers_keys_are_copied_to_where_envoy_looks(tmp_path: Path) -> None:
    keys = tmp_path / "keys.json"
    keys.write_text('{"keys": []}')
    identity = {"issuers": {"corp": {"issuer": "i", "audiences": ["a"], "jwks_file": str(keys)}}}
    write_secrets(_gateway(PLAIN, identity=identity), {}, tmp_path / "secrets")
    assert (tmp_path / "secrets" / "jwks_corp.json").read_text() == '{"keys": []}'


# --- headers of clients --------------------------------------------------------------------------------


def test_clients_set_no_header_of_ours_but_those_in_which_they_ask_or_tell() -> None:
    found = re.search(r"regex: (x-sluice-\S+)", render(_gateway(PLAIN), LAYOUT)["listeners.yaml"])
    assert found is not None
    ours = [name for name in vars(contract).values() if isinstance(name, str) and name.startswith("x-sluice-")]
    assert len(ours) > 8
    assert [name for name in (*ours, "x-sluice-tags", "x-sluice-t-x") if not re.fullmatch(found[1], name)] == []
    theirs = ("x-sluice-cache", "x-sluice-cache-ttl", "x-sluice-tag-repository")
    assert [name for name in theirs if re.fullmatch(found[1], name)] == []


# --- files ---------------------------------------------------------------------------------------------


def test_a_file_is_replaced_whole_or_not_at_all(tmp_path: Path) -> None:
    write({"a.yaml": "old"}, tmp_path)
    before = (tmp_path / "a.yaml").stat().st_ino
    write({"a.yaml": "new"}, tmp_path)
    assert (tmp_path / "a.yaml").read_text() == "new"
    assert (tmp_path / "a.yaml").stat().st_ino != before
    with pytest.raises(UnicodeEncodeError):
        write({"a.yaml": "half \ud800"}, tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["a.yaml"]
    assert (tmp_path / "a.yaml").read_text() == "new"
