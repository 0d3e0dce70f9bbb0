"""What a call used and cost, told exactly once when it ends: to the counters, the usage bus, the log, metrics, traces.

Nothing here waits, and nothing is refused any more.
"""

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from http import HTTPStatus

import orjson

from extproc.caching import Caching
from extproc.call import Call, Phase
from extproc.limits import booking
from extproc.model import Demand, Ending, Outcome
from extproc.ports import Holds, Journal
from extproc.routing.attempt import Attempt, Meaning
from extproc.stages import charge, usage
from extproc.stages.traffic import Traffic
from extproc.stores.counters import Draw
from extproc.surfaces import Surface
from extproc.telemetry import calls, logged
from extproc.telemetry.records import access_record, usage_record
from extproc.telemetry.traces import Traces
from extproc.timing import Stage

log = logging.getLogger(__name__)


class Settlement:
    """Settles the calls of one worker. `judge` is told of answers that were watched as they flowed, and ended well."""

    def __init__(
        self,
        holds: Holds,
        caching: Caching,
        journal: Journal,
        traffic: Traffic,
        judge: Callable[[Attempt], None],
        traces: Traces | None,
    ) -> None:
        self._holds = holds
        self._caching = caching
        self._journal = journal
        self._traffic = traffic
        self._judge = judge
        self._traces = traces

    def settle(self, call: Call) -> None:
        """Once for each call, however it ended."""
        ended = time.monotonic()
        duration = ended - call.started
        outcome, used = _account(call, duration)
        if call.lookup is not None:
            self._caching.ended(call, outcome)
        draws = charge.settled(call.hold, used, outcome.backend, call.model) if call.hold is not None else ()
        booked = {draw.counter.key: draw.units for draw in draws}
        record, event = _told(call, outcome, duration, draws, booked)
        if call.hold is not None:
            self._holds.settle(call.hold, draws, event)
        elif call.caller is not None:  # who has no key could fill the ledger
            self._holds.tell(call.id, event)
        if not _is_fine_probe(call, outcome):
            self._journal.write(record)
        call.times.note(Stage.SETTLE, ended)
        calls.count_call(call, outcome, duration, booked)
        self._traffic.ended(call, outcome, ended)
        if call.watched and call.backend is not None and outcome.ending is Ending.COMPLETE:
            self._judge(Attempt(call.backend, call.status, judged=Meaning.ALIVE))
        if self._traces is not None:
            self._traces.tell(call, outcome, record)

    def to_log(self, call: Call, is_last: bool) -> logged.Facts:
        """The facts of a call for Envoy's log, once, as soon as no more can come: a client may leave before its end.

        `is_last`: Envoy tells nothing of it any more. Nothing, where there is no such log.
        """
        if not call.catalogue.logs_calls or call.is_logged:
            return {}
        is_whole = call.answer_ended or (call.meter is not None and call.meter.finished)
        if not is_last and not is_whole and call.phase is not Phase.ANSWERED:
            return {}
        call.is_logged = True
        outcome, _ = _account(call, time.monotonic() - call.started)
        return logged.ended(call, outcome)


def _is_fine_probe(call: Call, outcome: Outcome) -> bool:
    """A question for readiness that was answered with yes: probes ask every two seconds, and nobody would read it."""
    is_probe = call.place is not None and call.place.surface is Surface.READY
    return is_probe and outcome.ending is Ending.ANSWERED and outcome.status == HTTPStatus.OK


def _told(
    call: Call, outcome: Outcome, duration: float, draws: Sequence[Draw], booked: Mapping[str, int]
) -> tuple[Mapping[str, object], bytes]:
    """The record of a call, and its event for the usage bus. A fact that cannot be told may not keep it from being
    booked: then both have the least that there is."""
    try:
        record = access_record(call, outcome, time.time(), duration, booked)
        record.line = line = orjson.dumps(record)
        bookings = booking.told(call.hold, draws, time.time_ns() // 1_000_000) if call.hold is not None else None
        more = b'"booked":%b,' % orjson.dumps(bookings) if bookings else b""
        return record, b'{"id":"%b",%b%b' % (call.id.encode(), more, line[1:])
    except Exception as error:  # whatever it is
        log.error("the record of a call cannot be made: %s", type(error).__name__)
    least = {"time": time.time(), "kind": "call", "ending": outcome.ending.value, "usage": usage_record(outcome.usage)}
    least |= {"cost": outcome.cost, "currency": call.catalogue.currency}
    return least, orjson.dumps({"id": call.id, **least})


def _account(call: Call, duration: float) -> tuple[Outcome, Demand]:
    """How a call ended after so many seconds, and what it has used of its limits."""
    outcome, target = usage.outcome(call, duration), usage.served(call)
    price = None if target is None else target.price
    outcome.deployed = target.model if target is not None and call.backend is not None else None
    used = charge.used(outcome, target, call.hold, call.background, call.inspection.aside)
    if call.inspection.aside or price is not None:
        outcome.cost = used.money
    outcome.price_version = None if price is None else price.version
    outcome.unpriced = charge.unpriced(target, outcome.usage)
    if call.hold is not None:
        outcome.overspent = charge.overspent(call.hold, used)
        outcome.overspent_money = max(0, used.money - call.hold.demand.money)
    return outcome, used
