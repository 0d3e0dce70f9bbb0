"""Who gets as far as the policy, in the real Envoy: tokens, web pages, addresses, certificates; and who is told."""

import asyncio
import json
import ssl
import subprocess
import time
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from types import MappingProxyType
from typing import Any

import pytest

from extproc import contract
from extproc.adapter import tokens
from extproc.config.schema import Gateway
from extproc.dataplane import write, write_for_validation, write_secrets
from extproc.identity.claims import FailedToken, VerifiedToken
from tests.support.oidc import JwksServer
from tests.support.scripted import (
    ENVOY,
    KEYS,
    A,
    Answer,
    B,
    Plan,
    Provider,
    Running,
    eventually,
    layout_in,
    running_gateway,
)
from tests.support.tokens import SigningKeys, compact, signer

CHAT = "/v1/chat/completions"
BODY = b'{"model":"gpt-4o","messages":[]}'
ISSUER, OTHER_ISSUER = "https://issuer.test/", "https://other.test/"


# ---- tokens -------------------------------------------------------------------------------------------


def _token(keys: SigningKeys, kid: str | None = None, /, **claims: Any) -> str:
    """Signed with the RSA key; a claim that is None is left out."""
    now = int(time.time())
    named = {"iss": ISSUER, "aud": "sluice", "sub": "ann", "exp": now + 600} | claims
    header = {"alg": "RS256", "typ": "JWT", "kid": kid or keys.rsa.kid}
    left = {name: value for name, value in named.items() if value is not None}
    return compact(header, left, signer("RS256", keys.rsa))


def _issuer(**more: object) -> dict[str, object]:
    return {"issuer": ISSUER, "audiences": ["sluice"], "jwks_refresh": "1s", "clock_skew": "5s"} | more


async def _found(gateway: Running, authorization: str, path: str = "/v1/models") -> object:
    """What the policy's adapter makes of what Envoy sends."""
    assert (await gateway.get(path, f"authorization: {authorization}\r\n")).status == 200
    return tokens.read(gateway.policy.last("request_headers").context)


async def _verified(gateway: Running, token: str) -> bool:
    return isinstance(await _found(gateway, f"Bearer {token}"), VerifiedToken)


@pytest.fixture(scope="module")
def keys() -> SigningKeys:
    return SigningKeys()


@pytest.fixture(scope="module")
def other_keys() -> SigningKeys:
    return SigningKeys()


@pytest.fixture
def published(keys: SigningKeys) -> Iterator[JwksServer]:
    with JwksServer(keys.public()) as server:
        yield server


@asynccontextmanager
async def _with_issuers(directory: Path, **issuers: Mapping[str, object]) -> AsyncIterator[Running]:
    async with running_gateway(directory, more={"identity": {"issuers": issuers}}) as gateway:
        yield gateway


@pytest.fixture
async def one_issuer(tmp_path: Path, published: JwksServer) -> AsyncIterator[Running]:
    async with _with_issuers(tmp_path, corp=_issuer(jwks_url=published.url)) as gateway:
        yield gateway


async def test_the_policy_is_told_what_a_token_says(one_issuer: Running, keys: SigningKeys) -> None:
    said = {"groups": ["a", "b"], "nested": {"deep": [1, True, None]}, "email_verified": False, "number": 1.5}
    token = _token(keys, **said)
    found = await _found(one_issuer, f"Bearer {token}")
    assert isinstance(found, VerifiedToken)
    assert found.issuer == "corp"
    assert {name: found.claims[name] for name in said} == said
    assert (found.claims["iss"], found.claims["sub"]) == (ISSUER, "ann")
    assert found.header == {"alg": "RS256", "typ": "JWT", "kid": keys.rsa.kid}
    assert one_issuer.policy.last("request_headers").headers["authorization"] == f"Bearer {token}"


@pytest.mark.parametrize(
    ("claims", "reason"),
    [
        ({"exp": 1_700_000_000}, "Jwt is expired"),
        ({"nbf": 4_000_000_000}, "Jwt not yet valid"),
        ({"exp": None}, "Jwt verification fails"),
        ({"aud": "another"}, "Audiences in Jwt are not allowed"),
        ({"aud": None}, "Audiences in Jwt are not allowed"),
    ],
)
async def test_the_policy_is_told_why_a_token_failed(
    one_issuer: Running, keys: SigningKeys, claims: dict[str, object], reason: str
) -> None:
    assert await _found(one_issuer, f"Bearer {_token(keys, **claims)}") == FailedToken("corp", reason)


