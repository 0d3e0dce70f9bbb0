"""Redaction of answers while they stream, and the hostile and odd texts that a redacting gateway must bear."""

import codecs
import json
import re
from base64 import b64encode
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from hashlib import sha256
from operator import attrgetter
from typing import Any

import httpx
import pytest

from loadtest.fake_llm import tokenizer
from tests.support.fake import FakeProvider
from tests.support.redacted import (
    CARD,
    CHAT,
    COMPLETIONS,
    EMAIL,
    LEASED,
    MESSAGES,
    PHONE,
    PRIVATE_KEY,
    PROSE,
    REDACTED,
    RESPONSES,
    TALKS,
    Redacting,
    Talk,
    redacting,
)
from tests.support.sdk import DOORS, Answer, ask, client_at, refusal

pytestmark = pytest.mark.filterwarnings("ignore:The model 'claude:DeprecationWarning")

Json = dict[str, Any]

STREAMS = pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
EACH_API = pytest.mark.parametrize("name", TALKS)
PIECES = pytest.mark.parametrize("size", [1, 7, None], ids=lambda size: f"{size or 'whole'}-bytes")
"""How many bytes of a stream the provider sends at once."""
_ANSWER_CAP = 400_000
OTHER_CARD = "5555 5555 5555 4444"
SAID = f"You: <EMAIL_ADDRESS_1>, the others are bob@corp-mail.ch and {OTHER_CARD}, said he who knows them all"


@pytest.fixture(scope="module")
def shared(fake: FakeProvider) -> Iterator[Redacting]:
    with redacting(fake, limits={"json_request": 16 * 2**20, "json_answer": _ANSWER_CAP}) as running:
        yield running


@pytest.fixture
def site(shared: Redacting) -> Redacting:
    """The shared gateway, with nothing scripted and nothing recorded at the fakes."""
    shared.fake.reset()
    return shared


@asynccontextmanager
async def client(site: Redacting, talk: Talk, policy: str = "default") -> AsyncIterator[Any]:
    async with client_at(DOORS[talk.door], site.gateway.url, site.keys[policy]) as made:
        yield made


async def say(
    site: Redacting, talk: Talk, text: str, /, *, policy: str = "default", stream: bool = True, **fields: Any
) -> Answer:
    """Say a text under a policy and read the answer to its end."""
    async with client(site, talk, policy) as made:
        return await ask(made, talk.operation, stream=stream, **{**talk.fields(text), **fields})


# ---- case 46: placeholders in pieces ------------------------------------------------------------------


@PIECES
@EACH_API
async def test_case_46_a_placeholder_over_events_and_pieces_of_them_is_restored(
    site: Redacting, name: str, size: int | None
) -> None:
    """The fake says a placeholder in three events, and sends these byte for byte."""
    talk = TALKS[name]
    faults: Json = {"text": f"{REDACTED}: <EMAIL_ADDRESS_1><EMAIL_ADDRESS_1>"}
    site.fake.script(talk.backend, [faults | ({"chunk_bytes": size} if size else {})])
    answer = await say(site, talk, PROSE)
    assert talk.said(answer, True) == [f"{PROSE}: {EMAIL}{EMAIL}"]


@PIECES
@pytest.mark.parametrize("talk", [CHAT, COMPLETIONS], ids=lambda talk: talk.name)
async def test_case_46_interleaved_choices_are_restored_each_by_itself(
    site: Redacting, talk: Talk, size: int | None
) -> None:
    """In each choice another part of the placeholder has come when one of them is looked at."""
    site.fake.script(talk.backend, [{"chunk_bytes": size} if size else {}])
    answer = await say(site, talk, f"{EMAIL} and {PHONE}", n=3)
    expected = [f"You said{number}: {EMAIL} and {PHONE}." for number in ("", " (2)", " (3)")]
    assert [said[: len(start)] for said, start in zip(talk.said(answer, True), expected, strict=True)] == expected


