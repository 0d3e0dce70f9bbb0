"""Taking placeholders back in an answer, for the caller whose values they stand for.

One pass from left to right: what was put back is never looked at again. On a stream only a tail that may still become
a placeholder of this call is held back, at most `placeholders.LONGEST` characters and per channel: a choice, a tool
call, a block of content. However a text is cut into pieces, the sum of what comes out is the same.
"""

import re
from collections.abc import Hashable, Iterator

from extproc.edits import Edit
from extproc.redaction import positions
from extproc.redaction.changes import Change, apply
from extproc.redaction.placeholders import LONGEST, MARKS, Placeholders, is_marked, key_of
from extproc.redaction.positions import Kind, Position, decoded, escaped, holds_json

_JSON_TEXTS = frozenset((b"arguments", b"partial_json"))
"""Keys of strings that hold JSON, or a piece of it."""
_MARKS = tuple(mark.encode() for mark in MARKS)
_NOTHING = ("", "")
_BEFORE = 2
"""Characters before a mention that decide whether it is one."""

# The end of a text that may be the beginning of a mention: of an opening, of what follows one, or of a bare one.
_TAIL = re.compile(
    r"(?:(?P<opening>&(?:lt?)?|(?<!\\)\\(?:u(?:0(?:03?)?)?)?)"
    r"|(?:<|&lt;|(?<!\\)\\u003[cC]) ?(?P<body>[A-Za-z0-9]*(?:\\?[ _-][A-Za-z0-9]+)*+)(?P<close>\\?[ _-]?|\\|"
    r" ?(?:&(?:gt?)?|\\(?:u(?:0(?:03?)?)?)?))"
    r"|(?:(?<![A-Za-z0-9_])|(?<=\\[bfnrt]))(?P<bare>[A-Z](?:\\?_|[A-Z0-9])*(?:(?<=[0-9])[a-z]{1,2})?)\\?)\Z",
    re.ASCII,
)
# Where a text that follows nothing held back may have, or begin, a mention. A bare one has no small letter in second
# place, as no name has.
_MAY_MENTION = re.compile(r"[<&\\]|[A-Z](?![a-z])")


class Restorer:
    """Puts the values of one call back into its answer. `restored` and `unrestored` count placeholders.

    What is unrestored is a number that this call never gave, under a name that it uses: it stays as it is.
    """

    __slots__ = ("_channels", "_placeholders", "restored", "unrestored")

    def __init__(self, placeholders: Placeholders) -> None:
        self._placeholders = placeholders
        self._channels: dict[Hashable, tuple[str, str]] = {}  # what came before, and what is held back
        self.restored = 0
        self.unrestored = 0

    def text(self, text: str, json: bool = False) -> str:
        """A whole text. `json`: it is JSON, in which values are escaped."""
        return apply(text, self._changes(text, 0, len(text), json))

    def feed(self, channel: Hashable, text: str, json: bool = False) -> str:
        """The next piece of a text that streams; gives what can be shown of it and of what was held back."""
        before, held = self._channels.get(channel, _NOTHING)
        if not held and _MAY_MENTION.search(text) is None:
            self._channels[channel] = ((before + text)[-_BEFORE:], "")
            return text
        if not self._placeholders:
            return text
        whole = before + held + text
        end = self._safe(whole, len(before))
        self._channels[channel] = (whole[max(0, end - _BEFORE) : end], whole[end:])
        return self._shown(whole, len(before), end, json)

    def finish(self, channel: Hashable, json: bool = False) -> str:
        """What is still held back, at the end of the channel."""
        before, held = self._channels.pop(channel, ("", ""))
        whole = before + held
        return self._shown(whole, len(before), len(whole), json)

    def open_channels(self) -> list[Hashable]:
        """The channels that hold something back."""
        return [channel for channel, (_, held) in self._channels.items() if held]

    def document(self, body: bytes) -> list[Edit]:
        """The edits that restore all strings and keys of a JSON answer, or of one event of a stream.

        What is put into a string that holds JSON itself is escaped twice.
        """
        if not self._placeholders:
            return []
        return positions.edits(body, self._document(body))

    def _document(self, body: bytes) -> Iterator[tuple[Position, list[Change]]]:
        key = b""
        for mark, _, start, end in positions.tokens(body):
            if mark not in b'":':
                continue
            raw = body[start:end]
            if any(sign in raw for sign in _MARKS):
                text = decoded(raw)
                json = mark == ord('"') and (key in _JSON_TEXTS or holds_json(text))
                yield Position(Kind.VALUE, start, end, text), self._changes(text, 0, len(text), json)
            if mark == ord(":"):
                key = raw

    def _shown(self, whole: str, start: int, end: int, json: bool) -> str:
        changes = self._changes(whole, start, end, json)
        return apply(whole[:end], changes)[start:]

    def _changes(self, text: str, start: int, end: int, json: bool) -> list[Change]:
        """The mentions that begin from start to before end."""
        placeholders = self._placeholders
        result: list[Change] = []
        if not is_marked(text):
            return result
        at = start
        while at < end and (found := placeholders.grammar.mention.search(text, at)) and found.start() < end:
            key = key_of(found[1] or found[2])
            value = placeholders.value(key)
            at = found.end()
            if value is not None:
                self.restored += 1
                result.append(Change(*found.span(), escaped(value) if json else value))
            elif placeholders.names(key):
                self.unrestored += 1
            else:
                at = found.start() + 1  # nobody's; a name in use may stand within it
        return result

    def _safe(self, text: str, start: int) -> int:
        """Where the tail begins that may still become a mention; the end of the text, if there is none."""
        at = max(start, len(text) - LONGEST)
        while (found := _TAIL.search(text, at)) is not None:
            if self._may_begin(found):
                return found.start()
            at = found.start() + 1
        return len(text)

    def _may_begin(self, tail: re.Match[str]) -> bool:
        placeholders = self._placeholders
        if tail["opening"] is not None:
            return True
        if tail["bare"] is not None:
            return placeholders.may_begin(key_of(tail["bare"]))
        key = key_of(tail["body"])
        close = tail["close"]
        if not close:
            return placeholders.may_begin(key)
        # What follows may separate two words of the name, or stand before the end.
        separates = len(close) <= 2 and close[-1] in "\\ _-" and placeholders.may_begin(f"{key}_")
        return separates or (close[0] in " \\&" and placeholders.names(key))
