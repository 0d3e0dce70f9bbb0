"""Which API surface a path belongs to: the closed list of what the gateway serves."""

import re
from enum import StrEnum

from extproc.values import frozen


class Surface(StrEnum):
    """An operation of a provider's API, whatever spelling of the path reached us."""

    CHAT = "chat"
    COMPLETIONS = "completions"
    EMBEDDINGS = "embeddings"
    RESPONSES = "responses"
    RESPONSE_ITEM = "response_item"
    MODELS = "models"
    MODEL_ITEM = "model_item"
    TRANSCRIPTIONS = "transcriptions"
    TRANSLATIONS = "translations"
    SPEECH = "speech"
    IMAGES = "images"
    IMAGE_EDITS = "image_edits"
    MODERATIONS = "moderations"
    RERANK = "rerank"
    MESSAGES = "messages"
    COUNT_TOKENS = "count_tokens"
    ME = "me"
    READY = "ready"

    __hash__ = str.__hash__  # Enum's own is a function of Python, called for every look into a table

    @property
    def key(self) -> str:
        """The name by which settings and keys allow it: what belongs together has one."""
        return _BELONGS_TO.get(self, self).value


_BELONGS_TO = {
    Surface.RESPONSE_ITEM: Surface.RESPONSES,
    Surface.MODEL_ITEM: Surface.MODELS,
    Surface.COUNT_TOKENS: Surface.MESSAGES,
}
ALLOWABLE = tuple(surface.value for surface in Surface if surface not in _BELONGS_TO and surface is not Surface.READY)
"""The names of surfaces in settings, team files and keys."""


class Face(StrEnum):
    """Whose error shape and path spelling the caller expects."""

    OPENAI = "openai"
    AZURE = "azure"
    ANTHROPIC = "anthropic"


MULTIPART = frozenset({Surface.TRANSCRIPTIONS, Surface.TRANSLATIONS, Surface.IMAGE_EDITS})
"""Surfaces whose body is multipart/form-data and streams through."""


@frozen
class Place:
    """Where a path leads. `deployment` and `item` are path parameters, `action` follows an item's id."""

    surface: Surface
    face: Face
    methods: tuple[str, ...] = ("POST",)
    deployment: str | None = None
    item: str | None = None
    action: str = ""


# What follows /v1 (OpenAI), /openai/v1 (Azure v1) and /openai/deployments/{deployment} (Azure legacy).
_OPERATIONS = {
    "/chat/completions": Surface.CHAT,
    "/completions": Surface.COMPLETIONS,
    "/embeddings": Surface.EMBEDDINGS,
    "/audio/transcriptions": Surface.TRANSCRIPTIONS,
    "/audio/translations": Surface.TRANSLATIONS,
    "/audio/speech": Surface.SPEECH,
    "/images/generations": Surface.IMAGES,
    "/images/edits": Surface.IMAGE_EDITS,
}
_V1_ONLY = {
    "/responses": Surface.RESPONSES,
    "/moderations": Surface.MODERATIONS,
    "/rerank": Surface.RERANK,
}
OPERATION_PATHS = {surface: path for path, surface in (_OPERATIONS | _V1_ONLY).items()}

_ID = r"[A-Za-z0-9_.:\-]{1,128}"
_DEPLOYMENT = re.compile(rf"/openai/deployments/({_ID})(/[a-z/]+)")
_MODEL_ITEM = re.compile(r"(/v1|/openai/v1|/openai|/anthropic/v1)/models/([\x21-\x7e]{1,200})")
_RESPONSE_ITEM = re.compile(rf"(/v1|/openai/v1|/openai)/responses/({_ID})(|/cancel|/input_items)")
_ITEM_FACES = {"/v1": Face.OPENAI, "/anthropic/v1": Face.ANTHROPIC}  # else Azure's
_ITEM_METHODS = {"": ("GET", "DELETE"), "/cancel": ("POST",), "/input_items": ("GET",)}


def _exact_paths() -> dict[str, Place]:
    places: dict[str, Place] = {}
    for base, face in (("/v1", Face.OPENAI), ("/openai/v1", Face.AZURE)):
        for path, surface in (_OPERATIONS | _V1_ONLY).items():
            places[base + path] = Place(surface, face)
        places[f"{base}/models"] = Place(Surface.MODELS, face, ("GET",))
    places["/openai/responses"] = Place(Surface.RESPONSES, Face.AZURE)
    places["/openai/models"] = Place(Surface.MODELS, Face.AZURE, ("GET",))
    for base in ("/v1", "/anthropic/v1"):
        places[f"{base}/messages"] = Place(Surface.MESSAGES, Face.ANTHROPIC)
        places[f"{base}/messages/count_tokens"] = Place(Surface.COUNT_TOKENS, Face.ANTHROPIC)
    places["/anthropic/v1/models"] = Place(Surface.MODELS, Face.ANTHROPIC, ("GET",))
    places["/v1/me"] = Place(Surface.ME, Face.OPENAI, ("GET",))
    places["/readyz"] = Place(Surface.READY, Face.OPENAI, ("GET", "HEAD"))
    return places


_EXACT = _exact_paths()


def locate(path: str) -> Place | None:
    """The place of a normalised path without query, or None for a path that is not served."""
    place = _EXACT.get(path)
    if place is not None:
        return place
    if found := _DEPLOYMENT.fullmatch(path):
        surface = _OPERATIONS.get(found[2])
        return None if surface is None else Place(surface, Face.AZURE, deployment=found[1])
    if found := _RESPONSE_ITEM.fullmatch(path):
        base, item, action = found.groups()
        face = _ITEM_FACES.get(base, Face.AZURE)
        return Place(Surface.RESPONSE_ITEM, face, _ITEM_METHODS[action], item=item, action=action)
    if found := _MODEL_ITEM.fullmatch(path):
        return Place(Surface.MODEL_ITEM, _ITEM_FACES.get(found[1], Face.AZURE), ("GET",), item=found[2])
    return None


def face_of(path: str) -> Face:
    """The error shape for a path that is not served: whose API it most looks like."""
    if path.startswith("/openai"):
        return Face.AZURE
    if path.startswith("/anthropic") or "/messages" in path:
        return Face.ANTHROPIC
    return Face.OPENAI


def suggestion(path: str) -> str | None:
    """The served path that the caller probably meant: `/v1` missing or written twice."""
    base, _, rest = path.removeprefix("/").partition("/")
    for candidate in (f"/v1{path}", f"/{base}/v1/{rest}", path.replace("/v1/v1/", "/v1/", 1), path.rstrip("/")):
        if candidate != path and locate(candidate) is not None:
            return candidate
    return None
