"""Requests of Anthropic's Messages API."""

from dataclasses import replace

from extproc.dialects import fields, talks, tiers
from extproc.dialects.fields import Object
from extproc.dialects.inputs import Input
from extproc.dialects.json_spans import Shape
from extproc.dialects.openai_chat import TOOLS, cap, model_span
from extproc.model import Cap, Prompt
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
        "service_tier": None,
        "speed": None,
        "tools": TOOLS,
        "mcp_servers": None,
        "container": None,
        "metadata": None,
    }
)


def read_messages(body: bytes) -> Prompt:
    """A messages request."""
    parsed, spans = fields.parse(body, MESSAGES)
    messages = fields.objects(parsed, "messages")
    if not messages:
        raise Refused(INVALID_VALUE, "`messages` must be a list of at least one message.", "messages")
    given = Input()
    for message in messages:
        given.message(message, fields.content(message))
    given.content(fields.content(parsed, "system"))
    given.tools(parsed)
    given.rest(parsed, ("messages", "system", "tools"))
    bound = cap(parsed, spans, ("max_tokens",), "max_tokens", floor=0)  # 0 warms the prompt cache
    size, mean = given.size()
    return Prompt(
        body=body,
        model=fields.text(parsed, "model"),
        model_span=model_span(spans),
        stream=fields.flag(parsed, "stream"),
        estimated_input=mean,
        input=size,
        cap=replace(bound, least=_thinking(parsed) + 1),
        hosted_calls=given.hosted_calls,
        json_output=_says_json(parsed),
        talk=talks.anthropic(parsed, messages),
        service_tiers=tiers.asked(parsed),
    )


def _says_json(parsed: fields.Object) -> bool:
    """In `output_config`, or as its beta wrote it."""
    config = parsed.get("output_config")
    return fields.says_json(config.get("format") if isinstance(config, dict) else parsed.get("output_format"))


def read_token_count(body: bytes) -> Prompt:
    """A count_tokens request: a message that nobody answers, so that nothing caps or searches for it."""
    return replace(read_messages(body), cap=Cap(tokens=0), hosted_calls=0)


def _thinking(parsed: Object) -> int:
    """Tokens that are set aside for thinking: a cap must be above them."""
    thinking = fields.mapping(parsed, "thinking") or {}
    budget = fields.count(thinking, "budget_tokens", least=0) or 0
    return budget if thinking.get("type") == "enabled" else 0
