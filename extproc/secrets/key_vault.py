"""Secrets of an Azure Key Vault through its own client. Needs the packages of the extra `azure`.

Whoever signs in needs the role Key Vault Secrets User.
"""

import time
from collections.abc import Mapping
from dataclasses import dataclass, field

from azure.core.exceptions import AzureError, ClientAuthenticationError, HttpResponseError
from azure.keyvault.secrets import SecretClient

from extproc.config.fields import KeyVault

from . import entra
from .source import Secret, SecretError, usable

_ADVICE = {
    401: "; the vault does not take the token: is it of the vault's tenant?",
    403: "; the identity needs the role Key Vault Secrets User, and a way through the vault's firewall",
    404: "; there is no such secret",
    429: "; the vault is busy",
}


@dataclass(frozen=True, slots=True)
class KeyVaultSource:
    """One secret of a vault, looked for again after an interval, for it may have been rotated."""

    settings: KeyVault
    environ: Mapping[str, str] = field(repr=False)

    def check(self) -> None:
        entra.check_sign_in(self.settings, self.environ)

    def fetch(self) -> Secret:
        try:
            value = self._value()
        except (AzureError, ValueError, OSError) as error:  # ValueError: the vault sent us to sign in elsewhere
            raise SecretError(_reason(error), withdrawn=_is_withdrawn(error)) from None
        renew_at = time.time() + self.settings.interval.total_seconds()
        return Secret(usable(value.rstrip("\r\n"), "the secret of the vault"), renew_at=renew_at)

    def _value(self) -> str:
        # A vault never redirects; whoever does so wants the token.
        with (
            entra.signed_in(self.settings, self.environ) as credential,
            SecretClient(self.settings.url, credential, permit_redirects=False, **entra.PATIENCE) as client,
        ):
            return client.get_secret(self.settings.secret, self.settings.version).value or ""


def _is_withdrawn(error: Exception) -> bool:
    """Whether somebody has deleted or disabled the secret, which says that it is not to be used any more."""
    if not isinstance(error, HttpResponseError):
        return False
    inner = getattr(error.error, "innererror", None)
    disabled = isinstance(inner, Mapping) and inner.get("code") == "SecretDisabled"
    return error.status_code == 404 or (error.status_code == 403 and disabled)


def _reason(error: Exception) -> str:
    """Why, in our own words: an answer may repeat what was sent."""
    if isinstance(error, ClientAuthenticationError) and (entra.code(error) or error.status_code != 401):
        return entra.reason(error)
    if isinstance(error, HttpResponseError) and error.status_code is not None:
        disabled = _is_withdrawn(error) and error.status_code == 403
        advice = "; the secret is disabled" if disabled else _ADVICE.get(error.status_code, "")
        return f"status {error.status_code}{advice}"
    if isinstance(error, ValueError):
        return "the server there does not sign callers in as a Key Vault does"
    return "no answer; check the name of the vault, and that it can be reached from here"
