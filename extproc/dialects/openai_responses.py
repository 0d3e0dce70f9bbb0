"""Requests of OpenAI's Responses API, and what ties them to the backend that holds their state."""

from dataclasses import replace

from extproc.dialects import fields, talks, tiers
from extproc.dialects.fields import Object
from extproc.dialects.inputs import ASSUMED_CALLS, Input
from extproc.dialects.json_spans import Shape
from extproc.dialects.openai_chat import TOOLS, cap, model_span
from extproc.model import Prompt, StateReference
from extproc.refusals import INVALID_VALUE, Refused

_LEAST_CAP = 16  # a smaller one is an error of OpenAI's

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
        "max_tool_calls": None,
        "service_tier": None,
        "tools": TOOLS,
        "user": None,
        "metadata": None,
    }
)


def read_response(body: bytes) -> Prompt:
    """A request to create a response."""
    parsed, spans = fields.parse(body, RESPONSE)
    given = Input()
    items = _input(given, parsed)
    given.text(fields.text(parsed, "instructions"))
    given.tools(parsed)
    given.rest(parsed, ("input", "instructions", "tools", "previous_response_id", "conversation"))
    state = _state(parsed, items)
    if parsed.get("prompt") is not None or (state is not None and state.ids):
        given.unseen()
    size, mean = given.size()
    return Prompt(
        body=body,
        model=fields.text(parsed, "model"),
        model_span=model_span(spans),
        stream=fields.flag(parsed, "stream"),
        estimated_input=mean,
        input=size,
        cap=replace(cap(parsed, spans, ("max_output_tokens",), "max_output_tokens"), least=_LEAST_CAP),
        hosted_calls=_hosted_calls(parsed, given),
        state=state,
        background=fields.flag(parsed, "background"),
        json_output=fields.says_json((fields.mapping(parsed, "text") or {}).get("format")),
        talk=talks.responses(parsed, items),
        service_tiers=tiers.asked(parsed),
    )


def _hosted_calls(parsed: Object, given: Input) -> int:
    """One bound for all hosted tools. A stored prompt may bring some that the request does not show."""
    allowed = fields.count(parsed, "max_tool_calls", least=0)
    if not given.hosted_calls and parsed.get("prompt") is None:
        return 0
    return allowed or max(given.hosted_calls, ASSUMED_CALLS)


def _input(given: Input, parsed: Object) -> list[Object]:
    value = parsed.get("input")
    if isinstance(value, str):
        given.text(value)
        return []
    if value is not None and not isinstance(value, list):
        raise Refused(INVALID_VALUE, "`input` must be a string or a list of items.", "input")
    items = fields.objects(parsed, "input")
    for item in items:
        if item.get("type") in (None, "message"):
            given.message(item, fields.content(item))
        else:
            given.item(item)
    return items


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
            return not item.get("encrypted_content") and not item.get("content")
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
