"""Names on which Envoy's files and the policy workers must agree. Nothing else may be shared between them."""

import signal
from functools import lru_cache

# Dynamic metadata that the policy returns and that Envoy's route and cluster filters read.
ORDER = "sluice.order"  # the chain, in the form of the priority_group cluster specifier
# Each by cluster: {path: ":path" there, deployed: the model's name there, model: that name where the body gets it,
# translate: the surface of the call where the backend speaks another dialect}
CHAIN = "sluice.chain"
# {cl: content-length, at, to: byte offsets of the model's JSON string content, identity: a signed token,
# of a chain with translated attempts the ASKING_HEADERS, too, that the caller sent}; all strings
CALL = "sluice.call"

# Of a call that another model may serve, by what for: {groups: its chain as in ORDER, and path, deployed, model and
# translate as in CHAIN}; and cause, once one of them has taken over
INSTEAD = "sluice.instead"

# What the policy tells Envoy of a call, for the record of one whose worker died: {who, what}, strings of JSON as
# extproc/telemetry/note.py makes them
FACTS = "sluice"
# What it tells for Envoy's own log, where there is one: some or all of LOGGED, by name
LOG = "sluice.log"
LOGGED = (
    *("surface", "area", "team", "key_id", "model", "fallback", "backend", "ending", "refusal", "cache", "config"),
    *("trace_id", "input", "output", "usage", "cost_nano", "currency"),
)

# Where calls are traced: {traceparent: of the span of which attempts are a part, sampled or not}
TRACE = "sluice.trace"

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
SHADOW_HEADER = "x-sluice-shadow"  # to that socket: the cluster that gets the copy of a call
STANDING = ".standing"  # in place of `.sock`, the file in which a worker tells which configuration it serves
# Beside those sockets, while a gateway is drained and once it has been: its workers say then that it is not ready
DRAINING, DRAINED = "draining", "drained"
CLOSED = "closed"  # from some time between those two on: its workers let no new call in
OVER = "over"  # when the time of its calls is over: its workers end the streams that still run
PRESENT = ".present"  # in place of `.sock`, the file by which a worker shows that its loop goes round
WITHOUT_NOTICE = signal.SIGUSR1  # has a worker drain when Envoy has stopped: nobody need learn of it before

EXTPROC_CLUSTER = "extproc"
SINK_CLUSTER = "sink"
SINK_STATUS = 421  # no retry rule matches it, and no provider answers it
UNRESOLVED_LISTENER = "unresolved"  # answers for a backend of which no address is known, or none is well
UNRESOLVED_ADDRESS = f"envoy://{UNRESOLVED_LISTENER}/"  # as Envoy tells it
NO_ADDRESS = "no_healthy_upstream"  # Envoy's own flag and detail where a cluster is empty

# What Envoy holds of an answer for a client that reads slowly. Beyond that it stops reading the backend.
ANSWER_MARGIN = 2**20  # bytes for a connection, above limits.json_answer
STREAM_BUFFER = 2**16  # bytes for a stream of HTTP/2

IDENTITY_HEADER = "x-sluice-identity"  # to backends that are told who calls
ROUTED_HEADER = "x-sluice-routed"  # a reply clears the route cache only if it also mutates a header

# Of an answer: why another model gave it and at which attempt, as in context_window/2; the policy tells the caller.
FALLBACK_HEADER = "x-sluice-fallback"
AGAIN_HEADER = "x-sluice-again"  # of an attempt's answer: the router tries the next backend, whatever it says
LAST_HEADER = "x-envoy-ratelimited"  # Envoy's own: nothing is tried again behind an answer that has it

DEPLOYED_HEADER = "x-sluice-deployed"  # of an answer, up to the listener: tells Envoy's record which model was asked

# In which callers ask for a version of their surface's own API; at a backend of another dialect they mean nothing.
ASKING_HEADERS = ("anthropic-beta", "anthropic-version", "openai-beta")
ANTHROPIC_VERSION = "2023-06-01"  # of the API, in a header that every call must have

# Of a request, set for each attempt where calls are traced, and so in Envoy's record of it; and of the answer of one
# whose backend is not told, up to the listener.
TRACEPARENT = "traceparent"
TRACE_HEADER = "x-sluice-trace"

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


_UNRESOLVED = "unresolved_"
_OF_BACKENDS = ("backend_", "resolved_", _UNRESOLVED)


def cluster_of(backend: str) -> str:
    """Envoy's cluster name for a backend of the configuration."""
    return f"backend_{backend}"


def jwks_cluster_of(issuer: str) -> str:
    """Envoy's cluster name for where an issuer publishes its keys."""
    return f"jwks_{issuer}"


def shadow_cluster_of(backend: str) -> str:
    """Envoy's cluster name for a backend as it gets copies of calls."""
    return f"shadow_{backend}"


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


# A backend that is named, and not by an address, has two more clusters, which records of attempts name.


def resolved_cluster_of(backend: str) -> str:
    """Envoy's cluster name for the addresses of a backend's name."""
    return f"resolved_{backend}"


def unresolved_cluster_of(backend: str) -> str:
    """Envoy's cluster name for where attempts end while a backend has no address that is well."""
    return f"{_UNRESOLVED}{backend}"


@lru_cache(maxsize=1024)  # of names that the configuration gives
def backend_of(cluster: str) -> str | None:
    """The backend behind a cluster name, or None for clusters of our own."""
    prefix = next((prefix for prefix in _OF_BACKENDS if cluster.startswith(prefix)), None)
    return None if prefix is None else cluster.removeprefix(prefix)


def is_unresolved(cluster: str) -> bool:
    """Whether nobody was asked in an attempt at a cluster, for there was no address."""
    return cluster.startswith(_UNRESOLVED)
