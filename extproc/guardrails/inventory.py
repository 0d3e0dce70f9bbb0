"""What a request holds besides words: images, files, tools, servers of tools; and how many words."""

from collections.abc import Iterator
from dataclasses import dataclass, field

from extproc.guardrails import tools
from extproc.guardrails.tools import Object, Tool
from extproc.redaction.positions import Path
from extproc.redaction.vocabulary import SEALED, SEALED_BYTES

_IMAGES = frozenset(
    ("computer_screenshot", "image", "image_base64", "image_generation_call", "image_url", "input_image")
)
_INLINE_IMAGE = ("data", "image_base64", "result")
_FILES = ("container", "file_id", "file_ids", "file_url", "skill_id", "vector_store_ids")
"""Keys of what the provider stores, or fetches, to be read as a file."""
_LINKED = ("audio_url", "file_data", "video_url")
"""Keys of bytes, or of a URL of them."""
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
        "tool_choice",
    )
)
"""Keys of what the caller writes as it likes, or what a provider said: nobody fetches anything for it."""
_BASE64 = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/-_=\r\n"


@dataclass(frozen=True, slots=True)
class Image:
    """`url` is where the provider fetches it, None where the image stands in the body or is a file."""

    path: Path
    is_inline: bool
    url: str | None = None


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
    for path, entry in _objects(document):
        _note(found, path, entry)
    found.tools += tools.listed(document.get("functions"), ("functions",))
    found.tools += tools.switched_on(document)
    found.servers += [(tool.path, _string(tool.given, "server_url")) for tool in found.tools if _is_server(tool)]
    found.servers += _named_servers(document.get("mcp_servers"))
    if isinstance(document.get("prompt"), dict):
        found.prompts.append(("prompt",))
    return found


def _messages(document: Object) -> int:
    given = document.get("messages", document.get("input"))
    return len(given) if isinstance(given, list) and any(isinstance(one, dict) for one in given) else 0


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
    data = text.partition(",")[2] if _is_data_url(text) else text
    return len(data) >= SEALED_BYTES and not data.encode(errors="replace").translate(None, _BASE64)


def _objects(document: Object) -> Iterator[tuple[Path, Object]]:
    """Every object that a provider reads as a part of the request, and not as the caller's data."""
    waiting: list[tuple[Path, object]] = [((), document)]
    while waiting:
        path, value = waiting.pop()
        if isinstance(value, list):
            waiting += [((*path, index), value[index]) for index in reversed(range(len(value)))]
        elif isinstance(value, dict):
            yield path, value
            inner = [(key, one) for key, one in value.items() if isinstance(one, dict | list)]
            waiting += [((*path, key), one) for key, one in reversed(inner) if not _is_data(value, path, key)]


def _is_data(holder: Object, path: Path, key: str) -> bool:
    if key == "input" and path:
        return _kind(holder).endswith("tool_use")
    return key in _OPAQUE


def _note(found: Inventory, path: Path, entry: Object) -> None:
    image = _image(path, entry)
    if image:
        found.images.append(image)
    found.files += [(*path, key) for key in _files_of(entry)]
    if entry.get("type") != "mcp_list_tools" and "tools" not in path:  # else they came with their parent
        found.tools += tools.listed(entry.get("tools"), (*path, "tools"))


def _image(path: Path, entry: Object) -> Image | None:
    holder = entry
    source = entry.get("source")
    if entry.get("type") == "image" and isinstance(source, dict):
        holder, address = source, source.get("url")
    else:
        shown = entry.get("image_url", entry.get("image"))
        address = shown.get("url") if isinstance(shown, dict) else shown
        if not isinstance(address, str) and _kind(entry) not in _IMAGES:
            return None
    if isinstance(address, str):
        is_inline = _is_data_url(address) or _is_sealed(address)
        return Image(path, is_inline, None if is_inline else address)
    return Image(path, any(isinstance(holder.get(key), str) for key in _INLINE_IMAGE))


def _files_of(entry: Object) -> Iterator[str]:
    """The keys of an object under which it names files."""
    if _kind(entry) in _PRODUCED:
        return
    yield from (key for key in _FILES if entry.get(key) and not _is_own(key, entry[key]))
    yield from (key for key in _LINKED if _is_address(entry.get(key)))
    source = entry.get("source")
    if _kind(entry) not in _IMAGES and isinstance(source, dict) and source.get("type") == "url":
        yield "source"


def _is_own(key: str, value: object) -> bool:
    """Whether it is a container that begins empty. The files that it is given, it names by itself."""
    return key == "container" and isinstance(value, dict) and not value.get("id")


def _is_address(value: object) -> bool:
    address = value.get("url") if isinstance(value, dict) else value
    return isinstance(address, str) and not _is_data_url(address) and "://" in address[:20]


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
