"""From events to rows: whatever an event is, nothing of it is lost."""

from datetime import datetime
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from extproc import refusals
from extproc.ledger.events import read
from extproc.ledger.facts import MOST
from extproc.limits import booking
from extproc.stores.ledger import Batch, CallRow, Event, Told
from tests.support.ledger import AT, attempts, breaks, call, event, expired
from tests.unit.test_docs import fullest_record


def row_of(given: Event, currency: str = "") -> CallRow:
    batch = read([given], currency)
    assert not batch.odd
    (row,) = batch.calls.values()
    return row


def reasons(batch: Batch) -> list[str]:
    return [row.reason for row in batch.odd]


# ---- calls -----------------------------------------------------------------------------------------


def test_a_call_is_a_row_with_its_facts() -> None:
    row = row_of(call())
    assert row.id == "w.1"
    assert row.told == Told.WORKER
    assert (row.ended_at, row.started_at) == (
        datetime(2026, 1, 31, 12),
        datetime(2026, 1, 31, 11, 59, 58, 500_000),
    )
    assert (row.area, row.team, row.user_name, row.key_id, row.key_name) == (
        *("shop", "search", "ann@example.com", "key_1"),
        "app",
    )
    assert (row.model, row.asked, row.backend, row.chain) == ("gpt-4o", "gpt-4o", "two", '["one","two"]')
    assert (row.input, row.output, row.cached_input, row.source) == (12, 9, 4, "reported")
    assert (row.cost, row.currency) == (5_000, "USD")
    assert (row.duration_ms, row.first_byte_ms) == (1_500, 100)
    assert row.stream
    assert row.blame is None


def test_every_fact_of_the_fullest_record_has_its_place() -> None:
    """What a record tells and the ledger does not know would be lost for ever."""
    record = fullest_record()
    row = row_of(event({"id": "w.1", **record, "time": AT / 1000}))
    assert row.asked == "other"
    assert (row.service_account, row.issuer, row.environment, row.tier) == ("ci", "entra", "test", "standard")
    assert (row.fallback, row.priority, row.client_retry, row.config) == ("context_window", "low", 1, "r")
    assert (row.limit_name, row.refusal, row.output_cap, row.aside) == ("l", "x", 1, 1)
    assert (row.held_input, row.held_output, row.held_money, row.overspent_money) == (0, 0, 1, 1)
    assert (row.deployed, row.price_version, row.service_tier) == ("gpt-4o", "2026-01", "priority")
    assert (row.stop_reason, row.tool_calls, row.answer_bytes) == ("stop", 1, 1)
    assert (row.first_token_ms, row.stream_ms, row.first_byte_ms) == (1_500, 0, 1_000)
    assert (row.session_id, row.turn, row.tags) == ("s", 1, '{"repository":"sluice"}')
    assert orjson.loads(row.budgets or "") == record["budgets"]
    assert set(record["budgets"][0]) == {"limit", "measure", "amount", "before", "wanted", "used", "until"}
    assert set(record) == _TOLD, "a new fact needs a column, and a place above"
    assert (row.overspent, row.team_tags) == ('{"x":1}', '{"cost":"1"}')
    said = orjson.loads(row.policies or "")
    assert set(said) == {"redaction", "guardrails", "unscreened", "limits_shadow", "warnings"}
    assert all(said.values())
    usage = record["usage"]
    tokens = {name: getattr(row, name) for name in usage if name not in ("source", "seconds")}
    assert tokens == {name: usage[name] for name in tokens}
    assert row.audio_ms == 1_000


_TOLD = {
    *("time", "kind", "request_id", "method", "surface"),  # the method is the surface's
    "passed",  # becomes alerts
    *("trace_id", "span_id"),  # a span tells whose it is, by its request_id
    *("key", "key_id", "issuer", "user", "service_account", "team", "area", "tier", "tags", "environment"),
    *("model", "asked", "fallback", "chain", "backend", "deployed", "session", "turn", "caller_tags"),
    *("status", "ending", "refusal", "stop_reason", "tool_calls", "stream", "usage", "service_tier"),
    *("priority", "limit", "limits_shadow", "warnings", "held", "output_cap", "cost", "price", "currency"),
    *("passed",),  # of which alerts are made
    *("overspent", "overspent_money", "budgets", "redaction", "guardrails", "unscreened", "aside", "cache"),
    *("first_byte_ms", "first_token_ms", "stream_ms", "duration_ms", "answer_bytes", "client_retry", "config"),
}
"""What a record can hold."""


