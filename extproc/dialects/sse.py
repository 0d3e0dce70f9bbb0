"""Server-sent events, incrementally and at the level of bytes.

Lines end with LF, CRLF or CR, and an event with an empty line (WHATWG HTML, section 9.2.6). Events come
out as the bytes that came in, whatever the chunks they came in were.
"""

import re

_BOUNDARY = re.compile(rb"(?:\r\n|\n|\r(?!\n)){2}")
_LINES = re.compile(rb"\r\n|\n|\r")


class EventReader:
    """Cuts a byte stream into events. Work is linear in the bytes fed; who feeds it bounds `held`."""

    __slots__ = ("_buffer", "_searched")

    def __init__(self) -> None:
        self._buffer = b""
        self._searched = 0

    @property
    def held(self) -> int:
        """Bytes of the event that has not ended yet."""
        return len(self._buffer)

    def feed(self, chunk: bytes) -> list[bytes]:
        """The events that this chunk completes, each with its terminating empty line."""
        buffer = self._buffer + chunk if self._buffer else chunk
        events: list[bytes] = []
        start = 0
        for found in _BOUNDARY.finditer(buffer, self._searched):
            end = found.end()
            if end == len(buffer) and buffer.endswith(b"\r"):
                break  # the LF of a CRLF may be the next byte
            events.append(buffer[start:end])
            start = end
        self._buffer = buffer[start:]
        self._searched = max(0, len(self._buffer) - 3)
        return events

    def rest(self) -> bytes:
        """What is held of an event that has not ended; empties the reader."""
        rest, self._buffer, self._searched = self._buffer, b"", 0
        return rest


def data(event: bytes) -> bytes:
    """The data of an event: the values of its data lines joined by LF; empty for comments and pings."""
    if event.startswith(b"data: ") and event.endswith(b"\n\n") and event.find(b"\n") == len(event) - 2:
        return event[6:-2]  # by far the commonest form
    values = []
    for line in _LINES.split(event):
        if line.startswith(b"data:"):
            value = line[5:]
            values.append(value[1:] if value.startswith(b" ") else value)
    return b"\n".join(values)
