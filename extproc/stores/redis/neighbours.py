"""The neighbours in Redis, beside the answers that they lead to, under their epoch and on a connection of their own.

The scripts are lua/neighbours_*.lua. Every key is declared, has the hash tag of the answers and a time to live.
"""

import hashlib
from collections.abc import Callable
from importlib import resources

from extproc.stores.counters import CountersUnavailable
from extproc.stores.neighbours import BESIDE, LARGEST, MOST, PAGE, NeighboursUnavailable, News, Row
from extproc.stores.redis.batch import SharedConnection, words
from extproc.stores.redis.replies import Value

_STEPS = ("since", "add")
_NAMES = ("rows", "order", "ends")
_SILENCE_S = 1.0
"""For so long nothing may come or go before a connection counts as lost, if that is more than the wait."""
_MOST_UNDER_WAY = 500
_AT_ONCE = 100
_SLACK_MS = 60_000
_EPOCH_MS = 7 * 86_400_000  # as of the answers


def neighbour_keys(prefix: str) -> list[bytes]:
    """All that a purge has to delete."""
    return [f"{prefix}:{{gateway}}:neighbours:{name}".encode() for name in _NAMES]


class RedisNeighbours:
    """See NeighbourStore. `url` as redis-py reads it, `prefix` as of the answers, `wait` in seconds.

    `most_bytes` bounds all. `clock`: milliseconds, used in place of Redis' own time (for tests).
    """

    def __init__(
        self, url: str, wait: float, prefix: str, most_bytes: int, clock: Callable[[], int] | None = None
    ) -> None:
        scripts = _scripts()
        self._most = most_bytes
        self._clock = clock
        self._own = neighbour_keys(prefix)
        keys = [*self._own, f"{prefix}:{{gateway}}:answers:epoch".encode()]
        self._heads = {name: words(b"EVALSHA", _sha(script), b"%d" % len(keys), *keys) for name, script in scripts}
        self._words = 3 + len(keys)
        self._connection = SharedConnection(
            url,
            max(wait, _SILENCE_S),
            [script for _, script in scripts],
            lambda: None,
            most=_MOST_UNDER_WAY,
            is_wide=True,
            soon=wait,
        )

    async def since(self, partition: str, number: int, epoch: int = 0) -> News:
        command = self._command("since", partition, b"%d" % number, b"%d" % epoch, b"%d" % PAGE)
        return _news(await self._ask(command, soon=True))

    async def add(self, partition: str, digest: str, sealed: bytes, life: int, epoch: int) -> bool:
        if len(sealed) > LARGEST or len(sealed) + BESIDE > self._most:
            return False
        rest = (digest.encode(), sealed, b"%d" % life, b"%d" % epoch, b"%d" % self._most, b"%d" % MOST)
        return await self._ask(self._command("add", partition, *rest)) == [1]

    async def purge(self) -> None:
        """What is added under an epoch of before stays out only once the answers have been purged, too."""
        await self._ask(b"*%d\r\n%b" % (1 + len(self._own), words(b"UNLINK", *self._own)))

    async def close(self) -> None:
        await self._connection.close()

    def _command(self, name: str, partition: str, *rest: bytes) -> bytes:
        now = b"" if self._clock is None else b"%d" % self._clock()
        parts = words(now, partition.encode(), *rest)
        return b"*%d\r\n%b%b" % (self._words + 2 + len(rest), self._heads[name], parts)

    async def _ask(self, command: bytes, soon: bool = False) -> list[Value]:
        try:
            return await self._connection.ask(command, soon)
        except CountersUnavailable as trouble:
            raise NeighboursUnavailable(str(trouble)) from None


def _scripts() -> list[tuple[str, bytes]]:
    """The text of each step."""
    folder = resources.files(__package__) / "lua"
    begins = f"local BESIDE, SLACK, EPOCH_LIFE, AT_ONCE, ROUNDS = {BESIDE}, {_SLACK_MS}, {_EPOCH_MS}, {_AT_ONCE}, 5\n"
    begins += (folder / "neighbours_common.lua").read_text()
    return [(name, (begins + (folder / f"neighbours_{name}.lua").read_text()).encode()) for name in _STEPS]


def _sha(script: bytes) -> bytes:
    return hashlib.sha1(script, usedforsecurity=False).hexdigest().encode()


def _news(reply: list[Value]) -> News:
    """Raises NeighboursUnavailable where the reply is none of ours."""
    rows = []
    for number, digest, sealed in zip(reply[1::3], reply[2::3], reply[3::3], strict=False):
        if not (isinstance(number, int) and isinstance(digest, bytes) and isinstance(sealed, bytes)):
            raise NeighboursUnavailable("Redis says something else than it was asked")
        if len(sealed) <= LARGEST:
            rows.append(Row(number, digest.decode("ascii", "replace"), sealed))
    if not reply or not isinstance(reply[0], int):
        raise NeighboursUnavailable("Redis says something else than it was asked")
    return News(reply[0], tuple(rows))
