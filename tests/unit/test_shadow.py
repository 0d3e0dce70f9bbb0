"""Copies of calls: which are made, what they ask, how many there are at a time, and how they are written down."""

import asyncio
import json
import re
from typing import Any

import pytest
from prometheus_client import REGISTRY
from pydantic import ValidationError

from extproc.call import Call
from extproc.config import compile as compiled
from extproc.config.schema import Gateway
from extproc.dataplane import Layout, render
from extproc.model import (
    Backend,
    Caller,
    Catalogue,
    Dialect,
    InputSize,
    Prompt,
    PublicModel,
    Shadow,
    StateReference,
    Target,
    Team,
)
from extproc.routing.attempt import Attempt
from extproc.routing.health import Health
from extproc.routing.policy import Watched
from extproc.screening.services import ServiceFailed
from extproc.shadow import MOST_AT_ONCE, Shadows
from extproc.stages.shadow import LARGEST, Copy, fits, question, used
from extproc.surfaces import Face, Place, Surface
from extproc.telemetry import metrics
from tests.support.playbook import ONE, Playbook, Policy, Records, RequestBody, answer, request

Json = dict[str, Any]
CHAT, EMBED = Place(Surface.CHAT, Face.OPENAI), Place(Surface.EMBEDDINGS, Face.OPENAI)
RESPONSES, MESSAGES = Place(Surface.RESPONSES, Face.OPENAI), Place(Surface.MESSAGES, Face.ANTHROPIC)
BACKEND = Backend("shadow", Dialect.OPENAI, region="us")
CLAUDE = Backend("shadow", Dialect.ANTHROPIC)
SAY = [{"role": "user", "content": "hi"}]
CANARY = "canary: text of a call"


def copy_of(body: Json, place: Place = CHAT, backend: Backend = BACKEND) -> Copy:
    return Copy("r-1", "m", Target(backend, "copied"), place, json.dumps(body).encode())


def asked(body: Json, place: Place = CHAT, backend: Backend = BACKEND) -> tuple[str, Json]:
    made = question(copy_of(body, place, backend))
    assert made is not None
    return made.path, json.loads(made.body)


# ---- which ------------------------------------------------------------------------------------------


def fit(prompt: Prompt = Prompt(b"", "m", None), place: Place = CHAT, team: Team | None = None, **more: Any) -> bool:  # noqa: B008
    call = Call(0.0, Catalogue({}, {}, {}, 1), caller=Caller("k", "n", team=team), asking=more.pop("asking", ()))
    given: Json = {"body": b"{}", "backend": BACKEND, "stops": ()} | more
    return fits(call, place, prompt, given["body"], given["backend"], given["stops"])


@pytest.mark.parametrize("surface", Surface)
def test_only_what_asks_for_text_or_vectors_is_copied(surface: Surface) -> None:
    names = {"chat", "completions", "embeddings", "responses", "messages"}
    assert fit(place=Place(surface, Face.OPENAI)) == (surface.value in names)


@pytest.mark.parametrize(
    "more",
    [
        {"state": StateReference(("resp_1",))},
        {"state": StateReference((), ("sealed",))},
        {"background": True},
        {"hosted_calls": 1},
        {"searches": True},
        {"images": 1},
        {"input": InputSize(unseen=True)},
    ],
    ids=lambda more: next(iter(more)),
)
def test_what_asks_for_more_than_an_answer_is_not(more: Json) -> None:
    assert fit()
    assert not fit(Prompt(b"", "m", None, **more))


def test_a_team_is_copied_only_to_where_its_calls_may_go() -> None:
    assert fit(team=Team("t", "a", "s", regions=frozenset({"us"})))
    assert not fit(team=Team("t", "a", "s", regions=frozenset({"eu"})))
    assert not fit(team=Team("t", "a", "s", providers=frozenset({"azure"})))


def test_neither_what_is_large_nor_a_beta_nor_a_stored_file_nor_to_a_backend_that_is_stopped() -> None:
    assert (fit(body=b" " * LARGEST), fit(body=b" " * (LARGEST + 1))) == (True, False)
    assert fit(asking=(("anthropic-version", "2023-06-01"),))
    assert not fit(asking=(("anthropic-beta", "files-api"),))
    assert not fit(body=b'{"type":"input_image","file_id":"file-1"}')
    assert fit(body=rb'{"content":"say \"file_id\""}')
    assert not fit(stops={("backend", "shadow")})
    assert fit(stops={("model", "shadow"), ("backend", "other")})


