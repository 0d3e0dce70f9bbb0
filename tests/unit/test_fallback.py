"""Another model in the place of the one that was asked for: the order, what is held for it, and who pays."""

import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError
from ruamel.yaml import YAML

from extproc import contract
from extproc.adapter import codec
from extproc.call import Call, Leg, Relay, Route
from extproc.config.schema import Gateway
from extproc.dataplane import fallback as dataplane
from extproc.headers import Headers
from extproc.identity import keys
from extproc.identity.directory import Directory, Key
from extproc.limits.hold import Hold, Stake
from extproc.limits.limit import Limit, Measure, Only, Period, Scope, Short
from extproc.limits.sums import Sums
from extproc.metering import bounds
from extproc.model import (
    Bounds,
    Catalogue,
    Cause,
    Chain,
    Demand,
    InputSize,
    Modality,
    Price,
    Prompt,
    PublicModel,
    StateReference,
    Target,
)
from extproc.refusals import STOPPED, UPSTREAM_UNAVAILABLE
from extproc.routing.attempt import Attempt
from extproc.routing.health import Health
from extproc.routing.policy import Cooling, Watched
from extproc.stages import budget, charge, fallback
from extproc.stores.counters import Counter, Draw
from extproc.surfaces import Face, Place, Surface
from protos.ext_proc_pb2 import ProcessingResponse
from tests.support.playbook import (
    CLAUDE,
    DIRECTORY,
    KEY,
    ONE,
    TWO,
    UNROUTED,
    Enrolled,
    Playbook,
    Policy,
    Refusal,
    RequestBody,
    ResponseBody,
    answer,
    catalogue,
    request,
)

CHAT = Place(Surface.CHAT, Face.OPENAI)
PRICE = Price(input=1_000_000_000, output=4_000_000_000)
DEAR = Price(input=10_000_000_000, output=40_000_000_000)
BOUNDS = Bounds(max_output=1_000, floor=16)
ANSWER = b'{"choices":[],"usage":{"prompt_tokens":7,"completion_tokens":30}}'
LARGE = "context_window/2"
WORDS = "the cat sat on the mat " * 400


def chat(model: str = "small", text: str = "hi", **fields: object) -> RequestBody:
    return RequestBody(orjson.dumps({"model": model, "messages": [{"role": "user", "content": text}], **fields}))


def models(**changes: Mapping[str, Any]) -> dict[str, PublicModel]:
    """`small` at one backend, and `large`, ten times as dear, at another and at the same."""
    made = {
        "small": PublicModel(
            "small",
            ((Target(ONE, "s", price=PRICE),),),
            bounds=replace(BOUNDS, context=1_000),
            fallback={Cause.CONTEXT_WINDOW: "large", Cause.CONTENT_FILTER: "large"},
        ),
        "large": PublicModel(
            "large", ((Target(TWO, "l", price=DEAR),), (Target(ONE, "l-one", price=DEAR),)), bounds=BOUNDS
        ),
        "third": PublicModel("third", ((Target(CLAUDE, "t"),),)),
    }
    return {name: replace(model, **changes.get(name, {})) for name, model in made.items()}


def policy(*limits: Limit, health: Health | None = None, **changes: Mapping[str, Any]) -> Policy:
    changed: Catalogue = replace(catalogue(), models=models(**changes), limits=limits)
    return Policy(catalogue=lambda: changed, health=health or Health({}, lambda: 0.0))


def limit(measure: Measure = Measure.TOKENS, amount: int = 1_000_000, **fields: Any) -> Limit:
    of = fields.pop("of", None)
    only = Only(models=None if of is None else frozenset({of}))
    return Limit(**{"name": "l", "measure": measure, "amount": amount, "period": Period.MONTH, "only": only, **fields})


async def routed(of: Policy, body: RequestBody) -> tuple[Call, Route]:
    call = of.pipeline.begin()
    await request().tell(of.pipeline, call)
    order = await body.tell(of.pipeline, call)
    assert isinstance(order, Route), order
    return call, order


def backends(route: Route) -> tuple[list[str], dict[str, list[str]]]:
    """Those of the model that was asked for, and of the others."""
    return [leg.backend for leg in route.legs], {cause: [leg.backend for leg in legs] for cause, legs in route.instead}


# ---- which model may serve ----------------------------------------------------------------------------


