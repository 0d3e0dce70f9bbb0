"""Telephone numbers by the numbering plans of libphonenumber, without its search, which is eight passes over a text.

Presidio asks libphonenumber's matcher once for each region. Here a candidate's digits are held against the same plans
directly. A number with a country code is taken as it is. One without is taken where it is written as its region writes
it, with the trunk prefix that the region asks for; written otherwise, or as bare digits, it is weak and needs a word.
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import accumulate
from typing import NamedTuple

from phonenumbers import COUNTRY_CODE_TO_REGION_CODE
from phonenumbers.phonemetadata import NumberFormat, PhoneMetadata

from extproc.redaction.checks import digits_of
from extproc.redaction.normalise import Source
from extproc.redaction.patterns import ALNUM, NO_DIGIT, Candidate, Recognizer, bounded, matches, reach_of

REGIONS = ("US", "GB", "DE", "FR", "IL", "IN", "CA", "BR")
"""Presidio's: where a number without a country code may be from."""

TRIGGER = NO_DIGIT + r"[0-9](?:[ .\-/()]{0,3}[0-9]){6}"
_WIDTH = 48
_GAP = r"[ .\-/()]{1,3}"
_SHAPE = bounded(
    rf"(?:\+ ?)?\(?[0-9]{{1,15}}+(?>(?:{_GAP}[0-9]{{1,10}}){{0,2}})(?>(?:{_GAP}[0-9]{{2,10}}){{0,5}})", ALNUM, ""
)
_GROUPS = re.compile(rb"[0-9]+")
_EXTENSION = re.compile(rb" ?(?:(?:ext|extension|x)\.? ?|# ?)[0-9]{1,6}(?![0-9])", re.IGNORECASE)
_JOINTS = frozenset((b".", b"-", b"/", b":", b"+", b"$"))
_PART_BEFORE = re.compile(rb"[0-9][A-Za-z]{0,8}[.\-/]\Z|[0-9][:+]\Z|[+$]\Z")
_PART_AFTER = re.compile(rb"[0-9A-Za-z]|[.\-:][0-9]|/[0-9]+/|%")
_DATE = re.compile(rb"[0-9]+([\-./ ])[0-9]+\1[0-9]+")
_DATES = frozenset(((2, 2, 4), (4, 2, 2), (2, 2, 2), (1, 2, 4), (1, 1, 4), (4, 1, 2), (4, 2, 1), (2, 1, 4)))
_FEWEST, _MOST = 7, 15  # digits

SURE, WRITTEN, WEAK = 0.8, 0.6, 0.1
"""Scores: with a country code; as the region writes it; as digits that its plan admits."""


class _Written(NamedTuple):
    """A candidate: its digits, the lengths of their groups, and whether a plus is before them."""

    digits: str
    groups: tuple[int, ...]
    is_international: bool
    text: bytes


@dataclass(frozen=True)
class _Plan:
    """How a region numbers. `valid` is on the digits without country code and trunk prefix."""

    trunk: str
    valid: re.Pattern[str]
    formats: tuple[tuple[re.Pattern[str], re.Pattern[str], bool], ...]

    def written(self) -> str:
        """An expression of its numbers without a country code."""
        needs_trunk = self.formats and all(form[2] for form in self.formats)
        return f"(?:{self.trunk}){'' if needs_trunk else '?'}(?:{self.valid.pattern})"

    def score(self, written: _Written) -> float:
        """The score of a number without a country code."""
        digits = written.digits
        has_trunk = bool(self.trunk) and digits.startswith(self.trunk)
        for national, with_trunk in ((digits[len(self.trunk) :], True), (digits, False)):
            if (with_trunk and not has_trunk) or not self.valid.fullmatch(national):
                continue
            return self._form(written, national, with_trunk)
        return 0.0

    def _form(self, written: _Written, national: str, with_trunk: bool) -> float:
        ends, needs_trunk = self._ends(national)
        if needs_trunk and not with_trunk:
            return 0.0
        # A trunk prefix, alone or before the first group, moves no end.
        at = accumulate(written.groups[:-1], initial=-len(self.trunk) if with_trunk else 0)
        actual = [end for end in list(at)[1:] if end > 0]
        if actual and written.text[:1] == b"(":
            return WRITTEN
        if not actual or not ends:
            return WEAK
        if needs_trunk:
            return WRITTEN if abs(actual[0] - min(ends)) < 2 else WEAK
        return WRITTEN if ends.issuperset(actual) else WEAK

    def _ends(self, national: str) -> tuple[frozenset[int], bool]:
        """Where the groups end but the last, as the region writes this number; whether with the trunk prefix."""
        for leading, pattern, needs_trunk in self.formats:
            match = pattern.fullmatch(national) if leading.match(national) else None
            if match:
                return frozenset(match.end(group) for group in range(1, len(match.groups()))), needs_trunk
        return frozenset(), False


@cache
def _plan(region: str) -> _Plan:
    """The plan of a region as libphonenumber has it. Raises ValueError where it has none."""
    metadata = PhoneMetadata.metadata_for_region(region, None)
    if metadata is None:
        raise ValueError(f"no region of telephone numbers: {region}")
    trunk = metadata.national_prefix or ""
    # A number may be of any region under the same country code, and the main one says how it is written.
    code = int(metadata.country_code or 0)
    valid, _ = _international(code)
    main = PhoneMetadata.metadata_for_region(COUNTRY_CODE_TO_REGION_CODE[code][0], None)
    return _Plan(trunk, valid, tuple(_format(trunk, form) for form in (main or metadata).number_format))


