"""Messages to webhooks, and what became of them."""

import sqlalchemy as sa
from alembic import op

revision = "0011"
down_revision = "0010"
kind = "expand"


def upgrade() -> None:
    op.create_table(
        "alerts",
        sa.Column("id", sa.String(64), primary_key=True),
        sa.Column("webhook", sa.String(63), primary_key=True),
        sa.Column("kind", sa.String(20), nullable=False),
        sa.Column("subject", sa.String(200), nullable=False),
        sa.Column("created_at", sa.DateTime, nullable=False),
        sa.Column("ends_at", sa.DateTime),
        sa.Column("facts", sa.Text, nullable=False),
        sa.Column("tries", sa.Integer, nullable=False),
        sa.Column("due_at", sa.DateTime),
        sa.Column("sent_at", sa.DateTime),
        sa.Column("outcome", sa.String(40)),
    )
