"""Which calls are traced, and what is told of those when they have ended.

A call that is not sampled costs its ids and no more. The spans of one that is are made by the thread that sends them,
of the times and facts that are there at its end anyway.
"""

import random
import time
from collections.abc import Mapping, Sequence
from typing import NamedTuple, Protocol

from extproc import traceparent
from extproc.call import Call
from extproc.model import Backend, Outcome
from extproc.surfaces import Surface
from extproc.timing import Span, Stage
from extproc.traceparent import Context


class Told(NamedTuple):
    """A call that has ended. `clock` is what its own times lack to be Unix time, in seconds."""

    context: Context
    record: Mapping[str, object]
    outcome: Outcome
    surface: Surface | None
    backend: Backend | None
    began: float
    ended: float
    stages: Mapping[Stage, Span]
    clock: float


class Tried(NamedTuple):
    """An attempt, as Envoy's record tells it. `began` is Unix time; `status` 0: there was no answer."""

    backend: str
    deployed: str | None
    status: int
    flag: str
    began: float
    seconds: float


Item = Told | tuple[Context, Tried] | bytes
"""What spans are made of: a call, an attempt with its parent, or a whole request of Envoy's own spans."""


class Outbox(Protocol):
    """Where what is told goes."""

    def put(self, item: Item) -> None:
        """Take an item. Never blocks, never raises."""


class Traces:
    """The traces of all calls of one worker."""

    def __init__(self, outbox: Outbox, share: float) -> None:
        """`share` of the calls whose callers do not say whether they are sampled."""
        self._outbox = outbox
        self._bound = traceparent.bound(share)
        self._bits = random.Random().getrandbits  # noqa: S311 - ids, which need not be hard to guess

    def begin(self, parents: Sequence[str], states: Sequence[str]) -> Context:
        """The place of a call, by the traceparents and tracestates that came with it; of several none counts."""
        parent = traceparent.read(parents[0]) if len(parents) == 1 else None
        if parent is None:
            return traceparent.root(self._bits, self._bound)
        told = traceparent.state(states) if states and parent.sampled else ""
        return traceparent.child(parent, told, self._bits)

    def tell(self, call: Call, outcome: Outcome, record: Mapping[str, object]) -> None:
        """Take the spans of a call that ends now. Never blocks."""
        context, surface = call.trace, call.place.surface if call.place else None
        if context is None or not context.sampled:
            return
        backend = call.catalogue.backends.get(call.backend or "")
        ended = time.monotonic()
        clock, stages = time.time() - ended, call.times.spans
        self._outbox.put(Told(context, record, outcome, surface, backend, call.started, ended, stages, clock))

    def tried(self, header: str, attempt: Tried) -> str | None:
        """Take the span of an attempt, a part of what this traceparent tells. Returns its trace, if that is sampled."""
        parent = None if header.endswith("-00") else traceparent.read(header)
        if parent is None or not parent.sampled:
            return None
        self._outbox.put((parent, attempt))
        return parent.trace

    def forward(self, request: bytes) -> None:
        """Take spans that Envoy made: an ExportTraceServiceRequest."""
        self._outbox.put(request)
