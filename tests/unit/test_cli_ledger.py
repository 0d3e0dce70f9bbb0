"""`sluice usage`, `explain` and `ledger rebuild`, on a ledger of a few calls."""

import csv
import io
import json
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from threading import Event
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from extproc.cli import app, ledger, running
from extproc.config.loader import load
from extproc.config.schema import Gateway
from extproc.ledger.consumer import Consumer
from extproc.ledger.events import read
from extproc.stores import spool, sql
from extproc.stores.spool import Settlement
from tests.support.ledger import AT, attempts, call, expired

DATABASE = "sqlite:///ledger.db"
GATEWAY = """\
stores: {database: "sqlite:///ledger.db"}
ledger: {zone: ZONE, tags: [repository, pull_request]}
backends: {one: {dialect: openai, url: "https://one.example"}}
models: {gpt-4o: {targets: [[{backend: one}]]}}
"""
DAYS = ("--from", "2026-01-31", "--to", "2026-01-31")
CALLS = (
    call("w.1"),
    call("w.2", team="ops", area="it", user="bob", key_id="key_2", cost=1_234_567_890_123, time=AT / 1000 + 3_600),
    call("w.3", user="=cmd", currency="CHF", cost=10_000_000, request_id="r-3", status=502, backend="one"),
    expired("w.4", money=7),
)


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[sql.Stores]:
    """The current directory, with a configuration and a ledger."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("SLUICE_CONFIG", raising=False)
    configure("UTC")
    sql.upgrade(DATABASE)
    with closing(sql.open_stores(DATABASE)) as stores:
        stores.ledger.write(read(CALLS, "USD"))
        yield stores


def configure(zone: str) -> None:
    Path("gateway.yaml").write_text(GATEWAY.replace("ZONE", zone))


def sluice(*words: str) -> Result:
    return CliRunner().invoke(app, list(words), catch_exceptions=False)


def done(*words: str) -> str:
    result = sluice(*words)
    assert result.exit_code == 0, result.output
    return result.stdout


def table(text: str) -> list[list[str]]:
    return [line.split() for line in text.splitlines()]


class TestUsage:
    def test_a_table_with_totals_of_each_currency(self) -> None:
        assert table(done("usage", *DAYS)) == [
            ["team", "calls", "failed", "estimated", "input", "cached", "output", "cost"],
            ["-", "1", "0", "1", "0", "0", "0", "0.000000007", "USD"],
            ["ops", "1", "0", "0", "12", "4", "9", "1,234.567890123", "USD"],
            ["search", "1", "1", "0", "12", "4", "9", "0.01", "CHF"],
            ["search", "1", "0", "0", "12", "4", "9", "0.000005", "USD"],
            ["total", "3", "0", "1", "24", "8", "18", "1,234.56789513", "USD"],
            ["total", "1", "1", "0", "12", "4", "9", "0.01", "CHF"],
        ]

    def test_one_line_needs_no_total_and_columns_of_nothing_are_left_out(self) -> None:
        assert table(done("usage", *DAYS, "--team", "ops", "--by", "day, user,day")) == [
            ["day", "user", "calls", "input", "cached", "output", "cost"],
            ["2026-01-31", "bob", "1", "12", "4", "9", "1,234.567890123", "USD"],
        ]

    def test_what_has_no_price_looks_like_nothing_that_costs_nothing(self, folder: sql.Stores) -> None:
        free = call("w.6", team="priced", cost=0)
        folder.ledger.write(read([call("w.5", team="bare", cost=None, currency=None), free], "USD"))
        for team, told in (("bare", ["1", "1", "12", "4", "9", "-"]), ("priced", ["1", "12", "4", "9", "0.00", "USD"])):
            result = sluice("usage", *DAYS, "--team", team)
            assert table(result.stdout)[1] == [team, *told]
            assert ("no price" in result.stderr) is (team == "bare")
        (row,) = csv.DictReader(io.StringIO(done("usage", *DAYS, "--team", "bare", "--csv")))
        assert (row["cost"], row["saved"], row["currency"], row["unpriced"]) == ("", "", "", "1")
        (told,) = json.loads(done("usage", *DAYS, "--team", "bare", "--json"))
        assert (told["cost"], told["saved"], told["currency"], told["unpriced"]) == (None, None, "", 1)

    def test_what_has_no_price_is_no_line_of_its_own_where_there_is_one_currency(self, folder: sql.Stores) -> None:
        nothing: dict[str, Any] = {"usage": None, "cost": None, "currency": None}
        refused = call("w.5", team="ops", status=429, backend=None, refusal="budget_exceeded", **nothing)
        unpriced = call("w.6", team="ops", cost=None, currency=None)
        two = call("w.7", cost=None, currency=None)
        folder.ledger.write(read([refused, unpriced, two], "USD"))
        assert table(done("usage", *DAYS, "--team", "ops", "--by", "team,day")) == [
            ["team", "day", "calls", "failed", "unpriced", "input", "cached", "output", "cost"],
            ["ops", "2026-01-31", "3", "1", "1", "24", "8", "18", "1,234.567890123", "USD"],
        ]
        only = ("usage", *DAYS, "--by", "user", "--team", "ops")
        assert [line[0] for line in table(done(*only))] == ["user", "ann@example.com", "bob", "total"]
        assert table(done(*only))[1] == ["ann@example.com", "2", "1", "1", "12", "4", "9", "0.00", "USD"]
        assert table(done(*only))[3] == ["total", "3", "1", "1", "24", "8", "18", "1,234.567890123", "USD"]
        found = [(one["team"], one["currency"], one["unpriced"]) for one in json.loads(done("usage", *DAYS, "--json"))]
        assert found == [
            ("", "USD", 0),
            ("ops", "USD", 1),
            ("search", "", 1),
            ("search", "CHF", 0),
            ("search", "USD", 0),
        ]

    def test_as_json_money_is_exact(self) -> None:
        (found,) = json.loads(done("usage", *DAYS, "--by", "key", "--key", "key_2", "--json"))
        assert {name: found[name] for name in ("key", "calls", "cost", "currency", "input")} == {
            "key": "key_2",
            "calls": 1,
            "cost": "1234.567890123",
            "currency": "USD",
            "input": 12,
        }

    def test_as_csv_a_name_is_no_formula(self) -> None:
        rows = list(csv.DictReader(io.StringIO(done("usage", *DAYS, "--by", "user,model", "--csv"))))
        assert [(row["user"], row["model"], row["cost"]) for row in rows] == [
            ("", "", "0.000000007"),
            ("'=cmd", "gpt-4o", "0.01"),
            ("ann@example.com", "gpt-4o", "0.000005"),
            ("bob", "gpt-4o", "1234.567890123"),
        ]

    def test_days_of_another_zone(self) -> None:
        late = ("--from", "2026-02-01", "--to", "2026-02-01", "--by", "day", "--json")
        assert json.loads(done("usage", *late)) == []
        found = json.loads(done("usage", *late, "--zone", "Pacific/Kiritimati"))  # 14 hours ahead
        assert [(one["day"], one["currency"], one["calls"]) for one in found] == [
            ("2026-02-01", "CHF", 1),
            ("2026-02-01", "USD", 3),
        ]

    def test_by_tags(self, folder: sql.Stores) -> None:
        tags = {"repository": "shop/web", "pull_request": "17"}
        folder.ledger.write(
            read([call("w.8", caller_tags=tags), call("w.9", caller_tags={**tags, "pull_request": "18"})])
        )
        by = ("--by", "tag:repository,tag:pull_request")
        found = json.loads(done("usage", *DAYS, *by, "--tag", "repository=shop/web", "--json"))
        assert [(one["tag:repository"], one["tag:pull_request"], one["calls"], one["cost"]) for one in found] == [
            ("shop/web", "17", 1, "0.000005"),
            ("shop/web", "18", 1, "0.000005"),
        ]
        one = ("--tag", "repository=shop/web", "--tag", "pull-request=18")
        assert table(done("usage", *DAYS, "--by", "day,tag:pull-request", *one)) == [
            ["day", "tag:pull_request", "calls", "input", "cached", "output", "cost"],
            ["2026-01-31", "18", "1", "12", "4", "9", "0.000005", "USD"],
        ]

    def test_by_session(self, folder: sql.Stores) -> None:
        folder.ledger.write(read([call(f"w.{number}", session=f"run-{number % 2}") for number in (7, 8, 9)]))
        (found,) = json.loads(done("usage", *DAYS, "--by", "session", "--session", "run-1", "--json"))
        assert (found["session"], found["calls"], found["cost"]) == ("run-1", 2, "0.00001")

    def test_a_tag_that_is_not_kept_is_told(self) -> None:
        result = sluice("usage", *DAYS, "--by", "tag:pull_reqest", "--tag", "repository=")
        assert result.exit_code == 0
        told = "The tag 'pull_reqest' is not kept: it is none of `ledger.tags` (did you mean pull_request?)."
        assert told in result.stderr
        assert "'repository'" not in result.stderr

    def test_where_there_are_no_calls_it_says_so(self) -> None:
        result = sluice("usage", "--from", "2020-01-01", "--to", "2020-01-31")
        assert (result.exit_code, result.stdout) == (0, "")
        assert "No calls from 2020-01-01 to 2020-01-31 (UTC)." in result.stderr

    @pytest.mark.parametrize(("option", "told"), [("--key", True), ("--user", False)])
    def test_a_key_is_asked_for_by_its_id(self, option: str, told: bool) -> None:
        assert ("takes the id of a key" in sluice("usage", *DAYS, option, "ann-key").stderr) is told

    @pytest.mark.parametrize(
        ("words", "problem"),
        [
            (("--by", "teams"), "'teams' is none of"),
            (("--by", ""), "'' is none of"),
            (("--zone", "Mars/Base"), "is no time zone"),
            (("--from", "31.1.2026"), "write a day like"),
            (("--from", "0001-01-01"), "of this century"),
            (("--from", "2026-02-01", "--to", "2026-01-31"), "is after the last day"),
            (("--csv", "--json"), "one of --csv and --json"),
            (("--team", "a\nb"), "printable"),
            (("--by", "tag:"), "'tag:' is none of"),
            (("--by", "tag:a b"), "'tag:a b' is none of"),
            (("--tag", "repository"), "write NAME=VALUE"),
            (("--tag", "Repository=x"), "write NAME=VALUE"),
            (("--tag", "a=1", "--tag", "a=2"), "a is given twice"),
            (("--tag", "a=b\x1b"), "printable"),
        ],
    )
    def test_what_makes_no_sense_is_refused(self, words: tuple[str, ...], problem: str) -> None:
        result = sluice("usage", *words)
        assert result.exit_code == 2
        assert problem in " ".join(result.stderr.replace("\u2502", " ").split())

    def test_a_database_that_is_not_there(self) -> None:
        Path("gateway.yaml").write_text(GATEWAY.replace("ledger.db", "none.db").replace("ZONE", "UTC"))
        result = sluice("usage")
        assert result.exit_code == 1
        assert "Check stores.database." in result.stderr
        assert not Path("none.db").exists()


class TestExplain:
    def test_a_call_with_all_that_is_known(self, folder: sql.Stores) -> None:
        more: dict[str, Any] = {
            "request_id": "r-9",
            "asked": "gpt-5",
            "fallback": "context_window",
            "refusal": "rate_limit_exceeded",
            "limit": "company",
            "status": 429,
            "held": {"input": 20, "output": 30, "money": 4_000},
            "overspent": {"output_above_cap": 3},
            "aside": 1_000,
            "price": "2026-01",
            "cache": {"result": "miss", "saved": 5},
            "budgets": [
                {
                    "limit": "company",
                    "measure": "money",
                    "amount": 5 * 10**9,
                    "before": 10**9,
                    "wanted": 4_000,
                    "used": 1_000,
                    "until": 1_769_904_000,
                },
                {"limit": "rate", "measure": "output_tokens", "amount": 5_000, "before": 4_999, "wanted": 30},
                {"of": "another version"},
            ],
            "limits_shadow": ["calls"],
            "warnings": {"company": 80},
            "unscreened": ["guardrails"],
            "redaction": {"policy": "default", "mode": "enforce", "found": {"EMAIL": 2}, "places": {"messages": 2}},
            "guardrails": [
                {"guardrail": "content", "rule": "r", "mode": "shadow", "action": "block", "count": 1, "places": ["p"]}
            ],
            "session": "s-1",
            "turn": 3,
            "caller_tags": {"repository": "shop/web", "pull_request": "17"},
            "deployed": "gpt-4o-eu",
            "service_tier": "priority",
            "stop_reason": "tool_calls",
            "tool_calls": 2,
            "first_token_ms": 250.2,
            "stream_ms": 1_000,
            "answer_bytes": 12_345,
            "output_cap": 4_096,
        }
        tried = attempts(
            "a.1", {"request_id": "r-9"}, {"request_id": "r-9", "status": 0, "flag": "no_answer", "backend": "two"}
        )
        folder.ledger.write(read([call("w.9", **more), tried]))
        told = done("explain", "r-9")
        for line in (
            "call r-9",
            "caller    area shop, team search, user ann@example.com, key app (key_1)",
            "time      2026-01-31 11:59:58.500 to 2026-01-31 12:00:00.000 UTC",
            "model     gpt-5, served by gpt-4o (context_window) on chat, stream",
            "chain     one > two",
            "session   s-1, turn 3",
            "tags      repository shop/web, pull_request 17",
            "ended     429 complete, refusal rate_limit_exceeded, limit company, blame client, backend two, "
            "deployed gpt-4o-eu, stop reason tool_calls, 2 calls of tools",
            "took      first byte 100 ms, first token 250 ms, stream 1,000 ms, whole 1,500 ms, 12,345 bytes",
            "used      12 input, 4 cached, 9 output (reported), in the tier priority",
            "held      20 input, 30 output, 0.000004 USD, output capped at 4,096",
            "above it  3 tokens by output_above_cap",
            "cost      0.000005 USD by prices 2026-01, 0.000001 USD of it for questions about it",
            "cache     miss, 0.000000005 USD saved",
            "budget    company: 1.00 of 5.00 USD before, 0.000004 wanted, 0.000001 used, 1.000001 after, "
            "until 2026-02-01 00:00:00 UTC",
            "budget    rate: 4,999 of 5,000 output tokens before, 30 wanted, nothing taken",
            'budget    {"of": "another version"}',
            "shadow    would have been refused by calls",
            "warning   company has passed 80 %",
            "unseen    could not be looked at: guardrails",
            "redaction default (enforce): found EMAIL 2, in messages 2",
            "guardrail content r: block (shadow) in p, count 1",
            "attempt 1 one: 429",
            "attempt 2 two: no_answer",
        ):
            assert f"{line}" in told, told

    def test_a_call_of_another_version_is_shown_as_it_stands(self, folder: sql.Stores) -> None:
        odd: dict[str, Any] = {
            "request_id": "r-9",
            "chain": {"a": 1},
            "caller_tags": ["x"],
            "overspent": [1],
            "budgets": "none",
            "redaction": ["x"],
            "guardrails": {"a": 1},
            "warnings": 7,
        }
        folder.ledger.write(read([call("w.9", **odd)]))
        told = done("explain", "r-9")
        for line in (
            *('chain     {"a": 1}', 'tags      ["x"]', "above it  [1]", 'budget    "none"'),
            *('redaction ["x"]', 'guardrails {"a": 1}', "warnings  7"),
        ):
            assert line in told, told

    def test_a_call_without_a_price_says_so(self, folder: sql.Stores) -> None:
        folder.ledger.write(read([call("w.9", request_id="r-9", cost=None)]))
        assert "cost      unknown: its model has no price" in done("explain", "r-9")

    @pytest.mark.parametrize(
        ("refusal", "chain", "why"),
        [
            ("upstream_unavailable", None, "all of this model's had failed"),
            ("upstream_rate_limited", None, "all of this model's had asked for a pause"),
            ("upstream_unavailable", ["one"], None),
            ("model_not_found", None, None),
        ],
    )
    def test_a_call_that_found_all_backends_left_alone_says_so(
        self, folder: sql.Stores, refusal: str, chain: list[str] | None, why: str | None
    ) -> None:
        refused = call("w.9", request_id="r-9", status=503, refusal=refusal, chain=chain, backend=None)
        folder.ledger.write(read([refused]))
        told = done("explain", "r-9")
        assert ("why  " in told) is (why is not None)
        assert why is None or why in told

    def test_what_callers_wrote_cannot_steer_the_terminal(self, folder: sql.Stores) -> None:
        bad = "a\x1b[31m\nb"
        folder.ledger.write(read([call("w.9", request_id="r-9", user=bad, session=bad, caller_tags={"x": bad})]))
        told = done("explain", "r-9")
        assert "\x1b" not in told
        assert told.count("a\\x1b[31m\\nb") == 3

    def test_an_expired_one_is_marked(self) -> None:
        told = done("explain", "w.4")
        assert "marked    its worker never told how it ended" in told
        assert "cost      0.000000007 USD" in told

    def test_all_of_one_request_id(self, folder: sql.Stores) -> None:
        folder.ledger.write(read([attempts("a.1", {"status": 200})]))
        money = {"limit": "m", "measure": "money", "amount": 5 * 10**9, "before": 0, "wanted": 1, "until": 7}
        folder.ledger.write(read([call("w.0", request_id="r-0", budgets=[money, {"limit": "r", "amount": 3}, 7])]))
        assert json.loads(done("explain", "r-0", "--json"))[0]["budgets"] == [
            {**money, "amount": "5.00", "before": "0.00", "wanted": "0.000000001"},
            {"limit": "r", "amount": 3},
            7,
        ]
        found = json.loads(done("explain", "r-1", "--json"))
        assert [(one["id"], one["told"], len(one["attempts"])) for one in found] == [
            ("w.2", "worker", 0),
            ("w.1", "worker", 1),
        ]
        assert found[0]["cost"] == "1234.567890123"
        assert found[1]["ended_at"] == "2026-01-31T12:00:00.000Z"
        assert found[1]["chain"] == ["one", "two"]
        assert found[1]["attempts"][0]["status"] == 200
        assert done("explain", "r-1").count("call r-1") == 2

    def test_one_that_is_not_there(self) -> None:
        result = sluice("explain", "r-none")
        assert result.exit_code == 1
        assert "The ledger has no call 'r-none'." in result.stderr

    def test_a_database_that_is_not_there(self) -> None:
        Path("ledger.db").unlink()
        assert sluice("explain", "r-1").exit_code == 1


class TestRebuild:
    def test_sums_by_days_of_the_configured_zone(self, folder: sql.Stores) -> None:
        configure("Asia/Kolkata")
        assert "4 calls, days of Asia/Kolkata" in done("ledger", "rebuild")
        assert folder.ledger.zone() == "Asia/Kolkata"

    def test_a_zone_that_is_none_is_refused(self) -> None:
        configure("Mars/Base")
        result = sluice("ledger", "rebuild")
        assert result.exit_code == 1
        assert "ledger.zone" in result.stderr


def test_a_gateway_that_shall_not_write_it_does_not(folder: sql.Stores, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[Gateway] = []
    monkeypatch.setattr(ledger, "consumer_of", lambda gateway, _store: made.append(gateway))
    Path("gateway.yaml").write_text(GATEWAY.replace("{zone: ZONE,", "{consumer: false,"))
    ledger.Books(load(Path("gateway.yaml"), {})).close()
    assert not made


def test_a_gateway_writes_it_until_it_is_stopped(folder: sql.Stores) -> None:
    gateway = load(Path("gateway.yaml"), {})
    log = spool.begin(gateway.state_dir / spool.FOLDER)
    log.write([Settlement("w.9", (), call("w.9").data, AT)])
    log.keep(log.end, AT)
    books = ledger.Books(gateway)
    books.close()
    assert books.behind == (0, "")
    log.close()
    assert len(folder.ledger.call("w.9")) == 1


def test_a_gateway_whose_ledger_hangs_in_the_end_does_not_say_that_all_is_written(
    folder: sql.Stores, monkeypatch: pytest.MonkeyPatch
) -> None:
    def hang(_: Consumer) -> int:
        hangs.set()
        goes_on.wait()
        return 0

    hangs, goes_on = Event(), Event()
    monkeypatch.setattr(Consumer, "step", hang)
    monkeypatch.setattr(ledger, "_STOP_PATIENCE", 0.1)
    gateway = load(Path("gateway.yaml"), {})
    books = ledger.Books(gateway)
    try:
        assert hangs.wait(30)
        books.close()
        with pytest.raises(running.LeftBehind, match=r"^Some events of calls may not be in the ledger\.") as told:
            running.check_closed(books)
        assert f"They stay in {gateway.state_dir / spool.FOLDER}, " in str(told.value)
    finally:
        goes_on.set()


class TestErase:
    def test_asks_and_nobody_there_changes_nothing(self, folder: sql.Stores) -> None:
        result = sluice("ledger", "erase", "--user", "ann@example.com")
        assert result.exit_code == 1
        assert "the user of 1 rows of calls" in result.stderr
        assert "give --yes" in result.stderr
        assert folder.retention.named("ann@example.com").calls == 1

    def test_erases(self, folder: sql.Stores) -> None:
        told = json.loads(done("ledger", "erase", "--user", "ann@example.com", "--yes", "--json"))
        assert told == {"calls": 1, "sums": 1, "odd": 0}
        assert "ann@example.com" not in done("usage", "--by", "user", *DAYS)

    def test_a_user_that_is_not_there(self) -> None:
        result = sluice("ledger", "erase", "--user", "nobody", "--yes")
        assert (result.exit_code, "No row names this user" in result.stderr) == (1, True)

    def test_names_are_compared_as_the_directory_does(self) -> None:
        assert "of 1 rows" in done("ledger", "erase", "--user", "Ann@Example.com", "--yes")

    @pytest.mark.parametrize("name", ["", "erased"])
    def test_what_is_no_user(self, name: str) -> None:
        assert sluice("ledger", "erase", "--user", name, "--yes").exit_code == 1
