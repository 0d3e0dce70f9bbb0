"""Who speaks in a text of a request, told by where it stands."""

from collections.abc import Mapping

from extproc.redaction.positions import Path
from extproc.redaction.vocabulary import ASIDE as _FIELDS_ASIDE

SYSTEM = "system"
USER = "user"
ASSISTANT = "assistant"
TOOL = "tool"
"""Results of tools, and documents: what somebody else wrote."""
DEFINITIONS = "tools"
"""Names, descriptions and schemas of tools. They may come from a server of tools, and so from somebody else."""
ASIDE = "aside"
"""What no model reads."""

_BY_WORD = {
    "assistant": ASSISTANT,
    "developer": "developer",
    "function": TOOL,
    "model": ASSISTANT,
    "system": SYSTEM,
    "tool": TOOL,
}
_BY_FIELD = {
    "documents": TOOL,
    "functions": DEFINITIONS,
    "instructions": SYSTEM,
    "system": SYSTEM,
    "tools": DEFINITIONS,
    **dict.fromkeys(_FIELDS_ASIDE, ASIDE),
}
_FOREIGN = frozenset(("document", "search_result"))
"""Parts that are texts of somebody else, whoever hands them in."""
_RESULTS = ("output", "results", "result", "content")


def role(document: Mapping[str, object], path: Path) -> str:
    """One of the words above, or `developer`. `path` is of a text in the parsed request.

    Whoever gives itself another role is a user, and so is whatever stands where nobody expects it.
    """
    field = path[0] if path else ""
    if field in ("messages", "input") and len(path) > 1 and isinstance(path[1], int):
        return _in_message(document.get(str(field)), path)
    return _BY_FIELD.get(str(field), USER)


def _in_message(messages: object, path: Path) -> str:
    message = _item(messages, path[1])
    if not isinstance(message, dict):
        return USER
    kind, speaker = message.get("type"), message.get("role")
    if isinstance(speaker, str) and kind in (None, "message"):
        part = _item(message.get("content"), path[3]) if len(path) > 3 and path[2] == "content" else None
        return TOOL if _is_foreign(part) else _BY_WORD.get(speaker, USER)
    return _of_item(str(kind or ""), path)


def _of_item(kind: str, path: Path) -> str:
    """Of an item of the Responses API that is no message: what a model did, or what came of it."""
    if kind.endswith("_output") or kind == "mcp_list_tools":
        return TOOL
    if kind.endswith("_call") or kind == "reasoning":
        return TOOL if len(path) > 2 and path[2] in _RESULTS and kind != "reasoning" else ASSISTANT
    return USER


def _is_foreign(part: object) -> bool:
    kind = part.get("type") if isinstance(part, dict) else None
    return isinstance(kind, str) and (kind in _FOREIGN or kind.endswith("tool_result"))


def _item(items: object, index: str | int) -> object:
    if isinstance(items, list) and isinstance(index, int) and 0 <= index < len(items):
        return items[index]
    return None
