"""Values of every kind in every place of every surface: under a policy, none of them is ever anywhere else.

One sweep sends them all through the real Envoy; what follows searches every place that the gateway writes to. Redis is
listened to, so that what was there for a moment only is found, too.
"""

import json
import socket
import threading
from base64 import b64decode, b64encode
from collections import Counter
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any, Self
from urllib.parse import quote

import httpx
import pytest

from tests.dataplane.conftest import SECRETS, standard_settings
from tests.support import canaries
from tests.support.canaries import KINDS, Canaries
from tests.support.fake import FakeProvider
from tests.support.gateway import RunningGateway, until
from tests.support.raw_http import form
from tests.support.redacted import TALKS
from tests.support.redis_server import RedisServer
from tests.support.rich_bodies import BODIES, CHAT, STREAMING
from tests.support.sdk import DOORS, ask, client_at

pytestmark = [
    pytest.mark.filterwarnings("ignore:The model 'claude:DeprecationWarning"),
    pytest.mark.timeout(600),  # of the sweep, in the first test
]

Json = dict[str, Any]

BACKENDS = ("openai", "azure", "azure-v1", "anthropic")
JUDGE = "judge"  # the service that moderates
STRUCTURE = frozenset(("model", "role", "type"))
"""Without which a request is none; each has its turn all the same."""
FORMS = ("/v1/audio/transcriptions", "/v1/audio/translations", "/v1/images/edits")
FREE_HEADERS = (
    *("user-agent", "openai-beta", "x-client-request-id", "x-stainless-lang", "x-ms-client-request-id", "accept"),
    *("anthropic-beta", "x-claude-code-session-id", "idempotency-key", "x-request-id"),
)
STRANGE_HEADERS = ("x-something", "referer", "cookie", "x-stainless-retry-count", "x-priority", "traceparent")


class Overheard:
    """Everything that anybody says to a Redis, from entering on."""

    def __init__(self, port: int) -> None:
        self.said = bytearray()
        self._socket = socket.create_connection(("127.0.0.1", port))
        self._thread = threading.Thread(target=self._listen, daemon=True)

    def __enter__(self) -> Self:
        self._socket.sendall(b"MONITOR\r\n")
        self._thread.start()
        until(lambda: self.said.startswith(b"+OK"), 10, "Redis to let us listen")
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.shutdown(socket.SHUT_RDWR)
        self._thread.join()
        self._socket.close()

    def _listen(self) -> None:
        while piece := self._socket.recv(2**16):
            self.said += piece


@dataclass
class Sweep:
    """A gateway, what was put through it, and what became of it."""

    gateway: RunningGateway
    fake: FakeProvider
    redis: RedisServer
    overheard: Overheard
    values: Canaries = field(default_factory=Canaries)
    statuses: dict[str, Counter[int]] = field(default_factory=dict)
    refusals: list[bytes] = field(default_factory=list)

    def send(self, client: httpx.Client, what: str, request: httpx.Request) -> None:
        """Put a request through, and keep the gateway's word where it refuses."""
        answer = client.send(request)
        self.statuses.setdefault(what, Counter())[answer.status_code] += 1
        if answer.status_code >= 400:
            self.refusals.append(repr(answer.headers.raw).encode() + answer.content)


def settings(fake: FakeProvider, redis: RedisServer, action: str) -> Json:
    """With everything switched on that writes anything down."""
    return standard_settings(fake) | {
        "stores": {"counters": redis.url, "counters_wait": "1s"},
        "services": {JUDGE: {"api": "openai-moderation", "url": f"{fake.url(JUDGE)}/v1"}},
        "policies": {
            "limits": {"calls": {"scope": "key", "requests": 1_000_000, "per": "hour"}},
            "redaction": {"default": {"entities": {"DEFAULT": action}}},
            "guardrails": {"default": {"injection": {"action": "flag"}, "moderation": {"service": JUDGE}}},
        },
    }


@pytest.fixture(scope="module")
def sites(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mapping[str, Sweep]]:
    """By what is done about values: a gateway, swept."""
    with ExitStack() as stack:
        fake = stack.enter_context(FakeProvider(*BACKENDS, JUDGE, options=["--keep-bodies"]))
        redis = RedisServer(tmp_path_factory.mktemp("redis"))
        redis.start()
        stack.callback(redis.stop)
        overheard = stack.enter_context(Overheard(redis.port))
        made = {}
        for action in ("placeholder", "block"):
            gateway = stack.enter_context(RunningGateway(settings(fake, redis, action), SECRETS))
            made[action] = Sweep(gateway, fake, redis, overheard)
            with gateway.client() as client:
                sweep(made[action], client, thorough=action == "placeholder")
        yield made


