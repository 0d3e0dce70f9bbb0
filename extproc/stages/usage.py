"""What a call used and how it ended, decided once, at its end."""

from extproc.call import Call, Phase
from extproc.model import Ending, Outcome, Usage, UsageSource


def outcome(call: Call) -> Outcome:
    """The account of a call. An end of stream or the surface's last event decides, never how the
    gRPC stream ended: successful ones end cancelled, too."""
    ending = _ending(call)
    return Outcome(
        ending=ending,
        status=call.status,
        usage=_usage(call, ending),
        refusal=call.refusal.kind.code if call.refusal else None,
        backend=call.backend,
    )


def _ending(call: Call) -> Ending:
    if call.ending is not None:
        return call.ending
    if call.answer_ended or (call.meter is not None and call.meter.finished):
        return Ending.FAILED if call.meter is not None and call.meter.failed else Ending.COMPLETE
    return Ending.CUT


def _usage(call: Call, ending: Ending) -> Usage:
    if ending in (Ending.REFUSED, Ending.ANSWERED) or call.phase in (Phase.OPENED, Phase.IDENTIFIED):
        return Usage()
    if call.meter is None:  # no answer began: an error, or nobody waited for it
        if ending is not Ending.CUT or not call.estimated_input:
            return Usage()
        return Usage(input=call.estimated_input, source=UsageSource.ESTIMATED)
    return call.meter.total(call.estimated_input)