def test_redacted_values_are_counted() -> None:
    row = row_of(call(redaction={"policy": "default", "mode": "enforce", "found": {"EMAIL": 2, "IBAN": 1}}))
    assert row.redacted == 3


@pytest.mark.parametrize(
    ("facts", "blame"),
    [
        ({}, None),
        ({"refusal": "rate_limit_exceeded", "status": 429, "ending": "refused"}, "client"),
        ({"refusal": "upstream_unavailable", "status": 503, "ending": "refused"}, "upstream"),
        ({"refusal": "gateway_error", "status": 500, "ending": "refused"}, "gateway"),
        ({"refusal": "of another version", "status": 418, "ending": "refused"}, None),
        ({"ending": "stalled"}, "upstream"),
        ({"ending": "failed"}, "upstream"),
        ({"ending": "cut"}, None),
        ({"status": 400}, "client"),
        ({"status": 429}, "upstream"),
        ({"status": 502}, "upstream"),
        ({"status": 502, "blame": "client"}, "client"),
    ],
)
def test_who_is_to_blame(facts: dict[str, Any], blame: str | None) -> None:
    assert row_of(call(**facts)).blame == blame


def test_every_refusal_has_somebody_to_blame() -> None:
    kinds = [value for value in vars(refusals).values() if isinstance(value, refusals.Kind)]
    assert [row_of(call(refusal=kind.code, status=kind.status)).blame for kind in kinds] == [
        kind.blame.value for kind in kinds
    ]


# ---- holds that expired ----------------------------------------------------------------------------


def test_an_expired_hold_is_what_stays_booked_and_marked() -> None:
    row = row_of(expired(money=70, tokens=15, input_tokens=11, requests=1, concurrent=0), "CHF")
    assert (row.told, row.ending, row.source) == (Told.EXPIRY, "expired", "estimated")
    assert (row.cost, row.currency, row.input, row.output) == (70, "CHF", 15, 0)
    assert row.ended_at == datetime(2026, 1, 31, 12)


def test_of_several_limits_that_count_the_same_the_most_counts() -> None:
    kept = {"money/a": 5, "money/b": 7, "output_tokens/a": 3, "tokens/a": 10}
    row = row_of(event({"id": "w.1", "expired": True, "kept": kept}))
    assert (row.cost, row.input, row.output) == (7, 7, 3)


def test_an_expired_hold_without_money_has_no_cost() -> None:
    assert row_of(expired(requests=1), "CHF").cost is None


# ---- calls whose worker died -----------------------------------------------------------------------

NOTE: dict[str, Any] = {
    **{"id": "w.1", "time": AT / 1000 - 2, "request_id": "r-1", "surface": "chat", "key_id": "key_1", "key": "app"},
    **{"user": "ann@example.com", "team": "search", "area": "shop", "environment": "test", "model": "gpt-4o"},
    **{"stream": True, "session": "s", "turn": 2, "config": "r", "cost": 21, "currency": "USD"},
    "usage": {"input": 7, "source": "estimated"},
}


def is_noted(row: CallRow) -> bool:
    """Whether a row has all that a note tells."""
    caller = (row.request_id, row.key_id, row.key_name, row.user_name, row.team, row.area, row.environment)
    sent = (row.surface, row.model, row.asked, row.stream, row.session_id, row.turn, row.config)
    return (caller, sent) == (
        ("r-1", "key_1", "app", "ann@example.com", "search", "shop", "test"),
        ("chat", "gpt-4o", "gpt-4o", True, "s", 2, "r"),
    )


