"""Vectors of texts from a service that speaks OpenAI's API for embeddings, through Envoy as all services are asked."""

import math
import sys
from array import array
from typing import Protocol

import orjson

from extproc.screening.services import ServiceFailed
from extproc.semantic.embedding import EmbeddingFailed, Vector

_PATH = "/v1/embeddings"
_LEAST, _MOST = 8, 4096
"""Numbers of a vector."""


class Services(Protocol):
    """Who reaches services."""

    async def ask(self, service: str, path: str, body: bytes, timeout: float) -> bytes:  # noqa: ASYNC109
        """The answer. Raises ServiceFailed."""

    def close(self) -> None:
        """Close connections that are free."""


class ServiceEmbedder:
    """See Embedder. `service` is a name of the configuration, `model` what the service calls the model to use."""

    def __init__(self, services: Services, service: str, model: str) -> None:
        self._services = services
        self._service = service
        self._model = model

    async def embed(self, text: str, seconds: float) -> Vector:
        """The vector of a text. Raises EmbeddingFailed, after so many seconds at the latest."""
        try:
            body = orjson.dumps({"model": self._model, "input": text, "encoding_format": "float"})
            answer = await self._services.ask(self._service, _PATH, body, seconds)
        except ServiceFailed as failed:
            raise EmbeddingFailed(failed.result) from None
        except TypeError:
            raise EmbeddingFailed("the text is none that JSON can say") from None
        return _vector(answer)

    async def close(self) -> None:
        self._services.close()


def _vector(answer: bytes) -> Vector:
    """The one vector of an answer, made as long as one. Raises EmbeddingFailed."""
    try:
        (told,) = orjson.loads(answer)["data"]
        numbers = [float(number) for number in told["embedding"]]
        length = math.hypot(*numbers)
    except (ValueError, TypeError, KeyError, OverflowError):
        raise EmbeddingFailed("the service's answer is none that can be used") from None
    if not _LEAST <= len(numbers) <= _MOST or not math.isfinite(length) or length == 0:
        raise EmbeddingFailed("the service's vector is none that can be used")
    vector = array("f", [number / length for number in numbers])
    if sys.byteorder == "big":
        vector.byteswap()
    return vector.tobytes()
