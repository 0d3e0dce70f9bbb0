"""The gateway that most tests of this tier share: every dialect, one fake provider each."""

from collections.abc import Iterator
from typing import Any

import pytest

from tests.support.fake import FakeProvider
from tests.support.gateway import RunningGateway

AZURE_API_VERSION = "2024-10-21"


def standard_settings(fake: FakeProvider) -> dict[str, Any]:
    """Backends of every dialect, each on its own instance of the fake, each with its own credential."""
    return {
        "backends": {
            "openai": {"dialect": "openai", "url": fake.url("openai"), "credential": {"env": "OPENAI_SECRET"}},
            "azure": {
                "dialect": "azure-openai",
                "url": fake.url("azure"),
                "api_version": AZURE_API_VERSION,
                "credential": {"env": "AZURE_SECRET"},
            },
            "azure-v1": {"dialect": "azure-openai", "url": fake.url("azure-v1"), "credential": {"env": "AZURE_SECRET"}},
            "anthropic": {
                "dialect": "anthropic",
                "url": fake.url("anthropic"),
                "credential": {"env": "ANTHROPIC_SECRET"},
            },
        },
        "models": {
            "gpt-4o": {"aliases": ["azure-gpt-4o"], "targets": [[{"backend": "openai"}]]},
            "gpt-4o-mini": {"targets": [[{"backend": "openai", "model": "gpt-4o-mini-2024-07-18"}]]},
            "gpt-4o-azure": {"targets": [[{"backend": "azure", "model": "gpt-4o-swe"}]]},
            "gpt-4o-azure-v1": {"targets": [[{"backend": "azure-v1", "model": "gpt-4o-v1"}]]},
            "gpt-4o-chain": {
                "targets": [
                    [{"backend": "azure", "model": "gpt-4o-swe"}],
                    [{"backend": "openai", "model": "gpt-4o"}],
                    [{"backend": "azure-v1", "model": "a-much-longer-deployment-name"}],
                ]
            },
            "claude-sonnet-5-5": {"targets": [[{"backend": "anthropic"}]]},
            "text-embedding-3-small": {"targets": [[{"backend": "openai"}]]},
            "whisper-1": {"targets": [[{"backend": "openai"}]]},
            "whisper-chain": {
                "targets": [[{"backend": "openai", "model": "whisper-1"}], [{"backend": "azure", "model": "whisper"}]]
            },
            "gpt-4o-mini-tts": {"targets": [[{"backend": "openai"}]]},
            "gpt-image-1": {"targets": [[{"backend": "openai"}]]},
            "omni-moderation-latest": {"targets": [[{"backend": "openai"}]]},
            "rerank-v3.5": {"targets": [[{"backend": "openai"}]]},
        },
        "default_models": {"moderations": "omni-moderation-latest"},
    }


SECRETS = {"OPENAI_SECRET": "secret-openai", "AZURE_SECRET": "secret-azure", "ANTHROPIC_SECRET": "secret-anthropic"}
"""What each dialect's backends must be sent, and no other ever."""


@pytest.fixture(scope="session")
def fake() -> Iterator[FakeProvider]:
    with FakeProvider("openai", "azure", "azure-v1", "anthropic") as provider:
        yield provider


@pytest.fixture(scope="session")
def shared_gateway(fake: FakeProvider) -> Iterator[RunningGateway]:
    with RunningGateway(standard_settings(fake), SECRETS) as running:
        yield running


@pytest.fixture
def gateway(shared_gateway: RunningGateway, fake: FakeProvider) -> RunningGateway:
    """The shared gateway, with nothing scripted and nothing recorded at the fakes."""
    fake.reset()
    return shared_gateway
