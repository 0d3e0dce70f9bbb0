"""What the cache has to do with one call, from its request to its end."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from enum import StrEnum
from typing import NamedTuple, Protocol

from extproc.cache.control import Control
from extproc.cache.entry import Entry
from extproc.cache.policy import CachePolicy
from extproc.cache.vectors import Vector
from extproc.stores.answers import Labels
from extproc.values import frozen

COMPARED = 600
"""Characters of an answer by which it is compared with another: some models take no more than 256 tokens."""


class Result(StrEnum):
    """How the answer came about, as its header tells."""

    HIT = "hit"  # the answer to a call that asked exactly the same
    SEMANTIC = "semantic"  # the answer to a call that asked the same in other words
    MISS = "miss"  # a backend was asked, and the answer may be kept
    BYPASS = "bypass"  # the call is none for the cache


@frozen
class Offer:
    """An answer that may be kept: what makes its entry, from so many bytes, and for how long, in milliseconds.

    `make` takes its time, and gives a constant word that says why where the answer turns out to be none to keep. `then`
    is called once it is kept.
    """

    make: Callable[[], Entry | str]
    size: int
    labels: Labels
    life: int
    then: Callable[[Entry], Awaitable[None]] | None = None


@dataclass(slots=True)
class Near:
    """The question of a call, for others that ask the same in other words. Its text is redacted.

    `partition`: of those that differ in this text only. `cost`: of its embedding, in nano-units.
    """

    partition: str
    text: str = field(repr=False)
    cost: int = 0
    vector: Vector | None = field(default=None, repr=False)  # once it is known
    epoch: int = 0  # of the neighbours that it was compared with
    entry: Entry | None = field(default=None, repr=False)  # the answer that would have served, if there is one


class Match(NamedTuple):
    """A question that asks the same: under which digest its answer is kept, and how near it is."""

    digest: str
    similarity: float


@frozen
class Comparison:
    """What the answer that would have served says, and what the real one does; the same from `threshold` on."""

    request_id: str
    model: str
    similarity: float
    threshold: float
    would: str = field(repr=False)
    real: str = field(repr=False)


class Seat(Protocol):
    """The place of a call among those that ask the same at the same time."""

    def offer(self, offer: Offer) -> None:
        """Keep the answer, and give it to those who wait. Never blocks, never raises."""

    def leave(self) -> None:
        """Whoever waits for its answer waits in vain. After an offer it is nothing."""


@dataclass(slots=True)
class Lookup:
    """`digest` is empty where the call is none for the cache, and then `reason` says why. Money is in nano-units."""

    policy: CachePolicy
    control: Control
    digest: str = ""
    reason: str = ""
    result: Result = Result.MISS
    seat: Seat | None = None
    results: int = 1  # that a whole answer has
    near: Near | None = None  # where other words may ask the same
    in_shadow: bool = False  # an answer was there, and would have served
    saved: int | None = None  # what the answer that served, or would have, cost; None: it has no price
    saved_tokens: int = 0
    age: int | None = None  # seconds
    similarity: float | None = None
    content_type: str = ""  # of an answer that may be kept
    pieces: list[bytes] | None = field(default=None, repr=False)  # of its body so far; None: it is not to be kept
    size: int = 0

    @property
    def header(self) -> str:
        """What the answer says of it."""
        return f"{self.result}; {self.reason}" if self.reason else self.result.value

    def pass_by(self, reason: str) -> None:
        """The call is none for the cache after all."""
        self.digest, self.reason, self.result = "", reason, Result.BYPASS

    def serves_nobody(self) -> None:
        """The call is refused after all: nothing was saved."""
        self.result, self.age, self.saved, self.saved_tokens, self.similarity = Result.MISS, None, None, 0, None

    def begin(self, content_type: str) -> None:
        """An answer begins that may be kept."""
        self.content_type, self.pieces, self.size = content_type, [], 0

    def feed(self, chunk: bytes) -> None:
        """The next piece of it. One that grows too large is let go."""
        if self.pieces is None:
            return
        self.size += len(chunk)
        if self.size > self.policy.largest:
            self.pieces = None
            if self.seat is not None:
                self.seat.leave()
        else:
            self.pieces.append(chunk)

    def body(self) -> bytes | None:
        """All of it, once; None where it is not to be kept."""
        pieces, self.pieces = self.pieces, None
        return None if pieces is None else b"".join(pieces)
