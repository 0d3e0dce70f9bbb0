"""How well a detector finds what is labelled: hits, characters and false redactions of each entity."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from loadtest.pii_set import DEFAULT, PRIVATE_IP, SECRET, Sample, Span

Find = Callable[[str], Sequence[Span]]
"""What a detector finds in a text."""

OURS, PRESIDIO, FLOORED = "ours", "Presidio", "Presidio, score >= 0.4"
"""The columns. Presidio's own threshold is 0; at 0.4 its weakest guesses are gone, and that is what ours must beat."""

RECALL = 0.98
"""Target: of the labelled spans, how many are covered to their last character."""

_PERSONAL = frozenset(DEFAULT)


@dataclass(frozen=True, slots=True)
class Tally:
    """Of one entity. `whole` spans are covered to their last character; false redactions touch no labelled span."""

    spans: int = 0
    whole: int = 0
    characters: int = 0
    covered: int = 0
    false: int = 0
    false_characters: int = 0

    def __add__(self, other: "Tally") -> "Tally":
        return Tally(
            self.spans + other.spans,
            self.whole + other.whole,
            self.characters + other.characters,
            self.covered + other.covered,
            self.false + other.false,
            self.false_characters + other.false_characters,
        )

    @property
    def recall(self) -> float:
        """1 where nothing is labelled."""
        return self.whole / self.spans if self.spans else 1.0

    @property
    def character_recall(self) -> float:
        return self.covered / self.characters if self.characters else 1.0


def tally(entity: str, labels: Iterable[Span], found: Iterable[Span]) -> Tally:
    """Of one text. `entity` is one of both labels and findings; labels of the default set excuse a finding, too."""
    labels = list(labels)
    found = list(merged(span for span in found if span.entity == entity))
    wanted = [span for span in labels if span.entity == entity]
    excused = [span for span in labels if span.entity in {entity, SECRET, *_PERSONAL} or _neutral(entity, span)]
    covered = [overlap(span, found) for span in wanted]
    false = [span for span in found if not overlap(span, excused)]
    return Tally(
        spans=len(wanted),
        whole=sum(hit == span.end - span.start for hit, span in zip(covered, wanted, strict=True)),
        characters=sum(span.end - span.start for span in wanted),
        covered=sum(covered),
        false=len(false),
        false_characters=sum(span.end - span.start - overlap(span, excused) for span in found),
    )


def _neutral(entity: str, label: Span) -> bool:
    return entity == "IP_ADDRESS" and label.entity == PRIVATE_IP


def merged(spans: Iterable[Span]) -> Iterator[Span]:
    """Spans of one entity, with those that overlap made one."""
    last: Span | None = None
    for span in sorted(spans, key=lambda span: (span.start, span.end)):
        if last is not None and span.start < last.end:
            last = Span(last.entity, last.start, max(last.end, span.end))
            continue
        if last is not None:
            yield last
        last = span
    if last is not None:
        yield last


def overlap(span: Span, others: Iterable[Span]) -> int:
    """How many characters of `span` lie in any of the others, which may overlap one another."""
    inside = (Span("", max(span.start, other.start), min(span.end, other.end)) for other in others)
    return sum(part.end - part.start for part in merged(part for part in inside if part.start < part.end))


def as_group(span: Span, personal: frozenset[str]) -> Span:
    """The span under the name that it is judged by: what is no personal datum is a secret, whatever its vendor."""
    return span if span.entity in personal else Span(SECRET, span.start, span.end)


def judged_on(entity: str, sample: Sample) -> bool:
    """Whether a text counts for an entity: an opt-in one has its own texts and the harmless, the default set all
    that were not made for an opt-in one."""
    if entity in _PERSONAL or entity == SECRET:
        return sample.file not in {"national", "optional"}
    return sample.about == entity or sample.file in {"harmless", "synthetic"}


@dataclass(frozen=True, slots=True)
class Row:
    """One entity: a tally by column, what Presidio does not know at all, and the recall that ours must reach."""

    entity: str
    tallies: Mapping[str, Tally]
    foreign: bool
    target: float = RECALL

    def missed(self) -> list[str]:
        """Which targets ours misses; none where ours was not there."""
        if OURS not in self.tallies:
            return []
        mine, theirs = self.tallies[OURS], self.tallies.get(FLOORED)
        missed = []
        if mine.recall < self.target:
            missed.append(f"{self.entity}: recall {mine.recall:.3f}, target {self.target}")
        if theirs is not None and not self.foreign and mine.false > theirs.false:
            missed.append(f"{self.entity}: {mine.false} false redactions, Presidio has {theirs.false}")
        return missed


@dataclass(frozen=True, slots=True)
class Detail:
    """Spans of one sort, and by column how many of them are found whole."""

    name: str
    spans: int
    whole: Mapping[str, int]
