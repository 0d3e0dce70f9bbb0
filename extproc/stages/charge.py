"""What a call is charged in its limits, decided at its end: what was reported, or what must be taken to be used."""

from collections.abc import Mapping
from dataclasses import replace

from extproc.limits.demand import Extent, units
from extproc.limits.hold import Hold
from extproc.metering import prices
from extproc.model import UNPRICED_MODEL, Demand, Ending, Outcome, Target, Usage, UsageSource
from extproc.refusals import NOT_CACHED
from extproc.stores.counters import MOST, Draw


def used(
    outcome: Outcome, target: Target | None, held: Hold | None = None, background: bool = False, aside: int = 0
) -> Demand:
    """What a call has used, and `aside` nano-units that questions about it cost, however it ended."""
    demand = _used(outcome, target, held, background)
    return replace(demand, money=demand.money + aside) if aside else demand


def _used(outcome: Outcome, target: Target | None, held: Hold | None, background: bool) -> Demand:
    """What a call has used of its backend. One that none took, or that failed there, used nothing.

    A call that another one's answer served, or that only such a one might have served, counts as a request.
    A request that a backend answered with a 4xx of the caller's making counts as a request. What is made in the
    background counts as held unless its usage was told: nobody says when it is done.
    """
    if outcome.ending is Ending.CACHED or outcome.refusal == NOT_CACHED.code:
        return Demand(1, 0, 0, 0)
    failed = outcome.ending is not Ending.BLOCKED and (outcome.status >= 500 or outcome.status == 429)
    if target is None or failed:
        return Demand(0, 0, 0, 0)
    usage = outcome.usage
    if background and held is not None and outcome.status < 400 and usage.source is not UsageSource.REPORTED:
        return replace(held.demand, money=held.demand.money - held.extent.aside)
    if usage.source is UsageSource.NONE:
        return Demand(1, 0, 0, 0)
    if held is not None:
        usage = _measured(usage, held.extent)
    money = 0 if target.price is None else prices.cost(target.price, usage)
    return Demand(1, usage.input, usage.output, money)


def unpriced(target: Target | None, usage: Usage) -> str | None:
    """What of a call that used something nobody knows the price of: all of it, or its service tier; None: nothing."""
    if target is None or usage.source is UsageSource.NONE:
        return None
    if target.price is None:
        return UNPRICED_MODEL
    return None if prices.is_of_tier(target.price, usage.tier) else usage.tier


def _measured(usage: Usage, extent: Extent) -> Usage:
    """With what a silent answer did not tell: audio as long as it can be, images as many as there can be."""
    if extent.images and not usage.images:
        usage = replace(usage, images=extent.images)
    if extent.seconds and usage.source is UsageSource.ESTIMATED:
        usage = replace(usage, seconds=usage.seconds or extent.seconds, input=usage.input or extent.input)
    return usage


def settled(held: Hold, demand: Demand, served: str | None, model: str | None = None) -> tuple[Draw, ...]:
    """What to book in place of the hold. `served`: the backend that answered, with which `model`; what is held for
    others goes back.
    """
    draws, spent = [], units(demand)
    for limit, draw, _, backend, models in held.stakes:
        backends = limit.only.backends if backend is None else {backend}
        counts = (backends is None or served in backends) and (models is None or model in models)
        draws.append(Draw(draw.counter, min(MOST, spent[limit.measure]) if counts else 0))
    return tuple(draws)


def overspent(held: Hold, demand: Demand) -> Mapping[str, int]:
    """The tokens above what was held, by cause. Nothing else can make a hard limit spend more than it has."""
    more_input, more_output = demand.input - held.demand.input, demand.output - held.demand.output
    if more_input <= 0 and more_output <= 0:
        return {}
    found = {"input_estimate": more_input, "lease_slice" if held.leased else "output_above_cap": more_output}
    return {cause: amount for cause, amount in found.items() if amount > 0}
