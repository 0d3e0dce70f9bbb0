"""Shares are those of the weights, over the 10,000 calls for which they are promised, and over any number of them.

Seeds are fixed, so that a run says the same each time. Of a right draw a share differs from its weight's by 2 % of all
calls once in 16,000 runs (four standard deviations at one half, more elsewhere).
"""

import random
from collections import Counter
from collections.abc import Mapping

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from extproc.config.schema import Gateway
from extproc.model import Backend, CleanPrompt, Dialect, Prompt, PublicModel, Target
from extproc.routing.health import Health
from extproc.stages.route import Conditions, chain, shuffled
from extproc.surfaces import Face, Place, Surface

CALLS = 10_000
PROMISED = 0.02
CHAT = Place(Surface.CHAT, Face.OPENAI)
CLEAN = CleanPrompt(Prompt(b"{}", "m", None))
WEIGHTS: list[Mapping[str, int]] = [
    {"a": 1, "b": 1},
    {"a": 3, "b": 1},
    {"a": 98, "b": 2},
    {"a": 100, "b": 0},
    {"a": 0, "b": 1, "c": 0},
    {"a": 5, "b": 3, "c": 2},
    {"a": 1000, "b": 1, "c": 999, "d": 0},
    dict.fromkeys("abcdefgh", 1),
]


def model(weights: Mapping[str, int]) -> PublicModel:
    return PublicModel("m", (targets(weights),))


def targets(weights: Mapping[str, int]) -> tuple[Target, ...]:
    return tuple([Target(Backend(name, Dialect.OPENAI), "m", weight) for name, weight in weights.items()])


def first_ones(weights: Mapping[str, int], seed: int, binding: bool) -> Counter[str]:
    """Where each of so many calls goes first; with `binding` each is another session's."""
    draw, wanted = random.Random(seed).random, model(weights)
    found: Counter[str] = Counter()
    for number in range(CALLS):
        bound = f"session {seed} {number}" if binding else None
        given = Conditions(draw, Health({}, draw), 0.0, binding=bound)
        found[chain(wanted, CHAT, CLEAN, given).targets[0].backend.name] += 1
    return found


@pytest.mark.parametrize("binding", [False, True], ids=["drawn", "bound"])
@pytest.mark.parametrize("weights", WEIGHTS, ids=lambda weights: "-".join(map(str, weights.values())))
def test_each_backend_has_its_share_of_ten_thousand_calls(weights: Mapping[str, int], binding: bool) -> None:
    found, whole = first_ones(weights, 52, binding), sum(weights.values())
    assert sum(found.values()) == CALLS
    for name, weight in weights.items():
        assert found[name] / CALLS == pytest.approx(weight / whole, abs=PROMISED)
        assert found[name] > 0 or weight <= 1, "even the smallest one is drawn"
        assert found[name] == 0 or weight > 0, "0 never is"


@pytest.mark.parametrize("weights", [weights for weights in WEIGHTS if sum(map(bool, weights.values())) > 1], ids=str)
def test_the_draws_differ_from_the_weights_by_chance_alone(weights: Mapping[str, int]) -> None:
    """A sharper law than the promise: the sum of squares over twenty runs is what independent draws give."""
    drawn = {name: weight for name, weight in weights.items() if weight}
    whole, runs, squares = sum(drawn.values()), 20, 0.0
    for seed in range(runs):
        draw, found = random.Random(seed).random, Counter[str]()
        for _ in range(500):
            found[shuffled(list(targets(drawn)), draw)[0].backend.name] += 1
        squares += sum((found[name] - 500 * w / whole) ** 2 / (500 * w / whole) for name, w in drawn.items())
    due = runs * (len(drawn) - 1)
    spread = sum((1 / w * whole - 1) / 500 for w in drawn.values())  # what rare ones add
    assert abs(squares - due) < 6 * (2 * due + runs * spread) ** 0.5


@given(st.lists(st.integers(0, 1000), min_size=1, max_size=6), st.floats(0, 1, exclude_max=True))
def test_the_first_is_the_one_on_whose_part_the_point_falls(weights: list[int], point: float) -> None:
    """Law: weights cut the line from 0 to 1 into parts; a draw names a point of it. No other one is as exact."""
    group = [Target(Backend(f"b{at}", Dialect.OPENAI), "m", weight) for at, weight in enumerate(weights)]
    order = shuffled(group, lambda: point)
    if not any(weights):
        assert order == []
        return
    ends = [sum(weights[: at + 1]) for at in range(len(weights))]
    due = next(at for at, end in enumerate(ends) if end > point * sum(weights))
    if min(abs(point * sum(weights) - end) for end in (0, *ends)) > 1e-6:  # else rounding may decide
        assert order[0] is group[due]


@pytest.mark.parametrize("weights", [[0], [0, 0]], ids=str)
def test_a_group_of_nothing_is_refused(weights: list[int]) -> None:
    backends = {f"b{at}": {"dialect": "openai", "url": "https://llm.example"} for at in range(len(weights))}
    group = [{"backend": f"b{at}", "weight": weight} for at, weight in enumerate(weights)]
    with pytest.raises(ValidationError, match="at least one target with a weight above 0"):
        Gateway.model_validate({"backends": backends, "models": {"m": {"targets": [group]}}})
