"""Prometheus metrics. Labels are bounded: surfaces, configured names and closed sets, never what a caller typed.

Writing a shared counter costs more than deciding a call's route, so counts are tallied in this process and
written once a second by `publish`.
"""

from collections import Counter as Tally
from functools import cache

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
    "sluice_first_byte_seconds", "Until the first byte of a streamed answer.", ["surface"], buckets=_SECONDS
)
IN_FLIGHT = Gauge("sluice_calls_in_flight", "Calls that have begun and not ended.", multiprocess_mode="livesum")
ATTEMPTS = Counter("sluice_attempts", "Attempts at a backend, as Envoy reports them.", ["backend", "status"])
BROKEN = Counter("sluice_broken_calls", "Answers that broke off, by who left.", ["by"])
AFFINITY_LOST = Counter("sluice_affinity_lost", "Stored responses whose backend could not be remembered.")
RECORDS_DROPPED = Gauge(
    "sluice_records_dropped", "Access records that the log could not take.", multiprocess_mode="livesum"
)

_NONE = ""
_KINDS = ("input", "output", "cached_input", "cache_write", "audio_input", "audio_output", "reasoning")

_tallies: dict[Counter, Tally[tuple[str, ...]]] = {
    counter: Tally() for counter in (CALLS, REFUSALS, TOKENS, ATTEMPTS, BROKEN, AFFINITY_LOST)
}


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
def _child(histogram: Histogram, surface: str) -> Histogram:
    return histogram.labels(surface)


def count_call(call: Call, outcome: Outcome, duration: float) -> None:
    """Count one ended call. `duration` in seconds."""
    surface = call.place.surface.value if call.place else _NONE
    model = call.chain.model.name if call.chain else _NONE
    backend = outcome.backend or _NONE
    count(CALLS, surface, model, backend, str(outcome.status), outcome.ending.value)
    _child(DURATION, surface).observe(duration)
    if call.stream and call.first_byte is not None:
        _child(FIRST_BYTE, surface).observe(call.first_byte - call.started)
    if call.refusal is not None:
        count(REFUSALS, surface, call.refusal.kind.code, call.refusal.kind.blame.value)
    usage = outcome.usage
    if usage.source is not UsageSource.NONE:
        for kind in _KINDS:
            if amount := getattr(usage, kind):
                count(TOKENS, surface, model, backend, kind, usage.source.value, amount=amount)
