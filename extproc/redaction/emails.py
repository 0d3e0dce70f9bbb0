"""E-mail addresses whose domain ends in a top-level domain that exists. Nothing is fetched to know that.

Presidio's pattern is quadratic in what may stand before the `@`, and takes neighbouring Chinese text and `email=` for a
part of the address. Here both sides are read from the `@`: up to 64 characters before, and a domain after.
"""

import re
from collections.abc import Iterator

from extproc.redaction.domains import is_top_level
from extproc.redaction.normalise import Source
from extproc.redaction.patterns import Candidate, Recognizer

LONGEST_LOCAL = 64
_LOCAL = b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz\xc0._%+-'&~!#$*"
_NOT_FIRST = b".'&~!#$*%"
_AT = re.compile(rb"@|%40")
_DOMAINS = (
    re.compile(rb"[0-9A-Za-z\xc0][0-9A-Za-z\xc0_\-]{0,62}+(?>(?:\.[0-9A-Za-z\xc0][0-9A-Za-z\xc0_\-]{0,62}+){1,8})"),
    # With letters of any script; tried only where the first is none, since they may belong to the text around.
    re.compile(rb"[0-9A-Za-z\xc0\xc1][\w\xc0\xc1\-]{0,62}+(?>(?:\.[0-9A-Za-z\xc0\xc1][\w\xc0\xc1\-]{0,62}+){1,8})"),
)
_WITHOUT_MAILBOX = frozenset((b"git", b"hg"))
"""Before the host of a repository, as in `git@example.com:path`."""


def _find(source: Source, first: int, last: int) -> Iterator[Candidate]:
    data = source.data
    for at in _AT.finditer(data, first, min(last + LONGEST_LOCAL + 3, len(data))):
        start = _start(data, at.start())
        if first <= start <= last and start < at.start() and not _is_repository(data, start, at.start()):
            end = _end(source, at.end())
            if end:
                yield Candidate(start, end, "EMAIL_ADDRESS", 1.0)


def _start(data: bytes, at: int) -> int:
    """Where the mailbox begins whose name ends here; here if there is none."""
    before = data[max(0, at - LONGEST_LOCAL) : at]
    local = before[len(before.rstrip(_LOCAL)) :]
    return at if local.endswith(b".") else at - len(local.lstrip(_NOT_FIRST))


def _is_repository(data: bytes, start: int, at: int) -> bool:
    """Or the user in front of a host, as in `ssh://user@host`."""
    return data[start:at] in _WITHOUT_MAILBOX or data[max(0, start - 3) : start] == b"://"


def _end(source: Source, start: int) -> int:
    """Where the domain ends that begins here, after the last label that is a top-level domain; 0 if there is none."""
    for domain in _DOMAINS:
        match = domain.match(source.data, start)
        end = _public_end(source, match) if match else 0
        if end:
            return end
    return 0


def _public_end(source: Source, match: re.Match[bytes]) -> int:
    start, end = match.span()
    while (dot := source.data.rfind(b".", start, end)) > start:
        label = source.data[dot + 1 : end].rstrip(b"-_")
        last = dot + 1 + len(label)
        name = label.decode() if label.isascii() else source.value(dot + 1, last)
        if is_top_level(name):
            return last
        end = dot
    return 0


EMAILS = Recognizer("EMAIL_ADDRESS", r"@|%40", _find, LONGEST_LOCAL + 3)
