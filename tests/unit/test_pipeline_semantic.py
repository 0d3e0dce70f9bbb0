"""Answers to the same in other words on the way of data, as transcripts: who gets them, what is told, what it costs."""

import asyncio
from dataclasses import dataclass, field, replace
from typing import Any

import orjson
import pytest

from extproc.cache.agreement import agree
from extproc.cache.entry import Entry
from extproc.cache.policy import CachePolicy, CacheRules, Semantic
from extproc.call import Relay, Reply, Route
from extproc.limits.limit import Measure
from extproc.neighbours import Neighbours
from extproc.redaction.policy import Action, Mode
from extproc.stages import cache
from extproc.stores.memory_neighbours import MemoryNeighbours
from extproc.surfaces import Surface
from tests.support.embedding import Embedding
from tests.support.playbook import KEY, OTHER_KEY, RequestHeaders, ResponseBody, answer, request
from tests.support.policies import EMAIL, redaction
from tests.unit.test_pipeline_cache import SEALING, Gateway, chat, events, limit, told, whole

TIER = Semantic(mode=Mode.ENFORCE, threshold=0.8, service="vectors", service_model="m", price=2_000_000)
ENFORCED = CachePolicy(mode=Mode.ENFORCE, semantic=TIER)
ASKED = "What is the capital of France?"
OTHERWISE = "Please tell me: what is the capital of France?"
NEAR_MISS = "What is the capital of Spain?"
SAID_IN_MESSAGES = {
    "id": "msg_1",
    "type": "message",
    "role": "assistant",
    "model": "claude-opus",
    "content": [{"type": "text", "text": "Paris."}],
    "stop_reason": "end_turn",
    "stop_sequence": None,
    "usage": {"input_tokens": 9, "output_tokens": 3},
}
SAID_IN_RESPONSES = {
    "id": "resp_1",
    "object": "response",
    "status": "completed",
    "model": "gpt-4o",
    "store": False,
    "output": [
        {
            "type": "message",
            "id": "msg_1",
            "status": "completed",
            "role": "assistant",
            "content": [{"type": "output_text", "text": "Paris.", "annotations": []}],
        }
    ],
    "usage": {"input_tokens": 9, "output_tokens": 3, "total_tokens": 12},
}
PRICE = 2 * 8
"""Of one of these questions: 8 tokens, rounded up."""


@dataclass
class Semantically(Gateway):
    """A gateway that looks for other words, too."""

    rules: CacheRules = field(default_factory=lambda: CacheRules(ENFORCED))

    def __post_init__(self) -> None:
        super().__post_init__()
        self.embedding = Embedding()
        self.known = MemoryNeighbours(self.clock, 2**20)
        self.neighbours = Neighbours(self.known, self.embedding, agree, self.policy.records, SEALING, self.clock)
        self.policy.neighbours = self.neighbours
        self.policy.__post_init__()

    async def asks(self, text: str, said: bytes | None = None, **fields: Any) -> Any:
        return await self.call(chat(text, **fields), said)

    @property
    def cache(self) -> Any:
        """What the last call's record tells of it."""
        return [record for record in self.policy.records if record["kind"] == "call"][-1]["cache"]


def with_tier(**changes: Any) -> CacheRules:
    return CacheRules(replace(ENFORCED, semantic=replace(TIER, **changes)))


