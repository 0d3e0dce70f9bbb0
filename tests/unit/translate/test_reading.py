"""An answer that is translated as it comes: whole, in pieces, and beyond the cap."""

import pytest

from extproc.dialects.translate.reading import TranslatedStream, TranslatedWhole


class Loud:
    """A translation that puts everything in capitals."""

    def document(self, body: bytes) -> bytes:
        return body.upper()

    def event(self, event: bytes) -> bytes:
        return event.upper()

    def end(self) -> bytes:
        return b"END\n\n"

    def error(self, status: int, body: bytes) -> bytes:
        return b"%d " % status + body.upper()


STREAM = b"data: a\n\ndata: b\n\ndata: rest"


@pytest.mark.parametrize("size", range(1, len(STREAM) + 1))
def test_a_stream_is_translated_event_by_event_however_it_is_cut(size: int) -> None:
    reading = TranslatedStream(Loud(), 100)
    pieces = [STREAM[at : at + size] for at in range(0, len(STREAM), size)]
    out = [reading.feed(piece, end=False) for piece in pieces]
    assert b"".join(out) == b"DATA: A\n\nDATA: B\n\n"
    assert reading.feed(b"", end=True) == b"DATA: RESTEND\n\n"


def test_of_an_overlong_event_nothing_comes_and_what_was_before_it_does() -> None:
    reading = TranslatedStream(Loud(), 10)
    assert reading.feed(b"data: a\n\ndata: bcdefgh", end=False) == b"DATA: A\n\n"
    assert reading.overlong
    assert reading.feed(b"", end=True) == b""


def test_a_whole_answer_comes_at_its_end() -> None:
    reading = TranslatedWhole(Loud().document, 5)
    assert (reading.feed(b"ab", end=False), reading.feed(b"cde", end=True)) == (b"", b"ABCDE")
    assert not reading.overlong


def test_of_an_overlong_one_nothing_comes() -> None:
    reading = TranslatedWhole(Loud().document, 5)
    assert (reading.feed(b"abc", end=False), reading.feed(b"def", end=False), reading.feed(b"g", end=True)) == (
        b"",
    ) * 3
    assert reading.overlong
