"""What a request may cost at most: its cap, its choices, and everything that a model is given to read."""

import base64
import json
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from extproc.dialects.anthropic import read_messages, read_token_count
from extproc.dialects.openai_chat import read_chat, read_completion
from extproc.dialects.openai_plain import (
    read_embedding,
    read_generation,
    read_moderation,
    read_rerank,
    read_speech,
)
from extproc.dialects.openai_responses import read_response
from extproc.metering import bounds, tokenizer
from extproc.model import Bounds, Cap, InputSize, Prompt
from extproc.refusals import DUPLICATE_FIELD, INVALID_VALUE, Refused

Reader = Callable[[bytes], Prompt]
CHAT = {"model": "m", "messages": [{"role": "user", "content": "Hello"}]}
RESPONSE = {"model": "m", "input": "Hello"}
COMPLETION = {"model": "m", "prompt": "Hello"}
LONG = "A long sentence that many words stand in. " * 50
AT_LEAST = 400  # tokens of LONG, by any tokenizer


def read(reader: Reader, base: dict[str, Any], **fields: Any) -> Prompt:
    return reader(json.dumps(base | fields).encode())


def chat(*parts: Any, **fields: Any) -> InputSize:
    content = list(parts) if parts else "Hello"
    return read(read_chat, CHAT, messages=[{"role": "user", "content": content}], **fields).input


def message(*blocks: Any, **fields: Any) -> InputSize:
    return read(read_messages, CHAT, messages=[{"role": "user", "content": list(blocks)}], **fields).input


def response(*items: Any, **fields: Any) -> InputSize:
    return read(read_response, RESPONSE, **({"input": list(items)} if items else {}), **fields).input


def tokens(size: InputSize) -> int:
    return bounds.input_tokens(size, Bounds())


def stands(prompt: Prompt) -> list[bytes]:
    """What stands where the cap is said to stand."""
    return [prompt.body[span.start : span.end] for span in prompt.cap.spans]


# ---- caps -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("reader", "base", "given", "cap", "texts"),
    [
        (read_chat, CHAT, {}, Cap(field="max_tokens"), []),
        (read_chat, CHAT, {"max_tokens": 5}, Cap(5, field="max_tokens"), [b"5"]),
        (
            read_chat,
            CHAT,
            {"max_tokens": 5, "max_completion_tokens": 900},
            Cap(900, field="max_tokens"),
            [b"5", b"900"],
        ),
        (
            read_chat,
            CHAT,
            {"max_tokens": 900, "max_completion_tokens": 5},
            Cap(900, field="max_tokens"),
            [b"900", b"5"],
        ),
        (
            read_chat,
            CHAT,
            {"max_tokens": None, "max_completion_tokens": 5},
            Cap(5, field="max_tokens"),
            [b"null", b"5"],
        ),
        (read_chat, CHAT, {"max_tokens": None}, Cap(field="max_tokens"), [b"null"]),
        (read_completion, COMPLETION, {}, Cap(field="max_tokens"), []),
        (read_completion, COMPLETION, {"max_tokens": 0, "echo": True}, Cap(0, field="max_tokens"), [b"0"]),
        (read_completion, COMPLETION, {"max_tokens": 7}, Cap(7, field="max_tokens"), [b"7"]),
        (read_response, RESPONSE, {}, Cap(field="max_output_tokens", least=16), []),
        (
            read_response,
            RESPONSE,
            {"max_output_tokens": 99},
            Cap(99, field="max_output_tokens", least=16),
            [b"99"],
        ),
        (read_messages, CHAT, {"max_tokens": 8}, Cap(8, field="max_tokens"), [b"8"]),
        (read_messages, CHAT, {"max_tokens": 0}, Cap(0, field="max_tokens"), [b"0"]),
        (
            read_messages,
            CHAT,
            {"max_tokens": 4096, "thinking": {"type": "enabled", "budget_tokens": 2048}},
            Cap(4096, field="max_tokens", least=2049),
            [b"4096"],
        ),
        (
            read_messages,
            CHAT,
            {"max_tokens": 9, "thinking": {"type": "disabled", "budget_tokens": 2048}},
            Cap(9, field="max_tokens"),
            [b"9"],
        ),
        (read_token_count, CHAT, {}, Cap(0), []),
        (read_token_count, CHAT, {"max_tokens": 8}, Cap(0), []),
        (read_embedding, RESPONSE, {}, Cap(0), []),
        (read_moderation, RESPONSE, {}, Cap(0), []),
        (read_rerank, {"query": "x", "documents": ["y"]}, {}, Cap(0), []),
        (read_speech, RESPONSE, {}, Cap(), []),
        (read_generation, COMPLETION, {}, Cap(), []),
    ],
)
def test_the_cap_is_the_largest_that_any_field_says_with_the_places_of_all(
    reader: Reader, base: dict[str, Any], given: dict[str, Any], cap: Cap, texts: list[bytes]
) -> None:
    prompt = read(reader, base, **given)
    assert (prompt.cap.tokens, prompt.cap.field, prompt.cap.least) == (cap.tokens, cap.field, cap.least)
    assert stands(prompt) == texts
    assert [json.loads(text) for text in texts] == [given[name] for name in prompt.cap.names]


