"""Requests of Anthropic's Messages API."""

from extproc.dialects import fields
from extproc.dialects.fields import Object
from extproc.dialects.json_spans import Shape
from extproc.dialects.openai_chat import model_span
from extproc.metering import estimate
from extproc.model import Prompt
from extproc.refusals import INVALID_VALUE, Refused

_BLOCK = Shape(
    {
        "type": None,
        "text": None,
        "input": None,
        "content": None,
        "source": Shape({"type": None, "data": None, "url": None}),
        "thinking": None,
    }
)
_MESSAGE = Shape({"role": None, "content": Shape(items=_BLOCK)})
MESSAGES = Shape(
    {
        "model": None,
        "stream": None,
        "messages": Shape(items=_MESSAGE),
        "system": Shape(items=_BLOCK),
        "max_tokens": None,
        "tools": None,
        "metadata": None,
    }
)


def read_messages(body: bytes) -> Prompt:
    """A messages or count_tokens request."""
    parsed, spans = fields.parse(body, MESSAGES)
    messages = fields.objects(parsed, "messages")
    if not messages:
        raise Refused(INVALID_VALUE, "`messages` must be a list of at least one message.", "messages")
    fields.count(parsed, "max_tokens", least=0)  # 0 warms the prompt cache
    weight = _content_weight(parsed, "system") + sum(_content_weight(message, "content") for message in messages)
    return Prompt(
        body=body,
        model=fields.text(parsed, "model"),
        model_span=model_span(spans),
        stream=fields.flag(parsed, "stream"),
        estimated_input=estimate.tokens(weight),
    )


def _content_weight(source: Object, name: str) -> float:
    content = fields.content(source, name)
    if isinstance(content, str):
        return estimate.weight(content)
    return sum(estimate.weight(fields.text(part, "text") or "") for part in content or ())
