"""Answers of chat completions as Anthropic's SDK puts them together."""

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import anthropic
import httpx2
import orjson
import pytest
from anthropic.types import Message
from hypothesis import given, settings
from hypothesis import strategies as st

from extproc.dialects import registry, sse
from extproc.dialects.translate.direction import Asked
from extproc.dialects.translate.messages_to_chat import MESSAGES_TO_CHAT
from extproc.dialects.translate.messages_to_chat_answer import MessagesAnswer
from extproc.model import Usage
from extproc.surfaces import Surface
from tests.support import cassettes
from tests.support.cassettes import Exchange

Json = dict[str, Any]
MODEL = "deployed"
THINKING = {"thinking": {"type": "adaptive"}}


def text(said: str, **more: Any) -> Json:
    return {"type": "text", "text": said, **more}


def call(name: str, arguments: str, tool: str = "look") -> Json:
    return {"id": name, "type": "function", "function": {"name": tool, "arguments": arguments}}


def answering(request: Json | None = None) -> MessagesAnswer:
    answer = MESSAGES_TO_CHAT.answer(Asked(request or {}, MODEL, 0))
    assert isinstance(answer, MessagesAnswer)
    return answer


def completion(choice: Json, **more: Any) -> Json:
    return {
        "id": "chatcmpl-1",
        "object": "chat.completion",
        "created": 1,
        "model": "gpt-4o-1",
        "choices": [choice],
        **more,
    }


def document(choice: Json, request: Json | None = None, **more: Any) -> Json:
    made: Json = json.loads(answering(request).document(orjson.dumps(completion(choice, **more))))
    return made


def chunk(delta: Json, finish: str | None = None, **more: Any) -> Json:
    choice = {"index": 0, "delta": delta, "finish_reason": finish, **more}
    return {
        "id": "chatcmpl-1",
        "object": "chat.completion.chunk",
        "created": 1,
        "model": "gpt-4o-1",
        "choices": [choice],
    }


def usage_chunk(usage: Json) -> Json:
    return {**chunk({}), "choices": [], "usage": usage}


def framed(*events: Json | str) -> bytes:
    parts = [event.encode() if isinstance(event, str) else orjson.dumps(event) for event in events]
    return b"".join([b"data: %s\n\n" % part for part in parts])


def streamed(raw: bytes, request: Json | None = None, size: int = 10**9, ends: bool = True) -> bytes:
    """What a stream becomes that comes in pieces of this size."""
    answer, reader = answering(request), sse.EventReader()
    out = [answer.event(event) for at in range(0, len(raw), size) for event in reader.feed(raw[at : at + size])]
    return b"".join([*out, answer.end() if ends else b""])


def events(raw: bytes) -> list[Json]:
    """The events of a stream, each with its name as its type."""
    found = []
    for one in sse.EventReader().feed(raw):
        name, data, *_ = one.split(b"\n")
        event = json.loads(data.removeprefix(b"data: "))
        assert name == b"event: " + event["type"].encode()
        found.append(event)
    return found


@contextmanager
def client(body: bytes, kind: str, status: int = 200) -> Iterator[anthropic.Anthropic]:
    transport = httpx2.MockTransport(lambda _: httpx2.Response(status, headers={"content-type": kind}, content=body))
    with httpx2.Client(transport=transport) as carrier:
        yield anthropic.Anthropic(api_key="k", base_url="http://gateway", http_client=carrier, max_retries=0)


ASKED: Any = {"model": "claude", "max_tokens": 9, "messages": [{"role": "user", "content": "Hi"}]}


def accumulated(body: bytes) -> Message:
    """A stream as the SDK puts it together."""
    with client(body, "text/event-stream") as sdk, sdk.messages.stream(**ASKED) as stream:
        return Message.model_validate(stream.get_final_message().to_dict(), extra="forbid")


USAGE = {
    "prompt_tokens": 30,
    "completion_tokens": 12,
    "total_tokens": 42,
    "prompt_tokens_details": {"cached_tokens": 20, "cache_write_tokens": 4},
    "completion_tokens_details": {"reasoning_tokens": 5},
}
THEIRS = {
    "input_tokens": 6,
    "cache_creation_input_tokens": 4,
    "cache_read_input_tokens": 20,
    "output_tokens": 12,
    "output_tokens_details": {"thinking_tokens": 5},
}
CALLS = [call("call_a", '{"at":[1,{"x":"é"}]}'), call("call_b", "{}", "smell")]
WHOLE = {"role": "assistant", "content": "Hällo wörld", "reasoning_content": "Hm, hm.", "tool_calls": CALLS}


