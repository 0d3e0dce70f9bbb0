"""Where a secret comes from, behind one interface. Each kind of source has a module of its own."""

import re
from dataclasses import dataclass, field
from typing import Protocol

# RFC 9110, 5.5: what may stand in a field value, without white space, which no provider's key has.
_FIELD_VALUE = re.compile(r"[\x21-\x7e]+")


@dataclass(frozen=True, slots=True)
class Secret:
    """A secret as it was fetched, with times in seconds since the epoch.

    `expires_at`: None where it has no end of its own. `renew_at`: when the source wants to be asked again; None: that
    follows from its end, and where it has none it is not asked again.
    """

    value: str = field(repr=False)
    expires_at: float | None = None
    renew_at: float | None = None


class SecretError(Exception):
    """A secret is not there or not usable. The text never holds a value.

    `withdrawn`: the source says that there is none any more, so that what it gave before is not to be used either.
    """

    def __init__(self, text: str, *, withdrawn: bool = False) -> None:
        super().__init__(text)
        self.withdrawn = withdrawn


class Source(Protocol):
    """One place that a secret comes from."""

    def check(self) -> None:
        """Raises SecretError for what is wrong here, such as a variable that is not set. Nobody else is asked."""

    def fetch(self) -> Secret:
        """The secret as it is now; may take seconds. Raises SecretError, and nothing else for what others do."""


def usable(value: str, source: str) -> str:
    """A value that can stand in a header. Raises SecretError, which names the source."""
    if not value:
        raise SecretError(f"{source} is empty")
    if not _FIELD_VALUE.fullmatch(value):
        raise SecretError(f"{source} holds a space, a line break or a character that is not ASCII")
    return value
