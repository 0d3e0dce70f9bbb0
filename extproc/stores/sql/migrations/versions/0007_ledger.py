"""The ledger: a row for each call and each attempt, what could not be read, and sums by day."""

from typing import Any

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"
kind = "expand"


def upgrade() -> None:
    ledger = op.create_table(
        "ledger",
        sa.Column("id", sa.Integer, primary_key=True),
        sa.Column("batches", sa.BigInteger, nullable=False),
        sa.Column("zone", sa.String(63), nullable=False),
    )
    op.bulk_insert(ledger, [{"id": 1, "batches": 0, "zone": "UTC"}])
    _create_calls()
    _create_others()
    _create_sums("usage_models", ("model", 200), ("backend", 127))
    _create_sums("usage_callers", ("user_name", 320), ("key_id", 64))


def _create_calls() -> None:
    op.create_table("calls", *_call_columns(), *_usage_columns(), *_other_columns())
    op.create_index("calls_request_id", "calls", ["request_id"])
    op.create_index("calls_ended_at", "calls", ["ended_at"], postgresql_using="brin")


def _call_columns() -> tuple[sa.Column[Any], ...]:
    return (
        sa.Column("id", sa.String(64), primary_key=True),
        sa.Column("told", sa.SmallInteger, nullable=False),
        sa.Column("request_id", sa.String(200), nullable=False),
        sa.Column("ended_at", sa.DateTime, nullable=False),
        sa.Column("started_at", sa.DateTime),
        sa.Column("area", sa.String(63), nullable=False),
        sa.Column("team", sa.String(63), nullable=False),
        sa.Column("tier", sa.String(63)),
        sa.Column("user_name", sa.String(320), nullable=False),
        sa.Column("service_account", sa.String(200)),
        sa.Column("key_id", sa.String(64), nullable=False),
        sa.Column("key_name", sa.String(200), nullable=False),
        sa.Column("issuer", sa.String(200)),
        sa.Column("environment", sa.String(63)),
        sa.Column("surface", sa.String(30)),
        sa.Column("asked", sa.String(200)),
        sa.Column("model", sa.String(200), nullable=False),
        sa.Column("deployed", sa.String(200)),
        sa.Column("fallback", sa.String(30)),
        sa.Column("backend", sa.String(127), nullable=False),
        sa.Column("chain", sa.Text),
        sa.Column("stream", sa.Boolean, nullable=False),
        sa.Column("priority", sa.String(10)),
        sa.Column("client_retry", sa.Integer),
        sa.Column("config", sa.String(64)),
        sa.Column("session_id", sa.String(200)),
        sa.Column("turn", sa.BigInteger),
        sa.Column("tags", sa.Text),
        sa.Column("team_tags", sa.Text),
        sa.Column("status", sa.BigInteger),
        sa.Column("ending", sa.String(20)),
        sa.Column("refusal", sa.String(63)),
        sa.Column("blame", sa.String(20)),
        sa.Column("stop_reason", sa.String(30)),
        sa.Column("limit_name", sa.String(200)),
    )


def _usage_columns() -> tuple[sa.Column[Any], ...]:
    return (
        sa.Column("source", sa.String(10), nullable=False),
        sa.Column("input", sa.BigInteger, nullable=False),
        sa.Column("output", sa.BigInteger, nullable=False),
        sa.Column("cached_input", sa.BigInteger, nullable=False),
        sa.Column("cache_write", sa.BigInteger, nullable=False),
        sa.Column("audio_input", sa.BigInteger, nullable=False),
        sa.Column("audio_output", sa.BigInteger, nullable=False),
        sa.Column("image_input", sa.BigInteger, nullable=False),
        sa.Column("image_output", sa.BigInteger, nullable=False),
        sa.Column("reasoning", sa.BigInteger, nullable=False),
        sa.Column("other_input", sa.BigInteger, nullable=False),
        sa.Column("other_output", sa.BigInteger, nullable=False),
        sa.Column("audio_ms", sa.BigInteger, nullable=False),
        sa.Column("images", sa.BigInteger, nullable=False),
        sa.Column("hosted_calls", sa.BigInteger, nullable=False),
        sa.Column("tool_calls", sa.BigInteger),
    )


def _other_columns() -> tuple[sa.Column[Any], ...]:
    return (
        sa.Column("cost", sa.BigInteger),
        sa.Column("currency", sa.String(16), nullable=False),
        sa.Column("price_version", sa.String(64)),
        sa.Column("aside", sa.BigInteger),
        sa.Column("cache", sa.String(30)),
        sa.Column("saved", sa.BigInteger),
        sa.Column("held_input", sa.BigInteger),
        sa.Column("held_output", sa.BigInteger),
        sa.Column("held_money", sa.BigInteger),
        sa.Column("overspent", sa.Text),
        sa.Column("overspent_money", sa.BigInteger),
        sa.Column("output_cap", sa.BigInteger),
        sa.Column("budgets", sa.Text),
        sa.Column("redacted", sa.BigInteger, nullable=False),
        sa.Column("policies", sa.Text),
        sa.Column("duration_ms", sa.BigInteger),
        sa.Column("first_byte_ms", sa.BigInteger),
        sa.Column("first_token_ms", sa.BigInteger),
        sa.Column("answer_bytes", sa.BigInteger),
    )


def _create_others() -> None:
    op.create_table(
        "attempts",
        sa.Column("event", sa.String(64), primary_key=True),
        sa.Column("place", sa.Integer, primary_key=True),
        sa.Column("request_id", sa.String(200), nullable=False),
        sa.Column("started_at", sa.DateTime, nullable=False),
        sa.Column("backend", sa.String(127), nullable=False),
        sa.Column("deployed", sa.String(200)),
        sa.Column("status", sa.BigInteger, nullable=False),
        sa.Column("flag", sa.String(63)),
        sa.Column("retry_after", sa.String(63)),
        sa.Column("host", sa.String(100)),
        sa.Column("duration_ms", sa.BigInteger),
    )
    op.create_index("attempts_request_id", "attempts", ["request_id"])
    op.create_table(
        "breaks",
        sa.Column("event", sa.String(64), primary_key=True),
        sa.Column("place", sa.Integer, primary_key=True),
        sa.Column("request_id", sa.String(200), nullable=False),
        sa.Column("started_at", sa.DateTime, nullable=False),
        sa.Column("blame", sa.String(20), nullable=False),
    )
    op.create_index("breaks_request_id", "breaks", ["request_id"])
    op.create_table(
        "odd_events",
        sa.Column("digest", sa.String(64), primary_key=True),
        sa.Column("came_at", sa.DateTime, nullable=False),
        sa.Column("reason", sa.String(200), nullable=False),
        sa.Column("event", sa.Text, nullable=False),
    )


def _create_sums(name: str, *own: tuple[str, int]) -> None:
    amounts = ("calls", "failed", "estimated", "input", "output", "cached_input", "cache_write", "reasoning")
    op.create_table(
        name,
        sa.Column("day", sa.Date, primary_key=True),
        *[sa.Column(text, sa.String(63), primary_key=True) for text in ("area", "team")],
        *[sa.Column(text, sa.String(length), primary_key=True) for text, length in own],
        sa.Column("currency", sa.String(16), primary_key=True),
        *[sa.Column(amount, sa.BigInteger, nullable=False) for amount in (*amounts, "cost", "saved", "duration_ms")],
    )
