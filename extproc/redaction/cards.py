"""Payment cards: 13 to 19 digits that pass Luhn's check, under a prefix that a network issues at that length.

Presidio's pattern leaves out Mastercard's second series, 13 to 15 digits in groups and cards of more than 16, and takes
any 13 digits after a 1, 3, 4, 5 or 6 that pass by chance, a time in microseconds among them.
"""

import re
from collections.abc import Iterator
from functools import cache

from extproc.redaction.checks import digits_of, luhn
from extproc.redaction.normalise import Source
from extproc.redaction.patterns import ALNUM, Candidate, Recognizer, bounded, matches, run_of

_RUN = b"0123456789 .-"
_TRIGGER = run_of(r"[0-9](?:[ .\-]?[0-9]){12}", _RUN)
_WIDTH = 19 * 2
_GROUP = r"[ .\-]?[0-9]{3,7}"
_SHAPE = bounded(
    # Solid, or in groups of 3 to 7 after a first one of 4 to 6. What follows may be a check value or a date.
    rf"[0-9]{{13,19}}|[0-9]{{4,6}}(?>{_GROUP}{_GROUP}(?:{_GROUP})?)(?:[ .\-]?[0-9]{{1,4}}+)?",
    ALNUM,
    "",
)
_DIGIT_BY_DIGIT = bounded(
    r"(?<![0-9][ .\-])[0-9]([ .\-])[0-9](?>(?:\2[0-9]){11,17})", ALNUM, r"0-9A-Za-z\xc0]|[ .\-][0-9"
)
WEAK = 0.1
_FEWEST, _MOST = 13, 19  # digits

_FRACTION = re.compile(rb"[0-9]\.\Z")
_SPREAD = re.compile(rb"[ .\-][0-9][ .\-][0-9][ .\-][0-9]")
_SPACED = bytes.maketrans(b".-", b"  ")

_PREFIXES = (
    # first four digits, from and to, and the lengths issued under them
    (3000, 3059, (14,)),  # Diners
    (3095, 3095, (14,)),
    (3600, 3699, (14,)),
    (3800, 3999, (14,)),
    (3400, 3499, (15,)),  # American Express
    (3700, 3799, (15,)),
    (2131, 2131, (15,)),  # JCB
    (2100, 2100, (15,)),
    (1800, 1800, (15,)),
    (3528, 3589, (16, 17, 18, 19)),
    (3088, 3094, (16,)),  # and of JCB what was issued long ago, and is drawn by generators still
    (3096, 3102, (16,)),
    (3112, 3120, (16,)),
    (3158, 3159, (16,)),
    (3337, 3349, (16,)),
    (4000, 4999, (13, 16, 19)),  # Visa
    (5100, 5599, (16,)),  # Mastercard
    (2221, 2720, (16,)),
    (6011, 6011, (16, 17, 18, 19)),  # Discover
    (6440, 6599, (16, 17, 18, 19)),
    (6200, 6299, (16, 17, 18, 19)),  # UnionPay
    (5000, 5099, (13, 14, 15, 16, 17, 18, 19)),  # Maestro, and Elo, RuPay and others within
    (604, 604, (13, 14, 15, 16, 17, 18, 19)),
    (5600, 5899, (13, 14, 15, 16, 17, 18, 19)),
    (6000, 6999, (13, 14, 15, 16, 17, 18, 19)),
)


@cache
def _lengths(prefix: bytes) -> frozenset[int]:
    """The lengths of cards that begin with these four digits."""
    number = int(prefix)
    return frozenset(n for first, last, lengths in _PREFIXES if first <= number <= last for n in lengths)


def score(digits: bytes) -> float:
    """1 under a known prefix; weak under another, which no network of the table has, but some bank may."""
    if not _FEWEST <= len(digits) <= _MOST or not luhn(digits) or len(set(digits)) == 1:
        return 0.0
    return 1.0 if len(digits) in _lengths(digits[:4]) else WEAK


def _find(source: Source, first: int, last: int) -> Iterator[Candidate]:
    data = source.data
    for match in matches(_SHAPE, data, first, last, _WIDTH):
        cards = _cards(data, *match.span(1))
        if cards and not _FRACTION.search(data, max(0, match.start() - 2), match.start()):
            yield max(cards, key=lambda card: (card.score, card.end))
    if not _SPREAD.search(data, first, last + _WIDTH):
        return
    for match in matches(_DIGIT_BY_DIGIT, data, first, last, _WIDTH):
        weight = score(digits_of(match[1]))
        if weight:
            yield Candidate(*match.span(1), "CREDIT_CARD", weight)


def _cards(data: bytes, start: int, limit: int) -> list[Candidate]:
    """The cards from here that end where a group does. One under a known prefix is to come before a longer one."""
    groups = data[start:limit].translate(_SPACED).split(b" ")
    digits, end, cards = b"".join(groups), limit, []
    count = len(digits)
    while count >= _FEWEST:
        if count <= _MOST and luhn(digits[:count]) and not data[end : end + 1].isalpha():
            weight = score(digits[:count])
            if weight:
                cards.append(Candidate(start, end, "CREDIT_CARD", weight))
        length = len(groups.pop())
        count -= length
        end -= length + 1
    return cards


CARDS = Recognizer("CREDIT_CARD", _TRIGGER, _find, run=_RUN)
