"""Which limits a call falls under, what it must reserve in each, and what it is told of them.

Nothing is reserved here: the pipeline takes a hold to the counters. What a refused one means is in `shortage`, what a
call has used in the end in `charge`.
"""

from collections.abc import Iterator, Mapping, Sequence

from extproc.limits.demand import OUTPUT, Extent, units
from extproc.limits.hold import Hold, Stake
from extproc.limits.limit import Limit, Measure, Mode, Only, Priority, Scope
from extproc.limits.standing import Standing
from extproc.limits.sums import Kind, Sum, Sums
from extproc.model import Caller, Cap, Chain, Demand, PublicModel
from extproc.refusals import INVALID_VALUE, PERMISSION_DENIED, UNPRICED, Refused
from extproc.stores.counters import Answer, Counter, Draw
from extproc.values import frozen

SLOT = "gateway"
"""All counters of a gateway are of one slot, so that one step can touch every scope."""

_TOKENS = frozenset({Measure.TOKENS, Measure.INPUT_TOKENS, Measure.OUTPUT_TOKENS})


@frozen
class Terms:
    """What a call falls under, and how far it can go."""

    limits: tuple[Limit, ...]
    caller: Caller
    chain: Chain
    priority: Priority
    extent: Extent
    cap: Cap  # as the client sent it
    stream: bool
    once: Draw | None = None  # of its Idempotency-Key
    background: bool = False  # its answer goes on where nobody listens
    kind: Kind | None = None  # of all that its limits go by; None: it is looked up for this call alone

    @property
    def bounded(self) -> bool:
        """Whether a limit needs to know how long the answer can be."""
        return any(limit.measure in OUTPUT and limit.hard for limit in self.limits)


NO_TERMS = Terms((), Caller("", ""), Chain(PublicModel("", ()), ()), Priority.HIGH, Extent(), Cap(), False)
"""Of a call that no limit holds for."""


def priority(asked: str | None, caller: Caller) -> Priority:
    """The class of a call, from its x-priority: what the caller may have at best, where it does not say."""
    if asked is None:
        return caller.priority
    if asked not in (Priority.HIGH, Priority.LOW):
        raise Refused(INVALID_VALUE, "`x-priority` is high or low.", "x-priority")
    if asked == Priority.HIGH and caller.priority is Priority.LOW:
        raise Refused(PERMISSION_DENIED, "This key may only make calls of low priority.", "x-priority")
    return Priority(asked)


def once(digest: str) -> Draw:
    """Held by the first of the calls with this digest: of a caller, its Idempotency-Key and the body."""
    return Draw(Counter(f"once/{digest}", 1), 1)


def applicable(
    limits: Sequence[Limit], caller: Caller, chain: Chain, priority: Priority, low_route: bool
) -> tuple[Limit, ...]:
    """The limits that hold for a call, in their order."""
    return tuple([limit for limit in limits if _holds_for(limit, caller, chain, priority, low_route)])


def goes_by_backend(limits: Sequence[Limit]) -> bool:
    """Whether the targets of a call have a say in which of these hold for it, or in what it is counted."""
    return any(limit.only.backends is not None or Scope.BACKEND in limit.scope for limit in limits)


def _holds_for(limit: Limit, caller: Caller, chain: Chain, priority: Priority, low_route: bool) -> bool:
    if Scope.USER in limit.scope and not _user(caller):
        return False
    only = limit.only
    return (
        (only.models is None or chain.model.name in only.models)
        and (only.backends is None or not only.backends.isdisjoint(_backends(chain)))
        and (only.priority is None or only.priority is priority)
        and (only.low_route is None or only.low_route is low_route)
        and _holds_for_caller(only, caller)
    )


def _holds_for_caller(only: Only, caller: Caller) -> bool:
    team = caller.team
    return (
        (only.teams is None or (team is not None and team.name in only.teams))
        and (only.areas is None or (team is not None and team.area in only.areas))
        and (only.tiers is None or (team is not None and team.tier in only.tiers))
        and (only.environments is None or caller.environment in only.environments)
    )


def _user(caller: Caller) -> str:
    """Who it is: names of service accounts are their team's own."""
    if caller.user is not None:
        return f"user/{caller.user}"
    if caller.service_account is None:
        return ""
    return f"account/{caller.team.name if caller.team else ''}/{caller.service_account}"


def _backends(chain: Chain) -> set[str]:
    return {target.backend.name for target in chain.targets}


# ---- what to reserve -----------------------------------------------------------------------------


def check_prices(terms: Terms) -> None:
    """Refuse a call whose cost nobody knows where a limit on money is enforced."""
    if all(target.price is not None for target in terms.chain.targets):
        return
    if any(limit.measure is Measure.MONEY and limit.mode is Mode.ENFORCE for limit in terms.limits):
        raise Refused(UNPRICED, "The model has no price, and a limit on money holds for this call.", "model")


@frozen
class Ask:
    """How long an answer to reserve for: tokens of one choice. `leased`: the first slice of it, more to follow."""

    cap: int
    leased: bool = False
    attempt: int = 1
    patient: bool = True  # it may wait a moment for what others are just about to give back


def hold(terms: Terms, id: str, ask: Ask, sums: Sums, now: int) -> Hold:  # noqa: A002
    """The reservation of a call whose answer is as long as asked for."""
    demand = terms.extent.at_most(terms.chain, ask.cap)
    surely = terms.extent.surely(terms.chain)
    most, least = units(demand), units(surely)
    stakes = [
        Stake(limit, _draw(limit, counter, most, least), values, backend)
        for limit, counter, values, backend in _counted(terms, sums, now)
    ]
    return Hold(id, tuple(stakes), demand, terms.extent, surely, ask.cap, ask.leased, once=terms.once)


