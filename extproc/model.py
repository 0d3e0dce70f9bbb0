"""The values that travel through a call. Plain data: no I/O, no clock, no provider's names."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network

from extproc.cache.policy import CacheRules
from extproc.edits import Edit, Span
from extproc.guardrails.moderation import Request
from extproc.guardrails.policy import Guardrails
from extproc.identity.claims import IssuerPolicy
from extproc.limits.limit import Limit, Priority
from extproc.redaction.profile import Profile
from extproc.surfaces import Surface
from extproc.values import frozen


class Dialect(StrEnum):
    """What a backend speaks."""

    OPENAI = "openai"
    AZURE = "azure-openai"
    ANTHROPIC = "anthropic"
    GEMINI = "gemini"

    __hash__ = str.__hash__  # Enum's own is a function of Python, called for every look into a table


@frozen
class Backend:
    """One provider endpoint. `prefix` comes before every path, without a trailing slash.

    `version` follows it at OpenAI-compatible APIs; it is empty where the URL names another base than /v1.
    """

    name: str
    dialect: Dialect
    prefix: str = ""
    api_version: str | None = None
    version: str = "/v1"
    wants_identity: bool = False  # is told who calls, in a signed header
    cap_field: str = "max_tokens"  # in which chat completions bound their output there
    provider: str | None = None  # whose it is; None: nobody said
    region: str | None = None  # where it is; None: nobody said
    surfaces: frozenset[Surface] | None = None  # those of its dialect that it serves; None: all

    def reads_cap(self, names: Collection[str]) -> bool:
        """Whether it reads a cap on the output in one of these fields. Those that know the newer name know both."""
        return self.cap_field != "max_tokens" or set(names) != {"max_completion_tokens"}


SERVICE_TIERS = ("batch", "fast", "flex", "performance", "priority", "reserved", "scale")
"""What providers call the ways to be served that have prices of their own."""
OTHER_TIER = "other"
"""One that we do not know."""
UNPRICED_MODEL = "model"
"""What has no price, where that is all of a call."""


@frozen
class Price:
    """What a deployed model costs, in nano-units (billionths) of the gateway's currency. None: as `input`, `output`.

    Token prices are per million tokens, so that they are whole numbers.
    """

    input: int = 0
    output: int = 0
    cached_input: int | None = None
    cache_write: int | None = None
    audio_input: int | None = None
    audio_output: int | None = None
    reasoning: int | None = None
    request: int = 0  # each
    minute: int = 0  # of audio
    image: int = 0  # each one made
    hosted_call: int = 0  # each of a tool that the provider runs, such as a search of the web
    version: str = ""
    cache_write_1h: int | None = None  # what is to stay in the cache for an hour; None: as `cache_write`
    image_input: int | None = None
    image_output: int | None = None
    since: int = 0  # in force from then on, in milliseconds of Unix time
    above: "tuple[tuple[int, Price], ...]" = ()  # of calls with more tokens of input than that, rising
    tiers: "tuple[tuple[str, Price], ...]" = ()  # of calls that were served in one of SERVICE_TIERS


@frozen
class Target:
    """A backend that can serve a model, under the name that the model has there."""

    backend: Backend
    model: str
    weight: int = 1
    price: Price | None = None  # the deployed model's own, or else the public model's; None: unpriced
    versions: tuple[Price, ...] = ()  # in place of `price` where that changes with time, rising by `since`

    def at(self, now: int) -> "Target":
        """With the price in force at a time, in milliseconds of Unix time; before the first version it is unpriced."""
        if not self.versions:
            return self
        price = next((price for price in reversed(self.versions) if price.since <= now), None)
        return Target(self.backend, self.model, self.weight, price)


@frozen
class Bounds:
    """The most that a call of a model can be: what a hold is made from."""

    max_output: int | None = None  # tokens of one choice; None: not known, a cap is written where a limit needs one
    floor: int = 1_024  # no cap is lowered below so many tokens
    context: int | None = None  # tokens of input and output together
    hidden_output: bool = False  # makes output that no stream shows, such as reasoning: never leased
    family: str = "openai"  # of tokenizers, see metering.bounds
    tokenizer: str | None = None  # path of a tokenizer file, for exact counts
    image_tokens: int = 1_700  # of one image of the input
    max_seconds: int | None = None  # the longest audio that it takes; None: not known


class Modality(StrEnum):
    """What a model is for."""

    CHAT = "chat"
    EMBEDDINGS = "embeddings"
    TRANSCRIPTION = "transcription"
    SPEECH = "speech"
    IMAGE = "image"
    MODERATION = "moderation"
    RERANK = "rerank"

    @property
    def surfaces(self) -> frozenset[Surface]:
        """Where such a model can be called."""
        return _SURFACES[self]


_SURFACES = {
    Modality.CHAT: frozenset(
        {
            Surface.CHAT,
            Surface.COMPLETIONS,
            Surface.RESPONSES,
            Surface.RESPONSE_ITEM,
            Surface.MESSAGES,
            Surface.COUNT_TOKENS,
        }
    ),
    Modality.EMBEDDINGS: frozenset({Surface.EMBEDDINGS}),
    Modality.TRANSCRIPTION: frozenset({Surface.TRANSCRIPTIONS, Surface.TRANSLATIONS}),
    Modality.SPEECH: frozenset({Surface.SPEECH}),
    Modality.IMAGE: frozenset({Surface.IMAGES, Surface.IMAGE_EDITS}),
    Modality.MODERATION: frozenset({Surface.MODERATIONS}),
    Modality.RERANK: frozenset({Surface.RERANK}),
}


@frozen
class Retirement:
    """Of a name that still works. Unix times in seconds."""

    since: int  # it is not to be used any more
    sunset: int | None = None  # it is expected to stop working; None: nobody said when


class Binding(StrEnum):
    """What calls have in common that go to one backend as long as it serves."""

    TEAM = "team"
    HEADER = "header"
    COOKIE = "cookie"
    PROMPT = "prompt"  # how it begins


@frozen
class Affinity:
    """By what a call is bound to one of the backends of a group. `name`: of the header, in lower case, or cookie."""

    by: Binding
    name: str = ""


class Order(StrEnum):
    """In which order the targets of a group are tried."""

    WEIGHTS = "weights"
    LEAST_LATENCY = "least_latency"
    LEAST_BUSY = "least_busy"


class Cause(StrEnum):
    """Why another model serves a call than the one that it asked for."""

    CONTEXT_WINDOW = "context_window"  # its input is longer than the model takes
    CONTENT_FILTER = "content_filter"  # of the provider


@frozen
class Shadow:
    """A target that gets copies of a share of the calls, and whose answers nobody gets."""

    target: Target
    share: float


@frozen
class PublicModel:
    """A model as callers name it, with its targets in groups of falling preference."""

    name: str
    groups: tuple[tuple[Target, ...], ...]
    owner: str = field(default="", kw_only=True)  # the team that brings it, for nobody else; empty: the gateway
    tiers: frozenset[str] | None = None  # teams of these tiers may use it; None: every caller
    bounds: Bounds = Bounds()
    modality: Modality | None = None  # None: whatever its backends serve
    retired: Mapping[str, Retirement] = field(default_factory=dict)  # by those of its names that are
    affinity: Affinity | None = None  # None: every call is drawn anew
    first_byte: float | None = None  # seconds that a backend may take until its answer begins; None: as long as a call
    stall: float | None = None  # seconds for which it may be silent in the middle of a stream; None: Catalogue.silence
    order: Order = Order.WEIGHTS  # inside a group, of calls that are not bound
    shadow: Shadow | None = None
    fallback: Mapping[Cause, str] = field(default_factory=dict)  # public names of the models that serve instead
    version: str = field(default="", kw_only=True)  # of what serves it: another where its answers may be others

    @property
    def surfaces(self) -> frozenset[Surface] | None:
        """Where it can be called; None: wherever its backends can be."""
        return None if self.modality is None else self.modality.surfaces


Network = IPv4Network | IPv6Network
Address = IPv4Address | IPv6Address


DEFAULT_POLICY = "default"
"""The name of the policy that holds for everybody who has no other."""


@frozen
class Team:
    """Who shares models, limits and a bill. `models` None means every model that is open to its tier."""

    name: str
    area: str
    tier: str
    models: frozenset[str] | None = None
    networks: tuple[Network, ...] = ()  # from where its members may call; empty: from anywhere
    tags: Mapping[str, str] = field(default_factory=dict)
    users: Mapping[str, str] = field(default_factory=dict)  # user to role
    accounts: frozenset[str] = frozenset()  # names of service accounts
    limits: tuple[Limit, ...] = ()
    redaction: str = DEFAULT_POLICY  # the name of its policy
    guardrails: str = DEFAULT_POLICY  # the name of its policy
    providers: frozenset[str] | None = None  # whose backends its calls may go to; None: anybody's
    regions: frozenset[str] | None = None  # where its calls may go; None: anywhere

    def admits(self, backend: Backend) -> bool:
        """Whether its calls may go there. A backend of which nobody said whose or where it is fits no list."""
        return (self.providers is None or backend.provider in self.providers) and (
            self.regions is None or backend.region in self.regions
        )


class CredentialKind(StrEnum):
    """What a caller showed."""

    KEY = "key"
    TOKEN = "token"  # noqa: S105 - a kind, not a secret


@frozen
class Caller:
    """Who calls: made by `stages.identify` only, so that whatever takes one is behind the check.

    `key_id` is the id of the key, or a stable pseudonym of a token's bearer in its team. `lineage` is shared by
    a key and its successors: who owns the stored state of calls.
    """

    key_id: str
    name: str
    models: frozenset[str] | None = None  # of the key alone; None: all
    kind: CredentialKind = CredentialKind.KEY
    issuer: str | None = None  # of a token
    user: str | None = None
    service_account: str | None = None
    team: Team | None = None
    roles: frozenset[str] = frozenset()
    environment: str | None = None
    expires: float | None = None  # Unix time
    surfaces: frozenset[str] | None = None  # None: all
    networks: tuple[Network, ...] = ()  # of the key alone; empty: anywhere
    lineage: str = ""
    limits: tuple[Limit, ...] = ()  # of the key alone
    priority: Priority = Priority.HIGH  # the highest that it may ask for

    @property
    def owner(self) -> str:
        return self.lineage or self.key_id

    def may_use(self, model: "PublicModel") -> bool:
        """Whether the key, the team and the team's tier all allow it."""
        if self.models is not None and model.name not in self.models:
            return False
        team = self.team
        if model.owner:
            return team is not None and team.name == model.owner
        if model.tiers is not None and (team is None or team.tier not in model.tiers):
            return False
        return team is None or team.models is None or model.name in team.models


