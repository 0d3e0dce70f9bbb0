"""What is counted of a call, under labels that no caller can choose."""

from typing import Any

import pytest
from prometheus_client import REGISTRY, Counter

from extproc import refusals
from extproc.call import Call
from extproc.model import Caller, Chain, Ending, Outcome, PublicModel, Target, Team, Usage, UsageSource
from extproc.refusals import Refusal
from extproc.surfaces import Face, Place, Surface
from extproc.telemetry import calls, metrics
from tests.support.playbook import ONE, Playbook, RequestBody, catalogue, request


def _value(name: str, **labels: str) -> float:
    metrics.publish()
    return REGISTRY.get_sample_value(name, labels) or 0.0


class Counted:
    """How much a sample has grown since this was made."""

    def __init__(self, name: str, **labels: str) -> None:
        self._name, self._labels = name, labels
        self._before = _value(name, **labels)

    @property
    def grown(self) -> float:
        return _value(self._name, **self._labels) - self._before


def _call(**facts: Any) -> Call:
    target = Target(ONE, "m")
    call = Call(started=100.0, catalogue=catalogue(), place=Place(Surface.CHAT, Face.OPENAI))
    call.chain = Chain(PublicModel("m", ((target,),)), (target,))
    for name, value in facts.items():
        setattr(call, name, value)
    return call


def test_a_call_is_counted_once_with_its_duration_and_first_byte() -> None:
    labels = {"surface": "chat", "model": "m", "backend": "one", "status": "200", "ending": "complete"}
    counted = Counted("sluice_calls_total", **labels)
    duration = Counted("sluice_call_duration_seconds_sum", surface="chat")
    first = Counted("sluice_first_byte_seconds_sum", surface="chat")
    calls.count_call(_call(first_byte=100.5, stream=True), Outcome(Ending.COMPLETE, 200, backend="one"), 2.0)
    assert counted.grown == 1
    assert duration.grown == pytest.approx(2.0)
    assert first.grown == pytest.approx(0.5)


def test_only_a_stream_that_began_has_a_first_byte() -> None:
    first = Counted("sluice_first_byte_seconds_count", surface="chat")
    calls.count_call(_call(stream=True), Outcome(Ending.CUT, 0), 2.0)
    calls.count_call(_call(first_byte=100.5), Outcome(Ending.COMPLETE, 200), 2.0)
    assert first.grown == 0


def test_what_is_tallied_is_published_once() -> None:
    counted = Counted("sluice_broken_calls_total", by="client")
    metrics.count(metrics.BROKEN, "client")
    metrics.count(metrics.BROKEN, "client", amount=2)
    metrics.publish()
    metrics.publish()
    assert counted.grown == 3


def test_tokens_are_counted_by_kind_and_source() -> None:
    labels = {"surface": "chat", "model": "m", "backend": "one", "source": "estimated"}
    counted = {
        kind: Counted("sluice_tokens_total", kind=kind, **labels)
        for kind in ("input", "output", "reasoning", "cached_input")
    }
    usage = Usage(12, 9, reasoning=2, source=UsageSource.ESTIMATED)
    calls.count_call(_call(), Outcome(Ending.CUT, 200, usage, backend="one"), 1.0)
    assert {kind: one.grown for kind, one in counted.items()} == {
        "input": 12,
        "output": 9,
        "reasoning": 2,
        "cached_input": 0,
    }


def test_a_refusal_is_counted_with_who_is_to_blame() -> None:
    refused = Counted("sluice_refusals_total", surface="chat", code="store_unavailable", blame="gateway")
    call = _call(refusal=Refusal(refusals.STORE_UNAVAILABLE, "text"), chain=None)
    calls.count_call(call, Outcome(Ending.REFUSED, 503, refusal="store_unavailable"), 1.0)
    assert refused.grown == 1


