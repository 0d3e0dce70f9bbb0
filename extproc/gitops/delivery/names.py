"""Names of teams and keys, as names that every target can hold.

A key's name is any printable text, and a team's may hold `--`; a file, a Secret and a vault's secret may not be
called so. A plain name (lower-case letters and digits, single hyphens between them) stands as it is. Any other is
told by what can be shown of it, `---`, and 128 bits of its SHA-256: `CI runner` becomes `ci-runner---` and 32
digits. No plain name holds two hyphens in a row, so that no two names ever become one, and `--` is free to part
a team's from a key's. Upper case is not plain, because a vault and some file systems take `CI` and `ci` for one.
"""

import hashlib
import re
from collections.abc import Sequence

from extproc.gitops.delivery.interface import DeliveredKey, DeliveryError

_PLAIN = re.compile(r"[a-z0-9]+(-[a-z0-9]+)*")
_DIGITS = 32


def label(text: str, longest: int) -> str:
    """A name as lower-case letters, digits and hyphens, a letter or digit at both ends; at most `longest` of them."""
    if len(text) <= longest and _PLAIN.fullmatch(text):
        return text
    digest = hashlib.sha256(text.encode()).hexdigest()[:_DIGITS]
    shown = re.sub(r"[^a-z0-9]+", "-", text.lower())[: longest - _DIGITS - 3].strip("-")
    return f"{shown or 'x'}---{digest}"


def check_distinct(keys: Sequence[DeliveredKey]) -> None:
    """Refuse two keys for one place: the second would replace the first. Raises DeliveryError."""
    seen = set[tuple[str, str]]()
    for key in keys:
        if (key.team, key.name) in seen:
            raise DeliveryError(f"team {key.team!r} has two keys named {key.name!r}; only one can be delivered")
        seen.add((key.team, key.name))
