"""Envoy's own records: what is counted of them, and which are worth a line."""

import asyncio
from datetime import datetime
from typing import Any

import grpc
import pytest
from prometheus_client import REGISTRY

from extproc.adapter.access_log import AccessLog
from extproc.contract import ATTEMPT_LOG, DEPLOYED_HEADER, FACTS, LISTENER_LOG
from extproc.ledger.events import read
from extproc.routing.attempt import Attempt, Meaning, cool_down, is_answered, meaning
from extproc.routing.policy import Cooling
from extproc.stores.ledger import AttemptRow, Batch, Event, Told
from extproc.telemetry import metrics
from protos.access_log_pb2 import HTTPAccessLogEntry, StreamAccessLogsMessage
from protos.ext_proc_pb2 import Metadata
from tests.support.playbook import Records

Message = StreamAccessLogsMessage


def _entry(
    status: int = 200, details: str = "via_upstream", cluster: str = "backend_one", **flags: bool
) -> HTTPAccessLogEntry:
    entry = HTTPAccessLogEntry()
    entry.common_properties.upstream_cluster = cluster
    entry.common_properties.start_time.FromMilliseconds(1_760_000_000_123)
    entry.common_properties.duration.FromMicroseconds(1500)
    entry.request.request_id = "r-1"
    entry.response.response_code.value = status
    entry.response.response_code_details = details
    for name in flags:
        setattr(entry.common_properties.response_flags, name, True)
    return entry


def _message(name: str, *entries: HTTPAccessLogEntry) -> Message:
    message = Message(http_logs=Message.HTTPAccessLogEntries(log_entry=entries))
    if name:
        message.identifier.log_name = name
    return message


class Stream:
    """Envoy's end of the stream; `hangs` keeps it open after the last message, as Envoy does."""

    def __init__(self, *messages: Message, hangs: bool = False) -> None:
        self._messages = list(messages)
        self._hangs = hangs
        self.waiting = asyncio.Event()

    async def read(self) -> Any:
        if self._messages:
            return self._messages.pop(0)
        if self._hangs:
            self.waiting.set()
            await asyncio.Event().wait()
        return grpc.aio.EOF


async def _told(name: str, *entries: HTTPAccessLogEntry) -> list[dict[str, Any]]:
    records = Records()
    assert await AccessLog(records).stream(None, Stream(_message(name, *entries))) == b""
    return records


def _count(name: str, **labels: str) -> float:
    metrics.publish()
    return REGISTRY.get_sample_value(name, labels) or 0.0


# ---- attempts ---------------------------------------------------------------------------------------


async def _for_the_ledger(name: str, *entries: HTTPAccessLogEntry) -> list[AttemptRow]:
    """What the ledger makes of what it is told."""
    events: list[tuple[str, bytes]] = []
    log = AccessLog(Records(), tell=lambda event, data: events.append((event, data)))
    await log.stream(None, Stream(_message(name, *entries), _message(name)))
    assert len(events) <= 1, "one event for all of a message"
    batch = read(Event(None, 0, data) for _, data in events)
    assert not batch.odd
    assert {row.event for row in batch.attempts} == {event for event, _ in events}
    return batch.attempts


async def test_the_ledger_is_told_every_attempt_of_a_backend() -> None:
    refused = _entry(429)
    refused.response.response_headers["retry-after"] = "7"
    refused.response.response_headers[DEPLOYED_HEADER] = "gpt-4o-swe"
    broken = _entry(0, cluster="backend_two", upstream_connection_failure=True)
    rows = await _for_the_ledger(ATTEMPT_LOG, refused, broken, _entry(), _entry(cluster="sink"))
    assert [(row.backend, row.status, row.flag) for row in rows] == [
        ("one", 429, None),
        ("two", 0, "upstream_connection_failure"),
        ("one", 200, None),
    ]
    first = rows[0]
    assert (first.request_id, first.retry_after, first.deployed, first.duration_ms) == ("r-1", "7", "gpt-4o-swe", 2)
    assert first.started_at == datetime(2025, 10, 9, 8, 53, 20, 123_000)


