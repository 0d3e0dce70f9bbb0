"""The answer cache through the real Envoy: who shares answers, what is kept, what callers may ask, what a hit costs."""

import contextlib
from base64 import b64decode
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from extproc.stores.ports import AreaRecord, ChangeSet
from tests.dataplane.test_directory import Desk, team
from tests.support.cache import CHAT, EMBEDDINGS, HEADER, MESSAGES, ONLY, PRICE, Site, chat, fresh, result
from tests.support.fake import FakeProvider
from tests.support.gateway import RunningGateway, until
from tests.support.ports import free_port
from tests.support.redacted import EMAIL

Json = dict[str, Any]

BACKENDS = ("openai", "anthropic")
STREAMS = pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
COST = {"input": 2_500, "output": 10_000}  # of a token, in billionths
PNG = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNkYPhfDwAChwGA60e6kgAAAABJRU5ErkJggg=="
OTHER_PNG = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mP8z8BQDwAEhQGAhKmMIQAAAABJRU5ErkJggg=="
TEAMS = (
    team("red"),
    team("blue"),
    team("people", "ann@example.com", "bob@example.com"),
    team("far", area="business"),
    team("moving"),
    team("redacted"),
    team("guarded"),
    team("idle"),
    team("polite", guardrails="polite"),
    team("private", redaction="private"),
)


def settings(fake: FakeProvider) -> Json:
    served = {"targets": [[{"backend": "openai"}]], "price": PRICE}
    names = (
        "gpt-4o",
        "other",
        "shadowed",
        "personal",
        "small",
        "large",
        "lone",
        "acting",
        "off",
        "tokens",
        "requests",
        "money",
        "free",
        "counted",
    )
    return {
        "backends": {
            "openai": {"dialect": "openai", "url": fake.url("openai")},
            "anthropic": {"dialect": "anthropic", "url": fake.url("anthropic")},
            "nobody": {"dialect": "openai", "url": f"http://127.0.0.1:{free_port()}"},
        },
        "models": {
            **dict.fromkeys(names, served),
            "free": {"targets": served["targets"]},
            "claude": {"targets": [[{"backend": "anthropic"}]]},
            "embedding": {"targets": [[{"backend": "openai"}]]},
            "omni": {"targets": [[{"backend": "openai"}]]},
            "narrow": {**served, "context": 1000, "fallback": {"context_window": "gpt-4o"}},
        },
        "cache": {
            "mode": "enforce",
            "rules": [
                {"models": ["shadowed"], "mode": "shadow"},
                {"models": ["small"], "largest": "2KiB"},
                {"models": ["large"], "largest": "8MiB"},
                {"models": ["lone"], "scope": "key"},
                {"models": ["personal"], "scope": "user"},
                {"models": ["acting"], "side_effects": ["send_*"]},
                {"models": ["off"], "mode": "off"},
                {"teams": ["idle"], "mode": "off"},
                {"keys": ["loner"], "scope": "key"},
            ],
        },
        "limits": {"json_request": "1MiB", "multipart_request": "1MiB", "json_answer": "1MiB"},
        "policies": {
            "redaction": {"private": {}},
            "guardrails": {"polite": {"content": {"birds": {"words": ["Blue Heron"], "input": False, "output": True}}}},
            "limits": {
                "tokens": {"tokens": 120, "per": "month", "only": {"models": ["tokens"]}},
                "requests": {"requests": 3, "per": "month", "only": {"models": ["requests"]}},
                "money": {"money": "0.0012", "per": "month", "only": {"models": ["money"]}},
            },
        },
    }


@pytest.fixture(scope="module")
def desk() -> Iterator[tuple[Desk, FakeProvider]]:
    with FakeProvider(*BACKENDS) as fake, RunningGateway(settings(fake)) as gateway:
        made = Desk(gateway)
        areas = (AreaRecord("science", ()), AreaRecord("business", ()))
        made.apply(ChangeSet(areas=areas, teams=TEAMS))
        yield made, fake


