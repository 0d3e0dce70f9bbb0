"""The whole of it: both engines, any text, any settings."""

import os
import socket
import threading
import time
from collections.abc import Callable
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from extproc.redaction.custom import read
from extproc.redaction.detector import Detector, Finding, Settings, of
from extproc.redaction.entities import DEFAULT, OPTIONAL, REGIONS, SECRETS
from extproc.redaction.library import library
from extproc.redaction.normalise import Source
from extproc.redaction.scan import PlainScanner, has_hyperscan
from tests.unit.redaction.fragments import VALUES, texts

COUNT = int(os.environ.get("SLUICE_PII_TEXTS", "4000"))
CUSTOM = read(
    {
        "recognizers": [
            {"name": "zip", "supported_entity": "ZIP", "patterns": [{"regex": r"\b\d{5}(?:-\d{4})?\b", "score": 0.01}]}
            | {"context": ["zip"]},
            {"name": "titles", "supported_entity": "TITLE", "deny_list": ["Mr.", "Dr.", "Müller", "身份"]},
            {"name": "staff", "supported_entity": "EMPLOYEE", "patterns": [{"regex": r"EMP[-_]?\d{4,8}|é[^x]\wz"}]},
        ]
    }
)
EVERYTHING = Settings(entities=frozenset((*DEFAULT, *OPTIONAL)), custom=CUSTOM)


@pytest.fixture(scope="module")
def detector() -> Detector:
    return Detector(EVERYTHING)


@pytest.fixture(scope="module")
def plain() -> Detector:
    return Detector(EVERYTHING, use_hyperscan=False)


@pytest.mark.skipif(not has_hyperscan(), reason="hyperscan is not installed")
@pytest.mark.timeout(900)
def test_both_engines_find_the_same(detector: Detector, plain: Detector) -> None:
    found = 0
    for text in texts(seed=5, count=COUNT):
        findings = detector.findings(text)
        assert findings == plain.findings(text), text
        found += len(findings)
    assert found > COUNT / 2, "the texts hold too little to prove anything"


