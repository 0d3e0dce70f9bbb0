"""Prometheus metrics. Labels are bounded: surfaces, configured names and closed sets, never what a caller typed.

Writing a shared counter costs more than deciding a call's route, so counts are tallied in this process and
written once a second by `publish`.
"""

from collections import Counter as Tally
from collections.abc import Mapping
from functools import cache

from prometheus_client import Counter, Gauge, Histogram

from extproc.cache.lookup import Lookup
from extproc.call import Call
from extproc.model import Outcome, Usage, UsageSource
from extproc.redaction.policy import Mode

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
IN_FLIGHT = Gauge("sluice_calls_in_flight", "Calls that have begun and not ended.", multiprocess_mode="livesum")
ATTEMPTS = Counter("sluice_attempts", "Attempts at a backend, as Envoy reports them.", ["backend", "status"])
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
BROKEN = Counter("sluice_broken_calls", "Answers that broke off, by who left.", ["by"])
AFFINITY_LOST = Counter("sluice_affinity_lost", "Stored responses whose backend could not be remembered.")
RECORDS_DROPPED = Gauge(
    "sluice_records_dropped", "Access records that the log could not take.", multiprocess_mode="livesum"
)
LIMIT_REFUSALS = Counter("sluice_limit_refusals", "Calls that a limit refused.", ["limit"])
LIMIT_SHADOW_REFUSALS = Counter(
    "sluice_limit_shadow_refusals", "Calls that a limit would have refused if it were enforced.", ["limit"]
)
LIMIT_WARNINGS = Counter(
    "sluice_limit_warnings", "Soft thresholds, in percent, that a call has crossed.", ["limit", "threshold"]
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
SETTLEMENTS_UNSPOOLED = Gauge(
    "sluice_settlements_unspooled", "Settlements that the spool could not take.", multiprocess_mode="livesum"
)
SETTLEMENTS_LOST = Gauge(
    "sluice_settlements_lost", "Settlements that neither the store nor the spool took.", multiprocess_mode="livesum"
)
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
# Of the supervisor, and no worker. Each has labels: one without would show in every worker, too, as nothing.
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
SUPERVISORS = [CONFIG_LOADED, CONFIG_RELOADS, SECRET_REFRESHES, SECRET_FETCHED]

_NONE = ""
_PRICE = "price"  # more money and no more tokens: images or tools that were not asked for
_KINDS = (
    *("input", "output", "cached_input", "cache_write", "audio_input", "audio_output", "reasoning"),
    *("other_input", "other_output"),
)

_TALLIED = (
    *(CALLS, REFUSALS, TOKENS, ATTEMPTS, FAILOVERS, COST, BROKEN, AFFINITY_LOST),
    *(LIMIT_REFUSALS, LIMIT_SHADOW_REFUSALS, LIMIT_WARNINGS, OVERSPENT, COUNTERS_ERRORS, LIMITS_LOCAL),
    *(CACHE, CACHE_UNKEPT, CACHE_SAVED, CACHE_SAVED_TOKENS, CACHE_ERRORS, CACHE_EMBEDDINGS, CACHE_SHADOW),
    *(SERVICE_QUESTIONS, REDACTIONS, RESTORED, VERDICTS, SCREENING_FAILED),
    *(SHADOWS, SHADOW_TOKENS),
)
_shown: set[str] = set()  # backends
_tallies: dict[Counter, Tally[tuple[str, ...]]] = {counter: Tally() for counter in _TALLIED}


def count(counter: Counter, *labels: str, amount: int = 1) -> None:
    """Add to a counter; it shows within a second."""
    _tallies[counter][labels] += amount


def publish() -> None:
    """Write what has been tallied since the last time."""
    for counter, tally in _tallies.items():
        for labels, amount in tally.items():
            (counter.labels(*labels) if labels else counter).inc(amount)
        tally.clear()


@cache
def _child(histogram: Histogram, label: str) -> Histogram:
    return histogram.labels(label)


def count_call(call: Call, outcome: Outcome, duration: float) -> None:
    """Count one ended call. `duration` in seconds."""
    surface = call.place.surface.value if call.place else _NONE
    model = call.model or _NONE
    backend = outcome.backend or _NONE
    count(CALLS, surface, model, backend, str(outcome.status), outcome.ending.value)
    _child(DURATION, surface).observe(duration)
    if call.stream and call.first_byte is not None:
        _child(FIRST_BYTE, surface).observe(call.first_byte - call.started)
    if call.refusal is not None:
        count(REFUSALS, surface, call.refusal.kind.code, call.refusal.kind.blame.value)
    _count_limits(outcome)
    _count_inspection(call)
    _count_routing(call, outcome)
    if call.lookup is not None:
        _count_cache(call, call.lookup, model)
    usage = outcome.usage
    if usage.source is not UsageSource.NONE:
        for kind in _KINDS:
            if amount := getattr(usage, kind):
                count(TOKENS, surface, model, backend, kind, usage.source.value, amount=amount)


def _count_cache(call: Call, made: Lookup, model: str) -> None:
    count(CACHE, model, made.result.value, made.reason)
    if made.age is None:
        return
    mode = (Mode.SHADOW if made.in_shadow else made.policy.mode).value
    count(CACHE_SAVED_TOKENS, model, mode, amount=made.saved_tokens)
    if made.saved:
        team = call.caller.team.name if call.caller and call.caller.team else _NONE
        count(CACHE_SAVED, team, model, mode, amount=made.saved)


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
    _child(SERVICE_DURATION, service).observe(seconds)


def count_shadow(
    model: str, backend: str, result: str, seconds: float | None = None, usage: Usage | None = None
) -> None:
    """Count a copy of a call. `result`: a status, what came in place of one, or why it was not sent."""
    count(SHADOWS, model, backend, result)
    if seconds is not None:
        _child(SHADOW_DURATION, backend).observe(seconds)
    for kind in _KINDS if usage is not None else ():
        if amount := getattr(usage, kind):
            count(SHADOW_TOKENS, model, backend, kind, amount=amount)


def _count_inspection(call: Call) -> None:
    """What policies found. Rules and entities are configured names, and words of a closed set."""
    seen, rules = call.inspection, call.rules
    if rules is None:
        return
    if rules.redaction is not None:
        policy = rules.redaction.policy
        for direction, found in (("input", seen.found), ("output", seen.said)):
            for entity, amount in found.items():
                count(REDACTIONS, policy.name, entity, direction, policy.mode.value, amount=amount)
    for result, amount in (("restored", seen.restored), ("unrestored", seen.unrestored)):
        if amount:
            count(RESTORED, result, amount=amount)
    for verdict in seen.verdicts:
        count(VERDICTS, verdict.guardrail, verdict.rule, verdict.action.value, verdict.mode.value)
    for what in seen.failed:
        count(SCREENING_FAILED, what)


def _count_routing(call: Call, outcome: Outcome) -> None:
    """Teams and models are configured names."""
    first = None if call.chain is None else call.chain.targets[0].backend.name
    if first is not None and outcome.backend not in (None, first):
        count(FAILOVERS, call.model or _NONE, outcome.backend or _NONE)
    if outcome.cost:
        team = call.caller.team.name if call.caller and call.caller.team else _NONE
        count(COST, team, call.model or _NONE, amount=outcome.cost)


def _count_limits(outcome: Outcome) -> None:
    """By the limits' titles, which are configured names. Money above a hold goes by the cause with the most tokens."""
    if outcome.limit is not None:
        count(LIMIT_REFUSALS, outcome.limit)
    for limit in outcome.shadows:
        count(LIMIT_SHADOW_REFUSALS, limit)
    for limit, threshold in outcome.warnings:
        count(LIMIT_WARNINGS, limit, str(threshold))
    for cause, tokens in outcome.overspent.items():
        count(OVERSPENT, "tokens", cause, amount=tokens)
    if outcome.overspent_money:
        cause = max(outcome.overspent, key=lambda name: outcome.overspent[name], default=_PRICE)
        count(OVERSPENT, "nano", cause, amount=outcome.overspent_money)
