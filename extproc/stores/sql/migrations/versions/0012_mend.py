"""Which days lack their sums while these are made again."""

import sqlalchemy as sa
from alembic import op

revision = "0012"
down_revision = "0011"
kind = "expand"


def upgrade() -> None:
    op.add_column("ledger", sa.Column("lacks_first", sa.Date))
    op.add_column("ledger", sa.Column("lacks_end", sa.Date))
