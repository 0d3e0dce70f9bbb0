"""Chat completions on Anthropic: every field of the SDK's request, and answers as the SDK puts them together."""

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from copy import deepcopy
from enum import Enum, auto
from types import UnionType
from typing import Any, Union, get_args, get_origin

import orjson
import pytest
from anthropic.types import MessageCreateParams
from hypothesis import given, settings
from hypothesis import strategies as st
from openai.types.chat.completion_create_params import CompletionCreateParams
from pydantic import TypeAdapter
from typing_extensions import get_type_hints, is_typeddict

from extproc.dialects.translate.chat_to_anthropic import CHAT_TO_ANTHROPIC
from extproc.dialects.translate.direction import Field
from tests.support import cassettes

Json = dict[str, Any]
MODEL = "claude-deployed"
BEGAN = 1_800_000_000


def refused(request: Json) -> Field | None:
    return CHAT_TO_ANTHROPIC.refused(request)


def translated(request: Json) -> Json:
    found = refused(request)
    assert found is None, found
    made = CHAT_TO_ANTHROPIC.request(request, MODEL)
    assert made["model"] == MODEL
    _check_types(made)
    return json.loads(orjson.dumps(made))  # type: ignore[no-any-return]


_ADAPTER: TypeAdapter[Any] = TypeAdapter(MessageCreateParams)
_OLDER = {"temperature", "top_p"}  # which the version of the API that we speak has, and the SDK's no more


def _check_types(made: Json) -> None:
    """The SDK's types take the request, and know all of its fields."""
    known = {name: value for name, value in made.items() if name not in _OLDER}
    assert _plain(_ADAPTER.validate_python(known)) == known


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {name: _plain(inner) for name, inner in value.items()}
    if isinstance(value, Iterable) and not isinstance(value, str):
        return [_plain(inner) for inner in value]
    return value


# ---- the table of fields ----------------------------------------------------------------------------


class Way(Enum):
    MAPPED = auto()  # without it the translation is another one, or there is none
    NOT_APPLICABLE = auto()  # without it the translation is the same
    REFUSED = auto()


M, N, R = Way.MAPPED, Way.NOT_APPLICABLE, Way.REFUSED

PIXEL = "data:image/png;base64,iVBORw0KGgo="
PDF = "data:application/pdf;base64,JVBERi0xLjQ="
CACHED = {"mode": "explicit", "ttl": "30m"}

FULL: Json = {
    "model": "gpt-4o",
    "messages": [
        {"role": "system", "content": "Be brief."},
        {"role": "developer", "content": [{"type": "text", "text": "Be kind.", "prompt_cache_breakpoint": CACHED}]},
        {
            "role": "user",
            "content": [
                {"type": "text", "text": "What is this?"},
                {"type": "image_url", "image_url": {"url": PIXEL, "detail": "high"}, "prompt_cache_breakpoint": CACHED},
                {"type": "file", "file": {"file_data": PDF, "filename": "a.pdf"}, "prompt_cache_breakpoint": CACHED},
            ],
        },
        {
            "role": "assistant",
            "content": [{"type": "text", "text": "Wait."}, {"type": "refusal", "refusal": "Not that."}],
            "refusal": "Nor that.",
            "tool_calls": [
                {"id": "call_1", "type": "function", "function": {"name": "look", "arguments": '{"at": [1]}'}},
                {"id": "call_2", "type": "function", "function": {"name": "look", "arguments": "{}"}},
            ],
        },
        {"role": "tool", "tool_call_id": "call_1", "content": "a cat"},
        {"role": "tool", "tool_call_id": "call_2", "content": [{"type": "text", "text": "a dog"}]},
    ],
    "max_completion_tokens": 700,
    "metadata": {"run": "1"},
    "parallel_tool_calls": False,
    "prompt_cache_key": "k",
    "prompt_cache_options": {"mode": "implicit", "ttl": "30m"},
    "prompt_cache_retention": "24h",
    "reasoning_effort": "xhigh",
    "response_format": {
        "type": "json_schema",
        "json_schema": {
            "name": "Seen",
            "description": "What was seen.",
            "schema": {"type": "object", "properties": {"it": {"type": "string"}}, "additionalProperties": False},
            "strict": True,
        },
    },
    "safety_identifier": "s",
    "service_tier": "default",
    "stop": ["END"],
    "stream": True,
    "stream_options": {"include_usage": True, "include_obfuscation": True},
    "tools": [
        {
            "type": "function",
            "function": {
                "name": "look",
                "description": "Looks.",
                "parameters": {"type": "object", "properties": {"at": {"type": "array"}}},
                "strict": True,
            },
        },
        {"type": "function", "function": {"name": "smell"}},
    ],
    "user": "u",
}
LOOK = {"type": "function", "function": {"name": "look"}}
SIMPLE: Json = {"model": "gpt-4o", "messages": [{"role": "user", "content": "Hi"}]}
TOOLS: Json = SIMPLE | {"tools": FULL["tools"]}
SAMPLED: Json = TOOLS | {"temperature": 0.5, "top_p": 0.7, "max_tokens": 9, "tool_choice": LOOK}
ALLOWED: Json = TOOLS | {
    "tool_choice": {"type": "allowed_tools", "allowed_tools": {"mode": "required", "tools": [LOOK]}},
}
EXAMPLES = (FULL, SAMPLED, ALLOWED)


