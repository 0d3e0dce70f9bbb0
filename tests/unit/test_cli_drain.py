"""How long a drain takes, what it does in which order, and that it is done once."""

import asyncio
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from extproc.cli import app, drain
from extproc.cli.drain import Times, drained, remember, times_of
from extproc.cli.health import Health
from extproc.cli.processes import State
from extproc.config.schema import Gateway


def gateway(**changes: Any) -> Gateway:
    return Gateway.model_validate(
        {
            "backends": {"a": {"dialect": "openai", "url": "http://127.0.0.1:1"}},
            "models": {"m": {"targets": [[{"backend": "a"}]]}},
            **changes,
        }
    )


@pytest.mark.parametrize(
    ("address", "notice", "expected"),
    [
        *(("127.0.0.1", None, 0), ("::1", None, 0), ("0.0.0.0", None, 5), ("::", None, 5)),
        *(("127.0.0.1", "3s", 3), ("0.0.0.0", "1m", 60), ("0.0.0.0", 0, 0)),
    ],
)
def test_load_balancers_have_time_where_there_may_be_any(address: str, notice: Any, expected: float) -> None:
    timeouts = {"drain": "7s"} | ({} if notice is None else {"notice": notice})
    assert times_of(gateway(listener={"address": address}, timeouts=timeouts)) == Times(expected, 7)


class Envoy:
    """Answers in place of the real one. `calls`: how many are live at each look; None where it does not say."""

    def __init__(self, state: State, calls: list[int | None]) -> None:
        self.is_there = True
        self.seen: list[str] = []
        self._state = state
        self._calls = calls

    async def discourage(self, _: Path) -> bool:
        assert self._state.draining.exists()  # workers say so, too
        assert not self._state.drained.exists()
        self.seen.append("discourage")
        return self.is_there

    async def stop_listening(self, _: Path) -> bool:
        self.seen.append("stop")
        return True

    async def live_calls(self, _: Path) -> int | None:
        self.seen.append("look")
        return self._calls.pop(0) if len(self._calls) > 1 else self._calls[0]


@pytest.fixture
def state(tmp_path: Path) -> State:
    made = State(tmp_path)
    made.make()
    return made


def envoy(state: State, monkeypatch: pytest.MonkeyPatch, *calls: int | None) -> Envoy:
    made = Envoy(state, [*calls])
    for name in ("discourage", "stop_listening", "live_calls"):
        monkeypatch.setattr(drain, name, getattr(made, name))
    monkeypatch.setattr(drain, "_LOOK_S", 0.001)
    monkeypatch.setattr(drain, "_TOLD_S", 0.0)
    return made


async def test_a_drain_goes_in_order_and_says_what_it_waits_for(state: State, monkeypatch: pytest.MonkeyPatch) -> None:
    there, said = envoy(state, monkeypatch, 3, 3, None, 1, 0), list[str]()
    assert await drained(state, Times(0.001, 60), said.append)
    assert there.seen == ["discourage", "stop", *["look"] * 5]
    assert state.drained.exists()
    assert said == [
        "Not ready from now on; what comes within 0.001 s is served.",
        "No new connections; live calls may end, for up to 60 s.",
        "Live calls: 3.",
        "Live calls: 1.",
        "No call is left.",
    ]


@pytest.mark.parametrize("calls", [2, None])
async def test_a_drain_ends_when_its_time_is_up(
    state: State, monkeypatch: pytest.MonkeyPatch, calls: int | None
) -> None:
    envoy(state, monkeypatch, calls)
    assert not await drained(state, Times(0, 0.02), lambda _: None)
    assert state.drained.exists()


async def test_two_who_drain_at_once_do_it_once(state: State, monkeypatch: pytest.MonkeyPatch) -> None:
    there, said = envoy(state, monkeypatch, 1, 1, 0), list[str]()
    both = await asyncio.gather(*(drained(state, Times(0.01, 60), said.append) for _ in range(2)))
    assert both == [True, True]
    assert there.seen.count("discourage") == 1
    assert said[-1] == "The gateway has been drained."


async def test_without_an_envoy_there_is_nothing_to_wait_for(state: State, monkeypatch: pytest.MonkeyPatch) -> None:
    there = envoy(state, monkeypatch, 7)
    there.is_there = False
    assert await drained(state, Times(60, 60), lambda _: None)
    assert there.seen == ["discourage"]
    assert state.drained.exists()


def test_the_command_goes_by_what_the_gateway_was_started_with(
    state: State, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The file has become wrong, and is not read where the environment names the folder."""
    envoy(state, monkeypatch, 0)
    remember(gateway(timeouts={"drain": "9s"}), state)
    wrong = tmp_path / "gateway.yaml"
    wrong.write_text("models: 7")
    run = CliRunner().invoke(app, ["drain", "-c", str(wrong)], env={"SLUICE__STATE_DIR": str(tmp_path)})
    assert (run.exit_code, run.stdout) == (0, "")
    assert "for up to 9 s." in run.stderr
    again = CliRunner().invoke(app, ["drain"], env={"SLUICE__STATE_DIR": str(tmp_path)})
    assert (again.exit_code, again.stderr) == (0, "The gateway has been drained.\n")


def test_a_folder_in_which_no_gateway_runs_is_told(tmp_path: Path) -> None:
    run = CliRunner().invoke(app, ["drain"], env={"SLUICE__STATE_DIR": str(tmp_path)})
    assert run.exit_code == 1
    assert f"No gateway runs in the folder {tmp_path}" in run.stderr


# ---- /healthz -----------------------------------------------------------------------------------------


def answer(health: Health, path: str) -> tuple[str, bytes]:
    told: list[str] = []

    def start(status: str, _: object) -> None:
        told.append(status)

    def other(_: dict[str, Any], start: Any) -> list[bytes]:
        start("200 OK", [])
        return [b"metrics"]

    (body,) = health.before(other)({"PATH_INFO": path}, start)
    return told[0], body


async def test_health_needs_every_worker_once_and_then_any(tmp_path: Path) -> None:
    sockets = [tmp_path / "one", tmp_path / "two"]
    health = Health()
    assert answer(health, "/healthz") == ("503 Service Unavailable", b"starting\n")
    assert answer(health, "/metrics") == ("200 OK", b"metrics")
    servers = [await asyncio.start_unix_server(lambda *_: None, path) for path in sockets]
    health.have_answered(sockets)
    assert answer(health, "/healthz") == ("200 OK", b"ok\n")
    servers[0].close()
    assert answer(health, "/healthz") == ("200 OK", b"ok\n")
    servers[1].close()
    assert answer(health, "/healthz") == ("503 Service Unavailable", b"no worker answers\n")
    assert answer(health, "/metrics") == ("200 OK", b"metrics")
