"""What may be asked: the guardrails on one request.

Pure: the pipeline hands in what was found in the texts, and what a service said of them.
"""

from collections.abc import Sequence
from dataclasses import replace

import orjson

from extproc.call import Inspection, Rules
from extproc.guardrails import content, injection, moderation, structure
from extproc.guardrails.policy import Action, Guardrails, Moderation
from extproc.guardrails.roles import role
from extproc.guardrails.verdict import Verdict
from extproc.model import CleanPrompt, Prompt
from extproc.redaction.policy import Mode
from extproc.redaction.positions import Position
from extproc.redaction.profile import DetectionFailed, Unreadable
from extproc.refusals import POLICY_VIOLATION, Refused
from extproc.stages import guard
from extproc.stages.guard import Findings

_HINTS = {
    "files": " Send texts in the request: files that the provider keeps or fetches are not allowed.",
    "hosted_tools": " This tool, which the provider runs, is not allowed.",
    "image_hosts": " Images of this host are not allowed; send them in the request, as data: URLs.",
    "images": " Send images in the request, as data: URLs, if at all.",
    "max_images": " Send fewer images.",
    "max_messages": " Send fewer messages.",
    "max_text": " Send less text.",
    "max_tools": " Send fewer tools.",
    "mcp_hosts": " This MCP server is not allowed.",
    "stored_prompts": " Send the prompt itself: one that the provider keeps is not allowed.",
    "tools": " A tool of this name is not allowed.",
}
"""What a caller can do about a rule on the structure of requests; nothing in it is secret."""
_TRUSTED = frozenset(("system", "developer"))  # roles whose texts are the application's own


def structured(prompt: Prompt, rules: Rules) -> Sequence[Verdict]:
    """What is said of a request without looking at its texts."""
    asked = None if rules.guardrails is None else rules.guardrails.structure
    return () if asked is None else structure.check(asked, orjson.loads(prompt.body))


def verdicts(
    prompt: Prompt,
    texts: Sequence[Position],
    words: Sequence[Findings],
    attacks: Sequence[Findings],
    guardrails: Guardrails,
) -> Sequence[Verdict]:
    """What is said of the texts without asking anybody. `words` and `attacks` are what was found in each of them."""
    paths = [position.path for position in texts]
    said = content.verdicts(guardrails.content, zip(paths, words, strict=True))
    if guardrails.injection is not None:
        document = orjson.loads(prompt.body)
        found = [(path, role(document, path), one) for path, one in zip(paths, attacks, strict=True) if one]
        said += injection.verdicts(guardrails.injection, found)
    return said


def judge(said: Sequence[Verdict], seen: Inspection) -> None:
    """Note what guardrails say. Raises Refused for the first that blocks."""
    seen.verdicts += said
    for verdict in said:
        if verdict.blocks:
            at = f" at {verdict.places[0]}" if verdict.places else ""
            hint = _HINTS.get(verdict.rule, "") if verdict.guardrail == "structure" else ""
            raise Refused(
                POLICY_VIOLATION,
                f"A guardrail does not let this call pass: {verdict.guardrail}, {verdict.rule}{at}.{hint}",
            )


def unread(rules: Rules, seen: Inspection) -> None:
    """Note that no policy could look at some text of a form. Raises Refused unless all of them let it pass."""
    why, asked = Unreadable("a text of its form cannot be read"), moderation_of(rules)
    guard.not_redacted(why, rules, seen)
    unjudged(why, rules, seen)
    if asked is not None:
        unmoderated(why, asked, seen)


def lets_unread(rules: Rules) -> bool:
    """Whether a call passes of which some text could not be looked at."""
    try:
        unread(rules, Inspection())
    except Refused:
        return False
    return True


def unjudged(why: DetectionFailed, rules: Rules, seen: Inspection) -> None:
    """Note that no guardrail could look at the texts. Raises Refused where one could have refused the call."""
    guardrails = rules.guardrails
    if guardrails is None:
        return
    parts = [(rule.mode, rule.action) for rule in guardrails.content if rule.input]
    parts += [(guardrails.injection.mode, guardrails.injection.action)] if guardrails.injection else []
    if parts:
        guard.failed(why, "guardrails", guardrails.on_error, _strictest(parts), seen)


def unmoderated(why: DetectionFailed, asked: Moderation, seen: Inspection) -> None:
    """Note that a service did not judge the texts. Raises Refused where that could have refused the call."""
    guard.failed(why, "moderation", asked.on_error, _strictest([(asked.mode, asked.action)]), seen)


def _strictest(parts: Sequence[tuple[Mode, Action]]) -> Mode:
    """Of parts of a policy: whether any of them refuses calls."""
    return Mode.ENFORCE if (Mode.ENFORCE, Action.BLOCK) in parts else Mode.SHADOW


def moderation_of(rules: Rules) -> Moderation | None:
    """The service that is to judge requests; None: none is."""
    asked = None if rules.guardrails is None else rules.guardrails.moderation
    return None if asked is None or asked.mode is Mode.OFF or not asked.input else asked


def asking(
    clean: CleanPrompt, texts: Sequence[Position], said: Sequence[str], asked: Moderation, most: int
) -> CleanPrompt:
    """With the questions to the service, about the texts as they are sent, and what they cost. Raises Unreadable."""
    document = orjson.loads(clean.prompt.body)
    spoken = [(one.path, role(document, one.path), text) for one, text in zip(texts, said, strict=True)]
    try:
        questions = tuple(moderation.requests(asked, moderation.newest(spoken, _TRUSTED)))
    except moderation.TooMuch:
        questions = None
    if questions is None or len(questions) > most:
        raise Unreadable("it has more text than the service that judges it is asked about")
    return replace(clean, prompt=replace(clean.prompt, aside=asked.price * len(questions)), questions=questions)
