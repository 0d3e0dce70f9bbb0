"""Secrets as Envoy's SDS files: the only rendered files that may hold one.

A credential from the environment stands in its file; one from a file is named there, and Envoy
reads that file itself, again whenever it is replaced by rename. The listener's certificates likewise.
"""

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

from envoy_data_plane.envoy.config.core.v3 import DataSource
from envoy_data_plane.envoy.extensions.transport_sockets.tls.v3 import (
    CertificateValidationContext,
    GenericSecret,
    Secret,
    TlsCertificate,
)

from extproc.config.fields import Credential
from extproc.config.listener import Tls
from extproc.config.schema import Gateway
from extproc.contract import cluster_of, service_cluster_of

from .files import resources, write

TLS_SECRET = "listener_tls"  # noqa: S105 - a name
CLIENTS_SECRET = "listener_clients"  # noqa: S105 - a name
# RFC 9110, 5.5: what may stand in a field value, without white space, which no provider's key has.
_FIELD_VALUE = re.compile(r"[\x21-\x7e]+")


class CredentialError(Exception):
    """A secret that the configuration names is not there or not usable. The text never holds the value."""


class _Named(NamedTuple):
    """A credential with the name of its secret, which is that of the cluster, and the field it is set in."""

    secret: str
    field: str
    credential: Credential


def _credentials(gateway: Gateway) -> Iterator[_Named]:
    for name, backend in gateway.backends.items():
        if backend.credential:
            yield _Named(cluster_of(name), f"backends.{name}.credential", backend.credential)
    for name, service in gateway.services.items():
        if service.credential:
            yield _Named(service_cluster_of(name), f"services.{name}.credential", service.credential)


def secret_file(name: str) -> str:
    """The name of the SDS file of a secret."""
    return f"{name}.yaml"


def secret_names(gateway: Gateway) -> list[str]:
    """The secrets that Envoy will ask for: of each backend and service with a credential, and of the listener."""
    return [*(named.secret for named in _credentials(gateway)), *_listener_secrets(gateway.listener.tls)]


def write_secrets(gateway: Gateway, environ: Mapping[str, str], directory: Path) -> None:
    """Write one SDS file per secret into `directory` (mode 0700), each with mode 0600.

    Raises CredentialError, with every problem on a line, before anything is written.
    """
    problems = credential_problems(gateway, environ)
    if problems:
        raise CredentialError("\n".join(problems))
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    directory.chmod(0o700)
    write(_secret_files(gateway, environ), directory, mode=0o600)


def credential_problems(gateway: Gateway, environ: Mapping[str, str]) -> list[str]:
    """What is wrong with the secrets that the configuration names, one sentence each, without the values."""
    credentials = [
        f"{named.field}: {problem}"
        for named in _credentials(gateway)
        if (problem := _problem(named.credential, environ))
    ]
    return credentials + [f"{field}: {problem}" for field, path in _files(gateway) if (problem := _unreadable(path))]


def _files(gateway: Gateway) -> Iterator[tuple[str, Path]]:
    """The files that Envoy reads by itself, each behind the field that names it."""
    tls = gateway.listener.tls
    if tls:
        yield "listener.tls.certificate", tls.certificate
        yield "listener.tls.private_key", tls.private_key
        if tls.client_certificates:
            yield "listener.tls.client_certificates.authority", tls.client_certificates.authority
    for name, issuer in gateway.identity.issuers.items():
        if issuer.jwks_file:
            yield f"identity.issuers.{name}.jwks_file", issuer.jwks_file


def _problem(credential: Credential, environ: Mapping[str, str]) -> str | None:
    if credential.file is not None:
        if problem := _unreadable(credential.file):
            return problem
        value = credential.file.read_text(encoding="latin-1").rstrip("\r\n")  # as Envoy does
        return _unusable(f"the file {credential.file}", value)
    name = credential.env or ""
    source = f"the environment variable {name}"
    return _unusable(source, environ[name]) if name in environ else f"{source} is not set"


def _unusable(source: str, value: str) -> str | None:
    if not value:
        return f"{source} is empty"
    if not _FIELD_VALUE.fullmatch(value):
        return f"{source} holds a space, a line break or a character that is not ASCII"
    return None


def _unreadable(path: Path) -> str | None:
    try:
        with path.open("rb"):
            return None
    except OSError as error:
        return f"the file {path} cannot be read ({error.strerror})"


def _secret_files(gateway: Gateway, environ: Mapping[str, str]) -> dict[str, str]:
    secrets = [
        Secret(name=named.secret, generic_secret=GenericSecret(secret=_source(named.credential, environ)))
        for named in _credentials(gateway)
    ]
    secrets += _listener_secrets(gateway.listener.tls).values()
    return {secret_file(secret.name): resources(secret) for secret in secrets}


def _source(credential: Credential, environ: Mapping[str, str]) -> DataSource:
    path = credential.file
    if path is None:
        return DataSource(inline_string=environ[credential.env or ""])
    return _file(path)


def _listener_secrets(tls: Tls | None) -> dict[str, Secret]:
    """By name: our certificate, and the authorities of the clients'."""
    if tls is None:
        return {}
    ours = TlsCertificate(certificate_chain=_file(tls.certificate), private_key=_file(tls.private_key))
    secrets = {TLS_SECRET: Secret(name=TLS_SECRET, tls_certificate=ours)}
    if tls.client_certificates:
        trust = CertificateValidationContext(trusted_ca=_file(tls.client_certificates.authority))
        secrets[CLIENTS_SECRET] = Secret(name=CLIENTS_SECRET, validation_context=trust)
    return secrets


def _file(path: Path) -> DataSource:
    """Envoy watches the directory of the file, so a rename of the file or of Kubernetes' `..data` is seen."""
    return DataSource(filename=str(path.absolute()))
