"""Dates with a year, and the time with them where it is joined to them. All of Presidio's forms but the shortest."""

import re

from extproc.redaction.checks import real_date
from extproc.redaction.patterns import shaped

_MONTHS = {
    # By the first three letters, as they are folded: English, German, French, Spanish, Italian, Portuguese, Dutch.
    **{name: month for month, name in enumerate(b"jan feb mar apr may jun jul aug sep oct nov dec".split(), 1)},
    **{b"j\xc0n": 1, b"ene": 1, b"gen": 1, b"fev": 2, b"f\xc0v": 2, b"m\xc0r": 3, b"maa": 3, b"mrt": 3, b"avr": 4},
    **{b"abr": 4, b"mai": 5, b"mei": 5, b"mag": 5, b"giu": 6, b"jui": 7, b"lug": 7, b"ao\xc0": 8, b"aou": 8, b"ago": 8},
    **{b"set": 9, b"okt": 10, b"out": 10, b"ott": 10, b"d\xc0c": 12, b"dez": 12, b"dic": 12, b"des": 12},
}
_NAME = r"[A-Za-z\xc0]{3,10}"
_YEAR = "[12][0-9]{3}"
_TIME = r"[0-2][0-9]:[0-5][0-9](?::[0-5][0-9](?:[.,][0-9]{1,9})?)?(?: ?Z| ?[+\-][0-2][0-9]:?[0-5][0-9])?"
_TIMES = re.compile(rb"[0-9]+:[0-9:.,]+")
_LONGEST = 56  # characters
_PARTS = re.compile(rb"[0-9]+|[A-Za-z\xc0]{3,}")


def _score(value: bytes) -> float:
    """0.6 for a day that there is, in any order of year, month and day that is in use."""
    parts = _PARTS.findall(value[:24].replace(b" of ", b" ").replace(b" de ", b" "))[:3]
    numbers = [int(part) if part.isdigit() else _MONTHS.get(part[:3].lower(), 0) for part in parts]
    if len(numbers) < 3 or 0 in numbers[:2]:
        return 0.0
    first, second, third = numbers
    if first > 99:
        return 0.6 if real_date(first, second, third) else 0.0
    year = third if third > 99 else 2000 + third
    return 0.6 if real_date(year, first, second) or real_date(year, second, first) else 0.0


def _compact_score(value: bytes) -> float:
    return 0.6 if real_date(int(value[:4]), int(value[4:6]), int(value[6:8])) else 0.0


_NAMES = "(?i:" + "|".join(name.decode("latin-1") for name in _MONTHS) + ")"
_DAY_FIRST = rf"[0-9](?:st|nd|rd|th)?(?:[ \-/.]|\. | of | de ){_NAMES}"
_NAME_FIRST = rf"{_NAMES}[A-Za-z\xc0]{{0,7}}\.? {{1,2}}[0-9]"
DATES = (
    shaped(
        "DATE_TIME",
        rf"{_YEAR}([\-/.])[01]?[0-9]\2[0-3]?[0-9](?:[T ,]{{1,2}}{_TIME})?(?:T(?=[0-9]))?",
        _score,
        trigger=r"[0-9]{4}[\-/.][0-9]",
        not_before=r"A-Za-z\xc0",
    ),
    shaped(
        "DATE_TIME",
        rf"{_YEAR}[01][0-9][0-3][0-9]T[0-2][0-9][0-5][0-9](?:[0-5][0-9](?:\.[0-9]{{1,9}})?)?Z?",
        _compact_score,
        trigger="[0-9]{8}T",
    ),
    shaped(
        "DATE_TIME",
        rf"[0-3]?[0-9]([\-/.])[0-3]?[0-9]\2(?:{_YEAR}|[0-9]{{2}})(?:,? {_TIME})?",
        _score,
        trigger=r"[0-9][\-/.][0-9]{1,2}[\-/.][0-9]{2}",
        not_after=r"0-9A-Za-z.\-/\xc0",
        not_before=r"0-9A-Za-z\-/\xc0",
    ),
    shaped(
        "DATE_TIME",
        rf"[0-3]?[0-9](?:st|nd|rd|th)?(?:[ \-/.]|\. | of | de )(?:{_NAME}\.?(?:,? |[\-/]| de )){_YEAR}(?:[: ]{_TIME})?"
        rf"|[0-3]?[0-9]-{_NAME}-[0-9]{{2}}",
        _score,
        trigger=_DAY_FIRST,
        width=_LONGEST,
    ),
    shaped(
        "DATE_TIME",
        # With the time before the year as C's `ctime` writes it, and Git.
        rf"{_NAME}\.? {{1,2}}[0-3]?[0-9](?:st|nd|rd|th)?,? (?:{_TIME} )?{_YEAR}",
        lambda value: _score(_TIMES.sub(b"", value)),
        trigger=_NAME_FIRST,
        width=_LONGEST,
    ),
)
