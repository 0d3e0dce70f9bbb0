"""Which model, which targets, in which order."""

import random
from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from extproc.edits import Edit, Span
from extproc.model import (
    Backend,
    Caller,
    Catalogue,
    CleanPrompt,
    Dialect,
    Modality,
    Price,
    Prompt,
    PublicModel,
    Target,
    Team,
)
from extproc.refusals import (
    MISSING_MODEL,
    MODEL_NOT_FOUND,
    PERMISSION_DENIED,
    PRICE_UNKNOWN,
    STATE_NOT_FOUND,
    STOPPED,
    UNSUPPORTED_BY_MODEL,
    UPSTREAM_RATE_LIMITED,
    UPSTREAM_UNAVAILABLE,
    Kind,
    Refused,
)
from extproc.routing.attempt import Attempt
from extproc.routing.health import Health
from extproc.routing.policy import Cooling, Watched
from extproc.stages.route import Conditions, Draw, alone, chain, model_for, pinned, shuffled
from extproc.surfaces import Face, Place, Surface

CHAT = Place(Surface.CHAT, Face.OPENAI)
EMBEDDINGS = Place(Surface.EMBEDDINGS, Face.OPENAI)
CLEAN = CleanPrompt(Prompt(b"{}", "m", None))
BACKENDS = {name: Backend(name, Dialect.OPENAI) for name in "abcdef"}
CLAUDE = Backend("claude", Dialect.ANTHROPIC)


def _model(*groups: dict[str, int]) -> PublicModel:
    """A model whose groups map a backend's name to its weight."""
    return PublicModel("m", tuple(tuple(Target(BACKENDS[n], "m", w) for n, w in group.items()) for group in groups))


def _names(model: PublicModel, draw: random.Random) -> list[str]:
    return [target.backend.name for target in chain(model, CHAT, CLEAN, _given(draw.random)).targets]


def _given(draw: Draw, health: Health | None = None, now: float = 0.0) -> Conditions:
    return Conditions(draw, health or Health({}, draw), now, attempts=6)


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
    assert chain(model, CHAT, CLEAN, _given(random.Random(3).random)).targets == (first, second)


def test_a_target_that_cannot_serve_the_surface_is_skipped() -> None:
    model = PublicModel("m", ((Target(CLAUDE, "m"),), (Target(BACKENDS["a"], "m"),)))
    given = _given(random.Random(4).random)
    assert [target.backend.name for target in chain(model, EMBEDDINGS, CLEAN, given).targets] == ["a"]


@pytest.mark.parametrize(
    "model", [PublicModel("m", ((Target(CLAUDE, "m"),),)), _model({"a": 0}), PublicModel("m", ())], ids=str
)
def test_a_chain_is_never_empty(model: PublicModel) -> None:
    with pytest.raises(Refused) as refused:
        chain(model, EMBEDDINGS, CLEAN, _given(random.Random(5).random))
    assert refused.value.refusal.kind is UNSUPPORTED_BY_MODEL
    assert "embeddings" in refused.value.refusal.message


# ---- other dialects ---------------------------------------------------------------------------------


def _asks(more: bytes = b"", **prompt: Any) -> CleanPrompt:
    return CleanPrompt(Prompt(b'{"messages":[{"role":"user","content":"hi"}]%b}' % more, "m", None, **prompt))


def test_a_backend_of_another_dialect_serves_what_it_can_express() -> None:
    model = PublicModel("m", ((Target(CLAUDE, "m"),), (Target(BACKENDS["a"], "m"),)))
    given = _given(lambda: 0.0)
    assert len(chain(model, CHAT, _asks(), given).targets) == 2
    assert [target.backend.name for target in chain(model, CHAT, _asks(b',"seed":1'), given).targets] == ["a"]


def test_a_server_that_has_no_chat_carries_nothing_as_a_chat() -> None:
    embeds = Backend("embeds", Dialect.OPENAI, surfaces=frozenset({Surface.EMBEDDINGS}))
    chats = Backend("chats", Dialect.OPENAI, surfaces=frozenset({Surface.CHAT}))
    model = PublicModel("m", ((Target(embeds, "m"), Target(chats, "m")),))
    place = Place(Surface.MESSAGES, Face.ANTHROPIC)
    asked = CleanPrompt(Prompt(b'{"max_tokens":9,"messages":[{"role":"user","content":"hi"}]}', "m", None))
    assert [target.backend for target in chain(model, place, asked, _given(lambda: 0.0)).targets] == [chats]


