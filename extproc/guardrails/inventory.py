"""What a request holds besides words: images, files, tools, servers of tools; and how many words."""

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

from extproc.guardrails import tools
from extproc.guardrails.tools import Object, Tool
from extproc.redaction.positions import Path
from extproc.redaction.vocabulary import SEALED, SEALED_BYTES
from extproc.values import frozen

_IMAGES = frozenset(
    ("computer_screenshot", "image", "image_base64", "image_generation_call", "image_url", "input_image")
)
_SHOWN = ("image", "image_url", "image_urls", "images")
"""Keys of nothing but images, or of objects that tell of one."""
_INLINE_IMAGE = ("data", "image_base64", "result")
_FILES = ("container", "file_id", "file_ids", "file_url", "skill_id", "vector_store_ids")
"""Keys of what the provider stores, or fetches, to be read as a file."""
_TEXTS = """
    arguments code content context current_url definition description documents error filename guided_choice
    guided_grammar guided_json guided_regex input instructions logs message model models name output prompt
    prompt_cache_key queries query reasoning reasoning_content refusal safety_identifier stderr stdout stop
    stop_sequences suffix summary system text thinking title transcript user value
"""
_SAID = frozenset(_TEXTS.split())
"""Keys of texts and names: an address that stands there is read as words. Under any other key it is one to fetch."""
_TOLD = frozenset(("search_result", "web_fetch_result", "web_search_result"))
"""Texts that came from somewhere, and say from where."""
_FOR_TOOLS = frozenset(("functions", "tools", *tools.SWITCHES))
"""Fields of a request whose addresses are those of tools, for which there are other rules."""
_ADDRESS = re.compile(r"\W{0,8}(?:https?:\S|(?:[a-z][a-z0-9+.-]+:)+[\\/])", re.IGNORECASE)
_ADDRESS_HEAD = 64
_LONGEST_URL = 4096
_BLANKS = "".join(map(chr, range(33)))
_PRODUCED = frozenset(("bash_code_execution_output", "code_execution_output"))
"""Records of files that a hosted tool made: they come back with the conversation, and are not read again."""
_OPAQUE = frozenset(
    (
        "annotations",
        "arguments",
        "citations",
        "functions",
        "guided_json",
        "input_schema",
        "json_schema",
        "metadata",
        "parameters",
        "response_format",
        "results",
        "schema",
        "structured_outputs",
        "tool_choice",
    )
)
"""Keys of what the caller writes as it likes, or what a provider said: nobody fetches anything for it."""
_BASE64 = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/-_=\r\n"


@frozen
class Image:
    """`url` is where the provider fetches it, None where the image stands in the body or is a file."""

    path: Path
    is_inline: bool
    url: str | None = None


class _Part(NamedTuple):
    """An object of the request; `image` is the path of the image that it is or tells of."""

    path: Path
    entry: Object
    image: Path | None


@dataclass(slots=True)
class Inventory:
    """`text` in characters, of all strings but media. `prompts` are stored at the provider."""

    messages: int = 0
    text: int = 0
    images: list[Image] = field(default_factory=list)
    files: list[Path] = field(default_factory=list)
    prompts: list[Path] = field(default_factory=list)
    tools: list[Tool] = field(default_factory=list)
    servers: list[tuple[Path, str | None]] = field(default_factory=list)  # of MCP, with their URLs


def take(document: Object) -> Inventory:
    """The inventory of a parsed request, of any surface."""
    found = Inventory(messages=_messages(document), text=_characters(document))
    drawn: dict[Path, None] = {}
    for part in _parts(document):
        _note(found, part)
        if part.image is not None and _kind(part.entry) in _IMAGES:
            drawn[part.image] = None
    shown = {image.path for image in found.images}
    found.images += [Image(path, False) for path in drawn if path not in shown]  # however it is meant to be found
    found.tools += tools.listed(document.get("functions"), ("functions",))
    found.tools += tools.switched_on(document)
    found.servers += [(tool.path, _string(tool.given, "server_url")) for tool in found.tools if _is_server(tool)]
    found.servers += _named_servers(document.get("mcp_servers"))
    if isinstance(document.get("prompt"), dict):
        found.prompts.append(("prompt",))
    return found


def _messages(document: Object) -> int:
    lists = [given for key in ("messages", "input") if isinstance(given := document.get(key), list)]
    return max((len(given) for given in lists if any(isinstance(one, dict) for one in given)), default=0)


def _characters(document: Object) -> int:
    """Of all strings, wherever they stand, without those that are media by their place and by themselves."""
    total = 0
    waiting: list[tuple[str, object]] = [("", document)]
    while waiting:
        key, value = waiting.pop()
        if isinstance(value, dict):
            waiting += value.items()
        elif isinstance(value, list):
            waiting += [(key, item) for item in value]
        elif isinstance(value, str) and not (key in SEALED and _is_sealed(value)):
            total += len(value)
    return total


def _is_sealed(text: str) -> bool:
    head, comma, data = text.partition(",") if _is_data_url(text) else ("", "", text)
    is_media = len(head) <= _ADDRESS_HEAD if comma else len(data) >= SEALED_BYTES
    return is_media and not data.encode(errors="replace").translate(None, _BASE64)