def said(role: str, **fields: Any) -> Json:
    return SIMPLE | {"messages": [*SIMPLE["messages"], {"role": role, **fields}]}


def part(**fields: Any) -> Json:
    return said("user", content=[fields])


def custom_choice(**fields: Any) -> Json:
    return TOOLS | {"tool_choice": fields}


CUSTOM_TOOL = {"name": "f", "description": "d", "format": {"type": "grammar"}}

# For a refused field the requests in which it is; for others they are found among the examples.
TABLE: dict[str, tuple[Way, *tuple[Json, ...]]] = {
    "model": (N,),  # the deployed model's name stands in its place
    "messages": (M,),
    "messages.role": (M,),
    "messages.content": (M,),
    "messages.content.type": (M,),
    "messages.content.text": (M,),
    "messages.content.refusal": (M,),
    "messages.content.prompt_cache_breakpoint": (M,),
    "messages.content.prompt_cache_breakpoint.mode": (N,),  # there is one
    "messages.content.prompt_cache_breakpoint.ttl": (N,),  # there is one that is long enough
    "messages.content.image_url": (M,),
    "messages.content.image_url.url": (M,),
    "messages.content.image_url.detail": (N,),  # those that ask for more than there is are refused
    "messages.content.file": (M,),
    "messages.content.file.file_data": (M,),
    "messages.content.file.filename": (M,),
    "messages.content.file.file_id": (R, part(type="file", file={"file_id": "file-1"})),
    "messages.content.input_audio": (R, part(type="input_audio", input_audio={"data": "AA==", "format": "wav"})),
    "messages.name": (R, said("user", name="bob", content="Hi"), said("assistant", name="bob", content="Hi")),
    "messages.audio": (R, said("assistant", audio={"id": "audio_1"})),
    "messages.refusal": (M,),
    "messages.function_call": (R, said("assistant", function_call={"name": "f", "arguments": "{}"})),
    "messages.tool_calls": (M,),
    "messages.tool_calls.id": (M,),
    "messages.tool_calls.type": (N,),  # a call that does not say it is one of a function
    "messages.tool_calls.function": (M,),
    "messages.tool_calls.function.name": (M,),
    "messages.tool_calls.function.arguments": (M,),
    "messages.tool_calls.custom": (
        R,
        said("assistant", tool_calls=[{"id": "c", "type": "custom", "custom": {"name": "f", "input": "x"}}]),
    ),
    "messages.tool_call_id": (M,),
    "audio": (R, SIMPLE | {"audio": {"voice": "alloy", "format": "wav"}}),
    "frequency_penalty": (R, SIMPLE | {"frequency_penalty": 0.5}),
    "function_call": (R, SIMPLE | {"function_call": "auto"}),
    "functions": (R, SIMPLE | {"functions": [{"name": "f"}]}),
    "logit_bias": (R, SIMPLE | {"logit_bias": {"50256": -100}}),
    "logprobs": (R, SIMPLE | {"logprobs": True}),
    "max_completion_tokens": (M,),
    "max_tokens": (M,),
    "metadata": (N,),
    "modalities": (R, SIMPLE | {"modalities": ["text", "audio"]}),
    "moderation": (R, SIMPLE | {"moderation": {"model": "omni"}}),
    "n": (R, SIMPLE | {"n": 2}),
    "parallel_tool_calls": (M,),
    "prediction": (R, SIMPLE | {"prediction": {"type": "content", "content": "x"}}),
    "presence_penalty": (R, SIMPLE | {"presence_penalty": -1}),
    "prompt_cache_key": (N,),
    "prompt_cache_options": (N,),
    "prompt_cache_options.mode": (N,),
    "prompt_cache_options.ttl": (N,),
    "prompt_cache_retention": (N,),
    "reasoning_effort": (M,),
    "response_format": (M,),
    "response_format.type": (M,),
    "response_format.json_schema": (M,),
    "response_format.json_schema.name": (N,),
    "response_format.json_schema.description": (M,),
    "response_format.json_schema.schema": (M,),
    "response_format.json_schema.strict": (N,),  # it is always followed
    "safety_identifier": (N,),
    "seed": (R, SIMPLE | {"seed": 0}),
    "service_tier": (M,),
    "stop": (M,),
    "store": (R, SIMPLE | {"store": True}),
    "stream": (M,),
    "stream_options": (N,),
    "stream_options.include_obfuscation": (N,),
    "stream_options.include_usage": (N,),
    "temperature": (M,),
    "tool_choice": (M,),
    "tool_choice.type": (M,),
    "tool_choice.function": (M,),
    "tool_choice.function.name": (M,),
    "tool_choice.allowed_tools": (M,),
    "tool_choice.allowed_tools.mode": (M,),
    "tool_choice.allowed_tools.tools": (M,),
    "tool_choice.custom": (R, custom_choice(type="custom", custom={"name": "f"})),
    "tools": (M,),
    "tools.type": (M,),
    "tools.function": (M,),
    "tools.function.name": (M,),
    "tools.function.description": (M,),
    "tools.function.parameters": (M,),
    "tools.function.strict": (M,),
    "tools.custom": (R, SIMPLE | {"tools": [{"type": "custom", "custom": CUSTOM_TOOL}]}),
    "top_logprobs": (R, SIMPLE | {"top_logprobs": 3}),
    "top_p": (M,),
    "user": (N,),
    "verbosity": (R, SIMPLE | {"verbosity": "low"}, SIMPLE | {"verbosity": "high"}),
    "web_search_options": (R, SIMPLE | {"web_search_options": {}}),
}
# Refused by what says that they are there.
BY_TYPE = {
    "messages.content.input_audio": "messages.content.type",
    "messages.tool_calls.custom": "messages.tool_calls.type",
    "tool_choice.custom": "tool_choice.type",
    "tools.custom": "tools.type",
}


