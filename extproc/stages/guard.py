"""What may leave: the policy of redaction on one request.

Pure: the pipeline hands in what was found in the texts.
"""

import re
from collections import Counter, OrderedDict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any, TypeVar
from urllib.parse import unquote
from weakref import WeakKeyDictionary

import orjson

from extproc.cache.plain import is_plain
from extproc.call import Inspection, Rules
from extproc.guardrails.policy import Guardrails
from extproc.model import DEFAULT_POLICY, Caller, Catalogue, CleanPrompt, Prompt
from extproc.redaction import names, positions
from extproc.redaction.changes import Change, apply
from extproc.redaction.detector import Detector, Finding
from extproc.redaction.placeholders import MARKS, Placeholders
from extproc.redaction.policy import Action, Mode, OnError, Stateful, strictness
from extproc.redaction.positions import Position
from extproc.redaction.profile import DetectionFailed, Profile, Unreadable, UnreadableAnswer
from extproc.redaction.redactor import Redactor
from extproc.refusals import (
    INVALID_VALUE,
    POLICY_FAILED,
    POLICY_UNKNOWN,
    POLICY_VIOLATION,
    SENSITIVE_DATA,
    UNREADABLE_TEXT,
    Refusal,
    Refused,
)
from extproc.surfaces import Place, Surface

Findings = Sequence[Finding]

_QUERY = ""
_API_VERSION = re.compile(r"(?:^|&)api-version=[0-9]{4}-[0-9]{2}-[0-9]{2}(?:-preview)?(?=&|$)")
_KNOWN = re.compile(
    # A date of an API, names of its features, a UUID.
    r"[0-9]{4}-[0-9]{2}-[0-9]{2}|[a-z][a-z-]*(?:-[0-9]{4}-[0-9]{2}-[0-9]{2})(?:, ?[a-z][a-z0-9-]*)*"
    r"|[0-9a-fA-F]{8}-(?:[0-9a-fA-F]{4}-){3}[0-9a-fA-F]{12}"
)

_TOLD_PLACES = 3
"""Places that a refusal names, at most: of all values that were found, not of those alone that are refused."""
_PLACES = 16
"""Places of a call that its record names, at most."""
_TRUSTED = frozenset(("system", "developer"))  # roles whose texts are the application's own

_OPENS = re.compile(r"[{\[ \t\r\n]|data:", re.IGNORECASE)  # what may be JSON in a string, or what is no text
_SHORT_NUMBER = 10**8
_NUMBERS = frozenset((int, float))
_MARKED = re.compile(f"[{re.escape(MARKS)}]")

_LONGEST_KNOWN = 1024
_MOST_KNOWN = 1024
_CLEAN: WeakKeyDictionary[Detector, OrderedDict[tuple[object, ...], None]] = WeakKeyDictionary()
"""Headers and queries in which a detector found nothing; what holds a value is not kept."""

T = TypeVar("T")


def rules(caller: Caller, catalogue: Catalogue) -> Rules | None:
    """The policies of a caller; None where there is none. Raises Refused where its team names one that is not there."""
    team = caller.team
    if team is None and not catalogue.redaction and not catalogue.guardrails:
        return None
    redaction = _named(catalogue.redaction, team.redaction if team else DEFAULT_POLICY)
    guardrails = _named(catalogue.guardrails, team.guardrails if team else DEFAULT_POLICY)
    if redaction is not None and redaction.policy.mode is Mode.OFF:
        redaction = None
    if redaction is None and guardrails is None:
        return None
    return Rules(redaction, guardrails, team.name if team else caller.owner)


def policy_version(rules: Rules | None) -> str:
    """Of what these policies do: two calls with the same one are held to the same."""
    versions = ("", "") if rules is None else (_version(rules.redaction), _version(rules.guardrails))
    return ".".join(versions)


def _version(policy: Profile | Guardrails | None) -> str:
    return "" if policy is None else policy.version


def may_change(rules: Rules) -> bool:
    """Whether anything of a request may change."""
    return rules.redaction is not None and rules.redaction.policy.mode is Mode.ENFORCE


def _named(policies: Mapping[str, T], name: str) -> T | None:
    policy = policies.get(name)
    if policy is None and name != DEFAULT_POLICY:
        raise Refused(POLICY_UNKNOWN, "A policy that your team names is not configured here.")
    return policy


# ---- texts ------------------------------------------------------------------------------------------


def read(prompt: Prompt, rules: Rules) -> list[Position]:
    """The texts of a request. Raises DetectionFailed where they are too many or too long, or no texts."""
    if prompt.input.coded:
        raise Unreadable(
            "it has text as numbers of tokens; send the text itself (LangChain: check_embedding_ctx_length=False)"
        )
    try:
        found = positions.read(prompt.body)
    except positions.TooMany:
        raise Unreadable("it has more texts than are looked through") from None
    most = None if rules.redaction is None else rules.redaction.policy.max_text
    if most is not None and _is_longer(found, most, len(prompt.body)):
        raise Unreadable("it has more text than is looked through")
    return found


