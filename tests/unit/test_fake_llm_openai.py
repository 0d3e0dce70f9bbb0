"""The fake's OpenAI and Azure surfaces, read by the real `openai` SDK."""

import base64
import math
from collections.abc import Callable, Iterator
from typing import Any

import httpx
import openai
import pytest
from openai import AsyncOpenAI, AzureOpenAI, OpenAI
from openai.types.chat import ChatCompletionMessageParam, ChatCompletionToolParam
from pydantic import BaseModel

from loadtest.fake_llm import tokenizer
from tests.support.fake import FakeProvider

ASKED = "What is the weather in Paris?"
ECHO = f"You said: {ASKED}. the quick brown fox jumps"
MESSAGES: list[ChatCompletionMessageParam] = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": ASKED},
]
PROMPT_TOKENS = tokenizer.count("Be brief.") + tokenizer.count(ASKED)
_CITY: dict[str, object] = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
TOOLS: list[ChatCompletionToolParam] = [
    {"type": "function", "function": {"name": "weather", "parameters": _CITY}},
    {"type": "function", "function": {"name": "time_now"}},
]


@pytest.fixture(scope="module")
def fake() -> Iterator[FakeProvider]:
    with FakeProvider("one", "two") as provider:
        yield provider


@pytest.fixture(params=["openai", "azure v1", "azure legacy"])
def client(fake: FakeProvider, request: pytest.FixtureRequest) -> Iterator[OpenAI]:
    url = fake.url("one")
    clients: dict[str, Callable[[], OpenAI]] = {
        "openai": lambda: OpenAI(base_url=f"{url}/v1", api_key="k", max_retries=0),
        "azure v1": lambda: OpenAI(base_url=f"{url}/openai/v1/", api_key="k", max_retries=0),
        "azure legacy": lambda: AzureOpenAI(azure_endpoint=url, api_key="k", api_version="2024-10-21", max_retries=0),
    }
    with clients[request.param]() as made:
        yield made


@pytest.fixture
def plain(fake: FakeProvider) -> Iterator[OpenAI]:
    with OpenAI(base_url=f"{fake.url('one')}/v1", api_key="k", max_retries=0) as made:
        yield made


# ---- chat ----------------------------------------------------------------------------------------


def test_chat_echoes_and_counts(client: OpenAI, fake: FakeProvider) -> None:
    answer = client.chat.completions.create(model="gpt-4o", messages=MESSAGES)
    assert answer.choices[0].message.content == ECHO
    assert answer.choices[0].finish_reason == "stop"
    assert answer.usage is not None
    assert answer.usage.prompt_tokens == PROMPT_TOKENS
    assert answer.usage.completion_tokens == tokenizer.count(ECHO) == 16
    call = fake.calls("one")[-1]
    assert (call["input_tokens"], call["output_tokens"]) == (PROMPT_TOKENS, 16)
    assert call["finished"]


def test_chat_stream_says_the_same_as_json(client: OpenAI, fake: FakeProvider) -> None:
    with client.chat.completions.create(
        model="gpt-4o", messages=MESSAGES, stream=True, stream_options={"include_usage": True}
    ) as stream:
        chunks = list(stream)
    said = [choice.delta.content or "" for chunk in chunks for choice in chunk.choices]
    assert "".join(said) == ECHO
    assert [chunk.usage for chunk in chunks[:-1]] == [None] * (len(chunks) - 1)
    assert chunks[-1].choices == []
    assert chunks[-1].usage is not None
    assert chunks[-1].usage.completion_tokens == fake.calls("one")[-1]["output_tokens"] == 16


def test_only_azure_begins_a_stream_with_prompt_filter_results(fake: FakeProvider) -> None:
    body = {"model": "m", "messages": MESSAGES, "stream": True}
    first = {}
    for path in ("/v1/chat/completions", "/openai/v1/chat/completions"):
        text = httpx.post(fake.url("one") + path, json=body, trust_env=False).text
        first[path] = text.partition("\n\n")[0]
    assert "prompt_filter_results" not in first["/v1/chat/completions"]
    assert first["/openai/v1/chat/completions"].startswith('data: {"choices":[],')
    assert "prompt_filter_results" in first["/openai/v1/chat/completions"]


@pytest.mark.parametrize(("asked", "named"), [(True, '"usage":null'), (False, "")])
def test_usage_is_named_in_every_chunk_only_when_asked_for(fake: FakeProvider, asked: bool, named: str) -> None:
    body = {"model": "m", "messages": MESSAGES, "stream": True, "stream_options": {"include_usage": asked}}
    text = httpx.post(f"{fake.url('one')}/v1/chat/completions", json=body, trust_env=False).text
    assert text.endswith("data: [DONE]\n\n")
    chunks = text.split("\n\n")[:-2]
    content = chunks[:-1] if asked else chunks
    assert all((named in chunk) if asked else ("usage" not in chunk) for chunk in content)


