"""Keys as files: whole or not at all, for their owner only, whatever lies in the way and whenever it ends."""

import fcntl
import os
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from extproc.gitops.delivery import DeliveredKey, DeliveryError, open_delivery
from extproc.gitops.delivery.names import label
from extproc.identity import keys

OLD, NEW = keys.mint(b"\x01" * 32), keys.mint(b"\x02" * 32)
KEY = DeliveredKey("payments", "ci", NEW)


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "deep" / "out"


def deliver(out: Path, *delivered: DeliveredKey) -> None:
    open_delivery(f"file:{out}").deliver(delivered)


def failure(out: Path) -> str:
    with pytest.raises(DeliveryError) as caught:
        deliver(out, KEY)
    assert NEW not in str(caught.value)
    return str(caught.value)


def contents(out: Path) -> dict[str, str]:
    return {str(file.relative_to(out)): file.read_text() for file in out.rglob("*") if file.is_file()}


def test_a_file_holds_the_key_and_nothing_else(out: Path) -> None:
    deliver(out, KEY, DeliveredKey("risk", "CI", OLD))
    assert contents(out) == {"payments/ci": NEW, f"risk/{label('CI', 100)}": OLD}


def test_only_its_owner_can_read_it(out: Path) -> None:
    mask = os.umask(0)
    try:
        deliver(out, KEY)
    finally:
        os.umask(mask)
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in (out, *out.rglob("*"))}
    assert modes == {"out": 0o700, "payments": 0o700, "ci": 0o600}


def test_a_second_delivery_replaces_the_first_and_leaves_the_rest(out: Path) -> None:
    deliver(out, replace(KEY, secret=OLD), replace(KEY, name="dev", secret=OLD))
    (out / "payments" / "ci").chmod(0o644)
    (out / "payments").chmod(0o755)
    (out / "payments" / "notes").write_text("mine")
    deliver(out, KEY)
    assert contents(out) == {"payments/ci": NEW, "payments/dev": OLD, "payments/notes": "mine"}
    assert stat.S_IMODE((out / "payments" / "ci").stat().st_mode) == 0o600
    assert stat.S_IMODE((out / "payments").stat().st_mode) == 0o700


@pytest.mark.parametrize("name", ["..", ".", "../up", "a/b", "/etc/x", "\\", "ci.new", ".ci.new", "~", "é" * 100])
def test_a_name_leads_nowhere_else(name: str, out: Path) -> None:
    deliver(out, KEY, replace(KEY, name=name, secret=OLD))
    assert contents(out) == {"payments/ci": NEW, f"payments/{label(name, 100)}": OLD}
    assert [path.name for path in out.parent.iterdir()] == ["out"]


def test_nothing_to_deliver_is_done_at_once(out: Path) -> None:
    deliver(out)
    assert contents(out) == {}


# ---- what lies in the way ----


def test_the_folder_may_be_a_link_as_its_owner_likes(out: Path, tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "real")
    deliver(tmp_path / "link", KEY)
    assert contents(tmp_path / "real") == {"payments/ci": NEW}


def test_a_team_s_folder_may_not(out: Path, tmp_path: Path) -> None:
    out.mkdir(parents=True)
    (tmp_path / "elsewhere").mkdir()
    (out / "payments").symlink_to(tmp_path / "elsewhere")
    assert "cannot deliver keys: payments: Not a directory" in failure(out)
    assert contents(tmp_path) == {}


@pytest.mark.parametrize("name", ["ci", ".ci.new"])
def test_a_link_for_a_file_is_replaced_and_not_followed(name: str, out: Path, tmp_path: Path) -> None:
    (out / "payments").mkdir(parents=True)
    (tmp_path / "victim").write_text("mine")
    (out / "payments" / name).symlink_to(tmp_path / "victim")
    deliver(out, KEY)
    assert (tmp_path / "victim").read_text() == "mine"
    assert contents(out) == {"payments/ci": NEW}
    assert not (out / "payments" / "ci").is_symlink()


def test_a_half_written_file_of_a_run_that_was_killed_is_replaced(out: Path) -> None:
    (out / "payments").mkdir(parents=True)
    (out / "payments" / ".ci.new").write_text("sk-slu")
    deliver(out, KEY)
    assert contents(out) == {"payments/ci": NEW}


def test_a_folder_where_a_file_should_be_is_told(out: Path) -> None:
    (out / "payments" / "ci").mkdir(parents=True)
    assert "Is a directory" in failure(out)


def test_a_file_where_a_folder_should_be_is_told(out: Path) -> None:
    out.parent.mkdir()
    out.write_text("")
    assert failure(out).startswith(f"{out}: cannot deliver keys: ")


