"""The setups of a bench as running processes: Envoy alone, Envoy with a null policy, and the gateway."""

import os
import socket
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from io import StringIO
from pathlib import Path
from typing import IO, Any

import httpx
import psutil
from ruamel.yaml import YAML

from extproc import contract, dataplane
from extproc.cli import processes, running
from extproc.config.revision import Revision
from extproc.config.schema import Gateway
from extproc.interpreter import python
from loadtest import load
from loadtest.figures import KEPT, SETUPS, WAYS, WORKLOADS

BACKEND = "bench"
ROOT = Path(__file__).resolve().parents[1]
_PACE = 3000  # events a second and stream: slow enough that every event is a write of its own
_START_SECONDS = 180.0  # of a machine that has other work
_STOP_SECONDS = 15.0


class StartError(Exception):
    """A setup does not answer; the text says why."""


# ---- Envoy's files -----------------------------------------------------------------------------------


def settings(port: int, provider_port: int, folder: Path, more: Mapping[str, Any] | None = None) -> Gateway:
    """A gateway that serves one model by itself, and others in each of the WAYS, to whoever has the quickstart key.

    `more`: sections beside these.
    """
    more = more or {}
    url = f"http://127.0.0.1:{provider_port}"
    return Gateway.model_validate(
        {
            "listener": {"port": port},
            "state_dir": str(folder),
            **more,
            "stores": {"database": f"sqlite:///{folder}/sluice.db", **more.get("stores", {})},
            "keys": {"quickstart": True},
            "timeouts": {"drain": 1, **more.get("timeouts", {})},
            # A machine that is busy with other things is no overload of the gateway's.
            "overload": more.get("overload", {"wait": "1h"}),
            "backends": {
                BACKEND: {"dialect": "openai", "url": url},
                "legacy": {"dialect": "azure-openai", "url": url, "api_version": "2024-10-21"},
                "anthropic": {"dialect": "anthropic", "url": url},
                "gemini": {"dialect": "gemini", "url": url},
            },
            "models": {
                load.MODEL: _model(BACKEND, load.MODEL),
                "renamed": _model(BACKEND, "another-name-of-it"),
                **{name: _model(name, load.MODEL) for name in WAYS if name not in ("renamed", KEPT)},
            },
        }
    )


def _model(backend: str, deployed: str) -> dict[str, Any]:
    return {"price": _PRICE, "targets": [[{"backend": backend, "model": deployed}]]}


def policies(folder: Path, redis: str) -> dict[str, Any]:
    """All policies that a gateway can have on without asking a service: limits, redaction and the cache, on Redis.

    The limits are so wide that no call of a bench is refused by them. `folder` gets the cache's key.
    """
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "key").write_text("k" * 32)
    return {
        "stores": {"counters": redis, "answers": redis, "counters_wait": "1s"},
        "cache": {"mode": "enforce", "key": {"file": str(folder / "key")}},
        "policies": {
            "currency": "USD",
            "limits": {
                "tokens": {"scope": ["key", "model"], "tokens": 10**12, "per": "minute"},
                "requests": {"scope": "key", "requests": 10**9, "per": "minute"},
                "money": {"money": 10**6, "per": "month"},
            },
            "redaction": {"default": {}},
        },
    }


_PRICE = {"input": 2.5, "cached_input": 1.25, "output": 10}
_OF_THE_POLICY = ("sluice.rewrite", contract.TRANSLATION_FILTER)  # filters of clusters that do what it orders


def without_policy(files: Mapping[str, str]) -> dict[str, str]:
    """The same listener, routes and backend, but no worker is asked or told anything."""
    trees = {name: YAML().load(text) for name, text in files.items()}
    for listener in trees["listeners.yaml"]["resources"]:
        _untold(listener)
    for route in trees["routes.yaml"]["resources"][0]["virtual_hosts"][0]["routes"]:
        _straight(route)
    clusters = [one for one in trees["clusters.yaml"]["resources"] if one["name"] != contract.EXTPROC_CLUSTER]
    trees["clusters.yaml"]["resources"] = clusters
    for cluster in clusters:
        for options in cluster.get("typed_extension_protocol_options", {}).values():
            options["http_filters"] = [one for one in options["http_filters"] if one["name"] not in _OF_THE_POLICY]
    return {name: _dumped(tree) for name, tree in trees.items()}


def _untold(listener: Any) -> None:
    manager = listener["filter_chains"][0]["filters"][0]["typed_config"]
    manager.pop("access_log", None)
    manager["http_filters"] = [one for one in manager["http_filters"] if one["name"] != contract.POLICY_FILTER]
    manager["http_filters"][-1]["typed_config"].pop("upstream_log", None)


def _straight(route: Any) -> None:
    """To the backend, whatever the path; the policy's order is gone, and with it what only follows from one."""
    if "route" in route:
        del route["route"]["inline_cluster_specifier_plugin"]
        route["route"]["cluster"] = contract.cluster_of(BACKEND)
        del route["typed_per_filter_config"][contract.POLICY_FILTER]


def _dumped(tree: Any) -> str:
    out = StringIO()
    YAML().dump(tree, out)
    return out.getvalue()


# ---- processes ---------------------------------------------------------------------------------------


def start(stack: ExitStack, command: Sequence[str], *, stdin: bytes = b"", **options: Any) -> subprocess.Popen[bytes]:
    """A child that ends with the stack, by its own process id and no other."""
    child = subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, **options)
    stack.callback(_stop, child)
    if child.stdin is None:
        raise AssertionError("a pipe was asked for")
    child.stdin.write(stdin)
    child.stdin.close()
    return child


def _stop(child: "subprocess.Popen[bytes]") -> None:
    child.terminate()
    try:
        child.wait(_STOP_SECONDS)
    except subprocess.TimeoutExpired:
        child.kill()
        child.wait()
    if child.stdout is not None:
        child.stdout.close()


