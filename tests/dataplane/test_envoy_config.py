"""The rendered files in the real Envoy, with a scripted policy server and scripted providers."""

import asyncio
import json
import ssl
import subprocess
import tempfile
from collections.abc import AsyncIterator, Callable, Mapping
from pathlib import Path

import pytest
from envoy_data_plane.envoy.extensions.filters.http.ext_proc.v3 import ProcessingModeBodySendMode
from ruamel.yaml import YAML

from extproc import contract
from extproc.config.schema import Gateway
from extproc.dataplane import clusters, render, write, write_for_validation, write_secrets
from extproc.secrets import sds
from tests.support.scripted import (
    ANSWER_CAP,
    ENVOY,
    JSON_CAP,
    KEYS,
    MULTIPART_CAP,
    A,
    B,
    Plan,
    Running,
    eventually,
    layout_in,
    running_gateway,
)

ROOT = Path(__file__).parents[2]
QUICKSTART = ROOT / "examples/quickstart/gateway.yaml"
CHAT = "/v1/chat/completions"
UPLOAD = "/v1/audio/transcriptions"


@pytest.fixture
async def gateway(tmp_path: Path) -> AsyncIterator[Running]:
    async with running_gateway(tmp_path) as running:
        yield running


# --- configurations that Envoy must take ---------------------------------------------------------------

LARGE = {
    "listener": {
        "address": "0.0.0.0",
        "port": 8443,
        "tls": {"certificate": "/run/tls/tls.crt", "private_key": "/run/tls/tls.key"},
        "trusted_proxies": 1,
    },
    "workers": 3,
    "backends": {
        "swe": {
            "dialect": "azure-openai",
            "url": "https://swe.openai.azure.com",
            "api_version": "2024-10-21",
            "credential": {"file": "/run/secrets/swe"},
        },
        "0-odd--name-": {
            "dialect": "anthropic",
            "url": "https://api.anthropic.com:8443/prefix",
            "credential": {"env": "CLAUDE"},
        },
        "v6": {"dialect": "openai", "url": "https://[2001:db8::1]:9443/v1"},
        "kaito": {"dialect": "openai", "url": "http://workspace-phi-4.models.svc:80"},
    },
    "models": {"m": {"targets": [[{"backend": "swe"}], [{"backend": "kaito", "model": "phi-4"}]]}},
}


def _validate(path: Path) -> "subprocess.CompletedProcess[str]":
    command = [str(ENVOY), "--mode", "validate", "-l", "error", "-c", str(path)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)


@pytest.mark.parametrize("tree", [YAML(typ="safe").load(QUICKSTART), LARGE], ids=["quickstart", "large"])
def test_envoy_takes_the_whole_configuration(tree: dict[str, object], tmp_path: Path) -> None:
    result = _validate(write_for_validation(Gateway.model_validate(tree), layout_in(tmp_path), tmp_path))
    assert result.returncode == 0, result.stderr


def test_validation_looks_at_listeners_and_clusters(tmp_path: Path) -> None:
    path = write_for_validation(Gateway.model_validate(LARGE), layout_in(tmp_path), tmp_path)
    good = path.read_text()
    for valid, broken in (("normalize_path: true", "normalize_path: 7"), ("lb_policy: LEAST_REQUEST", "lb_policy: X")):
        assert valid in good
        path.write_text(good.replace(valid, broken))
        assert _validate(path).returncode != 0, broken


def test_the_checked_in_bootstrap_is_valid_as_it_stands() -> None:
    result = _validate(ROOT / "envoy/quickstart/bootstrap.yaml")
    assert result.returncode == 0, result.stderr


# --- the edge ------------------------------------------------------------------------------------------

UPGRADE = (
    "connection: Upgrade\r\nupgrade: websocket\r\nsec-websocket-version: 13\r\n"
    "sec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
)


