"""The tables, as the newest migration leaves them."""

from sqlalchemy import JSON, Column, DateTime, Index, MetaData, String, Table

metadata = MetaData()

keys = Table(
    "keys",
    metadata,
    Column("id", String(40), primary_key=True),
    Column("digest", String(64), nullable=False, unique=True),
    Column("name", String(200), nullable=False, index=True),
    Column("hint", String(40), nullable=False),
    Column("created_at", DateTime, nullable=False),
    Column("expires_at", DateTime),
    Column("revoked_at", DateTime),
    Column("models", JSON(none_as_null=True)),
)
# One unrevoked key of a name; revoked ones keep theirs.
Index(
    "keys_live_name",
    keys.c.name,
    unique=True,
    sqlite_where=keys.c.revoked_at.is_(None),
    postgresql_where=keys.c.revoked_at.is_(None),
)

affinity = Table(
    "affinity",
    metadata,
    Column("digest", String(64), primary_key=True),
    Column("backend", String(64), nullable=False),
    Column("model", String(200), nullable=False),
    Column("owner", String(40), nullable=False),
    Column("expires_at", DateTime, nullable=False, index=True),
)
