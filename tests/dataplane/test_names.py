"""Names through the real Envoy: a gateway that reads in its configuration file where a model of spaCy's is."""

import asyncio
import json
import re
from collections.abc import Awaitable, Iterator
from contextlib import suppress
from importlib.util import find_spec
from typing import Any, TypeVar

import psutil
import pytest

from extproc.stores.ports import AreaRecord, ChangeSet
from tests.contract.test_ner_local import RULES, pipeline
from tests.dataplane.conftest import SECRETS, standard_settings
from tests.dataplane.test_directory import Desk, team
from tests.support.fake import FakeProvider
from tests.support.gateway import RunningGateway, until
from tests.support.redacted import CHAT, RESPONSES, Redacting, Talk
from tests.support.sdk import DOORS, Answer, ask, client_at, refusal

pytestmark = pytest.mark.skipif(find_spec("spacy") is None, reason="spaCy is not installed")

STREAMS = pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
ENTITIES = {"DEFAULT": "placeholder", "PERSON": "placeholder", "LOCATION": "mask", "ORGANIZATION": "placeholder"}
EMAIL = "ada@corp-mail.ch"
NAMED = f"Ada Lovelace, Acme Ltd, London, 1815: {EMAIL}"
"""Of 1815 the model says that it is a date, for which nobody asked. So short that it is looked through each time."""
REDACTED = "<PERSON_1>, <ORGANIZATION_1>, [LOCATION], 1815: <EMAIL_ADDRESS_1>"
CHILD = "extproc.screening.ner_model"
RELOADED = 60.0

T = TypeVar("T")


@pytest.fixture(scope="module")
def shared(fake: FakeProvider, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Redacting]:
    model = pipeline(tmp_path_factory.mktemp("models") / "rules", RULES)
    names = {"model": model, "entities": ["PERSON", "LOCATION", "ORGANIZATION"], "timeout": "20s"}
    policy = {"entities": ENTITIES, "names": names}
    policies = {"redaction": {"default": policy, "lenient": {**policy, "on_error": "allow"}}}
    with RunningGateway(standard_settings(fake) | {"policies": policies}, SECRETS) as gateway:
        desk = Desk(gateway)
        desk.apply(ChangeSet(areas=(AreaRecord("science", ()),), teams=(team("lenient", redaction="lenient"),)))
        yield Redacting(gateway, fake, {"default": gateway.key, "lenient": desk.key("lenient", "lenient")})


@pytest.fixture
def site(shared: Redacting) -> Redacting:
    shared.fake.reset()
    return shared


async def say(site: Redacting, talk: Talk, text: str, policy: str = "default", stream: bool = False) -> Answer:
    async with client_at(DOORS["openai-async"], site.gateway.url, site.keys[policy]) as client:
        return await ask(client, talk.operation, stream=stream, **talk.fields(text))


async def refused(site: Redacting, text: str) -> Any:
    async with client_at(DOORS["openai-async"], site.gateway.url, site.keys["default"]) as client:
        return await refusal(client, CHAT.operation, **CHAT.fields(text))


async def without_a_model(site: Redacting, call: Awaitable[T]) -> T:
    """What comes of a call while the model's process dies as often as it is started."""
    going = asyncio.ensure_future(call)
    while not going.done():
        for child in site.gateway.processes(CHILD):
            with suppress(psutil.NoSuchProcess):
                child.kill()
        await asyncio.sleep(0.05)
    return await going


# ---- there and back -----------------------------------------------------------------------------------


@STREAMS
@pytest.mark.parametrize("talk", [CHAT, RESPONSES], ids=lambda talk: talk.name)
async def test_the_provider_gets_placeholders_and_the_caller_the_names(
    site: Redacting, talk: Talk, stream: bool
) -> None:
    answer = await say(site, talk, NAMED, stream=stream)
    assert REDACTED in site.raw()
    assert not re.search("Ada|Lovelace|Acme|London", site.raw())
    assert talk.said(answer, stream)[0].startswith(f"You said: {NAMED.replace('London', '[LOCATION]')}.")


