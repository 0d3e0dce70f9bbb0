"""The evaluation set: frozen, made as it says, labelled where its values are; and the arithmetic of its figures."""

import hashlib
import ipaddress
import json
import re
import subprocess
import sys
import unicodedata
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from loadtest import eval_pii
from loadtest.evaluation_text import document
from loadtest.pii_set import DEFAULT, JOINT, SECRET, Sample, Span, read, read_synthetic
from loadtest.tallies import (
    FLOORED,
    OURS,
    PRESIDIO,
    Detail,
    Find,
    Row,
    Tally,
    as_group,
    judged_on,
    merged,
    overlap,
    tally,
)
from tests.fixtures.pii.make import checks, samples
from tests.fixtures.pii.make.__main__ import write

FROZEN = {
    "common.jsonl": "ade03d23428bd0910febf863007bd4fea1e80ecaf571183d3c582a0557e4db16",
    "evasions.jsonl": "ac910d4b79b69e9b71eb4c6d247716996e7e613d1d5bbee9eac76deb7167267b",
    "harmless.jsonl": "681193921dc105b7e3f58a530f1e35eec6b44b4c3722bcd00836a25e3d975446",
    "national.jsonl": "8a59e82e377edbc1fbf12293ea245752fd319f880aa6a85e23ec291c4ea5b0d9",
    "optional.jsonl": "2444847e99f734c393b163280f063c46f08f25155d4ce91ac6386a2986f3a3eb",
    "secrets.jsonl": "76fef7fd3d8fa5317a9be59a46b0adc8f57d06abf6f43b64e2f806ac5a83cd0e",
}
SET = read(eval_pii.SET)
HIDDEN = re.compile("[\u00ad\u200b-\u200f\u2060\ufe0f\ufeff]")
# What the scanners of Git hosts look for, in short: a file must hold none of it.
REAL_LOOKING = re.compile(
    r"sk-(?:ant|proj|svcacct)-[\w-]{20}|\wT3BlbkFJ\w|AKIA[A-Z2-7]{16}|ASIA[A-Z2-7]{16}|AIza[\w-]{35}|gh[pousr]_\w{36}|github_pat_\w{22}"
    r"|glpat-[\w-]{20}|xox[bp]-\d|[sr]k_(?:live|test)_\w{20}|SK[0-9a-f]{32}|SG\.[\w-]{22}\.|npm_\w{36}|pypi-AgEI\w{20}|hf_\w{34}"
    r"|eyJ[\w-]{10,}\.eyJ|BEGIN (?:[A-Z]+ )?PRIVATE KEY|8Q~[\w.~-]{34}|://\w*:\w{9}[^@ ]*@|AccountKey=\w{20}"
)


def of(entity: str) -> list[str]:
    """All labelled values of an entity."""
    return [sample.text[span.start : span.end] for sample in SET for span in sample.spans if span.entity == entity]


def digits_of(value: str) -> str:
    """The value with plain digits, its separators gone."""
    return "".join(str(unicodedata.digit(letter)) for letter in value if letter.isdigit())


@pytest.mark.parametrize("name", FROZEN)
def test_is_frozen(name: str) -> None:
    assert hashlib.sha256((eval_pii.SET / name).read_bytes()).hexdigest() == FROZEN[name]


def test_is_what_the_maker_makes(tmp_path: Path) -> None:
    write(tmp_path)
    made = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    assert made == {path.name: path.read_bytes() for path in eval_pii.SET.glob("*.jsonl")}
    assert made.keys() == FROZEN.keys()


def test_every_entity_has_enough_of_both_kinds() -> None:
    counts = Counter((sample.about, sample.kind) for sample in SET if sample.file != "secrets")
    for entity in {sample.about for sample in SET if sample.about and sample.file != "secrets"}:
        assert counts[entity, "positive"] >= 60, entity
        assert counts[entity, "lookalike"] >= 20, entity
    assert {entity for entity, kind in counts if kind == "evasion"} == set(DEFAULT)


