"""`sluice smoke` against a real gateway: all is well, or the table says what is not."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.support.fake import FakeProvider
from tests.support.gateway import ROOT, RunningGateway
from tests.support.ports import free_port

CHECKS = ["health", "readiness", "models", "no key", "wrong key", "unknown model", "chat", "stream"]


@pytest.fixture
def key_file(gateway: RunningGateway, tmp_path: Path) -> Path:
    file = tmp_path / "key"
    file.write_text(f"{gateway.key}\n")
    return file


def smoke(url: str, key_file: Path, *words: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "extproc.cli", "smoke", "--url", url, "--key-file", str(key_file), *words]
    run = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)
    assert RunningGateway.key not in run.stdout + run.stderr
    return run


def findings(run: subprocess.CompletedProcess[str]) -> dict[str, Any]:
    return {check["check"]: check for check in json.loads(run.stdout)["checks"]}


def test_a_gateway_that_serves_passes(gateway: RunningGateway, key_file: Path) -> None:
    run = smoke(gateway.url, key_file, "--json")
    told = json.loads(run.stdout)
    assert (run.returncode, told["ok"], [check["check"] for check in told["checks"]]) == (0, True, CHECKS)
    assert all(check["ok"] for check in told["checks"])
    assert "tokens" in findings(run)["chat"]["detail"]
    assert findings(run)["stream"]["detail"].startswith(f"{told['model']}: first event after ")


def test_people_get_a_table(gateway: RunningGateway, key_file: Path) -> None:
    run = smoke(gateway.url, key_file, "--model", "claude-sonnet-5-5")
    heading, *rows = run.stdout.splitlines()
    assert run.returncode == 0
    assert heading.split() == ["CHECK", "MS", "WHAT", "CAME", "OF", "IT"]
    assert len(rows) == len(CHECKS)
    assert all(" ok " in row for row in rows)
    assert "claude-sonnet-5-5: " in rows[-1]


def test_what_fails_is_named_with_the_id_under_which_the_log_has_it(
    gateway: RunningGateway, key_file: Path, fake: FakeProvider
) -> None:
    fake.script("openai", [{"status": 500, "error_body": "broken"}, {"reset": 3}])
    run = smoke(gateway.url, key_file, "--model", "gpt-4o", "--json")
    told = findings(run)
    assert run.returncode == 1
    assert [name for name in CHECKS if not told[name]["ok"]] == ["chat", "stream"]
    assert told["chat"]["detail"].startswith("500")
    assert told["stream"]["detail"].startswith(("the stream broke off", "the connection broke"))
    for name in ("chat", "stream"):
        assert gateway.record(told[name]["request_id"])["surface"] == "chat"


def test_a_key_that_is_not_taken_fails_what_needs_one(gateway: RunningGateway, tmp_path: Path) -> None:
    wrong = tmp_path / "wrong"
    wrong.write_text(f"{gateway.key[:-8]}AAAAAAAA\n")
    told = findings(smoke(gateway.url, wrong, "--json"))
    assert [told[name]["ok"] for name in CHECKS] == [True, True, False, True, True, False, None, None]
    assert "401" in told["models"]["detail"]


def test_where_nobody_listens_the_rest_is_left_out(tmp_path: Path) -> None:
    key = tmp_path / "key"
    key.write_text(RunningGateway.key)
    run = smoke(f"http://127.0.0.1:{free_port()}", key, "--json")
    told = findings(run)
    assert run.returncode == 1
    assert told["health"]["detail"].startswith("no connection: ")
    assert [told[name]["ok"] for name in CHECKS] == [False] + [None] * 7
