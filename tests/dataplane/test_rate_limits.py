"""Limits on requests, tokens and open calls, over every scope, as callers and their SDKs meet them."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any

import anthropic
import httpx
import openai
import pytest

from extproc.limits.limit import Limit, Measure, Priority, Scope
from extproc.stores.ports import AreaRecord, ChangeSet
from tests.dataplane.test_directory import Desk, team
from tests.support.fake import FakeProvider
from tests.support.gateway import RunningGateway, until
from tests.support.limits import CHAT, FACES, PATHS, SAY, Client, limited, seconds, served, spent
from tests.support.sdk import DOORS, client_at
from tests.support.sdk import settled as awaited

pytestmark = pytest.mark.filterwarnings("ignore:The model '.*claude:DeprecationWarning")

Json = dict[str, Any]

LIMITS: dict[str, Json] = {
    # each measure
    "requests": {"requests": 3, "per": "hour"},
    "tokens": {"tokens": 400, "per": "hour"},
    "input": {"input_tokens": 300, "per": "hour"},
    "output": {"output_tokens": 100, "per": "hour"},
    "open": {"concurrent": 2},
    # each scope; one call for each value
    "by-key": {"scope": "key", "requests": 1, "per": "hour"},
    "by-user": {"scope": "user", "requests": 1, "per": "hour"},
    "by-team": {"scope": "team", "requests": 1, "per": "hour"},
    "by-area": {"scope": "area", "requests": 1, "per": "hour"},
    "by-tier": {"scope": "tier", "requests": 1, "per": "hour"},
    "by-model": {"scope": "model", "requests": 1, "per": "hour"},
    "by-backend": {"scope": "backend", "requests": 1, "per": "hour"},
    "by-priority": {"scope": "priority", "requests": 1, "per": "hour"},
    "by-all": {"requests": 1, "per": "hour"},
    "by-two": {"scope": ["team", "model"], "requests": 1, "per": "hour"},
    # what callers are told
    "told": {"requests": 50, "per": "hour"},
    "told-tokens": {"tokens": 4000, "per": "hour", "only": {"models": [f"told{end}" for end in FACES.values()]}},
    "spent": {"requests": 1, "per": "hour"},
    "soon": {"requests": 1, "per": "2s"},
    "day": {"requests": 1, "per": "day", "zone": "Asia/Kathmandu"},
    "small": {"tokens": 60, "per": "minute"},
    "wide": {"requests": 100, "per": "hour", "only": {"models": [f"narrow{end}" for end in FACES.values()]}},
    "narrow": {"requests": 1, "per": "hour"},
    # modes and amounts
    "shadowed": {"requests": 1, "per": "hour", "mode": "shadow"},
    "off": {"requests": 1, "per": "hour", "mode": "off"},
    "warned": {"requests": 4, "per": "hour", "warn_at": [50, 100]},
    "beside": {"requests": 100, "per": "hour", "only": {"models": ["warned", "beside"]}},
    "raised": {"requests": 1, "per": "hour", "raise": {"to": 3, "until": "2100-01-01"}},
    "lowered": {"requests": 1, "per": "hour", "raise": {"to": 3, "until": "2020-01-01"}},
    "reserve": {"scope": "model", "requests": 4, "per": "hour", "kept_for_high": 50},
    "worded": {"requests": 1, "per": "hour", "reject": {"status": 503, "message": "come back later"}},
    "low-only": {"requests": 1, "per": "hour", "only": {"priority": "low"}},
    "spill": {"requests": 1, "per": "hour", "fallback": "off"},
    # which calls count
    "failing": {"requests": 4, "per": "hour"},
}
HOUR = 3600 * 33 / 32 + 1
"""Seconds after which a sliding hour is free again at the latest: it counts in 32nds, and times are told whole."""

USERS = {"ann": "a", "amy": "a", "bob": "b", "cleo": "c"}
"""Each with a team; see `callers`."""


@pytest.fixture(scope="module")
def provider() -> Iterator[FakeProvider]:
    with FakeProvider("openai", "azure", "anthropic") as running:
        yield running


@pytest.fixture(scope="module")
def shared(provider: FakeProvider) -> Iterator[RunningGateway]:
    """Limits in memory, in one worker."""
    with RunningGateway(limited(provider, LIMITS)) as running:
        yield running


@pytest.fixture
def fake(provider: FakeProvider) -> FakeProvider:
    provider.reset()
    return provider


@pytest.fixture
def client(shared: RunningGateway, fake: FakeProvider) -> Client:
    return Client(shared)


def refused(answer: httpx.Response, limit: str, code: str = "rate_limit_exceeded") -> Json:
    """The error of a call that this limit refused."""
    assert (answer.status_code, answer.headers.get("x-sluice-limit")) == (429, limit), answer.text
    error: Json = answer.json()["error"]
    assert error["code"] == code
    assert f"(limit {limit})" in error["message"]
    return error


# ---- measures ----------------------------------------------------------------------------------------


def test_requests(client: Client, fake: FakeProvider) -> None:
    left = [served(client.call("requests")).headers["x-ratelimit-remaining-requests"] for _ in range(3)]
    assert left == ["2", "1", "0"]
    for _ in range(2):  # a refused call leaves no trace, and comes to no backend
        refused(client.call("requests"), "requests")
    assert fake.totals("openai")["calls"] == 3


def test_tokens_are_held_at_most_and_counted_as_used(client: Client) -> None:
    answer = served(client.call("tokens", cap=50, x_fake={"length": 20}))
    assert sum(spent([answer])) == 1 + 1 + 20  # Hello and !
    until(lambda: client.left("tokens", "tokens") == 400 - 22, what="the tokens to be settled")


@pytest.mark.parametrize("measure", ["input", "output"])
def test_tokens_of_one_side(client: Client, measure: str) -> None:
    """What is held of the other side does not count."""
    answer = served(client.call(measure, cap=60, x_fake={"length": 40}))
    record = client.record(answer)
    limit, left = (int(answer.headers[f"x-ratelimit-{fact}-tokens"]) for fact in ("limit", "remaining"))
    assert limit - left == record["held"][measure]
    used = record["usage"][measure]
    until(lambda: client.left(measure, "tokens", of=[measure]) == limit - used, what="the hold to be settled")


def test_open_calls(client: Client, fake: FakeProvider) -> None:
    """As many as there may be, and one more as soon as one has ended."""
    with in_background(client, "open", 2) as answers:
        until(lambda: fake.totals("openai")["open"] == 2)
        error = refused(client.call("open"), "open")
        assert "concurrent requests: Limit 2, Used 2, Requested 1" in error["message"]
        assert int(client.call("open").headers["retry-after-ms"]) > 0
        fake.release("openai")
    assert [answer.status_code for answer in answers] == [200, 200]
    until(lambda: client.call("open").status_code == 200, what="the places to be free")
    assert fake.totals("openai")["most_open"] == 2


@contextmanager
def in_background(client: Client, model: str, count: int, **fields: Any) -> Iterator[list[httpx.Response]]:
    """Calls that the provider holds; their answers are there at the end."""
    answers: list[httpx.Response] = []
    fields = {"x_fake": {"held": 0}, **fields}
    callers = [threading.Thread(target=lambda: answers.append(client.call(model, **fields))) for _ in range(count)]
    for caller in callers:
        caller.start()
    try:
        yield answers
    finally:
        for caller in callers:
            caller.join(30)


# ---- scopes ------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Caller:
    """Who makes a call, of which kind."""

    key: str
    model: str = ""
    priority: str = "high"


SCOPES: dict[str, tuple[Caller, Caller, Caller]] = {
    # the first call, one of the same sum, one of another
    "by-key": (Caller("ann"), Caller("ann"), Caller("ann-too")),
    "by-user": (Caller("ann"), Caller("ann-too"), Caller("amy")),
    "by-team": (Caller("ann"), Caller("amy"), Caller("bob")),
    "by-area": (Caller("ann"), Caller("bob"), Caller("cleo")),
    "by-tier": (Caller("ann"), Caller("cleo"), Caller("bob")),
    "by-model": (Caller("ann"), Caller("bob"), Caller("bob", "by-model-azure")),
    "by-backend": (Caller("ann"), Caller("bob"), Caller("bob", "by-backend-azure")),
    "by-priority": (Caller("ann"), Caller("bob"), Caller("bob", priority="low")),
}


@pytest.fixture(scope="module")
def callers(shared: RunningGateway) -> dict[str, Client]:
    """Keys in three teams: a and b are of one area, a and c of one tier."""
    desk = Desk(shared)
    desk.apply(
        ChangeSet(
            areas=(AreaRecord("north", ()), AreaRecord("south", ())),
            teams=(
                team("a", "ann@example.com", "amy@example.com", area="north", tier="gold"),
                team("b", "bob@example.com", area="north", tier="silver"),
                team("c", "cleo@example.com", area="south", tier="gold"),
                team("d", area="south", tier="silver", limits=(own_limit("four", 4, "team/d", Scope.TEAM),)),
            ),
        )
    )
    keys = {name: desk.minted(name, in_team, user=f"{name}@example.com") for name, in_team in USERS.items()}
    keys |= {
        "ann-too": desk.minted("ann-too", "a", user="ann@example.com"),
        "humble": desk.minted("humble", "a", user="ann@example.com", priority=Priority.LOW),
        "bound": desk.minted("bound", "d", limits=(own_limit("three", 3),)),
        "team-d": desk.minted("team-d", "d"),
        "nightly-a": desk.minted("nightly-a", "a", service_account="nightly"),
        "nightly-b": desk.key("nightly-b", "b", service_account="nightly"),  # waits until the gateway knows all
    }
    return {name: Client(shared, key) for name, key in keys.items()}


def own_limit(name: str, amount: int, owner: str = "", scope: Scope = Scope.KEY) -> Limit:
    """So many requests an hour, declared by a team or with a key, for whatever model."""
    return Limit(name, Measure.REQUESTS, amount, owner, (scope,), sliding=3_600_000)


@pytest.mark.parametrize("scope", SCOPES)
def test_each_value_of_a_scope_has_a_sum_of_its_own(scope: str, callers: dict[str, Client]) -> None:
    first, same, other = SCOPES[scope]
    served(scoped(callers, scope, first))
    refused(scoped(callers, scope, same), scope)
    served(scoped(callers, scope, other))


def scoped(callers: dict[str, Client], scope: str, who: Caller) -> httpx.Response:
    return callers[who.key].call(who.model or scope, headers={"x-priority": who.priority})


def test_without_a_scope_all_callers_have_one_sum(callers: dict[str, Client]) -> None:
    served(callers["ann"].call("by-all"))
    refused(callers["cleo"].call("by-all-azure"), "by-all")


def test_of_two_scopes_each_combination_has_a_sum(callers: dict[str, Client]) -> None:
    served(callers["ann"].call("by-two"))
    served(callers["ann"].call("by-two-azure"))
    served(callers["bob"].call("by-two"))
    refused(callers["amy"].call("by-two"), "by-two")


def test_accounts_of_two_teams_are_two_users(callers: dict[str, Client]) -> None:
    """They have the same name, as names of service accounts are the team's own."""
    served(callers["nightly-a"].call("by-user"))
    served(callers["nightly-b"].call("by-user"))
    refused(callers["nightly-b"].call("by-user"), "by-user")


