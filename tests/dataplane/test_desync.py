"""No desync: whatever fails before it, each attempt at each backend is one whole, right request.

The backends differ in all that an attempt sets: path, model name and its length, credential. What one attempt left
behind would show at the next as a wrong path or a wrong length, and a wrong length as a broken next request on the
kept-alive connection, which may be another caller's.
"""

import itertools
import json
import random
from base64 import b64decode
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import pytest

from tests.support.fake import FakeProvider
from tests.support.gateway import RunningGateway, until
from tests.support.raw_http import form

Json = dict[str, Any]

CREDENTIALS = {
    "legacy": ["api-key", "secret-legacy"],
    "openai": ["authorization", "Bearer secret-openai"],
    "v1": ["api-key", "secret-v1"],
}
MODELS = {"legacy": "gpt-4o-swe", "openai": "o", "v1": "a-much-longer-name-of-a-deployment"}
CHAT_PATHS = {
    "legacy": "/openai/deployments/gpt-4o-swe/chat/completions?api-version=2024-10-21",
    "openai": "/v1/chat/completions",
    "v1": "/openai/v1/chat/completions",
}
FORM_PATHS = {
    "legacy": "/openai/deployments/whisper-swe/audio/transcriptions?api-version=2024-10-21",
    "openai": "/v1/audio/transcriptions",
    "v1": "/openai/v1/audio/transcriptions",
}
ORDERS = list(itertools.permutations(MODELS))
FAULTS: list[Json] = [{"status": 429}, {"status": 503}, {"reset": "before"}]
SIZES = (0, 1, 20_000, 1 << 20)


@pytest.fixture(scope="module")
def providers() -> Iterator[FakeProvider]:
    with FakeProvider(*MODELS, options=["--keep-bodies"]) as running:
        yield running


@pytest.fixture(scope="module")
def chained(providers: FakeProvider) -> Iterator[RunningGateway]:
    """A model for each order of the three backends, and one for each backend alone."""
    forms = {"legacy": "whisper-swe", "openai": "whisper-1", "v1": "whisper-1"}
    settings = {
        "backends": {
            "legacy": {
                "dialect": "azure-openai",
                "url": providers.url("legacy"),
                "api_version": "2024-10-21",
                "credential": {"env": "LEGACY_SECRET"},
            },
            "openai": {"dialect": "openai", "url": providers.url("openai"), "credential": {"env": "OPENAI_SECRET"}},
            "v1": {"dialect": "azure-openai", "url": providers.url("v1"), "credential": {"env": "V1_SECRET"}},
        },
        "models": {
            **{name: chain(order, MODELS) for order in ORDERS for name in [public("chat", order)]},
            **{name: chain(order, forms) for order in ORDERS for name in [public("form", order)]},
            **{name: chain([name], MODELS) for name in MODELS},
        },
    }
    secrets = {"LEGACY_SECRET": "secret-legacy", "OPENAI_SECRET": "secret-openai", "V1_SECRET": "secret-v1"}
    with RunningGateway(settings, secrets) as running:
        yield running


@pytest.fixture(autouse=True)
def nothing_recorded(providers: FakeProvider) -> None:
    providers.reset()


def chain(order: Sequence[str], names: Mapping[str, str]) -> Json:
    return {"targets": [[{"backend": backend, "model": names[backend]}] for backend in order]}


def public(kind: str, order: Sequence[str]) -> str:
    return f"{kind}-{'-'.join(order)}"


def chat(model: str, token: str, size: int, **fields: Any) -> Json:
    messages = [{"role": "system", "content": "x" * size}, {"role": "user", "content": token}]
    return {"model": model, "messages": messages, "user": token, **fields}


def sent(call: Json) -> Json:
    body: Json = json.loads(b64decode(call["body_base64"]))
    return body


