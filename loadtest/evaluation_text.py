"""The evaluation of detectors as Markdown."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from io import StringIO

from loadtest.pii_set import DEFAULT, SECRET, Sample
from loadtest.tallies import FLOORED, OURS, PRESIDIO, Detail, Row, Tally

_INTRODUCTION = """\
# How well personal data and secrets are found

Written by `make eval-pii`. What the texts are, how they are labelled and why: `tests/fixtures/pii/README.md`.

A span counts as found when all of its characters are covered by findings of its entity: what is left over would have
left the gateway. A false redaction is a finding that touches no labelled span. The default set is on at once, each
opt-in entity alone. Presidio is version 2.2.366 with all of its recognizers of patterns, its tokenizer and no model;
its own threshold of scores is 0, and its second column leaves out scores below 0.4.

**Targets**, for each entity: at least 98 % of the spans, and no more false redactions than Presidio at 0.4, where it
knows the entity.
"""
_SYNTHETIC = """\
500 texts of presidio-research, with 7 cards of 12 digits, and with many telephone numbers that stand without a country
or an area code, or belong to no numbering plan. Targets here: all cards of 13 digits and more, and as many telephone
numbers as Presidio finds.
"""
_PRIVATE = (
    "Addresses that are not public (private, loopback, documentation) are labelled apart: neither right nor wrong."
)


def document(
    samples: Sequence[Sample], tables: Mapping[str, Sequence[Row]], more: Mapping[str, Sequence[Detail]]
) -> str:
    """The whole page."""
    out = StringIO()
    print(_INTRODUCTION, file=out)
    kinds = Counter(sample.kind for sample in samples)
    counts = ", ".join(f"{count} {kind}" for kind, count in kinds.most_common())
    print(f"## The frozen set\n\n{len(samples)} texts: {counts}.\n", file=out)
    on = [row for row in tables["set"] if row.entity in {*DEFAULT, SECRET}]
    _write(out, "### On by default", _table(on))
    _write(out, "### Opt-in", _table([row for row in tables["set"] if row not in on]))
    _write(out, "### Evasions", _details("evasion", more["evasions"]))
    _write(out, "### Secrets by vendor", _details("secret", more["secrets"]))
    _write(out, "### Private addresses", [_PRIVATE, "", *_details("label", more["private"])])
    if "synthetic" in tables:
        _write(out, "## Presidio's synthetic texts", [_SYNTHETIC, *_table(tables["synthetic"])])
    return out.getvalue().rstrip() + "\n"


def _write(out: StringIO, title: str, lines: Iterable[str]) -> None:
    print(title, "", *lines, "", sep="\n", file=out)


def _table(rows: Sequence[Row]) -> list[str]:
    columns = [column for column in (OURS, PRESIDIO, FLOORED) if any(column in row.tallies for row in rows)]
    titles = ["entity", "spans", *(f"{what}: {column}" for what in ("found", "false") for column in columns), "targets"]
    lines = [_line(titles), _line(["---", *("---:" for _ in titles[1:])])]
    for row in rows:
        spans = next((str(tally.spans) for tally in row.tallies.values()), "")
        cells = [_found(row, column) for column in columns] + [_false(row, column) for column in columns]
        lines.append(_line([row.entity, spans, *cells, _verdict(row)]))
    return lines


def _verdict(row: Row) -> str:
    if OURS not in row.tallies:
        return ""
    return "missed" if row.missed() else "met"


def _found(row: Row, column: str) -> str:
    tally = _known(row, column)
    return f"{tally.recall:.3f} ({tally.character_recall:.3f} of characters)" if tally else "–"


def _false(row: Row, column: str) -> str:
    tally = _known(row, column)
    return f"{tally.false} ({tally.false_characters} characters)" if tally else "–"


def _known(row: Row, column: str) -> Tally | None:
    return None if row.foreign and column != OURS else row.tallies.get(column)


def _details(what: str, rows: Sequence[Detail]) -> list[str]:
    columns = [column for column in (OURS, PRESIDIO, FLOORED) if any(column in row.whole for row in rows)]
    lines = [_line([what, "spans", *columns]), _line(["---", "---:", *("---:" for _ in columns)])]
    return [*lines, *(_line([row.name, str(row.spans), *(str(row.whole[c]) for c in columns)]) for row in rows)]


def _line(cells: Iterable[str]) -> str:
    return "| " + " | ".join(cells) + " |"