def sdk_fields(hint: Any, at: str = "") -> Iterator[str]:
    """The dotted names of all fields of a type of the SDK, those inside refused ones left out."""
    if is_typeddict(hint):
        for name, inner in get_type_hints(hint).items():
            field = f"{at}.{name}" if at else name
            yield field
            if TABLE.get(field, (N,))[0] is not Way.REFUSED:
                yield from sdk_fields(inner, field)
    elif get_origin(hint) in (Union, UnionType) or (get_args(hint) and get_origin(hint) is not dict):
        for inner in get_args(hint):
            yield from sdk_fields(inner, at)


def test_every_field_of_the_sdk_is_in_the_table() -> None:
    assert set(sdk_fields(CompletionCreateParams)) == set(TABLE)


def without(value: Any, path: Sequence[str]) -> Any:
    """A copy without the field, wherever it is."""
    if isinstance(value, list):
        return [without(item, path) for item in value]
    if not isinstance(value, dict):
        return value
    step, *rest = path
    if not rest:
        return {name: inner for name, inner in value.items() if name != step}
    return {name: without(inner, rest) if name == step else inner for name, inner in value.items()}


def examples(name: str) -> list[tuple[Json, Json]]:
    """The requests that have this field, each with its copy without it."""
    pairs = [(example, without(example, name.split("."))) for example in EXAMPLES]
    return [(example, lacking) for example, lacking in pairs if lacking != example]


