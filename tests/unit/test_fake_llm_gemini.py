"""The fake's Gemini surface, in the shapes of Google's REST reference."""

from collections.abc import Iterator
from typing import Any

import httpx
import orjson
import pytest

from loadtest.fake_llm import tokenizer
from tests.support.fake import FakeProvider

Json = dict[str, Any]
ASKED = "Is it late?"
CONTENTS: list[Json] = [{"role": "user", "parts": [{"text": ASKED}]}]
CLOCK: Json = {
    "name": "clock",
    "parametersJsonSchema": {"type": "object", "properties": {"zone": {"type": "string"}}, "required": ["zone"]},
}
TOOLS: list[Json] = [{"functionDeclarations": [CLOCK, {"name": "calendar"}]}, {"googleSearch": {}}]
SIGNATURE = {"thoughtSignature": "ZmFrZSBzaWduYXR1cmU="}
NEW, OLD = "gemini-3-flash", "gemini-2.5-flash"


@pytest.fixture(scope="module")
def fake() -> Iterator[FakeProvider]:
    with FakeProvider() as provider:
        yield provider


def post(
    fake: FakeProvider, body: Json, operation: str = "generateContent", model: str = NEW, **faults: Any
) -> httpx.Response:
    headers = {"x-fake": orjson.dumps(faults).decode()} if faults else {}
    url = f"{fake.url()}/v1beta/models/{model}:{operation}"
    return httpx.post(url, json=body, headers=headers, trust_env=False)


def whole(fake: FakeProvider, body: Json, **more: Any) -> Json:
    answer = post(fake, body, **more)
    assert answer.status_code == 200, answer.text
    assert answer.headers["content-type"] == "application/json; charset=UTF-8"
    said: Json = answer.json()
    return said


def stream(fake: FakeProvider, body: Json, **more: Any) -> list[Json]:
    answer = post(fake, body, "streamGenerateContent?alt=sse", **more)
    assert answer.headers["content-type"].startswith("text/event-stream")
    *events, rest = answer.text.split("\r\n\r\n")
    assert rest == "", "no event ends a stream"
    assert "\n" not in "".join(events)
    return [orjson.loads(event.removeprefix("data: ")) for event in events]


def parts_of(answers: list[Json], at: int = 0) -> list[Json]:
    """What a candidate says in a whole answer or in all events of a stream."""
    candidates = [one for answer in answers for one in answer.get("candidates", ()) if one["index"] == at]
    assert all(one["content"]["role"] == "model" for one in candidates)
    return [part for one in candidates for part in one["content"]["parts"]]


def text_of(answers: list[Json], at: int = 0) -> str:
    return "".join(part.get("text", "") for part in parts_of(answers, at) if not part.get("thought"))


def test_an_answer_and_its_stream_say_the_same(fake: FakeProvider) -> None:
    body = {"contents": CONTENTS, "systemInstruction": {"parts": [{"text": "Be kind."}]}}
    answer, events = whole(fake, body), stream(fake, body)
    assert text_of([answer]).startswith(f"You said: {ASKED}. the")
    assert text_of(events) == text_of([answer])
    read = tokenizer.count("Be kind.") + tokenizer.count(ASKED)
    for last in (answer, events[-1]):
        assert last["candidates"][0]["finishReason"] == "STOP"
        assert last["modelVersion"] == NEW
        assert parts_of([last])[-1]["thoughtSignature"] == SIGNATURE["thoughtSignature"]
        assert last["usageMetadata"] == {
            "promptTokenCount": read,
            "candidatesTokenCount": 16,
            "totalTokenCount": read + 16,
            "promptTokensDetails": [{"modality": "TEXT", "tokenCount": read}],
        }
    calls = fake.calls()[-2:]
    assert [(call["input_tokens"], call["output_tokens"]) for call in calls] == [(read, 16)] * 2
    assert [call["model"] for call in calls] == [NEW] * 2


def test_each_event_has_the_usage_so_far_and_the_same_id(fake: FakeProvider) -> None:
    events = stream(fake, {"contents": CONTENTS}, events=3)
    assert [event["usageMetadata"]["candidatesTokenCount"] for event in events] == [1, 2, 3, 3]
    assert ["finishReason" in event["candidates"][0] for event in events] == [False, False, False, True]
    assert len({event["responseId"] for event in events}) == 1