@frozen
class Capacity:
    """What a worker takes on: calls that may be open in it, and seconds that one may wait until it is taken up."""

    calls: int = 5000
    wait: float = 0.3


@dataclass(frozen=True, slots=True)
class Catalogue:
    """Everything that a call's configuration decides; swapped whole, never changed."""

    models: Mapping[str, PublicModel]  # by public name and by alias
    backends: Mapping[str, Backend]
    defaults: Mapping[Surface, str]
    answer_cap: int  # bytes of a JSON answer that are read whole
    upload_cap: int = 32 * 2**20  # bytes of the largest multipart body
    issuers: Mapping[str, IssuerPolicy] = field(default_factory=dict)  # of tokens
    accepted: Mapping[Surface, str] = field(default_factory=dict)  # surfaces that take one kind of credential only
    limits: tuple[Limit, ...] = ()  # the gateway's own
    currency: str = "USD"
    priced_only: bool = False  # targets of which nobody knows what they cost serve nothing
    low_prefix: str = ""  # a path prefix for calls of the low route; empty: none
    tells_priority: bool = False  # on that route the answer tells its class and the tokens left
    redaction: Mapping[str, Profile] = field(default_factory=dict)  # policies by name
    guardrails: Mapping[str, Guardrails] = field(default_factory=dict)  # policies by name
    attempts: int = 5  # the most backends that a call is tried at
    retry_share: float = 0.2  # of all calls, the most that are tried again after failures
    tells_backend: bool = False  # answers say who served, and at which attempt
    logs_calls: bool = False  # Envoy logs each call, with facts of ours
    tells_times: bool = False  # answers say how long each stage took
    genai: str = "1.41"  # of the conventions for names in telemetry
    silence: float = 270.0  # seconds for which a backend may be silent in the middle of a stream that can be ended
    owned: Mapping[str, Mapping[str, PublicModel]] = field(default_factory=dict)  # models that teams bring, by team
    binding_headers: frozenset[str] = frozenset()  # those that bind calls of some model to a backend
    sessions: tuple[str, ...] = ()  # headers that name the session of a call, in lower case, the surest first
    tags: tuple[str, ...] = ()  # that callers may give their calls
    revision: str = ""  # of the configuration
    cache: CacheRules = field(default_factory=CacheRules)
    capacity: Capacity = field(default_factory=Capacity)

    def named(self, name: str, team: Team | None) -> PublicModel | None:
        """The model that a caller of a team means by a name: one that the team brings comes first."""
        return self._owned(team).get(name) or self.models.get(name)

    def listed(self, team: Team | None = None) -> list[PublicModel]:
        """What callers of a team can name, once each, in the order of the configuration, without aliases."""
        own = self._owned(team)
        return list({**{model.name: model for model in self.models.values()}, **own}.values())

    def _owned(self, team: Team | None) -> Mapping[str, PublicModel]:
        return {} if team is None else self.owned.get(team.name, {})


