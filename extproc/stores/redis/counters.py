"""The counters in Redis, on one event loop of any number of processes: each step is one script, one round trip.

The scripts (lua/) do what memory_counters.py says. All keys of a slot carry it as their hash tag, so that Redis
Cluster has them in one place, and every key is declared. Amounts are whole numbers up to MOST, which Lua's doubles
hold exactly. Nothing stays for ever: each key has a time to live.
"""

import asyncio
import functools
import hashlib
import struct
from collections.abc import Callable, Sequence
from importlib import resources
from typing import cast

from extproc.stores.counters import (
    CALM,
    DAY,
    GRACE,
    MARK,
    MOST,
    QUIET,
    SWEEP,
    Answer,
    Counter,
    Draw,
    MemoryLost,
    Reading,
    Renewal,
    checked,
)
from extproc.stores.redis.batch import SharedConnection, Unanswered, words
from extproc.stores.redis.replies import Reply

_STEPS = {
    "reserve": ("common", "places", "draws", "endings", "sweep"),
    "extend": ("common", "places", "draws", "more"),
    "retake": ("common", "places", "draws", "more", "endings"),
    "renew": ("common",),
    "settle": ("common", "places", "endings"),
    "expire": ("common", "endings", "sweep"),
    "undo": ("common", "endings"),
}
"""The scripts, and what comes before each."""

_KEYS = ("sums", "ends", "past", "usage")
EVENTS = 100_000
"""About the most events of a slot that wait on the usage bus. The ledger's own copy is each worker's spool."""

_AT_ONCE = 200
"""A script keeps everybody else waiting: expire() and renew() deal with so many holds in one step."""

_BREATH_S = 0.005
"""Between two such steps of renew(): they are not urgent, and calls are."""

_FORGOTTEN = 2
"""What a step says in place of 0 or 1 where the caller knows of another time."""

_UNKNOWN = 1_000
"""The most reserves without an answer that are remembered, to be given back."""

# Draws travel as MessagePack, which Redis unpacks faster than anything else, and fastest where nothing is nested:
# texts (0xdb), and numbers as doubles (0xcb), which is what Lua makes of them anyway. Holds' names are a list (0xdc).
_F = 0xCB
_NUMBER = struct.Struct(">Bd").pack
_NUMBERS_2 = struct.Struct(">BdBd").pack
_NUMBERS_4 = struct.Struct(">BdBdBdBd").pack


class RedisCounters:
    """See Counters. `url` as redis-py reads it: redis://, rediss://, unix://, with user, password and database.

    `wait`: seconds, about, within which every method answers or raises CountersUnavailable. `prefix` sets this
    gateway's keys apart. `clock`: milliseconds, used in place of Redis' own time (for tests). Raises ValueError
    where a step's draws are not what `checked` asks for.
    """

    def __init__(
        self, url: str, wait: float = 0.05, prefix: str = "sluice", clock: Callable[[], int] | None = None
    ) -> None:
        all_scripts = scripts()
        self._shas = {name: _sha(script) for name, script in all_scripts.items()}
        self._prefix = prefix
        self._clock = clock
        self._unknown: dict[tuple[str, str], None] = {}  # slots and holds that were perhaps reserved, oldest first
        self._connection = SharedConnection(url, wait, list(all_scripts.values()), self._undo)

    @property
    def connections(self) -> int:
        return self._connection.made

    async def reserve(
        self, slot: str, hold: str, draws: Sequence[Draw], life: int, since: int = 0, note: bytes = b""
    ) -> Answer:
        self._unknown.pop((slot, hold), None)
        try:
            command = self._command("reserve", slot, hold, b"%d" % life, _packed(draws), b"%d" % since, note)
            return _answer(cast(list[int], await self._connection.ask(command)))
        except Unanswered:
            self._note(slot, hold)
            raise

    async def extend(self, slot: str, hold: str, draws: Sequence[Draw], life: int, since: int = 0) -> Answer:
        return _answer(await self._step("extend", slot, hold, b"%d" % life, _packed(draws), b"%d" % since))

    async def retake(self, slot: str, hold: str, draws: Sequence[Draw], life: int, note: bytes = b"") -> None:
        self._unknown.pop((slot, hold), None)
        await self._step("retake", slot, hold, b"%d" % life, _packed(draws), note)

    async def renew(self, slot: str, holds: Sequence[str], life: int, since: int = 0) -> Renewal:
        began, gone = since, list[str]()
        for at in range(0, max(len(holds), 1), _AT_ONCE):
            if at:
                await asyncio.sleep(_BREATH_S)
            piece = holds[at : at + _AT_ONCE]
            began, *missing = await self._step("renew", slot, "", b"%d" % life, _names(piece), b"%d" % since)
            gone += [piece[number] for number in missing]
        return Renewal(began, tuple(gone))

    async def settle(
        self, slot: str, hold: str, draws: Sequence[Draw], event: bytes | None = None, ago: int = 0
    ) -> bool:
        rest = (_packed(draws), b"%d" % ago) if event is None else (_packed(draws), b"%d" % ago, event)
        return await self._connection.ask(self._command("settle", slot, hold, *rest)) == [1]

    async def expire(self, slot: str) -> int:
        closed = 0
        while True:
            (some,) = await self._step("expire", slot, "", b"%d" % _AT_ONCE)
            closed += some
            if some < _AT_ONCE:
                return closed

    def be_patient(self, seconds: float) -> None:
        self._connection.be_patient(seconds)

    async def close(self) -> None:
        await self._connection.close()

    async def _step(self, name: str, slot: str, hold: str, *rest: bytes) -> list[int]:
        return cast(list[int], await self._connection.ask(self._command(name, slot, hold, *rest)))

    def _command(self, name: str, slot: str, hold: str, *rest: bytes) -> bytes:
        head, done = _head(self._shas[name], self._prefix, slot)
        now = b"" if self._clock is None else b"%d" % self._clock()
        named = hold.encode()
        return b"*%d\r\n%b%b" % (len(_KEYS) + 6 + len(rest), head, words(done + named, now, named, *rest))

    # ---- reserves of which nobody knows whether they were taken ----

    def _note(self, slot: str, hold: str) -> None:
        """An undo leaves no mark of the hold, so that its caller may still reserve it again, or settle it."""
        self._unknown[slot, hold] = None
        while len(self._unknown) > _UNKNOWN:
            del self._unknown[next(iter(self._unknown))]

    def _undo(self) -> None:
        """Give back, first thing on a new connection, what may have been taken; the hold's life is the last net."""
        for slot, hold in self._unknown:
            reply = self._connection.send(self._command("undo", slot, hold))
            reply.add_done_callback(functools.partial(self._undone, slot, hold))

    def _undone(self, slot: str, hold: str, reply: asyncio.Future[Reply]) -> None:
        if not reply.cancelled() and reply.exception() is None and not isinstance(reply.result(), bytes):
            self._unknown.pop((slot, hold), None)


