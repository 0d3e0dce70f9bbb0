"""Every client x surface x way of answering x feature, with the real SDKs: a cell passes or is a named refusal.

The cells are generated from the tables below. A feature that an API does not have is sent all the same, as a
field that the SDK does not know: the gateway is no judge of fields that its policy does not read.
"""

import json
from base64 import b64decode
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import chain, product
from typing import Any, Literal

import pytest

from tests.support.fake import FakeProvider
from tests.support.gateway import RunningGateway
from tests.support.sdk import ANTHROPIC_DOORS, DOORS, OPENAI_DOORS, Answer, ask, client_at, refusal

pytestmark = [
    pytest.mark.filterwarnings("ignore:deprecated:DeprecationWarning"),  # the SDK's word on translations
    pytest.mark.filterwarnings("ignore:The model 'claude:DeprecationWarning"),  # and on models that grow old
]

Json = dict[str, Any]
Check = Callable[[Answer, bool], None]
"""Looks at an answer; the flag tells whether it was a stream."""

PNG = b64decode("iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNkYPhfDwAChwGA60e6kgAAAABJRU5ErkJggg==")
PNG_URL = "data:image/png;base64,iVBORw0KGgo="
WAV = b"RIFF" + bytes(range(256)) * 8
HELLO = "Hello!"
NO = "I cannot help with that."
SCHEMA = {
    "type": "object",
    "properties": {"city": {"type": "string"}},
    "required": ["city"],
    "additionalProperties": False,
}
TOOLS = {"get_weather": SCHEMA, "get_time": SCHEMA}
REFUSES = {"x_fake": {"refusal": NO}}

FEATURES = ("plain", "tools", "json_schema", "n2", "image", "logprobs", "refusal")


@dataclass(frozen=True, slots=True)
class Feature:
    """The fields that ask for a feature, and what an answer with it looks like; no check: the API has none."""

    fields: Json
    check: Check | None = None


@dataclass(frozen=True, slots=True)
class Surface:
    """One operation of an SDK with the fields of a plain call."""

    operation: str
    fields: Json
    model: str | None
    features: dict[str, Feature]
    streams: bool = False
    counted: bool = False  # the fake and the provider agree on tokens, so the record must, too


def foreign(**fields: Any) -> Feature:
    """A feature that this API does not have: its fields must reach the provider as they are."""
    return Feature({"extra_body": fields})


# ---- chat completions ---------------------------------------------------------------------------------


def chat_text(answer: Answer, stream: bool, field: str = "content") -> list[str]:
    """The text of each choice, put together where it was streamed."""
    if not stream:
        return [getattr(choice.message, field) or "" for choice in answer.value.choices]
    texts: dict[int, str] = {}
    for choice in chain.from_iterable(chunk.choices for chunk in answer.value):
        texts[choice.index] = texts.get(choice.index, "") + (getattr(choice.delta, field) or "")
    return [texts[index] for index in sorted(texts)]


def check_chat(answer: Answer, stream: bool) -> None:
    assert [HELLO in text for text in chat_text(answer, stream)] == [True]


def check_chat_choices(answer: Answer, stream: bool) -> None:
    assert [HELLO in text for text in chat_text(answer, stream)] == [True, True]


def check_chat_tools(answer: Answer, stream: bool) -> None:
    if stream:
        deltas = [call for chunk in answer.value for choice in chunk.choices for call in choice.delta.tool_calls or ()]
        named = {delta.index: delta.function.name for delta in deltas if delta.function.name}
        assert named == dict(enumerate(TOOLS))
        for index in named:
            json.loads("".join(delta.function.arguments or "" for delta in deltas if delta.index == index))
    else:
        calls = answer.value.choices[0].message.tool_calls
        assert [call.function.name for call in calls] == list(TOOLS)
        assert answer.value.choices[0].finish_reason == "tool_calls"


def check_chat_schema(answer: Answer, stream: bool) -> None:
    assert set(json.loads(chat_text(answer, stream)[0])) == {"city"}


