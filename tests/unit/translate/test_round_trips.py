"""There and back: what chat and Messages both can say comes back equal, as the official SDKs' own types read it.

Requests are made from the fields that the tables of both directions call mapped. What both directions write in one
way only is given in that way: texts as blocks, one system message, the bounds and the usage always.
"""

import json
from collections.abc import Iterable, Mapping
from typing import Any

import anthropic
import httpx2
import orjson
from anthropic.types import Message, MessageCreateParams
from hypothesis import given, settings
from hypothesis import strategies as st
from openai.types.chat import ChatCompletion
from openai.types.chat.completion_create_params import CompletionCreateParams
from pydantic import TypeAdapter

from extproc.dialects.translate.chat_to_anthropic import CHAT_TO_ANTHROPIC
from extproc.dialects.translate.direction import Asked, Direction
from extproc.dialects.translate.messages_to_chat import MESSAGES_TO_CHAT
from tests.unit.translate import test_chat_to_anthropic as chat_table
from tests.unit.translate import test_messages_to_chat_fields as messages_table

Json = dict[str, Any]
BEGAN = 1_800_000_000
CHAT: TypeAdapter[Any] = TypeAdapter(CompletionCreateParams)
MESSAGES: TypeAdapter[Any] = TypeAdapter(MessageCreateParams)


def carried(direction: Direction, request: Json, model: str) -> Json:
    refused = direction.refused(request)
    assert refused is None, refused
    made: Json = json.loads(orjson.dumps(direction.request(request, model)))
    return made


def as_read(adapter: TypeAdapter[Any], request: Json) -> object:
    """What the SDK's type makes of it, read to its end."""
    return plain(adapter.validate_python(request))


def plain(value: object) -> object:
    if isinstance(value, Mapping):
        return {name: plain(inner) for name, inner in value.items()}
    if isinstance(value, Iterable) and not isinstance(value, str):
        return [plain(inner) for inner in value]
    return value


# ---- what both can say --------------------------------------------------------------------------------

texts = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=12).filter(str.strip)
names = st.from_regex(r"[a-z][a-z_]{0,7}", fullmatch=True)
ids = st.integers(0, 99).map("call_{}".format)
arguments = st.dictionaries(names, st.none() | st.booleans() | st.integers(-9, 9) | texts, max_size=3)
pixels = st.sampled_from(["data:image/png;base64,iVBORw0KGgo=", "https://images.example/a.png"])
schemas = st.dictionaries(names, st.sampled_from([{"type": "string"}, {"type": "number"}]), max_size=2).map(
    lambda properties: {"type": "object", "properties": properties}
)
shares = st.floats(0, 0.99)


def mapping(required: Json, optional: Json) -> st.SearchStrategy[Json]:
    return st.fixed_dictionaries(required, optional=optional)


def chat_parts(kinds: st.SearchStrategy[Json]) -> st.SearchStrategy[object]:
    """One text alone is a string, as some servers know nothing else."""
    lists = st.lists(kinds, min_size=1, max_size=3)
    return lists.map(lambda parts: parts[0]["text"] if len(parts) == 1 and "text" in parts[0] else parts)


chat_texts = texts.map(lambda text: {"type": "text", "text": text})
chat_images = pixels.map(lambda url: {"type": "image_url", "image_url": {"url": url}})
chat_calls = st.builds(
    lambda call, name, given: {
        "id": call,
        "type": "function",
        "function": {"name": name, "arguments": orjson.dumps(given).decode()},
    },
    *(ids, names, arguments),
)


@st.composite
def chat_conversations(draw: st.DrawFn) -> list[Json]:
    user = st.fixed_dictionaries({"role": st.just("user"), "content": chat_parts(chat_texts | chat_images)})
    made = [{"role": "system", "content": draw(chat_parts(chat_texts))}] if draw(st.booleans()) else []
    for _ in range(draw(st.integers(0, 2))):
        calls = draw(st.lists(chat_calls, max_size=2))
        said = draw(chat_parts(chat_texts)) if not calls or draw(st.booleans()) else None
        made += [draw(user), {"role": "assistant", "content": said, **({"tool_calls": calls} if calls else {})}]
        results = chat_parts(chat_texts)
        made += [{"role": "tool", "tool_call_id": call["id"], "content": draw(results)} for call in calls]
    return [*made, draw(user)]


chat_tools = st.lists(
    mapping({"name": names, "parameters": schemas}, {"description": texts, "strict": st.just(True)}).map(
        lambda function: {"type": "function", "function": function}
    ),
    min_size=1,
    max_size=2,
)
CHAT_FIELDS: Mapping[str, st.SearchStrategy[Any]] = {
    "temperature": shares,
    "top_p": shares,
    "stop": st.lists(texts, min_size=1, max_size=2),
    "service_tier": st.just("default"),
    "response_format": schemas.map(
        lambda schema: {"type": "json_schema", "json_schema": {"name": "answer", "schema": schema, "strict": True}}
    ),
    "reasoning_effort": st.sampled_from(["low", "medium", "high", "xhigh", "max"]),
    "tools": chat_tools,
    "stream": st.just(True),
}
CHOICES = st.sampled_from(["none", "required", "named"])


