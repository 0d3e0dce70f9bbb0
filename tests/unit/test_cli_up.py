"""`sluice up` where it cannot start: what it says has to lead to a gateway that works."""

import socket
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from typer.testing import CliRunner

from extproc.cli import app

CONFIG = """
listener: {{port: {0}}}
metrics: {{port: {1}}}
fake_backend: {{port: {2}}}
backends: {{one: {{dialect: openai, url: "http://127.0.0.1:{2}"}}}}
models: {{gpt-4o: {{targets: [[{{backend: one}}]]}}}}
"""


@pytest.fixture
def taken() -> Iterator[list[int]]:
    with ExitStack() as sockets:
        yield [sockets.enter_context(socket.create_server(("127.0.0.1", 0))).getsockname()[1] for _ in range(3)]


def test_the_fake_provider_moves_with_the_backends_that_call_it(
    taken: list[int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its port has no advice about the environment: moved there alone, every call would be answered by a 503."""
    monkeypatch.chdir(tmp_path)
    Path("gateway.yaml").write_text(CONFIG.format(*taken))
    run = CliRunner().invoke(app, ["up"], env={"TERM": "dumb"})
    assert run.exit_code == 1
    listener, metrics, fake = run.output.splitlines()
    assert listener.startswith(f"Port {taken[0]} on ")
    assert listener.endswith("`listener.port` in the configuration, or SLUICE__LISTENER__PORT in the environment.")
    assert metrics.endswith("`metrics.port` in the configuration, or SLUICE__METRICS__PORT in the environment.")
    assert fake.endswith("`fake_backend.port` in the configuration, with the `url` of the backends that call it.")
