"""Secrets in files."""

from dataclasses import dataclass
from pathlib import Path

from .source import Secret, SecretError, usable


@dataclass(frozen=True, slots=True)
class FileSource:
    """The content of a file, without the line break at its end."""

    path: Path

    def check(self) -> None:
        self.fetch()

    def fetch(self) -> Secret:
        try:
            value = self.path.read_text(encoding="latin-1").rstrip("\r\n")  # as Envoy does
        except OSError as error:
            raise SecretError(f"the file {self.path} cannot be read ({error.strerror})") from None
        return Secret(usable(value, f"the file {self.path}"))
