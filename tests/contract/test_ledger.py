"""The ledger in both databases: each call once, told as well as anybody can, and sums that agree with the rows."""

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import replace
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import text

from extproc.ledger.events import read
from extproc.stores import sql
from extproc.stores.ledger import BY, Batch, CallRow, Event, Question, RowRefused, Sum, Told, Written
from extproc.stores.ports import StoreUnavailable
from extproc.stores.rollups import AMOUNTS
from extproc.stores.sql import ledger as sql_ledger
from extproc.stores.sql.ledger import _ROWS, SqlLedger, _usage_of_rows
from tests.support.gateway import until
from tests.support.ledger import AT, attempts, breaks, call, expired, ledger_on

HOUR = 3_600_000
DAY = date(2026, 1, 31)


@pytest.fixture(params=["sqlite", "postgresql"])
def stores(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[sql.Stores]:
    with ledger_on(request.param, tmp_path) as made:
        yield made


@pytest.fixture
def ledger(stores: sql.Stores) -> SqlLedger:
    return stores.ledger


def write(ledger: SqlLedger, *events: Event) -> Written:
    return ledger.write(read(events, "USD"))


def asked(ledger: SqlLedger, *by: str, zone: str = "UTC", days: int = 1) -> list[Sum]:
    return list(ledger.usage(Question(DAY, DAY + timedelta(days=days - 1), zone, by)))


def totals(ledger: SqlLedger, **only: str) -> tuple[int, int, int]:
    """Calls, tokens of input, cost."""
    found = ledger.usage(Question(DAY, DAY, "UTC", (), only))
    return sum(one.calls for one in found), sum(one.input for one in found), sum(one.cost for one in found)


def count(stores: sql.Stores, table: str) -> int:
    return int(scalar(stores, f"SELECT count(*) FROM {table}"))


def scalar(stores: sql.Stores, statement: str) -> Any:
    with stores.engine.connect() as connection:
        return connection.execute(text(statement)).scalar()


# ---- rows ------------------------------------------------------------------------------------------


def test_a_row_comes_back_as_it_was_written(ledger: SqlLedger) -> None:
    batch = read(
        [call(overspent={"x": 1}, redaction={"found": {"EMAIL": 1}, "policy": "p"}, tags={"a": "\u00e4'\\\n\t"})]
    )
    assert ledger.write(batch) == Written(calls=1)
    ((row, tried),) = ledger.call("r-1")
    assert row == batch.calls["w.1"]
    assert tried == []


def test_every_column_takes_the_most_that_is_read(ledger: SqlLedger) -> None:
    """What is too long for a column must not stop the ledger: PostgreSQL refuses it."""
    long: dict[str, Any] = dict.fromkeys(
        ("team", "user", "model", "backend", "ending", "key_id", "priority", "surface"), "x" * 10000
    )
    long |= dict.fromkeys(("request_id", "config", "currency", "stop_reason", "cache", "price", "limit"), "x" * 10000)
    long |= dict.fromkeys(("key", "issuer", "environment", "refusal", "blame", "fallback", "session"), "x" * 10000)
    most: dict[str, Any] = dict.fromkeys(
        ("cost", "saved", "status", "duration_ms", "turn", "answer_bytes", "tool_calls", "aside"), 2**53 - 1
    )
    usage = {"source": "x" * 99, "input": 10**12, "seconds": (2**53 - 1) // 1000}
    odd = {"retry_after": "x" * 99, "flag": "x" * 99, "host": "x" * 999, "status": 2**53 - 1}
    batch = read([call(**long, **most, usage=usage, client_retry="9" * 9), attempts("a.1", odd)])
    assert ledger.write(batch) == Written(calls=1, attempts=1, odd=2)
    assert asked(ledger, "team")[0].input == 10**12


def test_a_sum_that_is_too_large_stays_where_it_is_and_refuses_nobody(stores: sql.Stores) -> None:
    """PostgreSQL would refuse every further row of that day, and SQLite go on in floating point."""
    for batch in range(3):
        rows = [call(f"w.{batch}.{number}", cost=2**53 - 1, team="byob") for number in range(600)]
        assert stores.ledger.write(read(rows)).calls == 600
    assert stores.ledger.write(read([call("w.3", team="byob")])) == Written(calls=1)
    found = "SELECT cost, calls FROM usage_models UNION ALL SELECT cost, calls FROM usage_callers"
    with stores.engine.connect() as connection:
        told = [tuple(row) for row in connection.execute(text(found))]
    assert told == [(2**62, 1801)] * 2
    assert all(isinstance(cost, int) for cost, _ in told)


def test_the_tables_have_the_columns_of_the_rows() -> None:
    for table, names in _ROWS.items():
        assert names == tuple(table.columns.keys())


def test_a_batch_that_is_written_again_changes_nothing(stores: sql.Stores) -> None:
    batch = read([call(), expired("w.2"), attempts("a.1", {}, {}), Event(None, AT, b"?")], "USD")
    assert stores.ledger.write(batch) == Written(calls=2, attempts=2, odd=1)
    before = asked(stores.ledger, "team"), asked(stores.ledger, "user")
    assert stores.ledger.write(batch) == Written()
    assert (asked(stores.ledger, "team"), asked(stores.ledger, "user")) == before
    assert [count(stores, name) for name in ("calls", "attempts", "odd_events")] == [2, 2, 1]


def test_nothing_of_a_batch_stays_where_a_part_of_it_cannot_be_written(stores: sql.Stores) -> None:
    batch = read([call(), attempts("a.1", {})])
    broken = Batch(batch.calls, [replace(batch.attempts[0], started_at=None)], [])  # type: ignore[arg-type]
    with pytest.raises(RowRefused):
        stores.ledger.write(broken)
    assert count(stores, "calls") == 0
    assert totals(stores.ledger) == (0, 0, 0)
    assert stores.ledger.write(batch) == Written(calls=1, attempts=1)


def test_a_database_without_the_schema_is_told(tmp_path: Path) -> None:
    (tmp_path / "empty.db").touch()
    with closing(sql.open_stores(f"sqlite:///{tmp_path}/empty.db")) as stores, pytest.raises(StoreUnavailable):
        write(stores.ledger, call())


# ---- holds that expired ----------------------------------------------------------------------------


def test_the_call_itself_replaces_its_expiry_whenever_it_comes(ledger: SqlLedger) -> None:
    assert write(ledger, expired(money=70, tokens=5)) == Written(calls=1)
    assert totals(ledger) == (1, 5, 70)
    assert totals(ledger, team="") == (1, 5, 70)
    assert write(ledger, call()) == Written(replaced=1)
    assert totals(ledger) == (1, 12, 5_000)
    assert [one.values for one in asked(ledger, "team", "user")] == [("search", "ann@example.com")]
    ((row, _),) = ledger.call("w.1")
    assert (row.told, row.ending) == (Told.WORKER, "complete")


def test_an_expiry_never_replaces_the_call(ledger: SqlLedger) -> None:
    write(ledger, call())
    assert write(ledger, expired(money=70), call(cost=1)) == Written()
    assert totals(ledger) == (1, 12, 5_000)


def test_two_calls_of_one_request_id_are_two(ledger: SqlLedger) -> None:
    """Clients choose it, and their retries have the same."""
    write(ledger, call("w.1"), call("w.2"))
    assert totals(ledger) == (2, 24, 10_000)
    assert [row.id for row, _ in ledger.call("r-1")] == ["w.1", "w.2"]
    assert [row.id for row, _ in ledger.call("w.2")] == ["w.2"]


# ---- attempts --------------------------------------------------------------------------------------


def test_attempts_are_found_with_their_call_whichever_came_first(ledger: SqlLedger) -> None:
    write(ledger, attempts("a.1", {"time": AT / 1000 - 1}, {"request_id": "r-2"}))
    write(ledger, call())
    write(ledger, attempts("a.2", {"time": AT / 1000 - 0.5, "status": 200, "backend": "two"}))
    ((_, tried),) = ledger.call("r-1")
    assert [(one.backend, one.status) for one in tried] == [("one", 429), ("two", 200)]


def test_attempts_of_another_call_with_the_same_request_id_are_not_its_own(ledger: SqlLedger) -> None:
    write(ledger, call("w.1"), call("w.2", time=AT / 1000 + 3_600))
    write(ledger, attempts("a.1", {}, {"time": AT / 1000 + 3_600, "backend": "two"}))
    later, earlier = ledger.call("r-1")
    assert [one.backend for one in later[1]] == ["two"]
    assert [one.backend for one in earlier[1]] == ["one"]


# ---- calls that broke off --------------------------------------------------------------------------

CUT = call(ending="cut")
LEFT = breaks("b.1", {"left": "client"})


@pytest.mark.parametrize(
    "history", [[CUT, LEFT], [LEFT, CUT], [LEFT, expired(), CUT], [expired(), CUT, LEFT, LEFT, CUT]]
)
@pytest.mark.parametrize("at_once", [True, False])
def test_who_broke_a_call_off_is_known_whichever_came_first(
    ledger: SqlLedger, history: list[Event], at_once: bool
) -> None:
    for events in [history] if at_once else [[one] for one in history]:
        write(ledger, *events)
    ((row, _),) = ledger.call("r-1")
    assert (row.ending, row.blame) == ("cut", "client")
    assert totals(ledger) == (1, 12, 5_000)


def test_of_other_calls_nobody_is_blamed_for_it(ledger: SqlLedger) -> None:
    later = AT / 1000 + 3_600
    whole, refused = call("w.2"), call("w.3", ending="refused", refusal="gateway_error", status=500)
    write(ledger, whole, refused, call("w.1", ending="cut", time=later), call("w.4", ending="cut", request_id="r-2"))
    write(ledger, LEFT)
    found = {row.id: row.blame for name in ("r-1", "r-2") for row, _ in ledger.call(name)}
    assert found == {"w.1": None, "w.2": None, "w.3": "gateway", "w.4": None}


# ---- usage -----------------------------------------------------------------------------------------


def test_usage_by_each_of_what_it_can_be_asked_by(ledger: SqlLedger) -> None:
    bobs = {"team": "ops", "area": "it", "user": "bob", "key_id": "key_2", "session": "run-7"}
    write(ledger, call("w.1"), call("w.2", model="o4", backend="one", **bobs))
    values = {name: [one.values for one in asked(ledger, name)] for name in BY}
    assert values == {
        "day": [("2026-01-31",)],
        "area": [("it",), ("shop",)],
        "team": [("ops",), ("search",)],
        "user": [("ann@example.com",), ("bob",)],
        "key": [("key_1",), ("key_2",)],
        "model": [("gpt-4o",), ("o4",)],
        "backend": [("one",), ("two",)],
        "session": [("",), ("run-7",)],
    }
    assert [one.values for one in asked(ledger, "user", "model")] == [("ann@example.com", "gpt-4o"), ("bob", "o4")]
    assert totals(ledger, user="bob", model="o4") == totals(ledger, session="run-7") == (1, 12, 5_000)
    assert totals(ledger, user="bob", model="gpt-4o") == (0, 0, 0)


def test_usage_by_tags(ledger: SqlLedger) -> None:
    def tagged(name: str, **more: Any) -> Event:
        return call(name, input=1, caller_tags=more or None)

    write(
        ledger,
        tagged("w.1", repository="shop/web", pull_request="17"),
        tagged("w.2", repository="shop/web", pull_request="18"),
        tagged("w.3", repository="shop/o'hara\"%", pull_request="17"),
        tagged("w.4", repository="shop/web"),
        tagged("w.5"),
        call("w.6", team="ops", caller_tags={"pull_request": "17"}),
        call("w.7", caller_tags={"x": "y" * 9_000}),  # too long to be kept
    )

    def by(*names: str, **only: str) -> list[tuple[tuple[str, ...], int]]:
        tags = {f"tag:{name}": value for name, value in only.items()}
        return [(one.values, one.calls) for one in ledger.usage(Question(DAY, DAY, "UTC", names, tags))]

    assert by("tag:pull_request") == [(("",), 3), (("17",), 3), (("18",), 1)]
    assert by("tag:pull_request", repository="shop/web") == [(("",), 1), (("17",), 1), (("18",), 1)]
    assert by("tag:pull_request", repository="shop/o'hara\"%") == [(("17",), 1)]
    assert by("tag:repository", "tag:pull_request", "team", pull_request="17") == [
        (("", "17", "ops"), 1),
        (("shop/o'hara\"%", "17", "search"), 1),
        (("shop/web", "17", "search"), 1),
    ]
    assert by("day", "tag:pull_request", repository="shop/web", pull_request="18") == [((str(DAY), "18"), 1)]
    assert by(pull_request="17") == [((), 3)]
    assert by("tag:none") == [(("",), 7)]


@pytest.mark.parametrize("name", ["tag:", "tag:a'b", "tag:a b", "tag:A", "tag:a\n"])
def test_what_is_no_name_of_a_tag_never_reaches_the_database(ledger: SqlLedger, name: str) -> None:
    with pytest.raises(ValueError, match="no name of a tag"):
        ledger.usage(Question(DAY, DAY, "UTC", (name,)))


def test_money_of_two_currencies_is_never_added_up(ledger: SqlLedger) -> None:
    write(ledger, call("w.1"), call("w.2", currency="CHF", cost=7))
    assert [(one.currency, one.cost) for one in asked(ledger, "team")] == [("CHF", 7), ("USD", 5_000)]


def test_what_failed_and_what_is_estimated_is_told(ledger: SqlLedger) -> None:
    write(
        ledger,
        call("w.1", status=502, ending="complete"),
        call("w.2", status=429, refusal="rate_limit_exceeded", ending="refused", usage=None, cost=None),
        call("w.3", usage={"input": 1, "output": 1, "source": "estimated"}),
        expired("w.4", money=1),
        call("w.5"),
    )
    assert (sum(one.failed for one in asked(ledger)), sum(one.estimated for one in asked(ledger))) == (2, 2)


@pytest.mark.parametrize("zone", ["UTC", "Europe/Zurich", "America/New_York", "Asia/Kolkata", "Pacific/Kiritimati"])
def test_days_are_those_of_the_zone(ledger: SqlLedger, zone: str) -> None:
    """In steps of half an hour through two days: also where the sums are kept by the days of another one."""
    write(ledger, *[call(f"w.{number}", time=AT / 1000 + number * 1_800) for number in range(96)])
    by_rows = asked(ledger, "day", zone=zone, days=5)
    assert sum(one.calls for one in by_rows) == 96
    assert ledger.rebuild(zone) == 96
    assert ledger.zone() == zone
    assert asked(ledger, "day", zone=zone, days=5) == by_rows
    write(ledger, call("w.more", time=AT / 1000 + 40 * 1_800))
    assert sum(one.calls for one in asked(ledger, "day", zone=zone, days=5)) == 97


def test_sums_are_made_again_from_the_rows(stores: sql.Stores) -> None:
    write(stores.ledger, call("w.1"), call("w.2", team="ops"), expired("w.3", money=4))
    before = [asked(stores.ledger, name) for name in BY]
    with stores.engine.begin() as connection:
        connection.execute(text("DELETE FROM usage_models"))
        connection.execute(text("UPDATE usage_callers SET calls = 77"))
    assert stores.ledger.rebuild("UTC") == 3
    assert [asked(stores.ledger, name) for name in BY] == before


def by_rows(stores: sql.Stores, question: Question) -> list[Sum]:
    with stores.engine.connect() as connection:
        return sorted(_usage_of_rows(connection, question), key=lambda one: (one.values, one.currency))


@pytest.fixture
def by_single_days(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sql_ledger, "_PIECE_S", 0.0)


@pytest.mark.usefixtures("by_single_days")
def test_until_a_day_has_its_sums_again_its_rows_are_added_up(stores: sql.Stores) -> None:
    """A day at a time, from the last, whatever comes meanwhile: also of days that were done, and in place of others."""
    ledger, zone = stores.ledger, "Asia/Tokyo"
    questions = [
        Question(DAY + timedelta(days=first), DAY + timedelta(days=9), zone, by)
        for by in ((), ("team",), ("day", "model"), ("user",))
        for first in (-1, 1, 3)
    ]
    write(ledger, *[call(f"w.{number}", time=AT / 1000 + number * 40_000) for number in range(12)])
    write(ledger, *[expired(f"e.{number}", AT + number * 47_000_000, money=1) for number in range(9)])
    ledger.remake(zone)
    assert (ledger.zone(), scalar(stores, "SELECT count(*) FROM ledger WHERE lacks_end > lacks_first")) == (zone, 1)
    steps = 0
    while True:
        assert [list(ledger.usage(one)) for one in questions] == [by_rows(stores, one) for one in questions]
        when = AT / 1000 + steps * 47_000
        write(ledger, call(f"n.{steps}", time=when), call(f"e.{steps}", time=when, team="ops"))
        assert [list(ledger.usage(one)) for one in questions] == [by_rows(stores, one) for one in questions]
        steps += 1
        if not ledger.mend():
            break
    assert steps >= 5
    assert scalar(stores, "SELECT count(*) FROM ledger WHERE lacks_first IS NULL") == 1
    for table in ("usage_models", "usage_callers"):
        assert scalar(stores, f"SELECT sum(calls) FROM {table}") == count(stores, "calls")
    assert [list(ledger.usage(one)) for one in questions] == [by_rows(stores, one) for one in questions]
    assert not ledger.mend()


@pytest.mark.usefixtures("by_single_days")
def test_a_ledger_that_was_left_in_the_middle_is_made_whole_by_the_next(stores: sql.Stores) -> None:
    write(stores.ledger, *[call(f"w.{number}", time=AT / 1000 + number * 40_000) for number in range(12)])
    before = [asked(stores.ledger, name, days=9) for name in BY]
    stores.ledger.remake("Asia/Tokyo")
    assert stores.ledger.mend()
    assert stores.ledger.rebuild("UTC") == 12
    assert [asked(stores.ledger, name, days=9) for name in BY] == before


def test_an_empty_ledger_is_made_again_too(ledger: SqlLedger) -> None:
    assert ledger.rebuild("Asia/Tokyo") == 0
    assert asked(ledger, "team", zone="Asia/Tokyo") == []


def test_writers_that_come_at_once_double_nothing(stores: sql.Stores) -> None:
    """Two tell calls, two their expiries, and of each two one begins with the last."""
    own = [call(f"w.{number}") for number in range(20)]
    over = [expired(f"w.{number}", money=1) for number in range(20)]

    def write_all(events: list[Event]) -> None:
        for one in events:
            write(stores.ledger, one)

    with ThreadPoolExecutor(4) as writers:
        list(writers.map(write_all, [own, own[::-1], over, over[::-1]]))
    assert totals(stores.ledger) == (20, 20 * 12, 20 * 5_000)
    assert total(of_days(stores.ledger, "team")) == total(of_days(stores.ledger, "team", "user", "model"))


def test_a_connection_that_breaks_in_the_middle_leaves_nothing(tmp_path: Path) -> None:
    """What is written then comes again, on another connection."""
    with ledger_on("postgresql", tmp_path) as stores, ThreadPoolExecutor(1) as other:
        with stores.engine.connect() as blocker:
            blocker.execute(text("LOCK TABLE usage_callers"))  # the last that a batch needs
            writing = other.submit(write, stores.ledger, call("w.1"), attempts("a.1", {}))
            waiting = "SELECT pid FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND datname = current_database()"
            pid = until(lambda: scalar(stores, waiting))
            blocker.execute(text(f"SELECT pg_terminate_backend({pid})"))
            with pytest.raises(StoreUnavailable):
                writing.result(10)
        assert count(stores, "calls") == 0
        assert write(stores.ledger, call("w.1"), attempts("a.1", {})) == Written(calls=1, attempts=1)
        assert totals(stores.ledger) == (1, 12, 5_000)


# ---- any history -----------------------------------------------------------------------------------


def histories() -> st.SearchStrategy[list[list[Event]]]:
    names = st.sampled_from([f"w.{number}" for number in range(5)])
    own = st.builds(
        lambda name, more: call(name, **more),
        names,
        st.fixed_dictionaries(
            {
                "team": st.sampled_from([None, "search", "ops"]),
                "user": st.sampled_from([None, "ann"]),
                "cost": st.sampled_from([None, 0, 7]),
                "currency": st.sampled_from([None, "USD", "CHF"]),
                "status": st.sampled_from([200, 429]),
                "time": st.integers(0, 30).map(lambda hours: AT / 1000 + hours * 3_600),
            }
        ),
    )
    over = st.builds(expired, names, st.integers(0, 30).map(lambda hours: AT + hours * HOUR), money=st.integers(0, 9))
    return st.lists(st.lists(own | over, max_size=4), max_size=6)


def best(history: Sequence[Sequence[Event]]) -> dict[str, CallRow]:
    """What a ledger is to know after a history: of each call the first of the best told."""
    known = Batch()
    for events in history:
        for row in read(events, "USD").calls.values():
            known.add(row)
    return known.calls


@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(history=histories())
def test_whatever_comes_in_whatever_order_and_how_often(stores: sql.Stores, history: list[list[Event]]) -> None:
    with stores.engine.begin() as connection:
        for table in ("calls", "usage_models", "usage_callers"):
            connection.execute(text(f"DELETE FROM {table}"))
    ledger = stores.ledger
    for events in [*history, *history[::-1]]:
        write(ledger, *events)
    wanted = best(history)
    assert {row.id: row for name in wanted for row, _ in ledger.call(name)} == wanted
    assert total(of_days(ledger, "team")) == total(of_days(ledger, "team", "user", "model"))
    assert total(of_days(ledger, "user"))["calls"] == len(wanted)
    before = [of_days(ledger, name) for name in BY]
    ledger.rebuild("UTC")
    assert [of_days(ledger, name) for name in BY] == before


def of_days(ledger: SqlLedger, *by: str) -> list[Sum]:
    """By team and user and model there are no sums, but rows."""
    return asked(ledger, *by, days=3)


def total(found: Sequence[Sum]) -> dict[str, int]:
    return {name: sum(getattr(one, name) for one in found) for name in AMOUNTS}