@pytest.mark.parametrize(
    ("reader", "base", "name"),
    [
        (read_chat, CHAT, "max_tokens"),
        (read_chat, CHAT, "max_completion_tokens"),
        (read_completion, COMPLETION, "max_tokens"),
        (read_completion, COMPLETION | {"echo": False}, "max_tokens"),
        (read_completion, COMPLETION | {"echo": None}, "max_tokens"),
    ],
)
def test_a_cap_of_nothing_is_refused_as_some_servers_take_it_for_none(
    reader: Reader, base: dict[str, Any], name: str
) -> None:
    with pytest.raises(Refused) as caught:
        read(reader, base, **{name: 0})
    assert (caught.value.refusal.kind, caught.value.refusal.param) == (INVALID_VALUE, name)


@pytest.mark.parametrize("value", [-1, -(2**63), 2**63, 10**12, 1e12, 1.5, "100", True, [1], {"a": 1}])
@pytest.mark.parametrize(
    ("reader", "base", "name"),
    [
        (read_chat, CHAT, "max_tokens"),
        (read_chat, CHAT, "max_completion_tokens"),
        (read_completion, COMPLETION, "max_tokens"),
        (read_response, RESPONSE, "max_output_tokens"),
        (read_messages, CHAT, "max_tokens"),
        (read_chat, CHAT, "n"),
        (read_completion, COMPLETION, "best_of"),
        (read_generation, COMPLETION, "n"),
        (read_response, RESPONSE, "max_tool_calls"),
    ],
)
def test_no_value_from_outside_bends_a_cap_or_a_count(
    reader: Reader, base: dict[str, Any], name: str, value: object
) -> None:
    with pytest.raises(Refused) as caught:
        read(reader, base, **{name: value})
    assert (caught.value.refusal.kind, caught.value.refusal.param) == (INVALID_VALUE, name)


@pytest.mark.parametrize("thinking", ["on", [], {"type": "enabled", "budget_tokens": -5}, {"budget_tokens": "9"}])
def test_a_thinking_budget_that_is_none_is_refused(thinking: object) -> None:
    with pytest.raises(Refused):
        read(read_messages, CHAT, max_tokens=10, thinking=thinking)


SEARCH = {"type": "web_search"}
OWN: list[Any] = [{"type": "function", "name": "f"}, {"type": "custom"}, {"type": "local_shell"}, {"name": "f"}, "x"]


@pytest.mark.parametrize(
    ("prompt", "calls"),
    [
        (read(read_response, RESPONSE), 0),
        (read(read_response, RESPONSE, tools=OWN), 0),
        (read(read_response, RESPONSE, tools=OWN, max_tool_calls=7), 0),
        (read(read_response, RESPONSE, tools=[SEARCH]), 10),
        (read(read_response, RESPONSE, tools=[SEARCH, {"type": "file_search"}]), 10),
        (read(read_response, RESPONSE, tools=[SEARCH], max_tool_calls=7), 7),
        (read(read_response, RESPONSE, tools=[SEARCH], max_tool_calls=100), 100),
        (read(read_response, RESPONSE, tools=[SEARCH], max_tool_calls=0), 10),
        (read(read_response, RESPONSE, prompt={"id": "pmpt_1"}), 10),
        (read(read_response, RESPONSE, prompt={"id": "pmpt_1"}, max_tool_calls=3), 3),
        (read(read_messages, CHAT), 0),
        (read(read_messages, CHAT, tools=[*OWN, {"type": "bash_20250124"}, {"type": "computer_20250124"}]), 0),
        (read(read_messages, CHAT, tools=[{"type": "web_search_20250305", "max_uses": 5}]), 5),
        (read(read_messages, CHAT, tools=[{"type": "web_search_20250305"}]), 10),
        (read(read_messages, CHAT, tools=[{"type": "web_search_x", "max_uses": 5}, {"type": "web_fetch_x"}]), 15),
        (read(read_token_count, CHAT, tools=[{"type": "web_search_20250305", "max_uses": 5}]), 0),
        (read(read_chat, CHAT), 0),
        (read(read_chat, CHAT, tools=OWN), 0),
        (read(read_chat, CHAT, web_search_options={}), 1),
        (read(read_chat, CHAT, tools=[{"type": "browser_search"}]), 10),
    ],
)
def test_calls_of_tools_at_the_provider_are_as_many_as_are_allowed(prompt: Prompt, calls: int) -> None:
    assert prompt.hosted_calls == calls


