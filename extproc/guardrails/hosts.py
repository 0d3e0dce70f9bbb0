"""Which host a URL names, told so strictly that no provider's parser can read another one in it."""

import re
from collections.abc import Iterable

_URL = re.compile(r"https?://([a-z0-9](?:[a-z0-9.-]{0,251}[a-z0-9])?)\.?(?::[0-9]{1,5})?", re.IGNORECASE)
"""Up to the path: a name in ASCII, or an address in four numbers. Whatever parsers disagree about is none: user names,
back-slashes, brackets, percent signs, white space, letters beyond ASCII, a question mark where a path should begin."""


def host_of(url: str) -> str | None:
    """In lower case, without a dot at its end and without the port; None where it cannot be told."""
    found = _URL.match(url)
    return found[1].lower() if found and url[found.end() : found.end() + 1] in ("", "/") else None


def is_among(host: str | None, allowed: Iterable[str]) -> bool:
    """Whether a host is one of those allowed: the same name, or under the one that follows `*.`."""
    if host is None:
        return False
    for pattern in allowed:
        name = pattern.lower().rstrip(".")
        if host == name or (name.startswith("*.") and host.endswith(name[1:])):
            return True
    return False
