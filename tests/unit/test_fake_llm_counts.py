"""What the fake counts and bills: another tokenizer, caps kept and ignored, hidden output, calls cut short."""

import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from typing import Any

import httpx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from loadtest.fake_llm import tokenizer, turn
from loadtest.fake_llm.faults import Faults
from loadtest.fake_llm.turn import Ask
from tests.support.fake import FakeProvider, Json

CHAT, COMPLETIONS, RESPONSES, MESSAGES = "/v1/chat/completions", "/v1/completions", "/v1/responses", "/v1/messages"
TEXT = "one two three four five six seven"  # seven tokens
SAID = [{"role": "user", "content": TEXT}]
SURFACES: dict[str, tuple[str, Json]] = {
    CHAT: ("max_completion_tokens", {"messages": SAID}),
    COMPLETIONS: ("max_tokens", {"prompt": TEXT}),
    RESPONSES: ("max_output_tokens", {"input": TEXT}),
    MESSAGES: ("max_tokens", {"messages": SAID}),
}


@pytest.fixture(scope="module")
def provider() -> Iterator[FakeProvider]:
    with FakeProvider("one") as started:
        yield started


@pytest.fixture
def fake(provider: FakeProvider) -> FakeProvider:
    provider.reset()
    return provider


@pytest.fixture
def client(fake: FakeProvider) -> Iterator[httpx.Client]:
    headers = {"anthropic-version": "2023-06-01"}
    with httpx.Client(base_url=fake.url("one"), headers=headers, trust_env=False, timeout=10) as made:
        yield made


def ask(client: httpx.Client, path: str, cap: int | None, stream: bool = False, **faults: Any) -> Json:
    """The usage that a call was told, as (input, output)."""
    field, fields = SURFACES[path]
    body = {"model": "m", **fields, "x_fake": faults, "stream": stream} | ({} if cap is None else {field: cap})
    if stream and path in (CHAT, COMPLETIONS):
        body["stream_options"] = {"include_usage": True}
    answer = client.post(path, json=body)
    assert answer.status_code == 200, answer.text
    return told(answer.text) if stream else answer.json()["usage"]


def told(stream: str) -> Json:
    """The last usage object in the events of a stream."""
    events = [json.loads(line[6:]) for line in stream.splitlines() if line.startswith("data: {")]
    found = [event.get("usage") or event.get("response", {}).get("usage") for event in events]
    last: Json = [usage for usage in found if usage][-1]
    return last


def output_of(usage: Json) -> int:
    return int(usage["completion_tokens"] if "completion_tokens" in usage else usage["output_tokens"])


def input_of(usage: Json) -> int:
    return int(usage["prompt_tokens"] if "prompt_tokens" in usage else usage["input_tokens"])


@pytest.mark.parametrize("stream", [False, True], ids=["json", "sse"])
@pytest.mark.parametrize("path", SURFACES)
def test_what_is_told_is_what_is_recorded(client: httpx.Client, fake: FakeProvider, path: str, stream: bool) -> None:
    usage = ask(client, path, 100, stream, length=20, tokens_percent=130, reasoning_tokens=3)
    assert (input_of(usage), output_of(usage)) == (10, 30)  # 7 x 1.3 and 23 x 1.3, rounded up
    (call,) = fake.calls("one")
    assert (call["input_tokens"], call["output_tokens"], call["model"]) == (10, 30, "m")
    assert fake.totals("one")["by_model"] == {"m": {"calls": 1, "input_tokens": 10, "output_tokens": 30}}


@pytest.mark.parametrize("path", SURFACES)
def test_a_cap_is_kept_as_the_provider_counts(client: httpx.Client, path: str) -> None:
    assert output_of(ask(client, path, 13, length=50)) == 13
    assert output_of(ask(client, path, 13, length=50, tokens_percent=130)) == 13  # ten of our tokens
    assert output_of(ask(client, path, 13, length=50, tokens_percent=70)) == 13  # eighteen
    assert output_of(ask(client, path, 13, length=5)) == 5