@frozen
class Cap:
    """The bound that a request sets on its output, in tokens of one choice.

    `spans` are the values of the fields that say it, a null's too; `field` is what a new one is called, None on a
    surface that has none (on that of chat completions the backend's `cap_field` is written instead).
    """

    tokens: int | None = None
    spans: tuple[Span, ...] = ()
    field: str | None = None
    names: tuple[str, ...] = ()  # of the fields at `spans`
    least: int = 1  # the smallest that the surface takes


@frozen
class InputSize:
    """The input of a request, so that the most tokens it can be are known once its model is. See metering.bounds."""

    text: str | None = field(default=None, repr=False)  # joined, only where a tokenizer file may count it
    # Of all text, as metering.bounds.features adds them up; empty where the text is kept, which is short: not every
    # call has a limit that wants to know.
    features: tuple[int, ...] = ()
    marks: int = 0  # tokens around messages and parts, and those that came as tokens
    tools: int = 0
    images: int = 0
    small_images: int = 0  # of low detail
    audio_bytes: int = 0
    file_bytes: int = 0
    unseen: bool = False  # the provider adds input that the request only names, such as a stored conversation
    coded: bool = False  # some of it came as numbers of tokens, which nobody here can read


@frozen
class StateReference:
    """Server-side state that a call leans on: only the backend that made it can serve the call."""

    ids: tuple[str, ...] = ()  # must be known and the caller's own
    sealed: tuple[str, ...] = ()  # encrypted content: pins when known, passes when not


