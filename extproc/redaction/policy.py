"""What is done about the entities that are found: a policy as a value, compiled from whatever declares it."""

import hmac
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from functools import cached_property

from extproc.redaction.placeholders import Grammar, grammar, placeholder_name


class Mode(StrEnum):
    """How far a policy is carried out."""

    OFF = "off"
    SHADOW = "shadow"  # found and counted, changes and refuses nothing
    ENFORCE = "enforce"


class Action(StrEnum):
    """What becomes of a value."""

    PLACEHOLDER = "placeholder"  # `<EMAIL_ADDRESS_1>`, taken back in the answer
    MASK = "mask"  # `[EMAIL_ADDRESS]`
    HASH = "hash"  # `[EMAIL_ADDRESS#…]`, the same for the same value under the same key
    DROP = "drop"  # an ellipsis
    BLOCK = "block"  # the call is refused
    FLAG = "flag"  # counted only


_STRICTNESS = {Action.BLOCK: 2, Action.DROP: 1, Action.MASK: 0, Action.HASH: 0, Action.PLACEHOLDER: -1, Action.FLAG: -2}


def strictness(actions: Mapping[str, Action]) -> dict[str, int]:
    """By entity, how strict its action is. An entity without one is masked, and a mask is 0."""
    return {entity: _STRICTNESS[action] for entity, action in actions.items()}


class OnError(StrEnum):
    """What becomes of a call that could not be looked through."""

    DENY = "deny"
    ALLOW = "allow"


class Stateful(StrEnum):
    """What becomes of a call whose history stands at the provider, where no placeholder can be taken back."""

    MASK = "mask"  # its placeholders are masks
    REFUSE = "refuse"


@dataclass(frozen=True)
class NameTier:
    """Where a trained model finds names, places and organisations, which no pattern tells.

    Either `model`, a spaCy model that is installed or a folder, in a process beside the worker; or `service`, the name
    of a Presidio analyzer elsewhere.
    """

    entities: frozenset[str]
    model: str | None = None
    service: str | None = None
    language: str = "en"
    floor: float = 0.4  # the least score of a finding
    max_text: int = 20_000  # characters of one call
    timeout: float = 2.0  # seconds for one call


@dataclass(frozen=True)
class RedactionPolicy:
    """The rules of one team. Raises ValueError where they contradict each other.

    An entity that is in neither map is masked: what nobody thought of does not leave.
    """

    mode: Mode = Mode.ENFORCE
    input: Mapping[str, Action] = field(default_factory=dict)
    output: Mapping[str, Action] = field(default_factory=dict)
    on_error: OnError = OnError.DENY
    max_text: int = 2**20  # bytes of text in one body
    stateful: Stateful = Stateful.MASK
    hash_key: bytes = field(default=b"", repr=False)  # of all tenants; each has its own from it
    names: NameTier | None = None
    name: str = ""

    def __post_init__(self) -> None:
        if Action.PLACEHOLDER in self.output.values():
            raise ValueError("a placeholder in an answer would be taken back at once: mask, hash or drop there")
        if not self.hash_key and Action.HASH in (*self.input.values(), *self.output.values()):
            raise ValueError("to hash values, a key is needed")

    def key_for(self, tenant: str) -> bytes:
        """What the values of one tenant are hashed with; empty where nothing is hashed."""
        return hmac.digest(self.hash_key, tenant.encode(), "sha256") if self.hash_key else b""

    @cached_property
    def grammar(self) -> Grammar:
        """How the placeholders of this policy can look."""
        names = (placeholder_name(entity) for entity, action in self.input.items() if action is Action.PLACEHOLDER)
        return grammar(frozenset(names))
