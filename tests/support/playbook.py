"""Exchanges as transcripts: what Envoy tells, what the policy must order; a difference is shown as a diff.

The same events drive the pipeline directly (`Playbook`) or its gRPC shell (`FakeEnvoy`).
"""

import asyncio
import contextlib
import difflib
import json
import random
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NoReturn, Self

import grpc

from extproc.answers import Answers as KeptAnswers
from extproc.call import Call, Event, Origin, Reply
from extproc.contract import SINK_CLUSTER, cluster_of
from extproc.headers import Headers
from extproc.identity import keys
from extproc.identity.directory import Directory, Key
from extproc.limits.hold import Hold
from extproc.model import Backend, Catalogue, Dialect, PublicModel, Target
from extproc.neighbours import Neighbours
from extproc.pipeline import Pipeline
from extproc.refusals import Kind
from extproc.routing.attempt import Attempt
from extproc.routing.health import Health
from extproc.stages.budget import SLOT
from extproc.stores.counters import Answer, CountersUnavailable, Draw
from extproc.stores.memory import MemoryAffinity
from extproc.stores.memory_counters import MemoryCounters
from extproc.stores.ports import Affinity, StoreUnavailable
from extproc.surfaces import Surface
from extproc.telemetry.traces import Traces
from protos.ext_proc_pb2 import HeaderMap, HeaderValue, HttpBody, HttpHeaders, HttpTrailers, ProcessingRequest
from tests.support.screened import Answers, screening

KEY = keys.mint(b"k" * 32)
OTHER_KEY = keys.mint(b"o" * 32)
DIRECTORY = Directory(
    keys={
        keys.fingerprint(KEY): Key("key_1", "app", "key_1"),
        keys.fingerprint(OTHER_KEY): Key("key_2", "other", "key_2", models=frozenset({"gpt-4o"})),
    }
)

# ---- what Envoy tells -----------------------------------------------------------------------------

Pairs = tuple[tuple[str, bytes], ...]


def pairs(headers: Mapping[str, str]) -> Pairs:
    """Headers as they stand in a message."""
    return tuple((name, value.encode("latin-1")) for name, value in headers.items())


def _headers(headers: Pairs) -> Headers:
    """As the adapter makes them."""
    once = dict(headers)
    return Headers(once) if len(once) == len(headers) else Headers.of(list(headers))


def _map(headers: Pairs) -> HeaderMap:
    return HeaderMap(headers=[HeaderValue(key=name, raw_value=value) for name, value in headers])


@dataclass(frozen=True, slots=True)
class RequestHeaders:
    """The head of a request."""

    headers: Pairs
    end: bool = False
    event = Event.REQUEST_HEADERS

    def message(self) -> ProcessingRequest:
        return ProcessingRequest(request_headers=HttpHeaders(headers=_map(self.headers), end_of_stream=self.end))

    async def tell(self, pipeline: Pipeline, call: Call) -> object:
        return await pipeline.request_headers(call, _headers(self.headers), self.end)


@dataclass(frozen=True, slots=True)
class RequestBody:
    """A request's body, or a piece of it."""

    body: bytes
    end: bool = True
    event = Event.REQUEST_BODY

    def message(self) -> ProcessingRequest:
        return ProcessingRequest(request_body=HttpBody(body=self.body, end_of_stream=self.end))

    async def tell(self, pipeline: Pipeline, call: Call) -> object:
        return await pipeline.request_body(call, self.body, self.end)


@dataclass(frozen=True, slots=True)
class ResponseHeaders:
    """The head of an answer, with Envoy's word on where it comes from."""

    headers: Pairs
    origin: Origin
    end: bool = False
    event = Event.RESPONSE_HEADERS

    def message(self) -> ProcessingRequest:
        request = ProcessingRequest(response_headers=HttpHeaders(headers=_map(self.headers), end_of_stream=self.end))
        facts = {
            "xds.cluster_name": self.origin.cluster,
            "response.code_details": self.origin.details,
            "request.path": self.origin.path,
            "request.id": self.origin.request_id,
            "request.protocol": self.origin.protocol,
        }
        request.attributes["envoy.filters.http.ext_proc"].update(facts)
        return request

    async def tell(self, pipeline: Pipeline, call: Call) -> object:
        return await pipeline.response_headers(call, _headers(self.headers), self.origin, self.end)


