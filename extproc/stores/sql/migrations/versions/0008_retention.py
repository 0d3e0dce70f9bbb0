"""How far the ledger has let go of what is past its time, and who has been erased from it."""

import sqlalchemy as sa
from alembic import op

revision = "0008"
down_revision = "0007"
kind = "expand"


def upgrade() -> None:
    op.create_table(
        "retention",
        sa.Column("what", sa.String(20), primary_key=True),
        sa.Column("until", sa.DateTime, nullable=False),
    )
    op.create_table(
        "erasures",
        sa.Column("salt", sa.String(32), primary_key=True),
        sa.Column("digest", sa.String(64), nullable=False),
        sa.Column("before", sa.DateTime, nullable=False),
    )
    for table in ("attempts", "breaks"):
        op.create_index(f"{table}_started_at", table, ["started_at"], postgresql_using="brin")
