"""Counting what an answer used: as the provider says, else from what passed."""

import json
from dataclasses import asdict
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from extproc.dialects import registry
from extproc.dialects.meters import AnthropicMeter, ChatMeter, Meter, PlainMeter, ResponsesMeter, UncountedMeter
from extproc.metering import bounds
from extproc.model import Usage, UsageSource
from extproc.surfaces import Surface

ESTIMATED, REPORTED = UsageSource.ESTIMATED, UsageSource.REPORTED


def event(value: object) -> bytes:
    return b"data: " + json.dumps(value).encode() + b"\n\n"


def fed(meter: Meter, *values: object) -> Meter:
    for value in values:
        assert meter.event(event(value)) is False
    return meter


def reported(**counts: Any) -> Usage:
    return Usage(**counts, source=REPORTED)


def estimated(**counts: Any) -> Usage:
    return Usage(**counts, source=ESTIMATED)


ONE_OF_EACH = [Surface.CHAT, Surface.RESPONSES, Surface.MESSAGES, Surface.EMBEDDINGS, Surface.COUNT_TOKENS]


# ---- whatever comes -------------------------------------------------------------------------------------

NAMES = """
    type error choices delta message text content reasoning_content refusal tool_calls function name arguments
    usage prompt_tokens completion_tokens input_tokens output_tokens total_tokens prompt_tokens_details seconds
    response item output id encrypted_content store conversation partial_json thinking input
"""
WORDS = """
    response.completed response.failed response.output_text.delta error content_block_delta message_start
    message_delta message_stop transcript.text.done image_generation.completed x
"""
_names, _words = st.sampled_from(NAMES.split()), st.sampled_from(WORDS.split())
_json: st.SearchStrategy[Any] = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats(allow_nan=False)
    | st.text(max_size=3)
    | _words,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(_names, inner, max_size=5),
    max_leaves=10,
)
_objects = st.dictionaries(_names, _json, max_size=5) | st.builds(
    lambda kind, rest: {**rest, "type": kind}, _words, st.dictionaries(_names, _json, max_size=5)
)


@pytest.mark.parametrize("surface", ONE_OF_EACH)
@given(st.lists(_json | _objects, max_size=4), _objects, st.binary(max_size=20))
def test_a_meter_never_raises_and_never_counts_below_zero(
    surface: Surface, events: list[Any], answer: dict[str, Any], junk: bytes
) -> None:
    meter = registry.meter(surface, hide_usage=True)
    for value in events:
        meter.event(b"data: " + orjson.dumps(value) + b"\n\n")
    meter.event(junk)
    meter.event(b"data: " + junk)
    before = meter.total(7)
    meter.answer(answer)
    for used in (before, meter.total(7)):
        assert all(value >= 0 for value in asdict(used).values() if not isinstance(value, str))
    assert all(isinstance(made, str) and made for made in meter.made_ids())
    assert meter.made_ids() == []


@pytest.mark.parametrize(
    ("surface", "kind"),
    [
        (Surface.CHAT, ChatMeter),
        (Surface.COMPLETIONS, ChatMeter),
        (Surface.RESPONSES, ResponsesMeter),
        (Surface.MESSAGES, AnthropicMeter),
        (Surface.COUNT_TOKENS, UncountedMeter),
        (Surface.RESPONSE_ITEM, UncountedMeter),
        (Surface.EMBEDDINGS, PlainMeter),
        (Surface.TRANSCRIPTIONS, PlainMeter),
        (Surface.RERANK, PlainMeter),
    ],
)
def test_each_surface_has_its_meter(surface: Surface, kind: type) -> None:
    assert type(registry.meter(surface, hide_usage=False)) is kind


METERS = [ChatMeter, ResponsesMeter, AnthropicMeter, PlainMeter]


@pytest.mark.parametrize("make", METERS)
def test_an_answer_of_nothing_is_estimated_from_the_request(make: type[Any]) -> None:
    meter = make()
    assert (meter.finished, meter.failed) == (False, False)
    assert meter.total(12) == estimated(input=12)


