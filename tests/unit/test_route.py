"""Which model, which targets, in which order."""

import random
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from extproc.model import Backend, Caller, Catalogue, CleanPrompt, Dialect, Prompt, PublicModel, Target
from extproc.refusals import MISSING_MODEL, MODEL_NOT_FOUND, STATE_NOT_FOUND, UNSUPPORTED_BY_MODEL, Kind, Refused
from extproc.stages.route import chain, model_for, pinned, shuffled
from extproc.surfaces import Face, Place, Surface

CHAT = Place(Surface.CHAT, Face.OPENAI)
CLEAN = CleanPrompt(Prompt(b"{}", "m", None))
BACKENDS = {name: Backend(name, Dialect.OPENAI) for name in "abcdef"}
CLAUDE = Backend("claude", Dialect.ANTHROPIC)


def _model(*groups: dict[str, int]) -> PublicModel:
    """A model whose groups map a backend's name to its weight."""
    return PublicModel("m", tuple(tuple(Target(BACKENDS[n], "m", w) for n, w in group.items()) for group in groups))


def _names(model: PublicModel, draw: random.Random) -> list[str]:
    return [target.backend.name for target in chain(model, CHAT, CLEAN, draw.random).targets]


# ---- the model --------------------------------------------------------------------------------------

KNOWN = _model({"a": 1})
CATALOGUE = Catalogue({"m": KNOWN, "alias": KNOWN, "def": KNOWN}, BACKENDS, {Surface.MODERATIONS: "def"}, 1)
ANYONE = Caller("k", "anyone")


@pytest.mark.parametrize(
    ("place", "named"),
    [
        (CHAT, "m"),
        (CHAT, "alias"),
        (Place(Surface.CHAT, Face.AZURE, deployment="m"), None),
        (Place(Surface.CHAT, Face.AZURE, deployment="m"), "what the body says does not count"),
        (Place(Surface.MODERATIONS, Face.OPENAI), None),
        (Place(Surface.MODERATIONS, Face.OPENAI), "m"),
    ],
)
def test_the_model_is_named_by_the_path_the_body_or_the_default(place: Place, named: str | None) -> None:
    assert model_for(ANYONE, place, named, CATALOGUE) is KNOWN


@pytest.mark.parametrize(
    ("caller", "place", "named", "kind"),
    [
        (ANYONE, CHAT, None, MISSING_MODEL),
        (ANYONE, CHAT, "", MISSING_MODEL),
        (ANYONE, CHAT, "x", MODEL_NOT_FOUND),
        (ANYONE, CHAT, "M", MODEL_NOT_FOUND),
        (ANYONE, CHAT, "m ", MODEL_NOT_FOUND),
        (ANYONE, CHAT, "../m", MODEL_NOT_FOUND),
        (ANYONE, Place(Surface.CHAT, Face.AZURE, deployment="x"), "m", MODEL_NOT_FOUND),
        (ANYONE, Place(Surface.MODERATIONS, Face.OPENAI), "x", MODEL_NOT_FOUND),
        (Caller("k", "n", frozenset({"other"})), CHAT, "m", MODEL_NOT_FOUND),
        (Caller("k", "n", frozenset({"alias"})), CHAT, "alias", MODEL_NOT_FOUND),
        (Caller("k", "n", frozenset()), CHAT, "m", MODEL_NOT_FOUND),
    ],
)
def test_any_other_model_is_refused(caller: Caller, place: Place, named: str | None, kind: Kind) -> None:
    with pytest.raises(Refused) as refused:
        model_for(caller, place, named, CATALOGUE)
    assert (refused.value.refusal.kind, refused.value.refusal.param) == (kind, "model")


def test_a_forbidden_model_is_refused_in_the_words_of_an_unknown_one() -> None:
    refusals = []
    for caller, named in ((Caller("k", "n", frozenset()), "m"), (ANYONE, "x")):
        with pytest.raises(Refused) as refused:
            model_for(caller, CHAT, named, CATALOGUE)
        refusals.append(refused.value.refusal)
    assert refusals[0] == refusals[1]


def test_a_key_for_a_model_may_call_it_by_its_alias() -> None:
    assert model_for(Caller("k", "n", frozenset({"m"})), CHAT, "alias", CATALOGUE) is KNOWN


