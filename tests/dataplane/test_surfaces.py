"""Each surface from end to end: which path and body reach the backend, and what the access record says was used.

That every client can call every surface in every way is shown by the matrix; here is what it means.
"""

import json
from base64 import b64decode
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from operator import attrgetter
from typing import Any

import httpx
import pytest

from tests.support.fake import FakeProvider
from tests.support.gateway import RunningGateway
from tests.support.sdk import DOORS, ask, client_at

pytestmark = [
    pytest.mark.filterwarnings("ignore:deprecated:DeprecationWarning"),  # the SDK's word on translations
    pytest.mark.filterwarnings("ignore:The model 'claude:DeprecationWarning"),  # and on models that grow old
]

Json = dict[str, Any]

SAY = [{"role": "user", "content": "Hello!"}]
WAV = ("a.wav", b"RIFF" + bytes(range(256)) * 300)
PNG = ("a.png", b"\x89PNG\r\n\x1a\n" + bytes(range(256)))


@dataclass(frozen=True, slots=True)
class Case:
    """An operation of an SDK, the surface and path that it reaches, and its fields."""

    door: str
    operation: str
    surface: str
    path: str
    fields: Json
    json: bool = True


CASES = {
    case.surface: case
    for case in (
        Case("openai", "chat.completions.create", "chat", "/v1/chat/completions", {"model": "gpt-4o", "messages": SAY}),
        Case("openai", "completions.create", "completions", "/v1/completions", {"model": "gpt-4o", "prompt": "Hi"}),
        Case(
            "openai",
            "embeddings.create",
            "embeddings",
            "/v1/embeddings",
            {"model": "text-embedding-3-small", "input": "Hi"},
        ),
        Case("openai", "responses.create", "responses", "/v1/responses", {"model": "gpt-4o", "input": "Hi"}),
        Case(
            "openai",
            "audio.transcriptions.create",
            "transcriptions",
            "/v1/audio/transcriptions",
            {"model": "whisper-1", "file": WAV},
            False,
        ),
        Case(
            "openai",
            "audio.translations.create",
            "translations",
            "/v1/audio/translations",
            {"model": "whisper-1", "file": WAV},
            False,
        ),
        Case(
            "openai",
            "audio.speech.create",
            "speech",
            "/v1/audio/speech",
            {"model": "gpt-4o-mini-tts", "input": "Hi", "voice": "alloy"},
        ),
        Case(
            "openai", "images.generate", "images", "/v1/images/generations", {"model": "gpt-image-1", "prompt": "a dot"}
        ),
        Case(
            "openai",
            "images.edit",
            "image_edits",
            "/v1/images/edits",
            {"model": "gpt-image-1", "image": PNG, "prompt": "more"},
            False,
        ),
        Case(
            "openai",
            "moderations.create",
            "moderations",
            "/v1/moderations",
            {"model": "omni-moderation-latest", "input": "Hi"},
        ),
        Case(
            "anthropic",
            "messages.create",
            "messages",
            "/v1/messages",
            {"model": "claude-sonnet-5-5", "messages": SAY, "max_tokens": 50},
        ),
        Case(
            "anthropic",
            "messages.count_tokens",
            "count_tokens",
            "/v1/messages/count_tokens",
            {"model": "claude-sonnet-5-5", "messages": SAY},
        ),
    )
}


@pytest.fixture(params=["sync", "async"])
def kind(request: pytest.FixtureRequest) -> str:
    """Which of the SDK's two clients is used."""
    found: str = request.param
    return found


def door_of(case: Case, kind: str) -> str:
    return case.door if kind == "sync" else f"{case.door}-async"


@pytest.fixture
async def client(gateway: RunningGateway) -> AsyncIterator[Any]:
    async with client_at(DOORS["openai"], gateway.url, gateway.key) as made:
        yield made


def only_call(fake: FakeProvider) -> Json:
    (call,) = [call for name in ("openai", "azure", "azure-v1", "anthropic") for call in fake.calls(name)]
    found: Json = call
    return found


# ---- the way there and back ---------------------------------------------------------------------------


