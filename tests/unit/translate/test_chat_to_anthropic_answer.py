"""Anthropic's answers as chat completions: whole and as streams, as the SDK reads them and the meters count them."""

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from typing import Any

import httpx2
import openai
import orjson
import pytest
from anthropic.types import Message, RawMessageStreamEvent
from hypothesis import given, settings
from hypothesis import strategies as st
from openai.types.chat import ChatCompletion, ChatCompletionChunk, ChatCompletionMessage
from pydantic import TypeAdapter

from extproc.dialects import sse
from extproc.dialects.meters import AnthropicMeter, ChatMeter
from extproc.dialects.translate.chat_to_anthropic import CHAT_TO_ANTHROPIC
from extproc.dialects.translate.direction import AnswerTranslation, Asked
from extproc.model import Usage
from tests.support import cassettes
from tests.support.cassettes import Exchange

Json = dict[str, Any]
DONE = b"data: [DONE]\n\n"
BEGAN = 1_800_000_000
ASKED: Json = {"model": "gpt-4o", "messages": [{"role": "user", "content": "Hi"}]}


def answer() -> AnswerTranslation:
    return CHAT_TO_ANTHROPIC.answer(Asked(ASKED, "claude-deployed", BEGAN))


def document(message: Json) -> Json:
    return json.loads(answer().document(orjson.dumps(message)))  # type: ignore[no-any-return]


def streamed(events: Sequence[bytes]) -> list[bytes]:
    """What comes in the place of each event, and behind the last."""
    translation = answer()
    return [*[translation.event(event) for event in events], translation.end()]


def chunks(stream: bytes) -> list[Json]:
    events = sse.EventReader().feed(stream)
    return [orjson.loads(sse.data(event)) for event in events if event != DONE]


@contextmanager
def reading(body: bytes, kind: str = "application/json", status: int = 200) -> Iterator[openai.OpenAI]:
    transport = httpx2.MockTransport(lambda _: httpx2.Response(status, headers={"content-type": kind}, content=body))
    with httpx2.Client(transport=transport) as client:
        yield openai.OpenAI(api_key="k", base_url="http://gateway/v1", http_client=client, max_retries=0)


def read_stream(body: bytes) -> ChatCompletion:
    """As the SDK puts it together. What is not whole it hands out in an exception alone."""
    with (
        reading(body, "text/event-stream") as client,
        client.chat.completions.stream(model="m", messages=[{"role": "user", "content": "Hi"}]) as stream,
    ):
        try:
            return stream.get_final_completion()
        except (openai.LengthFinishReasonError, openai.ContentFilterFinishReasonError) as incomplete:
            return ChatCompletion.model_validate(incomplete.completion, from_attributes=True)


# ---- messages, whole and as their streams -----------------------------------------------------------

USAGE: Json = {
    "input_tokens": 12,
    "cache_read_input_tokens": 2000,
    "cache_creation_input_tokens": 100,
    "output_tokens": 41,
    "output_tokens_details": {"thinking_tokens": 30},
    "service_tier": "standard",
}
TEXT: Json = {"type": "text", "text": "Hellö — hi!"}
THINKING: Json = {"type": "thinking", "thinking": "Brief.\nAnd kind.", "signature": "EqQB=="}
CALLS: list[Json] = [
    {"type": "tool_use", "id": "toolu_1", "name": "look", "input": {"at": [1, {"x": "ü\n"}]}},
    {"type": "tool_use", "id": "toolu_2", "name": "smell", "input": {}},
]


def message(*content: Json, stop_reason: str | None = "end_turn", **more: Any) -> Json:
    return {
        "id": "msg_1",
        "type": "message",
        "role": "assistant",
        "model": "claude-served",
        "content": list(content),
        "stop_reason": stop_reason,
        "stop_sequence": None,
        "usage": USAGE,
        **more,
    }


def named(event: Json) -> bytes:
    return b"event: %s\ndata: %s\n\n" % (event["type"].encode(), orjson.dumps(event))


def start(whole: Json) -> Json:
    usage = {**whole["usage"], "output_tokens": 1}
    usage.pop("output_tokens_details", None)
    return {"type": "message_start", "message": {**whole, "content": [], "stop_reason": None, "usage": usage}}


