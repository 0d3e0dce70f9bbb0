"""The tables, as the newest migration leaves them. Times are UTC without a zone."""

from sqlalchemy import (
    JSON,
    BigInteger,
    Boolean,
    Column,
    Date,
    DateTime,
    Index,
    Integer,
    MetaData,
    SmallInteger,
    String,
    Table,
    Text,
)

metadata = MetaData()

compatibility = Table(
    "compatibility",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("oldest", String(32), nullable=False),
)
"""One row: the oldest revision whose versions can live with the schema as it is."""

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

# ---- the ledger: what each column means is told by the rows of extproc/stores/ledger.py ----

ledger = Table(
    "ledger",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("batches", BigInteger, nullable=False),
    Column("zone", String(63), nullable=False),
    Column("lacks_first", Date),
    Column("lacks_end", Date),
)
"""One row. Every transaction that writes counts its batch first, which puts writers in a line. `zone`: of the days.

`lacks_first`, `lacks_end`: the days, without the last, whose sums are being made again, and are not there yet.
"""

calls = Table(
    "calls",
    metadata,
    Column("id", String(64), primary_key=True),
    Column("told", SmallInteger, nullable=False),
    Column("request_id", String(200), nullable=False),
    Column("ended_at", DateTime, nullable=False),
    Column("started_at", DateTime),
    Column("area", String(63), nullable=False),
    Column("team", String(63), nullable=False),
    Column("tier", String(63)),
    Column("user_name", String(320), nullable=False),
    Column("service_account", String(200)),
    Column("key_id", String(64), nullable=False),
    Column("key_name", String(200), nullable=False),
    Column("issuer", String(200)),
    Column("environment", String(63)),
    Column("surface", String(30)),
    Column("asked", String(200)),
    Column("model", String(200), nullable=False),
    Column("deployed", String(200)),
    Column("fallback", String(30)),
    Column("backend", String(127), nullable=False),
    Column("chain", Text),
    Column("stream", Boolean, nullable=False),
    Column("priority", String(10)),
    Column("client_retry", Integer),
    Column("config", String(64)),
    Column("session_id", String(200)),
    Column("turn", BigInteger),
    Column("tags", Text),
    Column("team_tags", Text),
    Column("status", BigInteger),
    Column("ending", String(20)),
    Column("refusal", String(63)),
    Column("blame", String(20)),
    Column("stop_reason", String(30)),
    Column("limit_name", String(200)),
    Column("source", String(10), nullable=False),
    Column("input", BigInteger, nullable=False),
    Column("output", BigInteger, nullable=False),
    Column("cached_input", BigInteger, nullable=False),
    Column("cache_write", BigInteger, nullable=False),
    Column("audio_input", BigInteger, nullable=False),
    Column("audio_output", BigInteger, nullable=False),
    Column("image_input", BigInteger, nullable=False),
    Column("image_output", BigInteger, nullable=False),
    Column("reasoning", BigInteger, nullable=False),
    Column("other_input", BigInteger, nullable=False),
    Column("other_output", BigInteger, nullable=False),
    Column("audio_ms", BigInteger, nullable=False),
    Column("images", BigInteger, nullable=False),
    Column("hosted_calls", BigInteger, nullable=False),
    Column("tool_calls", BigInteger),
    Column("cost", BigInteger),
    Column("currency", String(16), nullable=False),
    Column("price_version", String(64)),
    Column("aside", BigInteger),
    Column("cache", String(30)),
    Column("saved", BigInteger),
    Column("held_input", BigInteger),
    Column("held_output", BigInteger),
    Column("held_money", BigInteger),
    Column("overspent", Text),
    Column("overspent_money", BigInteger),
    Column("output_cap", BigInteger),
    Column("budgets", Text),
    Column("redacted", BigInteger, nullable=False),
    Column("policies", Text),
    Column("duration_ms", BigInteger),
    Column("first_byte_ms", BigInteger),
    Column("first_token_ms", BigInteger),
    Column("answer_bytes", BigInteger),
    Column("cache_write_1h", BigInteger, nullable=False, server_default="0"),
    Column("service_tier", String(20)),
    Column("stream_ms", BigInteger),
    Column("booked", Text),
)
Index("calls_request_id", calls.c.request_id)
# Rows come nearly in the order of time, so that a few bytes for each stretch of the table tell where a day lies.
Index("calls_ended_at", calls.c.ended_at, postgresql_using="brin")

