"""From the configuration tree to the immutable catalogue that calls are decided by."""

import os
from collections.abc import Mapping
from dataclasses import replace
from urllib.parse import urlsplit

from extproc.config import schema
from extproc.config.identity import Identity, Issuer
from extproc.config.limits import compile_limit
from extproc.config.profiles import profiles
from extproc.config.rules import rules
from extproc.identity.claims import IssuerPolicy, Rule
from extproc.limits.limit import Mode
from extproc.model import Backend, Catalogue, Dialect, PublicModel, Target
from extproc.surfaces import Surface


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
    backends = {name: _backend(name, given) for name, given in gateway.backends.items()}
    public = gateway.public_names()
    models = {name: _model(name, given, backends) for name, given in gateway.models.items()}
    limits = [compile_limit(name, given, public=public) for name, given in gateway.policies.limits.items()]
    return Catalogue(
        models={spelled: models[name] for spelled, name in public.items()},
        backends=backends,
        defaults={Surface(surface): name for surface, name in gateway.default_models.items()},
        answer_cap=int(gateway.limits.json_answer),
        upload_cap=int(gateway.limits.multipart_request),
        issuers={name: _issuer(name, given) for name, given in gateway.identity.issuers.items()},
        accepted=_accepted(gateway.identity),
        limits=tuple(limit for limit in limits if limit.mode is not Mode.OFF),
        currency=gateway.policies.currency,
        low_prefix=gateway.listener.low_priority_prefix or "",
        tells_priority=gateway.listener.tells_priority,
    )


def _model(name: str, given: schema.Model, backends: Mapping[str, Backend]) -> PublicModel:
    groups = tuple(tuple(_target(name, given, target, backends) for target in group) for group in given.targets)
    tiers = None if given.tiers is None else frozenset(given.tiers)
    first = groups[0][0].backend.dialect
    family = "anthropic" if first is Dialect.ANTHROPIC else "openai"
    names = [name, *(target.model for group in groups for target in group)]
    return PublicModel(name, groups, tiers, given.bounds(family, names))


def _target(name: str, model: schema.Model, given: schema.Target, backends: Mapping[str, Backend]) -> Target:
    price = given.price or model.price
    return Target(
        backends[given.backend], given.model or name, given.weight, None if price is None else price.compiled()
    )


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


def _backend(name: str, given: schema.Backend) -> Backend:
    """The URL is taken as the provider's own SDK takes it: OpenAI's wants the base with its version, or none."""
    path = urlsplit(given.url).path.rstrip("/")
    dialect = Dialect(given.dialect)
    has_base = dialect is Dialect.OPENAI and path and not path.endswith("/v1")  # such as /v1beta/openai
    root = path if has_base else path.removesuffix("/v1")
    return Backend(
        name,
        dialect,
        root.removesuffix("/openai") if dialect is Dialect.AZURE else root,
        given.api_version,
        version="" if has_base else "/v1",
        wants_identity=given.identity_header,
        cap_field=given.cap_field or _cap_field(given),
    )


def _cap_field(given: schema.Backend) -> str:
    """OpenAI's own models with reasoning take no other than the new name, and most other servers only the old one."""
    is_openai = given.dialect == "azure-openai" or urlsplit(given.url).hostname == "api.openai.com"
    return "max_completion_tokens" if is_openai else "max_tokens"
