"""What comes back: how an answer is read, and what of it may be said as the policies of the call want it."""

from collections.abc import Iterator
from functools import lru_cache

from extproc.call import BodyMode, Call, Emit, Inspection, Relay, Rules
from extproc.dialects import answers, registry, withheld
from extproc.dialects.endings import Reason
from extproc.dialects.meters import Meter
from extproc.guardrails import content
from extproc.guardrails.gate import PLACE, Gate
from extproc.guardrails.policy import Action as Step
from extproc.guardrails.policy import ContentRule, Guardrails, Moderation
from extproc.guardrails.verdict import Verdict
from extproc.headers import Headers, content_length
from extproc.redaction.answer import AnswerTexts
from extproc.redaction.output import OutputGuard
from extproc.redaction.policy import Action, Mode, RedactionPolicy
from extproc.redaction.profile import UnreadableAnswer
from extproc.redaction.redactor import Redactor
from extproc.refusals import Refused
from extproc.stages import guard, judge
from extproc.surfaces import Surface

Held = answers.Stream | answers.Document | answers.PlainText
Read = Held | answers.Opaque

_MEDIA = ("audio/", "image/", "video/", "application/octet-stream")  # answers that are no text
_GIVE_MEDIA = frozenset({Surface.SPEECH, Surface.IMAGES, Surface.IMAGE_EDITS})
_SHADOW, _ENFORCE = RedactionPolicy(mode=Mode.SHADOW), RedactionPolicy(mode=Mode.ENFORCE)


def expect(call: Call, headers: Headers) -> Relay:
    """How the body of the answer shall come, and what reads it. Raises Refused where it cannot be looked through."""
    surface = call.place.surface if call.place else Surface.CHAT
    call.meter = meter = registry.meter(surface, call.hides_usage, call.searches)
    call.gate = _gate(call.rules)
    call.texts = texts = _texts(call.rules, call.inspection, call.gate)
    cap = call.catalogue.answer_cap
    kind = (headers.get("content-type") or "").partition(";")[0].strip().lower()
    if (headers.get("content-encoding") or "identity").lower() != "identity":
        return _opaque(call)  # asked for identity and got another
    if kind == "text/event-stream":
        return _expect_stream(call, surface, meter)
    if kind == "application/json":
        call.answer = answers.Document(meter, texts, cap)
        length = content_length(headers)
        mode = BodyMode.BUFFERED if length is not None and length <= cap else BodyMode.STREAMED
        return Relay(mode, resized=texts is not None)
    if texts is None or kind.startswith(_MEDIA):
        return _opaque(call, given=surface in _GIVE_MEDIA)
    call.answer = answers.PlainText(texts, cap)
    return Relay(BodyMode.STREAMED, resized=True)


def _opaque(call: Call, given: bool = False) -> Relay:
    """An answer that nobody here reads. `given`: it is what its surface gives. Raises Refused, see `_check_unread`."""
    if not given:
        _check_unread(call.rules, call.texts, call.inspection)
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
    call.answer = answers.Stream(meter, call.hides_usage, cap, events)
    mode = BodyMode.DUPLEX if _may_end(call.rules) else BodyMode.STREAMED
    return Relay(mode, resized=call.hides_usage or events is not None)


def spoken(call: Call, answer: Held, emit: Emit) -> Emit:
    """What goes out of an answer that is looked through."""
    if answer.blocked:
        return silenced(call, answer, emit.body or b"")
    if answer.overlong:
        try:
            _check_unread(call.rules, call.texts, call.inspection)
        except Refused:
            if isinstance(answer, answers.Stream):
                return silenced(call, answer, emit.body or b"")
            raise
        call.gate = None
        return Emit((emit.body or b"") + answer.release())
    return emit


def unread(call: Call, answer: answers.Answer) -> Emit:
    """What goes out of an answer that could not be looked through. Raises Refused unless the policies let it pass.

    A stream ends: nobody can say what of it has been looked through.
    """
    if isinstance(answer, answers.Document | answers.PlainText):
        _check_unread(call.rules, call.texts, call.inspection)
        call.gate = None
        return Emit(answer.release())
    return silenced(call, answer, b"")


def silenced(call: Call, answer: answers.Answer, passed: bytes) -> Emit:
    """The end of an answer that was about to say what it may not."""
    call.blocked = True
    if isinstance(answer, answers.Stream | answers.LeasedStream):
        ending = answer.ending(call.estimated_input, call.asked_usage, Reason.CONTENT)
        return Emit(passed + ending, last=True)
    return Emit(withheld.document(answer.release()) if isinstance(answer, answers.Document) else b"", last=True)


def _texts(rules: Rules | None, seen: Inspection, gate: Gate | None) -> AnswerTexts | None:
    """What changes the texts of the answer; None where they pass as they are."""
    guards = () if rules is None else tuple(_guards(rules))
    placeholders = seen.placeholders or None
    ear = None if gate is None else gate.ear
    return AnswerTexts(placeholders, guards, ear) if guards or placeholders or ear is not None else None


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


def _check_unread(rules: Rules | None, answer: AnswerTexts | None, seen: Inspection) -> None:
    """An answer, or its rest, cannot be looked through. Raises Refused unless that changes nothing, or is allowed.

    Placeholders that are not taken back say nothing to anybody, and are noted.
    """
    if rules is None or answer is None:
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
    """What was found in the answer, when it has ended."""
    seen.restored, seen.unrestored = answer.restored, answer.unrestored
    seen.said = {entity: count for entity, count in answer.counts.items() if content.rule_of(entity) is None}
    for rule in rules.guardrails.content if rules and rules.guardrails else ():
        if count := answer.counts.get(content.entity_of(rule.name), 0):
            seen.verdicts.append(Verdict("content", rule.name, rule.mode, rule.action, count, (PLACE,)))
