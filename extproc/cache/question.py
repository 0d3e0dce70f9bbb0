"""What a request asks, so that two that ask the same are known to: the canonical form of its body.

Takes the request as it would be sent: redacted. See docs/cache.md for the form.
"""

import hmac
import json
from collections.abc import Mapping, Sequence
from dataclasses import field
from functools import lru_cache
from itertools import chain
from typing import Any, NamedTuple

import orjson

from extproc.cache import bypass
from extproc.cache.plain import is_plain
from extproc.cache.policy import CachePolicy
from extproc.redaction.policy import Mode
from extproc.surfaces import Surface
from extproc.values import frozen

SURFACES = frozenset({Surface.CHAT, Surface.COMPLETIONS, Surface.RESPONSES, Surface.EMBEDDINGS, Surface.MESSAGES})
"""Those whose answers may be kept."""
LONGEST = 8_000
"""Characters of the last words of a user that the semantic tier looks at."""

_VERSION = "1"  # of the form: what another one made is never found
_ABOUT_THE_CALLER = frozenset(("prompt_cache_key", "prompt_cache_retention", "safety_identifier", "user"))
# No answer depends on these. The Responses API tells them in its answers, so that there they matter.
_LEFT_OUT = {
    Surface.CHAT: _ABOUT_THE_CALLER,
    Surface.COMPLETIONS: _ABOUT_THE_CALLER,
    Surface.EMBEDDINGS: _ABOUT_THE_CALLER,
    Surface.MESSAGES: frozenset(("metadata",)),
    Surface.RESPONSES: frozenset[str](),
}
_TALKS = {Surface.CHAT: "messages", Surface.MESSAGES: "messages", Surface.RESPONSES: "input"}
_INPUTS = {Surface.COMPLETIONS: "prompt", Surface.EMBEDDINGS: "input"}

Tree = dict[str, object]
_Place = Sequence[str | int]
_SHORT = 256  # characters of what callers ask for beside the body


class Bypass(Exception):
    """The call may not be answered from the cache, nor its answer be kept. `args[0]` says why, as a constant word."""


@frozen
class Question:
    """`exact`: all that matters, in canonical form. `rest` and `text`: the same in two parts, where the semantic tier
    may look at it: all but the last words of the user, which must be equal, and these; else None. `results`: how many
    embeddings or choices an answer must have, one for each input.
    """

    exact: bytes = field(repr=False)
    rest: bytes | None = field(default=None, repr=False)
    text: str | None = field(default=None, repr=False)
    results: int = 1


def read(surface: Surface, body: bytes, policy: CachePolicy, known: Mapping[str, object] | None = None) -> Question:
    """Read a request. `known`: see `Prompt.plain`. Raises Bypass."""
    if surface not in SURFACES:
        raise Bypass("surface")
    if policy.semantic.mode is not Mode.OFF:
        known = None  # its texts are taken out of it
    try:
        given: Any = orjson.loads(body) if known is None else known
        # What comes out again byte for byte has no key twice, and no number that is written in two ways; and a plain
        # request has no keys that differ in their case alone: another reading could find nothing else in it.
        plain = known is not None or is_plain(surface, given)
        is_whole = known is not None or (plain and orjson.dumps(given) == body)
        tree = dict(given) if is_whole else _parse(body.decode())
        exact = _form(surface, tree)
    except (ValueError, TypeError, RecursionError):
        raise Bypass("unreadable") from None
    reason = bypass.why(surface, given, policy, plain)
    if reason is not None:
        raise Bypass(reason)
    results = _results(given.get(_INPUTS.get(surface, "")))
    place = None if policy.semantic.mode is Mode.OFF else _last_words(surface, given)
    if place is None:
        return Question(exact, results=results)
    text = _cut(tree, place)
    try:
        rest = orjson.dumps([place, tree], option=orjson.OPT_SORT_KEYS)
    except TypeError:  # one level deeper than the form itself
        return Question(exact, results=results)
    return Question(exact, rest, text, results)


# ---- the canonical form -----------------------------------------------------------------------------


def _object(pairs: list[tuple[str, object]]) -> Tree:
    """An object. Of keys that are equal, or differ in their case alone, readers take different ones."""
    given = dict(pairs)
    if len(given) != len(pairs) or len({key.casefold() for key in given}) != len(pairs):
        raise Bypass("duplicate_keys")
    return given


