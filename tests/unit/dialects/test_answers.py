"""Answers in pieces: whatever the pieces, the client gets the same bytes and the meter the same counts."""

import json
from collections.abc import Iterable, Sequence
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from extproc.dialects import registry, usage
from extproc.dialects.answers import PARSE_WHOLE, Document, LeasedStream, Opaque, PlainText, Stream
from extproc.dialects.endings import Reason
from extproc.dialects.meters import AnthropicMeter, ChatMeter, Meter, PlainMeter, ResponsesMeter
from extproc.dialects.texts import EventTexts
from extproc.edits import Edit, Span
from extproc.model import Usage, UsageSource
from extproc.redaction.answer import AnswerTexts, Ear
from extproc.surfaces import Surface

CAP = 100_000


def chunked(raw: bytes, cuts: Iterable[int]) -> list[bytes]:
    return [raw[start:end] for start, end in pairwise([0, *sorted(cuts), len(raw)])]


def splits(raw: bytes) -> Iterable[list[bytes]]:
    return (chunked(raw, [at]) for at in range(len(raw) + 1))


def sent(answer: Stream | Document | PlainText | Opaque, chunks: Sequence[bytes]) -> bytes:
    """What the client gets for these chunks, the last of which ends the answer."""
    out = []
    for number, chunk in enumerate(chunks, 1):
        changed = answer.feed(chunk, number == len(chunks))
        out.append(chunk if changed is None else changed)
    return b"".join(out)


# ---- streams --------------------------------------------------------------------------------------------

Event = tuple[bytes, bool]  # its bytes, and whether it is the one that the client did not ask for


def chunk(text: str, index: int = 0) -> object:
    return {"choices": [{"index": index, "delta": {"content": text}}], "usage": None}


def usage_event(made: int) -> object:
    return {"choices": [], "usage": {"prompt_tokens": 7, "completion_tokens": made}}


def framed(value: object, end: bytes = b"\n", ascii_only: bool = False) -> bytes:
    data = json.dumps(value, ensure_ascii=ascii_only).encode()
    return b"data: " + data + end + end


_ends = st.sampled_from([b"\n", b"\r\n", b"\r"])
_texts = st.sampled_from(
    ["Hel", "lo", "d\u00e9j\u00e0", "\u4f60\u597d", "\U0001f600", '"}]', "\u0645\u0631\u062d\u0628\u0627"]
)
_content = st.builds(
    lambda text, index, end: (framed(chunk(text, index), end), False), _texts, st.integers(0, 1), _ends
)
_noise = st.sampled_from(
    [b": ping\n\n", b"event: x\r\n\r\n", b"data: {broken\n\n", b'data: {"choices":[]}\n\n', b":\n\n"]
).map(lambda raw: (raw, False))
_hidden = st.builds(lambda made, end: (framed(usage_event(made), end), True), st.integers(1, 9), _ends)


@st.composite
def streams(draw: st.DrawFn) -> list[Event]:
    """Choices interleaved, noise between them, no, one or two usage events, an end or none, blank line or none."""
    events: list[Event] = draw(st.lists(_content | _noise, max_size=6))
    events += draw(st.lists(_hidden, max_size=2))
    events += [(b"data: [DONE]\n\n", False)] * draw(st.integers(0, 1))
    if draw(st.booleans()) and events:
        raw, hidden = events[-1]
        events[-1] = (raw.rstrip(b"\r\n"), hidden)
    return events


def joined(events: Iterable[Event]) -> bytes:
    return b"".join(raw for raw, _ in events)


@given(streams(), st.data())
def test_the_client_gets_all_but_the_usage_event_however_it_is_cut(events: list[Event], data: st.DataObject) -> None:
    raw = joined(events)
    expected = joined(event for event in events if not event[1])
    meter = ChatMeter(hide_usage=True)
    assert sent(Stream(meter, hides=True, cap=CAP), [raw]) == expected
    for chunks in (
        *splits(raw),
        chunked(raw, range(len(raw))),
        chunked(raw, data.draw(st.lists(st.integers(0, len(raw))))),
    ):
        again = ChatMeter(hide_usage=True)
        assert sent(Stream(again, hides=True, cap=CAP), chunks) == expected
        assert (again.finished, again.total(5)) == (meter.finished, meter.total(5))