@pytest.fixture(scope="module")
def shared(desk: tuple[Desk, FakeProvider]) -> Iterator[Site]:
    made, fake = desk
    keys = {name: made.minted(name, name) for name in [one.name for one in TEAMS]}
    for name, team_name, options in (
        ("red-too", "red", {}),
        ("loner", "red", {}),
        ("ann", "people", {"user": "ann@example.com"}),
        ("ann-too", "people", {"user": "ann@example.com"}),
        ("bob", "people", {"user": "bob@example.com"}),
        ("machine", "people", {"service_account": "nightly"}),
    ):
        keys[name] = made.minted(name, team_name, **options)
    keys["teamless"] = made.key("teamless")
    site = Site(made.gateway, fake, BACKENDS, keys)
    yield site
    site.close()


@pytest.fixture
def site(shared: Site) -> Site:
    shared.fake.reset()
    return shared


def results(answers: list[httpx.Response]) -> list[str]:
    return [result(answer) for answer in answers]


# ---- who shares answers --------------------------------------------------------------------------------


def test_callers_of_a_team_share_answers_and_nobody_else_does(site: Site) -> None:
    text = fresh()
    assert results([site.chat(text, key=key) for key in ("red", "red-too")]) == ["miss", "hit"]
    others = ("blue", "far", "loner", "teamless", "private", "polite", "")
    first = {key: site.chat(text, key=key) for key in others}
    assert {key: result(answer) for key, answer in first.items()} == dict.fromkeys(others, "miss")
    ids = {answer.json()["id"] for answer in first.values()}
    assert len(ids) == len(others) == site.asked() - 1
    for key, answer in first.items():  # and each has its own from then on
        again = site.chat(text, key=key)
        assert (result(again), again.content) == ("hit", answer.content), key


def test_keys_share_nothing_where_each_has_its_own_answers(site: Site) -> None:
    text = fresh()
    assert (
        results([site.chat(text, "lone", key) for key in ("red", "red-too", "red", "red-too")])
        == ["miss"] * 2 + ["hit"] * 2
    )


def test_users_share_nothing_where_each_has_their_own_answers(site: Site) -> None:
    """With whatever key of theirs; and what has no user of its own is as if each key had its own."""
    text = fresh()
    keys = ("ann", "ann-too", "bob", "machine", "people", "ann", "bob", "machine", "people")
    found = results([site.chat(text, "personal", key) for key in keys])
    assert found == ["miss", "hit", "miss", "miss", "miss", "hit", "hit", "hit", "hit"]


def test_a_team_that_is_off_has_nothing_to_do_with_the_cache(site: Site) -> None:
    text = fresh()
    answers = [site.chat(text, key="idle") for _ in range(2)] + [site.chat(text, "off") for _ in range(2)]
    assert [HEADER in answer.headers for answer in answers] == [False] * 4
    assert "cache" not in site.record(answers[1])
    assert site.asked() == 4


def test_what_is_another_team_policy_or_key_now_begins_anew(site: Site, desk: tuple[Desk, FakeProvider]) -> None:
    """A team in another area, teams under other policies, and a key that only has the name of one that was deleted."""
    text, made = fresh(), desk[0]
    gone = Site(site.gateway, site.fake, BACKENDS, {"it": made.key("short-lived", "red")})
    warmed = [("gpt-4o", "moving"), ("gpt-4o", "redacted"), ("gpt-4o", "guarded")]
    for asker, model, key in [(gone, "lone", "it"), *[(site, *one) for one in warmed]]:
        assert results([asker.chat(text, model, key) for _ in range(2)]) == ["miss", "hit"]
    made.apply(ChangeSet(teams=(team("moving", area="business"), team("redacted", redaction="private"))))
    made.apply(ChangeSet(teams=(team("guarded", guardrails="polite"),)))
    with made.stores() as stores:
        stores.directory.revoke(made.id_of("short-lived"))
    new = Site(site.gateway, site.fake, BACKENDS, {"it": made.key("short-lived", "red")})
    for asker, model, key in [(new, "lone", "it"), *[(site, *one) for one in warmed]]:
        assert results([asker.chat(text, model, key) for _ in range(2)]) == ["miss", "hit"], key
    assert gone.chat(text, "lone", "it").status_code == 401
    for asker in (gone, new):
        asker.close()


# ---- what makes two calls the same ---------------------------------------------------------------------


