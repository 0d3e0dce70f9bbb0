"""OpenAI's embeddings carried by Google's Gemini API, always as a batch.

{requests: [{model: "models/...", content: {parts: [{text}]}, outputDimensionality}]}
{embeddings: [{values: [float]}], usageMetadata?: {promptTokenCount}}
"""

import base64
import struct
from collections.abc import Mapping
from urllib.parse import quote

import orjson

from extproc.dialects.translate import gemini_errors
from extproc.dialects.translate.direction import Asked, Direction, Field, Json
from extproc.dialects.translate.fields import Fields, first_inexpressible

_BATCH = 100
"""The most texts that Gemini embeds at once."""
_MAX = 2**53


def _translate(request: Json, model: str) -> dict[str, object]:
    """The body for the deployed model. Raises `Inexpressible`."""
    fields = Fields(request)
    given = fields.take("input")
    texts = [given] if isinstance(given, str) else given
    if not isinstance(texts, list) or not texts or not all(isinstance(text, str) for text in texts):
        raise fields.cannot("input", "Gemini embeds texts: a string or a list of strings, not tokens.")
    if len(texts) > _BATCH:
        raise fields.cannot("input", f"Gemini embeds at most {_BATCH} texts at once.")
    dimensions = fields.take("dimensions")
    shared = {} if dimensions is None else {"outputDimensionality": dimensions}
    fields.only("encoding_format", "float", "base64")
    fields.besides("model", "user")  # the one is in the path, the other for the provider's own records
    fields.done()
    name = f"models/{model.removeprefix('models/')}"
    return {"requests": [{"model": name, "content": {"parts": [{"text": text}]}, **shared} for text in texts]}


class EmbeddingsAnswer:
    """One answer, in the encoding that the request asks for. Without usage where Gemini tells none."""

    __slots__ = ("_in_base64", "_model")

    def __init__(self, asked: Asked) -> None:
        self._in_base64 = asked.request.get("encoding_format") == "base64"
        self._model = asked.model  # the answer does not name it

    def document(self, body: bytes) -> bytes:
        answer = gemini_errors.load(body)
        if answer is not None and answer.get("error"):
            return orjson.dumps(gemini_errors.openai(answer, 500))
        embeddings = answer.get("embeddings") if answer else None
        try:
            return orjson.dumps(self._list(embeddings if isinstance(embeddings, list) else [], _usage(answer or {})))
        except (TypeError, ValueError, struct.error, OverflowError):
            return orjson.dumps(gemini_errors.UNREADABLE)

    def event(self, event: bytes) -> bytes:
        return event  # there is no stream of embeddings

    def end(self) -> bytes:
        return b""

    def error(self, status: int, body: bytes) -> bytes:
        return orjson.dumps(gemini_errors.openai(gemini_errors.load(body), status))

    def _list(self, embeddings: list[object], usage: dict[str, object]) -> dict[str, object]:
        if not embeddings:
            raise ValueError("no embeddings")
        data = [
            {"object": "embedding", "index": at, "embedding": self._vector(embedding)}
            for at, embedding in enumerate(embeddings)
        ]
        return {"object": "list", "data": data, "model": self._model, **usage}

    def _vector(self, embedding: object) -> object:
        """Its floats, or in base64 as OpenAI packs them: 32 bits each, little-endian."""
        values = embedding.get("values") if isinstance(embedding, dict) else None
        if not isinstance(values, list):
            raise ValueError("no values")
        packed = struct.pack(f"<{len(values)}f", *values)  # of what is no number it raises
        return base64.b64encode(packed).decode() if self._in_base64 else values


def _usage(answer: Mapping[str, object]) -> dict[str, object]:
    said = answer.get("usageMetadata")
    tokens = said.get("promptTokenCount") if isinstance(said, dict) else None
    if not isinstance(tokens, int) or isinstance(tokens, bool) or not 0 <= tokens < _MAX:
        return {}
    return {"usage": {"prompt_tokens": tokens, "total_tokens": tokens}}


def _refused(request: Json) -> Field | None:
    return first_inexpressible(request, lambda whole: _translate(whole, ""))


def _path(model: str, stream: bool) -> str:  # noqa: ARG001 - the shape of a path
    return f"/v1beta/models/{quote(model.removeprefix('models/'), safe='')}:batchEmbedContents"


EMBEDDINGS_TO_GEMINI = Direction(refused=_refused, request=_translate, path=_path, answer=EmbeddingsAnswer)