@given(streams(), st.data())
def test_where_nothing_is_hidden_no_chunk_is_touched(events: list[Event], data: st.DataObject) -> None:
    raw = joined(events)
    hiding = ChatMeter(hide_usage=True)
    sent(Stream(hiding, hides=True, cap=CAP), [raw])
    cuts = data.draw(st.lists(st.integers(0, len(raw)), max_size=9))
    for chunks in (chunked(raw, cuts), chunked(raw, range(len(raw)))):
        meter = ChatMeter(hide_usage=False)
        stream = Stream(meter, hides=False, cap=CAP)
        assert [stream.feed(piece, number == len(chunks)) for number, piece in enumerate(chunks, 1)] == [None] * len(
            chunks
        )
        assert (meter.finished, meter.total(5)) == (hiding.finished, hiding.total(5))


def test_the_usage_of_a_hidden_event_counts() -> None:
    raw = framed(chunk("a")) + framed(usage_event(3)) + b"data: [DONE]\n\n"
    meter = ChatMeter(hide_usage=True)
    assert sent(Stream(meter, hides=True, cap=CAP), [raw]) == framed(chunk("a")) + b"data: [DONE]\n\n"
    assert meter.finished
    assert meter.total(0) == Usage(7, 3, source=UsageSource.REPORTED)


def test_whole_events_are_not_held_back() -> None:
    stream = Stream(ChatMeter(hide_usage=True), hides=True, cap=CAP)
    first, second = framed(chunk("a")), framed(chunk("b"))
    assert stream.feed(first, end=False) is None
    assert stream.feed(second[:9], end=False) == b""
    assert stream.feed(second[9:] + first[:5], end=False) == second
    assert stream.feed(first[5:], end=False) == first
    assert stream.feed(b"", end=True) is None


def test_a_stream_that_breaks_off_still_gives_out_what_came() -> None:
    meter = ChatMeter(hide_usage=True)
    stream = Stream(meter, hides=True, cap=CAP)
    raw = framed(chunk("fourfour")) + framed(chunk("four"))[:20]
    assert stream.feed(raw, end=False) == framed(chunk("fourfour"))
    assert stream.feed(b"", end=True) == framed(chunk("four"))[:20]
    assert meter.total(4) == Usage(4, 2, source=UsageSource.ESTIMATED)


@pytest.mark.parametrize("hides", [False, True])
@pytest.mark.parametrize("size", [1, 7, 64, 99])
@pytest.mark.parametrize("last", [b"", b"\n\n" + framed(usage_event(3))])
def test_an_event_beyond_the_cap_passes_unread_with_all_that_follows(hides: bool, size: int, last: bytes) -> None:
    raw = framed(chunk("four")) + b"data: " + b"x" * 300 + last
    meter = ChatMeter(hide_usage=hides)
    assert sent(Stream(meter, hides, cap=100), chunked(raw, range(size, len(raw), size))) == raw
    assert meter.total(5) == Usage(5, 1, source=UsageSource.ESTIMATED)


def test_an_event_at_the_cap_is_read() -> None:
    raw = framed(usage_event(3))
    for cap, read in ((len(raw) - 1, True), (len(raw) - 2, False)):
        meter = ChatMeter(hide_usage=True)
        assert sent(Stream(meter, hides=True, cap=cap), [raw[:-1], raw[-1:]]) == (b"" if read else raw)
        assert (meter.usage is not None) is read


def test_a_stream_of_responses_gives_its_ids_as_it_flows() -> None:
    meter = ResponsesMeter()
    stream = Stream(meter, hides=False, cap=CAP)
    created = framed({"type": "response.created", "response": {"id": "resp_1"}})
    stream.feed(b"event: response.created\n" + created[:-1], end=False)
    assert meter.made_ids() == []
    stream.feed(created[-1:], end=False)
    assert meter.made_ids() == ["resp_1"]


# ---- leased streams ---------------------------------------------------------------------------------------


def leased(meter: Meter, hides: bool = True, cap: int = CAP) -> LeasedStream:
    return LeasedStream(meter, hides, cap, "openai")