def test_a_limit_by_user_is_not_for_a_key_of_nobody(client: Client) -> None:
    for _ in range(2):
        served(client.call("by-user"))


def test_the_successor_of_a_key_has_its_sum(shared: RunningGateway) -> None:
    desk = Desk(shared)
    old = desk.key("rotating")
    served(Client(shared, old).call("by-key"))
    new = desk.rotated(desk.id_of("rotating"), overlap=timedelta(hours=1))
    refused(Client(shared, new).call("by-key"), "by-key")


def test_a_key_and_a_team_have_limits_of_their_own(callers: dict[str, Client]) -> None:
    """Three calls of the key, four of its team; the tighter decides and is named."""
    for _ in range(3):
        served(callers["bound"].call("off"))
    answer = callers["bound"].call("off")
    assert (answer.status_code, answer.headers["x-sluice-limit"].rpartition("/")[2]) == (429, "three")
    served(callers["team-d"].call("off"))
    refused(callers["team-d"].call("off"), "team/d/four")


def test_a_key_of_low_priority_cannot_ask_for_more(callers: dict[str, Client]) -> None:
    assert callers["humble"].call("low-only", headers={"x-priority": "high"}).status_code == 403
    answers = [callers["humble"].call("reserve-azure", "azure") for _ in range(3)]
    assert [answer.status_code for answer in answers[:2]] == [200, 200]
    assert answers[2].status_code == 429  # half of four is kept for calls of high priority