async def test_an_order_brings_the_other_models_chain_along() -> None:
    of = policy()
    call, order = await routed(of, chat())
    assert order.legs == (Leg("one", "/v1/chat/completions", "s", "s"),)
    large = (Leg("two", "/v1/chat/completions", "l", "l"), Leg("one", "/v1/chat/completions", "l-one", "l-one"))
    assert order.instead == (("context_window", large), ("content_filter", large))
    of.pipeline.end(call)


@pytest.mark.parametrize(
    ("asked", "large", "then"), [(5.0, 60.0, 60.0), (60.0, 5.0, 60.0), (5.0, None, None), (None, 5.0, None)]
)
async def test_no_answer_of_the_other_model_is_cut_off_by_the_time_of_the_one_that_was_asked_for(
    asked: float | None, large: float | None, then: float | None
) -> None:
    of = policy(small={"first_byte": asked}, large={"first_byte": large})
    call, order = await routed(of, chat())
    assert order.first_byte == then
    of.pipeline.end(call)
    call, order = await routed(of, chat("large"))
    assert order.first_byte == large
    of.pipeline.end(call)


async def test_one_that_has_no_other_brings_none() -> None:
    of = policy()
    call, order = await routed(of, chat("large"))
    assert (order.instead, call.spare) == ((), {})
    of.pipeline.end(call)


@pytest.mark.parametrize(
    ("surface", "state", "is_offered"),
    [
        (Surface.CHAT, None, True),
        (Surface.RESPONSES, None, True),
        (Surface.RESPONSES, StateReference(("resp_1",)), False),
        (Surface.EMBEDDINGS, None, False),
        (Surface.COUNT_TOKENS, None, False),
    ],
)
def test_another_model_serves_texts_that_lean_on_nothing(
    surface: Surface, state: StateReference | None, is_offered: bool
) -> None:
    place, prompt = Place(surface, Face.OPENAI), Prompt(b"", None, None, state=state)
    assert bool(fallback.offered(models()["small"], place, prompt)) is is_offered


async def test_a_caller_who_may_not_use_the_other_model_has_no_other() -> None:
    of = policy()
    narrow = Key("key_1", "app", "key_1", models=frozenset({"small"}))
    of.roster = Enrolled(Directory(keys={keys.fingerprint(KEY): narrow}))
    of.__post_init__()
    for body in (chat(), chat(text=WORDS)):
        call, order = await routed(of, body)
        assert backends(order) == (["one"], {})
        of.pipeline.end(call)


@pytest.mark.parametrize("change", [{"tiers": frozenset({"gold"})}, {"modality": Modality.EMBEDDINGS}])
async def test_a_model_that_is_not_for_the_caller_or_the_call_stands_in_for_none(change: dict[str, Any]) -> None:
    of = policy(large=change)
    call, order = await routed(of, chat())
    assert backends(order) == (["one"], {})
    of.pipeline.end(call)


async def test_the_backends_that_are_out_of_service_are_left_out_of_the_other_chain_too() -> None:
    of = policy()
    of.roster.directory = replace(DIRECTORY, stops=frozenset({("backend", "two")}))
    call, order = await routed(of, chat())
    assert backends(order) == (["one"], {"context_window": ["one"], "content_filter": ["one"]})
    of.pipeline.end(call)


async def test_a_model_out_of_service_serves_nothing_by_another_one() -> None:
    of = policy()
    of.roster.directory = replace(DIRECTORY, stops=frozenset({("model", "small")}))
    play = Playbook(of) >> request() >> chat(text=WORDS) << Refusal(STOPPED)
    assert (await play.play())["model"] == "small"


async def test_one_that_a_team_brings_stands_in_for_none_of_the_gateway() -> None:
    of = policy(large={"owner": "team"})
    call, order = await routed(of, chat())
    assert backends(order) == (["one"], {})
    of.pipeline.end(call)


async def test_a_probe_of_the_other_models_backend_is_left_to_calls_that_go_there() -> None:
    health = Health({"two": Watched(frozenset({"l"}), Cooling(failures=1, open_for=1_000.0))}, lambda: 0.0)
    health.note(Attempt("two", 502), -1_000_000.0, 0.0)
    of = policy(health=health)
    call, _ = await routed(of, chat())
    assert health.may_probe("two", 0.0)
    of.pipeline.end(call)


# ---- what is known beforehand -------------------------------------------------------------------------


@given(st.lists(st.text(max_size=60), max_size=20))
def test_no_text_surely_has_more_tokens_than_it_can_have(texts: list[str]) -> None:
    text = " ".join(texts)
    size = InputSize(features=bounds.features(text))
    assert bounds.least_tokens(size) <= bounds.text_tokens(text, "openai")


