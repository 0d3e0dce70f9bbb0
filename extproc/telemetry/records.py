"""The access record: one JSON line per call, written off the event loop.

A full queue drops the line and counts it: a slow log can never delay a paid answer.
"""

import sys
import threading
from collections import deque
from collections.abc import Mapping, Sequence
from select import PIPE_BUF
from typing import BinaryIO

import orjson

from extproc.cache.lookup import Lookup
from extproc.call import Call
from extproc.guardrails.verdict import Verdict
from extproc.limits.hold import Stake
from extproc.limits.limit import Measure, Priority
from extproc.model import Caller, Outcome, Usage, UsageSource
from extproc.stores.counters import Draw, Reading
from extproc.telemetry import passed
from extproc.traceparent import Context

_CLOSE_SECONDS = 5.0
_PERIOD = 0.05  # seconds
_MOST_BUDGETS = 8  # of one call that are told: a record is to fit into one write
_COUNTED = (
    *("cached_input", "cache_write", "audio_input", "audio_output", "image_input", "image_output", "reasoning"),
    *("cache_write_1h", "other_input", "other_output"),
    *("seconds", "images", "hosted_calls"),
)


def access_record(
    call: Call, outcome: Outcome, now: float, duration: float, settled: Sequence[Draw] = ()
) -> dict[str, object]:
    """The record of one call. `now` is Unix time, `duration` seconds; absent facts are left out.

    `settled`: what is booked in place of its hold.
    """
    record: dict[str, object] = {
        "time": round(now, 3),
        "kind": "call",
        "request_id": call.request_id,
        **(_trace(call.trace) if call.trace else {}),
        "method": call.method,
        "surface": call.place.surface.value if call.place else None,
        **(_caller(call.caller) if call.caller else {}),
        "model": call.model,
        "asked": call.named.name if call.named and call.named.name != call.model else None,
        "fallback": call.fallback,
        "chain": [target.backend.name for target in call.chain.targets] if call.chain else None,
        "backend": outcome.backend,
        "deployed": outcome.deployed,
        "session": call.session,
        "turn": call.turn,
        "caller_tags": call.tags or None,
        "status": outcome.status,
        "ending": outcome.ending.value,
        "refusal": outcome.refusal,
        "stop_reason": outcome.stop_reason,
        "tool_calls": outcome.tool_calls,
        "stream": call.stream or None,
        "usage": usage_record(outcome.usage),
        "service_tier": outcome.usage.tier or None,
        **_limits(call, outcome, settled),
        "budgets": _budgets(call, settled) if call.stood else None,
        **_inspection(call),
        "aside": call.inspection.aside or None,
        "cache": _cache(call.lookup),
        **_times(call, duration),
        "answer_bytes": call.answer_bytes or None,
        "client_retry": call.retries or None,
        "config": call.catalogue.revision or None,
    }
    return {name: value for name, value in record.items() if value is not None}


def _trace(context: Context) -> dict[str, object]:
    """Where it is, or would be: nobody else has the id of one that begins here and is not sampled."""
    if not context.sampled:
        return {"trace_id": context.trace} if context.is_of_others else {}
    return {"trace_id": context.trace, "span_id": context.span}


def _caller(caller: Caller) -> dict[str, object]:
    team = caller.team
    return {
        "key": caller.name,
        "key_id": caller.key_id,
        "issuer": caller.issuer,
        "user": caller.user,
        "service_account": caller.service_account,
        "team": team.name if team else None,
        "area": team.area if team else None,
        "tier": team.tier if team else None,
        "tags": team.tags if team and team.tags else None,
        "environment": caller.environment,
    }


def _limits(call: Call, outcome: Outcome, settled: Sequence[Draw]) -> dict[str, object]:
    """What the call reserved and cost, and which limits had a say. Money is in nano-units."""
    held = outcome.held
    counts_money = outcome.cost is not None or (held is not None and held.money)
    return {
        "priority": call.priority.value if call.priority is not Priority.HIGH else None,
        "limit": outcome.limit,
        "limits_shadow": outcome.shadows or None,
        "warnings": dict(outcome.warnings) or None,
        "passed": passed.budgets(call, outcome, settled) or None,
        "held": {"input": held.input, "output": held.output, "money": held.money} if held else None,
        "output_cap": outcome.output_cap,
        "cost": outcome.cost,
        "price": outcome.price_version or None,
        "currency": call.catalogue.currency if counts_money else None,
        "overspent": outcome.overspent or None,
        "overspent_money": outcome.overspent_money or None,
    }


def _budgets(call: Call, settled: Sequence[Draw]) -> list[dict[str, object]]:
    """How each limit stood before the call, and what the call took and used; of many the tightest."""
    stood, booked = call.stood, {draw.counter.key: draw.units for draw in settled}
    if len(stood) > _MOST_BUDGETS:
        stood = tuple(sorted(stood, key=_left)[:_MOST_BUDGETS])
    return [_budget(stake, reading, booked, call.stood_at) for stake, reading in stood]


def _left(stood: tuple[Stake, Reading]) -> tuple[bool, int]:
    """One that refuses comes first, then the one with the smallest part of its capacity left."""
    stake, reading = stood
    counter = stake.draw.counter
    return reading.wait == 0, (counter.capacity - reading.used) * 1_000_000 // (counter.capacity or 1)


