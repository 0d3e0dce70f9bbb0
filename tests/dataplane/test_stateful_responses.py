"""Responses that lean on state at a provider: pinned to the backend that holds it, for the key that made it."""

import json
import subprocess
import sys
from base64 import b64decode
from collections.abc import AsyncIterator, Iterator
from typing import Any

import httpx
import openai
import pytest

from tests.support.fake import FakeProvider
from tests.support.gateway import ROOT, RunningGateway, until
from tests.support.sdk import DOORS, ask, client_at, refusal

Json = dict[str, Any]

BACKENDS = ("north", "south")
MODEL = "gpt-4o"


@pytest.fixture(scope="module")
def provider() -> Iterator[FakeProvider]:
    with FakeProvider(*BACKENDS) as started:
        yield started


@pytest.fixture(scope="module")
def running(provider: FakeProvider) -> Iterator[RunningGateway]:
    pair: list[Json] = [{"backend": name} for name in BACKENDS]
    settings: Json = {
        "backends": {name: {"dialect": "openai", "url": provider.url(name)} for name in BACKENDS},
        "models": {
            MODEL: {"targets": [pair]},
            "gpt-4o-north": {"targets": [[{"backend": "north", "model": MODEL}]]},
            "gpt-4o-south": {"targets": [[{"backend": "south", "model": MODEL}]]},
            "gpt-4o-either": {"targets": [[{"backend": name, "model": MODEL}] for name in BACKENDS]},
        },
    }
    with RunningGateway(settings) as gateway:
        yield gateway


@pytest.fixture
def fake(provider: FakeProvider) -> FakeProvider:
    provider.reset()
    return provider


@pytest.fixture
async def client(running: RunningGateway) -> AsyncIterator[Any]:
    async with client_at(DOORS["openai"], running.url, running.key) as made:
        yield made


@pytest.fixture(scope="module")
def other_key(running: RunningGateway) -> str:
    """A second key of the gateway, in force."""
    command = [
        sys.executable,
        "-m",
        "extproc.cli",
        "keys",
        "create",
        "other",
        "--json",
        "--config",
        str(running.config),
    ]
    made = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    key: str = json.loads(made.stdout)["key"]
    headers = {"authorization": f"Bearer {key}"}
    until(lambda: httpx.get(f"{running.url}/v1/models", headers=headers, trust_env=False).status_code == 200)
    return key


def opposite(backend: str) -> str:
    return BACKENDS[1 - BACKENDS.index(backend)]


def calls_at(fake: FakeProvider) -> dict[str, list[Json]]:
    return {name: fake.calls(name) for name in BACKENDS}


def only_call(fake: FakeProvider) -> tuple[str, Json]:
    """The backend that was called, once, and the call."""
    ((name, call),) = [(name, call) for name, calls in calls_at(fake).items() for call in calls]
    return name, call


def nobody_called(fake: FakeProvider) -> bool:
    return not any(calls_at(fake).values())


def assert_unknown(error: Any) -> None:
    assert isinstance(error, openai.NotFoundError)
    assert error.code == "state_not_found"
    assert error.response.headers["x-should-retry"] == "false"
    assert "retry-after" not in error.response.headers


# ---- conversations ------------------------------------------------------------------------------------


async def test_twenty_conversations_each_stay_where_they_began(
    running: RunningGateway, fake: FakeProvider, client: Any
) -> None:
    began = set()
    for number in range(20):
        first = await ask(client, "responses.create", model=MODEL, input=f"My name is {number}.")
        home = running.record(first.request_id)["backend"]
        began.add(home)
        previous = first.value.id
        for turn in range(3):
            stream = turn == 1
            answer = await ask(
                client,
                "responses.create",
                model=MODEL,
                input="Which?",
                previous_response_id=previous,
                stream=stream,
            )
            record = running.record(answer.request_id)
            assert (record["backend"], record["chain"]) == (home, [home])
            previous = answer.value[-1].response.id if stream else answer.value.id
    assert began == set(BACKENDS)  # or the pins would prove nothing
    assert all(call["status"] == 200 for calls in calls_at(fake).values() for call in calls)


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("home", BACKENDS)
async def test_a_pinned_call_never_fails_over(
    home: str, stream: bool, running: RunningGateway, fake: FakeProvider, client: Any
) -> None:
    first = await ask(client, "responses.create", model=f"gpt-4o-{home}", input="hi")
    fake.reset()
    fake.script(home, [{"status": 500}])
    error = await refusal(
        client,
        "responses.create",
        model="gpt-4o-either",
        input="on",
        previous_response_id=first.value.id,
        stream=stream,
    )
    assert error.body["message"] == "The fake was asked to answer 500."  # the provider's own words
    assert isinstance(error, openai.InternalServerError)
    assert only_call(fake)[0] == home
    assert running.record(error.response.headers["x-request-id"])["chain"] == [home]


