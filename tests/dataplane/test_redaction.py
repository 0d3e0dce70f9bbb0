"""Redaction as callers and providers meet it: through the real Envoy, with the real SDKs.

The fake provider repeats what it was told, so an answer shows what became of the values on the way there and back.
"""

import json
import re
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from itertools import pairwise
from typing import Any

import httpx
import pytest

from tests.support.fake import FakeProvider
from tests.support.gateway import until
from tests.support.redacted import (
    CARD,
    CHAT,
    COMPLETIONS,
    EMAIL,
    LOST,
    MESSAGES,
    PHONE,
    POLICIES,
    PRIVATE_KEY,
    PROSE,
    REDACTED,
    RESPONSES,
    TALKS,
    VALUES,
    Redacting,
    Talk,
    leaks,
    redacting,
    with_each,
)
from tests.support.sdk import DOORS, Answer, ask, client_at, refusal

pytestmark = pytest.mark.filterwarnings("ignore:The model 'claude:DeprecationWarning")

Json = dict[str, Any]

ALL_ONCE = dict.fromkeys(VALUES, 1)
STREAMS = pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
EACH_API = pytest.mark.parametrize("name", TALKS)


@pytest.fixture(scope="module")
def shared(fake: FakeProvider) -> Iterator[Redacting]:
    with redacting(fake) as running:
        yield running


@pytest.fixture
def site(shared: Redacting) -> Redacting:
    """The shared gateway, with nothing scripted and nothing recorded at the fakes."""
    shared.fake.reset()
    return shared


@asynccontextmanager
async def client(site: Redacting, talk: Talk, policy: str = "default", door: str = "") -> AsyncIterator[Any]:
    async with client_at(DOORS[door or talk.door], site.gateway.url, site.keys[policy]) as made:
        yield made


async def say(
    site: Redacting, talk: Talk, text: str, /, *, policy: str = "default", stream: bool = False, **fields: Any
) -> Answer:
    """Say a text under a policy and read the answer to its end."""
    async with client(site, talk, policy) as made:
        return await ask(made, talk.operation, stream=stream, **{**talk.fields(text), **fields})


async def refused(site: Redacting, talk: Talk, text: str, /, *, policy: str, **fields: Any) -> Any:
    """The SDK's error for a text that nothing came of: no provider was called."""
    before = len(site.fake.calls(talk.backend))
    async with client(site, talk, policy) as made:
        error = await refusal(made, talk.operation, **{**talk.fields(text), **fields})
    assert len(site.fake.calls(talk.backend)) == before
    return error


def code_of(error: Any) -> str:
    """Of an error in either family's shape."""
    told: str = error.response.json()["error"]["code"]
    return told


# ---- there and back -----------------------------------------------------------------------------------

BY_DOOR = [
    (name, door)
    for name, doors in {
        "chat": ("openai", "openai-async", "azure-legacy", "azure-v1-async"),
        "completions": ("openai", "openai-async", "azure-legacy"),
        "responses": ("openai", "openai-async", "azure-v1"),
        "messages": ("anthropic", "anthropic-async", "anthropic-root"),
    }.items()
    for door in doors
]


@STREAMS
@pytest.mark.parametrize(("name", "door"), BY_DOOR, ids="-".join)
async def test_the_provider_gets_placeholders_and_the_caller_its_own_values(
    site: Redacting, name: str, door: str, stream: bool
) -> None:
    talk = TALKS[name]
    async with client(site, talk, door=door) as made:
        answer = await ask(made, talk.operation, stream=stream, **talk.fields(PROSE))
    assert leaks(site.raw(talk.backend)) == []
    assert REDACTED in json.dumps(site.sent(talk.backend), ensure_ascii=False)
    (said,) = talk.said(answer, stream)
    assert said.startswith(f"You said: {PROSE}.")