@pytest.mark.parametrize(
    ("entry", "left"),
    [
        (_entry(downstream_remote_reset=True), "client"),
        (_entry(downstream_connection_termination=True), "client"),
        (_entry(upstream_remote_reset=True), "upstream"),
        (_entry(details="upstream_reset_after_response_started{reset}"), "upstream"),
        (_entry(500, details="ext_proc_error_gRPC_error_14{}"), "gateway"),
        (_entry(), None),
        (_entry(413, details="request_payload_too_large"), None),
        (_entry(401, details="sluice_missing_api_key"), None),
    ],
)
async def test_the_ledger_is_told_by_whom_a_call_was_broken_off(entry: HTTPAccessLogEntry, left: str | None) -> None:
    events: list[bytes] = []
    log = AccessLog(Records(), tell=lambda _, data: events.append(data))
    await log.stream(None, Stream(_message(LISTENER_LOG, entry)))
    batch = read(Event(None, 0, data) for data in events)
    assert [(row.request_id, row.blame) for row in batch.breaks] == ([] if left is None else [("r-1", left)])
    assert not batch.odd


async def test_a_good_attempt_is_counted_and_not_told() -> None:
    before = _count("sluice_attempts_total", backend="one", status="200")
    assert await _told(ATTEMPT_LOG, _entry()) == []
    assert _count("sluice_attempts_total", backend="one", status="200") == before + 1


async def test_a_failed_attempt_is_told_with_what_the_provider_asked_for() -> None:
    entry = _entry(429)
    entry.response.response_headers["retry-after"] = "3"
    assert await _told(ATTEMPT_LOG, entry) == [
        {
            "kind": "attempt",
            "time": 1_760_000_000.123,
            "request_id": "r-1",
            "status": 429,
            "duration_ms": 1.5,
            "backend": "one",
            "retry_after": "3",
        }
    ]


async def test_an_attempt_without_a_status_is_counted_by_its_flag() -> None:
    before = _count("sluice_attempts_total", backend="one", status="upstream_connection_failure")
    told = await _told(ATTEMPT_LOG, _entry(0, upstream_connection_failure=True))
    assert told[0]["flag"] == "upstream_connection_failure"
    assert _count("sluice_attempts_total", backend="one", status="upstream_connection_failure") == before + 1


async def test_an_attempt_at_a_name_without_an_address_is_no_answer_of_the_provider() -> None:
    before = _count("sluice_attempts_total", backend="one", status="no_healthy_upstream")
    learned: list[Attempt] = []
    log = AccessLog(records := Records(), learned.append)
    await log.stream(None, Stream(_message(ATTEMPT_LOG, _entry(503, cluster="unresolved_one"))))
    assert [(record["backend"], record["flag"], record["status"]) for record in records] == [
        ("one", "no_healthy_upstream", 0)
    ]
    (attempt,) = learned
    assert (attempt.backend, meaning(attempt, 0), is_answered(attempt)) == ("one", Meaning.FAILED, False)
    assert cool_down(attempt, Cooling(), 0) is None
    assert _count("sluice_attempts_total", backend="one", status="no_healthy_upstream") == before + 1


async def test_an_attempt_at_the_addresses_of_a_name_is_one_at_the_backend() -> None:
    assert [record["backend"] for record in await _told(ATTEMPT_LOG, _entry(429, cluster="resolved_one"))] == ["one"]


async def test_an_attempt_at_our_own_sink_is_none() -> None:
    assert await _told(ATTEMPT_LOG, _entry(421, cluster="sink"), _entry(500, cluster="")) == []


# ---- calls ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "entry",
    [_entry(), _entry(500), _entry(404, "sluice_model_not_found"), _entry(200, "direct_response")],
    ids=["good", "provider's error", "our refusal", "health check"],
)
async def test_what_the_calls_own_record_says_is_not_said_again(entry: HTTPAccessLogEntry) -> None:
    assert await _told(LISTENER_LOG, entry) == []


@pytest.mark.parametrize(
    ("entry", "by"),
    [
        (_entry(downstream_connection_termination=True), "client"),
        (_entry(downstream_remote_reset=True), "client"),
        (_entry(0, "sluice_answered", downstream_remote_reset=True), "client"),
        (_entry(upstream_connection_termination=True), "upstream"),
        (_entry(stream_idle_timeout=True), "upstream"),
        (_entry(200, "stream_idle_timeout", stream_idle_timeout=True), "upstream"),
    ],
)
async def test_an_answer_that_broke_off_is_told_with_who_left(entry: HTTPAccessLogEntry, by: str) -> None:
    before = _count("sluice_broken_calls_total", by=by)
    told = await _told(LISTENER_LOG, entry)
    assert [record["kind"] for record in told] == ["listener"]
    assert told[0]["flag"]
    assert _count("sluice_broken_calls_total", by=by) == before + 1


async def test_an_upload_that_stopped_is_not_the_backends() -> None:
    before = _count("sluice_broken_calls_total", by="upstream")
    await _told(LISTENER_LOG, _entry(408, "stream_idle_timeout", stream_idle_timeout=True))
    assert _count("sluice_broken_calls_total", by="upstream") == before


