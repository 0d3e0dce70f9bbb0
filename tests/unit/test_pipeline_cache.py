"""The answer cache on the way of data, as transcripts: what serves, what is told, what is kept and what it costs."""

import asyncio
from dataclasses import dataclass, field, replace
from typing import Any

import orjson
import pytest

from extproc import refusals
from extproc.answers import Answers
from extproc.cache.policy import CachePolicy, CacheRules, Scope, Selector
from extproc.call import Call, Emit, Phase, Relay, Reply, Route
from extproc.limits.limit import Limit, Measure
from extproc.model import Bounds, Catalogue, Price, Target, Team
from extproc.redaction.policy import Action, Mode
from extproc.stores.answers import AnswersUnavailable, Found
from extproc.stores.memory_answers import MemoryAnswers
from tests.support.playbook import (
    DIRECTORY,
    OTHER_KEY,
    Policy,
    RequestBody,
    RequestHeaders,
    ResponseBody,
    answer,
    catalogue,
    request,
)
from tests.support.playbook import KEY as KEY_OF_ONE
from tests.support.policies import EMAIL, redaction

PRICE = Price(input=1_000_000_000, output=4_000_000_000)
ENFORCED = CachePolicy(mode=Mode.ENFORCE)
SEALING = b"k" * 32
TEXT = "It is blue."
USAGE = {"prompt_tokens": 7, "completion_tokens": 30, "total_tokens": 37}


def whole(text: str = TEXT, finish: str = "stop") -> bytes:
    choice = {"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": finish}
    return orjson.dumps({"id": "c", "object": "chat.completion", "model": "m", "choices": [choice], "usage": USAGE})


def events(*pieces: str, finish: str | None = "stop", usage: bool = True) -> bytes:
    def chunk(delta: dict[str, str], reason: str | None = None) -> dict[str, Any]:
        return {"id": "c", "model": "m", "choices": [{"index": 0, "delta": delta, "finish_reason": reason}]}

    chunks = [chunk({"role": "assistant", "content": ""}), *[chunk({"content": piece}) for piece in pieces]]
    if finish:
        chunks.append(chunk({}, finish))
    if usage:
        chunks.append({"id": "c", "model": "m", "choices": [], "usage": USAGE})
    return b"".join([b"data: %b\n\n" % orjson.dumps(one) for one in chunks]) + b"data: [DONE]\n\n"


@dataclass
class Clock:
    now: int = 1_700_000_000_000

    def __call__(self) -> int:
        return self.now


@dataclass
class Gateway:
    """A policy with a cache, whose store and clock are at hand."""

    rules: CacheRules = field(default_factory=lambda: CacheRules(ENFORCED))
    limits: tuple[Limit, ...] = ()
    more: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.clock = Clock()
        self.store = MemoryAnswers(self.clock, 2**20)
        self.answers = Answers(self.store, SEALING, 2**20, self.clock)
        self.policy = Policy(catalogue=self.catalogue, kept=self.answers)

    def catalogue(self) -> Catalogue:
        plain = catalogue()
        models = {
            name: replace(
                model,
                bounds=Bounds(max_output=1_000, floor=16),
                groups=tuple(tuple(replace(target, price=PRICE) for target in group) for group in model.groups),
            )
            for name, model in plain.models.items()
        }
        return replace(plain, models=models, limits=self.limits, cache=self.rules, **self.more)

    async def begun(self, body: dict[str, Any] | None = None, head: RequestHeaders | None = None) -> tuple[Call, Any]:
        """A call as far as its route, or its answer."""
        call = self.policy.pipeline.begin()
        await (head or request()).tell(self.policy.pipeline, call)
        order = await RequestBody(orjson.dumps(body or chat())).tell(self.policy.pipeline, call)
        return call, order

    async def answered(self, call: Call, body: bytes, status: int = 200, kind: str = "application/json") -> bytes:
        """Its backend's answer, and what of it goes out."""
        pipeline = self.policy.pipeline
        await answer(status=status, content_type=kind).tell(pipeline, call)
        sent = await ResponseBody(body).tell(pipeline, call)
        self.end(call)
        await self.settled()
        assert isinstance(sent, Emit)
        return body if sent.body is None else sent.body

    async def call(self, body: dict[str, Any] | None = None, said: bytes | None = None, **how: Any) -> Any:
        """A whole call: the route or the reply that was ordered."""
        call, order = await self.begun(body, how.pop("head", None))
        if isinstance(order, Reply):
            self.end(call)
        else:
            await self.answered(call, whole() if said is None else said, **how)
        return order

    def end(self, call: Call) -> None:
        self.policy.pipeline.end(call)

    async def settled(self) -> None:
        """All answers that were offered are kept, or not."""
        while self.answers._working:
            await asyncio.wait(self.answers._working)

    @property
    def record(self) -> dict[str, Any]:
        return self.policy.records[-1]

    @property
    def used(self) -> list[tuple[str, int]]:
        """What the last call was booked with, by measure."""
        hold, draws, _ = self.policy.holds.settled[-1]
        return [(stake.limit.measure.value, draw.units) for stake, draw in zip(hold.stakes, draws, strict=True)]


