"""Errors of Google's APIs in the shape of OpenAI's.

They are `{"error": {code, message, status, details: [...]}}`, alone or as the one item of a list.
"""

from collections.abc import Mapping

import orjson

_CREDENTIALS = frozenset({"UNAUTHENTICATED", "PERMISSION_DENIED"})
_SAID = {
    "INVALID_ARGUMENT": ("invalid_request_error", "invalid_value"),
    "FAILED_PRECONDITION": ("invalid_request_error", "invalid_value"),
    "OUT_OF_RANGE": ("invalid_request_error", "invalid_value"),
    "UNAUTHENTICATED": ("api_error", "upstream_credentials_refused"),
    "PERMISSION_DENIED": ("api_error", "upstream_credentials_refused"),
    "NOT_FOUND": ("invalid_request_error", "model_not_found"),
    "RESOURCE_EXHAUSTED": ("rate_limit_error", "rate_limit_exceeded"),
}
_STATUSES = {
    400: "INVALID_ARGUMENT",
    401: "UNAUTHENTICATED",
    403: "PERMISSION_DENIED",
    404: "NOT_FOUND",
    429: "RESOURCE_EXHAUSTED",
}
_TOO_LONG = "exceeds the maximum number of tokens"

UNREADABLE: Mapping[str, object] = {
    "error": {
        "message": "The backend's answer could not be read.",
        "type": "api_error",
        "param": None,
        "code": None,
    }
}


def load(body: bytes) -> dict[str, object] | None:
    """A document or the data of an event as an object; of a list its first item. None where there is none."""
    try:
        value = orjson.loads(body)
    except ValueError:
        return None
    if isinstance(value, list) and value:
        value = value[0]
    return value if isinstance(value, dict) else None


def openai(answer: Mapping[str, object] | None, status: int) -> dict[str, object]:
    """The error in an answer. `status`: of HTTP, for where the error does not name its own."""
    error = answer.get("error") if answer else None
    said: Mapping[str, object] = error if isinstance(error, dict) else {}
    name = said.get("status")
    if not isinstance(name, str):
        code = said.get("code")
        name = _STATUSES.get(code if isinstance(code, int) else status, "")
    if _is_key(said.get("details")):  # an invalid key is no 401 here
        name = "UNAUTHENTICATED"
    message = said.get("message")
    if not isinstance(message, str) or not message:
        message = f"The backend answered with status {status}."
    if name in _CREDENTIALS:
        message = "The backend refused the credentials of the gateway."  # Google's own words may quote the key
    kind, code_ = _SAID.get(name, ("api_error", name.lower() or None))
    if _TOO_LONG in message:
        code_ = "context_length_exceeded"
    return {"error": {"message": message, "type": kind, "param": None, "code": code_}}


def _is_key(details: object) -> bool:
    """Whether details of type `google.rpc.ErrorInfo` say that the key is at fault."""
    reasons = [item.get("reason") for item in details if isinstance(item, dict)] if isinstance(details, list) else []
    return any(isinstance(reason, str) and reason.startswith("API_KEY_") for reason in reasons)