@pytest.mark.parametrize("text", [" " * 40_000, "\n" * 40_000, "=" * 40_000, "aaaa" * 10_000, "漢" * 10_000])
def test_what_may_be_few_tokens_is_never_surely_too_long(text: str) -> None:
    prompt = Prompt(b"", None, None, input=InputSize(features=bounds.features(text)))
    assert not fallback.is_too_long(prompt, models()["small"])


async def test_a_call_that_is_surely_too_long_goes_to_the_larger_model_at_once() -> None:
    of = policy()
    play = Playbook(of) >> request() >> chat(text=WORDS) << Route
    play >> answer("two") << Relay
    play >> ResponseBody(ANSWER)
    record = await play.play()
    assert (record["asked"], record["model"], record["fallback"]) == ("small", "large", "context_window")
    assert record["chain"] == ["two", "one"]
    assert record["cost"] == 7 * 10_000 + 30 * 40_000


@pytest.mark.parametrize(
    "changes", [{"small": {"bounds": BOUNDS}}, {"small": {"fallback": {Cause.CONTENT_FILTER: "large"}}}]
)
async def test_where_nobody_knows_or_wants_it_the_provider_is_asked(changes: Any) -> None:
    of = policy(**changes)
    call, order = await routed(of, chat(text=WORDS))
    assert backends(order)[0] == ["one"]
    of.pipeline.end(call)


async def test_where_the_larger_model_has_no_room_the_provider_is_asked_and_nothing_is_told_of_it() -> None:
    short = limit(amount=10, of="large")
    of = policy(short)
    play = Playbook(of) >> request() >> chat(text=WORDS) << Route
    play >> answer("one") << Relay
    record = await play.play()
    assert record["model"] == "small"
    assert not {"asked", "fallback", "limit"} & record.keys()
    assert not of.holds.open


async def test_one_step_is_made_and_no_second_one() -> None:
    of = policy(large={"fallback": {Cause.CONTENT_FILTER: "third"}})
    call, order = await routed(of, chat(text=WORDS))
    assert backends(order) == (["two", "one"], {})
    of.pipeline.end(call)


async def test_behind_the_model_of_a_spent_budget_there_is_no_other_one() -> None:
    spent = limit(amount=1, of="small", fallback="large")
    of = policy(spent, large={"fallback": {Cause.CONTENT_FILTER: "third"}})
    call, order = await routed(of, chat())
    assert backends(order) == (["two", "one"], {})
    assert ("x-sluice-model", "large") in call.told
    of.pipeline.end(call)


# ---- what is held, and who pays -----------------------------------------------------------------------


async def test_a_call_holds_what_the_dearer_model_could_cost_and_pays_what_it_did() -> None:
    of = policy(limit(Measure.MONEY, 10**12))
    play = Playbook(of) >> request() >> chat() << Route
    play >> answer("one") << Relay
    play >> ResponseBody(ANSWER)
    record = await play.play()
    assert record["held"]["money"] > 1_000 * 40_000
    assert record["cost"] == 7 * 1_000 + 30 * 4_000
    ((_, draws, _),) = of.holds.settled
    assert [draw.units for draw in draws] == [record["cost"]]


@pytest.mark.parametrize("served", ["small", "large"])
async def test_limits_of_a_model_count_the_calls_that_it_served(served: str) -> None:
    mine, others = (limit(Measure.REQUESTS, 5, name=name, of=name) for name in ("small", "large"))
    each = limit(Measure.REQUESTS, 5, name="each", scope=(Scope.MODEL,))
    shared = limit(Measure.REQUESTS, 5, name="shared")
    of = policy(mine, others, each, shared)
    play = Playbook(of) >> request() >> chat() << Route
    play >> (answer("one") if served == "small" else answer("two", x_sluice_fallback=LARGE)) << Relay
    play >> ResponseBody(ANSWER)
    assert (await play.play())["model"] == served
    ((hold, draws, _),) = of.holds.settled
    booked = [(stake.limit.name, stake.values, draw.units) for stake, draw in zip(hold.stakes, draws, strict=True)]
    assert sorted(booked) == sorted(
        [
            ("small", (), int(served == "small")),
            ("large", (), int(served == "large")),
            ("each", ("small",), int(served == "small")),
            ("each", ("large",), int(served == "large")),
            ("shared", (), 1),
        ]
    )


