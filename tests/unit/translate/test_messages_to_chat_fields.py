"""Requests of Anthropic's SDK as chat completions: each of its fields is mapped, means nothing, or is refused."""

import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from enum import Enum, auto
from types import UnionType
from typing import Any, Literal, Union, get_args, get_origin

import anthropic.types as stable
import orjson
import pytest
from anthropic.types import MessageCreateParams, beta
from anthropic.types.beta import BetaContextManagementConfigParam
from anthropic.types.beta import MessageCreateParams as BetaMessageCreateParams
from hypothesis import given, settings
from hypothesis import strategies as st
from openai.types.chat.completion_create_params import CompletionCreateParams
from pydantic import TypeAdapter
from typing_extensions import get_type_hints, is_typeddict

from extproc.dialects.translate.direction import Field
from extproc.dialects.translate.messages_to_chat import MESSAGES_TO_CHAT

Json = dict[str, Any]
MODEL = "deployed"


def refused(request: Json) -> Field | None:
    return MESSAGES_TO_CHAT.refused(request)


def translated(request: Json) -> Json:
    found = refused(request)
    assert found is None, found
    made: Json = json.loads(orjson.dumps(MESSAGES_TO_CHAT.request(request, MODEL)))
    return made


class Way(Enum):
    MAPPED = auto()  # without it the translation is another one, or there is none
    NOT_APPLICABLE = auto()  # without it the translation is the same


@dataclass(frozen=True)
class Refused:
    """Refused with this value."""

    value: object


M, N, R = Way.MAPPED, Way.NOT_APPLICABLE, Refused

USER: Json = {"role": "user", "content": "Hi"}
ASK: Json = {"model": "claude", "max_tokens": 9, "messages": [USER]}
CACHED = {"type": "ephemeral", "ttl": "1h"}
PIXEL = {"type": "base64", "media_type": "image/png", "data": "iVBORw0KGgo="}
SCHEMA = {"type": "object", "properties": {"it": {"type": "string"}}}
DOCUMENT: Json = {
    "type": "document",
    "source": {"type": "text", "media_type": "text/plain", "data": "Once."},
    "title": "Tale",
    "context": "Old.",
    "cache_control": CACHED,
    "citations": {"enabled": False},
}
TOOL: Json = {"name": "look", "input_schema": SCHEMA}


def of_user(block: Json) -> Json:
    return ASK | {"messages": [{"role": "user", "content": [block]}]}


def of_assistant(block: Json) -> Json:
    said = {"role": "assistant", "content": [block, {"type": "text", "text": "So."}]}
    return ASK | {"messages": [USER, said, USER]}


def of_tool(block: Json) -> Json:
    return of_user({"type": "tool_result", "tool_use_id": "t", "content": [block]})


def of_document(block: Json) -> Json:
    return of_user({"type": "document", "source": {"type": "content", "content": [block]}})


def with_tool(tool: Json) -> Json:
    return ASK | {"tools": [tool]}


def choosing(choice: Json) -> Json:
    return ASK | {"tools": [TOOL], "tool_choice": choice}


@dataclass(frozen=True)
class Thing:
    """An object in requests: its types in both of the SDK's APIs, the dotted name, and a whole one in its place."""

    types: tuple[Any, ...]
    at: str
    place: Callable[[Json], Json]
    whole: Json
    fields: Mapping[str, Way | Refused] = field(default_factory=dict)


