"""A request for each surface that uses what its API knows: every kind of message, item, block, part and tool.

`@` stands inside strings that hold JSON. Nothing in here asks for a stream, or for tools to be called.
"""

from typing import Any

Json = dict[str, Any]

SCHEMA: Json = {
    "type": "object",
    "title": "Place",
    "description": "Where to look.",
    "$comment": "old",
    "properties": {
        "where": {"type": "string", "description": "A town.", "enum": ["here"], "default": "here", "pattern": "^.*$"},
        "how": {"anyOf": [{"type": "string", "const": "far", "examples": ["near"]}, {"type": "null"}]},
    },
    "required": ["where"],
}
ARGUMENTS = '{"where": "@", "list": [1, {"deep": "{\\"deeper\\": \\"see\\"}"}]}'
IMAGE = "https://images.invalid/a.png?who=nobody"
CALL = "call_abcDEF123456"
DATA = "data:application/pdf;base64,JVBERi0xLjQ="

CHAT: Json = {
    "model": "gpt-4o",
    "messages": [
        {"role": "system", "name": "rules", "content": "Be brief."},
        {"role": "developer", "content": [{"type": "text", "text": "Be kind."}]},
        {
            "role": "user",
            "name": "ann",
            "content": [
                {"type": "text", "text": "Look at this."},
                {"type": "image_url", "image_url": {"url": IMAGE, "detail": "low", "alt": "A dot."}},
                {"type": "input_audio", "input_audio": {"data": "UklGRg==", "format": "wav"}},
                {"type": "file", "file": {"filename": "a.pdf", "file_data": DATA}},
                {"type": "file", "file": {"file_id": "file-abcDEF123456"}},
            ],
        },
        {
            "role": "assistant",
            "content": [{"type": "text", "text": "I looked."}, {"type": "refusal", "refusal": "No."}],
            "refusal": "Not that.",
            "reasoning_content": "Hm.",
            "audio": {"id": "audio_1"},
            "annotations": [{"type": "url_citation", "url_citation": {"title": "A page", "url": IMAGE}}],
            "function_call": {"name": "old", "arguments": ARGUMENTS},
            "tool_calls": [
                {"id": CALL, "type": "function", "function": {"name": "look", "arguments": ARGUMENTS}},
                {"id": "call_b1C2d3E4", "type": "custom", "custom": {"name": "say", "input": "in words"}},
            ],
        },
        {"role": "tool", "tool_call_id": CALL, "content": [{"type": "text", "text": "Sunny."}]},
        {"role": "tool", "tool_call_id": "call_b1C2d3E4", "content": "Said."},
        {"role": "function", "name": "old", "content": "Cold."},
        {"role": "user", "content": "And now?"},
    ],
    "tools": [
        {"type": "function", "function": {"name": "look", "description": "Looks.", "parameters": SCHEMA}},
        {
            "type": "custom",
            "custom": {
                "name": "say",
                "description": "Says.",
                "format": {"type": "grammar", "grammar": {"definition": "a"}},
            },
        },
    ],
    "functions": [{"name": "old", "description": "Looks, too.", "parameters": SCHEMA}],
    "tool_choice": "none",
    "prediction": {"type": "content", "content": [{"type": "text", "text": "Maybe."}]},
    "stop": ["END"],
    "metadata": {"project": "blue"},
    "user": "u-1",
    "safety_identifier": "s-1",
    "prompt_cache_key": "k-1",
    "chat_template_kwargs": {"persona": "pirate"},
    "new_tomorrow": {"anything": ["goes"]},
}

COMPLETIONS: Json = {
    "model": "gpt-4o",
    "prompt": ["Once upon", "a time"],
    "suffix": "The end.",
    "stop": "END",
    "user": "u-1",
    "new_tomorrow": "x",
}

EMBEDDINGS: Json = {"model": "text-embedding-3-small", "input": ["one", "two"], "user": "u-1", "new_tomorrow": ["x"]}