def image(data: str, text: str) -> Json:
    parts = [
        {"type": "text", "text": text},
        {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{data}"}},
    ]
    return {"messages": [{"role": "user", "content": parts}]}


def says(text: str, system: str) -> Json:
    return {"messages": [{"role": "system", "content": system}, {"role": "user", "content": text}]}


def offers(name: str, **more: Any) -> Json:
    return {"tools": [{"type": "function", "function": {"name": name, "parameters": {"type": "object"}, **more}}]}


APART: dict[str, tuple[Json, Json]] = {
    "system": (says("{}", "Be kind."), says("{}", "Be rude.")),
    "tools": (offers("f"), offers("g")),
    "description": (offers("f", description="one"), offers("f", description="two")),
    "tool-choice": (offers("f") | {"tool_choice": "auto"}, offers("f") | {"tool_choice": "required"}),
    "temperature": ({"temperature": 0}, {"temperature": 0.1}),
    "temperature-absent": ({}, {"temperature": 0}),
    "model": ({"model": "gpt-4o"}, {"model": "other"}),
    "image": (image(PNG, "{}"), image(OTHER_PNG, "{}")),
    "format": ({"response_format": {"type": "json_object"}}, {"response_format": {"type": "text"}}),
    "seed": ({"seed": 1}, {"seed": 2}),
    "stream": ({"stream": False}, {"stream": True}),
    "cap": ({"max_tokens": 100}, {"max_tokens": 200}),
    "unknown": ({"brand_new": "a"}, {"brand_new": "b"}),
}


def filled(fields: Json, text: str) -> Json:
    """With the text in the place of `{}`."""
    if "messages" not in fields:
        return chat(text, **fields)
    messages: Any = [dict(message) for message in fields["messages"]]
    said = messages[-1]["content"]
    messages[-1]["content"] = text if isinstance(said, str) else [{**said[0], "text": text}, said[1]]
    return {"model": "gpt-4o", **fields, "messages": messages}


@pytest.mark.parametrize("name", APART)
def test_what_differs_is_another_question(name: str, site: Site) -> None:
    text = fresh()
    bodies = [filled(fields, text) for fields in APART[name]]
    first = [site.post(CHAT, body) for body in bodies]
    again = [site.post(CHAT, body) for body in bodies]
    assert results(first) == ["miss", "miss"]
    assert results(again) == ["hit", "hit"]
    assert [answer.content for answer in again] == [answer.content for answer in first]
    assert first[0].content != first[1].content
    assert site.asked() == 2


def test_numbers_that_only_the_text_tells_apart_are_apart(site: Site) -> None:
    """As they are written, which Python's own JSON would not keep."""
    text = fresh()
    raw = [
        f'{{"model":"gpt-4o","messages":[{{"role":"user","content":"{text}"}}],"top_p":{one}}}'
        for one in ("0.1", "0.10")
    ]
    headers = {**site.headers(), "content-type": "application/json"}
    with httpx.Client(base_url=site.gateway.url, trust_env=False) as client:
        assert results([client.post(CHAT, content=body, headers=headers) for body in raw]) == ["miss", "miss"]


@pytest.mark.parametrize(
    "same",
    [{"user": "someone"}, {"safety_identifier": "x"}, {"prompt_cache_key": "k"}],
    ids=lambda same: next(iter(same)),
)
def test_what_matters_to_no_answer_keeps_nothing_apart(same: Json, site: Site) -> None:
    text = fresh()
    assert results([site.chat(text), site.chat(text, **same)]) == ["miss", "hit"]


def test_the_order_of_fields_and_white_space_keep_nothing_apart(site: Site) -> None:
    text = fresh()
    raw = f'{{ "messages" : [ {{"content": "{text}", "role": "user"}} ],\n "model": "gpt-4o" }}'
    assert result(site.chat(text)) == "miss"
    headers = {**site.headers(), "content-type": "application/json"}
    with httpx.Client(base_url=site.gateway.url, trust_env=False) as client:
        assert result(client.post(CHAT, content=raw, headers=headers)) == "hit"


@pytest.mark.parametrize("other", ["path", "query", "version", "beta"])
def test_another_version_of_the_api_is_another_question(other: str, site: Site) -> None:
    """Asked by its path, in the query or in headers."""
    of_anthropic = other in ("version", "beta")
    body = chat(fresh(), "claude" if of_anthropic else "gpt-4o", max_tokens=50)
    path = MESSAGES if of_anthropic else CHAT
    assert results([site.post(path, body) for _ in range(2)]) == ["miss", "hit"]
    given = {"version": {"anthropic-version": "2099-01-01"}, "beta": {"anthropic-beta": "a-2099-01-01"}}.get(other)
    elsewhere = {"path": "/openai/v1/chat/completions", "query": f"{CHAT}?api-version=1"}.get(other, path)
    assert result(site.post(elsewhere, body, headers=given)) == "miss"


# ---- calls that are none for the cache ------------------------------------------------------------------

BYPASSED: dict[str, tuple[str, Json]] = {
    "temperature": ("temperature", {"temperature": 0.31}),
    "choices": ("choices", {"n": 2}),
    "stored": ("stored", {"store": True}),
    "hosted": ("hosted_tools", {"tools": [{"type": "web_search"}]}),
    "side-effects": ("side_effects", {"model": "acting", **offers("send_mail")}),
    "remote": (
        "remote_content",
        {
            "messages": [
                {"role": "user", "content": [{"type": "image_url", "image_url": {"url": "https://host.test/a.png"}}]}
            ]
        },
    ),
    "audio": ("audio", {"modalities": ["text", "audio"], "audio": {"voice": "alloy", "format": "wav"}}),
}


@pytest.mark.parametrize("name", BYPASSED)
def test_a_call_that_is_none_for_the_cache_says_why(name: str, site: Site) -> None:
    reason, fields = BYPASSED[name]
    answers = [site.post(CHAT, chat(fresh()) | fields) for _ in range(2)]
    assert results(answers) == [f"bypass; {reason}"] * 2
    assert site.told(answers[1]) == {"result": "bypass", "reason": reason}
    assert site.asked() == 2


@pytest.mark.parametrize(
    ("path", "body", "reason"),
    [
        ("/v1/responses", {"model": "gpt-4o", "input": "Hi"}, "stored"),
        ("/v1/responses", {"model": "gpt-4o", "input": "Hi", "store": True}, "stored"),
        ("/v1/moderations", {"model": "omni", "input": "Hi"}, "surface"),
    ],
)
def test_a_surface_that_is_none_for_the_cache_says_why(path: str, body: Json, reason: str, site: Site) -> None:
    assert results([site.post(path, body) for _ in range(2)]) == [f"bypass; {reason}"] * 2


def test_a_harmless_tool_of_a_model_with_side_effects_is_answered(site: Site) -> None:
    body = chat(fresh(), "acting", **offers("read_mail"))
    assert results([site.post(CHAT, body) for _ in range(2)]) == ["miss", "hit"]


# ---- what callers may ask -------------------------------------------------------------------------------


def test_who_wants_nothing_kept_leaves_nothing(site: Site) -> None:
    text = fresh()
    for asked in ({"cache-control": "no-store"}, {HEADER: "off"}):
        assert result(site.chat(text, headers=asked)) == "bypass; no_store"
    assert result(site.chat(text)) == "miss"
    assert result(site.chat(text, headers={"cache-control": "private, No-Store"})) == "bypass; no_store"


@pytest.mark.parametrize(
    "asked", [{"cache-control": "no-cache"}, {"cache-control": "max-age=0"}, {"pragma": "no-cache"}], ids=str
)
def test_who_wants_a_fresh_answer_gets_one_and_it_is_kept(asked: dict[str, str], site: Site) -> None:
    text = fresh()
    first = site.chat(text)
    newer = site.chat(text, headers=asked)
    assert results([first, newer]) == ["miss", "miss"]
    assert newer.content != first.content
    until(lambda: site.chat(text).content == newer.content, what="the newer answer to be kept")
    assert site.asked() == 2


def test_answers_grow_old_for_who_says_so_and_for_everybody(site: Site) -> None:
    """`max-age` is for the one call; what was made with a `ttl` is gone for all."""
    young, short = fresh(), fresh()
    site.chat(young)
    assert result(site.chat(short, headers={"x-sluice-cache-ttl": "1s"})) == "miss"
    assert result(site.chat(short)) == "hit"
    assert result(site.chat(young, headers={"cache-control": "max-age=3600"})) == "hit"
    until(lambda: site.chat(short, headers=ONLY).status_code == 504, what="the end of the answer")
    aged = site.chat(young)
    assert (result(aged), int(aged.headers["age"]) >= 1) == ("hit", True)
    assert result(site.chat(young, headers={"cache-control": "max-age=1"})) in ("hit", "miss")  # a second, or just over
    until(lambda: result(site.chat(young, headers={"cache-control": "max-age=1"})) == "miss", what="its age")


def test_only_what_is_kept_serves_whoever_asks_for_that(site: Site) -> None:
    text = fresh()
    refused = site.chat(text, headers=ONLY)
    assert (refused.status_code, refused.json()["error"]["code"]) == (504, "not_cached")
    assert site.record(refused)["refusal"] == "not_cached"
    first = site.chat(text)
    served = site.chat(text, headers=ONLY)
    assert (result(served), served.content) == ("hit", first.content)
    assert site.asked() == 1
    unfit = site.chat(fresh(), headers=ONLY, temperature=1)
    assert (unfit.status_code, "temperature" in unfit.json()["error"]["message"]) == (504, True)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("x-sluice-cache", "always"),
        ("x-sluice-cache-ttl", "soon"),
        ("x-sluice-cache-ttl", "0"),
        ("x-sluice-cache-threshold", "2"),
    ],
)
def test_a_header_of_ours_that_cannot_be_read_is_refused(name: str, value: str, site: Site) -> None:
    refused = site.chat(fresh(), headers={name: value})
    error = refused.json()["error"]
    assert (refused.status_code, error["code"], error["param"]) == (400, "invalid_value", name)
    assert site.asked() == 0