async def test_a_forged_token_fails(one_issuer: Running, keys: SigningKeys, other_keys: SigningKeys) -> None:
    forged = _token(other_keys, keys.rsa.kid)
    assert await _found(one_issuer, f"Bearer {forged}") == FailedToken("corp", "Jwt verification fails")


@pytest.mark.parametrize("authorization", ["Bearer sk-key", "Bearer a.b.c", "Basic YTpi", "Bearer "])
@pytest.mark.parametrize("issuers", [1, 2])
async def test_what_is_no_token_is_none(
    tmp_path: Path, published: JwksServer, authorization: str, issuers: int
) -> None:
    """Envoy itself tells these apart by how many issuers it knows."""
    known = {
        f"i{number}": _issuer(jwks_url=published.url, issuer=f"https://{number}.test") for number in range(issuers)
    }
    async with _with_issuers(tmp_path, **known) as gateway:
        assert await _found(gateway, authorization) is None


async def test_two_issuers_are_told_apart(
    tmp_path: Path, published: JwksServer, keys: SigningKeys, other_keys: SigningKeys
) -> None:
    with JwksServer(other_keys.public()) as second:
        other = _issuer(jwks_url=second.url, issuer=OTHER_ISSUER, audiences=["elsewhere"])
        async with _with_issuers(tmp_path, corp=_issuer(jwks_url=published.url), other=other) as gateway:
            first = await _found(gateway, f"Bearer {_token(keys)}")
            assert isinstance(first, VerifiedToken)
            assert first.issuer == "corp"
            theirs = _token(other_keys, iss=OTHER_ISSUER, aud=["x", "elsewhere"])
            found = await _found(gateway, f"Bearer {theirs}")
            assert isinstance(found, VerifiedToken)
            assert found.issuer == "other"
            wrong = _token(other_keys, iss=ISSUER)
            assert isinstance(await _found(gateway, f"Bearer {wrong}"), FailedToken)
            assert await _found(gateway, f"Bearer {_token(keys, iss='https://stranger.test')}") is None


async def test_a_token_counts_in_its_header_only(one_issuer: Running, keys: SigningKeys) -> None:
    token = _token(keys)
    spoofed = (
        f"cookie: access_token={token}\r\napi-key: {token}\r\nx-api-key: Bearer {token}\r\n"
        'x-jwt-payload: e30\r\nx-sluice-identity: me\r\nx-envoy-jwt: {"corp":{}}\r\n'
    )
    assert (await one_issuer.get(f"/v1/models?access_token={token}", spoofed)).status == 200
    seen = one_issuer.policy.last("request_headers")
    assert tokens.read(seen.context) is None
    assert "x-sluice-identity" not in seen.headers


async def test_a_good_and_a_bad_token_are_none(one_issuer: Running, keys: SigningKeys) -> None:
    """Two headers are one value with a comma by the time that Envoy reads them."""
    good, bad = _token(keys), _token(keys, exp=1_700_000_000)
    for first, second in ((good, bad), (bad, good), (good, good)):
        headers = f"authorization: Bearer {first}\r\nauthorization: Bearer {second}\r\n"
        assert (await one_issuer.get("/v1/models", headers)).status == 200
        assert not isinstance(tokens.read(one_issuer.policy.last("request_headers").context), VerifiedToken)


async def test_a_token_does_not_reach_a_provider(one_issuer: Running, keys: SigningKeys) -> None:
    token = _token(keys)
    assert (await one_issuer.post(CHAT, BODY, f"authorization: Bearer {token}\r\n")).status == 200
    assert token not in str(one_issuer.a.received[-1].headers)


# ---- the issuer's keys --------------------------------------------------------------------------------


@pytest.mark.parametrize("trouble", ["500", "html", "empty", "slow", "hangs up", "closed"])
async def test_known_keys_survive_the_issuer(
    one_issuer: Running, published: JwksServer, keys: SigningKeys, trouble: str
) -> None:
    assert await _verified(one_issuer, _token(keys))
    fetched = published.fetches
    if trouble == "closed":
        published.close()
        await asyncio.sleep(2.5)  # longer than a refresh
    else:
        published.mood = trouble

        async def asked() -> bool:
            return published.fetches >= fetched + (1 if trouble == "slow" else 3)

        await eventually(asked)
    assert await _verified(one_issuer, _token(keys))
    published.mood = "well"
    if trouble == "closed":
        published.open()


