"""Errors of OpenAI's dialect, in the shape of Anthropic's Messages."""

from collections.abc import Mapping

import orjson

_TYPES = {
    400: "invalid_request_error",
    401: "authentication_error",
    402: "billing_error",
    403: "permission_error",
    404: "not_found_error",
    409: "conflict_error",
    413: "request_too_large",
    429: "rate_limit_error",
    503: "overloaded_error",
    504: "timeout_error",
    529: "overloaded_error",
}
_TOO_LONG = "prompt is too long"
"""Claude Code makes its conversation shorter where it reads these words of Anthropic's, and only then."""
_CONTEXT = ("context_length_exceeded", "maximum context length", "context window", "context size")


def of_answer(status: int, body: bytes) -> dict[str, object]:
    """The error of an answer with status 400 and more."""
    try:
        parsed = orjson.loads(body)
    except ValueError:
        parsed = None
    told = parsed if isinstance(parsed, dict) else {}
    kind = _TYPES.get(status, "invalid_request_error" if status < 500 else "api_error")
    return _error(kind, _detail(told), f"The backend answered with status {status}.")


def of_event(event: Mapping[str, object]) -> dict[str, object] | None:
    """The error that a 200 answer or an event of its stream is; None where it is none."""
    if not event.get("error") and event.get("object") != "error":
        return None
    detail = _detail(event)
    code = detail.get("code")
    status = int(code) if isinstance(code, int) or (isinstance(code, str) and code in _CODES) else None
    return _error(_TYPES.get(status or 0) or _named(detail), detail, "The backend failed while it answered.")


def unreadable() -> dict[str, object]:
    """The error of an answer that is none."""
    return _error("api_error", {}, "The backend's answer could not be read.")


_CODES = frozenset(map(str, _TYPES))


def _detail(told: Mapping[str, object]) -> Mapping[str, object]:
    """What says more: OpenAI's `error`, or, as other servers write it, a text there, or the same without it."""
    error = told.get("error", told)
    return error if isinstance(error, dict) else {"message": error}


def _word(detail: Mapping[str, object], name: str) -> str:
    """A word or number of a provider; whatever else stands there says nothing."""
    value = detail.get(name)
    return str(value) if isinstance(value, str | int) else ""


def _named(detail: Mapping[str, object]) -> str:
    words = f"{_word(detail, 'type')} {_word(detail, 'code')}"
    known = (kind for kind in ("rate_limit", "overloaded", "invalid_request") if kind in words)
    return f"{next(known, 'api')}_error"


def _error(kind: str, detail: Mapping[str, object], otherwise: str) -> dict[str, object]:
    said = detail.get("message") or detail.get("detail")
    message = said if isinstance(said, str) else otherwise
    about = f"{_word(detail, 'code')} {message}".lower()
    if _TOO_LONG not in about and any(words in about for words in _CONTEXT):
        message = f"{_TOO_LONG}: {message}"
    return {"type": "error", "error": {"type": kind, "message": message}}
