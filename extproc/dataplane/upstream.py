"""What happens to a request on each attempt, in the chain of the cluster that the attempt goes to.

Everything that one attempt sets is still there on the next, which may go to another provider. So each chain
first removes whatever another one could have left, and sets everything itself.
"""

from importlib.resources import files

from envoy_data_plane.envoy.config.core.v3 import DataSource
from envoy_data_plane.envoy.extensions.filters.http.credential_injector.v3 import CredentialInjector
from envoy_data_plane.envoy.extensions.filters.http.header_mutation.v3 import HeaderMutation, Mutations
from envoy_data_plane.envoy.extensions.filters.http.lua.v3 import Lua
from envoy_data_plane.envoy.extensions.filters.http.upstream_codec.v3 import UpstreamCodec
from envoy_data_plane.envoy.extensions.filters.network.http_connection_manager.v3 import HttpFilter
from envoy_data_plane.envoy.extensions.http.injected_credentials.generic.v3 import Generic
from envoy_data_plane.envoy.extensions.transport_sockets.tls.v3 import SdsSecretConfig

from extproc import contract
from extproc.config.backends import Backend, Dialect
from extproc.config.byob import owner_of
from extproc.config.fields import Credential
from extproc.config.schema import Gateway
from extproc.dialects.translate.directions import DIRECTIONS
from extproc.secrets.named import secret_file, secret_name

from . import fallback, policy, tracing
from .extensions import extension, http_filter
from .files import watched
from .headers import overwrite, remove, remove_prefix
from .layout import Layout

_BEARER = ("authorization", "Bearer ")
_CREDENTIAL_HEADER: dict[Dialect, tuple[str, str]] = {
    "openai": _BEARER,
    "azure-openai": ("api-key", ""),
    "anthropic": ("x-api-key", ""),
    "gemini": ("x-goog-api-key", ""),
}
_OURS = ("x-sluice-", "x-envoy-", "x-forwarded-")
_REWRITE = files(__package__).joinpath("rewrite.lua").read_text(encoding="utf-8")
_PACE = files(__package__).joinpath("pace.lua").read_text(encoding="utf-8")


def backend_filters(name: str, gateway: Gateway, layout: Layout) -> list[HttpFilter]:
    """The way of one attempt, top to bottom, for the backend `name` of the configuration."""
    cluster, backend = contract.cluster_of(name), gateway.all_backends()[name]
    chain = [
        *([fallback.reader(cluster)] if name in fallback.backends(gateway) else []),
        http_filter("sluice.attempt_headers", HeaderMutation(mutations=_clean(name, gateway, _fixed(name, gateway)))),
        http_filter("sluice.rewrite", Lua(default_source_code=DataSource(inline_string=_lua(cluster)))),
        *credential(name, backend, layout),
    ]
    if needs_translation(backend):
        # Behind the others: it writes the length of the new body over that of the client's.
        translator = policy.translator(gateway.timeouts, cluster, backend)
        chain.append(http_filter(contract.TRANSLATION_FILTER, translator))
    return [*chain, codec()]


def credential(name: str, backend: Backend, layout: Layout) -> list[HttpFilter]:
    """What sets the credential of the backend `name`, where it has one."""
    given = backend.credential
    if given is None:
        return []
    secret = secret_name(contract.cluster_of(name), backend.url, given)
    header = _CREDENTIAL_HEADER[backend.dialect]
    return [http_filter("sluice.credential", injector(secret, given, header, layout))]


def needs_translation(backend: Backend) -> bool:
    """Whether calls of a surface that the backend does not speak may be translated for it."""
    return any(dialect == backend.dialect for _, dialect in DIRECTIONS)


def paced() -> list[HttpFilter]:
    """The way to an issuer's keys: at most one fetch a second leaves each of Envoy's threads."""
    return [http_filter("sluice.pace", Lua(default_source_code=DataSource(inline_string=_PACE))), codec()]


def codec() -> HttpFilter:
    """The end of every chain."""
    return http_filter("envoy.filters.http.upstream_codec", UpstreamCodec())


def _fixed(name: str, gateway: Gateway) -> list[str]:
    """Names of the headers that backends beside one always get: what one got, another one must not.

    No call goes to backends of two owners, so that what a team sets changes nothing for the others.
    """
    owner = owner_of(name)
    beside = (backend for other, backend in gateway.all_backends().items() if owner_of(other) == owner)
    return sorted({header for backend in beside for header in backend.headers})


def _clean(name: str, gateway: Gateway, fixed: list[str]) -> Mutations:
    """No caller's or other provider's credential, no trace of the company; an answer brings none of ours.

    Who calls is told only to a backend that is to know, and the attempt before may have told another one.
    """
    cluster, backend = contract.cluster_of(name), gateway.all_backends()[name]
    identity = overwrite(contract.IDENTITY_HEADER, f"%DYNAMIC_METADATA({contract.CALL}:identity)%")
    return Mutations(
        request_mutations=[
            *(remove(header) for header in contract.CREDENTIAL_HEADERS),
            *(remove_prefix(prefix) for prefix in _OURS),
            *(remove(name) for name in fixed),
            *(overwrite(name, value.replace("%", "%%")) for name, value in backend.headers.items()),
            *([identity] if backend.identity_header else []),
            *tracing.told(backend, gateway),
            overwrite("accept-encoding", "identity"),  # usage is read from the bytes as they pass
            # An attempt before may have left the length of its own body; a wrong one desynchronises the
            # connection. Where the policy knows none, the body goes out in chunks.
            remove("content-length"),
            overwrite("content-length", f"%DYNAMIC_METADATA({contract.CALL}:cl)%"),
        ],
        response_mutations=[
            *(remove_prefix(prefix) for prefix in _OURS),
            # Of the attempt's record, for what cools is the model that is deployed there; clients never see it.
            overwrite(contract.DEPLOYED_HEADER, f"%DYNAMIC_METADATA({contract.CHAIN}:deployed:{cluster})%"),
            *tracing.recorded(backend, gateway),
            remove("set-cookie"),  # the provider's session is not the client's
            remove("alt-svc"),  # would lead clients past the gateway
        ],
    )


def _lua(cluster: str) -> str:
    names = {"CLUSTER": cluster, "CHAIN": contract.CHAIN, "CALL": contract.CALL}
    asking = ", ".join(f'"{name}"' for name in contract.ASKING_HEADERS)
    constants = "".join(f'local {name} = "{value}"\n' for name, value in names.items())
    return f"{constants}local ASKING = {{{asking}}}\n{_REWRITE}"


def injector(secret: str, credential: Credential, header: tuple[str, str], layout: Layout) -> CredentialInjector:
    """Sets the credential of a cluster, whatever stood in its header; a token of Entra has one header everywhere.

    `header` is the name of the usual one, with what stands before the secret in it. What has to be fetched may be
    missing. Envoy's own 401 would then be the end of the call, while that of a backend leads to the next one.
    """
    name, prefix = _BEARER if credential.entra else header
    source = SdsSecretConfig(name=secret, sds_config=watched(layout.secrets_dir, secret_file(secret)))
    generic = Generic(credential=source, header=name, header_value_prefix=prefix)
    return CredentialInjector(
        overwrite=True,
        allow_request_without_credential=credential.sign_in is not None,
        credential=extension("envoy.http.injected_credentials.generic", generic),
    )
