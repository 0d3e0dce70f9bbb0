"""Answers of chat completions, as the client of Responses reads them."""

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import httpx2
import openai
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from openai.types import responses as sdk
from pydantic import TypeAdapter

from extproc.dialects import registry, sse, usage
from extproc.dialects.translate.direction import AnswerTranslation, Asked
from extproc.dialects.translate.responses_to_chat import RESPONSES_TO_CHAT
from extproc.surfaces import Surface
from tests.support import cassettes
from tests.support.cassettes import Exchange

Json = dict[str, Any]

# ---- as the SDK reads them ----------------------------------------------------------------------------

TOOL: Json = {"type": "function", "name": "f", "parameters": {"type": "object"}, "strict": True}
ENVELOPE: Json = {"id": "chatcmpl-1", "created": 1_700_000_000, "model": "qwen", "object": "chat.completion"}
USAGE: Json = {
    "prompt_tokens": 20,
    "completion_tokens": 9,
    "total_tokens": 29,
    "prompt_tokens_details": {"cached_tokens": 5, "cache_write_tokens": 3, "audio_tokens": 2},
    "completion_tokens_details": {"reasoning_tokens": 4, "audio_tokens": 1, "novel_tokens": 1},
}
DONE = b"data: [DONE]\n\n"
ASKED = Asked(
    {"model": "public", "input": "hi", "tools": [TOOL], "instructions": "i", "temperature": 0.5}, "deployed", 7
)


def answering(asked: Asked = ASKED) -> AnswerTranslation:
    return RESPONSES_TO_CHAT.answer(asked)


def chunk(delta: Json, finish: str | None = None, **more: Any) -> Json:
    return {**ENVELOPE, "choices": [{"index": 0, "delta": delta, "finish_reason": finish, **more}]}


def told(*chunks: Json) -> bytes:
    return b"".join([b"data: %s\n\n" % json.dumps(one).encode() for one in chunks])


def called(index: int, arguments: str, **more: str) -> Json:
    """A piece of a call; `name` and `id` begin one."""
    function = {"arguments": arguments} | ({"name": more["name"]} if "name" in more else {})
    return {"tool_calls": [{"index": index, "function": function} | ({"id": more["id"]} if "id" in more else {})]}


def translated(stream: bytes, size: int = 10**9, ends: bool = True) -> bytes:
    """A stream that came in pieces of this size."""
    answer, reader, out = answering(), sse.EventReader(), []
    for at in range(0, len(stream), size):
        out += [answer.event(raw) for raw in reader.feed(stream[at : at + size])]
    return b"".join(out) + (answer.end() if ends else b"")


def document(completion: Json | bytes) -> Json:
    body = completion if isinstance(completion, bytes) else json.dumps(completion).encode()
    parsed: Json = json.loads(answering().document(body))
    return parsed


def events(stream: bytes) -> list[Json]:
    """The events but for comments."""
    return [json.loads(data) for raw in sse.EventReader().feed(stream) if (data := sse.data(raw))]


EVENT: TypeAdapter[Any] = TypeAdapter(sdk.ResponseStreamEvent)


@contextmanager
def client_of(body: bytes, kind: str, status: int = 200) -> Iterator[openai.OpenAI]:
    transport = httpx2.MockTransport(lambda _: httpx2.Response(status, headers={"content-type": kind}, content=body))
    with httpx2.Client(transport=transport) as http:
        yield openai.OpenAI(api_key="k", base_url="http://gateway/v1", http_client=http, max_retries=0)


def streamed(stream: bytes) -> sdk.Response:
    """What the SDK's accumulator makes of a translated stream."""
    with client_of(stream, "text/event-stream") as client, client.responses.stream(model="m", input="?") as reading:
        return reading.get_final_response()


def plain(value: Any) -> Any:
    """Without what the accumulator adds where the SDK could parse the output."""
    if isinstance(value, dict):
        return {name: plain(inner) for name, inner in value.items() if name not in ("parsed", "parsed_arguments")}
    return [plain(inner) for inner in value] if isinstance(value, list) else value


def created(body: bytes) -> sdk.Response:
    with client_of(body, "application/json") as client:
        return client.responses.create(model="m", input="?")


