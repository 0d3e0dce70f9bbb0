"""Conversations of chat completions, and what Gemini gets of them."""

from typing import Any

from extproc.dialects.translate.chat_to_gemini import CHAT_TO_GEMINI
from tests.unit.translate.gemini_shapes import validated

Object = dict[str, Any]
NEW, OLD = "gemini-3-flash-preview", "gemini-2.5-flash"
PIXEL = "data:image/png;base64,iVBORw0KGgo="


def sent(*messages: Object, model: str = NEW, **fields: Any) -> Object:
    """The body for the backend of a request that can be expressed."""
    request = {"model": "m", "messages": list(messages), **fields}
    assert CHAT_TO_GEMINI.refused(request) is None
    return validated(CHAT_TO_GEMINI.request(request, model))


def user(content: object) -> Object:
    return {"role": "user", "content": content}


def call(identity: str = "call_1", name: str = "find", arguments: str = "{}", **more: Any) -> Object:
    return {"id": identity, "type": "function", "function": {"name": name, "arguments": arguments}, **more}


def result(identity: str, content: object) -> Object:
    return {"role": "tool", "tool_call_id": identity, "content": content}
