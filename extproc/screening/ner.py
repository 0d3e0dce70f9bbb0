"""A model of names in a process of its own: see companion and ner_model.

spaCy holds the interpreter's lock for as long as it works, and takes more memory than all else of a worker: so each
worker has one child that alone imports it.
"""

from collections.abc import Sequence

from extproc import companion
from extproc.companion import Companion, CompanionFailed
from extproc.redaction import names
from extproc.redaction.overlaps import Finding
from extproc.redaction.policy import NameTier
from extproc.redaction.profile import DetectionFailed

_PROGRAM = "extproc.screening.ner_model"


class NamesFailed(DetectionFailed):
    """Names could not be looked for. Its text tells nothing of the texts."""


class LocalModel:
    """A spaCy model in a child process, which starts with the first call or with `load`, and again when it died."""

    def __init__(self, model: str) -> None:
        """`model` is the name of an installed package, or the folder of a model."""
        self._companion = Companion((_PROGRAM, model), "names are not found")

    async def load(self) -> None:
        """Start the child and wait until it has the model: some seconds. Raises NamesFailed, saying what to do."""
        try:
            await self._companion.load()
        except CompanionFailed as failed:
            raise NamesFailed(str(failed)) from None

    async def findings(self, tier: NameTier, texts: Sequence[str]) -> list[list[Finding]]:
        """The names in each of the texts. Raises NamesFailed, after `tier.timeout` at the latest."""
        if sum(map(len, texts)) > tier.max_text:
            raise NamesFailed("too long")
        try:
            answer = await self._companion.ask({"texts": [names.encodable(text) for text in texts]}, tier.timeout)
        except CompanionFailed as failed:
            raise NamesFailed(str(failed)) from None
        return [names.labelled(tier, some) for some in answer["spans"]]

    async def close(self) -> None:
        """End the child. Calls raise NamesFailed from now on."""
        await self._companion.close()


async def try_out(model: str) -> None:
    """Load a model once, and end its process: some seconds. Raises NamesFailed, saying what to do."""
    try:
        await companion.try_out((_PROGRAM, model))
    except CompanionFailed as failed:
        raise NamesFailed(str(failed)) from None
