"""The policies of redaction and guardrails that teams name."""

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"
kind = "expand"


def upgrade() -> None:
    for name in ("redaction", "guardrails"):
        op.add_column("teams", sa.Column(name, sa.String(63), nullable=False, server_default="default"))
