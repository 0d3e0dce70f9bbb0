"""Service tiers: in which a call may be served, and in which it was, as requests and answers say."""

import json
from collections.abc import Callable
from typing import Any

import pytest

from extproc.dialects import registry, tiers
from extproc.dialects.translate import chat_to_anthropic_request, messages_to_chat_request, responses_to_chat_request
from extproc.dialects.translate.fields import Inexpressible
from extproc.model import SERVICE_TIERS, Usage
from extproc.refusals import DUPLICATE_FIELD, Refused
from extproc.surfaces import Surface

OPEN = frozenset(SERVICE_TIERS) - {"batch", "fast"}
REQUESTS: dict[Surface, dict[str, Any]] = {
    Surface.CHAT: {"messages": [{"role": "user", "content": "hi"}]},
    Surface.COMPLETIONS: {"prompt": "hi"},
    Surface.RESPONSES: {"input": "hi"},
    Surface.MESSAGES: {"messages": [{"role": "user", "content": "hi"}], "max_tokens": 5},
}


@pytest.mark.parametrize("surface", REQUESTS)
@pytest.mark.parametrize(
    ("asked", "served"),
    [
        ({}, OPEN),
        ({"service_tier": None}, OPEN),
        ({"service_tier": "auto"}, OPEN),
        ({"service_tier": 5}, OPEN),
        ({"service_tier": "default"}, frozenset()),
        ({"service_tier": "standard_only"}, frozenset()),
        ({"service_tier": "flex"}, frozenset({"flex"})),
        ({"service_tier": "priority"}, frozenset({"priority"})),
        ({"service_tier": "gold"}, frozenset(SERVICE_TIERS)),
        ({"speed": "standard"}, OPEN),
        ({"speed": "fast"}, OPEN | {"fast"}),
        ({"speed": "fast", "service_tier": "standard_only"}, OPEN | {"fast"}),
    ],
)
def test_a_request_says_in_which_it_may_be_served(
    surface: Surface, asked: dict[str, Any], served: frozenset[str]
) -> None:
    body = json.dumps(REQUESTS[surface] | asked).encode()
    assert registry.READERS[surface](body).service_tiers == served


@pytest.mark.parametrize(
    ("surface", "translate"),
    [
        (Surface.CHAT, chat_to_anthropic_request.message_request),
        (Surface.RESPONSES, responses_to_chat_request.chat_request),
        (Surface.MESSAGES, messages_to_chat_request.translate),
    ],
)
@pytest.mark.parametrize("tier", ["auto", "default", "standard_only", "flex", "scale", "priority"])
def test_one_in_other_words_may_be_served_in_no_other(
    surface: Surface, translate: Callable[[dict[str, Any], str], dict[str, object]], tier: str
) -> None:
    request = {"model": "m", **REQUESTS[surface], "service_tier": tier}
    try:
        made = translate(request, "m")
    except Inexpressible:
        return  # nothing is sent
    assert tiers.asked(made) <= tiers.asked(request)


@pytest.mark.parametrize("surface", REQUESTS)
def test_one_that_names_two_is_refused(surface: Surface) -> None:
    body = json.dumps(REQUESTS[surface]).encode()[:-1] + b',"service_tier":"default","service_tier":"priority"}'
    with pytest.raises(Refused) as caught:
        registry.READERS[surface](body)
    assert caught.value.refusal.kind is DUPLICATE_FIELD


@pytest.mark.parametrize(
    ("said", "tier"),
    [
        ({}, None),
        ({"service_tier": None}, None),
        ({"service_tier": ["priority"]}, None),
        ({"service_tier": "default"}, ""),
        ({"service_tier": "standard"}, ""),
        ({"service_tier": "auto"}, ""),
        ({"service_tier": "priority"}, "priority"),
        ({"service_tier": "x" * 1000}, "other"),
        ({"speed": "fast", "service_tier": "standard"}, "fast"),
        ({"speed": {}, "service_tier": "batch"}, "batch"),
    ],
)
def test_an_answer_says_in_which_it_was(said: dict[str, Any], tier: str | None) -> None:
    assert tiers.answered(said) == tier


# ---- of whole answers and of streams ----------------------------------------------------------------

COUNTED = {"prompt_tokens": 5, "completion_tokens": 2, "total_tokens": 7}
TOLD = {"input_tokens": 5, "output_tokens": 2, "total_tokens": 7}


def _total(surface: Surface, *events: object, whole: object = None) -> Usage:
    meter = registry.meter(surface, hide_usage=False)
    for event in events:
        meter.event(b"data: %s\n\n" % json.dumps(event).encode())
    if isinstance(whole, dict):
        meter.answer(whole)
    return meter.total(3)


@pytest.mark.parametrize("surface", [Surface.CHAT, Surface.COMPLETIONS, Surface.RESPONSES, Surface.EMBEDDINGS])
def test_a_whole_answer_has_it_beside_its_usage(surface: Surface) -> None:
    assert _total(surface, whole={"service_tier": "priority", "usage": COUNTED}).tier == "priority"
    assert _total(surface, whole={"service_tier": "default", "usage": COUNTED}).tier == ""
    assert _total(surface, whole={"usage": COUNTED}).tier == ""


def test_a_message_has_it_in_its_usage() -> None:
    assert _total(Surface.MESSAGES, whole={"usage": {**TOLD, "service_tier": "priority"}}).tier == "priority"
    assert (
        _total(Surface.MESSAGES, whole={"usage": {**TOLD, "service_tier": "standard", "speed": "fast"}}).tier == "fast"
    )


def test_every_chunk_of_a_chat_has_it_and_the_last_counts() -> None:
    said = {"choices": [{"delta": {"content": "hi"}}], "service_tier": "auto"}
    chunks = [{**said, "service_tier": "priority"}, said, {"choices": [], "usage": COUNTED, "service_tier": "flex"}]
    assert _total(Surface.CHAT, *chunks[:1]).tier == "priority", "also of an answer that breaks off"
    assert _total(Surface.CHAT, *chunks[:2]).tier == ""
    assert _total(Surface.CHAT, *chunks).tier == "flex"


def test_of_a_response_the_last_event_tells_it() -> None:
    begun = {"type": "response.created", "response": {"service_tier": "auto"}}
    ended = {"type": "response.completed", "response": {"service_tier": "priority", "usage": TOLD}}
    assert _total(Surface.RESPONSES, begun).tier == ""
    assert _total(Surface.RESPONSES, begun, ended).tier == "priority"


def test_of_a_message_the_first_event_tells_it_and_the_hour() -> None:
    creation = {"ephemeral_5m_input_tokens": 30, "ephemeral_1h_input_tokens": 70}
    usage = {
        "input_tokens": 5,
        "cache_creation_input_tokens": 100,
        "cache_creation": creation,
        "service_tier": "priority",
    }
    begun = {"type": "message_start", "message": {"usage": usage}}
    ended = {"type": "message_delta", "usage": {"output_tokens": 2}}
    total = _total(Surface.MESSAGES, begun, ended)
    assert (total.input, total.cache_write, total.cache_write_1h, total.tier) == (105, 100, 70, "priority")
    assert _total(Surface.MESSAGES, begun).tier == "priority", "also of an answer that breaks off"


def test_a_stored_response_that_is_read_again_was_paid_before() -> None:
    assert _total(Surface.RESPONSE_ITEM, whole={"service_tier": "priority", "usage": TOLD}) == Usage()