class TestHit:
    async def test_other_words_for_the_same_are_answered_without_a_backend(self) -> None:
        gateway = Semantically()
        assert isinstance(await gateway.asks(ASKED), Route)
        gateway.clock.now += 2_000
        reply = await gateway.asks(OTHERWISE)
        assert isinstance(reply, Reply)
        assert (reply.status, reply.body) == (200, whole())
        headers = told(reply)
        assert headers["x-sluice-cache"] == "semantic"
        assert headers["age"] == "2"
        assert 0.8 < float(headers["x-sluice-cache-similarity"]) < 0.9
        assert gateway.cache["result"] == "semantic"
        assert 0.8 < gateway.cache["similarity"] < 0.9
        assert gateway.cache["saved_tokens"] == 37

    async def test_the_same_words_are_not_embedded(self) -> None:
        gateway = Semantically()
        await gateway.asks(ASKED)
        reply = await gateway.asks(ASKED)
        assert told(reply)["x-sluice-cache"] == "hit"
        assert gateway.embedding.asked == [ASKED]

    async def test_a_stream_is_repeated(self) -> None:
        gateway = Semantically()
        said = events("It is", " Paris.", usage=False)
        await gateway.call(chat(ASKED, stream=True), said, kind="text/event-stream")
        reply = await gateway.call(chat(OTHERWISE, stream=True))
        assert reply.body == said
        assert isinstance(await gateway.asks(OTHERWISE), Route)

    @pytest.mark.parametrize("path", ["/v1/responses", "/v1/messages"])
    async def test_on_the_other_surfaces_of_conversations(self, path: str) -> None:
        gateway, is_messages = Semantically(), path == "/v1/messages"
        head = request(path, x_api_key=KEY, authorization="") if is_messages else request(path)

        def asking(text: str) -> dict[str, Any]:
            if is_messages:
                return {"model": "claude-opus", "max_tokens": 50, "messages": [{"role": "user", "content": text}]}
            return {"model": "gpt-4o", "input": text, "store": False}

        said = SAID_IN_MESSAGES if is_messages else SAID_IN_RESPONSES
        await gateway.call(asking(ASKED), orjson.dumps(said), head=head)
        reply = await gateway.call(asking(OTHERWISE), head=head)
        assert isinstance(reply, Reply)
        assert (told(reply)["x-sluice-cache"], orjson.loads(reply.body)) == ("semantic", said)

    async def test_only_if_cached_takes_one(self) -> None:
        gateway, head = Semantically(), request(cache_control="only-if-cached")
        await gateway.asks(ASKED)
        assert (await gateway.call(chat(OTHERWISE), head=head)).status == 200
        assert (await gateway.call(chat(NEAR_MISS), head=head)).status == 504

    async def test_those_who_ask_the_same_meanwhile_find_it_too(self) -> None:
        gateway = Semantically()
        await gateway.asks(ASKED)
        for call, order in await asyncio.gather(*[gateway.begun(chat(OTHERWISE)) for _ in range(4)]):
            assert isinstance(order, Reply)
            assert told(order)["x-sluice-cache"] == "semantic"
            gateway.end(call)

    async def test_nobody_waits_for_the_end_of_one_that_was_served(self) -> None:
        gateway = Semantically()
        await gateway.asks(ASKED)
        call, order = await gateway.begun(chat(OTHERWISE))
        assert isinstance(order, Reply)
        assert gateway.answers._flights == {}
        gateway.end(call)


