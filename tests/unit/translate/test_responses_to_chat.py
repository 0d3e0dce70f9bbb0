"""Requests to create a response, as they are sent to a backend of chat completions."""

import json
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any, get_args, get_type_hints

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from openai.types import responses as sdk
from openai.types.chat import ChatCompletionMessageParam
from openai.types.chat.completion_create_params import (
    CompletionCreateParamsNonStreaming,
    CompletionCreateParamsStreaming,
)
from openai.types.responses import namespace_tool_param as namespaces
from openai.types.responses import response_create_params as create
from openai.types.responses import response_input_item_param as items
from openai.types.responses.response_includable import ResponseIncludable
from openai.types.responses.tool_param import ToolParam
from openai.types.shared_params import Reasoning
from pydantic import TypeAdapter
from typing_extensions import is_typeddict

from extproc.dialects.translate.direction import Field
from extproc.dialects.translate.responses_to_chat import RESPONSES_TO_CHAT

Json = dict[str, Any]

BASE: Json = {"model": "m", "input": "hi"}


def sent(request: Json) -> Json:
    refused = RESPONSES_TO_CHAT.refused(request)
    assert refused is None, refused
    return RESPONSES_TO_CHAT.request(request, "deployed")


def refused(request: Json) -> Field:
    found = RESPONSES_TO_CHAT.refused(request)
    assert found is not None
    return found


def messages(*given: Json, **more: Any) -> list[Json]:
    told: list[Json] = sent({"model": "m", "input": list(given), **more})["messages"]
    return told


# ---- every field of the SDK's types ----------------------------------------------------------------------


@dataclass
class Holder:
    """A type of the SDK, and for each of its fields what becomes of it.

    `within`: the request around an object of the type; `base`: the least of it. `mapped`, `refused` and `idle` have a
    value for each field: one that changes what is sent, one that is refused by name, one that changes nothing.
    """

    types: Iterable[Any]
    within: Callable[[Json], Json]
    at: str
    base: Json
    mapped: Json = field(default_factory=dict)
    refused: Json = field(default_factory=dict)
    idle: Json = field(default_factory=dict)

    def with_(self, name: str, value: object) -> Json:
        return self.within({**self.base, name: value})


def in_input(item: Json) -> Json:
    return {"model": "m", "input": [item]}


def in_message(role: str) -> Callable[[Json], Json]:
    return lambda part: in_input({"role": role, "content": [part]})


def in_output(part: Json) -> Json:
    return in_input({"type": "function_call_output", "call_id": "c", "output": [part]})


def in_tools(tool: Json) -> Json:
    return {**BASE, "tools": [tool]}


def in_field(name: str) -> Callable[[Json], Json]:
    return lambda value: {**BASE, name: value}


def in_choice(choice: Json) -> Json:
    return {**BASE, "tools": [TOOL, {**TOOL, "name": "g"}], "tool_choice": choice}


TOOL: Json = {"type": "function", "name": "f", "parameters": {"type": "object"}, "strict": True}
NAMESPACE: Json = {"type": "namespace", "name": "n", "description": "d", "tools": [TOOL]}
CALL: Json = {"type": "function_call", "call_id": "c", "name": "f", "arguments": "{}"}
DIRECT, PROGRAM = {"type": "direct"}, {"type": "program", "caller_id": "p"}
BREAKPOINT = {"mode": "explicit"}
IMAGE: Json = {"type": "input_image", "image_url": "https://h/a.png"}
SCHEMA: Json = {"type": "json_schema", "name": "n", "schema": {"type": "object"}}