@st.composite
def chats(draw: st.DrawFn) -> Json:
    request = draw(
        mapping(
            {"model": st.just("m"), "messages": chat_conversations(), "max_completion_tokens": st.integers(1, 10**6)},
            dict(CHAT_FIELDS),
        )
    )
    if "reasoning_effort" in request:  # it bounds what else can be said
        request = {name: value for name, value in request.items() if name not in ("temperature", "top_p")}
    elif "tools" in request and draw(st.booleans()):
        choice = draw(CHOICES)
        named = {"type": "function", "function": {"name": request["tools"][0]["function"]["name"]}}
        request["tool_choice"] = named if choice == "named" else choice
        if choice != "none" and draw(st.booleans()):
            request["parallel_tool_calls"] = False
    if "stream" in request:
        request["stream_options"] = {"include_usage": True}
    return request


def test_a_chat_is_made_of_every_field_that_is_mapped() -> None:
    mapped = {name for name, (way, *_) in chat_table.TABLE.items() if way is chat_table.M and "." not in name}
    made = {*CHAT_FIELDS, "messages", "max_completion_tokens", "tool_choice", "parallel_tool_calls"}
    assert mapped == made | {"max_tokens"}, "the older name of the bound, which comes back as the newer one"


@settings(max_examples=60)
@given(chats())
def test_a_chat_comes_back_from_messages_equal(request: Json) -> None:
    there = carried(CHAT_TO_ANTHROPIC, request, "claude")
    as_read(MESSAGES, there)
    back = carried(MESSAGES_TO_CHAT, there, "m")
    assert as_read(CHAT, back) == as_read(CHAT, request)


# ---- messages ---------------------------------------------------------------------------------------

