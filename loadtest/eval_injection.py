"""Recall and false alarms of the injection heuristics on the frozen set: `python -m loadtest.eval_injection`.

Writes the table into docs/guardrails.md, and prints it.
"""

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from extproc.guardrails.evidence import standard
from extproc.guardrails.injection import Heuristics, heuristics
from extproc.guardrails.policy import Injection
from loadtest.setups import ROOT

SET = ROOT / "tests/fixtures/guardrails/injection.jsonl"
DOCUMENT = ROOT / "docs/guardrails.md"
ATTACK = "attack"
_BEGIN, _END = "<!-- make eval-injection -->\n", "<!-- end -->"


class Sample(NamedTuple):
    """`held` out: nobody looked at what became of it while the patterns were written."""

    label: str
    group: str
    held: bool
    text: str


def read(path: Path = SET) -> list[Sample]:
    return [Sample(**json.loads(line)) for line in path.read_text("utf-8").splitlines()]


def table(samples: Sequence[Sample], finder: Heuristics, threshold: float) -> str:
    """Of each group, how many of how many are above the threshold, in the half that was seen and the one held out."""
    above = [sample for sample in samples if any(one.score >= threshold for one in finder.findings(sample.text))]
    lines = [
        f"Pattern set {standard().version}, threshold {threshold}, {len(samples)} texts.",
        "",
        "| texts | seen | held out |",
        "|---|---|---|",
    ]
    for label in dict.fromkeys(sample.label for sample in samples):
        name = "attacks found" if label == ATTACK else "false alarms"
        lines.append(f"| **{name}** | {_share(samples, above, label)} |")
        groups = dict.fromkeys(sample.group for sample in samples if sample.label == label)
        lines += [f"| {group} | {_share(samples, above, label, group)} |" for group in groups]
    return "\n".join(lines) + "\n"


def _share(samples: Sequence[Sample], above: Sequence[Sample], label: str, group: str | None = None) -> str:
    counts = []
    for held in (False, True):
        hits, every = (
            sum(one.label == label and one.held is held and group in (None, one.group) for one in some)
            for some in (above, samples)
        )
        counts.append(f"{hits} of {every}" + ("" if group else f" ({hits / every:.1%})"))
    return " | ".join(counts)


def told_in(document: str, figures: str) -> str:
    """The document with these figures between its marks."""
    before, _, rest = document.partition(_BEGIN)
    return f"{before}{_BEGIN}{figures}{_END}{rest.partition(_END)[2]}"


def main() -> int:
    figures = table(read(), heuristics(), Injection().threshold)
    DOCUMENT.write_text(told_in(DOCUMENT.read_text("utf-8"), figures), "utf-8")
    print(figures)
    return 0


if __name__ == "__main__":
    sys.exit(main())
