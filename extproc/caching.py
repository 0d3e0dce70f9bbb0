"""Whether the answer to another call serves this one: one that is kept, or one that is just being made.

A look into the store leaves in the same turn of the loop as the reservation, so that a call waits for both at once. A
call that is served so gives back what it reserved, and counts as a request only.
"""

from collections.abc import Awaitable, Callable
from dataclasses import replace

from extproc import beside
from extproc.ahead import Ahead
from extproc.cache.entry import Entry
from extproc.cache.lookup import COMPARED, Comparison, Lookup, Near, Offer, Result
from extproc.call import Call, Phase, Reply
from extproc.model import Caller, Chain, CleanPrompt, Ending, Outcome, PublicModel
from extproc.ports import Answers, Neighbours, Seat
from extproc.redaction.policy import Mode
from extproc.refusals import IDEMPOTENCY_CONFLICT, NOT_CACHED, Refusal, Refused
from extproc.reservation import Reservations
from extproc.stages import cache
from extproc.surfaces import Face, Place, Surface
from extproc.timing import Stage
from extproc.values import frozen

Reserved = tuple[Chain, int | None]
"""What `Reservations.chosen` gives."""


class Caching:
    """Looks for all calls of one worker. `answers` None: there is no cache. `neighbours` None: no other words are."""

    def __init__(
        self, answers: Answers | None, reservations: Reservations, neighbours: Neighbours | None = None
    ) -> None:
        self._answers = answers
        self._reservations = reservations
        self._neighbours = neighbours

    async def served(
        self, call: Call, caller: Caller, place: Place, model: PublicModel, clean: CleanPrompt
    ) -> Reply | Reserved:
        """The answer to another call, or else what is reserved for this one. Raises Refused."""
        answers = self._answers
        made = call.lookup = None if answers is None else cache.lookup(call, caller, model)
        if made is None or answers is None:
            if call.control is not None and call.control.only:
                raise Refused.of(Refusal(NOT_CACHED, "No answer is kept: the cache is off for this call."))
            return await self._reservations.chosen(call, caller, place, model, clean)
        if not made.reason:
            size = len(clean.prompt.body)
            with call.times.of(Stage.CACHE):
                await beside.loop(size, cache.find, made, call, caller, place, model, clean, answers.key)
        if self._neighbours is None:
            made.near = None
        one = _One(self._reservations, answers, self._neighbours, made, call, caller, place, model, clean)
        if made.control.only:
            return await one.only()
        reserved = await (one.looked() if made.digest else one.chosen())
        if not isinstance(reserved, Reply):
            call.notices += ((cache.HEADER, made.header),)
        return reserved

    def ended(self, call: Call, outcome: Outcome) -> None:
        """Keep the answer of a call that has ended, if it may be kept; else those who wait for it are told."""
        made = call.lookup
        if self._answers is None or made is None or made.seat is None or call.caller is None:
            return
        make = cache.kept(call, outcome, self._answers.now())
        if make is None:
            made.seat.leave()
            return
        life = round(cache.life(made) * 1000)
        labels = cache.labels(call.caller, call.model or "")
        made.seat.offer(Offer(make, made.size, labels, life, self._then(call, made, life)))

    def _then(self, call: Call, made: Lookup, life: int) -> Callable[[Entry], Awaitable[None]] | None:
        """What is left to do once the answer is kept."""
        neighbours, near, surface = self._neighbours, made.near, call.place.surface if call.place else Surface.CHAT
        if neighbours is None or near is None:
            return None
        call_id, json_output = call.request_id, call.json_output

        async def then(entry: Entry) -> None:
            await neighbours.remember(near, made.digest, life)
            if near.entry is None:
                return
            would, real = [
                await beside.loop(len(one.body), cache.said, one, surface, json_output) for one in (near.entry, entry)
            ]
            alike = cache.threshold(made)
            compared = Comparison(call_id, entry.model, made.similarity or 0, alike, would, real)
            await neighbours.compare(compared, made.policy.semantic.timeout)

        return then


