"""Lists of words, found in a text as whole ones, in any case.

Words are looked up and not searched for, so time grows with the text, however many there are: the first token of a
word leads to what may follow it. A token is a run of letters and digits of scripts that write spaces, or a few blanks,
which are as one, or any other character. A run is always a whole one, so most borders of words come of themselves.
Texts are read in pieces, so that no call holds the interpreter's lock for long.
"""

import re
from collections.abc import Iterable, Iterator, Sequence

from extproc.redaction.normalise import plain

_PIECE = 16_384  # characters that are looked at in one call; some tenths of a millisecond
_REMEMBERED = 30_000  # characters
_SPACED = r"0-9A-Za-z_\u00c0-\u052f\u2c65\u2c66"
"""The last two are the small letters of two that come before."""
_IN_RUN = re.compile(f"[{_SPACED}]")
_NOT_IN_RUN = re.compile(f"[^{_SPACED}]")
_TOKEN = re.compile(rf"[{_SPACED}]+|\s{{1,8}}|[^{_SPACED}]")
_BLANK = " "


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
    """What may follow the tokens so far, what that begins with, and whether the tokens are a word."""

    __slots__ = ("beginnings", "is_word", "nexts")

    def __init__(self) -> None:
        self.is_word = False
        self.nexts: dict[str, _Node] = {}
        self.beginnings: set[str] = set()

    def add(self, tokens: Sequence[str]) -> None:
        node = self
        for token in tokens:
            node.beginnings.add(token[0])
            node = node.nexts.setdefault(token, _Node())
        node.is_word = True


class WordList:
    """Words that are not empty, of any number. May be used by several threads at once."""

    def __init__(self, words: Iterable[str]) -> None:
        self._root = _Node()
        for word in words:
            self._root.add([_BLANK if token.isspace() else token for token in _TOKEN.findall(caseless(word))])
        signs = "".join(re.escape(token) for token in self._root.nexts if not _IN_RUN.match(token))
        self._beginnings = re.compile(f"[{_SPACED}]+|[{signs}]" if signs else f"[{_SPACED}]+")

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
        nodes = self._root.nexts
        for token in self._beginnings.finditer(text, first, last):
            node = nodes.get(token[0])
            if node is None or token.start() < end:
                continue
            start = token.start()
            longest = _longest(node, text, token.end())
            if longest and _may_touch(text[start], text[start - 1 : start]):
                end = longest
                yield start, end


def _longest(node: _Node, text: str, at: int) -> int:
    """The end of the longest word whose first token ends there and led to the node, 0 where there is none."""
    longest = 0
    while True:
        beside = _BLANK if text[at : at + 1].isspace() else text[at : at + 1]
        if node.is_word and _may_touch(text[at - 1], beside):
            longest = at
        if beside not in node.beginnings:
            return longest
        token = _TOKEN.match(text, at)
        following = token and node.nexts.get(_BLANK if beside == _BLANK else token[0])
        if not token or not following:
            return longest
        node, at = following, token.end()


def _piece_end(text: str, start: int) -> int:
    """Some thousand characters on, and where no run goes on."""
    if start + _PIECE >= len(text):
        return len(text)
    border = _NOT_IN_RUN.search(text, start + _PIECE)
    return border.start() if border else len(text)


def _may_touch(own: str, beside: str) -> bool:
    """Whether a word can stand beside that, with this character of its own there; runs never touch."""
    return own.isalpha() or not _IN_RUN.match(beside)
