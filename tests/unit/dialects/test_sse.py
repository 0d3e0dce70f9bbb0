"""The event reader at every split, against the reading that WHATWG HTML 9.2.6 prescribes."""

import re
from collections.abc import Iterable, Sequence
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from extproc.dialects import sse
from extproc.dialects.sse import EventReader

PIECES = [
    b"data: one",
    b"data:two",
    b"data:  three",
    b"data",
    b"data:",
    b": comment",
    b":",
    b"event: message",
    b"id: 7",
    "data: d\u00e9j\u00e0 \u4f60\u597d \U0001f600".encode(),
    b"dataset: x",
    b" data: x",
    b"\n",
    b"\n",
    b"\r\n",
    b"\r\n",
    b"\r",
    b"\n\n",
    b"\r\n\r\n",
    b"\r\r",
]
streams = st.lists(st.sampled_from(PIECES), max_size=30).map(b"".join)


def read(chunks: Iterable[bytes]) -> tuple[list[bytes], bytes]:
    """The events of the chunks, and what is left."""
    reader = EventReader()
    events = [event for chunk in chunks for event in reader.feed(chunk)]
    held = reader.held
    rest = reader.rest()
    assert (held, reader.held) == (len(rest), 0)
    return events, rest


def chunked(raw: bytes, cuts: Sequence[int]) -> list[bytes]:
    marks = [0, *sorted(cuts), len(raw)]
    return [raw[start:end] for start, end in pairwise(marks)]


def prescribed(raw: bytes) -> list[bytes]:
    """The data of the events that a client dispatches, read line by line."""
    events: list[bytes] = []
    values: list[bytes] = []
    for line in re.split(rb"\r\n|\n|\r", raw)[:-1]:
        name, _, value = line.partition(b":")
        if name == b"data":
            values.append(value.removeprefix(b" "))
        if not line:
            events += [b"\n".join(values)] if values else []
            values = []
    return events


@given(streams)
def test_every_split_gives_the_same_events_and_all_the_bytes(raw: bytes) -> None:
    whole = read([raw])
    assert b"".join(whole[0]) + whole[1] == raw
    for at in range(len(raw) + 1):
        assert read([raw[:at], raw[at:]]) == whole
    assert read(raw[at : at + 1] for at in range(len(raw))) == whole


@given(streams, st.data())
def test_any_chunking_gives_the_same_events(raw: bytes, data: st.DataObject) -> None:
    cuts = data.draw(st.lists(st.integers(0, len(raw)), max_size=12))
    assert read(chunked(raw, cuts)) == read([raw])


@given(streams)
def test_events_are_those_that_the_standard_dispatches(raw: bytes) -> None:
    events, _ = read([raw, b"x"])  # one more byte: no line end is in doubt any more
    # An event of empty data lines is an event, and one without data lines is none: they read alike here.
    read_data = [found for event in events if (found := sse.data(event))]
    assert read_data == [found for found in prescribed(raw + b"x") if found]


@given(st.binary(max_size=60))
def test_any_bytes_come_out_as_they_came_in(raw: bytes) -> None:
    events, rest = read(raw[at : at + 1] for at in range(len(raw)))
    assert b"".join(events) + rest == raw
    for event in [*events, rest]:
        sse.data(event)


@pytest.mark.parametrize(
    ("raw", "events", "rest"),
    [
        (b"data: 1\n\ndata: 2\n\n", [b"data: 1\n\n", b"data: 2\n\n"], b""),
        (b"data: 1\r\n\r\ndata: 2", [b"data: 1\r\n\r\n"], b"data: 2"),
        (b"data: 1\r\rdata: 2\r\r", [b"data: 1\r\r"], b"data: 2\r\r"),
        (b"data: 1\n\r\ndata: 2\r\n\n", [b"data: 1\n\r\n", b"data: 2\r\n\n"], b""),
        (b"data: 1\r\n\r", [], b"data: 1\r\n\r"),
        (b"data: 1\n\n\n\n", [b"data: 1\n\n", b"\n\n"], b""),
        (b": ping\n\n", [b": ping\n\n"], b""),
        (b"", [], b""),
    ],
)
def test_events_keep_their_bytes(raw: bytes, events: list[bytes], rest: bytes) -> None:
    assert read([raw]) == (events, rest)


def test_an_event_comes_out_with_the_chunk_that_ends_it() -> None:
    reader = EventReader()
    assert [reader.feed(chunk) for chunk in (b"data: 1\n", b"\nda", b"ta: 2\n\n")] == [
        [],
        [b"data: 1\n\n"],
        [b"data: 2\n\n"],
    ]


@pytest.mark.parametrize(
    ("event", "data"),
    [
        (b"data: x\n\n", b"x"),
        (b"data:x\n\n", b"x"),
        (b"data:  x\n\n", b" x"),
        (b"data: x\r\n\r\n", b"x"),
        (b"data: x\r\n\n", b"x"),
        (b"data: x\r\r", b"x"),
        (b"data: x\rdata: y\n\n", b"x\ny"),
        (b"data: x\ndata: y\n\n", b"x\ny"),
        (b"data: x\ndata\n\n", b"x\n"),
        (b"event: e\nid: 1\ndata: x\nretry: 5\n\n", b"x"),
        (b"\ndata: x\n\n", b"x"),
        (b"data: x", b"x"),
        (b"data: x\n", b"x"),
        (b": data: x\n\n", b""),
        (b"\n\n", b""),
        (b"", b""),
        (b"dataset: x\n\n", b""),
    ],
)
def test_data_is_what_the_data_lines_say(event: bytes, data: bytes) -> None:
    assert sse.data(event) == data


def test_many_tiny_chunks_are_searched_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Counted, not timed: an event in single bytes is not searched again from its start."""
    searched = 0

    class Counted:
        def finditer(self, buffer: bytearray, start: int) -> Iterable[re.Match[bytes]]:
            nonlocal searched
            searched += len(buffer) - start
            return boundary.finditer(buffer, start)

    boundary = sse._BOUNDARY
    monkeypatch.setattr(sse, "_BOUNDARY", Counted())
    raw = b"data: " + b"x" * 20_000 + b"\n\n"
    events, rest = read(raw[at : at + 1] for at in range(len(raw)))
    assert (events, rest) == ([raw], b"")
    assert searched <= 5 * len(raw)
