"""Answers that may be kept, and whether they are."""

import json
from typing import Any

from extproc.cache.admission import REASONS, why_not
from extproc.surfaces import Surface

Json = dict[str, Any]


def told(surface: Surface, answer: Json | bytes, is_stream: bool = False, results: int = 1) -> str | None:
    body = answer if isinstance(answer, bytes) else json.dumps(answer).encode()
    reason = why_not(surface, body, is_stream, results)
    assert reason is None or reason in REASONS
    return reason


def stream(*events: Json | bytes) -> bytes:
    texts = [event if isinstance(event, bytes) else json.dumps(event).encode() for event in events]
    return b"".join([b"data: " + text + b"\n\n" for text in texts])


def choice(index: int = 0, finish: Any = "stop", **said: Any) -> Json:
    return {"index": index, "message": {"role": "assistant", "content": "Hi", **said}, "finish_reason": finish}


def chat(*choices: Any, **more: Any) -> Json:
    return {"id": "c", "object": "chat.completion", "choices": list(choices), **more}


def chunk(index: int = 0, finish: Any = None, **said: Any) -> Json:
    return {"object": "chat.completion.chunk", "choices": [{"index": index, "delta": said, "finish_reason": finish}]}
