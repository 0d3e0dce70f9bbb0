"""What Redis says, however the network cuts it."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from extproc.stores.redis.replies import Replies, Reply, Value

TEXTS = st.one_of(
    st.binary(max_size=40),
    st.text("$*:-+\r\n0123", max_size=20).map(str.encode),
    st.sampled_from([bytes(range(256)), b"\r\n", b"$3\r\nabc\r\n", b"\r", b"\n"]),
)
NUMBERS = st.integers(-(2**63), 2**63 - 1)
VALUES = st.one_of(NUMBERS, TEXTS, st.none())
LINES = st.binary(max_size=20).filter(lambda line: b"\r" not in line and b"\n" not in line)
REPLIES = st.one_of(
    st.lists(NUMBERS, max_size=20),
    st.lists(VALUES, max_size=8),
    st.builds(lambda line: b"-" + line, LINES),
)


def said(value: Value) -> bytes:
    """A value as Redis writes it."""
    if value is None:
        return b"$-1\r\n"
    return b":%d\r\n" % value if isinstance(value, int) else b"$%d\r\n%b\r\n" % (len(value), value)


def written(reply: Reply) -> bytes:
    if isinstance(reply, bytes):
        return reply + b"\r\n"
    return b"*%d\r\n" % len(reply) + b"".join(map(said, reply))


@given(st.lists(REPLIES, max_size=6), st.data())
def test_they_are_read_wherever_they_are_cut(replies: list[Reply], data: st.DataObject) -> None:
    text = b"".join(map(written, replies))
    cuts = data.draw(st.lists(st.integers(0, len(text)), max_size=8).map(sorted))
    reader = Replies()
    pieces = [text[begin:end] for begin, end in zip([0, *cuts], [*cuts, len(text)], strict=True)]
    assert [reply for piece in pieces for reply in reader.read(piece)] == replies


@given(VALUES, TEXTS)
def test_a_text_is_read_at_every_cut(first: Value, second: bytes) -> None:
    replies: list[Reply] = [[first, second, 7], [second], [1, 2]]
    text = b"".join(map(written, replies))
    for cut in range(len(text) + 1):
        reader = Replies()
        assert reader.read(text[:cut]) + reader.read(text[cut:]) == replies


@given(st.lists(REPLIES, min_size=1, max_size=4))
def test_each_comes_with_its_last_byte(replies: list[Reply]) -> None:
    reader = Replies()
    for reply in replies:
        text = written(reply)
        assert [one for byte in text[:-1] for one in reader.read(bytes([byte]))] == []
        assert reader.read(text[-1:]) == [reply]


def test_what_is_not_in_a_list() -> None:
    """Of a status it is enough that it came."""
    text = b"+OK\r\n:5\r\n$3\r\na$b\r\n$-1\r\n*-1\r\n-ERR of $5\r\n"
    assert Replies().read(text) == [[], [5], [b"a$b"], [None], [], b"-ERR of $5"]
    assert Replies().read(b"+OK\r\n:-5\r\n-ERR of 5\r\n") == [[], [-5], b"-ERR of 5"]


def test_a_large_text_in_small_pieces_is_put_together_once() -> None:
    reader, size = Replies(), 2**20
    assert reader.read(b"*2\r\n$%d\r\n" % size) == []
    for _ in range(size // 1024):
        assert reader.read(b"\r\n" * 512) == []
    assert len(reader._parts) > 1000
    assert reader.read(b"\r\n:1\r\n") == [[b"\r\n" * (size // 2), 1]]
    assert reader._parts == []


@pytest.mark.parametrize(
    "text",
    [
        b"HTTP/1.1 400 Bad Request\r\n",
        b"\r\n",
        b":one\r\n",
        b"*x\r\n",
        b"*2\r\n:1\r\nx\r\n",
        b"$x\r\n",
        b"$-2\r\n",
        b"$3\r\nabcd\r\n",
        b"$1\r\naxx+OK",
        b"$134217729\r\n",
        b"*1\r\n+$\r\n",
        b"*1\r\n*1\r\n$1\r\na\r\n",
        b"$1\r\na\r\nx",
    ],
)
def test_what_redis_does_not_say(text: bytes) -> None:
    reader = Replies()
    with pytest.raises(ValueError):  # noqa: PT011 - whatever it is, the connection is dropped
        reader.read(text + b"\r\n")
