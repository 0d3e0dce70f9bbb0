"""What a configuration says and hardly means: `sluice check` warns of it, and the gateway serves it all the same."""

import difflib
from collections.abc import Iterator, Mapping

from extproc.config.addresses import is_loopback
from extproc.config.alerts import Alerts
from extproc.config.cache import selector
from extproc.config.limits import GatewayLimit, compile_limit
from extproc.config.models import Model, Target
from extproc.config.prices import versions
from extproc.config.problems import Steps, did_you_mean
from extproc.config.schema import Gateway
from extproc.config.stores import MEMORY
from extproc.config.teams import TeamFile
from extproc.guardrails.moderation import CATEGORIES
from extproc.limits.limit import Limit, Measure, Mode, Period
from extproc.model import DEFAULT_POLICY

Doubt = tuple[Steps, str]
_HOUR = 3_600_000


def doubts(gateway: Gateway, now: float, teams: Mapping[str, TeamFile] | None = None) -> Iterator[Doubt]:
    """Each doubt, with the way to the setting that it is about.

    `now` is Unix time in seconds; `teams` are the team files, None where they are not at hand.
    """
    yield from _unpriced(gateway, now)
    yield from _past(gateway, now)
    yield from _out_of_service(gateway)
    yield from _without_choice(gateway)
    yield from _outlasted(gateway)
    yield from _forgotten(gateway)
    yield from _empty(gateway)
    yield from _uncommon(gateway)
    yield from _kept_apart(gateway)
    yield from _never_reached(gateway)
    yield from _told_to_all(gateway)
    yield from _told_to_nobody(gateway)
    yield from _without_default("redaction", gateway.policies.redaction)
    yield from _without_default("guardrails", gateway.policies.guardrails)
    if teams is not None:
        yield from _forgotten_of_teams(gateway, teams)
        yield from _unnamed("redaction", gateway.policies.redaction, {team.redaction for team in teams.values()})
        yield from _without_file(gateway, teams)
        yield from _unnamed("guardrails", gateway.policies.guardrails, {team.guardrails for team in teams.values()})


def _told_to_all(gateway: Gateway) -> Iterator[Doubt]:
    """What is meant for those who develop, where others call."""
    if gateway.telemetry.server_timing and not is_loopback(gateway.listener.address):
        yield (
            ("telemetry", "server_timing"),
            f"tells every caller of {gateway.listener.address} how long each stage took: it is meant for development",
        )


def _told_to_nobody(gateway: Gateway) -> Iterator[Doubt]:
    """When to say something, and nobody to say it to."""
    alerts = gateway.telemetry.alerts
    if not alerts.webhooks and alerts != Alerts():
        yield ("telemetry", "alerts"), "has no `webhooks`: nobody is told anything"


def _unpriced(gateway: Gateway, now: float) -> Iterator[Doubt]:
    """Models whose calls nobody knows the cost of at some backend, where that matters: under limits of money, or
    where such calls are refused."""
    if gateway.policies.unpriced == "refuse":
        yield from _refused(gateway, now)
        return
    refusing = {model: limit for model in gateway.models if (limit := _limit_over(gateway, model, now))}
    for model, limit in refusing.items():
        yield ("models", model), f"has a target without a price, so that its calls under the limit {limit} are refused"
    public = gateway.public_names()
    for name, given in gateway.policies.limits.items():
        if given.mode == "enforce" and given.fallback and public[given.fallback] in refusing:
            yield ("policies", "limits", name, "fallback"), "has no price, so that a limit of money refuses it as well"


def _refused(gateway: Gateway, now: float) -> Iterator[Doubt]:
    """Models with targets that serve nothing, as `policies.unpriced` wants it."""
    for name, given in gateway.models.items():
        priced = [_has_price(given, target, now) for group in given.targets for target in group]
        if not any(priced):
            yield ("models", name), "has no price, so that `policies.unpriced` refuses its calls"
        elif not all(priced):
            yield ("models", name), "has targets without a price, to which `policies.unpriced` sends no call"