async def test_a_new_key_is_taken_up_and_an_old_one_forgotten(
    one_issuer: Running, published: JwksServer, keys: SigningKeys, other_keys: SigningKeys
) -> None:
    assert not await _verified(one_issuer, _token(other_keys))
    published.keys = other_keys.public()
    await eventually(lambda: _verified(one_issuer, _token(other_keys)))
    assert not await _verified(one_issuer, _token(keys))


async def test_unknown_key_ids_fetch_nothing(tmp_path: Path, published: JwksServer, keys: SigningKeys) -> None:
    async with _with_issuers(tmp_path, corp=_issuer(jwks_url=published.url, jwks_refresh="1h")) as gateway:
        claims = {"iss": ISSUER, "aud": "sluice", "exp": int(time.time()) + 600}
        await eventually(lambda: _verified(gateway, _token(keys)))
        fetched = published.fetches
        for number in range(1000):
            token = compact({"alg": "RS256", "kid": f"random-{number}"}, claims, lambda _data: b"no signature")
            assert isinstance(await _found(gateway, f"Bearer {token}"), FailedToken)
        assert published.fetches == fetched
        assert await _verified(gateway, _token(keys))


@pytest.mark.parametrize("mood", ["500", "html", "empty", "hangs up"])
async def test_without_keys_calls_do_not_storm_the_issuer(
    tmp_path: Path, published: JwksServer, keys: SigningKeys, mood: str
) -> None:
    published.mood = mood
    async with _with_issuers(tmp_path, corp=_issuer(jwks_url=published.url)) as gateway:
        begun = time.monotonic()
        fetched = published.fetches
        found = {str(await _found(gateway, f"Bearer {_token(keys)}")) for _ in range(100)}
        seconds = time.monotonic() - begun
        assert published.fetches - fetched <= 2 * (seconds + 1)  # one a second by calls, one by Envoy itself
        assert found == {str(FailedToken("corp", "Jwks remote fetch is failed"))}
        assert await _found(gateway, "Bearer sk-key") is None
        published.mood = "well"
        await eventually(lambda: _verified(gateway, _token(keys)))


@pytest.mark.parametrize("trouble", ["slow", "closed"])
async def test_the_gateway_starts_without_the_issuer(
    tmp_path: Path, published: JwksServer, keys: SigningKeys, trouble: str
) -> None:
    if trouble == "closed":
        published.close()
    else:
        published.mood = trouble
    async with _with_issuers(tmp_path, corp=_issuer(jwks_url=published.url)) as gateway:
        assert await _found(gateway, "Bearer sk-key") is None
        assert isinstance(await _found(gateway, f"Bearer {_token(keys)}"), FailedToken)
        published.mood = "well"
        if trouble == "closed":
            published.open()
        await eventually(lambda: _verified(gateway, _token(keys)))


async def test_keys_from_a_file(tmp_path: Path, keys: SigningKeys, other_keys: SigningKeys) -> None:
    file = tmp_path / "jwks.json"
    file.write_text(json.dumps(keys.public()))
    async with _with_issuers(tmp_path, corp=_issuer(jwks_file=str(file))) as gateway:
        assert await _verified(gateway, _token(keys))
        assert not await _verified(gateway, _token(other_keys))


@pytest.mark.parametrize(("text", "valid"), [('{"keys":[]}', False), ("junk", False), (None, True)])
def test_validation_reads_the_file_of_keys(tmp_path: Path, keys: SigningKeys, text: str | None, valid: bool) -> None:
    file = tmp_path / "jwks.json"
    file.write_text(text or json.dumps(keys.public()))
    result = _validated(tmp_path, {"corp": _issuer(jwks_file=str(file))})
    assert (result.returncode == 0) is valid, result.stderr


def _validated(directory: Path, issuers: Mapping[str, object], **more: object) -> "subprocess.CompletedProcess[str]":
    tree = {
        "identity": {"issuers": issuers, "signing_key": {"env": "KEY"}},
        "backends": {"a": {"dialect": "openai", "url": "http://h", "identity_header": True}},
        "models": {"m": {"targets": [[{"backend": "a"}]]}},
        **more,
    }
    path = write_for_validation(Gateway.model_validate(tree), layout_in(directory), directory)
    command = [str(ENVOY), "--mode", "validate", "-l", "error", "-c", str(path)]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