@PIECES
@pytest.mark.parametrize("talk", [CHAT, RESPONSES, MESSAGES], ids=lambda talk: talk.name)
async def test_case_46_arguments_of_several_tool_calls_are_restored(
    site: Redacting, talk: Talk, size: int | None
) -> None:
    calls = [
        {"name": f"tool{number}", "arguments": {"to": f"<EMAIL_ADDRESS_{number}>", "key": "<PRIVATE_KEY_1>"}}
        for number in (1, 2)
    ]
    site.fake.script(talk.backend, [{"tool_calls": calls, **({"chunk_bytes": size} if size else {})}])
    answer = await say(site, talk, f"{EMAIL}, eva@corp-mail.ch, {PRIVATE_KEY}")
    told = [json.loads(text) for text in talk.arguments(answer, True)]
    assert told == [{"to": EMAIL, "key": PRIVATE_KEY}, {"to": "eva@corp-mail.ch", "key": PRIVATE_KEY}]


@pytest.mark.parametrize("rest", ["<", "<EMAIL", "&lt;EMAIL_ADDRESS_", "<EMAIL_ADDRESS_7>", "<EMAIL_ADDRESS_1"])
@EACH_API
async def test_case_46_what_is_held_back_is_told_at_the_end(site: Redacting, name: str, rest: str) -> None:
    """Nothing is lost of a placeholder that never came to its end. The last of these lacks only its bracket."""
    talk = TALKS[name]
    site.fake.script(talk.backend, [{"text": f"It is {rest}"}])
    answer = await say(site, talk, f"I am {EMAIL}")
    expected = f"<{EMAIL}" if rest == "<EMAIL_ADDRESS_1" else rest
    assert talk.said(answer, True) == [f"It is {expected}"]


@pytest.mark.parametrize("odd", [{"crlf": True}, {"comments": True}, {"crlf": True, "comments": True}], ids=" ".join)
@EACH_API
async def test_line_ends_and_comments_of_a_stream_do_not_matter(site: Redacting, name: str, odd: Json) -> None:
    talk = TALKS[name]
    site.fake.script(talk.backend, [{"chunk_bytes": 5, **odd}])
    answer = await say(site, talk, PROSE)
    assert talk.said(answer, True)[0].startswith(f"You said: {PROSE}.")


@pytest.mark.parametrize("talk", [CHAT, COMPLETIONS], ids=lambda talk: talk.name)
async def test_what_is_held_back_is_told_where_a_stream_just_stops(site: Redacting, talk: Talk) -> None:
    """Without `[DONE]`, after an event with the reason of its end."""
    site.fake.script(talk.backend, [{"text": "It is <EMAIL_ADDRESS", "done": False}])
    answer = await say(site, talk, f"I am {EMAIL}")
    assert talk.said(answer, True) == ["It is <EMAIL_ADDRESS"]


async def test_a_leased_stream_is_restored_and_masked(site: Redacting) -> None:
    """It is paid for as the provider sent it, before it is changed."""
    site.fake.script("openai", [{"text": SAID}])
    answer = await say(site, CHAT, f"I am {EMAIL}", policy="masked-answers", model=LEASED)
    expected = f"You: {EMAIL}, the others are [EMAIL_ADDRESS] and [CREDIT_CARD], said he who knows them all"
    assert CHAT.said(answer, True) == [expected]
    assert site.gateway.record(answer.request_id)["held"]["output"] < 16_384


async def test_a_leased_stream_may_be_ended_for_what_it_says(site: Redacting) -> None:
    site.fake.script("openai", [{"text": f"Well then, it is {OTHER_CARD}, dear friend"}])
    answer = await say(site, CHAT, "Hello!", policy="blocked-answers", model=LEASED)
    assert CHAT.ended(answer, True) == "content_filter"
    assert "Well then, it is ".startswith(CHAT.said(answer, True)[0])
    assert site.gateway.record(answer.request_id)["ending"] == "blocked"


# ---- how soon: the provider waits, so what the caller has cannot depend on what comes later -----------


@contextmanager
def words(site: Redacting, talk: Talk, text: str, policy: str = "default") -> Iterator[Iterator[str]]:
    """The pieces of text of a stream as they come; at the end the provider goes on."""
    with DOORS[talk.door].open(site.gateway.url, site.keys[policy], max_retries=0, timeout=20) as made:
        stream = attrgetter(talk.operation)(made)(stream=True, **talk.fields(text))
        try:
            yield filter(None, (word_of(talk, event) for event in stream))
        finally:
            site.fake.release(talk.backend)
            stream.close()


