"""The access record of a call, and the thread that writes it."""

import io
import json
import os
import threading
from dataclasses import asdict, fields
from typing import Any

import pytest

from extproc.call import Call
from extproc.limits.limit import Priority
from extproc.model import Caller, Chain, Demand, Ending, Outcome, PublicModel, Target, Usage, UsageSource
from extproc.surfaces import Face, Place, Surface
from extproc.telemetry.records import RecordWriter, access_record
from tests.support.playbook import LEGACY, ONE, catalogue


def _call(**facts: Any) -> Call:
    call = Call(started=100.0, catalogue=catalogue())
    for name, value in facts.items():
        setattr(call, name, value)
    return call


# ---- the record -------------------------------------------------------------------------------------


def test_a_whole_call_is_recorded_with_all_its_facts() -> None:
    targets = (Target(ONE, "gpt-4o"), Target(LEGACY, "gpt-4o-swe"))
    call = _call(
        request_id="r-1",
        method="POST",
        place=Place(Surface.CHAT, Face.AZURE),
        caller=Caller("key_1", "app"),
        chain=Chain(PublicModel("gpt-4o", (targets,)), targets),
        stream=True,
        first_byte=100.25,
        retries="1",
    )
    usage = Usage(12, 9, cached_input=4, reasoning=2, source=UsageSource.REPORTED)
    outcome = Outcome(Ending.COMPLETE, 200, usage, backend="legacy")
    assert access_record(call, outcome, 1_760_000_000.12345, 1.5) == {
        "time": 1_760_000_000.123,
        "kind": "call",
        "request_id": "r-1",
        "method": "POST",
        "surface": "chat",
        "key": "app",
        "key_id": "key_1",
        "model": "gpt-4o",
        "chain": ["one", "legacy"],
        "backend": "legacy",
        "status": 200,
        "ending": "complete",
        "stream": True,
        "usage": {"input": 12, "output": 9, "cached_input": 4, "reasoning": 2, "source": "reported"},
        "first_byte_ms": 250.0,
        "duration_ms": 1500.0,
        "client_retry": "1",
    }


def test_what_is_not_known_is_left_out() -> None:
    record = access_record(_call(), Outcome(Ending.REFUSED, 404, refusal="unknown_url"), 1.0, 0.001)
    assert record == {
        "time": 1.0,
        "kind": "call",
        "request_id": "",
        "method": "",
        "status": 404,
        "ending": "refused",
        "refusal": "unknown_url",
        "duration_ms": 1.0,
    }


def test_usage_of_nothing_is_told_apart_from_usage_unknown() -> None:
    nothing = Outcome(Ending.COMPLETE, 200, Usage(source=UsageSource.REPORTED))
    assert access_record(_call(), nothing, 1.0, 1.0)["usage"] == {"input": 0, "output": 0, "source": "reported"}
    assert "usage" not in access_record(_call(), Outcome(Ending.COMPLETE, 200), 1.0, 1.0)


def test_what_limits_had_to_do_with_a_call_is_recorded() -> None:
    outcome = Outcome(
        Ending.COMPLETE,
        200,
        limit="company",
        shadows=("calls", "team/search/minute"),
        warnings=(("company", 80), ("team/search/minute", 50)),
        held=Demand(1, 20, 30, 4_000),
        cost=5_000,
        overspent={"output_above_cap": 3},
        overspent_money=1_000,
        output_cap=30,
    )
    record = access_record(_call(priority=Priority.LOW), outcome, 1.0, 1.0)
    told = json.loads(json.dumps(record))
    assert {name: told[name] for name in told.keys() - {"time", "kind", "request_id", "method", "duration_ms"}} == {
        "status": 200,
        "ending": "complete",
        "priority": "low",
        "limit": "company",
        "limits_shadow": ["calls", "team/search/minute"],
        "warnings": {"company": 80, "team/search/minute": 50},
        "held": {"input": 20, "output": 30, "money": 4_000},
        "output_cap": 30,
        "cost": 5_000,
        "currency": "USD",
        "overspent": {"output_above_cap": 3},
        "overspent_money": 1_000,
    }


