"""Requests of OpenAI's Responses API, and what ties them to the backend that holds their state."""

from extproc.dialects import fields
from extproc.dialects.fields import Object
from extproc.dialects.json_spans import Shape
from extproc.dialects.openai_chat import model_span
from extproc.metering import estimate
from extproc.model import Prompt, StateReference
from extproc.refusals import INVALID_VALUE, Refused

_PART = Shape({"type": None, "text": None, "refusal": None})
_ITEM = Shape(
    {
        "type": None,
        "role": None,
        "id": None,
        "content": Shape(items=_PART),
        "summary": Shape(items=_PART),
        "arguments": None,
        "output": None,
        "result": None,
        "encrypted_content": None,
    }
)
RESPONSE = Shape(
    {
        "model": None,
        "stream": None,
        "input": Shape(items=_ITEM),
        "instructions": None,
        "previous_response_id": None,
        "conversation": Shape({"id": None}),
        "background": None,
        "store": None,
        "max_output_tokens": None,
        "tools": None,
        "user": None,
        "metadata": None,
    }
)


def read_response(body: bytes) -> Prompt:
    """A request to create a response."""
    parsed, spans = fields.parse(body, RESPONSE)
    fields.count(parsed, "max_output_tokens")
    items, weight = _input(parsed)
    weight += estimate.weight(fields.text(parsed, "instructions") or "")
    return Prompt(
        body=body,
        model=fields.text(parsed, "model"),
        model_span=model_span(spans),
        stream=fields.flag(parsed, "stream"),
        estimated_input=estimate.tokens(weight),
        state=_state(parsed, items),
        background=fields.flag(parsed, "background"),
    )


def _input(parsed: Object) -> tuple[list[Object], float]:
    given = parsed.get("input")
    if isinstance(given, str):
        return [], estimate.weight(given)
    if given is not None and not isinstance(given, list):
        raise Refused(INVALID_VALUE, "`input` must be a string or a list of items.", "input")
    items = fields.objects(parsed, "input")
    return items, sum(map(_item_weight, items))


def _item_weight(item: Object) -> float:
    content = fields.content(item) if item.get("type") in (None, "message") else None
    if isinstance(content, str):
        return estimate.weight(content)
    weight = sum(estimate.weight(fields.text(part, "text") or "") for part in content or ())
    for name in ("arguments", "output"):
        value = item.get(name)
        if isinstance(value, str):
            weight += estimate.weight(value)
    return weight


def _state(parsed: Object, items: list[Object]) -> StateReference | None:
    """What the call leans on."""
    ids = [fields.text(parsed, "previous_response_id"), _conversation(parsed)]
    sealed = []
    for item in items:
        encrypted = fields.text(item, "encrypted_content")
        if encrypted:
            sealed.append(encrypted)
        if _refers(item):
            ids.append(fields.text(item, "id"))
    known = tuple(given for given in ids if given)
    return StateReference(known, tuple(sealed)) if known or sealed else None


def _refers(item: Object) -> bool:
    """Whether an item is only the id of what the provider stores. Of a reference, the type may be left out."""
    match item.get("type"):
        case "item_reference":
            return True
        case "reasoning":
            return not item.get("encrypted_content")
        case "image_generation_call":
            return not item.get("result")
        case None:
            return item.get("role") is None
    return False


def _conversation(parsed: Object) -> str | None:
    given = parsed.get("conversation")
    if isinstance(given, dict):
        return fields.text(given, "id")
    return fields.text(parsed, "conversation")
