"""Limits on the way of data, as transcripts: what is reserved, told, written into the request, and settled."""

import json
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import orjson
import pytest

from extproc import refusals
from extproc.call import PROCEED, BodyMode, Emit, Pass, Relay, Reply, Route
from extproc.limits.hold import Hold
from extproc.limits.limit import Limit, Measure, Mode, Only, Period, Priority, Scope, Short
from extproc.model import Bounds, Catalogue, Price, Team
from extproc.stages.budget import SLOT
from extproc.stores.counters import Answer, Draw, call_of
from extproc.stores.memory_counters import MemoryCounters
from tests.support.playbook import (
    DIRECTORY,
    Enrolled,
    Playbook,
    Policy,
    Records,
    Refusal,
    RequestBody,
    RequestHeaders,
    Reserved,
    ResponseBody,
    answer,
    catalogue,
    local_reply,
    pairs,
    request,
)

PRICE = Price(input=1_000_000_000, output=4_000_000_000)
ANSWER = b'{"choices":[],"usage":{"prompt_tokens":7,"completion_tokens":30}}'

FORM = (
    b'--B\r\ncontent-disposition: form-data; name="model"\r\n\r\nwhisper-1\r\n--B\r\n'
    b'content-disposition: form-data; name="file"; filename="a.wav"\r\n\r\nRIFF'
)
UPLOAD = request("/v1/audio/transcriptions", content_type="multipart/form-data; boundary=B", content_length="40000")


def chat(**fields: object) -> RequestBody:
    body = {"model": "gpt-4o", "messages": [{"role": "user", "content": "hi"}], **fields}
    return RequestBody(orjson.dumps(body))


def limit(measure: Measure = Measure.TOKENS, amount: int = 10_000, **fields: Any) -> Limit:
    if measure is not Measure.CONCURRENT and not {"sliding", "period"} & fields.keys():
        fields["sliding"] = 60_000
    return Limit(**{"name": "l", "measure": measure, "amount": amount, **fields})


def policy(*limits: Limit, max_output: int | None = 1_000, **fields: Any) -> Policy:
    plain = catalogue()
    models = {
        name: replace(
            model,
            bounds=Bounds(max_output=max_output, floor=16),
            groups=tuple(tuple(replace(target, price=PRICE) for target in group) for group in model.groups),
        )
        for name, model in plain.models.items()
    }
    changed: Catalogue = replace(plain, models=models, limits=limits, **fields)
    return Policy(catalogue=lambda: changed)


async def left(of: Policy, limit: Limit) -> int:
    """What the only sum of this limit has left."""
    counters = {
        draw.counter.key: draw.counter
        for hold, _, _ in of.holds.settled
        for stake in hold.stakes
        if stake.limit is limit
        for draw in (stake.draw,)
    }
    (counter,) = counters.values()
    answered = await of.holds.counters.reserve(SLOT, "look", [Draw(counter, 0)], 1)
    return counter.capacity - answered.readings[0].used


def told(order: object) -> Mapping[str, str]:
    assert isinstance(order, Relay | Reply)
    return dict(order.headers)


async def play(book: Playbook) -> tuple[dict[str, Any], list[Any]]:
    """The record, and every order in its place."""
    orders: list[Any] = []

    class Kept:
        def __init__(self, inner: Any) -> None:
            self.inner = inner

        async def tell(self, pipeline: Any, call: Any) -> object:
            orders.append(await self.inner.tell(pipeline, call))
            return orders[-1]

    book._steps = [(Kept(told), expected) for told, expected in book._steps]  # type: ignore[misc]
    return await book.play(), orders


def call(of: Policy, body: RequestBody | None = None, **headers: Any) -> Playbook:
    return Playbook(of) >> request(**headers) << PROCEED >> (body or chat())


def whole(of: Policy, body: RequestBody | None = None, **headers: Any) -> Playbook:
    """A chat call that is answered."""
    return call(of, body, **headers) << Route >> answer() >> ResponseBody(ANSWER)


CONFLICT = Refusal(refusals.IDEMPOTENCY_CONFLICT)


def _with(head: RequestHeaders, **more: str) -> RequestHeaders:
    """The same head with other headers."""
    changed = dict(head.headers) | dict(pairs({name.replace("_", "-"): value for name, value in more.items()}))
    return replace(head, headers=tuple(changed.items()))