@dataclass
class Case:
    """An answer of a model, and in how many ways it comes."""

    message: Json
    deltas: Sequence[Json]
    finish: str = "stop"

    def completion(self) -> Json:
        return {
            **ENVELOPE,
            "choices": [{"index": 0, "message": self.message, "finish_reason": self.finish}],
            "usage": USAGE,
        }

    def stream(self) -> bytes:
        first = chunk({"role": "assistant", "content": ""})
        last = {**ENVELOPE, "choices": [], "usage": USAGE}
        return told(first, *map(chunk, self.deltas), chunk({}, self.finish), last) + DONE


def calling(*calls: tuple[str, str, str]) -> list[Json]:
    return [{"id": id_, "type": "function", "function": {"name": name, "arguments": text}} for id_, name, text in calls]


SAID: Json = {"role": "assistant", "content": "Hello, wörld"}
CASES = {
    "text": Case(SAID, [{"content": "Hello"}, {"content": ", w"}, {"content": "örld"}]),
    "reasoning": Case(
        {**SAID, "reasoning_content": "Well. Hm."},
        [{"reasoning_content": "Well."}, {"reasoning_content": " Hm."}, {"content": "Hello, "}, {"content": "wörld"}],
    ),
    "reasoning in its newer name": Case(
        {**SAID, "reasoning": "Hm.", "reasoning_content": None},
        [{"reasoning": "Hm.", "content": ""}, {"content": "Hello, wörld"}],
    ),
    "refusal": Case(
        {"role": "assistant", "content": None, "refusal": "No, thanks."}, [{"refusal": "No,"}, {"refusal": " thanks."}]
    ),
    "text and refusal": Case({**SAID, "refusal": "No."}, [{"content": "Hello, wörld"}, {"refusal": "No."}]),
    "calls in turns": Case(
        {"role": "assistant", "content": None, "tool_calls": calling(("c1", "f", '{"a":1}'), ("c2", "g", '{"b":2}'))},
        [
            called(0, "", name="f", id="c1"),
            called(1, '{"b"', name="g", id="c2"),
            called(0, '{"a":'),
            called(1, ":2}"),
            called(0, "1}"),
        ],
        "tool_calls",
    ),
    "text and a call": Case(
        {**SAID, "reasoning": "Hm.", "tool_calls": calling(("c1", "f", "{}"))},
        [{"reasoning": "Hm."}, {"content": "Hello, wörld"}, called(0, "{}", name="f", id="c1")],
        "tool_calls",
    ),
    "calls of one index": Case(
        {"role": "assistant", "tool_calls": calling(("c1", "f", "{}"), ("c2", "f", "[]"))},
        [called(0, "{}", name="f", id="c1"), called(0, "[]", name="f", id="c2")],
        "tool_calls",
    ),
    "parts": Case(
        {"role": "assistant", "content": [{"type": "text", "text": "Hello, wörld"}]},
        [{"content": [{"type": "text", "text": "Hello, "}]}, {"content": "wörld"}],
    ),
    "nothing": Case({"role": "assistant", "content": ""}, []),
}
CUT = {
    "length": Case(SAID, CASES["text"].deltas, "length"),
    "filter": Case(SAID, CASES["text"].deltas, "content_filter"),
    "length in reasoning": Case({"role": "assistant", "reasoning": "Hm"}, [{"reasoning": "Hm"}], "length"),
    "length in a call": Case(
        {"role": "assistant", "tool_calls": calling(("c1", "f", '{"a"'))},
        [called(0, '{"a"', name="f", id="c1")],
        "length",
    ),
}
each_case = pytest.mark.parametrize("case", CASES.values(), ids=CASES)
each_cut = pytest.mark.parametrize("case", CUT.values(), ids=CUT)


