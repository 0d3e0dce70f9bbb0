"""The port of what workers and replicas tell each other about cool-downs and circuits.

Waits travel as durations and are kept by the store's own clock: no worker's clock is ever compared with another's.
All of it may be lost at any time: it costs one refused attempt each to learn it again.
"""

from collections.abc import Callable, Collection, Mapping
from typing import NamedTuple, Protocol


class CooldownsUnavailable(Exception):
    """The store does not answer, or not in time."""


class Entry(NamedTuple):
    """A name is left alone for `wait` milliseconds; it is remembered for `keep` more, in which `wait` is below 0."""

    wait: int
    keep: int
    why: str


class Cooldowns(Protocol):
    """Every method raises CooldownsUnavailable. Names are the configuration's, so there are not many."""

    async def put(self, entries: Mapping[str, Entry]) -> None:
        """Note entries. Of two with one name, the one stays that has to wait until later."""

    async def all(self) -> Mapping[str, Entry]:
        """Those that are remembered, with the waits that are left."""

    async def drop(self, names: Collection[str]) -> None:
        """Forget these names."""

    async def close(self) -> None:
        """Let go of connections."""


class MemoryCooldowns:
    """See Cooldowns. `clock` tells milliseconds."""

    def __init__(self, clock: Callable[[], int]) -> None:
        self._clock = clock
        self._entries: dict[str, Entry] = {}  # with the time at which the wait ends in place of the wait

    async def put(self, entries: Mapping[str, Entry]) -> None:
        now = self._clock()
        for name, entry in entries.items():
            known, until = self._entries.get(name), now + entry.wait
            if known is None or until > known.wait:
                self._entries[name] = entry._replace(wait=until)

    async def all(self) -> Mapping[str, Entry]:
        now = self._clock()
        self._entries = {name: entry for name, entry in self._entries.items() if entry.wait + entry.keep > now}
        return {name: entry._replace(wait=entry.wait - now) for name, entry in self._entries.items()}

    async def drop(self, names: Collection[str]) -> None:
        for name in names:
            self._entries.pop(name, None)

    async def close(self) -> None:
        """There is nothing to let go of."""
