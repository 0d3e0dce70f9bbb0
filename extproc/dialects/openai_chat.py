"""Requests of OpenAI's chat completions and completions."""

from collections.abc import Mapping
from dataclasses import replace
from typing import cast

import orjson

from extproc.cache.plain import is_plain
from extproc.dialects import fields, inputs, talks, tiers
from extproc.dialects.fields import Object, Spans
from extproc.dialects.inputs import Input
from extproc.dialects.json_spans import Shape
from extproc.edits import Edit, Span
from extproc.model import Cap, Prompt, Talk
from extproc.refusals import INVALID_VALUE, Refused
from extproc.surfaces import Surface

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
    "service_tier": None,
}
TOOLS = Shape(items=Shape({"type": None, "max_uses": None}))
"""Of them policy reads who runs each, and how often."""
CHAT = Shape(
    {
        **_COMMON,
        "messages": Shape(items=_MESSAGE),
        "max_completion_tokens": None,
        "tools": TOOLS,
        "web_search_options": None,
        "data_sources": None,
        "search_parameters": None,
        "plugins": None,
        "user": None,
        "metadata": None,
        "store": None,
    }
)
COMPLETION = Shape({**_COMMON, "prompt": None, "suffix": None, "best_of": None, "echo": None, "user": None})

_CAPS = ("max_tokens", "max_completion_tokens")
_NO_CAP = Cap(field=_CAPS[0])
_PLACED = {name: b'"%b":' % name.encode() for name in ("model", "stream_options", *_CAPS)}
"""What stands before the values that policy reads, in a body without white space."""
_LONGEST_PLAIN = 32 * 1024
"""Bytes of a body that may be written anew to see whether it is plain."""

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


def cap(parsed: Object, spans: Spans, names: tuple[str, ...], name: str | None, floor: int = 1) -> Cap:
    """The bound on the output that stands in any of the fields; of several, the largest: a backend may take either.

    0 is refused where it is none: some servers take it for no bound at all.
    """
    said = tuple([field for field in names if (field,) in spans])
    given = [count for field in said if (count := fields.count(parsed, field, least=floor)) is not None]
    return Cap(max(given, default=None), tuple([spans[(field,)] for field in said]), name, said)


def read_chat(body: bytes) -> Prompt:
    """A chat completion request. Raises Refused for what the API would refuse and policy must not guess.

    Most are plain, and come out of the parser's tree byte for byte: so they have no key twice and none in disguise, and
    it is known where each stands, without a search.
    """
    known = _parsed(body)
    if known is not None and is_plain(Surface.CHAT, known) and orjson.dumps(known) == body:
        return _read_plain(body, known)
    parsed, spans = fields.parse(body, CHAT, known)
    messages = _messages(parsed)
    given = Input()
    for message in messages:
        given.message(message, fields.content(message))
    given.tools(parsed)
    given.rest(parsed, ("messages", "tools"))
    searches = parsed.get("web_search_options") is not None
    bound = cap(parsed, spans, _CAPS, _CAPS[0])
    talk, hosted = talks.chat(parsed, messages), given.hosted_calls + searches
    return _prompt(body, parsed, spans, given, bound, talk, hosted_calls=hosted, searches=searches)


def _parsed(body: bytes) -> dict[str, object] | None:
    """What `fields.parse` has yet to find fault with; None, too, where that takes its time."""
    try:
        return cast(dict[str, object], orjson.loads(body)) if len(body) <= _LONGEST_PLAIN else None
    except ValueError:
        return None


def _messages(parsed: Object) -> list[Object]:
    messages = fields.objects(parsed, "messages")
    if not messages:
        raise Refused(INVALID_VALUE, "`messages` must be a list of at least one message.", "messages")
    return messages


