"""The answer cache as people write it, and what it comes to: see `extproc.cache.policy`."""

from collections.abc import Mapping
from datetime import timedelta
from decimal import Decimal
from typing import Annotated, Literal, Self

from pydantic import AfterValidator, ByteSize, Field, model_validator

from extproc.cache.policy import LEAST_THRESHOLD, MOST_LARGEST, CachePolicy, CacheRules, Scope, Selector, Semantic
from extproc.config.fields import Duration, Line, LocalSecret, ModelName, Name, Size, Strict, UnitPrice, nanos
from extproc.redaction.policy import Mode

Modes = Literal["off", "shadow", "enforce"]
Shared = Literal["team", "user", "key"]
_USUAL = CachePolicy()
_USUAL_WAIT = timedelta(seconds=CacheRules().wait)
_LEAST_LARGEST = 2**10
_RANKS = (Mode.OFF, Mode.SHADOW, Mode.ENFORCE)
_MODE = "`shadow` looks and keeps, tells what it would have saved, and answers nothing"
_THRESHOLD = "least similarity of two questions, a cosine; callers may ask for more, never for less"


def _ttl(value: timedelta) -> timedelta:
    if not timedelta(seconds=1) <= value <= timedelta(days=31):
        raise ValueError("must be 1s to 31d")
    return value


def _largest(value: ByteSize) -> ByteSize:
    if not _LEAST_LARGEST <= value <= MOST_LARGEST:
        raise ValueError(f"must be {_LEAST_LARGEST // 2**10}KiB to {MOST_LARGEST // 2**20}MiB")
    return value


ToolName = Annotated[str, Field(min_length=1, max_length=200)]
Temperature = Annotated[float, Field(ge=0, le=2)]
Threshold = Annotated[float, Field(ge=LEAST_THRESHOLD, le=1)]
Ttl = Annotated[Duration, AfterValidator(_ttl)]
Largest = Annotated[Size, AfterValidator(_largest)]


class RuleSemantic(Strict):
    """Answers to questions that say the same in other words; what is absent is as in `cache.semantic`."""

    mode: Modes | None = Field(default=None, description="no farther than `mode` beside it")
    threshold: Threshold | None = Field(default=None, description=_THRESHOLD)


class SemanticTier(Strict):
    """Answers to questions that say the same in other words."""

    mode: Modes = Field(
        default="off",
        description="`shadow` compares the answer that would have served with the real one; carried out no farther "
        "than the `mode` of the cache",
    )
    threshold: Threshold = Field(default=Semantic().threshold, description=_THRESHOLD)
    model: str | None = Field(
        default=None, min_length=1, description="folder of a sentence-transformers model; runs on this machine"
    )
    service: Name | None = Field(default=None, description="name of an entry in `services` that embeds")
    service_model: ModelName | None = Field(default=None, description="the service's name of its model; needed with it")
    price: UnitPrice = Field(
        default=Decimal(0), description="of a million tokens at the service, in `policies.currency`"
    )
    timeout: Duration = Field(
        default=timedelta(seconds=Semantic().timeout),
        description="how long a call waits for the vector of its question",
    )

    @model_validator(mode="after")
    def _one_source(self) -> Self:
        if self.model is not None and self.service is not None:
            raise ValueError("give one of `model` and `service`, not both")
        if (self.service is None) != (self.service_model is None):
            raise ValueError("give `service_model` with `service`, and with nothing else")
        if self.service is None and self.price:
            raise ValueError("`price` is for a `service`: a local model costs nothing")
        return self

    @property
    def has_source(self) -> bool:
        """Whether there is anything that makes vectors."""
        return self.model is not None or self.service is not None


class CacheRule(Strict):
    """What holds for some calls; what is absent is as it stands above the rules."""

    models: tuple[ModelName, ...] | None = Field(default=None, min_length=1, description="of these models")
    teams: tuple[Name, ...] | None = Field(default=None, min_length=1, description="by these teams")
    keys: tuple[Line, ...] | None = Field(
        default=None, min_length=1, description="with these keys: name, team/name or id"
    )
    mode: Modes | None = Field(default=None, description=_MODE)
    ttl: Ttl | None = Field(default=None, description="how long an answer is kept")
    largest: Largest | None = Field(default=None, description="the largest answer that is kept")
    scope: Shared | None = Field(default=None, description="who shares answers")
    max_temperature: Temperature | None = Field(default=None, description="the highest that a request may ask for")
    side_effects: tuple[ToolName, ...] | None = Field(
        default=None,
        description="names of tools that a request may not offer, in which `*` stands for anything; case does not "
        "count",
    )
    semantic: RuleSemantic = Field(default=RuleSemantic(), description="answers to the same in other words")

    @model_validator(mode="after")
    def _selects(self) -> Self:
        if self.models is None and self.teams is None and self.keys is None:
            raise ValueError("name `models`, `teams` or `keys`; what holds for every call stands above the rules")
        return self


