"""Which operation a path names, and in whose shape its answers are."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from urllib.parse import parse_qs, unquote

from loadtest.fake_llm.errors import Face

_POSTED = {
    "chat/completions": "chat",
    "completions": "completions",
    "embeddings": "embeddings",
    "audio/transcriptions": "transcriptions",
    "audio/translations": "transcriptions",
    "audio/speech": "speech",
    "images/generations": "images",
    "images/edits": "images",
}
_POSTED_V1 = _POSTED | {"responses": "responses", "moderations": "moderations", "rerank": "rerank"}

_GEMINI_OPERATIONS = {"generateContent": "generate_content", "batchEmbedContents": "embed_contents"}

_OPENAI = re.compile(r"/(?P<azure>openai/)?v1/(?P<rest>.+)")
_AZURE_DEPLOYMENT = re.compile(r"/openai/deployments/(?P<deployment>[^/]+)/(?P<rest>.+)")
_AZURE = re.compile(r"/openai/(?P<rest>(?:responses|models)(?:/.+)?)")
_MESSAGES = re.compile(r"(?:/anthropic)?/v1/messages(?P<count>/count_tokens)?")
_GEMINI = re.compile(r"/v1beta/models/(?P<model>[^/:]+):(?P<operation>[A-Za-z]+)")
_RESPONSE = re.compile(r"responses/(?P<item>[^/]+)(?:/(?P<action>cancel|input_items))?")
_MODELS = re.compile(r"models(?:/(?P<item>.+))?")


@dataclass(frozen=True, slots=True)
class Place:
    """Where a path leads. `operation` is empty for a path that the provider does not have."""

    face: Face
    operation: str = ""
    methods: tuple[str, ...] = ("POST",)
    deployment: str = ""
    item: str = ""
    action: str = ""


def find(path: str, query: str, headers: Mapping[str, str]) -> Place:
    """Route a call. `/v1/models` belongs to two providers: `anthropic-version` tells which one is meant."""
    if found := _MESSAGES.fullmatch(path):
        return Place(Face.ANTHROPIC, "count_tokens" if found["count"] else "messages")
    if path.startswith("/anthropic/"):
        return Place(Face.ANTHROPIC)
    if found := _OPENAI.fullmatch(path):
        place = _v1(Face.AZURE if found["azure"] else Face.OPENAI, found["rest"])
        anthropic = place.operation == "models" and "anthropic-version" in headers
        return replace(place, face=Face.ANTHROPIC) if anthropic else place
    if path.startswith("/v1beta/"):
        return _gemini(path, query)
    if path.startswith("/openai/"):
        return _azure_legacy(path) if "api-version" in parse_qs(query) else Place(Face.AZURE)
    return Place(Face.OPENAI)


def _gemini(path: str, query: str) -> Place:
    """Of streams those that are events, and not one long JSON array."""
    found = _GEMINI.fullmatch(path)
    if found is None:
        return Place(Face.GEMINI)
    operation, model = found["operation"], unquote(found["model"])
    if operation == "streamGenerateContent" and parse_qs(query).get("alt") == ["sse"]:
        return Place(Face.GEMINI, "generate_content", deployment=model, action="stream")
    return Place(Face.GEMINI, _GEMINI_OPERATIONS.get(operation, ""), deployment=model)


def _azure_legacy(path: str) -> Place:
    if found := _AZURE_DEPLOYMENT.fullmatch(path):
        deployment, operation = unquote(found["deployment"]), _POSTED.get(found["rest"], "")
        return Place(Face.AZURE, operation, deployment=deployment)
    found = _AZURE.fullmatch(path)
    return _v1(Face.AZURE, found["rest"]) if found else Place(Face.AZURE)


def _v1(face: Face, rest: str) -> Place:
    if rest in _POSTED_V1:
        return Place(face, _POSTED_V1[rest])
    if found := _RESPONSE.fullmatch(rest):
        methods = ("GET", "DELETE", "POST")
        return Place(face, "response", methods, item=unquote(found["item"]), action=found["action"] or "")
    if found := _MODELS.fullmatch(rest):
        return Place(face, "models", ("GET",), item=unquote(found["item"] or ""))
    return Place(face)