@pytest.mark.parametrize("surface", CASES)
async def test_a_call_arrives_whole_under_the_backends_path_and_is_recorded(
    surface: str, kind: str, gateway: RunningGateway, fake: FakeProvider
) -> None:
    case = CASES[surface]
    async with client_at(DOORS[door_of(case, kind)], gateway.url, gateway.key) as client:
        answer = await ask(client, case.operation, **case.fields)
    call = only_call(fake)
    assert (call["method"], call["path"], call["status"], call["complete"]) == ("POST", case.path, 200, True)
    headers = dict(call["headers"])
    assert headers["x-request-id"] == answer.request_id
    if case.json:
        assert json.loads(b64decode(call["body_base64"])).items() >= {"model": case.fields["model"]}.items()
        assert headers["content-length"] == str(call["body_bytes"])
    record = gateway.record(answer.request_id)
    assert {name: record[name] for name in ("surface", "model", "status", "ending", "key", "method")} == {
        "surface": surface,
        "model": case.fields["model"],
        "status": 200,
        "ending": "complete",
        "key": "quickstart",
        "method": "POST",
    }
    assert record["chain"] == [record["backend"]]
    assert len([line for line in gateway.records() if line["request_id"] == answer.request_id]) == 1


def test_rerank_passes_as_cohere_jina_and_vllm_share_it(gateway: RunningGateway, fake: FakeProvider) -> None:
    body = {"model": "rerank-v3.5", "query": "red car", "documents": ["a blue bike", "a red car"], "top_n": 1}
    for base in ("/v1", "/openai/v1"):
        fake.reset()
        with gateway.client() as client:
            answer = client.post(f"{base}/rerank", json=body)
        assert [result["index"] for result in answer.json()["results"]] == [1]
        assert only_call(fake)["path"] == "/v1/rerank"
        assert gateway.record(answer.headers["x-request-id"])["surface"] == "rerank"


@pytest.mark.parametrize("given", [{}, {"model": None}], ids=["absent", "null"])
def test_a_call_without_a_model_goes_where_the_configuration_says(
    given: Json, gateway: RunningGateway, fake: FakeProvider
) -> None:
    with gateway.client() as client:
        answer = client.post("/v1/moderations", json={"input": "Hi", **given})
    assert answer.status_code == 200
    assert json.loads(b64decode(only_call(fake)["body_base64"])) == {"input": "Hi", "model": "omni-moderation-latest"}
    assert gateway.record(answer.headers["x-request-id"])["model"] == "omni-moderation-latest"


def test_a_call_without_a_model_is_refused_where_the_configuration_says_nothing(
    gateway: RunningGateway, fake: FakeProvider
) -> None:
    with gateway.client() as client:
        answer = client.post("/v1/rerank", json={"query": "a", "documents": ["b"]})
    assert (answer.status_code, answer.json()["error"]["code"]) == (400, "missing_model")
    assert fake.calls("openai") == []


async def test_speech_streams_through_byte_for_byte(gateway: RunningGateway, kind: str) -> None:
    """The SDK's way of reading a large sound piece by piece; the fake's bytes follow from the text alone."""
    text = "word " * 400
    fields: Json = {"model": "gpt-4o-mini-tts", "input": text, "voice": "alloy", "response_format": "pcm"}
    async with client_at(DOORS["openai" if kind == "sync" else "openai-async"], gateway.url, gateway.key) as client:
        whole = (await ask(client, "audio.speech.create", **fields)).value.content
        if kind == "sync":
            with client.audio.speech.with_streaming_response.create(**fields) as answer:
                pieces = list(answer.iter_bytes())
        else:
            async with client.audio.speech.with_streaming_response.create(**fields) as answer:
                pieces = [piece async for piece in answer.iter_bytes()]
        assert answer.headers["content-type"] == "audio/pcm"
    assert b"".join(pieces) == whole
    assert len(whole) > 200_000


@pytest.mark.parametrize(("style", "kind_of_answer"), [("text", str), ("verbose_json", object), ("json", object)])
async def test_a_transcript_comes_in_the_form_asked_for(style: str, kind_of_answer: type, client: Any) -> None:
    answer = await ask(client, "audio.transcriptions.create", model="whisper-1", file=WAV, response_format=style)
    text = answer.value if isinstance(answer.value, str) else answer.value.text
    assert isinstance(answer.value, kind_of_answer)
    assert f"({len(WAV[1])} bytes)" in text


