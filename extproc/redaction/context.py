"""The words beside a value, and whether one of them speaks for its entity.

As in Presidio, but a word counts as a whole, in the same line, before the value or shortly after it; Presidio finds
`lic` in "public". In a table the name of the column counts, too.
"""

import re
from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Iterator

from extproc.redaction.normalise import Source, plain

_BEFORE, _AFTER = 120, 48  # characters
_WORD = re.compile(r"[^\W_]+")
_CAMEL = re.compile(r"(?<=[a-z])(?=[A-Z])")
_PLURAL = re.compile(r"(?<=\w{3})s(?= |\Z)")
_PART = " 0 "  # so that no phrase reaches over a value
_BLOCK = re.compile(r"\n[ \t]*\n|```[a-z]*\n")
_HEADING_LINES = 4  # of a block: the first of a table, and what may be written before it
_LONGEST_ROW = 600  # characters
_DELIMITERS = ",;\t|"


class Words:
    """The words that speak for an entity, in any case."""

    def __init__(self, words: Iterable[str]) -> None:
        self._marks = tuple(filter(None, map(_mark, words)))
        self._beginnings = {mark.split()[0] for mark in self._marks}

    def are_in(self, surroundings: str) -> bool:
        return any(mark in surroundings for mark in self._marks)

    def beginnings(self, text: str) -> list[int]:
        """Where one of the words could begin in a text, which is `_searchable`; ascending."""
        return sorted(place for word in self._beginnings for place in _occurrences(_searchable(word), text))


def _searchable(text: str) -> str:
    """In small letters; of sigma, which has one more at the end of a word, the first."""
    return text.lower().replace("ς", "σ")


def _occurrences(word: str, text: str) -> Iterator[int]:
    place = text.find(word)
    while place >= 0:
        yield place
        place = text.find(word, place + len(word))


def _mark(word: str) -> str:
    """A word as it stands in surroundings. Scripts without spaces, or with prefixes, need none around it."""
    tokens = " ".join(_WORD.findall(plain(word).lower()))
    return f" {tokens} " if all(ord(character) < 0x530 for character in tokens) and tokens else tokens


def _words(text: str) -> list[str]:
    """In small letters; of `phoneNumber` its parts, and then itself."""
    normal = plain(text)
    parts = _CAMEL.sub(" ", normal)
    words = _WORD.findall(parts.lower())
    return words if parts == normal else [*words, *_WORD.findall(normal.lower())]


class Surroundings:
    """What stands beside the values of one text."""

    def __init__(self, source: Source) -> None:
        self._source = source
        self._blocks: list[int] | None = None
        self._known: dict[tuple[int, int], str] = {}
        self._beginnings: dict[Words, list[int] | None] = {}

    def have(self, words: Words, start: int, end: int) -> bool:
        """Whether one of the words stands beside a value. Where none can, no surroundings are read."""
        return self._could_have(words, start, end) and words.are_in(self.of(start, end))

    def _could_have(self, words: Words, start: int, end: int) -> bool:
        if words not in self._beginnings:
            self._beginnings[words] = self._places(words)
        places = self._beginnings[words]
        if places is None:
            return True
        first, last = self._source.origin(start, end)
        if _is_any(places, first - _BEFORE, last + _AFTER):
            return True
        block = self._block(first) if places else first
        has_head = self._source.text.rfind("\n", max(block, first - _LONGEST_ROW), first) >= 0
        return has_head and _is_any(places, block, block + _LONGEST_ROW)

    def _places(self, words: Words) -> list[int] | None:
        """Where the words could begin in the source; None where that cannot be told, as some letters become two."""
        normal = self._source.normalised()
        searchable = _searchable(normal)
        if len(searchable) != len(normal):
            return None
        places = words.beginnings(searchable)
        return places if self._source.text.isascii() else [self._source.origin(one, one + 1)[0] for one in places]

    def of(self, start: int, end: int) -> str:
        """The words beside a value in small letters, each with a space before and after; plurals as singulars, too."""
        known = self._known.get((start, end))
        if known is None:
            known = self._known[start, end] = self._beside(start, end)
        return known

    def _beside(self, start: int, end: int) -> str:
        text = self._source.text
        first, last = self._source.origin(start, end)
        before = text[max(0, first - _BEFORE) : first]
        line = before[before.rfind("\n") + 1 :]
        if not _WORD.search(line):
            # The value begins its line: a label may stand on the one before.
            upper = before[: len(before) - len(line)].rstrip()
            line = upper[upper.rfind("\n") + 1 :]
        after = text[last : last + _AFTER].partition("\n")[0]
        words = " ".join(_words(_PART.join((line, after, self._column(first, last)))))
        return f" {words} {_PLURAL.sub('', words)} "

    def _column(self, first: int, last: int) -> str:
        """What the first row of a table has in the column of these characters; nothing where they are in no table."""
        text = self._source.text
        line = text.rfind("\n", max(0, first - _LONGEST_ROW), first) + 1
        end = text.find("\n", last, last + _LONGEST_ROW)
        row = text[line : end if end >= 0 else last + _LONGEST_ROW]
        block = self._block(first)
        if line <= block:
            return ""
        heads = text[block : min(line, block + _LONGEST_ROW)].split("\n")[:_HEADING_LINES]
        for delimiter in _DELIMITERS:
            count = row.count(delimiter)
            for head in heads if count else ():
                if head.count(delimiter) == count:
                    return head.split(delimiter)[text.count(delimiter, line, first)]
        return ""

    def _block(self, position: int) -> int:
        """Where the block of lines begins that a character is in."""
        if self._blocks is None:
            self._blocks = [0, *(match.end() for match in _BLOCK.finditer(self._source.text))]
        return self._blocks[bisect_right(self._blocks, position) - 1]


def _is_any(places: list[int], first: int, last: int) -> bool:
    """Of ascending places, whether one is from the first to before the last."""
    at = bisect_left(places, first)
    return at < len(places) and places[at] < last