async def test_websocket_is_426(gateway: Running) -> None:
    answer = await gateway.get("/v1/responses", UPGRADE)
    assert answer.status == 426
    assert answer.error["code"] == "websocket_not_served"
    assert "HTTP" in str(answer.error["message"])
    assert json.loads(answer.body)["request_id"] == answer.headers["x-request-id"]
    assert [seen.phase for seen in gateway.policy.seen] == ["response_headers"]
    assert gateway.policy.seen[0].attributes["response.code_details"] == "upgrade_failed"


async def test_health_needs_no_policy(gateway: Running) -> None:
    answer = await gateway.get("/healthz?x=1")
    assert (answer.status, answer.body) == (200, b"ok\n")
    assert not gateway.policy.seen


async def test_internal_headers_of_clients_are_removed(gateway: Running) -> None:
    spoofed = (
        "X-Sluice-Routed: 1\r\nx-sluice-team: admins\r\nX-SLUICE-anything: 1\r\nx-request-id: mine\r\n"
        "x-envoy-max-retries: 9\r\nx-envoy-upstream-rq-timeout-ms: 1\r\nx-envoy-retry-on: 5xx\r\n"
        "x-envoy-external-address: 6.6.6.6\r\nx-envoy-internal: true\r\n"
    )
    assert (await gateway.get("/v1/models", spoofed)).status == 200
    seen = gateway.policy.last("request_headers").headers
    internal = {name: value for name, value in seen.items() if name.startswith(("x-sluice-", "x-envoy-"))}
    assert internal == {"x-envoy-external-address": "127.0.0.1"}
    assert seen["x-request-id"] != "mine"


async def test_nothing_foreign_reaches_a_provider(gateway: Running) -> None:
    headers = "".join(f"{name}: theirs\r\n" for name in contract.CREDENTIAL_HEADERS)
    kept = "anthropic-version: 2023-06-01\r\nanthropic-beta: b\r\n"
    encoding = "accept-encoding: gzip, br\r\nx-forwarded-host: inside.example\r\n"
    assert (await gateway.post(CHAT, b"{}", headers + kept + encoding)).status == 200
    received = gateway.a.received[-1].headers
    assert received.pop("x-request-id")
    assert received == {
        "host": f"127.0.0.1:{gateway.a.port}",
        "authorization": "Bearer secret-a",
        "content-length": "2",
        "accept-encoding": "identity",
        "anthropic-version": "2023-06-01",
        "anthropic-beta": "b",
    }


async def test_nothing_of_ours_comes_from_a_provider(gateway: Running) -> None:
    gateway.a.extra_headers = (
        "x-sluice-team: a\r\nx-envoy-upstream-service-time: 3\r\nset-cookie: a=b\r\nalt-svc: h3\r\nx-ratelimit: 7\r\n"
    )
    answer = await gateway.post(CHAT, b"{}")
    assert answer.headers.keys() == {
        "content-type", "content-length", "date", "server", "x-request-id", "x-ratelimit",
    }  # fmt: skip
    assert answer.headers["server"] == "sluice"


@pytest.mark.parametrize(
    ("sent", "seen"),
    [
        ("/v1//models", "/v1/models"),
        ("/v1/x/../models", "/v1/models"),
        ("/v1/%6dodels", "/v1/models"),
        ("/v1/models?next=%2f..%2f", "/v1/models?next=%2f..%2f"),
    ],
)
async def test_paths_have_one_spelling(gateway: Running, sent: str, seen: str) -> None:
    await gateway.get(sent)
    assert gateway.policy.last("request_headers").headers[":path"] == seen


HOST = b"host: gateway.test\r\n"