@each_case
def test_the_sdk_puts_a_stream_together_to_what_the_whole_answer_is(case: Case) -> None:
    whole = created(json.dumps(document(case.completion())).encode())
    assert plain(streamed(translated(case.stream())).to_dict()) == whole.to_dict()
    message = case.message
    assert whole.status == "completed"
    assert whole.output_text in (message.get("content") or "", "Hello, wörld")
    assert bool(whole.output_text) == bool(message.get("content"))
    calls = [one for one in whole.output if one.type == "function_call"]
    assert [(one.call_id, one.name, one.arguments) for one in calls] == [
        (one["id"], one["function"]["name"], one["function"]["arguments"]) for one in message.get("tool_calls", ())
    ]
    thoughts = [part.text for one in whole.output if one.type == "reasoning" for part in one.content or ()]
    assert "".join(thoughts) == (message.get("reasoning_content") or message.get("reasoning") or "")
    refusals = [
        part.refusal for one in whole.output if one.type == "message" for part in one.content if part.type == "refusal"
    ]
    assert "".join(refusals) == (message.get("refusal") or "")


@each_cut
def test_an_answer_that_was_cut_is_incomplete(case: Case) -> None:
    whole = document(case.completion())
    *_, last = events(translated(case.stream()))
    assert last["type"] == "response.incomplete"
    assert last["response"] == whole
    assert whole["status"] == "incomplete"
    reason = {"length": "max_output_tokens", "content_filter": "content_filter"}[case.finish]
    assert whole["incomplete_details"] == {"reason": reason}
    assert [one["status"] for one in whole["output"]] == ["incomplete"]


@pytest.mark.parametrize("case", [*CASES.values(), *CUT.values()], ids=[*CASES, *CUT])
def test_events_are_of_the_sdk_and_say_the_same_again(case: Case) -> None:
    seen: dict[int, Json] = {}
    texts: dict[tuple[Any, ...], str] = {}
    got = events(translated(case.stream()))
    assert [one["sequence_number"] for one in got] == list(range(len(got)))
    for event in got:
        parsed: Any = EVENT.validate_python(event)
        assert parsed.type == event["type"]
        place = (event["type"].rpartition(".")[0], event.get("output_index"), event.get("content_index"))
        if "delta" in event:
            texts[place] = texts.get(place, "") + event["delta"]
        for name in ("text", "refusal", "arguments"):
            if name in event:
                assert texts.pop(place, "") == event[name]
        if event["type"] == "response.output_item.done":
            seen[event["output_index"]] = event["item"]
    assert not texts
    assert [seen[at] for at in sorted(seen)] == got[-1]["response"]["output"]


def test_items_follow_each_other_and_calls_stay_open() -> None:
    kinds = [one["type"].removeprefix("response.") for one in events(translated(CASES["text and a call"].stream()))]
    assert kinds == [
        *("created", "in_progress"),
        *("output_item.added", "content_part.added", "reasoning_text.delta", "reasoning_text.done"),
        *("content_part.done", "output_item.done"),
        *("output_item.added", "content_part.added", "output_text.delta", "output_text.done"),
        *("content_part.done", "output_item.done"),
        *("output_item.added", "function_call_arguments.delta", "function_call_arguments.done", "output_item.done"),
        "completed",
    ]


def test_ids_are_made_from_those_of_the_completion() -> None:
    whole = document(CASES["text and a call"].completion())
    key = "6553f100_chatcmpl-1"
    assert whole["id"] == f"resp_{key}"
    assert [one["id"] for one in whole["output"]] == [f"rs_{key}_0", f"msg_{key}_1", f"fc_{key}_2"]


def test_a_response_repeats_what_was_asked_and_is_not_stored() -> None:
    whole = document(CASES["text"].completion())
    assert {name: whole[name] for name in ("tools", "instructions", "temperature", "tool_choice", "store")} == {
        **{"tools": [TOOL], "instructions": "i", "temperature": 0.5, "tool_choice": "auto", "store": False},
    }
    assert whole["model"] == "qwen"
    assert whole["created_at"] == 1_700_000_000


def test_what_the_backend_does_not_say_is_known_otherwise() -> None:
    whole = document({"choices": [{"message": {"content": "a", "tool_calls": [{"function": {"name": "f"}}]}}]})
    assert (whole["model"], whole["created_at"], whole["usage"]) == ("deployed", 7, None)
    message, call = whole["output"]
    assert (message["id"], call["call_id"], call["arguments"]) == ("msg_7__0", "call_7__1", "")
    assert whole["status"] == "completed"


