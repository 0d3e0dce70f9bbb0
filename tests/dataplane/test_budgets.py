"""Money, caps on the output, and what is given back: what a call holds, what it is charged, and when."""

import json
import threading
from base64 import b64decode
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

import httpx
import pytest

from tests.dataplane.test_disconnect import WAYS, Streaming, frames, leave_after
from tests.support.fake import FakeProvider
from tests.support.gateway import RunningGateway, until
from tests.support.limits import CHAT, INPUT, OUTPUT, PRICE, SAY, Client, limited, nano, served, spent
from tests.support.ports import free_port
from tests.support.raw_http import Connection, form, head, request
from tests.support.sdk import DOORS, ask, client_at

pytestmark = pytest.mark.filterwarnings("ignore:The model '.*claude:DeprecationWarning")

Json = dict[str, Any]

DEAR = {"input": 10, "output": 40}  # four times the usual
DAY = {"per": "day"}  # of a day's allowance a cap is lowered, as waiting would not help
TEXT = "one two three four five six seven eight nine ten"
LEASED = {"output_tokens": 200, **DAY, "when_short": "lease", "slice": 32}

LIMITS: dict[str, Json] = {
    "money": {"money": "0.002", "per": "month"},
    "chained": {"money": "0.01", "per": "month"},
    "media": {"money": "1", "per": "month"},
    "free": {"money": "1", "per": "month"},
    "choices": {"output_tokens": 100, **DAY},
    "bare": {"requests": 5, "per": "hour"},
    "capped-chat": {"output_tokens": 100, **DAY},
    "capped-completions": {"output_tokens": 100, **DAY},
    "capped-responses": {"output_tokens": 100, **DAY},
    "capped-messages": {"output_tokens": 100, **DAY},
    "floor": {"output_tokens": 100, **DAY},
    "minute": {"output_tokens": 100, "per": "minute"},
    "uncapped": {"output_tokens": 150, **DAY},
    "written-chat": {"output_tokens": 150, **DAY, "when_short": "cap"},
    "written-completions": {"output_tokens": 150, **DAY, "when_short": "cap"},
    "written-responses": {"output_tokens": 150, **DAY, "when_short": "cap"},
    "unknown": {"output_tokens": 100_000, **DAY},
    "leased-chat": LEASED,
    "leased-completions": LEASED,
    "leased-responses": LEASED,
    "leased-whole": LEASED,
    "leased-hidden": LEASED,
    "back": {"concurrent": 1},
    "back-tokens": {"tokens": 100_000, "per": "hour", "only": {"models": ["back", "back-azure", "back-claude"]}},
    "dead": {"concurrent": 1},
    "once": {"requests": 1000, "per": "hour"},
    "left": {"concurrent": 1},
    "left-tokens": {"tokens": 1_000_000, "per": "hour", "only": {"models": ["left", "left-azure", "left-claude"]}},
}
MODELS: Json = {
    "media": {"price": {"image": "0.04", "minute": "0.006"}},
    "free": {"price": None},
    "bare": {"price": None},
    "unknown": {"max_output": None},
    **{f"leased-{surface}": {"max_output": 400} for surface in ("chat", "completions", "responses", "whole")},
    "leased-hidden": {"max_output": 400, "hidden_output": True},
}
SURFACES: dict[str, tuple[str, str, Json]] = {
    # the SDK's operation, its field for the cap, what is asked
    "chat": ("chat.completions.create", "max_completion_tokens", {"messages": SAY}),
    "completions": ("completions.create", "max_tokens", {"prompt": "Hello!"}),
    "responses": ("responses.create", "max_output_tokens", {"input": "Hello!"}),
    "messages": ("messages.create", "max_tokens", {"messages": SAY}),
}


@pytest.fixture(scope="module")
def provider() -> Iterator[FakeProvider]:
    with FakeProvider("openai", "azure", "anthropic") as running:
        yield running