class Cache(Strict):
    """Answers that are given again to calls that ask the same."""

    mode: Modes = Field(default="off", description=_MODE)
    ttl: Ttl = Field(default=timedelta(seconds=_USUAL.ttl), description="how long an answer is kept, at most 31d")
    largest: Largest = Field(
        default=ByteSize(_USUAL.largest), description="the largest answer that is kept, 1KiB to 64MiB"
    )
    scope: Shared = Field(
        default=_USUAL.scope.value,
        description="who shares answers, and nobody else: the callers of a `team`, the same `user` (or service "
        "account) of a team, or the calls of the same `key`",
    )
    max_temperature: Temperature = Field(
        default=_USUAL.max_temperature,
        description="the highest that a request may ask for; one that says none is not bound by it",
    )
    side_effects: tuple[ToolName, ...] = Field(
        default=(),
        description="names of tools that a request may not offer, such as `send_*`, in which `*` stands for anything; "
        "case does not count",
    )
    wait: Duration | None = Field(
        default=None,
        description="how long a call waits for the answer to another that asks the same just now; absent: 20s. Never "
        "more than two thirds of `timeouts.policy_longest` or half of `timeouts.idle`",
    )
    size: Size = Field(
        default=ByteSize(256 * 2**20),
        ge=2**20,
        le=2**40,
        description="of all answers together: of each worker where `stores.answers` is memory://, else in Redis; "
        "beyond it those go that would end soonest, or that nobody asked for",
    )
    key: LocalSecret | None = Field(
        default=None,
        description="secret of at least 32 bytes that authenticates what is kept, read when a worker starts; needed "
        "where that is in Redis, the same for all gateways that share it",
    )
    semantic: SemanticTier = Field(default=SemanticTier(), description="answers to the same in other words")
    rules: tuple[CacheRule, ...] = Field(default=(), description="of these, the first that speaks of a call decides")

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if max([self.largest, *(rule.largest or 0 for rule in self.rules)]) > self.size:
            raise ValueError("`size` must be at least `largest`")
        is_wanted = [self.semantic.mode, *(rule.semantic.mode for rule in self.rules)]
        if not self.semantic.has_source and {"shadow", "enforce"}.intersection(is_wanted):
            raise ValueError("`semantic` needs something that makes vectors: give it `model` or `service`")
        return self

    @property
    def is_on(self) -> bool:
        """Whether the answer to any call may be kept."""
        return any(mode in ("shadow", "enforce") for mode in (self.mode, *(rule.mode for rule in self.rules)))


def longest_wait(decision: timedelta, idle: timedelta) -> timedelta:
    """How long a call may wait for another. `decision`: that one may take, in which there is more to do, before and
    behind. `idle`: so long nothing may come or go, and while a call waits nothing does.
    """
    return min(decision * 2 / 3, idle / 2)


def cache_rules(given: Cache, longest: timedelta, public: Mapping[str, str]) -> CacheRules:
    """What it comes to. `longest`: that a call may wait. `public`: a model's public name by each of its names."""
    usual = CachePolicy(
        mode=Mode(given.mode),
        ttl=given.ttl.total_seconds(),
        largest=int(given.largest),
        scope=Scope(given.scope),
        max_temperature=given.max_temperature,
        side_effects=given.side_effects,
        semantic=_semantic(given.semantic, given.semantic.mode, given.semantic.threshold, given.mode),
    )
    rules = tuple((selector(rule, public), _policy(rule, given)) for rule in given.rules)
    wait = min(_USUAL_WAIT, longest) if given.wait is None else given.wait
    return CacheRules(usual, rules, wait.total_seconds())


def selector(rule: CacheRule, public: Mapping[str, str]) -> Selector:
    """The calls that a rule speaks of."""
    return Selector(
        models=None if rule.models is None else frozenset(public.get(name, name) for name in rule.models),
        teams=None if rule.teams is None else frozenset(rule.teams),
        keys=None if rule.keys is None else frozenset(rule.keys),
    )


def _policy(rule: CacheRule, usual: Cache) -> CachePolicy:
    own, tier = rule.semantic, usual.semantic
    mode = rule.mode or usual.mode
    return CachePolicy(
        mode=Mode(mode),
        ttl=(rule.ttl or usual.ttl).total_seconds(),
        largest=int(rule.largest or usual.largest),
        scope=Scope(rule.scope or usual.scope),
        max_temperature=usual.max_temperature if rule.max_temperature is None else rule.max_temperature,
        side_effects=usual.side_effects if rule.side_effects is None else rule.side_effects,
        semantic=_semantic(tier, own.mode or tier.mode, own.threshold or tier.threshold, mode),
    )


def _semantic(tier: SemanticTier, mode: Modes, threshold: float, exact: Modes) -> Semantic:
    """With `exact`, the mode of the cache: where that may not answer, this may not either."""
    return Semantic(
        mode=min(Mode(mode), Mode(exact), key=_RANKS.index),
        threshold=threshold,
        model=tier.model,
        service=tier.service,
        service_model=tier.service_model,
        price=nanos(tier.price),
        timeout=tier.timeout.total_seconds(),
    )