def test_n_choices_differ_and_are_interleaved(plain: OpenAI) -> None:
    whole = plain.chat.completions.create(model="m", messages=MESSAGES, n=2)
    texts = [choice.message.content for choice in whole.choices]
    assert texts[0] != texts[1]
    with plain.chat.completions.create(model="m", messages=MESSAGES, n=2, stream=True) as stream:
        deltas = [(c.index, c.delta.content) for chunk in stream for c in chunk.choices if c.delta.content]
    assert ["".join(text or "" for index, text in deltas if index == one) for one in (0, 1)] == texts
    assert [index for index, _ in deltas[:4]] == [0, 1, 0, 1]


def test_max_tokens_cuts(plain: OpenAI) -> None:
    answer = plain.chat.completions.create(model="m", messages=MESSAGES, max_completion_tokens=3)
    assert answer.choices[0].message.content == "You said:"
    assert answer.choices[0].finish_reason == "length"


def test_parallel_tool_calls_in_json_and_in_a_stream(client: OpenAI) -> None:
    answer = client.chat.completions.create(model="m", messages=MESSAGES, tools=TOOLS)
    assert answer.choices[0].finish_reason == "tool_calls"
    calls = [call.function for call in answer.choices[0].message.tool_calls or () if call.type == "function"]
    assert [(call.name, call.arguments) for call in calls] == [("weather", '{"city":"text"}'), ("time_now", "{}")]
    with client.chat.completions.stream(model="m", messages=MESSAGES, tools=TOOLS) as stream:
        final = stream.get_final_completion()
    assert final.choices[0].finish_reason == "tool_calls"
    streamed = [call.function for call in final.choices[0].message.tool_calls or ()]
    assert [(call.name, call.arguments) for call in streamed] == [(call.name, call.arguments) for call in calls]


def test_the_tool_calls_of_a_call_without_parallelism_and_after_an_answer(plain: OpenAI) -> None:
    one = plain.chat.completions.create(model="m", messages=MESSAGES, tools=TOOLS, parallel_tool_calls=False)
    called = one.choices[0].message.tool_calls or []
    assert len(called) == 1
    answered: list[ChatCompletionMessageParam] = [
        *MESSAGES,
        {"role": "assistant", "tool_calls": [called[0].to_dict()]},  # type: ignore[list-item]
        {"role": "tool", "tool_call_id": called[0].id, "content": "sunny"},
    ]
    after = plain.chat.completions.create(model="m", messages=answered, tools=TOOLS)
    assert after.choices[0].message.content == ECHO


class _Person(BaseModel):
    name: str
    age: int
    friends: list[str]


def test_structured_output_satisfies_its_schema(client: OpenAI) -> None:
    answer = client.chat.completions.parse(model="m", messages=MESSAGES, response_format=_Person)
    assert answer.choices[0].message.parsed == _Person(name="text", age=1, friends=["text"])


def test_json_object(plain: OpenAI) -> None:
    answer = plain.chat.completions.create(model="m", messages=MESSAGES, response_format={"type": "json_object"})
    assert answer.choices[0].message.content == f'{{"answer":"You said: {ASKED}"}}'


def test_logprobs_cover_every_token(plain: OpenAI) -> None:
    answer = plain.chat.completions.create(model="m", messages=MESSAGES, logprobs=True, top_logprobs=1)
    assert answer.choices[0].logprobs is not None
    listed = answer.choices[0].logprobs.content or []
    assert "".join(one.token for one in listed) == ECHO
    assert all(one.bytes == list(one.token.encode()) and len(one.top_logprobs) == 1 for one in listed)


def test_refusal_in_json_and_in_a_stream(plain: OpenAI) -> None:
    fault = {"x_fake": {"refusal": "I will not."}}
    whole = plain.chat.completions.create(model="m", messages=MESSAGES, extra_body=fault)
    assert (whole.choices[0].message.content, whole.choices[0].message.refusal) == (None, "I will not.")
    with plain.chat.completions.create(model="m", messages=MESSAGES, stream=True, extra_body=fault) as stream:
        said = [choice.delta.refusal or "" for chunk in stream for choice in chunk.choices]
    assert "".join(said) == "I will not."


