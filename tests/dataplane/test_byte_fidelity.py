"""What the gateway need not change passes as the very bytes that came, in both directions, through the real Envoy.

Bodies are written as few serialisers would write them, so that one that was read and written again shows.
"""

import gzip
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import httpx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support.gateway import RunningGateway
from tests.support.replay import Recorded, ReplayBackend

CHAT = "/v1/chat/completions"
TARGETS = {"plain": "plain", "short": "a-much-longer-deployed-name", "a-long-public-name": "x"}
"""Public names and the names at the backend: the same, a longer and a shorter one."""

JSON_ANSWER = (("content-type", "application/json"),)
SSE_ANSWER = (("content-type", "text/event-stream; charset=utf-8"),)
EMPTY = Recorded(200, JSON_ANSWER, (b"{}",))
MIB = 2**20

through_envoy = settings(max_examples=60, deadline=None)


@dataclass(frozen=True, slots=True)
class Bench:
    """The gateway with one kept-alive client in front and one backend behind."""

    client: httpx.Client
    backend: ReplayBackend

    def post(self, body: bytes, answer: Recorded = EMPTY) -> bytes:
        """Send a JSON body; returns the bytes of the answer."""
        return self.send(CHAT, body, "application/json", answer)

    def send(self, path: str, body: bytes, kind: str, answer: Recorded) -> bytes:
        self.backend.replay(answer)
        with self.client.stream("POST", path, content=body, headers={"content-type": kind}) as got:
            raw = b"".join(got.iter_raw())
        assert got.status_code == answer.status, raw
        return raw

    @property
    def seen(self) -> bytes:
        """The one body that the backend got."""
        (asked,) = self.backend.asked
        assert asked.header("content-length") in ([str(len(asked.body))], [])
        return asked.body


@pytest.fixture(scope="module")
def bench() -> Iterator[Bench]:
    with ReplayBackend() as backend:
        gateway = {
            "backends": {"replay": {"dialect": "openai", "url": backend.url}},
            "models": {name: {"targets": [[{"backend": "replay", "model": there}]]} for name, there in TARGETS.items()},
        }
        with RunningGateway(gateway) as running, running.client() as client:
            yield Bench(client, backend)


# ---- JSON as people and programs write it -------------------------------------------------------------

blanks = st.text(" \t\r\n", max_size=3)
numbers = st.sampled_from(["0", "-0", "1.0", "1E5", "1e-07", "12345678901234567890123", "0.1000", "-0.0e0"])
characters = st.characters(exclude_categories=["Cs"])


@st.composite
def strings(draw: st.DrawFn) -> str:
    spelled = json.dumps(draw(st.text(characters, max_size=12)), ensure_ascii=draw(st.booleans()))
    return spelled.replace("/", "\\/") if draw(st.booleans()) else spelled


@st.composite
def listed(draw: st.DrawFn, members: Sequence[str], brackets: str) -> str:
    """Members between brackets, with any white space around them."""
    spaced = [draw(blanks) + member + draw(blanks) for member in members]
    return brackets[0] + (",".join(spaced) or draw(blanks)) + brackets[1]


@st.composite
def objects(draw: st.DrawFn, of: st.SearchStrategy[str]) -> str:
    values = draw(st.lists(of, max_size=3))
    members = [f'"x_{number}"{draw(blanks)}:{draw(blanks)}{value}' for number, value in enumerate(values)]
    return draw(listed(members, "{}"))


values = st.recursive(
    st.one_of(strings(), numbers, st.sampled_from(["true", "false", "null"])),
    lambda of: st.one_of(objects(of), st.lists(of, max_size=3).flatmap(lambda members: listed(members, "[]"))),
    max_leaves=8,
)


def spelled_name(name: str) -> st.SearchStrategy[str]:
    """A model's name as a JSON string, with and without needless escapes."""
    return st.sampled_from([f'"{name}"', '"' + "".join(f"\\u{ord(char):04x}" for char in name) + '"'])


@st.composite
def chats(draw: st.DrawFn, *more: str) -> tuple[str, str, str]:
    """A chat request in three parts: before the model's value, the value, and after it. `more` are members."""
    name = draw(st.sampled_from(sorted(TARGETS)))
    text = draw(strings())
    members = [f'"messages": [{{"role":"user","content":{text}}}]', *more]
    members += [f'"x_{number}":{value}' for number, value in enumerate(draw(st.lists(values, max_size=3)))]
    members = draw(st.permutations(members))
    at = draw(st.integers(0, len(members)))
    key = '"model"' + draw(blanks) + ":" + draw(blanks)
    before = "{" + "".join(f"{draw(blanks)}{member}{draw(blanks)}," for member in members[:at]) + draw(blanks) + key
    after = draw(blanks) + "".join(f",{draw(blanks)}{member}" for member in members[at:]) + draw(blanks) + "}"
    return before, draw(spelled_name(name)), after + draw(blanks)


