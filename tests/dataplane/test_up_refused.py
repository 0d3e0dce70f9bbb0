"""`sluice up` where Envoy refuses what it was given: Envoy calls itself ready all the same, so `up` has to look."""

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML
from typer.testing import CliRunner

from extproc.cli import app, envoy_files, up
from extproc.cli.envoy_admin import refused_by_envoy
from extproc.cli.processes import State
from extproc.config.schema import Gateway
from tests.support.ports import free_port

PLAIN = YAML(typ="safe")


Json = dict[str, Any]


def _spoil(path: Path, change: Callable[[Json], None]) -> None:
    tree = PLAIN.load(path)
    change(tree["resources"][0])
    with path.open("w") as file:
        PLAIN.dump(tree, file)


def _without_a_target(routes: Json) -> None:
    for host in routes["virtual_hosts"]:
        host["routes"] = [{"match": {"prefix": "/"}, "route": {}}]


def _without_an_address(listener: Json) -> None:
    listener["address"] = {}


@pytest.mark.parametrize(
    ("file", "change", "part"),
    [
        ("routes.yaml", _without_a_target, "the routes"),
        ("listeners.yaml", _without_an_address, "the listener"),
    ],
    ids=["routes", "listener"],
)
def test_what_envoy_refuses_is_told_and_is_not_ready(
    file: str, change: Callable[[Json], None], part: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    rendered = envoy_files.write_all

    async def spoiled(gateway: Gateway, state: State) -> None:
        await rendered(gateway, state)
        _spoil(state.envoy / file, change)

    def greet(_gateway: Gateway, _config: Path | None) -> None:
        pytest.fail("it said that it was ready")

    monkeypatch.setattr(envoy_files, "write_all", spoiled)
    monkeypatch.setattr(up, "_greet", greet)
    provider = free_port()
    settings = {
        "listener": {"address": "127.0.0.1", "port": free_port()},
        "metrics": {"port": free_port()},
        "fake_backend": {"port": provider},
        "backends": {"one": {"dialect": "openai", "url": f"http://127.0.0.1:{provider}"}},
        "models": {"gpt-4o": {"targets": [[{"backend": "one"}]]}},
    }
    with Path("gateway.yaml").open("w") as config:
        PLAIN.dump(settings, config)
    run = CliRunner().invoke(app, ["up"], env={"TERM": "dumb"})
    assert run.exit_code == 1
    told = " ".join(run.output.split())
    assert f"Envoy refuses {part}: calls would not be served. Its lines above say why." in told
    assert "please report it" in told


def test_an_envoy_that_is_gone_refuses_nothing(tmp_path: Path) -> None:
    assert asyncio.run(refused_by_envoy(tmp_path / "admin.sock")) == []
