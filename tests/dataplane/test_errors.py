"""Errors as clients see them: in the shape of the surface called, raised by the SDKs as the class that fits."""

import json
import secrets
from collections.abc import Iterator
from typing import Any

import anthropic
import httpx
import openai
import pytest

from extproc.identity.keys import mint
from tests.dataplane.conftest import SECRETS
from tests.support.fake import FakeProvider
from tests.support.gateway import RunningGateway
from tests.support.ports import free_port
from tests.support.sdk import DOORS, ask, client_at, refusal

pytestmark = pytest.mark.filterwarnings("ignore:The model 'claude:DeprecationWarning")

Json = dict[str, Any]

SAY = [{"role": "user", "content": "Hello!"}]
BACKENDS = ("openai", "azure", "azure-v1", "anthropic")

# One generating call per client: its operation, and its fields without a model.
CALLS: dict[str, tuple[str, Json]] = {
    name: ("messages.create", {"messages": SAY, "max_tokens": 50})
    if door.family == "anthropic"
    else ("chat.completions.create", {"messages": SAY})
    for name, door in DOORS.items()
}
MODELS = {
    "openai": "gpt-4o",
    "azure-legacy": "gpt-4o-azure",
    "azure-v1": "gpt-4o-azure-v1",
    "anthropic": "claude-sonnet-5-5",
}
"""A model for each family whose backend speaks the family's dialect."""

CLASSES = {
    400: "BadRequestError",
    401: "AuthenticationError",
    403: "PermissionDeniedError",
    404: "NotFoundError",
    409: "ConflictError",
    422: "UnprocessableEntityError",
    429: "RateLimitError",
    500: "InternalServerError",
    503: "InternalServerError",
}
ANTHROPIC_CLASSES = CLASSES | {
    413: "RequestTooLargeError",
    503: "ServiceUnavailableError",
    504: "DeadlineExceededError",
    529: "OverloadedError",
}
"""The SDKs' classes by status."""


def sdk_class(door: str, status: int) -> type[Exception]:
    if DOORS[door].family == "anthropic":
        found = getattr(anthropic, ANTHROPIC_CLASSES[status], None) or getattr(
            anthropic._exceptions, ANTHROPIC_CLASSES[status]
        )
    else:
        found = getattr(openai, CLASSES[status])
    kind: type[Exception] = found
    return kind


def assert_class(error: object, door: str, status: int) -> None:
    """The very class, not one derived from it: clients catch by it."""
    assert type(error) is sdk_class(door, status)


def assert_shape(answer: httpx.Response | Any, family: str, code: str) -> Json:
    """A refusal of the gateway in the shape of a family; returns the inner error."""
    body = answer.json()
    error: Json = body["error"]
    assert answer.headers["content-type"] == "application/json"
    assert answer.headers["x-should-retry"] in ("true", "false")
    assert body["request_id"] == answer.headers["x-request-id"]
    assert error["code"] == code
    assert error["message"]
    if family == "anthropic":
        assert (body["type"], answer.headers["request-id"]) == ("error", body["request_id"])
        assert error["type"].endswith("_error") or error["type"] == "request_too_large"
    elif family == "openai":
        assert set(error) == {"message", "type", "param", "code"}
    else:
        assert (set(error), error["status"]) == ({"code", "message", "param", "status"}, answer.status_code)
    return error


def nobody_called(fake: FakeProvider) -> bool:
    return not any(fake.calls(name) for name in BACKENDS)


# ---- the gateway's own refusals, by every client ------------------------------------------------------