def block_events(index: int, block: Json, size: int) -> list[Json]:
    """Of one block: it begins empty, goes on in pieces of so many characters, and stops."""
    kind = block["type"]
    field = {"text": "text", "thinking": "thinking", "tool_use": "input"}.get(kind)
    if field is None:
        return _block(index, block, [])
    if kind == "tool_use":
        text = orjson.dumps(block["input"]).decode() if block["input"] else ""
        deltas = [{"type": "input_json_delta", "partial_json": piece} for piece in ["", *_pieces(text, size)]]
        return _block(index, {**block, "input": {}}, deltas)
    deltas = [{"type": f"{kind}_delta", field: piece} for piece in _pieces(block[field], size)]
    if kind == "thinking":
        deltas.append({"type": "signature_delta", "signature": block["signature"]})
    return _block(index, {**block, field: ""}, deltas)


def _block(index: int, opened: Json, deltas: Sequence[Json]) -> list[Json]:
    return [
        {"type": "content_block_start", "index": index, "content_block": opened},
        *[{"type": "content_block_delta", "index": index, "delta": delta} for delta in deltas],
        {"type": "content_block_stop", "index": index},
    ]


def _pieces(text: str, size: int) -> list[str]:
    return [text[at : at + size] for at in range(0, len(text), size)]


def ends(whole: Json) -> list[Json]:
    delta = {name: whole.get(name) for name in ("stop_reason", "stop_sequence", "stop_details")}
    usage = {name: count for name, count in whole["usage"].items() if name.startswith("output")}
    return [{"type": "message_delta", "delta": delta, "usage": usage}, {"type": "message_stop"}]


def events_of(whole: Json, size: int = 3) -> list[bytes]:
    blocks = [event for at, block in enumerate(whole["content"]) for event in block_events(at, block, size)]
    return [*map(named, [start(whole), {"type": "ping"}, *blocks, *ends(whole)])]


MESSAGES = {
    "text": message(TEXT),
    "texts": message(TEXT, {"type": "text", "text": " And more."}),
    "thinking": message(THINKING, TEXT),
    "hidden thinking": message({"type": "redacted_thinking", "data": "x"}, TEXT),
    "tools": message(TEXT, *CALLS, stop_reason="tool_use"),
    "only tools": message(*CALLS, stop_reason="tool_use"),
    "all": message(THINKING, TEXT, CALLS[0], THINKING, CALLS[1], stop_reason="tool_use"),
    "cut": message(TEXT, stop_reason="max_tokens"),
    "refused": message(stop_reason="refusal", stop_details={"type": "refusal", "explanation": "No."}),
    "empty": message(),
}


def test_the_sdk_that_makes_them_takes_these_messages() -> None:
    events: TypeAdapter[Any] = TypeAdapter(RawMessageStreamEvent)
    for whole in MESSAGES.values():
        Message.model_validate(whole)
        for event in events_of(whole):
            if b"ping" not in event:
                events.validate_json(sse.data(event))


def test_a_whole_message() -> None:
    assert document(MESSAGES["all"]) == {
        "id": "msg_1",
        "object": "chat.completion",
        "created": BEGAN,
        "model": "claude-served",
        "service_tier": "default",
        "choices": [
            {
                "index": 0,
                "message": {
                    "role": "assistant",
                    "content": "Hellö — hi!",
                    "refusal": None,
                    "reasoning_content": "Brief.\nAnd kind.Brief.\nAnd kind.",
                    "tool_calls": [
                        {
                            "id": "toolu_1",
                            "type": "function",
                            "function": {"name": "look", "arguments": '{"at":[1,{"x":"ü\\n"}]}'},
                        },
                        {"id": "toolu_2", "type": "function", "function": {"name": "smell", "arguments": "{}"}},
                    ],
                },
                "logprobs": None,
                "finish_reason": "tool_calls",
            }
        ],
        "usage": {
            "prompt_tokens": 2112,
            "completion_tokens": 41,
            "total_tokens": 2153,
            "prompt_tokens_details": {"cached_tokens": 2000, "cache_write_tokens": 100},
            "completion_tokens_details": {"reasoning_tokens": 30},
        },
    }