@STREAMS
@pytest.mark.parametrize("talk", [CHAT, COMPLETIONS], ids=lambda talk: talk.name)
async def test_two_choices_are_restored_each(site: Redacting, talk: Talk, stream: bool) -> None:
    answer = await say(site, talk, PROSE, stream=stream, n=2)
    first, second = talk.said(answer, stream)
    assert first.startswith(f"You said: {PROSE}.")
    assert second.startswith(f"You said (2): {PROSE}.")


def tools(talk: Talk) -> Json:
    """The field that declares a tool, with a value in it."""
    about = {"description": f"Writes a letter, as {EMAIL} does."}
    schema = {"type": "object", "properties": {"to": {"type": "string"}}}
    match talk.name:
        case "chat":
            return {"tools": [{"type": "function", "function": {"name": "send", **about, "parameters": schema}}]}
        case "responses":
            return {"tools": [{"type": "function", "name": "send", **about, "parameters": schema, "strict": False}]}
        case _:
            return {"tools": [{"name": "send", **about, "input_schema": schema}]}


@STREAMS
@pytest.mark.parametrize("talk", [CHAT, RESPONSES, MESSAGES], ids=lambda talk: talk.name)
async def test_values_in_arguments_of_tool_calls_are_escaped_again(site: Redacting, talk: Talk, stream: bool) -> None:
    """A private key has line feeds, which may not stand in a string of JSON."""
    wanted = {"to": "<EMAIL_ADDRESS_1>", "all": ["<PRIVATE_KEY_1>", "no: <PHONE_NUMBER_1>!"], "n": 1}
    calls = [{"name": "send", "arguments": wanted}, {"name": "send", "arguments": {"<EMAIL_ADDRESS_1>": {}}}]
    site.fake.script(talk.backend, [{"tool_calls": calls}])
    answer = await say(site, talk, f"{PHONE} and {PRIVATE_KEY}", stream=stream, **tools(talk))
    assert EMAIL not in site.raw(talk.backend)
    first, second = map(json.loads, talk.arguments(answer, stream))
    assert first == {"to": EMAIL, "all": [PRIVATE_KEY, f"no: {PHONE}!"], "n": 1}
    assert second == {EMAIL: {}}


@STREAMS
@pytest.mark.parametrize(
    ("talk", "wants_json"),
    [
        (CHAT, {"response_format": {"type": "json_object"}}),
        (RESPONSES, {"text": {"format": {"type": "json_object"}}}),
    ],
    ids=["chat", "responses"],
)
async def test_values_in_answers_that_are_json_are_escaped_again(
    site: Redacting, talk: Talk, wants_json: Json, stream: bool
) -> None:
    text = f'the key is {PRIVATE_KEY} of "{EMAIL}"'
    answer = await say(site, talk, text, stream=stream, **wants_json)
    assert PRIVATE_KEY.splitlines()[1] not in site.raw()
    (said,) = talk.said(answer, stream)
    assert json.loads(said) == {"answer": f"You said: {text}"}


async def test_embeddings_are_of_placeholders(site: Redacting) -> None:
    async with client(site, CHAT) as made:
        fields = {"model": "text-embedding-3-small", "input": [f"of {EMAIL}", "of <b>", f"to {EMAIL} and {PHONE}"]}
        answer = await ask(made, "embeddings.create", **fields)
        assert site.sent()["input"] == [
            "of <EMAIL_ADDRESS_1>",
            "of <b>",
            "to <EMAIL_ADDRESS_1> and <PHONE_NUMBER_1>",
        ]
        same = await ask(made, "embeddings.create", **(fields | {"input": "of other@corp-mail.ch"}))
    assert site.redaction(answer)["found"] == {"EMAIL_ADDRESS": 2, "PHONE_NUMBER": 1}
    assert answer.value.data[0].embedding == same.value.data[0].embedding


async def test_what_holds_no_values_is_sent_and_answered_byte_for_byte(site: Redacting) -> None:
    body = '{ "model":"gpt-4o",  "messages" : [{"role":"user","content":"ol\\u00e9 \\/ Grüße 💡"}], "n": 1}'
    answers = []
    for policy in ("default", "off"):
        head = {"authorization": f"Bearer {site.keys[policy]}", "content-type": "application/json"}
        posted = httpx.post(f"{site.gateway.url}/v1/chat/completions", content=body, headers=head, trust_env=False)
        assert site.raw() == body
        answers.append(posted.text.replace(posted.json()["id"], "id"))
    assert answers[0] == answers[1]