class TestReserveAndSettle:
    async def test_what_was_used_is_booked_in_place_of_what_was_held(self) -> None:
        tokens, money = limit(), limit(Measure.MONEY, 10**9, name="m", period=Period.MONTH)
        of = policy(tokens, money)
        record = await whole(of).play()
        assert await left(of, tokens) == 10_000 - 37
        assert await left(of, money) == 10**9 - (7 * 1_000 + 30 * 4_000)
        assert record["cost"] == 127_000
        assert record["held"]["output"] == 1_000
        assert not of.holds.open

    async def test_the_event_on_the_bus_is_the_record_and_what_long_windows_took(self) -> None:
        of = policy(limit(sliding=86_400_000), limit(name="quick"))
        record = await whole(of).play()
        ((hold, _, event),) = of.holds.settled
        told = orjson.loads(event)
        booked = told.pop("booked")
        assert told == {"id": hold.id, **json.loads(json.dumps(record))}
        (daily, used, _), _ = next(draws for _, draws, _ in of.holds.settled)
        assert [one[:3] for one in booked] == [[daily.key, "l", used]]
        assert not of.holds.told

    async def test_a_call_that_no_limit_counts_is_on_the_bus_too(self) -> None:
        of = policy()
        record = await whole(of).play()
        ((name, event),) = of.holds.told
        assert orjson.loads(event) == {"id": name, **json.loads(json.dumps(record))}
        assert not of.holds.settled

    async def test_a_journal_that_fails_costs_no_hold(self) -> None:
        class Full(Records):
            def write(self, record: Mapping[str, object]) -> None:
                raise OSError(28, "full")

        of = policy(limit())
        of.records = Full()
        of.__post_init__()
        with pytest.raises(OSError, match="full"):
            await whole(of).play()
        assert len(of.holds.settled) == 1
        assert not of.holds.open

    async def test_a_record_that_cannot_be_made_costs_no_booking(
        self, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
    ) -> None:
        def fails(*_: object) -> None:
            raise TypeError("of a fact")

        monkeypatch.setattr("extproc.settlement.access_record", fails)
        of = policy(limit())
        record = await whole(of).play()
        ((hold, draws, event),) = of.holds.settled
        assert [draw.units for draw in draws] == [37]
        told = orjson.loads(event)
        assert (told["id"], told["usage"], told["ending"]) == (hold.id, record["usage"], "complete")
        assert "TypeError" in caplog.text
        assert "of a fact" not in caplog.text

    async def test_a_call_without_limits_reserves_nothing(self) -> None:
        of = policy()
        await whole(of).play()
        assert not of.holds.settled

    async def test_a_call_that_another_model_s_limit_is_for_reserves_nothing(self) -> None:
        of = policy(limit(only=Only(models=frozenset({"claude-opus"}))))
        await whole(of).play()
        assert not of.holds.settled

    async def test_the_limits_of_gateway_team_and_key_hold_together(self) -> None:
        of = policy(limit(amount=1))
        team = Team("checkout", "shop", "gold", limits=(limit(owner="team/checkout"),))
        keys = {
            print_: replace(key, team="checkout", limits=(limit(owner="key/k"),))
            for print_, key in DIRECTORY.keys.items()
        }
        of.roster.directory = replace(DIRECTORY, keys=keys, teams={"checkout": team})
        _, orders = await play(call(of))
        assert orders[-1].status == 429
        of = policy(limit())
        of.roster.directory = replace(DIRECTORY, keys=keys, teams={"checkout": team})
        await whole(of).play()
        ((hold, _, _),) = of.holds.settled
        assert [stake.limit.title for stake in hold.stakes] == ["l", "team/checkout/l", "key/l"]

    @pytest.mark.parametrize("status", [500, 503, 429])
    async def test_a_failed_call_gives_all_back(self, status: int) -> None:
        tokens, calls = limit(), limit(Measure.REQUESTS, 5, name="r")
        of = policy(tokens, calls)
        await (call(of) << Route >> answer(status=status)).play()
        assert await left(of, tokens) == 10_000
        assert await left(of, calls) == 5

    async def test_a_call_that_the_backend_finds_wrong_counts_as_a_request(self) -> None:
        tokens, calls = limit(), limit(Measure.REQUESTS, 5, name="r")
        of = policy(tokens, calls)
        await (call(of) << Route >> answer(status=400)).play()
        assert await left(of, tokens) == 10_000
        assert await left(of, calls) == 4

    async def test_no_backend_reached_gives_all_back(self) -> None:
        tokens = limit()
        of = policy(tokens)
        await (call(of) << Route >> local_reply(503)).play()
        assert await left(of, tokens) == 10_000

    async def test_a_client_that_leaves_pays_for_what_the_provider_can_have_written(self) -> None:
        tokens = limit()
        of = policy(tokens)
        begun = of.pipeline.begin()
        for event in (request(), chat()):
            await event.tell(of.pipeline, begun)
        begun.started -= 0.1
        of.pipeline.end(begun)
        usage = of.records[0]["usage"]
        assert usage["source"] == "estimated"
        assert 500 <= usage["output"] < 1_000
        assert await left(of, tokens) == 10_000 - usage["input"] - usage["output"]

    async def test_but_never_more_than_it_held(self) -> None:
        tokens = limit()
        of = policy(tokens)
        begun = of.pipeline.begin()
        for event in (request(), chat(max_tokens=50), answer()):
            await event.tell(of.pipeline, begun)
        begun.started -= 60
        of.pipeline.end(begun)
        assert of.records[0]["usage"]["output"] == 50

    async def test_an_answer_that_breaks_off_is_paid_for_as_far_as_it_came(self) -> None:
        tokens = limit()
        of = policy(tokens)
        piece = b'data: {"choices":[{"index":0,"delta":{"content":"%s"}}]}\n\n' % (b"word " * 40)
        stream = answer(content_type="text/event-stream")
        record = await (call(of, chat(stream=True)) << Route >> stream >> ResponseBody(piece, end=False)).play()
        assert record["ending"] == "cut"
        assert record["usage"]["output"] > 20
        assert await left(of, tokens) == 10_000 - record["usage"]["input"] - record["usage"]["output"]

    async def test_what_a_backend_makes_above_its_cap_is_recorded(self) -> None:
        of = policy(limit())
        over = ANSWER.replace(b"30}", b"1500}")
        record = await (call(of) << Route >> answer() >> ResponseBody(over)).play()
        assert record["overspent"] == {"output_above_cap": 500}
        assert record["overspent_money"] > 0

    async def test_reading_a_stored_response_is_a_request(self) -> None:
        calls = limit(Measure.REQUESTS, 5)
        of = policy(calls, limit(name="t", amount=0))
        await of.affinity.remember(["resp_1"], "one", "gpt-4o", "key_1")
        await (
            Playbook(of) >> request("/v1/responses/resp_1", method="GET", end=True) << Route >> answer(end=True)
        ).play()
        assert await left(of, calls) == 4

    async def test_cancelling_a_stored_response_is_never_refused(self) -> None:
        of = policy(limit(Measure.REQUESTS, 0))
        await of.affinity.remember(["resp_1"], "one", "gpt-4o", "key_1")
        for method, path in (("POST", "/v1/responses/resp_1/cancel"), ("DELETE", "/v1/responses/resp_1")):
            await (Playbook(of) >> request(path, method=method, end=True) << Route >> answer(end=True)).play()

    async def test_a_stored_response_counts_for_the_model_that_made_it(self) -> None:
        of = policy(limit(Measure.REQUESTS, 0, only=Only(models=frozenset({"gpt-4o"}))))
        await of.affinity.remember(["resp_1"], "one", "whisper-1", "key_1")
        record = await (
            Playbook(of) >> request("/v1/responses/resp_1", method="GET", end=True) << Route >> answer(end=True)
        ).play()
        assert record["model"] == "whisper-1"

    @pytest.mark.parametrize("head", [{"content_encoding": "gzip"}, {"content_type": "audio/mpeg"}], ids=str)
    async def test_an_answer_that_passes_unread_counts_as_held(self, head: dict[str, str]) -> None:
        tokens = limit()
        of = policy(tokens)
        record = await (call(of) << Route >> answer(**head) >> ResponseBody(b"\x1f\x8b")).play()  # type: ignore[arg-type]
        assert record["usage"]["output"] == 1_000
        assert await left(of, tokens) == 9_000 - record["usage"]["input"]

    async def test_an_upload_that_is_left_counts_as_held(self) -> None:
        money = limit(Measure.MONEY, 10**12)
        of = policy(money)
        await (Playbook(of) >> UPLOAD >> RequestBody(FORM, end=False)).play()
        ((hold, draws, _),) = of.holds.settled
        assert hold.extent.input * 1_000 <= draws[0].units <= hold.demand.money

    async def test_an_upload_is_reserved_by_its_size(self) -> None:
        money = limit(Measure.MONEY, 10**9)
        of = policy(money)
        await (
            Playbook(of) >> UPLOAD >> RequestBody(FORM, end=False) >> answer() >> ResponseBody(b'{"text":"hi"}')
        ).play()
        ((hold, _, _),) = of.holds.settled
        assert hold.extent.seconds == 40
        assert hold.demand.money > 0


