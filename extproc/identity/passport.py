"""The signed identity of a caller, for self-hosted backends: `x-sluice-identity`, a JWT (RFC 7519, HS256).

Made by hand because it is made on the call path: one HMAC over a header that never varies.
"""

import base64
import hashlib
import hmac
from collections.abc import Sequence

import orjson

from extproc.model import Caller

LIFE = 300  # seconds; a backend looks at it when the request arrives, retries included


def _base64url(data: bytes) -> bytes:
    return base64.urlsafe_b64encode(data).rstrip(b"=")


_HEADER = _base64url(b'{"alg":"HS256","typ":"JWT"}') + b"."


def sign(caller: Caller, audience: Sequence[str], request_id: str, now: float, key: bytes) -> str:
    """The token for the backends of these names; `now` is Unix time.

    It names them and the call, so that one that it reaches cannot use it elsewhere or with another call.
    """
    team = caller.team
    claims = {
        "iss": "sluice",
        "aud": audience,
        "sub": _subject(caller),
        "user": caller.user,
        "service_account": caller.service_account,
        "team": team.name if team else None,
        "area": team.area if team else None,
        "key": caller.key_id,
        "issuer": caller.issuer,
        "environment": caller.environment,
        "request_id": request_id,
        "iat": int(now),
        "exp": int(now) + LIFE,
    }
    signed = _HEADER + _base64url(orjson.dumps({name: value for name, value in claims.items() if value is not None}))
    return (signed + b"." + _base64url(hmac.digest(key, signed, hashlib.sha256))).decode()


def _subject(caller: Caller) -> str:
    """Whom to hold to account, with its kind: a user and a service account may have one name."""
    if caller.user is not None:
        return f"user:{caller.user}"
    if caller.service_account is not None:
        return f"service_account:{caller.team.name if caller.team else ''}/{caller.service_account}"
    return f"key:{caller.key_id}"
