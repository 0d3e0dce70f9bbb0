"""No desync over all dialects: whatever fails before it, each attempt is the very request that its backend gets alone.

Every dialect stands before every other one on kept-alive connections, natively and translated, and large answers come
through each of them; two of the backends are named, and not addresses, and so are one cluster more in Envoy.
"""

import itertools
import json
import random
import re
import socket
import time
from base64 import b64decode
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import httpx
import pytest

from tests.support.fake import FakeProvider
from tests.support.gateway import RunningGateway, until

Json = dict[str, Any]
Seen = tuple[object, ...]

BACKENDS: dict[str, Json] = {
    "plain": {"dialect": "openai"},
    "renamed": {"dialect": "openai"},
    "legacy": {"dialect": "azure-openai", "api_version": "2024-10-21"},
    "claude": {"dialect": "anthropic"},
    "gemini": {"dialect": "gemini"},
}
NAMED = ("legacy", "claude")
MODELS = {"renamed": "gpt", "legacy": "a-rather-long-deployment", "claude": "claude-there", "gemini": "gemini-there"}
CREDENTIALS = {
    "plain": ["authorization", "Bearer secret-of-plain"],
    "renamed": ["authorization", "Bearer secret-of-renamed"],
    "legacy": ["api-key", "secret-of-legacy"],
    "claude": ["x-api-key", "secret-of-claude"],
    "gemini": ["x-goog-api-key", "secret-of-gemini"],
}
PATHS = {"chat": "/v1/chat/completions", "messages": "/v1/messages"}
SERVING = {"chat": tuple(BACKENDS), "messages": ("plain", "renamed", "legacy", "claude")}
FAULTS: list[Json] = [{"status": 429}, {"status": 500}, {"reset": "before"}, {"reset": "head"}]
SIZES = (1, 700, 20_000, 300_000)
TRIPLES = random.Random(11).sample(list(itertools.permutations(BACKENDS, 3)), 12)
VARYING = ("x-request-id", "content-length")
LARGE = (2_000_000, 4_000_000, 8_000_000)
TOO_MUCH = {False: LARGE[-1], True: 12_000_000}
"""For a slow reader, by whether it is a stream, of which this is more than Envoy holds back for him."""
KEPT = 16 << 20
"""Bytes that Envoy may hold a little longer of the 45 MB and more that passed through it."""


@dataclass(frozen=True, slots=True)
class Asked:
    """A call that no other one is like. `order`: the backends of its model, first to last."""

    surface: str
    order: tuple[str, ...]
    stream: bool
    number: int
    soon: bool = False

    @property
    def token(self) -> str:
        return f"call{self.number:05d}end"

    @property
    def padding(self) -> str:
        return "p" + "x" * (SIZES[self.number % len(SIZES)] + self.number)

    @property
    def model(self) -> str:
        return public(self.order) + ("-soon" if self.soon else "")

    def body(self) -> Json:
        said = [{"role": "user", "content": self.token}]
        if self.surface == "messages":
            asked: Json = {"max_tokens": 1000, "system": self.padding, "messages": said}
        else:
            asked = {"messages": [{"role": "system", "content": self.padding}, *said]}
        return {"model": self.model, "stream": self.stream, **asked}


def public(order: Sequence[str]) -> str:
    return "-".join(order)


def _target(backend: str) -> Json:
    """`plain` gets the name that was asked for."""
    return {"backend": backend, **({"model": MODELS[backend]} if backend in MODELS else {})}


def _models() -> Json:
    orders = [*itertools.permutations(BACKENDS, 1), *itertools.permutations(BACKENDS, 2), *TRIPLES]
    models: Json = {public(order): {"targets": [[_target(name)] for name in order]} for order in orders}
    for order in itertools.permutations(BACKENDS, 2):
        models[f"{public(order)}-soon"] = {**models[public(order)], "first_byte": "3s"}
    return models


@pytest.fixture(scope="module")
def fake() -> Iterator[FakeProvider]:
    with FakeProvider(*BACKENDS, options=["--keep-bodies"]) as running:
        yield running


@pytest.fixture(scope="module")
def gateway(fake: FakeProvider) -> Iterator[RunningGateway]:
    backends = {
        name: {"url": fake.url(name).replace("127.0.0.1", host_of(name)), "credential": {"env": f"KEY_{name}"}, **given}
        for name, given in BACKENDS.items()
    }
    environ = {f"KEY_{name}": f"secret-of-{name}" for name in BACKENDS}
    with RunningGateway({"backends": backends, "models": _models()}, environ) as running:
        yield running


