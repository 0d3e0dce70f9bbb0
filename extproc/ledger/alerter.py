"""Sends alerts to webhooks, and looks for what is wrong, in a thread of the process that writes the ledger.

Messages about budgets come with the rows of the calls that tell of them, in the same transaction; the others are made
here. Of all processes one sends at a time. A message that was sent and not noted, as its sender was killed, is sent
again, under the same id; so is one whose answer was lost.
"""

import logging
import random
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Literal

from extproc.ledger import messages, signs, webhooks
from extproc.ledger.signs import Bound
from extproc.stores.alerts import AlertRow, AlertStore, Sign
from extproc.stores.ports import StoreUnavailable

log = logging.getLogger(__name__)

_STEP_S = 1.0
_LOOK_S = 15.0  # between two looks at what calls and attempts come to, at most, or whether nobody else sends
_TURN_S = 60.0
_PAUSES_S = (5.0, 600.0)  # before a second try, and the most before any
_GIVE_UP = timedelta(days=1)
_KEPT = timedelta(days=90)
_APART = 3  # alerts of one kind that are a message each; of more one message tells
_TOGETHER = 100  # alerts in one message
_A_MINUTE = 5  # messages of one kind for one webhook: limits by key pass their thresholds by hundreds

Told = Callable[[str, str], None]
"""Is told the name of a webhook, and what became of a message: sent, failed or given_up."""


@dataclass(frozen=True, slots=True)
class Webhook:
    """`url`: reads the secret; None: it is not there."""

    kinds: frozenset[str]
    form: Literal["slack", "json"]
    url: Callable[[], str | None]
    plain_http: bool = False

    def post(self, *rows: AlertRow) -> webhooks.Answer:
        """Alerts of one kind in one message. Blocks for some seconds at most."""
        url = self.url()
        if url is None:
            return webhooks.Answer("no_url")
        body = messages.slack(rows) if self.form == "slack" else messages.facts(rows)
        return webhooks.post(url, body, messages.id_of(rows), self.plain_http)


@dataclass(frozen=True, slots=True)
class Rules:
    """When something is wrong. `lag`: seconds. `again`: when it is told again, while it is."""

    backends: Bound
    errors: Bound
    lag: float
    again: timedelta