def renamed(value: str) -> str:
    """The model's value as the backend must see it: untouched where the name is the same."""
    name = json.loads(value)
    return value if TARGETS[name] == name else f'"{TARGETS[name]}"'


# ---- requests -----------------------------------------------------------------------------------------


@given(chat=chats())
@through_envoy
def test_a_request_reaches_the_backend_with_nothing_changed_but_the_name(
    bench: Bench, chat: tuple[str, str, str]
) -> None:
    before, value, after = chat
    bench.post((before + value + after).encode())
    assert bench.seen == (before + renamed(value) + after).encode()


ASKS = ("", '"stream_options":null', '"stream_options": { }', '"stream_options":{"include_usage" : false}')


@given(chat=st.sampled_from(ASKS).flatmap(lambda ask: chats('"stream":true', *([ask] if ask else []))))
@through_envoy
def test_a_streams_request_changes_in_the_name_and_in_what_asks_for_its_usage(
    bench: Bench, chat: tuple[str, str, str]
) -> None:
    before, value, after = chat
    given_body = before + value + after
    bench.post(given_body.encode(), Recorded(200, SSE_ANSWER, (b"data: [DONE]\n\n",)))
    wanted = json.loads(given_body)
    wanted["model"] = TARGETS[wanted["model"]]
    wanted["stream_options"] = {**(wanted.get("stream_options") or {}), "include_usage": True}
    assert json.loads(bench.seen) == wanted
    # Whatever stands outside the model and the stream options stands there byte for byte.
    start, end = unchanged_ends(before + renamed(value) + after, bench.seen.decode())
    assert len(before + renamed(value) + after) - start - end <= len('"stream_options":{"include_usage" : false}')


def unchanged_ends(old: str, new: str) -> tuple[int, int]:
    """How many characters the two have in common at the start, and of the rest at the end."""
    most = min(len(old), len(new))
    start = next((at for at in range(most) if old[at] != new[at]), most)
    end = next((at for at in range(most - start) if old[-1 - at] != new[-1 - at]), most - start)
    return start, end


def test_a_stream_that_asks_for_its_usage_itself_is_not_changed(bench: Bench) -> None:
    body = b'{"stream" :true, "stream_options":{ "include_usage":true },"model":"plain","messages":[{"role":"user"}]}'
    bench.post(body, Recorded(200, SSE_ANSWER, (b"data: [DONE]\n\n",)))
    assert bench.seen == body


