"""What every call used and cost: who writes it, by which days, and what callers may tell beside it."""

from datetime import timedelta
from typing import Annotated, Self

from pydantic import AfterValidator, Field, model_validator

from extproc.config.fields import Duration, Strict
from extproc.config.limits import Zone

Age = Annotated[Duration, Field(ge=timedelta(days=7))]
"""Old enough that nothing waits on the usage bus any more, and could come again."""


Header = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9-]{0,62}$")]
TagName = Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]{0,30}$")]
SESSIONS = ("x-session-id", "x-claude-code-session-id", "session-id", "x-opencode-session", "x-openwebui-chat-id")
"""Any client; Claude Code; Codex; OpenCode; Open WebUI."""
_SECRETS = frozenset(("authorization", "api-key", "x-api-key", "cookie", "proxy-authorization"))


def _named_once(names: list[str]) -> list[str]:
    if len(set(map(str.lower, names))) < len(names):
        raise ValueError("name each once")
    return names


def _no_secrets(names: list[str]) -> list[str]:
    for name in names:
        if name.lower() in _SECRETS:
            raise ValueError(f"{name} holds a secret, which the ledger never has")
    return _named_once(names)


class Keep(Strict):
    """How long the ledger keeps what; absent: for ever. Told by the hour."""

    calls: Age | None = Field(default=None, description="rows of calls; the sums by day stay")
    attempts: Age | None = Field(default=None, description="rows of attempts, and of who broke calls off")
    people: Age | None = Field(
        default=None,
        description="who made a call, in which session and with which tags: after that rows and sums by day have "
        "no user any more, and the same totals",
    )
    odd: Age | None = Field(default=None, description="events that could not be read")
    sums: Age | None = Field(default=None, description="sums by day")

    @model_validator(mode="after")
    def _fit(self) -> Self:
        if self.sums is not None and (self.calls is None or self.calls > self.sums):
            raise ValueError(
                "`sums` may not go before `calls`, which they are of: give `calls` a time that is no longer"
            )
        return self


class Ledger(Strict):
    """What every call used and cost, a row each in `stores.database`."""

    consumer: bool = Field(
        default=True,
        description="`sluice up` and `serve` write it themselves; false where `sluice ledger run` is a process of its "
        "own, which then must run: what waits for it is kept for a bounded time",
    )
    zone: Zone = Field(
        default="UTC",
        description="time zone of the days of reports, such as Europe/Zurich; after a change the sums by day are made "
        "again at the start, which takes minutes for ten million calls, and with SQLite keeps others from writing",
    )
    keep: Keep = Field(default=Keep(), description="how long")
    sessions: Annotated[list[Header], Field(max_length=16), AfterValidator(_no_secrets)] = Field(
        default=list(SESSIONS),
        description="headers that name the session of a call, the first that it has; without one its body tells",
    )
    tags: Annotated[list[TagName], Field(max_length=8), AfterValidator(_named_once)] = Field(
        default=[],
        description="tags that callers may give their calls, such as repository and pull_request, in a header "
        "`x-sluice-tag-pull-request` or in `metadata` of the body; others are not kept",
    )