async def test_what_envoy_refused_by_itself_is_told_without_the_text_of_the_socket() -> None:
    told = await _told(LISTENER_LOG, _entry(400, "http1.codec_error{canary of a socket}"))
    assert told[0]["details"] == "http1.codec_error"
    assert told[0]["status"] == 400


# ---- calls that their worker left --------------------------------------------------------------------


def _noted(entry: HTTPAccessLogEntry, **notes: str) -> HTTPAccessLogEntry:
    metadata = Metadata()
    fields = metadata.filter_metadata[FACTS].fields
    for name, note in notes.items():
        fields[name].string_value = note
    entry.common_properties.metadata = metadata.SerializeToString()
    return entry


async def _ledger_told(entry: HTTPAccessLogEntry) -> Batch:
    told: list[bytes] = []
    log = AccessLog(Records(), tell=lambda _name, event: told.append(event))
    await log.stream(None, Stream(_message(LISTENER_LOG, entry)))
    return read([Event(None, 0, event) for event in told])


WHO, WHAT = '{"id":"w.1","team":"search"}', '{"model":"m","usage":{"input":7,"source":"estimated"},"cost":9}'
_LEFT = "ext_proc_error_gRPC_error_13{upstream_reset_before_response_started}"


@pytest.mark.parametrize(("tries", "used"), [(0, (0, None, "none")), (1, (7, 9, "estimated"))])
async def test_a_call_whose_worker_left_is_told_to_the_ledger(tries: int, used: tuple[object, ...]) -> None:
    entry = _noted(_entry(503, _LEFT), who=WHO, what=WHAT)
    entry.common_properties.upstream_request_attempt_count = tries
    batch = await _ledger_told(entry)
    (row,) = batch.calls.values()
    assert (row.id, row.told, row.team, row.model, row.status) == ("w.1", Told.ENVOY, "search", "m", 503)
    assert (row.input, row.cost, row.source) == used
    assert [one.blame for one in batch.breaks] == ["gateway"]
    assert not batch.odd


async def test_one_that_was_not_sent_yet_has_nobody_but_its_caller() -> None:
    (row,) = (await _ledger_told(_noted(_entry(503, _LEFT), who=WHO))).calls.values()
    assert (row.team, row.model, row.source) == ("search", "", "none")


async def test_a_call_of_which_no_worker_said_anything_is_no_row() -> None:
    """Whoever has no key could fill the ledger."""
    batch = await _ledger_told(_entry(503, _LEFT))
    assert not batch.calls
    assert len(batch.breaks) == 1


@pytest.mark.parametrize(
    "entry",
    [
        _entry(),
        _entry(503, "sluice_gateway_error"),
        _entry(200, downstream_remote_reset=True),
        _entry(200, upstream_connection_termination=True),
    ],
    ids=["good", "our refusal", "the client left", "the backend left"],
)
async def test_a_call_whose_worker_is_there_is_told_by_that(entry: HTTPAccessLogEntry) -> None:
    assert not (await _ledger_told(_noted(entry, who=WHO, what=WHAT))).calls


# ---- streams ----------------------------------------------------------------------------------------


async def test_only_the_first_message_names_the_log() -> None:
    records = Records()
    await AccessLog(records).stream(
        None, Stream(_message(ATTEMPT_LOG), _message("", _entry(429)), _message("", _entry(503)))
    )
    assert [(record["kind"], record["status"]) for record in records] == [("attempt", 429), ("attempt", 503)]


async def test_records_of_an_unknown_log_are_none_of_ours() -> None:
    assert await _told("another", _entry(500)) == []


async def test_closing_ends_a_stream_that_envoy_keeps_open() -> None:
    records = Records()
    log = AccessLog(records)
    stream = Stream(_message(ATTEMPT_LOG, _entry(429)), hangs=True)
    serving = asyncio.ensure_future(log.stream(None, stream))
    await stream.waiting.wait()
    log.close()
    async with asyncio.timeout(10):
        assert await serving == b""
    assert len(records) == 1


async def test_a_cancelled_stream_leaves_no_reader_behind() -> None:
    log = AccessLog(Records())
    stream = Stream(hangs=True)
    serving = asyncio.ensure_future(log.stream(None, stream))
    await stream.waiting.wait()
    serving.cancel()
    with pytest.raises(asyncio.CancelledError):
        await serving
    await asyncio.sleep(0)
    assert asyncio.all_tasks() == {asyncio.current_task()}