def word_of(talk: Talk, event: Any) -> str:
    """The text of one event of a stream, empty where it has none."""
    if talk is RESPONSES:
        return str(event.delta) if event.type == "response.output_text.delta" else ""
    if talk is MESSAGES:
        return str(event.delta.text) if event.type == "content_block_delta" else ""
    if not event.choices:
        return ""
    return (event.choices[0].delta.content if talk is CHAT else event.choices[0].text) or ""


def hold(site: Redacting, talk: Talk, pieces: int, text: str) -> None:
    """Let the provider say the text, and wait when it has said so many pieces of it."""
    site.fake.script(talk.backend, [{"text": text, "held": talk.opening + pieces}])


def read(pieces: Iterator[str], length: int) -> str:
    """What comes, until it is so much; waits for it in vain where the gateway holds it back."""
    text = ""
    while len(text) < length:
        text += next(pieces)
    return text


@EACH_API
def test_the_first_word_arrives_before_the_provider_says_the_second(site: Redacting, name: str) -> None:
    talk = TALKS[name]
    hold(site, talk, 1, "Dear friend")
    with words(site, talk, f"I am {EMAIL}") as pieces:
        assert next(pieces) == "Dear"
        assert site.fake.calls(talk.backend)[-1]["events_sent"] == talk.opening + 1
        site.fake.release(talk.backend)
        assert "".join(pieces) == " friend"


@EACH_API
def test_a_value_arrives_with_the_end_of_its_placeholder(site: Redacting, name: str) -> None:
    talk = TALKS[name]
    hold(site, talk, 3, "<EMAIL_ADDRESS_1> it is")
    with words(site, talk, f"I am {EMAIL}") as pieces:
        assert read(pieces, len(EMAIL)) == EMAIL
        site.fake.release(talk.backend)
        assert "".join(pieces) == " it is"


_HESITANT = "E was EMAIL to you, no < than EMAIL_ADDRESS or &amp; \\ so"


@pytest.mark.parametrize("said", range(2, len(tokenizer.split(_HESITANT))))
def test_no_word_is_more_than_one_event_late(site: Redacting, said: int) -> None:
    """Where a placeholder might begin, it takes one more event to know that none does."""
    hold(site, CHAT, said, _HESITANT)
    with words(site, CHAT, f"I am {EMAIL}") as pieces:
        due = "".join(tokenizer.split(_HESITANT)[: said - 1])
        assert read(pieces, len(due)).startswith(due)


@EACH_API
def test_case_46_no_more_than_a_placeholder_is_held_back(site: Redacting, name: str) -> None:
    """What begins like one and goes on flows on."""
    talk = TALKS[name]
    said = "<EMAIL_ADDRESS_" + "1" * 200 + " and on" * 20
    hold(site, talk, tokenizer.count(said), said + " end")
    with words(site, talk, f"I am {EMAIL}") as pieces:
        assert read(pieces, len(said)) == said


# ---- what models say ----------------------------------------------------------------------------------


@STREAMS
@EACH_API
async def test_values_that_the_model_says_by_itself_are_masked(site: Redacting, name: str, stream: bool) -> None:
    """The caller's own are given back all the same."""
    talk = TALKS[name]
    site.fake.script(talk.backend, [{"text": SAID}])
    answer = await say(site, talk, f"I am {EMAIL}", policy="masked-answers", stream=stream)
    expected = f"You: {EMAIL}, the others are [EMAIL_ADDRESS] and [CREDIT_CARD], said he who knows them all"
    assert talk.said(answer, stream) == [expected]
    assert site.redaction(answer)["said"] == {"EMAIL_ADDRESS": 1, "CREDIT_CARD": 1}


@PIECES
@EACH_API
async def test_a_value_in_pieces_is_masked(site: Redacting, name: str, size: int | None) -> None:
    talk = TALKS[name]
    said = f"{OTHER_CARD} and bob@corp-mail.ch, {OTHER_CARD}"
    site.fake.script(talk.backend, [{"text": said, **({"chunk_bytes": size} if size else {})}])
    answer = await say(site, talk, "Hello!", policy="masked-answers")
    assert talk.said(answer, True) == ["[CREDIT_CARD] and [EMAIL_ADDRESS], [CREDIT_CARD]"]