def test_no_provider_sees_what_callers_ask_of_the_cache(site: Site) -> None:
    asked = {
        "cache-control": "max-age=60",
        "pragma": "x",
        "x-sluice-cache": "exact",
        "x-sluice-cache-ttl": "5m",
        "x-sluice-cache-threshold": "0.99",
        "x-sluice-cachet": "x",
        "x-sluice-else": "x",
    }
    assert result(site.chat(fresh(), headers=asked)) == "miss"
    (call,) = site.fake.calls("openai")
    names = {name for name, _ in call["headers"]}
    assert not [name for name in names if name.startswith("x-sluice") or name in ("cache-control", "pragma")]


# ---- what is kept ----------------------------------------------------------------------------------------

NOT_KEPT: dict[str, Json] = {
    "error": {"x_fake": {"status": 500}},
    "limited": {"x_fake": {"status": 429}},
    "error-in-200": {"x_fake": {"error_in_200": True}},
    "refusal": {"x_fake": {"refusal": "I will not."}},
    "length": {"max_tokens": 3, "x_fake": {"length": 50}},
    "html": {"x_fake": {"html": True}},
    "gzip": {"x_fake": {"gzip": True}},
}
BROKEN: dict[str, Json] = {
    "reset": {"reset": 5},
    "error-event": {"error_event_after": 5},
    "no-done": {"done": False},
    "malformed": {"malformed_sse": True},
}