async def test_a_conversation_keeps_its_placeholders_as_it_grows(site: Redacting) -> None:
    said = ["I am Ada Lovelace", "and work for Acme Ltd, once more: for Acme Ltd as ADA LOVELACE, or Ada Lovelace"]
    first = await say(site, RESPONSES, said[0])
    turns = [said[0], RESPONSES.said(first, False)[0], said[1]]
    messages = [
        {"role": role, "content": text} for role, text in zip(("user", "assistant", "user"), turns, strict=True)
    ]
    async with client_at(DOORS["openai-async"], site.gateway.url, site.keys["default"]) as client:
        await ask(client, CHAT.operation, model="gpt-4o", messages=messages)
    sent = [message["content"] for message in site.sent()["messages"]]
    assert sent[0] == "I am <PERSON_1>"
    assert sent[1].startswith("You said: I am <PERSON_1>.")
    assert sent[2] == "and work for <ORGANIZATION_1>, once more: for <ORGANIZATION_1> as ADA LOVELACE, or <PERSON_1>"


async def test_what_a_caller_typed_in_the_form_of_a_placeholder_comes_back_as_it_was(site: Redacting) -> None:
    text = "<PERSON_1> is not Ada Lovelace"
    answer = await say(site, CHAT, text)
    assert site.sent()["messages"][0]["content"] == "<LITERAL_1> is not <PERSON_1>"
    assert CHAT.said(answer, False)[0].startswith(f"You said: {text}.")


@STREAMS
async def test_the_record_tells_counts_and_no_names(site: Redacting, stream: bool) -> None:
    answer = await say(site, CHAT, f"{NAMED}, of London", stream=stream)
    assert site.redaction(answer) == {
        "policy": "default",
        "mode": "enforce",
        "found": {"PERSON": 1, "ORGANIZATION": 1, "LOCATION": 2, "EMAIL_ADDRESS": 1},
        "places": {"messages[0].content": 5},
        "restored": 3,
    }
    counted = 'sluice_redactions_total{direction="input",entity="PERSON",mode="enforce",policy="default"}'
    until(lambda: counted in site.gateway.metrics(), what="the metrics")
    assert not re.search("Lovelace|Acme|London", site.everything_told())


# ---- when the model dies ------------------------------------------------------------------------------


async def test_without_its_model_calls_are_refused_until_it_is_back(site: Redacting) -> None:
    error = await without_a_model(site, refused(site, NAMED))
    assert (error.status_code, error.response.json()["error"]["code"]) == (503, "policy_failed")
    assert site.fake.calls("openai") == []
    record = site.gateway.record(error.response.headers["x-request-id"])
    assert (record["ending"], record["refusal"], record["unscreened"]) == ("refused", "policy_failed", ["names"])
    await answered_again(site)
    assert not re.search("Lovelace|Acme|London", site.everything_told())
    told = json.dumps(site.gateway.records("log"))
    assert "names are not found for now: the model's process ended" in told


async def test_a_policy_may_let_names_pass_that_it_does_not_know_yet(site: Redacting) -> None:
    """What patterns find is put in their place all the same, and so are the names of a text that came before."""
    known = f"{NAMED} {'and so on ' * 10}"

    async def calls() -> list[Answer]:
        return [await say(site, CHAT, text, "lenient") for text in (NAMED, known)]

    await say(site, CHAT, known, "lenient")
    unseen, seen = await without_a_model(site, calls())
    before, passed, after = site.bodies()
    assert json.loads(passed)["messages"][0]["content"] == NAMED.replace(EMAIL, "<EMAIL_ADDRESS_1>")
    assert CHAT.said(unseen, False)[0].startswith(f"You said: {NAMED}.")
    assert site.gateway.record(unseen.request_id)["unscreened"] == ["names"]
    assert after == before
    assert REDACTED in after
    assert "unscreened" not in site.gateway.record(seen.request_id)
    await answered_again(site)


async def answered_again(site: Redacting) -> None:
    """A call that comes while the model is loaded waits for it; one that comes before is refused at once."""
    async with asyncio.timeout(RELOADED):
        while True:
            answer = await say(site, CHAT, NAMED, "lenient")
            if site.sent()["messages"][0]["content"] == REDACTED:
                break
            await asyncio.sleep(0.1)
    assert "unscreened" not in site.gateway.record(answer.request_id)
    assert CHAT.said(answer, False)[0].startswith("You said: Ada Lovelace, Acme Ltd, [LOCATION]")
