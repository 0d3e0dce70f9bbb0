"""Looking through an answer while it streams.

Each channel (a choice, a tool call, a block of content) is cut into runs, each run is looked through as one text, with
what came just before it in view, and goes out when it is complete. Where a run ends depends on the text alone, never on
how it came in pieces, so every split gives the same result.

A run ends between two words without digits: no card, phone number or account number goes on over such a place, and an
e-mail address or a key has no blank in it. So usually one word is held back, and the next. A run that finds no such
place is ended after `RUN` characters, but where what is found in it begins, a token without a blank after `TOKEN`, a
private key after `BLOCK`. A run of JSON ends in no escape and in no number.
"""

import re
from collections.abc import Callable, Hashable, Iterable, Sequence
from dataclasses import dataclass

from extproc.redaction import json_parts
from extproc.redaction.changes import Change, apply
from extproc.redaction.json_parts import Kind, Part, Place
from extproc.redaction.redactor import Found, Redactor

RUN = 256
"""Characters that are held back, at most, of numbers and what stands between them."""
TOKEN = 4_096
"""Characters that are held back, at most, of a token without a blank, such as a JWT."""
_OVERLAP = 64  # a number with all its separators is shorter
_IN_VIEW = 256  # characters before a run, for the words that tell what a number is

_S = r"\s\"'`,{}\[\]<>|()"  # separators
_C = r"\u0e00-\u0e4f\u2e80-\ud7ff\uf900-\ufaff\U00020000-\U0003ffff"  # letters that are words without blanks
_PART = rf"[^{_S}{_C}\d]"
_WORD = rf"(?={_PART}*?[^\W\d_{_C}]){_PART}++"  # a token without digits and with a letter
_QUIET = re.compile(rf"(?:(?<![^{_S}{_C}]){_WORD}(?=[{_S}{_C}])|[{_C}])[{_S}]*+(?=([{_C}]|{_WORD}[{_S}{_C}]))")
BLOCK = 16_384
"""Characters that are held back, at most, of a private key."""
_BLOCK = "-----BEGIN"  # of a private key, whose lines are one finding
_END_OF_BLOCK = re.compile(r"-----END [A-Z0-9 ]{1,40}-----")
_LAST_SEPARATOR = re.compile(rf".*[{_S}]", re.DOTALL)
_ESCAPE = re.compile(
    r"\\(?:u([dD][89abAB][0-9a-fA-F]{2})\\u([dD][c-fC-F][0-9a-fA-F]{2})|u([0-9a-fA-F]{4})|([\"\\/bfnrt]))"
)
_LONGEST_ESCAPE = 12
_ESCAPED = {"b": "\b", "f": "\f", "n": "\n", "r": "\r", "t": "\t"}


@dataclass(frozen=True, slots=True)
class Located:
    """A finding, moved."""

    start: int
    end: int
    entity: str


@dataclass(slots=True)
class _Channel:
    before: str = ""  # what went out last, as the model said it
    run: str = ""
    place: Place = json_parts.BEGINNING  # where the run begins, of JSON


class OutputGuard:
    """Redacts the streams of one answer. `find` gives the findings of a text; `redactor` knows what to do with them.

    `reach`: characters of the longest finding that may contain two words without digits in a row, such as a phrase of a
    deny list; so much more is held back.

    In shadow mode the text passes at once, and is counted when its runs are complete. Once the redactor has something
    blocked, the caller ends the answer; what was blocked does not go out.
    """

    __slots__ = ("_channels", "_find", "_reach", "redactor")

    def __init__(self, find: Callable[[str], Sequence[Found]], redactor: Redactor, reach: int = 0) -> None:
        self._find = find
        self._reach = reach
        self._channels: dict[Hashable, _Channel] = {}
        self.redactor = redactor

    def feed(self, channel: Hashable, text: str, json: bool = False) -> str:
        """The next piece of a text; gives what may go out. `json`: it is JSON, whose strings have escapes."""
        state = self._channels.get(channel)
        if state is None:
            state = self._channels[channel] = _Channel()
        run, at = state.run + text, 0
        parts = []
        while True:
            window = run[at:] if len(run) - at <= TOKEN else run[at : at + _window(run, at)]
            cut = _cut(window, self._reach)
            if cut is None:
                break
            out, passed = self._release(state, window, *cut, json)
            parts.append(out)
            at += passed
        state.run = run[at:]
        return text if self.redactor.is_shadow else "".join(parts)

    def finish(self, channel: Hashable, json: bool = False) -> str:
        """The rest of a channel, at its end."""
        state = self._channels.pop(channel, _Channel())
        rest, _ = self._release(state, state.run, len(state.run), len(state.run), json)
        return "" if self.redactor.is_shadow else rest

    def changes(self, text: str, lead: int = 0, json: bool = False) -> list[Change]:
        """What to change in a whole text, behind its first `lead` characters."""
        changes = self.redactor.changes(text, self._findings(text, json), lead)
        return json_parts.fitted(changes, json_parts.parts(text, lead)) if json and changes else changes

    def open_channels(self) -> list[Hashable]:
        """The channels that hold something back."""
        return [channel for channel, state in self._channels.items() if state.run and not self.redactor.is_shadow]

    def _release(self, state: _Channel, run: str, cut: int, seen: int, json: bool) -> tuple[str, int]:
        """What goes out of the run up to about the cut, with as much of it in view as `seen`; and its length there."""
        lead = len(state.before)
        text = state.before + run[:seen]
        findings = self._findings(text, json)
        parts = json_parts.parts(text, lead, state.place) if json else []
        cut += lead
        if findings or parts:
            cut = _apart(cut, lead, findings, parts)
        if json:
            cut = _before_escape(text, lead, cut)
        passed = text[:cut]
        inside = [finding for finding in findings if finding.start < cut] if findings else findings
        changes = self.redactor.changes(passed, inside, lead)
        state.before = passed[-_IN_VIEW:]
        if json:
            changes = json_parts.fitted(changes, parts, state.place)
            state.place = json_parts.place(cut, parts, changes)
        return apply(passed, changes)[lead:], cut - lead

    def _findings(self, text: str, json: bool) -> Sequence[Found]:
        if not json or "\\" not in text:
            return self._find(text)
        view, offsets = _unescaped(text)
        return [Located(offsets[it.start], offsets[it.end], it.entity) for it in self._find(view)]