@pytest.mark.parametrize(
    ("more", "param"), [(b',"seed":1', "seed"), (b',"n":2', "n"), (b',"user":"\\ud800"', None)], ids=str
)
def test_where_none_can_express_the_call_the_field_is_named(more: bytes, param: str | None) -> None:
    with pytest.raises(Refused) as refused:
        chain(PublicModel("m", ((Target(CLAUDE, "m"),),)), CHAT, _asks(more), _given(lambda: 0.0))
    assert (refused.value.refusal.kind, refused.value.refusal.param) == (UNSUPPORTED_BY_MODEL, param)


# ---- who may go where, and how far ------------------------------------------------------------------


def test_what_is_translated_is_what_will_be_sent() -> None:
    """A request may be well and, as it was edited, not: the attempt would fail, and it would be too late."""
    body = b'{"messages":[{"role":"user","content":"hi"}],"top_k":1}'
    start = body.index(b',"top_k"')
    model = PublicModel("m", ((Target(CLAUDE, "c"),),))
    mended = CleanPrompt(Prompt(body, "m", None), (Edit(Span(start, len(body) - 1), b""),))
    assert chain(model, CHAT, mended, _given(lambda: 0.0)).targets
    with pytest.raises(Refused):
        chain(model, CHAT, CleanPrompt(mended.prompt), _given(lambda: 0.0))


def test_a_team_goes_only_where_its_data_may() -> None:
    here, there = Backend("here", Dialect.OPENAI, region="eu"), Backend("there", Dialect.OPENAI, region="us")
    model = PublicModel("m", ((Target(there, "m"),), (Target(here, "m"),)))
    team = Team("t", "area", "tier", regions=frozenset({"eu"}))
    given = replace(_given(lambda: 0.0), team=team)
    assert [target.backend for target in chain(model, CHAT, CLEAN, given).targets] == [here]
    with pytest.raises(Refused) as caught:
        chain(PublicModel("m", ((Target(there, "m"),),)), CHAT, CLEAN, given)
    assert caught.value.refusal.kind is PERMISSION_DENIED
    with pytest.raises(Refused) as caught:
        pinned(model, CHAT, "there", team)
    assert caught.value.refusal.kind is STATE_NOT_FOUND


def test_a_chain_is_no_longer_than_the_attempts_that_a_call_has() -> None:
    given = replace(_given(lambda: 0.0), attempts=2)
    assert len(chain(_model(dict.fromkeys("abcdef", 1)), CHAT, CLEAN, given).targets) == 2


def test_a_model_is_only_for_what_it_is_for() -> None:
    embeds = replace(KNOWN, modality=Modality.EMBEDDINGS)
    catalogue = replace(CATALOGUE, models={"m": embeds})
    assert model_for(ANYONE, EMBEDDINGS, "m", catalogue) is embeds
    with pytest.raises(Refused) as refused:
        model_for(ANYONE, CHAT, "m", catalogue)
    assert refused.value.refusal.kind is UNSUPPORTED_BY_MODEL


PRICE = Price(input=1, since=1_000)
LATER = Price(input=2, since=2_000)


def test_a_call_is_paid_by_the_prices_of_when_it_began() -> None:
    changing, fixed = Target(BACKENDS["a"], "m", versions=(PRICE, LATER)), Target(BACKENDS["b"], "m", 1, PRICE)
    model = PublicModel("m", ((changing, fixed),))

    def prices(began: int) -> set[tuple[str, Price | None]]:
        given = replace(_given(lambda: 0.0), began=began)
        (alone,) = pinned(model, CHAT, "a", None, began=began).targets
        found = {(target.backend.name, target.price) for target in chain(model, CHAT, CLEAN, given).targets}
        assert ("a", alone.price) in found
        return found

    assert prices(999) == {("a", None), ("b", PRICE)}
    assert prices(1_000) == prices(1_999) == {("a", PRICE), ("b", PRICE)}
    assert prices(2_000) == {("a", LATER), ("b", PRICE)}


def test_where_only_what_has_a_price_serves_the_rest_is_left_out() -> None:
    priced, bare = Target(BACKENDS["a"], "m", versions=(PRICE,)), Target(BACKENDS["b"], "m")
    model = PublicModel("m", ((bare,), (priced,)))
    given = replace(_given(lambda: 0.0), began=1_000, priced_only=True)
    assert [target.backend.name for target in chain(model, CHAT, CLEAN, given).targets] == ["a"]
    assert pinned(model, CHAT, "a", None, began=1_000, priced_only=True).targets[0].price == PRICE
    assert pinned(model, CHAT, "b", None, began=1_000).targets == (bare,)


