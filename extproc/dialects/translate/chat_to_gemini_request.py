"""A chat completion request as a GenerateContentRequest.

    {contents, systemInstruction?: {parts}, tools?: [{functionDeclarations}], toolConfig?: {functionCallingConfig},
     generationConfig?: {maxOutputTokens, temperature, topP, candidateCount, stopSequences, seed, presencePenalty,
     frequencyPenalty, responseLogprobs, logprobs, responseMimeType, responseJsonSchema, mediaResolution,
     thinkingConfig: {thinkingBudget | thinkingLevel}}}

Safety settings are left to Google's default, as chat has no word for them.
"""

from extproc.dialects.translate.chat_to_gemini_messages import Conversation, is_older
from extproc.dialects.translate.direction import Json
from extproc.dialects.translate.fields import Fields, Inexpressible

_NOT_APPLICABLE = (
    *("model", "stream"),  # both are in the path
    *("user", "safety_identifier", "metadata"),  # for the provider's own records
    *("prompt_cache_key", "prompt_cache_options", "prompt_cache_retention"),  # hints; it caches by itself
)
_SAME = {  # which have the same meaning and range under another name
    "temperature": "temperature",
    "top_p": "topP",
    "n": "candidateCount",
    "presence_penalty": "presencePenalty",
    "frequency_penalty": "frequencyPenalty",
    "logprobs": "responseLogprobs",
    "top_logprobs": "logprobs",
}
_BUDGETS = {"none": 0, "minimal": 1024, "low": 1024, "medium": 8192, "high": 24576}
"""Tokens for an effort, from the table of Google's own OpenAI endpoint."""
_INT32 = 2**31


def translate(request: Json, model: str) -> dict[str, object]:
    """The body for the deployed model. Raises `Inexpressible`."""
    fields = Fields(request)
    conversation = Conversation(model)
    for message in fields.inners("messages"):
        conversation.add(message)
    if not conversation.contents:
        raise Inexpressible("messages", "Gemini needs a message beside those of the system.")
    made: dict[str, object] = {"contents": conversation.contents}
    if conversation.system:
        made["systemInstruction"] = {"parts": conversation.system}
    made.update(_tools(fields))
    generation = _generation(fields, model)
    if conversation.resolution:
        generation["mediaResolution"] = conversation.resolution
    if generation:
        made["generationConfig"] = generation
    _take_silent(fields)
    fields.done()
    return made


def _take_silent(fields: Fields) -> None:
    """Take what Gemini need not be told: either it is never of interest to it, or it asks for what it does anyway."""
    fields.besides(*_NOT_APPLICABLE)
    options = fields.inner("stream_options")
    if options is not None:
        options.besides("include_usage", "include_obfuscation")  # Gemini always says its usage, and never pads
        options.done()
    fields.only("store", False)
    fields.only("service_tier", "auto", "default")
    fields.only("verbosity", "medium")
    fields.only("modalities", ["text"])
    fields.only("logit_bias", {})
    fields.only("functions", [])


# ---- how to generate ---------------------------------------------------------------------------------


def _generation(fields: Fields, model: str) -> dict[str, object]:
    made: dict[str, object] = {}
    for name, theirs in _SAME.items():
        value = fields.take(name)
        if value is not None:
            made[theirs] = value
    bounds = [bound for name in ("max_tokens", "max_completion_tokens") if (bound := _bound(fields, name)) is not None]
    if bounds:
        made["maxOutputTokens"] = max(bounds)  # as the gateway counts on the larger of the two
    stop = fields.take("stop")
    if stop is not None:
        made["stopSequences"] = [stop] if isinstance(stop, str) else stop
    seed = fields.take("seed")
    if seed is not None:
        if not isinstance(seed, int) or not -_INT32 <= seed < _INT32:
            raise fields.cannot("seed", "Gemini's seeds have 32 bits.")
        made["seed"] = seed
    made.update(_thinking(fields, model))
    made.update(_format(fields))
    return made


def _bound(fields: Fields, name: str) -> int | None:
    value = fields.take(name)
    if value is None or isinstance(value, int):
        return value
    raise fields.cannot(name, "It must be a whole number.")


