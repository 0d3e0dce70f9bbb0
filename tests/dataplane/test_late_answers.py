"""Answers that come in another shape than they should, or that nobody can look through or judge: what goes out then.

Where a policy is enforced and denies what it cannot look at, no value goes out unseen, whatever the backend does; where
it allows that, all of the answer goes out, once. A client's SDK can read the end of each.
"""

import json
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import anthropic
import httpx
import openai
import pytest

from extproc.dialects import sse
from extproc.dialects.sse import EventReader
from extproc.stores.ports import AreaRecord, ChangeSet
from tests.dataplane.test_directory import Desk, team
from tests.support.gateway import RunningGateway, until
from tests.support.replay import Recorded, ReplayBackend
from tests.support.services import FakeServices

Json = dict[str, Any]

MAIL = "bob@corp-mail.ch"
BAD = "[violence 0.9]"
"""For the fake judge."""
JUDGED = {"service": "judge", "input": False, "output": True, "window": 200, "timeout": "1s"}
REDACTION: Mapping[str, Json] = {
    "masked": {"output": {"DEFAULT": "mask"}},
    "blocked": {"output": {"DEFAULT": "block"}},
    "lenient": {"output": {"DEFAULT": "mask"}, "on_error": "allow"},
    "watched": {"mode": "shadow", "output": {"DEFAULT": "block"}},
    "off": {"mode": "off"},
}
GUARDRAILS: Mapping[str, Json] = {
    "judged": {"moderation": JUDGED},
    "judged-patiently": {"moderation": JUDGED | {"timeout": "8s"}},
    "judged-lenient": {"moderation": JUDGED | {"on_error": "allow"}},
    "judged-watched": {"moderation": JUDGED | {"mode": "shadow"}},
}
LEASED = "gpt-4o-mini"
_LIMITS = {"lease": {"tokens": 15_000, "per": "hour", "when_short": "lease", "only": {"models": [LEASED]}}}
_CAP = 100_000
MARK = b"\xef\xbb\xbf"
"""Before UTF-8."""


class Slow(tuple[bytes, ...]):
    """Pieces that Envoy reads one by one."""

    __slots__ = ()

    def __iter__(self) -> Iterator[bytes]:
        for piece in super().__iter__():
            yield piece
            time.sleep(0.1)


@dataclass(frozen=True)
class Site:
    """A gateway with a team for each policy, before a backend that says what a test gives it."""

    gateway: RunningGateway
    backend: ReplayBackend
    judge: FakeServices
    keys: Mapping[str, str]

    def says(self, *pieces: bytes, kind: str | None = "application/json", slow: bool = False, **more: str) -> None:
        """What the backend answers; with `content_length`, not in chunks."""
        head = {} if kind is None else {"content-type": kind}
        head |= {name.replace("_", "-"): value for name, value in more.items()}
        self.backend.replay(Recorded(200, tuple(head.items()), Slow(pieces) if slow else pieces))

    def post(self, policy: str, stream: bool = False, path: str = "chat/completions", **fields: Any) -> httpx.Response:
        body: Json = {
            "model": "gpt-4o",
            "messages": [{"role": "user", "content": "Hello!"}],
            "stream": stream,
            **fields,
        }
        head = {"authorization": f"Bearer {self.keys[policy]}", "anthropic-version": "2023-06-01"}
        return httpx.post(f"{self.gateway.url}/v1/{path}", json=body, headers=head, trust_env=False, timeout=20)

    def record(self, answer: httpx.Response) -> Json:
        """The one record of a call."""
        record = self.gateway.record(answer.headers["x-request-id"])
        assert len([one for one in self.gateway.records() if one["request_id"] == record["request_id"]]) == 1
        return record

    def calls(self, model: str) -> list[Json]:
        """The records of all calls of a model so far."""
        return [one for one in self.gateway.records() if one.get("model") == model]

    def openai(self, policy: str) -> openai.OpenAI:
        return openai.OpenAI(base_url=f"{self.gateway.url}/v1", api_key=self.keys[policy], max_retries=0)

    def anthropic(self, policy: str) -> anthropic.Anthropic:
        return anthropic.Anthropic(base_url=self.gateway.url, api_key=self.keys[policy], max_retries=0)


