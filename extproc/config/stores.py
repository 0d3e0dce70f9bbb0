"""Where state lives, and how the gateway signs in there."""

from collections.abc import Iterator, Mapping
from datetime import timedelta
from pathlib import Path
from typing import Annotated, Self, TypeVar
from urllib.parse import parse_qs, urlsplit

from pydantic import AfterValidator, Field, model_validator

from extproc import password_files
from extproc.config.fields import Duration, Entra, Scope, Strict, has_port

TOKENS = "tokens"
"""The folder in `state_dir` of the tokens for stores."""

MEMORY = "memory://"
"""Counters in the memory of each worker."""


def _counters(value: str) -> str:
    """The URL of a store of counters. It may hold a password, so that no message repeats any of it."""
    try:
        parts = urlsplit(value)
        is_server = parts.scheme in ("redis", "rediss") and bool(parts.hostname) and has_port(parts)
        is_socket = parts.scheme == "unix" and parts.path.startswith("/")
    except ValueError:
        is_server = is_socket = False
    if value != MEMORY and not is_server and not is_socket:
        raise ValueError("must be memory://, or like redis://host:6379/0, rediss://user:password@host or unix:///path")
    return value


class DatabaseEntra(Entra):
    """Tokens of Microsoft Entra for PostgreSQL, in place of a password. The user of the URL is the identity's there."""

    scope: Scope = Field(
        default="https://ossrdbms-aad.database.windows.net/.default",
        description="what the tokens are for, with /.default",
    )


class RedisEntra(Entra):
    """Tokens of Microsoft Entra for Redis, in place of a password. The user of the URL is the identity's object id."""

    scope: Scope = Field(
        default="https://redis.azure.com/.default", description="what the tokens are for, with /.default"
    )


class DatabaseCredential(Strict):
    """Where the password of the database comes from: exactly one source."""

    file: Path | None = Field(default=None, description="file whose content is the password; read for every connection")
    entra: DatabaseEntra | None = Field(default=None, description="a token of Microsoft Entra")

    @model_validator(mode="after")
    def _one_source(self) -> Self:
        return _with_one_source(self)


class RedisCredential(Strict):
    """Where the password of a Redis comes from: exactly one source."""

    file: Path | None = Field(
        default=None, description="file whose content is the password; a newer one is told on live connections, too"
    )
    entra: RedisEntra | None = Field(default=None, description="a token of Microsoft Entra")

    @model_validator(mode="after")
    def _one_source(self) -> Self:
        return _with_one_source(self)


StoreCredential = DatabaseCredential | RedisCredential
AnyCredential = TypeVar("AnyCredential", bound=StoreCredential)


def _with_one_source(credential: AnyCredential) -> AnyCredential:
    if (credential.file is None) == (credential.entra is None):
        raise ValueError("give exactly one of `file` and `entra`")
    return credential


class Stores(Strict):
    """Where state lives."""

    database: str = Field(
        default="sqlite:///var/sluice.db",
        pattern=r"^(sqlite:///|postgresql\+?\w*://).+",
        description="keys, the affinity of stateful calls and the ledger: a SQLite file or a PostgreSQL URL",
    )
    database_credential: DatabaseCredential | None = Field(
        default=None, description="where PostgreSQL's password comes from, where it does not stand in the URL"
    )
    migrate: bool = Field(
        default=True,
        description="a start, and commands that write, bring the database to the schema of their version; false: "
        "`sluice db upgrade` alone does, and they refuse one that is older",
    )
    counters: Annotated[str, AfterValidator(_counters)] = Field(
        default=MEMORY,
        repr=False,
        description="what is used of limits: memory:// for a single worker, or Redis as redis://, rediss:// (TLS) or "
        "unix:///path; a password as `${NAME}`",
    )
    counters_credential: RedisCredential | None = Field(
        default=None, description="where the password of that Redis comes from, where it does not stand in the URL"
    )
    counters_wait: Duration = Field(
        default=timedelta(milliseconds=50),
        le=timedelta(seconds=1),
        description="how long a call waits for the counters, at most 1s; then `on_error` of each limit decides",
    )
    answers: Annotated[str, AfterValidator(_counters)] | None = Field(
        default=None,
        repr=False,
        description="answers that are given again, see `cache`: memory:// (each worker its own), or a Redis; absent: "
        "as `counters`",
    )
    answers_credential: RedisCredential | None = Field(
        default=None, description="the same for the Redis of `answers`, where that is named"
    )
    counters_prefix: str = Field(
        default="sluice",
        pattern=r"^[A-Za-z0-9][A-Za-z0-9._:/@+-]*$",
        max_length=64,
        description="what the names of all our keys in Redis begin with; the same for all gateways that count together",
    )

    @property
    def answers_at(self) -> str:
        """Where answers are kept that are given again."""
        return self.counters if self.answers is None else self.answers

    @property
    def credentials(self) -> Mapping[str, StoreCredential]:
        """By the setting whose store they open."""
        given = {
            "database": self.database_credential,
            "counters": self.counters_credential,
            "answers": self.answers_credential,
        }
        return {name: credential for name, credential in given.items() if credential is not None}

    def with_passwords(self, state: Path) -> "Stores":
        """The same, with URLs that name the files of passwords; those of tokens are in the folder TOKENS of `state`."""
        files = {name: credential.file or state / TOKENS / name for name, credential in self.credentials.items()}
        return self.model_copy(
            update={name: password_files.named(self._url(name), file) for name, file in files.items()}
        )

    def _url(self, name: str) -> str:
        return {"database": self.database, "counters": self.counters, "answers": self.answers or MEMORY}[name]

    @model_validator(mode="after")
    def _opened_safely(self) -> Self:
        problems = [problem for name in self.credentials for problem in self._problems(name)]
        if problems:
            raise ValueError("\n".join(problems))
        return self

    def _problems(self, name: str) -> Iterator[str]:
        url, field = urlsplit(self._url(name)), f"{name}_credential"
        if url.scheme in ("memory", "sqlite"):
            yield f"{field}: `{name}` is no server that one signs in to"
            return
        if url.password is not None:
            yield f"{field}: the password stands in `{name}` already; give one of the two"
        if self.credentials[name].entra is None:
            return
        if not url.username:
            whose = "of the identity's role there" if name == "database" else "the identity's object id"
            yield f"{field}: a token is of somebody: give the user in the URL of `{name}`, {whose}"
        if name == "database" and parse_qs(url.query).get("sslmode") != ["verify-full"]:
            yield f"{field}: a token goes to the right server alone: `{name}` needs sslmode=verify-full"
        if name != "database" and url.scheme != "rediss":
            yield f"{field}: a token goes to the right server alone: `{name}` must begin with rediss://"
