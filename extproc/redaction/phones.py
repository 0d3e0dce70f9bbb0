"""Telephone numbers by the numbering plans of libphonenumber, without its search, which is eight passes over a text.

Presidio asks libphonenumber's matcher once for each region. Here a candidate's digits are looked up in tables that are
made of the same plans. A number with a country code is taken as it is. One without is taken where it is written as its
region writes it, with the trunk prefix that the region asks for; written otherwise, or as bare digits, it is weak and
needs a word.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from functools import cache, lru_cache
from itertools import accumulate
from re import _parser  # type: ignore[attr-defined]
from typing import NamedTuple

from phonenumbers import COUNTRY_CODE_TO_REGION_CODE
from phonenumbers.phonemetadata import NumberFormat, PhoneMetadata

from extproc.redaction.entities import REGIONS
from extproc.redaction.normalise import Source
from extproc.redaction.numbering import Table, table, together, values
from extproc.redaction.patterns import ALNUM, Candidate, Recognizer, bounded, matches, run_of

_RUN = b"0123456789 .-/()+"
TRIGGER = run_of(r"[0-9](?:[ .\-/()]{0,3}[0-9]){6}", _RUN)
_WIDTH = 48
_GAP = r"[ .\-/()]{1,3}"
_NUMBER = rf"(?:\+ ?)?\(?[0-9]{{1,15}}+(?>(?:{_GAP}[0-9]{{1,10}}){{0,2}})(?>(?:{_GAP}[0-9]{{2,10}}){{0,5}})"
_GAP_OR_NONE = r"[ .\-/()]{0,3}"
_DIGIT = _GAP_OR_NONE + "[0-9]"
_NO_PART = r"(?<![0-9][.\-/:+])(?<![+$])"
_END = r"(?![0-9]|[.\-:][0-9])"
_GROUPS = re.compile(rb"[0-9]+")
_EXTENSION = re.compile(rb" ?(?:(?:ext|extension|x)\.? ?|# ?)[0-9]{1,6}(?![0-9])", re.IGNORECASE)
_JOINTS = frozenset((b".", b"-", b"/"))
_PART_BEFORE = re.compile(rb"[0-9][A-Za-z]{1,8}[.\-/]\Z")
_PART_AFTER = re.compile(rb"[0-9A-Za-z]|[.\-:][0-9]|/[0-9]+/|%")
_DATE = re.compile(rb"[0-9]+([\-./ ])[0-9]+\1[0-9]+")
_DATES = frozenset(((2, 2, 4), (4, 2, 2), (2, 2, 2), (1, 2, 4), (1, 1, 4), (4, 1, 2), (4, 2, 1), (2, 1, 4)))
_FEWEST, _MOST = 7, 15  # digits
_FEWEST_KINDS = 3  # of digits
_FEWEST_DIALLED = 10  # with the zeros of a call abroad

SURE, WRITTEN, WEAK = 0.8, 0.6, 0.1
"""Scores: with a country code; as the region writes it; as digits that its plan admits."""


class _Reading(NamedTuple):
    """Digits as a number of one region: where its groups end but the last, without a trunk prefix of `trunk` digits."""

    ends: frozenset[int]
    needs_trunk: bool
    trunk: int

    def score(self, groups: tuple[int, ...], is_bracketed: bool) -> float:
        # A trunk prefix, alone or before the first group, moves no end.
        actual = [end for end in accumulate(groups[:-1], initial=-self.trunk) if end > 0]
        if actual and is_bracketed:
            return WRITTEN
        if not actual or not self.ends:
            return WEAK
        if self.needs_trunk:
            return WRITTEN if abs(actual[0] - min(self.ends)) < 2 else WEAK
        return WRITTEN if self.ends.issuperset(actual) else WEAK


_Readings = tuple[_Reading, ...]
_ABROAD: _Readings = ()
"""Of digits that have a country code."""


@lru_cache(4096)
def _score(readings: _Readings, groups: tuple[int, ...], is_bracketed: bool) -> float:
    """Of digits in groups of these lengths: as the region writes them that they fit best."""
    return max(reading.score(groups, is_bracketed) for reading in readings)


class _Form(NamedTuple):
    """How a region writes the numbers that begin so."""

    leading: str
    pattern: str
    needs_trunk: bool

    def ends(self, length: int) -> frozenset[int]:
        """Where the groups end but the last. Of the groups of a pattern no more than one has no fixed length."""
        widths = [item[1][3].getwidth() for item in _parser.parse(self.pattern)]
        spare = length - sum(least for least, _ in widths)
        lengths = [least if least == most else least + spare for least, most in widths]
        return frozenset(accumulate(lengths[:-1]))


def _form(trunk: str, form: NumberFormat) -> _Form:
    rule = form.national_prefix_formatting_rule or ""
    needs_trunk = bool(trunk) and trunk in rule and not form.national_prefix_optional_when_formatting
    leading = form.leading_digits_pattern[-1] if form.leading_digits_pattern else ""
    return _Form(leading, form.pattern or "", needs_trunk)


def _metadata(region: str) -> PhoneMetadata:
    """Raises ValueError where libphonenumber has none."""
    metadata = PhoneMetadata.metadata_for_region(region, None)
    if metadata is None:
        raise ValueError(f"no region of telephone numbers: {region}")
    return metadata


@cache
def _plan(code: int, trunk: str) -> Table[_Reading]:
    """The numbers of regions under a country code, without it, as the main one of them writes them."""
    forms = [_form(trunk, form) for form in _metadata(COUNTRY_CODE_TO_REGION_CODE[code][0]).number_format]

    def reading(matching: frozenset[int], length: int) -> _Reading:
        for place, form in enumerate(forms):
            if {2 * place + 1, 2 * place + 2} <= matching:
                return _Reading(form.ends(length), form.needs_trunk, 0)
        return _Reading(frozenset(), False, 0)

    expressions = [_valid(code)]
    for form in forms:
        expressions += (f"(?:{form.leading})[0-9]*", form.pattern)
    numbers = table(expressions, reading)
    tables = [numbers.mapped(lambda reading: None if reading.needs_trunk else reading)]
    if trunk:
        # Digits that can be read both ways are read with the prefix.
        tables.insert(0, numbers.mapped(lambda reading: reading._replace(trunk=len(trunk))).after(trunk))
    return together(tables).mapped(lambda readings: readings[0])


@cache
def _plans(keys: frozenset[tuple[int, str]]) -> Table[_Readings]:
    return together([_plan(*key) for key in sorted(keys)])


def _valid(code: int) -> str:
    """An expression of the national numbers under a country code, of any type."""
    regions = COUNTRY_CODE_TO_REGION_CODE[code]
    if regions == ("001",):
        plans = [PhoneMetadata.metadata_for_nongeo_region(code, None)]
    else:
        plans = [PhoneMetadata.metadata_for_region(region, None) for region in regions]
    patterns = {
        kind.national_number_pattern
        for plan in plans
        if plan is not None
        for kind in (
            *(plan.fixed_line, plan.mobile, plan.toll_free, plan.premium_rate, plan.shared_cost),
            *(plan.personal_number, plan.voip, plan.pager, plan.uan, plan.voicemail),
        )
        if kind and kind.national_number_pattern
    }
    return "|".join(f"(?:{pattern})" for pattern in sorted(patterns))


@cache
def _international(code: int) -> Table[bool]:
    """The national numbers under a country code; a trunk prefix of its main region is passed over."""
    region = COUNTRY_CODE_TO_REGION_CODE[code][0]
    main = None if region == "001" else PhoneMetadata.metadata_for_region(region, None)
    trunk = main.national_prefix or "" if main else ""
    return table([f"(?:{trunk})?(?:{_valid(code)})"], lambda *_: True)


def international(digits: bytes) -> list[int]:
    """How many of these values from 0 to 9, country code first, are a number of some plan; ascending."""
    code = 0
    for length, digit in enumerate(digits[:3], 1):
        code = 10 * code + digit
        if code in COUNTRY_CODE_TO_REGION_CODE:
            return [length + count for count, _ in _international(code).walk(digits[length:])]
    return []


class _Plans:
    """The plans of some regions, and what can be told of all of them at once."""

    def __init__(self, regions: Sequence[str]) -> None:
        metadata = {int(one.country_code or 0): one for one in map(_metadata, regions)}
        self._table = _plans(frozenset((code, one.national_prefix or "") for code, one in metadata.items()))
        lengths = self._table.lengths(_FEWEST)
        lengths["00"] = tuple(sorted({*lengths.get("00", ()), *range(_FEWEST_DIALLED, _MOST + 3)}))
        self.shape = bounded(rf"{_NO_PART}(?=\+|\(?(?:{_begins(lengths)})){_NUMBER}", ALNUM, "")

    def readings(self, digits: bytes, is_international: bool) -> dict[int, _Readings]:
        """By how many of these values are a number, as what."""
        if is_international:
            return {count: _ABROAD for count in international(digits) if _FEWEST <= count <= _MOST + 2}
        found = {count: some for count, some in self._table.walk(digits) if count >= _FEWEST}
        if digits[:2] == b"\0\0":
            dialled = [count + 2 for count in international(digits[2:])]
            found |= {count: _ABROAD for count in dialled if _FEWEST_DIALLED <= count <= _MOST + 2}
        return found


def _begins(lengths: Mapping[str, Sequence[int]]) -> str:
    """An expression of the beginning of as many digits, in groups, by their first two; what follows is no digit.

    Of a table of numbers this passes over nearly all at once.
    """
    seconds: dict[tuple[str, tuple[int, ...]], str] = {}
    for pair, counts in lengths.items():
        key = pair[0], tuple(counts)
        seconds[key] = seconds.get(key, "") + pair[1]
    return "|".join(f"{first}{_GAP_OR_NONE}[{some}]{_ahead(counts, 2)}" for (first, counts), some in seconds.items())


def _ahead(counts: Sequence[int], done: int) -> str:
    """An expression of the digits that are missing to one of these counts."""
    digits = _DIGIT * (counts[0] - done)
    return digits + (_END if len(counts) == 1 else f"(?:{_END}|{_ahead(counts[1:], counts[0])})")


def phones(regions: Sequence[str] = REGIONS) -> Recognizer:
    """The recognizer of numbers with any country code, and without one of these regions. Raises ValueError."""
    plans = _Plans(regions)

    def find(source: Source, first: int, last: int) -> Iterator[Candidate]:
        data, beyond = source.data, 0
        for match in matches(plans.shape, data, first, last, _WIDTH):
            start, limit = match.span(1)
            if start < beyond or _is_part(data, start):
                continue
            candidate = _longest(data, start, limit, plans)
            if candidate:
                beyond = candidate.end
                yield candidate

    return Recognizer("PHONE_NUMBER", TRIGGER, find, run=_RUN)


def _is_part(data: bytes, start: int) -> bool:
    """Whether what is before makes the digits a part of something else."""
    if data[start - 1 : start] not in _JOINTS:
        return False
    return _PART_BEFORE.search(data, max(0, start - 10), start) is not None


def _longest(data: bytes, start: int, limit: int, plans: _Plans) -> Candidate | None:
    """The longest number from here, to the end of a group."""
    is_international = data[start] == 0x2B
    digits = values(data[start:limit])
    if len(set(digits)) < _FEWEST_KINDS and not is_international:
        return None
    readings = plans.readings(digits, is_international)
    if not readings:
        return None
    groups = _groups(data, start, limit, max(readings))
    lengths = tuple(length for length, _, _ in groups)
    for place in range(len(groups) - 1, -1, -1):
        _, count, end = groups[place]
        if count not in readings:
            continue
        extension = _EXTENSION.match(data, end)
        if _PART_AFTER.match(data, end) and not extension:
            continue
        weight = SURE
        if not is_international:
            weight = _weight(data[start:end], digits[:count], lengths[: place + 1], readings[count])
        if weight:
            return Candidate(start, extension.end() if extension else end, "PHONE_NUMBER", weight)
    return None


def _groups(data: bytes, start: int, limit: int, most: int) -> list[tuple[int, int, int]]:
    """Of the groups with the first `most` digits: their length, how many digits there are so far, and the end."""
    groups, count = [], 0
    for group in _GROUPS.finditer(data, start, limit):
        first, last = group.span()
        count += last - first
        if count > most:
            break
        groups.append((last - first, count, last))
    return groups


def _weight(text: bytes, digits: bytes, groups: tuple[int, ...], readings: _Readings) -> float:
    """The score of a number without a plus."""
    if len(set(digits)) < _FEWEST_KINDS or (groups in _DATES and _DATE.fullmatch(text)):
        return 0.0
    if readings is _ABROAD:
        return WRITTEN if len(groups) > 1 else WEAK
    return _score(readings, groups, text[:1] == b"(")