REFUSALS: dict[str, tuple[Json, int, str]] = {
    "unknown model": ({"model": "gpt-nobody"}, 404, "model_not_found"),
    "empty messages": ({"messages": []}, 400, "invalid_value"),
    "wrong type": ({"extra_body": {"messages": "text"}}, 400, "invalid_value"),
    "wrong number": ({"max_tokens": -1}, 400, "invalid_value"),
    "case variant": ({"extra_body": {"Model": "gpt-4o"}}, 400, "duplicate_field"),
}


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
@pytest.mark.parametrize("case", REFUSALS)
@pytest.mark.parametrize("door", DOORS)
async def test_a_refused_call_raises_the_class_that_fits(
    door: str, case: str, stream: bool, gateway: RunningGateway, fake: FakeProvider
) -> None:
    family = DOORS[door].family
    operation, fields = CALLS[door]
    changed, status, code = REFUSALS[case]
    async with client_at(DOORS[door], gateway.url, gateway.key) as client:
        error = await refusal(client, operation, **{"model": MODELS[family], **fields, **changed, "stream": stream})
    assert_class(error, door, status)
    assert_shape(error.response, family, code)
    assert error.response.headers["x-should-retry"] == "false"
    assert "retry-after" not in error.response.headers
    assert error.request_id == error.response.headers["x-request-id"]
    assert nobody_called(fake)
    record = gateway.record(error.request_id)
    assert (record["status"], record["refusal"], record["ending"]) == (status, code, "refused")
    assert "usage" not in record


@pytest.mark.parametrize("key", ["sk-sluice-mistyped", "sk-proj-somebody-elses", mint(b"?" * 32), "x" * 5000])
@pytest.mark.parametrize("door", DOORS)
async def test_a_wrong_key_raises_an_authentication_error(
    door: str, key: str, gateway: RunningGateway, fake: FakeProvider
) -> None:
    family = DOORS[door].family
    operation, fields = CALLS[door]
    async with client_at(DOORS[door], gateway.url, key) as client:
        error = await refusal(client, operation, model=MODELS[family], **fields)
    assert_class(error, door, 401)
    assert_shape(error.response, family, "invalid_api_key")
    assert key not in error.response.text
    assert nobody_called(fake)


# ---- refusals that no SDK can provoke -----------------------------------------------------------------

PATHS = {
    "openai": "/v1/chat/completions",
    "azure-legacy": "/openai/deployments/gpt-4o-azure/chat/completions?api-version=2024-10-21",
    "azure-v1": "/openai/v1/chat/completions",
    "anthropic": "/anthropic/v1/messages",
}
JSON_TYPE = {"content-type": "application/json"}

ODD: dict[str, tuple[Json, int, str]] = {
    "no key": ({"headers": {"authorization": "", **JSON_TYPE}, "content": "{}"}, 401, "missing_api_key"),
    "no body": ({"headers": JSON_TYPE, "content": ""}, 400, "invalid_json"),
    "cut JSON": ({"headers": JSON_TYPE, "content": '{"model":"gpt-4o"'}, 400, "invalid_json"),
    "no object": ({"headers": JSON_TYPE, "content": "[]"}, 400, "invalid_json"),
    "no model": ({"json": {"messages": SAY, "max_tokens": 5}}, 400, "missing_model"),
    "form": ({"files": {"file": b"x"}}, 415, "unsupported_media_type"),
    "compressed": (
        {"headers": {"content-encoding": "gzip", **JSON_TYPE}, "content": b"\x1f\x8b"},
        415,
        "unsupported_media_type",
    ),
    "GET": ({"method": "GET"}, 405, "method_not_allowed"),
    "DELETE": ({"method": "DELETE"}, 405, "method_not_allowed"),
}


@pytest.mark.parametrize(
    ("family", "case"),
    [
        (family, case) for family in PATHS for case in ODD if (family, case) != ("azure-legacy", "no model")
    ],  # in the path
)
def test_an_odd_request_is_refused_in_the_shape_of_its_surface(
    family: str, case: str, gateway: RunningGateway, fake: FakeProvider
) -> None:
    request, status, code = ODD[case]
    with gateway.client() as client:
        answer = client.request(**{"method": "POST", "url": PATHS[family], **request})
    assert answer.status_code == status
    assert_shape(answer, family, code)
    assert nobody_called(fake)


# ---- who calls ----------------------------------------------------------------------------------------

CREDENTIALS = ("authorization", "api-key", "x-api-key")