def chat(text: str = "What colour is the sky?", **fields: object) -> dict[str, Any]:
    return {"model": "gpt-4o", "messages": [{"role": "user", "content": text}], **fields}


def told(order: Relay | Reply) -> dict[str, str]:
    return dict(order.headers)


def limit(measure: Measure, amount: int) -> Limit:
    return Limit(measure.value, measure, amount, sliding=60_000)


class TestHit:
    async def test_the_same_again_is_answered_without_a_backend(self) -> None:
        gateway = Gateway()
        call, order = await gateway.begun()
        assert isinstance(order, Route)
        head = await answer().tell(gateway.policy.pipeline, call)
        assert isinstance(head, Relay)
        assert told(head)["x-sluice-cache"] == "miss"
        await ResponseBody(whole()).tell(gateway.policy.pipeline, call)
        gateway.end(call)
        await gateway.settled()
        assert gateway.record["cache"] == {"result": "miss"}

        gateway.clock.now += 5_400
        again, order = await gateway.begun()
        assert isinstance(order, Reply)
        assert (order.status, order.body, again.phase) == (200, whole(), Phase.ANSWERED)
        assert told(order) == {"content-type": "application/json", "x-sluice-cache": "hit", "age": "5"}
        gateway.end(again)
        cost = 7 * 1_000 + 30 * 4_000
        assert gateway.record["cache"] == {"result": "hit", "age": 5, "saved": cost, "saved_tokens": 37}
        assert (gateway.record["ending"], gateway.record["model"]) == ("cached", "gpt-4o")
        assert not {"cost", "usage", "backend", "chain"} & gateway.record.keys()

    async def test_a_stream_is_repeated_event_by_event(self) -> None:
        gateway, body = Gateway(), chat(stream=True, stream_options={"include_usage": True})
        said = events("It is", " blue.")
        await gateway.call(body, said, kind="text/event-stream")
        reply = await gateway.call(body)
        assert isinstance(reply, Reply)
        assert (reply.body, told(reply)["content-type"]) == (said, "text/event-stream")
        assert gateway.record["stream"] is True

    async def test_usage_that_only_the_gateway_asked_for_is_not_kept(self) -> None:
        gateway, body = Gateway(), chat(stream=True)
        await gateway.call(body, events("blue"), kind="text/event-stream")
        reply = await gateway.call(body)
        assert reply.body == events("blue", usage=False)
        assert gateway.record["cache"]["saved_tokens"] == 37

    async def test_each_caller_gets_its_own_values_back(self) -> None:
        policies = {"default": redaction(input={EMAIL: Action.PLACEHOLDER})}
        gateway = Gateway(more={"redaction": policies})
        await gateway.call(chat("Write to ann@example.com"), whole("Dear <EMAIL_ADDRESS_1>"))
        reply = await gateway.call(chat("Write to bob@example.org"))
        assert isinstance(reply, Reply)
        assert reply.body == whole("Dear bob@example.org")
        assert gateway.record["redaction"]["restored"] == 1
        (kept,) = [answer.sealed for answer in gateway.store._answers.values()]
        assert b"ann@" not in kept
        assert b"bob@" not in kept

    @pytest.mark.parametrize("asked", ["no-cache", "max-age=3", "max-age=0"])
    async def test_one_that_is_too_old_for_the_caller_is_made_anew(self, asked: str) -> None:
        gateway, head = Gateway(), request(cache_control=asked)
        await gateway.call(said=whole("old"))
        gateway.clock.now += 5_000
        assert isinstance(await gateway.call(said=whole("new"), head=head), Route)
        assert (await gateway.call()).body == whole("new")

    async def test_one_from_the_future_has_no_age(self) -> None:
        gateway = Gateway()
        gateway.clock.now += 3_600_000
        await gateway.call(said=whole("later"))
        gateway.clock.now -= 3_600_000
        assert isinstance(await gateway.call(said=whole("now")), Route)
        assert (await gateway.call()).body == whole("now")

    async def test_it_ends(self) -> None:
        gateway = Gateway(CacheRules(replace(ENFORCED, ttl=60)))
        await gateway.call()
        gateway.clock.now += 61_000
        assert isinstance(await gateway.call(), Route)

    async def test_a_caller_may_have_it_kept_for_less(self) -> None:
        gateway = Gateway()
        await gateway.call(head=request(x_sluice_cache_ttl="10"))
        gateway.clock.now += 9_000
        assert isinstance(await gateway.call(), Reply)
        gateway.clock.now += 2_000
        assert isinstance(await gateway.call(), Route)