@pytest.fixture(scope="module")
def shared() -> Iterator[Site]:
    with FakeServices("judge") as judge, ReplayBackend() as backend:
        settings = {
            "backends": {
                "openai": {"dialect": "openai", "url": backend.url},
                "brittle": {"dialect": "openai", "url": backend.url},
                "claude": {"dialect": "anthropic", "url": backend.url},
            },
            "models": {
                "gpt-4o": {"targets": [[{"backend": "openai"}]]},
                LEASED: {"targets": [[{"backend": "openai"}]]},
                "brittle": {"targets": [[{"backend": "brittle"}]]},
                "whisper-1": {"targets": [[{"backend": "openai"}]]},
                "claude": {"targets": [[{"backend": "claude"}]]},
            },
            "services": {"judge": {"api": "openai-moderation", "url": f"{judge.url('judge')}/v1"}},
            "policies": {"redaction": dict(REDACTION), "guardrails": dict(GUARDRAILS), "limits": _LIMITS},
            "limits": {"json_answer": _CAP},
        }
        with RunningGateway(settings) as gateway:
            desk = Desk(gateway)
            teams = [team(name, name, redaction=name) for name in REDACTION]
            teams += [team(name, name, redaction="off", guardrails=name) for name in GUARDRAILS]
            desk.apply(ChangeSet(areas=(AreaRecord("science", ()),), teams=tuple(teams)))
            names = [one.name for one in teams]
            keys = {name: desk.minted(name, name) for name in names[1:]}
            keys[names[0]] = desk.key(names[0], names[0])  # waits until the gateway knows all
            yield Site(gateway, backend, judge, keys)


@pytest.fixture
def site(shared: Site) -> Site:
    shared.judge.reset()
    return shared


# ---- what backends say ----------------------------------------------------------------------------------


def whole(text: str, **fields: Any) -> Json:
    message = {"role": "assistant", "content": text}
    usage = {"prompt_tokens": 7, "completion_tokens": 5, "total_tokens": 12}
    choice = {"index": 0, "message": message, "finish_reason": "stop", "logprobs": None}
    head = {"id": "chatcmpl-AbC123dEf", "object": "chat.completion", "created": 1, "model": "m"}
    return {**head, "choices": [choice | fields], "usage": usage}


def event(value: Json | str) -> bytes:
    return b"data: %s\n\n" % (value if isinstance(value, str) else json.dumps(value)).encode()


def delta(text: str, **fields: Any) -> bytes:
    choice = {"index": 0, "delta": {"content": text}, "finish_reason": None, **fields}
    head = {"id": "chatcmpl-AbC123dEf", "object": "chat.completion.chunk", "created": 1, "model": "m"}
    return event({**head, "choices": [choice]})


DONE = event("[DONE]")
STOP = delta("", finish_reason="stop")


def spoken(answer: httpx.Response) -> str:
    """The text of a stream of chat completions."""
    data = [sse.data(one) for one in EventReader().feed(answer.content.removeprefix(MARK) + b"\n\n")]
    chunks = [json.loads(one) for one in data if one[:1] == b"{"]
    return "".join(choice["delta"].get("content") or "" for chunk in chunks for choice in chunk.get("choices", ()))


# ---- whole answers --------------------------------------------------------------------------------------