@pytest.mark.parametrize("began", [0, 999])
def test_where_nothing_has_a_price_the_call_is_refused(began: int) -> None:
    model = PublicModel("m", ((Target(BACKENDS["b"], "m"),), (Target(BACKENDS["a"], "m", versions=(PRICE,)),)))
    given = replace(_given(lambda: 0.0), began=began, priced_only=True)
    with pytest.raises(Refused) as refused:
        chain(model, CHAT, CLEAN, given)
    assert refused.value.refusal.kind is PRICE_UNKNOWN
    with pytest.raises(Refused) as refused:
        pinned(model, CHAT, "a", None, began=began, priced_only=True)
    assert refused.value.refusal.kind is PRICE_UNKNOWN


def test_what_the_priced_one_cannot_express_is_told_first() -> None:
    """A caller can leave a field out, and give no model a price."""
    model = PublicModel("m", ((Target(BACKENDS["a"], "m"), Target(CLAUDE, "m", 1, PRICE)),))
    with pytest.raises(Refused) as refused:
        chain(model, CHAT, _asks(b',"seed":1'), replace(_given(lambda: 0.0), priced_only=True))
    assert (refused.value.refusal.kind, refused.value.refusal.param) == (UNSUPPORTED_BY_MODEL, "seed")


@pytest.mark.parametrize(
    "stops", [{("model", "m")}, {("backend", "a"), ("backend", "b")}], ids=["model", "all backends"]
)
def test_a_model_out_of_service_is_refused(stops: set[tuple[str, str]]) -> None:
    model = _model({"a": 1, "b": 1})
    with pytest.raises(Refused) as refused:
        chain(model, CHAT, CLEAN, replace(_given(lambda: 0.0), stops=stops))
    assert refused.value.refusal.kind is STOPPED
    with pytest.raises(Refused) as refused:
        pinned(model, CHAT, "a", None, stops)
    assert refused.value.refusal.kind is STOPPED


def test_a_backend_out_of_service_is_left_out() -> None:
    given = replace(_given(lambda: 0.0), stops={("backend", "a"), ("backend", "m"), ("model", "b")})
    assert [target.backend.name for target in chain(_model({"a": 1, "b": 1}), CHAT, CLEAN, given).targets] == ["b"]


# ---- bound calls ------------------------------------------------------------------------------------


def _first(model: PublicModel, binding: str, health: Health | None = None) -> str:
    given = replace(_given(lambda: 0.0, health, 1.0), binding=binding)
    return chain(model, CHAT, CLEAN, given).targets[0].backend.name


def test_calls_with_one_binding_go_to_one_backend_and_only_its_own_move_when_it_cools() -> None:
    model, bindings = _model(dict.fromkeys("abcdef", 1)), [f"session {number}" for number in range(200)]
    before = {binding: _first(model, binding) for binding in bindings}
    assert before == {binding: _first(model, binding) for binding in bindings}
    without = _health(Attempt("c", 429, headers=LIMITED))
    after = {binding: _first(model, binding, without) for binding in bindings}
    assert {binding for binding in bindings if before[binding] != after[binding]} == {
        binding for binding in bindings if before[binding] == "c"
    }


def test_bindings_are_shared_out_by_weight() -> None:
    counts = Counter(_first(_model({"a": 3, "b": 1, "c": 0}), f"session {number}") for number in range(4000))
    assert 2860 < counts["a"] < 3140  # 3,000 are due; 140 are five standard deviations
    assert counts["a"] + counts["b"] == 4000


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
        assert [target.backend.name for target in pinned(model, CHAT, backend, None).targets] == [backend]


@pytest.mark.parametrize("backend", ["d", "", "claude"])
def test_state_of_a_backend_that_is_none_of_this_model_is_refused(backend: str) -> None:
    model = PublicModel("m", ((Target(BACKENDS["a"], "m"), Target(CLAUDE, "m")),))
    with pytest.raises(Refused) as refused:
        pinned(model, CHAT, backend, None)
    assert refused.value.refusal.kind is STATE_NOT_FOUND


# ---- health -----------------------------------------------------------------------------------------

LIMITED = {"retry-after": "20"}