class TestPrice:
    async def test_a_hit_is_one_request_and_nothing_else(self) -> None:
        limits = (limit(Measure.REQUESTS, 10), limit(Measure.TOKENS, 10_000), limit(Measure.MONEY, 10**12))
        gateway = Gateway(limits=limits)
        await gateway.call()
        assert gateway.used == [("requests", 1), ("tokens", 37), ("money", 127_000)]
        reply = await gateway.call()
        assert gateway.used == [("requests", 1), ("tokens", 0), ("money", 0)]
        assert "x-sluice-output-cap" not in told(reply)
        assert "x-ratelimit-remaining-requests" in told(reply)

    async def test_it_serves_where_no_tokens_are_left(self) -> None:
        gateway = Gateway(limits=(limit(Measure.REQUESTS, 10), limit(Measure.TOKENS, 1_100)))
        first = whole()
        await gateway.call(said=first.replace(b'"completion_tokens":30', b'"completion_tokens":1090'))
        refused = await gateway.call(chat("Something else"))
        assert (refused.status, gateway.record["refusal"]) == (429, refusals.RATE_LIMIT.code)
        reply = await gateway.call()
        assert (reply.status, gateway.used) == (200, [("requests", 1), ("tokens", 0)])

    async def test_it_does_not_where_no_requests_are(self) -> None:
        gateway = Gateway(limits=(limit(Measure.REQUESTS, 2),))
        await gateway.call()
        assert (await gateway.call()).status == 200
        assert (await gateway.call()).status == 429

    async def test_shadow_tells_what_it_would_have_saved(self) -> None:
        gateway = Gateway(CacheRules(replace(ENFORCED, mode=Mode.SHADOW)))
        await gateway.call()
        assert isinstance(await gateway.call(), Route)
        assert gateway.record["cache"] == {
            "result": "miss", "shadow": True, "age": 0, "saved": 127_000, "saved_tokens": 37
        }  # fmt: skip
        assert gateway.record["cost"] == 127_000


PEOPLE = {"ann": "developer", "bob": "developer"}
RED = Team("red", "north", "gold", users=PEOPLE)


class TestWhoShares:
    @staticmethod
    def enrol(gateway: Gateway, team: Team | None) -> None:
        """Put both keys into a team, each of another user."""
        keys = {
            printed: replace(key, team=team.name if team else "", user=user if team else None)
            for (printed, key), user in zip(DIRECTORY.keys.items(), ("ann", "bob"), strict=True)
        }
        teams = {team.name: team} if team else {}
        gateway.policy.roster.directory = replace(DIRECTORY, keys=keys, teams=teams)

    async def shares(self, gateway: Gateway, one: Team | None, two: Team | None, key: str = OTHER_KEY) -> bool:
        self.enrol(gateway, one)
        await gateway.call()
        self.enrol(gateway, two)
        return isinstance(await gateway.call(head=request(authorization=f"Bearer {key}")), Reply)

    async def test_keys_of_one_team_do(self) -> None:
        assert await self.shares(Gateway(), RED, RED)

    @pytest.mark.parametrize(
        "other", [replace(RED, name="blue"), replace(RED, area="south"), None], ids=["name", "area", "none"]
    )
    @pytest.mark.parametrize("key", [KEY_OF_ONE, OTHER_KEY], ids=["same", "other"])
    async def test_teams_do_not(self, other: Team | None, key: str) -> None:
        assert not await self.shares(Gateway(), RED, other, key)

    async def test_keys_without_a_team_do_not(self) -> None:
        assert not await self.shares(Gateway(), None, None)
        assert await self.shares(Gateway(), None, None, KEY_OF_ONE)

    @pytest.mark.parametrize("scope", [Scope.USER, Scope.KEY])
    async def test_users_and_keys_do_not_where_the_policy_says_so(self, scope: Scope) -> None:
        rules = CacheRules(replace(ENFORCED, scope=scope))
        assert not await self.shares(Gateway(rules), RED, RED)
        assert await self.shares(Gateway(rules), RED, RED, KEY_OF_ONE)

    async def test_a_key_of_another_rule_has_none(self) -> None:
        gateway = Gateway(CacheRules(ENFORCED, ((Selector(keys=frozenset({"key_2"})), CachePolicy()),)))
        assert not await self.shares(gateway, RED, RED)
        assert "cache" not in gateway.record