@pytest.mark.parametrize("own", [True, False])
async def test_where_the_other_model_has_no_room_there_is_none_and_nothing_stays_held(own: bool) -> None:
    """With limits that hold for the call anyway, and without."""
    none = limit(Measure.OUTPUT_TOKENS, 10, of="large")
    of = policy(*([limit(Measure.REQUESTS, 9, name="own")] if own else []), none)
    call, order = await routed(of, chat())
    assert backends(order) == (["one"], {})
    await answer("one").tell(of.pipeline, call)
    await ResponseBody(ANSWER).tell(of.pipeline, call)
    of.pipeline.end(call)
    assert [draw.units for _, draws, _ in of.holds.settled for draw in draws] == ([1] if own else [])


async def test_one_without_a_price_stands_in_for_none_under_a_limit_of_money() -> None:
    of = policy(
        limit(Measure.MONEY, 10**12),
        small={"fallback": {Cause.CONTENT_FILTER: "third", Cause.CONTEXT_WINDOW: "large"}},
    )
    call, order = await routed(of, chat())
    assert backends(order) == (["one"], {"context_window": ["two", "one"]})
    of.pipeline.end(call)


async def test_a_leased_answer_is_not_for_a_model_that_writes_what_nobody_sees() -> None:
    leased = limit(Measure.OUTPUT_TOKENS, 200, short=Short.LEASE, slice=32)
    of = policy(leased, large={"bounds": replace(BOUNDS, hidden_output=True)})
    call, order = await routed(of, chat(stream=True))
    assert backends(order) == (["one"], {})
    assert call.hold is not None
    assert call.hold.leased
    of.pipeline.end(call)


async def test_the_other_model_writes_no_more_than_is_held_for_it() -> None:
    """The model that was asked for never writes more by itself, and the limit is not its own."""
    bound = limit(Measure.OUTPUT_TOKENS, 100_000, of="large")
    of = policy(bound, large={"bounds": replace(BOUNDS, max_output=None)})
    call, order = await routed(of, chat())
    assert order.body is not None
    assert call.hold is not None
    assert orjson.loads(order.body)["max_tokens"] == call.hold.cap == call.output_cap
    assert [name for name, _ in call.told].count("x-sluice-output-cap") == 1
    of.pipeline.end(call)


@pytest.mark.parametrize("own_limits", [(), (limit(Measure.REQUESTS, 9, name="own"),)], ids=["unlimited", "counted"])
@pytest.mark.parametrize(
    ("said", "own", "others", "written"),
    [
        (None, 4_096, None, 4_096),  # more is refused by providers
        (None, 4_096, 500, None),
        (4_000, 4_096, 500, 4_000),
        (4_000, None, 500, 4_000),
        (8_000, 4_096, 100_000, 4_096),
        (None, None, 100_000, None),  # what it takes, nobody knows
        (None, None, 500, None),
    ],
)
async def test_a_limit_of_the_other_model_does_not_shorten_what_this_one_says_nor_ask_it_for_more_than_it_takes(
    said: int | None, own: int | None, others: int | None, written: int | None, own_limits: tuple[Limit, ...]
) -> None:
    small, large = (replace(BOUNDS, max_output=most) for most in (own, others))
    of = policy(limit(of="large"), *own_limits, small={"bounds": small}, large={"bounds": large})
    body = chat() if said is None else chat(max_tokens=said)
    call, order = await routed(of, body)
    assert order.instead
    sent = body.body if order.body is None else order.body
    assert orjson.loads(sent).get("max_tokens") == written
    of.pipeline.end(call)


async def test_backends_that_read_the_cap_elsewhere_do_not_stand_in_where_one_is_written() -> None:
    newer = replace(TWO, cap_field="max_completion_tokens")
    groups = ((Target(newer, "l"),), (Target(ONE, "l-one"),))
    written = limit(Measure.OUTPUT_TOKENS, 100, short=Short.CAP)
    of = policy(written, large={"groups": groups})
    call, order = await routed(of, chat())
    assert call.output_cap is not None
    assert backends(order)[1] == {"context_window": ["one"], "content_filter": ["one"]}
    of.pipeline.end(call)


async def test_counters_that_do_not_answer_for_the_other_model_stop_no_call() -> None:
    of = policy(limit(Measure.REQUESTS, 9, of="large"))
    of.holds.down = True
    call, order = await routed(of, chat())
    assert backends(order) == (["one"], {})
    of.pipeline.end(call)


UNITS = st.integers(0, 50)


