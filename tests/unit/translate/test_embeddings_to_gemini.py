"""Embeddings carried by Gemini."""

import base64
import struct
from typing import Any

import httpx2
import orjson
import pytest
import typing_extensions
from hypothesis import given, settings
from hypothesis import strategies as st
from openai import OpenAI
from openai.types import CreateEmbeddingResponse, EmbeddingCreateParams
from openai.types.create_embedding_response import Usage
from pydantic import TypeAdapter

from extproc.dialects.meters import PlainMeter
from extproc.dialects.translate.direction import Asked
from extproc.dialects.translate.embeddings_to_gemini import EMBEDDINGS_TO_GEMINI
from extproc.model import UsageSource
from tests.unit.translate.gemini_shapes import BatchEmbedContentsRequest, validated

Object = dict[str, Any]
MODEL = "gemini-embedding-001"
BASE: Object = {"model": "m", "input": "A"}

MAPPED = {"input": ["A", "B"], "dimensions": 256}
SILENT = {"model": "another", "user": "u"}
ANSWERED = {"encoding_format": "base64"}
"""Of this the answer is made."""


def sent(request: Object) -> Object:
    assert EMBEDDINGS_TO_GEMINI.refused(request) is None
    TypeAdapter(EmbeddingCreateParams).validate_python(request)
    return validated(EMBEDDINGS_TO_GEMINI.request(request, MODEL), BatchEmbedContentsRequest)


def test_the_table_has_every_field_of_the_sdk_and_no_other() -> None:
    assert {*MAPPED, *SILENT, *ANSWERED} == set(typing_extensions.get_type_hints(EmbeddingCreateParams))


@pytest.mark.parametrize("name", MAPPED)
def test_a_mapped_field_changes_what_is_sent(name: str) -> None:
    assert sent({**BASE, name: MAPPED[name]}) != sent(BASE)


@pytest.mark.parametrize("name", SILENT | ANSWERED)
def test_other_fields_change_nothing(name: str) -> None:
    assert sent({**BASE, name: (SILENT | ANSWERED)[name]}) == sent(BASE)


def test_the_request() -> None:
    assert EMBEDDINGS_TO_GEMINI.path(MODEL, False) == f"/v1beta/models/{MODEL}:batchEmbedContents"
    listed = f"models/{MODEL}"  # as Google's list of models has it
    assert EMBEDDINGS_TO_GEMINI.path(listed, False) == EMBEDDINGS_TO_GEMINI.path(MODEL, False)
    assert EMBEDDINGS_TO_GEMINI.request(BASE, listed) == EMBEDDINGS_TO_GEMINI.request(BASE, MODEL)
    assert sent({"model": "m", "input": ["A", ""], "dimensions": 8}) == {
        "requests": [
            {"model": f"models/{MODEL}", "content": {"parts": [{"text": text}]}, "outputDimensionality": 8}
            for text in ("A", "")
        ]
    }


@pytest.mark.parametrize(
    ("name", "changes"),
    [
        ("input", {"input": None}),
        ("input", {"input": []}),
        ("input", {"input": [1, 2]}),
        ("input", {"input": [[1, 2], [3]]}),
        ("input", {"input": ["A", 1]}),
        ("input", {"input": ["A"] * 101}),
        ("encoding_format", {"encoding_format": "int8"}),
        ("task_type", {"task_type": "RETRIEVAL_QUERY"}),
    ],
)
def test_what_cannot_be_said_is_named(name: str, changes: Object) -> None:
    refused = EMBEDDINGS_TO_GEMINI.refused({**BASE, **changes})
    assert refused is not None
    assert refused.name == name


def document(said: object, request: Object = BASE) -> Object:
    translation = EMBEDDINGS_TO_GEMINI.answer(Asked(request, MODEL, 0))
    told: Object = orjson.loads(translation.document(orjson.dumps(said)))
    return told


