"""The values that travel through a call. Plain data: no I/O, no clock, no provider's names."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network

from extproc.identity.claims import IssuerPolicy
from extproc.surfaces import Surface


class Dialect(StrEnum):
    """What a backend speaks."""

    OPENAI = "openai"
    AZURE = "azure-openai"
    ANTHROPIC = "anthropic"


@dataclass(frozen=True, slots=True)
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


@dataclass(frozen=True, slots=True)
class Target:
    """A backend that can serve a model, under the name that the model has there."""

    backend: Backend
    model: str
    weight: int = 1


@dataclass(frozen=True, slots=True)
class PublicModel:
    """A model as callers name it, with its targets in groups of falling preference."""

    name: str
    groups: tuple[tuple[Target, ...], ...]
    tiers: frozenset[str] | None = None  # teams of these tiers may use it; None: every caller


Network = IPv4Network | IPv6Network
Address = IPv4Address | IPv6Address


@dataclass(frozen=True, slots=True)
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


class CredentialKind(StrEnum):
    """What a caller showed."""

    KEY = "key"
    TOKEN = "token"  # noqa: S105 - a kind, not a secret


@dataclass(frozen=True, slots=True)
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

    @property
    def owner(self) -> str:
        return self.lineage or self.key_id

    def may_use(self, model: "PublicModel") -> bool:
        """Whether the key, the team and the team's tier all allow it."""
        if self.models is not None and model.name not in self.models:
            return False
        team = self.team
        if model.tiers is not None and (team is None or team.tier not in model.tiers):
            return False
        return team is None or team.models is None or model.name in team.models


@dataclass(frozen=True, slots=True)
class Catalogue:
    """Everything that a call's configuration decides; swapped whole, never changed."""

    models: Mapping[str, PublicModel]  # by public name and by alias
    backends: Mapping[str, Backend]
    defaults: Mapping[Surface, str]
    answer_cap: int  # bytes of a JSON answer that are read whole
    issuers: Mapping[str, IssuerPolicy] = field(default_factory=dict)  # of tokens
    accepted: Mapping[Surface, str] = field(default_factory=dict)  # surfaces that take one kind of credential only

    def listed(self) -> list[PublicModel]:
        """The models once each, in the order of the configuration, without their aliases."""
        return list({model.name: model for model in self.models.values()}.values())


@dataclass(frozen=True, slots=True)
class Span:
    """A half-open range of bytes in a body."""

    start: int
    end: int


@dataclass(frozen=True, slots=True)
class Edit:
    """Bytes to stand in place of a span; an empty span inserts."""

    span: Span
    text: bytes


@dataclass(frozen=True, slots=True)
class StateReference:
    """Server-side state that a call leans on: only the backend that made it can serve the call."""

    ids: tuple[str, ...] = ()  # must be known and the caller's own
    sealed: tuple[str, ...] = ()  # encrypted content: pins when known, passes when not


@dataclass(frozen=True, slots=True)
class Prompt:
    """A request as its dialect read it."""

    body: bytes
    model: str | None
    model_span: Span | None  # the value with its quotes, or of a JSON null
    stream: bool = False
    usage_edit: Edit | None = None  # makes the provider report usage on a stream
    estimated_input: int = 0  # tokens
    state: StateReference | None = None
    background: bool = False


@dataclass(frozen=True, slots=True)
class CleanPrompt:
    """A prompt after redaction: the only thing that a cache key or a chain is made from."""

    prompt: Prompt
    findings: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Chain:
    """The targets to try, in order, one per attempt; never empty."""

    model: PublicModel
    targets: tuple[Target, ...]


@dataclass(frozen=True, slots=True)
class Hold:
    """What a call has reserved, to be settled or to expire."""

    id: str


class UsageSource(StrEnum):
    REPORTED = "reported"
    ESTIMATED = "estimated"
    NONE = "none"


@dataclass(slots=True)
class Usage:
    """Tokens by kind. Cached, audio and cache-write tokens are part of input; reasoning and audio of output."""

    input: int = 0
    output: int = 0
    cached_input: int = 0
    cache_write: int = 0
    audio_input: int = 0
    audio_output: int = 0
    reasoning: int = 0
    seconds: float = 0.0  # of audio, where the provider bills time
    source: UsageSource = UsageSource.NONE


class Ending(StrEnum):
    """How the exchange ended, as far as the stream of ext_proc messages shows."""

    COMPLETE = "complete"  # the whole answer passed
    REFUSED = "refused"  # the gateway said no
    ANSWERED = "answered"  # the gateway answered by itself
    CUT = "cut"  # client left or upstream broke: Envoy's listener record tells which
    FAILED = "failed"  # the provider's final answer was an error


@dataclass(slots=True)
class Outcome:
    """The one account of a call; never a word of its text."""

    ending: Ending
    status: int
    usage: Usage = field(default_factory=Usage)
    refusal: str | None = None
    backend: str | None = None
