"""Sluice keys as text: how they are made, recognised and shown. Pure; no store, no clock.

A key is `sk-sluice-` and 256 random bits in base62, then a checksum, so that a typo is told apart from a
revoked key without looking anything up (the form of GitHub's tokens). Only its SHA-256 is ever stored.
"""

import hashlib
import re
import zlib

PREFIX = "sk-sluice-"
_ALPHABET = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
_SECRET = 43  # base62 characters of 256 bits
_CHECKSUM = 6  # base62 characters of 32 bits
_FORM = re.compile(rf"{PREFIX}[0-9A-Za-z]{{{_SECRET + _CHECKSUM}}}")


def _base62(number: int, length: int) -> str:
    digits = ""
    for _ in range(length):
        number, digit = divmod(number, 62)
        digits = _ALPHABET[digit] + digits
    return digits


def _checksum(text: str) -> str:
    return _base62(zlib.crc32(text.encode("ascii")), _CHECKSUM)


def mint(random_bytes: bytes) -> str:
    """The key for 32 random bytes."""
    if len(random_bytes) != 32:
        raise ValueError("a key is made from 32 random bytes")
    body = PREFIX + _base62(int.from_bytes(random_bytes, "big"), _SECRET)
    return body + _checksum(body)


def is_well_formed(text: str) -> bool:
    """Whether this is a key of ours without a typo; says nothing about who it belongs to."""
    return bool(_FORM.fullmatch(text)) and _checksum(text[:-_CHECKSUM]) == text[-_CHECKSUM:]


def digest(key: str) -> str:
    """The hex SHA-256 of a key: what is stored and looked up. The key has 256 random bits, so no salt is needed."""
    return hashlib.sha256(key.encode()).hexdigest()


def fingerprint(key: str) -> bytes:
    """The same digest as 32 bytes: half the memory where there are many."""
    return hashlib.sha256(key.encode()).digest()


def hint(key: str) -> str:
    """A key as it may be shown in a list."""
    return f"{PREFIX}…{key[-4:]}"


QUICKSTART_KEY = mint(hashlib.sha256(b"sluice quickstart").digest())
"""Published, so never to be accepted beyond this machine."""
