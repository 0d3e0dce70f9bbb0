"""Every field of the SDK's request types: what becomes of it in a request to Gemini."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, get_args

import orjson
import pytest
import typing_extensions
from openai.types.chat import completion_create_params
from pydantic import TypeAdapter

from extproc.dialects.translate.chat_to_gemini import CHAT_TO_GEMINI
from tests.unit.translate.gemini_shapes import validated

Object = dict[str, Any]
MODEL = "gemini-3-flash-preview"
PIXEL = "data:image/png;base64,iVBORw0KGgo="
ASK: Object = {"role": "user", "content": "Hello."}
TOOL: Object = {"type": "function", "function": {"name": "find", "parameters": {"type": "object", "properties": {}}}}
NAMED: Object = {"type": "function", "function": {"name": "find"}}
CALL: Object = {"id": "call_1", "type": "function", "function": {"name": "find", "arguments": '{"at":1}'}}


def request(**changes: Any) -> Object:
    return {"model": "m", "messages": [ASK], **changes}


def messages(*all_messages: Object) -> Object:
    return request(messages=list(all_messages))


@dataclass(frozen=True)
class Row:
    """One of the SDK's types: `put` makes a request with one in it. Of a field: a value that is not that of `base`.

    `whole`: the dotted name of the field that is refused with whatever is of this type.
    """

    name: str
    base: Object = field(default_factory=dict)
    put: Callable[[Object], Object] = lambda fields: request(**fields)
    mapped: Object = field(default_factory=dict)
    refused: Object = field(default_factory=dict)
    silent: Object = field(default_factory=dict)  # not applicable: nothing of it is sent
    tells: str = ""  # the field that says what the object is, and cannot be anything else
    whole: str | None = None


def user_part(part: Object) -> Object:
    return messages({"role": "user", "content": [{"type": "text", "text": "Look:"}, part]})


def assistant(said: Object) -> Object:
    return messages(ASK, {"role": "assistant", **said})


def _at(name: str) -> Callable[[Object], Object]:
    return lambda said: request(**{name: [said] if name == "functions" else said})


HINT = {"mode": "explicit"}
TOP: dict[str, Any] = {
    "base": {"messages": [ASK], "model": "m"},
    "mapped": {
        "messages": [{"role": "user", "content": "Bye."}],
        "frequency_penalty": 0.5,
        "logprobs": True,
        "max_completion_tokens": 10,
        "max_tokens": 10,
        "n": 2,
        "presence_penalty": 0.5,
        "reasoning_effort": "high",
        "response_format": {"type": "json_object"},
        "seed": 7,
        "stop": ["a", "b"],
        "temperature": 0.5,
        "tool_choice": "required",
        "tools": [TOOL],
        "top_logprobs": 3,
        "top_p": 0.5,
    },
    "refused": {
        "audio": {"format": "mp3", "voice": "alloy"},
        "function_call": "auto",
        "functions": [{"name": "find"}],
        "logit_bias": {"50256": -100},
        "modalities": ["text", "audio"],
        "moderation": {"model": "omni-moderation-latest"},
        "prediction": {"type": "content", "content": "Hello."},
        "service_tier": "priority",
        "store": True,
        "verbosity": "low",
        "web_search_options": {},
    },
    "silent": {
        "model": "another",
        "metadata": {"a": "b"},
        "parallel_tool_calls": True,
        "prompt_cache_key": "k",
        "prompt_cache_options": {"mode": "implicit"},
        "prompt_cache_retention": "24h",
        "safety_identifier": "s",
        "stream_options": {"include_usage": True},
        "user": "u",
    },
}
_PARAMS = "completion_create_params"
_ASSISTANT = "chat_completion_assistant_message_param"
_TEXT = "chat_completion_content_part_text_param"
_IMAGE = "chat_completion_content_part_image_param"
_AUDIO = "chat_completion_content_part_input_audio_param"
_FILE = "chat_completion_content_part_param"
_CUSTOM_TOOL = "chat_completion_custom_tool_param"

TABLE = [
    Row(
        f"{_PARAMS}.CompletionCreateParamsNonStreaming",
        **{**TOP, "silent": TOP["silent"] | {"stream": False}},
    ),
    Row(
        f"{_PARAMS}.CompletionCreateParamsStreaming",
        **{**TOP, "silent": TOP["silent"] | {"stream": True}},
    ),
    # ---- messages
    *(
        Row(
            f"chat_completion_{role}_message_param.ChatCompletion{role.title()}MessageParam",
            {"role": role, "content": "A"},
            lambda said: messages(said, ASK),
            tells="role",
            mapped={"content": "B"},
            refused={"name": "me"},
        )
        for role in ("developer", "system", "user")
    ),
    Row(
        f"{_ASSISTANT}.ChatCompletionAssistantMessageParam",
        {"role": "assistant", "content": "A"},
        lambda said: messages(ASK, said),
        tells="role",
        mapped={"content": "B", "refusal": "No.", "tool_calls": [CALL]},
        refused={"audio": {"id": "a"}, "function_call": {"name": "f", "arguments": "{}"}, "name": "me"},
    ),
    Row(
        "chat_completion_tool_message_param.ChatCompletionToolMessageParam",
        {"role": "tool", "tool_call_id": "call_1", "content": "A"},
        lambda said: messages(
            {"role": "assistant", "tool_calls": [CALL, {**CALL, "id": "call_2"}]},
            {"role": "user", "content": "-"},
            said,
        ),
        mapped={"content": "B", "tool_call_id": "call_2"},
        tells="role",
    ),
    Row(
        "chat_completion_function_message_param.ChatCompletionFunctionMessageParam",
        {"role": "function", "name": "f", "content": "A"},
        lambda said: messages(ASK, said),
        whole="messages.role",
    ),
    Row(f"{_ASSISTANT}.Audio", {"id": "a"}, lambda said: assistant({"audio": said}), whole="messages.audio"),
    Row(
        f"{_ASSISTANT}.FunctionCall",
        {"name": "f", "arguments": "{}"},
        lambda said: assistant({"function_call": said}),
        whole="messages.function_call",
    ),
    # ---- parts of their content
    Row(
        f"{_TEXT}.ChatCompletionContentPartTextParam",
        {"type": "text", "text": "A"},
        user_part,
        tells="type",
        mapped={"text": "B"},
        silent={"prompt_cache_breakpoint": HINT},
    ),
    Row(
        "chat_completion_content_part_refusal_param.ChatCompletionContentPartRefusalParam",
        {"type": "refusal", "refusal": "A"},
        lambda said: assistant({"content": [said]}),
        mapped={"refusal": "B"},
        tells="type",
    ),
    Row(
        f"{_IMAGE}.ChatCompletionContentPartImageParam",
        {"type": "image_url", "image_url": {"url": PIXEL}},
        user_part,
        mapped={"image_url": {"url": "https://example.com/a.png"}},
        tells="type",
        silent={"prompt_cache_breakpoint": HINT},
    ),
    Row(
        f"{_IMAGE}.ImageURL",
        {"url": PIXEL},
        lambda said: user_part({"type": "image_url", "image_url": said}),
        mapped={"url": "https://example.com/a.png", "detail": "high"},
    ),
    Row(
        f"{_AUDIO}.ChatCompletionContentPartInputAudioParam",
        {"type": "input_audio", "input_audio": {"data": "AAAA", "format": "wav"}},
        user_part,
        mapped={"input_audio": {"data": "AAAA", "format": "mp3"}},
        tells="type",
        silent={"prompt_cache_breakpoint": HINT},
    ),
    Row(
        f"{_AUDIO}.InputAudio",
        {"data": "AAAA", "format": "wav"},
        lambda said: user_part({"type": "input_audio", "input_audio": said}),
        mapped={"data": "BBBB", "format": "mp3"},
    ),
    Row(
        f"{_FILE}.File",
        {"type": "file", "file": {"file_data": "data:application/pdf;base64,AAAA"}},
        user_part,
        mapped={"file": {"file_data": "AAAA", "filename": "a.txt"}},
        tells="type",
        silent={"prompt_cache_breakpoint": HINT},
    ),
    Row(
        f"{_FILE}.FileFile",
        {"file_data": "AAAA", "filename": "a.pdf"},
        lambda said: user_part({"type": "file", "file": said}),
        mapped={"file_data": "BBBB", "filename": "a.txt"},
        refused={"file_id": "file-1"},
    ),
    *(
        Row(
            f"{module}.{name}",
            {"mode": "explicit"},
            lambda said: user_part({"type": "text", "text": "A", "prompt_cache_breakpoint": said}),
            silent={"mode": "explicit", "ttl": "30m"},
        )
        for module, name in (
            (_TEXT, "PromptCacheBreakpoint"),
            (_IMAGE, "PromptCacheBreakpoint"),
            (_AUDIO, "PromptCacheBreakpoint"),
            (_FILE, "FilePromptCacheBreakpoint"),
        )
    ),
    # ---- tool calls
    Row(
        "chat_completion_message_function_tool_call_param.ChatCompletionMessageFunctionToolCallParam",
        CALL,
        lambda said: assistant({"tool_calls": [said]}),
        mapped={"id": "call_2", "function": {"name": "seek", "arguments": "{}"}},
        tells="type",
    ),
    Row(
        "chat_completion_message_function_tool_call_param.Function",
        {"name": "find", "arguments": "{}"},
        lambda said: assistant({"tool_calls": [{**CALL, "function": said}]}),
        mapped={"name": "seek", "arguments": '{"at":2}'},
    ),
    *(
        Row(
            f"chat_completion_message_custom_tool_call_param.{name}",
            {"id": "call_1", "type": "custom", "custom": {"name": "f", "input": ""}},
            lambda said: assistant({"tool_calls": [said]}),
            whole="messages.tool_calls.type",
        )
        for name in ("ChatCompletionMessageCustomToolCallParam", "Custom")
    ),
    # ---- tools
    Row(
        "chat_completion_function_tool_param.ChatCompletionFunctionToolParam",
        TOOL,
        lambda said: request(tools=[said]),
        mapped={"function": {"name": "seek"}},
        tells="type",
    ),
    Row(
        "function_definition.FunctionDefinition",
        TOOL["function"],
        lambda said: request(tools=[{"type": "function", "function": said}]),
        mapped={
            "name": "seek",
            "description": "Finds.",
            "parameters": {"type": "object", "properties": {"at": {"type": "integer"}}},
            "strict": True,
        },
    ),
    *(
        Row(
            f"{_CUSTOM_TOOL}.{name}",
            {"type": "custom", "custom": {"name": "f"}},
            lambda said: request(tools=[said]),
            whole="tools.type",
        )
        for name in (
            *("ChatCompletionCustomToolParam", "Custom", "CustomFormatText"),
            *("CustomFormatGrammar", "CustomFormatGrammarGrammar"),
        )
    ),
    Row(
        "chat_completion_named_tool_choice_param.ChatCompletionNamedToolChoiceParam",
        {"type": "function", "function": {"name": "find"}},
        lambda said: request(tools=[TOOL], tool_choice=said),
        mapped={"function": {"name": "seek"}},
        tells="type",
    ),
    Row(
        "chat_completion_named_tool_choice_param.Function",
        {"name": "find"},
        lambda said: request(tools=[TOOL], tool_choice={"type": "function", "function": said}),
        mapped={"name": "seek"},
    ),
    *(
        Row(
            f"chat_completion_named_tool_choice_custom_param.{name}",
            {"type": "custom", "custom": {"name": "f"}},
            lambda said: request(tools=[TOOL], tool_choice=said),
            whole="tool_choice.type",
        )
        for name in ("ChatCompletionNamedToolChoiceCustomParam", "Custom")
    ),
    Row(
        "chat_completion_allowed_tool_choice_param.ChatCompletionAllowedToolChoiceParam",
        {"type": "allowed_tools", "allowed_tools": {"mode": "auto", "tools": [NAMED]}},
        lambda said: request(tools=[TOOL], tool_choice=said),
        mapped={"allowed_tools": {"mode": "required", "tools": [NAMED]}},
        tells="type",
    ),
    Row(
        "chat_completion_allowed_tools_param.ChatCompletionAllowedToolsParam",
        {"mode": "auto", "tools": [NAMED]},
        lambda said: request(tools=[TOOL], tool_choice={"type": "allowed_tools", "allowed_tools": said}),
        mapped={"mode": "required", "tools": []},
    ),
    # ---- the rest
    Row(
        "response_format_text.ResponseFormatText",
        {"type": "text"},
        lambda said: request(response_format=said),
        tells="type",
    ),
    Row(
        "response_format_json_object.ResponseFormatJSONObject",
        {"type": "json_object"},
        lambda said: request(response_format=said),
        tells="type",
    ),
    Row(
        "response_format_json_schema.ResponseFormatJSONSchema",
        {"type": "json_schema", "json_schema": {"name": "a", "schema": {"type": "object"}}},
        lambda said: request(response_format=said),
        mapped={"json_schema": {"name": "a", "schema": {"type": "array"}}},
        tells="type",
    ),
    Row(
        "response_format_json_schema.JSONSchema",
        {"name": "a", "schema": {"type": "object"}},
        lambda said: request(response_format={"type": "json_schema", "json_schema": said}),
        mapped={"description": "What it is.", "schema": {"type": "array"}},
        silent={"name": "b", "strict": True},
    ),
    Row(
        "chat_completion_stream_options_param.ChatCompletionStreamOptionsParam",
        {},
        lambda said: request(stream=True, stream_options=said),
        silent={"include_obfuscation": True, "include_usage": True},
    ),
    Row(
        f"{_PARAMS}.PromptCacheOptions",
        {},
        lambda said: request(prompt_cache_options=said),
        silent={"mode": "explicit", "ttl": "30m"},
    ),
    *(
        Row(f"{where}.{name}", value, _at(at), whole=at)
        for where, name, at, value in (
            ("chat_completion_audio_param", "ChatCompletionAudioParam", "audio", {"format": "mp3", "voice": "a"}),
            ("chat_completion_audio_param", "VoiceID", "audio", {"format": "mp3", "voice": {"id": "a"}}),
            (
                "chat_completion_function_call_option_param",
                "ChatCompletionFunctionCallOptionParam",
                "function_call",
                {},
            ),
            (_PARAMS, "Function", "functions", {"name": "f"}),
            (_PARAMS, "Moderation", "moderation", {"model": "m"}),
            (_PARAMS, "ModerationPolicy", "moderation", {"model": "m", "policy": {}}),
            (_PARAMS, "ModerationPolicyInput", "moderation", {"model": "m", "policy": {"input": {"mode": "block"}}}),
            (_PARAMS, "ModerationPolicyOutput", "moderation", {"model": "m", "policy": {"output": {"mode": "block"}}}),
            ("chat_completion_prediction_content_param", "ChatCompletionPredictionContentParam", "prediction", {}),
            (_PARAMS, "WebSearchOptions", "web_search_options", {}),
            (_PARAMS, "WebSearchOptionsUserLocation", "web_search_options", {"user_location": {}}),
            (_PARAMS, "WebSearchOptionsUserLocationApproximate", "web_search_options", {"user_location": {}}),
        )
    ),
]


def _types(of: Any, found: dict[str, list[str]]) -> dict[str, list[str]]:
    """The fields of every typed dict that can be inside a value of this type."""
    if typing_extensions.is_typeddict(of):
        name = f"{of.__module__.rpartition('.')[2]}.{of.__name__}"
        if name in found:
            return found
        hints = typing_extensions.get_type_hints(of)
        found[name] = sorted(hints)
        for inner in hints.values():
            _types(inner, found)
    for inner in get_args(of):
        _types(inner, found)
    return found


SDK = _types(completion_create_params.CompletionCreateParams, {})


def test_the_table_has_every_field_of_the_sdk_and_no_other() -> None:
    told = {
        row.name: sorted({*row.mapped, *row.refused, *row.silent, *filter(None, [row.tells])})
        for row in TABLE
        if row.whole is None
    }
    told |= {row.name: SDK.get(row.name, []) for row in TABLE if row.whole is not None}
    assert told == SDK


def _cases(which: str) -> list[Any]:
    return [
        pytest.param(row, name, value, id=f"{row.name.rpartition('.')[2]}.{name}")
        for row in TABLE
        for name, value in getattr(row, which).items()
    ]


def _sent(row: Row, fields: Object) -> Object:
    whole = row.put(fields)
    refused = CHAT_TO_GEMINI.refused(whole)
    assert refused is None, refused
    return validated(CHAT_TO_GEMINI.request(whole, MODEL))


@pytest.mark.parametrize(("row", "name", "value"), _cases("mapped"))
def test_a_mapped_field_changes_what_is_sent(row: Row, name: str, value: object) -> None:
    assert _sent(row, {**row.base, name: value}) != _sent(row, row.base)


@pytest.mark.parametrize(("row", "name", "value"), _cases("silent"))
def test_a_field_that_is_not_applicable_changes_nothing(row: Row, name: str, value: object) -> None:
    assert _sent(row, {**row.base, name: value}) == _sent(row, row.base)


@pytest.mark.parametrize(("row", "name", "value"), _cases("refused"))
def test_a_refused_field_is_named(row: Row, name: str, value: object) -> None:
    refused = CHAT_TO_GEMINI.refused(row.put({**row.base, name: value}))
    assert refused is not None
    assert refused.name.rpartition(".")[2] == name


@pytest.mark.parametrize("row", [row for row in TABLE if row.tells], ids=lambda row: row.name)
def test_an_object_of_an_unknown_type_is_refused(row: Row) -> None:
    refused = CHAT_TO_GEMINI.refused(row.put({**row.base, row.tells: "brand_new"}))
    assert refused is not None
    assert refused.name.rpartition(".")[2] == row.tells


@pytest.mark.parametrize("row", [row for row in TABLE if row.whole], ids=lambda row: row.name)
def test_what_a_refused_field_holds_is_refused_with_it(row: Row) -> None:
    refused = CHAT_TO_GEMINI.refused(row.put(row.base))
    assert refused is not None
    assert refused.name == row.whole


HINTS = ("PromptCacheBreakpoint", "PromptCacheOptions")  # whose inside is of no interest


@pytest.mark.parametrize(
    "row", [row for row in TABLE if row.whole is None and not row.name.endswith(HINTS)], ids=lambda row: row.name
)
def test_a_field_that_nobody_knows_is_refused_by_its_name(row: Row) -> None:
    refused = CHAT_TO_GEMINI.refused(row.put({**row.base, "brand_new": 1}))
    assert refused is not None
    assert refused.name.rpartition(".")[2] == "brand_new"
    assert CHAT_TO_GEMINI.refused(row.put({**row.base, "brand_new": None})) is None


@pytest.mark.parametrize("row", TABLE, ids=lambda row: row.name)
def test_the_requests_of_this_table_are_the_sdk_s(row: Row) -> None:
    """So that a field is not called mapped for a request that nobody can send."""
    adapter = TypeAdapter(completion_create_params.CompletionCreateParams)
    for name, value in (row.mapped | row.silent).items():
        adapter.validate_python(orjson.loads(orjson.dumps(row.put({**row.base, name: value}))))
