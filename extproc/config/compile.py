"""From the configuration tree to the immutable catalogue that calls are decided by."""

from urllib.parse import urlsplit

from extproc.config import schema
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
        )
        for spelled in (name, *given.aliases):
            models[spelled] = public
    return Catalogue(
        models=models,
        backends=backends,
        defaults={Surface(surface): name for surface, name in gateway.default_models.items()},
        answer_cap=int(gateway.limits.json_answer),
    )


def _backend(name: str, given: schema.Backend) -> Backend:
    """The URL is taken as the provider's own SDK takes it: OpenAI's wants the base with its version, or none."""
    path = urlsplit(given.url).path.rstrip("/")
    dialect = Dialect(given.dialect)
    if dialect is Dialect.AZURE:
        return Backend(name, dialect, path.removesuffix("/v1").removesuffix("/openai"), given.api_version)
    if path and not path.endswith("/v1") and dialect is Dialect.OPENAI:
        return Backend(name, dialect, path, version="")  # such as /v1beta/openai
    return Backend(name, dialect, path.removesuffix("/v1"))
