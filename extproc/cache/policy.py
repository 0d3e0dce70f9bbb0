"""Which calls may be answered from the cache, as values, compiled from whatever declares it."""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

from extproc.redaction.policy import Mode

MOST_LARGEST = 64 * 2**20
"""Bytes of the largest answer that any configuration keeps."""
LEAST_THRESHOLD = 0.8
"""Below this cosine similarity two questions are different ones, whoever configures what."""


class Scope(StrEnum):
    """Who shares answers. Nobody else ever gets one."""

    TEAM = "team"  # the callers of a team; a key without a team: those with the same key
    USER = "user"  # the same user or service account of a team; where there is none, the same key
    KEY = "key"  # the same key, and those that took its place


@dataclass(frozen=True, slots=True)
class Semantic:
    """The tier that finds answers to questions that say the same in other words.

    `threshold`: the least cosine similarity, 0 to 1; a caller may ask for more, never for less. Embeddings come from
    `model`, the path of a local model, or from `service`, the name of a service that embeds; exactly one is given.
    `service_model` is the service's name of its model, `price` nano-units for a million tokens of a text.
    """

    mode: Mode = Mode.OFF
    threshold: float = 0.9
    model: str | None = None
    service: str | None = None
    service_model: str | None = None
    price: int = 0
    timeout: float = 1.0  # seconds for which a call waits for an embedding


@dataclass(frozen=True, slots=True)
class CachePolicy:
    """What holds for some calls. `ttl` is in seconds, `largest` in bytes of an answer as its caller gets it."""

    mode: Mode = Mode.OFF
    ttl: float = 3600.0
    largest: int = 2**20
    scope: Scope = Scope.TEAM
    max_temperature: float = 0.3  # a request that says none is not bound by it
    side_effects: tuple[str, ...] = ()  # names of tools, in which `*` stands for anything, that a request may not offer
    semantic: Semantic = Semantic()


@dataclass(frozen=True, slots=True)
class Selector:
    """Of which calls a rule speaks; None: of any. `models` are public names, `keys` ids or names of keys, or names
    behind that of the team and a slash.
    """

    models: frozenset[str] | None = None
    teams: frozenset[str] | None = None
    keys: frozenset[str] | None = None

    def matches(self, model: str, team: str | None, key_id: str, key_name: str) -> bool:
        """Whether it speaks of a call of this model, team (None: of no team) and key."""
        return (
            (self.models is None or model in self.models)
            and (self.teams is None or team in self.teams)
            and (self.keys is None or not self.keys.isdisjoint((key_id, key_name, f"{team}/{key_name}")))
        )

    def covers(self, other: "Selector") -> bool:
        """Whether it speaks of every call that the other one speaks of."""
        pairs = ((self.models, other.models), (self.teams, other.teams), (self.keys, other.keys))
        return all(own is None or (theirs is not None and theirs <= own) for own, theirs in pairs)


@dataclass(frozen=True, slots=True)
class CacheRules:
    """The first rule that speaks of a call decides; where none does, `default`.

    `wait`: seconds for which a call waits at most for the answer to another one that asks the same.
    """

    default: CachePolicy = CachePolicy()
    rules: Sequence[tuple[Selector, CachePolicy]] = ()
    wait: float = 20.0

    @property
    def on(self) -> bool:
        """Whether any call may be looked up at all."""
        return self.default.mode is not Mode.OFF or any(policy.mode is not Mode.OFF for _, policy in self.rules)

    @property
    def is_semantic(self) -> bool:
        """Whether any call is looked up by what it says in other words."""
        policies = (self.default, *(policy for _, policy in self.rules))
        return any(policy.semantic.mode is not Mode.OFF for policy in policies)

    def policy(self, model: str, team: str | None, key_id: str, key_name: str) -> CachePolicy:
        """What holds for a call."""
        for selector, policy in self.rules:
            if selector.matches(model, team, key_id, key_name):
                return policy
        return self.default
