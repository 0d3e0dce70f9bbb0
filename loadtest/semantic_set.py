"""Pairs of questions that are near each other, of which we know whether one answer is right for both.

`python -m loadtest.semantic_set` makes those of the grammar again; those that were written by hand stay.
"""

import hashlib
import json
import struct
import sys
from array import array
from collections.abc import Iterable, Sequence
from operator import mul
from pathlib import Path
from typing import NamedTuple

from loadtest import semantic_grammar
from loadtest.setups import ROOT

SET = ROOT / "tests/fixtures/semantic/pairs.jsonl"
VECTORS = SET.with_name("vectors.f16")
WIDTH = 384
HAND, GRAMMAR = "hand", "grammar"


class Pair(NamedTuple):
    """`same`: an answer to one answers the other. `by`: written by hand, or made by the grammar."""

    same: bool
    kind: str
    by: str
    one: str
    other: str

    @property
    def reported(self) -> bool:
        """Whether it is of the half that nobody looks at while rules and thresholds are chosen."""
        return hashlib.sha256(f"{self.one}\n{self.other}".encode()).digest()[0] % 2 == 1


def read(path: Path = SET) -> list[Pair]:
    return [Pair(**json.loads(line)) for line in path.read_text("utf-8").splitlines()]


def made() -> list[Pair]:
    """The pairs of the grammar."""
    near = [Pair(False, kind, GRAMMAR, one, other) for kind, one, other in semantic_grammar.near()]
    return near + [Pair(True, kind, GRAMMAR, one, other) for kind, one, other in semantic_grammar.same()]


def write(pairs: Iterable[Pair], path: Path = SET) -> None:
    lines = [json.dumps(pair._asdict(), ensure_ascii=False) + "\n" for pair in pairs]
    path.write_text("".join(lines), "utf-8")


# ---- recorded vectors ----


def texts(pairs: Iterable[Pair]) -> list[str]:
    """Every text once, in the order in which they come."""
    return list(dict.fromkeys(text for pair in pairs for text in (pair.one, pair.other)))


def write_vectors(vectors: Iterable[bytes], path: Path = VECTORS) -> None:
    """Record float32 vectors as float16: a digest of the texts, and the numbers of one text after the other."""
    packed = [struct.pack(f"<{WIDTH}e", *array("f", vector)) for vector in vectors]
    path.write_bytes(_digest(texts(read())) + b"".join(packed))


def recorded(path: Path = VECTORS) -> dict[str, "array[float]"]:
    """The vector of each text of the set. Raises ValueError where they were recorded of another set."""
    every, content = texts(read()), path.read_bytes()
    if content[:32] != _digest(every):
        raise ValueError("the vectors are of another set: `make eval-semantic` records them again")
    rows = struct.iter_unpack(f"<{WIDTH}e", content[32:])
    return {text: array("f", row) for text, row in zip(every, rows, strict=True)}


def similarity(one: Sequence[float], other: Sequence[float]) -> float:
    """The cosine of two vectors of length one."""
    return float(sum(map(mul, one, other)))


def _digest(every: Iterable[str]) -> bytes:
    return hashlib.sha256("\n".join(every).encode()).digest()


def main() -> int:
    write([pair for pair in read() if pair.by == HAND] + made())
    return 0


if __name__ == "__main__":
    sys.exit(main())
