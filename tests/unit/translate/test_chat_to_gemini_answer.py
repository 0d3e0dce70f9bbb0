"""Gemini's answers and streams as chat completions."""

from itertools import pairwise
from typing import Any

import httpx2
import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from openai import APIError, ContentFilterFinishReasonError, OpenAI
from openai.lib.streaming.chat import ChatCompletionStreamState
from openai.types.chat import ChatCompletion, ChatCompletionChunk

from extproc.dialects import sse
from extproc.dialects.meters import ChatMeter
from extproc.dialects.translate.chat_to_gemini import CHAT_TO_GEMINI
from extproc.dialects.translate.direction import Asked
from extproc.model import UsageSource
from tests.unit.translate.gemini_talk import NEW, Object, call, result, sent, user

ASKED = Asked(request={}, model=NEW, began=1_700_000_000)
USAGE = {
    "promptTokenCount": 100,
    "cachedContentTokenCount": 60,
    "candidatesTokenCount": 7,
    "thoughtsTokenCount": 20,
    "toolUsePromptTokenCount": 3,
    "totalTokenCount": 130,
    "promptTokensDetails": [{"modality": "TEXT", "tokenCount": 90}, {"modality": "AUDIO", "tokenCount": 10}],
}
CHAT_USAGE = {
    "prompt_tokens": 103,
    "completion_tokens": 27,
    "total_tokens": 130,
    "prompt_tokens_details": {"cached_tokens": 60, "audio_tokens": 10},
    "completion_tokens_details": {"reasoning_tokens": 20},
}
UNREADABLE = "The backend's answer could not be read."
HEAD = {"responseId": "r1", "modelVersion": "gemini-3-flash-001"}
TALK: list[Object] = [
    {"text": "Let me see. ", "thought": True},
    {"text": "Paris "},
    {"text": "and Rome.", "thoughtSignature": "c2ln"},
    {"functionCall": {"id": "f1", "name": "weather", "args": {"city": "Paris"}}, "thoughtSignature": "c2lnMg=="},
    {"functionCall": {"name": "weather", "args": {"city": "Rome"}}},
    {"functionCall": {"name": "now"}},
]


def answer(*parts: Object, reason: str | None = "STOP", **more: Any) -> Object:
    candidate = {"content": {"role": "model", "parts": list(parts)}, "index": 0, "finishReason": reason}
    return {"candidates": [candidate], "usageMetadata": USAGE, **HEAD, **more}


def document(said: object) -> Object:
    body: Object = orjson.loads(CHAT_TO_GEMINI.answer(ASKED).document(orjson.dumps(said)))
    return body


def events(*said: object) -> bytes:
    return b"".join(b"data: " + orjson.dumps(one) + b"\r\n\r\n" for one in said)


def streamed(body: bytes, cuts: tuple[int, ...] = ()) -> bytes:
    """The whole stream that the client gets of one that comes in these pieces."""
    translation, reader = CHAT_TO_GEMINI.answer(ASKED), sse.EventReader()
    out = b""
    for start, end in pairwise((0, *cuts, len(body))):
        out += b"".join(map(translation.event, reader.feed(body[start:end])))
    return out + translation.end()


def chunks(stream: bytes) -> list[Object]:
    datas = [sse.data(event) for event in sse.EventReader().feed(stream)]
    return [orjson.loads(data) for data in datas if data != b"[DONE]"]


def accumulated(stream: bytes) -> ChatCompletion:
    """The stream as the SDK reads it off the wire and puts it together."""
    headers = {"content-type": "text/event-stream"}
    transport = httpx2.MockTransport(lambda _: httpx2.Response(200, content=stream, headers=headers))
    state = ChatCompletionStreamState()
    with OpenAI(api_key="-", base_url="http://test", http_client=httpx2.Client(transport=transport)) as client:
        for chunk in client.chat.completions.create(model="m", messages=[], stream=True):
            ChatCompletionChunk.model_validate(chunk.model_dump())
            state.handle_chunk(chunk)
    return state.get_final_completion()