def _thinking(fields: Fields, model: str) -> dict[str, object]:
    """Older models have a budget, newer ones levels, with no level for none: those refuse a budget of 0 themselves."""
    effort = fields.text("reasoning_effort")
    if effort is None:
        return {}
    if effort not in _BUDGETS:
        raise fields.cannot("reasoning_effort", f"Gemini has {', '.join(_BUDGETS)}.")
    if is_older(model) or effort == "none":
        return {"thinkingConfig": {"thinkingBudget": _BUDGETS[effort]}}
    level = "low" if effort == "minimal" and "-pro" in model else effort  # which the Pro models do not have
    return {"thinkingConfig": {"thinkingLevel": level}}


def _format(fields: Fields) -> dict[str, object]:
    asked = fields.inner("response_format")
    if asked is None:
        return {}
    kind = asked.need("type")
    if kind not in ("text", "json_object", "json_schema"):
        raise asked.cannot("type")
    described = asked.need_inner("json_schema") if kind == "json_schema" else None
    asked.done()
    if kind == "text":
        return {}
    made: dict[str, object] = {"responseMimeType": "application/json"}
    if described is not None:
        schema = described.take("schema")
        meaning = described.text("description")
        described.besides("name", "strict")  # Gemini decodes by the schema whether it is strict or not
        described.done()
        if schema is not None:
            if not isinstance(schema, dict):
                raise described.cannot("schema", "It must be an object.")
            made["responseJsonSchema"] = {"description": meaning, **schema} if meaning else schema
    return made


# ---- tools ------------------------------------------------------------------------------------------


def _tools(fields: Fields) -> dict[str, object]:
    declared = []
    strict = False
    for tool in fields.inners("tools"):
        if tool.need("type") != "function":
            raise tool.cannot("type")
        function = tool.need_inner("function")
        strict = function.flag("strict") or strict
        declared.append(_declaration(function))
        tool.done()
    parallel = fields.take("parallel_tool_calls")
    if parallel is False and declared:
        raise fields.cannot("parallel_tool_calls", "Gemini cannot be kept from calling several tools at once.")
    calling = _calling(fields, strict)
    made: dict[str, object] = {}
    if declared:
        made["tools"] = [{"functionDeclarations": declared}]
    if calling:
        made["toolConfig"] = {"functionCallingConfig": calling}
    return made


def _declaration(function: Fields) -> dict[str, object]:
    made: dict[str, object] = {"name": function.need("name")}
    description = function.text("description")
    if description is not None:
        made["description"] = description
    parameters = function.take("parameters")
    if parameters:  # without any it is a function of none
        made["parametersJsonSchema"] = parameters
    function.done()
    return made


_MODES = {"none": "NONE", "auto": "AUTO", "required": "ANY"}


def _calling(fields: Fields, strict: bool) -> dict[str, object]:
    """Which functions are called: in mode ANY, and in VALIDATED, which is AUTO with that, arguments fit the schema."""
    free = "VALIDATED" if strict else "AUTO"
    choice = fields.take("tool_choice")
    if choice is None or choice == "auto":
        return {"mode": free} if strict else {}
    if isinstance(choice, str):
        if choice not in _MODES:
            raise fields.cannot("tool_choice")
        return {"mode": _MODES[choice]}
    asked = Fields(choice, fields.name("tool_choice"))
    kind = asked.need("type")
    if kind == "function":
        made: dict[str, object] = {"mode": "ANY", "allowedFunctionNames": [_function_name(asked)]}
    elif kind == "allowed_tools":
        made = _allowed(asked)
    else:
        raise asked.cannot("type")
    asked.done()
    return made


def _allowed(asked: Fields) -> dict[str, object]:
    allowed = asked.need_inner("allowed_tools")
    mode = allowed.need("mode")
    if mode not in ("auto", "required"):
        raise allowed.cannot("mode")
    names = []
    for tool in allowed.inners("tools"):
        if tool.need("type") != "function":
            raise tool.cannot("type")
        names.append(_function_name(tool))
        tool.done()
    allowed.done()
    # Names can be given in two modes only.
    return {"mode": "ANY" if mode == "required" else "VALIDATED", "allowedFunctionNames": names}


def _function_name(tool: Fields) -> str:
    function = tool.need_inner("function")
    name = function.need("name")
    function.done()
    return name
