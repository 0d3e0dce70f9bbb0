"""The tools of a Responses call as the functions of a chat.

A namespace, as agents have one for each MCP server, is not known to chats: its functions get names that begin with its
own, and calls of them are told with the namespace again.
"""

from collections.abc import Iterator, Mapping, Sequence
from hashlib import sha256

from extproc.dialects.endings import objects
from extproc.dialects.translate.direction import Json
from extproc.dialects.translate.fields import Fields, Inexpressible

Out = dict[str, object]

ONLY_FUNCTIONS = "This backend has functions as its only tools."
_LONGEST = 64  # name that chats allow
_DIGEST = 8


def listed(value: object, name: str) -> list[Fields]:
    """A list of objects, each with its place in its name."""
    if not isinstance(value, list):
        raise Inexpressible(name, "It must be a list.")
    return [Fields(item, f"{name}[{at}]") for at, item in enumerate(value)]


def chat_name(namespace: str | None, name: str) -> str:
    """The name that a function has in a chat."""
    if namespace is None:
        return name
    whole = f"{namespace}__{name}"
    if len(whole) <= _LONGEST:
        return whole
    digest = sha256(whole.encode()).hexdigest()[:_DIGEST]
    return f"{whole[: _LONGEST - _DIGEST - 1]}_{digest}"


def namespaced(request: Json) -> dict[str, tuple[str, str]]:
    """Which namespace and name the names in a chat stand for, of all functions in namespaces."""
    given = request.get("input")
    added = [item for item in objects(given) if item.get("type") == "additional_tools"]
    found = {}
    for holder in (request, *added):
        for space in objects(holder.get("tools")):
            if space.get("type") == "namespace" and isinstance(namespace := space.get("name"), str):
                names = [name for tool in objects(space.get("tools")) if isinstance(name := tool.get("name"), str)]
                found.update({chat_name(namespace, name): (namespace, name) for name in names})
    return found


def chat_tools(request: Fields, added: Sequence[Fields]) -> Out:
    """The tools with what governs their use, which without any is an error of most servers.

    `added`: tools that the input brings.
    """
    given = request.take("tools")
    tools = _functions([*([] if given is None else listed(given, request.name("tools"))), *added])
    choice, tools = _choice(request, tools)
    parallel = request.take("parallel_tool_calls")
    said: Out = {"tools": tools} if tools else {}
    if choice is not None and (tools or choice not in ("auto", "none")):
        said["tool_choice"] = choice
    if tools and parallel is not None:
        said["parallel_tool_calls"] = parallel
    return said


def _functions(tools: Sequence[Fields]) -> list[Out]:
    """All functions; one that is given again in the same words is one."""
    known: dict[str, Out] = {}
    for tool in tools:
        for function in _of_tool(tool):
            name = str(function["name"])
            if known.setdefault(name, function) != function:
                raise tool.cannot("name", "Another tool has the same name at this backend.")
    return [{"type": "function", "function": function} for function in known.values()]


def _of_tool(tool: Fields) -> Iterator[Out]:
    kind = tool.need("type")
    if kind != "namespace":
        _check_function(tool, kind)
        yield _function(tool, None)
        return
    name, about = tool.need("name"), tool.text("description")
    for inner in listed(tool.take("tools"), tool.name("tools")):
        _check_function(inner, inner.need("type"))
        function = _function(inner, name)
        texts = [text for text in (about, function.get("description")) if isinstance(text, str)]
        about = None  # once is enough: there may be many functions
        yield {**function, "description": "\n\n".join(texts)} if texts else function
    tool.done()


def _check_function(tool: Fields, kind: str) -> None:
    if kind != "function":
        raise tool.cannot("type", f"`{kind}`: {ONLY_FUNCTIONS}")


def _function(tool: Fields, namespace: str | None) -> Out:
    tool.only("allowed_callers", ["direct"])
    tool.only("async", False)
    tool.only("defer_loading", False)
    function: Out = {"name": chat_name(namespace, tool.need("name"))}
    for field in ("description", "parameters", "strict"):
        if (value := tool.take(field)) is not None:
            function[field] = value
    tool.done()
    return function


def _choice(request: Fields, tools: list[Out]) -> tuple[object, list[Out]]:
    """The choice in chat's words, and the tools that it leaves.

    OpenAI's `allowed_tools` spares its cache a change of the tools; others know only tools that are there.
    """
    given = request.take("tool_choice")
    if given is None or given in ("none", "auto", "required"):
        return given, tools
    choice = Fields(given, request.name("tool_choice"))
    kind = choice.need("type")
    if kind == "function":
        said: object = {"type": "function", "function": {"name": choice.need("name")}}
    elif kind == "allowed_tools":
        said = choice.need("mode")
        names = [_allowed(tool) for tool in listed(choice.take("tools"), choice.name("tools"))]
        tools = [tool for tool in tools if _name(tool) in names]
        if not tools:
            raise choice.cannot("tools", "None of them is among the tools.")
    else:
        raise choice.cannot("type", f"`{kind}`: {ONLY_FUNCTIONS}")
    choice.done()
    return said, tools


def _allowed(tool: Fields) -> str:
    _check_function(tool, tool.need("type"))
    name = tool.need("name")
    tool.done()
    return name


def _name(tool: Mapping[str, object]) -> object:
    function = tool["function"]
    return function["name"] if isinstance(function, dict) else None
