"""The access record: one JSON line per call, written off the event loop.

A full queue drops the line and counts it: a slow log can never delay a paid answer.
"""

import sys
import threading
from collections import deque
from collections.abc import Mapping
from operator import attrgetter
from select import PIPE_BUF
from typing import BinaryIO

import orjson

from extproc.cache.lookup import Lookup
from extproc.call import Call, Inspection, Rules
from extproc.guardrails.verdict import Verdict
from extproc.limits.hold import Stake
from extproc.limits.limit import Measure, Priority
from extproc.model import Caller, Outcome, Usage, UsageSource
from extproc.stores.counters import Reading
from extproc.telemetry import passed
from extproc.telemetry.standings import NOTHING
from extproc.traceparent import Context

_CLOSE_SECONDS = 5.0
_PERIOD = 0.05  # seconds
_MOST_BUDGETS = 8  # of one call that are told: a record is to fit into one write
_COUNTED = (
    *("cached_input", "cache_write", "audio_input", "audio_output", "image_input", "image_output", "reasoning"),
    *("cache_write_1h", "other_input", "other_output"),
    *("seconds", "images", "hosted_calls"),
)
_amounts = attrgetter(*_COUNTED)


class Record(dict[str, object]):
    """The record of a call. `line`: the same as JSON, once that is made: it goes to the ledger, too."""

    __slots__ = ("line",)
    line: bytes


def access_record(
    call: Call, outcome: Outcome, now: float, duration: float, booked: Mapping[str, int] = NOTHING
) -> Record:
    """The record of one call. `now` is Unix time, `duration` seconds; absent facts are left out.

    `booked`: what it has used, by the keys of its counters.
    """
    record = Record({"time": round(now, 3), "kind": "call", "request_id": call.request_id})
    if call.trace:
        record |= _trace(call.trace)
    record["method"] = call.method
    if call.place:
        record["surface"] = call.place.surface
    if call.caller:
        _add_caller(record, call.caller)
    _add_route(record, call, outcome)
    _add_answer(record, call, outcome)
    _add_limits(record, call, outcome, booked)
    _add_money(record, call, outcome)
    _add_policies(record, call, booked)
    _add_times(record, call, duration)
    if call.answer_bytes:
        record["answer_bytes"] = call.answer_bytes
    if call.retries:
        record["client_retry"] = call.retries
    if call.catalogue.revision:
        record["config"] = call.catalogue.revision
    return record


def _trace(context: Context) -> dict[str, object]:
    """Where it is, or would be: nobody else has the id of one that begins here and is not sampled."""
    if not context.sampled:
        return {"trace_id": context.trace} if context.is_of_others else {}
    return {"trace_id": context.trace, "span_id": context.span}


def _add_caller(record: Record, caller: Caller) -> None:
    record["key"], record["key_id"] = caller.name, caller.key_id
    if caller.issuer is not None:
        record["issuer"] = caller.issuer
    if caller.user is not None:
        record["user"] = caller.user
    if caller.service_account is not None:
        record["service_account"] = caller.service_account
    team = caller.team
    if team:
        record["team"], record["area"] = team.name, team.area
        if team.tier is not None:
            record["tier"] = team.tier
        if team.tags:
            record["tags"] = team.tags
    if caller.environment is not None:
        record["environment"] = caller.environment


def _add_route(record: Record, call: Call, outcome: Outcome) -> None:
    """What it asked for, and who served it."""
    model = call.model
    if model is not None:
        record["model"] = model
    if call.named and call.named.name != model:
        record["asked"] = call.named.name
    if call.fallback is not None:
        record["fallback"] = call.fallback
    if call.chain:
        record["chain"] = [target.backend.name for target in call.chain.targets]
    if outcome.backend is not None:
        record["backend"] = outcome.backend
    if outcome.deployed is not None:
        record["deployed"] = outcome.deployed
    if call.session is not None:
        record["session"] = call.session
    if call.turn is not None:
        record["turn"] = call.turn
    if call.tags:
        record["caller_tags"] = call.tags


def _add_answer(record: Record, call: Call, outcome: Outcome) -> None:
    record["status"], record["ending"] = outcome.status, outcome.ending
    if outcome.refusal is not None:
        record["refusal"] = outcome.refusal
    if outcome.stop_reason is not None:
        record["stop_reason"] = outcome.stop_reason
    if outcome.tool_calls is not None:
        record["tool_calls"] = outcome.tool_calls
    if call.stream:
        record["stream"] = True
    usage = usage_record(outcome.usage)
    if usage is not None:
        record["usage"] = usage
    if outcome.usage.tier:
        record["service_tier"] = outcome.usage.tier