@STREAMS
@pytest.mark.parametrize("name", NOT_KEPT)
def test_what_is_no_complete_answer_is_not_kept(name: str, stream: bool, site: Site) -> None:
    body = chat(fresh(), stream=stream, **NOT_KEPT[name])
    statuses = [site.post(CHAT, body).status_code for _ in range(2)]
    assert statuses[0] == statuses[1]
    assert site.asked() == 2
    assert site.post(CHAT, body, headers=ONLY).status_code == 504


@pytest.mark.parametrize("name", BROKEN)
def test_a_stream_that_broke_off_is_not_kept(name: str, site: Site) -> None:
    body = chat(fresh(), stream=True, x_fake=BROKEN[name])
    for _ in range(2):
        with contextlib.suppress(httpx.HTTPError):
            site.post(CHAT, body)
    assert site.asked() == 2
    assert site.post(CHAT, body, headers=ONLY).status_code == 504


def test_an_answer_that_was_filtered_is_not_kept(site: Site) -> None:
    """Anthropic's word for it; and it is told apart from one that ended by itself."""
    body = {"model": "claude", "max_tokens": 50, "messages": [{"role": "user", "content": fresh()}]}
    for _ in range(2):
        assert site.post(MESSAGES, body | {"x_fake": {"refusal": "No."}}).json()["stop_reason"] == "refusal"
    assert site.asked() == 2


