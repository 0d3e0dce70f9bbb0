"""Reading the smaller APIs of OpenAI: one model, one input."""

import json
from collections.abc import Callable
from typing import Any

import pytest

from extproc.dialects.openai_plain import (
    read_embedding,
    read_generation,
    read_moderation,
    read_rerank,
    read_speech,
)
from extproc.model import Prompt
from extproc.refusals import DUPLICATE_FIELD, INVALID_VALUE, Refused

Reader = Callable[[bytes], Prompt]
ALL = [read_embedding, read_generation, read_moderation, read_rerank, read_speech]


def body(**fields: Any) -> bytes:
    return json.dumps({"model": "m", "input": "x", **fields}).encode()


@pytest.mark.parametrize("read", ALL)
def test_every_reader_finds_the_model_and_keeps_the_body(read: Reader) -> None:
    raw = body()
    prompt = read(raw)
    assert prompt.model == "m"
    assert prompt.model_span is not None
    assert raw[prompt.model_span.start : prompt.model_span.end] == b'"m"'
    assert prompt.body is raw


@pytest.mark.parametrize("read", ALL)
def test_every_reader_refuses_a_doubtful_or_wrong_model(read: Reader) -> None:
    for raw, kind in ((body(model=5), INVALID_VALUE), (body()[:-1] + b',"Model":"x"}', DUPLICATE_FIELD)):
        with pytest.raises(Refused) as caught:
            read(raw)
        assert (caught.value.refusal.kind, caught.value.refusal.param) == (kind, "model")


@pytest.mark.parametrize("read", [read_moderation, read_rerank, read_generation])
def test_a_model_may_be_absent(read: Reader) -> None:
    prompt = read(b'{"input":"x"}')
    assert (prompt.model, prompt.model_span) == (None, None)


@pytest.mark.parametrize(
    ("read", "given", "tokens"),
    [
        (read_embedding, {"input": "fourfour"}, 2),
        (read_embedding, {"input": ["four", "four"]}, 3),
        (read_embedding, {"input": [1, 2, 3]}, 3),
        (read_embedding, {"input": [[1], [2, 3]]}, 3),
        (read_embedding, {"input": []}, 0),
        (read_generation, {"prompt": "fourfour"}, 2),
        (read_generation, {}, 0),
        (read_speech, {"input": "fourfour"}, 2),
        (read_speech, {"input": None}, 0),
        (read_rerank, {"query": "fourfour", "documents": ["x"]}, 1),
    ],
)
def test_the_input_is_estimated(read: Reader, given: dict[str, Any], tokens: int) -> None:
    assert read(body(**given)).estimated_input == tokens


@pytest.mark.parametrize(
    ("read", "given", "param"),
    [
        (read_embedding, {"input": None}, "input"),
        (read_embedding, {"input": 5}, "input"),
        (read_embedding, {"input": {"text": "x"}}, "input"),
        (read_embedding, {"input": [True]}, "input"),
        (read_embedding, {"dimensions": 0}, "dimensions"),
        (read_embedding, {"dimensions": "256"}, "dimensions"),
        (read_generation, {"prompt": ["x"]}, "prompt"),
        (read_generation, {"n": 129}, "n"),
        (read_generation, {"n": -1}, "n"),
        (read_generation, {"stream": "true"}, "stream"),
        (read_speech, {"input": ["x"]}, "input"),
    ],
)
def test_wrong_types_are_refused_by_name(read: Reader, given: dict[str, Any], param: str) -> None:
    with pytest.raises(Refused) as caught:
        read(body(**given))
    assert (caught.value.refusal.kind, caught.value.refusal.param) == (INVALID_VALUE, param)


def test_an_image_may_be_streamed() -> None:
    assert read_generation(body(prompt="x", stream=True)).stream
    assert not read_generation(body(prompt="x")).stream
