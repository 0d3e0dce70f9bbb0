"""Conversations of Anthropic's Messages as those of a chat completion."""

import json
from typing import Any

import orjson
import pytest

from extproc.dialects.translate.messages_to_chat import MESSAGES_TO_CHAT

Json = dict[str, Any]
MODEL = "deployed"


def messages(*said: Json, **more: Any) -> list[Json]:
    """The messages that these become; the last is the user's, which is left out."""
    request = {"max_tokens": 9, "messages": [*said, {"role": "user", "content": "?"}], **more}
    assert MESSAGES_TO_CHAT.refused(request) is None
    made: list[Json] = json.loads(orjson.dumps(MESSAGES_TO_CHAT.request(request, MODEL)))["messages"]
    assert made.pop() == {"role": "user", "content": "?"}
    return made


def text(said: str, **more: Any) -> Json:
    return {"type": "text", "text": said, **more}


def call(name: str, arguments: str, tool: str = "look") -> Json:
    return {"id": name, "type": "function", "function": {"name": tool, "arguments": arguments}}


def use(name: str, arguments: Json) -> Json:
    return {"type": "tool_use", "id": name, "name": "look", "input": arguments}


def test_a_turn_of_claude_code() -> None:
    """With what it adds of its own: the line for the books, marks for the cache, betas, its thinking."""
    cached = {"cache_control": {"type": "ephemeral"}}
    schema = {"$schema": "http://json-schema.org/draft-07/schema#", "type": "object", "properties": {}}
    request = {
        "model": "claude-opus-4-6",
        "max_tokens": 32000,
        "stream": True,
        "system": [
            text("x-anthropic-billing-header: cc_version=2.1.177.01c; cc_entrypoint=cli; cch=36ee5;"),
            text("You are Claude Code.", **cached),
            text("Environment: linux", **cached),
        ],
        "messages": [
            {"role": "user", "content": [text("<system-reminder>"), text("Fix it.", **cached)]},
            {
                "role": "assistant",
                "content": [
                    {"type": "thinking", "thinking": "Look first.", "signature": "EqQBCgIYAhIk"},
                    text("I look."),
                    use("toolu_1", {"path": "a.py"}),
                    use("toolu_2", {}),
                ],
            },
            {
                "role": "user",
                "content": [
                    {"type": "tool_result", "tool_use_id": "toolu_1", "content": "x = 1"},
                    {"type": "tool_result", "tool_use_id": "toolu_2", "content": "no", "is_error": True, **cached},
                ],
            },
        ],
        "tools": [{"name": "look", "description": "Reads.", "input_schema": schema, "eager_input_streaming": True}],
        "metadata": {"user_id": "user_1_account__session_2"},
        "thinking": {"type": "enabled", "budget_tokens": 31999},
        "context_management": {"edits": [{"type": "clear_thinking_20251015", "keep": "all"}]},
        "output_config": {"effort": "high"},
        "temperature": 1,
    }
    assert MESSAGES_TO_CHAT.refused(request) is None
    assert MESSAGES_TO_CHAT.path("gpt", True) == "/chat/completions"
    assert MESSAGES_TO_CHAT.request(request, "gpt") == {
        "model": "gpt",
        "messages": [
            {"role": "system", "content": [text("You are Claude Code."), text("Environment: linux")]},
            {"role": "user", "content": [text("<system-reminder>"), text("Fix it.")]},
            {
                "role": "assistant",
                "content": "I look.",
                "tool_calls": [call("toolu_1", '{"path":"a.py"}'), call("toolu_2", "{}")],
            },
            {"role": "tool", "tool_call_id": "toolu_1", "content": "x = 1"},
            {
                "role": "tool",
                "tool_call_id": "toolu_2",
                "content": [text("The tool reported an error:"), text("no")],
            },
        ],
        "temperature": 1,
        "max_completion_tokens": 32000,
        "tools": [{"type": "function", "function": {"name": "look", "description": "Reads.", "parameters": schema}}],
        "reasoning_effort": "high",
        "stream": True,
        "stream_options": {"include_usage": True},
    }


@pytest.mark.parametrize(
    ("system", "kept"),
    [
        ("x-anthropic-billing-header: cch=1;\nBe brief.", "Be brief."),
        ([text("x-anthropic-billing-header: cch=1;")], None),
        ("Say x-anthropic-billing-header: cch=1;", "Say x-anthropic-billing-header: cch=1;"),
        ("", None),
    ],
)
def test_the_line_for_the_books_is_left_out(system: object, kept: str | None) -> None:
    assert messages(system=system) == ([] if kept is None else [{"role": "system", "content": kept}])


