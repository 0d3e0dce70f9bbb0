"""Everything that is done to the texts of one answer: what the model must not say goes, the caller's values come back.

Guards look at what the model said, before anything is put back: else the caller would lose its own values.
"""

import re
from bisect import bisect_left
from collections import Counter
from collections.abc import Hashable, Sequence

from extproc.edits import Edit
from extproc.redaction import positions
from extproc.redaction.changes import Change, apply
from extproc.redaction.output import OutputGuard
from extproc.redaction.placeholders import Placeholders
from extproc.redaction.positions import Position
from extproc.redaction.restore import Restorer

_ECHOED = frozenset(
    ("instructions", "metadata", "prompt", "prompt_cache_key", "safety_identifier", "tool_choice", "tools", "user")
)
"""What an answer repeats of its request: no guard of answers looks at it."""
_TOLD = frozenset(("arguments", "code", "input", "refusal", "text", "transcript"))
"""Keys of texts that come piece by piece before they come whole."""
_NAMING = """
    call_id created_by encrypted_content finish_reason id item_id model native_finish_reason object response_id role
    service_tier signature status stop_reason system_fingerprint thought_signature type
"""
_LABELS = frozenset(_NAMING.split())
"""Keys of what names an answer and its parts: nobody judges it."""
_EVENTS = re.compile(r"\s*+(?:(?:event|id|retry)?+:[^\r\n]*+[\r\n]++)*+data:\s*+[{\[]")
"""How an event stream begins, whatever it is called."""


class Ear:
    """Keeps what an answer says, after the guards and before anything is put back, until somebody has judged it."""

    __slots__ = ("_heard", "size")

    def __init__(self) -> None:
        self._heard: dict[Hashable, list[str]] = {}
        self.size = 0  # characters that nobody has judged yet

    def hear(self, channel: Hashable, text: str) -> None:
        if text:
            self._heard.setdefault(channel, []).append(text)
            self.size += len(text)

    def take(self) -> list[str]:
        """What was said since the last time, a text for each channel."""
        texts = ["".join(pieces) for pieces in self._heard.values()]
        self._heard.clear()
        self.size = 0
        return texts


