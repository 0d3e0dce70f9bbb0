"""US social security numbers, as areas and groups are assigned. Without separators they are weak."""

from extproc.redaction.checks import digits_of
from extproc.redaction.patterns import NO_DIGIT, Recognizer, shaped

_SAMPLES = frozenset((b"123456789", b"987654320", b"078051120"))
"""Printed on cards in shops and in examples for so long that they are nobody's."""

WRITTEN, WEAK = 0.5, 0.05


def is_assigned(digits: bytes) -> bool:
    """Of nine digits. Areas 000, 666 and 900 to 999, group 00 and serial 0000 are never assigned."""
    if digits in _SAMPLES or len(set(digits)) == 1:
        return False
    area, group, serial = digits[:3], digits[3:5], digits[5:]
    return area not in (b"000", b"666") and area < b"900" and group != b"00" and serial != b"0000"


def _score(value: bytes) -> float:
    digits = digits_of(value)
    if not is_assigned(digits):
        return 0.0
    return WRITTEN if len(value) == 11 else WEAK


SSNS: tuple[Recognizer, ...] = (
    shaped(
        "US_SSN",
        r"(?<![0-9][\-.])[0-9]{3}(?:([ \-.])[0-9]{2}\2[0-9]{4}|[0-9]{6}|-[0-9]{6}|[0-9]{2}-[0-9]{4})(?![\-.][0-9])",
        _score,
        trigger=NO_DIGIT + r"[0-9]{3}[ \-.]?[0-9]{2}[ \-.]?[0-9]{4}",
        width=12,
    ),
)