def test_pictures_of_a_tool_follow_the_results_of_all_tools() -> None:
    picture = {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "iVBORw0KGgo="}}
    pdf = {"type": "document", "source": {"type": "base64", "media_type": "application/pdf", "data": "JVBERi0="}}
    results = [
        {"type": "tool_result", "tool_use_id": "t1", "content": [text("Seen:"), picture]},
        {"type": "tool_result", "tool_use_id": "t2", "content": [pdf]},
        {"type": "tool_result", "tool_use_id": "t3"},
    ]
    assert messages({"role": "user", "content": [*results, text("Go on.")]}) == [
        {
            "role": "tool",
            "tool_call_id": "t1",
            "content": [text("Seen:"), text("[The image is in the next message, under t1.]")],
        },
        {"role": "tool", "tool_call_id": "t2", "content": "[The file is in the next message, under t2.]"},
        {"role": "tool", "tool_call_id": "t3", "content": ""},
        {
            "role": "user",
            "content": [
                text("[t1:]"),
                {"type": "image_url", "image_url": {"url": "data:image/png;base64,iVBORw0KGgo="}},
                text("[t2:]"),
                {
                    "type": "file",
                    "file": {"filename": "document.pdf", "file_data": "data:application/pdf;base64,JVBERi0="},
                },
                text("Go on."),
            ],
        },
    ]


def test_documents_and_search_results_are_told_under_their_titles() -> None:
    plain = {"type": "text", "media_type": "text/plain", "data": "Once."}
    blocks = {
        "type": "content",
        "content": [text("a"), {"type": "image", "source": {"type": "url", "url": "https://u"}}],
    }
    pdf = {"type": "base64", "media_type": "application/pdf", "data": "JVBERi0="}
    said = [
        {"type": "document", "source": plain, "title": "Tale", "context": "Old."},
        {"type": "document", "source": blocks},
        {"type": "document", "source": pdf, "title": "Bill.PDF"},
        {"type": "search_result", "title": "Found", "source": "https://f", "content": [text("b"), text("c")]},
    ]
    (made,) = messages({"role": "user", "content": said})
    assert made["content"] == [
        text("Tale\n\nOld."),
        text("Once."),
        text("a"),
        {"type": "image_url", "image_url": {"url": "https://u"}},
        text("Bill.PDF"),
        {"type": "file", "file": {"filename": "Bill.PDF", "file_data": "data:application/pdf;base64,JVBERi0="}},
        text("Found\n\nhttps://f\n\nb\n\nc"),
    ]


@pytest.mark.parametrize(("clear_at", "shown"), [(None, True), ("never", True), ("next_user_message", False)])
def test_an_instruction_in_between_is_shown_as_long_as_it_is_for(clear_at: str | None, shown: bool) -> None:
    told = {"role": "system", "content": "Hurry."}
    assert messages({**told, "clear_at": clear_at}) == ([told] if shown else [])
    request = {"messages": [{"role": "user", "content": "?"}, {**told, "clear_at": clear_at}]}
    assert MESSAGES_TO_CHAT.request(request, MODEL)["messages"] == [{"role": "user", "content": "?"}, told]


def test_an_instruction_without_content_is_none() -> None:
    assert messages({"role": "system", "output_config": {}}) == []


def test_a_turn_that_only_thought_is_none() -> None:
    thought = {"type": "thinking", "thinking": "Hm.", "signature": "reasoning"}
    assert messages({"role": "assistant", "content": [thought]}) == []


def function(tool: Json) -> Json:
    made: Any = MESSAGES_TO_CHAT.request({"messages": [{"role": "user", "content": "?"}], "tools": [tool]}, MODEL)
    return made["tools"][0]["function"]  # type: ignore[no-any-return]


def test_a_tool_without_parameters_says_so() -> None:
    bare = {"type": "object", "properties": {}}
    for schema in ({"type": "object"}, {"type": "object", "properties": None}, bare):
        assert function({"name": "f", "input_schema": schema}) == {"name": "f", "parameters": bare}


def test_examples_of_a_tool_are_part_of_its_description() -> None:
    tool = {"name": "f", "input_schema": {}, "input_examples": [{"a": 1}, {"a": 2}]}
    shown = 'Examples of its input:\n{"a":1}\n{"a":2}'
    assert function(tool) == {"name": "f", "description": shown, "parameters": {"properties": {}}}
    assert function({**tool, "description": "Does f."})["description"] == "Does f.\n\n" + shown


@pytest.mark.parametrize("config", [True, False])
def test_a_schema_is_followed_to_the_letter(config: bool) -> None:
    wanted = {"type": "json_schema", "schema": {"type": "object"}}
    asked = {"output_config": {"format": wanted}} if config else {"output_format": wanted}
    made = MESSAGES_TO_CHAT.request({"messages": [{"role": "user", "content": "?"}], **asked}, MODEL)
    described = {"name": "answer", "schema": {"type": "object"}, "strict": True}
    assert made["response_format"] == {"type": "json_schema", "json_schema": described}
