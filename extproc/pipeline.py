"""The way of data, read top to bottom: one method per message from Envoy.

Stages decide, synchronously; only this file awaits. Whatever a stage refuses becomes a reply in the shape
of the surface that was called, in `_refuse`; whatever else goes wrong inside leaves as an exception, and
the adapter fails the stream, which Envoy turns into a 5xx for this call and nothing else.
"""

import random
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TypeVar

from extproc import beside, surfaces
from extproc.admission import Admission
from extproc.cache import control
from extproc.cache.control import Control
from extproc.caching import Caching
from extproc.call import (
    PROCEED,
    UNCHANGED,
    WITHHOLD,
    BodyMode,
    Call,
    Emit,
    Event,
    Origin,
    Pass,
    Phase,
    Proceed,
    ProtocolViolation,
    Relay,
    Reply,
    Route,
    Rules,
    Withhold,
)
from extproc.contract import SINK_CLUSTER, backend_of
from extproc.dialects import answers, listing, multipart, registry
from extproc.dialects.form_texts import FormTexts
from extproc.dialects.multipart import FormReader
from extproc.guardrails.gate import Gate
from extproc.headers import Headers, content_length
from extproc.identity import passport
from extproc.limits.demand import Extent, answer_tokens
from extproc.model import (
    Caller,
    Catalogue,
    Chain,
    CleanPrompt,
    CredentialKind,
    Ending,
    Prompt,
    PublicModel,
    StateReference,
)
from extproc.ports import Affinity, Answers, Holds, Journal, Neighbours, Roster, Screening, Shadows
from extproc.redaction.profile import DetectionFailed
from extproc.refusals import (
    BAD_REQUEST,
    GATEWAY_ERROR,
    INVALID_JSON,
    METHOD_NOT_ALLOWED,
    MODEL_NOT_FOUND,
    NOT_READY,
    STORE_UNAVAILABLE,
    UNKNOWN_URL,
    UNSUPPORTED_MEDIA,
    Refusal,
    Refused,
    encode,
    envoys,
)
from extproc.reservation import Reservations
from extproc.routing.attempt import Attempt, Meaning
from extproc.settlement import Settlement
from extproc.stages import (
    binding,
    budget,
    cache,
    fallback,
    forward,
    guard,
    judge,
    notices,
    relay,
    route,
    shadow,
    state,
    translation,
)
from extproc.stages.admit import admit
from extproc.stages.heads import Head, Heads, unprefixed
from extproc.stages.identify import Token, identify
from extproc.stages.session import Sessions
from extproc.stages.shadow import Copy
from extproc.stages.traffic import Traffic
from extproc.stores.counters import CountersUnavailable
from extproc.stores.ports import StoreUnavailable
from extproc.surfaces import MULTIPART, Place, Surface
from extproc.telemetry import logged, metrics, note
from extproc.telemetry.traces import Traces
from extproc.timing import Stage, Times

_AS_USUAL = Control()
_JSON = (("content-type", "application/json"),)
_STORE_DOWN = Refusal(STORE_UNAVAILABLE, "A store of the gateway does not answer. Try again in a moment.")

Told = TypeVar("Told", Relay, Reply)


def _nobody(_attempt: Attempt) -> None:
    """Learns nothing from an attempt."""