def plain_texts(prompt: Prompt, rules: Rules) -> list[str] | None:
    """The texts that `read` gives of a plain request, without where they stand; None where it may be no such.

    A body that comes out of the parser's tree byte for byte has no key twice. Short numbers say nothing.
    """
    given: Any = _plain(prompt.body) if prompt.plain is None else prompt.plain
    if given is None or prompt.input.coded:
        return None
    most = None if rules.redaction is None else rules.redaction.policy.max_text
    if most is not None and len(prompt.body) > most:
        return None
    for value in given.values():
        if type(value) in _NUMBERS and abs(value) >= _SHORT_NUMBER:
            return None
    texts = [text for message in given.get("messages", ()) if (text := message["content"])]
    if given.get("user"):
        texts.append(given["user"])
    return None if any(map(_OPENS.match, texts)) else texts


def _plain(body: bytes) -> object:
    try:
        given = orjson.loads(body)
    except ValueError:
        return None
    return given if is_plain(Surface.CHAT, given) and orjson.dumps(given) == body else None


def _is_longer(found: Sequence[Position], most: int, size: int) -> bool:
    """Whether the texts, with the words before them, have more bytes; of a body of so many bytes."""
    characters = sum([len(position.text) for position in found])
    return characters > most or (size > most and sum([len(position.text.encode()) for position in found]) > most)


def failed(why: DetectionFailed, what: str, on_error: OnError, mode: Mode, seen: Inspection) -> None:
    """Note that a policy could not look at a call. Raises Refused unless the policy lets such calls pass."""
    if what not in seen.failed:  # of an answer that is judged piece by piece it may be the hundredth time
        seen.failed.append(what)
    if on_error is OnError.DENY and mode is Mode.ENFORCE:
        kind = UNREADABLE_TEXT if isinstance(why, Unreadable) else POLICY_FAILED
        said = f"The call could not be checked as the policies of your team want it: {why}."
        raise Refused.of(Refusal(kind, said, own_retry=False if isinstance(why, UnreadableAnswer) else None))


def not_redacted(why: DetectionFailed, rules: Rules, seen: Inspection) -> None:
    """Note that values were not looked for. Raises Refused unless the policy lets such calls pass."""
    if rules.redaction is not None:
        failed(why, "redaction", rules.redaction.policy.on_error, rules.redaction.policy.mode, seen)


# ---- what stands around a request -------------------------------------------------------------------


def around(rules: Rules) -> Detector | None:
    """What looks at what stands around a request; None: nothing does."""
    profile = rules.redaction
    return None if profile is None or profile.policy.mode is not Mode.ENFORCE else profile.input


def telling(headers: Mapping[str, str], query: str, rules: Rules) -> tuple[str, ...]:
    """The headers that hold a value that may not leave, by name. Raises Refused for a query that does."""
    profile = rules.redaction
    if profile is None or profile.input is None or around(rules) is None:
        return ()
    if _holds_nothing(profile.input, tuple(headers.items()), query):
        return ()
    texts = _told_around(headers.items(), query)
    found = [name for name, text in texts.items() if _may_not_leave(profile, text)]
    for where, name in ((_QUERY, "query of the URL"), ("content-type", "content-type")):
        if where in found:
            raise Refused(SENSITIVE_DATA, f"The {name} holds a value that may not be sent.")
    return tuple(found)


def _told_around(headers: Iterable[tuple[str, str]], query: str) -> dict[str, str]:
    texts = {name: f"{name}: {text}" for name, text in headers if not _KNOWN.fullmatch(text)}
    texts[_QUERY] = unquote(_API_VERSION.sub("", query))
    return texts


def _holds_nothing(detector: Detector, headers: tuple[tuple[str, str], ...], query: str) -> bool:
    """Whether nothing is found in these; most clients send the same ones with every call, so that it is known."""
    if sum([len(text) for _, text in headers]) + len(query) > _LONGEST_KNOWN:
        return not _around(detector, headers, query)
    known = _CLEAN.get(detector)
    if known is None:
        known = _CLEAN[detector] = OrderedDict()
    given = headers, query
    if given in known:
        known.move_to_end(given)
        return True
    if _around(detector, headers, query):
        return False
    known[given] = None
    if len(known) > _MOST_KNOWN:
        known.popitem(last=False)
    return True


def _around(detector: Detector, headers: Iterable[tuple[str, str]], query: str) -> Findings:
    return detector.findings("\n\n".join(_told_around(headers, query).values()))


