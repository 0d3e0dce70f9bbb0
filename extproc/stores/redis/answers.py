"""The answers in Redis, for any number of workers: each step is one script, one round trip, on a connection of its own.

A large answer on its way so delays no counter, and a call that looks for an answer as it reserves waits for one round
trip, not two. The scripts are lua/answers_*.lua. All keys have the hash tag of the counters, so that one node of a
cluster has all that a gateway asks for, and every key is declared and has a time to live.
"""

import asyncio
import functools
import hashlib
from collections.abc import AsyncIterator, Callable, Sequence
from importlib import resources

import orjson

from extproc.stores.answers import BESIDE, LARGEST, AnswersUnavailable, Found, Kept, Labels
from extproc.stores.counters import CountersUnavailable
from extproc.stores.redis.batch import SharedConnection, words
from extproc.stores.redis.neighbours import neighbour_keys
from extproc.stores.redis.replies import Reply, Value

_STEPS = {
    "look": ("common",),
    "keep": ("common", "room"),
    "renew": ("common",),
    "release": ("common",),
    "purge": ("common", "room"),
    "scan": ("common",),
    "drop": ("common", "room"),
}
"""The scripts, and what comes before each."""

_KEYS = ("bodies", "records", "ends", "epoch", "claim:")
_TAG = "{gateway}"

_SILENCE_S = 1.0
"""For so long nothing may come or go before a connection counts as lost, if that is more than the wait."""

_SLACK_MS = 60_000
_EPOCH_MS = 7 * 86_400_000
"""The life of an epoch that nobody uses: longer than any call."""

_AT_ONCE = 200
"""A script keeps everybody else waiting: it deals with so many answers in one step. One that makes room does so up to
five times."""

_BREATH_S = 0.001
"""Between two such steps of all() and purge(): they are not urgent, and calls are."""

_MOST_UNDER_WAY = 1_000
"""Looks and other steps without a reply. Each may be for a large answer, that Redis has to have in memory until we
read it."""

_MOST_WRITING = 32 * 2**20
"""Bytes of answers that are being kept and not in Redis yet. Beyond them, and beyond one, further ones are not."""

_UNHEARD = 200
"""The most claims that perhaps were made, and that are remembered to be released."""


