"""One call of the ledger in words, a line each: who, what, which way, how it ended, what it used, what was said of it.

Whatever a row holds is told: what has another form than this version writes is shown as it stands there.
"""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from extproc.limits import standing
from extproc.refusals import UPSTREAM_RATE_LIMITED, UPSTREAM_UNAVAILABLE
from extproc.stores.ledger import AttemptRow, CallRow, Told

_LEFT_ALONE = {
    UPSTREAM_UNAVAILABLE.code: "no backend was asked: all of this model's had failed, and were left alone just then",
    UPSTREAM_RATE_LIMITED.code: "no backend was asked: all of this model's had asked for a pause",
}
"""By the refusal of a call for which there was no chain."""

Line = tuple[str, str]
"""What it is about, in a word, and what there is to say."""

_MARKS = {
    Told.SPOOL: "its worker never told how it ended, and nothing else did: this is what it was to use",
    Told.EXPIRY: "its worker never told how it ended: what stays of its reservation stands for it",
    Told.ENVOY: "its worker never told how it ended: Envoy did, and what it used is estimated",
}
_TOKENS = {
    "input": "input",
    "cached_input": "cached",
    "cache_write": "written to the cache",
    "cache_write_1h": "of it for an hour",
    "audio_input": "audio in",
    "image_input": "image in",
    "output": "output",
    "reasoning": "reasoning",
    "audio_output": "audio out",
    "image_output": "image out",
    "images": "images made",
    "hosted_calls": "calls of hosted tools",
    "audio_ms": "ms of audio",
}


def lines(row: CallRow, tried: Sequence[AttemptRow]) -> Iterator[Line]:
    """In the order in which things happen."""
    for name, value in (*_who(row), *_what(row), *_policies(row), *_held(row)):
        yield name, value
    for number, one in enumerate(tried, 1):
        yield f"attempt {number}", _attempt(one)
    for name, value in (*_end(row), *_used(row), *_money(row), *_budgets(row)):
        yield name, value


# ---- who and what --------------------------------------------------------------------------------


def _who(row: CallRow) -> Iterator[Line]:
    if row.told in _MARKS:
        yield "marked", _MARKS[Told(row.told)]
    named = (("area", row.area), ("team", row.team), ("user", row.user_name), ("account", row.service_account))
    key = f"{row.key_name} ({row.key_id})" if row.key_id else None
    caller = _listed(*named, ("key", key), ("issuer", row.issuer), ("environment", row.environment))
    if caller:
        yield "caller", caller
    if row.session_id is not None or row.turn is not None:
        yield "session", _joined(row.session_id, None if row.turn is None else f"turn {row.turn}")
    if row.tags is not None:
        tags = _read(row.tags)
        yield "tags", _listed(*tags.items()) if isinstance(tags, dict) else _json(tags)


def _what(row: CallRow) -> Iterator[Line]:
    ended = _moment(row.ended_at)
    yield "time", f"{_moment(row.started_at)} to {ended} UTC" if row.started_at else f"{ended} UTC"
    if row.model or row.surface:
        asked = f"{row.asked}, served by {row.model}" if row.asked not in (None, row.model) else row.model
        why = f" ({row.fallback})" if row.fallback else ""
        where = f" on {row.surface}" if row.surface else ""
        yield "model", f"{asked}{why}{where}{', stream' if row.stream else ''}"
    if row.chain is not None:
        chain = _read(row.chain)
        yield "chain", " > ".join(map(str, chain)) if isinstance(chain, list) else _json(chain)
    if row.config is not None:
        yield "config", row.config


# ---- what policies said --------------------------------------------------------------------------


def _policies(row: CallRow) -> Iterator[Line]:
    said = _read(row.policies) if row.policies else {}
    if not isinstance(said, dict):
        yield "policies", _json(said)
        return
    for name, told in said.items():
        try:
            yield from _POLICIES[name](told)
        except (KeyError, TypeError, AttributeError):  # of another version
            yield name, _json(told)


def _redaction(told: Mapping[str, object]) -> Iterator[Line]:
    facts = [f"{word} {_counts(told[name])}" for name, word in (("found", "found"), ("places", "in")) if name in told]
    facts += [f"answer says {_counts(told['said'])}"] if "said" in told else []
    facts += [f"{told[name]} {name}" for name in ("restored", "unrestored") if name in told]
    yield "redaction", f"{told['policy']} ({told['mode']}): {', '.join(facts) or 'found nothing'}"


def _guardrails(told: Sequence[Mapping[str, object]]) -> Iterator[Line]:
    for one in told:
        rule = f" {one['rule']}" if one.get("rule") else ""
        more = _listed(("count", one.get("count")), ("score", one.get("score")))
        places = one.get("places")
        where = f" in {', '.join(map(str, places))}" if isinstance(places, list) else ""
        yield "guardrail", f"{one['guardrail']}{rule}: {one['action']} ({one['mode']}){where}{', ' * bool(more)}{more}"


def _unscreened(told: Sequence[str]) -> Iterator[Line]:
    yield "unseen", f"could not be looked at: {', '.join(told)}"


def _shadow(told: Sequence[str]) -> Iterator[Line]:
    yield "shadow", f"would have been refused by {', '.join(told)}"


def _warnings(told: Mapping[str, object]) -> Iterator[Line]:
    yield "warning", ", ".join([f"{limit} has passed {percent} %" for limit, percent in told.items()])


