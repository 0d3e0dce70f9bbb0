"""From the configuration tree to the immutable catalogue that calls are decided by."""

import os
from collections.abc import Iterable, Mapping
from dataclasses import replace
from itertools import chain
from urllib.parse import urlsplit

from extproc.config import schema, versions
from extproc.config.backends import Backend as GivenBackend
from extproc.config.byob import TeamBackends, own_name
from extproc.config.cache import cache_rules, longest_wait
from extproc.config.identity import Identity, Issuer
from extproc.config.limits import compile_limit
from extproc.config.models import Model
from extproc.config.models import Target as GivenTarget
from extproc.config.prices import versions as versions_of_price
from extproc.config.profiles import profiles
from extproc.config.rules import rules
from extproc.identity.claims import IssuerPolicy, Rule
from extproc.limits.limit import Mode
from extproc.model import Backend, Binding, Catalogue, Dialect, Modality, Order, PublicModel, Shadow, Target
from extproc.surfaces import Surface

_FAMILIES = {Dialect.ANTHROPIC: "anthropic", Dialect.GEMINI: "google"}
"""Of tokenizers, where it is not that of most."""
_WITHOUT_VERSION = ".githubcopilot.com"
"""The end of hosts that have their operations at the root: their SDKs put no version before them."""
_OF_IDLE = 0.9
"""After so much of the silence that Envoy allows on any stream, one that the gateway can end is ended in words."""


def catalogue(gateway: schema.Gateway, environ: Mapping[str, str] | None = None) -> Catalogue:
    """Compile once per configuration; a call keeps the one it started with.

    Takes up to a second for each policy that looks through texts. `environ`, by default that of the process, holds the
    keys of hashes. Raises Unusable for what `sluice check` tells of such policies.
    """
    return replace(
        without_policies(gateway),
        redaction=profiles(gateway.policies.redaction, os.environ if environ is None else environ),
        guardrails=rules(gateway),
    )


def without_policies(gateway: schema.Gateway) -> Catalogue:
    """The same, in no time, without the policies that look through texts."""
    backends = {name: _backend(name, given) for name, given in gateway.all_backends().items()}
    public, times = gateway.public_names(), gateway.timeouts
    models = {
        name: replace(
            _model(name, given, backends), version=versions.of_model(name, gateway.models, gateway.backends, public)
        )
        for name, given in gateway.models.items()
    }
    owned = {team: _owned(team, brought, backends) for team, brought in gateway.team_backends.items()}
    limits = [compile_limit(name, given, public=public) for name, given in gateway.policies.limits.items()]
    return Catalogue(
        models={spelled: models[name] for spelled, name in public.items() if gateway.models[name].enabled},
        backends=backends,
        defaults={Surface(surface): name for surface, name in gateway.default_models.items()},
        answer_cap=int(gateway.limits.json_answer),
        upload_cap=int(gateway.limits.multipart_request),
        issuers={name: _issuer(name, given) for name, given in gateway.identity.issuers.items()},
        accepted=_accepted(gateway.identity),
        limits=tuple(limit for limit in limits if limit.mode is not Mode.OFF),
        currency=gateway.policies.currency,
        priced_only=gateway.policies.unpriced == "refuse",
        low_prefix=gateway.listener.low_priority_prefix or "",
        tells_priority=gateway.listener.tells_priority,
        attempts=gateway.routing.attempts,
        retry_share=gateway.routing.retry_share,
        tells_backend=gateway.routing.tell_backend,
        logs_calls=gateway.telemetry.access_log is not None,
        tells_times=gateway.telemetry.server_timing,
        genai=gateway.telemetry.genai,
        cache=cache_rules(gateway.cache, longest_wait(times.policy_longest, times.idle), public),
        silence=_OF_IDLE * times.idle.total_seconds(),
        sessions=tuple(name.lower() for name in gateway.ledger.sessions),
        tags=tuple(gateway.ledger.tags),
        owned=owned,
        capacity=gateway.overload.compiled(),
        binding_headers=_binding_headers(chain(models.values(), *(own.values() for own in owned.values()))),
    )


