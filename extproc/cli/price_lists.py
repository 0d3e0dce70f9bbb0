"""What each model costs at each of its backends at a time, as the configuration says."""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime

from extproc.config import compile as compiled
from extproc.config.schema import Gateway
from extproc.limits import standing
from extproc.model import Price, Target

TOKENS = (
    *("input", "output", "cached_input", "cache_write", "cache_write_1h"),
    *("reasoning", "audio_input", "audio_output", "image_input", "image_output"),
)
"""What has a price for a million."""
UNITS = ("request", "minute", "image", "hosted_call")
"""What has a price each."""


@dataclass(frozen=True, slots=True)
class Listing:
    """One target of a model. `price` is the one in force, None: there is none; `later` are versions still to come."""

    model: str
    target: Target
    price: Price | None
    later: tuple[Price, ...]


@dataclass(frozen=True, slots=True)
class Part:
    """The prices of some calls: of a service tier (empty: the usual one) with more than so many tokens of input."""

    tier: str
    above: int
    price: Price

    @property
    def title(self) -> str:
        return title(self.tier, self.above)


def title(tier: str, above: int) -> str:
    """Which calls are meant, in words; empty: all usual ones."""
    return " ".join(part for part in (tier, f"above {above:,}" if above else "") if part)


def listings(gateway: Gateway, at: int) -> Iterator[Listing]:
    """Each target of each model that is served. `at`: milliseconds of Unix time."""
    for model in compiled.without_policies(gateway).listed():
        for target in (one for group in model.groups for one in group):
            later = tuple(one for one in target.versions if one.since > at)
            yield Listing(model.name, target, target.at(at).price, later)


def parts(price: Price) -> list[Part]:
    """A price in the order in which one reads it: usual calls first, of each tier short ones first."""
    tiers = (("", price), *price.tiers)
    return [Part(tier, above, one) for tier, whole in tiers for above, one in ((0, whole), *whole.above)]


def told(part: Part) -> dict[str, str]:
    """The amounts that are given, exact, per million tokens or each. Those of units stand with the usual calls."""
    names = TOKENS if part.tier or part.above else (*TOKENS, *UNITS)
    amounts = {name: getattr(part.price, name) for name in names}
    priced = any(amounts[name] for name in TOKENS)
    return {
        name: standing.amount(amount)
        for name, amount in amounts.items()
        if amount is not None and (amount or (priced and name in TOKENS))
    }


def moment(milliseconds: int) -> str:
    """A time as one writes it in `from`: a date where it is midnight in UTC."""
    when = datetime.fromtimestamp(milliseconds / 1000, UTC)
    return when.strftime("%Y-%m-%d") if milliseconds % 86_400_000 == 0 else when.isoformat().replace("+00:00", "Z")
