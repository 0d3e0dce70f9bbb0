"""Passwords of stores that change while they are in use: each stands in a file, and the store's URL names the file.

So whoever opens a store by its URL reads the password then, and may look later whether there is a newer one.
"""

from pathlib import Path
from urllib.parse import quote, unquote

_PARAMETER = "password_file="


def named(url: str, file: Path) -> str:
    """The URL with the file in it; in place of another, if it names one."""
    plain, _ = taken(url)
    return f"{plain}{'&' if '?' in plain else '?'}{_PARAMETER}{quote(str(file))}"


def taken(url: str) -> tuple[str, Path | None]:
    """The URL as its client reads it, and the file that it named."""
    base, _, query = url.partition("?")
    pairs = query.split("&")
    files = [pair for pair in pairs if pair.startswith(_PARAMETER)]
    if not files:
        return url, None
    others = "&".join(pair for pair in pairs if pair not in files)
    return f"{base}?{others}" if others else base, Path(unquote(files[-1].removeprefix(_PARAMETER)))


def read(file: Path) -> str:
    """The password. Raises OSError where there is none."""
    password = file.read_bytes().decode("utf-8", "replace").rstrip("\r\n")
    if not password:
        raise FileNotFoundError(2, "there is no password yet", str(file))
    return password