@frozen
class Talk:
    """What a request tells of the conversation that it is part of. None of it has been looked at."""

    name: str | None = field(default=None, repr=False)  # what the client calls its session
    user: str | None = field(default=None, repr=False)  # for whom it says to call
    opening: str = field(default="", repr=False)  # how it begins: the user's first words; empty: nobody can tell
    turn: int | None = None  # how often the user has spoken
    metadata: Mapping[str, object] = field(default_factory=dict, repr=False)


NO_TALK = Talk()


@frozen
class Prompt:
    """A request as its dialect read it."""

    body: bytes
    model: str | None
    model_span: Span | None  # the value with its quotes, or of a JSON null
    stream: bool = False
    usage_edit: Edit | None = None  # makes the provider report usage on a stream
    estimated_input: int = 0  # tokens, the mean: for reports
    input: InputSize = InputSize()  # for holds
    cap: Cap = Cap()
    choices: int = 1  # answers asked for, each of which may be as long as the cap
    images: int = 0  # asked for
    hosted_calls: int = 0  # of tools that the provider runs, at most: as the request says, or assumed
    searches: bool = False  # a chat for which the provider searches the web: once, and no answer tells it
    state: StateReference | None = None
    background: bool = False
    json_output: bool = False  # the texts of the answer are JSON
    talk: Talk = NO_TALK
    aside: int = 0  # nano-units that questions to services about it cost
    service_tiers: frozenset[str] | None = None  # in which it may be served beside the usual one; None: in any
    # The body as it was parsed, where it is plain (cache.plain) and comes out of that again byte for byte; not to be
    # changed. None: nobody has seen to that.
    plain: Mapping[str, object] | None = field(default=None, repr=False, compare=False)


