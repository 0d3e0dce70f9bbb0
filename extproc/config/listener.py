"""Settings of the edge: where clients connect, and what Envoy asks of them before the policy sees a call."""

from datetime import timedelta
from pathlib import Path
from typing import Annotated

from pydantic import Field

from extproc.config.fields import Duration, IpRange, Port, Strict


class ClientCertificates(Strict):
    """Mutual TLS: who may connect at all. Keys and tokens are asked for all the same."""

    authority: Path = Field(description="PEM file with the certificates of the authorities that clients' are signed by")
    required: bool = Field(default=True, description="refuse a client without a certificate; false: check it if sent")


class Tls(Strict):
    """Certificate files of the listener; Envoy picks up a replaced file without a restart."""

    certificate: Path = Field(description="PEM file with the certificate chain")
    private_key: Path = Field(description="PEM file with the private key")
    client_certificates: ClientCertificates | None = Field(default=None, description="ask clients for a certificate")


WebOrigin = Annotated[str, Field(pattern=r"^(\*|https?://(\*\.)?[A-Za-z0-9.-]+(:[0-9]{1,5})?)$")]
"""A web page's origin: `https://chat.example.com`, `https://*.example.com`, or `*` for any."""


class Cors(Strict):
    """Which web pages may call the gateway from a browser; the browser asks, and Envoy answers."""

    origins: tuple[WebOrigin, ...] = Field(min_length=1, description="such as https://chat.example.com; `*` for any")
    max_age: Duration = Field(default=timedelta(hours=1), description="how long a browser may remember the answer")


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