def paid(stream: LeasedStream, chunks: Sequence[bytes]) -> tuple[bytes, int]:
    """What the client gets where everything is paid for, and what was paid."""
    out, tokens = [], 0
    for number, piece in enumerate(chunks, 1):
        for event in stream.feed(piece, number == len(chunks)):
            tokens += stream.weigh(event)
            out.append(stream.passes(event))
    return b"".join(out), tokens


@given(streams(), st.booleans(), st.data())
def test_a_lease_that_lasts_changes_nothing(events: list[Event], hides: bool, data: st.DataObject) -> None:
    raw = joined(events)
    plain = ChatMeter(hide_usage=hides)
    expected = sent(Stream(plain, hides, cap=CAP), [raw])
    cuts = data.draw(st.lists(st.integers(0, len(raw)), max_size=9))
    prices = set()
    for chunks in ([raw], chunked(raw, range(len(raw))), chunked(raw, cuts)):
        meter = ChatMeter(hide_usage=hides)
        got, tokens = paid(leased(meter, hides), chunks)
        prices.add(tokens)
        assert got == expected
        assert (meter.finished, meter.total(5)) == (plain.finished, plain.total(5))
        assert tokens >= meter.total(5).output or meter.usage is not None, "what is paid is an upper bound"
    assert len(prices) == 1, "the price does not hang on the pieces"


@given(st.lists(_content, min_size=1, max_size=6), st.data())
def test_a_lease_may_end_after_any_event(events: list[Event], data: st.DataObject) -> None:
    meter = ChatMeter()
    stream = leased(meter)
    whole = stream.feed(joined(events), end=False)
    count = data.draw(st.integers(0, len(whole)))
    passed = [stream.passes(event) for event in whole[:count] if stream.weigh(event) >= 0]
    for event in whole[count : count + 1]:
        stream.weigh(event)  # it was too dear
    ending = stream.ending(7, tells_usage=True)
    assert passed == whole[:count]
    assert ending.endswith(b"data: [DONE]\n\n")
    assert meter.finished
    unread = ChatMeter()
    got, _ = paid(leased(unread), [*passed, ending])
    assert got == b"".join(passed) + ending, "the ending is whole events"
    assert unread.finished
    only_passed = ChatMeter()
    paid(leased(only_passed), passed)
    assert unread.usage is None or unread.usage.output == only_passed.total(7).output, "what flowed, and no more"


def test_an_event_is_handed_out_only_when_it_is_whole() -> None:
    stream = leased(ChatMeter())
    first, second = framed(chunk("a")), framed(chunk("b"))
    assert stream.feed(first[:-1], end=False) == []
    assert stream.feed(first[-1:] + second[:5], end=False) == [first]
    assert stream.feed(second[5:-2], end=False) == []
    assert stream.feed(b"", end=True) == [second[:-2]]
    assert stream.feed(b"", end=True) == []


def test_weighing_an_event_notes_nothing() -> None:
    meter = ChatMeter()
    stream = leased(meter)
    (event,) = stream.feed(framed(chunk("some words")), end=False)
    assert stream.weigh(event) >= 2
    assert meter.total(0).output == 0
    stream.passes(event)
    assert meter.total(0).output >= 2


def test_an_event_beyond_the_cap_is_told() -> None:
    stream = leased(ChatMeter(), cap=100)
    stream.feed(b"data: " + b"x" * 94, end=False)
    assert not stream.overlong
    stream.feed(b"x", end=False)
    assert stream.overlong


# ---- documents ------------------------------------------------------------------------------------------

CHAT_USAGE = {"prompt_tokens": 9, "completion_tokens": 4, "prompt_tokens_details": {"cached_tokens": 2}}
USED = Usage(9, 4, cached_input=2, source=UsageSource.REPORTED)


def total(meter: Meter, chunks: Sequence[bytes]) -> Usage:
    assert sent(Document(meter), chunks) == b"".join(chunks)
    return meter.total(5)


def test_a_document_is_counted_however_it_is_cut() -> None:
    raw = json.dumps(
        {"choices": [{"message": {"content": "d\u00e9j\u00e0"}}], "usage": CHAT_USAGE}, ensure_ascii=False
    ).encode()
    for chunks in (*splits(raw), chunked(raw, range(len(raw)))):
        meter = ChatMeter()
        assert total(meter, chunks) == USED
        assert meter.finished