@pytest.mark.parametrize("name", [name for name, (way, *_) in TABLE.items() if way is not Way.REFUSED])
def test_a_field_is_mapped_or_means_nothing(name: str) -> None:
    found = examples(name)
    assert found, "no example has it"
    for example, lacking in found:
        made = translated(example)
        same = refused(lacking) is None and translated(lacking) == made
        assert same is (TABLE[name][0] is Way.NOT_APPLICABLE)


@pytest.mark.parametrize("name", [name for name, (way, *_) in TABLE.items() if way is Way.REFUSED])
def test_a_field_that_cannot_be_expressed_is_named(name: str) -> None:
    _, *requests = TABLE[name]
    assert requests
    for request in requests:
        found = refused(request)
        assert found is not None
        assert found.name == BY_TYPE.get(name, name)


@pytest.mark.parametrize(
    "idle",
    [
        *({"n": 1}, {"store": False}, {"logprobs": False}, {"top_logprobs": 0}, {"logit_bias": {}}),
        *({"frequency_penalty": 0.0}, {"presence_penalty": 0}, {"modalities": ["text"]}, {"verbosity": "medium"}),
        *({"functions": []}, {"tools": []}, {"tool_choice": "none"}, {"tool_choice": "auto"}, {"stop": []}),
        *({"temperature": 1}, {"top_p": 1.0}, {"stream": False}, {"parallel_tool_calls": True}),
        *({"response_format": {"type": "text"}}, {"parallel_tool_calls": False}),
    ],
    ids=str,
)
def test_a_default_that_is_said_changes_nothing(idle: Json) -> None:
    assert translated(SIMPLE | idle) == translated(SIMPLE)


@pytest.mark.parametrize("name", sorted({name for name in TABLE if "." not in name} - {"messages"}))
def test_null_is_absent(name: str) -> None:
    assert translated(SIMPLE | {name: None}) == translated(SIMPLE)


def test_null_inside_is_absent() -> None:
    parts = [{"type": "text", "text": "Hi", "prompt_cache_breakpoint": None, "new": None}]
    empty = {"refusal": None, "audio": None, "function_call": None, "tool_calls": None, "annotations": None}
    request = SIMPLE | {
        "messages": [{"role": "user", "content": parts, "name": None}, {"role": "assistant", "content": "Yes", **empty}]
    }
    plain = SIMPLE | {"messages": [*SIMPLE["messages"], {"role": "assistant", "content": "Yes"}]}
    assert translated(request) == translated(plain)


# ---- requests ---------------------------------------------------------------------------------------


def test_a_whole_request() -> None:
    kept = {"cache_control": {"type": "ephemeral", "ttl": "1h"}}
    assert translated(FULL) == {
        "model": MODEL,
        "max_tokens": 700,
        "system": [{"type": "text", "text": "Be brief."}, {"type": "text", "text": "Be kind.", **kept}],
        "messages": [
            {
                "role": "user",
                "content": [
                    {"type": "text", "text": "What is this?"},
                    {
                        "type": "image",
                        "source": {"type": "base64", "media_type": "image/png", "data": "iVBORw0KGgo="},
                        **kept,
                    },
                    {
                        "type": "document",
                        "source": {"type": "base64", "media_type": "application/pdf", "data": "JVBERi0xLjQ="},
                        "title": "a.pdf",
                        **kept,
                    },
                ],
            },
            {
                "role": "assistant",
                "content": [
                    {"type": "text", "text": "Wait."},
                    {"type": "text", "text": "Not that."},
                    {"type": "text", "text": "Nor that."},
                    {"type": "tool_use", "id": "call_1", "name": "look", "input": {"at": [1]}},
                    {"type": "tool_use", "id": "call_2", "name": "look", "input": {}},
                ],
            },
            {
                "role": "user",
                "content": [
                    {"type": "tool_result", "tool_use_id": "call_1", "content": [{"type": "text", "text": "a cat"}]},
                    {"type": "tool_result", "tool_use_id": "call_2", "content": [{"type": "text", "text": "a dog"}]},
                ],
            },
        ],
        "stream": True,
        "service_tier": "standard_only",
        "stop_sequences": ["END"],
        "tools": [
            {
                "name": "look",
                "description": "Looks.",
                "input_schema": {"type": "object", "properties": {"at": {"type": "array"}}},
                "strict": True,
            },
            {"name": "smell", "input_schema": {"type": "object"}},
        ],
        "tool_choice": {"type": "auto", "disable_parallel_tool_use": True},
        "thinking": {"type": "adaptive"},
        "output_config": {
            "effort": "xhigh",
            "format": {
                "type": "json_schema",
                "schema": {
                    "description": "What was seen.",
                    "type": "object",
                    "properties": {"it": {"type": "string"}},
                    "additionalProperties": False,
                },
            },
        },
    }