def _read_plain(body: bytes, parsed: Object) -> Prompt:
    messages = cast(list[Mapping[str, str]], parsed.get("messages") or _messages({}))
    size, mean = inputs.of_words(messages)
    spans = _plain_spans(body, parsed)
    bound = _NO_CAP if _CAPS[0] not in parsed and _CAPS[1] not in parsed else cap(parsed, spans, _CAPS, _CAPS[0])
    stream = bool(parsed.get("stream"))
    return Prompt(
        body=body,
        model=cast(str | None, parsed.get("model")),
        model_span=spans.get(("model",)),
        stream=stream,
        usage_edit=usage_edit(body, parsed, spans) if stream else None,
        estimated_input=mean,
        input=size,
        cap=bound,
        choices=fields.count(parsed, "n", most=fields.MAX_CHOICES) or 1 if "n" in parsed else 1,
        talk=talks.plain_chat(parsed, messages),
        service_tiers=tiers.LEFT_OPEN,
        plain=parsed,
    )


def _plain_spans(body: bytes, parsed: Object) -> Spans:
    """Where the values stand that policy reads. Their keys are in a plain body once, and in no text of it: there the
    marks around them are escaped."""
    spans: dict[tuple[str, ...], Span] = {
        (name,): _plain_span(body, _PLACED[name], parsed[name]) for name in _PLACED.keys() & parsed.keys()
    }
    options = parsed.get("stream_options")
    if isinstance(options, dict):
        spans["stream_options", "include_usage"] = _plain_span(body, b'"include_usage":', options["include_usage"])
    return spans


def _plain_span(body: bytes, mark: bytes, value: object) -> Span:
    start = body.index(mark) + len(mark)
    return Span(start, start + len(orjson.dumps(value)))


def read_completion(body: bytes) -> Prompt:
    """A completion request; `prompt` is a string, a list of strings, of tokens, or of lists of tokens."""
    parsed, spans = fields.parse(body, COMPLETION)
    given = Input()
    prompts = input_texts(given, parsed.get("prompt"), "prompt")
    given.rest(parsed, ("prompt",))
    scores = fields.flag(parsed, "echo")  # a text that is given, with no token more
    bound = cap(parsed, spans, ("max_tokens",), "max_tokens", floor=0 if scores else 1)
    best_of = fields.count(parsed, "best_of", most=fields.MAX_CHOICES) or 1
    prompt = _prompt(body, parsed, spans, given, bound, talks.plain(parsed))
    return replace(prompt, choices=max(1, prompts) * max(best_of, prompt.choices))


def _prompt(  # noqa: PLR0913 - a prompt is made once: to change it would cost as much again
    body: bytes,
    parsed: Object,
    spans: Spans,
    given: Input,
    bound: Cap,
    talk: Talk,
    *,
    hosted_calls: int = 0,
    searches: bool = False,
) -> Prompt:
    stream = fields.flag(parsed, "stream")
    size, mean = given.size()
    return Prompt(
        body=body,
        model=fields.text(parsed, "model"),
        model_span=model_span(spans),
        stream=stream,
        usage_edit=usage_edit(body, parsed, spans) if stream else None,
        estimated_input=mean,
        input=size,
        cap=bound,
        choices=fields.count(parsed, "n", most=fields.MAX_CHOICES) or 1,
        json_output=fields.says_json(parsed.get("response_format")),
        hosted_calls=hosted_calls,
        searches=searches,
        talk=talk,
        service_tiers=tiers.asked(parsed),
    )


def input_texts(given: Input, value: object, name: str) -> int:
    """Take an input that is text or tokens, alone or in lists; other types are refused. Returns how many it is."""
    if value is None:
        return 0
    if isinstance(value, str):
        given.text(value)
        return 1
    if isinstance(value, list):
        if all(isinstance(item, int) and not isinstance(item, bool) for item in value):
            given.tokens(len(value))
            return 1
        if all(isinstance(item, str | list) for item in value):
            return sum(input_texts(given, item, name) for item in value)
    raise Refused(INVALID_VALUE, f"`{name}` must be a string, or a list of strings or tokens.", name)