def test_a_stream_event_by_event() -> None:
    base = {"id": "msg_1", "object": "chat.completion.chunk", "created": BEGAN, "model": "claude-served"}
    base["service_tier"] = "default"

    def chunk(delta: Json, finish: str | None = None) -> bytes:
        choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish}
        return b"data: %s\n\n" % orjson.dumps({**base, "choices": [choice]})

    def call(at: int, **more: Any) -> bytes:
        return chunk({"tool_calls": [{"index": at, **more}]})

    usage = document(MESSAGES["all"])["usage"]
    look, smell = ({"name": name, "arguments": ""} for name in ("look", "smell"))
    blocks = (THINKING, TEXT, CALLS[0], CALLS[1])
    assert streamed(events_of(message(*blocks, stop_reason="tool_use"), size=100)) == [
        chunk({"role": "assistant", "content": ""}),
        b"",  # ping
        *(b"", chunk({"reasoning_content": "Brief.\nAnd kind."}), b"", b""),
        *(b"", chunk({"content": "Hellö — hi!"}), b""),
        *(call(0, id="toolu_1", type="function", function=look), b""),
        *(call(0, function={"arguments": '{"at":[1,{"x":"ü\\n"}]}'}), b""),
        *(call(1, id="toolu_2", type="function", function=smell), b"", call(1, function={"arguments": "{}"})),
        chunk({}, "tool_calls"),
        b"data: %s\n\n" % orjson.dumps({**base, "choices": [], "usage": usage}) + DONE,
        b"",
    ]


def told(completion: ChatCompletion) -> Json:
    """All of a completion but what a stream says in another way."""
    fields = json.loads(completion.model_dump_json(exclude_none=True))
    fields.pop("object")
    (choice,) = fields["choices"]
    choice["message"] = {name: value for name, value in choice["message"].items() if value}
    for call in choice["message"].get("tool_calls", ()):
        call.pop("index", None)
        call["function"].pop("parsed_arguments", None)
    return fields  # type: ignore[no-any-return]


@pytest.mark.parametrize("name", MESSAGES)
def test_the_sdk_makes_the_same_of_a_stream_as_of_the_whole(name: str) -> None:
    whole = MESSAGES[name]
    with reading(orjson.dumps(document(whole))) as client:
        completion = client.chat.completions.create(model="m", messages=[{"role": "user", "content": "Hi"}])
    assert told(completion)["choices"][0]["finish_reason"]
    for size in (1, 5, 1000):
        assert told(read_stream(b"".join(streamed(events_of(whole, size))))) == told(completion)


_BLOCKS = st.one_of(
    st.text(max_size=6).map(lambda text: {"type": "text", "text": text}),
    st.text(max_size=6).map(lambda text: {"type": "thinking", "thinking": text, "signature": "s"}),
    st.dictionaries(st.text(max_size=3), st.text(max_size=3), max_size=2).map(
        lambda given: {**CALLS[0], "input": given}
    ),
)


@settings(max_examples=50)
@given(st.lists(_BLOCKS, max_size=4), st.integers(1, 4), st.randoms())
def test_blocks_may_be_told_at_once(blocks: list[Json], size: int, random: Any) -> None:
    """Events of several blocks, each in its own order, say the same as one block after the other, but for the order of
    the texts.
    """
    whole = message(*[block | ({"id": str(at)} if "id" in block else {}) for at, block in enumerate(blocks)])
    lines = [block_events(at, block, size) for at, block in enumerate(whole["content"])]
    kinds = [block["type"] for block in whole["content"]]
    mixed = []
    while left := [line for line in lines if line]:
        line = random.choice(left)
        mixed.append(line.pop(0))
    opened = [event["index"] for event in mixed if event["type"] == "content_block_start"]
    stream = b"".join(streamed([*map(named, [start(whole), *mixed, *ends(whole)])]))
    calls: dict[int, list[str]] = {}
    texts = {"content": "", "reasoning_content": ""}
    for chunk in chunks(stream):
        for choice in chunk["choices"]:
            for name in texts:
                texts[name] += choice["delta"].get(name, "")
            for call in choice["delta"].get("tool_calls", ()):
                calls.setdefault(call["index"], []).append(call["function"]["arguments"])
    at_once = [whole["content"][at]["input"] for at in opened if kinds[at] == "tool_use"]
    assert [json.loads("".join(said)) for said in calls.values()] == at_once
    (choice,) = document(whole)["choices"]
    for name, text in texts.items():
        assert sorted(text) == sorted(choice["message"].get(name) or "")