class TestNotKept:
    @pytest.mark.parametrize(
        ("said", "kind", "status"),
        [
            (whole(finish="length"), "application/json", 200),
            (whole(finish="content_filter"), "application/json", 200),
            (b'{"error":{"message":"no"}}', "application/json", 400),
            (whole()[:-9], "application/json", 200),
            (events("blue", finish="length"), "text/event-stream", 200),
            (events("blue", finish=None), "text/event-stream", 200),
            (events("blue")[:-20], "text/event-stream", 200),
            (b"blue", "text/plain", 200),
        ],
    )
    async def test_what_is_not_a_whole_answer(self, said: bytes, kind: str, status: int) -> None:
        gateway, body = Gateway(), chat(stream=kind == "text/event-stream")
        await gateway.call(body, said, status=status, kind=kind)
        assert isinstance(await gateway.call(body), Route)

    async def test_one_that_is_larger_than_allowed(self) -> None:
        gateway = Gateway(CacheRules(replace(ENFORCED, largest=1_024)))
        await gateway.call(said=whole("x" * 1_024))
        assert isinstance(await gateway.call(said=whole("x" * 700)), Route)
        assert isinstance(await gateway.call(), Reply)

    async def test_one_whose_client_has_left(self) -> None:
        gateway = Gateway()
        call, _ = await gateway.begun()
        await answer().tell(gateway.policy.pipeline, call)
        await ResponseBody(whole()[:20], end=False).tell(gateway.policy.pipeline, call)
        gateway.end(call)
        await gateway.settled()
        assert isinstance(await gateway.call(), Route)

    @pytest.mark.parametrize(
        ("fields", "reason"),
        [
            ({"n": 2}, "choices"),
            ({"temperature": 0.9}, "temperature"),
            ({"store": True}, "stored"),
            ({"web_search_options": {}}, "hosted_tools"),
        ],
    )
    async def test_a_call_that_is_none_for_the_cache_says_why(self, fields: dict[str, Any], reason: str) -> None:
        gateway = Gateway()
        for _ in range(2):
            call, order = await gateway.begun(chat(**fields))
            assert isinstance(order, Route)
            head = await answer().tell(gateway.policy.pipeline, call)
            assert isinstance(head, Relay)
            assert told(head)["x-sluice-cache"] == f"bypass; {reason}"
            await ResponseBody(whole()).tell(gateway.policy.pipeline, call)
            gateway.end(call)
        assert gateway.record["cache"] == {"result": "bypass", "reason": reason}

    async def test_no_store(self) -> None:
        gateway = Gateway()
        await gateway.call()
        assert isinstance(await gateway.call(head=request(cache_control="no-store")), Route)
        assert gateway.record["cache"] == {"result": "bypass", "reason": "no_store"}

    async def test_a_moved_alias_or_another_deployment_begins_anew(self) -> None:
        gateway = Gateway()
        await gateway.call()
        plain = gateway.catalogue()
        changed = replace(plain, models={n: replace(m, version="2") for n, m in plain.models.items()})
        gateway.policy.pipeline._catalogue = lambda: changed
        assert isinstance(await gateway.call(), Route)


