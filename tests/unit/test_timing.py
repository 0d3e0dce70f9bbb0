"""How long stages of a call took: pieces are added up, and stages that overlap are told rightly."""

import asyncio
from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st

from extproc.timing import Span, Stage, Times


@dataclass
class Clock:
    now: float = 0.0

    def __call__(self) -> float:
        return self.now


def test_a_stage_is_from_its_first_piece_to_its_last_and_spent_is_what_was_inside() -> None:
    clock = Clock(10.0)
    times = Times(clock)
    for began, ended in ((10.0, 11.0), (15.0, 15.5), (20.0, 22.0)):
        clock.now = began
        with times.of(Stage.ANSWER):
            clock.now = ended
    assert times.spans == {Stage.ANSWER: Span(10.0, 22.0, 3.5)}
    assert times.spent == [("answer", 3.5)]
    assert (times.ended(Stage.ANSWER), times.ended(Stage.READ)) == (22.0, None)


def test_a_stage_that_refuses_has_its_time_too() -> None:
    clock = Clock()
    times = Times(clock)

    def refuse() -> None:
        with times.of(Stage.SCREEN):
            clock.now = 2.0
            raise ValueError

    with pytest.raises(ValueError, match=r"^$"):
        refuse()
    assert times.spans == {Stage.SCREEN: Span(0.0, 2.0, 2.0)}


async def test_stages_may_overlap() -> None:
    clock = Clock()
    times = Times(clock)
    began, done = asyncio.Event(), asyncio.Event()

    async def look() -> None:
        with times.of(Stage.CACHE):
            began.set()
            await done.wait()

    looking = asyncio.ensure_future(look())
    await began.wait()
    clock.now = 1.0
    with times.of(Stage.RESERVE):
        clock.now = 3.0
        done.set()
        await looking
        clock.now = 4.0
    assert times.spans == {Stage.CACHE: Span(0.0, 3.0, 3.0), Stage.RESERVE: Span(1.0, 4.0, 3.0)}
    assert [*times.spans] == [Stage.CACHE, Stage.RESERVE]


@given(st.lists(st.tuples(st.sampled_from(Stage), st.integers(0, 9), st.integers(0, 9)), max_size=40))
def test_what_is_spent_is_the_sum_of_the_pieces_and_never_more_than_the_span(
    pieces: list[tuple[Stage, int, int]],
) -> None:
    clock = Clock()
    times = Times(clock)
    for stage, pause, length in pieces:
        clock.now += pause
        began = clock.now
        clock.now += length
        times.note(stage, began)
    for stage, span in times.spans.items():
        assert span.spent == sum(length for one, _, length in pieces if one is stage)
        assert span.spent <= span.ended - span.began
    assert {*times.spans} == {stage for stage, _, _ in pieces}


def test_a_call_that_nobody_times_takes_no_time() -> None:
    times = Times()
    with times.of(Stage.READ):
        pass
    assert times.spans == {Stage.READ: Span(0.0, 0.0, 0.0)}
