"""What the image of the policy holds, built from this tree as the image is: once on a machine for each state."""

import fcntl
import functools
import hashlib
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
LOCK = ROOT / "requirements-image.lock"
BUILD = ROOT / "deploy/docker/build.sh"

_BUILD_SECONDS = 1200  # two slow cores that others use, too
_KEPT = 6  # trees of earlier states
_IN_USE_S = 3600  # a tree of less than that may be run by another test
_PACKAGES = (LOCK, BUILD, ROOT / "deploy/docker/contents.py")
_OWN = (ROOT / "deploy/docker/launcher.py", ROOT / "pyproject.toml")
_NO_PACKAGES = ("No matching distribution found", "Could not fetch", "NewConnectionError", "ReadTimeoutError")


@functools.cache
def built_image() -> Path:
    """A folder with `opt/sluice` in it, to be read only. Skips the test where packages cannot be had."""
    folder = Path(tempfile.gettempdir()) / f"sluice-image-{os.getuid()}"
    folder.mkdir(mode=0o700, exist_ok=True)
    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        packages = folder / f"packages-{_digest(_PACKAGES)}"
        if not packages.exists():
            _forget(folder)
            _make(packages, "packages")
        made = folder / f"image-{_digest([*_PACKAGES, *_OWN, *_sources()])}"
        if not made.exists():
            _forget(folder)
            _make(made, "own", upon=packages)
        for tree in (packages, made):
            os.utime(tree)
        return made


def build(root: Path, step: str = "all", architecture: str = platform.machine(), tree: Path = ROOT) -> None:
    """Make `opt/sluice` below this folder. Skips the test where packages cannot be had."""
    words: list[str | Path] = [tree / "deploy/docker/build.sh", root, architecture, step]
    environ = {**os.environ, "PYTHON": sys.executable}
    run = subprocess.run(words, env=environ, capture_output=True, text=True, timeout=_BUILD_SECONDS)
    if any(sign in run.stderr for sign in _NO_PACKAGES):
        pytest.skip(f"the packages of the image cannot be had: {run.stderr.strip()[-300:]}")
    assert run.returncode == 0, run.stderr


def copy_sources(tree: Path) -> None:
    """All that goes into the image, into a folder that nobody works in."""
    for folder in ("extproc", "protos", "deploy/docker"):
        shutil.copytree(ROOT / folder, tree / folder, ignore=shutil.ignore_patterns("__pycache__"))
    for file in (LOCK.name, "pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / file, tree)


def _make(tree: Path, step: str, upon: Path | None = None) -> None:
    """In full, or not at all."""
    aside = tree.parent / "aside"
    shutil.rmtree(aside, ignore_errors=True)
    if upon is not None:
        shutil.copytree(upon, aside, copy_function=os.link)
    build(aside, step)
    aside.rename(tree)


def _sources() -> list[Path]:
    folders = (ROOT / "extproc", ROOT / "protos")
    return [
        path for folder in folders for path in folder.rglob("*") if path.is_file() and path.parent.name != "__pycache__"
    ]


def _digest(sources: Iterable[Path]) -> str:
    digest = hashlib.sha256(sys.version.encode())
    for path in sorted(sources):
        digest.update(f"{path.relative_to(ROOT)} {hashlib.sha256(path.read_bytes()).hexdigest()}\n".encode())
    return digest.hexdigest()[:16]


def _forget(folder: Path) -> None:
    """Remove trees of long ago: each may be hundreds of megabytes."""
    trees = sorted((path for path in folder.iterdir() if path.is_dir()), key=lambda path: path.stat().st_mtime)
    for tree in trees[:-_KEPT]:
        if time.time() - tree.stat().st_mtime > _IN_USE_S:
            shutil.rmtree(tree)