def one_by_one(*parts: Object) -> list[Object]:
    """An answer as a stream with a part in each event."""
    *first, last = parts
    usage = {"promptTokenCount": 100, "totalTokenCount": 100}
    return [*(answer(part, reason=None, usageMetadata=usage) for part in first), answer(last)]


def test_a_whole_answer() -> None:
    completion = document(answer(*TALK))
    ChatCompletion.model_validate(completion)
    (choice,) = completion["choices"]
    assert (completion["id"], completion["model"], completion["created"]) == ("r1", "gemini-3-flash-001", 1_700_000_000)
    assert completion["usage"] == CHAT_USAGE
    assert choice["finish_reason"] == "tool_calls"
    assert choice["message"] == {
        "role": "assistant",
        "content": "Paris and Rome.",
        "refusal": None,
        "reasoning_content": "Let me see. ",
        "extra_content": {"google": {"thought_signature": "c2ln"}},
        "tool_calls": [
            call("f1", "weather", '{"city":"Paris"}', extra_content={"google": {"thought_signature": "c2lnMg=="}}),
            call("call_r1_0_1", "weather", '{"city":"Rome"}'),
            call("call_r1_0_2", "now", "{}"),
        ],
    }


def _plain(completion: ChatCompletion) -> Object:
    """What both ways of answering must agree on."""
    said = completion.model_dump(exclude_none=True)
    for choice in said["choices"]:
        for tool in choice["message"].get("tool_calls", []):
            tool.pop("index", None)
            tool["function"].pop("parsed_arguments", None)
        choice["message"].setdefault("content", None)
    return {name: said.get(name) for name in ("id", "model", "created", "choices", "usage")}


def test_a_stream_says_what_a_whole_answer_says() -> None:
    whole = ChatCompletion.model_validate(document(answer(*TALK)))
    assert _plain(accumulated(streamed(events(*one_by_one(*TALK))))) == _plain(whole)
    assert _plain(accumulated(streamed(events(answer(*TALK))))) == _plain(whole)


def test_a_stream_is_the_same_wherever_it_is_cut() -> None:
    body = events(*one_by_one(*TALK))
    whole = streamed(body)
    assert whole.endswith(b"data: [DONE]\n\n")
    assert all(streamed(body, (cut,)) == whole for cut in range(1, len(body)))
    assert streamed(body, tuple(range(1, len(body)))) == whole


def test_every_event_is_passed_on_at_once() -> None:
    translation = CHAT_TO_GEMINI.answer(ASKED)
    first = chunks(translation.event(events(answer({"text": "A"}, reason=None))))
    second = chunks(translation.event(events(answer({"text": "B"}, reason=None))))
    assert [chunk["choices"][0]["delta"] for chunk in first] == [{"role": "assistant", "content": "A"}]
    assert [chunk["choices"][0]["delta"] for chunk in second] == [{"content": "B"}]


def test_a_model_that_stops_in_every_event_stops_once() -> None:
    stream = streamed(events(answer({"text": "A"}), answer({"text": "B"})))
    said = [(choice["delta"], choice["finish_reason"]) for chunk in chunks(stream) for choice in chunk["choices"]]
    assert said == [({"role": "assistant", "content": "A"}, None), ({"content": "B"}, None), ({}, "stop")]


def test_candidates_are_told_apart() -> None:
    def both(first: str, second: str, reason: str | None) -> Object:
        texts = enumerate((first, second))
        said = [{"index": at, "content": {"parts": [{"text": text}]}, "finishReason": reason} for at, text in texts]
        return {**HEAD, "candidates": said, "usageMetadata": USAGE}

    completion = accumulated(streamed(events(both("a", "1", None), both("b", "2", "STOP"))))
    assert [choice.message.content for choice in completion.choices] == ["ab", "12"]
    assert _plain(completion) == _plain(ChatCompletion.model_validate(document(both("ab", "12", "STOP"))))
    only_one_done = events(both("a", "1", None), answer({"text": "b"}))
    assert b"[DONE]" not in streamed(only_one_done)