def test_image_audio_and_file_parts_have_a_price(plain: OpenAI, fake: FakeProvider) -> None:
    parts: list[ChatCompletionMessageParam] = [
        {
            "role": "user",
            "content": [
                {"type": "text", "text": "Look"},
                {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}},
                {"type": "input_audio", "input_audio": {"data": "AAAA", "format": "wav"}},
                {"type": "file", "file": {"file_data": "AAAA", "filename": "a.pdf"}},
            ],
        }
    ]
    answer = plain.chat.completions.create(model="m", messages=parts)
    assert (answer.choices[0].message.content or "").startswith("You said: Look.")
    assert fake.calls("one")[-1]["input_tokens"] == 1 + 85 + 50 + 50


async def test_the_async_client(fake: FakeProvider) -> None:
    async with AsyncOpenAI(base_url=f"{fake.url('one')}/v1", api_key="k", max_retries=0) as client:
        answer = await client.chat.completions.create(model="m", messages=MESSAGES)
        assert answer.choices[0].message.content == ECHO
        stream = await client.chat.completions.create(model="m", messages=MESSAGES, stream=True)
        async with stream:
            said = [choice.delta.content or "" async for chunk in stream for choice in chunk.choices]
        assert "".join(said) == ECHO


def test_usage_details_are_those_asked_for(plain: OpenAI) -> None:
    details = {"x_fake": {"cached_tokens": 100, "reasoning_tokens": 7}}
    answer = plain.chat.completions.create(model="m", messages=MESSAGES, extra_body=details)
    usage = answer.usage
    assert usage is not None
    assert usage.prompt_tokens_details is not None
    assert usage.completion_tokens_details is not None
    assert (usage.prompt_tokens, usage.prompt_tokens_details.cached_tokens) == (100, 100)
    assert (usage.completion_tokens, usage.completion_tokens_details.reasoning_tokens) == (16 + 7, 7)


# ---- the other operations ------------------------------------------------------------------------


@pytest.mark.parametrize(("prompt", "count"), [("Once upon", 1), (["a", "b"], 2), ([1, 2, 3], 1), ([[1, 2], [3]], 2)])
def test_completions(client: OpenAI, prompt: Any, count: int) -> None:
    answer = client.completions.create(model="m", prompt=prompt, max_tokens=4, logprobs=1)
    assert [choice.finish_reason for choice in answer.choices] == ["length"] * count
    with client.completions.create(model="m", prompt=prompt, max_tokens=4, stream=True) as stream:
        chunks = list(stream)
    for choice in answer.choices:
        streamed = [one.text for chunk in chunks for one in chunk.choices if one.index == choice.index]
        assert "".join(streamed) == choice.text


def test_embeddings_are_unit_vectors_of_their_text(client: OpenAI) -> None:
    answer = client.embeddings.create(model="m", input=["a", "b", "a"])
    vectors = [item.embedding for item in answer.data]
    assert vectors[0] == vectors[2] != vectors[1]
    assert len(vectors[0]) == 1536
    assert math.hypot(*vectors[0]) == pytest.approx(1)
    assert answer.usage.prompt_tokens == 3
    small = client.embeddings.create(model="m", input=[[1, 2], [3]], dimensions=8, encoding_format="float")
    assert [len(item.embedding) for item in small.data] == [8, 8]
    assert small.usage.prompt_tokens == 3


@pytest.mark.parametrize(("model", "kind"), [("whisper-1", "duration"), ("gpt-4o-transcribe", "tokens")])
def test_transcription(client: OpenAI, model: Any, kind: str) -> None:
    answer = client.audio.transcriptions.create(model=model, file=("a.wav", b"\0" * 40_000))
    assert answer.text == "Transcript of a.wav (40000 bytes)."
    assert answer.usage is not None
    assert answer.usage.type == kind


def test_transcription_formats_and_stream(plain: OpenAI, fake: FakeProvider) -> None:
    sound = ("a.wav", b"x")
    text = plain.audio.transcriptions.create(model="whisper-1", file=sound, response_format="text")
    assert text == "Transcript of a.wav (1 bytes).\n"
    verbose = plain.audio.transcriptions.create(model="whisper-1", file=sound, response_format="verbose_json")
    assert (verbose.duration, len(verbose.segments or ())) == (1.0, 1)
    with plain.audio.transcriptions.create(model="gpt-4o-transcribe", file=sound, stream=True) as stream:
        events = list(stream)
    said = [event.delta for event in events if event.type == "transcript.text.delta"]
    assert "".join(said) == "Transcript of a.wav (1 bytes)."
    last = events[-1]
    assert last.type == "transcript.text.done"
    assert last.usage is not None
    assert last.usage.output_tokens == fake.calls("one")[-1]["output_tokens"] == len(said)


