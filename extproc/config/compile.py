"""From the configuration tree to the immutable catalogue that calls are decided by."""

from urllib.parse import urlsplit

from extproc.config import schema
from extproc.config.identity import Identity, Issuer
from extproc.identity.claims import IssuerPolicy, Rule
from extproc.model import Backend, Catalogue, Dialect, PublicModel, Target
from extproc.surfaces import Surface


def catalogue(gateway: schema.Gateway) -> Catalogue:
    """Compile once per configuration; a call keeps the one it started with."""
    backends = {name: _backend(name, given) for name, given in gateway.backends.items()}
    models: dict[str, PublicModel] = {}
    for name, given in gateway.models.items():
        public = PublicModel(
            name,
            tuple(
                tuple(Target(backends[target.backend], target.model or name, target.weight) for target in group)
                for group in given.targets
            ),
            None if given.tiers is None else frozenset(given.tiers),
        )
        for spelled in (name, *given.aliases):
            models[spelled] = public
    return Catalogue(
        models=models,
        backends=backends,
        defaults={Surface(surface): name for surface, name in gateway.default_models.items()},
        answer_cap=int(gateway.limits.json_answer),
        issuers={name: _issuer(name, given) for name, given in gateway.identity.issuers.items()},
        accepted=_accepted(gateway.identity),
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
    dialect, told = Dialect(given.dialect), given.identity_header
    if dialect is Dialect.AZURE:
        return Backend(name, dialect, path.removesuffix("/v1").removesuffix("/openai"), given.api_version)
    if path and not path.endswith("/v1") and dialect is Dialect.OPENAI:
        return Backend(name, dialect, path, version="", wants_identity=told)  # such as /v1beta/openai
    return Backend(name, dialect, path.removesuffix("/v1"), wants_identity=told)
