"""The judge of `tests/dataplane/test_ledger_hour.py`: whatever is wrong with a ledger, it says so."""

from collections.abc import Iterator
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import orjson
import pytest

from extproc.stores import sql
from extproc.stores.ledger import AttemptRow, Batch, CallRow, OddRow, Told
from tests.support.hour import TAG, Asked, Hour
from tests.support.hour_callers import Told as Answered
from tests.support.hour_verdict import Books, Verdict, Why, verdict

NOW = datetime(2026, 3, 1, tzinfo=UTC).replace(tzinfo=None)
PAID = {"input": 100, "output": 10}
COST = 100 * 2_500 + 10 * 10_000
Json = dict[str, Any]


class Case:
    """A ledger with some rows, and what clients and providers say. By itself all is well: one call, told and billed."""

    def __init__(self, folder: Path) -> None:
        url = f"sqlite:///{folder}/ledger.db"
        sql.upgrade(url)
        self.batch = Batch()
        self.stores = sql.open_stores(url)
        self.books = Books(url)
        self.told: list[Answered] = []
        self.bills: list[Json] = []
        self.deaths: list[tuple[float, float]] = []

    def call(self, name: str = "a", kind: str = "chat", status: int = 200, **more: Any) -> Answered:
        asked = Asked(kind, name, "/v1/chat/completions", b"{}" * 300, more.pop("fake", {}))
        one = Answered(asked, 10.0, 11.0, f"r-{name}", status, **more)
        self.told.append(one)
        return one

    def bill(self, name: str = "a", status: int = 200, **more: Any) -> None:
        ids = {"request_id": f"r-{name}", "client_request_id": name}
        self.bills.append({**ids, "model": "plain", "status": status, "finished": True, **PAID, "classes": {}, **more})

    def row(self, name: str = "a", own: str = "w.1", **more: Any) -> None:
        facts = {"model": "plain", "source": "reported", "cost": COST, "ending": "complete", **PAID, **more}
        tags = orjson.dumps({TAG: name}).decode()
        self.batch.add(CallRow(id=own, told=Told.WORKER, request_id=f"r-{name}", ended_at=NOW, tags=tags, **facts))

    def attempt(self, name: str = "a", status: int = 200, flag: str | None = None) -> None:
        place = len(self.batch.attempts)
        self.batch.attempts.append(
            AttemptRow(
                event="e", place=place, request_id=f"r-{name}", started_at=NOW, status=status, flag=flag, backend="one"
            )
        )

    def whole(self, name: str = "a", own: str = "w.1") -> None:
        self.call(name)
        self.bill(name)
        self.row(name, own)
        self.attempt(name)

    def judged(self) -> Verdict:
        self.stores.ledger.write(self.batch)
        return verdict(self.told, self.bills, self.books, self.deaths)


@pytest.fixture
def case(tmp_path: Path) -> Iterator[Case]:
    made = Case(tmp_path)
    with closing(made.stores), closing(made.books):
        yield made


def test_what_is_well_is_well(case: Case) -> None:
    case.whole("a", "w.1")
    case.whole("b", "w.2")
    found = case.judged()
    assert found.wrong == []
    assert (found.lines[Why.TOLD].calls, found.lines[Why.TOLD].ledger["input"]) == (2, 200)
    assert "told by the provider" in found.table()


@pytest.mark.parametrize(
    "spoil",
    [
        pytest.param(lambda case: case.row("a", "w.2"), id="a second row"),
        pytest.param(lambda case: case.row("unknown", "w.2"), id="a row of no call"),
        pytest.param(lambda case: case.bill("a", input=1, output=0), id="a bill more"),
        pytest.param(lambda case: case.attempt(), id="an attempt more"),
        pytest.param(lambda case: case.batch.attempts.clear(), id="an attempt less"),
        pytest.param(lambda case: case.batch.calls["w.1"].__setattr__("cost", COST + 1), id="another cost"),
        pytest.param(lambda case: case.batch.calls["w.1"].__setattr__("reasoning", 1), id="another class"),
        pytest.param(lambda case: case.batch.calls.clear(), id="no row"),
        pytest.param(
            lambda case: case.batch.odd.append(OddRow(digest="d", came_at=NOW, reason="is odd", event="")), id="odd"
        ),
    ],
)
def test_whatever_is_wrong_is_told(case: Case, spoil: Any) -> None:
    case.whole()
    spoil(case)
    assert case.judged().wrong


def test_sums_that_are_not_those_of_the_rows_are_told(case: Case) -> None:
    case.whole()
    case.judged()
    with case.books._engine.begin() as connection:
        connection.exec_driver_sql("UPDATE usage_callers SET output = output + 1")
    assert verdict(case.told, case.bills, case.books, []).wrong == ["usage_callers is not the sum of the rows"]


def test_nobody_has_a_row(case: Case) -> None:
    case.call("b", "nobody", status=401)
    assert case.judged().wrong == []
    case.row("b", source="none", cost=None, input=0, output=0)
    assert "row of nobody" in case.judged().wrong[0]


def test_who_leaves_unheard_has_no_row_and_whom_a_provider_answered_has_one(case: Case) -> None:
    case.call(status=0, left=True)
    assert case.judged().wrong == []
    case.bill()
    assert "without a row" in case.judged().wrong[0]


def test_no_row_is_needed_where_no_worker_decided(case: Case) -> None:
    case.call(status=503, error=b'{"error": "The gateway could not decide on the call. Try again."}')
    assert case.judged().wrong == []


def test_one_call_for_each_death_may_have_been_answered_a_moment_before(case: Case) -> None:
    case.deaths = [(10.5, 10.6)]
    case.call("a", status=404)
    assert case.judged().wrong == []
    case.call("b", status=404)
    assert case.judged().wrong == ["more calls without a row than one for each death of a worker"]


def test_a_killed_worker_excuses_attempts_that_are_missing_and_no_call(case: Case) -> None:
    case.deaths = [(11.2, 11.3)]
    case.whole()
    case.batch.attempts.clear()
    assert case.judged().wrong == []
    case.deaths = [(13, 13.1)]
    assert "0 attempts, 1 at providers" in case.judged().wrong[0]
    case.deaths = [(10.5, 10.6)]
    case.call("b")
    case.bill("b")
    assert "without a row" in case.judged().wrong[0]


@pytest.mark.parametrize(("output", "well"), [(1_000, True), (1_020, True), (1_021, False), (979, False)])
def test_where_nobody_told_two_parts_in_a_hundred_are_well(case: Case, output: int, well: bool) -> None:
    case.call(kind="mute")
    case.bill(output=1_000)
    case.row(output=output, source="estimated", cost=100 * 2_500 + output * 10_000, duration_ms=1_000)
    case.attempt()
    assert (case.judged().wrong == []) is well


@pytest.mark.parametrize(("output", "well"), [(10, True), (500, True), (600, False)])
def test_an_estimate_may_not_say_more_than_there_was_time_for(case: Case, output: int, well: bool) -> None:
    case.call(left=True)
    case.bill()
    case.row(output=output, source="estimated", cost=100 * 2_500 + output * 10_000, duration_ms=100, ending="cut")
    case.attempt()
    assert (case.judged().wrong == []) is well


def test_an_hour_is_the_same_for_the_same_seed() -> None:
    one, other = list(Hour(3, 300)), list(Hour(3, 300))
    assert one == other
    assert one != list(Hour(4, 300))
    assert len({asked.name for asked in one}) == len(one) >= 300
    assert len({asked.kind for asked in one}) > 12