@pytest.mark.parametrize("make", METERS)
@pytest.mark.parametrize("raw", [b": ping\n\n", b"data: {broken\n\n", b"data: [1]\n\n", b"<html></html>", b"\n\n"])
def test_what_is_no_event_is_passed_over(make: type[Any], raw: bytes) -> None:
    meter = make()
    assert meter.event(raw) is False
    assert (meter.finished, meter.failed) == (False, False)
    assert meter.total(0) == estimated()


# ---- chat -----------------------------------------------------------------------------------------------


def chunk(text: str, index: int = 0, **more: Any) -> dict[str, Any]:
    return {"choices": [{"index": index, "delta": {"content": text}, **more}]}


def usage_chunk(given: int, made: int) -> dict[str, Any]:
    return {"choices": [], "usage": {"prompt_tokens": given, "completion_tokens": made}}


def test_a_chat_is_counted_by_its_usage_event_and_finished_by_done() -> None:
    meter = ChatMeter()
    fed(meter, chunk("four"), usage_chunk(9, 1))
    assert not meter.finished
    assert meter.event(b"data: [DONE]\n\n") is False
    assert meter.finished
    assert not meter.failed
    assert meter.total(100) == reported(input=9, output=1)


@pytest.mark.parametrize(
    "done", [b"data:[DONE]\n\n", b"data: [DONE]\r\n\r\n", b"data: [DONE]\r\n\n", b": x\ndata: [DONE]"]
)
def test_done_is_known_in_every_spelling(done: bytes) -> None:
    meter = ChatMeter()
    meter.event(done)
    assert meter.finished


def test_the_last_usage_wins_once() -> None:
    meter = ChatMeter()
    fed(meter, usage_chunk(9, 50), chunk("x", usage={}), usage_chunk(9, 3))
    assert meter.total(0) == reported(input=9, output=3)
    fed(meter, {"choices": [], "usage": {}}, {"choices": [], "usage": None})
    assert meter.total(0) == reported(input=9, output=3)


def test_usage_on_every_chunk_is_not_added_up() -> None:
    meter = ChatMeter()
    for made in range(1, 6):
        fed(meter, chunk("four") | {"usage": usage_chunk(9, made)["usage"]})
    assert meter.total(0) == reported(input=9, output=5)


def test_a_client_that_leaves_early_is_charged_for_what_passed() -> None:
    meter = ChatMeter()
    fed(
        meter,
        {"choices": [{"delta": {"role": "assistant", "content": ""}}]},
        chunk("fourfour", 0),
        chunk("fourfour", 1),
        {"choices": [{"delta": {"reasoning_content": "four"}}, {"delta": {"reasoning": "four"}}]},
        {"choices": [{"delta": {"refusal": "four"}}]},
        {"choices": [{"delta": {"tool_calls": [{"index": 0, "custom": {}}]}}]},
        {"choices": [{"delta": {"tool_calls": [{"function": {"name": "four", "arguments": "{}{}"}}]}}]},
    )
    assert meter.total(30) == estimated(input=30, output=9)
    fed(meter, chunk("你好世界"))
    assert meter.total(30) == estimated(input=30, output=13)


def test_a_completion_s_text_is_counted_too() -> None:
    meter = ChatMeter()
    fed(meter, {"choices": [{"text": "four"}, {"text": "four", "delta": None}]})
    assert meter.total(1) == estimated(input=1, output=2)


def test_an_error_inside_a_stream_is_a_failure() -> None:
    meter = ChatMeter()
    fed(meter, chunk("four"), {"error": {"message": "overloaded"}})
    assert meter.failed
    assert not meter.finished


@pytest.mark.parametrize(
    ("value", "hidden"),
    [
        (usage_chunk(1, 2), True),
        ({"choices": [], "usage": {}}, True),
        ({"choices": [], "usage": None}, False),
        ({"choices": [], "prompt_filter_results": []}, False),
        (chunk("x") | {"usage": {"prompt_tokens": 1}}, False),
        ({"usage": {"prompt_tokens": 1}}, False),
        (chunk("x"), False),
    ],
)
def test_only_the_usage_event_is_hidden_and_only_when_we_asked(value: object, hidden: bool) -> None:
    assert ChatMeter(hide_usage=True).event(event(value)) is hidden
    assert ChatMeter(hide_usage=False).event(event(value)) is False


