"""What one attempt says about the backend, and about the target."""

import pytest

from extproc.routing.attempt import Attempt, Meaning, Why, cool_down, meaning
from extproc.routing.policy import Cooling

WALL = 1_795_262_400.0
COOLING = Cooling(default_wait=5, longest_wait=60)
SPENT = {"x-ratelimit-remaining-requests": "0", "x-ratelimit-reset-requests": "4s"}


def attempt(status: int, *flags: str, **headers: str) -> Attempt:
    return Attempt("one", status, flags, {name.replace("_", "-"): value for name, value in headers.items()})


@pytest.mark.parametrize(
    ("told", "means"),
    [
        (attempt(200), Meaning.ALIVE),
        (attempt(400), Meaning.ALIVE),
        (attempt(401), Meaning.ALIVE),
        (attempt(404), Meaning.ALIVE),
        (attempt(409), Meaning.ALIVE),
        (attempt(408), Meaning.ALIVE),
        (attempt(429), Meaning.ALIVE),
        (attempt(529), Meaning.ALIVE),
        (attempt(503, retry_after="2"), Meaning.ALIVE),
        (attempt(503, retry_after="soon"), Meaning.FAILED),
        (attempt(503), Meaning.FAILED),
        (attempt(500, retry_after="2"), Meaning.FAILED),
        (attempt(502), Meaning.FAILED),
        (attempt(504), Meaning.FAILED),
        (attempt(599), Meaning.FAILED),
        (attempt(429, "upstream_retry_limit_exceeded"), Meaning.ALIVE),
        (attempt(200, "downstream_connection_termination"), Meaning.ALIVE),
        (attempt(0, "downstream_connection_termination"), Meaning.NOTHING),
        (attempt(0, "downstream_remote_reset"), Meaning.NOTHING),
        (attempt(0), Meaning.NOTHING),
        (attempt(0, "upstream_overflow"), Meaning.NOTHING),
        (attempt(0, "upstream_connection_failure"), Meaning.FAILED),
        (attempt(503, "upstream_connection_failure"), Meaning.FAILED),
        (attempt(0, "upstream_retry_limit_exceeded", "upstream_protocol_error"), Meaning.FAILED),
        (attempt(0, "upstream_remote_reset"), Meaning.FAILED),
        (attempt(0, "upstream_request_timeout"), Meaning.FAILED),
        (attempt(0, "dns_resolution_failure"), Meaning.FAILED),
        (attempt(0, "no_healthy_upstream"), Meaning.FAILED),
        (attempt(200, "upstream_connection_termination"), Meaning.FAILED),
        (attempt(200, "stream_idle_timeout"), Meaning.FAILED),
        (Attempt("one", 200, judged=Meaning.FAILED), Meaning.FAILED),
        (Attempt("one", 200, judged=Meaning.NOTHING), Meaning.NOTHING),
    ],
)
def test_what_it_says_about_the_backend(told: Attempt, means: Meaning) -> None:
    assert meaning(told, WALL) is means


@pytest.mark.parametrize("status", [429, 529])
def test_a_refusal_cools_for_as_long_as_it_says(status: int) -> None:
    assert cool_down(attempt(status, retry_after="3"), COOLING, WALL) == (3.0, Why.RATE_LIMITED)


@pytest.mark.parametrize("status", [429, 529])
@pytest.mark.parametrize("said", ["", "soon", "1e9"])
def test_one_that_says_nothing_readable_cools_for_the_default(status: int, said: str) -> None:
    assert cool_down(attempt(status, retry_after=said), COOLING, WALL) == (5, Why.RATE_LIMITED)
    assert cool_down(attempt(status), COOLING, WALL) == (5, Why.RATE_LIMITED)


@pytest.mark.parametrize("said", ["61", "86400", "999999999"])
def test_no_pause_is_longer_than_configured(said: str) -> None:
    assert cool_down(attempt(429, retry_after=said), COOLING, WALL) == (60, Why.RATE_LIMITED)
    headers = {**SPENT, "x-ratelimit-reset-requests": said}
    assert cool_down(Attempt("one", 200, (), headers), COOLING, WALL) == (60, Why.SPENT)


def test_a_503_cools_only_where_it_says_when_to_come_back() -> None:
    assert cool_down(attempt(503, retry_after="3"), COOLING, WALL) == (3.0, Why.RATE_LIMITED)
    assert cool_down(attempt(503), COOLING, WALL) is None
    assert cool_down(attempt(500, retry_after="3"), COOLING, WALL) is None


@pytest.mark.parametrize("status", [200, 400, 403])
def test_an_allowance_that_is_used_up_cools_before_it_is_refused(status: int) -> None:
    assert cool_down(Attempt("one", status, (), SPENT), COOLING, WALL) == (4.0, Why.SPENT)


@pytest.mark.parametrize("status", [200, 400, 404, 0])
def test_nothing_else_cools(status: int) -> None:
    assert cool_down(attempt(status, retry_after="3"), COOLING, WALL) is None


def test_a_broken_server_is_not_believed() -> None:
    assert cool_down(Attempt("one", 500, (), SPENT), COOLING, WALL) is None