@pytest.mark.parametrize("size", [1, 2, 7, 50, 1000])
@each_case
def test_a_stream_cut_anywhere_gives_the_same(case: Case, size: int) -> None:
    stream = case.stream()
    assert translated(stream, size) == translated(stream)
    assert translated(stream.replace(b"\n\n", b"\r\n\r\n"), size) == translated(stream)


@each_case
def test_a_stream_that_breaks_is_not_completed(case: Case) -> None:
    whole = case.stream()
    before = whole[: whole.index(json.dumps({"finish_reason": case.finish})[1:-1].encode())]
    for broken in (before, before.rpartition(b"data:")[0] + DONE):
        got = events(translated(broken))
        assert {one["type"] for one in got} & {"response.completed", "response.incomplete", "response.failed"} == set()


def test_the_response_is_over_with_its_usage_or_with_the_stream() -> None:
    finished = told(chunk({"content": "a"}), chunk({}, "stop"))
    last = told({**ENVELOPE, "choices": [], "usage": USAGE})
    assert events(translated(finished, ends=False))[-1]["type"] == "response.output_item.done"
    for stream in (finished + last, finished + DONE, finished + last + DONE + last):
        *_, end = events(translated(stream, ends=False))
        assert end["type"] == "response.completed"
    assert events(translated(finished))[-1]["response"]["usage"] is None
    assert events(translated(told(chunk({"content": "a"}), chunk({}, "stop", **{})) + last))[-1]["response"]["usage"]


def test_usage_beside_the_reason_to_finish_and_in_every_chunk() -> None:
    small = {"prompt_tokens": 20, "completion_tokens": 1, "total_tokens": 21}
    stream = told({**chunk({"content": "a"}), "usage": small}, {**chunk({}, "stop"), "usage": USAGE}) + DONE
    *_, end = events(translated(stream))
    assert end["response"]["usage"]["output_tokens"] == 9


def test_azures_first_chunk_begins_nothing() -> None:
    filters = {"id": "", "created": 0, "model": "", "choices": [], "prompt_filter_results": []}
    assert translated(told(filters) + CASES["text"].stream()) == translated(CASES["text"].stream())


def test_a_comment_keeps_the_connection_and_ends_where_it_is_cut() -> None:
    for comment in (b": processing\n\n", b": proc"):
        assert answering().event(comment) == b":\n\n"
    for silent in (b"event: ping\n\n", b"dat", b"id: 5\n\n"):
        assert answering().event(silent) == b""


def test_another_choice_and_unknown_pieces_are_left_out() -> None:
    strange = [
        {**ENVELOPE, "choices": [{"index": 1, "delta": {"content": "x"}}]},
        chunk({"tool_calls": [{"index": 0, "type": "custom", "custom": {"name": "n", "input": "i"}}]}),
        chunk({"tool_calls": [{"index": 9, "function": {"arguments": "of no call"}}]}),
        chunk({"audio": {"data": "AA=="}, "images": []}),
        chunk({"annotations": [{"type": "url_citation", "url_citation": {}}]}),
        {"novel": True},
    ]
    case = CASES["text"]
    stream = told(chunk({"role": "assistant", "content": ""}), *strange) + case.stream()
    assert translated(stream) == translated(case.stream())


LOGPROBS = {
    "content": [
        {
            "token": "a",
            "logprob": -0.1,
            "bytes": [97],
            "top_logprobs": [{"token": "b", "logprob": -2.0, "bytes": None}],
        },
        {"token": "c", "logprob": -0.2, "bytes": None, "top_logprobs": []},
    ]
}


def test_logprobs_come_with_the_text() -> None:
    stream = told(chunk({"content": "ac"}, logprobs=LOGPROBS), chunk({"content": ""}, "stop", logprobs=LOGPROBS)) + DONE
    whole = streamed(translated(stream))
    (part,) = [part for item in whole.output if item.type == "message" for part in item.content]
    assert part.type == "output_text"
    assert part.logprobs is not None
    assert [one.token for one in part.logprobs] == ["a", "c", "a", "c"]
    assert [one.token for one in part.logprobs[0].top_logprobs] == ["b"]