def check_chat_logprobs(answer: Answer, stream: bool) -> None:
    choices = [choice for part in (answer.value if stream else [answer.value]) for choice in part.choices]
    tokens = [token for choice in choices if choice.logprobs for token in choice.logprobs.content or ()]
    assert "".join(token.token for token in tokens) == chat_text(answer, stream)[0]
    assert all(token.top_logprobs for token in tokens)


def check_chat_refusal(answer: Answer, stream: bool) -> None:
    assert chat_text(answer, stream, "refusal") == [NO]


def chat_fields(*parts: Json) -> Json:
    content: Any = [{"type": "text", "text": HELLO}, *parts] if parts else HELLO
    return {"messages": [{"role": "user", "content": content}]}


CHAT = Surface(
    "chat.completions.create",
    chat_fields(),
    "gpt-4o",
    {
        "plain": Feature({}, check_chat),
        "tools": Feature(
            {
                "tools": [
                    {"type": "function", "function": {"name": name, "parameters": schema}}
                    for name, schema in TOOLS.items()
                ],
                "parallel_tool_calls": True,
            },
            check_chat_tools,
        ),
        "json_schema": Feature(
            {
                "response_format": {
                    "type": "json_schema",
                    "json_schema": {"name": "place", "schema": SCHEMA, "strict": True},
                }
            },
            check_chat_schema,
        ),
        "n2": Feature({"n": 2}, check_chat_choices),
        "image": Feature(chat_fields({"type": "image_url", "image_url": {"url": PNG_URL}}), check_chat),
        "logprobs": Feature({"logprobs": True, "top_logprobs": 1}, check_chat_logprobs),
        "refusal": Feature({"extra_body": REFUSES}, check_chat_refusal),
    },
    streams=True,
    counted=True,
)


# ---- completions --------------------------------------------------------------------------------------


def check_completion(answer: Answer, stream: bool, choices: int = 1) -> None:
    texts: dict[int, str] = {}
    for part in answer.value if stream else [answer.value]:
        for choice in part.choices:
            texts[choice.index] = texts.get(choice.index, "") + choice.text
    assert sorted(texts) == list(range(choices))
    assert all(texts.values())


def check_completion_choices(answer: Answer, stream: bool) -> None:
    check_completion(answer, stream, 2)


def check_completion_logprobs(answer: Answer, stream: bool) -> None:
    check_completion(answer, stream)
    parts = answer.value if stream else [answer.value]
    assert any(choice.logprobs and choice.logprobs.tokens for part in parts for choice in part.choices)


COMPLETIONS = Surface(
    "completions.create",
    {"prompt": HELLO},
    "gpt-4o",
    {
        "plain": Feature({}, check_completion),
        "tools": foreign(tools=[{"type": "function", "function": {"name": "get_time"}}]),
        "json_schema": foreign(response_format={"type": "json_schema"}),
        "n2": Feature({"n": 2}, check_completion_choices),
        "image": foreign(image_url=PNG_URL),
        "logprobs": Feature({"logprobs": 1}, check_completion_logprobs),
        "refusal": foreign(**REFUSES),
    },
    streams=True,
    counted=True,
)


# ---- responses ----------------------------------------------------------------------------------------


def response_of(answer: Answer, stream: bool) -> Any:
    """The whole response: of a stream, the one that its last event carries."""
    if not stream:
        return answer.value
    assert [event.sequence_number for event in answer.value] == list(range(len(answer.value)))
    assert answer.value[-1].type == "response.completed"
    return answer.value[-1].response


def check_response(answer: Answer, stream: bool) -> None:
    text = response_of(answer, stream).output[0].content[0].text
    assert HELLO in text
    if stream:
        deltas = [event.delta for event in answer.value if event.type == "response.output_text.delta"]
        assert "".join(deltas) == text


def check_response_tools(answer: Answer, stream: bool) -> None:
    output = response_of(answer, stream).output
    assert [item.name for item in output] == list(TOOLS)
    assert {item.type for item in output} == {"function_call"}


