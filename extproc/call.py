"""One exchange between Envoy and the policy, sans I/O: what may happen when, and what we may order.

Events are told in the past tense (`RequestHeaders` arrived), orders are imperatives (`Route`, `Reply`).
`LEGAL` is the whole protocol; nothing else changes a phase. Envoy takes a clean end or a wrong reply as
"go on without the policy", so whatever is not in the table raises, and the adapter fails the stream.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import IntEnum, auto

from extproc.cache.control import Control
from extproc.cache.lookup import Lookup
from extproc.dialects.answers import Answer
from extproc.dialects.meters import Meter
from extproc.dialects.multipart import FormReader
from extproc.dialects.translate.reading import Translated
from extproc.guardrails.gate import Gate
from extproc.guardrails.policy import Guardrails
from extproc.guardrails.verdict import Verdict
from extproc.limits.hold import Hold, Stake
from extproc.limits.limit import Priority
from extproc.model import Caller, Catalogue, Cause, Chain, Ending, PublicModel
from extproc.redaction.answer import AnswerTexts
from extproc.redaction.placeholders import Placeholders
from extproc.redaction.profile import Profile
from extproc.refusals import Refusal
from extproc.stores.counters import Reading
from extproc.surfaces import Face, Place
from extproc.timing import Times
from extproc.traceparent import Context
from extproc.values import frozen


class Event(IntEnum):
    """A message from Envoy. (The hash of a plain Enum is made in Python, anew for each message.)"""

    REQUEST_HEADERS = auto()
    REQUEST_BODY = auto()
    REQUEST_TRAILERS = auto()
    RESPONSE_HEADERS = auto()
    RESPONSE_BODY = auto()
    RESPONSE_TRAILERS = auto()


class Phase(IntEnum):
    """How far the exchange is."""

    OPENED = auto()  # nothing known
    IDENTIFIED = auto()  # the caller is known, the body is awaited
    ROUTED = auto()  # Envoy tries the chain
    RESPONDING = auto()  # an answer flows
    ANSWERED = auto()  # we answered ourselves


LEGAL: dict[Phase, frozenset[Event]] = {
    # Of a request that Envoy refused by its headers alone (413, 426) only the answer is told.
    Phase.OPENED: frozenset({Event.REQUEST_HEADERS, Event.RESPONSE_HEADERS}),
    # Envoy's own 413 or 408 comes as response headers before any body.
    Phase.IDENTIFIED: frozenset({Event.REQUEST_BODY, Event.REQUEST_TRAILERS, Event.RESPONSE_HEADERS}),
    # A multipart body is still flowing when it has been routed, and when a backend answers early.
    Phase.ROUTED: frozenset({Event.REQUEST_BODY, Event.REQUEST_TRAILERS, Event.RESPONSE_HEADERS}),
    Phase.RESPONDING: frozenset(
        {Event.REQUEST_BODY, Event.REQUEST_TRAILERS, Event.RESPONSE_BODY, Event.RESPONSE_TRAILERS}
    ),
    # Pieces of an upload, or of an answer that we withdrew, that Envoy had sent before it read ours; they get no reply.
    Phase.ANSWERED: frozenset(
        {Event.REQUEST_BODY, Event.REQUEST_TRAILERS, Event.RESPONSE_BODY, Event.RESPONSE_TRAILERS}
    ),
}


class ProtocolViolation(Exception):
    """Envoy sent what may not come now; the stream must fail."""


@frozen
class Rules:
    """What holds for one caller; None: nothing of the kind."""

    redaction: Profile | None
    guardrails: Guardrails | None
    tenant: str


@dataclass(slots=True)
class Inspection:
    """What the policies of redaction and guardrails found in a call: types, counts and places, never a value.

    `placeholders` hold values: they live as long as the call, and nothing of them is told.
    """

    found: Mapping[str, int] = field(default_factory=dict)  # in the request, by entity
    places: Mapping[str, int] = field(default_factory=dict)
    said: Mapping[str, int] = field(default_factory=dict)  # in the answer, by entity
    restored: int = 0  # placeholders of the answer that were taken back
    unrestored: int = 0  # and that stand for nothing
    verdicts: list[Verdict] = field(default_factory=list)
    asked: int = 0  # questions to the service that judges texts
    aside: int = 0  # nano-units that they cost
    failed: list[str] = field(default_factory=list)  # what could not be looked at, as constant words
    placeholders: Placeholders | None = field(default=None, repr=False)


@dataclass(slots=True)
class Call:
    """The state of one exchange. Times are seconds of a monotonic clock."""

    started: float
    catalogue: Catalogue  # the configuration that it started with, and keeps
    began: int = 0  # the same as `started`, in milliseconds of Unix time: what it costs goes by that
    times: Times = field(default_factory=Times)  # of the stages that it went through
    trace: Context | None = None  # its place in its trace; None: calls have none
    phase: Phase = Phase.OPENED
    begun: bool = False  # Envoy has told something of it
    id: str = ""  # its own, which no other call has, once its caller is known
    who: bytes = b""  # telemetry.note of it
    what: bytes = b""
    request_id: str = ""
    method: str = ""
    path: str = ""  # without the query, and without the prefix for calls of low priority
    query: str = ""
    place: Place | None = None
    face: Face = Face.OPENAI
    caller: Caller | None = None
    content_length: int | None = None
    form: FormReader | None = None  # of a multipart body
    stripped: tuple[str, ...] = ()  # request headers that no provider may see
    asking: tuple[tuple[str, str], ...] = ()  # the ASKING_HEADERS that it came with
    retries: str = ""  # the client's own retry count, where its SDK tells it

    pending: bytes = b""  # the start of a multipart body, until its model is known
    request_ended: bool = False
    stream: bool = False
    estimated_input: int = 0  # tokens
    asked_usage: bool = True  # the client wants the usage event of a stream, where there is one
    hides_usage: bool = False  # only the gateway asked for it
    priority: Priority = Priority.HIGH
    low_route: bool = False  # through the prefix for calls of low priority
    hold: Hold | None = None  # what it has reserved
    holds: int = 0  # that it has asked for
    repeat: str = ""  # its Idempotency-Key
    told: tuple[tuple[str, str], ...] = ()  # headers that tell where the caller stands, for the answer
    notices: tuple[tuple[str, str], ...] = ()  # headers that tell other things of the call, for the answer
    session: str | None = None  # what it belongs to, with others of its caller: an id, or a digest
    turn: int | None = None  # how often its user has spoken in it
    tags: Mapping[str, str] = field(default_factory=dict)  # that its caller gave it
    stood: tuple[tuple[Stake, Reading], ...] = ()  # how its limits stood when it reserved, or was refused
    stood_at: int = 0  # when that was, in milliseconds of Unix time
    bound: Mapping[str, str] = field(default_factory=dict)  # headers that can bind it to a backend
    longest: int = 0  # tokens that its answers can have in all, where nothing is held for them
    choices: int = 1  # answers that it asks for
    output_cap: int | None = None  # tokens, that the gateway wrote into the request
    shadowed: tuple[str, ...] = ()  # limits that would have refused it
    warned: tuple[tuple[str, int], ...] = ()  # limits with the percent of them that it was the first to pass
    searches: bool = False  # the provider searches the web for it
    background: bool = False  # its usage shows only later, when its response is read
    rules: Rules | None = None  # policies that look through it
    inspection: Inspection = field(default_factory=Inspection)
    named: PublicModel | None = None  # the model that it asks for
    versions: tuple[tuple[str, str], ...] = ()  # headers that a provider sees, and that may change its answer
    control: Control | None = None  # what it asks of the cache; None: there is none
    lookup: Lookup | None = None  # what the cache has to do with it; None: nothing
    chain: Chain | None = None
    probes: tuple[str, ...] = ()  # backends whose half-open circuit no other call may try meanwhile
    spare: Mapping[Cause, Chain] = field(default_factory=dict)  # of models that may take over, by what for
    fallback: Cause | None = None  # why another model serves it
    pinned: bool = False  # the chain is the one backend that holds the call's state
    sent_at: float | None = None  # when the first target was asked
    at: tuple[str, str] | None = None  # the target, see routing.load, that it is counted at

    status: int = 0
    backend: str | None = None
    attempt: int | None = None  # the one that was answered; None: as the backend's place in the chain tells
    meter: Meter | None = None
    sent: bytes = b""  # the request, where a leg is translated: an answer may have to repeat some of it
    translated: Translated | None = None  # what turns the answer of another dialect into one of the surface
    answer: Answer | None = None
    first_byte: float | None = None
    first_token: float | None = None  # when the first output of a stream came
    answer_bytes: int = 0  # of its body, as far as they came
    heard: float | None = None  # when a stream's first piece came, or the last one so far of a whole answer
    answer_ended: bool = False
    awaited: int | None = None  # bytes of the answer's body that are still to come, where its head told
    flowed: int = 0  # tokens of a leased answer that have passed, at most
    gate: Gate | None = None  # what holds its answer back until that has been judged
    texts: AnswerTexts | None = None  # what changes the texts of its answer
    json_output: bool = False  # these texts are JSON
    blocked: bool = False  # the gateway ended the answer: it may not say what it was about to
    cut_short: bool = False  # the gateway ended the answer: its lease could not be extended
    watched: bool = False  # its answer is ended where the backend falls silent
    stalled: bool = False  # the gateway ended the answer: the backend had fallen silent
    broken_off: bool = False  # the gateway ended the answer, as it stops itself
    refusal: Refusal | None = None
    ending: Ending | None = None
    is_logged: bool = False  # Envoy has the facts for its log

    @property
    def model(self) -> str | None:
        """The public name of the model that serves it, or that it asked for in vain."""
        model = self.chain.model if self.chain else self.named
        return None if model is None else model.name

    def note(self, event: Event) -> None:
        """Check that the event may come now. Raises ProtocolViolation."""
        self.begun = True
        if event not in LEGAL[self.phase]:
            raise ProtocolViolation(f"{event.name} in phase {self.phase.name}")


@frozen
class Origin:
    """Where an answer comes from, as Envoy tells it. `details` is `via_upstream` for what a backend answered.

    `protocol`: in which the client speaks, such as `HTTP/1.1`; empty where that is not told. `path` and `request_id`,
    of the request, are for calls of which nothing was told before; of others they may be empty.
    """

    cluster: str
    details: str
    path: str = ""
    request_id: str = ""
    protocol: str = ""


# ---- what the policy may order ------------------------------------------------------------------


@frozen
class Proceed:
    """Go on; nothing changes."""


@frozen
class Withhold:
    """Send nothing yet: more of the body is needed to decide."""


@frozen
class Leg:
    """One attempt: the backend, the path there, and the model that is deployed there.

    `model` is its name again where the body must say it in place of what it says. `translate` is the surface of the
    call where the backend does not speak it.
    """

    backend: str
    path: str
    deployed: str
    model: str | None = None
    translate: str | None = None


@frozen
class Route:
    """Try these legs in order.

    `body` replaces the request body, None leaves it. `length` is the content-length to send, None leaves
    it to Envoy. `at` and `to` bound the model's name inside the body that is sent.
    """

    legs: tuple[Leg, ...]
    remove: tuple[str, ...] = ()
    body: bytes | None = None
    length: int | None = None
    at: int = 0
    to: int = 0
    identity: str | None = None  # for the backends that are told who calls
    asking: tuple[tuple[str, str], ...] = ()  # the caller's ASKING_HEADERS, where a leg is translated
    first_byte: float | None = None  # seconds that each leg may take until its answer begins
    instead: tuple[tuple[str, tuple[Leg, ...]], ...] = ()  # by what a provider may refuse it for: another model's legs

    @property
    def all_legs(self) -> tuple[Leg, ...]:
        """Those that may be tried: of the model, and of those that stand in for it."""
        return self.legs if not self.instead else (*self.legs, *(leg for _, legs in self.instead for leg in legs))


@frozen
class Pass:
    """Send these bytes of a streamed request on, after the route if there is one."""

    body: bytes
    end: bool
    route: Route | None = None


@frozen
class Reply:
    """Answer the client now, with nothing from a backend. `details` goes to Envoy's logs."""

    status: int
    headers: tuple[tuple[str, str], ...]
    body: bytes
    details: str


