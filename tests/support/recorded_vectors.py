"""An embedder that knows the texts of tests/fixtures/semantic: their vectors were recorded of a real model."""

from functools import cache

from extproc.semantic.embedding import EmbeddingFailed, Vector
from loadtest.semantic_set import recorded


@cache
def _vectors() -> dict[str, Vector]:
    return {text: vector.tobytes() for text, vector in recorded().items()}


class RecordedEmbedder:
    """Answers at once. `asked`: the texts that it was asked for."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self._is_closed = False

    async def embed(self, text: str, seconds: float) -> Vector:
        """The vector of a text of the set. Raises EmbeddingFailed for any other."""
        self.asked.append(text)
        if self._is_closed or text not in _vectors():
            raise EmbeddingFailed("closed" if self._is_closed else "not recorded")
        return _vectors()[text]

    async def close(self) -> None:
        self._is_closed = True
