"""What the image of the policy holds, and that it runs as a pod runs it: read-only, as nobody, with nothing beside it.

There need be no container engine: the image's own script makes a folder, and that is run as a root of its own.
"""

import base64
import csv
import hashlib
import json
import os
import platform
import re
import shutil
import signal
import stat
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import grpc
import psutil
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from tests.support.gateway import until
from tests.support.image import LOCK, ROOT, build, built_image, copy_sources
from tests.support.pods.commands import alone
from tests.support.pods.images import of_sluice
from tests.support.pods.roots import Ground, Mount, script
from tests.support.ports import free_port

CONFIG = """
listener: {address: 0.0.0.0, port: 8080}
state_dir: /run/sluice
stores: {database: "sqlite:////run/sluice/sluice.db"}
backends:
  fake: {dialect: openai, url: "http://127.0.0.1:8090"}
models:
  gpt-4o: {targets: [[{backend: fake}]], price: {input: 2.5, output: 10}}
"""
PATH = "/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
SECURITY = {
    "readOnlyRootFilesystem": True,
    "allowPrivilegeEscalation": False,
    "runAsNonRoot": True,
    "capabilities": {"drop": ["ALL"]},
}
TOOLS = {"setuptools", "wheel"}

pytestmark = pytest.mark.timeout(3600 if os.environ.get("SLUICE_IMAGE_WHOLE") else 900)  # it may have to be built first

runs_pods = pytest.mark.skipif(
    os.geteuid() != 0 or shutil.which("unshare") is None,
    reason="a root of its own needs this machine's root, and unshare",
)


@pytest.fixture(scope="module")
def image() -> Path:
    return built_image()


@pytest.fixture(scope="module")
def lib(image: Path) -> Path:
    return image / "opt/sluice/lib"


def files(tree: Path) -> Iterator[Path]:
    return (path for path in sorted(tree.rglob("*")) if path.is_file() or path.is_symlink())


def digests(tree: Path) -> dict[str, str]:
    """What a layer of an image is made of: names, modes, times and contents."""
    return {
        str(path.relative_to(tree)): f"{path.lstat().st_mode:o} {path.lstat().st_mtime_ns} "
        + hashlib.sha256(path.read_bytes() if path.is_file() else b"").hexdigest()
        for path in sorted(tree.rglob("*"))
    }


def locked(lock: Path = LOCK) -> dict[str, tuple[str, set[str]]]:
    """Versions and hashes of a lock by name."""
    entries: dict[str, tuple[str, set[str]]] = {}
    name = ""
    for line in lock.read_text().splitlines():
        if "==" in line and not line.startswith((" ", "#")):
            name, _, rest = line.partition("==")
            entries[name] = rest.split()[0], set()
        elif "--hash=sha256:" in line:
            entries[name][1].add(line.split("sha256:")[1].split()[0])
    return entries


# ---- what it holds ----


def test_its_files_are_those_that_the_packages_say(lib: Path) -> None:
    told: set[str] = set()
    for record in lib.glob("*.dist-info/RECORD"):
        for name, digest, size in csv.reader(record.read_text().splitlines()):
            told.add(name)
            if digest:
                method, _, wanted = digest.partition("=")
                content = (lib / name).read_bytes()
                found = base64.urlsafe_b64encode(hashlib.new(method, content).digest()).rstrip(b"=").decode()
                assert (found, len(content)) == (wanted, int(size)), name
            else:
                assert (lib / name).exists(), name
    there = {str(path.relative_to(lib)) for path in files(lib) if path.suffix != ".pyc"}
    assert there == told


def test_its_bill_lists_exactly_what_is_installed_as_the_lock_has_it(image: Path, lib: Path) -> None:
    bill = json.loads((image / "opt/sluice/sbom.json").read_text())
    components = {component["name"]: component for component in bill["components"]}
    installed = {re.sub(r"[-_.]+", "-", path.name.partition("-")[0]).lower() for path in lib.glob("*.dist-info")}
    own = bill["metadata"]["component"]
    assert own["name"] == "sluice-gateway"
    assert {*components, own["name"]} == installed
    lock = locked()
    for name, component in components.items():
        version, hashes = lock[name]
        (told,) = component["hashes"]
        assert (component["version"], told["alg"]) == (version, "SHA-256")
        assert told["content"] in hashes, name
        assert component["purl"] == f"pkg:pypi/{name}@{version}"
        assert component["licenses"], name
    left_out = set(lock) - set(components) - TOOLS
    assert left_out <= {"colorama", "async-timeout", "httpx2-jsfetch"}, "these are for other systems alone"