def chat(gateway: RunningGateway, headers: Json, path: str = PATHS["openai"], model: str = "gpt-4o") -> httpx.Response:
    """One call with just these headers; a list as a value repeats the header."""
    pairs = [(name, one) for name, given in headers.items() for one in (given if isinstance(given, list) else [given])]
    body = {"model": model, "messages": SAY, "max_tokens": 50}
    return httpx.post(gateway.url + path, json=body, headers=pairs, trust_env=False)


@pytest.mark.parametrize(
    "headers",
    [
        {"authorization": "Bearer {key}"},
        {"authorization": "bearer   {key}"},
        {"api-key": "{key}"},
        {"x-api-key": "{key}"},
        {"authorization": "Bearer {key}", "api-key": "{key}", "x-api-key": "{key}"},
        {"authorization": ["Bearer {key}", "Bearer {key}"]},
        {"authorization": "Bearer undefined", "x-api-key": "{key}"},
        {"authorization": "Bearer null", "api-key": "", "x-api-key": "{key}"},
        {"authorization": "Bearer sk-ant-oat01-foreign", "x-api-key": "{key}"},
    ],
)
@pytest.mark.parametrize("family", PATHS)
def test_one_key_is_found_wherever_it_stands(family: str, headers: Json, gateway: RunningGateway) -> None:
    filled = json.loads(json.dumps(headers).replace("{key}", gateway.key))
    extra = {"anthropic-version": "2023-06-01"} if family == "anthropic" else {}
    answer = chat(gateway, filled | extra, PATHS[family], MODELS[family])
    assert answer.status_code == 200, answer.text


@pytest.mark.parametrize("family", PATHS)
@pytest.mark.parametrize("given", ["Bearer undefined", "Bearer null", "Bearer", "undefined", ""])
def test_a_placeholder_is_no_key(given: str, family: str, gateway: RunningGateway, fake: FakeProvider) -> None:
    answer = chat(gateway, {"authorization": given}, PATHS[family], MODELS[family])
    assert answer.status_code == 401
    assert_shape(answer, family, "missing_api_key")
    assert nobody_called(fake)


@pytest.mark.parametrize("family", PATHS)
@pytest.mark.parametrize(
    "headers",
    [
        {"authorization": "Bearer {key}", "x-api-key": "{other}"},
        {"api-key": "{other}", "x-api-key": "{key}"},
        {"authorization": ["Bearer {key}", "Bearer {other}"]},
        {"authorization": "Bearer {key}, Bearer {other}"},
    ],
)
def test_two_different_keys_are_refused(
    headers: Json, family: str, gateway: RunningGateway, fake: FakeProvider
) -> None:
    other = mint(secrets.token_bytes(32))
    filled = json.loads(json.dumps(headers).replace("{key}", gateway.key).replace("{other}", other))
    answer = chat(gateway, filled, PATHS[family], MODELS[family])
    assert answer.status_code == 400
    error = assert_shape(answer, family, "ambiguous_credentials")
    assert all(name in error["message"] for name in headers)
    assert gateway.key not in answer.text
    assert other not in answer.text
    assert nobody_called(fake)


SENT_CREDENTIAL = {
    "openai": ["authorization", f"Bearer {SECRETS['OPENAI_SECRET']}"],
    "azure-legacy": ["api-key", SECRETS["AZURE_SECRET"]],
    "azure-v1": ["api-key", SECRETS["AZURE_SECRET"]],
    "anthropic": ["x-api-key", SECRETS["ANTHROPIC_SECRET"]],
}
BACKEND_OF = {"openai": "openai", "azure-legacy": "azure", "azure-v1": "azure-v1", "anthropic": "anthropic"}