# ---- what callers are told -----------------------------------------------------------------------------


@pytest.mark.parametrize("stream", [False, True], ids=["json", "sse"])
@pytest.mark.parametrize("face", FACES)
def test_each_answer_tells_what_is_left(face: str, stream: bool, client: Client) -> None:
    answers = [served(client.call("told" + FACES[face], face, stream=stream)) for _ in range(2)]
    for kind, limit in (("requests", 50), ("tokens", 4000)):
        told = [standing(answer, face, kind) for answer in answers]
        assert [facts.limit for facts in told] == [limit, limit]
        assert 0 < told[1].remaining < limit
        assert all(0 < facts.reset <= HOUR for facts in told)
        if kind == "requests":
            assert told[0].remaining - told[1].remaining == 1


@dataclass(frozen=True, slots=True)
class Standing:
    """What an answer tells of one kind of limit; the reset in seconds from now."""

    limit: int
    remaining: int
    reset: float


def standing(answer: httpx.Response, face: str, kind: str) -> Standing:
    """Read as clients do: OpenAI writes durations, Anthropic times."""
    assert "ratelimit-reset" not in answer.headers
    name = "anthropic-ratelimit-{kind}-{fact}" if face == "anthropic" else "x-ratelimit-{fact}-{kind}"
    limit, remaining, reset = (
        answer.headers[name.format(kind=kind, fact=fact)] for fact in ("limit", "remaining", "reset")
    )
    if face != "anthropic":
        return Standing(int(limit), int(remaining), seconds(reset))
    at = datetime.fromisoformat(reset)
    return Standing(int(limit), int(remaining), (at - datetime.now(UTC)).total_seconds())


