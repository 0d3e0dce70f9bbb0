"""How each provider words an error."""

from enum import StrEnum

import orjson

from loadtest.fake_llm.answer import Answer, Json


class Face(StrEnum):
    """Whose shape an answer has."""

    OPENAI = "openai"
    AZURE = "azure"
    ANTHROPIC = "anthropic"
    GEMINI = "gemini"


class ApiError(Exception):
    """A request that the provider refuses; `param` and `code` appear where the provider's shape has them."""

    def __init__(self, status: int, message: str, *, param: str | None = None, code: str | None = None) -> None:
        super().__init__(message)
        self.status, self.message, self.param, self.code = status, message, param, code


_OPENAI_TYPES = {429: "requests"}
_OPENAI_CODES = {401: "invalid_api_key", 429: "rate_limit_exceeded"}
_ANTHROPIC_TYPES = {
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
GOOGLE_JSON = "application/json; charset=UTF-8"
_GOOGLE_STATUSES = {
    400: "INVALID_ARGUMENT",
    401: "UNAUTHENTICATED",
    403: "PERMISSION_DENIED",
    404: "NOT_FOUND",
    409: "ABORTED",
    429: "RESOURCE_EXHAUSTED",
    500: "INTERNAL",
    501: "UNIMPLEMENTED",
    503: "UNAVAILABLE",
    504: "DEADLINE_EXCEEDED",
}


def missing(name: str) -> ApiError:
    """The refusal of a call without a required field."""
    return ApiError(400, f"Missing required parameter: '{name}'.", param=name, code="missing_required_parameter")


def answer(face: Face, error: ApiError, request_id: str) -> Answer:
    """Word an error as the provider does. Azure's front has a shape of its own, its models have OpenAI's."""
    if face is Face.GEMINI:
        worded = orjson.dumps({"error": google_error(error)}, option=orjson.OPT_INDENT_2)
        return Answer(error.status, worded, GOOGLE_JSON)
    if face is Face.ANTHROPIC:
        body = {"type": "error", "error": anthropic_error(error), "request_id": request_id}
    elif face is Face.AZURE and error.status != 400:
        body = {"error": {"code": error.code or str(error.status), "message": error.message}}
    else:
        body = {"error": openai_error(error)}
    return Answer(error.status, orjson.dumps(body))


def openai_error(error: ApiError) -> Json:
    """The inner object of OpenAI's error shape."""
    fallback = "server_error" if error.status >= 500 else "invalid_request_error"
    return {
        "message": error.message,
        "type": _OPENAI_TYPES.get(error.status, fallback),
        "param": error.param,
        "code": error.code or _OPENAI_CODES.get(error.status),
    }


def anthropic_error(error: ApiError) -> Json:
    """The inner object of Anthropic's error shape."""
    return {"type": _ANTHROPIC_TYPES.get(error.status, "api_error"), "message": error.message}


def google_error(error: ApiError) -> Json:
    """The inner object of the error shape of Google's APIs."""
    status = _GOOGLE_STATUSES.get(error.status, "UNKNOWN")
    return {"code": error.status, "message": error.message, "status": status}