def test_tools_in_json_and_in_a_stream(fake: FakeProvider) -> None:
    body = {"contents": CONTENTS, "tools": TOOLS}
    for answers in ([whole(fake, body)], stream(fake, body)):
        clock, calendar = (part for part in parts_of(answers) if "functionCall" in part)
        assert (clock["functionCall"]["name"], clock["functionCall"]["args"]) == ("clock", {"zone": "text"})
        assert (calendar["functionCall"]["name"], calendar["functionCall"]["args"]) == ("calendar", {})
        assert ("thoughtSignature" in clock, "thoughtSignature" in calendar) == (True, False)
        assert clock["functionCall"]["id"] != calendar["functionCall"]["id"]
        assert answers[-1]["candidates"][0]["finishReason"] == "STOP"
        assert answers[-1]["usageMetadata"]["candidatesTokenCount"] == fake.calls()[-1]["output_tokens"]
    older = parts_of([whole(fake, body, model=OLD)])
    assert [sorted(part) for part in older] == [["functionCall"]] * 2
    assert [sorted(part["functionCall"]) for part in older] == [["args", "name"]] * 2


@pytest.mark.parametrize(
    ("calling", "called"),
    [
        ({"mode": "NONE"}, []),
        ({"mode": "AUTO"}, ["clock", "calendar"]),
        ({"mode": "VALIDATED", "allowedFunctionNames": ["calendar"]}, ["calendar"]),
        ({"mode": "ANY", "allowedFunctionNames": ["clock"]}, ["clock"]),
    ],
)
def test_which_functions_are_called(fake: FakeProvider, calling: Json, called: list[str]) -> None:
    body = {"contents": CONTENTS, "tools": TOOLS, "toolConfig": {"functionCallingConfig": calling}}
    parts = parts_of([whole(fake, body)])
    assert [part["functionCall"]["name"] for part in parts if "functionCall" in part] == called


def history(*calls: Json, names: tuple[str, ...] = ("clock",)) -> Json:
    results = [{"functionResponse": {"name": name, "response": {"output": "noon"}}} for name in names]
    return {"contents": [*CONTENTS, {"role": "model", "parts": list(calls)}, {"role": "user", "parts": results}]}


def test_a_history_of_calls_must_be_signed_and_answered(fake: FakeProvider) -> None:
    call = {"functionCall": {"name": "clock", "args": {}}}
    signed = call | SIGNATURE
    assert whole(fake, history(signed) | {"tools": TOOLS})["candidates"][0]["content"]["parts"][0]["text"]
    assert whole(fake, history(call), model=OLD)
    for body, message in [
        (history(call), "missing a thought_signature"),
        (history(signed, call), "equal to the number of function call parts"),
        (history(signed, names=("calendar",)), "equal to the number of function call parts"),
        ({"contents": history(signed)["contents"][:2]}, "equal to the number of function call parts"),
    ]:
        answer = post(fake, body)
        assert (answer.status_code, answer.json()["error"]["status"]) == (400, "INVALID_ARGUMENT")
        assert message in answer.json()["error"]["message"]


@pytest.mark.parametrize("told", [False, True])
@pytest.mark.parametrize("thinking", [{"thinkingLevel": "low"}, {"thinkingBudget": 512}])
def test_thoughts_are_counted_apart_and_shown_where_asked_for(fake: FakeProvider, thinking: Json, told: bool) -> None:
    body = {
        "contents": CONTENTS,
        "generationConfig": {"thinkingConfig": thinking | ({"includeThoughts": True} if told else {})},
    }
    for answers in ([whole(fake, body)], stream(fake, body)):
        usage = answers[-1]["usageMetadata"]
        thoughts = [part["text"] for part in parts_of(answers) if part.get("thought")]
        assert bool(thoughts) is told
        assert not told or tokenizer.count("".join(thoughts)) == usage["thoughtsTokenCount"]
        assert usage["candidatesTokenCount"] == 16
        assert usage["thoughtsTokenCount"] + 16 == fake.calls()[-1]["output_tokens"]
        assert usage["totalTokenCount"] == usage["promptTokenCount"] + fake.calls()[-1]["output_tokens"]
    off = {"contents": CONTENTS, "generationConfig": {"thinkingConfig": {"thinkingBudget": 0}}}
    assert "thoughtsTokenCount" not in whole(fake, off)["usageMetadata"]


