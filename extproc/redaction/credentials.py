"""Secrets by the shapes that their issuers give them: a prefix, an alphabet, a length.

A value that repeats itself, or says that it is an example, is none. Keys without a shape, forty characters of an AWS
secret or 32 hexadecimal digits of Twilio's, are looked for only near a word that names them.
"""

import base64
import binascii
import json
import re
from collections.abc import Iterator
from dataclasses import replace

from extproc.redaction.normalise import Source
from extproc.redaction.patterns import Candidate, Recognizer, apart, bounded, matches, shaped

_NAME = r"0-9A-Za-z_\-"
_NOT_AFTER = r"0-9A-Za-z+/\-"  # not within Base64 or a longer name
_PLACEHOLDER = re.compile(
    rb"example|sample|dummy|placeholder|redacted|changeme|change_me|replace|insert|your|xxxx|000000|\*\*|\.\.\.|123456789"
    rb"|abcdefgh|aaaaa|<|\$\{|\{\{|%s",
    re.IGNORECASE,
)


def is_random(text: bytes) -> bool:
    """Whether the characters of a key differ as those of a random one do, and say nothing."""
    return len(set(text)) >= min(10, len(text) // 3 + 2) and not _PLACEHOLDER.search(text)


def is_told(text: bytes) -> bool:
    """Whether a private key is written out, and not hinted at."""
    return len(set(text)) > 10 and not re.search(rb"\.\.\.|example|your|redacted|xxxx", text, re.IGNORECASE)


def _random_score(text: bytes) -> float:
    return 0.9 if is_random(text) else 0.0


_BODY_BEGINS = r"[0-9A-Za-z_+/=\-]{6}"


def _key(entity: str, prefix: str, body: str, width: int = 80) -> Recognizer:
    """Keys of a vendor: a prefix that is scanned for, and what follows it."""
    length = len(prefix)

    def score(value: bytes) -> float:
        return _random_score(value[min(length, len(value) // 3) :])

    return shaped(
        entity,
        prefix + body,
        score,
        trigger=prefix + _BODY_BEGINS,
        not_after=_NOT_AFTER,
        not_before=_NAME,
        width=width,
    )


_LONG = 400
_VENDORS = (
    # Entity, prefix, rest, longest.
    ("ANTHROPIC_API_KEY", r"sk-ant-", rf"(?:[a-z0-9]{{3,12}}-)?[{_NAME}]{{20,200}}", 240),
    ("OPENAI_API_KEY", r"sk-", rf"(?!ant-|sluice-|or-v1-)(?:[a-z]{{2,10}}-)?[0-9A-Za-z][{_NAME}]{{18,200}}", 240),
    ("API_KEY", r"sk-sluice-", r"[0-9A-Za-z]{49}", 80),
    ("API_KEY", r"sk-or-v1-", r"[0-9a-f]{64}", 80),
    ("AWS_ACCESS_KEY", r"(?:AKIA|ASIA|ABIA|ACCA|A3T[0-9A-Z])", r"[0-9A-Z]{16}", 24),
    ("GCP_KEY", r"AIza", rf"[{_NAME}]{{35}}", 48),
    ("GCP_KEY", r"GOCSPX-", rf"[{_NAME}]{{28}}", 48),
    ("GCP_KEY", r"ya29\.", rf"[{_NAME}]{{20,300}}", _LONG),
    ("GITHUB_TOKEN", r"gh[pousr]_", r"[0-9A-Za-z]{36,251}", _LONG),
    ("GITHUB_TOKEN", r"github_pat_", r"[0-9A-Za-z]{22}_[0-9A-Za-z]{59}", 96),
    (
        "GITLAB_TOKEN",
        r"gl(?:pat|dt|rt|cbt|ptt|ft|imt|agent|soat|ffct)-",
        rf"[{_NAME}]{{20,64}}(?:\.[0-9a-z.]{{2,20}})?",
        96,
    ),
    ("HUGGINGFACE_TOKEN", r"hf_", r"[0-9A-Za-z]{34,40}", 64),
    ("HUGGINGFACE_TOKEN", r"api_org_", r"[0-9A-Za-z]{34}", 64),
    ("NPM_TOKEN", r"npm_", r"[0-9A-Za-z]{36}", 64),
    ("PYPI_TOKEN", r"pypi-", rf"AgE[{_NAME}]{{50,300}}", _LONG),
    ("SENDGRID_KEY", r"SG\.", rf"[{_NAME}]{{20,24}}\.[{_NAME}]{{39,50}}", 96),
    ("SLACK_TOKEN", r"xox[abceoprs]-", r"(?:[0-9]-)?[0-9A-Za-z\-]{10,250}", _LONG),
    ("SLACK_TOKEN", r"xapp-", r"[0-9]-[0-9A-Z]{8,14}-[0-9]{8,16}-[0-9a-f]{48,80}", 160),
    ("STRIPE_KEY", r"[sr]k_(?:live|test)_", r"[0-9A-Za-z]{16,200}", _LONG),
    ("STRIPE_KEY", r"whsec_", r"[0-9A-Za-z+/=]{24,64}", 96),
    ("TWILIO_KEY", r"SK", r"[0-9a-f]{32}", 48),
    ("API_KEY", r"gsk_", r"[0-9A-Za-z]{40,60}", 80),
    ("API_KEY", r"xai-", r"[0-9A-Za-z]{60,100}", 120),
    ("API_KEY", r"pplx-", r"[0-9A-Za-z]{40,60}", 80),
    ("API_KEY", r"r8_", r"[0-9A-Za-z]{37}", 48),
    ("API_KEY", r"do[opr]_v1_", r"[0-9a-f]{64}", 80),
    ("API_KEY", r"shp(?:at|ca|pa|ss)_", r"[0-9A-Fa-f]{32}", 48),
    ("API_KEY", r"dapi", r"[0-9a-f]{32}(?:-[0-9])?", 48),
    ("API_KEY", r"hv[sbr]\.", rf"[{_NAME}]{{24,200}}", _LONG),
    ("API_KEY", r"lin_api_", r"[0-9A-Za-z]{40}", 64),
    ("API_KEY", r"ntn_", r"[0-9A-Za-z]{40,50}", 64),
    ("API_KEY", r"glsa_", r"[0-9A-Za-z]{32}_[0-9a-f]{8}", 64),
    ("API_KEY", r"NRAK-", r"[0-9A-Z]{27}", 48),
    ("API_KEY", r"sbp_", r"[0-9a-f]{40}", 64),
    ("API_KEY", r"dckr_pat_", rf"[{_NAME}]{{27}}", 48),
    ("API_KEY", r"dp\.(?:pt|st|ct|sa|scim|audit)\.", r"(?:[a-z0-9_\-]{2,35}\.)?[0-9A-Za-z]{40,44}", 96),
    ("API_KEY", r"tskey-", r"[a-z]{2,12}-[0-9A-Za-z]{8,20}(?:-[0-9A-Za-z]{16,40})?", 96),
    ("API_KEY", r"ATATT3", r"[0-9A-Za-z_=\-]{60,250}", _LONG),
    ("API_KEY", r"rubygems_", r"[0-9a-f]{48}", 64),
    ("API_KEY", r"AGE-SECRET-KEY-1", r"[0-9A-Z]{58}", 80),
    ("API_KEY", r"sntry[su]_", r"[0-9A-Za-z_+/=\-]{40,300}", _LONG),
)

# ---- keys that are told by their middle or their end ----

_AZURE = (
    shaped(
        "AZURE_KEY",
        r"[0-9A-Za-z]{52}JQQJ9[0-9A-Z][0-9A-Za-z]{26}",
        _random_score,
        trigger="JQQJ9",
        not_after=_NAME,
        not_before=_NAME,
        width=96,
    ),
    shaped(
        "AZURE_KEY",
        r"[0-9A-Za-z_~.]{3}[0-9]Q~[0-9A-Za-z_~.\-]{31,34}",
        _random_score,
        trigger="[0-9]Q~",
        not_after=_NAME + "~.",
        not_before=_NAME + "~",
    ),
    # What it is told by is its end.
    replace(
        shaped(
            "AZURE_KEY",
            r"[0-9A-Za-z+/]{86}==",
            _random_score,
            trigger="[0-9A-Za-z+/]{16}==",
            not_after=r"0-9A-Za-z+/\-",  # as in `sha512-…`, the digest of a package
            width=96,
        ),
        reach=96,
    ),
    shaped("API_KEY", r"[0-9]{8,10}:AA[0-9A-Za-z_\-]{33}", _random_score, trigger=":AA", not_before=_NAME),
)

# ---- JSON Web Tokens ----


def _token_score(token: bytes) -> float:
    """1 where the first part is the header of a signed or an encrypted token."""
    header = token.partition(b".")[0]
    try:
        decoded = json.loads(base64.urlsafe_b64decode(header + b"=" * (-len(header) % 4)))
    except (binascii.Error, ValueError, RecursionError):
        return 0.0
    return 1.0 if isinstance(decoded, dict) and "alg" in decoded else 0.0


_PART = rf"[{_NAME}]"
_SHAPE = bounded(
    rf"eyJ{_PART}{{8,4096}}+\.(?:eyJ{_PART}{{2,16384}}+\.{_PART}{{0,4096}}+"
    rf"|{_PART}{{0,4096}}+\.{_PART}{{8,256}}+\.{_PART}{{2,16384}}+\.{_PART}{{8,256}}+)",
    _NAME,
    _NAME,
)


def _find_token(source: Source, first: int, last: int) -> Iterator[Candidate]:
    for match in apart(_SHAPE, source.data, first, last, 30_000):
        weight = _token_score(match[1])
        if weight:
            yield Candidate(*match.span(1), "JWT", weight)


_TOKENS = Recognizer("JWT", r"eyJ[0-9A-Za-z_\-]{8}", _find_token)

# ---- private keys ----

_LONGEST_KEY = 16_384
_SHORTEST_KEY = 40  # characters of Base64
_BEGIN = re.compile(rb"-----BEGIN (?:[A-Z0-9]{2,10} ){0,3}PRIVATE KEY(?: BLOCK)?-----")
_END = re.compile(rb"END (?:[A-Z0-9]{2,10} ){0,3}PRIVATE KEY(?: BLOCK)?-----")
# Lines as they come out of mails, logs and diffs, too: quoted, numbered, escaped more than once.
_BODY = re.compile(rb"(?>(?:[0-9A-Za-z+/=:,. \r\n\t\"'>|#*]|-(?!----)|\\+[nrt])*)")


def _find_private_key(source: Source, first: int, last: int) -> Iterator[Candidate]:
    data = source.data
    for begin in matches(_BEGINS, data, first, last, 80):
        start, end = begin.span(1)
        body = _BODY.match(data, end, end + _LONGEST_KEY)
        if body and len(body[0].translate(None, b" \r\n\t\\\"'")) >= _SHORTEST_KEY:
            closing = _END.match(data, body.end() + 5) if data.startswith(b"-----", body.end()) else None
            # Without its last line it is as secret.
            finish = closing.end() if closing else end + len(body[0].rstrip())
            if is_told(body[0]):
                yield Candidate(start, finish, "PRIVATE_KEY", 1.0)


_BEGINS = bounded(_BEGIN.pattern.decode(), "", "")
_PRIVATE_KEYS = Recognizer("PRIVATE_KEY", r"-----BEGIN (?:[A-Z0-9]{2,10} ){0,3}PRIVATE KEY", _find_private_key)

# ---- keys without a shape, beside a word that names them ----


def _unshaped(entity: str, length: int, alphabet: str, not_beside: str) -> Recognizer:
    """The trigger matches once in each run of the alphabet, so that a megabyte of Base64 is one match."""
    return shaped(
        entity,
        rf"[{alphabet}]{{{length}}}",
        lambda value: 0.1 if is_random(value) and _is_mixed(value) else 0.0,
        trigger=rf"(?:^|[^{alphabet}])[{alphabet}]{{{length}}}",
        not_after=not_beside,
        not_before=not_beside + "=",
    )


def _is_mixed(value: bytes) -> bool:
    """With digits and letters, in both cases unless hexadecimal."""
    one_case = value in (value.lower(), value.upper())
    return not value.isalpha() and not value.isdigit() and (not one_case or len(value) == 32)


_NAMED = (
    _unshaped("AWS_SECRET_KEY", 40, "0-9A-Za-z+/", "0-9A-Za-z+/"),
    _unshaped("AZURE_KEY", 32, "0-9a-f", r"0-9A-Za-z\-"),
    _unshaped("TWILIO_KEY", 32, "0-9a-f", r"0-9A-Za-z\-"),
)

VENDOR_KEYS = tuple(_key(*vendor) for vendor in _VENDORS)
SECRETS = (*VENDOR_KEYS, *_AZURE, _TOKENS, _PRIVATE_KEYS, *_NAMED)