@STREAMS
def test_an_answer_that_nobody_waited_for_is_not_kept(stream: bool, site: Site) -> None:
    body = chat(fresh(), stream=stream, x_fake={"held": 3})
    with httpx.Client(base_url=site.gateway.url, trust_env=False) as client:
        request = client.build_request("POST", CHAT, json=body, headers=site.headers())
        if stream:
            answer = client.send(request, stream=True)
            next(answer.iter_bytes())
            answer.close()
        else:
            with pytest.raises(httpx.ReadTimeout):
                client.post(CHAT, json=body, headers=site.headers(), timeout=0.3)
    until(lambda: site.fake.totals("openai")["disconnected"] == 1, what="the provider to be told")
    assert site.post(CHAT, body, headers=ONLY).status_code == 504


@STREAMS
def test_an_answer_that_a_guardrail_blocked_is_not_kept(stream: bool, site: Site) -> None:
    said = {"text": "The Blue Heron flies at dawn, as everybody knows who was there."}
    body = chat(fresh(), stream=stream, x_fake=said)
    texts = [site.post(CHAT, body, key="polite").text for _ in range(2)]
    assert "Blue Heron" not in "".join(texts)
    assert site.asked() == 2
    assert site.post(CHAT, body, key="polite", headers=ONLY).status_code == 504


def test_an_answer_of_a_model_that_stood_in_is_not_kept(site: Site) -> None:
    too_long = {"error": {"message": "Too long.", "type": "invalid_request_error", "code": "context_length_exceeded"}}
    text = fresh()
    site.fake.script("openai", [{"status": 400, "error_body": str(too_long).replace("'", '"')}, {}])
    first = site.chat(text, "narrow")
    assert (result(first), "x-sluice-fallback" in first.headers) == ("miss", True)
    assert result(site.chat(text, "narrow")) == "miss"
    assert result(site.chat(text, "narrow")) == "hit"  # this time by itself
    assert site.asked() == 3


@STREAMS
def test_an_answer_that_is_too_large_is_not_kept(stream: bool, site: Site) -> None:
    large, small = (chat(fresh(), "small", stream=stream, x_fake={"length": length}) for length in (1000, 1))
    assert results([site.post(CHAT, large) for _ in range(2)]) == ["miss", "miss"]
    assert results([site.post(CHAT, small) for _ in range(2)]) == ["miss", "hit"]


@STREAMS
def test_an_answer_may_be_larger_than_all_that_a_worker_is_sent(stream: bool, site: Site) -> None:
    how = {"text": "word " * 15_000} if stream else {"pad_bytes": 4_000_000}
    body = chat(fresh(), "large", stream=stream, x_fake=how)
    first, again = [site.post(CHAT, body) for _ in range(2)]
    assert results([first, again]) == ["miss", "hit"]
    assert len(again.content) > 3_000_000
    assert again.content == first.content


def test_embeddings_of_several_inputs_are_kept_whole(site: Site) -> None:
    body = {"model": "embedding", "input": [fresh(), fresh()]}
    first, again = [site.post(EMBEDDINGS, body) for _ in range(2)]
    assert results([first, again]) == ["miss", "hit"]
    assert len(again.json()["data"]) == 2
    assert again.content == first.content


def test_what_is_kept_holds_placeholders_and_no_values(site: Site) -> None:
    """The provider saw none, and what is said with them comes back with those of whoever asks."""
    text = fresh()
    first = site.chat(f"{text} {EMAIL}", key="private")
    assert EMAIL in first.json()["choices"][0]["message"]["content"]
    (call,) = site.fake.calls("openai")
    assert EMAIL not in b64decode(call["body_base64"]).decode()
    other = site.chat(f"{text} someone@else-mail.ch", key="private")
    assert result(other) == "hit"
    assert EMAIL not in other.text
    assert "someone@else-mail.ch" in other.text


# ---- what a hit costs -------------------------------------------------------------------------------------


def left(site: Site, model: str, kind: str) -> int:
    """What is left of a limit, told of a call that costs nothing in the end, and beside what that holds."""
    answer = site.chat(fresh(), model, max_tokens=10, x_fake={"status": 500})
    assert answer.status_code == 500, answer.text
    held = site.record(answer)["held"]
    own = 1 if kind == "requests" else held["input"] + held["output"]
    return int(answer.headers[f"x-ratelimit-remaining-{kind}"]) + own