@pytest.mark.parametrize(
    ("request_bytes", "status", "code"),
    [
        (b"GET /v1%2fmodels HTTP/1.1\r\n" + HOST + b"\r\n", 400, "bad_request"),
        (b"GET /v1%5Cmodels HTTP/1.1\r\n" + HOST + b"\r\n", 400, "bad_request"),
        (b"GET /v1/models#f HTTP/1.1\r\n" + HOST + b"\r\n", 400, "bad_request"),
        (b"GET /v1/models HTTP/1.1\r\n" + HOST + b"x_sluice_team: a\r\n\r\n", 400, "bad_request"),
        (b"GET /v1/models HTTP/1.1\r\n" + HOST + b"no colon\r\n\r\n", 400, "bad_request"),
        (b"GET /v1/models HTTP/1.1\r\n\r\n", 400, "bad_request"),
        (b"GET /v1/models HTTP/1.0\r\n\r\n", 426, "bad_request"),
        (b"GET /v1/models HTTP/1.1\r\n" + HOST + b"a: 1\r\n" * 101 + b"\r\n", 431, "headers_too_large"),
        (b"GET /v1/models HTTP/1.1\r\n" + HOST + b"a: " + b"1" * 65_000 + b"\r\n\r\n", 431, "headers_too_large"),
        (
            b"POST /v1/models HTTP/1.1\r\n" + HOST + b"content-length: 3\r\ntransfer-encoding: chunked\r\n\r\n"
            b"0\r\n\r\n",
            400,
            "bad_request",
        ),
        (b"CONNECT a:1 HTTP/1.1\r\nhost: a:1\r\n\r\n", 404, "bad_request"),
    ],
)  # fmt: skip
async def test_broken_http_gets_an_answer_and_no_policy(
    gateway: Running, request_bytes: bytes, status: int, code: str
) -> None:
    answer = await gateway.raw(request_bytes)
    assert (answer.status, answer.error["code"]) == (status, code)
    assert not gateway.policy.seen


# --- bodies --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("chunked", [False, True], ids=["length", "chunked"])
@pytest.mark.parametrize(("path", "cap"), [(CHAT, JSON_CAP), (UPLOAD, MULTIPART_CAP)], ids=["json", "multipart"])
async def test_body_caps_are_exact(gateway: Running, path: str, cap: int, chunked: bool) -> None:
    assert (await gateway.post(path, b"x" * cap, chunked=chunked)).status == 200
    assert len(gateway.a.received[-1].body) == cap
    gateway.a.received.clear()
    answer = await gateway.post(path, b"x" * (cap + 1), chunked=chunked)
    assert (answer.status, answer.error["code"]) == (413, "request_too_large")
    assert not gateway.a.received
    refused = gateway.policy.last("response_headers")
    assert refused.attributes["response.code_details"] == "request_payload_too_large"
    assert refused.attributes["request.path"] == path


@pytest.mark.parametrize(
    "path",
    ["/v1/audio/translations", "/openai/v1/images/edits", "/openai/deployments/d/audio/transcriptions?api-version=x"],
)
async def test_uploads_stream_through(gateway: Running, path: str) -> None:
    answer = await gateway.post(path, b"x" * MULTIPART_CAP)
    assert answer.status == 200
    assert len([seen for seen in gateway.policy.seen if seen.phase == "request_body"]) > 1


@pytest.mark.parametrize(
    "path", ["/v1/audio/speech", "/V1/audio/translations", "/x/v1/images/edits", "/v1/images/edits/x"]
)
async def test_other_paths_are_read_whole(gateway: Running, path: str) -> None:
    await gateway.post(path, b"x" * JSON_CAP, chunked=True)
    assert [seen.phase for seen in gateway.policy.seen] == ["request_headers", "request_body", "response_headers"]


LOW = "/low.priority-1"


@pytest.fixture
async def prefixed(tmp_path: Path) -> AsyncIterator[Running]:
    async with running_gateway(tmp_path, listener={"low_priority_prefix": LOW}) as running:
        yield running


@pytest.mark.parametrize("start", ["", LOW])
@pytest.mark.parametrize(("path", "cap"), [(CHAT, JSON_CAP), (UPLOAD, MULTIPART_CAP)], ids=["json", "multipart"])
async def test_bodies_of_low_priority_have_the_caps_of_all_others(
    prefixed: Running, start: str, path: str, cap: int
) -> None:
    answer = await prefixed.post(start + path, b"x" * cap, chunked=True)
    assert answer.status == 200
    pieces = [seen for seen in prefixed.policy.seen if seen.phase == "request_body"]
    assert (len(pieces) > 1) is (path == UPLOAD)
    answer = await prefixed.post(start + path, b"x" * (cap + 1))
    assert (answer.status, answer.error["code"]) == (413, "request_too_large")


