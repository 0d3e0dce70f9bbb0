"""What the ledger lets go of, in both databases: rows and names go, sums of calls and money stay as they were."""

from collections.abc import Iterator
from datetime import date, datetime, timedelta
from pathlib import Path
from threading import Thread
from typing import Any

import orjson
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import text

from extproc.ledger.events import read
from extproc.ledger.retention import Retention
from extproc.stores import sql
from extproc.stores.ledger import Event, Question, Sum
from extproc.stores.ports import StoreUnavailable
from extproc.stores.retention import Erased, Kept
from tests.support.gateway import until
from tests.support.ledger import AT, attempts, breaks, call, event, ledger_on

NOON = datetime(2026, 1, 31, 12)
"""The moment AT."""
ANN = "ann@example.com"


@pytest.fixture(params=["sqlite", "postgresql"])
def stores(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[sql.Stores]:
    with ledger_on(request.param, tmp_path) as made:
        yield made


def write(stores: sql.Stores, *events: Event) -> None:
    stores.ledger.write(read(events, "USD"))


def days_ago(days: float, name: str, **more: Any) -> Event:
    return call(name, time=AT / 1000 - days * 86_400, **more)


def asked(stores: sql.Stores, *by: str, zone: str = "UTC") -> list[Sum]:
    return list(stores.ledger.usage(Question(date(2025, 1, 1), date(2026, 2, 28), zone, by)))


def let_go(stores: sql.Stores, what: Kept, before: datetime) -> int:
    return sum(stores.retention.let_go(what, before))


def names(stores: sql.Stores, statement: str) -> list[Any]:
    with stores.engine.connect() as connection:
        return [row[0] for row in connection.execute(text(statement))]


class TestCalls:
    def test_go_and_their_sums_stay(self, stores: sql.Stores) -> None:
        write(stores, days_ago(40, "w.1"), days_ago(20, "w.2"), days_ago(0, "w.3"))
        before = asked(stores, "team", "day")
        assert let_go(stores, Kept.CALLS, NOON - timedelta(days=10)) == 2
        assert names(stores, "SELECT id FROM calls") == ["w.3"]
        assert asked(stores, "team", "day") == before

    def test_to_the_moment(self, stores: sql.Stores) -> None:
        write(stores, days_ago(10, "w.1"), days_ago(10.001, "w.2"))
        assert let_go(stores, Kept.CALLS, NOON - timedelta(days=10)) == 1
        assert names(stores, "SELECT id FROM calls") == ["w.1"]

    def test_again_goes_on_where_it_was(self, stores: sql.Stores) -> None:
        write(stores, days_ago(20, "w.1"), days_ago(10, "w.2"))
        assert let_go(stores, Kept.CALLS, NOON - timedelta(days=15)) == 1
        assert let_go(stores, Kept.CALLS, NOON - timedelta(days=15)) == 0
        assert let_go(stores, Kept.CALLS, NOON - timedelta(days=5)) == 1

    def test_sums_of_days_that_are_gone_outlive_a_rebuild(self, stores: sql.Stores) -> None:
        write(stores, days_ago(20, "w.1"), days_ago(0, "w.2"))
        before = asked(stores, "day", "user")
        let_go(stores, Kept.CALLS, NOON - timedelta(days=10))
        stores.ledger.rebuild("UTC")
        assert asked(stores, "day", "user") == before

    def test_and_a_stop_in_the_middle_loses_nothing(self, stores: sql.Stores) -> None:
        write(stores, days_ago(20, "w.1"), days_ago(10, "w.2"))
        going = stores.retention.let_go(Kept.CALLS, NOON)
        assert next(rows for rows in going if rows) == 1
        going.close()  # type: ignore[attr-defined] # it is a generator
        assert let_go(stores, Kept.CALLS, NOON) == 1
        assert names(stores, "SELECT id FROM calls") == []

    def test_what_comes_late_goes_too(self, stores: sql.Stores) -> None:
        write(stores, days_ago(20, "w.1"))
        assert let_go(stores, Kept.CALLS, NOON - timedelta(days=10)) == 1
        long_ago = call("w.3", time=946_700_000)  # of the year 2000: a clock that was never set
        write(stores, days_ago(15, "w.2"), long_ago)
        assert let_go(stores, Kept.CALLS, NOON - timedelta(days=10)) == 2

    def test_times_without_calls_take_none(self, stores: sql.Stores) -> None:
        write(stores, call("w.1", time=946_700_000), days_ago(20, "w.2"))
        assert len(list(stores.retention.let_go(Kept.CALLS, NOON))) < 5

    def test_nothing_is_nothing(self, stores: sql.Stores) -> None:
        assert [let_go(stores, what, NOON) for what in Kept] == [0] * len(Kept)


def test_attempts_and_breaks_go_by_when_they_began(stores: sql.Stores) -> None:
    old = AT / 1000 - 86_400
    write(stores, attempts("a.1", {"time": old}), attempts("a.2", {}), breaks("b.1", {"time": old, "left": "client"}))
    assert let_go(stores, Kept.ATTEMPTS, NOON - timedelta(hours=12)) == 2
    assert names(stores, "SELECT event FROM attempts") == ["a.2"]
    assert names(stores, "SELECT event FROM breaks") == []


def test_odd_events_go_by_when_they_came(stores: sql.Stores) -> None:
    write(stores, event({"id": "x"}, AT - 86_400_000), event({"id": "y"}, AT))
    assert let_go(stores, Kept.ODD, NOON - timedelta(hours=12)) == 1


def test_sums_go_by_day(stores: sql.Stores) -> None:
    write(stores, days_ago(20, "w.1"), days_ago(0, "w.2"))
    assert let_go(stores, Kept.SUMS, NOON - timedelta(days=10)) == 2
    assert [one.values for one in asked(stores, "day")] == [("2026-01-31",)]


class TestPeople:
    def test_are_forgotten_in_rows_and_sums(self, stores: sql.Stores) -> None:
        facts = {"session": "s-1", "caller_tags": {"repository": "shop"}}
        write(stores, days_ago(20, "w.1", **facts), days_ago(20, "w.2", user="bob"), days_ago(0, "w.3", **facts))
        before = asked(stores, "team", "day")
        assert let_go(stores, Kept.PEOPLE, NOON - timedelta(days=10)) >= 2
        assert names(stores, "SELECT user_name FROM calls ORDER BY id") == ["", "", ANN]
        assert names(stores, "SELECT session_id FROM calls ORDER BY id") == [None, None, "s-1"]
        assert names(stores, "SELECT tags IS NULL FROM calls ORDER BY id") == [True, True, False]
        assert names(stores, "SELECT user_name FROM usage_callers ORDER BY day") == ["", ANN]
        assert names(stores, "SELECT key_id FROM calls ORDER BY id") == ["", "", "key_1"]
        assert asked(stores, "team", "day") == before

    def test_a_session_of_nobody_leaves_its_key(self, stores: sql.Stores) -> None:
        write(stores, days_ago(20, "w.1", user=None, session="s-1"))
        let_go(stores, Kept.PEOPLE, NOON - timedelta(days=10))
        assert names(stores, "SELECT session_id FROM calls") == [None]
        assert names(stores, "SELECT key_id FROM calls") == ["key_1"]

    def test_who_comes_late_is_forgotten_too(self, stores: sql.Stores) -> None:
        let_go(stores, Kept.PEOPLE, NOON - timedelta(days=10))
        write(stores, days_ago(20, "w.1"))
        let_go(stores, Kept.PEOPLE, NOON - timedelta(days=10))
        write(stores, days_ago(30, "w.2"))
        let_go(stores, Kept.PEOPLE, NOON - timedelta(days=10))
        assert names(stores, "SELECT user_name FROM calls") == ["", ""]

    def test_also_where_the_rows_are_gone(self, stores: sql.Stores) -> None:
        write(stores, days_ago(20, "w.1"), days_ago(20, "w.2", user="bob"))
        let_go(stores, Kept.CALLS, NOON - timedelta(days=10))
        before = asked(stores, "team", "day")
        let_go(stores, Kept.PEOPLE, NOON - timedelta(days=5))
        assert names(stores, "SELECT user_name FROM usage_callers") == [""]
        assert asked(stores, "team", "day") == before


class TestErasure:
    def test_takes_the_user_out_of_everything(self, stores: sql.Stores) -> None:
        odd = event({"id": "x", "kind": "other", "user": ANN})
        write(stores, days_ago(20, "w.1"), days_ago(0, "w.2"), days_ago(0, "w.3", user="bob"), odd)
        before = asked(stores, "team", "model", "day")
        assert stores.retention.named(ANN) == Erased(2, 2, 1)
        assert stores.retention.erase(ANN, NOON + timedelta(seconds=1)) == Erased(2, 2, 1)
        assert stores.retention.named(ANN) == Erased()
        assert sorted(names(stores, "SELECT user_name FROM calls")) == ["bob", "erased", "erased"]
        assert asked(stores, "team", "model", "day") == before

    def test_and_out_of_sums_whose_rows_are_gone(self, stores: sql.Stores) -> None:
        write(stores, days_ago(20, "w.1"), days_ago(20, "w.2", user="bob"))
        let_go(stores, Kept.CALLS, NOON)
        stores.retention.erase(ANN, NOON)
        assert [one.values for one in asked(stores, "user")] == [("bob",), ("erased",)]

    def test_and_out_of_what_is_told_later_of_before(self, stores: sql.Stores) -> None:
        stores.retention.erase(ANN, NOON)
        write(stores, days_ago(1, "w.1"), days_ago(-1, "w.2"), days_ago(1, "w.3", user="bob"))
        assert names(stores, "SELECT user_name FROM calls ORDER BY id") == ["erased", ANN, "bob"]
        assert [one.values for one in asked(stores, "user")] == [(ANN,), ("bob",), ("erased",)]

    def test_what_is_kept_for_that_does_not_name_anybody(self, stores: sql.Stores) -> None:
        stores.retention.erase(ANN, NOON)
        with stores.engine.connect() as connection:
            kept = connection.execute(text("SELECT salt, digest FROM erasures")).one()
        assert all(ANN not in part and len(part) >= 32 for part in kept)
        stores.retention.erase("bob", NOON + timedelta(days=40))
        assert len(names(stores, "SELECT salt FROM erasures")) == 1

    def test_and_out_of_what_names_the_user_elsewhere(self, stores: sql.Stores) -> None:
        write(stores, days_ago(1, "w.1", booked=[["money/4d1c", "spent", 5, 1, 2, 0]]))
        stores.retention.erase(ANN, NOON)
        columns = "key_id, key_name, booked"
        assert names(stores, f"SELECT {columns.replace(', ', ' || ')} FROM calls") == [None]
        assert names(stores, "SELECT key_id || key_name FROM calls") == [""]
        assert names(stores, "SELECT key_id FROM usage_callers") == [""]

    @pytest.mark.parametrize("user", ["ann", "CORP\\ann", 'o"hara@x', "jörg@example.com"])
    def test_odd_events_are_those_of_the_user_and_of_nobody_else(self, stores: sql.Stores, user: str) -> None:
        inside = orjson.dumps({"user": user}).decode()
        own = [{"id": "x", "user": user}, {"id": "y", "note": inside}]
        others = [{"id": "z", "team": "annual"}, {"id": "v", "user": "joann"}]
        write(stores, *(event(one) for one in (*own, *others)))
        assert stores.retention.erase(user, NOON).odd == 2
        assert len(names(stores, "SELECT digest FROM odd_events")) == 2

    def test_who_has_the_name_of_the_erased_is_nobody(self, stores: sql.Stores) -> None:
        write(stores, days_ago(1, "w.1", user="erased"))
        assert stores.retention.erase("erased", NOON) == Erased()

    def test_nobody_is_erased_twice(self, stores: sql.Stores) -> None:
        write(stores, days_ago(1, "w.1"))
        stores.retention.erase(ANN, NOON)
        assert stores.retention.erase(ANN, NOON) == Erased()


CALLS = st.lists(
    st.tuples(st.integers(0, 9), st.sampled_from(["", "ann", "bob"]), st.sampled_from(["a", "b"]), st.integers(0, 99)),
    max_size=12,
)
STEPS = st.lists(st.tuples(st.sampled_from([*Kept, "ann", "bob", "rebuild"]), st.integers(0, 9)), max_size=5)


@settings(max_examples=10, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(made=CALLS, steps=STEPS)
def test_whatever_goes_in_whatever_order_the_sums_agree(
    tmp_path_factory: pytest.TempPathFactory, made: list[tuple[int, str, str, int]], steps: list[tuple[Any, int]]
) -> None:
    with ledger_on("sqlite", tmp_path_factory.mktemp("db")) as stores:
        write(
            stores,
            *(
                days_ago(ago, f"w.{n}", user=user, team=team, cost=cost)
                for n, (ago, user, team, cost) in enumerate(made)
            ),
        )
        before = asked(stores, "day", "team")
        for step, ago in steps:
            moment = NOON - timedelta(days=ago)
            if step is Kept.SUMS:
                continue
            if step == "rebuild":
                stores.ledger.rebuild("UTC")
            elif isinstance(step, Kept):
                let_go(stores, step, moment)
            else:
                stores.retention.erase(step, moment)
        assert asked(stores, "day", "team") == before
        by_users = stores.ledger.usage(Question(date(2025, 1, 1), date(2026, 2, 28), "UTC", ("team", "day", "user")))
        assert sum(one.cost for one in by_users) == sum(one.cost for one in before)


class TestSweeping:
    def test_each_kind_by_its_own_age(self, stores: sql.Stores) -> None:
        write(stores, days_ago(20, "w.1"), days_ago(10, "w.2"), days_ago(0, "w.3"), attempts("a.1", {}))
        told: list[tuple[Kept, int]] = []
        ages = {Kept.CALLS: timedelta(days=15), Kept.PEOPLE: timedelta(days=7)}
        Retention(stores.retention, stores.budgets, ages, lambda what, rows: told.append((what, rows))).sweep(NOON)
        assert names(stores, "SELECT id FROM calls ORDER BY id") == ["w.2", "w.3"]
        assert names(stores, "SELECT user_name FROM calls ORDER BY id") == ["", ANN]
        assert names(stores, "SELECT event FROM attempts") == ["a.1"]
        assert (Kept.CALLS, 1) in told

    def test_one_at_a_time(self, stores: sql.Stores) -> None:
        write(stores, days_ago(20, "w.1"))
        sweeper = Retention(stores.retention, stores.budgets, {Kept.CALLS: timedelta(days=15)})
        with stores.retention.alone() as is_alone:
            assert is_alone
            sweeper.sweep(NOON)
            assert names(stores, "SELECT id FROM calls") == ["w.1"]
        sweeper.sweep(NOON)
        assert names(stores, "SELECT id FROM calls") == []

    def test_a_database_that_is_away_is_tried_again(self, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
        with ledger_on("sqlite", tmp_path) as stores:
            sweeper = Retention(stores.retention, stores.budgets, {Kept.CALLS: timedelta(days=15)})
            (tmp_path / "ledger.db").rename(tmp_path / "away.db")
            with pytest.raises(StoreUnavailable):
                sweeper.sweep(NOON)
            running = Thread(target=sweeper.run)
            running.start()
            until(lambda: "for now" in caplog.text)
            assert running.is_alive()
            sweeper.stop()
            running.join(10)
            assert not running.is_alive()
