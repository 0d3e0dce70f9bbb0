"""Only what is complete is kept: every way to end, and everything that an answer may say, on every surface."""

from typing import Any

import orjson
import pytest

from extproc.cache.question import SURFACES
from extproc.dialects.endings import AnthropicEnding, ChatEnding, Ending, Reason, ResponsesEnding
from extproc.dialects.withheld import document
from extproc.model import Usage
from extproc.refusals import GATEWAY_ERROR, Refusal, encode, stream_error
from extproc.surfaces import Face, Surface
from tests.unit.cache.kept import chat, choice, chunk, stream, told

Json = dict[str, Any]


# ---- chat completions and completions -----------------------------------------------------------------------

HI = chunk(content="Hi")
STOP = chunk(finish="stop")
CALL: Json = {"tool_calls": [{"id": "t", "type": "function", "function": {"name": "f", "arguments": "{}"}}]}


@pytest.mark.parametrize(
    ("finish", "reason"),
    [
        ("stop", None),
        ("tool_calls", "incomplete"),
        ("function_call", "incomplete"),
        ("length", "cut"),
        ("content_filter", "filtered"),
        ("error", "error"),
        ("eos_new", "unknown_end"),
        ("end_turn", "unknown_end"),
        ("", "unknown_end"),
        (None, "incomplete"),
        (1, "unreadable"),
        (["stop"], "unreadable"),
    ],
)
def test_a_choice_must_have_come_to_its_own_end(finish: object, reason: str | None) -> None:
    assert told(Surface.CHAT, chat(choice(finish=finish))) == reason
    assert told(Surface.CHAT, stream(HI, chunk(finish=finish), b"[DONE]"), True) == reason


@pytest.mark.parametrize("finish", ["tool_calls", "function_call"])
def test_a_completion_calls_no_tools(finish: str) -> None:
    assert told(Surface.COMPLETIONS, {"choices": [{"index": 0, "text": "a", "finish_reason": finish}]}) == "unknown_end"


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (chat(choice(content=None, **CALL), usage={}), None),
        (chat(choice(content=None, function_call={"name": "f", "arguments": ""})), None),
        (chat(choice(content="")), "empty"),
        (chat(choice(content=None, reasoning_content="Hm.")), "empty"),
        (chat(choice(refusal="No.")), "refused"),
        (chat(choice(refusal=None)), None),
        (chat(choice(), error=None), None),
        (chat(choice(), error={"message": "late"}), "error"),
        (chat(), "incomplete"),
        (chat(choice(), choice(1)), "incomplete"),
        (chat(choice(1)), "incomplete"),
        (chat(choice(), choice()), "unreadable"),
        (chat("odd"), "unreadable"),
        (chat({"message": {"content": "Hi"}, "finish_reason": "stop"}), "unreadable"),
        (chat({"index": 0, "message": "Hi", "finish_reason": "stop"}), "unreadable"),
        (chat({"index": 0, "finish_reason": "stop"}), "empty"),
        ({"choices": {}}, "unreadable"),
        ({}, "unreadable"),
        ({"object": "error", "message": "no", "choices": [choice()]}, "error"),
        (b"[]", "unreadable"),
        (b"", "unreadable"),
        (b"<html>", "unreadable"),
        (b'{"choices": [] }{', "unreadable"),
    ],
    ids=str,
)
def test_an_answer_in_json_is_kept_or_not(answer: Json | bytes, reason: str | None) -> None:
    assert told(Surface.CHAT, answer) == reason


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (chat({**choice(), "content_filter_results": {"hate": {"filtered": False, "severity": "safe"}}}), None),
        (chat({**choice(), "content_filter_results": {"hate": {"filtered": True, "severity": "high"}}}), "filtered"),
        (chat({**choice(), "content_filter_result": {"hate": {"filtered": True}}}), "filtered"),
        (
            chat(choice(), prompt_filter_results=[{"content_filter_results": {"jailbreak": {"filtered": True}}}]),
            "filtered",
        ),
        (chat({**choice(), "content_filter_results": {"error": {"code": "content_filter_error"}}}), "filtered"),
        (chat({**choice(), "content_filter_result": {"error": {"code": "content_filter_error"}}}), "filtered"),
        (chat({**choice(), "content_filter_results": {"hate": {"error": {"code": "timeout"}}}}), "filtered"),
        (chat({**choice(), "content_filter_results": {"error": None, "hate": {"filtered": False}}}), None),
        (chat({**choice(), "content_filter_results": None}), None),
        (chat(choice(), prompt_filter_results=[{"content_filter_results": {"error": {"code": "x"}}}]), "filtered"),
        (chat(choice(), prompt_filter_results=[{"content_filter_results": {"jailbreak": {"filtered": False}}}]), None),
        (chat(choice(content='{"filtered": true}')), None),
    ],
    ids=str,
)
def test_what_a_filter_of_azures_took_out_is_not_kept(answer: Json, reason: str | None) -> None:
    assert told(Surface.CHAT, answer) == reason
    told_of = {name: value for name, value in answer["choices"][0].items() if name != "message"}
    event = stream(HI, STOP, {**answer, "choices": [{**told_of, "finish_reason": None}]}, b"[DONE]")
    assert told(Surface.CHAT, event, True) == reason


