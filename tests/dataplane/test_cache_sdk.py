"""Answers that are given again, as the real SDKs and the bytes on the wire show them: equal to the first ones."""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import count, product
from typing import Any

import anthropic
import openai
import pytest

from extproc.stores.ports import AreaRecord, ChangeSet
from tests.dataplane.conftest import SECRETS, standard_settings
from tests.dataplane.test_directory import Desk, team
from tests.dataplane.test_sdk_matrix import ANTHROPIC_SURFACES, SURFACES, Feature, Surface, request_fields
from tests.support.cache import (
    CHAT,
    COMPLETIONS,
    EMBEDDINGS,
    HEADER,
    MESSAGES,
    ONLY,
    RESPONSES,
    Site,
    chat,
    fresh,
    result,
)
from tests.support.fake import FakeProvider
from tests.support.gateway import RunningGateway
from tests.support.redacted import CARD, EMAIL, TALKS, Talk
from tests.support.sdk import DOORS, Answer, ask, client_at, refusal

pytestmark = [
    pytest.mark.filterwarnings("ignore:deprecated:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:The model 'claude:DeprecationWarning"),
]

Json = dict[str, Any]
BACKENDS = ("openai", "azure", "azure-v1", "anthropic")
STREAMS = pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
OTHER_EMAIL, OTHER_CARD = "zoe.other@corp-mail.ch", "5555 5555 5555 4444"
_cells = count(1)


@pytest.fixture(scope="module")
def shared(fake: FakeProvider) -> Iterator[Site]:
    """Every dialect, some behind a translation, and a team whose calls are redacted."""
    settings = standard_settings(fake)
    settings["backends"] |= {
        "gemini": {"dialect": "gemini", "url": fake.url("openai")},
        "plain": {"dialect": "openai", "url": fake.url("openai"), "surfaces": ["chat"]},
    }
    settings["models"] |= {
        "gemini": {"targets": [[{"backend": "gemini", "model": "gemini-3-flash"}]]},
        "plain": {"targets": [[{"backend": "plain", "model": "gpt-4o"}]]},
    }
    settings |= {"cache": {"mode": "enforce"}, "policies": {"redaction": {"private": {}}}}
    with RunningGateway(settings, SECRETS) as gateway:
        desk = Desk(gateway)
        private = team("private", redaction="private")
        desk.apply(ChangeSet(areas=(AreaRecord("science", ()),), teams=(private,)))
        keys = {"one": desk.minted("one", "private"), "other": desk.key("other", "private")}
        site = Site(gateway, fake, BACKENDS, keys)
        yield site
        site.close()


@pytest.fixture
def site(shared: Site) -> Site:
    shared.fake.reset()
    return shared


# ---- what the SDKs make of it --------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Cell:
    """A call of an SDK; `fields` beside those of the surface."""

    door: str
    surface: str
    feature: str
    stream: bool
    model: str = ""

    @property
    def name(self) -> str:
        parts = (self.door, self.surface, self.feature, "stream" if self.stream else "whole", self.model)
        return "-".join(part for part in parts if part)

    @property
    def table(self) -> Surface:
        is_messages = DOORS[self.door].family == "anthropic"
        return (ANTHROPIC_SURFACES if is_messages else SURFACES)[self.surface]

    @property
    def fields(self) -> Json:
        """With a query of its own, so that no other cell has asked the same."""
        feature = MORE.get(self.feature) or self.table.features[self.feature]
        made = {**request_fields(self.table, feature, self.stream), **({"model": self.model} if self.model else {})}
        if self.surface == "responses":
            made["store"] = False
        return made | {"extra_query": {"cell": f"{self.name}-{next(_cells)}"}}


THINKING = Feature({"thinking": {"type": "enabled", "budget_tokens": 1024}, "max_tokens": 2000})
USAGE = Feature({"stream_options": {"include_usage": True}})
REASONED = Feature({"extra_body": {"x_fake": {"reasoning_tokens": 7, "cached_tokens": 3}}})
MORE = {"thinking": THINKING, "usage": USAGE, "reasoned": REASONED}
FEATURES = {
    "chat": ("plain", "tools", "json_schema", "image", "logprobs", "reasoned"),
    "completions": ("plain", "logprobs"),
    "responses": ("plain", "tools", "json_schema", "image", "reasoned"),
    "messages": ("plain", "tools", "image", "thinking", "reasoned"),
    "embeddings": ("plain",),
}


OPENAI = ("openai", "openai-async", "azure-legacy", "azure-v1-async")
ANTHROPIC = ("anthropic", "anthropic-async", "anthropic-root")
TRANSLATED = (
    ("openai", "chat", "claude-sonnet-5-5"),
    ("openai", "chat", "gemini"),
    ("openai", "responses", "plain"),
    ("anthropic", "messages", "gpt-4o"),
)