RESPONSES: Json = {
    "model": "gpt-4o",
    "instructions": "Be brief.",
    "input": [
        {"role": "system", "content": "Be kind."},
        {
            "type": "message",
            "role": "user",
            "content": [
                {"type": "input_text", "text": "Look at this."},
                {"type": "input_image", "image_url": IMAGE, "detail": "low"},
                {"type": "input_file", "filename": "a.pdf", "file_data": DATA},
                {"type": "input_file", "file_url": "https://files.invalid/a.pdf"},
                {"type": "input_audio", "input_audio": {"data": "UklGRg==", "format": "wav"}},
            ],
        },
        {
            "type": "message",
            "role": "assistant",
            "content": [
                {
                    "type": "output_text",
                    "text": "I looked.",
                    "annotations": [{"type": "url_citation", "title": "A page", "url": IMAGE, "start_index": 0}],
                    "logprobs": [{"token": "I", "logprob": 0, "bytes": [73]}],
                },
                {"type": "refusal", "refusal": "No."},
            ],
        },
        {"type": "function_call", "call_id": CALL, "name": "look", "arguments": ARGUMENTS},
        {"type": "function_call_output", "call_id": CALL, "output": "Sunny."},
        {"type": "function_call_output", "call_id": CALL, "output": [{"type": "input_text", "text": "Warm."}]},
        {"type": "custom_tool_call", "call_id": "call_b1C2d3E4", "name": "say", "input": "in words"},
        {"type": "custom_tool_call_output", "call_id": "call_b1C2d3E4", "output": "Said."},
        {
            "type": "reasoning",
            "summary": [{"type": "summary_text", "text": "Hm."}],
            "content": [{"type": "reasoning_text", "text": "Well."}],
        },
        {"type": "web_search_call", "status": "completed", "action": {"type": "search", "query": "towns"}},
        {
            "type": "file_search_call",
            "queries": ["towns"],
            "results": [{"filename": "a.txt", "text": "A town.", "attributes": {"author": "nobody"}, "score": 1}],
        },
        {
            "type": "computer_call",
            "call_id": "call_c1C2d3E4",
            "action": {"type": "type", "text": "hello", "keys": ["CTRL"]},
            "pending_safety_checks": [{"id": "sc_1", "code": "x", "message": "Careful."}],
        },
        {
            "type": "computer_call_output",
            "call_id": "call_c1C2d3E4",
            "output": {"type": "computer_screenshot", "image_url": IMAGE},
        },
        {
            "type": "code_interpreter_call",
            "container_id": "cntr_1",
            "code": "print(1)",
            "outputs": [{"type": "logs", "logs": "1"}, {"type": "image", "url": IMAGE}],
        },
        {
            "type": "local_shell_call",
            "call_id": "call_d1C2d3E4",
            "action": {"type": "exec", "command": ["ls"], "env": {"HOME": "/"}, "working_directory": "/", "user": "me"},
        },
        {"type": "local_shell_call_output", "call_id": "call_d1C2d3E4", "output": "a.txt"},
        {"type": "image_generation_call", "status": "completed", "result": "iVBORw0KGgo="},
        {
            "type": "mcp_list_tools",
            "server_label": "far",
            "tools": [{"name": "t", "description": "d", "input_schema": SCHEMA}],
        },
        {
            "type": "mcp_call",
            "server_label": "far",
            "name": "t",
            "arguments": ARGUMENTS,
            "output": "done",
            "error": "none",
        },
        {"type": "mcp_approval_request", "server_label": "far", "name": "t", "arguments": ARGUMENTS},
        {"type": "mcp_approval_response", "approve": True, "reason": "fine"},
        {"type": "new_tomorrow", "anything": {"at": ["all"]}},
        {"role": "user", "content": "And now?"},
    ],
    "prompt": {
        "id": "pmpt_abcDEF123456",
        "variables": {"town": "Bonn", "part": {"type": "input_text", "text": "x"}},
    },
    "tools": [
        {"type": "function", "name": "look", "description": "Looks.", "parameters": SCHEMA},
        {"type": "custom", "name": "say", "description": "Says.", "format": {"type": "grammar", "definition": "a"}},
        {
            "type": "mcp",
            "server_label": "far",
            "server_description": "Far away.",
            "server_url": "https://mcp.invalid/x",
            "headers": {"x-one": "two"},
            "allowed_tools": ["t"],
        },
        {"type": "file_search", "vector_store_ids": ["vs_1"], "filters": {"type": "eq", "key": "k", "value": "v"}},
    ],
    "tool_choice": "none",
    "text": {"verbosity": "low"},
    "include": ["message.output_text.logprobs"],
    "metadata": {"project": "blue"},
    "user": "u-1",
    "safety_identifier": "s-1",
    "prompt_cache_key": "k-1",
    "new_tomorrow": {"anything": ["goes"]},
}

