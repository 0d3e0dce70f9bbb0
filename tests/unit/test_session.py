"""The session and the tags of a call, as the ledger may have them."""

import re
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from extproc.call import Call
from extproc.headers import Headers
from extproc.identity.keys import QUICKSTART_KEY
from extproc.model import Caller, Talk
from extproc.stages.session import LONGEST_TAG, Sessions
from tests.support.playbook import catalogue

ANN, BOB = Caller("key_1", "ann"), Caller("key_2", "bob")
SESSIONS = ("x-session-id", "session-id")
SECRET = b"s" * 32
UUID = "0198a0c2-1111-4222-8333-444455556666"


def told(
    headers: dict[str, str] | None = None, talk: Talk | None = None, caller: Caller = ANN, secret: bytes | None = SECRET
) -> Call:
    """A call after its head, and after its body where there is one."""
    known = replace(catalogue(), sessions=SESSIONS, tags=("repository", "pull_request"))
    call, sessions = Call(started=0.0, catalogue=known), Sessions(secret)
    pairs = [(name, value.encode()) for name, value in (headers or {}).items()]
    sessions.of_headers(call, caller, Headers.of(pairs))
    if talk is not None:
        sessions.of_body(call, caller, talk)
    return call


# ---- sessions --------------------------------------------------------------------------------------


def test_the_first_header_that_is_there_names_it() -> None:
    assert told({"session-id": "run-2"}).session == "run-2"
    assert told({"session-id": "run-2", "x-session-id": "run-1"}, Talk("run-3", "hi")).session == "run-1"
    assert told({"session-id": "run-2", "x-session-id": ""}).session == "run-2"


def test_else_the_body_names_it() -> None:
    assert told({}, Talk("run-1", "hi")).session == "run-1"


@pytest.mark.parametrize("user", [UUID, "ann"])
def test_else_for_whom_it_is_names_it_and_is_never_kept(user: str) -> None:
    session = told({}, Talk(user=user, opening="hi")).session
    assert session == told({}, Talk(user=user, opening="ho")).session
    assert re.fullmatch(r"hash_[0-9a-f]{20}", session or "")


def test_else_how_it_begins_names_it() -> None:
    one = told({}, Talk(opening="hi", turn=1)).session
    assert one is not None
    assert re.fullmatch(r"auto_[0-9a-f]{20}", one)
    assert told({}, Talk(opening="hi", turn=2)).session == one
    assert told({}, Talk(opening="ho", turn=1)).session != one


def test_what_nobody_can_tell_is_none() -> None:
    assert told({}, Talk()).session is None
    assert told({}).session is None


@pytest.mark.parametrize(
    "name",
    [UUID, UUID.upper(), f"ses_{UUID}", f"conv_{'0a' * 24}", "run-7", "ci.build-1234", "run", "nightly_2026_11"],
)
def test_what_can_be_nothing_but_an_id_is_kept(name: str) -> None:
    assert told({"x-session-id": name}).session == name
    assert told({}, Talk(name)).session == name


@pytest.mark.parametrize(
    "name",
    [
        "ann@example.com",
        "Ann-Smith",
        "two words",
        "ann.smith",
        "maria-garcia",
        "johnsmith",
        "jsmith85",
        "ann.smith.1985",
        "run-ann",
        "correct-horse-battery-staple",
        "q-revenue-drop-layoffs",
        "a" * 17,
        "12-11-90",
        "run-",
        "run-٧",
        "run" * 34,
        "4111111111111111",
        "run4111111111111111",
        "run-41-79-123-45",
        "078-05-1120",
        "run078-05-1120",
        "AKIAQZ7WXM3RT6PQQBKX",
        "sk-proj-Qw7Zt9LmX2vB4nK8sR3QQYQQ",
        "0123456789abcdef0123456789abcdef",
        "zürich",
        "a\nb",
        "run-7\n",
        "\x1b[31m",
        "-option",
        QUICKSTART_KEY,
    ],
)
def test_what_does_not_look_like_an_id_is_kept_as_a_digest(name: str) -> None:
    assert re.fullmatch(r"hash_[0-9a-f]{20}", told({"x-session-id": name}).session or "")
    assert re.fullmatch(r"hash_[0-9a-f]{20}", told({}, Talk(name)).session or "")


