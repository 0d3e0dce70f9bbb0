"""Vectors as they are kept: what is one, and how near two are."""

import math
from array import array

import pytest
from hypothesis import given
from hypothesis import strategies as st

from extproc.cache import vectors
from extproc.cache.vectors import LEAST, MOST, Columns, Vector

NUMBERS = st.floats(-1, 1, width=32)


def of(numbers: list[float]) -> Vector:
    made = vectors.packed(numbers)
    assert made is not None
    return made


def exactly(one: list[float], other: list[float]) -> float:
    product = sum(a * b for a, b in zip(one, other, strict=True))
    return product / (math.hypot(*one) * math.hypot(*other))


@st.composite
def several(draw: st.DrawFn) -> list[list[float]]:
    size = draw(st.integers(LEAST, 40))
    row = st.lists(NUMBERS, min_size=size, max_size=size).filter(lambda row: max(map(abs, row)) > 1e-3)
    return draw(st.lists(row, min_size=2, max_size=20))


@given(several())
def test_a_cosine_is_nearly_what_it_is_of_the_numbers(rows: list[list[float]]) -> None:
    asked, *others = rows
    found = Columns([of(row) for row in others]).nearest(of(asked))
    assert [similarity for similarity, _ in found] == sorted((one for one, _ in found), reverse=True)
    assert sorted(at for _, at in found) == list(range(len(others)))
    for similarity, at in found:
        assert similarity == pytest.approx(exactly(asked, others[at]), abs=0.03)
        assert similarity == pytest.approx(vectors.cosine(of(asked), of(others[at])))


@given(several())
def test_a_vector_is_nearest_to_itself(rows: list[list[float]]) -> None:
    packed = [of(row) for row in rows]
    (similarity, at), *_ = Columns(packed).nearest(packed[0])
    assert similarity == pytest.approx(1, abs=1e-9)
    assert packed[at].data == packed[0].data or similarity == pytest.approx(1)


def test_the_longest_vectors_do_not_run_into_each_other() -> None:
    high, low = of([1.0] * MOST), of([-1.0] * MOST)
    assert [at for _, at in Columns([low, high, low, high]).nearest(high)] == [3, 1, 2, 0]
    assert vectors.cosine(high, low) == pytest.approx(-1)


def test_a_typical_vector_moves_by_less_than_a_thousandth() -> None:
    one = [math.sin(at * 12.9898) for at in range(384)]
    other = [number + 0.4 * math.sin(at * 78.233) for at, number in enumerate(one)]
    assert vectors.cosine(of(one), of(other)) == pytest.approx(exactly(one, other), abs=1e-3)


def test_vectors_of_other_sizes_are_not_near() -> None:
    assert Columns([of([1.0] * 8)]).nearest(of([1.0] * 9)) == []
    assert vectors.cosine(of([1.0] * 8), of([1.0] * 9)) == 0
    assert Columns([]).nearest(of([1.0] * 8)) == []


@pytest.mark.parametrize(
    "numbers",
    [[], [1.0] * (LEAST - 1), [1.0] * (MOST + 1), [0.0] * 8, [1.0] * 7 + [math.nan], [math.inf] * 8, [1e-320] * 8],
)
def test_what_is_no_vector(numbers: list[float]) -> None:
    assert vectors.packed(numbers) is None


@pytest.mark.parametrize("data", [b"", b"\x81" * (LEAST - 1), b"\x80" * 8, b"\x81" * (MOST + 1)])
def test_bytes_that_are_no_vector(data: bytes) -> None:
    assert vectors.read(data) is None


def test_a_packed_vector_is_read_again() -> None:
    packed = of([0.5, -0.25] * 4)
    assert vectors.read(packed.data) == packed


def test_numbers_of_four_bytes() -> None:
    assert list(vectors.floats(array("f", [0.5, -1.0]).tobytes())) == [0.5, -1.0]
    assert list(vectors.floats(b"12345")) == []
