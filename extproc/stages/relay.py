"""What comes back: how an answer is read, and what of it may be said as the policies of the call want it."""

from collections.abc import Iterator
from contextlib import suppress
from functools import lru_cache

from extproc.call import BodyMode, Call, Emit, Inspection, Relay, Rules, Silence
from extproc.contract import ANSWER_MARGIN, STREAM_BUFFER
from extproc.dialects import answers, registry, withheld
from extproc.dialects.endings import Reason
from extproc.dialects.meters import Meter
from extproc.guardrails import content
from extproc.guardrails.gate import PLACE, Gate
from extproc.guardrails.policy import Action as Step
from extproc.guardrails.policy import ContentRule, Guardrails, Moderation
from extproc.guardrails.verdict import Verdict
from extproc.headers import Headers
from extproc.redaction.answer import AnswerTexts
from extproc.redaction.output import OutputGuard
from extproc.redaction.policy import Action, Mode, RedactionPolicy
from extproc.redaction.profile import UnreadableAnswer
from extproc.redaction.redactor import Redactor
from extproc.refusals import NOT_READY, POLICY_VIOLATION, UPSTREAM_TIMEOUT, Refusal, Refused, stream_error
from extproc.stages import guard, judge
from extproc.surfaces import Surface

Held = answers.Stream | answers.Document | answers.PlainText
Read = Held | answers.Opaque

_JSON = frozenset({"application/json", "text/json", "application/x-ndjson", "application/jsonl"})
_UNNAMED = frozenset({"", "text/plain"})  # what frameworks call a stream that nobody gave a type
_MEDIA = ("audio/", "image/", "video/", "application/octet-stream")  # answers that are no text
_GIVE_MEDIA = frozenset({Surface.SPEECH, Surface.IMAGES, Surface.IMAGE_EDITS})
_SILENCED = Refusal(POLICY_VIOLATION, "The answer was about to say what a policy of your team does not let it say.")
# Of Anthropic's words for an error the one that its clients try again for.
_FELL_SILENT = Refusal(UPSTREAM_TIMEOUT, "The backend fell silent in the middle of its answer.", own_status=503)
_BROKEN_OFF = Refusal(NOT_READY, "The gateway stops, and the answer has not ended in time. Try again.")
_LARGEST_HEAD = 2**16  # bytes
_SHADOW, _ENFORCE = RedactionPolicy(mode=Mode.SHADOW), RedactionPolicy(mode=Mode.ENFORCE)


def expect(call: Call, headers: Headers) -> Relay:
    """How the body of the answer shall come, and what reads it. Raises Refused where it cannot be looked through."""
    surface = call.place.surface if call.place else Surface.CHAT
    call.meter = meter = registry.meter(surface, call.hides_usage, call.searches)
    texts = None
    if call.rules is not None:
        call.gate = _gate(call.rules)
        call.texts = texts = _texts(call.rules, call.inspection, call.gate)
    cap = call.catalogue.answer_cap
    kind = _kind(headers)
    if is_compressed(headers):
        return _opaque(call)  # asked for identity and got another
    if _streams(call, kind):
        return _expect_stream(call, surface, meter)
    if kind in _JSON or kind.endswith("+json"):
        call.answer = answers.Document(meter, texts, cap)
        return Relay(_mode(call.awaited, cap, texts), resized=texts is not None)
    if texts is None or kind.startswith(_MEDIA):
        return _opaque(call, given=surface in _GIVE_MEDIA)
    call.answer = answers.PlainText(texts, cap)
    return Relay(_mode(call.awaited, cap, texts), resized=True)


def is_stream(call: Call, headers: Headers) -> bool:
    """Whether the answer comes in events."""
    return _streams(call, _kind(headers))


def _streams(call: Call, kind: str) -> bool:
    return kind == "text/event-stream" or (call.stream and kind in _UNNAMED)


def is_compressed(headers: Headers) -> bool:
    """Whether nobody here can read the answer."""
    return (headers.get("content-encoding") or "identity").lower() != "identity"


def _kind(headers: Headers) -> str:
    return (headers.get("content-type") or "").partition(";")[0].strip().lower()


def _mode(length: int | None, cap: int, texts: AnswerTexts | None) -> BodyMode:
    """Of an answer that is read whole. Once a body flows, the head has gone out, and no refusal can take its place."""
    if length is not None and length <= cap:
        return BodyMode.BUFFERED
    return BodyMode.PARTIAL if texts is not None and texts.strict else BodyMode.STREAMED


def _opaque(call: Call, given: bool = False) -> Relay:
    """An answer that nobody here reads. `given`: it is what its surface gives. Raises Refused, see `_let_unread`."""
    if not given:
        _let_unread(call)
    call.answer, call.gate = answers.Opaque(), None
    return Relay(BodyMode.STREAMED)