def test_a_search_of_the_web_by_a_chat_is_told() -> None:
    assert read(read_chat, CHAT, web_search_options={}).searches
    assert not read(read_chat, CHAT, web_search_options=None).searches


@pytest.mark.parametrize("value", [0, -1, "5", 1.5, True, 10**12])
def test_a_tool_s_bound_is_a_count(value: object) -> None:
    with pytest.raises(Refused) as caught:
        read(read_messages, CHAT, tools=[{"type": "web_search_20250305", "max_uses": value}])
    assert (caught.value.refusal.kind, caught.value.refusal.param) == (INVALID_VALUE, "max_uses")


@pytest.mark.parametrize(
    ("reader", "body"),
    [
        (read_response, b'{"input":"x","max_tool_calls":1,"max_tool_calls":99}'),
        (read_response, b'{"input":"x","tools":[{"type":"web_search","type":"function"}]}'),
        (read_messages, b'{"messages":[{}],"tools":[{"type":"web_search_x","max_uses":1,"Max_Uses":99}]}'),
        (read_messages, b'{"messages":[{}],"mcp_servers":[{}],"mcp_servers":null}'),
        (read_chat, b'{"messages":[{}],"data_sources":[{}],"data_sources":null}'),
        (read_completion, b'{"prompt":"x","echo":true,"echo":false}'),
    ],
)
def test_what_bounds_a_call_is_said_once(reader: Reader, body: bytes) -> None:
    with pytest.raises(Refused) as caught:
        reader(body)
    assert caught.value.refusal.kind is DUPLICATE_FIELD


def test_a_response_asks_for_a_token_at_least() -> None:
    with pytest.raises(Refused):
        read(read_response, RESPONSE, max_output_tokens=0)


# ---- choices --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("reader", "base", "given", "choices", "images"),
    [
        (read_chat, CHAT, {}, 1, 0),
        (read_chat, CHAT, {"n": None}, 1, 0),
        (read_chat, CHAT, {"n": 128}, 128, 0),
        (read_completion, COMPLETION, {"n": 2, "best_of": 5}, 5, 0),
        (read_completion, COMPLETION, {"n": 6, "best_of": 5}, 6, 0),
        (read_completion, COMPLETION, {"prompt": ["a", "b", "c"], "n": 2}, 6, 0),
        (read_completion, COMPLETION, {"prompt": [[1, 2], [3]]}, 2, 0),
        (read_completion, COMPLETION, {"prompt": [1, 2, 3]}, 1, 0),
        (read_completion, COMPLETION, {"prompt": None}, 1, 0),
        (read_generation, COMPLETION, {}, 1, 1),
        (read_generation, COMPLETION, {"n": 4}, 4, 4),
        (read_embedding, RESPONSE, {"input": ["a", "b"]}, 1, 0),
    ],
)
def test_every_answer_that_is_asked_for_counts(
    reader: Reader, base: dict[str, Any], given: dict[str, Any], choices: int, images: int
) -> None:
    prompt = read(reader, base, **given)
    assert (prompt.choices, prompt.images) == (choices, images)


# ---- text -----------------------------------------------------------------------------------------------

TEXT = {"type": "text", "text": LONG}


