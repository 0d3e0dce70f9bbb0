"""Only what is complete is kept: recorded answers, whole and cut everywhere, translated ones, and noise."""

import json
import random
import re
from collections.abc import Iterator
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from extproc import surfaces
from extproc.cache.question import SURFACES
from extproc.dialects.sse import EventReader, data
from extproc.dialects.translate.chat_to_anthropic import CHAT_TO_ANTHROPIC
from extproc.dialects.translate.chat_to_gemini import CHAT_TO_GEMINI
from extproc.dialects.translate.direction import Asked, Direction
from extproc.dialects.translate.messages_to_chat import MESSAGES_TO_CHAT
from extproc.dialects.translate.responses_to_chat import RESPONSES_TO_CHAT
from extproc.surfaces import Surface
from tests.support import cassettes
from tests.unit.cache.kept import chat, choice, chunk, stream, told

Json = dict[str, Any]


# ---- recorded answers -------------------------------------------------------------------------------------

_END = re.compile(rb'"(?:finish_reason|stop_reason)": ?"(\w+)"')
_NATURAL = {b"stop", b"tool_calls", b"end_turn", b"tool_use"}
_CUTS = 60  # places where a recorded answer is cut, besides the borders of events


def recorded() -> Iterator[Any]:
    for folder in filter(None, (cassettes.OWN, cassettes.shared())):
        for exchange in cassettes.load(folder):
            place = surfaces.locate(exchange.path.partition("?")[0])
            if place is not None and place.surface in SURFACES:
                yield pytest.param(place.surface, exchange, id=f"{folder.parent.name}-{exchange.name}")


RECORDED = list(recorded())


def is_stream(exchange: cassettes.Exchange) -> bool:
    return any(value.startswith("text/event-stream") for name, value in exchange.answer.headers if "ype" in name)


def results_of(exchange: cassettes.Exchange) -> int:
    """Choices or embeddings that were asked for."""
    asked = exchange.fields
    inputs = asked.get("prompt", asked.get("input"))
    is_several = isinstance(inputs, list) and not isinstance(inputs[0], int)
    return (len(inputs) if isinstance(inputs, list) and is_several else 1) * int(asked.get("n", 1))


def body_of(exchange: cassettes.Exchange) -> bytes:
    """The answer, as if it had been asked not to be stored: with `store: true` it is never kept."""
    return re.sub(rb'"store": ?true', b'"store":false', exchange.answer.body)


def is_complete(exchange: cassettes.Exchange) -> bool:
    return exchange.answer.status == 200 and set(_END.findall(exchange.answer.body)) <= _NATURAL


@pytest.mark.parametrize(("surface", "exchange"), RECORDED)
def test_a_recorded_answer_is_kept_if_it_is_complete(surface: Surface, exchange: cassettes.Exchange) -> None:
    results = results_of(exchange)
    reason = told(surface, body_of(exchange), is_stream(exchange), results)
    assert (reason is None) == is_complete(exchange), reason
    assert told(surface, body_of(exchange), not is_stream(exchange), results) is not None


def test_recorded_answers_of_every_surface_are_complete() -> None:
    kept = {(one.values[0], is_stream(one.values[1])) for one in RECORDED if is_complete(one.values[1])}
    streams = {Surface.CHAT, Surface.MESSAGES, Surface.RESPONSES}
    assert kept >= {(surface, False) for surface in SURFACES} | {(surface, True) for surface in streams}


COMPLETE = [one for one in RECORDED if is_complete(one.values[1])]


@pytest.mark.parametrize(("surface", "exchange"), COMPLETE)
def test_an_answer_that_is_cut_anywhere_is_not_kept(surface: Surface, exchange: cassettes.Exchange) -> None:
    """At every border of events, at its end, and at places in between. White space may be missing behind JSON."""
    body, results, dice = body_of(exchange), results_of(exchange), random.Random(1)
    events = EventReader().feed(body) if is_stream(exchange) else [body]
    borders = [sum(map(len, events[:count])) for count in range(len(events))]
    near_the_end = range(max(0, len(body.rstrip()) - _CUTS), len(body))
    for at in {*borders, *near_the_end, *(dice.randrange(len(body)) for _ in range(_CUTS))}:
        is_whole = not is_stream(exchange) and not body[at:].strip()
        assert (told(surface, body[:at], is_stream(exchange), results) is None) == is_whole, at


@pytest.mark.parametrize(("surface", "exchange"), COMPLETE)
def test_nothing_may_follow_an_answer(surface: Surface, exchange: cassettes.Exchange) -> None:
    body, results = body_of(exchange), results_of(exchange)
    for more in (b": ping\n\n", b"data: {}\n\n", b"{}", b"x", b"data: [DONE]\n\n", b"\0"):
        assert told(surface, body + more, is_stream(exchange), results) is not None, more


@pytest.mark.parametrize(("surface", "exchange"), [one for one in COMPLETE if is_stream(one.values[1])])
def test_an_event_that_is_lost_or_comes_twice_is_noticed_where_it_frames(
    surface: Surface, exchange: cassettes.Exchange
) -> None:
    """The last events tell the end; a message of Anthropic's has a frame around each block as well."""
    events = EventReader().feed(body_of(exchange))
    frames = events[-1:] if surface is not Surface.MESSAGES else [one for one in events if b"_delta" not in data(one)]
    for frame in frames:
        if b"ping" not in frame:
            assert told(surface, b"".join(one for one in events if one is not frame), True) is not None
            assert told(surface, b"".join(frame + frame if one is frame else one for one in events), True) is not None