def host_of(backend: str) -> str:
    return "localhost" if backend in NAMED else "127.0.0.1"


@pytest.fixture(autouse=True)
def nothing_recorded(fake: FakeProvider) -> None:
    fake.reset()


@pytest.fixture(scope="module", autouse=True)
def processes(gateway: RunningGateway) -> Iterator[None]:
    """Nothing dies of anything in here."""
    before = [child.pid for child in gateway.processes("")]
    yield
    assert [child.pid for child in gateway.processes("")] == before


# ---- what backends get -----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def alone(gateway: RunningGateway, fake: FakeProvider) -> dict[tuple[str, str, bool], Seen]:
    """By surface, backend and whether it is a stream: the request that a backend gets with no other before it."""
    fake.reset()
    kinds = [(surface, name, stream) for surface in PATHS for name in SERVING[surface] for stream in (False, True)]
    seen: dict[tuple[str, str, bool], Seen] = {}
    with gateway.client() as client:
        for number, (surface, name, stream) in enumerate(kinds):
            asked = Asked(surface, (name,), stream, number)
            assert_answered(ask(client, asked), asked)
            seen[surface, name, stream] = request_of(fake.calls(name)[-1], asked)
    assert len(set(seen.values())) == len(kinds)
    return seen


def request_of(call: Json, asked: Asked) -> Seen:
    """All of a request that is not its caller's own; the length is that of the body."""
    assert (call["complete"], call["malformed"]) == (True, False)
    lengths = [value for name, value in call["headers"] if name == "content-length"]
    assert lengths == [str(call["body_bytes"])]
    headers = sorted((name, value) for name, value in call["headers"] if name not in VARYING)
    body = b64decode(call["body_base64"])
    for own, kind in ((asked.padding, b"PADDING"), (asked.token, b"TOKEN"), (f'"{asked.model}"', b'"MODEL"')):
        body = body.replace(own.encode(), kind)
    return call["method"], call["path"], call["query"], tuple(headers), body


def assert_own(backend: str, call: Json, fake: FakeProvider) -> None:
    """Nothing of another backend's, of the caller's or of the gateway's."""
    credentials = [pair for pair in call["headers"] if "secret-of-" in pair[1] or pair[0] in dict(CREDENTIALS.values())]
    assert credentials == [CREDENTIALS[backend]]
    headers = dict(call["headers"])
    assert headers["host"] == f"{host_of(backend)}:{fake.port(backend)}"
    assert not [name for name in headers if name.startswith(("x-sluice-", "x-envoy-", "x-forwarded-"))]
    told = f"{call['path']} {call['query']} {call['headers']}"
    assert not [name for other, name in MODELS.items() if other != backend and name != "gpt" and name in told]


def ask(client: httpx.Client, asked: Asked, pause: float = 0) -> httpx.Response:
    """The answer, before each piece of which its reader takes a pause of so many seconds."""
    headers = {"anthropic-version": "2023-06-01"} if asked.surface == "messages" else {}
    with client.stream("POST", PATHS[asked.surface], json=asked.body(), headers=headers) as answer:
        pieces = []
        for piece in answer.iter_raw():
            pieces.append(piece)
            time.sleep(pause)
    return httpx.Response(answer.status_code, headers=answer.headers, content=b"".join(pieces))


def text_of(asked: Asked, body: bytes) -> str:
    """What the model says in a whole answer."""
    if asked.stream:
        return "".join(_deltas(body))
    tree = json.loads(body)
    if asked.surface == "messages":
        return "".join(block["text"] for block in tree["content"])
    text: str = tree["choices"][0]["message"]["content"]
    return text


def _deltas(body: bytes) -> Iterator[str]:
    for line in body.split(b"\n"):
        if line.startswith(b"data: {"):
            event = json.loads(line[6:])
            for choice in event.get("choices", ()):
                yield choice["delta"].get("content") or ""
            if event.get("type") == "content_block_delta":
                yield event["delta"]["text"]


def assert_answered(answer: httpx.Response, asked: Asked) -> None:
    """An answer to this very call, whole."""
    assert answer.status_code == 200, answer.text
    assert re.findall(r"call\d+end", text_of(asked, answer.content)) == [asked.token]
    if asked.stream:
        ending = "data: [DONE]\n\n" if asked.surface == "chat" else 'data: {"type":"message_stop"}\n\n'
        assert answer.text.replace(": ", ":").endswith(ending.replace(": ", ":"))