def assert_whole(backend: str, call: Json, paths: Mapping[str, str]) -> None:
    """One whole request with this backend's path and credential, and no trace of another's."""
    assert call["complete"]
    assert not call["malformed"]
    assert f"{call['path']}?{call['query']}".rstrip("?") == paths[backend]
    secrets = [pair for pair in call["headers"] if "secret-" in pair[1]]
    assert secrets == [CREDENTIALS[backend]]
    lengths = [value for name, value in call["headers"] if name == "content-length"]
    assert lengths in ([], [str(call["body_bytes"])])


def assert_chat(backend: str, call: Json, asked: Json) -> None:
    """The caller's own body with this backend's model in it: the path names it where the body need not."""
    assert_whole(backend, call, CHAT_PATHS)
    expected = {**asked, "model": asked["model"] if backend == "legacy" else MODELS[backend]}
    if asked.get("stream"):
        expected["stream_options"] = {"include_usage": True}
    assert sent(call) == expected


def post(client: httpx.Client, asked: Json) -> httpx.Response:
    return client.post("/v1/chat/completions", json=asked)


def assert_answered(answer: httpx.Response, token: str) -> None:
    """The answer to this caller's own text."""
    assert answer.status_code == 200
    if answer.headers["content-type"] == "application/json":
        assert token in answer.json()["choices"][0]["message"]["content"]
    else:
        events = [json.loads(line[6:]) for line in answer.text.splitlines() if line.startswith("data: {")]
        text = "".join(event["choices"][0]["delta"].get("content") or "" for event in events if event["choices"])
        assert token in text
        assert answer.text.endswith("data: [DONE]\n\n")


@pytest.mark.parametrize("order", ORDERS, ids="-".join)
def test_a_chain_that_fails_in_every_way_sends_only_right_requests(
    order: tuple[str, ...], chained: RunningGateway, providers: FakeProvider
) -> None:
    """One kept-alive client; none, the first or the first two backends fail, each in each way, with and without SSE."""
    plans = [(), *itertools.product(FAULTS), *itertools.product(FAULTS, FAULTS)]
    with chained.client() as client:
        for number, (faults, stream) in enumerate(itertools.product(plans, (False, True))):
            providers.reset()
            for backend, fault in zip(order, faults, strict=False):
                providers.script(backend, [fault])
            fields: Json = {"stream": True} if stream else {}
            asked = chat(public("chat", order), f"token{number}", SIZES[number % len(SIZES)], **fields)
            assert_answered(post(client, asked), f"token{number}")
            tried = order[: len(faults) + 1]
            for backend in MODELS:
                calls = providers.calls(backend)
                assert len(calls) == (backend in tried)
                for call in calls:
                    assert_chat(backend, call, asked)


def test_a_chain_of_which_all_fail_ends_with_the_last_ones_answer(
    chained: RunningGateway, providers: FakeProvider
) -> None:
    with chained.client() as client:
        for order in ORDERS:
            for backend, status in zip(order, (503, 500, 429), strict=True):
                providers.script(backend, [{"status": status}])
            answer = post(client, chat(public("chat", order), "token", 10))
            assert answer.status_code == 429
            assert answer.json()["error"]["message"] == "The fake was asked to answer 429."
    assert {len(providers.calls(backend)) for backend in MODELS} == {len(ORDERS)}


def test_a_hanging_backend_of_a_chain_holds_only_its_own_call(chained: RunningGateway, providers: FakeProvider) -> None:
    """A caller leaves a hanging attempt; the connection it was on is not used for the next one's request."""
    order = ("openai", "v1", "legacy")
    with chained.client() as client:
        for number in range(3):
            providers.script("openai", [{"hang": True}])
            with pytest.raises(httpx.ReadTimeout):
                client.post("/v1/chat/completions", json=chat(public("chat", order), "left", 1000), timeout=0.3)
            asked = chat(public("chat", order), f"token{number}", 1000)
            assert_answered(post(client, asked), f"token{number}")
    calls = providers.calls("openai")
    assert len(calls) == 6
    until(lambda: providers.totals("openai")["disconnected"] == 3, what="the attempts that were left to be closed")
    for call in calls:
        assert_whole("openai", call, CHAT_PATHS)