MESSAGES: Json = {
    "model": "claude-sonnet-5-5",
    "max_tokens": 4000,
    "system": [{"type": "text", "text": "Be brief.", "cache_control": {"type": "ephemeral"}}],
    "messages": [
        {
            "role": "user",
            "content": [
                {"type": "text", "text": "Look at this."},
                {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "iVBORw0KGgo="}},
                {"type": "image", "source": {"type": "url", "url": IMAGE}},
                {
                    "type": "document",
                    "title": "A page",
                    "context": "From a book.",
                    "source": {"type": "text", "media_type": "text/plain", "data": "Words."},
                    "citations": {"enabled": True},
                },
                {"type": "document", "source": {"type": "content", "content": [{"type": "text", "text": "More."}]}},
                {"type": "document", "source": {"type": "url", "url": "https://files.invalid/a.pdf"}},
                {
                    "type": "search_result",
                    "source": "https://a.invalid",
                    "title": "T",
                    "content": [{"type": "text", "text": "Found."}],
                },
                {"type": "container_upload", "file_id": "file_abcDEF123456"},
            ],
        },
        {
            "role": "assistant",
            "content": [
                {"type": "thinking", "thinking": "Hm.", "signature": "c2lnbmF0dXJl"},
                {"type": "redacted_thinking", "data": "ZGF0YQ=="},
                {
                    "type": "text",
                    "text": "I looked.",
                    "citations": [{"type": "char_location", "cited_text": "Words.", "document_title": "A page"}],
                },
                {
                    "type": "tool_use",
                    "id": "toolu_abcDEF123456",
                    "name": "look",
                    "input": {"where": "here", "l": ["x"]},
                },
                {
                    "type": "server_tool_use",
                    "id": "srvtoolu_abcDEF12345",
                    "name": "web_search",
                    "input": {"query": "towns"},
                },
                {
                    "type": "web_search_tool_result",
                    "tool_use_id": "srvtoolu_abcDEF12345",
                    "content": [{"type": "web_search_result", "title": "T", "url": IMAGE, "page_age": "a day"}],
                },
            ],
        },
        {
            "role": "user",
            "content": [
                {
                    "type": "tool_result",
                    "tool_use_id": "toolu_abcDEF123456",
                    "content": [{"type": "text", "text": "Sunny."}],
                    "is_error": False,
                },
                {"type": "tool_result", "tool_use_id": "toolu_b1C2d3E4f5", "content": "Warm."},
            ],
        },
        {"role": "assistant", "content": "I see."},
        {"role": "user", "content": "And now?"},
    ],
    "tools": [
        {"name": "look", "description": "Looks.", "input_schema": SCHEMA, "cache_control": {"type": "ephemeral"}},
        {"type": "bash_20250124", "name": "bash"},
    ],
    "tool_choice": {"type": "none"},
    "stop_sequences": ["END"],
    "metadata": {"user_id": "u-1"},
    "mcp_servers": [{"type": "url", "name": "far", "url": "https://mcp.invalid/x", "authorization_token": "t-1"}],
    "new_tomorrow": {"anything": ["goes"]},
}

SPEECH: Json = {"model": "gpt-4o-mini-tts", "input": "Hello.", "voice": "alloy", "instructions": "Softly."}
IMAGES: Json = {"model": "gpt-image-1", "prompt": "A dot.", "user": "u-1", "new_tomorrow": "x"}
MODERATIONS: Json = {
    "model": "omni-moderation-latest",
    "input": [{"type": "text", "text": "Hello."}, {"type": "image_url", "image_url": {"url": IMAGE}}],
}
RERANK: Json = {
    "model": "rerank-v3.5",
    "query": "red car",
    "documents": ["a bike", {"text": "a car", "title": "T"}],
    "rank_fields": ["title"],
}

BODIES: dict[str, tuple[str, Json]] = {
    "chat": ("/v1/chat/completions", CHAT),
    "azure chat": (
        "/openai/deployments/gpt-4o-azure/chat/completions?api-version=2024-10-21",
        {**CHAT, "model": "gpt-4o-azure"},
    ),
    "completions": ("/v1/completions", COMPLETIONS),
    "a completion": ("/v1/completions", {**COMPLETIONS, "prompt": "Once upon a time"}),
    "embeddings": ("/v1/embeddings", EMBEDDINGS),
    "an embedding": ("/v1/embeddings", {**EMBEDDINGS, "input": "one"}),
    "responses": ("/v1/responses", RESPONSES),
    "azure responses": ("/openai/v1/responses", {**RESPONSES, "model": "gpt-4o-azure-v1"}),
    "a response": ("/v1/responses", {**RESPONSES, "input": "And now?"}),
    "messages": ("/v1/messages", MESSAGES),
    "a message": ("/anthropic/v1/messages", {**MESSAGES, "system": "Be brief."}),
    "count_tokens": (
        "/v1/messages/count_tokens",
        {key: MESSAGES[key] for key in ("model", "system", "messages", "tools")},
    ),
    "speech": ("/v1/audio/speech", SPEECH),
    "images": ("/v1/images/generations", IMAGES),
    "moderations": ("/v1/moderations", MODERATIONS),
    "rerank": ("/v1/rerank", RERANK),
}
"""By name: the path and the body."""
STREAMING = ("chat", "a completion", "a response", "messages")