@pytest.mark.parametrize(
    ("reason", "finish"),
    [
        *(("end_turn", "stop"), ("stop_sequence", "stop"), ("max_tokens", "length"), ("tool_use", "tool_calls")),
        *(("refusal", "content_filter"), ("pause_turn", "length"), ("model_context_window_exceeded", "length")),
        ("new_to_us", "stop"),
    ],
)
def test_a_reason_to_stop(reason: str, finish: str) -> None:
    whole = message(TEXT, stop_reason=reason)
    assert document(whole)["choices"][0]["finish_reason"] == finish
    said = [
        choice["finish_reason"] for chunk in chunks(b"".join(streamed(events_of(whole)))) for choice in chunk["choices"]
    ]
    assert [one for one in said if one] == [finish]


def test_why_it_was_refused_is_said() -> None:
    assert document(MESSAGES["refused"])["choices"][0]["message"]["refusal"] == "No."
    assert read_stream(b"".join(streamed(events_of(MESSAGES["refused"])))).choices[0].message.refusal == "No."


def test_arguments_may_stand_where_a_call_begins() -> None:
    begin = {"type": "content_block_start", "index": 4, "content_block": CALLS[0]}
    stop = {"type": "content_block_stop", "index": 4}
    begun, stopped, _ = streamed([named(begin), named(stop)])
    (call,) = chunks(begun)[0]["choices"][0]["delta"]["tool_calls"]
    assert call["index"] == 0
    assert json.loads(call["function"]["arguments"]) == CALLS[0]["input"]
    assert stopped == b""


def test_what_a_providers_own_tools_bring_is_not_told() -> None:
    search = {"type": "server_tool_use", "id": "srvtoolu_1", "name": "web_search", "input": {"query": "x"}}
    result = {"type": "web_search_tool_result", "tool_use_id": "srvtoolu_1", "content": []}
    whole = message(search, result, TEXT)
    assert document(whole) == document(message(TEXT))
    citation = {"type": "content_block_delta", "index": 0, "delta": {"type": "citations_delta", "citation": {}}}
    query = {"type": "input_json_delta", "partial_json": "{"}
    hidden: list[Json] = [{"type": "content_block_delta", "index": 0, "delta": query}, citation, {"type": "new_to_us"}]
    begin = {"type": "content_block_start", "index": 0, "content_block": search}
    assert streamed([named(begin), *map(named, hidden)]) == [b""] * 5


@pytest.mark.parametrize(
    "event",
    [
        *({}, {"type": ["ping"]}, {"type": "ping"}, {"type": "content_block_stop"}),
        *({"type": "content_block_start", "index": 0}, {"type": "content_block_start", "content_block": TEXT}),
        *({"type": "content_block_delta", "index": 0}, {"type": "content_block_delta", "delta": {"type": []}}),
        {"type": "content_block_delta", "index": 9, "delta": {"type": "input_json_delta", "partial_json": "{"}},
        *({"type": "message_delta"}, {"type": "message_delta", "delta": {"stop_reason": None}}),
    ],
    ids=str,
)
def test_an_event_that_tells_nothing(event: Json) -> None:
    assert streamed([b"data: %s\n\n" % orjson.dumps(event)]) == [b"", b""]


def test_a_stream_may_begin_without_its_message() -> None:
    begun, _ = streamed([b'data: {"type":"message_start"}\n\n'])
    (chunk,) = chunks(begun)
    assert (chunk["id"], chunk["model"]) == ("", "claude-deployed")
    ChatCompletionChunk.model_validate(chunk)


@pytest.mark.parametrize("name", MESSAGES)
def test_an_answer_can_be_sent_back_with_the_results_of_its_calls(name: str) -> None:
    said = read_stream(b"".join(streamed(events_of(MESSAGES[name])))).choices[0].message
    results = [{"role": "tool", "tool_call_id": call.id, "content": "x"} for call in said.tool_calls or ()]
    request = {**ASKED, "messages": [*ASKED["messages"], plain(said), *results]}
    assert CHAT_TO_ANTHROPIC.refused(request) is None
    turns: Any = CHAT_TO_ANTHROPIC.request(request, "claude")["messages"]
    blocks = [block for turn in turns for block in turn["content"]]
    calls = [block for block in MESSAGES[name]["content"] if block["type"] == "tool_use"]
    assert [block for block in blocks if block["type"] == "tool_use"] == calls
    assert [block["tool_use_id"] for block in blocks if block["type"] == "tool_result"] == [
        call["id"] for call in calls
    ]


