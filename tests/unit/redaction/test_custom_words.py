"""Words to deny: which are found, and in what time."""

import random
import string
import time
from collections.abc import Sequence

import pytest

from extproc.redaction import wordlist
from extproc.redaction.custom import MOST_WORDS, CustomRecognizer
from extproc.redaction.detector import Detector, Settings
from extproc.redaction.scan import has_hyperscan

ENGINES = [True, False] if has_hyperscan() else [False]


def _detector(words: Sequence[str], use_hyperscan: bool = has_hyperscan()) -> Detector:
    return Detector(
        Settings(entities=frozenset(), custom=(CustomRecognizer("n", "W", deny=tuple(words)),)), use_hyperscan
    )


def _found(words: Sequence[str], text: str, use_hyperscan: bool = has_hyperscan()) -> list[str]:
    return [text[finding.start : finding.end] for finding in _detector(words, use_hyperscan).findings(text)]


def _invented(count: int) -> list[str]:
    letters = random.Random(1)
    return ["".join(letters.choices(string.ascii_lowercase, k=10)) for _ in range(count)]


@pytest.mark.parametrize("use_hyperscan", ENGINES)
@pytest.mark.parametrize(
    ("words", "text", "found"),
    [
        (["acme", "acme corp"], "acme corporation, Acme Corp", ["acme", "Acme Corp"]),
        (["acme corp", "corp of ten"], "acme corp of ten", ["acme corp"]),
        (["a b c", "b"], "a b x", ["b"]),
        (
            ["acme corp"],
            "acme\u00a0\u200bcorp, acme  corp, acme\n\tcorp",
            ["acme\u00a0\u200bcorp", "acme  corp", "acme\n\tcorp"],
        ),
        (["acme  corp"], "acme corp", ["acme corp"]),
        (["Müller & Söhne"], "MÜLLER & SÖHNE Müller & Söhnen", ["MÜLLER & SÖHNE"]),
        (["Проект"], "проект, проекты", ["проект"]),
        (["公司", "我的公"], "我的公司公司", ["我的公", "公司"]),
        (["身份x"], "我身份x证, 身份xy", ["身份x"]),
        ([".net", "C++", "-x-"], ".NET a.net c++ c++14 -x- -x-y", [".NET", "c++", "-x-"]),
        (["$$", "^]", "]-["], "$$$ ^] a]-[ ]-[", ["$$", "^]", "]-["]),
        (["office"], "o\ufb03ce offices", ["o\ufb03ce"]),
        (["σας"], "ΣΑΣ σασ", ["ΣΑΣ", "σασ"]),
        (["istanbul", "ızmir"], "İstanbul ISTANBUL IZMIR izmir", ["İstanbul", "ISTANBUL", "IZMIR", "izmir"]),
        (["ⱥb"], "ȺB ȺBc xȺb", ["ȺB"]),
        (["acme"], "", []),
    ],
)
def test_words_are_whole_ones_and_the_longest(
    words: Sequence[str], text: str, found: list[str], use_hyperscan: bool
) -> None:
    assert _found(words, text, use_hyperscan) == found


def test_pieces_of_a_text_do_not_show(monkeypatch: pytest.MonkeyPatch) -> None:
    text = "acme corp 身份 x.acme, acmes (acme) corp acme corp"
    expected = ["acme corp", "身份", "acme", "acme", "acme corp"]
    for size in range(1, len(text)):
        monkeypatch.setattr(wordlist, "_PIECE", size)
        assert _found(["acme", "acme corp", "身份"], text) == expected


@pytest.mark.parametrize("use_hyperscan", ENGINES)
def test_the_largest_list_is_built_and_found(use_hyperscan: bool) -> None:
    words = _invented(MOST_WORDS)
    started = time.process_time()
    detector = _detector(words, use_hyperscan)
    assert time.process_time() - started < 1
    text = f"{words[0]}, not{words[1]}; {' '.join(words[-9:])}"
    found = [text[finding.start : finding.end] for finding in detector.findings(text)]
    assert found == [words[0], *words[-9:]]


def test_time_does_not_grow_with_the_number_of_words() -> None:
    words = _invented(MOST_WORDS)
    text = words[0] + " " + "hello world " * 20_000
    few, many = (_seconds(_detector(some), text) for some in (words[:50], words))
    assert many < 3 * few


def test_time_grows_with_the_text_and_no_faster() -> None:
    words = _invented(MOST_WORDS)
    detector = _detector(words)
    text = words[0] + " hello, wor" + words[1] + "ld " * 5_000
    assert _seconds(detector, text * 16) < 40 * _seconds(detector, text)


def _seconds(detector: Detector, text: str) -> float:
    """Of the thread, the least of some times."""
    times = []
    for _ in range(5):
        started = time.thread_time()
        assert detector.findings(text)
        times.append(time.thread_time() - started)
    return min(times)
