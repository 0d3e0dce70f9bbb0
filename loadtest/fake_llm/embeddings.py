"""Embeddings: unit vectors that depend on nothing but the text and the number of dimensions."""

from array import array
from base64 import b64encode
from functools import lru_cache
from hashlib import shake_256
from math import sqrt

import orjson

from loadtest.fake_llm import turn
from loadtest.fake_llm.answer import Answer, Json
from loadtest.fake_llm.completions import texts
from loadtest.fake_llm.errors import ApiError
from loadtest.fake_llm.inquiry import Inquiry

_DIMENSIONS = 1536


def answer(inquiry: Inquiry) -> Answer:
    """Answer an embeddings call. Raises ApiError as the provider would refuse it."""
    model, given = inquiry.model, inquiry.need("input")
    if not isinstance(given, (str, list)) or not given:
        raise ApiError(400, "'$.input' is invalid.", param="input")
    inputs = texts(given)
    dimensions = inquiry.body.get("dimensions") or _DIMENSIONS
    encoded = inquiry.body.get("encoding_format") == "base64"
    data = [_item(vector(text, dimensions), index, encoded) for index, (text, _) in enumerate(inputs)]
    tokens = turn.scaled(sum(tokens for _, tokens in inputs), inquiry.faults)
    whole: Json = {"object": "list", "data": data, "model": model}
    for reported in turn.reported({"prompt_tokens": tokens, "total_tokens": tokens}, inquiry.faults):
        whole["usage"] = reported
    return Answer(body=orjson.dumps(whole), input_tokens=tokens)


@lru_cache(maxsize=1024)
def vector(text: str, dimensions: int) -> "array[float]":
    """A vector of length 1, of 32-bit floats, made from the hash of a text."""
    numbers = array("h", shake_256(text.encode()).digest(2 * dimensions))
    norm = sqrt(sum(number * number for number in numbers)) or 1.0
    return array("f", [number / norm for number in numbers])


def _item(values: "array[float]", index: int, encoded: bool) -> Json:
    embedding = b64encode(values.tobytes()).decode() if encoded else values.tolist()
    return {"object": "embedding", "index": index, "embedding": embedding}