def test_a_call_of_a_function_in_a_namespace_names_both() -> None:
    space = {"type": "namespace", "name": "mcp__mail", "description": "", "tools": [{**TOOL, "name": "send"}, 5]}
    late = {"type": "namespace", "name": "late", "description": "", "tools": [TOOL]}
    request = {"input": [{"type": "additional_tools", "tools": [late]}], "tools": [TOOL, space]}
    names = ("mcp__mail__send", "late__f", "f", "late__g")
    completion = Case({"tool_calls": calling(*[(name, name, "{}") for name in names])}, []).completion()
    whole = json.loads(answering(Asked(request, "m", 7)).document(json.dumps(completion).encode()))
    assert [(one.get("namespace"), one["name"]) for one in whole["output"]] == [
        *(("mcp__mail", "send"), ("late", "f"), (None, "f"), (None, "late__g")),
    ]
    calls = [one for one in created(json.dumps(whole).encode()).output if one.type == "function_call"]
    assert [one.namespace for one in calls] == ["mcp__mail", "late", None, None]


def test_sources_of_a_text_come_with_it() -> None:
    cited = {"url": "https://h", "title": "T", "start_index": 0, "end_index": 5}
    annotations = [{"type": "url_citation", "url_citation": cited}, {"type": "novel"}, 5]
    case = Case({**SAID, "annotations": annotations}, [{"content": "Hello, wörld"}, {"annotations": annotations}])
    whole = document(case.completion())
    assert whole["output"][0]["content"][0]["annotations"] == [{"type": "url_citation", **cited}]
    assert [one for one in events(translated(case.stream())) if "annotation" in one] == [
        {
            "type": "response.output_text.annotation.added",
            "sequence_number": 5,
            "item_id": "msg_6553f100_chatcmpl-1_0",
            "output_index": 0,
            "content_index": 0,
            "annotation_index": 0,
            "annotation": {"type": "url_citation", **cited},
        }
    ]
    assert plain(streamed(translated(case.stream())).to_dict()) == created(json.dumps(whole).encode()).to_dict()
    refusal = {"role": "assistant", "refusal": "No.", "annotations": annotations}
    after = translated(Case({}, [{"refusal": "No."}, {"annotations": annotations}]).stream())
    assert events(after)[-1]["response"] == document(Case(refusal, []).completion())  # of which it is none


# ---- errors ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("error", "code", "message"),
    [
        (
            {"error": {"message": "try again in 6.2s", "code": "rate_limit_exceeded"}},
            "rate_limit_exceeded",
            "try again in 6.2s",
        ),
        ({"error": {"message": "slow down", "code": 429}}, "rate_limit_exceeded", "slow down"),
        ({"error": {"message": "boom", "type": "x", "code": 500}}, "server_error", "boom"),
        ({"error": "boom"}, "server_error", "boom"),
        ({"object": "error", "message": "boom", "code": 400}, "server_error", "boom"),
        ({"error": {"code": None}}, "server_error", "The backend failed while it answered."),
    ],
)
@pytest.mark.parametrize("begun", [True, False])
def test_an_error_inside_a_stream_fails_the_response(begun: bool, error: Json, code: str, message: str) -> None:
    before = [chunk({"content": "a"}), chunk(called(0, "{", name="f", id="c1"))] if begun else []
    stream = told(*before, error, chunk({"content": "b"}, "stop")) + DONE
    got = events(translated(stream))
    assert got[0]["type"] == "response.created"
    last = got[-1]["response"]
    assert got[-1]["type"] == "response.failed"
    assert (last["status"], last["error"]) == ("failed", {"code": code, "message": message})
    assert [one["status"] for one in last["output"]] == (["completed", "incomplete"] if begun else [])
    EVENT.validate_python(got[-1])
    whole = document(error)
    assert (whole["status"], whole["error"], whole["output"]) == ("failed", last["error"], [])


@pytest.mark.parametrize("reason", ["error", "abort"])
def test_an_answer_that_ends_for_an_error_fails(reason: str) -> None:
    case = Case(SAID, CASES["text"].deltas, reason)
    *_, last = events(translated(case.stream()))
    assert last["type"] == "response.failed"
    assert last["response"] == document(case.completion())


