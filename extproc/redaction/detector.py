"""The detector: what of a text is personal or secret. One pass over it, whatever is looked for."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from copy import copy
from dataclasses import dataclass, field, replace

from extproc.redaction.allowed import Allowed
from extproc.redaction.automaton import PatternError
from extproc.redaction.confirm import Claims, Rules
from extproc.redaction.context import Words
from extproc.redaction.custom import CustomRecognizer
from extproc.redaction.entities import CONTEXT, DEFAULT, KNOWN, REGIONS, expanded
from extproc.redaction.normalise import Source, plain, with_gaps
from extproc.redaction.overlaps import Finding
from extproc.redaction.patterns import Candidate, Recognizer
from extproc.redaction.scan import Ends, HyperscanScanner, PlainScanner, Scanner, TriggerError, has_hyperscan

__all__ = ["Detector", "Finding", "Settings", "of"]


@dataclass(frozen=True)
class Settings:
    """What to find, and when a candidate is taken for a value.

    `entities` are names and groups; those of `custom` recognizers are on besides. `floors` are the least scores, and
    `context` more words that speak for a value, both by entity. A value is left where it is on the list of `allowed`
    words, or where one of the `allowed_patterns` matches all of it.
    """

    entities: frozenset[str] = frozenset(DEFAULT)
    regions: Sequence[str] = REGIONS
    floors: Mapping[str, float] = field(default_factory=dict)
    context: Mapping[str, Sequence[str]] = field(default_factory=dict)
    allowed: Sequence[str] = ()
    allowed_patterns: Sequence[str] = ()
    custom: Sequence[CustomRecognizer] = ()


class Detector:
    """Finds values in texts. May be used by several threads at once; keeps nothing of what it read."""

    def __init__(self, settings: Settings | None = None, use_hyperscan: bool = has_hyperscan()) -> None:
        """Raises ValueError for an entity, a region or a pattern that it cannot have. Takes 0.1 s and more."""
        from extproc.redaction.library import library  # a tenth of a second for who detects nothing, too

        settings = settings or Settings()
        entities = expanded(settings.entities)
        _refuse_unknown(entities)
        recognizers = [one for one in library(settings.regions) if one.entity in entities]
        for custom in settings.custom:
            recognizers += custom.recognizers()
        groups = _grouped(recognizers)
        self._scanner = _scanner(groups, use_hyperscan)
        self._recognizers = list(groups.values())
        self._rules = _rules(settings, entities)

    def findings(self, text: str) -> list[Finding]:
        """The values in a text, ascending and apart, in time that grows with its length and no faster.

        Ordinary text takes some microseconds per kilobyte; one that is full of numbers can take some milliseconds.
        """
        source = Source(text)
        ends = self._scanner.ends(source.data)
        gaps = with_gaps(source)
        if not ends and gaps is None:
            return []
        claims = self._claims(source, ends)
        if gaps is not None:
            spread = Source(gaps)
            claims = self._claims(spread, self._scanner.ends(spread.data)) | claims
        return self._rules.settled(text, claims)

    def ranked(self, strictness: Mapping[str, int]) -> "Detector":
        """One that finds the same, but where values overlap prefers those of the stricter entities.

        By entity how strict it is, see Rules. Takes no time: what is scanned for is shared.
        """
        other = copy(self)
        other._rules = replace(self._rules, strictness=strictness)
        return other

    def excuses(self, value: str) -> bool:
        """Whether a value that something else found is on the list of what may stay."""
        return bool(self._rules.allowed) and self._rules.allowed.matches(plain(value))

    def _claims(self, source: Source, ends: Ends) -> Claims:
        return self._rules.confirmed(source, self._candidates(source, ends)) if ends else {}

    def _candidates(self, source: Source, ends: Ends) -> Iterator[Candidate]:
        for number, places in ends.items():
            for recognizer in self._recognizers[number]:
                for first, last in recognizer.windows(source.data, places):
                    yield from recognizer.find(source, first, last)


def _refuse_unknown(entities: frozenset[str]) -> None:
    unknown = sorted(entities - KNOWN)
    if unknown:
        raise ValueError(f"unknown entity {unknown[0]!r}; there are {', '.join(sorted(KNOWN))}")


def _grouped(recognizers: Iterable[Recognizer]) -> dict[str, list[Recognizer]]:
    """By trigger, so that none is scanned for twice."""
    groups: dict[str, list[Recognizer]] = {}
    for recognizer in recognizers:
        groups.setdefault(recognizer.trigger, []).append(recognizer)
    return groups


def _scanner(groups: Mapping[str, Sequence[Recognizer]], use_hyperscan: bool) -> Scanner:
    triggers = list(groups)
    if not triggers or not use_hyperscan:
        # An operator's triggers are not for an engine that backtracks.
        return PlainScanner([None if any(one.is_whole for one in groups[trigger]) else trigger for trigger in triggers])
    try:
        return HyperscanScanner(triggers)
    except TriggerError as error:
        entity = groups[triggers[error.number]][0].entity
        raise PatternError(f"a pattern of {entity} is not one for Hyperscan: {error}") from error


def _rules(settings: Settings, entities: frozenset[str]) -> Rules:
    words: dict[str, list[str]] = {entity: list(CONTEXT.get(entity, ())) for entity in entities}
    for custom in settings.custom:
        words.setdefault(custom.entity, []).extend(custom.context)
    for entity, more in settings.context.items():
        words.setdefault(entity, []).extend(more)
    context = {entity: Words(some) for entity, some in words.items() if some}
    allowed = Allowed(settings.allowed, settings.allowed_patterns)
    return Rules(context, settings.floors, allowed)


def of(entities: Iterable[str]) -> Detector:
    """A detector of these entities, with the rest as it comes."""
    return Detector(Settings(entities=frozenset(entities)))
