"""What else the ledger has of a call: how long its answer flowed, in which tier, and writes to a cache for an hour."""

import sqlalchemy as sa
from alembic import op

revision = "0009"
down_revision = "0008"
kind = "expand"


def upgrade() -> None:
    op.add_column("calls", sa.Column("cache_write_1h", sa.BigInteger, nullable=False, server_default="0"))
    op.add_column("calls", sa.Column("service_tier", sa.String(20)))
    op.add_column("calls", sa.Column("stream_ms", sa.BigInteger))
