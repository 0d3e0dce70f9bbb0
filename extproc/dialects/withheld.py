"""A JSON answer of which nothing may be said: what is left says so, as providers do when their own filter bites."""

from collections.abc import Mapping

import orjson

_KEPT = (
    "id",
    "object",
    "created",
    "created_at",
    "model",
    "type",
    "role",
    "usage",
    "system_fingerprint",
    "service_tier",
)


def document(body: bytes) -> bytes:
    """The answer with its envelope and its usage, and without its texts.

    Choices end with `content_filter`, a message of Anthropic's with `refusal`, a response is incomplete because of
    `content_filter`; of any other answer only the envelope stays.
    """
    try:
        parsed = orjson.loads(body)
    except ValueError:
        parsed = None
    if not isinstance(parsed, dict):
        return b"{}"
    left = {name: parsed[name] for name in _KEPT if name in parsed}
    if isinstance(parsed.get("choices"), list):
        left["choices"] = [_choice(choice) for choice in parsed["choices"] if isinstance(choice, dict)]
    elif parsed.get("type") == "message":
        left |= {"content": [], "stop_reason": "refusal", "stop_sequence": None}
    elif parsed.get("object") == "response":
        left |= {"output": [], "status": "incomplete", "incomplete_details": {"reason": "content_filter"}}
    elif "text" in parsed:
        left["text"] = ""
    return orjson.dumps(left)


def _choice(choice: Mapping[str, object]) -> dict[str, object]:
    said: dict[str, object] = {"message": {"role": "assistant", "content": None, "refusal": None}}
    return {
        "index": choice.get("index"),
        **({"text": ""} if "text" in choice else said),
        "logprobs": None,
        "finish_reason": "content_filter",
    }
