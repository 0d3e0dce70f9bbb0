"""A Messages request as a chat completion's."""

import orjson

from extproc.dialects.translate.direction import Json
from extproc.dialects.translate.fields import Fields
from extproc.dialects.translate.messages_to_chat_conversation import messages

_NOT_APPLICABLE = (
    "model",  # is the deployed one's
    *("metadata", "diagnostics"),  # for Anthropic's own records
    "cache_control",  # a hint: other providers cache by themselves
)
_EFFORTS = ("low", "medium", "high", "xhigh", "max")
_THINKING = ("adaptive", "enabled", "disabled")
_SCHEMA = "answer"  # a format must have a name there


def translate(request: Json, model: str) -> dict[str, object]:
    """The body for a backend that has the model under this name; raises `Inexpressible`.

    The bound on the output stands in `max_completion_tokens`.
    """
    fields = Fields(request)
    made: dict[str, object] = {"model": model, "messages": messages(fields)}
    made |= _sampling(fields)
    made |= _tools(fields)
    made |= _output(fields)
    if fields.flag("stream"):
        made |= {"stream": True, "stream_options": {"include_usage": True}}
    _take_silent(fields)
    fields.done()
    return made


def _take_silent(fields: Fields) -> None:
    """Take what the backend need not be told."""
    fields.besides(*_NOT_APPLICABLE)
    fields.only("speed", "standard")
    fields.only("mcp_servers", [])
    fields.only("fallbacks", [])
    _take_thinking(fields)
    edited = fields.inner("context_management")
    if edited is not None:
        for edit in edited.inners("edits"):
            edit.only("type", "clear_thinking_20251015")  # there is none to be cleared
            edit.besides("keep")
            edit.done()
        edited.done()


def _take_thinking(fields: Fields) -> None:
    """Take how to think: a model behind chat does as it is configured, and many refuse the call that asks for it.

    How hard is said by `output_config.effort`.
    """
    thinking = fields.inner("thinking")
    if thinking is None:
        return
    if thinking.need("type") not in _THINKING:
        raise thinking.cannot("type", f"It can be {', '.join(f'`{kind}`' for kind in _THINKING)}.")
    thinking.besides("budget_tokens", "display", "block_binding")
    thinking.done()


def _sampling(fields: Fields) -> dict[str, object]:
    made: dict[str, object] = {}
    for name in ("temperature", "top_p"):
        value = fields.take(name)
        if value is not None:
            if not isinstance(value, int | float) or isinstance(value, bool):
                raise fields.cannot(name, "It must be a number.")
            made[name] = value
    bound = fields.take("max_tokens")
    if bound is not None:
        if not isinstance(bound, int) or isinstance(bound, bool) or bound < 1:
            raise fields.cannot("max_tokens", "It must be a whole number above 0.")
        made["max_completion_tokens"] = bound
    stop = fields.take("stop_sequences")
    if stop is not None:
        if not isinstance(stop, list) or not all(isinstance(text, str) for text in stop):
            raise fields.cannot("stop_sequences", "It must be a list of strings.")
        made |= {"stop": stop} if stop else {}
    tier = fields.text("service_tier")
    if tier not in (None, "auto", "standard_only"):
        raise fields.cannot("service_tier")
    return {**made, "service_tier": "default"} if tier == "standard_only" else made


def _output(fields: Fields) -> dict[str, object]:
    """How hard to think, and the schema that the answer must follow."""
    made: dict[str, object] = {}
    wanted = fields.inner("output_format")  # as the beta wrote it
    config = fields.inner("output_config")
    if config is not None:
        effort = config.text("effort")
        if effort is not None:
            if effort not in _EFFORTS:
                raise config.cannot("effort")
            made["reasoning_effort"] = effort
        wanted = config.inner("format") or wanted
        config.done()
    if wanted is not None:
        wanted.only("type", "json_schema")
        schema = {"name": _SCHEMA, "schema": _object(wanted, "schema"), "strict": True}
        made["response_format"] = {"type": "json_schema", "json_schema": schema}
        wanted.done()
    return made


def _object(holder: Fields, field: str) -> dict[str, object]:
    """A value that is the caller's own, such as a schema."""
    value = holder.take(field)
    if not isinstance(value, dict):
        raise holder.cannot(field, "It must be an object.")
    return value


# ---- tools ------------------------------------------------------------------------------------------


def _tools(fields: Fields) -> dict[str, object]:
    """The tools and their choice, of which chat wants to hear only where there are tools."""
    tools = [_tool(tool) for tool in fields.inners("tools")]
    choice = fields.inner("tool_choice")
    chosen: dict[str, object] = {}
    if choice is not None:
        chosen["tool_choice"] = _choice(choice, has_tools=bool(tools))
        if choice.flag("disable_parallel_tool_use"):
            chosen["parallel_tool_calls"] = False
        choice.done()
    return {"tools": tools, **chosen} if tools else {}


def _tool(tool: Fields) -> dict[str, object]:
    """A tool of the caller's own; those that Anthropic defines or runs have no counterpart."""
    if tool.text("type") not in (None, "custom"):
        raise tool.cannot("type", "Only tools of the caller's own can be expressed.")
    tool.besides("cache_control", "eager_input_streaming")  # every backend streams them eagerly
    tool.only("allowed_callers", ["direct"])
    tool.only("defer_loading", False)
    made: dict[str, object] = {"name": tool.need("name")}
    if description := _description(tool):
        made["description"] = description
    schema = _object(tool, "input_schema")
    if schema.get("properties") is None:  # which OpenAI does not take
        schema = {**schema, "properties": {}}
    made["parameters"] = schema
    strict = tool.take("strict")
    if strict is not None:
        if not isinstance(strict, bool):
            raise tool.cannot("strict", "It must be true or false.")
        made["strict"] = strict
    tool.done()
    return {"type": "function", "function": made}


def _description(tool: Fields) -> str:
    """With the examples of its input, for which chat has no field."""
    said, examples = tool.text("description") or "", tool.take("input_examples")
    if not isinstance(examples, list | None):
        raise tool.cannot("input_examples", "It must be a list.")
    shown = "\n".join(["Examples of its input:", *[orjson.dumps(example).decode() for example in examples or ()]])
    return "\n\n".join([text for text in (said, shown if examples else "") if text])


def _choice(choice: Fields, has_tools: bool) -> object:
    kind = choice.need("type")
    if kind not in ("auto", "any", "none", "tool"):
        raise choice.cannot("type")
    if kind in ("any", "tool") and not has_tools:
        raise choice.cannot("type", "There are no tools.")
    if kind == "tool":
        return {"type": "function", "function": {"name": choice.need("name")}}
    return "required" if kind == "any" else kind