@dataclass(frozen=True, slots=True)
class ResponseBody:
    """An answer's body, or a piece of it."""

    body: bytes
    end: bool = True
    event = Event.RESPONSE_BODY

    def message(self) -> ProcessingRequest:
        return ProcessingRequest(response_body=HttpBody(body=self.body, end_of_stream=self.end))

    async def tell(self, pipeline: Pipeline, call: Call) -> object:
        return await pipeline.response_body(call, self.body, self.end)


@dataclass(frozen=True, slots=True)
class Trailers:
    """Trailers of the request or of the answer."""

    event: Event

    def message(self) -> ProcessingRequest:
        if self.event is Event.REQUEST_TRAILERS:
            return ProcessingRequest(request_trailers=HttpTrailers())
        return ProcessingRequest(response_trailers=HttpTrailers())

    async def tell(self, pipeline: Pipeline, call: Call) -> object:
        return await pipeline.trailers(call, self.event)


Told = RequestHeaders | RequestBody | ResponseHeaders | ResponseBody | Trailers

REQUEST_TRAILERS = Trailers(Event.REQUEST_TRAILERS)
RESPONSE_TRAILERS = Trailers(Event.RESPONSE_TRAILERS)


def request(path: str = "/v1/chat/completions", method: str = "POST", end: bool = False, **more: str) -> RequestHeaders:
    """The head of a good JSON request. `more`: further headers, `_` for `-`; an empty value leaves one out."""
    headers = {
        ":method": method,
        ":path": path,
        "x-request-id": "r-1",
        "authorization": f"Bearer {KEY}",
        "content-type": "application/json",
    } | {name.replace("_", "-"): value for name, value in more.items()}
    return RequestHeaders(pairs({name: value for name, value in headers.items() if value}), end)


def answer(backend: str = "one", status: int = 200, end: bool = False, **more: str) -> ResponseHeaders:
    """The head of a backend's JSON answer."""
    headers = {":status": str(status), "content-type": "application/json"}
    headers |= {name.replace("_", "-"): value for name, value in more.items()}
    return ResponseHeaders(pairs(headers), Origin(cluster_of(backend), "via_upstream", "/v1/x", "r-1"), end)


def local_reply(status: int, details: str = "made_by_envoy", path: str = "/v1/chat/completions") -> ResponseHeaders:
    """The head of an answer that Envoy made by itself."""
    return ResponseHeaders(pairs({":status": str(status)}), Origin("", details, path, "r-1"))


UNROUTED = ResponseHeaders(pairs({":status": "421"}), Origin(SINK_CLUSTER, "via_upstream", "/v1/x", "r-1"))

# ---- the policy under test --------------------------------------------------------------------------

ONE = Backend("one", Dialect.OPENAI)
TWO = Backend("two", Dialect.OPENAI)
LEGACY = Backend("legacy", Dialect.AZURE, api_version="2024-10-21")
CLAUDE = Backend("claude", Dialect.ANTHROPIC)


def catalogue() -> Catalogue:
    """Every dialect; `gpt-4o` has a chain, `gpt-4o-mini` another name at its backend."""
    groups: dict[str, tuple[tuple[Target, ...], ...]] = {
        "gpt-4o": ((Target(ONE, "gpt-4o"),), (Target(LEGACY, "gpt-4o-swe"),)),
        "gpt-4o-mini": ((Target(TWO, "gpt-4o-mini-2024-07-18"),),),
        "claude-opus": ((Target(CLAUDE, "claude-opus"),),),
        "whisper-1": ((Target(ONE, "whisper-1"),),),
        "moderation": ((Target(ONE, "moderation"),),),
    }
    models = {name: PublicModel(name, targets) for name, targets in groups.items()}
    return Catalogue(
        models=models,
        backends={backend.name: backend for backend in (ONE, TWO, LEGACY, CLAUDE)},
        defaults={Surface.MODERATIONS: "moderation"},
        answer_cap=4096,
    )


