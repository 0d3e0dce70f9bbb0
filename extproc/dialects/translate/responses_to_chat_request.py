"""A request to create a response as a request for a chat completion."""

from extproc.dialects.translate.direction import Json
from extproc.dialects.translate.fields import Fields
from extproc.dialects.translate.responses_to_chat_input import STORED, conversation
from extproc.dialects.translate.responses_to_chat_tools import chat_tools

NOT_APPLICABLE = (
    *("user", "metadata", "client_metadata", "safety_identifier"),  # say who called and why
    *("prompt_cache_key", "prompt_cache_retention"),  # hints to a cache
    "max_tool_calls",  # of hosted tools, and there are none
)
"""Fields that say nothing to such a backend, whatever they say."""

_STATE = ("previous_response_id", "conversation", "prompt")
_SAME = ("temperature", "top_p")
_TIERS = ("default", "flex", "scale", "priority", "fast")
_LOGPROBS = "message.output_text.logprobs"
_HARMLESS_INCLUDES = (
    "reasoning.encrypted_content",  # reasoning comes in plain text, or not at all
    "message.input_image.image_url",  # concerns the listing of stored items; the others, hosted tools
    *("file_search_call.results", "web_search_call.results", "web_search_call.action.sources"),
    *("computer_call_output.output.image_url", "code_interpreter_call.outputs"),
)

Out = dict[str, object]


def chat_request(request: Json, model: str) -> Out:
    """The body of the chat call. Raises Inexpressible at the first field that a chat has no place for."""
    taken = Fields(request)
    taken.besides("model", *NOT_APPLICABLE)
    _check_state(taken)
    messages, tools = conversation(taken)
    body: Out = {"model": model, "messages": messages}
    body |= {field: value for field in _SAME if (value := taken.take(field)) is not None}
    if (cap := taken.take("max_output_tokens")) is not None:
        body["max_tokens"] = cap
    body |= chat_tools(taken, tools)
    body |= _text(taken)
    body |= _reasoning(taken)
    body |= _service(taken)
    body |= _logprobs(taken)
    body |= _stream(taken)
    taken.done()
    return body


def _check_state(taken: Fields) -> None:
    for field in _STATE:
        if taken.take(field) is not None:
            raise taken.cannot(field, STORED)
    for field in ("store", "background"):
        if taken.flag(field):
            raise taken.cannot(field, "Nothing is stored at this backend: leave it out, or send false.")


def _text(taken: Fields) -> Out:
    text = taken.inner("text")
    if text is None:
        return {}
    said: Out = {}
    if (verbosity := text.text("verbosity")) is not None:
        said["verbosity"] = verbosity
    wanted = text.inner("format")
    if wanted is not None:
        said |= _format(wanted)
    text.done()
    return said


def _format(wanted: Fields) -> Out:
    kind = wanted.need("type")
    if kind == "text":
        said: Out = {}
    elif kind == "json_object":
        said = {"response_format": {"type": kind}}
    elif kind == "json_schema":
        schema: Out = {"name": wanted.need("name")}
        for field in ("description", "schema", "strict"):
            if (value := wanted.take(field)) is not None:
                schema[field] = value
        said = {"response_format": {"type": kind, kind: schema}}
    else:
        raise wanted.cannot("type", f"A chat has no format `{kind}`.")
    wanted.done()
    return said


def _reasoning(taken: Fields) -> Out:
    """How much; such backends tell their reasoning as it is, whatever summary is asked for."""
    reasoning = taken.inner("reasoning")
    if reasoning is None:
        return {}
    reasoning.besides("summary", "generate_summary")
    reasoning.only("context", "auto")
    reasoning.only("mode", "standard")
    effort = reasoning.text("effort")
    reasoning.done()
    return {} if effort is None else {"reasoning_effort": effort}


def _service(taken: Fields) -> Out:
    taken.only("truncation", "disabled")
    taken.only("access_programs", {"cyber": "standard"})
    cache = taken.inner("prompt_cache_options")
    if cache is not None:
        cache.besides("mode", "ttl")
        cache.only("prewarm", False)
        cache.done()
    tier = taken.text("service_tier")
    if tier is None or tier == "auto":
        return {}
    if tier not in _TIERS:
        raise taken.cannot("service_tier", "A chat has no such tier.")
    return {"service_tier": tier}


def _logprobs(taken: Fields) -> Out:
    includes = taken.take("include") or []
    if not isinstance(includes, list):
        raise taken.cannot("include", "It must be a list.")
    for wanted in includes:
        if wanted != _LOGPROBS and wanted not in _HARMLESS_INCLUDES:
            raise taken.cannot("include", f"There is no `{wanted}` in a chat." if isinstance(wanted, str) else "")
    most = taken.take("top_logprobs")
    if not most:
        return {"logprobs": True} if _LOGPROBS in includes else {}
    return {"logprobs": True, "top_logprobs": most}


def _stream(taken: Fields) -> Out:
    options = taken.inner("stream_options")
    if options is not None:
        options.only("include_obfuscation", False)
        options.done()
    return {"stream": True, "stream_options": {"include_usage": True}} if taken.flag("stream") else {}