def test_candidates_caps_and_schemas(fake: FakeProvider) -> None:
    body = {"contents": CONTENTS, "generationConfig": {"candidateCount": 2, "maxOutputTokens": 3}}
    answer, events = whole(fake, body), stream(fake, body)
    assert [one["finishReason"] for one in answer["candidates"]] == ["MAX_TOKENS"] * 2
    for at in (0, 1):
        assert text_of(events, at) == text_of([answer], at)
        assert tokenizer.count(text_of(events, at)) == 3
    assert answer["usageMetadata"]["candidatesTokenCount"] == 6
    schema = CLOCK["parametersJsonSchema"]
    typed = {"responseMimeType": "application/json", "responseJsonSchema": schema}
    assert orjson.loads(text_of([whole(fake, {"contents": CONTENTS, "generationConfig": typed})])) == {"zone": "text"}
    plain = whole(fake, {"contents": CONTENTS, "generationConfig": {"responseMimeType": "application/json"}})
    assert isinstance(orjson.loads(text_of([plain])), dict)


def test_logprobs_of_each_token(fake: FakeProvider) -> None:
    config = {"responseLogprobs": True, "logprobs": 1, "maxOutputTokens": 2}
    body = {"contents": CONTENTS, "generationConfig": config}
    chosen = whole(fake, body)["candidates"][0]["logprobsResult"]
    assert [one["token"] for one in chosen["chosenCandidates"]] == ["You", " said"]
    assert [len(one["candidates"]) for one in chosen["topCandidates"]] == [1, 1]
    events = [event["candidates"][0] for event in stream(fake, body)]
    assert ["logprobsResult" in event for event in events] == [True, True, False]


def test_media_is_priced_by_kind(fake: FakeProvider) -> None:
    media = [
        {"inlineData": {"mimeType": "image/png", "data": "AAAA"}},
        {"fileData": {"mimeType": "application/pdf", "fileUri": "https://x.example/a.pdf"}},
    ]
    usage = whole(fake, {"contents": [{"parts": [{"text": ASKED}, *media]}]})["usageMetadata"]
    by_modality = {one["modality"]: one["tokenCount"] for one in usage["promptTokensDetails"]}
    assert by_modality == {"TEXT": tokenizer.count(ASKED), "IMAGE": 85, "DOCUMENT": 50}
    assert usage["promptTokenCount"] == sum(by_modality.values())


def test_faults_of_usage(fake: FakeProvider) -> None:
    body = {"contents": CONTENTS}
    cached = whole(fake, body, cached_tokens=40, reasoning_tokens=7)["usageMetadata"]
    assert (cached["promptTokenCount"], cached["cachedContentTokenCount"]) == (40, 40)
    assert cached["thoughtsTokenCount"] == 7
    assert stream(fake, body, cached_tokens=40, reasoning_tokens=7)[-1]["usageMetadata"] == cached
    assert fake.calls()[-1]["output_tokens"] == 16 + 7
    assert "usageMetadata" not in whole(fake, body, usage="none")
    assert not [event for event in stream(fake, body, usage="none") if "usageMetadata" in event]
    ends = stream(fake, body, usage="decreasing")[-2:]
    assert [end["usageMetadata"]["candidatesTokenCount"] for end in ends] == [16, 8]


def test_a_refusal_is_for_safety(fake: FakeProvider) -> None:
    for answers in (
        [whole(fake, {"contents": CONTENTS}, refusal="No.")],
        stream(fake, {"contents": CONTENTS}, refusal="No."),
    ):
        assert answers[-1]["candidates"][0]["finishReason"] == "SAFETY"


