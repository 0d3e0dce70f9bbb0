"""Lists of words, found in a text as whole ones, in any case.

Words are looked up and not searched for, so time grows with the text, however many there are: the first token of a word
leads to what may follow it. A token is a run of letters and digits of scripts that write spaces, or any other character.
A run is always a whole one, so most borders of words come of themselves. Texts are read in pieces, so that no call holds
the interpreter's lock for long.
"""

import re
from collections.abc import Iterable, Iterator

from extproc.redaction.normalise import plain

_PIECE = 16_384  # characters that are looked at in one call; some tenths of a millisecond
_REMEMBERED = 30_000  # characters
_SPACED = r"0-9A-Za-z_\u00c0-\u052f\u2c65\u2c66"
"""The last two are the small letters of two that come before."""
_IN_RUN = re.compile(f"[{_SPACED}]")
_NOT_IN_RUN = re.compile(f"[^{_SPACED}]")
_TOKEN = re.compile(rf"[{_SPACED}]+|[^{_SPACED}]")


class _Folding(dict[int, str]):
    """Code of a character to its normalised characters, each in the case that stands for all."""

    def __missing__(self, code: int) -> str:
        found = "".join(map(_caseless, plain(chr(code))))
        if len(self) < _REMEMBERED:
            self[code] = found
        return found


def _caseless(character: str) -> str:
    """One character for one, and the same one for all that `re` takes for cases of a letter."""
    lower = character.lower()[0]
    upper = lower.upper()
    return upper.lower() if len(upper) == 1 else lower


_FOLDING = _Folding()


def caseless(text: str) -> str:
    """The normalised text without case; as many characters as the normalised text has."""
    if text.isascii():
        return text.lower()
    return "".join(text[start : start + _PIECE].translate(_FOLDING) for start in range(0, len(text), _PIECE))


class _Node:
    """What may follow the tokens so far, and whether they are a word."""

    __slots__ = ("is_word", "nexts")

    def __init__(self) -> None:
        self.is_word = False
        self.nexts: dict[str, _Node] = {}


class WordList:
    """Words that are not empty, of any number. May be used by several threads at once."""

    def __init__(self, words: Iterable[str]) -> None:
        self._root = _Node()
        for word in words:
            self._add(_TOKEN.findall(caseless(word)))
        signs = "".join(re.escape(token) for token in self._root.nexts if not _IN_RUN.match(token))
        self._beginnings = re.compile(f"[{_SPACED}]+|[{signs}]" if signs else f"[{_SPACED}]+")

    def _add(self, tokens: Iterable[str]) -> None:
        node = self._root
        for token in tokens:
            node = node.nexts.setdefault(token, _Node())
        node.is_word = True

    def spans(self, text: str) -> Iterator[tuple[int, int]]:
        """Where words are in the normalised text, apart and ascending: at each place the longest one.

        A word has no letter of a script with spaces beside it, unless it begins or ends in a letter of one without.
        """
        text = caseless(text)
        at = 0
        while at < len(text):
            last = _piece_end(text, at)
            if not self._root.nexts.keys().isdisjoint(self._beginnings.findall(text, at, last)):
                for span in self._words(text, at, last):
                    yield span
                    last = max(last, span[1])
            at = last

    def _words(self, text: str, first: int, last: int) -> Iterator[tuple[int, int]]:
        """Those that begin from `first` to before `last`."""
        end = first
        for token in self._beginnings.finditer(text, first, last):
            start = token.start()
            if start < end or token[0] not in self._root.nexts or not _may_touch(text[start], text[start - 1 : start]):
                continue
            if longest := self._longest(text, start):
                end = longest
                yield start, end

    def _longest(self, text: str, at: int) -> int:
        """The end of the longest word that begins there, 0 where none does."""
        longest = 0
        node = self._root
        while node.nexts and (token := _TOKEN.match(text, at)):
            following = node.nexts.get(token[0])
            if following is None:
                break
            node, at = following, token.end()
            if node.is_word and _may_touch(text[at - 1], text[at : at + 1]):
                longest = at
        return longest


def _piece_end(text: str, start: int) -> int:
    """Some thousand characters on, and where no run goes on."""
    if start + _PIECE >= len(text):
        return len(text)
    border = _NOT_IN_RUN.search(text, start + _PIECE)
    return border.start() if border else len(text)


def _may_touch(own: str, beside: str) -> bool:
    """Whether a word can stand beside that, with this character of its own there; runs never touch."""
    return own.isalpha() or not _IN_RUN.match(beside)
