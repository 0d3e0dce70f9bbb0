"""Secrets of backends and services: where they come from, and how those that must be fetched stay fresh.

A secret in a file or a variable stands in its SDS file for Envoy, too, which `extproc.dataplane` writes. One that
takes signing in somewhere is fetched by the supervisor's `Keeper` beside the calls; no worker ever has any.
"""

from collections.abc import Mapping
from importlib.util import find_spec

from extproc.config.fields import Credential, LocalSecret

from .environment import EnvironmentSource
from .file import FileSource
from .source import Secret, SecretError, Source

__all__ = ["Secret", "SecretError", "Source", "local_source", "source_of"]

_PACKAGES = {"entra": ("azure.identity",), "key_vault": ("azure.identity", "azure.keyvault.secrets")}


def source_of(credential: Credential, environ: Mapping[str, str]) -> Source:
    """The source that a credential names. Raises SecretError where its packages are not installed."""
    if credential.entra is not None:
        _need("entra")
        from .entra import EntraSource  # the SDK's 20 MB are for those who use it

        return EntraSource(credential.entra, environ)
    if credential.key_vault is not None:
        _need("key_vault")
        from .key_vault import KeyVaultSource

        return KeyVaultSource(credential.key_vault, environ)
    return local_source(credential, environ)


def local_source(secret: Credential | LocalSecret, environ: Mapping[str, str]) -> Source:
    """The source of what stands in a file or in a variable."""
    if secret.file is not None:
        return FileSource(secret.file)
    return EnvironmentSource(secret.env or "", environ)


def _need(kind: str) -> None:
    for package in _PACKAGES[kind]:
        try:
            found = find_spec(package) is not None
        except ModuleNotFoundError:  # of the package that should hold it
            found = False
        if not found:
            raise SecretError(f"the package {package} is missing; install sluice-gateway[azure] to use `{kind}`")
