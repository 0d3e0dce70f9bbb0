"""The closed set of ways to say no, and how each surface says it.

Every refusal has a status, a public code, a message that says what to do, who is to blame, and whether
trying again can help. The SDKs act on the status and on `x-should-retry`; a `Retry-After` is sent only
where waiting helps, because some SDKs sleep whatever it says.
"""

from enum import StrEnum

import orjson

from extproc.surfaces import Face
from extproc.values import frozen


class Blame(StrEnum):
    CLIENT = "client"
    UPSTREAM = "upstream"
    GATEWAY = "gateway"


@frozen
class Kind:
    """One way to say no. `code` is public and stable; it is also the metric label."""

    code: str
    status: int
    blame: Blame
    retry: bool = False


# client
UNKNOWN_URL = Kind("unknown_url", 404, Blame.CLIENT)
METHOD_NOT_ALLOWED = Kind("method_not_allowed", 405, Blame.CLIENT)
MISSING_KEY = Kind("missing_api_key", 401, Blame.CLIENT)
INVALID_KEY = Kind("invalid_api_key", 401, Blame.CLIENT)
AMBIGUOUS_KEY = Kind("ambiguous_credentials", 400, Blame.CLIENT)
INVALID_TOKEN = Kind("invalid_token", 401, Blame.CLIENT)
NO_TEAM = Kind("no_team", 403, Blame.CLIENT)
AMBIGUOUS_TEAM = Kind("ambiguous_team", 400, Blame.CLIENT)
PERMISSION_DENIED = Kind("permission_denied", 403, Blame.CLIENT)
IP_NOT_ALLOWED = Kind("ip_not_allowed", 403, Blame.CLIENT)
STOPPED = Kind("stopped", 403, Blame.CLIENT)
PRICE_UNKNOWN = Kind("price_unknown", 403, Blame.CLIENT)
UNSUPPORTED_MEDIA = Kind("unsupported_media_type", 415, Blame.CLIENT)
TOO_LARGE = Kind("request_too_large", 413, Blame.CLIENT)
INVALID_JSON = Kind("invalid_json", 400, Blame.CLIENT)
INVALID_VALUE = Kind("invalid_value", 400, Blame.CLIENT)
DUPLICATE_FIELD = Kind("duplicate_field", 400, Blame.CLIENT)
MISSING_MODEL = Kind("missing_model", 400, Blame.CLIENT)
MODEL_NOT_FOUND = Kind("model_not_found", 404, Blame.CLIENT)
UNSUPPORTED_BY_MODEL = Kind("unsupported_by_model", 400, Blame.CLIENT)
STATE_NOT_FOUND = Kind("state_not_found", 404, Blame.CLIENT)
UPGRADE_REFUSED = Kind("websocket_not_served", 426, Blame.CLIENT)
REQUEST_TIMEOUT = Kind("request_timeout", 408, Blame.CLIENT)
BAD_REQUEST = Kind("bad_request", 400, Blame.CLIENT)
RATE_LIMIT = Kind("rate_limit_exceeded", 429, Blame.CLIENT, retry=True)
QUOTA = Kind("insufficient_quota", 429, Blame.CLIENT)
SENSITIVE_DATA = Kind("sensitive_data", 400, Blame.CLIENT)
POLICY_VIOLATION = Kind("policy_violation", 400, Blame.CLIENT)
UNREADABLE_TEXT = Kind("unreadable_text", 400, Blame.CLIENT)
IDEMPOTENCY_CONFLICT = Kind("idempotency_conflict", 409, Blame.CLIENT, retry=True)
# upstream
UPSTREAM_RATE_LIMITED = Kind("upstream_rate_limited", 429, Blame.UPSTREAM, retry=True)
UPSTREAM_UNAVAILABLE = Kind("upstream_unavailable", 503, Blame.UPSTREAM, retry=True)
NOT_CACHED = Kind("not_cached", 504, Blame.CLIENT)
UPSTREAM_TIMEOUT = Kind("upstream_timeout", 504, Blame.UPSTREAM, retry=True)
STATEFUL_BACKEND_UNAVAILABLE = Kind("stateful_backend_unavailable", 503, Blame.UPSTREAM)
# gateway
NOT_READY = Kind("not_ready", 503, Blame.GATEWAY, retry=True)
OVERLOADED = Kind("overloaded", 503, Blame.GATEWAY, retry=True)
STORE_UNAVAILABLE = Kind("store_unavailable", 503, Blame.GATEWAY, retry=True)
ISSUER_UNAVAILABLE = Kind("issuer_unavailable", 503, Blame.GATEWAY, retry=True)
UNPRICED = Kind("model_unpriced", 503, Blame.GATEWAY)
POLICY_UNKNOWN = Kind("policy_unknown", 503, Blame.GATEWAY)
POLICY_FAILED = Kind("policy_failed", 503, Blame.GATEWAY, retry=True)
GATEWAY_ERROR = Kind("gateway_error", 500, Blame.GATEWAY)


@frozen
class Refusal:
    """A no for one call. `message` is written by us and never quotes the call's text; `param` names a field.

    `own_retry` and `own_status` stand in place of the kind's. `type` is the word of OpenAI's error shape
    where the status alone does not tell it.
    """

    kind: Kind
    message: str
    param: str | None = None
    headers: tuple[tuple[str, str], ...] = ()
    type: str | None = None
    own_retry: bool | None = None
    own_status: int | None = None
    limit: str | None = None  # the title of the one that refuses

    @property
    def status(self) -> int:
        return self.kind.status if self.own_status is None else self.own_status

    @property
    def retry(self) -> bool:
        return self.kind.retry if self.own_retry is None else self.own_retry


