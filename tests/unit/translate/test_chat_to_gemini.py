"""Requests of chat completions to Gemini: conversations, media, tools, how to generate."""

from typing import Any

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from openai.types.chat import ParsedChatCompletionMessage

from extproc.dialects.translate.chat_to_gemini import CHAT_TO_GEMINI
from tests.support import cassettes
from tests.unit.translate.gemini_shapes import validated
from tests.unit.translate.gemini_talk import NEW, OLD, PIXEL, Object, call, result, sent, user


def refused(*messages: Object, **fields: Any) -> str:
    found = CHAT_TO_GEMINI.refused({"model": "m", "messages": list(messages), **fields})
    assert found is not None
    return found.name


def test_the_path_names_the_model_and_the_operation() -> None:
    assert CHAT_TO_GEMINI.path(NEW, False) == f"/v1beta/models/{NEW}:generateContent"
    assert CHAT_TO_GEMINI.path(NEW, True) == f"/v1beta/models/{NEW}:streamGenerateContent?alt=sse"
    assert CHAT_TO_GEMINI.path(f"models/{NEW}", False) == CHAT_TO_GEMINI.path(NEW, False)
    assert CHAT_TO_GEMINI.path("a/../b?c:d", False) == "/v1beta/models/a%2F..%2Fb%3Fc%3Ad:generateContent"


def test_sides_take_turns_and_the_system_speaks_first() -> None:
    body = sent(
        {"role": "system", "content": "Be kind."},
        user("One."),
        user([{"type": "text", "text": "Two."}, {"type": "text", "text": ""}]),
        {"role": "assistant", "content": "Well,"},
        {"role": "assistant", "content": [{"type": "text", "text": "yes."}]},
        {"role": "developer", "content": "Be brief."},
        user("Bye."),
    )
    assert body == {
        "systemInstruction": {"parts": [{"text": "Be kind."}, {"text": "Be brief."}]},
        "contents": [
            {"role": "user", "parts": [{"text": "One."}, {"text": "Two."}]},
            {"role": "model", "parts": [{"text": "Well,"}, {"text": "yes."}]},
            {"role": "user", "parts": [{"text": "Bye."}]},
        ],
    }


@pytest.mark.parametrize(
    ("part", "inline"),
    [
        ({"type": "image_url", "image_url": {"url": PIXEL}}, ("image/png", "iVBORw0KGgo=")),
        ({"type": "image_url", "image_url": {"url": "DATA:image/jpeg;name=a;BASE64,QQ=="}}, ("image/jpeg", "QQ==")),
        ({"type": "input_audio", "input_audio": {"format": "wav", "data": "QQ=="}}, ("audio/wav", "QQ==")),
        ({"type": "file", "file": {"file_data": "data:text/csv;base64,QQ=="}}, ("text/csv", "QQ==")),
        ({"type": "file", "file": {"file_data": "QQ==", "filename": "a.b.PDF"}}, ("application/pdf", "QQ==")),
    ],
)
def test_media_goes_inline(part: Object, inline: tuple[str, str]) -> None:
    (content,) = sent(user([{"type": "text", "text": "Look."}, part]))["contents"]
    assert content["parts"][1] == {"inlineData": {"mimeType": inline[0], "data": inline[1]}}


def test_an_image_elsewhere_is_fetched_by_google() -> None:
    urls = ["https://example.com/a.PNG?width=1", "http://example.md"]
    (content,) = sent(user([{"type": "image_url", "image_url": {"url": url}} for url in urls]))["contents"]
    assert content["parts"] == [
        {"fileData": {"mimeType": "image/png", "fileUri": urls[0]}},
        {"fileData": {"fileUri": urls[1]}},
    ]


@pytest.mark.parametrize(
    ("details", "resolution"),
    [
        (["low", "low"], "MEDIA_RESOLUTION_LOW"),
        (["low", "auto"], None),
        (["low", None], None),
        (["auto", "high"], "MEDIA_RESOLUTION_HIGH"),
        (["original", "low"], "MEDIA_RESOLUTION_HIGH"),
    ],
)
def test_all_media_have_the_finest_resolution_asked_for(details: list[str | None], resolution: str | None) -> None:
    images = [{"type": "image_url", "image_url": {"url": PIXEL, "detail": detail}} for detail in details]
    assert sent(user(images)).get("generationConfig", {}).get("mediaResolution") == resolution


