"""What binds calls to one backend: what they have in common, by team, and nothing that can be read back."""

from collections.abc import Mapping

import pytest

from extproc.headers import Headers
from extproc.model import Affinity, Binding, Caller, CleanPrompt, Prompt, Team
from extproc.stages import binding

ANN = Caller("k1", "ann", team=Team("payments", "area", "tier"))
BEN = Caller("k2", "ben", team=Team("search", "area", "tier"))
ALONE = Caller("k3", "cleo")


def _of(by: Binding, name: str = "", caller: Caller = ANN, body: bytes = b"{}", **bound: str) -> str | None:
    return binding.of(Affinity(by, name), caller, bound, CleanPrompt(Prompt(body, "m", None)))


def test_only_wanted_headers_are_kept() -> None:
    headers = Headers.of([("x-session", b"s1"), ("cookie", b"a=1"), ("authorization", b"Bearer k")])
    assert binding.headers(headers, ("x-session", "cookie", "x-other")) == {"x-session": "s1", "cookie": "a=1"}
    assert binding.headers(headers, ()) == {}


def test_a_team_is_bound_as_a_whole_and_a_key_without_one_by_itself() -> None:
    assert _of(Binding.TEAM) == _of(Binding.TEAM, caller=Caller("k9", "another", team=ANN.team))
    assert len({_of(Binding.TEAM, caller=caller) for caller in (ANN, BEN, ALONE)}) == 3


def test_a_header_binds_within_a_team() -> None:
    bound = {"x-session": "s1"}
    first = binding.of(Affinity(Binding.HEADER, "x-session"), ANN, bound, CleanPrompt(Prompt(b"", None, None)))
    other = binding.of(Affinity(Binding.HEADER, "x-session"), BEN, bound, CleanPrompt(Prompt(b"", None, None)))
    assert first is not None
    assert first != other


@pytest.mark.parametrize("bound", [{}, {"x-session": ""}], ids=str)
def test_a_call_without_the_header_is_drawn_for_itself(bound: Mapping[str, str]) -> None:
    assert binding.of(Affinity(Binding.HEADER, "x-session"), ANN, bound, CleanPrompt(Prompt(b"", None, None))) is None


@pytest.mark.parametrize(
    ("cookie", "value"),
    [
        ("session=s1", "s1"),
        ("a=1; session=s1;b=2", "s1"),
        ("session=s=1", "s=1"),
        ("session=", None),
        ("sessions=s1; xsession=s2", None),
        ("session", None),
        ("", None),
    ],
)
def test_a_cookie_binds_by_its_value(cookie: str, value: str | None) -> None:
    assert _of(Binding.COOKIE, "session", cookie=cookie) == (None if value is None else f"payments {value}")


def test_prompts_that_begin_alike_are_bound_together_wherever_they_stand() -> None:
    system = b'"messages":[{"role":"system","content":"%b' % (b"Be kind. " * 200)
    one = _of(Binding.PROMPT, body=b'{%b one"}]}' % system)
    two = _of(Binding.PROMPT, body=b'{"model":"m","stream":true,%b two"}]}' % system)
    other = _of(Binding.PROMPT, body=b'{"messages":[{"role":"system","content":"Be brief."}]}')
    assert one == two
    assert other not in (None, one)
    assert one is not None
    assert "kind" not in one
    assert _of(Binding.PROMPT, body=b'{"model":"m"}') is None