@pytest.mark.parametrize(
    ("events", "reason"),
    [
        ((HI, STOP, b"[DONE]"), None),
        (({"choices": [], "prompt_filter_results": []}, HI, STOP, {"choices": [], "usage": {}}, b"[DONE]"), None),
        ((chunk(**CALL), chunk(finish="tool_calls"), b"[DONE]"), None),
        ((chunk(reasoning_content="Hm."), STOP, b"[DONE]"), "empty"),
        ((chunk(refusal="No."), STOP, b"[DONE]"), "refused"),
        ((HI, STOP), "incomplete"),
        ((HI, b"[DONE]"), "incomplete"),
        ((b"[DONE]",), "incomplete"),
        ((HI, {"error": {"message": "late"}}), "error"),
        ((HI, STOP, {"error": {"message": "late"}}, b"[DONE]"), "error"),
        ((HI, STOP, b"[DONE]", b"[DONE]"), "unreadable"),
        ((HI, STOP, b"[DONE]", HI), "unreadable"),
        ((HI, b"{", STOP, b"[DONE]"), "unreadable"),
        ((HI, b"1", STOP, b"[DONE]"), "unreadable"),
        ((HI, chunk(1, content="Ho"), STOP, b"[DONE]"), "incomplete"),
        ((HI, {"object": "ping"}, STOP, b"[DONE]"), "unreadable"),
        ((HI, STOP, HI, b"[DONE]"), "unreadable"),
        ((HI, STOP, chunk(reasoning_content="Hm."), b"[DONE]"), "unreadable"),
        ((HI, STOP, chunk(**CALL), b"[DONE]"), "unreadable"),
        ((HI, STOP, STOP, b"[DONE]"), "unreadable"),
        ((HI, STOP, chunk(role="assistant", content=""), b"[DONE]"), None),
        ((HI, chunk(finish="stop", content="!"), b"[DONE]"), None),
    ],
    ids=str,
)
def test_a_stream_is_kept_or_not(events: tuple[Json | bytes, ...], reason: str | None) -> None:
    assert told(Surface.CHAT, stream(*events), True) == reason


def test_a_completion_says_nothing_behind_its_end() -> None:
    end = {"choices": [{"index": 0, "text": "a", "finish_reason": "stop"}]}
    more = {"choices": [{"index": 0, "text": "b", "finish_reason": None}]}
    assert told(Surface.COMPLETIONS, stream(more, end, b"[DONE]"), True) is None
    assert told(Surface.COMPLETIONS, stream(end, more, b"[DONE]"), True) == "unreadable"


TEXTS: dict[str, Any] = {"type": "text", "text": "Hi"}