def test_usage_reaches_the_meter() -> None:
    streaming, whole = ChatMeter(hide_usage=True), ChatMeter()
    hidden = [streaming.event(event) for event in sse.EventReader().feed(streamed(events(*one_by_one(*TALK))))]
    whole.answer(document(answer(*TALK)))
    assert streaming.finished
    assert hidden.count(True) == 1
    for meter in (streaming, whole):
        usage = meter.total(0)
        assert (usage.input, usage.cached_input, usage.output, usage.reasoning) == (103, 60, 27, 20)
        assert (usage.audio_input, usage.other_input, usage.other_output) == (10, 0, 0)
        assert usage.source is UsageSource.REPORTED


def test_an_answer_without_usage_says_none() -> None:
    said = answer({"text": "A"})
    del said["usageMetadata"]
    assert "usage" not in document(said)
    assert not any("usage" in chunk for chunk in chunks(streamed(events(said))))
    meter = ChatMeter()
    meter.answer(document(said))
    assert meter.total(11).source is UsageSource.ESTIMATED


@pytest.mark.parametrize(
    ("reason", "told"),
    [
        ("STOP", {"finish_reason": "stop"}),
        ("MAX_TOKENS", {"finish_reason": "length"}),
        *(
            (reason, {"finish_reason": "content_filter", "native_finish_reason": reason})
            for reason in ("SAFETY", "RECITATION", "PROHIBITED_CONTENT", "MALFORMED_FUNCTION_CALL", "SOMETHING_NEW")
        ),
    ],
)
def test_why_it_stopped(reason: str, told: Object) -> None:
    (choice,) = document(answer({"text": "A"}, reason=reason))["choices"]
    assert {name: choice[name] for name in choice if "finish" in name} == told
    *_, last, _usage = chunks(streamed(events(answer({"text": "A"}, reason=reason))))
    assert {name: last["choices"][0][name] for name in choice if "finish" in name} == told


def test_a_prompt_that_is_blocked() -> None:
    blocked = {**HEAD, "promptFeedback": {"blockReason": "SAFETY"}, "usageMetadata": {"promptTokenCount": 5}}
    (choice,) = document(blocked)["choices"]
    assert choice["finish_reason"] == "content_filter"
    assert choice["message"]["content"] == ""
    stream = streamed(events(blocked))
    finish, usage = chunks(stream)
    assert finish["choices"][0]["finish_reason"] == "content_filter"
    assert usage["usage"]["prompt_tokens"] == 5
    with pytest.raises(ContentFilterFinishReasonError):
        accumulated(stream)


def test_all_thoughts_and_no_text() -> None:
    candidate = {"index": 0, "finishReason": "MAX_TOKENS", "content": {"role": "model"}}
    (choice,) = document({**HEAD, "candidates": [candidate]})["choices"]
    assert choice == {
        "index": 0,
        "message": {"role": "assistant", "content": "", "refusal": None},
        "logprobs": None,
        "finish_reason": "length",
    }


def test_logprobs() -> None:
    result = {
        "chosenCandidates": [{"token": "é", "tokenId": 7, "logProbability": -0.5}, {"token": "!"}],
        "topCandidates": [{"candidates": [{"token": "e", "logProbability": -1}]}],
    }
    said = answer({"text": "é!"})
    said["candidates"][0]["logprobsResult"] = result
    completion = ChatCompletion.model_validate(document(said))
    logprobs = completion.choices[0].logprobs
    assert logprobs is not None
    assert logprobs.content is not None
    first, second = logprobs.content
    assert (first.token, first.logprob, first.bytes) == ("é", -0.5, [195, 169])
    assert [(top.token, top.logprob) for top in first.top_logprobs] == [("e", -1)]
    assert (second.token, second.logprob, second.top_logprobs) == ("!", 0, [])
    (chunk, *_) = chunks(streamed(events(said)))
    assert chunk["choices"][0]["logprobs"]["content"][0]["token"] == "é"


def test_logprobs_without_a_part_have_their_own_chunk() -> None:
    silent = answer(reason="STOP")
    silent["candidates"][0]["logprobsResult"] = {"chosenCandidates": [{"token": "a", "logProbability": 0}]}
    (chunk, *_) = chunks(streamed(events(silent)))
    assert chunk["choices"][0]["delta"] == {"role": "assistant"}
    assert len(chunk["choices"][0]["logprobs"]["content"]) == 1