async def test_without_state_the_same_model_does_fail_over(
    running: RunningGateway, fake: FakeProvider, client: Any
) -> None:
    fake.script("north", [{"status": 500}])
    answer = await ask(client, "responses.create", model="gpt-4o-either", input="hi")
    assert running.record(answer.request_id)["backend"] == "south"


async def test_the_state_of_another_model_is_not_found(fake: FakeProvider, client: Any) -> None:
    first = await ask(client, "responses.create", model="gpt-4o-north", input="hi")
    fake.reset()
    assert_unknown(
        await refusal(client, "responses.create", model="gpt-4o-south", input="on", previous_response_id=first.value.id)
    )
    assert nobody_called(fake)


# ---- whose ids ----------------------------------------------------------------------------------------

UNKNOWN: dict[str, Json] = {
    "previous_response_id": {"previous_response_id": "resp_nobody", "input": "on"},
    "conversation": {"conversation": "conv_nobody", "input": "on"},
    "conversation object": {"conversation": {"id": "conv_nobody"}, "input": "on"},
    "item_reference": {"input": [{"type": "item_reference", "id": "msg_nobody"}, {"role": "user", "content": "on"}]},
    "bare reasoning": {
        "input": [{"type": "reasoning", "id": "rs_nobody", "summary": []}, {"role": "user", "content": "on"}]
    },
}


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("fields", UNKNOWN.values(), ids=UNKNOWN)
async def test_unknown_state_is_not_found(fields: Json, stream: bool, fake: FakeProvider, client: Any) -> None:
    error = await refusal(client, "responses.create", model=MODEL, stream=stream, **fields)
    assert_unknown(error)
    assert "store: false" in error.body["message"]  # what a user can do about it
    assert nobody_called(fake)


async def test_another_keys_state_is_not_found_and_told_in_the_same_words(
    running: RunningGateway, fake: FakeProvider, client: Any, other_key: str
) -> None:
    mine = await ask(client, "responses.create", model=MODEL, input="secret")
    fake.reset()
    item = mine.value.output[0].id
    async with client_at(DOORS["openai"], running.url, other_key) as stranger:
        unknown = await refusal(
            stranger, "responses.create", model=MODEL, input="on", previous_response_id="resp_nobody"
        )
        stolen = [
            await refusal(stranger, "responses.create", model=MODEL, input="on", previous_response_id=mine.value.id),
            await refusal(stranger, "responses.create", model=MODEL, input=[{"type": "item_reference", "id": item}]),
            await refusal(stranger, "responses.retrieve", response_id=mine.value.id),
            await refusal(stranger, "responses.delete", response_id=mine.value.id),
            await refusal(stranger, "responses.cancel", response_id=mine.value.id),
            await refusal(stranger, "responses.input_items.list", response_id=mine.value.id),
        ]
    for error in stolen:
        assert_unknown(error)
        assert error.body["message"] == unknown.body["message"]
    assert nobody_called(fake)
    retrieved = await ask(client, "responses.retrieve", response_id=mine.value.id)
    assert retrieved.value.id == mine.value.id  # and it is still there


async def test_a_strangers_naming_of_an_id_does_not_make_it_theirs(
    running: RunningGateway, fake: FakeProvider, client: Any, other_key: str
) -> None:
    mine = await ask(client, "responses.create", model="gpt-4o-north", input="hi")
    async with client_at(DOORS["openai"], running.url, other_key) as stranger:
        # A backend that repeats an id, by chance or by malice, in an answer to somebody else.
        forged = json.dumps({"id": mine.value.id, "object": "response", "store": True, "output": []})
        await ask(
            stranger,
            "responses.create",
            model="gpt-4o-north",
            input="hi",
            extra_body={"x_fake": {"error_body": forged, "status": 200}},
        )
        assert_unknown(await refusal(stranger, "responses.retrieve", response_id=mine.value.id))
    assert (await ask(client, "responses.retrieve", response_id=mine.value.id)).value.id == mine.value.id


# ---- items and encrypted content ----------------------------------------------------------------------


