"""From guardrails as people write them to the rules that calls are held to."""

from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache

from extproc.config import guardrails as given
from extproc.config import versions
from extproc.config.fields import nanos
from extproc.config.problems import Steps
from extproc.config.profiles import reach
from extproc.config.schema import Gateway
from extproc.config.services import Service
from extproc.guardrails import content
from extproc.guardrails.policy import (
    Action,
    Api,
    ContentRule,
    Guardrails,
    Images,
    Injection,
    Moderation,
    Structure,
)
from extproc.redaction.detector import Detector
from extproc.redaction.policy import Mode, OnError

Mistake = tuple[Steps, str]


def rules(gateway: Gateway) -> dict[str, Guardrails]:
    """The policies by name; rules that are off are left out. Raises ValueError for what `mistakes` would tell."""
    return {name: compiled(name, one, gateway.services) for name, one in gateway.policies.guardrails.items()}


def mistakes(gateway: Gateway) -> Iterator[Mistake]:
    """Words and patterns that cannot be looked for."""
    for name, policy in gateway.policies.guardrails.items():
        for rule, one in policy.content.items():
            try:
                content.detector([_content(rule, one)])
            except ValueError as error:
                yield ("policies", "guardrails", name, "content", rule), str(error)


def compiled(name: str, policy: given.Guardrails, services: Mapping[str, Service]) -> Guardrails:
    """One policy. Raises ValueError."""
    said = tuple(_content(rule, one) for rule, one in policy.content.items() if one.mode != "off")
    structure, injection, moderation = policy.structure, policy.injection, policy.moderation
    return Guardrails(
        name=name,
        structure=_structure(structure) if structure and structure.mode != "off" else None,
        injection=_injection(injection) if injection and injection.mode != "off" else None,
        content=said,
        input_words=_detector(tuple(rule for rule in said if rule.input)),
        output_words=_detector(tuple(rule for rule in said if rule.output)),
        moderation=_moderation(moderation, services) if moderation and moderation.mode != "off" else None,
        on_error=OnError(policy.on_error),
        reach=_reach([rule for rule in said if rule.output]),
        version=versions.of_guardrails(policy, services),
    )


def _reach(said: Sequence[ContentRule]) -> int:
    return reach((word for rule in said for word in rule.words), (regex for rule in said for regex in rule.patterns))


@lru_cache(maxsize=32)  # of rules for both directions, one
def _detector(said: tuple[ContentRule, ...]) -> Detector | None:
    return content.detector(said) if said else None


def _structure(one: given.Structure) -> Structure:
    return Structure(
        mode=Mode(one.mode),
        action=Action(one.action),
        max_messages=one.max_messages,
        max_text=one.max_text,
        max_images=one.max_images,
        max_tools=one.max_tools,
        images=Images(one.images),
        image_hosts=one.image_hosts,
        tools=one.tools,
        hosted_tools=None if one.hosted_tools is None else frozenset(one.hosted_tools),
        mcp_hosts=one.mcp_hosts,
        files=one.files,
    )


def _injection(one: given.Injection) -> Injection:
    return Injection(Mode(one.mode), Action(one.action), one.threshold, frozenset(one.trusted))


def _content(name: str, one: given.Content) -> ContentRule:
    return ContentRule(
        name=name,
        words=one.words,
        patterns=one.patterns,
        mode=Mode(one.mode),
        action=Action(one.action),
        input=one.input,
        output=one.output,
    )


def _moderation(one: given.Moderation, services: Mapping[str, Service]) -> Moderation:
    return Moderation(
        service=one.service,
        api=Api(services[one.service].api),
        model=one.model,
        thresholds=one.thresholds,
        mode=Mode(one.mode),
        action=Action(one.action),
        on_error=OnError(one.on_error),
        timeout=one.timeout.total_seconds(),
        price=nanos(one.price),
        input=one.input,
        output=one.output,
        window=one.window,
    )