@STREAMS
@pytest.mark.parametrize("talk", [CHAT, RESPONSES, MESSAGES], ids=lambda talk: talk.name)
async def test_values_in_arguments_are_masked(site: Redacting, talk: Talk, stream: bool) -> None:
    arguments = {"to": "bob@corp-mail.ch", "from": "<EMAIL_ADDRESS_1>"}
    site.fake.script(talk.backend, [{"tool_calls": [{"name": "send", "arguments": arguments}]}])
    answer = await say(site, talk, f"I am {EMAIL}", policy="masked-answers", stream=stream)
    assert [json.loads(text) for text in talk.arguments(answer, stream)] == [{"to": "[EMAIL_ADDRESS]", "from": EMAIL}]


@STREAMS
@pytest.mark.parametrize("talk", [CHAT, COMPLETIONS], ids=lambda talk: talk.name)
async def test_probabilities_of_tokens_do_not_tell_what_was_changed(site: Redacting, talk: Talk, stream: bool) -> None:
    """They spell the answer: the masked value, and the placeholder in the place of the caller's own."""
    site.fake.script(talk.backend, [{"text": SAID}])
    wanted: Json = {"logprobs": True, "top_logprobs": 1} if talk is CHAT else {"logprobs": 1}
    answer = await say(site, talk, f"I am {EMAIL}", policy="masked-answers", stream=stream, **wanted)
    parts = answer.value if stream else [answer.value]
    told = "".join(part.model_dump_json() for part in parts)
    assert "bob" not in told
    assert "5555" not in told
    assert "ADDRESS_1" not in told


ENDED = {
    "chat": "content_filter",
    "completions": "content_filter",
    "responses": "content_filter",
    "messages": "refusal",
}


@EACH_API
async def test_an_answer_that_may_not_be_said_ends_as_its_api_ends_one(site: Redacting, name: str) -> None:
    talk = TALKS[name]
    before = "Well then, here is a card that belongs to me: "
    site.fake.script(talk.backend, [{"text": f"{before}{OTHER_CARD}, and much more to say about it"}])
    answer = await say(site, talk, "Hello!", policy="blocked-answers")
    assert talk.ended(answer, True) == ENDED[name]
    (said,) = talk.said(answer, True) or [""]
    assert before.startswith(said)
    assert said.startswith("Well then")
    record = site.gateway.record(answer.request_id)
    assert (record["status"], record["ending"]) == (200, "blocked")
    assert record["redaction"]["said"] == {"CREDIT_CARD": 1}


@EACH_API
async def test_a_whole_answer_that_may_not_be_said_is_an_empty_one(site: Redacting, name: str) -> None:
    """In the words that its API has for it, with the usage that is paid for."""
    talk = TALKS[name]
    site.fake.script(talk.backend, [{"text": f"It is {OTHER_CARD}, dear friend"}])
    answer = await say(site, talk, "Hello!", policy="blocked-answers", stream=False)
    assert talk.ended(answer, False) == ENDED[name]
    assert "".join(talk.said(answer, False)) == ""
    assert (answer.value.id, answer.value.usage is None) != (None, True)
    record = site.gateway.record(answer.request_id)
    assert (record["ending"], record["usage"]["source"]) == ("blocked", "reported")


async def test_a_whole_answer_of_which_one_choice_may_not_be_said_says_nothing(site: Redacting) -> None:
    answer = await say(site, CHAT, f"pay {OTHER_CARD}", policy="blocked-answers", stream=False, n=2)
    assert "".join(CHAT.said(answer, False)).count(OTHER_CARD) == 2  # its own values may be said
    site.fake.script("openai", [{"text": f"It is {OTHER_CARD}"}])
    answer = await say(site, CHAT, "Hello!", policy="blocked-answers", stream=False, n=2)
    assert CHAT.ended(answer, False) == "content_filter,content_filter"


@EACH_API
async def test_an_answer_that_cannot_be_looked_through_is_refused(site: Redacting, name: str) -> None:
    """The gateway asks for no compression; who compresses all the same is not looked through."""
    talk = TALKS[name]
    site.fake.script(talk.backend, [{"text": f"It is {OTHER_CARD}", "gzip": True}])
    async with client(site, talk, "masked-answers") as made:
        error = await refusal(made, talk.operation, **talk.fields("Hello!"))
    assert (error.status_code, error.response.json()["error"]["code"]) == (503, "policy_failed")
    record = site.gateway.record(error.response.headers["x-request-id"])
    assert record["unscreened"]