@pytest.mark.parametrize("talk", [Talk("ann@example.com"), Talk(opening="hi")])
def test_digests_of_two_callers_and_of_two_secrets_differ(talk: Talk) -> None:
    digests = {
        told({}, talk).session,
        told({}, talk, caller=BOB).session,
        told({}, talk, secret=b"other").session,
        told({}, talk, secret=None).session,
    }
    assert len(digests) == 4
    assert told({}, talk, caller=Caller("key_9", "ann", lineage="key_1")).session in digests, "a key that took over"


def test_a_long_opening_is_known_by_its_start_and_its_length() -> None:
    long = "x" * 1_000_000
    assert told({}, Talk(opening=long)).session == told({}, Talk(opening=long)).session
    assert told({}, Talk(opening=long)).session != told({}, Talk(opening=long + "y")).session


@given(st.text())
def test_no_text_but_an_id_comes_through(name: str) -> None:
    session = told({}, Talk(name or None, name)).session
    assert session is None or (
        len(session) <= 100 and re.fullmatch(r"[A-Za-z0-9._:~-]*|(auto|hash)_[0-9a-f]+", session)
    )


# ---- tags ------------------------------------------------------------------------------------------


def test_tags_come_in_headers_and_in_metadata_and_headers_win() -> None:
    headers = {"x-sluice-tag-pull-request": "17", "x-sluice-tag-other": "no"}
    metadata = {"repository": "shop/web", "pull_request": "16", "other": "no"}
    assert told(headers).tags == {"pull_request": "17"}
    assert told(headers, Talk(metadata=metadata)).tags == {"repository": "shop/web", "pull_request": "17"}


@pytest.mark.parametrize(
    ("given_", "kept"),
    [
        ("zürich", "zürich"),
        ("  a b ", "a b"),
        ("a\nb", "a\ufffdb"),
        ("\x1b[31mred", "\ufffd[31mred"),
        ("a\u202eb", "a\ufffdb"),
        ("x" * 500, "x" * LONGEST_TAG),
        ("\U0001f600" * 500, "\U0001f600" * (LONGEST_TAG // 4)),
        (17, "17"),
        (True, "True"),
        ("", None),
        ("   ", None),
        (None, None),
        ({"a": 1}, None),
        ([1], None),
        (QUICKSTART_KEY, None),
    ],
)
def test_what_is_kept_of_a_tag(given_: Any, kept: str | None) -> None:
    expected = {} if kept is None else {"repository": kept}
    assert told({}, Talk(metadata={"repository": given_})).tags == expected
    if isinstance(given_, str):
        assert told({"x-sluice-tag-repository": given_}).tags == expected


def test_bytes_that_are_no_text_are_shown_as_such() -> None:
    known = replace(catalogue(), tags=("repository",))
    call = Call(started=0.0, catalogue=known)
    Sessions(None).of_headers(call, ANN, Headers.of([("x-sluice-tag-repository", b"a\xffb")]))
    assert call.tags == {"repository": "a\ufffdb"}


@given(st.text(), st.text())
def test_a_tag_is_one_line_of_what_can_be_shown(head: str, body: str) -> None:
    call = told({"x-sluice-tag-repository": head}, Talk(metadata={"pull_request": body}))
    assert all(value.isprintable() and 0 < len(value.encode()) <= LONGEST_TAG for value in call.tags.values())


def test_without_a_list_of_tags_there_are_none() -> None:
    call = Call(started=0.0, catalogue=catalogue())
    Sessions(None).of_headers(call, ANN, Headers.of([("x-sluice-tag-repository", b"a")]))
    Sessions(None).of_body(call, ANN, Talk(metadata={"repository": "a"}))
    assert call.tags == {}
