"""Targets as text: `file:FOLDER`, `kubernetes:FOLDER?namespace=NAME`, `key-vault:https://NAME.vault.azure.net`."""

import re
from pathlib import Path

from extproc.gitops.delivery.files import FileDelivery
from extproc.gitops.delivery.interface import Delivery, DeliveryError
from extproc.gitops.delivery.kubernetes import KubernetesDelivery

_FORMS = "file:FOLDER, kubernetes:FOLDER?namespace=NAME or key-vault:https://NAME.vault.azure.net"
_NAMESPACE = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?")
_VAULT = re.compile(r"https://[a-z0-9-]{3,24}\.vault\.(azure\.net|azure\.cn|usgovcloudapi\.net)", re.IGNORECASE)


def open_delivery(target: str) -> Delivery:
    """The place that a target names; nothing is touched there yet.

    Raises DeliveryError, whose text says what to write, for anything else.
    """
    kind, _, place = target.partition(":")
    if kind == "file" and place:
        return FileDelivery(Path(place).expanduser())
    if kind == "kubernetes":
        folder, _, namespace = place.rpartition("?namespace=")
        if folder and _NAMESPACE.fullmatch(namespace):
            return KubernetesDelivery(Path(folder).expanduser(), namespace)
    if kind == "key-vault" and _VAULT.fullmatch(place.removesuffix("/")):
        return _key_vault(place.removesuffix("/"))
    raise DeliveryError(f"{target!r} is not a place for keys; write {_FORMS}")


def _key_vault(url: str) -> Delivery:
    """Imported when asked for: the SDK is an extra, and takes a second to load."""
    try:
        from extproc.gitops.delivery.key_vault import KeyVaultDelivery
    except ModuleNotFoundError as error:
        raise DeliveryError(
            f"the package {error.name} is missing; install sluice-gateway[azure] to deliver to a Key Vault"
        ) from None
    return KeyVaultDelivery(url)