def _parts(document: Object) -> Iterator[_Part]:
    """Every object that a provider reads as a part of the request, and not as the caller's data."""
    waiting: list[tuple[Path, object, Path | None]] = [((), document, None)]
    while waiting:
        path, value, image = waiting.pop()
        if isinstance(value, list):
            waiting += [((*path, index), value[index], image) for index in reversed(range(len(value)))]
        elif isinstance(value, dict):
            if image is None and _kind(value) in _IMAGES:
                image = path
            yield _Part(path, value, image)
            inner = [(key, one) for key, one in value.items() if isinstance(one, dict | list)]
            waiting += [
                ((*path, key), one, _image_of(path, key, image))
                for key, one in reversed(inner)
                if not _is_data(value, path, key)
            ]


def _image_of(path: Path, key: str, image: Path | None) -> Path | None:
    """The image that is told of under a key of an object."""
    if key in _SHOWN:
        return path if image is None else image
    return image if key == "source" else None


def _is_data(holder: Object, path: Path, key: str) -> bool:
    if key == "input" and path:
        return _kind(holder).endswith("tool_use")
    if key in ("action", "actions", "outputs"):
        return _kind(holder).endswith("_call")
    return key in _OPAQUE


def _note(found: Inventory, part: _Part) -> None:
    path, entry, image = part
    stored = list(_stored(entry))
    found.files += [(*path, key) for key in stored]
    if image is not None and stored:
        found.images.append(Image(image, False))
    for key, text in _strings(entry):
        if _is_image(part, key, text):
            is_inline = _is_inline(key, text)
            found.images.append(Image(path if image is None else image, is_inline, None if is_inline else text))
        elif key not in stored and _is_fetched(part, key, text):
            found.files.append((*path, key))
    if entry.get("type") != "mcp_list_tools" and "tools" not in path:  # else they came with their parent
        found.tools += tools.listed(entry.get("tools"), (*path, "tools"))


def _strings(entry: Object) -> Iterator[tuple[str, str]]:
    """Those of an object and of the lists in it, without what is said there."""
    for key, value in entry.items():
        if key in _SAID or key in _OPAQUE:
            continue
        if isinstance(value, str):
            yield key, value
            continue
        waiting = list(value) if isinstance(value, list) else []
        while waiting:
            one = waiting.pop()
            if isinstance(one, list):
                waiting += one
            elif isinstance(one, str):
                yield key, one


def _is_image(part: _Part, key: str, text: str) -> bool:
    """Whether a string is an image, or where one is found."""
    if key in _SHOWN:
        return True
    if part.image is not None and (key == "url" or key in _INLINE_IMAGE):
        return True
    return (part.image is not None or "image" in key.lower()) and _is_address(text)


def _is_inline(key: str, text: str) -> bool:
    return _is_data_url(text) or _is_sealed(text) or (key in _INLINE_IMAGE and not _is_address(text))


def _is_fetched(part: _Part, key: str, text: str) -> bool:
    """Whether a provider may fetch what a string names, which is no image."""
    path, entry, _ = part
    if "tools" in path or (path and path[0] in _FOR_TOOLS):
        return False
    kind = _kind(entry)
    if kind in _TOLD and key in ("source", "url"):
        return False
    if kind == "text" and key == "data" and path[-1:] == ("source",):  # a document in plain text
        return False
    return _is_address(text) or (kind == "url" and key == "url")


def _stored(entry: Object) -> Iterator[str]:
    """The keys of an object under which it names files."""
    if _kind(entry) not in _PRODUCED:
        yield from (key for key in _FILES if entry.get(key) and not _is_own(key, entry[key]))


def _is_own(key: str, value: object) -> bool:
    """Whether it is a container that begins empty. The files that it is given, it names by itself."""
    return key == "container" and isinstance(value, dict) and not value.get("id")


def _is_address(text: str) -> bool:
    """Whether some parser may read it as a URL, of any scheme but `data`."""
    head = text.lstrip(_BLANKS)[:_LONGEST_URL]
    for torn in "\t\r\n":  # parsers pass over these wherever they stand
        head = head.replace(torn, "")
    head = head[:_ADDRESS_HEAD]
    return ":" in head and not _is_data_url(head) and _ADDRESS.match(head) is not None


def _is_data_url(address: str) -> bool:
    return address[:5].lower() == "data:"


def _is_server(tool: Tool) -> bool:
    """Whether a tool is a server by itself; a set of tools only names one of the servers in `mcp_servers`."""
    return tool.is_hosted and tool.name == "mcp" and tool.given.get("type") not in (None, "mcp_toolset")


def _named_servers(given: object) -> Iterator[tuple[Path, str | None]]:
    if given is not None and not isinstance(given, list):
        yield ("mcp_servers",), None
    for index, entry in enumerate(given if isinstance(given, list) else ()):
        yield ("mcp_servers", index), _string(entry, "url") if isinstance(entry, dict) else None


def _kind(entry: Object) -> str:
    return _string(entry, "type") or ""


def _string(entry: Object, key: str) -> str | None:
    value = entry.get(key)
    return value if isinstance(value, str) else None