def check_response_schema(answer: Answer, stream: bool) -> None:
    assert set(json.loads(response_of(answer, stream).output[0].content[0].text)) == {"city"}


def check_response_refusal(answer: Answer, stream: bool) -> None:
    assert response_of(answer, stream).output[0].content[0].refusal == NO


def response_image() -> Json:
    parts = [{"type": "input_text", "text": HELLO}, {"type": "input_image", "image_url": PNG_URL}]
    return {"input": [{"role": "user", "content": parts}]}


RESPONSES = Surface(
    "responses.create",
    {"input": HELLO},
    "gpt-4o",
    {
        "plain": Feature({}, check_response),
        "tools": Feature(
            {"tools": [{"type": "function", "name": name, "parameters": schema} for name, schema in TOOLS.items()]},
            check_response_tools,
        ),
        "json_schema": Feature(
            {"text": {"format": {"type": "json_schema", "name": "place", "schema": SCHEMA, "strict": True}}},
            check_response_schema,
        ),
        "n2": foreign(n=2),
        "image": Feature(response_image(), check_response),
        "logprobs": Feature({"include": ["message.output_text.logprobs"], "top_logprobs": 1}, check_response),
        "refusal": Feature({"extra_body": REFUSES}, check_response_refusal),
    },
    streams=True,
    counted=True,
)


# ---- messages -----------------------------------------------------------------------------------------


def message_blocks(answer: Answer, stream: bool) -> list[Json]:
    """The content blocks as type, name and text or input; of a stream put together from its deltas."""
    if not stream:
        return [block.model_dump() for block in answer.value.content]
    blocks: list[Json] = []
    for event in answer.value:
        if event.type == "content_block_start":
            blocks.append({**event.content_block.model_dump(), "deltas": ""})
        elif event.type == "content_block_delta":
            delta = event.delta
            blocks[event.index]["deltas"] += delta.text if delta.type == "text_delta" else delta.partial_json
    assert answer.value[-1].type == "message_stop"
    for block in blocks:
        if block["type"] == "tool_use":
            block["input"] = json.loads(block["deltas"])
        else:
            block["text"] = block["deltas"]
    return blocks


def check_message(answer: Answer, stream: bool) -> None:
    (block,) = message_blocks(answer, stream)
    assert HELLO in block["text"]


def check_message_tools(answer: Answer, stream: bool) -> None:
    blocks = message_blocks(answer, stream)
    assert [block["name"] for block in blocks] == list(TOOLS)
    assert all(set(block["input"]) == {"city"} for block in blocks)


def check_message_refusal(answer: Answer, stream: bool) -> None:
    reasons = [event.delta.stop_reason for event in answer.value if event.type == "message_delta"] if stream else None
    assert (reasons or [answer.value.stop_reason]) == ["refusal"]


def message_fields(*parts: Json) -> Json:
    content: Any = [{"type": "text", "text": HELLO}, *parts] if parts else HELLO
    return {"max_tokens": 100, "messages": [{"role": "user", "content": content}]}


MESSAGES = Surface(
    "messages.create",
    message_fields(),
    "claude-sonnet-5-5",
    {
        "plain": Feature({}, check_message),
        "tools": Feature(
            {"tools": [{"name": name, "input_schema": schema} for name, schema in TOOLS.items()]}, check_message_tools
        ),
        "json_schema": Feature(
            {"output_config": {"format": {"type": "json_schema", "schema": SCHEMA}}},
            check_message,
        ),
        "n2": foreign(n=2),
        "image": Feature(
            message_fields(
                {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "iVBORw0KGgo="}}
            ),
            check_message,
        ),
        "logprobs": foreign(logprobs=True),
        "refusal": Feature({"extra_body": REFUSES}, check_message_refusal),
    },
    streams=True,
    counted=True,
)


# ---- the smaller APIs: a plain call each --------------------------------------------------------------


def check_embedding(answer: Answer, stream: bool) -> None:
    assert [len(item.embedding) > 0 for item in answer.value.data] == [True, True]


