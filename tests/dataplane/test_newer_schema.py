"""A gateway on a database that a newer version has added to, as the pods of the version before are in an upgrade."""

import sqlite3
from contextlib import closing

from extproc.stores import sql
from tests.support.fake import FakeProvider
from tests.support.gateway import RunningGateway, until

CALL = {"model": "gpt-4o", "messages": [{"role": "user", "content": "Hello!"}]}
ADDED = """
ALTER TABLE calls ADD COLUMN colour VARCHAR(20);
ALTER TABLE calls ADD COLUMN weight BIGINT DEFAULT 7 NOT NULL;
CREATE TABLE colours (name VARCHAR(20) PRIMARY KEY);
CREATE INDEX calls_colour ON calls (colour);
UPDATE alembic_version SET version_num = '9998';
"""


def test_it_starts_serves_and_writes_the_ledger() -> None:
    with FakeProvider("one") as provider:
        settings = {
            "backends": {"one": {"dialect": "openai", "url": provider.url("one")}},
            "models": {"gpt-4o": {"targets": [[{"backend": "one"}]]}},
        }
        gateway = RunningGateway(settings)
        path = gateway.folder / "sluice.db"
        sql.upgrade(f"sqlite:///{path}")
        with closing(sqlite3.connect(path)) as newer:
            newer.executescript(ADDED)
        with gateway, gateway.client() as client:
            assert client.post("/v1/chat/completions", json=CALL).status_code == 200
            with closing(sqlite3.connect(path)) as ledger:
                until(lambda: ledger.execute("SELECT ending, colour, weight FROM calls").fetchall())
                assert ledger.execute("SELECT ending, colour, weight FROM calls").fetchall() == [("complete", None, 7)]
            assert "written by a newer version of Sluice, and this one can live with its schema" in gateway.log()
