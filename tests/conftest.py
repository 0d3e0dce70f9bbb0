"""For all tiers."""

import functools
import os
from collections.abc import Iterator

import httpx
import httpx2
import pytest
from hypothesis import settings

# How long an example takes is the machine's affair. `make deep-laws` tries many more.
settings.register_profile("project", deadline=None, max_examples=int(os.environ.get("SLUICE_EXAMPLES", "40")))
settings.load_profile("project")


@pytest.fixture(scope="session", autouse=True)
def authorities_read_once() -> Iterator[None]:
    """A client that is made reads all authorities of the web, for 20 ms of work, and the tests make thousands."""
    with pytest.MonkeyPatch.context() as patch:
        for library in (httpx, httpx2):
            once = functools.cache(library.create_ssl_context)
            patch.setattr(f"{library.__name__}._transports.default.create_ssl_context", once)
        yield
