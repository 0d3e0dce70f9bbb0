"""What a worker leaves word of while a call runs: where, when, and nothing that the caller said."""

import json
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from extproc.adapter import codec
from extproc.adapter.external_processor import ExternalProcessor
from extproc.contract import FACTS
from extproc.telemetry import note
from protos.ext_proc_pb2 import ProcessingResponse
from tests.support.playbook import FakeEnvoy, Policy, RequestBody, Told, answer, request

CHAT = b'{"model":"gpt-4o","messages":[{"role":"user","content":"canary text"}]}'
FORM_HEAD = request("/v1/audio/transcriptions", content_type="multipart/form-data; boundary=B")
FORM = (
    b'--B\r\ncontent-disposition: form-data; name="model"\r\n\r\nwhisper-1\r\n'
    b'--B\r\ncontent-disposition: form-data; name="file"; filename="a"\r\n\r\ncanary\r\n--B--\r\n'
)

Notes = dict[str, Any]


async def noted(policy: Policy, *events: Told) -> list[Notes]:
    """What each reply tells Envoy."""
    envoy = FakeEnvoy([one.message() for one in events])
    await ExternalProcessor(policy.pipeline).process(None, envoy)
    replies = [ProcessingResponse.FromString(reply) for reply in envoy.replies]
    found = [reply.dynamic_metadata.fields[FACTS].struct_value.fields for reply in replies]
    return [{name: json.loads(value.string_value) for name, value in fields.items()} for fields in found]


async def test_the_caller_is_told_first_and_then_what_is_sent() -> None:
    policy = Policy()
    head, body, *rest = await noted(policy, request(), RequestBody(CHAT), answer())
    assert list(head) == ["who"]
    assert list(body) == ["what"]
    who, what = head["who"], body["what"]
    assert (who["request_id"], who["key_id"], who["key"], who["surface"]) == ("r-1", "key_1", "app", "chat")
    assert (what["model"], what["usage"]["source"]) == ("gpt-4o", "estimated")
    assert what["usage"]["input"] > 0
    assert rest == [{}] * len(rest)
    assert policy.holds.noted == {who["id"]: {**who, **what}}
    assert json.loads(policy.holds.told[0][1])["id"] == policy.holds.told[0][0] == who["id"]


async def test_where_the_head_is_answered_late_all_is_told_with_it() -> None:
    policy = Policy()
    route, *rest = await noted(policy, FORM_HEAD, RequestBody(FORM))
    assert list(route) == ["what"]
    assert (route["what"]["key_id"], route["what"]["model"]) == ("key_1", "whisper-1")
    assert rest == [{}] * len(rest)
    assert list(policy.holds.noted.values()) == [route["what"]]


@pytest.mark.parametrize("events", [(request(authorization=""),), (request(), RequestBody(b"{}"))])
async def test_of_what_is_not_sent_nothing_is_left(events: Sequence[Told]) -> None:
    policy = Policy()
    assert "what" not in {name for told in await noted(policy, *events) for name in told}
    assert policy.holds.noted == {}


async def test_no_text_of_the_call_is_in_it() -> None:
    for events in ((request(), RequestBody(CHAT)), (FORM_HEAD, RequestBody(FORM))):
        policy = Policy()
        told = [await noted(policy, *events), policy.holds.noted]
        assert "canary" not in json.dumps(told)


async def test_what_a_client_can_choose_is_short() -> None:
    policy = Policy()
    await noted(policy, request(x_request_id="x" * 10_000), RequestBody(CHAT))
    (left,) = policy.holds.noted.values()
    assert len(json.dumps(left)) < 1_000


@given(st.text(max_size=2_000))
def test_a_note_is_what_protobuf_makes_of_it(text: str) -> None:
    reply = ProcessingResponse()
    if text:
        reply.dynamic_metadata.fields[FACTS].struct_value.fields["who"].string_value = text
    assert codec.noted("who", text.encode()) == reply.SerializeToString()


@given(*[st.dictionaries(st.text(), st.integers(), max_size=3)] * 2)
def test_two_that_are_joined_are_one(first: dict[str, int], second: dict[str, int]) -> None:
    parts = [json.dumps(one).encode() if one else b"" for one in (first, second)]
    assert json.loads(note.joined(*parts) or b"{}") == {**first, **second}