def test_envoy_takes_every_door_at_once(tmp_path: Path) -> None:
    clients = {"authority": "/run/clients/ca.crt", "required": False}
    listener = {
        "address": "::",
        "port": 8443,
        "tls": {"certificate": "/run/tls/tls.crt", "private_key": "/run/tls/tls.key", "client_certificates": clients},
        "allowed_ips": ["10.0.0.0/8", "2001:db8::/32", "192.0.2.7"],
        "cors": {"origins": ["https://chat.example.com", "https://*.example.com:8443"]},
    }
    issuers = {
        "entra": _issuer(jwks_url="https://login.example.com/keys"),
        "address": _issuer(jwks_url="https://[2001:db8::1]:9443/keys", issuer=OTHER_ISSUER),
    }
    result = _validated(tmp_path, issuers, listener=listener)
    assert result.returncode == 0, result.stderr


# ---- web pages ----------------------------------------------------------------------------------------

PAGE = "https://chat.example.com"
# What the JavaScript SDKs of OpenAI and Anthropic send from a browser.
SDK_HEADERS = (
    "authorization, content-type, x-api-key, api-key, anthropic-version, anthropic-beta, "
    "anthropic-dangerous-direct-browser-access, openai-organization, openai-project, x-stainless-arch, "
    "x-stainless-helper-method, x-stainless-lang, x-stainless-os, x-stainless-package-version, "
    "x-stainless-retry-count, x-stainless-runtime, x-stainless-runtime-version, x-stainless-timeout"
)


def _allowed_headers(answer: Answer, asked: str) -> bool:
    """As a browser decides it for a request without cookies (Fetch, 4.9, steps 13 and 14)."""
    allowed = {name.strip().lower() for name in answer.headers["access-control-allow-headers"].split(",")}
    named = {name.strip().lower() for name in asked.split(",")}
    return named <= allowed or ("*" in allowed and ("authorization" not in named or "authorization" in allowed))


def _preflight(origin: str, path: str = CHAT) -> bytes:
    return (
        f"OPTIONS {path} HTTP/1.1\r\nhost: gateway.test\r\norigin: {origin}\r\n"
        f"access-control-request-method: POST\r\naccess-control-request-headers: {SDK_HEADERS}\r\n\r\n"
    ).encode()


@pytest.fixture
async def with_pages(tmp_path: Path) -> AsyncIterator[Running]:
    origins = [PAGE, "https://*.Apps.example.com", "http://*.dev.test:3000"]
    async with running_gateway(tmp_path, listener={"cors": {"origins": origins, "max_age": "10m"}}) as gateway:
        yield gateway


@pytest.mark.parametrize(
    "origin", [PAGE, "https://a.apps.example.com", "https://a.b.apps.example.com", "http://x.dev.test:3000"]
)
async def test_a_browser_may_ask(with_pages: Running, origin: str) -> None:
    answer = await with_pages.raw(_preflight(origin))
    assert answer.status == 200
    assert answer.headers["access-control-allow-origin"] == origin
    assert answer.headers["access-control-max-age"] == "600"
    assert "POST" in answer.headers["access-control-allow-methods"]
    assert "access-control-allow-credentials" not in answer.headers
    assert _allowed_headers(answer, SDK_HEADERS)
    assert not with_pages.policy.seen


@pytest.mark.parametrize(
    "origin",
    [
        "https://evil.test",
        "http://chat.example.com",
        "https://chat.example.com.evil.test",
        "https://apps.example.com",
        "https://evilapps.example.com",
        "https://evil.test/.apps.example.com",
        "https://a.apps.example.com:8443",
        "http://x.dev.test",
        "https://a.appsXexample.com",
        "null",
    ],
)
async def test_other_pages_may_not(with_pages: Running, origin: str) -> None:
    asked = await with_pages.raw(_preflight(origin))
    assert (asked.status, asked.error["code"]) == (405, "method_not_allowed")
    assert not with_pages.policy.seen
    tried = await with_pages.get("/v1/models", f"origin: {origin}\r\n")
    assert not [name for name in {**asked.headers, **tried.headers} if name.startswith("access-control-")]