async def test_an_item_reference_goes_to_the_backend_that_made_the_item(
    running: RunningGateway, fake: FakeProvider, client: Any
) -> None:
    for home in BACKENDS:
        first = await ask(client, "responses.create", model=f"gpt-4o-{home}", input="hi")
        fake.reset()
        reference = [{"type": "item_reference", "id": first.value.output[0].id}, {"role": "user", "content": "on"}]
        answer = await ask(client, "responses.create", model=MODEL, input=reference)
        name, call = only_call(fake)
        assert name == home
        assert json.loads(b64decode(call["body_base64"]))["input"] == reference
        assert running.record(answer.request_id)["chain"] == [home]


async def test_items_of_two_backends_cannot_be_continued_together(fake: FakeProvider, client: Any) -> None:
    made = [await ask(client, "responses.create", model=f"gpt-4o-{home}", input="hi") for home in BACKENDS]
    fake.reset()
    references = [{"type": "item_reference", "id": answer.value.output[0].id} for answer in made]
    assert_unknown(await refusal(client, "responses.create", model=MODEL, input=references))
    assert nobody_called(fake)


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("home", BACKENDS)
async def test_encrypted_reasoning_returns_to_the_backend_that_can_read_it(
    home: str, stream: bool, fake: FakeProvider, client: Any
) -> None:
    asked: Json = {"store": False, "include": ["reasoning.encrypted_content"], "stream": stream}
    first = await ask(client, "responses.create", model=f"gpt-4o-{home}", input="think", **asked)
    response = first.value[-1].response if stream else first.value
    reasoning = response.output[0].model_dump(exclude_none=True)
    assert reasoning["encrypted_content"]
    for _ in range(4):  # a draw would find the other backend sooner or later
        fake.reset()
        await ask(
            client, "responses.create", model=MODEL, input=[reasoning, {"role": "user", "content": "on"}], **asked
        )
        assert only_call(fake)[0] == home


async def test_encrypted_reasoning_that_we_never_saw_is_the_providers_to_judge(fake: FakeProvider, client: Any) -> None:
    foreign = {"type": "reasoning", "id": "rs_elsewhere", "summary": [], "encrypted_content": "Zm9yZWlnbg=="}
    error = await refusal(
        client, "responses.create", model=MODEL, input=[foreign, {"role": "user", "content": "on"}], store=False
    )
    assert (error.status_code, error.code) == (400, "invalid_encrypted_content")
    only_call(fake)


async def test_what_was_not_stored_cannot_be_continued(fake: FakeProvider, client: Any) -> None:
    first = await ask(client, "responses.create", model=MODEL, input="hi", store=False)
    fake.reset()
    assert_unknown(await refusal(client, "responses.retrieve", response_id=first.value.id))
    assert_unknown(
        await refusal(client, "responses.create", model=MODEL, input="on", previous_response_id=first.value.id)
    )
    assert nobody_called(fake)


@pytest.mark.parametrize("form", ["id", "object"])
@pytest.mark.parametrize("home", BACKENDS)
async def test_a_conversation_is_continued_where_it_is_kept(
    home: str, form: str, fake: FakeProvider, client: Any
) -> None:
    kept = f"conv_{home}_{form}"
    first = {"id": f"resp_{kept}", "object": "response", "output": [], "conversation": {"id": kept}}
    begins = {"x_fake": {"error_body": json.dumps(first), "status": 200}}
    await ask(client, "responses.create", model=f"gpt-4o-{home}", input="hi", extra_body=begins)
    for _ in range(4):  # a draw would find the other backend sooner or later
        fake.reset()
        conversation = kept if form == "id" else {"id": kept}
        await ask(client, "responses.create", model=MODEL, input="on", conversation=conversation)
        assert only_call(fake)[0] == home


# ---- stored responses by id ---------------------------------------------------------------------------

ITEM_DOORS = ("openai", "openai-async", "azure-legacy", "azure-v1")


@pytest.mark.parametrize("door", ITEM_DOORS)
@pytest.mark.parametrize("home", BACKENDS)
async def test_a_stored_response_is_read_listed_and_deleted_where_it_is(
    home: str, door: str, running: RunningGateway, fake: FakeProvider
) -> None:
    async with client_at(DOORS[door], running.url, running.key) as client:
        made = await ask(client, "responses.create", model=f"gpt-4o-{home}", input="hello")
        fake.reset()
        read = await ask(client, "responses.retrieve", response_id=made.value.id)
        assert read.value.output_text == made.value.output_text
        listed = await ask(client, "responses.input_items.list", response_id=made.value.id, limit=5)
        assert listed.value.data[0].content[0].text == "hello"
        await ask(client, "responses.delete", response_id=made.value.id)
        gone = await refusal(client, "responses.retrieve", response_id=made.value.id)
    assert gone.status_code == 404
    calls = calls_at(fake)
    assert calls[opposite(home)] == []
    path = f"/v1/responses/{made.value.id}"
    assert [(call["method"], call["path"], call["query"]) for call in calls[home]][:3] == [
        ("GET", path, ""),
        ("GET", f"{path}/input_items", "limit=5"),
        ("DELETE", path, ""),
    ]
    record = running.record(read.request_id)
    assert (record["surface"], record["backend"], record.get("usage")) == ("response_item", home, None)


