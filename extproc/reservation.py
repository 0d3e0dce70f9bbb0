"""What a call takes before it is sent: a chain of targets that may serve it, and the most that it can use.

All of it or nothing: who is refused holds nothing. Only this file awaits the counters before a call is sent.
"""

import asyncio
import hashlib
import itertools
import random
import time
from collections.abc import Sequence
from dataclasses import replace

from extproc import beside
from extproc.call import Call
from extproc.limits import standing
from extproc.limits.demand import Extent, extent
from extproc.limits.hold import Hold
from extproc.limits.limit import Limit, Measure
from extproc.limits.sums import Kind, Sums
from extproc.limits.thresholds import Thresholds
from extproc.model import Caller, Cap, Catalogue, Cause, Chain, CleanPrompt, Prompt, PublicModel
from extproc.ports import Affinity, Holds, Roster
from extproc.refusals import MODEL_NOT_FOUND, QUOTA, Refusal, Refused
from extproc.stages import binding, budget, fallback, route, shortage, state
from extproc.stages.traffic import Traffic
from extproc.stores.counters import Answer, CountersUnavailable, Draw, hold_name
from extproc.surfaces import Place
from extproc.telemetry import note
from extproc.timing import Stage

_CAP_HEADER = "x-sluice-output-cap"
_MOST_KINDS = 10_000
_MOMENT_S = 0.02  # in which what calls that have just ended did not use comes back
_HASHED = 256 * 1024  # bytes at each end of a body by which a repeat is known
_NO_ROOM = Refusal(QUOTA, "A limit has no room for what another model could use.")  # which no caller is told


