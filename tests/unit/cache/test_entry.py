"""An entry opens as what it was, under its own digest and key, and nothing else opens."""

import hmac
import json
import pickle
import random
from dataclasses import replace
from typing import Any

import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from extproc.cache.entry import Entry, seal, unseal

KEY = b"k" * 32
DIGEST = "0a" * 32
LARGEST = 2**20
ENTRY = Entry(
    body=b'{"choices": []}',
    content_type="application/json",
    made=1_760_000_000_000,
    model="gpt-4o",
    backend="openai",
    input=7,
    output=9,
    cost=1_500,
)
LONG = replace(ENTRY, body=b"data: token\n\n" * 500, content_type="text/event-stream")
START = 1 + 32 + 4

COUNTS = st.integers(0, 2**63 - 1)
ENTRIES = st.builds(
    Entry,
    body=st.binary(max_size=300)
    | st.builds(lambda piece, times: piece * times, st.binary(max_size=9), COUNTS.map(lambda n: n % 500)),
    content_type=st.text(max_size=20),
    made=COUNTS,
    model=st.text(max_size=20),
    backend=st.text(max_size=20),
    input=COUNTS,
    output=COUNTS,
    cost=st.none() | COUNTS,
)


def opened(sealed: bytes, digest: str = DIGEST, key: bytes = KEY, largest: int = LARGEST) -> Entry | None:
    return unseal(sealed, digest, key, largest)


# ---- what it promises ---------------------------------------------------------------------------------------


@given(ENTRIES, st.text(max_size=64), st.binary(max_size=64))
def test_an_entry_opens_as_what_it_was(entry: Entry, digest: str, key: bytes) -> None:
    assert unseal(seal(entry, digest, key), digest, key, LARGEST) == entry


@given(ENTRIES)
def test_it_opens_under_its_own_digest_and_key_only(entry: Entry) -> None:
    sealed = seal(entry, DIGEST, KEY)
    assert opened(sealed, digest="0b" * 32) is None
    assert opened(sealed, digest="") is None
    assert opened(sealed, digest=DIGEST + "0") is None
    assert opened(sealed, key=b"l" * 32) is None
    assert opened(sealed, key=b"") is None


def test_long_answers_are_packed_and_noise_is_not() -> None:
    assert len(seal(LONG, DIGEST, KEY)) < len(LONG.body) / 10
    noise = replace(ENTRY, body=random.Random(1).randbytes(5_000))
    assert len(seal(noise, DIGEST, KEY)) < len(noise.body) + 300
    assert opened(seal(noise, DIGEST, KEY)) == noise


@pytest.mark.parametrize("entry", [ENTRY, LONG])
def test_no_body_beyond_the_limit_opens(entry: Entry) -> None:
    sealed = seal(entry, DIGEST, KEY)
    assert opened(sealed, largest=len(entry.body)) == entry
    assert opened(sealed, largest=len(entry.body) - 1) is None
    assert opened(sealed, largest=0) is None


# ---- what somebody changed ------------------------------------------------------------------------------------


@pytest.mark.parametrize("entry", [ENTRY, LONG])
def test_a_bit_that_was_flipped_anywhere_closes_it(entry: Entry) -> None:
    sealed = seal(entry, DIGEST, KEY)
    for at in range(len(sealed)):
        for bit in range(8):
            assert opened(sealed[:at] + bytes([sealed[at] ^ 1 << bit]) + sealed[at + 1 :]) is None, (at, bit)


@pytest.mark.parametrize("entry", [ENTRY, LONG])
def test_it_opens_whole_or_not_at_all(entry: Entry) -> None:
    sealed = seal(entry, DIGEST, KEY)
    assert all(opened(sealed[:end]) is None for end in range(len(sealed)))
    assert all(opened(sealed[start:]) is None for start in range(1, len(sealed)))
    for more in (b"\0", b"\n", sealed):
        assert opened(sealed + more) is None
        assert opened(more + sealed) is None