class Refused(Exception):
    """Raised inside a stage to end the call with a refusal; caught in one place, the pipeline."""

    def __init__(self, kind: Kind, message: str, param: str | None = None) -> None:
        super().__init__(kind.code)
        self.refusal = Refusal(kind, message, param)

    @classmethod
    def of(cls, refusal: Refusal) -> "Refused":
        """With a refusal that was made before."""
        refused = cls(refusal.kind, refusal.message)
        refused.refusal = refusal
        return refused


def after(wait: int) -> tuple[tuple[str, str], ...]:
    """The headers that ask for another try in so many milliseconds: the SDKs read the first, others the second."""
    return ("retry-after-ms", str(wait)), ("retry-after", str(-(-wait // 1000)))


_OPENAI_TYPES = {401: "invalid_request_error", 429: "rate_limit_error"}
_ANTHROPIC_TYPES = {
    400: "invalid_request_error",
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    409: "conflict_error",
    413: "request_too_large",
    429: "rate_limit_error",
    503: "overloaded_error",
    504: "timeout_error",
}
_SPENT = "enforced_spend_limit_reached"  # Anthropic's word for a 429 that no waiting mends


def _openai(refusal: Refusal, request_id: str) -> dict[str, object]:
    kind = _OPENAI_TYPES.get(refusal.status, "invalid_request_error" if refusal.status < 500 else "api_error")
    return {
        "error": {
            "message": refusal.message,
            "type": refusal.type or kind,
            "param": refusal.param,
            "code": refusal.kind.code,
        },
        "request_id": request_id,
    }


def _azure(refusal: Refusal, request_id: str) -> dict[str, object]:
    return {
        "error": {
            "code": refusal.kind.code,
            "message": refusal.message,
            "param": refusal.param,
            "status": refusal.status,
        },
        "request_id": request_id,
    }


def _anthropic(refusal: Refusal, request_id: str) -> dict[str, object]:
    kind = _ANTHROPIC_TYPES.get(refusal.status, "invalid_request_error" if refusal.status < 500 else "api_error")
    error: dict[str, object] = {"type": kind, "message": refusal.message, "code": refusal.kind.code}
    if refusal.kind is QUOTA:
        error["details"] = {"error_code": _SPENT}
    return {"type": "error", "error": error, "request_id": request_id}


_ENCODERS = {Face.OPENAI: _openai, Face.AZURE: _azure, Face.ANTHROPIC: _anthropic}


def encode(refusal: Refusal, face: Face, request_id: str) -> tuple[bytes, list[tuple[str, str]]]:
    """The body and headers of a refusal, in the shape of the surface that was called."""
    body = orjson.dumps(_ENCODERS[face](refusal, request_id))
    headers = [
        ("content-type", "application/json"),
        ("x-should-retry", "true" if refusal.retry else "false"),
        *refusal.headers,
    ]
    if face is Face.ANTHROPIC:
        headers.append(("request-id", request_id))
    return body, headers


def stream_error(refusal: Refusal, face: Face, request_id: str) -> bytes:
    """A refusal within an event stream that has begun: the last event, which the SDKs raise as an error."""
    return b"event: error\ndata: %s\n\n" % orjson.dumps({"type": "error", **_ENCODERS[face](refusal, request_id)})


_NO_CREDENTIAL = "failed_to_inject_credential"  # Envoy's word for a backend whose secret is missing: our fault

_ADDRESS_REFUSED = "rbac_access_denied"  # by listener.allowed_ips

_BY_STATUS = {
    408: Refusal(REQUEST_TIMEOUT, "The request did not arrive in time."),
    413: Refusal(TOO_LARGE, "The request body is larger than the gateway takes."),
    426: Refusal(UPGRADE_REFUSED, "WebSocket is not served here. Use HTTP; streams are server-sent events."),
    504: Refusal(UPSTREAM_TIMEOUT, "No backend answered in time."),
}
_UNREACHABLE = Refusal(UPSTREAM_UNAVAILABLE, "No backend of this model is reachable.")
_STATE_UNREACHABLE = Refusal(
    STATEFUL_BACKEND_UNAVAILABLE,
    "The backend that holds the state of this call is not reachable, and no other can continue it.",
)
_UNREADABLE = Refusal(BAD_REQUEST, "The request could not be read.")
_OURS = Refusal(GATEWAY_ERROR, "The gateway could not complete the call.")


def envoys(status: int, details: str, pinned: bool) -> Refusal:
    """The refusal for what Envoy itself answered, with its response code details.

    `pinned`: only one backend could serve the call. 502 is a backend that does not speak HTTP.
    """
    if details.startswith(_ADDRESS_REFUSED):
        return Refusal(IP_NOT_ALLOWED, "Calls from your network address are not allowed.")
    if status in _BY_STATUS:
        return _BY_STATUS[status]
    if status in (502, 503) and details != _NO_CREDENTIAL:
        return _STATE_UNREACHABLE if pinned else _UNREACHABLE
    return _UNREADABLE if 400 <= status < 500 else _OURS