@pytest.mark.parametrize(
    ("said", "reason"),
    [
        ({"content": [TEXTS]}, None),
        ({"content": [{"type": "image_url", "image_url": {"url": "data:"}}]}, None),
        ({"content": [{"type": "text", "text": ""}]}, "empty"),
        ({"content": [{"type": "thinking", "thinking": [TEXTS]}]}, "empty"),
        ({"content": [{"type": "thinking", "thinking": [TEXTS]}, TEXTS]}, None),
        ({"content": [TEXTS, {"type": "refusal", "refusal": "No."}]}, "refused"),
        ({"content": {"text": "Hi"}}, "empty"),
        ({"content": "Hi", "audio": None}, None),
        ({"content": "Hi", "audio": {"id": "audio_1"}}, "stateful"),
        ({"content": "Hi", "thinking_blocks": [{"type": "redacted_thinking", "data": "x"}]}, "stateful"),
        ({"content": "Hi", "thinking_blocks": [{"type": "thinking", "thinking": "Hm."}]}, None),
        ({"content": "Hi", "reasoning_details": [{"type": "reasoning.encrypted", "data": "x"}]}, "stateful"),
        ({"content": "Hi", "reasoning_details": [{"type": "reasoning.text", "text": "Hm."}]}, None),
        ({"content": "Hi", "annotations": []}, None),
        ({"content": "Hi", "annotations": [{"type": "url_citation"}]}, "hosted_tools"),
        ({"content": "Hi", "executed_tools": [{"type": "search"}]}, "hosted_tools"),
        ({"content": "Hi", "context": {"citations": [{}]}}, "hosted_tools"),
    ],
    ids=str,
)
def test_what_a_choice_says_is_kept_or_not(said: Json, reason: str | None) -> None:
    assert told(Surface.CHAT, chat(choice(**said))) == reason
    assert told(Surface.CHAT, stream(chunk(**said), STOP, b"[DONE]"), True) == reason


@pytest.mark.parametrize(
    ("beside", "reason"),
    [
        ({"citations": []}, None),
        ({"citations": ["https://a.example"]}, "hosted_tools"),
        ({"search_results": [{"url": "https://a.example"}]}, "hosted_tools"),
        ({"search_info": {"search_results": [{}]}}, "hosted_tools"),
        ({"web_search": [{"link": "https://a.example"}]}, "hosted_tools"),
        ({"references": [{"url": "https://a.example"}]}, "hosted_tools"),
        ({"grounding_metadata": {"web_search_queries": ["a"]}}, "hosted_tools"),
        ({"groundingMetadata": {"webSearchQueries": ["a"]}}, "hosted_tools"),
        ({"usage": {"total_tokens": 3, "num_sources_used": 0}}, None),
        ({"usage": {"total_tokens": 3, "num_sources_used": 2}}, "hosted_tools"),
        ({"usage": {"num_search_queries": 1}}, "hosted_tools"),
        ({"usage": {"server_tool_use": {"web_search_requests": 0}}}, None),
        ({"usage": {"server_tool_use": {"web_search_requests": 1}}}, "hosted_tools"),
        ({"usage": {"server_tool_use": None}}, None),
        ({"usage": {"num_server_side_tools_used": 1}}, "hosted_tools"),
        ({"usage": {"server_side_tool_usage_details": {"web_search_calls": 0}}}, None),
        ({"usage": {"server_side_tool_usage_details": {"web_search_calls": 1}}}, "hosted_tools"),
    ],
    ids=str,
)
def test_an_answer_that_shows_a_search_is_not_kept(beside: Json, reason: str | None) -> None:
    """A model that searches by itself finds something else tomorrow."""
    assert told(Surface.CHAT, chat(choice(), **beside)) == reason
    assert told(Surface.CHAT, stream(HI, STOP, {"choices": [], **beside}, b"[DONE]"), True) == reason
    text = {"choices": [{"index": 0, "text": "a", "finish_reason": "stop"}], **beside}
    assert told(Surface.COMPLETIONS, text) == reason
    assert told(Surface.MESSAGES, message(**beside)) == reason
    assert told(Surface.MESSAGES, stream(START, BLOCK, DELTA, END, STOPS | beside, LAST), True) == reason
    start = {"type": "message_start", "message": {"type": "message", "content": [], **beside}}
    assert told(Surface.MESSAGES, stream(start, BLOCK, DELTA, END, STOPS, LAST), True) == reason
    assert told(Surface.RESPONSES, response(item(), **beside)) == reason


# ---- arguments of tool calls --------------------------------------------------------------------------------

ARGUMENTS = [
    ('{"a": 1}', None),
    ("{}", None),
    ("", None),
    (None, None),
    ({"a": 1}, None),
    ('{"a": tr', "unreadable"),
    ('{"a": 1}{"a": 1}', "unreadable"),
    ("[1]", "unreadable"),
    ("null", "unreadable"),
    ("1", "unreadable"),
    (" ", "unreadable"),
    (["a"], "unreadable"),
    (1, "unreadable"),
    ("[" * 5_000, "unreadable"),
]