class TestRefusals:
    async def test_a_spent_limit_refuses_and_leaves_no_trace(self) -> None:
        small = limit(amount=100)
        of = policy(small, limit(Measure.REQUESTS, 5, name="r"))
        record, orders = await play(call(of) << Refusal(refusals.RATE_LIMIT))
        assert record["limit"] == "l"
        assert record["refusal"] == "rate_limit_exceeded"
        assert told(orders[-1])["x-sluice-limit"] == "l"
        assert not of.holds.settled
        assert not of.holds.open

    async def test_the_counters_down_refuse(self) -> None:
        of = policy(limit())
        of.holds.down = True
        await (call(of) << Refusal(refusals.STORE_UNAVAILABLE)).play()
        ((_, draws, _),) = of.holds.settled  # nobody knows whether it was taken
        assert not any(draw.units for draw in draws)

    async def test_a_shadow_limit_refuses_nothing_and_is_recorded(self) -> None:
        record = await whole(policy(limit(amount=1, mode=Mode.SHADOW))).play()
        assert record["limits_shadow"] == ("l",)

    async def test_a_running_call_is_not_run_twice(self) -> None:
        of = policy(limit())
        first = of.pipeline.begin()
        head = request(idempotency_key="k-1")
        for event in (head, chat()):
            await event.tell(of.pipeline, first)
        await (call(of, idempotency_key="k-1") << Refusal(refusals.IDEMPOTENCY_CONFLICT)).play()
        await whole(of, chat(user="other"), idempotency_key="k-1").play()
        of.pipeline.end(first)
        await whole(of, idempotency_key="k-1").play()

    async def test_one_key_for_two_uploads_of_different_size_is_no_repeat(self) -> None:
        of = policy(limit(Measure.MONEY, 10**12))
        first = of.pipeline.begin()
        for event in (_with(UPLOAD, idempotency_key="k"), RequestBody(FORM, end=False)):
            await event.tell(of.pipeline, first)
        other = _with(UPLOAD, idempotency_key="k", content_length="40001")
        await (Playbook(of) >> other >> RequestBody(FORM, end=False) << Pass).play()
        await (Playbook(of) >> _with(UPLOAD, idempotency_key="k") >> RequestBody(FORM, end=False) << CONFLICT).play()
        of.pipeline.end(first)

    async def test_a_key_of_low_priority_may_not_say_high(self) -> None:
        of = policy(limit())
        keys = {print_: replace(key, priority=Priority.LOW) for print_, key in DIRECTORY.keys.items()}
        of.roster = Enrolled(replace(DIRECTORY, keys=keys))
        of.__post_init__()
        await (Playbook(of) >> request(x_priority="high") << Refusal(refusals.PERMISSION_DENIED)).play()

    async def test_low_priority_leaves_its_part_free(self) -> None:
        of = policy(limit(amount=1_100, kept_for_high=50))
        await (call(of, x_priority="low") << Refusal(refusals.RATE_LIMIT)).play()
        await whole(of).play()

    async def test_a_model_without_price_is_refused_where_money_is_limited(self) -> None:
        unpriced = replace(catalogue(), limits=(limit(Measure.MONEY),))
        await (call(Policy(catalogue=lambda: unpriced)) << Refusal(refusals.UNPRICED)).play()