THINGS: dict[str, Thing] = {
    "request": Thing(
        (MessageCreateParams, BetaMessageCreateParams),
        "",
        lambda request: request,
        ASK
        | {
            "cache_control": CACHED,
            "context_management": {"edits": [{"type": "clear_thinking_20251015", "keep": "all"}]},
            "diagnostics": {"previous_message_id": "msg_1"},
            "metadata": {"user_id": "u"},
            "output_config": {"effort": "max"},
            "service_tier": "standard_only",
            "speed": "standard",
            "stop_sequences": ["END"],
            "stream": True,
            "system": "Be brief.",
            "thinking": {"type": "adaptive"},
            "tool_choice": {"type": "any"},
            "tools": [TOOL],
        },
        {
            **dict.fromkeys(("max_tokens", "messages", "output_config", "service_tier", "stop_sequences"), M),
            **dict.fromkeys(("stream", "system", "tool_choice", "tools"), M),
            **dict.fromkeys(("cache_control", "context_management", "diagnostics", "metadata", "thinking"), N),
            "model": N,  # the deployed model's name stands in its place
            "speed": N,  # the fast one is refused
            "billing_policy": R({"type": "billing_policy", "bill_to": "user_profile"}),
            "compaction": R({"type": "summarize"}),
            "container": R("container_1"),
            "fallback_credit_token": R("token"),
            "fallbacks": R([{"model": "claude-other"}]),
            "inference_geo": R("us"),
            "mcp_servers": R([{"type": "url", "url": "https://tools.example", "name": "t"}]),
            "thread": R({"type": "create"}),
            # Headers, or fields of other platforms' bodies: in a body of this API they have no meaning.
            **dict.fromkeys(("betas", "user_profile_id", "workspace_id"), R("x")),
        },
    ),
    "message": Thing(
        (stable.MessageParam, beta.BetaMessageParam),
        "messages",
        lambda message: ASK | {"messages": [USER, message, USER]},
        {"role": "system", "content": "Now be long.", "clear_at": "never", "output_config": {}},
        {
            "role": M,
            "content": M,
            "clear_at": N,  # as `next_user_message` it is mapped
            "output_config": R({"effort": "low"}),
        },
    ),
    "text": Thing(
        (stable.TextBlockParam, beta.BetaTextBlockParam),
        "messages.content",
        of_assistant,
        {"type": "text", "text": "It is.", "cache_control": CACHED, "citations": [{"type": "char_location"}]},
        {"text": M, "cache_control": N, "citations": N},
    ),
    "image": Thing(
        (stable.ImageBlockParam, beta.BetaImageBlockParam),
        "messages.content",
        of_user,
        {
            "type": "image",
            "source": PIXEL,
            "cache_control": CACHED,
            "transformations": {"oversized_image": "downsize"},
        },
        {"source": M, "cache_control": N, "transformations": N},
    ),
    "transformations": Thing(
        (stable.ImageTransformationsParam, beta.BetaImageTransformationsParam),
        "messages.content.transformations",
        lambda changed: of_user({"type": "image", "source": PIXEL, "transformations": changed}),
        {},
        {"oversized_image": R("error")},
    ),
    "image data": Thing(
        (stable.Base64ImageSourceParam, beta.BetaBase64ImageSourceParam),
        "messages.content.source",
        lambda source: of_user({"type": "image", "source": source}),
        PIXEL,
        {"data": M, "media_type": M},
    ),
    "image url": Thing(
        (stable.URLImageSourceParam, beta.BetaURLImageSourceParam),
        "messages.content.source",
        lambda source: of_user({"type": "image", "source": source}),
        {"type": "url", "url": "https://pictures.example/1.png"},
        {"url": M},
    ),
    "document": Thing(
        (stable.DocumentBlockParam, beta.BetaRequestDocumentBlockParam),
        "messages.content",
        of_user,
        DOCUMENT,
        {"source": M, "title": M, "context": M, "cache_control": N, "citations": N},
    ),
    "citations": Thing(
        (stable.CitationsConfigParam, beta.BetaCitationsConfigParamParam),
        "messages.content.citations",
        lambda asked: of_user(DOCUMENT | {"citations": asked}),
        {},
        {"enabled": R(True)},
    ),
    "pdf": Thing(
        (stable.Base64PDFSourceParam, beta.BetaBase64PDFSourceParam),
        "messages.content.source",
        lambda source: of_user({"type": "document", "source": source}),
        {"type": "base64", "media_type": "application/pdf", "data": "JVBERi0="},
        {"data": M, "media_type": N},  # there is no other
    ),
    "plain text": Thing(
        (stable.PlainTextSourceParam, beta.BetaPlainTextSourceParam),
        "messages.content.source",
        lambda source: of_user({"type": "document", "source": source}),
        {"type": "text", "media_type": "text/plain", "data": "Once."},
        {"data": M, "media_type": N},  # there is no other
    ),
    "blocks": Thing(
        (stable.ContentBlockSourceParam, beta.BetaContentBlockSourceParam),
        "messages.content.source",
        lambda source: of_user({"type": "document", "source": source}),
        {"type": "content", "content": "Once."},
        {"content": M},
    ),
    "search result": Thing(
        (stable.SearchResultBlockParam, beta.BetaSearchResultBlockParam),
        "messages.content",
        of_user,
        {
            "type": "search_result",
            "source": "https://found.example",
            "title": "Found",
            "content": [{"type": "text", "text": "This."}],
            "cache_control": CACHED,
            "citations": {"enabled": False},
        },
        {"source": M, "title": M, "content": M, "cache_control": N, "citations": N},
    ),
    "tool use": Thing(
        (stable.ToolUseBlockParam, beta.BetaToolUseBlockParam),
        "messages.content",
        of_assistant,
        {
            "type": "tool_use",
            "id": "toolu_1",
            "name": "look",
            "input": {"at": [1]},
            "cache_control": CACHED,
            "caller": {"type": "direct"},
        },
        {"id": M, "name": M, "input": M, "cache_control": N, "caller": N, "toolset_name": R("computer")},
    ),
    "tool result": Thing(
        (stable.ToolResultBlockParam, beta.BetaToolResultBlockParam),
        "messages.content",
        of_user,
        {
            "type": "tool_result",
            "tool_use_id": "toolu_1",
            "content": "a cat",
            "is_error": True,
            "cache_control": CACHED,
        },
        {"tool_use_id": M, "content": M, "is_error": M, "cache_control": N, "toolset_name": R("computer")},
    ),
    "thinking block": Thing(
        (stable.ThinkingBlockParam, beta.BetaThinkingBlockParam),
        "messages.content",
        of_assistant,
        {"type": "thinking", "thinking": "Hm.", "signature": "EqQBCgIYAhIk"},
        {"thinking": N, "signature": N},  # but for what a server of chat thought
    ),
    "redacted thinking": Thing(
        (stable.RedactedThinkingBlockParam, beta.BetaRedactedThinkingBlockParam),
        "messages.content",
        of_assistant,
        {"type": "redacted_thinking", "data": "EqQBCgIYAhIk"},
        {"data": N},
    ),
    "tool": Thing(
        (stable.ToolParam, beta.BetaToolParam),
        "tools",
        with_tool,
        TOOL
        | {
            "type": "custom",
            "description": "Looks.",
            "strict": True,
            "input_examples": [{"it": "cat"}],
            "allowed_callers": ["direct"],
            "cache_control": CACHED,
            "defer_loading": False,
            "eager_input_streaming": True,
        },
        {
            **dict.fromkeys(("name", "input_schema", "description", "strict", "input_examples"), M),
            **dict.fromkeys(("cache_control", "eager_input_streaming", "type"), N),
            "allowed_callers": R(["direct", "code_execution_20260120"]),
            "defer_loading": R(True),
        },
    ),
    **{
        f"choice {kind}": Thing(
            types,
            "tool_choice",
            choosing,
            {"type": kind, "disable_parallel_tool_use": True},
            {"disable_parallel_tool_use": M},
        )
        for kind, types in {
            "auto": (stable.ToolChoiceAutoParam, beta.BetaToolChoiceAutoParam),
            "any": (stable.ToolChoiceAnyParam, beta.BetaToolChoiceAnyParam),
        }.items()
    },
    "choice none": Thing(
        (stable.ToolChoiceNoneParam, beta.BetaToolChoiceNoneParam), "tool_choice", choosing, {"type": "none"}
    ),
    "choice tool": Thing(
        (stable.ToolChoiceToolParam, beta.BetaToolChoiceToolParam),
        "tool_choice",
        choosing,
        {"type": "tool", "name": "look", "disable_parallel_tool_use": True},
        {"name": M, "disable_parallel_tool_use": M},
    ),
    "thinking enabled": Thing(
        (stable.ThinkingConfigEnabledParam, beta.BetaThinkingConfigEnabledParam),
        "thinking",
        lambda thinking: ASK | {"thinking": thinking},
        {
            "type": "enabled",
            "budget_tokens": 2048,
            "display": "summarized",
            "block_binding": {"prefix_mismatch_behavior": "drop_block"},
        },
        dict.fromkeys(("budget_tokens", "display", "block_binding"), N),
    ),
    "thinking adaptive": Thing(
        (stable.ThinkingConfigAdaptiveParam, beta.BetaThinkingConfigAdaptiveParam),
        "thinking",
        lambda thinking: ASK | {"thinking": thinking},
        {
            "type": "adaptive",
            "display": "omitted",
            "block_binding": {"prefix_mismatch_behavior": "drop_block"},
        },
        dict.fromkeys(("display", "block_binding"), N),
    ),
    "output": Thing(
        (stable.OutputConfigParam, beta.BetaOutputConfigParam),
        "output_config",
        lambda config: ASK | {"output_config": config},
        {"effort": "xhigh", "format": {"type": "json_schema", "schema": SCHEMA}},
        {"effort": M, "format": M, "task_budget": R({"type": "tokens", "total": 20000})},
    ),
    "format": Thing(
        (stable.JSONOutputFormatParam, beta.BetaJSONOutputFormatParam),
        "output_config.format",
        lambda wanted: ASK | {"output_config": {"format": wanted}},
        {"type": "json_schema", "schema": SCHEMA},
        {"schema": M, "type": N},  # there is no other
    ),
    "context management": Thing(
        (BetaContextManagementConfigParam,),
        "context_management",
        lambda managed: ASK | {"context_management": managed},
        {"edits": []},
        {"edits": N},  # all but one kind are refused
    ),
}