@pytest.mark.parametrize("family", PATHS)
def test_no_credential_of_a_client_is_forwarded(family: str, gateway: RunningGateway, fake: FakeProvider) -> None:
    """The provider sees its own credential, and of the client's neither the key nor anything beside it."""
    canaries = {
        "authorization": "Bearer canary-1",
        "api-key": "canary-2",
        "proxy-authorization": "Basic canary-3",
        "cookie": "session=canary-4",
        "x-goog-api-key": "canary-5",
        "x-amz-security-token": "canary-6",
        "ocp-apim-subscription-key": "canary-7",
        "x-forwarded-client-cert": "canary-8",
        "openai-organization": "canary-9",
        "x-sluice-team": "canary-10",
        "x-openwebui-user-email": "canary-11",
        "referer": "https://canary-12.example/",
    }
    version = {"anthropic-version": "2023-06-01"} if family == "anthropic" else {}
    answer = chat(gateway, {**canaries, "x-api-key": gateway.key, **version}, PATHS[family], MODELS[family])
    assert answer.status_code == 200, answer.text
    (call,) = fake.calls(BACKEND_OF[family])
    assert "canary" not in json.dumps(call["headers"])
    assert gateway.key not in json.dumps(call)
    credentials = [pair for pair in call["headers"] if pair[0] in CREDENTIALS]
    assert credentials == [SENT_CREDENTIAL[family]]


# ---- the provider's own errors ------------------------------------------------------------------------

STATUSES = [400, 401, 403, 404, 409, 422, 429, 500, 503]
WORDS = '{ "error" :{"message":"provider\\u0027s own \\/ words","type":"odd","code":null,"extra":{"deep":[1.0]}}}\n'


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
@pytest.mark.parametrize("status", STATUSES)
@pytest.mark.parametrize("door", [name for name in DOORS if not name.endswith("root")])
async def test_a_providers_error_passes_verbatim(
    door: str, status: int, stream: bool, gateway: RunningGateway, fake: FakeProvider
) -> None:
    family = DOORS[door].family
    operation, fields = CALLS[door]
    faults = {"status": status, "error_body": WORDS, "retry_after": 7, "retry_after_ms": 6543}
    async with client_at(DOORS[door], gateway.url, gateway.key) as client:
        error = await refusal(
            client, operation, model=MODELS[family], stream=stream, extra_body={"x_fake": faults}, **fields
        )
    assert_class(error, door, status)
    assert error.response.content == WORDS.encode()
    headers = error.response.headers
    assert (headers["retry-after"], headers["retry-after-ms"]) == ("7", "6543")
    assert "x-should-retry" not in headers  # the provider gave none
    record = gateway.record(headers["x-request-id"])
    assert (record["status"], record["ending"], record.get("refusal"), record.get("usage")) == (
        status,
        "failed",
        None,
        None,
    )
    assert len(fake.calls(BACKEND_OF[family])) == 1


def test_an_error_page_of_a_proxy_before_the_provider_passes_as_it_is(gateway: RunningGateway) -> None:
    with gateway.client() as client:
        body = {"model": "gpt-4o", "messages": SAY, "x_fake": {"html": True, "status": 502}}
        answer = client.post("/v1/chat/completions", json=body)
    assert (answer.status_code, answer.headers["content-type"]) == (502, "text/html; charset=utf-8")
    assert answer.text.startswith("<!doctype html>")


@pytest.mark.parametrize("door", DOORS)
async def test_an_error_inside_a_stream_is_raised_by_the_sdk_and_recorded_as_a_failure(
    door: str, gateway: RunningGateway, fake: FakeProvider
) -> None:
    family = DOORS[door].family
    operation, fields = CALLS[door]
    broken = {"x_fake": {"error_event_after": 3, "events": 10}}
    async with client_at(DOORS[door], gateway.url, gateway.key) as client:
        with pytest.raises((openai.APIError, anthropic.APIStatusError)):
            await ask(client, operation, model=MODELS[family], stream=True, extra_body=broken, **fields)
    (call,) = fake.calls(BACKEND_OF[family])
    request_id = next(value for name, value in call["headers"] if name == "x-request-id")
    record = gateway.record(request_id)
    assert (record["status"], record["ending"], record["usage"]["source"]) == (200, "failed", "estimated")


