"""What is counted of a call that has ended. Every label is a configured name or a word of a closed set."""

import time
from collections.abc import Mapping
from itertools import compress
from operator import attrgetter

from extproc.cache.lookup import Lookup
from extproc.cache.policy import CachePolicy, CacheRules
from extproc.call import Call, Inspection
from extproc.model import Outcome, UsageSource
from extproc.redaction.policy import Mode, RedactionPolicy
from extproc.telemetry import genai, metrics
from extproc.telemetry.standings import NOTHING, Standings
from extproc.telemetry.tally import count

_NONE = ""
_PRICE = "price"  # more money and no more tokens: images or tools that were not asked for

_amounts = attrgetter(*metrics.KINDS)

STANDINGS = Standings()


def count_call(call: Call, outcome: Outcome, duration: float, booked: Mapping[str, int] = NOTHING) -> None:
    """Count one ended call. `duration` in seconds; `booked`: what it has used, by the keys of its counters."""
    surface = call.place.surface if call.place else _NONE
    model = call.model or _NONE
    backend = outcome.backend or _NONE
    count(metrics.CALLS, surface, model, backend, metrics.status_label(outcome.status), outcome.ending)
    metrics.DURATION.add((surface,), duration)
    if call.stream and call.first_byte is not None:
        metrics.FIRST_BYTE.add((surface,), call.first_byte - call.started)
    metrics.STAGE.add_each(call.times.spent)
    if call.refusal is not None:
        count(metrics.REFUSALS, surface, call.refusal.kind.code, call.refusal.kind.blame)
    _count_limits(call, outcome, booked)
    _count_inspection(call)
    _count_routing(call, outcome, model)
    if call.lookup is not None:
        _count_cache(call, call.lookup, model)
    usage = outcome.usage
    if usage.source is not UsageSource.NONE:
        amounts = _amounts(usage)
        for kind, amount in zip(compress(metrics.KINDS, amounts), filter(None, amounts), strict=True):
            count(metrics.TOKENS, surface, model, backend, kind, usage.source, amount=amount)
    if outcome.unpriced is not None:
        count(metrics.UNPRICED, model, backend, outcome.unpriced)
    genai.meter(call.catalogue.genai).count(call, outcome, call.started + duration)


def _team(call: Call) -> str:
    return call.caller.team.name if call.caller and call.caller.team else _NONE


def _count_cache(call: Call, made: Lookup, model: str) -> None:
    count(metrics.POLICY_CALLS, "cache", _rule(call.catalogue.cache, made.policy))
    count(metrics.CACHE, model, made.result, made.reason)
    if made.age is None:
        return
    mode = Mode.SHADOW if made.in_shadow else made.policy.mode
    count(metrics.CACHE_SAVED_TOKENS, model, mode, amount=made.saved_tokens)
    if made.saved:
        count(metrics.CACHE_SAVED, _team(call), model, mode, amount=made.saved)


def rules(given: CacheRules) -> list[str]:
    """What the rules of the cache that are not off are called: by their places in the configuration."""
    named = [*[(f"rules.{place}", policy) for place, (_, policy) in enumerate(given.rules)], ("default", given.default)]
    return [name for name, policy in named if policy.mode is not Mode.OFF]


def _rule(given: CacheRules, policy: CachePolicy) -> str:
    for place, (_, one) in enumerate(given.rules):
        if one is policy:
            return f"rules.{place}"
    return "default"


def _count_inspection(call: Call) -> None:
    """What policies found. Rules and entities are configured names, and words of a closed set."""
    seen, rules = call.inspection, call.rules
    if rules is None:
        return
    if rules.redaction is not None:
        policy = rules.redaction.policy
        count(metrics.POLICY_CALLS, "redaction", policy.name)
        if seen.found or seen.said:
            _count_found(policy, seen)
    if rules.guardrails is not None:
        count(metrics.POLICY_CALLS, "guardrail", rules.guardrails.name)
    if seen.restored:
        count(metrics.RESTORED, "restored", amount=seen.restored)
    if seen.unrestored:
        count(metrics.RESTORED, "unrestored", amount=seen.unrestored)
    for verdict in seen.verdicts:
        count(metrics.VERDICTS, verdict.guardrail, verdict.rule, verdict.action, verdict.mode)
    for what in seen.failed:
        count(metrics.SCREENING_FAILED, what)


def _count_found(policy: RedactionPolicy, seen: Inspection) -> None:
    for direction, found in (("input", seen.found), ("output", seen.said)):
        for entity, amount in found.items():
            count(metrics.REDACTIONS, policy.name, entity, direction, policy.mode, amount=amount)


def _count_routing(call: Call, outcome: Outcome, model: str) -> None:
    """Teams and models are configured names."""
    first = None if call.chain is None else call.chain.targets[0].backend.name
    if first is not None and outcome.backend not in (None, first):
        count(metrics.FAILOVERS, model, outcome.backend or _NONE)
    if outcome.cost:
        count(metrics.COST, _team(call), model, amount=outcome.cost)


def _count_limits(call: Call, outcome: Outcome, booked: Mapping[str, int]) -> None:
    """By the limits' titles, which are configured names. Money above a hold goes by the cause with the most tokens."""
    if call.stood:
        STANDINGS.note(call.stood, call.stood_at, booked, time.time_ns() // 1_000_000)
        for title in {stake.limit.title for stake, _ in call.stood}:  # of one by backend there are several
            count(metrics.POLICY_CALLS, "limit", title)
    if outcome.limit is not None:
        count(metrics.LIMIT_REFUSALS, outcome.limit)
    for limit in outcome.shadows:
        count(metrics.LIMIT_SHADOW_REFUSALS, limit)
    for limit, threshold in outcome.warnings:
        count(metrics.LIMIT_WARNINGS, limit, str(threshold))
    if not outcome.overspent and not outcome.overspent_money:
        return
    for cause, tokens in outcome.overspent.items():
        count(metrics.OVERSPENT, "tokens", cause, amount=tokens)
    if outcome.overspent_money:
        cause = max(outcome.overspent, key=lambda name: outcome.overspent[name], default=_PRICE)
        count(metrics.OVERSPENT, "nano", cause, amount=outcome.overspent_money)
