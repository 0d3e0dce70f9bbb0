"""From what waits on the usage bus to rows of the ledger. Whatever an event is, it is read: at worst it is an odd row.

| event | becomes |
|---|---|
| {id, kind: call, ...the access record} | the row of the call |
| {id, expired: true, kept: {counter: units}, note} | a row of what stays booked, marked as expired |
| {id, kind: lost, ended, ...a note} | a row of what was known of the call before it was sent, marked as lost |
| {id, kind: attempts, attempts: [...]} | a row for each attempt |
| {id, kind: breaks, breaks: [...]} | a row for each call that broke off, which tells who is to blame; for one whose
  worker had left, the row of the call, too, marked as lost |
| anything else | an odd row, with the event as it came |

One with a readable id and an unreadable fact is both: a row without that fact, and an odd row that names it. What a
note is says extproc/telemetry/note.py.
"""

import hashlib
from collections.abc import Iterable, Iterator, Mapping
from datetime import datetime, timedelta
from typing import Any

import orjson

from extproc import refusals
from extproc.ledger import signs
from extproc.ledger.facts import Facts, moment, packed
from extproc.refusals import Blame
from extproc.stores.counters import call_of
from extproc.stores.ledger import AttemptRow, Batch, BreakRow, CallRow, Event, OddRow, Told

_LONGEST_ODD = 65_536  # characters of an event that are kept
_BLAME = {kind.code: kind.blame for kind in vars(refusals).values() if isinstance(kind, refusals.Kind)}
_NO_CALLS = ("look.", "rebuild.")
"""How ids begin of steps that people took at the counters: one that never came to its end expires like a call."""
_UPSTREAM = frozenset({"failed", "stalled"})  # endings
_VERDICTS = ("redaction", "guardrails", "unscreened", "limits_shadow", "warnings")


class _Unreadable(Exception):
    """Nothing can be made of an event; says why."""


def read(events: Iterable[Event], currency: str = "") -> Batch:
    """The rows of some events. `currency`: of the money that expired holds tell of, and of calls that cost nothing."""
    batch = Batch()
    for event in events:
        odd: list[str] = []
        try:
            _take(batch, _parsed(event.data), event, currency, odd)
        except _Unreadable as why:
            odd = [str(why)]
        if odd:
            batch.odd.append(_odd(event, odd))
    return batch


def refused(event: Event) -> OddRow:
    """Of an event whose row the database does not take."""
    return _odd(event, ["is refused by the database"])


def _parsed(data: bytes) -> dict[str, Any]:
    try:
        found = orjson.loads(data)
    except orjson.JSONDecodeError:
        raise _Unreadable("is not JSON") from None
    if not isinstance(found, dict):
        raise _Unreadable("is not an object")
    return found


def _take(batch: Batch, given: Mapping[str, Any], event: Event, currency: str, odd: list[str]) -> None:
    facts = Facts(given, odd)
    name = facts.text("id", 64)
    if name is None or "id" in odd:
        raise _Unreadable("has no id")
    if name.startswith(_NO_CALLS):
        return
    kind = given.get("kind")
    if given.get("expired") is True:
        batch.add(_expired(name, facts, event, currency))
    elif kind == "call":
        batch.add(_free(_call(name, facts, event), currency))
        batch.signs += signs.of_budgets(facts)
    elif kind == "attempts":
        batch.attempts += [_attempt(name, *part) for part in _parts(given.get("attempts"), odd)]
    elif kind == "lost":
        batch.add(_free(_lost(name, facts, event), currency))
    elif kind == "breaks":
        for part in _parts(given.get("breaks"), odd):
            batch.breaks.append(_break(name, *part))
            if (row := _left(*part)) is not None:
                batch.add(_free(row, currency))
    else:
        raise _Unreadable("is of no known kind")


def _odd(event: Event, reasons: list[str]) -> OddRow:
    text = event.data.decode("utf-8", "replace").replace("\0", "\ufffd")
    digest = hashlib.sha256(event.data).hexdigest()
    return OddRow(digest=digest, came_at=_came(event), reason=", ".join(reasons)[:200], event=text[:_LONGEST_ODD])


def _came(event: Event) -> datetime:
    try:
        return moment(event.at / 1000)
    except ValueError:
        return moment(1e9)  # a bus without a clock must not stop the ledger


# ---- calls ---------------------------------------------------------------------------------------