@pytest.mark.parametrize("body", [b"", b"<html>", b"[]", b"{}", b'{"choices": []}', b'{"choices": [5]}'])
def test_an_unreadable_answer_is_a_failed_response(body: bytes) -> None:
    whole = document(body)
    assert whole["status"] == "failed"
    assert whole["error"] == {"code": "server_error", "message": "The backend's answer could not be read."}
    assert created(json.dumps(whole).encode()).error is not None


def test_chunks_that_are_no_json_are_left_out() -> None:
    broken = b"data: {\n\ndata: 5\n\ndata: [1]\n\n"
    assert translated(broken + CASES["text"].stream()) == translated(CASES["text"].stream())


@pytest.mark.parametrize(
    ("status", "body", "expected"),
    [
        (
            400,
            {"error": {"message": "m", "type": "t", "param": "messages", "code": "c"}},
            {"message": "m", "type": "t", "param": "input", "code": "c"},
        ),
        (
            400,
            {"object": "error", "message": "m", "type": "BadRequestError", "param": "max_tokens", "code": 400},
            {"message": "m", "type": "BadRequestError", "param": "max_output_tokens", "code": None},
        ),
        (
            404,
            {"error": "model not found"},
            {"message": "model not found", "type": "invalid_request_error", "param": None, "code": None},
        ),
        (
            429,
            {"detail": "slow down"},
            {"message": "slow down", "type": "rate_limit_error", "param": None, "code": "rate_limit_exceeded"},
        ),
        (
            401,
            {"error": {"message": "Incorrect API key provided: sk-1", "type": "t", "code": "invalid_api_key"}},
            {
                "message": "The backend refused the credentials of the gateway.",
                "type": "t",
                "param": None,
                "code": "invalid_api_key",
            },
        ),
        (
            502,
            b"<html>",
            {"message": "The backend answered with status 502.", "type": "server_error", "param": None, "code": None},
        ),
        (
            500,
            [1],
            {"message": "The backend answered with status 500.", "type": "server_error", "param": None, "code": None},
        ),
    ],
)
def test_an_error_has_openais_shape(status: int, body: Any, expected: Json) -> None:
    raw = answering().error(status, body if isinstance(body, bytes) else json.dumps(body).encode())
    assert json.loads(raw) == {"error": expected}
    with client_of(raw, "application/json", status) as client, pytest.raises(openai.APIStatusError) as caught:
        client.responses.create(model="m", input="?")
    assert caught.value.body == expected


# ---- usage -----------------------------------------------------------------------------------------------------

counts = st.integers(0, 10**6)
details = st.none() | st.dictionaries(
    st.sampled_from(["cached_tokens", "cache_write_tokens", "audio_tokens", "reasoning_tokens", "novel_tokens", "odd"]),
    counts | st.none() | st.just("x"),
)


@settings(max_examples=60)
@given(
    st.fixed_dictionaries(
        dict.fromkeys(("prompt_tokens", "completion_tokens"), counts),
        optional={
            "total_tokens": counts,
            **dict.fromkeys(("prompt_tokens_details", "completion_tokens_details"), details),
        },
    )
)
def test_every_class_of_tokens_is_counted_as_before(reported: Json) -> None:
    """But for a total that leaves less for the output than was thought in it: nobody can say which one is wrong."""
    thought = (reported.get("completion_tokens_details") or {}).get("reasoning_tokens")
    left = reported.get("total_tokens", 0) - reported["prompt_tokens"]
    assume(not isinstance(thought, int) or not reported["completion_tokens"] < left < thought)
    completion = {**CASES["text"].completion(), "usage": reported}
    meter = registry.meter(Surface.RESPONSES, False)
    meter.answer(document(completion))
    before = registry.meter(Surface.CHAT, False)
    before.answer(completion)
    assert meter.total(5) == before.total(5)


@each_case
def test_the_meter_of_the_surface_reads_a_stream_to_its_end(case: Case) -> None:
    meter = registry.meter(Surface.RESPONSES, False)
    hidden = [meter.event(raw) for raw in sse.EventReader().feed(translated(case.stream()))]
    assert not any(hidden)
    assert meter.finished
    assert not meter.failed
    assert meter.total(5) == usage.openai(USAGE)
    assert not [made for made in meter.made_ids() if made.startswith("resp_")]  # there is nothing to ask for later