def told(message: Json, finish: str, size: int) -> list[Json | str]:
    """The chunks in which a message comes, its texts in pieces of so many characters; parallel calls in turns."""
    pieces = {name: cut(message.get(name) or "", size) for name in ("reasoning_content", "content", "refusal")}
    deltas: list[Json] = [{"role": "assistant", "content": ""}]
    deltas += [{name: piece} for name, parts in pieces.items() for piece in parts]
    calls = message.get("tool_calls") or []
    deltas += [
        {"tool_calls": [{**one, "index": at, "function": {**one["function"], "arguments": ""}}]}
        for at, one in enumerate(calls)
    ]
    rows = [cut(one["function"]["arguments"], size) for one in calls]
    deltas += [
        {"tool_calls": [{"index": at, "function": {"arguments": row[turn]}}]}
        for turn in range(max(map(len, rows), default=0))
        for at, row in enumerate(rows)
        if turn < len(row)
    ]
    return [*map(chunk, deltas), chunk({}, finish)]


def cut(text: str, size: int) -> list[str]:
    return [text[at : at + size] for at in range(0, len(text), size)]


def test_a_whole_answer() -> None:
    body = orjson.dumps(document({"index": 0, "message": WHOLE, "finish_reason": "tool_calls"}, THINKING, usage=USAGE))
    with client(body, "application/json") as sdk:
        message = Message.model_validate(sdk.messages.create(**ASKED).to_dict(), extra="forbid")
    assert message.to_dict() == {
        "id": "chatcmpl-1",
        "type": "message",
        "role": "assistant",
        "model": "gpt-4o-1",
        "content": [
            {"type": "thinking", "thinking": "Hm, hm.", "signature": "reasoning_content"},
            {"type": "text", "text": "Hällo wörld"},
            {"type": "tool_use", "id": "call_a", "name": "look", "input": {"at": [1, {"x": "é"}]}},
            {"type": "tool_use", "id": "call_b", "name": "smell", "input": {}},
        ],
        "stop_reason": "tool_use",
        "stop_sequence": None,
        "usage": THEIRS,
    }


@pytest.mark.parametrize("size", [1, 4, 100])
def test_a_stream_is_the_same_as_the_whole_answer(size: int) -> None:
    raw = framed(*told(WHOLE, "tool_calls", size), usage_chunk(USAGE), "[DONE]")
    whole = document({"message": WHOLE, "finish_reason": "tool_calls"}, THINKING, usage=USAGE)
    assert same(accumulated(streamed(raw, THINKING)), whole)


def same(message: Message, whole: Json) -> bool:
    """Whether a stream's message is the whole one. In a stream without a cause to stop the SDK adds a null."""
    made = message.to_dict()
    made.pop("stop_details", None)
    return made == whole


_TEXT = st.text(max_size=12)
_ARGUMENTS = st.dictionaries(_TEXT, st.integers(0, 9) | _TEXT, max_size=3).map(
    lambda value: orjson.dumps(value).decode()
)


@settings(max_examples=60, deadline=None)
@given(
    st.fixed_dictionaries({"content": _TEXT, "reasoning_content": _TEXT, "refusal": _TEXT | st.none()}),
    st.lists(_ARGUMENTS, max_size=3),
    st.sampled_from(["stop", "length", "tool_calls", "content_filter"]),
    st.integers(1, 9),
)
def test_whatever_is_said_comes_whole_or_in_pieces_as_the_same(
    said: Json, arguments: list[str], finish: str, size: int
) -> None:
    message = {**said, "tool_calls": [call(f"call_{at}", given) for at, given in enumerate(arguments)]}
    raw = framed(*told(message, finish, size), usage_chunk(USAGE), "[DONE]")
    whole = document({"message": message, "finish_reason": finish}, THINKING, usage=USAGE)
    assert same(accumulated(streamed(raw, THINKING)), whole)