class TestMiss:
    async def test_what_the_second_gate_does_not_let_through(self) -> None:
        gateway = Semantically()
        await gateway.asks(ASKED)
        assert isinstance(await gateway.asks(NEAR_MISS), Route)
        assert gateway.cache == {"result": "miss"}

    @pytest.mark.parametrize(
        "fields",
        [
            {"temperature": 0.1},
            {"seed": 7},
            {"max_tokens": 5},
            {"stream": True},
            {"response_format": {"type": "json_object"}},
        ],
    )
    async def test_where_anything_else_differs(self, fields: dict[str, Any]) -> None:
        gateway = Semantically()
        await gateway.asks(ASKED)
        kind = "text/event-stream" if "stream" in fields else "application/json"
        said = events("x") if "stream" in fields else None
        assert isinstance(await gateway.call(chat(OTHERWISE, **fields), said, kind=kind), Route)

    async def test_another_conversation_or_system_prompt(self) -> None:
        gateway = Semantically()

        def after(role: str, content: str, text: str) -> dict[str, Any]:
            return {
                "model": "gpt-4o",
                "messages": [{"role": role, "content": content}, {"role": "user", "content": text}],
            }

        await gateway.call(after("system", "Be brief.", ASKED))
        assert isinstance(await gateway.call(after("system", "Be long.", OTHERWISE)), Route)
        assert isinstance(await gateway.call(after("user", "Be brief.", OTHERWISE)), Route)
        assert isinstance(await gateway.call(after("system", "Be brief.", OTHERWISE)), Reply)

    async def test_another_key(self) -> None:
        gateway = Semantically()
        await gateway.asks(ASKED)
        assert isinstance(await gateway.call(chat(OTHERWISE), head=request(authorization=f"Bearer {OTHER_KEY}")), Route)

    async def test_another_model_of_vectors(self) -> None:
        gateway = Semantically()
        await gateway.asks(ASKED)
        gateway.rules = with_tier(service_model="other")
        assert isinstance(await gateway.asks(OTHERWISE), Route)

    @pytest.mark.parametrize(
        ("head", "is_embedded"),
        [
            (request(x_sluice_cache="exact"), False),
            (request(cache_control="no-cache"), False),
            (request(cache_control="no-store"), False),
            (request(x_sluice_cache_threshold="0.95"), True),
            (request(cache_control="max-age=1"), True),
        ],
    )
    async def test_as_the_caller_wishes(self, head: RequestHeaders, is_embedded: bool) -> None:
        gateway = Semantically()
        await gateway.asks(ASKED)
        gateway.clock.now += 5_000
        assert isinstance(await gateway.call(chat(OTHERWISE), head=head), Route)
        assert gateway.embedding.asked[1:] == [OTHERWISE] * is_embedded

    async def test_a_threshold_below_the_policys_lowers_nothing(self) -> None:
        gateway = Semantically(with_tier(threshold=0.9))
        await gateway.asks(ASKED)
        head = request(x_sluice_cache_threshold="0.1")
        assert isinstance(await gateway.call(chat(OTHERWISE), head=head), Route)

    async def test_off(self) -> None:
        gateway = Semantically(CacheRules(replace(ENFORCED, semantic=Semantic())))
        await gateway.asks(ASKED)
        assert isinstance(await gateway.asks(OTHERWISE), Route)
        assert gateway.embedding.asked == []

    async def test_an_answer_that_has_ended_or_was_purged(self) -> None:
        gateway = Semantically()
        await gateway.asks(ASKED)
        await gateway.store.purge(lambda _: True)
        assert isinstance(await gateway.asks(OTHERWISE), Route)
        gateway.clock.now += 3_601_000
        assert isinstance(await gateway.asks("Tell me: what is the capital of France?"), Route)

    async def test_a_question_whose_answer_is_not_kept_is_not_either(self) -> None:
        gateway = Semantically()
        call, _ = await gateway.begun(chat(ASKED))
        await gateway.store.purge(lambda _: True)
        await gateway.answered(call, whole())
        await gateway.asks(NEAR_MISS)
        (partition,) = gateway.known._partitions.values()
        assert len(partition) == 1

    @pytest.mark.parametrize("trouble", [True, False])
    async def test_without_vectors_the_exact_answers_serve(self, trouble: bool) -> None:
        gateway = Semantically()
        if trouble:
            gateway.embedding.fails = True
        else:
            gateway.embedding.vector = bytes(4 * 64)
        await gateway.asks(ASKED)
        assert isinstance(await gateway.asks(OTHERWISE), Route)
        assert told(await gateway.asks(ASKED))["x-sluice-cache"] == "hit"