@pytest.mark.parametrize("with_length", [False, True], ids=["chunked", "with-length"])
@EACH_API
async def test_an_answer_too_long_to_be_looked_through_is_withdrawn_and_paid_for(
    site: Redacting, name: str, with_length: bool
) -> None:
    talk = TALKS[name]
    said = f"{OTHER_CARD} {'and on ' * 60_000}"
    site.fake.script(talk.backend, [{"text": said, "content_length": with_length}])
    async with client(site, talk, "masked-answers") as made:
        error = await refusal(made, talk.operation, **talk.fields("Hello!"))
    assert (error.status_code, error.response.json()["error"]["code"]) == (503, "policy_failed")
    assert error.response.headers["x-should-retry"] == "false"  # each try is on the bill
    record = site.gateway.record(error.response.headers["x-request-id"])
    assert (record["ending"], record["unscreened"]) == ("blocked", ["redaction"])
    assert record["usage"]["output"] > 100_000


@EACH_API
async def test_an_answer_too_long_to_be_restored_is_told_as_it_came(site: Redacting, name: str) -> None:
    """Its placeholders say nothing to anybody."""
    talk = TALKS[name]
    site.fake.script(talk.backend, [{"text": f"<EMAIL_ADDRESS_1> {'and on ' * 60_000}"}])
    answer = await say(site, talk, f"I am {EMAIL}", stream=False)
    assert talk.said(answer, False)[0].startswith("<EMAIL_ADDRESS_1> and on")
    assert site.gateway.record(answer.request_id)["unscreened"] == ["answer"]


@EACH_API
async def test_a_long_stream_is_looked_through_to_its_end(site: Redacting, name: str) -> None:
    """No cap on whole answers holds for it: no more of it than an event is ever held."""
    talk = TALKS[name]
    said = "and on " * 2_000
    site.fake.script(talk.backend, [{"text": f"{said}<EMAIL_ADDRESS_1> {OTHER_CARD}"}])
    answer = await say(site, talk, f"I am {EMAIL}", policy="masked-answers")
    assert talk.said(answer, True) == [f"{said}{EMAIL} [CREDIT_CARD]"]


@EACH_API
async def test_a_stream_that_was_ended_has_nothing_behind_its_end(site: Redacting, name: str) -> None:
    """However the bytes come: not even a part of the value, and the provider's rest nowhere."""
    talk = TALKS[name]
    said = f"It is {OTHER_CARD}, dear friend of mine"
    for size in (1, 50, 100_000):
        site.fake.script(talk.backend, [{"text": said, "chunk_bytes": size}])
        path = {"chat": "chat/completions"}.get(name, name)
        head = {"authorization": f"Bearer {site.keys['blocked-answers']}", "anthropic-version": "2023-06-01"}
        body = {**talk.fields("Hello!"), "stream": True}
        answer = httpx.post(f"{site.gateway.url}/v1/{path}", json=body, headers=head, trust_env=False, timeout=20)
        assert answer.status_code == 200
        assert "5555" not in answer.text
        assert "friend" not in answer.text
        last = [line for line in answer.text.splitlines() if line.startswith("data:")][-1]
        assert last == "data: [DONE]" or json.loads(last[5:])["type"] in ("message_stop", "response.incomplete")


@STREAMS
@EACH_API
async def test_values_of_answers_that_are_flagged_are_counted(site: Redacting, name: str, stream: bool) -> None:
    talk = TALKS[name]
    site.fake.script(talk.backend, [{"text": f"It is {OTHER_CARD}, dear friend"}])
    answer = await say(site, talk, "Hello!", policy="flagged-answers", stream=stream)
    assert talk.said(answer, stream) == [f"It is {OTHER_CARD}, dear friend"]
    assert site.redaction(answer)["said"] == {"CREDIT_CARD": 1}


# ---- case 53: everywhere ------------------------------------------------------------------------------


class Canaries:
    """Values of which none is like another."""

    def __init__(self) -> None:
        self.count = 0

    def __call__(self) -> str:
        self.count += 1
        return f"canary{self.count}@corp-mail.ch"