HOLDERS = {
    "request": Holder(
        [create.ResponseCreateParamsNonStreaming, create.ResponseCreateParamsStreaming],
        dict,
        "",
        {"model": "m", "input": "hi", "tools": [TOOL]},
        mapped={
            "input": "ho",
            "instructions": "Be kind.",
            "max_output_tokens": 99,
            "parallel_tool_calls": False,
            "reasoning": {"effort": "low"},
            "service_tier": "default",
            "stream": True,
            "temperature": 0.5,
            "text": {"verbosity": "low"},
            "tool_choice": "required",
            "tools": [{**TOOL, "name": "g"}],
            "top_logprobs": 2,
            "top_p": 0.5,
            "include": ["message.output_text.logprobs"],
        },
        refused={
            "access_programs": {"cyber": "daybreak_red"},
            "background": True,
            "context_management": [{"type": "compaction"}],
            "conversation": "conv_1",
            "image": {"context_compression": "auto"},
            "moderation": {"model": "omni-moderation-latest"},
            "previous_response_id": "resp_1",
            "prompt": {"id": "pmpt_1"},
            "service_tier": "ultrafast",
            "store": True,
            "truncation": "auto",
        },
        idle={
            "access_programs": {"cyber": "standard"},
            "background": False,
            "include": ["reasoning.encrypted_content"],
            "max_tool_calls": 3,
            "metadata": {"a": "b"},
            "client_metadata": {"x-codex-installation-id": "1"},  # of Codex
            "model": "other",
            "prompt_cache_key": "k",
            "prompt_cache_options": {"mode": "implicit", "ttl": "30m"},
            "prompt_cache_retention": "24h",
            "safety_identifier": "s",
            "service_tier": "auto",
            "store": False,
            "stream": False,
            "stream_options": {"include_obfuscation": False},
            "truncation": "disabled",
            "user": "u",
        },
    ),
    "reasoning": Holder(
        [Reasoning],
        in_field("reasoning"),
        "reasoning",
        {},
        mapped={"effort": "high"},
        refused={"context": "all_turns", "mode": "pro"},
        idle={"context": "auto", "mode": "standard", "summary": "auto", "generate_summary": "concise"},
    ),
    "cache": Holder(
        [create.PromptCacheOptions],
        in_field("prompt_cache_options"),
        "prompt_cache_options",
        {},
        refused={"prewarm": True, "comparison_response_id": "resp_1"},
        idle={"mode": "explicit", "ttl": "12h", "prewarm": False},
    ),
    "stream options": Holder(
        [create.StreamOptions],
        in_field("stream_options"),
        "stream_options",
        {},
        refused={"include_obfuscation": True},
        idle={"include_obfuscation": False},
    ),
    "text": Holder(
        [sdk.ResponseTextConfigParam],
        in_field("text"),
        "text",
        {},
        mapped={"format": {"type": "json_object"}, "verbosity": "high"},
        idle={"format": {"type": "text"}},
    ),
    "format": Holder(
        [sdk.ResponseFormatTextJSONSchemaConfigParam],
        lambda wanted: {**BASE, "text": {"format": wanted}},
        "text.format",
        SCHEMA,
        mapped={"name": "o", "schema": {}, "description": "d", "strict": True},
        refused={"type": "grammar"},
    ),
    "tool": Holder(
        [sdk.FunctionToolParam],
        in_tools,
        "tools[0]",
        TOOL,
        mapped={"name": "g", "parameters": {}, "strict": False, "description": "d"},
        refused={
            "async": True,
            "allowed_callers": ["direct", "programmatic"],
            "defer_loading": True,
            "output_schema": {},
            "type": "custom",
        },
        idle={"async": False, "allowed_callers": ["direct"], "defer_loading": False},
    ),
    "namespace": Holder(
        [namespaces.NamespaceToolParam],
        in_tools,
        "tools[0]",
        NAMESPACE,
        mapped={"name": "o", "description": "e", "tools": [{**TOOL, "name": "g"}]},
        refused={"type": "mcp"},
    ),
    "tool of a namespace": Holder(
        [namespaces.ToolFunction],
        lambda tool: in_tools({**NAMESPACE, "tools": [tool]}),
        "tools[0].tools[0]",
        TOOL,
        mapped={"name": "g", "parameters": {}, "strict": False, "description": "e"},
        refused={
            "async": True,
            "allowed_callers": ["programmatic"],
            "defer_loading": True,
            "output_schema": {},
            "type": "custom",
        },
        idle={"async": False, "allowed_callers": ["direct"], "defer_loading": False},
    ),
    "additional tools": Holder(
        [items.AdditionalTools],
        in_input,
        "input[0]",
        {"type": "additional_tools", "role": "developer", "tools": [TOOL]},
        mapped={"tools": [{**TOOL, "name": "g"}]},
        refused={"role": "user", "type": "compaction_trigger"},
        idle={"id": "at_1", "role": "developer"},
    ),
    "chosen function": Holder(
        [sdk.ToolChoiceFunctionParam],
        in_choice,
        "tool_choice",
        {"type": "function", "name": "f"},
        mapped={"name": "g"},
        refused={"type": "custom"},
    ),
    "allowed tools": Holder(
        [sdk.ToolChoiceAllowedParam],
        in_choice,
        "tool_choice",
        {"type": "allowed_tools", "mode": "auto", "tools": [{"type": "function", "name": "f"}]},
        mapped={"mode": "required", "tools": [{"type": "function", "name": "g"}]},
        refused={"type": "mcp"},
    ),
    "easy message": Holder(
        [sdk.EasyInputMessageParam, items.Message],
        in_input,
        "input[0]",
        {"role": "user", "content": "hi"},
        mapped={"content": "ho", "role": "assistant"},
        refused={"role": "critic", "type": "program"},
        idle={"type": "message", "phase": "commentary", "status": "completed"},
    ),
    "said": Holder(
        [sdk.ResponseOutputMessageParam],
        in_input,
        "input[0]",
        {"role": "assistant", "type": "message", "content": []},
        mapped={"content": [{"type": "output_text", "text": "t", "annotations": []}], "role": "user"},
        refused={"type": "item_reference"},
        idle={"id": "msg_1", "status": "completed", "phase": "final_answer"},
    ),
    "call": Holder(
        [sdk.ResponseFunctionToolCallParam],
        in_input,
        "input[0]",
        CALL,
        mapped={"call_id": "d", "name": "g", "arguments": '{"a":1}', "namespace": "n"},
        refused={"async": True, "caller": PROGRAM, "type": "custom_tool_call"},
        idle={"async": False, "caller": DIRECT, "id": "fc_1", "status": "completed"},
    ),
    "output": Holder(
        [items.FunctionCallOutput],
        in_input,
        "input[0]",
        {"type": "function_call_output", "call_id": "c", "output": "o"},
        mapped={"call_id": "d", "output": "p"},
        refused={"caller": PROGRAM, "type": "computer_call_output"},
        idle={"caller": DIRECT, "id": "fco_1", "name": "f", "namespace": "n", "status": "completed"},
    ),
    "reasoned": Holder(
        [sdk.ResponseReasoningItemParam],
        in_input,
        "input[0]",
        {"type": "reasoning", "content": [{"type": "reasoning_text", "text": "t"}]},
        mapped={"content": [{"type": "reasoning_text", "text": "u"}]},
        refused={"type": "compaction"},
        idle={
            "id": "rs_1",
            "summary": [{"type": "summary_text", "text": "s"}],
            "encrypted_content": "e",
            "status": "completed",
        },
    ),
    "text part": Holder(
        [sdk.ResponseInputTextParam, sdk.ResponseInputTextContentParam],
        in_message("user"),
        "input[0].content[0]",
        {"type": "input_text", "text": "t"},
        mapped={"text": "u"},
        refused={"type": "input_audio"},
        idle={"prompt_cache_breakpoint": BREAKPOINT},
    ),
    "text of an output": Holder(
        [sdk.ResponseInputTextContentParam],
        in_output,
        "input[0].output[0]",
        {"type": "input_text", "text": "t"},
        mapped={"text": "u"},
        refused={"type": "input_image"},
        idle={"prompt_cache_breakpoint": BREAKPOINT},
    ),
    "image": Holder(
        [sdk.ResponseInputImageParam],
        in_message("user"),
        "input[0].content[0]",
        IMAGE,
        mapped={"image_url": "data:image/png;base64,AA==", "detail": "low"},
        refused={"file_id": "file_1", "type": "computer_screenshot"},
        idle={"prompt_cache_breakpoint": BREAKPOINT},
    ),
    "file": Holder(
        [sdk.ResponseInputFileParam],
        in_message("user"),
        "input[0].content[0]",
        {"type": "input_file", "file_data": "data:application/pdf;base64,AA=="},
        mapped={"file_data": "data:application/pdf;base64,BB==", "filename": "a.pdf"},
        refused={"file_id": "file_1", "file_url": "https://h/a.pdf", "detail": "high", "type": "input_video"},
        idle={"detail": "auto", "prompt_cache_breakpoint": BREAKPOINT},
    ),
    "said text": Holder(
        [sdk.ResponseOutputTextParam],
        in_message("assistant"),
        "input[0].content[0]",
        {"type": "output_text", "text": "t"},
        mapped={"text": "u"},
        refused={"type": "input_image"},
        idle={"annotations": [{"type": "file_path"}], "logprobs": [{"token": "t"}]},
    ),
    "refusal": Holder(
        [sdk.ResponseOutputRefusalParam],
        in_message("assistant"),
        "input[0].content[0]",
        {"type": "refusal", "refusal": "r"},
        mapped={"refusal": "s"},
        refused={"type": "summary_text"},
    ),
}
EACH = pytest.mark.parametrize("holder", HOLDERS.values(), ids=HOLDERS)