def members(hint: Any) -> Iterator[Any]:
    """The kinds of objects in a type."""
    if is_typeddict(hint):
        yield hint
    elif get_origin(hint) in (Union, UnionType) or (get_args(hint) and get_origin(hint) not in (dict, Literal)):
        for inner in get_args(hint):
            yield from members(inner)


@pytest.mark.parametrize("name", THINGS)
def test_every_field_of_the_sdk_is_in_the_table(name: str) -> None:
    thing = THINGS[name]
    known = {key for hint in thing.types for member in members(hint) for key in get_type_hints(member)}
    assert known - {"type"} == set(thing.fields) - {"type"}


@pytest.mark.parametrize(("name", "key"), [(name, key) for name, thing in THINGS.items() for key in thing.fields])
def test_a_field_is_mapped_or_means_nothing_or_is_refused_by_its_name(name: str, key: str) -> None:
    thing = THINGS[name]
    way = thing.fields[key]
    if isinstance(way, Refused):
        found = refused(thing.place(thing.whole | {key: way.value}))
        assert found == Field(f"{thing.at}.{key}".lstrip("."), found.why if found else "")
        return
    assert key in thing.whole
    made = translated(thing.place(thing.whole))
    lacking = thing.place({name: value for name, value in thing.whole.items() if name != key})
    same = refused(lacking) is None and translated(lacking) == made
    assert same is (way is N)


