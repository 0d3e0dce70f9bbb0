"""Secrets as Envoy's SDS files: the only rendered files that may hold one.

Envoy opens no file but these: whoever runs it apart shows it this folder, and none that a secret comes from. So what
stands in a file is copied, and again when it has changed, as for the listener's certificates and an issuer's keys.
One that has to be fetched is written by `extproc.secrets.keeper`; until then its file says that there is none.
"""

import ssl
from collections.abc import Iterator, Mapping
from pathlib import Path

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
from extproc.secrets import SecretError, source_of
from extproc.secrets.named import Named, named_secrets, secret_file, tokens_of

from .files import resources, write

TLS_SECRET = "listener_tls"  # noqa: S105 - a name
CLIENTS_SECRET = "listener_clients"  # noqa: S105 - a name


class CredentialError(Exception):
    """A secret that the configuration names is not there or not usable. The text never holds the value."""


def secret_names(gateway: Gateway) -> list[str]:
    """The secrets that Envoy will ask for: of each backend and service with a credential, and of the listener."""
    tls = gateway.listener.tls
    of_listener = [] if tls is None else [TLS_SECRET, *([CLIENTS_SECRET] if tls.client_certificates else [])]
    return [*(named.secret for named in named_secrets(gateway)), *of_listener]


def write_secrets(gateway: Gateway, environ: Mapping[str, str], directory: Path) -> None:
    """Write one SDS file per secret into `directory` (mode 0700), each with mode 0600, and issuers' keys beside them.

    Raises CredentialError, with every problem on a line, before anything is written.
    """
    problems = credential_problems(gateway, environ)
    if problems:
        raise CredentialError("\n".join(problems))
    try:
        files = {**_secret_files(gateway, environ, directory), **key_files(gateway)}
    except (SecretError, OSError) as error:  # it has gone since it was looked at
        raise CredentialError(str(error)) from None
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    directory.chmod(0o700)
    write(files, directory, mode=0o600)


def key_files(gateway: Gateway) -> dict[str, str]:
    """The keys of issuers that are not asked for them: names of files, and their texts. Raises OSError."""
    issuers = gateway.identity.issuers.items()
    return {jwks_file(name): one.jwks_file.read_text("utf-8", "replace") for name, one in issuers if one.jwks_file}


def jwks_file(issuer: str) -> str:
    """The file in the folder of the secrets with an issuer's keys."""
    return f"jwks_{issuer}.json"


def remove_stale_secrets(gateway: Gateway, directory: Path) -> None:
    """Delete the SDS files that this configuration does not name. Not while clusters are there that ask for them."""
    named = {secret_file(name) for name in secret_names(gateway)}
    for file in directory.glob("*.yaml"):
        if file.name not in named:
            file.unlink(missing_ok=True)


def credential_problems(gateway: Gateway, environ: Mapping[str, str]) -> list[str]:
    """What is wrong with the secrets that the configuration names, one sentence each, without the values."""
    credentials = [
        f"{named.owner}.credential: {problem}"
        for named in named_secrets(gateway)
        if (problem := _problem(named.credential, environ))
    ]
    credentials += [
        f"{named.owner}_credential: {problem}"
        for named in tokens_of(gateway)
        if (problem := _problem(named.credential, environ))
    ]
    all_files = (*_files(gateway), *_passwords(gateway))
    files = [f"{field}: {problem}" for field, path in all_files if (problem := _unreadable(path))]
    return credentials + (files or [*_unusable(gateway.listener.tls)])


def _files(gateway: Gateway) -> Iterator[tuple[str, Path]]:
    """The files whose text Envoy gets, each behind the field that names it."""
    tls = gateway.listener.tls
    if tls:
        yield "listener.tls.certificate", tls.certificate
        yield "listener.tls.private_key", tls.private_key
        if tls.client_certificates:
            yield "listener.tls.client_certificates.authority", tls.client_certificates.authority
    for name, issuer in gateway.identity.issuers.items():
        if issuer.jwks_file:
            yield f"identity.issuers.{name}.jwks_file", issuer.jwks_file


def _passwords(gateway: Gateway) -> Iterator[tuple[str, Path]]:
    for name, credential in gateway.stores.credentials.items():
        if credential.file is not None:
            yield f"stores.{name}_credential", credential.file


def _problem(credential: Credential, environ: Mapping[str, str]) -> str | None:
    try:
        source_of(credential, environ).check()
    except SecretError as error:
        return str(error)
    return None


def _unreadable(path: Path) -> str | None:
    try:
        with path.open("rb"):
            return None
    except OSError as error:
        return f"the file {path} cannot be read ({error.strerror})"


def _unusable(tls: Tls | None) -> Iterator[str]:
    """What is wrong with files of TLS. Envoy would refuse them in silence, and serve nobody after its next start."""
    if tls is None:
        return
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    try:
        context.load_cert_chain(tls.certificate, tls.private_key, password="")  # or it would ask at the terminal
    except (ssl.SSLError, OSError, ValueError):
        yield "listener.tls: the certificate and the private key are no PEM, not of each other, or want a password"
    if tls.client_certificates:
        try:
            context.load_verify_locations(tls.client_certificates.authority)
        except (ssl.SSLError, OSError, ValueError):
            yield "listener.tls.client_certificates.authority: there is no certificate in it"


def _secret_files(gateway: Gateway, environ: Mapping[str, str], directory: Path) -> dict[str, str]:
    """All but what has been fetched already. Raises SecretError, OSError."""
    secrets = [
        Secret(name=named.secret, generic_secret=GenericSecret(secret=_source(named.credential, environ)))
        for named in named_secrets(gateway)
        if not _is_fetched(named, directory)
    ]
    secrets += _listener_secrets(gateway.listener.tls).values()
    return {secret_file(secret.name): resources(secret) for secret in secrets}


def _is_fetched(named: Named, directory: Path) -> bool:
    return named.credential.sign_in is not None and (directory / secret_file(named.secret)).exists()


def _source(credential: Credential, environ: Mapping[str, str]) -> DataSource:
    known = credential.file is not None or credential.env is not None
    return DataSource(inline_string=source_of(credential, environ).fetch().value if known else "")


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
    return DataSource(inline_bytes=path.read_bytes())