def cells() -> Iterator[Cell]:
    """Every feature by one door, a plain call by others, and calls that are translated."""
    for surface, features in FEATURES.items():
        doors = ANTHROPIC if surface == "messages" else OPENAI
        for door, stream in product(doors, (False,) if surface == "embeddings" else (False, True)):
            yield from (
                Cell(door, surface, feature, stream) for feature in (features if door == doors[0] else features[:1])
            )
    yield Cell("openai", "chat", "usage", True)
    for (door, surface, model), feature, stream in product(TRANSLATED, ("plain", "tools"), (False, True)):
        yield Cell(door, surface, feature, stream, model)


def dumped(answer: Answer) -> Any:
    """The parsed answer as plain values."""
    if isinstance(answer.value, list):
        return [event.model_dump(mode="json") for event in answer.value]
    return answer.value.model_dump(mode="json")


@pytest.mark.parametrize("cell", list(cells()), ids=lambda cell: cell.name)
async def test_the_answer_that_is_given_again_is_the_first_one(cell: Cell, site: Site) -> None:
    fields = cell.fields
    async with client_at(DOORS[cell.door], site.gateway.url, site.gateway.key) as client:
        first = await ask(client, cell.table.operation, **fields)
        again = await ask(client, cell.table.operation, **fields)
    assert (first.headers[HEADER], again.headers[HEADER]) == ("miss", "hit")
    assert int(again.headers["age"]) >= 0
    assert "age" not in first.headers
    assert dumped(again) == dumped(first)
    assert site.asked() == 1
    record = site.gateway.record(again.request_id)
    assert (record["ending"], record["status"], record.get("stream", False)) == ("cached", 200, cell.stream)
    feature = cell.table.features.get(cell.feature)
    if feature is not None and feature.check is not None:
        feature.check(again, cell.stream)


@pytest.mark.parametrize("is_async", [False, True], ids=["sync", "async"])
async def test_the_sdks_helpers_put_a_replayed_stream_together(is_async: bool, site: Site) -> None:
    said = [{"role": "user", "content": fresh()}]
    asked: dict[str, Json] = {
        "chat": {"model": "gpt-4o", "messages": said},
        "responses": {"model": "gpt-4o", "input": said, "store": False},
        "messages": {"model": "claude-sonnet-5-5", "messages": said, "max_tokens": 100},
    }
    first, again = [[await final(site, name, is_async, fields) for name, fields in asked.items()] for _ in range(2)]
    assert again == first
    assert site.asked() == len(asked)


async def final(site: Site, name: str, is_async: bool, fields: Json) -> Json:
    """What the helper for streams of an API has at the end."""
    door = ("anthropic" if name == "messages" else "openai") + ("-async" if is_async else "")
    getter = {"chat": "get_final_completion", "responses": "get_final_response", "messages": "get_final_message"}[name]
    async with client_at(DOORS[door], site.gateway.url, site.gateway.key) as client:
        resource = client.chat.completions if name == "chat" else getattr(client, name)
        if is_async:
            async with resource.stream(**fields) as events:
                whole = await getattr(events, getter)()
        else:
            with resource.stream(**fields) as events:
                whole = getattr(events, getter)()
    made: Json = whole.model_dump(mode="json")
    return made


# ---- what goes over the wire ---------------------------------------------------------------------------

WIRE = {
    CHAT: chat("", tools=[{"type": "function", "function": {"name": "f", "parameters": {}}}]),
    COMPLETIONS: {"model": "gpt-4o"},
    RESPONSES: {"model": "gpt-4o", "store": False},
    EMBEDDINGS: {"model": "text-embedding-3-small"},
    MESSAGES: {"model": "claude-sonnet-5-5", "max_tokens": 100},
    "/openai/v1/chat/completions": chat("", model="gpt-4o-azure-v1"),
}
SAID = {COMPLETIONS: "prompt", RESPONSES: "input", EMBEDDINGS: "input"}


def asking(path: str, text: str, **fields: Any) -> Json:
    """A call of a path that says a text."""
    said = {SAID[path]: text} if path in SAID else {"messages": [{"role": "user", "content": text}]}
    return {**WIRE[path], **said, **fields}


@STREAMS
@pytest.mark.parametrize("path", WIRE)
def test_the_bytes_are_those_of_the_first_answer(path: str, stream: bool, site: Site) -> None:
    body = asking(path, fresh(), **({"stream": True} if stream and path != EMBEDDINGS else {}))
    first, again = site.post(path, body), site.post(path, body)
    assert (result(first), result(again)) == ("miss", "hit")
    assert again.content == first.content
    assert again.headers["content-type"].partition(";")[0] == first.headers["content-type"].partition(";")[0]
    assert site.asked() == 1


@STREAMS
@pytest.mark.parametrize("path", [CHAT, COMPLETIONS])
def test_the_usage_that_only_the_gateway_asked_for_is_never_shown(path: str, stream: bool, site: Site) -> None:
    """And whoever asks for it asks something else."""
    text = fresh()
    hidden = asking(path, text, stream=True)
    shown = hidden | {"stream_options": {"include_usage": True}}
    first, again = [site.post(path, hidden) for _ in range(2)]
    told, told_again = [site.post(path, shown) for _ in range(2)]
    assert [result(one) for one in (first, again, told, told_again)] == ["miss", "hit"] * 2
    assert "total_tokens" not in first.text + again.text
    assert "total_tokens" in told.text
    assert told_again.content == told.content
    assert site.told(again)["saved_tokens"] > 0


