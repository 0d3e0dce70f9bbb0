"""What Envoy's own log is to have of a call: names, numbers and words of closed sets. See contract.LOGGED."""

from collections.abc import Mapping

from extproc.call import Call
from extproc.model import Outcome, UsageSource

Facts = Mapping[str, str | int]


def asked(call: Call) -> Facts:
    """Whose call it is and what it asks for, as far as that is known. Of one that breaks off there is nothing else."""
    caller, trace = call.caller, call.trace
    team = caller.team if caller else None
    told = {
        "trace_id": trace.trace if trace is not None and (trace.sampled or trace.is_of_others) else None,
        "surface": call.place.surface.value if call.place else None,
        "area": team.area if team else None,
        "team": team.name if team else None,
        "key_id": caller.key_id if caller else None,
        "model": call.model,
        "config": call.catalogue.revision or None,
    }
    return {name: value for name, value in told.items() if value is not None}


def ended(call: Call, outcome: Outcome) -> Facts:
    """All else, of a call of which no more can come; what is absent is left out. Money is in nano-units."""
    usage = outcome.usage
    told: dict[str, str | int | None] = {
        "model": call.model,  # another than it asked for may have served
        "fallback": call.fallback,
        "backend": outcome.backend,
        "ending": outcome.ending.value,
        "refusal": outcome.refusal,
        "cache": call.lookup.result.value if call.lookup else None,
    }
    if usage.source is not UsageSource.NONE:
        told |= {"input": usage.input, "output": usage.output, "usage": usage.source.value}
    if outcome.cost is not None:
        told |= {"cost_nano": outcome.cost, "currency": call.catalogue.currency}
    known = asked(call) if outcome.backend is None else {}  # else Envoy was told when the call was sent
    return {**known, **{name: value for name, value in told.items() if value is not None}}