def test_a_lost_call_is_what_was_known_before_it_was_sent() -> None:
    row = row_of(event({"kind": "lost", "ended": AT - 500, **NOTE}, at=AT + 10**8))
    assert (row.id, row.told, row.ending, row.blame, row.status) == ("w.1", Told.SPOOL, "lost", "gateway", None)
    assert is_noted(row)
    assert (row.input, row.output, row.source, row.cost, row.currency) == (7, 0, "estimated", 21, "USD")
    assert row.started_at == datetime(2026, 1, 31, 11, 59, 58)
    assert row.ended_at == datetime(2026, 1, 31, 11, 59, 59, 500_000)


@pytest.mark.parametrize("step", [-3_600, 3_600, -(10**9), 10**9])
def test_whatever_clocks_say_no_call_ends_before_it_began(step: int) -> None:
    """That of its worker, of Envoy, of Redis, of the disk: one of them an hour off, or decades."""
    note = orjson.dumps(NOTE).decode()
    for told in (
        call(time=AT / 1000 + step),
        event({"kind": "lost", "ended": AT + step * 1000, **NOTE}),
        event({"id": "w.1", "expired": True, "kept": {}, "note": note}, at=AT + step * 1000),
        breaks("b.1", {"left": "gateway", "duration_ms": 900, "time": AT / 1000 + step, "call": NOTE}),
    ):
        for row in read([told]).calls.values():
            assert row.started_at is not None
            assert row.started_at <= row.ended_at
            assert 2001 <= row.started_at.year <= row.ended_at.year < 2100


@pytest.mark.parametrize("ended", [None, "noon", -1, 10**15])
def test_a_lost_call_that_ended_nobody_knows_when_is_one_of_when_it_was_told(ended: object) -> None:
    batch = read([event({"kind": "lost", **NOTE} | ({} if ended is None else {"ended": ended}))])
    assert [row.ended_at for row in batch.calls.values()] == [datetime(2026, 1, 31, 12)]
    assert reasons(batch) == ([] if ended is None else ["ended"])


def test_a_call_that_envoy_ended_is_that_and_how_it_ended() -> None:
    batch = read([breaks("b.1", {"left": "gateway", "duration_ms": 900.4, "call": {**NOTE, "status": 503}})])
    (row,) = batch.calls.values()
    assert (row.id, row.told, row.ending, row.blame, row.status) == ("w.1", Told.ENVOY, "lost", "gateway", 503)
    assert is_noted(row)
    assert (row.started_at, row.duration_ms) == (datetime(2026, 1, 31, 11, 59, 58, 500_000), 900)
    assert row.ended_at == datetime(2026, 1, 31, 11, 59, 59, 400_000)
    assert [one.blame for one in batch.breaks] == ["gateway"]
    assert not batch.odd


@pytest.mark.parametrize("call_of", [None, {}, {"id": ""}, "w.1", {"id": 7}, {"team": "search"}])
def test_of_what_no_worker_noted_there_is_no_row(call_of: object) -> None:
    batch = read([breaks("b.1", {"left": "gateway", "call": call_of})])
    assert not batch.calls
    assert len(batch.breaks) == 1


def test_an_expired_hold_has_the_note_that_was_kept_with_it() -> None:
    kept = {"money/a": 5, "tokens/a": 30, "output_tokens/a": 3}
    row = row_of(event({"id": "w.1", "expired": True, "kept": kept, "note": orjson.dumps(NOTE).decode()}), "CHF")
    assert (row.told, row.ending, row.source) == (Told.EXPIRY, "expired", "estimated")
    assert is_noted(row)
    assert (row.input, row.output, row.cost) == (27, 3, 21)


@pytest.mark.parametrize("note", ["{", "[]", 7, "x" * 5_000, "\0"])
def test_a_note_that_nobody_can_read_costs_no_row(note: object) -> None:
    batch = read([event({"id": "w.1", "expired": True, "kept": {"money/a": 5}, "note": note})])
    assert [row.cost for row in batch.calls.values()] == [5]
    assert reasons(batch) == ["note"]