def sweep(site: Sweep, client: httpx.Client, thorough: bool) -> None:
    """Send everything; if it is not `thorough`, only what differs in more than its place."""
    if thorough:
        hear(site, client)
    with ThreadPoolExecutor(4) as hands:
        sent = [
            hands.submit(site.send, client, what, request) for what, request in requests(site.values, client, thorough)
        ]
    for one in sent:
        one.result()


def hear(site: Sweep, client: httpx.Client) -> None:
    """Values that a provider says, in an answer or an error: the caller's to see, and nobody else's."""
    for name in STREAMING:
        path, body = BODIES[name]
        backend = "anthropic" if name == "messages" else "openai"
        for stream in (False, True):
            said = site.values.prose(f"an answer of {backend}")
            error = json.dumps({"error": {"message": said, "type": "x", "code": said}})
            site.fake.script(backend, [{"text": said}, {"status": 400, "error_body": error}])
            answers = [client.post(path, json={**body, "stream": stream}, headers=JSON) for _ in range(2)]
            assert [answer.status_code for answer in answers] == [200, 400]
            assert all(canaries.found(answer.content) for answer in answers[stream:])


def requests(values: Canaries, client: httpx.Client, thorough: bool) -> Iterator[tuple[str, httpx.Request]]:
    """What is sent, and under which name."""
    for name, (path, body) in BODIES.items():
        made = list(in_all_places(values, name, body))
        if thorough and name not in ALIKE:
            made += in_each_place(values, name, body)
        for sent in made:
            yield name, client.build_request("POST", path, content=sent, headers=JSON)
    for path in FORMS:
        for kind, sent in forms(values, path):
            yield path, client.build_request("POST", path, content=sent, headers={"content-type": kind})
    for request in odd(values, client):
        yield "odd", request


JSON = {"content-type": "application/json", "anthropic-version": "2023-06-01"}
ALIKE = frozenset(
    ("azure chat", "azure responses", "a completion", "an embedding", "a response", "a message", "count_tokens")
)
"""Bodies of which another one has all the places."""


def in_each_place(values: Canaries, name: str, body: Json) -> Iterator[bytes]:
    """With all values in one place after the other."""
    for path, _ in canaries.texts(body):
        if path != ("model",):
            yield json.dumps(canaries.replaced(body, path, values.prose(f"{name} {path}"))).encode()


def in_all_places(values: Canaries, name: str, body: Json) -> Iterator[bytes]:
    """In all places at once: as a text, bare, in keys, in JSON within JSON, in numbers, escaped, and in a stream."""
    everywhere = said_everywhere(values, name, body)
    yield json.dumps(everywhere).encode()
    yield canaries.escaped(everywhere)
    yield json.dumps(everywhere, ensure_ascii=False, indent=1).replace("@", "\\u0040").encode()
    yield json.dumps(canaries.filled(body, lambda path: values.prose(f"{name} {path} in JSON or a key"))).encode()
    yield json.dumps({**body, "numbers": numbers(values, name)}).encode()
    for kind in KINDS:
        bare = body
        for path in free(body):
            bare = canaries.replaced(bare, path, values.values(f"{name} {path} bare")[kind.entity])
        yield json.dumps(bare).encode()
    if name in STREAMING:
        yield json.dumps({**everywhere, "stream": True}).encode()


def free(body: Json) -> list[canaries.Path]:
    return [path for path, _ in canaries.texts(body) if path[-1] not in STRUCTURE]


def said_everywhere(values: Canaries, name: str, body: Json) -> Json:
    result: Json = body
    for path in free(body):
        result = canaries.replaced(result, path, values.prose(f"{name} {path} with all others"))
    return result


def numbers(values: Canaries, name: str) -> Json:
    card = values.values(f"{name} a number")["CREDIT_CARD"]
    return {"account": int(card), "list": [1, int(card)], "negative": -int(card)}