@pytest.mark.parametrize("headers", ["", f"origin: {PAGE}\r\n", "access-control-request-method: POST\r\n"])
async def test_options_without_a_preflight_go_to_the_policy(with_pages: Running, headers: str) -> None:
    await with_pages.raw(f"OPTIONS {CHAT} HTTP/1.1\r\nhost: gateway.test\r\n{headers}\r\n".encode())
    assert with_pages.policy.last("request_headers").headers[":method"] == "OPTIONS"


async def test_any_page_may_where_all_may(tmp_path: Path) -> None:
    async with running_gateway(tmp_path, listener={"cors": {"origins": ["*"]}}) as gateway:
        answer = await gateway.raw(_preflight("https://anybody.test"))
        assert answer.headers["access-control-allow-origin"] in ("*", "https://anybody.test")


async def test_without_cors_no_page_may(tmp_path: Path) -> None:
    async with running_gateway(tmp_path) as gateway:
        answer = await gateway.raw(_preflight(PAGE))
        assert not [name for name in answer.headers if name.startswith("access-control-")]
        assert gateway.policy.seen


@pytest.mark.parametrize(
    ("plan", "size", "status"),
    [
        (Plan(), 2, 200),
        (Plan(refuse=True), 2, 401),
        (Plan(fail=True), 2, 503),
        (Plan(order=()), 2, contract.SINK_STATUS),
        (Plan(replace_answer=True), 2, 401),
        (Plan(), 3 * 2**20, 413),
        (Plan(replace_answer=True), 3 * 2**20, 401),
    ],
    ids=["good", "refused", "policy fails", "unrouted", "answer replaced", "too large", "too large, in our words"],
)
async def test_a_page_can_read_every_answer(with_pages: Running, plan: Plan, size: int, status: int) -> None:
    with_pages.policy.plan = plan
    for origin, allowed in ((PAGE, PAGE), ("https://evil.test", None)):
        answer = await with_pages.post(CHAT, b" " * size, f"origin: {origin}\r\n")
        assert answer.status == status
        assert answer.headers.get("access-control-allow-origin") == allowed
        assert answer.headers.get("access-control-expose-headers") == (allowed and "*")


async def test_a_page_can_read_what_envoy_answers_after_the_policy(with_pages: Running) -> None:
    await with_pages.a.stop()
    answer = await with_pages.post(CHAT, BODY, f"origin: {PAGE}\r\n")
    assert (answer.status, answer.error["code"]) == (503, "gateway_error")
    assert answer.headers["access-control-allow-origin"] == PAGE


# ---- addresses ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("listener", "headers", "status"),
    [
        ({"allowed_ips": ["127.0.0.0/8"]}, "", 200),
        ({"allowed_ips": ["10.0.0.0/8"]}, "", 403),
        ({"allowed_ips": ["10.0.0.0/8"]}, "x-forwarded-for: 10.1.2.3\r\n", 403),
        ({"allowed_ips": ["10.0.0.0/8"]}, "x-envoy-external-address: 10.1.2.3\r\nx-real-ip: 10.1.2.3\r\n", 403),
        ({"allowed_ips": ["10.0.0.0/8"], "trusted_proxies": 1}, "x-forwarded-for: 10.1.2.3\r\n", 200),
        ({"allowed_ips": ["10.0.0.0/8"], "trusted_proxies": 1}, "x-forwarded-for: 10.1.2.3, 192.0.2.1\r\n", 403),
        ({"allowed_ips": ["10.0.0.0/8"], "trusted_proxies": 1}, "x-forwarded-for: 192.0.2.1, 10.1.2.3\r\n", 200),
        ({"allowed_ips": ["2001:db8::/32"], "trusted_proxies": 1}, "x-forwarded-for: 2001:db8::7\r\n", 200),
        ({"allowed_ips": ["2001:db8::/32"], "trusted_proxies": 1}, "x-forwarded-for: 2001:db9::7\r\n", 403),
        ({"allowed_ips": ["10.0.0.0/8"], "trusted_proxies": 1}, "x-forwarded-for: junk\r\n", 403),
        ({"allowed_ips": ["10.0.0.0/8"], "trusted_proxies": 1}, "", 403),
    ],
)
async def test_only_allowed_addresses_may_call(
    tmp_path: Path, listener: dict[str, object], headers: str, status: int
) -> None:
    async with running_gateway(tmp_path, listener=listener) as gateway:
        answer = await gateway.post(CHAT, BODY, headers)
        assert answer.status == status
        assert bool(gateway.a.received) is (status == 200)
        if status == 403:
            assert answer.error["code"] == "ip_not_allowed"
            assert answer.headers["content-type"] == "application/json"
            refused = gateway.policy.last("response_headers").attributes["response.code_details"]
            assert str(refused).startswith("rbac_access_denied")
        for probe in ("/healthz", "/readyz", "/readyz?verbose"):
            assert (await gateway.get(probe, headers)).status == 200