PLAIN = json.dumps(whole(f"write to {MAIL}")).encode()
ESCAPED = PLAIN.replace(b"@", b"\\u0040")
STREAMED = delta("write to bob@co") + delta("rp-mail.ch") + STOP + DONE
ODD: Mapping[str, tuple[str | None, bytes]] = {
    "JSON": ("application/json", ESCAPED),
    "JSON with a charset": ('application/json; charset="utf-8"', ESCAPED),
    "JSON of a vendor": ("application/vnd.api+json", ESCAPED),
    "JSON without a name": (None, ESCAPED),
    "JSON as a text": ("text/plain", ESCAPED),
    "JSON as a page": ("text/html; charset=utf-8", ESCAPED),
    "JSON as a stream": ("text/event-stream", ESCAPED),
    "JSON behind a mark": ("application/json", MARK + ESCAPED),
    "JSON behind a blank": ("text/plain", b"\n " + ESCAPED),
    "JSON cut off": ("application/json", ESCAPED[:-5]),
    "JSON cut off, behind a blank": ("application/json", b" " + ESCAPED[:-5]),
    "JSON with a rest": ("application/json", ESCAPED + b"{}"),
    "JSON twice": ("application/x-ndjson", ESCAPED + b"\n" + ESCAPED),
}
UNREADABLE: Mapping[str, tuple[str | None, bytes]] = {
    "another encoding": ("application/json", PLAIN.decode().encode("utf-16")),
    "another encoding, as a text": ("text/plain", PLAIN.decode().encode("utf-16-le")),
    "a stream as JSON": ("application/json", STREAMED),
    "a stream as a text": ("text/plain", b": hello\n\n" + STREAMED),
    "an image": ("image/png", PLAIN),
    "bytes": ("application/octet-stream", PLAIN),
}
LENGTH = pytest.mark.parametrize("length", [True, False], ids=["with-length", "chunked"])


def given(body: bytes, length: bool) -> Json:
    return {"content_length": str(len(body))} if length else {}


@LENGTH
@pytest.mark.parametrize("case", ODD)
def test_a_value_is_masked_in_whatever_dress_the_answer_comes(site: Site, case: str, length: bool) -> None:
    kind, body = ODD[case]
    site.says(body, kind=kind, **given(body, length))
    answer = site.post("masked")
    assert answer.status_code == 200
    assert answer.content == body.replace(ESCAPED[: -5 if "cut" in case else None], masked(case))
    assert site.record(answer)["redaction"]["said"] == {"EMAIL_ADDRESS": body.count(b"u0040")}


def masked(case: str) -> bytes:
    text = ESCAPED.replace(rb"bob\u0040corp-mail.ch", b"[EMAIL_ADDRESS]")
    return text[:-5] if "cut" in case else text


@pytest.mark.parametrize("case", UNREADABLE)
def test_what_cannot_be_looked_through_is_withdrawn(site: Site, case: str) -> None:
    kind, body = UNREADABLE[case]
    for length in (True, False):
        site.says(body[:9], body[9:], kind=kind, slow=True, **given(body, length))
        answer = site.post("masked")
        assert (answer.status_code, answer.json()["error"]["code"]) == (503, "policy_failed")
        assert answer.headers["x-should-retry"] == "false"
        record = site.record(answer)
        assert (record["ending"], record["unscreened"]) == ("blocked", ["redaction"])


@pytest.mark.parametrize("policy", ["lenient", "watched"])
@pytest.mark.parametrize("case", UNREADABLE)
def test_what_cannot_be_looked_through_passes_as_it_came_where_that_is_allowed(
    site: Site, case: str, policy: str
) -> None:
    kind, body = UNREADABLE[case]
    for length in (True, False):
        site.says(body[:50], body[50:], kind=kind, **given(body, length))
        answer = site.post(policy)
        assert (answer.status_code, answer.content) == (200, body)
        record = site.record(answer)
        assert (record["ending"], record["unscreened"]) == ("complete", ["redaction"])


@LENGTH
def test_more_than_can_be_held_is_withdrawn_or_passes_as_it_came(site: Site, length: bool) -> None:
    """It is also more than Envoy holds."""
    body = json.dumps(whole(f"write to {MAIL} " + "x" * 30 * _CAP)).encode()
    pieces = [body[at : at + 5 * _CAP] for at in range(0, len(body), 5 * _CAP)]
    site.says(*pieces, slow=True, **given(body, length))
    answer = site.post("masked")
    assert (answer.status_code, answer.json()["error"]["code"]) == (503, "policy_failed")
    site.says(*pieces, slow=True, **given(body, length))
    answer = site.post("lenient")
    assert (answer.status_code, answer.content == body) == (200, True)
    record = site.record(answer)
    assert (record["ending"], record["unscreened"], record["usage"]["source"]) == (
        "complete",
        ["redaction"],
        "reported",
    )