@pytest.mark.parametrize(("arguments", "reason"), ARGUMENTS, ids=lambda value: str(value)[:20])
def test_arguments_are_an_object_or_none(arguments: Any, reason: str | None) -> None:
    function = {"name": "f", "arguments": arguments}
    called = chat(choice(content=None, tool_calls=[{"id": "t", "type": "function", "function": function}]))
    assert told(Surface.CHAT, called) == reason
    assert told(Surface.CHAT, chat(choice(content=None, function_call=function))) == reason
    assert told(Surface.RESPONSES, response(item(), {"type": "function_call", **function})) == reason
    if isinstance(arguments, str):
        for at in range(min(len(arguments), 10) + 1):  # in two pieces, cut anywhere
            assert in_pieces(arguments[:at], arguments[at:]) == reason
            assert in_deltas(arguments[:at], arguments[at:]) == reason


def in_pieces(*pieces: str) -> str | None:
    """What becomes of a chat stream whose second call has these arguments."""
    calls = [chunk(tool_calls=[{"index": 1, "function": {"arguments": piece}}]) for piece in pieces]
    first = {"index": 0, "id": "t", "function": {"name": "f", "arguments": "{"}}
    rest = {"index": 0, "function": {"arguments": "}"}}
    body = stream(chunk(tool_calls=[first]), *calls, chunk(tool_calls=[rest]), chunk(finish="tool_calls"), b"[DONE]")
    return told(Surface.CHAT, body, True)


def in_deltas(*pieces: str) -> str | None:
    """What becomes of a message whose one block has these arguments."""
    deltas = [
        {"type": "content_block_delta", "index": 0, "delta": {"type": "input_json_delta", "partial_json": piece}}
        for piece in pieces
    ]
    begun = BLOCK | {"content_block": {"type": "tool_use", "id": "t", "name": "f", "input": {}}}
    stops = {"type": "message_delta", "delta": {"stop_reason": "tool_use"}}
    return told(Surface.MESSAGES, stream(START, begun, *deltas, END, stops, LAST), True)


@pytest.mark.parametrize(
    ("calls", "reason"),
    [
        ([{"id": "t", "type": "custom", "custom": {"name": "f", "input": "a = ("}}], None),
        ([{"id": "t", "type": "function"}], "unreadable"),
        ([{"index": "0", "function": {"name": "f", "arguments": "{}"}}], "unreadable"),
        ([{"function": {"name": "f", "arguments": "{}"}}, "odd"], "unreadable"),
        ({"function": {"name": "f"}}, "unreadable"),
        ([{"function": {"name": "f", "arguments": "{}"}}, {"function": {"name": "f", "arguments": "{"}}], "unreadable"),
    ],
    ids=str,
)
def test_calls_of_tools_are_kept_or_not(calls: Any, reason: str | None) -> None:
    assert told(Surface.CHAT, chat(choice(content=None, finish="tool_calls", tool_calls=calls))) == reason
    events = stream(chunk(tool_calls=calls), chunk(finish="tool_calls"), b"[DONE]")
    assert told(Surface.CHAT, events, True) == reason


def test_who_says_that_it_calls_a_tool_calls_one() -> None:
    """Some servers lose a call that they cannot read, and still end with it."""
    both = {"content": "Hi", **CALL}
    assert told(Surface.CHAT, chat(choice(finish="tool_calls", **both))) is None
    assert told(Surface.CHAT, chat(choice(finish="function_call", function_call={"name": "f"}))) is None
    assert told(Surface.CHAT, chat(choice(finish="tool_calls"))) == "incomplete"
    assert told(Surface.MESSAGES, message("tool_use", content=[TEXTS, USES])) is None
    assert told(Surface.MESSAGES, message("tool_use", content=[TEXTS])) == "incomplete"


def test_comments_are_kept_within_a_stream_and_not_behind_it() -> None:
    body = b": hello\n\n" + stream(HI) + b": ping\n\n" + stream(STOP) + b"event: x\n\n" + stream(b"[DONE]")
    assert told(Surface.CHAT, body, True) is None
    assert told(Surface.CHAT, body + b": bye\n\n", True) == "incomplete"
    assert told(Surface.CHAT, b"", True) is not None
    assert told(Surface.CHAT, b": hello\n\n", True) is not None