@pytest.mark.parametrize("face", FACES)
def test_a_refusal_tells_it_too(face: str, client: Client) -> None:
    model = "spent" + FACES[face]
    if client.call(model, face).status_code == 200:  # the first face has used it up for all
        assert face == "openai"
    answer = client.call(model, face)
    assert answer.status_code == 429
    facts = standing(answer, face, "requests")
    assert (facts.limit, facts.remaining) == (1, 0)
    assert 3500 < facts.reset <= HOUR
    error = answer.json()["error"]
    assert "requests per hour (RPH): Limit 1, Used 1, Requested 1." in error["message"]
    if face == "anthropic":
        assert (answer.json()["type"], error["type"]) == ("error", "rate_limit_error")
    elif face == "openai":
        assert (error["type"], error["code"]) == ("requests", "rate_limit_exceeded")
    assert answer.headers["x-should-retry"] == "false"  # of an hour nobody sleeps through
    assert "retry-after" not in answer.headers
    assert "retry-after-ms" not in answer.headers


def test_the_provider_s_own_limits_are_not_told(client: Client, fake: FakeProvider) -> None:
    """They are the gateway's account there, and nobody else's business."""
    fake.script("openai", [{"status": 429, "retry_after": 7}])
    answer = client.call("told")
    assert answer.status_code == 429
    assert standing(answer, "openai", "requests").limit == 50


def test_the_tightest_decides_and_is_named(client: Client) -> None:
    answer = served(client.call("narrow"))
    assert standing(answer, "openai", "requests").limit == 1
    refused(client.call("narrow"), "narrow")


def test_what_is_larger_than_the_limit_never_fits(client: Client) -> None:
    answer = client.call("small", cap=None)
    error = refused(answer, "small")
    assert error["message"].startswith("Request too large for small on tokens per min (TPM): Limit 60, Used 0,")
    assert answer.headers["x-should-retry"] == "false"


def test_a_day_is_an_allowance_and_ends_at_midnight_there(client: Client) -> None:
    served(client.call("day"))
    answer = client.call("day")
    error = refused(answer, "day", "insufficient_quota")
    assert error["type"] == "insufficient_quota"
    assert answer.headers["x-should-retry"] == "false"
    assert "retry-after" not in answer.headers
    left = standing(answer, "openai", "requests").reset
    there = datetime.now(UTC) + timedelta(hours=5, minutes=45)
    midnight = datetime.combine(there.date() + timedelta(days=1), datetime.min.time(), UTC)
    assert abs(left - (midnight - there).total_seconds()) < 5


