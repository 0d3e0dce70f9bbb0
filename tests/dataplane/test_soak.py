"""A short soak with mixed faults: what is open ends, no descriptors and no keys stay. `make soak` takes ten minutes."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from loadtest.soak import Looks, growth

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.timeout(400)
@pytest.mark.skipif(shutil.which("redis-server") is None, reason="no redis-server: apt-get install redis-server")
def test_nothing_stays_open_after_calls_and_faults_of_all_kinds() -> None:
    command = [sys.executable, "-W", "ignore", "-m", "loadtest.soak", "--seconds", "24", "--json"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=380, check=False)
    assert done.returncode in (0, 1), done.stderr
    told = json.loads(done.stdout)
    assert told["calls"].get("200", 0) > 10
    assert not any(told["left"].values()), told["left"]
    grown = {one.name: one for one in growth(Looks(told["looks"]))}
    # Memory is a matter of ten minutes.
    for name in ("workers' descriptors", "Envoy's descriptors", "Redis' endless keys"):
        assert grown[name].flat, grown[name]
