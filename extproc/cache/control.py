"""What a caller asks of the cache: `cache-control` as HTTP has it (RFC 9111), and x-sluice-cache-* headers."""

import re
from collections.abc import Iterator

from extproc.headers import Headers
from extproc.refusals import INVALID_VALUE, Refused
from extproc.values import frozen

MODE_HEADER = "x-sluice-cache"
TTL_HEADER = "x-sluice-cache-ttl"
THRESHOLD_HEADER = "x-sluice-cache-threshold"
HEADERS = frozenset(("cache-control", "pragma", MODE_HEADER, TTL_HEADER, THRESHOLD_HEADER))
"""Those that are read here."""

_QUOTED = re.compile(r'(?:[^",]|"[^"]*")+')
_TTL = re.compile(r"([1-9][0-9]{0,8})([smhd]?)")
_UNITS = {"": 1, "s": 1, "m": 60, "h": 3600, "d": 86_400}
_SHARE = re.compile(r"0(?:\.[0-9]{1,9})?|1(?:\.0{1,9})?")
_LONGEST = 2**31
"""Seconds of an age; a greater number is taken for this one (RFC 9111, section 1.2.2)."""


@frozen
class Control:
    """`max_age` and `ttl` are in seconds; None: as the policy says. `threshold`: a similarity to ask for at least."""

    reads: bool = True  # an answer that is kept may serve
    keeps: bool = True  # the answer may be kept
    only: bool = False  # only what is kept may serve
    max_age: float | None = None
    ttl: float | None = None
    threshold: float | None = None
    is_semantic: bool = True  # an answer to other words may serve


def read(headers: Headers) -> Control:
    """Raises Refused for a header of ours that cannot be read; what is strange in `cache-control` is passed over.

    With `no-store` the cache takes no part in the call. Of an age that cannot be read it is known only that the caller
    wants a fresh answer.
    """
    if HEADERS.isdisjoint(headers):
        return Control()
    names, max_age = _asked(headers)
    mode = _ours(headers, MODE_HEADER)
    if mode not in (None, "off", "exact"):
        raise Refused(INVALID_VALUE, f"`{MODE_HEADER}` must be `off` or `exact`.", MODE_HEADER)
    off = mode == "off" or "no-store" in names
    return Control(
        reads=not (off or "no-cache" in names or max_age == 0),
        keeps=not off,
        only="only-if-cached" in names,
        max_age=max_age,
        ttl=_ttl(_ours(headers, TTL_HEADER)),
        threshold=_threshold(_ours(headers, THRESHOLD_HEADER)),
        is_semantic=mode != "exact",
    )


def _asked(headers: Headers) -> tuple[set[str], float | None]:
    """The names of all directives, and the least age. `pragma` counts only where there is no `cache-control`."""
    given = headers.all("cache-control")
    if not given:
        is_old = any(name == "no-cache" for value in headers.all("pragma") for name, _ in _directives(value))
        return ({"no-cache"} if is_old else set()), None
    pairs = [pair for value in given for pair in _directives(value)]
    ages = [_age(value) for name, value in pairs if name == "max-age"]
    return {name for name, _ in pairs}, min(ages, default=None)


def _directives(text: str) -> Iterator[tuple[str, str]]:
    """Names and values. Where quotes are not well set, none counts: better to see a directive too many."""
    is_odd = "\\" in text or text.count('"') % 2
    for piece in text.replace('"', "").split(",") if is_odd else _QUOTED.findall(text):
        name, _, value = piece.partition("=")
        yield name.strip().lower(), value.strip().strip('"')


def _age(written: str) -> float:
    if not (written.isascii() and written.isdigit()):
        return 0
    digits = written.lstrip("0")
    return min(int(digits or "0"), _LONGEST) if len(digits) < 11 else _LONGEST


def _ours(headers: Headers, name: str) -> str | None:
    """The value of a header that may come once."""
    given = {value.strip().lower() for value in headers.all(name)}
    if len(given) > 1:
        raise Refused(INVALID_VALUE, f"`{name}` is given twice. Send it once.", name)
    return given.pop() if given else None


def _ttl(written: str | None) -> float | None:
    found = None if written is None else _TTL.fullmatch(written)
    if written is not None and found is None:
        message = f"`{TTL_HEADER}` must be at least 1 second, in seconds or like 30s, 5m, 1h, 7d."
        raise Refused(INVALID_VALUE, message, TTL_HEADER)
    return None if found is None else int(found[1]) * _UNITS[found[2]]


def _threshold(written: str | None) -> float | None:
    if written is not None and _SHARE.fullmatch(written) is None:
        raise Refused(INVALID_VALUE, f"`{THRESHOLD_HEADER}` must be a number from 0 to 1.", THRESHOLD_HEADER)
    return None if written is None else float(written)