def _add_limits(record: Record, call: Call, outcome: Outcome, booked: Mapping[str, int]) -> None:
    """Which limits had a say."""
    if call.priority is not Priority.HIGH:
        record["priority"] = call.priority
    if outcome.limit is not None:
        record["limit"] = outcome.limit
    if outcome.shadows:
        record["limits_shadow"] = outcome.shadows
    if outcome.warnings:
        record["warnings"] = dict(outcome.warnings)
    if call.stood and (told := passed.budgets(call, outcome, booked)):
        record["passed"] = told


def _add_money(record: Record, call: Call, outcome: Outcome) -> None:
    """What the call reserved and cost, in nano-units where it is money."""
    held = outcome.held
    if held:
        record["held"] = {"input": held.input, "output": held.output, "money": held.money}
    if outcome.output_cap is not None:
        record["output_cap"] = outcome.output_cap
    if outcome.cost is not None:
        record["cost"] = outcome.cost
    if outcome.price_version:
        record["price"] = outcome.price_version
    if outcome.cost is not None or (held is not None and held.money):
        record["currency"] = call.catalogue.currency
    if outcome.overspent:
        record["overspent"] = outcome.overspent
    if outcome.overspent_money:
        record["overspent_money"] = outcome.overspent_money


def _budgets(call: Call, booked: Mapping[str, int]) -> list[dict[str, object]]:
    """How each limit stood before the call, and what the call took and used; of many the tightest."""
    stood = call.stood
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
    limit, (counter, units, _), *_ = stake
    used, reset, *_ = reading
    measure, spent = limit.measure, booked.get(counter.key)
    told: dict[str, object] = {
        "limit": limit.title,
        "measure": measure,
        "amount": counter.capacity,
        "before": used if spent is None else used - units,
        "wanted": units,
    }
    if spent is not None:  # of open calls nothing stays
        told["used"] = spent if measure is not Measure.CONCURRENT else 0
    if reset:
        told["until"] = (now + reset + 500) // 1000  # to the second: the store has a clock of its own
    return told


def _add_policies(record: Record, call: Call, booked: Mapping[str, int]) -> None:
    if call.stood:
        record["budgets"] = _budgets(call, booked)
    if call.rules is not None:
        record |= _inspection(call, call.rules)
    if call.inspection.aside:
        record["aside"] = call.inspection.aside
    if call.lookup is not None:
        record["cache"] = _cache(call.lookup)


def _add_times(record: Record, call: Call, duration: float) -> None:
    """In milliseconds since the call began; `stream_ms`: from the first piece of a stream to the end of the call."""
    began = call.started
    if call.first_byte:
        record["first_byte_ms"] = round((call.first_byte - began) * 1000, 2)
    if call.first_token:
        record["first_token_ms"] = round((call.first_token - began) * 1000, 2)
    if call.stream and call.heard is not None:
        record["stream_ms"] = round((began + duration - call.heard) * 1000, 2)
    record["duration_ms"] = round(duration * 1000, 2)


def _cache(made: Lookup) -> dict[str, object]:
    """What the cache had to do with the call. Money is in nano-units."""
    told: dict[str, object] = {"result": made.result}
    if made.reason:
        told["reason"] = made.reason
    if made.in_shadow:
        told["shadow"] = True
    if made.age is None:
        return told
    more = {
        "age": made.age,
        "similarity": made.similarity,
        "saved": made.saved,
        "saved_tokens": made.saved_tokens or None,
    }
    return told | {name: value for name, value in more.items() if value is not None}


def _inspection(call: Call, rules: Rules) -> dict[str, object]:
    """What policies found in the call: types, counts and places, never a value."""
    seen, told = call.inspection, dict[str, object]()
    if rules.redaction:
        policy = rules.redaction.policy
        told["redaction"] = of_redaction = dict[str, object](policy=policy.name, mode=policy.mode)
        if seen.found or seen.said or seen.restored or seen.unrestored:
            of_redaction |= _of_texts(seen)
    if seen.verdicts:
        told["guardrails"] = [_verdict(verdict) for verdict in seen.verdicts]
    if seen.failed:
        told["unscreened"] = seen.failed
    return told


def _of_texts(seen: Inspection) -> dict[str, object]:
    told: dict[str, object] = {"found": seen.found, "places": seen.places, "said": seen.said}
    told |= {"restored": seen.restored, "unrestored": seen.unrestored}
    return {name: value for name, value in told.items() if value}


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


def usage_record(usage: Usage) -> dict[str, object] | None:
    """What was used, without the kinds of which nothing was; None where nobody knows."""
    if usage.source is UsageSource.NONE:
        return None
    told: dict[str, object] = {"input": usage.input, "output": usage.output}
    amounts = _amounts(usage)
    if any(amounts):
        told |= {name: amount for name, amount in zip(_COUNTED, amounts, strict=True) if amount}
    told["source"] = usage.source
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
            return (record.line if isinstance(record, Record) else orjson.dumps(record)) + b"\n"
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