def test_every_input_of_a_completion_has_its_choice() -> None:
    both = {"choices": [{"index": index, "text": "a", "finish_reason": "stop"} for index in (1, 0)]}
    assert told(Surface.COMPLETIONS, both, results=2) is None
    assert told(Surface.COMPLETIONS, both) == "incomplete"
    assert told(Surface.COMPLETIONS, both, results=3) == "incomplete"
    events = [{"choices": [one | {"finish_reason": None}]} for one in both["choices"]]
    ends = [{"choices": [one | {"text": ""}]} for one in both["choices"]]
    assert told(Surface.COMPLETIONS, stream(*events, *ends, b"[DONE]"), True, 2) is None
    assert told(Surface.COMPLETIONS, stream(*events, ends[0], b"[DONE]"), True, 2) == "incomplete"


# ---- Anthropic's messages -------------------------------------------------------------------------------------


def message(stop: Any = "end_turn", **more: Any) -> Json:
    return {"type": "message", "content": [{"type": "text", "text": "Hi"}], "stop_reason": stop, **more}


def message_events(stop: Any = "end_turn") -> list[Json]:
    return [
        {"type": "message_start", "message": {"type": "message", "content": []}},
        {"type": "ping"},
        {"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": ""}},
        {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": "Hi"}},
        {"type": "content_block_stop", "index": 0},
        {"type": "message_delta", "delta": {"stop_reason": stop}, "usage": {"output_tokens": 1}},
        {"type": "message_stop"},
    ]


@pytest.mark.parametrize(
    ("stop", "reason"),
    [
        ("end_turn", None),
        ("stop_sequence", None),
        ("tool_use", "incomplete"),
        ("max_tokens", "cut"),
        ("model_context_window_exceeded", "cut"),
        ("pause_turn", "incomplete"),
        ("refusal", "refused"),
        ("stop", "unknown_end"),
        (None, "incomplete"),
    ],
)
def test_a_message_must_have_come_to_its_own_end(stop: object, reason: str | None) -> None:
    assert told(Surface.MESSAGES, message(stop)) == reason
    assert told(Surface.MESSAGES, stream(*message_events(stop)), True) == reason


USES: Json = {"type": "tool_use", "id": "t", "name": "f", "input": {"a": 1}}
CITES: Json = {"type": "web_search_result_location", "url": "https://a.example"}


@pytest.mark.parametrize(
    ("blocks", "reason"),
    [
        ([TEXTS], None),
        ([{"type": "thinking", "thinking": "Hm.", "signature": "s"}, TEXTS], None),
        ([USES], None),
        ([USES | {"input": {}}], None),
        ([USES | {"input": "{}"}], "unreadable"),
        ([USES | {"input": {"INVALID_JSON": "{"}}], "unreadable"),
        ([{"type": "thinking", "thinking": "Hm.", "signature": "s"}], "empty"),
        ([{"type": "text", "text": ""}], "empty"),
        ([{"type": "text", "text": ""}, USES], None),
        ([TEXTS, {"type": "redacted_thinking", "data": "x"}], "stateful"),
        ([TEXTS, {"type": "server_tool_use", "name": "web_search", "input": {}}], "hosted_tools"),
        ([TEXTS, {"type": "web_search_tool_result", "content": []}], "hosted_tools"),
        ([TEXTS, {"type": "mcp_tool_use", "name": "f", "input": {}}], "hosted_tools"),
        ([TEXTS, {"type": "mcp_tool_result", "content": []}], "hosted_tools"),
        ([TEXTS, {"type": "container_upload", "file_id": "f"}], "hosted_tools"),
        ([TEXTS | {"citations": [CITES]}], "hosted_tools"),
        ([TEXTS | {"citations": [{"type": "char_location"}]}], None),
        ([TEXTS | {"citations": None}], None),
        ([TEXTS, {"type": "new_tomorrow"}], "unreadable"),
        ([TEXTS, {"type": ["text"]}], "unreadable"),
    ],
    ids=str,
)
def test_blocks_of_a_message_are_kept_or_not(blocks: list[Json], reason: str | None) -> None:
    assert told(Surface.MESSAGES, message(content=blocks)) == reason
    events: list[Json] = []
    for index, block in enumerate(blocks):
        events.append({"type": "content_block_start", "index": index, "content_block": block})
        events.append({"type": "content_block_stop", "index": index})
    assert told(Surface.MESSAGES, stream(START, *events, STOPS, LAST), True) == reason