@pytest.mark.parametrize(
    "raw", [b"", b"<html>502</html>", b'{"choices":[', b'{"usage":{"prompt_tokens":9}} x', b"\xff"]
)
def test_a_document_that_is_no_json_is_not_finished(raw: bytes) -> None:
    meter = ChatMeter()
    assert total(meter, [raw]) == Usage(5, source=UsageSource.ESTIMATED)
    assert not meter.finished


@pytest.mark.parametrize("raw", [b"[]", b"null", b'"text"', b"{}", b' {"data":[]} '])
def test_a_document_without_usage_is_finished_and_estimated(raw: bytes) -> None:
    meter = PlainMeter()
    assert total(meter, [raw]) == Usage(5, source=UsageSource.ESTIMATED)
    assert meter.finished


def test_a_document_is_not_counted_before_its_end() -> None:
    meter = PlainMeter()
    Document(meter).feed(b'{"usage":{"prompt_tokens":9}}', end=False)
    assert not meter.finished


def large(filling: int, **last: Any) -> bytes:
    return (json.dumps({"id": "resp_1", "data": "x" * filling})[:-1] + "," + json.dumps(last)[1:]).encode()


SIZES = [1000, 70_000, PARSE_WHOLE, 10**9]


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("spare", [-1, 0, 1, 300_000])
def test_usage_at_the_end_is_found_in_documents_of_any_size(size: int, spare: int) -> None:
    raw = large(0, usage=CHAT_USAGE, metadata={"a": "b"})
    raw = large(PARSE_WHOLE - len(raw) + spare, usage=CHAT_USAGE, metadata={"a": "b"})
    assert len(raw) == PARSE_WHOLE + spare
    meter = ChatMeter()
    assert total(meter, chunked(raw, range(size, len(raw), size))) == USED
    assert meter.finished


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("beyond", [0, 1, usage.TAIL, 3 * usage.TAIL])
def test_a_large_document_is_read_by_its_tail_alone_however_it_is_cut(size: int, beyond: int) -> None:
    raw = large(PARSE_WHOLE, usage=CHAT_USAGE, metadata={"a": ""})
    behind = len(raw) - raw.index(b'"usage"')
    raw = large(PARSE_WHOLE, usage=CHAT_USAGE, metadata={"a": "b" * (usage.TAIL - behind + beyond)})
    meter = ChatMeter()
    expected = Usage(5, source=UsageSource.ESTIMATED) if beyond else USED
    assert total(meter, chunked(raw, range(size, len(raw), size))) == expected
    assert meter.finished


def test_a_large_document_is_never_held_whole() -> None:
    document = Document(PlainMeter())
    for _ in range(1000):
        document.feed(b"x" * 10_000, end=False)
        assert sum(map(len, document._parts)) <= PARSE_WHOLE


@pytest.mark.parametrize(
    ("start", "made"),
    [
        (b'{"id":"resp_1",', ["resp_1"]),
        (b' {\n  "id" : "resp_1",\n', ["resp_1"]),
        (b'{"object":"response","id":"resp_1",', []),
        (b'{"id":5,', []),
        (b'{"id":"a\\u0062",', []),
    ],
)
def test_a_large_response_gives_the_id_that_it_starts_with(start: bytes, made: list[str]) -> None:
    raw = start + b'"output":"' + b"x" * PARSE_WHOLE + b'","usage":{"input_tokens":3}}'
    meter = ResponsesMeter()
    assert total(meter, chunked(raw, range(1000, len(raw), 1000))).input == 3
    assert meter.made_ids() == made


def images(keys: Sequence[str], size: int) -> bytes:
    data = [{key: "A" * size} for key in keys]
    return json.dumps({"created": 1, "data": data, "usage": {"input_tokens": 9, "output_tokens": 4}}).encode()


@pytest.mark.parametrize("size", [1, 7, 1000, 70_000, 10**9])
@pytest.mark.parametrize(
    ("raw", "made"),
    [
        (images(["b64_json"] * 3, 20), 3),
        (images(["b64_json"] * 3, 90_000), 3),
        (images(["b64_json"], PARSE_WHOLE), 1),
        (images(["url"] * 10, 30_000), 10),
        (images(["embedding"] * 4, 70_000), 0),
        (b'{"data":[{"url": null, "b64_json":"' + b"A" * PARSE_WHOLE + b'"}],"usage":{"input_tokens":9}}', 1),
        (b'{"data":[{"revised_prompt":"\\"url\\"' + b"A" * PARSE_WHOLE + b'"}],"usage":{"input_tokens":9}}', 0),
    ],
)
def test_images_are_counted_however_large_the_answer_and_however_it_is_cut(raw: bytes, made: int, size: int) -> None:
    if size > 7 or len(raw) < 1000:
        assert total(PlainMeter(), chunked(raw, range(size, len(raw), size))).images == made


