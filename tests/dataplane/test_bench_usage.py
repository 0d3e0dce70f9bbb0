"""Envoy's own reading of usage can be measured beside the policy's: loadtest/bench_usage.py."""

import json
import subprocess

import pytest

from extproc.interpreter import python
from loadtest.setups import ROOT

pytestmark = pytest.mark.timeout(180)


def test_envoy_tells_the_usage_in_one_message_after_the_answer() -> None:
    """Its null policy fails a call whose usage it is not told, and so the bench."""
    asked = python("loadtest.bench_usage", "--rounds", "1", "--seconds", "0.2", "--json")
    done = subprocess.run(asked, cwd=ROOT, capture_output=True, text=True, check=True, timeout=150)
    found = json.loads(done.stdout)["workloads"]
    ratios = {workload: told["ratios"] for workload, told in found.items()}
    messages = "messages per call, told over pieces"
    assert ratios["json"][messages]["median"] == pytest.approx(0.75)
    assert ratios["sse"][messages]["median"] < 0.75