def _valid(plans: Sequence[PhoneMetadata]) -> re.Pattern[str]:
    """The national numbers of these plans, of any type."""
    patterns = {
        kind.national_number_pattern
        for plan in plans
        for kind in (
            *(plan.fixed_line, plan.mobile, plan.toll_free, plan.premium_rate, plan.shared_cost),
            *(plan.personal_number, plan.voip, plan.pager, plan.uan, plan.voicemail),
        )
        if kind and kind.national_number_pattern
    }
    return re.compile("|".join(f"(?:{pattern})" for pattern in sorted(patterns)))


def _format(trunk: str, form: NumberFormat) -> tuple[re.Pattern[str], re.Pattern[str], bool]:
    rule = form.national_prefix_formatting_rule or ""
    needs_trunk = bool(trunk) and trunk in rule and not form.national_prefix_optional_when_formatting
    leading = form.leading_digits_pattern[-1] if form.leading_digits_pattern else ""
    return re.compile(leading), re.compile(form.pattern or ""), needs_trunk


@cache
def _international(code: int) -> tuple[re.Pattern[str], str]:
    """The national numbers under a country code, and the trunk prefix of its main region."""
    regions = COUNTRY_CODE_TO_REGION_CODE[code]
    if regions == ("001",):
        plans = [PhoneMetadata.metadata_for_nongeo_region(code, None)]
    else:
        plans = [PhoneMetadata.metadata_for_region(region, None) for region in regions]
    known = [plan for plan in plans if plan is not None]
    return _valid(known), known[0].national_prefix or ""


def is_international(digits: str) -> bool:
    """Whether digits, country code first, are a number of some plan; a trunk prefix after the code is passed over."""
    for length in (1, 2, 3):
        code = int(digits[:length])
        if code in COUNTRY_CODE_TO_REGION_CODE:
            valid, trunk = _international(code)
            national = digits[length:]
            stripped = national.removeprefix(trunk)
            return bool(valid.fullmatch(national) or (stripped != national and valid.fullmatch(stripped)))
    return False


class _Plans:
    """The plans of some regions, and what can be told of all of them at once."""

    def __init__(self, regions: Sequence[str]) -> None:
        plans = {plan.valid.pattern: plan for plan in map(_plan, regions)}
        self._plans = tuple(plans.values())
        self._valid = re.compile("|".join(plan.written() for plan in self._plans)) if plans else None

    def admit(self, digits: str, is_international: bool) -> bool:
        """Whether the digits alone could be a number."""
        if is_international or digits.startswith("00"):
            return len(digits) <= _MOST + 2
        return self._valid is not None and self._valid.fullmatch(digits) is not None

    def score(self, written: _Written) -> float:
        digits = written.digits
        if written.is_international:
            return SURE if is_international(digits) else 0.0
        if len(set(digits)) < 3 or (written.groups in _DATES and _DATE.fullmatch(written.text)):
            return 0.0
        if digits.startswith("00") and len(digits) > 9 and is_international(digits[2:]):
            return WRITTEN if len(written.groups) > 1 else WEAK
        best = 0.0
        for plan in self._plans:
            best = max(best, plan.score(written))
            if best >= WRITTEN:
                break
        return best


def phones(regions: Sequence[str] = REGIONS) -> Recognizer:
    """The recognizer of numbers with any country code, and without one of these regions. Raises ValueError."""
    plans = _Plans(regions)

    def find(source: Source, first: int, last: int) -> Iterator[Candidate]:
        data, beyond = source.data, 0
        for match in matches(_SHAPE, data, first, last, _WIDTH):
            start, end = match.span(1)
            if end - start < _FEWEST or start < beyond or _is_part(data, start):
                continue
            for candidate in _longest(data, start, end, plans):
                beyond = candidate.end
                yield candidate

    return Recognizer("PHONE_NUMBER", TRIGGER, find, reach_of(TRIGGER) + len("+ ("))


def _is_part(data: bytes, start: int) -> bool:
    """Whether what is before makes the digits a part of something else."""
    if data[start - 1 : start] not in _JOINTS:
        return False
    return _PART_BEFORE.search(data, max(0, start - 10), start) is not None


def _longest(data: bytes, start: int, limit: int, plans: _Plans) -> Iterator[Candidate]:
    """The longest number from here, to the end of a group."""
    is_international = data[start] == 0x2B
    spans = [group.span() for group in _GROUPS.finditer(data, start, limit)]
    ends = list(accumulate(last - first for first, last in spans))
    digits = digits_of(data[start:limit]).decode()
    for count in range(len(spans), 0, -1):
        if ends[count - 1] < _FEWEST:
            return
        number = digits[: ends[count - 1]]
        if not plans.admit(number, is_international):
            continue
        end = spans[count - 1][1]
        extension = _EXTENSION.match(data, end)
        if _PART_AFTER.match(data, end) and not extension:
            continue
        lengths = tuple(last - first for first, last in spans[:count])
        weight = plans.score(_Written(number, lengths, is_international, data[start:end]))
        if weight:
            yield Candidate(start, extension.end() if extension else end, "PHONE_NUMBER", weight)
            return