class RedisAnswers:
    """See AnswerStore. `url` as redis-py reads it: redis://, rediss://, unix://, with user, password and database.

    `wait`: seconds within which `look`, `renew` and `release` answer or raise. `prefix` sets this gateway's keys
    apart, `most_bytes` bounds all its answers, with what is counted beside each. `clock`: milliseconds, used in place
    of Redis' own time (for tests).
    """

    def __init__(
        self, url: str, wait: float, prefix: str, most_bytes: int, clock: Callable[[], int] | None = None
    ) -> None:
        scripts = _scripts()
        self._most = most_bytes
        self._clock = clock
        names = [f"{prefix}:{_TAG}:answers:{name}".encode() for name in _KEYS]
        self._keys, self._claim = names[:-1], names[-1]
        self._neighbours = neighbour_keys(prefix)  # whose answers are here, and which hold text
        self._heads = {name: self._head(script) for name, script in scripts.items()}
        self._unheard: dict[tuple[str, str], None] = {}  # digests and claims, oldest first
        self._writing = 0
        self._connection = SharedConnection(
            url,
            max(wait, _SILENCE_S),
            list(scripts.values()),
            self._connected,
            most=_MOST_UNDER_WAY,
            is_wide=True,
            soon=wait,
        )

    async def look(self, digest: str, claim: str = "", life: int = 0) -> Found:
        most = b"%d" % min(LARGEST, self._most)
        command = self._command("look", digest, digest.encode(), most, claim.encode(), b"%d" % life)
        try:
            reply = await self._ask(command, soon=True)
        except (AnswersUnavailable, asyncio.CancelledError):
            self.give_back(digest, claim)
            raise
        return _found(reply)

    async def keep(self, digest: str, sealed: bytes, labels: Labels, life: int, epoch: int, claim: str = "") -> bool:
        size = len(sealed)
        if size > LARGEST or size + BESIDE > self._most:
            await self.release(digest, claim)
            return False
        if self._writing and self._writing + size > _MOST_WRITING:
            self.give_back(digest, claim)
            raise AnswersUnavailable("too many answers are being kept")
        named = orjson.dumps([labels.team, labels.model, labels.key])[1:]
        rest = (digest.encode(), sealed, named, b"%d" % life, b"%d" % epoch, claim.encode(), b"%d" % self._most)
        self._writing += size
        try:
            reply = await self._ask(self._command("keep", digest, *rest))
        except (AnswersUnavailable, asyncio.CancelledError):
            self.give_back(digest, claim)
            raise
        finally:
            self._writing -= size
        return reply == [1]

    async def renew(self, digest: str, claim: str, life: int) -> bool:
        return await self._ask(self._command("renew", digest, claim.encode(), b"%d" % life), soon=True) == [1]

    async def release(self, digest: str, claim: str) -> None:
        if claim:
            await self._ask(self._command("release", digest, claim.encode()), soon=True)

    async def all(self) -> AsyncIterator[Sequence[Kept]]:
        seen = set[str]()
        async for now, some in self._scan():
            alive = [one for _, one in some if one is not None and one.ends > now]
            new = {one.digest: one for one in alive if one.digest not in seen}
            seen |= new.keys()
            yield list(new.values())

    async def purge(self, which: Callable[[Kept], bool]) -> int:
        await self._ask(self._command("purge", ""))
        await self._ask(b"*%d\r\n%b" % (1 + len(self._neighbours), words(b"UNLINK", *self._neighbours)))
        gone = 0
        async for now, some in self._scan():
            going = [digest for digest, one in some if one is None or one.ends <= now or which(one)]
            for at in range(0, len(going), _AT_ONCE):
                match await self._ask(self._command("drop", "", *going[at : at + _AT_ONCE])):
                    case [int(alive)]:
                        gone += alive
        return gone

    async def close(self) -> None:
        await self._connection.close()

    # ---- commands ----

    def _head(self, script: bytes) -> bytes:
        sha = hashlib.sha1(script, usedforsecurity=False).hexdigest().encode()
        return words(b"EVALSHA", sha, b"%d" % len(_KEYS), *self._keys)

    def _command(self, name: str, digest: str, *rest: bytes) -> bytes:
        now = b"" if self._clock is None else b"%d" % self._clock()
        parts = words(self._claim + digest.encode(), now, *rest)
        return b"*%d\r\n%b%b" % (len(_KEYS) + 4 + len(rest), self._heads[name], parts)

    async def _ask(self, command: bytes, soon: bool = False) -> list[Value]:
        try:
            return await self._connection.ask(command, soon)
        except CountersUnavailable as trouble:
            raise AnswersUnavailable(str(trouble)) from None

    async def _scan(self) -> AsyncIterator[tuple[int, list[tuple[bytes, Kept | None]]]]:
        """The store's time, and some of what is there: digests, and what is known of each, if it can be read."""
        cursor = b"0"
        while True:
            match await self._ask(self._command("scan", "", cursor, b"%d" % _AT_ONCE)):
                case [int(now), bytes(cursor), *rest]:
                    texts = [text for text in rest if isinstance(text, bytes)]
                    both = zip(texts[::2], texts[1::2], strict=False)
                    yield now, [(digest, _kept(digest, record)) for digest, record in both if digest]
                case _:
                    raise AnswersUnavailable("Redis says something else than it was asked")
            if cursor == b"0":
                return
            await asyncio.sleep(_BREATH_S)

    # ---- claims that end, and those of which nobody knows whether they were made ----

    def give_back(self, digest: str, claim: str) -> None:
        """Now, or first thing on the next connection; that the claim runs out is the last net."""
        if not claim:
            return
        self._unheard[digest, claim] = None
        while len(self._unheard) > _UNHEARD:
            del self._unheard[next(iter(self._unheard))]
        self._send_back(digest, claim)

    def _connected(self) -> None:
        for digest, claim in self._unheard:
            self._send_back(digest, claim)

    def _send_back(self, digest: str, claim: str) -> None:
        try:
            reply = self._connection.send(self._command("release", digest, claim.encode()))
        except CountersUnavailable:
            return
        reply.add_done_callback(functools.partial(self._sent_back, digest, claim))

    def _sent_back(self, digest: str, claim: str, reply: asyncio.Future[Reply]) -> None:
        if not reply.cancelled() and reply.exception() is None and not isinstance(reply.result(), bytes):
            self._unheard.pop((digest, claim), None)


def _scripts() -> dict[str, bytes]:
    """The text of each step."""
    folder = resources.files(__package__) / "lua"
    text = {path.name: path.read_text() for path in folder.iterdir() if path.name.startswith("answers_")}
    begins = f"local BESIDE, SLACK, EPOCH_LIFE, AT_ONCE, ROUNDS = {BESIDE}, {_SLACK_MS}, {_EPOCH_MS}, {_AT_ONCE}, 5\n"
    return {
        name: (begins + "".join([text[f"answers_{part}.lua"] for part in (*before, name)])).encode()
        for name, before in _STEPS.items()
    }


def _found(reply: list[Value]) -> Found:
    match reply:
        case [sealed, int(state), int(epoch)] if not isinstance(sealed, int):
            return Found(sealed, state == 1, state == 2, epoch)
        case _:
            raise AnswersUnavailable("Redis says something else than it was asked")


def _kept(digest: bytes, record: bytes) -> Kept | None:
    """What a record says; None for one that is not ours."""
    try:
        match orjson.loads(record):
            case [int(made), int(ends), int(size), str(team), str(model), str(key)]:
                return Kept(digest.decode(), Labels(team, model, key), made, ends, size)
    except ValueError:
        pass
    return None
