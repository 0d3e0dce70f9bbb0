"""As whom a connection to Redis signs in, where the URL names a file with the password."""

from pathlib import Path
from urllib.parse import unquote, urlsplit

from redis.credentials import CredentialProvider

from extproc import password_files

LOOK_S = 5.0
"""Between two looks for a newer password. A token is renewed many minutes before its end, at which the server hangs up
on whoever has told it nothing newer."""


class Login(CredentialProvider):
    """A user, and the password that the file has when it is asked for."""

    def __init__(self, user: str, file: Path) -> None:
        self._user = user
        self._file = file
        self._given: str | None = None

    def get_credentials(self) -> tuple[str] | tuple[str, str]:
        """Raises OSError where there is no password."""
        self._given = password = password_files.read(self._file)
        return (self._user, password) if self._user else (password,)

    async def get_credentials_async(self) -> tuple[str] | tuple[str, str]:
        return self.get_credentials()

    def newer(self) -> tuple[str] | tuple[str, str] | None:
        """What to sign in with now, where that is not what was given last; a file without a password is not newer."""
        before = self._given
        try:
            given = self.get_credentials()
        except OSError:
            return None
        return None if self._given == before else given

    def forget(self) -> None:
        """What was given last was not taken: it is newer again."""
        self._given = None


def login_of(url: str) -> tuple[str, Login | None]:
    """The URL as redis-py reads it, and the login where its password stands in a file."""
    plain, file = password_files.taken(url)
    if file is None:
        return url, None
    base, _, query = plain.partition("?")
    user = urlsplit(base).username or ""
    rest = base.replace(f"//{urlsplit(base).netloc.rpartition('@')[0]}@", "//", 1)  # it takes either
    return f"{rest}?{query}" if query else rest, Login(unquote(user), file)
