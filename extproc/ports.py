"""What the way of a call asks of the rest of its worker: the ports of `pipeline` and `reservation`."""

from collections.abc import Callable, Mapping, Sequence
from typing import ParamSpec, Protocol, TypeVar

from extproc.cache.entry import Entry
from extproc.cache.lookup import Comparison, Match, Near, Offer
from extproc.call import Inspection, Rules
from extproc.guardrails.gate import Gate
from extproc.guardrails.moderation import Request
from extproc.identity.directory import Directory
from extproc.limits.hold import Hold
from extproc.model import CleanPrompt, Prompt
from extproc.stages.shadow import Copy
from extproc.stages.state import Held
from extproc.stores.counters import Answer, Draw

P = ParamSpec("P")
T = TypeVar("T")


class Affinity(Protocol):
    """Which backend made a stored response or item, and for whom. Raises StoreUnavailable."""

    async def recall(self, ids: Sequence[str]) -> Mapping[str, Held]: ...
    async def remember(self, ids: Sequence[str], backend: str, model: str, owner: str) -> None: ...


class Roster(Protocol):
    """Everybody who may call."""

    def current(self) -> Directory:
        """As far as it is known now. Raises StoreUnavailable where that is not enough to decide by."""

    def used(self, key_id: str, now: float) -> None:
        """Note that a key was used. Never blocks."""


class Holds(Protocol):
    """What calls have reserved in the counters of their limits."""

    async def reserve(self, hold: Hold) -> Answer:
        """All of it or nothing. Raises CountersUnavailable where that is what the limits want then."""

    async def extend(self, hold: Hold, draws: Sequence[Draw]) -> Answer:
        """Take more for a hold; `units` are what it shall have in all. Raises CountersUnavailable."""

    def settle(self, hold: Hold, draws: Sequence[Draw], event: bytes) -> None:
        """Put what was used in place of the hold, and tell it to the usage bus. Never blocks, never raises."""

    def begun(self, name: str, note: bytes) -> None:
        """Note a call that is about to be sent, until it is settled or told. Never blocks, never raises."""

    def tell(self, name: str, event: bytes) -> None:
        """Tell the usage bus of a call that no limit counts. Never blocks, never raises."""


class Screening(Protocol):
    """Looks through the texts of calls, beside the event loop where they are long. Raises Refused."""

    async def run(self, size: int, work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Do work on so many bytes of text."""

    async def clean(self, prompt: Prompt, rules: Rules, seen: Inspection) -> CleanPrompt:
        """The prompt as it may be sent. What was found is noted."""

    async def moderate(self, questions: Sequence[Request], rules: Rules, seen: Inspection) -> None:
        """Ask the service that judges texts."""

    async def hear(self, gate: Gate, seen: Inspection) -> None:
        """Have judged what an answer said since the last time."""

    async def clean_text(self, text: str, rules: Rules, seen: Inspection) -> str:
        """A text of a form as it may be sent."""


class Seat(Protocol):
    """The place of a call among those that ask the same at the same time."""

    @property
    def is_first(self) -> bool:
        """Whether it looks into the store; else another call of this worker makes the answer."""

    @property
    def follows(self) -> bool:
        """Whether, as its look told, another worker makes the answer."""

    async def look(self) -> Entry | None:
        """What the store has; nothing where it does not answer. It goes out before this first waits."""

    async def wait(self, seconds: float) -> Entry | None:
        """The answer that another call is making; None where that comes to nothing, or takes longer."""

    def offer(self, offer: Offer) -> None:
        """Keep the answer, and give it to those who wait. Never blocks, never raises."""

    def leave(self) -> None:
        """Whoever waits for its answer waits in vain."""


class Answers(Protocol):
    """The answers that are kept."""

    @property
    def key(self) -> bytes:
        """What seals them, and what nobody without it can tell their digests from."""

    def now(self) -> int:
        """Milliseconds of Unix time."""

    def seat(self, digest: str, shares: bool = True) -> Seat:
        """A place for a call. `shares`: it waits for the answer to another, and others may wait for its own."""


class Neighbours(Protocol):
    """Questions that have been answered, for those that ask the same in other words. Nothing here raises."""

    async def search(self, near: Near, threshold: float, seconds: float) -> Sequence[Match]:
        """Those with the same answer, the nearest first; a few at most. What was learned is noted in `near`."""

    async def remember(self, near: Near, digest: str, life: int) -> None:
        """Let others find the question of a call whose answer is kept for `life` milliseconds."""

    async def compare(self, made: Comparison, seconds: float) -> None:
        """Tell whether the answer that would have served says what the real one does."""


class Shadows(Protocol):
    """Sends copies of calls to backends that serve none of them."""

    def take(self, copy: Copy) -> None:
        """Send a copy, if there is room. Never blocks, never raises."""


class Journal(Protocol):
    """Takes one record per call; never blocks, never raises."""

    def write(self, record: Mapping[str, object]) -> None: ...
