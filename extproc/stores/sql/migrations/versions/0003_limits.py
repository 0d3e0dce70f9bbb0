"""Limits of teams and keys, and the priority of a key."""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
kind = "expand"


def upgrade() -> None:
    op.add_column("keys", sa.Column("limits", sa.JSON))
    op.add_column("keys", sa.Column("priority", sa.String(10), nullable=False, server_default="high"))
    op.add_column("teams", sa.Column("limits", sa.JSON))
