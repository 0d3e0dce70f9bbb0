"""The configuration tree, exactly as a user writes it. Strict: an unknown key is an error.

A field enters this schema together with the code that carries it out; until then it is refused,
never silently ignored.
"""

from collections.abc import Iterable, Iterator, Mapping
from datetime import timedelta
from pathlib import Path
from typing import Literal, Self

from pydantic import ByteSize, Field, model_validator
from pydantic.json_schema import SkipJsonSchema

from extproc.config.backends import Backend, Cooling, cooling, cooling_problems
from extproc.config.byob import Byob, TeamBackends, own_name, owner_of, reserved
from extproc.config.cache import Cache, longest_wait
from extproc.config.fields import Duration, ModelName, Name, Pause, Port, Size, Strict
from extproc.config.guardrails import Moderation
from extproc.config.identity import Area, Identity
from extproc.config.ledger import Ledger
from extproc.config.limits import GatewayLimit, Policies
from extproc.config.listener import Listener
from extproc.config.models import Model, fallback_problems
from extproc.config.overload import Overload
from extproc.config.problems import did_you_mean
from extproc.config.services import EMBEDDING, MODERATING, Service
from extproc.config.stores import MEMORY, Stores
from extproc.config.telemetry import Telemetry

DefaultableSurface = Literal["speech", "translations", "transcriptions", "image_edits", "moderations", "rerank"]


class Metrics(Strict):
    """Prometheus text at `/metrics`, on a port of its own."""

    address: str = Field(default="127.0.0.1", description="IP address to listen on")
    port: Port = Field(default=9464, description="TCP port")


class Limits(Strict):
    """Sizes above which a call is refused (413) or no longer held in memory."""

    json_request: Size = Field(default=ByteSize(8 * 2**20), ge=1024, le=64 * 2**20, description="largest JSON body")
    multipart_request: Size = Field(
        default=ByteSize(32 * 2**20), ge=1024, le=512 * 2**20, description="largest multipart body (audio, images)"
    )
    json_answer: Size = Field(
        default=ByteSize(8 * 2**20), ge=1024, le=64 * 2**20, description="largest JSON answer that is read whole"
    )
    envoy_heap: Size = Field(
        default=ByteSize(2 * 2**30),
        ge=64 * 2**20,
        description="memory that Envoy may hold; near it, it refuses new calls. In a container some nine tenths of its "
        "limit, or the system ends it first",
    )


class Timeouts(Strict):
    """How long to wait. Calls to language models are long; a stuck one must still end."""

    connect: Duration = Field(default=timedelta(seconds=2), description="TCP and TLS connect to a backend")
    call: Duration = Field(default=timedelta(minutes=10), description="whole call, streaming included")
    idle: Duration = Field(default=timedelta(minutes=5), description="silence on a stream before it is cut")
    policy: Duration = Field(default=timedelta(seconds=2), description="one decision of a worker")
    policy_longest: Duration = Field(
        default=timedelta(seconds=30), le=timedelta(hours=1), description="one decision that waits for a service"
    )
    notice: Pause | None = Field(
        default=None,
        description="how long a gateway that shall end is unready and takes new calls all the same, so that load "
        "balancers notice; absent: 5s, and none where the listener's address is loopback",
    )
    drain: Duration = Field(default=timedelta(seconds=30), description="live calls may end after that and SIGTERM")


class Keys(Strict):
    """Keys that need no database."""

    quickstart: bool = Field(
        default=False, description="accept the published quickstart key; refused unless the listener is loopback"
    )


class Routing(Strict):
    """How calls find their backend."""

    attempts: int = Field(default=5, ge=1, le=20, description="the most backends that one call is tried at")
    retry_share: float = Field(
        default=0.2,
        ge=0,
        le=1,
        description="while more than this share of all calls, and 10 a second, is tried again after failures, calls "
        "are tried once; 1: no bound",
    )
    tell_backend: bool = Field(
        default=False, description="answers say in x-sluice-backend who served, and in x-sluice-attempts at which try"
    )
    cooling: Cooling = Field(default=Cooling(), description="how backends are spared when they refuse or fail")