# ---- streams --------------------------------------------------------------------------------------------

STREAMS: Mapping[str, bytes] = {
    "plain": STREAMED,
    "comments": b": hello\n\n" + STREAMED.replace(b"\n\n", b"\n\n: ping\n\n"),
    "returns": STREAMED.replace(b"\n", b"\r"),
    "several lines of data": STREAMED.replace(b', "choices"', b',\ndata: "choices"'),
    "behind a mark": MARK + STREAMED,
    "without an end": STREAMED.removesuffix(DONE),
    "without the last line's end": STREAMED.removesuffix(STOP + DONE).rstrip(b"\n"),
    "more behind its end": STREAMED + delta(f" and {MAIL} again"),
    "ids": STREAMED.replace(b"data:", b"id: 7\nretry: 10\ndata:"),
}


@pytest.mark.parametrize("kind", ["text/event-stream", "text/plain; charset=utf-8", None])
@pytest.mark.parametrize("case", STREAMS)
def test_a_stream_is_looked_through_however_it_is_written_and_called(site: Site, case: str, kind: str | None) -> None:
    """A framework sends no type, or a text's, where its user forgets to name one; SDKs read the stream all the same."""
    site.says(*[STREAMS[case][at : at + 100] for at in range(0, len(STREAMS[case]), 100)], kind=kind)
    answer = site.post("masked", stream=True)
    expected = "write to [EMAIL_ADDRESS]" + (" and [EMAIL_ADDRESS] again" if "more" in case else "")
    assert spoken(answer) == expected
    assert "corp-mail" not in answer.text
    assert site.record(answer)["ending"] == "complete"


ODD_EVENTS: Mapping[str, bytes] = {
    "a field nobody knows": b"note: write to bob@corp-mail.ch\n\n",
    "JSON in place of an event": ESCAPED + b"\n\n",
    "JSON over several lines": json.dumps(whole(f"write to {MAIL}"), indent=1).encode() + b"\n\n",
    "data that are a string": b'data: "write to bob\\u0040corp-mail.ch"\n\n',
    "data that are a list": b'data: ["write to bob\\u0040corp-mail.ch"]\n\n',
    "data that are no JSON": b"data: write to bob@corp-mail.ch\n\n",
    "data cut off": b'data: {"choices":[{"delta":{"content":"bob\\u0040corp-mail.ch\n\n',
}


@pytest.mark.parametrize("model", ["gpt-4o", LEASED])
@pytest.mark.parametrize("case", ODD_EVENTS)
def test_no_event_passes_unseen(site: Site, case: str, model: str) -> None:
    site.says(delta("Well,") + ODD_EVENTS[case], delta(" then.") + STOP + DONE, kind="text/event-stream")
    answer = site.post("masked", stream=True, model=model)
    assert "[EMAIL_ADDRESS]" in answer.text
    assert "corp-mail" not in answer.text
    assert answer.content.endswith(DONE)
    site.says(delta("Well,") + ODD_EVENTS[case], delta(" then.") + STOP + DONE, kind="text/event-stream")
    answer = site.post("blocked", stream=True, model=model)
    assert "corp-mail" not in answer.text
    assert answer.content.endswith(DONE)
    assert site.record(answer)["ending"] == "blocked"


HUGE = delta("x" * 5 * _CAP)


@pytest.mark.parametrize("policy", ["lenient", "watched", "judged-lenient", "judged-watched"])
def test_a_huge_event_passes_in_its_place_where_that_is_allowed(site: Site, policy: str) -> None:
    body = delta("Well then, my friend, ") + HUGE + delta("the rest") + STOP + DONE
    site.says(*[body[at : at + 150_000] for at in range(0, len(body), 150_000)], kind="text/event-stream", slow=True)
    answer = site.post(policy, stream=True)
    assert spoken(answer) == spoken(httpx.Response(200, content=body))
    record = site.record(answer)
    assert (record["ending"], record["unscreened"]) == (
        "complete",
        ["moderation" if "judged" in policy else "redaction"],
    )