@given(
    st.dictionaries(st.sampled_from("abc"), UNITS, max_size=3),
    st.dictionaries(st.sampled_from("abc"), UNITS, max_size=3),
)
def test_a_wider_hold_has_room_for_either_and_is_paid_by_one(mine: dict[str, int], others: dict[str, int]) -> None:
    def hold(units: dict[str, int]) -> Hold:
        stakes = [Stake(limit(Measure.REQUESTS), Draw(Counter(key, 100), taken)) for key, taken in units.items()]
        return Hold("h", tuple(stakes), Demand())

    held, wanted = hold(mine), hold(others)
    wide = fallback.wider(held, "small", wanted, "large")
    taken = {stake.draw.counter.key: stake.draw.units for stake in wide.stakes}
    assert taken == {key: max(mine.get(key, 0), others.get(key, 0)) for key in mine.keys() | others.keys()}
    assert mine | {draw.counter.key: draw.units for draw in fallback.more(held, wide)} == taken
    for model, own in (("small", mine), ("large", others)):
        booked = {draw.counter.key for draw in charge.settled(wide, Demand(requests=1), None, model) if draw.units}
        assert booked == own.keys()


@pytest.mark.parametrize("served", ["small", "large"])
def test_a_leased_answer_goes_on_at_the_expense_of_the_model_that_serves(served: str) -> None:
    """Else a limit that is not its own could end it."""
    sums, catalogue = Sums(), models()
    limits = {name: limit(name=name, of=name) for name in ("small", "large")}
    everybody = limit(name="everybody")
    stakes = [Stake(of, Draw(sums.counter(of, (), 10, 0), 1), models=frozenset({name})) for name, of in limits.items()]
    stakes.append(Stake(everybody, Draw(sums.counter(everybody, (), 10, 0), 1)))
    held = Hold("h", tuple(stakes), Demand(output=16), cap=16, leased=True)
    model = catalogue[served]
    demand, draws = budget.longer(held, Chain(model, model.groups[0]), 17, sums, 0)
    assert demand.output == 32
    own = {sums.counter(of, (), 10, 0).key for of in (limits[served], everybody)}
    assert {draw.counter.key for draw in draws} == own


# ---- the order as Envoy gets it -----------------------------------------------------------------------


def told(route: Route) -> tuple[dict[str, Any], dict[str, str]]:
    """Its metadata, and the headers that it sets."""
    reply = ProcessingResponse.FromString(codec.route_after_body(route))
    changed = reply.request_body.response.header_mutation.set_headers
    headers = {option.header.key: option.header.raw_value.decode() for option in changed}
    return orjson.loads(orjson.dumps(_plain(reply.dynamic_metadata))), headers


def _plain(struct: Any) -> Any:
    return {name: _value(value) for name, value in struct.fields.items()}


def _value(value: Any) -> Any:
    kind = value.WhichOneof("kind")
    if kind == "struct_value":
        return _plain(value.struct_value)
    return [_value(one) for one in value.list_value.values] if kind == "list_value" else getattr(value, kind)


def clusters(groups: list[Any]) -> list[str]:
    return [one["cluster_name"] for group in groups for one in group["clusters"]]


def test_envoy_gets_the_tries_for_the_longer_chain_and_the_sink_behind_each() -> None:
    other = (Leg("b", "/b", "large", "large"), Leg("a", "/a", "large", "large"))
    metadata, headers = told(
        Route((Leg("a", "/a", "s"),), body=b"{}", at=3, to=9, instead=(("context_window", other),))
    )
    assert headers["x-envoy-max-retries"] == "2"
    assert clusters(metadata[contract.ORDER]["priority_groups"]) == ["backend_a", "sink"]
    instead = metadata[contract.INSTEAD]["context_window"]
    assert clusters(instead["groups"]) == ["backend_b", "backend_a", "sink"]
    assert instead["model"] == {"backend_b": "large", "backend_a": "large"}
    assert metadata[contract.CALL] == {"at": "3", "to": "9"}, "where only the other model's name is written"
    assert "translate" not in instead


def test_a_route_without_another_model_is_told_as_ever() -> None:
    metadata, headers = told(Route((Leg("a", "/a", "s"), Leg("b", "/b", "s"))))
    assert headers["x-envoy-max-retries"] == "1"
    assert clusters(metadata[contract.ORDER]["priority_groups"]) == ["backend_a", "backend_b"]
    assert contract.INSTEAD not in metadata


