"""Alerts as their receivers read them. They hold names of limits, teams, models and backends, and amounts."""

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import orjson

from extproc.limits import standing
from extproc.stores.alerts import AlertRow

NANO = 10**9
TEST = "test"
_IN_WORDS = 3  # some hundred characters each; Slack takes 3,000

Facts = Mapping[str, Any]


def text(row: AlertRow) -> str:
    """A sentence or two in plain words."""
    return _TEXTS[row.kind](row.subject, json.loads(row.facts))


def id_of(rows: Sequence[AlertRow]) -> str:
    """The same whenever the same are told: one's own, or one of all."""
    if len(rows) == 1:
        return rows[0].id
    return hashlib.blake2b("\x1f".join(sorted(row.id for row in rows)).encode(), digest_size=16).hexdigest()


def _all(rows: Sequence[AlertRow]) -> str:
    """The first of them in words, and how many others there are: a message has no room for hundreds."""
    words = " ".join(text(row) for row in rows[:_IN_WORDS])
    others = len(rows) - _IN_WORDS
    return f"{words} And {others} other{'s' * (others > 1)}: sluice alerts list shows all." if others > 0 else words


def slack(rows: Sequence[AlertRow]) -> bytes:
    """As Slack's incoming webhooks take it, and those of others that do as Slack does.

    Its text is escaped as Slack wants it, and marked as plain, so that nothing in a name looks like more than a name.
    """
    said = _all(rows).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    told = {"type": "plain_text", "text": said, "emoji": False}
    found = f"{min(row.created_at for row in rows):%Y-%m-%d %H:%M:%S} UTC"
    small = {"type": "plain_text", "text": f"Sluice, {found}, alert {id_of(rows)}", "emoji": False}
    blocks = [{"type": "section", "text": told}, {"type": "context", "elements": [small]}]
    return orjson.dumps({"text": said, "mrkdwn": False, "blocks": blocks})


def facts(rows: Sequence[AlertRow]) -> bytes:
    """For programs: the first, and `others` of the same kind where there are some. `id` is that of the message."""
    first, *others = map(_facts, rows)
    told = {**first, "id": id_of(rows), "text": _all(rows)}
    return orjson.dumps({**told, "others": others} if others else told)


def _facts(row: AlertRow) -> dict[str, object]:
    told = {"id": row.id, "kind": row.kind, "subject": row.subject, "created_at": f"{row.created_at.isoformat()}Z"}
    return {**told, "text": text(row), "facts": json.loads(row.facts)}


def _budget(title: str, told: Facts) -> str:
    whose = f" of {told['scope']}" if "scope" in told else ""
    amounts = f"{_amount(told, 'used')} of {_amount(told, 'amount')}"
    until = f", until {told['until']}Z" if "until" in told else ""
    if told.get("spent"):
        return f"Budget {title}{whose} is used up ({amounts}): calls are refused{until}."
    if "wanted" in told:
        asked = f"it asked for {_amount(told, 'wanted')}, and {amounts} are used"
        return f"Budget {title}{whose} refused a call: {asked}. Calls that ask for less go on{until}."
    return f"Budget {title}{whose} has passed {told.get('percent', 0)} % ({amounts}{until})."


def _amount(told: Facts, name: str) -> str:
    value = int(told.get(name, 0))
    if told.get("measure") == "money":
        told_as = standing.amount(value) if value < NANO else f"{value // NANO:,}.{value % NANO // 10_000_000:02}"
        return f"{told_as} {told.get('currency', '')}".rstrip()
    return f"{value:,}" + (
        f" {str(told['measure']).replace('_', ' ')}" if name == "amount" and "measure" in told else ""
    )


def _backend(name: str, told: Facts) -> str:
    return f"Backend {name} fails: {_of(told, 'attempts')} had no answer, or a 429 or 5xx."


def _errors(_name: str, told: Facts) -> str:
    return f"Calls fail: {_of(told, 'calls')} ended with a 5xx."


def _of(told: Facts, what: str) -> str:
    every, bad = told["all"], told["bad"]
    return f"of {every:,} {what} in {_time(told['within'])} {bad:,} ({100 * bad // every} %)"


def _ledger(_name: str, told: Facts) -> str:
    return f"The ledger is behind: what calls used has been waiting for {_time(told['seconds'])}. Calls go on."


def _time(seconds: int) -> str:
    return f"{seconds} s" if seconds < 120 else f"{seconds // 60} minutes"


def _test(name: str, _told: Facts) -> str:
    return f"This is a test of the webhook {name}: alerts arrive."


_TEXTS: dict[str, Callable[[str, Facts], str]] = {
    "budgets": _budget,
    "backends": _backend,
    "errors": _errors,
    "ledger": _ledger,
    TEST: _test,
}