def test_ids_are_unique_and_spans_lie_in_order_inside_the_text() -> None:
    assert max(Counter(sample.id for sample in SET if sample.file != "secrets").values()) == 1
    for sample in SET:
        ends = [edge for span in sample.spans for edge in (span.start, span.end)]
        assert ends == sorted(ends), sample.id
        assert not ends or (ends[0] >= 0 and ends[-1] <= len(sample.text)), sample.id
        assert all(span.start < span.end for span in sample.spans), sample.id


def test_every_positive_holds_the_entity_that_it_was_made_for_and_no_lookalike_does() -> None:
    for sample in SET:
        if (sample.about, sample.kind) == ("DATE_TIME", "lookalike"):
            continue  # a log line around it may begin with a date
        labelled = sample.about in {span.entity for span in sample.spans}
        assert labelled == (sample.kind in {"positive", "evasion"}), sample.id


def test_labels_end_where_their_values_end() -> None:
    for sample in SET:
        for span in sample.spans:
            value = sample.text[span.start : span.end]
            assert value == value.strip(" \t\n\"'`,<>"), (sample.id, span.entity)


def test_cards_pass_luhn_and_have_13_to_19_digits() -> None:
    for value in of("CREDIT_CARD"):
        digits = digits_of(value)
        assert 13 <= len(digits) <= 19
        assert checks.luhn(digits[:-1]) == digits[-1]


def test_lookalikes_of_cards_fail_luhn() -> None:
    runs = [run for sample in SET if (sample.about, sample.kind) == ("CREDIT_CARD", "lookalike")
            for run in re.findall(r"\d[\d -]{11,}\d", sample.text)]  # fmt: skip
    assert len(runs) == 24
    assert all(checks.luhn(digits_of(run)[:-1]) != digits_of(run)[-1] for run in runs)


def test_public_addresses_are_public_and_private_ones_are_not() -> None:
    plain = [HIDDEN.sub("", unicodedata.normalize("NFKC", value)) for value in of("IP_ADDRESS")]
    assert all(ipaddress.ip_address(value).is_global for value in plain)
    assert not any(ipaddress.ip_address(value).is_global for value in of("PRIVATE_IP"))
    assert len(of("PRIVATE_IP")) >= 20


def test_no_file_holds_what_a_scanner_takes_for_a_secret() -> None:
    for path in (*eval_pii.SET.glob("*.jsonl"), *eval_pii.SET.glob("make/*.py")):
        assert not REAL_LOOKING.search(path.read_text(encoding="utf-8")), path.name


def test_what_the_reader_joins_does_look_real() -> None:
    joined = [value for sample in SET if sample.file == "secrets" for value in of_sample(sample)]
    assert sum(REAL_LOOKING.search(value) is not None for value in joined) > 300
    assert not any(JOINT in sample.text for sample in SET)
    assert JOINT == samples.JOINT


def of_sample(sample: Sample) -> list[str]:
    return [sample.text[span.start : span.end] for span in sample.spans]


def test_check_digits_agree_with_published_examples() -> None:
    assert checks.luhn("411111111111111") == "1"
    assert checks.iban("GB", "NWBK60161331926819") == "29"
    assert checks.iso7064_11_10("8609574271") == "9"
    assert checks.verhoeff("236") == "3"
    assert checks.gstin("27AAPFU0939F1Z") == "V"


