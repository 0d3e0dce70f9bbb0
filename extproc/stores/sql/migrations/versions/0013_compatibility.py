"""Which versions can live with the schema: older ones cannot know the steps that made it."""

import sqlalchemy as sa
from alembic import op

revision = "0013"
down_revision = "0012"
kind = "expand"


def upgrade() -> None:
    compatibility = op.create_table(
        "compatibility",
        sa.Column("id", sa.Integer, primary_key=True),
        sa.Column("oldest", sa.String(32), nullable=False),
    )
    op.bulk_insert(compatibility, [{"id": 1, "oldest": "0005"}])