class TestValues:
    """What redaction put in place of values."""

    @staticmethod
    def gateway() -> Semantically:
        return Semantically(more={"redaction": {"default": redaction(input={EMAIL: Action.PLACEHOLDER})}})

    async def test_each_caller_gets_its_own_back(self) -> None:
        gateway = self.gateway()
        await gateway.asks("Write a mail to ann@example.com about lunch.", whole("Dear <EMAIL_ADDRESS_1>"))
        reply = await gateway.asks("Please write a mail to bob@example.org about lunch.")
        assert isinstance(reply, Reply)
        assert reply.body == whole("Dear bob@example.org")
        assert not any("@" in text for text in gateway.embedding.asked)

    async def test_other_places_for_them_are_another_question(self) -> None:
        gateway = self.gateway()
        first = "Greet ann@example.com and mention bob@example.com to her."
        await gateway.asks(first, whole("<EMAIL_ADDRESS_1>, <EMAIL_ADDRESS_2>"))
        one_for_both = "Greet ann@example.com and mention ann@example.com to her."
        assert isinstance(await gateway.asks(one_for_both), Route)
        assert isinstance(await gateway.asks("Please greet eve@example.com and mention joe@example.com to her."), Reply)


class TestPrice:
    LIMITS = (limit(Measure.REQUESTS, 10), limit(Measure.TOKENS, 10_000), limit(Measure.MONEY, 10**12))

    async def test_a_hit_costs_the_request_and_the_embedding(self) -> None:
        gateway = Semantically(limits=self.LIMITS)
        await gateway.asks(ASKED)
        assert gateway.used == [("requests", 1), ("tokens", 37), ("money", 127_000 + PRICE)]
        await gateway.asks(OTHERWISE)
        price = 2 * 12
        assert gateway.used == [("requests", 1), ("tokens", 0), ("money", price)]
        assert (gateway.record["aside"], gateway.record["cost"]) == (price, price)

    async def test_the_hold_of_a_miss_has_room_for_it(self) -> None:
        gateway = Semantically(limits=self.LIMITS)
        call, _ = await gateway.begun(chat(ASKED))
        assert call.hold is not None
        assert call.hold.extent.aside == PRICE
        gateway.end(call)

    async def test_a_call_that_is_refused_has_asked_for_none(self) -> None:
        gateway = Semantically(limits=(limit(Measure.MONEY, 1),))
        reply = await gateway.asks(ASKED)
        assert reply.status == 429
        assert "aside" not in gateway.record
        assert not gateway.embedding.asked

    @pytest.mark.parametrize("measure", [Measure.REQUESTS, Measure.MONEY])
    async def test_nor_has_one_that_only_what_is_kept_may_serve(self, measure: Measure) -> None:
        """Else a loop of such calls would spend without end."""
        gateway = Semantically(limits=(limit(measure, 2 * PRICE if measure is Measure.MONEY else 2),))
        for _ in range(5):
            reply = await gateway.call(chat(ASKED), head=request(cache_control="only-if-cached"))
        assert reply.status == 429
        assert len(gateway.embedding.asked) == 2

    async def test_without_limits_the_record_tells_it(self) -> None:
        gateway = Semantically()
        await gateway.asks(ASKED)
        assert gateway.record["aside"] == PRICE


