"""A real Helm, of one version: the one on the path if it is that, else built with Go, once on a machine."""

import fcntl
import functools
import json
import os
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

VERSION = "v3.18.4"
CLUSTER = "1.33.0"  # the version that charts are rendered for; one that Go builds takes an ancient one to be there
PACKAGE = f"helm.sh/helm/v3/cmd/helm@{VERSION}"
ROOT = Path(__file__).resolve().parents[2]

Manifest = dict[str, Any]

_BUILD_SECONDS = 1200  # two slow cores that others use, too


@functools.cache
def helm() -> Path:
    """The program. Skips the test where there is neither this version nor Go to build it with."""
    places = [shutil.which("helm"), Path.home() / "go/bin/helm", _cache() / "helm"]
    for place in places:
        if place is not None and _is_wanted(Path(place)):
            return Path(place)
    go = shutil.which("go") or shutil.which("go", path="/usr/local/go/bin")
    if go is None:
        pytest.skip(f"there is no Helm {VERSION}, and no Go to build it with")
    return _built(go)


def _cache() -> Path:
    base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return base / "sluice-tests" / f"helm-{VERSION}"


def _is_wanted(program: Path) -> bool:
    if not os.access(program, os.X_OK):
        return False
    run = subprocess.run([program, "version", "--template", "{{.Version}}"], capture_output=True, text=True)
    return run.returncode == 0 and run.stdout.strip() in (VERSION, VERSION.rpartition(".")[0])  # Go sets no patch level


def _built(go: str) -> Path:
    """One process builds, the others wait for it."""
    folder = _cache()
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        program = folder / "helm"
        if not program.exists():
            environ = {**os.environ, "GOBIN": str(folder), "GOFLAGS": "-trimpath", "CGO_ENABLED": "0"}
            run = subprocess.run(
                [go, "install", PACKAGE], env=environ, capture_output=True, text=True, timeout=_BUILD_SECONDS
            )
            if run.returncode:
                pytest.skip(f"Helm could not be built: {run.stderr.strip()[-300:]}")
        return program


class ChartError(Exception):
    """What Helm said of values that it refused."""


def rendered(
    chart: str | Path,
    *values: str | Path,
    set: Mapping[str, Any] | None = None,  # noqa: A002
    release: str = "sluice",
    namespace: str = "ai",
    apis: Sequence[str] = (),
) -> list[Manifest]:
    """The manifests that `helm template` makes of a chart, hooks and tests too. Paths are from the project's root.

    `set`: values over those of the files, by path: `{"spool.kind": "ephemeral"}`; a value may be a list or a mapping.
    Raises ChartError with Helm's words where the chart refuses the values.
    """
    return documents(template(chart, *values, set=set, release=release, namespace=namespace, apis=apis))


def template(
    chart: str | Path,
    *values: str | Path,
    set: Mapping[str, Any] | None = None,  # noqa: A002
    release: str = "sluice",
    namespace: str = "ai",
    apis: Sequence[str] = (),
) -> str:
    """The text of `helm template`."""
    words = ["template", release, str(ROOT / chart), "--namespace", namespace, "--kube-version", CLUSTER]
    for file in values:
        words += ["--values", str(ROOT / file)]
    for path, value in (set or {}).items():
        words += ["--set-json", f"{path}={json.dumps(value)}"]
    for api in apis:
        words += ["--api-versions", api]
    return _told(tuple(words))


def lint(chart: str | Path, *values: str | Path) -> str:
    """What `helm lint --strict` says. Raises ChartError where it complains."""
    files = (f"--values={ROOT / file}" for file in values)
    return _told(("lint", "--strict", str(ROOT / chart), "--kube-version", CLUSTER, *files))


@functools.cache
def _told(words: tuple[str, ...]) -> str:
    run = subprocess.run([helm(), *words], capture_output=True, text=True, timeout=60)
    if run.returncode:
        raise ChartError(run.stderr + run.stdout)
    return run.stdout


def documents(text: str) -> list[Manifest]:
    """The manifests in a text of several YAML documents; those that are empty are left out."""
    yaml = YAML(typ="safe")
    yaml.version = (1, 1)  # as Kubernetes reads it: 0444 is octal, `on` is true
    return [manifest for manifest in yaml.load_all(text) if manifest]


def only(manifests: Sequence[Manifest], kind: str, name: str = "") -> Manifest:
    """The one of a kind, and of a name if there are several."""
    (found,) = (one for one in manifests if one["kind"] == kind and (not name or one["metadata"]["name"] == name))
    return found
