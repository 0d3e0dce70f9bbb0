"""What a request may hold, over the bodies that SDKs send."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from extproc.guardrails import structure
from extproc.guardrails.inventory import take
from extproc.guardrails.policy import Action, Images, Structure
from extproc.redaction.policy import Mode

PNG = "data:image/png;base64," + "iVBORw0KGgoA" * 20
FAR = "https://images.example.com/cat.png"

Body = dict[str, Any]


def broken(body: Body, **rules: Any) -> dict[str, tuple[int, tuple[str, ...]]]:
    """By rule, how often and where."""
    return {one.rule: (one.count, one.places) for one in structure.check(Structure(**rules), body)}


def chat(*parts: Body) -> Body:
    return {"messages": [{"role": "user", "content": list(parts)}]}


def responses(*items: Body, **more: Any) -> Body:
    return {"input": list(items), **more}


def image(url: Any) -> Body:
    return chat({"type": "image_url", "image_url": url})


def anthropic_image(source: Body) -> Body:
    return chat({"type": "image", "source": source})


def test_without_rules_anything_goes() -> None:
    assert (
        broken({**image({"url": FAR}), "tools": [{"type": "mcp", "server_url": "http://x"}], "web_search": True}) == {}
    )


def test_rules_that_are_off_say_nothing() -> None:
    assert broken(image({"url": FAR}), images=Images.NONE, mode=Mode.OFF) == {}


@pytest.mark.parametrize(
    ("mode", "action", "blocks"),
    [(Mode.ENFORCE, Action.BLOCK, True), (Mode.SHADOW, Action.BLOCK, False), (Mode.ENFORCE, Action.FLAG, False)],
)
def test_a_verdict_blocks_where_that_is_enforced(mode: Mode, action: Action, blocks: bool) -> None:
    rules = Structure(images=Images.NONE, mode=mode, action=action)
    assert [one.blocks for one in structure.check(rules, image({"url": PNG}))] == [blocks]


# ---- how much ----


def test_messages_are_counted_on_every_surface_that_has_some() -> None:
    message = {"role": "user", "content": "x"}
    bodies: list[Body] = [{"messages": [message] * 3}, {"input": [message] * 3}]
    for body in bodies:
        assert broken(body, max_messages=2) == {"max_messages": (3, ())}
        assert broken(body, max_messages=3) == {}
    others: list[Body] = [{"input": ["a", "b", "c"]}, {"input": "abc"}, {"prompt": ["a", "b", "c"]}, {}]
    for body in others:
        assert broken(body, max_messages=0) == {}


def test_text_is_counted_wherever_it_stands_and_images_are_none() -> None:
    body = {"instructions": "12345", "input": [{"role": "user", "content": [{"type": "t", "text": "67890"}]}]}
    assert take(body).text == len("12345" + "67890" + "user" + "t")
    assert take({"messages": [{"x": "ä" * 300}]}).text == 300
    assert take(image({"url": PNG})).text == len("user" + "image_url")


def test_text_does_not_hide_where_media_stand() -> None:
    text = "This is what the document says. " * 10
    body = chat({"type": "document", "source": {"type": "text", "data": text}})
    assert take(body).text == len(text) + len("user" + "document" + "text")
    assert take(image({"url": "data:text/plain," + text})).text > len(text)


def test_tools_and_images_are_counted() -> None:
    body = {**chat(*[{"type": "image_url", "image_url": {"url": PNG}}] * 3), "tools": [{"type": "function"}] * 2}
    assert broken(body, max_images=2, max_tools=1) == {"max_images": (3, ()), "max_tools": (2, ())}
    assert broken(body, max_images=3, max_tools=2) == {}


# ---- images ----

INLINE = [
    image({"url": PNG}),
    image({"url": PNG.replace("data:", "DATA:")}),
    image(PNG),
    anthropic_image({"type": "base64", "media_type": "image/png", "data": "iVBOR"}),
    responses({"type": "message", "role": "user", "content": [{"type": "input_image", "image_url": PNG}]}),
    responses({"type": "computer_call_output", "output": {"type": "computer_screenshot", "image_url": PNG}}),
    responses({"type": "image_generation_call", "id": "ig_1", "result": "iVBOR"}),
    chat({"type": "tool_result", "content": [{"type": "image", "source": {"type": "base64", "data": "iVBOR"}}]}),
    {"input": [{"content": [{"type": "image_base64", "image_base64": PNG}]}]},
]
REMOTE = [
    image({"url": FAR}),
    image(FAR),
    image({"url": "gs://bucket/cat.png"}),
    image({}),
    anthropic_image({"type": "url", "url": FAR}),
    anthropic_image({"type": "base64", "data": "iVBOR", "url": FAR}),
    anthropic_image({"type": "file", "file_id": "file_1"}),
    responses({"role": "user", "content": [{"type": "input_image", "file_id": "file-1"}]}),
    responses({"role": "user", "content": [{"type": "input_image", "image_url": FAR}]}),
    responses({"type": "image_generation_call", "id": "ig_1"}),
    chat({"type": "tool_result", "content": [{"type": "image", "source": {"type": "url", "url": FAR}}]}),
    {"prompt": {"id": "pmpt_1", "variables": {"cat": {"type": "input_image", "image_url": FAR}}}},
    {"input": [{"image": FAR}]},
    {"tools": [{"type": "image_generation", "input_image_mask": {"image_url": FAR}}]},
    chat({"image_url": None, "image": FAR}),
    chat({"type": "image_url", "image_url": {"url": PNG}, "image": FAR}),
    chat({"type": "image_url", "image_url": {"url": PNG, "fallback": FAR}}),
    chat({"type": "image", "source": {"type": "base64", "data": FAR}}),
    chat({"type": "image", "source": None}),
    chat({"type": "image", "source": {"type": "file", "file_id": "file_1", "data": "iVBOR"}}),
    responses({"role": "user", "content": [{"type": "input_image", "file_id": "file-1", "data": "iVBOR"}]}),
    {"messages": [{"role": "user", "content": "x", "images": ["iVBOR" * 1000, FAR]}]},
    chat({"type": "x", "cat_image": {"image": {"url": FAR}}}),
    chat({"type": "x", "cat_image": FAR}),
]


@pytest.mark.parametrize("body", INLINE)
def test_an_image_in_the_body_is_inline(body: Body) -> None:
    assert broken(body, images=Images.INLINE, image_hosts=()) == {}
    assert broken(body, images=Images.NONE)["images"][0] == 1


@pytest.mark.parametrize("body", REMOTE)
def test_an_image_elsewhere_is_not(body: Body) -> None:
    assert broken(body, images=Images.INLINE)["images"][0] == 1


NO_IMAGES = [
    {"tools": [{"type": "function", "function": {"name": "f", "parameters": {"properties": {"image_url": {}}}}}]},
    {"tools": [{"name": "f", "input_schema": {"properties": {"image_url": {"url": FAR}}}}]},
    {"messages": [{"role": "assistant", "content": [{"type": "tool_use", "input": {"image_url": FAR}}]}]},
    {"text": {"format": {"type": "json_schema", "schema": {"properties": {"image": {"type": "image"}}}}}},
    {"messages": [{"role": "user", "content": f"Look at {FAR}"}]},
    {"metadata": {"image_url": FAR}},
    {"input": [{"type": "code_interpreter_call", "outputs": [{"type": "image", "url": FAR}]}]},
    {"modalities": ["text", "image"], "image_config": {"aspect_ratio": "16:9"}},
]


@pytest.mark.parametrize("body", NO_IMAGES)
def test_what_the_caller_calls_an_image_is_none(body: Body) -> None:
    assert broken(body, images=Images.NONE) == {}


def test_an_image_may_be_fetched_from_the_hosts_that_are_named() -> None:
    rules = {"image_hosts": ("images.example.com", "*.cdn.example")}
    assert broken(image({"url": FAR}), **rules) == {}
    assert broken(image({"url": "https://a.b.cdn.example/x"}), **rules) == {}
    for url in ("https://cdn.example/x", "https://evil.example/x", "ftp://images.example.com/x", ""):
        assert broken(image({"url": url}), **rules) == {"image_hosts": (1, ("messages[0].content[0]",))}


def test_each_address_of_an_image_is_looked_at() -> None:
    body = chat({"type": "image_url", "image_url": {"url": FAR}, "image": ["https://evil.example/x"]})
    assert broken(body, image_hosts=("images.example.com",)) == {"image_hosts": (1, ("messages[0].content[0]",))}
    assert broken(body, max_images=1) == {"max_images": (2, ())}


def test_what_stands_beside_an_image_is_none() -> None:
    body = {"messages": [{"image": PNG, "content": [{"type": "video", "video": FAR}]}]}
    assert broken(body, files=False, images=Images.INLINE) == {"files": (1, ("messages[0].content[0].*",))}
    inside = chat({"type": "image", "source": {"data": "iVBOR"}, "content": [{"type": "video", "video": FAR}]})
    assert list(broken(inside, files=False, images=Images.INLINE)) == ["files"]


# ---- tools ----

OWN = [
    ({"tools": [{"type": "function", "function": {"name": "get_weather"}}]}, "tools[0]"),
    ({"tools": [{"type": "custom", "custom": {"name": "get_weather"}}]}, "tools[0]"),
    ({"tools": [{"type": "function", "name": "get_weather"}]}, "tools[0]"),
    ({"tools": [{"name": "get_weather", "input_schema": {}}]}, "tools[0]"),
    ({"tools": [{"type": "custom", "name": "get_weather"}]}, "tools[0]"),
    ({"functions": [{"name": "get_weather"}]}, "functions[0]"),
    ({"tools": [{"type": "namespace", "name": "n", "tools": [{"type": "function", "name": "get_weather"}]}]}, None),
    ({"input": [{"type": "tool_search_output", "tools": [{"type": "function", "name": "get_weather"}]}]}, None),
]


@pytest.mark.parametrize(("body", "place"), OWN)
def test_own_tools_are_told_by_name(body: Body, place: str | None) -> None:
    for name in ("get_weather", "get_*", "*", "*weather", "g*t_*r"):
        assert broken(body, tools=("other", name)) == {}
    for name in ("", "get_weathe", "*_Weather", "get_weather*r", "get[_]weather", "get*weather*weather"):
        count, places = broken(body, tools=(name,))["tools"]
        assert count == 1
        assert place is None or places == (place,)
    assert broken(body, hosted_tools=frozenset()) == {}


def test_tools_that_a_provider_knows_and_the_caller_runs_are_the_callers_own() -> None:
    kinds = {
        "bash_20250124": "bash",
        "text_editor_20250728": "text_editor",
        "computer_20251124": "computer",
        "computer_use_preview": "computer_use",
        "memory_20250818": "memory",
        "local_shell": "local_shell",
        "apply_patch": "apply_patch",
    }
    for kind, name in kinds.items():
        body = {"tools": [{"type": kind, "name": "get_weather"}]}
        assert broken(body, hosted_tools=frozenset(), tools=(name,)) == {}
        assert list(broken(body, tools=("get_weather",))) == ["tools"]
    local = {"tools": [{"type": "shell", "environment": {"type": "local"}}]}
    assert broken(local, hosted_tools=frozenset(), tools=("shell",)) == {}
    assert list(broken({"tools": [{"type": "shell"}]}, hosted_tools=frozenset())) == ["hosted_tools"]


HOSTED = [
    ({"tools": [{"type": "web_search"}]}, "web_search"),
    ({"tools": [{"type": "web_search_preview_2025_03_11"}]}, "web_search"),
    ({"tools": [{"type": "web_search_preview"}]}, "web_search"),
    ({"tools": [{"type": "web_search_2025_08_26"}]}, "web_search"),
    ({"tools": [{"type": "web_search_20250305", "name": "web_search", "max_uses": 3}]}, "web_search"),
    ({"tools": [{"type": "web_fetch_20250910", "name": "web_fetch"}]}, "web_fetch"),
    ({"tools": [{"type": "code_execution_20250825", "name": "code_execution"}]}, "code_execution"),
    ({"tools": [{"type": "code_interpreter", "container": {"type": "auto"}}]}, "code_interpreter"),
    ({"tools": [{"type": "file_search", "vector_store_ids": ["vs_1"]}]}, "file_search"),
    ({"tools": [{"type": "image_generation"}]}, "image_generation"),
    ({"tools": [{"type": "mcp", "server_label": "x", "server_url": "https://mcp.example"}]}, "mcp"),
    ({"tools": [{"type": "mcp_toolset", "mcp_server_name": "x"}]}, "mcp"),
    ({"mcp_servers": [{"type": "url", "url": "https://mcp.example", "name": "x"}]}, "mcp"),
    ({"web_search_options": {}}, "web_search"),
    ({"search_parameters": {"mode": "auto"}}, "web_search"),
    ({"enable_search": True}, "web_search"),
    ({"data_sources": [{"type": "azure_search"}]}, "data_sources"),
    ({"plugins": [{"id": "web"}]}, "plugins"),
    ({"messages": [{"attachments": [{"tools": [{"type": "file_search"}]}]}]}, "file_search"),
    ({"tools": [{"type": "namespace", "tools": [{"type": "web_search"}]}]}, "web_search"),
    ({"tools": [{"google_search": {}}]}, "web_search"),
    ({"tools": [{"urlContext": {}}]}, "url_context"),
    ({"extra_body": {"google": {"tools": [{"googleSearch": {}}]}}}, "web_search"),
    ({"compound_custom": {"tools": {"enabled_tools": ["web_search"]}}}, "web_search"),
]


@pytest.mark.parametrize(("body", "kind"), HOSTED)
def test_hosted_tools_are_told_by_type_without_version(body: Body, kind: str) -> None:
    assert broken(body, hosted_tools=frozenset((kind,))) == {}
    assert broken(body, tools=()) == {}
    assert broken(body, hosted_tools=frozenset(("other",)))["hosted_tools"][0] == 1


@pytest.mark.parametrize(
    "tool",
    [
        {"type": "telepathy"}, {"type": 7}, {"type": ["function"]}, "web_search", None, {"type": "x" * 65},
        {"type": ""}, {}, {"telepathy": {}}, {"type": None, "name": ""}, {"name": "mine", "google_search": {}},
        {"google_search": {}, "code_execution": {}}, {"name": "mine", "function": {"name": "other"}},
    ],
)  # fmt: skip
def test_a_tool_that_nobody_knows_is_hosted(tool: Any) -> None:
    allowed = frozenset(("function", "web_search"))
    assert broken({"tools": [tool]}, hosted_tools=allowed) == {"hosted_tools": (1, ("tools[0]",))}


@pytest.mark.parametrize("tools", [{"telepathy": {}}, "telepathy", {"enabled_tools": "x"}, {"enabled_tools": [7]}])
def test_tools_that_are_no_list_are_hosted(tools: Any) -> None:
    assert broken({"tools": tools}, hosted_tools=frozenset(("web_search",)))["hosted_tools"][0] == 1


def test_a_tool_of_two_names_is_under_neither() -> None:
    tool = {"type": "function", "name": "get_weather", "function": {"name": "other"}}
    assert broken({"tools": [tool]}, tools=("get_weather", "other")) == {"tools": (1, ("tools[0]",))}


def test_no_tools_are_none() -> None:
    nothing: list[Any] = [None, [], {}]
    for tools in nothing:
        assert broken({"tools": tools, "functions": None}, tools=(), hosted_tools=frozenset(), max_tools=0) == {}


def test_a_switch_that_is_off_turns_nothing_on() -> None:
    assert broken({"web_search_options": None, "enable_search": False}, hosted_tools=frozenset()) == {}


def test_what_a_server_listed_and_which_tool_is_wanted_are_no_offers() -> None:
    listed = {"input": [{"type": "mcp_list_tools", "tools": [{"name": "x"}]}]}
    chosen = {"tool_choice": {"type": "allowed_tools", "tools": [{"type": "web_search"}]}}
    for body in (listed, chosen):
        assert broken(body, tools=(), hosted_tools=frozenset(), max_tools=0) == {}


# ---- servers ----


def test_servers_are_told_by_host() -> None:
    rules = {"mcp_hosts": ("mcp.example", "*.tools.example")}
    openai = {"tools": [{"type": "mcp", "server_url": "https://MCP.example:8443/sse"}]}
    anthropic = {
        "mcp_servers": [{"type": "url", "url": "https://a.tools.example", "name": "x"}],
        "tools": [{"type": "mcp_toolset", "mcp_server_name": "x"}],
    }
    for body in (openai, anthropic, {"tools": [{"type": "function", "name": "mcp"}]}):
        assert broken(body, **rules) == {}


@pytest.mark.parametrize(
    "body",
    [
        {"tools": [{"type": "mcp", "server_url": "https://evil.example"}]},
        {"tools": [{"type": "mcp", "connector_id": "connector_gmail"}]},
        {"tools": [{"type": "mcp", "server_url": "https://evil.example", "mcp_server_name": "x"}]},
        {"mcp_servers": [{"type": "url", "url": "https://mcp.example@evil.example"}]},
        {"mcp_servers": ["https://mcp.example"]},
        {"mcp_servers": {"url": "https://mcp.example"}},
    ],
)
def test_a_server_elsewhere_or_nowhere_is_refused(body: Body) -> None:
    assert broken(body, mcp_hosts=("mcp.example",))["mcp_hosts"][0] == 1


# ---- files ----

FILES = [
    chat({"type": "file", "file": {"file_id": "file-1"}}),
    chat({"type": "file", "file": {"file_data": "https://evil.example/x.pdf"}}),
    responses({"role": "user", "content": [{"type": "input_file", "file_id": "file-1"}]}),
    responses({"role": "user", "content": [{"type": "input_file", "file_url": FAR}]}),
    responses({"role": "user", "content": [{"type": "input_image", "file_id": "file-1"}]}),
    chat({"type": "document", "source": {"type": "file", "file_id": "file_1"}}),
    chat({"type": "document", "source": {"type": "url", "url": FAR}}),
    chat({"type": "container_upload", "file_id": "file_1"}),
    chat({"type": "video_url", "video_url": {"url": FAR}}),
    {"container": "container_1"},
    {"container": {"id": "container_1"}},
    {"container": {"skills": [{"type": "anthropic", "skill_id": "pdf"}]}},
    {"tools": [{"type": "code_interpreter", "container": "cntr_1"}]},
    {"tools": [{"type": "code_interpreter", "container": {"type": "auto", "file_ids": ["file-1"]}}]},
    {"tools": [{"type": "file_search", "vector_store_ids": ["vs_1"]}]},
    {"messages": [{"role": "user", "attachments": [{"file_id": "file-1", "tools": []}]}]},
    chat({"type": "document_url", "document_url": FAR}),
    chat({"type": "document_url", "document_url": {"url": FAR}}),
    chat({"type": "input_audio", "input_audio": FAR}),
    chat({"type": "input_audio", "input_audio": {"data": FAR, "format": "mp3"}}),
    chat({"type": "video", "video": FAR}),
    chat({"type": "video", "video": [[FAR], "iVBOR"]}),
    chat({"type": "file", "file": {"url": FAR}}),
    chat({"type": "document", "source": FAR}),
    chat({"type": "document", "source": {"type": "url", "url": "images.example.com/x.pdf"}}),
    chat({"type": "document", "source": {"type": "content", "content": [{"type": "x", "y": FAR}]}}),
    chat({"type": "tool_result", "content": [{"type": "x", "fileData": {"fileUri": "gs://bucket/x.pdf"}}]}),
    chat({"type": "input_text", "text": "x", "telepathy": FAR}),
    chat({"type": "text", "input_audio": {"type": "text", "data": FAR}}),
    {"document": {"type": "document_url", "document_url": FAR}},
]


@pytest.mark.parametrize("body", FILES)
def test_files_that_the_provider_has_or_fetches(body: Body) -> None:
    assert broken(body) == {}
    assert broken(body, files=False)["files"][0] == 1


NO_FILES = [
    chat({"type": "file", "file": {"filename": "a.pdf", "file_data": "data:application/pdf;base64,JVBERi0="}}),
    chat({"type": "document", "source": {"type": "base64", "data": "JVBERi0="}}),
    {"tools": [{"type": "code_interpreter", "container": {"type": "auto"}}]},
    responses({"type": "code_interpreter_call", "container_id": "cntr_1", "outputs": []}),
    responses({"type": "file_search_call", "results": [{"file_id": "file-1", "text": "x"}]}),
    responses({"role": "assistant", "content": [{"annotations": [{"type": "file_citation", "file_id": "file-1"}]}]}),
    chat({"type": "code_execution_tool_result", "content": [{"type": "code_execution_output", "file_id": "file_1"}]}),
    {"messages": [{"content": [{"type": "tool_use", "input": {"file_id": "mine"}}]}]},
    {"messages": [{"role": "user", "content": "file_id: file-1"}]},
    {"messages": [{"role": "user", "content": FAR, "name": FAR}], "user": FAR, "stop": ["http://"]},
    {"messages": [{"role": "tool", "tool_call_id": "call_1", "content": FAR}]},
    {"messages": [{"role": "assistant", "tool_calls": [{"function": {"name": "f", "arguments": FAR}}]}]},
    {"messages": [{"role": "user", "content": [FAR]}]},
    chat({"type": "text", "text": FAR}),
    chat({"type": "input_audio", "input_audio": {"data": "//uQxAAAAA", "format": "mp3"}}),
    chat({"type": "input_audio", "input_audio": {"data": "data:audio/mp3;base64,//uQxAAAAA"}}),
    chat({"type": "document", "title": FAR, "context": FAR, "source": {"type": "text", "data": f"{FAR} is a cat"}}),
    chat({"type": "search_result", "source": FAR, "title": "x", "content": [{"type": "text", "text": FAR}]}),
    chat({"type": "web_search_tool_result", "content": [{"type": "web_search_result", "url": FAR}]}),
    chat({"type": "tool_use", "input": {"document_url": FAR}}),
    chat({"type": "thinking", "thinking": FAR, "signature": "Zm9v"}),
    chat({"type": "bash_code_execution_result", "stdout": FAR, "stderr": FAR, "content": []}),
    responses({"type": "web_search_call", "action": {"type": "open_page", "url": FAR, "sources": [{"url": FAR}]}}),
    responses({"type": "computer_call_output", "output": {"type": "computer_screenshot", "current_url": FAR}}),
    responses({"type": "function_call_output", "call_id": "call_1", "output": FAR}),
    responses({"type": "shell_call_output", "output": [{"stdout": FAR, "stderr": ""}]}),
    responses({"type": "mcp_call", "arguments": FAR, "output": FAR, "error": FAR}),
    responses({"type": "reasoning", "summary": [{"type": "summary_text", "text": FAR}]}),
    {"input": FAR, "instructions": FAR},
    {"input": [FAR, FAR]},
    {"prompt": [FAR]},
    {"system": [{"type": "text", "text": FAR}]},
    {"tools": [{"type": "mcp", "server_url": FAR}], "mcp_servers": [{"type": "url", "url": FAR}]},
    {"tools": [{"type": "custom", "name": "f", "format": {"type": "grammar", "x": FAR}}], "web_search": {"x": FAR}},
    {
        "response_format": {"json_schema": {"schema": {"$schema": FAR}}},
        "structured_outputs": {"json": {"$schema": FAR}},
    },
    {"metadata": {"document_url": FAR}},
    {"input": [{"type": "tool_search_output", "tools": [{"type": "function", "name": "f", "x": FAR}]}]},
    chat({"type": "x", "at": "12:30", "note": "and/or: see https://example.com", "folder": "C:\\temp"}),
]


@pytest.mark.parametrize("body", NO_FILES)
def test_what_stands_in_the_body_or_was_made_before_is_no_file_to_be_read(body: Body) -> None:
    assert broken(body, files=False) == {}


@pytest.mark.parametrize(
    "url",
    [
        "http://x", "HTTPS://x", "ftp://x", "file:/etc/x", "s3://bucket/x", "blob+https://x", "view-source:https://x",
        " \n\x00https://x", "ht\ttps://x", "h" + "\n" * 500 + "ttps://x", "https:\\\\x", "https:x", "<https://x>",
        "\N{ZERO WIDTH SPACE}https://x", "https://x/a b.pdf",
    ],
)  # fmt: skip
def test_an_address_is_what_any_parser_may_read_as_one(url: str) -> None:
    assert broken(chat({"type": "x", "y": url}), files=False)["files"][0] == 1


def test_of_messages_and_input_the_longer_one_counts() -> None:
    shorter: list[Body] = [{"messages": None}, {"messages": []}, {"messages": [{}]}]
    for others in shorter:
        assert broken({**others, "input": [{}, {}]}, max_messages=1) == {"max_messages": (2, ())}


def test_a_stored_prompt_is_text_that_nobody_saw() -> None:
    assert broken({"prompt": {"id": "pmpt_1"}}, files=False) == {"stored_prompts": (1, ("prompt",))}
    assert broken({"prompt": "Once upon a time"}, files=False) == {}


# ---- laws ----

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda inner: (
        st.lists(inner)
        | st.dictionaries(
            st.sampled_from(
                [
                    "type",
                    "tools",
                    "image_url",
                    "url",
                    "source",
                    "container",
                    "file_id",
                    "function",
                    "name",
                    "messages",
                    "input",
                    "content",
                    "mcp_servers",
                    "functions",
                    "server_url",
                    "prompt",
                    "image",
                    "images",
                    "video",
                ]
            ),
            inner | st.sampled_from(["mcp", "image", "function", FAR]),
        )
    ),
    max_leaves=30,
)
STRICT = Structure(
    max_messages=0, max_text=0, max_images=0, max_tools=0, images=Images.NONE, image_hosts=(), tools=(),
    hosted_tools=frozenset(), mcp_hosts=(), files=False,
)  # fmt: skip


@given(st.dictionaries(st.sampled_from(["messages", "input", "tools", "mcp_servers", "prompt", "x"]), JSON))
def test_no_body_makes_it_fail_and_verdicts_are_of_a_closed_set(body: Body) -> None:
    for verdict in structure.check(STRICT, body):
        assert verdict.rule in structure.RULES
        assert verdict.count > 0
        assert len(verdict.places) <= 8


def test_verdicts_tell_nothing_of_the_caller() -> None:
    secret = "hunter2"
    part = {"type": "image_url", secret: secret, "image_url": {"url": f"https://{secret}.example/{secret}"}}
    body = {
        "messages": [{secret: [part] * 20}],
        "tools": [{"type": secret}, {"name": secret}],
        secret: {"file_id": secret},
    }
    found = structure.check(STRICT, body)
    assert {one.rule for one in found} >= {"images", "tools", "hosted_tools", "files"}
    assert secret not in repr(found)
    assert all(len(one.places) <= 8 for one in found)