def _limit_over(gateway: Gateway, model: str, now: float) -> str | None:
    """A limit of money that is enforced, and can hold for calls of a model that has a target without a price."""
    given = gateway.models[model]
    targets = [target for group in given.targets for target in group]
    if all(_has_price(given, target, now) for target in targets):
        return None
    backends = {target.backend for target in targets}
    limits = gateway.policies.limits.items()
    return next((name for name, limit in limits if _can_hold(gateway, limit, model, backends)), None)


def _has_price(model: Model, target: Target, now: float) -> bool:
    """Whether one is in force."""
    return any(price.since <= now * 1000 for price in versions(target.price or model.price))


def _can_hold(gateway: Gateway, limit: GatewayLimit, model: str, backends: set[str]) -> bool:
    only, public = limit.only, gateway.public_names()
    return (
        limit.measure is Measure.MONEY
        and limit.mode == "enforce"
        and (only.models is None or model in {public[name] for name in only.models})
        and (only.backends is None or not backends.isdisjoint(only.backends))
    )


def _past(gateway: Gateway, now: float) -> Iterator[Doubt]:
    for name, given in gateway.policies.limits.items():
        raised = compile_limit(name, given).raised
        if raised is not None and raised.until <= now * 1000:
            yield ("policies", "limits", name, "raise", "until"), "is past: the limit is back at its own amount"

    for name, model in gateway.models.items():
        for spelled, retired in model.retired.items():
            sunset = retired.compiled().sunset
            if sunset is not None and sunset <= now:
                yield (
                    ("models", name, "retired", spelled, "sunset"),
                    "is past: the name still works while it stands here",
                )


def _out_of_service(gateway: Gateway) -> Iterator[Doubt]:
    """Models that are named to serve, and are not enabled."""
    public = gateway.public_names()
    named: list[tuple[Steps, str | None]] = [
        (("default_models", surface), name) for surface, name in gateway.default_models.items()
    ]
    for limit, given in gateway.policies.limits.items():
        named.append((("policies", "limits", limit, "fallback"), given.fallback))
    for model in gateway.models:
        others = gateway.models[model].stand_ins.items()
        named += [(("models", model, "fallback", cause.value), name) for cause, name in others]
    for steps, name in named:
        if name is not None and not gateway.models[public[name]].enabled:
            yield steps, f"{public[name]} is not enabled"


def _without_choice(gateway: Gateway) -> Iterator[Doubt]:
    """Orders of groups in which there is nothing to order."""
    for name, model in gateway.models.items():
        if model.order != "weights" and all(sum(one.weight > 0 for one in group) < 2 for group in model.targets):
            yield ("models", name, "order"), "changes nothing: no group has two targets that are drawn"


def _outlasted(gateway: Gateway) -> Iterator[Doubt]:
    """Times that another model's takes the place of: all attempts of a call have one."""
    public = gateway.public_names()
    for name, model in gateway.models.items():
        own = model.first_byte
        for other in dict.fromkeys(public[other] for other in model.stand_ins.values()):
            theirs = gateway.models[other].first_byte
            if own is not None and theirs is None:
                yield ("models", name, "first_byte"), f"is not in force while {other}, its fallback, has none"
            elif own is not None and theirs is not None and theirs > own:
                yield ("models", name, "first_byte"), f"is not in force: that of {other}, its fallback, is longer"


def _forgotten(gateway: Gateway) -> Iterator[Doubt]:
    """Budgets that a restart gives out again."""
    if gateway.stores.counters != MEMORY:
        return
    for name, given in gateway.policies.limits.items():
        if _is_long_budget(compile_limit(name, given)):
            yield (
                ("policies", "limits", name),
                "is counted in the worker's memory, and a restart forgets all but the last hour: "
                "name a Redis in stores.counters",
            )


