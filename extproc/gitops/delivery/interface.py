"""What `apply` asks of a place that keys are delivered to."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Protocol


class DeliveryError(Exception):
    """The keys, or some of them, are not where they should be. The text says where and why, and holds no secret."""


@dataclass(frozen=True, slots=True)
class DeliveredKey:
    """A new key on its way to who will use it. `secret` is the key itself and never shows in a `repr`."""

    team: str
    name: str
    secret: str = field(repr=False)
    environment: str | None = None
    expires_at: datetime | None = None  # with a time zone; None: never


class Delivery(Protocol):
    """One place that keys are delivered to."""

    def deliver(self, keys: Sequence[DeliveredKey]) -> None:
        """Put every key in its place, over whatever lies there: durable when this returns. Blocks.

        A key's place follows from its team and name alone, so a second delivery replaces the first. Raises
        DeliveryError; then any of the keys may have been delivered, but each one whole or not at all.
        """