# ---- what it asks -----------------------------------------------------------------------------------


def test_the_same_question_is_asked_for_a_whole_answer() -> None:
    given = {"model": "m", "messages": SAY, "stream": True, "stream_options": {"include_usage": True}, "seed": 7}
    assert asked(given) == ("/v1/chat/completions", {"model": "copied", "messages": SAY, "seed": 7})


@pytest.mark.parametrize(
    ("given", "place", "stored"),
    [
        ({"messages": SAY}, CHAT, None),
        ({"messages": SAY, "store": True}, CHAT, False),
        ({"input": "x"}, RESPONSES, False),
        ({"input": "x", "store": True}, RESPONSES, False),
        ({"input": "x"}, EMBED, None),
    ],
)
def test_nothing_of_it_is_stored(given: Json, place: Place, stored: bool | None) -> None:
    assert asked({"model": "m", **given}, place)[1].get("store") is stored


def test_another_dialect_is_asked_in_its_own() -> None:
    path, body = asked({"model": "m", "messages": SAY, "stream": True, "max_completion_tokens": 9}, backend=CLAUDE)
    assert (path, body["model"], body["max_tokens"]) == ("/v1/messages", "copied", 9)
    assert "stream" not in body
    server = Backend("shadow", Dialect.OPENAI, cap_field="max_completion_tokens")
    path, body = asked({"model": "m", "messages": SAY, "max_tokens": 9}, MESSAGES, server)
    assert (path, body["max_completion_tokens"]) == ("/v1/chat/completions", 9)


@pytest.mark.parametrize(
    "copy",
    [
        copy_of({"model": "m", "input": "x"}, EMBED, CLAUDE),
        copy_of({"model": "m", "messages": SAY, "seed": 1}, CHAT, CLAUDE),
        copy_of({"model": "m", "messages": SAY}, CHAT, Backend("s", Dialect.OPENAI, surfaces=frozenset())),
    ],
    ids=["api", "field", "surfaces"],
)
def test_who_cannot_be_asked_is_not(copy: Copy) -> None:
    assert question(copy) is None


@pytest.mark.parametrize(
    ("answered", "output"),
    [
        (b'{"choices":[],"usage":{"prompt_tokens":3,"completion_tokens":5}}', 5),
        (b'{"error":{"message":"no"}}', None),
        (b"<html>", None),
        (b"[1]", None),
        (b"", None),
    ],
)
def test_an_answer_says_what_it_used_or_is_none(answered: bytes, output: int | None) -> None:
    copy = copy_of({"model": "m", "messages": SAY})
    made = question(copy)
    assert made is not None
    usage = used(copy, made, answered, 0)
    assert (None if usage is None else usage.output) == output


def test_an_answer_in_another_dialect_says_what_it_used() -> None:
    copy = copy_of({"model": "m", "messages": SAY, "max_tokens": 9}, backend=CLAUDE)
    made = question(copy)
    assert made is not None
    told = {"type": "message", "role": "assistant", "content": [], "usage": {"input_tokens": 3, "output_tokens": 5}}
    usage = used(copy, made, json.dumps(told).encode(), 0)
    assert usage is not None
    assert (usage.input, usage.output) == (3, 5)


# ---- sending ----------------------------------------------------------------------------------------


class Answers:
    """In place of the way through Envoy: an answer, or what is raised instead, when it is let go."""

    def __init__(self, answer: bytes | Exception, held: bool = False) -> None:
        self.answer = answer
        self.free = asyncio.Event()
        self.sent: list[bytes] = []
        self.closed = False
        if not held:
            self.free.set()

    async def send(self, _name: str, request: bytes, _timeout: float) -> bytes:
        self.sent.append(request)
        await self.free.wait()
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer

    def close(self) -> None:
        self.closed = True


def shadows(records: Records, answers: Answers) -> Shadows:
    made = Shadows("/nowhere.sock", records, 1.0)
    made._services = answers  # type: ignore[assignment]
    return made