TOLD = (
    event({"kind": "lost", **NOTE}),
    event({"id": "w.1", "expired": True, "kept": {}}),
    breaks("b.1", {"left": "gateway", "call": NOTE}),
    call(),
)


@given(st.permutations(TOLD), st.sets(st.sampled_from(range(4)), min_size=1))
def test_who_knows_most_of_a_call_counts(order: list[Event], there: set[int]) -> None:
    batch = read([one for one in order if TOLD.index(one) in there])
    assert [row.told for row in batch.calls.values()] == [max(there)]


@pytest.mark.parametrize("order", [1, -1])
def test_in_a_batch_the_call_itself_counts_and_not_its_expiry(order: int) -> None:
    batch = read([expired(), call()][::order])
    assert [row.told for row in batch.calls.values()] == [Told.WORKER]


# ---- attempts --------------------------------------------------------------------------------------


def test_an_event_tells_several_attempts() -> None:
    batch = read([attempts("a.1", {}, {"backend": "two", "status": 200, "host": "10.0.0.1:443"})])
    assert not batch.odd
    assert [(row.event, row.place, row.backend, row.status) for row in batch.attempts] == [
        ("a.1", 0, "one", 429),
        ("a.1", 1, "two", 200),
    ]
    assert batch.attempts[1].host == "10.0.0.1:443"


def test_a_broken_attempt_is_odd_and_the_others_are_kept() -> None:
    batch = read([attempts("a.1", {"time": "noon"}, {}), event({"id": "a.2", "kind": "attempts", "attempts": [1, {}]})])
    assert [(row.event, row.place) for row in batch.attempts] == [("a.1", 1)]
    assert reasons(batch) == ["0.time, part 0", "part 0, 1.time, part 1"]


def test_who_broke_a_call_off() -> None:
    batch = read([breaks("b.1", {"left": "client"}, {"left": 7})])
    assert [(row.event, row.place, row.request_id, row.blame) for row in batch.breaks] == [
        ("b.1", 0, "r-1", "client"),
        ("b.1", 1, "r-1", ""),
    ]
    assert reasons(batch) == ["1.left"]


# ---- what is odd -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "is not JSON"),
        (b'{"id": "w.1"', "is not JSON"),
        (b"\xff\x00", "is not JSON"),
        (b"[" * 5_000, "is not JSON"),
        (b"[]", "is not an object"),
        (b"{}", "has no id"),
        (b'{"id": 7, "kind": "call"}', "has no id"),
        (b'{"id": "", "kind": "call"}', "has no id"),
        (b'{"id": "%s", "kind": "call"}' % (b"x" * 65), "has no id"),
        (b'{"id": "w.1", "kind": "other"}', "is of no known kind"),
        (b'{"id": "w.1", "kind": ["call"]}', "is of no known kind"),
        (b'{"id": "w.1", "kind": "breaks"}', "tells of nothing"),
        (b'{"id": "w.1", "kind": "attempts", "attempts": {}}', "tells of nothing"),
    ],
)
def test_what_cannot_be_read_is_kept_as_it_came(data: bytes, reason: str) -> None:
    batch = read([Event(None, AT, data)])
    assert (batch.calls, batch.attempts, batch.breaks) == ({}, [], [])
    (row,) = batch.odd
    assert row.reason == reason
    assert row.event == data.decode("utf-8", "replace").replace("\0", "\ufffd")
    assert row.came_at == datetime(2026, 1, 31, 12)


def test_a_later_hold_of_a_call_that_expires_is_of_that_call() -> None:
    assert list(read([expired("w.1~2", requests=1)]).calls) == ["w.1"]