def _cut(run: str, reach: int) -> tuple[int, int] | None:
    """Where to end the run, and how much of it is to be in view for that; None: not known yet.

    Of several ways to end it, the one that the fewest characters decide.
    """
    if run.startswith(_BLOCK):
        cut = _cut_of_block(run)
    else:
        quiet = _QUIET.search(run)
        if quiet is None and len(run) < RUN:  # as after most pieces
            return None
        cut = _cut_of_words(run, quiet, reach)
    if cut is None:
        return None
    block = run.find(_BLOCK, 1)
    return (block, block) if 0 < block < cut[0] else cut


def _cut_of_block(run: str) -> tuple[int, int] | None:
    end = _END_OF_BLOCK.search(run, 0, BLOCK)
    if end is not None:
        return end.end(), end.end()
    return (BLOCK - _OVERLAP, BLOCK) if len(run) >= BLOCK else None


def _window(run: str, at: int) -> int:
    """How much of what is left is looked at."""
    return BLOCK if run.startswith(_BLOCK, at) else TOKEN


def _cut_of_words(run: str, quiet: re.Match[str] | None, reach: int) -> tuple[int, int] | None:
    if quiet is not None:
        decided = max(quiet.end(1), quiet.end() + reach)
        if decided <= min(len(run), RUN):
            return quiet.end(), quiet.end() + reach
    if len(run) >= RUN and (found := _LAST_SEPARATOR.match(run, 0, RUN - _OVERLAP)):
        return found.end(), RUN
    if quiet is not None and decided <= min(len(run), TOKEN):
        return quiet.end(), quiet.end() + reach
    return (TOKEN - _OVERLAP, TOKEN) if len(run) >= TOKEN else None


def _apart(cut: int, lead: int, findings: Iterable[Found], parts: Iterable[Part]) -> int:
    """The cut, moved out of findings and of JSON's literals: before them, or behind where the run begins with one."""
    whole = [(finding.start, finding.end) for finding in findings]
    whole += [(part.start, part.end) for part in parts if part.kind in (Kind.LITERAL, Kind.REST)]
    start = end = 0
    for first, last in sorted(whole):
        if first < end:
            end = max(end, last)
        elif start < cut < end:
            break
        else:
            start, end = first, last
    if not start < cut < end:
        return cut
    return start if start > lead else end


def _before_escape(text: str, lead: int, cut: int) -> int:
    """The cut, moved out of an escape."""
    if "\\" in text[max(lead, cut - _LONGEST_ESCAPE) : cut]:
        for escape in _ESCAPE.finditer(text, lead):
            if escape.start() < cut < escape.end():
                return escape.start() if escape.start() > lead else escape.end()
            if escape.start() >= cut:
                break
    return cut


def _unescaped(text: str) -> tuple[str, list[int]]:
    """What JSON's escapes mean, and where each of the characters, and the end, stand in the text."""
    parts: list[str] = []
    offsets: list[int] = []
    at = 0
    for found in _ESCAPE.finditer(text):
        parts += (text[at : found.start()], _meaning(found))
        offsets += range(at, found.start() + 1)
        at = found.end()
    parts.append(text[at:])
    offsets += range(at, len(text) + 1)
    return "".join(parts), offsets


def _meaning(escape: re.Match[str]) -> str:
    high, low, code, letter = escape.groups()
    if high is not None:
        return chr(0x10000 + (int(high, 16) - 0xD800 << 10) + int(low, 16) - 0xDC00)
    if code is not None:
        number = int(code, 16)
        return "\ufffd" if 0xD800 <= number < 0xE000 else chr(number)  # one half of a character
    return _ESCAPED.get(letter, letter)
