"""Requests of OpenAI's chat completions and completions."""

from extproc.dialects import fields
from extproc.dialects.fields import Object, Spans
from extproc.dialects.json_spans import Shape
from extproc.metering import estimate
from extproc.model import Edit, Prompt, Span
from extproc.refusals import INVALID_VALUE, Refused

_PART = Shape(
    {
        "type": None,
        "text": None,
        # The large strings of images, audio and files are watched by name, so that they are leapt over.
        "image_url": Shape({"url": None}),
        "input_audio": Shape({"data": None}),
        "file": Shape({"file_data": None}),
        "refusal": None,
    }
)
_CALL = Shape({"type": None, "function": Shape({"name": None, "arguments": None})})
_MESSAGE = Shape(
    {
        "role": None,
        "content": Shape(items=_PART),
        "name": None,
        "tool_calls": Shape(items=_CALL),
        "tool_call_id": None,
        "reasoning_content": None,
    }
)
_COMMON: dict[str, Shape | None] = {
    "model": None,
    "stream": None,
    "stream_options": Shape({"include_usage": None}),
    "n": None,
    "max_tokens": None,
}
CHAT = Shape(
    {
        **_COMMON,
        "messages": Shape(items=_MESSAGE),
        "max_completion_tokens": None,
        "tools": None,
        "user": None,
        "metadata": None,
        "store": None,
    }
)
COMPLETION = Shape({**_COMMON, "prompt": None, "suffix": None, "best_of": None, "user": None})

_ASK_USAGE = b'"stream_options":{"include_usage":true},'


def model_span(spans: Spans) -> Span | None:
    return spans.get(("model",))


def usage_edit(body: bytes, parsed: Object, spans: Spans) -> Edit | None:
    """The edit that makes the provider report usage on this stream, or None where the caller asked already."""
    options = fields.mapping(parsed, "stream_options")
    if options is None:
        at = spans.get(("stream_options",))
        if at is None:
            first = body.index(b"{") + 1
            return Edit(Span(first, first), _ASK_USAGE)
        return Edit(at, b'{"include_usage":true}')
    if fields.flag(options, "include_usage"):
        return None
    asked = spans.get(("stream_options", "include_usage"))
    if asked is not None:
        return Edit(asked, b"true")
    first = spans[("stream_options",)].start + 1
    return Edit(Span(first, first), b'"include_usage":true,' if options else b'"include_usage":true')


def read_chat(body: bytes) -> Prompt:
    """A chat completion request. Raises Refused for what the API would refuse and policy must not guess."""
    parsed, spans = fields.parse(body, CHAT)
    messages = fields.objects(parsed, "messages")
    if not messages:
        raise Refused(INVALID_VALUE, "`messages` must be a list of at least one message.", "messages")
    for name in ("max_tokens", "max_completion_tokens"):
        fields.count(parsed, name, least=0)
    return _prompt(body, parsed, spans, sum(map(_message_weight, messages)))


def read_completion(body: bytes) -> Prompt:
    """A completion request; `prompt` is a string, a list of strings, of tokens, or of lists of tokens."""
    parsed, spans = fields.parse(body, COMPLETION)
    fields.count(parsed, "max_tokens", least=0)  # 0 with echo scores a text
    fields.count(parsed, "best_of", most=fields.MAX_CHOICES)
    return _prompt(body, parsed, spans, input_weight(parsed.get("prompt"), "prompt"))


def _prompt(body: bytes, parsed: Object, spans: Spans, weight: float) -> Prompt:
    stream = fields.flag(parsed, "stream")
    fields.count(parsed, "n", most=fields.MAX_CHOICES)
    return Prompt(
        body=body,
        model=fields.text(parsed, "model"),
        model_span=model_span(spans),
        stream=stream,
        usage_edit=usage_edit(body, parsed, spans) if stream else None,
        estimated_input=estimate.tokens(weight),
    )


def input_weight(value: object, name: str) -> float:
    """The weight of an input that is text or tokens, alone or in lists; other types are refused."""
    if value is None:
        return 0.0
    if isinstance(value, str):
        return estimate.weight(value)
    if isinstance(value, list):
        if all(isinstance(item, int) and not isinstance(item, bool) for item in value):
            return float(len(value))
        if all(isinstance(item, str | list) for item in value):
            return sum(input_weight(item, name) for item in value)
    raise Refused(INVALID_VALUE, f"`{name}` must be a string, or a list of strings or tokens.", name)


def _message_weight(message: Object) -> float:
    content = fields.content(message)
    weight = 4.0  # the role and the marks around a message
    if isinstance(content, str):
        return weight + estimate.weight(content)
    for part in content or ():
        weight += estimate.weight(fields.text(part, "text") or "")
    return weight