@pytest.mark.parametrize("policy", ["masked", "judged"])
def test_a_huge_event_ends_a_stream_in_words_that_its_sdk_reads(site: Site, policy: str) -> None:
    site.says(
        delta("Well then, my friend, ") + HUGE[:150_000],
        HUGE[150_000:] + STOP + DONE,
        kind="text/event-stream",
        slow=True,
    )
    with site.openai(policy) as client:
        stream = client.chat.completions.create(
            model="gpt-4o", messages=[{"role": "user", "content": "Hello!"}], stream=True
        )
        chunks = list(stream)
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks).startswith("Well then, my ")
    assert chunks[-1].choices[0].finish_reason == "content_filter"
    record = site.gateway.record(stream.response.headers["x-request-id"])
    assert (record["ending"], record["unscreened"]) == (
        "blocked",
        ["moderation" if policy == "judged" else "redaction"],
    )


# ---- judged answers -------------------------------------------------------------------------------------

LONG = "word " * 60


@LENGTH
def test_a_whole_answer_that_nobody_judged_is_withdrawn(site: Site, length: bool) -> None:
    body = json.dumps(whole("Hello!")).encode()
    for fault in ({"status": 500}, {"hang": True}, {"error_body": "{}", "status": 200}):
        site.judge.script("judge", [fault])
        site.says(body, **given(body, length))
        answer = site.post("judged")
        assert (answer.status_code, answer.json()["error"]["code"]) == (503, "policy_failed")
        assert answer.headers["x-should-retry"] == "false"  # each try is on the bill
        record = site.record(answer)
        assert (record["ending"], record["unscreened"]) == ("blocked", ["moderation"])
        assert (record["usage"]["source"], record["usage"]["output"]) == ("reported", 5)


@pytest.mark.parametrize("policy", ["judged-lenient", "judged-watched"])
@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
def test_an_answer_that_nobody_judged_passes_whole_where_that_is_allowed(site: Site, stream: bool, policy: str) -> None:
    site.judge.script("judge", [{"status": 500}] * 9)
    body = json.dumps(whole(LONG)).encode() if not stream else delta(LONG) * 4 + STOP + DONE
    site.says(body[:900], body[900:], kind="text/event-stream" if stream else "application/json")
    answer = site.post(policy, stream=stream)
    assert (answer.status_code, answer.content) == (200, body)
    record = site.record(answer)
    assert (record["ending"], record["unscreened"]) == ("complete", ["moderation"])


@LENGTH
def test_a_whole_answer_that_is_judged_badly_is_an_empty_one(site: Site, length: bool) -> None:
    body = json.dumps(whole(BAD)).encode()
    site.says(body, **given(body, length))
    with site.openai("judged") as client:
        raw = client.chat.completions.with_raw_response.create(
            model="gpt-4o", messages=[{"role": "user", "content": "Hello!"}]
        )
    (choice,) = raw.parse().choices
    assert (choice.message.content, choice.finish_reason) == (None, "content_filter")
    record = site.gateway.record(raw.headers["x-request-id"])
    assert (record["ending"], record.get("unscreened")) == ("blocked", None)
    assert [one["rule"] for one in record["guardrails"]] == ["violence"]
    assert record["usage"]["source"] == "reported"


def test_a_transcript_that_is_judged_badly_is_an_empty_one(site: Site) -> None:
    site.says(b"so he said " + BAD.encode(), kind="text/plain")
    files, fields = {"file": ("a.wav", b"RIFF")}, {"model": "whisper-1", "response_format": "text"}
    head = {"authorization": f"Bearer {site.keys['judged']}"}
    url = f"{site.gateway.url}/v1/audio/transcriptions"
    answer = httpx.post(url, files=files, data=fields, headers=head, trust_env=False, timeout=20)
    assert (answer.status_code, answer.content) == (200, b"")
    assert site.record(answer)["ending"] == "blocked"


