"""What every contract is tested on."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.stores import Clock, Ground, ground_on


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture(params=["memory", "sqlite", "postgresql"])
def ground(request: pytest.FixtureRequest, clock: Clock, tmp_path: Path) -> Iterator[Ground]:
    with ground_on(request.param, clock, tmp_path) as made:
        yield made