def test_an_image_is_counted_where_its_key_is_cut() -> None:
    head, tail = images(["b64_json"] * 2, PARSE_WHOLE).rsplit(b'"b64_json"', 1)
    for at in range(len(b'"b64_json"') + 1):
        pieces = [head, b'"b64_json"'[:at], b'"b64_json"'[at:], tail]
        assert total(PlainMeter(), pieces).images == 2
    singles = [bytes([byte]) for byte in b'"b64_json"']
    assert total(PlainMeter(), [head, *singles, tail]).images == 2


@given(st.integers(0, 400_000), st.lists(st.integers(0, 400_000), max_size=8))
def test_an_anthropic_document_of_any_size_and_cut(filling: int, cuts: list[int]) -> None:
    raw = large(filling, usage={"input_tokens": 3, "cache_read_input_tokens": 2, "output_tokens": 1})
    meter = AnthropicMeter()
    expected = Usage(5, 1, cached_input=2, source=UsageSource.REPORTED)
    assert total(meter, chunked(raw, [min(cut, len(raw)) for cut in cuts])) == expected


# ---- neither --------------------------------------------------------------------------------------------


def test_an_opaque_answer_passes() -> None:
    assert sent(Opaque(), [b"ID3\0", b"\xff", b""]) == b"ID3\0\xff"


# ---- answers whose texts are changed ----------------------------------------------------------------------


class Shouting:
    """Makes `a` an `A`, holds back what follows until the next `.`, and blocks `!`."""

    def __init__(self) -> None:
        self.blocked = False
        self.held: dict[object, str] = {}

    def feed(self, channel: object, text: str, json: bool) -> str:
        done, dot, rest = (self.held.pop(channel, "") + text).rpartition(".")
        self.held[channel] = rest
        return self.text(done + dot)

    def finish(self, channel: object, json: bool) -> str:
        return self.text(self.held.pop(channel, ""))

    def open_channels(self) -> list[object]:
        return [channel for channel, rest in self.held.items() if rest]

    def document(self, body: bytes, again: bool = False) -> list[Edit]:
        self.text(body.decode())
        return [Edit(Span(at, at + 1), b"A") for at, byte in enumerate(body) if byte == ord("a")]

    def text(self, text: str, json: bool = False) -> str:
        self.blocked = self.blocked or "!" in text
        return text.replace("a", "A")


def shouting() -> EventTexts:
    return registry.event_texts(Surface.CHAT, Shouting(), False)


def said(raw: bytes) -> str:
    chunks = [json.loads(line[6:]) for line in raw.decode().split("\n") if line.startswith("data: {")]
    return "".join(choice["delta"].get("content", "") for one in chunks for choice in one["choices"])


DONE = b"data: [DONE]\n\n"


def test_a_stream_is_changed_and_counted_as_the_provider_sent_it() -> None:
    raw = framed(chunk("fast. ")) + framed(chunk("far")) + framed(usage_event(3)) + DONE
    plain = ChatMeter()
    sent(Stream(plain, hides=False, cap=CAP), [raw])
    for hides in (False, True):
        outs = set()
        for chunks in (*splits(raw), chunked(raw, range(len(raw)))):
            meter = ChatMeter(hide_usage=hides)
            outs.add(sent(Stream(meter, hides, CAP, shouting()), chunks))
            assert (meter.finished, meter.total(5)) == (True, plain.total(5))
        (out,) = outs
        assert said(out) == "fAst. fAr"
        assert (b"completion_tokens" in out) is not hides


def test_a_stream_that_is_not_changed_keeps_its_chunks() -> None:
    stream = Stream(ChatMeter(), hides=False, cap=CAP, texts=shouting())
    assert stream.feed(framed(chunk("hello.")), end=False) is None
    assert stream.feed(b"data: [DONE]\n\n", end=True) is None