@pytest.mark.parametrize("kind_of_file", ["one", "several", "with a mask"])
async def test_image_edits_take_their_files(kind_of_file: str, client: Any, fake: FakeProvider) -> None:
    styles: dict[str, Json] = {
        "one": {"image": PNG},
        "several": {"image": [PNG, ("b.png", PNG[1])]},
        "with a mask": {"image": PNG, "mask": ("m.png", PNG[1])},
    }
    answer = await ask(client, "images.edit", model="gpt-image-1", prompt="more", **styles[kind_of_file])
    assert len(answer.value.data) == 1
    body = b64decode(only_call(fake)["body_base64"])
    assert body.count(PNG[1]) == (1 if kind_of_file == "one" else 2)


@pytest.mark.parametrize("size", [1, 65_535, 3 * 2**20], ids=["a byte", "a window", "3 MiB"])
async def test_a_file_of_any_size_arrives_whole(size: int, client: Any, gateway: RunningGateway) -> None:
    answer = await ask(client, "audio.transcriptions.create", model="whisper-1", file=("a.wav", b"\x00" * size))
    assert f"({size} bytes)" in answer.value.text


# ---- streams ------------------------------------------------------------------------------------------

STREAMS = ["chat", "completions", "responses", "messages", "transcriptions"]


@pytest.mark.parametrize("surface", STREAMS)
async def test_the_first_event_comes_before_the_last_is_made(surface: str, gateway: RunningGateway) -> None:
    """Nothing between the provider and the client waits for the end of a stream."""
    case = CASES[surface]
    slow: Json = {"x_fake": {"stall_after": 3}} if case.json else {"x_fake": '{"stall_after": 2}'}
    async with client_at(DOORS[f"{case.door}-async"], gateway.url, gateway.key) as client:
        stream = await attrgetter(case.operation)(client)(**case.fields, stream=True, extra_body=slow)
        await anext(aiter(stream))  # the fake now sends no more, and does not end
        request_id = stream.response.headers["x-request-id"]
        await stream.response.aclose()
    record = gateway.record(request_id)
    assert (record["ending"], record["usage"]["source"], record["stream"]) == ("cut", "estimated", True)


@pytest.mark.parametrize("door", ["openai", "openai-async", "azure-legacy", "azure-v1-async"])
async def test_the_usage_that_a_client_asked_for_comes_once_at_the_end(door: str, gateway: RunningGateway) -> None:
    async with client_at(DOORS[door], gateway.url, gateway.key) as client:
        answer = await ask(
            client,
            "chat.completions.create",
            model="gpt-4o",
            messages=SAY,
            stream=True,
            stream_options={"include_usage": True},
        )
    reported = [chunk.usage for chunk in answer.value if chunk.usage is not None]
    assert len(reported) == 1
    assert answer.value[-1].usage is reported[0]
    usage = gateway.record(answer.request_id)["usage"]
    assert (usage["input"], usage["output"]) == (reported[0].prompt_tokens, reported[0].completion_tokens)


# ---- usage --------------------------------------------------------------------------------------------

KINDS = {"x_fake": {"cached_tokens": 40, "reasoning_tokens": 25}}


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
@pytest.mark.parametrize("surface", ["chat", "responses", "messages"])
async def test_cached_and_reasoning_tokens_are_kept_apart(
    surface: str, stream: bool, gateway: RunningGateway, fake: FakeProvider
) -> None:
    case = CASES[surface]
    async with client_at(DOORS[case.door], gateway.url, gateway.key) as client:
        answer = await ask(client, case.operation, **case.fields, stream=stream, extra_body=KINDS)
    call, usage = only_call(fake), gateway.record(answer.request_id)["usage"]
    assert usage == {
        "input": call["input_tokens"],
        "output": call["output_tokens"],
        "cached_input": 40,
        "reasoning": 25,
        "source": "reported",
    }


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
@pytest.mark.parametrize("surface", ["chat", "completions", "responses", "messages"])
async def test_usage_that_the_provider_did_not_report_is_estimated_and_marked(
    surface: str, stream: bool, gateway: RunningGateway, fake: FakeProvider
) -> None:
    case = CASES[surface]
    async with client_at(DOORS[case.door], gateway.url, gateway.key) as client:
        silent = {"x_fake": {"usage": "none", "text": "one two three four five six seven eight nine ten " * 10}}
        answer = await ask(client, case.operation, **case.fields, stream=stream, extra_body=silent)
    call, usage = only_call(fake), gateway.record(answer.request_id)["usage"]
    assert usage["source"] == "estimated"
    assert usage["input"] > 0
    assert call["output_tokens"] / 3 < usage["output"] < call["output_tokens"] * 3


