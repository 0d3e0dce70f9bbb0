"""Recall and false redactions of each entity, ours beside plain Presidio: `python -m loadtest.eval_pii`.

On the frozen set of tests/fixtures/pii and, where there is a copy, on Presidio's own synthetic texts. Writes
docs/pii-evaluation.md where all of that could be measured, and otherwise says on standard error what could not; what is
measured goes to the standard output in any case. The status is 1 where a target is missed: an entity with too few of
its spans found whole, or more false redactions than Presidio.
"""

import argparse
import importlib
import importlib.util
import json
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from loadtest.evaluation_text import document
from loadtest.pii_set import DEFAULT, PRIVATE_IP, SECRET, Sample, Span, read, read_synthetic
from loadtest.setups import ROOT
from loadtest.tallies import FLOORED, OURS, PRESIDIO, Detail, Find, Row, Tally, as_group, judged_on, overlap, tally

SET = ROOT / "tests/fixtures/pii"
SYNTHETIC = ROOT.parent / "shared/pii/synth_dev.json"
DOCUMENT = ROOT / "docs/pii-evaluation.md"

_SYNTHETIC_ENTITIES = (*(entity for entity in DEFAULT if entity != "CRYPTO"), "URL")
# There, 7 of 44 cards have 12 digits, and most telephone numbers stand without a country or an area code, or belong to
# no numbering plan: cards of 13 digits and more must be found, and as many telephone numbers as Presidio finds.
_SYNTHETIC_TARGETS = {"CREDIT_CARD": 37 / 44, "PHONE_NUMBER": 17 / 34}


class Detectors:
    """The columns that can be filled here."""

    def __init__(self) -> None:
        self.presidio: Any = None
        if importlib.util.find_spec("presidio_analyzer") is not None:
            self.presidio = importlib.import_module("loadtest.plain_presidio").PlainPresidio()

    def columns(self, entities: Sequence[str]) -> dict[str, Find]:
        """By column, what finds exactly these entities; `SECRET` stands for all secrets."""
        columns: dict[str, Find] = {}
        own = _ours(entities)
        if own is not None:
            columns[OURS] = own
        if self.presidio is not None:
            presidio = self.presidio
            columns[PRESIDIO] = lambda text: presidio.find(text, entities, 0.0)
            columns[FLOORED] = lambda text: presidio.find(text, entities, 0.4)
        return columns

    def foreign(self, entity: str) -> bool:
        """Whether Presidio has no recognizer of it."""
        return self.presidio is not None and entity not in self.presidio.entities


def _ours(entities: Sequence[str]) -> Find | None:
    """Our detector with these entities on, none where it is not built yet."""
    if importlib.util.find_spec("extproc.redaction.detector") is None:
        return None
    module = importlib.import_module("extproc.redaction.detector")
    detector = module.Detector(module.Settings(entities=frozenset(entities)))
    return lambda text: [Span(found.entity, found.start, found.end) for found in detector.findings(text)]


def rows(samples: Sequence[Sample], detectors: Detectors, default: Sequence[str], optional: Iterable[str]) -> list[Row]:
    """The default set is on at once; each of the others is on alone, as a team turns it on."""
    done = _rows(samples, detectors, default)
    for entity in optional:
        done += _rows([sample for sample in samples if judged_on(entity, sample)], detectors, (entity,))
    return done


def _rows(samples: Sequence[Sample], detectors: Detectors, entities: Sequence[str]) -> list[Row]:
    judged = [sample for sample in samples if judged_on(entities[0], sample)]
    labelled = {span.entity for sample in samples if sample.file != "secrets" for span in sample.spans}
    personal = frozenset((*labelled, *entities)) - {SECRET}
    tallies: dict[str, dict[str, Tally]] = {entity: {} for entity in entities}
    for column, find in detectors.columns(entities).items():
        sums = dict.fromkeys(entities, Tally())
        for sample in judged:
            found = [as_group(span, personal) for span in find(sample.text)]
            labels = [as_group(span, personal) for span in sample.spans]
            for entity in entities:
                sums[entity] += tally(entity, labels, found)
        for entity in entities:
            tallies[entity][column] = sums[entity]
    return [Row(entity, tallies[entity], detectors.foreign(entity)) for entity in entities]