@EACH
def test_every_field_of_the_sdk_has_its_place(holder: Holder) -> None:
    known = {*holder.mapped, *holder.refused, *holder.idle}
    assert {name for one in holder.types for name in get_type_hints(one)} <= known


@EACH
def test_mapped_fields_change_what_is_sent(holder: Holder) -> None:
    plain = sent(holder.within(holder.base))
    assert [name for name, value in holder.mapped.items() if sent(holder.with_(name, value)) == plain] == []


@EACH
def test_refused_fields_are_named(holder: Holder) -> None:
    for name, value in holder.refused.items():
        found = refused(holder.with_(name, value)).name
        assert found in {name, f"{holder.at}.{name}"}, name


@EACH
def test_fields_that_do_not_apply_change_nothing(holder: Holder) -> None:
    plain = sent(holder.within(holder.base))
    assert {name: sent(holder.with_(name, value)) for name, value in holder.idle.items()} == dict.fromkeys(
        holder.idle, plain
    )


@EACH
def test_an_unknown_field_is_refused_and_null_is_absent(holder: Holder) -> None:
    assert refused(holder.with_("novel", 1)).name == f"{holder.at}.novel".lstrip(".")
    assert sent(holder.with_("novel", None)) == sent(holder.within(holder.base))


def types_of(union: Any) -> set[str]:
    """The values of `type` in all members of a union."""
    members = [one for one in get_args(union) if is_typeddict(one)]
    assert members
    kinds = [get_type_hints(one)["type"] for one in members]
    return {kind for one in kinds for kind in _literals(one)}