@pytest.mark.parametrize("path", SURFACES)
def test_a_cap_that_is_ignored_and_output_on_top_of_one(client: httpx.Client, path: str) -> None:
    assert output_of(ask(client, path, 13, length=50, ignores_cap=True)) == 50
    assert output_of(ask(client, path, 13, length=50, reasoning_tokens=4)) == 17


@given(
    limit=st.integers(0, 500) | st.none(),
    length=st.integers(0, 500) | st.none(),
    percent=st.integers(1, 1000),
    text=st.text(max_size=50),
)
@settings(max_examples=200, deadline=None)
def test_no_cap_is_passed(limit: int | None, length: int | None, percent: int, text: str) -> None:
    faults = Faults(length=length, tokens_percent=percent)
    question = Ask(text, tokenizer.count(text), limit)
    said = turn.compose(question, faults)
    counts = turn.count(question, [said], faults)
    if limit is not None:
        assert counts.output <= limit
    if length is not None:
        assert said.tokens <= length
        assert said.cut == (said.tokens < length)


def test_embeddings_count_with_the_tokenizer_asked_for(client: httpx.Client) -> None:
    body = {"model": "m", "input": TEXT, "x_fake": {"tokens_percent": 130}}
    assert client.post("/v1/embeddings", json=body).json()["usage"]["total_tokens"] == 10


def test_a_stream_cut_short_is_billed_as_far_as_it_was_sent(client: httpx.Client, fake: FakeProvider) -> None:
    body = {"model": "m", "messages": SAID, "stream": True, "x_fake": {"held": 11, "tokens_percent": 150}}
    with client.stream("POST", CHAT, json=body) as answer:
        lines = answer.iter_lines()
        for _ in range(11 * 2):
            next(lines)
    until(lambda: fake.totals("one")["disconnected"] == 1)
    (call,) = fake.calls("one")
    # The first event carries the role, ten more a token each.
    assert (call["events_sent"], call["input_tokens"], call["output_tokens"]) == (11, 11, 15)


@pytest.mark.parametrize(("stream", "held", "before"), [(False, 5, 0), (True, 0, 0), (True, 5, 5)])
def test_a_held_call_goes_on_when_it_is_released(
    client: httpx.Client, fake: FakeProvider, stream: bool, held: int, before: int
) -> None:
    answers: list[httpx.Response] = []
    body = {"model": "m", "messages": SAID, "stream": stream, "x_fake": {"held": held}}
    caller = threading.Thread(target=lambda: answers.append(client.post(CHAT, json=body)))
    caller.start()
    try:
        until(lambda: fake.calls("one") and fake.calls("one")[0]["complete"])
        until(lambda: fake.calls("one")[0]["events_sent"] == before)
        assert (fake.totals("one")["open"], answers) == (1, [])
    finally:
        fake.release("one")
        caller.join(10)
    assert answers[0].status_code == 200
    assert "You" in answers[0].text
    assert fake.calls("one")[0]["finished"]


def test_the_most_calls_at_one_time(fake: FakeProvider) -> None:
    with closing(httpx.Client(base_url=fake.url("one"), trust_env=False, timeout=10)) as client:
        held = {"model": "m", "messages": SAID, "x_fake": {"held": 0}}
        callers = [threading.Thread(target=lambda: client.post(CHAT, json=held)) for _ in range(3)]
        for caller in callers:
            caller.start()
        until(lambda: fake.totals("one")["open"] == 3)
        fake.release("one")
        for caller in callers:
            caller.join(10)
        client.post(CHAT, json={"model": "m", "messages": SAID})
    totals = fake.totals("one")
    assert (totals["open"], totals["most_open"], totals["calls"]) == (0, 3, 4)


def until(what: Callable[[], object]) -> None:
    """Wait for something the fake learns by itself; the limit only ends a test that fails."""
    deadline = time.monotonic() + 10
    while not what():
        assert time.monotonic() < deadline, "it never happened"
        time.sleep(0.01)