@frozen
class _One:
    """The look of one call."""

    reservations: Reservations
    answers: Answers
    neighbours: Neighbours | None
    made: Lookup
    call: Call
    caller: Caller
    place: Place
    model: PublicModel
    clean: CleanPrompt

    async def chosen(self) -> Reserved:
        """What a backend may use, as if there were no cache. Who waits for this call's answer must get the model's."""
        reserved = await self.reservations.chosen(self.call, self.caller, self.place, self.model, self._with_aside())
        if reserved[0].model is not self.model and self.made.seat is not None:
            self.made.seat.leave()
        return reserved

    def _with_aside(self) -> CleanPrompt:
        """With what is spent on looking for other words, for which there must be room, too."""
        near, prompt = self.made.near, self.clean.prompt
        if near is None or not near.cost:
            return self.clean
        compared = 2 * self._compared if self.made.policy.semantic.mode is Mode.SHADOW else 0
        return replace(self.clean, prompt=replace(prompt, aside=prompt.aside + near.cost + compared))

    @property
    def _compared(self) -> int:
        """What the longest answer costs that is compared with another."""
        return cache.cost(self.made.policy.semantic, "x" * COMPARED)

    async def only(self) -> Reply:
        """What is kept serves, or nothing does. Raises Refused."""
        entry, near = None, self.made.near
        if self.made.digest and self.made.policy.mode is Mode.ENFORCE:
            entry = await self._look(self.answers.seat(self.made.digest, shares=False))
        reply = None if entry is None else await self._reply(entry)
        serves = self.made.policy.mode is self.made.policy.semantic.mode is Mode.ENFORCE
        if (
            reply is None and near is not None and serves
        ):  # what the search costs is taken before it is spent, and stays spent
            await self._take_a_request(near.cost)
            reply = await self._near()
        elif reply is not None:
            await self._take_a_request()
        if reply is None:
            why = f" ({self.made.reason})" if self.made.reason else ""
            raise Refused.of(Refusal(NOT_CACHED, f"No answer is kept that may serve this call{why}."))
        return self._done(reply)

    async def looked(self) -> Reply | Reserved:
        """Look, and wait where another call that asks the same is on its way."""
        shares = self.made.policy.mode is Mode.ENFORCE and self.made.control.reads
        seat = self.answers.seat(self.made.digest, shares)
        self.made.seat = seat
        if not seat.is_first:
            reply = await self._awaited(seat)
            return (
                await self._or_near(seat, await self.chosen()) if reply is None else await self._with_a_request(reply)
            )
        look = Ahead(self._look(seat))
        try:
            reserved = await self.chosen()
        except Refused as refused:
            if refused.refusal.limit is None and refused.refusal.kind is not IDEMPOTENCY_CONFLICT:
                look.leave()  # it may have claimed the answer
                raise
            reply = await self._found(seat, await look)
            if reply is None:
                raise
            return await self._with_a_request(reply)  # which has room, perhaps, where its tokens have none
        except BaseException:
            look.leave()  # it may have claimed the answer
            raise
        reply = await self._found(seat, await look)
        return await self._or_near(seat, reserved) if reply is None else self._done(reply)

    async def _or_near(self, seat: Seat, reserved: Reserved) -> Reply | Reserved:
        """The answer to other words, if there is one, in place of what is reserved.

        The search has its price, and comes last: who has no room for it asks for none.
        """
        reply = await self._near()
        if reply is None:
            return reserved
        seat.leave()  # whoever waits for an answer to these words looks for others itself
        return self._done(reply)

    async def _near(self) -> Reply | None:
        """The answer to a question that asks the same in other words, if that may serve."""
        made, near, spent = self.made, self.made.near, self.call.inspection
        if near is None or self.neighbours is None or made.in_shadow or not made.digest:
            return None
        tier = made.policy.semantic
        spent.aside += near.cost  # before anything is awaited: whoever leaves meanwhile has spent it
        with self.call.times.of(Stage.CACHE):
            matches = await self.neighbours.search(near, cache.threshold(made), tier.timeout)
        if near.vector is None:
            spent.aside -= near.cost
        for match in matches:
            entry = await self._look(self.answers.seat(match.digest, shares=False))
            if entry is None or not cache.fits(made, entry, self.answers.now()):
                continue
            made.similarity = round(match.similarity, 4)
            if tier.mode is Mode.SHADOW:
                self._would(near, entry)
                return None
            reply = await self._reply(entry, Result.SEMANTIC)
            if reply is not None:
                return reply
            made.similarity = None
        return None

    def _would(self, near: Near, entry: Entry) -> None:
        """This answer would have served. That both are embedded to be compared is paid for here: what comes after the
        end of a call is on nobody's account.
        """
        near.entry = entry
        cache.serves(self.made, entry, self.answers.now(), Result.SEMANTIC)
        self.call.inspection.aside += 2 * self._compared

    async def _found(self, seat: Seat, entry: Entry | None) -> Reply | None:
        """What serves: an entry that was found, or that which another worker makes."""
        if entry is None:
            return await self._awaited(seat) if seat.follows else None
        return await self._reply(entry)

    async def _look(self, seat: Seat) -> Entry | None:
        with self.call.times.of(Stage.CACHE):
            return await seat.look()

    async def _awaited(self, seat: Seat) -> Reply | None:
        with self.call.times.of(Stage.SHARE):
            entry = await seat.wait(self.call.catalogue.cache.wait)
        return None if entry is None else await self._reply(entry)

    async def _with_a_request(self, reply: Reply) -> Reply:
        await self._take_a_request()
        return self._done(reply)

    async def _take_a_request(self, aside: int = 0) -> None:
        prompt = self.clean.prompt
        try:
            await self.reservations.take_request(self.call, self.caller, self.place, self.model, prompt, aside)
        except Refused:
            self.made.serves_nobody()
            raise

    async def _reply(self, entry: Entry, result: Result = Result.HIT) -> Reply | None:
        """The answer as this caller gets it; None where it may not serve."""
        made, prompt, now = self.made, self.clean.prompt, self.answers.now()
        if not cache.fits(made, entry, now):
            return None
        if made.policy.mode is Mode.SHADOW:
            cache.serves(made, entry, now)
            return None
        body = await beside.loop(len(entry.body), cache.shown, self.call, entry, self.place.surface, prompt.json_output)
        if body is None:
            return None
        cache.serves(made, entry, now, result)
        return Reply(200, cache.headers(made, entry), body, "sluice_cached")

    def _done(self, reply: Reply) -> Reply:
        """The call ends here. What was reserved for another model than the one that it asked for says nothing."""
        call = self.call
        self.reservations.leave_probes(call)
        call.chain, call.fallback, call.output_cap, call.shadowed = None, None, None, ()
        call.stream = self.clean.prompt.stream
        call.status, call.ending, call.phase = 200, Ending.CACHED, Phase.ANSWERED
        told = [header for header in (*call.notices, *call.told) if header[0] not in cache.OF_A_BACKEND]
        named = (("request-id", call.request_id),) if call.face is Face.ANTHROPIC else ()
        return replace(reply, headers=(*reply.headers, *named, *told))
