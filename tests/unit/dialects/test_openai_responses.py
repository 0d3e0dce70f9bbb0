"""Reading requests of the Responses API: the input, and the stored state that it leans on."""

import json
from typing import Any

import pytest

from extproc.dialects.openai_responses import read_response
from extproc.edits import Span
from extproc.model import StateReference
from extproc.refusals import DUPLICATE_FIELD, INVALID_VALUE, Refused


def body(**fields: Any) -> bytes:
    return json.dumps({"model": "gpt-4o", **fields}).encode()


def state(**fields: Any) -> StateReference | None:
    return read_response(body(**fields)).state


def test_a_request_is_read_with_the_place_of_its_model() -> None:
    raw = body(input="fourfour", stream=True, background=True)
    at = raw.index(b'"gpt-4o"')
    prompt = read_response(raw)
    assert (prompt.body, prompt.model, prompt.stream, prompt.background) == (raw, "gpt-4o", True, True)
    assert prompt.model_span == Span(at, at + 8)


MESSAGE = {"role": "user", "content": "four"}
PARTS = [{"type": "input_text", "text": "four"}, {"type": "input_image", "image_url": "data:"}]


@pytest.mark.parametrize(
    ("given", "tokens"),
    [
        ({"input": "four"}, 1),
        ({"input": None}, 0),
        ({}, 0),
        ({"input": "four", "instructions": "fourfour"}, 4),
        ({"input": [MESSAGE, {"type": "message", **MESSAGE}]}, 13),
        ({"input": [{"role": "user", "content": PARTS}]}, 9),
        ({"input": [{"type": "function_call", "name": "f", "arguments": "{}{}"}]}, 6),
        ({"input": [{"type": "function_call_output", "output": "fourfour"}]}, 6),
        ({"input": [{"type": "function_call_output", "output": [{"type": "input_text", "text": "x"}]}]}, 6),
        ({"input": [{"type": "reasoning", "content": [{"text": 5}], "encrypted_content": "x"}]}, 8),
        ({"input": [{"role": "user", "content": "안녕하세요"}]}, 10),
    ],
)
def test_the_input_is_estimated_from_its_texts(given: dict[str, Any], tokens: int) -> None:
    assert read_response(body(**given)).estimated_input == tokens


REFERENCE = {"type": "item_reference", "id": "rs_1"}
SEALED = {"type": "reasoning", "id": "rs_2", "summary": [], "encrypted_content": "gAAAA"}


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({"input": "x"}, None),
        ({"input": [MESSAGE], "previous_response_id": None, "conversation": None}, None),
        ({"previous_response_id": ""}, None),
        ({"previous_response_id": "resp_1"}, StateReference(("resp_1",))),
        ({"conversation": "conv_1"}, StateReference(("conv_1",))),
        ({"conversation": {"id": "conv_1"}}, StateReference(("conv_1",))),
        ({"conversation": {}}, None),
        ({"input": [REFERENCE, MESSAGE]}, StateReference(("rs_1",))),
        ({"input": [{"id": "msg_1"}]}, StateReference(("msg_1",))),
        ({"input": [{"id": "msg_1", "type": None}]}, StateReference(("msg_1",))),
        ({"input": [{"type": "item_reference"}]}, None),
        ({"input": [{"type": "reasoning", "id": "rs_1", "summary": []}]}, StateReference(("rs_1",))),
        ({"input": [{"type": "reasoning", "summary": []}]}, None),
        ({"input": [SEALED]}, StateReference((), ("gAAAA",))),
        ({"input": [{"type": "compaction", "id": "cmp_1", "encrypted_content": "s"}]}, StateReference((), ("s",))),
        ({"input": [REFERENCE | {"encrypted_content": "s"}]}, StateReference(("rs_1",), ("s",))),
        ({"input": [{"type": "image_generation_call", "id": "ig_1"}]}, StateReference(("ig_1",))),
        ({"input": [{"type": "image_generation_call", "id": "ig_1", "result": "aGk="}]}, None),
        ({"input": [{"type": "message", "id": "msg_1", "role": "assistant", "content": []}]}, None),
        ({"input": [{"id": "msg_1", "role": "assistant", "content": "x"}]}, None),
        ({"input": [{"type": "function_call", "id": "fc_1", "call_id": "c", "arguments": ""}]}, None),
        (
            {"previous_response_id": "resp_1", "conversation": "conv_1", "input": [REFERENCE, SEALED]},
            StateReference(("resp_1", "conv_1", "rs_1"), ("gAAAA",)),
        ),
    ],
)
def test_the_state_that_a_call_leans_on(given: dict[str, Any], expected: StateReference | None) -> None:
    assert state(**given) == expected


@pytest.mark.parametrize(
    ("given", "param"),
    [
        ({"input": 5}, "input"),
        ({"input": {"role": "user"}}, "input"),
        ({"input": ["x"]}, "input"),
        ({"input": [{"role": "user", "content": 5}]}, "content"),
        ({"input": [{"role": "user", "content": ["x"]}]}, "content"),
        ({"input": [{"role": "user", "content": [{"type": "input_text", "text": 5}]}]}, "text"),
        ({"input": [{"type": "item_reference", "id": 5}]}, "id"),
        ({"input": [{"type": "reasoning", "encrypted_content": {}}]}, "encrypted_content"),
        ({"instructions": ["x"]}, "instructions"),
        ({"previous_response_id": 5}, "previous_response_id"),
        ({"conversation": 5}, "conversation"),
        ({"conversation": {"id": 5}}, "id"),
        ({"background": "yes"}, "background"),
        ({"stream": "true"}, "stream"),
        ({"max_output_tokens": -1}, "max_output_tokens"),
        ({"max_output_tokens": "5"}, "max_output_tokens"),
        ({"model": 5}, "model"),
    ],
)
def test_wrong_types_are_refused_by_name(given: dict[str, Any], param: str) -> None:
    with pytest.raises(Refused) as caught:
        read_response(body(**given))
    assert (caught.value.refusal.kind, caught.value.refusal.param) == (INVALID_VALUE, param)


@pytest.mark.parametrize(
    ("more", "param"),
    [
        (b'"previous_response_id":"a","Previous_Response_Id":"b"', "previous_response_id"),
        (b'"input":[{"id":"a","ID":"b"}]', "id"),
        (b'"input":[{"type":"item_reference","type":"message"}]', "type"),
        (b'"conversation":{"id":"a","id":"b"}', "id"),
    ],
)
def test_state_cannot_hide_behind_a_doubtful_key(more: bytes, param: str) -> None:
    with pytest.raises(Refused) as caught:
        read_response(body()[:-1] + b"," + more + b"}")
    assert (caught.value.refusal.kind, caught.value.refusal.param) == (DUPLICATE_FIELD, param)
