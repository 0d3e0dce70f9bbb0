"""Sizes: one byte under, at and over each limit, by content-length and in chunks; answers of every size.

A request over a limit is a 413 in its surface's shape and never a bypass. An answer over a limit is the caller's all
the same, for it has been paid: it passes unread but for its usage.
"""

import hashlib
import json
from collections.abc import Iterator
from typing import Any

import pytest

from tests.support.fake import FakeProvider
from tests.support.gateway import RunningGateway, until
from tests.support.raw_http import Answer, Connection, chunked, form, head, request

Json = dict[str, Any]

JSON_CAP, FORM_CAP, ANSWER_CAP = 2 << 20, 3 << 20, 2 << 20  # all above Envoy's own default of 1 MiB
CHATS = {
    "openai": ("/v1/chat/completions", "gpt-4o"),
    "azure": ("/openai/deployments/gpt-4o/chat/completions?api-version=2024-10-21", "gpt-4o"),
    "anthropic": ("/anthropic/v1/messages", "claude"),
}
SPEAK = "/v1/audio/transcriptions"


@pytest.fixture(scope="module")
def provider() -> Iterator[FakeProvider]:
    with FakeProvider("openai", "anthropic") as running:
        yield running


@pytest.fixture(scope="module")
def capped(provider: FakeProvider) -> Iterator[RunningGateway]:
    settings = {
        "limits": {"json_request": JSON_CAP, "multipart_request": FORM_CAP, "json_answer": ANSWER_CAP},
        "backends": {
            "openai": {"dialect": "openai", "url": provider.url("openai")},
            "anthropic": {"dialect": "anthropic", "url": provider.url("anthropic")},
        },
        "models": {
            "gpt-4o": {"targets": [[{"backend": "openai", "model": "a-longer-name-than-the-public-one"}]]},
            "whisper-1": {"targets": [[{"backend": "openai", "model": "a-longer-name-than-the-public-one"}]]},
            "claude": {"targets": [[{"backend": "anthropic"}]]},
        },
    }
    with RunningGateway(settings) as running:
        yield running


@pytest.fixture(autouse=True)
def steady(capped: RunningGateway, provider: FakeProvider) -> Iterator[None]:
    provider.reset()
    before = [child.pid for child in capped.processes("")]
    yield
    assert [child.pid for child in capped.processes("")] == before


def send(gateway: RunningGateway, data: bytes) -> Answer:
    with Connection(gateway.port) as connection:
        connection.try_send(data)
        return connection.answer()


def chat_of(size: int, model: str, **fields: Any) -> bytes:
    """A chat request of exactly so many bytes."""
    body = json.dumps({"model": model, "max_tokens": 9, "messages": [{"role": "user", "content": "PAD"}], **fields})
    return body.replace("PAD", "x" * (size - len(body) + 3)).encode()


def form_of(size: int) -> tuple[str, bytes]:
    empty = len(form({"model": "whisper-1"}, b"")[1])
    return form({"model": "whisper-1"}, b"x" * (size - empty))


def framed(path: str, body: bytes, key: str, kind: str, *, sized: bool) -> bytes:
    if sized:
        return request(path, body, key, kind, anthropic_version="2023-06-01")
    data = chunked(path, body, key, 100_000, kind)
    return data.replace(b"\r\n", b"\r\nanthropic-version: 2023-06-01\r\n", 1)


SIZED = pytest.mark.parametrize("sized", [True, False], ids=["sized", "chunked"])


# ---- requests ---------------------------------------------------------------------------------------------


@SIZED
@pytest.mark.parametrize("family", CHATS)
@pytest.mark.parametrize("size", [JSON_CAP - 1, JSON_CAP])
def test_json_up_to_its_limit_is_served(
    size: int, family: str, sized: bool, capped: RunningGateway, provider: FakeProvider
) -> None:
    path, model = CHATS[family]
    body = chat_of(size, model)
    assert len(body) == size
    answer = send(capped, framed(path, body, capped.key, "application/json", sized=sized))
    assert answer.status == 200
    (seen,) = provider.calls("anthropic" if family == "anthropic" else "openai")
    assert seen["complete"]
    assert seen["body_bytes"] == size + (len("a-longer-name-than-the-public-one") - len(model)) * (
        family != "anthropic"
    )