class TestShadow:
    async def compared(self, would: str, real: str) -> tuple[Semantically, Any]:
        gateway = Semantically(with_tier(mode=Mode.SHADOW))
        await gateway.asks(ASKED, whole(would))
        call, order = await gateway.begun(chat(OTHERWISE))
        assert isinstance(order, Route)
        head = await answer().tell(gateway.policy.pipeline, call)
        assert isinstance(head, Relay)
        assert told(head)["x-sluice-cache"] == "miss"
        await ResponseBody(whole(real)).tell(gateway.policy.pipeline, call)
        gateway.end(call)
        await gateway.settled()
        return gateway, gateway.policy.records[-1]

    @pytest.mark.parametrize(
        ("would", "real", "agrees"),
        [
            ("It is Paris.", "it is  Paris.", True),
            ("It is Paris of course.", "Of course it is Paris.", True),
            ("It is Paris.", "Nobody can tell you such things.", False),
        ],
    )
    async def test_the_answer_that_would_have_served_is_compared(self, would: str, real: str, agrees: bool) -> None:
        gateway, record = await self.compared(would, real)
        assert record == {
            "time": record["time"],
            "kind": "cache_shadow",
            "request_id": "r-1",
            "model": "gpt-4o",
            "similarity": gateway.cache["similarity"],
            "agrees": agrees,
        }
        assert gateway.cache | {"similarity": 0} == {
            "result": "miss", "shadow": True, "age": 0, "similarity": 0, "saved": 127_000 + PRICE, "saved_tokens": 37
        }  # fmt: skip

    async def test_it_is_paid_for(self) -> None:
        gateway, _ = await self.compared("It is Paris.", "It is Rome, no?")
        told_of = [record for record in gateway.policy.records if record["kind"] == "call"][-1]
        assert told_of["aside"] == 2 * 12 + 2 * 2 * 150

    async def test_the_exact_answer_serves_all_the_same(self) -> None:
        gateway = Semantically(with_tier(mode=Mode.SHADOW))
        await gateway.asks(ASKED)
        assert told(await gateway.asks(ASKED))["x-sluice-cache"] == "hit"

    async def test_one_that_is_too_old_for_the_caller_would_not_have_served(self) -> None:
        gateway = Semantically(with_tier(mode=Mode.SHADOW))
        await gateway.asks(ASKED)
        gateway.clock.now += 5_000
        await gateway.call(chat(OTHERWISE), head=request(cache_control="max-age=1"))
        assert gateway.cache == {"result": "miss"}

    async def test_nothing_is_looked_for_where_the_exact_one_would_have_served(self) -> None:
        policy = replace(ENFORCED, mode=Mode.SHADOW, semantic=replace(TIER, mode=Mode.SHADOW))
        gateway = Semantically(CacheRules(policy))
        for _ in range(2):
            assert isinstance(await gateway.asks(ASKED), Route)
        assert gateway.embedding.asked == [ASKED]
        assert "similarity" not in gateway.cache

    async def test_answers_that_cannot_be_compared_are_not(self) -> None:
        gateway = Semantically(with_tier(mode=Mode.SHADOW))
        await gateway.asks(ASKED, whole("It is Paris."))
        call, _ = await gateway.begun(chat(OTHERWISE))
        gateway.embedding.fails = True
        await gateway.answered(call, whole("Somewhere else."))
        assert {record["kind"] for record in gateway.policy.records} == {"call"}


@pytest.mark.parametrize(
    ("surface", "body", "said"),
    [
        (
            Surface.CHAT,
            {"choices": [{"message": {"role": "assistant", "content": "Yes"}, "finish_reason": "stop"}]},
            "Yes",
        ),
        (
            Surface.CHAT,
            {"choices": [{"message": {"tool_calls": [{"function": {"name": "look", "arguments": "{}"}}]}}]},
            "look\n{}",
        ),
        (Surface.MESSAGES, {"role": "assistant", "content": [{"type": "text", "text": "Yes"}]}, "Yes"),
        (
            Surface.MESSAGES,
            {"content": [{"type": "tool_use", "name": "look", "input": {"at": 3}}]},
            'look\n{"at":3}',
        ),
        (Surface.RESPONSES, {"output": [{"content": [{"type": "output_text", "text": "Yes"}]}]}, "Yes"),
    ],
)
def test_answers_are_compared_by_what_they_say(surface: Surface, body: dict[str, Any], said: str) -> None:
    told_beside = {"usage": {"prompt_tokens_details": {"cached_tokens": 0}}, "model": "m", "id": "i"}
    whole_body = orjson.dumps({**body, **told_beside})
    entry = Entry(whole_body, "application/json", 1, "m", "one", 1, 1)
    assert cache.said(entry, surface, json_output=False) == said
