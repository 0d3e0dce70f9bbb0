"""A sentence-transformers model in a process of its own: see companion and semantic.model."""

import base64

from extproc import companion
from extproc.companion import Companion, CompanionFailed
from extproc.redaction.names import encodable
from extproc.semantic.embedding import EmbeddingFailed, Vector

LONGEST_TEXT = 8192
"""Characters; what is longer has more tokens than any model of this kind takes, and is not even counted."""
_PROGRAM = "extproc.semantic.model"


class LocalEmbedder:
    """The model in a folder, with its own process, which starts with the first call or with `load`."""

    def __init__(self, folder: str) -> None:
        self._companion = Companion((_PROGRAM, folder), "texts are not embedded")

    async def load(self) -> None:
        """Start the process and wait until it has the model. Raises EmbeddingFailed, saying what to do."""
        try:
            await self._companion.load()
        except CompanionFailed as failed:
            raise EmbeddingFailed(str(failed)) from None

    async def embed(self, text: str, seconds: float) -> Vector:
        """The vector of a text. Raises EmbeddingFailed, after so many seconds at the latest."""
        if len(text) > LONGEST_TEXT:
            raise EmbeddingFailed("too long")
        try:
            answer = await self._companion.ask({"text": encodable(text)}, seconds)
        except CompanionFailed as failed:
            raise EmbeddingFailed(str(failed)) from None
        return base64.b64decode(answer["vector"])

    async def close(self) -> None:
        """End the process. Calls raise EmbeddingFailed from now on."""
        await self._companion.close()


async def try_out(folder: str) -> None:
    """Load a model once, and end its process. Raises EmbeddingFailed, saying what to do."""
    try:
        await companion.try_out((_PROGRAM, folder))
    except CompanionFailed as failed:
        raise EmbeddingFailed(str(failed)) from None