def everywhere_in_chat(value: Canaries) -> Json:
    call = {"id": "call_abcdefghi", "type": "function"}
    arguments = json.dumps({"to": value(), value(): [value()]})
    return {
        "model": "gpt-4o",
        "messages": [
            {"role": "system", "content": value()},
            {"role": "developer", "content": [{"type": "text", "text": value()}], "name": value()},
            {"role": "user", "content": value(), "name": value()},
            {"role": "assistant", "content": value(), "refusal": value()},
            {"role": "assistant", "tool_calls": [{**call, "function": {"name": "send", "arguments": arguments}}]},
            {"role": "tool", "tool_call_id": "call_abcdefghi", "content": json.dumps({"found": {value(): value()}})},
            {
                "role": "user",
                "content": [
                    {"type": "text", "text": value()},
                    {"type": "image_url", "image_url": {"url": f"https://images.example/?of={value()}"}},
                    {"type": "image_url", "image_url": {"url": f"data:image/png;name={value()};base64,iVBORw0KGgo="}},
                    {"type": "file", "file": {"filename": value(), "file_data": value()}},
                ],
            },
        ],
        "tools": [
            {
                "type": "function",
                "function": {
                    "name": "send",
                    "description": value(),
                    "parameters": {"type": "object", "properties": {value(): {"enum": [value()]}}},
                },
            }
        ],
        "user": value(),
        "metadata": {"who": value(), value(): "1"},
        "stop": [value()],
        "prediction": {"type": "content", "content": value()},
        "response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": {"const": value()}}},
        "not_known_yet": {"deep": [[{value(): value()}]]},
        "tool_choice": "none",
    }


def everywhere_in_responses(value: Canaries) -> Json:
    return {
        "model": "gpt-4o",
        "instructions": value(),
        "input": [
            {"role": "user", "content": value()},
            {"role": "user", "content": [{"type": "input_text", "text": value()}]},
            {"type": "function_call", "call_id": "call_abcdefghi", "name": "f", "arguments": f'{{"a":"{value()}"}}'},
            {"type": "function_call_output", "call_id": "call_abcdefghi", "output": value()},
            {"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": value()}]},
            {"type": "reasoning", "summary": [{"type": "summary_text", "text": value()}]},
            {"role": "user", "content": [{"type": "input_file", "filename": value()}]},
        ],
        "tools": [{"type": "function", "name": "f", "description": value(), "parameters": {}, "strict": False}],
        "tool_choice": "none",
        "metadata": {"who": value()},
        "user": value(),
        "prompt_cache_key": value(),
        "store": False,
    }


def everywhere_in_messages(value: Canaries) -> Json:
    return {
        "model": "claude-sonnet-5-5",
        "max_tokens": 1000,
        "system": [{"type": "text", "text": value()}],
        "messages": [
            {"role": "user", "content": value()},
            {"role": "assistant", "content": [{"type": "thinking", "thinking": value(), "signature": "c2lnbmF0dXJl"}]},
            {
                "role": "assistant",
                "content": [{"type": "tool_use", "id": "toolu_abc", "name": "f", "input": {value(): value()}}],
            },
            {
                "role": "user",
                "content": [
                    {"type": "tool_result", "tool_use_id": "toolu_abc", "content": [{"type": "text", "text": value()}]},
                    {"type": "document", "title": value(), "source": {"type": "text", "data": value()}},
                    {"type": "text", "text": value()},
                ],
            },
        ],
        "tools": [{"name": "f", "description": value(), "input_schema": {"type": "object", "description": value()}}],
        "tool_choice": {"type": "none"},
        "metadata": {"user_id": value()},
    }


EVERYWHERE: dict[str, tuple[str, str, Callable[[Canaries], Json]]] = {
    "chat": ("chat/completions", "openai", everywhere_in_chat),
    "responses": ("responses", "openai", everywhere_in_responses),
    "messages": ("messages", "anthropic", everywhere_in_messages),
    "completions": (
        "completions",
        "openai",
        lambda value: {"model": "gpt-4o", "prompt": [value(), value()], "suffix": value(), "user": value()},
    ),
    "embeddings": (
        "embeddings",
        "openai",
        lambda value: {"model": "text-embedding-3-small", "input": [value(), value()], "user": value()},
    ),
    "moderations": ("moderations", "openai", lambda value: {"model": "omni-moderation-latest", "input": [value()]}),
    "rerank": (
        "rerank",
        "openai",
        lambda value: {"model": "rerank-v3.5", "query": value(), "documents": [value(), {"text": value()}]},
    ),
    "images": ("images/generations", "openai", lambda value: {"model": "gpt-image-1", "prompt": value()}),
    "speech": (
        "audio/speech",
        "openai",
        lambda value: {"model": "gpt-4o-mini-tts", "input": value(), "voice": "alloy", "instructions": value()},
    ),
}