# ---- the chain --------------------------------------------------------------------------------------


@pytest.mark.parametrize("weights", [{"a": 1, "b": 1}, {"a": 3, "b": 1}, {"a": 5, "b": 3, "c": 2}, {"a": 98, "b": 2}])
def test_the_first_target_is_drawn_by_weight(weights: dict[str, int]) -> None:
    draw, draws = random.Random(7), 10_000
    first = Counter(_names(_model(weights), draw)[0] for _ in range(draws))
    for name, weight in weights.items():
        assert first[name] / draws == pytest.approx(weight / sum(weights.values()), abs=0.02)


def test_the_second_target_is_drawn_by_weight_among_the_rest() -> None:
    draw, draws = random.Random(7), 10_000
    model = _model({"a": 2, "b": 3, "c": 1})
    second = Counter(names[1] for names in (_names(model, draw) for _ in range(draws)) if names[0] == "a")
    assert second["b"] / sum(second.values()) == pytest.approx(0.75, abs=0.02)


def test_groups_come_in_order_whatever_is_drawn() -> None:
    draw = random.Random(1)
    model = _model({"a": 1, "b": 1}, {"c": 1000}, {"d": 1, "e": 9})
    seen = {tuple(_names(model, draw)) for _ in range(200)}
    assert {(*sorted(names[:2]), names[2], *sorted(names[3:])) for names in seen} == {("a", "b", "c", "d", "e")}
    assert len(seen) == 4


def test_weight_0_is_never_drawn() -> None:
    draw = random.Random(2)
    assert all(_names(_model({"a": 0, "b": 1}, {"c": 1}), draw) == ["b", "c"] for _ in range(50))


def test_a_backend_stands_in_a_chain_once_at_its_first_place_under_its_first_name() -> None:
    first, second, again = Target(BACKENDS["a"], "x"), Target(BACKENDS["b"], "m"), Target(BACKENDS["a"], "y")
    model = PublicModel("m", ((first,), (second,), (again,)))
    assert chain(model, CHAT, CLEAN, random.Random(3).random).targets == (first, second)


def test_a_target_that_cannot_serve_the_surface_is_skipped() -> None:
    model = PublicModel("m", ((Target(CLAUDE, "m"),), (Target(BACKENDS["a"], "m"),)))
    assert [target.backend.name for target in chain(model, CHAT, CLEAN, random.Random(4).random).targets] == ["a"]


@pytest.mark.parametrize(
    "model", [PublicModel("m", ((Target(CLAUDE, "m"),),)), _model({"a": 0}), PublicModel("m", ())], ids=str
)
def test_a_chain_is_never_empty(model: PublicModel) -> None:
    with pytest.raises(Refused) as refused:
        chain(model, CHAT, CLEAN, random.Random(5).random)
    assert refused.value.refusal.kind is UNSUPPORTED_BY_MODEL
    assert "chat" in refused.value.refusal.message


@given(
    st.dictionaries(st.sampled_from("abcdef"), st.integers(0, 1000), max_size=6),
    st.lists(st.floats(0, 1, exclude_max=True), min_size=6, max_size=6),
)
def test_a_shuffle_loses_and_invents_nothing(weights: dict[str, int], drawn: list[float]) -> None:
    group = [Target(BACKENDS[name], "m", weight) for name, weight in weights.items()]
    numbers = iter(drawn)
    order = shuffled(group, lambda: next(numbers))
    assert Counter(target.backend.name for target in order) == Counter(n for n, w in weights.items() if w > 0)


# ---- pinned -----------------------------------------------------------------------------------------


def test_a_pinned_call_has_one_target() -> None:
    model = _model({"a": 1}, {"b": 0, "c": 1})
    for backend in ("a", "b", "c"):  # weight 0 draws nothing, yet what was made there is there
        assert [target.backend.name for target in pinned(model, CHAT, backend).targets] == [backend]


@pytest.mark.parametrize("backend", ["d", "", "claude"])
def test_state_of_a_backend_that_is_none_of_this_model_is_refused(backend: str) -> None:
    model = PublicModel("m", ((Target(BACKENDS["a"], "m"), Target(CLAUDE, "m")),))
    with pytest.raises(Refused) as refused:
        pinned(model, CHAT, backend)
    assert refused.value.refusal.kind is STATE_NOT_FOUND
