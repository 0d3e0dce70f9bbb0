"""Which requests may be answered with what another call was told, and why the others may not.

A request is told from another by its text alone. So one whose answer depends on anything else must ask: on what the
provider stores, on what it fetches, on what a tool of its own finds just now.
"""

from collections.abc import Iterator, Mapping

from extproc.cache.policy import CachePolicy
from extproc.dialects.endings import objects
from extproc.guardrails import inventory, tools
from extproc.guardrails.inventory import Inventory
from extproc.surfaces import Surface

Object = Mapping[str, object]

REASONS = frozenset(
    (
        "audio",
        "choices",
        "duplicate_keys",
        "hosted_tools",
        "media",
        "remote_content",
        "side_effects",
        "stateful",
        "stored",
        "surface",
        "temperature",
        "unreadable",
    )
)
"""Every word for why a request may not be answered from the cache; docs/cache.md explains them."""

_PLAIN = frozenset((None, "function", "custom"))
"""Types of tools that are the caller's own."""
_AT_THE_PROVIDER = (
    *("background", "container", "conversation", "deferred", "previous_response_id"),
    # Of servers that speak OpenAI's dialect and remember: Gemini, Dify, Letta, Open WebUI and the like.
    *("agent_id", "assistant_id", "cachedContent", "cached_content", "chat_id", "conversation_id"),
    *("session_id", "thread_id"),
)
"""Top-level fields that make a call lean on what the provider keeps, or leave something there to be fetched."""
_SEARCHES = ("builtin_tools", "connectors", "search", "searchParameters", "search_mode", "web_search_enabled")
"""Those that have the provider look for something each time, beside `tools.SWITCHES`."""
_JUDGED = frozenset(
    (
        *("audio", "best_of", "functions", "include", "input", "messages", "metadata", "modalities", "n", "prompt"),
        *("store", "temperature", "tools", *_AT_THE_PROVIDER, *_SEARCHES, *tools.SWITCHES),
    )
)
"""Top-level fields that are looked at here."""
_STORED = frozenset(("container", "file_id", "file_ids", "skill_id", "vector_store_ids"))
"""Keys of what lies at the provider."""
_INNER = ("content", "output", "summary")


def why(surface: Surface, given: Object, policy: CachePolicy, plain: bool) -> str | None:
    """Why a parsed request may not be answered from the cache, one of REASONS; None where it may. `plain`: see
    `cache.plain`."""
    if plain and given.get("n") in (None, 1):
        temperature = given.get("temperature")
        is_hot = isinstance(temperature, int | float) and temperature > policy.max_temperature
        return "temperature" if is_hot else None
    reason = _asked(surface, given, policy) or _stateful(surface, given)
    if reason is not None:
        return reason
    told = {name: value for name, value in given.items() if not _is_numbers(value)}
    return _held(inventory.take(told), policy)


def _is_numbers(value: object) -> bool:
    """Whether it is a list of tokens, or of such lists: there may be 300,000, and nothing is in them to be found."""
    if not isinstance(value, list):
        return False
    kinds = set(map(type, value))
    return bool(kinds) and (kinds <= {int, float} or (kinds == {list} and all(map(_is_numbers, value))))


def _asked(surface: Surface, given: Object, policy: CachePolicy) -> str | None:
    """What top-level fields say."""
    temperature = given.get("temperature")
    if not _is_spelled_well(given) or isinstance(temperature, bool | str | list | dict):
        return "unreadable"
    if given.get("n") not in (None, 1) or given.get("best_of") not in (None, 1):
        return "choices"
    if isinstance(temperature, int | float) and temperature > policy.max_temperature:
        return "temperature"
    if _is_stored(surface, given):
        return "stored"
    if any(given.get(name) not in (None, False, []) for name in _SEARCHES):
        return "hosted_tools"
    return _made(given)


def _is_spelled_well(given: Object) -> bool:
    """Whether no field is one of those looked at, in capitals: some servers read it, and others do not."""
    return all(name in _JUDGED or name.casefold() not in _JUDGED for name in given)


def _is_stored(surface: Surface, given: Object) -> bool:
    """Whether the provider keeps the answer, under an id that two callers would share."""
    if surface is Surface.RESPONSES:
        return given.get("store") is not False
    labelled = surface is not Surface.MESSAGES and bool(given.get("metadata"))
    return labelled or given.get("store") not in (None, False)


def _made(given: Object) -> str | None:
    """What is to be made that is no text."""
    wanted = given.get("modalities")
    kinds = [kind for kind in wanted if kind != "text"] if isinstance(wanted, list) else [wanted]
    if given.get("audio") is not None or "audio" in kinds:
        return "audio"
    return "media" if any(kind is not None for kind in kinds) else None


def _stateful(surface: Surface, given: Object) -> str | None:
    """Whether it leans on what lies at the provider, or holds, or asks for, what only the provider can read."""
    leans = any(given.get(name) not in (None, False) for name in _AT_THE_PROVIDER)
    included = given.get("include")
    sealed = isinstance(included, list) and any(isinstance(one, str) and "encrypted" in one for one in included)
    if leans or sealed or any(map(_is_sealed, _pieces(given))):
        return "stateful"
    if surface is Surface.RESPONSES:
        names = given.get("prompt") is not None or any(map(_names, objects(given.get("input"))))
        return "stateful" if names else None
    return None


def _pieces(given: Object) -> Iterator[Object]:
    """Messages, items, their parts, and the parts in these."""
    waiting = [given.get("messages"), given.get("input"), given.get("system")]
    while waiting:
        value = waiting.pop()
        if isinstance(value, dict):
            yield value
            waiting += [value.get(name) for name in _INNER]
        elif isinstance(value, list):
            waiting += [one for one in value if isinstance(one, dict | list)]


def _is_sealed(piece: Object) -> bool:
    """Whether only the provider can read it, or has it."""
    spoken = piece.get("audio")
    is_kept = isinstance(spoken, dict) and spoken.get("id") is not None
    return bool(piece.get("encrypted_content")) or piece.get("type") == "redacted_thinking" or is_kept


def _names(item: Object) -> bool:
    """Whether an item of the Responses API only names what the provider stores; its type may be left out."""
    match item.get("type"):
        case "item_reference":
            return True
        case "reasoning":
            return not item.get("content")
        case "image_generation_call":
            return not item.get("result")
        case None:
            return item.get("role") is None
    return False


def _held(found: Inventory, policy: CachePolicy) -> str | None:
    """What the request holds besides words."""
    if any(tool.is_hosted or tool.given.get("type") not in _PLAIN for tool in found.tools):
        return "hosted_tools"
    if policy.side_effects and any(_acts(tool.name, policy) for tool in found.tools):
        return "side_effects"
    if found.prompts or any(path[-1] in _STORED for path in found.files):
        return "stateful"
    if found.files or not all(image.is_inline for image in found.images):
        return "remote_content"
    return None


def _acts(name: str, policy: CachePolicy) -> bool:
    """Whether a tool does what must not be done twice. One whose name nobody can tell may be any; case does not count:
    who writes the configuration may not know how every program spells its tools.
    """
    return not name or tools.is_called(name.casefold(), [pattern.casefold() for pattern in policy.side_effects])
