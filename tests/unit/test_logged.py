"""What Envoy's own log is told of a call, and in which reply: the last one, or as soon as no more can come."""

from dataclasses import replace
from typing import Any, cast

import pytest
from google.protobuf.json_format import MessageToDict

from extproc import contract
from extproc.adapter import codec
from extproc.adapter.external_processor import ExternalProcessor
from extproc.config.access_log import AccessLog
from extproc.dataplane.access_log import json_log
from protos.ext_proc_pb2 import ProcessingResponse
from tests.support.playbook import (
    RESPONSE_TRAILERS,
    FakeEnvoy,
    Policy,
    RequestBody,
    ResponseBody,
    Told,
    answer,
    catalogue,
    local_reply,
    request,
)

CHAT = b'{"model":"gpt-4o","messages":[{"role":"user","content":"canary"}]}'
STREAM = CHAT.replace(b'"model"', b'"stream":true,"model"')
USED = b'{"choices":[],"usage":{"prompt_tokens":3,"completion_tokens":4}}'
PIECE = b'data: {"choices":[{"delta":{"content":"a"}}]}\n\n'
USAGE = b'data: {"choices":[],"usage":{"prompt_tokens":3,"completion_tokens":4}}\n\n'
DONE = b"data: [DONE]\n\n"
ASKED = {"surface": "chat", "key_id": "key_1", "model": "gpt-4o"}
ENDED = {"model": "gpt-4o", "backend": "one", "ending": "complete", "input": 3, "output": 4, "usage": "reported"}


async def replies(*told: Told, logs: bool = True, times: bool = False, hangs: bool = False) -> list[ProcessingResponse]:
    """What a worker answers, reply by reply."""
    changed = replace(catalogue(), logs_calls=logs, tells_times=times)
    envoy = FakeEnvoy([one.message() for one in told])
    await ExternalProcessor(Policy(catalogue=lambda: changed).pipeline).process(None, cast(Any, envoy))
    return [ProcessingResponse.FromString(reply) for reply in envoy.replies]


def facts(reply: ProcessingResponse) -> dict[str, Any]:
    found: dict[str, Any] = MessageToDict(reply.dynamic_metadata).get(contract.LOG, {})
    return found


async def all_facts(*told: Told) -> list[dict[str, Any]]:
    return [facts(reply) for reply in await replies(*told)]


async def test_a_whole_answer_tells_with_its_body() -> None:
    assert await all_facts(request(), RequestBody(CHAT), answer(), ResponseBody(USED)) == [{}, ASKED, {}, ENDED]


async def test_a_stream_tells_with_its_last_event_for_its_client_may_leave_then() -> None:
    head = answer(content_type="text/event-stream")
    pieces = [ResponseBody(data, end=False) for data in (PIECE, USAGE, DONE)]
    told = await all_facts(request(), RequestBody(STREAM), head, *pieces, ResponseBody(b""))
    assert told == [{}, ASKED, {}, {}, {}, ENDED, {}]


async def test_one_that_ends_without_it_tells_at_its_end() -> None:
    head = answer(content_type="text/event-stream")
    told = await all_facts(request(), RequestBody(STREAM), head, ResponseBody(PIECE, end=False), ResponseBody(b""))
    assert [bool(one) for one in told] == [False, True, False, False, True]
    assert told[-1]["usage"] == "estimated"


async def test_of_one_whose_client_leaves_only_what_it_asked_is_told() -> None:
    head = answer(content_type="text/event-stream")
    told = await all_facts(request(), RequestBody(STREAM), head, ResponseBody(PIECE, end=False))
    assert told == [{}, ASKED, {}, {}]


async def test_trailers_end_an_answer_too() -> None:
    head = answer(content_type="text/event-stream")
    told = await all_facts(request(), RequestBody(STREAM), head, ResponseBody(PIECE, end=False), RESPONSE_TRAILERS)
    assert told[-1]["ending"] == "cut"