@given(st.binary(max_size=80), st.booleans(), st.sampled_from(sorted(SURFACES)))
def test_noise_is_never_kept(body: bytes, is_stream_: bool, surface: Surface) -> None:
    assert told(surface, body, is_stream_) is not None


_NAMES = (
    *("choices", "content", "data", "delta", "embedding", "error", "filtered", "finish_reason", "incomplete_details"),
    *("index", "item", "message", "object", "output", "response", "status", "stop_reason", "text", "type"),
    *("annotations", "arguments", "citations", "content_filter_results", "function", "input", "partial_json"),
    *("reasoning_details", "server_tool_use", "tool_calls", "usage"),
)
ANY_JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-2, 2)
    | st.sampled_from(["stop", "message", "completed", "tool_use", "{}", ""]),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(_NAMES),
            inner,
            max_size=5,
        )
    ),
    max_leaves=20,
)


@given(ANY_JSON, st.sampled_from(sorted(SURFACES)))
def test_nothing_that_is_json_makes_it_stumble(value: Any, surface: Surface) -> None:
    body = json.dumps(value).encode()
    told(surface, body)
    told(surface, stream(body, body), True)
    told(surface, stream({"type": "message_start"}, body, {"type": "message_stop"}), True)
    told(surface, stream(body, b"[DONE]"), True)


@pytest.mark.parametrize("surface", sorted(set(Surface) - SURFACES))
def test_answers_of_other_surfaces_are_not_kept(surface: Surface) -> None:
    assert told(surface, {"choices": []}) == "unreadable"
    assert told(surface, stream({"choices": []}, b"[DONE]"), True) == "unreadable"


# ---- answers of backends with another dialect -----------------------------------------------------------------------

ASKED: Json = {"model": "m", "messages": [{"role": "user", "content": "Hi"}], "input": "Hi", "max_tokens": 9}
GEMINI: Json = {
    "candidates": [{"index": 0, "content": {"role": "model", "parts": [{"text": "Hi"}]}, "finishReason": "STOP"}],
    "usageMetadata": {"promptTokenCount": 1, "candidatesTokenCount": 1, "totalTokenCount": 2},
    "modelVersion": "gemini-2.5-flash",
    "responseId": "r",
}
BEGUN: Json = {"candidates": [{"index": 0, "content": {"role": "model", "parts": [{"text": "Hello, "}]}}]}


def translated() -> Iterator[Any]:
    """A direction, the surface, and a whole stream and a whole answer of the backend's."""
    own = {exchange.name: exchange.answer.body for exchange in cassettes.load(cassettes.OWN)}
    spoken = own["messages-streaming"], own["messages-basic"]
    chatted = own["chat-streaming"], own["chat-image-to-text"]
    yield pytest.param(CHAT_TO_ANTHROPIC, Surface.CHAT, *spoken, id="chat to anthropic")
    yield pytest.param(CHAT_TO_GEMINI, Surface.CHAT, stream(BEGUN, GEMINI), orjson.dumps(GEMINI), id="chat to gemini")
    yield pytest.param(MESSAGES_TO_CHAT, Surface.MESSAGES, *chatted, id="messages to chat")
    yield pytest.param(RESPONSES_TO_CHAT, Surface.RESPONSES, *chatted, id="responses to chat")


@pytest.mark.parametrize(("direction", "surface", "events", "whole"), list(translated()))
def test_a_translated_answer_is_kept_if_the_backend_came_to_its_end(
    direction: Direction, surface: Surface, events: bytes, whole: bytes
) -> None:
    asked = Asked(ASKED, "deployed", 1_800_000_000)
    assert told(surface, direction.answer(asked).document(whole)) is None
    cut = EventReader().feed(events)
    for count in range(len(cut) + 1):
        answer = direction.answer(asked)
        body = b"".join([*(answer.event(event) for event in cut[:count]), answer.end()])
        says_all = count == len(cut) or (cut[count:] == [b"data: [DONE]\n\n"] and surface is not Surface.CHAT)
        assert (told(surface, body, True) is None) == says_all, (count, told(surface, body, True))


@pytest.mark.parametrize(("arguments", "is_kept"), [('{"a": 1}', True), ("{}", True), ("", True), ('{"a": tr', False)])
@pytest.mark.parametrize(
    ("direction", "surface"), [(MESSAGES_TO_CHAT, Surface.MESSAGES), (RESPONSES_TO_CHAT, Surface.RESPONSES)]
)
def test_a_translated_call_is_kept_if_its_arguments_were_an_object(
    direction: Direction, surface: Surface, arguments: str, is_kept: bool
) -> None:
    asked = Asked(ASKED, "deployed", 1_800_000_000)
    calls = [{"index": 0, "id": "t", "type": "function", "function": {"name": "f", "arguments": arguments}}]
    whole = chat(choice(content=None, finish="tool_calls", tool_calls=calls))
    assert (told(surface, direction.answer(asked).document(orjson.dumps(whole))) is None) == is_kept
    answer = direction.answer(asked)
    events = EventReader().feed(stream(chunk(tool_calls=calls), chunk(finish="tool_calls"), b"[DONE]"))
    body = b"".join([*map(answer.event, events), answer.end()])
    assert (told(surface, body, True) is None) == is_kept