def test_images_come_and_go_back() -> None:
    images: list[Object] = [{"inlineData": {"mimeType": "image/png", "data": data}} for data in ("QQ==", "Qg==")]
    parts: list[Object] = [{"text": "Here:"}, *images]
    (choice,) = document(answer(*parts))["choices"]
    urls = [f"data:image/png;base64,{data}" for data in ("QQ==", "Qg==")]
    assert choice["message"]["images"] == [{"type": "image_url", "image_url": {"url": url}} for url in urls]
    streaming = accumulated(streamed(events(*one_by_one(*parts)))).choices[0].message.model_dump(exclude_none=True)
    for message in (choice["message"], streaming):
        assert sent(user("Draw."), message, user("Bigger."))["contents"][1]["parts"] == parts


def test_unknown_parts_are_left_out() -> None:
    parts = ({"executableCode": {"code": "1"}}, {"text": 1}, {"inlineData": {"mimeType": "audio/wav", "data": "QQ=="}})
    (choice,) = document(answer(*parts, {"text": "A"}))["choices"]
    assert choice["message"] == {"role": "assistant", "content": "A", "refusal": None}


def test_signatures_survive_a_round() -> None:
    """What the model needs back of its thoughts comes back through a client that knows only the SDK's models."""
    for completion in (
        ChatCompletion.model_validate(document(answer(*TALK))),
        accumulated(streamed(events(*one_by_one(*TALK)))),
    ):
        message = completion.choices[0].message.model_dump(exclude_none=True)
        for tool in message["tool_calls"]:
            tool["function"].pop("parsed_arguments", None)
        message.pop("parsed", None)
        results = [result(tool["id"], "?") for tool in message["tool_calls"]]
        body = sent(user("Weather?"), message, *results)
        (_, said, _) = body["contents"]
        assert said["parts"] == [
            {"text": "Paris and Rome.", "thoughtSignature": "c2ln"},
            {
                "functionCall": {"id": "f1", "name": "weather", "args": {"city": "Paris"}},
                "thoughtSignature": "c2lnMg==",
            },
            {"functionCall": {"id": "call_r1_0_1", "name": "weather", "args": {"city": "Rome"}}},
            {"functionCall": {"id": "call_r1_0_2", "name": "now", "args": {}}},
        ]


def test_an_answer_without_an_id_has_calls_with_their_own() -> None:
    said = answer({"functionCall": {"name": "f"}})
    del said["responseId"], said["modelVersion"]
    first, again = document(said), chunks(streamed(events(said)))[0]
    assert (first["id"], first["model"]) == (f"{NEW}-1700000000", NEW)
    assert first["choices"][0]["message"]["tool_calls"][0]["id"] == f"call_{NEW}-1700000000_0_0"
    assert (again["id"], again["model"]) == (first["id"], NEW)


def test_of_several_signatures_of_a_text_the_last_comes_back() -> None:
    parts = [{"text": "A", "thoughtSignature": "Zmlyc3Q="}, {"text": "B", "thoughtSignature": "bGFzdA=="}]
    whole = ChatCompletion.model_validate(document(answer(*parts)))
    for completion in (whole, accumulated(streamed(events(*one_by_one(*parts))))):
        message = completion.choices[0].message.model_dump(exclude_none=True)
        assert sent(user("?"), message)["contents"][1]["parts"] == [{"text": "AB", "thoughtSignature": "bGFzdA=="}]


def test_a_signature_without_a_text_keeps_its_part() -> None:
    (choice,) = document(answer({"text": "", "thoughtSignature": "c2ln"}))["choices"]
    body = sent(user("?"), choice["message"])
    assert body["contents"][1]["parts"] == [{"text": "", "thoughtSignature": "c2ln"}]


# ---- errors -----------------------------------------------------------------------------------------


def failure(code: int, status: str, message: str = "No.", **more: Any) -> Object:
    return {"error": {"code": code, "message": message, "status": status, **more}}


BAD_KEY = [{"@type": "type.googleapis.com/google.rpc.ErrorInfo", "reason": "API_KEY_INVALID"}]


