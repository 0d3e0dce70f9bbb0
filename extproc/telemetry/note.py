"""What is known of a call while it runs, in few bytes: for whoever has to tell of it should its worker die.

Two JSON objects with the names of the access record: `who` calls, once that is known, and `what` is sent, once that is
decided. No text of the call is in them. Envoy keeps them for its record of the call, the counters beside its hold, and
the spool until its end. They are read by extproc/ledger/events.py.
"""

import orjson

from extproc.call import Call
from extproc.model import Demand, UsageSource

_LONGEST = 200  # characters of what a caller can choose; most have a tenth


def who(call: Call) -> bytes:
    """Of a call whose caller is known."""
    caller = call.caller
    facts: dict[str, object] = {"id": call.id, "time": call.began / 1000, "request_id": call.request_id[:_LONGEST]}
    if call.place is not None:
        facts["surface"] = call.place.surface
    if caller is not None:
        facts["key_id"], facts["key"] = caller.key_id, caller.name[:_LONGEST]
        if caller.user is not None:
            facts["user"] = caller.user
        if caller.service_account is not None:
            facts["service_account"] = caller.service_account
        if caller.team is not None:
            facts["team"], facts["area"] = caller.team.name, caller.team.area
        if caller.environment is not None:
            facts["environment"] = caller.environment
    return orjson.dumps(facts)


def what(call: Call, model: str, stream: bool, surely: Demand) -> bytes:
    """Of a call that is about to be sent. `surely`: what it uses if it is, as far as that is known."""
    facts: dict[str, object] = {"model": model}
    if call.named and call.named.name != model:
        facts["asked"] = call.named.name
    if stream:
        facts["stream"] = True
    if call.session is not None:
        facts["session"] = call.session
    if call.turn is not None:
        facts["turn"] = call.turn
    if call.tags:
        facts["caller_tags"] = call.tags
    if call.catalogue.revision:
        facts["config"] = call.catalogue.revision
    facts["usage"] = {"input": surely.input, "source": UsageSource.ESTIMATED}
    if surely.money:
        facts["cost"], facts["currency"] = surely.money, call.catalogue.currency
    return orjson.dumps(facts)


def joined(first: bytes, second: bytes) -> bytes:
    """Both in one object."""
    return b"%b,%b" % (first[:-1], second[1:]) if first and second else first or second