def check_transcript(answer: Answer, stream: bool) -> None:
    if stream:
        text = "".join(event.delta for event in answer.value if event.type == "transcript.text.delta")
        assert answer.value[-1].text == text
    else:
        text = answer.value.text
    assert f"({len(WAV)} bytes)" in text


def check_speech(answer: Answer, stream: bool) -> None:
    assert answer.value.content.startswith(b"ID3")
    assert answer.headers["content-type"] == "audio/mpeg"


def check_image(answer: Answer, stream: bool) -> None:
    assert [b64decode(image.b64_json) for image in answer.value.data] == [PNG]


def check_moderation(answer: Answer, stream: bool) -> None:
    assert [result.flagged for result in answer.value.results] == [True]


def check_models(answer: Answer, stream: bool) -> None:
    assert {"gpt-4o", "claude-sonnet-5-5"} <= {model.id for model in answer.value.data}


def check_count(answer: Answer, stream: bool) -> None:
    assert answer.value.input_tokens > 0


def simple(operation: str, check: Check, model: str | None, /, streams: bool = False, **fields: Any) -> Surface:
    return Surface(operation, fields, model, {"plain": Feature({}, check)}, streams)


SURFACES = {
    "chat": CHAT,
    "completions": COMPLETIONS,
    "responses": RESPONSES,
    "embeddings": simple("embeddings.create", check_embedding, "text-embedding-3-small", input=[HELLO, "World"]),
    "transcriptions": simple(
        "audio.transcriptions.create", check_transcript, "whisper-1", streams=True, file=("a.wav", WAV)
    ),
    "translations": simple("audio.translations.create", check_transcript, "whisper-1", file=("a.wav", WAV)),
    "speech": simple("audio.speech.create", check_speech, "gpt-4o-mini-tts", input=HELLO, voice="alloy"),
    "images": simple("images.generate", check_image, "gpt-image-1", prompt=HELLO),
    "image_edits": simple("images.edit", check_image, "gpt-image-1", image=("a.png", PNG), prompt=HELLO),
    "moderations": simple("moderations.create", check_moderation, "omni-moderation-latest", input="[flag]"),
    "models": simple("models.list", check_models, None),
}
ANTHROPIC_SURFACES = {
    "messages": MESSAGES,
    "count_tokens": simple(
        "messages.count_tokens",
        check_count,
        "claude-sonnet-5-5",
        messages=[{"role": "user", "content": HELLO}],
    ),
    "models": simple("models.list", check_models, None),
}

REFUSED = {("azure-legacy", "moderations"): (404, "unknown_url")}
"""Cells by (family, surface) that are refused: the legacy API of Azure has no moderations."""


@dataclass(frozen=True, slots=True)
class Cell:
    """One combination; `name` is its test id."""

    door: str
    surface: str
    how: Literal["whole", "stream"]
    feature: str

    @property
    def name(self) -> str:
        return f"{self.door}-{self.surface}-{self.how}-{self.feature}"


def cells() -> Iterator[Cell]:
    for doors, surfaces in ((OPENAI_DOORS, SURFACES), (ANTHROPIC_DOORS, ANTHROPIC_SURFACES)):
        for door, (name, surface) in product(doors, surfaces.items()):
            for feature in surface.features:
                yield Cell(door.name, name, "whole", feature)
                if surface.streams:
                    yield Cell(door.name, name, "stream", feature)


def surface_of(cell: Cell) -> Surface:
    table = ANTHROPIC_SURFACES if DOORS[cell.door].family == "anthropic" else SURFACES
    return table[cell.surface]


def request_fields(surface: Surface, feature: Feature, stream: bool) -> Json:
    model = {} if surface.model is None else {"model": surface.model}
    return {**model, **surface.fields, **feature.fields, **({"stream": True} if stream else {})}