def test_a_stream_cut_anywhere_is_the_same() -> None:
    raw = framed(*told(WHOLE, "tool_calls", 3), usage_chunk(USAGE), "[DONE]")
    whole = streamed(raw, THINKING)
    assert all(streamed(raw, THINKING, size) == whole for size in (1, 2, 7, 64))
    assert streamed(raw.replace(b"\n", b"\r\n"), THINKING, 1) == whole
    assert streamed(raw + framed(chunk({"content": "more"}), "[DONE]"), THINKING) == whole


def test_events_go_out_as_they_come() -> None:
    answer = answering(THINKING)
    steps: list[tuple[Json | str, list[str]]] = [
        (chunk({"role": "assistant", "content": ""}), ["message_start"]),
        (chunk({"reasoning": "Hm"}), ["content_block_start", "content_block_delta"]),
        (
            chunk({"content": "A"}),
            ["content_block_delta", "content_block_stop", "content_block_start", "content_block_delta"],
        ),
        (chunk({"content": "b"}), ["content_block_delta"]),
        (
            chunk({"tool_calls": [{"index": 0, **call("a", "{")}]}),
            ["content_block_stop", "content_block_start", "content_block_delta"],
        ),
        (chunk({"tool_calls": [{"index": 0, "function": {"arguments": "}"}}]}), ["content_block_delta"]),
        (chunk({"tool_calls": [{"index": 1, **call("b", "")}]}), ["content_block_stop", "content_block_start"]),
        (chunk({}, "tool_calls"), []),
        (usage_chunk(USAGE), ["content_block_stop", "message_delta", "message_stop"]),
        ("[DONE]", []),
    ]
    for event, types in steps:
        assert [made["type"] for made in events(answer.event(framed(event)))] == types
    assert answer.end() == b""


def blocks(*deltas: Json, finish: str = "tool_calls") -> tuple[list[Json], list[Json]]:
    """The content that these deltas make, and the events."""
    raw = streamed(framed(*map(chunk, deltas), chunk({}, finish), "[DONE]"))
    return accumulated(raw).to_dict()["content"], events(raw)  # type: ignore[return-value]


def test_calls_in_turns_stay_open_beside_each_other() -> None:
    content, made = blocks(
        *[one["choices"][0]["delta"] for one in told({"tool_calls": CALLS}, "tool_calls", 2) if isinstance(one, dict)]
    )
    assert [block["id"] for block in content] == ["call_a", "call_b"]
    assert content[0]["input"] == {"at": [1, {"x": "é"}]}
    assert [event["index"] for event in made if event["type"] == "content_block_stop"] == [0, 1]
    starts = [at for at, event in enumerate(made) if event["type"] == "content_block_start"]
    assert starts == [1, 2]


def test_calls_one_after_the_other_are_blocks_one_after_the_other() -> None:
    _, made = blocks(*({"tool_calls": [{"index": at, **one}]} for at, one in enumerate(CALLS)))
    steps = [(event["type"].removeprefix("content_block_"), event["index"]) for event in made if "index" in event]
    assert steps == [(step, at) for at in (0, 1) for step in ("start", "delta", "stop")]


@pytest.mark.parametrize(
    ("pieces", "uses"),
    [
        # All calls with one number, as Gemini's endpoint for this dialect gives them.
        ([{"index": 0, **call("a", "{}")}, {"index": 0, **call("b", "{}")}], [("a", {}), ("b", {})]),
        ([call("a", "{}"), call("b", '{"x":1}')], [("a", {}), ("b", {"x": 1})]),
        # The id again in every piece.
        (
            [{"index": 0, **call("a", '{"x"')}, {"index": 0, "id": "a", "function": {"arguments": ":1}"}}],
            [("a", {"x": 1})],
        ),
        # No id; arguments as an object, or before the name.
        ([{"index": 0, "function": {"name": "look", "arguments": {"x": 1}}}], [("chatcmpl-1_0", {"x": 1})]),
        (
            [
                {"index": 0, "id": "a", "function": {"arguments": '{"x"'}},
                {"index": 0, "function": {"name": "look", "arguments": ":1}"}},
            ],
            [("a", {"x": 1})],
        ),
        # What is no call.
        ([{"index": 0, "id": "a", "function": {"arguments": "{}"}}], []),
        ([{"index": 0, "id": "a"}, {"index": 1, "function": None}], []),
        # What looks complete, and is not.
        (
            [
                {"index": 0, **call("a", '{"x":{}')},
                {"index": 1, **call("b", "{}")},
                {"index": 0, "function": {"arguments": "}"}},
            ],
            [("a", {"x": {}}), ("b", {})],
        ),
        # More behind what is complete.
        (
            [
                {"index": 0, **call("a", "{}")},
                {"index": 1, **call("b", "{}")},
                {"index": 0, "function": {"arguments": " "}},
            ],
            [("a", {}), ("b", {})],
        ),
    ],
)
def test_calls_as_servers_number_them(pieces: list[Json], uses: list[tuple[str, Json]]) -> None:
    content, _ = blocks(*({"tool_calls": [piece]} for piece in pieces))
    assert [(block["id"], block["input"]) for block in content] == uses
    assert blocks({"tool_calls": pieces})[0] == content