def _may_not_leave(profile: Profile, text: str) -> bool:
    if profile.input is None:
        return False
    found = [*profile.input.findings(text), *profile.input.findings(text.replace("+", " "))]
    return any(profile.policy.input.get(finding.entity) is not Action.FLAG for finding in found)


def check_model(named: str | None, place: Place, catalogue: Catalogue) -> None:
    """Refuse what stands for a model's name where the path has that, and nobody else looks at it."""
    if place.deployment is not None and named not in (None, place.deployment) and named not in catalogue.models:
        raise Refused(INVALID_VALUE, "`model` must be the deployment's name, as the path has it, or absent.", "model")


# ---- redaction --------------------------------------------------------------------------------------


def is_stateful(prompt: Prompt) -> bool:
    """Whether an answer can hold what stood in for values in other calls, or comes when this one is forgotten."""
    return prompt.background or (prompt.state is not None and bool(prompt.state.ids))


def check_state(prompt: Prompt, rules: Rules) -> None:
    """Refuse a call whose history stands at the provider, where the policy says so."""
    policy = None if rules.redaction is None else rules.redaction.policy
    if policy is None or policy.mode is not Mode.ENFORCE or policy.stateful is not Stateful.REFUSE:
        return
    if is_stateful(prompt):
        raise Refused(
            POLICY_VIOLATION,
            "A policy of your team wants each call to bring its whole conversation: without `previous_response_id`, "
            "`conversation` and `background`.",
        )


def with_names(
    texts: Sequence[Position], values: Sequence[Findings], found: Sequence[Findings], profile: Profile
) -> Sequence[Findings]:
    """What the detector found in each text, and the names that a model found and that it does not excuse."""
    strict = strictness(profile.policy.input)
    return [
        names.merged(position.text, one, _unexcused(position.text, other, profile.input), strict) if other else one
        for position, one, other in zip(texts, values, found, strict=True)
    ]


def _unexcused(text: str, found: Findings, detector: Detector | None) -> Findings:
    return [name for name in found if detector is None or not detector.excuses(text[name.start : name.end])]


def redact(
    prompt: Prompt, texts: Sequence[Position], values: Sequence[Findings], rules: Rules, seen: Inspection
) -> tuple[CleanPrompt, Sequence[str]]:
    """The prompt as it may be sent, and its texts as they then are, without their leads.

    Raises Refused for what is blocked; what was found is noted all the same.
    """
    profile = rules.redaction
    if profile is None:
        return CleanPrompt(prompt), said(texts)
    if holds_nothing([position.text for position in texts], values):
        return CleanPrompt(prompt), said(texts)
    policy = profile.policy
    enforced = policy.mode is Mode.ENFORCE
    if enforced and not is_stateful(prompt) and seen.placeholders is None:  # a form has several texts
        seen.placeholders = Placeholders(policy.grammar)
    redactor = Redactor(policy, policy.input, seen.placeholders, rules.tenant)
    changed: list[tuple[Position, Sequence[Change]]] = []
    places: Counter[str] = Counter()
    for position, found in zip(texts, values, strict=True):
        changes = redactor.changes(position.text, found, position.lead)
        changed.append((position, positions.fitting(position, changes)))
        if found and len(places) < _PLACES:
            places[positions.place(position.path)] += len(found)
    seen.found, seen.places = Counter(seen.found) + redactor.counts, Counter(seen.places) + places
    if redactor.blocked and enforced:
        raise Refused(SENSITIVE_DATA, _blocked(redactor.blocked, places))
    edits = tuple(positions.edits(prompt.body, [(position, changes) for position, changes in changed if changes]))
    clean = CleanPrompt(_longer(prompt, sum([len(edit.text) for edit in edits])), edits)
    return clean, [apply(one.text, changes)[one.lead :] for one, changes in changed]


def holds_nothing(texts: Sequence[str], values: Sequence[Findings]) -> bool:
    """Whether nothing was found in the texts, and nobody typed what could be read as a placeholder."""
    return not any(values) and not any(map(_MARKED.search, texts))


def said(texts: Sequence[Position]) -> Sequence[str]:
    """The texts themselves, without the words before them that tell what they are."""
    return [position.text[position.lead :] for position in texts]


def _longer(prompt: Prompt, added: int) -> Prompt:
    """With so many bytes written into it: no text has more tokens than bytes."""
    return replace(prompt, input=replace(prompt.input, marks=prompt.input.marks + added)) if added else prompt


def _blocked(found: Mapping[str, int], places: Mapping[str, int]) -> str:
    values = ", ".join(f"{count} × {entity}" for entity, count in sorted(found.items()))
    at = ", ".join(list(places)[:_TOLD_PLACES])
    return f"The request holds values that may not be sent: {values}. Look at {at}; take them out, and send it again."