def _no_number(name: str) -> object:
    raise ValueError(name)


def _whole(written: str) -> object:
    return orjson.Fragment(written) if written == "-0" else int(written)


# Numbers stay as they are written, since readers take them differently: 1 and 1.0, 0.1 and one with twenty digits.
# Whole ones are the same in the end, but for -0; those beyond 64 bits nobody writes here.
_DECODER = json.JSONDecoder(object_pairs_hook=_object, parse_float=orjson.Fragment, parse_constant=_no_number)
_SLOWER = json.JSONDecoder(
    object_pairs_hook=_object, parse_float=orjson.Fragment, parse_int=_whole, parse_constant=_no_number
)


def _parse(text: str) -> Tree:
    tree = (_SLOWER if "-0" in text else _DECODER).decode(text)
    if not isinstance(tree, dict):
        raise ValueError
    return tree


def _form(surface: Surface, tree: Tree) -> bytes:
    """JSON without white space, keys in the order of their code points; takes out of the tree what does not matter."""
    for name in ("model", *_LEFT_OUT[surface]):
        tree.pop(name, None)
    return orjson.dumps(tree, option=orjson.OPT_SORT_KEYS)


def _results(given: object) -> int:
    """A list of tokens is one input, of anything else each is one."""
    is_several = isinstance(given, list) and bool(given) and not isinstance(given[0], int)
    return len(given) if isinstance(given, list) and is_several else 1


# ---- the last words of the user ---------------------------------------------------------------------


def _last_words(surface: Surface, given: Tree) -> _Place | None:
    """Where they stand, if the request ends with them and they are all that the user said there.

    A request that offers tools has none: what is done for other words is not undone where they were misunderstood.
    """
    name = _TALKS.get(surface)
    if name is None or given.get("tools") or given.get("functions"):
        return None
    said = given.get(name)
    if isinstance(said, list):
        return _in_message(said[-1], [name, len(said) - 1]) if said else None
    return [name] if _is_short(said) else None


def _in_message(message: object, place: list[str | int]) -> _Place | None:
    if not isinstance(message, dict) or message.get("role") != "user" or message.get("type") not in (None, "message"):
        return None
    content = message.get("content")
    if not isinstance(content, list):
        return [*place, "content"] if _is_short(content) else None
    part = content[0] if len(content) == 1 else None
    is_text = isinstance(part, dict) and part.get("type") in ("text", "input_text") and _is_short(part.get("text"))
    return [*place, "content", 0, "text"] if is_text else None


def _is_short(text: object) -> bool:
    return isinstance(text, str) and len(text) <= LONGEST and bool(text.strip())


def _cut(tree: Tree, place: _Place) -> str:
    """Take the text out of the tree. That it is missing there, and where, no request can say in its own words."""
    holder: object = tree
    for step in place[:-1]:
        holder = holder[step]  # type: ignore[index]  # a path of the same JSON
    return str(holder.pop(place[-1]))  # type: ignore[attr-defined]


# ---- the digest -------------------------------------------------------------------------------------


class Partition(NamedTuple):
    """What must be equal before anything else is looked at. `model` and `policy` hold digests of what they are."""

    tenant: str
    policy: str
    model: str
    surface: str
    asked: tuple[tuple[str, str], ...] = ()  # headers and the query, in which a caller asks for a version of the API


def digest(key: bytes, partition: Partition, form: bytes, tier: str = "exact") -> str:
    """64 hex digits that nobody without the key can tell from another's.

    HMAC-SHA256 over all facts, each behind its length, so that none can run over into the next.
    """
    is_short = sum(map(len, chain.from_iterable(partition.asked))) <= _SHORT
    facts = _facts(partition, tier) if is_short else _written(partition, tier)
    return hmac.digest(key, facts + form, "sha256").hex()


def _written(partition: Partition, tier: str) -> bytes:
    """All that comes before the form."""
    tenant, policy, model, surface, asked = partition
    facts = ("question", _VERSION, tier, tenant, policy, model, surface, *chain.from_iterable(asked))
    parts = [len(facts).to_bytes(8)]
    for fact in facts:
        data = fact.encode("utf-8", "surrogatepass")
        parts += (len(data).to_bytes(8), data)
    return b"".join(parts)


_facts = lru_cache(1024)(_written)  # most calls of a team have the same; not those in which a caller wrote much