def test_translation_speech_and_images(client: OpenAI) -> None:
    with pytest.warns(DeprecationWarning, match="deprecated"):  # the SDK's; the path is served all the same
        translated = client.audio.translations.create(model="whisper-1", file=("b.mp3", b"abc"))
    assert translated.text == "Transcript of b.mp3 (3 bytes)."
    spoken = client.audio.speech.create(model="tts-1", voice="alloy", input="Say this", response_format="wav")
    assert spoken.response.headers["content-type"] == "audio/wav"
    assert len(spoken.content) == 3 + 2 * 512
    painted = client.images.generate(model="gpt-image-1", prompt="a red fox", n=2)
    assert painted.data is not None
    assert base64.b64decode(painted.data[1].b64_json or "").startswith(b"\x89PNG")
    assert painted.usage is not None
    assert (painted.usage.input_tokens, painted.usage.output_tokens) == (3, 544)
    edited = client.images.edit(model="gpt-image-1", prompt="a red fox", image=("a.png", b"png"))
    assert edited.usage is not None
    assert edited.usage.input_tokens_details.image_tokens == 85


def test_models_moderations_and_rerank(plain: OpenAI, fake: FakeProvider) -> None:
    assert "gpt-4o" in [model.id for model in plain.models.list()]
    assert plain.models.retrieve("gpt-4o").id == "gpt-4o"
    with pytest.raises(openai.NotFoundError):
        plain.models.retrieve("gpt-none")
    flags = [result.flagged for result in plain.moderations.create(input=["fine", "not [flag] fine"]).results]
    assert flags == [False, True]
    ranked = httpx.post(
        f"{fake.url('one')}/v1/rerank",
        json={"model": "m", "query": "red fox", "documents": ["a dog", "a fox", "the red fox"], "top_n": 2},
        trust_env=False,
    ).json()
    assert [result["index"] for result in ranked["results"]] == [2, 1]


# ---- responses -----------------------------------------------------------------------------------


def test_response_and_its_stream_say_the_same(client: OpenAI, fake: FakeProvider) -> None:
    whole = client.responses.create(model="m", input=ASKED, instructions="Be brief.")
    assert (whole.status, whole.output_text) == ("completed", ECHO)
    assert whole.usage is not None
    assert (whole.usage.input_tokens, whole.usage.output_tokens) == (PROMPT_TOKENS, 16)
    with client.responses.create(model="m", input=ASKED, stream=True) as stream:
        events = list(stream)
    assert [event.sequence_number for event in events] == list(range(len(events)))
    kinds = list(dict.fromkeys(event.type for event in events))
    assert kinds == [
        "response.created",
        "response.in_progress",
        "response.output_item.added",
        "response.content_part.added",
        "response.output_text.delta",
        "response.output_text.done",
        "response.content_part.done",
        "response.output_item.done",
        "response.completed",
    ]
    last = events[-1]
    assert last.type == "response.completed"
    assert last.response.output_text == ECHO
    assert fake.calls("one")[-1]["output_tokens"] == 16


def test_response_with_function_calls_reasoning_and_refusal(plain: OpenAI) -> None:
    tools: Any = [{"type": "function", "name": "weather", "parameters": _CITY, "strict": True}]
    with plain.responses.stream(
        model="m",
        input=ASKED,
        tools=tools,
        include=["reasoning.encrypted_content"],
        extra_body={"x_fake": {"reasoning_tokens": 5}},
    ) as stream:
        final = stream.get_final_response()
    reasoning, call = final.output
    assert reasoning.type == "reasoning"
    assert reasoning.encrypted_content
    assert call.type == "function_call"
    assert (call.name, call.arguments) == ("weather", '{"city":"text"}')
    assert final.usage is not None
    assert final.usage.output_tokens_details.reasoning_tokens == 5
    with plain.responses.stream(model="m", input=ASKED, extra_body={"x_fake": {"refusal": "No."}}) as stream:
        part = stream.get_final_response().to_dict()["output"][0]["content"][0]  # type: ignore[index]
    assert part == {"type": "refusal", "refusal": "No."}


def test_a_cut_response_is_incomplete(plain: OpenAI) -> None:
    whole = plain.responses.create(model="m", input=ASKED, max_output_tokens=2)
    assert (whole.status, whole.output_text) == ("incomplete", "You said")
    with plain.responses.create(model="m", input=ASKED, max_output_tokens=2, stream=True) as stream:
        assert [event.type for event in stream][-1] == "response.incomplete"