@SIZED
@pytest.mark.parametrize("family", CHATS)
@pytest.mark.parametrize("size", [JSON_CAP + 1, 2 * JSON_CAP, 12 << 20])
def test_json_over_its_limit_is_413_in_the_shape_of_its_surface(
    size: int, family: str, sized: bool, capped: RunningGateway, provider: FakeProvider
) -> None:
    path, model = CHATS[family]
    answer = send(capped, framed(path, chat_of(size, model), capped.key, "application/json", sized=sized))
    told = answer.json()
    assert (answer.status, told["error"]["code"]) == (413, "request_too_large")
    assert answer.headers["x-should-retry"] == "false"
    assert ("type" in told) == (family == "anthropic")
    assert ("status" in told["error"]) == (family == "azure")
    assert capped.record(answer.request_id)["refusal"] == "request_too_large"
    assert not provider.calls("openai") + provider.calls("anthropic")


@SIZED
def test_a_body_that_grows_over_the_limit_by_our_own_edits_is_served(
    sized: bool, capped: RunningGateway, provider: FakeProvider
) -> None:
    """The limit is on what the caller sent: the usage option and a longer model name come on top."""
    body = chat_of(JSON_CAP, "gpt-4o", stream=True)
    answer = send(capped, framed(CHATS["openai"][0], body, capped.key, "application/json", sized=sized))
    assert answer.status == 200
    assert provider.calls("openai")[0]["body_bytes"] > JSON_CAP


@SIZED
@pytest.mark.parametrize("size", [FORM_CAP - 1, FORM_CAP])
def test_a_form_up_to_its_limit_is_served(
    size: int, sized: bool, capped: RunningGateway, provider: FakeProvider
) -> None:
    kind, body = form_of(size)
    assert len(body) == size
    answer = send(capped, framed(SPEAK, body, capped.key, kind, sized=sized))
    assert answer.status == 200
    (seen,) = provider.calls("openai")
    assert seen["complete"]
    sent = body.replace(b"whisper-1", b"a-longer-name-than-the-public-one")
    assert seen["body_sha256"] == hashlib.sha256(sent).hexdigest()


@pytest.mark.parametrize("size", [FORM_CAP + 1, 2 * FORM_CAP])
def test_a_form_that_says_that_it_is_over_the_limit_is_413(
    size: int, capped: RunningGateway, provider: FakeProvider
) -> None:
    kind, body = form_of(size)
    answer = send(capped, framed(SPEAK, body, capped.key, kind, sized=True))
    assert (answer.status, answer.json()["error"]["code"]) == (413, "request_too_large")
    assert capped.record(answer.request_id)["refusal"] == "request_too_large"
    assert not provider.calls("openai")


@pytest.mark.parametrize("size", [FORM_CAP + 1, 2 * FORM_CAP])
def test_a_form_in_chunks_that_turns_out_over_the_limit_is_413_and_no_backend_gets_it_whole(
    size: int, capped: RunningGateway, provider: FakeProvider
) -> None:
    kind, body = form_of(size)
    answer = send(capped, framed(SPEAK, body, capped.key, kind, sized=False))
    assert (answer.status, answer.json()["error"]["code"]) == (413, "request_too_large")
    until(lambda: provider.totals("openai")["open"] == 0, what="the torn upload to end")
    assert not any(seen["complete"] for seen in provider.calls("openai"))


def test_a_form_of_json_size_is_no_json(capped: RunningGateway) -> None:
    """The larger limit is for uploads alone, whatever the body calls itself."""
    kind, body = form_of(JSON_CAP + 1000)
    answer = send(capped, framed(CHATS["openai"][0], body, capped.key, kind, sized=True))
    assert answer.status in (413, 415)


