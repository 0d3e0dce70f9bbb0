"""Traces and logs by OpenTelemetry: where they go, and how many."""

import re
from collections.abc import Iterator, Mapping
from typing import Annotated

from pydantic import AfterValidator, Field

from extproc.config.fields import LocalSecret, Strict, check_endpoint

_TOKEN = re.compile(r"[a-z0-9!#$%&'*+.^_`|~-]{1,64}")
_VALUE = re.compile(r"[\x20-\x7e]{1,8192}")
_OURS = frozenset({"connection", "content-encoding", "content-length", "content-type", "host", "transfer-encoding"})
_READ = frozenset({"OTEL_SERVICE_NAME", "OTEL_RESOURCE_ATTRIBUTES"})
_SIGNALS = ("/v1/traces", "/v1/logs", "/v1/metrics")


def _header(name: str) -> str:
    if not _TOKEN.fullmatch(name):
        raise ValueError("must be the name of a header in small letters")
    if name in _OURS:
        raise ValueError("is a header that the gateway itself sets")
    return name


def unread(environ: Mapping[str, str]) -> Iterator[str]:
    """What to tell of OpenTelemetry's own variables that are set and say nothing here."""
    names = sorted(name for name in environ if name.startswith("OTEL_") and name not in _READ)
    if names:
        read = " and ".join(sorted(_READ))
        yield f"not read: {', '.join(names)}. Write what they say under `telemetry`; of OTEL_ variables only {read} are"


def secret_problem(source: LocalSecret, environ: Mapping[str, str]) -> str:
    """Why a header cannot be sent, without its value; empty where it can."""
    where = source.file or source.env
    try:
        value = source.file.read_text(encoding="latin-1") if source.file is not None else environ.get(source.env or "")
    except OSError as error:
        return f"the file {where} cannot be read ({error.strerror})"
    if value is None:
        return f"the environment variable {where} is not set"
    return "" if _VALUE.fullmatch(value.strip()) else f"what is in {where} cannot be the value of a header"


def _base(url: str) -> str:
    check_endpoint(url)
    if url.rstrip("/").endswith(_SIGNALS):
        raise ValueError("must end before /v1/traces and /v1/logs, which are added")
    return url.rstrip("/")


class Exporting(Strict):
    """Where a signal goes: a collector, or what takes OTLP over HTTP in its place."""

    endpoint: Annotated[str, AfterValidator(_base)] = Field(
        description="http(s)://host:port[/prefix] of what takes OTLP over HTTP; the path of the signal is added"
    )
    headers: dict[Annotated[str, AfterValidator(_header)], LocalSecret] = Field(
        default_factory=dict,
        description="headers that it wants, such as authorization; each value is a secret of this machine",
    )


class Traces(Exporting):
    """A span for each call that is sampled, with one for each stage and attempt. No text of a call is in them."""

    sample: float = Field(
        default=0.1,
        ge=0,
        le=1,
        description="the share of calls that is traced; where a caller's traceparent says whether its trace is, that",
    )
    envoy: bool = Field(
        default=False, description="Envoy's own spans too, around the gateway's: it samples for both, by the same share"
    )


class Logs(Exporting):
    """The lines that workers log, as they are on standard error, too."""

    calls: bool = Field(default=True, description="the records of calls and attempts as well")