class AnswerTexts:
    """The texts of one answer; each guard gets what the one before it lets pass, and the restorer what all do.

    Errors of a guard's detector come out: of that piece nothing has gone out. A piece that cannot be looked through is
    noted in `unread`; it passes as it is, or is `blocked` where that is `strict`.
    """

    __slots__ = ("_blocked", "_ear", "_guards", "_restorer", "strict", "unread")

    def __init__(
        self, placeholders: Placeholders | None, guards: Sequence[OutputGuard] = (), ear: Ear | None = None
    ) -> None:
        self.strict = False
        self.unread = False
        self._ear = ear
        self._restorer = Restorer(placeholders) if placeholders else None
        self._guards = tuple(guards)
        self._blocked = tuple(guard.redactor.blocked for guard in guards if not guard.redactor.is_shadow)

    @property
    def restored(self) -> int:
        """Placeholders that were taken back."""
        return self._restorer.restored if self._restorer else 0

    @property
    def unrestored(self) -> int:
        """Placeholders that this call never gave."""
        return self._restorer.unrestored if self._restorer else 0

    @property
    def counts(self) -> Counter[str]:
        """What all guards found, by entity."""
        total: Counter[str] = Counter()
        for guard in self._guards:
            total.update(guard.redactor.counts.copy())  # a thread that nobody waits for any more may still count
        return total

    @property
    def blocked(self) -> bool:
        """Whether something was said that must not be."""
        if self.unread and self.strict:
            return True
        return any(self._blocked)

    def feed(self, channel: Hashable, text: str, json: bool) -> str:
        """The next piece of a text that streams; gives what can be shown of it and of what was held back."""
        for guard in self._guards:
            text = guard.feed(channel, text, json)
        if self._ear is not None:
            self._ear.hear(channel, text)
        return self._restorer.feed(channel, text, json) if self._restorer else text

    def finish(self, channel: Hashable, json: bool) -> str:
        """What is still held back, at the end of the channel."""
        rest = ""
        for guard in self._guards:
            rest = (guard.feed(channel, rest, json) if rest else "") + guard.finish(channel, json)
        if self._ear is not None:
            self._ear.hear(channel, rest)
        if self._restorer is None:
            return rest
        return self._restorer.feed(channel, rest, json) + self._restorer.finish(channel, json)

    def open_channels(self) -> list[Hashable]:
        """The channels that hold something back."""
        held = [channel for guard in self._guards for channel in guard.open_channels()]
        return held + self._restorer.open_channels() if self._restorer else held

    def text(self, text: str, json: bool = False) -> str:
        """A whole text. One in another encoding than UTF-8, or that is an event stream, cannot be looked through."""
        if "\0" in text or _EVENTS.match(text):
            self.unread = True
            return text
        for guard in self._guards:
            text = apply(text, guard.changes(text, json=json))
        if self._ear is not None:
            self._ear.hear(None, text)
        return self._restorer.text(text, json) if self._restorer else text

    def document(self, body: bytes, again: bool = False) -> list[Edit]:
        """The edits of all strings, keys and long numbers of a JSON text. They do not overlap.

        `again`: its texts have been told before, piece by piece; what is found in them is not counted, but still
        changed or blocked. What else it holds, such as what a tool gave, is new. One of too many texts cannot be looked
        through.
        """
        try:
            return self._edits(body, again)
        except positions.TooMany:
            self.unread = True
            return []

    def _edits(self, body: bytes, again: bool) -> list[Edit]:
        edits: list[Edit] = []
        if self._guards or self._ear is not None:
            said = [position for position in positions.read(body) if not _is_echo(position)]
            old = [position for position in said if _was_told(position)] if again else []
            new = [position for position in said if not _was_told(position)] if again else said
            changed: list[tuple[Position, list[Change]]] = [(position, []) for position in new]
            for guard in self._guards:
                repeated = _uncounted(guard, old)
                changed = [(position, guard.changes(position.text, position.lead)) for position in new]
                edits = _joined(edits, positions.edits(body, [*repeated, *changed]))
            if self._ear is not None:
                for position, changes in changed:
                    if _is_said(position):
                        self._ear.hear((position.path, position.kind), apply(position.text, changes)[position.lead :])
        if self._restorer:
            restored, unrestored = self._restorer.restored, self._restorer.unrestored
            edits = _joined(edits, self._restorer.document(body))
            if again:
                self._restorer.restored, self._restorer.unrestored = restored, unrestored
        return edits


def _uncounted(guard: OutputGuard, told: Sequence[Position]) -> list[tuple[Position, list[Change]]]:
    """What a guard changes in texts that it has seen before. They count again only where they end the answer."""
    redactor = guard.redactor
    counts = redactor.counts.copy()
    changed = [(position, guard.changes(position.text, position.lead)) for position in told]
    if not redactor.blocked:
        redactor.counts = counts
    return changed


def _was_told(position: Position) -> bool:
    """Whether it is, or stands inside, a text that comes piece by piece before it comes whole."""
    at: Position | None = position
    while at is not None:
        if at.path != () and at.path[-1] in _TOLD:
            return True
        at = None if at.outer is None else at.outer.position
    return False


def _is_said(position: Position) -> bool:
    """Whether it is a text to be judged: no label, and none of the tokens that spell what is said elsewhere."""
    path = position.path
    if position.outer is not None or "input" in path:  # of a tool, whose keys are the model's
        return True
    return "logprobs" not in path and (path == () or path[-1] not in _LABELS)


def _is_echo(position: Position) -> bool:
    path = position.path[1:] if position.path[:1] == ("response",) else position.path
    return path[:2] == ("text", "format") or (path != () and path[0] in _ECHOED)


def _joined(edits: list[Edit], more: list[Edit]) -> list[Edit]:
    """The edits, and of the others those that do not touch them."""
    if not edits or not more:
        return edits or more
    edits.sort(key=lambda edit: edit.span.start)
    starts = [edit.span.start for edit in edits]
    return edits + [edit for edit in more if not _touches(edit, edits, starts)]


def _touches(edit: Edit, edits: list[Edit], starts: list[int]) -> bool:
    """Whether it overlaps one of the edits, which are in order."""
    behind = bisect_left(starts, edit.span.end)
    return behind > 0 and edits[behind - 1].span.end > edit.span.start
