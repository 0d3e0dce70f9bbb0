"""Service tiers: the ways to be served that providers have prices of their own for, in their several words.

A request may ask for one, or leave it to the provider, who may have been told elsewhere. What is paid for is the one
that the answer names.
"""

from collections.abc import Mapping

from extproc.model import OTHER_TIER, SERVICE_TIERS

_USUAL = frozenset(("default", "standard", "standard_only", "on_demand", "auto", "not_available", ""))
"""Words for the usual one. `auto` in an answer tells nothing: a later event of the same does."""
_NAMED = frozenset(SERVICE_TIERS)
_ASKED_ONLY = frozenset(("batch", "fast"))  # which no provider chooses of itself
LEFT_OPEN = _NAMED - _ASKED_ONLY
"""Those of which the provider chooses where a request says nothing."""


def asked(request: Mapping[str, object]) -> frozenset[str]:
    """The tiers in which a request may be served beside the usual one: as it says, or as the provider chooses."""
    if request.get("speed") == "fast":  # Anthropic's word
        return LEFT_OPEN | {"fast"}
    tier = request.get("service_tier")
    if not isinstance(tier, str) or tier == "auto":
        return LEFT_OPEN
    if tier in _USUAL:
        return frozenset()
    return frozenset((tier,)) if tier in _NAMED else _NAMED


def answered(said: Mapping[str, object]) -> str | None:
    """The tier that an answer, or a part of one, names; empty: the usual one, None: it says nothing."""
    if said.get("speed") == "fast":
        return "fast"
    tier = said.get("service_tier")
    if not isinstance(tier, str):
        return None
    if tier in _USUAL:
        return ""
    return tier if tier in _NAMED else OTHER_TIER