@given(ENTRIES, ENTRIES)
def test_halves_of_two_entries_make_none(one: Entry, other: Entry) -> None:
    first, second = seal(one, DIGEST, KEY), seal(other, DIGEST, KEY)
    for at in (1, 33, 37, len(first) // 2):
        mixed = first[:at] + second[at:]
        assert opened(mixed) is None or mixed in (first, second)


@pytest.mark.parametrize(
    "junk",
    [
        b"",
        b"\x01",
        b"\x01" * START,
        b"\x02" + seal(ENTRY, DIGEST, KEY)[1:],
        pickle.dumps(ENTRY),
        pickle.dumps({"body": b"x"}),
        json.dumps({"choices": []}).encode(),
        ENTRY.body,
        zstandard.ZstdCompressor().compress(ENTRY.body),
        b"\x01" + bytes(10 * 2**20),
        b"x" * 10 * 2**20,
    ],
    ids=lambda junk: f"{len(junk)}-{junk[:8]!r}",
)
def test_junk_does_not_open(junk: bytes) -> None:
    assert opened(junk) is None


@given(st.binary(max_size=200))
def test_nothing_that_is_made_up_opens(junk: bytes) -> None:
    assert opened(junk) is None
    assert opened(b"\x01" + junk) is None


# ---- what somebody with the key, or another version of this, wrote --------------------------------------------------


def forged(head: Any, body: bytes, length: int | None = None) -> bytes:
    """Sealed as it should be, whatever is in it; written after the description of the format."""
    written = head if isinstance(head, bytes) else json.dumps(head).encode()
    rest = (len(written) if length is None else length).to_bytes(4) + written + body
    mac = hmac.new(KEY, b"entry\x01" + len(DIGEST).to_bytes(4) + DIGEST.encode() + rest, "sha256").digest()
    return b"\x01" + mac + rest


HEAD = {
    "content_type": "application/json",
    "made": 1,
    "model": "m",
    "backend": "b",
    "input": 0,
    "output": 0,
    "cost": None,
    "size": 2,
    "packed": False,
}


def without(name: str) -> dict[str, Any]:
    return {key: value for key, value in HEAD.items() if key != name}


def broken(names: tuple[str, ...], values: tuple[Any, ...]) -> list[dict[str, Any]]:
    return [{**HEAD, name: value} for name in names for value in values]


def test_what_is_sealed_after_the_description_opens() -> None:
    assert opened(forged(HEAD, b"{}")) == Entry(b"{}", "application/json", 1, "m", "b", 0, 0)


@pytest.mark.parametrize(
    "head",
    [
        *(without(name) for name in HEAD),
        {**HEAD, "more": 1},
        {**HEAD, "body": "x"},
        *broken(("content_type", "model", "backend"), (None, 1, ["a"], True)),
        *broken(("made", "input", "output", "cost", "size"), (-1, 1.0, "1", True, [], 2**63, 2**64, 1e300)),
        *broken(("made", "input", "output", "size", "packed"), (None,)),
        {**HEAD, "packed": 0},
        {**HEAD, "packed": "zstd"},
        {**HEAD, "size": 1},
        {**HEAD, "size": 3},
        {**HEAD, "packed": True},
        [HEAD],
        None,
        b"",
        b"{",
        b"\xff",
        b'{"size": 2}' * 2,
        {**HEAD, "content_type": "x" * LARGEST},
    ],
    ids=lambda head: str(head)[:150],
)
def test_a_head_has_exactly_what_it_must_have(head: Any) -> None:
    assert opened(forged(head, b"{}")) is None


@pytest.mark.parametrize("length", [0, 1, 10_000, 2**32 - 1])
def test_a_head_of_another_length_does_not_open(length: int) -> None:
    assert opened(forged(HEAD, b"{}", length)) is None


def packed(body: bytes, **options: Any) -> bytes:
    return zstandard.ZstdCompressor(**options).compress(body)


def test_a_bomb_does_not_go_off() -> None:
    """Whatever the head says of it, and whatever the frame says itself."""
    bomb = packed(bytes(100 * 2**20))
    assert len(bomb) < 20_000
    for size in (2, 100, LARGEST, LARGEST + 1, 100 * 2**20):
        assert opened(forged({**HEAD, "size": size, "packed": True}, bomb)) is None
    silent = packed(bytes(100 * 2**20), write_content_size=False)
    for size in (2, LARGEST):
        assert opened(forged({**HEAD, "size": size, "packed": True}, silent)) is None


@pytest.mark.parametrize(
    "frame",
    [
        b"",
        b"{}",
        packed(b"{}")[:-1],
        packed(b"{}") + b"x",
        packed(b"{}") + packed(b"{}"),
        packed(b"{}") + packed(b""),
        packed(b"{ }"),
        packed(b"{}", write_content_size=False),
        packed(b"{}", write_checksum=True)[:-1] + b"x",
        packed(b"{}").replace(b"\x28\xb5\x2f\xfd", b"\x50\x2a\x4d\x18"),
    ],
)
def test_a_packed_body_is_one_frame_of_its_size(frame: bytes) -> None:
    assert opened(forged({**HEAD, "packed": True}, packed(b"{}"))) is not None
    assert opened(forged({**HEAD, "packed": True}, frame)) is None
