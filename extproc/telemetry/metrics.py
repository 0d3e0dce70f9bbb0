"""Prometheus metrics. Labels are bounded: surfaces, configured names and closed sets, never what a caller typed.

Children are resolved once per combination and kept, so that counting costs a dictionary look-up.
"""

from functools import lru_cache

from prometheus_client import Counter, Gauge, Histogram

from extproc.call import Call
from extproc.model import Outcome, UsageSource

# Answers of language models take minutes, agents' calls longer.
_SECONDS = (0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 20, 40, 80, 160, 320, 640)

CALLS = Counter("sluice_calls", "Calls by how they ended.", ["surface", "model", "backend", "status", "ending"])
REFUSALS = Counter("sluice_refusals", "Calls that the gateway refused.", ["surface", "code", "blame"])
TOKENS = Counter("sluice_tokens", "Tokens used.", ["surface", "model", "backend", "kind", "source"])
DURATION = Histogram(
    "sluice_call_duration_seconds", "Whole call, as the policy sees it.", ["surface"], buckets=_SECONDS
)
FIRST_BYTE = Histogram(
    "sluice_first_byte_seconds", "Until the first byte of the answer.", ["surface"], buckets=_SECONDS
)
IN_FLIGHT = Gauge("sluice_calls_in_flight", "Calls that have begun and not ended.", multiprocess_mode="livesum")
ATTEMPTS = Counter("sluice_attempts", "Attempts at a backend, as Envoy reports them.", ["backend", "status"])
BROKEN = Counter("sluice_broken_calls", "Answers that broke off, by who left.", ["by"])
AFFINITY_LOST = Counter("sluice_affinity_lost", "Stored responses whose backend could not be remembered.")
RECORDS_DROPPED = Gauge(
    "sluice_records_dropped", "Access records that the log could not take.", multiprocess_mode="livesum"
)

_NONE = ""


@lru_cache(maxsize=4096)
def _call_children(
    surface: str, model: str, backend: str, status: str, ending: str
) -> tuple[Counter, Histogram, Histogram]:
    return (
        CALLS.labels(surface, model, backend, status, ending),
        DURATION.labels(surface),
        FIRST_BYTE.labels(surface),
    )


@lru_cache(maxsize=4096)
def _token_children(surface: str, model: str, backend: str, source: str) -> dict[str, Counter]:
    kinds = ("input", "output", "cached_input", "cache_write", "audio_input", "audio_output", "reasoning")
    return {kind: TOKENS.labels(surface, model, backend, kind, source) for kind in kinds}


def count_call(call: Call, outcome: Outcome, duration: float) -> None:
    """Count one ended call. `duration` in seconds."""
    surface = call.place.surface.value if call.place else _NONE
    model = call.chain.model.name if call.chain else _NONE
    backend = outcome.backend or _NONE
    calls, whole, first = _call_children(surface, model, backend, str(outcome.status), outcome.ending.value)
    calls.inc()
    whole.observe(duration)
    if call.first_byte is not None:
        first.observe(call.first_byte - call.started)
    if call.refusal is not None:
        REFUSALS.labels(surface, call.refusal.kind.code, call.refusal.kind.blame.value).inc()
    usage = outcome.usage
    if usage.source is not UsageSource.NONE:
        for kind, child in _token_children(surface, model, backend, usage.source.value).items():
            amount = getattr(usage, kind)
            if amount:
                child.inc(amount)