async def test_only_values_are_changed_in_the_bytes(site: Redacting) -> None:
    body = '{ "model":"gpt-4o",\t"messages" : [{"content":"\\u00e9 %s \\/ 💡" , "role":"user"}],"seed":1e1 }'
    head = {"authorization": f"Bearer {site.gateway.key}", "content-type": "application/json"}
    path = f"{site.gateway.url}/v1/chat/completions"
    posted = httpx.post(path, content=body % EMAIL, headers=head, trust_env=False)
    assert posted.status_code == 200, posted.text
    assert site.raw() == body % "<EMAIL_ADDRESS_1>"


# ---- a conversation -----------------------------------------------------------------------------------


def turns(talk: Talk) -> list[Json]:
    """A conversation as it is resent, longer with each call; each turn brings values, old and new."""
    said = [f"I am {EMAIL}", f"then call {PHONE}", f"{EMAIL} pays with {CARD}", f"not {PHONE}, eva@corp-mail.ch"]
    field = "input" if talk is RESPONSES else "messages"
    messages: list[Json] = []
    calls = []
    for number, text in enumerate(said):
        messages += [{"role": "user", "content": text}]
        calls.append({**talk.fields(""), field: list(messages)})
        messages += [{"role": "assistant", "content": f"{number}: you are {EMAIL}"}]
    return calls


@pytest.mark.parametrize("talk", [CHAT, RESPONSES, MESSAGES], ids=lambda talk: talk.name)
async def test_a_conversation_keeps_its_placeholders_as_it_grows(site: Redacting, talk: Talk) -> None:
    """So a provider's cache of prompts still knows its beginning, and the model who is who."""
    field = "input" if talk is RESPONSES else "messages"
    async with client(site, talk) as made:
        for fields in turns(talk):
            await ask(made, talk.operation, **fields)
    sent = [json.loads(body)[field] for body in site.bodies(talk.backend)]
    for earlier, later in pairwise(sent):
        assert later[: len(earlier)] == earlier
    assert sent[-1][-1]["content"] == "not <PHONE_NUMBER_1>, <EMAIL_ADDRESS_2>"


@STREAMS
@EACH_API
async def test_what_a_caller_typed_in_the_form_of_a_placeholder_comes_back_as_it_was(
    site: Redacting, name: str, stream: bool
) -> None:
    """Were it sent as it is, the answer would show somebody's value where the caller wrote its own words."""
    text = f"<EMAIL_ADDRESS_1> and EMAIL_ADDRESS_1 are {EMAIL}, <email address 2> is nobody, <EMAIL_ADDRESS_x> no name"
    talk = TALKS[name]
    answer = await say(site, talk, text, stream=stream)
    assert (
        "<LITERAL_1> and <LITERAL_2> are <EMAIL_ADDRESS_1>, <LITERAL_3> is nobody, <EMAIL_ADDRESS_x> no name"
        in json.dumps(site.sent(talk.backend))
    )
    assert talk.said(answer, stream)[0].startswith(f"You said: {text}.")


@STREAMS
@EACH_API
async def test_nobody_gets_what_stands_for_another_callers_value(site: Redacting, name: str, stream: bool) -> None:
    talk = TALKS[name]
    await say(site, talk, f"I am {EMAIL}")
    site.fake.script(talk.backend, [{"text": "<EMAIL_ADDRESS_1> <EMAIL_ADDRESS_2> <PHONE_NUMBER_1>"}])
    answer = await say(site, talk, "I am eva@corp-mail.ch", stream=stream)
    assert talk.said(answer, stream) == ["eva@corp-mail.ch <EMAIL_ADDRESS_2> <PHONE_NUMBER_1>"]
    assert site.redaction(answer)["unrestored"] >= 1


