"""How fast targets have answered lately, as one worker has seen it of its own calls.

What is compared is like with like: streams by how long the first of them took to come, whole answers by the time for
each token, as a long one takes longer than a short one wherever it is made.
"""

from math import exp

Target = tuple[str, str]
"""A backend, and the name under which the model is deployed there."""

_MEMORY_S = 60.0  # an old sample has lost two thirds of its weight after that time
_SAMPLES = 10.0  # a new one never weighs less than one of so many
_FAINT = 0.1  # of one sample: what weighs less is forgotten, after some 2 to 5 minutes without a call
_BEGINNING = 20  # tokens in whose time an answer begins: else short ones would look slow
_USUAL = 500  # tokens that an answer is taken to have had that nobody has seen
_LEFT = 2.0  # a call that had to go elsewhere counts as so many times as long


class _Average:
    """An average in which older samples weigh less and less. Times are seconds of a clock that is never set back."""

    __slots__ = ("at", "value", "weight")

    def __init__(self) -> None:
        self.value = self.weight = self.at = 0.0

    def weighs(self, now: float) -> float:
        return self.weight * exp((self.at - now) / _MEMORY_S)

    def take(self, sample: float, now: float) -> None:
        self.weight = min(self.weighs(now), _SAMPLES - 1) + 1
        self.value += (sample - self.value) / self.weight
        self.at = now


class Latency:
    """Averages of the samples of each target, those of streams apart. A target of which none is recent is unknown."""

    def __init__(self) -> None:
        self._known: dict[tuple[Target, bool], _Average] = {}

    def expected(self, target: Target, stream: bool, now: float) -> float | None:
        """Seconds until the first byte of a stream, or for each token of a whole answer; None: not known any more."""
        known = self._known.get((target, stream))
        return None if known is None or known.weighs(now) < _FAINT else known.value

    def served(self, target: Target, stream: bool, seconds: float, output: int, now: float) -> None:
        """A call was answered: after `seconds` its stream began, or its answer with `output` tokens was whole.

        Times are counted from when the call was sent to the first target of its chain.
        """
        self._average(target, stream).take(_sample(stream, seconds, output), now)

    def failed(self, target: Target, stream: bool, seconds: float, output: int, now: float) -> None:
        """A call went there first, and another target answered it: twice what it took in all counts for this one.

        So who fails is never ahead of who answers in its place.
        """
        sample = _sample(stream, _LEFT * seconds, output)
        self._average(target, stream).take(max(sample, self.expected(target, stream, now) or 0.0), now)

    def unanswered(self, target: Target, stream: bool, seconds: float, now: float) -> None:
        """Nobody answered a call, or its caller left before: it would have taken longer, and makes none look faster."""
        known = self.expected(target, stream, now)
        self._average(target, stream).take(max(_sample(stream, seconds, _USUAL), known or 0.0), now)

    def _average(self, target: Target, stream: bool) -> _Average:
        return self._known.setdefault((target, stream), _Average())


def _sample(stream: bool, seconds: float, output: int) -> float:
    return seconds if stream else seconds / (output + _BEGINNING)
