"""URLs with a scheme or `www.`, MAC addresses and UUIDs.

File names and method calls, which Presidio takes for URLs, are none.
"""

from collections.abc import Iterator

from extproc.redaction.normalise import Source
from extproc.redaction.patterns import ALNUM, Candidate, Recognizer, bounded, matches, shaped

_WIDTH = 2048
_URL = bounded(
    r"(?:[Hh][Tt][Tt][Pp][Ss]?|[Ff][Tt][Pp][Ss]?|[Ww][Ss][Ss]?)://[^\s<>\"'`{}|\\^\xc1]{3,2000}+"
    r"|[Ww][Ww][Ww][0-9]{0,3}\.[0-9A-Za-z\xc0\-]{1,63}+\.[^\s<>\"'`{}|\\^\xc1]{2,1900}+",
    ALNUM,
    "",
)
_ENDING = b".,;:!?*_~\xc2"


def _find(source: Source, first: int, last: int) -> Iterator[Candidate]:
    for match in matches(_URL, source.data, first, last, _WIDTH):
        value = match[1].rstrip(_ENDING)
        while value.endswith((b")", b"]")) and _is_unbalanced(value):
            value = value[:-1].rstrip(_ENDING)
        if value.rpartition(b"//")[2]:
            yield Candidate(match.start(1), match.start(1) + len(value), "URL", 0.6)


def _is_unbalanced(value: bytes) -> bool:
    return value.count(b")") > value.count(b"(") or value.count(b"]") > value.count(b"[")


URLS = (Recognizer("URL", r"://|[Ww][Ww][Ww][0-9]{0,3}\.", _find),)


def _mac_score(value: bytes) -> float:
    """Not of the address of all, nor of none."""
    digits = value.translate(None, b":-.").lower()
    return 0.6 if len(set(digits)) > 1 or digits[:1] not in b"0f" else 0.0


MACS = (
    shaped(
        "MAC_ADDRESS",
        r"[0-9A-Fa-f]{2}([:\-])[0-9A-Fa-f]{2}(?:\2[0-9A-Fa-f]{2}){4}",
        _mac_score,
        trigger=r"[0-9A-Fa-f]{2}[:\-][0-9A-Fa-f]{2}[:\-][0-9A-Fa-f]{2}[:\-]",
        not_after=r"0-9A-Za-z:\-\xc0",
        not_before=r"0-9A-Za-z:\-\xc0",
    ),
    shaped(
        "MAC_ADDRESS",
        r"[0-9A-Fa-f]{4}\.[0-9A-Fa-f]{4}\.[0-9A-Fa-f]{4}(?!\.[0-9A-Za-z])",
        _mac_score,
        trigger=r"[0-9A-Fa-f]{4}\.[0-9A-Fa-f]{4}\.[0-9A-Fa-f]{4}",
        not_after=r"0-9A-Za-z.\xc0",
    ),
)

UUIDS = (shaped("UUID", r"[0-9A-Fa-f]{8}-[0-9A-Fa-f]{4}-[0-9A-Fa-f]{4}-[0-9A-Fa-f]{4}-[0-9A-Fa-f]{12}", 0.5),)