_CHAT: TypeAdapter[Any] = TypeAdapter(CompletionCreateParams)


def plain(value: Any) -> Any:
    """What a type made of a value: lists are read, and so checked, only here."""
    if isinstance(value, Mapping):
        return {name: plain(inner) for name, inner in value.items()}
    if isinstance(value, Iterable) and not isinstance(value, str):
        return [plain(inner) for inner in value]
    return value


@pytest.mark.parametrize("name", THINGS)
def test_the_other_sdk_takes_the_request_and_knows_its_fields(name: str) -> None:
    made = translated(THINGS[name].place(THINGS[name].whole))
    assert plain(_CHAT.validate_python(made)) == made


# ---- kinds ------------------------------------------------------------------------------------------

_SERVER_RESULTS = frozenset(
    f"{tool}_tool_result"
    for tool in ("advisor", "bash_code_execution", "code_execution", "mcp", "text_editor_code_execution")
) | {"tool_search_tool_result", "web_fetch_tool_result", "web_search_tool_result"}
_NEVER = _SERVER_RESULTS | {
    *("server_tool_use", "mcp_tool_use", "mcp_tool_listing", "container_upload", "compaction", "fallback"),
    *("tool_addition", "tool_removal"),
}
_SHOWN = frozenset({"text", "image", "document", "search_result"})
_SAID = frozenset({"text", "tool_use", "thinking", "redacted_thinking"})
_OWN_TOOLS = """
    advisor_20260301 bash_20241022 bash_20250124 browser_toolset_20260801 code_execution_20250522
    code_execution_20250825 code_execution_20260120 code_execution_20260521 computer_20241022 computer_20250124
    computer_20251124 computer_toolset_20260801 mcp_toolset memory_20250818 text_editor_20241022 text_editor_20250124
    text_editor_20250429 text_editor_20250728 tool_search_tool_bm25 tool_search_tool_bm25_20251119
    tool_search_tool_regex tool_search_tool_regex_20251119 web_fetch_20250910 web_fetch_20260209 web_fetch_20260309
    web_fetch_20260318 web_search_20250305 web_search_20260209 web_search_20260318
"""


