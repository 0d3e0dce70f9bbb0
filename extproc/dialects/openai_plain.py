"""Requests of OpenAI's smaller APIs: one JSON object with a model and an input."""

from dataclasses import replace

from extproc.dialects import fields, talks
from extproc.dialects.fields import Object, Spans
from extproc.dialects.inputs import Input
from extproc.dialects.json_spans import Shape
from extproc.dialects.openai_chat import input_texts, model_span
from extproc.model import Cap, Prompt

EMBEDDING = Shape({"model": None, "input": None, "dimensions": None, "user": None})
GENERATION = Shape({"model": None, "prompt": None, "n": None, "stream": None, "user": None})
SPEECH = Shape({"model": None, "input": None, "voice": None, "instructions": None})
MODERATION = Shape({"model": None, "input": None})
RERANK = Shape({"model": None, "query": None, "documents": None})

_NO_OUTPUT = Cap(tokens=0)


def _prompt(body: bytes, parsed: Object, spans: Spans, given: Input, cap: Cap = _NO_OUTPUT, images: int = 0) -> Prompt:
    size, mean = given.size()
    return Prompt(
        body,
        fields.text(parsed, "model"),
        model_span(spans),
        estimated_input=mean,
        input=size,
        cap=cap,
        choices=max(1, images),
        images=images,
        talk=talks.plain(parsed),
    )


def read_embedding(body: bytes) -> Prompt:
    """An embeddings request; `input` is text or tokens, alone or in a list."""
    parsed, spans = fields.parse(body, EMBEDDING)
    fields.required(parsed, "input")
    fields.count(parsed, "dimensions")
    given = Input()
    input_texts(given, parsed.get("input"), "input")
    return _prompt(body, parsed, spans, given)


def read_generation(body: bytes) -> Prompt:
    """An image generation request."""
    parsed, spans = fields.parse(body, GENERATION)
    given = Input()
    given.text(fields.text(parsed, "prompt"))
    images = fields.count(parsed, "n", most=fields.MAX_CHOICES) or 1
    prompt = _prompt(body, parsed, spans, given, Cap(), images)
    return replace(prompt, stream=fields.flag(parsed, "stream"))


def read_speech(body: bytes) -> Prompt:
    """A text-to-speech request."""
    parsed, spans = fields.parse(body, SPEECH)
    given = Input()
    given.text(fields.text(parsed, "input"))
    given.text(parsed.get("instructions"))
    return _prompt(body, parsed, spans, given, Cap())


def read_moderation(body: bytes) -> Prompt:
    """A moderation request; `model` may be absent, `input` is text, a list of it, or a list of parts."""
    parsed, spans = fields.parse(body, MODERATION)
    given = Input()
    given.content(parsed.get("input"))
    return _prompt(body, parsed, spans, given)


def read_rerank(body: bytes) -> Prompt:
    """A rerank request, in the form that Cohere, Jina and vLLM share. The query is read with each document again."""
    parsed, spans = fields.parse(body, RERANK)
    given = Input()
    documents = parsed.get("documents")
    query = parsed.get("query")
    given.content(documents)
    if isinstance(query, str):
        given.repeated(query, len(documents) if isinstance(documents, list) else 1)
    else:
        given.text(query)
    return _prompt(body, parsed, spans, given)
