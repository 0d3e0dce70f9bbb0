"""What the maintained package genai-prices says that models cost: its own snapshot, never the network."""

import importlib
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from enum import StrEnum
from importlib.metadata import version
from typing import Any

from extproc.config.backends import Backend
from extproc.model import Price

CURRENCY = "USD"
"""Of all its prices."""

_NAME = "genai-prices"
_PROVIDERS = {"anthropic": "anthropic", "azure-openai": "azure", "gemini": "google"}
"""By dialect, where neither the host nor `provider` names one that it knows."""
_KEYS: Mapping[str, tuple[tuple[str, int], ...]] = {
    "input": (("input_mtok", 1),),
    "output": (("output_mtok", 1),),
    "cached_input": (("cache_read_mtok", 1),),
    "cache_write": (("cache_write_mtok", 1), ("cache_write_5m_mtok", 1)),
    "cache_write_1h": (("cache_write_1h_mtok", 1),),
    "reasoning": (("output_reasoning_mtok", 1),),
    "audio_input": (("input_audio_mtok", 1),),
    "audio_output": (("output_audio_mtok", 1),),
    "image_input": (("input_image_mtok", 1),),
    "image_output": (("output_image_mtok", 1),),
    "request": (("requests_kcount", 1000),),
    "minute": (("audio_hours", 60), ("input_audio_hours", 60)),
    "hosted_call": (("web_searches_kcount", 1000),),
}
"""By our names: its own, the first of which counts that it knows, and how many of ours one of its is."""
_FALLBACKS = {
    **dict.fromkeys(("cached_input", "cache_write", "audio_input", "image_input"), "input"),
    **dict.fromkeys(("reasoning", "audio_output", "image_output"), "output"),
    "cache_write_1h": "cache_write",
}
"""What a class costs that has no price of its own: in the package as here."""
_UNITS = ("request", "minute", "hosted_call")
_CONTEXTS = {"batch": {"processing": "batch"}, "fast": {"service_tier": "fast", "speed": "fast"}}
"""What it calls service tiers; others by their names, as OpenAI does."""
_NANO = 9


class NotInstalled(Exception):
    """The package, or what it needs, is not there; the text names it."""


@dataclass(frozen=True, slots=True)
class Difference:
    """One amount that is not the same. None: no such price. In nano-units, of a million tokens or each."""

    tier: str  # of calls in this service tier; empty: the usual one
    above: int  # with more tokens of input than that
    name: str
    ours: int | None
    listed: int | None


@dataclass(frozen=True, slots=True)
class Comparison:
    """A model's prices beside the package's. `tiers`: those that it lists and the configuration does not."""

    listed_as: str
    differences: tuple[Difference, ...]
    same: int
    tiers: tuple[str, ...]


class Unknown(StrEnum):
    """What it does not know."""

    PROVIDER = "provider"
    MODEL = "model"