class FakeBackend(Strict):
    """`sluice up` starts the deterministic fake provider beside the gateway."""

    port: Port = Field(description="TCP port on 127.0.0.1")


class Gateway(Strict):
    """The whole configuration."""

    listener: Listener = Field(default=Listener(), description="where clients connect")
    metrics: Metrics = Field(default=Metrics(), description="Prometheus endpoint")
    workers: int = Field(default=1, ge=1, le=64, description="policy worker processes")
    state_dir: Path = Field(default=Path("var"), description="sockets, rendered Envoy files, the SQLite file")
    limits: Limits = Field(default=Limits(), description="size caps")
    timeouts: Timeouts = Field(default=Timeouts(), description="time caps")
    overload: Overload = Field(default=Overload(), description="when new calls are refused, because too many came")
    stores: Stores = Field(default=Stores(), description="where state lives")
    ledger: Ledger = Field(default=Ledger(), description="what every call used and cost")
    telemetry: Telemetry = Field(default=Telemetry(), description="traces, logs and alerts")
    keys: Keys = Field(default=Keys(), description="keys that need no database")
    identity: Identity = Field(default=Identity(), description="tokens, and what holds when a store is down")
    teams: Path = Field(default=Path("teams"), description="folder of the team files, for `sluice plan` and `apply`")
    areas: dict[Name, Area] = Field(
        default_factory=dict, description="areas that team files may name; empty: any name will do"
    )
    policies: Policies = Field(default=Policies(), description="what callers may use")
    fake_backend: FakeBackend | None = Field(default=None, description="start the fake provider too")
    backends: dict[Name, Backend] = Field(min_length=1, description="provider endpoints by name")
    services: dict[Name, Service] = Field(
        default_factory=dict, description="services that policies ask, such as one that moderates, by name"
    )
    models: dict[ModelName, Model] = Field(min_length=1, description="models by public name")
    routing: Routing = Field(default=Routing(), description="how calls find their backend")
    cache: Cache = Field(default=Cache(), description="answers that are given again")
    default_models: dict[DefaultableSurface, ModelName] = Field(
        default_factory=dict, description="model for a surface whose calls may come without one"
    )
    byob: Byob | None = Field(default=None, description="backends that teams bring; absent: none may")
    team_backends: SkipJsonSchema[dict[Name, TeamBackends]] = Field(
        default_factory=dict, description="by teams: filled from the database, and never written by anybody"
    )

    @model_validator(mode="after")
    def _passwords_at_hand(self) -> Self:
        """From here on the URLs of stores say where passwords are, for whoever opens one."""
        self.__dict__["stores"] = self.stores.with_passwords(self.state_dir)
        return self

    @model_validator(mode="after")
    def _references_exist(self) -> Self:
        problems = [
            *self._name_problems(),
            *self._target_problems(),
            *fallback_problems(self.models, self.public_names()),
            *self._shadow_problems(),
            *self._cooling_problems(),
            *self._stall_problems(),
            *self._identity_problems(),
            *self._limit_problems(),
            *self._counting_problems(),
            *self._service_problems(),
            *self._cache_problems(),
            *(reserved(self, self.byob) if self.byob is not None else ()),
        ]
        if problems:
            raise ValueError("\n".join(problems))  # one problem a line, each begins with its field: see the loader
        return self

    def _identity_problems(self) -> Iterator[str]:
        seen: dict[str, str] = {}
        for name, issuer in self.identity.issuers.items():
            if issuer.issuer in seen:  # Envoy finds one provider by the token's issuer
                yield f"identity.issuers.{name}.issuer: is that of identity.issuers.{seen[issuer.issuer]} already"
            seen[issuer.issuer] = name
        for name, backend in self.backends.items():
            if backend.identity_header and self.identity.signing_key is None:
                yield f"backends.{name}.identity_header: needs `identity.signing_key`"
            if backend.identity_header and backend.is_a_providers:
                yield f"backends.{name}.identity_header: is for self-hosted backends, and this one is a provider's"

    def _name_problems(self) -> Iterator[str]:
        public: dict[str, str] = {}
        for name, model in self.models.items():
            for spelled in model.names(name):
                if spelled in public:
                    yield f"models.{name}: the name {spelled!r} is already used by models.{public[spelled]}"
                public[spelled] = name
        for surface, name in self.default_models.items():
            if name not in public:
                yield f"default_models.{surface}: there is no model {name!r} under `models`"
            elif not self.models[public[name]].serves(surface):
                yield f"default_models.{surface}: the model {name!r} is for something else, as its `modality` says"

    def _target_problems(self) -> Iterator[str]:
        for name, model in self.models.items():
            for number, group in enumerate(model.targets):
                where = f"models.{name}.targets[{number}]"
                if sum(target.weight for target in group) == 0:
                    yield f"{where}: a group needs at least one target with a weight above 0"
                for place, target in enumerate(group):
                    if target.backend not in self.backends:
                        yield f"{where}[{place}].backend: there is no backend {target.backend!r} under `backends`"

    def _shadow_problems(self) -> Iterator[str]:
        for name, model in self.models.items():
            shadow, where = model.shadow, f"models.{name}.shadow"
            if shadow is None:
                continue
            if shadow.backend not in self.backends:
                yield f"{where}.backend: there is no backend {shadow.backend!r} under `backends`"
            elif model.modality == "embeddings" and self.backends[shadow.backend].dialect == "anthropic":
                yield f"{where}.backend: has no embeddings"
            if model.modality not in (None, "chat", "embeddings"):
                yield f"{where}: is for chats and embeddings, and this model is for something else"
            served = {(target.backend, target.model or name) for group in model.targets for target in group}
            if (shadow.backend, shadow.model or name) in served:
                yield f"{where}: is a target of the model, which gets its calls anyway"

    def _cooling_problems(self) -> Iterator[str]:
        """Those of the usual ones are told once."""
        usual = list(cooling_problems("routing.cooling", cooling(self.routing.cooling)))
        yield from usual
        for name, backend in self.backends.items():
            if backend.cooling is not None and not usual:
                yield from cooling_problems(f"backends.{name}.cooling", cooling(self.routing.cooling, backend.cooling))

    def _stall_problems(self) -> Iterator[str]:
        for name, model in self.models.items():
            if model.stall is not None and model.stall >= min(self.timeouts.idle, self.timeouts.call):
                yield f"models.{name}.stall: must be shorter than `timeouts.idle` and `timeouts.call`"

    def _limit_problems(self) -> Iterator[str]:
        public = self.public_names()
        for name, limit in self.policies.limits.items():
            where, only = f"policies.limits.{name}", limit.only
            yield from _unknown(f"{where}.only.models", "model", only.models or (), public)
            ours = [name for name in only.backends or () if self.byob is None or not owner_of(name)]
            yield from _unknown(f"{where}.only.backends", "backend", ours, self.backends)
            if self.areas:
                yield from _unknown(f"{where}.only.areas", "area", only.areas or (), self.areas)
            if only.low_route and self.listener.low_priority_prefix is None:
                yield f"{where}.only.low_route: needs `listener.low_priority_prefix`"
            yield from self._fallback_problems(f"{where}.fallback", limit, public)

    @staticmethod
    def _fallback_problems(where: str, limit: GatewayLimit, public: Mapping[str, str]) -> Iterator[str]:
        if limit.fallback is None:
            return
        if limit.fallback not in public:
            yield from _unknown(where, "model", (limit.fallback,), public)
        elif public[limit.fallback] in {public.get(model) for model in limit.only.models or ()}:
            yield f"{where}: is a model that the limit itself holds for"

    def _counting_problems(self) -> Iterator[str]:
        if self.limits_refused and any(limit.mode != "off" for limit in self.policies.limits.values()):
            yield f"stores.counters: {self.limits_refused}"

    def _service_problems(self) -> Iterator[str]:
        for name, redaction in self.policies.redaction.items():
            where = f"policies.redaction.{name}.names"
            if (names := redaction.names) is not None:
                yield from self._asked(where, names.service, ("presidio",), "finds no names")
                yield from self._wait_problems(where, names.timeout)
        for name, guardrails in self.policies.guardrails.items():
            where = f"policies.guardrails.{name}.moderation"
            if (moderation := guardrails.moderation) is not None:
                yield from self._asked(where, moderation.service, MODERATING, "does not moderate")
                yield from self._wait_problems(where, moderation.timeout)
                yield from self._moderation_problems(where, moderation)

    def _asked(self, where: str, service: str | None, apis: Iterable[str], lack: str) -> Iterator[str]:
        yield from _unknown(f"{where}.service", "service", filter(None, (service,)), self.services)
        if service in self.services and self.services[service].api not in apis:
            yield f"{where}.service: the service {service!r} {lack}"

    def _wait_problems(self, where: str, wait: timedelta) -> Iterator[str]:
        if wait > self.timeouts.policy_longest:
            yield f"{where}.timeout: is longer than `timeouts.policy_longest`"

    def _moderation_problems(self, where: str, given: Moderation) -> Iterator[str]:
        service = self.services.get(given.service)
        is_openai = service is not None and service.api == "openai-moderation"
        if service is not None and not is_openai and given.model is not None:
            yield f"{where}.model: is for services with `api: openai-moderation`"
        for category, threshold in given.thresholds.items():
            if is_openai and threshold > 1:
                yield f"{where}.thresholds.{category}: must be at most 1, as OpenAI's scores are"

    def _cache_problems(self) -> Iterator[str]:
        cache, semantic = self.cache, self.cache.semantic
        if cache.is_on and cache.key is None and self.stores.answers_at != MEMORY:
            yield "cache: needs `key` where answers are kept in Redis: who can write there could make up any"
        longest = longest_wait(self.timeouts.policy_longest, self.timeouts.idle)
        if cache.wait is not None and cache.wait > longest:
            told = "two thirds of `timeouts.policy_longest` or half of `timeouts.idle`"
            yield f"cache.wait: must be at most {longest // timedelta(milliseconds=100) / 10:g}s, {told}"
        for number, rule in enumerate(cache.rules):
            yield from _unknown(f"cache.rules[{number}].models", "model", rule.models or (), self.public_names())
        yield from self._asked("cache.semantic", semantic.service, EMBEDDING, "does not embed")
        if semantic.has_source:
            yield from self._wait_problems("cache.semantic", semantic.timeout)

    @property
    def limits_refused(self) -> str:
        """Why no limit can be kept with these settings; empty where they can be."""
        if self.workers == 1 or self.stores.counters != MEMORY:
            return ""
        return (
            f"each of the {self.workers} workers would count by itself, and a limit would hold for each of them alone; "
            "name a Redis (redis://host:6379), or set `workers: 1`"
        )

    def all_backends(self) -> dict[str, Backend]:
        """Those of the configuration and those of teams, by the names that they have in the gateway."""
        own = {
            own_name(team, name): backend
            for team, brought in self.team_backends.items()
            for name, backend in brought.backends.items()
        }
        return {**self.backends, **own}

    def public_names(self) -> dict[str, str]:
        """The public name of a model, by every name that it goes by."""
        return {spelled: name for name, model in self.models.items() for spelled in model.names(name)}


def _unknown(where: str, kind: str, written: Iterable[str], known: Iterable[str]) -> Iterator[str]:
    """A problem for each name that is not known."""
    known = set(known)
    for name in written:
        if name not in known:
            yield f"{where}: there is no {kind} {name!r} under `{kind}s`{did_you_mean(name, known)}"
