"""Which backend can serve which surface, and under which path."""

from urllib.parse import parse_qsl, quote, urlencode

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
}
_WITHOUT_DEPLOYMENT = frozenset({Surface.RESPONSES, Surface.RESPONSE_ITEM})
_V1_API_VERSIONS = frozenset({"v1", "preview", "latest"})  # what Azure's /openai/v1 still takes as api-version


def serves(backend: Backend, surface: Surface) -> bool:
    """Whether the backend's own dialect has this operation."""
    return surface in _SERVES[backend.dialect]


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
    operation = _operation(place)
    if backend.dialect is Dialect.OPENAI:
        return _join(f"{backend.prefix}/v1{operation}", _query(query, None))
    if backend.api_version is None:
        return _join(f"{backend.prefix}/openai/v1{operation}", _v1_query(query))
    base = f"{backend.prefix}/openai"
    if names_model_in_path(backend, place.surface):
        base += f"/deployments/{quote(target.model, safe='')}"
    return _join(base + operation, _query(query, backend.api_version))


def _operation(place: Place) -> str:
    if place.surface is Surface.RESPONSE_ITEM:
        return f"/responses/{place.item}{place.action}"
    return OPERATION_PATHS[place.surface]


def _join(path: str, query: str) -> str:
    return f"{path}?{query}" if query else path


def _query(query: str, api_version: str | None) -> str:
    """The caller's query with our api-version, or with none, in place of the caller's."""
    if "api-version" not in query:  # the usual case; any other query passes untouched
        if api_version is None:
            return query
        return f"{query}&api-version={api_version}" if query else f"api-version={api_version}"
    kept = [(name, value) for name, value in parse_qsl(query, keep_blank_values=True) if name != "api-version"]
    if api_version is not None:
        kept.append(("api-version", api_version))
    return urlencode(kept)


def _v1_query(query: str) -> str:
    given = dict(parse_qsl(query)).get("api-version") if query else None
    return query if given in _V1_API_VERSIONS else _query(query, None)