class TestOnlyIfCached:
    HEAD = request(cache_control="only-if-cached")

    async def test_what_is_kept_serves(self) -> None:
        gateway = Gateway(limits=(limit(Measure.REQUESTS, 10), limit(Measure.TOKENS, 10_000)))
        await gateway.call()
        reply = await gateway.call(head=self.HEAD)
        assert (reply.status, gateway.used) == (200, [("requests", 1), ("tokens", 0)])

    @pytest.mark.parametrize("fields", [{}, {"n": 2}])
    async def test_nothing_else_does(self, fields: dict[str, Any]) -> None:
        gateway = Gateway(limits=(limit(Measure.REQUESTS, 10),))
        reply = await gateway.call(chat(**fields), head=self.HEAD)
        assert (reply.status, told(reply)["x-should-retry"]) == (504, "false")
        assert gateway.policy.holds.settled == []


class TestOneForMany:
    async def test_those_who_ask_meanwhile_wait_for_the_answer(self) -> None:
        gateway = Gateway(limits=(limit(Measure.REQUESTS, 10), limit(Measure.TOKENS, 1_100)))
        leader, order = await gateway.begun()
        assert isinstance(order, Route)
        waiting = [asyncio.ensure_future(gateway.begun()) for _ in range(5)]
        await asyncio.sleep(0)
        await gateway.answered(leader, whole())
        for call, order in await asyncio.gather(*waiting):
            assert isinstance(order, Reply)
            assert (order.status, order.body) == (200, whole())
            gateway.end(call)
        assert gateway.used == [("requests", 1), ("tokens", 0)]

    @pytest.mark.parametrize("fails", [True, False])
    async def test_each_goes_alone_where_there_is_none(self, fails: bool) -> None:
        gateway = Gateway()
        leader, _ = await gateway.begun()
        waiting = [asyncio.ensure_future(gateway.begun()) for _ in range(3)]
        await asyncio.sleep(0)
        if fails:
            await gateway.answered(leader, b'{"error":{}}', status=500)
        else:
            gateway.end(leader)
        for call, order in await asyncio.gather(*waiting):
            assert isinstance(order, Route)
            gateway.end(call)

    async def test_they_do_not_wait_for_ever(self) -> None:
        gateway = Gateway(CacheRules(ENFORCED, wait=0.01))
        leader, _ = await gateway.begun()
        call, order = await gateway.begun()
        assert isinstance(order, Route)
        gateway.end(call)
        await gateway.answered(leader, whole())
        assert isinstance(await gateway.call(), Reply)

    async def test_one_who_is_refused_holds_nobody_up(self) -> None:
        gateway = Gateway(limits=(limit(Measure.TOKENS, 5),))
        first, second = await asyncio.gather(gateway.begun(), gateway.begun())
        assert {first[1].status, second[1].status} == {429}
        gateway.end(first[0])
        gateway.end(second[0])
        assert gateway.answers._flights == {}


class Down(MemoryAnswers):
    async def look(self, digest: str, claim: str = "", life: int = 0) -> Found:
        raise AnswersUnavailable("down")


class TestStoreIsDown:
    async def test_it_is_a_miss(self) -> None:
        gateway = Gateway()
        gateway.answers._store = Down(gateway.clock, 2**20)
        assert isinstance(await gateway.call(), Route)
        assert isinstance(await gateway.call(), Route)
        assert gateway.record["cache"] == {"result": "miss"}

    async def test_those_who_wait_get_the_answer_all_the_same(self) -> None:
        gateway = Gateway()
        gateway.answers._store = Down(gateway.clock, 2**20)
        leader, _ = await gateway.begun()
        waiting = asyncio.ensure_future(gateway.begun())
        await asyncio.sleep(0)
        await gateway.answered(leader, whole())
        call, order = await waiting
        assert isinstance(order, Reply)
        gateway.end(call)


async def test_a_poisoned_entry_is_a_miss() -> None:
    gateway = Gateway()
    await gateway.call(chat("one"), whole("1"))
    await gateway.call(chat("two"), whole("2"))
    kept = gateway.store._answers
    (one, first), (two, second) = kept.items()
    kept[one], kept[two] = second, first
    for text, said in (("one", "1"), ("two", "2")):
        assert isinstance(await gateway.call(chat(text), whole(said)), Route)
        assert (await gateway.call(chat(text))).body == whole(said)


