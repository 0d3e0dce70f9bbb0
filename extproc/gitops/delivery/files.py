"""Keys as files: `FOLDER/<team>/<key>` holds the key and nothing else, not even a line's end."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from extproc.gitops.delivery.folder import PrivateFile, replace_files
from extproc.gitops.delivery.interface import DeliveredKey
from extproc.gitops.delivery.names import check_distinct, label

LONGEST_TEAM = 63
LONGEST_KEY = 100


@dataclass(frozen=True, slots=True)
class FileDelivery:
    """Writes into a folder that only its owner can read."""

    folder: Path

    def deliver(self, keys: Sequence[DeliveredKey]) -> None:
        check_distinct(keys)
        replace_files(self.folder, [_file(key) for key in keys])


def _file(key: DeliveredKey) -> PrivateFile:
    return PrivateFile(label(key.team, LONGEST_TEAM), label(key.name, LONGEST_KEY), key.secret.encode())