def test_what_is_over_a_limit_is_refused_before_it_is_sent(capped: RunningGateway) -> None:
    """A caller who asks first (RFC 9110, 10.1.1) need not send what will be refused."""
    headers = {"content-type": "application/json", "content-length": str(100 << 20), "expect": "100-continue"}
    with Connection(capped.port) as connection:
        connection.send(head("POST", CHATS["openai"][0], headers, capped.key))
        assert connection.answer().status == 413


# ---- answers ------------------------------------------------------------------------------------------------

AROUND = [ANSWER_CAP - 1000, ANSWER_CAP - 1, ANSWER_CAP, ANSWER_CAP + 1, ANSWER_CAP + (1 << 20), 9 << 20]


@pytest.mark.parametrize("pieces", [None, 30_000], ids=["at once", "in pieces"])
@SIZED
@pytest.mark.parametrize("size", AROUND)
def test_an_answer_of_any_size_arrives_whole_and_is_counted(
    size: int, sized: bool, pieces: int | None, capped: RunningGateway, provider: FakeProvider
) -> None:
    """The padding stands behind the usage in the fake's answer, as an image stands before it at OpenAI."""
    fault: Json = {"pad_bytes": size, "content_length": sized}
    if pieces is not None:
        fault["chunk_bytes"] = pieces
    answer = send(capped, request(CHATS["openai"][0], chat_of(300, "gpt-4o", x_fake=fault), capped.key))
    assert (answer.status, answer.whole) == (200, True)
    assert abs(len(answer.body) - size) < 20
    assert set(answer.json()["padding"]) == {"x"}
    record = capped.record(answer.request_id)
    assert record["ending"] == "complete"
    assert record["usage"]["input"] > 0


@SIZED
def test_the_usage_of_a_large_answer_is_found_at_its_end(
    sized: bool, capped: RunningGateway, provider: FakeProvider
) -> None:
    """OpenAI writes `usage` behind the data; an answer of any size is counted by its tail."""
    text = "word " * 800_000
    fault = {"text": text, "content_length": sized, "chunk_bytes": 50_000}
    # The fault itself must not count against the limit of requests: the script of the fake carries it.
    provider.script("openai", [fault])
    answer = send(capped, request(CHATS["openai"][0], chat_of(300, "gpt-4o"), capped.key))
    assert answer.json()["choices"][0]["message"]["content"] == text
    usage = capped.record(answer.request_id)["usage"]
    (seen,) = provider.calls("openai")
    assert usage == {"input": seen["input_tokens"], "output": seen["output_tokens"], "source": "reported"}


@pytest.mark.parametrize("size", [10_000, 300_000, ANSWER_CAP - 2000, ANSWER_CAP + 2000, 5 << 20])
@pytest.mark.parametrize("asked", [False, True], ids=["hidden usage", "asked usage"])
def test_a_stream_with_a_large_event_arrives_whole(
    size: int, asked: bool, capped: RunningGateway, provider: FakeProvider
) -> None:
    """Tool arguments and images come in one event; one that nobody could hold passes unread."""
    provider.script("openai", [{"tool_calls": [{"name": "draw", "arguments": {"data": "x" * size}}]}])
    fields: Json = {"stream_options": {"include_usage": True}} if asked else {}
    answer = send(capped, request(CHATS["openai"][0], chat_of(300, "gpt-4o", stream=True, **fields), capped.key))
    assert (answer.status, answer.whole) == (200, True)
    assert answer.body.count(b"x" * 1000) >= size // 1000
    assert answer.body.endswith(b"data: [DONE]\n\n")
    assert capped.record(answer.request_id)["ending"] == "complete"


def test_a_slow_reader_of_a_large_answer_gets_all_of_it(capped: RunningGateway, provider: FakeProvider) -> None:
    provider.script("openai", [{"pad_bytes": 6 << 20}])
    with Connection(capped.port) as connection:
        connection.send(request(CHATS["openai"][0], chat_of(300, "gpt-4o"), capped.key))
        until(lambda: provider.calls("openai"), what="the provider to answer")
        assert send(capped, request(CHATS["openai"][0], chat_of(300, "gpt-4o"), capped.key)).status == 200
        answer = connection.answer()
    assert answer.whole
    assert len(answer.json()["padding"]) > 5 << 20
