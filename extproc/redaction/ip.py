"""Public IP addresses. Private ones, those of examples and of the machine itself tell nothing of anybody.

Four numbers are a version, a section or a part of an object identifier as often as an address: they are one of those
after a word or a sign that says so, and where more numbers follow or come before.
"""

import ipaddress
import re
from bisect import bisect_right
from collections.abc import Iterator

from extproc.redaction.normalise import Source
from extproc.redaction.patterns import ALNUM, WORD, Candidate, Recognizer, bounded, matches

_OCTET = r"(?:25[0-5]|2[0-4][0-9]|1[0-9]{2}|[1-9]?[0-9])"
_V4 = rf"{_OCTET}(?:\.{_OCTET}){{3}}"
_V4_SHAPE = bounded(_V4, ALNUM, ALNUM)
_V6_SHAPE = bounded(rf"[0-9A-Fa-f:]{{1,40}}:{_V4}|[0-9A-Fa-f:]{{2,45}}+(?!\.[0-9])", rf"{WORD}:.", rf"{WORD}:")

_LOOKED_BACK = 80
_PART_BEFORE = re.compile(rb"(?:[0-9A-Za-z_]\.|[0-9A-Za-z]-|(?:^|[^/\w.:\-])[A-Za-z]{1,20}/|[=~><!]=\ ?|[\^~])\Z")
_JOINTS = b".-/=^~"  # with which that ends, but for a space
_PART_AFTER = re.compile(rb"\.[0-9a-z]|[\-+][A-Za-z]|-[0-9]+(?![0-9.])")
_WORD = re.compile(rb"[A-Za-z_]+")
_ENDS_PHRASE = re.compile(rb"[,;!?\n]|\. ")
_FILLERS = frozenset(b"is was to from at no number and or v".split())
_VERSIONS = frozenset(
    b"""version versions ver app_version release releases rel build firmware oid revision rev upgrade upgraded
    downgraded driver sdk patch kernel section sec chapter clause article annex appendix paragraph table figure fig step
    assemblyversion fileversion productversion appversion package""".split()
)
_HEADING_BEFORE = re.compile(rb"(?:\A|\n)[#\ ]*\Z")
_HEADING_AFTER = re.compile(rb" +[A-Z][a-z]")

_LOCAL = (
    # First and last address of each block that is not public: RFC 6890, and multicast.
    ("0.0.0.0", "0.255.255.255"),  # noqa: S104 - a block, not an address to listen on
    ("10.0.0.0", "10.255.255.255"),
    ("100.64.0.0", "100.127.255.255"),
    ("127.0.0.0", "127.255.255.255"),
    ("169.254.0.0", "169.254.255.255"),
    ("172.16.0.0", "172.31.255.255"),
    ("192.0.0.0", "192.0.0.255"),
    ("192.0.2.0", "192.0.2.255"),
    ("192.168.0.0", "192.168.255.255"),
    ("198.18.0.0", "198.19.255.255"),
    ("198.51.100.0", "198.51.100.255"),
    ("203.0.113.0", "203.0.113.255"),
    ("224.0.0.0", "255.255.255.255"),
)


def _octets(address: str) -> tuple[int, ...]:
    return tuple(map(int, address.split(".")))


_FIRSTS = [_octets(first) for first, _ in _LOCAL]
_LASTS = [_octets(last) for _, last in _LOCAL]


def is_public_v4(address: str) -> bool:
    """Of four numbers up to 255."""
    octets = _octets(address)
    return octets > _LASTS[bisect_right(_FIRSTS, octets) - 1]


def is_public_v6(address: str) -> bool:
    """False too for what is no address, and for words of code that could be one: `dead::beef`, `a::b1`."""
    if "::" not in address and address.count(":") < 6:
        return False
    groups = [group for group in address.split(":") if group]
    is_short = len(groups) < 3 and max(map(len, groups), default=0) < 3
    if is_short or not any(map(str.isdigit, address)):
        return False
    try:
        parsed = ipaddress.IPv6Address(address)
    except ValueError:
        return False
    if parsed.ipv4_mapped:
        return is_public_v4(str(parsed.ipv4_mapped))
    return parsed.is_global and not parsed.is_multicast


def _find_v4(source: Source, first: int, last: int) -> Iterator[Candidate]:
    for match in matches(_V4_SHAPE, source.data, first, last, 15):
        start, end = match.span(1)
        if is_public_v4(match[1].decode()) and not _is_part(source, start, end):
            yield Candidate(start, end, "IP_ADDRESS", 0.6)


def _is_part(source: Source, start: int, end: int) -> bool:
    """Whether the four numbers are part of more, or a version, or a heading's."""
    data = source.data
    before = data[max(0, start - _LOOKED_BACK) : start]
    has_joint = before.rstrip(b" ")[-1:] in _JOINTS
    if (has_joint and _PART_BEFORE.search(before[-24:])) or _PART_AFTER.match(data, end) or _is_version(before):
        return True
    if b"\xc2" in before[-2:] and "§" in source.value(start - 2, start):
        return True
    is_heading = _HEADING_AFTER.match(data, end) and _HEADING_BEFORE.search(before)
    return bool(is_heading) and max(_octets(data[start:end].decode())) < 32


def _is_version(before: bytes) -> bool:
    """Whether the phrase ends in a word for a version, or in one, a number and an `and`."""
    for word in reversed(list(_WORD.finditer(before))):
        if word[0].lower() in _FILLERS:
            continue
        return word[0].lower() in _VERSIONS and not _ENDS_PHRASE.search(before, word.end())
    return False


def _find_v6(source: Source, first: int, last: int) -> Iterator[Candidate]:
    for match in matches(_V6_SHAPE, source.data, first, last, 60):
        value = match[1].decode()
        if value.endswith(":") and not value.endswith("::"):
            value = value[:-1]
        if value.count(":") > 1 and is_public_v6(value):
            yield Candidate(match.start(1), match.start(1) + len(value), "IP_ADDRESS", 0.6)


ADDRESSES = (
    Recognizer("IP_ADDRESS", r"[0-9]\.[0-9]{1,3}\.[0-9]{1,3}\.[0-9]", _find_v4),
    Recognizer("IP_ADDRESS", r":[0-9A-Fa-f]{0,4}:", _find_v6),
)
