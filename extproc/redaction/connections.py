"""Connection strings that hold a password: URLs, `Key=value;` lists, and what JDBC and libpq read.

The whole string is the value, since where it leads is as telling as the password. A password that is a variable, a
mask or an ellipsis is none.
"""

import re
from collections.abc import Iterator

from extproc.redaction.normalise import Source
from extproc.redaction.patterns import Candidate, Recognizer, apart, bounded, matches

_ENTITY = "CONNECTION_STRING"
_WIDTH = 1024
_NONE = re.compile(
    # a variable or a template at its beginning, or in braces; a mask; a word that stands for one, by itself
    rb"\A(?:[$<{\[*]|%[A-Za-z({])|\$[{(]|\{\{|#\{|\.{3}|\Ax{3,}\Z"
    rb"|(?:\A|[_.-])(?:(?:db)?(?:password|passwd|pass|pwd|pw|secret)\Z|your|(?:redacted|changeme|placeholder|masked|hidden)\b)"
    rb"|\xc2|process\.env|os\.(?:environ|getenv)|\Aenv\b",
    re.IGNORECASE,
)
_ENDING = b".,;:)]}\\"

# `user:password@host` behind any scheme.
_URL = bounded(
    r"[A-Za-z][0-9A-Za-z+.\-]{1,30}+://[^\s:@/\"'<>`]{0,128}+:([^\s@/\"'<>`]{1,256}+)@[^\s\"'<>`|,@]{1,512}+"
    r"(?:,[0-9A-Za-z][^\s\"'<>`|,@]{1,128}+){0,8}",
    r"0-9A-Za-z+.\-",
    "",
)

_SECRET_KEY = rb"(?i:password|pwd|accountkey|sharedaccesskey|sharedaccesssignature|sharedsecretvalue)"
_PASSWORD = re.compile(rb"(?:^|[;?&,\s])\s*" + _SECRET_KEY + rb"\s*=\s*([^;&,\s\"'<>`]+)")
_FIRST_KEY = (
    r"(?i:server|data source|host|hostaddr|addr|address|network address|endpoint|defaultendpointsprotocol|accountname"
    r"|accountendpoint|user id|userid|uid|user|username|database|dbname|initial catalog|driver|provider|port|hostname)"
)
_PAIRS = bounded(
    rf"{_FIRST_KEY}\s?=\s?[^;\n\"'<>`]{{1,256}}+"
    r"(?>(?:;\s?[A-Za-z][0-9A-Za-z_ ]{1,40}\s?=\s?[^;\n\"'<>`]{0,256}){1,16});?",
    r"0-9A-Za-z_",
    "",
)
_WORDS = bounded(
    rf"{_FIRST_KEY}=[^\s;\"'<>`]{{1,256}}+(?>(?: [a-z_]{{2,24}}=[^\s;\"'<>`]{{1,256}}+){{1,12}})", r"0-9A-Za-z_", ""
)
_JDBC = bounded(r"jdbc:[a-z0-9]{2,20}(?::[a-z0-9]{2,20}){0,2}:(?://|@)[^\s\"'<>`]{1,1024}+", r"0-9A-Za-z", "")
_CACHE = bounded(
    r"[0-9A-Za-z.\-]{3,128}+:[0-9]{2,5},(?>(?:[A-Za-z]{2,24}=[^,\s\"'<>`]{1,256},?){1,12})", r"0-9A-Za-z.\-", ""
)


def _find_url(source: Source, first: int, last: int) -> Iterator[Candidate]:
    for match in matches(_URL, source.data, first, last, _WIDTH):
        if is_password(match[2]):
            yield Candidate(match.start(1), match.start(1) + len(match[1].rstrip(_ENDING)), _ENTITY, 1.0)


def is_password(value: bytes) -> bool:
    """Not a variable, a mask or a word that stands for one."""
    return not _NONE.search(value)


def _find_pairs(source: Source, first: int, last: int) -> Iterator[Candidate]:
    for shape in (_PAIRS, _WORDS, _JDBC, _CACHE):
        for match in apart(shape, source.data, first, last, 2 * _WIDTH):
            value = _without_prose(match[1]) if shape is _PAIRS else match[1].rstrip(_ENDING)
            password = _PASSWORD.search(value)
            if password and is_password(password[1]):
                yield Candidate(match.start(1), match.start(1) + len(value), _ENTITY, 1.0)


def _without_prose(value: bytes) -> bytes:
    """The list without the words that follow its last value."""
    head, semicolon, pair = value.rstrip().rpartition(b";")
    key, equals, last = pair.partition(b"=")
    if not last.strip():
        return head + semicolon
    return (head + semicolon + key + equals + last.split(None, 1)[0]).rstrip(_ENDING)


CONNECTIONS = (
    Recognizer(_ENTITY, r"://", _find_url),
    Recognizer(
        _ENTITY,
        r"(?i)(?:password|pwd|accountkey|sharedaccesskey|sharedaccesssignature|sharedsecretvalue)\s?=",
        _find_pairs,
        reach=_WIDTH,
    ),
)
