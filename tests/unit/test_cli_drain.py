"""How long a drain takes, what it does in which order, and that it is done once."""

import asyncio
import os
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from extproc.admission import Admission
from extproc.cli import app, drain, envoy_admin, running
from extproc.cli.drain import Times, drained, readied, remember, times_of
from extproc.cli.health import Health
from extproc.cli.processes import State
from extproc.config.schema import Gateway
from extproc.presence import Presence


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

    async def discourage(self, _: Path) -> bool | None:
        assert self._state.draining.exists()  # workers say so, too
        assert not self._state.drained.exists()
        self.seen.append("discourage")
        return self.is_there

    async def stop_listening(self, _: Path) -> bool:
        self.seen.append("stop")
        return True

    async def live_calls(self, _: Path) -> int | None:
        self.seen.append("last look" if self._state.closed.exists() else "look")
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
    monkeypatch.setattr(drain, "_WORD_S", 0.05)
    return made


async def test_a_drain_goes_in_order_and_says_what_it_waits_for(state: State, monkeypatch: pytest.MonkeyPatch) -> None:
    there, said = envoy(state, monkeypatch, 3, 3, None, 1, 0), list[str]()
    assert await drained(state, Times(0.001, 60), said.append)
    assert there.seen == ["discourage", "stop", *["look"] * 5, "last look"]
    assert state.drained.exists()
    assert said == [
        "Not ready from now on; what comes within 0.001 s is served.",
        "No new connections; live calls may end, for up to 60 s.",
        "Live calls: 3.",
        "Live calls: 1.",
        "No call is left.",
    ]


async def test_a_call_that_begins_before_the_workers_let_in_nobody_may_end(
    state: State, monkeypatch: pytest.MonkeyPatch
) -> None:
    there = envoy(state, monkeypatch, 0, 1, 1, 0)
    assert await drained(state, Times(0, 60), lambda _: None)
    assert there.seen == ["discourage", "stop", "look", *["last look"] * 3]


async def test_workers_let_in_nobody_while_others_still_have_time_to_end(
    state: State, monkeypatch: pytest.MonkeyPatch
) -> None:
    there = envoy(state, monkeypatch, 1)
    assert not await drained(state, Times(0, 0.2), lambda _: None)
    assert there.seen.count("look") > 1
    assert there.seen.count("last look") > 1


async def test_a_drain_waits_until_every_worker_has_seen_that_it_shall_let_in_nobody(
    state: State, monkeypatch: pytest.MonkeyPatch
) -> None:
    there, gate = envoy(state, monkeypatch, 0), Admission()
    quick, slow = (Presence(state.worker_socket(number), gate) for number in range(2))
    async with asyncio.timeout(20):
        running = asyncio.ensure_future(drained(state, Times(0, 60), lambda _: None))
        while not state.closed.exists():
            await asyncio.sleep(0.001)
        while not gate.closed:
            quick.show()
            await asyncio.sleep(0.02)
        for _ in range(10):
            quick.show()
            await asyncio.sleep(0.01)
        assert "last look" not in there.seen
        while not running.done():
            slow.show()
            await asyncio.sleep(0.02)
    assert there.seen[-1] == "last look"
    state.closed.unlink()
    slow.show()
    assert not gate.closed


async def test_a_worker_that_hangs_holds_up_a_drain_for_some_seconds_only(
    state: State, monkeypatch: pytest.MonkeyPatch
) -> None:
    envoy(state, monkeypatch, 0)
    monkeypatch.setattr(drain, "_CLOSE_S", 0.05)
    Presence(state.worker_socket(0), Admission())
    said = list[str]()
    assert await drained(state, Times(0, 60), said.append)
    assert "Not all workers say that they let no new call in." in said