@dataclass(frozen=True)
class Kinds:
    """What an object can be: the SDK's types, its place, which can be expressed, and which cannot."""

    types: tuple[Any, ...]
    at: str
    place: Callable[[Json], Json]
    expressed: frozenset[str]
    refused: frozenset[str]


_CONTENTS = (stable.ContentBlockParam, beta.BetaContentBlockParam)
KINDS = {
    "of the user": Kinds(_CONTENTS, "messages.content", of_user, _SHOWN | {"tool_result"}, _NEVER | _SAID - {"text"}),
    "of the assistant": Kinds(
        _CONTENTS, "messages.content", of_assistant, _SAID, _NEVER | {"tool_result"} | _SHOWN - {"text"}
    ),
    "of a tool": Kinds(
        (
            get_type_hints(stable.ToolResultBlockParam)["content"],
            get_type_hints(beta.BetaToolResultBlockParam)["content"],
        ),
        "messages.content.content",
        of_tool,
        _SHOWN,
        frozenset({"tool_reference", "browser_state"}),
    ),
    "in a document": Kinds(
        (get_type_hints(stable.ContentBlockSourceParam)["content"],),
        "messages.content.source.content",
        of_document,
        frozenset({"text", "image"}),
        frozenset(),
    ),
    "images": Kinds(
        (get_type_hints(stable.ImageBlockParam)["source"], get_type_hints(beta.BetaImageBlockParam)["source"]),
        "messages.content.source",
        lambda source: of_user({"type": "image", "source": source}),
        frozenset({"base64", "url"}),
        frozenset({"file"}),
    ),
    "documents": Kinds(
        (
            get_type_hints(stable.DocumentBlockParam)["source"],
            get_type_hints(beta.BetaRequestDocumentBlockParam)["source"],
        ),
        "messages.content.source",
        lambda source: of_user({"type": "document", "source": source}),
        frozenset({"base64", "text", "content"}),
        frozenset({"file", "url"}),
    ),
    "tools": Kinds(
        (stable.ToolUnionParam, beta.BetaToolUnionParam),
        "tools",
        with_tool,
        frozenset({"custom"}),
        frozenset(_OWN_TOOLS.split()),
    ),
    "choices": Kinds(
        (stable.ToolChoiceParam, beta.BetaToolChoiceParam),
        "tool_choice",
        choosing,
        frozenset({"auto", "any", "none", "tool"}),
        frozenset(),
    ),
    "thinking": Kinds(
        (stable.ThinkingConfigParam, beta.BetaThinkingConfigParam),
        "thinking",
        lambda thinking: ASK | {"thinking": thinking},
        frozenset({"adaptive", "enabled", "disabled"}),
        frozenset({"between_tools"}),
    ),
    "edits": Kinds(
        (BetaContextManagementConfigParam,),
        "context_management.edits",
        lambda edit: ASK | {"context_management": {"edits": [edit]}},
        frozenset({"clear_thinking_20251015"}),
        frozenset({"clear_tool_uses_20250919", "compact_20260112"}),
    ),
    "callers": Kinds(
        (get_type_hints(stable.ToolUseBlockParam)["caller"],),
        "messages.content.caller",
        lambda caller: of_assistant({"type": "tool_use", "id": "t", "name": "f", "input": {}, "caller": caller}),
        frozenset({"direct"}),
        frozenset({"code_execution_20250825", "code_execution_20260120"}),
    ),
}


