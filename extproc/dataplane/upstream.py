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
from extproc.config.schema import Backend, Dialect

from .extensions import extension, http_filter
from .files import watched
from .headers import overwrite, remove, remove_prefix
from .layout import Layout
from .secrets import secret_file

_CREDENTIAL_HEADER: dict[Dialect, tuple[str, str]] = {
    "openai": ("authorization", "Bearer "),
    "azure-openai": ("api-key", ""),
    "anthropic": ("x-api-key", ""),
}
_OURS = ("x-sluice-", "x-envoy-", "x-forwarded-")
_REWRITE = files(__package__).joinpath("rewrite.lua").read_text(encoding="utf-8")
_PACE = files(__package__).joinpath("pace.lua").read_text(encoding="utf-8")


def backend_filters(name: str, backend: Backend, layout: Layout) -> list[HttpFilter]:
    """The way of one attempt, top to bottom, for the backend `name` of the configuration."""
    cluster = contract.cluster_of(name)
    chain = [
        http_filter("sluice.attempt_headers", HeaderMutation(mutations=_clean(backend))),
        http_filter("sluice.rewrite", Lua(default_source_code=DataSource(inline_string=_lua(cluster)))),
    ]
    if backend.credential:
        header, prefix = _CREDENTIAL_HEADER[backend.dialect]
        chain.append(http_filter("sluice.credential", injector(cluster, header, prefix, layout)))
    return [*chain, codec()]


def paced() -> list[HttpFilter]:
    """The way to an issuer's keys: at most one fetch a second leaves each of Envoy's threads."""
    return [http_filter("sluice.pace", Lua(default_source_code=DataSource(inline_string=_PACE))), codec()]


def codec() -> HttpFilter:
    """The end of every chain."""
    return http_filter("envoy.filters.http.upstream_codec", UpstreamCodec())


def _clean(backend: Backend) -> Mutations:
    """No caller's or other provider's credential, no trace of the company; an answer brings none of ours.

    Who calls is told only to a backend that is to know, and the attempt before may have told another one.
    """
    identity = overwrite(contract.IDENTITY_HEADER, f"%DYNAMIC_METADATA({contract.CALL}:identity)%")
    return Mutations(
        request_mutations=[
            *(remove(header) for header in contract.CREDENTIAL_HEADERS),
            *(remove_prefix(prefix) for prefix in _OURS),
            *([identity] if backend.identity_header else []),
            overwrite("accept-encoding", "identity"),  # usage is read from the bytes as they pass
            # An attempt before may have left the length of its own body; a wrong one desynchronises the
            # connection. Where the policy knows none, the body goes out in chunks.
            remove("content-length"),
            overwrite("content-length", f"%DYNAMIC_METADATA({contract.CALL}:cl)%"),
        ],
        response_mutations=[
            *(remove_prefix(prefix) for prefix in _OURS),
            remove("set-cookie"),  # the provider's session is not the client's
            remove("alt-svc"),  # would lead clients past the gateway
        ],
    )


def _lua(cluster: str) -> str:
    names = {"CLUSTER": cluster, "CHAIN": contract.CHAIN, "CALL": contract.CALL}
    return "".join(f'local {name} = "{value}"\n' for name, value in names.items()) + _REWRITE


def injector(cluster: str, header: str, prefix: str, layout: Layout) -> CredentialInjector:
    """Sets the credential of a cluster, whatever stood in its header."""
    secret = SdsSecretConfig(name=cluster, sds_config=watched(layout.secrets_dir, secret_file(cluster)))
    generic = Generic(credential=secret, header=header, header_value_prefix=prefix)
    return CredentialInjector(overwrite=True, credential=extension("envoy.http.injected_credentials.generic", generic))