def test_a_small_request() -> None:
    assert translated(SIMPLE) == {
        "model": MODEL,
        "max_tokens": 32_000,
        "messages": [{"role": "user", "content": [{"type": "text", "text": "Hi"}]}],
    }


@pytest.mark.parametrize(
    ("asked", "made"),
    [
        ({"max_tokens": 5, "max_completion_tokens": 7}, {"max_tokens": 7}),
        ({"max_tokens": 5}, {"max_tokens": 5}),
        ({"temperature": 0, "top_p": 0}, {"temperature": 0, "top_p": 0}),
        ({"stop": "END"}, {"stop_sequences": ["END"]}),
        ({"service_tier": "auto"}, {"service_tier": "auto"}),
        ({"reasoning_effort": "none"}, {"thinking": {"type": "disabled"}}),
        (
            {"reasoning_effort": "minimal", "top_p": 0.97},
            {"thinking": {"type": "adaptive"}, "output_config": {"effort": "low"}, "top_p": 0.97},
        ),
        ({"reasoning_effort": "none", "temperature": 0.5}, {"temperature": 0.5, "thinking": {"type": "disabled"}}),
    ],
)
def test_a_field_becomes(asked: Json, made: Json) -> None:
    assert translated(SIMPLE | asked) == translated(SIMPLE) | made


@pytest.mark.parametrize(
    ("choice", "parallel", "made"),
    [
        ("auto", None, None),
        ("auto", False, {"type": "auto", "disable_parallel_tool_use": True}),
        ("none", False, {"type": "none"}),
        ("required", None, {"type": "any"}),
        ("required", False, {"type": "any", "disable_parallel_tool_use": True}),
        (LOOK, True, {"type": "tool", "name": "look"}),
        (LOOK, False, {"type": "tool", "name": "look", "disable_parallel_tool_use": True}),
        (None, False, {"type": "auto", "disable_parallel_tool_use": True}),
    ],
)
def test_a_choice_of_tools(choice: object, parallel: bool | None, made: Json | None) -> None:
    body = translated(TOOLS | {"tool_choice": choice, "parallel_tool_calls": parallel})
    assert body.get("tool_choice") == made
    assert [tool["name"] for tool in body["tools"]] == ["look", "smell"]


def test_only_the_allowed_tools_are_offered() -> None:
    body = translated(ALLOWED)
    assert body["tool_choice"] == {"type": "any"}
    assert [tool["name"] for tool in body["tools"]] == ["look"]


def test_system_messages_are_one_wherever_they_stand() -> None:
    later = {"role": "system", "content": "Now in French."}
    request = SIMPLE | {"messages": [FULL["messages"][0], *SIMPLE["messages"], later]}
    body = translated(request)
    assert [block["text"] for block in body["system"]] == ["Be brief.", "Now in French."]
    assert [turn["role"] for turn in body["messages"]] == ["user"]