@pytest.mark.parametrize(
    ("delta", "reason"),
    [
        ({"type": "text_delta", "text": ""}, "empty"),
        ({"type": "thinking_delta", "thinking": "Hm."}, "empty"),
        ({"type": "citations_delta", "citation": CITES}, "hosted_tools"),
        ({"type": "citations_delta", "citation": {"type": "char_location"}}, "empty"),
        (None, "unreadable"),
    ],
    ids=str,
)
def test_deltas_of_a_message_are_kept_or_not(delta: Json | None, reason: str) -> None:
    assert told(Surface.MESSAGES, stream(START, BLOCK, DELTA | {"delta": delta}, END, STOPS, LAST), True) == reason


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (message(container=None), None),
        (message(container={"id": "container_1"}), "stateful"),
        (message(content=[]), "empty"),
        ({"type": "error", "error": {"type": "overloaded_error"}}, "error"),
        ({"type": "completion", "stop_reason": "end_turn"}, "unreadable"),
    ],
    ids=str,
)
def test_a_message_in_json_is_kept_or_not(answer: Json, reason: str | None) -> None:
    assert told(Surface.MESSAGES, answer) == reason


START, PING, BLOCK, DELTA, END, STOPS, LAST = message_events()
OTHER = {"type": "content_block_start", "index": 1, "content_block": {"type": "text", "text": ""}}


@pytest.mark.parametrize(
    ("events", "reason"),
    [
        ((START, BLOCK, DELTA, END, STOPS, LAST), None),
        ((PING, START, BLOCK, DELTA, END, {"type": "new_tomorrow"}, STOPS, LAST), None),
        ((START, STOPS, LAST), "empty"),
        ((BLOCK, START, DELTA, END, STOPS, LAST), "unreadable"),
        ((START, START, BLOCK, DELTA, END, STOPS, LAST), "unreadable"),
        ((START, DELTA, END, STOPS, LAST), "unreadable"),
        ((START, BLOCK, BLOCK, END, STOPS, LAST), "unreadable"),
        ((START, BLOCK, END, DELTA, STOPS, LAST), "unreadable"),
        ((START, BLOCK, END, END, STOPS, LAST), "unreadable"),
        ((START, BLOCK, END, BLOCK, END, STOPS, LAST), "unreadable"),
        ((START, BLOCK, OTHER, END, STOPS, LAST), "incomplete"),
        ((START, BLOCK, DELTA, END, LAST), "incomplete"),
        ((START, BLOCK, DELTA, END, STOPS), "incomplete"),
        ((START, BLOCK, DELTA, END, STOPS, LAST, PING), "unreadable"),
        ((START, BLOCK, DELTA, END, STOPS, LAST, LAST), "unreadable"),
        ((START, BLOCK, DELTA, END, STOPS, LAST, b"[DONE]"), "unreadable"),
        ((START, BLOCK, {"type": "error", "error": {"type": "overloaded_error"}}), "error"),
        ((START, BLOCK, DELTA, END, {"type": "message_delta"}, LAST), "unreadable"),
        ((START, *(one | {"index": "0"} for one in (BLOCK, DELTA, END)), STOPS, LAST), "unreadable"),
        (
            (START, BLOCK, END, {"type": "message_delta", "delta": {"container": {"id": "c"}}}, STOPS, LAST),
            "stateful",
        ),
        (
            ({"type": "message_start", "message": {"container": {"id": "c"}}}, BLOCK, DELTA, END, STOPS, LAST),
            "stateful",
        ),
        ((START, BLOCK, END, STOPS, LAST), "empty"),
        ((START, {"type": "content_block_start", "index": 0}, DELTA, END, STOPS, LAST), "unreadable"),
        ((LAST,), "unreadable"),
        ((), "incomplete"),
    ],
    ids=str,
)
def test_a_message_in_events_is_kept_or_not(events: tuple[Json | bytes, ...], reason: str | None) -> None:
    assert told(Surface.MESSAGES, stream(*events), True) == reason