attempts = Table(
    "attempts",
    metadata,
    Column("event", String(64), primary_key=True),
    Column("place", Integer, primary_key=True),
    Column("request_id", String(200), nullable=False),
    Column("started_at", DateTime, nullable=False),
    Column("backend", String(127), nullable=False),
    Column("deployed", String(200)),
    Column("status", BigInteger, nullable=False),
    Column("flag", String(63)),
    Column("retry_after", String(63)),
    Column("host", String(100)),
    Column("duration_ms", BigInteger),
)
Index("attempts_request_id", attempts.c.request_id)
Index("attempts_started_at", attempts.c.started_at, postgresql_using="brin")

breaks = Table(
    "breaks",
    metadata,
    Column("event", String(64), primary_key=True),
    Column("place", Integer, primary_key=True),
    Column("request_id", String(200), nullable=False),
    Column("started_at", DateTime, nullable=False),
    Column("blame", String(20), nullable=False),
)
Index("breaks_request_id", breaks.c.request_id)
Index("breaks_started_at", breaks.c.started_at, postgresql_using="brin")

odd_events = Table(
    "odd_events",
    metadata,
    Column("digest", String(64), primary_key=True),
    Column("came_at", DateTime, nullable=False),
    Column("reason", String(200), nullable=False),
    Column("event", Text, nullable=False),
)

usage_models = Table(
    "usage_models",
    metadata,
    Column("day", Date, primary_key=True),
    Column("area", String(63), primary_key=True),
    Column("team", String(63), primary_key=True),
    Column("model", String(200), primary_key=True),
    Column("backend", String(127), primary_key=True),
    Column("currency", String(16), primary_key=True),
    Column("calls", BigInteger, nullable=False),
    Column("failed", BigInteger, nullable=False),
    Column("estimated", BigInteger, nullable=False),
    Column("input", BigInteger, nullable=False),
    Column("output", BigInteger, nullable=False),
    Column("cached_input", BigInteger, nullable=False),
    Column("cache_write", BigInteger, nullable=False),
    Column("reasoning", BigInteger, nullable=False),
    Column("cost", BigInteger, nullable=False),
    Column("saved", BigInteger, nullable=False),
    Column("duration_ms", BigInteger, nullable=False),
)

usage_callers = Table(
    "usage_callers",
    metadata,
    Column("day", Date, primary_key=True),
    Column("area", String(63), primary_key=True),
    Column("team", String(63), primary_key=True),
    Column("user_name", String(320), primary_key=True),
    Column("key_id", String(64), primary_key=True),
    Column("currency", String(16), primary_key=True),
    Column("calls", BigInteger, nullable=False),
    Column("failed", BigInteger, nullable=False),
    Column("estimated", BigInteger, nullable=False),
    Column("input", BigInteger, nullable=False),
    Column("output", BigInteger, nullable=False),
    Column("cached_input", BigInteger, nullable=False),
    Column("cache_write", BigInteger, nullable=False),
    Column("reasoning", BigInteger, nullable=False),
    Column("cost", BigInteger, nullable=False),
    Column("saved", BigInteger, nullable=False),
    Column("duration_ms", BigInteger, nullable=False),
)

retention = Table(
    "retention",
    metadata,
    Column("what", String(20), primary_key=True),
    Column("until", DateTime, nullable=False),
)

erasures = Table(
    "erasures",
    metadata,
    Column("salt", String(32), primary_key=True),
    Column("digest", String(64), nullable=False),
    Column("before", DateTime, nullable=False),
)

budget_sums = Table(
    "budget_sums",
    metadata,
    Column("counter", String(64), primary_key=True),
    Column("first", BigInteger, primary_key=True),
    Column("last", BigInteger, primary_key=True),
    Column("sliding", BigInteger, primary_key=True),
    Column("limit_name", String(200), primary_key=True),
    Column("units", BigInteger, nullable=False),
)

# What each column means is told by AlertRow of extproc/stores/alerts.py.
alerts = Table(
    "alerts",
    metadata,
    Column("id", String(64), primary_key=True),
    Column("webhook", String(63), primary_key=True),
    Column("kind", String(20), nullable=False),
    Column("subject", String(200), nullable=False),
    Column("created_at", DateTime, nullable=False),
    Column("ends_at", DateTime),
    Column("facts", Text, nullable=False),
    Column("tries", Integer, nullable=False),
    Column("due_at", DateTime),
    Column("sent_at", DateTime),
    Column("outcome", String(40)),
)
