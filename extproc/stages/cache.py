"""Which answer that is kept may serve a call, and what of its own answer may be kept."""

from collections.abc import Callable, Iterator

import orjson

from extproc.cache import admission, question
from extproc.cache.entry import Entry
from extproc.cache.lookup import Lookup, Near, Result
from extproc.cache.policy import CachePolicy, Scope, Semantic
from extproc.cache.question import Bypass, Partition
from extproc.call import Call
from extproc.contract import FALLBACK_HEADER
from extproc.dialects import answers, json_spans, registry
from extproc.metering import estimate
from extproc.model import Caller, CleanPrompt, Ending, Outcome, PublicModel
from extproc.redaction.answer import AnswerTexts, Ear
from extproc.redaction.policy import Mode
from extproc.redaction.profile import DetectionFailed
from extproc.stages import fallback, guard, relay
from extproc.stores.answers import Labels
from extproc.surfaces import Place, Surface

HEADER = "x-sluice-cache"
OF_A_BACKEND = frozenset({"x-sluice-output-cap", fallback.MODEL_HEADER, FALLBACK_HEADER})
"""Headers that say nothing where none is asked."""
_SKEW_MS = 5_000  # that the clocks of two gateways may differ by
_SAID = frozenset({"arguments", "content", "name", "refusal", "text"})
_STREAM, _JSON = "text/event-stream", "application/json"
_STREAMS = (answers.Stream, answers.LeasedStream)


def lookup(call: Call, caller: Caller, model: PublicModel) -> Lookup | None:
    """What the cache has to do with a call of this model; None where it is off."""
    team = None if caller.team is None else caller.team.name
    policy = call.catalogue.cache.policy(model.name, team, caller.key_id, caller.name)
    if policy.mode is Mode.OFF or call.control is None:
        return None
    made = Lookup(policy, call.control)
    if not call.control.reads and not call.control.keeps:
        made.pass_by("no_store")
    elif call.inspection.failed:
        made.pass_by("unscreened")
    elif any(target.backend.wants_identity for group in model.groups for target in group):
        made.pass_by("identity")
    return made


def find(
    made: Lookup, call: Call, caller: Caller, place: Place, model: PublicModel, clean: CleanPrompt, key: bytes
) -> None:
    """Say under which digest the answer is kept, or why there is none. Takes its time for a long request."""
    prompt = clean.prompt
    if place.surface not in question.SURFACES:
        made.pass_by("surface")
        return
    if prompt.state is not None or prompt.background:
        made.pass_by("stateful")
        return
    body = json_spans.splice(prompt.body, list(clean.edits)) if clean.edits else prompt.body
    try:
        asked = question.read(place.surface, body, made.policy, None if clean.edits else prompt.plain)
    except Bypass as why:
        made.pass_by(str(why.args[0]))
        return
    made.results = asked.results
    partition = _partition(call, caller, place, model, made.policy)
    made.digest = question.digest(key, partition, asked.exact)
    if made.control.is_semantic and made.control.reads and asked.rest is not None and asked.text is not None:
        tier = made.policy.semantic
        name = question.digest(key, partition, asked.rest, f"semantic {_source(tier)}")
        made.near = Near(name, asked.text, cost(tier, asked.text))


def _source(tier: Semantic) -> str:
    """What makes the vectors: those of two models tell nothing about each other."""
    return f"model {tier.model}" if tier.model is not None else f"service {tier.service} {tier.service_model}"