@pytest.mark.parametrize("start", ["/lowXpriority-1", LOW * 2, "/x" + LOW, LOW + "x"])
async def test_no_other_prefix_is_one(prefixed: Running, start: str) -> None:
    assert (await prefixed.post(start + UPLOAD, b"x" * (JSON_CAP + 1))).status == 413


async def test_the_largest_json_answer_is_read_whole(gateway: Running) -> None:
    gateway.policy.plan = Plan(answer_mode=ProcessingModeBodySendMode.BUFFERED)
    gateway.a.padding = ANSWER_CAP - len('{"status": 200}')
    answer = await gateway.post(CHAT, b"{}")
    assert (answer.status, len(answer.body)) == (200, ANSWER_CAP)
    assert [seen.phase for seen in gateway.policy.seen].count("response_body") == 1


# --- the order and the attempts ------------------------------------------------------------------------

BODY = b'{"model":"gpt-4o","messages":[]}'
SPAN = (10, 16)  # gpt-4o


async def test_no_order_ends_in_the_sink(gateway: Running) -> None:
    gateway.policy.plan = Plan(order=())
    answer = await gateway.post(CHAT, BODY)
    assert answer.status == contract.SINK_STATUS
    assert answer.error["type"] == "api_error"
    assert gateway.policy.last("response_headers").attributes["xds.cluster_name"] == contract.SINK_CLUSTER
    assert not gateway.a.received + gateway.b.received


@pytest.mark.parametrize("attempt", [1, 2])
@pytest.mark.parametrize("span", [SPAN, (16, 10), (10, 1000), (-1, 16)])
async def test_a_rewrite_that_fails_sends_nothing(gateway: Running, attempt: int, span: tuple[int, int]) -> None:
    path = {A: "/a"} if attempt == 2 else {}
    plan = Plan(order=(A, B) if attempt == 2 else (B,), path=path)
    if span != SPAN:
        plan = Plan(order=plan.order, model={B: "m"}, span=span)
    gateway.policy.plan, gateway.a.script = plan, [503]
    answer = await gateway.post(CHAT, BODY)
    assert (answer.status, answer.error["code"]) == (500, "gateway_error")
    assert not gateway.b.received


@pytest.mark.parametrize("models", [{}, {A: "phi"}, {B: "phi"}, {A: "gpt-4o-france-central", B: "phi"}])
@pytest.mark.parametrize("order", [(A, B), (B, A)])
@pytest.mark.parametrize(("path", "chunked"), [(CHAT, False), (CHAT, True), (UPLOAD, False), (UPLOAD, True)])
async def test_each_attempt_is_right_after_another(
    gateway: Running, models: dict[str, str], order: tuple[str, ...], path: str, chunked: bool
) -> None:
    gateway.policy.plan = Plan(order=order, model=models, span=SPAN)
    providers = {A: gateway.a, B: gateway.b}
    for _ in range(3):  # on kept-alive connections, where a wrong length would reach the next request
        providers[order[0]].script = [503]
        assert (await gateway.post(path, BODY, chunked=chunked)).status == 200
    for cluster, own, foreign in ((A, "authorization", "api-key"), (B, "api-key", "authorization")):
        body = BODY.replace(b"gpt-4o", models.get(cluster, "gpt-4o").encode())
        for received in providers[cluster].received:
            assert (received.path, received.body) == ({A: "/a", B: "/b"}[cluster], body)
            assert own in received.headers
            assert foreign not in received.headers
        assert len(providers[cluster].received) == 3


async def test_the_largest_body_may_grow_on_its_way(gateway: Running) -> None:
    name = "a-model-name-longer-than-the-one-that-was-asked-for"
    gateway.policy.plan = Plan(order=(A, B), model={B: name}, span=SPAN, growth=100_000)
    gateway.a.script = [429]
    body = BODY[:-2] + b"1" * (JSON_CAP - len(BODY)) + BODY[-2:]
    assert (await gateway.post(CHAT, body)).status == 200
    assert gateway.b.received[-1].body == body.replace(b"gpt-4o", name.encode()) + b" " * 100_000