def _literals(hint: Any) -> Iterator[str]:
    for inner in get_args(hint):
        if isinstance(inner, str):
            yield inner
        else:
            yield from _literals(inner)


def test_other_items_of_the_sdk_are_refused_by_their_type() -> None:
    known = {"message", "function_call", "function_call_output", "reasoning", "additional_tools"}
    kinds = types_of(items.ResponseInputItemParam)
    assert known < kinds
    for kind in kinds - known:
        assert refused(in_input({"type": kind})).name == "input[0].type"


def test_other_tools_of_the_sdk_are_refused_by_their_type() -> None:
    kinds = types_of(ToolParam)
    known = {"function", "namespace"}
    assert known < kinds
    for kind in kinds - known:
        found = refused(in_tools({"type": kind, "name": "n"}))
        assert found.name == "tools[0].type"
        assert kind in found.why


def test_other_choices_of_the_sdk_are_refused_by_their_type() -> None:
    kinds = types_of(create.ToolChoice)
    assert {"function", "allowed_tools"} < kinds
    for kind in kinds - {"function", "allowed_tools"}:
        assert refused(in_choice({"type": kind})).name == "tool_choice.type"


def test_every_include_of_the_sdk_is_known() -> None:
    for wanted in get_args(ResponseIncludable):
        sent({**BASE, "include": [wanted]})
    assert refused({**BASE, "include": ["message.mood"]}).name == "include"


