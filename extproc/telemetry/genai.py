"""OpenTelemetry's semantic conventions for generative AI: one table of their names, and the metrics by these names.

They are still in development, and names change from version to version: what a dashboard was built on can be kept by
`telemetry.genai`. Label names are attribute names with `_` for each dot, metric names as OpenTelemetry's exporters for
Prometheus write them.
"""

from dataclasses import dataclass, replace
from functools import cache

from prometheus_client import CollectorRegistry

from extproc.call import Call
from extproc.model import Backend, Dialect, Ending, Outcome, UsageSource
from extproc.surfaces import Surface
from extproc.telemetry.metrics import status_label
from extproc.telemetry.tally import Histogram, Labels
from extproc.timing import Stage


@dataclass(frozen=True, slots=True)
class Conventions:
    """Names of attributes in one version. None: that version has none for it."""

    version: str
    provider: str
    operation: str = "gen_ai.operation.name"
    request_model: str = "gen_ai.request.model"
    request_stream: str | None = None
    request_max_tokens: str = "gen_ai.request.max_tokens"
    response_model: str = "gen_ai.response.model"
    finish_reasons: str = "gen_ai.response.finish_reasons"
    first_chunk: str | None = None  # seconds until the first piece of a stream
    conversation: str = "gen_ai.conversation.id"
    token_type: str = "gen_ai.token.type"  # noqa: S105 - of language
    input_tokens: str = "gen_ai.usage.input_tokens"
    output_tokens: str = "gen_ai.usage.output_tokens"
    cache_read: str | None = None  # tokens
    cache_creation: str | None = None  # tokens
    reasoning: str | None = None  # tokens
    service_tier: str = "openai.response.service_tier"
    error: str = "error.type"


_1_36 = Conventions("1.36", provider="gen_ai.system", service_tier="gen_ai.openai.response.service_tier")
_1_37 = Conventions("1.37", provider="gen_ai.provider.name")
_1_41 = replace(
    _1_37,
    version="1.41",
    request_stream="gen_ai.request.stream",
    first_chunk="gen_ai.response.time_to_first_chunk",
    cache_read="gen_ai.usage.cache_read.input_tokens",
    cache_creation="gen_ai.usage.cache_creation.input_tokens",
    reasoning="gen_ai.usage.reasoning.output_tokens",
)
CONVENTIONS = {names.version: names for names in (_1_36, _1_37, _1_41)}
"""By version; each holds until the next one that is named here."""

NEWEST = _1_41.version

OPERATIONS = {
    Surface.CHAT: "chat",
    Surface.RESPONSES: "chat",
    Surface.MESSAGES: "chat",
    Surface.COMPLETIONS: "text_completion",
    Surface.EMBEDDINGS: "embeddings",
    Surface.IMAGES: "generate_content",
    Surface.IMAGE_EDITS: "generate_content",
    Surface.SPEECH: "generate_content",
    Surface.TRANSCRIPTIONS: "generate_content",
    Surface.TRANSLATIONS: "generate_content",
    Surface.MODERATIONS: "moderations",
    Surface.RERANK: "rerank",
    Surface.COUNT_TOKENS: "count_tokens",
}
"""What each surface that a model serves is called; the last three have no name in the conventions."""

_PROVIDERS = {
    Dialect.OPENAI: "openai",
    Dialect.AZURE: "azure.ai.openai",
    Dialect.ANTHROPIC: "anthropic",
    Dialect.GEMINI: "gcp.gemini",
}

_BACKEND = "sluice.backend"  # by our own name, in place of server.address
_TOKENS = tuple([4**power for power in range(14)])
_DURATION = tuple([0.01 * 2**power for power in range(14)])
_FIRST_TOKEN = (0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0)
_PER_TOKEN = (0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1.0, 2.5)

# Where the gateway ended an answer, or the caller did, the provider made no mistake.
_NO_ERROR = frozenset({Ending.COMPLETE, Ending.LIMITED, Ending.BLOCKED})


def provider(backend: Backend) -> str:
    """Whose it is, as far as what it speaks tells."""
    return _PROVIDERS[backend.dialect]


def error(outcome: Outcome) -> str:
    """What a call that was sent to a model failed by: a status, how it ended, or our refusal; "" where it did not."""
    if outcome.ending in _NO_ERROR:
        return ""
    if outcome.ending is Ending.FAILED and outcome.status >= 400:
        return status_label(outcome.status)
    return outcome.refusal or outcome.ending.value


class Meter:
    """The metrics of one version. Names of models and backends are configured ones."""

    def __init__(self, names: Conventions, registry: CollectorRegistry | None = None) -> None:
        """`registry`: None where other processes read the samples."""
        of_call = (names.operation, names.provider, names.request_model, names.response_model, _BACKEND)

        def histogram(name: str, text: str, buckets: tuple[float, ...], *more: str) -> Histogram:
            labels = [attribute.replace(".", "_") for attribute in (*of_call, *more)]
            return Histogram(name, text, labels, registry=registry, buckets=buckets)

        self.tokens = histogram(
            "gen_ai_client_token_usage", "Tokens that providers reported, per call.", _TOKENS, names.token_type
        )
        self.duration = histogram(
            "gen_ai_server_request_duration_seconds",
            "From when a call was sent to its backends until it ended.",
            _DURATION,
            names.error,
        )
        self.first_token = histogram(
            "gen_ai_server_time_to_first_token_seconds",
            "From when a call was sent until the first output of its stream.",
            _FIRST_TOKEN,
        )
        self.per_token = histogram(
            "gen_ai_server_time_per_output_token_seconds",
            "Of streams, for each output token after the first.",
            _PER_TOKEN,
        )

    @property
    def families(self) -> tuple[Histogram, ...]:
        return self.tokens, self.duration, self.first_token, self.per_token

    def count(self, call: Call, outcome: Outcome, ended: float) -> None:
        """Count a call that has ended, if it was sent to a model. `ended`: seconds of its clock."""
        sent = call.times.ended(Stage.FORWARD)
        operation = None if call.place is None else OPERATIONS.get(call.place.surface)
        if sent is None or operation is None or call.chain is None:
            return
        backend = call.catalogue.backends.get(outcome.backend or "") or call.chain.targets[0].backend
        labels = (operation, provider(backend), call.chain.model.name, outcome.deployed or "", outcome.backend or "")
        failed = error(outcome)
        self.duration.add((*labels, failed), ended - sent)
        usage = outcome.usage
        if usage.source is UsageSource.REPORTED:
            self.tokens.add((*labels, "input"), usage.input)
            if usage.output:
                self.tokens.add((*labels, "output"), usage.output)
        if call.first_token is not None and not failed:
            self._stream(labels, call.first_token - sent, ended - call.first_token, usage.output)

    def _stream(self, labels: Labels, first: float, rest: float, output: int) -> None:
        self.first_token.add(labels, first)
        if output > 1:
            self.per_token.add(labels, rest / (output - 1))


@cache
def meter(version: str) -> Meter:
    """That of a worker, which shares its samples."""
    return Meter(CONVENTIONS[version])