def test_wallets_agree_with_published_examples() -> None:
    block, program = "62e907b15cbf27d5425399ebf6f0fb50ebb88f18", "751e76e8199196d454941c45d1b3a323f1433bd6"
    taproot = "79be667ef9dcbbac55a06295ce870b07029bfcdb2dce28d959f2815b16f81798"
    assert checks.base58check(0, bytes.fromhex(block)) == "1A1zP1eP5QGefi2DMPTfTL5SLmv7DivfNa"
    assert checks.bech32(0, bytes.fromhex(program)) == "bc1qw508d6qejxtdg4y5r3zarvary0c5xw7kv8f3t4"
    assert checks.bech32(1, bytes.fromhex(taproot)) == "bc1p0xlxvlhemja6c4dqv22uapctqupfhlxm9h8z3k2e72q4k9hcz7vqzk5jj0"
    assert checks.eip55("5aaeb6053f3e94c9b9a09f33669435e7ef1beaed") == "0x5aAeb6053F3E94C9b9A09f33669435E7Ef1BeAed"
    assert checks.keccak256(b"").hex() == "c5d2460186f7233c927e7db2dcc703c0e500b653ca82273b7bfad8045d85a470"


# ---- the arithmetic -------------------------------------------------------------------------------
SPANS = st.lists(
    st.builds(lambda start, length: Span("A", start, start + length), st.integers(0, 40), st.integers(1, 12)),
    max_size=8,
)


def characters(spans: list[Span]) -> set[int]:
    return {place for span in spans for place in range(span.start, span.end)}


@given(SPANS)
def test_merged_spans_cover_the_same_and_never_overlap(spans: list[Span]) -> None:
    done = list(merged(spans))
    assert characters(done) == characters(spans)
    assert sum(span.end - span.start for span in done) == len(characters(spans))


@given(SPANS, SPANS)
def test_a_tally_counts_characters(labels: list[Span], found: list[Span]) -> None:
    labels = list(merged(labels))
    done = tally("A", labels, found)
    assert done.characters == len(characters(labels))
    assert done.covered == len(characters(labels) & characters(found))
    assert done.false_characters == len(characters(found) - characters(labels))
    assert done.whole == sum(characters([span]) <= characters(found) for span in labels)
    assert done.false == sum(not characters([span]) & characters(labels) for span in merged(found))


@given(st.builds(lambda start, length: Span("A", start, start + length), st.integers(0, 40), st.integers(1, 12)), SPANS)
def test_overlap_counts_a_character_once(span: Span, others: list[Span]) -> None:
    assert overlap(span, others) == len(characters([span]) & characters(others))


def test_a_span_of_which_one_character_is_left_is_not_found() -> None:
    assert tally("A", [Span("A", 3, 9)], [Span("A", 3, 8)]) == Tally(spans=1, characters=6, covered=5)


def test_another_entity_of_the_default_set_excuses_a_finding_but_does_not_find() -> None:
    done = tally("US_SSN", [Span("PHONE_NUMBER", 0, 9), Span("DATE_TIME", 20, 29)], [Span("US_SSN", 0, 9)])
    assert done == Tally()
    assert tally("US_SSN", [Span("DATE_TIME", 20, 29)], [Span("US_SSN", 20, 29)]).false == 1


def test_a_private_address_is_neither_right_nor_wrong() -> None:
    assert tally("IP_ADDRESS", [Span("PRIVATE_IP", 0, 8)], [Span("IP_ADDRESS", 0, 8)]) == Tally()
    assert tally("PHONE_NUMBER", [Span("PRIVATE_IP", 0, 8)], [Span("PHONE_NUMBER", 0, 8)]).false == 1


def test_tallies_add_up_and_an_empty_one_has_missed_nothing() -> None:
    total = Tally(4, 3, 40, 35, 1, 5) + Tally(1, 1, 10, 10, 0, 2)
    assert total == Tally(5, 4, 50, 45, 1, 7)
    assert (total.recall, total.character_recall) == (0.8, 0.9)
    assert (Tally().recall, Tally().character_recall) == (1.0, 1.0)


def test_any_secret_is_judged_by_the_group() -> None:
    personal = frozenset(DEFAULT)
    assert as_group(Span("GITHUB_TOKEN", 1, 2), personal) == Span(SECRET, 1, 2)
    assert as_group(Span("CRYPTO", 1, 2), personal) == Span("CRYPTO", 1, 2)