def _call(name: str, facts: Facts, event: Event) -> CallRow:
    ended = facts.moment("time") or _came(event)
    duration = facts.whole("duration_ms")
    row = CallRow(id=name, told=Told.WORKER, ended_at=ended, duration_ms=duration)
    if duration is not None:
        row.started_at = ended - timedelta(milliseconds=min(duration, 10**10))
    _fill_caller(row, facts)
    _fill_route(row, facts)
    _fill_usage(row, facts.part("usage"))
    _fill_money(row, facts)
    _fill_policies(row, facts)
    _fill_ending(row, facts)
    return row


def _fill_caller(row: CallRow, facts: Facts) -> None:
    row.request_id = facts.text("request_id") or ""
    row.area = facts.text("area", 63) or ""
    row.team = facts.text("team", 63) or ""
    row.tier = facts.text("tier", 63)
    row.user_name = facts.text("user", 320) or ""
    row.service_account = facts.text("service_account")
    row.key_id = facts.text("key_id", 64) or ""
    row.key_name = facts.text("key") or ""
    row.issuer = facts.text("issuer")
    row.environment = facts.text("environment", 63)
    row.session_id = facts.text("session")
    row.turn = facts.whole("turn")
    row.tags = facts.json("caller_tags")
    row.team_tags = facts.json("tags")


def _fill_route(row: CallRow, facts: Facts) -> None:
    row.surface = facts.text("surface", 30)
    row.model = facts.text("model") or ""
    row.asked = facts.text("asked") or row.model or None
    row.deployed = facts.text("deployed")
    row.fallback = facts.text("fallback", 30)
    row.backend = facts.text("backend", 127) or ""
    row.chain = facts.json("chain")
    row.stream = facts.flag("stream")
    row.priority = facts.text("priority", 10)
    row.config = facts.text("config", 64)


def _fill_usage(row: CallRow, usage: Facts) -> None:
    row.source = usage.text("source", 10) or "none"
    row.input, row.output = usage.tokens("input"), usage.tokens("output")
    row.cached_input, row.cache_write = usage.tokens("cached_input"), usage.tokens("cache_write")
    row.audio_input, row.audio_output = usage.tokens("audio_input"), usage.tokens("audio_output")
    row.image_input, row.image_output = usage.tokens("image_input"), usage.tokens("image_output")
    row.other_input, row.other_output = usage.tokens("other_input"), usage.tokens("other_output")
    row.reasoning = usage.tokens("reasoning")
    row.cache_write_1h = usage.tokens("cache_write_1h")
    row.audio_ms = usage.thousandths("seconds")
    row.images, row.hosted_calls = usage.tokens("images"), usage.tokens("hosted_calls")


def _fill_money(row: CallRow, facts: Facts) -> None:
    row.service_tier = facts.text("service_tier", 20)
    row.cost = facts.whole("cost")
    row.currency = facts.text("currency", 16) or ""
    row.price_version = facts.text("price", 64)
    row.aside = facts.whole("aside")
    cache = facts.part("cache")
    row.cache = cache.text("result", 30)
    row.saved = None if cache.flag("shadow") else cache.whole("saved")
    held = facts.part("held")
    row.held_input, row.held_output, row.held_money = held.whole("input"), held.whole("output"), held.whole("money")
    row.overspent = facts.json("overspent")
    row.overspent_money = facts.whole("overspent_money")
    row.output_cap = facts.whole("output_cap")
    row.budgets = facts.json("budgets")
    row.booked = facts.summed_json("booked")


def _free(row: CallRow, currency: str) -> CallRow:
    """What used nothing costs nothing, so that without a cost is only what nobody knows the price of."""
    came_to_nothing = not row.backend or (row.status or 0) >= 400
    if row.cost is None and row.source == "none" and came_to_nothing and currency:
        row.cost, row.currency = 0, currency
    return row


def _fill_policies(row: CallRow, facts: Facts) -> None:
    said = {name: value for name in _VERDICTS if (value := facts.value(name))}
    row.policies = packed(said) if said else None
    found = facts.part("redaction").part("found")
    row.redacted = sum(found.count(entity) for entity in found.names)


def _fill_ending(row: CallRow, facts: Facts) -> None:
    row.status = facts.whole("status")
    row.ending = facts.text("ending", 20)
    row.refusal = facts.text("refusal", 63)
    row.limit_name = facts.text("limit")
    row.stop_reason = facts.text("stop_reason", 30)
    row.blame = facts.text("blame", 20) or _blame(row)
    row.first_byte_ms = facts.whole("first_byte_ms")
    row.first_token_ms = facts.whole("first_token_ms")
    row.stream_ms = facts.whole("stream_ms")
    row.answer_bytes = facts.whole("answer_bytes")
    row.tool_calls = facts.whole("tool_calls")
    row.client_retry = facts.digits("client_retry")