def test_an_error_inside_a_stream(fake: FakeProvider) -> None:
    *_, last = stream(fake, {"contents": CONTENTS}, error_event_after=2)
    assert (last["error"]["code"], last["error"]["status"]) == (503, "UNAVAILABLE")


@pytest.mark.parametrize(
    ("status", "name"), [(401, "UNAUTHENTICATED"), (429, "RESOURCE_EXHAUSTED"), (503, "UNAVAILABLE"), (529, "UNKNOWN")]
)
def test_errors_in_googles_shape(fake: FakeProvider, status: int, name: str) -> None:
    answer = post(fake, {"contents": CONTENTS}, status=status, retry_after=3)
    assert (answer.status_code, answer.headers["retry-after"]) == (status, "3")
    message = f"The fake was asked to answer {status}."
    assert answer.json() == {"error": {"code": status, "message": message, "status": name}}


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ({}, "contents is not specified"),
        ({"contents": []}, "contents is not specified"),
        ({"contents": [{"role": "assistant", "parts": [{"text": "A"}]}]}, "valid role"),
        ({"contents": [{"role": "user", "parts": []}]}, "must not be empty"),
        ({"contents": [{"parts": [{}]}]}, "required oneof field"),
        ({"contents": [{"parts": [{"text": "A", "fileData": {}}]}]}, "required oneof field"),
        ({"contents": [{"parts": [{"type": "text", "text": "A"}]}]}, 'Unknown name "type"'),
        ({"contents": [{"parts": [{"text": "A"}], "name": "me"}]}, 'Unknown name "name"'),
        ({"contents": CONTENTS, "model": "m"}, 'Unknown name "model"'),
        ({"contents": CONTENTS, "generationConfig": {"max_tokens": 1}}, 'Unknown name "max_tokens"'),
        ({"contents": CONTENTS, "generationConfig": {"responseJsonSchema": {}}}, "response mime type"),
        (
            {"contents": CONTENTS, "toolConfig": {"functionCallingConfig": {"allowedFunctionNames": ["clock"]}}},
            "modes ANY and VALIDATED",
        ),
    ],
)
def test_bad_requests(fake: FakeProvider, body: Json, message: str) -> None:
    answer = post(fake, body)
    assert (answer.status_code, answer.json()["error"]["status"]) == (400, "INVALID_ARGUMENT")
    assert message in answer.json()["error"]["message"]


@pytest.mark.parametrize("operation", ["streamGenerateContent", "nothing", "generateContent/more"])
def test_other_paths_are_not_found(fake: FakeProvider, operation: str) -> None:
    answer = post(fake, {"contents": CONTENTS}, operation)
    assert (answer.status_code, answer.json()["error"]["status"]) == (404, "NOT_FOUND")


def batch(*texts: str, model: str = "embedder", **more: Any) -> Json:
    return {
        "requests": [{"model": f"models/{model}", "content": {"parts": [{"text": text}]}, **more} for text in texts]
    }


def test_embeddings(fake: FakeProvider) -> None:
    made = whole(fake, batch("A b", "C", "A b"), operation="batchEmbedContents", model="embedder")
    first, second, third = (one["values"] for one in made["embeddings"])
    assert (len(first), first == third, first == second) == (3072, True, False)
    assert made["usageMetadata"] == {"promptTokenCount": 5}
    assert fake.calls()[-1]["input_tokens"] == 5
    shorter = batch("A", outputDimensionality=8)
    made = whole(fake, shorter, operation="batchEmbedContents", model="embedder", usage="none")
    assert [len(one["values"]) for one in made["embeddings"]] == [8]
    assert "usageMetadata" not in made


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ({"requests": []}, "is not specified"),
        ({"input": "A"}, 'Unknown name "input"'),
        (batch("A", model="another"), "must be that of the path"),
        (batch("A", dimensions=8), 'Unknown name "dimensions"'),
        (batch(*["A"] * 101), "at most 100 requests"),
    ],
)
def test_bad_batches(fake: FakeProvider, body: Json, message: str) -> None:
    answer = post(fake, body, "batchEmbedContents", "embedder")
    assert (answer.status_code, answer.json()["error"]["status"]) == (400, "INVALID_ARGUMENT")
    assert message in answer.json()["error"]["message"]
