"""Cool-downs in Redis: one hash, which is asked for whole.

No call waits for it, and each worker asks a few times a second, so that redis-py's own client is fast enough.
"""

from collections.abc import Awaitable, Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib import resources
from typing import Any, cast

from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import RedisError

from extproc.stores.cooldowns import CooldownsUnavailable, Entry
from extproc.stores.redis.login import login_of


class RedisCooldowns:
    """See Cooldowns. `url` as redis-py reads it, `prefix` as of the counters.

    `wait`: seconds, about, within which every method answers or raises. `clock`: milliseconds, used in place of Redis'
    own time (for tests).
    """

    def __init__(
        self, url: str, wait: float = 0.5, prefix: str = "sluice", clock: Callable[[], int] | None = None
    ) -> None:
        plain, self._login = login_of(url)
        self._client: Redis = Redis.from_url(
            plain,
            credential_provider=self._login,
            decode_responses=True,
            socket_connect_timeout=wait,
            socket_timeout=wait,
            retry=Retry(NoBackoff(), 0),
        )
        self._key = f"{prefix}:cooldowns"
        self._clock = clock
        self._put = self._client.register_script(_script("cooldowns_put"))
        self._all = self._client.register_script(_script("cooldowns_all"))

    async def put(self, entries: Mapping[str, Entry]) -> None:
        words = [word for name, entry in entries.items() for word in (name, *entry)]
        with _in_our_words():
            await self._put([self._key], [self._now(), *words])

    async def all(self) -> Mapping[str, Entry]:
        with _in_our_words():
            if self._login is not None and self._login.newer():  # the next command opens a connection with it
                await self._client.connection_pool.disconnect(inuse_connections=False)
            found = cast(Sequence[str], await self._all([self._key], [self._now()]))
        fours = zip(found[::4], found[1::4], found[2::4], found[3::4], strict=True)
        return {name: Entry(int(wait), int(keep), why) for name, wait, keep, why in fours}

    async def drop(self, names: Collection[str]) -> None:
        if names:
            with _in_our_words():
                await cast(Awaitable[Any], self._client.hdel(self._key, *names))

    async def close(self) -> None:
        await self._client.aclose()

    def _now(self) -> str:
        return "" if self._clock is None else str(self._clock())


@contextmanager
def _in_our_words() -> Iterator[None]:
    """Say in the port's words that Redis did not answer, and nothing of what it said: that may name the server."""
    try:
        yield
    except (OSError, RedisError, TimeoutError) as error:
        raise CooldownsUnavailable(f"Redis does not do its part ({type(error).__name__})") from None


def _script(name: str) -> str:
    return (resources.files(__package__) / "lua" / f"{name}.lua").read_text()
