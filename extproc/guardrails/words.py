"""Patterns over words. Each word of a text becomes a symbol of two bytes, so that a pattern stays small for its engine.

All words that no pattern knows are the same symbol, and one that goes on as a `stem*` is that stem's.
"""

import re
from collections.abc import Iterable

_SHORTEST = 3  # bytes of a stem
_MOST = 0x80 * 0x7F
_UNKNOWN = b"\x80\x00"
_END = b"\x7f"
"""The end of a sentence: no byte of a symbol."""
_ANY = r"(?:[\x80-\xff][\x00-\x7e])"
_PIECE = re.compile(r"<(?:(?P<least>\d)-)?(?P<most>\d)>|(?P<end><end>)|(?P<word>\w+)(?P<form>[*?]?)|(?P<mark>[()|?])| ")


class Vocabulary:
    """The words of some patterns. Raises ValueError for a pattern that is none."""

    def __init__(self, patterns: Iterable[str], end: bytes) -> None:
        """`end` stands as a word where a sentence ends."""
        words: set[str] = set()
        stems: set[str] = set()
        for pattern in patterns:
            for piece in _pieces(pattern):
                if piece["word"]:
                    (stems if piece["form"] == "*" else words).update(_spellings(piece))
        terms = [*sorted(words), *(f"{stem}*" for stem in sorted(stems))]
        self._numbers = {term: _symbol(number) for number, term in enumerate(terms, 1)}
        self._words = {word.encode(): self._numbers[word] for word in words} | {end: _END}
        self._stems: dict[bytes, list[tuple[bytes, bytes]]] = {}
        for stem in sorted(map(str.encode, stems), key=len, reverse=True):
            if len(stem) < _SHORTEST:
                raise ValueError(f"no pattern of words: {stem.decode()}* is too short")
            self._stems.setdefault(stem[:_SHORTEST], []).append((stem, self._numbers[f"{stem.decode()}*"]))

    def encoded(self, words: bytes) -> bytes:
        """The symbols of words, which white space is between."""
        known, stems = self._words, self._stems
        symbols = [
            known.get(word) or (self._symbol(word) if word[:_SHORTEST] in stems else _UNKNOWN) for word in words.split()
        ]
        return b"".join(symbols)

    def _symbol(self, word: bytes) -> bytes:
        """Of a word that may go on as a stem: of the longest such."""
        for stem, symbol in self._stems[word[:_SHORTEST]]:
            if word.startswith(stem):
                return symbol
        return _UNKNOWN

    def expression(self, pattern: str) -> str:
        """A regular expression over symbols, of bytes as characters of the same number."""
        return "".join(map(self._part, _pieces(pattern)))

    def _part(self, piece: re.Match[str]) -> str:
        if piece["most"]:
            return f"{_ANY}{{{piece['least'] or piece['most']},{piece['most']}}}"
        if piece["end"]:
            return f"(?:{_bytes(_END)})"
        if piece["word"]:
            return f"(?:{'|'.join(map(_bytes, self._of(piece)))})"
        return "(?:" if piece["mark"] == "(" else piece["mark"] or ""

    def _of(self, piece: re.Match[str]) -> list[bytes]:
        spellings = _spellings(piece)
        if piece["form"] != "*":
            return [self._numbers[spelling] for spelling in spellings]
        return [symbol for term, symbol in self._numbers.items() if term.startswith(spellings[0])]


def _pieces(pattern: str) -> list[re.Match[str]]:
    pieces = list(_PIECE.finditer(pattern))
    if "".join(piece[0] for piece in pieces) != pattern:
        raise ValueError(f"no pattern of words: {pattern}")
    return pieces


def _spellings(piece: re.Match[str]) -> list[str]:
    word: str = piece["word"]
    return [word, word[:-1]] if piece["form"] == "?" else [word]


def _symbol(number: int) -> bytes:
    if number >= _MOST:
        raise ValueError("more words than there are symbols")
    high, low = divmod(number, 0x7F)
    return bytes((0x80 + high, low))


def _bytes(symbol: bytes) -> str:
    return "".join(f"\\x{byte:02x}" for byte in symbol)
