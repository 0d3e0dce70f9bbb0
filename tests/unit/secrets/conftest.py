"""Azure on loopback, for this process."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support import azure
from tests.support.azure import Azure


@pytest.fixture(scope="session")
def pem(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return azure.certificate(tmp_path_factory.mktemp("azure"))


@pytest.fixture
def cloud(pem: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Azure]:
    """It is found by whoever asks the SDK, and knows one application's secret and one secret of a vault."""
    with azure.serving(Azure(pem=pem, client_secrets={"app": "the-right-secret"})) as serving:
        for name, value in serving.environ.items():
            monkeypatch.setenv(name, value)
        serving.secrets["our-keys", "openai"] = "sk-of-the-vault"
        yield serving