class Pipeline:
    """The decisions of all calls of one worker. Calls share nothing but what is given here."""

    def __init__(  # noqa: PLR0913 - the parts of a worker, each named where it is made
        self,
        *,
        catalogue: Callable[[], Catalogue],
        roster: Roster,
        not_ready: Callable[[], str | None],
        affinity: Affinity,
        health: route.Health,
        holds: Holds,
        screening: Screening,
        journal: Journal,
        signing_key: bytes | None = None,
        judge: Callable[[Attempt], None] = _nobody,
        shadows: Shadows | None = None,
        answers: Answers | None = None,
        neighbours: Neighbours | None = None,
        traces: Traces | None = None,
        admission: Admission | None = None,
    ) -> None:
        """`judge` is told how answers went that were watched as they flowed. `answers` None: there is no cache."""
        self._catalogue = catalogue
        self._roster = roster
        self._signing_key = signing_key
        self._sessions = Sessions(signing_key)
        self._judge = judge
        self._not_ready = not_ready
        self._affinity = affinity
        self._health = health
        self._holds = holds
        self._screening = screening
        self._shadows = shadows
        self._heads = Heads(catalogue())
        self._traffic = Traffic()
        self._reservations = Reservations(affinity, roster, health, holds, self._traffic)
        self._caching = Caching(answers, self._reservations, neighbours)
        self._settlement = Settlement(holds, self._caching, journal, self._traffic, judge, traces)
        self._traces = traces
        self._admission = admission or Admission()
        self._dice = random.SystemRandom()
        self.in_flight = 0
        self.endings: set[Callable[[], None]] = set()
        """What ends each answer that can be ended at any time; whoever hands such an answer on puts it here."""
        self._breaks_off = False
        self._of_revision: Counter[str] = Counter()  # calls in flight, by the configuration that they began with

    def begin(self) -> Call:
        """A call of which nothing is known yet. Whoever begins one must `end` it."""
        catalogue = self._catalogue()
        self.in_flight += 1
        self._of_revision[catalogue.revision] += 1
        name = self._reservations.name()
        began = time.time_ns() // 1_000_000
        return Call(started=time.monotonic(), catalogue=catalogue, began=began, times=Times(time.monotonic), id=name)

    def join(self, call: Call, parents: Sequence[str], states: Sequence[str]) -> None:
        """Find the place of a call in the trace of its traceparents and tracestates, where calls are traced."""
        if self._traces is not None:
            call.trace = self._traces.begin(parents, states)

    @property
    def revisions(self) -> list[str]:
        """The configurations that calls in flight began with."""
        return [*+self._of_revision]

    def break_off(self, now: bool) -> None:
        """Whether streams are to end that still run, by an error that says so: they are about to be cut."""
        self._breaks_off = now
        for end in [*self.endings] if now else ():
            end()

    # ---- request headers: who, what ----------------------------------------------------------------

    async def request_headers(
        self, call: Call, headers: Headers, end: bool, token: Token = None, waited: float = 0.0
    ) -> Proceed | Withhold | Route | Reply:
        """`waited`: seconds since Envoy began with the call."""
        call.note(Event.REQUEST_HEADERS)
        if call.trace is None and self._traces is not None:
            self.join(call, headers.all("traceparent"), headers.all("tracestate"))
        try:
            with call.times.of(Stage.IDENTIFY):
                head = self._head(call, headers)
                place = self._place(call, head)
                if place.surface is Surface.READY:
                    call.trace = None  # of a probe there is no span, and its record names none
                    return self._readiness(call)
                self._admission.check(self.in_flight, waited, call.catalogue.capacity)
                caller = call.caller = self._identified(call, headers, place, token)
                if place.surface is Surface.ME:
                    return self._reply(call, listing.me(caller, _usable(call, caller)))
                if place.surface in (Surface.MODELS, Surface.MODEL_ITEM):
                    return self._list_models(call, caller, place)
                self._asked(call, caller, headers, head)
            if place.surface is Surface.RESPONSE_ITEM:
                return await self._stored_item(call, caller, place) if end else PROCEED
            return self._expect_body(call, headers, head, place, end)
        except Refused as refused:
            return self._refuse(call, refused.refusal)
        except (StoreUnavailable, CountersUnavailable):
            return self._refuse(call, _STORE_DOWN)

    def _head(self, call: Call, headers: Headers) -> Head:
        if self._heads.catalogue is not call.catalogue:
            self._heads = Heads(call.catalogue)
        head = self._heads.read(headers)
        call.request_id = headers.get("x-request-id") or ""
        call.method, call.path, call.query = head.method, head.path, head.query
        call.face, call.low_route, call.retries = head.face, head.low_route, head.retries
        return head

    def _place(self, call: Call, head: Head) -> Place:
        place = head.place
        if place is None:
            meant = surfaces.suggestion(head.path)
            hint = f" Did you mean {meant}?" if meant else " The documentation lists the paths that are."
            raise Refused(UNKNOWN_URL, "This path is not served." + hint)
        call.place = place
        if head.method not in place.methods:
            allowed = " or ".join(place.methods)
            raise Refused(METHOD_NOT_ALLOWED, f"This path takes {allowed}.")
        return place

    def _asked(self, call: Call, caller: Caller, headers: Headers, head: Head) -> None:
        """What the head of a call says of it. Raises Refused."""
        call.priority = budget.priority(head.priority, caller)
        call.repeat = headers.get("idempotency-key") or ""
        call.rules = guard.rules(caller, call.catalogue)
        call.stripped, call.asking = head.stripped, head.asking
        if head.binds:
            call.bound = binding.headers(headers, call.catalogue.binding_headers)
        if head.names_session:
            self._sessions.of_headers(call, caller, headers)
        if call.catalogue.cache.on or "cache-control" in headers:
            call.control = control.read(headers) if head.asks_cache else _AS_USUAL
            call.versions = head.versions
        told = () if call.rules is None else self._told_around(headers, head, call.query, call.rules)
        call.stripped += told
        if not head.is_kept and not told:
            self._heads.keep(headers, head)
        call.who = note.who(call)
        call.phase = Phase.IDENTIFIED

    def _told_around(self, headers: Headers, head: Head, query: str, rules: Rules) -> tuple[str, ...]:
        """The headers that hold a value that may not leave. Raises Refused for a query that does."""
        detector = guard.around(rules)
        if detector is None or (head.clean is detector and not head.has_own):
            return ()
        told = guard.telling(forward.free(headers), query, rules)
        if not told:
            head.clean = detector
        return told

    def _readiness(self, call: Call) -> Reply:
        if self._not_ready() is not None:
            raise Refused(NOT_READY, "The gateway is not ready.")
        return self._reply(call, b'{"status":"ready"}')

    def _identified(self, call: Call, headers: Headers, place: Place, token: Token) -> Caller:
        now = time.time()
        caller = identify(headers, token, self._roster.current(), call.catalogue.issuers, now)
        call.caller = caller  # one who is refused from here on is known in the record
        if caller.kind is CredentialKind.KEY:
            self._roster.used(caller.key_id, now)
        admit(caller, place, headers.get("x-envoy-external-address"), call.catalogue.accepted)
        return caller

    def _list_models(self, call: Call, caller: Caller, place: Place) -> Reply:
        if place.item is None:
            return self._reply(call, listing.models(_usable(call, caller), call.face))
        model = call.catalogue.named(place.item, caller.team)
        if model is None or not caller.may_use(model):
            raise Refused(MODEL_NOT_FOUND, "The model does not exist or this key may not use it.", "model")
        return self._reply(call, listing.model(model, call.face))

    def _expect_body(self, call: Call, headers: Headers, head: Head, place: Place, end: bool) -> Proceed | Withhold:
        if head.is_compressed:
            raise Refused(UNSUPPORTED_MEDIA, "Send the body without content-encoding; compressed bodies are not read.")
        wanted = "multipart/form-data" if place.surface in MULTIPART else "application/json"
        if head.media != wanted:
            raise Refused(UNSUPPORTED_MEDIA, f"Send this call with content-type {wanted}.")
        if end:
            raise Refused(INVALID_JSON if wanted == "application/json" else BAD_REQUEST, "The request body is empty.")
        if place.surface not in MULTIPART:
            return PROCEED
        content_type, required = headers.get("content-type") or "", place.deployment is None
        if call.rules is None:
            call.form = FormReader(multipart.delimiter(content_type), required)
        else:
            changes, lenient = guard.may_change(call.rules), judge.lets_unread(call.rules)
            call.form = FormTexts(content_type, required, changes=changes, lenient=lenient)
        call.content_length = content_length(headers)
        return WITHHOLD

    async def _stored_item(self, call: Call, caller: Caller, place: Place) -> Route:
        """A stored response is read, cancelled or deleted where it was made, by whom it was made for."""
        reference = StateReference(ids=(place.item or "",))
        with call.times.of(Stage.ROUTE):
            known = await self._affinity.recall(reference.ids)
        backend = state.holder(caller, reference, known)
        model = state.maker(call.catalogue, known[place.item or ""].model, backend, caller.team)
        call.pinned = True
        stops = self._roster.current().stops
        call.chain = chain = route.pinned(model, place, backend or "", caller.team, stops, call.began)
        if call.method == "GET":  # to end what is made in the background is never refused
            await self._reservations.reserve(call, caller, place, CleanPrompt(Prompt(b"", None, None)), chain)
        call.phase = Phase.ROUTED
        self._leaves(call, chain)
        self._traffic.sent(call, time.monotonic())
        with call.times.of(Stage.FORWARD):
            legs = forward.legs(chain, place, call.query, None)
        return Route(legs, call.stripped, identity=self._passport(call, caller, chain))

    # ---- request body: what may leave, where to, at what price -----------------------------------------

    async def request_body(self, call: Call, body: bytes, end: bool) -> Route | Reply | Pass | Withhold:
        call.note(Event.REQUEST_BODY)
        if call.phase is Phase.ANSWERED:
            return WITHHOLD
        place, caller = call.place, call.caller
        if place is None or caller is None:
            raise ProtocolViolation("a body before a caller")
        try:
            if place.surface in MULTIPART:
                return await self._stream_form(call, caller, place, body, end)
            if call.phase is not Phase.IDENTIFIED or not end:
                raise ProtocolViolation("a JSON body in pieces, or twice")
            self._admission.decides(time.monotonic() - call.started, call.catalogue.capacity)
            if place.surface is Surface.RESPONSE_ITEM:
                item = await self._stored_item(call, caller, place)
                return replace(item, body=b"", length=0)  # no such path reads one
            return await self._decide(call, caller, place, body)
        except Refused as refused:
            return self._refuse(call, refused.refusal)
        except (StoreUnavailable, CountersUnavailable):
            return self._refuse(call, _STORE_DOWN)

    async def _decide(self, call: Call, caller: Caller, place: Place, body: bytes) -> Route | Reply:
        with call.times.of(Stage.READ):
            prompt = await beside.loop(len(body), registry.READERS[place.surface], body)
            self._sessions.of_body(call, caller, prompt.talk)
            model = call.named = route.model_for(caller, place, prompt.model, call.catalogue)
            call.notices = notices.of_model(model, route.written(place, prompt.model))
        clean = CleanPrompt(prompt) if call.rules is None else await self._clean(call, place, prompt, call.rules)
        served = await self._caching.served(call, caller, place, model, clean)
        if isinstance(served, Reply):
            return served
        chain, cap = served
        if chain.model.fallback:
            cap = await self._reservations.stand_ins(call, caller, place, clean, chain, cap)
        if call.rules is not None and clean.questions:
            with call.times.of(Stage.MODERATE):
                await self._screening.moderate(clean.questions, call.rules, call.inspection)
        with call.times.of(Stage.FORWARD):
            return self._sent(call, caller, place, clean, chain, cap, body)

    def _sent(
        self, call: Call, caller: Caller, place: Place, clean: CleanPrompt, chain: Chain, cap: int | None, body: bytes
    ) -> Route:
        """The request as the targets of the chain get it, with `cap` tokens of output at most."""
        chain = chain if cap is None else forward.same_cap_field(chain, place)
        whole = chain
        if call.spare:
            call.spare = fallback.fitting(chain, call.spare, place, cap)
            whole = fallback.joined(chain, call.spare)
        self._routed(call, place, chain, clean.prompt)
        call.hides_usage = forward.asks_usage(clean.prompt, whole, place)
        sent = forward.body_route(
            clean,
            whole,
            place,
            call.query,
            call.stripped,
            cap,
            asking=call.asking,
            first_byte=fallback.first_byte(chain, call.spare),
            identity=self._passport(call, caller, whole),
        )
        if any(leg.translate for leg in sent.legs):
            call.sent = body if sent.body is None else sent.body
        self._copy(call, place, clean.prompt, body if sent.body is None else sent.body)
        return fallback.parted(sent, chain, call.spare)

    async def _clean(self, call: Call, place: Place, prompt: Prompt, rules: Rules) -> CleanPrompt:
        """Look through the request as the caller's policies say, and redact it. Raises Refused."""
        with call.times.of(Stage.SCREEN):
            guard.check_state(prompt, rules)
            guard.check_model(prompt.model, place, call.catalogue)
            return await self._screening.clean(prompt, rules, call.inspection)

    def _routed(self, call: Call, place: Place, chain: Chain, prompt: Prompt) -> None:
        """From here on only facts are kept: the prompt itself is Envoy's, not ours."""
        call.chain = chain
        call.stream = prompt.stream
        call.json_output = prompt.json_output
        call.estimated_input = prompt.estimated_input
        call.choices = prompt.choices
        if call.hold is None:
            call.longest = answer_tokens(place.surface, prompt, chain) * prompt.choices
        call.background = prompt.background
        call.searches = prompt.searches
        call.asked_usage = prompt.usage_edit is None
        call.phase = Phase.ROUTED
        self._leaves(call, chain)
        self._traffic.sent(call, time.monotonic())
        self._reservations.leave_probes(call, chain.targets[0].backend.name)

    def _leaves(self, call: Call, chain: Chain) -> None:
        """Leave word of a call that is about to be sent: who ends it may be another worker."""
        if call.hold is None or call.spare or not call.what:  # else that is known since room was reserved for it
            of = Extent(estimated_input=call.estimated_input)
            surely = of.surely(chain) if call.hold is None else call.hold.surely
            call.what = note.what(call, chain.model.name, call.stream, surely)
        self._holds.begun(call.id, note.joined(call.who, call.what))

    def _copy(self, call: Call, place: Place, prompt: Prompt, body: bytes) -> None:
        """Have a share of the calls copied, as their model wants it. Whatever becomes of it, the call is not told."""
        given = None if call.chain is None else call.chain.model.shadow
        if given is None or self._shadows is None or call.chain is None or self._dice.random() >= given.share:
            return
        target, name = given.target, call.chain.model.name
        backend = target.backend.name
        try:
            stops = self._roster.current().stops
        except StoreUnavailable:  # since the call was decided
            return
        is_well = self._health.until(backend, target.model, time.monotonic())[1] is None
        if is_well and shadow.fits(call, place, prompt, body, target.backend, stops):
            self._shadows.take(Copy(call.request_id, name, target, place, body))
        else:
            metrics.count_shadow(name, backend, "unfit")

    async def _stream_form(self, call: Call, caller: Caller, place: Place, chunk: bytes, end: bool) -> Pass | Withhold:
        """A multipart body flows through; only its first bytes are held, until they name the model."""
        if call.request_ended:
            return WITHHOLD  # Envoy has been seen to repeat the last chunk: it has been sent
        call.request_ended = end
        if call.form is None:
            raise ProtocolViolation("a form that was not expected")
        if isinstance(call.form, FormTexts):
            chunk = await self._looked(call, call.form, chunk, end)
        else:
            with call.times.of(Stage.READ):
                call.form.feed(chunk, end)  # to the end: a second model behind the file must not pass
        if call.phase is not Phase.IDENTIFIED:
            return Pass(chunk, end) if chunk or end else WITHHOLD
        call.pending += chunk
        if not call.form.decided:
            return WITHHOLD
        named = call.form.model.model if call.form.model else None
        clean = CleanPrompt(Prompt(b"", named, None, images=call.form.images or 0))
        model = call.named = route.model_for(caller, place, named, call.catalogue)
        call.notices = notices.of_model(model, route.written(place, named))
        chain = forward.same_form(await self._reservations.drawn(call, caller, place, model, clean), place)
        reserved, _ = await self._reservations.reserve(call, caller, place, clean, chain)
        chain = forward.same_form(reserved, place)
        self._routed(call, place, chain, clean.prompt)
        held, call.pending = call.pending, b""
        with call.times.of(Stage.FORWARD):
            sent = forward.form_pass(call, chain, place, call.form, held)
            signed = self._passport(call, caller, chain)
        return (
            sent if signed is None or sent.route is None else replace(sent, route=replace(sent.route, identity=signed))
        )

    async def _looked(self, call: Call, form: FormTexts, chunk: bytes, end: bool) -> bytes:
        """What may pass of a form, with its texts as they may be sent."""
        if call.rules is None:
            raise ProtocolViolation("a form that nobody looks through")
        texts = form.texts(chunk, end)
        clean: str | None = None
        while True:
            try:
                text = next(texts) if clean is None else texts.send(clean)
            except StopIteration as done:
                passes: bytes = done.value
                break
            with call.times.of(Stage.SCREEN):
                clean = await self._screening.clean_text(text, call.rules, call.inspection)
        if end and form.unread:
            judge.unread(call.rules, call.inspection)
        return passes

    def _passport(self, call: Call, caller: Caller, chain: Chain) -> str | None:
        """The caller's signed identity, where a backend of the chain wants it; Envoy gives it to no other."""
        told = [target.backend.name for target in chain.targets if target.backend.wants_identity]
        if self._signing_key is None or not told:
            return None
        return passport.sign(caller, list(dict.fromkeys(told)), call.request_id, time.time(), self._signing_key)

    # ---- response: what came, what it used ------------------------------------------------------------

    async def response_headers(self, call: Call, headers: Headers, origin: Origin, end: bool) -> Relay | Reply:
        call.note(Event.RESPONSE_HEADERS)
        with call.times.of(Stage.ANSWER):
            return self._answer_head(call, headers, origin, end)

    def _answer_head(self, call: Call, headers: Headers, origin: Origin, end: bool) -> Relay | Reply:
        status = int(headers.get(":status") or 0)
        if call.phase is Phase.OPENED:
            self._recognise(call, origin)
        if origin.details != "via_upstream":
            return self._refuse(call, envoys(status, origin.details, call.pinned))
        if call.phase is not Phase.ROUTED:
            raise ProtocolViolation("an answer of a backend to a call that was not decided")
        if origin.cluster == SINK_CLUSTER and call.spare:  # nobody answered, and tries are left for another model
            return self._refuse(call, envoys(503, "", call.pinned))
        if origin.cluster == SINK_CLUSTER:
            return self._refuse(call, Refusal(GATEWAY_ERROR, "The call was not routed."))
        call.phase = Phase.RESPONDING
        call.status, call.backend = status, backend_of(origin.cluster)
        fallback.taken(call, headers)
        call.first_byte = time.monotonic()
        self._traffic.answered(call)
        call.awaited = content_length(headers)
        try:
            order = self._expected(call, headers, end)
        except Refused as refused:
            return self._withdraw(call, refused.refusal)
        if order.mode is BodyMode.DUPLEX:
            call.watched = True
            order = replace(order, silence=relay.silence(call, origin.protocol))
        if call.catalogue.tells_backend:
            call.notices += notices.of_backend(call)
        if call.hold is None and not call.told and not call.notices:
            return order
        headers_too = (*order.headers, *call.notices, *call.told)
        return Relay(order.mode, order.resized, headers_too, call.hold is not None, order.silence)

    def _expected(self, call: Call, headers: Headers, end: bool) -> Relay:
        """How the body of the answer shall come. Raises Refused."""
        if call.sent and not end:
            headers = translation.begin(call, headers, int(time.time()))
            call.sent = b""  # megabytes, and the answer may take minutes
        if call.status >= 400:
            call.ending = Ending.FAILED
            cache.begin(call)
            return translation.relayed(call, translation.error(call, headers))
        call.answer_ended = end
        if end:
            return Relay(BodyMode.NONE)
        expected = relay.expect(call, headers)
        cache.begin(call)
        return translation.relayed(call, expected)

    def _recognise(self, call: Call, origin: Origin) -> None:
        """A call of which nothing but Envoy's refusal is told: its path says whose error shape it wants."""
        path, _ = unprefixed(origin.path.partition("?")[0], call.catalogue.low_prefix)
        call.request_id = origin.request_id
        call.place = surfaces.locate(path)
        call.face = call.place.face if call.place else surfaces.face_of(path)

    async def response_body(self, call: Call, chunk: bytes, end: bool) -> Emit | Reply | Withhold:
        call.note(Event.RESPONSE_BODY)
        if call.phase is Phase.ANSWERED:
            return WITHHOLD
        began = time.monotonic()
        if call.awaited is not None:  # a client that has all of it may leave before its end is told
            call.awaited -= len(chunk)
            end = end or call.awaited <= 0
        call.answer_bytes += len(chunk)
        if call.heard is None or not call.stream:
            call.heard = began
        try:
            if call.translated is None and not call.answer_ended:
                return await self._surface_body(call, chunk, end)
            return await self._answer_body(call, chunk, end)
        except Refused as refused:
            return self._withdraw(call, refused.refusal)
        finally:
            call.times.note(Stage.ANSWER, began)

    async def _answer_body(self, call: Call, chunk: bytes, end: bool) -> Emit:
        if call.answer_ended:
            return Emit(b"")  # a repeated end: the answer has been sent
        if call.translated is None:
            return await self._surface_body(call, chunk, end)
        chunk = call.translated.feed(chunk, end)
        is_overlong = call.translated.overlong  # which is no end of it, even where nothing follows
        emit = await self._surface_body(call, chunk, end and not is_overlong)
        sent = chunk if emit.body is None else emit.body
        if is_overlong and not call.answer_ended:
            return translation.cut(call, sent)
        return Emit(sent, emit.last)

    async def _surface_body(self, call: Call, chunk: bytes, end: bool) -> Emit:
        """A piece of an answer as the surface that was called has it."""
        if call.lookup is not None:
            call.lookup.feed(chunk)
        answer, meter = call.answer, call.meter
        if answer is None:
            call.answer_ended = end and call.translated is not None
            return UNCHANGED
        if isinstance(answer, answers.LeasedStream):
            emit = await self._leased(call, answer, chunk, end)
        else:
            try:
                is_stream = isinstance(answer, answers.Stream)  # of which there may be hundreds of pieces
                out = answer.feed(chunk, end) if is_stream else await self._fed(call, answer, chunk, end)
            except DetectionFailed:
                emit = relay.unread(call, answer)
            else:
                emit = UNCHANGED if out is None else Emit(out)
                if call.texts is not None and not isinstance(answer, answers.Opaque):
                    emit = relay.spoken(call, answer, emit)
        if call.gate is not None or self._breaks_off:
            emit = await self._held_up(call, emit, chunk, end)
        call.answer_ended = end or emit.last
        if call.first_token is None and call.stream and meter is not None and meter.spoken:
            call.first_token = time.monotonic()
        if meter is not None and (made := meter.made_ids()):
            await self._remember(call, made)
        return emit

    async def _fed(self, call: Call, answer: relay.Read, chunk: bytes, end: bool) -> bytes | None:
        """Hand a piece to what reads the answer. A body that was held back is looked through whole at its end."""
        if end and isinstance(answer, answers.Document | answers.PlainText) and call.texts is not None:
            answer.take(chunk, end)  # at once: who stops waiting for the rest still has all of it
            return await self._screening.run(answer.held, answer.changed, end)
        return answer.feed(chunk, end)

    async def _held_up(self, call: Call, emit: Emit, chunk: bytes, end: bool) -> Emit:
        """What goes out of an answer that is judged, or whose time is over."""
        if call.gate is not None:
            emit = await self._heard(call, call.gate, emit, chunk, end)
        if self._breaks_off and call.stream and not emit.last and (call.broken_off or not end):
            return relay.broken_off(call, chunk if emit.body is None else emit.body)
        return emit

    async def _heard(self, call: Call, gate: Gate, emit: Emit, chunk: bytes, end: bool) -> Emit:
        """Hold an answer back until what it says has been judged."""
        gate.held.append(chunk if emit.body is None else emit.body)
        over = end or emit.last
        if not over and not gate.is_due:
            return Emit(b"" if gate.is_shut else gate.release())
        try:
            await self._screening.hear(gate, call.inspection)
        except Refused as refused:
            return relay.judged(call, refused, gate.release())
        return Emit(gate.release(), emit.last)

    async def _leased(self, call: Call, answer: answers.LeasedStream, chunk: bytes, end: bool) -> Emit:
        """Reserve the output slice by slice, each before the text that it pays for passes; without one, end."""
        passed: list[bytes] = []
        for event in answer.feed(chunk, end):
            tokens = answer.weigh(event)
            if not await self._reservations.pays(call, tokens):
                return self._cut_short(call, answer, passed)
            passed.append(answer.passes(event))
            if answer.blocked:
                return relay.silenced(call, answer, b"".join(passed))
        if answer.overlong:
            return self._cut_short(call, answer, passed)
        if end:
            passed.append(answer.tail())
        if answer.blocked:
            return relay.silenced(call, answer, b"".join(passed))
        return Emit(b"".join(passed))

    def _cut_short(self, call: Call, answer: answers.LeasedStream, passed: list[bytes]) -> Emit:
        call.cut_short = True
        return Emit(b"".join((*passed, answer.ending(call.estimated_input, call.asked_usage))), last=True)

    async def _remember(self, call: Call, made: list[str]) -> None:
        """Before the client can use an id, the gateway must know whose it is. A dead store costs only that."""
        if call.caller is None or call.chain is None or call.backend is None:
            return
        try:
            await self._affinity.remember(made, call.backend, call.chain.model.name, call.caller.owner)
        except StoreUnavailable:
            metrics.count(metrics.AFFINITY_LOST)

    async def stalled(self, call: Call) -> Emit:
        """The end of a watched answer: nothing has come for longer than may be, or no time is left for it."""
        if call.meter is not None and call.meter.finished:  # all has been said: the backend only does not hang up
            rest = await self._answer_body(call, b"", end=True)
            return Emit(rest.body, last=True)
        if self._breaks_off:
            call.answer_ended = True
            return relay.broken_off(call, b"")
        ending = relay.stalled(call)
        metrics.count(metrics.BROKEN, "upstream")
        if call.backend is not None:
            self._judge(Attempt(call.backend, call.status, call=call.request_id, judged=Meaning.FAILED))
        return ending

    async def trailers(self, call: Call, event: Event) -> Proceed | Withhold:
        call.note(event)
        return WITHHOLD if call.phase is Phase.ANSWERED else PROCEED

    # ---- what is told of it while it lasts ------------------------------------------------------------

    def timed(self, call: Call, order: Told) -> Told:
        """The head of an answer, with how long the stages of the call took, where that is to be told."""
        if not call.catalogue.tells_times:
            return order
        return replace(order, headers=(*order.headers, *notices.of_times(call)))

    def to_log(self, call: Call, is_last: bool) -> logged.Facts:
        """What Envoy's log is to have of a call, see Settlement."""
        return self._settlement.to_log(call, is_last)

    # ---- the end, exactly once ------------------------------------------------------------------------

    def fail(self, call: Call) -> None:
        """Note that the policy failed on this call: Envoy answers it with a 5xx, or cuts its answer."""
        if call.phase is not Phase.RESPONDING:
            call.status = 503
        call.ending = Ending.FAILED

    def end(self, call: Call) -> None:
        """Settle: one outcome, one access record. Never raises for what a call was, never awaits."""
        self.in_flight -= 1
        self._of_revision[call.catalogue.revision] -= 1
        if not call.begun:
            return  # Envoy opened a stream and said nothing
        try:
            if call.backend is None and call.phase is not Phase.ANSWERED:
                self._reservations.leave_probes(call)  # nobody waited for the outcome
            if call.texts is not None:
                relay.note(call.texts, call.rules, call.inspection)
            self._settlement.settle(call)
        finally:
            if call.lookup is not None and call.lookup.seat is not None:
                call.lookup.seat.leave()

    def _refuse(self, call: Call, refusal: Refusal) -> Reply:
        if call.phase is Phase.IDENTIFIED:
            self._reservations.leave_probes(call)
        if call.lookup is not None and call.lookup.seat is not None:
            call.lookup.seat.leave()
        body, headers = encode(refusal, call.face, call.request_id)
        headers += (*call.notices, *call.told)
        call.refusal = refusal
        call.status = refusal.status
        call.ending = Ending.REFUSED
        call.phase = Phase.ANSWERED
        return Reply(refusal.status, tuple(headers), body, f"sluice_{refusal.kind.code}")

    def _withdraw(self, call: Call, refusal: Refusal) -> Reply:
        """Refuse in place of an answer of which nothing has gone out; one that is no error is paid for."""
        is_paid = call.status < 400
        reply = self._refuse(call, refusal)
        if is_paid:
            call.ending = Ending.BLOCKED
        return reply

    def _reply(self, call: Call, body: bytes) -> Reply:
        call.status = 200
        call.ending = Ending.ANSWERED
        call.phase = Phase.ANSWERED
        return Reply(200, _JSON, body, "sluice_answered")


def _usable(call: Call, caller: Caller) -> list[PublicModel]:
    return [model for model in call.catalogue.listed(caller.team) if caller.may_use(model)]


def _stands_in(model: PublicModel, backend: str | None) -> bool:
    return any(target.backend.name == backend for group in model.groups for target in group)