@pytest.mark.parametrize(
    "size",
    [
        chat(TEXT),
        chat(tools=[{"type": "function", "function": {"name": "f", "description": LONG}}]),
        chat(functions=[{"name": "f", "description": LONG}]),
        chat(response_format={"type": "json_schema", "json_schema": {"description": LONG}}),
        chat(documents=[{"text": LONG}]),
        chat(something_new=LONG),
        chat({"type": "something_new", "words": [LONG]}),
        chat({"type": "refusal", "refusal": LONG}),
        chat({"type": "image_url", "image_url": {"url": "data:"}, "text": LONG}),
        read(read_chat, CHAT, messages=[{"role": LONG}]).input,
        read(read_chat, CHAT, messages=[{"role": "user", "name": LONG}]).input,
        read(
            read_chat, CHAT, messages=[{"role": "assistant", "tool_calls": [{"function": {"arguments": LONG}}]}]
        ).input,
        read(read_chat, CHAT, messages=[{"role": "tool", "tool_call_id": "c", "content": LONG}]).input,
        read(read_completion, COMPLETION, prompt=LONG).input,
        read(read_completion, COMPLETION, suffix=LONG).input,
        read(read_completion, COMPLETION, prompt=list(range(AT_LEAST))).input,
        response(instructions=LONG),
        response(tools=[{"type": "function", "name": "f", "description": LONG}]),
        response(text={"format": {"type": "json_schema", "schema": {"description": LONG}}}),
        response({"role": "user", "content": LONG}),
        response({"type": "function_call", "name": "f", "arguments": LONG}),
        response({"type": "function_call_output", "output": LONG}),
        response({"type": "function_call_output", "output": [{"type": "input_text", "text": LONG}]}),
        response({"type": "reasoning", "summary": [{"type": "summary_text", "text": LONG}]}),
        response({"type": "reasoning", "content": [{"type": "reasoning_text", "text": LONG}]}),
        message(system=LONG),
        message(system=[{"type": "text", "text": LONG}]),
        message(tools=[{"name": "f", "description": LONG}]),
        message({"type": "thinking", "thinking": LONG}),
        message({"type": "tool_use", "input": {"a": LONG}}),
        message({"type": "tool_result", "content": LONG}),
        message({"type": "tool_result", "content": [TEXT]}),
        message({"type": "tool_result", "content": [{"type": "tool_result", "content": [TEXT]}]}),
        message({"type": "document", "source": {"type": "text", "data": LONG}}),
        message({"type": "document", "source": {"type": "content", "content": [TEXT]}}),
        message({"type": "document", "source": {"type": "base64", "data": ""}, "context": LONG}),
        message({"type": "search_result", "content": [TEXT]}),
        read(read_embedding, RESPONSE, input=[LONG]).input,
        read(read_embedding, RESPONSE, input=list(range(AT_LEAST))).input,
        read(read_generation, COMPLETION, prompt=LONG).input,
        read(read_speech, RESPONSE, instructions=LONG).input,
        read(read_moderation, RESPONSE, input=[{"type": "text", "text": LONG}]).input,
        read(read_rerank, {"documents": [LONG]}, query="x").input,
        read(read_rerank, {"documents": [{"text": LONG}]}, query="x").input,
        read(read_rerank, {"documents": ["x"]}, query={"text": LONG}).input,
    ],
)
def test_whatever_a_model_may_read_counts(size: InputSize) -> None:
    assert tokens(size) >= AT_LEAST


@pytest.mark.parametrize(
    "size",
    [
        chat(user=LONG, metadata={"a": LONG}, stop=[LONG]),
        chat(logit_bias={str(token): 1 for token in range(300)}),
        chat({"type": "text", "text": "x", "cache_control": {"type": "ephemeral", "x": LONG}}),
        response({"id": LONG, "type": "message", "role": "user", "status": "completed", "content": "x"}),
    ],
)
def test_settings_and_labels_do_not(size: InputSize) -> None:
    assert tokens(size) < AT_LEAST / 5


def test_a_query_is_read_with_each_document_again() -> None:
    one, ten = (read(read_rerank, {"query": LONG}, documents=["x"] * count).input for count in (1, 10))
    assert ten.text is None
    assert tokens(ten) > 9 * tokens(one)


def test_escapes_of_json_weigh_as_what_they_stand_for() -> None:
    plain, escaped = (
        read_chat(
            json.dumps(CHAT | {"tools": [{"description": 'Привет, \n"мир"! ' * 40}]}, ensure_ascii=escaping).encode()
        )
        for escaping in (False, True)
    )
    assert plain.input == escaped.input


def test_a_text_is_kept_to_be_counted_only_while_it_is_short() -> None:
    assert chat().text == "user\nHello"
    assert chat({"type": "text", "text": "x" * tokenizer.MAX_CHARACTERS}).text is None
    assert "Hello" not in repr(chat())


# ---- media ----------------------------------------------------------------------------------------------