def test_text_behind_a_call_is_a_block_of_its_own() -> None:
    content, _ = blocks({"content": "A"}, {"tool_calls": [{"index": 0, **CALLS[1]}]}, {"content": "B"})
    assert [block["type"] for block in content] == ["text", "tool_use", "text"]


@pytest.mark.parametrize("field", ["reasoning_content", "reasoning"])
def test_what_a_server_of_chat_thought_goes_back_to_it(field: str) -> None:
    answer = document({"message": {field: "Hm.", "content": "So."}}, THINKING)
    thought = {"type": "thinking", "thinking": "Hm.", "signature": field}
    assert answer["content"] == [thought, text("So.")]
    asked = {"role": "user", "content": "?"}
    made = MESSAGES_TO_CHAT.request({"messages": [{"role": "assistant", "content": answer["content"]}, asked]}, MODEL)
    assert made["messages"] == [{"role": "assistant", "content": "So.", field: "Hm."}, asked]


@pytest.mark.parametrize("thinking", [None, {"type": "disabled"}, {"type": "adaptive", "display": "omitted"}])
def test_thinking_is_told_only_where_it_is_asked_for(thinking: Json | None) -> None:
    request = {"thinking": thinking}
    message = {"content": "So.", "reasoning_content": "Hm."}
    assert document({"message": message}, request)["content"] == [text("So.")]
    made = events(streamed(framed(*told(message, "stop", 2), "[DONE]"), request))
    assert "Hm" not in json.dumps(made)


@pytest.mark.parametrize(
    ("choice", "reason", "sequence"),
    [
        ({"finish_reason": "stop"}, "end_turn", None),
        ({"finish_reason": "stop", "stop_reason": "END"}, "stop_sequence", "END"),  # as vLLM says it
        ({"finish_reason": "stop", "stop_reason": 128009}, "end_turn", None),
        ({"finish_reason": "length"}, "max_tokens", None),
        ({"finish_reason": "tool_calls"}, "tool_use", None),
        ({"finish_reason": "function_call"}, "tool_use", None),
        ({"finish_reason": "content_filter"}, "refusal", None),
        ({"finish_reason": "eos"}, "end_turn", None),
        ({"finish_reason": "stop", "message": {"tool_calls": CALLS}}, "tool_use", None),  # a forced call
        ({"finish_reason": "length", "message": {"tool_calls": CALLS}}, "max_tokens", None),
        ({"finish_reason": "stop", "message": {"refusal": "No."}}, "refusal", None),
    ],
)
def test_why_it_stopped(choice: Json, reason: str, sequence: str | None) -> None:
    message = choice.get("message", {"content": "x"})
    made = document({"message": message, **choice})
    assert (made["stop_reason"], made["stop_sequence"]) == (reason, sequence)
    last = chunk({}, choice["finish_reason"], stop_reason=choice.get("stop_reason"))
    stream = streamed(framed(*told(message, "", 5)[:-1], last, "[DONE]"))
    end = next(event for event in events(stream) if event["type"] == "message_delta")
    assert end["delta"] == {"stop_reason": reason, "stop_sequence": sequence}


NONE = {"input_tokens": 0, "output_tokens": 0}