@pytest.mark.parametrize(
    ("wrong", "name"),
    [
        ({"input": 5}, "input"),
        ({"input": ["hi"]}, "input[0]"),
        ({"input": [{"role": "user", "content": {}}]}, "input[0].content"),
        ({"input": [{"role": "user", "content": ["a"]}]}, "input[0].content[0]"),
        ({"input": [{"role": "user", "content": [{"text": "a"}]}]}, "input[0].content[0].type"),
        ({"input": [{"id": "msg_1"}]}, "input[0].role"),
        ({"input": [{**CALL, "arguments": {}}]}, "input[0].arguments"),
        ({"input": [{"type": "function_call_output", "output": "o"}]}, "input[0].call_id"),
        ({"input": [{"role": "system", "content": [IMAGE]}]}, "input[0].content[0].type"),
        ({"instructions": ["a"]}, "instructions"),
        ({"tools": {}}, "tools"),
        ({"tools": [TOOL], "tool_choice": 5}, "tool_choice"),
        ({"tools": [TOOL], "tool_choice": "any"}, "tool_choice"),
        ({"tools": [TOOL], "tool_choice": {"type": "allowed_tools", "mode": "auto", "tools": []}}, "tool_choice.tools"),
        (
            {"tool_choice": {"type": "allowed_tools", "mode": "auto", "tools": [{"type": "mcp"}]}},
            "tool_choice.tools[0].type",
        ),
        ({"text": "json"}, "text"),
        ({"text": {"format": {}}}, "text.format.type"),
        ({"reasoning": "low"}, "reasoning"),
        ({"include": "all"}, "include"),
        ({"include": [{}]}, "include"),
        ({"stream": "yes"}, "stream"),
        ({"store": "no"}, "store"),
    ],
)
def test_what_has_a_wrong_type_is_refused(wrong: Json, name: str) -> None:
    assert refused({**BASE, **wrong}).name == name


# ---- what is sent ---------------------------------------------------------------------------------------------

FULL: Json = {
    "model": "public",
    "instructions": "Be brief.",
    "input": [
        {"role": "developer", "content": [{"type": "input_text", "text": "Use metric units."}]},
        {"role": "user", "content": "What does this show?"},
        {"type": "message", "role": "user", "content": [{"type": "input_text", "text": "Look:"}, IMAGE]},
        {"type": "reasoning", "id": "rs_1", "summary": [], "content": [{"type": "reasoning_text", "text": "Hm."}]},
        {
            "type": "message",
            "id": "msg_1",
            "role": "assistant",
            "status": "completed",
            "content": [{"type": "output_text", "text": "I look it up.", "annotations": []}],
        },
        {**CALL, "call_id": "c1", "id": "fc_1", "arguments": '{"q":1}'},
        {**CALL, "call_id": "c2", "id": "fc_2", "arguments": '{"q":2}'},
        {"type": "function_call_output", "call_id": "c1", "output": "one"},
        {
            "type": "function_call_output",
            "call_id": "c2",
            "output": [{"type": "input_text", "text": "two"}, {"type": "input_text", "text": "three"}],
        },
        {"role": "developer", "content": "Answer now."},
    ],
    "tools": [TOOL],
    "tool_choice": "auto",
    "parallel_tool_calls": True,
    "max_output_tokens": 100,
    "temperature": 0.2,
    "top_p": 0.9,
    "reasoning": {"effort": "low", "summary": "auto"},
    "text": {"format": {**SCHEMA, "strict": True, "description": "d"}, "verbosity": "low"},
    "include": ["reasoning.encrypted_content", "message.output_text.logprobs"],
    "top_logprobs": 2,
    "store": False,
    "stream": True,
    "user": "u",
}
SENT: Json = {
    "model": "deployed",
    "messages": [
        {"role": "system", "content": "Be brief.\n\nUse metric units."},
        {"role": "user", "content": "What does this show?"},
        {
            "role": "user",
            "content": [
                {"type": "text", "text": "Look:"},
                {"type": "image_url", "image_url": {"url": "https://h/a.png"}},
            ],
        },
        {
            "role": "assistant",
            "content": "I look it up.",
            "reasoning": "Hm.",
            "reasoning_content": "Hm.",
            "tool_calls": [
                {"id": "c1", "type": "function", "function": {"name": "f", "arguments": '{"q":1}'}},
                {"id": "c2", "type": "function", "function": {"name": "f", "arguments": '{"q":2}'}},
            ],
        },
        {"role": "tool", "tool_call_id": "c1", "content": "one"},
        {"role": "tool", "tool_call_id": "c2", "content": "two\n\nthree"},
        {"role": "system", "content": "Answer now."},
    ],
    "tools": [
        {"type": "function", "function": {"name": "f", "parameters": {"type": "object"}, "strict": True}},
    ],
    "tool_choice": "auto",
    "parallel_tool_calls": True,
    "max_tokens": 100,
    "temperature": 0.2,
    "top_p": 0.9,
    "reasoning_effort": "low",
    "verbosity": "low",
    "response_format": {
        "type": "json_schema",
        "json_schema": {"name": "n", "schema": {"type": "object"}, "strict": True, "description": "d"},
    },
    "logprobs": True,
    "top_logprobs": 2,
    "stream": True,
    "stream_options": {"include_usage": True},
}


