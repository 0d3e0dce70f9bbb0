"""National identifiers. All are opt-in.

A check that one number in ten passes by chance proves little: identifiers of digits alone, and those that a part number
could be, need a word that names them, as
those do that have no check at all. Presidio takes each that passes for certain.
"""

import re
from collections.abc import Callable
from string import ascii_uppercase, digits

from extproc.redaction.checks import digits_of, luhn, mod_11_10, real_date, verhoeff, weighted
from extproc.redaction.patterns import NO_DIGIT, Recognizer, shaped

Check = Callable[[bytes], bool]
"""Of a value in capital letters, without spaces and what else stands between its groups."""

_SEPARATORS = b" -.:/_"
_DIGITS = NO_DIGIT + r"[0-9](?:[ \-:/_]?[0-9]){7}"
WEAK, LIKELY, WRITTEN = 0.1, 0.3, 0.6


def _id(entity: str, shape: str, check: Check, score: float = LIKELY, trigger: str = "") -> Recognizer:
    def weigh(value: bytes) -> float:
        return score if check(value.translate(None, _SEPARATORS).upper()) else 0.0

    return shaped(entity, shape, weigh, trigger=trigger)


def _number(entity: str, shape: str, check: Check, score: float = WEAK) -> Recognizer:
    """An identifier of eight digits and more alone. All of them have one trigger."""
    return _id(entity, shape, check, score, _DIGITS)


# ---- digits alone ----


def _aba(value: bytes) -> bool:
    return weighted(value, (3, 7, 1) * 3) % 10 == 0


def _abn(value: bytes) -> bool:
    return (weighted(value, (10, 1, 3, 5, 7, 9, 11, 13, 15, 17, 19)) - 10) % 89 == 0


def _acn(value: bytes) -> bool:
    return (weighted(value, range(8, 0, -1)) + int(value[8:])) % 10 == 0


def _medicare(value: bytes) -> bool:
    return weighted(value[:8], (1, 3, 7, 9, 1, 3, 7, 9)) % 10 == int(value[8:9])


def _tfn(value: bytes) -> bool:
    return weighted(value, (1, 4, 3, 7, 5, 8, 6, 9, 10)) % 11 == 0


def _tax_id(value: bytes) -> bool:
    return mod_11_10(value) and max(map(value[:10].count, set(value[:10]))) <= 3


def _aadhaar(value: bytes) -> bool:
    return verhoeff(value) and value != value[::-1]


def _partita_iva(value: bytes) -> bool:
    return luhn(value) and value != b"0" * 11