def _budget(stake: Stake, reading: Reading, booked: Mapping[str, int], now: int) -> dict[str, object]:
    """`reading` is of after the reserve, where that was granted."""
    counter, units = stake.draw.counter, stake.draw.units
    is_held = counter.key in booked
    told: dict[str, object] = {
        "limit": stake.limit.title,
        "measure": stake.limit.measure.value,
        "amount": counter.capacity,
        "before": reading.used - units if is_held else reading.used,
        "wanted": units,
    }
    if is_held:  # of open calls nothing stays
        told["used"] = booked[counter.key] if stake.limit.measure is not Measure.CONCURRENT else 0
    if reading.reset:
        told["until"] = (now + reading.reset + 500) // 1000  # to the second: the store has a clock of its own
    return told


def _times(call: Call, duration: float) -> dict[str, object]:
    """In milliseconds since the call began; `stream_ms`: from the first piece of a stream to the end of the call."""
    streamed = call.stream and call.heard is not None
    return {
        "first_byte_ms": _milliseconds(call.first_byte - call.started) if call.first_byte else None,
        "first_token_ms": _milliseconds(call.first_token - call.started) if call.first_token else None,
        "stream_ms": _milliseconds(call.started + duration - (call.heard or 0.0)) if streamed else None,
        "duration_ms": _milliseconds(duration),
    }


def _cache(made: Lookup | None) -> dict[str, object] | None:
    """What the cache had to do with the call. Money is in nano-units."""
    if made is None:
        return None
    told = {
        "result": made.result.value,
        "reason": made.reason or None,
        "shadow": made.in_shadow or None,
        "age": made.age,
        "similarity": made.similarity,
        "saved": made.saved,
        "saved_tokens": made.saved_tokens or None,
    }
    return {name: value for name, value in told.items() if value is not None}


def _inspection(call: Call) -> dict[str, object]:
    """What policies found in the call: types, counts and places, never a value."""
    seen, rules = call.inspection, call.rules
    if rules is None:
        return {}
    redaction = (
        {
            "policy": rules.redaction.policy.name,
            "mode": rules.redaction.policy.mode.value,
            "found": seen.found,
            "places": seen.places,
            "said": seen.said,
            "restored": seen.restored,
            "unrestored": seen.unrestored,
        }
        if rules.redaction
        else {}
    )
    return {
        "redaction": {name: value for name, value in redaction.items() if value} or None,
        "guardrails": [_verdict(verdict) for verdict in seen.verdicts] or None,
        "unscreened": seen.failed or None,
    }


def _verdict(verdict: Verdict) -> dict[str, object]:
    told = {
        "guardrail": verdict.guardrail,
        "rule": verdict.rule,
        "mode": verdict.mode.value,
        "action": verdict.action.value,
        "count": verdict.count,
        "places": verdict.places,
        "score": verdict.score,
    }
    return {name: value for name, value in told.items() if value}


def _milliseconds(seconds: float) -> float:
    return round(seconds * 1000, 2)


def usage_record(usage: Usage) -> dict[str, object] | None:
    """What was used, without the kinds of which nothing was; None where nobody knows."""
    if usage.source is UsageSource.NONE:
        return None
    told: dict[str, object] = {"input": usage.input, "output": usage.output}
    for name in _COUNTED:
        if amount := getattr(usage, name):
            told[name] = amount
    told["source"] = usage.source.value
    return told


class RecordWriter:
    """Writes records as JSON lines from a thread of its own, a batch every twentieth of a second.

    The thread is never woken by a call: handing over each record would cost a call more than writing it.
    A batch goes out in writes of at most a pipe's atomic size, so that the lines of several workers never mix.
    """

    def __init__(self, out: BinaryIO | None = None, capacity: int = 20_000) -> None:
        self._out = out or sys.stdout.buffer
        self._capacity = capacity
        self._pending: deque[Mapping[str, object]] = deque()
        self.dropped = 0
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._run, name="records", daemon=True)
        self._thread.start()

    def write(self, record: Mapping[str, object]) -> None:
        """Queue a record; never blocks."""
        if len(self._pending) < self._capacity:
            self._pending.append(record)
        else:
            self.dropped += 1

    def close(self) -> None:
        """Write what is queued, then stop; a log that does not take it is left behind after five seconds."""
        self._closing.set()
        self._thread.join(timeout=_CLOSE_SECONDS)

    def _run(self) -> None:
        while not self._closing.wait(_PERIOD):
            self._flush()
        self._flush()

    def _flush(self) -> None:
        piece = b""
        while self._pending:
            line = self._line(self._pending.popleft())
            if len(piece) + len(line) > PIPE_BUF:
                self._send(piece)
                piece = b""
            piece += line
        self._send(piece)

    def _line(self, record: Mapping[str, object]) -> bytes:
        try:
            return orjson.dumps(record) + b"\n"
        except TypeError:  # not JSON: a bug, which must not cost the other records
            self.dropped += 1
            return b""

    def _send(self, piece: bytes) -> None:
        try:
            if piece:
                self._out.write(piece)
                self._out.flush()
        except (OSError, ValueError):  # closed or full
            self.dropped += piece.count(b"\n")