async def test_a_client_that_retries_gets_its_answer_and_each_try_is_recorded(
    gateway: RunningGateway, fake: FakeProvider
) -> None:
    fake.script("openai", [{"status": 429, "retry_after_ms": 1}, {"status": 500, "retry_after_ms": 1}, {}])
    async with client_at(DOORS["openai"], gateway.url, gateway.key, max_retries=2) as client:
        answer = await ask(client, "chat.completions.create", model="gpt-4o", messages=SAY)
    assert [call["status"] for call in fake.calls("openai")] == [429, 500, 200]
    assert gateway.record(answer.request_id)["client_retry"] == "2"


# ---- what Envoy answers by itself, said in the shape of the surface -----------------------------------


@pytest.fixture(scope="module")
def strict(fake: FakeProvider) -> Iterator[RunningGateway]:
    """A gateway with small limits and short times, whose `down-*` models have a backend where nobody listens."""
    dialects: dict[str, Json] = {
        "openai": {"dialect": "openai"},
        "azure-legacy": {"dialect": "azure-openai", "api_version": "2024-10-21"},
        "azure-v1": {"dialect": "azure-openai"},
        "anthropic": {"dialect": "anthropic"},
    }
    nobody = f"http://127.0.0.1:{free_port()}"
    backends = {name: {**given, "url": fake.url(BACKEND_OF[name])} for name, given in dialects.items()}
    backends |= {f"down-{name}": {**given, "url": nobody} for name, given in dialects.items()}
    settings = {
        "backends": backends,
        "models": {name: {"targets": [[{"backend": name}]]} for name in backends},
        "limits": {"json_request": 2048},
        "timeouts": {"call": 0.5, "connect": 0.5},
    }
    with RunningGateway(settings) as running:
        yield running


def strict_path(family: str, model: str) -> str:
    return PATHS[family].replace("gpt-4o-azure", model)


def strict_call(strict: RunningGateway, family: str, model: str, **fields: Any) -> httpx.Response:
    body = {"model": model, "messages": SAY, "max_tokens": 5, **fields}
    with strict.client() as client:
        return client.post(strict_path(family, model), json=body, headers={"anthropic-version": "2023-06-01"})


def assert_envoys(
    strict: RunningGateway, answer: httpx.Response, family: str, status: int, code: str, retry: str
) -> None:
    assert answer.status_code == status
    assert_shape(answer, family, code)
    assert answer.headers["x-should-retry"] == retry
    assert "retry-after" not in answer.headers
    record = strict.record(answer.headers["x-request-id"])
    assert (record["status"], record["refusal"], "backend" in record) == (status, code, False)


@pytest.mark.parametrize("family", PATHS)
def test_too_large_a_request_is_413(family: str, strict: RunningGateway, fake: FakeProvider) -> None:
    fake.reset()
    answer = strict_call(strict, family, family, padding="x" * 3000)
    assert_envoys(strict, answer, family, 413, "request_too_large", "false")
    assert nobody_called(fake)


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
@pytest.mark.parametrize("family", PATHS)
def test_a_backend_that_is_not_there_is_503(family: str, stream: bool, strict: RunningGateway) -> None:
    answer = strict_call(strict, family, f"down-{family}", stream=stream)
    assert_envoys(strict, answer, family, 503, "upstream_unavailable", "true")


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
@pytest.mark.parametrize("family", PATHS)
def test_a_backend_that_does_not_answer_is_504(family: str, stream: bool, strict: RunningGateway) -> None:
    answer = strict_call(strict, family, family, stream=stream, x_fake={"hang": True})
    assert_envoys(strict, answer, family, 504, "upstream_timeout", "true")


@pytest.mark.parametrize(("model", "status"), [("down-anthropic", 503), ("anthropic", 504)])
async def test_the_anthropic_sdk_raises_what_fits_envoys_answer(
    model: str, status: int, strict: RunningGateway
) -> None:
    async with client_at(DOORS["anthropic"], strict.url, strict.key) as client:
        error = await refusal(
            client, "messages.create", model=model, messages=SAY, max_tokens=5, extra_body={"x_fake": {"hang": True}}
        )
    assert_class(error, "anthropic", status)


# ---- paths --------------------------------------------------------------------------------------------

