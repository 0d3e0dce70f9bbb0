"""Heads that come again are read once, and nothing that only one call says is taken for another's."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from extproc.headers import Headers
from extproc.model import Catalogue
from extproc.stages import forward, heads
from extproc.stages.heads import Heads
from extproc.surfaces import Face, Surface
from tests.support.playbook import catalogue

CATALOGUE: Catalogue = replace(
    catalogue(),
    low_prefix="/low",
    sessions=("x-session",),
    tags=("repository",),
    binding_headers=frozenset({"x-bound"}),
)
ALWAYS = {":method": b"POST", ":path": b"/v1/chat/completions?a=b", "content-type": b"application/json; charset=utf-8"}
VALUES = (b"", b"a", b"gzip", b"identity", b"application/json", b"2", b"low")
NAMES = (
    *("accept", "anthropic-beta", "anthropic-version", "authorization", "cache-control", "content-encoding", "cookie"),
    *("content-length", "idempotency-key", "openai-beta", "user-agent", "x-bound", "x-client-request-id", "x-priority"),
    *("x-request-id", "x-session", "x-sluice-tag-repository", "x-stainless-retry-count", "x-unknown"),
)
PATHS = (b"/v1/chat/completions", b"/low/v1/messages?beta=true", b"/v1/models", b"/nowhere", b"/v1/responses/r1?x")


def kept(known: Heads, given: dict[str, bytes]) -> heads.Head:
    headers = Headers(given)
    head = known.read(headers)
    if not head.is_kept:
        known.keep(headers, head)
    return head


some = st.fixed_dictionaries(
    {":method": st.sampled_from((b"POST", b"GET")), ":path": st.sampled_from(PATHS)},
    optional={name: st.sampled_from(VALUES) for name in NAMES},
)


@given(st.lists(some, max_size=12))
def test_a_head_that_is_known_says_what_it_would_if_it_were_read_anew(calls: list[dict[str, bytes]]) -> None:
    known = Heads(CATALOGUE)
    for one in [*calls, *calls]:
        head = kept(known, one)
        assert replace(head, is_kept=False) == heads.read(Headers(one), CATALOGUE)


def test_what_each_call_has_of_its_own_makes_no_other_head() -> None:
    known = Heads(CATALOGUE)
    one = kept(known, ALWAYS | {"x-request-id": b"1", "authorization": b"a", "idempotency-key": b"i"})
    assert kept(known, ALWAYS | {"x-request-id": b"2", "authorization": b"b", "idempotency-key": b"j"}) is one
    assert one.has_own
    assert "authorization" in one.stripped


@pytest.mark.parametrize("name", sorted(forward.OWN))
def test_an_id_that_a_client_makes_for_each_call_makes_no_other_head(name: str) -> None:
    known = Heads(CATALOGUE)
    assert kept(known, ALWAYS | {name: b"1"}) is kept(known, ALWAYS | {name: b"2"})


def test_one_that_names_an_item_is_not_kept() -> None:
    known = Heads(CATALOGUE)
    for number in range(10):
        kept(known, ALWAYS | {":path": b"/v1/responses/resp_%d" % number})
    assert not known._known


@pytest.mark.parametrize(
    "more", [{"user-agent": b"other"}, {"x-priority": b"low"}, {":path": b"/v1/messages"}], ids=str
)
def test_what_is_read_of_it_does(more: dict[str, bytes]) -> None:
    known = Heads(CATALOGUE)
    usual = ALWAYS | {"user-agent": b"one", "x-priority": b"high"}
    assert kept(known, usual) is not kept(known, usual | more)


def test_a_head_with_a_name_twice_and_a_long_one_are_read_each_time() -> None:
    known = Heads(CATALOGUE)
    twice = Headers.of([*ALWAYS.items(), ("anthropic-beta", b"a"), ("anthropic-beta", b"b")])
    for headers in (twice, Headers(ALWAYS | {"user-agent": b"x" * 5000})):
        head = known.read(headers)
        known.keep(headers, head)
        assert known.read(headers) is not head
    assert known.read(twice).versions == (("anthropic-beta", "a"), ("anthropic-beta", "b"))


def test_no_more_are_kept_than_fit() -> None:
    known = Heads(CATALOGUE)
    first = kept(known, ALWAYS)
    for number in range(2000):
        kept(known, ALWAYS | {"user-agent": str(number).encode()})
    assert len(known._known) <= 1024
    assert kept(known, ALWAYS) == first


def test_what_a_head_says() -> None:
    head = heads.read(Headers(ALWAYS | {"x-session": b"s", "x-stainless-retry-count": b"2"}), CATALOGUE)
    assert (head.path, head.query, head.low_route) == ("/v1/chat/completions", "a=b", False)
    assert (head.media, head.is_compressed, head.retries) == ("application/json", False, "2")
    assert (head.names_session, head.binds, head.asks_cache) == (True, False, False)
    assert head.place is not None
    assert (head.place.surface, head.face) == (Surface.CHAT, Face.OPENAI)
    nowhere = heads.read(Headers({":path": b"/low/anthropic/x"}), CATALOGUE)
    assert (nowhere.place, nowhere.face, nowhere.low_route) == (None, Face.ANTHROPIC, True)