def counted(result: str) -> float:
    metrics.publish()
    labels = {"model": "m", "backend": "shadow", "result": result}
    return REGISTRY.get_sample_value("sluice_shadow_calls_total", labels) or 0.0


async def until_over(made: Shadows) -> None:
    while made._under_way:
        await asyncio.sleep(0)


async def until_sent(answers: Answers, number: int) -> None:
    async with asyncio.timeout(10):
        while len(answers.sent) < number:
            await asyncio.sleep(0.001)


OK = b'{"choices":[],"usage":{"prompt_tokens":3,"completion_tokens":5}}'


@pytest.mark.parametrize(
    ("answer", "result"),
    [
        (OK, "200"),
        (b'{"error":{}}', "200"),
        (b'{"error":{"message":"no"}}', "error"),
        (ServiceFailed("status_429"), "429"),
        (ServiceFailed("timeout"), "timeout"),
        (ServiceFailed("too_large"), "too_large"),
    ],
    ids=str,
)
async def test_a_copy_is_counted_and_written_down(answer: bytes | Exception, result: str) -> None:
    records, before = Records(), counted(result)
    made = shadows(records, Answers(answer))
    made.take(copy_of({"model": "m", "messages": SAY}))
    await until_over(made)
    assert counted(result) == before + 1
    (record,) = records
    facts = {name: record[name] for name in ("kind", "request_id", "model", "backend", "deployed", "result")}
    assert facts == {
        "kind": "shadow", "request_id": "r-1", "model": "m", "backend": "shadow", "deployed": "copied",
        "result": result,
    }  # fmt: skip
    assert ("usage" in record) == (result == "200")


async def test_a_copy_that_goes_wrong_inside_is_a_line_without_its_text(caplog: pytest.LogCaptureFixture) -> None:
    records, answers = Records(), Answers(ValueError(CANARY))
    made = shadows(records, answers)
    made.take(copy_of({"model": "m", "messages": [{"role": "user", "content": CANARY}]}))
    made.take(Copy("r-1", "m", Target(BACKEND, "copied"), CHAT, CANARY.encode()))
    await until_over(made)
    assert len(caplog.records) == 2
    assert "canary" not in caplog.text
    assert records == []


async def test_there_is_room_for_so_many_at_a_time() -> None:
    answers, before = Answers(OK, held=True), counted("busy")
    made = shadows(Records(), answers)
    for _ in range(MOST_AT_ONCE + 3):
        made.take(copy_of({"model": "m", "messages": SAY}))
    await until_sent(answers, MOST_AT_ONCE)
    assert counted("busy") == before + 3
    answers.free.set()
    await until_over(made)
    made.take(copy_of({"model": "m", "messages": SAY}))
    await until_over(made)
    assert len(answers.sent) == MOST_AT_ONCE + 1


async def test_what_is_under_way_is_given_up_at_the_end() -> None:
    answers, records = Answers(OK, held=True), Records()
    made = shadows(records, answers)
    made.take(copy_of({"model": "m", "messages": SAY}))
    await until_sent(answers, 1)
    await made.close()
    assert answers.closed
    assert records == []


# ---- from a call ------------------------------------------------------------------------------------


class Taken(list[Copy]):
    def take(self, copy: Copy) -> None:
        self.append(copy)


def policy(share: float, health: Health | None = None) -> tuple[Policy, Taken]:
    taken, model = Taken(), PublicModel("m", ((Target(ONE, "m"),),), shadow=Shadow(Target(BACKEND, "copied"), share))
    made = Policy(catalogue=lambda: Catalogue({"m": model}, {"one": ONE, "shadow": BACKEND}, {}, 4096))
    if health is not None:
        made.pipeline._health = health
    made.pipeline._shadows = taken
    return made, taken


async def play(made: Policy) -> Json:
    body = json.dumps({"model": "m", "messages": SAY}).encode()
    return await (Playbook(made) >> request() >> RequestBody(body) >> answer("one", end=True)).play()


async def test_a_call_is_copied_once_it_is_decided_with_the_body_that_is_sent() -> None:
    made, taken = policy(1.0)
    record = await play(made)
    (copy,) = taken
    assert (copy.request_id, copy.model, copy.target.model) == ("r-1", "m", "copied")
    assert json.loads(copy.body)["messages"] == SAY
    assert (record["backend"], record["chain"]) == ("one", ["one"])