def literals(hint: Any) -> Iterator[str]:
    if get_origin(hint) is Literal:
        yield from get_args(hint)
    for inner in get_args(hint) if get_origin(hint) is not Literal else ():
        yield from literals(inner)


@pytest.mark.parametrize("name", KINDS)
def test_every_kind_of_the_sdk_is_expressed_or_refused(name: str) -> None:
    kinds = KINDS[name]
    hints = [inner for hint in kinds.types for inner in members(hint)]
    if name == "edits":
        hints = [inner for hint in hints for inner in members(get_type_hints(hint)["edits"])]
    assert {
        kind for hint in hints for kind in literals(get_type_hints(hint)["type"])
    } == kinds.expressed | kinds.refused


@pytest.mark.parametrize(
    ("name", "kind"), [(name, kind) for name, kinds in KINDS.items() for kind in sorted(kinds.refused)]
)
def test_a_kind_that_cannot_be_expressed_is_refused(name: str, kind: str) -> None:
    found = refused(KINDS[name].place({"type": kind}))
    assert found is not None
    assert found.name == f"{KINDS[name].at}.type"


@pytest.mark.parametrize(
    ("name", "kind"), [(name, kind) for name, kinds in KINDS.items() for kind in sorted(kinds.expressed)]
)
def test_a_kind_that_can_be_expressed_is_not_refused_for_what_it_is(name: str, kind: str) -> None:
    found = refused(KINDS[name].place({"type": kind}))
    assert found is None or found.name != f"{KINDS[name].at}.type"