def test_what_an_entity_is_judged_on() -> None:
    files = {
        entity: {s.file for s in SET if judged_on(entity, s)} for entity in ("CREDIT_CARD", SECRET, "URL", "UK_NHS")
    }
    default = {"common", "secrets", "evasions", "harmless"}
    assert files == {
        "CREDIT_CARD": default,
        SECRET: default,
        "URL": {"optional", "harmless"},
        "UK_NHS": {"national", "harmless"},
    }
    assert {s.about for s in SET if judged_on("URL", s)} == {"URL", ""}


# ---- the targets and the page ---------------------------------------------------------------------
GOOD = Row("US_SSN", {OURS: Tally(100, 98, 900, 890, 2, 18), FLOORED: Tally(100, 60, 900, 500, 2, 18)}, foreign=False)


def test_targets_are_met_at_their_bounds() -> None:
    assert GOOD.missed() == []


def test_each_target_can_be_missed() -> None:
    leaky = replace(GOOD, tallies={**GOOD.tallies, OURS: Tally(100, 97, 900, 880, 2, 18)})
    eager = replace(GOOD, tallies={**GOOD.tallies, OURS: Tally(100, 98, 900, 890, 3, 18)})
    assert leaky.missed() == ["US_SSN: recall 0.970, target 0.98"]
    assert eager.missed() == ["US_SSN: 3 false redactions, Presidio has 2"]
    assert replace(eager, foreign=True).missed() == []
    assert replace(leaky, target=0.9).missed() == []
    assert replace(leaky, tallies={PRESIDIO: Tally(), FLOORED: Tally()}).missed() == []


def test_the_page_shows_each_entity_and_each_column() -> None:
    foreign = Row(SECRET, {OURS: Tally(10, 10, 200, 200), FLOORED: Tally(10)}, foreign=True)
    detail = {"evasions": [Detail("zwsp", 14, {OURS: 14, FLOORED: 2})], "secrets": [], "private": []}
    page = document(SET, {"set": [GOOD, foreign, replace(GOOD, entity="URL")], "synthetic": [GOOD]}, detail)
    found, false = "0.980 (0.989 of characters) | 0.600 (0.556 of characters)", "2 (18 characters) | 2 (18 characters)"
    assert page.count(f"| US_SSN | 100 | {found} | {false} | met |") == 2
    assert "| SECRET | 10 | 1.000 (1.000 of characters) | – | 0 (0 characters) | – | met |" in page
    assert page.index("| SECRET") < page.index("### Opt-in") < page.index("| URL")
    assert "| zwsp | 14 | 14 | 2 |" in page


def test_synthetic_texts_are_read_under_our_names(tmp_path: Path) -> None:
    spans = [
        {"entity_type": "DOMAIN_NAME", "entity_value": "http://a.example", "start_position": 4, "end_position": 20}
    ]
    path = tmp_path / "synthetic.json"
    path.write_text(json.dumps([{"full_text": "see http://a.example", "spans": spans}]), encoding="utf-8")
    (sample,) = read_synthetic(path)
    assert sample.spans == (Span("URL", 4, 20),)
    assert judged_on("URL", sample)
    assert judged_on("CREDIT_CARD", sample)


class Oracles:
    """Stand in for detectors: ours answers what is labelled, or nothing; Presidio is silent."""

    def __init__(self, *, sighted: bool, columns: Sequence[str] = (OURS, PRESIDIO, FLOORED)) -> None:
        self._columns = columns
        self._spans = {sample.text: sample.spans for sample in SET if sighted}

    def columns(self, entities: Sequence[str]) -> dict[str, Find]:
        def ours(text: str) -> list[Span]:
            secrets = SECRET in entities
            return [s for s in self._spans.get(text, ()) if s.entity in entities or (secrets and s.entity in VENDORS)]

        finds: dict[str, Find] = {OURS: ours, PRESIDIO: lambda _: [], FLOORED: lambda _: []}
        return {column: finds[column] for column in self._columns}

    def foreign(self, entity: str) -> bool:
        return entity == SECRET


