"""Anthropic's errors in OpenAI's shape: `{error: {message, type, param, code}}`."""

import orjson

from extproc.dialects.translate.direction import Json

_TYPES = {
    400: "invalid_request_error",
    401: "authentication_error",
    402: "billing_error",
    403: "permission_error",
    404: "not_found_error",
    413: "request_too_large",
    429: "rate_limit_error",
    504: "timeout_error",
    529: "overloaded_error",
}
"""Anthropic's types by status, for an error that says none: one of whatever stands before it."""
_WORDS: dict[str, tuple[str, str | None]] = {
    "invalid_request_error": ("invalid_request_error", None),
    "authentication_error": ("invalid_request_error", "invalid_api_key"),
    "billing_error": ("insufficient_quota", "insufficient_quota"),
    "permission_error": ("invalid_request_error", "permission_denied"),
    "not_found_error": ("invalid_request_error", "model_not_found"),  # nothing else is asked for by name
    "request_too_large": ("invalid_request_error", "request_too_large"),
    "rate_limit_error": ("rate_limit_error", "rate_limit_exceeded"),
    "timeout_error": ("api_error", "timeout"),
    "overloaded_error": ("api_error", "overloaded"),
    "api_error": ("api_error", None),
}
"""OpenAI's type and code for Anthropic's type."""
_TOO_LONG = ("prompt is too long", "exceed context limit")


def unreadable() -> dict[str, object]:
    """The error where what came is no answer."""
    return _error("The backend's answer cannot be read.", "api_error", None)


def loaded(data: bytes) -> dict[str, object] | None:
    """The object that this is in JSON; None where it is none."""
    try:
        value = orjson.loads(data)
    except ValueError:
        return None
    return value if isinstance(value, dict) else None


def translated(answer: Json, status: int) -> dict[str, object]:
    """The error in an answer, `{type: "error", error: {type, message, details?}}`, or of its status alone."""
    said = answer.get("error")
    error = said if isinstance(said, dict) else {}
    kind, message = error.get("type"), error.get("message")
    if not isinstance(kind, str) or kind not in _WORDS:
        kind = _TYPES.get(status, "invalid_request_error" if status < 500 else "api_error")
    if not isinstance(message, str) or not message:
        message = f"The backend answered with status {status}."
    type_, code = _WORDS[kind]
    if any(words in message for words in _TOO_LONG):
        code = "context_length_exceeded"
    elif _is_spent(error.get("details")):
        type_ = code = "insufficient_quota"
    return _error(message, type_, code)


def _is_spent(details: object) -> bool:
    """Whether a limit of money is reached, which no waiting mends."""
    code = details.get("error_code") if isinstance(details, dict) else None
    return isinstance(code, str) and code.endswith("spend_limit_reached")


def _error(message: str, kind: str, code: str | None) -> dict[str, object]:
    return {"error": {"message": message, "type": kind, "param": None, "code": code}}
