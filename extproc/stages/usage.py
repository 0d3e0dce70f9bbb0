"""What a call used and how it ended, decided once, at its end."""

import math

from extproc.call import Call, Phase
from extproc.dialects import answers
from extproc.limits.hold import Hold
from extproc.model import Ending, Outcome, Target, Usage, UsageSource

FASTEST = 5_000
"""Tokens a second, of one choice, that no provider is taken to write faster than."""
USUAL = 100
"""And those that are likely: where no limit can be cheated the ledger is to be right in the mean."""


def outcome(call: Call, duration: float) -> Outcome:
    """The account of a call that took so many seconds. An end of stream or the surface's last event decides, never
    how the gRPC stream ended: successful ones end cancelled, too."""
    ending = _ending(call)
    return Outcome(
        ending=ending,
        status=call.status,
        usage=_usage(call, ending, duration),
        refusal=call.refusal.kind.code if call.refusal else None,
        backend=call.backend,
        limit=call.refusal.limit if call.refusal else None,
        shadows=call.shadowed,
        warnings=call.warned,
        held=call.hold.demand if call.hold else None,
        output_cap=call.output_cap,
        stop_reason=call.meter.stop if call.meter else None,
        tool_calls=_tool_calls(call),
    )


def served(call: Call) -> Target | None:
    """The target that has the call's usage: who answered, or who was asked first where nobody waited for an answer."""
    if call.chain is None or call.phase in (Phase.OPENED, Phase.IDENTIFIED):
        return None
    if call.backend is None:
        return call.chain.targets[0] if _ending(call) is Ending.CUT else None
    return next((target for target in call.chain.targets if target.backend.name == call.backend), None)


def _tool_calls(call: Call) -> int | None:
    """Those in the answer; None where it has none, or was not read."""
    if call.meter is None or (isinstance(call.answer, answers.Opaque | answers.Document) and call.answer.unread):
        return None
    return call.meter.tools


def _ending(call: Call) -> Ending:
    if call.ending is not None:
        return call.ending
    if call.blocked:
        return Ending.BLOCKED
    if call.cut_short:
        return Ending.LIMITED
    if call.stalled:
        return Ending.STALLED
    if call.broken_off:
        return Ending.CUT
    if call.answer_ended or (call.meter is not None and call.meter.finished):
        return Ending.FAILED if call.meter is not None and call.meter.failed else Ending.COMPLETE
    return Ending.CUT


def _usage(call: Call, ending: Ending, duration: float) -> Usage:
    if ending in (Ending.REFUSED, Ending.ANSWERED, Ending.CACHED) or call.phase in (Phase.OPENED, Phase.IDENTIFIED):
        return Usage()
    if call.meter is None:  # no answer began: an error, nobody waited for it, or nobody here could read it
        if ending not in (Ending.CUT, Ending.BLOCKED) or not (call.estimated_input or call.hold):
            return Usage()
        total = Usage(input=call.estimated_input, source=UsageSource.ESTIMATED)
    else:
        total = call.meter.total(call.estimated_input)
        if call.meter.failed and total.source is UsageSource.ESTIMATED and not total.output:
            return Usage()  # an error in place of the answer
    if total.source is UsageSource.ESTIMATED and call.hold is not None:
        total.output = _made(total.output, call, call.hold, ending, duration)
    elif total.source is UsageSource.ESTIMATED and _is_unseen(call, ending):
        total.output = max(total.output, min(call.longest, _written(duration, USUAL, call.choices)))
    return total


def _made(shown: int, call: Call, hold: Hold, ending: Ending, duration: float) -> int:
    """The tokens of an answer that nobody counted, by what showed of it and what was held for it.

    | answer | taken to be made |
    |---|---|
    | leased | what showed, never more than what its pieces were weighed at |
    | passed unread, such as speech, or one too large to be read | all that was held |
    | broken off where it does not show | what can have been written meanwhile, up to what was held: else whoever
      leaves early would pay nothing for what the provider charges. Without a hold what is likely, up to the longest
      answer that there can be; of the other rows then what showed |
    | held back, and withdrawn before it was read to its end | all that was held |
    | any other | what showed |
    """
    if isinstance(call.answer, answers.LeasedStream):
        return min(shown, call.flowed)
    if isinstance(call.answer, answers.Opaque | answers.Document) and call.answer.unread and ending is Ending.COMPLETE:
        return hold.demand.output
    if ending is Ending.BLOCKED and (not call.stream or call.answer is None):
        return hold.demand.output
    if _is_unseen(call, ending):
        return max(shown, min(hold.demand.output, _written(duration, FASTEST, hold.extent.choices)))
    return shown


def _is_unseen(call: Call, ending: Ending) -> bool:
    """Whether an answer was broken off of which more can have been written than showed."""
    hides = call.chain is not None and call.chain.model.bounds.hidden_output
    return ending in (Ending.CUT, Ending.STALLED) and (not call.stream or hides)


def _written(duration: float, pace: int, choices: int) -> int:
    return math.ceil(duration * pace) * choices