VENDORS = {span.entity for sample in SET if sample.file == "secrets" for span in sample.spans} - {"DATE_TIME"}


@pytest.fixture
def page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = tmp_path / "page.md"
    monkeypatch.setattr(eval_pii, "DOCUMENT", path)
    return path


@pytest.fixture
def synthetic(tmp_path: Path) -> str:
    path = tmp_path / "synthetic.json"
    path.write_text(json.dumps([{"full_text": "nothing", "spans": []}]))
    return str(path)


def test_what_finds_every_label_meets_every_target(
    page: Path, synthetic: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(eval_pii, "Detectors", lambda: Oracles(sighted=True))
    assert eval_pii.main(["--synthetic", synthetic]) == 0
    out, err = capsys.readouterr()
    assert (out, err) == (page.read_text(encoding="utf-8") + "\n", "")
    assert "missed" not in out
    assert out.partition("## Presidio's synthetic texts")[0].count("| met |") == len(DEFAULT) + 1 + 34


def test_what_finds_nothing_misses_every_target(
    page: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(eval_pii, "Detectors", lambda: Oracles(sighted=False))
    assert eval_pii.main(["--json", "--synthetic", "/nonexistent"]) == 1
    out, err = capsys.readouterr()
    said, *missed = err.splitlines()
    assert said == (
        "page.md stays as it is. Not measured: Presidio's synthetic texts, which --synthetic names, as there is no "
        "file /nonexistent."
    )
    assert missed[0] == "EMAIL_ADDRESS: recall 0.000, target 0.98"
    assert len(missed) == len(DEFAULT) + 1 + 34
    figures = json.loads(out)
    assert {row["entity"] for row in figures["set"]} >= {*DEFAULT, SECRET, "URL", "UK_NHS"}
    assert sum(row["spans"] for row in figures["secrets"]) == 400
    assert not page.exists()


def test_the_page_stays_where_presidio_is_not_installed(
    page: Path, synthetic: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    page.write_text("as it was")
    monkeypatch.setattr(eval_pii, "Detectors", lambda: Oracles(sighted=True, columns=(OURS,)))
    assert eval_pii.main(["--synthetic", synthetic]) == 0
    assert capsys.readouterr().err == (
        "page.md stays as it is. Not measured: Presidio's columns, as presidio-analyzer is not installed.\n"
    )
    assert page.read_text() == "as it was"


# ---- Presidio -------------------------------------------------------------------------------------
# urllib3 binds a socket of its own when it is imported, to learn of IPv6; what leaves the machine connects or asks DNS.
OFFLINE = """
import sys
def refuse(event, _):
    if event in {"socket.connect", "socket.getaddrinfo", "socket.gethostbyname", "socket.sendto", "socket.sendmsg"}:
        raise SystemExit("the network was asked: " + event)
sys.addaudithook(refuse)
from loadtest.plain_presidio import PlainPresidio
presidio = PlainPresidio()
text = "Write to kim@example.com, SSN 856231234, or see https://example.org/a."
found = presidio.find(text, ["EMAIL_ADDRESS", "US_SSN", "URL", "GITHUB_TOKEN"], 0.4)
print(sorted({text[span.start:span.end] for span in found}))
"""


def test_presidio_never_opens_a_socket() -> None:
    """In a process of its own: it imports spaCy, and the first call counts."""
    pytest.importorskip("tldextract", reason="Presidio is not installed")
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", OFFLINE], capture_output=True, text=True, check=False, timeout=100
    )
    assert done.returncode == 0, done.stderr
    assert "'856231234'" in done.stdout
    assert "'kim@example.com'" in done.stdout