def _health(*attempts: Attempt, now: float = 0.0) -> Health:
    """Of all backends with the model `m`, after these attempts. One failure opens a circuit for 10 s."""
    watched = Watched(frozenset({"m"}), Cooling(failures=1))
    health = Health(dict.fromkeys(BACKENDS, watched), lambda: 0.0)
    for attempt in attempts:
        health.note(attempt, now, 1_700_000_000.0)
    return health


def _order(model: PublicModel, health: Health, now: float = 1.0) -> list[str]:
    """With every draw at its lowest: inside a group the order is that of the configuration."""
    return [target.backend.name for target in chain(model, CHAT, CLEAN, _given(lambda: 0.0, health, now)).targets]


def _refused(model: PublicModel, health: Health, now: float) -> tuple[Kind, Mapping[str, str]]:
    with pytest.raises(Refused) as caught:
        _order(model, health, now)
    return caught.value.refusal.kind, dict(caught.value.refusal.headers)


def test_a_lower_group_serves_when_all_of_the_higher_one_cool() -> None:
    model = _model({"a": 1, "b": 1}, {"c": 1})
    assert _order(model, _health()) == ["a", "b", "c"]
    one = _health(Attempt("a", 429, headers=LIMITED))
    assert _order(model, one) == ["b", "c"]
    one.note(Attempt("b", 529, headers=LIMITED), 1.0, 1_700_000_000.0)
    assert _order(model, one) == ["c"]
    assert _order(model, one, now=20.5) == ["a", "c"], "its pause is over"


def test_what_is_said_to_be_spent_is_tried_last() -> None:
    spent = {"x-ratelimit-remaining-requests": "0", "x-ratelimit-reset-requests": "30s"}
    model = _model({"a": 1, "b": 1}, {"c": 1})
    assert _order(model, _health(Attempt("a", 200, headers=spent))) == ["b", "c", "a"]
    assert _order(_model({"a": 1}), _health(Attempt("a", 200, headers=spent))) == ["a"], "it has refused nothing"


def test_another_deployment_of_a_backend_that_cools_serves() -> None:
    model = PublicModel("m", ((Target(BACKENDS["a"], "m"), Target(BACKENDS["a"], "spare")),))
    given = _given(lambda: 0.0, _health(Attempt("a", 429, headers=LIMITED, model="m")))
    assert [target.model for target in chain(model, CHAT, CLEAN, given).targets] == ["spare"]


def test_an_open_circuit_is_left_out_and_probed_by_one_call_that_can_go_on() -> None:
    model, health = _model({"a": 1, "b": 1}), _health(Attempt("a", 502))
    assert _order(model, health, now=9.9) == ["b"]
    assert _order(model, health, now=10.1) == ["a", "b"], "the probe, first, so that b serves if it fails"
    assert _order(model, health, now=10.2) == ["b"], "there is one probe at a time"
    assert _order(_model({"b": 1}, {"a": 1}), _health(Attempt("a", 502)), now=10.1) == ["b"], "no probe below the top"


def test_what_answers_by_errors_is_tried_last() -> None:
    """Calls of one caller that no backend can carry leave those of all others where they can be carried."""
    model, bad = _model({"a": 1, "b": 1}, {"c": 1}), [Attempt(name, 500) for name in "abc"]
    spent = Attempt("b", 200, headers={"x-ratelimit-remaining-requests": "0", "x-ratelimit-reset-requests": "30s"})
    assert _order(model, _health(bad[0])) == ["b", "c", "a"]
    assert _order(model, _health(bad[0], spent)) == ["c", "b", "a"]
    assert _order(model, _health(*bad)) == ["a", "b", "c"]
    assert _order(_model({"a": 1}), _health(bad[0])) == ["a"]


def _strained(*opened: str) -> Health:
    """Too many calls were tried again after failures just now; these backends failed a while ago."""
    health = _health(*(Attempt(name, 503) for name in opened), now=-20.0)
    for number in range(200):
        for attempt in (Attempt("a", 500, call=str(number)), Attempt("b", 200, call=str(number))):
            health.note(attempt, 0.0, 1_700_000_000.0)
    return health


def _tried(model: PublicModel, health: Health, now: float, share: float) -> list[str]:
    given = replace(_given(lambda: 0.0, health, now), retry_share=share)
    return [target.backend.name for target in chain(model, CHAT, CLEAN, given).targets]


def test_while_too_much_fails_a_call_is_tried_once() -> None:
    model, health = _model({"b": 1}, {"c": 1}), _strained()
    assert _tried(model, health, 1.0, 0.2) == ["b"]
    assert _tried(model, health, 1.0, 1.0) == ["b", "c"], "where nobody bounds it"
    assert _tried(model, health, 11.0, 0.2) == ["b", "c"], "ten seconds later as before"