@pytest.mark.parametrize("surface", EVERYWHERE)
def test_case_53_no_position_of_a_request_lets_a_value_pass(site: Redacting, surface: str) -> None:
    path, backend, make = EVERYWHERE[surface]
    canaries = Canaries()
    body = make(canaries)
    head = {"authorization": f"Bearer {site.gateway.key}", "anthropic-version": "2023-06-01"}
    answer = httpx.post(f"{site.gateway.url}/v1/{path}", json=body, headers=head, trust_env=False, timeout=20)
    assert answer.status_code == 200, answer.text
    sent = site.raw(backend)
    assert re.findall(r"canary\d+", sent) == []
    assert len(set(re.findall(r"EMAIL_ADDRESS_\d+", sent))) == canaries.count
    record = site.gateway.record(answer.headers["x-request-id"])
    assert record["redaction"]["found"] == {"EMAIL_ADDRESS": canaries.count}
    assert "canary" not in site.everything_told()


# ---- case 54: in other clothes ------------------------------------------------------------------------

DISGUISED = {
    "zero-width": "anna\u200b.mus\u200dter@corp-mail.ch",
    "soft hyphen": "an\u00adna.muster@corp-mail.ch",
    "full width": "anna.muster\uff20corp-mail.ch",
    "look-alikes": "\u0430nna.muster@corp-mail.ch",
    "no-break spaces": CARD.replace(" ", "\u00a0"),
    "full-width digits": CARD.translate({ord(digit): ord(digit) + 0xFEE0 for digit in "0123456789"}),
    "Arabic digits": CARD.translate({ord(digit): ord(digit) + 0x0630 for digit in "0123456789"}),
    "spaced digits": " ".join(CARD.replace(" ", "")),
    "odd dashes": CARD.replace(" ", "\u2011"),
}
GAPS = {
    "in words": "anna dot muster at corp-mail dot ch",
    "base64": b64encode(EMAIL.encode()).decode(),
    "reversed": EMAIL[::-1],
    "rot13": codecs.encode(EMAIL, "rot13").replace("@", "(a)"),
}


@pytest.mark.parametrize("how", DISGUISED)
async def test_case_54_a_value_in_disguise_is_found_and_given_back_as_it_was(site: Redacting, how: str) -> None:
    answer = await say(site, CHAT, f"My card or mail: {DISGUISED[how]}.", stream=False)
    assert re.fullmatch(r"My card or mail: <(EMAIL_ADDRESS|CREDIT_CARD)_1>\.", site.sent()["messages"][0]["content"])
    assert CHAT.said(answer, False)[0].startswith(f"You said: My card or mail: {DISGUISED[how]}..")


def test_case_54_a_value_in_escapes_of_json_is_found(site: Redacting) -> None:
    escaped = "".join(f"\\u{ord(mark):04x}" for mark in EMAIL)
    body = '{"model":"gpt-4o","messages":[{"role":"user","content":"I am %s"}]}'
    head = {"authorization": f"Bearer {site.gateway.key}", "content-type": "application/json"}
    path = f"{site.gateway.url}/v1/chat/completions"
    answer = httpx.post(path, content=body % escaped, headers=head, trust_env=False)
    assert site.raw() == body % "<EMAIL_ADDRESS_1>"
    assert answer.json()["choices"][0]["message"]["content"].startswith(f"You said: I am {EMAIL}.")


@pytest.mark.parametrize("how", GAPS)
async def test_case_54_what_is_known_not_to_be_found(site: Redacting, how: str) -> None:
    """Told in the documents: whoever wants to carry a value out can."""
    await say(site, CHAT, f"I am {GAPS[how]}", stream=False)
    assert site.sent()["messages"][0]["content"] == f"I am {GAPS[how]}"


