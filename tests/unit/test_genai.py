"""The metrics by OpenTelemetry's conventions, in each version of their names."""

from typing import Any, get_args

import pytest
from prometheus_client import CollectorRegistry

from extproc import refusals
from extproc.call import Call
from extproc.config.telemetry import Telemetry
from extproc.model import Backend, Chain, Dialect, Ending, Outcome, PublicModel, Target, Usage, UsageSource
from extproc.refusals import Refusal
from extproc.surfaces import Face, Place, Surface
from extproc.telemetry import genai, tally
from extproc.telemetry.genai import CONVENTIONS, Meter
from extproc.timing import Stage, Times
from tests.support.playbook import LEGACY, ONE, catalogue

REPORTED = Usage(120, 90, source=UsageSource.REPORTED)
SERVED = {"gen_ai_operation_name": "chat", "gen_ai_request_model": "m", "gen_ai_response_model": "d"}
OF_ONE = {**SERVED, "gen_ai_provider_name": "openai", "sluice_backend": "one"}


class Metered:
    """A meter of one version, and what it shows."""

    def __init__(self, version: str = genai.NEWEST) -> None:
        self.registry = CollectorRegistry()
        self.meter = Meter(CONVENTIONS[version], self.registry)

    def count(self, call: Call, outcome: Outcome, ended: float = 110.0) -> None:
        self.meter.count(call, outcome, ended)
        tally.publish()

    def value(self, sample: str, **labels: str) -> float | None:
        return self.registry.get_sample_value(f"gen_ai_{sample}", labels)

    def series(self) -> set[str]:
        return {sample.name for family in self.registry.collect() for sample in family.samples}


def sent_call(**facts: Any) -> Call:
    """Sent at 102."""
    now = [101.0, 102.0]
    call = Call(100.0, catalogue(), times=Times(lambda: now.pop(0)), place=Place(Surface.CHAT, Face.OPENAI))
    with call.times.of(Stage.FORWARD):
        targets = (Target(ONE, "d"), Target(LEGACY, "d2"))
    call.chain = Chain(PublicModel("m", (targets,)), targets)
    for name, value in facts.items():
        setattr(call, name, value)
    return call


def served(ending: Ending = Ending.COMPLETE, status: int = 200, usage: Usage = REPORTED, **more: Any) -> Outcome:
    return Outcome(ending, status, usage, **{"backend": "one", "deployed": "d", **more})


def test_a_stream_is_measured_from_when_it_was_sent() -> None:
    metered = Metered()
    metered.count(sent_call(first_token=103.1), served())
    assert metered.value("server_request_duration_seconds_sum", **OF_ONE, error_type="") == 8.0
    assert metered.value("server_time_to_first_token_seconds_sum", **OF_ONE) == pytest.approx(1.1)
    assert metered.value("server_time_per_output_token_seconds_sum", **OF_ONE) == pytest.approx(6.9 / 89)
    for kind, tokens in (("input", 120), ("output", 90)):
        assert metered.value("client_token_usage_sum", **OF_ONE, gen_ai_token_type=kind) == tokens


def test_a_whole_answer_has_no_first_token_and_one_token_has_no_pace() -> None:
    metered = Metered()
    metered.count(sent_call(), served())
    assert "gen_ai_server_time_to_first_token_seconds_count" not in metered.series()
    metered.count(sent_call(first_token=103.0), served(usage=Usage(1, 1, source=UsageSource.REPORTED)))
    assert metered.value("server_time_to_first_token_seconds_count", **OF_ONE) == 1
    assert "gen_ai_server_time_per_output_token_seconds_count" not in metered.series()


def test_tokens_that_were_estimated_are_not_told_as_the_providers() -> None:
    metered = Metered()
    metered.count(sent_call(), served(usage=Usage(120, 90, source=UsageSource.ESTIMATED)))
    metered.count(sent_call(), served(usage=Usage()))
    assert "gen_ai_client_token_usage_count" not in metered.series()