def test_a_hit_costs_no_tokens_and_serves_where_none_are_left(site: Site) -> None:
    text = fresh()
    first = site.chat(text, "tokens", max_tokens=50)
    usage = site.record(first)["usage"]
    used = usage["input"] + usage["output"]
    assert result(first) == "miss"
    hits = [site.chat(text, "tokens", max_tokens=50) for _ in range(5)]
    assert results(hits) == ["hit"] * 5
    until(lambda: left(site, "tokens", "tokens") == 120 - used, what="the tokens of the first call, and no others")
    until(lambda: site.chat(fresh(), "tokens", max_tokens=30).status_code == 429, what="the end of the tokens")
    assert results([site.chat(text, "tokens", max_tokens=50) for _ in range(3)]) == ["hit"] * 3


def test_a_hit_counts_as_a_request_and_is_refused_where_none_is_left(site: Site) -> None:
    text = fresh()
    answers = [site.chat(text, "requests") for _ in range(3)]
    assert results(answers) == ["miss", "hit", "hit"]
    assert [int(answer.headers["x-ratelimit-remaining-requests"]) for answer in answers] == [2, 1, 0]
    refused = site.chat(text, "requests")
    assert (refused.status_code, refused.headers["x-sluice-limit"]) == (429, "requests")
    assert site.chat(text, "requests", headers=ONLY).status_code == 429
    assert site.asked() == 1


def test_a_hit_costs_no_money_and_serves_where_none_is_left(site: Site) -> None:
    text = fresh()
    first = site.chat(text, "money", max_tokens=50)
    cost = site.record(first)["cost"]
    assert cost > 0
    hits = [site.chat(text, "money", max_tokens=50) for _ in range(4)]
    assert results(hits) == ["hit"] * 4
    for hit in hits:
        record = site.record(hit)
        assert record.get("cost", 0) == 0
        assert "usage" not in record
        assert "backend" not in record
        assert (record["cache"]["saved"], record["ending"]) == (cost, "cached")
    until(lambda: site.chat(fresh(), "money", max_tokens=50).status_code == 429, what="the end of the money")
    assert result(site.chat(text, "money", max_tokens=50)) == "hit"


def saved(site: Site, model: str, mode: str) -> int:
    """What answers of a model that were kept have saved, in billionths."""
    lines = [line for line in site.gateway.metrics().splitlines() if line.startswith("sluice_cache_saved_nano_total{")]
    return sum(
        int(float(line.split()[-1])) for line in lines if f'model="{model}"' in line and f'mode="{mode}"' in line
    )


def test_the_record_and_the_metrics_tell_what_was_saved(site: Site) -> None:
    text = fresh()
    first, again = site.chat(text, "counted"), site.chat(text, "counted")
    usage = site.record(first)["usage"]
    cost = usage["input"] * COST["input"] + usage["output"] * COST["output"]
    assert site.told(first) == {"result": "miss"}
    told = site.told(again)
    assert (told["result"], told["saved"], told["saved_tokens"]) == ("hit", cost, usage["input"] + usage["output"])
    until(lambda: saved(site, "counted", "enforce") == cost, what="the money that was saved")


def test_an_answer_without_a_price_saves_tokens_only(site: Site) -> None:
    text = fresh()
    told = [site.told(site.chat(text, "free")) for _ in range(2)][1]
    assert (told["result"], "saved" in told, told["saved_tokens"] > 0) == ("hit", False, True)


# ---- shadow mode -------------------------------------------------------------------------------------------


@STREAMS
def test_in_shadow_mode_nothing_serves_and_all_is_told(stream: bool, site: Site) -> None:
    body = chat(fresh(), "shadowed", stream=stream)
    first = site.post(CHAT, body)
    cost = site.record(first)["cost"]

    def seen() -> httpx.Response | None:
        answer = site.post(CHAT, body)
        assert (result(answer), answer.content != first.content) == ("miss", True)
        return answer if "shadow" in site.told(answer) else None

    answer = until(seen, what="the answer to be kept")
    told = site.told(answer)
    assert (told["result"], told["shadow"], told["saved"], told["saved_tokens"] > 0) == ("miss", True, cost, True)
    assert site.record(answer)["cost"] == cost
    assert site.post(CHAT, body, headers=ONLY).status_code == 504
    told_of = [
        record["cache"].get("saved", 0) for record in site.gateway.records() if record.get("model") == "shadowed"
    ]
    until(lambda: saved(site, "shadowed", "shadow") == sum(told_of), what="the money that would have been saved")
    assert saved(site, "shadowed", "enforce") == 0