def test_crowds_of_callers_never_meet(chained: RunningGateway, providers: FakeProvider) -> None:
    """Callers on kept-alive connections, chains in every order, faults that hit whoever comes first."""
    fate = random.Random(7)
    for backend in MODELS:
        providers.script(backend, [fate.choice([*FAULTS, {}, {}, {"chunk_bytes": 700}]) for _ in range(90)])
    asked: dict[str, Json] = {}

    def caller(name: int) -> None:
        own = random.Random(name)
        with chained.client() as client:
            for number in range(25):
                token = f"caller{name}call{number}end"
                model = own.choice([*MODELS, *(public("chat", order) for order in ORDERS)])
                fields: Json = {"stream": True} if own.random() < 0.4 else {}
                asked[token] = chat(model, token, own.choice(SIZES), **fields)
                answer = post(client, asked[token])
                if answer.status_code == 200:
                    assert_answered(answer, token)
                else:
                    assert answer.status_code in (429, 503)

    with ThreadPoolExecutor(8) as crowd:
        list(crowd.map(caller, range(8)))
    seen = 0
    for backend in MODELS:
        for call in providers.calls(backend):
            assert_chat(backend, call, asked[sent(call)["user"]])
            seen += 1
    assert seen > len(asked) == 200


@pytest.mark.parametrize("sized", [True, False], ids=["sized", "chunked"])
@pytest.mark.parametrize("order", ORDERS, ids="-".join)
def test_a_form_that_is_tried_again_arrives_whole(
    order: tuple[str, ...], sized: bool, chained: RunningGateway, providers: FakeProvider
) -> None:
    plans = [(), *itertools.product(FAULTS), *itertools.product(FAULTS, FAULTS)]
    with chained.client() as client:
        for number, faults in enumerate(plans):
            providers.reset()
            for backend, fault in zip(order, faults, strict=False):
                providers.script(backend, [fault])
            size = SIZES[number % len(SIZES)]
            kind, body = form({"model": public("form", order)}, b"a" * size)
            content = body if sized else iter([body[:100], body[100:]])
            answer = client.post("/v1/audio/transcriptions", content=content, headers={"content-type": kind})
            assert answer.status_code == 200
            assert f"({size} bytes)" in answer.json()["text"]
            tried = order[: len(faults) + 1]
            for backend in MODELS:
                calls = providers.calls(backend)
                assert len(calls) == (backend in tried)
                for call in calls:
                    assert_form(backend, call, body, order)


def assert_form(backend: str, call: Json, body: bytes, order: Sequence[str]) -> None:
    """A form is changed once for all attempts: it names the model as those backends know it that read it there."""
    assert_whole(backend, call, FORM_PATHS)
    assert b64decode(call["body_base64"]) == body.replace(public("form", order).encode(), b"whisper-1", 1)


def test_a_refused_upload_leaves_nothing_on_the_connection(chained: RunningGateway, providers: FakeProvider) -> None:
    """A form that turns out to be forbidden after the backend has its start: that connection is not used again."""
    kind, body = form({"model": public("form", ORDERS[0])}, b"a" * 300_000)
    late = body[: -len(b"--boundary--\r\n")] + (
        b'--boundary\r\ncontent-disposition: form-data; name="model"\r\n\r\nforbidden\r\n--boundary--\r\n'
    )
    with chained.client() as client:
        for _ in range(5):
            refused = client.post("/v1/audio/transcriptions", content=late, headers={"content-type": kind})
            assert refused.status_code == 400
            served = client.post("/v1/audio/transcriptions", content=body, headers={"content-type": kind})
            assert served.status_code == 200
    whole = [call for backend in MODELS for call in providers.calls(backend) if call["complete"]]
    assert len(whole) == 5
    assert not any(call["malformed"] for backend in MODELS for call in providers.calls(backend))