@pytest.mark.parametrize(
    ("outcome", "error"),
    [
        (served(Ending.FAILED, 500), "500"),
        (served(Ending.FAILED, 777), "7xx"),
        (served(Ending.CUT), "cut"),
        (served(Ending.STALLED), "stalled"),
        (served(Ending.LIMITED), ""),
        (served(Ending.BLOCKED), ""),
        (served(Ending.FAILED, 0), "failed"),
    ],
)
def test_the_type_of_an_error_is_a_status_or_how_the_call_ended(outcome: Outcome, error: str) -> None:
    metered = Metered()
    metered.count(sent_call(first_token=103.0), outcome)
    assert metered.value("server_request_duration_seconds_count", **OF_ONE, error_type=error) == 1
    assert ("gen_ai_server_time_to_first_token_seconds_count" in metered.series()) == (error == "")


def test_a_call_that_no_backend_answered_is_told_by_our_refusal_and_the_first_backend_of_its_chain() -> None:
    metered = Metered()
    call = sent_call(refusal=Refusal(refusals.NOT_READY, "text"))
    metered.count(call, Outcome(Ending.REFUSED, 503, refusal="upstream_unavailable"))
    nobody = {**OF_ONE, "gen_ai_response_model": "", "sluice_backend": ""}
    assert metered.value("server_request_duration_seconds_count", **nobody, error_type="upstream_unavailable") == 1


def test_the_provider_is_that_of_the_backend_that_served() -> None:
    metered = Metered()
    metered.count(sent_call(), served(backend="legacy"))
    azure = {**OF_ONE, "gen_ai_provider_name": "azure.ai.openai", "sluice_backend": "legacy"}
    assert metered.value("server_request_duration_seconds_count", **azure, error_type="") == 1


@pytest.mark.parametrize(
    "facts",
    [{"place": Place(Surface.RESPONSE_ITEM, Face.OPENAI)}, {"place": None}, {"times": Times()}, {"chain": None}],
)
def test_what_was_not_sent_to_a_model_is_not_measured(facts: dict[str, Any]) -> None:
    metered = Metered()
    metered.count(sent_call(**facts), served())
    assert metered.series() == set()


def test_the_version_says_what_the_provider_is_called() -> None:
    metered = Metered("1.36")
    metered.count(sent_call(), served())
    labels = {**SERVED, "gen_ai_system": "openai", "sluice_backend": "one", "error_type": ""}
    assert metered.value("server_request_duration_seconds_count", **labels) == 1


def test_every_version_can_be_configured_and_really_differs() -> None:
    assert {*CONVENTIONS} == {*get_args(Telemetry.model_fields["genai"].annotation)}
    assert Telemetry().genai == catalogue().genai == genai.NEWEST
    names = [
        {name: getattr(one, name) for name in type(one).__slots__ if name != "version"} for one in CONVENTIONS.values()
    ]
    assert all(one != other for at, one in enumerate(names) for other in names[:at])


def test_every_surface_that_a_model_serves_has_an_operation_and_every_dialect_a_provider() -> None:
    unserved = {Surface.RESPONSE_ITEM, Surface.MODELS, Surface.MODEL_ITEM, Surface.ME, Surface.READY}
    assert {*genai.OPERATIONS} == {*Surface} - unserved
    assert all(genai.provider(Backend("b", dialect)) for dialect in Dialect)


def test_buckets_are_those_of_the_conventions() -> None:
    found = {family._name: family._upper_bounds[:-1] for family in Metered().meter.families}
    assert found["gen_ai_client_token_usage"][-1] == 67_108_864
    assert [f"{bound:g}" for bound in found["gen_ai_server_request_duration_seconds"]] == [
        *("0.01", "0.02", "0.04", "0.08", "0.16", "0.32", "0.64", "1.28", "2.56", "5.12"),
        *("10.24", "20.48", "40.96", "81.92"),
    ]
