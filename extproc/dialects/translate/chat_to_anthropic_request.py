"""A chat completion request as a message request.

{model, max_tokens, messages, system?, stream?, service_tier?, temperature?, top_p?, stop_sequences?, tools?,
 tool_choice?, thinking?: {type}, output_config?: {effort, format: {type, schema}}}
"""

from extproc.dialects.translate.chat_to_anthropic_messages import Conversation
from extproc.dialects.translate.direction import Json
from extproc.dialects.translate.fields import Fields, Inexpressible

MAX_TOKENS = 32_000
"""The bound on the output where the caller gives none: a message must have one, and every model since Claude 4 takes
this one. Chat has no such default: an answer that would be longer ends with `length`."""

_NOT_APPLICABLE = (
    *("user", "safety_identifier", "metadata"),  # for the provider's own records
    *("prompt_cache_key", "prompt_cache_options", "prompt_cache_retention"),  # how OpenAI keeps its cache
)
_IDLE: dict[str, object] = {
    "n": 1,
    "store": False,
    "logprobs": False,
    "top_logprobs": 0,
    "logit_bias": {},
    "frequency_penalty": 0,
    "presence_penalty": 0,
    "modalities": ["text"],
    "verbosity": "medium",
    "functions": [],
}
"""What cannot be said, with the value that asks for nothing: many clients send every default."""
_TIERS = {"auto": "auto", "default": "standard_only"}
_EFFORTS = {
    "minimal": "low",  # the least that there is
    "low": "low",
    "medium": "medium",
    "high": "high",
    "xhigh": "xhigh",
    "max": "max",
}
_LEAST_TOP_P = 0.95  # while it thinks


def message_request(parsed: Json, model: str) -> dict[str, object]:
    """The body for the deployed model. Raises Inexpressible."""
    fields = Fields(parsed)
    fields.besides("model", *_NOT_APPLICABLE)
    for name, value in _IDLE.items():
        fields.only(name, value)
    conversation = Conversation()
    for message in fields.inners("messages"):
        conversation.add(message)
    if not conversation.turns:
        raise Inexpressible("messages", "One of them must be the user's, and say something.")
    made: dict[str, object] = {"model": model, "max_tokens": _most(fields), "messages": conversation.turns}
    if conversation.system:
        made["system"] = conversation.system
    thinking = _thinking(fields)
    thinks = thinking.get("type") == "adaptive"
    made |= _delivery(fields) | _sampling(fields, thinks) | _stops(fields) | _tools(fields, thinks)
    if thinking:
        made["thinking"] = {"type": thinking["type"]}
    config = {name: value for name, value in (("effort", thinking.get("effort")), ("format", _format(fields))) if value}
    if config:
        made["output_config"] = config
    fields.done()
    return made


def _most(fields: Fields) -> int:
    """Of two bounds the larger, as that is the one the gateway counts on."""
    bounds = [bound for name in ("max_tokens", "max_completion_tokens") if (bound := _bound(fields, name))]
    return max(bounds, default=MAX_TOKENS)


def _bound(fields: Fields, name: str) -> int | None:
    value = fields.take(name)
    if value is None or (isinstance(value, int) and not isinstance(value, bool) and value > 0):
        return value
    raise fields.cannot(name, "It must be a whole number above 0.")


def _delivery(fields: Fields) -> dict[str, object]:
    made: dict[str, object] = {}
    options = fields.inner("stream_options")
    if options is not None:
        options.besides("include_usage", "include_obfuscation")  # usage always comes, and nothing is padded
        options.done()
    if fields.flag("stream"):
        made["stream"] = True
    tier = fields.text("service_tier")
    if tier is not None:
        made["service_tier"] = _word(fields, "service_tier", tier, _TIERS)
    return made


def _word(fields: Fields, name: str, word: str, words: dict[str, str]) -> str:
    if word not in words:
        raise fields.cannot(name, f"It can be {', '.join(f'`{known}`' for known in words)}.")
    return words[word]


def _sampling(fields: Fields, thinks: bool) -> dict[str, object]:
    """1 is the default of both, and is not sent: some models refuse to be given either, or both."""
    made: dict[str, object] = {}
    temperature, top_p = _share(fields, "temperature"), _share(fields, "top_p")
    if temperature != 1:
        if thinks:
            raise fields.cannot("temperature", "It cannot be set together with `reasoning_effort`.")
        made["temperature"] = temperature
    if top_p != 1:
        if thinks and top_p < _LEAST_TOP_P:
            raise fields.cannot("top_p", f"Together with `reasoning_effort` it must be {_LEAST_TOP_P} or more.")
        made["top_p"] = top_p
    return made


def _share(fields: Fields, name: str) -> float:
    value = fields.take(name)
    if value is None:
        return 1
    if isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value <= 1:
        return value
    raise fields.cannot(name, "It must be a number from 0 to 1.")


