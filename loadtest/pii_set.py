"""Labelled texts: the set of tests/fixtures/pii, and Presidio's synthetic one where there is a copy."""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

JOINT = "\u241f"
"""Cuts secrets into pieces where they are stored, so that no scanner takes them for real; never part of a text."""

DEFAULT = ("EMAIL_ADDRESS", "CREDIT_CARD", "IBAN_CODE", "US_SSN", "PHONE_NUMBER", "IP_ADDRESS", "CRYPTO")
"""On without being asked for; secrets besides, which are judged as one group."""

SECRET = "SECRET"  # noqa: S105 - the name of a group
PRIVATE_IP = "PRIVATE_IP"
"""Labels addresses that are no public ones: to find them is neither right nor wrong."""

_SYNTHETIC = {"DOMAIN_NAME": "URL"}  # by its own names, where they differ from ours


@dataclass(frozen=True, slots=True)
class Span:
    """Characters of a text, the end excluded."""

    entity: str
    start: int
    end: int


@dataclass(frozen=True, slots=True)
class Sample:
    """A text with its labels. `about` is the entity that it was made for, empty where for none; `file` its stem."""

    file: str
    id: str
    kind: str
    form: str
    about: str
    text: str
    spans: tuple[Span, ...]


def read(folder: Path) -> list[Sample]:
    """All samples of the set, in the order of the files' names."""
    return [sample for path in sorted(folder.glob("*.jsonl")) for sample in _file(path)]


def _file(path: Path) -> Iterator[Sample]:
    for line in path.read_text(encoding="utf-8").splitlines():
        row = json.loads(line)
        spans = tuple(Span(*span) for span in row.pop("spans"))
        yield Sample(file=path.stem, spans=spans, text=row.pop("text").replace(JOINT, ""), **row)


def read_synthetic(path: Path) -> list[Sample]:
    """Presidio's synthetic texts, in the JSON of presidio-research. Raises OSError where there are none."""
    rows = json.loads(path.read_text(encoding="utf-8"))
    return [
        Sample(
            "synthetic", str(number), "synthetic", "prose", "", row["full_text"], tuple(map(_synthetic, row["spans"]))
        )
        for number, row in enumerate(rows)
    ]


def _synthetic(row: Mapping[str, str | int]) -> Span:
    entity = str(row["entity_type"])
    return Span(_SYNTHETIC.get(entity, entity), int(row["start_position"]), int(row["end_position"]))