def details(samples: Sequence[Sample], detectors: Detectors) -> dict[str, list[Detail]]:
    """The default set's findings by evasion, by vendor of a secret, and on addresses that are not public."""
    columns = detectors.columns((*DEFAULT, SECRET))
    evasions = [(sample.form, sample, (sample.about,)) for sample in samples if sample.kind == "evasion"]
    vendors = [(s.about, s, (s.about, SECRET)) for s in samples if s.file == "secrets" and s.kind == "positive"]
    return {
        "evasions": _details(evasions, columns),
        "secrets": _details(vendors, columns),
        "private": _details([(PRIVATE_IP, s, (PRIVATE_IP, "IP_ADDRESS")) for s in samples], columns),
    }


def _details(groups: Iterable[tuple[str, Sample, tuple[str, ...]]], columns: Mapping[str, Find]) -> list[Detail]:
    spans: dict[str, int] = {}
    whole: dict[str, dict[str, int]] = {}
    for name, sample, entities in groups:
        wanted = [span for span in sample.spans if span.entity == entities[0]]
        spans[name] = spans.get(name, 0) + len(wanted)
        for column, find in columns.items() if wanted else ():
            found = _counting(find(sample.text), entities)
            hits = sum(overlap(span, found) == span.end - span.start for span in wanted)
            whole.setdefault(name, dict.fromkeys(columns, 0))[column] += hits
    return [Detail(name, count, whole[name]) for name, count in spans.items() if count]


def _counting(found: Iterable[Span], entities: tuple[str, ...]) -> list[Span]:
    """The findings that count for these labels: of a secret any that is no personal datum."""
    if SECRET in entities:
        return [span for span in found if span.entity not in DEFAULT]
    return [span for span in found if span.entity in entities]


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--json", action="store_true", help="print the figures as JSON")
    parser.add_argument("--synthetic", type=Path, default=SYNTHETIC, help="presidio-research's synthetic texts")
    options = parser.parse_args(argv)
    samples, detectors = read(SET), Detectors()
    optional = sorted({s.about for s in samples if s.file in {"national", "optional"}})
    found = {"set": rows(samples, detectors, (*DEFAULT, SECRET), optional)}
    if options.synthetic.is_file():
        theirs = read_synthetic(options.synthetic)
        table = rows(theirs, detectors, _SYNTHETIC_ENTITIES[:-1], _SYNTHETIC_ENTITIES[-1:])
        found["synthetic"] = [replace(row, target=_SYNTHETIC_TARGETS.get(row.entity, row.target)) for row in table]
    more = details(samples, detectors)
    text = document(samples, found, more)
    lacking = _lacking(found, options.synthetic)
    if lacking:
        print(f"{DOCUMENT.name} stays as it is. Not measured: {'; '.join(lacking)}.", file=sys.stderr)
    else:
        DOCUMENT.write_text(text, encoding="utf-8")
    print(json.dumps(_plain(found, more)) if options.json else text)
    missed = [line for table in found.values() for row in table for line in row.missed()]
    for line in missed:
        print(line, file=sys.stderr)
    return 1 if missed else 0


def _lacking(found: Mapping[str, Sequence[Row]], synthetic: Path) -> list[str]:
    """What the page has and this run has not."""
    lacking = []
    if PRESIDIO not in found["set"][0].tallies:
        lacking.append("Presidio's columns, as presidio-analyzer is not installed")
    if "synthetic" not in found:
        lacking.append(f"Presidio's synthetic texts, which --synthetic names, as there is no file {synthetic}")
    return lacking


def _plain(found: Mapping[str, Sequence[Row]], more: Mapping[str, Sequence[Detail]]) -> dict[str, Any]:
    tables = {name: [asdict(row) for row in table] for name, table in found.items()}
    return {**tables, **{name: [asdict(row) for row in table] for name, table in more.items()}}


if __name__ == "__main__":
    sys.exit(main())
