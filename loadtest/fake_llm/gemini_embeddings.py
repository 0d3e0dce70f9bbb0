"""Google's embeddings, of a batch of texts."""

import orjson

from loadtest.fake_llm import errors, tokenizer, turn
from loadtest.fake_llm.answer import Answer, Json
from loadtest.fake_llm.embeddings import vector
from loadtest.fake_llm.errors import ApiError
from loadtest.fake_llm.gemini_request import known
from loadtest.fake_llm.inquiry import Inquiry

_BATCH = 100
_DIMENSIONS = 3072
_REQUEST = frozenset({"model", "content", "taskType", "title", "outputDimensionality"})


def answer(inquiry: Inquiry) -> Answer:
    """Answer a batch, in its order. Raises ApiError as Google would refuse it."""
    known(inquiry.body, frozenset({"requests", "x_fake"}))
    requests = inquiry.body.get("requests") or []
    if not requests:
        raise ApiError(400, "* BatchEmbedContentsRequest.requests: is not specified\n")
    if len(requests) > _BATCH:
        raise ApiError(400, f"* BatchEmbedContentsRequest.requests: at most {_BATCH} requests can be in one batch\n")
    texts = [_text(one, inquiry.model) for one in requests]
    sizes = [one.get("outputDimensionality") or _DIMENSIONS for one in requests]
    tokens = turn.scaled(sum(map(tokenizer.count, texts)), inquiry.faults)
    whole: Json = {
        "embeddings": [{"values": vector(text, size).tolist()} for text, size in zip(texts, sizes, strict=True)]
    }
    for reported in turn.reported({"promptTokenCount": tokens}, inquiry.faults):
        whole["usageMetadata"] = reported
    body = orjson.dumps(whole, option=orjson.OPT_INDENT_2)
    return Answer(body=body, content_type=errors.GOOGLE_JSON, input_tokens=tokens)


def _text(request: Json, model: str) -> str:
    known(request, _REQUEST, "requests")
    if request.get("model") != f"models/{model}":
        raise ApiError(400, "* BatchEmbedContentsRequest.requests: the model must be that of the path\n")
    return " ".join(part["text"] for part in request["content"]["parts"])