def test_while_too_much_fails_a_call_that_probes_is_tried_once_more() -> None:
    model, health = _model({"d": 1}, {"b": 1}, {"c": 1}), _strained("d")
    assert _tried(model, health, 1.0, 0.2) == ["d", "b"]
    assert _tried(model, health, 1.0, 0.2) == ["b"]


def test_when_all_cool_the_wait_is_the_shortest() -> None:
    model = _model({"a": 1}, {"b": 1})
    limited = _health(Attempt("a", 429, headers=LIMITED), Attempt("b", 429, headers={"retry-after-ms": "2500"}))
    assert _refused(model, limited, 1.0) == (UPSTREAM_RATE_LIMITED, {"retry-after-ms": "1500", "retry-after": "2"})
    mixed = _health(Attempt("a", 429, headers=LIMITED), Attempt("b", 503))
    assert _refused(model, mixed, 1.0) == (UPSTREAM_RATE_LIMITED, {"retry-after-ms": "9000", "retry-after": "9"})
    down = _health(Attempt("a", 502), Attempt("b", 0, ["upstream_connection_failure"]))
    assert _refused(model, down, 9.5) == (UPSTREAM_UNAVAILABLE, {"retry-after-ms": "500", "retry-after": "1"})


def test_while_all_are_probed_the_others_wait_for_the_outcome() -> None:
    model, health = _model({"a": 1}), _health(Attempt("a", 502))
    assert _order(model, health, now=10.0) == ["a"]
    assert _refused(model, health, 11.0) == (UPSTREAM_UNAVAILABLE, {"retry-after-ms": "9000", "retry-after": "9"})


@given(st.sets(st.sampled_from("abcdef")), st.integers())
def test_weights_hold_among_those_that_are_left(out: set[str], seed: int) -> None:
    """Law: what cools changes nothing about the shares of the others, and nothing that cools is ever tried."""
    model = _model(dict.fromkeys("abcdef", 1))
    health, draw = _health(*[Attempt(name, 429, headers=LIMITED) for name in out]), random.Random(seed).random
    if out == set("abcdef"):
        assert _refused(model, health, 1.0)[0] is UPSTREAM_RATE_LIMITED
        return
    names = [target.backend.name for target in chain(model, CHAT, CLEAN, _given(draw, health, 1.0)).targets]
    assert sorted(names) == sorted(set("abcdef") - out)


# ---- one target --------------------------------------------------------------------------------------

EU = Team("t", "area", "tier", regions=frozenset({"eu"}))


@pytest.mark.parametrize("team", [None, EU], ids=["anyone", "eu"])
@pytest.mark.parametrize("priced_only", [False, True])
@pytest.mark.parametrize(
    "health", [_health(), _health(Attempt("a", 429, headers=LIMITED)), _health(Attempt("a", 500))], ids=["0", "1", "2"]
)
@pytest.mark.parametrize(
    "target",
    [
        Target(BACKENDS["a"], "m"),
        Target(BACKENDS["a"], "m", 0),
        Target(BACKENDS["a"], "m", 1, PRICE),
        Target(BACKENDS["a"], "m", versions=(PRICE,)),
        Target(replace(BACKENDS["a"], region="eu"), "m", 1, PRICE),
        Target(CLAUDE, "m"),
    ],
    ids=["plain", "never", "priced", "changing", "eu", "translated"],
)
def test_the_short_way_of_one_target_leads_where_the_long_one_does(
    target: Target, health: Health, priced_only: bool, team: Team | None
) -> None:
    model = PublicModel("m", ((target,),))
    short = alone(model, CHAT, team, priced_only, health, 1.0)
    given = replace(_given(lambda: 0.0, health, 1.0), team=team, priced_only=priced_only, began=5_000)
    if short is not None:
        assert short == chain(model, CHAT, _asks(), given)


def test_the_short_way_is_for_one_target_that_is_well() -> None:
    assert alone(_model({"a": 1}), CHAT, None, False, _health(), 1.0) is not None
    for model in (_model({"a": 1, "b": 1}), _model({"a": 1}, {"b": 1}), _model({"a": 0}), PublicModel("m", ())):
        assert alone(model, CHAT, None, False, _health(), 1.0) is None
    assert alone(_model({"a": 1}), CHAT, None, False, _health(Attempt("a", 500)), 1.0) is None
