"""A text as it is looked through: one byte for each character, and the way back to the characters of the source.

Numbers and addresses are written with ASCII, or with what stands for it: full-width forms, the digits of another
script, dashes and spaces of any kind, and invisible characters in between. All of that becomes ASCII here; letters
beyond it become one of two bytes, and the rest a third. So patterns are on bytes, whatever engine runs them, and a
position in bytes is one in characters.
"""

import codecs
import re
import unicodedata
from bisect import bisect_right

LETTER = b"\xc0"
"""A letter of an alphabet whose words, as in ASCII, stand between spaces: Latin, Greek, Cyrillic."""
OTHER_LETTER = b"\xc1"
"""A letter of any other script; it may touch a number or an address that it is no part of."""
OTHER = b"\xc2"

_REMEMBERED = 30_000  # characters; more than the scripts of a day's texts have
_ALPHABETS = ("LATIN ", "GREEK ", "CYRILLIC ", "ARMENIAN ", "GEORGIAN ")
_SPECIAL = {
    "\u0085": "\n",
    "\u2028": "\n",
    "\u2029": "\n",
    "\u2043": "-",  # hyphen bullet
    "\u2212": "-",  # minus
    "\u2044": "/",
    "\u2215": "/",
    "\u2800": " ",  # an empty cell of Braille
    "\u115f": "",  # fillers of Hangul, which nobody sees
    "\u1160": "",
    "\u3164": "",
}
_BY_CATEGORY = {"Pd": "-", "Zs": " ", "Cf": "", "Mn": "", "Me": ""}


def _plain(character: str) -> str:
    """What a character stands for; ASCII where it stands for that. Nothing for one that is not seen."""
    if character in _SPECIAL:
        return _SPECIAL[character]
    return "".join(_mapped(part) for part in unicodedata.normalize("NFKC", character))


def _mapped(character: str) -> str:
    if character in _SPECIAL:
        return _SPECIAL[character]
    if character.isascii():
        return character
    digit = unicodedata.decimal(character, None)
    if digit is not None:
        return str(digit)
    return _BY_CATEGORY.get(unicodedata.category(character), character)


def _byte(character: str) -> bytes:
    if character.isascii():
        return character.encode()
    if unicodedata.category(character)[0] == "L":
        return LETTER if unicodedata.name(character, "").startswith(_ALPHABETS) else OTHER_LETTER
    return OTHER_LETTER if unicodedata.category(character) == "Mc" else OTHER


class _Folding(dict[str, bytes]):
    """Character to bytes.

    `irregular` are those seen so far that do not become one byte, and `unseen` those of them that nobody sees, but for
    marks on letters.
    """

    def __init__(self) -> None:
        self.irregular: set[str] = set()
        self.unseen: set[str] = set()

    def __missing__(self, character: str) -> bytes:
        folded = b"".join(map(_byte, _plain(character)))
        if len(folded) != 1:
            self.irregular.add(character)
        if not folded and unicodedata.category(character)[0] != "M":
            self.unseen.add(character)
        if len(self) < _REMEMBERED:
            self[character] = folded
        return folded


_FOLDING = _Folding()
_BEYOND_ASCII = re.compile(r"[^\x00-\x7f]+")


def _fold_run(error: UnicodeError) -> tuple[bytes, int]:
    """The encoder's way to ask for what is no ASCII, a run at a time."""
    if not isinstance(error, UnicodeEncodeError):
        raise error
    return b"".join(map(_FOLDING.__getitem__, error.object[error.start : error.end])), error.end


_HANDLER = "extproc.redaction.fold"
codecs.register_error(_HANDLER, _fold_run)


def plain(text: str) -> str:
    """The text with everything in ASCII that stands for it, and without what is not seen."""
    if text.isascii():
        return text
    return "".join(character if character.isascii() else _plain(character) for character in text)


def folded(text: str) -> bytes:
    """The text with one byte for each normalised character."""
    return text.encode("ascii", _HANDLER)


def with_gaps(source: "Source") -> str | None:
    """The text with a space for each character that nobody sees; None where it has none.

    Such a character stands within a number, and then it counts as nothing, or between a number and a word.
    """
    text = source.text
    if text.isascii() or _FOLDING.unseen.isdisjoint(text):
        return None
    # Taken at once: another thread may see a new one meanwhile.
    return text.translate(dict.fromkeys(map(ord, tuple(_FOLDING.unseen)), " "))


class Source:
    """A text, and `data`: its normalised characters, one byte each. Positions are in `data` unless said otherwise."""

    __slots__ = ("_jumps", "data", "text")

    def __init__(self, text: str) -> None:
        self.text = text
        self.data = folded(text)
        self._jumps: tuple[list[int], list[int]] | None = ([], []) if text.isascii() else None

    def origin(self, start: int, end: int) -> tuple[int, int]:
        """The characters of the text that a non-empty stretch came from, the end excluded."""
        return self._index(start), self._index(end - 1) + 1

    def _index(self, position: int) -> int:
        if self._jumps is None:
            self._jumps = _jumps(self.text)
        starts, indices = self._jumps
        last = bisect_right(starts, position) - 1
        if last < 0:
            return position
        return indices[last] + position - starts[last]

    def normalised(self) -> str:
        """The normalised characters themselves."""
        return plain(self.text)

    def value(self, start: int, end: int) -> str:
        """The normalised characters of a stretch."""
        first, last = self.origin(start, end)
        return plain(self.text[first:last])


def _jumps(text: str) -> tuple[list[int], list[int]]:
    """Positions where the two counts part, and the character of the text that each belongs to."""
    starts: list[int] = []
    indices: list[int] = []
    ahead = 0  # normalised characters more than there were in the text so far
    for run in _BEYOND_ASCII.finditer(text):
        if _FOLDING.irregular.isdisjoint(run[0]):
            continue
        for index, character in enumerate(run[0], run.start()):
            length = len(_FOLDING[character])
            if length == 1:
                continue
            start = index + ahead
            starts += range(start + 1, start + length)
            indices += [index] * (length - 1)
            starts.append(start + length)
            indices.append(index + 1)
            ahead += length - 1
    return starts, indices