def test_structured_response(plain: OpenAI) -> None:
    parsed = plain.responses.parse(model="m", input=ASKED, text_format=_Person)
    assert parsed.output_parsed == _Person(name="text", age=1, friends=["text"])


def test_a_response_lives_on_its_own_instance_only(plain: OpenAI, fake: FakeProvider) -> None:
    first = plain.responses.create(model="m", input=ASKED, include=["reasoning.encrypted_content"])
    next_one = plain.responses.create(model="m", input="And now?", previous_response_id=first.id)
    assert first.usage is not None
    assert next_one.usage is not None
    assert next_one.usage.input_tokens == first.usage.total_tokens + tokenizer.count("And now?")
    carried: Any = [item.to_dict() for item in first.output]
    plain.responses.create(model="m", input=carried)
    plain.responses.create(model="m", input=[{"type": "item_reference", "id": first.output[1].id or ""}])
    with OpenAI(base_url=f"{fake.url('two')}/v1", api_key="k", max_retries=0) as other:
        with pytest.raises(openai.BadRequestError, match="not found") as refused:
            other.responses.create(model="m", input="And now?", previous_response_id=first.id)
        assert refused.value.code == "previous_response_not_found"
        with pytest.raises(openai.BadRequestError) as unverified:
            other.responses.create(model="m", input=carried)
        assert unverified.value.code == "invalid_encrypted_content"
        with pytest.raises(openai.NotFoundError):
            other.responses.create(model="m", input=[{"type": "item_reference", "id": "msg_one000001"}])
        with pytest.raises(openai.NotFoundError):
            other.responses.retrieve(first.id)


def test_a_stored_response_is_retrieved_listed_and_deleted(client: OpenAI) -> None:
    made = client.responses.create(model="m", input=ASKED)
    assert client.responses.retrieve(made.id).output_text == ECHO
    (item,) = client.responses.input_items.list(made.id)
    assert item.type == "message"
    client.responses.delete(made.id)
    with pytest.raises(openai.NotFoundError):
        client.responses.retrieve(made.id)
    unstored = client.responses.create(model="m", input=ASKED, store=False)
    with pytest.raises(openai.NotFoundError):
        client.responses.retrieve(unstored.id)


def test_a_background_response_is_queued_then_done_or_cancelled(plain: OpenAI) -> None:
    queued = plain.responses.create(model="m", input=ASKED, background=True)
    assert (queued.status, queued.usage, queued.output) == ("queued", None, [])
    assert plain.responses.retrieve(queued.id).status == "completed"
    with pytest.raises(openai.BadRequestError):
        plain.responses.cancel(queued.id)
    dropped = plain.responses.create(model="m", input=ASKED, background=True)
    assert plain.responses.cancel(dropped.id).status == "cancelled"


# ---- refusals ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("method", "path", "body", "status", "param"),
    [
        ("POST", "/v1/chat/completions", b'{"model":"m"}', 400, "messages"),
        ("POST", "/v1/chat/completions", b'{"model":"m","messages":[]}', 400, "messages"),
        ("POST", "/v1/chat/completions", b'{"messages":[{}]}', 400, "model"),
        ("POST", "/v1/chat/completions", b'{"model":"m","messages":[{"role":"us', 400, None),
        ("POST", "/v1/chat/completions", b"[1]", 400, None),
        ("POST", "/v1/chat/completions", b'{"model":"m","messages":[{}],"tools":7}', 400, None),
        ("POST", "/v1/responses", b'{"model":"m"}', 400, "input"),
        ("POST", "/v1/embeddings", b'{"model":"m","input":""}', 400, "input"),
        ("GET", "/v1/chat/completions", b"", 405, None),
        ("POST", "/v1/nothing", b"{}", 404, None),
    ],
)
def test_bad_requests_in_openai_shape(
    fake: FakeProvider, method: str, path: str, body: bytes, status: int, param: str | None
) -> None:
    answer = httpx.request(method, fake.url("one") + path, content=body, trust_env=False)
    assert answer.status_code == status
    error = answer.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert (error["type"], error["param"]) == ("invalid_request_error", param)


@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("/openai/deployments/d/chat/completions", 404),
        ("/openai/deployments/d/responses?api-version=1", 404),
        ("/openai/models", 404),
        ("/openai/models?api-version=1", 200),
    ],
)
def test_azure_needs_an_api_version_and_knows_its_paths(fake: FakeProvider, path: str, status: int) -> None:
    method = "GET" if "models" in path else "POST"
    answer = httpx.request(method, fake.url("one") + path, json={}, trust_env=False)
    assert answer.status_code == status
    if status == 404:
        assert answer.json() == {"error": {"code": "404", "message": "Resource not found"}}
