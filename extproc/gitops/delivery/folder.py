"""Files that only their owner can read, replaced whole: a reader, or a crash, finds the old one or the new one."""

import fcntl
import os
import stat
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import groupby
from operator import attrgetter
from pathlib import Path

from extproc.gitops.delivery.interface import DeliveryError


@dataclass(frozen=True, slots=True)
class PrivateFile:
    """A file to be. `folder` is one below the root, or "" for the root itself; neither name begins with a dot."""

    folder: str
    name: str
    content: bytes = field(repr=False)


def replace_files(root: Path, files: Sequence[PrivateFile]) -> None:
    """Put files in place, each by rename, and return when a power cut would leave them there.

    Makes the folders, 0700; the files are 0600. Other files are left alone. Raises DeliveryError where a folder
    cannot be trusted or written, or another process is delivering there.
    """
    try:
        root.mkdir(mode=0o700, parents=True, exist_ok=True)
        with _opened(root) as top:
            _claim(root, top)
            _replace(top, files)
    except OSError as error:
        raise DeliveryError(f"{root}: cannot deliver keys: {_reason(error)}") from None


def _replace(top: int, files: Sequence[PrivateFile]) -> None:
    by_folder = attrgetter("folder")
    folders = [(name, list(group)) for name, group in groupby(sorted(files, key=by_folder), by_folder)]
    for name, group in folders:
        with _subfolder(top, name) as folder:
            for file in group:
                _write(folder, file)
    # Once for all: 10,000 calls of fsync each wait for the disk. Those below only ask whether it went well.
    os.sync()
    for name, group in folders:
        with _subfolder(top, name) as folder:
            for file in group:
                _settle(folder, file)
            os.fsync(folder)
    os.fsync(top)


def _claim(root: Path, top: int) -> None:
    """Have the folder for this process alone: of two that deliver at once, one could rename the other's half file."""
    if os.fstat(top).st_mode & stat.S_IWOTH:
        raise DeliveryError(f"{root}: anyone can write here, so keys do not go here; `chmod o-w` it, or name another")
    try:
        fcntl.flock(top, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise DeliveryError(f"{root}: another process is delivering keys here; wait until it is done") from None


@contextmanager
def _opened(path: Path | str, within: int | None = None, flags: int = 0) -> Iterator[int]:
    folder = os.open(path, os.O_RDONLY | os.O_DIRECTORY | flags, dir_fd=within)
    try:
        yield folder
    finally:
        os.close(folder)


@contextmanager
def _subfolder(top: int, name: str) -> Iterator[int]:
    """A folder of the root, made where it is missing. The root may be a link, as its owner likes; this may not."""
    if not name:
        yield top
        return
    if not _exists(top, name):
        os.mkdir(name, 0o700, dir_fd=top)
    with _opened(name, top, os.O_NOFOLLOW) as folder:
        os.fchmod(folder, 0o700)
        yield folder


def _exists(top: int, name: str) -> bool:
    try:
        os.stat(name, dir_fd=top, follow_symlinks=False)
    except FileNotFoundError:
        return False
    return True


def _unready(file: PrivateFile) -> str:
    """The name of a file until it is whole: always the same, so that a run that was killed leaves nothing behind."""
    return f".{file.name}.new"


def _write(folder: int, file: PrivateFile) -> None:
    name = _unready(file)
    if _exists(folder, name):
        os.unlink(name, dir_fd=folder)
    # O_EXCL: never through a link, nor into a file that another holds open.
    handle = os.open(name, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600, dir_fd=folder)
    with os.fdopen(handle, "wb") as out:
        out.write(file.content)


def _settle(folder: int, file: PrivateFile) -> None:
    handle = os.open(_unready(file), os.O_RDONLY, dir_fd=folder)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
    os.rename(_unready(file), file.name, src_dir_fd=folder, dst_dir_fd=folder)


def _reason(error: OSError) -> str:
    """Which file, where it is known, and why."""
    place = f"{error.filename}: " if error.filename else ""
    return f"{place}{error.strerror}"