@pytest.mark.parametrize("door", ["openai", "openai-async", "anthropic", "anthropic-async"])
async def test_an_sdk_waits_as_long_as_it_is_told(door: str, client: Client, fake: FakeProvider) -> None:
    """With one call in two seconds, the second of two calls in a row is served at its second try."""
    shared, family = client.gateway, DOORS[door].family
    async with client_at(DOORS[door], shared.url, shared.key, max_retries=3) as sdk:
        for _ in range(2):
            await ask_sdk(sdk, family, "soon" + FACES[family])

    def tries() -> list[int]:
        return [call["status"] for call in shared.records() if call.get("model") == "soon" + FACES[family]]

    until(lambda: tries()[-3:] == [200, 429, 200], what="the records")


async def ask_sdk(sdk: Any, family: str, model: str) -> Any:
    create = sdk.messages.create if family == "anthropic" else sdk.chat.completions.create
    return await awaited(create(model=model, messages=SAY, max_tokens=50))


@pytest.mark.parametrize("door", ["openai", "openai-async", "anthropic", "anthropic-async"])
async def test_no_sdk_tries_again_where_waiting_is_in_vain(door: str, client: Client) -> None:
    shared, family = client.gateway, DOORS[door].family
    model = "day" + FACES[family]
    client.record(client.call("day"))  # used up, if it was not yet
    before = len([call for call in shared.records() if call.get("model") == model])
    async with client_at(DOORS[door], shared.url, shared.key, max_retries=3) as sdk:
        with pytest.raises(Exception, match="exceeded your current quota") as caught:
            await ask_sdk(sdk, family, model)
    assert isinstance(caught.value, openai.RateLimitError | anthropic.RateLimitError)
    until(lambda: len([call for call in shared.records() if call.get("model") == model]) == before + 1)


# ---- modes and amounts ---------------------------------------------------------------------------------


def test_a_shadow_limit_counts_and_refuses_nothing(client: Client) -> None:
    answers = [served(client.call("shadowed")) for _ in range(3)]
    assert not any(name.startswith("x-ratelimit") for answer in answers for name in answer.headers)
    assert [client.record(answer).get("limits_shadow") for answer in answers] == [None, ["shadowed"], ["shadowed"]]
    counted = 'sluice_limit_shadow_refusals_total{limit="shadowed"} 2.0'
    until(lambda: counted in client.gateway.metrics(), what="the refusals to be published")


def test_a_limit_that_is_off_is_none(client: Client) -> None:
    answers = [served(client.call("off-azure", "azure")) for _ in range(2)]
    assert not any(name.startswith("x-ratelimit") for answer in answers for name in answer.headers)


def test_soft_thresholds_warn(client: Client) -> None:
    """Of what is settled: a call in flight may give most of it back."""
    answers = []
    for number in range(1, 5):
        answers.append(served(client.call("warned")))
        until(partial(_beside, client, number), what="the call to be settled")
    told = [answer.headers.get("x-sluice-limit-warning") for answer in answers]
    assert told == [None, None, "warned; used=50", "warned; used=75"]
    assert [bool(client.record(answer).get("warnings")) for answer in answers] == [False, False, True, False]
    counted = 'sluice_limit_warnings_total{limit="warned",threshold="50"} 1.0'
    until(lambda: counted in client.gateway.metrics(), what="the warning to be published")


def _beside(client: Client, number: int) -> bool:
    """Whether so many calls are settled, by a limit that counts them, too: a probe of their own would be warned."""
    return client.left("beside", "requests") == 100 - number


def test_a_limit_is_raised_until_a_date(client: Client) -> None:
    assert [client.call("raised").status_code for _ in range(4)] == [200, 200, 200, 429]
    assert [client.call("lowered").status_code for _ in range(2)] == [200, 429]


def test_low_priority_leaves_the_reserve_free(client: Client) -> None:
    low, high = {"x-priority": "low"}, {"x-priority": "high"}
    assert [client.call("reserve", headers=low).status_code for _ in range(3)] == [200, 200, 429]
    assert [client.call("reserve", headers=high).status_code for _ in range(3)] == [200, 200, 429]


def test_a_limit_may_be_for_one_class_only(client: Client) -> None:
    low = {"x-priority": "low"}
    assert [client.call("low-only", headers=low).status_code for _ in range(2)] == [200, 429]
    assert [client.call("low-only").status_code for _ in range(2)] == [200, 200]


