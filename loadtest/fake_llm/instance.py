"""One named provider: its records, its script and the responses it remembers."""

import asyncio
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import count

from loadtest.fake_llm.faults import Faults
from loadtest.fake_llm.recorder import Recorder
from loadtest.fake_llm.store import Store


@dataclass(slots=True)
class Instance:
    """The state of one port; `latency_ms` and `tokens_per_second` are defaults of its calls."""

    name: str
    recorder: Recorder
    latency_ms: float = 0
    tokens_per_second: float | None = None
    script: deque[Faults] = field(default_factory=deque)
    store: Store = field(default_factory=Store)
    serials: Iterator[int] = field(default_factory=lambda: count(1))
    """Numbers for ids; never starts again, so that ids stay unique when the records are reset."""
    connections: Iterator[int] = field(default_factory=lambda: count(1))
    release: asyncio.Event = field(default_factory=asyncio.Event)
    """What held calls wait for; each release lets go those that wait then."""

    def let_go(self) -> None:
        """Release the calls that are held now, and none that comes later."""
        self.release.set()
        self.release = asyncio.Event()
