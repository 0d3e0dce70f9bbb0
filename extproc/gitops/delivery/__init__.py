"""Where freshly minted keys go: files, Kubernetes Secret manifests or an Azure Key Vault, behind one interface."""

from extproc.gitops.delivery.interface import DeliveredKey, Delivery, DeliveryError
from extproc.gitops.delivery.target import open_delivery

__all__ = ["DeliveredKey", "Delivery", "DeliveryError", "open_delivery"]
