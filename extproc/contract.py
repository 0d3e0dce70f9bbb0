"""Names on which Envoy's files and the policy workers must agree. Nothing else may be shared between them."""

# Dynamic metadata that the policy returns and that Envoy's route and cluster filters read.
ORDER = "sluice.order"  # the chain, in the form of the priority_group cluster specifier
CHAIN = "sluice.chain"  # {path: {cluster: ":path" there}, model: {cluster: deployed model name}}
CALL = "sluice.call"  # {cl: content-length, at, to: byte offsets of the model's JSON string content}; all strings

# Filters are matched by name in per-route overrides, upstream ones too: no two may share a name.
POLICY_FILTER = "sluice.policy"

EXTPROC_CLUSTER = "extproc"
SINK_CLUSTER = "sink"
SINK_STATUS = 421  # no retry rule matches it, and no provider answers it

ROUTED_HEADER = "x-sluice-routed"  # a reply clears the route cache only if it also mutates a header

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


def backend_of(cluster: str) -> str | None:
    """The backend behind a cluster name, or None for clusters of our own."""
    return cluster.removeprefix("backend_") if cluster.startswith("backend_") else None