def forms(values: Canaries, path: str) -> Iterator[tuple[str, bytes]]:
    model = "gpt-image-1" if path.endswith("edits") else "whisper-1"
    for name in ("prompt", "language", "user", "n", "size", "response_format", "new_tomorrow"):
        yield form({"prompt": "x", "model": model, name: values.prose(f"{path} {name}")}, b"\xff" * 100)
    for kind in KINDS:
        bare = values.values(f"{path} bare")[kind.entity]
        yield form({"prompt": bare, "model": model, "user": bare}, b"\xff" * 100)
    whole = values.prose(f"{path} names", lines=False)
    named = form({"model": model, "prompt": "x", whole: "x"}, b"\xff" * 100)
    yield named[0], named[1].replace(b"a.wav", f"{whole}.wav".encode())


def odd(values: Canaries, client: httpx.Client) -> Iterator[httpx.Request]:
    """Values outside of bodies, and in what is refused for another reason."""
    for name in (*FREE_HEADERS, *STRANGE_HEADERS):
        for value in (values.prose(f"header {name}", lines=False), values.values(f"header {name}")["EMAIL_ADDRESS"]):
            yield client.build_request("POST", "/v1/chat/completions", json=CHAT, headers={name: value})
    for value in values.values("a URL").values():
        spelled = quote(value, safe="@:+")
        yield client.build_request("POST", f"/v1/chat/completions?x={spelled}", json=CHAT)
        yield client.build_request("GET", f"/v1/responses/{spelled}")
        yield client.build_request("GET", f"/v1/models/{spelled}")
        yield client.build_request("POST", f"/{spelled}", json=CHAT)
    much = " ".join(values.prose("more than is looked through") for _ in range(1500))
    yield client.build_request("POST", "/v1/embeddings", json={"model": "text-embedding-3-small", "input": much})
    for value in values.values("what names nothing").values():
        yield client.build_request("POST", "/v1/chat/completions", json={**CHAT, "model": value})
        yield client.build_request("POST", BODIES["azure chat"][0], json={**CHAT, "model": value})
        yield client.build_request(
            "POST", "/v1/responses", json={"model": "gpt-4o", "input": "x", "previous_response_id": value}
        )
        yield client.build_request(
            "POST", "/v1/chat/completions", content=f'{{"model": "{value}"'.encode(), headers=JSON
        )
        yield client.build_request(
            "POST", "/v1/chat/completions", content=value.encode(), headers={"content-type": "x/y"}
        )
        yield client.build_request(
            "GET", "/v1/models", headers={"authorization": f"Bearer {value.replace(chr(10), '')}"}
        )


# ---- the search -----------------------------------------------------------------------------------------


def assert_clean(site: Sweep, told: bytes, least: int = 1) -> None:
    """Nothing in it, and something to search in."""
    assert len(told) >= least
    leaks = [f"{entity}, put into {site.values.where(around)}: {around!r}" for entity, around in canaries.found(told)]
    assert not leaks, "\n".join(leaks)


def as_read(call: Json) -> bytes:
    """A call as the provider got it, and as it reads it."""
    body = b64decode(call["body_base64"])
    head = json.dumps([call["method"], call["path"], call["query"], call["headers"]]).encode()
    try:
        read = json.dumps(json.loads(body), ensure_ascii=False).encode()
    except ValueError:
        read = b""
    return b"\n".join((head, body, read))


@pytest.mark.parametrize("backend", [*BACKENDS, JUDGE])
def test_no_provider_and_no_service_ever_gets_one(sites: Mapping[str, Sweep], backend: str) -> None:
    site = sites["placeholder"]
    for call in site.fake.calls(backend):
        assert_clean(site, as_read(call))


def test_the_sweep_reached_the_providers(sites: Mapping[str, Sweep]) -> None:
    """Else it would show nothing: few of its calls are refused by the gateway itself."""
    site = sites["placeholder"]
    sent = sum(sum(counts.values()) for name, counts in site.statuses.items() if name != "odd")
    got = {name: site.fake.calls(name) for name in (*BACKENDS, JUDGE)}
    assert sum(len(got[name]) for name in BACKENDS) > 0.9 * sent
    assert all(counts[200] > len(KINDS) for name, counts in site.statuses.items()), site.statuses
    assert all(any(b"EMAIL_ADDRESS_1" in as_read(call) for call in calls) for calls in got.values())


def test_the_gateway_says_nothing_of_them(sites: Mapping[str, Sweep]) -> None:
    """Records of calls, attempts and the edge, and the logs of the workers and of Envoy."""
    for site in sites.values():
        assert_clean(site, site.gateway.told().encode(), 100_000)


