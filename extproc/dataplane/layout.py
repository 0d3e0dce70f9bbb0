"""Where the files and sockets of one gateway stand."""

from dataclasses import dataclass
from pathlib import PurePosixPath

from extproc.contract import SERVICES_SOCKET


@dataclass(frozen=True, slots=True)
class Layout:
    """Paths as Envoy will see them: absolute, or relative to Envoy's working directory.

    `config_dir` holds what `render` gives, `secrets_dir` what `write_secrets` writes.
    `worker_sockets` are the Unix sockets of the policy workers, one each; `admin_socket` is Envoy's own.
    A Unix socket's path may have at most 107 bytes (Linux, `sockaddr_un`).
    """

    config_dir: str
    secrets_dir: str
    worker_sockets: tuple[str, ...]
    admin_socket: str

    @property
    def services_socket(self) -> str:
        """Where Envoy takes the workers' questions to services: beside the sockets of the workers."""
        return str(PurePosixPath(self.worker_sockets[0]).with_name(SERVICES_SOCKET))