def test_a_stream_that_breaks_off_tells_what_was_held_back_too() -> None:
    stream = Stream(ChatMeter(), hides=False, cap=CAP, texts=shouting())
    stream.feed(framed(chunk("fast. far")), end=False)
    out = stream.feed(b'data: {"choi', end=True)
    assert out is not None
    assert out.endswith(b'data: {"choi')
    assert said(out.removesuffix(b'data: {"choi')) == " fAr"


def until_blocked(stream: Stream | LeasedStream, raw: bytes) -> bytes:
    if isinstance(stream, Stream):
        return stream.feed(raw, end=False) or b""
    passed = []
    for event in stream.feed(raw, end=False):
        assert stream.weigh(event) > 0
        passed.append(stream.passes(event))
    return b"".join(passed) + stream.tail()


@pytest.mark.parametrize("leases", [False, True])
def test_a_stream_ends_where_something_is_blocked(leases: bool) -> None:
    meter, texts = ChatMeter(), shouting()
    stream = LeasedStream(meter, False, CAP, "openai", texts) if leases else Stream(meter, False, CAP, texts)
    assert not stream.blocked
    raw = b"".join([framed(chunk(text)) for text in ("ha. ", "no! .", "more. ")])
    assert said(until_blocked(stream, raw)) == "hA."
    assert stream.blocked
    assert until_blocked(stream, framed(chunk("more."))) == b""
    ending = stream.ending(7, tells_usage=True, reason=Reason.CONTENT)
    assert b'"finish_reason":"content_filter"' in ending
    assert b'"prompt_tokens":7' in ending
    assert ending.endswith(DONE)
    assert stream.ending(7, tells_usage=True, reason=Reason.CONTENT) == b"", "it ends once"


def test_a_lease_that_ends_tells_what_was_paid_for_and_held_back() -> None:
    meter = ChatMeter()
    stream = LeasedStream(meter, False, CAP, "openai", shouting())
    for event in stream.feed(framed(chunk("fast. far")), end=False):
        stream.weigh(event)
        assert said(stream.passes(event)) == "fAst."
    ending = stream.ending(7, tells_usage=False)
    assert said(ending) == " fAr"
    assert b'"finish_reason":"length"' in ending


def test_a_leased_stream_that_ends_tells_what_was_held_back() -> None:
    stream = LeasedStream(ChatMeter(hide_usage=True), True, CAP, "openai", shouting())
    raw = framed(chunk("far")) + framed(usage_event(3))
    out = [stream.passes(event) for event in stream.feed(raw, end=True)]
    assert b"prompt_tokens" not in b"".join(out)
    assert said(b"".join(out)) == ""
    assert said(stream.tail()) == "fAr"
    assert stream.tail() == b""


@pytest.mark.parametrize("size", [1, 7, 64])
def test_an_event_beyond_the_cap_is_held_back_where_texts_are_changed(size: int) -> None:
    raw = framed(chunk("fast. far")) + b"data: a" + b"x" * 300
    stream = Stream(ChatMeter(), hides=False, cap=200, texts=shouting())
    chunks = chunked(raw, range(size, len(raw), size))
    out = b""
    for number, piece in enumerate(chunks, 1):
        changed = stream.feed(piece, number == len(chunks))
        out += piece if changed is None else changed
    assert stream.overlong
    assert said(out) == "fAst."
    released = stream.release()
    assert not stream.overlong
    assert said(released) == " fAr"
    assert released.endswith(b"data: a" + b"x" * 300)
    assert stream.feed(b"more a", end=True) is None


def test_a_stream_whose_texts_nobody_changes_ends_and_holds_nothing() -> None:
    stream = Stream(ChatMeter(), hides=False, cap=10)
    stream.feed(b"data: " + b"x" * 300, end=False)
    assert (stream.blocked, stream.overlong, stream.release()) == (False, False, b"")
    assert stream.ending(7, False, Reason.CONTENT) == b""
    lease = leased(ChatMeter())
    assert (lease.blocked, lease.tail()) == (False, b"")