@pytest.mark.parametrize(
    ("facts", "currency"),
    [
        ({}, None),
        ({"held": Demand(1, 2, 3)}, None),
        ({"held": Demand(1, 2, 3, money=1)}, "USD"),
        ({"cost": 0}, "USD"),
    ],
)
def test_the_currency_is_told_where_there_is_money(facts: dict[str, Any], currency: str | None) -> None:
    record = access_record(_call(), Outcome(Ending.COMPLETE, 200, **facts), 1.0, 1.0)
    assert record.get("currency") == currency
    assert record.get("cost") == facts.get("cost")


def test_every_kind_of_usage_is_recorded() -> None:
    counts: dict[str, Any] = {one.name: number for number, one in enumerate(fields(Usage), 1)}
    usage = Usage(**{**counts, "source": UsageSource.REPORTED, "tier": "flex"})
    record: dict[str, Any] = access_record(_call(), Outcome(Ending.COMPLETE, 200, usage), 1.0, 1.0)
    assert {**record["usage"], "tier": record["service_tier"]} == asdict(usage)


def test_no_secret_and_no_text_of_a_call_is_in_its_record() -> None:
    call = _call(pending=b"canary", query="key=canary", stripped=("canary",))
    assert "canary" not in json.dumps(access_record(call, Outcome(Ending.CUT, 0), 1.0, 1.0))


# ---- the writer -------------------------------------------------------------------------------------


def _lines(out: io.BytesIO) -> list[dict[str, Any]]:
    return [json.loads(line) for line in out.getvalue().splitlines()]


def test_every_record_is_one_line_in_order() -> None:
    out = io.BytesIO()
    writer = RecordWriter(out)
    records = [{"number": number, "text": "a\nb\u2028" * (number % 7)} for number in range(500)]
    for record in records:
        writer.write(record)
    writer.close()
    assert _lines(out) == records
    assert writer.dropped == 0


def test_a_record_larger_than_a_pipe_takes_at_once_is_written_whole() -> None:
    out = io.BytesIO()
    writer = RecordWriter(out)
    records = [{"text": "x" * size} for size in (10, 100_000, 10)]
    for record in records:
        writer.write(record)
    writer.close()
    assert _lines(out) == records


@pytest.mark.parametrize("odd", [object(), "\ud800", 2**80], ids=["object", "surrogate", "huge"])
def test_a_record_that_is_not_json_costs_no_other(odd: object) -> None:
    out = io.BytesIO()
    writer = RecordWriter(out)
    writer.write({"a": 1})
    writer.write({"odd": odd})
    writer.write({"b": 2})
    writer.close()
    assert _lines(out) == [{"a": 1}, {"b": 2}]
    assert writer.dropped == 1


class Stuck(io.RawIOBase):
    """A log that takes nothing until it is let go."""

    def __init__(self) -> None:
        self.reached = threading.Event()
        self.go = threading.Event()
        self.written = b""

    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        self.reached.set()
        self.go.wait()
        self.written += bytes(data)
        return len(data)


def test_a_stuck_log_never_blocks_a_call_and_what_it_cannot_take_is_counted() -> None:
    out = Stuck()
    writer = RecordWriter(out, capacity=10)  # type: ignore[arg-type]
    writer.write({"first": 1})
    assert out.reached.wait(10)  # the thread is stuck in the first record from here on
    for number in range(25):
        writer.write({"number": number})
    assert writer.dropped == 15
    out.go.set()
    writer.close()
    told = [json.loads(line) for line in out.written.splitlines()]
    assert told == [{"first": 1}, *({"number": number} for number in range(10))]


def test_a_log_that_is_gone_is_counted_and_harmless() -> None:
    reading, writing = os.pipe()
    os.close(reading)
    with os.fdopen(writing, "wb", buffering=0) as out:
        writer = RecordWriter(out)
        writer.write({"a": 1})
        writer.close()
    assert writer.dropped == 1
