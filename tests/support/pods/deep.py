"""The mark of tests that take a minute or more for one pod or several: `make deep-pods` runs them, too."""

import os

import pytest

deep = pytest.mark.skipif("SLUICE_DEEP_PODS" not in os.environ, reason="takes a minute or more: make deep-pods")
