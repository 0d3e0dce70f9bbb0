"""The access record: one JSON line per call, written off the event loop.

A full queue drops the line and counts it: a slow log can never delay a paid answer.
"""

import contextlib
import queue
import sys
import threading
from collections.abc import Mapping
from typing import BinaryIO

import orjson

from extproc.call import Call
from extproc.model import Outcome, Usage

_CLOSE_SECONDS = 5.0


def access_record(call: Call, outcome: Outcome, now: float, duration: float) -> dict[str, object]:
    """The record of one call. `now` is Unix time, `duration` seconds; absent facts are left out."""
    record: dict[str, object] = {
        "time": round(now, 3),
        "kind": "call",
        "request_id": call.request_id,
        "method": call.method,
        "surface": call.place.surface.value if call.place else None,
        "key": call.caller.name if call.caller else None,
        "key_id": call.caller.key_id if call.caller else None,
        "model": call.chain.model.name if call.chain else None,
        "chain": [target.backend.name for target in call.chain.targets] if call.chain else None,
        "backend": outcome.backend,
        "status": outcome.status,
        "ending": outcome.ending.value,
        "refusal": outcome.refusal,
        "stream": call.stream or None,
        "usage": _usage(outcome.usage),
        "first_byte_ms": _milliseconds(call.first_byte - call.started) if call.first_byte else None,
        "duration_ms": _milliseconds(duration),
        "client_retry": call.retries or None,
    }
    return {name: value for name, value in record.items() if value is not None}


def _milliseconds(seconds: float) -> float:
    return round(seconds * 1000, 2)


def _usage(usage: Usage) -> dict[str, object] | None:
    counts = {
        "input": usage.input,
        "output": usage.output,
        "cached_input": usage.cached_input,
        "cache_write": usage.cache_write,
        "audio_input": usage.audio_input,
        "audio_output": usage.audio_output,
        "reasoning": usage.reasoning,
        "seconds": usage.seconds,
    }
    told = {name: count for name, count in counts.items() if count or name in ("input", "output")}
    return None if usage.source.value == "none" else {**told, "source": usage.source.value}


class RecordWriter:
    """Writes records as JSON lines from a thread of its own."""

    def __init__(self, out: BinaryIO | None = None, capacity: int = 20_000) -> None:
        self._out = out or sys.stdout.buffer
        self._queue: queue.Queue[Mapping[str, object] | None] = queue.Queue(capacity)
        self.dropped = 0
        self._thread = threading.Thread(target=self._run, name="records", daemon=True)
        self._thread.start()

    def write(self, record: Mapping[str, object]) -> None:
        """Queue a record; never blocks."""
        try:
            self._queue.put_nowait(record)
        except queue.Full:
            self.dropped += 1

    def close(self) -> None:
        """Write what is queued, then stop."""
        with contextlib.suppress(queue.Full):
            self._queue.put(None, timeout=_CLOSE_SECONDS)
        self._thread.join(timeout=_CLOSE_SECONDS)

    def _run(self) -> None:
        while True:
            record = self._queue.get()
            if record is None:
                return
            try:
                self._out.write(orjson.dumps(record) + b"\n")
                if self._queue.empty():
                    self._out.flush()
            except (OSError, ValueError, TypeError):  # closed, full, or not JSON: the next may pass
                self.dropped += 1
