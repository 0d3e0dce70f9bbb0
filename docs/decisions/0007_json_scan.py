"""What reading a JSON request costs, for 0007-json-scan.md: `.venv/bin/python docs/decisions/0007_json_scan.py`."""

# ruff: noqa: T201 - figures are printed
import json
import resource
import time
from collections.abc import Callable

import orjson

from extproc.dialects import json_spans
from extproc.dialects.openai_chat import CHAT, read_chat
from extproc.refusals import Refused


def chat(content: object, **fields: object) -> bytes:
    """A chat request with one message."""
    return json.dumps({"model": "gpt-4o", "messages": [{"role": "user", "content": content}], **fields}).encode()


def bodies() -> dict[str, bytes]:
    """The requests that are measured: usual, large, hostile."""
    image = {"type": "image_url", "image_url": {"url": "data:image/png;base64," + "iVBORw0KGgo" * 700_000}}
    turns = [{"role": "user", "content": "Please look at line 42 again. " * 30}] * 1000
    return {
        "1 kB prompt": chat("word " * 180),
        "agent, 1,000 turns, 0.9 MB": json.dumps({"model": "gpt-4o", "messages": turns}).encode(),
        "image of 7.7 MB as base64": chat([{"type": "text", "text": "What is this?"}, image]),
        "1,000,000 keys nobody reads": chat("x", metadata={}).replace(
            b"{}", b"{" + b",".join(b'"k%d":1' % k for k in range(10**6)) + b"}"
        ),
        "1,000,000 keys at the top": chat("x", **{f"k{k}": 1 for k in range(1_000_000)}),
        "4,000,000 brackets deep": b'{"model":"gpt-4o","x":' + b"[" * 4_000_000,
        "100 deep, closed": chat("x", metadata=None).replace(b"null", b"[" * 100 + b"]" * 100),
        "2,700,000 empty objects": chat("x", metadata=None).replace(b"null", b"[" + b"{}," * 2_700_000 + b"{}]"),
    }


def milliseconds(read: Callable[[bytes], object], body: bytes) -> float:
    """CPU time, the best of up to five runs within about a second."""
    best, spent = float("inf"), 0.0
    for _ in range(5):
        began = time.process_time()
        outcome(read, body)
        took = time.process_time() - began
        best, spent = min(best, took), spent + took
        if spent > 1:
            break
    return best * 1000


def outcome(read: Callable[[bytes], object], body: bytes) -> str:
    """What came of reading a body."""
    try:
        read(body)
    except Refused as refused:
        return f"refused: `{refused.refusal.kind.code}`"
    except ValueError as error:
        return type(error).__name__
    return "read"


def scan(body: bytes) -> object:
    """The part of reading that finds the spans."""
    return json_spans.spans(body, CHAT)


def main() -> None:
    print("| body | size | scan | orjson alone | whole reading | outcome |\n|---|---|---|---|---|---|")
    for name, body in bodies().items():
        times = [f"{milliseconds(read, body):.3f} ms" for read in (scan, orjson.loads, read_chat)]
        print(f"| {name} | {len(body) / 1e6:.3f} MB | {' | '.join(times)} | {outcome(read_chat, body)} |")
    print(f"\npeak memory {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024:.0f} MiB")


if __name__ == "__main__":
    main()