def test_a_whole_chat_answer() -> None:
    meter = ChatMeter()
    answer = {"choices": [{"message": {"content": "fourfour"}}, {"message": {"content": "four"}}]}
    meter.answer(answer)
    assert meter.finished
    assert not meter.failed
    assert meter.total(5) == estimated(input=5, output=3)
    meter.answer(answer | {"usage": {"prompt_tokens": 4, "completion_tokens": 1}})
    assert meter.total(5) == reported(input=4, output=1)


@pytest.mark.parametrize("make", [ChatMeter, ResponsesMeter, PlainMeter])
def test_an_error_in_an_answer_of_status_200_is_a_failure(make: type[Any]) -> None:
    meter = make()
    meter.answer({"error": {"message": "no"}})
    assert meter.failed
    meter.answer({"error": None})
    assert not meter.failed


# ---- responses ------------------------------------------------------------------------------------------

COUNTS = {"input_tokens": 9, "output_tokens": 4, "output_tokens_details": {"reasoning_tokens": 2}}
USED = reported(input=9, output=4, reasoning=2)


@pytest.mark.parametrize(
    ("last", "failed"), [("response.completed", False), ("response.incomplete", False), ("response.failed", True)]
)
def test_a_response_is_counted_and_finished_by_its_last_event(last: str, failed: bool) -> None:
    meter = ResponsesMeter()
    fed(meter, {"type": "response.created", "response": {"id": "resp_1", "usage": None}})
    assert meter.made_ids() == ["resp_1"]
    fed(meter, {"type": "response.output_text.delta", "delta": "four"})
    assert (meter.finished, meter.total(5)) == (False, estimated(input=5, output=1))
    fed(meter, {"type": last, "response": {"id": "resp_1", "usage": COUNTS}})
    assert (meter.finished, meter.failed, meter.total(5)) == (True, failed, USED)
    assert meter.made_ids() == []


def test_an_error_event_of_a_response_is_a_failure() -> None:
    meter = fed(ResponsesMeter(), {"type": "error", "message": "no"})
    assert (meter.failed, meter.finished) == (True, False)


def test_the_ids_that_a_response_makes_come_once_and_as_soon_as_they_are_known() -> None:
    meter = ResponsesMeter()
    fed(meter, {"type": "response.created", "response": {"id": "resp_1", "conversation": {"id": "conv_1"}}})
    assert meter.made_ids() == ["resp_1", "conv_1"]
    item = {"type": "reasoning", "id": "rs_1", "encrypted_content": "gAAAA"}
    fed(meter, {"type": "response.output_item.added", "item": {"type": "reasoning", "id": "rs_1"}})
    assert meter.made_ids() == ["rs_1"]
    fed(meter, {"type": "response.output_item.done", "item": item})
    assert meter.made_ids() == ["gAAAA"]
    message = {"type": "message", "id": "msg_1"}
    fed(meter, {"type": "response.completed", "response": {"id": "resp_1", "output": [item, message, None, 5]}})
    assert meter.made_ids() == ["msg_1"]


@pytest.mark.parametrize("stream", [False, True])
def test_a_response_that_is_not_stored_has_no_id_of_its_own(stream: bool) -> None:
    answer = {
        "id": "resp_1",
        "store": False,
        "conversation": {"id": "conv_1"},
        "output": [{"type": "reasoning", "id": "rs_1", "encrypted_content": "gAAAA"}],
    }
    meter = ResponsesMeter()
    if stream:
        fed(meter, {"type": "response.completed", "response": answer})
    else:
        meter.answer(answer)
    assert meter.made_ids() == ["rs_1", "gAAAA"]


def test_a_whole_response() -> None:
    output = [
        {"type": "message", "id": "msg_1", "content": [{"type": "output_text", "text": "fourfour"}, {"text": 5}]},
        {"type": "function_call", "name": "four", "arguments": "{}{}"},
    ]
    meter = ResponsesMeter()
    meter.answer({"id": "resp_1", "conversation": "conv_1", "output": output, "usage": COUNTS})
    assert (meter.finished, meter.total(5), meter.made_ids()) == (True, USED, ["resp_1", "msg_1"])
    meter = ResponsesMeter()
    meter.answer({"id": "resp_1", "output": output})
    assert meter.total(5) == estimated(input=5, output=4)