def _expect_stream(call: Call, surface: Surface, meter: Meter) -> Relay:
    call.stream = True
    texts, cap = call.texts, call.catalogue.answer_cap
    events = None if texts is None else registry.event_texts(surface, texts, call.json_output)
    if call.hold is not None and call.hold.leased and call.chain is not None:
        family = call.chain.model.bounds.family
        call.answer = answers.LeasedStream(meter, call.hides_usage, cap, family, events)
        return Relay(BodyMode.DUPLEX, resized=True)
    may_stall = call.chain is not None and call.chain.model.stall is not None
    # Held back to whole events, too, where an error may have to follow them.
    call.answer = answers.Stream(meter, call.hides_usage or may_stall, cap, events)
    mode = BodyMode.DUPLEX if may_stall or _may_end(call.rules) else BodyMode.STREAMED
    return Relay(mode, resized=call.hides_usage or may_stall or events is not None)


def silence(call: Call, protocol: str) -> Silence:
    """What the backend may allow itself in a stream that can be ended. `protocol`: the client's.

    Envoy holds less for a stream of HTTP/2 than for a connection.
    """
    stall = None if call.chain is None else call.chain.model.stall
    of_connection = call.catalogue.answer_cap + ANSWER_MARGIN - _LARGEST_HEAD
    room = of_connection if protocol.startswith("HTTP/1") else STREAM_BUFFER
    return Silence(call.catalogue.silence if stall is None else stall, room)


def stalled(call: Call) -> Emit:
    """The end of a stream of which the backend says no more. What was held back stays unsaid."""
    call.stalled = call.answer_ended = True
    return Emit(stream_error(_FELL_SILENT, call.face, call.request_id), last=True)


def broken_off(call: Call, sent: bytes) -> Emit:
    """The end of a stream that would be cut, after what is to be `sent` of it.

    A stream that cannot be ended here says nothing more, and its client leaves. One of which part of an event has gone
    out goes on until that is whole.
    """
    if call.broken_off:
        return Emit(b"")
    is_over = call.meter is not None and call.meter.finished  # all has been said
    if is_over or not isinstance(call.answer, answers.Stream | answers.LeasedStream):
        return Emit(sent)
    if not call.watched and isinstance(call.answer, answers.Stream):
        whole = call.answer.whole(sent)
        if whole is None:
            return Emit(sent)
        sent = whole
    call.broken_off = True
    return Emit(sent + stream_error(_BROKEN_OFF, call.face, call.request_id), last=call.watched)


def spoken(call: Call, answer: Held, emit: Emit) -> Emit:
    """What goes out of an answer that is looked through. Raises Refused for one that could not be, see `_let_unread`.

    A stream ends instead: something of it may have gone out.
    """
    texts, is_overlong = call.texts, answer.overlong
    if texts is None:
        return emit
    texts.unread = texts.unread or is_overlong
    if texts.unread and not isinstance(answer, answers.Stream):
        _let_unread(call)
    if answer.blocked:
        return silenced(call, answer, emit.body or b"")
    if not is_overlong:
        return emit
    if call.gate is not None:
        call.gate.open = True
    return Emit((emit.body or b"") + answer.release())


def unread(call: Call, answer: answers.Answer) -> Emit:
    """What goes out of an answer that nobody goes on looking through. Raises Refused, see `_let_unread`.

    A stream ends: nobody can say what of it has been looked through.
    """
    if isinstance(answer, answers.Document | answers.PlainText):
        _let_unread(call)
        call.gate = None
        return Emit(answer.release())
    return silenced(call, answer, b"")


def silenced(call: Call, answer: answers.Answer, passed: bytes) -> Emit:
    """The end of an answer that was about to say what it may not."""
    call.blocked = True
    if isinstance(answer, answers.Stream | answers.LeasedStream):
        ending = answer.ending(call.estimated_input, call.asked_usage, Reason.CONTENT)
        if not ending and call.meter is not None and not call.meter.finished:
            ending = stream_error(_SILENCED, call.face, call.request_id)  # nothing has begun, or it has no such end
        return Emit(passed + ending, last=True)
    return Emit(withheld.document(answer.release()) if isinstance(answer, answers.Document) else b"", last=True)


def judged(call: Call, refused: Refused, held: bytes) -> Emit:
    """The end of an answer of which the rest, that is `held`, may not go out: a service judged it badly, or not at all.

    Raises Refused for a whole one that nobody judged.
    """
    call.blocked = True
    if isinstance(call.answer, answers.Stream | answers.LeasedStream):
        # No ending of the surface's own: what was held back may have begun what that would close.
        return Emit(stream_error(refused.refusal, call.face, call.request_id), last=True)
    if refused.refusal.kind is not POLICY_VIOLATION:
        raise refused
    return Emit(withheld.document(held) if isinstance(call.answer, answers.Document) else b"", last=True)