async def test_about_a_share_is_copied() -> None:
    made, taken = policy(0.25)
    for _ in range(200):
        await play(made)
    assert 15 < len(taken) < 85  # 50 are due; 35 are more than five standard deviations


async def test_a_call_that_is_refused_is_not_copied() -> None:
    made, taken = policy(1.0)
    body = json.dumps({"model": "other", "messages": SAY}).encode()
    await (Playbook(made) >> request() >> RequestBody(body)).play()
    assert taken == []


async def test_a_backend_that_cools_gets_no_copies() -> None:
    health = Health({"shadow": Watched(frozenset({"copied"}))}, lambda: 0.0)
    made, taken = policy(1.0, health)
    health.note(Attempt("shadow", 429, headers={"retry-after": "50"}, model="copied"), 0.0, 0.0)
    health._cooling = {target: (float("inf"), why) for target, (_, why) in health._cooling.items()}
    await play(made)
    assert taken == []


# ---- the configuration ------------------------------------------------------------------------------


def tree(shadow: Json, **model: Any) -> Json:
    hosts = {"one": "openai", "two": "openai", "claude": "anthropic"}
    return {
        "backends": {name: {"dialect": kind, "url": "https://llm.example"} for name, kind in hosts.items()},
        "models": {"m": {"targets": [[{"backend": "one"}]], "shadow": shadow, **model}},
    }


def test_a_shadow_is_a_target_of_its_own() -> None:
    given = Gateway.model_validate(tree({"backend": "two", "model": "new", "share": "0.05"}))
    shadow = compiled.catalogue(given).models["m"].shadow
    assert shadow is not None
    assert (shadow.target.backend.name, shadow.target.model, shadow.share) == ("two", "new", 0.05)
    plain = Gateway.model_validate(tree({"backend": "one", "model": "new", "share": 1}))
    assert compiled.catalogue(plain).models["m"].shadow is not None, "another model of the same backend"


REFUSED: list[tuple[Json, Json, str]] = [
    ({"backend": "gone", "share": 1}, {}, "there is no backend 'gone'"),
    ({"backend": "one", "share": 1}, {}, "is a target of the model"),
    ({"backend": "two", "share": 1}, {"modality": "image"}, "is for chats and embeddings"),
    ({"backend": "claude", "share": 1}, {"modality": "embeddings"}, "has no embeddings"),
    ({"backend": "two", "share": 0}, {}, "greater than 0"),
    ({"backend": "two", "share": 1.5}, {}, "less than or equal to 1"),
    ({"backend": "two"}, {}, "share"),
]


@pytest.mark.parametrize(("shadow", "model", "why"), REFUSED, ids=lambda part: part if isinstance(part, str) else "")
def test_a_shadow_that_makes_no_sense_is_refused(shadow: Json, model: Json, why: str) -> None:
    with pytest.raises(ValidationError, match=why):
        Gateway.model_validate(tree(shadow, **model))


def rendered(given: Json) -> tuple[str, str]:
    files = render(Gateway.model_validate(given), Layout("conf", "secrets", ("w0.sock",), "admin.sock"))
    return files["clusters.yaml"], files["listeners.yaml"]


def test_envoy_has_a_way_to_shadows_only_where_there_are_some() -> None:
    plain = tree({"backend": "two", "share": 1})
    del plain["models"]["m"]["shadow"]
    assert all("shadow" not in file for file in rendered(plain))
    clusters, listeners = rendered(tree({"backend": "two", "share": 1}))
    assert clusters.count("\n  name: shadow_two\n") == 1
    assert "shadow_one" not in clusters
    assert "cluster_header: x-sluice-shadow" in listeners


def test_a_further_shadow_leaves_the_listeners_as_they_are() -> None:
    """So that it takes effect without a restart."""
    one, two = (rendered(tree({"backend": name, "share": 1}))[1] for name in ("two", "claude"))
    assert one == two


def test_a_shadow_that_serves_too_has_its_one_secret() -> None:
    given = tree({"backend": "one", "model": "new", "share": 1})
    given["backends"]["one"]["credential"] = {"env": "KEY"}
    clusters, _ = rendered(given)
    named = re.findall(r"name: (backend_one-[0-9a-f]+)", clusters)
    assert len(named) >= 2
    assert len(set(named)) == 1
