"""W3C trace context: which trace a call belongs to, as programs tell each other in headers.

https://www.w3.org/TR/trace-context/. What is not as it should be there is as if nothing had been said.
"""

import re
from collections.abc import Callable, Sequence
from typing import NamedTuple

_HEADER = re.compile(r"(?!ff)([0-9a-f]{2})-(?!0{32})([0-9a-f]{32})-(?!0{16})([0-9a-f]{16})-([0-9a-f]{2})(-.*)?")
_MEMBER = re.compile(r"[a-z0-9][a-z0-9_*/@-]{0,255}=[\x20-\x2b\x2d-\x3c\x3e-\x7e]{1,256}")
_MOST_MEMBERS = 32
_LONGEST_STATE = 512
_SPAN = 64  # bits
_TRACE = 128

Bits = Callable[[int], int]
"""So many random bits, as a number."""


class Context(NamedTuple):
    """The place of a call in its trace. Ids are hexadecimal.

    `parent` is the span of which it is a part; empty where the trace begins with it. `state` is for tracing systems.
    """

    trace: str
    span: str
    sampled: bool
    parent: str = ""
    state: str = ""

    @property
    def header(self) -> str:
        """As a traceparent tells it to what it calls."""
        return f"00-{self.trace}-{self.span}-0{self.sampled:d}"

    @property
    def is_of_others(self) -> bool:
        """Whether the trace began before the gateway."""
        return self.parent != ""


def read(header: str) -> Context | None:
    """The caller's own place in its trace; None where it told none that can be read."""
    found = _HEADER.fullmatch(header)
    if found is None or (found[1] == "00" and found[5]):
        return None
    return Context(found[2], found[3], int(found[4], 16) & 1 == 1)


def state(values: Sequence[str]) -> str:
    """The members of a tracestate in their order; empty where it cannot be read, or is longer than it may be."""
    members = [member.strip(" \t") for member in ",".join(values).split(",")]
    given = [member for member in members if member]
    joined = ",".join(given)
    if len(given) > _MOST_MEMBERS or len(joined) > _LONGEST_STATE or not all(map(_MEMBER.fullmatch, given)):
        return ""
    return joined


def child(parent: Context, state: str, bits: Bits) -> Context:
    """A call in the caller's trace, sampled as that is."""
    return Context(parent.trace, _hex(bits, _SPAN), parent.sampled, parent.span, state)


def root(bits: Bits, bound: int) -> Context:
    """A call with which a trace begins; `bound`: see `bound`."""
    trace = bits(_TRACE) or 1
    return Context(f"{trace:032x}", _hex(bits, _SPAN), trace & (2**64 - 1) < bound)


def bound(share: float) -> int:
    """Below which the last 64 bits of a trace's id are where it is sampled: OpenTelemetry's SDKs decide so, too."""
    return round(share * 2**64)


def _hex(bits: Bits, size: int) -> str:
    return f"{bits(size) or 1:0{size // 4}x}"