@pytest.mark.parametrize(
    ("raw", "expected"),
    [
        (b'{"x": ["a", 1.50]}', b'{"x": ["A", 1.50]}'),
        (b'{"x":', b'{"x":'),
        (b"a\xff", "A\ufffd".encode()),
        (b"b\xff", b"b\xff"),
        (b"", b""),
    ],
)
def test_a_document_is_changed_at_its_end(raw: bytes, expected: bytes) -> None:
    for chunks in (*splits(raw), [raw, b""]):
        document = Document(ChatMeter(), Shouting(), CAP)
        assert all(document.feed(piece, end=False) == b"" for piece in chunks)
        assert document.feed(b"", end=True) == expected


def test_the_probabilities_of_a_changed_document_go() -> None:
    raw = b'{"choices":[{"message":{"content":"a"},"logprobs":{"content":[{"token":"x"}]}}]}'
    assert sent(Document(ChatMeter(), Shouting(), CAP), [raw]) == (
        b'{"choices":[{"messAge":{"content":"A"},"logprobs":null}]}'
    )


@pytest.mark.parametrize("kind", [Document, PlainText])
def test_nothing_of_what_is_blocked_goes_out(kind: type) -> None:
    answer = PlainText(Shouting(), CAP) if kind is PlainText else Document(PlainMeter(), Shouting(), CAP)
    assert not answer.blocked
    assert sent(answer, [b'"a', b'!"']) == b""
    assert answer.blocked


@pytest.mark.parametrize("kind", [Document, PlainText])
@pytest.mark.parametrize("end", [False, True])
def test_what_grows_beyond_the_cap_is_held_back_until_it_is_released(kind: type, end: bool) -> None:
    answer = PlainText(Shouting(), 5) if kind is PlainText else Document(PlainMeter(), Shouting(), 5)
    assert answer.feed(b"abcde", end=False) == b""
    assert not answer.overlong
    assert answer.feed(b"a", end) == b""
    assert answer.overlong
    assert answer.release() == b"abcdea"
    assert not answer.overlong
    assert answer.feed(b"a", end=True) is None
    assert answer.release() == b""


@pytest.mark.parametrize("kind", [Document, PlainText])
def test_what_nobody_waits_for_to_be_changed_is_released_whole(kind: type) -> None:
    meter = ChatMeter()
    answer = PlainText(Shouting(), CAP) if kind is PlainText else Document(meter, Shouting(), CAP)
    pieces = (b'{"choices":[],"usage":{"prompt_tokens":7,', b'"completion_tokens":5}}')
    assert answer.feed(pieces[0], end=False) == b""
    answer.take(pieces[1], end=True)
    assert answer.held == len(b"".join(pieces))
    assert answer.release() == b"".join(pieces)
    assert answer.changed(end=True) is None, "the thread comes too late"
    assert kind is PlainText or meter.total(0).output == 5


def test_a_paid_event_that_cannot_be_looked_through_ends_the_answer_or_passes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("extproc.redaction.positions.MAX_POSITIONS", 3)
    odd = b'data: {"odd":["one","two","three","four"]}\n\n'
    for strict in (False, True):
        texts = AnswerTexts(None, ear=Ear())
        texts.strict = strict
        events = registry.event_texts(Surface.CHAT, texts, json_output=False)
        stream = LeasedStream(ChatMeter(), False, CAP, "openai", events)
        assert stream.passes(odd) == (b"" if strict else odd)
        assert (stream.blocked, texts.unread) == (strict, True)


def test_a_document_whose_texts_nobody_changes_holds_nothing() -> None:
    document = Document(ChatMeter())
    document.feed(b"x" * 300_000, end=False)
    assert (document.blocked, document.overlong, document.release()) == (False, False, b"")


@pytest.mark.parametrize("raw", [b"a far call", b"4111", b"[a] x", b'{"a'])
def test_a_plain_text_is_changed_as_one(raw: bytes) -> None:
    for chunks in splits(raw):
        answer = PlainText(Shouting(), CAP)
        assert sent(answer, chunks) == raw.replace(b"a", b"A")
    assert answer.unread


def test_a_large_document_that_is_changed_is_counted_by_its_tail() -> None:
    raw = large(PARSE_WHOLE, usage=CHAT_USAGE)
    meter = ChatMeter()
    assert sent(Document(meter, Shouting(), 10**6), chunked(raw, range(10_000, len(raw), 10_000))) == raw.replace(
        b"a", b"A"
    )
    assert meter.total(5) == USED