@dataclass(frozen=True, slots=True)
class Site:
    """What each backend got, against what it gets alone."""

    fake: FakeProvider
    alone: dict[tuple[str, str, bool], Seen]

    def assert_asked(self, expected: Sequence[tuple[str, Asked]]) -> None:
        """Each backend got these calls, no others, each as if there were no other backend."""
        tried = Counter((name, asked.token) for name, asked in expected)
        by_token = {asked.token: asked for _, asked in expected}
        found: Counter[tuple[str, str]] = Counter()
        for name in BACKENDS:
            for call in self.fake.calls(name):
                (token,) = set(re.findall(rb"call\d+end", b64decode(call["body_base64"])))
                asked = by_token[token.decode()]
                found[name, asked.token] += 1
                assert request_of(call, asked) == self.alone[asked.surface, name, asked.stream]
                assert_own(name, call, self.fake)
        assert found == tried

    def is_reused(self, name: str) -> bool:
        """Whether a backend got several requests on one connection."""
        connections = Counter(call["connection"] for call in self.fake.calls(name))
        return max(connections.values(), default=0) > 1


@pytest.fixture
def site(fake: FakeProvider, alone: dict[tuple[str, str, bool], Seen]) -> Site:
    fake.reset()
    return Site(fake, alone)


@pytest.mark.parametrize("first", BACKENDS)
def test_every_dialect_fails_in_every_way_before_every_other_one(
    first: str, site: Site, gateway: RunningGateway
) -> None:
    """One kept-alive caller. Between two failures the backend answers a call, on whose connection it then fails."""
    expected: list[tuple[str, Asked]] = []
    numbers = itertools.count(1)
    plans = itertools.product(SERVING, BACKENDS, FAULTS)
    with gateway.client() as client:
        for index, (surface, second, fault) in enumerate(plans):
            if first == second or not {first, second} <= {*SERVING[surface]}:
                continue
            stream = (index + index // len(FAULTS)) % 2 == 0  # each way to fail with and without
            failing = Asked(surface, (first, second), stream, next(numbers))
            well = Asked(surface, (first, second), index % 3 == 0, next(numbers))
            site.fake.script(first, [fault])
            for asked in (failing, well):
                assert_answered(ask(client, asked), asked)
            expected += [(first, failing), (second, failing), (first, well)]
    site.assert_asked(expected)
    assert all(site.is_reused(name) for name in BACKENDS)


def test_chains_of_three_dialects(site: Site, gateway: RunningGateway) -> None:
    expected: list[tuple[str, Asked]] = []
    with gateway.client() as client:
        for number, order in enumerate(TRIPLES * 2):
            surface = "messages" if "gemini" not in order and number % 2 else "chat"
            asked = Asked(surface, order, number % 3 == 0, number)
            for place, name in enumerate(order[:2]):
                site.fake.script(name, [FAULTS[(number + place * (number // 4)) % len(FAULTS)]])
            assert_answered(ask(client, asked), asked)
            expected += [(name, asked) for name in order]
    site.assert_asked(expected)


def test_every_dialect_hangs_before_every_other_one(site: Site, gateway: RunningGateway) -> None:
    """All at once: what a backend gets first are the calls that are to hang there."""
    asked = [
        Asked("chat", order, number % 2 == 0, number, soon=True)
        for number, order in enumerate(itertools.permutations(BACKENDS, 2))
    ]
    for name in BACKENDS:
        site.fake.script(name, [{"hang": True}] * (len(BACKENDS) - 1))

    def caller(one: Asked) -> None:
        with gateway.client() as client:
            assert_answered(ask(client, one), one)

    with ThreadPoolExecutor(len(asked)) as crowd:
        list(crowd.map(caller, asked))
    site.assert_asked([(name, one) for one in asked for name in one.order])
    left = len(BACKENDS) - 1
    until(
        lambda: all(site.fake.totals(name)["disconnected"] == left for name in BACKENDS),
        what="the attempts to be given up",
    )


def test_a_crowd_over_all_dialects_never_meets(site: Site, gateway: RunningGateway) -> None:
    """Faults hit whoever comes first; a call for which all of its backends fail gets the last one's error."""
    fate = random.Random(5)
    for name in BACKENDS:
        site.fake.script(name, [fate.choice([*FAULTS, {}, {}, {}, {"chunk_bytes": 900}]) for _ in range(60)])
    orders = [*itertools.permutations(BACKENDS, 2), *TRIPLES]
    numbers = itertools.count()

    def caller(seed: int) -> list[Asked]:
        own, asked = random.Random(seed), []
        with gateway.client() as client:
            for _ in range(20):
                order = own.choice(orders)
                surface = "chat" if "gemini" in order else own.choice(list(PATHS))
                asked.append(Asked(surface, order, own.random() < 0.5, next(numbers)))
                answer = ask(client, asked[-1])
                if answer.status_code == 200:
                    assert_answered(answer, asked[-1])
                else:
                    assert answer.status_code in (429, 500, 503)
                    assert "call" not in answer.json()["error"]["message"].replace("The call", "")
        return asked

    with ThreadPoolExecutor(6) as crowd:
        asked = {one.token: one for made in crowd.map(caller, range(6)) for one in made}
    seen = 0
    for name in BACKENDS:
        for call in site.fake.calls(name):
            (token,) = set(re.findall(rb"call\d+end", b64decode(call["body_base64"])))
            one = asked[token.decode()]
            assert request_of(call, one) == site.alone[one.surface, name, one.stream]
            assert_own(name, call, site.fake)
            seen += 1
    assert seen > len(asked) == 120


# ---- large answers ---------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Reader:
    """How a caller reads: after a pause of so many seconds each time, with room for so many bytes meanwhile."""

    pause: float
    room: int

    def answer(self, gateway: RunningGateway, asked: Asked) -> httpx.Response:
        transport = httpx.HTTPTransport(socket_options=[(socket.SOL_SOCKET, socket.SO_RCVBUF, self.room)])
        with gateway.client(transport=transport) as client:
            return ask(client, asked, self.pause)


FAST, SLOW = Reader(0, 1 << 20), Reader(0.002, 16 << 10)


def words(size: int) -> str:
    """A text of about so many characters, no two words of which are equal."""
    return " ".join(f"{number:06d}{'w' * 993}" for number in range(size // 1000))


def allocated(gateway: RunningGateway) -> int:
    """Bytes that Envoy holds."""
    transport = httpx.HTTPTransport(uds=str(gateway.folder / "var/run/admin.sock"))
    with httpx.Client(transport=transport, base_url="http://admin") as client:
        return int(client.get("/memory").json()["allocated"])


def held_back(gateway: RunningGateway, kind: str) -> int:
    """How often Envoy stopped reading a backend, for a reader who was slower."""
    return gateway.envoy_stat(rf"cluster\.(backend|resolved)_{kind}\.upstream_flow_control_paused_reading_total")


@dataclass(frozen=True, slots=True)
class Through:
    """Calls that one backend answers, after another one failed."""

    backend: str
    site: Site
    gateway: RunningGateway
    numbers: Iterator[int]

    @property
    def first(self) -> str:
        return "gemini" if self.backend == "plain" else "plain"

    @property
    def surfaces(self) -> list[str]:
        return [surface for surface in PATHS if {self.first, self.backend} <= {*SERVING[surface]}]

    def large(self, text: str, surface: str, stream: bool, sized: bool | None = None) -> Asked:
        """The next call to be answered with this text; `sized`: with a content-length."""
        self.site.fake.script(self.first, [{"status": 503}])
        self.site.fake.script(self.backend, [{"text": text, "content_length": sized}])
        return Asked(surface, (self.first, self.backend), stream, next(self.numbers))

    def check(self, reader: Reader, asked: Asked, text: str) -> None:
        answer = reader.answer(self.gateway, asked)
        assert answer.status_code == 200
        assert text_of(asked, answer.content) == text
        told = self.gateway.record(answer.headers["x-request-id"])
        assert (told["ending"], told["usage"]["source"], told["backend"]) == ("complete", "reported", self.backend)


@pytest.mark.parametrize("kind", BACKENDS)
def test_large_answers_come_whole_and_leave_nothing_behind(kind: str, site: Site, gateway: RunningGateway) -> None:
    """To fast readers one by one, and to slow ones who meet."""
    through = Through(kind, site, gateway, itertools.count(1))
    before = allocated(gateway)
    for number, (size, stream) in enumerate(itertools.product(LARGE, (False, True))):
        text = words(size)
        through.check(FAST, through.large(text, "chat", stream, None if stream else number % 3 == 0), text)
    paused = held_back(gateway, kind)
    for stream, size in TOO_MUCH.items():
        text = words(size)
        slow = [through.large(text, surface, stream) for surface in through.surfaces]
        with ThreadPoolExecutor(len(slow)) as crowd:
            list(crowd.map(through.check, [SLOW] * len(slow), slow, [text] * len(slow)))
    assert held_back(gateway, kind) > paused, "nobody was slow"
    until(lambda: allocated(gateway) < before + KEPT, what="Envoy to let the answers go")