def done_item(kind: str) -> dict[str, Any]:
    return {"type": "response.output_item.done", "output_index": 0, "item": {"type": kind}}


@pytest.mark.parametrize("stream", [False, True])
def test_what_a_response_had_done_for_it_is_counted_once(stream: bool) -> None:
    kinds = ["web_search_call", "message", "file_search_call", "code_interpreter_call", "image_generation_call"]
    answer = {"output": [{"type": kind} for kind in kinds], "usage": COUNTS}
    meter = ResponsesMeter()
    if stream:
        added = {"type": "response.output_item.added", "output_index": 0, "item": {"type": "web_search_call"}}
        fed(meter, added, *map(done_item, kinds), {"type": "response.completed", "response": answer})
    else:
        meter.answer(answer)
    used = meter.total(5)
    assert (used.hosted_calls, used.images) == (3, 1)
    assert (used.input, used.output, used.source) == (9, 4, REPORTED)


def test_what_was_done_before_a_client_left_is_counted() -> None:
    assert fed(ResponsesMeter(), done_item("web_search_call")).total(5) == estimated(input=5, hosted_calls=1)


# ---- anthropic ------------------------------------------------------------------------------------------

START = {
    "type": "message_start",
    "message": {"usage": {"input_tokens": 9, "cache_read_input_tokens": 90, "output_tokens": 1}},
}


def text_delta(text: str) -> dict[str, Any]:
    return {"type": "content_block_delta", "delta": {"type": "text_delta", "text": text}}


def test_a_message_is_counted_by_its_cumulative_usage() -> None:
    meter = fed(AnthropicMeter(), START, text_delta("x" * 400))
    fed(meter, {"type": "message_delta", "usage": {"output_tokens": 30}})
    assert meter.total(5) == reported(input=99, output=30, cached_input=90)
    fed(meter, {"type": "message_delta", "usage": {"output_tokens": 40, "input_tokens": None}})
    assert not meter.finished
    fed(meter, {"type": "message_stop"})
    assert (meter.finished, meter.failed) == (True, False)
    assert meter.total(5) == reported(input=99, output=40, cached_input=90)


def test_a_client_that_leaves_a_message_is_charged_for_the_input_said_and_the_output_that_passed() -> None:
    meter = fed(AnthropicMeter(), START)
    assert meter.total(5) == estimated(input=99, output=1, cached_input=90)
    fed(meter, text_delta("fourfour"))
    fed(meter, {"type": "content_block_delta", "delta": {"partial_json": "four"}})
    fed(meter, {"type": "content_block_delta", "delta": {"thinking": "four"}})
    assert meter.total(5) == estimated(input=99, output=4, cached_input=90)
    fed(meter, {"type": "message_delta", "usage": {}}, {"type": "message_delta", "usage": None})
    assert meter.total(5) == estimated(input=99, output=4, cached_input=90)
    fed(meter, {"type": "message_delta", "usage": {"output_tokens": 2}})
    assert meter.total(5) == reported(input=99, output=2, cached_input=90)


def test_a_message_that_starts_without_usage_is_estimated_from_the_request() -> None:
    meter = fed(AnthropicMeter(), {"type": "message_start", "message": {}}, {"type": "ping"}, text_delta("four"))
    assert meter.total(5) == estimated(input=5, output=1)
    assert (meter.finished, meter.failed) == (False, False)


def test_an_error_event_of_a_message_is_a_failure() -> None:
    meter = fed(AnthropicMeter(), START, {"type": "error", "error": {"type": "overloaded_error"}})
    assert (meter.failed, meter.finished) == (True, False)
    assert meter.total(5) == estimated(input=99, output=1, cached_input=90)


