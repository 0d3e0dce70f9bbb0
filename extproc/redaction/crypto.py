"""Addresses of crypto wallets: Bitcoin in Base58Check, Bech32 and Bech32m; Ethereum in mixed case with its checksum.

An Ethereum address in one case has no checksum and could be any 20 bytes; it is weak, and found beside a word for it.
"""

import hashlib
from collections.abc import Iterable

from extproc.redaction.patterns import shaped

_BASE58 = b"123456789ABCDEFGHJKLMNPQRSTUVWXYZabcdefghijkmnopqrstuvwxyz"
_BECH32 = b"qpzry9x8gf2tvdw0s3jn54khce6mua7l"
_BECH32_GENERATOR = (0x3B6A57B2, 0x26508E6D, 0x1EA119FA, 0x3D4233DD, 0x2A1462B3)
_BECH32_CONSTANT = 1
_BECH32M_CONSTANT = 0x2BC830A3
_BASE58_VALUES = {byte: value for value, byte in enumerate(_BASE58)}
_BECH32_VALUES = {byte: value for value, byte in enumerate(_BECH32)}


def is_base58check(address: bytes) -> bool:
    """Of 25 bytes, the last four the check."""
    number = 0
    for byte in address:
        number = number * 58 + _BASE58_VALUES[byte]
    zeros = len(address) - len(address.lstrip(b"1"))
    raw = number.to_bytes((number.bit_length() + 7) // 8, "big").rjust(25, b"\0")
    if len(raw) != 25 or len(raw) - len(raw.lstrip(b"\0")) != zeros:
        return False
    return hashlib.sha256(hashlib.sha256(raw[:-4]).digest()).digest()[:4] == raw[-4:]


def is_bech32(address: bytes) -> bool:
    """A segregated-witness address of Bitcoin's main network, in one case."""
    if address not in (address.lower(), address.upper()):
        return False
    values = [_BECH32_VALUES.get(byte, -1) for byte in address.lower()[3:]]
    if min(values) < 0:
        return False
    expected = _BECH32_CONSTANT if values[0] == 0 else _BECH32M_CONSTANT
    return _polymod((3, 3, 0, 2, 3, *values)) == expected


def _polymod(values: Iterable[int]) -> int:
    check = 1
    for value in values:
        top = check >> 25
        check = (check & 0x1FFFFFF) << 5 ^ value
        for bit, generator in enumerate(_BECH32_GENERATOR):
            check ^= generator if top >> bit & 1 else 0
    return check


_ROUNDS = (
    *(0x0000000000000001, 0x0000000000008082, 0x800000000000808A, 0x8000000080008000, 0x000000000000808B),
    *(0x0000000080000001, 0x8000000080008081, 0x8000000000008009, 0x000000000000008A, 0x0000000000000088),
    *(0x0000000080008009, 0x000000008000000A, 0x000000008000808B, 0x800000000000008B, 0x8000000000008089),
    *(0x8000000000008003, 0x8000000000008002, 0x8000000000000080, 0x000000000000800A, 0x800000008000000A),
    *(0x8000000080008081, 0x8000000000008080, 0x0000000080000001, 0x8000000080008008),
)
_ROTATIONS = (
    *(0, 1, 62, 28, 27),
    *(36, 44, 6, 55, 20),
    *(3, 10, 43, 25, 39),
    *(41, 45, 15, 21, 8),
    *(18, 2, 61, 56, 14),
)
_LANE = 0xFFFFFFFFFFFFFFFF
_RATE = 136  # bytes


def keccak(message: bytes) -> bytes:
    """Keccak-256 as Ethereum has it, before it became SHA-3, of less than 136 bytes."""
    block = bytearray(message.ljust(_RATE, b"\0"))
    block[len(message)] ^= 0x01
    block[-1] ^= 0x80
    lanes = [int.from_bytes(block[8 * i : 8 * i + 8], "little") for i in range(_RATE // 8)] + [0] * (25 - _RATE // 8)
    for constant in _ROUNDS:
        lanes = _round(lanes, constant)
    return b"".join(lane.to_bytes(8, "little") for lane in lanes[:4])


def _round(a: list[int], constant: int) -> list[int]:
    """One round on 25 lanes, lane x + 5 y."""
    column = [a[x] ^ a[x + 5] ^ a[x + 10] ^ a[x + 15] ^ a[x + 20] for x in range(5)]
    mixed = [column[x - 1] ^ _rotated(column[(x + 1) % 5], 1) for x in range(5)]
    moved = [0] * 25
    for place in range(25):
        x, y = place % 5, place // 5
        moved[y + 5 * ((2 * x + 3 * y) % 5)] = _rotated(a[place] ^ mixed[x], _ROTATIONS[place])
    for y in range(0, 25, 5):
        row = moved[y : y + 5]
        for x in range(5):
            moved[y + x] = row[x] ^ (~row[(x + 1) % 5] & row[(x + 2) % 5])
    moved[0] ^= constant
    return moved


def _rotated(lane: int, by: int) -> int:
    return (lane << by | lane >> (64 - by)) & _LANE


def ethereum_score(address: bytes) -> float:
    """Of `0x` and 40 hexadecimal digits: 1 with the checksum of EIP-55, 0 with a wrong one, weak in one case."""
    digits = address[2:]
    if digits in (digits.lower(), digits.upper()):
        return 0.1 if len(set(digits)) > 4 else 0.0
    capitals = keccak(digits.lower()).hex()
    mixed = "".join(
        character.upper() if int(nibble, 16) > 7 else character
        for character, nibble in zip(digits.decode().lower(), capitals, strict=False)
    )
    return 1.0 if mixed.encode() == digits else 0.0


WALLETS = (
    shaped("CRYPTO", r"[13][1-9A-HJ-NP-Za-km-z]{24,34}", lambda address: float(is_base58check(address))),
    shaped(
        "CRYPTO",
        r"(?:bc1|BC1)[0-9A-Za-z]{11,71}",
        lambda address: float(is_bech32(address)),
        trigger="bc1[0-9a-z]{11}|BC1[0-9A-Z]{11}",
        width=80,
    ),
    shaped("CRYPTO", r"0x[0-9A-Fa-f]{40}", ethereum_score),
)