def test_its_versions_are_those_that_the_tests_run_with() -> None:
    """Otherwise: `make lock-image`."""
    tested = locked(ROOT / "requirements-dev.lock")
    assert {name: version for name, (version, _) in locked().items()} == {name: tested[name][0] for name in locked()}


def test_no_package_brings_what_runs_unasked(image: Path) -> None:
    assert not [*image.rglob("*.pth")]
    assert not [*image.rglob("sitecustomize.py"), *image.rglob("usercustomize.py")]
    assert [path.name for path in (image / "opt/sluice/bin").iterdir()] == ["sluice"]
    assert sorted(path.name for path in (image / "opt/sluice").iterdir()) == ["bin", "lib", "sbom.json"]
    assert not (image / "opt/sluice/lib/loadtest").exists()


def test_nobody_but_its_owner_may_change_it(image: Path) -> None:
    for path in [image / "opt/sluice", *(image / "opt/sluice").rglob("*")]:
        mode = path.lstat().st_mode
        assert not path.is_symlink(), path
        assert not mode & (stat.S_ISUID | stat.S_ISGID | stat.S_IWGRP | stat.S_IWOTH), path
        assert mode & stat.S_IROTH, path


def test_all_that_is_not_python_and_is_read_when_it_runs_is_there(lib: Path) -> None:
    unneeded = {".py", ".pyc", ".md"}
    for package in ("extproc", "protos"):
        wanted = {path for path in files(ROOT / package) if path.suffix not in unneeded and path.suffix != ".proto"}
        assert wanted or package == "protos"
        for path in wanted:
            assert (lib / path.relative_to(ROOT)).read_bytes() == path.read_bytes()


def test_everything_is_compiled_and_taken_without_a_look_at_its_source(lib: Path) -> None:
    tag = sys.implementation.cache_tag
    sources = list((lib / "extproc").rglob("*.py"))
    assert sources
    for source in sources:
        compiled = source.parent / "__pycache__" / f"{source.stem}.{tag}.pyc"
        assert int.from_bytes(compiled.read_bytes()[4:8], "little") == 0b01, "not by its hash, or looked at"


def test_a_second_build_has_the_same_bytes(image: Path, tmp_path: Path) -> None:
    """Of our own part, in two places; of all packages in `make deep-image`."""
    whole = bool(os.environ.get("SLUICE_IMAGE_WHOLE"))
    made = []
    copy_sources(tmp_path / "first")
    shutil.copytree(tmp_path / "first", tmp_path / "other")
    for name in ("first", "other"):
        tree, root = tmp_path / name, tmp_path / f"root-of-{name}"
        if not whole:
            shutil.copytree(image, root, copy_function=os.link)
            remove_own(root / "opt/sluice")
        build(root, "all" if whole else "own", tree=tree)
        made.append(digests(root / "opt"))
    assert "sluice/lib/extproc/worker.py" in made[0]
    assert made[0] == made[1]


def remove_own(made: Path) -> None:
    """As it was before build.sh added this project to the packages."""
    for part in (made / "bin", made / "lib/extproc", made / "lib/protos", *made.glob("lib/sluice_gateway-*")):
        shutil.rmtree(part)


def test_the_other_architecture_has_the_same_packages(image: Path, tmp_path: Path) -> None:
    if not os.environ.get("SLUICE_IMAGE_WHOLE"):
        pytest.skip("SLUICE_IMAGE_WHOLE is not set: some minutes, see `make deep-image`")
    other = "arm64" if platform.machine() == "x86_64" else "amd64"
    build(tmp_path / "other", "all", architecture=other)
    names = [
        {part.name for part in (root / "opt/sluice/lib").glob("*.dist-info")} for root in (image, tmp_path / "other")
    ]
    assert names[0] == names[1]


def steps(dockerfile: str) -> list[list[tuple[str, str]]]:
    """The instructions of every stage, each with its words."""
    text = re.sub(r"\\\n\s*", "", re.sub(r"^#.*\n", "", dockerfile, flags=re.MULTILINE))
    stages: list[list[tuple[str, str]]] = [[]]
    for line in filter(None, text.splitlines()):
        instruction, _, words = line.partition(" ")
        if instruction == "FROM":
            stages.append([])
        stages[-1].append((instruction, words))
    return stages


def test_the_dockerfile_only_copies_and_ends_as_nobody() -> None:
    *_, last = steps((ROOT / "deploy/docker/Dockerfile").read_text())
    assert not [words for instruction, words in last if instruction in ("RUN", "ADD")], "it would need an emulator"
    assert all(words.startswith("--from=") for instruction, words in last if instruction == "COPY")
    assert ("USER", "65532:65532") in last
    assert ("ENTRYPOINT", '["/opt/sluice/bin/sluice"]') in last


