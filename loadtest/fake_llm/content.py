"""Text and token counts inside the message contents of all dialects: a string, or a list of typed parts."""

from typing import Any

import orjson

from loadtest.fake_llm import tokenizer
from loadtest.fake_llm.turn import FILE_TOKENS, IMAGE_TOKENS

_TEXT_PARTS = frozenset({"text", "input_text", "output_text", "refusal", "thinking"})
_IMAGE_PARTS = frozenset({"image_url", "input_image", "image"})


def text_of(content: Any) -> str:
    """All text of a content, its parts joined by a space."""
    if isinstance(content, str):
        return content
    parts = content if isinstance(content, list) else []
    return " ".join(part_text(part) for part in parts if part_text(part))


def part_text(part: Any) -> str:
    """The text of one part, empty for a part of another kind."""
    if isinstance(part, str):
        return part
    if isinstance(part, dict) and part.get("type") in _TEXT_PARTS:
        return str(part.get(part["type"], part.get("text", "")))
    return ""


def count(content: Any) -> int:
    """Tokens of a content: its text, nested contents, a fixed price per image and per file or audio part."""
    if isinstance(content, str):
        return tokenizer.count(content)
    return sum(_count_part(part) for part in content) if isinstance(content, list) else 0


def count_json(value: Any) -> int:
    """Tokens of what a model reads as JSON: tool definitions, arguments."""
    return tokenizer.count(orjson.dumps(value).decode()) if value else 0


def _count_part(part: Any) -> int:
    if text := part_text(part):
        return tokenizer.count(text)
    if not isinstance(part, dict):
        return 0
    if part.get("type") in _IMAGE_PARTS:
        return IMAGE_TOKENS
    if "content" in part:
        return count(part["content"])
    if part.get("type") == "tool_use":
        return count_json(part.get("input"))
    return FILE_TOKENS