@pytest.mark.parametrize(
    "path", ["/healthz/x", "/v1/models?x=/healthz", "/readyz/../v1/models", "/Healthz", "//v1/models"]
)
async def test_no_spelling_of_a_path_is_a_probe(tmp_path: Path, path: str) -> None:
    async with running_gateway(tmp_path, listener={"allowed_ips": ["10.0.0.0/8"]}) as gateway:
        assert (await gateway.get(path)).status == 403


@pytest.mark.parametrize(
    ("proxies", "forwarded", "address"),
    [
        (0, None, "127.0.0.1"),
        (0, "6.6.6.6", "127.0.0.1"),
        (1, None, "127.0.0.1"),
        (1, "203.0.113.9", "203.0.113.9"),
        (1, "6.6.6.6, 203.0.113.9", "203.0.113.9"),
        (1, "6.6.6.6, 10.1.2.3", "10.1.2.3"),
        (1, "2001:db8::7", "2001:db8::7"),
        (2, "6.6.6.6, 203.0.113.9, 10.0.0.1", "203.0.113.9"),
    ],
)
async def test_the_policy_is_told_the_client_s_address(
    tmp_path: Path, proxies: int, forwarded: str | None, address: str
) -> None:
    """`x-envoy-external-address` is Envoy's word alone; what a client writes there is replaced."""
    sent = f"x-forwarded-for: {forwarded}\r\n" if forwarded else ""
    forged = "x-envoy-external-address: 6.6.6.6\r\nX-Envoy-External-Address: 7.7.7.7\r\n"
    async with running_gateway(tmp_path, listener={"trusted_proxies": proxies}) as gateway:
        assert (await gateway.get("/v1/models", sent + forged)).status == 200
        assert gateway.policy.last("request_headers").headers["x-envoy-external-address"] == address


async def test_an_ipv6_client_has_its_address(tmp_path: Path) -> None:
    async with running_gateway(tmp_path, listener={"address": "::1"}, host="::1") as gateway:
        assert (await gateway.get("/v1/models")).status == 200
        assert gateway.policy.last("request_headers").headers["x-envoy-external-address"] == "::1"


# ---- client certificates ------------------------------------------------------------------------------


class Authority:
    """A certificate authority in a folder, by the `openssl` binary."""

    def __init__(self, directory: Path, name: str) -> None:
        directory.mkdir(exist_ok=True)
        self._directory = directory
        self.certificate, self._key = self._paths(name)
        self._openssl("req", "-x509", *self._new(name, self.certificate, self._key), "-days", "2")

    def issue(self, name: str) -> tuple[Path, Path]:
        """The certificate and the key of `name`."""
        certificate, key = self._paths(name)
        request = self._directory / f"{name}.csr"
        self._openssl("req", "-new", *self._new(name, request, key))
        names = self._directory / f"{name}.ext"
        names.write_text(f"subjectAltName=DNS:{name}")
        self._openssl(
            "x509", "-req", "-in", str(request), "-CA", str(self.certificate), "-CAkey", str(self._key),
            "-CAcreateserial", "-days", "2", "-extfile", str(names), "-out", str(certificate),
        )  # fmt: skip
        return certificate, key

    def _paths(self, name: str) -> tuple[Path, Path]:
        return self._directory / f"{name}.crt", self._directory / f"{name}.key"

    def _new(self, name: str, out: Path, key: Path) -> tuple[str, ...]:
        curve = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes")
        return (*curve, "-subj", f"/CN={name}", "-keyout", str(key), "-out", str(out))

    def _openssl(self, *arguments: str) -> None:
        subprocess.run(["openssl", *arguments], check=True, capture_output=True, timeout=60)


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("ours"), "authority.test")


@pytest.fixture(scope="module")
def stranger(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("theirs"), "stranger.test")


def _context(server: Path, client: tuple[Path, Path] | None = None) -> ssl.SSLContext:
    context = ssl.create_default_context(cafile=str(server))
    context.check_hostname = False  # by address; the chain is still checked
    if client:
        context.load_cert_chain(*client)
    return context