def test_all_that_the_dockerfile_copies_gets_to_whoever_builds_it() -> None:
    ignored = (ROOT / ".dockerignore").read_text().split()
    given = {line.removeprefix("!") for line in ignored if line.startswith("!")}
    for stage in steps((ROOT / "deploy/docker/Dockerfile").read_text()):
        for instruction, words in stage:
            if instruction == "COPY" and not words.startswith("--from="):
                for source in words.split()[:-1]:
                    assert (ROOT / source).exists(), source
                    assert any(source == one or source.startswith(f"{one}/") for one in given), source


# ---- how it runs ----


class Container:
    """The image with a read-only root, two folders that can be written, and no right but its user's."""

    def __init__(self, image: Path, folder: Path, command: Sequence[str], mounts: Sequence[Mount]) -> None:
        self.run, self.tmp = folder / "run", folder / "tmp"
        self._log = folder / "log"
        self._process: subprocess.Popen[bytes] | None = None
        (folder / "root").mkdir()
        (folder / "etc").mkdir()
        (folder / "etc/gateway.yaml").write_text(CONFIG)
        for writable in (self.run, self.tmp):
            writable.mkdir()
            os.chown(writable, 65532, 65532)
        ground = Ground(
            image=of_sluice(image),
            folder=folder / "root",
            mounts=(
                Mount(str(folder / "etc"), "/etc/sluice", read_only=True),
                Mount(str(self.run), "/run/sluice", read_only=False),
                Mount(str(self.tmp), "/tmp", read_only=False),
                *mounts,
            ),
            etc={"hosts": "127.0.0.1 localhost\n"},
            cgroup_files={},
            cgroups=(),
            security=SECURITY,
            groups=(),
            open_files=None,
        )
        self._script = script(
            ground, ["/opt/sluice/bin/sluice", *command, "--config", "/etc/sluice/gateway.yaml"], None
        )

    def start(self, environ: Mapping[str, str]) -> None:
        with self._log.open("wb") as log:
            words = alone("sh", "-c", self._script)
            self._process = subprocess.Popen(words, env={"PATH": PATH, **environ}, stdout=log, stderr=log)

    @property
    def told(self) -> str:
        return self._log.read_text()

    def wait(self) -> int:
        """The exit code."""
        assert self._process is not None
        return self._process.wait(60)

    @property
    def has_ended(self) -> bool:
        assert self._process is not None
        return self._process.poll() is not None

    @property
    def first(self) -> psutil.Process:
        """`sluice` itself."""
        assert self._process is not None
        return next(
            process
            for process in psutil.Process(self._process.pid).children(recursive=True)
            if process.uids().real == 65532
        )

    def end(self) -> None:
        assert self._process is not None
        if self._process.poll() is None:
            self._process.kill()
        self._process.wait()


@contextmanager
def container(image: Path, *command: str, mounts: Sequence[Mount] = (), **environ: str) -> Iterator[Container]:
    folder = Path(tempfile.mkdtemp(prefix="sluice-image-"))
    running = Container(image, folder, command, mounts)
    try:
        running.start(environ)
        try:
            yield running
        finally:
            running.end()
    finally:
        shutil.rmtree(folder)


def sluice(image: Path, *command: str) -> tuple[int, str]:
    """One command to its end: its exit code and what it printed."""
    with container(image, *command) as running:
        return running.wait(), running.told


def is_serving(worker: Path) -> bool:
    with grpc.insecure_channel(f"unix:{worker}") as channel:
        try:
            answer = health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(), timeout=2)
        except grpc.RpcError:
            return False
        return bool(answer.status == health_pb2.HealthCheckResponse.SERVING)


@contextmanager
def serving(image: Path, mounts: Sequence[Mount] = ()) -> Iterator[Container]:
    """`sluice serve`, once its worker answers."""
    with container(image, "serve", mounts=mounts, SLUICE__METRICS__PORT=str(free_port())) as running:
        worker = running.run / "run/worker-0.sock"
        until(lambda: running.has_ended or is_serving(worker), 60, "a worker that serves")
        assert not running.has_ended, running.told
        yield running


def written(process: psutil.Process) -> set[str]:
    """The files that a process has open to write them, as it sees them, but for what it was given to tell its log."""
    return {file.path for file in process.open_files() if file.mode != "r" and file.fd > 2}


