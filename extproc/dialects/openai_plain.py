"""Requests of OpenAI's smaller APIs: one JSON object with a model and an input."""

from extproc.dialects import fields
from extproc.dialects.json_spans import Shape
from extproc.dialects.openai_chat import input_weight, model_span
from extproc.metering import estimate
from extproc.model import Prompt

EMBEDDING = Shape({"model": None, "input": None, "dimensions": None, "user": None})
GENERATION = Shape({"model": None, "prompt": None, "n": None, "stream": None, "user": None})
SPEECH = Shape({"model": None, "input": None, "voice": None, "instructions": None})
MODERATION = Shape({"model": None, "input": None})
RERANK = Shape({"model": None, "query": None, "documents": None})


def read_embedding(body: bytes) -> Prompt:
    """An embeddings request; `input` is text or tokens, alone or in a list."""
    parsed, spans = fields.parse(body, EMBEDDING)
    fields.required(parsed, "input")
    fields.count(parsed, "dimensions")
    weight = input_weight(parsed.get("input"), "input")
    return Prompt(body, fields.text(parsed, "model"), model_span(spans), estimated_input=estimate.tokens(weight))


def read_generation(body: bytes) -> Prompt:
    """An image generation request."""
    parsed, spans = fields.parse(body, GENERATION)
    fields.count(parsed, "n", most=fields.MAX_CHOICES)
    prompt = fields.text(parsed, "prompt") or ""
    return Prompt(
        body,
        fields.text(parsed, "model"),
        model_span(spans),
        stream=fields.flag(parsed, "stream"),
        estimated_input=estimate.tokens(estimate.weight(prompt)),
    )


def read_speech(body: bytes) -> Prompt:
    """A text-to-speech request."""
    parsed, spans = fields.parse(body, SPEECH)
    spoken = fields.text(parsed, "input") or ""
    return Prompt(
        body,
        fields.text(parsed, "model"),
        model_span(spans),
        estimated_input=estimate.tokens(estimate.weight(spoken)),
    )


def read_moderation(body: bytes) -> Prompt:
    """A moderation request; `model` may be absent."""
    parsed, spans = fields.parse(body, MODERATION)
    return Prompt(body, fields.text(parsed, "model"), model_span(spans))


def read_rerank(body: bytes) -> Prompt:
    """A rerank request, in the form that Cohere, Jina and vLLM share."""
    parsed, spans = fields.parse(body, RERANK)
    return Prompt(body, fields.text(parsed, "model"), model_span(spans))
