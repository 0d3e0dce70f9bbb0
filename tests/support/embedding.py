"""What embeds texts in tests: as near as two texts share words, with no model and no service."""

from array import array

from extproc.semantic.embedding import EmbeddingFailed, Vector
from loadtest.fake_services import vector


class Embedding:
    """See Embedder. While `fails` it gives nothing; `vector` is given in place of every other."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.fails = False
        self.vector: Vector | None = None
        self.closed = False

    async def embed(self, text: str, seconds: float) -> Vector:
        assert seconds > 0
        self.asked.append(text)
        if self.fails:
            raise EmbeddingFailed("as the test wants it")
        return array("f", vector(text)).tobytes() if self.vector is None else self.vector

    async def close(self) -> None:
        self.closed = True
