"""Exact counts by a tokenizer file: the package is an extra, so a stand-in with its interface takes its place."""

import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest

from extproc.metering import bounds, tokenizer
from extproc.metering.families import FAMILIES
from extproc.metering.tokenizer import TokenizerUnusable
from extproc.model import Bounds, InputSize


class Words:
    """A tokenizer that counts words."""

    def __init__(self) -> None:
        self.limits = ["truncation", "padding"]

    def no_truncation(self) -> None:
        self.limits.remove("truncation")

    def no_padding(self) -> None:
        self.limits.remove("padding")

    def encode(self, text: str, add_special_tokens: bool) -> SimpleNamespace:
        assert not self.limits
        assert not add_special_tokens
        return SimpleNamespace(ids=text.split())

    @staticmethod
    def from_file(path: str) -> "Words":
        if "bad" in path or not Path(path).exists():
            raise Exception("no such tokenizer")
        return Words()


@pytest.fixture(autouse=True)
def _fresh() -> Iterator[None]:
    tokenizer.load.cache_clear()
    yield
    tokenizer.load.cache_clear()


@pytest.fixture
def _installed(monkeypatch: pytest.MonkeyPatch) -> None:
    package = ModuleType("tokenizers")
    package.Tokenizer = Words  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "tokenizers", package)


@pytest.fixture
def path(tmp_path: Path) -> str:
    file = tmp_path / "tokenizer.json"
    file.write_text("{}")
    return str(file)


@pytest.mark.usefixtures("_installed")
def test_a_file_is_read_once_and_counts_with_a_margin(path: str) -> None:
    assert tokenizer.load(path) is tokenizer.load(path)
    assert tokenizer.count("a " * 100, path) == 103
    assert tokenizer.count("one", path) == 2
    assert tokenizer.count("", path) == 0


@pytest.mark.usefixtures("_installed")
def test_an_exact_count_takes_the_place_of_the_bound(path: str) -> None:
    known = InputSize(text="a " * 100, features=bounds.features("a " * 100), marks=5)
    base = FAMILIES["openai"].base
    assert bounds.input_tokens(known, Bounds(tokenizer=path)) == 103 + 5 + base
    without = InputSize(features=known.features, marks=5)
    assert bounds.input_tokens(without, Bounds(tokenizer=path)) == 104 + 5 + base


@pytest.mark.usefixtures("_installed")
@pytest.mark.parametrize("name", ["bad.json", "missing.json"])
def test_a_file_that_is_no_tokenizer_is_said_so(tmp_path: Path, name: str) -> None:
    with pytest.raises(TokenizerUnusable, match=r"is no tokenizer\.json"):
        tokenizer.load(str(tmp_path / name))


def test_without_the_extra_it_is_said_so(monkeypatch: pytest.MonkeyPatch, path: str) -> None:
    monkeypatch.setitem(sys.modules, "tokenizers", None)
    with pytest.raises(TokenizerUnusable, match="extra `tokenizers`"):
        tokenizer.load(path)