# ---- values -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("request_", "name"),
    [
        (ASK | {"top_k": 5}, "top_k"),  # of the older version of the API
        (ASK | {"invented": 1}, "invented"),
        (ASK | {"max_tokens": 0}, "max_tokens"),  # fills the cache
        (ASK | {"max_tokens": True}, "max_tokens"),
        (ASK | {"temperature": "hot"}, "temperature"),
        (ASK | {"top_p": True}, "top_p"),
        (ASK | {"stop_sequences": ["a", None]}, "stop_sequences"),
        (ASK | {"stop_sequences": False}, "stop_sequences"),
        (ASK | {"speed": "fast"}, "speed"),
        (ASK | {"service_tier": "priority"}, "service_tier"),
        (ASK | {"stream": 1}, "stream"),
        (ASK | {"output_config": {"effort": "huge"}}, "output_config.effort"),
        (ASK | {"output_config": {"format": {"type": "grammar"}}}, "output_config.format.type"),
        (ASK | {"output_format": {"type": "json_schema", "schema": []}}, "output_format.schema"),
        (ASK | {"tools": [TOOL | {"strict": 1}]}, "tools.strict"),
        (ASK | {"tools": [TOOL | {"input_examples": {}}]}, "tools.input_examples"),
        (ASK | {"tools": [TOOL | {"input_schema": None}]}, "tools.input_schema"),
        (ASK | {"tool_choice": {"type": "any"}}, "tool_choice.type"),
        (choosing({"type": "most"}), "tool_choice.type"),
        (ASK | {"system": 5}, "system"),
        (ASK | {"system": [{"type": "image", "source": PIXEL}]}, "system.type"),
        (ASK | {"messages": []}, "messages"),
        (ASK | {"messages": [{"role": "system", "content": "x"}]}, "messages"),
        (ASK | {"messages": [USER, {"role": "assistant", "content": "{"}]}, "messages"),
        (ASK | {"messages": [{"role": "tool", "content": "x"}, USER]}, "messages.role"),
        (ASK | {"messages": [{"role": "system", "content": "x", "clear_at": "once"}, USER]}, "messages.clear_at"),
        (ASK | {"messages": [{"role": "user", "content": "x", "name": "bob"}]}, "messages.name"),
        (of_assistant({"type": "tool_use", "id": "t", "name": "f", "input": "x"}), "messages.content.input"),
        (of_user({"type": "image", "source": PIXEL, "invented": 1}), "messages.content.invented"),
        (
            of_user({"type": "search_result", "title": "t", "source": "s"} | {"citations": {"enabled": True}}),
            "messages.content.citations.enabled",
        ),
    ],
)
def test_what_cannot_be_expressed_is_named(request_: Json, name: str) -> None:
    found = refused(request_)
    assert found is not None
    assert found.name == name


@pytest.mark.parametrize(
    "idle",
    [
        *({"mcp_servers": []}, {"fallbacks": []}, {"tools": []}, {"stop_sequences": []}, {"stream": False}),
        *({"tool_choice": {"type": "auto"}}, {"tool_choice": {"type": "none"}}, {"service_tier": "auto"}),
        *({"inference_geo": None}, {"container": None}, {"system": []}, {"system": ""}, {"output_config": {}}),
        {"thinking": {"type": "disabled"}},
    ],
)
def test_what_says_nothing_is_no_reason_to_refuse(idle: Json) -> None:
    assert translated(ASK | idle) == translated(ASK)


_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-2, 9) | st.floats(allow_nan=False) | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["type", "text", "content", "source", "role", "name", "input", "id", "data", "x"]),
            inner
            | st.sampled_from(["text", "image", "document", "tool_use", "tool_result", "base64", "url", "content"]),
            max_size=5,
        )
    ),
    max_leaves=12,
)


@settings(max_examples=150)
@given(st.sampled_from(list(THINGS)), st.data())
def test_whatever_is_not_refused_is_translated(name: str, data: st.DataObject) -> None:
    thing = THINGS[name]
    key = data.draw(st.sampled_from([*thing.whole, *thing.fields]) | st.text(max_size=5))
    request = thing.place(thing.whole | {key: data.draw(_VALUES)})
    if refused(request) is None:
        orjson.dumps(MESSAGES_TO_CHAT.request(request, MODEL))


@given(st.dictionaries(st.sampled_from(["messages", "system", "tools", "thinking"]) | st.text(max_size=3), _VALUES))
def test_any_object_is_refused_or_translated(request_: Json) -> None:
    if refused(request_) is None:
        orjson.dumps(MESSAGES_TO_CHAT.request(request_, MODEL))