@pytest.mark.parametrize("fault", ["double", "decreasing"])
@pytest.mark.parametrize("surface", ["chat", "completions", "messages"])
async def test_usage_told_twice_is_counted_once(
    fault: str, surface: str, gateway: RunningGateway, fake: FakeProvider
) -> None:
    case = CASES[surface]
    async with client_at(DOORS[case.door], gateway.url, gateway.key) as client:
        answer = await ask(client, case.operation, **case.fields, stream=True, extra_body={"x_fake": {"usage": fault}})
    call, usage = only_call(fake), gateway.record(answer.request_id)["usage"]
    told = (call["input_tokens"], call["output_tokens"])
    last = told if fault == "double" else tuple(count // 2 for count in told)
    assert (usage["input"], usage["output"], usage["source"]) == (*last, "reported")


USED = {
    "embeddings": {"input": True, "output": False, "source": "reported"},
    "images": {"input": True, "output": True, "source": "reported"},
    "image_edits": {"input": True, "output": True, "source": "reported"},
}


@pytest.mark.parametrize("surface", USED)
async def test_the_smaller_apis_report_tokens_too(
    surface: str, gateway: RunningGateway, fake: FakeProvider, client: Any
) -> None:
    answer = await ask(client, CASES[surface].operation, **CASES[surface].fields)
    call, usage = only_call(fake), gateway.record(answer.request_id)["usage"]
    assert (usage["input"], usage["output"]) == (call["input_tokens"], call["output_tokens"])
    assert {name: bool(usage[name]) for name in ("input", "output")} | {"source": usage["source"]} == USED[surface]


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
async def test_a_transcription_by_whisper_is_counted_in_seconds(
    stream: bool, gateway: RunningGateway, client: Any
) -> None:
    answer = await ask(client, "audio.transcriptions.create", model="whisper-1", file=WAV, stream=stream)
    usage = gateway.record(answer.request_id)["usage"]
    assert (usage["seconds"], usage["source"]) == (3.0, "reported")  # as long as the fake takes these bytes for


async def test_counting_tokens_and_listing_models_use_nothing(gateway: RunningGateway) -> None:
    async with client_at(DOORS["anthropic"], gateway.url, gateway.key) as client:
        counted = await ask(client, "messages.count_tokens", **CASES["count_tokens"].fields)
        listed = await ask(client, "models.list")
    for answer in (counted, listed):
        assert "usage" not in gateway.record(answer.request_id)


# ---- the answer's headers -----------------------------------------------------------------------------


@pytest.fixture
def raw(gateway: RunningGateway) -> Iterator[httpx.Client]:
    with gateway.client() as made:
        yield made


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
def test_an_answer_has_one_request_id_and_the_providers_own_headers(
    stream: bool, raw: httpx.Client, gateway: RunningGateway, fake: FakeProvider
) -> None:
    answer = raw.post("/v1/chat/completions", json={"model": "gpt-4o", "messages": SAY, "stream": stream})
    assert len(answer.headers.get_list("x-request-id")) == 1
    assert gateway.record(answer.headers["x-request-id"])["status"] == 200
    assert answer.headers["openai-version"] == "2020-10-01"
    assert not [name for name in answer.headers if name.startswith(("x-envoy", "x-sluice"))]
    kind = "text/event-stream" if stream else "application/json"
    assert answer.headers["content-type"].startswith(kind)


def test_a_clients_own_request_id_does_not_become_ours(raw: httpx.Client, gateway: RunningGateway) -> None:
    """Two calls with one id would be one call in the records."""
    headers = {"x-request-id": "chosen-by-a-client", "x-client-request-id": "kept-for-the-provider"}
    answer = raw.post("/v1/chat/completions", json={"model": "gpt-4o", "messages": SAY}, headers=headers)
    assert answer.status_code == 200
    assert answer.headers["x-request-id"] != "chosen-by-a-client"
