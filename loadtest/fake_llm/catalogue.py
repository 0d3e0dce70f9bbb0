"""Models, moderations and reranking: the small operations beside generation."""

import orjson

from loadtest.fake_llm import content, tokenizer, turn
from loadtest.fake_llm.answer import CREATED, Answer, Json
from loadtest.fake_llm.errors import ApiError, Face
from loadtest.fake_llm.inquiry import Inquiry

MODELS = (
    "gpt-4o",
    "gpt-4o-mini",
    "gpt-4o-transcribe",
    "gpt-image-1",
    "text-embedding-3-small",
    "whisper-1",
    "claude-sonnet-5-5",
)
FLAG = "[flag]"
"""A text that contains this is flagged by the moderation call."""

_CATEGORIES = (
    "harassment",
    "harassment/threatening",
    "hate",
    "hate/threatening",
    "illicit",
    "illicit/violent",
    "self-harm",
    "self-harm/instructions",
    "self-harm/intent",
    "sexual",
    "sexual/minors",
    "violence",
    "violence/graphic",
)


def models(inquiry: Inquiry) -> Answer:
    """Answer the list of models, or the one named. Raises ApiError (404) for one that is not there."""
    describe = _anthropic_model if inquiry.face is Face.ANTHROPIC else _openai_model
    if not inquiry.item:
        return Answer(body=orjson.dumps(_list(inquiry.face, [describe(name) for name in MODELS])))
    if inquiry.item not in MODELS:
        message = f"The model '{inquiry.item}' does not exist"
        raise ApiError(404, message, param="model", code="model_not_found")
    return Answer(body=orjson.dumps(describe(inquiry.item)))


def moderate(inquiry: Inquiry) -> Answer:
    """Answer a moderation call, one result for each text; see FLAG."""
    given = inquiry.need("input")
    texts = given if isinstance(given, list) and all(isinstance(one, str) for one in given) else [given]
    whole = {
        "id": inquiry.id("modr-"),
        "model": inquiry.body.get("model") or "omni-moderation-latest",
        "results": [_moderation(FLAG in content.text_of(text)) for text in texts],
    }
    return Answer(body=orjson.dumps(whole), input_tokens=sum(content.count(text) for text in texts))


def rerank(inquiry: Inquiry) -> Answer:
    """Answer a rerank call: documents by the share of the query's words that they hold, best first."""
    model, query, documents = inquiry.model, inquiry.need("query"), inquiry.need("documents")
    texts = [one if isinstance(one, str) else str(one.get("text", "")) for one in documents]
    scored = [(_overlap(query, text), index) for index, text in enumerate(texts)]
    best = sorted(scored, key=lambda pair: (-pair[0], pair[1]))[: inquiry.body.get("top_n") or len(scored)]
    read = sum(tokenizer.count(text) for text in (query, *texts))
    whole: Json = {
        "id": inquiry.id("rerank-"),
        "model": model,
        "results": [
            {"index": index, "relevance_score": score, "document": {"text": texts[index]}} for score, index in best
        ],
    }
    for reported in turn.reported({"total_tokens": read}, inquiry.faults):
        whole["usage"] = reported
    return Answer(body=orjson.dumps(whole), input_tokens=read)


def _openai_model(name: str) -> Json:
    return {"id": name, "object": "model", "created": CREATED, "owned_by": "fake"}


def _anthropic_model(name: str) -> Json:
    return {"type": "model", "id": name, "display_name": name, "created_at": "2026-01-01T00:00:00Z"}


def _list(face: Face, listed: list[Json]) -> Json:
    if face is Face.ANTHROPIC:
        return {"data": listed, "has_more": False, "first_id": MODELS[0], "last_id": MODELS[-1]}
    return {"object": "list", "data": listed}


def _moderation(flagged: bool) -> Json:
    return {
        "flagged": flagged,
        "categories": {name: flagged and name == "violence" for name in _CATEGORIES},
        "category_scores": {name: 0.99 if flagged and name == "violence" else 0.01 for name in _CATEGORIES},
        "category_applied_input_types": {name: ["text"] for name in _CATEGORIES},
    }


def _overlap(query: str, text: str) -> float:
    asked = {word.strip().lower() for word in tokenizer.split(query)}
    held = {word.strip().lower() for word in tokenizer.split(text)}
    return len(asked & held) / len(asked) if asked else 0.0
