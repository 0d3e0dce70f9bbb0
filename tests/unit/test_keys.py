"""Keys as text."""

import hashlib
import string

import pytest
from hypothesis import given
from hypothesis import strategies as st

from extproc.identity import keys

KEY = keys.mint(b"k" * 32)
BASE62 = string.digits + string.ascii_letters


@given(st.binary(min_size=32, max_size=32))
def test_a_minted_key_is_well_formed_and_of_one_length(random_bytes: bytes) -> None:
    key = keys.mint(random_bytes)
    assert keys.is_well_formed(key)
    assert len(key) == len(keys.PREFIX) + 43 + 6
    assert set(key.removeprefix(keys.PREFIX)) <= set(BASE62)


@given(st.lists(st.binary(min_size=32, max_size=32), unique=True, min_size=2, max_size=5))
def test_different_bytes_make_different_keys(many: list[bytes]) -> None:
    assert len({keys.mint(one) for one in many}) == len(many)


@pytest.mark.parametrize("length", [0, 31, 33])
def test_a_key_is_made_from_256_bits_and_no_fewer(length: int) -> None:
    with pytest.raises(ValueError, match="32 random bytes"):
        keys.mint(b"x" * length)


@given(st.integers(len(keys.PREFIX), len(KEY) - 1), st.sampled_from(BASE62))
def test_any_one_wrong_character_is_seen(at: int, character: str) -> None:
    wrong = KEY[:at] + character + KEY[at + 1 :]
    assert keys.is_well_formed(wrong) == (wrong == KEY)


@given(st.integers(len(keys.PREFIX), len(KEY) - 2))
def test_two_neighbours_swapped_are_seen(at: int) -> None:
    swapped = KEY[:at] + KEY[at + 1] + KEY[at] + KEY[at + 2 :]
    assert keys.is_well_formed(swapped) == (swapped == KEY)


@given(st.text(max_size=80))
def test_other_text_is_no_key(text: str) -> None:
    assert not keys.is_well_formed(text)
    assert not keys.is_well_formed(keys.PREFIX + text)


@pytest.mark.parametrize(
    "spoiled", [KEY + "\n", " " + KEY, KEY + " ", KEY[:-1], KEY.upper(), KEY.replace("s", "\u0455")]
)
def test_a_key_with_something_around_it_is_no_key(spoiled: str) -> None:
    assert not keys.is_well_formed(spoiled)


def test_what_is_stored_is_the_sha256() -> None:
    assert keys.digest(KEY) == hashlib.sha256(KEY.encode()).hexdigest()


def test_a_hint_shows_four_characters() -> None:
    assert keys.hint(KEY) == f"sk-sluice-…{KEY[-4:]}"


def test_the_quickstart_key_is_the_published_one() -> None:
    assert keys.is_well_formed(keys.QUICKSTART_KEY)
    assert keys.mint(hashlib.sha256(b"sluice quickstart").digest()) == keys.QUICKSTART_KEY
