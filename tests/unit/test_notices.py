"""Headers that tell a caller that a name is retired, and who served."""

import pytest

from extproc.call import Call
from extproc.model import Backend, Catalogue, Chain, Dialect, PublicModel, Retirement, Target
from extproc.stages import notices

BACKENDS = [Backend(name, Dialect.OPENAI) for name in "abc"]
TARGETS = tuple(Target(backend, "m") for backend in BACKENDS)
MODEL = PublicModel(
    "m", (TARGETS,), retired={"old": Retirement(1_769_817_600), "older": Retirement(1_704_067_200, 1_798_675_200)}
)


@pytest.mark.parametrize(
    ("written", "told"),
    [
        ("m", ()),
        (None, ()),
        ("old", (("deprecation", "@1769817600"),)),
        ("older", (("deprecation", "@1704067200"), ("sunset", "Thu, 31 Dec 2026 00:00:00 GMT"))),
    ],
)
def test_a_retired_name_is_told(written: str | None, told: notices.Pairs) -> None:
    assert notices.of_model(MODEL, written) == told


@pytest.mark.parametrize(("backend", "attempt"), [("a", "1"), ("c", "3")])
def test_who_served_is_told_with_the_number_of_the_attempt(backend: str, attempt: str) -> None:
    call = Call(0.0, Catalogue({}, {}, {}, 1), chain=Chain(MODEL, TARGETS), backend=backend)
    assert notices.of_backend(call) == (("x-sluice-backend", backend), ("x-sluice-attempts", attempt))


@pytest.mark.parametrize("backend", [None, "none of them"])
def test_where_nobody_served_nothing_is_told(backend: str | None) -> None:
    call = Call(0.0, Catalogue({}, {}, {}, 1), chain=Chain(MODEL, TARGETS), backend=backend)
    assert notices.of_backend(call) == ()
