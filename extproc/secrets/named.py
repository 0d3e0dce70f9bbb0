"""The secrets that a configuration names: Envoy's, with the names under which it asks for them, and stores' tokens."""

import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from extproc.config.fields import Credential
from extproc.config.schema import Gateway
from extproc.config.stores import TOKENS
from extproc.contract import cluster_of, service_cluster_of

_DIGITS = 8


class Named(NamedTuple):
    """A credential, with the name of its secret and whose it is, such as `backends.swe`.

    `token_file`: of a store; no secret of Envoy's, but this file has it, and nothing else.
    """

    secret: str
    owner: str
    credential: Credential
    token_file: Path | None = None


def named_secrets(gateway: Gateway) -> Iterator[Named]:
    """Those of backends and services."""
    for name, backend in gateway.all_backends().items():
        if backend.credential:
            secret = secret_name(cluster_of(name), backend.url, backend.credential)
            yield Named(secret, f"backends.{name}", backend.credential)
    for name, service in gateway.services.items():
        if service.credential:
            secret = secret_name(service_cluster_of(name), service.url, service.credential)
            yield Named(secret, f"services.{name}", service.credential)


def tokens_of(gateway: Gateway) -> Iterator[Named]:
    """The tokens with which stores are opened."""
    for name, credential in gateway.stores.credentials.items():
        if credential.entra is not None:
            yield Named(name, f"stores.{name}", Credential(entra=credential.entra), gateway.state_dir / TOKENS / name)


def secret_name(cluster: str, url: str, credential: Credential) -> str:
    """Another one for each place that it may go to, and for each that it comes from.

    So a backend that moves and gets another credential never has the new one sent to the old address, or the other way
    round, whichever of Envoy's files is read first.
    """
    facts = f"{url}\n{credential.model_dump_json()}"
    return f"{cluster}-{hashlib.sha256(facts.encode()).hexdigest()[:_DIGITS]}"


def secret_file(secret: str) -> str:
    """The name of the SDS file of a secret."""
    return f"{secret}.yaml"