def test_each_value_is_where_its_trigger_says(plain: Detector) -> None:
    """What a recognizer finds in a whole text, it finds in the windows around its trigger."""
    recognizers = list(library(REGIONS))
    for text in texts(seed=6, count=COUNT // 8):
        source = Source(text)
        for recognizer in recognizers:
            everywhere = set(recognizer.find(source, 0, len(source.data)))
            ends = PlainScanner([recognizer.trigger]).ends(source.data).get(0, []) if everywhere else []
            near = {c for w in recognizer.windows(source.data, ends) for c in recognizer.find(source, *w)}
            assert near == everywhere, (recognizer.entity, text)


@given(st.text("0123456789 .-/()+,ax\n", max_size=400))
def test_windows_of_runs_are_apart_and_hold_each_beginning(text: str) -> None:
    source = Source(text)
    for recognizer in (one for one in library(()) if one.run):
        found = list(recognizer.windows(source.data, PlainScanner([recognizer.trigger]).ends(source.data).get(0, ())))
        assert all(first <= last for first, last in found)
        assert all(one[1] < other[0] for one, other in pairwise(found))
        for candidate in recognizer.find(source, 0, len(source.data)):
            assert any(first <= candidate.start <= last for first, last in found), (recognizer.entity, candidate)


@given(st.text())
def test_any_text_is_read(text: str) -> None:
    _lawful(SHARED.findings(text), text)


@given(st.lists(st.sampled_from((*VALUES, " ", "\n", "x", ",")), max_size=8).map("".join))
def test_findings_are_in_order_and_apart(text: str) -> None:
    _lawful(SHARED.findings(text), text)


SHARED = Detector(EVERYTHING)


def _lawful(findings: list[Finding], text: str) -> None:
    at = 0
    for finding in findings:
        assert at <= finding.start < finding.end <= len(text)
        assert 0.4 <= finding.score <= 1
        at = finding.end


def test_text_around_moves_a_finding_and_nothing_else(detector: Detector) -> None:
    text = "mail bob@example.com, card 4111 1111 1111 1111"
    before = [(f.start, f.end, f.entity) for f in detector.findings(text)]
    lead = "Ünicode\u200b 你好 "
    assert [(f.start - len(lead), f.end - len(lead), f.entity) for f in detector.findings(lead + text)] == before


def test_what_begins_only_behind_what_nobody_sees_is_found() -> None:
    """Without it, the digits before are of another number, of which no pattern knows."""
    assert of(["US_SSN"]).findings("9\u200b536-22-1234") == [Finding(2, 13, "US_SSN", 0.5)]


@pytest.mark.parametrize("unseen", ["\u200b", "\u2060", "\u00ad", "\ufeff", "\u3164"])
def test_what_nobody_sees_parts_no_value_and_hides_none(unseen: str, detector: Detector) -> None:
    text = f"card{unseen}4111{unseen}1111 1111 1111{unseen}now, b{unseen}ob@example.com"
    found = [text[f.start : f.end] for f in detector.findings(text)]
    assert found == [f"4111{unseen}1111 1111 1111", f"b{unseen}ob@example.com"]
    assert detector.findings(f"card{unseen}4111111111111111{unseen}x")[0][:2] == (5, 21)


def test_threads_share_a_detector(detector: Detector) -> None:
    text = " ".join(VALUES) * 3
    expected = detector.findings(text)
    found: list[object] = []
    threads = [threading.Thread(target=lambda: found.append(detector.findings(text))) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [expected] * 8


def test_no_socket_is_ever_opened(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("a socket")

    monkeypatch.setattr(socket, "socket", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    fresh = Detector(EVERYTHING)
    assert len(fresh.findings(" ".join(VALUES))) > 20


def test_nothing_to_find() -> None:
    assert of(()).findings("bob@example.com") == []


def test_groups_and_unknown_entities() -> None:
    key = "ghp_" + "16C7e42F292c6912E7710c838347Ae178B4a"
    assert [f.entity for f in of(("SECRET",)).findings(f"{key} bob@example.com")] == ["GITHUB_TOKEN"]
    assert of(SECRETS).findings("bob@example.com") == []
    with pytest.raises(ValueError, match="unknown entity 'EMAIL'; there are"):
        of(("EMAIL",))


def test_a_region_that_is_none() -> None:
    with pytest.raises(ValueError, match="no region of telephone numbers: UK"):
        Detector(Settings(regions=("UK",)))


def test_floors_and_context_are_settings() -> None:
    text = "badge 536904399"
    assert Detector().findings(text) == []
    assert [f.entity for f in Detector(Settings(context={"US_SSN": ["badge"]})).findings(text)] == ["US_SSN"]
    assert [f.entity for f in Detector(Settings(floors={"US_SSN": 0.05})).findings(text)] == ["US_SSN"]
    assert Detector(Settings(floors={"US_SSN": 0.6})).findings("536-90-4399") == []


def test_what_is_allowed_stays() -> None:
    settings = Settings(allowed=["Support@Example.com"], allowed_patterns=[r".*@acme\.example\.org"])
    text = "support@example.com ｓupport@example.com bob@acme.example.org bob@example.com"
    assert [text[f.start : f.end] for f in Detector(settings).findings(text)] == ["bob@example.com"]


def test_custom_recognizers_are_on_besides(detector: Detector) -> None:
    text = "zip 12345, Dr. MÜLLER, 我的身份 EMP-12345 Dr.No"
    found = [(f.entity, text[f.start : f.end]) for f in detector.findings(text)]
    assert found == [
        ("ZIP", "12345"),
        ("TITLE", "Dr."),
        ("TITLE", "MÜLLER"),
        ("TITLE", "身份"),
        ("EMPLOYEE", "EMP-12345"),
    ]


def test_long_base64_is_passed_over() -> None:
    sealed = "Ab+/" * 300 + "/4111111111111111/" + "Ab+/" * 300
    assert Detector().findings(sealed) == []
    assert len(Detector().findings("Ab+/ 4111111111111111")) == 1


HOSTILE: dict[str, Callable[[int], str]] = {
    "base64 and one @": lambda n: "QUJD" * (n // 4) + "@example.com",
    "a:": lambda n: "a:" * (n // 2),
    "1-1-": lambda n: "1-" * (n // 2),
    "a@a@": lambda n: "a@" * (n // 2),
    "(((": lambda n: "(" * n,
    "4111 ": lambda n: "4111 " * (n // 5),
    "groups": lambda n: "".join(f"{k * 7919 % 10_000:04} " for k in range(n // 5)),
    "row": lambda n: "".join(f"{k * 104_729 % 1_000_003}," for k in range(n // 7)),
    "+1 2": lambda n: "+49 30 " * (n // 7),
    "tokens": lambda n: "eyJhbGciOiJIUzI1NiJ9." * (n // 21),
    "pairs": lambda n: "server=a;password=" * (n // 18),
}


@pytest.mark.parametrize("kind", HOSTILE)
def test_time_grows_with_the_length_and_no_faster(kind: str) -> None:
    """Ten times the text in less than thirty times the time; a quadratic engine takes a hundred."""
    times = []
    for size in (4_000, 40_000):
        text = HOSTILE[kind](size)
        times.append(min(_timed(text) for _ in range(3)))
    assert times[1] < 30 * max(times[0], 1e-4)


def _timed(text: str) -> float:
    started = time.process_time()
    SHARED.findings(text)
    return time.process_time() - started