def _model(name: str, given: Model, backends: Mapping[str, Backend]) -> PublicModel:
    groups = tuple(tuple(_target(name, given, target, backends) for target in group) for group in given.targets)
    tiers = None if given.tiers is None else frozenset(given.tiers)
    first = groups[0][0].backend.dialect
    names = [name, *(target.model for group in groups for target in group)]
    return PublicModel(
        name,
        groups,
        tiers,
        given.bounds(_FAMILIES.get(first, "openai"), names),
        modality=None if given.modality is None else Modality(given.modality),
        retired={spelled: one.compiled() for spelled, one in given.retired.items()},
        affinity=given.bound(),
        order=Order(given.order),
        shadow=_shadow(name, given, backends),
        first_byte=None if given.first_byte is None else given.first_byte.total_seconds(),
        stall=None if given.stall is None else given.stall.total_seconds(),
        fallback=given.stand_ins,
    )


def _shadow(name: str, model: Model, backends: Mapping[str, Backend]) -> Shadow | None:
    given = model.shadow
    return None if given is None else Shadow(Target(backends[given.backend], given.model or name), given.share)


def _owned(team: str, brought: TeamBackends, backends: Mapping[str, Backend]) -> dict[str, PublicModel]:
    """The models that a team brings, whose targets name its own backends only."""
    own = {name: backends[own_name(team, name)] for name in brought.backends}
    return {
        name: replace(
            _model(name, given, own),
            owner=team,
            version=versions.of_model(name, brought.models, brought.backends, {}, owner=team),
        )
        for name, given in brought.models.items()
    }


def _binding_headers(models: Iterable[PublicModel]) -> frozenset[str]:
    """Those in which calls can say what binds them."""
    affinities = [model.affinity for model in models if model.affinity is not None]
    headers = {affinity.name for affinity in affinities if affinity.by is Binding.HEADER}
    return frozenset(headers | {"cookie" for affinity in affinities if affinity.by is Binding.COOKIE})


def _target(name: str, model: Model, given: GivenTarget, backends: Mapping[str, Backend]) -> Target:
    prices = versions_of_price(given.price or model.price)
    target = Target(backends[given.backend], given.model or name, given.weight)
    if len(prices) == 1 and not prices[0].since:
        return replace(target, price=prices[0])
    return replace(target, versions=prices)


def _issuer(name: str, given: Issuer) -> IssuerPolicy:
    return IssuerPolicy(
        name=name,
        user=given.claims.user,
        client=given.claims.client,
        groups=given.claims.groups,
        require={claim: frozenset(values) for claim, values in given.require.items()},
        rules=tuple(Rule(rule.claim, rule.value, rule.team, rule.role or "developer") for rule in given.rules),
        clock_skew=given.clock_skew.total_seconds(),
    )


def _accepted(identity: Identity) -> dict[Surface, str]:
    """The surfaces that take one kind of credential only; those with `either` are left out."""
    default = identity.accept.get("default", "either")
    named = {Surface(name): kind for name, kind in identity.accept.items() if name != "default"}
    kinds = {surface: named.get(Surface(surface.key), default) for surface in Surface}
    return {surface: kind for surface, kind in kinds.items() if kind != "either"}


def _backend(name: str, given: GivenBackend) -> Backend:
    prefix, version = _base(given)
    return Backend(
        name,
        Dialect(given.dialect),
        prefix,
        given.api_version,
        version=version,
        wants_identity=given.identity_header,
        cap_field=given.cap_is_read_in,
        provider=given.whose,
        region=given.region,
        surfaces=None if given.surfaces is None else _surfaces(given.surfaces),
    )


def _surfaces(named: Iterable[str]) -> frozenset[Surface]:
    """With those that belong to them: see Surface.key."""
    return frozenset(surface for surface in Surface if surface.key in named)


def _base(given: GivenBackend) -> tuple[str, str]:
    """What stands before paths, and the version behind it.

    The URL is taken as the provider's own SDK takes it: OpenAI's wants the base with its version, or none.
    """
    parts = urlsplit(given.url)
    path = parts.path.rstrip("/")
    if given.dialect == "azure-openai":
        return path.removesuffix("/v1").removesuffix("/openai"), "/v1"
    if given.dialect == "gemini":
        return path.removesuffix("/v1beta").removesuffix("/v1"), "/v1beta"
    if given.dialect == "openai":
        is_bare = not path and (parts.hostname or "").endswith(_WITHOUT_VERSION)
        if is_bare or (path and not path.endswith("/v1")):  # such as /v1beta/openai
            return path, ""
    return path.removesuffix("/v1"), "/v1"