def plain(said: ChatCompletionMessage) -> Json:
    """A message as a client appends it to its list: all fields of the answer, with nulls."""
    return json.loads(ChatCompletionMessage.model_validate(said, from_attributes=True).model_dump_json())  # type: ignore[no-any-return]


def test_the_name_of_the_model_where_the_provider_gives_none() -> None:
    whole = message(TEXT)
    del whole["model"], whole["id"]
    assert document(whole)["model"] == "claude-deployed"


# ---- usage ------------------------------------------------------------------------------------------


def counted(meter: AnthropicMeter | ChatMeter, events: Sequence[bytes]) -> Usage:
    for event in events:
        meter.event(event)
    return meter.total(7)


COUNTS = st.integers(0, 10**6)


@given(st.integers(1, 10**6), COUNTS, COUNTS, COUNTS, st.integers(0, 100))
def test_the_meter_of_chat_counts_what_the_provider_counted(
    plain: int, read: int, written: int, output: int, share: int
) -> None:
    thinking = output * share // 100
    usage = {"input_tokens": plain, "cache_read_input_tokens": read, "cache_creation_input_tokens": written}
    whole = message(
        TEXT, usage={**usage, "output_tokens": output, "output_tokens_details": {"thinking_tokens": thinking}}
    )
    raw = events_of(whole)
    ours = counted(ChatMeter(), sse.EventReader().feed(b"".join(streamed(raw))))
    theirs = counted(AnthropicMeter(), raw)
    names = ("input", "output", "cached_input", "cache_write", "source")
    assert [getattr(ours, name) for name in names] == [getattr(theirs, name) for name in names]
    assert ours.reasoning == thinking
    meter = ChatMeter()
    meter.answer(document(whole))
    assert meter.total(7) == ours


def test_the_numbers_of_the_end_replace_those_of_the_beginning() -> None:
    events = events_of(message(TEXT))
    usage = {"input_tokens": 5, "cache_read_input_tokens": 6, "cache_creation_input_tokens": None, "output_tokens": 9}
    events[-2] = named({"type": "message_delta", "delta": {"stop_reason": "end_turn"}, "usage": usage})
    assert chunks(b"".join(streamed(events)))[-1]["usage"] == {
        "prompt_tokens": 111,
        "completion_tokens": 9,
        "total_tokens": 120,
        "prompt_tokens_details": {"cached_tokens": 6, "cache_write_tokens": 100},
    }


@pytest.mark.parametrize("usage", [None, {}, [], {"input_tokens": 5}, {"output_tokens": -1}, {"output_tokens": "5"}])
def test_where_the_output_was_not_counted_there_is_no_usage(usage: object) -> None:
    """So that the gateway estimates it: zeros would be a free call."""
    assert "usage" not in document(message(TEXT) | {"usage": usage})
    events = events_of(message(TEXT))
    events[-2] = named({"type": "message_delta", "delta": {"stop_reason": "end_turn"}, "usage": usage})
    stream = b"".join(streamed(events))
    assert stream.endswith(DONE)
    assert b"usage" not in stream


def test_more_thoughts_than_output_are_not_believed() -> None:
    usage = {**USAGE, "output_tokens_details": {"thinking_tokens": 42}}
    assert "completion_tokens_details" not in document(message(TEXT, usage=usage))["usage"]


# ---- streams that break, and errors -----------------------------------------------------------------


def test_a_stream_that_breaks_off_is_never_completed() -> None:
    events = events_of(MESSAGES["all"])
    for cut in range(len(events)):
        stream = b"".join(streamed(events[:cut]))
        assert DONE not in stream
        assert (b'"usage"' in stream) is (cut == len(events) - 1)
    assert b"".join(streamed(events)).count(DONE) == 1


def test_a_stream_says_the_same_however_it_is_cut() -> None:
    raw = b"".join(events_of(MESSAGES["only tools"], 1000)).replace(b"\n", b"\r\n")
    whole = b"".join(streamed(sse.EventReader().feed(raw)))
    assert whole.endswith(DONE)
    for cut in range(len(raw)):
        reader = sse.EventReader()
        assert b"".join(streamed([*reader.feed(raw[:cut]), *reader.feed(raw[cut:])])) == whole


