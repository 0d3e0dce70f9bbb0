"""What Redis says, taken apart as it comes in, wherever the network cut it: RESP2, but for lists within lists."""

_LARGEST = 128 * 2**20
"""Bytes of one text. What is longer is nothing that we asked for."""

_END = b"\r\n"
_NO_TEXT = b"$-1\r\n"  # in the place of one
_ONE = b":1\r\n"  # as nearly every settlement is answered

Value = int | bytes | None

Reply = bytes | list[Value]
"""The line of an error; else what a command gave: numbers, and texts as they are. Of a plain status nobody wants to
know more than that it came: an empty list."""


class _Incomplete(Exception):
    """`args[0]`: the least length at which it can be complete."""


class Replies:
    """The replies on one connection, in their order."""

    def __init__(self) -> None:
        self._parts: list[bytes] = []  # what has come of a reply that is not complete
        self._length = 0  # of all parts
        self._wanted = 0  # the least length at which it can be complete

    def read(self, data: bytes) -> list[Reply]:
        """Those that are complete now. Raises ValueError where this is not what Redis says."""
        if data == _ONE and not self._parts:
            return [[1]]
        if self._parts:
            self._parts.append(data)
            self._length += len(data)
            if self._length < self._wanted:
                return []
            data, self._parts = b"".join(self._parts), []
        found: list[Reply] = []
        texts = data.count(b"$")
        rest = _with_texts(data, found) if texts and texts > data.count(_NO_TEXT) else _without(data, found)
        if rest is not None:
            begun, self._wanted = rest
            self._parts, self._length = [begun], len(begun)
        return found


# Both of these give the beginning of the last reply, if it is not complete, and the least length at which it can be.


def _without(data: bytes, found: list[Reply]) -> tuple[bytes, int] | None:
    """Replies in which no text is, for which every call waits several times: split in one go."""
    lines = data.split(_END)
    last = len(lines) - 1  # which has not ended yet
    at = 0
    while at < last:
        line, ends = lines[at], at + 1
        first = line[:1]
        if first == b":":
            found.append([int(line[1:])])
        elif first == b"*":
            ends += int(line[1:])
            if ends > last:
                break
            found.append(_numbers(lines[at + 1 : ends]))
        else:
            found.append([None] if first == b"$" else _short(line))
        at = ends
    if at == last and not lines[at]:
        return None
    begun = _END.join(lines[at:])
    return begun, len(begun) + 1


def _with_texts(data: bytes, found: list[Reply]) -> tuple[bytes, int] | None:
    at = 0
    try:
        while at < len(data):
            reply, at = _reply(data, at)
            found.append(reply)
    except _Incomplete as incomplete:
        return data[at:], incomplete.args[0] - at
    return None


def _numbers(lines: list[bytes]) -> Reply:
    """Those of one list."""
    numbers = b"".join(lines)
    if b"$" in numbers:
        return [None if line == b"$-1" else int(line[1:]) for line in lines]
    return [*map(int, numbers.split(b":")[1:])]


def _short(line: bytes) -> Reply:
    if line.startswith(b"-"):
        return line
    if line.startswith(b"+"):
        return []
    raise ValueError("not a reply of Redis")


def _reply(data: bytes, at: int) -> tuple[Reply, int]:
    """The reply that begins here, and where it ends."""
    first = data[at : at + 1]
    if first in (b"$", b":"):
        value, end = _value(data, at)
        return [value], end
    line, end = _line(data, at)
    if first != b"*":
        return _short(line), end
    values: list[Value] = []
    for _ in range(int(line[1:])):
        value, end = _value(data, end)
        values.append(value)
    return values, end


def _value(data: bytes, at: int) -> tuple[Value, int]:
    line, begin = _line(data, at)
    number = int(line[1:])
    if line.startswith(b":"):
        return number, begin
    if not line.startswith(b"$") or not -1 <= number <= _LARGEST:
        raise ValueError("not a reply of Redis")
    if number == -1:
        return None, begin
    end = begin + number
    if len(data) < end + len(_END):
        raise _Incomplete(end + len(_END))
    if data[end : end + len(_END)] != _END:
        raise ValueError("a text that is longer than it says")
    return data[begin:end], end + len(_END)


def _line(data: bytes, at: int) -> tuple[bytes, int]:
    end = data.find(_END, at)
    if end < 0:
        raise _Incomplete(len(data) + 1)
    return data[at:end], end + len(_END)