class TestTold:
    async def test_answers_tell_where_the_caller_stands(self) -> None:
        _, orders = await play(whole(policy(limit(amount=10_000), limit(Measure.REQUESTS, 5, name="r"))))
        headers = told(orders[2])
        assert headers["x-ratelimit-limit-tokens"] == "10000"
        assert int(headers["x-ratelimit-remaining-tokens"]) < 9_000
        assert headers["x-ratelimit-remaining-requests"] == "4"

    async def test_errors_of_backends_do_too(self) -> None:
        _, orders = await play(call(policy(limit())) << Route >> answer(status=500))
        assert "x-ratelimit-limit-tokens" in told(orders[-1])

    async def test_limits_that_tell_nothing_take_the_provider_s_headers_off_too(self) -> None:
        for of, limited in ((policy(limit(Measure.CONCURRENT, 5)), True), (policy(), False)):
            _, orders = await play(whole(of))
            assert (orders[2].headers, orders[2].limited) == ((), limited)

    async def test_a_refusal_does_too(self) -> None:
        _, orders = await play(call(policy(limit(amount=10))))
        assert told(orders[-1])["x-ratelimit-remaining-tokens"] == "10"

    async def test_the_low_route_tells_class_and_tokens_where_asked_to(self) -> None:
        of = policy(
            limit(only=Only(low_route=True)),
            limit(only=Only(low_route=False), amount=0),
            low_prefix="/low",
            tells_priority=True,
        )
        book = call(of, path="/low/v1/chat/completions") << Route >> answer() >> ResponseBody(ANSWER)
        _, orders = await play(book)
        headers = told(orders[2])
        assert headers["x-gw-priority"] == "high"
        assert int(headers["x-gw-remaining-tokens"]) < 9_000
        await (call(of) << Refusal(refusals.RATE_LIMIT)).play()

    async def test_the_low_route_tells_the_class_without_a_limit_too(self) -> None:
        of = policy(low_prefix="/low", tells_priority=True)
        _, orders = await play(call(of, path="/low/v1/chat/completions", x_priority="low") << Route >> answer())
        assert told(orders[-1]) == {"x-gw-priority": "low"}