@STREAMS
@EACH_API
async def test_what_models_make_of_placeholders_is_understood(site: Redacting, name: str, stream: bool) -> None:
    talk = TALKS[name]
    said = "**<EMAIL\\_ADDRESS\\_1>**, `<Email_Address_1>`, &lt;EMAIL_ADDRESS_1&gt;, EMAIL_ADDRESS_1."
    site.fake.script(talk.backend, [{"text": said}])
    answer = await say(site, talk, f"I am {EMAIL}", stream=stream)
    assert talk.said(answer, stream) == [f"**{EMAIL}**, `{EMAIL}`, {EMAIL}, {EMAIL}."]


# ---- actions ------------------------------------------------------------------------------------------


@EACH_API
async def test_masks_say_what_stood_there_and_stay(site: Redacting, name: str) -> None:
    talk = TALKS[name]
    answer = await say(site, talk, PROSE, policy="mask")
    assert leaks(site.raw(talk.backend)) == []
    assert talk.said(answer, False)[0].startswith(f"You said: {with_each('[{}]')}.")


@EACH_API
async def test_dropped_values_leave_a_mark_of_omission(site: Redacting, name: str) -> None:
    talk = TALKS[name]
    answer = await say(site, talk, PROSE, policy="drop")
    assert leaks(site.raw(talk.backend)) == []
    assert talk.said(answer, False)[0].startswith(f"You said: {with_each('…')}.")


@EACH_API
async def test_flagged_values_are_counted_and_sent(site: Redacting, name: str) -> None:
    talk = TALKS[name]
    answer = await say(site, talk, PROSE, policy="flag")
    assert PROSE in site.raw(talk.backend)
    assert site.redaction(answer)["found"] == ALL_ONCE


async def test_hashes_are_the_same_for_a_value_in_a_team_and_others_in_another(site: Redacting) -> None:
    hashes = []
    for policy in ("hash", "hash", "hash-too"):
        answer = await say(site, CHAT, f"{EMAIL} or {EMAIL.upper()} or eva@corp-mail.ch", policy=policy)
        sent = site.sent()["messages"][0]["content"]
        assert CHAT.said(answer, False)[0].startswith(f"You said: {sent}.")
        hashes.append(sent.split(" or "))
    (mine, same, other), again, elsewhere = hashes
    assert mine == same != other
    assert again == [mine, same, other]
    assert not set(elsewhere) & set(again)
    assert re.fullmatch(r"\[EMAIL_ADDRESS#[0-9a-f]{16}\]", mine)


@STREAMS
@EACH_API
async def test_a_blocked_call_tells_types_and_counts_and_goes_nowhere(site: Redacting, name: str, stream: bool) -> None:
    error = await refused(site, TALKS[name], f"{PROSE}. Or eva@corp-mail.ch", policy="block", stream=stream)
    assert (error.status_code, code_of(error)) == (400, "sensitive_data")
    counts = ", ".join(f"{count} × {entity}" for entity, count in sorted({**ALL_ONCE, "EMAIL_ADDRESS": 2}.items()))
    assert counts in error.response.text
    assert leaks(error.response.text) == []
    record = site.gateway.record(error.response.headers["x-request-id"])
    assert (record["ending"], record["refusal"]) == ("refused", "sensitive_data")
    assert record["redaction"]["found"] == {**ALL_ONCE, "EMAIL_ADDRESS": 2}


async def test_each_entity_has_its_own_action(site: Redacting) -> None:
    answer = await say(site, CHAT, f"{EMAIL} {PHONE} {CARD} eva@corp-mail.ch", policy="mixed")
    assert site.sent()["messages"][0]["content"] == f"<EMAIL_ADDRESS_1> [PHONE_NUMBER] {CARD} <EMAIL_ADDRESS_2>"
    assert CHAT.said(answer, False)[0].startswith(f"You said: {EMAIL} [PHONE_NUMBER] {CARD} eva@corp-mail.ch.")