# ---- whatever comes ----------------------------------------------------------------------------------------------

chat_names = st.sampled_from(
    [
        *("id", "choices", "index", "delta", "message", "content", "reasoning", "tool_calls", "function", "name"),
        *("arguments", "finish_reason", "usage", "error", "created", "logprobs", "bytes", "token", "refusal", "model"),
    ]
)
chat_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.sampled_from(["", "a", "stop", "length", "error"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(chat_names, inner, max_size=5),
    max_leaves=15,
)
deltas = st.dictionaries(chat_names, chat_values, max_size=4)
choices = st.fixed_dictionaries({"delta": deltas}, optional={"finish_reason": chat_values})
chunks = st.fixed_dictionaries(
    {
        "choices": st.lists(
            st.fixed_dictionaries({"delta": deltas}, optional={"finish_reason": chat_values}), max_size=2
        )
    },
    optional={"id": chat_values, "created": chat_values, "usage": chat_values, "error": chat_values},
)


@settings(max_examples=80)
@given(st.lists(chunks | chat_values, max_size=5), st.binary(max_size=20))
def test_no_answer_is_too_strange(answers: list[Any], raw: bytes) -> None:
    answer = answering()
    for one in answers:
        body = json.dumps(one).encode()
        for event in events(answer.event(b"data: %s\n\n" % body)):
            assert event["type"]
        document(body)
        answering().error(400, body)
    answer.event(b"data: " + raw + b"\n\n")
    answer.end()
    document(raw)
    answering().error(500, raw)


def test_nesting_that_cannot_be_written_again_is_no_error() -> None:
    deep = b"[" * 500 + b"]" * 500
    for place in (b'"content": %s', b'"tool_calls": [{"function": {"name": "f", "arguments": {"a": %s}}}]'):
        body = b'{"choices": [{"delta": {%s}, "logprobs": %s, "finish_reason": "stop"}], "usage": %s}' % (
            place % deep,
            deep,
            deep,
        )
        assert events(translated(b"data: %s\n\n" % body))[-1]["type"] == "response.completed"


# ---- recordings --------------------------------------------------------------------------------------------------


def recorded() -> list[Any]:
    folder = cassettes.shared()
    found = [pytest.param(exchange, id=exchange.name) for exchange in cassettes.load(cassettes.OWN)]
    if folder is None:
        skip = pytest.mark.skip(reason="no shared recordings beside the project")
        return [*found, pytest.param(None, id="shared", marks=skip)]
    return found + [pytest.param(exchange, id=f"shared/{exchange.name}") for exchange in cassettes.load(folder)]


CHATS = [one for one in recorded() if one.values[0] is None or "/chat/completions" in one.values[0].path]


@pytest.mark.parametrize("exchange", CHATS)
def test_a_recorded_chat_is_a_response(exchange: Exchange) -> None:
    body = exchange.answer.body
    if exchange.answer.status != 200:
        error = json.loads(answering().error(exchange.answer.status, body))["error"]
        assert error["message"] == json.loads(body)["error"]["message"]
    elif exchange.content_type.startswith("text/event-stream") or b"data: " in body[:200]:
        check_recorded_stream(body, exchange.usage())
    else:
        whole = created(json.dumps(document(body)).encode())
        message = json.loads(body)["choices"][0]["message"]
        assert whole.output_text == (message.get("content") or "")
        assert len(whole.output) == bool(whole.output_text) + len(message.get("tool_calls") or ())


def check_recorded_stream(body: bytes, reported: Json | None) -> None:
    got = [json.loads(sse.data(raw)) for raw in sse.EventReader().feed(body) if sse.data(raw) not in (b"", b"[DONE]")]
    said = [one["delta"].get("content") or "" for event in got for one in event["choices"]]
    *_, last = events(translated(body))
    parts = [part["text"] for one in last["response"]["output"] for part in one.get("content", ())]
    assert "".join(parts) == "".join(said)
    if reported is not None:
        assert usage.openai(last["response"]["usage"]) == usage.openai(reported)