def test_probabilities_of_tokens_are_not_judged_one_by_one(site: Site) -> None:
    """They repeat what is said, and a service takes only so many texts."""
    tokens = [{"token": "word ", "logprob": -0.1, "bytes": [119], "top_logprobs": []}] * 600
    body = json.dumps(whole(LONG, logprobs={"content": tokens})).encode()
    site.says(body)
    answer = site.post("judged")
    assert (answer.status_code, answer.content) == (200, body)
    (asked,) = site.judge.calls("judge")
    assert asked["body_bytes"] < 500


@pytest.mark.parametrize("model", ["gpt-4o", LEASED])
@pytest.mark.parametrize("fault", [{}, {"status": 500}, {"hang": True}], ids=["flagged", "down", "late"])
def test_a_stream_that_may_not_go_on_ends_in_an_error(site: Site, fault: Json, model: str) -> None:
    """Windows that were judged well have gone out, the others have not."""
    site.judge.script("judge", [{}, fault])
    pieces = [delta(f"first {LONG}"), delta(LONG), delta(f"second {LONG}"), delta(BAD + LONG), STOP + DONE]
    site.says(*pieces, kind="text/event-stream", slow=True)
    said: list[str] = []
    with site.openai("judged") as client:
        stream = client.chat.completions.create(
            model=model, messages=[{"role": "user", "content": "Hello!"}], stream=True
        )
        with pytest.raises(openai.APIError) as caught:
            said.extend(chunk.choices[0].delta.content or "" for chunk in stream)
    assert "".join(said).startswith("first word ")
    assert BAD not in "".join(said)
    record = site.gateway.record(stream.response.headers["x-request-id"])
    assert record["ending"] == "blocked"
    assert caught.value.code == ("policy_failed" if fault else "policy_violation")
    assert record.get("unscreened") == (["moderation"] if fault else None)
    assert record["usage"]["source"] == "estimated"


def test_what_is_no_word_is_not_judged(site: Site) -> None:
    """Services refuse an empty text."""
    site.says(delta(LONG), delta("\n"), STOP + DONE, kind="text/event-stream")
    answer = site.post("judged", stream=True)
    assert spoken(answer) == LONG + "\n"
    assert len(site.judge.calls("judge")) == 1


# ---- who leaves in the middle ---------------------------------------------------------------------------


class Breaking(Slow):
    """Pieces behind which the backend is gone."""

    __slots__ = ()

    def __iter__(self) -> Iterator[bytes]:
        yield from super().__iter__()
        raise ConnectionResetError


@pytest.mark.parametrize(("policy", "stream"), [("masked", False), ("masked", True), ("judged", True)])
def test_a_backend_that_breaks_off_is_seen_to(site: Site, stream: bool, policy: str) -> None:
    """No clean end is made up, and of what was held back nothing goes out."""
    pieces = Breaking([delta(f"write to {MAIL[:5]}")] if stream else [PLAIN[:-1]])
    kind = "text/event-stream" if stream else "application/json"
    site.backend.replay(Recorded(200, (("content-type", kind),), pieces))
    before = len(site.calls("brittle"))
    try:
        answer = site.post(policy, stream=stream, model="brittle")  # which is left alone for a while after this
    except httpx.RemoteProtocolError:
        pass
    else:
        assert answer.status_code >= 500
    (record,) = until(lambda: site.calls("brittle")[before:], what="the record")
    assert record["ending"] in ("cut", "failed", "refused")  # the last, where it was gone before its head was read


def test_a_client_that_leaves_while_its_answer_is_judged_is_paid_for_once(site: Site) -> None:
    site.judge.script("judge", [{"hang": True}])
    site.says(delta(LONG), STOP + DONE, kind="text/event-stream", slow=True)
    body = {"model": LEASED, "messages": [{"role": "user", "content": "Hello!"}], "stream": True}
    head = {"authorization": f"Bearer {site.keys['judged-patiently']}"}
    url = f"{site.gateway.url}/v1/chat/completions"
    with (
        httpx.Client(trust_env=False, timeout=20) as client,
        client.stream("POST", url, json=body, headers=head) as left,
    ):
        until(lambda: site.judge.calls("judge"), what="the judge to be asked")
    record = site.record(left)
    assert (record["ending"], record["usage"]["source"]) == ("cut", "estimated")
    assert record["usage"]["output"] > 0
