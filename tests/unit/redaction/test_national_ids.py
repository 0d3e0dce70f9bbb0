"""National identifiers, their checks beside Presidio's."""

import random
import re
import warnings
from collections.abc import Callable
from typing import Any

import pytest

from extproc.redaction.entities import NATIONAL
from extproc.redaction.national_ids import NATIONAL_IDS
from extproc.redaction.normalise import Source
from tests.unit.redaction.found import found

SHAPES = {
    "ABA_ROUTING_NUMBER": "[0123678]ddd-dddd-d",
    "AU_ABN": "dd ddd ddd ddd",
    "AU_ACN": "ddd ddd ddd",
    "AU_MEDICARE": "[23456]ddd ddddd d",
    "AU_TFN": "ddd ddd ddd",
    "CA_SIN": "[12345679]dd ddd ddd",
    "DE_HEALTH_INSURANCE": "[ABKTZ]ddddddddd",
    "DE_ID_CARD": "[CFLTZ][CFGH0123]dddddd d".replace(" ", ""),
    "DE_SOCIAL_SECURITY": "dd0d0ddd[ABKZ]ddd",
    "DE_TAX_ID": "[1-9]dddddddddd".replace("1-9", "123456789"),
    "ES_NIE": "[XYZ]ddddddd[TRWAGMYFPDXBNJZSQVHLCKE]",
    "ES_NIF": "dddddddd[TRWAGMYFPDXBNJZSQVHLCKE]",
    "FI_PERSONAL_IDENTITY_CODE": "[012]d0ddd[-+AY]ddd[0123456789ABCDEFHJKLMNPRSTUVWXY]",
    "IN_AADHAAR": "[23456789]ddd dddd dddd",
    "IT_VAT_CODE": "ddddddddddd",
    "KR_BRN": "ddd-dd-ddddd",
    "MEDICAL_LICENSE": "[ABFM][A9]ddddddd",
    "NG_NIN": "ddddddddddd",
    "SE_ORGANISATIONSNUMMER": "dddddd-dddd",
    "SE_PERSONNUMMER": "dddddd-dddd",
    "SG_UEN": "dddddddd[XMKECAWLJDB]",
    "TH_TNIN": "[1234567]10dddddddddd",
    "TR_NATIONAL_ID": "[123456789]dddddddddd",
    "UK_NHS": "ddd ddd dddd",
    "US_NPI": "[12]ddddddddd",
    "ZA_ID_NUMBER": "dd0d0ddddd0[89]d",
}
"""Of what is drawn: `d` is a digit. Those whose check Presidio does not have, or does otherwise, are left out."""

VALID = {
    "IN_GSTIN": ("27AAPFU0939F1ZV", "27AAPFU0939F1ZW"),
    "IT_FISCAL_CODE": ("RSSMRA85T10A562S", "RSSMRA85T10A562T"),
    "KR_RRN": ("RRN 900101-1234568", "RRN 900101-1234567"),
    "PL_PESEL": ("PESEL 44051401359", "PESEL 44051401358"),
    "SG_NRIC_FIN": ("S1234567D", "S1234567A"),
    "UK_NINO": ("NI number AB123456C", "NI number DB123456C"),
    "US_ITIN": ("ITIN 912-71-1234", "ITIN 912-49-1234"),
    "US_BANK_NUMBER": ("bank account 123456789012", "order 123456789012"),
    "US_DRIVER_LICENSE": ("driver license D1234567", "part D1234567"),
    "US_PASSPORT": ("passport C12345678", "part C12345678"),
    "DE_ID_CARD": ("Ausweis L01X00T471", "Ausweis L01X00T472"),
    "SG_UEN": ("UEN T08GA0028A", "UEN T08GA0028B"),
    "DE_TAX_ID": ("Steuer-ID 86 095 742 719", "Steuer-ID 86 095 742 718"),
}
"""A value and one that is none, with the word that each needs."""


@pytest.mark.parametrize("entity", VALID)
def test_a_value_and_one_that_is_none(entity: str) -> None:
    value, none = VALID[entity]
    assert len(found(f"{value}.", entity)) == 1
    assert value.endswith(found(f"{value}.", entity)[0])
    assert found(f"{none}.", entity) == []


def test_each_is_listed_and_tested() -> None:
    assert {recognizer.entity for recognizer in NATIONAL_IDS} == set(NATIONAL)
    assert set(SHAPES) | set(VALID) == set(NATIONAL)


@pytest.fixture(scope="module")
def presidio() -> dict[str, Any]:
    """Presidio's recognizers with a check, by entity."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        recognizers = pytest.importorskip(
            "presidio_analyzer.predefined_recognizers", reason="presidio-analyzer is not installed"
        )
    made = {}
    for name in recognizers.__all__:
        kind = getattr(recognizers, name)
        if isinstance(kind, type) and ".country_specific." in kind.__module__ and hasattr(kind, "PATTERNS"):
            one = kind()
            made[one.supported_entities[0]] = one
    return made


@pytest.mark.parametrize("entity", SHAPES)
def test_the_check_is_presidios(entity: str, presidio: dict[str, Any]) -> None:
    dice = random.Random(entity)
    valid = 0
    for _ in range(600):
        value = _drawn(SHAPES[entity], dice)
        theirs = _theirs(presidio[entity], value)
        assert _is_valid(entity, value) == theirs, value
        valid += theirs
    assert 0 < valid < 600, "the draw proves something both ways"


def _drawn(shape: str, dice: random.Random) -> str:
    def draw(match: re.Match[str]) -> str:
        return dice.choice("0123456789" if match[0] == "d" else match[0][1:-1])

    return re.sub(r"\[[^\]]+\]|d", draw, shape)


def _is_valid(entity: str, value: str) -> bool:
    recognizers = [one for one in NATIONAL_IDS if one.entity == entity]
    spans = [(c.start, c.end) for one in recognizers for c in one.find(Source(value), 0, len(value))]
    return (0, len(value)) in spans


def _theirs(recognizer: Any, value: str) -> bool:
    validate: Callable[[str], bool | None] = recognizer.validate_result
    invalidate: Callable[[str], bool | None] = recognizer.invalidate_result
    return validate(value) is not False and not invalidate(value)


@pytest.mark.parametrize("text", ["part 51824753556", "order 9434765919", "id 123456782 of SKU", "944 476 5919"])
def test_digits_that_pass_by_chance_are_none(text: str) -> None:
    assert found(text, *(set(NATIONAL) - {"ZA_ID_NUMBER"})) == []


def test_the_name_of_a_column_is_a_word() -> None:
    table = "Here is the export:\nname,nhs number,city\nAnn,9434765919,Leeds\nBob,9434765870,York\n"
    assert found(table, "UK_NHS") == ["9434765919", "9434765870"]
    assert found(table.replace("nhs number", "order"), "UK_NHS") == []