class Alerter:
    """`run` blocks: give it a thread. `lag`: for how many seconds the oldest event has been waiting for the ledger."""

    def __init__(
        self,
        store: AlertStore,
        hooks: Mapping[str, Webhook],
        rules: Rules,
        lag: Callable[[], float],
        told: Told,
    ) -> None:
        self._store = store
        self._hooks = hooks
        self._kinds = {name: hook.kinds for name, hook in hooks.items()}
        self._rules = rules
        self._lag = lag
        self._told = told
        self._stopping = threading.Event()
        self._look_at = 0.0  # of the monotonic clock
        self._look_s = min(_LOOK_S, rules.backends.within.total_seconds() / 4, rules.errors.within.total_seconds() / 4)
        self._rests: dict[str, datetime] = {}  # until when a webhook that failed is left alone
        self._missed: dict[str, int] = {}  # how often it failed since it last took something
        self._posted: dict[tuple[str, str], list[datetime]] = {}  # within the last minute, by webhook and kind
        self._said: datetime | None = None  # when it was told, without a database, that there is none

    def stop(self) -> None:
        self._stopping.set()

    def run(self) -> None:
        while not self._stopping.is_set():
            pause = _STEP_S
            try:
                pause = self._turn()
            except StoreUnavailable:
                self._say(_now())
            except Exception as error:  # whatever it is: it may not end what runs beside
                log.error("alerts cannot be sent: %s", type(error).__name__)
            self._stopping.wait(pause)

    def _turn(self) -> float:
        """Send for a while, unless another process does; for how long to wait then. Raises StoreUnavailable.

        The turn ends, for whoever holds it could have lost it without a word.
        """
        self._look_at_lag(_now())
        with self._store.alone() as is_alone:
            end = time.monotonic() + _TURN_S
            while is_alone and time.monotonic() < end and not self._stopping.is_set():
                self.step(_now())
                self._stopping.wait(_STEP_S)
        return 0.0 if is_alone else _LOOK_S

    def step(self, now: datetime) -> None:
        """Send what is due at this time (UTC), and look for more now and then. Raises StoreUnavailable."""
        if time.monotonic() >= self._look_at:
            self._look_at = time.monotonic() + self._look_s
            self._look_at_lag(now)
            self._look(now)
        for webhook, kind in self._store.waiting(now):
            if self._stopping.is_set():
                return
            if self._is_open(webhook, kind, now):
                self._deal_with(self._store.due(now, webhook, kind, _TOGETHER), now)

    def _is_open(self, webhook: str, kind: str, now: datetime) -> bool:
        """Whether it is well, and did not get many of them just now."""
        posted = [moment for moment in self._posted.get((webhook, kind), ()) if moment > now - timedelta(minutes=1)]
        self._posted[webhook, kind] = posted
        return self._rests.get(webhook, now) <= now and len(posted) < _A_MINUTE

    def _look_at_lag(self, now: datetime) -> None:
        """Of the bus of this process: another may have another."""
        self._add(signs.of_lag(self._lag(), self._rules.lag, now, self._rules.again), now)

    def _look(self, now: datetime) -> None:
        rules = self._rules
        found = signs.of_backends(
            self._store.attempts(now - rules.backends.within), rules.backends, now, rules.again
        ) + signs.of_errors(self._store.calls(now - rules.errors.within), rules.errors, now, rules.again)
        self._add(found, now)
        self._store.let_go(now - _KEPT)

    def _add(self, found: Sequence[Sign], now: datetime) -> None:
        since = now - self._rules.again
        news = [sign for sign in found if not self._store.was_told(sign.kind, sign.subject, since)]
        if news:
            self._store.add(signs.rows(news, self._kinds, now))

    def _deal_with(self, rows: Sequence[AlertRow], now: datetime) -> None:
        """Some of one kind, for one webhook."""
        fresh = [row for row in rows if not self._gives_up(row, now)]
        hook = self._hooks.get(fresh[0].webhook) if fresh else None
        if hook is None:
            return
        for together in [fresh] if len(fresh) > _APART else [[row] for row in fresh]:
            if self._is_open(together[0].webhook, together[0].kind, now):
                self._send(together, hook, now)

    def _gives_up(self, row: AlertRow, now: datetime) -> bool:
        is_known = row.webhook in self._hooks
        if is_known and not _is_over(row, now):
            return False
        row.due_at = None
        row.outcome = row.outcome or ("too_late" if is_known else "no_webhook")
        self._store.note([row])
        self._told(row.webhook, "given_up")
        log.warning("an alert for the webhook %s is given up: %s", row.webhook, row.outcome)
        return True

    def _send(self, rows: Sequence[AlertRow], hook: Webhook, now: datetime) -> None:
        answer, name = hook.post(*rows), rows[0].webhook
        self._posted.setdefault((name, rows[0].kind), []).append(now)
        tries = max(row.tries for row in rows) + 1
        self._missed[name] = 0 if answer.is_taken else max(tries, self._missed.get(name, 0) + 1)
        if not answer.is_taken:
            self._rests[name] = now + _pause(self._missed[name], answer.pause)
            log.warning("an alert waits for the webhook %s: %s", name, answer.outcome)
        for row in rows:
            row.tries, row.outcome = row.tries + 1, answer.outcome
            row.sent_at, row.due_at = (now, None) if answer.is_taken else (None, self._rests[name])
        self._store.note(rows)
        for _ in rows:
            self._told(name, "sent" if answer.is_taken else "failed")

    def _say(self, now: datetime) -> None:
        """Without a database nothing can wait: that the ledger does is told at once."""
        found = signs.of_lag(self._lag(), self._rules.lag, now, self._rules.again)
        if not found or time.monotonic() < self._look_at:
            return
        if self._said is not None and now - self._said < self._rules.again:
            return
        self._look_at = time.monotonic() + self._look_s
        taken = [self._hooks[row.webhook].post(row).is_taken for row in signs.rows(found, self._kinds, now)]
        if any(taken):
            self._said = now


def _now() -> datetime:
    return datetime.now(UTC).replace(tzinfo=None)


def _is_over(row: AlertRow, now: datetime) -> bool:
    return row.created_at + _GIVE_UP <= now or (row.ends_at is not None and row.ends_at <= now)


def _pause(tries: int, asked: float) -> timedelta:
    """Longer each time, and never shorter than the other side asks for."""
    first, most = _PAUSES_S
    own = min(most, first * 2 ** min(tries - 1, 20)) * random.uniform(0.75, 1.25)  # noqa: S311 - no secret
    return timedelta(seconds=max(own, asked))