class Records(list[dict[str, Any]]):
    """A journal that keeps what is written."""

    def write(self, record: Mapping[str, object]) -> None:
        self.append(dict(record))


class Enrolled:
    """The roster: a directory that never changes; `trouble` is raised while it is asked for."""

    def __init__(self, directory: Directory) -> None:
        self.directory = directory
        self.trouble: Exception | None = None
        self.last_used: dict[str, float] = {}

    def current(self) -> Directory:
        if self.trouble is not None:
            raise self.trouble
        return self.directory

    def used(self, key_id: str, now: float) -> None:
        self.last_used[key_id] = now


class Remembered:
    """The affinity of stateful calls, in memory; while `down` it does not answer."""

    def __init__(self) -> None:
        self.store = MemoryAffinity()
        self.down = False

    def _reach(self) -> MemoryAffinity:
        if self.down:
            raise StoreUnavailable("down")
        return self.store

    async def recall(self, ids: Sequence[str]) -> Mapping[str, Affinity]:
        return self._reach().recall(ids)

    async def remember(self, ids: Sequence[str], backend: str, model: str, owner: str) -> None:
        self._reach().remember(ids, backend, model, owner)


class Reserved:
    """The holds of limits, in memory; settled at once. While `down` the counters do not answer."""

    def __init__(self) -> None:
        self.counters = MemoryCounters(lambda: time.time_ns() // 1_000_000)
        self.down = False
        self.open: dict[str, Hold] = {}
        self.settled: list[tuple[Hold, tuple[Draw, ...], bytes]] = []
        self.told: list[tuple[str, bytes]] = []
        self.noted: dict[str, Any] = {}

    async def reserve(self, hold: Hold) -> Answer:
        answer = await self._reach().reserve(SLOT, hold.id, hold.draws, 60_000)
        if answer.granted:
            self.open[hold.id] = hold
        return answer

    async def extend(self, hold: Hold, draws: Sequence[Draw]) -> Answer:
        return await self._reach().extend(SLOT, hold.id, draws, 60_000)

    def settle(self, hold: Hold, draws: Sequence[Draw], event: bytes) -> None:
        self.open.pop(hold.id, None)
        self.settled.append((hold, tuple(draws), event))
        with contextlib.suppress(StopIteration):
            self.counters.settle(SLOT, hold.id, draws, event).send(None)  # the store in memory never waits

    def begun(self, name: str, note: bytes) -> None:
        self.noted[name] = json.loads(note)

    def tell(self, name: str, event: bytes) -> None:
        self.told.append((name, event))

    def _reach(self) -> MemoryCounters:
        if self.down:
            raise CountersUnavailable("down")
        return self.counters


@dataclass
class Policy:
    """A pipeline with everything it needs, and what it did."""

    records: Records = field(default_factory=Records)
    affinity: Remembered = field(default_factory=Remembered)
    health: Health = field(default_factory=lambda: Health({}, random.random))  # watches none: all are well
    holds: Reserved = field(default_factory=Reserved)
    roster: Enrolled = field(default_factory=lambda: Enrolled(DIRECTORY))
    catalogue: Callable[[], Catalogue] = catalogue
    not_ready: str | None = None
    signing_key: bytes | None = None
    services: Answers = field(default_factory=Answers)
    judged: list[Attempt] = field(default_factory=list)
    kept: KeptAnswers | None = None  # the answer cache
    neighbours: Neighbours | None = None  # of questions in it
    traces: Traces | None = None

    def __post_init__(self) -> None:
        self.pipeline = Pipeline(
            catalogue=self.catalogue,
            roster=self.roster,
            not_ready=lambda: self.not_ready,
            affinity=self.affinity,
            health=self.health,
            holds=self.holds,
            screening=screening(self.services),
            journal=self.records,
            signing_key=self.signing_key,
            judge=self.judged.append,
            answers=self.kept,
            neighbours=self.neighbours,
            traces=self.traces,
        )


# ---- the dialogue with the pipeline -----------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Refusal:
    """An expected reply: a refusal of this kind."""

    kind: Kind


Expected = object
"""An order, the type of one (any such order will do), or a `Refusal`."""


class Playbook:
    """`>>` tells an event, `<<` expects the order that follows; `play` compares both transcripts.

    An event without an expected order after it may be answered by anything.
    """

    def __init__(self, policy: Policy | None = None) -> None:
        self.policy = policy or Policy()
        self._steps: list[tuple[Told, Expected | None]] = []

    def __rshift__(self, told: Told) -> Self:
        self._steps.append((told, None))
        return self

    def __lshift__(self, expected: Expected) -> Self:
        told, before = self._steps[-1]
        assert before is None, "one event is answered by one order"
        self._steps[-1] = (told, expected)
        return self

    async def play(self) -> dict[str, Any]:
        """Play it, end the call, and return its record."""
        wanted: list[str] = []
        seen: list[str] = []
        call = self.policy.pipeline.begin()
        already = len(self.policy.records)
        try:
            for told, expected in self._steps:
                order = await told.tell(self.policy.pipeline, call)
                if expected is None or _fits(order, expected):
                    expected = order
                wanted += (f">> {told}", f"<< {expected}")
                seen += (f">> {told}", f"<< {order}")
        finally:
            self.policy.pipeline.end(call)
        assert wanted == seen, "\n" + "\n".join(difflib.ndiff(wanted, seen))
        written = self.policy.records[already:]
        assert len(written) == 1, f"one call has one record, not {written}"
        return written[0]


def _fits(order: object, expected: Expected) -> bool:
    if expected == order:
        return True
    if isinstance(expected, type):
        return isinstance(order, expected)
    if isinstance(expected, Refusal) and isinstance(order, Reply):
        return (order.status, order.details) == (expected.kind.status, f"sluice_{expected.kind.code}")
    return False


# ---- the other end of the gRPC stream ---------------------------------------------------------------


class Aborted(Exception):
    """What grpc.aio's `abort` raises in the handler."""


class FakeEnvoy:
    """The servicer context of one stream, as Envoy would drive it: messages in, replies out.

    With `hangs` nothing follows the last message, as while a client waits; else Envoy ends the stream.
    """

    def __init__(
        self,
        messages: Iterable[ProcessingRequest],
        hangs: bool = False,
        metadata: Sequence[tuple[str, str]] = (),
    ) -> None:
        """`metadata`: what Envoy tells before the first message."""
        self._messages = iter(list(messages))
        self._metadata = metadata
        self._hangs = hangs
        self.replies: list[bytes] = []
        self.ended = False  # it was told that Envoy ended the stream
        self.waiting = asyncio.Event()  # all messages are read, and nothing follows
        self.aborted: tuple[grpc.StatusCode, str] | None = None

    async def read(self) -> Any:
        """The next message, or EOF."""
        message = next(self._messages, None)
        if message is not None:
            return message
        if self._hangs:
            self.waiting.set()
            await asyncio.Event().wait()
        self.ended = True
        return grpc.aio.EOF

    def invocation_metadata(self) -> Sequence[tuple[str, str]]:
        return self._metadata

    async def write(self, message: bytes) -> None:
        self.replies.append(message)

    async def abort(self, code: grpc.StatusCode, details: str) -> NoReturn:
        self.aborted = (code, details)
        raise Aborted