def test_no_metric_has_one(sites: Mapping[str, Sweep]) -> None:
    for site in sites.values():
        told = site.gateway.metrics()
        assert "EMAIL_ADDRESS" in told
        assert_clean(site, told.encode(), 1000)


def test_no_file_of_the_gateway_has_one(sites: Mapping[str, Sweep]) -> None:
    """The database, the spool, the files of the metrics, and those that Envoy reads."""
    for site in sites.values():
        files = [path for path in site.gateway.folder.rglob("*") if path.is_file()]
        assert {"sluice.db", "listeners.yaml"} <= {path.name for path in files}
        assert any("spool" in path.parts for path in files)
        for path in files:
            assert_clean(site, path.name.encode() + b" " + path.read_bytes())


def test_nothing_in_redis_and_nothing_that_was_said_to_it_has_one(sites: Mapping[str, Sweep]) -> None:
    site = sites["placeholder"]
    assert_clean(site, bytes(site.overheard.said), 100_000)
    kept = [content(site.redis, key) for key in site.redis.call("KEYS", "*")]
    assert_clean(site, repr(kept).encode(), 1000)


def content(redis: RedisServer, key: bytes) -> Any:
    """A key with all that is under it."""
    name = key.decode()
    read: dict[str, tuple[str | int, ...]] = {
        "string": ("GET", name),
        "hash": ("HGETALL", name),
        "list": ("LRANGE", name, 0, -1),
        "set": ("SMEMBERS", name),
        "zset": ("ZRANGE", name, 0, -1),
        "stream": ("XRANGE", name, "-", "+"),
    }
    return name, redis.call(*read[redis.call("TYPE", name).decode()])


def test_envoy_knows_none(sites: Mapping[str, Sweep]) -> None:
    for site in sites.values():
        transport = httpx.HTTPTransport(uds=str(site.gateway.folder / "var/run/admin.sock"))
        with httpx.Client(transport=transport, base_url="http://admin") as admin:
            for path in ("/config_dump?include_eds", "/stats", "/clusters", "/server_info", "/listeners"):
                assert_clean(site, admin.get(path).content, 50)


def test_no_refusal_repeats_one(sites: Mapping[str, Sweep]) -> None:
    """Whether it is for the value itself or for anything else. What an error of a provider quotes is a placeholder."""
    for site in sites.values():
        for told in site.refusals:
            assert_clean(site, told, 10)


def test_a_block_names_what_was_found_and_how_often(sites: Mapping[str, Sweep]) -> None:
    site = sites["block"]
    for name in BODIES:
        assert site.statuses[name].keys() == {400}, name
    named = [told for told in site.refusals if b" \xc3\x97 IBAN_CODE" in told]
    assert len(named) > 5 * len(BODIES)


# ---- and back -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
@pytest.mark.parametrize("name", TALKS)
async def test_the_caller_gets_all_values_back(sites: Mapping[str, Sweep], name: str, stream: bool) -> None:
    site, talk = sites["placeholder"], TALKS[name]
    text = site.values.prose(f"an answer of {name}")
    async with client_at(DOORS[talk.door], site.gateway.url, site.gateway.key) as made:
        answer = await ask(made, talk.operation, stream=stream, **talk.fields(text))
    (said,) = talk.said(answer, stream)
    assert said.startswith(f"You said: {text}")


# ---- the search itself ----------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS, ids=[kind.entity for kind in KINDS])
def test_the_search_finds_a_value_however_it_is_written(kind: canaries.Kind) -> None:
    """Else the sweep would be clean for nothing."""
    for number in (1, 777, 12_345):
        value = kind.value(number)
        spelled = ["".join(f"\\u{ord(character):04x}" for character in value), quote(value), value.encode().hex()]
        coded = [b64encode(b"x" * before + value.encode() + b"yy").decode() for before in range(3)]
        for text in (value, repr(value), json.dumps(value), *spelled, *coded):
            around = canaries.found(f"before {text} after".encode())
            assert kind.entity in dict(around)
            assert len(around) == 1


def test_a_leak_is_told_with_its_place() -> None:
    values = Canaries()
    values.prose("elsewhere")
    ((_, around), *_) = canaries.found(values.prose("here").encode())
    assert values.where(around) == "here"
    assert values.where(b"nothing") == "?"