_POLICIES: dict[str, Callable[[Any], Iterator[Line]]] = {
    "redaction": _redaction,
    "guardrails": _guardrails,
    "unscreened": _unscreened,
    "limits_shadow": _shadow,
    "warnings": _warnings,
}


def _counts(told: object) -> str:
    if not isinstance(told, dict):
        raise TypeError
    return " ".join([f"{name} {count}" for name, count in told.items()])


# ---- which way, and how it ended -----------------------------------------------------------------


def _held(row: CallRow) -> Iterator[Line]:
    if row.held_input is None:
        return
    held = f"{row.held_input:,} input, {row.held_output or 0:,} output"
    money = f", {_amount(row.held_money, row.currency)}" if row.held_money else ""
    cap = f", output capped at {row.output_cap:,}" if row.output_cap is not None else ""
    yield "held", f"{held}{money}{cap}"


def _attempt(one: AttemptRow) -> str:
    status = str(one.status or one.flag or "no answer")
    took = "" if one.duration_ms is None else f" in {one.duration_ms:,} ms"
    more = _listed(
        ("deployed", one.deployed), ("flag", one.flag if one.status else None), ("retry after", one.retry_after)
    )
    return f"{one.backend}: {status}{took}{', ' * bool(more)}{more}"


def _end(row: CallRow) -> Iterator[Line]:
    status = "" if row.status is None else f"{row.status} "
    parts = (("refusal", row.refusal), ("limit", row.limit_name), ("blame", row.blame), ("backend", row.backend))
    calls = f"{row.tool_calls} calls of tools" if row.tool_calls else None
    more = _joined(_listed(*parts, ("deployed", row.deployed), ("stop reason", row.stop_reason)), calls)
    yield "ended", f"{status}{row.ending or ''}{', ' * bool(more)}{more}"
    if row.chain is None and row.refusal in _LEFT_ALONE:
        yield "why", _LEFT_ALONE[row.refusal]
    times = (
        *(("first byte", row.first_byte_ms), ("first token", row.first_token_ms)),
        *(("stream", row.stream_ms), ("whole", row.duration_ms)),
    )
    told = [f"{name} {value:,} ms" for name, value in times if value is not None]
    size = None if row.answer_bytes is None else f"{row.answer_bytes:,} bytes"
    if told or size:
        yield "took", _joined(*told, size)


# ---- what it used --------------------------------------------------------------------------------


def _used(row: CallRow) -> Iterator[Line]:
    counted = [f"{getattr(row, name):,} {word}" for name, word in _TOKENS.items() if getattr(row, name)]
    if counted or row.source != "none":
        tier = f", in the tier {row.service_tier}" if row.service_tier else ""
        yield "used", f"{', '.join(counted) or 'nothing'} ({row.source}){tier}"
    if row.overspent is not None:
        causes = _read(row.overspent)
        tokens = [f"{count} tokens by {cause}" for cause, count in causes.items()] if isinstance(causes, dict) else []
        yield "above it", ", ".join(tokens) or _json(causes)


def _money(row: CallRow) -> Iterator[Line]:
    if row.cost is not None:
        version = f" by prices {row.price_version}" if row.price_version else ""
        aside = f", {_amount(row.aside, row.currency)} of it for questions about it" if row.aside else ""
        yield "cost", f"{_amount(row.cost, row.currency)}{version}{aside}"
    elif row.source != "none":
        yield "cost", "unknown: its model has no price"
    if row.cache is not None:
        yield "cache", row.cache + (f", {_amount(row.saved, row.currency)} saved" if row.saved else "")


def _budgets(row: CallRow) -> Iterator[Line]:
    stood: Any = _read(row.budgets) if row.budgets else []
    for one in stood if isinstance(stood, list) else [stood]:
        try:
            yield "budget", _budget(one, row.currency)
        except (KeyError, TypeError, AttributeError, ValueError, OverflowError, OSError):  # of another version
            yield "budget", _json(one)


def _budget(told: Mapping[str, Any], currency: str) -> str:
    """`month: 41.20 of 50.00 EUR before, 0.15 wanted, 0.01 used, 41.21 after, until 2026-12-01 00:00:00 UTC`."""
    is_money = told["measure"] == "money"
    before, wanted, used = told["before"], told["wanted"], told.get("used")

    def say(units: int) -> str:
        return standing.amount(units) if is_money else f"{units:,}"

    whole = f"{say(told['amount'])} {currency if is_money else str(told['measure']).replace('_', ' ')}".rstrip()
    facts = [f"{say(before)} of {whole} before", f"{say(wanted)} wanted"]
    facts += ["nothing taken"] if used is None else [f"{say(used)} used", f"{say(before + used)} after"]
    if "until" in told:
        facts.append(f"until {datetime.fromtimestamp(told['until'], UTC):%Y-%m-%d %H:%M:%S} UTC")
    return f"{told['limit']}: {', '.join(facts)}"


# ---- words ---------------------------------------------------------------------------------------


def _listed(*parts: tuple[str, object]) -> str:
    return ", ".join(f"{name} {value}" for name, value in parts if value not in (None, ""))


def _joined(*parts: str | None) -> str:
    return ", ".join(part for part in parts if part)


def _read(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return text


def _json(value: object) -> str:
    return json.dumps(value, ensure_ascii=False)


def _moment(moment: datetime) -> str:
    return moment.isoformat(" ", "milliseconds")


def _amount(nano: int | None, currency: str) -> str:
    return f"{standing.amount(nano or 0)} {currency}".rstrip()
