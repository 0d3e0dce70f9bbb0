"""What an operator declares as Presidio does."""

import re
from typing import Any

import pytest

from extproc.redaction.automaton import PatternError
from extproc.redaction.custom import MOST_WORDS, CustomRecognizer, Pattern, read
from extproc.redaction.detector import Detector, Settings
from extproc.redaction.scan import has_hyperscan

EXAMPLE = {
    "recognizers": [
        {
            "name": "Zip code Recognizer",
            "supported_language": "de",
            "patterns": [{"name": "zip code (weak)", "regex": r"(\b\d{5}(?:\-\d{4})?\b)", "score": 0.01}],
            "context": ["zip", "code"],
            "supported_entity": "ZIP",
        },
        {"name": "Titles recognizer", "supported_entity": "TITLE", "deny_list": ["Mr.", "Prof."]},
        {
            "name": "languages",
            "supported_languages": [
                {"language": "en", "context": ["badge"]},
                {"language": "es", "context": ["placa"]},
                "it",
            ],
            "supported_entity": "BADGE",
            "patterns": [{"name": "b", "regex": "B-[0-9]{4}", "score": 0.2}],
        },
        {"name": "off", "enabled": False, "supported_entity": "OFF", "deny_list": ["x"]},
    ]
}
"""After Presidio's own example."""


def _found(custom: Any, text: str, use_hyperscan: bool = has_hyperscan()) -> list[str]:
    detector = Detector(Settings(entities=frozenset(), custom=read(custom)), use_hyperscan)
    return [f"{finding.entity} {text[finding.start : finding.end]}" for finding in detector.findings(text)]


def _pattern(regex: str) -> Any:
    return [{"name": "r", "supported_entity": "X", "patterns": [{"name": "p", "regex": regex, "score": 0.9}]}]


@pytest.mark.parametrize("use_hyperscan", [True, False] if has_hyperscan() else [False])
def test_presidios_yaml(use_hyperscan: bool) -> None:
    text = "Prof. X, zip 12345-6789, 54321, placa B-1234; mr. Y Mr.Z off x"
    found = ["TITLE Prof.", "ZIP 12345-6789", "BADGE B-1234", "TITLE mr."]
    assert _found(EXAMPLE, text, use_hyperscan) == [*found[:2], "ZIP 54321", *found[2:]]
    assert _found(EXAMPLE, "54321 and B-1234", use_hyperscan) == []


def test_what_is_read() -> None:
    assert read(EXAMPLE)[0] == CustomRecognizer(
        *("Zip code Recognizer", "ZIP", (Pattern("zip code (weak)", r"(\b\d{5}(?:\-\d{4})?\b)", 0.01),)),
        context=("zip", "code"),
    )


@pytest.mark.parametrize(
    ("entry", "problem"),
    [
        ("x", "a list of recognizers is expected"),
        ({"recognizers": None}, "a list of recognizers is expected"),
        (["x"], "a recognizer is a mapping"),
        ([{"name": "n", "pattern": []}], "recognizer 'n': unknown key 'pattern'"),
        ([{"name": "n", "type": "predefined"}], "recognizer 'n': only custom ones are declared"),
        ([{"name": "n", "deny_list": ["a"]}], "recognizer 'n': one supported_entity is needed"),
        ([{"name": "n", "supported_entities": ["A", "B"], "deny_list": ["a"]}], "recognizer 'n': one supported_entity"),
        ([{"name": "n", "supported_entity": "A"}], "recognizer 'n': patterns or a deny_list are needed"),
        ([{"name": "n", "supported_entity": "A", "patterns": ["a"]}], "recognizer 'n': a pattern has a name, a regex"),
        ([{"name": "n", "supported_entity": "A", "patterns": [{"regex": "a", "score": 2}]}], "a number from 0 to 1"),
        ([{"name": "n", "supported_entity": "A", "deny_list": ["a"], "deny_list_score": "x"}], "a number from 0 to 1"),
    ],
)
def test_what_is_wrong_is_named(entry: Any, problem: str) -> None:
    with pytest.raises(ValueError, match=re.escape(problem)):
        read(entry)


def test_a_pattern_that_is_refused_is_named() -> None:
    with pytest.raises(PatternError, match=re.escape("pattern 'r: p': back-references")):
        _found(_pattern(r"(a)\1"), "")


@pytest.mark.skipif(not has_hyperscan(), reason="hyperscan is not installed")
def test_a_pattern_that_only_hyperscan_refuses_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("extproc.redaction.custom._expression", lambda _: "(?=a)b")
    with pytest.raises(PatternError, match="a pattern of X is not one for Hyperscan"):
        _found(_pattern("ab"), "")


@pytest.mark.parametrize("words", [[" "], ["\u200b"], [str(n) for n in range(MOST_WORDS + 1)]])
def test_deny_lists_have_a_size(words: list[str]) -> None:
    with pytest.raises(PatternError, match="deny list of 'n': from 1 to 10000 words are expected"):
        _found([{"name": "n", "supported_entity": "A", "deny_list": words}], "")


def test_words_are_whole_ones() -> None:
    custom = [{"name": "n", "supported_entity": "W", "deny_list": ["Acme", "Acme Corp", "身份", "C++", "Ünal"]}]
    text = "acme corp, ACME, acmes, xAcme, 我的身份证, C++ C++x, ÜNAL, Acme公司, ａｃｍｅ"
    found = ["acme corp", "ACME", "身份", "C++", "ÜNAL", "Acme", "ａｃｍｅ"]
    assert _found(custom, text) == [f"W {word}" for word in found]


@pytest.mark.parametrize(
    ("regex", "text", "found"),
    [
        (r"[é-ü]{3}", "xéöüx", "éöü"),
        (r"\w{3}№\d", "abc№7", None),  # the sign stands for "No"
        (r"No\d", "№7", "№7"),
        (r"(?:a|é|身)\s[^x]\W", "é y!", "é y!"),
        (r"(?>a+)b{2,}c*?d", "aabbbcd", "aabbbcd"),
        (r"a\Wb|[\d\s]{2}z", "1 z", "1 z"),
        (r"(?i:q).w", "Q\nw", "Q\nw"),
        (r"[^\x00-\x7f]!", "é!", "é!"),
        (r"a – ｂ", "a - b", "a - b"),
    ],
)
def test_patterns_run_on_normalised_text(regex: str, text: str, found: str | None) -> None:
    expected = [f"X {found}"] if found else []
    assert _found(_pattern(regex), text) == expected
    assert _found(_pattern(regex), text, use_hyperscan=False) == expected
