"""Names on which Envoy's files and the policy workers must agree. Nothing else may be shared between them."""

# Dynamic metadata that the policy returns and that Envoy's route and cluster filters read.
ORDER = "sluice.order"  # the chain, in the form of the priority_group cluster specifier
# Each by cluster: {path: ":path" there, deployed: the model's name there, model: that name where the body gets it,
# translate: the surface of the call where the backend speaks another dialect}
CHAIN = "sluice.chain"
# {cl: content-length, at, to: byte offsets of the model's JSON string content, identity: a signed token,
# of a chain with translated attempts the ASKING_HEADERS, too, that the caller sent}; all strings
CALL = "sluice.call"

# Dynamic metadata that Envoy sends to the policy: what its token filter found, under names made of the issuer's.
TOKENS = "envoy.filters.http.jwt_authn"  # Envoy's own constant

# Filters are matched by name in per-route overrides, upstream ones too: no two may share a name.
POLICY_FILTER = "sluice.policy"
TRANSLATION_FILTER = "sluice.upstream"

# In gRPC's metadata of a stream that translates one attempt's request; the stream of a call has none of them.
CLUSTER_KEY = "x-sluice-cluster"
DIALECT_KEY = "x-sluice-dialect"
CAP_KEY = "x-sluice-cap"  # the field in which chat completions bound their output there

SERVICES_SOCKET = "services.sock"  # of Envoy, beside the workers' own

EXTPROC_CLUSTER = "extproc"
SINK_CLUSTER = "sink"
SINK_STATUS = 421  # no retry rule matches it, and no provider answers it

IDENTITY_HEADER = "x-sluice-identity"  # to backends that are told who calls
ROUTED_HEADER = "x-sluice-routed"  # a reply clears the route cache only if it also mutates a header

DEPLOYED_HEADER = "x-sluice-deployed"  # of an answer, up to the listener: tells Envoy's record which model was asked

# In which callers ask for a version of their surface's own API; at a backend of another dialect they mean nothing.
ASKING_HEADERS = ("anthropic-beta", "anthropic-version", "openai-beta")
ANTHROPIC_VERSION = "2023-06-01"  # of the API, in a header that every call must have

ATTEMPT_LOG = "attempt"
LISTENER_LOG = "listener"

CREDENTIAL_HEADERS = (
    "authorization",
    "api-key",
    "x-api-key",
    "x-goog-api-key",
    "proxy-authorization",
    "cookie",
    "openai-organization",  # these two would steer whom the provider bills for our credential
    "openai-project",
)


def cluster_of(backend: str) -> str:
    """Envoy's cluster name for a backend of the configuration."""
    return f"backend_{backend}"


def jwks_cluster_of(issuer: str) -> str:
    """Envoy's cluster name for where an issuer publishes its keys."""
    return f"jwks_{issuer}"


def service_cluster_of(service: str) -> str:
    """Envoy's cluster name for a service that policies ask."""
    return f"service_{service}"


# An issuer's own name has no colon, so these never meet the name of another.


def token_header_of(issuer: str) -> str:
    """Where in TOKENS the header of a verified token stands; its claims stand under the issuer's own name."""
    return f"{issuer}:header"


def token_failure_of(issuer: str) -> str:
    """Where in TOKENS Envoy says why a token of the issuer was not verified: {code: number, message: text}."""
    return f"{issuer}:failed"


def backend_of(cluster: str) -> str | None:
    """The backend behind a cluster name, or None for clusters of our own."""
    return cluster.removeprefix("backend_") if cluster.startswith("backend_") else None
