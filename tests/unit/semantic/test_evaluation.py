"""The evaluation of the semantic tier: what it counts, and that its page is fresh."""

from pathlib import Path

import pytest

from loadtest import eval_semantic, semantic_set
from loadtest.eval_semantic import Judged, document, main, missed
from loadtest.semantic_set import HAND, Pair

PAIRS = semantic_set.read()


def test_the_page_is_what_the_recorded_vectors_come_to() -> None:
    assert eval_semantic.DOCUMENT.read_text("utf-8") == document(PAIRS)


def test_it_counts_what_is_near_and_what_agrees() -> None:
    near = Pair(
        False, "role", HAND, "How do I get from Paris to Lyon by train?", "How do I get from Lyon to Paris by train?"
    )
    same = Pair(True, "synonym", HAND, "How do I fix a flat tyre?", "How do I repair a flat tyre?")
    judged = Judged([near, same])
    assert judged.hits(False, 0.9, gated=False) == (1, 1)
    assert judged.hits(False, 0.9, gated=True) == (0, 1)
    assert judged.hits(True, 0.5, gated=True) == (1, 1)
    assert judged.hits(True, 1.1, gated=True) == (0, 1)


def test_targets_that_are_missed_are_told() -> None:
    assert missed(PAIRS) == []
    turned = [pair._replace(same=not pair.same) for pair in PAIRS]
    false, recall = missed(turned)
    assert false.endswith("false hits pass the gate")
    assert recall == "recall is 0.0%"


def test_without_a_model_the_recorded_vectors_are_taken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    page = eval_semantic.DOCUMENT.read_text("utf-8")
    monkeypatch.setattr(eval_semantic, "DOCUMENT", tmp_path / "page.md")
    monkeypatch.setattr(eval_semantic, "model_folder", lambda: None)
    assert main(["--tell"]) == 0
    told = capsys.readouterr()
    assert told.out.rstrip() == page.rstrip() == eval_semantic.DOCUMENT.read_text("utf-8").rstrip()
    assert "no model is installed" in told.err
    assert "synonym | words | " in told.err