@pytest.fixture(scope="module")
def shared(provider: FakeProvider) -> Iterator[RunningGateway]:
    """Limits in memory, in one worker."""
    settings = limited(provider, LIMITS, models=MODELS, timeouts={"call": "5s", "idle": "2s", "connect": "1s"})
    models = settings["models"]
    # A body is written once for all targets of a chain, so both must read the cap in the field that the call names.
    settings["backends"]["newer"] = {**settings["backends"]["openai"], "cap_field": "max_completion_tokens"}
    models["chained"]["targets"] = [[{"backend": "newer"}], [{"backend": "azure", "price": DEAR}]]
    models["chained"] |= {"price": PRICE, "max_output": 100}
    models["media"]["targets"] = [[{"backend": "openai", "model": "whisper-1"}]]
    settings["backends"]["nobody"] = {"dialect": "openai", "url": f"http://127.0.0.1:{free_port()}"}
    models["dead"]["targets"] = [[{"backend": "nobody"}]]
    for name in ("free", "bare"):
        for ending in ("", "-azure", "-claude"):
            models[name + ending].pop("price")
    with RunningGateway(settings) as running:
        yield running


@pytest.fixture
def fake(provider: FakeProvider) -> FakeProvider:
    provider.reset()
    return provider


@pytest.fixture
def client(shared: RunningGateway, fake: FakeProvider) -> Client:
    return Client(shared)


def refused(answer: httpx.Response, limit: str, code: str = "insufficient_quota") -> Json:
    """The error of a call that this limit refused."""
    assert (answer.status_code, answer.headers.get("x-sluice-limit")) == (429, limit), answer.text
    error: Json = answer.json()["error"]
    assert error["code"] == code
    return error


# ---- money -------------------------------------------------------------------------------------------


def test_money_is_held_at_most_and_charged_as_used(client: Client) -> None:
    first = served(client.call("money", cap=100, x_fake={"length": 10}))
    read, written = spent([first])
    record = client.record(first)
    assert record["cost"] == read * INPUT + written * OUTPUT == 2 * INPUT + 10 * OUTPUT
    assert record["held"]["money"] == record["held"]["input"] * INPUT + 100 * OUTPUT
    assert first.headers["x-sluice-budget-limit"] == "0.002"
    assert nano(first.headers["x-sluice-budget-remaining"]) == 2_000_000 - record["held"]["money"]
    assert first.headers["x-sluice-budget-currency"] == "USD"
    assert datetime.fromisoformat(first.headers["x-sluice-budget-reset"]) == next_month()
    until(lambda: client.left("money", "budget") == 2_000_000 - record["cost"], what="the money to be settled")