def test_a_folder_that_anyone_can_write_to_is_refused(out: Path) -> None:
    out.mkdir(parents=True)
    out.chmod(0o1777)
    assert "`chmod o-w` it, or name another" in failure(out)
    assert contents(out) == {}


def test_two_do_not_deliver_to_one_folder_at_once(out: Path) -> None:
    out.mkdir(parents=True)
    other = os.open(out, os.O_RDONLY)
    try:
        fcntl.flock(other, fcntl.LOCK_EX)
        assert "another process is delivering keys here" in failure(out)
    finally:
        os.close(other)
    deliver(out, KEY)
    assert contents(out) == {"payments/ci": NEW}


# ---- when it ends early ----

PROGRAM = """
import resource, sys
from extproc.gitops.delivery import DeliveredKey, DeliveryError, open_delivery
target, secret, number, largest = sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
resource.setrlimit(resource.RLIMIT_FSIZE, (largest, largest))
print("ready", flush=True)
try:
    open_delivery(target).deliver([DeliveredKey(f"team-{n % 5}", f"key-{n}", secret) for n in range(number)])
except DeliveryError as error:
    sys.exit(str(error))
"""


def program(out: Path, secret: str, number: int, largest: int = 1 << 20) -> subprocess.Popen[str]:
    arguments = [sys.executable, "-c", PROGRAM, f"file:{out}", secret, str(number), str(largest)]
    return subprocess.Popen(arguments, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def test_a_full_disk_is_told_and_leaves_the_old_key(out: Path) -> None:
    deliver(out, DeliveredKey("team-0", "key-0", OLD))
    with program(out, NEW, 5, largest=20) as run:
        _, errors = run.communicate()
    assert run.returncode == 1
    assert "cannot deliver keys: " in errors
    assert "File too large" in errors
    assert (out / "team-0" / "key-0").read_text() == OLD


STEP = min(3, int(os.environ.get("SLUICE_KILL_STEP", "3")))


def test_killed_at_any_time_it_leaves_old_keys_and_new_ones_and_no_other(out: Path) -> None:
    number = 300
    places = {f"team-{n % 5}/key-{n}" for n in range(number)}
    started = time.monotonic()
    deliver(out, *(DeliveredKey(f"team-{n % 5}", f"key-{n}", OLD) for n in range(number)))
    lasts = time.monotonic() - started
    seen = set[str]()
    killed = 0
    for step in range(0, 40, STEP):
        secret = keys.mint(bytes([step]) * 32)
        with program(out, secret, number) as run:
            assert run.stdout is not None
            assert run.stdout.readline() == "ready\n"
            time.sleep(lasts * step / 20)  # from its beginning to twice its length
            run.send_signal(signal.SIGKILL)
        killed += run.returncode == -signal.SIGKILL
        found = {place: text for place, text in contents(out).items() if not Path(place).name.startswith(".")}
        assert set(found) == places
        assert all(keys.is_well_formed(text) for text in found.values())
        seen |= {text for text in found.values() if text == secret}
    assert killed
    assert seen
    deliver(out, *(DeliveredKey(f"team-{n % 5}", f"key-{n}", NEW) for n in range(number)))
    assert contents(out) == dict.fromkeys(places, NEW)


@pytest.fixture
def steps(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What is asked of the system, in order."""
    taken: list[str] = []

    def noted(name: str, real: Callable[..., object]) -> Callable[..., object]:
        def call(*args: object, **options: object) -> object:
            taken.append(name)
            return real(*args, **options)

        return call

    for name in ("sync", "fsync", "rename"):
        monkeypatch.setattr(os, name, noted(name, getattr(os, name)))
    return taken


def test_the_disk_has_a_key_before_it_takes_its_place_and_the_place_before_it_is_done(
    out: Path, steps: list[str]
) -> None:
    deliver(out, KEY, DeliveredKey("risk", "ci", OLD))
    assert steps == ["sync", "fsync", "rename", "fsync", "fsync", "rename", "fsync", "fsync"]


@pytest.mark.parametrize("step", ["sync", "fsync", "rename"])
def test_a_disk_that_fails_is_told_and_leaves_the_old_key(
    step: str, out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    deliver(out, replace(KEY, secret=OLD))

    def fails(*args: object, **options: object) -> None:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(os, step, fails)
    assert failure(out) == f"{out}: cannot deliver keys: Input/output error"
    assert (out / "payments" / "ci").read_text() == OLD


def test_ten_thousand_keys_go_in_one_delivery(out: Path) -> None:
    deliver(out, *(DeliveredKey(f"team-{n % 200}", f"key-{n}", NEW) for n in range(10_000)))
    assert len(contents(out)) == 10_000