@contextmanager
def admin(path: Path, mute: int) -> Iterator[list[str]]:
    """An admin interface that lets as many visitors as that wait for nothing. Yields what it was told."""
    heard = list[str]()
    visitors = ExitStack()
    server = visitors.enter_context(socket.socket(socket.AF_UNIX))
    server.bind(str(path))
    server.listen()

    def answer() -> None:
        while True:
            visitor, _ = server.accept()
            visitors.enter_context(visitor)
            line = visitor.recv(4096).decode().partition("\r\n")[0]
            if not line:
                return
            heard.append(line.removesuffix(" HTTP/1.1"))
            if len(heard) <= mute:
                continue
            body = b'{"stats": [{"name": "a", "value": 0}]}'
            visitor.sendall(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n%s" % (len(body), body))
            visitor.close()

    thread = threading.Thread(target=answer, daemon=True)
    thread.start()
    try:
        yield heard
    finally:
        with socket.socket(socket.AF_UNIX) as last:
            last.connect(str(path))
        thread.join(20)
        visitors.close()


@pytest.mark.parametrize("mute", [1, 2, 3])
async def test_an_envoy_that_is_slow_to_answer_is_there_and_is_asked_again(
    state: State, monkeypatch: pytest.MonkeyPatch, mute: int
) -> None:
    monkeypatch.setattr(envoy_admin, "_TIMEOUT", 0.2)
    with admin(state.admin_socket, mute) as heard:
        said = list[str]()
        assert await drained(state, Times(0, 60), said.append)
    fail, stop = "POST /healthcheck/fail", "POST /drain_listeners?inboundonly"
    assert heard[: mute + 2] == [*[fail] * (mute + 1), stop]
    assert said[-1] == "No call is left."


async def test_an_envoy_that_never_answers_gets_its_time_and_is_not_said_to_be_gone(
    state: State, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(envoy_admin, "_TIMEOUT", 0.05)
    monkeypatch.setattr(drain, "_WORD_S", 0.05)
    with admin(state.admin_socket, 10_000) as heard:
        said = list[str]()
        assert not await drained(state, Times(0, 0.5), said.append)
    assert len(heard) > 3
    assert said[-1].startswith("Live calls that did not end in time")


@pytest.mark.parametrize("is_drained", [True, False])
def test_a_restart_beside_an_envoy_that_does_not_say_goes_by_the_marks(
    state: State, monkeypatch: pytest.MonkeyPatch, is_drained: bool
) -> None:
    """It may have too much to do: a gateway that called itself ready would get calls that this Envoy sends away."""
    monkeypatch.setattr(envoy_admin, "_TIMEOUT", 0.05)
    own = gateway(state_dir=str(state.root), stores={"database": f"sqlite:///{state.root}/sluice.db"})
    if is_drained:
        state.draining.touch()
    with admin(state.admin_socket, 10_000):
        running.prepare(own, state, starts_envoy=False)
    assert state.draining.exists() == is_drained


def test_a_restart_where_no_envoy_is_any_more_is_ready(state: State) -> None:
    own = gateway(state_dir=str(state.root), stores={"database": f"sqlite:///{state.root}/sluice.db"})
    state.draining.touch()
    running.prepare(own, state, starts_envoy=False)
    assert not state.draining.exists()


async def test_a_socket_with_nobody_behind_it_is_no_envoy(state: State) -> None:
    with socket.socket(socket.AF_UNIX) as gone:
        gone.bind(str(state.admin_socket))
    said = list[str]()
    assert await drained(state, Times(60, 60), said.append)
    assert said == ["No Envoy is there to be drained."]


@pytest.mark.parametrize("calls", [2, None])
async def test_a_drain_ends_when_its_time_is_up(
    state: State, monkeypatch: pytest.MonkeyPatch, calls: int | None
) -> None:
    envoy(state, monkeypatch, calls)
    told = list[bool]()
    presence = Presence(state.worker_socket(0), Admission(), told.append)
    assert not await drained(state, Times(0, 0.02), lambda _: None)
    assert state.drained.exists()
    presence.show()
    readied(state)
    presence.show()
    assert told == [False, True, False], "streams that run are ended, until the gateway is ready again"


def test_a_worker_that_looks_as_marks_go_lets_in_nobody_whose_stream_it_would_break_off(
    state: State, monkeypatch: pytest.MonkeyPatch
) -> None:
    def unlink_and_look(path: Path, missing_ok: bool = False) -> None:
        unlink(path, missing_ok)
        presence.show()
        seen.append((admission.closed, told[-1]))

    for mark in (state.draining, state.closed, state.over, state.drained):
        mark.touch()
    admission, told, seen = Admission(), list[bool](), list[tuple[bool, bool]]()
    presence = Presence(state.worker_socket(0), admission, told.append)
    assert (admission.closed, told[-1]) == (True, True)
    unlink = Path.unlink
    monkeypatch.setattr(Path, "unlink", unlink_and_look)
    readied(state)
    assert (False, True) not in seen
    assert seen[-1] == (False, False)


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
    for path in sockets:
        Presence(path, Admission())
    health.have_answered(sockets)
    assert answer(health, "/healthz") == ("200 OK", b"ok\n")
    servers[0].close()
    assert answer(health, "/healthz") == ("200 OK", b"ok\n")
    servers[1].close()
    assert answer(health, "/healthz") == ("503 Service Unavailable", b"no worker answers\n")
    assert answer(health, "/metrics") == ("200 OK", b"metrics")


async def test_a_worker_that_takes_connections_and_does_nothing_is_not_well(tmp_path: Path) -> None:
    """As one that hangs does: the kernel takes them."""
    sockets = [tmp_path / "worker-0.sock", tmp_path / "worker-1.sock"]
    servers = [await asyncio.start_unix_server(lambda *_: None, path) for path in sockets]
    one, two = (Presence(path, Admission()) for path in sockets)
    health = Health()
    health.have_answered(sockets)
    long_ago = time.time() - 60
    os.utime(tmp_path / "worker-0.present", (long_ago, long_ago))
    assert health.trouble == ""
    os.utime(tmp_path / "worker-1.present", (long_ago, long_ago))
    assert health.trouble == "no worker answers"
    two.show()
    assert health.trouble == ""
    one.show()
    for server in servers:
        server.close()
