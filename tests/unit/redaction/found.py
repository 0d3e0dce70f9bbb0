"""What a detector of some entities finds in a text, as tests read it."""

from functools import cache

from extproc.redaction.detector import Detector, of


@cache
def _detector(*entities: str) -> Detector:
    return of(entities)


def found(text: str, *entities: str) -> list[str]:
    """The values themselves, in order."""
    return [text[finding.start : finding.end] for finding in _detector(*entities).findings(text)]
