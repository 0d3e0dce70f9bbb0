"""Alerts in both databases, and who sends them: each once, or again under its id where nobody can know better."""

import itertools
import json
import logging
import os
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from extproc.ledger.alerter import Alerter, Rules, Webhook
from extproc.ledger.consumer import Consumer
from extproc.ledger.signs import Bound
from extproc.stores import sql
from extproc.stores.alerts import AlertRow, AlertStore
from extproc.stores.ledger import Event
from extproc.stores.ports import StoreUnavailable
from tests.support.gateway import until
from tests.support.ledger import AT, attempts, call, ledger_on
from tests.support.webhook import FakeWebhook, status

NOW = datetime(2026, 1, 31, 12, 0, 30)
SECOND, DAY = timedelta(seconds=1), timedelta(days=1)
ALL = frozenset({"budgets", "backends", "errors", "ledger"})
RULES = Rules(
    Bound(0.5, 4, timedelta(minutes=5)), Bound(0.5, 4, timedelta(minutes=5)), lag=60, again=timedelta(hours=1)
)
PASSED: dict[str, Any] = {
    "key": "money/abc",
    "window": AT // 1000 - 86_400,
    "until": 4_000_000_000,
    "limit": "monthly",
    "measure": "requests",
    "amount": 10,
    "used": 8,
    "percent": 80,
}