@pytest.mark.parametrize(
    ("told_", "theirs"),
    [
        (USAGE, THEIRS),
        (None, NONE),
        ({}, NONE),
        ("many", NONE),
        ({"prompt_tokens": -1, "completion_tokens": True}, NONE),
        (
            {"prompt_tokens": 7, "completion_tokens": 2},
            {
                **dict.fromkeys(THEIRS, 0),
                "input_tokens": 7,
                "output_tokens": 2,
                "output_tokens_details": {"thinking_tokens": 0},
            },
        ),
    ],
)
def test_usage_in_anthropics_words(told_: object, theirs: Json) -> None:
    assert document({"message": {"content": "x"}}, usage=told_)["usage"] == theirs
    last = chunk({"content": "x"}, "stop") | {"usage": told_}  # some servers say it with the last choice
    ends = [event for event in events(streamed(framed(last, "[DONE]"))) if event["type"] == "message_delta"]
    assert [end["usage"] for end in ends] == [theirs]


def test_only_the_usage_that_follows_the_reason_ends_the_message_at_once() -> None:
    early, nothing = usage_chunk({"prompt_tokens": 1, "completion_tokens": 1}), {**chunk({}), "choices": []}
    answer = answering()
    for event in (chunk({"content": "x"}), early, chunk({}, "stop"), nothing):
        assert b"message_stop" not in answer.event(framed(event))
    end = events(answer.event(framed(usage_chunk(USAGE))))
    assert end[-2]["usage"] == THEIRS


@pytest.mark.parametrize(
    "tail", [(), ("[DONE]",), (usage_chunk(USAGE),), (usage_chunk(USAGE), "[DONE]"), ("[DONE]", "[DONE]")]
)
def test_a_message_ends_once_with_whatever_follows_its_reason(tail: Sequence[Json | str]) -> None:
    types = [event["type"] for event in events(streamed(framed(chunk({"content": "x"}), chunk({}, "stop"), *tail)))]
    assert types[-2:] == ["message_delta", "message_stop"]
    assert types.count("message_stop") == 1


def test_a_stream_that_broke_off_is_not_completed() -> None:
    made = events(streamed(framed(chunk({"content": "x"}), usage_chunk(USAGE))))
    assert [event["type"] for event in made] == ["message_start", "content_block_start", "content_block_delta"]
    assert streamed(b"") == streamed(framed("[DONE]")) == b""


def test_the_end_is_as_good_as_a_reason() -> None:
    made = events(streamed(framed(chunk({"content": "x"}), "[DONE]")))
    assert made[-2]["delta"]["stop_reason"] == "end_turn"


def test_what_is_no_chunk_is_passed_over() -> None:
    """As are Azure's first one, which has no choice, and choices that nobody asked for."""
    azure = {"id": "", "model": "", "choices": [], "prompt_filter_results": []}
    other = chunk({"content": "other"})
    other["choices"][0]["index"] = 1
    odd: list[Json | str] = ["5", "{", '{"choices":[null,5]}', azure, other]
    odd.append(chunk({}) | {"choices": [{"index": 0, "delta": None}]})  # of the same completion
    assert streamed(framed(*odd, chunk({"content": "x"}), *odd, "[DONE]")) == streamed(
        framed(chunk({"content": "x"}), "[DONE]")
    )


def test_a_sign_of_life_stays_one() -> None:
    assert events(answering().event(b": OPENROUTER PROCESSING\n\n")) == [{"type": "ping"}]
    assert events(answering().event(b"\n")) == [{"type": "ping"}]


def test_the_name_of_the_model_is_the_providers_or_the_deployed_one() -> None:
    assert document({"message": {}})["model"] == "gpt-4o-1"
    assert document({"message": {}}, model=None)["model"] == MODEL


def test_texts_in_parts_are_one() -> None:
    parts = [{"type": "text", "text": "a"}, {"type": "thinking", "thinking": []}, {"type": "text", "text": "b"}]
    assert document({"message": {"content": parts}})["content"] == [text("ab")]


@pytest.mark.parametrize("arguments", ['{"x":', "[1]", "5"])
def test_arguments_that_are_no_object_are_wrapped(arguments: str) -> None:
    message = {"tool_calls": [call("a", arguments)]}
    (block,) = document({"message": message})["content"]
    assert block["input"] == {"INVALID_JSON": arguments}