def _stops(fields: Fields) -> dict[str, object]:
    stop = fields.take("stop")
    if stop is None:
        return {}
    stops = [stop] if isinstance(stop, str) else stop
    if not isinstance(stops, list):
        raise fields.cannot("stop", "It must be a string or a list of strings.")
    if not all(isinstance(one, str) and one.strip() for one in stops):
        raise fields.cannot("stop", "A stop sequence must be a string with more in it than white space.")
    return {"stop_sequences": stops} if stops else {}


# ---- what is asked of the output --------------------------------------------------------------------


def _thinking(fields: Fields) -> dict[str, str]:
    """Type and effort. Adaptive is the only kind of thinking that newer models have; those before Claude 4.6, which
    have another, refuse it themselves.
    """
    effort = fields.text("reasoning_effort")
    if effort is None:
        return {}
    if effort == "none":
        return {"type": "disabled"}
    return {"type": "adaptive", "effort": _word(fields, "reasoning_effort", effort, _EFFORTS)}


def _format(fields: Fields) -> dict[str, object] | None:
    """The schema that the answer must follow. It always does, whether `strict` asks for that or not."""
    asked = fields.inner("response_format")
    if asked is None:
        return None
    kind = asked.need("type")
    if kind == "json_object":
        raise asked.cannot("type", "JSON needs a schema here: give one with the type `json_schema`.")
    if kind not in ("text", "json_schema"):
        raise asked.cannot("type")
    if kind == "text":
        asked.done()
        return None
    described = asked.need_inner("json_schema")
    asked.done()
    described.besides("name", "strict")
    schema, meaning = described.take("schema"), described.text("description")
    described.done()
    if not isinstance(schema, dict):
        raise described.cannot("schema", "It must be an object.")
    return {"type": "json_schema", "schema": {"description": meaning, **schema} if meaning else schema}


# ---- tools ------------------------------------------------------------------------------------------

_CHOICES = {"auto": "auto", "none": "none", "required": "any"}


def _tools(fields: Fields, thinks: bool) -> dict[str, object]:
    tools = [_tool(tool) for tool in fields.inners("tools")]
    parallel = fields.take("parallel_tool_calls")
    if not isinstance(parallel, bool | None):
        raise fields.cannot("parallel_tool_calls", "It must be true or false.")
    choice, allowed = _choice(fields)
    kind = choice["type"]
    if not tools:
        if kind not in ("auto", "none"):
            raise fields.cannot("tool_choice", "It needs `tools`.")
        return {}
    if thinks and kind not in ("auto", "none"):
        raise fields.cannot("tool_choice", "A tool cannot be forced together with `reasoning_effort`.")
    if allowed is not None:  # those that are not allowed are not offered
        tools = [tool for tool in tools if tool["name"] in allowed]
        if not tools:
            raise Inexpressible("tool_choice.allowed_tools.tools", "None of them is among `tools`.")
    if parallel is False and kind != "none":
        choice["disable_parallel_tool_use"] = True
    return {"tools": tools} if choice == {"type": "auto"} else {"tools": tools, "tool_choice": choice}


def _tool(tool: Fields) -> dict[str, object]:
    _be_function(tool)
    function = tool.need_inner("function")
    tool.done()
    made: dict[str, object] = {"name": function.need("name")}
    description, parameters = function.text("description"), function.take("parameters")
    if description is not None:
        made["description"] = description
    if parameters is not None and not isinstance(parameters, dict):
        raise function.cannot("parameters", "It must be an object.")
    made["input_schema"] = {"type": "object", **(parameters or {})}
    if function.flag("strict"):
        made["strict"] = True
    function.done()
    return made


def _be_function(tool: Fields) -> None:
    if tool.need("type") != "function":
        raise tool.cannot("type", "It can be `function`.")


def _choice(fields: Fields) -> tuple[dict[str, object], set[str] | None]:
    """The choice, and the names of the tools to choose from where not all are."""
    choice = fields.take("tool_choice")
    if choice is None or isinstance(choice, str):
        return {"type": _word(fields, "tool_choice", choice or "auto", _CHOICES)}, None
    asked = Fields(choice, fields.name("tool_choice"))
    if asked.take("type") != "allowed_tools":
        return {"type": "tool", "name": _function_name(Fields(choice, asked.at))}, None
    allowed = asked.need_inner("allowed_tools")
    asked.done()
    kind = _word(allowed, "mode", allowed.need("mode"), {"auto": "auto", "required": "any"})
    names = {_function_name(tool) for tool in allowed.inners("tools")}
    allowed.done()
    return {"type": kind}, names


def _function_name(tool: Fields) -> str:
    """Of what names a function, as a choice does."""
    _be_function(tool)
    function = tool.need_inner("function")
    tool.done()
    name = function.need("name")
    function.done()
    return name
