"""For the tests of the charts."""

import contextlib

import pytest

from tests.support.helm import helm


def pytest_collection_finish(session: pytest.Session) -> None:
    """Helm is built before the first test, which would not have the minutes that it takes."""
    if session.items and not session.config.option.collectonly:
        with contextlib.suppress(pytest.skip.Exception):  # each test that needs it says so
            helm()