async def test_case_54_a_value_over_two_messages_is_known_not_to_be_found(site: Redacting) -> None:
    halves = [{"role": "user", "content": half} for half in ("I am anna.muster@", "corp-mail.ch")]
    await say(site, CHAT, "", stream=False, messages=halves)
    assert site.sent()["messages"] == halves


# ---- case 75: images ----------------------------------------------------------------------------------


def picture(size: int) -> str:
    """Base64 in which every detector would find something to try."""
    return b64encode(b"".join(sha256(str(number).encode()).digest() for number in range(size // 43))).decode()


@pytest.mark.parametrize(
    ("head", "size"),
    [
        ("data:image/png;base64,", 10_000_000),
        ("data:image/jpeg;charset=utf-8;base64,", 1_000_000),
        ("data:;base64,", 1_000_000),
    ],
)
def test_case_75_a_large_image_is_sent_as_it_is(site: Redacting, head: str, size: int) -> None:
    """It is no text: it counts in no cap on texts, and nothing is looked for in it."""
    text = f"Who is this? Not {EMAIL}."
    image = head + picture(size)
    body = '{"model":"gpt-4o","messages":[{"role":"user","content":[{"type":"text","text":"%s"},%s]}]}'
    part = '{"type":"image_url","image_url":{"url":"%s"}}' % image  # noqa: UP031 - as the body
    told = {"authorization": f"Bearer {site.gateway.key}", "content-type": "application/json"}
    path = f"{site.gateway.url}/v1/chat/completions"
    answer = httpx.post(path, content=body % (text, part), headers=told, trust_env=False, timeout=60)
    assert answer.status_code == 200, answer.text
    expected = body % (text.replace(EMAIL, "<EMAIL_ADDRESS_1>"), part)
    assert site.fake.calls("openai")[-1]["body_sha256"] == sha256(expected.encode()).hexdigest()
    assert site.gateway.record(answer.headers["x-request-id"])["redaction"]["found"] == {"EMAIL_ADDRESS": 1}


async def test_case_75_what_only_says_that_it_is_an_image_is_looked_at(site: Redacting) -> None:
    urls = [f"https://images.example/{EMAIL}.png", f"data:image/png;base64,{EMAIL}", f"data:text/plain,{EMAIL}"]
    parts: list[Json] = [{"type": "image_url", "image_url": {"url": url}} for url in urls]
    await say(site, CHAT, "", stream=False, messages=[{"role": "user", "content": parts}])
    assert EMAIL not in site.raw()


# ---- case 76: texts that make detectors slow ----------------------------------------------------------

HOSTILE = {
    "base64 and an at sign": picture(20_000) + "@",
    "colons": "a:" * 30_000,
    "digits": "4111 1111 1111 1112 " * 3_000,
    "digits in a row": "4111111111111112" * 4_000,
    "dots": "1.1.1." * 10_000,
    "domains": "a@b." * 16_000,
    "dashes": "-----BEGIN " * 5_000,
    "placeholders": "<EMAIL_ADDRESS_" * 4_000,
    "escapes": "\\u003c" * 6_000,
}


@pytest.mark.parametrize("how", HOSTILE)
async def test_case_76_a_hostile_text_is_answered_and_values_behind_it_are_found(site: Redacting, how: str) -> None:
    """Within the time that a decision has, there and back. How it grows with the text: `make bench-pii`."""
    text = f"{HOSTILE[how]} is of {EMAIL}"  # no more than what the fake keeps of a body
    answer = await say(site, CHAT, text, stream=False, policy="masked-answers")
    assert site.raw().count(EMAIL) == 0
    assert "is of <EMAIL_ADDRESS_" in site.raw()
    assert f" is of {EMAIL}." in CHAT.said(answer, False)[0]


@pytest.mark.parametrize("how", HOSTILE)
async def test_case_76_a_hostile_answer_streams(site: Redacting, how: str) -> None:
    said = f"{HOSTILE[how][:4_000]} is of <EMAIL_ADDRESS_1> and bob@corp-mail.ch, dear friend"
    site.fake.script("openai", [{"text": said}])
    answer = await say(site, CHAT, f"I am {EMAIL}", policy="masked-answers")
    assert CHAT.said(answer, True)[0].endswith(f" is of {EMAIL} and [EMAIL_ADDRESS], dear friend")
