"""What becomes of a call that its limits have no room for: a shorter answer, another model, a wait, or a refusal."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from extproc.limits import standing
from extproc.limits.demand import OUTPUT, units
from extproc.limits.hold import Hold, Stake
from extproc.limits.limit import Short
from extproc.refusals import IDEMPOTENCY_CONFLICT, Refusal, after
from extproc.stages.budget import Ask, Terms
from extproc.stores.counters import Answer, Reading

_AGAIN = "A call with the same Idempotency-Key and body is still running."
_CONFLICT_WAIT = 500  # milliseconds
_ATTEMPTS = 4  # times that a call asks for less: others may take the room that was left in between
Missing = Sequence[tuple[Stake, Reading]]
"""The stakes that there was no room for."""


@dataclass(frozen=True, slots=True)
class Instead:
    """Use this model, by its public name; the refusal is for where that cannot be."""

    model: str
    refusal: Refusal


def after_refusal(
    terms: Terms, held: Hold, answer: Answer, asked: Ask, now: int, currency: str
) -> Ask | Instead | Refusal:
    """What follows. An `Ask` is to be reserved next, after a moment where it is the one that was `asked`."""
    short = [
        (stake, reading) for stake, reading in held.read(answer) if reading.wait != 0 and stake.draw.counter.enforced
    ]
    if not short:  # only `once` is left to have refused
        return Refusal(IDEMPOTENCY_CONFLICT, _AGAIN, headers=after(_CONFLICT_WAIT))
    spent: Missing = [found for found in short if not _is_only_held(*found)]
    if not spent and asked.patient:
        return replace(asked, patient=False)
    if asked.attempt < _ATTEMPTS and not asked.leased and (less := _less(terms, asked, short)) is not None:
        return less
    if not spent:
        return _refusal(terms, short, now, currency)
    spent = _firm(terms, asked, spent)
    refusal = _refusal(terms, spent, now, currency)
    fallback = max(spent, key=lambda found: _urgency(terms, *found))[0].limit.fallback
    return refusal if fallback in (None, terms.chain.model.name) else Instead(fallback, refusal)


def _firm(terms: Terms, asked: Ask, spent: Missing) -> Missing:
    """Those that refuse in any case, where with a shorter answer there would be room in all the others."""
    firm = [found for found in spent if _way(terms, *found) is Short.REFUSE]
    others = [found for found in spent if _way(terms, *found) is not Short.REFUSE]
    return firm if firm and others and _less(terms, asked, others) is not None else spent


def _is_only_held(stake: Stake, reading: Reading) -> bool:
    return standing.is_running((stake.limit, reading, stake.draw.counter.capacity), stake.draw.units)


def _refusal(terms: Terms, missing: Missing, now: int, currency: str) -> Refusal:
    stake, reading = max(missing, key=lambda found: _urgency(terms, *found))
    team = terms.caller.team
    spent = (stake.limit, reading, stake.draw.counter.capacity)
    said = standing.refusal(spent, stake.draw.units, terms.chain.model.name, team.name if team else "", now, currency)
    return replace(said, limit=stake.limit.title)


def _urgency(terms: Terms, stake: Stake, reading: Reading) -> tuple[float, bool]:
    """The limit that a caller waits for longest says what to do: to wait for another would be in vain.

    Of several, one that a shorter answer would not have helped.
    """
    wait = float("inf") if standing.is_final(stake.limit, reading) else float(reading.wait or 0)
    return wait, _way(terms, stake, reading) is Short.REFUSE


# ---- a shorter answer ------------------------------------------------------------------------------


def _less(terms: Terms, asked: Ask, missing: Missing) -> Ask | None:
    """The shorter answer that there is room for. None where it would not help, or may not be."""
    ways = {_way(terms, stake, reading) for stake, reading in missing}
    if Short.REFUSE in ways:
        return None
    if Short.LEASE in ways:
        return replace(asked, cap=min(asked.cap, *(stake.limit.slice for stake, _ in missing)), leased=True)
    left = [stake.draw.counter.capacity - reading.used for stake, reading in missing]
    halves = [stake.draw.counter.capacity // 2 for stake, _ in missing]
    cap = _longest(terms, missing, left, asked.cap - 1)
    least = min(terms.chain.model.bounds.floor, _longest(terms, missing, halves, asked.cap))
    return replace(asked, cap=cap, attempt=asked.attempt + 1) if cap >= max(least, terms.cap.least, 1) else None


def _way(terms: Terms, stake: Stake, reading: Reading) -> Short:
    """What this limit allows: a cap that the client sent is lowered where waiting would not help."""
    limit, of = stake.limit, terms.chain.model.bounds
    if limit.measure not in OUTPUT or not limit.hard or terms.cap.field is None:
        return Short.REFUSE
    if terms.cap.tokens is not None:
        final = standing.is_final(limit, reading) and not _is_only_held(stake, reading)
        return Short.CAP if final else Short.REFUSE
    if limit.short is Short.LEASE and (not terms.stream or terms.background or of.hidden_output):
        return Short.REFUSE
    return limit.short


def _longest(terms: Terms, missing: Missing, rooms: Sequence[int], most: int) -> int:
    """The largest cap up to `most` with which the call fits into all of these rooms, or -1."""

    def fits(cap: int) -> bool:
        wanted = units(terms.extent.at_most(terms.chain, cap))
        return all(wanted[stake.limit.measure] <= room for (stake, _), room in zip(missing, rooms, strict=True))

    low, high = -1, most
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if fits(middle) else (low, middle - 1)
    return low