def test_messages_of_one_side_are_one_turn() -> None:
    roles = ("user", "user", "assistant", "assistant", "user")
    body = translated(SIMPLE | {"messages": [{"role": role, "content": str(at)} for at, role in enumerate(roles)]})
    turns = [(turn["role"], "".join(block["text"] for block in turn["content"])) for turn in body["messages"]]
    assert turns == [("user", "01"), ("assistant", "23"), ("user", "4")]


def test_white_space_is_not_said() -> None:
    call = {"id": "a", "type": "function", "function": {"name": "f", "arguments": ""}}
    messages = [
        {"role": "system", "content": ""},
        {"role": "user", "content": [{"type": "text", "text": "\n"}, {"type": "text", "text": "Hi "}]},
        {"role": "assistant", "content": "\n\n", "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "a", "content": ""},
        {"role": "assistant", "content": ""},
    ]
    body = translated(SIMPLE | {"messages": messages})
    assert body == translated(SIMPLE) | {
        "messages": [
            {"role": "user", "content": [{"type": "text", "text": "Hi "}]},
            {"role": "assistant", "content": [{"type": "tool_use", "id": "a", "name": "f", "input": {}}]},
            {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "a"}]},
        ]
    }


def test_ids_of_calls_are_in_the_characters_that_anthropic_takes() -> None:
    call = {"id": "functions.look:0", "type": "function", "function": {"name": "look", "arguments": "{}"}}
    made = said("assistant", tool_calls=[call])
    made["messages"].append({"role": "tool", "tool_call_id": "functions.look:0", "content": "x", "name": "look"})
    _, calling, result = translated(made)["messages"]
    assert calling["content"][0]["id"] == result["content"][0]["tool_use_id"] == "functions_look_0"


def test_what_an_answer_had_may_be_sent_back() -> None:
    answer: Json = {"role": "assistant", "content": "Yes", "reasoning_content": "Hm.", "annotations": [], "audio": None}
    body = translated(SIMPLE | {"messages": [*SIMPLE["messages"], answer]})
    assert body["messages"][1] == {"role": "assistant", "content": [{"type": "text", "text": "Yes"}]}


@pytest.mark.parametrize(
    ("url", "source"),
    [
        ("https://a.example/b.png", {"type": "url", "url": "https://a.example/b.png"}),
        ("HTTPS://a.example/b", {"type": "url", "url": "HTTPS://a.example/b"}),
        ("data:image/jpg;base64,AA==", {"type": "base64", "media_type": "image/jpeg", "data": "AA=="}),
        ("data:image/webp;x=y;base64,AA==", {"type": "base64", "media_type": "image/webp", "data": "AA=="}),
    ],
)
def test_an_image(url: str, source: Json) -> None:
    body = translated(part(type="image_url", image_url={"url": url}))
    assert body["messages"][-1]["content"][-1] == {"type": "image", "source": source}


def test_a_pdf_by_its_name() -> None:
    body = translated(part(type="file", file={"file_data": "JVBERi0=", "filename": "A.PDF"}))
    source = {"type": "base64", "media_type": "application/pdf", "data": "JVBERi0="}
    assert body["messages"][-1]["content"][-1] == {"type": "document", "source": source, "title": "A.PDF"}


DEEP = "[" * 300 + "]" * 300
CALL = {"id": "c", "type": "function", "function": {"name": "f", "arguments": "{}"}}
THINKS = TOOLS | {"reasoning_effort": "low"}


def called(**function: Any) -> Json:
    return said("assistant", tool_calls=[{"id": "c", "type": "function", "function": {"name": "f", **function}}])


