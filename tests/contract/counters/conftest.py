"""The store under test: each in turn, empty, with a clock that stands until it is moved."""

from collections.abc import AsyncIterator, Iterator

import pytest

from extproc.stores.counters import Counter
from tests.support.counters import Ground, ground_on, minute
from tests.support.redis_server import RedisServer, redis_server


@pytest.fixture(scope="module")
def server() -> Iterator[RedisServer]:
    with redis_server() as running:
        yield running


@pytest.fixture(params=["memory", "redis"])
async def ground(request: pytest.FixtureRequest) -> AsyncIterator[Ground]:
    server = request.getfixturevalue("server") if request.param == "redis" else None
    async with ground_on(server) as made:
        yield made


@pytest.fixture
def tokens(ground: Ground) -> Counter:
    """10 a minute."""
    return Counter("tokens", 10, minute(ground.clock.now))
