"""Whether two kinds of calls can be told apart by how long they take.

Welch's t-test over interleaved samples, as side channels are looked for (Reparaz, Balasch, Verbauwhede:
"Dude, is my code constant time?"): |t| above 4.5 is found by chance once in about 150,000 comparisons. With enough
samples t finds any difference at all, so the size of it is told, too: Cohen's d, and the difference of medians.
"""

import math
import random
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

THRESHOLD = 4.5
_KEPT = 0.99  # the slowest samples are other processes' and the kernel's
S = TypeVar("S")
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Comparison:
    """Two kinds of samples. Positive: the second is slower. Times in nanoseconds."""

    t: float
    d: float
    medians: float
    resolution: float  # the difference of means that would have given a t of THRESHOLD

    @property
    def distinguishable(self) -> bool:
        return abs(self.t) >= THRESHOLD


def compare(first: Sequence[int], second: Sequence[int]) -> Comparison:
    """At least 100 samples each. Both lose what is slower than 99 % of all, by one cut for both."""
    cut = sorted((*first, *second))[int(_KEPT * (len(first) + len(second))) - 1]
    kept = [[one for one in samples if one <= cut] for samples in (first, second)]
    means = [statistics.fmean(samples) for samples in kept]
    spreads = [statistics.variance(map(float, samples)) for samples in kept]
    error = math.sqrt(sum(spread / len(samples) for spread, samples in zip(spreads, kept, strict=True)))
    pooled = math.sqrt(sum(spreads) / 2)
    apart = means[1] - means[0]
    return Comparison(
        t=_over(apart, error),
        d=_over(apart, pooled),
        medians=statistics.median(kept[1]) - statistics.median(kept[0]),
        resolution=THRESHOLD * error,
    )


def _over(difference: float, spread: float) -> float:
    if spread == 0:
        return 0.0 if difference == 0 else math.copysign(math.inf, difference)
    return difference / spread


def interleaved(
    kinds: Mapping[str, Callable[[], S]],
    prepared: Callable[[S], T],
    timed: Callable[[T], int],
    rounds: int,
    dice: random.Random,
    batch: int = 1000,
) -> dict[str, list[int]]:
    """Samples of each kind, one of each in every round, in an order that is drawn anew each time.

    A batch of rounds is made, then prepared in the order of the samples, then timed: how the kinds are made, and
    where that lets them lie in memory, must not tell them apart.
    """
    samples: dict[str, list[int]] = {kind: [] for kind in kinds}
    for start in range(0, rounds, batch):
        made: list[tuple[str, S]] = []
        for _ in range(min(batch, rounds - start)):
            order = list(kinds)
            dice.shuffle(order)
            made += [(kind, kinds[kind]()) for kind in order]
        for kind, one in [(kind, prepared(given)) for kind, given in made]:
            samples[kind].append(timed(one))
    return samples