def test_a_whole_request() -> None:
    assert sent(FULL) == SENT


def test_the_request_that_comes_in_stays_as_it_is() -> None:
    before = json.dumps(FULL)
    sent(FULL)
    assert json.dumps(FULL) == before


STREAMED: TypeAdapter[Any] = TypeAdapter(CompletionCreateParamsStreaming)
UNSTREAMED: TypeAdapter[Any] = TypeAdapter(CompletionCreateParamsNonStreaming)
MESSAGE: TypeAdapter[Any] = TypeAdapter(ChatCompletionMessageParam)


def validate(body: Json) -> None:
    """By the SDK's types, whose iterables are read only when somebody looks."""
    assert body.keys() <= get_type_hints(CompletionCreateParamsStreaming).keys()
    told = (STREAMED if body.get("stream") else UNSTREAMED).validate_python(body)
    assert len(list(told.get("tools", ()))) == len(body.get("tools", ()))
    for message in body["messages"]:
        said = MESSAGE.validate_python(message)
        for field_ in ("content", "tool_calls"):
            if not isinstance(said.get(field_), str | None):
                assert list(said[field_])


@EACH
def test_what_is_sent_is_a_chat_completion_of_the_sdk(holder: Holder) -> None:
    for name, value in {**holder.mapped, **holder.idle}.items():
        validate(sent(holder.with_(name, value)))
    validate(sent(FULL))


def test_the_check_by_the_sdk_can_fail() -> None:
    with pytest.raises(ValueError, match="role"):
        validate({"model": "m", "messages": [{"content": "hi"}]})


def test_leading_instructions_are_one_message_and_later_ones_stay_where_they_are() -> None:
    user = {"role": "user", "content": "u"}
    later = [{"role": "system", "content": "b"}, {"role": "developer", "content": "c"}]
    told = messages({"role": "system", "content": "a"}, user, *later, instructions="i")
    assert [(one["role"], one["content"]) for one in told] == [
        *(("system", "i\n\na"), ("user", "u"), ("system", "b"), ("system", "c")),
    ]


def test_an_assistants_turn_is_one_message_until_its_tools_have_answered() -> None:
    said = {"role": "assistant", "content": "s"}
    output = {"type": "function_call_output", "call_id": "c", "output": "o"}
    told = messages(CALL, said, output, said, {"role": "user", "content": "u"}, said)
    assert [one["role"] for one in told] == ["assistant", "tool", "assistant", "user", "assistant"]
    assert told[0]["content"] == "s"
    assert told[0]["tool_calls"][0]["id"] == "c"
    assert "tool_calls" not in told[2]