def test_tools_and_their_results_are_told_by_name() -> None:
    body = sent(
        user("Weather in Paris and Rome?"),
        {
            "role": "assistant",
            "content": "I look.",
            "tool_calls": [call("a", "weather", '{"city":"Paris"}'), call("b", "weather", '{"city":"Rome"}')],
        },
        result("b", "rain"),
        result("a", [{"type": "text", "text": '{"sky":'}, {"type": "text", "text": '"blue"}'}]),
        user("And?"),
        model=OLD,
    )
    assert body["contents"][1:] == [
        {
            "role": "model",
            "parts": [
                {"text": "I look."},
                {"functionCall": {"id": "a", "name": "weather", "args": {"city": "Paris"}}},
                {"functionCall": {"id": "b", "name": "weather", "args": {"city": "Rome"}}},
            ],
        },
        {
            "role": "user",
            "parts": [
                {"functionResponse": {"id": "b", "name": "weather", "response": {"output": "rain"}}},
                {"functionResponse": {"id": "a", "name": "weather", "response": {"output": ['{"sky":', '"blue"}']}}},
            ],
        },
        {"role": "user", "parts": [{"text": "And?"}]},
    ]


def _signatures(body: Object) -> list[str | None]:
    return [part.get("thoughtSignature") for content in body["contents"] for part in content["parts"]]


def test_what_the_sdk_has_read_itself_is_not_sent() -> None:
    bare = {"role": "assistant", "content": "{}", "tool_calls": [call(), call("call_2")]}
    read = ParsedChatCompletionMessage[object].model_validate(bare | {"parsed": {"a": 1}})
    assert read.tool_calls is not None
    for one in read.tool_calls:
        one.function.parsed_arguments = {"a": 1}
    results = [result("call_1", "A"), result("call_2", "B")]
    again = read.model_dump(mode="json", exclude_unset=True)
    assert again["parsed"] == again["tool_calls"][0]["function"]["parsed_arguments"] == {"a": 1}
    assert sent(user("Go."), again, *results) == sent(user("Go."), bare, *results)


def test_calls_without_a_signature_say_so_where_one_is_demanded() -> None:
    said = (user("?"), {"role": "assistant", "tool_calls": [call("a"), call("b")]}, result("a", ""), result("b", ""))
    unsigned = "skip_thought_signature_validator"
    assert _signatures(sent(*said, model=NEW)) == [None, unsigned, None, None, None]
    assert _signatures(sent(*said, model=OLD)) == [None, None, None, None, None]


def test_schemas_go_through_as_they_are() -> None:
    schema = {
        "type": "object",
        "properties": {"a": {"$ref": "#/$defs/A"}},
        "$defs": {"A": {"type": ["string", "null"]}},
    }
    tool = {"type": "function", "function": {"name": "f", "description": "F.", "parameters": schema}}
    bare = {"type": "function", "function": {"name": "g", "parameters": {}, "strict": False}}
    described = {"type": "json_schema", "json_schema": {"name": "n", "schema": schema, "strict": True}}
    body = sent(user("?"), tools=[tool, bare], response_format=described)
    assert body["tools"] == [
        {"functionDeclarations": [{"name": "f", "description": "F.", "parametersJsonSchema": schema}, {"name": "g"}]}
    ]
    assert body["generationConfig"] == {"responseMimeType": "application/json", "responseJsonSchema": schema}
    assert "toolConfig" not in body


def _named(name: str) -> Object:
    return {"type": "function", "function": {"name": name}}


@pytest.mark.parametrize(
    ("choice", "config"),
    [
        ("auto", None),
        ("none", {"mode": "NONE"}),
        ("required", {"mode": "ANY"}),
        (_named("f"), {"mode": "ANY", "allowedFunctionNames": ["f"]}),
        (
            {"type": "allowed_tools", "allowed_tools": {"mode": "auto", "tools": [_named("f"), _named("g")]}},
            {"mode": "VALIDATED", "allowedFunctionNames": ["f", "g"]},
        ),
        (
            {"type": "allowed_tools", "allowed_tools": {"mode": "required", "tools": [_named("f")]}},
            {"mode": "ANY", "allowedFunctionNames": ["f"]},
        ),
    ],
)
def test_the_choice_of_a_tool(choice: object, config: Object | None) -> None:
    body = sent(user("?"), tools=[_named("f"), _named("g")], tool_choice=choice)
    assert body.get("toolConfig", {}).get("functionCallingConfig") == config


def test_strict_tools_are_validated() -> None:
    strict = {"type": "function", "function": {"name": "f", "strict": True}}
    for choice in (None, "auto"):
        body = sent(user("?"), tools=[_named("g"), strict], tool_choice=choice)
        assert body["toolConfig"] == {"functionCallingConfig": {"mode": "VALIDATED"}}