def test_calls_of_nothing_are_none() -> None:
    calls = [{"id": "a"}, {"id": "a", "function": {"arguments": "{}"}}, call("a", "{}", tool="")]
    made = document({"message": {"tool_calls": calls}, "finish_reason": "stop"})
    assert (made["content"], made["stop_reason"]) == ([], "end_turn")


# ---- errors -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("status", "body", "kind", "message"),
    [
        (400, {"error": {"message": "Bad.", "type": "invalid_request_error"}}, "invalid_request_error", "Bad."),
        (401, {"error": {"message": "Who?", "code": "invalid_api_key"}}, "authentication_error", "Who?"),
        (402, {"error": "Pay."}, "billing_error", "Pay."),
        (403, {"detail": "No."}, "permission_error", "No."),
        (404, {"object": "error", "message": "No model.", "type": "NotFoundError"}, "not_found_error", "No model."),
        (422, {"detail": [{"loc": ["body"]}]}, "invalid_request_error", "The backend answered with status 422."),
        (429, {"error": {"message": "Slow."}}, "rate_limit_error", "Slow."),
        (500, b"<html>", "api_error", "The backend answered with status 500."),
        (503, b"[]", "overloaded_error", "The backend answered with status 503."),
        (529, {"error": None}, "overloaded_error", "The backend answered with status 529."),
        (
            400,
            {"error": {"message": "Of 9 tokens.", "code": "context_length_exceeded"}},
            "invalid_request_error",
            "prompt is too long: Of 9 tokens.",
        ),
        (
            400,
            {"object": "error", "message": "This model's maximum context length is 9 tokens."},
            "invalid_request_error",
            "prompt is too long: This model's maximum context length is 9 tokens.",
        ),
    ],
)
def test_errors_in_anthropics_words(status: int, body: Json | bytes, kind: str, message: str) -> None:
    raw = body if isinstance(body, bytes) else orjson.dumps(body)
    made = answering().error(status, raw)
    assert json.loads(made) == {"type": "error", "error": {"type": kind, "message": message}}
    with client(made, "application/json", status) as sdk, pytest.raises(anthropic.APIStatusError) as raised:
        sdk.messages.create(**ASKED)
    assert raised.value.status_code == status


@pytest.mark.parametrize(
    ("event", "kind"),
    [
        ({"error": {"message": "Broke.", "type": "server_error", "code": None}}, "api_error"),
        ({"error": {"message": "Broke.", "type": "BadRequestError", "code": 400}}, "invalid_request_error"),
        ({"error": {"message": "Broke.", "code": "429"}}, "rate_limit_error"),
        ({"error": {"message": "Broke.", "code": "rate_limit_exceeded"}}, "rate_limit_error"),
        ({"error": {"message": "Broke.", "type": "overloaded"}}, "overloaded_error"),
        ({"error": "Broke."}, "api_error"),
        ({"object": "error", "message": "Broke.", "code": True}, "api_error"),
    ],
)
def test_an_error_inside_an_answer_ends_it(event: Json, kind: str) -> None:
    wanted = {"type": "error", "error": {"type": kind, "message": "Broke."}}
    assert json.loads(answering().document(orjson.dumps(event))) == wanted
    raw = streamed(framed(chunk({"content": "x"}), event, chunk({"content": "y"}, "stop"), "[DONE]"))
    assert events(raw)[-1] == wanted
    assert events(raw)[-2]["type"] == "content_block_delta"
    with pytest.raises(anthropic.APIStatusError):
        accumulated(raw)


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b"\xff"])
def test_an_answer_that_is_none_is_an_error(body: bytes) -> None:
    made = json.loads(answering().document(body))
    assert made["error"] == {"type": "api_error", "message": "The backend's answer could not be read."}


def test_an_error_whose_code_is_nested_deep_is_an_error_all_the_same() -> None:
    body = b'{"error":{"message":"Broke.","type":{},"code":%b}}' % (b"[" * 1000 + b"]" * 1000)
    made = json.loads(answering().error(500, body))
    assert made == {"type": "error", "error": {"type": "api_error", "message": "Broke."}}


