"""What embeds a text, so that texts which say the same are near each other."""

from typing import Protocol

Vector = bytes
"""Little-endian float32 numbers, one after the other, of length one: the similarity of two is their inner product."""


class EmbeddingFailed(Exception):
    """There is no vector of the text. Says why, in words that tell nothing of the text."""


class Embedder(Protocol):
    async def embed(self, text: str, seconds: float) -> Vector:
        """The vector of a text. Raises EmbeddingFailed, after so many seconds at the latest."""

    async def close(self) -> None:
        """Let go of what it holds. Calls raise EmbeddingFailed from now on."""
