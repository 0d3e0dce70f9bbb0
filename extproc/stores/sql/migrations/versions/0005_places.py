"""The providers and regions that calls of a team may go to; NULL: all."""

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"
kind = "expand"


def upgrade() -> None:
    for name in ("providers", "regions"):
        op.add_column("teams", sa.Column(name, sa.JSON(none_as_null=True)))