async def test_every_attempt_and_every_call_is_recorded(gateway: Running) -> None:
    gateway.policy.plan, gateway.a.script = Plan(order=(A, B)), [429]
    gateway.a.extra_headers = "retry-after: 7\r\n"
    answer = await gateway.post(CHAT, BODY)
    records = gateway.policy.records

    async def logged() -> bool:
        return (
            len(
                [
                    entry
                    for _, entry in records
                    if entry.request and entry.request.request_id == answer.headers["x-request-id"]
                ]
            )
            == 3
        )

    await eventually(logged)
    attempts = [
        (entry.common_properties.upstream_cluster, entry.response.response_code, entry.response.response_headers)
        for name, entry in records
        if name == contract.ATTEMPT_LOG and entry.common_properties and entry.response
    ]
    resolved = contract.resolved_cluster_of("b")  # which is named, and not an address
    assert attempts == [(A, 429, {"retry-after": "7"}), (resolved, 200, {})]
    assert {name for name, _ in records} == {contract.ATTEMPT_LOG, contract.LISTENER_LOG}


# --- refusals and failures -----------------------------------------------------------------------------


async def test_the_policy_s_refusals_stay_as_they_are(gateway: Running) -> None:
    gateway.policy.plan = Plan(refuse=True)
    answer = await gateway.post(CHAT, b"{}")
    assert (answer.status, answer.body) == (401, b'{"ours":true}')


@pytest.mark.parametrize(("plan", "status"), [(Plan(fail=True), 503), (Plan(hang=True), 504)], ids=["fail", "hang"])
async def test_a_failing_policy_closes_the_way(gateway: Running, plan: Plan, status: int) -> None:
    gateway.policy.plan = plan
    answer = await gateway.post(CHAT, b"{}")
    assert (answer.status, answer.error["code"]) == (status, "gateway_error")
    assert answer.headers["x-should-retry"] == "true"
    assert b"secret reason" not in answer.body
    assert not gateway.a.received


async def test_a_dead_provider_is_no_news_for_clients(gateway: Running) -> None:
    await gateway.a.stop()
    answer = await gateway.post(CHAT, b"{}")
    assert (answer.status, answer.error["code"]) == (503, "gateway_error")
    assert b"connect" not in answer.body


async def test_a_lost_credential_is_the_gateway_s_fault(tmp_path: Path) -> None:
    secret = tmp_path / "keys" / "a"
    write({secret.name: "lost"}, secret.parent)

    def lost() -> None:
        (written,) = (tmp_path / "secrets").glob("backend_a-*")
        sds.replace(written, sds.text(written.stem, ""))

    async with running_gateway(tmp_path, backend_a={"credential": {"file": str(secret)}}, before_start=lost) as gateway:
        answer = await gateway.post(CHAT, b"{}")
        assert (answer.status, answer.error["code"]) == (502, "gateway_error")
        assert not gateway.a.received


# --- changes while Envoy runs --------------------------------------------------------------------------


async def test_a_credential_from_the_environment_rotates(gateway: Running) -> None:
    write_secrets(gateway.configuration, KEYS | {"KEY_A": "new-a"}, Path(gateway.layout.secrets_dir))
    await eventually(lambda: _sends(gateway, "Bearer new-a"))


def _mount(files: Mapping[str, str], directory: Path) -> None:
    """As Kubernetes mounts a secret: the names are links through `..data`, which a rename swaps."""
    directory.mkdir(exist_ok=True)
    version = Path(tempfile.mkdtemp(dir=directory, prefix="..v"))
    write(files, version)
    (directory / "..new").symlink_to(version.name)
    (directory / "..new").replace(directory / "..data")
    for name in files:
        if not (directory / name).is_symlink():
            (directory / name).symlink_to(f"..data/{name}")


