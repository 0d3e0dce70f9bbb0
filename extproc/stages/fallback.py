"""Another model serves a call: it is too long for the one that it asks for, or the provider's filter refuses it.

What is known beforehand goes to the other model at once. What the provider says, Envoy reads on each attempt
(dataplane/fallback.lua): so the order of a call brings the other model's chain along, and what it may use is held, too.
"""

from collections.abc import Mapping
from dataclasses import replace
from itertools import chain as chained

from extproc.call import Call, Route
from extproc.contract import FALLBACK_HEADER
from extproc.headers import Headers
from extproc.limits.demand import answer_tokens
from extproc.limits.hold import Hold, Stake
from extproc.metering import bounds
from extproc.model import Cause, Chain, Demand, Prompt, PublicModel
from extproc.stages import forward
from extproc.stages.notices import Pairs
from extproc.stores.counters import Draw
from extproc.surfaces import Place, Surface

MODEL_HEADER = "x-sluice-model"
"""Of an answer: the model that gave it instead of the one that was asked for."""

_TEXT = frozenset({Surface.CHAT, Surface.COMPLETIONS, Surface.RESPONSES, Surface.MESSAGES})
Spare = Mapping[Cause, Chain]
"""The chains of the models that stand in for a call's own, by what its providers may refuse it for."""


def offered(model: PublicModel, place: Place, prompt: Prompt) -> Mapping[Cause, str]:
    """The models that may serve a call instead, by their names. None of one that leans on what a provider has kept."""
    return model.fallback if place.surface in _TEXT and prompt.state is None else {}


def is_too_long(prompt: Prompt, model: PublicModel) -> bool:
    """Whether no provider can take the input of a call. Where that is in doubt, the provider says so."""
    context = model.bounds.context
    return context is not None and bounds.least_tokens(prompt.input) > context


def notice(cause: Cause, model: PublicModel) -> Pairs:
    """What the caller is told: which model answers, and why."""
    return (MODEL_HEADER, model.name), (FALLBACK_HEADER, f'{cause.value}; model="{model.name}"')


# ---- the order ----------------------------------------------------------------------------------------


def joined(chain: Chain, spare: Spare) -> Chain:
    """All targets to which the one body may go, those of the model that was asked for first."""
    if not spare:
        return chain
    return replace(chain, targets=(*chain.targets, *chained.from_iterable(other.targets for other in spare.values())))


def fitting(chain: Chain, spare: Spare, place: Place, cap: int | None) -> Spare:
    """Those that can take the body as it will be written, with this cap on its output."""
    if cap is None:
        return spare
    kept = forward.same_cap_field(joined(chain, spare), place).targets
    fits = {
        cause: replace(other, targets=tuple([target for target in other.targets if target in kept]))
        for cause, other in spare.items()
    }
    return {cause: other for cause, other in fits.items() if other.targets}


def first_byte(chain: Chain, spare: Spare) -> float | None:
    """Seconds that each attempt may take until its answer begins; None: as long as the call.

    Envoy has one time for all attempts of a call, and cutting off an answer that is being paid for is worse than to
    wait for one that does not come. So it is the longest.
    """
    longest = chain.model.first_byte
    for other in spare.values():
        if longest is None or other.model.first_byte is None:
            return None
        longest = max(longest, other.model.first_byte)
    return longest


def parted(route: Route, chain: Chain, spare: Spare) -> Route:
    """The route of a joined chain, with the legs of the others for where they are needed."""
    if not spare:
        return route
    legs = iter(route.legs)
    own = tuple([next(legs) for _ in chain.targets])
    instead = tuple([(cause.value, tuple([next(legs) for _ in other.targets])) for cause, other in spare.items()])
    return replace(route, legs=own, instead=instead)


def longest(chain: Chain, place: Place, prompt: Prompt) -> int | None:
    """Tokens that the answer of the model that was asked for may have, of one choice; None: nobody says.

    One cap is written for both models: one of the other's would shorten this answer, or be more than this model takes.
    """
    if prompt.cap.tokens is None and chain.model.bounds.max_output is None:
        return None
    return answer_tokens(place.surface, prompt, chain)


# ---- what is held -------------------------------------------------------------------------------------


def wider(held: Hold | None, model: str, wanted: Hold, other: str) -> Hold:
    """What a call holds that the one model may serve or the other: of each counter the larger of what they may use.

    `wanted` is what the `other` needs; what `held` has of that, it has already.
    """
    stakes = {} if held is None else {_key(stake): _of(stake, model) for stake in held.stakes}
    for stake in wanted.stakes:
        known = stakes.get(_key(stake))
        stakes[_key(stake)] = _of(stake, other) if known is None else _both(known, stake, other)
    if held is None:
        return replace(wanted, stakes=tuple(stakes.values()), once=None)
    demand = _larger(held.demand, wanted.demand)
    return replace(held, stakes=tuple(stakes.values()), demand=demand, cap=wanted.cap)


def more(held: Hold | None, wide: Hold) -> list[Draw]:
    """What the wider one lacks yet."""
    known = {} if held is None else {_key(stake): stake.draw for stake in held.stakes}
    return [stake.draw for stake in wide.stakes if known.get(_key(stake)) != stake.draw]


def _key(stake: Stake) -> str:
    return stake.draw.counter.key


def _of(stake: Stake, model: str) -> Stake:
    return stake._replace(models=frozenset({model})) if stake.models is None else stake


def _both(known: Stake, wanted: Stake, other: str) -> Stake:
    mine, more_of_it = known.draw, wanted.draw
    draw = mine._replace(units=max(mine.units, more_of_it.units), kept=max(mine.kept, more_of_it.kept))
    return known._replace(draw=draw, models=(known.models or frozenset()) | {other})


def _larger(one: Demand, other: Demand) -> Demand:
    return Demand(
        max(one.requests, other.requests),
        max(one.input, other.input),
        max(one.output, other.output),
        max(one.money, other.money),
    )


# ---- the answer ---------------------------------------------------------------------------------------


def taken(call: Call, headers: Headers) -> None:
    """Note that another model has taken over, where the answer's head says so: from here on the call is that one's."""
    if not call.spare:
        return
    cause, _, attempt = (headers.get(FALLBACK_HEADER) or "").partition("/")
    if cause not in call.spare:
        return
    call.fallback = Cause(cause)
    call.chain, call.attempt = call.spare[call.fallback], int(attempt)
    call.notices += notice(call.fallback, call.chain.model)