@pytest.mark.parametrize(
    ("model", "effort", "thinking"),
    [
        (OLD, "none", {"thinkingBudget": 0}),
        (OLD, "minimal", {"thinkingBudget": 1024}),
        (OLD, "high", {"thinkingBudget": 24576}),
        (NEW, "none", {"thinkingBudget": 0}),
        (NEW, "minimal", {"thinkingLevel": "minimal"}),
        ("gemini-3.1-pro-preview", "minimal", {"thinkingLevel": "low"}),
        ("gemini-flash-latest", "medium", {"thinkingLevel": "medium"}),
    ],
)
def test_how_much_is_thought(model: str, effort: str, thinking: Object) -> None:
    body = sent(user("?"), model=model, reasoning_effort=effort)
    assert body["generationConfig"] == {"thinkingConfig": thinking}


def test_how_it_generates() -> None:
    body = sent(
        user("?"),
        max_tokens=5,
        max_completion_tokens=9,
        stop="\n",
        temperature=0,
        top_p=0.5,
        n=2,
        seed=-1,
        logprobs=True,
        top_logprobs=2,
        presence_penalty=1,
        frequency_penalty=-1,
        response_format={"type": "text"},
        store=False,
        user=None,
        tools=None,
    )
    assert body["generationConfig"] == {
        "maxOutputTokens": 9,
        "stopSequences": ["\n"],
        "temperature": 0,
        "topP": 0.5,
        "candidateCount": 2,
        "seed": -1,
        "responseLogprobs": True,
        "logprobs": 2,
        "presencePenalty": 1,
        "frequencyPenalty": -1,
    }


ALLOWED_CUSTOM = {"type": "allowed_tools", "allowed_tools": {"mode": "auto", "tools": [{"type": "custom"}]}}
STRICT_NUMBER = {"type": "function", "function": {"name": "f", "strict": 1}}
IMAGE_PART = "messages.content.image_url.url"


@pytest.mark.parametrize(
    ("name", "messages", "fields"),
    [
        ("messages", [], {}),
        ("messages", [{"role": "system", "content": "Hi."}], {}),
        ("messages", [user("")], {}),
        ("messages.content", [user(1)], {}),
        ("messages.content", [user(["Hi."])], {}),
        ("messages.content.type", [user([{"type": "video_url", "video_url": {}}])], {}),
        ("messages.content.text", [user([{"type": "text"}])], {}),
        ("messages.content.text", [user([{"type": "text", "text": 1}])], {}),
        ("messages.content.type", [{"role": "system", "content": [{"type": "input_audio"}]}], {}),
        (IMAGE_PART, [user([{"type": "image_url", "image_url": {"url": "data:image/png,A"}}])], {}),
        (IMAGE_PART, [user([{"type": "image_url", "image_url": {"url": "data:;base64,QQ=="}}])], {}),
        (IMAGE_PART, [user([{"type": "image_url", "image_url": {"url": "gs://bucket/a.png"}}])], {}),
        ("messages.content.image_url", [user([{"type": "image_url"}])], {}),
        (
            "messages.content.image_url.detail",
            [user([{"type": "image_url", "image_url": {"url": PIXEL, "detail": "best"}}])],
            {},
        ),
        ("messages.content.file.file_data", [user([{"type": "file", "file": {"file_data": "QQ=="}}])], {}),
        ("messages.content.file.file_data", [user([{"type": "file", "file": {"filename": "a.pdf"}}])], {}),
        (
            "messages.content.input_audio.format",
            [user([{"type": "input_audio", "input_audio": {"format": "flac", "data": ""}}])],
            {},
        ),
        ("messages.tool_call_id", [user("?"), result("a", "")], {}),
        (
            "messages.tool_calls.function.arguments",
            [user("?"), {"role": "assistant", "tool_calls": [call(arguments="[1]")]}],
            {},
        ),
        (
            "messages.tool_calls.function.arguments",
            [user("?"), {"role": "assistant", "tool_calls": [call(arguments="{")]}],
            {},
        ),
        (
            "messages.tool_calls.function.arguments",
            [user("?"), {"role": "assistant", "tool_calls": [call(arguments='{"a":' * 200 + "1" + "}" * 200)]}],
            {},
        ),
        ("messages.role", [{"content": "?"}], {}),
        ("tools.function.strict", [user("?")], {"tools": [STRICT_NUMBER]}),
        ("response_format.json_schema", [user("?")], {"response_format": {"type": "json_schema"}}),
        ("tool_choice.allowed_tools.tools.type", [user("?")], {"tool_choice": ALLOWED_CUSTOM}),
        ("messages.tool_calls", [user("?"), {"role": "assistant", "tool_calls": {}}], {}),
        ("messages.extra_content.acme", [user("?"), {"role": "assistant", "extra_content": {"acme": 1}}], {}),
        ("stream_options.resume", [user("?")], {"stream_options": {"resume": True}}),
        ("parallel_tool_calls", [user("?")], {"tools": [_named("f")], "parallel_tool_calls": False}),
        ("reasoning_effort", [user("?")], {"reasoning_effort": "max"}),
        ("seed", [user("?")], {"seed": 2**31}),
        ("seed", [user("?")], {"seed": "1"}),
        ("max_tokens", [user("?")], {"max_tokens": "1"}),
        ("tools", [user("?")], {"tools": "all"}),
        ("tools.type", [user("?")], {"tools": [{"type": "web_search"}]}),
        ("tool_choice", [user("?")], {"tool_choice": "any"}),
        (
            "tool_choice.allowed_tools.mode",
            [user("?")],
            {"tool_choice": {"type": "allowed_tools", "allowed_tools": {"mode": "a"}}},
        ),
        ("response_format.type", [user("?")], {"response_format": {"type": "grammar"}}),
        (
            "response_format.json_schema.schema",
            [user("?")],
            {"response_format": {"type": "json_schema", "json_schema": {"name": "n", "schema": []}}},
        ),
        ("extra_body", [user("?")], {"extra_body": {}}),
        ("x" * 64, [user("?")], {"x" * 1000: 1}),
    ],
)
def test_what_cannot_be_said_is_named(name: str, messages: list[Object], fields: Object) -> None:
    assert refused(*messages, **fields) == name