@pytest.mark.parametrize(
    ("name", "request_"),
    [
        ("made_up", SIMPLE | {"made_up": 0}),
        ("messages", SIMPLE | {"messages": []}),
        ("messages", SIMPLE | {"messages": [{"role": "system", "content": "x"}]}),
        ("messages", SIMPLE | {"messages": "Hi"}),
        ("messages", SIMPLE | {"messages": ["Hi"]}),
        ("messages", {}),
        ("messages.role", said("function", name="f", content="x")),
        ("messages.role", SIMPLE | {"messages": [{"content": "x"}]}),
        ("messages.new", said("user", content="x", new=1)),
        ("messages.name", said("system", content="x", name="n")),
        ("messages.content", said("user", content=5)),
        ("messages.content", said("user", content=["x"])),
        ("messages.content.type", said("system", content=[{"type": "image_url", "image_url": {"url": PIXEL}}])),
        ("messages.content.type", said("tool", tool_call_id="c", content=[{"type": "refusal", "refusal": "x"}])),
        ("messages.content.type", said("assistant", content=[{"type": "image_url", "image_url": {"url": PIXEL}}])),
        ("messages.content.type", part(type=["text"])),
        ("messages.content.text", part(type="text", text=7)),
        ("messages.content.cache_control", part(type="text", text="x", cache_control={})),
        (
            "messages.content.prompt_cache_breakpoint.ttl",
            part(type="text", text="x", prompt_cache_breakpoint={"ttl": "12h"}),
        ),
        ("messages.content.image_url", part(type="image_url")),
        ("messages.content.image_url.detail", part(type="image_url", image_url={"url": PIXEL, "detail": "low"})),
        ("messages.content.image_url.url", part(type="image_url", image_url={"url": "http://a.example/b.png"})),
        ("messages.content.image_url.url", part(type="image_url", image_url={"url": "data:image/bmp;base64,AA=="})),
        ("messages.content.image_url.url", part(type="image_url", image_url={"url": "data:image/png,AA=="})),
        ("messages.content.file.file_data", part(type="file", file={"file_data": "data:text/plain;base64,AA=="})),
        ("messages.content.file.file_data", part(type="file", file={"file_data": "AA=="})),
        ("messages.content.file.file_data", part(type="file", file={"filename": "a.pdf"})),
        ("messages.tool_calls", said("assistant", tool_calls={})),
        ("messages.tool_calls.function", said("assistant", tool_calls=[{"id": "c"}])),
        ("messages.tool_calls.id", said("assistant", tool_calls=[{"function": {"name": "f", "arguments": ""}}])),
        ("messages.tool_calls.function.arguments", called(arguments="{")),
        ("messages.tool_calls.function.arguments", called(arguments="[]")),
        ("messages.tool_calls.function.arguments", called(arguments=f'{{"a": {DEEP}}}')),
        ("messages.tool_call_id", said("tool", content="x")),
        ("max_tokens", SIMPLE | {"max_tokens": 0}),
        ("max_tokens", SIMPLE | {"max_tokens": True}),
        ("max_completion_tokens", SIMPLE | {"max_completion_tokens": 1.5}),
        ("temperature", SIMPLE | {"temperature": 1.2}),
        ("temperature", SIMPLE | {"temperature": "0"}),
        ("temperature", THINKS | {"temperature": 0.5}),
        ("top_p", SIMPLE | {"top_p": -0.1}),
        ("top_p", THINKS | {"top_p": 0.5}),
        ("stop", SIMPLE | {"stop": "\n"}),
        ("stop", SIMPLE | {"stop": ["a", 5]}),
        ("stop", SIMPLE | {"stop": 5}),
        ("stream", SIMPLE | {"stream": "yes"}),
        ("stream_options.new", SIMPLE | {"stream_options": {"new": True}}),
        ("service_tier", SIMPLE | {"service_tier": "flex"}),
        ("reasoning_effort", SIMPLE | {"reasoning_effort": "huge"}),
        ("response_format.type", SIMPLE | {"response_format": {"type": "json_object"}}),
        ("response_format.type", SIMPLE | {"response_format": {"type": "grammar"}}),
        ("response_format.json_schema", SIMPLE | {"response_format": {"type": "json_schema"}}),
        (
            "response_format.json_schema.schema",
            SIMPLE | {"response_format": {"type": "json_schema", "json_schema": {}}},
        ),
        ("response_format.json_schema", SIMPLE | {"response_format": {"type": "text", "json_schema": {}}}),
        ("parallel_tool_calls", SIMPLE | {"parallel_tool_calls": 1}),
        ("tools.type", SIMPLE | {"tools": [{"type": "web_search"}]}),
        ("tools.function", SIMPLE | {"tools": [{"type": "function"}]}),
        (
            "tools.function.parameters",
            SIMPLE | {"tools": [{"type": "function", "function": {"name": "f", "parameters": 5}}]},
        ),
        ("tools.function.new", SIMPLE | {"tools": [{"type": "function", "function": {"name": "f", "new": 5}}]}),
        ("tool_choice", TOOLS | {"tool_choice": "any"}),
        ("tool_choice", SIMPLE | {"tool_choice": "required"}),
        ("tool_choice", SIMPLE | {"tool_choice": LOOK}),
        ("tool_choice", THINKS | {"tool_choice": "required"}),
        ("tool_choice", THINKS | {"tool_choice": LOOK}),
        ("tool_choice", TOOLS | {"tool_choice": 5}),
        (
            "tool_choice.allowed_tools.tools",
            custom_choice(type="allowed_tools", allowed_tools={"mode": "auto", "tools": []}),
        ),
        (
            "tool_choice.allowed_tools.mode",
            custom_choice(type="allowed_tools", allowed_tools={"mode": "none", "tools": []}),
        ),
        (
            "tool_choice.allowed_tools.tools.type",
            custom_choice(type="allowed_tools", allowed_tools={"mode": "auto", "tools": [{"type": "mcp"}]}),
        ),
    ],
)
def test_a_request_that_cannot_be_expressed(name: str, request_: Json) -> None:
    found = refused(request_)
    assert found is not None
    assert found.name == name


