"""Prometheus metrics. Labels are bounded: surfaces, configured names and closed sets, never what a caller typed.

The families, and what is counted where it happens. What is counted of a call that has ended is in `calls`.
"""

from collections.abc import Mapping
from http import HTTPStatus

from prometheus_client import Counter, Gauge

from extproc.model import Usage
from extproc.telemetry.tally import Histogram, LatestGauge, count, publish, reach

__all__ = ["count", "publish", "reach"]

# Answers of language models take minutes, agents' calls longer.
_SECONDS = (0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 20, 40, 80, 160, 320, 640)

CALLS = Counter("sluice_calls", "Calls by how they ended.", ["surface", "model", "backend", "status", "ending"])
REFUSALS = Counter("sluice_refusals", "Calls that the gateway refused.", ["surface", "code", "blame"])
TOKENS = Counter("sluice_tokens", "Tokens used.", ["surface", "model", "backend", "kind", "source"])
DURATION = Histogram(
    "sluice_call_duration_seconds", "Whole call, as the policy sees it.", ["surface"], buckets=_SECONDS
)
FIRST_BYTE = Histogram(
    "sluice_first_byte_seconds", "Until the first byte of a streamed answer.", ["surface"], buckets=_SECONDS
)
STAGE = Histogram(
    "sluice_stage_seconds",
    "What each stage of a call took inside the gateway.",
    ["stage"],
    buckets=(0.00005, 0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1, 2.5, 10),
)
IN_FLIGHT = Gauge("sluice_calls_in_flight", "Calls that have begun and not ended.", multiprocess_mode="livesum")
WAIT = Gauge(
    "sluice_wait_seconds",
    "For how long calls waited for a worker, within the last second.",
    multiprocess_mode="livemax",
)
ATTEMPTS = Counter("sluice_attempts", "Attempts at a backend, as Envoy reports them.", ["backend", "status"])
ATTEMPT = Histogram("sluice_attempt_seconds", "Attempts at a backend, whole.", ["backend"], buckets=_SECONDS)
FAILOVERS = Counter(
    "sluice_failovers", "Calls that another backend answered than the first that was tried.", ["model", "backend"]
)
BACKEND_COOLING = Gauge(
    "sluice_backend_cooling", "Models of a backend that are spared just now.", ["backend"], multiprocess_mode="livemax"
)
CIRCUIT_STATE = Gauge(
    "sluice_circuit_state", "0: closed, 1: half-open, 2: open.", ["backend"], multiprocess_mode="livemax"
)
RETRIES_SPENT = Gauge(
    "sluice_retries_spent", "1: too much fails for any call to be tried again.", multiprocess_mode="livemax"
)
COST = Counter("sluice_cost_nano", "What calls cost, in billionths of the currency.", ["team", "model"])
UNPRICED = Counter(
    "sluice_unpriced_calls", "Calls that used what has no price, by what that was.", ["model", "backend", "what"]
)
BROKEN = Counter("sluice_broken_calls", "Answers that broke off, by who left.", ["by"])
AFFINITY_LOST = Counter("sluice_affinity_lost", "Stored responses whose backend could not be remembered.")
RECORDS_DROPPED = Counter("sluice_records_dropped", "Access records that the log could not take.")
TELEMETRY_DROPPED = Counter(
    "sluice_telemetry_dropped", "Calls, attempts and lines of logs that no collector took.", ["what"]
)
LIMIT_REFUSALS = Counter("sluice_limit_refusals", "Calls that a limit refused.", ["limit"])
LIMIT_SHADOW_REFUSALS = Counter(
    "sluice_limit_shadow_refusals", "Calls that a limit would have refused if it were enforced.", ["limit"]
)
LIMIT_WARNINGS = Counter(
    "sluice_limit_warnings", "Soft thresholds, in percent, that a call has crossed.", ["limit", "threshold"]
)
LIMIT_USED = LatestGauge(
    "sluice_limit_used_ratio",
    "The settled part of a limit, as of the last call under it.",
    ["limit", "scope"],
    multiprocess_mode="livemostrecent",
)
LIMIT_REMAINING = LatestGauge(
    "sluice_limit_remaining",
    "What is not settled of a limit, as of the last call under it.",
    ["limit", "scope", "measure"],
    multiprocess_mode="livemostrecent",
)
POLICY_CALLS = Counter(
    "sluice_policy_calls", "Calls that a configured policy applied to, whatever it said.", ["kind", "policy"]
)
OVERSPENT = Counter("sluice_overspent", "What calls used above what they had reserved.", ["unit", "cause"])
HOLDS_OPEN = Gauge("sluice_holds_open", "Reservations that have not been settled.", multiprocess_mode="livesum")
SETTLEMENTS_PENDING = Gauge(
    "sluice_settlements_pending", "Settlements that the store has not taken yet.", multiprocess_mode="livesum"
)
SETTLEMENTS_OLDEST = Gauge(
    "sluice_settlements_oldest_seconds",
    "For how long the oldest settlement has been waiting for the store.",
    multiprocess_mode="livemax",
)
SETTLEMENTS_UNSPOOLED = Counter("sluice_settlements_unspooled", "Settlements that the spool could not take.")
SETTLEMENTS_LOST = Counter("sluice_settlements_lost", "Settlements that neither the store nor the spool took.")
COUNTERS_ERRORS = Counter("sluice_counters_errors", "Steps that the store of the counters did not answer in time.")
LIMITS_LOCAL = Counter("sluice_limits_local", "Calls counted in a worker's memory while that store was down.")