@pytest.mark.parametrize("put", [write, _mount])
async def test_a_credential_file_rotates(tmp_path: Path, put: Callable[[Mapping[str, str], Path], None]) -> None:
    secret = tmp_path / "keys" / "a"
    put({secret.name: "first\n"}, secret.parent)
    async with running_gateway(tmp_path, backend_a={"credential": {"file": str(secret)}}) as gateway:
        assert await _sends(gateway, "Bearer first")
        put({secret.name: "second\n"}, secret.parent)
        write_secrets(gateway.configuration, KEYS, Path(gateway.layout.secrets_dir))
        await eventually(lambda: _sends(gateway, "Bearer second"))


async def _sends(gateway: Running, authorization: str) -> bool:
    assert (await gateway.post(CHAT, b"{}")).status == 200
    return gateway.a.received[-1].headers["authorization"] == authorization


async def test_routes_and_clusters_change_without_a_restart(gateway: Running) -> None:
    tree = gateway.configuration.model_dump()
    tree["backends"]["a"]["url"] = f"http://127.0.0.1:{gateway.b.port}"
    tree["limits"]["multipart_request"] = MULTIPART_CAP + 1
    changed = Gateway.model_validate(tree)
    write_secrets(changed, KEYS, Path(gateway.layout.secrets_dir))  # as an address has secrets of its own
    write(render(changed, gateway.layout), Path(gateway.layout.config_dir))

    async def moved() -> bool:
        return (await gateway.post(CHAT, b"{}")).status == 200 and bool(gateway.b.received)

    async def larger() -> bool:
        return (await gateway.post(UPLOAD, b"x" * (MULTIPART_CAP + 1))).status == 200

    await eventually(moved)
    await eventually(larger)


# --- TLS -----------------------------------------------------------------------------------------------


def _certificate(directory: Path, name: str) -> tuple[Path, Path]:
    """A self-signed certificate for `name`, written by rename."""
    directory.mkdir(exist_ok=True)
    certificate, key = directory / f"{name}.crt", directory / f"{name}.key"
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2",
         "-subj", f"/CN={name}", "-addext", f"subjectAltName=DNS:{name}",
         "-keyout", str(key), "-out", str(certificate)],
        check=True, capture_output=True, timeout=60,
    )  # fmt: skip
    return certificate, key


@pytest.mark.parametrize("put", [write, _mount])
async def test_the_listener_s_certificate_rotates(
    tmp_path: Path, put: Callable[[Mapping[str, str], Path], None]
) -> None:
    first, second = (_certificate(tmp_path / "made", name) for name in ("first.test", "second.test"))
    served = tmp_path / "served"
    put(_pem(*first), served)
    tls = {"certificate": str(served / "tls.crt"), "private_key": str(served / "tls.key")}
    async with running_gateway(tmp_path, listener={"tls": tls}) as gateway:
        await eventually(lambda: _trusts(gateway, first[0], "first.test"))
        assert not await _trusts(gateway, second[0], "second.test")
        put(_pem(*second), served)
        write_secrets(gateway.configuration, KEYS, Path(gateway.layout.secrets_dir))
        await eventually(lambda: _trusts(gateway, second[0], "second.test"))


def _pem(certificate: Path, key: Path) -> dict[str, str]:
    return {"tls.crt": certificate.read_text(), "tls.key": key.read_text()}


async def _trusts(gateway: Running, authority: Path, name: str) -> bool:
    context = ssl.create_default_context(cafile=str(authority))
    port = gateway.configuration.listener.port
    try:
        _, writer = await asyncio.open_connection("127.0.0.1", port, ssl=context, server_hostname=name)
    except (ssl.SSLCertVerificationError, ConnectionRefusedError):
        return False
    writer.close()
    await writer.wait_closed()
    return True


@pytest.mark.parametrize(("name", "status"), [("localhost", 200), ("other.test", 503)])
async def test_a_provider_must_show_the_certificate_of_its_host(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, status: int
) -> None:
    certificate, key = _certificate(tmp_path / "made", name)
    monkeypatch.setattr(clusters, "SYSTEM_CA", str(certificate))
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(certificate, key)
    async with running_gateway(tmp_path, tls_a=context) as gateway:
        assert (await gateway.post(CHAT, b"{}")).status == status
        assert bool(gateway.a.received) is (status == 200)