def test_arguments_nested_too_deep_to_be_written() -> None:
    deep = b'{"x":' + b"[" * 400 + b"]" * 400 + b"}"
    function = b'{"choices":[{"%s":{"tool_calls":[{"id":"a","function":{"name":"f","arguments":%s}}]}}]}'
    as_text = orjson.dumps(deep.decode())
    assert json.loads(answering().document(function % (b"message", as_text)))["type"] == "error"
    assert json.loads(answering().document(function % (b"message", deep)))["content"][0]["input"] == {}
    assert (
        events(answering().event(b"data: %s\n\n" % (function % (b"delta", deep))))[-1]["type"] == "content_block_start"
    )


_NAMES = ["id", "model", "choices", "message", "delta", "content", "tool_calls", "function", "name", "arguments"]
_NAMES += [
    "index",
    "finish_reason",
    "usage",
    "error",
    "object",
    "code",
    "type",
    "text",
    "refusal",
    "reasoning",
    "stop_reason",
]
_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=4),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(_NAMES), inner, max_size=5),
    max_leaves=20,
)
_DELTA = st.dictionaries(st.sampled_from(_NAMES), _JSON, max_size=4)
_CALL = st.fixed_dictionaries({}, optional=dict.fromkeys(("index", "id", "function"), _JSON | _DELTA))
_CHUNK = st.fixed_dictionaries(
    {
        "choices": st.lists(
            st.fixed_dictionaries(
                {"delta": _DELTA | st.fixed_dictionaries({"tool_calls": st.lists(_CALL, max_size=3)})}
            ),
            max_size=2,
        )
    },
    optional={"usage": _JSON, "error": _JSON},
)


@settings(max_examples=150)
@given(st.lists(_CHUNK | _JSON | st.just("[DONE]"), max_size=6))
def test_no_stream_makes_it_raise(chunks: list[Json | str]) -> None:
    raw = streamed(
        b"".join([b"data: %s\n\n" % (b"[DONE]" if one == "[DONE]" else encoded(one)) for one in chunks]), THINKING
    )
    events(raw)


@given(_JSON | _CHUNK, st.integers(400, 599))
def test_no_document_makes_it_raise(body: object, status: int) -> None:
    for made in (answering().document(encoded(body)), answering().error(status, encoded(body))):
        assert json.loads(made)["type"] in ("message", "error")


def encoded(value: object) -> bytes:
    return json.dumps(value).encode()  # integers of any size


# ---- recordings -------------------------------------------------------------------------------------


def _recorded() -> list[Exchange]:
    folder = cassettes.shared()
    found = cassettes.load(folder) if folder else []
    return [one for one in found if "/chat/completions" in one.path]


def _usage(surface: Surface, raw: bytes, streams: bool) -> Usage:
    meter = registry.meter(surface, False)
    for event in sse.EventReader().feed(raw) if streams else ():
        meter.event(event)
    if not streams:
        meter.answer(orjson.loads(raw))
    return meter.total(0)


@pytest.mark.parametrize("exchange", _recorded() or [None], ids=lambda one: one.name if one else "absent")
def test_recordings(exchange: Exchange | None) -> None:
    """Counted as before, and put together by the SDK as what was said."""
    if exchange is None:
        pytest.skip("no shared recordings")
    raw = exchange.answer.body
    if exchange.answer.status != 200:
        assert json.loads(answering().error(exchange.answer.status, raw))["error"]["message"]
        return
    streams = raw.startswith(b"data:")
    made = streamed(raw) if streams else answering().document(raw)
    message: Any = accumulated(made).to_dict() if streams else json.loads(made)
    if exchange.usage() is not None:
        before, after = _usage(Surface.CHAT, raw, streams), _usage(Surface.MESSAGES, made, streams)
        assert (after.input, after.output, after.cached_input) == (before.input, before.output, before.cached_input)
    values = _values(raw) if streams else [json.loads(raw)]
    parts = [choice.get("delta") or choice.get("message") or {} for value in values for choice in value["choices"]]
    assert "".join([block.get("text", "") for block in message["content"]]) == "".join(
        [part.get("content") or "" for part in parts]
    )
    assert message["model"] == values[-1]["model"]


def _values(raw: bytes) -> list[Json]:
    return [json.loads(sse.data(event)) for event in sse.EventReader().feed(raw) if b"[DONE]" not in event]
