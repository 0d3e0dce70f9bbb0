"""Keys as secrets of an Azure Key Vault, named `sluice-<team>--<key>`. Needs the packages of the extra `azure`.

A secret that is there already gets a new version. One key a call: Key Vault takes no batches, and creates about
30 secrets a second at most; beyond that it says when to come back, and the SDK waits.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass

from azure.core.credentials import TokenCredential
from azure.core.exceptions import AzureError, ClientAuthenticationError, HttpResponseError
from azure.identity import DefaultAzureCredential
from azure.keyvault.secrets import SecretClient

from extproc.gitops.delivery.interface import DeliveredKey, DeliveryError
from extproc.gitops.delivery.names import check_distinct, label

# With the rest of the name these make 127 characters, the most that a vault takes.
_LONGEST_TEAM = 48
_LONGEST_KEY = 70
_CODE = re.compile(r"[A-Za-z]{1,64}")
_ADVICE = {
    403: "; the identity needs the role Key Vault Secrets Officer, and a way through the vault's firewall",
    409: "; a deleted secret of this name is in the way: recover or purge it",
    429: "; the vault is busy, run it again later",
}


@dataclass(frozen=True, slots=True)
class KeyVaultDelivery:
    """Signs in as the machine does: environment, workload identity, managed identity, or who ran `az login`."""

    url: str

    def deliver(self, keys: Sequence[DeliveredKey]) -> None:
        check_distinct(keys)
        with _credential() as credential, _client(self.url, credential) as client:
            for done, key in enumerate(keys):
                try:
                    _set(client, key)
                except (AzureError, ValueError) as error:  # ValueError: the vault sent us to sign in elsewhere
                    delivered = f"{done} of {len(keys)} keys were delivered"
                    which = f"team {key.team!r}, key {key.name!r}"
                    raise DeliveryError(f"{self.url}: {which}: {_reason(error)} ({delivered})") from None


def _credential() -> DefaultAzureCredential:
    """Not the developers' tools that answer with whatever account was used last, beyond `az`."""
    return DefaultAzureCredential(
        exclude_shared_token_cache_credential=True,
        exclude_visual_studio_code_credential=True,
        exclude_developer_cli_credential=True,
        exclude_powershell_credential=True,
        exclude_broker_credential=True,
    )


def _client(url: str, credential: TokenCredential) -> SecretClient:
    # A vault never redirects; whoever does so wants the body, which is the key.
    return SecretClient(url, credential, permit_redirects=False, connection_timeout=10, read_timeout=60)


def _set(client: SecretClient, key: DeliveredKey) -> None:
    tags = {"team": key.team, "key": key.name}
    if key.environment is not None:
        tags["environment"] = key.environment
    client.set_secret(
        f"sluice-{label(key.team, _LONGEST_TEAM)}--{label(key.name, _LONGEST_KEY)}",
        key.secret,
        tags=tags,
        content_type="text/plain",
        expires_on=key.expires_at,
    )


def _reason(error: Exception) -> str:
    """Why, in our own words: an answer may repeat what was sent."""
    if isinstance(error, ClientAuthenticationError):
        return "cannot sign in: give the job a workload identity of the vault's tenant, or run `az login`"
    if isinstance(error, HttpResponseError) and error.status_code is not None:
        code = str(getattr(error.error, "code", ""))
        named = f" {code}" if _CODE.fullmatch(code) else ""
        return f"status {error.status_code}{named}{_ADVICE.get(error.status_code, '')}"
    if isinstance(error, ValueError):
        return "the server there does not sign callers in as a Key Vault does"
    return "no answer; check the name, and that the vault can be reached from here"