def test_behind_a_translated_chain_headers_are_set_anew() -> None:
    legs = (Leg("a", "/a", "s", translate="chat"),)
    metadata, _ = told(Route(legs, instead=(("context_window", (Leg("b", "/b", "l"),)),)))
    translate = metadata[contract.INSTEAD]["context_window"]["translate"]
    assert translate
    assert "backend_b" not in translate


@given(st.integers(1, 3), st.lists(st.integers(1, 3), max_size=2))
def test_a_joined_chain_is_parted_as_it_was_joined(own: int, others: list[int]) -> None:
    def chain(name: str, length: int) -> Chain:
        return Chain(models()["small"], tuple([Target(ONE, f"{name}{number}") for number in range(length)]))

    mine = chain("m", own)
    spare = {cause: chain(cause.value, length) for cause, length in zip(Cause, others, strict=False)}
    whole = fallback.joined(mine, spare)
    route = fallback.parted(Route(tuple([Leg("b", "/", target.model) for target in whole.targets])), mine, spare)
    assert [leg.deployed for leg in route.legs] == [target.model for target in mine.targets]
    assert {cause: [leg.deployed for leg in legs] for cause, legs in route.instead} == {
        cause.value: [target.model for target in other.targets] for cause, other in spare.items()
    }
    assert len(route.all_legs) == len(whole.targets)


# ---- the answer ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("value", ["", "context_window", "nonsense/2", "content_filter/2"])
def test_a_head_that_tells_of_no_model_that_the_call_brought_changes_nothing(value: str) -> None:
    small, large = models()["small"], models()["large"]
    chain, other = Chain(small, small.groups[0]), Chain(large, large.groups[0])
    call = Call(0.0, catalogue(), chain=chain, spare={Cause.CONTEXT_WINDOW: other} if "/" in value else {})
    fallback.taken(call, Headers.of([("x-sluice-fallback", value.encode())]))
    assert (call.chain, call.fallback, call.notices) == (chain, None, ())


async def test_a_call_whose_tries_ran_out_at_the_sink_says_that_nobody_answered() -> None:
    play = Playbook(policy()) >> request() >> chat() << Route
    play >> UNROUTED << Refusal(UPSTREAM_UNAVAILABLE)
    assert (await play.play())["status"] == 503


async def test_the_other_models_answer_is_its_own() -> None:
    """The ids of what it made are bound to it, too."""
    of = policy()
    play = Playbook(of) >> request("/v1/responses") >> RequestBody(b'{"model":"small","input":"hi"}') << Route
    play >> answer("two", x_sluice_fallback=LARGE) << Relay
    play >> ResponseBody(b'{"id":"resp_1","object":"response","status":"completed","output":[]}')
    assert (await play.play())["backend"] == "two"
    assert (await of.affinity.recall(["resp_1"]))["resp_1"].model == "large"


# ---- which clusters look at answers -------------------------------------------------------------------


def test_only_backends_of_models_with_another_one_look_at_their_answers() -> None:
    models: dict[str, Any] = {
        "small": {"targets": [[{"backend": "a"}]], "fallback": {"context_window": "big"}},
        "large": {"targets": [[{"backend": "b"}]], "aliases": ["big"]},
        "plain": {"targets": [[{"backend": "c"}]]},
    }
    backends = {name: {"dialect": "openai", "url": f"https://{name}.example"} for name in "abc"}
    gateway = Gateway.model_validate({"backends": backends, "models": models})
    assert dataplane.backends(gateway) == {"a", "b"}


def test_the_example_of_the_page_is_one() -> None:
    page = (Path(__file__).resolve().parents[2] / "docs/models.md").read_text()
    (example,) = [text for text in re.findall(r"```yaml\n(.*?)```", page, re.DOTALL) if "fallback:" in text]
    backends = {name: {"dialect": "openai", "url": f"https://{name}.example"} for name in ("swe", "fra", "foundry")}
    gateway = Gateway.model_validate({"backends": backends, **YAML(typ="safe").load(example)})
    assert gateway.models["gpt-4o"].stand_ins == {
        Cause.CONTEXT_WINDOW: "gpt-4.1",
        Cause.CONTENT_FILTER: "claude-sonnet",
    }
    assert dataplane.backends(gateway) == set(backends)


def test_one_that_names_no_model_is_refused() -> None:
    tree = {"backends": {"a": {"dialect": "openai", "url": "https://a.example"}}}
    with pytest.raises(ValidationError, match="name a model for"):
        Gateway.model_validate({**tree, "models": {"m": {"targets": [[{"backend": "a"}]], "fallback": {}}}})