def error(kind: str, text: str = "Sorry.", **more: Any) -> Json:
    return {"type": "error", "error": {"type": kind, "message": text, **more}, "request_id": "req_1"}


TOO_LONG = ("invalid_request_error", "context_length_exceeded")
LIMITED = ("rate_limit_error", "rate_limit_exceeded")
SPENT = ("insufficient_quota", "insufficient_quota")


@pytest.mark.parametrize(
    ("status", "body", "kind", "code"),
    [
        (400, error("invalid_request_error"), "invalid_request_error", None),
        (400, error("invalid_request_error", "prompt is too long: 2 > 1"), *TOO_LONG),
        (400, error("invalid_request_error", "input length and `max_tokens` exceed context limit: 2"), *TOO_LONG),
        (401, error("authentication_error"), "invalid_request_error", "invalid_api_key"),
        (402, error("billing_error"), "insufficient_quota", "insufficient_quota"),
        (403, error("permission_error"), "invalid_request_error", "permission_denied"),
        (404, error("not_found_error"), "invalid_request_error", "model_not_found"),
        (413, error("request_too_large"), "invalid_request_error", "request_too_large"),
        (429, error("rate_limit_error"), *LIMITED),
        (429, error("rate_limit_error", details={"error_code": "ramp_limit_exceeded"}), *LIMITED),
        (429, error("rate_limit_error", details={"error_code": "enforced_spend_limit_reached"}), *SPENT),
        (500, error("api_error"), "api_error", None),
        (504, error("timeout_error"), "api_error", "timeout"),
        (529, error("overloaded_error"), "api_error", "overloaded"),
        (529, error("new_to_us"), "api_error", "overloaded"),
        (418, error("new_to_us"), "invalid_request_error", None),
    ],
)
def test_an_error(status: int, body: Json, kind: str, code: str | None) -> None:
    made = answer().error(status, orjson.dumps(body))
    assert json.loads(made) == {
        "error": {"message": body["error"]["message"], "type": kind, "param": None, "code": code}
    }
    with reading(made, status=status) as client, pytest.raises(openai.APIStatusError) as raised:
        client.models.list()
    assert (raised.value.code, raised.value.status_code) == (code, status)


@pytest.mark.parametrize(
    "body", [b"", b"<html>no</html>", b"[]", b"{}", b'{"error": "no"}', b'{"error": {"type": []}}']
)
def test_an_error_that_cannot_be_read_says_its_status(body: bytes) -> None:
    assert json.loads(answer().error(502, body))["error"] == {
        "message": "The backend answered with status 502.",
        "type": "api_error",
        "param": None,
        "code": None,
    }
    assert json.loads(answer().error(404, body))["error"]["code"] == "model_not_found"


def test_an_error_in_a_stream_is_its_end() -> None:
    events = events_of(MESSAGES["text"])
    broken = [*events[:4], named(error("overloaded_error", "Overloaded")), *events[4:]]
    stream = b"".join(streamed(broken))
    assert chunks(stream)[-1] == {
        "error": {"message": "Overloaded", "type": "api_error", "param": None, "code": "overloaded"}
    }
    assert DONE not in stream
    with pytest.raises(openai.APIError, match="Overloaded"):
        read_stream(stream)
    meter = ChatMeter()
    for event in sse.EventReader().feed(stream):
        meter.event(event)
    assert meter.failed


@pytest.mark.parametrize("body", [b"", b"no", b"[]", b"{}", b'{"content": {}}'])
def test_a_whole_answer_that_cannot_be_read_is_an_error(body: bytes) -> None:
    assert json.loads(answer().document(body))["error"]["message"] == "The backend's answer cannot be read."


def test_an_error_that_is_the_whole_answer() -> None:
    assert document(error("overloaded_error"))["error"]["code"] == "overloaded"


