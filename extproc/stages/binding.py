"""What binds a call to one of the backends of a group: what it has in common with others, as its model wants it."""

import hashlib
from collections.abc import Collection, Mapping

from extproc.headers import Headers
from extproc.model import Affinity, Binding, Caller, CleanPrompt

_PREFIX = 1_024
"""Bytes by which two prompts are known to begin alike."""
_BEGINNINGS = (b'"messages"', b'"input"', b'"prompt"')


def headers(given: Headers, wanted: Collection[str]) -> Mapping[str, str]:
    """Those of the wanted headers that the call has."""
    return {name: given.get(name) or "" for name in wanted if name in given} if wanted else {}


def of(affinity: Affinity, caller: Caller, bound: Mapping[str, str], clean: CleanPrompt) -> str | None:
    """What the call shares with others of its caller's team; None: nothing, so that it is drawn for itself.

    Teams never share one: what one of them names says nothing about another one's.
    """
    own = _own(affinity, bound, clean)
    if own is None:
        return None
    return f"{caller.team.name if caller.team else caller.owner} {own}"


def _own(affinity: Affinity, bound: Mapping[str, str], clean: CleanPrompt) -> str | None:
    if affinity.by is Binding.TEAM:
        return ""
    if affinity.by is Binding.PROMPT:
        return _beginning(clean.prompt.body)
    if affinity.by is Binding.HEADER:
        return bound.get(affinity.name) or None
    return _cookie(bound.get("cookie", ""), affinity.name)


def _beginning(body: bytes) -> str | None:
    """Of how the prompt begins, wherever in the request it stands. No text of it can be told from the digest."""
    start = next((at for field in _BEGINNINGS if (at := body.find(field)) >= 0), None)
    if start is None:
        return None
    return hashlib.blake2b(body[start : start + _PREFIX], digest_size=16).hexdigest()


def _cookie(sent: str, name: str) -> str | None:
    for part in sent.split(";"):
        given, _, value = part.strip().partition("=")
        if given == name:
            return value or None
    return None