def _counted(terms: Terms, sums: Sums, now: int) -> tuple[Sum, ...]:
    """What each limit counts the call in."""
    kind = terms.kind
    if kind is not None and kind.start <= now < kind.end:
        return kind.sums
    found = tuple(_sums(terms, sums, now))
    if kind is not None:
        kind.learn(found, now)
    return found


def _sums(terms: Terms, sums: Sums, now: int) -> Iterator[Sum]:
    for limit in terms.limits:
        for backend in _counted_backends(limit, terms.chain):
            values = _values(limit, terms, backend)
            yield Sum(limit, sums.counter(limit, values, _capacity(limit, terms.priority, now), now), values, backend)


def longer(held: Hold, chain: Chain, flowed: int, sums: Sums, now: int) -> tuple[Demand, tuple[Draw, ...]]:
    """What a leased answer needs for as many slices as `flowed` tokens are, and what the hold shall have for it.

    Nothing of the limits of a model that could have served and does not.
    The counters are those of the present window: a long stream is not paid for by the one in which it began.
    """
    step = held.cap * held.extent.choices
    output = held.demand.output + -(-(flowed - held.demand.output) // step) * step
    demand = held.extent.at_most_output(chain, output)
    most, least = units(demand), units(held.extent.surely(chain, flowed))
    draws = []
    for stake in held.stakes:
        counts = stake.models is None or chain.model.name in stake.models
        if stake.limit.measure not in OUTPUT or not counts:
            continue
        counter = sums.counter(stake.limit, stake.values, stake.draw.counter.capacity, now)
        draws.append(_draw(stake.limit, counter, most, least))
    return demand, tuple(draws)


def _draw(limit: Limit, counter: Counter, most: Mapping[Measure, int], least: Mapping[Measure, int]) -> Draw:
    """What a hold takes: of a limit that is not hard one unit, so that a call passes while anything is left."""
    taken, kept = most[limit.measure], least[limit.measure]
    if not limit.hard:
        taken = min(taken, 1)
    return Draw(counter, taken, min(taken, kept))


def _counted_backends(limit: Limit, chain: Chain) -> list[str | None]:
    """The backends that a limit has a sum for each of, or None once where it does not count by backend."""
    if Scope.BACKEND not in limit.scope:
        return [None]
    allowed = limit.only.backends
    return [target.backend.name for target in chain.targets if allowed is None or target.backend.name in allowed]


def _capacity(limit: Limit, priority: Priority, now: int) -> int:
    raised = limit.raised
    amount = raised.amount if raised is not None and now < raised.until else limit.amount
    if limit.kept_for_high and priority is Priority.LOW:
        return amount - amount * limit.kept_for_high // 100
    return amount


def _values(limit: Limit, terms: Terms, backend: str | None) -> tuple[str, ...]:
    return tuple([_value(scope, terms, backend) for scope in limit.scope])


def _value(scope: Scope, terms: Terms, backend: str | None) -> str:
    caller, team = terms.caller, terms.caller.team
    match scope:
        case Scope.KEY:
            return caller.owner
        case Scope.USER:
            return _user(caller)
        case Scope.TEAM:
            return team.name if team else ""
        case Scope.AREA:
            return team.area if team else ""
        case Scope.TIER:
            return team.tier if team else ""
        case Scope.MODEL:
            model = terms.chain.model
            return f"{model.owner} {model.name}" if model.owner else model.name  # no name of a model has a space
        case Scope.BACKEND:
            return backend or ""
        case Scope.PRIORITY:
            return terms.priority.value


def cap_to_write(terms: Terms, held: Hold) -> int | None:
    """The cap that the request must say, so that the answer cannot be longer than what is held; None where it is so.

    A request that says it in a field that the backend does not read does not say it.
    """
    if held.leased or terms.cap.field is None or not terms.bounded:
        return None
    said = terms.chain.model.bounds.max_output if terms.cap.tokens is None else terms.cap.tokens
    is_read = terms.cap.tokens is None or terms.chain.targets[0].backend.reads_cap(terms.cap.names)
    return None if is_read and said is not None and held.cap >= said else held.cap


# ---- what a granted one tells ---------------------------------------------------------------------


def standings(held: Hold, answer: Answer) -> list[Standing]:
    """Where the caller stands in each enforced limit."""
    return [
        (stake.limit, reading, stake.draw.counter.capacity)
        for stake, reading in held.read(answer)
        if stake.draw.counter.enforced
    ]


def priority_headers(told: Sequence[Standing], priority: Priority) -> tuple[tuple[str, str], ...]:
    """What tests of clients look at: the class of the call, and the tokens that the tightest limit has left."""
    left = [max(0, capacity - reading.used) for limit, reading, capacity in told if limit.measure in _TOKENS]
    remaining = (("x-gw-remaining-tokens", str(min(left))),) if left else ()
    return (("x-gw-priority", priority.value), *remaining)


def shadow_refusals(held: Hold, answer: Answer) -> tuple[str, ...]:
    """The limits in shadow mode that would have refused the call."""
    return tuple(
        [
            stake.limit.title
            for stake, reading in held.read(answer)
            if reading.wait != 0 and not stake.draw.counter.enforced
        ]
    )