class BodyMode(IntEnum):
    """How Envoy shall send us the body of the answer."""

    NONE = auto()
    STREAMED = auto()
    BUFFERED = auto()
    PARTIAL = auto()  # at once, as far as it can be held; the head waits for it, and what follows passes by
    DUPLEX = auto()  # each piece waits for ours, and we may end the answer before the backend does


@frozen
class Silence:
    """For how many seconds a backend may say nothing in the middle of its answer.

    `room`: once more bytes than that have gone out, it may be the client who does not read, and nobody can tell.
    """

    seconds: float
    room: int


@frozen
class Relay:
    """Let the answer's headers pass and send its body to us like this. `resized`: its length may change.

    `headers` are set on the answer. `limited`: limits of ours hold for the call, so what the provider tells of its own
    does not pass. `silence`, in DUPLEX only: what the backend may allow itself; None: what Envoy allows.
    """

    mode: BodyMode
    resized: bool = False
    headers: tuple[tuple[str, str], ...] = ()
    limited: bool = False
    silence: Silence | None = None


@frozen
class Emit:
    """Send this in place of the chunk; None sends the chunk as it is.

    `last`, in DUPLEX only: the answer ends here, whatever the backend still has to say.
    """

    body: bytes | None = None
    last: bool = False


PROCEED = Proceed()
WITHHOLD = Withhold()
UNCHANGED = Emit()