@frozen
class CleanPrompt:
    """A prompt after redaction: the only thing that a cache key or a chain is made from.

    `edits` are what redaction changes in its body. `questions` are to the service that judges its texts, redacted.
    """

    prompt: Prompt
    edits: tuple[Edit, ...] = ()
    questions: tuple[Request, ...] = field(default=(), repr=False)


@frozen
class Chain:
    """The targets to try, in order, one per attempt; never empty."""

    model: PublicModel
    targets: tuple[Target, ...]
    probe: str | None = None  # the backend that this call alone may try now, to see whether it is well again


@frozen
class Demand:
    """What a call uses, at most or in fact."""

    requests: int = 1
    input: int = 0  # tokens
    output: int = 0  # tokens, of all choices
    money: int = 0  # nano-units


class UsageSource(StrEnum):
    REPORTED = "reported"
    ESTIMATED = "estimated"
    NONE = "none"

    __hash__ = str.__hash__  # Enum's own is a function of Python, called for every look into a table


@dataclass(slots=True)
class Usage:
    """Tokens by kind. Cached, audio, image and cache-write tokens are part of input; reasoning, audio, image of output.

    `other_input` and `other_output` are of kinds that we do not know.
    """

    input: int = 0
    output: int = 0
    cached_input: int = 0
    cache_write: int = 0
    audio_input: int = 0
    audio_output: int = 0
    reasoning: int = 0
    other_input: int = 0
    other_output: int = 0
    seconds: float = 0.0  # of audio, where the provider bills time
    images: int = 0  # made
    hosted_calls: int = 0  # of tools that the provider runs
    source: UsageSource = UsageSource.NONE
    image_input: int = 0
    image_output: int = 0
    cache_write_1h: int = 0  # of `cache_write`, what is to stay for an hour
    tier: str = ""  # in which the answer says that it was served, of SERVICE_TIERS or OTHER_TIER; empty: the usual one


class Ending(StrEnum):
    """How the exchange ended, as far as the stream of ext_proc messages shows."""

    COMPLETE = "complete"  # the whole answer passed
    REFUSED = "refused"  # the gateway said no
    ANSWERED = "answered"  # the gateway answered by itself
    CACHED = "cached"  # the answer to another call served
    CUT = "cut"  # client left or upstream broke: Envoy's listener record tells which
    FAILED = "failed"  # the provider's final answer was an error
    LIMITED = "limited"  # the gateway ended the stream: there was nothing left to pay for more
    BLOCKED = "blocked"  # the gateway ended the answer: a policy does not let it say more
    STALLED = "stalled"  # the gateway ended the stream: the backend had fallen silent

    __hash__ = str.__hash__  # Enum's own is a function of Python, called for every look into a table


@dataclass(slots=True)
class Outcome:
    """The one account of a call; never a word of its text. Limits are named by their titles."""

    ending: Ending
    status: int
    usage: Usage = field(default_factory=Usage)
    refusal: str | None = None
    backend: str | None = None
    limit: str | None = None  # that refused
    shadows: tuple[str, ...] = ()  # limits that would have refused if they were enforced
    warnings: tuple[tuple[str, int], ...] = ()  # soft thresholds that it crossed: of which limit, percent
    held: Demand | None = None  # what was reserved; None where nothing was
    cost: int | None = None  # nano-units; None where it has no price
    overspent: Mapping[str, int] = field(default_factory=dict)  # tokens above what was held, by cause
    overspent_money: int = 0  # nano-units above what was held
    deployed: str | None = None  # the model's name at the backend that served
    price_version: str | None = None  # of the prices that its cost is made from
    unpriced: str | None = None  # what nobody knows the price of: UNPRICED_MODEL, or the service tier that it was
    stop_reason: str | None = None  # why the model ended its answer, one of stops.STOPS
    tool_calls: int | None = None  # of tools that the client runs; None where nobody could tell
    output_cap: int | None = None  # tokens, where the gateway wrote or lowered it
