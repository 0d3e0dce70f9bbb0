"""Orders from the configuration to a call: what is refused, what is doubted, and what a worker learns of its calls."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError
from ruamel.yaml import YAML

from extproc.config import compile as compiled
from extproc.config.doubts import doubts
from extproc.config.schema import Gateway
from extproc.model import Backend, Catalogue, Dialect, Order, PublicModel, Target
from extproc.stages.traffic import Traffic
from tests.support.playbook import (
    ONE,
    TWO,
    Playbook,
    Policy,
    RequestBody,
    ResponseBody,
    Told,
    answer,
    local_reply,
    request,
)

Json = dict[str, Any]
BODY = RequestBody(b'{"model":"m","messages":[{"role":"user","content":"hi"}]}')
STREAM = RequestBody(b'{"model":"m","stream":true,"messages":[{"role":"user","content":"hi"}]}')
WHOLE = ResponseBody(json.dumps({"choices": [], "usage": {"prompt_tokens": 1, "completion_tokens": 30}}).encode())
EVENT = b'data: {"choices":[{"delta":{"content":"hi"}}]}\n\n'
NAMES = [("one", "m"), ("two", "m")]


def gateway(order: str, *weights: int) -> Gateway:
    backends = {f"b{at}": {"dialect": "openai", "url": "https://llm.example"} for at in range(len(weights))}
    group = [{"backend": f"b{at}", "weight": weight} for at, weight in enumerate(weights)]
    return Gateway.model_validate({"backends": backends, "models": {"m": {"targets": [group], "order": order}}})


@pytest.mark.parametrize("order", Order)
def test_each_order_can_be_named(order: Order) -> None:
    assert compiled.catalogue(gateway(order.value, 1, 1)).models["m"].order is order


@pytest.mark.parametrize("order", ["fastest", "least-latency", "", None])
def test_another_is_refused(order: Any) -> None:
    with pytest.raises(ValidationError, match="order"):
        gateway(order, 1, 1)


@pytest.mark.parametrize(
    ("order", "weights", "is_doubted"),
    [
        ("least_latency", (1, 1), False),
        ("least_latency", (1,), True),
        ("least_busy", (1, 0), True),
        ("weights", (1,), False),
    ],
)
def test_an_order_of_what_cannot_be_ordered_is_doubted(order: str, weights: tuple[int, ...], is_doubted: bool) -> None:
    told = [".".join(map(str, steps)) for steps, _ in doubts(gateway(order, *weights), 0)]
    assert ("models.m.order" in told) == is_doubted


PAGE = (Path(__file__).resolve().parents[2] / "docs" / "models.md").read_text()
EXAMPLES = [text for text in re.findall(r"```yaml\n(.*?)```", PAGE, re.DOTALL) if re.search(r"\b(order|shadow):", text)]


@pytest.mark.parametrize("example", EXAMPLES, ids=["order", "shadow"])
def test_an_example_of_the_page_is_accepted(example: str) -> None:
    backends = {name: {"dialect": "openai", "url": f"https://{name}.example"} for name in ("swe", "fra", "vllm")}
    assert Gateway.model_validate({"backends": backends, **YAML(typ="safe").load(example)})


# ---- through the pipeline ---------------------------------------------------------------------------


def policy(order: Order) -> Policy:
    """A group of which `one` is nearly always drawn first: the other has next to no weight."""
    group = (Target(ONE, "m", 1000), Target(TWO, "m", 1))
    spare = (Target(Backend("spare", Dialect.OPENAI), "m"),)
    model = PublicModel("m", (group, spare), order=order)
    return Policy(catalogue=lambda: Catalogue({"m": model}, {"one": ONE, "two": TWO}, {}, 4096))


def traffic(made: Policy) -> Traffic:
    return made.pipeline._traffic


ENDINGS: dict[str, list[Told]] = {
    "whole": [BODY, answer("one"), WHOLE],
    "by another": [BODY, answer("two"), WHOLE],
    "by the next group": [BODY, answer("spare"), WHOLE],
    "stream": [STREAM, answer("one", content_type="text/event-stream"), ResponseBody(EVENT, end=False)],
    "cut": [BODY, answer("one"), ResponseBody(b'{"cho', end=False)],
    "left early": [BODY],
    "error": [BODY, answer("one", status=500, end=True)],
    "wrong": [BODY, answer("one", status=400, end=True)],
    "nobody": [BODY, local_reply(503, "no_healthy_upstream")],
    "refused": [RequestBody(b'{"model":"unknown","messages":[]}')],
    "never asked": [],
}


@pytest.mark.parametrize("order", [Order.LEAST_LATENCY, Order.LEAST_BUSY])
@pytest.mark.parametrize("ending", ENDINGS)
async def test_however_a_call_ends_it_is_under_way_no_more(ending: str, order: Order) -> None:
    made = policy(order)
    book = Playbook(made) >> request()
    for told in ENDINGS[ending]:
        book = book >> told
    await book.play()
    assert not traffic(made)._load._under_way


@pytest.mark.parametrize(
    ("ending", "stream", "known"),
    [
        ("whole", False, True),
        ("stream", True, True),
        ("by another", False, True),
        ("cut", False, True),
        ("left early", False, True),
        ("error", False, True),
        ("nobody", False, True),
        ("wrong", False, False),
        ("refused", False, False),
    ],
)
async def test_a_call_tells_something_of_one_backend_or_nothing(ending: str, stream: bool, known: bool) -> None:
    made = policy(Order.LEAST_LATENCY)
    traffic(made)._latency.served(NAMES[1], stream, 0.0, 0, 0.0)  # long forgotten
    book = Playbook(made) >> request()
    for told in ENDINGS[ending]:
        book = book >> told
    await book.play()
    samples = {target: average for (target, kind), average in traffic(made)._latency._known.items() if kind == stream}
    seen = [target for target in NAMES if target in samples and samples[target].at > 0]
    assert len(seen) == known


async def test_a_model_that_goes_by_weight_is_not_watched() -> None:
    made = policy(Order.WEIGHTS)
    await (Playbook(made) >> request() >> BODY >> answer("one") >> WHOLE).play()
    assert not traffic(made)._latency._known