# ---- Responses --------------------------------------------------------------------------------------------------


def item(**more: Any) -> Json:
    part = {"type": "output_text", "text": "Hi", "annotations": []}
    return {"type": "message", "status": "completed", "role": "assistant", "content": [part], **more}


def response(*items: Json, **more: Any) -> Json:
    told_ = {"status": "completed", "error": None, "incomplete_details": None, "output": list(items)}
    return {"id": "resp_1", "object": "response", **told_, **more}


@pytest.mark.parametrize(
    ("answer", "last", "reason"),
    [
        (response(item()), "completed", None),
        (response({"type": "reasoning", "summary": []}, item(status=None)), "completed", None),
        (response({"type": "function_call", "status": "completed", "arguments": "{}"}), "completed", None),
        (response({"type": "reasoning", "summary": []}), "completed", "empty"),
        (response(), "completed", "empty"),
        (response(item(content=[{"type": "output_text", "text": ""}])), "completed", "empty"),
        (response({"type": "custom_tool_call", "input": "a = ("}), "completed", None),
        (response(item(), store=False, background=False, conversation=None), "completed", None),
        (response(item(), store=True), "completed", "stateful"),
        (response(item(), background=True), "completed", "stateful"),
        (response(item(), conversation={"id": "conv_1"}), "completed", "stateful"),
        (response(item(), previous_response_id="resp_0"), "completed", "stateful"),
        (response({"type": "web_search_call", "status": "completed"}, item()), "completed", "hosted_tools"),
        (response({"type": "code_interpreter_call", "status": "completed"}, item()), "completed", "hosted_tools"),
        (response({"type": "mcp_list_tools"}, item()), "completed", "hosted_tools"),
        (response({"type": "shell_call_output"}, item()), "completed", "hosted_tools"),
        (response({"type": "new_tomorrow"}, item()), "completed", "unreadable"),
        (response({"type": "new_tomorrow"}), "completed", "unreadable"),
        (response({"type": ["message"]}), "completed", "unreadable"),
        (
            response(item(content=[{"type": "output_text", "text": "Hi", "annotations": [{"type": "url_citation"}]}])),
            "completed",
            "hosted_tools",
        ),
        (response(item(content=[])), "completed", "empty"),
        (response(item(content=[{"type": "refusal", "refusal": "No."}])), "completed", "refused"),
        (response(item(status="incomplete")), "completed", "incomplete"),
        (response(item(), {"type": "reasoning", "encrypted_content": "gAAA"}), "completed", "stateful"),
        (response(item(), status="in_progress"), "completed", "incomplete"),
        (response(item(), status="queued"), "completed", "incomplete"),
        (response(item(), status="cancelled"), "completed", "incomplete"),
        (response(item(), status="new_tomorrow"), "completed", "unknown_end"),
        (response(item(), status=None), "completed", "incomplete"),
        (response(item(), status="incomplete"), "incomplete", "incomplete"),
        (
            response(item(), status="incomplete", incomplete_details={"reason": "max_output_tokens"}),
            "incomplete",
            "cut",
        ),
        (response(item(), incomplete_details={"reason": "content_filter"}), "incomplete", "filtered"),
        (response(item(), incomplete_details={}), "completed", "incomplete"),
        (response(item(), status="failed"), "failed", "error"),
        (response(item(), error={"code": "server_error"}), "completed", "error"),
    ],
    ids=str,
)
def test_a_response_is_kept_or_not(answer: Json, last: str, reason: str | None) -> None:
    begun = {"type": "response.created", "response": response(status="in_progress")}
    events = stream(begun, {"type": f"response.{last}", "response": answer})
    assert told(Surface.RESPONSES, answer) == reason
    assert told(Surface.RESPONSES, events, True) == reason
    assert told(Surface.RESPONSES, events + stream({"type": "response.output_text.delta"}), True) is not None


