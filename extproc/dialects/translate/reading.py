"""An answer that comes in pieces, translated as it comes: a stream event by event, anything else whole."""

from collections.abc import Callable

from extproc.dialects.sse import EventReader
from extproc.dialects.translate.direction import AnswerTranslation


class TranslatedStream:
    """An event stream. `cap`: bytes of the largest event."""

    __slots__ = ("_answer", "_cap", "_reader")

    def __init__(self, answer: AnswerTranslation, cap: int) -> None:
        self._answer = answer
        self._cap = cap
        self._reader = EventReader()

    @property
    def overlong(self) -> bool:
        """Whether an event has grown beyond the cap: nothing more comes of this answer."""
        return self._reader.held > self._cap

    def feed(self, chunk: bytes, end: bool) -> bytes:
        """What the chunk completes, translated."""
        out = [self._answer.event(event) for event in self._reader.feed(chunk)]
        if end and not self.overlong:
            if rest := self._reader.rest():
                out.append(self._answer.event(rest))
            out.append(self._answer.end())
        return b"".join(out)


class TranslatedWhole:
    """A body that is held back to its end, up to `cap` bytes, and then translated."""

    __slots__ = ("_cap", "_convert", "_parts", "_size")

    def __init__(self, convert: Callable[[bytes], bytes], cap: int) -> None:
        self._convert = convert
        self._cap = cap
        self._parts: list[bytes] = []
        self._size = 0

    @property
    def overlong(self) -> bool:
        """Whether it has grown beyond the cap: nothing comes of it."""
        return self._size > self._cap

    def feed(self, chunk: bytes, end: bool) -> bytes:
        """Nothing until the end."""
        self._size += len(chunk)
        if self.overlong:
            self._parts = []
            return b""
        self._parts.append(chunk)
        return self._convert(b"".join(self._parts)) if end else b""


Translated = TranslatedStream | TranslatedWhole