def test_the_path() -> None:
    assert CHAT_TO_ANTHROPIC.path(MODEL, True) == CHAT_TO_ANTHROPIC.path(MODEL, False) == "/v1/messages"


# What the recorded requests ask for that cannot be expressed.
RECORDED = {
    "chat-audio-to-text": "messages.content.type",
    "chat-basic": "seed",
    "chat-no-messages": "messages",
    "chat-streaming-usage": "messages",  # instructions alone
    "chat-streaming-detailed-usage": "messages",
}


@pytest.mark.parametrize("shared", [False, True], ids=["own", "shared"])
def test_recorded_requests(shared: bool) -> None:
    folder = cassettes.shared() if shared else cassettes.OWN
    if folder is None:
        pytest.skip("the shared recordings are absent")
    chats = [exchange for exchange in cassettes.load(folder) if "/chat/completions" in exchange.path]
    assert len(chats) > 5
    for exchange in chats:
        found = refused(exchange.fields)
        if found is not None:
            assert found.name == RECORDED[exchange.name]
        else:
            body = translated(exchange.fields)
            assert body.get("stream", False) is exchange.fields.get("stream", False)
            assert len(body.get("tools", [])) == len(exchange.fields.get("tools", []))


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**63) | st.floats(allow_nan=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)
PLACES = [name.split(".") for name in TABLE]


@settings(max_examples=100)
@given(st.sampled_from(EXAMPLES), st.sampled_from(PLACES), JSON)
def test_whatever_is_let_pass_can_be_written(example: Json, place: list[str], value: object) -> None:
    request = deepcopy(example)
    _put(request, place, value)
    if refused(request) is None:
        orjson.dumps(CHAT_TO_ANTHROPIC.request(request, MODEL))


def _put(holder: Any, place: Sequence[str], value: object) -> None:
    if isinstance(holder, list):
        for item in holder:
            _put(item, place, value)
    elif isinstance(holder, dict) and len(place) == 1:
        holder[place[0]] = value
    elif isinstance(holder, dict):
        _put(holder.get(place[0]), place[1:], value)


def test_what_the_sdk_has_read_itself_is_not_sent() -> None:
    function = {"name": "look", "arguments": '{"a":1}'}
    result = {"role": "tool", "tool_call_id": "c1", "content": "found"}

    def sent(message: Json, function: Json) -> object:
        call = {"id": "c1", "type": "function", "function": function}
        said = {"role": "assistant", "content": "{}", "tool_calls": [call], **message}
        return translated({"model": "m", "messages": [{"role": "user", "content": "Go."}, said, result]})

    assert sent({"parsed": {}}, {**function, "parsed_arguments": {"a": 1}}) == sent({}, function)