@pytest.mark.parametrize(
    ("status", "body", "kind", "code"),
    [
        (400, failure(400, "INVALID_ARGUMENT"), "invalid_request_error", "invalid_value"),
        (404, failure(404, "NOT_FOUND"), "invalid_request_error", "model_not_found"),
        (429, [failure(429, "RESOURCE_EXHAUSTED")], "rate_limit_error", "rate_limit_exceeded"),
        (429, {"error": {"message": "No."}}, "rate_limit_error", "rate_limit_exceeded"),
        (503, failure(503, "UNAVAILABLE"), "api_error", "unavailable"),
        (
            400,
            failure(
                400, "INVALID_ARGUMENT", "The input token count (9) exceeds the maximum number of tokens allowed (8)."
            ),
            "invalid_request_error",
            "context_length_exceeded",
        ),
    ],
)
def test_errors_are_told_as_openai_does(status: int, body: object, kind: str, code: str) -> None:
    told = orjson.loads(CHAT_TO_GEMINI.answer(ASKED).error(status, orjson.dumps(body)))["error"]
    first = body[0] if isinstance(body, list) else body
    assert told == {"message": first["error"]["message"], "type": kind, "param": None, "code": code}  # type: ignore[index]


@pytest.mark.parametrize(
    ("status", "body"),
    [
        (401, failure(401, "UNAUTHENTICATED", "Key AIzaSecret is wrong.")),
        (403, failure(403, "PERMISSION_DENIED", "Consumer 'api_key:AIzaSecret' has been suspended.")),
        (400, failure(400, "INVALID_ARGUMENT", "AIzaSecret is not valid.", details=BAD_KEY)),
    ],
)
def test_nothing_is_told_of_the_gateway_s_key(status: int, body: Object) -> None:
    told = CHAT_TO_GEMINI.answer(ASKED).error(status, orjson.dumps(body))
    assert b"AIza" not in told
    assert orjson.loads(told)["error"]["code"] == "upstream_credentials_refused"


@pytest.mark.parametrize(
    "body", [b"", b"<html>", b"[]", b"[1]", b"{}", b'{"error":"down"}', b'{"error":{"details":1}}']
)
def test_an_error_that_says_nothing(body: bytes) -> None:
    told = orjson.loads(CHAT_TO_GEMINI.answer(ASKED).error(502, body))["error"]
    assert told == {
        "message": "The backend answered with status 502.",
        "type": "api_error",
        "param": None,
        "code": None,
    }


def test_an_error_inside_a_stream_ends_it() -> None:
    body = events(answer({"text": "A"}, reason=None), failure(503, "UNAVAILABLE", "Overloaded."), answer({"text": "B"}))
    stream = streamed(body)
    assert b'"B"' not in stream
    assert b"[DONE]" not in stream
    with pytest.raises(APIError, match="Overloaded"):
        accumulated(stream)


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b"1", b"{}", b'{"candidates":[]}', b'{"candidates":[1]}'])
def test_an_answer_that_is_none_is_an_error(body: bytes) -> None:
    told = orjson.loads(CHAT_TO_GEMINI.answer(ASKED).document(body))
    assert told["error"]["message"] == UNREADABLE


def test_an_error_with_status_200_stays_one() -> None:
    assert document(failure(500, "INTERNAL", "Oh."))["error"]["message"] == "Oh."


def test_a_stream_that_breaks_off_is_not_completed() -> None:
    whole = events(*one_by_one(*TALK))
    last = whole.rstrip().rindex(b"data: ")
    broken = streamed(whole[:last])
    assert broken
    assert b"[DONE]" not in broken
    assert not any(choice["finish_reason"] for chunk in chunks(broken) for choice in chunk["choices"])
    assert streamed(b"") == b""


def _deep(depth: int) -> bytes:
    args = b'{"a":' * depth + b"1" + b"}" * depth
    return b'{"candidates":[{"content":{"parts":[{"functionCall":{"name":"f","args":' + args + b"}}]}}]}"


