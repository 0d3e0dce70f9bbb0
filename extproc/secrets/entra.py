"""Tokens of Microsoft Entra through Azure's own SDK. Needs the packages of the extra `azure`.

An error is told in our own words: the SDK's repeat what was answered, and an answer may repeat what was sent. Of what
Entra says only its code is told, which is looked up at https://learn.microsoft.com/entra/identity-platform/reference-error-codes.
"""

import logging
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from azure.core.exceptions import AzureError
from azure.identity import (
    AzureAuthorityHosts,
    ClientSecretCredential,
    CredentialUnavailableError,
    ManagedIdentityCredential,
    WorkloadIdentityCredential,
)

from extproc.config.fields import Entra, SignIn

from . import local_source
from .source import Secret, SecretError, usable

PATIENCE: Mapping[str, Any] = {"retry_total": 0, "connection_timeout": 5, "read_timeout": 15}
"""How the SDK asks: once. When to ask again is the keeper's affair."""

for _library in ("azure", "msal"):
    logging.getLogger(_library).setLevel(logging.CRITICAL)  # they tell answers as they came

_CODE = re.compile(r"AADSTS[0-9]{2,9}\b")
_ADVICE = {
    "AADSTS7000215": ": the client secret is wrong",
    "AADSTS7000222": ": the client secret is over",
    "AADSTS700016": ": the tenant has no application of this client_id",
    "AADSTS90002": ": there is no such tenant",
    "AADSTS900023": ": there is no such tenant",
    "AADSTS70021": ": no federated credential of the application matches the token of the cluster",
    "AADSTS700211": ": no federated credential of the application has the issuer of this cluster",
    "AADSTS700212": ": no federated credential of the application has the audience of the cluster's token",
    "AADSTS700213": ": no federated credential of the application has the subject of this service account",
    "AADSTS700024": ": the token of the cluster is not valid at this time",
    "AADSTS500011": ": the scope names nothing that the tenant knows",
    "AADSTS70011": ": the scope is not valid",
}


EntraCredential = ClientSecretCredential | ManagedIdentityCredential | WorkloadIdentityCredential


@dataclass(frozen=True, slots=True)
class EntraSource:
    """Tokens for one scope."""

    settings: Entra
    environ: Mapping[str, str] = field(repr=False)

    def check(self) -> None:
        check_sign_in(self.settings, self.environ)

    def fetch(self) -> Secret:
        """A new token: a credential of the SDK hands out the one that it has until five minutes before its end."""
        credential = signed_in(self.settings, self.environ)
        try:
            with credential:
                token = credential.get_token_info(self.settings.scope)
        except (AzureError, ValueError, OSError) as error:
            raise SecretError(reason(error)) from None
        value = usable(token.token, "the token from Entra")
        return Secret(value, expires_at=float(token.expires_on), renew_at=token.refresh_on and float(token.refresh_on))


def check_sign_in(settings: SignIn, environ: Mapping[str, str]) -> None:
    """Raises SecretError for a setting, a variable or a file that signing in needs and that is not there."""
    if settings.kind == "managed_identity":
        return
    _needed(settings.tenant_id, "tenant_id", "AZURE_TENANT_ID", environ)
    _needed(settings.client_id, "client_id", "AZURE_CLIENT_ID", environ)
    _authority(settings, environ)
    if settings.client_secret is not None:
        local_source(settings.client_secret, environ).check()
        return
    path = _token_file(settings, environ)
    if not os.access(path, os.R_OK):
        raise SecretError(f"the file {path} cannot be read, in which the cluster's token should be")


def signed_in(settings: SignIn, environ: Mapping[str, str]) -> EntraCredential:
    """The SDK's credential of the kind that the settings name. Raises SecretError."""
    check_sign_in(settings, environ)
    if settings.kind == "managed_identity":
        # Left to itself it would sign in as the workload where the variables of that are set.
        alone = {**PATIENCE, "retry_status": 0, "_exclude_workload_identity_credential": True}
        return ManagedIdentityCredential(client_id=settings.client_id, **alone)
    tenant = _needed(settings.tenant_id, "tenant_id", "AZURE_TENANT_ID", environ)
    client = _needed(settings.client_id, "client_id", "AZURE_CLIENT_ID", environ)
    authority = _authority(settings, environ)
    if settings.client_secret is None:
        path = _token_file(settings, environ)
        return WorkloadIdentityCredential(
            tenant_id=tenant, client_id=client, token_file_path=path, authority=authority, **PATIENCE
        )
    secret = local_source(settings.client_secret, environ).fetch().value
    # The authority comes from the configuration and not from an answer, so nobody else need be asked about it.
    return ClientSecretCredential(
        tenant, client, secret, authority=authority, disable_instance_discovery=True, **PATIENCE
    )


def code(error: Exception) -> str | None:
    """Entra's own name for what is wrong, where it was Entra that said so."""
    found = _CODE.search(str(error))
    return found[0] if found else None


def reason(error: Exception) -> str:
    """Why signing in failed, without a word of the answer but Entra's code."""
    if told := code(error):
        return f"Entra does not sign in, {told}{_ADVICE.get(told, '')}"
    if isinstance(error, CredentialUnavailableError):
        return "this machine gives no token: does it have a managed identity, and that of client_id?"
    return "no token from Entra; check that `authority` can be reached from here"


def _token_file(settings: SignIn, environ: Mapping[str, str]) -> str:
    given = str(settings.federated_token_file) if settings.federated_token_file else None
    return _needed(given, "federated_token_file", "AZURE_FEDERATED_TOKEN_FILE", environ)


def _authority(settings: SignIn, environ: Mapping[str, str]) -> str:
    authority = settings.authority or environ.get("AZURE_AUTHORITY_HOST") or AzureAuthorityHosts.AZURE_PUBLIC_CLOUD
    if "://" in authority and not authority.startswith("https://"):
        raise SecretError("AZURE_AUTHORITY_HOST must begin with https://")
    return authority


def _needed(given: str | None, setting: str, variable: str, environ: Mapping[str, str]) -> str:
    value = given or environ.get(variable)
    if not value:
        raise SecretError(f"`{setting}` is not set, and neither is the environment variable {variable}")
    return value