def _blame(row: CallRow) -> str | None:
    """Who made the call fail; None where nobody did, or where only Envoy's own record tells (of one that was cut)."""
    if row.refusal is not None:
        blame = _BLAME.get(row.refusal)
        return None if blame is None else blame.value
    if row.ending in _UPSTREAM:
        return Blame.UPSTREAM.value
    if row.status is None or row.status < 400 or row.ending == "cut":
        return None
    return (Blame.UPSTREAM if row.status >= 500 or row.status == 429 else Blame.CLIENT).value


# ---- calls whose worker died ---------------------------------------------------------------------


def _noted(row: CallRow, note: Facts) -> CallRow:
    """Fill in what is known of a call from before it was sent."""
    row.blame = Blame.GATEWAY.value
    began = note.moment("time") if note.value("time") is not None else None
    if began is not None:
        row.started_at = min(began, row.ended_at)  # of another clock, perhaps
    _fill_caller(row, note)
    _fill_route(row, note)
    _fill_usage(row, note.part("usage"))
    _fill_money(row, note)
    return row


def _lost(name: str, facts: Facts, event: Event) -> CallRow:
    ended = facts.thousands("ended")
    return _noted(CallRow(id=name, told=Told.SPOOL, ended_at=ended or _came(event), ending="lost"), facts)


def _left(_place: int, facts: Facts, began: datetime) -> CallRow | None:
    """Of a call that Envoy ended, as its worker had left; None where the worker had said nothing of it."""
    call = facts.part("call")
    name = call.text("id", 64)
    if name is None:
        return None
    taken = facts.whole("duration_ms") or 0
    ended = began + timedelta(milliseconds=min(taken, 10**10))
    row = _noted(CallRow(id=name, told=Told.ENVOY, ended_at=ended, ending="lost"), call)
    row.started_at, row.duration_ms, row.status = began, taken, call.whole("status")
    return row


def _expired(name: str, facts: Facts, event: Event, currency: str) -> CallRow:
    """What stays booked is what was surely used. Several limits may count the same: the most that any says."""
    row = CallRow(id=call_of(name), told=Told.EXPIRY, ended_at=_came(event), ending="expired")
    if facts.value("note") is not None:
        _noted(row, facts.inner("note"))
    row.source = "estimated"
    kept = facts.part("kept")
    most: dict[str, int] = {}
    for counter in kept.names:
        measure = counter.partition("/")[0]
        most[measure] = max(most.get(measure, 0), kept.count(counter))
    row.output = most.get("output_tokens", 0)
    row.input = max(row.input, most.get("input_tokens", 0), most.get("tokens", 0) - row.output)
    if "money" in most:  # of a limit that is not hard only one unit is held
        row.cost, row.currency = max(row.cost or 0, most["money"]), currency
    return row


# ---- what Envoy told -----------------------------------------------------------------------------


def _parts(given: object, odd: list[str]) -> Iterator[tuple[int, Facts, datetime]]:
    """Those that can be read: where each stands, its facts, and when it began."""
    if not isinstance(given, list):
        raise _Unreadable("tells of nothing")
    for place, one in enumerate(given):
        facts = Facts(one, odd, f"{place}.") if isinstance(one, dict) else None
        began = facts.moment("time") if facts is not None else None
        if facts is None or began is None:
            odd.append(f"part {place}")
        else:
            yield place, facts, began


def _attempt(event: str, place: int, facts: Facts, began: datetime) -> AttemptRow:
    return AttemptRow(
        event=event,
        place=place,
        request_id=facts.text("request_id") or "",
        started_at=began,
        backend=facts.text("backend", 127) or "",
        deployed=facts.text("deployed"),
        status=facts.count("status"),
        flag=facts.text("flag", 63),
        retry_after=facts.text("retry_after", 63),
        host=facts.text("host", 100),
        duration_ms=facts.whole("duration_ms"),
    )


def _break(event: str, place: int, facts: Facts, began: datetime) -> BreakRow:
    request_id, blame = facts.text("request_id") or "", facts.text("left", 20) or ""
    return BreakRow(event=event, place=place, request_id=request_id, started_at=began, blame=blame)