def _texts(rules: Rules | None, seen: Inspection, gate: Gate | None) -> AnswerTexts | None:
    """What changes the texts of the answer; None where they pass as they are."""
    found = guards(rules)
    placeholders = seen.placeholders or None
    ear = None if gate is None else gate.ear
    if not found and not placeholders and ear is None:
        return None
    texts = AnswerTexts(placeholders, found, ear)
    try:
        _check_unread(rules, Inspection(placeholders=placeholders))
    except Refused:
        texts.strict = True
    return texts


def guards(rules: Rules | None) -> tuple[OutputGuard, ...]:
    """New ones for one answer: of what it may not say, and of what it may not say as it is."""
    return () if rules is None else tuple(_guards(rules))


def _guards(rules: Rules) -> Iterator[OutputGuard]:
    profile, guardrails = rules.redaction, rules.guardrails
    if guardrails is not None and guardrails.output_words is not None:
        actions = _actions(guardrails)
        policy = _ENFORCE if Action.BLOCK in actions.values() else _SHADOW
        yield OutputGuard(guardrails.output_words.findings, Redactor(policy, actions), guardrails.reach)
    if profile is not None and profile.output is not None:
        redactor = Redactor(profile.policy, profile.policy.output, tenant=rules.tenant)
        yield OutputGuard(profile.output.findings, redactor, profile.reach)


@lru_cache(maxsize=64)
def _actions(guardrails: Guardrails) -> dict[str, Action]:
    return {content.entity_of(rule.name): _action(rule) for rule in guardrails.content if rule.output}


def _action(rule: ContentRule) -> Action:
    return Action.BLOCK if rule.mode is Mode.ENFORCE and rule.action is Step.BLOCK else Action.FLAG


def _may_end(rules: Rules | None) -> bool:
    """Whether an answer may have to end before the backend ends it."""
    if rules is None:
        return False
    profile, guardrails = rules.redaction, rules.guardrails
    if _moderation(rules) is not None:
        return True
    if profile is not None and profile.policy.mode is Mode.ENFORCE and Action.BLOCK in profile.policy.output.values():
        return True
    return (
        guardrails is not None and guardrails.output_words is not None and Action.BLOCK in _actions(guardrails).values()
    )


def _gate(rules: Rules | None) -> Gate | None:
    """What holds the answer back until a service has judged it; None: nobody need judge it."""
    asked = _moderation(rules)
    return None if asked is None else Gate(asked)


def _moderation(rules: Rules | None) -> Moderation | None:
    asked = None if rules is None or rules.guardrails is None else rules.guardrails.moderation
    return asked if asked is not None and asked.output and asked.mode is not Mode.OFF else None


def _let_unread(call: Call) -> None:
    """Let an answer, or its rest, pass that cannot be looked through. Raises Refused where a policy does not want it.

    The record tells of it at the end, see `note`.
    """
    if call.texts is None:
        return
    call.texts.unread = True
    if call.texts.strict:
        _check_unread(call.rules, Inspection())


def _check_unread(rules: Rules | None, seen: Inspection) -> None:
    """Note which policies did not see an answer, or its rest. Raises Refused for the first that does not want it so.

    Placeholders that are not taken back say nothing to anybody.
    """
    if rules is None:
        return
    why = UnreadableAnswer("its answer cannot be looked through")
    if rules.redaction is not None and rules.redaction.output is not None:
        guard.not_redacted(why, rules, seen)
    guardrails, asked = rules.guardrails, _moderation(rules)
    if guardrails is not None and guardrails.output_words is not None:
        mode = Mode.ENFORCE if Action.BLOCK in _actions(guardrails).values() else Mode.SHADOW
        guard.failed(why, "guardrails", guardrails.on_error, mode, seen)
    if asked is not None:
        judge.unmoderated(why, asked, seen)
    if seen.placeholders:
        seen.failed.append(PLACE)


def note(answer: AnswerTexts, rules: Rules | None, seen: Inspection) -> None:
    """What was found in the answer, and who could not look at it, when it has ended."""
    if answer.unread:
        with suppress(Refused):
            _check_unread(rules, seen)
    seen.restored, seen.unrestored = answer.restored, answer.unrestored
    seen.said = {entity: count for entity, count in answer.counts.items() if content.rule_of(entity) is None}
    for rule in rules.guardrails.content if rules and rules.guardrails else ():
        if count := answer.counts.get(content.entity_of(rule.name), 0):
            seen.verdicts.append(Verdict("content", rule.name, rule.mode, rule.action, count, (PLACE,)))