def cost(tier: Semantic, text: str) -> int:
    """What it costs to embed a text, in nano-units."""
    return -(-tier.price * estimate.tokens(estimate.weight(text)) // 1_000_000)


def _partition(call: Call, caller: Caller, place: Place, model: PublicModel, policy: CachePolicy) -> Partition:
    return Partition(
        tenant=_tenant(caller, policy.scope),
        policy=guard.policy_version(call.rules),
        model=f"{model.owner} {model.name} {model.version}",
        surface=f"{place.surface} {place.face}",
        asked=(*call.versions, ("query", call.query)),
    )


def _tenant(caller: Caller, scope: Scope) -> str:
    """Who shares answers with the caller. A team that moves to another area begins anew."""
    team = None if caller.team is None else (caller.team.area, caller.team.name)
    who: tuple[str | None, ...] = ("key", caller.owner)
    if scope is Scope.USER and (caller.user or caller.service_account):
        who = ("user", caller.user, caller.service_account)
    elif scope is Scope.TEAM and team is not None:
        who = ("team",)
    return orjson.dumps((team, who)).decode()


# ---- what is kept serves --------------------------------------------------------------------------


def fits(made: Lookup, entry: Entry, now: int) -> bool:
    """Whether an entry is young enough for the caller. `now` in milliseconds of Unix time."""
    if entry.made > now + _SKEW_MS:
        return False  # nobody can say how old it is
    age = max(0, now - entry.made) / 1000
    asked = made.control.max_age
    return made.control.reads and age <= made.policy.ttl and (asked is None or age <= asked)


def threshold(made: Lookup) -> float:
    """How near a question must be at least."""
    return max(made.policy.semantic.threshold, made.control.threshold or 0)


def serves(made: Lookup, entry: Entry, now: int, result: Result = Result.HIT) -> None:
    """Note what it saves that this answer serves, or would."""
    made.age = max(0, now - entry.made) // 1000
    made.saved, made.saved_tokens = entry.cost, entry.input + entry.output
    if made.policy.mode is Mode.SHADOW or (result is Result.SEMANTIC and made.policy.semantic.mode is Mode.SHADOW):
        made.in_shadow = True
    else:
        made.result = result


def shown(call: Call, entry: Entry, surface: Surface, json_output: bool) -> bytes | None:
    """The answer as this caller gets it: with its own values in place of the placeholders; None where it cannot be."""
    placeholders = call.inspection.placeholders
    if not placeholders:
        return entry.body
    texts = AnswerTexts(placeholders)
    call.texts = texts
    return _changed(entry.body, entry.content_type, surface, texts, json_output, hides=False)


def said(entry: Entry, surface: Surface, json_output: bool) -> str:
    """What an answer says, in one text: words and calls of tools. Takes its time for a long one."""
    if entry.content_type == _JSON:
        return "\n".join(_words(orjson.loads(entry.body)))
    ear = Ear()
    _changed(entry.body, entry.content_type, surface, AnswerTexts(None, (), ear), json_output, hides=False)
    return "\n".join(ear.take())


def _words(value: object) -> Iterator[str]:
    """The texts of a whole answer, and nothing of what is told beside them."""
    if isinstance(value, list):
        for one in value:
            yield from _words(one)
    elif isinstance(value, dict):
        for name, held in value.items():
            if name == "input":  # of a tool
                yield orjson.dumps(held).decode()
            elif name in _SAID and isinstance(held, str):
                yield held
            else:
                yield from _words(held)


def headers(made: Lookup, entry: Entry) -> tuple[tuple[str, str], ...]:
    """Of an answer that was kept."""
    told = [("content-type", entry.content_type), (HEADER, made.header), ("age", str(made.age or 0))]
    if made.similarity is not None:
        told.append((f"{HEADER}-similarity", f"{made.similarity:.3f}"))
    return tuple(told)


# ---- an answer is kept ----------------------------------------------------------------------------


def begin(call: Call) -> None:
    """Where the answer may be kept, its pieces are; where not, those who wait for it learn so at once."""
    made = call.lookup
    if made is None or made.seat is None:
        return
    is_the_models = call.chain is not None and call.chain.model is call.named and call.fallback is None
    if not made.control.keeps or call.status != 200 or not is_the_models:
        made.seat.leave()
    elif isinstance(call.answer, _STREAMS):
        made.begin(_STREAM)
    elif isinstance(call.answer, answers.Document):
        made.begin(_JSON)
    else:
        made.seat.leave()


def kept(call: Call, outcome: Outcome, now: int) -> Callable[[], Entry | str] | None:
    """What makes the entry of the answer, see `Offer`; None where there is none to keep."""
    made, surface = call.lookup, call.place.surface if call.place else Surface.CHAT
    body = made.body() if made is not None else None
    if made is None or body is None or outcome.ending is not Ending.COMPLETE or outcome.backend is None:
        return None
    if call.inspection.failed or (call.texts is not None and (call.texts.unread or call.texts.blocked)):
        return None
    usage, model, rules = outcome.usage, call.model or "", call.rules
    kind, results, hides, json_output = made.content_type, made.results, call.hides_usage, call.json_output
    backend, cost = outcome.backend, outcome.cost
    is_cut = call.meter is not None and call.meter.stop == "length"  # as was read while it flowed

    def make() -> Entry | str:
        reason = "cut" if is_cut else admission.why_not(surface, body, kind == _STREAM, results)
        if reason is not None:
            return reason
        guards = relay.guards(rules)
        texts = AnswerTexts(None, guards) if guards else None
        redacted = _changed(body, kind, surface, texts, json_output, hides)
        if redacted is None:
            return "unscreened"
        return Entry(redacted, kind, now, model, backend, usage.input, usage.output, cost)

    return make


def life(made: Lookup) -> float:
    """For how many seconds the answer may be kept."""
    asked = made.control.ttl
    return made.policy.ttl if asked is None else min(made.policy.ttl, asked)


def labels(caller: Caller, model: str) -> Labels:
    """Of whom an answer is."""
    return Labels(caller.team.name if caller.team else "", model, caller.key_id)


def _changed(
    body: bytes, content_type: str, surface: Surface, texts: AnswerTexts | None, json_output: bool, hides: bool
) -> bytes | None:
    """The body with its texts changed, and without the usage that only the gateway asked for; None where it is
    blocked, or cannot be looked through."""
    meter, cap = registry.meter(surface, hides, False), len(body)
    reader: answers.Stream | answers.Document
    if content_type == _STREAM:
        events = None if texts is None else registry.event_texts(surface, texts, json_output)
        reader = answers.Stream(meter, hides, cap, events)
    else:
        reader = answers.Document(meter, texts, cap)
    try:
        out = reader.feed(body, True)
    except DetectionFailed:
        return None
    if texts is not None and (texts.unread or texts.blocked or reader.overlong):
        return None
    return body if out is None else out
