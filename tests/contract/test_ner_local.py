"""spaCy itself, with pipelines of rules that are saved to disk: spaCy's trained models are on no package index."""

import asyncio
import random
import string
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from importlib.util import find_spec
from pathlib import Path

import psutil
import pytest

from extproc.redaction.policy import NameTier
from extproc.screening.ner import LocalModel, NamesFailed
from extproc.screening.ner_model import LONGEST_WORD

pytestmark = pytest.mark.skipif(find_spec("spacy") is None, reason="spaCy is not installed")

TIER = NameTier(frozenset({"PERSON", "LOCATION", "ORGANIZATION"}), timeout=60.0)
_PIPELINE = """
import json, sys, spacy
pipeline = spacy.blank(sys.argv[2])
if patterns := json.loads(sys.argv[3]):
    pipeline.add_pipe("entity_ruler").add_patterns(patterns)
pipeline.to_disk(sys.argv[1])
"""
RULES = """[
    {"label": "PERSON", "pattern": "Ada Lovelace"},
    {"label": "GPE", "pattern": "London"},
    {"label": "ORG", "pattern": "Acme Ltd"},
    {"label": "DATE", "pattern": "1815"}
]"""


def pipeline(folder: Path, rules: str, language: str = "en") -> str:
    """A model on disk. Made in a process of its own: to import spaCy warns, and takes 100 MB."""
    subprocess.run([sys.executable, "-c", _PIPELINE, str(folder), language, rules], check=True, capture_output=True)
    return str(folder)


@pytest.fixture(scope="module")
def rules(tmp_path_factory: pytest.TempPathFactory) -> str:
    return pipeline(tmp_path_factory.mktemp("models") / "rules", RULES)


@asynccontextmanager
async def running(name: str) -> AsyncIterator[LocalModel]:
    model = LocalModel(name)
    try:
        await model.load()
        yield model
    finally:
        await model.close()


async def found(model: LocalModel, text: str) -> list[tuple[str, str]]:
    (findings,) = await model.findings(TIER, [text])
    return [(one.entity, text[one.start : one.end]) for one in findings]


def process() -> psutil.Process:
    (child,) = (child for child in psutil.Process().children() if "extproc.screening.ner_model" in child.cmdline())
    return child


async def test_names_in_texts(rules: str) -> None:
    async with running(rules) as model:
        text = "😀 Ada Lovelace (1815), of Acme Ltd,\n\n London."
        assert await found(model, text) == [
            ("PERSON", "Ada Lovelace"),
            ("ORGANIZATION", "Acme Ltd"),
            ("LOCATION", "London"),
        ]
        far = "It is a long story. " * 900 + "London"
        (finding,) = (await model.findings(TIER, [far]))[0]
        assert far[finding.start : finding.end] == "London"
        in_a_path = "https://example.com/" + "a/" * LONGEST_WORD + "London"
        assert await found(model, in_a_path) == [("LOCATION", "London")]
        assert await found(model, "\ud83d London") == [("LOCATION", "London")]
        many = await model.findings(TIER, ["London", "", "nothing", "Acme Ltd"] * 50)
        assert [len(some) for some in many] == [1, 0, 0, 1] * 50


HOSTILE = ("(", "a:", ")(.,'s", "'", "_", "»«", "$€", "1km", "😀", "²", "( ", "(" * LONGEST_WORD + " ")


async def test_hostile_texts_take_no_more_than_others(rules: str) -> None:
    """As it comes, spaCy takes 36 s for 20,000 brackets."""
    async with running(rules) as model:
        for unit in HOSTILE:
            began = time.monotonic()
            await model.findings(TIER, [(unit * 20_000)[:20_000]])
            assert time.monotonic() - began < 15, unit


async def test_words_that_are_new_do_not_stay_in_memory(rules: str) -> None:
    """As it comes, spaCy keeps some 430 bytes for each."""
    dice = random.Random(5)
    async with running(rules) as model:
        before = process().memory_info().rss
        for _ in range(50):
            words = ["".join(dice.choices(string.ascii_lowercase, k=9)) for _ in range(1_500)]
            await model.findings(TIER, [" ".join(words)])
        assert process().memory_info().rss - before < 50 * 1_500 * 200


async def test_a_language_without_spaces_keeps_its_punctuation(tmp_path: Path) -> None:
    rule = '[{"label": "GPE", "pattern": "\\u4f26\\u6566\\u3002"}]'  # with the full stop, which a blank would not match
    async with running(pipeline(tmp_path / "chinese", rule, "zh")) as model:
        text = "我在伦敦。" * LONGEST_WORD
        assert len(await found(model, text)) == LONGEST_WORD


async def test_a_model_without_anything_in_it(tmp_path: Path) -> None:
    name = pipeline(tmp_path / "blank", "[]")
    with pytest.raises(NamesFailed) as failed:
        async with running(name):
            pass
    assert str(failed.value) == f"the model {name!r} has nothing that finds names"


async def test_rules_that_need_a_part_that_is_left_out_say_so_at_once(tmp_path: Path) -> None:
    name = pipeline(tmp_path / "grammar", '[{"label": "PERSON", "pattern": [{"POS": "PROPN"}]}]')
    with pytest.raises(NamesFailed, match=r"cannot be loaded: ValueError: \[E155\].*POS"):
        async with running(name):
            pass


async def test_a_folder_that_is_no_model(tmp_path: Path) -> None:
    with pytest.raises(NamesFailed, match=r"cannot be loaded: OSError: \[E053\]"):
        async with running(str(tmp_path)):
            pass


async def test_calls_at_the_same_time_get_their_own_names(rules: str) -> None:
    async with running(rules) as model:
        texts = [f"{'x ' * number}London" for number in range(40)]
        answers = await asyncio.gather(*[model.findings(TIER, [text]) for text in texts])
        assert [some[0].start for (some,) in answers] == [2 * number for number in range(40)]
