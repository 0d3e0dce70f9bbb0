"""The signed identity of a caller, for self-hosted backends: `x-sluice-identity`, a JWT (RFC 7519, HS256).

Made by hand because it is made on the call path: one HMAC over a header that never varies.
"""

import base64
import hashlib
import hmac

import orjson

from extproc.model import Caller

LIFE = 300  # seconds; a backend looks at it when the request arrives, retries included


def _base64url(data: bytes) -> bytes:
    return base64.urlsafe_b64encode(data).rstrip(b"=")


_HEADER = _base64url(b'{"alg":"HS256","typ":"JWT"}') + b"."


def sign(caller: Caller, request_id: str, now: float, key: bytes) -> str:
    """The token; `now` is Unix time. It names the call, so that it is of no use with another."""
    team = caller.team
    claims = {
        "iss": "sluice",
        "sub": caller.user or caller.service_account or caller.key_id,
        "team": team.name if team else None,
        "area": team.area if team else None,
        "credential": caller.key_id,
        "environment": caller.environment,
        "request_id": request_id,
        "iat": int(now),
        "exp": int(now) + LIFE,
    }
    signed = _HEADER + _base64url(orjson.dumps({name: value for name, value in claims.items() if value is not None}))
    return (signed + b"." + _base64url(hmac.digest(key, signed, hashlib.sha256))).decode()
