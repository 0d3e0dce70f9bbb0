"""The tables, as the newest migration leaves them. Times are UTC without a zone."""

from sqlalchemy import (
    JSON,
    BigInteger,
    Boolean,
    Column,
    DateTime,
    Index,
    Integer,
    MetaData,
    String,
    Table,
    Text,
)

metadata = MetaData()

directory = Table(
    "directory",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("revision", BigInteger, nullable=False),
)
"""One row. Every transaction that writes raises the revision first, which also puts writers in a line."""

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
    Column("team", String(63), nullable=False, server_default=""),
    Column("user", String(320)),
    Column("service_account", String(200)),
    Column("environment", String(63)),
    Column("lifetime", BigInteger),  # seconds
    Column("surfaces", JSON(none_as_null=True)),
    Column("ip_ranges", JSON(none_as_null=True)),
    Column("declared", Boolean, nullable=False, server_default="0"),
    Column("lineage", String(40), nullable=False, server_default=""),
    Column("suspended_at", DateTime),
    Column("replaced_by", String(40)),
    Column("last_used_at", DateTime),
    Column("revision", BigInteger, nullable=False, server_default="1", index=True),
    Column("limits", JSON(none_as_null=True)),
    Column("priority", String(10), nullable=False, server_default="high"),
)
# One current key of a name in a team; revoked and replaced ones keep theirs.
_current = keys.c.revoked_at.is_(None) & keys.c.replaced_by.is_(None)
Index(
    "keys_current_name",
    keys.c.team,
    keys.c.name,
    unique=True,
    sqlite_where=_current,
    postgresql_where=_current,
)

teams = Table(
    "teams",
    metadata,
    Column("name", String(63), primary_key=True),
    Column("area", String(63), nullable=False),
    Column("owner", String(320), nullable=False),
    Column("tier", String(63), nullable=False),
    Column("models", JSON(none_as_null=True)),
    Column("ip_ranges", JSON, nullable=False),
    Column("tags", JSON, nullable=False),
    Column("removed_at", DateTime),
    Column("revision", BigInteger, nullable=False, index=True),
    Column("limits", JSON(none_as_null=True)),
    Column("redaction", String(63), nullable=False, server_default="default"),
    Column("guardrails", String(63), nullable=False, server_default="default"),
    Column("providers", JSON(none_as_null=True)),
    Column("regions", JSON(none_as_null=True)),
    Column("brought", Text),  # JSON, and read as such by those alone who need it: a damaged one hurts nobody else
)

members = Table(
    "members",
    metadata,
    Column("team", String(63), primary_key=True),
    Column("kind", String(20), primary_key=True),
    Column("name", String(320), primary_key=True),
    Column("role", String(20), nullable=False),
    Column("client_id", String(200)),
)

areas = Table(
    "areas",
    metadata,
    Column("name", String(63), primary_key=True),
    Column("owners", JSON, nullable=False),
    Column("removed_at", DateTime),
    Column("revision", BigInteger, nullable=False),
)

stops = Table(
    "stops",
    metadata,
    Column("scope", String(20), primary_key=True),
    Column("name", String(320), primary_key=True),
    Column("reason", String(500), nullable=False),
    Column("created_at", DateTime, nullable=False),
    Column("lifted_at", DateTime),
    Column("revision", BigInteger, nullable=False),
)

affinity = Table(
    "affinity",
    metadata,
    Column("digest", String(64), primary_key=True),
    Column("backend", String(127), nullable=False),
    Column("model", String(200), nullable=False),
    Column("owner", String(40), nullable=False),
    Column("expires_at", DateTime, nullable=False, index=True),
)