def test_a_call_alone_has_no_content_and_reasoning_alone_an_empty_one() -> None:
    thought = {"type": "reasoning", "content": [{"type": "reasoning_text", "text": "t"}]}
    assert messages(CALL)[0]["content"] is None
    (message,) = messages(thought, thought)
    assert message == {"role": "assistant", "content": "", "reasoning": "t\n\nt", "reasoning_content": "t\n\nt"}


def test_sealed_reasoning_leaves_no_message_behind() -> None:
    assert messages({"type": "reasoning", "id": "rs_1", "summary": [], "encrypted_content": "e"}) == []


def test_allowed_tools_leave_the_others_out() -> None:
    allowed = {"type": "allowed_tools", "mode": "required", "tools": [{"type": "function", "name": "g"}]}
    body = sent(in_choice(allowed))
    assert [tool["function"]["name"] for tool in body["tools"]] == ["g"]
    assert body["tool_choice"] == "required"


def test_functions_of_namespaces_have_its_name_before_theirs() -> None:
    more = {**TOOL, "name": "g", "description": "G."}
    spaces = {"type": "namespace", "name": "mcp__mail", "description": "Mail.", "tools": [TOOL, more]}
    added = {"type": "additional_tools", "role": "developer", "tools": [{**TOOL, "name": "late"}, more, more]}
    call = {**CALL, "namespace": "mcp__mail", "name": "g"}
    body = sent({"model": "m", "input": [added, call], "tools": [TOOL, spaces]})
    assert [(tool["function"]["name"], tool["function"].get("description")) for tool in body["tools"]] == [
        *(("f", None), ("mcp__mail__f", "Mail."), ("mcp__mail__g", "G."), ("late", None), ("g", "G.")),
    ]
    assert body["messages"][0]["tool_calls"][0]["function"]["name"] == "mcp__mail__g"


def test_long_names_stay_apart_and_within_what_chats_allow() -> None:
    tools = [{**TOOL, "name": "x" * 40 + end} for end in "ab"]
    body = sent(in_tools({**NAMESPACE, "name": "n" * 40, "tools": tools}))
    first, second = [tool["function"]["name"] for tool in body["tools"]]
    assert first != second
    assert len(first) == len(second) == 64


def test_two_tools_of_one_name_are_refused() -> None:
    clash = {"type": "function", "name": "n__f"}
    assert refused({**BASE, "tools": [NAMESPACE, clash]}).name == "tools[1].name"


def test_without_tools_nothing_governs_them() -> None:
    body = sent({**BASE, "tools": [], "tool_choice": "auto", "parallel_tool_calls": True})
    assert body == {"model": "deployed", "messages": [{"role": "user", "content": "hi"}]}
    assert sent({**BASE, "tool_choice": "required"})["tool_choice"] == "required"  # the backend says what it thinks


def test_the_path_is_that_of_chats() -> None:
    assert RESPONSES_TO_CHAT.path("m", True) == RESPONSES_TO_CHAT.path("m", False) == "/chat/completions"


def test_a_reference_is_refused_with_advice() -> None:
    for item in ({"type": "item_reference", "id": "msg_1"}, {"id": "msg_1"}):
        assert "stored" in refused(in_input(item)).why
    assert "stored" in refused({**BASE, "previous_response_id": "resp_1"}).why


scalars = st.none() | st.booleans() | st.integers(-3, 3) | st.text(max_size=3)
names = st.sampled_from(
    ["type", "role", "content", "text", "input", "output", "call_id", "name", "arguments", "tools", "mode", "format"]
)
kinds = st.sampled_from(
    ["message", "user", "assistant", "input_text", "function", "function_call", "reasoning", "reasoning_text"]
)
values = st.recursive(
    scalars | kinds,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(names, inner, max_size=4),
    max_leaves=12,
)


@settings(max_examples=100)
@given(st.dictionaries(st.sampled_from(sorted(HOLDERS["request"].mapped)) | names, values, max_size=5))
def test_what_is_not_refused_can_be_translated(request: Json) -> None:
    if RESPONSES_TO_CHAT.refused(request) is None:
        json.dumps(RESPONSES_TO_CHAT.request(request, "deployed"))
