"""One attempt at a backend, as Envoy tells it, and what it says about the backend and the target."""

from collections.abc import Collection, Mapping
from dataclasses import field
from enum import Enum, StrEnum

from extproc.routing import waits
from extproc.routing.policy import Cooling
from extproc.values import frozen

_FAULTS = frozenset(
    {
        "no_healthy_upstream",
        "upstream_request_timeout",
        "upstream_remote_reset",
        "upstream_connection_failure",  # TLS failures are told as these
        "upstream_connection_termination",
        "stream_idle_timeout",
        "upstream_protocol_error",
        "dns_resolution_failure",
    }
)


class Why(StrEnum):
    """Why a target is left out for a while, or, of the last two, tried last.

    SPENT: it has refused nothing yet, but says that nothing is left. FAILING: its circuit is open, but it has answered
    each time, so that it may be the calls' own fault: were it left out, one caller could close it to all others.
    """

    RATE_LIMITED = "rate_limited"
    CIRCUIT_OPEN = "circuit_open"
    SPENT = "spent"
    FAILING = "failing"

    __hash__ = str.__hash__  # Enum's own is a function of Python, called for every look into a table


class Meaning(Enum):
    """What an attempt says about the backend."""

    ALIVE = "alive"
    FAILED = "failed"
    NOTHING = "nothing"  # such as one whose client left before there was an answer


@frozen
class Attempt:
    """`status` is 0 where no answer came. `flags`: those that Envoy raised, by their names in its protocol.

    `headers`: those of waits.HEADERS that the answer had. `model`: the deployed one, None where it is not told.
    `call`: what all attempts of a call have in common, and those of no other. `judged`: by who saw the answer flow,
    which says more than its status.
    """

    backend: str
    status: int
    flags: Collection[str] = ()
    headers: Mapping[str, str] = field(default_factory=dict)
    model: str | None = None
    call: str = ""
    judged: Meaning | None = None


def meaning(attempt: Attempt, wall: float) -> Meaning:
    """Whoever says "not now" in so many words is alive; errors of the caller are none of the backend."""
    if attempt.judged is not None:
        return attempt.judged
    status = attempt.status
    if not _FAULTS.isdisjoint(attempt.flags):
        return Meaning.FAILED
    if status == 0:
        return Meaning.NOTHING
    if _is_refusal(attempt, wall):
        return Meaning.ALIVE
    return Meaning.FAILED if status >= 500 else Meaning.ALIVE  # 408 says that it was the client who was slow


def is_answered(attempt: Attempt) -> bool:
    """Whether a failed attempt had an answer of the server itself: one that is overloaded or away has others.

    So has one that fell silent in the middle: a caller may have asked for what takes so long.
    """
    return attempt.judged is not None or (attempt.status == 500 and _FAULTS.isdisjoint(attempt.flags))


def cool_down(attempt: Attempt, cooling: Cooling, wall: float) -> tuple[float, Why] | None:
    """For how many seconds its target should be left alone, and why; None where nobody asks for that."""
    if _is_refusal(attempt, wall):
        asked = waits.asked(attempt.headers, wall)
        return min(cooling.default_wait if asked is None else asked, cooling.longest_wait), Why.RATE_LIMITED
    if attempt.status >= 500:  # nothing it says of itself is to be relied on
        return None
    reset = waits.spent(attempt.headers, wall)
    return None if reset is None else (min(reset, cooling.longest_wait), Why.SPENT)


def _is_refusal(attempt: Attempt, wall: float) -> bool:
    """429, Anthropic's 529 (overloaded), and a 503 that says when to come back."""
    status = attempt.status
    return status in (429, 529) or (status == 503 and waits.retry_after(attempt.headers, wall) is not None)
