"""Where the work of a call is: loadtest/profile.py tells of the same work as the guard counts."""

import json
import subprocess
from collections import Counter
from types import CodeType

import pytest

from extproc.interpreter import python
from extproc.pipeline import Pipeline
from extproc.stages import budget
from loadtest import guard, profile
from loadtest.setups import ROOT

PLAN_CALLS = guard.PLAN.rounds * guard.PLAN.calls


def test_what_it_tells_is_what_the_guard_counts() -> None:
    """In a process of its own: what is counted there may not be what this one does."""
    asked = python("loadtest.profile", "--kinds", "json", "--json")
    done = subprocess.run(asked, cwd=ROOT, capture_output=True, text=True, timeout=110, check=True)
    (functions,) = json.loads(done.stdout).values()
    counted = guard.baseline()["json"]["work"]  # with the driver's own, a tenth
    assert 0.75 * counted < sum(functions.values()) < guard.MOST * counted
    assert functions["extproc/pipeline.py: Pipeline.request_headers"] > 0
    assert not any(name.startswith("loadtest/") for name in functions)


def test_rooms_and_functions_have_the_same_sum() -> None:
    codes: list[CodeType] = [Pipeline.request_body.__code__, budget.hold.__code__, json.dumps.__code__]
    found = Counter(dict(zip(codes, (3 * PLAN_CALLS, 2 * PLAN_CALLS, PLAN_CALLS), strict=True)))
    assert profile.shares(found, by_function=False) == {"extproc/pipeline.py": 3, "extproc/stages": 2, "libraries": 1}
    assert profile.shares(found, by_function=True) == {
        "extproc/pipeline.py: Pipeline.request_body": 3,
        "extproc/stages/budget.py: hold": 2,
        "json/__init__.py: dumps": 1,
    }


@pytest.mark.parametrize(("most", "rows"), [(9, ["a", "b", "c", "a call"]), (1, ["a", "2 others", "a call"])])
def test_a_table_tells_all_of_a_call(most: int, rows: list[str]) -> None:
    head, *lines = profile.table({"json": {"a": 6, "b": 2}, "sse": {"a": 6, "c": 4}}, most).splitlines()
    assert head.split() == ["json", "sse"]
    assert [line.rsplit(maxsplit=4)[0] for line in lines] == rows
    assert lines[-1].split()[-4:] == ["8", "100.0%", "10", "100.0%"]