DATA = base64.b64encode(b"\x00" * 30_000).decode()
IMAGE = {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{DATA}"}}


@pytest.mark.parametrize(
    ("size", "images", "small"),
    [
        (chat(IMAGE), 1, 0),
        (chat(IMAGE, IMAGE), 2, 0),
        (chat({"type": "image_url", "image_url": "https://example.org/x.png"}), 1, 0),
        (chat({"type": "image_url", "image_url": {"url": "x", "detail": "low"}}), 0, 1),
        (chat({"type": "image_url", "image_url": {"url": "x", "detail": "auto"}}), 1, 0),
        (response({"role": "user", "content": [{"type": "input_image", "image_url": DATA, "detail": "low"}]}), 0, 1),
        (response({"role": "user", "content": [{"type": "input_image", "file_id": "file-1"}]}), 1, 0),
        (
            response({"type": "computer_call_output", "output": {"type": "computer_screenshot", "image_url": DATA}}),
            1,
            0,
        ),
        (response({"type": "image_generation_call", "result": DATA}), 1, 0),
        (message({"type": "image", "source": {"type": "base64", "data": DATA}}), 1, 0),
        (message({"type": "tool_result", "content": [{"type": "image", "source": {"data": DATA}}]}), 1, 0),
        (read(read_moderation, RESPONSE, input=[IMAGE]).input, 1, 0),
    ],
)
def test_an_image_counts_as_one_and_its_bytes_not_as_text(size: InputSize, images: int, small: int) -> None:
    assert (size.images, size.small_images) == (images, small)
    assert tokens(size) < 2_000 * (images + small)


def test_sound_counts_by_its_bytes() -> None:
    size = chat({"type": "input_audio", "input_audio": {"data": DATA, "format": "mp3"}})
    assert size.audio_bytes == 30_000
    assert tokens(size) < 2_000


@pytest.mark.parametrize(
    "size",
    [
        chat({"type": "file", "file": {"file_data": DATA, "filename": "x.pdf"}}),
        response({"role": "user", "content": [{"type": "input_file", "file_data": DATA}]}),
        message({"type": "document", "source": {"type": "base64", "media_type": "application/pdf", "data": DATA}}),
    ],
)
def test_a_file_counts_by_its_bytes(size: InputSize) -> None:
    assert size.file_bytes == 30_000
    assert not size.unseen
    assert 30_000 <= tokens(size) < 31_000


@pytest.mark.parametrize(
    "size",
    [
        chat({"type": "file", "file": {"file_id": "file-1"}}),
        chat({"type": "video_url", "video_url": {"url": "x"}}),
        chat(web_search_options={}),
        chat(data_sources=[{"type": "azure_search"}]),
        chat(search_parameters={"mode": "on"}),
        chat(plugins=[{"id": "web"}]),
        message(mcp_servers=[{"type": "url", "url": "x"}]),
        message(container="container_1"),
        response({"role": "user", "content": [{"type": "input_file", "file_url": "x"}]}),
        response({"type": "item_reference", "id": "msg_1"}),
        response(previous_response_id="resp_1"),
        response(conversation="conv_1"),
        response(prompt={"id": "pmpt_1"}),
        response(tools=[{"type": "web_search"}]),
        message({"type": "document", "source": {"type": "url", "url": "x"}}),
        message({"type": "document", "source": {"type": "file", "file_id": "x"}}),
        message(tools=[{"type": "web_search_20250305", "name": "web_search"}]),
    ],
)
def test_what_a_request_only_names_may_fill_the_context(size: InputSize) -> None:
    assert size.unseen
    assert bounds.input_tokens(size, Bounds(context=200_000)) == 200_000
    assert bounds.input_tokens(size, Bounds()) == bounds.ASSUMED_CONTEXT
    larger = replace(size, file_bytes=bounds.ASSUMED_CONTEXT)
    assert bounds.input_tokens(larger, Bounds()) > bounds.ASSUMED_CONTEXT, "what is seen counts all the same"


@pytest.mark.parametrize(
    "size",
    [
        chat(),
        chat(data_sources=None),
        response(),
        message(),
        chat(tools=[{"type": "function"}, {"type": "custom"}, "x", {"type": 5}]),
    ],
)
def test_a_request_that_brings_all_does_not(size: InputSize) -> None:
    assert not size.unseen


@pytest.mark.parametrize(
    "kind", ["bash_20250124", "text_editor_20250728", "computer_20250124", "memory_20250818", "local_shell"]
)
def test_a_tool_that_the_client_runs_counts_as_the_provider_describes_it(kind: str) -> None:
    size = message(tools=[{"type": kind, "name": "x"}])
    assert not size.unseen
    assert 735 < tokens(size) < 1_000


def test_tools_are_counted_whatever_they_are() -> None:
    assert chat(tools=[{"type": "function"}, "x"]).tools == 2
    assert chat(tools={"a": 1}).tools == 0
    assert chat(tools=None).tools == 0


@pytest.mark.parametrize("given", [None, "x", {}, {"data": 5}])
def test_sound_without_data_weighs_nothing(given: object) -> None:
    assert chat({"type": "input_audio", "input_audio": given}).audio_bytes == 0
