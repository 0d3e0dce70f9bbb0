"""International bank account numbers, by country, length and check, in capital letters, as Presidio takes them.

A number in small letters or with a mix of them is found too where its check holds.
"""

from collections.abc import Iterator

from extproc.redaction.checks import mod_97
from extproc.redaction.normalise import Source
from extproc.redaction.patterns import ALNUM, Candidate, Recognizer, bounded, matches, reach_of

_LENGTHS_BY_COUNTRY = """
    AD24 AE23 AL28 AT20 AZ28 BA20 BE16 BG22 BH22 BI27 BR29 BY28 CH21 CR22 CY28 CZ24 DE22 DJ27 DK18 DO28 EE20 EG29 ES24
    FI18 FK18 FO18 FR27 GB22 GE22 GI23 GL18 GR27 GT28 HN28 HR21 HU28 IE22 IL23 IQ23 IS26 IT27 JO30 KW30 KZ20 LB28 LC32
    LI21 LT20 LU20 LV21 LY25 MC27 MD24 ME22 MK19 MN20 MR27 MT31 MU30 NI28 NL18 NO15 OM23 PK24 PL28 PS29 PT25 QA29 RO24
    RS22 RU33 SA24 SC31 SD18 SE24 SI19 SK24 SM27 SO23 ST25 SV28 TL23 TN24 TR26 UA29 VA22 VG24 XK20 YE30
"""
LENGTHS = {word[:2].encode(): int(word[2:]) for word in _LENGTHS_BY_COUNTRY.split()}

_TRIGGER = r"[A-Za-z]{2}[ \-]?[0-9][ \-]?[0-9](?:[ \-.]?[0-9A-Za-z]){11}"
_WIDTH = 34 * 2
_SHAPE = bounded(r"[A-Za-z]{2}[ \-]?[0-9][ \-]?[0-9](?>(?:[ \-.]?[0-9A-Za-z]){11,30})", ALNUM, "")
_SEPARATORS = b" -."


def is_iban(value: bytes) -> bool:
    """Of capital letters and digits alone."""
    return LENGTHS.get(value[:2]) == len(value) and value[2:4].isdigit() and mod_97(value)


def _find(source: Source, first: int, last: int) -> Iterator[Candidate]:
    data = source.data
    for match in matches(_SHAPE, data, first, last, _WIDTH):
        length = LENGTHS.get(match[1][:2].upper())
        end = length and _after(data, match.start(1), match.end(1), length)
        if end and not data[end : end + 1].isalnum():
            value = data[match.start(1) : end].translate(None, _SEPARATORS).upper()
            if is_iban(value):
                yield Candidate(match.start(1), end, "IBAN_CODE", 1.0)


def _after(data: bytes, start: int, limit: int, count: int) -> int:
    """Where `count` characters end, without the separators among them; 0 where there are fewer."""
    for position in range(start, limit):
        count -= data[position] not in _SEPARATORS
        if not count:
            return position + 1
    return 0


IBANS = Recognizer("IBAN_CODE", _TRIGGER, _find, reach_of(_TRIGGER))
