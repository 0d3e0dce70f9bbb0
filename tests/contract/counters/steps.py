"""Steps of a store as the tests of every room take them."""

from extproc.stores.counters import Answer, Counter, Draw
from tests.support.counters import MINUTE, SECOND, Ground

LIFE = 30 * SECOND
OPEN = Counter("calls", 2)


def sliding(capacity: int = 10, length: int = MINUTE) -> Counter:
    return Counter("rate", capacity, sliding=length)


async def reserve(ground: Ground, hold: str, *draws: Draw, life: int = LIFE, slot: str = "slot") -> Answer:
    return await ground.store.reserve(slot, hold, draws, life)


async def extend(ground: Ground, hold: str, *draws: Draw, life: int = LIFE, slot: str = "slot") -> Answer:
    return await ground.store.extend(slot, hold, draws, life)


async def settle(ground: Ground, hold: str, *draws: Draw, event: bytes | None = None, slot: str = "slot") -> bool:
    return await ground.store.settle(slot, hold, draws, event)


async def granted(ground: Ground, hold: str, *draws: Draw, life: int = LIFE) -> list[int]:
    """Reserve what must be granted: what is used of each counter then."""
    answer = await reserve(ground, hold, *draws, life=life)
    assert answer.granted
    assert [reading.wait for reading in answer.readings] == [0] * len(draws)
    return [reading.used for reading in answer.readings]