# ---- bills ---------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def biller() -> Iterator[FakeProvider]:
    with FakeProvider("one", options=("--keep-bills",)) as started:
        yield started


def billed(biller: FakeProvider, path: str, stream: bool = False, **faults: Any) -> tuple[Json, Json]:
    """What a call was billed, and what usage it was told. Its faults stand in a header that gateways pass on."""
    _, fields = SURFACES[path]
    body: Json = {"model": "m", **fields, "stream": stream, "max_tokens": 100}
    if stream:
        body["stream_options"] = {"include_usage": True}
    headers = {"x-stainless-fake": json.dumps(faults), "x-client-request-id": "mine", "anthropic-version": "2023-06-01"}
    biller.reset()
    answer = httpx.post(biller.url("one") + path, json=body, headers=headers, trust_env=False)
    assert answer.status_code == faults.get("status", 200), answer.text
    usage = {} if "status" in faults else told(answer.text) if stream else answer.json()["usage"]
    (bill,) = biller.bills("one")
    return bill, usage


@pytest.mark.parametrize("stream", [False, True], ids=["json", "sse"])
@pytest.mark.parametrize("path", [CHAT, COMPLETIONS, RESPONSES])
def test_a_bill_has_every_class_that_was_told(biller: FakeProvider, path: str, stream: bool) -> None:
    faults = {"cached_tokens": 2, "cache_write_tokens": 3, "reasoning_tokens": 5}
    bill, usage = billed(biller, path, stream, **faults)
    assert bill["client_request_id"] == "mine"
    assert bill["model"] == "m"
    assert bill["classes"] == {"cached_input": 2, "cache_write": 3, "reasoning": 5}
    assert (bill["input"], bill["output"]) == (input_of(usage), output_of(usage))
    of_input = usage.get("prompt_tokens_details") or usage["input_tokens_details"]
    of_output = usage.get("completion_tokens_details") or usage["output_tokens_details"]
    assert (of_input["cached_tokens"], of_input["cache_write_tokens"], of_output["reasoning_tokens"]) == (2, 3, 5)


@pytest.mark.parametrize("stream", [False, True], ids=["json", "sse"])
def test_anthropic_leaves_what_was_cached_out_of_its_input(biller: FakeProvider, stream: bool) -> None:
    faults = {"cached_tokens": 2, "cache_write_tokens": 3, "reasoning_tokens": 5}
    bill, usage = billed(biller, MESSAGES, stream, **faults)
    assert (usage["cache_read_input_tokens"], usage["cache_creation_input_tokens"]) == (2, 3)
    assert usage["output_tokens_details"] == {"thinking_tokens": 5}
    assert bill["input"] == usage["input_tokens"] + 2 + 3


def test_sound_is_a_part_of_what_was_said(biller: FakeProvider) -> None:
    bill, usage = billed(biller, CHAT, length=10, audio_input_tokens=4, audio_output_tokens=99)
    assert usage["prompt_tokens_details"]["audio_tokens"] == 4
    assert usage["completion_tokens_details"]["audio_tokens"] == 10
    assert bill["classes"] == {"audio_input": 4, "audio_output": 10}


def test_a_template_counts_beside_the_text(biller: FakeProvider) -> None:
    assert billed(biller, CHAT, template_tokens=7)[0]["input"] == 14


def test_a_call_that_was_not_answered_costs_nothing(biller: FakeProvider) -> None:
    bill, _ = billed(biller, CHAT, status=503)
    assert (bill["status"], bill["input"], bill["output"], bill["classes"]) == (503, 0, 0, {})


def test_a_share_of_tokens_may_be_any_number(biller: FakeProvider) -> None:
    bill, usage = billed(biller, CHAT, length=7, tokens_percent=100 * 9 / 7)
    assert (bill["output"], usage["completion_tokens"]) == (9, 9)
