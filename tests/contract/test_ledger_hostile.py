"""What a caller may write, as long and as wild as it likes: capped in rows, escaped where people read it."""

import csv
import io
import json
import logging
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from extproc.cli import app
from extproc.ledger.consumer import Consumer
from extproc.stores import spool, sql
from extproc.stores.ledger import Event
from extproc.stores.spool import Settlement, Spool
from extproc.stores.spool_bus import SpoolBus
from tests.support.ledger import AT, CALL, attempts, breaks, call, event, ledger_on

WILD = {
    "a line": 'x"}\n{"kind":"call","cost":1}\r\n',
    "a terminal": "\x1b[2J\x1b]0;owned\x07\x9b31mred",
    "a page": "\u202egpj.exe\u2066\u2028\u2029\ufeff",
    "zero": "a\0b",
    "a megabyte": "\x1b[31m\n" + "é" * 500_000,
}
TEXTS = ("request_id", "key", "user", "team", "area", "model", "asked", "backend", "surface", "session", "price")
GATEWAY = """\
stores: {database: "sqlite:///ledger.db"}
ledger: {tags: [repository]}
backends: {one: {dialect: openai, url: "https://one.example"}}
models: {m: {targets: [[{backend: one}]]}}
"""
DAYS = ("--from", "2026-01-31", "--to", "2026-01-31")


@pytest.fixture
def log(tmp_path: Path) -> Iterator[Spool]:
    made = spool.begin(tmp_path / "spool")
    yield made
    made.close()


def wild(text: str) -> list[Event]:
    """A call with this in everything that is text, and all else that may be told of it."""
    if len(text) > 1_000:  # in two places of one event will do
        return [call("w.1", user=text, caller_tags={"repository": text}), *wild("x")[1:]]
    facts: dict[str, Any] = dict.fromkeys(TEXTS, text)
    facts |= {"caller_tags": {"repository": text}, "tags": {text: text}, "chain": [text], "guardrails": [{text: text}]}
    part = {"request_id": text, "backend": text, "flag": text, "retry_after": text, "host": text, "deployed": text}
    note = json.dumps({**CALL, **facts})
    return [
        call("w.1", **facts),
        attempts("a.1", part),
        breaks("b.1", {"request_id": text, "left": text, "call": {"id": "w.2", **facts}}),
        event({"id": "w.3", "kind": "lost", "ended": AT, **facts}),
        event({"id": "w.4", "expired": True, "kept": {text: 7}, "note": note}),
        event({"id": text, "kind": text}),
        Event("place", AT, text.encode()),
    ]


def sluice(*words: str) -> str:
    result = CliRunner().invoke(app, list(words), catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.stdout


def has_no_power(shown: str) -> bool:
    """Whether a terminal only prints it, and no line is of somebody else's making."""
    return all(line.isprintable() for line in shown.split("\n"))


def taken(stores: sql.Stores, log: Spool, root: Path, text: str) -> None:
    """What a consumer makes of it."""
    given = wild(text)
    log.write([Settlement(f"{number}", (), one.data, AT) for number, one in enumerate(given)])
    log.keep(log.end, AT)
    with closing(SpoolBus(root)) as bus:
        assert Consumer(bus, stores.ledger).step() == len(given)


@pytest.mark.parametrize("text", WILD.values(), ids=WILD)
@pytest.mark.parametrize("kind", ["sqlite", "postgresql"])
def test_it_is_capped_and_stops_nobody(
    log: Spool, tmp_path: Path, kind: str, text: str, caplog: pytest.LogCaptureFixture
) -> None:
    with ledger_on(kind, tmp_path) as stores:
        caplog.set_level(logging.DEBUG)
        taken(stores, log, tmp_path / "spool", text)
        assert has_no_power(caplog.text)
        for name in ("w.1", "w.2", "w.3", "w.4"):
            ((row, _),) = stores.ledger.call(name)
            assert len(row.request_id) <= 200
            assert len(str(row)) < 60_000
            assert "\0" not in str(row)
        with stores.engine.connect() as connection:
            odd = connection.exec_driver_sql("SELECT reason, event FROM odd_events").all()
        assert all(len(reason) <= 200 and has_no_power(reason) and len(kept) <= 65_536 for reason, kept in odd)


@pytest.mark.parametrize("text", WILD.values(), ids=WILD)
def test_it_is_escaped_where_people_read_it(
    log: Spool, tmp_path: Path, text: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("gateway.yaml").write_text(GATEWAY)
    with ledger_on("sqlite", tmp_path) as stores:
        taken(stores, log, tmp_path / "spool", text)
    for name in ("w.1", "w.4"):
        told = sluice("explain", name)
        assert has_no_power(told)
        assert len(told) < 60_000
        assert json.loads(sluice("explain", name, "--json"))[0]["id"] == name
    for by in ("user,model", "tag:repository"):
        assert has_no_power(sluice("usage", *DAYS, "--by", by))
    head, *rest = csv.reader(io.StringIO(sluice("usage", *DAYS, "--by", "user,model", "--csv")))
    assert {len(row) for row in rest} == {len(head)}
