"""From a whole HTTP request to the answer of the operation that it names."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from types import MappingProxyType

import orjson

from loadtest.fake_llm import (
    anthropic,
    catalogue,
    chat,
    completions,
    embeddings,
    errors,
    gemini,
    gemini_embeddings,
    media,
    multipart,
    responses,
)
from loadtest.fake_llm import faults as fault_reader
from loadtest.fake_llm.answer import Answer, Json
from loadtest.fake_llm.errors import ApiError, Face
from loadtest.fake_llm.faults import Faults, FaultsError
from loadtest.fake_llm.inquiry import Inquiry
from loadtest.fake_llm.instance import Instance
from loadtest.fake_llm.multipart import MultipartError
from loadtest.fake_llm.paths import Place, find

_OPERATIONS: Mapping[str, Callable[[Inquiry], Answer]] = MappingProxyType(
    {
        "chat": chat.answer,
        "completions": completions.answer,
        "embeddings": embeddings.answer,
        "responses": responses.create,
        "response": responses.item,
        "messages": anthropic.answer,
        "count_tokens": anthropic.count_tokens,
        "generate_content": gemini.answer,
        "embed_contents": gemini_embeddings.answer,
        "transcriptions": media.transcribe,
        "speech": media.speak,
        "images": media.paint,
        "models": catalogue.models,
        "moderations": catalogue.moderate,
        "rerank": catalogue.rerank,
    }
)


_BODYLESS = frozenset({204, 205, 304})


@dataclass(frozen=True, slots=True)
class Request:
    """A whole HTTP request; header names in lower case, the first of equal ones wins."""

    method: str
    path: str
    query: str
    headers: Mapping[str, str]
    body: bytes


@dataclass(frozen=True, slots=True)
class _Content:
    """A body that was read. `problem` says why it could not be; a fault comes before it."""

    fields: Json
    files: Mapping[str, tuple[str, bytes]] = field(default_factory=dict)
    problem: str = ""


def answer(request: Request, instance: Instance) -> tuple[Answer, Faults]:
    """Answer a request, and say which faults its delivery shall have.

    Faults come from the script while it has any, then from the `x-fake` header, or `x-stainless-fake`, which gateways
    pass on, then the body's `x_fake`.
    """
    place = find(request.path, request.query, request.headers)
    serial = next(instance.serials)
    request_id = f"req_{instance.name}{serial:06d}"
    content = _read(request)
    faults = fault_reader.NONE
    try:
        faults = _faults(request, content, instance)
        inquiry = _inquiry(place, request, content, faults, instance, serial)
        given = _instead(faults, place.face, request_id) or _operate(place, request, content, inquiry)
    except (ApiError, FaultsError, KeyError, TypeError, ValueError, AttributeError) as problem:
        given = errors.answer(place.face, _refusal(problem), request_id)
    if place.face is Face.GEMINI:
        faults = replace(faults, crlf=True)  # as the lines of its streams end
    model = str(place.deployment or content.fields.get("model", ""))
    return replace(_dressed(given, faults, _identity(place.face, request_id)), model=model), faults


def _inquiry(
    place: Place, request: Request, content: _Content, faults: Faults, instance: Instance, serial: int
) -> Inquiry:
    return Inquiry(
        face=place.face,
        instance=instance.name,
        serial=serial,
        faults=faults,
        store=instance.store,
        method=request.method,
        body=content.fields,
        headers=request.headers,
        files=content.files,
        deployment=place.deployment,
        item=place.item,
        action=place.action,
    )


def _refusal(problem: Exception) -> ApiError:
    match problem:
        case ApiError():
            return problem
        case FaultsError():
            return ApiError(400, str(problem), code="bad_x_fake")
        case _:  # a field of a wrong type deep inside; a provider would name it, here a 400 is enough
            return ApiError(400, f"Invalid request: {type(problem).__name__}: {problem}")


def _operate(place: Place, request: Request, content: _Content, inquiry: Inquiry) -> Answer:
    if not place.operation:
        message = "Resource not found" if place.face is Face.AZURE else f"Invalid URL ({request.method} {request.path})"
        raise ApiError(404, message)
    if request.method not in place.methods:
        message = f"Not allowed to {request.method} on {request.path}."
        raise ApiError(405, message, code="method_not_supported")
    if content.problem:
        raise ApiError(400, content.problem)
    return _OPERATIONS[place.operation](inquiry)


# ---- reading -------------------------------------------------------------------------------------


def _read(request: Request) -> _Content:
    content_type = request.headers.get("content-type", "")
    if content_type.startswith("multipart/form-data"):
        try:
            form = multipart.read(content_type, request.body)
        except MultipartError as problem:
            return _Content({}, problem=str(problem))
        return _Content(dict(form.fields), form.files)
    if request.method in ("GET", "DELETE") or (not request.body and request.path.endswith("/cancel")):
        return _Content({})
    try:
        fields = orjson.loads(request.body)
    except orjson.JSONDecodeError:
        return _Content({}, problem="We could not parse the JSON body of your request.")
    if not isinstance(fields, dict):
        return _Content({}, problem="The body of your request must be a JSON object.")
    return _Content(fields)


def _faults(request: Request, content: _Content, instance: Instance) -> Faults:
    if instance.script:
        return instance.script.popleft()
    headers = request.headers
    given = headers.get("x-fake", headers.get("x-stainless-fake", content.fields.get("x_fake")))
    if given is None:
        return fault_reader.NONE
    if isinstance(given, str):
        try:
            given = orjson.loads(given)
        except orjson.JSONDecodeError:
            raise FaultsError("x_fake is not JSON") from None
    return fault_reader.parse(given)


# ---- what faults put in place of an answer, and on top of it ---------------------------------------


def _instead(faults: Faults, face: Face, request_id: str) -> Answer | None:
    if faults.status in _BODYLESS:
        raise FaultsError(f"x_fake status: {faults.status} has no body, which is not served")
    if faults.error_body is not None:
        return Answer(faults.status or 500, faults.error_body.encode(), faults.error_content_type)
    if faults.html:
        page = b"<!doctype html><html><body><h1>Sign in</h1></body></html>"
        return Answer(faults.status or 200, page, "text/html; charset=utf-8")
    status = faults.status or (500 if faults.error_in_200 else 200)
    if status == 200:
        return None
    worded = errors.answer(face, ApiError(status, f"The fake was asked to answer {status}."), request_id)
    return replace(worded, status=200) if faults.error_in_200 else worded


def _dressed(given: Answer, faults: Faults, headers: tuple[tuple[str, str], ...]) -> Answer:
    if faults.retry_after is not None:
        headers += (("retry-after", str(faults.retry_after)),)
    if faults.retry_after_ms is not None:
        headers += (("retry-after-ms", str(faults.retry_after_ms)),)
    headers += tuple((faults.headers or {}).items())
    return replace(given, headers=headers, body=_padded(given.body, faults.pad_bytes))


def _padded(body: bytes, size: int) -> bytes:
    """A JSON object of at least `size` bytes, by one more field."""
    if len(body) >= size or not body.endswith(b"}"):
        return body
    return body[:-1] + b',"padding":"' + b"x" * (size - len(body)) + b'"}'


def _identity(face: Face, request_id: str) -> tuple[tuple[str, str], ...]:
    """The headers by which a provider names a call."""
    match face:
        case Face.ANTHROPIC:
            return (("request-id", request_id), ("anthropic-organization-id", "org_fake"))
        case Face.GEMINI:  # which has no id, and this on each
            return (("server-timing", "gfet4t7; dur=1"),)
        case Face.AZURE:
            return (("apim-request-id", request_id), ("x-request-id", request_id), ("x-ms-region", "Fake"))
        case _:
            return (
                ("x-request-id", request_id),
                ("openai-version", "2020-10-01"),
                ("openai-processing-ms", "1"),
            )
