"""What people are to be told of: found in events and in what the ledger has, each with an id that says what and when.

Whoever finds the same finds the same id: another worker's call, the same event again, another process of the ledger.
"""

import hashlib
from collections.abc import Collection, Iterable, Mapping
from datetime import datetime, timedelta
from typing import NamedTuple

from extproc.ledger.facts import Facts, packed
from extproc.stores.alerts import AlertRow, Count, Sign

LEDGER = "ledger"
_EPOCH = datetime(2000, 1, 1)  # noqa: DTZ001 - UTC without a zone, as in the ledger
_NAMES = {"limit": 200, "measure": 20, "currency": 16, "scope": 400}
_AMOUNTS = ("amount", "used", "percent", "window")


def of_budgets(facts: Facts) -> list[Sign]:
    """Of the record of a call: the budgets that it was the first to pass a part of, or found used up."""
    passed = facts.value("passed")
    if not isinstance(passed, list):
        return []
    read = [Facts(one, facts.odd, f"passed.{place}.") for place, one in enumerate(passed) if isinstance(one, dict)]
    return [sign for one in read if (sign := _of_budget(one)) is not None]


def _of_budget(facts: Facts) -> Sign | None:
    key, title = facts.text("key"), facts.text("limit")
    if key is None or title is None:
        return None
    told: dict[str, object] = {name: _plain(facts.text(name, most)) for name, most in _NAMES.items()}
    told |= {name: facts.count(name) for name in _AMOUNTS}
    told |= {"spent": facts.flag("spent"), "wanted": facts.whole("wanted")}
    what = "spent" if told["spent"] else str(told["percent"]) if told["wanted"] is None else "refused"
    ends = facts.moment("until")
    told["until"] = None if ends is None else ends.isoformat()
    return _sign("budgets", _plain(title) or "", (key, str(told["window"]), what, str(told["amount"])), told, ends)


class Bound(NamedTuple):
    """From which share of at least so many, within how long, something is told."""

    share: float
    least: int
    within: timedelta

    def is_passed(self, count: Count) -> bool:
        return count.all >= self.least and count.bad >= self.share * count.all

    def told(self, count: Count) -> dict[str, object]:
        return {"all": count.all, "bad": count.bad, "within": round(self.within.total_seconds())}


def of_backends(counted: Mapping[str, Count], bound: Bound, now: datetime, again: timedelta) -> list[Sign]:
    """The backends at which too many attempts fail."""
    bad = {name: count for name, count in counted.items() if bound.is_passed(count)}
    return [_now("backends", name, bound.told(count), now, again) for name, count in bad.items()]


def of_errors(count: Count, bound: Bound, now: datetime, again: timedelta) -> list[Sign]:
    """That too many calls end with an error that is not their caller's."""
    return [_now("errors", "gateway", bound.told(count), now, again)] if bound.is_passed(count) else []


def of_lag(seconds: float, most: float, now: datetime, again: timedelta) -> list[Sign]:
    """That what calls used waits for the ledger for too long."""
    return [_now(LEDGER, LEDGER, {"seconds": round(seconds)}, now, again)] if seconds >= most else []


def rows(signs: Iterable[Sign], webhooks: Mapping[str, Collection[str]], now: datetime) -> list[AlertRow]:
    """A message for each webhook that gets signs of the kind. Of what is over by now nobody is told."""
    return [
        AlertRow(
            id=sign.id,
            webhook=name,
            kind=sign.kind,
            subject=sign.subject,
            created_at=now,
            ends_at=sign.ends_at,
            facts=sign.facts,
            due_at=now,
        )
        for sign in signs
        if sign.ends_at is None or sign.ends_at > now
        for name, kinds in webhooks.items()
        if sign.kind in kinds
    ]


def _now(kind: str, subject: str, told: Mapping[str, object], now: datetime, again: timedelta) -> Sign:
    """One that is known by the time: two who find it at the same moment find the same."""
    return _sign(kind, subject, (str((now - _EPOCH) // again),), told, None)


def _sign(kind: str, subject: str, marks: Iterable[str], told: Mapping[str, object], ends: datetime | None) -> Sign:
    digest = hashlib.blake2b("\x1f".join((kind, subject, *marks)).encode(), digest_size=16)
    known = {name: value for name, value in told.items() if value is not None}
    return Sign(id=digest.hexdigest(), kind=kind, subject=subject, ends_at=ends, facts=packed(known))


def _plain(text: str | None) -> str | None:
    """What a message may hold: nothing that ends a line or steers a terminal."""
    return None if text is None else "".join(sign if sign.isprintable() else "?" for sign in text)