def test_a_whole_message() -> None:
    content = [{"type": "text", "text": "fourfour"}, {"type": "thinking", "thinking": "four"}]
    meter = AnthropicMeter()
    meter.answer({"type": "message", "content": content, "usage": {"input_tokens": 9, "output_tokens": 4}})
    assert (meter.finished, meter.failed) == (True, False)
    assert meter.total(5) == reported(input=9, output=4)
    meter = AnthropicMeter()
    meter.answer({"type": "message", "content": content})
    assert meter.total(5) == estimated(input=5, output=3)
    meter.answer({"type": "error", "error": {}})
    assert meter.failed


# ---- the others -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("last", "images"),
    [
        ("transcript.text.done", 0),
        ("speech.audio.done", 0),
        ("image_generation.completed", 1),
        ("image_edit.completed", 1),
    ],
)
def test_a_plain_stream_is_counted_and_finished_by_its_last_event(last: str, images: int) -> None:
    meter = fed(PlainMeter(), {"type": "transcript.text.delta", "delta": "four"})
    assert (meter.finished, meter.total(0)) == (False, estimated(output=1))
    fed(meter, {"type": last, "usage": {"input_tokens": 9, "output_tokens": 2}})
    assert (meter.finished, meter.total(0)) == (True, reported(input=9, output=2, images=images))


@pytest.mark.parametrize(
    ("answer", "used"),
    [
        ({"data": [], "usage": {"prompt_tokens": 5, "total_tokens": 5}}, reported(input=5)),
        ({"results": [], "usage": {"total_tokens": 7}}, reported(input=7)),
        ({"text": "four", "usage": {"type": "duration", "seconds": 9}}, reported(seconds=9.0)),
        ({"text": "fourfour"}, estimated(input=3, output=2)),
        ({"data": []}, estimated(input=3)),
        ({"data": [{"b64_json": "AA"}, {"url": "u"}, {"embedding": [1]}, 5]}, estimated(input=3, images=2)),
        ({"data": [{"b64_json": "AA"}], "usage": {"input_tokens": 9}}, reported(input=9, images=1)),
        ({"data": [{"embedding": [1], "index": 0}], "usage": {"prompt_tokens": 5}}, reported(input=5)),
        ({"usage": {"x": 1}}, estimated(input=3)),
    ],
)
def test_a_plain_answer(answer: dict[str, Any], used: Usage) -> None:
    meter = PlainMeter()
    meter.answer(answer)
    assert (meter.finished, meter.failed, meter.total(3)) == (True, False, used)
    assert meter.made_ids() == []


def test_what_costs_nothing_is_not_counted() -> None:
    meter = fed(UncountedMeter(), usage_chunk(5, 5))
    meter.answer({"input_tokens": 9, "usage": {"input_tokens": 9}})
    assert meter.finished
    assert meter.total(9) == Usage()


# ---- a bound meter --------------------------------------------------------------------------------------


def bound(make: type[Any]) -> Meter:
    meter: Meter = make()
    meter.bound("openai")
    return meter


def texts(text: str) -> list[tuple[type[Any], dict[str, Any]]]:
    """The same text in every form in which a stream can bring it."""
    deltas: list[dict[str, Any]] = [
        {"content": text},
        {"reasoning_content": text},
        {"reasoning": text},
        {"refusal": text},
        {"tool_calls": [{"index": 0, "function": {"arguments": text}}]},
        {"tool_calls": [{"index": 0, "custom": {"input": text}}]},
        {"function_call": {"arguments": text}},
        {"content": [{"type": "text", "text": text}]},
        {"content": [{"type": "thinking", "thinking": [{"type": "text", "text": text}]}]},
        {"audio": {"id": "a", "transcript": text}},
        {"reasoning_details": [{"type": "reasoning.text", "text": text, "format": "x", "index": 0}]},
        {"reasoning_details": [{"type": "reasoning.encrypted", "data": text, "id": "r"}]},
        {"something_new": {"deep": [[text]]}},
    ]
    blocks = [{"text": text}, {"partial_json": text}, {"thinking": text}, {"something_new": [text]}]
    kinds = ("output_text", "refusal", "reasoning_summary_text", "function_call_arguments", "custom_tool_call_input")
    return [
        *((ChatMeter, {"choices": [{"index": 0, "delta": delta}]}) for delta in deltas),
        (ChatMeter, {"choices": [{"index": 0, "text": text}]}),
        (ChatMeter, {"choices": [{"index": 0, "delta": {"tool_calls": [{"function": {"name": text}}]}}]}),
        *((ResponsesMeter, {"type": f"response.{kind}.delta", "delta": text}) for kind in kinds),
        (ResponsesMeter, {"type": "response.output_item.added", "output_index": 0, "item": {"name": text}}),
        (ResponsesMeter, {"type": "response.output_item.done", "output_index": 0, "item": {"arguments": text}}),
        (ResponsesMeter, {"type": "response.output_text.done", "output_index": 0, "text": text}),
        (ResponsesMeter, {"type": "response.something_new.delta", "delta": {"words": text}}),
        *((AnthropicMeter, {"type": "content_block_delta", "index": 0, "delta": block}) for block in blocks),
        (AnthropicMeter, {"type": "content_block_start", "index": 0, "content_block": {"name": text}}),
        (AnthropicMeter, {"type": "content_block_start", "content_block": {"type": "redacted_thinking", "data": text}}),
        (PlainMeter, {"type": "transcript.text.delta", "delta": text}),
    ]


