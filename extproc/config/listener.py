"""Settings of the edge: where clients connect, and what Envoy asks of them before the policy sees a call."""

import re
from datetime import timedelta
from pathlib import Path
from typing import Annotated, Self

from pydantic import AfterValidator, Field, model_validator

from extproc.config.fields import Duration, IpRange, Port, Strict


class ClientCertificates(Strict):
    """Mutual TLS: who may connect at all. Keys and tokens are asked for all the same."""

    authority: Path = Field(description="PEM file with the certificates of the authorities that clients' are signed by")
    required: bool = Field(default=True, description="refuse a client without a certificate; false: check it if sent")


class Tls(Strict):
    """Certificate files of the listener; one that changes is taken over without a restart."""

    certificate: Path = Field(description="PEM file with the certificate chain")
    private_key: Path = Field(description="PEM file with the private key")
    client_certificates: ClientCertificates | None = Field(default=None, description="ask clients for a certificate")


WebOrigin = Annotated[str, Field(pattern=r"^(\*|https?://(\*\.)?[A-Za-z0-9.-]+(:[0-9]{1,5})?)$")]
"""A web page's origin: `https://chat.example.com`, `https://*.example.com`, or `*` for any."""


class Cors(Strict):
    """Which web pages may call the gateway from a browser; the browser asks, and Envoy answers."""

    origins: tuple[WebOrigin, ...] = Field(min_length=1, description="such as https://chat.example.com; `*` for any")
    max_age: Duration = Field(default=timedelta(hours=1), description="how long a browser may remember the answer")


_PREFIX = re.compile(r"(/[A-Za-z0-9][A-Za-z0-9._-]*)+")
_TAKEN = frozenset({"v1", "openai", "anthropic", "healthz", "readyz"})
"""Where the gateway's own paths begin."""


def _prefix(value: str) -> str:
    if not _PREFIX.fullmatch(value):
        raise ValueError("must be like /low: letters, digits and . _ -, with no slash at the end")
    if value.split("/")[1] in _TAKEN:
        raise ValueError("begins like a path of the gateway's own")
    return value


class Listener(Strict):
    """Where clients connect."""

    address: str = Field(default="127.0.0.1", description="IP address to listen on")
    port: Port = Field(default=8080, description="TCP port")
    tls: Tls | None = Field(default=None, description="serve HTTPS with these files")
    trusted_proxies: int = Field(
        default=0, ge=0, le=8, description="how many proxies in front of the gateway to trust in x-forwarded-for"
    )
    allowed_ips: tuple[IpRange, ...] = Field(
        default=(), description="client addresses that may call, such as 10.0.0.0/8; empty: all"
    )
    cors: Cors | None = Field(default=None, description="absent: no browser page of another origin may call")
    low_priority_prefix: Annotated[str, AfterValidator(_prefix)] | None = Field(
        default=None,
        description="path prefix, such as /low, that may come before every path: what calls through it use can be "
        "limited by `only.low_route`",
    )
    tells_priority: bool = Field(
        default=False,
        description="for tests: answers through that prefix carry x-gw-priority and x-gw-remaining-tokens",
    )

    @model_validator(mode="after")
    def _has_what_it_tells(self) -> Self:
        if self.tells_priority and self.low_priority_prefix is None:
            raise ValueError("`tells_priority` needs `low_priority_prefix`")
        return self