class Losing(Reserved):
    """The first answer is lost, of what was taken; the worker, which counts by itself, refuses."""

    def __init__(self, counters: MemoryCounters) -> None:
        super().__init__()
        self.counters, self._loses = counters, True

    async def reserve(self, hold: Hold) -> Answer:
        answer = await super().reserve(hold)
        if not self._loses:
            return answer
        self._loses = False
        del self.open[hold.id]
        return Answer(False, tuple([reading._replace(used=10**6, wait=None) for reading in answer.readings]))


class TestOutputCap:
    @staticmethod
    async def sent(of: Policy, body: RequestBody) -> tuple[dict[str, Any], dict[str, str]]:
        """The body that goes to the backend, and the headers of the answer."""
        _, orders = await play(call(of, body) << Route >> answer() >> ResponseBody(ANSWER))
        route = orders[1]
        return orjson.loads(route.body or body.body), dict(orders[2].headers)

    async def test_one_is_written_where_nobody_knows_how_long_the_answer_is(self) -> None:
        body, headers = await self.sent(policy(limit(amount=50_000), max_output=None), chat())
        assert body["max_tokens"] == 16_384
        assert headers["x-sluice-output-cap"] == "16384"

    async def test_the_field_is_the_backend_s(self) -> None:
        of = policy(limit(amount=50_000), max_output=None)
        models = {
            name: replace(
                model,
                groups=tuple(
                    tuple(replace(t, backend=replace(t.backend, cap_field="max_completion_tokens")) for t in group)
                    for group in model.groups
                ),
            )
            for name, model in of.catalogue().models.items()
        }
        changed = replace(of.catalogue(), models=models)
        body, _ = await self.sent(Policy(catalogue=lambda: changed), chat())
        assert body["max_completion_tokens"] == 16_384

    async def test_a_cap_is_lowered_to_what_is_left(self) -> None:
        of = policy(limit(amount=500, period=Period.DAY))
        body, headers = await self.sent(of, chat(max_tokens=800, max_completion_tokens=900))
        assert body["max_tokens"] == body["max_completion_tokens"]
        assert 16 <= body["max_tokens"] < 500
        assert headers["x-sluice-output-cap"] == str(body["max_tokens"])
        ((hold, _, _),) = of.holds.settled
        assert hold.demand.input + hold.demand.output == 500

    async def test_a_cap_is_kept_where_there_is_room(self) -> None:
        body, headers = await self.sent(policy(limit()), chat(max_tokens=800))
        assert body["max_tokens"] == 800
        assert "x-sluice-output-cap" not in headers

    async def test_the_model_s_name_is_still_found_behind_a_written_cap(self) -> None:
        of = policy(limit(amount=500, period=Period.DAY, short=Short.CAP))
        sent = chat()
        for body in (sent, RequestBody(b'{"messages":[{"role":"user","content":"x"}],"model":"gpt-4o-mini"}')):
            _, orders = await play(call(of, body) << Route)
            route = orders[1]
            assert route.body[route.at : route.to] in (b"gpt-4o", b"gpt-4o-mini")

    async def test_a_spent_model_gives_way_to_another(self) -> None:
        dear = limit(Measure.MONEY, 1, name="dear", period=Period.MONTH, fallback="gpt-4o-mini", scope=(Scope.MODEL,))
        of = policy(replace(dear, only=Only(models=frozenset({"gpt-4o"}))))
        record, orders = await play(call(of) << Route >> answer("two") >> ResponseBody(ANSWER))
        assert [leg.backend for leg in orders[1].legs] == ["two"]
        assert record["model"] == "gpt-4o-mini"

    async def test_another_model_is_not_granted_what_the_first_one_took_unseen(self) -> None:
        """A store that knows the id of a hold says yes without a look at the counters."""
        of = policy(limit(Measure.REQUESTS, 1, period=Period.DAY, fallback="gpt-4o-mini", scope=(Scope.MODEL,)))
        mini = call(of, chat(model="gpt-4o-mini")) << Route >> answer("two") >> ResponseBody(ANSWER)
        await mini.play()
        of.holds = Losing(of.holds.counters)
        of.__post_init__()
        record, _ = await play(call(of) << Refusal(refusals.QUOTA))
        assert record["model"] == "gpt-4o"

    async def test_holds_of_other_models_are_of_the_one_call(self) -> None:
        of = policy(limit(Measure.REQUESTS, 1, period=Period.DAY, fallback="gpt-4o-mini", scope=(Scope.MODEL,)))
        of.holds = Losing(of.holds.counters)
        of.__post_init__()
        await play(call(of) << Route >> answer("two") >> ResponseBody(ANSWER))
        ((hold, _, event),) = of.holds.settled
        name = orjson.loads(event)["id"]
        assert hold.id == f"{name}~1"
        assert call_of(hold.id) == name
        assert orjson.loads(hold.note)["id"] == name
        assert list(of.holds.noted) == [name]

    async def test_what_took_over_is_told_even_where_no_limit_holds_for_it(self) -> None:
        dear = limit(Measure.MONEY, 1, period=Period.MONTH, fallback="gpt-4o-mini")
        of = policy(replace(dear, only=Only(models=frozenset({"gpt-4o"}))))
        _, orders = await play(call(of) << Route >> answer("two") >> ResponseBody(ANSWER))
        assert dict(orders[2].headers) == {"x-sluice-model": "gpt-4o-mini"}

    async def test_a_model_without_price_does_not_take_over(self) -> None:
        of = policy(limit(Measure.MONEY, 1, period=Period.MONTH, fallback="gpt-4o-mini"))
        models = dict(of.catalogue().models)
        mini = models["gpt-4o-mini"]
        unpriced = tuple(tuple(replace(target, price=None) for target in group) for group in mini.groups)
        changed = replace(of.catalogue(), models=models | {"gpt-4o-mini": replace(mini, groups=unpriced)})
        await (call(Policy(catalogue=lambda: changed)) << Refusal(refusals.QUOTA)).play()

    async def test_a_written_cap_goes_to_backends_that_read_it(self) -> None:
        of = policy(limit(amount=50_000), max_output=None)
        models = dict(of.catalogue().models)
        (one,), (legacy,) = models["gpt-4o"].groups
        newer = replace(legacy, backend=replace(legacy.backend, cap_field="max_completion_tokens"))
        mixed = replace(models["gpt-4o"], groups=((one,), (newer,)))
        changed = replace(of.catalogue(), models=models | {"gpt-4o": mixed})
        _, orders = await play(call(Policy(catalogue=lambda: changed)) << Route)
        assert [leg.backend for leg in orders[1].legs] == ["one"]

    async def test_a_cap_in_a_field_that_is_not_read_is_said_in_the_other(self) -> None:
        body, _ = await self.sent(policy(limit()), chat(max_completion_tokens=70))
        assert (body["max_tokens"], body["max_completion_tokens"]) == (70, 70)

    async def test_no_way_to_the_other_model_is_the_limit_s_refusal(self) -> None:
        of = policy(limit(Measure.MONEY, 1, period=Period.MONTH, fallback="claude-opus"))
        await (call(of) << Refusal(refusals.QUOTA)).play()

    async def test_the_other_model_spent_too_is_a_refusal(self) -> None:
        of = policy(limit(Measure.MONEY, 1, period=Period.MONTH, fallback="gpt-4o-mini"))
        await (call(of) << Refusal(refusals.QUOTA)).play()