@pytest.mark.parametrize("cell", list(cells()), ids=lambda cell: cell.name)
async def test_cell(cell: Cell, gateway: RunningGateway, fake: FakeProvider) -> None:
    surface, door = surface_of(cell), DOORS[cell.door]
    feature, stream = surface.features[cell.feature], cell.how == "stream"
    fields = request_fields(surface, feature, stream)
    async with client_at(door, gateway.url, gateway.key) as client:
        if (door.family, cell.surface) in REFUSED:
            error = await refusal(client, surface.operation, **fields)
            assert (error.status_code, error.code) == REFUSED[door.family, cell.surface]
            assert backend_calls(fake) == []
            return
        answer = await ask(client, surface.operation, **fields)
    if feature.check is not None:
        feature.check(answer, stream)
    else:
        assert sent_fields(fake).items() >= feature.fields["extra_body"].items()
    record = gateway.record(answer.request_id)
    assert (record["status"], record["surface"], record["key"]) == (200, cell.surface, "quickstart")
    if surface.counted:
        assert_counted(record, fake)


def backend_calls(fake: FakeProvider) -> list[Json]:
    return [call for name in ("openai", "azure", "azure-v1", "anthropic") for call in fake.calls(name)]


def sent_fields(fake: FakeProvider) -> Json:
    (call,) = backend_calls(fake)
    fields: Json = json.loads(b64decode(call["body_base64"]))
    return fields


def assert_counted(record: Json, fake: FakeProvider) -> None:
    """The record has what the fake itself counted, by its own tokenizer."""
    (call,) = backend_calls(fake)
    usage = record["usage"]
    assert (usage["input"], usage["output"], usage["source"]) == (
        call["input_tokens"],
        call["output_tokens"],
        "reported",
    )


def test_the_tables_name_every_feature_of_every_generating_surface() -> None:
    for surface in (CHAT, COMPLETIONS, RESPONSES, MESSAGES):
        assert tuple(surface.features) == FEATURES


# ---- surface x dialect of the backend -----------------------------------------------------------------

BACKENDS = {
    "openai": "gpt-4o",
    "openai-renamed": "gpt-4o-mini",
    "azure": "gpt-4o-azure",
    "azure-v1": "gpt-4o-azure-v1",
    "chain": "gpt-4o-chain",
    "anthropic": "claude-sonnet-5-5",
}
"""A model for each kind of backend."""


def unsupported(backend: str, surface: str) -> bool:
    """What a backend's dialect does not have, and nothing is translated into, is a 400 that says so."""
    if surface in ("chat", "messages"):
        return False
    if surface == "count_tokens":
        return backend != "anthropic"
    return backend == "anthropic" or (surface == "moderations" and backend in ("azure", "azure-v1"))


ACROSS = [
    (backend, door, name, how)
    for backend in BACKENDS
    for door, table in (("openai", SURFACES), ("anthropic", ANTHROPIC_SURFACES))
    for name, surface in table.items()
    if surface.model is not None
    for how in (("whole", "stream") if surface.streams else ("whole",))
]


@pytest.mark.parametrize(("backend", "door", "name", "how"), ACROSS, ids=lambda part: str(part))
async def test_surface_at_backend(
    backend: str, door: str, name: str, how: str, gateway: RunningGateway, fake: FakeProvider
) -> None:
    surface = (SURFACES if door == "openai" else ANTHROPIC_SURFACES)[name]
    fields = {**request_fields(surface, surface.features["plain"], how == "stream"), "model": BACKENDS[backend]}
    async with client_at(DOORS[door], gateway.url, gateway.key) as client:
        if unsupported(backend, name):
            error = await refusal(client, surface.operation, **fields)
            assert (error.status_code, error.response.json()["error"]["code"]) == (400, "unsupported_by_model")
            assert backend_calls(fake) == []
            return
        answer = await ask(client, surface.operation, **fields)
    check = surface.features["plain"].check
    assert check is not None
    check(answer, how == "stream")
    record = gateway.record(answer.request_id)
    assert (record["status"], record["model"]) == (200, BACKENDS[backend])
    if surface.counted:
        assert_counted(record, fake)