class Reservations:
    """Chooses for all calls of one worker."""

    def __init__(
        self, affinity: Affinity, roster: Roster, health: route.Health, holds: Holds, traffic: Traffic
    ) -> None:
        self._affinity = affinity
        self._roster = roster
        self._health = health
        self._holds = holds
        self._traffic = traffic
        self._sums = Sums()
        self._kinds: dict[tuple[object, ...], tuple[Kind | None, tuple[object, ...]]] = {}
        self._catalogue: Catalogue | None = None  # of these
        self._thresholds = Thresholds()
        self._dice = random.SystemRandom()
        self._name = f"{self._dice.getrandbits(96):024x}"  # of this worker, in the ids of its holds
        self._numbers = itertools.count()

    def name(self) -> str:
        """A new id of a call, which no other worker gives."""
        return f"{self._name}.{next(self._numbers)}"

    async def _chain(self, call: Call, caller: Caller, place: Place, model: PublicModel, clean: CleanPrompt) -> Chain:
        leans_on = clean.prompt.state
        if leans_on is not None:
            with call.times.of(Stage.ROUTE):
                known = await self._affinity.recall((*leans_on.ids, *leans_on.sealed))
            holder = state.holder(caller, leans_on, known)
            if holder is not None:
                call.pinned = True
                stops, only = self._roster.current().stops, call.catalogue.priced_only
                return route.pinned(model, place, holder, caller.team, stops, call.began, only)
        return await self.drawn(call, caller, place, model, clean)

    async def drawn(self, call: Call, caller: Caller, place: Place, model: PublicModel, clean: CleanPrompt) -> Chain:
        """The targets in an order that is drawn for this call. Raises Refused."""
        with call.times.of(Stage.ROUTE):
            only, health = call.catalogue.priced_only, self._health
            is_free = not self._roster.current().stops
            alone = route.alone(model, place, caller.team, only, health, time.monotonic()) if is_free else None
            chain = await self._drawn(call, caller, place, model, clean) if alone is None else alone
        if chain.probe is not None:
            call.probes += (chain.probe,)
        return chain

    async def _drawn(self, call: Call, caller: Caller, place: Place, model: PublicModel, clean: CleanPrompt) -> Chain:
        lacks = await beside.loop(len(clean.prompt.body), route.lacks, model, place, clean, caller.team)
        conditions = route.Conditions(
            self._dice.random,
            self._health,
            time.monotonic(),
            caller.team,
            None if model.affinity is None else binding.of(model.affinity, caller, call.bound, clean),
            call.catalogue.attempts,
            stops=self._roster.current().stops,
            lacks=lacks,
            retry_share=call.catalogue.retry_share,
            traffic=self._traffic,
            began=call.began,
            priced_only=call.catalogue.priced_only,
        )
        return route.chain(model, place, clean, conditions)

    async def chosen(
        self, call: Call, caller: Caller, place: Place, model: PublicModel, clean: CleanPrompt
    ) -> tuple[Chain, int | None]:
        """The chain of the model that the call asks for, or of a larger one where it is too long for that; and its cap.

        What the call can use is reserved. Raises Refused.
        """
        chain = await self._chain(call, caller, place, model, clean)
        larger = fallback.offered(model, place, clean.prompt).get(Cause.CONTEXT_WINDOW)
        if larger is None or call.pinned or not fallback.is_too_long(clean.prompt, model):
            return await self.reserve(call, caller, place, clean, chain)
        try:
            other = await self._another(call, caller, place, larger, clean)
            reserved = await self.reserve(call, caller, place, clean, other)
        except Refused:
            call.told, call.shadowed, call.warned, call.stood = (), (), (), ()
            return await self.reserve(call, caller, place, clean, chain)
        if reserved[0] is other:
            call.fallback = Cause.CONTEXT_WINDOW
            call.notices += fallback.notice(call.fallback, other.model)
        return reserved

    async def _another(self, call: Call, caller: Caller, place: Place, name: str, clean: CleanPrompt) -> Chain:
        """The chain of a model that stands in for the one that the call asks for. Raises Refused."""
        model = route.model_for(caller, Place(place.surface, place.face), name, call.catalogue)
        if call.named is None or model.owner != call.named.owner:
            # What a team brings stands in for nothing else, nor the other way.
            raise Refused(MODEL_NOT_FOUND, "The model is not the gateway's own.", "model")
        return await self.drawn(call, caller, place, model, clean)

    async def stand_ins(
        self, call: Call, caller: Caller, place: Place, clean: CleanPrompt, chain: Chain, cap: int | None
    ) -> int | None:
        """Add the chains of the models that may take over, where the caller may use them and there is room for it.

        Returns the cap on the output to write: that of the call, or one that such a model needs.
        """
        offered = fallback.offered(chain.model, place, clean.prompt)
        if not offered or call.pinned or call.fallback is not None or chain.model is not call.named:
            return cap
        chains: dict[str, Chain | None] = {}
        for name in offered.values():
            if name in chains:
                continue
            try:
                chains[name] = other = await self._another(call, caller, place, name, clean)
                terms = self._terms(call, caller, place, clean.prompt, other)
                with call.times.of(Stage.RESERVE):
                    needed = await self._take_more(call, terms, fallback.longest(chain, place, clean.prompt))
                cap = needed if cap is None else cap
            except (Refused, CountersUnavailable):
                chains[name] = None
        found = {cause: chains[name] for cause, name in offered.items()}
        call.spare = {cause: other for cause, other in found.items() if other is not None}
        return cap

    async def _take_more(self, call: Call, terms: budget.Terms, longest: int | None) -> int | None:
        """Hold what a model may use that may take over, too; the cap to write. Raises Refused, CountersUnavailable.

        `longest`: see fallback.longest.
        """
        if not terms.limits or call.named is None:
            return None
        budget.check_prices(terms)
        held, other = call.hold, terms.chain.model
        if held is not None and held.leased and other.bounds.hidden_output:
            raise Refused.of(_NO_ROOM)
        ask = budget.Ask(terms.extent.cap if longest is None else longest)
        if held is not None and (held.leased or call.output_cap is not None):
            ask = budget.Ask(held.cap, held.leased)
        now = time.time_ns() // 1_000_000
        name = _name(call) if held is None else held.id
        wanted = budget.hold(terms, name, ask, self._sums, now)
        wanted.note = note.joined(call.who, note.what(call, other.name, terms.stream, wanted.surely))
        wide = fallback.wider(held, call.named.name, wanted, other.name)
        if held is None:
            call.hold = wide  # from here on `end` gives back what may have been taken
        lacking = fallback.more(held, wide)
        if lacking:
            answer = await (self._holds.reserve(wide) if held is None else self._holds.extend(wide, lacking))
            if not answer.granted:
                call.hold = held
                raise Refused.of(_NO_ROOM)
            self._stand(call, wide, lacking, answer, now)
        call.hold = wide
        return self._granted(call, terms, wide) if call.output_cap is None else call.output_cap

    async def reserve(
        self, call: Call, caller: Caller, place: Place, clean: CleanPrompt, chain: Chain
    ) -> tuple[Chain, int | None]:
        """Take the most that the call can use from all of its limits, or refuse it.

        Returns the chain, another model's where a limit names one to fall back to, and the cap on the output to
        write into the request; None leaves what the caller sent.
        """
        call.chain = chain  # of a refused call, too, the record tells the model
        if call.low_route and call.catalogue.tells_priority:
            call.told = budget.priority_headers((), call.priority)
        with call.times.of(Stage.RESERVE):
            then = await self._take(call, self._terms(call, caller, place, clean.prompt, chain))
        if not isinstance(then, shortage.Instead):
            return chain, then
        refused, told = Refused.of(then.refusal), call.told
        if call.pinned:
            raise refused
        try:
            chain = await self._another(call, caller, place, then.model, clean)
            with call.times.of(Stage.RESERVE):
                terms = self._terms(call, caller, place, clean.prompt, chain)
                again = await self._take(call, terms)
        except Refused:
            call.told = told
            raise refused from None
        if isinstance(again, shortage.Instead):
            call.told = told
            raise refused
        if not terms.limits:
            call.told, call.shadowed, call.warned, call.stood = (), (), (), ()
        call.chain = chain
        call.told += ((fallback.MODEL_HEADER, chain.model.name),)
        return chain, again

    async def take_request(
        self, call: Call, caller: Caller, place: Place, model: PublicModel, prompt: Prompt, aside: int
    ) -> None:
        """Reserve what a call uses that no backend serves: itself, and what services have cost and will (`aside`).

        Raises Refused.

        It is over at once: of how many are open at one time it is none.
        """
        route.check_stops(model, self._roster.current().stops)
        chain = Chain(model, ())
        call.told, call.shadowed, call.warned, call.stood = (), (), (), ()
        if call.low_route and call.catalogue.tells_priority:
            call.told = budget.priority_headers((), call.priority)
        terms = self._terms(call, caller, place, prompt, chain)
        limits = tuple([limit for limit in terms.limits if limit.measure is not Measure.CONCURRENT])
        extent_here = Extent(aside=call.inspection.aside + aside)
        with call.times.of(Stage.RESERVE):
            terms = replace(terms, limits=limits, kind=None, extent=extent_here, cap=Cap(), once=None)
            then = await self._take(call, terms)
        if isinstance(then, shortage.Instead):
            raise Refused.of(then.refusal)

    def _terms(self, call: Call, caller: Caller, place: Place, prompt: Prompt, chain: Chain) -> budget.Terms:
        kind, limits = self._limits(call, caller, chain)
        if not limits:
            return budget.NO_TERMS
        upload = call.catalogue.upload_cap if call.content_length is None else call.content_length
        return budget.Terms(
            limits=limits,
            caller=caller,
            chain=chain,
            priority=call.priority,
            extent=extent(place.surface, prompt, chain, upload),
            cap=prompt.cap,
            stream=prompt.stream,
            once=budget.once(_digest(call, caller, prompt.body or call.pending)) if call.repeat else None,
            background=prompt.background,
            kind=kind,
        )

    def _limits(self, call: Call, caller: Caller, chain: Chain) -> tuple[Kind | None, tuple[Limit, ...]]:
        """Those that hold for a call; and its kind, of which they are looked for once, unless its targets have a say.

        What a kind is known by is kept beside it, so that its id is nobody else's.
        """
        catalogue, team, own, model = call.catalogue, caller.team, caller.limits, chain.model
        if catalogue is not self._catalogue:  # of another configuration nothing is kept
            self._catalogue = catalogue
            self._kinds.clear()
        by = (
            *(id(team), id(own), id(model), call.priority, call.low_route),
            *(caller.lineage, caller.key_id, caller.user, caller.service_account, caller.environment),
        )
        known = self._kinds.get(by)
        if known is not None and known[0] is not None:
            return known[0], known[0].limits
        declared = (*catalogue.limits, *(team.limits if team else ()), *own)
        limits = budget.applicable(declared, caller, chain, call.priority, call.low_route) if declared else ()
        if known is None:
            if len(self._kinds) >= _MOST_KINDS:
                self._kinds.clear()
            kind = None if budget.goes_by_backend(declared) else Kind(limits)
            self._kinds[by] = kind, (team, own, model)
            return kind, limits
        return None, limits

    async def _take(self, call: Call, terms: budget.Terms) -> int | shortage.Instead | None:
        """Reserve, for a shorter answer where need be; the cap to write. Raises Refused."""
        if not terms.limits:
            return None
        budget.check_prices(terms)
        ask, name = budget.Ask(terms.extent.cap), _name(call)
        while True:
            now = time.time_ns() // 1_000_000
            held = budget.hold(terms, name, ask, self._sums, now)
            call.what = note.what(call, terms.chain.model.name, terms.stream, held.surely)
            held.note = note.joined(call.who, call.what)
            call.hold = held  # from here on `end` gives back what may have been taken
            answer = await self._holds.reserve(held)
            if answer.granted:
                self._tell(call, held, answer, now)
                return self._granted(call, terms, held)
            call.hold = None
            then = shortage.after_refusal(terms, held, answer, ask, now, call.catalogue.currency)
            if isinstance(then, budget.Ask):
                if then.patient != ask.patient:
                    await asyncio.sleep(_MOMENT_S)
                ask = then
                continue
            refusal = then if isinstance(then, Refusal) else then.refusal
            self._tell(call, held, answer, now, refusal.limit)
            if isinstance(then, Refusal):
                raise Refused.of(refusal)
            return then

    def _stand(self, call: Call, wide: Hold, drawn: Sequence[Draw], answer: Answer, now: int) -> None:
        """Note how the limits stand that only another model would use, which may take over."""
        readings = {draw.counter.key: reading for draw, reading in zip(drawn, answer.readings, strict=True)}
        known = {stake.draw.counter.key for stake, _ in call.stood}
        found = [(stake, readings.get(stake.draw.counter.key)) for stake in wide.stakes]
        call.stood_at = call.stood_at or now
        call.stood += tuple(
            [(stake, reading) for stake, reading in found if reading and stake.draw.counter.key not in known]
        )

    def _tell(self, call: Call, held: Hold, answer: Answer, now: int, refused: str | None = None) -> None:
        """What the answer to the caller, the record and the metrics say of the limits."""
        call.stood, call.stood_at = tuple(held.read(answer)), now
        told = budget.standings(held, answer)
        call.told = standing.headers(told, call.face, call.catalogue.currency, now, refused)
        if call.low_route and call.catalogue.tells_priority:
            call.told += budget.priority_headers(told, call.priority)
        call.shadowed = budget.shadow_refusals(held, answer)
        call.warned = self._thresholds.crossed(held, answer) if answer.granted else ()

    def _granted(self, call: Call, terms: budget.Terms, held: Hold) -> int | None:
        cap = budget.cap_to_write(terms, held)
        if cap is not None and cap != terms.cap.tokens:
            call.output_cap = cap
            call.told += ((_CAP_HEADER, str(cap)),)
        return cap

    def leave_probes(self, call: Call, but: str | None = None) -> None:
        """Let other calls try what this one was to try and does not: else whoever is refused could keep it out."""
        for backend in call.probes:
            if backend != but:
                self._health.unprobed(backend)
        call.probes = tuple([backend for backend in call.probes if backend == but])

    async def pays(self, call: Call, tokens: int) -> bool:
        """Whether the lease covers so many tokens more, extended where need be. A dead store extends nothing."""
        held, flowed = call.hold, call.flowed + tokens
        if held is None or call.chain is None:
            return False
        if flowed <= held.demand.output:
            call.flowed = flowed
            return True
        demand, draws = budget.longer(held, call.chain, flowed, self._sums, time.time_ns() // 1_000_000)
        try:
            answer = await self._holds.extend(held, draws)
        except CountersUnavailable:
            return False
        if answer.granted:
            held.demand, call.flowed = demand, flowed
        return answer.granted


def _name(call: Call) -> str:
    """Of its next hold."""
    number, call.holds = call.holds, call.holds + 1
    return hold_name(call.id, number)


def _digest(call: Call, caller: Caller, body: bytes) -> str:
    """Of a caller, its Idempotency-Key, the path and the body; of a large body the ends will do."""
    ends = body if len(body) <= 2 * _HASHED else body[:_HASHED] + body[-_HASHED:]
    facts = (caller.owner, call.repeat, call.path, str(call.content_length), str(len(body)))
    head = "".join([f"{len(fact)} {fact} " for fact in facts])
    return hashlib.blake2b(head.encode() + ends, digest_size=16).hexdigest()
