"""What a crowd of callers asks for: kinds of calls, and mixes of them. See docs/loadtest.md.

Nothing here sends anything, so that what is sent can be tested without a gateway.
"""

import math
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

Json = dict[str, Any]

CHAT = "/v1/chat/completions"
EMBEDDINGS = "/v1/embeddings"

NO_CODE = "without a code"
"""Of an error: a provider's own may have none."""

SHORTEST, LONGEST = 1_000, 400_000
"""Bytes of the prompts of long calls."""

_SENTENCE = "Ask ann.lee{number}@example.com or +41 44 668 18 {tens} what the release notes should say about it. "
"""Holds what redaction looks for, so that looking is not the only thing that it does; one of it in a kilobyte."""
_FILLER = "Say in a few words what changed since the last release, why, and what whoever runs it has to do now. " * 9
_AGAIN = 20  # questions of the crowd that asks the same again
_SPENT = frozenset({(429, "rate_limit_exceeded"), (429, "insufficient_quota")})
_FAILED = frozenset({(503, NO_CODE), (503, "upstream_unavailable"), (429, "upstream_rate_limited")})
_TOOL: Json = {
    "type": "function",
    "function": {
        "name": "find_ticket",
        "description": "Finds a ticket by words that stand in it.",
        "parameters": {"type": "object", "properties": {"words": {"type": "string"}}, "required": ["words"]},
    },
}


@dataclass(frozen=True, slots=True)
class Wish:
    """What the operator of a load chooses: models by their public names, and how much is said.

    `tokens` is the cap of an answer. `fake_pace`: tokens a second that the fake provider is asked to keep to in
    streams; None where a real provider answers.
    """

    chat: str = "load-chat"
    embeddings: str = "load-embeddings"
    failover: str = "load-failover"
    failing: str = "load-failing"
    tokens: int = 60
    fake_pace: float | None = None


@dataclass(frozen=True, slots=True)
class Kind:
    """One way to call. `right` are the refusals, as (status, code), that are what should come; `poor`: by a key whose
    budget is meant to be too small."""

    name: str
    path: str = CHAT
    stream: bool = False
    poor: bool = False
    right: frozenset[tuple[int, str]] = frozenset()


KINDS: Mapping[str, Kind] = {
    kind.name: kind
    for kind in (
        Kind("chat"),
        Kind("stream", stream=True),
        Kind("long"),
        Kind("long-stream", stream=True),
        Kind("tools"),
        Kind("again"),
        Kind("embeddings", path=EMBEDDINGS),
        Kind("budget", poor=True, right=_SPENT),
        Kind("failover"),
        Kind("failing", right=_FAILED),
    )
}

MIXES: Mapping[str, Mapping[str, int]] = {
    "everyday": {
        **{"chat": 30, "stream": 35, "long": 3, "long-stream": 2, "tools": 8, "again": 10, "embeddings": 10},
        **{"failover": 2},
    },
    "chat": {"chat": 1},
    "stream": {"stream": 1},
    "long": {"long": 1, "long-stream": 1},
    "tools": {"tools": 1},
    "embeddings": {"embeddings": 1},
    "cache": {"again": 19, "chat": 1},
    "budget": {"budget": 4, "chat": 1},
    "failing": {"failover": 2, "failing": 1, "chat": 2},
    "all": dict.fromkeys(KINDS, 1),
}
"""By name, kinds and how often each comes, in any unit."""


class MixError(ValueError):
    """A mix or a file of keys that cannot be used; the text says why."""


def mix(text: str) -> Mapping[str, int]:
    """The mix of a name, or as written: `chat=3,stream=1`. Raises MixError."""
    if text in MIXES:
        return MIXES[text]
    parts = [part.partition("=") for part in text.split(",")]
    weights = {name.strip(): int(number) for name, _, number in parts if number.strip().isdecimal()}
    if len(weights) < len(parts) or not set(weights) <= set(KINDS) or not any(weights.values()):
        raise MixError(
            f"--mix must be one of {', '.join(MIXES)}, or like chat=3,stream=1 with kinds of {', '.join(KINDS)}"
        )
    return weights


# ---- keys ----------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Keys:
    """Whose calls they are. `poor` are those with a budget that is meant to run out."""

    tenants: tuple[str, ...]
    poor: tuple[str, ...]

    def of(self, kind: Kind, dice: random.Random) -> str:
        """A key for a call of that kind."""
        return dice.choice(self.poor if kind.poor and self.poor else self.tenants)


def keys(file: Path) -> Keys:
    """Those of a file: one a line, `KEY`, or `KEY poor`. Empty lines and those that begin with # do not count.

    Raises MixError.
    """
    try:
        lines = [line.split() for line in file.read_text().splitlines() if line.strip() and line[0] != "#"]
    except OSError as problem:
        raise MixError(f"the file of keys cannot be read: {problem.strerror}: {file}") from None
    if any(len(words) > 2 or words[1:] not in ([], ["poor"]) for words in lines):
        raise MixError(f"a line of {file} must be a key, or a key and the word poor")
    found = Keys(
        tuple(words[0] for words in lines if len(words) == 1), tuple(words[0] for words in lines if len(words) == 2)
    )
    if not found.tenants:
        raise MixError(f"no key in {file}")
    return found


# ---- calls ---------------------------------------------------------------------------------------------


def draw(weights: Mapping[str, int], dice: random.Random) -> Kind:
    """One kind of a mix."""
    return KINDS[dice.choices(list(weights), list(weights.values()))[0]]


def body(kind: Kind, wish: Wish, dice: random.Random) -> Json:
    """The request of one call."""
    if kind.path == EMBEDDINGS:
        return {"model": wish.embeddings, "input": [prompt(SHORTEST // 4, dice) for _ in range(4)]}
    asked: Json = {
        "model": {"failover": wish.failover, "failing": wish.failing}.get(kind.name, wish.chat),
        "messages": _messages(kind, dice),
        "max_tokens": wish.tokens,
    }
    if kind.stream:
        asked |= {"stream": True, "stream_options": {"include_usage": True}}
    if kind.name == "again":
        asked["temperature"] = 0
    if kind.name == "tools":
        asked["tools"] = [_TOOL]
    if wish.fake_pace is not None and kind.stream:
        asked["x_fake"] = {"tokens_per_second": wish.fake_pace, "length": wish.tokens}
    return asked


def _messages(kind: Kind, dice: random.Random) -> Sequence[Json]:
    if kind.name == "again":
        number = dice.randrange(_AGAIN)
        return [{"role": "user", "content": prompt(SHORTEST, random.Random(number))}]
    size = _long(dice) if kind.name in ("long", "long-stream") else SHORTEST
    return [
        {"role": "system", "content": "You are a colleague who answers in a few sentences."},
        {"role": "user", "content": prompt(size, dice)},
    ]


def _long(dice: random.Random) -> int:
    """As many between 1 and 10 kB as between 10 and 100."""
    return round(math.exp(dice.uniform(math.log(SHORTEST), math.log(LONGEST))))


def prompt(size: int, dice: random.Random) -> str:
    """So many bytes of text that no other call has."""
    first = f"Case {dice.getrandbits(48):012x}. "
    sentence = _SENTENCE.format(number=dice.randrange(1000), tens=dice.randrange(10, 100))
    kilobyte = sentence + _FILLER
    return (first + kilobyte * (size // len(kilobyte) + 1))[:size]