UNSERVED = {
    "/chat/completions": ("openai", "/v1/chat/completions"),
    "/responses": ("openai", "/v1/responses"),
    "/models": ("openai", "/v1/models"),
    "/v1/v1/chat/completions": ("openai", "/v1/chat/completions"),
    "/v1/chat/completions/": ("openai", "/v1/chat/completions"),
    "/messages": ("anthropic", "/v1/messages"),
    "/v1/v1/messages": ("anthropic", "/v1/messages"),
    "/anthropic/messages": ("anthropic", "/anthropic/v1/messages"),
    "/anthropic/v1/v1/messages": ("anthropic", "/anthropic/v1/messages"),
    "/openai/chat/completions": ("azure-v1", "/openai/v1/chat/completions"),
    "/v1/files": ("openai", None),
    "/openai/deployments/gpt-4o/files": ("azure-v1", None),
    "/anthropic/v1/complete": ("anthropic", None),
    "/": ("openai", None),
}
"""Paths that are not served, the family in whose shape that is said, and the path that was probably meant."""


@pytest.mark.parametrize("query", ["", "?api-version=2024-10-21&beta=true"])
@pytest.mark.parametrize("path", UNSERVED)
def test_a_path_that_is_not_served_is_404_and_says_what_was_meant(
    path: str, query: str, gateway: RunningGateway, fake: FakeProvider
) -> None:
    family, meant = UNSERVED[path]
    with gateway.client() as client:
        answer = client.post(path + query, json={"model": "gpt-4o", "messages": SAY})
    assert answer.status_code == 404
    error = assert_shape(answer, family, "unknown_url")
    assert (f"Did you mean {meant}?" in error["message"]) == (meant is not None)
    assert nobody_called(fake)


@pytest.mark.parametrize(
    ("kind", "base", "meant"),
    [
        (openai.OpenAI, "", "/v1/chat/completions"),
        (openai.OpenAI, "/v1/v1", "/v1/chat/completions"),
        (anthropic.Anthropic, "/v1", "/v1/messages"),
        (anthropic.Anthropic, "/anthropic/v1", "/anthropic/v1/messages"),
    ],
)
async def test_a_base_url_with_too_much_or_too_little_is_explained(
    kind: Any, base: str, meant: str, gateway: RunningGateway
) -> None:
    with kind(base_url=gateway.url + base, api_key=gateway.key, max_retries=0) as client:
        operation, fields = CALLS["openai" if kind is openai.OpenAI else "anthropic"]
        error = await refusal(client, operation, model="gpt-4o", **fields)
    assert isinstance(error, openai.NotFoundError | anthropic.NotFoundError)
    assert f"Did you mean {meant}?" in str(error)


@pytest.mark.parametrize("path", ["/v1/responses", "/openai/v1/responses", "/openai/responses?api-version=2024-10-21"])
def test_a_websocket_upgrade_is_426_and_a_plain_get_405(path: str, gateway: RunningGateway, fake: FakeProvider) -> None:
    upgrade = {
        "connection": "Upgrade",
        "upgrade": "websocket",
        "sec-websocket-version": "13",
        "sec-websocket-key": "dGhlIHNhbXBsZSBub25jZQ==",
    }
    with gateway.client() as client:
        refused = client.get(path, headers=upgrade)
        plain = client.get(path)
    assert (refused.status_code, plain.status_code) == (426, 405)
    assert "HTTP" in refused.json()["error"]["message"]
    assert plain.json()["error"]["code"] == "method_not_allowed"
    assert nobody_called(fake)


@pytest.mark.parametrize("query", ["", "?beta=true", "?a=%2F&b=c/d&b=%3F", "?x=/v1/files"])
@pytest.mark.parametrize("family", ["openai", "anthropic"])
def test_the_query_is_no_part_of_the_path_and_passes_on(
    query: str, family: str, gateway: RunningGateway, fake: FakeProvider
) -> None:
    headers = {"authorization": f"Bearer {gateway.key}", "anthropic-version": "2023-06-01"}
    answer = chat(gateway, headers, PATHS[family] + query, MODELS[family])
    assert answer.status_code == 200
    assert fake.calls(family)[0]["query"] == query.removeprefix("?")
