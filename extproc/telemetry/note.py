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
    facts: dict[str, object] = {
        "id": call.id,
        "time": call.began / 1000,
        "request_id": call.request_id[:_LONGEST],
        "surface": call.place.surface.value if call.place else None,
    }
    if caller is not None:
        team = caller.team
        facts |= {
            "key_id": caller.key_id,
            "key": caller.name[:_LONGEST],
            "user": caller.user,
            "service_account": caller.service_account,
            "team": team.name if team else None,
            "area": team.area if team else None,
            "environment": caller.environment,
        }
    return _packed(facts)


def what(call: Call, model: str, stream: bool, surely: Demand) -> bytes:
    """Of a call that is about to be sent. `surely`: what it uses if it is, as far as that is known."""
    facts: dict[str, object] = {
        "model": model,
        "asked": call.named.name if call.named and call.named.name != model else None,
        "stream": stream or None,
        "session": call.session,
        "turn": call.turn,
        "caller_tags": call.tags or None,
        "config": call.catalogue.revision or None,
        "usage": {"input": surely.input, "source": UsageSource.ESTIMATED.value},
        "cost": surely.money or None,
        "currency": call.catalogue.currency if surely.money else None,
    }
    return _packed(facts)


def joined(first: bytes, second: bytes) -> bytes:
    """Both in one object."""
    return b"%b,%b" % (first[:-1], second[1:]) if first and second else first or second


def _packed(facts: dict[str, object]) -> bytes:
    return orjson.dumps({name: value for name, value in facts.items() if value is not None})