@pytest.mark.parametrize("how", [{"crlf": True}, {"chunk_bytes": 7}, {"content_length": True}], ids=str)
def test_events_are_kept_as_the_provider_wrote_them(how: Json, site: Site) -> None:
    body = chat(fresh(), stream=True, x_fake=how)
    first, again = site.post(CHAT, body), site.post(CHAT, body)
    assert (result(first), result(again)) == ("miss", "hit")
    assert again.content == first.content
    assert again.text.count("data: ") == first.text.count("data: ") > 10


@STREAMS
def test_a_replayed_answer_of_anthropics_api_has_the_id_that_its_sdk_reads(stream: bool, site: Site) -> None:
    body = asking(MESSAGES, fresh(), stream=stream)
    site.post(MESSAGES, body)
    again = site.post(MESSAGES, body)
    assert result(again) == "hit"
    assert again.headers["request-id"] == again.headers["x-request-id"]


# ---- redaction -----------------------------------------------------------------------------------------


def spoken(talk: Talk, text: str) -> Json:
    fields = talk.fields(text)
    return fields | {"store": False} if talk.name == "responses" else fields


async def say(site: Site, talk: Talk, text: str, key: str, stream: bool) -> Answer:
    async with client_at(DOORS[talk.door], site.gateway.url, site.keys[key]) as client:
        return await ask(client, talk.operation, stream=stream, **spoken(talk, text))


@STREAMS
@pytest.mark.parametrize("name", TALKS)
async def test_every_caller_gets_its_own_values_back(name: str, stream: bool, site: Site) -> None:
    """The same redacted request: what one caller's answer says of its values, another one's says of its own."""
    talk, question = TALKS[name], fresh()
    form = question + " Write to {} and charge {}"
    mine, others = form.format(EMAIL, CARD), form.format(OTHER_EMAIL, OTHER_CARD)
    first = await say(site, talk, mine, "one", stream)
    hits = [
        await say(site, talk, text, key, stream) for text, key in ((others, "other"), (others, "one"), (mine, "other"))
    ]
    assert [answer.headers[HEADER] for answer in (first, *hits)] == ["miss", "hit", "hit", "hit"]
    said = ["".join(talk.said(answer, stream)) for answer in (first, *hits)]
    assert [EMAIL in text and CARD in text for text in said] == [True, False, False, True]
    assert [OTHER_EMAIL in text or OTHER_CARD in text for text in said] == [False, True, True, False]
    assert said[1] == said[0].replace(EMAIL, OTHER_EMAIL).replace(CARD, OTHER_CARD)
    assert said[3] == said[0]
    assert site.asked() == 1


@STREAMS
def test_values_in_another_order_or_number_are_another_question(stream: bool, site: Site) -> None:
    """Twice the same value, and two values, redact to different requests."""
    question = fresh()
    same, two = f"{question} {EMAIL} and {EMAIL}", f"{question} {EMAIL} and {OTHER_EMAIL}"
    assert [result(site.chat(text, key="one", stream=stream)) for text in (same, two)] == ["miss", "miss"]
    assert [result(site.chat(text, key="one", stream=stream)) for text in (same, two)] == ["hit", "hit"]
    assert OTHER_EMAIL in site.chat(two, key="other", stream=stream).text
    assert site.asked() == 2


# ---- refusals ------------------------------------------------------------------------------------------


@STREAMS
@pytest.mark.parametrize("door", ["openai", "openai-async", "azure-legacy", "anthropic", "anthropic-async"])
async def test_nothing_kept_is_a_504_that_no_sdk_retries(door: str, stream: bool, site: Site) -> None:
    family = DOORS[door].family
    operation = "messages.create" if family == "anthropic" else "chat.completions.create"
    fields: Json = {"model": "gpt-4o", "messages": [{"role": "user", "content": fresh()}], "stream": stream}
    if family == "anthropic":
        fields |= {"model": "claude-sonnet-5-5", "max_tokens": 10}
    async with client_at(DOORS[door], site.gateway.url, site.gateway.key, max_retries=2) as client:
        error = await refusal(client, operation, **fields, extra_headers=ONLY)
    assert isinstance(error, openai.InternalServerError | anthropic.InternalServerError)
    assert error.status_code == 504
    assert error.response.headers["x-should-retry"] == "false"
    told = error.response.json()
    assert told["error"]["code"] == "not_cached"
    assert ("type" in told) == (family == "anthropic")
    record = site.gateway.record(error.response.headers["x-request-id"])
    assert (record["refusal"], record.get("client_retry", "0")) == ("not_cached", "0")
    assert site.asked() == 0
