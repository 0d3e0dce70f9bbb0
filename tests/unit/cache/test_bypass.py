"""Which requests always ask, and what for."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from extproc.cache import bypass
from extproc.cache.plain import is_plain
from extproc.cache.policy import CachePolicy
from extproc.surfaces import Surface
from tests.support import rich_bodies

Body = dict[str, Any]

PNG = "data:image/png;base64," + "iVBORw0KGgoA" * 20
FAR = "https://images.example.com/cat.png"
PDF = "data:application/pdf;base64," + "JVBERi0xLjQK" * 20

CHAT: Body = {"messages": [{"role": "user", "content": "Hi"}]}
MESSAGES: Body = {"max_tokens": 9, **CHAT}
RESPONSES: Body = {"store": False, "input": "Hi"}
PLAIN: dict[Surface, Body] = {
    Surface.CHAT: CHAT,
    Surface.COMPLETIONS: {"prompt": "Hi"},
    Surface.EMBEDDINGS: {"input": "Hi"},
    Surface.MESSAGES: MESSAGES,
    Surface.RESPONSES: RESPONSES,
}
FUNCTION: Body = {"type": "function", "function": {"name": "look", "parameters": {"type": "object"}}}


def why(surface: Surface, body: Body, policy: CachePolicy = CachePolicy()) -> str | None:  # noqa: B008 - a value
    parsed = json.loads(json.dumps(body))
    reason = bypass.why(surface, parsed, policy, is_plain(surface, parsed))
    assert reason is None or reason in bypass.REASONS
    return reason


def content(*parts: Body) -> Body:
    return {"messages": [{"role": "user", "content": list(parts)}]}


def items(*given: Body) -> Body:
    return {"store": False, "input": list(given)}


def image(url: str) -> Body:
    return {"type": "image_url", "image_url": {"url": url}}


@pytest.mark.parametrize("surface", PLAIN)
def test_plain_words_may_be_answered_twice(surface: Surface) -> None:
    assert why(surface, PLAIN[surface]) is None


# ---- temperature ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("surface", PLAIN)
@pytest.mark.parametrize(
    ("temperature", "reason"),
    [
        (None, None),
        (0, None),
        (0.0, None),
        (0.3, None),
        (0.31, "temperature"),
        (1, "temperature"),
        (1e300, "temperature"),
    ],
)
def test_a_temperature_above_the_limit_asks(surface: Surface, temperature: float | None, reason: str | None) -> None:
    assert why(surface, PLAIN[surface] | {"temperature": temperature}) == reason


def test_the_limit_is_the_policys() -> None:
    warm = CHAT | {"temperature": 0.7}
    assert why(Surface.CHAT, warm, CachePolicy(max_temperature=0.7)) is None
    assert why(Surface.CHAT, warm, CachePolicy(max_temperature=0)) == "temperature"
    assert why(Surface.CHAT, CHAT | {"temperature": 0}, CachePolicy(max_temperature=0)) is None


# ---- fields of the request ------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["n", "best_of"])
@pytest.mark.parametrize(
    ("value", "reason"), [(None, None), (1, None), (2, "choices"), (0, "choices"), ("1", "choices")]
)
def test_one_choice_is_answered_and_several_are_not(name: str, value: object, reason: str | None) -> None:
    assert why(Surface.COMPLETIONS, PLAIN[Surface.COMPLETIONS] | {name: value}) == reason


@pytest.mark.parametrize("surface", PLAIN)
def test_what_the_provider_stores_is_not_shared(surface: Surface) -> None:
    plain = {name: value for name, value in PLAIN[surface].items() if name != "store"}
    assert why(surface, plain | {"store": True}) == "stored"
    assert why(surface, plain | {"store": "yes"}) == "stored"
    assert why(surface, plain | {"store": False}) is None
    assert why(surface, plain) == why(surface, plain | {"store": None})
    assert why(surface, plain) == ("stored" if surface is Surface.RESPONSES else None)


@pytest.mark.parametrize("surface", PLAIN)
def test_labels_are_for_what_is_stored(surface: Surface) -> None:
    """OpenAI's; Anthropic's tell who calls, and a response tells them back."""
    labelled = {Surface.CHAT, Surface.COMPLETIONS, Surface.EMBEDDINGS}
    wanted = "stored" if surface in labelled else None
    assert why(surface, PLAIN[surface] | {"metadata": {"project": "blue"}}) == wanted
    assert why(surface, PLAIN[surface] | {"metadata": {}}) is None
    assert why(surface, PLAIN[surface] | {"metadata": None}) is None


@pytest.mark.parametrize(
    ("surface", "change", "reason"),
    [
        (Surface.CHAT, {"audio": {"voice": "alloy", "format": "wav"}, "modalities": ["text", "audio"]}, "audio"),
        (Surface.CHAT, {"modalities": ["audio"]}, "audio"),
        (Surface.CHAT, {"modalities": ["text"]}, None),
        (Surface.CHAT, {"modalities": []}, None),
        (Surface.CHAT, {"modalities": ["text", "image"]}, "media"),
        (Surface.CHAT, {"modalities": "image"}, "media"),
        (Surface.CHAT, {"deferred": True}, "stateful"),
        (Surface.RESPONSES, {"previous_response_id": "resp_1"}, "stateful"),
        (Surface.RESPONSES, {"previous_response_id": None, "conversation": None, "background": False}, None),
        (Surface.RESPONSES, {"conversation": "conv_1"}, "stateful"),
        (Surface.RESPONSES, {"conversation": {"id": "conv_1"}}, "stateful"),
        (Surface.RESPONSES, {"background": True}, "stateful"),
        (Surface.RESPONSES, {"prompt": {"id": "pmpt_1"}}, "stateful"),
        (Surface.RESPONSES, {"prompt": "pmpt_1"}, "stateful"),
        (Surface.RESPONSES, {"include": ["reasoning.encrypted_content"]}, "stateful"),
        (Surface.RESPONSES, {"include": ["message.output_text.logprobs"]}, None),
        (Surface.MESSAGES, {"container": "container_1"}, "stateful"),
        (Surface.MESSAGES, {"container": {"skills": [{"type": "anthropic", "skill_id": "pptx"}]}}, "stateful"),
    ],
    ids=str,
)
def test_a_field_of_the_request_may_ask(surface: Surface, change: Body, reason: str | None) -> None:
    assert why(surface, PLAIN[surface] | change) == reason


@pytest.mark.parametrize(
    "name", ["Temperature", "STORE", "Tools", "Previous_Response_Id", "\u017ftore", "web_search_Options"]
)
def test_a_field_in_other_letters_is_one_that_some_servers_read(name: str) -> None:
    assert why(Surface.CHAT, CHAT | {name: 1}) == "unreadable"
    assert why(Surface.CHAT, CHAT | {f"x_{name}": 1}) is None


# ---- what the messages hold -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("surface", "body", "reason"),
    [
        (Surface.CHAT, content({"type": "text", "text": FAR}), None),
        (Surface.CHAT, content(image(PNG)), None),
        (Surface.CHAT, content(image(FAR)), "remote_content"),
        (Surface.CHAT, content({"type": "image_url", "image_url": FAR}), "remote_content"),
        (Surface.CHAT, content(image("gs://bucket/cat.png")), "remote_content"),
        (Surface.CHAT, content({"type": "video_url", "video_url": {"url": FAR}}), "remote_content"),
        (Surface.CHAT, content({"type": "input_audio", "input_audio": {"data": "UklGRg==", "format": "wav"}}), None),
        (Surface.CHAT, content({"type": "file", "file": {"filename": "a.pdf", "file_data": PDF}}), None),
        (Surface.CHAT, content({"type": "file", "file": {"file_id": "file-1"}}), "stateful"),
        (Surface.CHAT, {"messages": [{"role": "assistant", "audio": {"id": "audio_1"}}]}, "stateful"),
        (Surface.CHAT, {"messages": [{"role": "assistant", "content": "Hi", "audio": None}]}, None),
        (Surface.MESSAGES, content({"type": "image", "source": {"type": "url", "url": FAR}}), "remote_content"),
        (Surface.MESSAGES, content({"type": "image", "source": {"type": "base64", "data": PNG[22:]}}), None),
        (Surface.MESSAGES, content({"type": "image", "source": {"type": "file", "file_id": "file_1"}}), "stateful"),
        (Surface.MESSAGES, content({"type": "document", "source": {"type": "url", "url": FAR}}), "remote_content"),
        (Surface.MESSAGES, content({"type": "document", "source": {"type": "text", "data": "Hi"}}), None),
        (Surface.MESSAGES, content({"type": "container_upload", "file_id": "file_1"}), "stateful"),
        (Surface.MESSAGES, content({"type": "thinking", "thinking": "Hm.", "signature": "EqQB"}), None),
        (Surface.MESSAGES, content({"type": "redacted_thinking", "data": "EqQB"}), "stateful"),
        (
            Surface.MESSAGES,
            content(
                {"type": "tool_result", "tool_use_id": "t", "content": [{"type": "redacted_thinking", "data": ""}]}
            ),
            "stateful",
        ),
        (Surface.RESPONSES, items({"type": "message", "id": "msg_1", "role": "user", "content": "Hi"}), None),
        (Surface.RESPONSES, items({"type": "item_reference", "id": "msg_1"}), "stateful"),
        (Surface.RESPONSES, items({"id": "msg_1"}), "stateful"),
        (Surface.RESPONSES, items({"type": "reasoning", "id": "rs_1", "summary": []}), "stateful"),
        (Surface.RESPONSES, items({"type": "reasoning", "encrypted_content": "gAAA"}), "stateful"),
        (Surface.RESPONSES, items({"type": "compaction", "encrypted_content": "gAAA"}), "stateful"),
        (
            Surface.RESPONSES,
            items({"type": "reasoning", "summary": [], "content": [{"type": "reasoning_text", "text": "Hm."}]}),
            None,
        ),
        (Surface.RESPONSES, items({"type": "image_generation_call", "id": "ig_1"}), "stateful"),
        (Surface.RESPONSES, items({"type": "image_generation_call", "result": PNG[22:]}), None),
        (
            Surface.RESPONSES,
            items({"role": "user", "content": [{"type": "input_image", "image_url": FAR}]}),
            "remote_content",
        ),
        (Surface.RESPONSES, items({"role": "user", "content": [{"type": "input_image", "image_url": PNG}]}), None),
        (
            Surface.RESPONSES,
            items({"role": "user", "content": [{"type": "input_image", "file_id": "file-1"}]}),
            "stateful",
        ),
        (
            Surface.RESPONSES,
            items({"role": "user", "content": [{"type": "input_file", "file_url": FAR}]}),
            "remote_content",
        ),
        (Surface.RESPONSES, items({"role": "user", "content": [{"type": "input_file", "file_data": PDF}]}), None),
        (
            Surface.RESPONSES,
            items(
                {"type": "function_call_output", "call_id": "c", "output": [{"type": "input_image", "image_url": FAR}]}
            ),
            "remote_content",
        ),
        (Surface.EMBEDDINGS, {"input": [[1, 2], [3]]}, None),
        (Surface.EMBEDDINGS, {"input": [{"image": FAR}]}, "remote_content"),
        (Surface.EMBEDDINGS, {"input": [[1, 2], {"image": FAR}]}, "remote_content"),
    ],
    ids=str,
)
def test_what_is_not_in_the_request_itself_is_asked_for(surface: Surface, body: Body, reason: str | None) -> None:
    assert why(surface, PLAIN[surface] | body) == reason


# ---- tools ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("surface", "change", "reason"),
    [
        (Surface.CHAT, {"tools": [FUNCTION]}, None),
        (Surface.CHAT, {"tools": [{"type": "custom", "custom": {"name": "say"}}]}, None),
        (Surface.CHAT, {"tools": [FUNCTION, {"type": "web_search"}]}, "hosted_tools"),
        (Surface.CHAT, {"tools": {"enabled_tools": ["web_search"]}}, "hosted_tools"),
        (Surface.CHAT, {"tools": ["odd"]}, "hosted_tools"),
        (Surface.CHAT, {"tools": [{"google_search": {}}]}, "hosted_tools"),
        (Surface.CHAT, {"functions": [{"name": "look"}]}, None),
        (Surface.CHAT, {"web_search_options": {}}, "hosted_tools"),
        (Surface.CHAT, {"web_search_options": None}, None),
        (Surface.CHAT, {"data_sources": []}, "hosted_tools"),
        (Surface.CHAT, {"search_parameters": {"mode": "auto"}}, "hosted_tools"),
        (Surface.CHAT, {"plugins": [{"id": "web"}]}, "hosted_tools"),
        (Surface.CHAT, {"enable_search": True}, "hosted_tools"),
        (Surface.CHAT, {"enable_search": False}, None),
        (Surface.CHAT, {"compound_custom": {"tools": {"enabled_tools": ["visit_website"]}}}, "hosted_tools"),
        (Surface.RESPONSES, {"tools": [{"type": "function", "name": "look"}]}, None),
        (Surface.RESPONSES, {"tools": [{"type": "web_search_preview"}]}, "hosted_tools"),
        (Surface.RESPONSES, {"tools": [{"type": "code_interpreter", "container": {"type": "auto"}}]}, "hosted_tools"),
        (Surface.RESPONSES, {"tools": [{"type": "file_search", "vector_store_ids": ["vs_1"]}]}, "hosted_tools"),
        (Surface.RESPONSES, {"tools": [{"type": "mcp", "server_url": FAR}]}, "hosted_tools"),
        (Surface.RESPONSES, {"tools": [{"type": "image_generation"}]}, "hosted_tools"),
        (Surface.RESPONSES, {"tools": [{"type": "computer_use_preview"}]}, "hosted_tools"),
        (Surface.RESPONSES, {"tools": [{"type": "local_shell"}]}, "hosted_tools"),
        (Surface.RESPONSES, {"tools": [{"type": "new_tomorrow"}]}, "hosted_tools"),
        (
            Surface.RESPONSES,
            {"tools": [{"type": "namespace", "name": "s", "tools": [{"type": "function", "name": "look"}]}]},
            None,
        ),
        (Surface.MESSAGES, {"tools": [{"name": "look", "input_schema": {}}]}, None),
        (Surface.MESSAGES, {"tools": [{"type": "custom", "name": "look", "input_schema": {}}]}, None),
        (Surface.MESSAGES, {"tools": [{"type": "web_search_20250305", "name": "web_search"}]}, "hosted_tools"),
        (Surface.MESSAGES, {"tools": [{"type": "code_execution_20250522", "name": "code_execution"}]}, "hosted_tools"),
        (Surface.MESSAGES, {"tools": [{"type": "bash_20250124", "name": "bash"}]}, "hosted_tools"),
        (Surface.MESSAGES, {"tools": [{"type": "computer_20250124", "name": "computer"}]}, "hosted_tools"),
        (Surface.MESSAGES, {"tools": [{"type": "text_editor_20250728", "name": "str"}]}, "hosted_tools"),
        (Surface.MESSAGES, {"mcp_servers": [{"type": "url", "url": FAR, "name": "x"}]}, "hosted_tools"),
        (Surface.MESSAGES, {"tools": [{"type": "mcp_toolset", "mcp_server_name": "x"}]}, "hosted_tools"),
    ],
    ids=str,
)
def test_only_tools_of_the_callers_own_leave_an_answer_the_same(
    surface: Surface, change: Body, reason: str | None
) -> None:
    assert why(surface, PLAIN[surface] | change) == reason


def test_a_schema_may_name_its_fields_as_it_likes() -> None:
    named = {
        "file_id": {"type": "string"},
        "url": {"type": "string", "default": FAR},
        "type": {"const": "item_reference"},
    }
    tool = {"type": "function", "function": {"name": "f", "parameters": {"properties": named}}}
    assert why(Surface.CHAT, CHAT | {"tools": [tool]}) is None


@pytest.mark.parametrize(
    ("surface", "change"),
    [
        (Surface.CHAT, {"tools": [FUNCTION, {"type": "function", "function": {"name": "send_mail"}}]}),
        (Surface.CHAT, {"tools": [{"type": "custom", "custom": {"name": "send_mail"}}]}),
        (Surface.CHAT, {"functions": [{"name": "send_mail"}]}),
        (Surface.RESPONSES, {"tools": [{"type": "function", "name": "send_mail"}]}),
        (Surface.RESPONSES, {"tools": [{"type": "namespace", "tools": [{"type": "function", "name": "send_mail"}]}]}),
        (Surface.MESSAGES, {"tools": [{"name": "send_mail", "input_schema": {}}]}),
        (Surface.CHAT, {"tools": [{"type": "function", "name": "look", "function": {"name": "see"}}]}),
        (Surface.CHAT, {"tools": [{"type": "function"}]}),
    ],
    ids=str,
)
def test_a_tool_with_side_effects_is_called_each_time(surface: Surface, change: Body) -> None:
    body = PLAIN[surface] | change
    assert why(surface, body, CachePolicy(side_effects=("pay", "send_*"))) == "side_effects"
    assert why(surface, body, CachePolicy()) is None


@pytest.mark.parametrize(
    ("pattern", "reason"),
    [("look", "side_effects"), ("*", "side_effects"), ("Look", "side_effects"), ("L*k", "side_effects"), ("loo", None)],
)
def test_a_pattern_names_tools(pattern: str, reason: str | None) -> None:
    assert why(Surface.CHAT, CHAT | {"tools": [FUNCTION]}, CachePolicy(side_effects=(pattern,))) == reason


def test_the_case_of_a_tools_name_does_not_count() -> None:
    tool = {"type": "function", "function": {"name": "Send_Mail", "parameters": {"type": "object"}}}
    assert why(Surface.CHAT, CHAT | {"tools": [tool]}, CachePolicy(side_effects=("send_*",))) == "side_effects"


# ---- the documentation, and bodies with all that an API has -------------------------------------------------


@pytest.mark.parametrize(
    ("surface", "body"),
    [
        (Surface.CHAT, rich_bodies.CHAT),
        (Surface.RESPONSES, rich_bodies.RESPONSES | {"store": False}),
        (Surface.MESSAGES, rich_bodies.MESSAGES),
    ],
)
def test_a_request_that_holds_everything_asks(surface: Surface, body: Body) -> None:
    assert why(surface, body) is not None


_NAMES = (
    *("messages", "input", "system", "content", "output", "summary", "type", "role", "audio", "id", "file_id", "url"),
    *(
        "tools",
        "functions",
        "function",
        "name",
        "n",
        "store",
        "metadata",
        "modalities",
        "include",
        "prompt",
        "container",
    ),
    *("image_url", "source", "data", "result", "mcp_servers", "background", "temperature", "encrypted_content"),
)
_WORDS = ("user", "function", "text", "image_url", "item_reference", "reasoning", "mcp", "namespace", "audio", FAR, PNG)
ANY_JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-1, 2) | st.floats(0, 2) | st.sampled_from(_WORDS),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(_NAMES), inner, max_size=5),
    max_leaves=25,
)


@given(st.sampled_from(sorted(PLAIN)), st.dictionaries(st.sampled_from(_NAMES), ANY_JSON, max_size=6))
def test_nothing_that_is_json_makes_it_stumble(surface: Surface, body: Body) -> None:
    why(surface, PLAIN[surface] | body, CachePolicy(side_effects=("a*",)))


@pytest.mark.parametrize("name", [*bypass._AT_THE_PROVIDER, *bypass._SEARCHES])
def test_fields_of_servers_that_remember_or_search(name: str) -> None:
    reason = "stateful" if name in bypass._AT_THE_PROVIDER else "hosted_tools"
    assert why(Surface.CHAT, {**CHAT, name: "x"}) == reason
    assert why(Surface.CHAT, {**CHAT, name: None}) is None