@runs_pods
def test_it_serves_read_only_as_nobody_and_writes_nowhere_else(image: Path) -> None:
    with serving(image) as running:
        processes = [running.first, *running.first.children(recursive=True)]
        assert len(processes) >= 2
        for process in processes:
            assert process.uids() == (65532, 65532, 65532)
            assert all(path.startswith(("/run/sluice/", "/dev/")) for path in written(process)), written(process)
            root = Path(f"/proc/{process.pid}/mountinfo").read_text().splitlines()
            (options,) = (line.split()[5] for line in root if line.split()[4] == "/")
            assert "ro" in options.split(",")
        assert not [*running.tmp.iterdir()]
        assert (running.run / "envoy/bootstrap.yaml").exists()
        running.first.send_signal(signal.SIGTERM)
        assert running.wait() == 0, running.told


@runs_pods
def test_nothing_of_it_is_left(image: Path) -> None:
    """A process that has changed its user does not end with the one that started it by itself."""
    with serving(image) as running:
        processes = [running.first, *running.first.children(recursive=True)]
        assert len(processes) >= 2
    until(lambda: not any(process.is_running() for process in processes), 30, "all of it to end")


TWICE = """
import asyncio, os, signal
from extproc.cli import running

async def told_twice():
    running._TOLD_TWICE_S = 0.0
    assert os.getpid() == 1
    stopping = running.stop_event()
    os.kill(1, signal.SIGTERM)
    await stopping.wait()
    await asyncio.sleep(0.1)
    os.kill(1, signal.SIGTERM)
    await asyncio.sleep(30)

asyncio.run(told_twice())
"""


@runs_pods
def test_a_second_signal_ends_it_also_where_it_is_the_first_process() -> None:
    """For which the kernel ignores signals that have no handler, its own among them."""
    run = subprocess.run(alone(sys.executable, "-c", TWICE), cwd=ROOT, capture_output=True, text=True)
    assert run.returncode == 128 + signal.SIGTERM, run.stderr


@runs_pods
def test_code_that_is_put_where_python_would_run_it_does_not_run(image: Path, tmp_path: Path) -> None:
    """`.pth` files and customizing modules, beside our packages and in the base's own folder of packages."""
    mark = "import pathlib; pathlib.Path('/tmp/ran').touch()\n"
    spoilt = tmp_path / "image"
    shutil.copytree(image, spoilt, copy_function=os.link)
    base = tmp_path / "site-packages"
    base.mkdir()
    for folder in (spoilt / "opt/sluice/lib", base):
        for name in ("evil.pth", "sitecustomize.py", "usercustomize.py"):
            (folder / name).write_text(mark)
    target = f"/usr/local/lib/python3.{sys.version_info.minor}/site-packages"
    with serving(spoilt, [Mount(str(base), target, read_only=True)]) as running:
        assert not (running.tmp / "ran").exists()
        for process in running.first.children():
            assert "-S" in process.cmdline(), process.cmdline()
            maps = {part.path for part in process.memory_maps() if ".cpython-" in part.path}
            assert maps
            assert not [path for path in maps if "site-packages" in path]


@runs_pods
def test_the_mark_of_that_test_is_made_where_python_is_started_plainly(tmp_path: Path) -> None:
    """Otherwise it would prove nothing."""
    (tmp_path / "sitecustomize.py").write_text("print('ran')")
    run = subprocess.run(
        [sys.executable, "-c", ""], env={"PYTHONPATH": str(tmp_path)}, capture_output=True, text=True, check=True
    )
    assert run.stdout == "ran\n"


@runs_pods
def test_its_other_commands_need_no_envoy_and_no_network(image: Path) -> None:
    code, told = sluice(image, "check")
    assert code == 0, told
    assert "Envoy's own validation was left out" in told
    assert "OK: models 1" in told
    code, told = sluice(image, "db", "upgrade")
    assert code == 0, told
    assert "it was empty" in told
    code, told = sluice(image, "prices", "check")
    assert code == 0, told
    assert "genai-prices" in told


@runs_pods
def test_its_extras_can_be_loaded(image: Path) -> None:
    """What is loaded only where it is configured, without the packages that the lock leaves out."""
    code = (
        "import psycopg, tokenizers, azure.identity, azure.keyvault.secrets, genai_prices, envoy_data_plane, hyperscan;"
        "import psycopg_binary, opentelemetry.sdk.resources, uvloop, zstandard, extproc.secrets.entra"
    )
    lib = image / "opt/sluice/lib"
    environ = {"PYTHONPATH": str(lib), "PYTHONSAFEPATH": "1"}
    subprocess.run([sys.executable, "-S", "-W", "ignore", "-c", code], env=environ, check=True)


def test_its_size_is_told(image: Path, record_property: Callable[[str, object], None]) -> None:
    """The base comes on top. A package that doubles it is to be seen in a review."""
    size = sum(path.stat().st_size for path in files(image))
    record_property("image_bytes", size)
    assert size < 350_000_000, f"{size / 1e6:.0f} MB"