def said(text: bytes) -> bytes:
    """One event of a chat stream."""
    return (
        b'data: {"id":"c","model":"m","choices":[{"index":0,"delta":{"content":"%s"},"finish_reason":null}]}\n\n' % text
    )


class TestLease:
    LIMIT = limit(amount=400, short=Short.LEASE, slice=20)
    SSE = answer(content_type="text/event-stream")

    def start(self, of: Policy, **fields: object) -> Playbook:
        return call(of, chat(stream=True, **fields)) << Route >> self.SSE << Relay

    async def test_the_output_is_reserved_slice_by_slice_as_it_flows(self) -> None:
        of = policy(self.LIMIT)
        words = b"word " * 10
        book = self.start(of) >> ResponseBody(said(words), end=False)
        for _ in range(3):
            book = book >> ResponseBody(said(words), end=False)
        _, orders = await play(book >> ResponseBody(b"data: [DONE]\n\n"))
        assert orders[2].mode is BodyMode.DUPLEX
        assert [order.body for order in orders[3:]] == [said(words)] * 4 + [b"data: [DONE]\n\n"]
        ((hold, _, _),) = of.holds.settled
        assert hold.demand.output % 20 == 0
        assert hold.demand.output > 20

    async def test_where_nothing_is_left_the_stream_ends_as_its_surface_does(self) -> None:
        of = policy(self.LIMIT)
        book = self.start(of, stream_options={"include_usage": True})
        for _ in range(40):
            book = book >> ResponseBody(said(b"word " * 20), end=False)
        orders: list[Any] = []
        call_ = of.pipeline.begin()
        for told_, _ in book._steps:
            orders.append(await told_.tell(of.pipeline, call_))
            if getattr(orders[-1], "last", False):
                break
        of.pipeline.end(call_)
        ending = orders[-1]
        assert ending.last
        assert b'"finish_reason":"length"' in ending.body
        assert b'"usage":{' in ending.body
        assert ending.body.endswith(b"data: [DONE]\n\n")
        (record,) = of.records
        assert record["ending"] == "limited"
        assert "overspent" not in record
        passed = b"".join(order.body for order in orders[3:-1])
        assert record["usage"]["output"] >= passed.count(b"word")
        assert await left(of, self.LIMIT) == 400 - record["usage"]["input"] - record["usage"]["output"]

    async def test_a_dead_store_ends_the_stream_at_the_next_slice(self) -> None:
        of = policy(self.LIMIT)
        call_ = of.pipeline.begin()
        for event in (request(), chat(stream=True), self.SSE):
            await event.tell(of.pipeline, call_)
        of.holds.down = True
        order = await ResponseBody(said(b"word " * 100), end=False).tell(of.pipeline, call_)
        of.pipeline.end(call_)
        assert isinstance(order, Emit)
        assert order.last
        assert b"word" not in (order.body or b"")

    async def test_a_call_with_room_for_all_is_not_leased(self) -> None:
        _, orders = await play(self.start(policy(limit(amount=5_000, short=Short.LEASE))))
        assert orders[2].mode is BodyMode.STREAMED


async def test_a_relay_without_limits_has_no_headers() -> None:
    _, orders = await play(whole(policy()))
    assert orders[2] == Relay(BodyMode.STREAMED)
