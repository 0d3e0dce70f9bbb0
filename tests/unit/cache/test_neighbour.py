"""A question as it is kept: what opens, and that nothing else does."""

from dataclasses import replace

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from extproc.cache import neighbour, seals, vectors
from extproc.cache.neighbour import Neighbour
from extproc.cache.question import LONGEST
from extproc.stores.neighbours import LARGEST

KEY, PARTITION = b"k" * 32, "a" * 64
VECTOR = vectors.packed([0.5, -0.25] * 192)
assert VECTOR is not None
ONE = Neighbour("What is <EMAIL_ADDRESS_1>?", VECTOR, "d" * 64, 1_700_000_000_000)
SEALED = neighbour.seal(ONE, PARTITION, KEY)


@given(st.text(max_size=200), st.integers(0, 2**63 - 1))
def test_what_is_sealed_opens(text: str, ends: int) -> None:
    one = replace(ONE, text=text, ends=ends)
    assert neighbour.unseal(neighbour.seal(one, PARTITION, KEY), PARTITION, KEY) == one


@pytest.mark.parametrize("mark", ["\x01", "\U0010ffff", '"', "\u2028"])
def test_the_longest_fits_a_store(mark: str) -> None:
    longest = vectors.packed([1.0] * vectors.MOST)
    assert longest is not None
    sealed = neighbour.seal(replace(ONE, text=mark * LONGEST, vector=longest), PARTITION, KEY)
    assert len(sealed) <= LARGEST
    assert neighbour.unseal(sealed, PARTITION, KEY) is not None


def test_not_in_another_partition_or_with_another_key() -> None:
    assert neighbour.unseal(SEALED, "b" * 64, KEY) is None
    assert neighbour.unseal(SEALED, PARTITION, b"x" * 32) is None


def test_no_byte_of_it_may_change() -> None:
    for at in range(len(SEALED)):
        changed = SEALED[:at] + bytes([SEALED[at] ^ 1]) + SEALED[at + 1 :]
        assert neighbour.unseal(changed, PARTITION, KEY) is None
    for cut in (b"", SEALED[:20], SEALED[:-1], SEALED + b"\x80"):
        assert neighbour.unseal(cut, PARTITION, KEY) is None


GOOD = {"text": "t", "digest": "d", "ends": 1}


@pytest.mark.parametrize(
    "fields",
    [
        GOOD | {"more": 1},
        {"text": "t", "digest": "d"},
        GOOD | {"text": 1},
        GOOD | {"digest": None},
        GOOD | {"ends": "1"},
        GOOD | {"ends": -1},
        GOOD | {"ends": 2**63},
        ["t"],
    ],
)
def test_what_is_sealed_by_the_key_must_still_be_one(fields: object) -> None:
    def sealed(head: bytes, vector: bytes) -> bytes:
        content = len(head).to_bytes(4) + head + vector
        return seals.seal(b"neighbour", b"\x01", PARTITION, content, KEY)

    good = orjson.dumps(GOOD)
    assert neighbour.unseal(sealed(good, ONE.vector.data), PARTITION, KEY) is not None
    assert neighbour.unseal(sealed(orjson.dumps(fields), ONE.vector.data), PARTITION, KEY) is None
    assert neighbour.unseal(sealed(b"{", ONE.vector.data), PARTITION, KEY) is None
    assert neighbour.unseal(sealed(good, b"\x81" * 3), PARTITION, KEY) is None


def test_its_text_is_not_shown() -> None:
    assert "EMAIL" not in repr(ONE)
