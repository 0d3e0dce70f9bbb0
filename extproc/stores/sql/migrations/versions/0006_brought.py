"""The backends and models that teams bring. Their names are longer than those of the gateway's own."""

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"
kind, oldest = "contract", "0005"  # a column gets wider


def upgrade() -> None:
    op.add_column("teams", sa.Column("brought", sa.Text))
    with op.batch_alter_table("affinity") as affinity:
        affinity.alter_column("backend", existing_type=sa.String(64), type_=sa.String(127), existing_nullable=False)
