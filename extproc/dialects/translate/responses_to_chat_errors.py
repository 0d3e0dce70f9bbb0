"""Errors of servers of chat completions, as the Responses API tells them.

Both have OpenAI's `{"error": {message, type, param, code}}`; but many servers write it in another way.
"""

from collections.abc import Mapping
from typing import NamedTuple

import orjson

_FAILED = "server_error"
_TYPES = {400: "invalid_request_error", 401: "authentication_error", 403: "permission_error", 429: "rate_limit_error"}
_CODES = {429: "rate_limit_exceeded"}
_PARAMS = {
    "messages": "input",
    "max_tokens": "max_output_tokens",
    "response_format": "text.format",
    "reasoning_effort": "reasoning.effort",
    "verbosity": "text.verbosity",
}
_REFUSED = "The backend refused the credentials of the gateway."  # whose words might quote them


class Failure(NamedTuple):
    """Why a response failed that had begun."""

    message: str
    code: str = _FAILED


UNREADABLE = Failure("The backend's answer could not be read.")
STOPPED = Failure("The backend failed while it answered.")


def in_answer(answer: Mapping[str, object]) -> Failure | None:
    """The error that an answer with status 200 is, or a chunk of its stream; None where it is none."""
    if not answer.get("error") and answer.get("object") != "error":
        return None
    detail = _detail(answer)
    code = detail.get("code")
    if isinstance(code, int):
        code = _CODES.get(code)
    return Failure(_message(detail) or STOPPED.message, code if isinstance(code, str) and code else _FAILED)


def of_status(status: int, body: bytes) -> dict[str, object]:
    """The body of an answer with status 400 and more."""
    try:
        parsed = orjson.loads(body)
    except ValueError:
        parsed = None
    detail = _detail(parsed) if isinstance(parsed, dict) else {}
    kind, code, param = detail.get("type"), detail.get("code"), detail.get("param")
    message = _REFUSED if status == 401 else _message(detail) or f"The backend answered with status {status}."
    otherwise = _FAILED if status >= 500 else _TYPES.get(status, _TYPES[400])
    return {
        "error": {
            "message": message,
            "type": kind if isinstance(kind, str) else otherwise,
            "param": _PARAMS.get(param, param) if isinstance(param, str) else None,
            "code": code if isinstance(code, str) else _CODES.get(status),
        }
    }


def _detail(told: Mapping[str, object]) -> Mapping[str, object]:
    """What says more: `error`, which some servers make a text, or the same without it."""
    error = told.get("error") or told
    return error if isinstance(error, dict) else {"message": error}


def _message(detail: Mapping[str, object]) -> str | None:
    said = detail.get("message") or detail.get("detail")
    return said if isinstance(said, str) else None
