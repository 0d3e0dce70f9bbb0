"""What goes together when the tests run on several cores."""

import pytest


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """A file runs in one process, so that its fixtures are made once; the contract tests share one PostgreSQL."""
    for item in items:
        together = "contract" if item.path.parent.name == "contract" else str(item.path)
        item.add_marker(pytest.mark.xdist_group(together))