def test_a_large_request_and_a_large_answer_pass_whole(bench: Bench) -> None:
    text = "é€😀\\u00e9" * (MIB // 8)
    body = f'{{"messages":[{{"role":"user","content":"{text}"}}],"model":"short"}}'.encode()
    answer = f'{{"choices":[], "text":"{text}" }}'.encode()
    pieces = [answer[at : at + 100_000] for at in range(0, len(answer), 100_000)]
    assert bench.post(body, Recorded(200, JSON_ANSWER, pieces)) == answer
    assert bench.seen == body.replace(b'"short"', b'"a-much-longer-deployed-name"')


# ---- answers ------------------------------------------------------------------------------------------


@st.composite
def cut(draw: st.DrawFn, whole: bytes) -> list[bytes]:
    """The bytes in pieces, cut anywhere, through characters too."""
    places = sorted(draw(st.sets(st.integers(1, max(1, len(whole) - 1)), max_size=6)))
    return [piece for piece in map(lambda a, b: whole[a:b], [0, *places], [*places, len(whole)]) if piece]


REQUEST = b'{"messages":[{"role":"user","content":"hi"}],"model":"plain"}'
STREAM_REQUEST = b'{"messages":[{"role":"user","content":"hi"}],"model":"plain","stream":true}'


@given(data=st.data(), answer=st.one_of(values, objects(values)), sized=st.booleans())
@through_envoy
def test_a_json_answer_passes_as_it_is(bench: Bench, data: st.DataObject, answer: str, sized: bool) -> None:
    body = answer.encode()
    headers = (*JSON_ANSWER, ("content-length", str(len(body)))) if sized else JSON_ANSWER
    assert bench.post(REQUEST, Recorded(200, headers, data.draw(cut(body)))) == body


@given(data=st.data(), body=st.binary(min_size=1, max_size=2000), status=st.sampled_from([200, 400, 429, 500]))
@through_envoy
def test_an_answer_that_is_no_json_passes_as_it_is(bench: Bench, data: st.DataObject, body: bytes, status: int) -> None:
    """Broken JSON is the backend's, and so are an HTML page and a sound file: none is the gateway's to mend."""
    kind = data.draw(st.sampled_from(["application/json", "text/html", "audio/mpeg"]))
    assert bench.post(REQUEST, Recorded(status, (("content-type", kind),), data.draw(cut(body)))) == body


USAGE_EVENT = 'data: {"choices":[],"usage":{"prompt_tokens":3,"completion_tokens":2}}'


@st.composite
def event_streams(draw: st.DrawFn) -> tuple[bytes, bytes]:
    """An event stream as the backend sends it, and as the client must see it."""
    end = draw(st.sampled_from(["\n\n", "\r\n\r\n", "\r\r"]))
    inner = end[: len(end) // 2]
    texts = draw(st.lists(strings(), max_size=5))
    events = [f'data: {{"choices":[{{"index":0,"delta":{{"content":{text}}}}}],"usage":null}}' for text in texts]
    events += draw(st.sampled_from([[], [": ping"], [f"event: x{inner}data:{{}}"], ["data: {not json"]]))
    events = [*draw(st.permutations(events)), USAGE_EVENT, "data: [DONE]"]
    whole = "".join(event + end for event in events)
    kept = "".join(event + end for event in events if event != USAGE_EVENT)
    return whole.encode(), kept.encode()


@given(data=st.data(), stream=event_streams())
@through_envoy
def test_a_stream_loses_nothing_but_the_usage_event_that_only_the_gateway_asked_for(
    bench: Bench, data: st.DataObject, stream: tuple[bytes, bytes]
) -> None:
    whole, kept = stream
    pieces = data.draw(cut(whole))
    assert bench.post(STREAM_REQUEST, Recorded(200, SSE_ANSWER, pieces)) == kept


@given(data=st.data(), stream=event_streams())
@through_envoy
def test_a_stream_of_a_client_that_asked_for_usage_loses_nothing(
    bench: Bench, data: st.DataObject, stream: tuple[bytes, bytes]
) -> None:
    asks = STREAM_REQUEST.replace(b"}],", b'}],"stream_options":{"include_usage":true},')
    assert bench.post(asks, Recorded(200, SSE_ANSWER, data.draw(cut(stream[0])))) == stream[0]


def test_an_answer_compressed_against_our_will_passes_with_its_encoding(bench: Bench) -> None:
    packed = gzip.compress(b'{"choices":[]}')
    headers = (*JSON_ANSWER, ("content-encoding", "gzip"), ("content-length", str(len(packed))))
    bench.backend.replay(Recorded(200, headers, (packed,)))
    answer = bench.client.post(CHAT, content=REQUEST, headers={"content-type": "application/json"})
    assert (answer.headers["content-encoding"], answer.json()) == ("gzip", {"choices": []})
    assert bench.backend.asked[0].header("accept-encoding") == ["identity"]


# ---- forms --------------------------------------------------------------------------------------------

BOUNDARY = "----a'boundary_of=ours"


def form(name: str, file: bytes) -> bytes:
    """A form as browsers write it: the model, then a file of any bytes, then another field."""
    mark = b"--" + BOUNDARY.encode()
    return (
        mark
        + b'\r\nContent-Disposition: form-data; name="model"\r\n\r\n'
        + name.encode()
        + b"\r\n"
        + mark
        + b'\r\nContent-Disposition: form-data; name="file"; filename="\xc3\xa9.wav"\r\nContent-Type: audio/wav\r\n\r\n'
        + file
        + b"\r\n"
        + mark
        + b'\r\nContent-Disposition: form-data; name="language"\r\n\r\nde\r\n'
        + mark
        + b"--\r\n"
    )


def send_form(bench: Bench, name: str, file: bytes) -> None:
    kind = f'multipart/form-data; boundary="{BOUNDARY}"'
    bench.send("/v1/audio/transcriptions", form(name, file), kind, Recorded(200, JSON_ANSWER, (b'{"text":""}',)))


@given(name=st.sampled_from(sorted(TARGETS)), file=st.binary(max_size=3000))
@through_envoy
def test_a_form_passes_with_nothing_changed_but_the_name(bench: Bench, name: str, file: bytes) -> None:
    send_form(bench, name, file)
    assert bench.seen == form(TARGETS[name], file)


@pytest.mark.parametrize("name", sorted(TARGETS))
def test_a_large_form_streams_through_whole(bench: Bench, name: str) -> None:
    file = bytes(range(256)) * (5 * MIB // 256)
    send_form(bench, name, file)
    assert bench.seen == form(TARGETS[name], file)
