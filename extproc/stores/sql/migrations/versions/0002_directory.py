"""Areas, teams, members, emergency stops; what a key is for, and its rotation."""

from typing import Any

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
kind, oldest = "contract", "0002"  # a key's name is unique for its team alone


def _key_columns() -> tuple[sa.Column[Any], ...]:
    return (
        sa.Column("team", sa.String(63), nullable=False, server_default=""),
        sa.Column("user", sa.String(320)),
        sa.Column("service_account", sa.String(200)),
        sa.Column("environment", sa.String(63)),
        sa.Column("lifetime", sa.BigInteger),
        sa.Column("surfaces", sa.JSON),
        sa.Column("ip_ranges", sa.JSON),
        sa.Column("declared", sa.Boolean, nullable=False, server_default=sa.false()),
        sa.Column("lineage", sa.String(40), nullable=False, server_default=""),
        sa.Column("suspended_at", sa.DateTime),
        sa.Column("replaced_by", sa.String(40)),
        sa.Column("last_used_at", sa.DateTime),
        sa.Column("revision", sa.BigInteger, nullable=False, server_default="1"),
    )


def upgrade() -> None:
    directory = op.create_table(
        "directory",
        sa.Column("id", sa.Integer, primary_key=True),
        sa.Column("revision", sa.BigInteger, nullable=False),
    )
    op.bulk_insert(directory, [{"id": 1, "revision": 1}])
    _extend_keys()
    _create_teams()
    op.create_table(
        "areas",
        sa.Column("name", sa.String(63), primary_key=True),
        sa.Column("owners", sa.JSON, nullable=False),
        sa.Column("removed_at", sa.DateTime),
        sa.Column("revision", sa.BigInteger, nullable=False),
    )
    op.create_table(
        "stops",
        sa.Column("scope", sa.String(20), primary_key=True),
        sa.Column("name", sa.String(320), primary_key=True),
        sa.Column("reason", sa.String(500), nullable=False),
        sa.Column("created_at", sa.DateTime, nullable=False),
        sa.Column("lifted_at", sa.DateTime),
        sa.Column("revision", sa.BigInteger, nullable=False),
    )


def _extend_keys() -> None:
    for column in _key_columns():
        op.add_column("keys", column)
    op.execute(sa.text("UPDATE keys SET lineage = id"))
    op.create_index("ix_keys_revision", "keys", ["revision"])
    op.drop_index("keys_live_name", "keys")
    current = sa.text("revoked_at IS NULL AND replaced_by IS NULL")
    columns = ["team", "name"]
    op.create_index("keys_current_name", "keys", columns, unique=True, sqlite_where=current, postgresql_where=current)


def _create_teams() -> None:
    op.create_table(
        "teams",
        sa.Column("name", sa.String(63), primary_key=True),
        sa.Column("area", sa.String(63), nullable=False),
        sa.Column("owner", sa.String(320), nullable=False),
        sa.Column("tier", sa.String(63), nullable=False),
        sa.Column("models", sa.JSON),
        sa.Column("ip_ranges", sa.JSON, nullable=False),
        sa.Column("tags", sa.JSON, nullable=False),
        sa.Column("removed_at", sa.DateTime),
        sa.Column("revision", sa.BigInteger, nullable=False),
    )
    op.create_index("ix_teams_revision", "teams", ["revision"])
    op.create_table(
        "members",
        sa.Column("team", sa.String(63), primary_key=True),
        sa.Column("kind", sa.String(20), primary_key=True),
        sa.Column("name", sa.String(320), primary_key=True),
        sa.Column("role", sa.String(20), nullable=False),
        sa.Column("client_id", sa.String(200)),
    )