@pytest.mark.parametrize("home", BACKENDS)
async def test_a_background_response_is_polled_and_cancelled_where_it_runs(
    home: str, running: RunningGateway, fake: FakeProvider, client: Any
) -> None:
    begun = await ask(client, "responses.create", model=f"gpt-4o-{home}", input="long", background=True)
    assert begun.value.status == "queued"
    fake.reset()
    cancelled = await ask(client, "responses.cancel", response_id=begun.value.id)
    assert cancelled.value.status == "cancelled"
    polled = await ask(client, "responses.retrieve", response_id=begun.value.id)
    assert polled.value.status == "cancelled"
    calls = calls_at(fake)
    assert [call["method"] for call in calls[home]] == ["POST", "GET"]
    assert calls[opposite(home)] == []


async def test_a_streamed_response_can_be_read_by_the_id_of_its_first_event(fake: FakeProvider, client: Any) -> None:
    """The id must be known before the client can use it, not when the stream has ended."""
    async with client_at(DOORS["openai-async"], str(client.base_url).removesuffix("/v1/"), client.api_key) as streaming:
        slow = {"x_fake": {"tokens_per_second": 20, "events": 40}}
        stream = await streaming.responses.create(model="gpt-4o-south", input="hi", stream=True, extra_body=slow)
        async with stream:
            first = await anext(aiter(stream))
            assert first.type == "response.created"
            read = await streaming.responses.retrieve(first.response.id)
            assert read.id == first.response.id
    assert [call["method"] for call in fake.calls("south")] == ["POST", "GET"]


@pytest.mark.parametrize("home", BACKENDS)
async def test_a_response_that_the_provider_forgot_is_told_in_its_own_words(
    home: str, fake: FakeProvider, client: Any
) -> None:
    made = await ask(client, "responses.create", model=f"gpt-4o-{home}", input="hi")
    await ask(client, "responses.delete", response_id=made.value.id)
    error = await refusal(client, "responses.retrieve", response_id=made.value.id)
    assert (error.status_code, error.body["message"]) == (404, f"Response with id '{made.value.id}' not found.")


# ---- the backend is down ------------------------------------------------------------------------------


def test_when_the_pinned_backend_is_down_the_call_ends_and_goes_nowhere_else() -> None:
    """Both backends hold a response; one dies: its conversation is a 503, the other's goes on."""
    with FakeProvider("north") as north, FakeProvider("south") as south:
        settings = {
            "backends": {
                "north": {"dialect": "openai", "url": north.url("north")},
                "south": {"dialect": "openai", "url": south.url("south")},
            },
            "models": {
                MODEL: {"targets": [[{"backend": "north"}], [{"backend": "south"}]]},
                "gpt-4o-south": {"targets": [[{"backend": "south", "model": MODEL}]]},
            },
        }
        with RunningGateway(settings) as gateway, gateway.client() as client:
            stored = {
                home: client.post("/v1/responses", json={"model": model, "input": "hi"}).json()["id"]
                for home, model in (("north", MODEL), ("south", "gpt-4o-south"))
            }
            north.stop()
            for how in (False, True):
                body = {"model": MODEL, "input": "on", "previous_response_id": stored["north"], "stream": how}
                assert_unavailable(gateway, client.post("/v1/responses", json=body))
            assert_unavailable(gateway, client.get(f"/v1/responses/{stored['north']}"))
            assert [call["method"] for call in south.calls("south")] == ["POST"]
            body = {"model": MODEL, "input": "on", "previous_response_id": stored["south"]}
            assert client.post("/v1/responses", json=body).status_code == 200
            assert client.post("/v1/responses", json={"model": MODEL, "input": "new"}).status_code == 200


def assert_unavailable(gateway: RunningGateway, answer: httpx.Response) -> None:
    assert (answer.status_code, answer.json()["error"]["code"]) == (503, "stateful_backend_unavailable")
    assert answer.headers["x-should-retry"] == "false"
    assert "retry-after" not in answer.headers
    record = gateway.record(answer.headers["x-request-id"])
    assert (record["refusal"], record["chain"]) == ("stateful_backend_unavailable", ["north"])