def test_what_limits_did_is_counted_by_their_titles() -> None:
    counted = {
        1: [
            Counted("sluice_limit_refusals_total", limit="company"),
            Counted("sluice_limit_shadow_refusals_total", limit="calls"),
            Counted("sluice_limit_shadow_refusals_total", limit="team/search/minute"),
            Counted("sluice_limit_warnings_total", limit="company", threshold="80"),
        ],
        7: [Counted("sluice_overspent_total", unit="tokens", cause="output_above_cap")],
        2: [Counted("sluice_overspent_total", unit="tokens", cause="input_estimate")],
        900: [Counted("sluice_overspent_total", unit="nano", cause="output_above_cap")],
        0: [Counted("sluice_overspent_total", unit="nano", cause="input_estimate")],
    }
    outcome = Outcome(
        Ending.COMPLETE,
        200,
        limit="company",
        shadows=("calls", "team/search/minute"),
        warnings=(("company", 80),),
        overspent={"input_estimate": 2, "output_above_cap": 7},
        overspent_money=900,
    )
    calls.count_call(_call(), outcome, 1.0)
    for grown, samples in counted.items():
        assert [sample.grown for sample in samples] == [grown] * len(samples)


def test_more_money_and_no_more_tokens_has_a_cause_of_its_own() -> None:
    price = Counted("sluice_overspent_total", unit="nano", cause="price")
    calls.count_call(_call(), Outcome(Ending.COMPLETE, 200, overspent_money=5), 1.0)
    calls.count_call(_call(), Outcome(Ending.COMPLETE, 200), 1.0)
    assert price.grown == 5


@pytest.mark.parametrize(
    ("counter", "name"),
    [(metrics.COUNTERS_ERRORS, "sluice_counters_errors_total"), (metrics.LIMITS_LOCAL, "sluice_limits_local_total")],
)
def test_trouble_with_the_counters_is_counted(counter: Counter, name: str) -> None:
    counted = Counted(name)
    metrics.count(counter)
    assert counted.grown == 1


async def test_no_label_is_what_a_caller_typed() -> None:
    canary = "canary-of-a-caller"
    body = f'{{"model":"{canary}","messages":[{{"role":"user","content":"{canary}"}}],"user":"{canary}"}}'.encode()
    for head in (request(), request(f"/v1/{canary}"), request(f"/openai/deployments/{canary}/chat/completions")):
        await (Playbook() >> head).play()
    await (Playbook() >> request() >> RequestBody(body)).play()
    metrics.publish()
    labels = {value for family in REGISTRY.collect() for sample in family.samples for value in sample.labels.values()}
    assert not any(canary in value for value in labels)


def test_a_call_that_another_backend_answered_has_failed_over() -> None:
    counted = {name: Counted("sluice_failovers_total", model="m", backend=name) for name in ("one", "two")}
    for backend in ("one", "two", None):
        calls.count_call(_call(), Outcome(Ending.COMPLETE, 200, backend=backend), 1.0)
    assert (counted["one"].grown, counted["two"].grown) == (0, 1)


@pytest.mark.parametrize(("caller", "team"), [(None, ""), (Caller("k", "n", team=Team("t", "a", "standard")), "t")])
def test_what_calls_cost_is_added_up_by_team_and_model(caller: Caller | None, team: str) -> None:
    counted = Counted("sluice_cost_nano_total", team=team, model="m")
    for cost in (None, 0, 7, 2_500):
        calls.count_call(_call(caller=caller), Outcome(Ending.COMPLETE, 200, backend="one", cost=cost), 1.0)
    assert counted.grown == 2_507


def test_the_state_of_backends_is_shown_until_they_are_no_more() -> None:
    names = ("sluice_backend_cooling", "sluice_circuit_state")
    metrics.show_backends({"shown": (2, 1), "other": (0, 0)})
    assert [_value(name, backend="shown") for name in names] == [2, 1]
    metrics.show_backends({"other": (0, 2)})
    assert [_value(name, backend="shown") for name in names] == [0, 0]
    assert [_value(name, backend="other") for name in names] == [0, 2]
