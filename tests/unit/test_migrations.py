"""What each migration says of itself is true: one that expands only adds, and the version before can live with it."""

from collections.abc import Callable, Sequence
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any
from unittest.mock import MagicMock

import pytest
import sqlalchemy as sa
from alembic.config import Config
from alembic.script import ScriptDirectory

from extproc.stores.sql import migrations


def _scripts() -> dict[str, ModuleType]:
    config = Config()
    config.set_main_option("script_location", str(Path(migrations.__file__).parent))
    steps = [*ScriptDirectory.from_config(config).walk_revisions()]
    return {step.revision: step.module for step in reversed(steps)}


SCRIPTS = _scripts()


class Recorder:
    """In the place of Alembic's operations: notes what a version would not bear that does not know of the step."""

    def __init__(self) -> None:
        self.faults: list[str] = []
        self._made: set[str] = set()

    def create_table(self, name: str, *columns: sa.Column[Any], **_: object) -> sa.Table:
        self._made.add(name)
        table = sa.Table(name, sa.MetaData(), *columns)
        self.faults += [f"foreign key of {name}" for key in table.foreign_key_constraints if self._holds_up(key)]
        return table

    def _holds_up(self, key: sa.ForeignKeyConstraint) -> bool:
        """Whether rows of a table that is there could not be deleted by who does not know of those that name them."""
        named = key.elements[0].target_fullname.rpartition(".")[0]
        return named not in self._made and key.ondelete not in ("CASCADE", "SET NULL")

    def bulk_insert(self, table: sa.Table, _rows: Sequence[object]) -> None:
        if table.name not in self._made:
            self.faults.append(f"rows into {table.name}")

    def add_column(self, table: str, column: sa.Column[Any]) -> None:
        may_lack = column.nullable or column.server_default is not None
        if not may_lack or column.unique or column.foreign_keys or column.constraints:
            self.faults.append(f"column {table}.{column.name}")

    def create_index(self, name: str, table: str, _columns: object, unique: bool = False, **_: object) -> None:
        if unique and table not in self._made:
            self.faults.append(f"unique index {name}")

    def __getattr__(self, name: str) -> MagicMock:
        """Anything else changes what is there."""
        self.faults.append(name)
        return MagicMock()


def faults(step: ModuleType | SimpleNamespace, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    recorder = Recorder()
    monkeypatch.setattr(step, "op", recorder)
    step.upgrade()
    return recorder.faults


@pytest.mark.parametrize("revision", SCRIPTS)
def test_a_step_that_expands_only_adds(revision: str, monkeypatch: pytest.MonkeyPatch) -> None:
    step = SCRIPTS[revision]
    assert step.kind in ("expand", "contract")
    assert hasattr(step, "oldest") == (step.kind == "contract")
    assert bool(faults(step, monkeypatch)) == (step.kind == "contract"), "it says of itself what it is not"


def test_what_contracts_is_lived_with_by_a_version_that_there_was_and_by_none_older_than_before() -> None:
    named = [(revision, step.oldest) for revision, step in SCRIPTS.items() if step.kind == "contract"]
    assert all(oldest in SCRIPTS and oldest <= revision for revision, oldest in named)
    assert [oldest for _, oldest in named] == sorted(oldest for _, oldest in named)


@pytest.mark.parametrize(
    "step",
    [
        lambda op: op.add_column("calls", sa.Column("x", sa.Integer, nullable=False)),
        lambda op: op.add_column("calls", sa.Column("x", sa.Integer, unique=True)),
        lambda op: op.add_column("calls", sa.Column("x", sa.Integer, sa.ForeignKey("keys.id"))),
        lambda op: op.create_table("x", sa.Column("key", sa.String, sa.ForeignKey("keys.id"))),
        lambda op: op.create_table(
            "x", sa.Column("a"), sa.ForeignKeyConstraint(["a"], ["keys.id"], ondelete="RESTRICT")
        ),
        lambda op: op.create_index("x", "calls", ["team"], unique=True),
        lambda op: op.drop_column("calls", "team"),
        lambda op: op.drop_index("calls_request_id", "calls"),
        lambda op: op.execute("DELETE FROM calls"),
        lambda op: op.bulk_insert(sa.table("calls"), []),
        lambda op: op.batch_alter_table("calls").__enter__().alter_column("team"),
    ],
    ids=[
        *("needed", "unique", "foreign", "table-foreign", "table-restrict", "unique-index"),
        *("drop", "drop-index", "execute", "rows", "alter"),
    ],
)
def test_that_test_sees_what_does_not_only_add(step: Callable[[Any], object], monkeypatch: pytest.MonkeyPatch) -> None:
    made = SimpleNamespace(op=None)
    made.upgrade = lambda: step(made.op)
    assert len(faults(made, monkeypatch)) == 1


def test_a_table_whose_rows_go_with_those_that_they_name_only_adds(monkeypatch: pytest.MonkeyPatch) -> None:
    def upgrade() -> None:
        named = sa.ForeignKey("keys.id", ondelete="CASCADE")
        made.op.create_table("x", sa.Column("id", sa.Integer, primary_key=True), sa.Column("key", sa.String, named))
        made.op.create_table("y", sa.Column("x", sa.Integer, sa.ForeignKey("x.id")))

    made = SimpleNamespace(op=None, upgrade=upgrade)
    assert not faults(made, monkeypatch)