async def test_words_of_a_policy_are_found_or_left(site: Redacting) -> None:
    text = f"Blue Heron asks support@corp-mail.ch, not {EMAIL}"
    answer = await say(site, CHAT, text, policy="words")
    expected = "<PROJECT_1> asks support@corp-mail.ch, not <EMAIL_ADDRESS_1>"
    assert site.sent()["messages"][0]["content"] == expected
    assert CHAT.said(answer, False)[0].startswith(f"You said: {text}.")


# ---- modes and teams ----------------------------------------------------------------------------------


@STREAMS
@EACH_API
async def test_shadow_finds_and_counts_and_changes_nothing(site: Redacting, name: str, stream: bool) -> None:
    """Neither what is sent nor what is answered, though the policy would block both."""
    talk = TALKS[name]
    answer = await say(site, talk, PROSE, policy="shadow", stream=stream)
    assert PROSE in site.raw(talk.backend)
    assert talk.said(answer, stream)[0].startswith(f"You said: {PROSE}.")
    told = site.redaction(answer)
    assert (told["mode"], told["found"]) == ("shadow", ALL_ONCE)
    assert set(told["said"]) == set(ALL_ONCE)


async def test_a_policy_that_is_off_looks_at_nothing(site: Redacting) -> None:
    answer = await say(site, CHAT, PROSE, policy="off")
    assert PROSE in site.raw()
    assert "redaction" not in site.gateway.record(answer.request_id)


async def test_each_team_has_its_own_policy(site: Redacting) -> None:
    """Whoever called before: what was found in a text is remembered for the policy under which it was found."""
    text = f"This text is long enough that what was found in it is remembered; it is of {EMAIL}, {PHONE} and {CARD}."
    said = {}
    for policy in ("off", "default", "mask", "mixed", "flag", "default", "off"):
        await say(site, CHAT, text, policy=policy)
        said[policy] = site.sent()["messages"][0]["content"].partition(" is of ")[2].removesuffix(".")
    assert said == {
        "off": f"{EMAIL}, {PHONE} and {CARD}",
        "default": "<EMAIL_ADDRESS_1>, <PHONE_NUMBER_1> and <CREDIT_CARD_1>",
        "mask": "[EMAIL_ADDRESS], [PHONE_NUMBER] and [CREDIT_CARD]",
        "mixed": f"<EMAIL_ADDRESS_1>, [PHONE_NUMBER] and {CARD}",
        "flag": f"{EMAIL}, {PHONE} and {CARD}",
    }


async def test_a_team_whose_policy_is_not_there_calls_nothing(site: Redacting) -> None:
    error = await refused(site, CHAT, "Hello!", policy=LOST)
    assert (error.status_code, code_of(error)) == (503, "policy_unknown")


# ---- what cannot be looked through --------------------------------------------------------------------

LONG = f"{EMAIL} " + "and so on " * 200
MANY = [EMAIL] + [f"w{number}" for number in range(100_001)]


@EACH_API
async def test_more_text_than_is_looked_through_is_refused(site: Redacting, name: str) -> None:
    error = await refused(site, TALKS[name], LONG, policy="strict")
    assert (error.status_code, code_of(error)) == (400, "unreadable_text")
    assert leaks(error.response.text) == []
    assert site.gateway.record(error.response.headers["x-request-id"])["unscreened"] == ["redaction"]


@pytest.mark.parametrize("policy", ["lenient", "shadow-strict"])
@EACH_API
async def test_a_policy_may_let_pass_what_it_could_not_look_through(site: Redacting, name: str, policy: str) -> None:
    talk = TALKS[name]
    answer = await say(site, talk, LONG, policy=policy)
    assert EMAIL in site.raw(talk.backend)
    assert site.gateway.record(answer.request_id)["unscreened"] == ["redaction"]


async def test_a_short_text_under_a_policy_that_lets_long_ones_pass_is_redacted(site: Redacting) -> None:
    await say(site, CHAT, f"I am {EMAIL}", policy="lenient")
    assert site.sent()["messages"][0]["content"] == "I am <EMAIL_ADDRESS_1>"