VECTORS = [[0.5, -1.25], [0.0, 1.0]]
ANSWER = {"embeddings": [{"values": vector} for vector in VECTORS], "usageMetadata": {"promptTokenCount": 9}}


def test_the_answer() -> None:
    told = CreateEmbeddingResponse.model_validate(document(ANSWER))
    assert told.model == MODEL
    assert [(item.index, item.embedding) for item in told.data] == list(enumerate(VECTORS))
    assert told.usage == Usage(prompt_tokens=9, total_tokens=9)


def test_an_answer_in_base64() -> None:
    data = document(ANSWER, {**BASE, "encoding_format": "base64"})["data"]
    assert [list(struct.unpack("<2f", base64.b64decode(item["embedding"]))) for item in data] == VECTORS


def test_the_sdk_reads_what_it_asked_for() -> None:
    asked: list[Object] = []

    def answer(request: httpx2.Request) -> httpx2.Response:
        asked.append(orjson.loads(request.content))
        return httpx2.Response(200, json=document(ANSWER, asked[-1]))

    with httpx2.Client(transport=httpx2.MockTransport(answer)) as transport:
        client = OpenAI(api_key="-", base_url="http://test", http_client=transport)
        by_default = client.embeddings.create(model="m", input=["A", "B"])
        as_floats = client.embeddings.create(model="m", input=["A", "B"], encoding_format="float")
    assert [request.get("encoding_format") for request in asked] == ["base64", "float"]
    for told in (by_default, as_floats):
        assert [list(item.embedding) for item in told.data] == VECTORS


@pytest.mark.parametrize("said", [None, {"promptTokenCount": -1}, {"promptTokenCount": "9"}, 1])
def test_an_answer_without_usage_is_estimated(said: object) -> None:
    told = document({**ANSWER, "usageMetadata": said})
    assert "usage" not in told
    meter = PlainMeter()
    meter.answer(told)
    assert (meter.total(7).input, meter.total(7).source) == (7, UsageSource.ESTIMATED)


@pytest.mark.parametrize(
    "body",
    [
        *(b"", b"[]", b"{}", b'{"embeddings":[]}', b'{"embeddings":[1]}', b'{"embeddings":[{"values":["a"]}]}'),
        *(b'{"embeddings":[{"values":[1e300]}]}', b'{"embeddings":[{"values":{}}]}'),
    ],
)
def test_an_answer_that_is_none_is_an_error(body: bytes) -> None:
    for format_ in ("float", "base64"):
        asked = Asked({**BASE, "encoding_format": format_}, MODEL, 0)
        told = orjson.loads(EMBEDDINGS_TO_GEMINI.answer(asked).document(body))
        assert told["error"]["message"] == "The backend's answer could not be read."


def test_errors_are_told_as_openai_does() -> None:
    translation = EMBEDDINGS_TO_GEMINI.answer(Asked(BASE, MODEL, 0))
    said = {"error": {"code": 429, "message": "Slow down.", "status": "RESOURCE_EXHAUSTED"}}
    told = {"message": "Slow down.", "type": "rate_limit_error", "param": None, "code": "rate_limit_exceeded"}
    assert orjson.loads(translation.error(429, orjson.dumps(said))) == {"error": told}
    assert document(said) == {"error": told}


def test_there_is_no_stream() -> None:
    translation = EMBEDDINGS_TO_GEMINI.answer(Asked(BASE, MODEL, 0))
    assert translation.event(b"data: {}\n\n") + translation.end() == b"data: {}\n\n"


_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.floats(allow_nan=False) | st.text(max_size=3),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["embeddings", "values", "error", "usageMetadata"]), inner, max_size=3)
    ),
    max_leaves=10,
)


@settings(max_examples=60, deadline=None)
@given(_VALUES | st.fixed_dictionaries({"embeddings": st.lists(st.fixed_dictionaries({"values": _VALUES}))}))
def test_no_answer_is_too_strange(said: object) -> None:
    told = document(said)
    assert ("error" in told) != ("data" in told)
