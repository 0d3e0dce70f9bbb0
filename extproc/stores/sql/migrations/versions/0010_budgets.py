"""What limits have booked in windows of an hour and more, from which the counters can be made again."""

import sqlalchemy as sa
from alembic import op

revision = "0010"
down_revision = "0009"
kind = "expand"


def upgrade() -> None:
    op.add_column("calls", sa.Column("booked", sa.Text))
    op.create_table(
        "budget_sums",
        sa.Column("counter", sa.String(64), primary_key=True),
        sa.Column("first", sa.BigInteger, primary_key=True),
        sa.Column("last", sa.BigInteger, primary_key=True),
        sa.Column("sliding", sa.BigInteger, primary_key=True),
        sa.Column("limit_name", sa.String(200), primary_key=True),
        sa.Column("units", sa.BigInteger, nullable=False),
    )
