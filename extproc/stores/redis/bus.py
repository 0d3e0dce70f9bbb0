"""The usage bus in Redis: the stream that settlements put their events onto, read by one group of consumers.

An entry is removed once the ledger has it. Of a consumer that is not heard of any more the others take over what it
took. The stream keeps about the last EVENTS entries, and may be lost with Redis' memory: `gaps` counts when something
may be missing in it, which then is in the spools. A group that does not know this consumer any more is another one,
whoever has made it: so each consumer learns of a loss by itself.
"""

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from extproc.stores.ledger import BusUnavailable, Event
from extproc.stores.redis.counters import EVENTS, slot_keys
from extproc.stores.redis.login import login_of

GROUP = "ledger"
TAKE_OVER_MS = 15_000
"""After how many milliseconds without being done an event is anybody's."""

_LOOK_S = 5.0  # between two looks for what others have left
_ANSWER_S = 5.0  # for a command, beside what it waits by itself
_FORGET_MS = 86_400_000  # since a consumer was heard of that has nothing
_START = "0"
_FRESH = ">"

Entries = list[tuple[bytes, dict[bytes, bytes] | None]]


class RedisBus:
    """See Bus. `consumer` names this one: nobody else may have the name, nor may it after a restart."""

    name = "redis"

    def __init__(
        self, url: str, prefix: str, slot: str, consumer: str, take_over_ms: int = TAKE_OVER_MS, most: int = EVENTS
    ) -> None:
        # Not tried again unseen: what an answer that was lost had taken would not come with the next one.
        never = Retry(NoBackoff(), 0)
        plain, self._login = login_of(url)
        self._redis = redis.Redis.from_url(
            plain,
            socket_timeout=_ANSWER_S,
            socket_connect_timeout=_ANSWER_S,
            protocol=2,
            retry=never,
            credential_provider=self._login,
        )
        self._sums, *_ = keys = slot_keys(prefix, slot)
        self._key = next(key for key in keys if key.endswith(":usage"))
        self._consumer = consumer
        self._take_over_ms = take_over_ms
        self._most = most
        self._from = _START  # what is ours already comes first
        self._looked = -_LOOK_S
        self._is_known: bool | None = None  # to the group; None: not looked yet
        self._newest: tuple[int, tuple[int, int]] = 0, (0, 0)  # how many entries there had been, and where the last
        self.gaps = 0

    def take(self, most: int) -> Sequence[Event]:
        with self._troubles():
            try:
                return self._ours(most) or self._left(most) or self._events(self._read(_FRESH, most))
            except redis.ResponseError as error:
                if not str(error).startswith("NOGROUP"):
                    raise
            is_there = self._begin()
            if is_there or self._is_known:
                self.gaps += 1
            self._is_known = is_there
            return ()

    def done(self, events: Sequence[Event]) -> None:
        places = [event.place for event in events]
        if not places:
            return
        with self._troubles(), self._redis.pipeline(transaction=True) as steps:
            steps.xack(self._key, GROUP, *places)
            steps.xdel(self._key, *places)
            steps.execute()

    def again(self) -> None:
        """Take once more what was taken and is not done."""
        self._from = _START

    def lag(self) -> float:
        with self._troubles():
            if self._redis.xlen(self._key) >= self._most or self._went_back():
                self.gaps += 1
            first: Any = self._redis.xrange(self._key, count=1)
            if not first:
                return 0.0
            seconds, microseconds = self._redis.time()
            return max(0.0, seconds + microseconds / 1e6 - _at(first[0][0]) / 1000)

    def newest(self) -> bytes:
        """The place of the last entry that ever was there; empty where there is no stream."""
        with self._troubles():
            return bytes(self._state().get("last-generated-id", b""))

    def waits_up_to(self, place: bytes) -> bool:
        """Whether something waits that came no later than this."""
        with self._troubles():
            return bool(place) and bool(self._redis.xrange(self._key, "-", place, count=1))

    def has_passed(self, place: bytes) -> bool:
        """Whether nothing waits any more that came no later than this, for all that is known: not after a loss."""
        gaps = self.gaps
        with self._troubles():
            try:
                return not self._known(lambda steps: steps.xrange(self._key, "-", place, count=1)) and gaps == self.gaps
            except redis.ResponseError:  # no stream, or no group: `take` says more
                return False

    def counted_since(self) -> int:
        """Since when the counters beside it remember, in milliseconds of Unix time; 0: they remember nothing."""
        with self._troubles():
            found: Any = self._redis.hget(self._sums, "since")
            return int(found or 0)

    def finish(self) -> None:
        """Nothing of it is on this machine."""

    @property
    def is_alone(self) -> bool:
        return False

    def left(self) -> tuple[int, str]:
        return 0, ""

    def close(self) -> None:
        self._redis.close()

    # ---- inside ----

    def _ours(self, most: int) -> Sequence[Event]:
        """What was taken under our name and is not done, from the first: after an answer that was lost."""
        while self._from != _FRESH:
            entries = self._read(self._from, most)
            self._from = entries[-1][0].decode() if entries else _FRESH
            if found := self._events(entries):
                return found
        return ()

    def _left(self, most: int) -> Sequence[Event]:
        """What somebody else took and has not done for long."""
        now = time.monotonic()
        if now - self._looked < _LOOK_S and self._take_over_ms:
            return ()
        answer = self._known(
            lambda steps: steps.xautoclaim(self._key, GROUP, self._consumer, self._take_over_ms, count=most)
        )
        found = self._events(answer[1])
        if not found:
            self._looked = now
            self._forget()
        return found

    def _forget(self) -> None:
        """Remove the names of consumers that are gone for good."""
        for one in self._redis.xinfo_consumers(self._key, GROUP):
            if one["idle"] > _FORGET_MS and not one["pending"]:
                self._redis.xgroup_delconsumer(self._key, GROUP, one["name"])

    def _read(self, start: str, most: int) -> Entries:
        answer = self._known(lambda steps: steps.xreadgroup(GROUP, self._consumer, {self._key: start}, count=most))
        return answer[0][1] if answer else []

    def _events(self, entries: Entries) -> Sequence[Event]:
        """Those whose entries are still there."""
        gone = [place for place, fields in entries if not fields]
        if gone:
            self.gaps += 1
            self._redis.xack(self._key, GROUP, *gone)
        return [Event(place, _at(place), b"".join(fields.values())) for place, fields in entries if fields]

    def _known(self, ask: Callable[[Any], object]) -> Any:
        """The answer to one command. In the same step it is looked whether the group knows us: else it is another."""
        with self._redis.pipeline(transaction=True) as steps:
            steps.xgroup_createconsumer(self._key, GROUP, self._consumer)
            ask(steps)
            is_new, answer = steps.execute(raise_on_error=False)
        for one in (answer, is_new):
            if isinstance(one, redis.RedisError):
                raise one
        if is_new and self._is_known is not None:
            self.gaps += 1
        self._is_known = True
        return answer

    def _begin(self) -> bool:
        """Make the group, at the first entry, where there is a stream; whether there is one."""
        with suppress(redis.ResponseError):  # there is none yet, or somebody else has just made the group
            self._redis.xgroup_create(self._key, GROUP, id=_START)
        try:
            self._redis.xgroup_createconsumer(self._key, GROUP, self._consumer)
        except redis.ResponseError:
            return False
        return True

    def _went_back(self) -> bool:
        """Whether the stream is an earlier state of itself: what a replica had, or an old file."""
        state = self._state()
        had, last = self._newest
        self._newest = state.get("entries-added", 0), _place(state.get("last-generated-id"))
        return bool(state) and (self._newest[0] < had or self._newest[1] < last)

    def _state(self) -> dict[str, Any]:
        """What Redis tells of the stream; empty where there is none."""
        try:
            return dict(self._redis.xinfo_stream(self._key))
        except redis.ResponseError:
            return {}

    @contextmanager
    def _troubles(self) -> Iterator[None]:
        if self._login is not None and self._login.newer():  # the next command opens a connection with it
            self._redis.connection_pool.disconnect(inuse_connections=False)
        try:
            yield
        except redis.RedisError as error:
            self.again()
            raise BusUnavailable(f"Redis does not answer: {type(error).__name__}") from None
        except OSError as error:
            self.again()
            raise BusUnavailable(f"Redis does not answer: {error.strerror}") from None


def _at(place: bytes) -> int:
    """The milliseconds of Unix time at which an entry was made."""
    return int(place.partition(b"-")[0])


def _place(place: bytes | None) -> tuple[int, int]:
    first, _, second = (place or b"0-0").partition(b"-")
    return int(first), int(second)
