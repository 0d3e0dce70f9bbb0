"""Which directions there are."""

from collections.abc import Mapping

from extproc.dialects import paths
from extproc.dialects.translate.chat_to_anthropic import CHAT_TO_ANTHROPIC
from extproc.dialects.translate.chat_to_gemini import CHAT_TO_GEMINI
from extproc.dialects.translate.direction import Direction
from extproc.dialects.translate.embeddings_to_gemini import EMBEDDINGS_TO_GEMINI
from extproc.dialects.translate.messages_to_chat import MESSAGES_TO_CHAT
from extproc.dialects.translate.responses_to_chat import RESPONSES_TO_CHAT
from extproc.model import Backend, Dialect, Target
from extproc.surfaces import Place, Surface

DIRECTIONS: Mapping[tuple[Surface, Dialect], Direction] = {
    (Surface.CHAT, Dialect.ANTHROPIC): CHAT_TO_ANTHROPIC,
    (Surface.CHAT, Dialect.GEMINI): CHAT_TO_GEMINI,
    (Surface.EMBEDDINGS, Dialect.GEMINI): EMBEDDINGS_TO_GEMINI,
    (Surface.MESSAGES, Dialect.OPENAI): MESSAGES_TO_CHAT,
    (Surface.MESSAGES, Dialect.AZURE): MESSAGES_TO_CHAT,
    (Surface.RESPONSES, Dialect.OPENAI): RESPONSES_TO_CHAT,
    (Surface.RESPONSES, Dialect.AZURE): RESPONSES_TO_CHAT,
}
"""By the surface that clients call and the dialect of a backend that does not serve it natively."""

_CAPS = ("max_tokens", "max_completion_tokens")


def needed(backend: Backend, surface: Surface) -> Direction | None:
    """What carries a call of the surface to the backend; None where it needs nothing, or nothing would help."""
    if paths.serves(backend, surface):
        return None
    chats = backend.dialect in (Dialect.OPENAI, Dialect.AZURE)  # what these carry they carry as chats
    return None if chats and not paths.serves(backend, Surface.CHAT) else DIRECTIONS.get((surface, backend.dialect))


def path(target: Target, place: Place, query: str, stream: bool) -> str:
    """`:path` of an attempt, query included; the caller's `query` goes along where the call is not translated."""
    direction = needed(target.backend, place.surface)
    if direction is None:
        return paths.upstream(target, place, query)
    operation = direction.path(target.model, stream)
    if target.backend.dialect in (Dialect.OPENAI, Dialect.AZURE):
        return paths.of_operation(target, operation, "", paths.names_model_in_path(target.backend, Surface.CHAT))
    return target.backend.prefix + operation


def name_cap(request: dict[str, object], field: str) -> None:
    """Have the bound on the output in the field in which the backend reads it: in another one it would bind nobody."""
    for name in _CAPS:
        if name != field and name in request:
            request[field] = request.pop(name)