def _brn(value: bytes) -> bool:
    return (weighted(value[:9], (1, 3, 7, 1, 3, 7, 1, 3, 5)) + int(value[8:9]) * 5 // 10 + int(value[9:])) % 10 == 0


def _rrn(value: bytes) -> bool:
    century = 1900 if value[6:7] in b"12" else 2000
    is_date = real_date(century + int(value[:2]), int(value[2:4]), int(value[4:6]))
    return is_date and (11 - weighted(value[:12], (2, 3, 4, 5, 6, 7, 8, 9, 2, 3, 4, 5)) % 11) % 10 == int(value[12:])


def _pesel(value: bytes) -> bool:
    month = int(value[2:4])
    century = {0: 1900, 1: 2000, 2: 2100, 3: 2200, 4: 1800}[month // 20]
    is_date = real_date(century + int(value[:2]), month % 20, int(value[4:6]))
    return is_date and weighted(value, (1, 3, 7, 9, 1, 3, 7, 9, 1, 3, 1)) % 10 == 0


def _organisationsnummer(value: bytes) -> bool:
    return int(value[2:3]) >= 2 and luhn(value)


def _personnummer(value: bytes) -> bool:
    number = digits_of(value)[-10:]
    day = int(number[4:6])
    # 60 more than the day of the month is of who is not registered in the country.
    return 1 <= int(number[2:4]) <= 12 and 1 <= (day - 60 if day > 60 else day) <= 31 and luhn(number)


def _tnin(value: bytes) -> bool:
    return (11 - weighted(value[:12], range(13, 1, -1)) % 11) % 10 == int(value[12:])


def _kimlik(value: bytes) -> bool:
    odd, even = sum(map(int, value.decode()[0:9:2])), sum(map(int, value.decode()[1:8:2]))
    return (odd * 7 - even) % 10 == int(value[9:10]) and weighted(value[:10], (1,) * 10) % 10 == int(value[10:])


def _nhs(value: bytes) -> bool:
    return weighted(value, range(10, 0, -1)) % 11 == 0


def _npi(value: bytes) -> bool:
    return luhn(b"80840" + value) and len(set(value[:9])) > 1


def _za(value: bytes) -> bool:
    year, month, day = int(value[:2]), int(value[2:4]), int(value[4:6])
    return (real_date(1900 + year, month, day) or real_date(2000 + year, month, day)) and luhn(value)


# ---- with letters ----

_NIF_LETTERS = b"TRWAGMYFPDXBNJZSQVHLCKE"


def _kvnr(value: bytes) -> bool:
    number = b"%02d" % (value[0] - 64) + value[1:9]
    return sum(map(_digit_sum, number, (1, 2) * 5)) % 10 == int(value[9:])


def _digit_sum(byte: int, weight: int) -> int:
    return sum(divmod((byte - 48) * weight, 10))


def _icao(value: bytes) -> bool:
    """ICAO 9303's check, in the last digit. The numbers of a letter T and eight digits are older than it."""
    values = [int(chr(byte), 36) for byte in value[:-1]]
    weights = (7, 3, 1) * 3
    return sum(a * b for a, b in zip(values, weights, strict=False)) % 10 == int(value[-1:])


def _id_card(value: bytes) -> bool:
    return re.fullmatch(rb"T[0-9]{8}", value) is not None or _icao(value)


def _rvnr(value: bytes) -> bool:
    day, month = int(value[2:4]), int(value[4:6])
    number = value[:8] + b"%02d" % (value[8] - 64) + value[9:11]
    check = sum(map(_digit_sum, number, (2, 1, 2, 5, 7, 1, 2, 1, 2, 1, 2, 1))) % 10
    return 1 <= (day - 50 if day > 50 else day) <= 31 and 1 <= month <= 12 and check == int(value[11:])


def _nif(value: bytes) -> bool:
    return _NIF_LETTERS[int(value[:-1]) % 23] == value[-1]


def _nie(value: bytes) -> bool:
    return _nif(b"%d" % b"XYZ".index(value[0]) + value[1:])


_CENTURIES = {b"+": 1800, **dict.fromkeys((b"-", *(b"%c" % c for c in b"YXWVU")), 1900)}


def _hetu(value: bytes) -> bool:
    """With the sign of the century, which is a separator elsewhere."""
    year = _CENTURIES.get(value[6:7], 2000) + int(value[4:6])
    control = b"0123456789ABCDEFHJKLMNPRSTUVWXY"[int(value[:6] + value[7:10]) % 31]
    return real_date(year, int(value[2:4]), int(value[:2])) and control == value[10]


def _gstin(value: bytes) -> bool:
    total = 0
    for place, byte in enumerate(value[:14]):
        total += sum(divmod(int(chr(byte), 36) * (1 + place % 2), 36))
    return 1 <= int(value[:2]) <= 38 and (36 - total % 36) % 36 == int(chr(value[14]), 36)


_ODD = dict(zip(digits + ascii_uppercase, (
    *(1, 0, 5, 7, 9, 13, 15, 17, 19, 21),
    *(1, 0, 5, 7, 9, 13, 15, 17, 19, 21, 2, 4, 18, 20, 11, 3, 6, 8, 12, 14, 16, 10, 22, 25, 24, 23),
), strict=True))  # fmt: skip
_EVEN = {character: int(character, 36) % 10 if character.isdigit() else ord(character) - 65 for character in _ODD}


def _fiscal_code(value: bytes) -> bool:
    text = value.decode()
    total = sum(_ODD[character] for character in text[:15:2]) + sum(_EVEN[character] for character in text[1:15:2])
    return ord(text[15]) - 65 == total % 26


def _dea(value: bytes) -> bool:
    return weighted(value[2:8], (1, 2, 1, 2, 1, 2)) % 10 == int(value[8:])


def _nric(value: bytes) -> bool:
    total = weighted(value[1:8], (2, 7, 6, 5, 4, 3, 2)) + {b"T": 4, b"G": 4, b"M": 3}.get(value[:1], 0)
    if value[:1] == b"M":
        return b"KLJNPQRTUWX"[10 - total % 11] == value[8]
    return (b"JZIHGFEDCBA" if value[:1] in b"ST" else b"XWUTRQPNMLK")[total % 11] == value[8]


_UEN_LETTERS = b"ABCDEFGHJKLMNPQRSTUVWX0123456789"


def _uen(value: bytes) -> bool:
    """Of a business, a local company, or anybody else."""
    if len(value) == 9:
        return b"XMKECAWLJDB"[weighted(value[:8], (10, 4, 9, 3, 8, 2, 7, 1)) % 11] == value[8]
    if value[:1].isdigit():
        return b"ZKCMDNERGWH"[weighted(value[:9], (10, 8, 6, 4, 9, 7, 5, 3, 1)) % 11] == value[9]
    places = [_UEN_LETTERS.find(byte) for byte in value[:9]]
    total = sum(place * weight for place, weight in zip(places, (4, 3, 5, 3, 10, 2, 2, 5, 7), strict=True))
    return min(places) >= 0 and _UEN_LETTERS[(total - 5) % 11] == value[9]


def _any(_: bytes) -> bool:
    return True


_M = "[0-9LMNP-V]"  # a digit, or the letter for it where two people would have the same code
_ITIN = r"(?:5[0-9]|6[0-5]|7[0-9]|8[0-8]|9[0-24-9])"

NATIONAL_IDS = (
    _number("ABA_ROUTING_NUMBER", r"[0123678][0-9]{3}[ \-]?[0-9]{4}[ \-]?[0-9]", _aba),
    _number("AU_ABN", r"[0-9]{2}[ \-]?[0-9]{3}[ \-]?[0-9]{3}[ \-]?[0-9]{3}", _abn),
    _number("AU_ACN", r"[0-9]{3}[ \-]?[0-9]{3}[ \-]?[0-9]{3}", _acn),
    _number("AU_MEDICARE", r"[2-6][0-9]{3}[ \-]?[0-9]{5}[ \-]?[0-9]", _medicare),
    _number("AU_TFN", r"[0-9]{3}[ \-]?[0-9]{3}[ \-]?[0-9]{3}", _tfn),
    _number("CA_SIN", r"[1-79][0-9]{2}[ \-]?[0-9]{3}[ \-]?[0-9]{3}", luhn),
    _id("DE_HEALTH_INSURANCE", r"[A-Z][0-9]{9}", _kvnr),
    _id("DE_ID_CARD", r"[CFGHJKLMNPRTVWXYZ][CFGHJKLMNPRTVWXYZ0-9]{7,8}[0-9]", _id_card),
    _id("DE_SOCIAL_SECURITY", r"[0-9]{2}[ \-]?[0-9]{6}[ \-]?[A-Z][ \-]?[0-9]{3}", _rvnr, WRITTEN),
    _number("DE_TAX_ID", r"[1-9][0-9][ /]?[0-9]{3}[ /]?[0-9]{3}[ /]?[0-9]{3}", _tax_id),
    _id("ES_NIE", r"[XYZxyz][ \-]?[0-9]{7}[ \-]?[A-Za-z]", _nie, WRITTEN),
    _id("ES_NIF", r"[0-9]{1,2}\.?[0-9]{3}\.?[0-9]{3}[ \-]?[A-Za-z]", _nif, WRITTEN),
    _number("IN_AADHAAR", r"[2-9][0-9]{3}[ \-:]?[0-9]{4}[ \-:]?[0-9]{4}", _aadhaar),
    _id("IN_GSTIN", r"[0-3][0-9][A-Za-z]{5}[0-9]{4}[A-Za-z][0-9A-Za-z][Zz][0-9A-Za-z]", _gstin, WRITTEN),
    _id(
        "IT_FISCAL_CODE",
        rf"[A-Za-z]{{6}}{_M}{{2}}[A-EHLMPRSTa-ehlmprst]{_M}{{2}}[A-Za-z]{_M}{{3}}[A-Za-z]",
        _fiscal_code,
        WRITTEN,
    ),
    _number("IT_VAT_CODE", r"[0-9](?:[ _]?[0-9]){10}", _partita_iva),
    _number("KR_BRN", r"[0-9]{3}-?[0-9]{2}-?[0-9]{5}", _brn),
    _number("KR_RRN", r"[0-9]{6}[ \-]?[1-4][0-9]{6}", _rrn, LIKELY),
    _id("MEDICAL_LICENSE", r"[A-HJ-NPR-UXa-hj-npr-ux][A-Za-z9][0-9]{7}", _dea),
    _number("NG_NIN", r"[0-9]{11}", verhoeff),
    _number("PL_PESEL", r"[0-9]{2}[0-9][0-9][0-3][0-9]{6}", _pesel),
    _number("SE_ORGANISATIONSNUMMER", r"[0-9]{6}-?[0-9]{4}", _organisationsnummer),
    _id("SG_NRIC_FIN", r"[STFGMstfgm][0-9]{7}[A-Za-z]", _nric, WRITTEN),
    _id("SG_UEN", r"(?:[0-9]{8}|[0-9]{9}|[TSRtsr][0-9]{2}[A-Za-z]{2}[0-9]{4})[A-Za-z]", _uen),
    _number("TH_TNIN", r"[1-8][ \-]?[0-9]{4}[ \-]?[0-9]{5}[ \-]?[0-9]{2}[ \-]?[0-9]", _tnin),
    _number("TR_NATIONAL_ID", r"[1-9][0-9]{10}", _kimlik),
    _number("UK_NHS", r"[0-9]{3}[ \-]?[0-9]{3}[ \-]?[0-9]{4}", _nhs),
    _id("UK_NINO", r"[A-CEGHJ-PR-TW-Z][A-CEGHJ-NPR-TW-Z] ?[0-9]{2} ?[0-9]{2} ?[0-9]{2} ?[A-D]", _any),
    _number("US_ITIN", rf"9[0-9]{{2}}[ \-]?{_ITIN}[ \-]?[0-9]{{4}}", _any),
    _number("US_BANK_NUMBER", r"[0-9]{8,17}", _any),
    _id("US_DRIVER_LICENSE", r"(?:[A-Z]{1,2}[0-9]{4,13}|[0-9]{7,9}|[A-Z][0-9]{3}(?:-[0-9]{3,4}){2,3})", _any),
    _number("US_NPI", r"[12][0-9]{3}[ \-]?[0-9]{3}[ \-]?[0-9]{3}", _npi),
    _id("US_PASSPORT", r"(?:[A-Z][0-9]{8}|[0-9]{9})", _any),
    _number("ZA_ID_NUMBER", r"[0-9]{6}[ ]?[0-9]{4}[ ]?[0-2][89][0-9]", _za),
    # Here what stands before the last four characters is a sign of the century.
    shaped(
        "FI_PERSONAL_IDENTITY_CODE",
        r"[0-3][0-9][01][0-9]{3}[\-+A-FU-Y][0-9]{3}[0-9A-FHJ-NPR-Y]",
        lambda value: WRITTEN if _hetu(value) else 0.0,
    ),
    shaped(
        "SE_PERSONNUMMER",
        r"(?:19|20)?[0-9]{6}[\-+]?[0-9]{4}",
        lambda value: (WEAK if value.isdigit() else WRITTEN) if _personnummer(value) else 0.0,
    ),
)
