"""Which backend can serve which surface, and under which path."""

from urllib.parse import quote, unquote_plus

from extproc.model import Backend, Dialect, Target
from extproc.surfaces import OPERATION_PATHS, Place, Surface

_AZURE = frozenset(
    {
        Surface.CHAT,
        Surface.COMPLETIONS,
        Surface.EMBEDDINGS,
        Surface.RESPONSES,
        Surface.RESPONSE_ITEM,
        Surface.TRANSCRIPTIONS,
        Surface.TRANSLATIONS,
        Surface.SPEECH,
        Surface.IMAGES,
        Surface.IMAGE_EDITS,
    }
)
_SERVES = {
    Dialect.OPENAI: _AZURE | {Surface.MODERATIONS, Surface.RERANK},
    Dialect.AZURE: _AZURE,
    Dialect.ANTHROPIC: frozenset({Surface.MESSAGES, Surface.COUNT_TOKENS}),
    Dialect.GEMINI: frozenset(),  # its own surface is none of ours
}
_WITHOUT_DEPLOYMENT = frozenset({Surface.RESPONSES, Surface.RESPONSE_ITEM})
_API_VERSION = "api-version"
_V1_API_VERSIONS = frozenset({"v1", "preview", "latest"})  # what Azure's /openai/v1 still takes as api-version


def serves(backend: Backend, surface: Surface) -> bool:
    """Whether the backend has this operation in its own dialect."""
    return surface in _SERVES[backend.dialect] and (backend.surfaces is None or surface in backend.surfaces)


def names_model_in_path(backend: Backend, surface: Surface) -> bool:
    """Whether the path, not the body, tells this backend the model."""
    return backend.api_version is not None and surface not in _WITHOUT_DEPLOYMENT


def reports_stream_usage(backend: Backend) -> bool:
    """Whether the backend knows `stream_options`; Azure's legacy API has it since 2024-09-01-preview."""
    return backend.api_version is None or backend.api_version >= "2024-09-01"


def upstream(target: Target, place: Place, query: str) -> str:
    """`:path` for this target, query included. `query` is the caller's, without the question mark."""
    backend = target.backend
    if backend.dialect is Dialect.ANTHROPIC:
        suffix = "/v1/messages/count_tokens" if place.surface is Surface.COUNT_TOKENS else "/v1/messages"
        return _join(backend.prefix + suffix, query)
    return of_operation(target, _operation(place), query, names_model_in_path(backend, place.surface))


def of_operation(target: Target, operation: str, query: str, names_model: bool) -> str:
    """`:path` of one of OpenAI's operations, where the path names the model or not."""
    backend = target.backend
    if backend.dialect is Dialect.OPENAI:
        return _join(f"{backend.prefix}{backend.version}{operation}", _query(query, None))
    if backend.api_version is None:
        return _join(f"{backend.prefix}/openai/v1{operation}", _v1_query(query))
    base = f"{backend.prefix}/openai"
    if names_model:
        base += f"/deployments/{quote(target.model, safe='')}"
    return _join(base + operation, _query(query, backend.api_version))


def _operation(place: Place) -> str:
    if place.surface is Surface.RESPONSE_ITEM:
        return f"/responses/{place.item}{place.action}"
    return OPERATION_PATHS[place.surface]


def _join(path: str, query: str) -> str:
    return f"{path}?{query}" if query else path


def _query(query: str, api_version: str | None) -> str:
    """The caller's query with our api-version, or with none, in place of the caller's; the rest as it was."""
    kept = [part for part in query.split("&") if part and _parameter(part)[0] != _API_VERSION]
    if api_version is not None:
        kept.append(f"{_API_VERSION}={api_version}")
    return "&".join(kept)


def _v1_query(query: str) -> str:
    given = [value for name, value in map(_parameter, query.split("&")) if name == _API_VERSION]
    return query if _V1_API_VERSIONS.issuperset(given) else _query(query, None)


def _parameter(part: str) -> tuple[str, str]:
    """A parameter as Azure reads it: the case of its name does not matter."""
    name, _, value = part.partition("=")
    return unquote_plus(name).lower(), unquote_plus(value)