def next_month() -> datetime:
    now = datetime.now(UTC)
    return datetime(now.year + now.month // 12, now.month % 12 + 1, 1, tzinfo=UTC)


@pytest.mark.parametrize("served_by", ["newer", "azure"])
def test_the_dearest_target_is_held_and_the_one_that_served_is_charged(
    served_by: str, client: Client, fake: FakeProvider
) -> None:
    if served_by == "azure":
        fake.script("openai", [{"status": 503}])
    answer = served(client.call("chained", cap=50))
    record = client.record(answer)
    assert record["backend"] == served_by
    assert record["held"]["money"] == 4 * (record["held"]["input"] * INPUT + 50 * OUTPUT)
    read, written = spent([answer])
    assert record["cost"] == (read * INPUT + written * OUTPUT) * (4 if served_by == "azure" else 1)


def test_images_and_minutes_have_a_price(client: Client) -> None:
    url, key = client.gateway.url, {"authorization": f"Bearer {client.gateway.key}"}
    images = {"model": "media", "prompt": "a cat", "n": 2}
    painted = httpx.post(f"{url}/v1/images/generations", json=images, headers=key, trust_env=False)
    record = client.record(served(painted))
    assert record["cost"] == 2 * 40_000_000 <= record["held"]["money"]
    kind, body = form({"model": "media"}, b"a" * 64_000)  # two seconds, as the fake counts
    headers = key | {"content-type": kind}
    heard = httpx.post(f"{url}/v1/audio/transcriptions", content=body, headers=headers, trust_env=False)
    record = client.record(served(heard))
    assert record["cost"] == 6_000_000 * 2 // 60 <= record["held"]["money"]


def test_a_model_without_a_price_is_refused_where_money_is_limited(client: Client, fake: FakeProvider) -> None:
    answer = client.call("free")
    assert (answer.status_code, answer.json()["error"]["code"]) == (503, "model_unpriced")
    assert answer.headers["x-should-retry"] == "false"
    served(client.call("bare"))
    assert fake.totals("openai")["calls"] == 1


# ---- caps on the output --------------------------------------------------------------------------------


async def say(client: Client, surface: str, model: str, cap: int | None, **fields: Any) -> Any:
    """A call by an SDK."""
    door = DOORS["anthropic" if surface == "messages" else "openai"]
    operation, field, asked = SURFACES[surface]
    model += "-claude" if surface == "messages" else ""
    async with client_at(door, client.gateway.url, client.gateway.key) as sdk:
        capped = {} if cap is None else {field: cap}
        fault = fields.pop("fault", {})
        return await ask(sdk, operation, model=model, **asked, **capped, extra_body={"x_fake": fault}, **fields)


def sent(fake: FakeProvider, surface: str = "chat") -> Json:
    """The body of the last call as the provider saw it."""
    call = fake.calls("anthropic" if surface == "messages" else "openai")[-1]
    body: Json = json.loads(b64decode(call["body_base64"]))
    return body


@pytest.mark.parametrize("surface", SURFACES)
async def test_a_client_s_cap_is_lowered_to_what_is_left(surface: str, client: Client, fake: FakeProvider) -> None:
    model = f"capped-{surface}"
    first = await say(client, surface, model, 80, fault={"length": 80})
    assert sent(fake, surface)[SURFACES[surface][1]] == 80
    assert "x-sluice-output-cap" not in first.headers
    second = await say(client, surface, model, 80, fault={"length": 80})
    assert sent(fake, surface)[SURFACES[surface][1]] == 20
    assert second.headers["x-sluice-output-cap"] == "20"
    assert client.gateway.record(second.request_id)["usage"]["output"] == 20
    model += "-claude" if surface == "messages" else ""
    answer = client.call(model, "anthropic" if surface == "messages" else "openai", cap=80)
    assert answer.status_code == 429


def test_no_cap_is_lowered_below_the_floor(client: Client) -> None:
    served(client.call("floor", cap=91, x_fake={"length": 91}))
    refused(client.call("floor", cap=20), "floor")  # 9 are left, and the model's floor is 10
    answer = served(client.call("floor", cap=9, x_fake={"length": 9}))  # what the client itself asks for may be less
    assert "x-sluice-output-cap" not in answer.headers


def test_a_cap_stands_where_waiting_helps(client: Client) -> None:
    served(client.call("minute", cap=80, x_fake={"length": 80}))
    answer = client.call("minute", cap=80)
    refused(answer, "minute", "rate_limit_exceeded")
    assert 0 < int(answer.headers["retry-after-ms"]) <= 60_000
    assert answer.headers["x-should-retry"] == "true"


def test_each_choice_may_be_as_long_as_the_cap(client: Client, fake: FakeProvider) -> None:
    answer = served(client.call("choices", cap=60, n=4, x_fake={"length": 60}))
    assert sent(fake)["max_completion_tokens"] == 25
    assert client.record(answer)["held"]["output"] == 100
    assert spent([answer])[1] == 100


def test_without_a_cap_the_model_s_maximum_must_fit(client: Client) -> None:
    served(client.call("uncapped", cap=None, x_fake={"length": 100}))
    refused(client.call("uncapped", cap=None), "uncapped")
    served(client.call("uncapped", cap=40))


@pytest.mark.parametrize("surface", ["chat", "completions", "responses"])
async def test_a_cap_is_written_where_the_client_sent_none(surface: str, client: Client, fake: FakeProvider) -> None:
    model = f"written-{surface}"
    await say(client, surface, model, None, fault={"length": 100})
    answer = await say(client, surface, model, None, fault={"length": 100})
    assert answer.headers["x-sluice-output-cap"] == "50"
    field = "max_tokens" if surface == "chat" else SURFACES[surface][1]  # as the backend's `cap_field` says
    assert sent(fake)[field] == 50
    assert client.gateway.record(answer.request_id)["usage"]["output"] == 50


def test_of_a_model_without_a_known_maximum_one_is_assumed_and_written(client: Client, fake: FakeProvider) -> None:
    answer = served(client.call("unknown", cap=None))
    assert answer.headers["x-sluice-output-cap"] == "16384"
    assert sent(fake)["max_tokens"] == 16384
    assert client.record(answer)["held"]["output"] == 16384


# ---- leases --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("surface", ["chat", "completions", "responses"])
async def test_a_lease_ends_the_stream_as_the_surface_does(surface: str, client: Client, fake: FakeProvider) -> None:
    """Nothing but the limit ends this answer: the client is told so, and what flowed is billed."""
    model = f"leased-{surface}"
    usage = {} if surface == "responses" else {"stream_options": {"include_usage": True}}
    answer = await say(
        client, surface, model, None, stream=True, fault={"length": 400, "tokens_per_second": 800}, **usage
    )
    *_, last = answer.value
    if surface == "responses":
        assert (last.type, last.response.incomplete_details.reason) == ("response.incomplete", "max_output_tokens")
        told = last.response.usage.output_tokens
    else:
        reasons = [choice.finish_reason for event in answer.value for choice in event.choices if choice.finish_reason]
        assert reasons == ["length"]
        told = last.usage.completion_tokens
    record = client.gateway.record(answer.request_id)
    until(lambda: fake.totals("openai")["disconnected"] == 1, 2, "the provider's connection to be closed")
    assert record["usage"]["output"] == told
    assert 0 < told <= 200
    (call,) = fake.calls("openai")
    assert call["output_tokens"] < 400
    until(lambda: f"Used {told}," in refused(client.call(model, cap=None), model)["message"], what="it to be settled")


def test_a_lease_that_is_never_short_changes_nothing(client: Client) -> None:
    answer = served(client.call("leased-whole", cap=None, stream=True, x_fake={"length": 30}))
    assert answer.text.endswith("data: [DONE]\n\n")
    record = client.record(answer)
    assert (record["ending"], record["usage"]["source"], record["usage"]["output"]) == ("complete", "reported", 30)
    assert '"finish_reason":"stop"' in answer.text


@pytest.mark.parametrize(("model", "stream"), [("leased-whole", False), ("leased-hidden", True)])
def test_what_cannot_be_cut_is_not_leased(model: str, stream: bool, client: Client, fake: FakeProvider) -> None:
    refused(client.call(model, cap=None, stream=stream), model)
    assert fake.totals("openai")["calls"] == 0


# ---- what is given back --------------------------------------------------------------------------------


@pytest.mark.parametrize("stream", [False, True], ids=["json", "sse"])
@pytest.mark.parametrize(
    "fault", [{"status": 500}, {"status": 429}, {"status": 400}, {"reset": "before"}, {"hang": True}]
)
def test_a_call_that_fails_gives_everything_back(fault: Json, stream: bool, client: Client) -> None:
    before = until(lambda: client.left("back", "tokens"), what="the place to be free")
    answer = until_free(client, stream=stream, x_fake=fault)
    assert answer.status_code >= 400
    until(lambda: client.left("back", "tokens") == before, what="everything to be given back")


def until_free(client: Client, model: str = "back", **fields: Any) -> httpx.Response:
    """The answer to a call, once the one place that there is for it is free."""
    answers = iter(lambda: client.call(model, **fields), None)
    answer: httpx.Response = until(
        lambda: next((one for one in [next(answers)] if one.headers.get("x-sluice-limit") != model), None),
        what="the place to be free",
    )
    return answer


def test_an_unreachable_backend_gives_everything_back(client: Client) -> None:
    for _ in range(3):  # there may be one open call
        answer = until_free(client, "dead")
        assert (answer.status_code, answer.json()["error"]["code"]) == (503, "upstream_unavailable")


@pytest.mark.parametrize("way", WAYS)
def test_a_client_that_leaves_before_the_answer_pays_for_it(way: str, client: Client, fake: FakeProvider) -> None:
    """Its input, and as much output as can have been written meanwhile, of what was held."""
    before = until(lambda: client.left("back", "tokens"), what="the place to be free")
    until_free(client, x_fake={"status": 500})
    fake.reset()
    body = json.dumps({"model": "back", "messages": SAY, "max_tokens": 50, "x_fake": {"hang": True}}).encode()
    connection = Connection(client.gateway.port)
    connection.send(request(CHAT, body, client.gateway.key))
    until(lambda: any(call["complete"] for call in fake.calls("openai")), what="the provider to be called")
    WAYS[way](connection)
    record = client.gateway.record(dict(fake.calls("openai")[0]["headers"])["x-request-id"])
    assert record["ending"] == "cut"
    usage = record["usage"]
    assert usage["input"] > 0
    assert 0 < usage["output"] <= record["held"]["output"] == 50
    expected = before - usage["input"] - usage["output"]
    until(lambda: client.left("back", "tokens") == expected, what="it to be settled")


def test_a_body_that_is_too_large_holds_nothing(client: Client) -> None:
    """It is refused by Envoy, before anything was decided."""
    length = 9 * 2**20
    with Connection(client.gateway.port) as connection:
        headers = {"content-type": "application/json", "content-length": str(length)}
        connection.send(head("POST", CHAT, headers, client.gateway.key))
        answer = connection.answer()
    assert answer.status == 413
    until_free(client)
    assert "held" not in client.gateway.record(answer.request_id)


LEAVING = {
    "chat": Streaming(CHAT, {"model": "left", "messages": SAY, "max_tokens": 50}, "openai", told=2),
    "responses": Streaming("/v1/responses", {"model": "left", "input": "Hello!"}, "openai", told=1),
    "messages": Streaming(
        "/v1/messages", {"model": "left-claude", "messages": SAY, "max_tokens": 50}, "anthropic", told=2
    ),
}


@pytest.mark.parametrize("surface", LEAVING)
def test_a_client_may_leave_at_every_frame(surface: str, client: Client, fake: FakeProvider) -> None:
    """Each such call is settled once, with what its record says, and holds nothing any more."""
    streaming, fault = LEAVING[surface], {"text": TEXT, "comments": True}
    face = "anthropic" if streaming.backend == "anthropic" else "openai"
    model = streaming.fields["model"]

    def left() -> int | None:
        return client.left(model, "tokens", face)

    whole = frames(client.gateway, fake, streaming, fault)
    before = until(left, what="the place to be free")
    used = 0
    for count in range(whole + 1):
        request_id = leave_after(client.gateway, streaming, fault, count, WAYS["reset" if count % 2 else "close"])
        usage = client.gateway.record(request_id)["usage"]
        used += usage["input"] + usage["output"]
        until(lambda: left() == before - used, what="it to be settled")  # noqa: B023 - asked at once


# ---- repeats -------------------------------------------------------------------------------------------


def test_a_repeat_of_an_open_call_is_refused(client: Client, fake: FakeProvider) -> None:
    key = {"idempotency-key": "a5a5"}
    fake.script("openai", [{"held": 0}])
    answers: list[httpx.Response] = []
    caller = threading.Thread(target=lambda: answers.append(client.call("once", headers=key)))
    caller.start()
    try:
        until(lambda: fake.totals("openai")["open"] == 1)
        again = client.call("once", headers=key)
        assert (again.status_code, again.json()["error"]["code"]) == (409, "idempotency_conflict")
        assert again.headers["x-should-retry"] == "true"
        assert int(again.headers["retry-after-ms"]) > 0
        served(client.call("once", headers=key, cap=51))  # another body
        served(client.call("once", headers={"idempotency-key": "b"}))
        served(client.call("once"))
        assert fake.totals("openai")["calls"] == 4
    finally:
        fake.release("openai")
        caller.join(10)
    served(answers[0])
    until(lambda: client.call("once", headers=key).status_code == 200, what="the repeat to be a new call")
    assert fake.totals("openai")["calls"] == 5