async def test_more_texts_than_are_looked_through_are_refused_or_pass_as_the_policy_says(site: Redacting) -> None:
    body = {"model": "text-embedding-3-small", "input": MANY, "dimensions": 1}
    told = {}
    for policy in ("default", "lenient"):
        head = {"authorization": f"Bearer {site.keys[policy]}"}
        path = f"{site.gateway.url}/v1/embeddings"
        answer = httpx.post(path, json=body, headers=head, trust_env=False, timeout=60)
        told[policy] = answer.status_code, len(site.fake.calls("openai"))
    assert told == {"default": (400, 0), "lenient": (200, 1)}


# ---- calls that lean on a history at the provider -----------------------------------------------------


@STREAMS
async def test_a_stateful_call_gets_masks(site: Redacting, stream: bool) -> None:
    """Its placeholders would mean other values than those of the call before, which nobody remembers."""
    first = await say(site, RESPONSES, f"I am {EMAIL}")
    assert RESPONSES.said(first, False)[0].startswith(f"You said: I am {EMAIL}.")
    second = await say(site, RESPONSES, f"Call {PHONE}", stream=stream, previous_response_id=first.value.id)
    assert site.sent()["input"] == "Call [PHONE_NUMBER]"
    assert RESPONSES.said(second, stream)[0].startswith("You said: Call [PHONE_NUMBER].")
    assert site.redaction(second)["found"] == {"PHONE_NUMBER": 1}


async def test_a_call_in_the_background_gets_masks(site: Redacting) -> None:
    """When its answer is fetched, what stood for its values is forgotten."""
    queued = await say(site, RESPONSES, f"Call {PHONE}", background=True)
    assert site.sent()["input"] == "Call [PHONE_NUMBER]"
    async with client(site, RESPONSES) as made:
        fetched = await ask(made, "responses.retrieve", response_id=queued.value.id)
    assert RESPONSES.said(fetched, False)[0].startswith("You said: Call [PHONE_NUMBER].")


async def test_a_stored_response_keeps_its_placeholders_at_the_provider(site: Redacting) -> None:
    first = await say(site, RESPONSES, f"I am {EMAIL}")
    async with client(site, RESPONSES) as made:
        fetched = await ask(made, "responses.retrieve", response_id=first.value.id)
    assert RESPONSES.said(fetched, False)[0].startswith("You said: I am <EMAIL_ADDRESS_1>.")


@pytest.mark.parametrize("leaning", ["previous_response_id", "conversation", "background"])
async def test_a_policy_may_refuse_stateful_calls(site: Redacting, leaning: str) -> None:
    first = await say(site, RESPONSES, f"I am {EMAIL}", policy="whole")
    assert RESPONSES.said(first, False)[0].startswith(f"You said: I am {EMAIL}.")
    fields = {"previous_response_id": first.value.id, "conversation": "conv_abcdefghi", "background": True}
    error = await refused(site, RESPONSES, "Hello!", policy="whole", **{leaning: fields[leaning]})
    assert (error.status_code, code_of(error)) == (400, "policy_violation")


# ---- what is told -------------------------------------------------------------------------------------


async def test_records_and_metrics_tell_types_counts_and_places_and_no_values(site: Redacting) -> None:
    answer = await say(site, CHAT, PROSE, stream=True)
    assert site.redaction(answer) == {
        "policy": "default",
        "mode": "enforce",
        "found": ALL_ONCE,
        "places": {"messages[0].content": len(VALUES)},
        "restored": len(VALUES),
    }
    counted = 'sluice_redactions_total{direction="input",entity="CREDIT_CARD",mode="enforce",policy="default"}'
    until(lambda: counted in site.gateway.metrics(), what="the metrics")
    await refused(site, CHAT, PROSE, policy="block")
    assert leaks(site.everything_told()) == []


def test_every_policy_of_these_tests_is_the_policy_of_a_key(site: Redacting) -> None:
    assert set(site.keys) == {*POLICIES, LOST}
