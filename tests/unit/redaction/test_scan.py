"""Both engines."""

import importlib.util
import threading

import pytest

from extproc.redaction.scan import HyperscanScanner, PlainScanner, TriggerError, has_hyperscan

needs_hyperscan = pytest.mark.skipif(not has_hyperscan(), reason="hyperscan is not installed")


def test_hyperscan_is_looked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    assert has_hyperscan() == (importlib.util.find_spec("hyperscan") is not None)


def test_the_plain_one_tells_matches_that_do_not_overlap() -> None:
    scanner = PlainScanner(["a[0-9]", "(?i)B", "nowhere"])
    assert scanner.ends(b"a1 a22 b B") == {0: [2, 5], 1: [8, 10]}
    assert scanner.ends(b"x") == {}


def test_one_without_a_trigger_matches_everywhere() -> None:
    assert PlainScanner([None]).ends(b"abc") == {0: [3]}


@needs_hyperscan
def test_hyperscan_tells_all_ends() -> None:
    scanner = HyperscanScanner(["a[0-9]+", "(?i)B"])
    assert scanner.ends(b"a123 b") == {0: [2, 3, 4], 1: [6]}
    assert scanner.ends(b"x") == {}


@needs_hyperscan
def test_a_trigger_that_hyperscan_does_not_take_is_named() -> None:
    with pytest.raises(TriggerError) as caught:
        HyperscanScanner(["a", r"(b)\1", "c"])
    assert caught.value.number == 1


@needs_hyperscan
def test_two_threads_scan_at_once() -> None:
    scanner = HyperscanScanner(["[a-z]+@"])
    text = b"bob@ " * 20_000
    expected = scanner.ends(text)
    found: list[object] = []

    def work() -> None:
        found.extend(scanner.ends(text) for _ in range(5))

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [expected] * 20