@pytest.mark.parametrize("depth", [300, 2000])
def test_what_is_nested_too_deep_is_an_error(depth: int) -> None:
    body = _deep(depth)
    translation = CHAT_TO_GEMINI.answer(ASKED)
    assert UNREADABLE.encode() in translation.document(body)
    stream = streamed(b"data: " + body + b"\n\n")
    assert (UNREADABLE.encode() in stream) == (depth == 300)  # an event that cannot even be parsed says nothing


# ---- whatever comes ---------------------------------------------------------------------------------

_SCALARS = (
    st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.floats(allow_nan=False) | st.text(max_size=9)
)
_VALUES = st.recursive(
    _SCALARS | st.sampled_from(["STOP", "SAFETY", "AUDIO", "image/png"]),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(
                [
                    *(
                        "candidates",
                        "content",
                        "parts",
                        "text",
                        "functionCall",
                        "name",
                        "args",
                        "id",
                        "index",
                        "thought",
                    ),
                    *("finishReason", "usageMetadata", "promptTokenCount", "promptTokensDetails", "modality", "token"),
                    *("inlineData", "mimeType", "data", "thoughtSignature", "promptFeedback", "blockReason", "error"),
                    *("logprobsResult", "chosenCandidates", "topCandidates", "responseId", "modelVersion", "message"),
                    *("tokenCount", "details", "status", "code", "reason", "logProbability"),
                ]
            ),
            inner,
            max_size=4,
        )
    ),
    max_leaves=20,
)
_CANDIDATES = st.fixed_dictionaries(
    {},
    optional={
        "content": st.fixed_dictionaries({"parts": st.lists(_VALUES, max_size=3)}),
        **dict.fromkeys(("finishReason", "index", "logprobsResult"), _VALUES),
    },
)
_ANSWERS = st.fixed_dictionaries(
    {},
    optional={
        "candidates": st.lists(_CANDIDATES, max_size=3),
        **dict.fromkeys(("usageMetadata", "promptFeedback", "error"), _VALUES),
    },
)


@settings(max_examples=80, deadline=None)
@given(st.lists(_VALUES | _ANSWERS, max_size=3))
def test_no_answer_is_too_strange(said: list[object]) -> None:
    translation = CHAT_TO_GEMINI.answer(ASKED)
    for one in said:
        told = orjson.loads(document_bytes(one))
        assert ("error" in told) != ("choices" in told)
        orjson.loads(CHAT_TO_GEMINI.answer(ASKED).error(500, orjson.dumps(one)))
        chunks(translation.event(events(one)))
    chunks(translation.end())


def document_bytes(said: object) -> bytes:
    return CHAT_TO_GEMINI.answer(ASKED).document(orjson.dumps(said))


_PIECES = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=5)
_PARTS = st.one_of(
    st.builds(lambda text: {"text": text}, _PIECES),
    st.builds(lambda text: {"text": text, "thought": True}, _PIECES),
    st.builds(lambda name, at: {"functionCall": {"name": name, "args": {"at": at}}}, _PIECES, st.integers(0, 9)),
)


@settings(max_examples=30, deadline=None)
@given(st.lists(_PARTS, min_size=1, max_size=6), st.data())
def test_any_stream_says_what_its_whole_answer_says(parts: list[Object], data: st.DataObject) -> None:
    body = events(*one_by_one(*parts))
    cuts = tuple(sorted(data.draw(st.sets(st.integers(1, len(body) - 1), max_size=5))))
    whole = ChatCompletion.model_validate(document(answer(*parts)))
    stream = streamed(body, cuts)
    state = ChatCompletionStreamState()
    for chunk in chunks(stream):
        state.handle_chunk(ChatCompletionChunk.model_validate(chunk))
    assert _plain(state.get_final_completion())["usage"] == _plain(whole)["usage"]
    streamed_choice, whole_choice = state.get_final_completion().choices[0], whole.choices[0]
    assert (streamed_choice.message.content or "") == (whole_choice.message.content or "")
    assert streamed_choice.finish_reason == whole_choice.finish_reason
    told = [(call.id, call.function) for call in whole_choice.message.tool_calls or [] if call.type == "function"]
    assert [
        (call.id, (call.function.name, call.function.arguments)) for call in streamed_choice.message.tool_calls or []
    ] == [(identity, (function.name, function.arguments)) for identity, function in told]
