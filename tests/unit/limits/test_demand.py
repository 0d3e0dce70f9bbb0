"""The most that a call can be: never less than what it turns out to use."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from extproc.limits.demand import ASSUMED_OUTPUT, Extent, extent
from extproc.metering import prices
from extproc.model import (
    Backend,
    Bounds,
    Cap,
    Chain,
    Dialect,
    InputSize,
    Price,
    Prompt,
    PublicModel,
    Target,
    Usage,
)
from extproc.surfaces import Surface

CHEAP = Price(input=1_000_000_000, output=4_000_000_000, cached_input=100_000_000)
DEAR = Price(input=500_000_000, output=9_000_000_000, request=70)
PLAIN = Bounds()
counts = st.integers(0, 200_000)


def chain(*priced: Price | None, bounds: Bounds = PLAIN) -> Chain:
    targets = tuple(
        Target(Backend(str(n), Dialect.OPENAI), "m", price=price) for n, price in enumerate(priced or (CHEAP,))
    )
    return Chain(PublicModel("m", (targets,), bounds=bounds), targets)


def prompt(cap: int | None = None, choices: int = 1, **fields: object) -> Prompt:
    return replace(Prompt(b"", "m", None, cap=Cap(cap, (), "max_tokens"), choices=choices), **fields)  # type: ignore[arg-type]


@given(given_=counts, made=counts, cached=counts, choices=st.integers(1, 4))
def test_a_hold_covers_what_every_target_charges_for_what_it_bounds(
    given_: int, made: int, cached: int, choices: int
) -> None:
    at_most = Extent(input=given_, cap=-(-made // choices), choices=choices).at_most(
        chain(CHEAP, DEAR), -(-made // choices)
    )
    usage = Usage(input=given_, output=made, cached_input=min(cached, given_))
    assert at_most.output >= made
    assert all(at_most.money >= prices.cost(price, usage) for price in (CHEAP, DEAR))


@given(low=counts, high=counts)
def test_a_longer_answer_never_costs_less(low: int, high: int) -> None:
    reach = Extent(input=10)
    low, high = sorted((low, high))
    assert reach.at_most(chain(CHEAP, DEAR), low).money <= reach.at_most(chain(CHEAP, DEAR), high).money


def test_what_was_surely_used_is_never_more_than_what_was_held() -> None:
    reach = Extent(input=100, estimated_input=60, cap=50)
    surely, held = reach.surely(chain(CHEAP, DEAR)), reach.at_most(chain(CHEAP, DEAR), 50)
    assert surely.input <= held.input
    assert surely.money <= held.money


@pytest.mark.parametrize(
    ("said", "most", "cap"),
    [
        (None, None, ASSUMED_OUTPUT),
        (None, 4_096, 4_096),
        (100, 4_096, 100),
        (9_999, 4_096, 4_096),
        (9_999, None, 9_999),
        (0, 9, 0),
    ],
)
def test_an_answer_is_as_long_as_the_caller_or_the_model_lets_it_be(
    said: int | None, most: int | None, cap: int
) -> None:
    assert extent(Surface.CHAT, prompt(said), chain(bounds=Bounds(max_output=most)), 0).cap == cap


@pytest.mark.parametrize("surface", [Surface.EMBEDDINGS, Surface.MODERATIONS, Surface.RERANK, Surface.COUNT_TOKENS])
def test_what_makes_no_text_has_no_output(surface: Surface) -> None:
    assert extent(surface, prompt(), chain(bounds=Bounds(max_output=100)), 0).cap == 0


def test_counting_tokens_uses_none() -> None:
    assert extent(Surface.COUNT_TOKENS, prompt(), chain(), 0).input == 0


def test_what_the_provider_adds_may_fill_the_context() -> None:
    told = prompt(input=InputSize(unseen=True))
    assert extent(Surface.RESPONSES, told, chain(bounds=Bounds(context=200_000)), 0).input == 200_000
    assert extent(Surface.RESPONSES, told, chain(), 0).input == 128_000
    assert extent(Surface.RESPONSES, prompt(), chain(), 0).input < 1_000


def test_images_are_as_many_as_asked_for() -> None:
    made = extent(Surface.IMAGES, prompt(choices=3, images=3), chain(), 0)
    assert (made.images, made.choices) == (3, 3)
    assert extent(Surface.IMAGE_EDITS, prompt(), chain(), 10_000).images == 10
    assert extent(Surface.IMAGE_EDITS, prompt(images=2), chain(), 10_000).images == 2


def test_audio_is_as_long_as_its_bytes_can_be() -> None:
    heard = extent(Surface.TRANSCRIPTIONS, prompt(), chain(Price(minute=6_000_000)), 60_000)
    assert heard.seconds == 60
    assert heard.at_most(chain(Price(minute=6_000_000)), 0).money == 6_000_000


def test_a_target_without_price_costs_nothing_in_a_shadow() -> None:
    assert Extent(input=10).at_most(chain(None), 10).money == 0
    assert Extent(estimated_input=10).surely(chain(None)).money == 0
