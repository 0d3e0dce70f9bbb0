"""Passwords and keys by the name that they are assigned to, whatever they look like. Opt-in: names are often wrong."""

import re
from collections.abc import Iterator

from extproc.redaction.connections import is_password
from extproc.redaction.normalise import Source
from extproc.redaction.patterns import Candidate, Recognizer

_TRIGGER = (
    r"(?i)(?:passwor[dt]|passwd|passphrase|pwd|secret|api[_\-]?key|apikey|token|credential|private[_\-]?key"
    r"|access[_\-]?key|auth)[0-9A-Za-z_\-]{0,16}[\"']?\s{0,3}(?:=>|:=|[=:])"
)
_ASSIGNED = re.compile(
    _TRIGGER.encode() + rb"\s{0,3}(?:\"([^\"\n]{4,256})\"|'([^'\n]{4,256})'|([^\s\"',;<>()\[\]{}]{6,256}))"
)
_SCORE = 0.5


def _find(source: Source, first: int, last: int) -> Iterator[Candidate]:
    for match in _ASSIGNED.finditer(source.data, first, min(last + 320, len(source.data))):
        value = match[match.lastindex or 0]
        if is_password(value) and not value.isalpha():
            yield Candidate(*match.span(match.lastindex or 0), "PASSWORD", _SCORE)


PASSWORDS = Recognizer("PASSWORD", _TRIGGER, _find)