def _forgotten_of_teams(gateway: Gateway, teams: Mapping[str, TeamFile]) -> Iterator[Doubt]:
    """The same of team files, in one doubt: there may be hundreds."""
    if gateway.stores.counters != MEMORY:
        return
    public, found = gateway.public_names(), []
    for team, file in teams.items():
        given = [*file.limits.items(), *(limit for key in file.keys for limit in key.limits.items())]
        found += [f"{team}/{name}" for name, one in given if _is_long_budget(compile_limit(name, one, public=public))]
    if found:
        more = f" and {len(found) - 3} more" if len(found) > 3 else ""
        yield (
            ("stores", "counters"),
            f"is the worker's memory, and a restart forgets all but the last hour of budgets in team files "
            f"({', '.join(found[:3])}{more}): name a Redis",
        )


def _is_long_budget(limit: Limit) -> bool:
    is_long = limit.sliding > _HOUR or limit.period in (Period.DAY, Period.MONTH)
    return limit.measure is Measure.MONEY and limit.mode is not Mode.OFF and is_long


def _empty(gateway: Gateway) -> Iterator[Doubt]:
    for name, given in gateway.policies.guardrails.items():
        if not (given.structure or given.injection or given.content or given.moderation):
            yield ("policies", "guardrails", name), "has no rule: it looks at nothing"


def _uncommon(gateway: Gateway) -> Iterator[Doubt]:
    """Categories that the service may not have: then every call is one that it did not judge."""
    for name, given in gateway.policies.guardrails.items():
        thresholds = given.moderation.thresholds if given.moderation else {}
        for category in thresholds.keys() - CATEGORIES:
            steps = ("policies", "guardrails", name, "moderation", "thresholds", category)
            yield steps, f"is no category that is known here{did_you_mean(category, CATEGORIES)}"


def _kept_apart(gateway: Gateway) -> Iterator[Doubt]:
    """Answers that only some of the calls that ask the same can get, and a tier that nothing stands before."""
    cache = gateway.cache
    if cache.is_on and gateway.workers > 1 and gateway.stores.answers_at == MEMORY:
        yield ("cache",), f"each of the {gateway.workers} workers keeps its own answers: name a Redis in stores.answers"
    if not cache.is_on and cache.semantic.mode != "off":
        yield ("cache", "semantic", "mode"), "changes nothing while `cache.mode` is off"


def _never_reached(gateway: Gateway) -> Iterator[Doubt]:
    """Rules of the cache of which an earlier one takes every call."""
    public = gateway.public_names()
    selectors = [selector(rule, public) for rule in gateway.cache.rules]
    for number, later in enumerate(selectors):
        earlier = next((place for place in range(number) if selectors[place].covers(later)), None)
        if earlier is not None:
            yield ("cache", "rules", number), f"is never reached: cache.rules[{earlier}] decides all such calls"


def _without_file(gateway: Gateway, teams: Mapping[str, TeamFile]) -> Iterator[Doubt]:
    """Teams that a rule of the cache speaks of, by themselves or by a key, and that no file declares."""
    for number, rule in enumerate(gateway.cache.rules):
        of_keys = [key.split("/", 1)[0] for key in rule.keys or () if "/" in key]
        for field, names in (("teams", rule.teams or ()), ("keys", of_keys)):
            for name in names:
                if teams and name not in teams:
                    yield ("cache", "rules", number, field), f"{name} has no team file{did_you_mean(name, teams)}"


def _without_default(kind: str, policies: Mapping[str, object]) -> Iterator[Doubt]:
    if policies and DEFAULT_POLICY not in policies:
        said = f"none is called `{DEFAULT_POLICY}`: callers whose team names no policy, or who have no team, have none"
        near = difflib.get_close_matches(DEFAULT_POLICY, policies, 1)
        yield ("policies", kind), said + (f" (is `{near[0]}` meant to be it?)" if near else "")


def _unnamed(kind: str, policies: Mapping[str, object], named: set[str]) -> Iterator[Doubt]:
    for name in policies:
        if name != DEFAULT_POLICY and name not in named:
            yield ("policies", kind, name), f"is named by no team file: `{kind}: {name}` there puts it in force"