def free_port() -> int:
    """A TCP port of this machine that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def is_ready(port: int, child: "subprocess.Popen[bytes]") -> bool:
    """Whether the gateway of this process comes to serve calls, waited for while the process lives."""
    deadline = time.monotonic() + _START_SECONDS
    while time.monotonic() < deadline and child.poll() is None:
        try:
            if httpx.get(f"http://127.0.0.1:{port}/readyz", trust_env=False).status_code == 200:
                return True
        except httpx.HTTPError:
            pass
        time.sleep(0.1)
    return False


def provider(stack: ExitStack) -> tuple["subprocess.Popen[bytes]", int]:
    options = ("--port", "0", "--tokens-per-second", str(_PACE))
    child = start(stack, python("loadtest.fake_llm", *options), stdout=subprocess.PIPE)
    if child.stdout is None:
        raise AssertionError("a pipe was asked for")
    words = child.stdout.readline().split()
    if not words:
        raise StartError("the fake provider did not start")
    return child, int(words[-2].rpartition(b":")[2])


@dataclass(frozen=True, slots=True)
class Setup:
    """One of them, running."""

    port: int
    state: processes.State
    envoy: psutil.Process
    policy: psutil.Process | None

    def messages(self) -> int:
        """How many messages Envoy has sent to the ext_proc process so far, for calls and for attempts."""
        transport = httpx.HTTPTransport(uds=str(self.state.admin_socket))
        with httpx.Client(transport=transport, base_url="http://admin") as admin:
            text = admin.get("/stats", params={"filter": r"(^|\.)ext_proc\.stream_msgs_sent$"}).text
        return sum(int(line.rpartition(": ")[2]) for line in text.splitlines())


@dataclass(frozen=True, slots=True)
class Instead:
    """What a setup has in the place of a gateway's own.

    `worker`: what to start as one, before its socket; it is told what a worker is. `files`: makes Envoy's of the
    gateway's.
    """

    worker: Sequence[str] = ()
    files: Callable[[Mapping[str, str]], dict[str, str]] = dict


def setup(
    stack: ExitStack,
    name: str,
    folder: Path,
    provider_port: int,
    records: IO[bytes],
    more: Mapping[str, Any] | None = None,
    instead: Instead | None = None,
) -> Setup:
    """Start it and wait until it answers a call as it should. `more`: see settings(). Raises StartError."""
    instead = instead or Instead(files=without_policy if name == "A" else dict)
    gateway = settings(free_port(), provider_port, folder, more)
    state = processes.state_of(gateway)
    running.prepare(gateway, state)
    layout = dataplane.Layout(
        str(state.envoy), str(state.secrets), (str(state.worker_socket(0)),), str(state.admin_socket)
    )
    files = dataplane.render(gateway, layout)
    dataplane.write_secrets(gateway, {}, state.secrets)
    dataplane.write(instead.files(files), state.envoy)
    log = stack.enter_context((folder / "log").open("w+b"))
    policy = _policy(stack, name, gateway, state, instead.worker, stdout=records, stderr=log)
    envoy = start(stack, _envoy_command(state), stderr=log)
    models = [load.MODEL, *(way for way in WAYS if way != KEPT)] if name == "C" else [load.MODEL]
    if not _comes_up(gateway.listener.port, models, [envoy] if policy is None else [envoy, policy]):
        log.seek(0)
        raise StartError(f"{SETUPS.get(name, name)} does not answer:\n{log.read().decode(errors='replace')}")
    return Setup(
        gateway.listener.port,
        state,
        psutil.Process(envoy.pid),
        None if policy is None else psutil.Process(policy.pid),
    )


def _envoy_command(state: processes.State) -> Sequence[str]:
    """As `sluice up` starts it, but with one thread for calls on any machine, so that figures compare."""
    command = list(processes.envoy(state).argv)
    command[command.index("--concurrency") + 1] = "1"
    return command


def _policy(
    stack: ExitStack, name: str, gateway: Gateway, state: processes.State, instead: Sequence[str], **output: Any
) -> "subprocess.Popen[bytes] | None":
    """The ext_proc process of a setup; the gateway's is a worker as `sluice serve` starts it."""
    if name == "A":
        return None
    if name == "B":
        null = python("loadtest.null_extproc", str(state.worker_socket(0)), BACKEND)
        return start(stack, null, env={**os.environ, **processes.OF_GRPC}, **output)
    worker = processes.workers(Revision.of(gateway), state, as_json=True)[0]
    argv = [*instead, str(state.worker_socket(0))] if instead else worker.argv
    return start(stack, argv, stdin=worker.stdin, env={**os.environ, **worker.environ}, **output)


def _comes_up(port: int, models: Sequence[str], children: Sequence["subprocess.Popen[bytes]"]) -> bool:
    deadline = time.monotonic() + _START_SECONDS
    while time.monotonic() < deadline and all(child.poll() is None for child in children):
        if _answers(port, models):
            return True
        time.sleep(0.05)
    return False


def _answers(port: int, models: Sequence[str]) -> bool:
    """Whether a call of each workload and model gets its whole answer."""
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=5) as connection:
            return all(_whole(connection, load.request(kind == "sse", model)) for kind in WORKLOADS for model in models)
    except (OSError, load.LoadError):
        return False


def _whole(connection: socket.socket, call: bytes) -> bool:
    connection.sendall(call)
    stream = b'"stream":true' in call
    answer, seen = load.Answer(), b""
    while piece := connection.recv(65536):
        seen += piece
        if answer.feed(piece):
            return (b"data: [DONE]" if stream else b'"completion_tokens":%d' % load.EVENTS_WITH_TEXT) in seen
    return False