@pytest.fixture(params=["sqlite", "postgresql"])
def stores(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[sql.Stores]:
    with ledger_on(request.param, tmp_path) as made:
        yield made


@pytest.fixture
def lite(tmp_path: Path) -> Iterator[sql.Stores]:
    """Of SQLite alone: for what does not depend on the database."""
    with ledger_on("sqlite", tmp_path) as made:
        yield made


@pytest.fixture
def hook() -> Iterator[FakeWebhook]:
    with FakeWebhook() as made:
        yield made


class Queue:
    """A usage bus of the events that are put onto it; what was taken and is not done comes again."""

    name = "queue"

    def __init__(self, *events: Event) -> None:
        self.events = list(events)

    def take(self, most: int) -> Sequence[Event]:
        return self.events[:most]

    def done(self, events: Sequence[Event]) -> None:
        del self.events[: len(events)]

    def again(self) -> None: ...
    def close(self) -> None: ...
    def finish(self) -> None: ...
    def lag(self) -> float:
        return 0.0

    @property
    def is_alone(self) -> bool:
        return True

    def left(self) -> tuple[int, str]:
        return len(self.events), "memory"


def consume(stores: sql.Stores, *events: Event, webhooks: tuple[str, ...] = ("people",)) -> None:
    Consumer(Queue(*events), stores.ledger, webhooks=dict.fromkeys(webhooks, ALL)).step()


def webhook(fake: FakeWebhook, kinds: frozenset[str] = ALL) -> Webhook:
    return Webhook(kinds, "json", lambda: fake.url)


class Told(Counter[tuple[str, str]]):
    def __call__(self, name: str, result: str) -> None:
        self[name, result] += 1


def alerter(store: AlertStore, told: Told | None = None, lag: float = 0.0, **hooks: Webhook) -> Alerter:
    return Alerter(store, hooks, RULES, lambda: lag, Told() if told is None else told)


def waiting(name: str, due: datetime, **more: Any) -> AlertRow:
    facts = {"webhook": "people", "kind": "budgets", "subject": "monthly", **more}
    return AlertRow(id=name, created_at=due, due_at=due, **facts)


def rows(stores: sql.Stores) -> list[AlertRow]:
    return list(stores.alerts.recent(100))


# ---- budgets: with the rows of the calls -------------------------------------------------------------


def test_a_threshold_is_told_once_whoever_passes_it_and_however_often_it_is_read(stores: sql.Stores) -> None:
    consume(stores, call("w.1", passed=[PASSED]), call("w.2", passed=[{**PASSED, "used": 9}]))
    consume(stores, call("w.1", passed=[PASSED]), call("w.3", passed=[PASSED, {**PASSED, "percent": 90}]))
    assert sorted((row.webhook, row.facts.count('"percent":80')) for row in rows(stores)) == [
        ("people", 0),
        ("people", 1),
    ]
    assert {row.sent_at for row in rows(stores)} == {None}


def test_each_webhook_has_its_own(lite: sql.Stores) -> None:
    consume(lite, call(passed=[PASSED]), webhooks=("one", "two"))
    assert sorted(row.webhook for row in rows(lite)) == ["one", "two"]
    assert len({row.id for row in rows(lite)}) == 1


def test_without_a_webhook_nothing_is_kept(lite: sql.Stores) -> None:
    consume(lite, call(passed=[PASSED]), webhooks=())
    assert rows(lite) == []


def test_what_is_not_written_is_not_told(stores: sql.Stores) -> None:
    """In one transaction with the rows: both, or none of them."""
    with stores.engine.begin() as connection:
        connection.exec_driver_sql("DROP TABLE odd_events")
    with pytest.raises(StoreUnavailable):
        consume(stores, call(passed=[PASSED], cost="odd"))
    assert rows(stores) == []


def test_two_consumers_at_once_tell_it_once(stores: sql.Stores) -> None:
    with ThreadPoolExecutor(4) as pool:
        jobs = [pool.submit(consume, stores, call(f"w.{number}", passed=[PASSED])) for number in range(8)]
    assert [job.exception() for job in jobs] == [None] * 8
    assert len(rows(stores)) == 1


# ---- what is found in the ledger ----------------------------------------------------------------------


def test_a_backend_that_fails_is_told_and_not_again_before_long(stores: sql.Stores, hook: FakeWebhook) -> None:
    bad = [{"backend": "swe", "status": code} for code in (0, 429, 503)]
    fine = [{"backend": name, "status": 200} for name in ("swe", "fra", "fra", "fra", "fra")]
    consume(stores, attempts("a.1", *bad, *fine))
    sender = alerter(stores.alerts, people=webhook(hook))
    sender.step(NOW)
    assert [message.body["subject"] for message in hook.got] == ["swe"]
    assert hook.got[0].body["facts"] == {"all": 4, "bad": 3, "within": 300}
    alerter(stores.alerts, people=webhook(hook)).step(NOW + 30 * SECOND)
    assert len(hook.got) == 1


def test_old_attempts_count_no_more(lite: sql.Stores, hook: FakeWebhook) -> None:
    consume(lite, attempts("a.1", *[{"backend": "swe", "status": 500}] * 9))
    alerter(lite.alerts, people=webhook(hook)).step(NOW + timedelta(minutes=6))
    assert hook.got == []


def test_errors_are_told_and_what_callers_do_wrong_is_not(stores: sql.Stores, hook: FakeWebhook) -> None:
    consume(stores, *[call(f"w.{number}", status=400 + number) for number in range(4)])
    sender = alerter(stores.alerts, people=webhook(hook))
    sender.step(NOW)
    assert hook.got == []
    consume(stores, *[call(f"v.{number}", status=500 + number) for number in range(4)])
    alerter(stores.alerts, people=webhook(hook)).step(NOW)
    assert [message.body["facts"] for message in hook.got] == [{"all": 8, "bad": 4, "within": 300}]


def test_a_ledger_that_is_behind_is_told(lite: sql.Stores, hook: FakeWebhook) -> None:
    alerter(lite.alerts, lag=61, people=webhook(hook)).step(NOW)
    assert [message.body["facts"] for message in hook.got] == [{"seconds": 61}]
    alerter(lite.alerts, lag=62, people=webhook(hook)).step(NOW + SECOND)
    assert len(hook.got) == 1


# ---- sending ----------------------------------------------------------------------------------------------


def test_what_is_sent_is_noted_and_never_sent_again(stores: sql.Stores, hook: FakeWebhook) -> None:
    consume(stores, call(passed=[PASSED]))
    told = Told()
    sender = alerter(stores.alerts, told, people=webhook(hook))
    for second in range(3):
        sender.step(rows(stores)[0].created_at + second * SECOND)
    assert len(hook.got) == 1
    (row,) = rows(stores)
    assert (row.tries, row.outcome, row.due_at, row.sent_at is not None) == (1, "status_200", None, True)
    assert told == {("people", "sent"): 1}


@pytest.mark.parametrize("answer", [status(500), status(404), b""])
def test_what_fails_is_tried_again_later_and_later(lite: sql.Stores, hook: FakeWebhook, answer: bytes) -> None:
    consume(lite, call(passed=[PASSED]))
    hook.script = [answer] * 4
    now, waits = rows(lite)[0].created_at, []
    sender = alerter(lite.alerts, people=webhook(hook))
    for tries in range(1, 5):
        sender.step(now)
        assert len(hook.got) == tries
        (row,) = rows(lite)
        assert row.due_at is not None
        waits.append(row.due_at - now)
        sender.step(row.due_at - SECOND)
        assert len(hook.got) == tries, "too early"
        now = row.due_at
    assert all(later > sooner * 1.1 for sooner, later in itertools.pairwise(waits))
    sender.step(now)
    assert rows(lite)[0].sent_at == now
    assert len({message.body["id"] for message in hook.got}) == 1


def test_one_that_asks_for_time_gets_it(lite: sql.Stores, hook: FakeWebhook) -> None:
    consume(lite, call(passed=[PASSED]))
    hook.script = [status(429, retry_after="120")]
    now = rows(lite)[0].created_at
    alerter(lite.alerts, people=webhook(hook)).step(now)
    assert rows(lite)[0].due_at == now + timedelta(seconds=120)


def test_while_one_rests_its_other_messages_wait_and_those_of_others_go(lite: sql.Stores, hook: FakeWebhook) -> None:
    consume(lite, call(passed=[PASSED, {**PASSED, "percent": 90}]), webhooks=("bad", "good"))
    with FakeWebhook() as bad:
        bad.script = [status(500)] * 9
        now = rows(lite)[0].created_at
        alerter(lite.alerts, bad=webhook(bad), good=webhook(hook)).step(now)
        assert len(bad.got) == 1
    assert len(hook.got) == 2


def test_hundreds_for_a_dead_one_keep_nobody_else_waiting(stores: sql.Stores, hook: FakeWebhook) -> None:
    """And the dead one is asked ever less often, however many wait."""
    now = NOW
    stores.alerts.add([waiting(f"{number:04}", now, webhook="dead") for number in range(200)])
    stores.alerts.add([waiting("good", now + SECOND, webhook="good")])
    with FakeWebhook() as dead:
        dead.script = [status(500)] * 1_000
        sender = alerter(stores.alerts, dead=webhook(dead), good=webhook(hook))
        for second in range(1, 61):
            sender.step(now + second * SECOND)
            assert len(hook.got) == 1
        assert 2 <= len(dead.got) <= 5


def test_many_of_a_kind_are_told_in_one_message_each(stores: sql.Stores, hook: FakeWebhook) -> None:
    stores.alerts.add([waiting(f"{number:04}", NOW) for number in range(130)])
    stores.alerts.add([waiting("other", NOW, kind="ledger", facts='{"seconds": 90}')])
    told = Told()
    sender = alerter(stores.alerts, told, people=webhook(hook))
    sender.step(NOW)
    sender.step(NOW + SECOND)
    by_kind = Counter((message.body["kind"], len(message.body.get("others", ()))) for message in hook.got)
    assert by_kind == {("budgets", 99): 1, ("budgets", 29): 1, ("ledger", 0): 1}
    assert told == {("people", "sent"): 131}
    assert not stores.alerts.waiting(NOW + DAY)


def test_a_trickle_is_a_few_messages_a_minute(lite: sql.Stores, hook: FakeWebhook) -> None:
    sender = alerter(lite.alerts, people=webhook(hook))
    for second in range(120):
        lite.alerts.add([waiting(f"{second:04}", NOW + second * SECOND)])
        sender.step(NOW + second * SECOND)
    assert len(hook.got) == 10
    assert sum(1 + len(message.body.get("others", ())) for message in hook.got) > 60


def test_one_that_rests_for_longer_than_it_is_repeated_gets_it(lite: sql.Stores, hook: FakeWebhook) -> None:
    hook.script = [status(500)]
    rules = replace(RULES, again=timedelta(seconds=2))
    sender = Alerter(lite.alerts, {"people": webhook(hook)}, rules, lambda: 61.0, Told())
    sender.step(NOW)
    sender.step(NOW + timedelta(minutes=20))
    assert [message.body["facts"]["seconds"] for message in hook.got] == [61, 61]
    assert {row.outcome for row in rows(lite)} == {"status_200"}


def test_after_a_day_it_is_given_up(lite: sql.Stores, hook: FakeWebhook, caplog: pytest.LogCaptureFixture) -> None:
    consume(lite, call(passed=[PASSED]))
    now, told = rows(lite)[0].created_at, Told()
    hook.script = [status(500)]
    sender = alerter(lite.alerts, told, people=webhook(hook))
    sender.step(now)
    sender.step(now + DAY)
    sender.step(now + DAY + SECOND)
    assert told == {("people", "failed"): 1, ("people", "given_up"): 1}
    (row,) = rows(lite)
    assert (row.due_at, row.sent_at, row.outcome) == (None, None, "status_500")
    assert hook.url not in caplog.text


def test_what_is_over_is_not_told_any_more(lite: sql.Stores, hook: FakeWebhook) -> None:
    consume(lite, call(passed=[PASSED]))
    (row,) = rows(lite)
    lite.alerts.add([replace(row, id="short", ends_at=row.created_at + SECOND)])
    alerter(lite.alerts, people=webhook(hook)).step(row.created_at + 2 * SECOND)
    assert [message.body["id"] for message in hook.got] == [row.id]


def test_a_webhook_that_is_configured_no_more_holds_up_nobody(lite: sql.Stores, hook: FakeWebhook) -> None:
    consume(lite, call(passed=[PASSED]), webhooks=("gone", "people"))
    sender = alerter(lite.alerts, people=webhook(hook))
    sender.step(rows(lite)[0].created_at)
    assert len(hook.got) == 1
    assert {row.webhook: row.outcome for row in rows(lite)} == {"gone": "no_webhook", "people": "status_200"}


def test_a_secret_that_is_not_there_is_waited_for(lite: sql.Stores, hook: FakeWebhook) -> None:
    consume(lite, call(passed=[PASSED]))
    url: list[str] = []
    late = Webhook(ALL, "slack", lambda: url[0] if url else None)
    sender, now = alerter(lite.alerts, people=late), rows(lite)[0].created_at
    sender.step(now)
    assert rows(lite)[0].outcome == "no_url"
    url.append(hook.url)
    sender.step(now + timedelta(minutes=1))
    assert hook.texts() == ["Budget monthly has passed 80 % (8 of 10 requests, until 2096-10-02T07:06:40Z)."]


class Forgetful:
    """A store that fails at one of its methods, as where the database goes away there."""

    def __init__(self, store: AlertStore, name: str) -> None:
        self._store = store
        self.name = name
        self.failed = 0

    def __getattr__(self, name: str) -> Any:
        if name == self.name:
            self.failed += 1
            raise StoreUnavailable("gone")
        return getattr(self._store, name)


def test_one_whose_note_is_lost_is_sent_again_under_the_same_id(lite: sql.Stores, hook: FakeWebhook) -> None:
    consume(lite, call(passed=[PASSED]))
    now = rows(lite)[0].created_at
    with pytest.raises(StoreUnavailable):
        alerter(Forgetful(lite.alerts, "note"), people=webhook(hook)).step(now)
    alerter(lite.alerts, people=webhook(hook)).step(now)
    assert len(hook.got) == 2
    assert len({message.body["id"] for message in hook.got}) == 1
    assert rows(lite)[0].sent_at == now


def test_of_many_processes_one_sends(stores: sql.Stores, hook: FakeWebhook) -> None:
    """Two that look at once: the other one finds that it is not alone, while a message is on its way."""
    consume(stores, call(passed=[PASSED]))
    first, second = (alerter(stores.alerts, people=webhook(hook)) for _ in range(2))

    def meanwhile() -> None:
        assert second._turn() > 0

    hook.met = meanwhile
    with stores.alerts.alone() as is_alone:
        assert is_alone
        meanwhile()
        first.step(rows(stores)[0].created_at)
    assert len(hook.got) == 1


def test_without_a_database_that_the_ledger_waits_is_told_once(
    lite: sql.Stores, hook: FakeWebhook, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING)
    away = Forgetful(lite.alerts, "was_told")
    alerter(away, lag=10, people=webhook(hook))._say(NOW)
    assert hook.got == []
    sender = alerter(away, lag=90, people=webhook(hook))
    sender._say(NOW)
    sender._look_at = 0.0
    sender._say(NOW + SECOND)
    assert [message.body["kind"] for message in hook.got] == ["ledger"]
    sender._look_at = 0.0
    sender._say(NOW + timedelta(hours=1))
    assert len(hook.got) == 2


def test_a_database_that_comes_back_finds_it_alive(lite: sql.Stores, hook: FakeWebhook) -> None:
    consume(lite, call(passed=[PASSED]))
    away = Forgetful(lite.alerts, "alone")
    sender = alerter(away, people=webhook(hook))
    with ThreadPoolExecutor(1) as pool:
        running = pool.submit(sender.run)
        until(lambda: away.failed)
        away.name = ""
        hook.wait(1)
        sender.stop()
        assert running.result(20) is None


def test_one_that_is_killed_before_it_can_note_sends_it_again_under_the_same_id(
    lite: sql.Stores, hook: FakeWebhook, tmp_path: Path
) -> None:
    consume(lite, call(passed=[PASSED]))
    config = tmp_path / "gateway.yaml"
    target = {"backends": {"a": {"dialect": "openai", "url": "http://127.0.0.1:1"}}, "state_dir": str(tmp_path / "var")}
    alerts = {"webhooks": {"people": {"url": {"env": "PEOPLE_URL"}, "format": "json"}}}
    models = {"m": {"targets": [[{"backend": "a"}]]}}
    database = {"database": f"sqlite:///{tmp_path}/ledger.db"}
    config.write_text(json.dumps({**target, "models": models, "stores": database, "telemetry": {"alerts": alerts}}))
    command = [sys.executable, "-m", "extproc.cli", "ledger", "run", "--config", str(config)]
    environ = {**os.environ, "PEOPLE_URL": hook.url}
    with subprocess.Popen(command, env=environ) as first:
        hook.met = first.kill
        hook.wait(1)
    hook.met = lambda: None
    with subprocess.Popen(command, env=environ) as second:
        until(lambda: rows(lite)[0].sent_at, what="the note")
        second.terminate()
    assert [message.body["id"] for message in hook.got] == [rows(lite)[0].id] * 2


def test_old_ones_are_let_go_of(stores: sql.Stores, hook: FakeWebhook) -> None:
    consume(stores, call(passed=[PASSED]))
    now = rows(stores)[0].created_at
    alerter(stores.alerts, people=webhook(hook)).step(now + timedelta(days=91))
    assert rows(stores) == []


def test_a_store_that_is_away_says_so(tmp_path: Path) -> None:
    with closing(sql.open_stores(f"sqlite:///{tmp_path}/none.db")) as stores, pytest.raises(StoreUnavailable):
        stores.alerts.waiting(NOW)