def scripts() -> dict[str, bytes]:
    """The text of each step."""
    folder = resources.files(__package__) / "lua"
    text = {path.name: path.read_text() for path in folder.iterdir()}
    begins = f"local DAY, MARK, GRACE, QUIET, CALM = {DAY}, {MARK}, {GRACE}, {QUIET}, {CALM}\n"
    begins += f"local SWEEP, EVENTS = {SWEEP}, '{EVENTS}'\n"
    return {
        name: (begins + "".join([text[f"{part}.lua"] for part in (*before, name)])).encode()
        for name, before in _STEPS.items()
    }


def _sha(script: bytes) -> bytes:
    return hashlib.sha1(script, usedforsecurity=False).hexdigest().encode()


def _tag(slot: str) -> str:
    """A slot as a hash tag, which ends at the first brace and is none where it is empty."""
    return slot.replace("%", "%25").replace("{", "%7B").replace("}", "%7D") or "%"


def slot_keys(prefix: str, slot: str) -> list[str]:
    """The keys that every step in a slot declares; the last is to be followed by the name of the hold."""
    return [f"{prefix}:{{{_tag(slot)}}}:{name}" for name in (*_KEYS, "done:")]


@functools.lru_cache(4096)
def _head(sha: bytes, prefix: str, slot: str) -> tuple[bytes, bytes]:
    """The words of a step that are the same for every hold, and the beginning of the hold's own key."""
    *keys, done = [key.encode() for key in slot_keys(prefix, slot)]
    return words(b"EVALSHA", sha, b"%d" % (len(keys) + 1), *keys), done


def _packed(draws: Sequence[Draw]) -> bytes:
    """The draws as the scripts read them. Raises ValueError."""
    parts: list[bytes] = []
    for counter, units, kept in draws:
        prepared = counter.prepared
        if not prepared or not 0 <= units | kept <= MOST:  # which is all ones
            checked((Draw(counter, units, kept),))
            prepared = _prepared(counter)
        parts += (_NUMBERS_2(_F, kept, _F, units), prepared)
    if len(draws) > 1 and len({draw[0].key for draw in draws}) != len(draws):
        checked(draws)
    return b"".join(parts)


def _prepared(counter: Counter) -> bytes:
    """What the scripts read of a counter itself. It has it from then on: who keeps counters draws on them in each
    call.
    """
    key, windows, length = counter.key, counter.windows, counter.sliding
    if windows:
        places = [(f"c{window.start}_{window.end}:{key}", window.end) for window in windows]
    else:
        places = [(f"s{length}:{key}" if length else f"o:{key}", 0)]
    own = _text(key) + _NUMBERS_4(_F, counter.capacity, _F, counter.enforced, _F, length, _F, len(places))
    made = own + b"".join([_text(field) + _NUMBER(_F, end) for field, end in places])
    object.__setattr__(counter, "prepared", made)
    return made


def _names(holds: Sequence[str]) -> bytes:
    return b"".join([b"\xdc", len(holds).to_bytes(2), *[_text(hold) for hold in holds]])


def _text(text: str) -> bytes:
    encoded = text.encode()
    return b"\xdb" + len(encoded).to_bytes(4) + encoded


def _answer(reply: list[int]) -> Answer:
    if reply[0] == _FORGOTTEN:
        raise MemoryLost("Redis has lost its memory, and is being told again what was used")
    readings = [
        Reading(used, reset, None if wait < 0 else wait, held)
        for used, reset, wait, held in zip(reply[1::4], reply[2::4], reply[3::4], reply[4::4], strict=True)
    ]
    return Answer(reply[0] == 1, tuple(readings))
