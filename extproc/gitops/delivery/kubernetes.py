"""Keys as manifests of Kubernetes Secrets, one a file: `FOLDER/<team>.<key>.yaml`, for `kubectl apply -f FOLDER`."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC
from pathlib import Path

from extproc.gitops.delivery.files import LONGEST_KEY, LONGEST_TEAM
from extproc.gitops.delivery.folder import PrivateFile, replace_files
from extproc.gitops.delivery.interface import DeliveredKey
from extproc.gitops.delivery.names import check_distinct, label

VARIABLE = "SLUICE_API_KEY"
"""The Secret's one field, so that `envFrom` gives a container the variable."""


@dataclass(frozen=True, slots=True)
class KubernetesDelivery:
    """Writes manifests into a folder that only its owner can read; it never talks to a cluster."""

    folder: Path
    namespace: str

    def deliver(self, keys: Sequence[DeliveredKey]) -> None:
        check_distinct(keys)
        replace_files(self.folder, [_file(key, self.namespace) for key in keys])


def _file(key: DeliveredKey, namespace: str) -> PrivateFile:
    team, name = label(key.team, LONGEST_TEAM), label(key.name, LONGEST_KEY)
    return PrivateFile("", f"{team}.{name}.yaml", manifest(key, namespace).encode())


def manifest(key: DeliveredKey, namespace: str) -> str:
    """The Secret of a key; the same text for the same key."""
    team, name = label(key.team, LONGEST_TEAM), label(key.name, LONGEST_KEY)
    return "\n".join(
        [
            "apiVersion: v1",
            "kind: Secret",
            "metadata:",
            f"  name: sluice-key-{team}--{name}",
            f"  namespace: {_quoted(namespace)}",
            "  labels:",
            "    app.kubernetes.io/managed-by: sluice",
            f"    sluice.dev/team: {_quoted(team)}",
            "  annotations:",
            *(f"    sluice.dev/{field}: {_quoted(value)}" for field, value in _annotations(key)),
            "type: Opaque",
            "stringData:",
            f"  {VARIABLE}: {_quoted(key.secret)}",
            "",
        ]
    )


def _annotations(key: DeliveredKey) -> Iterator[tuple[str, str]]:
    """What a label's value could not hold: names as they are written in the team's file."""
    yield "key", key.name
    if key.environment is not None:
        yield "environment", key.environment
    if key.expires_at is not None:
        yield "expires", key.expires_at.astimezone(UTC).isoformat(timespec="seconds")


def _quoted(text: str) -> str:
    """A YAML scalar that is text whatever stands in it: `on` and `1e3` as well as quotes and emoji."""
    plain = (char if char.isprintable() and char not in '"\\' else f"\\U{ord(char):08X}" for char in text)
    return f'"{"".join(plain)}"'
