"""Vectors from a service: what it is asked, and what of its answers is one."""

import math

import orjson
import pytest

from extproc.cache import vectors
from extproc.screening.embedding import ServiceEmbedder
from extproc.screening.services import TIMEOUT, ServiceFailed
from extproc.semantic.embedding import EmbeddingFailed
from tests.support.screened import Answers


def answering(body: bytes) -> Answers:
    return Answers(lambda *_: body)


def told(*numbers: object) -> bytes:
    return orjson.dumps({"object": "list", "data": [{"object": "embedding", "index": 0, "embedding": numbers}]})


async def test_it_is_asked_as_openai_is() -> None:
    services = answering(told(*[1.0] * 16))
    await ServiceEmbedder(services, "vectors", "small").embed("a text", 1.0)
    ((service, path, body),) = services.asked
    assert (service, path) == ("vectors", "/v1/embeddings")
    assert orjson.loads(body) == {"model": "small", "input": "a text", "encoding_format": "float"}


async def test_a_vector_is_as_long_as_one() -> None:
    numbers = [3.0, -4, 0, 1e-3, 2, 1, 0, 5]
    found = vectors.floats(await ServiceEmbedder(answering(told(*numbers)), "v", "m").embed("x", 1.0))
    assert math.hypot(*found) == pytest.approx(1)
    assert found[0] / found[1] == pytest.approx(-0.75)


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"[]",
        b"null",
        b"{}",
        b'{"data":[]}',
        b'{"data":{"embedding":1}}',
        b'{"data":[{"embedding":"AAAA"}]}',
        b'{"data":[{"embedding":null}]}',
        told(),
        told(*[1.0] * 7),
        told(*[1.0] * 4097),
        told(*[0] * 8),
        told(*[1.0] * 7, "x"),
        told(*[1.0] * 7, None),
        told(*[1e308] * 8),
        orjson.dumps({"data": [{"embedding": [1.0] * 8}] * 2}),
    ],
)
async def test_an_answer_that_holds_none(body: bytes) -> None:
    with pytest.raises(EmbeddingFailed) as failed:
        await ServiceEmbedder(answering(body), "v", "m").embed("secret text", 1.0)
    assert "secret" not in str(failed.value)


async def test_a_service_that_fails() -> None:
    def fails(*_: object) -> bytes:
        raise ServiceFailed(TIMEOUT)

    with pytest.raises(EmbeddingFailed, match=TIMEOUT):
        await ServiceEmbedder(Answers(fails), "v", "m").embed("x", 1.0)


async def test_a_text_that_json_cannot_say() -> None:
    with pytest.raises(EmbeddingFailed):
        await ServiceEmbedder(answering(told(*[1.0] * 8)), "v", "m").embed("\ud800", 1.0)
