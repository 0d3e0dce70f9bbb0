"""The ways in which a model may read a text, in bytes that patterns are matched on.

Models understand an instruction in capitals, in look-alike letters, spelled with digits, spaced out, or in Base64. A
reading undoes that. All take time that grows with the length of the text and no faster.
"""

import base64
import html
import re
import unicodedata
from collections.abc import Iterator
from typing import NamedTuple
from urllib.parse import unquote

from extproc.redaction.normalise import plain

END = b"\x01"
"""Stands in `words` where a sentence ends."""

_REMEMBERED = 30_000  # characters
_LEET = bytes.maketrans(b"013457@$!", b"oieastasi")
_MIXED = re.compile(rb"(?<![a-z0-9@$!])[a-z]*+[013457@$!][a-z0-9@$!]*+")
_SENTENCE = re.compile(rb"(?<![.?!])[.?!]++(?=\s|$)")
_ALNUM = b"0123456789abcdefghijklmnopqrstuvwxyz" + bytes(range(128, 256))
_TO_SPACE = bytes(byte if byte in _ALNUM + END else 0x20 for byte in range(256))
_NO_LETTERS = bytes(byte for byte in range(128) if byte not in _ALNUM[10:])
_TWINS = str.maketrans("авеіїјкмнорсԁѕтухցαβεικνορτυχωѵɡ", "abeiijkmhopcdstyxgabeikvoptuxwvg")
_LATIN = re.compile(r"[a-z]")
_TWO_SCRIPTS = re.compile(r"[a-z][\u0250-\u052f]|[\u0250-\u052f][a-z]")
_WORD = re.compile(r"[^\W\d_]+")

_LEAST_SEALED = 20
_SEALED = re.compile(r"[A-Za-z0-9+/_-]+")
_HEX = re.compile(r"(?:[0-9a-fA-F]{2})+")
# Short ones: to read a number takes time with the square of its digits, and Python refuses those of some thousands.
_ENTITY = re.compile(r"&(?:#[0-9]{1,7}|#[xX][0-9a-fA-F]{1,6}|[a-zA-Z]{2,8});?")
_PERCENT = re.compile(r"%[0-9a-fA-F]{2}")
_ESCAPE = re.compile(r"\\(?:u([0-9a-fA-F]{4})|x([0-9a-fA-F]{2}))")
_TAGS = re.compile("[\U000e0020-\U000e007e]{8,}")
_SELECTORS = re.compile("[\ufe00-\ufe0f\U000e0100-\U000e01ef]{8,}")


class Reading(NamedTuple):
    """One text in UTF-8 and lower case, without accents.

    `words` are those of a text, with one space around each; `letters` are its letters and nothing else; `marks` keeps
    punctuation, and has one space where there is white space.
    """

    words: bytes
    letters: bytes
    marks: bytes


class _Letters(dict[int, str]):
    """Characters beyond ASCII as letters and digits without accents, in lower case; or as what they are in ASCII."""

    def __missing__(self, code: int) -> str:
        parts = unicodedata.normalize("NFD", plain(chr(code)).casefold())
        bare = unicodedata.normalize("NFC", "".join(part for part in parts if unicodedata.category(part) != "Mn"))
        letters = "".join(part if part.isascii() or part.isalnum() else " " for part in bare)
        if len(self) < _REMEMBERED:
            self[code] = letters
        return letters


_LETTERS = _Letters()
_BEYOND_ASCII = re.compile(r"[^\x00-\x7f]+")


def folded(text: str) -> str:
    """Lower case without accents; also what patterns are passed through, so that both sides are spelled the same."""
    low = text.lower()
    return low if low.isascii() else _BEYOND_ASCII.sub(lambda run: run[0].translate(_LETTERS), low)


def read(text: str) -> Reading:
    low = folded(text)
    if not low.isascii() and _TWO_SCRIPTS.search(low):
        low = _WORD.sub(_in_one_script, low)
    data = low.encode(errors="replace")
    spelled = _MIXED.sub(_without_digits, data)
    words = _SENTENCE.sub(b" " + END + b" ", spelled).translate(_TO_SPACE)
    return Reading(
        b" " + b" ".join(words.split()) + b" ",
        spelled.translate(None, _NO_LETTERS),
        b" ".join(data.split()),
    )


def _in_one_script(word: re.Match[str]) -> str:
    """A word of two scripts in the Latin one, where letters of the other only look the same."""
    return word[0].translate(_TWINS) if _LATIN.search(word[0]) else word[0]


def _without_digits(word: re.Match[bytes]) -> bytes:
    """`1gn0r3` as `ignore`; what is no word stays."""
    bare = word[0].rstrip(b"!")
    if not bare.strip(b"0123456789@$!"):
        return word[0]
    return bare.translate(_LEET) + word[0][len(bare) :]


def encoded_in(text: str) -> str:
    """What stands in a text in Base64 or hexadecimal, if that is text itself; one level deep."""
    return " ".join(_decoded(text))


def _decoded(text: str) -> Iterator[str]:
    long = " ".join([piece for piece in text.split() if len(piece) >= _LEAST_SEALED])
    for run in _SEALED.findall(long):
        if len(run) < _LEAST_SEALED:
            continue
        try:
            yield (bytes.fromhex(run) if _HEX.fullmatch(run) else _from_base64(run)).decode()
        except ValueError:
            continue


def _from_base64(run: str) -> bytes:
    """Of either alphabet, whether its end is there or not."""
    standard = run.replace("-", "+").replace("_", "/")
    whole, rest = divmod(len(standard), 4)
    return base64.b64decode(standard + "=" * (4 - rest) if rest > 1 else standard[: whole * 4])


def unescaped(text: str) -> str:
    """The text with entities of HTML, percent signs of URLs and escapes of program code resolved."""
    if "&" in text:
        text = _ENTITY.sub(lambda found: html.unescape(found[0]), text)
    if len(_PERCENT.findall(text)) >= 3:
        text = unquote(text, errors="replace")
    return _ESCAPE.sub(lambda found: chr(int(found[1] or found[2], 16)), text) if "\\" in text else text


def hidden_in(text: str) -> str:
    """Text in characters that nobody sees and models read: tags, and variation selectors that stand for bytes."""
    if text.isascii():
        return ""
    tags = ["".join(chr(ord(one) - 0xE0000) for one in run[0]) for run in _TAGS.finditer(text)]
    bytes_ = [bytes(map(_selected, run[0])).decode(errors="replace") for run in _SELECTORS.finditer(text)]
    return " ".join(tags + bytes_)


def _selected(selector: str) -> int:
    code = ord(selector)
    return code - 0xFE00 if code < 0xE0100 else code - 0xE0100 + 16