async def _status(gateway: Running, context: ssl.SSLContext) -> int | None:
    """Of a call over TLS; None where the handshake fails, which TLS 1.3 tells a client at its first read."""
    gateway.tls = context
    try:
        return (await gateway.get("/v1/models")).status
    except (OSError, AssertionError, asyncio.IncompleteReadError):
        return None


@asynccontextmanager
async def _with_certificates(
    directory: Path, authority: Authority, clients: Path, *, required: bool
) -> AsyncIterator[Running]:
    certificate, key = authority.issue("server.test")
    tls = {
        "certificate": str(certificate),
        "private_key": str(key),
        "client_certificates": {"authority": str(clients), "required": required},
    }
    async with running_gateway(directory, listener={"tls": tls}) as gateway:
        yield gateway


@pytest.mark.parametrize(("required", "without"), [(True, None), (False, 200)])
async def test_clients_show_a_certificate(
    tmp_path: Path, authority: Authority, stranger: Authority, required: bool, without: int | None
) -> None:
    async with _with_certificates(tmp_path, authority, authority.certificate, required=required) as gateway:
        ours = _context(authority.certificate, authority.issue("client.test"))

        async def accepted() -> bool:
            return await _status(gateway, ours) == 200

        await eventually(accepted)
        spoofed = "x-forwarded-client-cert: Subject=CN=admin\r\n"
        assert (await gateway.get("/v1/models", spoofed)).status == 200
        assert "x-forwarded-client-cert" not in gateway.policy.last("request_headers").headers
        assert await _status(gateway, _context(authority.certificate)) == without
        theirs = _context(authority.certificate, stranger.issue("client.test"))
        assert await _status(gateway, theirs) is None


async def test_the_authority_of_clients_rotates(tmp_path: Path, authority: Authority, stranger: Authority) -> None:
    served = tmp_path / "clients"
    write({"ca.crt": authority.certificate.read_text()}, served)
    async with _with_certificates(tmp_path, authority, served / "ca.crt", required=True) as gateway:
        theirs = _context(authority.certificate, stranger.issue("client.test"))
        ours = _context(authority.certificate, authority.issue("client.test"))

        async def ours_only() -> bool:
            return (await _status(gateway, ours), await _status(gateway, theirs)) == (200, None)

        async def theirs_only() -> bool:
            return (await _status(gateway, ours), await _status(gateway, theirs)) == (None, 200)

        await eventually(ours_only)
        write({"ca.crt": stranger.certificate.read_text()}, served)
        write_secrets(gateway.configuration, KEYS, Path(gateway.layout.secrets_dir))
        await eventually(theirs_only)


# ---- who is told who calls ----------------------------------------------------------------------------

SIGNED = "header.claims.signature"
SPOOFED = "x-sluice-identity: forged\r\n"


@pytest.fixture
async def self_hosted(tmp_path: Path) -> AsyncIterator[Running]:
    """Provider `a` is told who calls, `b` is not."""
    told = MappingProxyType({"credential": {"env": "KEY_A"}, "identity_header": True})
    signing = {"identity": {"signing_key": {"env": "KEY_A"}}}
    async with running_gateway(tmp_path, backend_a=told, more=signing) as gateway:
        yield gateway


def _identities(provider: Provider) -> list[str | None]:
    return [received.headers.get(contract.IDENTITY_HEADER) for received in provider.received]


@pytest.mark.parametrize("path", [CHAT, "/v1/audio/transcriptions"])
async def test_only_a_backend_that_asks_for_it_is_told_who_calls(self_hosted: Running, path: str) -> None:
    for order in ((A,), (B,), (A, B), (B, A)):
        self_hosted.policy.plan = Plan(order=order, identity=SIGNED)
        (self_hosted.a if order[0] == A else self_hosted.b).script = [503] * (len(order) - 1)
        assert (await self_hosted.post(path, BODY, SPOOFED)).status == 200
    assert _identities(self_hosted.a) == [SIGNED] * 3
    assert _identities(self_hosted.b) == [None] * 3


async def test_nobody_is_told_what_the_client_made_up(self_hosted: Running) -> None:
    self_hosted.policy.plan = Plan(order=(A, B))
    self_hosted.a.script = [503]
    assert (await self_hosted.post(CHAT, BODY, SPOOFED)).status == 200
    assert _identities(self_hosted.a) + _identities(self_hosted.b) == [None, None]