class TestNobodyWaitsInVain:
    """Calls that ask the same go on as soon as it is known that there will be nothing to share."""

    @pytest.mark.parametrize(
        ("status", "kind", "said"),
        [
            (500, "application/json", b""),
            (200, "audio/mpeg", b""),
            (200, "application/json", b" " * 2_000),
        ],
        ids=["error", "opaque", "too large"],
    )
    async def test_what_turns_out_to_be_none_to_keep(self, status: int, kind: str, said: bytes) -> None:
        gateway = Gateway(CacheRules(replace(ENFORCED, largest=1_024)))
        leader, _ = await gateway.begun()
        waiting = asyncio.ensure_future(gateway.begun())
        await asyncio.sleep(0)
        await answer(status=status, content_type=kind).tell(gateway.policy.pipeline, leader)
        if said:
            await ResponseBody(said, end=False).tell(gateway.policy.pipeline, leader)
        call, order = await waiting  # while the leader's answer still flows
        assert isinstance(order, Route)
        gateway.end(call)
        gateway.end(leader)

    async def test_one_who_went_alone_ends_the_wait_of_the_others(self) -> None:
        gateway = Gateway(CacheRules(ENFORCED, wait=0.02))
        slow, _ = await gateway.begun()
        impatient, order = await gateway.begun()
        assert isinstance(order, Route)
        gateway.rules = CacheRules(ENFORCED)
        waiting = asyncio.ensure_future(gateway.begun())
        await asyncio.sleep(0)
        await gateway.answered(impatient, whole())
        call, order = await waiting
        assert isinstance(order, Reply)
        gateway.end(call)
        assert isinstance(await gateway.call(), Reply)
        gateway.end(slow)

    async def test_a_repeat_with_its_idempotency_key_gets_the_answer(self) -> None:
        gateway = Gateway(limits=(limit(Measure.REQUESTS, 10),))
        await gateway.call()
        head = request(idempotency_key="once", cache_control="no-cache")
        running, order = await gateway.begun(head=head)
        assert isinstance(order, Route)
        again = await gateway.call(head=request(idempotency_key="once"))
        assert (again.status, told(again)["x-sluice-cache"]) == (200, "hit")
        gateway.end(running)


async def test_only_if_cached_holds_where_the_cache_is_off() -> None:
    gateway = Gateway(CacheRules())
    reply = await gateway.call(head=request(cache_control="only-if-cached"))
    assert (reply.status, gateway.record["refusal"]) == (504, "not_cached")
    assert isinstance(await gateway.call(head=request(cache_control="no-cache")), Route)
    assert "cache" not in gateway.record


async def test_what_a_backend_says_that_knows_the_caller_is_for_nobody_else() -> None:
    plain = catalogue()
    knows = replace(plain.models["gpt-4o"].groups[0][0].backend, wants_identity=True)
    models = {"gpt-4o": replace(plain.models["gpt-4o"], groups=((Target(knows, "gpt-4o"),),))}
    gateway = Gateway()
    gateway.policy.pipeline._catalogue = lambda: replace(plain, models=models, cache=gateway.rules)
    for _ in range(2):
        assert isinstance(await gateway.call(), Route)
    assert gateway.record["cache"] == {"result": "bypass", "reason": "identity"}


@pytest.mark.parametrize("when", ["before", "after"])
async def test_what_a_policy_could_not_look_at_is_not_kept(when: str) -> None:
    """Also where it was asked after the look, or about the answer: it may be back for the next call, and refuse."""
    gateway = Gateway()
    for _ in range(2):
        call, order = await gateway.begun()
        assert isinstance(order, Route)
        if when == "before":
            call.inspection.failed.append("moderation")
        await answer().tell(gateway.policy.pipeline, call)
        if when == "after":
            call.inspection.failed.append("moderation")
        await ResponseBody(whole()).tell(gateway.policy.pipeline, call)
        gateway.end(call)
        await gateway.settled()


@pytest.mark.parametrize("stop", [[("model", "gpt-4o")], [("backend", "one"), ("backend", "legacy")]])
async def test_what_is_stopped_answers_nobody(stop: list[tuple[str, str]]) -> None:
    """Neither those who ask for what is kept alone, nor those who wait for another call."""
    gateway = Gateway()
    await gateway.call()
    leader, _ = await gateway.begun(chat("Another"))
    gateway.policy.roster.directory = replace(DIRECTORY, stops=frozenset(stop))
    waiting = asyncio.ensure_future(gateway.begun(chat("Another")))
    await asyncio.sleep(0)
    await gateway.answered(leader, whole())
    call, order = await waiting
    gateway.end(call)
    for reply in (order, await gateway.call(), await gateway.call(head=request(cache_control="only-if-cached"))):
        assert reply.status in (403, 503)
    assert gateway.record["cache"] == {"result": "miss"}
