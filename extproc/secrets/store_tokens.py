"""The tokens of stores before anything keeps them fresh: for commands, and for the first look at the database."""

import os
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

from extproc.config.schema import Gateway

from . import sds, source_of
from .named import tokens_of
from .source import Secret, SecretError

_MARGIN_S = 60.0


def fetch(gateway: Gateway, environ: Mapping[str, str]) -> Iterator[str]:
    """Have a token for each store that wants one: that which a running gateway keeps here, or a new one.

    Gives what went wrong; whoever then opens the store is told by the store.
    """
    for named in tokens_of(gateway):
        if named.token_file is None or _is_good(named.token_file):
            continue
        try:
            put(named.token_file, source_of(named.credential, environ).fetch())
        except SecretError as error:
            yield f"{named.owner}: no token: {error}"
        except OSError as error:
            yield f"{named.owner}: the token cannot be written to {named.token_file} ({error.strerror})"


def put(file: Path, secret: Secret | None) -> None:
    """A token in its file, whose time of change is the end of the token. Raises OSError.

    None: there is no newer one, so that what an earlier process left there serves on to its end.
    """
    if secret is None and _is_good(file):
        return
    file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    sds.replace(file, secret.value if secret else "")
    if secret is not None and secret.expires_at is not None:
        os.utime(file, (secret.expires_at, secret.expires_at))


def _is_good(file: Path) -> bool:
    try:
        found = file.stat()
    except OSError:
        return False
    return found.st_size > 0 and found.st_mtime > time.time() + _MARGIN_S
