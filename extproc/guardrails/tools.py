"""Tools that a request offers a model: whose they are, and what they are called."""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple

from extproc.redaction.positions import Path

Object = Mapping[str, object]

_VERSION = re.compile(r"(?:[_-](?:preview|[0-9]{8}|[0-9]{4}[_-][0-9]{2}[_-][0-9]{2}))+$")
_LONGEST_TYPE = 64
_AT_THE_CALLER = frozenset(("apply_patch", "bash", "computer", "computer_use", "local_shell", "memory", "text_editor"))
"""Types that a provider describes to the model, and whose calls the caller carries out."""
_SAME = {"mcp_toolset": "mcp", "google_search": "web_search"}
_KEYED = {
    "codeExecution": "code_execution",
    "code_execution": "code_execution",
    "googleSearch": "web_search",
    "google_search": "web_search",
    "urlContext": "url_context",
    "url_context": "url_context",
}
"""Gemini's tools have no type, and are told by their only key."""
SWITCHES = {
    "data_sources": "data_sources",
    "enable_search": "web_search",
    "enable_web_search": "web_search",
    "mcp_servers": "mcp",
    "plugins": "plugins",
    "search_parameters": "web_search",
    "search_settings": "web_search",
    "web_search": "web_search",
    "web_search_options": "web_search",
}
"""Top-level fields that turn a hosted tool on: OpenAI's, Anthropic's, Azure's, OpenRouter's, xAI's, Qwen's."""


class Tool(NamedTuple):
    """One tool. `name` is the caller's own for it; of one that the provider runs, its type without version.

    Of one that the provider knows and the caller runs, it is that type as well: `bash`, `text_editor`.
    """

    path: Path
    is_hosted: bool
    name: str
    given: Object


def listed(given: object, path: Path) -> Iterator[Tool]:
    """The tools of a list, and of the lists in it. What is not understood is one that the provider runs."""
    if given and not isinstance(given, list):
        yield from _enabled(given, path)
    for index, entry in enumerate(given if isinstance(given, list) else ()):
        at = (*path, index)
        if not isinstance(entry, dict):
            yield Tool(at, True, "", {})
            continue
        if entry.get("type") == "namespace" and isinstance(entry.get("tools"), list):
            yield from listed(entry["tools"], (*at, "tools"))
        else:
            yield _tool(entry, at)


def _enabled(given: object, path: Path) -> Iterator[Tool]:
    """Tools that are not in a list: Groq names those that a system of models may use."""
    names = given.get("enabled_tools") if isinstance(given, dict) else None
    if not isinstance(names, list):
        yield Tool(path, True, "", {})
        return
    for index, name in enumerate(names):
        yield Tool((*path, "enabled_tools", index), True, name if isinstance(name, str) else "", {})


def _tool(entry: Object, path: Path) -> Tool:
    kind = entry.get("type")
    if kind is None and (not _own_name(entry) or not _KEYED.keys().isdisjoint(entry)):
        return Tool(path, True, _KEYED.get(next(iter(entry), ""), "") if len(entry) == 1 else "", entry)
    if kind is None or kind in ("function", "custom"):
        return Tool(path, False, _own_name(entry), entry)
    if not isinstance(kind, str) or len(kind) > _LONGEST_TYPE:
        return Tool(path, True, "", entry)
    name = _VERSION.sub("", kind)
    is_hosted = name not in _AT_THE_CALLER and not _is_local_shell(name, entry)
    return Tool(path, is_hosted, _SAME.get(name, name), entry)


def _is_local_shell(name: str, entry: Object) -> bool:
    environment = entry.get("environment")
    return name == "shell" and isinstance(environment, dict) and environment.get("type") == "local"


def _own_name(entry: Object) -> str:
    """Chat completions have it one level deeper. Nothing where two differ: nobody knows which one counts."""
    holders = (entry, entry.get("function"), entry.get("custom"))
    names = {holder["name"] for holder in holders if isinstance(holder, dict) and isinstance(holder.get("name"), str)}
    return names.pop() if len(names) == 1 else ""


def switched_on(document: Object) -> Iterator[Tool]:
    """Hosted tools that top-level fields turn on."""
    for field, name in SWITCHES.items():
        value = document.get(field)
        if value is not None and value is not False:
            yield Tool((field,), True, name, {})


def is_called(name: str, patterns: Iterable[str]) -> bool:
    """Whether a name is one of those, in which `*` stands for anything."""
    return any(_matches(pattern.split("*"), name) for pattern in patterns)


def _matches(parts: Sequence[str], name: str) -> bool:
    first, last = parts[0], parts[-1]
    if len(parts) == 1:
        return name == first
    if len(name) < len(first) + len(last) or not (name.startswith(first) and name.endswith(last)):
        return False
    at, end = len(first), len(name) - len(last)
    for part in parts[1:-1]:
        at = name.find(part, at, end)
        if at < 0:
            return False
        at += len(part)
    return True
