"""What the configuration of the ledger may say of sessions and tags."""

from typing import Any

import pytest
from pydantic import ValidationError

from extproc.config.compile import catalogue
from extproc.config.ledger import SESSIONS, Ledger
from extproc.config.schema import Gateway


def gateway(**ledger: Any) -> Gateway:
    return Gateway.model_validate(
        {
            "backends": {"one": {"dialect": "openai", "url": "http://127.0.0.1:1"}},
            "models": {"m": {"targets": [[{"backend": "one"}]]}},
            "ledger": ledger,
        }
    )


def test_usually_agents_name_their_sessions_and_nobody_tags() -> None:
    compiled = catalogue(gateway())
    assert (compiled.sessions, compiled.tags) == (SESSIONS, ())


def test_headers_are_looked_for_in_lower_case() -> None:
    compiled = catalogue(gateway(sessions=["X-Run"], tags=["repository", "pull_request"]))
    assert (compiled.sessions, compiled.tags) == (("x-run",), ("repository", "pull_request"))


@pytest.mark.parametrize(
    ("given", "problem"),
    [
        ({"sessions": ["a b"]}, "should match pattern"),
        ({"sessions": ["x_run"]}, "should match pattern"),  # which Envoy refuses
        ({"sessions": ["x-run", "X-Run"]}, "name each once"),
        ({"sessions": ["Authorization"]}, "holds a secret"),
        ({"sessions": ["x-api-key"]}, "holds a secret"),
        ({"tags": ["pull-request"]}, "should match pattern"),
        ({"tags": ["PR"]}, "should match pattern"),
        ({"tags": ["a'b"]}, "should match pattern"),
        ({"tags": ["pr", "pr"]}, "name each once"),
        ({"tags": [f"t{number}" for number in range(9)]}, "at most 8 items"),
    ],
)
def test_what_makes_no_sense_is_refused(given: dict[str, Any], problem: str) -> None:
    with pytest.raises(ValidationError, match=problem):
        Ledger.model_validate(given)
