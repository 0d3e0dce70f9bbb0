"""What Envoy told a worker, as `loadtest.cost` tells it again: complete, and each call different from the others."""

from loadtest import cost, load, recording
from protos.access_log_pb2 import StreamAccessLogsMessage
from protos.ext_proc_pb2 import ProcessingRequest

RECORDED = recording.read()
WHOLE = ["request_headers", "request_body", "response_headers", "response_body"]


def kinds(messages: list[bytes]) -> list[str | None]:
    return [ProcessingRequest.FromString(message).WhichOneof("request") for message in messages]


def test_every_kind_of_call_is_recorded_whole() -> None:
    assert RECORDED.keys() == recording.KINDS.keys()
    assert kinds(RECORDED["json"].call) == kinds(RECORDED["translated"].call) == WHOLE
    for stream in ("sse", "restored"):
        assert kinds(RECORDED[stream].call)[:3] == WHOLE[:3]
        assert len(RECORDED[stream].call) >= load.EVENTS_WITH_TEXT


def test_only_what_is_translated_has_an_attempt() -> None:
    assert {kind: kinds(told.attempt) for kind, told in RECORDED.items()} == {
        "json": [],
        "sse": [],
        "translated": ["request_headers", "request_body"],
        "restored": [],
    }


def test_envoy_told_its_own_records_of_each_call() -> None:
    for told in RECORDED.values():
        logs = [StreamAccessLogsMessage.FromString(message) for message in told.logs]
        assert sorted(log.identifier.log_name for log in logs) == ["attempt", "listener"]
        assert {entry.request.request_id for log in logs for entry in log.http_logs.log_entry} == {told.request_id}


def test_a_recorded_stream_is_told_event_by_event() -> None:
    events = [ProcessingRequest.FromString(message).response_body.body for message in RECORDED["sse"].call[3:]]
    assert all(event.count(b"\n\n") <= 1 for event in events)
    assert b"data: [DONE]" in b"".join(events)


def test_an_answer_that_is_restored_has_placeholders() -> None:
    """That it is written by the provider in pieces is what such a stream costs."""
    said = b"".join(RECORDED["restored"].call)
    assert b"EMAIL_ADDRESS_1" in said
    assert b"PHONE_NUMBER_1" in said


def test_no_two_calls_that_are_told_are_the_same() -> None:
    calls = cost._Calls(RECORDED["json"])
    made = [calls.one() for _ in range(100)]
    assert len({one.request_id for one in made}) == len({one.call[1] for one in made}) == 100
    assert {tuple(map(len, one.call)) for one in made} == {tuple(map(len, RECORDED["json"].call))}
    assert made[0].request_id.encode() in made[0].call[0] + made[0].logs[0]