@pytest.mark.parametrize(
    ("facts", "odd", "name", "left"),
    [
        ({"team": 7}, "team", "team", ""),
        ({"team": "x" * 64}, "team", "team", "x" * 63),
        ({"user": "a\0b"}, "user", "user_name", "a\ufffdb"),
        ({"cost": -1}, "cost", "cost", None),
        ({"cost": MOST + 1}, "cost", "cost", None),
        ({"cost": 2**64 - 1}, "cost", "cost", None),
        ({"cost": True}, "cost", "cost", None),
        ({"cost": "7"}, "cost", "cost", None),
        ({"stream": 1}, "stream", "stream", False),
        ({"usage": [1]}, "usage", "input", 0),
        ({"usage": {"input": "1", "output": 2}}, "usage.input", "output", 2),
        ({"usage": {"input": 10**12 + 1}}, "usage.input", "input", 0),
        ({"usage": {"seconds": 1e300}}, "usage.seconds", "audio_ms", 0),
        ({"client_retry": "one"}, "client_retry", "client_retry", None),
        ({"time": "noon"}, "time", "ended_at", datetime(2026, 1, 31, 12)),
        ({"time": 1e18}, "time", "ended_at", datetime(2026, 1, 31, 12)),
        ({"held": {"money": []}}, "held.money", "held_money", None),
    ],
)
def test_a_fact_that_is_odd_is_left_out_and_the_rest_is_kept(
    facts: dict[str, Any], odd: str, name: str, left: object
) -> None:
    batch = read([call(**facts)])
    assert reasons(batch) == [odd]
    row = batch.calls["w.1"]
    assert getattr(row, name) == left
    assert row.backend == "two"


def test_what_is_nested_too_deep_or_too_long_says_so() -> None:
    text = b'{"id":"w.1","kind":"call","time":%d,"tags":' % (AT // 1000) + b'{"a":' * 400 + b"1" + b"}" * 401
    assert read([Event(None, AT, text)]).calls["w.1"].team_tags == '"too long"'
    assert row_of(call(tags={"a": "x" * 9_000})).team_tags == '"too long"'


@pytest.mark.parametrize(("bookings", "kept"), [(200, 200), (2_000, 0)])
def test_what_sums_are_made_of_is_kept_whole_or_told_as_odd(bookings: int, kept: int) -> None:
    made = [[f"tokens/{number:032x}", f"team/search/limit-{number}", 9, 0, AT, 0] for number in range(bookings)]
    batch = read([call(booked=made)])
    assert len(list(booking.read(batch.calls["w.1"].booked or "[]"))) == kept
    assert reasons(batch) == ([] if kept else ["booked"])


@pytest.mark.parametrize(
    ("facts", "cost"),
    [
        ({"status": 429, "backend": None, "refusal": "budget_exceeded"}, (0, "USD")),
        ({"status": 503}, (0, "USD")),
        ({"backend": None, "surface": "models"}, (0, "USD")),
        ({}, (None, "")),  # something that nobody counts, such as speech
        ({"status": 503, "usage": {"input": 3, "source": "estimated"}}, (None, "")),
    ],
)
def test_what_used_nothing_costs_nothing(facts: dict[str, Any], cost: tuple[int | None, str]) -> None:
    row = row_of(call(**{"usage": None, "cost": None, "currency": None, **facts}), "USD")
    assert (row.cost, row.currency) == cost


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)
_NAMES = [
    *CallRow.__dataclass_fields__,
    *orjson.loads(call().data),
    "held",
    "usage",
    "redaction",
    "kept",
    "attempts",
    "breaks",
]


@given(
    st.dictionaries(st.sampled_from(_NAMES), _JSON),
    st.sampled_from(["call", "attempts", "breaks", None]),
    st.booleans(),
)
def test_whatever_an_event_holds_it_is_read(facts: dict[str, Any], kind: str | None, is_expired: bool) -> None:
    record = {**facts, "id": "w.1", "kind": kind, "expired": is_expired}
    batch = read([event(record)])
    assert len(batch) > 0 or [] in (facts.get("attempts"), facts.get("breaks"))
    for row in batch.calls.values():
        assert all("\0" not in value for value in vars_of(row).values() if isinstance(value, str))
        assert all(abs(value) <= MOST for value in vars_of(row).values() if isinstance(value, int))


@given(st.binary())
def test_whatever_the_bytes_are_nothing_is_lost(data: bytes) -> None:
    assert len(read([Event(None, AT, data)])) == 1


def vars_of(row: CallRow) -> dict[str, Any]:
    return {name: getattr(row, name) for name in row.__dataclass_fields__}