def test_a_response_ends_with_all_of_it() -> None:
    whole = {"type": "response.completed", "response": response(item())}
    assert (
        told(Surface.RESPONSES, stream({"type": "response.created", "response": response(item())}), True)
        == "incomplete"
    )
    assert told(Surface.RESPONSES, stream({"type": "response.completed"}), True) == "unreadable"
    assert told(Surface.RESPONSES, stream(whole, whole), True) == "unreadable"
    assert told(Surface.RESPONSES, stream({"type": "error", "code": "server_error"}, whole), True) == "error"
    assert told(Surface.RESPONSES, stream(), True) == "incomplete"


# ---- embeddings ---------------------------------------------------------------------------------------------------


def embeddings(*indices: Any, given_: Any = (0.5,)) -> Json:
    return {"object": "list", "data": [{"index": index, "embedding": given_} for index in indices]}


@pytest.mark.parametrize(
    ("answer", "results", "reason"),
    [
        (embeddings(0), 1, None),
        (embeddings(0, 1, 2), 3, None),
        (embeddings(2, 0, 1), 3, None),
        (embeddings(0, given_="AAAA"), 1, None),
        (embeddings(0, 1), 3, "incomplete"),
        (embeddings(0, 1), 1, "incomplete"),
        (embeddings(0, 0), 2, "incomplete"),
        (embeddings(1, 2), 2, "incomplete"),
        (embeddings(), 1, "incomplete"),
        (embeddings("0"), 1, "unreadable"),
        (embeddings(0, given_=[]), 1, "empty"),
        (embeddings(0, given_=None), 1, "empty"),
        ({"data": "x"}, 1, "incomplete"),
        ({"data": [None]}, 1, "incomplete"),
        ({"error": {"message": "no"}}, 1, "error"),
    ],
    ids=str,
)
def test_every_input_has_its_embedding(answer: Json, results: int, reason: str | None) -> None:
    assert told(Surface.EMBEDDINGS, answer, results=results) == reason


def test_embeddings_do_not_stream() -> None:
    assert told(Surface.EMBEDDINGS, stream(embeddings(0)), True) == "unreadable"


# ---- what the gateway itself makes of an answer -------------------------------------------------------------------

USAGE = Usage(input=1, output=1)


@pytest.mark.parametrize("reason", Reason)
@pytest.mark.parametrize(
    ("surface", "ending", "events"),
    [
        (Surface.CHAT, ChatEnding, [HI]),
        (Surface.COMPLETIONS, ChatEnding, [{"choices": [{"index": 0, "text": "Hi", "finish_reason": None}]}]),
        (Surface.MESSAGES, AnthropicEnding, [START, BLOCK, DELTA]),
        (
            Surface.RESPONSES,
            ResponsesEnding,
            [
                {"type": "response.created", "response": response(status="in_progress")},
                {"type": "response.output_item.added", "output_index": 0, "item": item(status="in_progress")},
            ],
        ),
    ],
)
def test_a_stream_that_the_gateway_ended_is_not_kept(
    surface: Surface, ending: type[Ending], events: list[Json], reason: Reason
) -> None:
    follower = ending()
    for event in events:
        follower.follow(event)
    body = stream(*events) + follower.close(USAGE, True, None, reason)
    wanted = "cut" if reason is Reason.LENGTH else "refused" if surface is Surface.MESSAGES else "filtered"
    assert told(surface, body, True) == wanted


@pytest.mark.parametrize(
    ("surface", "answer"),
    [
        (Surface.CHAT, chat(choice())),
        (Surface.COMPLETIONS, {"choices": [{"index": 0, "text": "a", "finish_reason": "stop"}]}),
        (Surface.MESSAGES, message()),
        (Surface.RESPONSES, response(item())),
        (Surface.EMBEDDINGS, embeddings(0)),
    ],
)
def test_an_answer_of_which_nothing_may_be_said_is_not_kept(surface: Surface, answer: Json) -> None:
    assert told(surface, answer) is None
    assert told(surface, document(orjson.dumps(answer))) is not None


@pytest.mark.parametrize("face", Face)
@pytest.mark.parametrize("surface", sorted(SURFACES))
def test_a_refusal_of_the_gateways_is_not_kept(surface: Surface, face: Face) -> None:
    refusal = Refusal(GATEWAY_ERROR, "no")
    assert told(surface, encode(refusal, face, "r")[0]) == "error"
    if surface is not Surface.EMBEDDINGS:
        assert told(surface, stream_error(refusal, face, "r"), True) == "error"