async def test_an_error_of_the_provider_whose_body_nobody_reads_tells_with_its_head() -> None:
    told = await all_facts(request(), RequestBody(CHAT), answer(status=500))
    assert told == [{}, ASKED, {"model": "gpt-4o", "backend": "one", "ending": "failed"}]


@pytest.mark.parametrize(
    ("told", "known"),
    [
        ((request(authorization=""),), {"surface": "chat", "ending": "refused", "refusal": "missing_api_key"}),
        ((request("/v1/models", "GET", end=True),), {"surface": "models", "key_id": "key_1", "ending": "answered"}),
        ((local_reply(413),), {"surface": "chat", "ending": "refused", "refusal": "request_too_large"}),
        (
            (request(), RequestBody(CHAT), local_reply(503)),
            {**ASKED, "ending": "refused", "refusal": "upstream_unavailable"},
        ),
    ],
)
async def test_an_answer_of_our_own_tells_all(told: tuple[Told, ...], known: dict[str, str]) -> None:
    assert (await all_facts(*told))[-1] == known


async def test_without_a_log_nothing_is_told() -> None:
    told = (request(), RequestBody(CHAT), answer(), ResponseBody(USED))
    off = await replies(*told, logs=False)
    assert [facts(reply) for reply in off] == [{}] * 4
    for reply, with_log in zip(off, await replies(*told), strict=True):
        with_log.dynamic_metadata.fields.pop(contract.LOG, None)
        reply.dynamic_metadata.fields.pop(contract.FACTS, None)  # another's, which says when
        with_log.dynamic_metadata.fields.pop(contract.FACTS, None)
        assert reply == with_log


async def test_a_log_that_fails_costs_no_answer(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fails(*_: object) -> None:
        raise ValueError("secret")

    told = (request(), RequestBody(CHAT), answer(), ResponseBody(USED))
    fine = [reply.WhichOneof("response") for reply in await replies(*told)]
    monkeypatch.setattr("extproc.pipeline.logged.ended", fails)
    broken = await replies(*told)
    assert [reply.WhichOneof("response") for reply in broken] == fine
    assert facts(broken[-1]) == {}
    assert "a call is not logged whole: ValueError" in caplog.text
    assert "secret" not in caplog.text


async def test_times_are_told_where_they_are_wanted() -> None:
    told = (request(), RequestBody(CHAT), answer(), ResponseBody(USED))

    def header(reply: ProcessingResponse) -> list[bytes]:
        options = reply.response_headers.response.header_mutation.set_headers
        return [option.header.raw_value for option in options if option.header.key == "server-timing"]

    assert [header(reply) for reply in await replies(*told)] == [[]] * 4
    (value,) = [value for reply in await replies(*told, times=True) for value in header(reply)]
    names = [part.partition(b";dur=")[0] for part in value.split(b", ")]
    assert names == [b"identify", b"read", b"route", b"reserve", b"forward", b"answer", b"upstream", b"total"]


def test_a_large_amount_stays_whole() -> None:
    parsed = ProcessingResponse.FromString(codec.logged({"cost_nano": 2**53 - 1, "team": "\u00e4"}))
    assert facts(parsed) == {"cost_nano": 2**53 - 1, "team": "\u00e4"}


def test_the_log_has_every_fact_and_no_path() -> None:
    form = json_log(AccessLog()).to_dict()["typedConfig"]["logFormat"]["jsonFormat"]
    assert {name: form[name] for name in contract.LOGGED} == {
        name: f"%DYNAMIC_METADATA({contract.LOG}:{name})%" for name in contract.LOGGED
    }
    assert not [value for value in form.values() if "PATH" in value.upper() or "AUTHORIZATION" in value.upper()]


@pytest.mark.parametrize("to", ["stderr", "access.log", "/var/log/", "", "/var/log/\nx"])
def test_a_log_goes_to_stdout_or_a_file(to: str) -> None:
    with pytest.raises(ValueError, match="stdout"):
        AccessLog.model_validate({"to": to})