@pytest.mark.parametrize("place", range(len(texts(""))))
@given(st.text(min_size=1, max_size=40))
def test_every_form_of_output_is_weighed(place: int, text: str) -> None:
    make, value = texts(text)[place]
    raw = b"data: " + orjson.dumps(value) + b"\n\n"
    meter = bound(make)
    weighed = meter.weigh(raw)
    assert weighed >= max(1, bounds.text_tokens(text, "openai"))
    assert meter.weigh(raw) == weighed, "to weigh is not to note"
    meter.event(raw)
    assert meter.weigh(raw) == weighed


@pytest.mark.parametrize("place", range(len(texts(""))))
def test_an_empty_piece_is_a_token_too(place: int) -> None:
    make, value = texts("")[place]
    assert bound(make).weigh(event(value)) == 1


@pytest.mark.parametrize(
    ("make", "value"),
    [
        (ChatMeter, {"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]}),
        (ChatMeter, usage_chunk(1, 2)),
        (ResponsesMeter, {"type": "response.created", "response": {"id": "resp_1"}}),
        (ChatMeter, {"choices": [{"delta": {"role": "assistant", "annotations": [{"url": "four"}]}}]}),
        (ChatMeter, {"choices": [{"delta": {"audio": None, "images": None, "tool_calls": []}}]}),
        (ResponsesMeter, {"type": "response.output_text.annotation.added", "annotation": {"title": "four"}}),
        (ResponsesMeter, {"type": "response.output_item.done", "item": {"type": "mcp_list_tools", "tools": ["four"]}}),
        (ResponsesMeter, {"type": "response.output_item.added", "item": {"type": "message"}}),
        (AnthropicMeter, START),
        (AnthropicMeter, {"type": "content_block_delta", "delta": {"signature": "c2ln"}}),
        (AnthropicMeter, {"type": "content_block_delta", "delta": {"type": "citations_delta", "citation": {"a": "b"}}}),
        (
            AnthropicMeter,
            {"type": "content_block_start", "content_block": {"type": "web_search_tool_result", "a": "b"}},
        ),
        (AnthropicMeter, {"type": "ping"}),
        (AnthropicMeter, {"type": "message_stop"}),
        (UncountedMeter, chunk("four")),
    ],
)
def test_an_event_without_text_weighs_nothing(make: type[Any], value: dict[str, Any]) -> None:
    assert bound(make).weigh(event(value)) == 0


@pytest.mark.parametrize("raw", [b"data: [DONE]\n\n", b": ping\n\n", b"event: ping\n\n", b""])
def test_what_is_no_event_weighs_nothing_and_is_noted_all_the_same(raw: bytes) -> None:
    meter = bound(ChatMeter)
    assert meter.weigh(raw) == 0
    meter.event(raw)
    assert meter.finished is (raw == b"data: [DONE]\n\n")


@pytest.mark.parametrize("make", METERS)
@pytest.mark.parametrize(
    ("raw", "bytes_"), [(b"data: {broken\n\n", 7), (b'data: ["text"]\n\n', 8), (b"data: x\ndata: y", 3)]
)
def test_what_cannot_be_read_weighs_its_bytes(make: type[Any], raw: bytes, bytes_: int) -> None:
    meter = bound(make)
    assert meter.weigh(raw) == bytes_
    assert meter.event(raw) is False


def test_what_came_in_deltas_is_not_weighed_again_when_it_is_done() -> None:
    meter = bound(ResponsesMeter)
    done: list[dict[str, Any]] = [
        {"type": "response.output_text.done", "output_index": 0, "text": "four"},
        {"type": "response.output_item.done", "output_index": 0, "item": {"content": [{"text": "four"}]}},
        {"type": "response.completed", "response": {"output": [{"content": [{"text": "four"}]}]}},
    ]
    fed(meter, {"type": "response.output_text.delta", "output_index": 0, "delta": "four"})
    assert [meter.weigh(event(value)) for value in done] == [0, 0, 0]
    assert meter.weigh(event({**done[0], "output_index": 1})) > 0, "of another item nothing has been shown"


def test_reasoning_that_is_told_twice_is_weighed_once() -> None:
    details = [{"type": "reasoning.text", "text": "four"}]
    told = {"reasoning": "four", "reasoning_details": details}
    weighed = [
        bound(ChatMeter).weigh(event({"choices": [{"delta": delta}]})) for delta in ({"reasoning": "four"}, told)
    ]
    assert weighed[0] == weighed[1] > 0
    other = {"reasoning": "four", "reasoning_details": [*details, {"data": "more than that"}]}
    assert bound(ChatMeter).weigh(event({"choices": [{"delta": other}]})) > weighed[0]


@pytest.mark.parametrize(
    ("make", "value"),
    [
        (ChatMeter, {"choices": [{"delta": {"audio": {"id": "a", "data": "A" * 64_000}}}]}),
        (ChatMeter, {"choices": [{"delta": {"images": [{"type": "x", "image_url": {"url": "A" * 64_000}}]}}]}),
        (ResponsesMeter, {"type": "response.audio.delta", "delta": "A" * 64_000}),
    ],
)
def test_sound_and_pictures_are_weighed_as_such(make: type[Any], value: dict[str, Any]) -> None:
    """A second of PCM is 20 tokens; that of the leanest format could be 48 seconds."""
    meter = bound(make)
    raw = event(value)
    assert meter.weigh(raw) == 48 * 20
    meter.event(raw)
    assert meter.total(0) == estimated(output=20)


def test_a_backend_may_nest_as_deep_as_it_likes() -> None:
    deep = b"[" * 900 + b'"four"' + b"]" * 900
    meter = bound(ChatMeter)
    raw = b'data: {"choices":[{"delta":{"content":' + deep + b"}}]}\n\n"
    assert meter.weigh(raw) > 0
    assert meter.event(raw) is False


@pytest.mark.parametrize("stream", [False, True])
def test_a_search_that_a_chat_asked_for_counts_once(stream: bool) -> None:
    meter = registry.meter(Surface.CHAT, hide_usage=False, searches=True)
    if stream:
        fed(meter, chunk("four"), usage_chunk(9, 1))
    else:
        meter.answer({"choices": [], "usage": {"prompt_tokens": 9, "completion_tokens": 1}})
    assert meter.total(0) == reported(input=9, output=1, hosted_calls=1)


def test_other_streams_are_not_weighed() -> None:
    assert ChatMeter().weigh(event(chunk("four"))) == 0


@pytest.mark.parametrize("make", [ChatMeter, ResponsesMeter, AnthropicMeter, PlainMeter])
@given(st.lists(st.sampled_from([value for _, value in texts("some words")]), max_size=6), st.data())
def test_a_bound_meter_counts_as_any_other(make: type[Any], values: list[dict[str, Any]], data: st.DataObject) -> None:
    plain, leased = make(), bound(make)
    for value in values:
        raw = event(value)
        if data.draw(st.booleans()):
            leased.weigh(raw)
        assert plain.event(raw) is leased.event(raw)
    assert plain.total(3) == leased.total(3)
    assert plain.made_ids() == leased.made_ids()