class Package:
    """The package at one time, which tells versions of a price apart. Raises NotInstalled."""

    def __init__(self, at: datetime) -> None:
        try:
            snapshots = importlib.import_module("genai_prices.data_snapshot")
        except ModuleNotFoundError as error:
            raise NotInstalled(error.name or _NAME) from None
        self._snapshot: Any = snapshots.get_snapshot()
        self._at = at
        self.version = version(_NAME)

    def compared(self, backend: Backend, names: Collection[str], price: Price | None) -> Comparison | Unknown:
        """`names`: of the model at the backend and here, of which the first counts that it knows."""
        provider = self._provider(backend)
        if provider is None:
            return Unknown.PROVIDER
        models = (provider.find_model(name.lower(), all_providers=self._snapshot.providers) for name in names)
        model = next((one for one in models if one is not None), None)
        if model is None:
            return Unknown.MODEL
        variants = {tier for tier in _tiers(model) if self._is_listed(model, tier)}
        own = {tier for tier, _ in price.tiers} if price is not None else set()
        found = [one for tier in ("", *sorted(own & variants)) for one in self._of_tier(model, price, tier)]
        differing = tuple(one for one in found if one.ours != one.listed)
        return Comparison(
            f"{provider.id}/{model.id}", differing, len(found) - len(differing), tuple(sorted(variants - own))
        )

    def _provider(self, backend: Backend) -> Any:
        """By the host, by the name that the configuration gives it, or by the dialect."""
        names = (backend.provider, _PROVIDERS.get(backend.dialect))
        asked = [{"provider_api_url": backend.url}, *[{"provider_id": name} for name in names if name]]
        for one in asked:
            try:
                return self._snapshot.find_provider(None, one.get("provider_id"), one.get("provider_api_url"))
            except LookupError:
                continue
        return None

    def _is_listed(self, model: Any, tier: str) -> bool:
        """Whether the tier has prices of its own now."""
        return bool(self._prices(model, tier) != self._prices(model, ""))

    def _prices(self, model: Any, tier: str) -> Any:
        context = _CONTEXTS.get(tier, {"service_tier": tier}) if tier else {}
        return model.get_prices(self._at, context)

    def _of_tier(self, model: Any, price: Price | None, tier: str) -> Iterator[Difference]:
        listed = self._prices(model, tier)
        ours = price if price is None or not tier else dict(price.tiers)[tier]
        for above in sorted({0, *_floors(listed), *([floor for floor, _ in ours.above] if ours else ())}):
            part = None if ours is None else _part(ours, above)
            yield from _compared(listed, part, tier, above)


def _tiers(model: Any) -> set[str]:
    """The service tiers of which it says anything, by our names."""
    conditions = [variant.when for variant in model.price_variants or ()]
    named = {one["service_tier"] for one in conditions if set(one) == {"service_tier"}}
    for tier, context in _CONTEXTS.items():
        named |= {tier for one in conditions if len(one) == 1 and one.items() <= context.items()}
    return named - {"default"}


def _floors(listed: Any) -> set[int]:
    """The tokens of input above which a token costs something else."""
    amounts = [getattr(listed, key) for name in _KEYS if name not in _UNITS for key, _ in _KEYS[name]]
    return {tier.start for amount in amounts for tier in getattr(amount, "tiers", ()) if tier.start}


def _part(price: Price, above: int) -> Price:
    return next((more for floor, more in reversed(price.above) if above >= floor), price)


def _compared(listed: Any, ours: Price | None, tier: str, above: int) -> Iterator[Difference]:
    """Each amount that either of them gives, with what it comes to on the other side."""
    theirs = {name: _listed(listed, name, above) for name in _KEYS}
    own = {name: None if ours is None else getattr(ours, name) or None for name in _UNITS}
    own |= {name: None if ours is None else getattr(ours, name) for name in _KEYS if name not in _UNITS}
    if ours is not None and not (ours.input or ours.output) and theirs["input"] is None:
        own |= {"input": None, "output": None}  # what is paid by unit alone has no tokens on either side
    for name in _KEYS:
        is_ours = own[name] is not None and (own[name] != 0 or name in _FALLBACKS)
        is_given = is_ours or theirs[name] is not None
        if is_given and (name not in _UNITS or not (tier or above)):  # those of units are told once
            yield Difference(tier, above, name, _effective(own, name), _effective(theirs, name))


def _effective(amounts: Mapping[str, int | None], name: str) -> int | None:
    found: str | None = name
    while found is not None:
        if amounts[found] is not None:
            return amounts[found]
        found = _FALLBACKS.get(found)
    return None


def _listed(listed: Any, name: str, above: int) -> int | None:
    """The package's amount for calls with more tokens of input than `above`, in nano-units."""
    for key, count in _KEYS[name]:
        amount = getattr(listed, key)
        if amount is not None:
            return round(_reached(amount, above).scaleb(_NANO) / count)
    return None


def _reached(amount: Any, above: int) -> Decimal:
    """Of an amount that may rise with the input."""
    reached = [tier.price for tier in getattr(amount, "tiers", ()) if above >= tier.start]
    found: Decimal = reached[-1] if reached else getattr(amount, "base", amount)
    return found