def test_arguments_nested_too_deep_to_be_written_are_an_error() -> None:
    body = b'{"content":[{"type":"tool_use","id":"a","name":"f","input":%s}]}' % (b'{"a":' * 400 + b"1" + b"}" * 400)
    assert json.loads(answer().document(body))["error"]["type"] == "api_error"
    begin = b'data: {"type":"content_block_start","index":0,"content_block":%s}\n\n' % body[12:-2]
    first, second, last = streamed([begin, events_of(MESSAGES["text"])[0]])
    assert chunks(first)[0]["error"]["type"] == "api_error"
    assert (second, last) == (b"", b"")


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.floats(allow_nan=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)
KNOWN = [event for whole in MESSAGES.values() for event in map(sse.data, events_of(whole, 100))]
PLACES: list[list[str]] = [
    *(["type"], ["index"], ["delta"], ["delta", "type"], ["delta", "text"], ["delta", "partial_json"], ["usage"]),
    *(["message"], ["message", "usage"], ["message", "id"], ["content_block"], ["content_block", "type"]),
    *(["content_block", "input"], ["content_block", "name"], ["delta", "stop_reason"], ["delta", "stop_details"]),
    *(["usage", "output_tokens"], ["usage", "output_tokens_details"], ["message", "usage", "service_tier"]),
]


def _put(holder: Any, place: Sequence[str], value: object) -> Any:
    if not place:
        return value
    inner = holder if isinstance(holder, dict) else {}
    return {**inner, place[0]: _put(inner.get(place[0]), place[1:], value)}


@settings(max_examples=60)
@given(st.lists(st.tuples(st.sampled_from(KNOWN), st.sampled_from(PLACES), JSON), max_size=6))
def test_no_event_is_too_odd(changes: list[tuple[bytes, list[str], object]]) -> None:
    odd = [_put(orjson.loads(raw), place, value) for raw, place, value in changes]
    chunk_type: TypeAdapter[ChatCompletionChunk] = TypeAdapter(ChatCompletionChunk)
    for chunk in chunks(b"".join(streamed([b"data: %s\n\n" % orjson.dumps(event) for event in odd]))):
        if "error" not in chunk:
            chunk_type.validate_python(chunk)


@settings(max_examples=60)
@given(JSON, st.sampled_from([["usage"], ["content"], ["stop_reason"], ["model"], ["error"], ["stop_details"]]))
def test_no_answer_is_too_odd(value: object, place: list[str]) -> None:
    for whole in (value, _put(MESSAGES["all"], place, value), _put({}, ["content"], [value])):
        made = json.loads(answer().document(orjson.dumps(whole)))
        if "error" not in made:
            ChatCompletion.model_validate(made)
        answer().error(400, orjson.dumps(whole))


@given(st.binary(max_size=30))
def test_no_bytes_are_too_odd(raw: bytes) -> None:
    translation = answer()
    translation.event(raw)
    translation.event(b"data: " + raw + b"\n\n")
    json.loads(translation.document(raw))
    json.loads(translation.error(500, raw))


# ---- recordings -------------------------------------------------------------------------------------


@cache
def recordings() -> dict[str, Exchange]:
    return {exchange.name: exchange for exchange in cassettes.load(cassettes.OWN)}


def test_a_recorded_message() -> None:
    exchange = recordings()["messages-basic"]
    completion = ChatCompletion.model_validate_json(answer().document(exchange.answer.body))
    original = Message.model_validate_json(exchange.answer.body)
    assert completion.id == original.id
    assert completion.model == original.model
    assert completion.choices[0].message.content == "".join(
        block.text for block in original.content if block.type == "text"
    )


def test_a_recorded_stream() -> None:
    raw = recordings()["messages-streaming"].answer.body
    completion = read_stream(b"".join(streamed(sse.EventReader().feed(raw))))
    message_ = completion.choices[0].message
    assert (completion.id, completion.model) == ("msg_madeup0004", "claude-opus-4-8")
    assert (message_.content, message_.model_extra) == ("Hello — hi!", {"reasoning_content": "Brief."})
    assert completion.usage is not None
    assert (completion.usage.prompt_tokens, completion.usage.completion_tokens) == (2112, 41)


@pytest.mark.parametrize(
    ("name", "code"), [("messages-overloaded", "overloaded"), ("messages-context-too-long", "context_length_exceeded")]
)
def test_a_recorded_error(name: str, code: str) -> None:
    recording = recordings()[name].answer
    assert json.loads(answer().error(recording.status, recording.body))["error"]["code"] == code