blocks = texts.map(lambda text: {"type": "text", "text": text})
images = pixels.map(
    lambda url: (
        {"type": "image", "source": {"type": "url", "url": url}}
        if url.startswith("https")
        else {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": url.partition(",")[2]}}
    )
)
uses = st.builds(
    lambda use, name, given: {"type": "tool_use", "id": use, "name": name, "input": given}, *(ids, names, arguments)
)


@st.composite
def message_conversations(draw: st.DrawFn) -> list[Json]:
    said = st.lists(blocks | images, min_size=1, max_size=3)
    made = [{"role": "user", "content": draw(said)}]
    for _ in range(draw(st.integers(0, 2))):
        used = draw(st.lists(uses, max_size=2))
        told = draw(st.lists(blocks, min_size=not used, max_size=2))
        made.append({"role": "assistant", "content": [*told, *used]})
        results = [
            {"type": "tool_result", "tool_use_id": use["id"], "content": draw(st.lists(blocks, min_size=1, max_size=2))}
            for use in used
        ]
        made.append({"role": "user", "content": [*results, *draw(said)]})
    return made


message_tools = st.lists(
    mapping({"name": names, "input_schema": schemas}, {"description": texts, "strict": st.just(True)}),
    min_size=1,
    max_size=2,
)
MESSAGE_FIELDS: Mapping[str, st.SearchStrategy[Any]] = {
    "system": st.lists(blocks, min_size=1, max_size=2),
    "temperature": shares,
    "top_p": shares,
    "stop_sequences": st.lists(texts, min_size=1, max_size=2),
    "service_tier": st.just("standard_only"),
    "output_config": mapping({}, {"effort": st.sampled_from(["low", "medium", "high", "xhigh", "max"])}),
    "tools": message_tools,
    "stream": st.just(True),
}


@st.composite
def message_requests(draw: st.DrawFn) -> Json:
    request = draw(
        mapping(
            {"model": st.just("claude"), "messages": message_conversations(), "max_tokens": st.integers(1, 10**6)},
            dict(MESSAGE_FIELDS),
        )
    )
    config = request.pop("output_config", {})
    if draw(st.booleans()):
        config["format"] = {"type": "json_schema", "schema": draw(schemas)}
    if config:
        request["output_config"] = config
    if "effort" in config:
        request = {name: value for name, value in request.items() if name not in ("temperature", "top_p")}
        request["thinking"] = {"type": "adaptive"}
    elif "tools" in request and draw(st.booleans()):
        kind = draw(st.sampled_from(["none", "any", "tool"]))
        request["tool_choice"] = {"type": kind, **({"name": request["tools"][0]["name"]} if kind == "tool" else {})}
        if kind != "none" and draw(st.booleans()):
            request["tool_choice"]["disable_parallel_tool_use"] = True
    return request


def test_a_message_is_made_of_every_field_that_is_mapped() -> None:
    mapped = {name for name, way in messages_table.THINGS["request"].fields.items() if way is messages_table.M}
    sampled = {"temperature", "top_p"}  # in the table they are refused with a value that they cannot have
    assert mapped | sampled == {*MESSAGE_FIELDS, "messages", "max_tokens", "tool_choice"}


@settings(max_examples=60)
@given(message_requests())
def test_a_message_request_comes_back_from_chat_equal(request: Json) -> None:
    there = carried(MESSAGES_TO_CHAT, request, "m")
    as_read(CHAT, there)
    back = carried(CHAT_TO_ANTHROPIC, there, "claude")
    assert as_read(MESSAGES, back) == as_read(MESSAGES, request)


# ---- answers ----------------------------------------------------------------------------------------

COUNTS = st.integers(0, 10**6)


@st.composite
def answers(draw: st.DrawFn) -> Json:
    """A Message with every class of usage that the API tells."""
    used = [use | {"id": f"call_{at}"} for at, use in enumerate(draw(st.lists(uses, max_size=2)))]
    said = draw(st.lists(blocks, min_size=not used, max_size=1))
    output = draw(COUNTS)
    return {
        "id": "msg_1",
        "type": "message",
        "role": "assistant",
        "model": "claude",
        "content": [*said, *used],
        "stop_reason": "tool_use" if used else draw(st.sampled_from(["end_turn", "max_tokens", "refusal"])),
        "stop_sequence": None,
        "usage": {
            "input_tokens": draw(st.integers(1, 10**6)),
            "cache_read_input_tokens": draw(COUNTS),
            "cache_creation_input_tokens": draw(COUNTS),
            "output_tokens": output,
            "output_tokens_details": {"thinking_tokens": draw(st.integers(0, output))},
        },
    }


def asked(request: Json, model: str) -> Asked:
    return Asked({"model": model, **request}, model, BEGAN)


@settings(max_examples=60)
@given(answers())
def test_an_answer_comes_back_from_chat_equal_with_every_class_of_its_usage(answer: Json) -> None:
    chat = CHAT_TO_ANTHROPIC.answer(asked({}, "claude")).document(orjson.dumps(answer))
    read = ChatCompletion.model_validate_json(chat)
    usage = answer["usage"]
    cached, written = usage["cache_read_input_tokens"], usage["cache_creation_input_tokens"]
    assert read.usage is not None
    assert read.usage.prompt_tokens == usage["input_tokens"] + cached + written
    back = MESSAGES_TO_CHAT.answer(asked({}, "claude")).document(chat)
    assert Message.model_validate_json(back) == Message.model_validate(answer)


def as_events(answer: Json) -> list[bytes]:
    """The stream in which Anthropic would give this answer."""
    usage = answer["usage"]
    begun = {**answer, "content": [], "stop_reason": None, "usage": {**usage, "output_tokens": 1}}
    events: list[Json] = [{"type": "message_start", "message": begun}]
    for index, block in enumerate(answer["content"]):
        if block["type"] == "text":
            empty, delta = {**block, "text": ""}, {"type": "text_delta", "text": block["text"]}
        else:
            told = orjson.dumps(block["input"]).decode()
            empty, delta = {**block, "input": {}}, {"type": "input_json_delta", "partial_json": told}
        events += [
            {"type": "content_block_start", "index": index, "content_block": empty},
            {"type": "content_block_delta", "index": index, "delta": delta},
            {"type": "content_block_stop", "index": index},
        ]
    ended = {"stop_reason": answer["stop_reason"], "stop_sequence": None}
    events += [{"type": "message_delta", "delta": ended, "usage": usage}, {"type": "message_stop"}]
    return [b"event: %s\ndata: %s\n\n" % (event["type"].encode(), orjson.dumps(event)) for event in events]


def streamed(direction: Direction, request: Json, events: Iterable[bytes]) -> list[bytes]:
    """The events of a translated stream, one by one."""
    answer = direction.answer(asked(request, "claude"))
    whole = b"".join([*(answer.event(event) for event in events), answer.end()])
    return [event + b"\n\n" for event in whole.split(b"\n\n") if event]


def accumulated(events: Iterable[bytes]) -> Message:
    """What Anthropic's SDK puts together."""
    body = b"".join(events)

    def answer(_: httpx2.Request) -> httpx2.Response:
        return httpx2.Response(200, headers={"content-type": "text/event-stream"}, content=body)

    client = httpx2.Client(transport=httpx2.MockTransport(answer))
    asking: Any = {"model": "claude", "max_tokens": 9, "messages": [{"role": "user", "content": "Hi"}]}
    with (
        anthropic.Anthropic(api_key="k", http_client=client, max_retries=0) as sdk,
        sdk.messages.stream(**asking) as stream,
    ):
        return stream.get_final_message()


@settings(max_examples=25, deadline=None)
@given(answers())
def test_a_stream_comes_back_from_chat_equal_with_every_class_of_its_usage(answer: Json) -> None:
    there = streamed(CHAT_TO_ANTHROPIC, {"stream": True, "stream_options": {"include_usage": True}}, as_events(answer))
    assert there[-1] == b"data: [DONE]\n\n"
    back = accumulated(streamed(MESSAGES_TO_CHAT, {"stream": True}, there))
    assert back.model_dump(exclude_none=True) == Message.model_validate(answer).model_dump(exclude_none=True)