SERVICE_QUESTIONS = Counter(
    "sluice_service_questions", "Questions to services, by how they ended.", ["service", "result"]
)
SERVICE_DURATION = Histogram(
    "sluice_service_seconds",
    "Until a service has answered.",
    ["service"],
    buckets=(0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10),
)
REDACTIONS = Counter(
    "sluice_redactions", "Values that were found in texts, by entity.", ["policy", "entity", "direction", "mode"]
)
RESTORED = Counter("sluice_placeholders", "Placeholders in answers.", ["result"])
VERDICTS = Counter(
    "sluice_guardrail_verdicts", "Calls of which a guardrail said something.", ["guardrail", "rule", "action", "mode"]
)
SHADOWS = Counter("sluice_shadow_calls", "Copies of calls, by how they ended.", ["model", "backend", "result"])
SHADOW_TOKENS = Counter("sluice_shadow_tokens", "Tokens that copies of calls used.", ["model", "backend", "kind"])
SHADOW_DURATION = Histogram(
    "sluice_shadow_seconds", "Until the answer to a copy of a call was whole.", ["backend"], buckets=_SECONDS
)
CACHE = Counter(
    "sluice_cache_calls", "Calls that the cache had to do with, by how it went and why.", ["model", "result", "reason"]
)
CACHE_SAVED = Counter(
    "sluice_cache_saved_nano",
    "What answers that were kept had cost, in billionths of the currency, by whether they served or only would have.",
    ["team", "model", "mode"],
)
CACHE_SAVED_TOKENS = Counter(
    "sluice_cache_saved_tokens", "Tokens of answers that served from the cache, or would have.", ["model", "mode"]
)
CACHE_UNKEPT = Counter("sluice_cache_unkept", "Answers that might not be kept, by why.", ["model", "reason"])
CACHE_ERRORS = Counter("sluice_cache_errors", "What the cache could not do, by what that was.", ["step"])
CACHE_EMBEDDINGS = Counter(
    "sluice_cache_embeddings", "Texts of which the cache asked the vector, by what it was for.", ["purpose", "result"]
)
CACHE_SHADOW = Counter(
    "sluice_cache_semantic_shadow",
    "Answers to other words that would have served, by whether they say what the real ones do.",
    ["model", "agrees"],
)
SCREENING_FAILED = Counter("sluice_screening_failed", "Calls that a policy could not look at.", ["what"])
# Of the supervisor, and no worker.
CONFIG_LOADED = Gauge(
    "sluice_config_loaded_timestamp_seconds", "When the configuration in force was taken over.", ["revision"]
)
CONFIG_RELOADS = Counter("sluice_config_reloads", "Changed configurations, by what became of them.", ["outcome"])
SECRET_REFRESHES = Counter("sluice_secret_refreshes", "Tries to fetch a secret.", ["secret", "outcome"])
SECRET_FETCHED = Gauge(
    "sluice_secret_fetched_timestamp_seconds",
    "When the secret that Envoy has was fetched; 0: it has none.",
    ["secret"],
    multiprocess_mode="mostrecent",
)
LEDGER_ROWS = Counter("sluice_ledger_rows", "Rows that the ledger took from the usage bus.", ["what"])
LEDGER_LAG = Gauge(
    "sluice_ledger_lag_seconds", "For how long the oldest event on the usage bus has been waiting.", ["bus"]
)
LEDGER_GAPS = Counter(
    "sluice_ledger_gaps", "Times that events may have been missing on the stream, so that the spools were read."
)
LEDGER_LET_GO = Counter(
    "sluice_ledger_let_go", "Rows that the ledger let go of, as they were past their time.", ["what"]
)
ALERTS = Counter("sluice_alerts", "Tries to post an alert to a webhook, by what became of them.", ["webhook", "result"])
OF_LEDGER = [LEDGER_ROWS, LEDGER_LAG, LEDGER_GAPS, LEDGER_LET_GO, ALERTS]
SUPERVISORS = [CONFIG_LOADED, CONFIG_RELOADS, SECRET_REFRESHES, SECRET_FETCHED, *OF_LEDGER]

KINDS = (
    *("input", "output", "cached_input", "cache_write", "audio_input", "audio_output", "image_input", "image_output"),
    *("reasoning", "other_input", "other_output"),
)
"""Of tokens, as usage names them."""

_OTHER_STATUSES = (0, 419, 420, 440, 444, 460, 463, 494, 495, 496, 497, 498, 499, *range(520, 528), 529, 530, 598, 599)
_STATUSES = {int(status): str(int(status)) for status in (*HTTPStatus, *_OTHER_STATUSES)}
_shown: set[str] = set()  # backends


def status_label(status: int) -> str:
    """A status as a label. Those that no standard knows have one for each hundred: a provider may answer any."""
    return _STATUSES.get(status) or f"{status // 100}xx"


def show_backends(conditions: Mapping[str, tuple[int, int]]) -> None:
    """How many models of each backend are spared, and the state of its circuit."""
    gone = dict.fromkeys(_shown - conditions.keys(), (0, 0))  # what was shown once cannot be taken back
    _shown.update(conditions)
    for name, (cooling, circuit) in (gone | dict(conditions)).items():
        BACKEND_COOLING.labels(name).set(cooling)
        CIRCUIT_STATE.labels(name).set(circuit)


def count_service(service: str, result: str, seconds: float) -> None:
    """Count one question to a service."""
    count(SERVICE_QUESTIONS, service, result)
    SERVICE_DURATION.add((service,), seconds)


def count_shadow(
    model: str, backend: str, result: str, seconds: float | None = None, usage: Usage | None = None
) -> None:
    """Count a copy of a call. `result`: a status, what came in place of one, or why it was not sent."""
    count(SHADOWS, model, backend, result)
    if seconds is not None:
        SHADOW_DURATION.add((backend,), seconds)
    for kind in KINDS if usage is not None else ():
        if amount := getattr(usage, kind):
            count(SHADOW_TOKENS, model, backend, kind, amount=amount)
