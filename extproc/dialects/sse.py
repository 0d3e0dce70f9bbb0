"""Server-sent events, incrementally and at the level of bytes.

Lines end with LF, CRLF or CR, and an event with an empty line (WHATWG HTML, section 9.2.6). Events come
out as the bytes that came in, whatever the chunks they came in were.
"""

import re
from itertools import pairwise

_END = rb"(?:\r\n|\n|\r(?!\n))"
# Written out by first byte, so that the search leaps from one to the next.
_BOUNDARY = re.compile(rb"\n" + _END + rb"|\r\n" + _END + rb"|\r(?!\n)" + _END)
_LINES = re.compile(rb"\r\n|\n|\r")


class EventReader:
    """Cuts a byte stream into events. Work is linear in the bytes fed; who feeds it bounds `held`."""

    __slots__ = ("_buffer", "_searched")

    def __init__(self) -> None:
        self._buffer = bytearray()
        self._searched = 0

    @property
    def held(self) -> int:
        """Bytes of the event that has not ended yet."""
        return len(self._buffer)

    def feed(self, chunk: bytes) -> list[bytes]:
        """The events that this chunk completes, each with its terminating empty line."""
        if not self._buffer and b"\r" not in chunk:  # by far the commonest: whole events, lines ended by LF
            if chunk.find(b"\n\n") == len(chunk) - 2 >= 0:
                self._searched = 0
                return [chunk]
            *events, rest = chunk.split(b"\n\n")
            self._buffer += rest
            self._searched = max(0, len(rest) - 3)
            return [event + b"\n\n" for event in events]
        self._buffer += chunk
        ends = [found.end() for found in _BOUNDARY.finditer(self._buffer, self._searched)]
        if ends and ends[-1] == len(self._buffer) and self._buffer.endswith(b"\r"):
            ends.pop()  # the LF of a CRLF may be the next byte
        cut = bytes(self._buffer) if ends else b""
        del self._buffer[: ends[-1] if ends else 0]
        self._searched = max(0, len(self._buffer) - 3)
        return [cut[start:end] for start, end in pairwise((0, *ends))]

    def rest(self) -> bytes:
        """What is held of an event that has not ended; empties the reader."""
        rest = bytes(self._buffer)
        self._buffer.clear()
        self._searched = 0
        return rest


def data(event: bytes) -> bytes:
    """The data of an event: the values of its data lines joined by LF; empty for comments and pings."""
    one_line = event.endswith(b"\n\n") and event.find(b"\n") == len(event) - 2 and b"\r" not in event
    if one_line and event.startswith(b"data: "):
        return event[6:-2]  # by far the commonest form
    values = []
    for line in _LINES.split(event):
        if line.startswith(b"data:") or line == b"data":
            value = line[5:]
            values.append(value[1:] if value.startswith(b" ") else value)
    return b"\n".join(values)
