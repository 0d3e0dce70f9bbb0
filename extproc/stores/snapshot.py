"""What the directory held last, in a local file: to start from while the database is down.

JSON lines, one per record, without any secret (keys are SHA-256 of 256 random bits). The file's modification
time is when the database confirmed it last. It is believed only where nobody else can have written it.
"""

import os
import stat
import tempfile
from collections.abc import Callable, Generator, Iterable
from datetime import timedelta
from pathlib import Path

import orjson
from pydantic import TypeAdapter, ValidationError

from extproc.stores.ports import (
    AreaRecord,
    DirectoryChange,
    KeyChange,
    Stop,
    StoreUnavailable,
    TeamRecord,
)

FILE = "directory.jsonl"
"""In `state_dir`."""

_FORMAT = {"format": "sluice directory", "version": 2}
_END = ["end", None]
_PIECE = 16  # records between two pauses
_KINDS: dict[str, TypeAdapter[DirectoryChange]] = {
    kind.__name__: TypeAdapter(kind) for kind in (KeyChange, TeamRecord, AreaRecord, Stop)
}


def save(path: Path, records: Iterable[DirectoryChange], pause: Callable[[], None]) -> None:
    """Replace the file whole, readable by its owner alone; `pause` is called every few records. Raises OSError."""
    descriptor, aside = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(orjson.dumps(_FORMAT) + b"\n")
            for number, record in enumerate(records, 1):
                file.write(orjson.dumps([type(record).__name__, record], default=_plain) + b"\n")
                if number % _PIECE == 0:
                    pause()
            file.write(orjson.dumps(_END) + b"\n")
            file.flush()
            os.fsync(file.fileno())  # after a power cut it is there whole, or the one before
        Path(aside).replace(path)
    except BaseException:
        Path(aside).unlink(missing_ok=True)
        raise


def confirm(path: Path, when: float) -> None:
    """Note that the database agreed at `when`, in Unix time. Raises OSError."""
    os.utime(path, (when, when))


def load(path: Path) -> Generator[DirectoryChange]:
    """The records of the file. Raises StoreUnavailable where it is not there or not usable."""
    try:
        with path.open("rb") as file:
            _check_owner(file.fileno())
            if orjson.loads(file.readline() or b"{}") != _FORMAT:
                raise StoreUnavailable("the snapshot file is of another version")
            for line in file:
                if (entry := orjson.loads(line)) == _END:
                    return
                kind, record = entry
                yield _KINDS[kind].validate_python(record)
        raise StoreUnavailable("the snapshot file is cut off")
    except OSError as error:
        raise StoreUnavailable(f"there is no snapshot file: {error.strerror}") from None
    except (ValueError, KeyError, TypeError, ValidationError):
        raise StoreUnavailable("the snapshot file is damaged") from None


def _check_owner(file: int) -> None:
    """Whoever can write the file can make keys."""
    found = os.fstat(file)
    if found.st_uid != os.geteuid() or found.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        raise StoreUnavailable("the snapshot file may be somebody else's work: another owner, or others may write it")


def _plain(value: object) -> float | list[object]:
    """What JSON has no word for: a lifetime in seconds, and the names that a limit holds for."""
    if isinstance(value, timedelta):
        return value.total_seconds()
    if isinstance(value, frozenset):
        return list(value)
    raise TypeError