def test_a_priority_that_is_none_is_refused(client: Client) -> None:
    answer = client.call("off-azure", "azure", headers={"x-priority": "urgent"})
    assert answer.status_code == 400
    assert "x-priority" in answer.text


def test_a_refusal_in_the_operator_s_words(client: Client) -> None:
    served(client.call("worded"))
    answer = client.call("worded")
    assert (answer.status_code, answer.json()["error"]["message"]) == (503, "come back later")


def test_a_spent_limit_falls_back_to_another_model(client: Client, fake: FakeProvider) -> None:
    served(client.call("spill"))
    answer = served(client.call("spill"))
    assert client.record(answer)["model"] == "off"
    assert [call["model"] for call in fake.calls("openai")] == ["spill", "off"]


# ---- which calls count ---------------------------------------------------------------------------------


def test_only_what_the_provider_took_counts(client: Client, fake: FakeProvider) -> None:
    """The caller's own mistakes count as requests, the provider's do not."""
    served(client.call("failing"))
    for status in (500, 503, 429):
        answer = client.call("failing", x_fake={"status": status})
        assert answer.status_code == status
        assert answer.headers["x-ratelimit-limit-requests"] == "4"
    assert client.call("failing", headers={"x-priority": "none"}).status_code == 400
    until(lambda: client.left("failing", "requests") == 3, what="only the first to count")
    assert client.call("failing", x_fake={"status": 400}).status_code == 400
    until(lambda: client.left("failing", "requests") == 2, what="the mistake to count")


# ---- the switches of the gateway before ----------------------------------------------------------------

SWITCHES = {
    "ENABLE_AI_RATE_LIMIT": "true",
    "AI_RATE_LIMIT_STRATEGY": "req",
    "AI_RATE_LIMIT_WINDOW_SECONDS": "600",
    "AI_RATE_LIMIT_HIGH_LIMIT": "4",
    "AI_RATE_LIMIT_LOW_LIMIT": "2",
    "GATEWAY_E2E_TEST_MODE": "true",
}
PREFIX = "/prioritization-simple"


@pytest.fixture(scope="module")
def switched(provider: FakeProvider) -> Iterator[Client]:
    """A gateway without limits in its configuration, and with the switches set."""
    with RunningGateway(limited(provider, {"m": {"requests": 1, "per": "hour", "mode": "off"}}), SWITCHES) as running:
        yield Client(running)


def test_the_prefix_has_a_limit_of_its_own(switched: Client) -> None:
    low = [switched.call("m", path=PREFIX + CHAT) for _ in range(2)]
    assert [served(answer).headers["x-gw-priority"] for answer in low] == ["high", "high"]
    refusal = switched.call("m", path=PREFIX + CHAT)
    assert (refusal.status_code, refusal.json()["error"]["message"]) == (503, "rate limited")
    high = [switched.call("m") for _ in range(5)]
    assert [answer.status_code for answer in high] == [200, 200, 200, 200, 503]
    assert not any(name.startswith("x-gw-") for answer in high for name in answer.headers)


@pytest.mark.parametrize("face", FACES)
def test_the_prefix_goes_before_every_path(face: str, switched: Client) -> None:
    """It is spent by then; what counts is that the path is known, and not the limit's status."""
    answer = switched.call("m" + FACES[face], face, path=PREFIX + PATHS[face])
    assert answer.status_code in (200, 503), answer.text
    assert answer.headers["x-gw-priority"] == "high"


def test_tokens_may_be_counted_instead(provider: FakeProvider) -> None:
    """The call that crosses the limit passes, as it always did; the next is refused."""
    switches = SWITCHES | {"AI_RATE_LIMIT_STRATEGY": "total_tokens", "AI_RATE_LIMIT_LOW_LIMIT": "20"}
    limits = {"m": {"requests": 1, "per": "hour", "mode": "off"}}
    with RunningGateway(limited(provider, limits), switches) as running:
        client = Client(running)
        answer = served(client.call("m", path=PREFIX + CHAT, headers={"x-priority": "low"}, x_fake={"length": 100}))
        assert answer.headers["x-gw-priority"] == "low"
        assert answer.headers["x-gw-remaining-tokens"] == "19"
        until(lambda: client.call("m", path=PREFIX + CHAT).status_code == 503, what="what was used to be booked")