def test_null_is_absent_everywhere() -> None:
    plain = {"role": "assistant", "content": "A"}
    said = {**plain, "refusal": None, "tool_calls": None, "extra_content": {"google": None}}
    assert sent(user("?"), said, response_format=None, new=None) == sent(user("?"), plain)


def test_a_schema_may_be_left_out() -> None:
    body = sent(user("?"), response_format={"type": "json_schema", "json_schema": {"name": "n"}})
    assert body["generationConfig"] == {"responseMimeType": "application/json"}


def test_no_tools_are_never_called_at_once() -> None:
    assert "tools" not in sent(user("?"), parallel_tool_calls=False)


def test_recorded_requests_are_taken_or_refused_by_name() -> None:
    folder = cassettes.shared()
    if folder is None:
        pytest.skip("no shared recordings")
    taken = set()
    for exchange in cassettes.load(folder):
        request = exchange.fields
        if exchange.path.endswith("/chat/completions") and request.get("messages"):
            found = CHAT_TO_GEMINI.refused(request)
            if found is None:
                validated(CHAT_TO_GEMINI.request(request, NEW))
                taken.add(exchange.name)
            else:
                assert found.name.partition(".")[0] in request
    assert taken


# ---- whatever comes ---------------------------------------------------------------------------------

_NAMES = st.sampled_from(
    [
        *("role", "content", "type", "text", "tool_calls", "id", "function", "name", "arguments", "tool_call_id"),
        *("image_url", "url", "file", "file_data", "extra_content", "google", "json_schema", "schema", "mode", "tools"),
    ]
)
_WORDS = st.sampled_from(["user", "assistant", "tool", "text", "function", "image_url", "{}", PIXEL, "auto", "low"])
_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-9, 9) | st.text(max_size=3) | _WORDS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(_NAMES, inner, max_size=4),
    max_leaves=12,
)
_MESSAGES = st.fixed_dictionaries({"role": _WORDS, "content": _VALUES}, optional={"tool_calls": _VALUES})
_REQUESTS = st.fixed_dictionaries(
    {"messages": st.lists(_MESSAGES, max_size=3) | _VALUES},
    optional=dict.fromkeys(
        ("tools", "tool_choice", "response_format", "reasoning_effort", "seed", "stop", "stream_options", "n", "new"),
        _VALUES,
    ),
)


@settings(max_examples=80, deadline=None)
@given(_REQUESTS)
def test_what_is_not_refused_can_be_sent(request: Object) -> None:
    if CHAT_TO_GEMINI.refused(request) is None:
        orjson.dumps(CHAT_TO_GEMINI.request(request, NEW))
