"""Check digits, on strings of ASCII digits."""

from collections.abc import Sequence

_DOUBLED = bytes.maketrans(b"0123456789", bytes((0, 2, 4, 6, 8, 1, 3, 5, 7, 9)))
_OTHERS = bytes(byte for byte in range(256) if byte not in b"0123456789")
_VALUES = bytes.maketrans(b"0123456789", bytes(range(10)))

_NUMBERS = {byte: str(int(chr(byte), 36)) for byte in b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZ"}

_D5 = (
    "0123456789",
    "1234067895",
    "2340178956",
    "3401289567",
    "4012395678",
    "5987604321",
    "6598710432",
    "7659821043",
    "8765932104",
    "9876543210",
)
_PERMUTED = (
    "0123456789",
    "1576283094",
    "5803796142",
    "8916043527",
    "9453126870",
    "4286573901",
    "2793806415",
    "7046913258",
)


def digits_of(value: bytes) -> bytes:
    """The digits of a value, without what stands between them."""
    return value.translate(None, _OTHERS)


def luhn(digits: bytes) -> bool:
    """Luhn's check, as of cards. Of no digits it holds."""
    # The digits themselves are summed as characters, each 48 more than its value.
    return (sum(digits[-1::-2]) + (len(digits) + 1) // 2 * 2 + sum(digits[-2::-2].translate(_DOUBLED))) % 10 == 0


def weighted(digits: bytes, weights: Sequence[int]) -> int:
    """The sum of the digits, each times its weight; digits beyond the weights do not count."""
    return sum(value * weight for value, weight in zip(digits.translate(_VALUES), weights, strict=False))


def verhoeff(digits: bytes) -> bool:
    """Verhoeff's check, in the dihedral group of order 10."""
    check = 0
    for place, value in enumerate(reversed(digits.translate(_VALUES))):
        check = int(_D5[check][int(_PERMUTED[place % 8][value])])
    return check == 0


def mod_11_10(digits: bytes) -> bool:
    """ISO 7064 MOD 11,10."""
    product = 10
    *body, last = digits.translate(_VALUES)
    for value in body:
        product = ((value + product) % 10 or 10) * 2 % 11
    return (11 - product) % 10 == last


def mod_97(text: bytes) -> bool:
    """ISO 7064 MOD 97-10 over digits and capital letters, the first four characters moved behind, as of an IBAN."""
    return int("".join([_NUMBERS[byte] for byte in text[4:] + text[:4]])) % 97 == 1


def real_date(year: int, month: int, day: int) -> bool:
    """Whether there is such a day in the Gregorian calendar."""
    if not 1 <= month <= 12 or day < 1:
        return False
    leap = year % 4 == 0 and (year % 100 != 0 or year % 400 == 0)
    longest = 29 if month == 2 and leap else (31, 28, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31)[month - 1]
    return day <= longest
